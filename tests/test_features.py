"""Gaussian features: the kernel on data, the rule, and the theories that follow, against witnesses of other means."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.special
import sympy as sp

import fieldtheory as ft
from fieldtheory import featurelaw
from fieldtheory.derivation import Derivation
from fieldtheory.errors import BadInput, NotGaussian, RuleError
from fieldtheory.features import FeatureKernel
from fieldtheory.symbolic.averages import GaussianAverage
from fieldtheory.symbolic.features import CORRELATION, SIGMA_U, SIGMA_V, U, V
from tests.oracles import activation_kernels as oracle

h = sp.Symbol("h", real=True)
EXPRESSION = h + sp.Rational(3, 10) * sp.sin(h)
FUNCTIONS = {"erf": scipy.special.erf, "relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "quadratic": np.square,
             EXPRESSION: lambda x: x + 0.3 * np.sin(x)}
COVARIANCE = [[SIGMA_U**2, SIGMA_U * SIGMA_V * CORRELATION], [SIGMA_U * SIGMA_V * CORRELATION, SIGMA_V**2]]


def kernel(phi: Any) -> FeatureKernel:
    return FeatureKernel(phi(U), GaussianAverage(phi(U) * phi(V), (U, V), COVARIANCE))


def covariance(points: int, seed: int = 0) -> np.ndarray:
    X = np.random.default_rng(seed).standard_normal((points, 4))
    X[1], X[2], X[3] = X[0], -X[0], 0.0  # coincident, opposite, and the origin
    return X @ X.T / 4


@cache
def theory(name: str, activation: Any, loops: int | None = None, bias: float | None = 0) -> ft.Theory:
    net = ft.Network(activation=activation, scaling=ft.Scaling(), bias_variance=bias)
    return ft.theories[name](net) if loops is None else ft.theories[name](net, loops=loops)


def predict(name: str, net: ft.Network, data: ft.Dataset, loops: int | None = None, **options: Any) -> Any:
    return theory(name, net.activation, loops, net.bias_variance).with_network(net).predict(data, **options)


# ------------------------------------------------------------------------------------------- kernels on data


def test_published_kernels_with_coincident_and_vanishing_points() -> None:
    C = covariance(12)
    with np.errstate(invalid="ignore"):
        for phi, expected in ((sp.erf, oracle.arc_sine(C)), (sp.Heaviside, oracle.arc_cosine(0, C)),
                              (lambda x: sp.Max(x, 0), oracle.arc_cosine(1, C)),
                              (lambda x: sp.Max(x, 0)**2, oracle.arc_cosine(2, C))):
            K, _, error = kernel(phi).matrices(C)
            inside = np.isfinite(expected)  # the published forms have 0/0 at the origin
            assert np.abs(K - expected)[inside].max() < 3e-8 * np.abs(K).max() and error == 0.0
            assert np.isfinite(K).all() and np.linalg.eigvalsh(K).min() > -1e-10 * np.abs(K).max()


@pytest.mark.parametrize("phi", [sp.erf, lambda x: x + sp.sin(x) / 3, lambda x: x**3 - x, sp.cos])
def test_the_series_agrees_with_the_closed_form(phi: Any) -> None:
    """Two ways that share no code: Mehler's series by quadrature, and the rules."""
    C = covariance(10)
    whole = kernel(phi)
    series = FeatureKernel(phi(U), whole.average)
    series.__dict__["closed"] = None
    test = (C[:3], np.diag(C)[:3].copy())
    (first, across, _), (second, other, error) = whole.matrices(C, test), series.matrices(C, test)
    scale = np.abs(first).max()
    assert np.abs(first - second).max() < 1e-12 * scale + error and np.abs(across - other).max() < 1e-12 * scale + error
    assert error < 1e-10


def test_without_closed_form_against_brute_quadrature() -> None:
    C = np.array([[0.8, -0.3], [-0.3, 1.7]])
    K, _, error = kernel(sp.tanh).matrices(C)
    z, w = np.polynomial.hermite_e.hermegauss(120)
    L = np.linalg.cholesky(C)
    x = np.stack([g.ravel() for g in np.meshgrid(z, z, indexing="ij")])
    values = np.tanh(L @ x)
    expected = (values * np.outer(w, w).ravel() / (2 * np.pi)) @ values.T
    assert np.abs(K - expected).max() < 1e-9 and error < 1e-10
    kinked, _, bound = kernel(lambda x: sp.Max(x - 1, 0)).matrices(np.array([[1.0, 1.0], [1.0, 1.0]]))
    assert abs(kinked[0, 1] - kinked[0, 0]) <= bound < 1e-3  # at ρ = 1 a kink converges slowly, and it is said


def test_an_average_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadInput, match="activation"):
        kernel(lambda x: sp.exp(x**2)).matrices(np.eye(2))


# ------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize("activation", ["identity", "erf", "relu", sp.tanh(h) - 2 * h])
@pytest.mark.parametrize("bias", [0, 0.5])
def test_the_step_verifies_and_a_wrong_one_does_not(activation: Any, bias: float) -> None:
    S = ft.Network(activation=activation, bias_variance=bias).action().conjugate("f", "output", conjugate="j")
    action = S.gaussian_features("w", projections={"X_*": "F_*"})
    step = action.steps[-1]
    report = Derivation("", "", (step,), {name: S.observe(name) for name in action.quantities}).verify()
    assert report.ok, str(report)
    assert step.exact == (activation == "identity")
    shifted = dataclasses.replace(step.after, expr=step.after.expr + S["P"] / 1000)
    wrong = [dataclasses.replace(step, after=shifted),
             dataclasses.replace(step, push=lambda o: 2 * step.push(o) if "z" in str(step.push(o)) else step.push(o))]
    if not step.exact:
        wrong.append(dataclasses.replace(step, details=dict(step.details) | {"dropped": 2 * step.details["dropped"]}))
    for bad in wrong:
        assert not Derivation("", "", (bad,), {"test_output": S.observe("test_output")}).verify().ok


def test_the_covariance_in_place_of_the_second_moment_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """ReLU features have a mean; that of the readout is zero, and the moment counts."""
    S = ft.Network(activation="relu").action().conjugate("f", "output", conjugate="j")
    step = S.gaussian_features("w").steps[-1]
    assert Derivation("", "", (step,)).verify().ok
    original = featurelaw._features_at

    def centred(step: Any, values: Any, nodes: Any) -> Any:
        phi, data = original(step, values, nodes)
        weights = featurelaw._prior_weights(step, values, nodes)
        return phi - (phi @ weights)[:, None], data

    monkeypatch.setattr(featurelaw, "_features_at", centred)
    report = Derivation("", "", (step,)).verify()
    assert "next coefficient" in {row.quantity for row in report.failures}


def test_what_the_rule_does_not_cover_is_refused_by_name() -> None:
    S = ft.Network(activation="erf").action()
    with pytest.raises(RuleError, match="w"):
        S.gaussian_features("w")                                    # the output enters squared: no conjugate yet
    ard = ft.Network(activation="erf", prior=ft.ARD(4.0)).action().conjugate("f", "output", conjugate="j")
    with pytest.raises(NotGaussian, match="w"):
        ard.gaussian_features("w")
    with pytest.raises(BadInput, match="names"):
        S.conjugate("f", "output", conjugate="j").gaussian_features("w", features="X")
    with pytest.raises(BadInput, match="outputs"):
        net = ft.Network(activation="erf", width=9, readout_variance=1, weight_variance=1, noise_variance=1)
        predict("nngp", net, ft.tasks.ising(4, 5, seed=0), outputs=["hidden_kernel"])


# --------------------------------------------------------------------------------------------- the theories

NUMBERS = dict(readout_variance=1.1, weight_variance=1.3, noise_variance=0.3)


def draw(samples: int = 14, input_dim: int = 5, test: int = 4) -> ft.Dataset:
    rng = np.random.default_rng(3)
    X, X_test = rng.standard_normal((samples, input_dim)), rng.standard_normal((test, input_dim))
    return ft.Dataset(X, np.sign(X[:, 0]) + 0.4 * X[:, 1]**2, X_test)


@pytest.mark.parametrize("loops", [0, 1])
def test_identity_is_the_linear_theory_exactly(loops: int) -> None:
    net, data = ft.Network(width=40, **NUMBERS), draw()
    ours, linear = theory("kernel-rescaling", "identity", loops), ft.theories["linear"](net, loops=loops)
    assert sp.expand(ours.action.expr - linear.action.expr) == 0
    found, expected = ours.with_network(net).predict(data), linear.predict(data)
    assert set(found.data_vars) == set(expected.data_vars)
    assert all(np.array_equal(found[name], expected[name]) for name in expected.data_vars)


@pytest.mark.parametrize("activation", FUNCTIONS, ids=str)
@pytest.mark.parametrize("bias", [0, 0.4])
def test_infinite_width_is_regression_with_the_kernel_of_the_features(activation: Any, bias: float) -> None:
    """Against published kernels (erf, ReLU) and brute quadrature, solved by NumPy."""
    net = ft.Network(activation=activation, width=50, bias_variance=bias, **NUMBERS)
    data = draw()
    points = np.concatenate([data.X, data.X_test])
    C = 1.3 * points @ points.T / 5 + bias
    if activation in ("erf", "relu"):
        K = oracle.arc_sine(C) if activation == "erf" else oracle.arc_cosine(1, C)
    else:
        z = np.linspace(-9, 9, 181)  # the trapezoidal rule: exponentially good for a smooth integrand
        x = np.stack([g.ravel() for g in np.meshgrid(z, z, indexing="ij")])
        weight, K = np.exp(-(x**2).sum(axis=0) / 2) * 0.01 / (2 * np.pi), np.empty_like(C)
        f = FUNCTIONS[activation]
        for i, k in np.ndindex(C.shape):
            slope = C[i, k] / np.sqrt(C[i, i])
            rest = np.sqrt(max(C[k, k] - slope**2, 0.0))
            K[i, k] = (f(np.sqrt(C[i, i]) * x[0]) * f(slope * x[0] + rest * x[1])) @ weight
    P = data.samples
    found = predict("nngp", net, data)
    s = 0.3
    np.testing.assert_allclose(found.mean_output, oracle.wide_network(1.1 * K[:P, :P], data.y, s), atol=1e-6)
    test = oracle.wide_network(1.1 * K[:P, :P], data.y, s, 1.1 * K[P:, :P])
    np.testing.assert_allclose(found.test_output, test, atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_error_is_the_dropped_cumulant_over_the_width(activation: str) -> None:
    """One sample, exactly: N times the error tends to what the dropped term gives, s g² (μ₄ - 3μ₂²) ∂_y(p''''/p)/8.

    p is the Gaussian of variance g μ₂ + s.  With the covariance for the moment the error would not vanish (ReLU).
    """
    x, y, s = np.array([[1.0, 0.5, -1.2]]), 1.7, 0.3
    variance = 1.3 / 3 * float((x**2).sum())
    z, w = np.polynomial.hermite_e.hermegauss(200)
    phi = FUNCTIONS[activation]
    second, fourth = (float(phi(np.sqrt(variance) * np.concatenate([z]))**n @ w) / np.sqrt(2 * np.pi) for n in (2, 4))
    total = 1.1 * second + s
    t = y / np.sqrt(total)
    expected = -s * 1.1**2 * (fourth - 3 * second**2) / 8 * 4 * (t**3 - 3 * t) / total**2.5
    data, errors = ft.Dataset(x, np.array([y])), []
    for N in (400, 800):
        net = ft.Network(activation=activation, width=N, **NUMBERS)
        exact = oracle.one_sample_mean(phi, variance, y, 1.1, s, N)
        errors.append(N * (float(predict("kernel-rescaling", net, data, 2).mean_output[0]) - exact))
    limit = 2 * errors[1] - errors[0]
    assert abs(limit - expected) < 0.02 * abs(expected), (limit, expected)
    if activation == "relu":
        centred = ft.Dataset.from_kernel([[variance * (0.5 - 0.5 / np.pi)]], [y])
        net = ft.Network(width=800, readout_variance=1.1, weight_variance=1.0, noise_variance=0.3)
        wrong = float(ft.theories["linear"](net, loops=1).predict(centred).mean_output[0])
        assert abs(wrong - exact) > 100 * abs(errors[1]) / 800


@pytest.mark.parametrize("activation", ["erf", "relu", "tanh", EXPRESSION], ids=str)
def test_rescaling_tends_to_regression_as_one_over_the_width(activation: Any) -> None:
    data, gaps = draw(), []
    for N in (1000, 4000):
        net = ft.Network(activation=activation, width=N, **NUMBERS)
        rescaled, wide = (predict(name, net, data).mean_output for name in ("kernel-rescaling", "nngp"))
        gaps.append(np.linalg.norm(rescaled - wide))
    assert abs(np.log(gaps[0] / gaps[1]) / np.log(4) - 1) < 0.03


def test_the_gradient_knows_which_kernels_scale() -> None:
    """σ_w² multiplies the kernel of ReLU; that of erf turns with it, and no derivative is made up."""
    for activation, names in (("relu", ["readout_variance", "weight_variance", "noise_variance"]),
                              ("erf", ["readout_variance", "noise_variance"])):
        net = ft.Network(activation=activation, width=60, **NUMBERS)
        found = predict("kernel-rescaling", net, draw(), 2, outputs=["log_evidence_gradient"])
        assert list(found.hyperparameter.values) == names
        for k, name in enumerate(names):
            ends = [float(predict("kernel-rescaling", net.replace(**{name: NUMBERS[name] * (1 + e)}), draw(), 1,
                                  outputs=["log_evidence"]).log_evidence) for e in (1e-4, -1e-4)]
            slope = (ends[0] - ends[1]) / (2e-4 * NUMBERS[name])
            assert abs(float(found.log_evidence_gradient[k]) / slope - 1) < 1e-4


@pytest.mark.slow
def test_chains_of_a_moderately_wide_network() -> None:
    """Within 4 standard errors and a budget of 1.5/N, which the fixed kernel exceeds several times."""
    rng = np.random.default_rng(0)
    X, X_test = rng.standard_normal((8, 5)), rng.standard_normal((4, 5))
    data, N = ft.Dataset(X, 3 * np.sign(X[:, 0]) + 0.3, X_test), 120
    net = ft.Network(activation="erf", width=N, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1)
    samples = ft.sample(net, data, method="hmc", chains=4, draws=4000, seed=5)
    rescaled, wide = (ft.validate(prediction, samples) for prediction in (
        predict("kernel-rescaling", net, data, 2), predict("nngp", net, data)))
    for verdict, kept in ((rescaled, True), (wide, False)):
        for row in verdict.summary():
            if row.observable in ("mean_output_along_itself", "readout_norm"):
                assert row.ess >= 2000
                gap, budget = abs(row.predicted - row.sampled), 1.5 / N * abs(row.sampled) + 4 * row.mcse
                assert (gap <= budget) == kept, row
