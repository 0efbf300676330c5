"""The adaptive kernel in the population limit: potential, condensate, known values, the linear theory, refusals."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.population import PopulationTheory
from fieldtheory.population.nodes import population_values
from fieldtheory.symbolic.treelevel import radial
from tests.populations import limit

NET = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.25)
HE = {1: 1.0, 3: -0.3}


@cache
def parity(order: int) -> PopulationTheory:
    return limit("adaptive-kernel", NET, "hypercube", order)


@cache
def direction(order: int | None = None) -> PopulationTheory:
    net = NET.replace(activation="erf", width=128, noise_variance=40.0, scaling=ft.Scaling.mean_field())
    return limit("adaptive-kernel", net, "gaussian", HE, modes=[], order=order)


def test_the_law_comes_from_the_rules() -> None:
    theory = parity(2)
    assert [step.rule for step in theory.action.steps][-4:] == ["site_saddle", "project", "complete", "restrict"]
    u, t, y = sp.Symbol("u", real=True), sp.Symbol("t", real=True), sp.Symbol("y", real=True)
    g, N, P, s, D = sp.symbols("g N P s D", positive=True)
    assert sp.expand(theory.tilt + P**2 * g * u**2 / (2 * N)) == 0
    assert sp.simplify(theory.exponent - D * sp.log(1 - P**2 * g * u**2 / N) / 2) == 0
    assert sp.expand(theory.output - (y - s * t)) == 0
    assert set(theory.equations) == {"t"} and theory.closure.convex
    assert direction().exponent == direction().tilt and theory.radial


def test_the_radius_is_integrated() -> None:
    tilt, n = sp.Symbol("tilt", real=True), sp.Symbol("n", positive=True)
    formula = sp.lambdify((tilt, n), radial(tilt, n), "math")
    for value, size in ((0.7, 3), (-0.3, 8)):
        law = scipy.stats.chi(size)
        exact, _ = scipy.integrate.quad(lambda r, v=value, law=law: np.exp(law.logpdf(r) - v * r**2), 0, 25)
        assert abs(formula(value, size) + np.log(exact)) < 1e-8


@pytest.mark.parametrize("case", ["relu", "erf"])
def test_slope_and_curvature_are_derivatives_of_the_potential(case: str) -> None:
    theory, D = (parity(2), 6) if case == "relu" else (direction(3), 7)
    values, variance = population_values(theory.network, 0.01, None, None)
    values["D"] = float(D)
    batch = theory.nodes(D, variance, None, 512, 2, 0)[0]
    F = theory._potential(batch, values)
    t = np.array([20.0]) if case == "relu" else np.array([40.0, -9.0, 5.0])
    here, h = F(t), 1e-3
    for k, e in enumerate(np.eye(len(t))):
        up, down = F(t + h * e), F(t - h * e)
        assert abs((up.value - down.value) / (2 * h) - here.slope[k]) < 1e-6 * np.abs(here.slope).max()
        assert np.abs((up.slope - down.slope) / (2 * h) - here.curvature[k]).max() < 1e-6 * here.curvature.max()
    assert np.linalg.eigvalsh(here.curvature).min() > 0.01 * (1 - 1e-9)  # the stiffness


@pytest.mark.parametrize("samples", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_the_identity_gives_the_linear_tree_level(samples: int) -> None:
    """1 - g/q = (g/N) y A_q K A_q y with K = σ_w² P/D along the target, on which y has length √P."""
    net, D, N = NET.replace(activation="identity", readout_variance=1.4, weight_variance=0.8), 12, 64

    def linear(g: float) -> float:
        size, s = 0.8 * samples / D, 0.25
        q = scipy.optimize.brentq(lambda q: 1 - g / q - g / N * size * samples / (q * size + s)**2, g, 1e7)
        return q * size / (q * size + s)

    found = limit("adaptive-kernel", net, "gaussian", 1).solve(D, samples=samples)
    assert abs(found.m - linear(1.4)) < 1e-9 and found.condensate == 0.0
    assert abs(found.m - linear(1.5)) > 1e-4
    cube = limit("adaptive-kernel", net, "hypercube", 1).solve(D, samples=samples, nodes=2048)
    assert abs(cube.m - linear(1.4)) < 4 * cube.error + 1e-6 < 3e-3


def test_known_values_for_a_direction() -> None:
    """Population values that were found by another program: D = 12, P = 400, s = 40, and D = 16, P = 48, s = 1."""
    found = direction(5).solve(12, samples=400)
    assert found.status == "converged" and found.margin == 1.0
    assert abs(found.m - 0.49839) < 2e-4 and abs(found.order_parameters[3] + 0.05920) < 2e-4
    few = direction().solve(12, samples=400)  # two modes are not enough, and say so
    assert few.m > 0.5 and few.status.startswith("truncated") and few.left_out > 2e-3 > 20 * found.left_out > 0
    found = direction(5).solve(16, noise=1 / (128 * 48))
    assert abs(found.order_parameters[1] - 0.878) < 1e-3 and abs(found.order_parameters[3] + 0.132) < 1e-3


def test_only_two_numbers_enter() -> None:
    """Standard scaling at (σ_a², s) is mean-field scaling at (N σ_a², N s)."""
    one = parity(2).solve(6, samples=300, nodes=512)
    net = NET.replace(scaling=ft.Scaling.mean_field(), readout_variance=64.0, noise_variance=16.0)
    other = limit("adaptive-kernel", net, "hypercube", 2).solve(6, samples=300, nodes=512)
    assert abs(one.m - other.m) < 1e-10


@pytest.mark.parametrize(("order", "overlap", "known"), [(2, 8**-0.5, 0.719), (4, 1 / 8, 0.0333)])
def test_a_condensate_carries_what_the_law_cannot(order: int, overlap: float, known: float) -> None:
    """Beyond t_c = √(N D/(g σ_w²))/max(J/|w|) there is no law; the output is y - s t_c, and F still falls there.

    What the law carries at the edge is known from another program.
    """
    edge = np.sqrt(64 * 8) / overlap
    theory, given = parity(order), dict(nodes=2048)
    found = theory.solve(8, noise=0.2 / edge, **given)
    assert f"a share {found.condensate:.2g} of the output is a condensate" in found.status and found.margin < 1e-10
    assert found.residual < 1e-9 and 0 < found.error < 1e-9  # on the closed domain, where the edge is known
    assert abs(found.m - 0.8) < 1e-9 and abs(found.discrepancy[order] - edge) < 1e-8 * edge
    carried = 0.8 * (1 - found.condensate)  # by the law at the edge, whatever the noise is
    assert abs(carried - known) < 5 * 0.8 * found.condensate_error + 0.001 * known + 1e-4
    assert found.condensate_error < 0.02
    other = theory.solve(8, noise=0.1 / edge, **given)
    assert abs(other.m * (1 - other.condensate) - carried) < 1e-9
    onset = (1 - carried) / edge
    inside, beyond = (theory.solve(8, noise=factor * onset, **given) for factor in (1.1, 0.9))
    assert inside.condensate == 0 and inside.residual < 1e-9 and inside.margin > 0
    assert beyond.condensate > 0.01 and inside.status == "converged"


def test_large_dimension_and_several_modes() -> None:
    far = parity(4).solve(32, noise=3e-4, nodes=2048)
    assert far.nodes > 100 and far.error < 0.02
    index = limit("adaptive-kernel", NET, "gaussian", 2, order=2)
    found = index.solve(8, noise=0.01)
    assert found.residual < 1e-9 and 0 < found.margin < 1 and np.linalg.eigvalsh(np.array(found.curvature)).min() > 0
    assert abs(found.order_parameters[1]) < 1e-12  # by symmetry
    way = index.follow(8, noise=[0.005, 0.01, 0.02])
    assert way.attrs["unique"]


@pytest.mark.parametrize(("activation", "order", "error", "message"), [
    ("quadratic", 2, RuleError, "diverges"), ("relu", 3, BadInput, "order 3"),
    (sp.sqrt(1 + sp.Symbol("h")**2), 2, BadInput, "bounded")])
def test_what_has_no_law_is_refused(activation: Any, order: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        limit("adaptive-kernel", NET.replace(activation=activation), "hypercube", order)


def test_the_derivation_verifies_itself() -> None:
    report = parity(2).derivation.verify(seed=1)
    assert report.ok, str(report)
