"""The generator against published vectors, its definition in integers, and the laws it must follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from numba import njit

from fieldtheory.sampling import random
from fieldtheory.sampling.random import fill_normal, new_stream, uniform

PRECISIONS = [np.float64, np.float32]


def philox(counter: int, key: int) -> list[int]:
    """Philox4x32-10 as the paper defines it, in Python's integers."""
    c = [counter >> 32 * k & 0xFFFFFFFF for k in range(4)]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ k0, q & 0xFFFFFFFF, p >> 32 ^ c[3] ^ k1, p & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


@njit
def block(key, low, high):
    return random._block(key, low, high)


@njit
def pair64(a, b):
    return random._pair64(a, b)


@njit
def pair32(a, b):
    return random._pair32(a, b)


# The known answers of the Random123 distribution, philox 4x32 10: counter, key, result.
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
     [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_published_vectors(counter, key, expected):
    words = [np.uint64(counter[0] | counter[1] << 32), np.uint64(counter[2] | counter[3] << 32)]
    assert list(block(np.uint64(key[0] | key[1] << 32), *words)) == expected
    assert philox(sum(c << 32 * k for k, c in enumerate(counter)), key[0] | key[1] << 32) == expected


def angle(v: int, bits: int) -> tuple[float, float]:
    """A point of the circle: the two highest bits swap and turn, the rest is the place on an arc of 90 degrees."""
    rest = (v << 2) % 2**bits
    t = math.pi / 4 * (rest - (rest >> bits - 1) * 2**bits) / 2 ** (bits - 1)
    x, y = math.cos(t), math.sin(t)
    if v >> bits - 2 & 1:
        x, y = y, x
    return (-x, -y) if v >> bits - 1 else (x, y)


def normals(u: int, v: int, bits: int) -> tuple[float, float]:
    radius = math.sqrt(-2 * math.log((u >> 1 | 1) / 2 ** (bits - 1)))
    x, y = angle(v, bits)
    return radius * x, radius * y


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 64, 101])
def test_normals_are_those_of_the_definition(dtype, length):
    stream = new_stream(np.random.SeedSequence(5))
    key, low, high = map(int, stream)
    out = np.empty(length, dtype)
    fill_normal(stream, out)
    per_block = 2 if dtype is np.float64 else 4
    columns = []
    for k in range(-(-length // per_block)):
        a, b, c, d = philox(low + k | high << 64, key)
        columns.append(normals(a << 32 | b, c << 32 | d, 64) if dtype is np.float64
                       else normals(a, b, 32) + normals(c, d, 32))
    whole = length // per_block
    expected = [columns[k][j] for j in range(per_block) for k in range(whole)]
    expected += list(columns[-1])[: length - per_block * whole]
    np.testing.assert_allclose(out, expected, rtol=0, atol=4e-14 if dtype is np.float64 else 4e-6)
    assert stream.tolist() == [key, low + len(columns), high]


def test_uniforms_are_those_of_the_definition():
    stream = new_stream(np.random.SeedSequence(6))
    key, low, high = map(int, stream)
    for k in range(100):
        a, b, _, _ = philox(low + k | high << 64, key)
        assert uniform(stream) == (a << 21 | b >> 11) / 2**53


@pytest.mark.parametrize(("pair", "bits", "largest"), [(pair64, 64, 9.4), (pair32, 32, 6.6)])
def test_extreme_bits(pair, bits, largest):
    """No bits give anything but finite numbers, and the rarest ones reach far."""
    top = 2**bits - 1
    for u in (0, 1, 2, top, top - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1):
        for v in (0, 1, top, 2 ** (bits - 1), 2 ** (bits - 2), 2 ** (bits - 3), 2 ** (bits - 3) - 1):
            x, y = pair(np.uint64(u), np.uint64(v))
            expected = normals(u, v, bits)
            # In float32 a u within 2^-24 of 1 is rounded, to 1 at worst: a radius of at most sqrt(2^-23) is lost.
            assert np.hypot(x - expected[0], y - expected[1]) < (1e-13 if bits == 64 else 2**-11.5)
    assert largest - 0.1 < np.hypot(*pair(np.uint64(0), np.uint64(0))) < largest


def law(x: np.ndarray) -> np.ndarray:
    """Two-sided z of the first six moments, and of the Kolmogorov-Smirnov distance (as a z of equal tail)."""
    x, n = np.asarray(x, float), x.size
    expected, variance = [0, 1, 0, 3, 0, 15], [1, 2, 15, 96, 945, 10170]
    z = [abs(np.mean(x ** (k + 1)) - expected[k]) * math.sqrt(n / variance[k]) for k in range(6)]
    return np.array([*z, scipy.stats.norm.isf(scipy.stats.kstest(x, "norm").pvalue / 2)])


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_law(dtype):
    stream, draws = new_stream(np.random.SeedSequence(7)), np.empty(200_000, dtype)
    fill_normal(stream, draws)
    assert law(draws).max() < 4.5
    assert law(1.02 * draws).max() > 4.5
    assert law(draws + 0.02).max() > 4.5
    assert law(np.sign(draws) * np.abs(draws) ** 1.02).max() > 4.5


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_independence(dtype):
    """Of the members of a pair and of a block, of neighbours, of calls, of streams; of sizes as well as of values."""
    n = 100_000
    streams = [new_stream(seed) for seed in np.random.SeedSequence(8).spawn(3)]
    rows = np.empty((3, 2, n), dtype)
    for stream, calls in zip(streams, rows):
        for out in calls:
            fill_normal(stream, out)
    rows = rows.reshape(6, n).astype(float)
    parts = np.concatenate([row.reshape(4, -1) for row in rows])

    def largest(parts: np.ndarray) -> float:
        worst = 0.0
        for x in (parts, parts**2, np.abs(parts) > 2):
            z = (np.corrcoef(x) - np.eye(len(x))) * math.sqrt(x.shape[1])
            neighbours = [np.corrcoef(row[:-1], row[1:])[0, 1] * math.sqrt(row.size) for row in x]
            worst = max(worst, np.abs(z).max(), np.abs(neighbours).max())
        return worst

    assert largest(parts) < 5
    assert largest(np.concatenate([parts, parts[:1] + 0.02 * parts[1:2]])) > 5


def test_a_copy_of_the_stream_is_a_checkpoint():
    stream, first, again = new_stream(np.random.SeedSequence(9)), np.empty(1001), np.empty(1001)
    fill_normal(stream, first)
    saved = stream.copy()
    fill_normal(stream, first)
    u = uniform(stream)
    fill_normal(saved, again)
    assert np.array_equal(first, again) and uniform(saved) == u
    assert new_stream(np.random.SeedSequence(9)).tolist() == new_stream(np.random.SeedSequence(9)).tolist()


def test_a_counter_that_overflows_goes_on():
    stream, out = np.array([1, 2**64 - 1, 2], np.uint64), np.empty(8)
    fill_normal(stream, out)
    assert stream[1] == 3 and np.isfinite(out).all()
