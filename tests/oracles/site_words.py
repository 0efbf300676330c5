"""Diagrams of ⟨(s + K)⁻¹⟩ for K = (g/N) Σ_i φ_i φ_iᵀ with independent Gaussian sites, by enumeration.

(s + K)⁻¹ = Σ_m (-1)^m K^m / s^(m+1).  A vertex of the line K^m has two ends, φ_a and φ_b; Wick's theorem pairs ends,
vertices that a pairing connects belong to one site, and ends are joined along the line: every closed loop of l
contractions is a trace tr Σ^l over samples, the open line Σ^a.  No reference to any theory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class Word:
    """One diagram: the sites as blocks of vertices, the contractions of every closed loop, and of the open line."""

    blocks: tuple[tuple[int, ...], ...]
    loops: tuple[int, ...]
    line: int

    @property
    def crossed(self) -> bool:
        """Whether two sites are met alternately, a … b … a … b."""
        return any(a < b < c < d for one in self.blocks for other in self.blocks if one != other
                   for a in one for c in one for b in other for d in other)


def pairings(ends: tuple[int, ...]) -> Iterator[tuple[Pair, ...]]:
    if not ends:
        yield ()
        return
    first, *rest = ends
    for k, other in enumerate(rest):
        for more in pairings((*rest[:k], *rest[k + 1:])):
            yield ((first, other), *more)


def _contractions(end: int, across: dict[int, int], along: dict[int, int], seen: set[int]) -> int:
    """How many contractions a line has that starts at an end; none if it has been followed already."""
    count = 0
    while end not in seen:
        seen.update((end, across[end]))
        count += 1
        end = along.get(across[end], end)
    return count


def words(order: int) -> Iterator[Word]:
    """All diagrams with so many vertices, at least one; ends 2l and 2l + 1 belong to vertex l."""
    for pairing in pairings(tuple(range(2 * order))):
        across = {a: b for pair in pairing for a, b in (pair, pair[::-1])}
        along = {2 * k + 1: 2 * k + 2 for k in range(order - 1)}
        along |= {b: a for a, b in along.items()}
        site = {k: {k} for k in range(order)}
        for a, b in pairing:
            joined = site[a // 2] | site[b // 2]
            site |= dict.fromkeys(joined, joined)
        seen: set[int] = set()

        line, *loops = (found for end in range(2 * order) if (found := _contractions(end, across, along, seen)))
        yield Word(tuple(sorted({tuple(sorted(block)) for block in site.values()})), tuple(sorted(loops)), line)
