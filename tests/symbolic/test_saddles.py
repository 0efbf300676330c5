"""Saddle points: all of them, with stability and flat directions; polynomial systems against known counts."""

from itertools import product

import mpmath
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory.errors import BadInput, FieldTheoryError, RuleError, SearchWarning
from fieldtheory.next_coefficient import lowest_minimum
from fieldtheory.symbolic.contour import unbounded_direction
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from fieldtheory.symbolic.polysolve import solve_rational, solve_symbolic
from fieldtheory.symbolic.saddles import SaddlePoint, choose_saddle, dominant, equivalent, saddle_points
from fieldtheory.testing import actions

x, y, z = sp.symbols("x y z", real=True)
g, m, c, N = sp.symbols("g m c N", positive=True)
a, b = sp.symbols("a b")
R = sp.Rational
mode = Space("mode", sp.Symbol("P", positive=True))
sum_of_logs = sp.exp(x) - x + SpaceSum(sp.log(1 + Entry("lambda", "spectrum", (mode,)) * sp.exp(x)), mode)
well = N * (-m * x**2 / 2 + g * x**4 / 24)


def by_stability(points):
    return sorted(p.stability for p in points)


def test_one_field_with_parameters():
    (point,) = saddle_points(N * (x**2 / 2 + g * x**4 / 24), [x], large=N)
    assert (point.value, point.action, point.stability) == (0, 0, "stable")
    assert point.hessian == sp.Matrix([[N]]) and point.values == {x: 0} and point.point == (0,)
    points = saddle_points(well, [x], large=N)
    depth = sp.sqrt(6 * m / g)
    assert {p.value for p in points} == {0, depth, -depth} and by_stability(points) == ["stable", "stable", "unstable"]
    low = [p for p in points if p.stability == "stable"]
    assert all(sp.simplify(p.action + 3 * N * m**2 / (2 * g)) == 0 and p.hessian[0] == 2 * N * m for p in low)


def test_complex_saddles_on_request():
    action = x**2 / 2 + g * x**4 / 24
    assert len(saddle_points(action, [x])) == 1
    points = saddle_points(action, [x], complex=True)
    assert by_stability(points) == ["complex", "complex", "stable"]
    assert {p.value**2 for p in points} == {0, -6 / g}
    assert len(saddle_points((x - 1)**4 / 4 + (y - 2)**2 * (x**2 + 1) + y**4 / 4 + x * y, [x, y], complex=True)) == 9


def test_two_fields_with_numbers():
    """A product of two tilted double wells, rotated: 9 saddle points, four of them minima."""
    u, v = x + y / 2, y - x / 3
    action = sp.expand(u**4 / 4 - u**2 + u / 7 + v**4 / 4 - v**2 - v / 5)
    points = saddle_points(action, [x, y])
    assert by_stability(points) == ["saddle"] * 4 + ["stable"] * 4 + ["unstable"]
    best = dominant(points)
    assert all(best.action.evalf() <= p.action.evalf() for p in points)
    assert float((u * v).subs(best.values)) < 0
    for p in points:
        slopes = [abs(sp.diff(action, f).subs(p.values).evalf(30)) for f in (x, y)]
        assert max(slopes) < 1e-25
    alone = {n: solve_rational([n**3 - 2 * n + d], [n]).points for n, d in ((x, R(1, 7)), (y, -R(1, 5)))}
    expected = sorted((float(p[0]), float(q[0])) for p in alone[x] for q in alone[y])
    assert sorted((float(u.subs(p.values)), float(v.subs(p.values))) for p in points) == [
        pytest.approx(e, abs=1e-12) for e in expected]


def test_two_coupled_fields_with_parameters():
    action = -m * (x**2 + y**2) / 2 + g * (x**4 + y**4) / 4 + c * x**2 * y**2 / 2
    points = saddle_points(action, [x, y])
    assert len(points) == 9
    diagonal = [p for p in points if p.values[x] != 0 and p.values[y] != 0]
    assert len(diagonal) == 4 and all(sp.simplify(p.values[x]**2 - m / (g + c)) == 0 for p in diagonal)
    with pytest.raises(RuleError, match="depends on the parameters"):
        dominant(points)
    numbers = saddle_points(action.subs({m: 1, g: 2, c: 1}), [x, y])
    assert by_stability(numbers) == ["saddle"] * 4 + ["stable"] * 4 + ["unstable"]


def test_roots_whose_reality_depends_on_the_parameters_are_kept():
    points = saddle_points(x**2 / 2 + a * x**3 / 3 + b * x**4 / 4, [x])
    assert [p.stability for p in points].count("depends on the parameters") == 2 and len(points) == 3
    with pytest.raises(RuleError, match="choose one"):
        dominant(points)


def test_equivalent_saddles():
    best = choose_saddle(well, [x], N)
    both = choose_saddle(well, [x], N, all=True)
    assert isinstance(best, SaddlePoint) and len(both) == 2 and both[0] == best
    points = saddle_points((well + N * x / 100).subs({m: 1, g: 1}), [x], large=N)
    assert len(equivalent(points, dominant(points, N), N)) == 1


def test_degenerate_directions_are_reported():
    (point,) = saddle_points(x**4 + y**2, [x, y])
    assert point.stability == "degenerate" and point.degenerate_directions == ((1, 0),)
    points = saddle_points((x + y)**2 / 2 + x**4 / 4 + x**3 / 3, [x, y])
    assert [(p.stability, p.values[x]) for p in points] == [("stable", -1), ("degenerate", 0)]
    direction = points[1].degenerate_directions[0]
    assert direction[0] == -direction[1] != 0
    with pytest.raises(RuleError, match="vanishes along"):
        dominant(saddle_points(x**4, [x]))
    with pytest.raises(RuleError, match="degenerate saddle point"):
        dominant(saddle_points(x**4 * (x - 1)**2, [x]))


def test_a_continuum_of_saddles_is_found_to_be_one():
    ring = saddle_points((x**2 + y**2 - 1)**2, [x, y])
    assert by_stability(ring) == ["degenerate"] * 4 + ["unstable"]
    at = next(p for p in ring if p.values[x] == 1)
    assert at.degenerate_directions == ((0, 1),)
    symbols = saddle_points(-m * (x**2 + y**2) / 2 + g * (x**2 + y**2)**2 / 4, [x, y])
    assert by_stability(symbols) == ["degenerate"] * 4 + ["unstable"]
    with pytest.raises(RuleError, match="not isolated"):
        saddle_points((x * y - 1)**2, [x, y])


def test_irrational_and_float_coefficients():
    points = saddle_points(sp.sqrt(2) * x**2 / 2 + x**4 / 4 - 3 * x**3 / 2, [x])
    assert len(points) == 3 and points[0].stability == "stable"
    assert len(saddle_points(x**4 / 4 - 1.3 * x**2, [x])) == 3
    (point,) = saddle_points(x**6 / 6 + x**3 / 3 + x**2 - x, [x])
    assert point.value.has(sp.CRootOf) and not point.action.has(sp.CRootOf) and point.stability == "stable"


def test_actions_that_are_not_polynomial():
    q = sp.Symbol("q", positive=True)
    (point,) = saddle_points(q / (2 * g) - sp.log(q) / 2, [q])
    assert point.value == g and point.stability == "stable"
    (point,) = saddle_points(sp.exp(x) - x, [x])
    assert point.value == 0 and point.action == 1
    u = Entry("u", "real")
    assert saddle_points(u**2 / 2 + u**4, [u])[0].values == {u: 0}
    positive = Entry("Q", "positive")
    assert [p.value for p in saddle_points(positive**3 / 3 - positive, [positive])] == [1]


def test_analytic_actions_are_searched_in_numbers():
    """A pair of tilted log cosh wells, rotated: 9 saddle points that no algebra gives, known from one field each."""
    def one(u, tilt):
        return u**2 / 4 - sp.log(sp.cosh(u)) + tilt * u

    u, v = x + y / 2, y - x / 3
    with pytest.warns(SearchWarning, match="there may be others"):
        points = saddle_points(one(u, R(1, 30)) + one(v, -R(1, 20)), [x, y])
    assert by_stability(points) == ["saddle"] * 4 + ["stable"] * 4 + ["unstable"]
    with mpmath.workdps(40):
        alone = [[mpmath.findroot(lambda t, tilt=tilt: t / 2 - mpmath.tanh(t) + tilt, start) for start in (-2, 0, 2)]
                 for tilt in (mpmath.mpf(1) / 30, -mpmath.mpf(1) / 20)]
        found = [tuple(mpmath.mpf(str(w.subs(p.values).evalf(40))) for w in (u, v)) for p in points]
        for pair in product(*alone):
            assert min(max(abs(a - b) for a, b in zip(pair, other)) for other in found) < mpmath.mpf(10)**-35
    assert float(dominant(points).action) == min(float(p.action) for p in points)


def test_a_search_keeps_exact_and_degenerate_points_and_the_contour():
    q = sp.Symbol("q", positive=True)
    with pytest.warns(SearchWarning):
        (point,) = saddle_points(sp.cosh(x) + sp.cosh(y) + x * y / 2, [x, y])
        (flat,) = saddle_points(sp.cosh(x) - x**2 / 2 + sp.exp(y) - y, [x, y])
        (bounded,) = saddle_points(q - sp.log(q) + sp.exp(x) - x / 2 + q**2 * x**2, [q, x])
        wave = saddle_points(x**2 / 60 - sp.cos(x), [x])
    assert point.point == (0, 0) and point.action == 2
    assert flat.point == (0, 0) and flat.stability == "degenerate" and flat.degenerate_directions == ((1, 0),)
    assert bounded.values[q] > 0 and bounded.stability == "stable"
    assert dominant(wave).value == 0 and len(wave) >= 15  # algebra would give the one at zero and be content


@settings(max_examples=8, deadline=None)
@given(S=actions(2))
def test_the_planted_saddle_is_the_only_one(S):
    (point,) = saddle_points(S.expr, S.fields, large=S.large)
    assert point.stability == "stable" and point.action == 0
    assert all(value.is_Rational and abs(value) <= R(1, 2) for value in point.point)
    assert lowest_minimum(S.expr.xreplace({S.large: 1}), S.fields) == list(point.point)


@settings(max_examples=30, deadline=None)
@given(coefficients=st.lists(st.integers(-3, 3), min_size=15, max_size=15))
def test_boundedness_is_decided_right_where_it_can_be_sampled(coefficients):
    """A quartic of two fields: what is refused falls along the direction named; what passes is not seen to fall."""
    monomials = [x**i * y**j for d in range(5) for i in range(d, -1, -1) for j in (d - i,)]
    action = sum(k * mono for k, mono in zip(coefficients, monomials, strict=True))
    if not action.has(x) or not action.has(y):
        return
    found = unbounded_direction(action, (x, y))
    grid = [(R(i, 4), R(j, 4)) for i in range(-4, 5) for j in range(-4, 5) if i or j]
    lowest = min(action.subs({x: 10**4 * p, y: 10**4 * q}) for p, q in grid)
    if found is None:
        assert lowest > -10**7  # linear terms against flat directions at most
    else:
        path = dict(part.split(" = ") for part in found[0].split(", "))
        values = [action.subs({x: sp.sympify(path["x"]).subs("t", s), y: sp.sympify(path["y"]).subs("t", s)})
                  for s in (10**4, 10**6)]
        assert values[1] < values[0] < 0


@pytest.mark.parametrize("action, fields", [
    (-x**2, (x,)), (x**3, (x,)), (a * x**3 + x**2, (x,)), (x**2 - g * x**4, (x,)), (x**2 + y**3, (x, y)),
    (x**4 - x**2 + y**4 - 3 * x**2 * y**2, (x, y)), (x * y, (x, y)), (-x**2 + y**4, (x, y)), (x, (x,)),
    (y**2 / 2 - x**2 * y + x**4 / 4, (x, y)), (x**4 + y**4 + z**4 - 3 * x**2 * y * z, (x, y, z)),
    (-sp.exp(x), (x,)), (-sp.log(1 + x**2), (x,)), (sp.exp(x) - x**2, (x,)), (x - sp.log(x), (x,)),
    (sp.exp(x) - x + y**2 / 2 - x * y**3, (x, y)), (sp.cosh(x) * (1 - g * x**4), (x,)), (sp.I * x - x**2, (x,)),
    (x**2 - (1 + sp.I) * x**4, (x,)), (sp.log(1 + sp.exp(x)) - 2 * x, (x,)),
])
def test_unbounded_actions(action, fields):
    assert unbounded_direction(action, fields) is not None


@pytest.mark.parametrize("action, fields", [
    (x**2, (x,)), (x**4 - 5 * x**3, (x,)), (x**2 + a * x**3 + b * x**4, (x,)), (x**2 + g * y**4 - x * y, (x, y)),
    (y**2 / 2 - x**2 * y + x**4, (x, y)), (x**4 + y**4 - 2 * x**2 * y**2 + x**2, (x, y)),
    (x**2 / 2 + sp.I * x**3, (x,)), (sp.I * x**2, (x,)), (sp.log(1 + sp.exp(x)) - x / 2, (x,)),
    (sp.cosh(x) - a * x**4, (x,)), (g * sp.cosh(x) - m * x, (x,)), (x**2 - sp.log(1 + g * x**2), (x,)),
    (sp.exp(x) - x, (x,)), (sp.sqrt(1 + x**2), (x,)), (1 / (1 + x**2), (x,)),
    (x**4 + y**4 + z**4 - x**2 * y * z, (x, y, z)),
    (sp.Symbol("q", positive=True)**3 / 3, (sp.Symbol("q", positive=True),)),
])
def test_bounded_actions(action, fields):
    assert unbounded_direction(action, fields) is None


def test_polynomial_systems():
    found = solve_rational([x**2 + y**2 - 5, x * y - 2], [x, y])
    assert {tuple(map(int, p)) for p in found.points} == {(1, 2), (2, 1), (-1, -2), (-2, -1)}
    assert solve_rational([x**2 + 1], [x]).points == [] and len(solve_rational([x**2 + 1], [x], real=False).points) == 2
    assert solve_rational([x**2 - 2, y - x], [x, y]).points == [(-sp.sqrt(2), -sp.sqrt(2)), (sp.sqrt(2), sp.sqrt(2))]
    assert solve_rational([x - 1, x - 2 + 0 * y, y - 1], [x, y]).points == []
    assert solve_rational([x * y, x * (y - 1)], [x, y]).continuous
    double = solve_rational([(x - 1)**2, (y - x)**3], [x, y])
    assert double.points == [(1, 1)]
    linear = solve_symbolic([a * x + b * y - 1, x - y], [x, y])
    assert [tuple(map(sp.simplify, p)) for p in linear.points] == [(1 / (a + b), 1 / (a + b))]
    left = solve_symbolic([x**5 + a * x + 1], [x])
    assert left.unsolved and not left.points


@pytest.mark.parametrize("call, match", [
    (lambda: saddle_points(well, [y]), "fields: got y"),
    (lambda: saddle_points(well + x, [x], large=N), "still contains"),
    (lambda: saddle_points(x**2 + sp.Abs(x), [x]), "action: got Abs"),
    (lambda: saddle_points(x**6 + a * x**5 + x, [x]), "no closed solution; give numbers"),
    (lambda: saddle_points(sp.cosh(x) * sp.cosh(g * y), [x, y]), "several fields that is not polynomial"),
    (lambda: saddle_points(sp.cosh(x) + x**2 - x, [x], complex=True), "complex saddle points of an action that is not"),
    (lambda: saddle_points(Entry("j", "imaginary")**2, [Entry("j", "imaginary")]), "imaginary"),
    (lambda: saddle_points(sum_of_logs, [x]), "sums over data"),
    (lambda: dominant(saddle_points(-x**2, [x])), "no real saddle point with positive curvature"),
    (lambda: saddle_points(x**2 + y**2, [x, y])[0].value, "2 fields"),
])
def test_refusals(call, match):
    with pytest.raises(FieldTheoryError, match=match):
        call()
    assert issubclass(BadInput, FieldTheoryError)
