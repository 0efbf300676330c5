r"""Exact draws of part of a position given the rest, which any method can be interleaved with.

Readout: given the hidden weights the network is linear in alpha and everything is Gaussian. With the features
Phi = phi(h) (N, P), c = sqrt(Var a) and the noise variance s,

    alpha | omega ~ N(A^-1 c Phi y / s, A^-1),   A = 1 + (c^2/s) Phi Phi^T,

drawn from a Cholesky factor of A (N, N) or, where N > P, of M = s + c^2 Phi^T Phi (P, P): with alpha_0 ~ N(0, 1)
and noise e ~ N(0, s), alpha_0 + c Phi M^-1 (y - c Phi^T alpha_0 - e) has the same law (Matheron's rule). The
factor is in float64 whatever the precision of the chain.

Precisions (ARD): given the weights w_ij ~ N(0, 1/lambda_j), lambda_j ~ Gamma(alpha0, rate beta0),

    lambda_j | w ~ Gamma(alpha0 + N/2, rate beta0 + sum_i w_ij^2 / 2),

with omega_ij = w_ij sqrt(lambda_j) such that w stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numba import cfunc, njit, types
from numpy.typing import NDArray

from fieldtheory.errors import BadInput, UnknownName
from fieldtheory.sampling.activations import number_type
from fieldtheory.sampling.kernels import COLUMNS, NOISE, READOUT, RELEVANT, SHAPE, STRETCH, bound_type, set_widths
from fieldtheory.sampling.posterior import Bound, Posterior
from fieldtheory.sampling.random import fill_normal, uniform

Array = NDArray[Any]

#: Blocks of a network's position that are drawn exactly.
BLOCKS = ("readout", "precision")


@cache
def update_type(dtype: str) -> Any:
    """(position, random stream, bound of the energy): draws part of the position anew."""
    return types.float64(number_type(dtype)[::1], types.uint64[::1], bound_type(dtype))


def check_blocks(gibbs: Any) -> tuple[str, ...]:
    """The blocks named, each once, in the order of `BLOCKS`; UnknownName suggests the nearest."""
    names = (gibbs,) if isinstance(gibbs, str) else tuple(gibbs or ())
    for name in names:
        if name not in BLOCKS:
            raise UnknownName("gibbs", name, list(BLOCKS))
    return tuple(name for name in BLOCKS if name in names)


@njit(cache=True, nogil=True)
def solve_lower(L: Array, b: Array) -> None:
    """b <- L^-1 b for a lower triangle L."""
    for i in range(b.size):
        total = b[i]
        for k in range(i):
            total -= L[i, k] * b[k]
        b[i] = total / L[i, i]


@njit(cache=True, nogil=True)
def solve_upper(L: Array, b: Array) -> None:
    """b <- L^-T b for a lower triangle L."""
    for i in range(b.size - 1, -1, -1):
        b[i] /= L[i, i]
        for k in range(i):
            b[k] -= L[i, k] * b[i]


@njit(cache=True, nogil=True)
def draw_gaussian(Phi: Array, y: Array, noise: float, stream: NDArray[np.uint64], b: Array) -> None:
    """b (N,) from its posterior for y = Phi^T b + N(0, noise), b ~ N(0, 1); Phi (N, P)."""
    N, P = Phi.shape
    if N <= P:
        A = np.dot(Phi, Phi.T) / noise
        for i in range(N):
            A[i, i] += 1.0
        L = np.linalg.cholesky(A)
        mean = np.dot(Phi, y) / noise
        solve_lower(L, mean)
        fill_normal(stream, b)
        b += mean
        solve_upper(L, b)
    else:
        M = np.dot(Phi.T, Phi)
        for mu in range(P):
            M[mu, mu] += noise
        L = np.linalg.cholesky(M)
        rest = np.empty(P)
        fill_normal(stream, b)
        fill_normal(stream, rest)
        rest = y - np.dot(b, Phi) - math.sqrt(noise) * rest
        solve_lower(L, rest)
        solve_upper(L, rest)
        b += np.dot(Phi, rest)


@njit(cache=True, nogil=True)
def draw_gamma(stream: NDArray[np.uint64], shape: float) -> float:
    """A number from the Gamma law of given shape and rate 1 (Marsaglia & Tsang, ACM TOMS 26, 2000)."""
    boost = 1.0
    if shape < 1.0:
        boost, shape = (1.0 - uniform(stream)) ** (1.0 / shape), shape + 1.0
    d = shape - 1.0 / 3.0
    c, normal = 1.0 / math.sqrt(9.0 * d), np.empty(1)
    while True:
        fill_normal(stream, normal)
        v = (1.0 + c * normal[0]) ** 3
        # 1 - u is never 0, and u may be
        if v > 0.0 and math.log(1.0 - uniform(stream)) < 0.5 * normal[0] ** 2 + d - d * v + d * math.log(v):
            return boost * d * v


@njit(cache=True, nogil=True)
def _hidden(position: Array, N: int, constants: Array) -> Array:
    set_widths(position, constants)
    D = constants.size - COLUMNS
    return position[N : N + N * D].reshape(N, D) * constants[COLUMNS:].astype(position.dtype)


def _draw_readout(position: Array, stream: NDArray[np.uint64], bound: tuple[Any, ...]) -> float:
    X, y, constants, H, _, _, activate = bound
    N = H.shape[0]
    phi = np.dot(_hidden(position, N, constants), X.T)
    slope = np.empty(phi.size, phi.dtype)
    activate(phi.reshape(phi.size), slope)
    drawn = np.empty(N)
    draw_gaussian(constants[READOUT] * phi.astype(np.float64), y.astype(np.float64), constants[NOISE], stream, drawn)
    position[:N] = drawn
    return 0.0


def _draw_precisions(position: Array, stream: NDArray[np.uint64], bound: tuple[Any, ...]) -> float:
    """New precisions, and omega_ij such that w_ij stays."""
    constants, N = bound[2], bound[3].shape[0]
    D, relevant = constants.size - COLUMNS, int(constants[RELEVANT])
    omega, v = position[N : N + N * D].reshape(N, D), position[N + N * D :]
    # In units of CENTRE, in which the rate is the shape.
    for j in range(relevant):
        old, squares = math.exp(constants[STRETCH] * v[j]), 0.0
        for i in range(N):
            squares += (old * omega[i, j]) ** 2
        new = math.sqrt((constants[SHAPE] + 0.5 * squares) / draw_gamma(stream, constants[SHAPE] + 0.5 * N))
        v[j] = math.log(new) / constants[STRETCH]
        stretch = omega.dtype.type(old / new)
        for i in range(N):
            omega[i, j] *= stretch
    return 0.0


def _draw_both(position: Array, stream: NDArray[np.uint64], bound: tuple[Any, ...]) -> float:
    return readout(position, stream, bound) + precisions(position, stream, bound)


def _nothing(position: Array, stream: NDArray[np.uint64], bound: tuple[Any, ...]) -> float:
    return 0.0


readout, precisions = njit(cache=True, nogil=True)(_draw_readout), njit(cache=True, nogil=True)(_draw_precisions)


@cache
def _compiled(function: Any, dtype: str) -> Any:
    return cfunc(update_type(dtype), cache=True, error_model="numpy")(function)


def no_update(dtype: Any) -> Any:
    """The update that leaves everything as it is."""
    return _compiled(_nothing, np.dtype(dtype).name)


def network_update(blocks: tuple[str, ...]) -> Callable[[Bound], Bound] | None:
    """Makes of a network's energy the update that draws `blocks` given the rest; None for no blocks.

    It shares the arrays of the energy, and with them the noise.
    """
    if not blocks:
        return None
    if len(blocks) == len(BLOCKS):
        return partial(_bind, _draw_both)
    return partial(_bind, _draw_readout if "readout" in blocks else _draw_precisions)


def _bind(function: Any, energy: Bound) -> Bound:
    return Bound(_compiled(function, energy.dtype.name), energy.arrays)


def updates_per_iteration(blocks: tuple[str, ...], posterior: Posterior, gradients: float) -> int:
    """After how many iterations of so many `gradients` a draw of the readout has cost no more than these did."""
    if "readout" not in blocks:
        return 1
    N, (P, D) = posterior.width, posterior.X.shape
    least = min(N, P)
    # Features and the gradient afterwards, the symmetric product, its factor: in units of 4 N P D.
    cost = 1.5 + least / (2.0 * D) + least**3 / (12.0 * N * P * D)
    return max(1, round(cost / gradients))


def check_precision(blocks: tuple[str, ...], posterior: Posterior) -> None:
    """BadInput where precisions are to be drawn and the prior has none."""
    if "precision" in blocks and posterior.precision_prior is None:
        raise BadInput("gibbs", "'precision'", "a network with prior=ARD(...): a Gaussian prior has none to draw")
