"""Expressions over spaces evaluated for many particles at once: a plan of matrix products and elementwise steps.

`fieldtheory.compile` writes one fused loop for one point.  Particles, a few hundred copies of the fields of one site
under the same data, are better served otherwise: what costs are contractions with data (Σ_d X_μd w_d, Σ_μ V_μk φ_μ),
and for all particles together these are matrix products, which run at the machine's rate.  A plan is made once from
the expressions: each subexpression once, each sum over a space a matrix product where one of its factors is data over
two spaces, an inner product where none is.  Arrays have the particles first, then one axis for each open space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import scipy.special
import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on, distribute, open_spaces
from fieldtheory.symbolic.sites import Bundle

Array = np.ndarray
Register = list[Any]

_FUNCTIONS: Mapping[Any, Callable[..., Array]] = {
    sp.log: np.log, sp.exp: np.exp, sp.Abs: np.abs, sp.sin: np.sin, sp.cos: np.cos, sp.tanh: np.tanh,
    sp.erf: scipy.special.erf, sp.sign: np.sign, sp.asin: np.arcsin, sp.loggamma: scipy.special.gammaln,
    sp.Max: lambda *x: reduce(np.maximum, x), sp.Min: lambda *x: reduce(np.minimum, x),
    Bundle: lambda x: x, sp.Heaviside: lambda x, half: (x > 0) + half * (x == 0),  # np.heaviside is ten times slower
}


class _Value:
    """Where an intermediate result is, the spaces of its axes after the particles', and whether particles differ."""

    def __init__(self, place: int, spaces: tuple[Space, ...], moving: bool) -> None:
        self.place, self.spaces, self.moving = place, spaces, moving


class Batch:
    """Expressions as a plan; call it with ``fields`` (particle, ...) and ``values`` by name.

    ``outputs`` are closed, or open in any spaces: an array (particle,) or (particle, space, ...), the spaces in the
    order of their names.  Nothing but the entries and symbols of the expressions is an argument.

    Raises
    ------
    RuleError
        For a function that it does not know.
    """

    def __init__(self, outputs: Mapping[str, sp.Expr], fields: Sequence[Entry]) -> None:
        self.fields = tuple(fields)
        self.steps: list[Callable[[Register], Any]] = []
        self._step_moves: list[bool] = []
        self._orders: dict[int, tuple[int, ...]] = {}
        self._known: dict[sp.Basic, _Value] = {}
        self._inputs: list[tuple[str, int]] = []
        self._moving: list[tuple[str, int]] = []
        self._size_of: dict[str, tuple[str, int]] = {}
        self._turned: set[SpaceSum] = set()
        exprs = {label: sp.sympify(expr) for label, expr in outputs.items()}
        for entry in sorted({e for expr in exprs.values() for e in expr.atoms(Entry)}, key=sp.default_sort_key):
            if entry not in self.fields:
                for axis, space in enumerate(entry.spaces):
                    if space.size.is_Symbol:
                        self._size_of.setdefault(space.size.name, (entry.name, axis))
        # what does not move is evaluated once for a set of data
        self.places = {label: self._walk(expr) for label, expr in exprs.items()}
        self.fixed = [k for k in range(len(self.steps)) if not self._step_moves[k]]
        self.live = [k for k in range(len(self.steps)) if self._step_moves[k]]

    # --------------------------------------------------------------------------------------------- planning

    def _add(self, step: Callable[[Register], Any], spaces: Iterable[Space], moving: bool) -> _Value:
        self.steps.append(step)
        self._step_moves.append(moving)
        return _Value(len(self.steps) - 1, tuple(sorted(spaces, key=lambda space: space.name)), moving)

    def _walk(self, expr: sp.Basic) -> _Value:
        if expr not in self._known:
            self._known[expr] = self._plan(expr)
        return self._known[expr]

    def _plan(self, expr: Any) -> _Value:
        if isinstance(expr, Entry):
            moving = expr in self.fields
            value = self._add(lambda r: None, expr.spaces, moving)
            (self._moving if moving else self._inputs).append((expr.name, value.place))
            self._transpose(expr, value)
            return value
        if isinstance(expr, sp.Symbol):
            value = self._add(lambda r: None, (), False)
            self._inputs.append((expr.name, value.place))
            return value
        if expr.is_number:
            number = float(expr)
            return self._add(lambda r: np.array([number]), (), False)
        if isinstance(expr, SpaceSum):
            terms = sp.Add.make_args(distribute(expr.body))
            return self._sum([self._contract(term, expr.space, expr in self._turned) for term in terms])
        if isinstance(expr, sp.Add):
            return self._sum([self._walk(arg) for arg in expr.args])
        if isinstance(expr, sp.Mul):
            return self._product([self._walk(arg) for arg in expr.args])
        if isinstance(expr, sp.Pow):
            return self._power(expr)
        if expr.func in _FUNCTIONS:
            return self._elementwise(_FUNCTIONS[expr.func], [self._walk(arg) for arg in expr.args])
        raise RuleError(f"{type(expr).__name__} cannot be evaluated for particles")

    def _transpose(self, entry: Entry, value: _Value) -> None:
        """Axes in the order of the names of the spaces."""
        order = sorted(range(len(entry.spaces)), key=lambda k: entry.spaces[k].name)
        self._orders[value.place] = tuple(order)

    def _power(self, expr: sp.Pow) -> _Value:
        base = self._walk(expr.base)
        if expr.exp == -1:
            return self._elementwise(np.reciprocal, [base])
        if expr.exp == 2:
            return self._elementwise(np.square, [base])
        if expr.exp == sp.Rational(1, 2):
            return self._elementwise(np.sqrt, [base])
        if expr.exp.is_Integer:
            exponent = int(expr.exp)
            return self._elementwise(lambda x: x**exponent if exponent > 0 else 1 / x**-exponent, [base])
        return self._elementwise(np.power, [base, self._walk(expr.exp)])

    def _elementwise(self, function: Callable[..., Array], values: Sequence[_Value]) -> _Value:
        spaces = tuple(sorted({s for value in values for s in value.spaces}, key=lambda space: space.name))
        shapes = [(value.place, self._index(value, spaces)) for value in values]
        return self._add(lambda r: function(*(r[place][index] for place, index in shapes)), spaces,
                         any(value.moving for value in values))

    @staticmethod
    def _index(value: _Value, spaces: tuple[Space, ...]) -> tuple[Any, ...]:
        """The index that gives an array one axis for each of the spaces."""
        return (slice(None), *(slice(None) if space in value.spaces else None for space in spaces))

    def _sum(self, values: Sequence[_Value]) -> _Value:
        return values[0] if len(values) == 1 else self._elementwise(lambda *x: reduce(np.add, x), values)

    def _product(self, values: Sequence[_Value]) -> _Value:
        """Few particles' numbers first, large arrays last."""
        if len(values) == 1:
            return values[0]
        fixed = [value for value in values if not value.moving]
        if fixed and len(fixed) < len(values):
            values = [self._product(fixed), *(value for value in values if value.moving)]
        ordered = sorted(values, key=lambda value: len(value.spaces))
        return self._elementwise(lambda *x: reduce(np.multiply, x), ordered)

    def _contract(self, term: sp.Expr, space: Space, turned: bool = False) -> _Value:
        """Σ over a space of a product; one that has been ``turned`` is not swapped again.

        What then stands inside holds fewer sums than the whole did, so that swapping comes to an end.
        """
        between = self._sandwich(term, space)
        if between is not None:
            return between
        swapped = None if turned else self._swapped(term, space)
        if swapped is not None:
            self._turned.add(swapped)
            return self._walk(swapped)
        factors = [self._walk(factor) for factor in sp.Mul.make_args(term)]
        outside = [value for value in factors if space not in value.spaces]
        inside = [value for value in factors if space in value.spaces]
        if not inside:
            inside = [self._size(space)]
            return self._product([*outside, *inside])
        matrices = [value for value in inside if not value.moving and len(value.spaces) == 2]
        matrix = matrices[0] if matrices else None
        rest = [value for value in inside if value is not matrix]
        if matrix is not None and rest and all(value.spaces == (space,) for value in rest):
            vector = self._product(rest)
            (other,) = (s for s in matrix.spaces if s != space)
            first = matrix.spaces[0] == space
            a, b = vector.place, matrix.place
            product = (lambda r: r[a] @ r[b][0]) if first else (lambda r: r[a] @ r[b][0].T)
            total = self._add(product, (other,), vector.moving)
        elif len(inside) == 2 and all(value.spaces == (space,) for value in inside):
            total = self._inner(*inside)
        else:
            whole = self._product(inside)
            axis, a = 1 + whole.spaces.index(space), whole.place
            total = self._add(lambda r: r[a].sum(axis=axis), (s for s in whole.spaces if s != space), whole.moving)
        return self._product([*outside, total])

    def _moves(self, expr: sp.Expr) -> bool:
        return any(depends_on(expr, f) for f in self.fields)

    def _swapped(self, term: sp.Expr, space: Space) -> SpaceSum | None:
        """Σ_k c_k Σ_μ V_μk x_μd as Σ_μ x_μd Σ_k V_μk c_k: no matrix for each particle, and no product for each c."""
        factors = [f for factor in sp.Mul.make_args(term)
                   for f in ([factor.base] * 2 if factor.is_Pow and factor.exp == 2 else [factor])]
        for factor in factors:
            if not isinstance(factor, SpaceSum) or not self._moves(factor) or space not in open_spaces(factor):
                continue
            inside = sp.Mul.make_args(factor.body)
            bound = [f for f in inside if space in open_spaces(f)]
            free = [f for f in inside if f not in bound]
            outer = list(factors)
            outer.remove(factor)
            if len(open_spaces(factor)) < 2:
                data = not any(self._moves(f) for f in bound)
                back = any(total.space == space for f in free for total in f.atoms(SpaceSum))
                if not data or back or open_spaces(term) != {space} or factor.space in open_spaces(sp.Mul(*outer)):
                    continue
            if free:
                return SpaceSum(sp.Mul(*free) * SpaceSum(sp.Mul(*outer, *bound), space), factor.space)
        return None

    def _sandwich(self, term: sp.Expr, space: Space) -> _Value | None:
        """Σ_k c_k V_μk Σ_ν W_νk x_ν with data c, V, W: a product with one matrix, made once for a set of data."""
        factors = sp.Mul.make_args(term)
        moving = [f for f in factors if self._moves(f)]
        if len(moving) != 1 or not isinstance(moving[0], SpaceSum) or open_spaces(moving[0]) != {space}:
            return None
        inside = sp.Mul.make_args(moving[0].body)
        bound = [f for f in inside if space in open_spaces(f)]
        free, rest = [f for f in inside if f not in bound], [f for f in factors if f not in moving]
        if not free or not rest or any(self._moves(f) for f in bound) or any(space in open_spaces(f) for f in free):
            return None
        left, right, vector = (self._product([self._walk(f) for f in part]) for part in (bound, rest, free))
        if (set(left.spaces) != {moving[0].space, space} or len(right.spaces) != 2 or space not in right.spaces
                or vector.spaces != (moving[0].space,)):
            return None
        (other,) = (s for s in right.spaces if s != space)

        def rows(value: _Value, r: Register) -> Array:
            """An array of data with the space that is summed over last."""
            found: Array = r[value.place][0]
            return found.T if value.spaces[0] == space else found

        matrix = self._add(lambda r: (rows(left, r) @ rows(right, r).T)[None], (), False)
        return self._add(lambda r: r[vector.place] @ r[matrix.place][0], (other,), True)

    def _inner(self, left: _Value, right: _Value) -> _Value:
        a, b = left.place, right.place
        if left.moving and right.moving:
            return self._add(lambda r: np.einsum("nk,nk->n", r[a], r[b]), (), True)
        if left.moving or right.moving:
            a, b = (a, b) if left.moving else (b, a)
            return self._add(lambda r: r[a] @ r[b][0], (), True)
        return self._add(lambda r: np.array([r[a][0] @ r[b][0]]), (), False)

    def _size(self, space: Space) -> _Value:
        return self._walk(space.size)

    # ------------------------------------------------------------------------------------------- evaluation

    def bind(self, values: Mapping[str, Any]) -> Callable[[Sequence[Array]], dict[str, Array]]:
        """The plan at these data: what no particle enters is computed here, once."""
        registers: Register = [None] * len(self.steps)
        given = {place for _, place in (*self._inputs, *self._moving)}
        for name, place in self._inputs:
            if name not in values and name in self._size_of:
                owner, axis = self._size_of[name]
                array = np.asarray(float(np.shape(values[owner])[axis]))
            else:
                array = np.asarray(values[name], dtype=float)
            registers[place] = array.transpose(self._orders.get(place, ()))[None] if array.ndim else array[None]
        for k in self.fixed:
            if k not in given:
                registers[k] = self.steps[k](registers)
        live = [(k, self.steps[k]) for k in self.live if k not in given]
        moving = [(place, [f.name for f in self.fields].index(name)) for name, place in self._moving]
        places = {label: (value.place, value.moving) for label, value in self.places.items()}
        orders = self._orders

        def run(fields: Sequence[Array]) -> dict[str, Array]:
            r = registers.copy()
            for place, index in moving:
                r[place] = fields[index].transpose(0, *(1 + k for k in orders[place]))
            for k, step in live:
                r[k] = step(r)
            n = len(fields[0])
            return {label: r[place] if moves else np.broadcast_to(r[place], (n, *r[place].shape[1:]))
                    for label, (place, moves) in places.items()}

        return run


__all__ = ["Batch"]
