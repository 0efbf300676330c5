r"""Loop expansion about a saddle point, for an action of one scalar field.

With S → S/ħ and S_k the k-th derivative at the saddle u*, everything is a polynomial in G = 1/S_2 and the
vertices S_3, S_4, …:

    ln Z  = -S/ħ - ½ ln(S_2/2πħ) + Σ_{L≥2} ħ^{L-1} z_L,
    ⟨O⟩   = Σ_n c_n(ħ) O^{(n)}(u*),      cov(O, O') = Σ_{nm} c_{nm}(ħ) O^{(n)} O'^{(m)}.

The coefficients are computed once and for all actions by Gaussian moments in a polynomial ring, the
derivatives entering as opaque generators.  An L-loop ⟨O⟩ keeps ħ^L and errs at ħ^{L+1}; an L-loop ln Z keeps
ħ^{L-1} and errs at ħ^L.  Derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb, factorial

import sympy as sp

from fieldtheory.symbolic.moments import Moments, check_loops

hbar = sp.Symbol("hbar", positive=True)
"""The loop-counting parameter: the power of 1/N once S = N s."""


@dataclass(frozen=True)
class LoopCoefficients:
    """Coefficients by power of ħ, as polynomials in ``propagator`` and ``vertices`` (vertices[k] stands for S_k).

    ``log_partition[L]`` is the ħ^{L-1} term of ln Z for L ≥ 2; ``expectation[n][l]`` the ħ^l part of c_n.
    """

    loops: int
    propagator: sp.Symbol
    vertices: dict[int, sp.Symbol]
    log_partition: dict[int, sp.Expr]
    expectation: dict[int, dict[int, sp.Expr]]

    def covariance(self, n: int, m: int) -> dict[int, sp.Expr]:
        """c_{nm} by power of ħ, from ⟨OO'⟩ - ⟨O⟩⟨O'⟩ and Leibniz' rule."""
        result: dict[int, sp.Expr] = {}
        joint = self.expectation.get(n + m, {})
        for order in range(self.loops + 1):
            value = comb(n + m, n) * joint.get(order, sp.S.Zero)
            value -= sp.Add(*(self.expectation[n].get(i, sp.S.Zero) * self.expectation[m].get(order - i, sp.S.Zero)
                              for i in range(order + 1)))
            value = sp.expand(value)
            if value != 0:
                result[order] = value
        return result


@lru_cache(maxsize=32)
def loop_coefficients(loops: int) -> LoopCoefficients:
    """All coefficients through ``loops`` loops (ħ^loops).

    Raises
    ------
    BadInput
        If ``loops`` is not a non-negative integer.
    """
    check_loops(loops)
    order = 2 * loops  # powers of ε = √ħ
    G, vertices = sp.Symbol("G"), {k: sp.Symbol(f"S{k}") for k in range(3, order + 3)}
    moments = Moments(1, order, {(k,): vertex / factorial(k) for k, vertex in vertices.items()}, ((G,),))
    expectation: dict[int, dict[int, sp.Expr]] = {}
    for n in range(order + 1):  # ⟨x^n⟩ by power e of ε beyond the n that belong to x: ħ^{(n+e)/2}
        averages = {(n + e) // 2: value for e, value in enumerate(moments.moment((n,))) if value}
        expectation[n] = {l: sp.expand(moments.expression(value) / factorial(n))
                          for l, value in averages.items() if l <= loops}
    log_partition = {l + 1: moments.expression(value) for l, value in enumerate(moments.log_norm()) if l >= 1}
    return LoopCoefficients(loops, G, vertices, log_partition, expectation)


@dataclass(frozen=True)
class ScalarExpansion:
    """The loop expansion of one scalar field with its action's derivatives given as expressions.

    ``derivatives[k]`` is S_k, an expression in the field (evaluated at the saddle by whoever evaluates it).
    """

    field: sp.Expr
    action: sp.Expr
    derivatives: tuple[sp.Expr, ...]
    loops: int

    @classmethod
    def of(cls, action: sp.Expr, field: sp.Expr, loops: int) -> ScalarExpansion:
        check_loops(loops)
        # ⟨O⟩ at L loops needs S_2 … S_{2L+1}; ln Z at L+1 loops one more.
        return cls(field, action, scalar_derivatives(action, field, 2 * loops + 2), loops)

    @property
    def coefficients(self) -> LoopCoefficients:
        return loop_coefficients(self.loops)

    @property
    def table(self) -> dict[sp.Symbol, sp.Expr]:
        """What the opaque propagator and vertices stand for."""
        c = self.coefficients
        table: dict[sp.Symbol, sp.Expr] = {c.propagator: 1 / self.derivatives[2]}
        table.update({symbol: self.derivatives[k] for k, symbol in c.vertices.items()})
        return table

    def log_partition(self) -> dict[int, sp.Expr]:
        """ln Z by power of ħ: {-1: -S, 0: -½ ln(S_2/2π), 1: …, loops: …}, an expansion through loops + 1 loops."""
        terms = {-1: -self.action, 0: -sp.log(self.derivatives[2] / (2 * sp.pi)) / 2}
        terms.update({L - 1: z.xreplace(self.table) for L, z in self.coefficients.log_partition.items()})
        return terms

    def expectation(self, observable: sp.Expr) -> dict[int, sp.Expr]:
        """⟨O⟩ by power of ħ, 0 … loops."""
        jets = scalar_derivatives(observable, self.field, 2 * self.loops)
        terms: dict[int, sp.Expr] = {}
        for n, series in self.coefficients.expectation.items():
            for order, c in series.items():
                terms[order] = terms.get(order, sp.S.Zero) + c.xreplace(self.table) * jets[n]
        return terms


def scalar_derivatives(expr: sp.Expr, field: sp.Expr, order: int) -> tuple[sp.Expr, ...]:
    """(expr, expr', …) through the given order in a scalar field; expr may be open in spaces of its own."""
    dummy = sp.Dummy("u", real=True)
    derivatives = [expr.xreplace({field: dummy})]
    for _ in range(order):
        derivatives.append(sp.diff(derivatives[-1], dummy))
    return tuple(derivative.xreplace({dummy: field}) for derivative in derivatives)
