"""Limits of all closures, measured: exponents and coefficients in 1/N, against posteriors known exactly.

At γ = 1 everything tends to regression with the fixed kernel, and perturbation theory gives the first coefficient of
each closure and of the posterior (``oracles/first_order``).  Under mean-field scaling the limit is another one, which
the closures that follow the weights share.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import scipy.special
import sympy as sp

import fieldtheory as ft
from fieldtheory.onesite.convex import Potential, minimise
from fieldtheory.symbolic.closures import FieldClosure
from fieldtheory.symbolic.counting import power_counting
from fieldtheory.symbolic.fields import Entry, SpaceSum, sums
from fieldtheory.symbolic.forms import gaussian, gaussian_average
from tests.oracles import few_samples, first_order, one_neuron

ADAPTIVE = ("mean-field", "collapsed-mean-field", "adaptive-kernel")
FUNCTIONS = {"erf": scipy.special.erf, "relu": lambda h: np.maximum(h, 0.0)}
SCALINGS = {"standard": ft.Scaling.standard(), "mean-field": ft.Scaling.mean_field()}
X, Y = np.array([[0.7], [-1.3]]), np.array([1.6, 1.0])
DATA = ft.Dataset(X, Y)
NET = ft.Network(width=8, readout_variance=1.5, weight_variance=1.2, noise_variance=0.3)


@cache
def theory(name: str, activation: str, scaling: str = "standard") -> ft.Theory:
    return ft.theories[name](NET.replace(activation=activation, scaling=SCALINGS[scaling]))


def mean(name: str, activation: str, width: int, scaling: str = "standard", data: ft.Dataset = DATA) -> np.ndarray:
    return np.asarray(theory(name, activation, scaling).predict(data, width=width, outputs=["mean_output"]).mean_output)


@cache
def exact(activation: str, width: int, scaling: str = "standard", samples: int = 2) -> few_samples.Posterior:
    net = NET.replace(scaling=SCALINGS[scaling], width=width)
    g, s = net.effective_readout_variance(), net.effective_noise_variance()
    found = few_samples.posterior(X[:samples], Y[:samples], width, width / g, 1.2, s, FUNCTIONS[activation])
    assert found.error < 1e-8
    return found


# ------------------------------------------------------------------------------------------------- the witness


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_witness_is_exact_where_another_is(scaling: str) -> None:
    """Identity of any width against the quadrature over Q; one neuron against a grid of its weights."""
    rng = np.random.default_rng(0)
    for samples, width in ((1, 40), (2, 40)):
        X, y, X_test = rng.normal(size=(samples, 1)), 2 * rng.normal(size=samples), rng.normal(size=(3, 1))
        net = NET.replace(activation="identity", width=width, scaling=SCALINGS[scaling])
        expected = ft.exact.linear(net, ft.Dataset(X, y, X_test, np.ones(3)))
        g, s = net.effective_readout_variance(), net.effective_noise_variance()
        found = few_samples.posterior(X, y, width, width / g, 1.2, s, lambda h: h, X_test)
        assert np.abs(found.mean - expected.mean_output.values).max() < 1e-10
        assert np.abs(found.test - expected.test_output.values).max() < 1e-10
        assert abs(found.log_evidence - float(expected.log_evidence)) < 1e-9 and found.error < 1e-9


@pytest.mark.slow
def test_the_witness_is_exact_for_one_neuron() -> None:
    for phi in (scipy.special.erf, np.tanh):
        test = np.array([0.2, 2.0])
        expected, at_test = one_neuron.exact_one_neuron(X[:, 0], Y, 1 / 1.5, 1.2, 0.3, phi, test)
        found = few_samples.posterior(X, Y, 1, 1 / 1.5, 1.2, 0.3, phi, test[:, None])
        assert np.abs(found.mean - expected).max() < 1e-11 and np.abs(found.test - at_test).max() < 1e-11


# ------------------------------------------------------------------------------- N → ∞ at γ = 1: kernel regression


@cache
def coefficients(activation: str) -> dict[str, np.ndarray]:
    w, logs = few_samples.prior_nodes(1, 1.2)
    return first_order.coefficients(FUNCTIONS[activation](X @ w), np.exp(logs), Y, 1.5, 0.3)


def approach(name: str, activation: str) -> tuple[float, np.ndarray]:
    """The exponent of the distance from regression with the fixed kernel, and N times it as N → ∞ (Richardson)."""
    limit = mean("nngp", activation, 10)
    gaps = [(exact(activation, N).mean if name == "exact" else mean(name, activation, N)) - limit for N in (1000, 4000)]
    slope = np.log(np.linalg.norm(gaps[0]) / np.linalg.norm(gaps[1])) / np.log(4)
    return float(slope), (4 * 4000 * gaps[1] - 1000 * gaps[0]) / 3


@pytest.mark.parametrize("activation", ["erf", pytest.param("relu", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["exact", "kernel-rescaling", *ADAPTIVE])
def test_wide_networks_regress_with_the_fixed_kernel(name: str, activation: str) -> None:
    slope, found = approach(name, activation)
    expected = coefficients(activation)
    size = max(float(np.abs(value).max()) for value in expected.values())
    assert abs(slope - 1) < 0.03
    assert np.abs(found - expected[name]).max() < 1e-3 * size
    for other, wrong in expected.items():
        assert other == name or np.abs(found - wrong).max() > 1e-2 * size


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_what_the_collapsed_theory_lacks_is_the_fluctuation_of_the_kernel(activation: str) -> None:
    """Of the posterior's first coefficient all but -g² s G [⟨φφᵀGφφᵀ⟩ - KGK] t is there; not so for the others."""
    w, logs = few_samples.prior_nodes(1, 1.2)
    lacking = first_order.kernel_fluctuation(FUNCTIONS[activation](X @ w), np.exp(logs), Y, 1.5, 0.3)
    known = coefficients(activation)
    difference = known["exact"] - known["collapsed-mean-field"]
    assert np.abs(difference - lacking).max() < 1e-12 * np.abs(lacking).max() + 1e-14
    for name in ("mean-field", "adaptive-kernel"):
        assert np.abs(known["exact"] - known[name] - lacking).max() > 1e-3


# ------------------------------------------------------------------------------------------ mean-field scaling


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_mean_field_scaling_leaves_the_closures_that_follow_the_weights(activation: str) -> None:
    """Their distance from the posterior falls as 1/N; without feature learning, or by rescaling alone, it does not."""
    widths = (128, 512)
    truth = [exact(activation, N, "mean-field").mean for N in widths]
    gaps = {name: [float(np.linalg.norm(mean(name, activation, N, "mean-field") - f)) for N, f in zip(widths, truth)]
            for name in (*ADAPTIVE, "nngp", "kernel-rescaling")}
    slopes = {name: np.log(first / second) / np.log(4) for name, (first, second) in gaps.items()}
    assert abs(slopes["adaptive-kernel"] - 1) < 0.03 and 0.7 < slopes["mean-field"] < 1.1, slopes
    assert abs(slopes["nngp"]) < 0.2 and abs(slopes["kernel-rescaling"]) < 0.2
    assert gaps["mean-field"][1] < gaps["nngp"][1] / 4
    assert abs(slopes["collapsed-mean-field"] - 1) < 0.1
    assert all(gaps["collapsed-mean-field"][k] < gaps["mean-field"][k] / 4 for k in range(2))


@pytest.mark.parametrize(("activation", "scaling"), [("relu", "mean-field"), ("erf", "standard")])
def test_the_tree_level_errs_by_one_loop(activation: str, scaling: str) -> None:
    """⟨t⟩ - t = ½ F''⁻¹ ∂ ln det F'' + …: the loop that is dropped, at finite N, of relative order 1/N."""
    ratios = []
    for width in (100, 400):
        predictor = theory("adaptive-kernel", activation, scaling)._site_predictor
        environment = predictor.environment(False)
        values = predictor.values(theory("adaptive-kernel", activation, scaling).network, DATA, width)
        minimum = minimise(environment, values)
        potential, slopes = Potential(environment.closure, values), []
        for e in np.eye(2):
            h, sides = 1e-3 * np.linalg.norm(minimum.point), []
            for sign in (1, -1):
                t = minimum.point + sign * h * e
                found = potential.at(t, minimum.sampler)
                sides.append(np.linalg.slogdet(potential.derivatives(t, found, minimum.sampler.weights)[1])[1])
            slopes.append((sides[0] - sides[1]) / (2 * h))
        loop = -values["s"] * np.linalg.solve(minimum.curvature, np.array(slopes)) / 2
        error = exact(activation, width, scaling).mean - mean("adaptive-kernel", activation, width, scaling)
        ratios.append(float(np.linalg.norm(error - loop) / np.linalg.norm(loop)))
    assert ratios[1] < 0.02 and abs(np.log(ratios[0] / ratios[1]) / np.log(4) - 1) < 0.25, ratios


# -------------------------------------------------------------------- identity: where closures differ, by counting


def test_the_terms_that_differ_for_the_identity_are_of_order_p_over_n() -> None:
    """Mean field charges a neuron |φ|² g/(sN), the collapsed theory φᵀGφ g/N, the tree level nothing.

    Both are averaged over the prior by rule and counted with the linear theory's equation of state: 1/N at a fixed
    number of samples, P/N at P ~ N^p, under either scaling.  The trace that the tree level drops is of that order too.
    """
    net = NET.replace(activation="identity", scaling=ft.Scaling())
    linear = ft.theories["linear"](net, view="adaptation", loops=0)
    lam, mode = linear.action["lambda"], linear.action.space("mode")
    charges = {}
    for name in ("mean-field", "collapsed-mean-field"):
        S = ft.theories[name](net).action
        w, inputs = S["w"], S.space("input")
        prior = S["D"] * SpaceSum(w**2, inputs) / (2 * S["sigma_w^2"])
        assert sp.expand(S.expr - prior).coeff(SpaceSum(w**2, inputs)) == 0
        (log,) = {node for node in S.expr.atoms(sp.log) if any(total.has(w) for total in node.atoms(SpaceSum))}
        (coefficient, total), = [(sp.Mul(*(f for f in sp.Mul.make_args(term) if not f.has(w))), node)
                                 for term in [sp.expand(log.args[0] - 1)] for node in sums(term)]
        average = gaussian_average(total.body, gaussian(prior, w))
        (direction,) = (node for node in average.atoms(SpaceSum) if node.space == inputs)
        # tr K = Σ_k λ_k, and VᵀKV is diagonal in the eigenbasis, where the others' mean kernel is g λ
        diagonal = average.xreplace({direction: S["D"] / S["sigma_w^2"] * lam})
        spectrum = {e: S["g"] * lam for e in diagonal.atoms(Entry) if e.domain == "spectrum" and e != lam}
        charges[name] = coefficient * SpaceSum(diagonal.xreplace(spectrum), mode)
    assert isinstance(linear.closure, FieldClosure)
    tree = linear.closure.tree
    exponents = linear._exponents([*tree.equations, *charges.values()], tree.unknowns)
    found = power_counting(tree.equations, tree.unknowns, exponents, {"tree": sp.S.One, **charges},
                           corrections=tuple(charges))
    for gamma, delta in ((1, 0), (2, 1)):
        for p in (0, 1):
            for chamber in found.at(gamma=gamma, delta=delta, p=p):
                assert {chamber.contributions[name] for name in charges} == {p - 1}
    assert all(chamber.contributions["mean-field"] != chamber.contributions["collapsed-mean-field"]
               for chamber in found.at(gamma=1, delta=sp.Rational(1, 2), p=0))  # |φ|²/s and φᵀGφ differ where s falls
    trace = linear.power_counting()
    for p in (0, 1):
        for chamber in trace.at(gamma=1, delta=0, p=p):
            kept = max(chamber.contributions[k] for k in linear.closure.contributions)
            assert chamber.contributions["trace"] - kept == p - 1
