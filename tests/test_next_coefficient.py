"""A derivation that ends in a loop expansion of an arbitrary action verifies itself."""

from __future__ import annotations

from typing import Any

import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import RuleError
from fieldtheory.next_coefficient import Comparison
from fieldtheory.symbolic.series import Series

x, y = sp.symbols("x y", real=True)
g, h, N = sp.Symbol("g", positive=True), sp.Symbol("h", real=True), sp.Symbol("N", positive=True)
CUBIC = ft.Action(N * (x**2 / 2 + h * x**3 / 6 + g * x**4 / 8), fields=[x], large=N)


def test_an_action_with_parameters_verifies_its_expansion() -> None:
    derivation = CUBIC.derivation(2, at=0)
    report = derivation.verify(seed=1)
    assert report.ok, report
    assert [row.quantity for row in report.rows] == [
        f"{name}, 2 loops" for name in ("ln Z", "<x>", "<x**2>", "kappa(x, x, x)", "kappa(x, x, x, x)", "Gamma")]
    assert max(row.error for row in report.rows) < 1e-4
    assert {row.kind for row in report.rows} == {"approximate"}
    assert sp.expand(derivation.results["ln Z"] - (5 * h**2 / 24 - 3 * g / 8) / N) == 0
    assert CUBIC.verify(2, at=0, seed=1).rows[0].error == report.rows[0].error
    assert "expand" in derivation._repr_latex_()


def test_loops_counted_by_hbar_and_chosen_quantities() -> None:
    S = ft.Action(x**2 / 2 + h * x * y / 4 + y**2 + x**2 * y / 6 + x**4 / 8 + y**4 / 5, fields=[x, y])
    report = S.verify(1, "ln Z", x * y, (x, x, y), at=(0, 0))
    assert report.ok and len(report.rows) == 3, report


def test_one_of_several_equivalent_saddles() -> None:
    well = ft.Action(N * (x**4 / 4 - x**2 / 2), fields=[x], large=N)
    with pytest.raises(RuleError, match="equivalent"):
        well.verify(1)
    assert well.verify(1, x, "ln Z", at=1).ok


@pytest.mark.parametrize("method", ["log_partition", "expectation", "cumulant", "effective_action"])
def test_a_wrong_coefficient_makes_the_derivation_fail(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(ft.Action, method)

    def planted(self: ft.Action, *args: Any, **options: Any) -> Series:
        found = right(self, *args, **options)
        if not found.terms:
            return found
        return Series((*found.terms[:-1], found.terms[-1] * sp.Rational(101, 100)), found.parameter, found.offset,
                      found.remainder)

    monkeypatch.setattr(ft.Action, method, planted)
    report = CUBIC.verify(2, at=0)
    wrong = {"log_partition": "ln Z", "expectation": "<x>", "cumulant": "kappa(x, x, x)", "effective_action": "Gamma"}
    assert not report.ok and any(row.quantity.startswith(wrong[method]) for row in report.failures), report


def test_a_comparison_sees_the_constant_and_not_the_slope_alone() -> None:
    widths = (1000, 2000, 4000)
    good = Comparison("O", 1, widths, tuple(2 + 30 / N + 500 / N**2 for N in widths), (2.0, 2.0, 2.0))
    assert good.error < 1e-8 and "next term" in str(good)
    assert Comparison("O", 1, widths, good.found, (2.02, 2.02, 2.02)).error > 5e-3
    assert Comparison("O", 1, widths, tuple(2e-3 * N for N in widths), (2.0, 2.0, 2.0)).error > 0.5
    assert Comparison("O", 1, widths, tuple(1 / N for N in widths), (0.0, 0.0, 0.0)).error < 1e-9
