"""One-site theories: moments of weights and outputs, starts, continuation, and populations with laws of their own."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sympy as sp

import fieldtheory as ft
from fieldtheory.derivation import Derivation
from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.onesite.continuation import cases
from fieldtheory.onesite.populations import populations
from fieldtheory.symbolic.populations import split

THEORIES = ("mean-field", "collapsed-mean-field")
QUICK = dict(ensembles=3, particles=32, settle=25, average=25, measure=20)
X, Y, X_TEST = np.array([0.7, -1.3]), np.array([0.8, 0.5]), np.array([0.2, 2.0])
TINY = ft.Dataset(X[:, None], Y, X_TEST[:, None], np.ones(2))
NET = ft.Network(activation="erf", width=3, readout_variance=1.5, weight_variance=0.8, noise_variance=0.3)
PARITY = ft.Network(activation="relu", width=16, readout_variance=1.0, weight_variance=1.0, noise_variance=0.25)


@cache
def theory(name: str, net: ft.Network) -> ft.Theory:
    return ft.theories[name](net)


def task(samples: int = 24, inputs: int = 4) -> ft.Dataset:
    return ft.tasks.parity(samples, inputs, 2, seed=0, test_samples="cube")


# ------------------------------------------------------------------------------------------- second moments


def one_neuron(x_test: np.ndarray, A: float, v: float, s: float) -> tuple[np.ndarray, np.ndarray, float]:
    """⟨f⟩, ⟨f²⟩ - ⟨f⟩² at inputs and ⟨w²⟩ of a single neuron a erf(w x), on a grid in a and w."""
    u = np.linspace(-9, 9, 801)
    a, w = (g.ravel() for g in np.meshgrid(u / np.sqrt(A), u * np.sqrt(v), indexing="ij"))
    logs = -A * a**2 / 2 - w**2 / (2 * v) - ((Y[:, None] - a * scipy.special.erf(w * X[:, None]))**2).sum(0) / (2 * s)
    p = np.exp(logs - logs.max())
    p /= p.sum()
    f = a * scipy.special.erf(w * x_test[:, None])
    return f @ p, f**2 @ p - (f @ p)**2, float(w**2 @ p)


@pytest.mark.parametrize("name", THEORIES)
def test_moments_of_one_neuron_are_exact(name: str) -> None:
    """No other sites: variance of the output, at samples and elsewhere, and second moment of the weights."""
    outputs = ["test_output", "output_variance", "test_output_variance", "weight_second_moment", "relevance"]
    found = theory(name, NET).predict(TINY, width=1, outputs=outputs)
    mean, variance, moment = one_neuron(X_TEST, 1 / 1.5, 0.8, 0.3)
    assert np.abs(found.test_output - mean).max() < 1e-8
    assert np.abs(found.test_output_variance - variance).max() < 1e-8
    assert np.abs(found.output_variance - one_neuron(X, 1 / 1.5, 0.8, 0.3)[1]).max() < 1e-8
    assert abs(float(found.weight_second_moment[0]) - moment) < 1e-8
    assert found.relevance.values == pytest.approx([1.0])


def test_wide_networks_have_the_variance_of_their_limit() -> None:
    """N → ∞ at γ = 1: collapsed, that of regression with the fixed kernel; independent sites, that of the prior."""
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(4, 1))
    data = ft.Dataset(inputs, np.tanh(inputs[:, 0]), rng.normal(size=(3, 1)))
    net = NET.replace(weight_variance=1.0)
    limit = ft.theories["nngp"](net).predict(data, width=10, outputs=["output_covariance"]).output_covariance.values
    both = np.concatenate([inputs, data.X_test])  # the kernel of the prior, from its closed form
    h = both @ both.T
    size = 1 + 2 * np.diag(h)
    prior = 1.5 * 2 / np.pi * np.arcsin(2 * h / np.sqrt(np.outer(size, size)))
    gaps = []
    for width in (300, 3000):
        pair = [theory(name, net).predict(data, width=width, outputs=["output_variance", "test_output_variance"])
                for name in THEORIES]
        gaps.append([np.abs(pair[0].output_variance - np.diag(prior)[:4]).max(),
                     np.abs(pair[0].test_output_variance - np.diag(prior)[4:]).max(),
                     np.abs(pair[1].output_variance - np.diag(limit)).max()])
    assert np.all(np.array(gaps[0]) < 0.1)
    assert np.all(np.abs(np.log10(np.array(gaps[0]) / gaps[1]) - 1) < 0.1)


@pytest.mark.parametrize("name", THEORIES)
def test_the_moments_are_among_what_every_step_checks(name: str) -> None:
    derivation = theory(name, NET).derivation
    moments = {"weight_second_moment", "test_output_squared", "readout_norm"}
    assert moments <= derivation.observables.keys() and moments <= derivation.carried().keys()
    (k,) = (k for k, step in enumerate(derivation.steps) if step.rule in ("decouple", "cavity"))
    step = derivation.steps[k]
    observables = {name: derivation.carried(k)[name] for name in moments}
    assert Derivation("", "", (step,), observables=observables).verify(seed=2).ok
    twin = dataclasses.replace(step, push=lambda observable: step.push(observable) * sp.Rational(9, 10))
    failed = {row.quantity for row in Derivation("", "", (twin,), observables=observables).verify(seed=2).failures}
    assert {f"<{name}>" for name in moments} <= failed


def test_outputs_that_are_not_there_are_refused() -> None:
    found = theory("mean-field", NET)
    with pytest.raises(UnknownName, match="relevance"):
        found.predict(TINY, outputs=["relevence"])
    with pytest.raises(BadInput, match="X_test"):
        found.predict(ft.Dataset(X[:, None], Y), outputs=["test_output_variance"])
    assert "output_variance" in found.predict(ft.Dataset(X[:, None], Y), outputs=["output_variance"])


def test_particles_see_the_relevant_inputs() -> None:
    found = theory("mean-field", PARITY).predict(task(60), effort=QUICK | {"particles": 64})
    moments = found.weight_second_moment.values
    assert found.relevance.values == pytest.approx(moments / moments.mean(), rel=0.02)
    assert found.relevance.values[:2].min() > 1.1 > 0.95 > found.relevance.values[2:].max()
    assert (found.relevance_mcse < 0.2).all()


# ---------------------------------------------------------------------------------- starts and continuation


@pytest.mark.parametrize("name", THEORIES)
def test_the_start_does_not_matter_at_a_fixed_prior(name: str) -> None:
    """One solution: from draws of the prior, from weights planted along right and wrong inputs, from large ones."""
    data, starts = task(), [{}, {"start": "planted", "relevant": [0, 1]}, {"start": "planted", "relevant": [2]},
                            {"start": 2 * np.eye(4)}]
    found = [theory(name, PARITY).predict(data, effort=QUICK | {"seed": k}, **start)  # type: ignore[arg-type]
             for k, start in enumerate(starts)]
    overlap = [float(p.test_output.values @ data.y_test) / 16 for p in found]
    # each output has 4 degrees of freedom: the mean square of t_4 is 2, correlated over 16 outputs
    for other in found[1:]:
        t = (other.test_output - found[0].test_output) / np.hypot(other.test_output_mcse, found[0].test_output_mcse)
        assert float((t**2).mean()) < 9
    assert np.ptp(overlap) < 0.15 * np.mean(overlap)
    twin = theory(name, PARITY).with_network(PARITY.replace(noise_variance=0.6)).predict(data, effort=QUICK)
    assert abs(float(twin.test_output.values @ data.y_test) / 16 - overlap[0]) > np.ptp(overlap)


def test_quadrature_forgets_the_start() -> None:
    plain = theory("collapsed-mean-field", NET).predict(TINY)
    for start in ({"start": "large"}, {"start": "planted", "relevant": [0]}, {"start": np.array([[5.0]])}):
        other = theory("collapsed-mean-field", NET).predict(TINY, **start)
        assert np.abs(other.mean_output - plain.mean_output).max() < 1e-9


@pytest.mark.parametrize("options, argument", [
    ({"start": "random"}, "start"), ({"start": "planted"}, "relevant"), ({"relevant": [0]}, "relevant"),
    ({"start": "planted", "relevant": [1]}, "relevant"), ({"start": np.ones((2, 3))}, "start")], ids=str)
def test_bad_starts(options: dict[str, Any], argument: str) -> None:
    with pytest.raises(BadInput) as error:
        theory("mean-field", NET).predict(TINY, **options)
    assert error.value.argument == argument


@pytest.mark.parametrize("name", THEORIES)
def test_no_hysteresis_at_a_fixed_prior(name: str) -> None:
    exact = theory(name, NET).follow(TINY, along="noise_variance", values=[0.03, 0.3, 3.0])
    assert np.abs(exact.difference).max() < 1e-8 and not exact.hysteresis.any()
    assert list(exact.noise_variance) == [0.03, 0.3, 3.0] and (exact.status == "converged").all()
    one = theory(name, NET).predict(TINY)
    expected = float(one.mean_output.values @ Y) / float(Y @ Y)
    assert exact.order_parameter.sel(noise_variance=0.3).values == pytest.approx([expected] * 2, abs=1e-8)
    assert (np.diff(exact.order_parameter, axis=1) < 0).all()


def test_following_the_samples_with_particles() -> None:
    found = theory("collapsed-mean-field", PARITY).follow(task(), along="samples", values=[24, 12], effort=QUICK)
    assert found.order_parameter.shape == (2, 2) and list(found.samples) == [12, 24]
    assert not found.hysteresis.any() and (found.test_order_parameter.sel(samples=24) > 0).all()
    assert (np.abs(found.difference) < 6 * found.difference_mcse).all()


def test_following_the_wrong_thing_is_refused() -> None:
    with pytest.raises(UnknownName, match="samples"):
        theory("mean-field", NET).follow(TINY, along="width", values=[1, 2])
    with pytest.raises(BadInput, match="up to 2"):
        theory("mean-field", NET).follow(TINY, along="samples", values=[1, 3])
    with pytest.raises(BadInput, match="branches"):
        ft.theories["nngp"](NET).follow(TINY, along="samples", values=[1, 2])
    with pytest.raises(BadInput, match="two positive"):
        cases(NET, TINY, "noise_variance", [0.1])


# -------------------------------------------------------------------------------- broken permutation symmetry

PAIR = ft.Network(activation="identity", width=2, readout_variance=20.0, weight_variance=1.0, noise_variance=10.0)


def two_sites(y: float, A: float, s: float) -> list[tuple[float, float, float]]:
    """Every (m_1, m_2, F) of two independent neurons a w with laws of their own, one sample, from the model."""
    w = np.linspace(-12, 12, 6001)
    B = A + w**2 / s

    def one(target: float) -> tuple[float, float]:
        b = w * target / s
        logs = -w**2 / 2 - np.log(B / A) / 2 + b**2 / (2 * B)
        p = np.exp(logs - logs.max())
        log_z = logs.max() + np.log(p.sum() * (w[1] - w[0]) / np.sqrt(2 * np.pi))
        return float(p @ (w * b / B) / p.sum()), float(log_z)

    def mismatch(m: float) -> float:
        return one(y - one(y - m)[0])[0] - m

    grid = np.linspace(0, y, 200)
    values = [mismatch(m) for m in grid]
    found = []
    for left, right, a, b in zip(grid, grid[1:], values, values[1:], strict=False):
        if a * b < 0:
            m_1 = float(scipy.optimize.brentq(mismatch, left, right, xtol=1e-13))
            m_2, second = one(y - m_1)
            F = -one(y - m_2)[1] - second - m_1 * m_2 / s + y**2 / (2 * s) + np.log(2 * np.pi * s) / 2
            found.append((m_1, m_2, F))
    return found


def test_two_neurons_with_laws_of_their_own() -> None:
    """N = 2, P = 1, y = 19.5: means 2.33 and 13.64, of lower free energy than the symmetric solution."""
    data = ft.Dataset(np.ones((1, 1)), np.array([19.5]))
    found = theory("mean-field", PAIR).populations(data, sizes=(1, 1), starts=3)
    expected = sorted(two_sites(19.5, 0.1, 10.0), key=lambda row: row[2])
    assert len(expected) == found.sizes["solution"] == 3
    outputs = found.population_output.values[:, :, 0]
    assert sorted(outputs[0]) == pytest.approx([2.330201, 13.636261], abs=1e-6)
    for k in range(3):
        assert any(np.allclose(outputs[k], row[:2], atol=1e-6) for row in expected)
        assert -float(found.log_evidence_bound[k]) == pytest.approx(expected[k][2], abs=1e-7)
    symmetric = theory("mean-field", PAIR).predict(data)
    assert float(found.mean_output[2, 0]) == pytest.approx(float(symmetric.mean_output[0]), abs=1e-8)
    assert float(found.log_evidence_bound[2]) == pytest.approx(float(symmetric.log_evidence_bound), abs=1e-9)
    assert (found.contraction.values < 1).tolist() == [True, True, False]  # the symmetric one is no minimum
    assert (found.asymmetry.values > 1e-6).tolist() == [True, True, False]


def test_a_small_target_leaves_the_neurons_alike() -> None:
    data = ft.Dataset(np.ones((1, 1)), np.array([2.0]))
    found = theory("mean-field", PAIR).populations(data, sizes=(1, 1), starts=2)
    assert found.sizes["solution"] == 1 and float(found.asymmetry[0]) < 1e-8 and float(found.contraction[0]) < 1


def test_populations_are_split_and_decoupled_by_verified_rules() -> None:
    both = populations(theory("mean-field", NET).action)
    for one in both.values():
        report = Derivation("", "", one.steps, observables=one.quantities).verify(seed=1)
        assert report.ok, str(report)
    one = both["first"]
    spoiled = one.steps[1].after.replace_expr(one.steps[1].after.expr.xreplace({one["m_2"]: one["m_2"] / 2}))
    wrong = Derivation("", "", (one.steps[0], one.steps[1].__class__(**{**vars(one.steps[1]), "after": spoiled})))
    assert any(row.quantity == "F stationary" for row in wrong.verify(seed=1).failures)


def test_what_cannot_be_split_is_refused() -> None:
    action = ft.Network(activation="erf").action()
    with pytest.raises(RuleError, match="at least two"):
        split(action.value, action.space("site"), {"only": "1"})
    with pytest.raises(BadInput, match="sample"):
        action.split("site", sample="1", second="2")
    assert action.split("site", first="1", second="2").definitions[sp.Symbol("N", positive=True)] == sp.Add(
        *sp.symbols("N_1 N_2", positive=True))
    data = ft.Dataset(np.ones((1, 1)), np.array([1.0]))
    with pytest.raises(BadInput, match="independent sites"):
        theory("collapsed-mean-field", NET).populations(data, sizes=(1, 2))
    with pytest.raises(BadInput, match="independent sites"):
        ft.theories["nngp"](NET).populations(data, sizes=(1, 2))
    with pytest.raises(BadInput, match="add up to the width, 2"):
        theory("mean-field", PAIR).populations(data, sizes=(1, 2))
    with pytest.raises(BadInput, match="relevant"):
        theory("mean-field", PAIR).populations(ft.Dataset(np.ones((1, 3)), np.ones(1)), sizes=(1, 1))


@pytest.mark.slow
def test_planted_populations_at_a_small_target_return() -> None:
    """Two neurons planted along the parity: for a target within the prior's reach they become like the others."""
    data = task(12)
    small = ft.Dataset(data.X, 0.2 * data.y)
    found = theory("mean-field", PARITY).populations(small, sizes=(2, 14), relevant=[0, 1], rounds=3,
                                                     effort=QUICK | {"ensembles": 2, "particles": 24})
    gap = np.abs(found.share[:, 0] - found.share[:, 1]).values
    assert gap[-1] < 0.5 * gap[0]


@pytest.mark.slow
def test_two_neurons_of_sixteen_specialise_in_two_parity() -> None:
    """Far from the prior's reach laws differ: the two planted neurons keep several times the share of the others."""
    data = ft.tasks.parity(60, 6, 2, seed=0)
    found = theory("mean-field", PARITY).populations(
        data, sizes=(2, 14), relevant=[0, 1], rounds=18,
        effort=dict(ensembles=4, particles=64, settle=40, average=40, measure=30))
    share, error = found.share.values[-1], found.share_mcse.values[-1]
    assert share[0] - share[1] > 10 * np.hypot(*error) and share[0] > 5 * share[1]
    assert np.abs(found.share[-1] - found.share[-3]).max() < 0.01
