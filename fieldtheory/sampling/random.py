r"""Random numbers that are a function of a key and a counter: Philox4x32-10, and what is made of it.

Block c of the stream with key k is the image of the 128-bit counter c under a bijection of ten rounds, after
Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Blocks do not depend on
each other, so eight or sixteen are computed at once, and a stream is three integers: copying them is a
checkpoint.

Normals are made in pairs by Box and Muller's transformation, sqrt(-2 ln u) (cos 2 pi v, sin 2 pi v), from 64
random bits for each number in float64 and 32 in float32. Every call starts a new block: the numbers depend on
the sequence of calls and their lengths, and on nothing else (not on how a run is cut between calls, nor on
threads). In float32 the largest normal is sqrt(-2 ln 2^-31) = 6.6, in float64 9.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

from fieldtheory.vectormath import ORDERED, bits, constant, from_bits, polynomial, use_whole_registers

Stream = NDArray[np.uint64]

# Multipliers and Weyl increments of Philox4x32.
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def new_stream(seed: np.random.SeedSequence) -> Stream:
    """A stream of its own for each seed: [key, counter, upper half of the counter]."""
    key, upper = seed.generate_state(2, np.uint64)
    return np.array([key, 0, upper], np.uint64)


@njit(inline="always")
def _block(key: Any, low: Any, high: Any) -> Any:
    """The four 32-bit numbers of one block, each in 64 bits."""
    a, b = low & _LOW, low >> _32
    c, d = high & _LOW, high >> _32
    k0, k1 = key & _LOW, key >> _32
    for _ in range(_ROUNDS):
        p, q = _M0 * a, _M1 * c
        a, b, c, d = (q >> _32) ^ b ^ k0, q & _LOW, (p >> _32) ^ d ^ k1, p & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return a, b, c, d


@njit(cache=True, nogil=True)
def uniform(stream: Stream) -> float:
    """A number in [0, 1), a multiple of 2^-53; uses up one block."""
    a, b, _, _ = _block(stream[0], stream[1], stream[2])
    stream[1] += np.uint64(1)
    return np.float64(((a << _32) | b) >> np.uint64(11)) * 2.0**-53


# Near-minimax polynomials (mpmath's chebyfit) in z = s^2 for ln((1 + s)/(1 - s))/s where |s| <= 3 - sqrt(8), and in
# z = t^2 <= 1 for sin(pi t/4)/t and cos(pi t/4). Absolute errors 4e-16, 3e-15, 5e-17; in float32 1e-9, 2e-9, 3e-8.
_ln64 = polynomial(
    2.00000000000000034, 0.66666666666552918, 0.400000000617416152, 0.285714160211076716,
    0.222234345475179067, 0.181219344312152144, 0.168376599706804883,
)
_sine64 = polynomial(
    0.785398163397444947, -0.0807455121880386338, 0.00249039456736706361, -3.65761921207672526e-5,
    3.13338408290929997e-7, -1.73651672885975781e-9,
)
_cosine64 = polynomial(
    1.0, -0.308425137534037835, 0.0158543442437415457, -3.2599188648354014e-4, 3.59085917985023796e-6,
    -2.46095070940281166e-8, 1.13654692077313529e-10,
)
_ln32 = polynomial(1.99999999863131817, 0.666668153381511875, 0.399748505175190478, 0.299243904791449868)
_sine32 = polynomial(0.785398160976618343, -0.0807454347081014744, 0.00249000680149235667, -3.59542907251107495e-5)
_cosine32 = polynomial(0.999999972328494311, -0.308424251855372805, 0.015849910706409109, -3.18877474890598989e-4)



@njit(inline="always")
def _on_circle(ln: Any, t: Any, sine: Any, cosine: Any, sign: Any, swap: Any) -> Any:
    """sqrt(-2 ln u) times the point of the circle at 45 degrees times t, moved to one of four arcs."""
    radius = np.sqrt(constant(-2.0, t) * ln)
    z = t * t
    x, y = cosine(z), t * sine(z)
    radius = radius if sign >= 0 else -radius
    return radius * (y if swap < 0 else x), radius * (x if swap < 0 else y)


@njit(inline="always")
def _pair64(a: Any, b: Any) -> Any:
    """Two normals of 2 x 64 bits."""
    n = bits(np.float64(np.int64(a >> np.uint64(1)) | np.int64(1)))
    # u = 2^e m with sqrt(1/2) <= m < sqrt(2): the integer below is the bits of sqrt(1/2).
    e = (n - np.int64(0x3FE6A09E667F3BCD)) >> np.int64(52)
    m = from_bits(n - (e << np.int64(52)))
    s = (m - 1.0) / (m + 1.0)
    ln = s * _ln64(s * s) + np.float64(e - np.int64(63)) * 0.6931471805599453
    t = np.float64(np.int64(b << np.uint64(2))) * 2.0**-63
    return _on_circle(ln, t, _sine64, _cosine64, np.int64(b), np.int64(b << np.uint64(1)))


@njit(inline="always")
def _pair32(a: Any, b: Any) -> Any:
    """Two normals of 2 x 32 bits, in float32."""
    n = bits(np.float32(np.int32(a >> np.uint64(1)) | np.int32(1)))
    e = np.int32((n - np.int32(0x3F3504F3)) >> np.int32(23))
    m = from_bits(np.int32(n - (e << np.int32(23))))
    s = (m - np.float32(1.0)) / (m + np.float32(1.0))
    ln = s * _ln32(s * s) + np.float32(np.int32(e - np.int32(31))) * np.float32(0.6931471805599453)
    t = np.float32(np.int32(b << np.uint64(2))) * np.float32(2.0**-31)
    return _on_circle(ln, t, _sine32, _cosine32, np.int32(b), np.int32(b << np.uint64(1)))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=ORDERED)
def _fill64(stream: Stream, out: Any) -> None:
    use_whole_registers()
    key, low, high = stream[0], stream[1], stream[2]
    half = out.shape[0] // 2
    for k in range(half):
        a, b, c, d = _block(key, low + np.uint64(k), high)
        out[k], out[half + k] = _pair64((a << _32) | b, (c << _32) | d)
    if 2 * half < out.shape[0]:
        a, b, c, d = _block(key, low + np.uint64(half), high)
        out[2 * half], _ = _pair64((a << _32) | b, (c << _32) | d)
    stream[1] = low + np.uint64(out.shape[0] - half)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=ORDERED)
def _fill32(stream: Stream, out: Any) -> None:
    use_whole_registers()
    key, low, high = stream[0], stream[1], stream[2]
    quarter, rest = out.shape[0] // 4, out.shape[0] % 4
    for k in range(quarter):
        a, b, c, d = _block(key, low + np.uint64(k), high)
        out[k], out[quarter + k] = _pair32(a, b)
        out[2 * quarter + k], out[3 * quarter + k] = _pair32(c, d)
    if rest:
        a, b, c, d = _block(key, low + np.uint64(quarter), high)
        last = _pair32(a, b) + _pair32(c, d)
        for j in range(rest):
            out[4 * quarter + j] = last[j]
    stream[1] = low + np.uint64(quarter + (1 if rest else 0))


def _fill(stream: Stream, out: Any) -> None:
    raise NotImplementedError


@overload(_fill, strict=False)
def _fill_by_precision(stream: Any, out: Any) -> Any:
    fill = {types.float64: _fill64, types.float32: _fill32}[out.dtype]
    return lambda stream, out: fill(stream, out)


@njit(cache=True, nogil=True)
def fill_normal(stream: Stream, out: Any) -> None:
    """Independent N(0, 1) in each entry of `out`, a one-dimensional array of float64 or float32."""
    _fill(stream, out)
