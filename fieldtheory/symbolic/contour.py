"""Whether an action can be expanded at all: bounded below on its contour, and analytic at its saddle.

A polynomial is bounded below only if its leading form is nowhere negative, along every straight line and along the
curves φ_i ~ t^{w_i} with small integer weights (y²/2 - x²y + x⁴/4 is unbounded along y = x² and along no line).
The check refuses what it can prove and nothing else; coefficients of unknown sign pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import product
from math import gcd, sqrt
from typing import Any

import mpmath
import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.symbolic.fields import Entry, SpaceSum, depends_on, entries

Terms = Mapping[tuple[int, ...], sp.Expr]
Direction = tuple[sp.Expr, ...]

NON_ANALYTIC = (sp.Abs, sp.Max, sp.Min, sp.sign, sp.Heaviside, sp.DiracDelta, sp.Piecewise, sp.floor, sp.ceiling,
                sp.re, sp.im, sp.conjugate, sp.arg)
MAX_WEIGHT = 3
"""Curves φ_i ~ t^{w_i} are tried up to this weight."""
MAX_PARAMETERS = 3
"""Functions of more parameters are not tried in numbers."""


# --------------------------------------------------------------------------------------------------- analyticity


def non_analytic_terms(expr: sp.Expr, fields: Sequence[sp.Expr]) -> list[sp.Expr]:
    """|φ|, max(φ, 0), φ^(3/2) and their like, innermost first."""
    found = [atom for atom in expr.atoms(*NON_ANALYTIC) if any(depends_on(atom, f) for f in fields)]
    return sorted(found, key=lambda atom: (atom.count_ops(), sp.default_sort_key(atom)))


def locally_analytic(expr: sp.Expr, fields: Sequence[sp.Expr], point: Sequence[sp.Expr], argument: str) -> sp.Expr:
    """The analytic branch of an expression near a point: |φ| → φ where φ* > 0; refused at the kink itself.

    What the other branches add is exponentially small in N.

    Raises
    ------
    BadInput
        Naming the term, where its argument vanishes at the point or has no definite sign there.
    """
    at = dict(zip(fields, point))
    for _ in range(100):
        terms = non_analytic_terms(expr, fields)
        if not terms:
            break
        branch = _branch(terms[0], at)
        if branch is None:
            raise BadInput(argument, terms[0], "a term that is analytic at the saddle")
        expr = expr.xreplace({terms[0]: branch})
    for power in sorted(expr.atoms(sp.Pow), key=sp.default_sort_key):
        whole = power.exp.is_Integer and power.exp.is_nonnegative
        if whole or not any(depends_on(power.base, f) for f in fields):
            continue
        if power.base.xreplace(at) == 0 or sp.expand(power.base.xreplace(at)) == 0:
            raise BadInput(argument, power, "a term that is analytic at the saddle")
    return expr


def _branch(term: sp.Expr, at: Mapping[sp.Expr, sp.Expr]) -> sp.Expr | None:
    def sign(x: sp.Expr) -> int:
        value = sp.simplify(x.xreplace(dict(at)))
        return 1 if value.is_positive else -1 if value.is_negative else 0

    if isinstance(term, sp.Abs | sp.sign | sp.Heaviside) and (s := sign(term.args[0])):
        if isinstance(term, sp.Abs):
            return s * term.args[0]
        return sp.Integer(s) if isinstance(term, sp.sign) else sp.Integer((1 + s) // 2)
    if isinstance(term, sp.Max | sp.Min):
        s = 1 if isinstance(term, sp.Max) else -1
        for arg in term.args:
            if all(sign(arg - other) == s for other in term.args if other != arg):
                return arg  # type: ignore[no-any-return]
    if isinstance(term, sp.Piecewise):
        for body, condition in term.args:
            holds = condition.xreplace(dict(at))
            boundary = any(sign(r.lhs - r.rhs) == 0 for r in condition.atoms(sp.core.relational.Relational))
            if boundary or holds not in (sp.true, sp.false):
                return None
            if holds == sp.true:
                return body  # type: ignore[no-any-return]
    return None


# --------------------------------------------------------------------------------------------------- boundedness


def check_bounded(action: sp.Expr, fields: Sequence[sp.Expr]) -> None:
    """Refuse an action that falls without bound on its real contour.

    Raises
    ------
    BadInput
        With the direction, and the term that falls along it.
    """
    if any(isinstance(f, Entry) and f.domain == "imaginary" for f in fields):
        return
    found = unbounded_direction(action, tuple(fields))
    if found is not None:
        path, term = found
        raise BadInput("action", f"one that falls without bound along {path}, as {term}",
                       "an action bounded below on the real contour, or formal=True for its formal expansion")


@lru_cache(maxsize=64)
def unbounded_direction(action: sp.Expr, fields: tuple[sp.Expr, ...]) -> tuple[str, sp.Expr] | None:
    """A curve along which the action falls to -∞ and its leading term in t → ∞; None if none is found."""
    symbols = [sp.Dummy(str(f), real=True) for f in fields]
    expr = action.xreplace(dict(zip(fields, symbols)))
    half = [f.is_nonnegative is True for f in fields]
    if not expr.is_polynomial(*symbols):
        return _probe(expr, fields, symbols, half)
    terms = {tuple(map(int, powers)): _real_part(c) for powers, c in sp.Poly(expr, *symbols).terms()}
    terms = {powers: c for powers, c in terms.items() if c != 0}  # an imaginary term only makes the weight oscillate
    if not terms or any(depends_on(c, s) for c in terms.values() for s in symbols):
        return None
    lines = list(_directions(half))
    for weights in _weights(len(fields), terms):
        for v in lines:
            found = _leading(terms, weights, v)
            if found is not None and found[1] > 0 and _falls(found[0], found[1], half):
                # An odd power of unknown sign falls along v or along -v.
                sure = found[0].is_negative or all(w == 1 for w in weights)
                if found[0].is_negative or (sure and _odd_nonzero(*found)):
                    v = v if found[0].is_negative or not found[0].is_positive else tuple(-x for x in v)
                    return _told(fields, weights, v, *found)
    if len(fields) > 1 and all(c.is_number for c in terms.values()):
        for weights in _weights(len(fields), terms):
            top = _top(terms, weights)
            if (u := _negative_direction(top, half)) is not None:
                degree = sum(a * w for a, w in zip(next(iter(top)), weights))
                return _told(fields, weights, u, _at(top, u), degree)
    return None


def _real_part(coefficient: sp.Expr) -> sp.Expr:
    return coefficient.as_real_imag()[0] if coefficient.has(sp.I) else coefficient


def _falls(coefficient: sp.Expr, degree: int, half: Sequence[bool]) -> bool:
    return bool(coefficient.is_negative or (not any(half) and _odd_nonzero(coefficient, degree)))


def _odd_nonzero(coefficient: sp.Expr, degree: int) -> bool:
    return degree % 2 == 1 and coefficient.is_zero is not True


def _told(fields: Sequence[sp.Expr], weights: Sequence[int], v: Direction, coefficient: sp.Expr,
          degree: int) -> tuple[str, sp.Expr]:
    t = sp.Symbol("t")
    value = sp.Add(coefficient)
    if degree % 2 and value.is_positive:
        value = -value
    return ", ".join(f"{f} = {x * t**w}" for f, w, x in zip(fields, weights, v)), value * t**degree


def _directions(half: Sequence[bool]) -> Iterator[Direction]:
    n = len(half)
    choices = [(0, 1) if h else (0, 1, -1) for h in half]
    if n > 5:  # axes and pairs of axes only
        for i in range(n):
            for s in choices[i][1:]:
                yield tuple(sp.Integer(s if k == i else 0) for k in range(n))
        return
    for v in product(*choices):
        if any(v):
            yield tuple(map(sp.Integer, v))


def _weights(n: int, terms: Terms) -> Iterator[tuple[int, ...]]:
    """Straight lines, and the curves whose leading form holds several terms (a vertex is on the lines already)."""
    yield (1,) * n
    if 1 < n <= 3:
        seen = {frozenset(_top(terms, (1,) * n))}
        for w in product(range(1, MAX_WEIGHT + 1), repeat=n):
            face = frozenset(_top(terms, w))
            if gcd(*w) == 1 and len(face) > 1 and face not in seen:
                seen.add(face)
                yield w


def _leading(terms: Terms, weights: Sequence[int], v: Direction) -> tuple[sp.Expr, int] | None:
    """The leading coefficient and power of t along φ_i = v_i t^{w_i}."""
    by_degree: dict[int, dict[tuple[int, ...], sp.Expr]] = {}
    for alpha, c in terms.items():
        by_degree.setdefault(sum(a * w for a, w in zip(alpha, weights)), {})[alpha] = c
    for degree in sorted(by_degree, reverse=True):
        value = sp.expand(_at(by_degree[degree], v))
        if value.is_zero is not True:
            return value, degree
    return None


def _top(terms: Terms, weights: Sequence[int]) -> dict[tuple[int, ...], sp.Expr]:
    degree = max(sum(a * w for a, w in zip(alpha, weights)) for alpha in terms)
    return {alpha: c for alpha, c in terms.items() if sum(a * w for a, w in zip(alpha, weights)) == degree}


def _at(form: Terms, v: Sequence[sp.Expr]) -> sp.Expr:
    """The form at a point with rational coordinates."""
    if all(c.is_Rational for c in form.values()):  # Python's fractions: a hundred times faster
        point = [Fraction(int(x.p), int(x.q)) for x in v]
        total = Fraction(0)
        for alpha, c in form.items():
            value = Fraction(int(c.p), int(c.q))
            for x, a in zip(point, alpha):
                value *= x**a
            total += value
        return sp.Rational(total.numerator, total.denominator)
    return sp.Add(*(c * sp.Mul(*(x**a for x, a in zip(v, alpha))) for alpha, c in form.items()))


def _negative_direction(form: Terms, half: Sequence[bool]) -> Direction | None:
    """A direction in which a form with numbers is negative, proved in exact arithmetic; pattern search on a box."""
    numbers = [(alpha, float(c)) for alpha, c in form.items()]
    if all(c > 0 and all(a % 2 == 0 for a in alpha) for alpha, c in numbers):
        return None

    def value(v: Sequence[float]) -> float:
        total = 0.0
        for alpha, c in numbers:
            for x, a in zip(v, alpha):
                c *= x**a
            total += c
        return total

    n = len(half)
    starts = sorted((tuple(x / sqrt(sum(y * y for y in v)) for x in v)
                     for v in product((0.0, 0.5, 1.0, -0.5, -1.0), repeat=n) if any(v)
                     and all(x >= 0 for x, h in zip(v, half) if h)), key=value)
    for start in starts[:3]:
        best, lowest, step = list(start), value(start), 0.25
        while step > 1e-6 and lowest > -1e-3:
            moved = False
            for i in range(n):
                for change in (step, -step):
                    trial = list(best)
                    trial[i] += change
                    size = sqrt(sum(x * x for x in trial))
                    if size < 0.1 or (half[i] and trial[i] < 0):
                        continue
                    trial = [x / size for x in trial] if size > 2 or size < 0.5 else trial
                    if value(trial) < lowest - 1e-15:
                        best, lowest, moved = trial, value(trial), True
            step = step if moved else step / 2
        for bound in (2, 8, 64, 1000):
            v = tuple(sp.Rational(Fraction(x / max(map(abs, best))).limit_denominator(bound)) for x in best)
            if _at(form, v).is_negative:
                return v
    return None


def _probe(expr: sp.Expr, fields: Sequence[sp.Expr], symbols: Sequence[sp.Dummy],
           half: Sequence[bool]) -> tuple[str, sp.Expr] | None:
    """A function along straight lines: numbers that fall at t = 10, 100, 1000 and do not level off.

    With parameters it has to fall along the same line for all of them, small and large, of either sign unless their
    sign is known.
    """
    parameters = sorted(expr.free_symbols - set(symbols), key=sp.default_sort_key)
    if len(parameters) > MAX_PARAMETERS or expr.has(SpaceSum) or entries(expr):
        return None
    function = sp.lambdify([*symbols, *parameters], expr, modules="mpmath")
    sizes = (mpmath.mpf(1) / 100, mpmath.mpf(1), mpmath.mpf(100))
    choices = [[sign * size for sign in _signs(p) for size in sizes] for p in parameters]

    def falls(v: Direction, values: Sequence[Any]) -> bool:
        try:
            s = [mpmath.re(function(*(int(x) * 10**k for x in v), *values)) for k in (1, 2, 3)]
        except (ValueError, ZeroDivisionError, OverflowError, TypeError):
            return False
        return bool(all(isinstance(x, mpmath.mpf) for x in s) and s[0] > s[1] and s[1] - s[2] >= 0.7 * (s[0] - s[1]))

    for v in sorted(_directions(half), key=lambda v: sum(map(abs, v))):  # the axes first
        if all(falls(v, values) for values in product(*choices)):
            t = sp.Symbol("t")
            path = ", ".join(f"{f} = {x * t}" for f, x in zip(fields, v) if x != 0)
            return path, expr.xreplace({symbol: x * t for symbol, x in zip(symbols, v)})
    return None


def _signs(parameter: sp.Expr) -> tuple[int, ...]:
    return (1,) if parameter.is_nonnegative else (-1,) if parameter.is_nonpositive else (1, -1)
