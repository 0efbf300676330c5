"""Equations of state in several unknowns -> numbers: damped Newton, and a zero followed along a parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.solve import DOMAINS, EPSILON, Vector


@dataclass(frozen=True)
class SystemRoot:
    """A zero of several functions of as many unknowns.

    ``residual`` is max |F|; ``error`` the last Newton step, relative to max(1, |x|) or to a positive x: the
    distance to the zero as far as F is linear; ``determinant`` that of the Jacobian in these coordinates.
    """

    values: Vector
    residual: float
    error: float
    iterations: int
    determinant: float


@dataclass(frozen=True)
class Path:
    """Zeros along a parameter; ``fold`` is where the path turns back, None if it reached the end."""

    parameters: tuple[float, ...]
    roots: tuple[SystemRoot, ...]
    fold: float | None = None

    @property
    def values(self) -> Vector:
        return np.array([root.values for root in self.roots])


def newton_system(residual: Callable[[Vector], ArrayLike], start: ArrayLike, *,
                  jacobian: Callable[[Vector], ArrayLike] | None = None,
                  domains: Sequence[str] | None = None, tolerance: float = 1e-12,
                  max_iterations: int = 60) -> SystemRoot:
    """A zero of ``residual`` near ``start``, by damped Newton.

    The damping makes the step that the *old* Jacobian would take next shrink (Deuflhard's natural
    monotonicity test), which does not depend on how the equations are scaled.

    Parameters
    ----------
    residual
        x (n,) -> F (n,).
    jacobian
        x -> dF_i/dx_j (n, n); central differences if None.
    domains
        "real" or "positive" for each unknown; a positive one is solved for in its logarithm.
    tolerance
        On the Newton step, relative to max(1, |x|).

    Raises
    ------
    BadInput
        A start outside its domain, or of another length than F.
    NotConverged
        A singular Jacobian, or no step that helps.
    """
    x = np.atleast_1d(np.asarray(start, dtype=float))
    positive = np.array([domain == "positive" for domain in domains or ["real"] * len(x)])
    if domains is not None and (len(domains) != len(x) or not set(domains) <= set(DOMAINS)):
        raise BadInput("domains", domains, f"one of {', '.join(DOMAINS)} for each of {len(x)} unknowns")
    if not np.isfinite(x).all() or (x[positive] <= 0).any():
        raise BadInput("start", start, "finite numbers, positive where the domain says so")

    def values(z: Vector) -> Vector:
        return np.where(positive, np.exp(np.where(positive, z, 0.0)), z)

    def equations(z: Vector) -> Vector:
        return np.atleast_1d(np.asarray(residual(values(z)), dtype=float))

    def slopes(z: Vector) -> Vector:
        if jacobian is not None:
            x = values(z)
            return np.atleast_2d(np.asarray(jacobian(x), dtype=float)) * np.where(positive, x, 1.0)
        steps = EPSILON ** (1 / 3) * np.maximum(1.0, np.abs(z))
        return np.array([(equations(z + h) - equations(z - h)) / (2 * h.sum()) for h in np.diag(steps)]).T

    z = np.where(positive, np.log(np.where(positive, x, 1.0)), x)
    f = equations(z)
    if f.shape != z.shape:
        raise BadInput("start", f"{len(z)} unknowns", f"as many as equations, {f.size}")
    damping = 1.0
    for iteration in range(1, max_iterations + 1):
        worst = float(np.max(np.abs(f)))
        if not math.isfinite(worst):
            raise NotConverged(f"the equations are not finite at {values(z)}", worst)
        matrix = slopes(z)
        try:
            step = -np.linalg.solve(matrix, f)
        except np.linalg.LinAlgError:
            raise NotConverged(f"singular Jacobian at {values(z)}", worst) from None
        length = float(np.max(np.abs(step) / np.maximum(1.0, np.abs(z))))
        damping = min(1.0, 4 * damping)
        while True:
            trial = z + damping * step
            g = equations(trial)
            if np.isfinite(g).all():
                ahead = float(np.max(np.abs(np.linalg.solve(matrix, g)) / np.maximum(1.0, np.abs(z))))
                if length <= tolerance or ahead <= (1 - damping / 4) * length:
                    break
            damping /= 2
            if damping < 1e-4:
                if length <= 1e4 * tolerance:  # rounding, not divergence: no step can help any more
                    return SystemRoot(values(z), worst, length, iteration, float(np.linalg.det(matrix)))
                raise NotConverged(f"no Newton step helps at {values(z)}", worst)
        z, f = trial, g
        if length <= tolerance:
            worst = float(np.max(np.abs(f)))
            return SystemRoot(values(z), worst, length, iteration, float(np.linalg.det(matrix)))
    raise NotConverged(f"Newton's method has not settled after {max_iterations} steps", worst)


def homotopy(residual: Callable[[Vector, float], ArrayLike], start: ArrayLike, *, begin: float = 0.0,
             end: float = 1.0, jacobian: Callable[[Vector, float], ArrayLike] | None = None,
             domains: Sequence[str] | None = None, step: float = 0.1, min_step: float = 1e-7,
             tolerance: float = 1e-12, partial: bool = False) -> Path:
    """Follow a zero of ``residual(x, t)`` from t = ``begin`` to ``end`` in steps that adapt.

    A step is taken only if Newton's method, started on the secant, moves little and the sign of the
    Jacobian's determinant stays: so the path does not jump to another solution where its own turns back.
    There the steps shrink below ``min_step`` (relative to end - begin), and the fold is reported.

    Raises
    ------
    NotConverged
        No zero at ``begin``; or a fold, unless ``partial``, in which case the path up to it is returned.
    """
    span = end - begin
    if not math.isfinite(span) or span == 0:
        raise BadInput("begin, end", (begin, end), "two different finite numbers")
    log = np.array([domain == "positive" for domain in domains or ["real"] * np.size(start)])

    def coordinates(x: Vector) -> Vector:
        return np.where(log, np.log(np.where(log, x, 1.0)), x)

    def corrected(guess: ArrayLike, t: float, most: int) -> SystemRoot:
        slopes = None if jacobian is None else (lambda x: jacobian(x, t))
        return newton_system(lambda x: residual(x, t), guess, jacobian=slopes, domains=domains,
                             tolerance=tolerance, max_iterations=most)

    times, roots = [0.0], [corrected(start, begin, 60)]
    while times[-1] < 1.0:
        step = min(step, 1.0 - times[-1])
        t, z = times[-1] + step, coordinates(roots[-1].values)
        guess = z
        if len(roots) > 1:
            guess = z + (z - coordinates(roots[-2].values)) * step / (times[-1] - times[-2])
        try:
            root = corrected(np.where(log, np.exp(np.where(log, guess, 0.0)), guess), begin + t * span, 8)
            moved = np.abs(coordinates(root.values) - guess) / np.maximum(1.0, np.abs(z))
            good = bool(np.max(moved) <= 0.1) and root.determinant * roots[-1].determinant > 0
        except NotConverged:
            good = False
        if good:
            times.append(t)
            roots.append(root)
            step *= 2 if root.iterations <= 4 else 1
        elif (step := step / 2) < min_step:
            fold = begin + span * _fold(times, [r.determinant for r in roots])
            if not partial:
                raise NotConverged(f"the path ends at parameter = {begin + times[-1] * span:.6g}, in a fold or because "
                                   f"a solution runs away", roots[-1].residual)
            return Path(tuple(begin + t * span for t in times), tuple(roots), fold)
    return Path(tuple(begin + t * span for t in times), tuple(roots))


def _fold(times: Sequence[float], determinants: Sequence[float]) -> float:
    """The determinant vanishes as a square root: extrapolate its square from the last two points."""
    if len(times) < 2 or abs(determinants[-1]) >= abs(determinants[-2]):
        return times[-1]
    (t0, t1), (d0, d1) = times[-2:], (d**2 for d in determinants[-2:])
    return t1 + d1 * (t1 - t0) / (d0 - d1)
