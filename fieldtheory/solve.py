"""Equations of state -> numbers: every root, its stability and weight, and what becomes of it along a path.

One unknown: a scan with values and derivatives that does not step over a pair of roots, then safeguarded
Newton.  Several unknowns: damped Newton, and continuation in a parameter.  Nothing here knows a theory; a
function is any callable, and `Kernel.bind` makes one that costs microseconds.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldtheory.errors import BadInput, NotConverged

EPSILON = float(np.finfo(float).eps)
DOMAINS = ("real", "positive")

Scalar = Callable[[float], Sequence[float]]
"""x -> (value, derivative, ...), which `find_roots` scans; or (S, S'', ...), an action and its curvature."""
AlongPath = Callable[[float, float], Sequence[float]]
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


# ---------------------------------------------------------------------------------------------- one unknown

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
    return _solutions(roots, unknown, domain, action)


def _solutions(roots: Sequence[Root], unknown: str, domain: str,
               action: Scalar | None) -> tuple[Solution, ...]:
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


# ----------------------------------------------------------------------------------------- several unknowns

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


# ------------------------------------------------------------------------------------------------- branches

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
        return _solutions(roots(parameter), unknown, domain, here)

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
