"""Products without packing, on whole numbers, where every order of summation gives the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from fieldtheory.sampling import products


@njit
def multiply(A, B, C, first, last):
    products.product(A, B, C, first, last)


@njit
def add(A, B, C, first, last):
    products.add_product(A, B, C, first, last)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(rows=st.integers(0, 21), depth=st.integers(0, 9), vectors=st.integers(0, 8), seed=st.integers(0, 99),
       data=st.data())
def test_products(dtype, rows, depth, vectors, seed, data):
    rng = np.random.default_rng(seed)
    first = data.draw(st.integers(0, rows))
    last = data.draw(st.integers(first, rows))
    columns = vectors * products.lanes(dtype)
    A, B, C = (rng.integers(-9, 9, shape).astype(dtype) for shape in ((rows, depth), (depth, columns), (rows, columns)))
    expected, found = C.copy(), C.copy()
    expected[first:last] = A[first:last] @ B
    multiply(A, B, found, first, last)
    assert np.array_equal(found, expected)
    expected[first:last] += A[first:last] @ B
    add(A, B, found, first, last)
    assert np.array_equal(found, expected)


def test_not_a_number_spreads_as_in_a_sum():
    A, B = np.ones((3, 4)), np.ones((4, products.lanes(float)))
    A[1, 2], B[0, 3] = np.nan, np.inf
    C = np.zeros((3, B.shape[1]))
    multiply(A, B, C, 0, 3)
    assert np.isnan(C[1]).all() and np.isinf(C[[0, 2], 3]).all() and np.isfinite(C[0, :3]).all()
