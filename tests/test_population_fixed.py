"""The fixed and the rescaled kernel in the population limit, against data that are the whole law and against grids."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

import fieldtheory as ft
from fieldtheory.errors import BadInput
from fieldtheory.population.spectra import operator_spectrum
from fieldtheory.stepchecks import check_step
from tests.populations import limit

H = sp.Symbol("h", real=True)
KINDS = ("nngp", "kernel-rescaling")


def network(activation: object) -> ft.Network:
    return ft.Network(activation=activation, width=20, readout_variance=1.3, weight_variance=0.8, noise_variance=1.0)


@cache
def theory(name: str, activation: object, law: str = "hypercube", target: object = 2):
    wanted = dict(target) if isinstance(target, tuple) else target
    return limit(name, network(activation), law, wanted)


@cache
def on_data(name: str, activation: str):
    return ft.theories[name](network(activation))


@pytest.mark.parametrize(("name", "activation", "k"), [("nngp", "relu", 2), ("kernel-rescaling", "tanh", 3)])
@settings(max_examples=4, deadline=None)
@given(D=st.integers(4, 6), s=st.floats(0.05, 5.0))
def test_every_corner_of_the_cube_once_is_the_population(name, activation, k, D, s):
    X = np.array(list(product((-1.0, 1.0), repeat=D)))
    y = X[:, :k].prod(axis=1)
    noisy = on_data(name, activation).with_network(network(activation).replace(noise_variance=s))
    found = noisy.predict(ft.Dataset(X, y), outputs=["mean_output"])
    solution = theory(name, activation, target=k).solve(D, noise=s / 2**D)
    assert abs(solution.m - float(found.mean_output.values @ y) / 2**D) < 1e-9
    assert abs(solution.test_error - float(((found.mean_output.values - y)**2).mean())) < 1e-9


def grid(D: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    points = np.array(list(product(nodes, repeat=D)))
    return points, np.array([np.prod(w) for w in product(weights / weights.sum(), repeat=D)])


CUBIC = H + H**2 / 2 - H**3 / 5
TARGETS = {((1, 1.0), (3, -0.4)): lambda x: x[:, 0] - 0.4 * (x[:, 0]**3 - 3 * x[:, 0]) / np.sqrt(6),
           ((2, 1.0),): lambda x: (x[:, 0]**2 - 1) / np.sqrt(2),
           (((1, 1), 1.0), ((2, 0), 0.5)): lambda x: x[:, 0] * x[:, 1] + 0.5 * (x[:, 0]**2 - 1) / np.sqrt(2),
           (((1, 2), 1.0),): lambda x: x[:, 0] * (x[:, 1]**2 - 1) / np.sqrt(2)}


@pytest.mark.parametrize(("target", "D"), list(zip(TARGETS, (3, 2, 2, 3), strict=True)), ids=str)
def test_gaussian_inputs_against_the_operator_on_a_grid(target, D):
    """A cubic activation, so that a grid of inputs and one of weights are exact; nothing is split into sectors."""
    x, p = grid(D, 7)
    w, q = grid(D, 5)
    phi = sp.lambdify(H, CUBIC)(x @ w.T * np.sqrt(0.8 / D))
    root = np.sqrt(p)
    K = root[:, None] * ((phi * q) @ phi.T) * root
    y = root * TARGETS[target](x)
    eigenvalues, basis = np.linalg.eigh(K)
    squares = (basis.T @ y)**2
    spectrum = operator_spectrum("gaussian", CUBIC.xreplace({H: sp.Symbol("u", real=True)}), 0.8, D, dict(target))
    g, s, N = 1.3, 0.07, 20
    for scale in (g, 0.4 * g):
        direct = 1 / (1 + scale * eigenvalues / s)
        sectors = 1 / (1 + scale * spectrum.eigenvalues / s)
        assert np.isclose(squares @ direct**2, spectrum.target**2 @ sectors**2, rtol=1e-9)
        assert np.isclose(np.log(direct).sum(), np.log(sectors).sum(), rtol=1e-9)
    ridge = theory("nngp", CUBIC, "gaussian", target).solve(D, noise=s)
    assert np.isclose(ridge.test_error, squares @ (s / (g * eigenvalues + s))**2, rtol=1e-8)
    f = basis @ ((basis.T @ y) * g * eigenvalues / (g * eigenvalues + s))
    modes = {key: TARGETS[((key, 1.0),)](x) for key, _ in target if ((key, 1.0),) in TARGETS}
    for key, e in modes.items():
        assert np.isclose(ridge.order_parameters[key], f @ (root * e), rtol=1e-8)

    def state(Q: float) -> float:
        A = 1 / (Q * eigenvalues + s)
        return float(1 - g / Q - g / N * (squares @ (A**2 * eigenvalues) - (A * eigenvalues).sum()))

    rescaled = theory("kernel-rescaling", CUBIC, "gaussian", target)
    values = {"kappa": spectrum.eigenvalues, "y": spectrum.target, "hbar": 1.0, "N": 20.0, "g": g, "s": s, "P": 1.0}
    best, _ = rescaled._predictor.state(values)
    assert np.isclose(best.values["Q"], brentq(state, 0.05 * g, 20 * g, xtol=1e-14), rtol=1e-9)


def test_what_is_left_out_counts_by_its_trace():
    whole = operator_spectrum("hypercube", sp.Max(sp.Symbol("u", real=True), 0), 1.0, 12, {2: 1.0})
    assert whole.rest < 1e-12
    assert np.isclose(whole.eigenvalues.sum(), 0.5)  # E φ² of a ReLU
    many = operator_spectrum("hypercube", sp.Max(sp.Symbol("u", real=True), 0), 1.0, 30, {2: 1.0})
    assert np.isclose(many.eigenvalues.sum(), 0.5) and 0 < many.largest_rest < 1e-5


@pytest.mark.parametrize("name", KINDS)
def test_the_derivation_verifies_itself_and_a_damaged_one_does_not(name):
    derived = theory(name, "erf", "gaussian", ((1, 1.0),)).derivation
    assert derived.verify().ok
    step = next(step for step in derived.steps if step.rule == "integral_operator")
    kappa = next(e for e in step.after.expr.atoms(ft.Entry) if e.name == "kappa")
    damaged = replace(step, after=replace(step.after, expr=step.after.expr.xreplace({kappa: 2 * kappa})))
    results = check_step(damaged, {}, np.random.default_rng(0), frozenset(step.after.expr.free_symbols))
    assert not all(result.ok for result in results)


def test_what_cannot_be_seen_or_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="no odd part"):
        limit("nngp", network(H**2), "gaussian", {3: 1.0})
    with pytest.raises(BadInput, match="input_dim"):
        theory("nngp", "relu", target=2).solve(1, noise=0.1)
    with pytest.raises(BadInput, match="noise"):
        theory("nngp", "relu", target=2).solve(4)
