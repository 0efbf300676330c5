r"""Power counting of a loop expansion: which order of loops is how large, and where a fixed order closes.

A connected vacuum diagram with n_v vertices of type v and m_e lines of type e is of order N^x with

    x = Σ_v n_v x_v + Σ_e m_e x_e,        L - 1 = Σ_v n_v ℓ_v,        ℓ_v = (legs of v)/2 - 1,

x_v and x_e the exponents of vertices and lines.  Every end of a line sits on a leg of its field, so that (n, m) lies in
the cone of non-negative solutions of one equation per field.  A connected diagram has, for every set A of fields, at
least as many lines that touch A as vertices with legs in A alone (one less, if these are all): contract the others to
one point.  Vertices with three legs obey this by themselves.  A cone is spanned by its extreme rays, the
*generators*: solutions with the fewest types of vertices and lines.  Every diagram is a sum of them, up to a bounded
part, so that its exponent is at most

    x ≤ offset + (L - 1) ρ,        ρ = max over generators of (Σ n x_v + Σ m x_e) / Σ n ℓ_v,

and copies of the best generator, joined along their lines, reach ρ.  Without one- and two-leg vertices the offset is
zero.  For one field the generators are the vertices, each with half as many lines as it has legs:
ρ = max_v (x_v + (k_v/2) x_G)/(k_v/2 - 1).

A field over a space of size N^p has loops of its collective variables (M, h), see :mod:`collective`; their vertices
hold the loops at one point of the space, so that ℓ_v is half their power of ħ^(1/2), and one- and two-leg vertices
occur: the bubble Σ_k m''²/(2d²) with two legs h is one; a generator made of it and the line ⟨hh⟩ is the chain of
bubbles.

A fixed loop order closes if ρ < 0: each further loop is smaller by N^ρ.  At ρ = 0 every order is as large as the one
before, at ρ > 0 larger.

What is counted are the largest diagrams: where these cancel among themselves, by a symmetry, a loop order may be
smaller than counted, and the count is an upper bound.  (Where the root of the linear network runs, its leading diagrams
add up to an even function of ħ, and three loops are smaller than their diagrams.)  Derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import floor
from typing import Any

import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.symbolic.closures import Closure, FieldClosure, ScalarClosure
from fieldtheory.symbolic.collective import CollectiveExpansion
from fieldtheory.symbolic.cone import Content, Line, Vertex, contents, generators, one_more_leg
from fieldtheory.symbolic.counting import Chamber, PowerCounting, _slack, power_counting
from fieldtheory.symbolic.fields import Entry, entries
from fieldtheory.symbolic.loops import scalar_derivatives
from fieldtheory.symbolic.maxplus import Affine, affine, affine_expr, combine, negative, possible, relation, substitute
from fieldtheory.symbolic.printing import latex
from fieldtheory.symbolic.structured import log_partition_terms

SADDLE, FINITE, EQUAL, GROWING = "saddle", "finite", "equal", "growing"
WORDS = {SADDLE: "the saddle suffices", FINITE: "finitely many loop orders survive",
         EQUAL: "every loop order is equally large", GROWING: "every loop order is larger than the one before"}

# ---------------------------------------------------------------------------------------- what is found


@dataclass(frozen=True)
class LoopReport:
    """Whether a loop expansion closes at a point of the exponents, and what to do if not; true if it closes.

    ``verdict`` is "saddle", "finite", "equal" or "growing"; ``orders`` the exponent of N of every loop order,
    ``leading`` that of the largest tree-level term (or of one, where there is none); ``growth`` the exponent that each
    further loop adds, by ``generator``; ``through`` the number of loops that reach the accuracy asked for, None if no
    number does.
    """

    verdict: str
    orders: Mapping[str, sp.Rational]
    leading: sp.Rational
    growth: sp.Rational
    generator: str
    through: int | None
    route: str
    solutions: tuple[Chamber, ...] = field(default=(), repr=False)

    def __bool__(self) -> bool:
        return self.verdict in (SADDLE, FINITE)

    @property
    def relative_order(self) -> sp.Rational:
        """The exponent of the largest loop order known, relative to the leading term."""
        return max(self.orders.values(), default=-sp.oo) - self.leading

    def _lines(self, show: Callable[[Any], str]) -> list[str]:
        exponents = list(self.orders.values())
        each = ", ".join(f"{label} {show(e)}" for label, e in self.orders.items())
        if self:
            needed = f"; {self.through} loop orders reach the accuracy asked for" if self.verdict == FINITE else ""
            closing = f"a fixed loop order closes: each further loop adds {show(self.growth)}{needed}"
        elif len(set(exponents)) == 1:
            closing = (f"no fixed loop order closes: {', '.join(self.orders)} and all further ones have the exponent "
                       f"{show(exponents[0])}")
        else:
            closing = f"no fixed loop order closes: each further loop adds {show(self.growth)}"
        lines = [f"{WORDS[self.verdict]}; leading exponent {show(self.leading)}", f"exponents by order: {each}",
                 closing]
        return lines if self else [*lines, f"repeated in the largest diagrams: {self.generator}", self.route]

    def __str__(self) -> str:
        return "\n".join(line for line in self._lines(str) if line)

    def _repr_latex_(self) -> str:
        rows = [f"{label} & N^{{{latex(e)}}}" for label, e in
                (("leading", self.leading), *self.orders.items(), ("per loop", self.growth))]
        rows = [rf"\text{{{row.partition(' & ')[0]}}} & {row.partition(' & ')[2]}" for row in rows]
        body = r" \\ ".join([*rows, rf"\hline \text{{{WORDS[self.verdict]}}} &"])
        return rf"$\displaystyle \begin{{array}}{{l|c}} {body} \end{{array}}$"


@dataclass(frozen=True)
class LoopCounting(PowerCounting):
    """Exponents of N of vertices, lines and loop orders, chamber by chamber, and where the expansion closes.

    ``corrections`` are labels of what is known beside the leading terms; ``orders`` what the diagrams of each further
    loop order are made of, ``rays`` the generators of their cone.  Beside what `PowerCounting` offers: ``order``,
    ``growth``, ``regions`` and ``report``.
    """

    orders: Mapping[str, tuple[Content, ...]] = field(default_factory=dict)
    rays: tuple[Content, ...] = ()
    route: str = ""

    def order(self, label: str, chamber: Chamber) -> dict[sp.Expr, Content]:
        """The exponent of a loop order, the largest of these, each with diagrams that have it."""
        return self._largest(label, self.orders[label], chamber, Content.exponent)

    def growth(self, chamber: Chamber) -> dict[sp.Expr, Content]:
        """What each further loop adds to the exponent: the largest of these, each with a generator that adds it."""
        return self._largest("", self.rays, chamber, Content.growth)

    def _largest(self, label: str, contents: Sequence[Content], chamber: Chamber,
                 size: Callable[[Content, Mapping[str, Affine]], Affine]) -> dict[sp.Expr, Content]:
        """Those exponents that are largest somewhere in a chamber, each with the simplest content that has it."""
        key = (label, chamber.conditions, tuple(chamber.exponents.values()), tuple(chamber.contributions.values()))
        if key in self._memory:
            return self._memory[key]
        given, dimension = [*self._closed(chamber), *self.given], len(self.parameters)
        exponents = {name: affine(e, self.parameters) for name, e in chamber.contributions.items()}
        found: dict[Affine, Content] = {}
        for content in sorted(contents, key=_simplicity):
            found.setdefault(size(content, exponents), content)
        rows: list[Affine] = []
        for row in found:
            if not any(_below(row, other, given, dimension) for other in rows):
                rows = [other for other in rows if not _below(other, row, given, dimension)] + [row]
        for row in list(rows):  # one at a time, so that of several that are never alone one stays
            others = [combine(row, 1, other, -1) for other in rows if other != row]
            if others and not possible([*given, *others], dimension):
                rows.remove(row)
        self._memory[key] = {affine_expr(row, self.parameters): found[row] for row in rows}
        return self._memory[key]

    @cached_property
    def _memory(self) -> dict[Any, dict[sp.Expr, Content]]:
        return {}

    def _closed(self, chamber: Chamber) -> list[Affine]:
        return [affine(gap, self.parameters) for r in chamber.conditions for gap in _slack(r, {})]

    def _relative(self, chamber: Chamber, accuracy: sp.Rational) -> list[Affine]:
        """The exponents of all corrections, relative to the leading one and the accuracy."""
        top = chamber.contributions[chamber.dominant[0]] + accuracy
        found = [chamber.contributions[label] for label in self.corrections]
        found += [e for label in self.orders for e in self.order(label, chamber)]
        return list(dict.fromkeys(affine(e - top, self.parameters) for e in found))

    def regions(self, accuracy: Any = 0) -> dict[str, tuple[tuple[sp.Rel, ...], ...]]:
        """The inequalities in the exponents under which each verdict holds: a union of polyhedra for each.

        - "saddle": every correction is smaller than the leading term times N^accuracy, and further loops do not grow;
        - "finite": some are not, but each further loop is smaller: finitely many diagrams survive;
        - "equal": each further loop is equally large, and so none may be left out;
        - "growing": each further loop is larger.

        Polyhedra without an interior are listed for "equal" alone, with the equation that holds there.
        """
        accuracy = sp.nsimplify(sp.sympify(accuracy), rational=True)
        found: dict[str, dict[tuple[sp.Rel, ...], None]] = {verdict: {} for verdict in WORDS}
        for chamber in self.chambers:
            closed, loops = self._closed(chamber), self._relative(chamber, accuracy)
            rates = [affine(expr, self.parameters) for expr in self.growth(chamber)]
            falling = [negative(rate) for rate in rates]
            self._add(found[SADDLE], strict=[negative(row) for row in loops], closed=[*closed, *falling])
            for row in loops:
                self._add(found[FINITE], strict=falling, closed=[*closed, row])
            for rate in rates:
                self._add(found[GROWING], strict=[rate], closed=closed)
                rest = [negative(other) for other in rates if other != rate]
                for row in loops:
                    self._add(found[EQUAL], strict=[], closed=[*closed, *rest, row], on=rate)
        return {verdict: tuple(polyhedra) for verdict, polyhedra in found.items()}

    def _add(self, found: dict[tuple[sp.Rel, ...], None], *, strict: list[Affine], closed: list[Affine],
             on: Affine | None = None) -> None:
        """Add the polyhedron strict > 0, closed ≥ 0 (and on = 0) if it is not empty."""
        given, dimension = list(self.given), len(self.parameters)
        equation: list[sp.Rel] = []
        if on is not None:
            pivot = next((k for k in range(dimension) if on[k]), None)
            if pivot is not None:
                value = tuple(-c / on[pivot] if k != pivot else Fraction(0) for k, c in enumerate(on))
                strict, closed, given = ([substitute(row, {pivot: value}) for row in rows]
                                         for rows in (strict, closed, given))
                both = relation(on, self.parameters)
                equation = [sp.Eq(both.lhs, both.rhs, evaluate=False)]
            elif on[-1]:
                return
        if not all(any(row) for row in strict) or not possible([*strict, *closed, *given], dimension):
            return
        kept = [(_scaled(row), True) for row in strict] + [(_scaled(row), False) for row in closed]
        kept = [(row, sharp) for row, sharp in dict.fromkeys(kept) if any(row[:-1])]
        for row, sharp in list(kept):
            others = [other for other, _ in kept if other != row]
            implied = not possible([*others, *given, negative(row)], dimension)
            if sharp and implied:  # a strict one still matters where the closed polyhedron reaches it
                implied = not _touches(row, [*others, *given], dimension)
            if implied or (not sharp and (row, True) in kept):
                kept.remove((row, sharp))
        found.setdefault((*equation, *(relation(row, self.parameters, strict=sharp) for row, sharp in kept)))

    def report(self, point: Mapping[Any, Any] | None = None, *, accuracy: Any = 0, **named: Any) -> LoopReport:
        """The verdict at a numerical point, by symbol or by name; the worst of several coexisting solutions."""
        accuracy = sp.nsimplify(sp.sympify(accuracy), rational=True)
        solutions = self.at(point, **named)
        reports = [self._judge(solution, accuracy, solutions) for solution in solutions]
        order = list(WORDS)
        return max(reports, key=lambda report: (order.index(report.verdict), report.growth, report.relative_order))

    def _judge(self, solution: Chamber, accuracy: sp.Rational, solutions: tuple[Chamber, ...]) -> LoopReport:
        exponents = solution.contributions
        numbers = {label: affine(e, ()) for label, e in exponents.items()}
        best, rate = None, -sp.oo
        for ray in sorted(self.rays, key=_simplicity):
            (adds,) = ray.growth(numbers)
            if adds > rate:
                best, rate = ray, sp.Rational(adds)
        orders = {label: exponents[label] for label in self.corrections}
        orders |= {label: sp.Rational(max(c.exponent(numbers)[0] for c in made)) for label, made in self.orders.items()}
        top = exponents[solution.dominant[0]]
        if rate > 0:
            verdict = GROWING
        elif all(e - top < accuracy for e in orders.values()):
            verdict = SADDLE
        else:
            verdict = FINITE if rate < 0 else EQUAL
        through: int | None = 0 if verdict == SADDLE else None
        if verdict == FINITE:
            excess = {label: e - top - accuracy for label, e in orders.items()}
            through = max(int(label.split()[0]) for label, e in excess.items() if e >= 0)
            if self.orders and (last := excess[(label := list(self.orders)[-1])]) >= 0:
                through = int(label.split()[0]) + (0 if best is None else floor(last / -rate))
        return LoopReport(verdict, orders, top, rate, str(best or "nothing"), through, self.route, solutions)

    def table(self) -> list[list[Any]]:
        """A row for each unknown, leading term, vertex, line, correction and loop order, and what each further loop
        adds; a column for each chamber.
        """
        def largest(found: Mapping[sp.Expr, Content]) -> Any:
            return sp.Max(*found, evaluate=False) if len(found) > 1 else next(iter(found), "none")

        first = self.chambers[0]
        rows: list[list[Any]] = [["exponent of", *(f"({k + 1})" for k in range(len(self.chambers)))]]
        rows += [[unknown, *(chamber.exponents[unknown] for chamber in self.chambers)] for unknown in first.exponents]
        rows += [[label, *(chamber.contributions[label] for chamber in self.chambers)]
                 for label in first.contributions]
        rows += [[label, *(largest(self.order(label, chamber)) for chamber in self.chambers)] for label in self.orders]
        return [*rows, ["each further loop", *(largest(self.growth(chamber)) for chamber in self.chambers)]]

    def __str__(self) -> str:
        rows = [[sp.sstr(cell) if isinstance(cell, sp.Basic) else cell for cell in row] for row in self.table()]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        where = [f"({k + 1}) where {', '.join(map(sp.sstr, chamber.conditions)) or 'always'}"
                 for k, chamber in enumerate(self.chambers)]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], *where])

    def _repr_latex_(self) -> str:
        rows = [[latex(cell) if isinstance(cell, sp.Basic) else rf"\text{{{cell}}}" for cell in row]
                for row in self.table()]
        head, *body = (" & ".join(row) for row in rows)
        where = [r" \\ ".join(map(latex, chamber.conditions)) or r"\text{always}" for chamber in self.chambers]
        stacked = " & ".join([r"\text{where}", *(rf"\begin{{array}}{{c}} {w} \end{{array}}" for w in where)])
        lines = r" \\ ".join(body)
        return (rf"$\displaystyle \begin{{array}}{{l|{'c' * len(self.chambers)}}} {head} \\ \hline {lines} "
                rf"\\ \hline {stacked} \end{{array}}$")


def _touches(row: Affine, system: Sequence[Affine], dimension: int) -> bool:
    """Whether a closed polyhedron reaches the plane row = 0 from its positive side."""
    wider = [(*other[:-1], other[-1] + MARGIN) for other in system]
    return possible([*wider, (*(-c for c in row[:-1]), MARGIN - row[-1])], dimension)


MARGIN = Fraction(1, 10**9)
"""Smaller than the gap between planes with coefficients of a few digits."""


def _scaled(row: Affine) -> Affine:
    lead = next((abs(c) for c in row[:-1] if c), Fraction(1))
    return tuple(c / lead for c in row)


def _simplicity(content: Content) -> tuple[int, Fraction]:
    return len(content.parts), content.loops


def _below(row: Affine, other: Affine, given: Sequence[Affine], dimension: int) -> bool:
    """Whether one exponent is nowhere larger than another."""
    gap = combine(row, 1, other, -1)
    return not any(gap) or not possible([gap, *given], dimension)


# --------------------------------------------------------------------------------------- counted for an action


def _check_loops(loops: int) -> None:
    if not isinstance(loops, int) or loops < 2:
        raise BadInput("loops", loops, "an integer, 2 or more: the first order to be counted is two loops")


def count_scalar_loops(vertices: Mapping[tuple[Any, ...], sp.Expr], propagator: Any, fields: Sequence[sp.Expr],
                       loops: int, exponents: Mapping[Any, Any], *, constraints: Sequence[Any] = (),
                       equations: Sequence[sp.Expr] = (), unknowns: Sequence[sp.Expr] = ()) -> LoopCounting:
    """Power counting of a few scalar fields about a saddle; arguments as in `diagrams.diagrams`.

    Vertices and propagator may hold ``unknowns``, whose exponents follow from the balance of ``equations``.  What is
    leading is the Gaussian fluctuation, of order one.  Vertices whose order is the largest that ``loops`` loops
    can have are taken as the beginning of a series that goes on.
    """
    _check_loops(loops)
    G = sp.Matrix(propagator)
    types = [Vertex(f"vertex {sp.sstr(sp.Mul(*index))}", len(index) - 2, tuple(index.count(f) for f in fields))
             for index in vertices]
    lines = [Line(f"line {fields[a]}, {fields[b]}", (a, b))
             for a in range(len(fields)) for b in range(a, len(fields)) if G[a, b] != 0]
    values = dict(zip((v.label for v in types), vertices.values()))
    values |= {line.label: G[line.ends] for line in lines}
    goes_on = [v for v in types if any(sum(w.legs) == 2 * loops for w in types)]
    counted = power_counting(equations, unknowns, exponents, {"Gaussian": sp.S.One} | values,
                             corrections=tuple(values), constraints=constraints)
    made = {f"{order} loops": contents(types, lines, order) for order in range(2, loops + 1)} if types else {}
    return LoopCounting(counted.chambers, (), counted.parameters, counted.assumptions, counted.given,
                        {label: found for label, found in made.items() if found},
                        generators([*types, *one_more_leg(goes_on)], lines))


def count_closure(closure: Closure, exponents: Mapping[Any, Any], loops: int = 3, *,
                  constraints: Sequence[Any] = ()) -> LoopCounting:
    """Power counting of the loops that a closure leaves out, about its saddle."""
    if isinstance(closure, FieldClosure):
        return count_field_loops(closure.action.expr, closure.field, loops, exponents, closure=closure,
                                 constraints=constraints)
    if not isinstance(closure, ScalarClosure):
        raise BadInput("closure", type(closure).__name__, "one with a field left")
    jets = [closure._at(jet) for jet in scalar_derivatives(closure.action.expr, closure.field, 2 * loops)]
    vertices = {(closure.field,) * k: jet for k, jet in enumerate(jets) if k > 2 and jet != 0}
    state = closure.state
    return count_scalar_loops(vertices, [[1 / jets[2]]], [closure.field], loops, exponents, constraints=constraints,
                              equations=state.equations, unknowns=state.unknowns)


def count_field_loops(action: sp.Expr, candidate: Entry, loops: int, exponents: Mapping[Any, Any], *,
                      closure: FieldClosure | None = None, at: sp.Expr | None = None, constraints: Sequence[Any] = ()
                      ) -> LoopCounting:
    """Power counting of a field over a space, about its saddle or the value ``at``.

    ``closure`` is the `FieldClosure` whose tree-level equations of state, in the sums that have names, fix their
    exponents; without it ``at`` is needed.  The leading term is the largest of these equations times its unknown, or
    one loop if there is none.  Sizes of spaces do not fall with N.
    """
    _check_loops(loops)
    parameters = () if closure is None else closure.parameters
    tree = None if closure is None else closure.tree

    def point(expr: sp.Expr) -> sp.Expr:
        return expr if tree is None or tree.field is None else expr.xreplace({tree.field: tree.profile})

    theory = CollectiveExpansion(action, candidate, 2 * (loops - 1), parameters, at)
    if closure is not None and tree is not None:
        kept = {f"tree: {sp.sstr(unknown * term)}": unknown * term
                for unknown, equation in zip(tree.unknowns, tree.equations) for term in sp.Add.make_args(equation)}
        first = {f"1 loop, {name}": tree.unknowns[0] * value
                 for name, value in closure.corrections.items() if value != 0}
    else:
        kept, first = {"1 loop": log_partition_terms(action, candidate, 1, at=at)[0]}, {}

    R = theory.rank
    names = ["M", "h"] if R == 1 else [f"{name}_{a + 1}" for name in "Mh" for a in range(R)]
    values: dict[str, sp.Expr] = {}
    types, lines = [], []
    lowest: dict[tuple[int, ...], int] = {}
    for (power, legs), value in sorted(theory.vertices.items()):
        inside = (power - lowest.setdefault(legs, power)) // 2
        word = sp.sstr(sp.Mul(*(sp.Symbol(name)**k for name, k in zip(names, legs))))
        label = f"vertex {word}" + (f", {inside} loop{'s' * (inside > 1)} inside" if inside else "")
        types.append(Vertex(label, power, legs))
        values[label] = point(value)
    for a in range(2 * R):
        for b in range(a, 2 * R):
            if theory.lines[a][b] != 0:
                lines.append(Line(f"line {names[a]}, {names[b]}", (a, b)))
                values[lines[-1].label] = point(theory.lines[a][b])
    inverse, jets = theory.point
    own = [Vertex(f"vertex {sp.sstr(sp.Symbol(candidate.name)**k)} at one point", k - 2, (k,)) for k in jets]
    own_line = [Line(f"line of {candidate.name} at one point", (0, 0))] if own else []
    values |= {v.label: point(jet) for v, jet in zip(own, jets.values())}
    values |= {line.label: point(inverse) for line in own_line}
    if own:
        values["number of points"] = candidate.size

    made: dict[str, tuple[Content, ...]] = {}
    for order in range(2, loops + 1):
        alone = [Content((*content.parts, ("number of points", 1)), content.loops)
                 for content in contents(own, own_line, order)] if own else []
        together = contents(types, lines, order) if types else ()
        if alone or together:
            made[f"{order} loops"] = (*alone, *together)
    goes_on = [v for v in types if any(w.legs[a] == 2 * loops for w in types for a in range(2 * R) if v.legs[a])]
    if R == 1:
        rays: Sequence[Content] = generators([*types, *one_more_leg(goes_on)], lines)
    else:  # too many to list all: those with two or three loops, chains among them
        rays = tuple(c for order in range(2, min(loops, 3) + 1) for c in contents(types, lines, order, closed=True))
    rays = [*rays, *generators([*own, *(one_more_leg(own) if own and own[-1].legs[0] == 2 * loops else [])],
                                 own_line)]

    equations, unknowns = ((), ()) if tree is None else (tree.equations, tree.unknowns)
    contributions = kept | values | first
    sizes = [space.size for space in candidate.spaces if space.size in exponents]
    bounds = [bound for size in sizes if (bound := sp.Ge(exponents[size], 0)) not in (sp.true, sp.false)]
    data = {entry for expr in contributions.values() for entry in entries(expr)} - set(exponents)
    known = {entry: sp.S.Zero for entry in data if entry.is_data} | dict(exponents)
    counted = power_counting(equations, unknowns, known, contributions, corrections=(*values, *first),
                             constraints=(*constraints, *bounds))
    sums = [sp.sstr(total) for total in theory.totals]
    legend = [f"{names[a]} stands for the sum {total}, {names[R + a]} for its conjugate"
              for a, total in enumerate(sums)]
    route = (f"name {' and '.join(sums)} and integrate {candidate.name} out (action.auxiliary()): the saddle of what "
             "is left sums these diagrams" if sums else "")
    return LoopCounting(counted.chambers, tuple(first), counted.parameters, (*counted.assumptions, *legend),
                        counted.given, made, tuple(rays), route)


__all__ = ["EQUAL", "FINITE", "GROWING", "SADDLE", "WORDS", "LoopCounting", "LoopReport", "count_closure",
           "count_field_loops", "count_scalar_loops"]
