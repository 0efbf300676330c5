r"""All branches of the population theory: one curve of solutions (m…, ln λ…, ln s), through its folds.

Where precisions adapt to the data, weights on relevant inputs become cheap once they are used, and several solutions
exist at one noise: a lazy one, a learned one, and an unstable one between.  They lie on one curve, along which the
pseudo-arclength predictor and corrector go from large noise, where nothing is learned, to small noise.

- *Stable*: with the order parameters at their stationary values (the maximum of F, which is concave in them: the law of
  one site is then the best one at fixed λ), F has a minimum in the precisions.  Stability changes at the folds, dσ = 0
  along the curve: the *spinodals*.
- *Transition*: the noise at which two stable solutions have the same F, the larger bound of ln Z changing sides.
- *Hysteresis*: a solution followed down in noise stays until its spinodal, and so it does on the way up.

Errors are those of the quadrature: every random shift of the nodes moves a solution by -H⁻¹∇F, a spinodal by
-v·∇F/v·∂_σ∇F with v the null vector of H, and a transition by -ΔF/Δ∂_σF.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, sqrt
from typing import Any

import numpy as np
import scipy.optimize
import xarray as xr
from scipy.interpolate import CubicHermiteSpline

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.population.base import standard_error
from fieldtheory.population.freeenergy import Landscape, Point

Array = np.ndarray

RUNAWAY = 1e3
"""A precision that exceeds its prior mean by this factor has run away: the input is switched off."""
WEIGHT = 3.0
"""What a change of m counts along the curve, beside changes of ln λ and ln s."""
LONGEST, SHORTEST, FAR = 0.4, 1e-4, 2.0
"""Steps along the curve, and how far in ln λ Newton's method may lead from where it started."""
KINKS = 1e-3
"""Steps that do not get smaller any more are as small as the kinks of an activation (on single corners) allow."""


@dataclass(frozen=True)
class Spinodal:
    """A fold of the curve: the noise at which a stable and an unstable solution meet, its error, and where.

    ``m`` is the order parameter of the target's largest mode.
    """

    noise: float
    error: float
    m: float
    precisions: dict[str, float]


@dataclass(frozen=True)
class Transition:
    """The noise at which two stable solutions have the same free energy, its error, and ``m`` of both."""

    noise: float
    error: float
    m: tuple[float, float]
    free_energy: float


@dataclass(frozen=True)
class Root:
    """A solution, with the point of the landscape there."""

    x: Array
    noise: float
    point: Point

    @property
    def errors(self) -> Array:
        """Standard errors of x from the random shifts."""
        moves = np.linalg.solve(self.point.curvature, self.point.slopes.T)
        return np.asarray(standard_error(moves, axis=1))

    @property
    def stable(self) -> bool:
        return self.point.stable

    @property
    def residual(self) -> float:
        """The largest |m_n - ⟨N a J_n⟩|."""
        return float(np.abs(self.x[:self.point.orders] - self.point.right_side).max())


class Follower:
    """Newton steps and continuation on a landscape."""

    def __init__(self, landscape: Landscape) -> None:
        self.landscape = landscape
        self.orders = landscape.orders
        self.size = self.orders + len(landscape.moving)

    def check(self, x: Array) -> None:
        """Refuse precisions that have run away, by the name of what sets them."""
        factors = np.exp(x[self.orders:]) / self.landscape.prior
        for name, factor in zip(self.landscape.moving, factors, strict=True):
            if factor > RUNAWAY:
                values = self.landscape.values
                bound = 1 + values["N"] / (2 * values["alpha_0"])
                raise BadInput("prior", f"ARD(alpha0={values['alpha_0']:g}, beta0={values['beta_0']:g})",
                               f"a larger alpha0 (and beta0): the precision of the {name} inputs runs to {factor:.3g} "
                               f"times its prior mean, where it may grow by 1 + N/2 alpha0 = {bound:.3g}: these inputs "
                               "are switched off by the prior, not by the data")

    def newton(self, x: Array, noise: float, *, tolerance: float = 1e-9, steps: int = 30) -> Root | None:
        """The solution near x at ln s = noise; None where there is none."""
        last = np.inf
        for _ in range(steps):
            point = self.landscape.at(x, noise)
            try:
                move = -np.linalg.solve(point.curvature, point.slope)
            except np.linalg.LinAlgError:
                return None
            size = float(np.linalg.norm(move))
            if not np.isfinite(size) or (size > 1.5 and size > 2 * last):
                return None
            x = x + move * min(1.0, 0.7 / max(size, 1e-300))
            if size < tolerance or (size < KINKS and size > last / 2):
                return Root(x, noise, self.landscape.at(x, noise))
            last = size
        return None

    def settle(self, x: Array, noise: float, rounds: int = 200) -> Root:
        """From afar: the best m… at fixed precisions and plain steps of those, until Newton's method takes over.

        Raises
        ------
        NotConverged
            If it does not.
        """
        for round_ in range(rounds):
            x = self._best(x, noise)
            point = self.landscape.at(x, noise)
            plain = np.r_[np.zeros(self.orders), self.landscape.updated(point) - x[self.orders:]]
            x = x + np.clip(plain, -0.5, 0.5)
            self.check(x)
            if np.abs(plain).max() < 0.02 or round_ % 20 == 19:
                found = self.newton(x, noise)
                if found is not None and found.stable and np.abs((found.x - x)[self.orders:]).max(initial=0.0) < FAR:
                    return found
        raise NotConverged("no solution was found from this start", float(np.abs(point.slope).max()))

    def _best(self, x: Array, noise: float) -> Array:
        """The order parameters at fixed precisions, F being concave in them.

        Of their equations all but the law of one site is linear: each step solves them at the present law.
        """
        n = self.orders
        for _ in range(30):
            point = self.landscape.at(x, noise)
            move = -np.linalg.solve(point.own, point.slope[:n])
            m = x[:n] + move
            x = np.r_[x[:n] + 0.7 * move, x[n:]]
            if np.abs(move).max() < 1e-4 * max(np.abs(m).max(), 1e-3):
                break
        return x

    # ------------------------------------------------------------------------------------------ continuation

    def tangent(self, point: Point, before: Array) -> Array:
        """The direction of the curve, on the side of ``before``; unit length with m weighted."""
        system = np.vstack([np.hstack([point.curvature, point.mixed[:, None]]), before * self._metric])
        t = np.linalg.solve(system, np.r_[np.zeros(self.size), 1.0])
        return t / sqrt(float(t @ (self._metric * t)))

    @property
    def _metric(self) -> Array:
        return np.r_[np.full(self.orders, WEIGHT**2), np.ones(self.size + 1 - self.orders)]

    def correct(self, guess: Array, tangent: Array, tolerance: float = 1e-6) -> Root | None:
        """The point of the curve in the plane through the guess across the tangent; F to second order."""
        z, last = guess, np.inf
        for _ in range(12):
            point = self.landscape.at(z[:-1], z[-1])
            system = np.vstack([np.hstack([point.curvature, point.mixed[:, None]]), tangent * self._metric])
            try:
                move = np.linalg.solve(system, -np.r_[point.slope, tangent @ (self._metric * (z - guess))])
            except np.linalg.LinAlgError:
                return None
            size = float(np.linalg.norm(move))
            if not size < 2 * min(last, 0.5):
                return Root(z[:-1], float(z[-1]), point) if last < KINKS else None
            z = z + move
            if size < tolerance or (size < KINKS and size > last / 2):
                return Root(z[:-1], float(z[-1]), point)
            last = size
        return None

    def begin(self, noise: float) -> Root:
        """The lazy solution at a noise much larger than some noise."""
        for further in (3.0, 6.0, 12.0):
            root = self.newton(self.landscape.lazy, noise + further)
            if root is not None:
                return root
        raise NotConverged("the lazy solution at large noise was not found", float("nan"))

    def lazy(self, noise: float) -> Root:
        """The solution at some noise that is reached from large noise, on the curve."""
        roots, folds = self.curve(self.begin(noise), noise, lazy=0.0)
        for a, b in pairwise([0, *folds, len(roots)]):
            found = self.on_section(roots[a:b], noise)
            if found is not None and found.stable:
                return found
        raise NotConverged("no stable solution was found on the curve from large noise", float("nan"))

    def curve(self, start: Root, low: float, *, lazy: float = 0.1, farthest: float = 7.0,
              most: int = 600) -> tuple[list[Root], list[int]]:
        """Solutions from a start at large noise to ln s = low, and the indices after which the curve has folded.

        A curve that is still lazy at the low end (less than the share ``lazy`` is learned, no fold) is followed
        further, by ``farthest`` in ln s.
        """
        roots: list[Root] = [start]
        folds: list[int] = []
        tangent = self.tangent(start.point, np.r_[np.zeros(self.size), -1.0])
        step = 0.2
        while len(roots) < most:
            last = roots[-1]
            z = np.r_[last.x, last.noise]
            if last.noise < low and tangent[-1] < 0 and (
                    folds or self.landscape.learned(last.x) > lazy or last.noise < low - farthest):
                break
            if last.noise > start.noise + 1.0:
                break
            root = self.correct(z + step * tangent, tangent)
            if root is not None:
                self.check(root.x)
                ahead = self.tangent(root.point, tangent)
                cosine = float(ahead @ (self._metric * tangent))
            if root is None or (cosine < 0.9 and step > 100 * SHORTEST):
                step /= 2
                if step < SHORTEST:
                    raise NotConverged("the curve of solutions is lost (give more nodes)", step)
                continue
            if ahead[-1] * tangent[-1] < 0:
                folds.append(len(roots))
            roots.append(root)
            tangent = ahead
            step = min(LONGEST, step * (1.5 if cosine > 0.98 else 1.0))
        return roots, folds

    def _between(self, before: Root, after: Root) -> tuple[Callable[[float], Root], Array, float]:
        """The curve between two of its points by the length along their chord, the chord, and its length."""
        first, second = (np.r_[r.x, r.noise] for r in (before, after))
        length = max(sqrt(float((second - first) @ (self._metric * (second - first)))), 1e-12)
        chord = (second - first) / length

        def on(h: float) -> Root:
            root = self.correct(first + h * chord, chord, 1e-8)
            if root is None:
                raise NotConverged("the curve of solutions is lost between two of its points (give more nodes)", length)
            return root

        return on, chord, length

    def fold(self, before: Root, after: Root) -> Root:
        """Where ln s is extremal along the curve between two of its points."""
        on, chord, length = self._between(before, after)

        def turning(h: float) -> float:
            return float(self.tangent(on(h).point, chord)[-1])

        if turning(0.0) * turning(length) > 0:
            raise NotConverged("a fold of the curve is not resolved (give more nodes)", length)
        rough = float(scipy.optimize.brentq(turning, 0.0, length, xtol=0.02 * length))
        width = min(0.15, length / 2)
        offsets = width * np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
        heights = [on(rough + h).noise for h in offsets]
        polynomial = np.polynomial.Polynomial.fit(offsets, heights, 4)
        turns = [float(h.real) for h in polynomial.deriv().roots().astype(complex)
                 if abs(h.imag) < 1e-9 and abs(h.real) < 2 * width]
        return on(rough + min(turns, key=abs)) if turns else on(rough)

    def spinodal(self, root: Root) -> Spinodal:
        """The noise at a fold and its error."""
        values, vectors = np.linalg.eigh((root.point.curvature + root.point.curvature.T) / 2)
        null = vectors[:, int(np.argmin(np.abs(values / np.abs(np.diag(root.point.curvature)).clip(1e-9))))]
        shifts = -(root.point.slopes @ null) / float(root.point.mixed @ null)
        names = self.landscape.moving
        return Spinodal(exp(root.noise), exp(root.noise) * float(standard_error(shifts)),
                        float(root.x[self.landscape.leading]),
                        dict(zip(names, np.exp(root.x[self.orders:]).tolist(), strict=True)))

    def on_section(self, section: Sequence[Root], noise: float) -> Root | None:
        """The solution of a section of the curve at some noise: between its points, then Newton's method."""
        sigma = np.array([r.noise for r in section])
        inside = np.flatnonzero((sigma[:-1] - noise) * (sigma[1:] - noise) <= 0)
        if not len(inside):
            return None
        k = int(inside[0])
        a, b = section[k], section[k + 1]
        if a.noise == b.noise:
            return a
        f = (noise - a.noise) / (b.noise - a.noise)
        root = self.newton((1 - f) * a.x + f * b.x, noise)
        if root is None or np.abs(root.x - a.x).max() > 1.5 * np.abs(b.x - a.x).max() + 1e-3:  # beside a fold
            on, _, length = self._between(a, b)
            try:
                return on(scipy.optimize.brentq(lambda h: on(h).noise - noise, 0.0, length, xtol=1e-8))
            except NotConverged:
                return None
        return root

    def transition(self, sections: Sequence[Sequence[Root]]) -> Transition | None:
        """Where the lowest free energy passes from one stable section to another."""
        curves = []
        for section in sections:
            if len(section) < 2 or not _mostly_stable(section):
                continue
            ordered = sorted(section, key=lambda r: r.noise)
            sigma = np.array([r.noise for r in ordered])
            keep = np.r_[True, np.diff(sigma) > 1e-9]
            spline = CubicHermiteSpline(sigma[keep], np.array([r.point.value for r in ordered])[keep],
                                        np.array([r.point.noise_slope for r in ordered])[keep])
            curves.append((section, spline, sigma[keep]))
        for k, (first, one, s1) in enumerate(curves):
            for second, other, s2 in curves[k + 1:]:
                low, high = max(s1[0], s2[0]), min(s1[-1], s2[-1])
                if low >= high or (one(low) - other(low)) * (one(high) - other(high)) > 0:
                    continue
                noise = float(scipy.optimize.brentq(lambda s, a=one, b=other: a(s) - b(s), low, high))
                return self._equal(first, second, noise)
        return None

    def _equal(self, first: Sequence[Root], second: Sequence[Root], noise: float) -> Transition | None:
        """Where two sections have the same F, near some noise, by Newton's method: dF/dσ = ∂F/∂σ on each."""
        leading = self.landscape.leading
        for _ in range(8):
            a, b = self.on_section(first, noise), self.on_section(second, noise)
            if a is None or b is None:
                return None
            slope = a.point.noise_slope - b.point.noise_slope
            if np.abs(a.x - b.x).max() < KINKS or slope == 0:
                return None  # one solution, beside a fold of both
            move = -(a.point.value - b.point.value) / slope
            if abs(move) < 1e-8:
                shifts = (a.point.values - b.point.values) / slope
                return Transition(exp(noise), exp(noise) * float(standard_error(shifts)),
                                  (float(a.x[leading]), float(b.x[leading])), a.point.value)
            noise += move
        return None


def _mostly_stable(section: Sequence[Root]) -> bool:
    """Stability cannot change between folds, where rounding and quadrature may say so."""
    return 2 * sum(root.stable for root in section) > len(section)


@dataclass(frozen=True)
class Branches:
    """The solutions of a population theory at all noises.

    ``dataset`` has dims (branch, noise): ``m``, that of the target's largest mode, ``order_parameters`` (also over
    ``mode``), ``precision`` (also over ``inputs``), their errors ``…_mcse``, ``free_energy``, ``residual``, and
    ``left_out``, what modes that are not kept hold, as of the theory's solutions (``status`` says where it matters);
    ``stable`` over branches; over noise ``m_down`` and ``m_up``, followed from large and from small noise with a jump
    where a branch ends.
    ``curve`` are the points followed, in order.  ``spinodals`` are sorted by noise; ``transition`` is None where one
    solution is all there is.
    """

    dataset: xr.Dataset
    curve: xr.Dataset
    spinodals: tuple[Spinodal, ...]
    transition: Transition | None
    status: str = "converged"
    sections: tuple[tuple[Root, ...], ...] = field(default=(), repr=False)
    landscape: Landscape | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Where solutions begin and end, and which of them are stable; the numbers are in ``dataset``."""
        noise, stable = self.dataset.noise.values, self.dataset.stable.values
        lines = [f"{len(stable)} branch{'es' * (len(stable) > 1)} at {len(noise)} noises, s/P = {noise.min():.4g} to "
                 f"{noise.max():.4g}, {', '.join('stable' if s else 'unstable' for s in stable)}"]
        lines += [f"spinodal at s/P = {one.noise:.4g} ± {one.error:.1g}, m = {one.m:.4g}" for one in self.spinodals]
        if self.transition is not None:
            one = self.transition
            lines.append(f"equal free energy at s/P = {one.noise:.4g} ± {one.error:.1g}, m = "
                         + " and ".join(f"{m:.4g}" for m in one.m))
        return "Branches\n  " + "\n  ".join([*lines, f"status: {self.status}"])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


def branches(landscape: Landscape, noises: Sequence[float], few: float,
             along: type[Follower] = Follower) -> Branches:
    """All branches between the least and the largest of some noises, and the solutions at each of them."""
    follower = along(landscape)
    points = sorted({float(x) for x in noises})
    if len(points) < 2 or not all(0 < x < np.inf for x in points):
        raise BadInput("noise", noises, "at least two different positive numbers")
    grid = np.log(points)
    roots, folds = follower.curve(follower.begin(grid[-1]), grid[0])
    ends = [0, *folds, len(roots)]
    status = []
    turns = []
    for k in folds:
        try:
            turns.append(follower.fold(roots[k - 1], roots[k]))
        except NotConverged as error:
            status.append(f"not converged: {error}")
            turns.append(roots[k - 1])
    spinodals = [follower.spinodal(root) for root in turns]
    joined = [(), *((root,) for root in turns), ()]
    sections = [(*joined[k], *roots[a:b], *joined[k + 1]) for k, (a, b) in enumerate(pairwise(ends))]
    transition = follower.transition(sections)
    names, orders, leading = landscape.moving, landscape.orders, landscape.leading
    shape = (len(sections), len(grid))
    found: dict[tuple[int, int], Root] = {}
    lost: list[float] = []
    for k, section in enumerate(sections):
        for j, noise in enumerate(grid):
            root = follower.on_section(section, float(noise))
            if root is not None:
                found[k, j] = root
            elif min(r.noise for r in section) <= noise <= max(r.noise for r in section):
                lost.append(float(np.exp(noise)))
    table = {name: np.full(shape, np.nan) for name in ("free_energy", "nodes", "residual", "left_out")}
    values, errors = (np.full((*shape, orders + len(names)), np.nan) for _ in range(2))
    truncated: dict[tuple[int, int], list[str]] = {}
    for at, root in found.items():
        values[at], errors[at] = root.x, root.errors
        table["free_energy"][at], table["nodes"][at] = root.point.value, root.point.nodes
        table["residual"][at] = root.residual
        table["left_out"][at], truncated[at] = landscape.left_out(root.x, root.noise)
    table = {"m": values[..., leading], "m_mcse": errors[..., leading], **table}
    precision = np.exp(values[..., orders:])
    stable = np.array([_mostly_stable(section) for section in sections])
    down, up = _hysteresis(table["m"], stable)
    data: dict[str, Any] = {name: (("branch", "noise"), values) for name, values in table.items()}
    data |= {"order_parameters": (("branch", "noise", "mode"), values[..., :orders]),
             "order_parameters_mcse": (("branch", "noise", "mode"), errors[..., :orders]),
             "precision": (("branch", "noise", "inputs"), precision),
             "precision_mcse": (("branch", "noise", "inputs"), precision * errors[..., orders:]),
             "stable": ("branch", stable), "m_down": ("noise", down), "m_up": ("noise", up)}
    effective = min(root.point.nodes for root in (*roots, *found.values()))
    if effective < few:
        status.append(f"not converged: {effective:.0f} effective nodes (give more nodes)")
    cut = [at for at, said in truncated.items() if said]
    if cut:
        worst = max(cut, key=lambda at: table["left_out"][at])
        status.append(f"{'; '.join(truncated[worst])} (at noise {points[worst[1]]:.4g}; said of {len(cut)} of "
                      f"{len(found)} solutions)")
    dataset = xr.Dataset(data, coords={"noise": np.exp(grid), "branch": np.arange(len(sections)),
                                       "inputs": list(names), "mode": landscape.modes})
    line = [root for section in sections for root in section]
    columns = {"noise": [exp(r.noise) for r in line], "m": [r.x[leading] for r in line],
             "free_energy": [r.point.value for r in line], "noise_slope": [r.point.noise_slope for r in line],
             "branch": np.repeat(np.arange(len(sections)), [len(section) for section in sections]),
             "nodes": [r.point.nodes for r in line]}
    curve = xr.Dataset({name: ("point", np.asarray(values)) for name, values in columns.items()}
                       | {f"precision_{name}": ("point", np.exp([r.x[orders + k] for r in line]))
                          for k, name in enumerate(names)})
    if lost:
        status.append(f"not converged: no solution was found at noise {', '.join(f'{x:.4g}' for x in lost)}")
    for first, second in pairwise(spinodals):
        if abs(first.noise - second.noise) < 2 * max(first.error, second.error):
            status.append(f"not converged: the folds at noise {first.noise:.4g} and {second.noise:.4g} are within "
                          "their errors (give more nodes)")
    text = "; ".join(status) or "converged"
    for result in (dataset, curve):
        result.attrs["status"] = text
    return Branches(dataset, curve, tuple(sorted(spinodals, key=lambda s: s.noise)), transition, text, tuple(sections),
                    landscape)


def _hysteresis(m: Array, stable: Array) -> tuple[Array, Array]:
    """m followed to smaller and to larger noise along stable branches; where one ends, the next one that goes on."""
    there = ~np.isnan(m) & stable[:, None]
    paths = []
    for order in (range(m.shape[1] - 1, -1, -1), range(m.shape[1])):
        path, now = np.full(m.shape[1], np.nan), None
        for j in order:
            if now is None or not there[now, j]:
                options = np.flatnonzero(there[:, j])
                if now is None:  # the end of the range: the branch of that end of the curve
                    options = options[:1] if order.step < 0 else options[-1:]
                now = int(options[0]) if len(options) else None
            if now is not None:
                path[j] = m[now, j]
        paths.append(path)
    return paths[0], paths[1]


__all__ = ["Branches", "Follower", "Root", "Spinodal", "Transition", "branches"]
