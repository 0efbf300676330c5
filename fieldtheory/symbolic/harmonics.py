r"""Functions on a sphere, from the law of one cosine: how many harmonics there are of a degree, and what powers are.

For t = v̂·v̂' between unit vectors in n dimensions, of which one is random, let P_l(t) be the polynomials orthogonal in
its law.  The harmonics Y_lm of degree l, normalised to E Y² = 1, have Σ_m Y_lm(v̂) Y_lm(v̂') = d_l P_l(t)/P_l(1), with
d_l = P_l(1)²/E P_l² of them; and

    t^j = Σ_l β_jl Σ_m Y_lm(v̂) Y_lm(v̂'),      β_jl = E[t^j P_l]/P_l(1),      Σ_l d_l β_jl = 1.

Only the moments of t are used, by the algorithm of Chebyshev; derived here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.symbolic.averages import closed_form


@dataclass(frozen=True)
class Harmonics:
    """The harmonics of one degree: their number d_l, and their weight β_jl in each power t^j that has any."""

    multiplicity: sp.Expr
    weights: Mapping[int, sp.Expr]


T = sp.Dummy("t")


@lru_cache(maxsize=1024)
def cosine_moment(pairs: int, dimension: sp.Expr) -> sp.Expr:
    """E t^{2k} of one component of a random unit vector: that of a normal variable over that of the norm."""
    found = _normal_moment(pairs) / _norm_derivative(pairs, sp.sympify(dimension)).xreplace({T: sp.S.Zero})
    return sp.factor(found) if found.free_symbols else found


@lru_cache(maxsize=256)
def _normal_moment(pairs: int) -> sp.Expr:
    z = sp.Dummy("z", real=True)
    return closed_form(z**(2 * pairs), [z], [[sp.S.One]])


@lru_cache(maxsize=1024)
def _norm_derivative(order: int, dimension: sp.Expr) -> sp.Expr:
    """Of E exp(t |z|²) in t."""
    return sp.diff(_norm_derivative(order - 1, dimension), T) if order else (1 - 2 * T)**(-dimension / 2)


@lru_cache(maxsize=64)
def harmonics(dimension: sp.Expr, order: int) -> tuple[Harmonics, ...]:
    """Of each degree l = 0 … order, those that occur in powers of a cosine up to t^order.

    On the points ±1 (one dimension) there are two, and the list ends there.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise BadInput("order", order, "an integer that is zero or more")
    dimension = sp.sympify(dimension)
    known = [sp.S.Zero if j % 2 else cosine_moment(j // 2, dimension) for j in range(2 * order + 1)]
    simple = sp.factor if dimension.free_symbols else sp.sympify
    before, value_before = [sp.S.Zero] * len(known), sp.S.Zero  # E[t^j P_{l-1}] and P_{l-1}(1)
    moments, value, norm_before = known, sp.S.One, sp.S.One
    found: list[Harmonics] = []
    for l in range(order + 1):
        norm = moments[l]
        if norm == 0:
            break
        found.append(Harmonics(simple(value**2 / norm), MappingProxyType(
            {j: simple(moments[j] / value) for j in range(l, order + 1, 2)})))
        ratio = norm / norm_before if l else sp.S.Zero
        after = [simple(moments[j + 1] - ratio * before[j]) for j in range(len(moments) - 1)]
        before, moments = moments, after
        value, value_before = simple(value - ratio * value_before), value
        norm_before = norm
    return tuple(found)


__all__ = ["Harmonics", "cosine_moment", "harmonics"]
