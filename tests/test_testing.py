"""The strategies draw what they promise, and the assertions fail where they should."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import sympy as sp
import xarray as xr
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory import testing
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.series import Series
from fieldtheory.testing import (
    actions,
    assert_agrees,
    assert_next_coefficient,
    assert_rejected,
    datasets,
    networks,
    scalings,
)

x, N = sp.Symbol("x", real=True), sp.Symbol("N", positive=True)


@given(scalings(), networks(), datasets(max_samples=5, max_input_dim=4))
def test_what_is_drawn_is_valid(scaling: ft.Scaling, net: ft.Network, data: ft.Dataset) -> None:
    assert scaling.is_numeric and net.effective_readout_variance() > 0 and net.effective_noise_variance() > 0
    assert 1 <= data.samples <= 5 and 1 <= data.input_dim <= 4 and np.isfinite(data.y).all()


def _drawn(strategy: Any, condition: Any) -> Any:
    return find(strategy, condition, settings=settings(max_examples=500, phases=[Phase.generate]))


def test_every_kind_is_drawn() -> None:
    _drawn(datasets(), lambda d: d.samples > d.input_dim and d.test_samples == 0)
    _drawn(datasets(), lambda d: d.samples < d.input_dim and d.test_samples > 0)
    _drawn(datasets(), lambda d: set(np.abs(d.y)) != {1.0})
    for name in ("standard", "mean-field"):
        _drawn(scalings(), lambda s, name=name: s.name == name)
    _drawn(networks(), lambda net: net.width == 1)
    _drawn(networks(), lambda net: net.scaling.name not in ("standard", "mean-field"))


def test_strategies_can_be_replaced() -> None:
    drawn = networks(activation="erf", widths=st.just(7), scaling=st.just(ft.Scaling.mean_field()))
    net = _drawn(drawn, lambda net: True)
    assert (net.activation, net.width, net.scaling.name) == ("erf", 7, "mean-field")


@settings(max_examples=10)
@given(actions())
def test_drawn_actions_have_one_stable_saddle_and_odd_terms(S: ft.Action) -> None:
    (saddle,) = S.saddle_points()
    assert saddle.stability == "stable"
    third = sp.diff(S.expr, x, 3).subs(x, saddle.value)
    assert third != 0 and sp.diff(S.expr, x, 4) > 0


def test_other_numbers_of_fields_are_refused() -> None:
    with pytest.raises(BadInput, match="fields"):
        actions(fields=2)


def test_without_hypothesis_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("hypothesis"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match="testing"):
        scalings()


# ---------------------------------------------------------------------------------- the next coefficient


@settings(max_examples=2)
@given(actions())
@pytest.mark.parametrize("loops", [0, 1, 2, 3])
def test_next_coefficient_of_actions_nobody_chose(loops: int, S: ft.Action) -> None:
    assert_next_coefficient(S, loops)


@pytest.mark.parametrize("loops", range(3))  # tests/test_acceptance.py goes one further, against another oracle
def test_next_coefficient_of_the_linear_network(loops: int) -> None:
    theory = ft.theories["linear"](ft.Network(), view="rescaling", loops=0)
    Q = theory.closure.symbol
    values = {"lambda": [2, 0.5, 1, 0.25], "y": [1, -1.5, 0.5, 2], "g": 1, "s": 0.5}
    assert_next_coefficient(theory, loops, 2 * Q / (2 * Q + 0.5), values=values)


@pytest.mark.parametrize("samples_per_width", [0.5, 2])
def test_next_coefficient_of_the_evidence(samples_per_width: float) -> None:
    theory = ft.theories["linear"](ft.Network(), view="rescaling", loops=0)
    values = {"lambda": [2, 1], "y": [1, -1.5], "g": 1, "s": 0.5}
    assert_next_coefficient(theory, 1, "ln Z", values=values, samples_per_width=samples_per_width)


def test_variances_may_be_given_instead_of_their_effective_values() -> None:
    theory = ft.theories["linear"](ft.Network(), view="rescaling", loops=0)
    values = {"lambda": [2, 1], "y": [1, -1.5], "sigma_a^2": 1, "s_0": 0.5}
    assert_next_coefficient(theory, 0, values=values)


@pytest.mark.parametrize("wrong", ["factor", "sign", "missing"])
@pytest.mark.parametrize("observable", [x, x**2])
def test_a_wrong_coefficient_is_caught(monkeypatch: pytest.MonkeyPatch, wrong: str, observable: sp.Expr) -> None:
    """Plant an error in the two-loop term, of an action whose coefficients do not vanish."""
    S = ft.Action(N * (x**2 / 2 + x**3 / 6 + x**4 / 12), fields=[x], large=N)
    right = ft.Action.expectation
    change = {"factor": sp.Rational(11, 10), "sign": -1, "missing": 0}[wrong]

    def planted(self: ft.Action, O: Any, loops: int, **options: Any) -> Series:
        found = right(self, O, loops, **options)
        return Series((*found.terms[:2], *(change * t for t in found.terms[2:3]), *found.terms[3:]), found.parameter,
                      found.offset, found.remainder)

    assert_next_coefficient(S, 1, observable)
    monkeypatch.setattr(ft.Action, "expectation", planted)
    for loops in (1, 2):  # as the next term, and as one that is kept
        with pytest.raises(AssertionError, match="next term"):
            assert_next_coefficient(S, loops, observable)


def test_a_vanishing_coefficient_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    even = ft.Action(N * (x**2 / 2 + x**4 / 24), fields=[x], large=N)
    assert_next_coefficient(even, 1, x)
    assert_next_coefficient(even, 1, x**3)


def test_what_cannot_be_judged_is_refused() -> None:
    a = sp.Symbol("a", positive=True)
    S = ft.Action(N * (x**2 / 2 + a * x**4 / 24), fields=[x], large=N)
    with pytest.raises(BadInput, match="a"):
        assert_next_coefficient(S, 1)
    with pytest.raises(BadInput, match="large"):
        assert_next_coefficient(ft.Action(x**2 / 2 + x**4, fields=[x]), 1)
    with pytest.raises(BadInput, match="observable"):
        assert_next_coefficient(S, 1, "x", values={"a": 1})
    with pytest.raises(BadInput, match="subject"):
        assert_next_coefficient("S", 1)  # type: ignore[arg-type]
    with pytest.raises(RuleError, match="one number"):
        assert_next_coefficient(ft.theories["nngp"](ft.Network()), 1, values={"lambda": [1], "y": [1]})
    rescaling = ft.theories["linear"](ft.Network(), view="rescaling", loops=0)
    for missing in ("lambda", "y", "s_0"):
        values = {"lambda": [2, 1], "y": [1, -1.5], "sigma_a^2": 1, "s_0": 0.5}
        del values[missing]
        with pytest.raises(BadInput, match=missing):
            assert_next_coefficient(rescaling, 1, values=values)


def test_the_quadrature_knows_the_integrals_in_the_literature() -> None:
    """Zero-dimensional φ⁴ at g = 1: Z and ⟨φ²⟩ to 18 digits."""
    import mpmath

    S = ft.Action(N * (x**2 / 2 + x**4 / 24), fields=[x], large=N)
    expansion = testing._Expansion.of(S, {}, 1)
    with mpmath.workdps(40):
        action = expansion._function(expansion.explicit, 1)
        log_z, square = expansion._quadrature(action, lambda u: u**2, *expansion._saddle(action, 1), 30)
        assert float(mpmath.exp(log_z)) == pytest.approx(0.918918905923241764, abs=2e-16)
        assert float(square) == pytest.approx(0.750511146389689066, abs=2e-16)


# -------------------------------------------------------------------------------------------- samples


@pytest.fixture(scope="module")
def sampled() -> tuple[ft.Network, ft.Dataset, Any]:
    net = ft.Network(width=10, readout_variance=1.0, weight_variance=1.0, noise_variance=0.5,
                     scaling=ft.Scaling.mean_field())
    data = ft.tasks.ising(6, 8, seed=3)
    return net, data, ft.sample(net, data, chains=8, draws=4000, seed=1)


def test_samples_keep_the_exact_theory_and_reject_the_wrong_one(sampled: tuple) -> None:
    net, data, samples = sampled
    exact, wrong = ft.exact.linear(net, data), ft.theories["nngp"](net).predict(data)
    assert assert_agrees(exact, samples).ok
    assert assert_rejected(wrong, samples).status == "rejected"
    with pytest.raises(AssertionError, match="should be kept"):
        assert_agrees(wrong, samples)
    with pytest.raises(AssertionError, match="should be rejected"):
        assert_rejected(exact, samples)


def test_undecided_is_neither(sampled: tuple) -> None:
    net, data, samples = sampled
    for check, prediction in ((assert_agrees, ft.exact.linear(net, data)),
                              (assert_rejected, xr.Dataset({"mean_output": ("sample", data.y)}))):
        with pytest.raises(AssertionError, match="undecided"):
            check(prediction, samples, minimum_ess=10**6)
