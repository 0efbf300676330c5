r"""The fixed kernel of a hidden layer as an integral operator: its eigenvalues under the law of the inputs.

Features of degree m (Hermite degree in the pre-activation) with weights of direction v, v' overlap as c_m c_m' (v·v')^m
(Mehler), so that all that is needed of a law is how powers of a cosine fall into *sectors*: representations of its
symmetry, in which the kernel is one matrix, the same for each of their members.

- Hypercube: K = Σ_m c_m² ρ^m with ρ = x·x'/D.  A sector is all parities of one order n, and ρ^m has there the
  coefficient b_{m,n} with D b_{m+1,n} = n b_{m,n-1} + (D-n) b_{m,n+1}, since ρ χ_T is made of neighbours of T.
- Gaussian inputs with d directions: a sector is an angular momentum l of the inputs perpendicular to them, and its
  matrix is over the orders (n_1, …, n_d, k), |n| + 2k + l = m: the average over w of c_m c_m' times monomials in the
  cosines of w, which is one average over |w| and one over the sphere.

Sums of positive numbers throughout: nothing cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import ceil, comb, prod, sqrt
from operator import add

import numpy as np
import scipy.linalg
import scipy.special
import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.features import hermite_table
from fieldtheory.population.arguments import check_dimension
from fieldtheory.population.modes import Key, Mode
from fieldtheory.symbolic.bases import directional_weight
from fieldtheory.symbolic.harmonics import harmonics

Array = np.ndarray

ORDERS = 512
"""Hermite degrees of an activation on the hypercube."""
DEGREES = 12
"""Hermite degrees under Gaussian inputs, at most."""
MEMBERS, COPIES = 20_000, 10_000
"""Eigenvalues that are written out; the rest counts by its trace, as so many equal ones at most."""
RADII = 64


@dataclass(frozen=True)
class Sector:
    """A kernel matrix (K, K), the number of members that share it, and the target's modes among its K functions.

    In the sector that knows the directions ``places`` says which of the K functions a mode is.
    """

    matrix: Array
    members: int
    places: Mapping[Key, int]


@dataclass(frozen=True)
class OperatorSpectrum:
    """Eigenvalues (n,), from the largest, components of the target (n,), and how modes are read: (mode, n).

    ``rest`` is the trace of the eigenvalues that are not written out, ``largest_rest`` the largest of them; what stands
    for them has their trace.
    """

    eigenvalues: Array
    target: Array
    reading: Array
    rest: float
    largest_rest: float


def operator_spectrum(law: str, activation: sp.Expr, variance: float, D: int,
                      target: Mapping[Key, float]) -> OperatorSpectrum:
    """The spectrum of E_w φ(w·x) φ(w·x'), w ~ N(0, ``variance``/D), under a law of inputs.

    Raises
    ------
    BadInput
        If there are fewer inputs than the target needs.
    """
    wanted = {key: Mode.read(key, _directions(key)) for key in target}
    least = max(max(mode.orders) if law == "hypercube" else len(mode.orders) for mode in wanted.values())
    check_dimension(D, max(least, 1))
    if law == "hypercube":
        trace, found = _hypercube(activation, variance, D, wanted)
    else:
        trace, found = _gaussian(activation, variance, D, wanted)
    coefficients = np.array([target[key] for key in wanted])
    eigenvalues, components, reading = [], [], []
    others: list[tuple[float, int]] = []
    for sector in found:
        values, vectors = np.linalg.eigh(sector.matrix)
        for value, vector in zip(np.maximum(values, 0.0), vectors.T, strict=True):  # below zero by rounding only
            if sector.places:
                known = np.array([vector[sector.places[key]] if key in sector.places else 0.0 for key in wanted])
                eigenvalues.append(value)
                components.append(known @ coefficients)
                reading.append(known)
            others.append((value, sector.members - bool(sector.places)))
    # all that is not the target enters by the trace of a function of the kernel: the largest eigenvalues one by one
    others.sort(reverse=True)
    counts = np.cumsum([float(count) for _, count in others])
    kept = int(np.searchsorted(counts, MEMBERS, side="right"))
    written = [np.full(count, value) for value, count in others[:kept]]
    rest = max(trace - float(sum(eigenvalues)) - sum(float(v.sum()) for v in written), 0.0)
    largest = others[kept][0] if kept < len(others) else 0.0
    if rest > 1e-12 * trace:
        copies = int(np.clip(ceil(rest / max(largest, 1e-300)), 1, COPIES))
        written.append(np.full(copies, rest / copies))
    more = np.concatenate(written) if written else np.empty(0)
    spectrum = np.concatenate([eigenvalues, more])
    order = np.argsort(-spectrum, kind="stable")
    nothing = np.zeros((len(wanted), len(more)))
    return OperatorSpectrum(spectrum[order], np.concatenate([components, nothing[0]])[order],
                            np.concatenate([np.array(reading).T, nothing], axis=1)[:, order], rest, largest)


def _directions(key: Key) -> int:
    return 1 if isinstance(key, int) else len(key)


# --------------------------------------------------------------------------------------------------- hypercube


def _hypercube(activation: sp.Expr, variance: float, D: int,
               wanted: Mapping[Key, Mode]) -> tuple[float, Iterator[Sector]]:
    table, squares, _ = hermite_table(activation, np.array([sqrt(variance)]), ORDERS)
    kappa, b = np.zeros(D + 1), np.zeros(D + 1)
    b[0] = 1.0
    orders = np.arange(D + 1)
    for c in table[0]**2:
        kappa += c * b
        below, above = np.concatenate([[0.0], b[:-1]]), np.concatenate([b[1:], [0.0]])
        b = (orders * below + (D - orders) * above) / D
    # the degrees beyond the table see no correlation but those of x = ±x': the same for all parities of their parity
    tail = table[0, -64:]**2
    rest = max(float(squares[0] - (table[0]**2).sum()), 0.0) / max(float(tail.sum()), 1e-300)
    kappa += np.array([2.0**(1 - D) * rest * tail[n % 2::2].sum() for n in orders])

    def sector(n: int) -> Sector:
        return Sector(np.array([[kappa[n]]]), comb(D, n), {key: 0 for key, mode in wanted.items() if mode.order == n})

    return float(squares[0]), map(sector, range(D + 1))


# --------------------------------------------------------------------------------------------- Gaussian inputs


def _gaussian(activation: sp.Expr, variance: float, D: int,
              wanted: Mapping[Key, Mode]) -> tuple[float, Iterator[Sector]]:
    (d,) = {len(mode.orders) for mode in wanted.values()}
    n = D - d
    radius, weights = _radii(D, variance)
    table, squares, _ = hermite_table(activation, radius, DEGREES + 1)
    pairs = (table.T * weights) @ table

    members = [int(found.multiplicity) for found in harmonics(n, DEGREES)] if n else [1]

    def sector(l: int) -> Sector:
        functions = [mode for mode in _functions(d, DEGREES - l) if n or not mode.pairs]
        degrees = [mode.order + l for mode in functions]
        strength = [sqrt(directional_weight(mode.orders, mode.pairs, sp.Integer(n), l)) for mode in functions]
        cosines = [[sphere(tuple(map(add, u.orders, v.orders)), l + u.pairs + v.pairs, n, D) for v in functions]
                   for u in functions]
        matrix = pairs[np.ix_(degrees, degrees)] * np.outer(strength, strength) * np.array(cosines)
        return Sector(matrix, members[l], {key: functions.index(mode) for key, mode in wanted.items() if l == 0})

    if max(mode.order for mode in wanted.values()) > DEGREES:
        raise BadInput("target", dict.fromkeys(wanted), f"modes of order up to {DEGREES}")
    return float(weights @ squares), map(sector, range(len(members)))


def _radii(D: int, variance: float) -> tuple[Array, Array]:
    """|w| and its weights: Gauss quadrature for |w|² D/2σ² ~ Gamma(D/2), from the recurrence of its polynomials."""
    k, alpha = np.arange(RADII), D / 2 - 1
    x, vectors = scipy.linalg.eigh_tridiagonal(2 * k + alpha + 1, np.sqrt(k[1:] * (k[1:] + alpha)))
    return np.sqrt(2 * variance / D * x), vectors[0]**2


def _functions(d: int, highest: int) -> list[Mode]:
    """Orders along d directions and in |x_⊥|² up to a total degree."""
    return [Mode(orders, k) for orders in product(range(highest + 1), repeat=d) if sum(orders) <= highest
            for k in range((highest - sum(orders)) // 2 + 1)]


@cache
def sphere(powers: tuple[int, ...], pairs: int, n: int, D: int) -> float:
    """E Π τ_a^{p_a} ρ^{2q} of a random unit vector in D dimensions, ρ² the share of n of them.

    A Gaussian vector has independent components and norm, so that it is a ratio of Gaussian moments.
    """
    if any(p % 2 for p in powers) or (n == 0 and pairs):
        return 0.0
    half = [p // 2 for p in powers]
    return float(prod(scipy.special.poch(0.5, p) for p in half) * (scipy.special.poch(n / 2, pairs) if pairs else 1.0)
                 / scipy.special.poch(D / 2, sum(half) + pairs))


__all__ = ["OperatorSpectrum", "operator_spectrum"]
