"""Equations of state and the one-loop effective action, against NumPy on small data."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from scipy.optimize import brentq

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, rename, vary
from fieldtheory.symbolic.saddle import conjugate_to, express, field_saddle, one_loop_effective_action

N, P = sp.symbols("N P", positive=True, integer=True)
g, s = sp.symbols("g s", positive=True)
mode = Space("mode", P)
lam, y = Entry("lambda", "spectrum", (mode,)), Entry("y", "data", (mode,))
j, phi = Entry("j", "imaginary", (mode,)), Entry("phi", "real", (mode,))
ENERGY = SpaceSum(lam * j**2, mode)
#: W(j) = -(N/2) ln(1 - (g/N) jᵀKj) with the likelihood, as an action.
ACTION = N * sp.log(1 - g * ENERGY / N) / 2 + SpaceSum(j * y - s * j**2 / 2, mode)
REAL = SpaceSum((1 + lam) * phi**2 / 2 - y * phi, mode) + g * SpaceSum(lam * phi**2, mode)**2 / N

NUMBERS = {N: 7, g: 0.8, s: 0.3, P: 3}
DATA = {lam: np.array([0.5, 1.0, 2.0]), y: np.array([1.0, -0.5, 1.5])}


def q_at(j_value: np.ndarray) -> float:
    return 0.8 / (1 - 0.8 / 7 * float(np.sum(DATA[lam] * j_value**2)))


def solve_q() -> tuple[float, np.ndarray]:
    """The tree-level root by hand: j = y/(qλ + s), 1 - g/q = (g/N) jᵀKj."""
    def residual(q: float) -> float:
        jv = DATA[y] / (q * DATA[lam] + 0.3)
        return 1 - 0.8 / q - 0.8 / 7 * float(np.sum(DATA[lam] * jv**2))

    q = brentq(residual, 0.8, 50)
    return q, DATA[y] / (q * DATA[lam] + 0.3)


def test_conjugate_parameter() -> None:
    parameter = conjugate_to(ACTION, "q", ENERGY / 2)
    q = parameter.symbol
    assert q.is_positive
    assert sp.simplify(parameter.expression - N * (1 / g - 1 / q)) == 0
    assert sp.simplify(parameter.value.xreplace({ENERGY: sp.Symbol("E")}) - g / (1 - g * sp.Symbol("E") / N)) == 0
    assert express(sp.log(1 - g * ENERGY / N), (parameter,)).xreplace({q: 2 * g}).equals(-sp.log(2))


def test_tree_level_equation_of_state() -> None:
    parameter = conjugate_to(ACTION, "q", ENERGY / 2)
    state = field_saddle(ACTION, j, (parameter,))
    assert state.unknowns == (parameter.symbol,) and state.domains == ("positive",)
    q, expected = solve_q()
    at = NUMBERS | DATA | {parameter.symbol: q}
    assert abs(float(evaluate(state.equations[0], at))) < 1e-12
    np.testing.assert_allclose(evaluate(state.profile, at), expected, rtol=1e-12)


@pytest.mark.parametrize("action, field", [(ACTION, j), (REAL, phi)])
def test_named_sums_solve_the_vector_equation(action: sp.Expr, field: Entry) -> None:
    """Without any parameter named, the closed equations and the profile solve δS/δφ = 0 component by component."""
    from fieldtheory.newton import newton_system

    state = field_saddle(action, field)
    numbers = NUMBERS | DATA

    def residual(x: np.ndarray) -> np.ndarray:
        at = numbers | dict(zip(state.unknowns, x))
        return np.array([float(np.real(evaluate(e, at))) for e in state.equations])

    root = newton_system(residual, np.full(len(state.unknowns), 0.3))
    profile = evaluate(state.profile, numbers | dict(zip(state.unknowns, root.values)))
    gradient = evaluate(vary(action, field), numbers | {field: profile})
    np.testing.assert_allclose(gradient, 0, atol=1e-10)


def _numerical_hessian(action: sp.Expr, field: Entry, at: np.ndarray) -> np.ndarray:
    """Central differences of the action itself."""
    h, n = 1e-4, len(at)
    steps = np.eye(n) * h

    def S(v: np.ndarray) -> float:
        return float(np.real(evaluate(action, NUMBERS | DATA | {field: v})))

    return np.array([[(S(at + p + q) - S(at + p - q) - S(at - p + q) + S(at - p - q)) / (4 * h * h) for q in steps]
                     for p in steps])


@pytest.mark.parametrize("action, field, sign", [(ACTION, j, -1), (REAL, phi, 1)])
def test_one_loop_effective_action_is_a_determinant(action: sp.Expr, field: Entry, sign: int) -> None:
    """Γ = S + ½ ln det(±2π^{∓1} S''), in a local and a low-rank part."""
    at = np.array([0.4, -0.2, 0.3])
    found = one_loop_effective_action(action, field)
    hessian = sign * _numerical_hessian(action, field, at)
    values = NUMBERS | DATA | {field: at}
    constant = -sign * 3 * np.log(2 * np.pi)
    expected = (np.linalg.slogdet(hessian)[1] + constant) / 2
    total = float(np.real(evaluate(found.local, values) + evaluate(found.low_rank, values)))
    assert total == pytest.approx(expected, rel=1e-5)
    local = (np.log(evaluate(sign * found.fluctuation.diag, values)).sum() + constant) / 2
    assert float(np.real(evaluate(found.local, values))) == pytest.approx(float(local), rel=1e-12)
    assert float(np.real(evaluate(found.expr - action, values))) == pytest.approx(total, rel=1e-12)


def test_order_of_named_sums_does_not_depend_on_names() -> None:
    names = {"phi": "a", "lambda": "zeta", "y": "b", "mode": "k", "g": "w", "N": "M", "P": "R"}
    one = field_saddle(REAL + SpaceSum(phi**4 * 0 + y * phi, mode)**2 / N, phi)
    other = field_saddle(rename(REAL + SpaceSum(y * phi, mode)**2 / N, names), rename(phi, names))
    assert [rename(e, names) for e in one.equations] == list(other.equations)


def test_refusals() -> None:
    with pytest.raises(BadInput, match="quantity"):
        conjugate_to(ACTION, "q", N)
    with pytest.raises(RuleError, match="at most linear"):
        conjugate_to(SpaceSum(lam * j**2, mode), "q", ENERGY / 2)
    with pytest.raises(RuleError, match="not linear in phi"):
        field_saddle(SpaceSum(phi**4 + phi**2, mode), phi)
    with pytest.raises(RuleError, match="2 values"):
        conjugate_to(ENERGY**3, "q", ENERGY)
