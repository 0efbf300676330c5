r"""Gaussian moments in a polynomial ring: the arithmetic of every loop expansion.

About a saddle u* of S/ħ, with x = (φ - u*)/√ħ and ε = √ħ, the weight is a Gaussian with propagator G = (S'')⁻¹
times exp(-V), V = Σ_{k≥3} ε^{k-2} Σ_{|α|=k} S_α x^α/α!.  Two recursions do everything:

    e B_e = -Σ_{i≤e} i V_i B_{e-i}                  exp(-V) = Σ_e ε^e B_e(x),
    ⟨x_a x^α⟩ = Σ_b α_b G_ab ⟨x^{α-1_b}⟩            moments of the Gaussian.

Coefficients live in a ring over the rationals whose generators are the parameters; whatever is not a monomial in
them (a sum, a root, a derivative left as an expression) is a generator of its own and is put back at the end, so
that no step divides, cancels or simplifies.  Nothing here knows a diagram; :mod:`diagrams` is the other method.
Derived here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import comb
from typing import Any

import sympy as sp
from sympy.polys.rings import PolyElement, ring

from fieldtheory.errors import BadInput

Index = tuple[int, ...]
"""A multi-index: the power of each field."""
Propagator = tuple[tuple[sp.Expr, ...], ...]


def check_loops(loops: Any) -> None:
    """BadInput for a number of loops that is none."""
    if isinstance(loops, bool) or not isinstance(loops, int) or loops < 0:
        raise BadInput("loops", loops, "an integer that is zero or more")


def indices(fields: int, degree: int) -> Iterator[Index]:
    """All multi-indices of one degree, in a fixed order."""
    if fields == 1:
        yield (degree,)
        return
    for first in range(degree, -1, -1):
        for rest in indices(fields - 1, degree - first):
            yield (first, *rest)


def _plus(a: Index, b: Index) -> Index:
    return tuple(i + j for i, j in zip(a, b))


class Coefficients:
    """A ring that holds the given expressions, and the way back.

    Numbers are elements of the domain: rationals, or floats of the largest precision given (complex where one is).
    """

    def __init__(self, expressions: Iterable[sp.Expr]) -> None:
        self.generators: dict[sp.Expr, int] = {}
        split = [(self._split(expr), expr) for expr in expressions]
        floats = [atom for (number, _), _ in split for atom in number.atoms(sp.Float)]
        domain = sp.QQ
        if floats:
            precision = max(max(atom._prec for atom in floats), 53)
            real = all(number.is_real for (number, _), _ in split)
            domain = sp.RealField(precision) if real else sp.ComplexField(precision)
        # At least one generator: SymPy's rings have no empty case for ComplexField.
        names = [f"c{i}" for i in range(max(len(self.generators), 1))]
        self.ring = ring(names, domain)[0]
        self._elements = {expr: self._element(*parts) for parts, expr in split}

    def _split(self, expr: sp.Expr) -> tuple[sp.Expr, dict[int, int]]:
        """A number, and powers of generators."""
        if expr.is_Rational or (expr.is_number and expr.has(sp.Float)):
            return (expr if expr.is_Rational else sp.N(expr, _digits(expr))), {}
        number, rest = expr.as_coeff_Mul()
        powers: dict[int, int] = {}
        for factor in sp.Mul.make_args(rest):
            base, exponent = factor.as_base_exp()
            if not (exponent.is_Integer and exponent.is_positive):
                base, exponent = (1 / base, -exponent) if exponent.is_Integer else (factor, sp.S.One)
            generator = self.generators.setdefault(base, len(self.generators))
            powers[generator] = powers.get(generator, 0) + int(exponent)
        return number, powers

    def _element(self, number: sp.Expr, powers: Mapping[int, int]) -> PolyElement:
        element = self.ring.ground_new(self.ring.domain.from_sympy(number))
        for generator, power in powers.items():
            element = element * self.ring.gens[generator]**power
        return element

    def __getitem__(self, expr: sp.Expr) -> PolyElement:
        return self._elements[expr]

    def expression(self, element: PolyElement) -> sp.Expr:
        """Back to SymPy, generators replaced by what they stand for."""
        if not element:
            return sp.S.Zero
        values = list(self.generators) or [sp.S.One]
        result = element.as_expr(*values)
        return result if result.free_symbols else sp.expand(result)


def _digits(expr: sp.Expr) -> int:
    return max(atom._prec for atom in expr.atoms(sp.Float)) * 100 // 332 + 1


class Moments:
    """Moments of exp(-½ x G⁻¹ x - V) to a given power of ε.

    Parameters
    ----------
    fields : n, the number of fields.
    order : the largest power of ε in exp(-V).
    vertices : coefficients S_α/α! of x^α for 3 ≤ |α| ≤ order + 2; missing ones are zero.
    propagator : G, n × n.

    Cost: the number of monomials of degree 3·order in n fields, times the number of monomials in the coefficients.
    """

    def __init__(self, fields: int, order: int, vertices: Mapping[Index, sp.Expr], propagator: Propagator) -> None:
        self.fields, self.order = fields, order
        known = {alpha: value for alpha, value in vertices.items() if value != 0}
        self.coefficients = Coefficients([*(g for row in propagator for g in row), *known.values()])
        self.zero, self.one = self.coefficients.ring.zero, self.coefficients.ring.one
        self.propagator = [[self.coefficients[g] for g in row] for row in propagator]
        self.interaction: list[dict[Index, PolyElement]] = [{} for _ in range(order + 1)]
        for alpha, value in known.items():
            if 3 <= sum(alpha) <= order + 2:
                self.interaction[sum(alpha) - 2][alpha] = self.coefficients[value]
        self._gaussian: dict[Index, PolyElement] = {(0,) * fields: self.one}
        self._weight: list[dict[Index, PolyElement]] = [{(0,) * fields: self.one}]
        self._normalised: dict[Index, list[PolyElement]] = {}
        self._inverse: list[PolyElement] | None = None

    def expression(self, element: PolyElement) -> sp.Expr:
        return self.coefficients.expression(element)

    # ------------------------------------------------------------------------------------------ the recursions

    def weight(self, e: int) -> dict[Index, PolyElement]:
        """B_e, by powers of x."""
        while len(self._weight) <= e:
            new = len(self._weight)
            terms: dict[Index, PolyElement] = {}
            for i in range(1, new + 1):
                share = self.coefficients.ring.domain.from_sympy(sp.Rational(-i, new))
                for alpha, v in self.interaction[i].items():
                    factor = v * share
                    for beta, b in self._weight[new - i].items():
                        key = _plus(alpha, beta)
                        terms[key] = terms.get(key, self.zero) + factor * b
            self._weight.append({key: value for key, value in terms.items() if value})
        return self._weight[e]

    def gaussian(self, alpha: Index) -> PolyElement:
        """⟨x^α⟩ of the Gaussian alone."""
        found = self._gaussian.get(alpha)
        if found is not None:
            return found
        result = self.zero
        if sum(alpha) % 2 == 0:
            a = next(i for i, power in enumerate(alpha) if power)
            lower = _lowered(alpha, a)
            for b, power in enumerate(lower):
                if power and self.propagator[a][b]:
                    result = result + self.propagator[a][b] * self.gaussian(_lowered(lower, b)) * power
        self._gaussian[alpha] = result
        return result

    def average(self, alpha: Index, e: int) -> PolyElement:
        """⟨x^α B_e⟩ of the Gaussian, B_e being the coefficient of ε^e in exp(-V)."""
        if (sum(alpha) + e) % 2:
            return self.zero
        total = self.zero
        for beta, b in self.weight(e).items():
            moment = self.gaussian(_plus(alpha, beta))
            if moment:
                total = total + b * moment
        return total

    # --------------------------------------------------------------------------------------- what is asked for

    def log_norm(self) -> list[PolyElement]:
        """ln⟨exp(-V)⟩ by power of ħ, from 0 to order/2."""
        return log_series([self.average((0,) * self.fields, e) for e in range(0, self.order + 1, 2)], self.zero)

    def moment(self, alpha: Index) -> list[PolyElement]:
        """⟨x^α⟩ with the full weight, by power of ε: 0 … order."""
        if alpha not in self._normalised:
            if self._inverse is None:
                norm = [self.average((0,) * self.fields, e) for e in range(self.order + 1)]
                self._inverse = inverse_series(norm, self.zero, self.one)
            raw = [self.average(alpha, e) for e in range(self.order + 1)]
            self._normalised[alpha] = multiply(raw, self._inverse, self.zero)
        return self._normalised[alpha]

    def cumulant(self, alphas: Sequence[Index], known: dict[tuple[Index, ...], list[PolyElement]] | None = None,
                 ) -> list[PolyElement]:
        """κ(x^α₁, x^α₂, …) by power of ε, from ⟨A₁…A_n⟩ = Σ over the block of A₁ of κ(block) ⟨rest⟩."""
        known = {} if known is None else known
        key = tuple(sorted(alphas))
        if key not in known:
            total = list(self.moment(_sum(key, self.fields)))
            for block, rest in _blocks(key):
                correction = multiply(self.cumulant(block, known), self.moment(_sum(rest, self.fields)), self.zero)
                total = [a - b for a, b in zip(total, correction)]
            known[key] = total
        return known[key]

    def without_tadpoles(self) -> list[PolyElement]:
        r"""ln⟨exp(-V + j·x)⟩ by power of ħ with j such that ⟨x⟩ = 0: minus the 1PI vacuum diagrams.

        By Schwinger and Dyson, ⟨x_a⟩ = 0 for all a where j_b = ⟨∂V/∂x_b⟩; its part of order ε^{2l-1} needs the parts
        before it only, so that l = 1, 2, … determine j.  This consumes the object: its weight now holds j.
        """
        for e in range(1, self.order, 2):
            norm = [self.average((0,) * self.fields, k) for k in range(e)]
            inverse = inverse_series(norm, self.zero, self.one)
            source = []
            for b in range(self.fields):
                force = [self.zero]
                for k in range(1, e + 1):
                    terms = ((_lowered(alpha, b), v * alpha[b], i) for i in range(1, k + 1)
                             for alpha, v in self.interaction[i].items() if alpha[b] and sum(alpha) > 1)
                    force.append(sum((v * self.average(alpha, k - i) for alpha, v, i in terms), self.zero))
                source.append(sum((force[k] * inverse[e - k] for k in range(1, e + 1)), self.zero))
            for b, j in enumerate(source):
                if j:
                    self.interaction[e][_unit(b, self.fields)] = -j
            del self._weight[e:]
        return self.log_norm()


def _unit(b: int, fields: int) -> Index:
    return tuple(int(i == b) for i in range(fields))


def _lowered(alpha: Index, b: int) -> Index:
    return (*alpha[:b], alpha[b] - 1, *alpha[b + 1:])


def _sum(alphas: Iterable[Index], fields: int) -> Index:
    total: Index = (0,) * fields
    for alpha in alphas:
        total = _plus(total, alpha)
    return total


def _blocks(items: tuple[Index, ...]) -> Iterator[tuple[tuple[Index, ...], tuple[Index, ...]]]:
    """Every proper block that holds the first item, and the rest."""
    first, others = items[0], items[1:]
    for mask in range(2**len(others) - 1):
        chosen = tuple(item for i, item in enumerate(others) if mask >> i & 1)
        yield (first, *chosen), tuple(item for i, item in enumerate(others) if not mask >> i & 1)


def binomial(beta: Index, alpha: Index) -> int:
    """Π_i C(β_i, α_i)."""
    result = 1
    for b, a in zip(beta, alpha):
        result *= comb(b, a)
    return result


# ------------------------------------------------------------------------------------- power series, as lists


def multiply(a: Sequence[PolyElement], b: Sequence[PolyElement], zero: PolyElement) -> list[PolyElement]:
    return [sum((a[i] * b[n - i] for i in range(n + 1) if a[i] and b[n - i]), zero) for n in range(len(a))]


def inverse_series(a: Sequence[PolyElement], zero: PolyElement, one: PolyElement) -> list[PolyElement]:
    """1/a, for a series that starts with 1."""
    result = [one]
    for n in range(1, len(a)):
        result.append(-sum((a[i] * result[n - i] for i in range(1, n + 1) if a[i] and result[n - i]), zero))
    return result


def log_series(a: Sequence[PolyElement], zero: PolyElement) -> list[PolyElement]:
    """ln a, for a series that starts with 1: n l_n = n a_n - Σ_{0<j<n} j l_j a_{n-j}."""
    result = [zero]
    for n in range(1, len(a)):
        correction = sum((result[i] * a[n - i] * i for i in range(1, n)), zero)
        result.append(a[n] - correction / n)
    return result
