"""Quadratic forms that are local plus low rank, against dense matrices; Gaussian averages against moments."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory.errors import NotGaussian, RuleError
from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, sum_over
from fieldtheory.symbolic.forms import Form, Gaussian, gaussian, gaussian_average, hessian

M, P = sp.symbols("M P", positive=True)
row, mode = Space("row", M), Space("mode", P)
LAYOUTS = (((mode,), (mode,)), ((row, mode), (mode,)), ((row, mode), (row,)), ((row, mode), (row, mode)))


def _form(name: str, spaces: tuple[Space, ...], nonlocal_spaces: tuple[Space, ...], rank: int) -> Form:
    def entry(letter: str, domain: str) -> Entry:
        return Entry(f"{letter}_{name}", domain, spaces)

    pairs = tuple((entry(f"u{a}", "data"), entry(f"v{a}", "data")) for a in range(rank))
    return Form(spaces, entry("d", "spectrum"), pairs, nonlocal_spaces if rank else ())


def _values(forms: list[Form], rng: np.random.Generator) -> dict[sp.Basic, object]:
    sizes = {M: int(rng.integers(1, 4)), P: int(rng.integers(1, 4))}
    values: dict[sp.Basic, object] = dict(sizes)
    for form in forms:
        shape = [sizes[space.size] for space in form.spaces]
        values[form.diag] = rng.uniform(1, 2, shape)
        for u, v in form.pairs:
            values[u], values[v] = 0.3 * rng.normal(size=shape), 0.3 * rng.normal(size=shape)
    return values


def _dense(form: Form, values: dict[sp.Basic, object]) -> np.ndarray:
    """The matrix over all spaces at once."""
    d = np.asarray(evaluate(form.diag, values, axes=form.spaces))
    shape, n = d.shape, d.size
    index = np.array(list(np.ndindex(*shape)))
    local = [i for i, space in enumerate(form.spaces) if space not in form.nonlocal_spaces]
    same = np.all(index[:, None, local] == index[None, :, local], axis=-1)
    matrix = np.diag(d.reshape(n)).astype(float)
    for u, v in form.pairs:
        left, right = (np.asarray(evaluate(e, values, axes=form.spaces)).reshape(n) for e in (u, v))
        matrix += same * np.outer(left, right)
    return matrix


@settings(max_examples=30)
@given(st.sampled_from(LAYOUTS), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_inverse_determinant_and_application(layout: tuple, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    form = _form("a", *layout, rank)
    values = _values([form], rng)
    dense = _dense(form, values)
    assert np.allclose(_dense(form.inverse(), values), np.linalg.inv(dense), rtol=1e-9, atol=1e-10)
    sign, log_det = np.linalg.slogdet(dense)
    assert np.exp(evaluate(form.log_det(), values)) == pytest.approx(sign * np.exp(log_det), rel=1e-9)
    b, c = (Entry(name, "data", form.spaces) for name in "bc")
    shape = np.shape(values[form.diag])
    values |= {b: rng.normal(size=shape), c: rng.normal(size=shape)}
    flat_b, flat_c = np.ravel(values[b]), np.ravel(values[c])
    applied = evaluate(form.apply(b), values, axes=form.spaces)
    assert np.allclose(np.ravel(applied), dense @ flat_b)
    solved = evaluate(form.solve(b), values, axes=form.spaces)
    assert np.allclose(np.ravel(solved), np.linalg.solve(dense, flat_b), rtol=1e-9, atol=1e-10)
    assert evaluate(form.quadratic(b, c), values) == pytest.approx(flat_b @ dense @ flat_c, rel=1e-9, abs=1e-10)
    assert np.allclose(_dense(form.scale(sp.Integer(3)), values), 3 * dense)


@settings(max_examples=40)
@given(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.integers(0, 2), st.integers(0, 2),
       st.integers(0, 2**32 - 1))
def test_traces_of_products(first: tuple, second: tuple, rank: int, other: int, seed: int) -> None:
    spaces = first[0]
    layout = (spaces, tuple(space for space in second[1] if space in spaces) or spaces)
    forms = [_form("a", *first, rank), _form("b", *layout, other)]
    values = _values(forms, np.random.default_rng(seed))
    expected = np.trace(_dense(forms[0], values) @ _dense(forms[1], values))
    assert evaluate(forms[0].trace_with(forms[1]), values) == pytest.approx(expected, rel=1e-10)


@settings(max_examples=20)
@given(st.sampled_from(LAYOUTS), st.integers(0, 2), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_sums_of_forms(layout: tuple, rank: int, other: int, seed: int) -> None:
    forms = [_form("a", *layout, rank), _form("b", *layout, other)]
    values = _values(forms, np.random.default_rng(seed))
    total = _dense(forms[0].add(forms[1]), values)
    assert np.allclose(total, _dense(forms[0], values) + _dense(forms[1], values))


def test_forms_that_do_not_fit_are_refused() -> None:
    wide, narrow = _form("a", (row, mode), (mode,), 1), _form("b", (row, mode), (row,), 1)
    with pytest.raises(RuleError, match="different spaces"):
        wide.add(narrow)
    with pytest.raises(RuleError, match="no local part"):
        Form((mode,), sp.S.Zero, ((Entry("u", "data", (mode,)),) * 2,), (mode,)).inverse()


phi = Entry("phi", "real", (mode,))
x, y, d = Entry("x", "data", (mode,)), Entry("y", "data", (mode,)), Entry("d", "spectrum", (mode,))


def test_an_action_splits_into_value_source_and_form() -> None:
    expr = 3 + SpaceSum(d * phi**2 / 2 - y * phi, mode) + SpaceSum(x * phi, mode)**2
    law = gaussian(expr, phi)
    assert law.constant == 3
    assert law.source == -y
    assert law.form == Form((mode,), d, ((2 * x, x),), (mode,))
    assert hessian(expr, phi) == law.form


@pytest.mark.parametrize("term, how", [
    (SpaceSum(phi**4, mode), "order 4"),
    (SpaceSum(phi**2, mode)**2, "order 4"),
    (SpaceSum(phi**3 * x, mode), "order 3"),
    (SpaceSum(sp.erf(phi), mode), "through erf"),
    (SpaceSum(sp.log(1 + phi**2), mode), "through log"),
    (SpaceSum(1 / (1 + phi**2), mode), "through the power -1"),
])
def test_a_field_that_is_not_gaussian_is_named(term: sp.Expr, how: str) -> None:
    with pytest.raises(NotGaussian, match=f"phi enters .*{how}"):
        gaussian(SpaceSum(d * phi**2 / 2, mode) + term, phi)


def test_a_field_that_enters_linearly_is_a_delta_function() -> None:
    with pytest.raises(NotGaussian, match="delta function"):
        gaussian(SpaceSum(y * phi, mode), phi)


def _law() -> tuple[Gaussian, dict[sp.Basic, object], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    law = gaussian(SpaceSum(d * phi**2 / 2 - y * phi, mode) + SpaceSum(x * phi, mode)**2 / 2, phi)
    values: dict[sp.Basic, object] = {P: 3, d: rng.uniform(1, 2, 3), x: rng.normal(size=3), y: rng.normal(size=3)}
    dense = np.diag(values[d]) + np.outer(values[x], values[x])
    return law, values, np.linalg.solve(dense, values[y]), np.linalg.inv(dense)


def test_moments_by_isserlis() -> None:
    law, values, mean, covariance = _law()
    v = Entry("v", "data", (mode,))
    probe = values[v] = np.array([0.3, -1.2, 0.7])
    first, spread = probe @ mean, probe @ covariance @ probe
    linear = SpaceSum(v * phi, mode)
    for power, expected in ((1, first), (2, first**2 + spread), (3, first**3 + 3 * first * spread),
                            (4, first**4 + 6 * first**2 * spread + 3 * spread**2)):
        assert evaluate(gaussian_average(linear**power, law), values) == pytest.approx(expected, rel=1e-11)
    squares = np.trace(covariance) + mean @ mean
    assert evaluate(gaussian_average(SpaceSum(phi**2, mode), law), values) == pytest.approx(squares, rel=1e-11)
    variance = 2 * np.trace(covariance @ covariance) + 4 * mean @ covariance @ mean
    assert evaluate(gaussian_average(SpaceSum(phi**2, mode)**2, law), values) == pytest.approx(
        squares**2 + variance, rel=1e-11)


def test_an_observable_open_elsewhere_is_averaged_there() -> None:
    law, values, mean, _ = _law()
    B = Entry("B", "data", (row, mode))
    values |= {M: 2, B: np.arange(6.0).reshape(2, 3)}
    assert np.allclose(evaluate(gaussian_average(SpaceSum(B * phi, mode), law), values), values[B] @ mean)
    assert np.allclose(evaluate(gaussian_average(phi, law), values, axes=(mode,)), mean)


def test_averages_that_do_not_end_or_need_a_probe_are_refused() -> None:
    law, *_ = _law()
    with pytest.raises(NotGaussian, match="through sin"):
        gaussian_average(SpaceSum(sp.sin(phi), mode), law, orders=2)
    with pytest.raises(RuleError, match="vector"):
        gaussian_average(phi**2, law)
    untouched = sum_over(x * y, (mode,))
    assert gaussian_average(untouched, law) is untouched
