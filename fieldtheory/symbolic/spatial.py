"""What can be refused of an action of one field over a space before it is expanded, as for scalar fields.

A field over a space has as many components as the space has points, of which some are enough to prove that an action
falls without bound or is not stationary at a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.symbolic.contour import check_bounded, locally_analytic, non_analytic_terms
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on, distribute, entries, vary
from fieldtheory.symbolic.saddles import per_large, tidy_number


def checked_action(action: sp.Expr, field: Entry, at: sp.Expr | None, large: Any = None, *,
                   formal: bool = False) -> tuple[sp.Expr, sp.Expr]:
    """S/N and ħ = 1/N, or S and the formal ħ, of an action that can be expanded at a point.

    ``at`` is the value of the field at every point of its spaces; None for its saddle, whatever that is.

    Raises
    ------
    BadInput
        For an N that does not multiply the action, an action unbounded below on the real contour (unless ``formal``),
        a term that is not analytic, a point that is not stationary or where the action is singular.
    """
    reduced, parameter = per_large(action, large)
    reduced = _analytic(reduced, field, at, "action")
    if at is not None:
        slope = distribute(vary(reduced, field).xreplace({field: at}))
        if slope.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
            raise BadInput("at", at, "a point at which the action is analytic")
        if slope != 0 and (slope := tidy_number(sp.simplify(slope))) != 0:
            raise BadInput("at", at, f"a stationary point; there the derivative by {field} is {slope}")
    if not formal:
        _check_bounded(reduced, field)
    return reduced, parameter


def checked_observable(observable: Any, action: sp.Expr, field: Entry, at: sp.Expr | None,
                       known: Sequence[sp.Expr] = ()) -> sp.Expr:
    """An observable in symbols that the action has (or ``known`` ones), in its field and in data.

    Raises
    ------
    BadInput
        Naming a symbol or a field that the action does not have, or a term that is not analytic.
    """
    expr = sp.sympify(observable)
    if not isinstance(expr, sp.Expr):
        raise BadInput("observable", observable, "an expression in the field")
    spaces = action.atoms(Space) | expr.atoms(Space)
    names = {field, *action.free_symbols, *entries(action), *known}
    allowed = names.union(*(space.size.free_symbols for space in spaces))
    asked = expr.free_symbols | {entry for entry in entries(expr) if not entry.is_data}
    unknown = sorted(asked - allowed, key=sp.default_sort_key)
    if unknown:
        listed = ", ".join(sorted(map(str, names)))
        raise BadInput("observable", f"{expr}, with the unknown symbol {unknown[0]}",
                       f"an expression in {listed}, and in data over a space")
    return _analytic(expr, field, at, "observable")


def _analytic(expr: sp.Expr, field: Entry, at: sp.Expr | None, argument: str) -> sp.Expr:
    if at is not None:
        return locally_analytic(expr, [field], [at], argument)
    kinks = non_analytic_terms(expr, [field])
    if kinks:
        raise BadInput(argument, kinks[0], "a term that is analytic at the saddle; or give the saddle (at=...)")
    return expr


def _check_bounded(action: sp.Expr, field: Entry) -> None:
    """Along one component alone, and along all of them together."""
    if field.domain == "imaginary":
        return
    one = sp.Symbol(field.name, real=True, nonnegative=True if field.domain == "positive" else None)
    data: dict[sp.Expr, sp.Expr] = {}

    def value(node: sp.Expr, together: bool) -> sp.Expr:
        if isinstance(node, SpaceSum):
            body = value(node.body, together)
            if together or not depends_on(node, field) or node.space not in field.spaces:
                return body * node.space.size
            return body + (node.space.size - 1) * value(node.body.xreplace({field: sp.S.Zero}), together)
        if node == field:
            return one
        if isinstance(node, Entry):
            return data.setdefault(node, sp.Dummy(node.name, real=True, nonnegative=node.is_nonnegative))
        return node.func(*(value(arg, together) for arg in node.args)) if node.args else node

    for together in (False, True):
        along = value(action, together)
        if not along.has(sp.nan, sp.zoo, sp.oo, -sp.oo):  # ln φ of the other components, at zero
            check_bounded(along, (one,))


__all__ = ["checked_action", "checked_observable"]
