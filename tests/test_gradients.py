"""The gradient that the samplers follow, written by hand, against that of the symbolic microscopic action, compiled.

They have nothing in common but the definition of the network: one is the witness of the other, to rounding.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import sympy as sp
from scipy.special import polygamma

from fieldtheory.compile import Kernel
from fieldtheory.dataset import Dataset
from fieldtheory.network import ARD, Network, Scaling
from fieldtheory.predictor import call, compile_expressions
from fieldtheory.sampler import compile_activation
from fieldtheory.sampling import Posterior
from fieldtheory.sampling.weights import _Inputs
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, entries, vary

N, D, P = 4, 2, 5
NUMBERS = dict(width=N, readout_variance=1.3, weight_variance=0.8, noise_variance=0.4, scaling=Scaling(1.5, 0.5))
SWISH = (lambda x: x / (1 + sp.exp(-x)))(sp.Symbol("x"))


def weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=N), "w": rng.normal(size=(N, D)), "b": rng.normal(size=N),
            "lambda": rng.gamma(3.0, size=D), "X": rng.normal(size=(P, D)), "y": rng.normal(size=P)}


def spelled_out(expr: sp.Expr, space: Space, size: int) -> sp.Expr:
    """Sums over a space written term by term, its fields as one field for each index: kernels hold no matrices."""
    if isinstance(expr, SpaceSum) and expr.space == space:
        return sp.Add(*(at(spelled_out(expr.body, space, size), space, k) for k in range(size)))
    if not expr.args or isinstance(expr, Entry):
        return expr
    return expr.func(*(spelled_out(arg, space, size) if isinstance(arg, sp.Expr) else arg for arg in expr.args))


def at(expr: sp.Expr, space: Space, k: int) -> sp.Expr:
    return expr.xreplace({entry: component(entry, space, k) for entry in entries(expr) if space in entry.spaces})


def component(entry: Entry, space: Space, k: int) -> Entry | sp.Symbol:
    left = tuple(other for other in entry.spaces if other != space)
    return Entry(f"{entry.name}_{k}", entry.domain, left) if left else sp.Symbol(f"{entry.name}_{k}", positive=True)


@cache
def compiled(options: tuple[tuple[str, object], ...]) -> Kernel:
    """The action and its gradient in each field, input by input where the field lives on inputs: w_0, w_1, ..."""
    S = Network(**dict(options)).action()
    inputs = S.space("input")
    expr = spelled_out(S.expr, inputs, D)
    wanted = {"S": expr}
    for field in S.fields:
        parts = [component(field, inputs, k) for k in range(D)] if inputs in field.spaces else [field]
        wanted |= {part.name: vary(expr, part) for part in parts}
    return compile_expressions(wanted, "gradient")


def symbolic(net: Network, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """S and its gradient in each field, compiled from the microscopic action and evaluated."""
    numbers = {"N": float(N), "D": float(D), "P": float(P), "g": net.effective_readout_variance(),
               "s": net.effective_noise_variance(), "sigma_w^2": net.weight_variance}
    if net.has_bias:
        numbers["sigma_b^2"] = net.bias_variance
    if net.has_ard:
        numbers |= dict(zip(("alpha_0", "beta_0"), net.precision_prior(D), strict=True))
    columns = {f"{name}_{k}": values[name].T[k] for name in ("w", "X", "lambda") for k in range(D)}
    numbers |= {name: values[name] for name in ("a", "b", "y")} | columns
    options = {name: getattr(net, name) for name in ("activation", "bias_variance", "prior")}
    found = call(compiled(tuple(options.items())), numbers)
    for name in ("w", "lambda"):
        if f"{name}_0" in found:
            found[name] = np.stack([found[f"{name}_{k}"] for k in range(D)], axis=-1)
    return found


def by_hand(net: Network, values: dict[str, np.ndarray]) -> tuple[Posterior, np.ndarray, np.ndarray, float, float]:
    """The posterior, the whitened position of the weights, U and its gradient there, and the width of a bias."""
    inputs = _Inputs.of(net, Dataset(values["X"], values["y"]), None)
    functions = None if isinstance(net.activation, str) else compile_activation(net.activation)
    posterior = Posterior(
        width=N, readout_prior_variance=net.readout_prior_variance(), noise_variance=net.effective_noise_variance(),
        weight_prior_variance=inputs.weight_prior_variance, X=inputs.X, y=values["y"], activation=net.activation,
        activation_functions=functions, precision_prior=inputs.precision_prior, relevant=D)
    hidden = values["w"]
    if net.has_bias:
        hidden = np.column_stack([hidden, values["b"] / inputs.bias_input])
    position = posterior.whiten(values["a"], hidden, values["lambda"] if net.has_ard else None)
    gradient = np.empty_like(position)
    energy = posterior.energy()(position, gradient)
    return posterior, position, gradient, energy, inputs.bias_input


def disagreement(net: Network, seed: int = 0) -> float:
    """The largest difference of the gradients in the weights themselves, in units of the gradients' size."""
    values = weights(seed)
    expected = symbolic(net, values)
    posterior, _, gradient, _, constant = by_hand(net, values)
    sigma, tau = np.sqrt(posterior.readout_prior_variance), np.sqrt(posterior.weight_prior_variance)
    hidden = gradient[N : posterior.size - posterior.precisions].reshape(N, -1)
    pairs = {"a": gradient[:N] / sigma, "w": hidden[:, :D] / tau}
    if net.has_ard:
        # The density of v at fixed omega = w sqrt(λ) is that of λ at fixed w times λ^(1 - N/2), and dw/dv = t w.
        lam, w = values["lambda"], values["w"]
        t = np.sqrt(polygamma(1, net.precision_prior(D)[0])) / 2
        pairs["w"] = hidden[:, :D] * np.sqrt(lam)
        pull = gradient[posterior.size - D :] / t - (pairs["w"] * w).sum(axis=0)
        pairs["lambda"] = (pull + N - 2) / (-2 * lam)
    if net.has_bias:
        pairs["b"] = hidden[:, D] / (tau * constant)
    return max(float(np.max(np.abs(found - expected[name])) / np.max(np.abs(expected[name])))
               for name, found in pairs.items())


@pytest.mark.parametrize(("activation", "bias"), [
    ("erf", 0), *((name, 0.7) for name in ("identity", "erf", "tanh", "relu", "quadratic", SWISH))], ids=str)
def test_the_gradient_by_hand_is_that_of_the_action(activation: object, bias: float) -> None:
    net = Network(activation=activation, bias_variance=bias, **NUMBERS)
    assert max(disagreement(net, seed) for seed in range(3)) < 1e-12


@pytest.mark.parametrize("options", [{"prior": ARD(2.5, 1.7)}, {"prior": ARD(3), "bias_variance": 0.7}], ids=str)
@pytest.mark.parametrize("activation", ["identity", "erf"])
def test_the_gradient_with_the_precisions(activation: str, options: dict) -> None:
    net = Network(activation=activation, **NUMBERS, **options)
    assert max(disagreement(net, seed) for seed in range(3)) < 1e-12


def test_another_shape_is_another_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Network(activation="erf", prior=ARD(2.5, 1.7), **NUMBERS)
    monkeypatch.setattr(Network, "precision_prior", lambda *_: (2.5001, 1.7))
    monkeypatch.setattr("tests.test_gradients._Inputs.of", lambda *args, of=_Inputs.of: replace(
        of(*args), precision_prior=(2.5, 1.7)))
    assert disagreement(net) > 1e-6


def test_a_bias_of_another_variance_is_another_action(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Network(activation="erf", bias_variance=0.7, **NUMBERS)
    monkeypatch.setattr("tests.test_gradients.symbolic", lambda _, values, f=symbolic: f(
        net.replace(bias_variance=0.7001), values))
    assert disagreement(net) > 1e-6


@pytest.mark.parametrize(("activation", "bias"), [("erf", 0), ("erf", 0.7), ("identity", 0.7)])
def test_energies_differ_by_a_constant(activation: str, bias: float) -> None:
    """U = S + const, the constant being the log of the priors' norms."""
    net = Network(activation=activation, bias_variance=bias, **NUMBERS)
    differences = []
    for seed in range(3):
        values = weights(seed)
        differences.append(symbolic(net, values)["S"] - by_hand(net, values)[3])
    assert np.ptp(differences) < 1e-11 * max(1.0, abs(differences[0]))
    s, logs = net.effective_noise_variance(), np.log([net.readout_prior_variance(), net.weight_variance / D])
    expected = P * np.log(2 * np.pi * s) + N * (logs[0] + np.log(2 * np.pi)) + N * D * (logs[1] + np.log(2 * np.pi))
    if bias:
        expected += N * np.log(2 * np.pi * bias)
    assert differences[0] == pytest.approx(expected / 2, rel=1e-11)
