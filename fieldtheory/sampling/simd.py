"""What Numba does not say to LLVM by itself: whole vector registers, the bits of a number,
constants of its precision, aligned arrays.

With these a plain loop over an array, in float32 or float64 alike, becomes a loop over vectors.
"""

from __future__ import annotations

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
