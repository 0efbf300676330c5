"""Fields over spaces: sums without indices, and functional derivatives against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.fields import (
    Entry,
    Space,
    SpaceSum,
    depends_on,
    entries,
    open_spaces,
    rename,
    sum_over,
    vary,
)
from fieldtheory.symbolic.forms import hessian
from fieldtheory.symbolic.rules import LogIntegral

M, P = sp.symbols("M P", positive=True)
c = sp.Symbol("c", real=True)
row, mode = Space("row", M), Space("mode", P)
phi = Entry("phi", "real", (mode,))
psi = Entry("psi", "real", (row, mode))
q = Entry("q", "positive")
x = Entry("x", "data", (mode,))
r = Entry("r", "data", (row,))
A = Entry("A", "data", (row, mode))
FIELDS = (phi, psi, q)
SIZES = {M: 2, P: 3}
NAMES = ["phi", "psi", "q", "x", "r", "A", "c", "row", "mode", "M", "P"]


def _values(seed: int) -> dict[sp.Basic, object]:
    rng = np.random.default_rng(seed)
    return {**SIZES, c: rng.normal(), q: rng.uniform(0.5, 1.5), **{
        entry: rng.normal(size=[SIZES[space.size] for space in entry.spaces]) for entry in (phi, psi, x, r, A)}}


def _grow(inner: st.SearchStrategy[sp.Expr]) -> st.SearchStrategy[sp.Expr]:
    return st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] + 2 * pair[1]),
        inner.map(lambda e: e**2),
        inner.map(lambda e: sp.log(2 + sp.cos(e))),
        inner.map(sp.sin),
        st.tuples(inner, st.sampled_from((row, mode))).map(lambda pair: SpaceSum(*pair)))


OPEN = st.recursive(st.sampled_from((phi, psi, q, x, r, A, c, phi, psi)), _grow, max_leaves=5)
CLOSED = OPEN.map(lambda e: sum_over(e, sorted(open_spaces(e), key=lambda space: space.name)))
MODEST = settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


def _derivative(expr: sp.Expr, field: Entry, direction: np.ndarray, values: dict[sp.Basic, object]) -> object:
    """Along a direction, by a complex step: exact to rounding for analytic expressions."""
    shifted = {**values, field: values[field] + 1e-30j * direction}
    return np.imag(evaluate(expr, shifted, axes=sorted(open_spaces(expr), key=lambda s: s.name))) / 1e-30


@MODEST
@given(CLOSED, st.sampled_from(FIELDS), st.integers(0, 2**32 - 1))
def test_variation_is_the_gradient(expr: sp.Expr, field: Entry, seed: int) -> None:
    values = _values(seed)
    try:
        gradient = vary(expr, field)
    except RuleError:
        assume(False)
    direction = np.random.default_rng(seed + 1).normal(size=np.shape(values[field]))
    along = np.sum(evaluate(gradient, values, axes=field.spaces) * direction)
    expected = _derivative(expr, field, direction, values)
    assert along == pytest.approx(float(expected), rel=1e-10, abs=1e-10)
    assert (gradient == 0) or depends_on(expr, field)


@MODEST
@given(CLOSED, st.sampled_from(FIELDS), st.integers(0, 2**32 - 1))
def test_second_variation_is_the_hessian(expr: sp.Expr, field: Entry, seed: int) -> None:
    values = _values(seed)
    try:
        gradient, form = vary(expr, field), hessian(expr, field)
    except RuleError:
        assume(False)
    eta = Entry("eta", "data", field.spaces)
    direction = np.random.default_rng(seed + 1).normal(size=np.shape(values[field]))
    applied = evaluate(form.apply(eta), {**values, eta: direction}, axes=field.spaces)
    order = sorted(field.spaces, key=lambda space: space.name)
    shifted = {**values, field: values[field] + 1e-30j * direction}
    expected = np.imag(evaluate(gradient, shifted, axes=order)) / 1e-30
    expected = np.transpose(expected, [order.index(space) for space in field.spaces])
    assert np.allclose(applied, expected, rtol=1e-9, atol=1e-9)


@MODEST
@given(CLOSED, st.sampled_from(FIELDS), st.permutations(NAMES))
def test_variation_commutes_with_renaming(expr: sp.Expr, field: Entry, names: list[str]) -> None:
    table = dict(zip(NAMES, names))
    try:
        gradient = vary(expr, field)
    except RuleError:
        assume(False)
    assert vary(rename(expr, table), rename(field, table)) == rename(gradient, table)


def test_a_sum_is_linear_and_takes_constants_out() -> None:
    assert SpaceSum(2 * c * phi + q * x, mode) == 2 * c * SpaceSum(phi, mode) + q * SpaceSum(x, mode)
    assert SpaceSum(c, mode) == c * P
    assert SpaceSum(0, mode) == 0
    assert SpaceSum(SpaceSum(phi, mode), mode) == P * SpaceSum(phi, mode)
    assert SpaceSum(phi * SpaceSum(x, mode), mode) == SpaceSum(phi, mode) * SpaceSum(x, mode)
    assert SpaceSum(r * phi, mode) == r * SpaceSum(phi, mode)


def test_open_spaces_are_those_that_no_sum_binds() -> None:
    assert open_spaces(psi * phi) == {row, mode}
    assert open_spaces(SpaceSum(psi * phi, mode)) == {row}
    assert open_spaces(sum_over(psi, (row, mode))) == frozenset()
    site = Entry("w", "real", (mode,))
    assert open_spaces(LogIntegral(SpaceSum(site**2, mode), sp.Tuple(site))) == frozenset()


def test_entries_are_told_apart_by_all_they_have() -> None:
    kinds = {Entry("a", "real", (mode,)), Entry("a", "imaginary", (mode,)), Entry("a", "real", (row,)), Entry("a")}
    assert len(kinds) == 4
    assert sp.srepr(Entry("a", "real", (mode,))) != sp.srepr(Entry("a", "imaginary", (mode,)))
    assert Entry("a", "real", (mode,)) == Entry("a", "real", (mode,))
    with pytest.raises(BadInput, match="domain"):
        Entry("a", "complex")


def test_entries_rebuild_from_their_arguments() -> None:
    expr = SpaceSum(psi**2 * sp.log(q), row)
    assert expr.func(*expr.args) == expr
    assert psi.func(*psi.args) == psi
    assert entries(expr) == entries(expr.xreplace({}))


def test_plain_differentiation_does_not_see_fields() -> None:
    total = SpaceSum(phi**2, mode)
    assert sp.diff(c * total, c) == total
    with pytest.raises((ValueError, RuleError)):
        sp.diff(total, phi)


def test_an_open_expression_has_no_variation() -> None:
    with pytest.raises(RuleError, match="open in mode"):
        vary(phi**2, phi)
    with pytest.raises(BadInput, match="field"):
        vary(phi**2, phi**2)


def test_variation_goes_to_where_the_field_is() -> None:
    assert vary(SpaceSum(x * phi**2, mode), phi) == 2 * x * phi
    assert vary(sp.log(SpaceSum(x * phi, mode)), phi) == x / SpaceSum(x * phi, mode)
    # Σ_r r (Σ_k A φ)²: the adjoint appears by itself
    gradient = vary(SpaceSum(r * SpaceSum(A * phi, mode)**2, row), phi)
    assert gradient == 2 * SpaceSum(r * A * SpaceSum(A * phi, mode), row)
