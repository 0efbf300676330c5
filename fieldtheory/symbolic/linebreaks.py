r"""Breaking a formula into lines at + and -, where its printed width, estimated from the LaTeX, asks for it.

The unit is a character of half an em. Glyph widths are those of Computer Modern, rounded; the estimate is
within about a tenth of what pdflatex sets in display style.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import sympy as sp

from fieldtheory.symbolic.arrange import is_average, is_site_integral
from fieldtheory.symbolic.fields import SpaceSum

if TYPE_CHECKING:
    from fieldtheory.symbolic.printing import FieldPrinter

_TOKENS = re.compile(r"\\[A-Za-z]+\*?|\\.|[{}^_]|\s+|.", re.DOTALL)
_INVISIBLE = {
    r"\limits", r"\mathrm", r"\mathsf", r"\mathbf", r"\mathit", r"\operatorname",
    r"\text", r"\tilde", r"\hat", r"\bar", r"\vec", r"\dot", r"\ddot", r"\boldsymbol", r"\displaystyle",
    r"\notag", "&",
}
_SPACES = {r"\quad": 2.0, r"\qquad": 4.0, r"\,": 0.35, r"\:": 0.45, r"\;": 0.55, r"\ ": 0.7, r"\!": -0.35}
_FENCES = {r"\left", r"\right", r"\biggl", r"\biggr", r"\Bigl", r"\Bigr", r"\bigl", r"\bigr"}
_BINARY = {
    "+", "-", "=", "<", ">", r"\leq", r"\geq", r"\neq", r"\approx", r"\sim", r"\to", r"\times", r"\propto",
    r"\cdot",
}
_NAMED = {r"\ln", r"\log", r"\exp", r"\det", r"\sin", r"\cos", r"\tanh", r"\max", r"\min", r"\lim", r"\Pr"}
_STACKED = {r"\sum", r"\prod"}


def tex_width(tex: str) -> float:
    """Printed width of a formula in characters of half an em."""
    tokens = [token for token in _TOKENS.findall(tex) if not token.isspace()]
    width, position = 0.0, 0
    while position < len(tokens):
        step, position = _atom(tokens, position)
        width += step
    return width


def _argument(tokens: list[str], position: int) -> tuple[float, int]:
    """Width of the group or token at ``position``, and what comes after it."""
    if position >= len(tokens):
        return 0.0, position
    if tokens[position] != "{":
        return _glyph(tokens[position]), position + 1
    width, position = 0.0, position + 1
    while position < len(tokens) and tokens[position] != "}":
        step, position = _atom(tokens, position)
        width += step
    return width, position + 1


def _atom(tokens: list[str], position: int) -> tuple[float, int]:
    """Width of one nucleus with its scripts."""
    token = tokens[position]
    if token in (r"\frac", r"\dfrac"):
        above, position = _argument(tokens, position + 1)
        below, position = _argument(tokens, position)
        width = max(above, below) + 0.5
    elif token == r"\sqrt":
        width, position = _argument(tokens, position + 1)
        width += 1.7
    elif token == "{":
        width, position = _argument(tokens, position)
    elif token in ("^", "_"):
        width = 0.0
    else:
        width, position = _glyph(token), position + 1
    scripts = 0.0
    while position < len(tokens) and tokens[position] in ("^", "_"):
        script, position = _argument(tokens, position + 1)
        scripts = max(scripts, 0.72 * script)
    if token in _STACKED:
        return max(width, scripts) + 0.35, position
    return width + scripts, position


def _glyph(token: str) -> float:
    if token in _INVISIBLE or token == "}":
        return 0.0
    if token in _SPACES:
        return _SPACES[token]
    if token in _STACKED:
        return 2.9
    if token in _FENCES:
        return 0.45  # on top of the bracket itself: its size, and the thin space around
    if token in _BINARY:
        return 2.4
    if token in _NAMED:
        return 0.95 * (len(token) - 1) + 0.35
    if token in "()[]|" or token in (r"\langle", r"\rangle"):
        return 0.9
    if token in ".,;'!":
        return 0.6
    return 1.5 if token.isupper() else 1.05


def break_points(printer: FieldPrinter, expr: sp.Expr, width: float) -> list[str]:
    """``expr`` in pieces between which a line may be broken: its signed terms, the wide ones cut inside."""
    if not expr.is_Add:
        return _cut(printer, expr, width)
    pieces: list[str] = []
    for position, term in enumerate(printer.ordered_terms(expr)):
        negative = position > 0 and term.could_extract_minus_sign()
        operator = (" - " if negative else " + ") if position else ""
        first, *more = _cut(printer, -term if negative else term, width)
        pieces += [operator + first, *more]
    return pieces


def fill(pieces: list[str], width: float) -> list[str]:
    """Pieces set into lines no wider than ``width``, so far as they allow it."""
    rows = [pieces[0]]
    for piece in pieces[1:]:
        if tex_width(rows[-1] + piece) <= width:
            rows[-1] += piece
        else:
            rows.append(piece.lstrip())
    return rows


def _cut(printer: FieldPrinter, term: sp.Expr, width: float) -> list[str]:
    """One factor or product, cut inside its widest bracket if it is wider than ``width``."""
    whole = printer.bracket_sum(term)
    if tex_width(whole) <= width:
        return [whole]
    if term.is_Add:
        return _open_bracket(printer, "", term, width)
    if isinstance(term, SpaceSum):
        if printer.style == "traces" and printer.matrix_notation(term) is not None:
            return [whole]
        head = printer.sum_head(term.space)
        with printer.bound(term.space):
            first, *more = _cut(printer, term.body, width)
        return [f"{head} {first}", *more]
    if isinstance(term, sp.log) and term.args[0].is_Add:
        return _open_bracket(printer, r"\ln", term.args[0], width)
    if is_site_integral(term) and term.args[0].is_Add:
        return _open_bracket(printer, printer.integral_head(term), -term.args[0], width)
    if is_average(term):
        pieces = break_points(printer, term.args[0], width)
        if len(pieces) == 1:
            return [whole]
        return [rf"\biggl\langle {pieces[0]}", *pieces[1:-1],
                rf"{pieces[-1]} \biggr\rangle{printer.bound_fields(term)}"]
    if not term.is_Mul:
        return [whole]
    sign, rest = ("- ", -term) if term.could_extract_minus_sign() else ("", term)
    if not rest.is_Mul:
        first, *more = _cut(printer, rest, width)
        return [sign + first, *more]
    cuttable = [f for f in rest.args
                if f.is_Add or isinstance(f, SpaceSum | sp.log) or is_site_integral(f) or is_average(f)]
    if not cuttable:
        return [whole]
    cuttable.sort(key=sp.default_sort_key)
    widest = max(cuttable, key=lambda f: tex_width(printer.bracket_sum(f)))
    others = sp.Mul._from_args([f for f in rest.args if f is not widest])
    first, *more = _cut(printer, widest, width)
    if not more:
        return [whole]
    front = printer.factor(others, last=False)
    return [f"{sign}{front} {first}", *more]


def _open_bracket(printer: FieldPrinter, front: str, inside: sp.Add, width: float) -> list[str]:
    # \left and \right cannot stand on different lines; brackets of fixed size can
    first, *more, last = break_points(printer, inside, width)
    return [rf"{front} \biggl({first}".lstrip(), *more, rf"{last}\biggr)"]
