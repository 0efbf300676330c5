r"""Hyperpriors: fields that all sites share, with a law of their own.

A positive field λ over a space (a precision for each input, say) enters an action point by point as
A λ^p + b ln λ, where A holds sums over the sites and b does not.  The best law in which λ is independent of all other
fields, r(λ) p(θ), minimises F = ⟨S⟩ + ∫p ln p + ∫r ln r ≥ -ln Z:

    r(λ) ∝ exp(-a λ^p - b ln λ),  a = ⟨A⟩_p,      p(θ) ∝ exp(-⟨S⟩_r),  λ^p → ⟨λ^p⟩_r = -∂/∂a ln ζ(a, b),

with ζ(a, b) = ∫₀^∞ dλ e^{-aλ^p - b ln λ}.  Nothing about r need be known but ln ζ, whose derivatives are its averages;
p = 1 is a Gamma law, p = -1 its inverse, p = 2 a chi law.  The action left for θ has -ln ∫dθ e^{-S'} = F, and is linear
in what λ^p multiplied, so that sites which λ coupled are independent again.  Derived here; the variational treatment of
a precision is that of MacKay and of Bishop and Tipping.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.fields import (
    Entry,
    SpaceSum,
    depends_on,
    distribute,
    sum_over,
    tidy,
    vary,
)
from fieldtheory.symbolic.rules import FieldAction, Step, names_in, tex
from fieldtheory.symbolic.sites import DIVERGENCE

RATE, EXPONENT = sp.Symbol("a", positive=True), sp.Symbol("b", real=True)


@dataclass(frozen=True)
class PowerLaw:
    """The law e^{-aλ^p - b ln λ} of one positive number."""

    power: sp.Expr

    @property
    def log_integral(self) -> sp.Expr:
        """ln ζ(a, b) in the symbols ``RATE`` and ``EXPONENT``; λ = (x/a)^{1/p} makes it Euler's integral."""
        order = (1 - EXPONENT) / self.power
        return sp.loggamma(order) - order * sp.log(RATE) - sp.log(sp.Abs(self.power))

    def at(self, expr: sp.Expr, rate: sp.Expr, exponent: sp.Expr) -> sp.Expr:
        return expr.xreplace({RATE: rate, EXPONENT: exponent})

    @property
    def mean_power(self) -> sp.Expr:
        """⟨λ^p⟩."""
        return -sp.diff(self.log_integral, RATE)

    @property
    def mean_log(self) -> sp.Expr:
        """⟨ln λ⟩."""
        return -sp.diff(self.log_integral, EXPONENT)


def read(expr: sp.Expr, shared: Entry) -> tuple[PowerLaw, sp.Expr, sp.Expr]:
    """An action as Σ [A λ^p + b ln λ] and a rest: the law's power, A and b, both open in the spaces of λ.

    Raises
    ------
    RuleError
        If it has no such form.
    """
    rates: dict[sp.Expr, sp.Expr] = {}
    for term in sp.Add.make_args(distribute(vary(expr, shared))):
        inside: list[sp.Expr] = []
        outside: list[sp.Expr] = []
        for factor in sp.Mul.make_args(term):
            (inside if depends_on(factor, shared) else outside).append(factor)
        base, exponent = sp.Mul(*inside).as_base_exp() if inside else (shared, sp.S.Zero)
        if base != shared or not exponent.is_number:
            raise RuleError(f"{shared} enters through {sp.Mul(*inside)}, not as A {shared}^p + b ln {shared}")
        rates[exponent] = rates.get(exponent, sp.S.Zero) + sp.Mul(*outside)
    exponent = rates.pop(sp.S.NegativeOne, sp.S.Zero)
    if len(rates) != 1:
        powers = ", ".join(str(power + 1) for power in sorted(rates, key=sp.default_sort_key)) or "none"
        raise RuleError(f"the law of {shared} needs one power of it beside its logarithm (there are: {powers})")
    ((power, rate),) = rates.items()
    return PowerLaw(power + 1), rate / (power + 1), exponent


def _mean(expr: sp.Expr, shared: Entry, table: dict[sp.Basic, sp.Expr]) -> sp.Expr:
    """Averaged over a law that is independent from point to point: linear in what ``table`` has averages of."""
    if expr in table:
        return table[expr]
    if not depends_on(expr, shared):
        return expr
    if isinstance(expr, SpaceSum):
        return SpaceSum(_mean(expr.body, shared, table), expr.space)
    if expr.is_Add:
        return sp.Add(*(_mean(term, shared, table) for term in expr.args))
    if expr.is_Mul:
        moving = [factor for factor in expr.args if depends_on(factor, shared)]
        if len(moving) == 1:
            return _mean(moving[0], shared, table) * sp.Mul(*(f for f in expr.args if f is not moving[0]))
    raise RuleError(f"the average of {expr} over {shared} is not known: only {', '.join(map(str, table))}, linearly")


def hyperprior(action: FieldAction, shared: Entry, name: str) -> Step:
    r"""The best law of a shared positive field that is independent of all others, which is averaged over.

    S = S_0 + Σ [A λ^p + b ln λ] becomes S_0 + Σ [(A - a) ⟨λ^p⟩ - ln ζ(a, b)], a = ⟨A⟩: the order parameter called
    ``name`` is the average of what moves in A with the other fields (``details["order_parameters"]``), an environment
    that they determine.  -ln ∫e^{-S'} ≥ -ln Z is stationary there.  ``details`` also hold ``power`` p, ``mean`` ⟨λ^p⟩,
    ``rate`` a and ``log_integral`` ln ζ.  Observables linear in λ^p or ln λ are averaged; no mode of λ is used
    (maximising e^{-S} in λ would have -b where the mean of a Gamma law has 1-b).

    Raises
    ------
    RuleError
        If λ is not positive, enters in another way, has a law with no norm, or is coupled to no other field.
    BadInput
        If the name is in use.
    """
    if not isinstance(shared, Entry) or shared.domain != "positive":
        raise RuleError(f"{shared} is no positive field")
    others = tuple(f for f in action.fields if f != shared)
    if name in names_in(action.expr, *action.fields, *action.definitions):
        raise BadInput("name", name, "a name that is not in use")
    law, rate, exponent = read(action.expr, shared)
    if any(depends_on(exponent, f) for f in others):
        raise RuleError(f"the power of {shared} in its density depends on other fields: {exponent}")
    if ((1 - exponent) / law.power).is_nonpositive:
        raise RuleError(f"the law of {shared} has no norm: its density goes as {shared}^({-exponent}) at its end")
    moving = sp.Add(*(term for term in sp.Add.make_args(rate) if any(depends_on(term, f) for f in others)))
    if moving == 0:
        raise RuleError(f"{shared} is coupled to no other field")
    fixed = rate - moving
    factor = sp.Mul(*(f for f in sp.Mul.make_args(moving) if not any(depends_on(f, x) for x in others)))
    coupled = moving / factor
    v = Entry(name, "spectrum" if coupled.is_nonnegative else "data", shared.spaces)
    rate = fixed + factor * v
    mean, mean_log, log_integral = (law.at(expr, rate, exponent)
                                    for expr in (law.mean_power, law.mean_log, law.log_integral))

    def averaged(observable: sp.Expr, log: sp.Expr = mean_log) -> sp.Expr:
        return _mean(observable, shared, {shared**law.power: mean, sp.log(shared): log})

    # ⟨b ln λ⟩ of the action and of the entropy are the same
    expr = averaged(action.expr, sp.S.Zero) - sum_over(distribute(rate * mean) + log_integral, shared.spaces)
    after = replace(action, expr=tidy(distribute(expr)), fields=others)
    return Step("hyperprior", action, after, lambda observable: tidy(averaged(distribute(observable))),
                removed=(shared,),
                details={"shared": shared, "order_parameters": sp.Dict({v: coupled}), "mean": mean, "rate": rate,
                         "power": law.power, "log_integral": log_integral},
                description=f"The best law of ${tex(shared)}$ that is independent of all other fields, averaged over. "
                            "What is left is linear in what it multiplied, at its mean; the free energy is an upper "
                            "bound of $-\\ln Z$, and what it exceeds it by is the relative entropy of the two laws.",
                remainder=DIVERGENCE)


__all__ = ["PowerLaw", "hyperprior", "read"]
