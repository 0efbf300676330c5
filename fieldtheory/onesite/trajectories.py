"""Leapfrog trajectories of particles under a compiled energy, and what the generated code of an energy calls.

An energy is a C callback of one type, ``ENERGY``: whitened fields (component, particle), their scales, where the energy
and its gradient go, numbers that are fixed, sizes and places, and room to work in.  Particles are the last axis: what
is done to one of them is done to vectors of them.  The trajectory is compiled once, for all energies.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types

from fieldtheory.vectormath import ORDERED

Array = np.ndarray

VECTOR, MATRIX, INTEGERS = types.float64[::1], types.float64[:, ::1], types.int64[::1]
ENERGY = types.void(MATRIX, VECTOR, VECTOR, MATRIX, VECTOR, INTEGERS, VECTOR)

ROOM = 2**17
"""Numbers that a block of particles should need at most, for the sake of the cache."""
NARROW = 48
"""Particles in a block at least, for the sake of the products."""


@njit(cache=True)
def rows(numbers: Array, start: int, count: int, width: int) -> Array:
    """Part of a vector as a matrix."""
    return numbers[start:start + count * width].reshape(count, width)


@njit(cache=True)
def product(A: Array, B: Array, result: Array) -> None:
    """result = A B."""
    np.dot(A, B, result)


def block(count: int, room: int) -> int:
    """How many of ``count`` particles to move together, if each needs this many numbers."""
    widest = max(NARROW, ROOM // max(room, 1))
    return math.ceil(count / math.ceil(count / widest))


@njit(cache=True, error_model="numpy", fastmath=ORDERED)
def _at(function: Any, x: Array, scales: Array, share: float, energy: Array, force: Array, fixed: Array,
        places: Array, work: Array) -> None:
    """Energy and gradient, a share of that of the prior in its place."""
    function(x, scales, energy, force, fixed, places, work)
    if share != 1.0:
        for i in range(x.shape[1]):
            energy[i] *= share
        for c in range(x.shape[0]):
            for i in range(x.shape[1]):
                energy[i] += (1.0 - share) * x[c, i] * x[c, i] / 2
                force[c, i] = (1.0 - share) * x[c, i] + share * force[c, i]


def leapfrog(function: Any, x: Array, p: Array, step: Array, leaps: int, share: float, scales: Array, fixed: Array,
             places: Array, room: int, width: int, energies: Array, first: Array, last: Array) -> None:
    """Positions x and momenta p (particle, component) after some leaps, in place.

    ``energies`` (2, particle) and the gradients ``first`` and ``last`` are those of both ends.
    """
    count, components = x.shape
    for start in range(0, count, width):
        n = min(width, count - start)
        y, q, force = np.empty((components, n)), np.empty((components, n)), np.empty((components, n))
        energy, h, work = np.empty(n), step[start:start + n], np.empty(room * n)
        for c in range(components):
            for i in range(n):
                y[c, i] = x[start + i, c]
        _at(function, y, scales, share, energy, force, fixed, places, work)
        for i in range(n):
            energies[0, start + i] = energy[i]
        for c in range(components):
            for i in range(n):
                first[start + i, c] = force[c, i]
                q[c, i] = p[start + i, c] - h[i] / 2 * force[c, i]
        for leap in range(leaps):
            for c in range(components):
                for i in range(n):
                    y[c, i] += h[i] * q[c, i]
            _at(function, y, scales, share, energy, force, fixed, places, work)
            part = 0.5 if leap == leaps - 1 else 1.0
            for c in range(components):
                for i in range(n):
                    q[c, i] -= part * h[i] * force[c, i]
        for i in range(n):
            energies[1, start + i] = energy[i]
        for c in range(components):
            for i in range(n):
                x[start + i, c], p[start + i, c], last[start + i, c] = y[c, i], q[c, i], force[c, i]


@cache
def compiled_leapfrog() -> Any:
    """:func:`leapfrog`, for any energy.  Compiled when first called for, not when this module is imported."""
    signature = types.void(types.FunctionType(ENERGY), MATRIX, MATRIX, VECTOR, types.int64, types.float64, VECTOR,
                           VECTOR, INTEGERS, types.int64, types.int64, MATRIX, MATRIX, MATRIX)
    return njit(signature, cache=True, nogil=True, error_model="numpy", fastmath=ORDERED)(leapfrog)


__all__ = ["ENERGY", "block", "compiled_leapfrog", "leapfrog", "product", "rows"]
