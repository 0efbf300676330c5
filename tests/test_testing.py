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
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic import expansion
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

x, y, N = sp.Symbol("x", real=True), sp.Symbol("y", real=True), sp.Symbol("N", positive=True)


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


@pytest.mark.parametrize("fields", [1, 2])
@settings(max_examples=5)
@given(data=st.data())
def test_drawn_actions_have_one_stable_saddle_and_odd_terms(fields: int, data: st.DataObject) -> None:
    S = data.draw(actions(fields))
    (saddle,) = S.saddle_points()
    assert saddle.stability == "stable" and len(S.fields) == fields
    xi = sp.symbols(" ".join("pqr"[:fields]), seq=True)
    V = sp.Poly(sp.expand((S.expr / N).xreplace({f: v + d for f, v, d in zip(S.fields, saddle.point, xi)})), *xi)
    assert V.total_degree() == 4
    # in the coordinates of the square, no reflection of one of them leaves V as it is
    lower = saddle.hessian.xreplace({N: 1}).cholesky().T
    inverse = dict(zip(xi, lower.inv() * sp.Matrix(xi)))
    W = sp.Poly(V.as_expr().xreplace(inverse), *xi)
    assert all(any(powers[i] % 2 and sum(powers) == 3 for powers in W.monoms()) for i in range(fields))


@pytest.mark.parametrize("fields", [0, 4, True, "two"])
def test_other_numbers_of_fields_are_refused(fields: Any) -> None:
    with pytest.raises(BadInput, match="fields"):
        actions(fields=fields)


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


TWO = ft.Action(N * (x**2 / 2 + y**2 + x * y / 3 + x**3 / 4 - x**2 * y / 5 + x * y**2 / 3 + y**3 / 6 + x**4 / 3
                     + x**2 * y**2 / 2 + y**4 / 4), fields=[x, y], large=N)
KINDS = ["ln Z", x * y, (x, x, y), (x, y, y, x), "Gamma"]


@pytest.fixture
def fresh_caches() -> Any:
    """Expansions are remembered: those made with an error planted must not outlive it."""
    def clear() -> None:
        expansion._prepare.cache_clear()
        expansion._moments.cache_clear()

    clear()
    yield
    clear()


@pytest.mark.parametrize("quantity", KINDS, ids=str)
@pytest.mark.parametrize("planted", ["symmetry factor", "perturbed action", "propagator"])
def test_every_kind_sees_a_planted_error(planted: str, quantity: Any, monkeypatch: pytest.MonkeyPatch,
                                         fresh_caches: None) -> None:
    """One symmetry factor of one vertex, one coefficient by a hundredth, half of one contraction."""
    assert_next_coefficient(TWO, 1, quantity, at=(0, 0))
    expansion._prepare.cache_clear()
    expansion._moments.cache_clear()
    subject = TWO
    if planted == "propagator":
        right = expansion.propagator

        def wrong(hessian: sp.ImmutableMatrix) -> Any:
            rows = [list(row) for row in right(hessian)]
            rows[0][1] = rows[1][0] = rows[0][1] / 2
            return tuple(map(tuple, rows))

        monkeypatch.setattr(expansion, "propagator", wrong)
    else:
        jet = expansion.Jet.__call__
        index, factor = ((2, 1), sp.Integer(2)) if planted == "symmetry factor" else ((0, 4), sp.Rational(101, 100))
        monkeypatch.setattr(expansion.Jet, "__call__", lambda self, alpha: jet(self, alpha) * (
            factor if tuple(alpha) == index else 1))
    with pytest.raises(AssertionError, match="next term"):
        assert_next_coefficient(subject, 1, quantity, at=(0, 0))


def test_a_vanishing_coefficient_is_no_obstacle() -> None:
    even = ft.Action(N * (x**2 / 2 + x**4 / 24), fields=[x], large=N)
    assert_next_coefficient(even, 1, x)
    assert_next_coefficient(even, 1, x**3)


def test_analytic_actions_and_observables_and_loops_counted_by_hbar() -> None:
    """∫ exp(-N (e^x - x)) dx = Γ(N)/N^N, whose cumulants of x are polygamma functions."""
    assert_next_coefficient(ft.Action(N * (sp.exp(x) - x), fields=[x], large=N), 1, sp.exp(x / 2))
    assert_next_coefficient(ft.Action(x**2 / 2 + x**3 / 6 + x**4 / 12, fields=[x]), 2)


def test_what_cannot_be_judged_is_refused() -> None:
    a = sp.Symbol("a", positive=True)
    S = ft.Action(N * (x**2 / 2 + a * x**4 / 24), fields=[x], large=N)
    with pytest.raises(BadInput, match="a"):
        assert_next_coefficient(S, 1)
    with pytest.raises(BadInput, match="widths"):
        assert_next_coefficient(S, 1, values={"a": 1}, widths=(1000,))
    space = ft.Space("i", sp.Symbol("n", positive=True))
    phi = ft.Entry("phi", "real", (space,))
    with pytest.raises(RuleError, match="phi"):
        assert_next_coefficient(ft.Action(ft.SpaceSum(phi**2, space), fields=[phi]), 1)
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
