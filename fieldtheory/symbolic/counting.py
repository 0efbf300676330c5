"""Powers of the large parameter, computed: dominant balance, chamber by chamber.

An equation of state holds at leading order when two terms of opposite sign share the largest exponent.
For each choice of the dominating term in every inner sum (Qλ + s: two) and one balanced pair per
equation, the unknown exponents solve a linear system; the choice is consistent on a polyhedron of the
symbolic exponents (γ, δ, p, ...), a *chamber*.

The result holds under assumptions, which it states: a sum over a space of size N^p counts N^p because a fixed
fraction of its terms carries it, data are Θ(1), terms of one order do not cancel.  Real data (a largest
eigenvalue that grows with P) and spectra with a hard edge violate them: certify an exponent by a measured
slope.  Logarithms count as exponent 0.

Derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import combinations, product
from operator import mul
from typing import Any

import sympy as sp

from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.symbolic.fields import SpaceSum, entries, vary
from fieldtheory.symbolic.maxplus import (
    Affine,
    Scales,
    affine,
    combine,
    compatible,
    convex_union,
    distributed,
    inner_sums,
    interior_point,
    irredundant,
    ordered,
    possible,
    relation,
    split_terms,
    substitute,
)
from fieldtheory.symbolic.printing import latex

# --------------------------------------------------------------------------------------------------- chambers


def _point(values: Mapping[Any, Any] | None, named: Mapping[str, Any]) -> dict[str, sp.Expr]:
    given = {**{str(key): value for key, value in (values or {}).items()}, **named}
    return {name: sp.nsimplify(sp.sympify(value), rational=True) for name, value in given.items()}


def _at(expr: Any, point: Mapping[str, sp.Expr]) -> sp.Expr:
    return expr.xreplace({s: point[s.name] for s in expr.free_symbols if s.name in point})


def _slack(relation: sp.Rel, point: Mapping[str, sp.Expr]) -> tuple[sp.Expr, ...]:
    """What must be ≥ 0 for the relation to hold."""
    gap = sp.expand(_at(relation.gts - relation.lts if not isinstance(relation, sp.Eq)
                        else relation.lhs - relation.rhs, point))
    return (gap, -gap) if isinstance(relation, sp.Eq) else (gap,)


@dataclass(frozen=True)
class Chamber:
    """One dominant balance, and the closed polyhedron of exponents on which it is consistent.

    ``exponents`` of the unknowns and ``contributions`` by label are affine in the symbolic exponents;
    ``conditions`` hold beside the ``constraints`` that the caller imposed; ``leading`` lists, for each
    equation, the terms that balance (inside: more may join them on the boundary); ``dominant`` the largest
    contributions, corrections left out.
    """

    exponents: Mapping[sp.Expr, sp.Expr]
    conditions: tuple[sp.Rel, ...]
    leading: tuple[tuple[sp.Expr, ...], ...]
    contributions: Mapping[str, sp.Expr]
    constraints: tuple[sp.Rel, ...] = ()
    dominant: tuple[str, ...] = ()

    def contains(self, point: Mapping[Any, Any] | None = None, **named: Any) -> bool:
        """Whether a numerical point, by symbol or by name, lies in the chamber or on its boundary."""
        values = _point(point, named)
        gaps = [gap for relation in (*self.conditions, *self.constraints) for gap in _slack(relation, values)]
        missing = sorted({s.name for gap in gaps for s in gap.free_symbols})
        if missing:
            raise BadInput("point", "no value", f"values of {', '.join(missing)}")
        return all(gap >= 0 for gap in gaps)

    def at(self, point: Mapping[Any, Any] | None = None, **named: Any) -> Chamber:
        """The chamber with some exponents set to numbers; BadInput when they lie outside."""
        values = _point(point, named)
        conditions = []
        for condition in (*self.conditions, *self.constraints):
            gaps = _slack(condition, values)
            if any(gap.is_number and gap < 0 for gap in gaps):
                raise BadInput("point", values, f"a point with {condition}")
            if any(gap.free_symbols for gap in gaps):
                conditions.append(condition.func(_at(condition.lhs, values), _at(condition.rhs, values)))
        return replace(self, exponents={k: _at(e, values) for k, e in self.exponents.items()},
                       contributions={k: _at(e, values) for k, e in self.contributions.items()},
                       conditions=tuple(c for c in conditions if c != sp.true), constraints=())


def select_chamber(chambers: Iterable[Chamber], point: Mapping[Any, Any] | None = None,
                   **named: Any) -> tuple[Chamber, ...]:
    """The chambers that contain a point, with numerical exponents there.

    Neighbours agree on their common boundary and count once; more are left when several solutions coexist.
    """
    found: list[Chamber] = []
    for chamber in chambers:
        if chamber.contains(point, **named):
            here = chamber.at(point, **named)
            if (here.exponents, here.contributions) not in ((c.exponents, c.contributions) for c in found):
                found.append(here)
    return tuple(found)


def stationarity(action: sp.Expr, unknowns: Sequence[sp.Expr]) -> tuple[sp.Expr, ...]:
    """The equations x δS/δx = 0; the factor x leaves the balance alone and makes the terms those of S."""
    return tuple(sp.Add(*distributed(unknown * vary(action, unknown))) for unknown in unknowns)


def exponent(expr: Any, exponents: Mapping[Any, Any]) -> sp.Expr:
    """The exponent of a product of powers, such as σ_a² N^(1-γ); RuleError where a sum makes it ambiguous."""
    expr = sp.sympify(expr)
    scales = Scales([expr], (), exponents, ())
    inner: dict[sp.Expr, None] = {}
    inner_sums(expr, inner)
    found = {scales.growth(expr, branches)[0] for branches, _ in scales.cells(list(inner), [], {}, {})}
    if len(found) != 1:
        raise RuleError(f"the exponent of {expr} depends on which of its terms dominates")
    return scales.expr(found.pop())


Cell = tuple[dict[int, Affine], tuple[Affine, ...], tuple[tuple[sp.Expr, ...], ...]]
"""Solution by position of the unknown, region, and the balancing terms of each equation."""


def _equations(equations: Any, unknowns: Any) -> list[sp.Expr]:
    listed = [equations] if isinstance(equations, sp.Basic) else list(equations)
    result = [e.lhs - e.rhs if isinstance(e, sp.Eq) else sp.sympify(e) for e in listed]
    if len(result) != len(unknowns):
        raise BadInput("equations", f"{len(result)}", f"as many as unknowns, {len(unknowns)}")
    return result


def _balance(scales: Scales, equations: Sequence[sp.Expr]) -> list[Cell]:
    terms = [split_terms(equation) for equation in equations]
    inner: dict[sp.Expr, None] = {}
    for term in (term for group in terms for term in group):
        inner_sums(term, inner)
    m = len(scales.unknowns)

    def search(k: int, solution: dict[int, Affine],
               system: list[Affine]) -> Iterator[tuple[dict[int, Affine], list[Affine]]]:
        if k == len(terms):
            yield solution, system
            return
        groups = scales.groups(terms[k], branches, solution)
        for first, second in combinations(groups, 2):
            pairs = [(s, t) for (_, s), (_, t) in product(groups[first], groups[second]) if compatible(s, t)]
            if not pairs:
                continue
            row = combine(first, 1, second, -1)
            pivot = next((i for i in range(m) if row[i]), None)
            if pivot is None:  # fixes the parameters, not an unknown: no open region
                continue
            value = tuple(-c / row[pivot] if i != pivot else Fraction(0) for i, c in enumerate(row))
            solved = {i: substitute(v, {pivot: value}) for i, v in solution.items()} | {pivot: value}
            largest = [combine(first, 1, other, -1) for other in groups if other not in (first, second)]
            narrower = [substitute(r, solved) for r in system + largest]
            if possible(narrower, scales.dimension):
                if all(s[1] ^ t[1] for s, t in pairs):
                    scales.unsigned.update(dict.fromkeys(atom for s, t in pairs for atom in s[1] ^ t[1]))
                yield from search(k + 1, solved, narrower)

    cells: dict[Any, Cell] = {}  # a tie between branches yields the same cell twice
    for branches, system in scales.cells(list(inner), list(scales.given), {}, {}):
        for solution, narrower in search(0, {}, system):
            facets = irredundant(narrower, scales.given, scales.dimension)
            leading = []
            at = (*(interior_point([*facets, *scales.given], scales.dimension) or ()), Fraction(1))
            for group in terms:
                found = scales.groups(group, branches, solution)
                top = max(found, key=lambda v: sum(map(mul, v, at)))
                leading.append(tuple(term for term, _ in found[top]))
            key = tuple(solution[i] for i in range(m)), facets
            cells.setdefault(key, (solution, facets, tuple(leading)))
    return [cells[key] for key in sorted(cells)]


def balance(equations: Any, unknowns: Sequence[sp.Expr], exponents: Mapping[Any, Any],
            constraints: Sequence[Any] = ()) -> tuple[Chamber, ...]:
    """All dominant balances of equations of state.

    Parameters
    ----------
    equations : expressions that vanish, or Eq, as many as unknowns; one may be given alone.  For an action
        take ``stationarity(action, unknowns)``, after replacing u by log(Q) where it holds Q = exp(u).
    unknowns : symbols or entries whose exponents are sought; a positive one has a sign, others take either.
    exponents : of every other symbol (sizes of spaces included) and field, affine in symbolic exponents:
        ``{N: 1, g: 1 - gamma, s: -delta, P: p}``; any other node may be given one too.  Data entries default
        to 0.  Powers such as N**(1 - gamma) may also stand in the equations.
    constraints : inequalities that the symbolic exponents obey; an Eq eliminates one of them.

    Returns
    -------
    Chambers with an interior, in an order that depends on no name; where they overlap, solutions coexist.

    Raises
    ------
    BadInput, RuleError
        For a symbol without an exponent, an exponent that is not affine, a function that has no power.
    """
    listed = _equations(equations, unknowns)
    scales = Scales(listed, unknowns, exponents, constraints)
    return tuple(_chamber(scales, cell) for cell in _balance(scales, listed))


def _chamber(scales: Scales, cell: Cell, contributions: Mapping[str, Affine] | None = None,
             dominant: tuple[str, ...] = ()) -> Chamber:
    solution, facets, leading = cell
    return Chamber({unknown: scales.expr(solution[k]) for k, unknown in enumerate(scales.unknowns)},
                   tuple(relation(row, scales.variables) for row in facets), leading,
                   {label: scales.expr(vector) for label, vector in (contributions or {}).items()},
                   scales.constraints, dominant)


# -------------------------------------------------------------------------- power counting of an expansion


@dataclass(frozen=True)
class SaddleReport:
    """Whether a saddle suffices at a point: the largest correction is of order N^relative_order, relative."""

    suffices: bool
    relative_order: sp.Rational
    correction: str
    leading: tuple[str, ...]
    solutions: tuple[Chamber, ...]

    def __bool__(self) -> bool:
        return self.suffices


@dataclass(frozen=True)
class PowerCounting:
    """The exponent of every contribution, chamber by chamber, under the stated assumptions."""

    chambers: tuple[Chamber, ...]
    corrections: tuple[str, ...]
    parameters: tuple[sp.Symbol, ...]
    assumptions: tuple[str, ...]
    given: tuple[Affine, ...] = field(default=(), repr=False)  # the constraints as rows, over the parameters

    def at(self, point: Mapping[Any, Any] | None = None, **named: Any) -> tuple[Chamber, ...]:
        """The solutions at a numerical point (more than one where several coexist).

        Raises
        ------
        BadInput, UnknownName
            For an exponent without a number, and a name that is none of the exponents.
        """
        given = [str(key) for key in (*(point or {}), *named)]
        names = [str(parameter) for parameter in self.parameters]
        for name in given:
            if name not in names:
                raise UnknownName("point", name, names)
        missing = [name for name in names if name not in given]
        if missing:
            raise BadInput("point", f"no {', '.join(missing)}", f"a number for each of {', '.join(names)}")
        found = select_chamber(self.chambers, point, **named)
        if not found:
            raise RuleError(f"no dominant balance at {_point(point, named)}")
        return found

    def leading(self, point: Mapping[Any, Any] | None = None, **named: Any) -> tuple[tuple[str, ...], ...]:
        """The labels of the largest contributions, corrections included, one tuple per solution."""
        solutions = [solution.contributions for solution in self.at(point, **named)]
        return tuple(tuple(label for label, e in found.items() if e == max(found.values()))
                     for found in solutions)

    def saddle_suffices(self, point: Mapping[Any, Any] | None = None, **named: Any) -> SaddleReport:
        """Whether every correction is of lower order than the leading contributions, in every solution."""
        if not self.corrections:
            raise BadInput("corrections", "none", "the labels that the saddle leaves out")
        solutions = self.at(point, **named)
        reports = []
        for solution in solutions:
            kept = {k: e for k, e in solution.contributions.items() if k not in self.corrections}
            top = max(kept.values())
            leading = tuple(k for k, e in kept.items() if e == top)
            for label in self.corrections:
                order = solution.contributions[label] - top
                reports.append(SaddleReport(bool(order < 0), order, label, leading, solutions))
        return max(reports, key=lambda report: report.relative_order)

    def saddle_regions(self) -> tuple[tuple[sp.Rel, ...], ...]:
        """Where the saddle suffices: inequalities, one tuple for each chamber that has such points.

        In each, the chamber's conditions (≤) and every relative order below zero (<).
        """
        regions = []
        for chamber in self.chambers:
            top = chamber.contributions[chamber.dominant[0]]
            below = [affine(top - chamber.contributions[k], self.parameters) for k in self.corrections]
            closed = [affine(gap, self.parameters) for r in chamber.conditions for gap in _slack(r, {})]
            if interior_point([*closed, *below, *self.given], len(self.parameters)) is not None:
                strict = dict.fromkeys(row for row in below if any(row[:-1]))
                regions.append((*chamber.conditions,
                                *(relation(row, self.parameters, strict=True) for row in strict)))
        return tuple(regions)

    def regions(self) -> dict[str, tuple[tuple[sp.Rel, ...], ...]]:
        """The verdicts that can be told, each with the polyhedra where it holds."""
        return {"saddle": self.saddle_regions()}

    def plot(self, x: Any, y: Any, panels: Sequence[Mapping[Any, Any]] = ({},), **options: Any) -> Any:
        """``regions`` over two exponents, the others fixed in each panel (:func:`.export.phases.phase_diagram`)."""
        from fieldtheory.export.phases import phase_diagram

        return phase_diagram(self, x, y, panels, **options)

    def table(self) -> list[list[Any]]:
        """A header, then a row for each chamber: its conditions, and the exponents of N of the unknowns and
        of the contributions.  Cells are words or expressions; ``str()`` sets the same table as text.
        """
        first = self.chambers[0] if self.chambers else Chamber({}, (), (), {})
        rows = [[_all_of(chamber.conditions), *chamber.exponents.values(), *chamber.contributions.values()]
                for chamber in self.chambers]
        return [["where", *first.exponents, *first.contributions], *rows]

    def _shown(self, show: Callable[[sp.Basic], str], word: Callable[[str], str]) -> list[list[str]]:
        rows = [[word(cell) if isinstance(cell, str) else show(cell) for cell in row] for row in self.table()]
        for row, chamber in zip(rows[1:], self.chambers, strict=True):
            row[0] = ", ".join(map(show, chamber.conditions)) or word("always")
        return rows

    def __str__(self) -> str:
        rows = self._shown(sp.sstr, str)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])

    def _repr_latex_(self) -> str:
        head, *body = (" & ".join(row) for row in self._shown(latex, lambda word: rf"\text{{{word}}}"))
        columns = "l|" + "c" * (len(self.table()[0]) - 1)
        rows = r" \\ ".join(body)
        return rf"$\displaystyle \begin{{array}}{{{columns}}} {head} \\ \hline {rows} \end{{array}}$"


def _all_of(conditions: tuple[sp.Rel, ...]) -> Any:
    if len(conditions) == 1:
        return conditions[0]
    return sp.And(*conditions, evaluate=False) if conditions else "always"


def _assumptions(scales: Scales, expressions: Sequence[sp.Expr]) -> tuple[str, ...]:
    data = ordered({e for expr in expressions for e in entries(expr) if e.is_data} - set(scales.known))
    spaces = ordered({total.space for expr in expressions for total in expr.atoms(SpaceSum)})
    lines = []
    if data:
        lines.append(f"{', '.join(e.name for e in data)}: every entry is of order 1 in the large parameter")
    lines += [f"a fixed fraction of the {s.size} terms carries a sum over {s.name}" for s in spaces]
    lines.append("terms of one order do not cancel, beyond the balance of each equation")
    if scales.unsigned:
        names = ", ".join(map(sp.sstr, ordered(scales.unsigned)))
        lines.append(f"the sign of {names} is not known: balances of either sign are kept")
    if scales.logarithms:
        lines.append("exponents hold up to logarithms")
    lines += [f"{key} grows with exponent {scales.expr(v)}" for key, v in scales.known.items()
              if key not in scales.unknowns]
    return (*lines, *(f"only where {constraint}" for constraint in scales.constraints))


def power_counting(equations: Any, unknowns: Sequence[sp.Expr], exponents: Mapping[Any, Any],
                   contributions: Mapping[str, Any], *, corrections: Sequence[str] = (),
                   constraints: Sequence[Any] = ()) -> PowerCounting:
    """The exponent of every labelled contribution in every chamber of the balance of the equations.

    ``contributions`` are any expressions in the same symbols (terms of the action or of an equation, loop
    corrections), ``corrections`` the labels that a saddle leaves out.  Chambers are split until every
    contribution is a single power and one of the others is the largest.  Arguments and errors else as in
    ``balance``.
    """
    listed = _equations(equations, unknowns)
    labelled = {label: split_terms(sp.sympify(expr)) for label, expr in contributions.items()}
    for label, terms in labelled.items():
        if not terms:
            raise BadInput("contributions", f"{label} = 0", "expressions that do not vanish")
    for label in corrections:
        if label not in labelled:
            raise BadInput("corrections", label, f"labels among {', '.join(labelled)}")
    kept = [label for label in labelled if label not in corrections]
    if not kept:
        raise BadInput("corrections", ", ".join(corrections), "at least one contribution that is none")
    totals = {label: sp.Add(*terms) for label, terms in labelled.items()}
    scales = Scales([*listed, *totals.values()], unknowns, exponents, constraints)
    inner: dict[sp.Expr, None] = {}
    for total in totals.values():
        inner_sums(total, inner)
    chambers = []
    for cell in _balance(scales, listed):
        solution, facets, leading = cell
        raw: list[tuple[tuple[Affine, ...], tuple[int, ...], tuple[Affine, ...]]] = []
        pieces: list[tuple[tuple[Affine, ...], tuple[int, ...], tuple[Affine, ...]]] = []
        for branches, system in scales.cells(list(inner), [*scales.given, *facets], {}, solution):
            found = {label: substitute(scales.growth(total, branches)[0], solution)
                     for label, total in totals.items()}
            for top in dict.fromkeys(found[label] for label in kept):
                narrower = system + [combine(top, 1, found[label], -1) for label in kept]
                if possible(narrower, scales.dimension):
                    dominant = tuple(k for k, label in enumerate(kept) if found[label] == top)
                    raw.append((tuple(found.values()), dominant,
                                irredundant(narrower, scales.given, scales.dimension)))
        for piece in sorted(raw):
            _absorb(pieces, piece, scales)
        for vectors, dominant, region in sorted(pieces):
            chambers.append(_chamber(scales, (solution, region, leading),
                                     dict(zip(totals, vectors, strict=True)),
                                     tuple(kept[k] for k in dominant)))
    return PowerCounting(tuple(chambers), tuple(corrections), scales.parameters,
                         _assumptions(scales, [*listed, *totals.values()]),
                         tuple(row[len(scales.unknowns):] for row in scales.given))


def _absorb(pieces: list[Any], piece: Any, scales: Scales) -> None:
    """Add a piece, merged with those that have the same exponents wherever the union is convex."""
    for k, (vectors, dominant, region) in enumerate(pieces):
        if (vectors, dominant) == piece[:2]:
            union = convex_union(region, piece[2], scales.given, scales.dimension)
            if union is not None:
                del pieces[k]
                _absorb(pieces, (vectors, dominant, union), scales)
                return
    pieces.append(piece)
