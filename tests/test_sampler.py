"""Activations as expressions: compiled, handed to the samplers as functions, and the same chains as by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import sympy as sp

import fieldtheory as ft
from fieldtheory import sampling
from fieldtheory.errors import BadInput
from fieldtheory.sampler import compile_activation
from fieldtheory.sampling import mcse

x = sp.Symbol("x")
# Short steps, for networks of few neurons, which are stiff where their weights are large.
CAREFUL = replace(sampling.METHODS["hmc"], target_acceptance=0.9)
NET = ft.Network(activation="erf", width=4, readout_variance=1.0, weight_variance=1.0, noise_variance=0.3)
DATA = ft.tasks.ising(8, 3, seed=1, test_samples=2)
FEW = {"method": "hmc", "chains": 2, "draws": 30, "warmup": 40, "seed": 3}

EXPRESSIONS = {
    x / (1 + sp.exp(-x)): lambda h: h * scipy.special.expit(h),
    x * (1 + sp.erf(x / sp.sqrt(2))) / 2: lambda h: h * scipy.special.ndtr(h),
    sp.log(1 + sp.exp(x)): lambda h: np.logaddexp(0, h),
    sp.Abs(x): np.abs,
    sp.Max(x, x / 10): lambda h: np.maximum(h, h / 10),
    sp.sin(x) + x**3 / 6: lambda h: np.sin(h) + h**3 / 6,
    sp.Piecewise((x, x > 0), (sp.exp(x) - 1, True)): lambda h: np.where(h > 0, h, np.expm1(np.minimum(h, 0))),
}


def output(samples: object) -> np.ndarray:
    return samples["posterior"]["output"].values


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
def test_value_and_derivative(expression: sp.Expr) -> None:
    plain = EXPRESSIONS[expression]
    value, slope = compile_activation(expression.xreplace({x: sp.Symbol("h", real=True)}))
    for h in (-2.3, -0.4, 0.7, 3.1):
        assert value(h) == pytest.approx(plain(h), rel=1e-13)
        assert slope(h) == pytest.approx((plain(h + 1e-5) - plain(h - 1e-5)) / 2e-5, rel=1e-8)


def test_an_expression_is_the_function_it_writes() -> None:
    """By name where it has one, bit by bit; else as NumPy evaluates it."""
    by_name = output(ft.sample(NET, DATA, **FEW))
    assert np.array_equal(output(ft.sample(NET.replace(activation=sp.erf(x)), DATA, **FEW)), by_name)
    a, w = np.ones(4), np.arange(12.0).reshape(4, 3) / 10
    still = {**FEW, "draws": 1, "warmup": 0, "step": 1e-9, "initial": (a, w)}
    found = output(ft.sample(NET.replace(activation=1 - sp.erf(x)), DATA, **still))[0, 0]
    assert found == pytest.approx(a @ (1 - scipy.special.erf(w @ DATA.X.T)), abs=1e-5)


def test_the_name_of_the_symbol_does_not_matter() -> None:
    first, second = (output(ft.sample(NET.replace(activation=s * sp.tanh(s)), DATA, **FEW))
                     for s in (x, sp.Symbol("anything", positive=True)))
    assert np.array_equal(first, second)


def test_a_pair_of_functions_is_passed_on() -> None:
    class Opaque:
        __bool__ = None

    pair = (lambda h: np.tanh(h), lambda h: 1 - np.tanh(h) ** 2)
    given = ft.sample(NET.replace(activation=Opaque()), DATA, activation_functions=pair, **FEW)
    direct = sampling.sample(NET.replace(activation=Opaque()), DATA, activation_functions=pair, **FEW)
    assert np.array_equal(output(given), output(direct))


def test_the_posterior_of_an_expression() -> None:
    """One neuron, φ = x tanh x, by quadrature over a and w."""
    net = NET.replace(activation=x * sp.tanh(x), width=1)
    data = ft.Dataset([[1.0], [-0.5]], [0.8, 0.1])
    t = np.linspace(-9, 9, 1201)
    a, w = t[:, None], t[None, :]
    f = [a * (h * w) * np.tanh(h * w) for h in (1.0, -0.5)]
    logs = -(a**2 + w**2) / 2 - sum((g - y) ** 2 for g, y in zip(f, (0.8, 0.1))) / 0.6
    p = np.exp(logs)
    expected = [float((p * g).sum() / p.sum()) for g in f]
    drawn = output(ft.sample(net, data, method=CAREFUL, chains=4, draws=3000, seed=5))
    z = (drawn.mean(axis=(0, 1)) - expected) / mcse(drawn)
    assert sampling.ess(drawn).min() > 800
    assert np.abs(z).max() < 4.5, z
    wrong = np.array([float((p * abs(g)).sum() / p.sum()) for g in f]) * 1.1
    assert np.abs((drawn.mean(axis=(0, 1)) - wrong) / mcse(drawn)).max() > 4.5


@pytest.mark.parametrize("activation", [sp.sign(x), sp.floor(x), x * sp.Symbol("c"), sp.Integer(2), sp.zeta(x),
                                        sp.Function("f")(x), pytest.param(object(), id="object")], ids=str)
def test_expressions_that_cannot_be_sampled(activation: object) -> None:
    with pytest.raises(BadInput, match=r"^activation"):
        ft.sample(NET.replace(activation=activation), DATA, **FEW)


# ------------------------------------------------------------------------------------------- biases and relevance


def test_biases_and_given_starts() -> None:
    """a φ(w.x + b) at the start, also where inputs are rotated into their span."""
    rng = np.random.default_rng(0)
    net = NET.replace(bias_variance=0.7)
    for data in (DATA, ft.tasks.ising(2, 7, seed=2, test_samples=1)):
        D = data.input_dim
        a, w, b = rng.normal(size=4), rng.normal(size=(4, D)), rng.normal(size=4)
        drawn = ft.sample(net, data, initial=(a, w, b), directions=np.eye(D), step=1e-9, warmup=0, chains=1, draws=1,
                          method="hmc")["posterior"]
        h, h_test = w @ data.X.T + b[:, None], w @ data.X_test.T + b[:, None]
        assert drawn["output"].values[0, 0] == pytest.approx(a @ scipy.special.erf(h), abs=1e-6)
        assert drawn["test_output"].values[0, 0] == pytest.approx(a @ scipy.special.erf(h_test), abs=1e-6)
        assert drawn["direction_overlap"].values[0, 0] == pytest.approx((w**2).mean(axis=0), abs=1e-6)
        overlap = ((h @ data.y) ** 2).mean() / (data.y @ data.y)
        assert drawn["hidden_kernel_overlap"].values[0, 0] == pytest.approx(overlap, abs=1e-6)
    with pytest.raises(BadInput, match=r"^initial: got .*\(a, w, b\) of shapes"):
        ft.sample(net, DATA, initial=(np.ones(4), np.ones((4, 3))), **FEW)


@pytest.mark.parametrize("data", [ft.tasks.ising(6, 3, seed=1, test_samples=2), ft.tasks.ising(3, 9, seed=2)],
                         ids=["tall", "wide"])
def test_biases_of_a_linear_network(data: ft.Dataset) -> None:
    """Against the exact oracle, where inputs are rotated into their span and where they are not."""
    net = NET.replace(activation="identity", bias_variance=0.8)
    samples = ft.sample(net, data, method=CAREFUL, chains=4, draws=2000, seed=4)
    assert ft.diagnose(samples), ft.diagnose(samples).verdict
    verdict = ft.validate(ft.exact.linear(net, data), samples)
    assert verdict.ok, verdict
    assert ft.validate(ft.exact.linear(net.replace(bias_variance=0), data), samples).status == "rejected"


def test_many_pseudo_observations_are_the_fixed_prior() -> None:
    """ARD with α0 → ∞ at β0 = α0 σ_w²/D; with another rate it is another posterior."""
    fixed = NET.replace(activation="identity")
    data = ft.tasks.ising(10, 4, seed=3)
    prediction = ft.exact.linear(fixed, data)
    options = {"method": CAREFUL, "chains": 4, "draws": 4000, "seed": 4}
    close = ft.sample(fixed.replace(prior=ft.ARD(1e6)), data, **options)
    assert ft.validate(prediction, close).ok, ft.validate(prediction, close)
    given = ft.sample(fixed.replace(prior=ft.ARD(1e6, 1e6 / 4), weight_variance=None), data, **options)
    assert np.array_equal(output(given), output(close))
    other = ft.sample(fixed.replace(prior=ft.ARD(2, 8 / 4)), data, **options)
    assert ft.validate(prediction, other).status == "rejected"


@pytest.mark.parametrize(("change", "argument"), [
    ({"bias_variance": None}, "bias_variance"), ({"weight_variance": None}, "weight_variance"),
    ({"prior": ft.ARD(2), "weight_variance": None}, "weight_variance"), ({"noise_variance": None}, "noise_variance")])
def test_symbols_cannot_be_sampled(change: dict, argument: str) -> None:
    with pytest.raises(BadInput, match=f"^{argument}: got None"):
        ft.sample(NET.replace(**change), DATA, **FEW)


def test_relevance_needs_inputs() -> None:
    with pytest.raises(BadInput, match=r"^data: got a kernel; expected inputs X"):
        ft.sample(NET.replace(prior=ft.ARD(2)), ft.Dataset.from_kernel(np.eye(3), np.ones(3)), **FEW)
