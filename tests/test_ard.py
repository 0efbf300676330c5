"""Hyperpriors by rule, and mean-field theories with a precision per input, against brute force and a reference."""

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
from fieldtheory.errors import BadInput, NotConverged, RuleError
from fieldtheory.onesite.environment import Effort, Ensemble
from fieldtheory.onesite.evidence import log_integral
from fieldtheory.onesite.particles import Grid, Particles
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from fieldtheory.symbolic.hyperpriors import hyperprior
from fieldtheory.symbolic.rules import FieldAction
from fieldtheory.symbolic.siteclosure import SiteClosure
from tests.oracles import relevance as oracle

THEORIES = ("mean-field-ard", "collapsed-mean-field-ard")
FUNCTIONS = {"erf": scipy.special.erf, "relu": lambda h: np.maximum(h, 0.0)}
NET = ft.Network(width=3, readout_variance=1.5, weight_variance=0.8, noise_variance=0.3, prior=ft.ARD(2.5))
X, Y = np.array([0.7, -1.3]), np.array([0.8, 0.5])
TINY = ft.Dataset(X[:, None], Y, np.array([[0.2], [2.0]]), np.ones(2))


@cache
def theory(name: str, activation: str, bias: float = 0) -> ft.Theory:
    net = ft.Network(activation=activation, scaling=ft.Scaling(), bias_variance=bias)
    return ft.theories[name](net.replace(prior=ft.ARD(4.0)) if name.endswith("ard") else net)


def predict(name: str, net: ft.Network, data: ft.Dataset, **options: Any) -> Any:
    return theory(name, net.activation).with_network(net).predict(data, **options)


# ---------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize(("name", "bias"), [(THEORIES[0], 1), (THEORIES[1], 0)])
def test_every_step_is_verified(name: str, bias: float) -> None:
    report = theory(name, "relu", bias).derivation.verify(seed=2)
    assert report.ok, str(report)
    rows = {row.quantity for row in report.rows if row.rule == "hyperprior"}
    assert rows >= {"F = -ln z", "-ln Z below F", "F stationary", "<output>", "<precision>"}


def test_the_mean_precision_is_derived() -> None:
    S = ft.Network(activation="erf", prior=ft.ARD(4.0)).action()
    H = S.hyperprior("lambda", "W")
    N, alpha, beta, W, w = S["N"], S["alpha_0"], S["beta_0"], H["W"], S["w"]
    assert sp.simplify(H.observe("precision") - (alpha + N / 2) / (beta + W / 2)) == 0
    assert H.last["order_parameters"] == sp.Dict({W: SpaceSum(w**2, S.space("site"))})
    assert S["lambda"] not in H.fields and not H.expr.has(S["lambda"])
    one = theory("mean-field-ard", "erf").closure
    assert isinstance(one, SiteClosure)
    assert one.shared[W].body == N * Entry("w", "real", (S.space("input"),))**2
    assert sp.simplify(one.shared[W].unlearned - N * beta / alpha) == 0  # 1/E λ = β0/α0 where nothing is learned


@pytest.mark.parametrize("power", [1, -1, 2])
def test_other_laws_of_a_shared_field(power: int) -> None:
    """A precision, a variance (inverse gamma) and an inverse width, each with its own law, of two fields at once."""
    N, D, c, k = (sp.Symbol(name, positive=True) for name in ("N", "D", "c", "k"))
    site, inputs = Space("site", N), Space("input", D)
    x, y, z = Entry("x", "real", (site, inputs)), Entry("y", "real", (site,)), Entry("z", "positive", (inputs,))
    coupled = SpaceSum(SpaceSum(z**power * (x**2 + x**4 + y**2), inputs), site)
    coupled += SpaceSum(SpaceSum(x * y, inputs), site)**2
    own = SpaceSum(c * z**power + (1 - (k + 2) * power) * sp.log(z), inputs) + SpaceSum(y**2, site)
    S = FieldAction(coupled + own, (x, y, z))
    step = hyperprior(S, z, "v")
    assert step.details["power"] == power
    report = Derivation("", "", (step,), observables={"M": SpaceSum(x * y, site), "z": z**power, "log": sp.log(z),
                                                      "product": SpaceSum(z**power * y**2, site)}).verify(seed=1)
    assert report.ok, str(report)


def test_wrong_laws_are_caught() -> None:
    """The mode in place of the mean (α0 - 1), the precision of half as many sites, an entropy that is left out."""
    derivation = theory("mean-field-ard", "relu").derivation
    step = derivation.steps[0]
    action = theory("mean-field-ard", "relu").action
    N, alpha, W = action["N"], action["alpha_0"], action["W"]
    expr = step.after.expr
    weights = [node for node in expr.atoms(SpaceSum) if node.space.name == "site" and node.has(W)]
    assert len(weights) == 1
    mean = SpaceSum(W / step.details["rate"], *W.spaces) / 2
    for wrong in (expr - weights[0] / 2 + mean / 2, expr - N * weights[0] / 4,
                  expr + SpaceSum(sp.log(step.details["rate"]), *W.spaces), expr.xreplace({alpha: alpha + 1})):
        damaged = dataclasses.replace(step, after=step.after.replace_expr(wrong))
        report = dataclasses.replace(derivation, steps=(damaged,)).verify(seed=1)
        assert any("F" in row.quantity for row in report.failures), str(report)


def test_what_the_rule_cannot_do_is_refused() -> None:
    N, c = sp.Symbol("N", positive=True), sp.Symbol("c", positive=True)
    site = Space("site", N)
    x, z, r = Entry("x", "real", (site,)), Entry("z", "positive"), Entry("r", "real")
    M = SpaceSum(x**2, site)
    prior = SpaceSum(x**2, site) / 2
    for expr, field, match in (
            (z * M + prior + r * z, r, "no positive field"),
            (sp.exp(z) * M + prior, z, "enters through"),
            (z * M + c * z**2 + prior, z, "one power"),
            (z * M + M * sp.log(z) + prior, z, "depends on other fields"),
            (z * M + (1 + c) * sp.log(z) + prior, z, "no norm"),
            (c * z + prior, z, "coupled to no other")):
        with pytest.raises(RuleError, match=match):
            hyperprior(FieldAction(expr, (x, field)), field, "v")
    with pytest.raises(BadInput, match="name"):
        hyperprior(FieldAction(z * M + prior + c * z, (x, z)), z, "c")
    S = ft.Network(activation="erf", prior=ft.ARD(4.0)).action()
    with pytest.raises(RuleError, match="shared by the sites"):
        S.decouple("site", "m")
    with pytest.raises(RuleError, match="average of lambda"):
        S.hyperprior("lambda", "W").observe(S["lambda"]**2 * S["beta_0"])


# ---------------------------------------------------------------------------------------- tiny, by brute force


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_the_best_law_of_neurons_and_precision(activation: str) -> None:
    found = predict("mean-field-ard", NET.replace(activation=activation), TINY)
    phi = FUNCTIONS[activation]
    mean, precision, bound = oracle.mean_field(X, Y, 3, 2.0, 2.5, 2.0, 0.3, phi, 0.9)
    assert np.abs(found.mean_output - mean).max() < 1e-9
    assert abs(float(found.precision[0]) - precision) < 1e-8 and abs(float(found.log_evidence_bound) - bound) < 1e-8
    assert found.attrs["status"] == "converged" and found.attrs["residual"] < 1e-10
    for shape in (1.5, 2.0):  # the law's mode; half of a neuron less
        wrong, _, _ = oracle.mean_field(X, Y, 3, 2.0, shape, 2.0, 0.3, phi, 0.9)
        assert np.abs(found.mean_output - wrong).max() > 1e-3


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_the_bound_lies_below_the_evidence(activation: str) -> None:
    net = NET.replace(activation=activation, width=1)
    exact = oracle.log_evidence_one_neuron(X, Y, 1 / 1.5, 2.5, 2.0, 0.3, FUNCTIONS[activation], 0.9)
    found = [predict(name, net, TINY) for name in THEORIES]
    assert exact - 0.1 < float(found[0].log_evidence_bound) < exact
    # without other neurons nothing else is approximated: the two theories are one
    assert np.abs(found[0].mean_output - found[1].mean_output).max() < 1e-10
    assert np.abs(found[0].precision - found[1].precision).max() < 1e-9


@pytest.mark.parametrize("name", THEORIES)
def test_many_pseudo_observations_fix_the_prior(name: str) -> None:
    """α0 → ∞ at β0 = α0 σ_w²/D: the fixed prior, with an error c/α0.

    The precision is D/σ_w² (1 + c₁/α0), 2 c₁ = N - ⟨Σw²⟩D/σ_w², so that c = -c₁ ∂/∂ln σ_w² of the fixed-prior theory.
    """
    net, fixed = NET.replace(activation="erf"), name.removesuffix("-ard")
    plain = net.replace(prior="gaussian")
    limit = predict(fixed, plain, TINY)
    errors, shifts = [], []
    for alpha in (1e3, 1e4):
        found = predict(name, net.replace(prior=ft.ARD(alpha)), TINY)
        errors.append(alpha * (found.test_output - limit.test_output).values)
        shifts.append(alpha * (float(found.precision[0]) * 0.8 - 1))
    sides = [predict(fixed, plain.replace(weight_variance=0.8 * np.exp(h)), TINY).test_output.values
             for h in (1e-3, -1e-3)]
    slope = (sides[0] - sides[1]) / 2e-3
    extrapolated = errors[1] + (errors[1] - errors[0]) / 9
    assert np.abs(errors[1] / errors[0] - 1).max() < 0.01  # exponent one
    first = shifts[1] + (shifts[1] - shifts[0]) / 9
    assert np.abs(extrapolated / (-first * slope) - 1).max() < 1e-3
    assert np.abs(first * slope).min() > 1e-3


# -------------------------------------------------------------------------------------------------- particles


@pytest.mark.parametrize("name", [pytest.param(THEORIES[0], marks=pytest.mark.slow), THEORIES[1]])
def test_particles_find_the_solution_of_quadrature(name: str) -> None:
    net = NET.replace(activation="erf", width=6, prior=ft.ARD(3.0))
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(6, 2))
    data = ft.Dataset(inputs, 2 * np.tanh(2 * inputs[:, 0]), rng.normal(size=(3, 2)))
    predictor = theory(name, "erf").with_network(net)._site_predictor
    environment, values = predictor.environment(True), predictor.values(net, data, None)
    exact = environment.on_grid(values)
    effort = Effort(particles=200, settle=80, average=120, measure=80)
    found = [environment.with_particles(values, effort, np.random.SeedSequence(k)) for k in range(5)]
    for key in ("precision", "test_output"):
        draws = np.array([ensemble.outputs[key] for ensemble in found])
        error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
        size = np.abs(exact.outputs[key])
        assert np.all(error < 0.02 * size.max())
        # four degrees of freedom, and a budget for the bias of a nonlinear function of averages
        assert np.all(np.abs(draws.mean(axis=0) - exact.outputs[key]) < 5 * error + 0.004 * size.max()), key
    assert np.abs(exact.outputs["precision"] * 0.8 / 2 - 1).max() > 0.2  # nothing learned would fail


def test_thermodynamic_integration_is_quadrature() -> None:
    """ln ∫e^{-s} in one frozen environment: two hidden components, by both."""
    net = NET.replace(activation="erf", width=6)
    rng = np.random.default_rng(2)
    data = ft.Dataset(rng.normal(size=(4, 2)), rng.normal(size=4) + 1)
    predictor = theory("mean-field-ard", "erf").with_network(net)._site_predictor
    environment, values = predictor.environment(False), predictor.values(net, data, None)
    start = {"m": np.full(4, 0.3), "W": np.array([2.0, 6.0])}  # any environment will do
    grid = Grid(environment.coordinates(values))
    grid.update(environment.dynamics.bind(values | start))
    found = []
    for k in range(3):
        sampler = Particles(environment.coordinates(values), 80, np.random.SeedSequence(k))
        one = Ensemble(start, {}, 0.0, sampler)
        found.append(log_integral(environment, values, one, k, nodes=12, sweeps=18))
    error = np.std(found, ddof=1) / np.sqrt(3)
    assert error < 0.02
    assert abs(np.mean(found) - grid.log_integral) < 5 * error + 2e-3
    assert abs(np.mean(found) - grid.log_integral + np.log(2) / 2) > 0.2  # the norm of one component by a factor √2


def test_ensembles_in_different_solutions_are_said() -> None:
    predictor = theory("mean-field-ard", "erf")._site_predictor
    one, other = (Ensemble({"m": np.zeros(2), "W": np.array([w, 1.0])}, {}, 0.0, None) for w in (1.0, 2.5))  # type: ignore[arg-type]
    environment = predictor.environment(False)
    assert environment.several([one, other]) and not environment.several([one, one])


def test_unused_precisions_settle_at_once() -> None:
    """Where w follows its prior the virial theorem gives its precision without noise; plain iteration crawls there."""
    net = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=1e9,
                     prior=ft.ARD(4.0))
    predictor = theory("mean-field-ard", "relu").with_network(net)._site_predictor
    data = ft.tasks.parity(20, 8, 2, seed=0)
    environment, values = predictor.environment(False), predictor.values(net, data, None)
    precisions, statics = environment.precisions(values), environment.statics.bind(values)
    law = precisions["W"]
    found = {}
    for plain in (False, True):
        sampler = Particles(environment.coordinates(values), 96, np.random.SeedSequence(3))
        averages: dict[str, np.ndarray] = {}
        state = environment._solve(environment.averages(sampler.fields, sampler.weights, statics))
        state["W"] = np.full(law.shape, 3 * law.unlearned)
        for t in range(40):
            sampler.update(environment.dynamics.bind(values | state))
            weight = max(0.1, 1 / (t + 1))
            new = environment._averages(sampler, statics, precisions, state)
            averages = {key: value if t == 0 else averages[key] + weight * (value - averages[key])
                        for key, value in new.items()}
            state = environment.solve(averages, precisions, state)
            if plain:
                state["W"] = law.count * averages["W|w"]
        found[plain] = np.abs(1 / law.variance(state["W"]) / 8 - 1).max()
    assert found[False] < 1e-6 < 0.1 < found[True]


# ----------------------------------------------------------------------------------------------------- refusals


def test_the_kind_of_prior_is_asked_for_by_name() -> None:
    drawn, fixed = ft.Network(activation="relu", prior=ft.ARD(2.0)), ft.Network(activation="relu")
    for name in THEORIES:
        with pytest.raises(BadInput, match=f"prior.*{name.removesuffix('-ard')}'"):
            ft.theories[name](fixed)
        with pytest.raises(BadInput, match=f"prior.*{name}"):
            ft.theories[name.removesuffix("-ard")](drawn)
        with pytest.raises(BadInput, match="network"):
            theory(name, "relu").with_network(fixed)


def test_hyperparameters_that_hold_no_precision_are_refused() -> None:
    for numbers in ((0.0,), (2.0, 0.0), (float("inf"),)):
        with pytest.raises(BadInput, match="prior"):
            ft.ARD(*numbers)
    for beta0 in (1e-20, 1e20):
        with pytest.raises(BadInput, match=r"prior.beta0.*precision"):
            predict("mean-field-ard", NET.replace(activation="relu", prior=ft.ARD(2.5, beta0)), TINY)
    predictor = theory("mean-field-ard", "relu").with_network(NET.replace(activation="relu"))._site_predictor
    law = predictor.environment(False).precisions(predictor.values(NET, TINY, None))["W"]
    law.check(np.array([law.unlearned]))
    for v in (1e-9, 1e9):
        with pytest.raises(NotConverged, match=r"precision of w runs away for inputs 0: .*alpha0"):
            law.check(np.array([v * law.unlearned + (v < 1) * (-law.constant / law.slope)]))
    with pytest.raises(BadInput, match="weight_variance"):
        predict("mean-field-ard", NET.replace(activation="relu", weight_variance=None), TINY)
    given = NET.replace(activation="relu", weight_variance=None, prior=ft.ARD(2.5, 2.0))
    alone = predict("mean-field-ard", given, TINY)
    with_it = predict("mean-field-ard", NET.replace(activation="relu"), TINY)
    assert np.abs(alone.mean_output - with_it.mean_output).max() < 1e-12  # β0 = α0 σ_w²/D either way


# ---------------------------------------------------------------------------------------------------- reference

PARITY = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.25,
                    prior=ft.ARD(4.0))
TABLE = {50: (0.286, 0.032), 100: (0.099, 0.005), 200: (0.0435, 0.0006), 400: (0.0199, 0.0013)}
"""Test error of MF-ARD, mean and standard error over four data sets, from a program that is not this one."""
CHAINS = {50: 0.031, 100: 0.0037}
"""The posterior with this prior, by chains of that program."""


def parity(samples: int, seed: int) -> ft.Dataset:
    cube = ft.tasks.parity(1, 10, 2, test_samples="cube")
    inputs = np.random.default_rng(1000 + seed).choice([-1.0, 1.0], size=(samples, 10))
    return ft.Dataset(inputs, inputs[:, 0] * inputs[:, 1], cube.X_test, cube.y_test)


def run(name: str, samples: int, seed: int, **effort: int) -> tuple[float, np.ndarray]:
    data = parity(samples, seed)
    found = predict(name, PARITY, data, effort=effort)
    assert found.attrs["status"] == "converged", found.attrs
    return float(((found.test_output - data.y_test)**2).mean()), found.precision.values


def test_two_parity_finds_its_inputs() -> None:
    quick = dict(ensembles=2, particles=64, settle=60, average=50, measure=30)
    error, precision = run("mean-field-ard", 50, 2, **quick)
    assert error == pytest.approx(0.23, abs=0.04)
    assert precision[:2].max() < 4 < 12 < precision[2:].min()


def test_precisions_on_their_way_are_reported() -> None:
    """Of few sweeps every ensemble moves the same way, by less than they differ: its direction tells."""
    hasty = dict(particles=64, settle=10, average=40, measure=30)
    found = predict("collapsed-mean-field-ard", PARITY, parity(50, 3), effort=hasty)
    assert found.attrs["drift"] > 3 and "drift the same way" in found.attrs["status"]


@pytest.mark.slow
@pytest.mark.parametrize("samples", [50, 100])
def test_two_parity(samples: int) -> None:
    expected, error = TABLE[samples]
    errors = [run("mean-field-ard", samples, seed)[0] for seed in range(4)]
    combined = np.hypot(error, np.std(errors, ddof=1) / 2)
    assert abs(np.mean(errors) - expected) < 3 * combined
    collapsed = [run("collapsed-mean-field-ard", samples, seed, settle=150, average=400)[0] for seed in range(4)]
    assert CHAINS[samples] < np.mean(collapsed) < 0.25 * np.mean(errors)
