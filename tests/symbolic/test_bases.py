"""Sums over samples as averages over inputs: against sums over every corner of a small hypercube."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import scipy.special
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.symbolic.bases import InputAverage, evaluated, obstruction
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from tests.populations import limit

NET = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1)
U = sp.Symbol("u", real=True)
ACTIVATIONS = {
    "relu": (sp.Max(U, 0), lambda h: np.maximum(h, 0)), "erf": (sp.erf(U), scipy.special.erf),
    "tanh": (sp.tanh(U), np.tanh), "quadratic": (U**2, lambda h: h**2), "cubic": (U + U**3, lambda h: h + h**3),
    "abs": (sp.Abs(U), np.abs), "tilted": (sp.erf(U) + sp.Abs(U), lambda h: scipy.special.erf(h) + np.abs(h)),
}


def test_projection_and_decoupling_commute():
    first = NET.action().project("sample", "X", "hypercube").decouple("site", "m").integrate_out("a")
    second = NET.action().decouple("site", "m").project("sample", "X", "hypercube").integrate_out("a")
    last = NET.action().decouple("site", "m").integrate_out("a").project("sample", "X", "hypercube")
    assert sp.srepr(first.expr) == sp.srepr(second.expr) == sp.srepr(last.expr)


def test_the_mean_square_of_relu_is_an_average_not_a_formula():
    S = NET.action().decouple("site", "m").integrate_out("a").project("sample", "X", "hypercube").complete()
    assert "S_input[w**2]/(2*s)" in str(S.expr) and "S_input[w**2]/(2*s)" not in str(NET.action().expr)


@pytest.mark.parametrize("law, fourth", [("hypercube", -2), ("gaussian", 0)])
def test_polynomial_averages_are_moments(law, fourth):
    """E (w·x)⁴ = 3 (Σ w²)² - 2 Σ w⁴ for signs, 3 (Σ w²)² for Gaussian inputs."""
    inputs = Space("input", sp.Symbol("D", positive=True))
    w, x, e = Entry("w", "real", (inputs,)), Entry("x", "data", (inputs,)), Entry("e", "data", (Space("mode", 4),))
    h = SpaceSum(x * w, inputs)
    found = evaluated(InputAverage(h**4 + h**3, x, e, law))
    assert sp.expand(found - 3 * SpaceSum(w**2, inputs)**2 - fourth * SpaceSum(w**4, inputs)) == 0


@pytest.mark.parametrize("activation, law, target", [("relu", "hypercube", 2), ("tanh", "hypercube", 3),
                                                     ("erf", "gaussian", 1)])
def test_the_steps_verify_themselves(activation, law, target):
    derivation = limit("mean-field", NET.replace(activation=activation), law, target).derivation
    report = derivation.verify(seed=1)
    assert report.ok, report


@pytest.mark.parametrize("rule", ["project", "complete", "restrict"])
def test_a_wrong_step_is_caught(rule):
    derivation = limit("mean-field", NET).derivation
    k = next(k for k, step in enumerate(derivation.steps) if step.rule == rule)
    step = derivation.steps[k]
    P = sp.Symbol("P", positive=True)
    wrong = replace(step, after=step.after.replace_expr(step.after.expr.xreplace({P: 2 * P})))
    report = replace(derivation, steps=(*derivation.steps[:k], wrong, *derivation.steps[k + 1:])).verify()
    assert any(row.rule == rule and row.quantity == "S" for row in report.failures)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(ACTIVATIONS)), order=st.integers(0, 5), seed=st.integers(0, 999))
def test_what_an_activation_cannot_see(name, order, seed):
    expr, function = ACTIVATIONS[name]
    corners = np.array(list(product([-1.0, 1.0], repeat=5)))
    w = np.random.default_rng(seed).normal(size=5)
    if obstruction(expr, U, order):
        assert abs(np.mean(function(corners @ w) * corners[:, :order].prod(axis=1))) < 1e-12
    else:  # some weights see it; a single large one need not
        w = np.where(np.arange(5) < order, 1.0, 0.01 * w)
        assert abs(np.mean(function(corners @ w) * corners[:, :order].prod(axis=1))) > 1e-9


def test_refusals():
    with pytest.raises(UnknownName, match="hypercube"):
        NET.action().project("sample", "X", "cube")
    with pytest.raises(BadInput, match="matrix"):
        NET.action().project("sample", "y", "hypercube")
    with pytest.raises(BadInput, match="order"):
        obstruction(U, U, -1)
    S = NET.action().project("sample", "X", "hypercube").decouple("site", "m").integrate_out("a")
    with pytest.raises(RuleError, match="inside the average over inputs"):
        S.gradient("w")
