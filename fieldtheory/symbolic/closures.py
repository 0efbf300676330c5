"""Closing a reduced action: from the fields that are left to a few numbers, and averages as functions of them.

What is left decides how it closes: no field, nothing to solve; one scalar field, a saddle point with loops to
any order; one field over a space, a saddle point with the one-loop effective action.  Each closure says what
was dropped.  Derived here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.fields import Entry, SpaceSum, depends_on, open_spaces, tidy, variations, vary
from fieldtheory.symbolic.forms import Form, open_hessian
from fieldtheory.symbolic.loops import ScalarExpansion, hbar, scalar_derivatives
from fieldtheory.symbolic.rules import FieldAction
from fieldtheory.symbolic.saddle import (
    EffectiveAction,
    EquationsOfState,
    OrderParameter,
    express,
    field_saddle,
    one_loop_effective_action,
)

Table = Mapping[sp.Expr, sp.Expr]


@dataclass(frozen=True)
class Closure:
    """What every closure offers; this one, with no field left, is exact and has no unknowns."""

    action: FieldAction
    loops: int = 0

    @property
    def state(self) -> EquationsOfState:
        return EquationsOfState((), (), ())

    @property
    def coefficients(self) -> dict[sp.Symbol, sp.Expr]:
        """Scalars that averages are written in, each as a function of the unknowns and of those before it."""
        return {}

    def average(self, observable: sp.Expr) -> sp.Expr:
        """⟨O⟩ at the order kept: a function of the unknowns, ``coefficients``, data and the field at the saddle."""
        return tidy(observable)

    def variance(self, observable: sp.Expr, square: sp.Expr) -> sp.Expr:
        """The variance of an observable A, given A and A² as observables of the fields that are left."""
        return tidy(self.average(square) - self.average(observable)**2)

    def log_partition(self) -> sp.Expr:
        """ln Z, one loop beyond the averages, so that both err at the same power of ħ."""
        return -self.action.expr

    @property
    def remainder(self) -> str:
        """The order of what was dropped of an average, in the loop-counting parameter ħ."""
        return "0"

    def remainder_of(self, quantity: str) -> str:
        """The order of what was dropped of a named quantity, where it is not that of an average."""
        return self.remainder

    @property
    def contributions(self) -> dict[str, sp.Expr]:
        """The terms of the equation of state, by name, for counting powers."""
        return {}

    @property
    def corrections(self) -> dict[str, sp.Expr]:
        """What a saddle without loops leaves out of the equation of state, or (one scalar field) of ⟨O⟩/O, by name."""
        return {}


@dataclass(frozen=True)
class ScalarClosure(Closure):
    """One scalar field u, expanded about its saddle to any number of loops.

    ``symbol`` is the unknown that is solved for and printed, u = ``coordinate`` (symbol): after a change of
    variables Q = e^u the expansion is in u, the equation of state in Q.
    """

    symbol: sp.Symbol = sp.Symbol("u", real=True)  # noqa: RUF009
    coordinate: sp.Expr = symbol

    @property
    def field(self) -> sp.Expr:
        return self.action.fields[0]

    @cached_property
    def expansion(self) -> ScalarExpansion:
        return ScalarExpansion.of(self.action.expr, self.field, self.loops)

    def _at(self, expr: sp.Expr) -> sp.Expr:
        return tidy(expr.xreplace({self.field: self.coordinate}))

    @cached_property
    def state(self) -> EquationsOfState:  # type: ignore[override]
        domain = "positive" if self.symbol.is_positive else "real"
        S = self.expansion.derivatives
        slope = self._at(S[1])
        return EquationsOfState((self.symbol,), (slope,), (domain,), self.field, self.coordinate, self._at(S[0]),
                                {self.symbol.name: sp.Eq(slope, 0, evaluate=False)})

    @property
    def curvature(self) -> sp.Expr:
        """S''(u): positive at a stable root, and what a root's Laplace weight needs."""
        return self._at(self.expansion.derivatives[2])

    @cached_property
    def coefficients(self) -> dict[sp.Symbol, sp.Expr]:  # type: ignore[override]
        loop = self.expansion.coefficients
        table = {loop.propagator: 1 / self.curvature}
        for k, vertex in loop.vertices.items():
            table[vertex] = self._at(self.expansion.derivatives[k])
        for n in range(1, 2 * self.loops + 1):
            table[self._coefficient(n)] = sp.Add(*loop.expectation[n].values())
        for n in range(1, 2 * self.loops):
            for m in range(1, 2 * self.loops - n + 1):
                table[self._coefficient(n, m)] = sp.Add(*loop.covariance(n, m).values())
        return table

    @staticmethod
    def _coefficient(*orders: int) -> sp.Symbol:
        return sp.Symbol("c_" + "".join(str(n) for n in orders), real=True)

    def _jets(self, observable: sp.Expr) -> list[sp.Expr]:
        if open_spaces(observable) and not observable.atoms(SpaceSum):
            # Over one denominator: y - s y/(Qλ+s) would lose digits where s is large, Qλ y/(Qλ+s) does not.
            numerator, denominator = sp.fraction(sp.together(observable))
            observable = sp.expand(numerator) / denominator
        return [self._at(jet) for jet in scalar_derivatives(observable, self.field, 2 * self.loops)]

    def average(self, observable: sp.Expr) -> sp.Expr:
        return sp.Add(*(jet * (self._coefficient(n) if n else 1) for n, jet in enumerate(self._jets(observable))))

    def variance(self, observable: sp.Expr, square: sp.Expr) -> sp.Expr:
        conditional = self.average(sp.expand(square - observable**2))
        jets = self._jets(observable)
        spread = sp.Add(*(self._coefficient(n, m) * jets[n] * jets[m]
                          for n in range(1, 2 * self.loops) for m in range(1, 2 * self.loops - n + 1)))
        return conditional + spread

    def log_partition(self) -> sp.Expr:
        loop = self.expansion.coefficients
        terms = [-self._at(self.action.expr), sp.log(2 * sp.pi) / 2 + sp.log(loop.propagator) / 2]
        return sp.Add(*terms, *loop.log_partition.values())

    @property
    def remainder(self) -> str:
        return f"hbar^{self.loops + 1}"

    @property
    def contributions(self) -> dict[str, sp.Expr]:
        return {str(term): term for term in sp.Add.make_args(self.state.equations[0])}

    @property
    def corrections(self) -> dict[str, sp.Expr]:
        one_loop = self if self.loops else ScalarClosure(self.action, 1, self.symbol, self.coordinate)
        loop = one_loop.expansion.coefficients
        flat = {s: self._at(e) for s, e in one_loop.expansion.table.items()}
        return {f"one loop, O{'′' * n}": c.xreplace(flat)
                for n, series in loop.expectation.items() for order, c in series.items() if order == 1}


@dataclass(frozen=True)
class FieldClosure(Closure):
    """One field over a space: its saddle (no loop), or the one-loop effective action, solved self-consistently."""

    parameters: tuple[OrderParameter, ...] = ()
    parts: tuple[str, ...] = ("local", "low_rank")

    @property
    def field(self) -> Entry:
        return self.action.fields[0]  # type: ignore[return-value]

    @cached_property
    def effective(self) -> EffectiveAction:
        return one_loop_effective_action(self.action.expr, self.field)

    @cached_property
    def propagator(self) -> Form:
        """S''⁻¹ as a functional of the field, written in the order parameters."""
        return self._express_form(self.effective.fluctuation).inverse()

    def _express_form(self, form: Form) -> Form:
        pairs = tuple((express(u, self.parameters), express(v, self.parameters)) for u, v in form.pairs)
        return Form(form.spaces, express(form.diag, self.parameters), pairs, form.nonlocal_spaces)

    @cached_property
    def gamma(self) -> sp.Expr:
        """The effective action at the order kept (and with the parts asked for), loops counted by ħ."""
        corrections = [hbar * getattr(self.effective, part) for part in self.parts] if self.loops else []
        return self.action.expr + sp.Add(*corrections)

    @cached_property
    def state(self) -> EquationsOfState:  # type: ignore[override]
        return field_saddle(self.gamma, self.field, self.parameters)

    def average(self, observable: sp.Expr) -> sp.Expr:
        """⟨O⟩ = O(φ̄) + ½ Tr(S''⁻¹ O''), in the order parameters and the field at the saddle, ``state.profile``."""
        total = express(observable, self.parameters)
        second = open_hessian(observable, self.field) if self.loops else None
        if second is not None:
            total += self._express_form(second).trace_with(self.propagator) / 2
        return tidy(total)

    def variance(self, observable: sp.Expr, square: sp.Expr) -> sp.Expr:
        gradient = express(vary(observable, self.field), self.parameters)
        conditional = express(sp.expand(square - observable**2), self.parameters)
        return tidy(conditional + self.propagator.quadratic(gradient))

    def log_partition(self) -> sp.Expr:
        return -express(self.effective.expr, self.parameters)

    @property
    def remainder(self) -> str:
        return f"hbar^{self.loops + 1}"

    def remainder_of(self, quantity: str) -> str:
        # One loop of ln Z at any order, and the leading order of a covariance, which is ħ.
        exponents = {"log_evidence": 1, "variance": 2, "variance_along_mean_output": 2}  # absolute
        return f"hbar^{exponents.get(quantity, self.loops + 1)}"

    @property
    def contributions(self) -> dict[str, sp.Expr]:
        return {str(term): term for equation in self.tree.equations for term in sp.Add.make_args(equation)}

    @property
    def corrections(self) -> dict[str, sp.Expr]:
        """What the fluctuations of the field add to the equations of state of the collective variables.

        With q conjugate to E = ½Σ…, the tree equations are ∂/∂q of a potential, to which the fluctuations add their
        log-determinant.  Only in these variables does a power of N not cancel against the shift of q itself.
        """
        table = {}
        for label, part in (("trace", self.effective.local), ("rank one", self.effective.low_rank)):
            potential = express(part, self.parameters).xreplace({self.field: self.tree.profile})
            table[label] = tidy(2 * sp.Add(*(sp.diff(potential, parameter.symbol) for parameter in self.parameters)))
        return table

    @cached_property
    def tree(self) -> EquationsOfState:
        """The equations of state without loops."""
        return field_saddle(self.action.expr, self.field, self.parameters)


def close(action: FieldAction, loops: int = 0, *, parameters: tuple[OrderParameter, ...] = (),
          coordinate: tuple[sp.Symbol, sp.Expr] | None = None) -> Closure:
    """Close an action in whatever way the fields that are left allow.

    Raises
    ------
    BadInput
        If ``loops`` is negative, or more than one for a field over a space.
    RuleError
        If several fields are left.
    """
    if not isinstance(loops, int) or loops < 0:
        raise BadInput("loops", loops, "an integer that is zero or more")
    if not action.fields:
        return Closure(action, loops)
    if len(action.fields) > 1:
        names = ", ".join(str(f) for f in action.fields)
        raise RuleError(f"several fields are left ({names}); integrate out all but one first")
    (field,) = action.fields
    if isinstance(field, Entry) and field.spaces:
        if loops > 1:
            raise BadInput("loops", loops, f"0 or 1: the effective action of {field.name} is known to one loop")
        return FieldClosure(action, loops, parameters)
    if coordinate is None:
        positive = isinstance(field, Entry) and field.domain == "positive"
        name = field.name if isinstance(field, Entry | sp.Symbol) else str(field)
        symbol = sp.Symbol(name, positive=True) if positive else sp.Symbol(name, real=True)
        coordinate = (symbol, symbol)
    return ScalarClosure(action, loops, *coordinate)


def linear_coefficient(expr: sp.Expr, datum: Entry) -> sp.Expr:
    """The coefficient c of an expression Σ_k T_tk c_k that is linear in a datum over (test, mode): open in mode."""
    terms = variations(expr, datum)
    if any(depends_on(c * d, datum) for c, d, _ in terms):
        raise RuleError(f"the expression is not linear in {datum.name}")
    return tidy(sp.Add(*(c * d for c, d, _ in terms)))


def hyperparameter_derivative(expr: sp.Expr, hyperparameter: sp.Symbol, definitions: Table) -> sp.Expr:
    """∂ expr/∂θ through everything that is defined in terms of θ, written back in the defined symbols."""
    touched = {key: value for key, value in definitions.items() if hyperparameter in value.free_symbols}
    scalars = {key: value for key, value in touched.items() if not isinstance(key, Entry)}
    total = sp.diff(expr, hyperparameter)
    for key, value in scalars.items():
        total += sp.diff(expr, key) * _logarithmic(value, hyperparameter) * key
    for key, value in touched.items():
        if isinstance(key, Entry):
            strength = sp.Dummy("strength", positive=True)
            slope = sp.diff(expr.xreplace({key: strength * key}), strength).xreplace({strength: sp.S.One})
            total += slope * _logarithmic(value, hyperparameter)
    return tidy(total)


def _logarithmic(value: sp.Expr, symbol: sp.Symbol) -> sp.Expr:
    """∂ ln(value)/∂ symbol, free of the fields and data in value."""
    return sp.simplify(sp.diff(value, symbol) / value)
