r"""Arithmetic for loops that LLVM turns into loops over vectors: what Numba does not say by itself, and e^x, erf, tanh.

What Numba does not say: whole vector registers, the bits of a number, constants of its precision, aligned arrays.
With these a plain loop over an array, in float32 or float64 alike, becomes a loop over vectors, and so it stays with
the functions here, which are arithmetic without branches.  Errors of e^x are relative, the others absolute, in float64
for arguments of any size: 4e-16, 6e-16, 7e-16.  NaN gives NaN and infinity its limit.

e^y is 2^n (1 + r q(r)) with n the integer nearest to y/ln 2, found by adding 1.5 x 2^52 (2^23), |r| <= ln(2)/2,
and q the near-minimax polynomial for (e^r - 1)/r (mpmath's chebyfit; relative errors 1e-17 and 4e-9).
erf(x) is 1 - e^(-x^2) R(x) for x >= 0, after W. J. Cody, "Rational Chebyshev approximations for the error function"
(Math. Comp. 1969), with the rational R(x) interpolating e^(x^2) erfc(x) on [0, 6] ([0, 4] in float32), R(0) = 1, at
points moved until erfc(x) times the relative error is level: 8e-17 and 2e-8. Beyond, erf is 1 to rounding.
tanh(x) = -t/(2 + t) with t = e^(-2x) - 1 for x >= 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

#: Sums may be reordered for speed; NaN and infinity keep their meaning, because the accept test must see them.
FAST = {"reassoc", "contract", "nsz"}
#: Nothing is reordered: for arithmetic that relies on how sums are rounded.
ORDERED = {"contract"}


def _use_whole_registers(typingctx: Any) -> Any:
    """Lets LLVM use 512-bit registers in the calling function, where the processor has them.

    By default LLVM halves them on many processors, for the sake of the scalar code around; the functions here
    are nothing but long loops.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # llvmlite refuses attributes that are not on its list; the set underneath prints whatever it holds.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


use_whole_registers: Any = intrinsic(_use_whole_registers)


def _reinterpret(source: Any, target: Any) -> Any:
    @intrinsic
    def reinterpret(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), codegen

    return reinterpret


_float64_bits, _float64_of = _reinterpret(types.float64, types.int64), _reinterpret(types.int64, types.float64)
_float32_bits, _float32_of = _reinterpret(types.float32, types.int32), _reinterpret(types.int32, types.float32)


def bits(x: Any) -> Any:
    """The bits of a floating-point number, as an integer of its size. Compiled code only."""
    raise NotImplementedError


def from_bits(n: Any) -> Any:
    """The floating-point number with these bits. Compiled code only."""
    raise NotImplementedError


def constant(value: float, like: Any) -> Any:
    """`value` in the precision of the number `like`. Compiled code only."""
    raise NotImplementedError


@overload(bits, strict=False)
def _bits(x: Any) -> Any:
    return (lambda x: _float32_bits(x)) if x == types.float32 else (lambda x: _float64_bits(x))


@overload(from_bits, strict=False)
def _from_bits(n: Any) -> Any:
    return (lambda n: _float32_of(n)) if n == types.int32 else (lambda n: _float64_of(n))


@overload(constant, strict=False)
def _constant(value: Any, like: Any) -> Any:
    if like == types.float32:
        return lambda value, like: np.float32(value)
    return lambda value, like: np.float64(value)


@njit
def aligned(rows: int, columns: int, like: Any) -> Any:
    """An array of zeros that begins at a cache line, in the precision of the array `like`."""
    spare = 64 // like.itemsize
    numbers = np.zeros(rows * columns + spare, like.dtype)
    first = (-numbers.ctypes.data % 64) // like.itemsize
    return numbers[first : first + rows * columns].reshape(rows, columns)


def polynomial(*coefficients: float) -> Any:
    """The compiled function z -> c0 + c1 z + c2 z^2 + ..., in the precision of z, by Horner's rule."""
    wide = coefficients[::-1]

    @njit(fastmath=ORDERED)
    def evaluate(z: Any) -> Any:
        total = constant(wide[0], z)
        for c in wide[1:]:
            total = total * z + constant(c, z)
        return total

    return evaluate


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


def halves(y: Any) -> Any:
    """(2^n, r q(r)) with e^y = 2^n (1 + r q(r)); within the range of :func:`bounded`. Compiled code only."""
    raise NotImplementedError


def tail(x: Any) -> Any:
    """e^(x^2) erfc(x) for x >= 0, as far as erfc matters. Compiled code only."""
    raise NotImplementedError


def _least(y: Any) -> Any:
    raise NotImplementedError


@overload(_least, strict=False)
def _least_by_precision(y: Any) -> Any:
    return (lambda y: np.float32(-87.0)) if y == types.float32 else (lambda y: -708.0)


@overload(halves, strict=False)
def _halves_by_precision(y: Any) -> Any:
    return (lambda y: _halves32(y)) if y == types.float32 else (lambda y: _halves64(y))


@overload(tail, strict=False)
def _tail_by_precision(x: Any) -> Any:
    return (lambda x: _tail32(x)) if x == types.float32 else (lambda x: _tail64(x))


@njit(fastmath=ORDERED, error_model="numpy")
def bounded(y: Any) -> Any:
    """y, but not where e^y is no normal number; written so that NaN passes."""
    least = _least(y)
    return least if y < least else y


@njit(cache=True, forceinline=True, fastmath=ORDERED, error_model="numpy")
def exponential(y: float) -> float:
    """e^y; zero below the normal numbers, infinity beyond 709.4."""
    scale, rest = halves(bounded(709.4 if y > 709.4 else y))
    value = scale + scale * rest
    value = 0.0 if y < -708.0 else value
    return math.inf if y > 709.4 else value


@njit(cache=True, forceinline=True, fastmath=ORDERED, error_model="numpy")
def error_function(x: float) -> float:
    """erf x."""
    scale, rest = halves(bounded(-(x * x)))
    return math.copysign(1.0 - (scale + scale * rest) * tail(abs(x)), x)


@njit(cache=True, forceinline=True, fastmath=ORDERED, error_model="numpy")
def hyperbolic_tangent(x: float) -> float:
    """tanh x."""
    scale, rest = halves(bounded(-2.0 * abs(x)))
    t = scale * rest + (scale - 1.0)
    return math.copysign(-t / (2.0 + t), x)
