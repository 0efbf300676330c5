r"""Loop expansion of an action of any number of scalar fields about a saddle, to any order.

With S = N s(φ), ħ = 1/N (or S = s and a formal ħ), H the Hessian of s at the saddle φ*:

    ln Z = -s(φ*)/ħ - ½ ln det(H/2πħ) + Σ_{L≥2} ħ^{L-1} z_L       an L-loop ln Z errs at ħ^L,
    ⟨O⟩ = Σ_{l≤L} ħ^l o_l                                          at ħ^{L+1},
    κ(O_1, …, O_n) = Σ_{l≤L} ħ^{n-1+l} k_l                         at ħ^{n+L},
    Γ(φ) = s(φ)/ħ + ½ ln det(s''(φ)/2π) + Σ_{L≥2} ħ^{L-1} γ_L     at ħ^L.

The coefficients come from Gaussian moments (:mod:`moments`), without diagrams: they are the independent check of a
sum over diagrams, and the faster way.  ``large=None`` counts loops by the formal symbol ``hbar``, with S in its place.
Several equivalent saddles are expanded together when given as a tuple.  Derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import factorial
from typing import Any, TypeAlias

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.contour import check_bounded, locally_analytic
from fieldtheory.symbolic.fields import depends_on, entries
from fieldtheory.symbolic.moments import Index, Moments, Propagator, binomial, check_loops, indices
from fieldtheory.symbolic.saddles import (
    SaddlePoint,
    check_fields,
    choose_saddle,
    flat_directions,
    per_large,
    tidy_number,
)
from fieldtheory.symbolic.series import Series

hbar = sp.Symbol("hbar", positive=True)
Saddle: TypeAlias = "SaddlePoint | Mapping[Any, Any] | Sequence[Any] | sp.Expr | int | float | None"
"""Where to expand: a saddle point, values by field or in the order of the fields; None for the dominant one; or a
tuple of saddle points, for their sum."""


class Jet:
    """Taylor coefficients ∂^α f/α! of an expression in the fields at a point, which may be the fields themselves."""

    def __init__(self, expr: sp.Expr, fields: Sequence[sp.Expr], at: Sequence[sp.Expr]) -> None:
        self._symbols = [sp.Dummy(f"x{i}", real=True) for i in range(len(fields))]
        self._at = list(at)
        self._generic = list(at) == list(fields)
        self._expr = expr.xreplace(dict(zip(fields, self._symbols)))
        self._terms = polynomial_terms(self._expr, self._symbols)
        self._derivatives: dict[Index, sp.Expr] = {(0,) * len(fields): self._expr}

    def __call__(self, alpha: Index) -> sp.Expr:
        if self._terms is not None:
            parts = [c * binomial(beta, alpha) * sp.Mul(*(u**(b - a) for u, b, a in zip(self._at, beta, alpha)))
                     for beta, c in self._terms.items() if all(b >= a for b, a in zip(beta, alpha))]
            value = sp.Add(*parts)
            return value if self._generic else _flat(value)
        value = self._derivative(alpha).xreplace(dict(zip(self._symbols, self._at)))
        for a in alpha:
            value = value / factorial(a)
        if value.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
            raise BadInput("action", value, "a function with finite derivatives at the saddle")
        return value

    def _derivative(self, alpha: Index) -> sp.Expr:
        if alpha not in self._derivatives:
            i = next(i for i, a in enumerate(alpha) if a)
            lower = (*alpha[:i], alpha[i] - 1, *alpha[i + 1:])
            self._derivatives[alpha] = sp.diff(self._derivative(lower), self._symbols[i])
        return self._derivatives[alpha]

    def degree(self, at_most: int) -> int:
        """The degree of a polynomial, or ``at_most``."""
        if self._terms is None:
            return at_most
        return min(at_most, max((sum(beta) for beta in self._terms), default=0))


def polynomial_terms(expr: sp.Expr, symbols: Sequence[sp.Expr]) -> dict[Index, sp.Expr] | None:
    """{powers of the symbols: coefficient}, or None where the expression is not a polynomial in them."""
    if not expr.is_polynomial(*symbols):
        return None
    terms = {tuple(map(int, powers)): c for powers, c in sp.Poly(expr, *symbols).terms()}
    # A coefficient may hide a field below a sum that binds a space.
    return None if any(depends_on(c, s) for c in terms.values() for s in symbols) else terms


def _flat(value: sp.Expr) -> sp.Expr:
    return tidy_number(value) if value.is_number else sp.expand(value)


@dataclass(frozen=True)
class Expansion:
    """s(φ) about one point: what every expansion at it shares.

    ``action`` is S/N (or S), ``point`` the saddle in the order of the fields, ``parameter`` is ħ.
    """

    action: sp.Expr
    fields: tuple[sp.Expr, ...]
    point: tuple[sp.Expr, ...]
    parameter: sp.Expr

    @property
    def hessian(self) -> sp.ImmutableMatrix:
        return _prepare(self.action, self.fields, self.point)[1]

    @property
    def value(self) -> sp.Expr:
        """s(φ*)."""
        return _prepare(self.action, self.fields, self.point)[0]((0,) * len(self.fields))

    def moments(self, order: int) -> Moments:
        """The ring of moments through ε^order; a new one where the tadpoles are to be removed."""
        return _moments(self.action, self.fields, self.point, max(order, 0))

    def log_partition(self, loops: int) -> list[sp.Expr]:
        """ln Z relative to the Gaussian, by power of ħ: 0 (which vanishes) … loops - 1."""
        if loops < 2:
            return [sp.S.Zero] * loops
        moments = self.moments(2 * (loops - 1))
        return [moments.expression(z) for z in moments.log_norm()]

    def cumulant(self, observables: Sequence[sp.Expr], loops: int) -> list[sp.Expr]:
        """κ(O_1, …, O_n) by power of ħ: n - 1 … n - 1 + loops; ⟨O⟩ for n = 1.

        Multilinear in the Taylor coefficients of the observables, so that each is opaque until the last step.
        """
        n = len(observables)
        span = 2 * (n - 1 + loops)  # the largest power of ε in all
        moments = self.moments(span - n)
        local = [locally_analytic(o, self.fields, self.point, "observable") for o in observables]
        jets = [Jet(o, self.fields, self.point) for o in local]
        tables = [{alpha: c for degree in range(1, jet.degree(span - n + 1) + 1)
                   for alpha in indices(len(self.fields), degree) if (c := jet(alpha)) != 0} for jet in jets]
        found: list[list[sp.Expr]] = [[] for _ in range(loops + 1)]
        if n == 1:
            found[0].append(jets[0]((0,) * len(self.fields)))
        known: dict[tuple[Index, ...], Any] = {}
        totals: dict[tuple[Index, ...], list[sp.Expr]] = {}
        for choice in product(*tables):
            weight = sum(map(sum, choice))
            if weight <= span:
                coefficient = sp.Mul(*(table[alpha] for table, alpha in zip(tables, choice)))
                totals.setdefault(tuple(sorted(choice)), []).append(coefficient)
        for choice, coefficients in totals.items():
            weight = sum(map(sum, choice))
            series = moments.cumulant(choice, known)
            for e, k in enumerate(series):
                power, odd = divmod(weight + e, 2)
                if k and not odd and power <= span // 2:
                    found[power - (n - 1)].append(sp.Add(*coefficients) * moments.expression(k))
        return [_collected(terms) for terms in found]

    def effective_action(self, loops: int) -> list[sp.Expr]:
        """Γ by power of ħ: -1, 0, …, loops - 1, at the point itself (which need not be a saddle)."""
        terms = [self.value]
        if loops >= 1:
            terms.append(sp.log(self.hessian.det(method="berkowitz")) / 2 - len(self.fields) * sp.log(2 * sp.pi) / 2)
        if loops >= 2:
            moments = _new_moments(self.action, self.fields, self.point, 2 * (loops - 1))
            terms += [-moments.expression(z) for z in moments.without_tadpoles()[1:]]
        return terms


def _collected(terms: Iterable[sp.Expr]) -> sp.Expr:
    """A sum of products, multiplied out where the factors are sums of plain monomials."""
    total = sp.Add(*terms)
    return sp.expand(total) if not total.free_symbols else sp.expand_mul(total, deep=False)


@lru_cache(maxsize=64)
def _prepare(action: sp.Expr, fields: tuple[sp.Expr, ...], point: tuple[sp.Expr, ...],
             ) -> tuple[Jet, sp.ImmutableMatrix]:
    """The jet of the action at a point, and the Hessian there."""
    jet = Jet(locally_analytic(action, fields, point, "action"), fields, point)
    n = len(fields)
    units = [tuple(int(i == j) for j in range(n)) for i in range(n)]
    rows = [[jet(tuple(a + b for a, b in zip(units[i], units[j]))) * (2 if i == j else 1) for j in range(n)]
            for i in range(n)]
    return jet, sp.ImmutableMatrix(rows)


@lru_cache(maxsize=16)
def _moments(action: sp.Expr, fields: tuple[sp.Expr, ...], point: tuple[sp.Expr, ...], order: int) -> Moments:
    return _new_moments(action, fields, point, order)


def _new_moments(action: sp.Expr, fields: tuple[sp.Expr, ...], point: tuple[sp.Expr, ...], order: int) -> Moments:
    jet, hessian = _prepare(action, fields, point)
    degree = jet.degree(order + 2)
    vertices = {alpha: jet(alpha) for k in range(3, degree + 1) for alpha in indices(len(fields), k)}
    return Moments(len(fields), order, vertices, propagator(hessian))


def propagator(hessian: sp.ImmutableMatrix) -> Propagator:
    """H⁻¹ = adj(H)/det(H), nothing multiplied out; exact for numbers."""
    n = hessian.rows
    if hessian.is_diagonal():
        return tuple(tuple(1 / hessian[i, i] if i == j else sp.S.Zero for j in range(n)) for i in range(n))
    determinant = hessian.det(method="berkowitz")
    if not hessian.free_symbols:
        determinant = tidy_number(determinant)
        return tuple(tuple(tidy_number(x) for x in row) for row in (hessian.adjugate() / determinant).tolist())
    adjugate = hessian.adjugate(method="berkowitz")
    determinant = sp.factor_terms(sp.expand(determinant))
    return tuple(tuple(sp.expand(adjugate[i, j]) / determinant for j in range(n)) for i in range(n))


# ------------------------------------------------------------------------------------------- the front functions


def log_partition(expr: Any, fields: Iterable[Any], saddle: Saddle, loops: int, large: Any = None, *,
                  formal: bool = False) -> Series:
    r"""ln Z relative to the Gaussian at the saddle, through ``loops`` loops: a series in 1/N with remainder N^-L.

    Left out is ``gaussian_part``, -S(φ*) - ½ ln det(S''/2π).  A tuple of saddle points of equal action is summed:
    ln Σ_i √(det H_0/det H_i) exp(z_i), in which k equivalent ones give ln k.

    Raises
    ------
    BadInput
        For ``loops`` < 0, a field that is not in the action, a non-analytic term at the saddle, an action unbounded
        below (unless ``formal``), an N that does not multiply the action.
    RuleError
        For a saddle with a flat direction, or none that dominates.
    """
    points = expansions(expr, fields, saddle, loops, large, formal)
    series = [_series(point.log_partition(loops)[1:], point, 1, max(loops, 1)) for point in points]
    return series[0] if len(points) == 1 else _log_of_sum(points, series)


def expectation(expr: Any, fields: Iterable[Any], saddle: Saddle, observable: Any, loops: int, large: Any = None, *,
                formal: bool = False) -> Series:
    """⟨O⟩ for a polynomial or analytic observable: a series in 1/N through N^-loops, with remainder N^-(loops+1).

    Over several equivalent saddles it is their average, each weighted by its share of Z.  Errors as in
    ``log_partition``, and BadInput for an observable with symbols that the action does not have.
    """
    return cumulant(expr, fields, saddle, (observable,), loops, large, formal=formal)


def cumulant(expr: Any, fields: Iterable[Any], saddle: Saddle, observables: Sequence[Any], loops: int,
             large: Any = None, *, formal: bool = False) -> Series:
    """The joint cumulant of n observables to L loops: from N^-(n-1), with remainder N^-(n+L).

    Over several saddles it is that of the mixture, which starts at N^0 and has the remainder N^-(L+1).
    """
    fields = tuple(map(sp.sympify, fields))
    action = sp.sympify(expr)
    observables = tuple(_observable(o, action, fields, large) for o in observables)
    if not observables:
        raise BadInput("observables", "none", "at least one")
    points = expansions(action, fields, saddle, loops, large, formal)
    if len(points) == 1:
        (point,), n = points, len(observables)
        return _series(point.cumulant(observables, loops), point, n - 1, n + loops)
    weights = _shares(points, loops)

    def mean(o: sp.Expr) -> Series:
        parts = [w * _series(p.cumulant((o,), loops), p, 0, loops + 1) for w, p in zip(weights, points)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    return _connected(observables, mean).map(sp.expand)


def effective_action(expr: Any, fields: Iterable[Any], loops: int, large: Any = None) -> Series:
    r"""Γ(φ), the 1PI effective action to L loops in the classical fields, which keep their symbols.

    Γ = N s + ½ ln det(s''/2π) + O(1/N), for the measure Π dφ √N: a series from N^1, with remainder N^-L.  The source
    that holds ⟨φ⟩ at its value is found order by order, so that no diagram need be known to be 1PI.
    """
    check_loops(loops)
    action, fields = sp.sympify(expr), check_fields(sp.sympify(expr), fields)
    reduced, parameter = per_large(action, large)
    point = Expansion(reduced, fields, fields, parameter)
    return _series(point.effective_action(loops), point, -1, loops)


def gaussian_part(expr: Any, fields: Iterable[Any], saddle: Saddle, large: Any = None) -> sp.Expr:
    """-S(φ*) - ½ ln det(S''(φ*)/2π), with all its powers of N: what ``log_partition`` leaves out."""
    (point, *_) = expansions(expr, fields, saddle, 0, large, True)
    scale = 1 / point.parameter if large is not None else sp.S.One
    determinant = point.hessian.det(method="berkowitz")
    return -scale * point.value - sp.log(determinant) / 2 - len(point.fields) * sp.log(scale / (2 * sp.pi)) / 2


# ------------------------------------------------------------------------------------------------------ details


def _observable(observable: Any, action: sp.Expr, fields: Sequence[sp.Expr], large: Any) -> sp.Expr:
    expr = sp.sympify(observable)
    if not isinstance(expr, sp.Expr):
        raise BadInput("observable", observable, "an expression in the fields")
    known = {*action.free_symbols, *entries(action), *fields}
    unknown = sorted({*expr.free_symbols, *entries(expr)} - known, key=sp.default_sort_key)
    if unknown:
        names = ", ".join(sorted(map(str, known)))
        raise BadInput("observable", f"{expr}, with the unknown symbol {unknown[0]}", f"an expression in {names}")
    if large is not None and expr.has(sp.sympify(large)):
        raise BadInput("observable", expr, f"an expression free of {large}, in which it is expanded")
    return expr


def expansions(expr: Any, fields: Iterable[Any], saddle: Saddle, loops: int, large: Any,
               formal: bool) -> tuple[Expansion, ...]:
    """One for each saddle point asked for, checked to be stationary, isolated, and of equal action."""
    check_loops(loops)
    action = sp.sympify(expr)
    names = check_fields(action, fields)
    reduced, parameter = per_large(action, large)
    if not formal:
        check_bounded(reduced, names)
    chosen = choose_saddle(action, names, large) if saddle is None else saddle
    several = isinstance(chosen, tuple) and chosen and all(isinstance(c, SaddlePoint) for c in chosen)
    points = []
    for one in chosen if several else (chosen,):  # type: ignore[union-attr]
        point = Expansion(reduced, names, _values(one, names), parameter)
        _check_point(point)
        points.append(point)
    for other in points[1:]:
        if tidy_number(other.value - points[0].value) != 0:
            raise BadInput("saddle", f"saddle points of different action, {points[0].value} and {other.value}",
                           "equivalent ones; the others are exponentially small")
    return tuple(points)


def _values(saddle: Any, fields: tuple[sp.Expr, ...]) -> tuple[sp.Expr, ...]:
    if isinstance(saddle, SaddlePoint):
        saddle = saddle.values
    if isinstance(saddle, Mapping):
        by_name = {str(key): value for key, value in saddle.items()}
        missing = [f for f in fields if str(f) not in by_name]
        extra = sorted(set(by_name) - {str(f) for f in fields})
        if missing or extra:
            raise BadInput("saddle", ", ".join(by_name), f"one value for each of {', '.join(map(str, fields))}")
        saddle = [by_name[str(f)] for f in fields]
    elif not isinstance(saddle, list | tuple | sp.Tuple | sp.MatrixBase):
        saddle = [saddle]
    if len(saddle) != len(fields):
        raise BadInput("saddle", saddle, f"one value for each of {', '.join(map(str, fields))}")
    return tuple(sp.sympify(value) for value in saddle)


def _check_point(point: Expansion) -> None:
    """The gradient vanishes there and the Hessian does not, in any direction."""
    jet, hessian = _prepare(point.action, point.fields, point.point)
    n = len(point.fields)
    where = ", ".join(f"{f} = {v}" for f, v in zip(point.fields, point.point))
    scale = max([abs(complex(h)) for h in hessian if h.is_number] or [1.0])
    for i, field in enumerate(point.fields):
        slope = jet(tuple(int(i == j) for j in range(n)))
        size = tidy_number(slope)
        if size.is_number and size.has(sp.Float):
            size = sp.S.Zero if abs(complex(size)) <= 1e-10 * max(scale, 1.0) else size
        if size != 0:
            raise BadInput("saddle", where, f"a stationary point; there the derivative by {field} is {size}")
    flat = flat_directions(hessian)
    if flat:
        direction = ", ".join(str(x) for x in flat[0])
        raise RuleError(f"the Hessian at {where} vanishes along ({direction}): the saddle is not isolated, or flat to "
                        "second order, and has no loop expansion")


def _series(terms: Sequence[sp.Expr], point: Expansion, low: int, remainder: int) -> Series:
    large = point.parameter.free_symbols
    for term in terms:
        if large & term.free_symbols or any(term.has(symbol) for symbol in large):
            raise BadInput("large", point.parameter, "the inverse of a parameter that multiplies the whole action")
    return Series(tuple(terms)[:max(remainder - low, 0)], point.parameter, low, remainder)


def _ratio(point: Expansion, reference: Expansion) -> sp.Expr:
    quotient = reference.hessian.det(method="berkowitz") / point.hessian.det(method="berkowitz")
    return sp.sqrt(tidy_number(quotient))


def _sum_of_weights(points: Sequence[Expansion], series: Sequence[Series]) -> tuple[list[Series], Series]:
    """√(det H_0/det H_i) exp(z_i), and their sum."""
    parts = [_ratio(p, points[0]) * (z.exp() if z.remainder > 0 else z) for p, z in zip(points, series)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return parts, total


def _log_of_sum(points: Sequence[Expansion], series: Sequence[Series]) -> Series:
    if all(_same(z, series[0]) for z in series[1:]) and all(_ratio(p, points[0]) == 1 for p in points):
        return series[0] + sp.log(len(points))
    return _sum_of_weights(points, series)[1].log().map(sp.expand)


def _shares(points: Sequence[Expansion], loops: int) -> list[Series]:
    """Each saddle's share of Z, through N^-loops."""
    series = [_series(p.log_partition(loops + 1)[1:], p, 1, loops + 1) for p in points]
    parts, total = _sum_of_weights(points, series)
    if all(_same(part, parts[0]) for part in parts[1:]):
        return [Series((sp.Rational(1, len(points)),), points[0].parameter, 0, loops + 1) for _ in points]
    return [part / total for part in parts]


def _same(a: Series, b: Series) -> bool:
    return a.remainder == b.remainder and all(tidy_number(term) == 0 for term in (a - b).terms)


def _connected(observables: Sequence[sp.Expr], mean: Callable[[sp.Expr], Series]) -> Series:
    """κ from means of products: κ(O_1…O_n) = ⟨O_1…O_n⟩ - Σ over the blocks of O_1 of κ(block) ⟨rest⟩."""
    first, rest = observables[0], observables[1:]
    total = mean(sp.Mul(*observables))
    for mask in range(2**len(rest) - 1):
        block = [first, *(o for i, o in enumerate(rest) if mask >> i & 1)]
        left = sp.Mul(*(o for i, o in enumerate(rest) if not mask >> i & 1))
        total = total - _connected(block, mean) * mean(left)
    return total


__all__ = ["Expansion", "Jet", "cumulant", "effective_action", "expansions", "expectation", "gaussian_part", "hbar",
           "log_partition"]
