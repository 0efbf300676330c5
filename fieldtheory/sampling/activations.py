r"""Activations and their derivatives over vectors: phi and phi' of every entry, in place.

Each is one loop over vectors in the precision of the array, float64 or float32; erf and tanh get value and slope
from one exponential. Errors are absolute, for arguments of any size:

               float64              float32
    erf        6e-16                2.2e-7
    tanh       7e-16                3.5e-7

NaN gives NaN and infinity its limit, so that an accept test sees a chain that has left the finite numbers.

e^y is 2^n (1 + r q(r)) with n the integer nearest to y/ln 2, found by adding 1.5 x 2^52 (2^23), |r| <= ln(2)/2,
and q the near-minimax polynomial for (e^r - 1)/r (mpmath's chebyfit; relative errors 1e-17 and 4e-9).
erf(x) is 1 - e^(-x^2) R(x) for x >= 0, after W. J. Cody, "Rational Chebyshev approximations for the error function"
(Math. Comp. 1969), with the rational R(x) interpolating e^(x^2) erfc(x) on [0, 6] ([0, 4] in float32), R(0) = 1, at
points moved until erfc(x) times the relative error is level: 8e-17 and 2e-8. Beyond, erf is 1 to rounding.
tanh(x) = -t/(2 + t) with t = e^(-2x) - 1 for x >= 0.
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
from numba.extending import overload
from numpy.typing import NDArray

from fieldtheory.errors import BadInput
from fieldtheory.sampling.simd import ORDERED, bits, constant, from_bits, polynomial, use_whole_registers

Array = NDArray[Any]

_exponential64 = polynomial(
    1.0, 0.5000000000000005617, 0.1666666666666667099, 0.04166666666657314261, 0.008333333333326140884,
    1.388888893248859818e-3, 1.984126987480049198e-4, 2.480150434699768726e-5, 2.755725542574643428e-6,
    2.762635724144722286e-7, 2.510520637395701112e-8,
)
_exponential32 = polynomial(
    1.00000001077, 0.500000001346, 0.166665052604, 0.041666465006, 0.00836914849086, 0.0013933641032
)
_numerator64 = polynomial(
    1.0, 1.424910117872829326, 1.023298663309259668, 0.4389829734872484357, 0.1170042925217103235,
    0.01824074701294579519, 0.001303869815085049483,
)
_denominator64 = polynomial(
    1.0, 2.553289284968357112, 2.904377100034728137, 1.915185079674278521, 0.7944010950777537413,
    0.2085235259048300848, 0.03233203247102320109, 0.002311010205399815249,
)
_numerator32 = polynomial(1.0, 0.5196612969, 0.1383288999, -0.0008501407077)
_denominator32 = polynomial(1.0, 1.648041945, 0.9979110855, 0.2296407606)


@njit(fastmath=ORDERED, error_model="numpy")
def _halves64(y: Any) -> Any:
    """(2^n, r q(r)) with e^y = 2^n (1 + r q(r)), for -708 <= y <= 0."""
    n = y * 1.4426950408889634 + 6755399441055744.0
    scale = from_bits((bits(n) + 1023) << 52)
    n -= 6755399441055744.0
    r = y - n * 0.6931471803691238 - n * 1.9082149292705877e-10
    return scale, r * _exponential64(r)


@njit(fastmath=ORDERED, error_model="numpy")
def _halves32(y: Any) -> Any:
    """The same for -87 <= y <= 0."""
    n = y * np.float32(1.44269504) + np.float32(12582912.0)
    scale = from_bits(np.int32((bits(n) + 127) << 23))
    n -= np.float32(12582912.0)
    r = y - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    return scale, r * _exponential32(r)


@njit(fastmath=ORDERED, error_model="numpy")
def _tail64(x: Any) -> Any:
    """e^(x^2) erfc(x), held from x = 6 on; written so that NaN passes."""
    x = 6.0 if x > 6.0 else x
    return _numerator64(x) / _denominator64(x)


@njit(fastmath=ORDERED, error_model="numpy")
def _tail32(x: Any) -> Any:
    x = np.float32(4.0) if x > np.float32(4.0) else x
    return _numerator32(x) / _denominator32(x)


def _halves(y: Any) -> Any:
    raise NotImplementedError


def _tail(x: Any) -> Any:
    raise NotImplementedError


def _least(y: Any) -> Any:
    raise NotImplementedError


@overload(_least, strict=False)
def _least_by_precision(y: Any) -> Any:
    return (lambda y: np.float32(-87.0)) if y == types.float32 else (lambda y: -708.0)


@overload(_halves, strict=False)
def _halves_by_precision(y: Any) -> Any:
    return (lambda y: _halves32(y)) if y == types.float32 else (lambda y: _halves64(y))


@overload(_tail, strict=False)
def _tail_by_precision(x: Any) -> Any:
    return (lambda x: _tail32(x)) if x == types.float32 else (lambda x: _tail64(x))


@njit(fastmath=ORDERED, error_model="numpy")
def _bounded(y: Any) -> Any:
    """y, but not where e^y is no normal number; written so that NaN passes."""
    least = _least(y)
    return least if y < least else y


def _identity(h: Array, slope: Array) -> None:
    use_whole_registers()
    for k in range(h.size):
        slope[k] = constant(1.0, h[k])


def _erf(h: Array, slope: Array) -> None:
    use_whole_registers()
    for k in range(h.size):
        x = h[k]
        scale, tail = _halves(_bounded(-(x * x)))
        exponential = scale + scale * tail
        slope[k] = constant(2.0 / math.sqrt(math.pi), x) * exponential
        h[k] = np.copysign(constant(1.0, x) - exponential * _tail(abs(x)), x)


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
        scale, tail = _halves(_bounded(-two * abs(x)))
        t = scale * tail + (scale - one)
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
