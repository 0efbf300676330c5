"""The loop expansion of one scalar field: weights from the literature, identities to every order, brute force."""

from __future__ import annotations

from math import factorial

import pytest
import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.symbolic.loops import ScalarExpansion, hbar, loop_coefficients, scalar_derivatives

x = sp.Symbol("x", real=True)
a, b, c, m = sp.symbols("a b c m", positive=True)
#: A polynomial with every vertex up to the sextic one, its saddle at the origin.
ACTION = m * x**2 / 2 + a * x**3 / 6 + b * x**4 / 24 + c * x**5 / 120 + a * b * x**6 / 720


def vacuum(loops: int) -> sp.Expr:
    """z_L in S3, S4, … with G = 1."""
    found = loop_coefficients(loops - 1)
    return sp.expand(found.log_partition[loops].xreplace({found.propagator: sp.S.One}))


def test_two_loop_weights() -> None:
    """1/8 of the figure eight, 1/12 and 1/8 of the two cubic diagrams."""
    S3, S4 = sp.symbols("S3 S4")
    assert vacuum(2) == sp.expand((sp.Rational(1, 12) + sp.Rational(1, 8)) * S3**2 - S4 / 8)


@pytest.mark.parametrize("loops, weights", [(2, ["1/8"]), (3, ["1/16", "1/48"]), (4, ["1/24", "1/32", "1/48", "1/48"])])
def test_quartic_diagrams_sum_to_their_weights(loops: int, weights: list[str]) -> None:
    order = loops - 1
    S4 = sp.Symbol("S4")
    coefficient = vacuum(loops).coeff(S4, order).subs({s: 0 for s in vacuum(loops).free_symbols - {S4}})
    assert coefficient == (-1)**order * sum(map(sp.Rational, weights))


def test_zero_dimensional_quartic_theory() -> None:
    """S = φ²/2 + gφ⁴/24: ln Z and ⟨φ²⟩ as in the literature."""
    g = sp.Symbol("g")
    expansion = ScalarExpansion.of(x**2 / 2 + g * x**4 / 24, x, 4)
    terms = {k: v.subs(x, 0) for k, v in expansion.log_partition().items() if k > 0}
    assert [sp.simplify(terms[k] / g**k) for k in range(1, 5)] == [
        sp.Rational(-1, 8), sp.Rational(1, 12), sp.Rational(-11, 96), sp.Rational(17, 72)]
    square = {k: sp.expand(v.subs(x, 0)) for k, v in expansion.expectation(x**2).items()}
    assert [square[k + 1] / g**k for k in range(4)] == [1, sp.Rational(-1, 2), sp.Rational(2, 3), sp.Rational(-11, 8)]


def _brute_force(observable: sp.Expr, order: int) -> list[sp.Expr]:
    """⟨O⟩ by power of ħ: expand exp(-V) under Gaussian moments, and divide."""
    e = sp.Symbol("e")
    V = sum(ACTION.coeff(x, k) * x**k * e**(k - 2) for k in range(3, 7))
    weight, term = sp.S.One, sp.S.One
    for n in range(1, 2 * order + 1):
        term = sp.expand(-term * V / n)
        term = sum(term.coeff(e, k) * e**k for k in range(2 * order + 1))
        weight += term

    def average(poly: sp.Expr) -> sp.Expr:
        poly = sp.Poly(sp.expand(poly), x)
        return sum(v * sp.Rational(factorial(k), 2**(k // 2) * factorial(k // 2)) / m**(k // 2)
                   for (k,), v in poly.terms() if k % 2 == 0)

    ratio = sp.series(average(weight * observable.subs(x, e * x)) / average(weight), e, 0, 2 * order + 1).removeO()
    return [sp.expand(ratio.coeff(e, 2 * k)) for k in range(order + 1)]


@pytest.mark.parametrize("power", [1, 2, 3])
def test_averages_by_brute_force(power: int) -> None:
    expected = _brute_force(x**power, 2)
    found = ScalarExpansion.of(ACTION, x, 2).expectation(x**power)
    assert [sp.expand(found.get(k, sp.S.Zero).subs(x, 0)) for k in range(3)] == expected


@pytest.mark.parametrize("power", [0, 1, 2, 3])
@pytest.mark.parametrize("loops", [1, 2, 3])
def test_schwinger_dyson(loops: int, power: int) -> None:
    """⟨x^n S'⟩ = ħ n ⟨x^{n-1}⟩, order by order, from integration by parts alone."""
    expansion = ScalarExpansion.of(ACTION, x, loops)
    left = expansion.expectation(x**power * sp.diff(ACTION, x))
    right = expansion.expectation(power * x**(power - 1)) if power else {}
    for order in range(loops + 1):
        expected = right.get(order - 1, sp.S.Zero)
        assert sp.expand((left.get(order, sp.S.Zero) - expected).subs(x, 0)) == 0


def test_log_partition_and_averages_agree() -> None:
    """∂ ln Z/∂b = -⟨∂S/∂b⟩/ħ, order by order."""
    expansion = ScalarExpansion.of(m * x**2 / 2 + a * x**3 / 6 + b * x**4 / 24, x, 3)
    logs = {k: v.subs(x, 0) for k, v in expansion.log_partition().items()}
    slope = {k: v.subs(x, 0) for k, v in expansion.expectation(x**4 / 24).items()}
    for order in range(1, 3):
        assert sp.expand(sp.diff(logs[order], b) + slope[order + 1]) == 0


def test_covariance_is_that_of_the_averages() -> None:
    """Σ c_nm O^(n) O'^(m) = ⟨OO'⟩ - ⟨O⟩⟨O'⟩ for polynomials, to the order kept."""
    loops, first, second = 2, x**2 + 3 * x, x**3 - x
    expansion = ScalarExpansion.of(ACTION, x, loops)
    jets = [scalar_derivatives(O, x, 2 * loops) for O in (first, second)]
    found = {order: sp.S.Zero for order in range(loops + 1)}
    for n in range(1, 2 * loops):
        for k in range(1, 2 * loops - n + 1):
            for order, value in expansion.coefficients.covariance(n, k).items():
                found[order] += value.xreplace(expansion.table) * jets[0][n] * jets[1][k]
    joint, one, other = (expansion.expectation(O) for O in (first * second, first, second))
    for order in range(loops + 1):
        expected = joint.get(order, 0) - sum(one.get(i, 0) * other.get(order - i, 0) for i in range(order + 1))
        assert sp.expand((found[order] - expected).subs(x, 0)) == 0


def test_a_constant_has_no_loops() -> None:
    found = ScalarExpansion.of(ACTION, x, 2).expectation(sp.Integer(5))
    assert found[0] == 5 and all(sp.expand(v) == 0 for k, v in found.items() if k)


@pytest.mark.parametrize("loops", [-1, 0.5, "2"])
def test_loops_must_be_a_natural_number(loops: object) -> None:
    with pytest.raises(BadInput, match="loops"):
        loop_coefficients(loops)  # type: ignore[arg-type]


def test_hbar_is_positive() -> None:
    assert hbar.is_positive
