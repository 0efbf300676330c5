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
from sympy.polys.rings import PolyElement, ring

from fieldtheory.errors import BadInput

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
    _check_loops(loops)
    order = 2 * loops  # powers of ε = √ħ
    names = ["G", *(f"S{k}" for k in range(3, order + 3))]
    _, *generators = ring(names, sp.QQ)
    G, vertex = generators[0], dict(enumerate(generators[1:], start=3))
    zero, one = G.ring.zero, G.ring.one
    interaction = {k - 2: {k: vertex[k] / factorial(k)} for k in range(3, order + 3)}

    # exp(-V) as {power of ε: {power of x: coefficient}}, by e·B_e = -Σ_i i V_i B_{e-i}
    weight: list[dict[int, PolyElement]] = [{0: one}]
    for e in range(1, order + 1):
        terms: dict[int, PolyElement] = {}
        for i in range(1, e + 1):
            for power, v in interaction[i].items():
                for x, b in weight[e - i].items():
                    terms[x + power] = terms.get(x + power, zero) - v * b * sp.QQ(i, e)
        weight.append(terms)

    def moment(power: int) -> PolyElement:
        return zero if power % 2 else G**(power // 2) * (factorial(power) // (2**(power // 2) * factorial(power // 2)))

    def averaged(extra: int) -> list[PolyElement]:
        """ε-series of ⟨ε^extra x^extra e^{-V}⟩ / extra!, even powers: the ħ-series."""
        series = []
        for e in range(0, order + 1, 2):
            terms = weight[e - extra] if e >= extra else {}
            series.append(sum((b * moment(x + extra) for x, b in terms.items()), zero) / factorial(extra))
        return series

    norm = averaged(0)
    log_norm = _log_series(norm, zero)
    inverse = _inverse_series(norm, zero, one)
    symbols = {g: sp.Symbol(str(g)) for g in generators}
    expectation: dict[int, dict[int, sp.Expr]] = {}
    for n in range(order + 1):
        product = _multiply(averaged(n), inverse, zero)
        expectation[n] = {l: value.as_expr(*symbols.values()) for l, value in enumerate(product) if value}
    log_partition = {l + 1: value.as_expr(*symbols.values()) for l, value in enumerate(log_norm) if l >= 1}
    return LoopCoefficients(loops, symbols[G], {k: symbols[v] for k, v in vertex.items()}, log_partition, expectation)


def _check_loops(loops: int) -> None:
    if not isinstance(loops, int) or loops < 0:
        raise BadInput("loops", loops, "an integer that is zero or more")


def _multiply(a: list[PolyElement], b: list[PolyElement], zero: PolyElement) -> list[PolyElement]:
    return [sum((a[i] * b[n - i] for i in range(n + 1)), zero) for n in range(len(a))]


def _inverse_series(a: list[PolyElement], zero: PolyElement, one: PolyElement) -> list[PolyElement]:
    result = [one]
    for n in range(1, len(a)):
        result.append(-sum((a[i] * result[n - i] for i in range(1, n + 1)), zero))
    return result


def _log_series(a: list[PolyElement], zero: PolyElement) -> list[PolyElement]:
    result = [zero]
    for n in range(1, len(a)):
        correction = sum((result[i] * a[n - i] * i for i in range(1, n)), zero)
        result.append(a[n] - correction / n)
    return result


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
        _check_loops(loops)
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
