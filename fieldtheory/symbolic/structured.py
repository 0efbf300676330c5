"""Loops of a field over a space of symbolic size: ln Z, averages and the 1PI effective action, to any order.

Nothing here depends on the size of the space: every result is a closed expression in finished sums, found by the
two expansions of :mod:`collective`.  Loops are counted by ħ alone; `leading_terms` says what that means in powers of
N.  Derived here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.symbolic.collective import CollectiveExpansion, Terms, at_saddle, split, summand
from fieldtheory.symbolic.counting import exponent
from fieldtheory.symbolic.fields import Entry, SpaceSum, depends_on, distribute, open_spaces, sum_over, variations, vary
from fieldtheory.symbolic.moments import check_loops
from fieldtheory.symbolic.saddle import OrderParameter, one_loop_effective_action


def log_partition_terms(action: sp.Expr, field: Entry, loops: int, *, parameters: tuple[OrderParameter, ...] = (),
                        at: sp.Expr | None = None) -> Terms:
    """ln ∫ e^{-S/ħ} by power of ħ: {-1: -S, 0: -½ ln det, 1: two loops, …, loops-1}; the measure is dφ/√ħ.

    Parameters
    ----------
    action : a closed expression that holds the field through sums over all of its spaces.
    field : real, positive or imaginary (measure dφ/2πi) over one or more spaces.
    loops : zero or more; an L-loop ln Z errs at ħ^L.
    parameters : names for sums (`conjugate_to`), in which the result is then written.
    at : what the field is at the saddle, if known in closed form (0, say); what vanishes there is left out early.

    Returns
    -------
    Closed expressions, functionals of the field at its saddle (or of ``at``).  Two, three and four loops of the
    linear network's action take .15, .15 and .3 s.  At fixed ħ and growing N each term may be as large as the one
    before it: see `leading_terms`.

    Raises
    ------
    RuleError
        If the action couples points of the space other than through such sums, or its quadratic part has no
        local term.
    """
    check_loops(loops)
    found = _effective(action, field, loops, parameters, at, sources=False)
    return {power - 1: -term for power, term in found.items()}


def effective_action_terms(action: sp.Expr, field: Entry, loops: int, *,
                           parameters: tuple[OrderParameter, ...] = (), at: sp.Expr | None = None) -> Terms:
    r"""The 1PI effective action by power of ħ, Γ = S + ħ Γ₁ + … + ħ^loops Γ_loops, at any value of the field.

    Γ[φ̄] = -ħ ln ∫dx e^{-(S(φ̄+x) - J·x)/ħ} with the source J = δΓ/δφ̄ that makes ⟨x⟩ = 0: the L-loop term needs J
    through L - 1 loops, which is known by then.  Minus it is the sum of the 1PI vacuum diagrams.

    Arguments and errors as in `log_partition_terms`; ``at`` is the classical field φ̄ if it is wanted at one value only.
    """
    check_loops(loops)
    return _effective(action, field, loops, parameters, at, sources=True)


def expectation_terms(action: sp.Expr, field: Entry, observable: sp.Expr, loops: int, *,
                      parameters: tuple[OrderParameter, ...] = (), at: sp.Expr | None = None) -> Terms:
    """⟨O⟩ by power of ħ, 0 … loops, as a functional of the field at its saddle.

    The observable may be the field itself or otherwise open, in the field's spaces or in others; sums of
    the field in it may enter in any differentiable way.

    Arguments and errors else as in `log_partition_terms`.
    """
    check_loops(loops)
    observable = sp.sympify(observable)
    own = [space for space in field.spaces if space in open_spaces(observable)]
    if own:  # a probe vector makes it closed, and its coefficient is the answer
        probe = Entry(f"probe_{field.name}", "data", own)
        closed = expectation_terms(action, field, sum_over(probe * observable, own), loops,
                                   parameters=parameters, at=at)
        return {power: _coefficient(term, probe) for power, term in closed.items()}
    total = {power: sp.S.Zero for power in range(loops + 1)}
    together = sp.S.Zero
    for term in sp.Add.make_args(distribute(observable)):
        outer = _outer_sum(term, field)
        if outer is None:
            together += term
            continue
        coefficient, inner = outer  # the average goes under a sum over another space
        for power, value in expectation_terms(action, field, inner.body, loops, parameters=parameters, at=at).items():
            total[power] += coefficient * SpaceSum(value, inner.space)
    if depends_on(together, field):
        theory = CollectiveExpansion(action, field, 2 * loops, parameters, at, observable=together)
        for power, value in theory.expectation().items():
            total[power] += value
    else:
        total[0] += at_saddle(together, field, parameters, at)
    return total


def leading_terms(terms: Mapping[int, sp.Expr], exponents: Mapping[Any, Any]) -> dict[int, tuple[sp.Expr, sp.Expr]]:
    """For each power of ħ the exponent of N of its largest terms, and these terms.

    ``exponents`` as in `counting.exponent`, sizes of spaces and the field included, such that those of any two
    terms compare.  Where the exponent does not fall from one power of ħ to the next, no fixed number of loops closes:
    introduce a name for the sum instead (`rules.introduce`) and integrate the field out.
    """
    found = {}
    for power, total in terms.items():
        by_size: dict[sp.Expr, list[sp.Expr]] = {}
        for term in sp.Add.make_args(distribute(total)):
            if term != 0:
                by_size.setdefault(exponent(term, exponents), []).append(term)
        top = sp.Max(*by_size)
        if top not in by_size:
            raise RuleError(f"which of the exponents {', '.join(map(str, by_size))} is largest is not decided")
        found[power] = top, sp.Add(*by_size[top])
    return found


def _coefficient(expr: sp.Expr, probe: Entry) -> sp.Expr:
    return sp.Add(*(c * d for c, d, _ in variations(expr, probe)))


def _outer_sum(term: sp.Expr, field: Entry) -> tuple[sp.Expr, SpaceSum] | None:
    """term = coefficient · Σ_t (…) with a sum over another space that holds sums of the field within."""
    holders = [factor for factor in sp.Mul.make_args(term) if depends_on(factor, field)]
    if len(holders) != 1 or not isinstance(holders[0], SpaceSum) or holders[0].space in field.spaces:
        return None
    if summand(holders[0], field) is not None:
        return None
    return term / holders[0], holders[0]


def _effective(action: sp.Expr, field: Entry, loops: int, parameters: tuple[OrderParameter, ...],
               at: sp.Expr | None, *, sources: bool) -> Terms:
    """-ln Z times ħ by power of ħ, with the sources that make ⟨x⟩ = 0, or with none but δS/δφ."""
    def value(expr: sp.Expr) -> sp.Expr:
        return at_saddle(expr, field, parameters, at)

    split(action, field)  # refuses what the two lines below would not
    general = {0: sp.sympify(action)}
    terms = {0: value(general[0])}
    if loops >= 1:
        general[1] = one_loop_effective_action(action, field).expr
        general[1] -= action
        terms[1] = value(general[1])
    if loops < 2:
        return terms
    if not sources:
        theory = CollectiveExpansion(action, field, 2 * (loops - 1), parameters, at)
        return terms | {power + 1: -term for power, term in theory.log_partition().items()}

    def next_term(order: int, names: tuple[OrderParameter, ...], point: sp.Expr | None) -> sp.Expr:
        J = [at_saddle(vary(general[l], field), field, names, point) for l in range(1, order)]
        return -CollectiveExpansion(action, field, 2 * (order - 1), names, point, J).log_partition()[order - 1]

    for order in range(2, loops + 1):
        terms[order] = next_term(order, parameters, at)
        if order < loops:  # its derivative is the next source, so it is needed at any value of the field
            general[order] = next_term(order, (), None)
    return terms


__all__ = ["effective_action_terms", "expectation_terms", "leading_terms", "log_partition_terms"]
