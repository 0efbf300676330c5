"""Random sizes and values for everything that stands in the expressions of a step: where a check compares them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.symbolic.fields import Entry, Space
from fieldtheory.symbolic.rules import Step

Seen = dict[sp.Symbol, set[int]]
"""Sizes used by earlier draws."""
Generator = np.random.Generator
Values = dict[sp.Basic, Any]

BUDGET = 3
"""Real components integrated at once."""


def expressions(steps: Iterable[Step], more: Iterable[sp.Basic]) -> Iterator[sp.Basic]:
    for step in steps:
        for action in (step.before, step.after):
            yield action.expr
            yield from action.fields
        yield from step.details.values()
    yield from map(sp.sympify, more)


def size_symbols(steps: Iterable[Step], more: Iterable[sp.Basic]) -> frozenset[sp.Symbol]:
    """Symbols that are the size of some space somewhere in the derivation, and so are always integers."""
    spaces = {space for expr in expressions(steps, more) for space in expr.atoms(Space)}
    return frozenset(symbol for space in spaces for symbol in space.size.free_symbols)


def _with(expr: sp.Expr, sizes: Mapping[sp.Symbol, int]) -> sp.Expr:
    return expr.xreplace({symbol: sp.Integer(n) for symbol, n in sizes.items()})


def draw_sizes(integrated: Sequence[sp.Basic], symbols: frozenset[sp.Symbol], rng: Generator,
                seen: Seen) -> dict[sp.Symbol, int]:
    """Random sizes of 2 to 4, such that at most BUDGET real components are integrated over.

    A draw avoids the sizes that earlier ones have ``seen``, so that together they see several components along
    every space, and no size twice that happens to hide an error (Γ(1) = Γ(2)).
    """
    count = sp.Add(*(sp.Mul(*(space.size for space in getattr(f, "spaces", ()))) for f in integrated))
    bound = sorted(count.free_symbols & symbols, key=str)
    options = [dict(zip(bound, sizes)) for sizes in product(range(1, BUDGET + 1), repeat=len(bound))]
    options = [option for option in options if _with(count, option) <= BUDGET]
    if not options:
        raise RuleError(f"{count} components are too many to integrate over (at most {BUDGET})")
    options = [options[i] for i in rng.permutation(len(options))]
    new = [(sum(n > 1 and max(seen.get(s, {1})) == 1 for s, n in option.items()),
            sum(n > 1 and n not in seen.get(s, ()) for s, n in option.items()),
            sum(n > 1 for n in option.values())) for option in options]
    sizes = dict(options[new.index(max(new))])
    for symbol in sorted(symbols - set(sizes), key=str):
        left = sorted({2, 3, 4} - seen.get(symbol, set()))
        sizes[symbol] = int(rng.choice(left or [2, 3, 4]))
    for symbol, size in sizes.items():
        seen.setdefault(symbol, set()).add(size)
    return sizes


def draw(exprs: Iterable[sp.Basic], sizes: Mapping[sp.Symbol, int], rng: Generator, *,
          tilt: bool = False) -> Values:
    """Random values for all in some expressions: imaginary fields at i t (with ``tilt``, off the axis)."""
    values: Values = dict(sizes)
    exprs = list(exprs)
    symbols = {s for expr in exprs for s in expr.free_symbols | expr.atoms(sp.Symbol)}
    symbols |= {s for expr in exprs for space in expr.atoms(Space) for s in space.size.free_symbols}
    for symbol in sorted(symbols - set(sizes), key=lambda s: (s.name, sp.srepr(s))):
        if symbol.is_integer:
            values[symbol] = int(rng.integers(2, 5))
        elif symbol.is_nonnegative:
            values[symbol] = rng.uniform(0.6, 1.8)
        else:
            values[symbol] = -rng.uniform(0.6, 1.8) if symbol.is_negative else rng.normal()
    entries = {entry for expr in exprs for entry in expr.atoms(Entry)}
    for entry in sorted(entries, key=sp.default_sort_key):
        shape = tuple(int(_with(space.size, sizes)) for space in entry.spaces)
        if entry.domain in ("positive", "spectrum"):
            values[entry] = rng.uniform(0.4, 1.8, shape)
        elif entry.domain == "imaginary":
            real = rng.normal(scale=0.8, size=shape) if tilt else 0.0
            values[entry] = real + 1j * rng.normal(scale=0.6, size=shape)
        else:
            values[entry] = rng.normal(scale=1.0 if entry.is_data else 0.7, size=shape)
    return values
