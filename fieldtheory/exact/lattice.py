r"""Averages over exp(-S) in any number of real fields, to any number of digits.

In u = A⁻¹ (x - x₀), A Aᵀ = (S'')⁻¹ at the centre x₀, the weight is nearly a unit Gaussian.  A sum over a cubic lattice
of spacing h errs by its Fourier transform at 2π/h, about exp(-2π²/h²): geometrically in 1/h for an analytic weight.
Two lattices, the second at the centres of the first one's cells, err with opposite signs: their mean is the result,
their difference the error.  The sum runs over a ball, which is enlarged until nothing is left on its surface.

Polynomials are evaluated in fixed-point arithmetic on Python's integers, a whole lattice at once: thirty digits cost
a few μs a point.  Functions are called point by point.  No saddle, no loop, no theory enters: x₀ and S''
only place the lattice.  Source: Trefethen and Weideman, SIAM Review 56 (2014) 385; derived here for several fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial, reduce
from itertools import product
from typing import Any, TypeAlias

import mpmath
import numpy as np

from fieldtheory.errors import BadInput, NotConverged

Index: TypeAlias = tuple[int, ...]
Polynomial: TypeAlias = Mapping[Index, Any]
"""{powers of the fields: coefficient}, the coefficients being anything that mpmath takes."""
Function: TypeAlias = "Polynomial | Callable[..., Any]"

GUARD = 48
"""Binary digits beyond those asked for: rounding of each operation, and the largest number in an exponent."""
MAX_POINTS, ROUNDS = 3_000_000, 12
"""Points of a lattice, and changes of its spacing or radius, after which the sum counts as not convergent."""


class LatticeLaw:
    """The law exp(-S(x))/Z of a few real fields.

    Parameters
    ----------
    action : S, all factors included: a polynomial {powers: coefficient}, or a function of the fields (of mpf).
    center : x₀, one number for each field; best where S is least.
    hessian : S'' there or near, positive definite: rows of numbers.
    digits : how many of a weighted sum, relative to the sum of the weights, are to be right.

    Raises
    ------
    BadInput
        For a matrix that is not positive definite.
    NotConverged
        Where the sums do not settle: a weight that does not fall, or varies on a much smaller scale than S'' says.
    """

    def __init__(self, action: Function, center: Sequence[Any], hessian: Sequence[Sequence[Any]], digits: int) -> None:
        self.fields, self.digits = len(center), digits
        self.bits = math.ceil(digits * math.log2(10)) + GUARD
        self._moments: dict[tuple[int, Index], Any] = {}
        self._monomials: dict[tuple[int, Index], Any] = {}
        with mpmath.workprec(self.bits + 20):
            self.center = [mpmath.mpmathify(x) for x in center]
            try:
                lower = mpmath.cholesky(mpmath.matrix([[mpmath.mpmathify(x) for x in row] for row in hessian]))
            except ValueError:
                raise BadInput("hessian", hessian, "a positive definite matrix") from None
            self._frame = (lower**-1).T
            self._log_volume = -mpmath.fsum(mpmath.log(lower[i, i]) for i in range(self.fields))
            self._action: Function
            if isinstance(action, Mapping):
                self._action = _substituted(action, self.center, self._frame)
                self._floor = self._action.pop((0,) * self.fields, mpmath.mpf(0))
            else:
                self._floor = mpmath.mpf(action(*self.center))
                self._action = lambda *x: action(*x) - self._floor
            self._sum()

    # ------------------------------------------------------------------------------------------ what is asked for

    @property
    def log_partition(self) -> Any:
        """ln ∫ dx exp(-S)."""
        with mpmath.workprec(self.bits + 20):
            norm = mpmath.fsum(mpmath.mpf(int(w.sum())) for _, w in self._lattices) / 2
            log_cell = self.fields * mpmath.log(self._spacing) + self._log_volume
            return mpmath.log(mpmath.ldexp(norm, -self.bits)) + log_cell - self._floor

    def mean(self, observable: Function) -> Any:
        """⟨O⟩, for a polynomial or a function of the fields."""
        return self.cumulant((observable,))

    def cumulant(self, observables: Sequence[Function]) -> Any:
        """κ(O_1, …, O_n), by ⟨O_1…O_n⟩ = Σ over the blocks of O_1 of κ(block) ⟨rest⟩, of deviations from O(x₀)."""
        with mpmath.workprec(self.bits + 20):
            zero = (0,) * self.fields
            if all(isinstance(o, Mapping) for o in observables):
                local: list[Any] = [_substituted(o, self.center, self._frame) for o in observables]  # type: ignore[arg-type]
                if len(local) > 1:
                    local = [{alpha: c for alpha, c in o.items() if alpha != zero} for o in local]
            else:
                local = [partial(_value, o) if isinstance(o, Mapping) else o for o in observables]
            means: dict[tuple[int, ...], Any] = {}
            cumulants: dict[tuple[int, ...], Any] = {}

            def mean(places: tuple[int, ...]) -> Any:
                if places not in means:
                    means[places] = self._average([local[i] for i in places])
                return means[places]

            def kappa(places: tuple[int, ...]) -> Any:
                if places not in cumulants:
                    first, rest = places[0], places[1:]
                    total = mean(places)
                    for mask in range(2**len(rest) - 1):
                        block = (first, *(p for i, p in enumerate(rest) if mask >> i & 1))
                        total -= kappa(block) * mean(tuple(p for i, p in enumerate(rest) if not mask >> i & 1))
                    cumulants[places] = total
                return cumulants[places]

            return kappa(tuple(range(len(local))))

    # --------------------------------------------------------------------------------------------------- the sums

    def _sum(self) -> None:
        """Find a spacing and a radius at which the digits asked for are there."""
        decay = (self.digits + 2) * math.log(10)
        spacing, reach = 0.93 * math.pi * math.sqrt(2 / decay), 1.1 * math.sqrt(2 * decay)
        small = 2**self.bits // 10**self.digits
        left: Any = math.inf
        for _ in range(ROUNDS):
            if (2 * reach / spacing)**self.fields > MAX_POINTS:
                break
            self._spacing = mpmath.mpf(round(spacing * 2**20)) / 2**20
            self._lattices, rims = [], []
            for shift in (0, 1):
                axes, radius = self._axes(shift, reach)
                inside = radius <= reach
                points = [np.broadcast_to(axis, radius.shape)[inside] for axis in axes]
                weights = _exponential(self._polynomial(self._action, axes)[inside] if isinstance(self._action, Mapping)
                                       else self._called(self._action, points), self.bits)
                self._lattices.append((points, weights))
                rims.append(weights[radius[inside] > reach - spacing].sum())
            first, second = (int(weights.sum()) for _, weights in self._lattices)
            left = mpmath.mpf(abs(first - second)) / max(first, second, 1)
            if max(rims) > small:
                reach *= 1.25
            # In several fields the mean of both errs by about the square of their difference.
            elif left**(1 if self.fields == 1 else 2) * 10**self.digits > 1:
                spacing *= 0.8
            else:
                return
        raise NotConverged("the sum of exp(-S) over a lattice", float(left))

    def _axes(self, shift: int, reach: float) -> tuple[list[Any], Any]:
        """The lattice as one array of integers at ``bits`` for each u, which broadcast; and |u|."""
        h, half = float(self._spacing), math.ceil(reach / float(self._spacing)) + 1
        steps = np.meshgrid(*[np.arange(-2 * half, 2 * half + 1, 2) + shift] * self.fields, indexing="ij", sparse=True)
        unit = int(mpmath.ldexp(self._spacing, self.bits - 1))  # half a spacing
        return [axis.astype(object) * unit for axis in steps], np.sqrt(sum((axis * h / 2)**2 for axis in steps))

    def _polynomial(self, polynomial: Polynomial, axes: list[Any]) -> Any:
        """A polynomial of u on the whole lattice, by Horner's rule in one field after the other."""
        bits = self.bits

        def nested(terms: dict[Index, int], place: int) -> Any:
            if place == self.fields:
                return terms.get((), 0)
            powers: dict[int, dict[Index, int]] = {}
            for alpha, c in terms.items():
                powers.setdefault(alpha[0], {})[alpha[1:]] = c
            value: Any = 0
            for k in range(max(powers, default=0), -1, -1):
                value = value * axes[place] >> bits
                if k in powers:
                    value = value + nested(powers[k], place + 1)
            return value

        return nested({alpha: int(mpmath.ldexp(c, bits)) for alpha, c in polynomial.items()}, 0)

    def _called(self, function: Callable[..., Any], points: list[Any]) -> Any:
        def at(*u: int) -> int:
            y = [mpmath.ldexp(mpmath.mpf(int(v)), -self.bits) for v in u]
            x = [c + mpmath.fsum(self._frame[i, j] * y[j] for j in range(self.fields))
                 for i, c in enumerate(self.center)]
            return int(mpmath.ldexp(mpmath.mpf(function(*x)), self.bits))

        return np.frompyfunc(at, self.fields, 1)(*points)

    # --------------------------------------------------------------------------------------------------- averages

    def _average(self, factors: list[Any]) -> Any:
        """The mean of a product, over both lattices: of polynomials in u, or of functions of x."""
        if all(isinstance(factor, Mapping) for factor in factors):
            whole = reduce(_product, factors)
            found = [mpmath.fsum(c * self._moment(k, alpha) for alpha, c in whole.items()) for k in (0, 1)]
        else:
            found = []
            for points, weights in self._lattices:
                values = self._called(lambda *x: mpmath.fprod(f(*x) for f in factors), points)
                found.append(mpmath.mpf(int((values * weights).sum() >> self.bits)) / int(weights.sum()))
        return mpmath.fsum(found) / 2

    def _moment(self, lattice: int, alpha: Index) -> Any:
        """⟨u^α⟩ on one lattice."""
        if (lattice, alpha) not in self._moments:
            total = int(self._weighted(lattice, alpha).sum())
            self._moments[lattice, alpha] = mpmath.mpf(total) / int(self._lattices[lattice][1].sum())
        return self._moments[lattice, alpha]

    def _weighted(self, lattice: int, alpha: Index) -> Any:
        """u^α times the weight, kept for the next power."""
        if not any(alpha):
            return self._lattices[lattice][1]
        if (lattice, alpha) not in self._monomials:
            i = next(i for i, power in enumerate(alpha) if power)
            lower = (*alpha[:i], alpha[i] - 1, *alpha[i + 1:])
            product_ = self._weighted(lattice, lower) * self._lattices[lattice][0][i] >> self.bits
            self._monomials[lattice, alpha] = product_
        return self._monomials[lattice, alpha]


# ------------------------------------------------------------------------------------------- polynomials in mpmath


def _product(a: Polynomial, b: Polynomial) -> dict[Index, Any]:
    found: dict[Index, Any] = {}
    for (alpha, c), (beta, d) in product(a.items(), b.items()):
        key = tuple(i + j for i, j in zip(alpha, beta))
        found[key] = found.get(key, 0) + c * d
    return found


def _value(polynomial: Polynomial, *x: Any) -> Any:
    return mpmath.fsum(mpmath.mpmathify(c) * mpmath.fprod(v**k for v, k in zip(x, alpha))
                       for alpha, c in polynomial.items())


def _substituted(polynomial: Polynomial, center: Sequence[Any], frame: Any) -> dict[Index, Any]:
    """p(x₀ + A u) as a polynomial in u."""
    n = len(center)
    zero = (0,) * n
    lines = []
    for i in range(n):
        line = {zero: center[i]}
        line |= {tuple(int(j == k) for k in range(n)): frame[i, j] for j in range(n) if frame[i, j]}
        lines.append(line)
    powers: dict[tuple[int, int], dict[Index, Any]] = {(i, 0): {zero: mpmath.mpf(1)} for i in range(n)}

    def power(i: int, k: int) -> dict[Index, Any]:
        if (i, k) not in powers:
            powers[i, k] = _product(power(i, k - 1), lines[i])
        return powers[i, k]

    total: dict[Index, Any] = {}
    for alpha, c in polynomial.items():
        term: dict[Index, Any] = {zero: mpmath.mpmathify(c)}
        for i, k in enumerate(alpha):
            if k:
                term = _product(term, power(i, k))
        for beta, d in term.items():
            total[beta] = total.get(beta, mpmath.mpf(0)) + d
    return total


# -------------------------------------------------------------------------------------------- exp in fixed point


@lru_cache(maxsize=8)
def _tables(bits: int) -> tuple[list[Any], int]:
    """exp(-j), j = -64 … , exp(-j/2^8), exp(-j/2^16), at ``bits``; and the number of terms of the rest."""
    with mpmath.workprec(bits + 40):
        def table(unit: Any, low: int, high: int) -> Any:
            return np.array([int(mpmath.ldexp(mpmath.exp(-unit * j), bits)) for j in range(low, high)], dtype=object)

        whole = table(mpmath.mpf(1), -LOWEST, math.ceil(bits * math.log(2)) + 2)
        terms = next(n for n in range(1, 200) if 16 * n + math.log2(math.factorial(n)) > bits + 4)
        return [whole, table(mpmath.mpf(2)**-8, 0, 256), table(mpmath.mpf(2)**-16, 0, 256)], terms


LOWEST = 64
"""How far below its value at the centre S may fall, as a power of e."""


def _exponential(heights: Any, bits: int) -> Any:
    """exp(-t) for an array of integers t·2^bits."""
    (whole, first, second), terms = _tables(bits)
    top = len(whole) - LOWEST - 1
    heights = np.minimum(np.maximum(heights, -LOWEST << bits), top << bits)
    bytes_ = (heights >> (bits - 16)).astype(np.int64)
    rest = heights - (bytes_.astype(object) << (bits - 16))
    total: Any = 1 << bits
    for n in range(terms, 0, -1):  # 1 - r (1 - r/2 (1 - r/3 (…)))
        total = (1 << bits) - ((rest * total >> bits) // n)
    total = total * whole[(bytes_ >> 16) + LOWEST] >> bits
    return (total * first[(bytes_ >> 8) & 255] >> bits) * second[bytes_ & 255] >> bits


__all__ = ["LatticeLaw", "Polynomial"]
