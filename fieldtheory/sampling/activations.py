r"""Activations and their derivatives over vectors: phi and phi' of every entry, in place.

Each is one loop over vectors in the precision of the array, float64 or float32; erf and tanh get value and slope
from one exponential. Errors are absolute, for arguments of any size:

               float64              float32
    erf        6e-16                2.2e-7
    tanh       7e-16                3.5e-7

NaN gives NaN and infinity its limit, so that an accept test sees a chain that has left the finite numbers.

How e^y, erf and tanh are made of plain arithmetic is said in :mod:`fieldtheory.vectormath`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache
from types import FunctionType
from typing import Any

import numpy as np
from numba import cfunc, njit, types
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from fieldtheory.errors import BadInput
from fieldtheory.vectormath import ORDERED, bounded, constant, halves, tail, use_whole_registers

Array = NDArray[Any]


def _identity(h: Array, slope: Array) -> None:
    use_whole_registers()
    for k in range(h.size):
        slope[k] = constant(1.0, h[k])


def _erf(h: Array, slope: Array) -> None:
    use_whole_registers()
    for k in range(h.size):
        x = h[k]
        scale, rest = halves(bounded(-(x * x)))
        exponential = scale + scale * rest
        slope[k] = constant(2.0 / math.sqrt(math.pi), x) * exponential
        h[k] = np.copysign(constant(1.0, x) - exponential * tail(abs(x)), x)


def _relu(h: Array, slope: Array) -> None:
    use_whole_registers()
    for k in range(h.size):
        x = h[k]
        zero, one = constant(0.0, x), constant(1.0, x)
        slope[k] = one if x > zero else zero
        h[k] = zero if x < zero else x


def _tanh(h: Array, slope: Array) -> None:
    use_whole_registers()
    for k in range(h.size):
        x = h[k]
        one, two = constant(1.0, x), constant(2.0, x)
        scale, rest = halves(bounded(-two * abs(x)))
        t = scale * rest + (scale - one)
        value = -t / (two + t)
        slope[k] = (one - value) * (one + value)
        h[k] = np.copysign(value, x)


def _quadratic(h: Array, slope: Array) -> None:
    use_whole_registers()
    for k in range(h.size):
        x = h[k]
        slope[k] = x + x
        h[k] = x * x


ACTIVATIONS: dict[str, Callable] = {
    "identity": _identity,
    "erf": _erf,
    "relu": _relu,
    "tanh": _tanh,
    "quadratic": _quadratic,
}


def number_type(dtype: Any) -> Any:
    """Numba's type of a precision; BadInput for any but float32 and float64."""
    name = np.dtype(dtype).name
    if name not in ("float32", "float64"):
        raise BadInput("dtype", name, "float32 or float64")
    return getattr(types, name)


def activation_type(dtype: Any) -> Any:
    """(pre-activations, overwritten by phi; slopes, overwritten by phi'), of one precision."""
    vector = number_type(dtype)[::1]
    return types.void(vector, vector)


@cache
def named_activation(name: str, dtype: Any = np.float64) -> Any:
    """The compiled activation of that name and precision."""
    return cfunc(activation_type(dtype), cache=True, error_model="numpy", fastmath=ORDERED)(ACTIVATIONS[name])


def _within_function(function: Callable) -> Any:
    """Compiled as part of one: Numba takes np.tanh or math.tanh inside a function only, and any of our own there."""
    inner = njit(function) if isinstance(function, FunctionType) else function
    return njit(lambda h: inner(h))


@lru_cache(maxsize=32)
def custom_activation(functions: tuple[Callable, ...], dtype: Any = np.float64) -> Any:
    """The compiled activation made of a pair (phi, its derivative) of functions of one number."""
    value, derivative = (f if hasattr(f, "py_func") else _within_function(f) for f in functions)

    def activate(h: Array, slope: Array) -> None:
        for k in range(h.size):
            slope[k] = derivative(h[k])
            h[k] = value(h[k])

    try:
        return cfunc(activation_type(dtype), error_model="numpy")(activate)
    except NumbaError as error:
        raise BadInput(
            "activation_functions",
            f"functions Numba cannot compile ({str(error).splitlines()[0]})",
            "a pair (phi, its derivative), each taking and returning one number",
        ) from error
