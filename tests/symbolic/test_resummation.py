"""Truncation errors, the warning past the smallest term, and Padé-Borel sums, judged by exact integrals."""

import warnings

import mpmath
import pytest
import sympy as sp

from fieldtheory.errors import AsymptoticWarning, BadInput, FieldTheoryError, RuleError
from fieldtheory.symbolic.expansion import expectation, hbar, log_partition
from fieldtheory.symbolic.resummation import Estimate
from fieldtheory.symbolic.series import EXACT, Series

x = sp.Symbol("x", real=True)
g, h = sp.Symbol("g", positive=True), sp.Symbol("h", positive=True)
QUARTIC = x**2 / 2 + g * x**4 / 24
EXACT_LOG_Z = mpmath.log(mpmath.mpf("0.918918905923241764"))
EXACT_SQUARE = 0.750511146389689066


def exact_log_partition(coupling):
    value = mpmath.quad(lambda t: mpmath.exp(-t**2 / 2 - coupling * t**4 / 24), [-mpmath.inf, 0, mpmath.inf])
    return float(mpmath.log(value / mpmath.sqrt(2 * mpmath.pi)))


@pytest.mark.parametrize("loops, tolerance", [(5, 2e-4), (9, 1e-6), (13, 5e-8)])
def test_pade_borel_of_ln_z_at_unit_coupling(loops, tolerance):
    found = log_partition(QUARTIC, [x], 0, loops).resum(g=1, hbar=1)
    assert abs(found.value - float(EXACT_LOG_Z)) < tolerance
    assert abs(found.value - float(EXACT_LOG_Z)) < 10 * found.error


@pytest.mark.parametrize("loops, tolerance", [(4, 5e-3), (8, 5e-5), (12, 2e-6)])
def test_pade_borel_of_the_mean_square(loops, tolerance):
    series = expectation(QUARTIC, [x], 0, x**2 / hbar * hbar, loops)
    found = series.resum(g=1, hbar=1)
    assert abs(found.value - EXACT_SQUARE) < tolerance
    assert abs(found.value - EXACT_SQUARE) < abs(series.resum(g=1, hbar=1, method="pade").value - EXACT_SQUARE)
    assert float(found) == found.value and "±" in str(found)


def test_a_convergent_series_is_summed_to_its_limit():
    series = Series(tuple(sp.Rational(1, sp.factorial(k)) for k in range(16)), h)
    for method in ("pade-borel", "pade"):
        found = series.resum(h=2, method=method, digits=20)
        assert abs(found.value - mpmath.e**2) < 1e-6
    geometric = Series((1, -1, 1, -1, 1, -1), h)
    assert geometric.resum(h=1).value == pytest.approx(0.5, abs=2e-3)
    assert geometric.resum(h=1, method="pade").value == pytest.approx(0.5, abs=1e-12)
    assert Series((3, 1, -1, 1, -1, 1, -1), h, -1).resum(h=1, method="pade").value == pytest.approx(3.5, abs=1e-12)
    assert Series((1, -1, 1, -1, 1), h, 1).resum(h=1, method="pade").value == pytest.approx(0.5, abs=1e-12)


def test_the_euler_series():
    """Σ (-1)^k k! h^k = ∫ e^{-t}/(1 + h t) dt: its Borel transform is one Padé approximant."""
    series = Series(tuple(sp.Integer((-1)**k * sp.factorial(k)) for k in range(8)), h)
    exact = mpmath.exp(1) * mpmath.e1(1)
    assert series.resum(h=1).value == pytest.approx(float(exact), rel=1e-10)
    with pytest.raises(RuleError, match="pole"):
        Series(tuple(sp.Integer(sp.factorial(k)) for k in range(8)), h).resum(h=1)


def test_the_estimate_of_the_truncation_error_has_the_right_size():
    for coupling in (0.02, 0.05, 0.1):
        series = log_partition(QUARTIC, [x], 0, 5)
        found = series.estimate(g=coupling, hbar=1)
        actual = abs(found.value - exact_log_partition(coupling))
        assert 0.3 < found.error / actual < 3 and found.smallest is None
        assert found.value == series.evaluate(g=coupling, hbar=1)


def test_a_series_past_its_smallest_term_says_so():
    series = log_partition(QUARTIC, [x], 0, 10)
    with pytest.warns(AsymptoticWarning, match=r"grow from hbar\^2 on"):
        found = series.estimate(g=1, hbar=1)
    assert found.smallest == 2 and found.error > 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = series.truncate(found.smallest).estimate(g=1, hbar=1)
        series.estimate(g=0.01, hbar=1)
    assert abs(kept.value - float(EXACT_LOG_Z)) < 3 * kept.error


def test_evaluate_warns_too_and_gives_the_error_on_request():
    series = log_partition(QUARTIC, [x], 0, 10)
    for evaluate in (series.evaluate, series.estimate):
        with pytest.warns(AsymptoticWarning, match=r"truncate\(2\)") as caught:
            evaluate(g=1, hbar=1)
        assert caught[0].filename == __file__  # it points at the caller
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weak = series.evaluate({"g": 0.01, "hbar": 1}, with_error=True)
        assert weak == series.estimate(g=0.01, hbar=1) and weak.value == series.evaluate(g=0.01, hbar=1)
        # a small first term before others that fall is no divergence, nor is a small action beside its fluctuations
        assert Series((sp.Rational(1, 100), 1, sp.Rational(1, 2)), h).evaluate(h=0.1) == pytest.approx(0.115)
        Series((0, 1, 2), h, 0).evaluate(h=0.1)
        Series((sp.Rational(1, 10**6), 1), h, -1).evaluate(h=0.1)
        Series((1, 2), h, 0, EXACT).evaluate(h=3)


def test_estimates_of_special_series():
    assert Series((1, 2), h, 0, EXACT).estimate(h=3) == Estimate(7.0, 0.0)
    assert Series((1, 2), h, 0, EXACT).resum(h=3) == Estimate(7.0, 0.0)
    assert Series((), h, 2, 2).estimate(h=3).error == float("inf")
    assert Series((5,), h).estimate(h=0.1).error == 5
    even = Series((1, 0, sp.Rational(1, 2), 0), h)
    assert even.estimate(h=0.1).error == pytest.approx(0.005 * 0.005)
    digits = Series((1, 1, sp.Rational(1, 2)), h).estimate(h=sp.Rational(1, 100), digits=30)
    assert digits.value == mpmath.mpf(1) + mpmath.mpf(1) / 100 + mpmath.mpf(1) / 20000 or digits.error < 1e-6


@pytest.mark.parametrize("call", [
    lambda s: s.resum(h=1, method="borel"),
    lambda s: s.truncate(1).resum(h=1),
    lambda s: s.resum(),
    lambda s: s.estimate(),
])
def test_refusals(call):
    with pytest.raises(FieldTheoryError):
        call(Series((1, -1, 2, -6), h))
    with pytest.raises(BadInput, match="pade-borel"):
        Series((1, -1, 2, -6), h).resum(h=1, method="mean")
