r"""Blocks of the others' kernel under Gaussian inputs: their features on nodes, and C = F(C) solved for all of them.

Modes fall into *sectors* (:mod:`.symbolic.sectors`): the angular momentum l of the inputs perpendicular to the d
directions, and the signs under those flips of the directions that the target allows.  In a sector a mode is
(n_1, …, n_d, k), of degree |n| + l + 2k, and overlaps by j = c_m(|w|) √weight Π τ^n ρ^{l+2k}
(:func:`.symbolic.bases.directional_weight`).  Few combinations of them matter: those are kept in which the kernel is
not small against the noise, for any law that the nodes cover.  Where the kernel is left out it is zero, and overlaps
there enter by Parseval's sum, E φ² less what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import prod

import numpy as np
import scipy.special
import sympy as sp

from fieldtheory.features import hermite_table
from fieldtheory.population.lattices import Points
from fieldtheory.population.modes import Mode
from fieldtheory.symbolic.bases import directional_weight
from fieldtheory.symbolic.harmonics import harmonics

Array = np.ndarray

CHEBYSHEV = 64
"""Radii on which the Hermite coefficients of an activation are computed; those between are interpolated."""
BEYOND = 24
"""Degrees beyond those kept in which what is left out is looked at."""
COSINES = 48
"""Nodes for the cosine between two perpendicular vectors."""
NEGLIGIBLE = 1e-13
"""Power of a direction among the overlaps of a sector, relative to all, that is rounding."""


# ------------------------------------------------------------------------------------------------- sectors


@dataclass(frozen=True)
class Sector:
    """Angular momentum, signs under the flips allowed, its modes, and how often it is repeated."""

    momentum: int
    signs: tuple[int, ...]
    modes: tuple[Mode, ...]
    multiplicity: float

    @cached_property
    def degrees(self) -> Array:
        return np.array([mode.order + self.momentum for mode in self.modes])


def flips(target: Sequence[Mode]) -> list[tuple[int, ...]]:
    """The flips of directions, a 1 for each that is flipped, under which all modes of the target change alike."""
    count = len(target[0].orders)

    def sign(flip: tuple[int, ...], mode: Mode) -> int:
        return sum(f * n for f, n in zip(flip, mode.orders, strict=True)) % 2

    return [flip for flip in product((0, 1), repeat=count) if len({sign(flip, mode) for mode in target}) == 1]


def sectors(target: Sequence[Mode], dimension: int, degree: int, seen: Sequence[int]) -> list[Sector]:
    """Of all modes up to a degree, of those degrees that the activation has; the first one is that of the target.

    ``dimension`` is that of the space perpendicular to the directions.
    """
    count, allowed = len(target[0].orders), flips(target)
    found: dict[tuple[int, tuple[int, ...]], list[Mode]] = {}
    angular = harmonics(sp.Integer(dimension), degree)
    for orders in product(range(degree + 1), repeat=count):
        for momentum in range(min(degree - sum(orders), len(angular) - 1) + 1):
            for pairs in range((degree - sum(orders) - momentum) // 2 + 1):
                if sum(orders) + momentum + 2 * pairs not in seen:
                    continue
                signs = tuple(sum(f * n for f, n in zip(flip, orders, strict=True)) % 2 for flip in allowed)
                found.setdefault((momentum, signs), []).append(Mode(orders, pairs))
    first = (0, tuple(sum(f * n for f, n in zip(flip, target[0].orders, strict=True)) % 2 for flip in allowed))
    return [Sector(momentum, signs, tuple(sorted(modes, key=lambda m: (m.order, m.pairs, m.orders))),
                   float(angular[momentum].multiplicity))
            for (momentum, signs), modes in sorted(found.items(), key=lambda item: (item[0] != first, item[0]))]


@lru_cache(maxsize=4096)
def _weight(orders: tuple[int, ...], pairs: int, dimension: int, momentum: int) -> float:
    return float(directional_weight(orders, pairs, sp.Integer(dimension), momentum))


# -------------------------------------------------------------------------------------------- on the nodes


class Radial:
    """c_m(|w|) of an activation and E φ² on an interval of |w|, by interpolation between Chebyshev points."""

    def __init__(self, activation: sp.Expr, low: float, high: float, degrees: int) -> None:
        angles = (np.arange(CHEBYSHEV) + 0.5) * np.pi / CHEBYSHEV
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        table, squares, self.error = hermite_table(activation, self.middle + self.half * np.cos(angles), degrees)
        values = np.column_stack([table, squares])
        cosines = np.cos(np.arange(CHEBYSHEV)[:, None] * angles)
        self.coefficients = cosines @ values * 2 / CHEBYSHEV
        self.coefficients[0] /= 2

    def __call__(self, size: Array) -> tuple[Array, Array]:
        """(nodes, degrees) and (nodes,)."""
        found = np.polynomial.chebyshev.chebval((size - self.middle) / self.half, self.coefficients).T
        return found[:, :-1], found[:, -1]


def overlaps(sector: Sector, points: Points, hermite: Array, dimension: int) -> Array:
    """j of the modes of a sector (nodes, modes)."""
    found = np.empty((len(points.size), len(sector.modes)))
    tops = [max(mode.orders[a] for mode in sector.modes) for a in range(points.cosines.shape[1])]
    along = [points.cosines[:, a, None]**np.arange(top + 1) for a, top in enumerate(tops)]
    across = points.rest[:, None]**np.arange(int(sector.degrees.max()) + 1)
    for i, mode in enumerate(sector.modes):
        weight = _weight(mode.orders, mode.pairs, dimension, sector.momentum)
        powers = prod(along[a][:, n] for a, n in enumerate(mode.orders))
        found[:, i] = np.sqrt(weight) * hermite[:, sector.degrees[i]] * powers * \
            across[:, sector.momentum + 2 * mode.pairs]
    return found


def beyond(points: Points, hermite: Array, first: int, dimension: int) -> Array:
    """Σ_m c_m² E_t |τ·τ + ρ² t|^m for degrees m from ``first`` on, t the cosine of two random perpendicular vectors."""
    if dimension == 1:
        t, q = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    else:
        t, q = scipy.special.roots_jacobi(COSINES, (dimension - 3) / 2, (dimension - 3) / 2)
        q = q / q.sum()
    along = (points.cosines**2).sum(axis=1)[:, None] + points.rest[:, None]**2 * t
    power, found = np.abs(along)**first, np.zeros(len(along))
    for m in range(first, hermite.shape[1]):
        found += hermite[:, m]**2 * (power @ q)
        power *= np.abs(along)
    return found


@dataclass(frozen=True)
class Basis:
    """The combinations of modes kept of each sector, as orthonormal columns (modes, kept); sectors without any are out.

    ``numbers`` says which these are of all sectors.
    Of their blocks C the entries a ≤ b stand one after the other in a vector of unknowns.
    """

    numbers: tuple[int, ...]
    sectors: tuple[Sector, ...]
    columns: tuple[Array, ...]

    @cached_property
    def sizes(self) -> Array:
        return np.array([T.shape[1] for T in self.columns])

    @cached_property
    def unknowns(self) -> tuple[Array, Array, Array]:
        """Of each unknown the block, and its row and column there."""
        found = [np.triu_indices(size) for size in self.sizes]
        blocks = np.repeat(np.arange(len(found)), [len(rows) for rows, _ in found])
        return blocks, np.concatenate([rows for rows, _ in found]), np.concatenate([columns for _, columns in found])

    @cached_property
    def multiplicities(self) -> Array:
        return np.array([sector.multiplicity for sector in self.sectors])

    def blocks(self, vector: Array) -> Array:
        """The blocks of a vector of unknowns (block, row, column), zero where one is smaller than the largest."""
        number, rows, columns = self.unknowns
        found = np.zeros((len(self.sizes), self.sizes.max(), self.sizes.max()))
        found[number, rows, columns] = found[number, columns, rows] = vector
        return found

    def vector(self, blocks: Array) -> Array:
        return np.asarray(blocks[self.unknowns])

    def whole(self, vector: Array) -> dict[tuple[int, tuple[int, ...]], Array]:
        """The blocks over all modes of their sectors."""
        return {(sector.momentum, sector.signs): T @ block[:size, :size] @ T.T for sector, T, block, size in
                zip(self.sectors, self.columns, self.blocks(vector), self.sizes, strict=True)}

    def adopted(self, whole: Mapping[tuple[int, tuple[int, ...]], Array]) -> Array:
        """The unknowns of blocks over the modes of each sector, perhaps up to another degree."""
        found = self.blocks(np.zeros(len(self.unknowns[0])))
        for i, (sector, T) in enumerate(zip(self.sectors, self.columns, strict=True)):
            known = whole.get((sector.momentum, sector.signs), np.zeros((0, 0)))
            size = min(len(known), len(T))  # modes are in the order of their degrees
            found[i, :T.shape[1], :T.shape[1]] = T[:size].T @ known[:size, :size] @ T[:size]
        return self.vector(found)


@dataclass(frozen=True)
class SectorNodes:
    """Nodes of one shift: weights of the prior, all overlaps by sector, and E φ²; ``points`` where they are.

    ``beyond`` is Σ_m c_m² E_t (v·v')^m over degrees m that are not kept, in which the kernel has no larger eigenvalue.
    """

    points: Points
    overlaps: tuple[Array, ...]
    squares: Array
    beyond: Array

    @property
    def weights(self) -> Array:
        return self.points.weights


@dataclass(frozen=True)
class Batch:
    """What the law of one site needs of nodes in a basis.

    ``powers`` are products j_a j_b in the order of the unknowns, ``target`` the overlaps of the target's sector in the
    basis, ``tail`` is E φ² less all that is kept.
    """

    nodes: SectorNodes
    weights: Array
    powers: Array
    target: Array
    tail: Array

    @classmethod
    def of(cls, nodes: SectorNodes, basis: Basis) -> Batch:
        number, rows, columns = basis.unknowns
        powers, kept = np.empty((len(number), len(nodes.weights))), np.zeros(len(nodes.weights))
        target = None
        for i, (sector, T) in enumerate(zip(basis.sectors, basis.columns, strict=True)):
            turned = (nodes.overlaps[basis.numbers[i]] @ T).T
            target = turned if target is None else target
            own = number == i
            powers[own] = turned[rows[own]] * turned[columns[own]]
            kept += sector.multiplicity * (turned**2).sum(axis=0)
        assert target is not None
        return cls(nodes, nodes.weights, powers.T, target.T, np.maximum(nodes.squares - kept, 0.0))


def choose(sectors: Sequence[Sector], nodes: SectorNodes, target: Array, scale: float) -> Basis:
    """A basis that holds the target, and all directions in which the kernel reaches ``scale`` (in units of ⟨j jᵀ⟩).

    The law of one site may be anything between the prior and an even law over the nodes.
    """
    even = np.full(len(nodes.weights), 1 / len(nodes.weights))
    prior = nodes.weights / nodes.weights.sum()
    columns = []
    for i, j in enumerate(nodes.overlaps):
        gram = (j.T * (even + prior)) @ j
        if i == 0:
            first = target / np.linalg.norm(target)
            rest = np.eye(len(first)) - np.outer(first, first)
            values, vectors = np.linalg.eigh(rest @ gram @ rest)
            columns.append(np.column_stack([first, vectors[:, values > max(scale, NEGLIGIBLE * np.trace(gram))]]))
        else:
            values, vectors = np.linalg.eigh(gram)
            columns.append(vectors[:, values > max(scale, NEGLIGIBLE * np.trace(gram))])
    kept = tuple(i for i, T in enumerate(columns) if T.shape[1])
    return Basis(kept, tuple(sectors[i] for i in kept), tuple(columns[i] for i in kept))


__all__ = ["BEYOND", "Basis", "Batch", "Radial", "Sector", "SectorNodes", "beyond", "choose", "flips",
           "overlaps", "sectors"]
