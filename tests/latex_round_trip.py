"""What a round trip through LaTeX is held to: the same expression, or the same number at random points."""

from __future__ import annotations

import random
from typing import Any

import mpmath
import sympy as sp
from sympy.logic.boolalg import Boolean

from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, open_spaces
from fieldtheory.symbolic.parsing import parse_latex
from fieldtheory.symbolic.printing import latex
from fieldtheory.symbolic.series import numerical_value
from fieldtheory.symbolic.vocabulary import AVERAGES

DIGITS = 30


def is_same(one: Any, other: Any) -> bool:
    """Whether two expressions, equations, conditions or matrices are equal: in form, expanded, or at 30 digits."""
    if isinstance(one, sp.MatrixBase):
        return one.shape == other.shape and all(map(is_same, one, other))
    if isinstance(one, sp.Eq):
        return isinstance(other, sp.Eq) and is_same(one.lhs, other.lhs) and is_same(one.rhs, other.rhs)
    if one == other or (isinstance(one, Boolean) and not isinstance(one, sp.Symbol)):
        return one == other
    if not isinstance(other, sp.Expr) or open_spaces(one) != open_spaces(other):
        return False
    one, other = _closed(one), _closed(other)
    if sp.expand(sp.expand_log(one - other)) == 0:
        return True
    if any(type(node).__name__ in (*AVERAGES, "LogIntegral") for node in sp.preorder_traversal(one)):
        return False  # no numbers without an integration
    values = _values(sp.Tuple(one, other))
    left, right = (numerical_value(expr, values, DIGITS) for expr in (one, other))
    if not all(map(mpmath.isfinite, (left, right))):
        return bool(left == right)
    return bool(abs(left - right) <= mpmath.mpf(10) ** (4 - DIGITS) * max(abs(left), abs(right), 1))


def _closed(expr: sp.Expr) -> sp.Expr:
    for space in sorted(open_spaces(expr), key=sp.default_sort_key):
        expr = SpaceSum(Entry(f"probe of {space.name}", "data", [space]) * expr, space)
    return expr


def _values(expr: sp.Basic) -> dict[Any, Any]:
    """Random numbers for all in an expression, spaces of two or three points."""
    source = random.Random(1)
    sizes = {symbol for space in expr.atoms(Space) for symbol in space.size.atoms(sp.Symbol)}
    values: dict[Any, Any] = {
        symbol: source.choice([2, 3]) if symbol in sizes else sp.Rational(source.randint(80, 300), 157)
        for symbol in sorted(expr.atoms(sp.Symbol), key=sp.default_sort_key)
    }
    numbers = {symbol: sp.sympify(value) for symbol, value in values.items()}

    def fill(entry: Entry, spaces: tuple[Space, ...]) -> Any:
        if spaces:
            return [fill(entry, spaces[1:]) for _ in range(int(spaces[0].size.xreplace(numbers)))]
        return mpmath.mpf(source.randint(80, 300)) / 271 * (1j if entry.domain == "imaginary" else 1)

    return values | {entry: fill(entry, entry.spaces) for entry in sorted(expr.atoms(Entry), key=sp.default_sort_key)}


def assert_round_trip(expr: Any, widths: tuple[float | None, ...] = (None, 40, 12)) -> None:
    """Printed in both styles, whole and broken, ``expr`` reads back as itself."""
    for style in ("modes", "traces"):
        for width in widths:
            tex = latex(expr, style=style, line_length=width)
            assert is_same(parse_latex(tex, expr), expr), tex
