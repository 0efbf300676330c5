"""Closures: which one an action gets, and what its averages are."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.closures import (
    Closure,
    FieldClosure,
    ScalarClosure,
    close,
    hyperparameter_derivative,
    linear_coefficient,
)
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, vary
from fieldtheory.symbolic.loops import ScalarExpansion
from fieldtheory.symbolic.rules import FieldAction
from fieldtheory.symbolic.saddle import conjugate_to

N, P, T = sp.symbols("N P T", positive=True, integer=True)
g, s, theta = sp.symbols("g s theta", positive=True)
mode, test = Space("mode", P), Space("test", T)
lam, y, v = Entry("lambda", "spectrum", (mode,)), Entry("y", "data", (mode,)), Entry("v", "data", (mode,))
projected = Entry("T", "data", (test, mode))
j = Entry("j", "imaginary", (mode,))
u = Entry("u", "real")
ENERGY = SpaceSum(lam * j**2, mode)
W = N * sp.log(1 - g * ENERGY / N) / 2 + SpaceSum(j * y - s * j**2 / 2, mode)
SCALAR = N * (sp.exp(u) / g - u) / 2 + SpaceSum(sp.log(lam * sp.exp(u) + s), mode) / 2
VALUES = {N: 9, g: 0.7, s: 0.4, P: 3, lam: np.array([0.5, 1.0, 2.0]), y: np.array([1.0, -0.5, 1.5]),
          v: np.array([0.2, 0.5, -0.4])}


def test_what_is_left_decides_the_closure() -> None:
    assert type(close(FieldAction(g, ()))) is Closure
    assert isinstance(close(FieldAction(SCALAR, (u,)), 2), ScalarClosure)
    assert isinstance(close(FieldAction(W, (j,)), 1), FieldClosure)
    x = sp.Symbol("x", real=True)
    assert close(FieldAction(x**2, (x,))).state.unknowns == (x,)


def test_refusals() -> None:
    for loops in (-1, 1.0):
        with pytest.raises(BadInput, match="loops"):
            close(FieldAction(SCALAR, (u,)), loops)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="loops"):
        close(FieldAction(W, (j,)), 2)
    with pytest.raises(RuleError, match="several fields"):
        close(FieldAction(W + SCALAR, (j, u)))
    with pytest.raises(RuleError, match="linear"):
        linear_coefficient(SpaceSum(projected**2 * y, mode), projected)


def test_no_field_means_no_unknown_and_no_remainder() -> None:
    closure = close(FieldAction(g * s, ()))
    assert closure.state.unknowns == () and closure.remainder == "0"
    assert closure.log_partition() == -g * s and closure.average(g**2) == g**2
    assert closure.variance(g, g**2 + s) == s


def _resolved(closure: ScalarClosure, expr: sp.Expr, at: dict) -> float:
    """A number, through the named coefficients."""
    at = dict(at)
    for symbol, value in closure.coefficients.items():
        at[symbol] = float(evaluate(value, at))
    return float(np.real(evaluate(expr, at)))


@pytest.mark.parametrize("loops", [0, 1, 2, 3])
def test_scalar_averages_are_the_expansion(loops: int) -> None:
    Q = sp.Symbol("Q", positive=True)
    closure = close(FieldAction(SCALAR, (u,)), loops, coordinate=(Q, sp.log(Q)))
    assert isinstance(closure, ScalarClosure) and closure.remainder == f"hbar^{loops + 1}"
    observable = SpaceSum(y**2 / (lam * sp.exp(u) + s), mode)
    at = VALUES | {Q: 0.9}
    expansion = ScalarExpansion.of(SCALAR, u, loops)
    expected = evaluate(sp.Add(*expansion.expectation(observable).values()), VALUES | {u: np.log(0.9)})
    assert _resolved(closure, closure.average(observable), at) == pytest.approx(float(expected), rel=1e-12)
    logs = evaluate(sp.Add(*expansion.log_partition().values()), VALUES | {u: np.log(0.9)})
    assert _resolved(closure, closure.log_partition(), at) == pytest.approx(float(logs), rel=1e-12)


@pytest.mark.parametrize("loops", [1, 2])
def test_scalar_variance_is_conditional_plus_spread(loops: int) -> None:
    """Var A with A = a(u) + noise of variance b(u): ⟨b⟩ + Var a, the latter by the averages of a² and a."""
    closure = close(FieldAction(N * (u**2 / 2 + u**3 / 12 + u**4 / 24), (u,)), loops)
    a, b = sp.sin(u) + u, 1 / (1 + u**2)
    at = {N: 1000, closure.symbol: 0.0}
    found = _resolved(closure, closure.variance(a, a**2 + b), at)
    expected = _resolved(closure, closure.average(b) + closure.average(a**2) - closure.average(a)**2, at)
    assert found == pytest.approx(expected, abs=20 * 1000.0**-(loops + 1))


def test_stationarity_in_either_coordinate() -> None:
    Q = sp.Symbol("Q", positive=True)
    plain, logarithmic = close(FieldAction(SCALAR, (u,))), close(FieldAction(SCALAR, (u,)), coordinate=(Q, sp.log(Q)))
    one = evaluate(plain.state.equations[0], VALUES | {plain.symbol: np.log(0.9)})
    other = evaluate(logarithmic.state.equations[0], VALUES | {Q: 0.9})
    assert float(one) == pytest.approx(float(other), rel=1e-12)


def _parameters() -> tuple:
    return (conjugate_to(W, "q", ENERGY / 2),)


@pytest.mark.parametrize("loops", [0, 1])
def test_field_averages_are_the_gaussian_ones(loops: int) -> None:
    """⟨O⟩ = O + ½ Tr S''⁻¹ O'' for a quadratic observable, against matrices."""
    closure = close(FieldAction(W, (j,)), loops, parameters=_parameters())
    assert isinstance(closure, FieldClosure)
    observable = SpaceSum(v * j, mode)**2 + SpaceSum(y * j, mode)
    jv = np.array([0.3, -0.1, 0.2])
    q = 0.7 / (1 - 0.7 / 9 * float(np.sum(VALUES[lam] * jv**2)))
    curvature = np.diag(q * VALUES[lam] + 0.4) + 2 / 9 * q**2 * np.outer(VALUES[lam] * jv, VALUES[lam] * jv)
    inverse = -np.linalg.inv(curvature)
    expected = (VALUES[v] @ jv)**2 + VALUES[y] @ jv + (VALUES[v] @ inverse @ VALUES[v] if loops else 0)
    at = VALUES | {j: jv, closure.parameters[0].symbol: q}
    assert float(np.real(evaluate(closure.average(observable), at))) == pytest.approx(expected, rel=1e-12)
    variance = closure.variance(SpaceSum(v * j, mode), SpaceSum(v * j, mode)**2)
    assert float(np.real(evaluate(variance, at))) == pytest.approx(VALUES[v] @ inverse @ VALUES[v], rel=1e-12)


def test_parts_of_the_one_loop_term_can_be_left_out() -> None:
    full = FieldClosure(FieldAction(W, (j,)), 1, _parameters())
    trace = FieldClosure(FieldAction(W, (j,)), 1, _parameters(), parts=("local",))
    assert full.gamma != trace.gamma
    assert sp.simplify(full.gamma - trace.gamma - sp.Symbol("hbar", positive=True) * full.effective.low_rank) == 0
    assert len(trace.state.unknowns) < len(full.state.unknowns) + 1


def test_corrections_are_named() -> None:
    closure = close(FieldAction(W, (j,)), 0, parameters=_parameters())
    assert list(closure.corrections) == ["trace", "rank one"]
    scalar = close(FieldAction(SCALAR, (u,)))
    assert len(scalar.corrections) == 2


def test_linear_coefficient_is_the_derivative() -> None:
    expr = SpaceSum(projected * y * sp.exp(g), mode) + s * SpaceSum(projected * lam, mode)
    assert sp.simplify(linear_coefficient(expr, projected) - (y * sp.exp(g) + s * lam)) == 0


def test_hyperparameter_derivative_through_definitions() -> None:
    """g = θ N and λ ∝ θ², by hand and by central differences."""
    expr = SpaceSum(sp.log(g * lam + s), mode) + theta
    definitions = {g: theta * N, lam: theta**2 * Entry("xi", "spectrum", (mode,))}
    found = hyperparameter_derivative(expr, theta, definitions)
    xi, h = VALUES[lam], 1e-5

    def value(t: float) -> float:
        return float(np.log(t * 9 * t**2 * xi + 0.4).sum() + t)

    at = VALUES | {theta: 0.7, g: 0.7 * 9, lam: 0.49 * xi}
    assert float(evaluate(found, at)) == pytest.approx((value(0.7 + h) - value(0.7 - h)) / (2 * h), rel=1e-8)
    assert hyperparameter_derivative(expr, sp.Symbol("eta", positive=True), definitions) == 0


def test_the_field_equation_is_the_variation_of_the_effective_action() -> None:
    closure = close(FieldAction(W, (j,)), 1, parameters=_parameters())
    gradient = vary(closure.gamma, j)
    assert gradient.has(sp.Symbol("hbar", positive=True))
