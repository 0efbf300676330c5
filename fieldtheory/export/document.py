r"""Complete LaTeX documents from sections of prose, formulas and tables.

Plain pdflatex with amsmath, amssymb, array, geometry and hyperref: the basic packages of a TeX suffice.
Formulas come from `fieldtheory.symbolic.printing`; prose is escaped, except for what stands between dollars.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.export.prose import plain, prose
from fieldtheory.symbolic.linebreaks import tex_width
from fieldtheory.symbolic.printing import STYLES, FieldPrinter

LINE_LENGTH = 70.0
"""Characters a displayed formula may fill: a text line of the class below, less the number at its end."""

PACKAGES = ("amsmath", "amssymb", "array")
"""What formulas and tables need."""
_PREAMBLE = r"""\documentclass[11pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,margin=28mm]{geometry}
\usepackage{%s}
\usepackage[hidelinks]{hyperref}
\numberwithin{equation}{section}
\allowdisplaybreaks
\setlength{\emergencystretch}{3em}
"""


@dataclass(frozen=True)
class Equation:
    """A displayed, numbered formula: an expression, ``sp.Eq`` or LaTeX, with ``left`` (LaTeX) before an equals sign.

    ``end`` is the punctuation after it; ``style`` as in `fieldtheory.symbolic.printing.latex`.  Of an action in the
    fields ``variables`` the terms without any of them, its constants, come last.
    """

    expr: Any
    left: str | None = None
    style: str = "modes"
    end: str = "."
    label: str | None = None
    variables: tuple[sp.Basic, ...] = ()


@dataclass(frozen=True)
class Display:
    """Formulas in one display, aligned at their equals signs; each must have a left side."""

    equations: Sequence[Equation]


@dataclass(frozen=True)
class Table:
    """A table: the first row is the header; cells are prose or expressions."""

    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A drawing in LaTeX as a cell of a table, with its width in characters."""

    tex: str
    width: float


@dataclass(frozen=True)
class LongTable:
    """A table that may go over pages; its formulas are broken to what width other columns leave them.

    Cells are prose, expressions or pictures; formulas of the last column are set on several lines where need be.
    """

    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Section:
    """A title and blocks: prose (a str; one that starts with **words** opens a paragraph headed by them),
    `Equation`, `Display`, `Table`, `LongTable`, or a list as a tuple of prose.
    """

    title: str
    blocks: Sequence[str | Equation | Display | Table | LongTable | tuple[str, ...]]


def document(title: str, sections: Iterable[Section], *, symbol_names: Mapping[Any, str] | None = None,
             matrices: Mapping[str, str] | None = None, line_length: float = LINE_LENGTH,
             late: Iterable[sp.Symbol] = (), packages: Sequence[str] = PACKAGES, standalone: bool = True) -> str:
    """A complete LaTeX document, its sections lettered as those of an appendix.

    Parameters
    ----------
    title : prose.
    sections : see `Section`; prose may hold math between dollars.
    symbol_names, matrices, late : as in `fieldtheory.symbolic.printing`.
    line_length : characters to which formulas are broken.
    packages : what the document loads.
    standalone : False for a fragment to ``\\input`` after ``\\appendix``: one section with the others below it.
    """
    sections = list(sections)
    blocks: list[Any] = []
    for block in (block for section in sections for block in section.blocks):
        blocks += block.equations if isinstance(block, Display) else [block]
    shown = [block.expr for block in blocks if isinstance(block, Equation)]
    shown += [cell for block in blocks if isinstance(block, Table | LongTable) for row in block.rows for cell in row]
    writer = _Writer(printers(shown, symbol_names, matrices, late), line_length, "" if standalone else "sub")
    body = "\n".join(writer.section(section) for section in sections)
    if not standalone:
        needs = "% Needs \\usepackage{" + ",".join(packages) + "}; the text is to be 154 mm wide, or narrower with a " \
            "smaller line length.\n"
        return f"{needs}{writer.heading(title, chr(92) + 'section')}\n\n{body}"
    head = rf"\title{{{prose(title)}}}" + "\n\\author{}\n\\date{}\n"
    preamble = _PREAMBLE % ",".join(packages)
    return f"{preamble}{head}\n\\begin{{document}}\n\\maketitle\n\\appendix\n\n{body}\n\\end{{document}}\n"


def printers(shown: Iterable[Any], symbol_names: Mapping[Any, str] | None, matrices: Mapping[str, str] | None,
             late: Iterable[sp.Symbol] = ()) -> dict[str, FieldPrinter]:
    """A printer for each style, all with the same index letters."""
    context = [expr for expr in shown if isinstance(expr, sp.Basic)]
    late = tuple(late)
    return {style: FieldPrinter(style=style, symbol_names=symbol_names, matrices=matrices, context=context, late=late)
            for style in STYLES}


class _Writer:
    """Turns blocks into LaTeX, with one printer for each style so that index letters agree throughout."""

    def __init__(self, printers: Mapping[str, FieldPrinter], line_length: float, level: str = "") -> None:
        self.printers = printers
        self.line_length = line_length
        self.level = level

    def heading(self, text: str, command: str) -> str:
        title = prose(text)
        if "$" in title:
            title = rf"\texorpdfstring{{{title}}}{{{plain(text)}}}"
        return rf"{command}{{{title}}}"

    def section(self, section: Section) -> str:
        parts = [self.heading(section.title, rf"\{self.level}section")]
        previous: Any = None
        for block in section.blocks:
            if isinstance(block, Equation | Display):
                parts.append(self.equations([block] if isinstance(block, Equation) else block.equations))
            else:
                # prose after a formula goes on in the same paragraph
                parts.append(("" if isinstance(previous, Equation | Display) else "\n") + self.other(block))
            previous = block
        return "\n".join(parts) + "\n"

    def other(self, block: Any) -> str:
        if isinstance(block, Table):
            return self.table(block)
        if isinstance(block, LongTable):
            return self.long_table(block)
        if isinstance(block, tuple):
            items = "\n".join(rf"\item {prose(item)}" for item in block)
            return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"
        if isinstance(block, str):
            heading = re.match(r"\*\*(.+?)\*\*\s*", block)
            if heading:
                return rf"\paragraph{{{prose(heading[1])}}} {prose(block[heading.end():])}"
            return prose(block)
        raise BadInput("blocks", repr(block), "prose, an Equation, a Table or a tuple of prose")

    def equations(self, blocks: Sequence[Equation]) -> str:
        shown = [self._lines(block, align=len(blocks) > 1) for block in blocks]
        labels = [rf"\label{{{block.label}}}" if block.label else "" for block in blocks]
        if len(shown) == 1 and len(shown[0]) == 1:
            tex = f"\\begin{{equation}}{labels[0]}\n{shown[0][0]}\n\\end{{equation}}"
        else:
            # not aligned inside equation: a long formula must be able to go over the page
            # (but one of a few lines stays on one)
            bodies = [f" \\notag \\\\{'*' if len(lines) < 6 else ''}\n".join(lines) + label
                      for lines, label in zip(shown, labels)]
            body = " \\\\\n".join(bodies)
            tex = f"\\begin{{align}}\n{body}\n\\end{{align}}"
        widest = max(tex_width(line) for lines in shown for line in lines) / self.line_length
        if widest <= 1.04:  # the number may take some of its space
            return tex
        size = r"\small" if widest <= 1.14 else r"\footnotesize"  # of what cannot be broken
        return f"{{{size}\n{tex}}}"

    def _lines(self, block: Equation, align: bool) -> list[str]:
        if isinstance(block.expr, str):
            lines = [block.expr if block.left is None else f"{block.left} {'&' if align else ''}= {block.expr}"]
        else:
            with self.printers[block.style].an_action_of(block.expr, block.variables) as printer:
                lines = printer.lines(block.expr, self.line_length, block.left, align)
        lines[-1] += block.end
        return lines

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
        if isinstance(cell, Picture):
            return cell.width
        parts = re.split(r"\$", self.cell(cell))
        return sum(tex_width(part) if i % 2 else float(len(part)) for i, part in enumerate(parts))

    def long_table(self, block: LongTable) -> str:
        header, *rows = [list(row) for row in block.rows]
        *narrow, _ = (max(self._cell_width(row[i]) for row in [header, *rows]) for i in range(len(header)))
        room = self.line_length + 8.0 - sum(narrow) - 2.5 * len(header)
        # columns of fixed width: they are right at the first run of TeX, and rows centred at their pictures
        columns = [rf">{{\centering\arraybackslash}}m{{{width / 2:.1f}em}}" for width in narrow]
        columns.append(rf">{{\raggedright\arraybackslash}}m{{{max(room, 10.0) / 2:.1f}em}}")
        strut = r"\rule[-2.6ex]{0pt}{6.4ex}"  # an m-column adds no space around a fraction taller than a line
        lines = [strut + " & ".join([*map(self.cell, row[:-1]), self._broken(row[-1], room)]) + r" \\" for row in rows]
        return "\n".join([
            r"{\setlength{\tabcolsep}{5pt}", rf"\begin{{longtable}}{{{''.join(columns)}}}", r"\hline",
            " & ".join(map(self.cell, header)) + r" \\ \hline \endhead", *lines, r"\hline",
            r"\end{longtable}}"])

    def _broken(self, cell: Any, room: float) -> str:
        """A formula in a cell, on several lines and in smaller type where it is wider than the room."""
        if not isinstance(cell, sp.Basic):
            return self.cell(cell)
        printer = self.printers["modes"]
        forms = [printer.lines(form, room) for form in (cell, sp.expand(cell))]
        lines = min(forms, key=lambda lines: (max(max(map(tex_width, lines)), room), len(lines)))
        widest = max(map(tex_width, lines)) / room
        size = "" if widest <= 1.04 else r"\small" if widest <= 1.14 else r"\footnotesize" if widest <= 1.25 \
            else r"\scriptsize"
        tex = lines[0] if len(lines) == 1 else "\\begin{aligned}" + " \\\\ ".join(lines) + "\\end{aligned}"
        return rf"{size}$\displaystyle {tex}$".lstrip()

    def cell(self, cell: Any) -> str:
        if isinstance(cell, Picture):
            return cell.tex
        return f"${self.printers['modes'].doprint(cell)}$" if isinstance(cell, sp.Basic) else prose(cell)
