"""Systems of polynomial equations: all solutions with numbers, those in closed form with symbols.

With rational coefficients the solutions are exact: a Gröbner basis gives, for each unknown, the polynomial that it
satisfies (the first linear relation among its powers modulo the ideal); its real roots are isolated exactly, and the
combinations that solve the system are picked by evaluating it to 50 digits.  With symbols, factors, linear equations
and equations of one unknown are solved one after the other; what is left over is reported, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import product

import mpmath
import sympy as sp
from sympy.polys.groebnertools import groebner
from sympy.polys.orderings import grevlex
from sympy.polys.rings import PolyElement, ring

Solution = tuple[sp.Expr, ...]
DIGITS = 50
MAX_DEPTH = 8
"""Case splits and eliminations one after the other, before a symbolic system counts as unsolved."""


@dataclass
class Solutions:
    """What was found: points, equations that were not solved, and whether some solutions form a continuum."""

    points: list[Solution]
    unsolved: list[sp.Expr] = field(default_factory=list)
    continuous: bool = False


def solve_rational(equations: Sequence[sp.Expr], unknowns: Sequence[sp.Symbol], *, real: bool = True) -> Solutions:
    """All (real) solutions of polynomial equations with rational coefficients, exact, in a fixed order.

    Groups of unknowns that no equation couples are solved apart.  Where solutions form a continuum, those on the
    coordinate hyperplanes are returned, and ``continuous`` is set.
    """
    groups = list(_groups(equations, unknowns))
    found = Solutions([()])
    places: list[sp.Symbol] = []
    for group, own in groups:
        part = _solve_group(own, group, real)
        found.continuous |= part.continuous
        found.points = [(*a, *b) for a in found.points for b in part.points]
        places += group
    order = [places.index(x) for x in unknowns]
    found.points = [tuple(point[i] for i in order) for point in found.points]
    return found


def _groups(equations: Sequence[sp.Expr], unknowns: Sequence[sp.Symbol],
            ) -> Iterator[tuple[list[sp.Symbol], list[sp.Expr]]]:
    left = list(unknowns)
    while left:
        group = {left[0]}
        while True:
            grown = group.union(*(e.free_symbols & set(unknowns) for e in equations if e.free_symbols & group))
            if grown == group:
                break
            group = grown
        yield [x for x in unknowns if x in group], [e for e in equations if e.free_symbols & group]
        left = [x for x in left if x not in group]


def _solve_group(equations: list[sp.Expr], unknowns: list[sp.Symbol], real: bool) -> Solutions:
    if len(unknowns) == 1:
        (x,) = unknowns
        common = reduce(sp.gcd, (sp.Poly(e, x, domain="QQ") for e in equations), sp.Poly(0, x, domain="QQ"))
        if common.is_zero:
            return Solutions([(sp.S.Zero,)], continuous=True)
        return Solutions([(root,) for root in _roots(common, real)])
    R, *gens = ring([str(i) for i in range(len(unknowns))], sp.QQ, grevlex)
    table = dict(zip(unknowns, range(len(unknowns))))
    polys = [R.from_dict(dict(sp.Poly(e, *unknowns, domain="QQ").rep.to_dict())) for e in equations]
    basis = groebner([p for p in polys if p], R)
    if any(g.is_ground for g in basis):
        return Solutions([])
    if not _zero_dimensional(basis, len(unknowns)):
        return _on_hyperplanes(equations, unknowns, real)
    candidates = [_roots(_minimal_polynomial(gens[i], basis), real) for i in table.values()]
    return Solutions([point for point in _combinations(polys, candidates)])


def _zero_dimensional(basis: Sequence[PolyElement], n: int) -> bool:
    pure = {i for g in basis for i, power in enumerate(g.LM) if power and sum(g.LM) == power}
    return len(pure) == n


def _on_hyperplanes(equations: list[sp.Expr], unknowns: list[sp.Symbol], real: bool) -> Solutions:
    """Representatives x_i = 0 of a continuum, and the isolated points with det J ≠ 0, which need 1 = t det J."""
    found: list[Solution] = []
    square = len(equations) == len(unknowns)
    if square:
        t = sp.Dummy("t", real=True)
        jacobian = sp.Matrix(equations).jacobian(unknowns).det(method="berkowitz")
        isolated = _solve_group([*equations, sp.expand(1 - t * jacobian)], [*unknowns, t], real) if (
            sp.expand(jacobian) != 0) else Solutions([])
        found += [point[:-1] for point in isolated.points]
    for i, x in enumerate(unknowns):
        rest = [u for u in unknowns if u is not x]
        part = solve_rational([e.xreplace({x: sp.S.Zero}) for e in equations], rest, real=real)
        found += [(*point[:i], sp.S.Zero, *point[i:]) for point in part.points]
    return Solutions(list(dict.fromkeys(found)), continuous=True)


def _minimal_polynomial(x: PolyElement, basis: Sequence[PolyElement]) -> sp.Poly:
    """The first linear relation among 1, x, x², … modulo the ideal."""
    rows: list[tuple[PolyElement, list[sp.Rational]]] = []  # echelon form, with how each row came about
    power = x.ring.one
    zero, one = sp.QQ(0), sp.QQ(1)
    while True:
        vector, history = power, [zero] * len(rows) + [one]
        for row, past in rows:
            factor = vector.get(row.LM, zero) / row.LC
            if factor:
                vector = vector - row * factor
                history = [h - factor * p for h, p in zip(history, past + [zero] * (len(history) - len(past)))]
        if not vector:
            return sp.Poly([sp.QQ.to_sympy(h) for h in reversed(history)], sp.Symbol("z"), domain="QQ")
        rows.append((vector, history))
        power = (power * x).rem(list(basis))


def _roots(poly: sp.Poly, real: bool) -> list[sp.Expr]:
    """Distinct roots: rational, quadratic in radicals, otherwise as CRootOf; complex ones of degree > 2 as floats."""
    if poly.degree() < 1:
        return []
    square_free = poly.sqf_part()
    if real:
        return list(dict.fromkeys(square_free.real_roots()))
    found: list[sp.Expr] = []
    for factor, _ in square_free.factor_list()[1]:  # isolating complex roots exactly takes minutes at degree 9
        found += factor.all_roots() if factor.degree() <= 2 else factor.nroots(n=DIGITS + 10, maxsteps=500)
    return found


def _combinations(polys: Sequence[PolyElement], candidates: Sequence[Sequence[sp.Expr]]) -> Iterator[Solution]:
    systems = [[(monom, int(c.numerator) / int(c.denominator), c) for monom, c in p.terms()] for p in polys if p]
    numbers = [[(root, root.evalf(DIGITS)) for root in roots] for roots in candidates]
    rough = [[(root, number, complex(number)) for root, number in column] for column in numbers]
    for choice in product(*rough):
        if all(_vanishes([(m, c) for m, c, _ in system], [z for *_, z in choice], 1e-6) for system in systems):
            with mpmath.workdps(DIGITS):
                fine = [mpmath.mpmathify(number) for _, number, _ in choice]
                exact = ([(m, mpmath.mpf(int(c.numerator)) / int(c.denominator)) for m, _, c in system]
                         for system in systems)
                if all(_vanishes(system, fine, mpmath.mpf(10)**(-DIGITS // 2)) for system in exact):
                    yield tuple(root for root, *_ in choice)


def _vanishes(terms: Sequence[tuple[tuple[int, ...], complex]], point: Sequence[complex], tolerance: float) -> bool:
    total, size = 0 * tolerance, 0 * tolerance
    for monom, c in terms:
        for z, power in zip(point, monom):
            c = c * z**power
        total, size = total + c, size + abs(c)  # type: ignore[assignment]
    return bool(abs(total) <= tolerance * max(size, 1))


# ------------------------------------------------------------------------------------------------------- symbols


def solve_symbolic(equations: Sequence[sp.Expr], unknowns: Sequence[sp.Symbol]) -> Solutions:
    """Solutions in closed form of polynomial equations whose coefficients are symbols, for generic values of these.

    Equations of one unknown are solved where their roots are rational, square roots or pure powers; with numbers for
    coefficients, by floats of 30 digits.  Equations left over are in ``unsolved``.
    """
    found = Solutions([])
    _branch(list(equations), {}, list(unknowns), found, 0)
    # Case splits can leave points that solve a branch's equations only; each is put back.
    table = {tuple(map(sp.srepr, point)): point for point in found.points}
    found.points = [point for point in table.values() if all(
        _is_zero(e.xreplace(dict(zip(unknowns, point)))) for e in equations)]
    found.unsolved = list(dict.fromkeys(found.unsolved))
    return found


def _is_zero(expr: sp.Expr) -> bool:
    if expr.has(sp.Float):
        return bool(abs(complex(expr)) < 1e-12) if expr.is_number else True
    return expr == 0 or sp.expand(expr) == 0 or sp.simplify(expr) == 0


def _branch(equations: list[sp.Expr], solved: dict[sp.Symbol, sp.Expr], unknowns: list[sp.Symbol], found: Solutions,
            depth: int) -> None:
    left = [x for x in unknowns if x not in solved]
    live: list[tuple[sp.Expr, ...]] = []
    for equation in equations:
        numerator = sp.fraction(sp.together(equation.xreplace(solved)))[0]
        factors = _factors(numerator, left)
        if factors is None:
            continue
        if not factors:
            return  # a contradiction, for generic parameters
        live.append(factors)
    if not live:
        if left:
            found.continuous = True
            solved = solved | {x: sp.S.Zero for x in left}
        point = {x: solved[x] for x in unknowns}
        for _ in unknowns:  # later values stand in earlier ones
            point = {x: value.xreplace(point) for x, value in point.items()}
        found.points.append(tuple(point[x] for x in unknowns))
        return
    live.sort(key=lambda fs: (max(_cost(f, left) for f in fs), len(fs)))
    plain = [sp.Mul(*fs) for fs in live]
    for factor in live[0]:
        inside = [x for x in left if factor.has(x)]
        roots = _solve_one(factor, inside)
        if depth > MAX_DEPTH:
            found.unsolved.append(factor)
            continue
        if roots is None:
            if not _eliminate(factor, plain[1:], inside, solved, unknowns, found, depth):
                found.unsolved.append(factor)
            continue
        for x, value in roots:
            _branch(plain[1:], {k: v.xreplace({x: value}) for k, v in solved.items()} | {x: value}, unknowns, found,
                    depth + 1)


def _eliminate(factor: sp.Expr, others: list[sp.Expr], inside: list[sp.Symbol], solved: dict[sp.Symbol, sp.Expr],
               unknowns: list[sp.Symbol], found: Solutions, depth: int) -> bool:
    """Go on from an equation in several unknowns, by a resultant with another one; False where that leads nowhere."""
    if len(inside) < 2 or not factor.is_polynomial(*inside):
        return False
    rest = [r for e in others if (r := sp.reduced(e, [factor], *inside)[1]) != 0] if all(
        e.is_polynomial(*inside) for e in others) else others
    if not rest:  # it is all there is: a continuum
        found.continuous = True
        for x in inside:
            _branch([factor.xreplace({x: sp.S.Zero})], {k: v.xreplace({x: sp.S.Zero}) for k, v in solved.items()}
                    | {x: sp.S.Zero}, unknowns, found, depth + 1)
        return True
    for other in rest:
        for x in inside:
            if other.is_polynomial(*inside) and other.has(x) and len(factor.free_symbols | other.free_symbols) <= 8:
                consequence = sp.resultant(factor, other, x)
                if consequence != 0 and len(inside) == 2 and sp.expand(consequence).is_polynomial(*inside):
                    parts = _factors(consequence, inside)
                    if parts and all(_solve_one(p, [u for u in inside if p.has(u)]) is not None for p in parts):
                        _branch([consequence, factor, *rest], solved, unknowns, found, depth + 1)
                        return True
    return False


def _factors(numerator: sp.Expr, left: Sequence[sp.Symbol]) -> tuple[sp.Expr, ...] | None:
    """The factors that hold unknowns; None for a zero, () for what cannot vanish."""
    numerator = sp.expand(numerator)
    if numerator == 0 or (not numerator.has(*left) if left else True):
        return None if _is_zero(numerator) else ()
    try:
        factors = [f for f, _ in sp.factor_list(numerator)[1]]
    except sp.PolynomialError:
        factors = [numerator]
    return tuple(f for f in factors if f.has(*left))


def _cost(factor: sp.Expr, left: Sequence[sp.Symbol]) -> tuple[int, int]:
    inside = [x for x in left if factor.has(x)]
    if not factor.is_polynomial(*inside):
        return (9, 9)
    degrees = [sp.degree(factor, x) for x in inside]
    linear = any(d == 1 and not sp.Poly(factor, x).LC().has(*left) for x, d in zip(inside, degrees))
    return (0 if linear else len(inside), min(degrees))


def _solve_one(factor: sp.Expr, inside: Sequence[sp.Symbol]) -> list[tuple[sp.Symbol, sp.Expr]] | None:
    if not factor.is_polynomial(*inside):
        return None
    for x in inside:
        poly = sp.Poly(factor, x)
        if poly.degree() == 1 and not poly.LC().has(*inside):
            return [(x, sp.cancel(-poly.nth(0) / poly.LC()))]
    if len(inside) > 1:
        return None
    (x,) = inside
    poly = sp.Poly(factor, x)
    roots = sp.roots(poly, cubics=False, quartics=False, quintics=False)
    if sum(roots.values()) == poly.degree():
        return [(x, root) for root in sorted(roots, key=sp.default_sort_key)]
    if not factor.free_symbols - {x}:
        return [(x, root) for root in poly.sqf_part().nroots(n=30, maxsteps=200)]
    return None
