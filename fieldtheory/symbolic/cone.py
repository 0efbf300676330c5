"""The cone of diagrams: what connected diagrams are made of, and the generators of all of them.

Vertices and lines are counted alone, without drawing a diagram; why that is enough stands in
:mod:`fieldtheory.symbolic.loopcounting`.  Derived here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import gcd, lcm

from fieldtheory.symbolic.maxplus import Affine


@dataclass(frozen=True)
class Vertex:
    """A type of vertex: the power of ħ^(1/2) that it adds, 2ℓ, and its number of legs of each field.

    One more leg on a vertex of high order is a type too, which is no further vertex: its ``parts`` are the vertex with
    the leg, once, and the one without it, minus once.
    """

    label: str
    power: int
    legs: tuple[int, ...]
    parts: tuple[tuple[str, int], ...] = ()

    def within(self, fields: frozenset[int]) -> bool:
        """Whether it has legs of these fields alone."""
        return all(a in fields for a, count in enumerate(self.legs) if count)

    @property
    def made_of(self) -> tuple[tuple[str, int], ...]:
        return self.parts or ((self.label, 1),)


@dataclass(frozen=True)
class Line:
    """A type of line, by the positions of its two fields."""

    label: str
    ends: tuple[int, int]


@dataclass(frozen=True)
class Content:
    """What a class of diagrams is made of: how often each vertex and line occurs, and the power of ħ, L - 1."""

    parts: tuple[tuple[str, int], ...]
    loops: Fraction

    def exponent(self, exponents: Mapping[str, Affine]) -> Affine:
        """The exponent of N, from those of the parts."""
        columns = zip(*([count * x for x in exponents[label]] for label, count in self.parts))
        return tuple(sum(column, Fraction(0)) for column in columns)

    def growth(self, exponents: Mapping[str, Affine]) -> Affine:
        """The exponent of N that it adds per loop."""
        return tuple(x / self.loops for x in self.exponent(exponents))

    def __str__(self) -> str:
        words = [f"{count} × {label}" if count > 1 else label for label, count in self.parts if count > 0]
        less = [label for label, count in self.parts if count < 0]
        return " + ".join(words) + (f" (with one leg more than {', '.join(less)})" if less else "")


def _collect(pieces: Sequence[tuple[Sequence[tuple[str, int]], int]], loops: Fraction) -> Content:
    counts: dict[str, int] = {}
    for parts, times in pieces:
        for label, count in parts:
            counts[label] = counts.get(label, 0) + times * count
    return Content(tuple((label, count) for label, count in counts.items() if count), loops)


def _touched(vertices: Sequence[Vertex]) -> list[frozenset[int]]:
    """The sets of fields whose vertices have so few legs that connectedness says something of its own about them."""
    fields = range(len(vertices[0].legs) if vertices else 0)
    sets = [frozenset(A) for size in range(1, len(fields) + 1) for A in combinations(fields, size)]
    return [A for A in sets if any(sum(v.legs) == 1 and v.within(A) for v in vertices)]


def generators(vertices: Sequence[Vertex], lines: Sequence[Line]) -> tuple[Content, ...]:
    """The extreme rays of the cone of diagrams.

    Found as the solutions of minimal support, smallest first; time grows as (types)^(fields + 2).
    """
    fields = max((len(v.legs) for v in vertices), default=0)
    sets = _touched(vertices)
    columns = [(*map(Fraction, v.legs), *(Fraction(-(v.within(A) and not v.parts)) for A in sets)) for v in vertices]
    columns += [(*(Fraction(-(a == line.ends[0]) - (a == line.ends[1])) for a in range(fields)),
                 *(Fraction(bool(A.intersection(line.ends))) for A in sets)) for line in lines]
    columns += [(*(Fraction(0),) * fields, *(Fraction(-(A == B)) for B in sets)) for A in sets]
    parts = [*(v.made_of for v in vertices), *(((line.label, 1),) for line in lines), *((),) * len(sets)]
    signs = [(sum(1 << k for k, x in enumerate(row) if x > 0), sum(1 << k for k, x in enumerate(row) if x < 0))
             for row in zip(*columns)]
    supports: list[int] = []
    found: list[Content] = []
    for size in range(2, fields + len(sets) + 2):
        for chosen in combinations(range(len(columns)), size):
            if chosen[0] >= len(vertices):
                break
            mask = sum(1 << k for k in chosen)
            if any(bool(mask & above) != bool(mask & below) for above, below in signs):
                continue  # no positive combination vanishes
            if any(mask & support == support for support in supports):
                continue
            ray = _positive_solution([columns[k] for k in chosen])
            if ray is None:
                continue
            whole = lcm(*(x.denominator for x in ray))
            unit = gcd(*(int(x * whole) for x in ray))
            counts = {k: int(x * whole) // unit for k, x in zip(chosen, ray)}
            power = sum(n * vertices[k].power for k, n in counts.items() if k < len(vertices))
            supports.append(mask)
            found.append(_collect([(parts[k], n) for k, n in counts.items()], Fraction(power, 2)))
    return tuple(found)


def _positive_solution(columns: list[tuple[Fraction, ...]]) -> list[Fraction] | None:
    """The solution x > 0 of Σ x_k column_k = 0 if it is unique up to a factor, None otherwise."""
    matrix = [list(row) for row in zip(*columns)]
    free = len(columns) - 1
    if free > len(matrix):
        return None
    for k in range(free):
        pivot = next((i for i in range(k, len(matrix)) if matrix[i][k]), None)
        if pivot is None:
            return None
        matrix[k], matrix[pivot] = matrix[pivot], matrix[k]
        row = matrix[k] = [x / matrix[k][k] for x in matrix[k]]
        for i in range(len(matrix)):
            if i != k and matrix[i][k]:
                factor = matrix[i][k]
                matrix[i] = [x - factor * y for x, y in zip(matrix[i], row)]
    if any(row[free] for row in matrix[free:]):
        return None
    solution = [-matrix[k][free] for k in range(free)] + [Fraction(1)]
    return solution if all(x > 0 for x in solution) else None


def contents(vertices: Sequence[Vertex], lines: Sequence[Line], loops: int, *, closed: bool = False
             ) -> tuple[Content, ...]:
    """What connected vacuum diagrams with that many loops can be made of (two or more loops).

    With ``closed`` only what lies in the cone: copies of it, joined, are again connected diagrams.
    """
    types = [v for v in vertices if not v.parts]
    sets = [(A, [v.within(A) for v in types]) for A in _touched(types)]
    found = []

    def choose(k: int, power: int) -> Iterator[dict[int, int]]:
        if k == len(types):
            if power == 0:
                yield {}
            return
        for n in range(power // types[k].power + 1):
            for rest in choose(k + 1, power - n * types[k].power):
                yield {k: n, **rest} if n else rest

    def join(k: int, legs: tuple[int, ...]) -> Iterator[dict[int, int]]:
        if k == len(lines):
            if not any(legs):
                yield {}
            return
        a, b = lines[k].ends
        for m in range((legs[a] // 2 if a == b else min(legs[a], legs[b])) + 1):
            left = tuple(count - m * ((i == a) + (i == b)) for i, count in enumerate(legs))
            for rest in join(k + 1, left):
                yield {k: m, **rest} if m else rest

    for chosen in choose(0, 2 * (loops - 1)):
        legs = tuple(sum(n * types[k].legs[a] for k, n in chosen.items()) for a in range(len(types[0].legs)))
        needed = []
        for A, inside in sets:
            within = sum(n for k, n in chosen.items() if inside[k])
            needed.append((A, within - (within == sum(chosen.values()) and not closed)))
        for joined in join(0, legs):
            if all(sum(m for k, m in joined.items() if A.intersection(lines[k].ends)) >= least for A, least in needed):
                pieces = [(types[k].made_of, n) for k, n in chosen.items()]
                pieces += [(((lines[k].label, 1),), m) for k, m in joined.items()]
                found.append(_collect(pieces, Fraction(loops - 1)))
    return tuple(found)


def one_more_leg(vertices: Sequence[Vertex]) -> list[Vertex]:
    """For each field whose pure vertices go on: one more leg, from the last two orders that are known."""
    found = []
    for a in range(len(vertices[0].legs) if vertices else 0):
        pure = {v.legs[a]: v for v in vertices if v.legs[a] == sum(v.legs) == v.power + 2}
        top = max(pure, default=0)
        if top - 1 in pure:
            more, less = pure[top].label, pure[top - 1].label
            legs = tuple(int(i == a) for i in range(len(vertices[0].legs)))
            found.append(Vertex(f"one leg more than {less}", 1, legs, ((more, 1), (less, -1))))
    return found


__all__ = ["Content", "Line", "Vertex", "contents", "generators", "one_more_leg"]
