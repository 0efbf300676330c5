"""What is refused of a field over a space before it is expanded, and what the large parameter and n = 1 make of it."""

from __future__ import annotations

from typing import Any

import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum

n, N, g = sp.symbols("n N g", positive=True)
r, z = sp.symbols("r z", real=True)
component, sample = Space("component", n), Space("sample", sp.Symbol("P", positive=True))
phi, u = Entry("phi", "real", (component,)), Entry("u", "data", (component,))
lam, c = Entry("lambda", "spectrum", (component,)), Entry("c", "data", (component,))
j = Entry("j", "imaginary", (component,))
x = sp.Symbol("x", real=True)


def S_(body: Any) -> sp.Expr:
    return SpaceSum(body, component)


square = S_(phi**2)
VECTOR = ft.Action(square / 2 + g * square**2 / 24, fields=[phi])


@pytest.mark.parametrize("expr", [
    square / 2 - g * square**2 / 24, square / 2 + S_(phi**3), square + S_(u * phi**3), square**2 - g * S_(phi**6),
    S_(phi**4) - square**2 * 2,  # every single component falls, all together need not
    n * S_(phi**4) / 2 - square**2,  # all together fall, a single component need not
    S_(sp.exp(phi) - phi) - square,
])
def test_unbounded_below(expr: sp.Expr) -> None:
    S = ft.Action(expr, fields=[phi])
    for call in (lambda: S.log_partition(2, at=0), lambda: S.expectation(square, 1, at=0)):
        with pytest.raises(BadInput, match="falls without bound along phi = "):
            call()


@pytest.mark.parametrize("expr", [
    square / 2 + S_(lam * phi**4) - S_(u * phi), square / 2 + g * square * S_(lam * phi**2),
    S_(sp.cosh(phi)) - square / 3, n * S_(phi**4) - square**2, (1 + sp.I) * square,
])
def test_bounded_below(expr: sp.Expr) -> None:
    ft.Action(expr, fields=[phi]).log_partition(2)


def test_a_formal_series_and_an_imaginary_contour_need_no_bound() -> None:
    falling = ft.Action(square / 2 - g * square**2 / 24, fields=[phi])
    series = VECTOR.log_partition(3, at=0)
    rising = falling.log_partition(3, at=0, formal=True).map(lambda term: term.subs(g, -g))
    assert rising.map(sp.expand) == series.map(sp.expand)
    S = ft.Action(-S_((lam + 1) * j**2) / 2 + sp.log(1 - S_(j**2)), fields=[j])
    assert S.log_partition(2, at=0).remainder == 2


@pytest.mark.parametrize(("call", "match"), [
    (lambda: ft.Action(square / 2 - S_(u * phi), fields=[phi]).log_partition(2, at=0), "derivative by phi is -u"),
    (lambda: ft.Action(square / 2 - S_(u * phi), fields=[phi]).expectation(phi, 1, at=0), "derivative by phi is -u"),
    (lambda: ft.Action(square / 2 - S_(u * phi) + g * square**2, fields=[phi]).diagrams(2), "derivative by phi is -u"),
    (lambda: VECTOR.cumulant(square, square, loops=1, at=1), "at: got 1; expected a stationary point"),
    (lambda: ft.Action(S_(phi**2 / 2 - sp.log(phi)), fields=[phi]).log_partition(2, at=0), "at: got 0"),
    (lambda: VECTOR.expectation(z, 1, at=0), "unknown symbol z"),
    (lambda: VECTOR.expectation(square + S_(Entry("psi", "real", (component,))), 1, at=0), "unknown symbol psi"),
    (lambda: VECTOR.cumulant(square, z * square, loops=1, at=0), "unknown symbol z"),
    (lambda: VECTOR.expectation(S_(sp.Abs(phi)), 1, at=0), "observable: got Abs"),
    (lambda: ft.Action(square / 2 + S_(sp.Abs(phi)), fields=[phi]).log_partition(2, at=0), "action: got Abs"),
    (lambda: ft.Action(square / 2 + S_(sp.Abs(phi)), fields=[phi]).log_partition(2), "action: got Abs"),
    (lambda: ft.Action(N * square / 2 + square**2, fields=[phi], large=N).log_partition(2, at=0), "large: got N"),
    (lambda: VECTOR.log_partition(-1, at=0), "loops: got -1"),
    (lambda: VECTOR.diagrams("2"), "loops: got 2"),
])
def test_refusals(call: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        call()


def test_verification_says_that_it_is_for_scalar_fields() -> None:
    with pytest.raises(RuleError, match="scalar fields"):
        VECTOR.verify(1)


def test_away_from_zero_at_a_value_in_closed_form() -> None:
    """Σ (φ² - 1)²: n independent wells, each in one minimum."""
    wells = ft.Action(N * S_((phi**2 - 1)**2), fields=[phi], large=N)
    one = ft.Action(N * (x**2 - 1)**2, fields=[x], large=N)
    for sign in (1, -1):
        assert wells.log_partition(4, at=sign) == one.log_partition(4, at=sign).map(lambda term: n * term)
        assert wells.expectation(S_(phi), 2, at=sign) == one.expectation(x, 2, at=sign).map(lambda term: n * term)


def test_one_component_is_the_scalar_case() -> None:
    """Every quantity, with the same powers of the same parameter, with and without a large one."""
    for large in (None, N):
        scale = sp.S.One if large is None else large
        vector = ft.Action(scale * VECTOR.expr, fields=[phi], large=large)
        scalar = ft.Action(scale * (x**2 / 2 + g * x**4 / 24), fields=[x], large=large)
        pairs = [(vector.log_partition(4, at=0), scalar.log_partition(4)),
                 (vector.expectation(square, 2, at=0), scalar.expectation(x**2, 2)),
                 (vector.cumulant(square, square, loops=1, at=0), scalar.cumulant(x**2, x**2, loops=1)),
                 (vector.effective_action(3), scalar.effective_action(3))]
        for many, single in pairs:
            assert (many.parameter, many.remainder) == (single.parameter, single.remainder)
            for order in range(-1, many.remainder):
                term = many.coefficient(order).replace(SpaceSum, lambda body, space: body).xreplace({phi: x})
                gap = (term - single.coefficient(order)).subs({n: 1, g: sp.Rational(3, 7), x: sp.Rational(5, 9)})
                assert abs(gap.evalf(40, chop=True)) < sp.Float(10)**-30
        weights = sum(d.weight for d in vector.diagrams(3, at=0))
        assert sp.expand(weights * scale**2 - vector.log_partition(3, at=0).coefficient(2)) == 0
