"""Powers of N of loop orders: against enumerated diagrams, and against the numbers that the loop terms are."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import mpmath
import pytest
import sympy as sp
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from fieldtheory.action import Action
from fieldtheory.errors import BadInput
from fieldtheory.export.phases import phase_diagram, section
from fieldtheory.symbolic.closures import close
from fieldtheory.symbolic.cone import Line, Vertex, generators
from fieldtheory.symbolic.counting import exponent
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, rename
from fieldtheory.symbolic.loopcounting import count_closure
from fieldtheory.symbolic.rules import FieldAction
from fieldtheory.symbolic.structured import log_partition_terms

x, z = sp.symbols("x z", real=True)
N, n, P, g, s = sp.symbols("N n P g s", positive=True)
a, b, nu = sp.symbols("a b nu", real=True)
gamma, delta, p = sp.symbols("gamma delta p", real=True)
mode, component = Space("mode", P), Space("component", n)
lam, y = Entry("lambda", "spectrum", (mode,)), Entry("y", "data", (mode,))
j, phi = Entry("j", "imaginary", (mode,)), Entry("phi", "real", (component,))
E = SpaceSum(lam * j**2, mode)
LINEAR = Action(SpaceSum(y * j, mode) - s * SpaceSum(j**2, mode) / 2 + N * sp.log(1 - g * E / N) / 2, [j])
GIVEN = {N: 1, g: 1 - gamma, s: -delta, P: p}
VECTOR = Action(SpaceSum(phi**2, component) / 2 + g * SpaceSum(phi**2, component)**2 / 24, [phi])


@cache
def linear() -> Any:
    return LINEAR.power_counting(GIVEN, constraints=[delta >= 0])


# ------------------------------------------------------------------------------------------------ few fields


def largest(action: Action, loops: int, given: dict[Any, Any]) -> sp.Expr:
    """The largest exponent among the diagrams themselves."""
    return max((exponent(diagram.weight, given) for diagram in action.diagrams(loops, at=dict.fromkeys(
        action.fields, 0))), default=-sp.oo)


def exponents() -> st.SearchStrategy[Fraction]:
    return st.fractions(-2, 2, max_denominator=3)


@settings(max_examples=15, deadline=None, phases=[Phase.generate])
@given(st.dictionaries(st.integers(3, 6), exponents(), min_size=1), st.integers(1, 2))
def test_one_field_against_every_diagram(orders: dict[int, Fraction], line: int) -> None:
    couplings = {k: sp.Symbol(f"c{k}", positive=True) for k in orders}
    m = sp.Symbol("m", positive=True)
    action = Action(m * x**2 / 2 + sum(c * x**k for k, c in couplings.items()) + x**12, [x])
    given_exponents = {m: line, **{couplings[k]: e for k, e in orders.items()}}
    counting = action.power_counting(given_exponents, at={x: 0})
    report = counting.report()
    for loops in (2, 3):
        found = largest(action, loops, given_exponents)
        assert report.orders.get(f"{loops} loops", -sp.oo) == found
        assert found <= report.growth * (loops - 1)


@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(st.lists(exponents(), min_size=9, max_size=9),
       st.lists(st.booleans(), min_size=9, max_size=9).filter(any), st.booleans())
def test_two_fields_against_every_diagram(values: list[Fraction], there: list[bool], mixed: bool) -> None:
    monomials = [x**i * z**(k - i) for k in (3, 4) for i in range(k + 1)]
    couplings = sp.symbols("c0:9", positive=True)
    kept = [(c * m, c, e) for c, m, e, keep in zip(couplings, monomials, values, there) if keep]
    quadratic = x**2 + z**2 + x * z * sp.Rational(int(mixed), 3)
    action = Action(quadratic + sum(term for term, _, _ in kept) + x**12 + z**12, [x, z])
    given_exponents = {c: e for _, c, e in kept}
    counting = action.power_counting(given_exponents, at={x: 0, z: 0})
    report = counting.report()
    for loops in (2, 3):
        found = largest(action, loops, given_exponents)
        assert report.orders.get(f"{loops} loops", -sp.oo) == found
        assert found <= report.growth * (loops - 1)


def test_left_symbolic() -> None:
    action = Action(N * (x**2 / 2 + g * x**4 / 24), [x], large=N)
    counting = action.power_counting({g: -a}, at={x: 0})
    regions = {verdict: [list(map(str, region)) for region in found] for verdict, found in counting.regions().items()}
    assert regions == {"saddle": [["0 < a + 1"]], "finite": [], "equal": [["Eq(a + 1, 0)"]], "growing": [["a + 1 < 0"]]}
    (chamber,) = counting.chambers
    assert set(counting.growth(chamber)) == {-1 - a}
    assert set(counting.order("3 loops", chamber)) == {-2 - 2 * a}
    assert counting.report(a=0).verdict == "saddle" and counting.report(a=-1).verdict == "equal"
    assert counting.report(a=-2).verdict == "growing"
    fine = counting.report(a=0, accuracy=-3)
    assert (fine.verdict, fine.through, bool(fine)) == ("finite", 4, True)
    for text in (str(counting), counting._repr_latex_()):
        assert "vertex x**4" in text and "each further loop" in text


def test_two_couplings_bound_each_other() -> None:
    c = sp.Symbol("c", positive=True)
    counting = Action(N * (x**2 / 2 + c * x**3 / 6 + g * x**4 / 24), [x], large=N).power_counting(
        {g: -a, c: -b}, at={x: 0})
    (chamber,) = counting.chambers
    assert set(counting.growth(chamber)) == {-1 - a, -1 - 2 * b}
    (saddle,) = counting.regions()["saddle"]
    assert {str(relation) for relation in saddle} == {"0 < a + 1", "0 < 2*b + 1"}


def test_a_series_of_vertices_goes_on() -> None:
    """cosh-like vertices of every order: growth from the ratio of the last two counts for all higher ones."""
    c = sp.Symbol("c", positive=True)
    action = Action(N * (sp.exp(c * x) - c * x + x**2 / 2), [x], large=N)
    counting = action.power_counting({c: a}, at={x: 0})
    assert counting.report(a=0).growth == -1
    assert counting.report(a=sp.Rational(1, 4)).verdict == "saddle"


def test_generators_are_minimal() -> None:
    one = generators([Vertex("3", 1, (3,)), Vertex("4", 2, (4,))], [Line("G", (0, 0))])
    assert {(content.parts, content.loops) for content in one} == {((("3", 2), ("G", 3)), 1), ((("4", 1), ("G", 2)), 1)}


# ------------------------------------------------------------------------------------- a field over a space


def test_vector_with_many_components() -> None:
    counting = VECTOR.power_counting({n: nu, g: -a})
    (chamber,) = counting.chambers
    assert set(counting.growth(chamber)) == {nu - a}
    assert [set(counting.order(f"{loops} loops", chamber)) for loops in (2, 3)] == [{2 * nu - a}, {3 * nu - 2 * a}]
    report = counting.report(nu=1, a=1)
    assert report.verdict == "equal" and not report
    assert set(report.orders.values()) == {1}
    assert "action.auxiliary()" in str(report) and "vertex h**2 + line h, h" in str(report)
    assert counting.report(nu=0, a=1).verdict == "saddle" and counting.report(nu=1, a=0).verdict == "growing"


def test_linear_network_does_not_close_at_standard_scaling() -> None:
    counting = linear()
    standard = counting.report(gamma=1, delta=0, p=1)
    assert (standard.verdict, standard.growth, standard.leading) == ("equal", 0, 1)
    assert (standard.orders["2 loops"], standard.orders["3 loops"]) == (1, 1)
    assert standard.generator == "vertex h**2 + line h, h" and "auxiliary" in standard.route
    mean_field = counting.report(gamma=2, delta=1, p=1)
    assert (mean_field.verdict, mean_field.growth) == ("saddle", -sp.Rational(1, 2))


def test_loops_agree_with_the_saddle_regions_found_without_them() -> None:
    """What one-loop corrections of the equation of state say, all loops say."""
    from fieldtheory.symbolic.counting import power_counting

    counting = linear()
    closure = close(LINEAR.value, 0, parameters=LINEAR.collectivise("j", "q"))
    tree, corrections = closure.tree, closure.corrections
    other = power_counting(tree.equations, tree.unknowns, GIVEN, dict(closure.contributions) | corrections,
                           corrections=tuple(corrections), constraints=[delta >= 0, p >= 0])
    for G in range(0, 7):
        for D in range(0, 5):
            for size in range(0, 7):
                point = {gamma: sp.Rational(G, 2), delta: sp.Rational(D, 2), p: sp.Rational(size, 3)}
                assert (counting.report(point).verdict == "saddle") == bool(other.saddle_suffices(point)), point


MODES = ((mpmath.mpf(2), mpmath.mpf("1.5")), (mpmath.mpf("0.5"), mpmath.mpf("0.7")), (mpmath.mpf("1.1"), mpmath.mpf(1)))


@cache
def linear_terms() -> Any:
    closure = close(LINEAR.value, 0, parameters=LINEAR.collectivise("j", "q"))
    terms = log_partition_terms(LINEAR.expr, j, 3, parameters=closure.parameters)
    return closure.tree, {power + 1: terms[power].xreplace({j: closure.tree.profile}) for power in (1, 2)}


def number(expr: Any, values: dict[Any, Any], here: dict[Any, Any], size: Any) -> Any:
    """An expression with P/3 modes of each kind, in mpmath."""
    if expr in here:
        return here[expr]
    if expr in values:
        return values[expr]
    if isinstance(expr, SpaceSum):
        return sum(number(expr.body, values, {lam: l, y: t}, size) for l, t in MODES) * size / len(MODES)
    if expr.is_Rational:
        return mpmath.mpf(int(expr.p)) / int(expr.q)
    parts = [number(arg, values, here, size) for arg in expr.args]
    if expr.is_Add:
        return mpmath.fsum(parts)
    return mpmath.fprod(parts) if expr.is_Mul else mpmath.power(*parts)


def sizes(point: dict[Any, Any], width: Any) -> list[Any]:
    """The first-order shift of the equation of state by the trace, two, three and four loops, at the saddle."""
    tree, terms = linear_terms()
    G, D, e = (mpmath.mpf(int(point[v].p)) / int(point[v].q) for v in (gamma, delta, p))
    size = width**e
    values = {N: width, g: width**(1 - G), s: width**-D, P: size}

    def equation(log_q: Any) -> Any:
        return number(tree.equations[0], values | {tree.unknowns[0]: mpmath.exp(log_q)}, {}, size)

    low, high = mpmath.log(values[g]) - 5, mpmath.log(values[g]) + 4 * mpmath.log(width)
    assert equation(low) * equation(high) < 0
    for _ in range(250):
        middle = (low + high) / 2
        low, high = (middle, high) if equation(middle) * equation(high) < 0 else (low, middle)
    q = tree.unknowns[0]
    values[q] = mpmath.exp(low)
    trace = q * SpaceSum(lam / (q * lam + s), mode)
    return [abs(number(term, values, {}, size)) for term in (trace, *terms.values())]


def slopes(point: dict[Any, Any]) -> list[Any]:
    with mpmath.workdps(300):  # 1 - 1/(1 + t) with t as small as 10^-100 occurs, squared
        low, high = mpmath.mpf(10)**24, mpmath.mpf(10)**30
        return [mpmath.log(u / v) / mpmath.log(high / low) for u, v in zip(sizes(point, high), sizes(point, low))]


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(*(st.integers(1, 11).map(lambda k, top=top: sp.Rational(k * top, 12)) for top in (3, 2, 2)))
@example(sp.Rational(2), sp.Rational(1), sp.Rational(1))
def test_the_picture_is_what_the_loop_terms_are(G: sp.Rational, D: sp.Rational, size: sp.Rational) -> None:
    """At random points of the cube: the slopes of the loop terms in N, and the colour of the picture there."""
    counting = linear()
    point = {gamma: G, delta: D, p: size}
    report = counting.report(point)
    assume(abs(report.growth) > sp.Rational(1, 10))
    # near a wall between balances the slopes have not settled
    assume(all(abs((r.gts - r.lts).subs(point)) > sp.Rational(1, 10) for c in counting.chambers for r in c.conditions))
    trace, two, three = slopes(point)
    assert abs(trace - float(report.orders["1 loop, trace"])) < 0.03
    assert abs(two - float(report.orders["2 loops"])) < 0.03
    assert abs(two - trace - float(report.growth)) < 0.06
    running = G + size > 2 and 2 * D + size > G  # there the leading diagrams of three loops cancel
    assert three < float(report.orders["3 loops"]) + 0.03
    assert running or abs(three - float(report.orders["3 loops"])) < 0.03
    assert report.verdict == ("growing" if two > trace else "saddle")
    corners = [(sp.Integer(a), sp.Integer(b)) for a, b in ((0, 0), (3, 0), (3, 2), (0, 2))]
    holding = set()
    for verdict, regions in counting.regions().items():
        for region in regions:
            polygon = [tuple(map(float, corner)) for corner in section(region, (gamma, p), {delta: D}, corners)]
            if len(set(polygon)) > 2 and Outline(polygon).contains_point((float(G), float(size))):
                holding.add(verdict)
    assert holding == {report.verdict}


def test_even_orders_carry_the_growth_where_odd_ones_cancel() -> None:
    """Mean-field scaling, P ∝ N: the tree ∝ cosh(u), the trace ∝ ħu, and so the leading diagrams are even in ħ."""
    tree, _ = linear_terms()
    four = log_partition_terms(LINEAR.expr, j, 4, parameters=LINEAR.collectivise("j", "q"))[3]
    point = {gamma: sp.Rational(2), delta: sp.Rational(1), p: sp.Rational(1)}
    found = linear().report(point)
    linear_terms()[1][4] = four.xreplace({j: tree.profile})
    try:
        _, two, three, fourth = slopes(point)
    finally:
        del linear_terms()[1][4]
    assert abs(fourth - two - 2 * float(found.growth)) < 0.03
    assert three - two < float(found.growth) - 0.4


# ------------------------------------------------------------------------------------------- names, pictures, errors


def test_a_figure_for_any_counting() -> None:
    figure = linear().plot("gamma", "p", [{"delta": 0}, {"delta": 1}], points={
        "standard": dict(gamma=1, delta=0, p=1), "outside": dict(gamma=9, delta=0, p=1)})
    assert [axes.get_title(loc="left") for axes in figure.axes] == [r"$\delta$ = 0", r"$\delta$ = 1"]
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words == ["standard"]
    assert len(figure.axes[0].lines) >= 2  # two lines on which every order is equally large
    vector = phase_diagram(VECTOR.power_counting({n: nu, g: -a}), nu, a)
    assert len(vector.axes) == 1


@pytest.mark.parametrize(("call", "argument"), [
    (lambda: linear().plot("gamma", "q", [{}]), "exponents"),
    (lambda: linear().plot("gamma", "p", [{}]), "panels"),
    (lambda: linear().plot("gamma", "p", []), "panels"),
    (lambda: linear().plot("gamma", "p", [{"delta": 0}], points={"here": {"p": 1}}), "points"),
    (lambda: VECTOR.power_counting({n: 1, g: 0}, loops=1), "loops"),
    (lambda: VECTOR.power_counting({n: 1}), "exponents"),
    (lambda: count_closure(close(FieldAction(sp.S.One, ())), {}), "closure"),
])
def test_bad_input(call: Any, argument: str) -> None:
    with pytest.raises(BadInput) as caught:
        call()
    assert caught.value.argument == argument


def test_renaming_commutes() -> None:
    names = {"phi": "A", "n": "zeta", "component": "c", "g": "B"}
    renamed = VECTOR.rename(names)
    mine = VECTOR.power_counting({n: nu, g: -a})
    theirs = renamed.power_counting({rename(n, names): nu, rename(g, names): -a})
    assert mine.table() == theirs.table() and mine.regions() == theirs.regions()


def test_a_relaxed_cone_would_be_wrong() -> None:
    """Isolated pairs of one-leg vertices are no part of a connected diagram: without that, growth comes out larger."""
    counting = linear()
    point = {gamma: sp.Integer(2), delta: sp.Integer(2), p: sp.Rational(29, 20)}
    assert counting.report(point).growth == (point[p] - point[gamma]) / 2
    (here,) = counting.at(point)
    # what the pair of vertices h joined by one line, taken as often as one likes, would add
    e = here.contributions
    loose = (2 * e["vertex h"] + e["line h, h"] + 2 * e["vertex M**3"] + 3 * e["line M, M"]) / 2
    assert loose > counting.report(point).growth
