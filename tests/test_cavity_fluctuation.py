"""The fluctuation of the cavity's kernel: clusters, the medium, and the orders in 1/N against exact posteriors."""

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
from fieldtheory.onesite import clusters
from fieldtheory.onesite.pairs import Pairs
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from tests.oracles import linear_cavity

NET = ft.Network(activation="erf", width=3, readout_variance=1.5, weight_variance=0.8, noise_variance=0.3)
PLAIN: dict[str, Any] = {}
MEDIUM = {"resolvent": "self-consistent"}
PAIRS = {"loops": 1}
BOTH = MEDIUM | PAIRS
X, Y, X_TEST = 1.7, 1.8, 0.6
ONE = ft.Dataset(np.array([[X]]), np.array([Y]), np.array([[X_TEST]]))


@cache
def _theory(activation: str, options: tuple[tuple[str, Any], ...]) -> ft.Theory:
    return ft.theories["collapsed-mean-field"](NET.replace(activation=activation), **dict(options))


def theory(options: dict[str, Any], activation: str = "erf") -> ft.Theory:
    return _theory(activation, tuple(sorted(options.items())))


def exact(width: int) -> tuple[float, float]:
    """⟨f⟩ at a sample and at a test point: the law of f is the N-th power of one neuron's characteristic function."""
    z = np.linspace(-9, 9, 2001)
    w = np.exp(-z**2 / 2)
    phi, other = (scipy.special.erf(np.sqrt(0.8) * x * z) for x in (X, X_TEST))
    w = w / w.sum()
    t = np.linspace(-14, 14, 1201)
    one = np.exp(-1.5 / width * np.outer(t, phi)**2 / 2)
    noise = np.exp(-0.3 * t**2 / 2)
    Z = ((one @ w)**width * noise * np.cos(t * Y)).sum()
    f = Y - 0.3 * ((one @ w)**width * noise * np.sin(t * Y) * t).sum() / Z
    test = 1.5 * (t * np.sin(t * Y) * (one @ w)**(width - 1) * (one @ (w * phi * other)) * noise).sum() / Z
    return float(f), float(test)


# ------------------------------------------------------------------------------------------------------- rules


def _step(options: dict[str, Any]) -> Any:
    (step,) = (step for step in theory(options).action.steps if step.rule == "fluctuation")
    return step


@pytest.mark.parametrize("options", [MEDIUM, PAIRS], ids=str)
def test_clusters_and_medium_are_verified(options: dict[str, Any]) -> None:
    step = _step(options)
    report = Derivation("clusters", "", (step,)).verify(seed=2)
    assert report.ok, str(report)
    names = {row.quantity for row in report.rows}
    assert "S of 1 sites" in names and ("S of 2 sites" in names) == ("loops" in options)
    assert ("resolvent of the medium" in names) == ("resolvent" in options)
    key, wrong = ("medium", 1.01 * step.details["medium"]) if "resolvent" in options else (
        "energies", sp.Tuple(*step.details["energies"][:2], step.details["energies"][2] * sp.Rational(101, 100)))
    damaged = dataclasses.replace(step, details={**step.details, key: wrong})
    assert not Derivation("clusters", "", (damaged,)).verify(seed=2).ok


def test_the_medium_is_the_root_of_marchenko_and_pastur() -> None:
    """c (1 - rG) = r with G = 1/(s + (N-1)c): c is what is left of r once a site has been met again."""
    details = _step(MEDIUM).details
    r, kappa = details["screened"], details["medium"]
    N, s = sp.Symbol("N", positive=True), sp.Symbol("s", positive=True)
    c = kappa / (N - 1)
    assert sp.simplify(c * (1 - r / (s + kappa)) - r) == 0
    assert sp.simplify(sp.series(kappa, r, 0, 2).removeO() - (N - 1) * r) == 0


def test_what_is_dropped_is_said() -> None:
    remainders = {str(options): theory(options).predict(ONE, width=4, outputs=["mean_output"]).attrs["remainder"]
                  for options in (PLAIN, MEDIUM)}
    assert remainders == {"{}": "O(delta_K)", str(MEDIUM): "O(delta_2)"}
    assert all(str(step.remainder) == "delta_3" for step in theory(BOTH).action.steps if not step.exact)


def test_pairs_equal_the_expressions() -> None:
    site, mode = Space("sample", sp.Symbol("P", positive=True)), Space("mode", sp.Symbol("K", positive=True))
    a, b = Entry("psi", "data", (mode,)), Entry("psi'", "data", (mode,))
    V, kappa, s = Entry("V", "data", (site, mode)), Entry("kappa", "spectrum", (mode,)), sp.Symbol("s", positive=True)
    one, two = (SpaceSum(x**2 / (s + kappa), mode) for x in (a, b))
    both = SpaceSum(a * b / (s + kappa), mode) + SpaceSum(a * b, mode) / 3
    closed = sp.log(1 + one * two) - s * both**2 / (1 + one) + SpaceSum(kappa, mode)
    opened = (s + both) * SpaceSum(V * a / (s + kappa), mode) - two * SpaceSum(V * b, mode) + SpaceSum(V * kappa, mode)
    rng = np.random.default_rng(0)
    values = {V: rng.normal(size=(3, 2)), kappa: rng.uniform(1, 2, 2), s: 0.7, site.size: 3, mode.size: 2}
    nodes, W = rng.normal(size=(5, 2)), rng.normal(size=(5, 5))
    given = {getattr(key, "name", str(key)): value for key, value in values.items()}
    matrix = Pairs(closed, [a], {a: b}).bind(given, [nodes]).matrix()
    average = Pairs(opened, [a], {a: b}).bind(given, [nodes]).average(W)
    total = np.zeros(3)
    for i in range(5):
        for k in range(5):
            at = {**values, a: nodes[i], b: nodes[k]}
            assert matrix[i, k] == pytest.approx(float(np.real(evaluate(closed, at))), rel=1e-10)
            total += W[i, k] * np.real(np.asarray(evaluate(opened, at, axes=[site])))
    np.testing.assert_allclose(average, total, rtol=1e-10)


# -------------------------------------------------------------------------------------------------- exact limits


@pytest.mark.parametrize("options", [MEDIUM, BOTH], ids=str)
def test_one_neuron_is_exact(options: dict[str, Any]) -> None:
    found = theory(options).predict(ONE, width=1, outputs=["mean_output", "test_output"])
    assert np.abs([found.mean_output[0], found.test_output[0]] - np.array(exact(1))).max() < 1e-9


def test_each_correction_gains_a_power_of_the_width() -> None:
    """Errors at one sample fall as 1/N, 1/N², 1/N³; each is the next correction, so that coefficients are right too."""
    errors: dict[str, list[np.ndarray]] = {}
    for width in (12, 36):
        truth = np.array(exact(width))
        for options in (PLAIN, MEDIUM, BOTH):
            found = theory(options).predict(ONE, width=width, outputs=["mean_output", "test_output"])
            errors.setdefault(str(options), []).append(
                np.array([float(found.mean_output[0]), float(found.test_output[0])]) - truth)
    for order, options in enumerate((PLAIN, MEDIUM, BOTH), start=1):
        few, many = errors[str(options)]
        exponent = np.log(np.abs(few / many)) / np.log(3)
        assert np.all(np.abs(exponent - order) < 0.2), (options, exponent)
    for lower, higher in ((PLAIN, MEDIUM), (MEDIUM, BOTH)):
        ratio = [1 - after / before for before, after in zip(errors[str(lower)], errors[str(higher)], strict=True)]
        extrapolated = ratio[1] + (ratio[1] - ratio[0]) / 2  # linear in 1/N
        assert np.all(np.abs(extrapolated - 1) < 0.02), ratio
    assert np.all(np.abs(errors["{}"][1]) > 20 * np.abs(errors[str(MEDIUM)][1]))


@pytest.mark.slow
def test_particles_agree_with_quadrature() -> None:
    """Three inputs and one sample: the law of w·x is that of one input with the same variance."""
    direction = np.array([[1.0, 1.0, 1.0]])
    data = ft.Dataset(X * direction, np.array([Y]))
    effort = dict(ensembles=4, particles=192, settle=40, average=60, measure=30)
    found = theory(BOTH).predict(data, width=4, effort=effort, outputs=["mean_output"])
    grid = theory(BOTH).predict(ONE, width=4, outputs=["mean_output"])
    error = float(found.mean_output_mcse[0])
    assert error < 3e-3
    assert abs(float(found.mean_output[0] - grid.mean_output[0])) < 5 * error
    plain = theory(PLAIN).predict(ONE, width=4, outputs=["mean_output"])
    assert abs(float(plain.mean_output[0] - grid.mean_output[0])) > 0.01  # a correction that did nothing


# ---------------------------------------------------------------------------------- many samples, linear network


LINEAR = ft.Network(activation="identity", width=3, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0)


def many_samples(width: int, labels: float) -> ft.Dataset:
    rng = np.random.default_rng(0)
    inputs = rng.choice([-1.0, 1.0], size=(int(0.6 * width), int(0.8 * width)))
    return ft.Dataset(inputs, labels * np.sign(inputs @ rng.standard_normal(inputs.shape[1])))


def linear_error(width: int, *, self_consistent: bool, labels: float = 1.0) -> float:
    """Relative error of ⟨f⟩ for the identity at D = .8 N, P = .6 N, without Monte-Carlo error."""
    data = many_samples(width, labels)
    truth = ft.exact.linear(LINEAR.replace(width=width), data).mean_output.values
    found = linear_cavity.mean_output(data.X, data.y, width, self_consistent=self_consistent)
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("options", [PLAIN, MEDIUM], ids=str)
def test_the_linear_cavity_by_quadrature_and_by_gaussian_mixtures(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    data = ft.Dataset(rng.normal(size=(2, 2)), np.array([1.5, -2.0]))
    found = theory(options, "identity").with_network(LINEAR).predict(data, outputs=["mean_output"]).mean_output.values
    mixtures = [linear_cavity.mean_output(data.X, data.y, 3, self_consistent=which) for which in (False, True)]
    right, wrong = mixtures[::-1] if options else mixtures
    np.testing.assert_allclose(found, right, rtol=1e-7)
    assert np.abs(found - wrong).max() > 1e-3


def test_many_samples_need_the_self_consistent_medium() -> None:
    """At P ∝ N the mean medium errs at order one; the self-consistent one as 1/N, for small labels."""
    widths = (25, 50, 100)
    plain = [linear_error(N, self_consistent=False, labels=0.01) for N in widths]
    medium = [linear_error(N, self_consistent=True, labels=0.01) for N in widths]
    assert min(plain) > 0.09 and max(plain) < 0.12
    slopes = np.diff(np.log(medium)) / np.log(2)
    assert np.all(np.abs(slopes + 1) < 0.25), slopes
    assert medium[-1] < 1e-3


def test_labels_that_tilt_the_law_leave_an_error() -> None:
    """With |y|² ~ N an error quadratic in the labels stays at P ∝ N: it is not the resolvent's."""
    tilted = [linear_error(N, self_consistent=True) for N in (50, 100)]
    assert all(0.004 < error < 0.008 for error in tilted), tilted
    plain = [linear_error(N, self_consistent=False) for N in (50, 100)]
    assert all(before > 10 * after for before, after in zip(plain, tilted, strict=True))


def test_pairs_of_too_few_particles_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "NODES", 192)
    few = dict(ensembles=2, particles=48, settle=10, average=10, measure=10)
    net = LINEAR.replace(width=40)
    found = theory(PAIRS, "identity").with_network(net).predict(many_samples(40, 1.0), effort=few,
                                                                outputs=["mean_output"])
    assert found.attrs["self_pairs"] > clusters.SELF_PAIRS and "chains of pairs" in found.attrs["status"]
    direction = np.array([[1.0, 1.0, 1.0]])
    found = theory(PAIRS, "identity").with_network(net).predict(ft.Dataset(X * direction, np.array([Y])), effort=few,
                                                                outputs=["mean_output"])
    assert found.attrs["self_pairs"] < clusters.SELF_PAIRS and "chains of pairs" not in found.attrs["status"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [PLAIN, MEDIUM], ids=str)
def test_particles_reach_the_linear_cavity(options: dict[str, Any]) -> None:
    """Along the solution; the noise of the medium biases outputs by about a tenth of the square of its spread."""
    width, net = 50, LINEAR.replace(width=50)
    data = many_samples(width, 1.0)
    right = linear_cavity.mean_output(data.X, data.y, width, self_consistent=bool(options))
    draws, spreads = [], []
    for seed in range(6):
        effort = dict(ensembles=2, particles=96, settle=60, average=150, measure=60, seed=seed)
        found = theory(options, "identity").with_network(net).predict(data, effort=effort, outputs=["mean_output"])
        draws.append(found.mean_output.values @ right / (right @ right) - 1)
        spreads.append(found.attrs["spread"]**2)
    error = np.std(draws, ddof=1) / np.sqrt(len(draws))
    assert error < 0.01
    assert abs(np.mean(draws)) < 4 * error + 0.3 * np.mean(spreads), (draws, spreads)
    wrong = linear_cavity.mean_output(data.X, data.y, width, self_consistent=not options)
    assert abs(wrong @ right / (right @ right) - 1) > 4 * error + 0.3 * np.mean(spreads)


# --------------------------------------------------------------------------------------------------------- errors


def test_bad_input() -> None:
    for options, match in (({"resolvent": "best"}, "resolvent"), ({"loops": 2}, "loops")):
        with pytest.raises(BadInput, match=match):
            ft.theories["collapsed-mean-field"](NET, **options)
    S = NET.action().conjugate("f", "output", conjugate="j")
    with pytest.raises(RuleError, match="no cavity"):
        S.fluctuation()
    with pytest.raises(UnknownName, match="readout_norm"):
        theory(PAIRS).predict(ONE, outputs=["readout_norm"])
    two = ft.Dataset(np.array([[1.0, 0.3]]), np.array([1.0]))
    with pytest.raises(BadInput, match="quadrature"):
        theory(PAIRS).predict(two)
