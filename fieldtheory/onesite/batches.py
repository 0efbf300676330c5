"""Expressions over spaces evaluated for many particles at once: a plan of matrix products and elementwise steps.

`fieldtheory.compile` writes one fused loop for one point.  Particles, a few hundred copies of the fields of one site
under the same data, are better served otherwise: what costs are contractions with data (Σ_d X_μd w_d, Σ_μ V_μk φ_μ),
and for all particles together these are matrix products, which run at the machine's rate.  A plan is made once from
the expressions: each subexpression once, each sum over a space a matrix product where one of its factors is data over
two spaces, an inner product where none is.  Arrays have the particles first, then one axis for each open space.

A plan is run by NumPy, step by step (:class:`Bound`), which is all that averages and single evaluations need.  What
moves particles, an energy with its gradients, is evaluated ten thousand times: there the steps between two matrix
products are compiled to one loop (:mod:`.batchcode`), from the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from threading import Lock
from typing import Any

import numpy as np
import scipy.special
import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.onesite.batchcode import BatchCode, Motion
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on, distribute, open_spaces
from fieldtheory.symbolic.sites import Bundle

Array = np.ndarray
Register = list[Any]

_FUNCTIONS: Mapping[Any, tuple[Callable[..., Array], str]] = {
    sp.log: (np.log, "math.log({})"), sp.exp: (np.exp, "exponential({})"), sp.Abs: (np.abs, "abs({})"),
    sp.sin: (np.sin, "math.sin({})"), sp.cos: (np.cos, "math.cos({})"), sp.asin: (np.arcsin, "math.asin({})"),
    sp.tanh: (np.tanh, "hyperbolic_tangent({})"), sp.erf: (scipy.special.erf, "error_function({})"),
    sp.sign: (np.sign, "np.sign({})"), sp.loggamma: (scipy.special.gammaln, "math.lgamma({})"),
    Bundle: (lambda x: x, "{}"),
    sp.Heaviside: (lambda x, half: (x > 0) + half * (x == 0),  # np.heaviside is ten times slower
                   "(1.0 if {0} > 0.0 else 0.0) + ({1} if {0} == 0.0 else 0.0)"),
}
"""What NumPy calls for a function, and what a loop over particles has in its place."""
_FOLDED: Mapping[Any, tuple[Callable[..., Array], str]] = {
    sp.Add: (np.add, "({} + {})"), sp.Mul: (np.multiply, "({} * {})"),
    sp.Max: (np.maximum, "np.maximum({}, {})"), sp.Min: (np.minimum, "np.minimum({}, {})"),
}
"""Functions of any number of arguments, two at a time."""


@dataclass(frozen=True, eq=False)
class Value:
    """Where an intermediate result is, the spaces of its axes after the particles', and whether particles differ."""

    place: int
    spaces: tuple[Space, ...]
    moving: bool


@dataclass(frozen=True, eq=False)
class Step:
    """How a value is made: by NumPy (``run``), and from what, for whoever writes it as a loop.

    ``kind``: *given*; *number*; *elementwise*; *sum*, over the spaces of the operands that the value does not have; or
    *product* of a moving vector with a fixed matrix, ``turned`` where its first axis is summed over.  ``code`` is a
    number, or what is evaluated for one particle at one point of the spaces.
    """

    run: Callable[[Register], Any]
    value: Value
    kind: str
    operands: tuple[Value, ...] = ()
    code: str = ""
    turned: bool = False


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
        self.steps: list[Step] = []
        self._orders: dict[int, tuple[int, ...]] = {}
        self._known: dict[sp.Basic, Value] = {}
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
        self.fixed = [k for k, step in enumerate(self.steps) if not step.value.moving]
        self.live = [k for k, step in enumerate(self.steps) if step.value.moving]
        self.moving = [(place, [f.name for f in self.fields].index(name)) for name, place in self._moving]
        """Where fields go, and which ones."""
        self._lock = Lock()

    # --------------------------------------------------------------------------------------------- planning

    def _add(self, run: Callable[[Register], Any], spaces: Iterable[Space], moving: bool, kind: str,
             operands: Sequence[Value] = (), code: str = "", *, turned: bool = False) -> Value:
        value = Value(len(self.steps), tuple(sorted(spaces, key=lambda space: space.name)), moving)
        self.steps.append(Step(run, value, kind, tuple(operands), code, turned))
        return value

    def _walk(self, expr: sp.Basic) -> Value:
        if expr not in self._known:
            self._known[expr] = self._plan(expr)
        return self._known[expr]

    def _plan(self, expr: Any) -> Value:
        if isinstance(expr, Entry):
            moving = expr in self.fields
            value = self._add(lambda r: None, expr.spaces, moving, "given")
            (self._moving if moving else self._inputs).append((expr.name, value.place))
            self._transpose(expr, value)
            return value
        if isinstance(expr, sp.Symbol):
            value = self._add(lambda r: None, (), False, "given")
            self._inputs.append((expr.name, value.place))
            return value
        if expr.is_number:
            number = float(expr)
            return self._add(lambda r: np.array([number]), (), False, "number", code=repr(number))
        if isinstance(expr, SpaceSum):
            terms = sp.Add.make_args(distribute(expr.body))
            return self._sum([self._contract(term, expr.space, expr in self._turned) for term in terms])
        if isinstance(expr, sp.Add):
            return self._sum([self._walk(arg) for arg in expr.args])
        if isinstance(expr, sp.Mul):
            return self._product([self._walk(arg) for arg in expr.args])
        if isinstance(expr, sp.Pow):
            return self._power(expr)
        if expr.func in _FOLDED:
            return self._folded(expr.func, [self._walk(arg) for arg in expr.args])
        if expr.func in _FUNCTIONS:
            return self._elementwise(*_FUNCTIONS[expr.func], [self._walk(arg) for arg in expr.args])
        raise RuleError(f"{type(expr).__name__} cannot be evaluated for particles")

    def _transpose(self, entry: Entry, value: Value) -> None:
        """Axes in the order of the names of the spaces."""
        order = sorted(range(len(entry.spaces)), key=lambda k: entry.spaces[k].name)
        self._orders[value.place] = tuple(order)

    def _power(self, expr: sp.Pow) -> Value:
        base = self._walk(expr.base)
        if expr.exp == -1:
            return self._elementwise(np.reciprocal, "1.0 / {}", [base])
        if expr.exp == 2:
            return self._elementwise(np.square, "{0} * {0}", [base])
        if expr.exp == sp.Rational(1, 2):
            return self._elementwise(np.sqrt, "math.sqrt({})", [base])
        if expr.exp.is_Integer:
            exponent = int(expr.exp)
            return self._elementwise(lambda x: x**exponent if exponent > 0 else 1 / x**-exponent,
                                     f"{{}} ** {exponent}" if exponent > 0 else f"1.0 / {{}} ** {-exponent}", [base])
        return self._elementwise(np.power, "{} ** {}", [base, self._walk(expr.exp)])

    def _elementwise(self, function: Callable[..., Array], code: str, values: Sequence[Value]) -> Value:
        spaces = tuple(sorted({s for value in values for s in value.spaces}, key=lambda space: space.name))
        shapes = [(value.place, self._index(value, spaces)) for value in values]
        return self._add(lambda r: function(*(r[place][index] for place, index in shapes)), spaces,
                         any(value.moving for value in values), "elementwise", values, code)

    def _folded(self, function: Any, values: Sequence[Value]) -> Value:
        two, code = _FOLDED[function]
        whole = reduce(lambda text, k: code.format(text, f"{{{k}}}"), range(1, len(values)), "{0}")
        return self._elementwise(lambda *x: reduce(two, x), whole, values)

    @staticmethod
    def _index(value: Value, spaces: tuple[Space, ...]) -> tuple[Any, ...]:
        """The index that gives an array one axis for each of the spaces."""
        return (slice(None), *(slice(None) if space in value.spaces else None for space in spaces))

    def _sum(self, values: Sequence[Value]) -> Value:
        return values[0] if len(values) == 1 else self._folded(sp.Add, values)

    def _product(self, values: Sequence[Value]) -> Value:
        """Few particles' numbers first, large arrays last."""
        if len(values) == 1:
            return values[0]
        fixed = [value for value in values if not value.moving]
        if fixed and len(fixed) < len(values):
            values = [self._product(fixed), *(value for value in values if value.moving)]
        ordered = sorted(values, key=lambda value: len(value.spaces))
        return self._folded(sp.Mul, ordered)

    def _contract(self, term: sp.Expr, space: Space, turned: bool = False) -> Value:
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
            total = self._add(product, (other,), vector.moving, "product", (vector, matrix), turned=first)
        elif len(inside) == 2 and all(value.spaces == (space,) for value in inside):
            total = self._inner(*inside)
        else:
            whole = self._product(inside)
            axis, a = 1 + whole.spaces.index(space), whole.place
            total = self._add(lambda r: r[a].sum(axis=axis), (s for s in whole.spaces if s != space), whole.moving,
                              "sum", (whole,), "{}")
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

    def _sandwich(self, term: sp.Expr, space: Space) -> Value | None:
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

        def rows(value: Value, r: Register) -> Array:
            """An array of data with the space that is summed over last."""
            found: Array = r[value.place][0]
            return found.T if value.spaces[0] == space else found

        matrix = self._add(lambda r: (rows(left, r) @ rows(right, r).T)[None], (), False, "elementwise")
        return self._add(lambda r: r[vector.place] @ r[matrix.place][0], (other,), True, "product", (vector, matrix),
                         turned=True)

    def _inner(self, left: Value, right: Value) -> Value:
        a, b = (left, right) if left.moving else (right, left)
        j, k = a.place, b.place

        def run(r: Register) -> Array:
            if b.moving:
                return np.einsum("nk,nk->n", r[j], r[k])
            return r[j] @ r[k][0] if a.moving else np.array([r[j][0] @ r[k][0]])

        return self._add(run, (), a.moving, "sum", (a, b), "{} * {}")

    def _size(self, space: Space) -> Value:
        return self._walk(space.size)

    # ------------------------------------------------------------------------------------------- evaluation

    def bind(self, values: Mapping[str, Any]) -> Bound:
        """The plan at these data: what no particle enters is computed here, once."""
        registers: Register = [None] * len(self.steps)
        given = {place for _, place in self._inputs}
        for name, place in self._inputs:
            if name not in values and name in self._size_of:
                owner, axis = self._size_of[name]
                array = np.asarray(float(np.shape(values[owner])[axis]))
            else:
                array = np.asarray(values[name], dtype=float)
            registers[place] = array.transpose(self._orders.get(place, ()))[None] if array.ndim else array[None]
        for k in self.fixed:
            if k not in given:
                registers[k] = self.steps[k].run(registers)
        return Bound(self, registers)

    @cached_property
    def _code(self) -> BatchCode:
        return BatchCode(self, [key for key in sorted(self.places) if key != "energy"])

    @property
    def code(self) -> BatchCode:
        """An ``energy`` and its gradients, compiled when first asked for."""
        with self._lock:  # ensembles ask at the same time
            return self._code


class Bound:
    """A plan at given data."""

    def __init__(self, batch: Batch, registers: Register) -> None:
        self.batch, self.registers = batch, registers

    def __call__(self, fields: Sequence[Array]) -> dict[str, Array]:
        """The outputs for particles with these fields."""
        batch, r = self.batch, self.registers.copy()
        for place, index in batch.moving:
            r[place] = fields[index].transpose(0, *(1 + k for k in batch._orders[place]))
        for k in batch.live:
            if batch.steps[k].kind != "given":
                r[k] = batch.steps[k].run(r)
        n = len(fields[0])
        return {label: r[value.place] if value.moving else
                np.broadcast_to(r[value.place], (n, *r[value.place].shape[1:]))
                for label, value in batch.places.items()}

    @cached_property
    def motion(self) -> Motion:
        """An ``energy`` with its gradients as compiled code that moves particles."""
        return self.batch.code.bind(self.registers)


__all__ = ["Batch", "Bound", "Step", "Value"]
