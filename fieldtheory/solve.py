"""An equation of state in one unknown -> numbers: every root on an interval, its stability and its weight.

A scan with values and derivatives that does not step over a pair of roots, then safeguarded Newton.  Nothing here
knows a theory; a function is any callable, and `Kernel.bind` makes one that costs microseconds.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldtheory.errors import BadInput, NotConverged

EPSILON = float(np.finfo(float).eps)
DOMAINS = ("real", "positive")

Scalar = Callable[[float], Sequence[float]]
"""x -> (value, derivative, ...), which `find_roots` scans; or (S, S'', ...), an action and its curvature."""
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Root:
    """A zero of a function of one unknown: where, |f| there, f' there, and the Newton steps it took."""

    value: float
    residual: float
    slope: float
    iterations: int


@dataclass(frozen=True)
class Solution:
    """A stationary point: ``values`` by unknown.

    ``action`` and ``curvature`` are S and S'' there, ``stability`` is "stable" where S'' > 0, "unstable"
    where S'' < 0, "marginal" at 0, and ``weight`` the share of exp(-S)/sqrt(S'') among the stable solutions;
    all None where no action was given.  ``status`` is "ok", or says in words what is doubtful.
    """

    values: Mapping[str, float]
    residual: float
    status: str = "ok"
    stability: str | None = None
    weight: float | None = None
    action: float | None = None
    curvature: float | None = None


@dataclass(frozen=True)
class _Point:
    x: float
    f: float
    d: float


class _Scan:
    """A function in the coordinate x (ln of a positive unknown), with its evaluations counted."""

    def __init__(self, function: Scalar, lower: float, upper: float, domain: str, limit: int) -> None:
        if domain not in DOMAINS:
            raise BadInput("domain", domain, f"one of {', '.join(DOMAINS)}")
        if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
            raise BadInput("lower, upper", (lower, upper), "two finite numbers in increasing order")
        if domain == "positive" and lower <= 0:
            raise BadInput("lower", lower, "a positive number")
        self.function, self.positive, self.limit, self.count = function, domain == "positive", limit, 0
        self.lower, self.upper = (math.log(lower), math.log(upper)) if self.positive else (lower, upper)
        self.span = self.upper - self.lower

    def value(self, x: float) -> float:
        return math.exp(x) if self.positive else x

    def __call__(self, x: float) -> _Point:
        self.count += 1
        v = self.value(x)
        f, d = self.function(v)[:2]
        if not (math.isfinite(f) and math.isfinite(d)):
            raise NotConverged(f"the function is not finite at {v:.6g}", math.nan)
        if self.count > self.limit:
            raise NotConverged(f"the roots are not separated after {self.limit} evaluations", abs(f))
        return _Point(x, float(f), float(d) * (v if self.positive else 1.0))

    def apart(self, x: float, step: float) -> _Point:
        """A point near x where the function is not exactly zero, so that it has a sign."""
        for _ in range(8):
            point = self(x)
            if point.f != 0:
                return point
            x += step
        raise NotConverged(f"the function vanishes identically near {self.value(x):.6g}", 0.0)

    def root(self, point: _Point, iterations: int) -> Root:
        v = self.value(point.x)
        return Root(v, abs(point.f), point.d / (v if self.positive else 1.0), iterations)


def find_roots(function: Scalar, lower: float, upper: float, *, domain: str = "real", points: int = 33,
               max_evaluations: int = 5000) -> tuple[Root, ...]:
    """All roots of a smooth scalar function on an interval, in increasing order.

    Each cell of a first grid is compared at its middle with the cubic through the values and derivatives at
    its ends, and is halved until the difference is too small for a root to hide in: so close pairs are seen
    by their extremum.  Each root is then polished by Newton's method within its bracket, to rounding.

    Parameters
    ----------
    function
        x -> (value, derivative, ...).
    lower, upper
        The interval.
    domain
        "positive" scans ln x: for unknowns that range over decades.  ``function`` still takes x, gives d/dx.
    points
        First grid; structure finer than a quarter of its cells may be missed.

    Cost: 2 ``points`` evaluations, some 10 for each root, and as many where two roots nearly meet.  A root of
    even order is found if the function reaches zero to rounding; a sign change through a pole is no root.

    Raises
    ------
    BadInput
        Bounds that are not an interval.
    NotConverged
        A function that is not finite somewhere, vanishes identically, or is too rough to be resolved.
    """
    if points < 2:
        raise BadInput("points", points, "an integer >= 2")
    scan = _Scan(function, lower, upper, domain, max_evaluations)
    width = scan.span / (points - 1)
    grid = [scan.lower + k * width for k in range(points - 1)] + [scan.upper]
    found = [scan.root(point, 0) for point in (scan(grid[0]), scan(grid[-1])) if point.f == 0]
    nudge = 1e-3 * width
    samples = [scan.apart(x, nudge if x < grid[-1] else -nudge) for x in grid]
    for a, b in itertools.pairwise(samples):
        found += _roots_between(scan, a, b, math.inf, 1e-7 * scan.span)
    return tuple(sorted(found, key=lambda root: root.value))


def _roots_between(scan: _Scan, a: _Point, b: _Point, error: float, narrow: float) -> Iterator[Root]:
    """Roots in a cell; ``error`` bounds the distance of the function from its cubic there."""
    h, rise = b.x - a.x, b.f - a.f
    # p(t) = a.f + c1 t + c2 t² + c3 t³ on 0 <= t <= 1
    c1, c2, c3 = h * a.d, 3 * rise - h * (2 * a.d + b.d), h * (a.d + b.d) - 2 * rise
    if _opposite(a.f, b.f):
        slopes = [c1, c1 + 2 * c2 + 3 * c3]
        if c3 and 0 < -c2 / (3 * c3) < 1:
            slopes.append(c1 - c2 * c2 / (3 * c3))
        if min(slope * math.copysign(1, rise) for slope in slopes) > 8 * error or h < narrow:
            yield from _polish(scan, a, b)
            return
    else:
        least = min(abs(a.f), abs(b.f))
        for t in _real_roots(3 * c3, 2 * c2, c1):
            if 0 < t < 1:
                least = min(least, math.copysign(1, a.f) * (a.f + t * (c1 + t * (c2 + t * c3))))
        if least > error:
            return
        if h < narrow:
            yield from _touching(scan, a, b)
            return
    middle = scan.apart(a.x + h / 2, h / 1000)
    t = (middle.x - a.x) / h
    # A halved cell has 1/16 of the error; the rest is kept as a margin.
    error = abs(middle.f - (a.f + t * (c1 + t * (c2 + t * c3)))) + 8 * EPSILON * max(abs(a.f), abs(b.f))
    yield from _roots_between(scan, a, middle, error, narrow)
    yield from _roots_between(scan, middle, b, error, narrow)


def _opposite(a: float, b: float) -> bool:
    """Of opposite sign; their product could underflow. Zero is of neither."""
    return a < 0 < b or b < 0 < a


def _real_roots(a: float, b: float, c: float) -> tuple[float, ...]:
    """Real roots of a t² + b t + c, without cancellation."""
    square = b * b - 4 * a * c
    if square < 0:
        return ()
    q = -(b + math.copysign(math.sqrt(square), b)) / 2
    return (*((q / a,) if a else ()), *((c / q,) if q else ()))


def _polish(scan: _Scan, a: _Point, b: _Point) -> Iterator[Root]:
    """Newton's method that never leaves the bracket [a, b]."""
    ends = (a, b)
    size = max(abs(a.x), abs(b.x), 1.0 if scan.positive else 0.0)
    best = min(a, b, key=lambda point: abs(point.f))
    x = a.x - a.f * (b.x - a.x) / (b.f - a.f)
    iterations = 0
    for iterations in range(1, 100):
        if not a.x < x < b.x:
            x = (a.x + b.x) / 2
            if not a.x < x < b.x:
                break
        point = scan(x)
        best = min(best, point, key=lambda p: abs(p.f))
        if point.f == 0:
            break
        a, b = (a, point) if _opposite(a.f, point.f) else (point, b)
        step = -point.f / point.d if point.d else math.inf
        if abs(step) <= 4 * EPSILON * size:
            break
        # A step that does not even halve the bracket is left to bisection every third time.
        x = (a.x + b.x) / 2 if iterations % 3 == 0 and abs(step) > (b.x - a.x) / 2 else point.x + step
    # At a pole or a jump the function never comes closer to zero than at the ends of the bracket.
    if best not in ends or abs(best.f) <= 1e-12 * abs(best.d) * scan.span:
        yield scan.root(best, iterations)


def _touching(scan: _Scan, a: _Point, b: _Point) -> Iterator[Root]:
    """A cell without change of sign where the function comes close to zero: none, one or two roots."""
    size = max(abs(a.f), abs(b.f), abs(a.d) * scan.span, abs(b.d) * scan.span)
    if not _opposite(a.d, b.d):
        return
    left, right, middle = a, b, a
    for _ in range(60):
        middle = scan((left.x + right.x) / 2)
        if _opposite(middle.f, a.f) or middle.x in (left.x, right.x):
            break
        left, right = (left, middle) if _opposite(middle.d, a.d) else (middle, right)
    if _opposite(middle.f, a.f):
        yield from _polish(scan, a, middle)
        yield from _polish(scan, middle, b)
    elif abs(middle.f) <= 64 * EPSILON * size:
        yield scan.root(middle, 0)


def laplace_weights(actions: ArrayLike, curvatures: ArrayLike) -> Vector:
    """Share of each stationary point in ∫ exp(-S) du to leading order, exp(-S)/sqrt(S''); 0 where S'' <= 0.

    The coordinate u in which S'' is taken must be the one in which exp(-S) is the whole density.
    """
    s, c = (np.asarray(x, dtype=float) for x in (actions, curvatures))
    logs = np.full(s.shape, -np.inf)
    stable = c > 0
    logs[stable] = -s[stable] - 0.5 * np.log(c[stable])
    if not stable.any():
        return np.zeros(s.shape)
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def solve_scalar(function: Scalar, lower: float, upper: float, *, unknown: str = "x", domain: str = "real",
                 action: Scalar | None = None, points: int = 33) -> tuple[Solution, ...]:
    """All solutions of an equation of state in one unknown, in increasing order, with stability and weight.

    Parameters
    ----------
    function
        x -> (value, derivative, ...), as for `find_roots`.
    action
        x -> (S, S'', ...), in the coordinate in which exp(-S) is the whole density (see `laplace_weights`).

    Raises
    ------
    NotConverged
        No root in the interval; ``residual`` is then the least |value| at its ends.
    """
    roots = find_roots(function, lower, upper, domain=domain, points=points)
    if not roots:
        ends = min(abs(float(function(x)[0])) for x in (lower, upper))
        raise NotConverged(f"no root for {unknown} in [{lower:.6g}, {upper:.6g}]", ends)
    return as_solutions(roots, unknown, domain, action)


def as_solutions(roots: Sequence[Root], unknown: str, domain: str, action: Scalar | None) -> tuple[Solution, ...]:
    """Roots as solutions: with a word on those that are not sharp, and by their action with stability and weight."""
    found = []
    for root in roots:
        # The distance to the root that the residual allows, relative to the root.
        size = abs(root.value) if domain == "positive" else max(abs(root.value), 1.0)
        sharp = root.residual <= 1e-9 * abs(root.slope) * size
        values = {unknown: root.value}
        status = "ok" if sharp else f"near a fold: {unknown} is uncertain at residual {root.residual:.1e}"
        if action is None:
            found.append(Solution(values, root.residual, status))
            continue
        value, curvature = (float(number) for number in action(root.value)[:2])
        stability = "stable" if curvature > 0 else "unstable" if curvature < 0 else "marginal"
        found.append(Solution(values, root.residual, status, stability, None, value, curvature))
    if action is None:
        return tuple(found)
    weights = laplace_weights(*zip(*((s.action or 0.0, s.curvature or 0.0) for s in found))) if found else ()
    return tuple(dataclasses.replace(s, weight=float(w)) for s, w in zip(found, weights))


