"""All roots of an equation of state in one unknown along a parameter, linked into branches that begin and end."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from fieldtheory.errors import BadInput
from fieldtheory.solve import Root, Solution, as_solutions, find_roots

AlongPath = Callable[[float, float], Sequence[float]]
"""(x, parameter) -> (value, derivative by x, ...)."""


@dataclass(frozen=True)
class Fold:
    """Where branches begin or end: where two meet (``kind`` "fold"), or one crosses a bound ("edge")."""

    parameter: float
    value: float
    kind: str


@dataclass(frozen=True)
class Branch:
    """One continuous family of solutions: ``solutions[k]`` belongs to ``parameters[k]``.

    ``birth`` and ``death`` are None where the branch reaches the first or the last parameter value.
    """

    unknown: str
    parameters: tuple[float, ...]
    solutions: tuple[Solution, ...]
    birth: Fold | None = None
    death: Fold | None = None

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(solution.values[self.unknown] for solution in self.solutions)


@dataclass(frozen=True)
class _Link:
    """How the roots at one parameter value continue at another."""

    pairs: Mapping[int, int]
    deaths: Mapping[int, Fold] = field(default_factory=dict)
    births: Mapping[int, Fold] = field(default_factory=dict)

    def then(self, other: _Link) -> _Link:
        joined = {i: other.pairs[j] for i, j in self.pairs.items() if j in other.pairs}
        deaths = {i: other.deaths[j] for i, j in self.pairs.items() if j in other.deaths}
        births = {other.pairs[j]: fold for j, fold in self.births.items() if j in other.pairs}
        return _Link(joined, {**self.deaths, **deaths}, {**births, **other.births})


def as_table(branches: Sequence[Branch], unknown: str, along: str, parameters: np.ndarray) -> xr.Dataset:
    """Branches side by side: the unknown, ``action``, ``curvature``, ``weight`` and ``stability`` (``along``, branch).

    NaN where a branch is absent; the stability is 1 (stable), 0 (marginal) or -1.
    """
    table = {key: np.full((len(parameters), len(branches)), np.nan)
             for key in (unknown, "action", "curvature", "weight", "stability")}
    signs = {"stable": 1.0, "unstable": -1.0, "marginal": 0.0}
    for b, branch in enumerate(branches):
        for parameter, solution in zip(branch.parameters, branch.solutions, strict=True):
            k = int(np.flatnonzero(parameters == parameter)[0])
            table[unknown][k, b] = solution.values[unknown]
            table["action"][k, b], table["curvature"][k, b] = solution.action, solution.curvature
            table["weight"][k, b] = solution.weight
            table["stability"][k, b] = signs[solution.stability or "marginal"]
    return xr.Dataset({key: ((along, "branch"), value) for key, value in table.items()}, coords={along: parameters},
                      attrs={"order_parameter": unknown})


def continue_branches(function: AlongPath, parameters: Sequence[float], lower: float, upper: float, *,
                      unknown: str = "x", domain: str = "real", action: AlongPath | None = None,
                      points: int = 33, refinements: int = 16) -> tuple[Branch, ...]:
    """All roots at every value of a parameter, linked into branches, with the folds where they begin and end.

    Parameters
    ----------
    function
        (x, parameter) -> (value, derivative by x, ...).
    parameters
        In increasing or decreasing order.
    action
        (x, parameter) -> (S, S'', ...), as for `solve_scalar`: for stability, and weights among branches.
    refinements
        How often an interval between two parameter values is halved to locate a fold; roots found on the way
        serve the linking only.

    Two roots are linked when the tangents at both ends predict the distance between them; else, or where the
    roots differ in number, the interval is halved.  Branches are ordered by first parameter value, then x.

    Raises
    ------
    BadInput
        Parameter values not in order, or none.
    NotConverged
        As `find_roots`.  A parameter value without roots is no error: all branches have ended.
    """
    values = [float(value) for value in parameters]
    rises = [b > a for a, b in itertools.pairwise(values)]
    if not values or len(set(rises)) > 1 or len(set(values)) < len(values):
        raise BadInput("parameters", parameters, "different values in increasing or decreasing order")
    transform = math.log if domain == "positive" else float
    span = transform(upper) - transform(lower)

    @functools.cache
    def roots(parameter: float) -> tuple[Root, ...]:
        return find_roots(lambda x: function(x, parameter), lower, upper, domain=domain, points=points)

    def drift(root: Root, parameter: float) -> float:
        """Newton's step from a root at another parameter value: the distance its tangent predicts."""
        scale = root.value if domain == "positive" else 1.0
        return -float(function(root.value, parameter)[0]) / (root.slope * scale) if root.slope else math.inf

    def smooth(a: float, b: float) -> bool:
        before, after = roots(a), roots(b)
        if [r.slope > 0 for r in before] != [r.slope > 0 for r in after]:
            return False
        for p, q in zip(before, after, strict=True):
            distance = transform(q.value) - transform(p.value)
            allowed = max(0.5 * abs(distance), 0.002 * span)
            if abs(drift(p, b) - distance) > allowed or abs(-drift(q, a) - distance) > allowed:
                return False
        return True

    def link(a: float, b: float, depth: int) -> _Link:
        if smooth(a, b):
            return _Link({k: k for k in range(len(roots(a)))})
        middle = (a + b) / 2
        if depth == 0 or middle in (a, b):
            return _align(roots(a), roots(b), middle, transform, 0.02 * span)
        return link(a, middle, depth - 1).then(link(middle, b, depth - 1))

    def solved(parameter: float) -> tuple[Solution, ...]:
        here = None if action is None else (lambda x: action(x, parameter))
        return as_solutions(roots(parameter), unknown, domain, here)

    live = {k: _Open([values[0]], [s], None) for k, s in enumerate(solved(values[0]))}
    finished = list(live.values())
    for a, b in itertools.pairwise(values):
        joint, solutions = link(a, b, refinements), solved(b)
        for k, fold in joint.deaths.items():
            live[k].death = fold
        continued = {joint.pairs[k]: branch for k, branch in live.items() if k in joint.pairs}
        for k, solution in enumerate(solutions):
            if k not in continued:
                continued[k] = _Open([], [], joint.births.get(k))
                finished.append(continued[k])
            continued[k].parameters.append(b)
            continued[k].solutions.append(solution)
        live = continued
    return tuple(Branch(unknown, tuple(o.parameters), tuple(o.solutions), o.birth, o.death) for o in finished)


@dataclass
class _Open:
    """A branch under construction."""

    parameters: list[float]
    solutions: list[Solution]
    birth: Fold | None
    death: Fold | None = None


def _align(before: Sequence[Root], after: Sequence[Root], parameter: float,
           transform: Callable[[float], float], near: float) -> _Link:
    """Roots on a line keep order and sign of slope: match as many as possible, at the least distance."""
    x, y = [transform(r.value) for r in before], [transform(r.value) for r in after]

    @functools.cache
    def best(i: int, j: int) -> tuple[int, float, tuple[tuple[int, int], ...]]:
        if i == len(x) or j == len(y):
            return len(x) - i + len(y) - j, 0.0, ()
        options = [(n + 1, d, pairs) for n, d, pairs in (best(i + 1, j), best(i, j + 1))]
        if before[i].slope * after[j].slope > 0 and abs(x[i] - y[j]) <= near:
            n, d, pairs = best(i + 1, j + 1)
            options.append((n, d + abs(x[i] - y[j]), ((i, j), *pairs)))
        return min(options)

    pairs = dict(best(0, 0)[2])
    gone = [i for i in range(len(x)) if i not in pairs]
    new = [j for j in range(len(y)) if j not in pairs.values()]
    return _Link(pairs, _endings(before, gone, parameter), _endings(after, new, parameter))


def _endings(roots: Sequence[Root], unmatched: Sequence[int], parameter: float) -> dict[int, Fold]:
    """Unmatched neighbours of opposite slope have met in a fold; a root left over has crossed a bound."""
    ends: dict[int, Fold] = {}
    for k in unmatched:
        if k in ends:
            continue
        if k + 1 in unmatched and roots[k].slope * roots[k + 1].slope <= 0:
            meeting = (roots[k].value + roots[k + 1].value) / 2
            ends[k] = ends[k + 1] = Fold(parameter, meeting, "fold")
        else:
            ends[k] = Fold(parameter, roots[k].value, "edge")
    return ends
