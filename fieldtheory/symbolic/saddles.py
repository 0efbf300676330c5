r"""Saddle points of an action of any number of scalar fields: all of them, and which one matters.

∇S = 0 is solved exactly where its coefficients are rational numbers, in closed form where they are symbols and that
can be done (:mod:`polysolve`).  The Hessian decides the stability; a direction in which it vanishes is reported and
never divided by.  Derived here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import mpmath
import sympy as sp
from sympy.functions.elementary.trigonometric import TrigonometricFunction

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.contour import non_analytic_terms
from fieldtheory.symbolic.fields import Entry, SpaceSum, depends_on, entries
from fieldtheory.symbolic.polysolve import Solutions, solve_rational, solve_symbolic
from fieldtheory.symbolic.search import stationary_points

DEPENDS = "depends on the parameters"
DIGITS = 40
ROOT_DIGITS = 60
"""Digits of what is computed from saddle points that are roots of polynomials of higher degree (CRootOf)."""


@dataclass(frozen=True)
class SaddlePoint:
    """A stationary point of S.

    Attributes
    ----------
    values : the value of each field.
    action : S there, with all its powers of N.
    hessian : the matrix of second derivatives of S there, in the order of the fields.
    stability : "stable" (a minimum), "unstable" (a maximum), "saddle" (both), "degenerate", "complex" (not on the
        real contour), or "depends on the parameters".
    degenerate_directions : a basis of the null space of the Hessian, one value for each field.
    """

    values: Mapping[sp.Expr, sp.Expr] = field(hash=False)
    action: sp.Expr
    hessian: sp.ImmutableMatrix
    stability: str
    degenerate_directions: tuple[tuple[sp.Expr, ...], ...] = ()

    @property
    def value(self) -> sp.Expr:
        """The value of the field, where there is one field."""
        if len(self.values) != 1:
            raise RuleError(f"the saddle point has {len(self.values)} fields: read it from .values")
        return next(iter(self.values.values()))

    @property
    def point(self) -> tuple[sp.Expr, ...]:
        return tuple(self.values.values())

    def __str__(self) -> str:
        where = ", ".join(f"{f} = {_short(v)}" for f, v in self.values.items())
        return f"{where}: {self.stability}, S = {_short(self.action)}"


def _short(value: sp.Expr) -> str:
    return sp.sstr(value.evalf(8) if value.has(sp.Float) or value.has(sp.CRootOf) else value)


# ---------------------------------------------------------------------------------------------------- front door


def saddle_points(expr: Any, fields: Iterable[Any], *, large: Any = None,
                  complex: bool = False) -> tuple[SaddlePoint, ...]:
    """All saddle points on the real contour; with ``complex`` those off it too.

    Ordered by value.  A point whose reality depends on the parameters is kept.  Where saddles form a continuum
    (a broken continuous symmetry), the list holds the isolated ones with det S'' ≠ 0 and representatives on the
    hyperplanes φ_i = 0, which are degenerate along the continuum.  Where the action is not a polynomial and algebra
    does not help, they are searched for numerically, with a :class:`~fieldtheory.errors.SearchWarning`.

    Raises
    ------
    BadInput
        For a field that is not in the action, or a non-analytic term.
    RuleError
        Where the equations have no closed solution (give numbers, or the saddle itself), or an imaginary contour.
    """
    action = sp.sympify(expr)
    names = check_fields(action, fields)
    reduced, _ = per_large(action, large)
    kinks = non_analytic_terms(reduced, names)
    if kinks:
        raise BadInput("action", kinks[0], "analytic terms; for a saddle away from the kink, give it by hand")
    if any(isinstance(f, Entry) and f.domain == "imaginary" for f in names):
        raise RuleError("saddle points on an imaginary contour: rotate the field to the real axis, or give the saddle")
    symbols = [sp.Dummy(str(f), real=True) for f in names]
    body = reduced.xreplace(dict(zip(names, symbols)))
    found = _solve(body, symbols, not complex)
    if found.unsolved:
        back = dict(zip(symbols, names))
        missing = " = 0, ".join(sorted({sp.sstr(e.xreplace(back)) for e in found.unsolved}))
        raise RuleError(f"the saddle points could not all be found: {missing} = 0 has no closed solution; give numbers "
                        "for the parameters, or the saddle to expand about")
    scale = sp.S.One if large is None else sp.sympify(large)
    points = []
    for point in found.points:
        level = tidy_number(body.xreplace(dict(zip(symbols, point))))
        allowed = _on_contour(point, names) if level.is_real is not False else False
        if complex or allowed is not False:
            points.append(_saddle_point(body, symbols, names, point, level, scale, allowed))
    if found.continuous and not any(p.degenerate_directions for p in points):
        raise RuleError("the saddle points are not isolated, and none of the continuum has a vanishing field: give "
                        "the one to look at by hand")
    return tuple(sorted(points, key=_place))


def dominant(points: Sequence[SaddlePoint], large: Any = None) -> SaddlePoint:
    """The stable saddle point of least action.

    Raises
    ------
    RuleError
        Where there is none, or which one it is depends on the parameters.
    """
    stable = [p for p in points if p.stability in ("stable", DEPENDS)]
    if not stable:
        degenerate = [p for p in points if p.degenerate_directions]
        if degenerate:
            direction = ", ".join(map(str, degenerate[0].degenerate_directions[0]))
            raise RuleError(f"no stable saddle point; at {degenerate[0]} the Hessian vanishes along ({direction}): it "
                            "is not isolated, or flat to second order")
        raise RuleError("no real saddle point with positive curvature was found; give one by hand (at=...)")
    best = stable[0]
    for other in stable[1:]:
        sign = _sign(other.action - best.action, large)
        if sign is None:
            raise RuleError("which saddle point dominates depends on the parameters; choose one (at=...): "
                            + "; ".join(map(str, stable)))
        if sign < 0:
            best = other
    flat = [p for p in points if p.degenerate_directions and _sign(p.action - best.action, large) != 1]
    if flat:
        raise RuleError(f"the degenerate saddle point {flat[0]} does not lie above every stable one; choose one by "
                        "hand (at=...)")
    return best


def equivalent(points: Sequence[SaddlePoint], saddle: SaddlePoint, large: Any = None) -> tuple[SaddlePoint, ...]:
    """The stable saddle points with the same action value as one of them, that one first."""
    rest = [p for p in points if p.values != saddle.values and p.stability == saddle.stability
            and _sign(p.action - saddle.action, large) == 0]
    return (saddle, *rest)


def choose_saddle(expr: Any, fields: Iterable[Any], large: Any = None, *,
                  all: bool = False) -> SaddlePoint | tuple[SaddlePoint, ...]:
    """The dominant saddle point; with ``all`` every one equivalent to it, as a tuple."""
    fields = tuple(fields)
    points = saddle_points(expr, fields, large=large)
    best = dominant(points, large)
    return equivalent(points, best, large) if all else best


# -------------------------------------------------------------------------------------------- what others use too


def check_fields(action: sp.Expr, fields: Iterable[Any]) -> tuple[sp.Expr, ...]:
    """The fields as a tuple; BadInput for none, for repeated ones, and for one that is not in the action."""
    names = tuple(map(sp.sympify, fields))
    if not names or len(set(names)) != len(names):
        raise BadInput("fields", ", ".join(map(str, names)) or "none", "one or more different fields")
    for name in names:
        if not isinstance(name, sp.Symbol | Entry) or (isinstance(name, Entry) and name.spaces):
            raise BadInput("fields", name, "scalar fields: symbols, or entries without a space")
        if not depends_on(action, name):
            raise BadInput("fields", name, "fields that the action depends on")
    return names


def per_large(action: sp.Expr, large: Any) -> tuple[sp.Expr, sp.Expr]:
    """S/N and ħ = 1/N; S and the formal ħ where there is no large parameter.

    Raises
    ------
    BadInput
        Naming what is left of N in S/N.
    """
    if large is None:
        return action, sp.Symbol("hbar", positive=True)
    N = sp.sympify(large)
    if not isinstance(N, sp.Symbol):
        raise BadInput("large", large, "a symbol")
    reduced = sp.Add(*(term / N for term in sp.Add.make_args(sp.expand_mul(action))))
    if reduced.has(N):
        reduced = sp.cancel(reduced) if reduced.is_rational_function(N) else sp.simplify(reduced)
    if reduced.has(N):
        left = next((term for term in sp.Add.make_args(sp.expand(reduced)) if term.has(N)), reduced)
        raise BadInput("large", N, f"a parameter that multiplies the whole action; S/{N} still contains {left}")
    return (action / N if action.is_Mul and not (action / N).has(N) else reduced), 1 / N


def tidy_number(value: sp.Expr) -> sp.Expr:
    """A short form of an exact number (radicals in one place), or a simplified expression.

    Roots of higher degree become floats of ``ROOT_DIGITS`` digits; what is zero to five digits less is zero.
    """
    value = sp.sympify(value)
    if value.is_Rational or value.is_Symbol:
        return value
    if value.has(sp.CRootOf):
        number = sp.expand(value.xreplace({root: _root_number(root) for root in value.atoms(sp.CRootOf)}))
        return sp.S.Zero if number.is_number and abs(number) < sp.Float(10)**(5 - ROOT_DIGITS) else number
    if value.has(sp.Float):
        return sp.expand(value)
    if not value.free_symbols:
        return sp.radsimp(sp.expand(value))
    expanded = sp.expand(value)
    if expanded == 0 or expanded.is_polynomial():
        return expanded
    if expanded.is_rational_function():
        return sp.cancel(expanded)
    return sp.simplify(expanded) if expanded.count_ops() < 400 else expanded


def flat_directions(hessian: sp.ImmutableMatrix) -> tuple[tuple[sp.Expr, ...], ...]:
    """A basis of the null space: exact where that can be told, to 40 digits for algebraic numbers."""
    numbers = not hessian.free_symbols
    determinant = hessian.det(method="berkowitz")
    if numbers and hessian.has(sp.Float):
        return _numerical_null_space(hessian)
    if tidy_number(determinant) != 0:
        return ()
    return tuple(tuple(map(tidy_number, vector)) for vector in hessian.nullspace(simplify=True))


# ------------------------------------------------------------------------------------------------------- details


def _solve(body: sp.Expr, symbols: list[sp.Symbol], real: bool) -> Solutions:
    gradient = [sp.diff(body, x) for x in symbols]
    pairs = [sp.fraction(sp.together(g)) if not g.has(SpaceSum) else (g, sp.S.One) for g in gradient]
    numerators = [sp.expand(n) for n, _ in pairs]
    if not all(n.is_polynomial(*symbols) for n in numerators) or any(
            depends_on(c, x) for n in numerators for c in sp.Poly(n, *symbols).coeffs() for x in symbols):
        return _solve_general(gradient, symbols, real)
    exact = [sp.nsimplify(n, rational=True) if n.has(sp.Float) else n for n in numerators]
    if all(c.is_Rational for n in exact for c in sp.Poly(n, *symbols).coeffs()):
        found = solve_rational(exact, symbols, real=real)
    else:
        found = solve_symbolic(numerators, symbols)
    found.points = [p for p in found.points
                    if all(tidy_number(d.xreplace(dict(zip(symbols, p)))) != 0 for _, d in pairs)]
    return found


def _solve_general(gradient: list[sp.Expr], symbols: list[sp.Symbol], real: bool) -> Solutions:
    if any(depends_on(total, x) for g in gradient for total in g.atoms(SpaceSum) for x in symbols):
        raise RuleError("the equation of state holds sums over data, and is solved with numbers only; give the saddle "
                        "by hand (at=...)")
    numbers = not any(g.free_symbols.difference(symbols) or entries(g) for g in gradient)
    if len(symbols) == 1 and not (numbers and gradient[0].atoms(TrigonometricFunction)):  # which may have many roots
        try:
            return Solutions([(root,) for root in sp.solve(gradient[0], symbols[0])])
        except NotImplementedError:
            pass
    if not numbers:
        if len(symbols) == 1:
            return Solutions([], gradient)
        raise RuleError("the saddle points of an action of several fields that is not polynomial are searched for in "
                        "numbers only; give numbers for the parameters, or one saddle point by hand (at=...)")
    if not real:
        raise RuleError("complex saddle points of an action that is not polynomial are not searched for")
    return Solutions(stationary_points(gradient, symbols))


def _on_contour(point: Sequence[sp.Expr], names: Sequence[sp.Expr]) -> bool | None:
    """Whether a point is on the contour: False, True, or None where that depends on the parameters."""
    verdict: bool | None = True
    for value, name in zip(point, names):
        real = _reality(value)
        if real and name.is_positive:
            real = value.is_positive
        if real is False:
            return False
        verdict = None if real is None else verdict
    return verdict


def _reality(value: sp.Expr) -> bool | None:
    if value.is_real is None and not value.free_symbols:
        number = mpmath.mpmathify(value.evalf(DIGITS))
        return bool(abs(mpmath.im(number)) < mpmath.mpf(10)**(-DIGITS // 2))
    return value.is_real  # type: ignore[no-any-return]


def _saddle_point(body: sp.Expr, symbols: list[sp.Symbol], names: Sequence[sp.Expr], point: Sequence[sp.Expr],
                  level: sp.Expr, scale: sp.Expr, real: bool | None) -> SaddlePoint:
    at = dict(zip(symbols, point))
    slopes = [sp.diff(body, a) for a in symbols]  # twice once: diff(f, a, b) simplifies on the way
    hessian = sp.ImmutableMatrix([[tidy_number(sp.diff(s, b).xreplace(at)) for b in symbols] for s in slopes])
    flat = flat_directions(hessian)
    stability = "degenerate" if flat else "complex" if real is False else _stability(hessian)
    if real is None and stability != "degenerate":
        stability = DEPENDS
    return SaddlePoint(dict(zip(names, point)), scale * level, hessian * scale, stability, flat)


def _stability(hessian: sp.ImmutableMatrix) -> str:
    if not hessian.free_symbols:
        with mpmath.workdps(DIGITS):
            values = mpmath.eigsy(_matrix(hessian).apply(mpmath.re), eigvals_only=True)
            if any(mpmath.im(x) for x in _matrix(hessian)):  # the Gaussian there converges, or it does not
                return "stable" if min(values) > 0 else "complex"
        signs = {bool(v > 0) for v in values}
        return "saddle" if len(signs) == 2 else "stable" if signs == {True} else "unstable"
    n = hessian.rows
    minors = [tidy_number(hessian[:k, :k].det(method="berkowitz")) for k in range(1, n + 1)]
    signs_of = [1 if m.is_positive else -1 if m.is_negative else 0 for m in minors]
    if all(s == 1 for s in signs_of):
        return "stable"
    if all(s == (-1)**(k + 1) for k, s in enumerate(signs_of)):
        return "unstable"
    diagonal = [hessian[i, i] for i in range(n)]
    if (any(d.is_positive for d in diagonal) and any(d.is_negative for d in diagonal)) or (n == 2 and signs_of[1] < 0):
        return "saddle"
    return DEPENDS


def _matrix(hessian: sp.ImmutableMatrix) -> Any:
    return mpmath.matrix([[mpmath.mpmathify(x.evalf(DIGITS)) for x in row] for row in hessian.tolist()])


def _numerical_null_space(hessian: sp.ImmutableMatrix) -> tuple[tuple[sp.Expr, ...], ...]:
    # Half the digits that are there: 7 for a saddle given in double precision.
    digits = min(min(x._prec for x in hessian.atoms(sp.Float)) * 3 // 20, DIGITS // 2)
    with mpmath.workdps(DIGITS):
        _, values, rows = mpmath.svd_c(_matrix(hessian).apply(mpmath.mpc))
        largest = max([*values, mpmath.mpf(10)**-DIGITS])
        return tuple(tuple(sp.Float(str(mpmath.re(mpmath.conj(rows[i, j]))), 15) for j in range(hessian.cols))
                     for i in range(len(values)) if values[i] <= largest * mpmath.mpf(10)**-digits
                     or largest < mpmath.mpf(10)**-digits)


@lru_cache(maxsize=256)
def _root_number(root: sp.Expr) -> sp.Expr:
    return root.evalf(ROOT_DIGITS)


def _sign(difference: sp.Expr, large: Any) -> int | None:
    """-1, 0, 1, or None; the large parameter counts as positive."""
    if large is not None:
        difference = sp.expand(difference / sp.sympify(large))  # S is N times what does not contain N
    value = tidy_number(difference)
    if value.is_number:
        number = complex(value.evalf(DIGITS)).real
        return 0 if value == 0 or abs(number) < 1e-30 else 1 if number > 0 else -1
    if value.is_zero:
        return 0
    return 1 if value.is_positive else -1 if value.is_negative else None


def _place(point: SaddlePoint) -> tuple[Any, ...]:
    """Numbers by their size, the others after them by their form."""
    if all(not v.free_symbols for v in point.point):
        numbers = [complex_(v) for v in point.point]
        return (0, [(round(z.real, 12), round(z.imag, 12)) for z in numbers])
    return (1, [sp.default_sort_key(v) for v in point.point])


def complex_(value: sp.Expr) -> complex:
    return complex(value.evalf(20))
