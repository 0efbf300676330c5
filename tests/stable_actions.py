"""Random actions with one saddle, and their averages by quadrature in float64 (tests/symbolic)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import sympy as sp
from hypothesis import strategies as st

N = sp.Symbol("N", positive=True)


@dataclass(frozen=True)
class StableAction:
    """S = N V(x) with its saddle at ``point`` and ξ = transform (x - point)."""

    expr: sp.Expr
    fields: tuple[sp.Symbol, ...]
    point: tuple[sp.Rational, ...]
    transform: sp.ImmutableMatrix
    large: sp.Symbol = N

    @property
    def saddle(self) -> dict[sp.Symbol, sp.Rational]:
        return dict(zip(self.fields, self.point))


def stable_actions(fields: int) -> st.SearchStrategy[StableAction]:
    r"""V = ½ |ξ + q(ξ)|² + ½ c |ξ|⁴ with ξ = A (x - x*), A triangular, q quadratic forms, all numbers rational.

    Odd terms come from ξ·q.  On a ray ξ = t v, |v| = 1, with α = v·q(v): V = ½ t² (1 + 2αt + (|q(v)|² + c) t²), which
    has no other stationary point since c ≥ |q|² of the coefficients: x* is the only real saddle.
    """
    quarters = st.integers(-2, 2).map(lambda k: sp.Rational(k, 4))
    pairs = list(combinations_with_replacement(range(fields), 2))

    @st.composite
    def draw_action(draw: Any) -> StableAction:
        x = sp.symbols(" ".join("xyz"[:fields]), real=True, seq=True)
        point = tuple(draw(quarters) for _ in x)
        A = sp.eye(fields)
        for i in range(fields):
            A[i, i] = sp.Rational(draw(st.integers(2, 4)), 2)
            for j in range(i):
                A[i, j] = draw(quarters)
        q = [[draw(quarters) / 2 for _ in pairs] for _ in x]
        q[0][0] = q[0][0] or sp.Rational(1, 8)  # an odd term at least
        xi = A * sp.Matrix([a - b for a, b in zip(x, point)])
        forms = [sum(c * xi[i] * xi[j] for c, (i, j) in zip(row, pairs)) for row in q]
        c = sum(v**2 for row in q for v in row) + sp.Rational(draw(st.integers(0, 2)), 16)
        V = sum((a + b)**2 for a, b in zip(xi, forms)) / 2 + c * sum(a**2 for a in xi)**2 / 2
        return StableAction(N * sp.Poly(V, *x).as_expr(), tuple(x), point, sp.ImmutableMatrix(A))

    return draw_action()


class Quadrature:
    """∫ over a box of ±11 standard deviations by the trapezoid rule, which converges exponentially here."""

    def __init__(self, action: StableAction, number: float, points: int = 45) -> None:
        n = len(action.fields)
        axes = np.meshgrid(*[np.linspace(-11, 11, points)] * n, indexing="ij")
        y = np.stack([axis.ravel() for axis in axes])
        inverse = np.array(action.transform.inv(), dtype=float)
        x = inverse @ y / np.sqrt(number) + np.array([float(p) for p in action.point])[:, None]
        S = sp.lambdify(action.fields, action.expr.xreplace({action.large: sp.Float(number, 30)}))(*x)
        self.fields, self.x, self.weight = action.fields, x, np.exp(-S)
        cell = (22 / (points - 1) / np.sqrt(number))**n * np.linalg.det(inverse)
        self.log_partition = float(np.log(self.weight.sum() * cell))

    def mean(self, observable: sp.Expr) -> float:
        values = sp.lambdify(self.fields, observable)(*self.x)
        return float((values * self.weight).sum() / self.weight.sum())

    def cumulant(self, observables: tuple[sp.Expr, ...]) -> float:
        """From central moments, n ≤ 4."""
        d = [o - sp.Float(self.mean(o), 17) for o in observables]
        if len(d) == 1:
            return self.mean(observables[0])
        value = self.mean(sp.Mul(*d))
        if len(d) == 4:
            for a, b in ((1, (2, 3)), (2, (1, 3)), (3, (1, 2))):
                value -= self.mean(d[0] * d[a]) * self.mean(d[b[0]] * d[b[1]])
        return value


def assert_next_terms(exact: Callable[[float], float], terms: Callable[[float], list[float]], order: int,
                      numbers: tuple[float, float] = (150, 600), noise: float = 1e-13) -> None:
    """exact(N) - (all terms) falls as N^-(order+2), where ``order`` is the power of the last term but one.

    Times N^order it must fall by 16 where N grows by 4 (6.7 will do), or be a twentieth of the last term.  A wrong last
    term makes it fall by 4, a wrong one before it not at all.
    """
    known = [terms(number) for number in numbers]
    left = [abs(exact(number) - sum(row)) * number**order for number, row in zip(numbers, known)]
    floor = noise * numbers[1]**order
    assert left[1] <= max(0.15 * left[0], 0.05 * abs(known[1][-1]) * numbers[1]**order) + floor, (left, known)
