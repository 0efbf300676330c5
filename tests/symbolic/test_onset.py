"""The onset of feature learning at large D: thresholds against brute force, exponents against counted ones."""

from itertools import product
from math import comb

import mpmath
import numpy as np
import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.onset import HALF_ORDER, RATIO
from tests.populations import limit

NET = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1)
ONE = {"D": 1.0, "N": 1.0, "g": 1.0, "sigma_w^2": 1.0, "r": 1.0}


@pytest.fixture(scope="module")
def onset():
    return limit("mean-field", NET).onset


def test_branches_and_exponents(onset):
    """κ_c² = s/P: D^-1 for N << D, (N D)^-½ for N >> D, and what it is at either side of N ~ D agrees."""
    found = onset.branches()
    assert set(found) == {"saturated", "unsaturated"}
    nu = sp.Symbol("nu", real=True)
    assert found["saturated"].exponent == -1 and found["saturated"].condition == (sp.Le(nu, 1),)
    assert sp.expand(found["unsaturated"].exponent + (1 + nu) / 2) == 0
    assert found["unsaturated"].condition[0] in (sp.Ge(nu, 1), sp.Le(1, nu))
    assert found["unsaturated"].exponent.subs(nu, 1) == found["saturated"].exponent
    assert "N ~ D**nu" in found["saturated"].assumptions
    for branch in onset.branches(relevance=True).values():
        assert not branch.exponent.has(sp.S.One * 0 + sp.Symbol("D")) and branch.exponent.subs(nu, 0) == 0


@pytest.mark.parametrize("k, saturated, aligned", [(2, .255, .5), (4, .0735, .25), (6, .0420, .1875),
                                                     (8, .0292, .15625)])
def test_reference_thresholds(onset, k, saturated, aligned):
    branches = onset.branches()
    assert float(onset.critical(branches["saturated"], k, **ONE)) == pytest.approx(saturated, abs=6e-4)
    kappa = float(onset.critical(branches["unsaturated"], k, D=10.0, N=7.0, g=2.0, **{"sigma_w^2": 1.3}))
    assert kappa**4 == pytest.approx(1.3 * aligned**2 * 2.0 / (7.0 * 10.0 * k), rel=1e-12)


def test_the_aligned_overlap_in_closed_form(onset):
    """Gosper's sum against the sum, and against C(k-2, (k-2)/2)/2^(k-1)."""
    c = onset.aligned()
    for n in range(1, 8):
        k = 2 * n
        brute = sp.Rational(sum((-1)**i * comb(k, i) * max(k - 2 * i, 0) for i in range(k + 1)), 2**k)
        assert c.xreplace({HALF_ORDER: sp.Integer(n)}) == brute
        assert abs(brute) == sp.Rational(comb(k - 2, n - 1), 2**(k - 1))
    assert onset.aligned_exponent() == -2  # so that κ_c ~ k^-½ at fixed N D


@pytest.mark.parametrize("k, t", [(2, 0.2), (4, 0.05), (4, 1.3)])
def test_overlap_against_quadrature(onset, k, t):
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    corners = np.array(list(product([-1.0, 1.0], repeat=k)))
    h = corners.sum(axis=1)[:, None] + np.sqrt(k * t) * nodes
    brute = (corners.prod(axis=1)[:, None] * np.maximum(h, 0) * weights / weights.sum()).sum() / 2**k
    found = sp.lambdify(RATIO, onset.overlap(k), "mpmath")(mpmath.mpf(t))
    assert float(found) * np.sqrt(k * (1 + t)) == pytest.approx(brute, abs=3e-3)


def test_equal_weights_on_the_relevant_inputs_are_best(onset):
    """J²/|w|² of any weights on six inputs, all corners summed, is at most that of k equal ones."""
    corners = np.array(list(product([-1.0, 1.0], repeat=6)))
    w = np.random.default_rng(0).normal(size=(4000, 6))
    for k in (2, 4):
        best = float(onset.maximum(onset.branches()["unsaturated"], k)[0])
        w[:, k:] *= np.random.default_rng(1).random((4000, 1))
        J = (np.maximum(w @ corners.T, 0) * corners[:, :k].prod(axis=1)).mean(axis=1)
        ratio = np.abs(J) / np.linalg.norm(w, axis=1)
        assert 0.5 * best < ratio.max() <= best * (1 + 1e-12)


def test_exponents_in_the_order(onset):
    """Steeper than -½ everywhere; -½ is reached in the unsaturated branch only, the saturated one tends to -1."""
    branches = onset.branches()
    slopes = {name: [float(onset.local_exponent(b, k)) for k in (2, 8, 32)] for name, b in branches.items()}
    assert slopes["unsaturated"] == pytest.approx([-.75, -.549, -.5119], abs=1e-3)
    assert slopes["saturated"] == pytest.approx([-1.798, -1.214, -1.097], abs=2e-3)


def test_refusals(onset):
    with pytest.raises(BadInput, match="order"):
        onset.maximum(onset.branches()["saturated"], 3)
    with pytest.raises(RuleError, match="power law"):
        _ = limit("mean-field", NET.replace(activation="erf"), target=3).onset
    with pytest.raises(RuleError, match="parities"):
        _ = limit("mean-field", NET, "gaussian", 2).onset
