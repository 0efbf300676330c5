"""Weights of diagrams, with one field, several, or n components, against moments and the exact series."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction
from math import factorial, prod

import pytest
import sympy as sp

from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.symbolic import topologies as engine
from fieldtheory.symbolic.diagrams import Diagram, diagrams, on_polynomial, vacuum_sum
from fieldtheory.symbolic.feynman import FeynmanRules
from fieldtheory.symbolic.loops import loop_coefficients
from fieldtheory.symbolic.topologies import Topology, topologies
from tests.oracles.phi4 import double_factorial, log_series, phi4_log_partition

a, b, g, n = sp.symbols("a b g n")
ONE = {("x",) * 3: 2 * a, ("x",) * 4: 6 * b}  # S = x²/2 + a x³/3 + b x⁴/4


# -------------------------------------------------------------------------------------------- the oracle
def cumulants(order: int) -> dict[int, dict[int, sp.Expr]]:
    """Joint cumulants κ_k of S = x²/2 + ε a x³/3 + ε² b x⁴/4 by power of ε, from moments."""
    eps, x = sp.symbols("eps x")
    weight, power = sp.Integer(1), sp.Integer(1)
    for k in range(1, order + 1):
        power = sp.expand(-power * (eps * a * x**3 / 3 + eps**2 * b * x**4 / 4) / k)
        weight += power

    def moment(k: int) -> list[sp.Expr]:
        poly = sp.Poly(weight * x**k, x, eps)
        terms = [sp.S.Zero] * (order + 1)
        for (p, e), c in poly.terms():
            if e <= order and p % 2 == 0:
                terms[e] += c * double_factorial(p - 1)
        return terms

    def over(top: list[sp.Expr], bottom: list[sp.Expr]) -> list[sp.Expr]:
        out: list[sp.Expr] = []
        for e in range(order + 1):
            out.append(sp.expand(top[e] - sum(out[i] * bottom[e - i] for i in range(e))))
        return out

    def times(left: list[sp.Expr], right: list[sp.Expr]) -> list[sp.Expr]:
        return [sp.expand(sum(left[i] * right[e - i] for i in range(e + 1))) for e in range(order + 1)]

    moments = [over(moment(k), moment(0)) for k in range(5)]
    kappa: dict[int, list[sp.Expr]] = {}
    for k in range(1, 5):
        parts = [times(kappa[j], moments[k - j]) for j in range(1, k)]
        kappa[k] = [sp.expand(moments[k][e] - sum(sp.binomial(k - 1, j - 1) * parts[j - 1][e] for j in range(1, k)))
                    for e in range(order + 1)]
    return {k: dict(enumerate(terms)) for k, terms in kappa.items()}


# ------------------------------------------------------------------------------------------------ weights
def test_one_field_against_the_recursion() -> None:
    coefficients = loop_coefficients(3)
    vertices = {("x",) * k: v for k, v in coefficients.vertices.items()}
    found = vacuum_sum(4, vertices, [[coefficients.propagator]], ["x"])
    assert set(found) == {2, 3, 4}
    for order, value in found.items():
        assert sp.expand(value - coefficients.log_partition[order]) == 0


def test_cubic_and_quartic_at_two_loops() -> None:
    assert vacuum_sum(2, ONE, [[1]], ["x"])[2] == 5 * a**2 / 6 - 3 * b / 4
    found = diagrams(ONE, [[1]], ["x"], 2)
    assert sorted((str(d.weight), d.is_1pi) for d in found) == [("-3*b/4", True), ("a**2/2", False), ("a**2/3", True)]
    assert all(d.hbar_power == 1 and d.loops == 2 for d in found)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_cumulants_of_one_field(order: int) -> None:
    """κ_k at l loops is of order ε^(2(l - 1) + k): every diagram with legs takes part, the tree ones too."""
    exact = cumulants(6)[order]
    for loops in range(4):
        power = 2 * (loops - 1) + order
        if 0 <= power <= 6:
            found = diagrams(ONE, [[1]], ["x"], loops, legs=("x",) * order)
            assert sp.expand(found.weight - exact[power]) == 0, (order, loops)
            assert all(d.hbar_power == loops - 1 + order for d in found)
    if order == 1:
        assert [exact[1], exact[3]] == [-a, sp.expand(-5 * a**3 + 8 * a * b)]


def test_one_particle_irreducible_diagrams_build_the_self_energy() -> None:
    """κ₂ = 1/(1 + Γ-part): about a vanishing mean (a tadpole-free, even action) κ₂⁻¹ = 1 - Σ of amputated 1PI."""
    even = {("x",) * 4: 6 * b, ("x",) * 6: g}
    sigma = [diagrams(even, [[1]], ["x"], loops, legs=("x", "x"), kind="1pi").weight for loops in (1, 2, 3)]
    kappa = [diagrams(even, [[1]], ["x"], loops, legs=("x", "x")).weight for loops in (0, 1, 2, 3)]
    eps = sp.Symbol("eps")
    product = sum(k * eps**i for i, k in enumerate(kappa)) * (1 - sum(s * eps**i for i, s in enumerate(sigma, 1)))
    assert all(sp.expand(product).coeff(eps, i) == (i == 0) for i in range(4))


def gaussian_moment(labels: tuple[int, ...], G: list[list[Fraction]]) -> Fraction:
    if not labels:
        return Fraction(1)
    return sum((G[labels[0]][labels[k]] * gaussian_moment(labels[1:k] + labels[k + 1:], G)
                for k in range(1, len(labels))), Fraction(0))


def test_two_fields_against_direct_moments() -> None:
    """ln Z at two and three loops of a correlated pair, and a mixed third cumulant at tree level and one loop."""
    names = ("x", "y")
    G = [[Fraction(1), Fraction(1, 3)], [Fraction(1, 3), Fraction(2)]]
    V = {labels: Fraction(k + 1, k + 3) * (-1)**k for k, labels in enumerate(
        labels for order in (3, 4) for labels in itertools.combinations_with_replacement((0, 1), order))}

    def power(content: tuple[int, ...], extra: tuple[int, ...] = ()) -> Fraction:
        """⟨∏ (-V_k) · extra⟩ over the vertices' multiplicities."""
        total = Fraction(0)
        for vertices in itertools.product(*([key for key in V if len(key) == order] for order in content)):
            weight = prod((-V[v] / prod(map(factorial, Counter(v).values())) for v in vertices), start=Fraction(1))
            total += weight * gaussian_moment(sum(vertices, ()) + extra, G)
        return total / prod(map(factorial, Counter(content).values()))

    rules = ({tuple(names[i] for i in key): sp.Rational(v.numerator, v.denominator) for key, v in V.items()},
             [[sp.Rational(x.numerator, x.denominator) for x in row] for row in G], names)
    first, second = power((3, 3)) + power((4,)), power((4, 4)) + power((3, 3, 4))
    found = vacuum_sum(3, *rules)
    assert found[2] == sp.Rational(first.numerator, first.denominator)
    without_four_cubic = sum(FeynmanRules(*rules).weight(t) for t in topologies([3, 4], 3) if t.vertices != {3: 4})
    second -= power((4,)) ** 2 / 2 + power((4,)) * power((3, 3))
    assert without_four_cubic == sp.Rational(second.numerator, second.denominator)
    mixed = diagrams(*rules, 0, legs=("x", "x", "y")).weight
    tree = power((3,), (0, 0, 1)) - power((3,), (0,)) * 2 * G[0][1] - power((3,), (1,)) * G[0][0]
    assert mixed == sp.Rational(tree.numerator, tree.denominator)


def test_independent_fields_do_not_talk() -> None:
    vertices = {("x",) * 4: g, ("y",) * 4: b}
    both = vacuum_sum(4, vertices, [[1, 0], [0, 1]], ["x", "y"])
    one = vacuum_sum(4, {("x",) * 4: g}, [[1]], ["x"])
    assert all(sp.expand(both[k] - one[k] - one[k].subs(g, b)) == 0 for k in one)
    assert diagrams(vertices, [[1, 0], [0, 1]], ["x", "y"], 1, legs=("x", "y")) == ()


def test_two_fields_in_a_rotated_basis() -> None:
    """Renaming and a rotation by 90° of the fields leave ln Z as it is."""
    symbols = {key: sp.Symbol("V" + "".join(key)) for order in (3, 4)
               for key in itertools.combinations_with_replacement("xy", order)}
    swapped = {tuple({"x": "y", "y": "x"}[i] for i in key): (-1)**key.count("x") * v for key, v in symbols.items()}
    k, m, c = sp.symbols("k m c")
    straight = vacuum_sum(3, symbols, [[k, c], [c, m]], ["x", "y"])
    turned = vacuum_sum(3, swapped, [[m, -c], [-c, k]], ["x", "y"])
    assert all(sp.expand(straight[order] - turned[order]) == 0 for order in straight)


def test_an_inverse_need_not_look_symmetric() -> None:
    lines = [[1, a * (1 + b)], [a + a * b, 2]]
    found = vacuum_sum(2, {("x", "x", "y", "y"): g}, lines, ["x", "y"])[2]
    assert sp.expand(found + g * (2 + 2 * a**2 * (1 + b)**2) / 8 * 2) == 0


def test_opaque_entries_come_back_as_they_were() -> None:
    N, h = sp.symbols("N h", positive=True)
    rules = {("x",) * 4: N * sp.exp(h) * (1 + h), ("x",) * 3: sp.sqrt(N) * 0.5}
    (tetrad,) = [d for d in diagrams(rules, [[1 / (N * (1 + h**2))]], ["x"], 2) if d.vertices == {4: 1}]
    assert sp.simplify(tetrad.weight + sp.exp(h) * (1 + h) / (8 * N * (1 + h**2)**2)) == 0
    assert tetrad.powers() == {N: -tetrad.hbar_power}
    gamma = sp.Symbol("gamma")
    (eight,) = diagrams({("x",) * 4: g * N**gamma + b * N**gamma}, [[2 / N]], ["x"], 2)
    assert eight.powers() == {N: gamma - 2}
    assert Diagram(eight.topology) == Diagram(topologies([4], 2)[0])


# ---------------------------------------------------------------------------------------------------- O(n)
def test_o_n_against_radial_moments() -> None:
    """⟨(φ²)^k⟩ = n (n + 2) … (n + 2k - 2) gives ln Z to g⁵ with n a symbol."""
    order = 5
    moments = [sp.expand(prod((n + 2 * i for i in range(2 * k)), start=sp.S.One)) * sp.Rational((-1)**k, 24**k)
               / factorial(k) for k in range(order + 1)]
    logs = log_series(moments)  # type: ignore[arg-type]
    found = vacuum_sum(order + 1, {("phi",) * 4: g}, [[1]], ["phi"], {"phi": n})
    for k in range(1, order + 1):
        assert sp.expand(found[k + 1] - logs[k] * g**k) == 0
        assert sp.expand(found[k + 1].subs(n, 1)) == sp.Rational(*phi4_log_partition(k)[k].as_integer_ratio()) * g**k


def test_leading_powers_of_n() -> None:
    leading = {2: -g / 24, 3: g**2 / 144, 4: -5 * g**3 / 2592}
    for loops, value in leading.items():
        found = topologies([4], loops)
        polynomials = [sp.Poly(on_polynomial(t, n)[()], n) for t in found]
        kept = [(t, p) for t, p in zip(found, polynomials) if p.degree() == loops]
        assert max(p.degree() for p in polynomials) == loops
        assert sum((-g / 3)**(loops - 1) * p.LC() / t.symmetry_factor for t, p in kept) == value
        assert all(p.eval(1) == 3**(loops - 1) for p in polynomials)
    assert len(kept) == 2  # the chain of bubbles, and the ring with three petals: cacti


def test_only_cacti_are_of_leading_order_in_n() -> None:
    """A cactus: cutting a line and then another splits the graph exactly when both lie on one cycle."""
    for topology in topologies([4], vertices=5):
        lines = range(len(topology.edges))

        def splits(i: int, j: int, topology: Topology = topology) -> bool:
            kept = [edge for k, edge in enumerate(topology.edges) if k not in (i, j)]
            return engine._parts(range(topology.nodes), kept) > 1

        # lines on a common cycle of a cactus form classes of pairwise cuts; there are then as many cycles as loops
        classes = {frozenset([i, *(j for j in lines if j != i and splits(i, j))]) for i in lines}
        is_cactus = len(classes) == topology.loops and all(
            engine._parts(range(topology.nodes), [topology.edges[k] for k in c])
            == topology.nodes - len(c) + 1 for c in classes)
        assert is_cactus == (sp.Poly(on_polynomial(topology, n)[()], n).degree() == topology.loops)


def test_o_n_legs_keep_their_channels() -> None:
    (bubble, *others) = topologies([4], 1, legs=4, kind="1pi")
    assert on_polynomial(bubble, n) == {((0, 1), (2, 3)): n + 4, ((0, 2), (1, 3)): 2, ((0, 3), (1, 2)): 2}
    assert len(others) == 2
    (tadpole,) = topologies([4], 1, legs=2)
    assert on_polynomial(tadpole, n) == {((0, 1),): n + 2}


def test_a_vector_beside_a_scalar_is_its_components() -> None:
    """(σ, π) with π of m components against explicit fields: vacuum at three loops, and legs of both kinds."""
    V3, V4, u, v, w = sp.symbols("V3 V4 u v w")
    Gs, Gp = sp.symbols("Gs Gp")
    short = {("s", "s", "s"): V3, ("s", "p", "p"): u, ("s", "s", "p", "p"): v, ("p",) * 4: w, ("s",) * 4: V4}
    long = {("s", "s", "s"): V3, ("s",) * 4: V4, ("p", "p", "q", "q"): w / 3,
            **{key: value for p in "pq" for key, value in (
                (("s", p, p), u), (("s", "s", p, p), v), ((p,) * 4, w))}}
    packed = vacuum_sum(3, short, sp.diag(Gs, Gp), ["s", "p"], {"p": n})
    spelled = vacuum_sum(3, long, sp.diag(Gs, Gp, Gp), ["s", "p", "q"])
    assert all(sp.expand(packed[k].subs(n, 2) - spelled[k]) == 0 for k in packed)
    one = FeynmanRules(short, sp.diag(Gs, Gp), ["s", "p"], {"p": n})
    two = FeynmanRules(long, sp.diag(Gs, Gp, Gp), ["s", "p", "q"])
    for topology in topologies([3, 4], 1, legs=3):
        assert sp.expand(one.weight(topology, ("s", "p", "p")).subs(n, 2) - two.weight(topology, "spp")) == 0
    for topology in topologies([3, 4], 1, legs=4)[::7]:
        crossed = one.contract(topology, ("p",) * 4)
        assert sp.expand(crossed.get(((0, 1), (2, 3)), sp.S.Zero).subs(n, 2)
                         - two.contract(topology, "ppqq").get((), sp.S.Zero)) == 0


# ------------------------------------------------------------------------------------- the house's manners
def test_a_diagram_without_rules_has_no_weight() -> None:
    (topology,) = topologies([4], 2)
    diagram = Diagram(topology)
    assert (diagram.symmetry_factor, diagram.vertices, diagram.loops) == (8, {4: 1}, 2)
    with pytest.raises(RuleError, match="without Feynman rules"):
        _ = diagram.weight


@pytest.mark.parametrize("call, argument", [
    (lambda: topologies([4], -1), "loops"),
    (lambda: topologies([4], 2, legs=-1), "legs"),
    (lambda: topologies([4], True), "loops"),
    (lambda: topologies([4], 2.0), "loops"),
    (lambda: topologies([4], 2, kind="2pi"), "kind"),
    (lambda: topologies([4], 2, kind="all"), "kind"),
    (lambda: topologies([2, 4], 2), "valences"),
    (lambda: topologies([0, 4], vertices=2), "valences"),
    (lambda: topologies([4]), "loops, vertices"),
    (lambda: topologies([4], 2, vertices=1), "loops, vertices"),
    (lambda: topologies([4], vertices=-1), "vertices"),
    (lambda: topologies([4], vertices={3: 2}), "vertices"),
    (lambda: FeynmanRules({("z",) * 4: g}, [[1]], ["x"]), "vertices"),
    (lambda: FeynmanRules({("x", "x", "y"): g, ("x", "y", "x"): b}, sp.eye(2), ["x", "y"]), "vertices"),
    (lambda: FeynmanRules({}, [[1, 2]], ["x"]), "propagator"),
    (lambda: FeynmanRules({}, [[1, 2], [3, 1]], ["x", "y"]), "propagator"),
    (lambda: FeynmanRules({}, [[1, 2], [2, 1]], ["x", "y"], {"x": n}), "propagator"),
    (lambda: FeynmanRules({("x",) * 3: g}, [[1]], ["x"], {"x": n}), "vertices"),
    (lambda: FeynmanRules({}, [[1]], ["x"], {"y": n}), "components"),
    (lambda: FeynmanRules({}, sp.eye(2), ["x", "x"]), "fields"),
    (lambda: diagrams(ONE, [[1]], ["x"], 1, legs=("z",)), "legs"),
    (lambda: diagrams(ONE, [[1]], ["x"], 1, kind="all"), "kind"),
    (lambda: vacuum_sum(-1, ONE, [[1]], ["x"]), "loops"),
    (lambda: on_polynomial(topologies([3], 2)[0], n), "topology"),
])
def test_bad_input_is_named(call: object, argument: str) -> None:
    with pytest.raises(BadInput) as caught:
        call()  # type: ignore[operator]
    assert caught.value.argument == argument


def test_an_unknown_kind_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="connected"):
        topologies([4], 2, kind="conected")
