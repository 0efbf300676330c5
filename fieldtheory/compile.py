"""Expressions over spaces -> Numba source on disk -> Kernel.

A kernel evaluates closed expressions (numbers) and expressions open in one space (vectors) that share
their sums, in O(size) for each space and nesting depth (`symbolic.lowering` writes the loops).  Nothing here
knows a theory, and no text is ever evaluated: the source is a file named by its hash, and is imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import mpmath
import numpy as np
import sympy as sp
from sympy.core.relational import Relational

from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.files import write_atomically
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, open_spaces
from fieldtheory.symbolic.lowering import lower

# ----------------------------------------------------------------------------------------------------------
# From source to a compiled function

def cache_directory() -> Path:
    """Where modules live: FIELDTHEORY_CACHE_DIR, else fieldtheory/ in XDG_CACHE_HOME, else in ~/.cache."""
    if chosen := os.environ.get("FIELDTHEORY_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fieldtheory"


def _write(folder: Path, filename: str, source: str) -> Path:
    """Write a module, but leave an identical one alone: Numba's cache goes by its time stamp."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / filename
    return path if path.exists() and path.read_bytes() == source.encode() else write_atomically(path, source)


def import_source(function: str, source: str) -> tuple[Path, Callable[..., Any]]:
    """A function of a module made of this text, and where it lies; modules are named by their hash."""
    module_name = f"{function}_{hashlib.sha256(source.encode()).hexdigest()}"
    try:
        path = _write(cache_directory(), f"{module_name}.py", source)
    except (OSError, RuntimeError) as error:
        folder = Path(tempfile.mkdtemp(prefix="fieldtheory-"))
        warnings.warn(f"cache directory not usable ({error}); using {folder} for this run", stacklevel=3)
        path = _write(folder, f"{module_name}.py", source)
    module: ModuleType | None = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    return Path(module.__file__ or path), getattr(module, function)


class Reference(NamedTuple):
    """A value at many digits, and the sum of the absolute values of its terms (see `Kernel.reference`)."""

    value: Any
    scale: Any


@dataclass(frozen=True, eq=False)
class Kernel:
    """A compiled function of named numbers and arrays; made by `compile_kernel`.

    Attributes
    ----------
    source, path
        The generated module: its text and where it lies.
    outputs
        The SymPy expression of each output, in the order in which `raw` returns them.
    raw
        The jitted function for hot loops: arguments by position (``arguments`` names them: scalars, then
        entries, float64 and C-contiguous), a tuple of all outputs back.  It checks only that lengths agree.
    """

    name: str
    outputs: Mapping[str, sp.Expr]
    scalars: tuple[sp.Symbol | Entry, ...]
    entries: tuple[Entry, ...]
    source: str = field(repr=False)
    path: Path = field(repr=False)
    raw: Callable[..., tuple[Any, ...]] = field(repr=False)

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(argument.name for argument in (*self.scalars, *self.entries))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (dict(self.outputs), self.scalars, self.entries, self.name)

    def __call__(self, /, **values: Any) -> dict[str, Any]:
        """All outputs by name, numbers as float and vectors as float64 arrays.

        Raises
        ------
        BadInput
            An argument missing, unknown, not a number, or of a shape at odds with the others.
        """
        results = self.raw(*self._checked(values, self.arguments).values())
        return dict(zip(self.outputs, results, strict=True))

    def bind(self, *free: str, **values: Any) -> Callable[..., tuple[Any, ...]]:
        """A function of the ``free`` scalars alone: everything else is checked and converted once, here.

        It returns the tuple of all outputs, at the cost of `raw`.
        """
        names = self.arguments
        numbers = {scalar.name for scalar in self.scalars}
        for name in free:
            if name not in numbers:
                raise UnknownName("free", name, numbers)
        held = self._checked(values, [name for name in names if name not in free])
        raw = self.raw
        if free == names[: len(free)]:
            rest = tuple(held.values())
            return lambda *numbers: raw(*numbers, *rest)
        given = [held.get(name) for name in names]
        places = [names.index(name) for name in free]

        def bound(*numbers: float) -> tuple[Any, ...]:
            arguments = given.copy()
            for place, number in zip(places, numbers, strict=True):
                arguments[place] = number
            return raw(*arguments)

        return bound

    def _checked(self, values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """Arguments in positional order, converted; the sizes of spaces must agree wherever they appear."""
        if unknown := sorted(set(values) - set(names)):
            raise UnknownName("argument", unknown[0], names)
        if missing := [name for name in names if name not in values]:
            raise BadInput(missing[0], "nothing", f"values for {', '.join(names)}")
        checked: dict[str, Any] = {}
        sizes: dict[Space, tuple[int, str]] = {}
        for argument in (*self.scalars, *self.entries):
            if (name := argument.name) not in values:
                continue
            spaces = argument.spaces if isinstance(argument, Entry) else ()
            try:
                value = values[name]
                checked[name] = np.asarray(value, dtype=np.float64, order="C") if spaces else float(value)
            except (TypeError, ValueError):
                wanted = "a real array" if spaces else "a real number"
                raise BadInput(name, type(values[name]).__name__, wanted) from None
            shape = np.shape(checked[name])
            if len(shape) != len(spaces):
                raise BadInput(name, f"shape {shape}", f"axes {', '.join(space.name for space in spaces)}")
            for space, length in zip(spaces, shape, strict=True):
                known, owner = sizes.setdefault(space, (length, name))
                if known != length:
                    raise BadInput(name, f"shape {shape}", f"{known} along {space.name}, as in {owner}")
        for space, (length, owner) in sizes.items():
            size = checked.get(space.size.name) if space.size in self.scalars else space.size
            if isinstance(size, float | sp.Integer) and size != length:
                raise BadInput(owner, f"{length} entries over {space.name}", f"{space.size} = {size}")
        return checked

    def reference(self, values: Mapping[str, Any], digits: int = 30) -> dict[str, Reference]:
        """The same expressions evaluated with mpmath by walking the trees: the witness for the compiled code.

        ``scale`` is the sum of the absolute values of an output's terms, everything multiplied out; a
        function h(x) counts as |h(x)| + |h'(x)| scale(x), since no arithmetic resolves x better than that.
        Rounding errors are multiples of it.  Vectors are object arrays.  An operation costs about 10 µs.
        """
        checked = self._checked(values, self.arguments)
        with mpmath.workdps(digits + 5):
            walk = _Walk({a: checked[a.name] for a in (*self.scalars, *self.entries)})
            found = {}
            for label, expr in self.outputs.items():
                free = tuple(open_spaces(expr))
                points = [{free[0]: k} for k in range(walk.sizes[free[0]])] if free else [{}]
                pairs = [walk(expr, point) for point in points]
                columns = zip(*pairs, strict=True) if pairs else ((), ())
                vectors = (np.array(column, dtype=object) for column in columns)
                found[label] = Reference(*vectors) if free else Reference(*pairs[0])
        return found


def _rebuild(outputs: Mapping[str, sp.Expr], scalars: Sequence[sp.Symbol | Entry], entries: Sequence[Entry],
             name: str) -> Kernel:
    return compile_kernel(outputs, scalars=scalars, entries=entries, name=name)


def compile_kernel(outputs: Mapping[str, sp.Expr], *, scalars: Sequence[sp.Symbol | Entry],
                   entries: Sequence[Entry] = (), name: str = "kernel") -> Kernel:
    """Compile expressions, each closed (a number) or open in one space (a vector), into one function.

    Parameters
    ----------
    outputs
        Expression by name: +, *, powers, sqrt, log, loggamma, exp, erf, sin, cos, tanh, asin, Abs, Max, Min,
        sign, Heaviside and Piecewise of the arguments, and sums over spaces, nested at will.
    scalars, entries
        The arguments: numbers, then arrays over one or two spaces.  A symbol that is the size of a space and
        is not listed is taken from the shape of the arrays.

    The same input gives the same source, byte for byte, in every process, and other names change nothing but
    names.  Machine code is kept in `cache_directory()`, so that a second process pays milliseconds.

    Raises
    ------
    RuleError
        A function that is not listed above, or a value open in two spaces.
    BadInput
        A symbol or an array that the expressions use but the arguments lack, or two arguments of one name.
    """
    arguments = (*scalars, *entries)
    for argument in arguments:
        if not isinstance(argument, sp.Symbol | Entry):
            raise BadInput("scalars, entries", argument, "symbols and entries")
        rank = len(argument.spaces) if isinstance(argument, Entry) else 0
        if rank > 2 or (argument in tuple(scalars)) != (rank == 0):
            raise BadInput("scalars, entries", argument, "scalars without axes, entries with one or two")
        if isinstance(argument, Entry) and argument.domain == "imaginary":
            raise BadInput("entries", argument, "real arrays")
    if twice := sorted({a.name for a in arguments if sum(b.name == a.name for b in arguments) > 1}):
        raise BadInput("scalars, entries", f"two arguments called {twice[0]!r}", "distinct names")
    if not outputs:
        raise BadInput("outputs", "nothing", "at least one expression")
    exprs = {str(label): sp.sympify(expr) for label, expr in outputs.items()}
    spaces = {space for entry in entries for space in entry.spaces}
    known = {*arguments, *(space.size for space in spaces)}
    for label, expr in exprs.items():
        for atom in sorted(_free(expr) - known, key=lambda atom: atom.name):
            alike = " (other assumptions)" if any(a.name == atom.name for a in arguments) else ""
            raise BadInput("entries" if isinstance(atom, Entry) and atom.spaces else "scalars",
                           ", ".join(a.name for a in arguments), f"{atom.name} as well, in {label!r}{alike}")
    function, source = lower(exprs, scalars, entries, name)
    path, raw = import_source(function, source)
    return Kernel(name, MappingProxyType(exprs), tuple(scalars), tuple(entries), source, path, raw)


def _free(expr: sp.Basic) -> set[Any]:
    """Symbols and entries an expression uses, the sizes of bound spaces not counted."""
    if isinstance(expr, sp.Symbol | Entry):
        return {expr}
    if isinstance(expr, SpaceSum):
        return _free(expr.body)
    return set().union(*(_free(arg) for arg in expr.args))


# ----------------------------------------------------------------------------------------------------------
# The witness

_MP_CALLS: Mapping[type, Callable[..., Any]] = {
    sp.log: mpmath.log, sp.loggamma: mpmath.loggamma, sp.exp: mpmath.exp, sp.erf: mpmath.erf,
    sp.sin: mpmath.sin, sp.cos: mpmath.cos, sp.tanh: mpmath.tanh, sp.asin: mpmath.asin,
    sp.Abs: abs, sp.sign: mpmath.sign,
    sp.Heaviside: lambda x, half: half if x == 0 else mpmath.mpf(x > 0),
}
_MP_SLOPES: Mapping[type, Callable[[Any], Any]] = {
    sp.log: lambda x: 1 / x, sp.loggamma: mpmath.digamma, sp.exp: mpmath.exp,
    sp.erf: lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x), sp.sin: mpmath.cos, sp.cos: mpmath.sin,
    sp.tanh: lambda x: mpmath.sech(x) ** 2, sp.asin: lambda x: (1 - x * x) ** -0.5,
    sp.Abs: lambda x: 1, sp.sign: lambda x: 0, sp.Heaviside: lambda x: 0,
}


class _Walk:
    """(value, scale) of an expression at one point of its open spaces, recursively."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        self.values: dict[Any, Any] = {}
        self.sizes: dict[Space, int] = {}
        for argument, value in values.items():
            for space, length in zip(getattr(argument, "spaces", ()), np.shape(value), strict=True):
                self.sizes[space] = length
            self.values[argument] = value if np.shape(value) else mpmath.mpf(value)
        for space, length in self.sizes.items():
            self.values.setdefault(space.size, mpmath.mpf(length))
        self.memo: dict[Any, tuple[Any, Any]] = {}
        self.open: dict[Any, tuple[Space, ...]] = {}

    def __call__(self, expr: Any, point: Mapping[Space, int]) -> tuple[Any, Any]:
        if expr not in self.open:
            self.open[expr] = tuple(open_spaces(expr))
        place = (expr, *(point[space] for space in self.open[expr]))
        if place not in self.memo:
            self.memo[place] = self.evaluate(expr, point)
        return self.memo[place]

    def evaluate(self, expr: Any, point: Mapping[Space, int]) -> tuple[Any, Any]:
        if isinstance(expr, sp.Symbol) or (isinstance(expr, Entry) and not expr.spaces):
            return self.values[expr], abs(self.values[expr])
        if isinstance(expr, Entry):
            value = mpmath.mpf(float(self.values[expr][tuple(point[space] for space in expr.spaces)]))
            return value, abs(value)
        if expr.is_Rational:
            value = mpmath.mpf(int(expr.p)) / int(expr.q)
            return value, abs(value)
        if expr.is_Number or expr.is_NumberSymbol:
            value = mpmath.mpmathify(expr.evalf(mpmath.mp.dps))
            return value, abs(value)
        if isinstance(expr, SpaceSum):
            pairs = [self(expr.body, {**point, expr.space: k}) for k in range(self.sizes[expr.space])]
            return mpmath.fsum(v for v, _ in pairs), mpmath.fsum(s for _, s in pairs)
        if isinstance(expr, sp.Piecewise):
            holds = (value for value, condition in expr.args if self.holds(condition, point))
            return self(next(holds, sp.nan), point)
        pairs = [self(arg, point) for arg in expr.args]
        values, scales = zip(*pairs, strict=True)
        if expr.is_Add:
            return mpmath.fsum(values), mpmath.fsum(scales)
        if expr.is_Mul:
            return mpmath.fprod(values), mpmath.fprod(scales)
        if expr.is_Pow:
            (base, power), (base_scale, power_scale) = values, scales
            value = base**power
            if expr.exp.is_Integer and expr.exp > 0:
                return value, base_scale**power
            spread = power_scale * base_scale / abs(base)
            if not expr.exp.is_Number:
                spread += abs(mpmath.log(abs(base))) * power_scale
            return value, abs(value) * (1 + spread)
        if isinstance(expr, sp.Max | sp.Min):
            return (max if isinstance(expr, sp.Max) else min)(values), max(scales)
        if expr.func in _MP_CALLS:
            value = _MP_CALLS[expr.func](*values)
            return value, abs(value) + abs(_MP_SLOPES[expr.func](values[0])) * scales[0]
        raise RuleError(f"{expr.func.__name__} cannot be evaluated")

    def holds(self, condition: Any, point: Mapping[Space, int]) -> bool:
        if isinstance(condition, sp.And | sp.Or):
            every = all if isinstance(condition, sp.And) else any
            return every(self.holds(arg, point) for arg in condition.args)
        if isinstance(condition, Relational):
            left, right = (self(side, point)[0] for side in condition.args)
            return bool({">": left > right, ">=": left >= right, "<": left < right, "<=": left <= right,
                         "==": left == right, "!=": left != right}[condition.rel_op])
        return condition == sp.true
