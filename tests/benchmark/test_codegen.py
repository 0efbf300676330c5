"""Generated kernels against the same sums written by hand for Numba, timed alternately in the same run.

The summands are those of the action of Q with six derivatives (14 sums), for which NumPy code from lambdify
takes 7 to 16 times as long as code by hand; and the four sums that a root finder needs.
"""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import sympy as sp
from numba import njit

from fieldtheory.compile import compile_kernel
from fieldtheory.solve import find_roots
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum

pytestmark = pytest.mark.slow

N, P, g, s = sp.symbols("N P g s", positive=True)
u = sp.Symbol("u", real=True)
MODE = Space("mode", P)
LAM, Y = Entry("lambda", "spectrum", [MODE]), Entry("y", "data", [MODE])
ACTION = (-N * u / 2 + N * sp.exp(u) / (2 * g) + SpaceSum(sp.log(sp.exp(u) * LAM + s), MODE) / 2
          + SpaceSum(Y**2 / (sp.exp(u) * LAM + s), MODE) / 2)


@njit(error_model="numpy")
def fourteen_sums(u, N, g, s, lam, y):
    Q = math.exp(u)
    logs = a1 = a2 = a3 = a4 = a5 = a6 = b0 = b1 = b2 = b3 = b4 = b5 = b6 = 0.0
    for k in range(lam.shape[0]):
        d = Q * lam[k] + s
        r = 1.0 / d
        t = lam[k] * r
        w = y[k] * y[k] * r
        logs += math.log(d)
        b0 += w
        p = t
        a1 += p
        b1 += w * p
        p *= t
        a2 += p
        b2 += w * p
        p *= t
        a3 += p
        b3 += w * p
        p *= t
        a4 += p
        b4 += w * p
        p *= t
        a5 += p
        b5 += w * p
        p *= t
        a6 += p
        b6 += w * p
    return logs, a1, a2, a3, a4, a5, a6, b0, b1, b2, b3, b4, b5, b6


@njit(error_model="numpy")
def slope_and_curvature(u, N, g, s, lam, y):
    Q = math.exp(u)
    a1 = a2 = b1 = b2 = 0.0
    for k in range(lam.shape[0]):
        r = 1.0 / (Q * lam[k] + s)
        t = lam[k] * r
        w = y[k] * y[k] * r * t
        a1 += t
        b1 += w
        a2 += t * t
        b2 += w * t
    slope = Q / 2 * (a1 - b1)
    return N * Q / (2 * g) - N / 2 + slope, N * Q / (2 * g) + slope + Q * Q * (b2 - a2 / 2)


def kernel(orders):
    outputs = {f"d{k}": sp.diff(ACTION, u, k) for k in orders}
    return compile_kernel(outputs, scalars=[u, N, g, s], entries=[LAM, Y], name="bench")


def arguments(modes):
    rng = np.random.default_rng(0)
    return 0.3, 400.0, 1.0, 0.1, rng.exponential(size=modes), rng.normal(size=modes)


def best(function, values, repeats=50):
    start = time.perf_counter()
    for _ in range(repeats):
        function(*values)
    return (time.perf_counter() - start) / repeats


@pytest.mark.parametrize("orders, by_hand", [(range(7), fourteen_sums), ((1, 2), slope_and_curvature)],
                         ids=["six derivatives", "slope and curvature"])
@pytest.mark.parametrize("modes", [2000, 4000])
def test_ratio_to_hand_written(benchmark, orders, by_hand, modes):
    generated, values = kernel(orders).raw, arguments(modes)
    generated(*values), by_hand(*values)
    pairs = [(best(generated, values), best(by_hand, values)) for _ in range(15)]
    ours, theirs = (min(column) for column in zip(*pairs))
    benchmark.extra_info.update(microseconds=ours * 1e6, by_hand=theirs * 1e6, ratio=ours / theirs)
    benchmark(generated, *values)
    assert ours <= 1.4 * theirs


def test_all_roots_at_two_thousand_modes(benchmark):
    """Part of a default prediction, which may take 5 ms."""
    rest = arguments(2000)[1:]
    bound = kernel((1, 2)).bind("u", **dict(zip(("N", "g", "s", "lambda", "y"), rest)))
    roots = benchmark(find_roots, bound, math.log(1e-6), math.log(1e6))
    assert len(roots) == 1 and benchmark.stats.stats.min < 2e-3
