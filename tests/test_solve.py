"""Roots, stability, weights and branches, on functions whose solutions are known by other means."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from fieldtheory.branches import continue_branches
from fieldtheory.compile import Kernel, compile_kernel
from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.newton import homotopy, newton_system
from fieldtheory.solve import find_roots, laplace_weights, solve_scalar
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum

THREE = (0.01559, 0.06225, 0.86636)  # N = 50, g = 1, s = .01, λ = 1 with y = 0 100 times, λ = .02 with y = 2
SPECTRUM = {"lambda": [1.0] * 100 + [0.02], "y": [0.0] * 100 + [2.0]}


@functools.cache
def action_kernel() -> Kernel:
    """dS/du, d²S/du², S with Q = e^u, and the equation of state in Q with its derivative."""
    N, g, s, P, Q = sp.symbols("N g s P Q", positive=True)
    u = sp.Symbol("u", real=True)
    mode = Space("mode", P)
    lam, y = Entry("lambda", "spectrum", [mode]), Entry("y", "data", [mode])
    action = (-N * u / 2 + N * sp.exp(u) / (2 * g) + SpaceSum(sp.log(sp.exp(u) * lam + s), mode) / 2
              + SpaceSum(y**2 / (sp.exp(u) * lam + s), mode) / 2)
    state = 1 - g / Q - g / N * (SpaceSum(y**2 * lam / (Q * lam + s) ** 2, mode)
                                 - SpaceSum(lam / (Q * lam + s), mode))
    return compile_kernel({"slope": sp.diff(action, u), "curvature": sp.diff(action, u, 2), "action": action,
                           "state": state, "state_slope": sp.diff(state, Q)},
                          scalars=[u, Q, N, g, s], entries=[lam, y], name="q_action_state")


class Counted:
    def __init__(self, function):
        self.function, self.count = function, 0

    def __call__(self, *args):
        self.count += 1
        return self.function(*args)


def in_log(N=50.0, g=1.0, s=0.01, spectrum=SPECTRUM):
    return action_kernel().bind("u", Q=1.0, N=N, g=g, s=s, **spectrum)


# -- one unknown

@pytest.mark.parametrize("lower, upper", [(1e-8, 1e6), (1e-4, 1e2), (1e-2, 1.0)])
def test_three_roots_of_the_rescaling_action(lower, upper):
    kernel = Counted(in_log())
    roots = find_roots(kernel, math.log(lower), math.log(upper))
    assert [round(math.exp(root.value), 5) for root in roots] == list(THREE)
    assert kernel.count <= 150 and all(root.residual < 1e-12 for root in roots)
    state = action_kernel().bind("Q", u=0.0, N=50.0, g=1.0, s=0.01, **SPECTRUM)
    again = find_roots(lambda Q: state(Q)[3:], lower, upper, domain="positive")
    assert np.allclose([r.value for r in again], [math.exp(r.value) for r in roots], rtol=1e-13)


def test_stability_and_weight_of_the_three():
    kernel = in_log()
    low, middle, high = solve_scalar(kernel, math.log(1e-6), math.log(1e3), unknown="u",
                                     action=lambda u: (kernel(u)[2], kernel(u)[1]))
    assert [x.stability for x in (low, middle, high)] == ["stable", "unstable", "stable"]
    assert middle.weight == 0 and low.weight + high.weight == pytest.approx(1)
    low_share = integrate.quad(lambda u: math.exp(90 - kernel(u)[2]), -12, middle.values["u"])[0]
    high_share = integrate.quad(lambda u: math.exp(90 - kernel(u)[2]), middle.values["u"], 5)[0]
    assert low.weight / high.weight == pytest.approx(low_share / high_share, rel=0.2)  # leading order in 1/N


def test_the_ordinary_case_is_cheap():
    rng = np.random.default_rng(1)
    for width, modes in ((400.0, 2000), (100.0, 20), (1e6, 500)):
        spectrum = {"lambda": rng.exponential(size=modes), "y": rng.normal(size=modes)}
        kernel = Counted(in_log(width, 1.0, 0.1, spectrum))
        assert len(find_roots(kernel, math.log(1e-6), math.log(1e6))) == 1
        assert kernel.count <= 100


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5), st.floats(-3, 3))
@settings(max_examples=100, deadline=None)
def test_polynomials_with_known_roots(places, scale):
    wanted = sorted(places)
    if any(b - a < 1e-4 for a, b in itertools.pairwise(wanted)):
        return
    poly = np.polynomial.Polynomial.fromroots(wanted) * 10.0**scale
    slope = poly.deriv()
    found = find_roots(lambda x: (poly(x), slope(x)), -6, 6)
    assert len(found) == len(wanted)
    tolerance = [1e-10 + 1e-15 * np.abs(poly.coef).sum() * 6 ** len(wanted) / abs(slope(x)) for x in wanted]
    assert all(abs(root.value - x) < t for root, x, t in zip(found, wanted, tolerance))


@given(st.floats(-0.9, 0.9), st.floats(-12, -1))
@settings(max_examples=100, deadline=None)
def test_close_pairs(centre, exponent):
    """(x - c)² = d² has two roots, (x - c)² = -d² none, however small d; a grid of signs sees neither."""
    gap = 10.0 ** (exponent / 2)

    def function(sign):
        return lambda x: ((x - centre) ** 2 - sign * gap**2, 2 * (x - centre))

    found = find_roots(function(1), -2.5, 2.5)
    assert [root.value for root in found] == pytest.approx([centre - gap, centre + gap], abs=1e-9)
    assert find_roots(function(-1), -2.5, 2.5) == ()
    (touching,) = find_roots(function(0), -2.5, 2.5)
    assert touching.value == pytest.approx(centre, abs=1e-7)


def test_roots_of_other_functions():
    assert [r.value for r in find_roots(lambda x: (math.sin(x), math.cos(x)), 1, 100)] == pytest.approx(
        [k * math.pi for k in range(1, 32)], rel=1e-14)
    assert [r.value for r in find_roots(lambda x: (x * (x - 1), 2 * x - 1), 0, 1)] == [0, 1]
    assert find_roots(lambda x: (1 / (x - 0.31), -1 / (x - 0.31) ** 2), 0, 1) == ()  # a pole is no root
    (root,) = find_roots(lambda x: (math.log(x / 3e-9), 1 / x), 1e-20, 1e20, domain="positive")
    assert root.value == pytest.approx(3e-9, rel=1e-13) and root.slope == pytest.approx(1 / 3e-9)
    (root,) = find_roots(lambda x: (1e-300 * (x - 1), 1e-300), -3, 3)
    assert root.value == 1  # products of such values underflow
    (root,) = find_roots(lambda x: (x**3, 3 * x**2), -1, 1.3)
    assert abs(root.value) < 1e-4


@pytest.mark.parametrize("options", [
    {"lower": 1.0}, {"lower": math.nan}, {"domain": "negative"}, {"points": 1}, {"domain": "positive"}])
def test_bounds_that_are_none(options):
    with pytest.raises(BadInput):
        find_roots(lambda x: (x, 1.0), **{"lower": -1.0, "upper": 1.0, **options})


def test_what_has_no_answer_says_so():
    with pytest.raises(NotConverged, match="not finite"):
        find_roots(lambda x: (math.nan if x > 0 else 1.0, 0.0), -1, 1)
    with pytest.raises(NotConverged, match="vanishes"):
        find_roots(lambda x: (0.0, 0.0), -1, 1)
    with pytest.raises(NotConverged, match="evaluations"):
        find_roots(lambda x: (math.sin(1 / x), -math.cos(1 / x) / x**2), 1e-6, 1, max_evaluations=500)
    with pytest.raises(NotConverged, match="no root for Q") as error:
        solve_scalar(lambda x: (1 + x**2, 2 * x), -1, 1, unknown="Q")
    assert error.value.residual == 2


def test_laplace_weights():
    assert laplace_weights([1e4, 1e4 + math.log(2)], [1.0, 1.0]) == pytest.approx([2 / 3, 1 / 3])
    assert laplace_weights([0.0, 0.0, -9.0], [1.0, 4.0, -1.0]) == pytest.approx([2 / 3, 1 / 3, 0])
    assert list(laplace_weights([0.0], [-1.0])) == [0]


# -- several unknowns

def rosenbrock(x, units=(1.0, 1.0)):
    return np.array([units[0] * (1 - x[0]), units[1] * 10 * (x[1] - x[0] ** 2)])


def test_newton_finds_and_certifies():
    root = newton_system(rosenbrock, [-1.2, 1.0])
    assert root.values == pytest.approx([1, 1], rel=1e-12) and root.residual < 1e-11 and root.error < 1e-12
    exact = newton_system(rosenbrock, [-1.2, 1.0], jacobian=lambda x: [[-1, 0], [-20 * x[0], 10]])
    assert exact.values == pytest.approx([1, 1], rel=1e-14) and exact.determinant == pytest.approx(-10)
    scaled = newton_system(functools.partial(rosenbrock, units=(1e8, 1e-8)), [-1.2, 1.0])
    assert scaled.values == pytest.approx([1, 1], rel=1e-10)
    positive = newton_system(lambda x: [math.log(x[0]) + x[1] - 1, x[0] * 1e6 - 2], [1.0, 0.0],
                             domains=["positive", "real"])
    assert positive.values == pytest.approx([2e-6, 1 - math.log(2e-6)], rel=1e-10)


def test_newton_is_damped():
    """Undamped Newton on atan diverges from |x| > 1.39."""
    root = newton_system(lambda x: np.arctan(x), [20.0], jacobian=lambda x: np.diag(1 / (1 + x**2)))
    assert abs(root.values[0]) < 1e-12


@pytest.mark.parametrize("function, start", [
    (lambda x: x**2 + 1, [0.7]), (lambda x: [x[0] + x[1], x[0] + x[1] - 1], [0.0, 0.0]),
    (lambda x: x * math.nan, [1.0])])
def test_newton_without_a_zero(function, start):
    with pytest.raises(NotConverged):
        newton_system(function, start)


def test_newton_refuses_bad_starts():
    for start, options in (([math.nan], {}), ([-1.0], {"domains": ["positive"]}),
                           ([1.0], {"domains": ["any"]}), ([1.0, 2.0], {})):
        with pytest.raises(BadInput):
            newton_system(lambda x: x[:1] - 1, start, **options)


FOLD = 2 / (3 * math.sqrt(3))


def cubic(x, t):
    """x³ - x + t: three roots for |t| < FOLD, folds at x = ±1/sqrt(3)."""
    return x**3 - x + t


def test_homotopy_follows_and_stops_at_a_fold():
    path = homotopy(cubic, [1.0], end=-5.0)
    assert path.fold is None and path.parameters[-1] == -5.0
    assert path.values[-1, 0] == pytest.approx(max(np.roots([1, 0, -1, -5]).real))
    with pytest.raises(NotConverged, match=r"ends at parameter = 0\.384"):
        homotopy(cubic, [1.0], end=1.0)
    path = homotopy(cubic, [1.0], end=1.0, partial=True)
    assert path.fold == pytest.approx(FOLD, abs=1e-5) and path.parameters[-1] < FOLD
    assert path.values[-1, 0] == pytest.approx(1 / math.sqrt(3), abs=1e-2)
    # there is another solution beyond, which a path that jumps would have found
    assert newton_system(lambda x: cubic(x, 1.0), [-1.0]).values[0] == pytest.approx(-1.3247, abs=1e-4)


def test_homotopy_in_several_unknowns():
    path = homotopy(lambda x, t: [x[0] * x[1] - 1 - t, x[0] - 1e-3 * x[1]], [0.03, 30.0],
                    domains=["positive", "positive"])
    assert path.values[-1] == pytest.approx([math.sqrt(2e-3), math.sqrt(2e3)], rel=1e-10)


# -- branches

def cubic_with_slope(x, t):
    return cubic(x, t), 3 * x**2 - 1


def cubic_action(x, t):
    return x**4 / 4 - x**2 / 2 + t * x, 3 * x**2 - 1


@pytest.mark.parametrize("parameters", [np.linspace(-1, 1, 21), [-1, 0.05, 1], np.linspace(1, -1, 8)])
def test_branches_of_a_cubic(parameters):
    branches = continue_branches(cubic_with_slope, parameters, -3, 3, action=cubic_action)
    assert len(branches) == 3
    ahead = parameters[-1] > parameters[0]
    for branch in branches:
        for t, x, solution in zip(branch.parameters, branch.values, branch.solutions):
            assert abs(cubic(x, t)) < 1e-12
            assert solution.stability == ("stable" if 3 * x**2 > 1 else "unstable")
        lies = np.sign(np.array(branch.values)) * (np.abs(branch.values) > 1 / math.sqrt(3))
        assert len(set(lies)) == 1  # upper, lower or middle throughout
        if branch.birth:
            t, x = (-FOLD, -1) if ahead else (FOLD, 1)
            assert branch.birth.parameter == pytest.approx(t, abs=1e-4) and branch.birth.kind == "fold"
            assert branch.birth.value == pytest.approx(x / math.sqrt(3), abs=0.03)
        if branch.death:
            assert branch.death.parameter == pytest.approx(FOLD if ahead else -FOLD, abs=1e-4)
    ends = sorted((branch.birth is None, branch.death is None) for branch in branches)
    assert ends == [(False, False), (False, True), (True, False)]
    by_parameter = {}
    for branch in branches:
        for t, solution in zip(branch.parameters, branch.solutions):
            by_parameter.setdefault(t, []).append(solution.weight)
    assert all(sum(weights) == pytest.approx(1) for weights in by_parameter.values())


def test_a_jump_across_both_folds_is_no_branch():
    """One root before and one after, but not the same: linking by number alone would join them."""
    first, second = continue_branches(cubic_with_slope, [-1, 1], -3, 3)
    assert first.values[0] > 1.3 and second.values[0] < -1.3
    assert first.death.parameter == pytest.approx(FOLD, abs=1e-3)
    assert second.birth.parameter == pytest.approx(-FOLD, abs=1e-3)


def test_a_root_that_leaves_the_interval():
    (branch,) = continue_branches(lambda x, t: (x - t, 1.0), [0.5, 0.9, 1.5, 2.0], 0, 1)
    assert branch.values == (0.5, 0.9) and branch.death.kind == "edge"
    assert branch.death.parameter == pytest.approx(1, abs=1e-4)


def test_branches_between_scalings():
    """Every root of the Q action is on exactly one branch for g = 1/χ, s = .01/χ, χ from 1 to N."""
    raw = action_kernel().raw
    spectrum = [np.array(SPECTRUM[name]) for name in ("lambda", "y")]

    def kernel(u, chi):
        return raw(u, 1.0, 50.0, 1 / chi, 0.01 / chi, *spectrum)

    values = np.geomspace(1, 50, 12)
    branches = continue_branches(kernel, values, math.log(1e-6), math.log(1e3), unknown="u",
                                 action=lambda u, chi: (kernel(u, chi)[2], kernel(u, chi)[1]))
    for chi in values:
        here = sorted(b.values[b.parameters.index(chi)] for b in branches if chi in b.parameters)
        roots = find_roots(lambda u, c=chi: kernel(u, c), math.log(1e-6), math.log(1e3))
        assert here == [root.value for root in roots]
    assert [round(math.exp(b.values[0]), 5) for b in branches if b.birth is None] == list(THREE)
    assert all((b.death is None) == (b.parameters[-1] == 50.0) for b in branches)


def test_parameters_must_be_in_order():
    for values in ([], [1, 1], [0, 2, 1]):
        with pytest.raises(BadInput, match="parameters"):
            continue_branches(cubic_with_slope, values, -3, 3)
