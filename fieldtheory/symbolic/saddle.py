"""Saddle points: equations of state, the fluctuation determinant, and the one-loop effective action.

An action of a field over a space depends on it through a few *sums* that enter non-linearly.  Stationarity,
δS/δj(k) = 0, is then solved point by point with these sums held, and closed by their definitions: P equations
become a handful.  Derived here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.fields import (
    Entry,
    SpaceSum,
    depends_on,
    distribute,
    open_spaces,
    pointwise_diff,
    structure_key,
    sums,
    tidy,
    top_replace,
    vary,
)
from fieldtheory.symbolic.forms import Form, hessian


@dataclass(frozen=True)
class OrderParameter:
    """A scalar that names a sum: ``total`` = ``expression`` in ``symbol``.

    Made by :func:`conjugate_to`; the symbol is positive where the domain says so.
    """

    symbol: sp.Symbol
    total: SpaceSum
    expression: sp.Expr
    value: sp.Expr

    @property
    def table(self) -> dict[sp.Expr, sp.Expr]:
        return {self.total: self.expression}


def conjugate_to(action: sp.Expr, name: str, quantity: sp.Expr) -> OrderParameter:
    r"""The variable conjugate to a sum, q = ∓∂S/∂E with E = ``quantity`` = factor·Σ…, as the name for that sum.

    The upper sign is a sum of an imaginary field, the lower one of a real field: each is positive where S is convex
    along the contour.  If S holds (N/2) ln(1 - (g/N) jᵀKj), then q conjugate to ½ jᵀKj is g/(1 - g jᵀKj/N).
    The name is positive where that is known on the contour, and real otherwise.

    Raises
    ------
    RuleError
        If S does not depend on the sum, or the relation cannot be inverted uniquely.
    """
    factor, total = sp.sympify(quantity).as_coeff_Mul()
    if not isinstance(total, SpaceSum):
        raise BadInput("quantity", quantity, "a number times a sum over a space")
    imaginary = any(entry.domain == "imaginary" for entry in total.atoms(Entry))
    value = (-1 if imaginary else 1) * pointwise_diff(action, total) / factor
    if value == 0 or not depends_on(value, total):
        raise RuleError(f"the action is at most linear in {total}; it has no conjugate to solve for")
    if name in {node.name for node in action.atoms(Entry, sp.Symbol)}:
        raise BadInput("name", name, "a name that is not in use")
    symbol = sp.Symbol(name, positive=True) if _is_positive(value, total) else sp.Symbol(name, real=True)
    unknown = sp.Dummy("E")
    solutions = sp.solve(value.xreplace({total: unknown}) - symbol, unknown)
    if len(solutions) != 1:
        raise RuleError(f"{len(solutions)} values of {total} belong to one value of {name}")
    return OrderParameter(symbol, total, sp.expand(solutions[0]), value)


def _is_positive(value: sp.Expr, total: SpaceSum) -> bool:
    """Whether q > 0 for every value of the sum on the contour, and off an imaginary contour as far as no zero stops it.

    The saddle of an imaginary field lies off its contour; a q that has no zero keeps its sign on the way there.
    """
    rotated = {entry: sp.I * Entry(entry.name, "real", entry.spaces)
               for entry in total.atoms(Entry) if entry.domain == "imaginary"}
    on_contour = sp.expand(total.body.xreplace(rotated))
    held = sp.Dummy("E", nonnegative=True)
    for sign, known in ((1, on_contour.is_nonnegative), (-1, on_contour.is_nonpositive)):
        if known:
            positive = sp.factor(value.xreplace({total: sign * held})).is_positive
            unknown = sp.Dummy("E")
            return bool(positive) and (not rotated or sp.solve(value.xreplace({total: unknown}), unknown) == [])
    return False


def express(expr: sp.Expr, parameters: tuple[OrderParameter, ...]) -> sp.Expr:
    """Write an expression in terms of order parameters, wherever it contains the sums that they name."""
    for parameter in parameters:
        expr = _cancel_scalars(expr.xreplace(parameter.table), parameter.symbol)
    return tidy(expr)


def _cancel_scalars(expr: sp.Expr, symbol: sp.Symbol) -> sp.Expr:
    """Cancel inside sub-expressions that hold the new symbol but no entry: 1 - (1 - g/q) becomes g/q."""
    if not expr.args or isinstance(expr, Entry):
        return expr
    if symbol in expr.free_symbols and not expr.atoms(Entry) and isinstance(expr, sp.Add | sp.Mul | sp.Pow):
        expr = sp.factor(sp.cancel(expr)) if expr.is_rational_function(*expr.free_symbols) else expr
    if not expr.args:
        return expr
    return expr.func(*(_cancel_scalars(arg, symbol) if isinstance(arg, sp.Expr) else arg for arg in expr.args))


@dataclass(frozen=True)
class EquationsOfState:
    """A finite set of equations, each = 0, in scalar unknowns, and what the field is once they are solved.

    ``domains`` says over what each unknown ranges.  ``action`` is S as a function of the unknown where the
    roots are its stationary points (weights and stability); None otherwise.  ``definitions`` are the same equations
    before the field is eliminated: what each unknown stands for, and the stationarity of the field.
    """

    unknowns: tuple[sp.Symbol, ...]
    equations: tuple[sp.Expr, ...]
    domains: tuple[str, ...]
    field: sp.Expr | None = None
    profile: sp.Expr | None = None
    action: sp.Expr | None = None
    definitions: Mapping[str, sp.Eq] = dataclasses.field(default_factory=dict)

    def substitute(self, expr: sp.Expr) -> sp.Expr:
        """An expression in the field, at the solution (a function of the unknowns)."""
        return expr if self.field is None else expr.xreplace({self.field: self.profile})


def field_saddle(action: sp.Expr, candidate: Entry, parameters: tuple[OrderParameter, ...] = (), *,
                 prefix: str = "m") -> EquationsOfState:
    """δS/δj = 0 for a field over one space, reduced to equations for the sums that enter non-linearly.

    ``parameters`` name some of these sums; the others are called ``prefix``_1, ``prefix``_2, …, in an order
    that does not depend on names.  The field itself is ``profile``, open in its space.

    Raises
    ------
    RuleError
        If, with the sums held, the gradient is not linear in the field.
    """
    gradient = vary(action, candidate)
    gradient = express(gradient, parameters)
    named: dict[SpaceSum, sp.Symbol] = {}
    for total in sorted(_field_sums(gradient, candidate), key=structure_key):
        named[total] = sp.Symbol(f"{prefix}_{len(named) + 1}", real=True)
    held = gradient.xreplace(named)
    slope = pointwise_diff(held, candidate)
    if depends_on(slope, candidate):
        raise RuleError(f"the saddle-point equation is not linear in {candidate.name} once its sums are held")
    sign = -1 if candidate.domain == "imaginary" else 1  # S'' is negative on an imaginary contour
    profile = tidy(-sign * top_replace(held, {candidate: sp.S.Zero}) / distribute(sign * slope))
    closing = {parameter.symbol: (parameter.expression, parameter.total) for parameter in parameters}
    closing |= {symbol: (symbol, total) for total, symbol in named.items()}
    equations = [left - SpaceSum(total.body.xreplace({candidate: profile}), total.space)
                 for left, total in closing.values()]
    unknowns = list(closing)
    definitions = {candidate.name: sp.Eq(held, 0, evaluate=False)}
    definitions |= {symbol.name: sp.Eq(*sides, evaluate=False) for symbol, sides in closing.items()}
    domains = tuple("positive" if unknown.is_positive else "real" for unknown in unknowns)
    return EquationsOfState(tuple(unknowns), tuple(equations), domains, candidate, profile, definitions=definitions)


def _field_sums(expr: sp.Expr, candidate: Entry) -> set[SpaceSum]:
    """Outermost closed sums that depend on the field, wherever they stand (inside other sums' coefficients too)."""
    return {total for total in sums(expr) if depends_on(total, candidate) and not open_spaces(total)}


@dataclass(frozen=True)
class EffectiveAction:
    """Γ = tree + one-loop fluctuation, the latter in two parts: ½ Σ ln d and ½ ln det(1 + Vᵀ D⁻¹ U)."""

    tree: sp.Expr
    local: sp.Expr
    low_rank: sp.Expr
    fluctuation: Form

    @property
    def expr(self) -> sp.Expr:
        return self.tree + self.local + self.low_rank


def one_loop_effective_action(action: sp.Expr, candidate: Entry) -> EffectiveAction:
    r"""Γ(φ̄) = S(φ̄) + ½ ln det(±2π^{∓1} S''(φ̄)), the 1PI effective action to one loop.

    The upper sign is a real field, the lower one an imaginary field, whose S'' is negative.  Its stationary
    point is ⟨φ⟩ up to two loops, with all one-loop tadpoles resummed.
    """
    form = hessian(action, candidate)
    imaginary = candidate.domain == "imaginary"
    oriented = form.scale(sp.S.NegativeOne) if imaginary else form
    constant = candidate.size * sp.log(2 * sp.pi) * (1 if imaginary else -1)
    return EffectiveAction(action, (oriented.log_det_local() + constant) / 2, oriented.log_det_low_rank() / 2, form)
