"""The numerical check of a shared field put at its saddle, given which the sites are independent.

The sites are *discrete* here, a few random values each, as in :mod:`.sitelaw`: what the rule claims holds for any
measure.  Summed over all combinations of values of one or two sites, the action before the step leaves W(j), a function
of the shared field alone.  Its stationary point at real j is found by minimising -W; there the equation of state, the
value of W and its curvature must be those that the rule claims.  Averages over exp(-W/ħ), on a contour through that
point, must tend to the rule's observables, and ln Z to the saddle's with the determinant of its curvature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import sympy as sp

from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.fields import depends_on, open_spaces
from fieldtheory.symbolic.potential import potential
from fieldtheory.symbolic.rules import Step

Array = np.ndarray
Values = dict[sp.Basic, Any]
Pushed = Mapping[str, tuple[sp.Expr, sp.Expr]]

POINTS = {1: 12, 2: 6}
"""How many values a site takes, by the number of sites."""
LOOPS = (64, 128, 256)
"""1/ħ: whole numbers, so that exp(-W/ħ) has no branch."""


def _far(first: Any, second: Any, scale: float = 1e-2) -> float:
    size = max(float(np.max(np.abs(first))), float(np.max(np.abs(second))), scale)
    return float(np.max(np.abs(np.asarray(first) - np.asarray(second))) / size)


def _limit(values: list[Any]) -> Any:
    """At ħ = 0, from three values of ħ that halve."""
    first, second, third = (np.asarray(value) for value in values)
    return (8 * third - 6 * second + first) / 3


def compare_site_saddle(step: Step, pushed: Pushed, values: Values, sites: int,
                        rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """(quantity, error, tolerance) for one or two sites."""
    count, details = POINTS[sites], step.details
    space, shared = details["space"], details["shared"]
    ((t, body),) = dict(details["order_parameters"]).items()
    twins = [(f, next(g for g in step.added if g.name == f.name)) for f in step.removed  # type: ignore[attr-defined]
             if f != shared]
    points = {twin: 0.7 * rng.standard_normal((*np.shape(values[twin]), count)) for _, twin in twins}
    combinations = np.stack([g.ravel() for g in np.meshgrid(*[np.arange(count)] * sites, indexing="ij")])
    samples, each = int(np.shape(values[shared])[0]), combinations.shape[1]

    def whole(j: Array) -> Values:
        """All combinations of values of the sites, at every j of shape (samples, nodes): combinations vary fastest."""
        found = dict(values)
        for f, twin in twins:
            axis = f.spaces.index(space)
            one = np.stack([points[twin][..., k] for k in combinations], axis=axis)
            found[f] = np.tile(one, (*[1] * (one.ndim - 1), j.shape[1]))
        found[shared] = np.repeat(j, each, axis=1)
        return found

    def summed(j: Array, observables: Mapping[str, sp.Expr]) -> tuple[Array, dict[str, Array]]:
        """exp(-W + its largest real part) and averages at fixed j, weighted with it."""
        at = whole(j)
        logs = -np.asarray(evaluate(step.before.expr, at)).reshape(j.shape[1], each)
        W = -scipy.special.logsumexp(logs.astype(complex), axis=1)
        weights = np.exp(logs + W[:, None])
        found = {}
        for name, old in observables.items():
            value = np.asarray(evaluate(old, at, axes=_axes(old)))
            if not any(depends_on(old, f) for f in (shared, *(f for f, _ in twins))):
                value = np.broadcast_to(value[..., None], (*value.shape, weights.size))
            found[name] = (value.reshape(*value.shape[:-1], j.shape[1], each) * weights).sum(axis=-1)
        return W, found

    def height(x: Array) -> float:
        return float(-np.real(summed(x[:, None], {})[0][0]))

    found = scipy.optimize.minimize(height, np.zeros(samples), method="BFGS", options={"gtol": 1e-9})
    h, unit = 1e-3, np.eye(samples)
    centre = found.x
    at = {**values, **points, t: centre}
    logs = -np.real(evaluate(step.after.expr, at))
    law = np.exp(logs - scipy.special.logsumexp(logs))
    yield f"equation of {t.name}", _far(np.asarray(evaluate(body, at, axes=t.spaces)) @ law, centre), 1e-5
    N = values[space.size]  # type: ignore[attr-defined]
    yield "S at the saddle", _far(-N * scipy.special.logsumexp(logs), -height(centre), 1.0), 1e-9
    parts = potential(step.after.expr, tuple(points), t, space.size)  # type: ignore[arg-type, attr-defined]
    stiffness = float(np.real(evaluate(parts.stiffness, at)))
    pull = np.asarray(evaluate(parts.pull, at, axes=t.spaces))
    mean = pull @ law
    curvature = stiffness * np.eye(samples) + N * ((pull * law) @ pull.T - np.outer(mean, mean))
    for u, v in parts.bend:
        left, right = (np.asarray(evaluate(part, at, axes=t.spaces)) for part in (u, v))
        curvature = curvature + N * (np.broadcast_to(left, (samples, count)) * law) @ np.broadcast_to(
            right, (samples, count)).T
    numerical = np.array([[sum(a * b * height(centre + h * (a * unit[k] + b * unit[l]))
                               for a in (1, -1) for b in (1, -1)) / (4 * h**2)
                           for l in range(samples)] for k in range(samples)])
    yield "curvature", _far(curvature, numerical), 1e-4
    if parts.convex:
        lowest = float(np.linalg.eigvalsh(curvature).min() / stiffness)
        yield "convexity", max(0.0, 1 - lowest), 1e-10
    root = np.linalg.inv(np.linalg.cholesky(numerical)).T
    ticks = np.linspace(-6, 6, {1: 121, 2: 49}[samples])
    grid = np.stack([g.ravel() for g in np.meshgrid(*[ticks] * samples, indexing="ij")])
    averages: dict[str, list[Array]] = {name: [] for name in pushed}
    partition = []
    for inverse in LOOPS:
        j = centre[:, None] + 1j * (root @ grid) / np.sqrt(inverse)
        W, seen = summed(j, {name: old for name, (old, _) in pushed.items()})
        weights = np.exp(-(W + height(centre)) * inverse)
        total = weights.sum()
        for name, value in seen.items():
            averages[name].append(value @ weights / total)
        volume = abs(np.linalg.det(root)) * ((ticks[1] - ticks[0]) / (2 * np.pi * np.sqrt(inverse)))**samples
        partition.append(np.real(np.log(total * volume))
                         + np.linalg.slogdet(2 * np.pi * curvature * inverse)[1] / 2)
    yield "ln Z, next coefficient", float(abs(_limit(partition))), 1e-4
    for name, (old, new) in pushed.items():
        one = np.asarray(evaluate(new, at, axes=_axes(old)))
        moving = any(depends_on(new, f) for f in points)
        yield f"<{name}>", _far(_limit(averages[name]), one @ law if moving else one), 2e-4


def _axes(expr: sp.Expr) -> list[Any]:
    return sorted(open_spaces(expr), key=lambda space: space.name)


__all__ = ["compare_site_saddle"]
