r"""Complete LaTeX documents: a derivation written out as the appendix of a paper.

Plain pdflatex with amsmath, amssymb, array and hyperref: the basic packages of a TeX suffice.
Formulas come from `fieldtheory.symbolic.printing`; prose is escaped, except for what stands between dollars.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.files import write_atomically
from fieldtheory.symbolic.fields import Entry, Space, open_spaces
from fieldtheory.symbolic.linebreaks import tex_width
from fieldtheory.symbolic.printing import STYLES, FieldPrinter, name_latex

LINE_LENGTH = 60.0
"""Characters a displayed formula may fill: a text line of the class below, less the number at its end."""

_PREAMBLE = r"""\documentclass[11pt]{article}
\usepackage[utf8]{inputenc}
\usepackage{amsmath,amssymb,array}
\usepackage[hidelinks]{hyperref}
\numberwithin{equation}{section}
\allowdisplaybreaks
"""

_ESCAPES = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
            "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"$<$", ">": r"$>$",
            "|": r"$|$", '"': "''"}
_SIGNS = {
    "–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "…": r"\ldots{}", "\u00a0": "~",
    "§": r"\S{}", "½": r"$\frac12$", "¹": "$^1$", "²": "$^2$", "³": "$^3$", "⁻": "$^-$", "°": r"$^\circ$",
    "ᵀ": r"$^\top$", "⊤": r"$^\top$", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "±": r"$\pm$",
    "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "≈": r"$\approx$", "≪": r"$\ll$", "≫": r"$\gg$",
    "∝": r"$\propto$", "∞": r"$\infty$", "∼": r"$\sim$", "→": r"$\to$", "∂": r"$\partial$", "∈": r"$\in$",
    "⟨": r"$\langle$", "⟩": r"$\rangle$", "√": r"$\surd$", "∫": r"$\int$", "∑": r"$\sum$", "⊥": r"$\perp$",
}

SPACE_WORDS = {"mode": "eigenmodes of the kernel", "sample": "training samples", "site": "hidden units",
               "input": "input components", "test": "test points"}
OBSERVABLES = {"mean_output": r"\langle f\rangle", "test_output": r"\langle f_{\mathrm{test}}\rangle",
               "readout_norm": r"\langle Q\rangle", "log_evidence": r"\ln Z",
               "output_covariance": r"\operatorname{Cov} f",
               "variance_along_mean_output": r"\operatorname{Var}_{\parallel} f"}
"""How observables known by name are written on the left of their formula; others are named in words."""


# ---------------------------------------------------------------------------------------------- prose
def escape(text: str) -> str:
    """Text that prints as it stands: TeX's special characters escaped, Greek and common signs set in math."""
    return "".join(_ESCAPES.get(character) or _sign(character) for character in str(text))


def _sign(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() or character.isspace() else ""
    if character in _SIGNS:
        return _SIGNS[character]
    name = unicodedata.name(character, "")
    if re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER \w+", name):
        return f"${name_latex(character)}$"
    if name.startswith("LATIN ") and unicodedata.decomposition(character):
        return character  # an accented letter, which inputenc knows
    return rf"\texttt{{U+{ord(character):04X}}}"


def prose(text: str) -> str:
    """`escape`, but what stands between two dollars is math and stays; a lone dollar is a dollar."""
    parts = re.split(r"\$([^$]+)\$", str(text))
    return "".join(f"${part}$" if position % 2 else escape(part) for position, part in enumerate(parts))


def _plain(text: str) -> str:
    """For PDF bookmarks, which take no math."""
    return re.sub(r"[^A-Za-z0-9 ,.:;()/=+-]", "", str(text))


def _sentence(text: str) -> str:
    text = str(text).strip()
    return text if not text or text[-1] in ".!?:" else text + "."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _words(name: str) -> str:
    return " ".join(str(name).split("_"))


def _listing(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


# ---------------------------------------------------------------------------------------------- blocks
@dataclass(frozen=True)
class Equation:
    """A displayed, numbered formula: an expression or ``sp.Eq``, with ``left`` (LaTeX) before an equals sign.

    ``end`` is the punctuation after it; ``style`` as in `fieldtheory.symbolic.printing.latex`.
    """

    expr: Any
    left: str | None = None
    style: str = "modes"
    end: str = "."
    label: str | None = None


@dataclass(frozen=True)
class Table:
    """A table: the first row is the header; cells are prose or expressions."""

    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A title and blocks: prose (a str; one that starts with **words** opens a paragraph headed by them),
    `Equation`, `Table`, or a list as a tuple of prose.
    """

    title: str
    blocks: Sequence[str | Equation | Table | tuple[str, ...]]


def document(title: str, sections: Iterable[Section], *, symbol_names: Mapping[Any, str] | None = None,
             matrices: Mapping[str, str] | None = None, line_length: float = LINE_LENGTH) -> str:
    """A complete LaTeX document, its sections lettered as those of an appendix.

    Parameters
    ----------
    title : prose.
    sections : see `Section`; prose may hold math between dollars.
    symbol_names, matrices : as in `fieldtheory.symbolic.printing.latex`.
    line_length : characters to which formulas are broken.
    """
    sections = list(sections)
    blocks = [block for section in sections for block in section.blocks]
    shown = [block.expr for block in blocks if isinstance(block, Equation)]
    shown += [cell for block in blocks if isinstance(block, Table) for row in block.rows for cell in row]
    writer = _Writer(_printers(shown, symbol_names, matrices), line_length)
    body = "\n".join(writer.section(section) for section in sections)
    head = rf"\title{{{prose(title)}}}" + "\n\\author{}\n\\date{}\n"
    return f"{_PREAMBLE}{head}\n\\begin{{document}}\n\\maketitle\n\\appendix\n\n{body}\n\\end{{document}}\n"


def _printers(shown: Iterable[Any], symbol_names: Mapping[Any, str] | None,
              matrices: Mapping[str, str] | None) -> dict[str, FieldPrinter]:
    context = [expr for expr in shown if isinstance(expr, sp.Basic)]
    return {style: FieldPrinter(style=style, symbol_names=symbol_names, matrices=matrices, context=context)
            for style in STYLES}


class _Writer:
    """Turns blocks into LaTeX, with one printer for each style so that index letters agree throughout."""

    def __init__(self, printers: Mapping[str, FieldPrinter], line_length: float) -> None:
        self.printers = printers
        self.line_length = line_length

    def section(self, section: Section) -> str:
        title = prose(section.title)
        if "$" in title:
            title = rf"\texorpdfstring{{{title}}}{{{_plain(section.title)}}}"
        parts = [rf"\section{{{title}}}"]
        previous: Any = None
        for block in section.blocks:
            if isinstance(block, Equation):
                parts.append(self.equation(block))
            else:
                # prose after a formula goes on in the same paragraph
                parts.append(("" if isinstance(previous, Equation) else "\n") + self.other(block))
            previous = block
        return "\n".join(parts) + "\n"

    def other(self, block: Any) -> str:
        if isinstance(block, Table):
            return self.table(block)
        if isinstance(block, tuple):
            items = "\n".join(rf"\item {prose(item)}" for item in block)
            return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"
        if isinstance(block, str):
            heading = re.match(r"\*\*(.+?)\*\*\s*", block)
            if heading:
                return rf"\paragraph{{{prose(heading[1])}}} {prose(block[heading.end():])}"
            return prose(block)
        raise BadInput("blocks", repr(block), "prose, an Equation, a Table or a tuple of prose")

    def equation(self, block: Equation) -> str:
        label = rf"\label{{{block.label}}}" if block.label else ""
        lines = self.printers[block.style].lines(block.expr, self.line_length, block.left)
        lines[-1] += block.end
        if len(lines) == 1:
            return f"\\begin{{equation}}{label}\n{lines[0]}\n\\end{{equation}}"
        # not aligned inside equation: a long formula must be able to go over the page
        body = " \\notag \\\\\n".join(lines)
        return f"\\begin{{align}}\n{body}{label}\n\\end{{align}}"

    def table(self, block: Table) -> str:
        rows = [list(row) for row in block.rows]
        if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
            raise BadInput("rows", f"{[len(row) for row in rows]} cells", "a header, and rows like it")
        header, *body = (" & ".join(self.cell(cell) for cell in row) + r" \\" for row in rows)
        size, columns = self._layout([max(map(self._cell_width, column)) for column in zip(*rows)])
        caption = rf"\par\smallskip\parbox{{0.9\textwidth}}{{\small {prose(block.caption)}}}"
        return "\n".join([
            r"\begin{center}", size + r"\setlength{\tabcolsep}{4pt}\renewcommand{\arraystretch}{1.3}",
            rf"\begin{{tabular}}{{{columns}}}", r"\hline", header + r" \hline", *body, r"\hline",
            r"\end{tabular}", *([caption] if block.caption else []), r"\end{center}",
        ])

    def _layout(self, widths: list[float]) -> tuple[str, str]:
        """The type size in which the columns fit; where none does, the wide columns are set in lines."""
        gaps = 1.5 * len(widths)
        for size, scale in ((r"\small", 0.91), (r"\footnotesize", 0.82)):
            if scale * sum(widths) + gaps <= self.line_length:
                return size, "l" * len(widths)
        room, narrow = (self.line_length - gaps) / scale, set[int]()
        while len(narrow) < len(widths):  # what columns below the fair share leave goes to the rest
            share = (room - sum(widths[i] for i in narrow)) / (len(widths) - len(narrow))
            more = {i for i, width in enumerate(widths) if i not in narrow and width <= share}
            if not more:
                break
            narrow |= more
        lines = rf">{{\raggedright\arraybackslash}}p{{{max(share, 6.0) / 2:.1f}em}}"
        return size, "".join("l" if i in narrow else lines for i in range(len(widths)))

    def _cell_width(self, cell: Any) -> float:
        parts = re.split(r"\$", self.cell(cell))
        return sum(tex_width(part) if i % 2 else float(len(part)) for i, part in enumerate(parts))

    def cell(self, cell: Any) -> str:
        return f"${self.printers['modes'].doprint(cell)}$" if isinstance(cell, sp.Basic) else prose(cell)


# ---------------------------------------------------------------------------------------------- derivations
class StepLike(Protocol):
    """What a step of a derivation must have; ``before`` and ``after`` have ``.expr`` and ``.fields``."""

    rule: str
    description: str
    before: Any
    after: Any
    exact: bool
    remainder: str | sp.Basic | None
    definitions: Mapping[sp.Symbol, sp.Expr]


class DerivationLike(Protocol):
    """What a derivation must have.

    Optional is ``power_counting``: rows under a header, or an object whose ``table()`` returns them.
    """

    title: str
    network_description: str
    steps: Sequence[Any]
    equations: Mapping[str, sp.Basic]
    observables: Mapping[str, sp.Basic]
    notes: Sequence[str]


def derivation_document(derivation: DerivationLike, *, symbol_names: Mapping[Any, str] | None = None,
                        matrices: Mapping[str, str] | None = None, line_length: float = LINE_LENGTH) -> str:
    r"""The whole derivation as a LaTeX document.

    The network, its action, every step with the action after it, the equations of state and the observables
    (as sums over modes, then as traces where that differs), the table of powers of N, and the notes.
    Descriptions are prose and may hold math between dollars. Nothing is derived here.
    """
    author = _Author(_printers(_expressions(derivation), symbol_names, matrices))
    sections = [author.network(derivation), author.steps(derivation), author.equations(derivation),
                author.observables(derivation), author.counting(derivation), author.notes(derivation)]
    return document(derivation.title, [section for section in sections if section is not None],
                    symbol_names=symbol_names, matrices=matrices, line_length=line_length)


def write_derivation(derivation: DerivationLike, path: str | os.PathLike[str], **options: Any) -> Path:
    """`derivation_document` to a file, whole or not at all."""
    return write_atomically(path, derivation_document(derivation, **options))


def _expressions(derivation: DerivationLike) -> list[sp.Basic]:
    found: list[Any] = []
    for step in derivation.steps:
        for action in (step.before, step.after):
            if action is not None:
                found += [action.expr, *action.fields]
        for symbol, value in (step.definitions or {}).items():
            found += [symbol, value]
    found += [*derivation.equations.values(), *derivation.observables.values()]
    return [expr for expr in found if isinstance(expr, sp.Basic)]


class _Author:
    """The sentences that join the formulas of a derivation."""

    def __init__(self, printers: Mapping[str, FieldPrinter]) -> None:
        self.modes, self.traces = printers["modes"], printers["traces"]
        self.defined: set[sp.Symbol] = set()

    def network(self, derivation: DerivationLike) -> Section:
        blocks: list[Any] = [_sentence(derivation.network_description)]
        spaces = self._spaces(derivation)
        if spaces:
            blocks.append(spaces)
        if derivation.steps:
            start = derivation.steps[0].before
            if start is not None:
                blocks += ["The posterior is $e^{-S}$, normalised, with the action", self._action(start)]
        return Section("Network and action", blocks)

    def steps(self, derivation: DerivationLike) -> Section | None:
        if not derivation.steps:
            return None
        count, exact = len(derivation.steps), sum(bool(step.exact) for step in derivation.steps)
        standing = ("each of them exact" if exact == count else "none of which is exact" if exact == 0
                    else f"of which {exact} {'is' if exact == 1 else 'are'} exact")
        blocks: list[Any] = [f"The derivation takes {count} steps, {standing}."] if count > 1 else []
        for number, step in enumerate(derivation.steps, 1):
            blocks += self._step(number, step)
        return Section("Derivation", blocks)

    def _step(self, number: int, step: Any) -> list[Any]:
        description = _capital(_sentence(step.description))
        text = f"**Step {number}: {_words(step.rule)}.** {description} {self._standing(step)}".rstrip()
        new = {name: value for name, value in (step.definitions or {}).items() if name not in self.defined}
        self.defined |= set(new)
        if step.after is None:
            return [text, *self._definitions(new, "It introduces")]
        fields = [f"${self._field(field)}$" for field in step.after.fields]
        left = (f"There remains an action for {_listing(fields)}," if fields
                else "No field remains, and the action is a number,")
        action = self._action(step.after, end="," if new else ".")
        return [f"{text} {left}", action, *self._definitions(new, "with")]

    def _standing(self, step: Any) -> str:
        if step.exact:
            return "This step is exact."
        if step.remainder is None:
            return "This step is an approximation whose remainder is not known."
        remainder = step.remainder
        if isinstance(remainder, sp.Order):
            remainder = remainder.expr
        if isinstance(remainder, sp.Basic):
            base, exponent = remainder.as_base_exp()
            shown = self.modes.doprint(base if base.is_Symbol else remainder)
            power = f"^{{{self.modes.doprint(exponent)}}}" if base.is_Symbol and exponent != 1 else ""
            remainder = f"$O({shown}{power})$"
        return _sentence(f"This step is an approximation, with remainder {remainder}")

    def _definitions(self, new: Mapping[sp.Symbol, sp.Expr], opening: str) -> list[Any]:
        if not new:
            return []
        items = list(new.items())
        inline = [f"{self.modes.doprint(symbol)} = {self.modes.doprint(value)}" for symbol, value in items]
        if all(tex_width(formula) < 25 for formula in inline):
            return [f"{opening} {_listing([f'${formula}$' for formula in inline])}."]
        blocks: list[Any] = [opening]
        for position, (symbol, value) in enumerate(items):
            end = "." if position == len(items) - 1 else ","
            blocks.append(Equation(value, left=self.modes.doprint(symbol), end=end))
        return blocks

    def equations(self, derivation: DerivationLike) -> Section | None:
        if not derivation.equations:
            return None
        many = len(derivation.equations) > 1
        blocks: list[Any] = ["The action is stationary where the following equations of state hold." if many
                             else "The action is stationary where the equation of state holds."]
        for name, equation in derivation.equations.items():
            blocks += [f"**{_capital(_words(name))}.** It reads", *self._formula(equation)]
        return Section("Equations of state", blocks)

    def observables(self, derivation: DerivationLike) -> Section | None:
        if not derivation.observables:
            return None
        blocks: list[Any] = ["At a solution of the equations of state the observables are as follows."
                             if derivation.equations else "The observables are as follows."]
        for name, value in derivation.observables.items():
            left = OBSERVABLES.get(name)
            blocks += [f"**{_capital(_words(name))}.** It is given by", *self._formula(value, left)]
        return Section("Observables", blocks)

    def _both(self, expr: sp.Basic) -> bool:
        return self.modes.doprint(expr) != self.traces.doprint(expr)

    def _formula(self, expr: sp.Basic, left: str | None = None) -> list[Any]:
        """A formula as a sum over modes and, where that differs, in matrix notation."""
        spaces = sorted(open_spaces(expr), key=sp.default_sort_key)
        indices = " ".join(self.modes.index_of(space) for space in spaces)
        indexed = f"{left}_{{{indices}}}" if left and indices else left
        if not self._both(expr):
            return [Equation(expr, left=indexed)]
        return [Equation(expr, left=indexed, end=","), "or, in terms of matrices and vectors,",
                Equation(expr, left=left if self.traces.is_vector(expr) else indexed, style="traces")]

    def counting(self, derivation: DerivationLike) -> Section | None:
        counted = getattr(derivation, "power_counting", None)
        if counted is None:
            return None
        rows = counted.table() if hasattr(counted, "table") else counted
        if not rows:
            return None
        blocks: list[Any] = ["The table gives the power of the width with which each contribution grows, "
                             "found by dominant balance in the action."]
        assumptions = tuple(str(item) for item in getattr(counted, "assumptions", ()))
        blocks.append(Table(rows) if not isinstance(rows, str) else rows)
        if assumptions:
            blocks += ["The counting assumes the following.", assumptions]
        return Section("Powers of the width", blocks)

    def notes(self, derivation: DerivationLike) -> Section | None:
        return Section("Remarks", [tuple(derivation.notes)]) if derivation.notes else None

    def _action(self, action: Any, end: str = ".") -> Equation:
        names = ", ".join(self._field(field) for field in action.fields)
        return Equation(action.expr, left=rf"S\left[{names}\right]" if names else "S", end=end)

    def _field(self, field: sp.Basic) -> str:
        return self.modes.bare(field) if isinstance(field, Entry) else self.modes.doprint(field)

    def _spaces(self, derivation: DerivationLike) -> str:
        spaces: set[Space] = set()
        for expr in _expressions(derivation):
            spaces |= expr.atoms(Space)
        items = []
        for space in sorted(spaces, key=sp.default_sort_key):
            bound, free = self.modes.bound_letter(space), self.modes.index_of(space)
            letters = f"${bound}$" if free == bound else f"${bound}$ (${free}$ where it is free)"
            words = SPACE_WORDS.get(space.name, f"points of the space {space.name}")
            items.append(f"{letters} runs over the ${self.modes.doprint(space.size)}$ {words}")
        return f"In sums, {_listing(items)}." if items else ""
