r"""Feynman rules: the vertices and propagators of an action, contracted along a topology.

For an action S(φ*) + ½ φ·G⁻¹·φ + Σ_{k≥3} V_{a₁…a_k} φ_{a₁}…φ_{a_k} / k! the contribution of one diagram to ln Z, or
with legs to the joint cumulant of the fields at its legs, is

    (1/S) · ∏ (-V) · ∏ G,    summed over the field label of every line's two ends,

S the symmetry factor of the topology alone: the sum over labels takes care of field types, so no typed graphs are
needed.  With S/ħ for S a diagram is of order ħ^(lines - vertices), that is ħ^(loops - 1) for a vacuum diagram and
ħ^(loops - 1 + legs) for a cumulant; without the propagators of its legs ("amputated", as 1PI diagrams are) it is
ħ^(loops - 1) again.  The 1PI vertex function, a derivative of Γ = S + …, is *minus* the sum of amputated diagrams.

An O(n) vector counts as one field with n components.  Its entries of V and G are those for all indices equal, so
that V_{ππππ} = v stands for (v/3)(δδ + δδ + δδ); each diagram is then a polynomial in n, one power for each closed
line of indices, and n = 1 is the scalar case.

Contraction goes vertex by vertex, in an order that keeps the number of open lines small; the tensors of vertices
with their self-loops closed are shared by all diagrams of one set of rules.  Time grows as
(fields)^(open lines) · (fields)^(order of a vertex).  Derived here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import combinations, product
from typing import Any

import sympy as sp
from sympy.polys.rings import PolyElement, ring
from sympy.utilities.iterables import multiset_permutations

from fieldtheory.errors import BadInput
from fieldtheory.symbolic.topologies import Topology

Labels = tuple[int, ...]
Pairing = tuple[tuple[int, int], ...]
"""Which ends share an index of an O(n) vector: sorted pairs of names of ends."""
Tensor = dict[tuple[Labels, Pairing], PolyElement]


class FeynmanRules:
    """Vertices and propagators of an action, and the contraction of diagrams with them.

    Parameters
    ----------
    vertices : V by its fields, one entry for each multiset: {(a, a, b): V_aab, …}; what is absent is zero.
    propagator : G, a symmetric matrix in the order of ``fields`` (any nested sequence; one field: [[G]]).
    fields : the labels that ``vertices`` uses.
    components : for O(n) vectors, {field: n}, n a symbol, number or expression.  V must depend on each vector
        through its square alone, and G must not mix a vector with another field.

    Raises
    ------
    BadInput
        For an unknown label, two different values of one entry, a propagator of the wrong shape or not symmetric,
        or a vector in an odd number at a vertex.
    """

    def __init__(self, vertices: Mapping[tuple[Any, ...], Any], propagator: Any, fields: Sequence[Any],
                 components: Mapping[Any, Any] | None = None) -> None:
        self.fields = tuple(fields)
        index = {label: position for position, label in enumerate(self.fields)}
        if len(index) < len(self.fields):
            raise BadInput("fields", self.fields, "labels that differ")
        for label in (components or {}):
            if label not in index:
                raise BadInput("components", label, f"fields among {self.fields}")
        self.components = {index[label]: sp.sympify(n) for label, n in (components or {}).items()}
        entries: dict[Labels, sp.Expr] = {}
        for labels, value in vertices.items():
            if not all(label in index for label in labels) or not labels:
                raise BadInput("vertices", labels, f"tuples of fields among {self.fields}")
            key = tuple(sorted(index[label] for label in labels))
            value = sp.sympify(value)
            if not _are_equal(entries.setdefault(key, value), value):
                raise BadInput("vertices", f"{entries[key]} and {value} for {labels}", "one value for each multiset")
            for a in self.components:
                if value != 0 and key.count(a) % 2:
                    raise BadInput("vertices", f"{labels}", f"the vector {self.fields[a]} in even number")
        lines = sp.Matrix(propagator)
        if lines.shape != (len(index), len(index)):
            raise BadInput("propagator", f"shape {lines.shape}", f"{(len(index), len(index))}, by field")
        for a, b in combinations(range(len(index)), 2):
            if not _are_equal(lines[a, b], lines[b, a]):
                raise BadInput("propagator", f"{lines[a, b]} and {lines[b, a]} across the diagonal",
                               "a symmetric matrix")
            lines[b, a] = lines[a, b]  # one way of writing it
            if lines[a, b] != 0 and {a, b} & self.components.keys():
                raise BadInput("propagator", f"{lines[a, b]} between {self.fields[a]} and {self.fields[b]}",
                               "zero between a vector and another field")
        self.propagator = sp.ImmutableMatrix(lines)
        self.vertices = {key: entries[key] for key in sorted(entries, key=lambda k: (len(k), k)) if entries[key] != 0}
        self._local_tensors: dict[tuple[int, int, int, int], dict[Labels, list[tuple[Labels, Pairing, PolyElement]]]]
        self._local_tensors = {}

    @property
    def orders(self) -> tuple[int, ...]:
        """The orders of vertices that are not zero."""
        return tuple(sorted({len(key) for key in self.vertices}))

    # ------------------------------------------------------------------------------------------ the ring
    @cached_property
    def _generators(self) -> tuple[sp.Expr, ...]:
        """Every factor that is not a rational number: opaque to the contraction, multiplied out never."""
        values = [*self.vertices.values(), *self.propagator, *self.components.values()]
        found = dict.fromkeys(base for value in values for base, _ in _monomial(value)[1])
        return tuple(found) or (sp.Symbol("unused"),)

    @cached_property
    def _one(self) -> PolyElement:
        return ring([f"x{k}" for k in range(len(self._generators))], sp.QQ)[0].one

    def _element(self, value: sp.Expr) -> PolyElement:
        coefficient, factors = _monomial(value)
        element = self._one * sp.QQ(coefficient.p, coefficient.q)
        for base, power in factors:
            element *= self._one.ring.gens[self._generators.index(base)]**power
        return element

    def _expression(self, element: PolyElement) -> sp.Expr:
        return element.as_expr(*self._generators)

    @cached_property
    def _lines(self) -> dict[int, list[tuple[int, PolyElement]]]:
        """For each label the labels at the line's other end."""
        size = range(len(self.fields))
        return {a: [(b, self._element(self.propagator[a, b])) for b in size if self.propagator[a, b] != 0]
                for a in size}

    # -------------------------------------------------------------------------------------- contraction
    def _vertex(self, order: int, bare: int, incoming: int, loops: int
                ) -> dict[Labels, list[tuple[Labels, Pairing, PolyElement]]]:
        """-V with its self-loops closed and its incoming lines attached, by the labels at their far ends.

        Ends 0 … bare-1 come in without propagator, the next ``incoming`` with theirs; the others go out.
        """
        key = order, bare, incoming, loops
        if key in self._local_tensors:
            return self._local_tensors[key]
        inward, joined = bare + incoming, bare + incoming + 2 * loops
        merged: dict[tuple[Labels, Labels, Pairing], PolyElement] = {}
        for multiset, value in self.vertices.items():
            if len(multiset) != order:
                continue
            vertex = -self._element(value)
            for labels in map(tuple, multiset_permutations(list(multiset))):
                weight = vertex
                for p in range(inward, joined, 2):
                    weight = weight * dict(self._lines[labels[p]]).get(labels[p + 1], 0)
                if not weight:
                    continue
                closing = tuple((p, p + 1) for p in range(inward, joined, 2) if labels[p] in self.components)
                strands: dict[Pairing, PolyElement] = {}
                for pairing, share in self._pairings(labels):
                    open_ends, closed = _join(pairing, closing)
                    part = weight * share
                    for end in closed:
                        part = part * self._element(self.components[labels[end]])
                    strands[open_ends] = strands.get(open_ends, 0) + part
                far_ends = [[(b, None)] for b in labels[:bare]] + [self._lines[b] for b in labels[bare:inward]]
                for ends in product(*far_ends):
                    for open_ends, part in strands.items():
                        for _, line in ends[bare:]:
                            part = part * line
                        entry = tuple(a for a, _ in ends), labels[joined:], open_ends
                        merged[entry] = merged.get(entry, 0) + part
        tensor: dict[Labels, list[tuple[Labels, Pairing, PolyElement]]] = {}
        for (into, out, open_ends), part in merged.items():
            if part:
                tensor.setdefault(into, []).append((out, open_ends, part))
        self._local_tensors[key] = tensor
        return tensor

    def _pairings(self, labels: Labels) -> list[tuple[Pairing, PolyElement]]:
        """The ways to pair the indices of vectors, each label with itself, with equal shares that add up to one."""
        found: list[Pairing] = [()]
        for label in self.components:
            ends = [end for end, other in enumerate(labels) if other == label]
            found = [done + more for done in found for more in _matchings(ends)]
        return [(pairing, self._one / len(found)) for pairing in found]

    def contract(self, topology: Topology, legs: Sequence[Any] = (), *, amputated: bool = False
                 ) -> dict[Pairing, sp.Expr]:
        """∏ (-V) ∏ G summed over labels, without 1/S: {pairing of vector legs: value}.

        The pairs name legs that share their index; the key is () where no leg is a vector.
        """
        if len(legs) != topology.legs:
            raise BadInput("legs", tuple(legs), f"{topology.legs} fields, one for each leg")
        for label in legs:
            if label not in self.fields:
                raise BadInput("legs", label, f"fields among {self.fields}")
        outside = [self.fields.index(label) for label in legs]
        total = self._contract(topology, outside, amputated)
        return {pairing: self._expression(value) for pairing, value in sorted(total.items())}

    def _contract(self, topology: Topology, outside: list[int], amputated: bool) -> dict[Pairing, PolyElement]:
        # Names of ends: e is the open end of line e, -k - 1 the outer end of leg k.
        at: dict[int, list[int]] = {node: [] for node in range(topology.legs, topology.nodes)}
        frontier: list[int] = []
        labels: list[int] = []
        pairing: list[tuple[int, int]] = []
        start = self._one
        for e, (i, j) in enumerate(topology.edges):
            if j < topology.legs:  # a line between two legs
                start = start * dict(self._lines[outside[i]]).get(outside[j], 0)
                pairing += [(-j - 1, -i - 1)] if outside[i] in self.components else []
                continue
            if i < topology.legs:
                frontier.append(e)
                labels.append(outside[i])
                pairing += [(-i - 1, e)] if outside[i] in self.components else []
            at[j].append(e)
            if topology.legs <= i < j:
                at[i].append(e)
        state: Tensor = {(tuple(labels), tuple(sorted(pairing))): start}
        external = set(frontier) if amputated else set()
        while at:
            open_lines = set(frontier)
            node = min(at, key=lambda v: (sum(1 if e not in open_lines else -1 for e in at[v]
                                              if topology.edges[e] != (v, v)), v))
            ends = at.pop(node)
            loops = [e for e in ends if topology.edges[e] == (node, node)]
            into = sorted((e for e in ends if e in open_lines), key=lambda e: (e not in external, e))
            out = [e for e in ends if e not in open_lines and e not in loops]
            bare = sum(e in external for e in into)
            local = self._vertex(len(ends) + len(loops), bare, len(into) - bare, len(loops))
            taken = [frontier.index(e) for e in into]
            kept = [position for position, e in enumerate(frontier) if e not in into]
            # the vertex's own ends: those that came in close, those that go out are called by their line
            names = dict(enumerate(into)) | {len(into) + 2 * len(loops) + k: e for k, e in enumerate(out)}
            following: Tensor = {}
            for (labels_here, pairing_here), value in state.items():
                rest = tuple([labels_here[position] for position in kept])
                for labels_out, strands, part in local.get(tuple([labels_here[p] for p in taken]), ()):
                    paired, weight = pairing_here, value * part
                    if strands or pairing_here:
                        paired, closed = _join(pairing_here, tuple((names[a], names[b]) for a, b in strands))
                        for e in closed:
                            weight = weight * self._element(self.components[labels_here[frontier.index(e)]])
                    key = rest + labels_out, paired
                    following[key] = following[key] + weight if key in following else weight
            state = following
            frontier = [frontier[position] for position in kept] + out
        total: dict[Pairing, PolyElement] = {}
        for (_, ends_left), value in state.items():
            key_out = tuple(sorted((-b - 1, -a - 1) for a, b in ends_left))
            total[key_out] = total.get(key_out, 0) + value
        return {key: value for key, value in total.items() if value}

    def weight(self, topology: Topology, legs: Sequence[Any] = (), *, amputated: bool = False) -> sp.Expr:
        """(1/S) ∏ (-V) ∏ G; vector legs all in the same component."""
        return sp.Add(*self.contract(topology, legs, amputated=amputated).values()) / topology.symmetry_factor

    def total(self, found: Iterable[Topology]) -> sp.Expr:
        """The sum of the weights of vacuum topologies, added up in the ring."""
        result = 0 * self._one
        for topology in found:
            result += sum(self._contract(topology, [], False).values(), 0 * self._one) / topology.symmetry_factor
        return self._expression(result)


def _monomial(value: sp.Expr) -> tuple[sp.Rational, list[tuple[sp.Expr, int]]]:
    """Coefficient and factors with positive integer powers; sums, roots and inverses are factors of their own."""
    coefficient, factors = value.as_coeff_mul()
    if not coefficient.is_Rational:
        coefficient, factors = sp.S.One, (coefficient, *factors)
    parts = []
    for factor in factors:
        base, power = factor.as_base_exp()
        if power.is_Integer:
            parts.append((base, int(power)) if power > 0 else (1 / base, -int(power)))
        elif factor != 1:
            parts.append((factor, 1))
    return coefficient, parts


def _are_equal(one: sp.Expr, other: sp.Expr) -> bool:
    return one == other or sp.simplify(one - other) == 0


def _matchings(ends: list[int]) -> list[Pairing]:
    """All ways to pair an even number of ends."""
    if not ends:
        return [()]
    first, *others = ends
    return [((first, other), *rest) for k, other in enumerate(others)
            for rest in _matchings(others[:k] + others[k + 1:])]


def _join(a: Pairing, b: Pairing) -> tuple[Pairing, list[int]]:
    """Two pairings of overlapping ends joined where they meet: the pairs left, and one end of each closed line."""
    links: dict[int, list[int]] = {}
    for one, other in (*a, *b):
        links.setdefault(one, []).append(other)
        links.setdefault(other, []).append(one)
    pairs = []
    for start in sorted(end for end, others in links.items() if len(others) == 1):
        if start in links:
            previous, here = start, links.pop(start)[0]
            while len(links[here]) == 2:
                one, other = links.pop(here)
                previous, here = here, other if one == previous else one
            del links[here]
            pairs.append((start, here))
    closed = []
    while links:
        start = min(links)
        closed.append(start)
        here = start
        while here in links:
            one, other = links.pop(here)
            here = one if one in links else other
    return tuple(pairs), closed
