"""The population limit of mean-field theory: against integrals over all weights of small networks, on a grid."""

from itertools import product

import numpy as np
import pytest
import scipy.optimize
import scipy.special

import fieldtheory as ft
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.population.base import standard_error
from fieldtheory.population.modes import Mode, alike
from tests.populations import limit

NET = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1)


def on_grid(D: int, k: int, N: int, noise: float, c: float | None = None, points: int = 90) -> float:
    """m = N (1 - cm)/s ⟨J²/B⟩ with the law of w on a grid over all D weights."""
    c = 1 - 1 / N if c is None else c
    points = points if D > 2 else 600
    axis = 6 * (np.arange(points) + 0.5) / points / np.sqrt(D)  # J² is even in every weight
    w = np.stack([g.ravel() for g in np.meshgrid(*[axis] * D, indexing="ij")], axis=1)
    corners = np.array(list(product([-1.0, 1.0], repeat=D)))
    phi = np.maximum(w @ corners.T, 0)
    J = (phi * corners[:, :k].prod(axis=1)).mean(axis=1)
    B = N + (phi**2).mean(axis=1) / noise

    def right(m: float) -> float:
        log = -D * (w**2).sum(axis=1) / 2 - np.log(B) / 2 + ((1 - c * m) * J / noise)**2 / (2 * B)
        p = np.exp(log - log.max())
        return N * (1 - c * m) / noise * float((p * J**2 / B).sum() / p.sum())

    return float(scipy.optimize.brentq(lambda m: right(m) - m, 0.0, 1 / c))


@pytest.fixture(scope="module")
def parity():
    return limit("mean-field", NET, "hypercube", 2)


@pytest.mark.parametrize("D, noise, N", [(2, 0.02, 64), (3, 0.02, 4)])
def test_against_a_grid_over_all_weights(parity, D, noise, N):
    found = parity.solve(D, noise, width=N, nodes=32768)
    expected = on_grid(D, 2, N, noise)
    assert found.status == "converged" and found.error < 1e-3
    assert abs(found.m - expected) < 5 * found.error + 2e-4
    if N == 4:  # without the cavity factor the answer is another one
        assert abs(found.m - on_grid(D, 2, N, noise, c=1.0)) > 20 * found.error


def test_reference_values_on_the_cube(parity):
    """D = 8, k = 2, √(s/P) = .1, .07, .05; regression with the fixed kernel as N → ∞, where nodes err by 1e-3."""
    fixed = limit("nngp", NET, "hypercube", 2)
    for kappa, mean_field in ((0.1, 0.1888), (0.07, 0.3634), (0.05, 0.5347)):
        found = parity.solve(8, kappa**2)
        assert abs(found.m - mean_field) < 5 * found.error + 1e-4 and found.error < 1e-3
        assert found.test_error == pytest.approx((1 - found.m)**2)
        regression = fixed.solve(8, kappa**2).m
        wide = parity.solve(8, kappa**2, width=10**7)
        assert abs(wide.m - regression) < 5 * wide.error + 1e-4 < 8e-3 < abs(found.m - regression)


def test_four_parity_on_the_cube():
    theory = limit("mean-field", NET, "hypercube", 4)
    for kappa, mean_field in ((0.055, 0.00900), (0.045, 0.01402), (0.035, 0.0408)):
        found = theory.solve(8, kappa**2)
        assert abs(found.m - mean_field) < 5 * found.error + 1e-5 and found.nodes > 500


def test_a_gaussian_rest_is_the_limit_of_many_inputs(parity):
    gaps = []
    for D in (4, 10):
        exact, rest = (parity.solve(D, 0.01 / D, relevant_only=only, nodes=4096) for only in (False, True))
        gaps.append((rest.m - exact.m) / exact.m)
        assert gaps[-1] * exact.m > 5 * np.hypot(rest.error, exact.error)
    assert gaps[1] < 0.75 * gaps[0] < 0.01


def test_the_right_side_falls(parity):
    """dR/dm = α R - β Var with α < 0 < β wherever 1 - cm > 0: the solution is unique."""
    alpha, beta = parity.slope
    at = {"m": 0.7, "N": 64, "P": 1, "s": 0.01}
    values = [e.subs({s: at[s.name] for s in e.free_symbols}) for e in (alpha, beta)]
    assert values[0] < 0 < values[1]
    assert float(values[0]) == pytest.approx(-(63 / 64) / (1 - 63 / 64 * 0.7))
    assert not (alpha.free_symbols | beta.free_symbols) - {s for s in alpha.free_symbols | beta.free_symbols
                                                          if s.name in at}


def test_one_direction_against_quadrature():
    """erf on he_1, one mode kept: the law of (|w|, τ) integrated on a grid."""
    net = NET.replace(activation="erf", width=8)
    D, N, noise = 3, 8, 0.05
    found = limit("mean-field", net, "gaussian", 1, modes=[]).solve(D, noise)
    r, tau = np.meshgrid(np.linspace(1e-4, 6, 3001) / np.sqrt(D), np.linspace(-1, 1, 401), indexing="ij")
    J = 2 * r * tau / np.sqrt(np.pi * (1 + 2 * r**2))
    B = N + 2 / np.pi * np.arcsin(2 * r**2 / (1 + 2 * r**2)) / noise
    c = 1 - 1 / N

    def right(m: float) -> float:
        p = r**(D - 1) * np.exp(-D * r**2 / 2 + ((1 - c * m) * J / noise)**2 / (2 * B)) / np.sqrt(B)
        p[:, [0, -1]] /= 2
        return N * (1 - c * m) / noise * float((p * J**2 / B).sum() / p.sum())

    assert abs(found.m - scipy.optimize.brentq(lambda m: right(m) - m, 0, 1 / c)) < 5 * found.error + 1e-4


def test_modes_that_are_not_kept_are_measured():
    """he_2 and ReLU at D = 10, √(s/P) = .05: the target alone gives .455, and by default two orders more are kept."""
    alone = limit("mean-field", NET, "gaussian", 2, modes=[]).solve(10, 0.0025, shifts=4)
    assert alone.status.startswith("truncated: output of power") and alone.left_out > 0.1 and alone.m > 0.45
    theory = limit("mean-field", NET, "gaussian", 2)
    assert theory.modes == (0, 2, (0, 1), 4, (2, 1), (0, 2))
    found = theory.solve(10, 0.0025, shifts=4)
    assert found.status == "converged" and 0 < found.left_out < 1e-3
    assert abs(found.m - 0.28425) < 5 * found.error + 1e-4 < 1e-3 and found.m == found.order_parameters[2]
    cube = limit("mean-field", NET, "hypercube", 2)
    assert cube.next_modes == () and cube.solve(5, 0.01, nodes=256, shifts=2).left_out == 0


def test_symmetry_chooses_the_modes():
    def names(*keys, order):
        return {mode.key for mode in alike([Mode(key) for key in keys], order)}

    assert names((1, 1), order=4) == {(1, 1), (3, 1), (1, 3), (1, 1, 1)}
    assert names((2, 0), (0, 1), order=2) == {(n, k) for n in (0, 2) for k in range(3 - n)} | {(0, 0, 1)}
    assert names((1,), (2,), order=2) == {0, 1, 2, (0, 1)}  # no symmetry is left


def test_a_few_shifts_have_a_wider_error():
    """Intervals of Student's law hold the mean of a Gaussian in 68 % of cases, and those of a Gaussian do not."""
    values = np.random.default_rng(3).normal(size=(3, 40_000))
    error, plain = standard_error(values), values.std(axis=0, ddof=1) / np.sqrt(3)
    inside, twin = ((np.abs(values.mean(axis=0)) < width).mean() for width in (error, plain))
    spread = np.sqrt(0.6827 * 0.3173 / values.shape[1])
    assert abs(inside - 0.6827) < 4 * spread < 30 * spread < 0.6827 - twin


@pytest.mark.slow
def test_several_modes_of_one_direction():
    """y = he_1 - .3 he_3 at D = 12, N = 128, P = 400, s_0 = 40, mean-field scaling: chains give m_1 = .503 ± .011."""
    net = ft.Network(activation="erf", width=128, readout_variance=1.0, weight_variance=1.0, noise_variance=40.0,
                     scaling=ft.Scaling.mean_field())
    found = limit("mean-field", net, "gaussian", {1: 1.0, 3: -0.3}, modes=(5, 7)).solve(12, samples=400)
    assert abs(found.order_parameters[1] - 0.503) < 2 * 0.011
    assert abs(found.order_parameters[7]) < 0.1 * abs(found.order_parameters[3])
    relu = limit("mean-field", NET, "gaussian", 2, modes=(0, 1, 4)).solve(10, 0.01)
    assert abs(relu.order_parameters[1]) < 1e-12 < relu.order_parameters[0]  # even in the direction


@pytest.mark.parametrize("activation, law, order, reason", [
    ("relu", "hypercube", 3, "polynomial of degree 1"), ("relu", "gaussian", 5, "polynomial of degree 1"),
    ("erf", "hypercube", 2, "no even part"), ("tanh", "gaussian", 4, "no even part"),
    ("quadratic", "hypercube", 4, "polynomial of degree 2"), ("identity", "hypercube", 2, "no even part")])
def test_a_task_that_the_activation_cannot_see_is_refused(activation, law, order, reason):
    with pytest.raises(BadInput, match=reason):
        limit("mean-field", NET.replace(activation=activation), law, order)


def test_refusals(parity):
    with pytest.raises(BadInput, match="noise"):
        parity.solve(8)
    with pytest.raises(BadInput, match="noise"):
        parity.solve(8, -1.0)
    with pytest.raises(BadInput, match="input_dim"):
        parity.solve(1, 0.01)
    with pytest.raises(BadInput, match="one parity"):
        limit("mean-field", NET, "hypercube", {2: 1.0, 4: 1.0})
    with pytest.raises(RuleError, match="several order parameters"):
        _ = limit("mean-field", NET, "gaussian", 2, modes=(0,)).slope
    assert "effective nodes" in parity.solve(8, 2e-5, nodes=256).status
