"""Expressions of two sites evaluated for all pairs of nodes of one.

A closed sum over a space that holds both sites is a matrix product over their nodes; what holds one of them is a number
for each node, and the expression is then elementwise in these.  An expression that is open in a space is a sum of
closed numbers for a pair times a vector that one node makes: averages over pairs never make an array of pairs and
components.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.onesite.batches import Batch
from fieldtheory.symbolic.fields import Entry, SpaceSum, depends_on, distribute, open_spaces, top_atoms, top_replace

Array = np.ndarray


class Pairs:
    """An expression of up to two sites; ``twins`` says how the second one's vectors are called.

    ``vectors`` are what one site is: entries over a space, given on the nodes as arrays (node, component).
    """

    def __init__(self, expr: sp.Expr, vectors: Sequence[Entry], twins: Mapping[Entry, Entry]) -> None:
        self.vectors, self.twins = tuple(vectors), dict(twins)
        self.plans: dict[str, sp.Expr] = {}
        self.products: dict[sp.Symbol, list[tuple[str, str]]] = {}
        self.single: dict[sp.Symbol, tuple[str, bool | None]] = {}
        self.terms: list[tuple[Callable[..., Any], list[sp.Symbol], str | None, bool | None]] = []
        spaces = sorted(open_spaces(expr), key=lambda space: space.name)
        if not spaces:
            self._term(expr, None)
        else:
            for term in sp.Add.make_args(self._opened(distribute(expr))):
                factors = sp.Mul.make_args(term)
                open_part = sp.Mul(*(f for f in factors if open_spaces(f)))
                self._term(sp.Mul(*(f for f in factors if not open_spaces(f))), open_part)
        self.batch = Batch(self.plans, self.vectors)

    def _opened(self, expr: sp.Expr) -> sp.Expr:
        """Products of open sums multiplied out."""
        return sp.Add(*(sp.expand_mul(term) if any(isinstance(f, sp.Add) and open_spaces(f)
                                                   for f in sp.Mul.make_args(term)) else term
                        for term in sp.Add.make_args(expr)))

    def _side(self, expr: sp.Basic) -> bool | None:
        """False for what holds the first site, True for the second, None for neither; both is refused."""
        first = any(depends_on(expr, v) for v in self.vectors)
        second = any(depends_on(expr, v) for v in self.twins.values())
        if first and second:
            raise RuleError(f"{expr} holds both sites, and is no sum of products of one and the other")
        return second if first or second else None

    def _plan(self, expr: sp.Expr) -> str:
        back = expr.xreplace({twin: v for v, twin in self.twins.items()})
        for label, known in self.plans.items():
            if known == back:
                return label
        label = f"x{len(self.plans)}"
        self.plans[label] = back
        return label

    def _term(self, closed: sp.Expr, open_part: sp.Expr | None) -> None:
        table: dict[sp.Basic, sp.Symbol] = {}
        for atom in sorted(top_atoms(closed), key=sp.default_sort_key):
            symbol = sp.Dummy("x", real=True)
            table[atom] = symbol
            both = isinstance(atom, SpaceSum) and any(depends_on(atom, v) for v in self.vectors) and any(
                depends_on(atom, v) for v in self.twins.values())
            if both:
                self.products[symbol] = [self._split(term) for term in sp.Add.make_args(distribute(atom.body))]
            else:
                self.single[symbol] = self._plan(atom), self._side(atom)
        opened = top_replace(closed, table)
        for symbol in sorted(opened.free_symbols - set(table.values()), key=lambda s: s.name):
            self.single[symbol] = self._plan(symbol), None
        arguments = sorted(opened.free_symbols, key=sp.default_sort_key)
        function = sp.lambdify(arguments, opened, "numpy", cse=True)
        side = None if open_part is None else self._side(open_part)
        self.terms.append((function, arguments, None if open_part is None else self._plan(open_part), side))

    def _split(self, term: sp.Expr) -> tuple[str, str]:
        """A product as the first site's factor and the second's; what holds neither goes with the first."""
        factors = sp.Mul.make_args(term)
        second = sp.Mul(*(f for f in factors if self._side(f)))
        return self._plan(sp.Mul(*(f for f in factors if not self._side(f)))), self._plan(second)

    def bind(self, values: Mapping[str, Any], vectors: Sequence[Array]) -> BoundPairs:
        return BoundPairs(self, self.batch.bind(values)(vectors), len(vectors[0]))


class BoundPairs:
    """A plan on nodes."""

    def __init__(self, plan: Pairs, found: Mapping[str, Array], count: int) -> None:
        self.plan, self.found, self.count = plan, found, count
        self.numbers: dict[sp.Symbol, Array] = {}
        for symbol, products in plan.products.items():
            self.numbers[symbol] = sum((found[a] @ found[b].T for a, b in products), start=np.zeros((1, 1)))
        for symbol, (label, side) in plan.single.items():
            x = np.asarray(found[label])
            self.numbers[symbol] = x[:1].reshape(1, 1) if side is None else x[:, None] if not side else x[None, :]

    def _closed(self, function: Callable[..., Any], arguments: Sequence[sp.Symbol]) -> Array:
        return np.asarray(function(*(self.numbers[x] for x in arguments)))

    def matrix(self) -> Array:
        """A closed expression on all pairs: (node, node), or (node, 1) and (1, 1) where it holds one site or none."""
        ((function, arguments, _, _),) = self.plan.terms
        return self._closed(function, arguments)

    def average(self, weights: Array) -> Array:
        """Σ over pairs of weights times the expression; ``weights`` (node, node), (node, 1) or (1, 1)."""
        total: Any = 0.0
        for function, arguments, label, side in self.plan.terms:
            c = self._closed(function, arguments) * weights
            if label is None:
                total = total + c.sum()
            elif side is None:
                total = total + c.sum() * self.found[label][0]
            else:
                vectors = self.found[label]
                each = np.broadcast_to(c, (self.count if not side else c.shape[0],
                                           self.count if side else c.shape[1])).sum(axis=0 if side else 1)
                total = total + np.tensordot(each, vectors, 1)
        return np.asarray(total)


__all__ = ["BoundPairs", "Pairs"]
