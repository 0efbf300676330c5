"""Matrix products without packing, for matrices that stay in cache.

A library's product copies both factors into an order of its own first. With the small inner sizes of a network's
gradient that copy costs a good part of the product, so here the factors are taken as they lie, row by row: a tile
of C = A B, some rows times some vectors of columns, is held in registers, and for each k the entries A[i, k] are
spread over a vector each and multiplied with the vectors B[k, :]. The number of columns must be a multiple of
`lanes(dtype)`; callers pad with zeros.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fieldtheory.vectormath import ORDERED, use_whole_registers

# Bytes of a vector register, and rows of a tile of up to three vectors: its sums fill 24 of 32 registers, or 12 of 16.
_BYTES, _ROWS = (64, 8) if llvmlite.binding.get_host_cpu_features().get("avx512f") else (32, 4)


def lanes(dtype: Any) -> int:
    """Numbers of this type in a vector register."""
    return _BYTES // np.dtype(dtype).itemsize


@njit
def padded(columns: int, like: Any) -> int:
    """The number of columns, filled up to whole vectors of the precision of the array `like`."""
    size = _BYTES // like.itemsize
    return (columns + size - 1) // size * size


def _tile(rows: int, vectors: int, add: bool) -> Any:
    """The compiled tile(A, B, C, i, j): C[i:i+rows, j:j+width] = (or +=) A[i:i+rows] B[:, j:j+width]."""

    @intrinsic
    def tile(typingctx: Any, A: Any, B: Any, C: Any, i: Any, j: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            a, b, c = (context.make_array(kind)(context, builder, arg) for kind, arg in zip(kinds, args[:3]))
            i, j = (context.cast(builder, n, kind, types.intp) for n, kind in zip(args[3:], kinds[3:]))
            number = context.get_value_type(C.dtype)
            bytes_each = context.get_abi_sizeof(number)
            size = _BYTES // bytes_each
            vector, index = ir.VectorType(number, size), context.get_value_type(types.intp)
            zero = ir.Constant(ir.VectorType(ir.IntType(32), size), None)
            depth, inner = (cgutils.unpack_tuple(builder, b.shape, 2)[k] for k in (0, 1))
            outer = cgutils.unpack_tuple(builder, c.shape, 2)[1]

            def at(array: Any, row: Any, width: Any, column: Any) -> Any:
                return builder.gep(array.data, [builder.add(builder.mul(row, width), column)])

            def shifted(n: Any, by: int) -> Any:
                return builder.add(n, ir.Constant(index, by))

            def places(array: Any, row: Any, width: Any) -> list[Any]:
                return [
                    builder.bitcast(at(array, row, width, shifted(j, size * v)), vector.as_pointer())
                    for v in range(vectors)
                ]

            targets = [place for r in range(rows) for place in places(c, shifted(i, r), outer)]
            sums = [cgutils.alloca_once(builder, vector) for _ in targets]
            for total, target in zip(sums, targets):
                start = builder.load(target, align=bytes_each) if add else ir.Constant(vector, None)
                builder.store(start, total)
            heads = [at(a, shifted(i, r), depth, ir.Constant(index, 0)) for r in range(rows)]
            with cgutils.for_range(builder, depth, intp=index) as loop:
                columns = [builder.load(place, align=bytes_each) for place in places(b, loop.index, inner)]
                for r, head in enumerate(heads):
                    entry = builder.load(builder.gep(head, [loop.index]), align=bytes_each)
                    first = ir.Constant(ir.IntType(32), 0)
                    spread = builder.insert_element(ir.Constant(vector, ir.Undefined), entry, first)
                    spread = builder.shuffle_vector(spread, spread, zero)
                    for v, column in enumerate(columns):
                        total = sums[r * vectors + v]
                        term = builder.fmul(spread, column, flags=("contract",))
                        builder.store(builder.fadd(builder.load(total), term, flags=("contract",)), total)
            for total, target in zip(sums, targets):
                builder.store(builder.load(total), target, align=bytes_each)
            return context.get_dummy_value()

        return types.void(A, B, C, i, j), codegen

    return tile


def _product(add: bool) -> Any:
    tall1, tall2, tall3 = (_tile(_ROWS, v, add) for v in (1, 2, 3))
    flat1, flat2, flat3 = (_tile(1, v, add) for v in (1, 2, 3))

    @njit(fastmath=ORDERED, error_model="numpy")
    def product(A: Any, B: Any, C: Any, first: int, last: int) -> None:
        use_whole_registers()
        size = _BYTES // C.itemsize
        j, columns = 0, C.shape[1]
        end = last - (last - first) % _ROWS
        while j < columns:
            left = (columns - j) // size
            vectors = 2 if left == 2 or left == 4 else min(left, 3)
            if vectors == 3:
                for i in range(first, end, _ROWS):
                    tall3(A, B, C, i, j)
                for i in range(end, last):
                    flat3(A, B, C, i, j)
            elif vectors == 2:
                for i in range(first, end, _ROWS):
                    tall2(A, B, C, i, j)
                for i in range(end, last):
                    flat2(A, B, C, i, j)
            else:
                for i in range(first, end, _ROWS):
                    tall1(A, B, C, i, j)
                for i in range(end, last):
                    flat1(A, B, C, i, j)
            j += vectors * size

    return product


#: (A, B, C, first, last): C[first:last] = A[first:last] B
product = _product(False)
#: (A, B, C, first, last): C[first:last] += A[first:last] B
add_product = _product(True)
