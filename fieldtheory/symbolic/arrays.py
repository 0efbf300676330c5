"""Products of matrices and vectors read as what they are: sums over a space, a function of a spectrum pointwise.

`fieldtheory.symbolic.matrixform` goes the other way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp

from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, open_spaces


@dataclass(frozen=True)
class Array:
    """A matrix (``rows``, ``columns``), a vector (``columns`` None) or its transpose (``rows`` None).

    ``body`` is open in its spaces; ``coefficient`` multiplies it from outside of any sum. A ``diagonal`` one is a
    function of the matrix whose spectrum stands in the body, and a scalar added to it a multiple of the identity.
    """

    rows: Space | None
    columns: Space | None
    body: sp.Expr
    coefficient: sp.Expr = sp.S.One
    diagonal: bool = False

    @classmethod
    def of(cls, entry: Entry) -> Array:
        """A vector or matrix of data or fields."""
        rows, *more = entry.spaces
        if len(more) > 1:
            raise ValueError(f"indices of {entry.name}, which has more than two")
        return cls(rows, more[0] if more else None, entry)

    @classmethod
    def function(cls, spectrum: Entry) -> Array:
        return cls(spectrum.spaces[0], spectrum.spaces[0], spectrum, diagonal=True)

    @property
    def spaces(self) -> tuple[Space, ...]:
        return tuple(space for space in (self.rows, self.columns) if space is not None)

    def value(self) -> sp.Expr:
        return self.coefficient * self.body

    def inside(self) -> Array:
        """With the coefficient in the body, where no sum could catch it."""
        if open_spaces(self.coefficient) & set(self.spaces):
            raise ValueError("a coefficient that does not depend on the index of the vector beside it")
        return replace(self, body=self.value(), coefficient=sp.S.One)

    def map(self, function: Callable[[sp.Expr], Any]) -> Array:
        if not self.diagonal:
            raise ValueError("a function of a square matrix")
        held = self.inside()
        return replace(held, body=function(held.body))

    def trace(self, function: Callable[[sp.Expr], Any] = lambda body: body) -> sp.Expr:
        assert self.rows is not None
        return SpaceSum(self.map(function).body, self.rows)


def multiply(left: Any, right: Any) -> Any:
    """The product; ValueError (what was expected) where the two do not fit."""
    if not isinstance(left, Array) and not isinstance(right, Array):
        return left * right
    if not isinstance(left, Array):
        return replace(right, coefficient=left * right.coefficient)
    if not isinstance(right, Array):
        return replace(left, coefficient=left.coefficient * right)
    if left.columns is None or left.columns != right.rows:
        raise ValueError("a factor that the matrix or vector before it can be multiplied with")
    coefficient, body = left.coefficient * right.coefficient, left.body * right.body
    if left.diagonal:
        return replace(right, body=body, coefficient=coefficient)
    if right.diagonal:
        return replace(left, body=body, coefficient=coefficient)
    if left.columns in (left.rows, right.columns):
        raise ValueError("a product with no more than one index over a space")
    total = SpaceSum(body, left.columns)
    if left.rows is None and right.columns is None:
        return coefficient * total
    return Array(left.rows, right.columns, total, coefficient)


def add(left: Any, right: Any) -> Any:
    """The sum; ValueError (what was expected) where the two are not alike."""
    if not isinstance(left, Array) and not isinstance(right, Array):
        return sp.Add(left, right)
    for one, other in ((left, right), (right, left)):
        if not isinstance(one, Array):
            if not other.diagonal:
                if one == 0:
                    return other
                raise ValueError("a vector or matrix, to be added to another one")
            if open_spaces(one) & set(other.spaces):
                raise ValueError("a scalar, to be added to a matrix")
            return other.map(lambda body, scalar=one: body + scalar)
    if (left.rows, left.columns, left.diagonal) != (right.rows, right.columns, right.diagonal):
        raise ValueError("vectors or matrices of one shape")
    return replace(left.inside(), body=left.inside().body + right.inside().body)


def power(base: Any, exponent: Any) -> Any:
    if isinstance(exponent, Array) or not isinstance(exponent, sp.Expr):
        raise ValueError("an exponent that is a scalar")
    return base.map(lambda body: body**exponent) if isinstance(base, Array) else base**exponent


def transposed(value: Any) -> Array:
    if not isinstance(value, Array):
        raise ValueError("a vector or matrix before the sign of transposition")
    return replace(value, rows=value.columns, columns=value.rows)
