"""Joint cumulants of a field over a space of symbolic size, against the same action written out, and known laws."""

from __future__ import annotations

from typing import Any

import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic import correlations
from fieldtheory.symbolic.expansion import Expansion, hbar
from fieldtheory.symbolic.series import numerical_value

n, P, g = sp.symbols("n P g", positive=True)
component, mode = ft.Space("component", n), ft.Space("mode", P)
phi = ft.Entry("phi", "real", (component,))
u, v = (ft.Entry(name, "data", (component,)) for name in "uv")
square = ft.SpaceSum(phi**2, component)
VECTOR = ft.Action(square / 2 + g * square**2 / 24, fields=[phi])
along, across = ft.SpaceSum(u * phi, component), ft.SpaceSum(v * phi, component)


def test_cumulants_of_the_square_are_derivatives_of_ln_z() -> None:
    """With r φ²/2 in place of φ²/2 the terms of ln Z are functions of g/r², and κ(φ², …) = (-2 ∂/∂r)^m ln Z."""
    log_z = VECTOR.log_partition(4, at=0)
    for m, loops in ((2, 3), (3, 2)):
        found = VECTOR.cumulant(*[square] * m, loops=loops, at=0)
        assert (found.offset, found.remainder) == (m - 1, m + loops)
        for power in range(m, m + loops):
            k = power - m  # κ of order ħ^power comes from the term g^k
            term = log_z.coefficient(k) if k else -n / 2 * sp.Symbol("ln r")
            slope = sp.Mul(*(2 * (2 * k + i) for i in range(m))) * term if k else n * 2**(m - 1) * sp.factorial(m - 1)
            assert sp.expand(found.coefficient(power) - slope) == 0


def test_cumulants_with_external_vectors() -> None:
    """⟨φ_a φ_b⟩ = δ_ab ⟨φ²⟩/n, and one vertex couples four legs in three ways."""
    two = VECTOR.cumulant(along, across, loops=2, at=0)
    mean = VECTOR.expectation(square, 3, at=0)
    uv, uu, vv = ft.SpaceSum(u * v, component), ft.SpaceSum(u**2, component), ft.SpaceSum(v**2, component)
    for power in (1, 2, 3):
        assert sp.simplify(two.coefficient(power) - uv * mean.coefficient(power) / n) == 0
    four = VECTOR.cumulant(along, along, across, across, loops=0, at=0)
    assert sp.expand(four.coefficient(3) + g * (uu * vv + 2 * uv**2) / 3) == 0


x, lam, y = (ft.Entry(name, domain, (mode,)) for name, domain in (("x", "real"), ("lambda", "spectrum"), ("y", "data")))
M = ft.SpaceSum(lam * x**2, mode)
TILTED = ft.SpaceSum(x**2 / 2 + x**3 / 10 + x**4 / 20 - y * x, mode) + M**2 / 8
LINEAR, CUBE = ft.SpaceSum(y * x, mode), ft.SpaceSum(x**3, mode)


@pytest.mark.parametrize("observables, loops", [
    ((LINEAR, M), 0), ((LINEAR, LINEAR, CUBE), 0),
    *(pytest.param(*case, marks=pytest.mark.slow)
      for case in (((LINEAR, M), 1), ((M**2, LINEAR), 1), ((LINEAR, CUBE, M), 0)))], ids=str)
def test_away_from_zero_against_the_action_written_out(observables: tuple[sp.Expr, ...], loops: int) -> None:
    """Two points with their own data: two scalar fields, another routine, at a saddle that is not zero."""
    values: dict[Any, Any] = {lam: [sp.Rational(1), sp.Rational(3, 2)], y: [sp.Rational(1, 2), sp.Rational(-1, 3)]}
    a, b = sp.symbols("a b", real=True)

    def written(expr: sp.Expr) -> sp.Expr:
        def at(node: sp.Basic, k: int | None) -> sp.Basic:
            if isinstance(node, ft.SpaceSum):
                return sp.Add(*(at(node.body, i) for i in (0, 1)))
            if isinstance(node, ft.Entry):
                return (a, b)[k] if node == x else values[node][k]  # type: ignore[index]
            return node.func(*(at(arg, k) for arg in node.args)) if node.args else node

        return at(expr, None)  # type: ignore[return-value]

    action = written(TILTED)
    point = tuple(sp.nsimplify(p, rational=True) for p in sp.nsolve([sp.diff(action, f) for f in (a, b)], (a, b),
                                                                    (0.3, -0.3), prec=40))
    expected = Expansion(action, (a, b), point, hbar).cumulant([written(o) for o in observables], loops)
    found = correlations.cumulant_terms(TILTED, x, observables, loops)
    at = {**values, x: list(point), P: 2}
    assert [numerical_value(term, at, 30) for term in found.values()] == pytest.approx(
        [numerical_value(term, {}, 30) for term in expected], rel=1e-20)
    assert all(abs(float(term)) > 1e-6 for term in expected)


def test_a_wrong_source_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = VECTOR.cumulant(square, along, along, loops=0, at=0)
    monkeypatch.setattr(correlations, "factorial", lambda k: 1)
    assert VECTOR.cumulant(square, along, along, loops=0, at=0) != right


def test_constants_are_connected_to_nothing_and_refusals_name_the_observable() -> None:
    assert not any(VECTOR.cumulant(square, sp.Integer(2), loops=1, at=0).terms)
    assert VECTOR.cumulant(square, loops=2, at=0) == VECTOR.expectation(square, 2, at=0)
    for call, match in ((lambda: VECTOR.cumulant(phi, phi, loops=1, at=0), "open in component"),
                        (lambda: VECTOR.cumulant(loops=1, at=0), "at least one"),
                        (lambda: VECTOR.cumulant(square, square, loops=-1, at=0), "loops")):
        with pytest.raises(BadInput, match=match):
            call()
    with pytest.raises(RuleError, match="field over a space"):
        VECTOR.diagrams(2, all=True)
