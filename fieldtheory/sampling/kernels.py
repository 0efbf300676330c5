r"""Energies, gradients and observables of two-layer networks, as compiled functions of a position and a `BOUND`.

All are in the precision of the position, float64 or float32; energies are summed in float64.

One gradient is one pass over blocks of samples whose workspaces stay in the second-level cache. Within a block,
a few neurons at a time: pre-activations h = w X^T, then phi and phi' in place, then their share of f. When f of
the block is complete, the residual r = (f - y)/s is folded into the inputs, which are the smaller factor:

    dU/da_i += sum_mu phi(h_imu) r_mu,    sum_mu [phi'(h_imu)] [r_mu x_mu],

so that neither h nor phi' is touched again, and a_i multiplies the sum when all blocks are done. Samples that
fill the last block are zero, and so is their residual.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cfunc, njit, types
from numpy.typing import NDArray

from fieldtheory.sampling.activations import activation_type, number_type
from fieldtheory.sampling.products import add_product, lanes, padded, product
from fieldtheory.vectormath import FAST, aligned, constant, use_whole_registers

Array = NDArray[Any]

# Entries of `constants`, before the widths of the columns of the hidden weights.
#: READOUT width of the readout; FRESH (of an energy) whether X changes between calls, POINTS (of observables) rows of
#: X at which outputs are observed; NOISE variance; OFFSET misfit that no weights change; RELEVANT how many of the first
#: columns of omega have a width that follows from the position, and SHAPE, CENTRE, STRETCH their law (`set_widths`).
READOUT, POINTS, NOISE, OFFSET, RELEVANT, SHAPE, CENTRE, STRETCH, COLUMNS = range(9)
FRESH = POINTS

# Bytes for the workspaces of a block, which a core's second-level cache should hold beside the weights.
_CACHE = 1 << 19
# Neurons whose pre-activations are made, then activated, then read out while they are in the first-level cache.
_NEURONS = 16


def bound_type(dtype: Any) -> Any:
    """inputs, target, constants, two workspaces, inputs as columns block by block, activation."""
    number = number_type(dtype)
    matrix = number[:, ::1]
    activation = types.FunctionType(activation_type(dtype))
    return types.Tuple((matrix, number[::1], types.float64[::1], matrix, matrix, matrix, activation))


@cache
def energy_type(dtype: Any) -> Any:
    """(position, result, bound): an energy returns U and fills `result` with the gradient."""
    vector = number_type(dtype)[::1]
    return types.float64(vector, vector, bound_type(dtype))


def block_size(width: int, samples: int, dtype: Any) -> int:
    """Samples to a block: blocks as equal as can be, of whole vectors, with workspaces that fit the cache."""
    step = lanes(dtype)
    most = max(_CACHE // (2 * width * np.dtype(dtype).itemsize), 6 * step)
    blocks = -(-samples // most)
    return max(step, -(-samples // (max(blocks, 1) * step)) * step)


def pack(X: Array, size: int) -> Array:
    """X (P, D) as columns: blocks of D rows and `size` samples one below the other, the last filled up."""
    columns = np.empty((-(-len(X) // size) * X.shape[1], size), X.dtype)
    _pack(X, columns)
    return columns


@njit(cache=True, nogil=True)
def _pack(X: Array, columns: Array) -> None:
    """What fills the last block are copies of the last sample: finite where it is."""
    (P, D), size = X.shape, columns.shape[1]
    for block in range(columns.shape[0] // D if D > 0 else 0):
        for m in range(size):
            mu = min(block * size + m, P - 1)
            for j in range(D):
                columns[block * D + j, m] = X[mu, j]


@njit(cache=True, nogil=True, error_model="numpy")
def set_widths(position: Array, constants: Array) -> None:
    """Among the constants, the widths 1/sqrt(lambda_j) = CENTRE e^(STRETCH v_j) of a position that ends with v."""
    relevant = int(constants[RELEVANT])
    for j in range(relevant):
        v = np.float64(position[position.size - relevant + j])
        constants[COLUMNS + j] = constants[CENTRE] * np.exp(constants[STRETCH] * v)


@njit(fastmath=FAST, error_model="numpy")
def _hidden(position: Array, N: int, constants: Array) -> Array:
    """The hidden weights w_ij = width_j omega_ij, with the widths that the position has."""
    use_whole_registers()
    set_widths(position, constants)
    D = constants.size - COLUMNS
    omega = position[N : N + N * D].reshape(N, D)
    w = np.empty_like(omega)
    widths = constants[COLUMNS:].astype(omega.dtype)
    for i in range(omega.shape[0]):
        for j in range(omega.shape[1]):
            w[i, j] = widths[j] * omega[i, j]
    return w


@njit(fastmath=FAST, error_model="numpy")
def _outputs(w: Array, columns: Array, alpha: Array, H: Array, S: Array, activate: Any, f: Array) -> None:
    """f = alpha phi(w columns); leaves phi and phi' of all neurons in H and S."""
    use_whole_registers()
    N, size = H.shape
    h, slope = H.reshape(N * size), S.reshape(N * size)
    f[:] = constant(0.0, f[0])
    for first in range(0, N, _NEURONS):
        last = min(first + _NEURONS, N)
        product(w, columns, H, first, last)
        activate(h[first * size : last * size], slope[first * size : last * size])
        i = first
        while i + 4 <= last:
            a, b, c, d = alpha[i], alpha[i + 1], alpha[i + 2], alpha[i + 3]
            for m in range(size):
                f[m] += a * H[i, m] + b * H[i + 1, m] + c * H[i + 2, m] + d * H[i + 3, m]
            i += 4
        while i < last:
            for m in range(size):
                f[m] += alpha[i] * H[i, m]
            i += 1


@njit(fastmath=FAST, error_model="numpy")
def _finish(position: Array, gradient: Array, slope: Array, sums: Array, constants: Array) -> float:
    """Makes the gradient of U of that of the likelihood, and returns the prior's part of U.

    `slope` holds dL/da_i, and `sums` dL/dw_ij without the factor a_i, in one row if all are alike. What a column of w
    pulls at is its width too, of which ln lambda_j = -2 (ln CENTRE + STRETCH v_j) is the log of a Gamma variable.
    """
    use_whole_registers()
    N, D, relevant = slope.size, constants.size - COLUMNS, int(constants[RELEVANT])
    alpha, omega, hidden = position[:N], position[N : N + N * D].reshape(N, D), gradient[N : N + N * D].reshape(N, D)
    readout = constant(constants[READOUT], position[0])
    work, energy = np.zeros(D), 0.0
    for i in range(N):
        energy += 0.5 * np.float64(alpha[i]) * np.float64(alpha[i])
        gradient[i] = alpha[i] + readout * slope[i]
        for j in range(D):
            energy += 0.5 * np.float64(omega[i, j]) * np.float64(omega[i, j])
    widths = constants[COLUMNS:].astype(position.dtype)
    for i in range(N):
        a, row = readout * alpha[i], min(i, sums.shape[0] - 1)
        for j in range(D):
            force = a * widths[j] * sums[row, j]
            work[j] += np.float64(force) * np.float64(omega[i, j])
            hidden[i, j] = omega[i, j] + force
    for j in range(relevant):
        place = N + N * D + j
        log_ratio = -2.0 * constants[STRETCH] * np.float64(position[place])
        excess = np.expm1(log_ratio)
        energy += constants[SHAPE] * (excess - log_ratio)
        gradient[place] = constant(constants[STRETCH] * (work[j] - 2.0 * constants[SHAPE] * excess), position[0])
    return energy


def network_energy(position: Array, gradient: Array, bound: tuple[Any, ...]) -> float:
    """U and its gradient for any activation."""
    use_whole_registers()
    X, y, constants, H, S, columns, activate = bound
    (N, size), (P, D) = H.shape, X.shape
    alpha, w = position[:N], _hidden(position, N, constants)
    readout, precision = constant(constants[READOUT], position[0]), constant(1.0 / constants[NOISE], position[0])
    if constants[FRESH] > 0.0:
        _pack(X, columns)
    width = padded(D, position)
    f, slope = np.empty(size, position.dtype), np.zeros(N, position.dtype)
    weighted, sums = aligned(size, width, position), aligned(N, width, position)
    misfit = constants[OFFSET]
    for first in range(0, P, size):
        block, samples = first // size * D, min(size, P - first)
        _outputs(w, columns[block : block + D], alpha, H, S, activate, f)
        for m in range(samples):
            r = readout * f[m] - y[first + m]
            misfit += np.float64(r) * np.float64(r)
            f[m] = precision * r
            for j in range(D):
                weighted[m, j] = f[m] * X[first + m, j]
        f[samples:] = constant(0.0, f[0])
        weighted[samples:] = constant(0.0, f[0])
        for i in range(N):
            total = constant(0.0, f[0])
            for m in range(size):
                total += H[i, m] * f[m]
            slope[i] += total
        add_product(S, weighted, sums, 0, N)
    return _finish(position, gradient, slope, sums, constants) + 0.5 * misfit / constants[NOISE]


def linear_energy(position: Array, gradient: Array, bound: tuple[Any, ...]) -> float:
    """U and its gradient for the identity, f = X v with v = w^T a: X and y may be any with the same |X v - y|^2."""
    use_whole_registers()
    X, y, constants, H, _, _, _ = bound
    N, (P, D) = H.shape[0], X.shape
    alpha, w = position[:N], _hidden(position, N, constants)
    readout, precision = constant(constants[READOUT], position[0]), constant(1.0 / constants[NOISE], position[0])
    v, force = np.dot(alpha, w), np.zeros((1, D), position.dtype)
    misfit = constants[OFFSET]
    for mu in range(P):
        f = constant(0.0, position[0])
        for j in range(D):
            f += v[j] * X[mu, j]
        r = readout * f - y[mu]
        misfit += np.float64(r) * np.float64(r)
        for j in range(D):
            force[0, j] += precision * r * X[mu, j]
    slope = np.dot(w, force[0])
    return _finish(position, gradient, slope, force, constants) + 0.5 * misfit / constants[NOISE]


@njit(fastmath=FAST, error_model="numpy")
def _observe_weights(alpha: Array, w: Array, row: Array, X: Array, constants: Array) -> None:
    """After the outputs: sum_i a_i^2, and the mean square pre-activation at the remaining rows of X."""
    points = int(constants[POINTS])
    readout, N = constants[READOUT], alpha.size
    row[points:] = constant(0.0, row[0])
    for i in range(N):
        row[points] += constant((readout * alpha[i]) ** 2, row[0])
        for k in range(points, X.shape[0]):
            h = constant(0.0, row[0])
            for j in range(X.shape[1]):
                h += w[i, j] * X[k, j]
            row[k + 1] += h * h / constant(N, row[0])


def observe_network(position: Array, row: Array, bound: tuple[Any, ...]) -> float:
    """f at the first `constants[POINTS]` rows of X, sum a^2, mean square pre-activation at the other rows."""
    X, _, constants, H, S, columns, activate = bound
    (N, size), D, points = H.shape, X.shape[1], int(constants[POINTS])
    alpha, w = position[:N], _hidden(position, N, constants)
    f = np.empty(size, position.dtype)
    for first in range(0, points, size):
        block = first // size * D
        _outputs(w, columns[block : block + D], alpha, H, S, activate, f)
        for m in range(min(size, points - first)):
            row[first + m] = constant(constants[READOUT], f[0]) * f[m]
    _observe_weights(alpha, w, row, X, constants)
    return 0.0


def observe_linear(position: Array, row: Array, bound: tuple[Any, ...]) -> float:
    """The same for the identity."""
    X, _, constants, H, _, _, _ = bound
    N, points = H.shape[0], int(constants[POINTS])
    alpha, w = position[:N], _hidden(position, N, constants)
    f = np.dot(X[:points], np.dot(alpha, w))
    for mu in range(points):
        row[mu] = constant(constants[READOUT], f[0]) * f[mu]
    _observe_weights(alpha, w, row, X, constants)
    return 0.0


@cache
def compiled(function: Any, dtype: Any) -> Any:
    """One of the functions above in one precision, from Numba's cache on disk where it is there."""
    return cfunc(energy_type(dtype), cache=True, fastmath=FAST, error_model="numpy")(function)
