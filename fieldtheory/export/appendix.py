r"""The loop expansion of an action written out as the appendix of a paper.

Action, saddle point, Feynman rules, the diagrams of every order with symmetry factor, power and weight, and the
series with its remainder. Nothing is derived here: every formula is what a method of the action returns.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.export.diagrams import CENTIMETRES, draw
from fieldtheory.export.document import (
    LINE_LENGTH,
    PACKAGES,
    Display,
    Equation,
    LongTable,
    Picture,
    Section,
    document,
    printers,
)
from fieldtheory.export.prose import capital, listing
from fieldtheory.files import write_atomically
from fieldtheory.symbolic.fields import Entry, SpaceSum, open_spaces, vary
from fieldtheory.symbolic.linebreaks import tex_width
from fieldtheory.symbolic.loops import hbar
from fieldtheory.symbolic.saddles import SaddlePoint, dominant, equivalent
from fieldtheory.symbolic.series import Series

if TYPE_CHECKING:
    from fieldtheory.symbolic.diagrams import Diagram, Diagrams

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CHARACTERS_PER_CENTIMETRE = 5.2
MOST_DIAGRAMS = 400
"""Diagrams of one order that are drawn; of more only the number and the sum are given."""


def expansion_document(action: Any, loops: int, *, at: Any = None, title: str = "", standalone: bool = True,
                       symbol_names: Mapping[Any, str] | None = None, line_length: float = LINE_LENGTH) -> str:
    r"""ln Z of an action through ``loops`` loops, with everything that it is made of, in LaTeX.

    Parameters
    ----------
    action : an `Action`.
    loops : two or more.
    at : where to expand, as in ``action.log_partition``; by default the dominant saddle point, and for a field over
        a space zero where the action is stationary there, else its saddle in symbols.
    standalone : a complete document; False for a fragment to ``\input`` after ``\appendix``, whose first line says
        which packages it needs.
    symbol_names, line_length : as in `fieldtheory.symbolic.printing`; the text is 154 mm wide at 70 characters.

    Diagrams are left out where the action has none in closed form: a field over a space whose expansion is not
    about zero.

    Raises
    ------
    BadInput
        For fewer than two loops.
    RuleError
        Where the action has no saddle point to expand about.
    """
    if not isinstance(loops, int) or loops < 2:
        raise BadInput("loops", loops, "an integer, 2 or more")
    author = _Author(action, loops, at, symbol_names, line_length)
    packages = [*PACKAGES, "longtable", "tikz"] if author.has_diagrams else PACKAGES
    return document(title or rf"The expansion to {_number(loops)} loops", list(author.sections()),
                    symbol_names=symbol_names, line_length=line_length, packages=packages, standalone=standalone)


def write_expansion(action: Any, loops: int, path: str | os.PathLike[str], **options: Any) -> Path:
    """`expansion_document` to a file, whole or not at all."""
    return write_atomically(path, expansion_document(action, loops, **options))


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


class _Author:
    """What is said around the formulas, and in which order."""

    def __init__(self, action: Any, loops: int, at: Any, symbol_names: Mapping[Any, str] | None,
                 line_length: float) -> None:
        self.action, self.loops, self.line_length = action, loops, line_length
        self.extended = len(action.fields) == 1 and bool(getattr(action.fields[0], "spaces", ()))
        self.points: tuple[SaddlePoint, ...] = ()
        self.at = self._place(at)
        self.series: Series = action.log_partition(loops, at=self.at)
        self.names = _Names({atom.name for atom in action.expr.atoms(sp.Symbol, Entry)})
        if self.extended and self.at is None:
            self.series = self.series.map(self.names.given_to)
        self.orders = self._diagrams()
        self.has_diagrams = any(self.orders.values())
        found: list[Any] = [action.expr, *action.fields, *action.definitions, *action.definitions.values()]
        found += [diagram.weight for diagrams in self.orders.values() for diagram in diagrams]
        self.modes = printers([*found, *self.series.terms, *self.names.table], symbol_names, None)["modes"]

    def _place(self, at: Any) -> Any:
        """Where to expand, as methods of the action understand it."""
        if at is not None:
            return at
        if self.extended:
            field = self.action.fields[0]
            slope = vary(self.action.expr, field).xreplace({field: sp.S.Zero})
            return sp.S.Zero if slope.doit() == 0 else None
        points = self.action.saddle_points()
        self.points = equivalent(points, dominant(points, self.action.large), self.action.large)
        return self.points[0]

    def _diagrams(self) -> dict[int, Diagrams | tuple[()]]:
        if self.extended and self.at is None:
            return {}
        try:
            return {order: self.action.diagrams(order, at=self.at) for order in range(2, self.loops + 1)}
        except RuleError:
            if self.extended:
                return {}
            raise

    def sections(self) -> Iterator[Section]:
        yield self.conventions()
        yield self.saddle()
        if self.has_diagrams:
            yield self.rules()
            yield self.diagrams()
        yield self.expansion()

    # ------------------------------------------------------------------------------------------ action
    def conventions(self) -> Section:
        action = self.action
        names = ", ".join(self._bare(field) for field in action.fields)
        imaginary = [f"${self._bare(field)}$" for field in action.fields
                     if isinstance(field, Entry) and field.domain == "imaginary"]
        end = "," if action.definitions else "."
        blocks: list[Any] = ["The density is $e^{-S} / Z$ with the action",
                             Equation(action.expr, left=rf"S\left[{names}\right]", end=end)]
        if action.definitions:
            blocks += ["with", *self._displays([Equation(value, left=self.modes.doprint(symbol))
                                                for symbol, value in action.definitions.items()])]
        measure = "flat" if not imaginary else (f"flat, and that of {listing(imaginary)}, which "
                                                f"run{'s' if len(imaginary) == 1 else ''} along the imaginary axis, "
                                                r"is divided by $2 \pi \mathrm{i}$ for each component")
        counted = (f"The large parameter is ${self.modes.doprint(action.large)}$: it counts loops." if action.large
                   is not None else rf"Loops are counted by ${self.modes.doprint(hbar)}$, which stands for the action "
                   rf"divided by it and is set to one in the end.")
        return Section("Action and conventions", [*blocks, f"The measure is {measure}. {counted}"])

    def _bare(self, field: Any) -> str:
        return self.modes.bare(field) if isinstance(field, Entry) else self.modes.doprint(field)

    # ------------------------------------------------------------------------------------------ saddle
    def saddle(self) -> Section:
        if self.extended:
            return self._field_saddle()
        values = self._values()
        inline = [f"${self._bare(field)} = {self.modes.doprint(value)}$" for field, value in values.items()]
        opening = "The expansion is about the point" if not self.points else "The dominant saddle point is"
        if all(tex_width(text) < 40 for text in inline):
            blocks: list[Any] = []
            text = f"{opening} {listing(inline)}."
        else:
            text = ""
            blocks = [opening, *self._displays([Equation(value, left=self._bare(field))
                                                for field, value in values.items()])]
        if self.points:
            point = self.points[0]
            text += " " + {"stable": "It is a minimum", "depends on the parameters": "Whether it is a minimum depends "
                           "on the parameters"}.get(point.stability, f"It is {point.stability}")
            others = len(self.points) - 1
            if others:
                text += (f"; {_number(others)} other{'s' if others > 1 else ''} of the same action "
                         f"{'are' if others > 1 else 'is'} not included")
            text += "."
        level = self.points[0].action if self.points else self.action.expr.xreplace(values)
        return Section("Saddle point", [*blocks, f"{text} The action there is".strip(),
                                        Equation(level, left=r"S_{\ast}")])

    def _values(self) -> dict[Any, sp.Expr]:
        at, fields = self.at, self.action.fields
        if isinstance(at, SaddlePoint):
            return dict(at.values)
        given = at if isinstance(at, Mapping) else dict(zip(fields, at if isinstance(at, Sequence) else [at],
                                                            strict=True))
        return {field: sp.sympify(given[field]) for field in fields}

    def _field_saddle(self) -> Section:
        field = self.action.fields[0]
        if self.at is not None:
            name = self._bare(field)
            return Section("Saddle point", [f"The expansion is about ${name} = {self.modes.doprint(self.at)}$."])
        name = self.modes.doprint(field)
        return Section("Saddle point", [
            f"The action is stationary where $\\delta S / \\delta {name} = 0$, that is,",
            Equation(sp.Eq(vary(self.action.expr, field), 0, evaluate=False)),
            f"Below, ${self._bare(field)}$ stands for its value there."])

    # ------------------------------------------------------------------------------------------ rules
    def rules(self) -> Section:
        rules = next(diagrams[0].rules for diagrams in reversed(self.orders.values()) if diagrams)
        assert rules is not None  # a diagram made by an action has them
        fields = rules.fields
        names = [self._bare(field) for field in fields]
        lines = [Equation(rules.propagator[i, k], left=_indexed("G", [names[i], names[k]]))
                 for i, k in combinations_with_replacement(range(len(fields)), 2) if rules.propagator[i, k] != 0]
        used = {order for diagrams in self.orders.values() for diagram in diagrams for order in diagram.vertices}
        vertices = [Equation(value, left=_indexed("V", [names[k] for k in key]))
                    for key, value in rules.vertices.items() if len(key) in used]
        blocks: list[Any] = ["A line stands for the propagator, the inverse of the second derivatives of the action at "
                             "the saddle point,", *self._displays(lines, end="."),
                             "and a vertex with its ends for minus the derivative of the action,",
                             *self._displays(vertices, end=".")]
        if rules.components:
            size = listing([f"${names[k]}$ has ${self.modes.doprint(n)}$" for k, n in rules.components.items()])
            blocks.append(f"Here {size} components: lines join equal ones, the vertices given are those with all "
                          "components equal, and those with others follow from the invariance under rotations.")
        blocks.append("A diagram weighs the product of its lines and vertices, summed over what its ends can be, "
                      "divided by its symmetry factor $\\mathcal{S}$.")
        return Section("Feynman rules", blocks)

    def diagrams(self) -> Section:
        blocks: list[Any] = []
        for order, diagrams in self.orders.items():
            count = len(diagrams)
            if not count:
                blocks.append(f"**{capital(_number(order))} loops.** No diagram.")
                continue
            blocks.append(f"**{capital(_number(order))} loops.** There {'is' if count == 1 else 'are'} "
                          f"{_number(count)} connected vacuum diagram{'' if count == 1 else 's'}.")
            if count <= MOST_DIAGRAMS:
                blocks.append(LongTable([["", r"$\mathcal{S}$", "order", "weight"],
                                         *map(self._row, diagrams)]))
        return Section("Diagrams", blocks)

    def _row(self, diagram: Diagram) -> list[Any]:
        left, _, right, _ = draw(diagram.topology).box()
        picture = Picture(diagram.to_tikz(), CENTIMETRES * (right - left + 0.2) * CHARACTERS_PER_CENTIMETRE)
        return [picture, sp.Integer(diagram.symmetry_factor), self._order(diagram), diagram.weight]

    def _order(self, diagram: Diagram) -> sp.Expr | str:
        large = self.action.large
        if large is None:
            return hbar**diagram.hbar_power
        powers = diagram.powers()
        return large**powers[large] if large in powers else f"${self.modes.doprint(large)}$ in several powers"

    # ------------------------------------------------------------------------------------------ series
    def expansion(self) -> Section:
        series, show = self.series, self.modes.doprint
        known = [k for k, term in enumerate(series.terms, series.offset) if term != 0]
        rest = "" if series.is_exact else rf"O\left({show(series.parameter**series.remainder)}\right)"
        pieces = [show(sp.Symbol(f"c_{k}") * series.parameter**k) for k in known]
        imaginary = self.extended and self.action.fields[0].domain == "imaginary"  # and the measure holds 1/2πi
        quadratic = r"- 2 \pi S^{\prime\prime}" if imaginary else r"S^{\prime\prime} / 2 \pi"
        total = " + ".join(filter(None, [*pieces, rest])) or "0"
        blocks: list[Any] = [
            rf"Relative to the Gaussian integral $Z_0 = e^{{-S_{{\ast}}}} \det\left({quadratic}\right)^{{-1/2}}$, with "
            rf"the action $S_{{\ast}}$ and its second derivatives $S^{{\prime\prime}}$ at the point of expansion, and "
            f"through {_number(self.loops)} loops,",
            Equation(total, left=r"\ln \frac{Z}{Z_0}", end="," if known else ".")]
        if known:
            blocks += ["with", *self._displays([Equation(series.coefficient(k), left=f"c_{{{k}}}") for k in known])]
        if self.names.table:
            blocks += ["where", *self._displays([Equation(value, left=self.modes.doprint(symbol))
                                                 for value, symbol in self.names.table.items()])]
        if self.extended and self.at is None:
            blocks.append("At a fixed number of loops the terms need not fall with the size of the space.")
        return Section("Expansion", blocks)

    def _displays(self, equations: Iterable[Equation], end: str = ".") -> list[Any]:
        """Short equations in one display, long ones each in its own, punctuated as a list."""
        blocks: list[list[Equation]] = []
        equations = list(equations)
        shared = False
        for position, equation in enumerate(equations):
            shown = Equation(equation.expr, equation.left, equation.style,
                             end if position == len(equations) - 1 else ",")
            short = len(self.modes.lines(shown.expr, self.line_length, shown.left)) == 1
            if short and shared:
                blocks[-1].append(shown)
            else:
                blocks.append([shown])
            shared = short
        return [block[0] if len(block) == 1 else Display(block) for block in blocks]


class _Names:
    """Names for the closed sums of long expressions, and for the denominators that they make up."""

    def __init__(self, used: Iterable[str]) -> None:
        initials = {name[:1] for name in used}
        self.stems = [letter for letter in "MRTUVWABCEFGHJLDIKPQXYZ" if letter not in initials]
        self.table: dict[sp.Expr, sp.Symbol] = {}

    def given_to(self, expr: sp.Expr) -> sp.Expr:
        """``expr`` written in names, those of inner sums first; adds to the table."""
        if isinstance(expr, Entry) or not expr.args:
            return expr
        if not isinstance(expr, SpaceSum):
            result = expr.func(*(self.given_to(arg) if isinstance(arg, sp.Expr) else arg for arg in expr.args))
            base, exponent = result.as_base_exp()
            if base.is_Add and exponent.is_negative and not open_spaces(base) and (
                    base.free_symbols & set(self.table.values())):
                return self._name(base, 1) ** exponent
            return result
        total = SpaceSum(self.given_to(expr.body), expr.space)
        closed = [node for node in sp.Mul.make_args(total) if isinstance(node, SpaceSum) and not open_spaces(node)]
        return total.xreplace({node: self._name(node, 0) for node in closed})

    def _name(self, node: sp.Expr, kind: int) -> sp.Symbol:
        stem = self.stems[kind]
        number = sum(name.name.startswith(f"{stem}_") for name in self.table.values()) + 1
        return self.table.setdefault(node, sp.Symbol(f"{stem}_{number}", real=True))


def _indexed(symbol: str, names: list[str]) -> str:
    return f"{symbol}_{{{' '.join(names)}}}"


__all__ = ["expansion_document", "write_expansion"]
