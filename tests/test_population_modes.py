"""Modes with several directions and with what is perpendicular to them, under Gaussian inputs."""

from itertools import product

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import BadInput
from fieldtheory.symbolic.bases import directional_overlap
from tests.populations import limit

NET = ft.Network(activation="relu", width=16, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1)


@pytest.mark.parametrize("orders, pairs", [((0,), 1), ((1,), 1), ((2,), 2), ((1, 1), 0), ((2, 1), 1)])
def test_overlaps_against_quadrature(orders, pairs):
    """E[φ(w·x) e(x)] over all inputs, with the polynomial in |x_⊥|² made orthonormal numerically."""
    D, d = 4, len(orders)
    rng = np.random.default_rng(3)
    w = rng.normal(size=D)
    z, q = np.polynomial.hermite_e.hermegauss(16)
    x = np.stack([g.ravel() for g in np.meshgrid(*[z] * D, indexing="ij")], axis=1)
    p = np.prod(list(product(q / q.sum(), repeat=D)), axis=1)
    radial = (x[:, d:]**2).sum(axis=1)
    columns = [np.ones(len(x))]
    for k in range(1, pairs + 1):
        column = radial**k
        for known in columns:
            column = column - (p @ (column * known)) * known
        columns.append(column / np.sqrt(p @ column**2))
    mode = columns[-1] * np.prod([scipy.special.eval_hermitenorm(n, x[:, a]) / np.sqrt(scipy.special.factorial(n))
                                  for a, n in enumerate(orders)], axis=0)
    h = w @ x.T
    expected = p @ ((h**5 / 9 - h**4 / 3 + h**2 - h) * mode)
    u = sp.Symbol("u", real=True)
    size = float(np.linalg.norm(w))
    found = directional_overlap(u**5 / 9 - u**4 / 3 + u**2 - u, u, orders, pairs, sp.Float(size),
                                [sp.Float(c / size) for c in w[:d]], sp.Float((w[d:]**2).sum() / size**2),
                                sp.Integer(D - d))
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_rotated_single_index():
    """he_2 along (u_1 + u_2)/√2, written in the modes of two directions."""
    one = limit("mean-field", NET, "gaussian", 2, order=2).solve(5, 0.005)
    target = {(2, 0): 0.5, (1, 1): np.sqrt(0.5), (0, 2): 0.5}
    two = limit("mean-field", NET, "gaussian", target, order=2).solve(5, 0.005)
    assert {one.status[:9], two.status[:9]} == {"truncated"}
    for key, weight in target.items():  # beside m_2 the mode (0, 1) of one direction, in the space perpendicular to it
        split = one.order_parameters[0, 1] * perpendicular(key, 5)
        gap = abs(two.order_parameters[key] - weight * one.order_parameters[2] - split)
        assert gap < 4 * (two.errors[key] + one.errors[2]) + 1e-4
        assert key != (1, 1) or abs(split) > 2 * gap
    assert two.test_error == pytest.approx(one.test_error, abs=0.01)
    assert abs(one.order_parameters[0, 1]) > 0.03 and abs(two.order_parameters[1, 0]) < 1e-12


def perpendicular(key: tuple[int, int], D: int) -> float:
    """The component of (|x_⊥|² - (D-1))/√(2(D-1)), x_⊥ perpendicular to (u_1 + u_2)/√2, along he_n he_n'."""
    return {(2, 0): 0.5, (0, 2): 0.5, (1, 1): -np.sqrt(0.5)}[key] / np.sqrt(D - 1)


def test_two_directions_on_a_grid():
    """y = he_1 he_1, that mode alone: the law of (w_1, w_2, |w_⊥|) at D = 3 on a grid; not with another coefficient."""
    found = limit("mean-field", NET, "gaussian", (1, 1), modes=[]).solve(3, 0.01)
    D, N, noise = 3, 16, 0.01
    axis = np.linspace(0, 6, 101) / np.sqrt(D)
    w1, w2, w3 = np.meshgrid(axis, axis, axis, indexing="ij")
    square = w1**2 + w2**2 + w3**2 + 1e-30

    def solved(coefficient: float) -> float:
        J = coefficient / np.sqrt(4 * np.pi) * w1 * w2 / np.sqrt(square)  # c_2 = |w|/√(4π) for ReLU
        B = N + square / 2 / noise
        c = 1 - 1 / N
        ends = [np.where(w == 0, 0.5, 1.0) for w in (w1, w2, w3)]

        def right(m: float) -> float:
            p = np.prod(ends, axis=0) * np.exp(-D * square / 2 + ((1 - c * m) * J / noise)**2 / (2 * B)) / np.sqrt(B)
            return N * (1 - c * m) / noise * float((p * J**2 / B).sum() / p.sum())

        return float(scipy.optimize.brentq(lambda m: right(m) - m, 0, 1 / c))

    assert abs(found.m - solved(np.sqrt(2))) < 5 * found.error + 2e-4
    assert abs(found.m - solved(1.0)) > 20 * found.error + 2e-3


@pytest.mark.slow
def test_modes_left_out_bias_those_kept():
    """erf, he_1 - .3 he_3 at D = 64, mean-field scaling: m_3 with he_1 and he_3 alone is larger than with all modes."""
    net = ft.Network(activation="erf", width=128, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0,
                     scaling=ft.Scaling.mean_field())
    target = {1: 1.0, 3: -0.3}
    found = [limit("mean-field", net, "gaussian", target, modes=[], order=order).solve(64, samples=400, shifts=3)
             for order in (None, 5)]
    few, more = (solution.order_parameters for solution in found)
    assert few[3] / more[3] == pytest.approx(1.07, abs=0.02)
    assert 0.03 < more[5] < 0.07 and abs(more[1, 1]) > 0.02
    assert [solution.status.split(":")[0] for solution in found] == ["truncated", "converged"]
    assert found[0].left_out > 2e-3 > 1e-3 > found[1].left_out > 0


def test_both_ways_agree_for_several_modes():
    theory = limit("mean-field", NET, "gaussian", {(1, 1): 1.0}, order=2)
    both = theory.follow(6, noise=[0.003, 0.01, 0.03], nodes=2048, shifts=2)
    assert both.attrs["unique"] and "1_1" in both.mode.values


def test_refusals():
    with pytest.raises(BadInput, match="same number of directions"):
        limit("mean-field", NET, "gaussian", {(1, 1): 1.0, 2: 0.5})
    with pytest.raises(BadInput, match="modes"):
        limit("mean-field", NET, "gaussian", 2, modes=[(1, 1, 1)])
    with pytest.raises(BadInput, match="polynomial of degree 1"):
        limit("mean-field", NET, "gaussian", (2, 1))
    with pytest.raises(BadInput, match="order"):
        limit("mean-field", NET, "gaussian", 2, order=-1)
    with pytest.raises(BadInput, match="input_dim"):
        limit("mean-field", NET, "gaussian", (1, 1)).solve(2, 0.1)
    with pytest.raises(BadInput, match="one parity"):
        limit("mean-field", NET, "hypercube", (1, 1))
