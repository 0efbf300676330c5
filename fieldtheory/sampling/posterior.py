r"""The weight posterior of a two-layer network: energy, gradient and observables, written by hand.

This module is a witness: it is derived from the definition of the network alone and shares nothing with the
symbolic engine. With the priors whitened,

    a_i = sqrt(g/N) alpha_i,    w_ij = sqrt(weight_variance/D) omega_ij,    f_mu = sum_i a_i phi(w_i . x_mu),

the posterior density is proportional to exp(-U),

    U(alpha, omega) = (|alpha|^2 + |omega|^2)/2 + |f - y|^2 / (2 s),

where g = readout_variance N^(1 - gamma) and s = noise_variance N^(-delta). A position is the flat array
(alpha, omega) of length N + N D, omega row by row. With r = (f - y)/s and h = w X^T of shape (N, P),

    dU/dalpha = alpha + sqrt(g/N) phi(h) r,
    dU/domega = omega + sqrt(weight_variance/D) [a_i phi'(h_imu) r_mu] X:

two matrix products, 4 N P D operations. For phi = identity the network is f = X v with v = w^T a, so that
X^T X and X^T y suffice and one gradient costs O(N D + D^2), whatever P.

Energies and observables are Numba C callbacks of one type, `ENERGY`: the stepper in `methods` takes any of
them, is compiled once, and is found in Numba's cache afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numba import cfunc, njit, types
from numba.core.errors import NumbaError
from numpy.typing import ArrayLike, NDArray

from fieldtheory.errors import BadInput, UnknownName

Array = NDArray[np.float64]

_vector, _matrix = types.float64[::1], types.float64[:, ::1]
#: (pre-activations, overwritten by phi; slopes, overwritten by phi')
ACTIVATION = types.void(_matrix, _matrix)
#: inputs, target, constants, two workspaces, activation
BOUND = types.Tuple((_matrix, _vector, _vector, _matrix, _matrix, types.FunctionType(ACTIVATION)))
#: (position, result, bound): an energy returns U and fills `result` with the gradient
ENERGY = types.float64(_vector, _vector, BOUND)

# Sums may be reordered for speed; NaN and infinity keep their meaning, because the accept test must see them.
_FAST = {"reassoc", "contract", "nsz"}


# --- activations: phi and phi' over an array, in place ----------------------------------------------------


def _identity(H: Array, S: Array) -> None:
    for i in range(H.shape[0]):
        for j in range(H.shape[1]):
            S[i, j] = 1.0


def _erf(H: Array, S: Array) -> None:
    for i in range(H.shape[0]):
        for j in range(H.shape[1]):
            h = H[i, j]
            S[i, j] = 2.0 / math.sqrt(math.pi) * math.exp(-h * h)
            H[i, j] = math.erf(h)


def _relu(H: Array, S: Array) -> None:
    for i in range(H.shape[0]):
        for j in range(H.shape[1]):
            S[i, j] = 1.0 if H[i, j] > 0.0 else 0.0
            H[i, j] *= S[i, j]


def _tanh(H: Array, S: Array) -> None:
    for i in range(H.shape[0]):
        for j in range(H.shape[1]):
            t = math.tanh(H[i, j])
            S[i, j] = 1.0 - t * t
            H[i, j] = t


def _quadratic(H: Array, S: Array) -> None:
    for i in range(H.shape[0]):
        for j in range(H.shape[1]):
            S[i, j] = 2.0 * H[i, j]
            H[i, j] *= H[i, j]


ACTIVATIONS: dict[str, Callable] = {
    "identity": _identity,
    "erf": _erf,
    "relu": _relu,
    "tanh": _tanh,
    "quadratic": _quadratic,
}


@cache
def _named_activation(name: str) -> Any:
    return cfunc(ACTIVATION, cache=True, error_model="numpy")(ACTIVATIONS[name])


@lru_cache(maxsize=32)
def _custom_activation(functions: tuple[Callable, ...]) -> Any:
    value, slope = (f if hasattr(f, "py_func") else njit(f) for f in functions)

    def activate(H: Array, S: Array) -> None:
        for i in range(H.shape[0]):
            for j in range(H.shape[1]):
                h = H[i, j]
                S[i, j] = slope(h)
                H[i, j] = value(h)

    try:
        return cfunc(ACTIVATION, error_model="numpy")(activate)
    except NumbaError as error:
        raise BadInput(
            "activation_functions",
            f"functions Numba cannot compile ({str(error).splitlines()[0]})",
            "a pair (phi, its derivative), each taking and returning one number",
        ) from error


# --- energies and observables -----------------------------------------------------------------------------


def _network_energy(position: Array, gradient: Array, bound: tuple[Any, ...]) -> float:
    X, y, constants, H, S, activate = bound
    readout_scale, weight_scale, noise = constants[0], constants[1], constants[2]
    N, P, D = H.shape[0], X.shape[0], X.shape[1]
    alpha, omega = position[:N], position[N:].reshape(N, D)
    np.dot(omega, X.T, H)
    for i in range(N):
        for mu in range(P):
            H[i, mu] *= weight_scale
    activate(H, S)
    r = np.dot(alpha, H)
    misfit = 0.0
    for mu in range(P):
        r[mu] = readout_scale * r[mu] - y[mu]
        misfit += r[mu] * r[mu]
        r[mu] /= noise
    for i in range(N):
        slope = 0.0
        for mu in range(P):
            slope += H[i, mu] * r[mu]
            S[i, mu] *= weight_scale * readout_scale * alpha[i] * r[mu]
        gradient[i] = readout_scale * slope
    np.dot(S, X, gradient[N:].reshape(N, D))
    prior = 0.0
    for k in range(position.size):
        gradient[k] += position[k]
        prior += position[k] * position[k]
    return 0.5 * (prior + misfit / noise)


def _linear_energy(position: Array, gradient: Array, bound: tuple[Any, ...]) -> float:
    """Identity activation; `X` holds X^T X, `y` holds X^T y, `constants[3]` holds y.y."""
    XX, Xy, constants, H, _, _ = bound
    readout_scale, weight_scale, noise = constants[0], constants[1], constants[2]
    N, D = H.shape[0], XX.shape[0]
    alpha, omega = position[:N], position[N:].reshape(N, D)
    scale = readout_scale * weight_scale
    v = np.dot(alpha, omega)
    for j in range(D):
        v[j] *= scale
    c = np.dot(XX, v)
    misfit = constants[3]
    for j in range(D):
        misfit += v[j] * (c[j] - 2.0 * Xy[j])
        c[j] = (c[j] - Xy[j]) * scale / noise
    prior = 0.0
    for i in range(N):
        slope = 0.0
        for j in range(D):
            slope += omega[i, j] * c[j]
            prior += omega[i, j] * omega[i, j]
            gradient[N + i * D + j] = omega[i, j] + alpha[i] * c[j]
        prior += alpha[i] * alpha[i]
        gradient[i] = alpha[i] + slope
    return 0.5 * (prior + misfit / noise)


def _observe_network(position: Array, row: Array, bound: tuple[Any, ...]) -> float:
    """f at the first `constants[2]` rows of X, sum a^2, mean square pre-activation at the other rows."""
    X, _, constants, H, S, activate = bound
    readout_scale, weight_scale, points = constants[0], constants[1], int(constants[2])
    N, D = H.shape[0], X.shape[1]
    alpha, omega = position[:N], position[N:].reshape(N, D)
    np.dot(omega, X.T, H)
    row[:] = 0.0
    for i in range(N):
        row[points] += (readout_scale * alpha[i]) ** 2
        for k in range(X.shape[0]):
            H[i, k] *= weight_scale
            if k >= points:
                row[k + 1] += H[i, k] ** 2 / N
    activate(H, S)
    for i in range(N):
        for mu in range(points):
            row[mu] += readout_scale * alpha[i] * H[i, mu]
    return 0.0


def _observe_linear(position: Array, row: Array, bound: tuple[Any, ...]) -> float:
    X, _, constants, H, _, _ = bound
    readout_scale, weight_scale, points = constants[0], constants[1], int(constants[2])
    N, D = H.shape[0], X.shape[1]
    alpha, omega = position[:N], position[N:].reshape(N, D)
    f = np.dot(X, np.dot(alpha, omega))
    row[:] = 0.0
    for mu in range(points):
        row[mu] = readout_scale * weight_scale * f[mu]
    for i in range(N):
        row[points] += (readout_scale * alpha[i]) ** 2
        for k in range(points, X.shape[0]):
            h = 0.0
            for j in range(D):
                h += omega[i, j] * X[k, j]
            row[k + 1] += (weight_scale * h) ** 2 / N
    return 0.0


@cache
def _compiled(function: Callable) -> Any:
    return cfunc(ENERGY, cache=True, fastmath=_FAST, error_model="numpy")(function)


@njit(cache=True)
def _call(function: Any, position: Array, result: Array, arrays: tuple[Any, ...]) -> float:
    return function(position, result, arrays)


@dataclass(frozen=True)
class Bound:
    """A compiled `ENERGY` function with its arrays; the workspaces among them belong to one chain."""

    function: Any
    arrays: tuple[Any, ...]

    @classmethod
    def make(
        cls,
        function: Callable,
        X: ArrayLike = ((),),
        y: ArrayLike = (),
        constants: ArrayLike = (),
        *,
        workspace: tuple[int, int] = (0, 0),
        activation: Any = None,
    ) -> Bound:
        """Bind any `function(position, result, (X, y, constants, H, S, activate))`, compiling it if need be.

        With this the same chains sample a density of the user's own, or a network's through another gradient.
        """
        if not hasattr(function, "native_name"):
            function = cfunc(ENERGY, error_model="numpy")(getattr(function, "py_func", function))
        return cls(
            function,
            (
                np.array(X, float, order="C"),
                np.array(y, float),
                np.array(constants, float),
                np.empty(workspace),
                np.empty(workspace),
                activation or _named_activation("identity"),
            ),
        )

    def __call__(self, position: Array, result: Array) -> float:
        """One evaluation from Python; the stepper calls the compiled function itself."""
        return _call(self.function, position, result, self.arrays)


@dataclass(frozen=True)
class Posterior:
    """The posterior of (alpha, omega) given inputs X (P, D) and targets y (P,).

    `points` (M, D) are the inputs at which outputs are recorded, `directions` (k, D) the input directions u
    along which (1/N) sum_i (w_i . u)^2 is. Positions have length N (1 + D). `weight_prior_variance` is the
    variance of one hidden weight, weight_variance/D for a network's own inputs.

    Raises BadInput for `noise_variance` = 0 (the posterior then has no density in weight space) and for an
    opaque activation without its pair of functions; UnknownName for an unknown activation.
    """

    width: int
    readout_prior_variance: float
    weight_prior_variance: float
    noise_variance: float
    X: Array
    y: Array
    activation: Any = "identity"
    activation_functions: tuple[Callable, ...] | None = None
    points: Array | None = None
    directions: Array | None = None

    def __post_init__(self) -> None:
        if not self.noise_variance > 0:
            raise BadInput(
                "noise_variance",
                self.noise_variance,
                "a positive number: a sampler needs a density over the weights, "
                "and without noise the posterior lives on the surface f = y",
            )
        if self.activation_functions is not None:
            if len(self.activation_functions) != 2 or not all(map(callable, self.activation_functions)):
                raise BadInput(
                    "activation_functions", self.activation_functions, "a pair (phi, its derivative)"
                )
        elif not isinstance(self.activation, str):
            raise BadInput(
                "activation_functions",
                None,
                f"a pair (phi, its derivative) for the opaque activation {self.activation}",
            )
        elif self.activation not in ACTIVATIONS:
            raise UnknownName("activation", self.activation, list(ACTIVATIONS))

    @property
    def size(self) -> int:
        """Number of coordinates, N (1 + D)."""
        return self.width * (1 + self.X.shape[1])

    @property
    def is_linear(self) -> bool:
        """Whether X^T X and X^T y suffice."""
        return self.activation_functions is None and self.activation == "identity"

    @property
    def row_size(self) -> int:
        """Length of a row of observables: outputs at `points`, the readout norm, an overlap per direction."""
        return sum(len(x) for x in (self.points, self.directions) if x is not None) + 1

    def _activation(self) -> Any:
        if self.activation_functions is not None:
            return _custom_activation(self.activation_functions)
        return _named_activation(self.activation)

    def _bind(
        self, functions: tuple[Callable, Callable], X: Array, y: Array, constants: ArrayLike, rows: int
    ) -> Bound:
        return Bound.make(
            _compiled(functions[0] if self.is_linear else functions[1]),
            X,
            y,
            constants,
            workspace=(self.width, 1 if self.is_linear else rows),
            activation=self._activation(),
        )

    def energy(self) -> Bound:
        """U and its gradient, with workspaces of its own (2 N P numbers, none for the identity)."""
        scales = [
            math.sqrt(self.readout_prior_variance),
            math.sqrt(self.weight_prior_variance),
            self.noise_variance,
        ]
        X, y = self.X, self.y
        if self.is_linear:
            X, y, scales = X.T @ X, X.T @ y, [*scales, float(y @ y)]
        return self._bind((_linear_energy, _network_energy), X, y, scales, len(self.X))

    def observables(self) -> Bound:
        """Fills a row of `row_size` numbers: outputs, sum_i a_i^2, (1/N) sum_i (w_i.u)^2 per direction u."""
        rows = [x for x in (self.points, self.directions) if x is not None]
        X = np.concatenate(rows) if rows else np.empty((0, self.X.shape[1]))
        scales = [
            math.sqrt(self.readout_prior_variance),
            math.sqrt(self.weight_prior_variance),
            0 if self.points is None else len(self.points),
        ]
        return self._bind((_observe_linear, _observe_network), X, np.empty(0), scales, len(X))

    def whiten(self, readout: Array, hidden: Array) -> Array:
        """The position of given weights a (N,) and w (N, D)."""
        return np.concatenate(
            [
                np.ravel(readout) / math.sqrt(self.readout_prior_variance),
                np.ravel(hidden) / math.sqrt(self.weight_prior_variance),
            ]
        )
