"""Loops of a field over a space of symbolic size, against the same action written out for two or three points.

Written out, a field over P points is P scalar fields, for which there are other routines (`expansion`), NumPy
(tensors contracted by hand here) and quadrature.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement, permutations
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.exact.posterior import QPosterior
from fieldtheory.symbolic import collective
from fieldtheory.symbolic.diagrams import vacuum_sum
from fieldtheory.symbolic.expansion import Expansion
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, rename
from fieldtheory.symbolic.loops import ScalarExpansion
from fieldtheory.symbolic.rules import FieldAction, integrate_out, introduce
from fieldtheory.symbolic.saddle import conjugate_to
from fieldtheory.symbolic.structured import (
    effective_action_terms,
    expectation_terms,
    leading_terms,
    log_partition_terms,
)

P, N, n = sp.symbols("P N n", positive=True)
a, b, c, g, s, q = sp.symbols("a b c g s q", positive=True)
mode, test, component = Space("mode", P), Space("test", sp.Symbol("T", positive=True)), Space("component", n)
x, lam, y = Entry("x", "real", (mode,)), Entry("lambda", "spectrum", (mode,)), Entry("y", "data", (mode,))
T = Entry("T", "data", (test, mode))
phi = Entry("phi", "real", (component,))
j = Entry("j", "imaginary", (mode,))


def S_(body: Any) -> sp.Expr:
    return SpaceSum(body, mode)


def explicit(expr: Any, values: dict[Any, Any], point: dict[Space, int] | None = None) -> Any:
    """An expression with its sums written out and its entries and symbols replaced (exactly where they are)."""
    known: dict[Any, Any] = {}

    def at(node: Any, here: tuple[tuple[Space, int], ...]) -> Any:
        if (node, here) not in known:
            known[node, here] = compute(node, here)
        return known[node, here]

    def compute(node: Any, here: tuple[tuple[Space, int], ...]) -> Any:
        if isinstance(node, SpaceSum):
            size = int(node.space.size.xreplace(values))
            return sp.Add(*(at(node.body, (*here, (node.space, k))) for k in range(size)))
        if isinstance(node, Entry):
            value = values[node]
            for space in node.spaces:
                value = value[dict(here)[space]]
            return sp.sympify(value)
        if isinstance(node, sp.Symbol):
            return sp.sympify(values.get(node, node))
        return node.func(*(at(arg, here) for arg in node.args)) if node.args else node

    return at(expr, tuple((point or {}).items()))


# --------------------------------------------------------------------------------------------- O(n) vectors

square = SpaceSum(phi**2, component)
VECTOR = square / 2 + g * square**2 / 24


def test_vector_log_partition() -> None:
    terms = {power: sp.expand(term) for power, term in log_partition_terms(VECTOR, phi, 5, at=sp.S.Zero).items()}
    assert terms[-1] == 0
    assert terms[0] == sp.expand(n * sp.log(2 * sp.pi) / 2, log=True, force=True)
    leading = {power: sp.LC(terms[power], n) * n**sp.degree(terms[power], n) for power in (1, 2, 3)}
    assert leading == {1: -n**2 * g / 24, 2: n**3 * g**2 / 144, 3: -5 * n**4 * g**3 / 2592}
    assert terms[1] == sp.expand(-g * n * (n + 2) / 24)
    at_one = [terms[power].subs(n, 1) for power in (1, 2, 3, 4)]
    assert at_one == [-g / 8, g**2 / 12, -11 * g**3 / 96, 17 * g**4 / 72]


def test_vector_log_partition_against_diagrams() -> None:
    """The pairings of indices along every diagram, which know nothing of sums over a space."""
    terms = log_partition_terms(VECTOR, phi, 4, at=sp.S.Zero)
    drawn = vacuum_sum(4, {("phi",) * 4: g}, [[1]], ["phi"], {"phi": n})
    for loops, value in drawn.items():
        assert sp.expand(terms[loops - 1] - value) == 0


def test_vector_average_of_the_square() -> None:
    """With r φ²/2 in place of φ²/2, ⟨φ²⟩ = -2 ∂ln Z/∂r, and the terms of ln Z are functions of g/r²."""
    terms = expectation_terms(VECTOR, phi, square, 4, at=sp.S.Zero)
    partition = log_partition_terms(VECTOR, phi, 5, at=sp.S.Zero)
    assert terms[0] == 0 and terms[1] == n
    for power in (2, 3, 4):
        assert sp.expand(terms[power] - 4 * (power - 1) * partition[power - 1]) == 0


def test_vector_effective_action() -> None:
    """The two-loop diagrams with longitudinal and transverse lines, G = 1/(1 + g φ²/2) and 1/(1 + g φ²/6)."""
    terms = effective_action_terms(VECTOR, phi, 2)
    length = sp.Symbol("rho", positive=True)
    along, across = 1 / (1 + g * length / 2), 1 / (1 + g * length / 6)
    eight = g / 24 * (3 * along**2 + 2 * (n - 1) * along * across + (n**2 - 1) * across**2)
    sunset = -g**2 * length / 36 * (3 * along**3 + (n - 1) * along * across**2)
    assert sp.factor(terms[2].xreplace({square: length}) - eight - sunset) == 0
    one_loop = (n - 1) * sp.log(1 / across) / 2 + sp.log(1 / along) / 2 - n * sp.log(2 * sp.pi) / 2
    at = {n: 3, g: sp.Rational(1, 2), length: sp.Rational(3, 4)}
    assert abs(sp.N((terms[1].xreplace({square: length}) - one_loop).subs(at), 30)) < 1e-25


def test_a_field_over_two_spaces_is_a_longer_vector() -> None:
    both = Entry("Phi", "real", (Space("site", N), component))
    total = SpaceSum(SpaceSum(both**2, component), both.spaces[0])
    found = log_partition_terms(total / 2 + g * total**2 / 24, both, 3, at=sp.S.Zero)
    expected = log_partition_terms(VECTOR, phi, 3, at=sp.S.Zero)
    for power in (1, 2):
        assert sp.expand(found[power] - expected[power].subs(n, N * n)) == 0


def test_one_component_is_a_scalar() -> None:
    """n = 1: Γ from the ring of scalar loops with tadpoles removed, at two and three loops."""
    terms = effective_action_terms(VECTOR, phi, 3)
    u = sp.Symbol("u", real=True)
    action = u**2 / 2 + g * u**4 / 24
    point, strength = sp.Rational(2, 3), sp.Rational(5, 7)
    scalar = Expansion(action.subs(g, strength), (u,), (point,), sp.S.One).effective_action(3)
    for power in (2, 3):
        assert explicit(terms[power], {n: 1, g: strength, phi: [point]}) == scalar[power]


# ------------------------------------------------------------------------- actions over samples, written out

# Two sums that enter non-linearly together, with data in all.
MIXED = (S_(a * x**2 / 2 + y * x**3 / 6 + x**4 / 24) + c * S_(lam * x)**2 / 2 + S_(lam * x) * S_(x**2) / P)
ONE_SUM = S_(a * x**2 / 2 - y * x) - 4 * sp.log(1 - S_(lam * x**2) / 4)
ACTIONS = {"mixed": MIXED, "one sum": ONE_SUM,
           "cubic": S_(a * x**2 / 2 + y * x**3 / 6 - sp.cos(x)) + sp.exp(-S_(lam * x) / 2)}


def fractions() -> st.SearchStrategy[Fraction]:
    return st.fractions(Fraction(1, 4), Fraction(3, 2), max_denominator=4)


@st.composite
def numbers(draw: st.DrawFn, sizes: tuple[int, ...] = (2, 3)) -> dict[Any, Any]:
    size = draw(st.sampled_from(sizes))
    vector = st.lists(fractions(), min_size=size, max_size=size)
    signed = st.tuples(st.sampled_from([-1, 1]), fractions()).map(lambda pair: pair[0] * pair[1])
    values = {P: size, a: 2 + draw(fractions()), c: draw(fractions())}
    entries = {lam: draw(vector), y: draw(st.lists(signed, min_size=size, max_size=size)),
               x: [v / 3 for v in draw(vector)]}
    return values | {e: [sp.Rational(v.numerator, v.denominator) for v in vs] for e, vs in entries.items()}


def _written_out(expr: sp.Expr, values: dict[Any, Any]) -> tuple[sp.Expr, tuple[sp.Symbol, ...]]:
    fields = sp.symbols(f"x0:{values[P]}", real=True)
    return sp.nsimplify(explicit(expr, values | {x: fields}), rational=True), fields


def _close(found: Any, expected: Any) -> None:
    found, expected = sp.N(found, 40), sp.N(expected, 40)
    assert abs(found - expected) <= 1e-30 * max(1, abs(expected))


@cache
def derived(name: str, kind: str, loops: int) -> dict[int, sp.Expr]:
    return {"ln Z": log_partition_terms, "gamma": effective_action_terms}[kind](ACTIONS[name], x, loops)


@given(values=numbers(), name=st.sampled_from(list(ACTIONS)))
@settings(max_examples=5)
def test_two_loops_by_contracting_tensors(values: dict[Any, Any], name: str) -> None:
    _compare_with_tensors(values, name)


def _compare_with_tensors(values: dict[Any, Any], name: str) -> None:
    """-S4 GG/8 + S3 GGG S3/12 + S3G G S3G/8 in NumPy; its 1PI part for Γ."""
    action, fields = _written_out(ACTIONS[name], values)
    at = dict(zip(fields, values[x], strict=True))
    known: dict[tuple[int, ...], sp.Expr] = {(): action}
    tensor = {k: np.zeros((len(fields),) * k) for k in (1, 2, 3, 4)}
    for k in tensor:
        for ends in combinations_with_replacement(range(len(fields)), k):
            known[ends] = sp.diff(known[ends[:-1]], fields[ends[-1]])
            value = float(known[ends].xreplace(at))
            for places in permutations(ends):
                tensor[k][places] = value
    G = np.linalg.inv(tensor[2])
    eight = -np.einsum("abcd,ab,cd", tensor[4], G, G) / 8
    sunset = np.einsum("abc,def,ad,be,cf", tensor[3], tensor[3], G, G, G) / 12
    tadpole = np.einsum("abc,bc->a", tensor[3], G)
    dumbbell = tadpole @ G @ tadpole / 8
    assert float(explicit(derived(name, "ln Z", 2)[1], values)) == pytest.approx(eight + sunset + dumbbell, rel=1e-10)
    assert float(explicit(derived(name, "gamma", 2)[2], values)) == pytest.approx(-eight - sunset, rel=1e-10)


@given(values=numbers((2,)), name=st.sampled_from(["one sum", "mixed"]))
@settings(max_examples=3)
def test_three_loops_written_out(values: dict[Any, Any], name: str) -> None:
    action, fields = _written_out(ACTIONS[name], values)
    scalars = Expansion(action, fields, tuple(values[x]), sp.S.One)
    for power, expected in enumerate(scalars.log_partition(3)[1:], start=1):
        _close(explicit(derived(name, "ln Z", 3)[power], values), expected)
    if name == "mixed":
        return
    for power, expected in enumerate(scalars.effective_action(3)[2:], start=2):
        _close(explicit(derived(name, "gamma", 3)[power], values), expected)


OBSERVABLES = {
    "linear": S_(y * x), "square": S_(x**2), "squared sum": S_(y * x)**2, "a sum of the action": S_(lam * x**2)**2,
    "product": S_(y * x) * S_(x**2) + 2, "function": sp.exp(S_(x) / 3), "squares over another space":
    SpaceSum(S_(T * x)**2, test),
}


@pytest.mark.parametrize("name", OBSERVABLES)
def test_averages_written_out(name: str) -> None:
    """⟨O⟩ at two loops: linear, non-linear, in sums that the action has and in new ones."""
    values = {P: 2, test.size: 2, a: 3, lam: [1, sp.Rational(1, 3)], y: [1, -2], x: [sp.Rational(1, 4), 0],
              T: [[1, 2], [sp.Rational(1, 2), -1]]}
    action, fields = _written_out(ONE_SUM, values)
    observable, _ = _written_out(OBSERVABLES[name], values)
    expected = Expansion(action, fields, tuple(map(sp.sympify, values[x])), sp.S.One).cumulant((observable,), 2)
    found = expectation_terms(ONE_SUM, x, OBSERVABLES[name], 2)
    for power in (0, 1, 2):
        _close(explicit(found[power], values), expected[power])


def test_open_observables() -> None:
    """The field itself, open in its own space, and an output on test points."""
    field = expectation_terms(ONE_SUM, x, x, 2)
    probed = expectation_terms(ONE_SUM, x, S_(y * x), 2)
    output = expectation_terms(ONE_SUM, x, S_(T * x)**2, 1)
    summed = expectation_terms(ONE_SUM, x, SpaceSum(S_(T * x)**2, test), 1)
    values = {P: 2, test.size: 2, a: 3, lam: [1, sp.Rational(1, 3)], y: [1, -2], x: [sp.Rational(1, 4), 0],
              T: [[1, 2], [sp.Rational(1, 2), -1]]}
    for power in (0, 1, 2):
        _close(explicit(S_(y * field[power]), values), explicit(probed[power], values))
    for power in (0, 1):
        _close(explicit(SpaceSum(output[power], test), values), explicit(summed[power], values))


@pytest.mark.parametrize("points", [1, 2, 3, 4])
def test_a_wrong_cumulant_of_one_point_is_seen(monkeypatch: pytest.MonkeyPatch, points: int) -> None:
    """Each order of cumulant, wrong by a factor, must fail the comparison with tensors."""
    honest = collective.CollectiveExpansion._cumulant

    def wrong(self: Any, factors: Any, power: int) -> sp.Expr:
        return honest(self, factors, power) * (2 if len(factors) == points else 1)

    values = {P: 2, a: 3, c: 1, lam: [1, sp.Rational(1, 3)], y: [1, -2], x: [sp.Rational(1, 4), sp.Rational(1, 3)]}
    derived.cache_clear()
    _compare_with_tensors(values, "one sum")
    derived.cache_clear()
    monkeypatch.setattr(collective.CollectiveExpansion, "_cumulant", wrong)
    try:
        with pytest.raises(AssertionError):
            _compare_with_tensors(values, "one sum")
    finally:
        derived.cache_clear()


# -------------------------------------------------------------------- the linear network's conjugate output

LINEAR = S_(j * y) - s * S_(j**2) / 2 + N * sp.log(1 - g * S_(lam * j**2) / N) / 2
Q = conjugate_to(LINEAR, "q", S_(lam * j**2) / 2)
DIGITS = 30


@cache
def linear_terms(kind: str) -> dict[int, sp.Expr]:
    if kind == "ln Z":
        return log_partition_terms(LINEAR, j, 4, parameters=(Q,))
    if kind == "gamma":
        return effective_action_terms(LINEAR, j, 2, parameters=(Q,))
    return expectation_terms(LINEAR, j, j, 3, parameters=(Q,))


def _saddle(values: dict[Any, Any]) -> dict[Any, Any]:
    """The tree-level root 1 - g/q = (g/N) Σ y²λ/(qλ+s)² and the field there, to 40 digits."""
    with mpmath.workdps(DIGITS + 10):
        lams, ys = (list(map(mpmath.mpf, values[e])) for e in (lam, y))
        g_, s_, N_ = (mpmath.mpf(values[v]) for v in (g, s, N))

        def equation(root: Any) -> Any:
            return 1 - g_ / root - g_ / N_ * mpmath.fsum(v**2 * k / (root * k + s_)**2 for k, v in zip(lams, ys))

        root = mpmath.findroot(equation, 1.2)
        return values | {q: sp.Float(root, DIGITS + 10),
                         j: [sp.Float(v / (root * k + s_), DIGITS + 10) for k, v in zip(lams, ys)]}


def _exact(values: dict[Any, Any], h: int) -> tuple[Any, list[Any]]:
    """ln Z (measure dj/√ħ) and ⟨j⟩ for S/ħ, ħ = 1/h: the network with N/ħ, għ, sħ for N, g, s, and j/ħ for j."""
    posterior = QPosterior(values[lam], values[y], values[N] * h, Fraction(values[g]) / h, Fraction(values[s]) / h,
                           digits=DIGITS)
    with mpmath.workdps(DIGITS + 10):
        means = []
        for k, v in zip(values[lam], values[y]):
            means.append(v * posterior.expect(lambda Q, k=k: 1 / (Q * k * h + mpmath.mpf(values[s]))))
        return posterior.log_evidence - len(values[y]) * mpmath.log(h) / 2, means


LINEAR_VALUES = {P: 3, N: 5, g: 1, s: 0.5, lam: [1, 2, 4], y: [1, -1, 2]}


def test_linear_network_against_the_exact_posterior() -> None:
    """ln Z and ⟨j⟩ with three modes: what is left of the error after L loops is the next term, L = 1, 2, 3."""
    at = _saddle(LINEAR_VALUES)
    Z = {power: explicit(term, at).evalf(DIGITS) for power, term in linear_terms("ln Z").items()}
    mean = {power: [explicit(term, at, {mode: k}).evalf(DIGITS) for k in range(3)]
            for power, term in linear_terms("mean").items()}
    distances: dict[tuple[str, int], list[float]] = {}
    for h in (16, 64, 256):
        log_evidence, means = _exact(LINEAR_VALUES, h)
        for kept in (0, 1, 2):
            error = sp.Float(str(log_evidence), DIGITS) - sum(Z[l] / sp.Integer(h)**l for l in range(-1, kept + 1))
            distances.setdefault(("ln Z", kept), []).append(abs(float(error * h**(kept + 1) / Z[kept + 1]) - 1))
        for kept in (0, 1, 2):
            for k in range(3):
                error = sp.Float(str(means[k]), DIGITS) - sum(mean[l][k] / sp.Integer(h)**l for l in range(kept + 1))
                ratio = float(error * h**(kept + 1) / mean[kept + 1][k])
                distances.setdefault((f"j_{k}", kept), []).append(abs(ratio - 1))
    for name, (far, nearer, near) in distances.items():
        assert near < nearer < far and near < 0.05, name
        assert near < 0.35 * nearer, name  # the next correction is itself of order ħ


def test_linear_network_with_one_mode_is_a_scalar() -> None:
    """P = 1: the same coefficients from the ring of scalar loops."""
    values = _saddle({P: 1, N: 5, g: 1, s: 0.5, lam: [2], y: [1.5]})
    u = Entry("u", "data")
    action = u * y - s * u**2 / 2 + N * sp.log(1 - g * lam * u**2 / N) / 2
    one = {lam: Entry("lambda_1", "data"), y: Entry("y_1", "data")}
    scalar = ScalarExpansion.of(action.xreplace(one), u, 3)
    at = {one[lam]: 2, one[y]: sp.Rational(3, 2), u: values[j][0]} | {v: sp.nsimplify(values[v]) for v in (N, g, s)}
    for power, expected in scalar.expectation(u).items():
        _close(explicit(linear_terms("mean")[power], values, {mode: 0}), expected.xreplace(at))
    for power in (1, 2, 3):
        _close(explicit(linear_terms("ln Z")[power], values), scalar.log_partition()[power].xreplace(at))


EXPONENTS: dict[Any, Any] = {N: 1, P: 1, g: 0, s: 0, q: 0, j: 0}


def test_fixed_loop_order_does_not_close_when_samples_grow_with_the_width() -> None:
    """Standard scaling, P ∝ N: every power of ħ is of order N, by chains of bubbles; at fixed P each gains 1/N."""
    terms = linear_terms("ln Z")
    proportional = leading_terms(terms, EXPONENTS)
    assert [proportional[power][0] for power in (-1, 0, 1, 2, 3)] == [1, 1, 1, 1, 1]
    fixed = leading_terms({power: terms[power] for power in (1, 2, 3)}, EXPONENTS | {P: 0})
    assert [fixed[power][0] for power in (1, 2, 3)] == [-1, -2, -3]
    bubble, weight = S_(lam / (q * lam + s)), 1 + 2 * q**2 * S_(lam**2 * j**2 / (q * lam + s)) / N
    assert proportional[1][1] == q**2 * bubble**2 / (4 * N * weight)


def test_naming_the_sum_adds_up_the_chains() -> None:
    """E = Σ λj² named and j integrated out leaves ½ Σ ln(…): its saddle, expanded in ħ, gives the chains to ħ³."""
    E, conjugate = Entry("E", "real"), Entry("h", "imaginary")
    step = introduce(FieldAction(LINEAR, (j,)), E, S_(lam * j**2), conjugate)
    step = integrate_out(step.after, j)
    logs = [term for term in sp.Add.make_args(step.after.expr)
            if any(term.has(total) and total.has(sp.log) for total in term.atoms(SpaceSum))]
    assert len(logs) == 1  # what loops of j have become: one order in ħ, all chains in it
    at = _saddle(LINEAR_VALUES)
    e, k, h = sp.symbols("e k hbar")
    tree, loop = (explicit(expr.xreplace({E: e, conjugate: k}), at) for expr in (step.after.expr - logs[0], logs[0]))
    # the saddle: E = N/g - N/q, conjugate to it q/2
    root = at[q]
    start = sp.Matrix([LINEAR_VALUES[N] * (1 / sp.Integer(LINEAR_VALUES[g]) - 1 / root), root / 2])
    unknowns = (e, k)
    point = {e: start[0], k: start[1]}
    assert max(abs(sp.diff(tree, v).xreplace(point)) for v in unknowns) < 1e-25
    coefficients = [start]
    hessian = sp.hessian(tree, unknowns).xreplace(point)
    for order in (1, 2):
        path = {v: sum((h**l * coefficients[l][i] for l in range(order)), sp.S.Zero) for i, v in enumerate(unknowns)}
        rest = sp.Matrix([sp.diff((sp.diff(tree, v) + h * sp.diff(loop, v)).xreplace(path), h, order).subs(h, 0)
                          / sp.factorial(order) for v in unknowns])
        coefficients.append(-hessian.LUsolve(rest))
    path = {v: sum(h**l * coefficients[l][i] for l in range(3)) for i, v in enumerate(unknowns)}
    value = (tree + h * loop).xreplace(path)
    leading = leading_terms(linear_terms("ln Z"), EXPONENTS)
    for power in (1, 2, 3):
        summed = -(sp.diff(value, h, power + 1).subs(h, 0) / sp.factorial(power + 1)).evalf(25)
        chains = explicit(leading[power][1], at).evalf(25)
        assert abs(summed / chains - 1) < 1e-18


# --------------------------------------------------------------------------------- names, growth, bad input


def test_renaming_commutes() -> None:
    names = {"x": "zeta", "lambda": "B", "mode": "a_space", "y": "A"}
    renamed = {power: rename(term, names) for power, term in log_partition_terms(MIXED, x, 2).items()}
    assert renamed == log_partition_terms(rename(MIXED, names), rename(x, names), 2)


def test_growth_is_bounded() -> None:
    """Equal terms meet and 1/D is not expanded: the sizes of the linear network's loops."""
    assert [linear_terms("ln Z")[power].count_ops() < bound for power, bound in ((1, 300), (2, 2000), (3, 9000))] == [
        True] * 3
    assert linear_terms("gamma")[2].count_ops() < 320


def test_no_order_below_two_loops_needs_more_than_the_saddle() -> None:
    assert log_partition_terms(ONE_SUM, x, 0) == {-1: -ONE_SUM}
    assert list(log_partition_terms(ONE_SUM, x, 1)) == [-1, 0]
    assert expectation_terms(ONE_SUM, x, S_(x), 0) == {0: S_(x)}
    assert effective_action_terms(ONE_SUM, x, 0) == {0: ONE_SUM}


@pytest.mark.parametrize("loops", [-1, 1.5, "two"])
def test_loops_are_a_number(loops: Any) -> None:
    with pytest.raises(BadInput, match="loops"):
        log_partition_terms(ONE_SUM, x, loops)


def test_refusals() -> None:
    with pytest.raises(RuleError, match="not a sum over its points"):
        log_partition_terms(SpaceSum(S_(T * x)**2, test) + S_(x**2), x, 2)
    with pytest.raises(RuleError, match="no local part"):
        log_partition_terms(S_(x**4) + S_(x), x, 2, at=sp.S.Zero)
    with pytest.raises(BadInput, match="a field over a space"):
        log_partition_terms(sp.Symbol("u")**2, sp.Symbol("u"), 2)
    with pytest.raises(RuleError, match="not decided"):
        leading_terms(linear_terms("ln Z"), EXPONENTS | {P: sp.Symbol("p", real=True)})
