r"""Diagrams of an action as values: a topology with its symmetry factor, weight, and powers of ħ and of couplings.

How a weight is computed, and its signs, stand in `fieldtheory.symbolic.feynman`; how topologies and symmetry
factors are found, in `fieldtheory.symbolic.topologies`; the drawing is in `fieldtheory.export.diagrams`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.feynman import FeynmanRules, Pairing
from fieldtheory.symbolic.topologies import Topology, topologies


@dataclass(frozen=True)
class Diagram:
    """A topology with the rules that give it a value; without rules it can still be drawn.

    ``legs`` are the fields at the external points, in their order; ``amputated`` leaves out the legs' propagators.
    """

    topology: Topology
    rules: FeynmanRules | None = field(default=None, compare=False, repr=False)
    legs: tuple[Any, ...] = ()
    amputated: bool = False

    @property
    def loops(self) -> int:
        return self.topology.loops

    @property
    def vertices(self) -> dict[int, int]:
        """The number of vertices of each order."""
        return self.topology.vertices

    @property
    def symmetry_factor(self) -> int:
        """S; the weight carries 1/S."""
        return self.topology.symmetry_factor

    @property
    def is_1pi(self) -> bool:
        return self.topology.is_1pi

    @cached_property
    def weight(self) -> sp.Expr:
        """(1/S) ∏ (-V) ∏ G; legs that are vectors all in the same component.

        Raises
        ------
        RuleError
            If the diagram has no rules.
        """
        if self.rules is None:
            raise RuleError("a diagram without Feynman rules has no weight: make it with `diagrams`")
        return self.rules.weight(self.topology, self.legs, amputated=self.amputated)

    @property
    def hbar_power(self) -> int:
        """Lines minus vertices: the power of ħ, or of 1/N where the action is N times one free of N."""
        lines = len(self.topology.edges) - (self.topology.legs if self.amputated else 0)
        return lines - len(self.topology.orders)

    def powers(self) -> dict[sp.Expr, sp.Expr]:
        """The exponent of each symbol in which the weight is homogeneous; exponents may be symbolic (N^-γ)."""
        symbols = sorted(self.weight.free_symbols, key=sp.default_sort_key)
        found = {x: _degree(self.weight, x) for x in symbols}
        return {x: degree for x, degree in found.items() if degree is not None}

    def to_tikz(self) -> str:
        """A ``tikzpicture`` that needs the package tikz and no library of it."""
        from fieldtheory.export.diagrams import tikz

        return tikz(self.topology, self.legs)

    def to_svg(self) -> str:
        """An ``svg`` element in the colour of the surrounding text."""
        from fieldtheory.export.diagrams import svg

        return svg(self.topology, self.legs)

    def _repr_html_(self) -> str:
        return Diagrams([self])._repr_html_()


class Diagrams(tuple[Diagram, ...]):
    """Several diagrams, drawn side by side in a notebook."""

    @property
    def weight(self) -> sp.Expr:
        """The sum of the weights."""
        return sp.Add(*(diagram.weight for diagram in self))

    def to_tikz(self) -> str:
        """The pictures one after the other."""
        return "\n".join(diagram.to_tikz() for diagram in self)

    def _repr_html_(self) -> str:
        from fieldtheory.export.diagrams import gallery

        return gallery(self)


def diagrams(vertices: Mapping[tuple[Any, ...], Any], propagator: Any, fields: Sequence[Any], loops: int, *,
             legs: Sequence[Any] = (), kind: str = "connected", components: Mapping[Any, Any] | None = None
             ) -> Diagrams:
    """The diagrams of an action with exactly ``loops`` loops whose weight is not zero.

    Parameters
    ----------
    vertices, propagator, fields, components : see `FeynmanRules`.
    legs : the fields at the external points.
    kind : "connected": contributions to ln Z, or to the joint cumulant of ``legs``; "1pi": those of them that stay
        connected when any internal line is cut, amputated: minus their sum is a derivative of Γ.

    Vacuum diagrams start at two loops: -S and -½ ln det of the Hessian are the terms of none and one.
    """
    if kind == "all":
        raise BadInput("kind", repr(kind), "'connected' or '1pi'")
    rules = FeynmanRules(vertices, propagator, fields, components)
    found = topologies(rules.orders, loops, legs=len(legs), kind=kind)
    made = (Diagram(topology, rules, tuple(legs), kind == "1pi") for topology in found)
    return Diagrams(diagram for diagram in made if diagram.weight != 0)


def vacuum_sum(loops: int, vertices: Mapping[tuple[Any, ...], Any], propagator: Any, fields: Sequence[Any],
               components: Mapping[Any, Any] | None = None) -> dict[int, sp.Expr]:
    """The terms of ln Z with 2 … ``loops`` loops, by number of loops, as sums over connected vacuum diagrams."""
    rules = FeynmanRules(vertices, propagator, fields, components)
    if not isinstance(loops, int) or loops < 0:
        raise BadInput("loops", loops, "an integer, 0 or more")
    return {order: rules.total(topologies(rules.orders, order)) for order in range(2, loops + 1)}


def on_polynomial(topology: Topology, n: Any) -> dict[Pairing, sp.Expr]:
    """Σ over the pairings of indices at every vertex of n^(closed lines of indices), {pairing of legs: polynomial}.

    Each vertex of order 2k is a sum of (2k - 1)!! pairings of its ends, as (φ²)^k is for an O(n) vector; at n = 1
    the polynomials add up to ∏ (2k - 1)!!.  With S = φ²/2 + g (φ²)²/24 a vacuum diagram weighs (-g/3)^V P(n) / S.
    """
    odd = [order for order in topology.orders if order % 2]
    if odd:
        raise BadInput("topology", f"a vertex of order {odd[0]}", "vertices of even order, pairings of O(n) indices")
    pairings = {("phi",) * order: prod(range(1, order, 2)) for order in topology.orders}
    rules = FeynmanRules(pairings, [[1]], ["phi"], {"phi": n})
    sign = (-1)**len(topology.orders)
    contracted = rules.contract(topology, ["phi"] * topology.legs)
    return {pairing: sp.expand(sign * value) for pairing, value in contracted.items()}


def _degree(expr: sp.Expr, x: sp.Symbol) -> sp.Expr | None:
    """p if expr is x^p times something free of x, else None; sums are compared term by term, never expanded."""
    if not expr.has(x):
        return sp.S.Zero
    if expr == x:
        return sp.S.One
    if expr.is_Pow:
        degree = None if expr.exp.has(x) else _degree(expr.base, x)
        return None if degree is None else sp.expand(degree * expr.exp)
    degrees = [_degree(part, x) for part in expr.args] if expr.is_Mul or expr.is_Add else [None]
    if any(degree is None for degree in degrees):
        return None
    if expr.is_Mul:
        return sp.expand(sp.Add(*degrees))
    return degrees[0] if len(set(degrees)) == 1 else None
