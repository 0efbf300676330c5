"""One call names the sums, integrates the field out, and its saddle sums the chains: order by order, exactly."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import sympy as sp
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fieldtheory.action import Action
from fieldtheory.errors import NotGaussian, RuleError
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from fieldtheory.symbolic.structured import leading_terms, log_partition_terms
from tests.symbolic import test_structured as structured
from tests.symbolic.test_structured import explicit

P, W, n, g = sp.symbols("P W n g", positive=True)
point, component = Space("point", P), Space("component", n)
phi, x = Entry("phi", "real", (component,)), Entry("x", "real", (point,))
a, b = Entry("a", "spectrum", (point,)), Entry("b", "data", (point,))
c, d = Entry("c", "data", (point,)), Entry("d", "data", (point,))
C, D, K = sp.symbols("C D K", real=True)
h = sp.Symbol("hbar", positive=True)


def S_(body: Any) -> sp.Expr:
    return SpaceSum(body, point)


def saddle_orders(tree: sp.Expr, loop: sp.Expr, start: dict[sp.Expr, sp.Expr], orders: int) -> list[sp.Expr]:
    """min (tree + ħ loop) by power of ħ, from the stationary point ``start`` of the tree: exact perturbation theory."""
    unknowns = list(start)
    assert all(abs(sp.simplify(sp.diff(tree, v).xreplace(start))) < 1e-20 for v in unknowns)
    hessian = sp.hessian(tree, unknowns).xreplace(start)
    path = dict(start)
    for order in range(1, orders // 2 + 1):  # k orders of the point give 2k + 1 orders of the value
        rest = [sp.diff((sp.diff(tree, v) + h * sp.diff(loop, v)).xreplace(path), h, order).xreplace({h: sp.S.Zero})
                / sp.factorial(order) for v in unknowns]
        shift = -hessian.LUsolve(sp.Matrix(rest))
        path = {v: path[v] + h**order * shift[k] for k, v in enumerate(unknowns)}
    value = (tree + h * loop).xreplace(path)
    return [sp.diff(value, h, k).xreplace({h: sp.S.Zero}) / sp.factorial(k) for k in range(orders + 1)]


def logs(action: Action) -> tuple[sp.Expr, sp.Expr]:
    """The action of the auxiliary numbers without the logarithm that the integral left, and that logarithm."""
    named = [field for field in action.fields if field.name.startswith("M")]
    loop = sp.Add(*(term for term in sp.Add.make_args(action.expr) if term.has(sp.log) and not term.has(*named)))
    return action.expr - loop, loop


def test_vector_at_many_components() -> None:
    """The bubble diagrams, cacti and chains among them, of the O(n) model, with n and g symbols."""
    action = Action(SpaceSum(phi**2, component) / 2 + g * SpaceSum(phi**2, component)**2 / 24, [phi])
    report = action.power_counting({n: 1, g: -1}).report()
    assert not report and report.verdict == "equal"
    named = action.auxiliary()
    assert [step.rule for step in named.steps] == ["introduce", "integrate_out"]
    assert all(step.exact for step in named.steps)
    M, conjugate = named.fields
    tree, loop = logs(named)
    m, k = sp.symbols("m k")
    tree, loop = (part.xreplace({M: m, conjugate: k}) for part in (tree, loop))
    found = saddle_orders(tree, loop, {m: sp.S.Zero, k: -sp.Rational(1, 2)}, 4)
    terms = log_partition_terms(action.expr, phi, 4, at=sp.S.Zero)
    leading = leading_terms({power: terms[power] for power in (1, 2, 3)}, {n: 1, g: -1})
    for power in (1, 2, 3):
        assert leading[power][0] == 1
        assert sp.expand(found[power + 1] + leading[power][1]) == 0
    assert [sp.expand(-value) for value in found[2:]] == [-n**2 * g / 24, n**3 * g**2 / 144, -5 * n**4 * g**3 / 2592]


def test_linear_network() -> None:
    """Its conjugate output at standard scaling, P ∝ N: chains through four loops, at a saddle known to 40 digits."""
    action = Action(structured.LINEAR, [structured.j])
    named = action.auxiliary()
    M, conjugate = named.fields
    at = structured._saddle(structured.LINEAR_VALUES)
    m, k = sp.symbols("m k")
    tree, loop = (explicit(part.xreplace({M: m, conjugate: k}), at) for part in logs(named))
    q = at[structured.q]
    values = structured.LINEAR_VALUES
    start = {m: values[structured.N] * (1 / sp.Integer(values[structured.g]) - 1 / q), k: q / 2}
    found = saddle_orders(tree, loop, start, 4)
    leading = leading_terms(structured.linear_terms("ln Z"), structured.EXPONENTS)
    for power in (1, 2, 3):
        assert abs((-found[power + 1] / explicit(leading[power][1], at)).evalf(25) - 1) < 1e-18


def low_rank(rank: int, cubic: bool) -> Action:
    """A quartic (or sextic) of low rank: Σ (a x² / 2 + b x) + W Φ(M / W), M = Σ c x², Σ d x²."""
    first, second = S_(c * x**2), S_(d * x**2)
    outer = C * first**2 / (2 * W) + (K * first**3 / (6 * W**2) if cubic else 0)
    if rank == 2:
        outer += D * first * second / W + C * second**2 / (3 * W)
    return Action(S_(a * x**2) / 2 + S_(b * x) + outer, [x])


@cache
def derived(rank: int, cubic: bool) -> tuple[Action, Action, dict[int, Any]]:
    action = low_rank(rank, cubic)
    terms = log_partition_terms(action.expr, x, 3 if rank == 1 else 2)
    sizes = {P: 1, W: 1, C: 0, D: 0, K: 0, x: 0}
    return action, action.auxiliary(), leading_terms({k: v for k, v in terms.items() if k > 0}, sizes)


def rationals(low: int, high: int) -> st.SearchStrategy[sp.Rational]:
    return st.integers(low, high).map(lambda k: sp.Rational(k, 3))


@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@given(st.data(), st.sampled_from([(1, False), (1, True), (2, False)]))
def test_a_low_rank_action_of_any_kind(data: Any, shape: tuple[int, bool]) -> None:
    """Any rank, coefficients and saddle: the leading part in W ∝ P of every loop order, to the last digit."""
    action, named, leading = derived(*shape)
    at = {P: sp.Integer(2), W: sp.Integer(2), **{v: data.draw(rationals(1, 6)) for v in (C, D, K)}}
    at |= {v: [data.draw(rationals(1, 6)) for _ in range(2)] for v in (a, c, d)}
    at[x] = [data.draw(rationals(-3, 3)) for _ in range(2)]
    slope = action.gradient(x) - b  # the sources that make this x the saddle
    at[b] = [-explicit(slope, at, {point: k}) for k in range(2)]
    half = len(named.fields) // 2
    symbols = sp.symbols(f"u0:{2 * half}")
    fields = dict(zip(named.fields, symbols))
    tree, loop = (explicit(part.xreplace(fields), at) for part in logs(named))
    start = {}
    for field, symbol in fields.items():
        if field.name.startswith("M"):
            definition = next(step.details["definition"] for step in named.steps
                              if step.rule == "introduce" and step.added[0] == field)
            start[symbol] = explicit(definition, at)
    for field, symbol in fields.items():
        if field.name.startswith("h"):  # h = -dΦ/dM, from the tree itself
            partner = next(s for f, s in fields.items() if f.name == field.name.replace("h", "M"))
            start[symbol] = sp.solve(sp.diff(tree, partner).xreplace(start), symbol)[0]
    start = {symbol: start[symbol] for symbol in symbols}
    orders = max(leading)
    found = saddle_orders(tree, loop, start, orders + 1)
    for power, (size, term) in leading.items():
        assert size == 1
        assert sp.nsimplify(found[power + 1] + explicit(term, at)) == 0, power


def test_a_wrong_weight_is_noticed() -> None:
    """The determinant entering twice is not the sum of the chains."""
    action = Action(SpaceSum(phi**2, component) / 2 + g * SpaceSum(phi**2, component)**2 / 24, [phi])
    tree, loop = logs(action.auxiliary())
    m, k = sp.symbols("m k")
    tree, loop = (part.xreplace(dict(zip(action.auxiliary().fields, (m, k)))) for part in (tree, loop))
    wrong = saddle_orders(tree, 2 * loop, {m: sp.S.Zero, k: -sp.Rational(1, 2)}, 2)
    assert sp.expand(wrong[2] - n**2 * g / 24) != 0


def test_what_cannot_be_named_is_refused() -> None:
    with pytest.raises(RuleError, match="nothing to name"):
        Action(S_(x**2), [x]).auxiliary()
    with pytest.raises(NotGaussian):
        Action(S_(x**2) + S_(x**4)**2, [x]).auxiliary()
