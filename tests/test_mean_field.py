"""Mean-field and collapsed mean-field theory against brute force on tiny networks, limits, and a reference table."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.special
import sympy as sp

import fieldtheory as ft
from fieldtheory.derivation import Derivation
from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.numerics import evaluate
from fieldtheory.onesite.batches import Batch
from fieldtheory.onesite.particles import Coordinates, Particles
from fieldtheory.onesite.prediction import effective_samples
from fieldtheory.symbolic import sites
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, entries
from fieldtheory.symbolic.rules import FieldAction
from tests.oracles import one_neuron as oracle

THEORIES = ("mean-field", "collapsed-mean-field")
FUNCTIONS = {"erf": scipy.special.erf, "identity": lambda h: h, "relu": lambda h: np.maximum(h, 0.0),
             sp.tanh(sp.Symbol("h")) + sp.Symbol("h")**2 / 5: lambda h: np.tanh(h) + h**2 / 5}
NET = ft.Network(width=3, readout_variance=1.5, weight_variance=0.8, noise_variance=0.3)
X, Y, X_TEST = np.array([0.7, -1.3]), np.array([0.8, 0.5]), np.array([0.2, 2.0])
TINY = ft.Dataset(X[:, None], Y, X_TEST[:, None], np.ones(2))


@cache
def theory(name: str, activation: Any, bias: float = 0) -> ft.Theory:
    return ft.theories[name](ft.Network(activation=activation, scaling=ft.Scaling(), bias_variance=bias))


def predict(name: str, net: ft.Network, data: ft.Dataset, **options: Any) -> Any:
    return theory(name, net.activation, float(net.bias_variance or 0)).with_network(net).predict(data, **options)


# ------------------------------------------------------------------------------------------------ derivations


@pytest.mark.parametrize("bias", [0, 1])
@pytest.mark.parametrize("name", THEORIES)
def test_every_step_is_verified(name: str, bias: float) -> None:
    report = theory(name, "relu", bias).derivation.verify(seed=3)
    assert report.ok, str(report)
    assert {row.quantity for row in report.rows} >= ({"F stationary", "-ln Z below F", "S of one site"}
                                                     if name == "mean-field" else {"S, the others' form given"})


def test_the_rule_finds_cavity_factor_and_self_term() -> None:
    S = ft.Network(activation="erf").action()
    one = S.decouple("site", "m")
    N, s, m = S["N"], S["s"], one["m"]
    feature = SpaceSum(S["X"] * Entry("w", "real", (S.space("input"),)), S.space("input"))
    output = Entry("a", "real") * sp.erf(feature)
    expected = SpaceSum(output**2 / (2 * s) - output * (S["y"] - (1 - 1 / N) * m) / s, S.space("sample"))
    rest = sp.expand(one.expr - expected)
    coupled = [term for term in sp.Add.make_args(rest) if term.has(sp.erf)]
    assert coupled == []
    assert one.last["order_parameters"] == sp.Dict({m: N * output})


def _damaged(name: str, old: sp.Expr, new: sp.Expr) -> Derivation:
    """The derivation with one thing replaced in what the rule of this name leaves."""
    derivation = theory(name, "relu").derivation
    (k,) = (k for k, step in enumerate(derivation.steps) if step.rule in ("decouple", "cavity"))
    step = derivation.steps[k]
    after = step.after.replace_expr(step.after.expr.xreplace({old: new}))
    assert after.expr != step.after.expr
    return dataclasses.replace(derivation, steps=(dataclasses.replace(step, after=after),))


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_a_wrong_one_site_action_is_caught() -> None:
    m = theory("mean-field", "relu").action["m"]
    N = theory("mean-field", "relu").action["N"]
    for old, new in ((m, m * N / (N - 1)), (m, 1.01 * m)):  # no cavity factor; a wrong average field
        report = _damaged("mean-field", old, new).verify(seed=1)
        assert any("F" in row.quantity for row in report.failures), str(report)
    S = theory("mean-field", "relu").action.steps[0]
    (self_term,) = (node for node in S.after.expr.atoms(SpaceSum)
                    if node.body.has(sp.Max) and not node.atoms(Entry) & {m, S.after.find("a")} and node.body.is_Pow)
    assert not _damaged("mean-field", self_term, sp.S.Zero).verify(seed=1).ok
    kappa = theory("collapsed-mean-field", "relu").action["kappa"]
    assert not _damaged("collapsed-mean-field", kappa, 2 * kappa).verify(seed=1).ok


def test_the_rule_on_another_action_finds_every_order_parameter() -> None:
    """A cubic coupling of sites, whose one-site law needs ⟨x⟩ and ⟨x²⟩: the free energy is checked like any other."""
    N, g = sp.Symbol("N", positive=True), sp.Symbol("g", positive=True)
    site = Space("site", N)
    x = Entry("x", "real", (site,))
    M = SpaceSum(x, site)
    action = FieldAction(SpaceSum(x**4, site) + g * M**3 / 3 + M**2 / 5, (x,))
    with pytest.raises(BadInput, match=r"<x>; N <x\*\*2>"):
        sites.decouple(action, site, ["m"])
    step = sites.decouple(action, site, ["m", "q"])
    report = Derivation("cubic", "", (step,), observables={"M": M, "M squared": M**2}).verify(seed=0)
    assert report.ok, str(report)


def test_what_the_rules_cannot_do_is_refused() -> None:
    S = ft.Network(activation="erf").action()
    with pytest.raises(RuleError, match="is shared by the sites"):
        S.conjugate("f", "output", conjugate="j").decouple("site", "m")
    with pytest.raises(BadInput, match="order parameter"):
        S.decouple("site")
    N = sp.Symbol("N", positive=True)
    site = Space("site", N)
    x = Entry("x", "real", (site,))
    with pytest.raises(RuleError, match="polynomial"):
        sites.decouple(FieldAction(sp.exp(SpaceSum(x, site)) + SpaceSum(x**2, site), (x,)), site, ["m"])
    with pytest.raises(RuleError, match="besides those of site"):
        S.conjugate("f", "output", conjugate="j").cavity("site", "j")
    with pytest.raises(BadInput, match="prior"):
        ft.theories["mean-field"](ft.Network(activation="relu", prior=ft.ARD(2.0)))


# ------------------------------------------------------------------------------------------- tiny, by brute force


@pytest.mark.parametrize("activation", FUNCTIONS, ids=str)
def test_mean_field_is_the_best_product_law(activation: Any) -> None:
    net, phi = NET.replace(activation=activation), FUNCTIONS[activation]
    found = predict("mean-field", net, TINY)
    A = 3 / 1.5
    expected, bound = oracle.mean_field(X, Y, 3, A, 0.8, 0.3, phi)
    assert np.abs(found.mean_output - expected).max() < 1e-9
    assert abs(found.log_evidence_bound - bound) < 1e-9
    assert found.attrs["status"] == "converged" and found.attrs["residual"] < 1e-10
    for twin in ({"cavity": 1.0}, {"self_term": False}):
        wrong, _ = oracle.mean_field(X, Y, 3, A, 0.8, 0.3, phi, **twin)  # type: ignore[arg-type]
        assert np.abs(found.mean_output - wrong).max() > 1e-3


@pytest.mark.parametrize("activation", FUNCTIONS, ids=str)
@pytest.mark.parametrize("name", THEORIES)
def test_one_neuron_is_exact(name: str, activation: Any) -> None:
    """No other sites: nothing is approximated."""
    found = predict(name, NET.replace(activation=activation, width=1), TINY)
    mean, test = oracle.exact_one_neuron(X, Y, 1 / 1.5, 0.8, 0.3, FUNCTIONS[activation], X_TEST)
    assert np.abs(found.mean_output - mean).max() < 1e-9
    assert np.abs(found.test_output - test).max() < 1e-9


@pytest.mark.parametrize("name", THEORIES)
def test_infinite_width_is_kernel_regression(name: str) -> None:
    """At γ = 1 both tend to regression with the fixed kernel, with an error that falls as 1/N."""
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(5, 2))
    data = ft.Dataset(inputs, np.tanh(inputs[:, 0] - inputs[:, 1]) + 0.3, rng.normal(size=(3, 2)))
    net = NET.replace(activation="erf", weight_variance=2.0)
    limit = ft.theories["nngp"](net).predict(data, width=10)
    errors = []
    for width in (300, 3000):
        found = predict(name, net, data, width=width)
        errors.append([float(np.abs(found[key] - limit[key]).max()) for key in ("mean_output", "test_output")])
    assert np.all(np.abs(np.log10(np.array(errors[0]) / errors[1]) - 1) < 0.05)


# ------------------------------------------------------------------------------------------------- particles


def test_particles_sample_the_law_that_quadrature_integrates() -> None:
    """The same equations solved by particles: two-sided z on every output, and a wrong energy that fails."""
    net = NET.replace(activation="erf", width=5)
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(4, 2))
    data = ft.Dataset(inputs, inputs[:, 0] + 0.5)
    predictor = theory("mean-field", "erf")._site_predictor
    environment, values = predictor.environment(False), predictor.values(net, data, None)
    exact = environment.on_grid(values)
    sampler = Particles(environment.coordinates(values), 400, np.random.SeedSequence(5))
    bound = environment.dynamics.bind(values | exact.environment)
    for _ in range(30):
        sampler.update(bound)
    sampler.adapting = False
    statics, kernels = environment.statics.bind(values), []
    for _ in range(60):
        sampler.update(bound)
        kernels.append(environment.averages(sampler.fields, sampler.weights, statics)["environment"])
    target = environment.averages(exact.sampler.fields, exact.sampler.weights, statics)["environment"]
    assert effective_samples(np.array(sampler.energies)) > 2000
    blocks = np.array(kernels).reshape(10, 6, *target.shape).mean(axis=1)
    z = (blocks.mean(axis=0) - target) / (blocks.std(axis=0, ddof=1) / np.sqrt(10))
    assert np.abs(z).max() < 5  # sixteen correlated entries, nine degrees of freedom
    prior = environment.averages(sampler.fields, sampler.weights, statics)["environment"]
    exact.sampler.start(exact.sampler.log_volume - (exact.sampler.points**2).sum(axis=1) / 2)  # type: ignore[union-attr]
    prior = environment.averages(exact.sampler.fields, exact.sampler.weights, statics)["environment"]
    wrong = (blocks.mean(axis=0) - prior) / (blocks.std(axis=0, ddof=1) / np.sqrt(10))
    assert np.abs(wrong).max() > 8


def test_effective_samples_of_an_autoregression() -> None:
    rng = np.random.default_rng(0)
    x = np.zeros((400, 300))
    for t in range(1, 400):
        x[t] = 0.8 * x[t - 1] + 0.6 * rng.standard_normal(300)
    assert effective_samples(x[50:]) == pytest.approx(350 * 300 / 9, rel=0.15)  # (1 + ρ)/(1 - ρ) = 9


@pytest.mark.parametrize("name", THEORIES)
def test_plans_equal_the_expressions(name: str) -> None:
    closure = theory(name, "relu", 1)._site_predictor.closure
    rng = np.random.default_rng(2)
    outputs = {"energy": closure.action.expr, **{f.name: g for f, g in closure.gradients.items()}}
    sizes = {"P": 5, "D": 3}
    values: dict[Any, Any] = {}
    for expr in outputs.values():
        for entry in entries(expr):
            shape = tuple(sizes[str(space.size)] for space in entry.spaces)
            if entry not in values:
                values[entry] = rng.uniform(0.5, 1.5, shape) if entry.domain == "spectrum" else rng.normal(size=shape)
        values |= {symbol: sizes.get(symbol.name, 1.3) for symbol in expr.free_symbols}
        values |= {space.size: sizes[str(space.size)] for space in expr.atoms(Space) if str(space.size) in sizes}
    moving = {f: rng.normal(size=(4, *np.shape(values[f]))) for f in closure.fields}
    given = {getattr(key, "name", str(key)): value for key, value in values.items()}
    found = Batch(outputs, closure.fields).bind(given)(list(moving.values()))
    at = values | {f: np.moveaxis(array, 0, -1) for f, array in moving.items()}
    for label, expr in outputs.items():
        expected = np.moveaxis(np.asarray(evaluate(expr, at)), -1, 0)
        np.testing.assert_allclose(found[label], expected, rtol=1e-10, atol=1e-10)


def test_plans_of_sums_that_can_be_taken_in_either_order_end() -> None:
    """Σ_k c_k B Σ_μ V_μk f_μ with everything but V moving: neither order is better, and swapping must not go on."""
    mode, sample, inputs = (Space(name, sp.Symbol(size, positive=True)) for name, size in
                            (("mode", "K"), ("sample", "P"), ("input", "D")))
    V = Entry("V", "data", (sample, mode))
    c, f, w = (Entry(name, "real", (space,)) for name, space in (("c", mode), ("f", sample), ("w", inputs)))
    rng = np.random.default_rng(4)
    given, arrays = rng.normal(size=(3, 2)), [rng.normal(size=(5, n)) for n in (2, 3, 4)]
    coupled = np.einsum("nk,mk,nm->n", arrays[0], given, arrays[1])
    norm, size = (arrays[2]**2).sum(axis=1), (arrays[1]**2).sum(axis=1)
    for factor, value in ((SpaceSum(w**2, inputs), norm), (SpaceSum(w**2, inputs)**2, norm**2),
                          (SpaceSum(f**2, sample), size), (SpaceSum(c, mode), arrays[0].sum(axis=1))):
        expr = SpaceSum(c * factor * SpaceSum(V * f, sample), mode)
        found = Batch({"one": expr, "open": SpaceSum(c * SpaceSum(V * f * w, sample), mode)}, (c, f, w))
        values = found.bind({"V": given})(arrays)
        np.testing.assert_allclose(values["one"], coupled * value, rtol=1e-12)
        np.testing.assert_allclose(values["open"], coupled[:, None] * arrays[2], rtol=1e-12)


def test_coordinates_whiten() -> None:
    coordinates = Coordinates(((2,), ()), np.array([2.0, 2.0, 3.0]))
    w, b = coordinates.split(np.ones((5, 3)))
    assert w.shape == (5, 2) and b.shape == (5,) and np.all(w == 2) and np.all(b == 3)
    np.testing.assert_array_equal(coordinates.join([w, b]), np.tile([4.0, 4.0, 9.0], (5, 1)))


# ------------------------------------------------------------------------------------------------- reference

PARITY = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.25)
TABLE = {50: {"mean-field": 0.849, "collapsed-mean-field": 0.648},
         100: {"mean-field": 0.417, "collapsed-mean-field": 0.160},
         200: {"mean-field": 0.182, "collapsed-mean-field": 0.0335},
         400: {"mean-field": 0.0830, "collapsed-mean-field": 0.0072}}
"""Test error of the mean predictor, from a program that is not this one: 2-parity, D = 10, mean over four data sets."""


def test_error(name: str, samples: int, seed: int, **effort: int) -> float:
    cube = ft.tasks.parity(1, 10, 2, test_samples="cube")
    inputs = np.random.default_rng(1000 + seed).choice([-1.0, 1.0], size=(samples, 10))
    data = ft.Dataset(inputs, inputs[:, 0] * inputs[:, 1], cube.X_test, cube.y_test)
    found = predict(name, PARITY, data, effort=effort)
    assert found.attrs["status"] == "converged", found.attrs
    return float(((found.test_output - data.y_test)**2).mean())


test_error.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", THEORIES)
def test_two_parity_with_few_samples(name: str) -> None:
    effort = dict(ensembles=2, particles=64, settle=50, average=50, measure=30)
    errors = [test_error(name, 50, seed, **effort) for seed in range(4)]
    assert np.mean(errors) == pytest.approx(TABLE[50][name], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [100, 200, 400])
@pytest.mark.parametrize("name", THEORIES)
def test_two_parity(name: str, samples: int) -> None:
    errors = [test_error(name, samples, seed) for seed in range(4)]
    assert np.mean(errors) == pytest.approx(TABLE[samples][name], rel=0.06)
    wrong = TABLE[samples][next(other for other in THEORIES if other != name)]
    assert abs(np.mean(errors) - wrong) > 0.3 * wrong


def test_a_task_that_the_activation_cannot_see_is_said() -> None:
    """Bias-free ReLU has no overlap with a parity of three inputs; a bias gives it one."""
    quick = dict(ensembles=2, particles=32, settle=10, average=10, measure=10)
    data = ft.tasks.parity(30, 6, 3, seed=1, test_samples="cube")
    for name in THEORIES:
        blind = predict(name, PARITY, data, effort=quick)
        assert blind.attrs["target_visibility"] < 1e-25 and "cannot learn" in blind.attrs["status"]
        assert "the odd part of the activation, h/2, is a polynomial of degree 1" in blind.attrs["status"]  # by rule
        seeing = predict(name, PARITY.replace(bias_variance=1.0), data, effort=quick)
        assert seeing.attrs["target_visibility"] > 1e-6 and "cannot learn" not in seeing.attrs["status"]


def test_a_run_that_is_too_short_says_so() -> None:
    data = ft.tasks.parity(40, 6, 2, seed=0)
    found = predict("mean-field", PARITY, data, effort=dict(ensembles=2, particles=4, settle=1, average=1, measure=4))
    assert found.attrs["status"].startswith("not converged")
    again = predict("mean-field", PARITY, data, effort=dict(ensembles=2, particles=4, settle=1, average=1, measure=4))
    assert again.identical(found)


def test_bad_input() -> None:
    data = ft.tasks.parity(10, 4, 2, seed=0)
    for options, error, match in ((dict(effort={"sweeps": 3}), UnknownName, "sweeps"),
                                  (dict(effort={"ensembles": 1}), BadInput, "ensembles"),
                                  (dict(outputs=["hidden_kernel"]), UnknownName, "hidden_kernel")):
        with pytest.raises(error, match=match):
            predict("mean-field", PARITY, data, **options)
    with pytest.raises(BadInput, match="noise"):
        predict("mean-field", PARITY.replace(noise_variance=0), data)
    with pytest.raises(BadInput, match="inputs X"):
        predict("mean-field", PARITY, ft.Dataset.from_kernel(np.eye(3), np.ones(3)))
    with pytest.raises(RuleError, match="neither solutions nor branches"):
        theory("mean-field", "relu").with_network(PARITY).solutions(data)
    with pytest.raises(BadInput, match="needs no particles"):
        ft.theories["nngp"](PARITY).predict(data, effort={"seed": 1})
