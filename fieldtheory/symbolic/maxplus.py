"""Max-plus algebra of exponents: which power of the large parameter an expression is, and where.

Every quantity has a scale N^e with e affine in symbolic exponents, so that exponents of products add and that
of a sum is the largest of its terms.  Choosing the dominating term of every inner sum cuts the space of
exponents into polyhedra, kept as rows (a, a_0) for a·x + a_0 ≥ 0, in exact fractions.  Only regions with an
interior count, so that every question is one of strict feasibility, answered by Fourier-Motzkin elimination.

Derived here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import product
from math import floor
from typing import Any

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.fields import Entry, SpaceSum

Affine = tuple[Fraction, ...]
"""Coefficients of the variables, the constant last."""

Sign = tuple[int, frozenset[sp.Basic]]
"""±1 times the unknown signs of the listed factors."""

Branches = Mapping[sp.Expr, tuple[Affine, Sign]]
"""The exponent and sign of every inner sum, its dominating term being chosen."""

# ------------------------------------------------------------------------- linear inequalities, in fractions


def combine(a: Affine, x: Fraction | int, b: Affine, y: Fraction | int) -> Affine:
    """x a + y b."""
    return tuple(x * i + y * j for i, j in zip(a, b, strict=True))


def negative(a: Affine) -> Affine:
    return tuple(-i for i in a)


def _tidy(system: Iterable[Affine]) -> list[Affine] | None:
    """Scale to a leading ±1 and keep the tightest of parallel rows; None for a contradiction."""
    tightest: dict[Affine, Fraction] = {}
    for row in system:
        lead = next((abs(c) for c in row[:-1] if c), None)
        if lead is None:
            if row[-1] <= 0:
                return None
            continue
        key = tuple(c / lead for c in row[:-1])
        tightest[key] = min(row[-1] / lead, tightest.get(key, row[-1] / lead))
    return [(*key, constant) for key, constant in tightest.items()]


def interior_point(system: Iterable[Affine], dimension: int) -> tuple[Fraction, ...] | None:
    """A point with a·x + a_0 > 0 for every row (a, a_0), or None if there is none."""
    rows = _tidy(system)
    if rows is None or dimension == 0:
        return None if rows is None else ()
    last = dimension - 1
    lower = [row for row in rows if row[last] > 0]
    upper = [row for row in rows if row[last] < 0]
    shadow = [row for row in rows if row[last] == 0]
    shadow += [combine(a, -b[last], b, a[last]) for a, b in product(lower, upper)]
    point = interior_point((row[:last] + row[-1:] for row in shadow), last)
    if point is None:
        return None

    def bound(row: Affine) -> Fraction:
        return -(sum((c * x for c, x in zip(row, point, strict=False)), row[-1])) / row[last]

    low = max(map(bound, lower), default=None)
    high = min(map(bound, upper), default=None)
    if low is None:
        return (*point, Fraction(0) if high is None or high > 0 else Fraction(floor(high) - 1))
    simple = Fraction(max(floor(low) + 1, 0))
    return (*point, simple if high is None or simple < high else (low + high) / 2)


def possible(system: Iterable[Affine], dimension: int) -> bool:
    """Whether the rows hold on an open set; a row that is identically zero is a tie and always holds."""
    return interior_point((row for row in system if any(row)), dimension) is not None


def irredundant(system: Iterable[Affine], given: Sequence[Affine], dimension: int) -> tuple[Affine, ...]:
    """The rows implied neither by the others nor by what is given; for an open region they are unique."""
    rows = sorted(_tidy(row for row in system if any(row)) or [], reverse=True)
    for row in list(rows):
        others = [other for other in rows if other != row]
        if not possible([*others, *given, negative(row)], dimension):
            rows = others
    return tuple(rows)


def convex_union(a: tuple[Affine, ...], b: tuple[Affine, ...], given: Sequence[Affine],
                 dimension: int) -> tuple[Affine, ...] | None:
    """The union of two regions if it is convex, None otherwise."""

    def outside(row: Affine, region: tuple[Affine, ...]) -> bool:
        return possible([*region, *given, negative(row)], dimension)

    cuts_a, cuts_b = [r for r in a if outside(r, b)], [r for r in b if outside(r, a)]
    outer = [r for r in a if r not in cuts_a] + [r for r in b if r not in cuts_b]
    if any(possible([*outer, *given, negative(r), negative(s)], dimension) for r in cuts_a for s in cuts_b):
        return None
    return irredundant(outer, given, dimension)


def substitute(row: Affine, solution: Mapping[int, Affine]) -> Affine:
    """Replace variables, by position, by their affine values."""
    for k, value in solution.items():
        if row[k]:
            row = combine(tuple(c if i != k else Fraction(0) for i, c in enumerate(row)), 1, value, row[k])
    return row


# ------------------------------------------------------------------------------ exponents of expressions


def affine(expr: Any, variables: Sequence[sp.Symbol], offset: int = 0) -> Affine:
    """Read an affine expression with rational coefficients, after ``offset`` zeros."""
    expr = sp.expand(sp.nsimplify(sp.sympify(expr), rational=True))
    coefficients = [expr.coeff(v) for v in variables]
    constant = expr - sum((c * v for c, v in zip(coefficients, variables, strict=True)), sp.S.Zero)
    numbers = [*coefficients, sp.expand(constant)]
    if not all(number.is_Rational for number in numbers):
        names = ", ".join(map(str, variables)) or "no symbol"
        raise BadInput("exponents", expr, f"an affine expression, with rational coefficients, in {names}")
    return (Fraction(0),) * offset + tuple(Fraction(int(n.p), int(n.q)) for n in numbers)


def affine_expr(vector: Affine, variables: Sequence[sp.Expr]) -> sp.Expr:
    return sp.Add(*(sp.Rational(c) * v for c, v in zip(vector, (*variables, sp.S.One), strict=True)))


def relation(row: Affine, variables: Sequence[sp.Expr], *, strict: bool = False) -> sp.Rel:
    """a·x + a_0 ≥ 0 (> 0) with coprime integers, every term on the side where it is positive."""
    scale = sp.ilcm(*(c.denominator for c in row))
    whole = [int(c * int(scale)) for c in row]
    unit = int(sp.igcd(*whole))
    left = affine_expr(tuple(Fraction(max(-c, 0), unit) for c in whole), variables)
    right = affine_expr(tuple(Fraction(max(c, 0), unit) for c in whole), variables)
    return (sp.Lt if strict else sp.Le)(left, right, evaluate=False)


def ordered(items: Iterable[Any]) -> list[Any]:
    """In an order that does not depend on hashing."""
    return sorted(items, key=sp.default_sort_key)


def distributed(expr: sp.Expr) -> list[sp.Expr]:
    """Multiply out sums at the top of an expression."""
    if expr.is_Add:
        return [term for arg in expr.args for term in distributed(arg)]
    if expr.is_Pow and expr.base.is_Add and expr.exp in (2, 3, 4):
        return [sp.Mul(*choice) for choice in product(distributed(expr.base), repeat=int(expr.exp))]
    if expr.is_Mul and any(arg.is_Add or (arg.is_Pow and arg.base.is_Add) for arg in expr.args):
        return [sp.Mul(*choice) for choice in product(*map(distributed, expr.args))]
    return [expr]


def split_terms(expr: sp.Expr) -> list[sp.Expr]:
    """The terms of an expression multiplied out at the top only: denominators stay as they are."""
    return ordered(term for term in sp.Add.make_args(sp.Add(*distributed(expr))) if term != 0)


def inner_sums(expr: sp.Basic, found: dict[sp.Expr, None]) -> None:
    """Every Add whose dominating term matters, innermost first."""
    if isinstance(expr, SpaceSum):
        inner_sums(expr.body, found)
        inner_sums(expr.space.size, found)
    elif isinstance(expr, sp.Pow):
        inner_sums(expr.base, found)
    elif isinstance(expr, sp.Add | sp.Mul | sp.Abs):
        for arg in ordered(expr.args):
            inner_sums(arg, found)
        if expr.is_Add:
            found.setdefault(expr)


def _unsigned(atom: sp.Basic) -> Sign:
    return 1, frozenset((atom,))


def compatible(a: Sign, b: Sign) -> bool:
    """Whether two terms may have opposite signs."""
    return bool(a[1] ^ b[1]) or a[0] * b[0] < 0


class Scales:
    """What is known of every exponent: vectors over the unknown exponents, then the symbolic parameters."""

    def __init__(self, expressions: Sequence[sp.Expr], unknowns: Sequence[sp.Expr],
                 exponents: Mapping[Any, Any], constraints: Sequence[Any]) -> None:
        self.unknowns = tuple(sp.sympify(unknown) for unknown in unknowns)
        for unknown in self.unknowns:
            if not isinstance(unknown, sp.Symbol | Entry):
                raise BadInput("unknowns", unknown, "symbols or entries")
        values = {sp.sympify(key): sp.sympify(value) for key, value in exponents.items()}
        clash = [unknown for unknown in self.unknowns if unknown in values]
        if clash or len(set(self.unknowns)) < len(self.unknowns):
            raise BadInput("unknowns", clash or self.unknowns, "distinct ones without a given exponent")
        self.constraints = tuple(c for c in map(sp.sympify, constraints) if c != sp.true)
        for c in self.constraints:
            if not isinstance(c, sp.Eq | sp.Ge | sp.Gt | sp.Le | sp.Lt):
                raise BadInput("constraints", c, "inequalities or equations in the exponents")
        powers = [power.exp for expr in expressions for power in ordered(expr.atoms(sp.Pow))]
        seen: dict[sp.Symbol, None] = {}
        for expr in (*values.values(), *self.constraints, *powers):
            seen.update(dict.fromkeys(s for s in ordered(expr.free_symbols) if s not in values))
        self.fixed: dict[sp.Symbol, sp.Expr] = {}
        for c in self.constraints:
            if isinstance(c, sp.Eq):
                self._fix(c.lhs - c.rhs, list(seen))
        self.parameters = tuple(symbol for symbol in seen if symbol not in self.fixed)
        self.variables = (*self.unknowns, *self.parameters)
        self.dimension = len(self.variables)
        self.zero: Affine = (Fraction(0),) * (self.dimension + 1)
        self.known = {key: self.vector(value) for key, value in values.items()}
        for k, unknown in enumerate(self.unknowns):
            self.known[unknown] = tuple(Fraction(i == k) for i in range(self.dimension + 1))
        self.given = [self.vector(c.lhs - c.rhs if isinstance(c, sp.Ge | sp.Gt) else c.rhs - c.lhs)
                      for c in self.constraints if not isinstance(c, sp.Eq)]
        if not possible(self.given, self.dimension):
            raise BadInput("constraints", self.constraints, "an open region (fix an exponent by Eq)")
        self.logarithms = False  # met so far; and the factors whose unknown sign let a balance pass
        self.unsigned: dict[sp.Basic, None] = {}

    def _fix(self, equation: sp.Expr, order: list[sp.Symbol]) -> None:
        equation = sp.expand(equation.xreplace(self.fixed))
        symbol = next((s for s in reversed(order) if equation.has(s)), None)
        if symbol is None:
            if equation != 0:
                raise BadInput("constraints", self.constraints, "equations without contradiction")
            return
        value = sp.expand(symbol - equation / equation.coeff(symbol))
        self.fixed = {s: sp.expand(old.xreplace({symbol: value})) for s, old in self.fixed.items()}
        self.fixed[symbol] = value

    def vector(self, expr: Any) -> Affine:
        """The exponent that an expression in the parameters is."""
        return affine(sp.sympify(expr).xreplace(self.fixed), self.parameters, len(self.unknowns))

    def expr(self, vector: Affine) -> sp.Expr:
        return affine_expr(vector, self.variables)

    def growth(self, expr: sp.Expr, branches: Branches) -> tuple[Affine, Sign]:
        """Exponent and sign of an expression, the dominating term of every inner sum being chosen."""
        if expr in branches:
            return branches[expr]
        if expr in self.known:
            vector = self.known[expr]
        elif isinstance(expr, Entry):
            if not expr.is_data:
                raise BadInput("exponents", f"none for the field {expr}", "its exponent, or it as an unknown")
            vector = self.zero
        elif expr.is_number or isinstance(expr, sp.log):
            self.logarithms |= not expr.is_number
            vector = self.zero
        elif isinstance(expr, sp.Mul):
            vector, sign = self.zero, 1
            odd: frozenset[sp.Basic] = frozenset()
            for factor in expr.args:
                v, (s, atoms) = self.growth(factor, branches)
                vector, sign, odd = combine(vector, 1, v, 1), sign * s, odd ^ atoms
            return vector, (sign, odd)
        elif isinstance(expr, sp.Pow):
            return self._power(expr, branches)
        elif isinstance(expr, SpaceSum):
            body, (sign, atoms) = self.growth(expr.body, branches)
            size, _ = self.growth(expr.space.size, branches)
            return combine(body, 1, size, 1), _unsigned(expr) if atoms else (sign, atoms)
        elif isinstance(expr, sp.Abs):
            return self.growth(expr.args[0], branches)[0], (1, frozenset())
        elif isinstance(expr, sp.Symbol):
            raise BadInput("exponents", f"none for {expr}", f"the exponent of {expr} (0 if it is fixed)")
        else:
            raise RuleError(f"the scale of {sp.sstr(expr)} is not known to be a power: give it an exponent, "
                            "or name it (or its exponential) by a symbol")
        if expr.is_nonnegative:
            return vector, (1, frozenset())
        return vector, (-1, frozenset()) if expr.is_nonpositive else _unsigned(expr)

    def _power(self, expr: sp.Pow, branches: Branches) -> tuple[Affine, Sign]:
        vector, (sign, atoms) = self.growth(expr.base, branches)
        power = expr.exp
        if power.is_Rational:
            scaled = tuple(Fraction(int(power.p), int(power.q)) * c for c in vector)
            if power.is_Integer and power % 2:
                return scaled, (sign, atoms)
            if power.is_Integer and expr.base.is_extended_real is False:
                return scaled, _unsigned(expr)
            return scaled, (1, frozenset())
        if any(vector[:-1]):
            raise BadInput("exponents", expr, "a symbolic power only of something with a numerical exponent")
        return tuple(vector[-1] * c for c in self.vector(power)), (1, frozenset())

    def groups(self, terms: Iterable[sp.Expr], branches: Branches,
               solution: Mapping[int, Affine]) -> dict[Affine, list[tuple[sp.Expr, Sign]]]:
        """Terms by exponent."""
        found: dict[Affine, list[tuple[sp.Expr, Sign]]] = {}
        for term in terms:
            vector, sign = self.growth(term, branches)
            found.setdefault(substitute(vector, solution), []).append((term, sign))
        return found

    def cells(self, inner: Sequence[sp.Expr], system: list[Affine], branches: Branches,
              solution: Mapping[int, Affine]) -> Iterator[tuple[Branches, list[Affine]]]:
        """All consistent choices of the dominating term of every inner sum, with their inequalities."""
        if not inner:
            yield branches, system
            return
        total, *rest = inner
        groups = self.groups(ordered(total.args), branches, solution)
        for vector, terms in groups.items():
            narrower = system + [combine(vector, 1, other, -1) for other in groups if other != vector]
            if possible(narrower, self.dimension):
                signs = {sign for _, sign in terms}
                sign = signs.pop() if len(signs) == 1 else _unsigned(total)
                yield from self.cells(rest, narrower, {**branches, total: (vector, sign)}, solution)
