"""The numerical checks of the rules that single out a site, against the action of several.

The best product law is checked on a *discrete* site, which takes a few random values: everything that the rule claims
holds for any measure, so that no quadrature stands between claim and check.  On all combinations of values of two
or three sites the functional F[q] = ⟨S⟩ + N Σ q ln q is summed from the action before the step; at the law e^{-s} it
must be stationary under random changes of q, equal -N ln Σ e^{-s}, and lie above -ln Z.

Of a cavity everything but the mean is exact: with the other sites held anywhere, and their form in place of its mean,
the actions before and after may differ by a constant only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import sympy as sp

from fieldtheory.errors import NotConverged
from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.fields import Entry, depends_on, open_spaces
from fieldtheory.symbolic.rules import Step

Array = np.ndarray
Values = dict[sp.Basic, Any]
Pushed = Mapping[str, tuple[sp.Expr, sp.Expr]]

POINTS = {1: 50, 2: 80, 3: 20}
"""How many values the discrete site takes, by the number of sites."""


def _far(first: Any, second: Any, scale: float = 1e-3) -> float:
    size = max(float(np.max(np.abs(first))), float(np.max(np.abs(second))), scale)
    return float(np.max(np.abs(np.asarray(first) - np.asarray(second))) / size)


def _axes(expr: sp.Expr) -> list[Any]:
    return sorted(open_spaces(expr), key=lambda space: space.name)


def _pairs(step: Step) -> list[tuple[Entry, Entry]]:
    """A field over the sites with its twin on one."""
    return [(f, next(g for g in step.added if g.name == f.name)) for f in step.removed  # type: ignore[attr-defined]
            if step.details["space"] in f.spaces]  # type: ignore[attr-defined]


def compare_decoupled(step: Step, pushed: Pushed, values: Values, sites: int,
                      rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """(quantity, error, tolerance) for some number of sites."""
    count = POINTS[sites]
    points = {twin: 0.7 * rng.standard_normal((*np.shape(values[twin]), count)) for _, twin in _pairs(step)}
    combinations = np.stack([g.ravel() for g in np.meshgrid(*[np.arange(count)] * sites, indexing="ij")])
    whole = dict(values)
    for f, twin in _pairs(step):
        axis = f.spaces.index(step.details["space"])
        whole[f] = np.stack([points[twin][..., k] for k in combinations], axis=axis)
    S = np.real(evaluate(step.before.expr, whole))
    parameters = dict(step.details["order_parameters"])
    if sites == 1:
        yield "S of one site", _far(S, np.real(evaluate(step.after.expr, {**values, **points}))), 1e-10
        return
    shapes = [np.shape(values[m]) for m in parameters]
    bodies = [np.asarray(evaluate(g, {**values, **points}, axes=m.spaces)) for m, g in parameters.items()]

    def at(x: Array) -> dict[sp.Basic, Array]:
        ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
        return {m: x[a:b].reshape(shape)
                for m, a, b, shape in zip(parameters, ends[:-1], ends[1:], shapes, strict=True)}

    def law(x: Array) -> tuple[Array, float]:
        logs = -np.real(evaluate(step.after.expr, {**values, **points, **at(x)}))
        total = float(scipy.special.logsumexp(logs))
        return np.exp(logs - total), total

    def mismatch(x: Array) -> Array:
        q, _ = law(x)
        return np.concatenate([np.ravel(body @ q) for body in bodies]) - x

    found = scipy.optimize.root(mismatch, np.zeros(sum(int(np.prod(shape)) for shape in shapes)), tol=1e-13)
    if np.max(np.abs(found.fun)) > 1e-9:
        raise NotConverged("no self-consistent law of the drawn site was found", float(np.max(np.abs(found.fun))))
    q, total = law(found.x)

    def joint(q: Array) -> Array:
        return np.prod(q[combinations], axis=0)

    def functional(q: Array) -> float:
        return float(joint(q) @ S + sites * np.sum(q * np.log(q)))

    free = functional(q)
    yield "F = -N ln z", _far(free, -sites * total), 1e-8
    log_partition = float(scipy.special.logsumexp(-S))
    yield "-ln Z below F", max(0.0, -log_partition - free), 1e-10
    slopes, bends = [], []
    for _ in range(3):
        h = rng.standard_normal(count)
        epsilon = 1e-4
        sides = []
        for sign in (1, -1):
            moved = q * np.exp(sign * epsilon * h)
            sides.append(functional(moved / moved.sum()))
        slopes.append((sides[0] - sides[1]) / (2 * epsilon))
        bends.append((sides[0] + sides[1] - 2 * free) / epsilon**2)
    yield "F stationary", float(np.max(np.abs(slopes)) / max(np.max(np.abs(bends)), 1e-3)), 1e-5
    at_law = {**values, **at(found.x)}
    for name, (old, new) in pushed.items():
        before = np.asarray(evaluate(old, whole, axes=_axes(old)))
        one = np.asarray(evaluate(new, {**at_law, **points}, axes=_axes(old)))
        moving = any(depends_on(new, f) for f in points)
        yield f"<{name}>", _far(before @ joint(q), one @ q if moving else one), 1e-8


def compare_cavity(step: Step, pushed: Pushed, values: Values, sites: int,
                   rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """The action for a few values of one site and of the shared field, the others held fixed."""
    count = 5
    details = step.details
    space, shared, j, V = (details[key] for key in ("space", "shared", "single", "basis"))
    others = {twin: rng.standard_normal((*np.shape(values[twin]), sites - 1)) for _, twin in _pairs(step)}
    points = {twin: rng.standard_normal((*np.shape(values[twin]), count)) for _, twin in _pairs(step)}
    whole, environment = dict(values), dict(values)
    for f, twin in _pairs(step):
        axis = f.spaces.index(space)  # type: ignore[union-attr]
        fixed = [np.broadcast_to(others[twin][..., k, None], np.shape(points[twin])) for k in range(sites - 1)]
        whole[f] = np.stack([points[twin], *fixed], axis=axis)

    def form(pairs: Any, rows: Any, columns: Any) -> Array:
        total = np.zeros(())
        for u, v in pairs:
            at = {**values, **others}
            left, right = (np.real(np.asarray(evaluate(e, at, axes=[s])).reshape(-1, max(sites - 1, 1)))
                           for e, s in ((u, rows), (v, columns)))
            total = total + left @ right.T / max(sites - 1, 1)
        return np.asarray(total)

    (sample,) = shared.spaces  # type: ignore[attr-defined]
    if sites > 1:
        C = form(details["kernel"], sample, sample)
    else:
        C = np.zeros(2 * np.shape(values[shared]))
    kappa, basis = np.linalg.eigh((C + C.T) / 2)
    environment |= {details["spectrum"]: np.maximum(kappa, 0.0), V: basis}
    for name, pairs in dict(details["projections"]).items():
        mean = form(pairs, name.spaces[0], sample) if sites > 1 else np.zeros(np.shape(values[name]))
        environment[name] = mean @ basis
    field = rng.standard_normal((*np.shape(values[shared]), count)) * (1j if shared.domain == "imaginary" else 1)  # type: ignore[attr-defined]
    whole[shared] = field
    environment |= {**points, j: basis.T @ field}
    difference = evaluate(step.before.expr, whole) - evaluate(step.after.expr, environment)
    scale = float(np.max(np.abs(evaluate(step.before.expr, whole))))
    yield "S, the others' form given", float(np.max(np.abs(difference - difference[0])) / scale), 1e-10
    for name, (old, new) in pushed.items():
        was = np.asarray(evaluate(old, whole, axes=_axes(old)))
        now = np.asarray(evaluate(new, environment, axes=_axes(old)))
        yield f"<{name}>", _far(was, now), 1e-9


__all__ = ["compare_cavity", "compare_decoupled"]
