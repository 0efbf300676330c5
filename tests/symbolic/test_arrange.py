"""Arranging changes how an expression is written, never its value."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.arrange import collected, in_terms_of, joined_logs
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, open_spaces

N, P, g, s, q, c, h = sp.symbols("N P g s q c h", positive=True)
mode = Space("mode", P)
lam, y, j = Entry("lam", "spectrum", [mode]), Entry("y", "data", [mode]), Entry("j", "imaginary", [mode])
A = SpaceSum(lam / (q * lam + s), mode)
B = SpaceSum(y**2 * lam / (q * lam + s) ** 2, mode)
Q = sp.Symbol("Q_mean", positive=True)


def _value(expr: sp.Expr, **more: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    values = {lam: rng.uniform(0.5, 2.0, 3), y: rng.normal(size=3), j: 1j * rng.normal(size=3), P: 3}
    values |= dict(zip((N, g, s, q, c, h), rng.uniform(0.5, 2.0, 6)))
    values |= {sp.Symbol(name, positive=True): value for name, value in more.items()}
    return np.asarray(evaluate(expr, values, axes=sorted(open_spaces(expr), key=str)))


def _width(expr: sp.Expr) -> float:
    return float(sp.count_ops(expr))


@pytest.mark.parametrize(("expr", "joined"), [
    (N / 2 * sp.log(g) - N / 2 * sp.log(N) + N * sp.log(2) / 2 + N * sp.log(sp.pi) / 2,
     N / 2 * sp.log(2 * sp.pi * g / N)),
    (-P / 2 * sp.log(sp.pi) - P / 2 * sp.log(2), -P / 2 * sp.log(2 * sp.pi)),
    (sp.log(g) + N, N + sp.log(g)),
    (N * sp.log(1 + A) - N * sp.log(g), N * sp.log(1 + A) - N * sp.log(g)),
])
def test_logarithms_are_joined(expr: sp.Expr, joined: sp.Expr) -> None:
    assert sp.Add(*joined_logs(sp.Add.make_args(expr))) == joined


def test_logarithms_of_a_field_are_joined_among_themselves() -> None:
    field = Entry("Q", "positive", ())
    terms = joined_logs([-N / 2 * sp.log(field), sp.log(field), N / 2 * sp.log(g)])
    assert (1 - N / 2) * sp.log(field) in terms and N / 2 * sp.log(g) in terms


def test_a_logarithm_of_unknown_sign_joins_no_other() -> None:
    a, b = sp.symbols("a b", real=True)
    assert set(joined_logs([sp.log(a), sp.log(b)])) == {sp.log(a), sp.log(b)}


@pytest.mark.parametrize("expr", [
    (N - s * A) ** 2 - N**2,
    c * (A - B) + q * (A + B) ** 2 / (N * (N + 2 * q**2 * A)) - 4 * q**3 * A / N**2,
    (y - s * j) * c + h * q**2 * (2 * lam * j / (N * (1 + 2 * q / N)) - A * lam * j) - q * lam * j / (lam + s) ** 2,
    (A * c + B) / SpaceSum(y**2, mode) + N / g - N / q,
    sp.sqrt(N) * (A + 1) + sp.exp(q) * A + sp.log(g) * N - sp.loggamma(N / 2),
    sp.log(A + 1) * (N + 1) + y / (1 + A),
])
def test_collecting_keeps_the_value(expr: sp.Expr) -> None:
    assert np.allclose(_value(collected(expr, _width, (h,))), _value(expr), rtol=1e-12)


def test_what_it_is_for() -> None:
    assert collected((N - s * A) ** 2 - N**2 - s**2 * A**2, _width) == -2 * N * s * A
    assert collected(q * A / 2 - q * B / 2, _width) == q * (A - B) / 2
    assert collected(sp.Eq(N / g - N / q, A), _width) == sp.Eq(N / g - N / q, A, evaluate=False)
    in_orders = collected(y * c - h * y * lam - h * A * y, _width, (h,))
    assert sp.expand(in_orders / h).coeff(h, 0).has(A) and len(sp.Add.make_args(in_orders)) == 2


def test_in_terms_of_a_named_quantity() -> None:
    value = q - q**2 * A / N + 2 * q**3 / (N * (N + 2 * q))
    expr = value * B / N - q * SpaceSum(y**2, mode)
    shown = in_terms_of(sp.expand(expr), Q, value, _width)
    assert Q in shown.free_symbols and not shown.has(A)
    assert np.allclose(_value(shown, Q_mean=float(_value(value).real)), _value(expr), rtol=1e-12)
    assert in_terms_of(B, Q, value, _width) == B


_term = st.tuples(st.integers(-5, 5).filter(bool), st.integers(-2, 3), st.sampled_from([A, B, A * B, A**2, sp.S.One]),
                  st.sampled_from([sp.S.One, 1 / (N + 2 * q), c + 2, h]))


@settings(max_examples=30)
@given(terms=st.lists(_term, min_size=1, max_size=6))
def test_collecting_keeps_the_value_of_any_sum(terms: list[tuple[int, int, sp.Expr, sp.Expr]]) -> None:
    expr = sp.Add(*(n * q**m * node * factor for n, m, node, factor in terms))
    assert np.allclose(_value(collected(expr, _width, (h,))), _value(expr), rtol=1e-9, atol=1e-9)
