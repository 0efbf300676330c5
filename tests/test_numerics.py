"""Expressions as numbers, and the quadratures that derivations are verified with."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.numerics import conditional_integral, contour_integral, evaluate, integrate
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum

M, P = sp.symbols("M P", positive=True)
row, mode = Space("row", M), Space("mode", P)
A = Entry("A", "data", (row, mode))
B = Entry("B", "data", (mode, row))
x = Entry("x", "real", (mode,))
z = Entry("z", "imaginary", (row,))
q = Entry("q", "positive")


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_sums_are_matrix_products(m: int, p: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, v, w = rng.normal(size=(m, p)), rng.normal(size=(p, m)), rng.normal(size=p), 1j * rng.normal(size=m)
    values = {M: m, P: p, A: a, B: b, x: v, z: w, q: 1.5}
    assert np.allclose(evaluate(SpaceSum(A * x, mode), values), a @ v)
    assert np.allclose(evaluate(SpaceSum(z * SpaceSum(A * x, mode), row), values), w @ a @ v)
    assert np.allclose(evaluate(A, values, axes=(mode, row)), a.T)
    assert np.allclose(evaluate(SpaceSum(A * B, mode), values), np.diag(a @ b))
    # the inner sum shadows the outer one over the same space
    assert np.allclose(evaluate(SpaceSum(x * SpaceSum(x**2, mode), mode), values), v.sum() * (v**2).sum())
    assert np.isclose(evaluate(SpaceSum(sp.log(1 + x**2) / q, mode) + M * P, values),
                      np.log1p(v**2).sum() / 1.5 + m * p)


def test_a_batch_is_one_more_axis() -> None:
    rng = np.random.default_rng(0)
    a, v = rng.normal(size=(2, 3)), rng.normal(size=(3, 7))
    values = {M: 2, P: 3, A: a, x: v}
    assert np.allclose(evaluate(SpaceSum(A * x, mode), values), a @ v)
    assert np.allclose(evaluate(SpaceSum(SpaceSum(A * x, mode)**2, row), values), ((a @ v)**2).sum(axis=0))


@pytest.mark.parametrize("function", [sp.log, sp.exp, sp.loggamma, sp.gamma, sp.digamma, sp.erf, sp.tanh, sp.sin,
                                      sp.atan, sp.Abs, sp.sqrt, lambda t: t**sp.Rational(-5, 3),
                                      lambda t: sp.Max(t, 1), lambda t: sp.polygamma(1, t)])
def test_functions_agree_with_sympy(function: object) -> None:
    t = sp.Symbol("t", positive=True)
    expr = function(t)  # type: ignore[operator]
    assert evaluate(expr, {t: 0.37}) == pytest.approx(float(expr.subs(t, 0.37)), rel=1e-13)


def test_logs_and_roots_of_negative_numbers_are_principal() -> None:
    t = sp.Symbol("t")
    assert evaluate(sp.log(t), {t: -1.0}) == pytest.approx(1j * math.pi)
    assert evaluate(sp.sqrt(t), {t: -4.0}) == pytest.approx(2j)


@pytest.mark.parametrize("values", [{M: 2, P: 3}, {M: 2, P: 3, A: np.zeros((3, 2)), x: np.zeros(3)},
                                    {M: 2, P: 2.5, A: np.zeros((2, 3)), x: np.zeros(3)}])
def test_missing_and_misshapen_values_are_refused(values: dict) -> None:
    with pytest.raises(BadInput, match="values"):
        evaluate(SpaceSum(A * x, mode), values)


def test_gaussian_integrals_have_their_constants() -> None:
    rng = np.random.default_rng(1)
    values = {P: 3, M: 2}
    form = rng.normal(size=(3, 3))
    form = form @ form.T + np.eye(3)
    b = rng.normal(size=3)
    found = integrate(lambda t: np.einsum("ib,ij,jb->b", t, form, t) / 2 + b @ t, 3)
    expected = b @ np.linalg.solve(form, b) / 2 - np.linalg.slogdet(form / (2 * np.pi))[1] / 2
    assert found.log_value == pytest.approx(expected, abs=1e-12)
    assert np.allclose(found.average(found.nodes)[0], -np.linalg.solve(form, b))
    # an imaginary field is integrated along i t with dφ/2πi
    imaginary = conditional_integral(-SpaceSum(z**2, row), (z,), values)
    assert imaginary.log_value == pytest.approx(-math.log(4 * math.pi))
    # a positive one over its half line: ∫ q e^{-q} dq = 1
    assert conditional_integral(q - sp.log(q), (q,), values).log_value == pytest.approx(0, abs=1e-11)


def test_an_integral_far_from_gaussian() -> None:
    exact = mpmath.log(mpmath.quad(lambda t: mpmath.exp(-t**4 / 4 + t), [-6, 0, 6]))
    assert integrate(lambda t: t[0]**4 / 4 - t[0], 1).log_value == pytest.approx(float(exact), abs=1e-10)


@pytest.mark.parametrize("action", [lambda t: t[0]**2 - t[1]**2, lambda t: 0 * t[0], lambda t: 1j * t[0]**2])
def test_divergent_integrals_are_refused(action: object) -> None:
    with pytest.raises(NotConverged):
        integrate(action, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("kappa, alpha, c, d", [(1.3, 0.5, 0.7, -2.0), (0.4, 3.0, 2.0, -1.0), (2.0, 1.0, 0.0, -1.0),
                                                (-1.5, 2.5, 0.3, 1.2), (5.0, 20.0, 1.0, -0.1)])
def test_contour_integrals_against_mpmath(kappa: float, alpha: float, c: float, d: float) -> None:
    # on the line h = h₀ + i t; the Fourier integral of (c + d h)^-α by tilting both halves by 45 degrees
    with mpmath.workdps(25):
        k, a, cc, dd = map(mpmath.mpf, (kappa, alpha, c, d))
        h0 = -cc / dd - mpmath.sign(k) * a / abs(k)

        def along(angle: int, r: mpmath.mpf) -> mpmath.mpc:
            direction = mpmath.expj(angle * mpmath.pi / 4) if k > 0 else -mpmath.expj(-angle * mpmath.pi / 4)
            h = h0 + direction * r
            return mpmath.exp(-k * h) * (cc + dd * h)**(-a) * direction

        upper = mpmath.quad(lambda r: along(1, r), [0, 1, 4, 16, 64, 256])
        lower = mpmath.quad(lambda r: along(-1, r), [0, 1, 4, 16, 64, 256])
        exact = complex(mpmath.log((upper - lower) / (2j * mpmath.pi)))
    found, error = contour_integral(lambda h: kappa * h[0] + alpha * np.log(c + d * h[0]))
    assert abs(np.exp(found - exact) - 1) < 1e-11
    assert error < 1e-11
