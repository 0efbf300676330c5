r"""Joint cumulants of observables of a field over a space of symbolic size, from sources in the action.

    κ(O_1, …, O_n) = ∂^n/∂j_1 … ∂j_n ln ∫ dφ exp(-S/ħ + Σ j_i O_i)  at j = 0.

The sources are smaller than S by one power of ħ, so that the saddle stays where it is: to the two expansions of
:mod:`collective` they are further vertices, j ∂^r o at one point with ε^r and j ∂^α Ω of the sums with ε^|α|,
O = Ω(M) + Σ_k o(φ_k).  What is not connected never appears.  Derived here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import factorial, prod

import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.symbolic.collective import CollectiveExpansion, CountedMoments, Terms
from fieldtheory.symbolic.fields import Entry, depends_on, open_spaces
from fieldtheory.symbolic.moments import Index, check_loops
from fieldtheory.symbolic.saddle import OrderParameter
from fieldtheory.symbolic.structured import expectation_terms


class SourcedExpansion(CollectiveExpansion):
    """The expansion of exp(-S/ħ + O) with O, the observable, as a source."""

    @cached_property
    def _site(self) -> CountedMoments:
        weight, m, observed = self._site_jets
        vertices: dict[tuple[int, Index], sp.Expr]
        vertices = {(k - 2, (k,)): weight[k] / factorial(k) for k in range(3, self.order + 3)}
        for r, jet in observed.items():
            if 0 < r <= self.order:
                vertices[r, (r,)] = vertices.get((r, (r,)), sp.S.Zero) - jet / factorial(r)
        further = [jet for jets in m for jet in jets.values()]
        merged = [value for value in vertices.values() if value.is_Add]
        return CountedMoments(1, self.order, vertices, ((self._inverse,),), further, merged)

    @cached_property
    def vertices(self) -> dict[tuple[int, Index], sp.Expr]:
        found = dict(super().vertices)
        for alpha, value in self._outer_jets(self.observable.outer, self.order).items():
            if any(alpha):
                key = (sum(alpha), (*alpha, *(0,) * self.rank))
                found[key] = found.get(key, sp.S.Zero) - value / prod(map(factorial, alpha))
        return found


def cumulant_terms(action: sp.Expr, field: Entry, observables: Sequence[sp.Expr], loops: int, *,
                   parameters: tuple[OrderParameter, ...] = (), at: sp.Expr | None = None) -> Terms:
    """κ(O_1, …, O_n) by power of ħ, n - 1 … n - 1 + loops, as functionals of the field at its saddle; ⟨O⟩ for n = 1.

    Parameters
    ----------
    action, field, parameters, at : as for :func:`structured.log_partition_terms`.
    observables : closed expressions that hold the field through sums over its spaces, such as Σ φ² or Σ u φ with a
        vector u; repeated ones cost less.
    loops : zero or more; an L-loop cumulant errs at ħ^(n+L).

    Raises
    ------
    BadInput
        For loops below zero, no observable, or one of several that is open in a space.
    RuleError
        For an observable that is not a function of such sums.
    """
    observables = [sp.sympify(o) for o in observables]
    if not observables:
        raise BadInput("observables", "none", "at least one")
    if len(observables) == 1:
        return expectation_terms(action, field, observables[0], loops, parameters=parameters, at=at)
    check_loops(loops)
    for o in observables:
        if open_spaces(o):
            names = ", ".join(sorted(space.name for space in open_spaces(o)))
            raise BadInput("observables", o, f"closed expressions; this one is open in {names}: contract it with a "
                                             "vector, as in a sum of u times the field")
    n = len(observables)
    orders = range(n - 1, n + loops)
    if not all(depends_on(o, field) for o in observables):  # a constant is connected to nothing
        return {power: sp.S.Zero for power in orders}
    counts = Counter(observables)
    sources = {o: sp.Dummy(f"j{i}") for i, o in enumerate(counts)}
    together = sp.Add(*(j * o for o, j in sources.items()))
    found = SourcedExpansion(action, field, 2 * (n - 1 + loops), parameters, at, observable=together).log_partition()
    powers = {j: counts[o] for o, j in sources.items()}
    return {power: _coefficient(found.get(power, sp.S.Zero), powers) for power in orders}


def _coefficient(value: sp.Expr, powers: Mapping[sp.Symbol, int]) -> sp.Expr:
    """The derivative of these orders at j = 0; sources are factors of the terms wherever terms were multiplied out."""
    kept, hidden = [], []
    for term in sp.Add.make_args(value):
        found, rest = dict.fromkeys(powers, 0), []
        for factor in sp.Mul.make_args(term):
            base, exponent = factor.as_base_exp()
            if base in powers:
                found[base] = exponent
            else:
                rest.append(factor)
        if any(factor.has(*powers) for factor in rest):
            hidden.append(term)
        elif found == powers:
            kept.append(sp.Mul(*rest))
    left = sp.Add(*hidden)
    for source, order in powers.items():
        for _ in range(order):
            left = sp.diff(left, source)
        left = left.xreplace({source: sp.S.Zero})
    return prod(map(factorial, powers.values())) * sp.Add(*kept) + left


__all__ = ["SourcedExpansion", "cumulant_terms"]
