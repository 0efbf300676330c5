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

Energies and observables are Numba C callbacks of one type for each precision, `ENERGY` in float64: the stepper in
`methods` takes any of them, is compiled once, and is found in Numba's cache afterwards. They are in `kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cfunc, njit
from numpy.typing import ArrayLike, NDArray
from scipy.special import polygamma

from fieldtheory.errors import BadInput, UnknownName
from fieldtheory.sampling import kernels
from fieldtheory.sampling.activations import ACTIVATIONS, custom_activation, named_activation, number_type

Array = NDArray[Any]

BOUND, ENERGY = kernels.bound_type("float64"), kernels.energy_type("float64")


@njit(cache=True)
def _call(function: Any, position: Array, result: Array, arrays: tuple[Any, ...]) -> float:
    return function(position, result, arrays)


def _aligned(array: Array) -> Array:
    """A copy that begins at a cache line: a vector that straddles two costs twice."""
    numbers = np.empty(array.nbytes + 64, np.uint8)
    first = -numbers.ctypes.data % 64
    copy = numbers[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@dataclass(frozen=True)
class Bound:
    """A compiled `ENERGY` function with its arrays; the workspaces among them belong to one chain."""

    function: Any
    arrays: tuple[Any, ...]

    @property
    def dtype(self) -> np.dtype:
        """The precision of positions, gradients and data."""
        return self.arrays[0].dtype

    @classmethod
    def make(
        cls,
        function: Callable,
        X: ArrayLike = ((),),
        y: ArrayLike = (),
        constants: ArrayLike = (),
        *,
        workspace: tuple[int, int] = (0, 0),
        columns: ArrayLike = ((),),
        activation: Any = None,
        dtype: Any = np.float64,
    ) -> Bound:
        """Bind any `function(position, result, (X, y, constants, H, S, columns, activate))`, compiling it if need be.

        With this the same chains sample a density of the user's own, or a network's through another gradient.
        """
        number_type(dtype)
        if not hasattr(function, "native_name"):
            signature = kernels.energy_type(np.dtype(dtype).name)
            function = cfunc(signature, error_model="numpy")(getattr(function, "py_func", function))
        return cls(
            function,
            (
                np.array(X, dtype, order="C"),
                np.array(y, dtype),
                np.array(constants, float),
                _aligned(np.zeros(workspace, dtype)),
                _aligned(np.zeros(workspace, dtype)),
                _aligned(np.array(columns, dtype, order="C")),
                activation or named_activation("identity", np.dtype(dtype).name),
            ),
        )

    def __call__(self, position: Array, result: Array) -> float:
        """One evaluation from Python; the stepper calls the compiled function itself."""
        return _call(self.function, position, result, self.arrays)


def _stretch(shape: float) -> float:
    """The deviation of ln(1/sqrt(lambda)) for lambda from a Gamma law."""
    return math.sqrt(float(polygamma(1, shape))) / 2


@dataclass(frozen=True)
class Posterior:
    """The posterior of (alpha, omega) given inputs X (P, D) and targets y (P,).

    `points` (M, D) are the inputs at which outputs are recorded, `directions` (k, D) the input directions u
    along which (1/N) sum_i (w_i . u)^2 is. `weight_prior_variance` is the
    variance of one hidden weight, weight_variance/D for a network's own inputs, or one for each column of X.

    `precision_prior` = (shape, rate): the weights of the first `relevant` columns of X (None: of all) are
    N(0, 1/lambda_j) instead, lambda_j ~ Gamma(shape, rate). A position is then (alpha, omega, v) with

        w_ij = omega_ij/sqrt(lambda_j),    lambda_j = (shape/rate) e^(-2 t v_j),
        U(alpha, omega, v) = (|alpha|^2 + |omega|^2)/2 + shape sum_j (e^(-2 t v_j) - 1 + 2 t v_j) + |f - y|^2/(2 s):

    with t = sqrt(psi'(shape))/2, the deviation of ln sqrt(lambda): the prior of each v_j has unit width, and at fixed
    omega a step in v_j scales a whole column of w. (Given w, lambda_j is known to a relative sqrt(2/N), so that in
    (alpha, w) the scale of a column can only creep, be lambda integrated out or drawn in turn with w.)

    `dtype`: float64, or float32 for positions, data and products, with energies summed in float64 all the same.

    Raises BadInput for `noise_variance` = 0 (the posterior then has no density in weight space) and for an
    opaque activation without its pair of functions; UnknownName for an unknown activation.
    """

    width: int
    readout_prior_variance: float
    weight_prior_variance: float | Array
    noise_variance: float
    X: Array
    y: Array
    activation: Any = "identity"
    activation_functions: tuple[Callable, ...] | None = None
    points: Array | None = None
    directions: Array | None = None
    precision_prior: tuple[float, float] | None = None
    relevant: int | None = None
    dtype: Any = np.float64

    def __post_init__(self) -> None:
        number_type(self.dtype)
        if self.precision_prior is not None and not min(self.precision_prior) > 0:
            raise BadInput("precision_prior", self.precision_prior, "two positive numbers, shape and rate")
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
        """Number of coordinates, N (1 + D), and one for each precision."""
        return self.width * (1 + self.X.shape[1]) + self.precisions

    @property
    def precisions(self) -> int:
        """Number of precisions, those of the first columns of X."""
        if self.precision_prior is None:
            return 0
        return self.X.shape[1] if self.relevant is None else self.relevant

    @property
    def is_linear(self) -> bool:
        """Whether X^T X and X^T y suffice."""
        return self.activation_functions is None and self.activation == "identity"

    @property
    def row_size(self) -> int:
        """Length of a row of observables: outputs at `points`, the readout norm, an overlap per direction."""
        return sum(len(x) for x in (self.points, self.directions) if x is not None) + 1

    def _bind(
        self, functions: tuple[Callable, Callable], X: Array, y: Array, packed: Array, constants: dict[int, float]
    ) -> Bound:
        """`packed`: the rows of X that the network is evaluated at, block by block; `constants` beside the widths."""
        dtype = np.dtype(self.dtype).name
        widths = np.broadcast_to(np.sqrt(self.weight_prior_variance), self.X.shape[1:])
        entries = np.concatenate([np.zeros(kernels.COLUMNS), widths])
        entries[kernels.READOUT] = math.sqrt(self.readout_prior_variance)
        if self.precision_prior is not None:
            shape, rate = self.precision_prior
            entries[[kernels.RELEVANT, kernels.SHAPE]] = self.precisions, shape
            entries[[kernels.CENTRE, kernels.STRETCH]] = math.sqrt(rate / shape), _stretch(shape)
        for place, value in constants.items():
            entries[place] = value
        workspace = (self.width, kernels.block_size(self.width, len(packed), dtype))
        packed = np.array(packed, dtype, order="C")
        return Bound.make(
            kernels.compiled(functions[0] if self.is_linear else functions[1], dtype),
            X,
            y,
            entries,
            workspace=(self.width, 0) if self.is_linear else workspace,
            columns=((),) if self.is_linear else kernels.pack(packed, workspace[1]),
            activation=self.activation_function(),
            dtype=dtype,
        )

    def activation_function(self) -> Any:
        """phi and phi' over vectors, compiled. BadInput for functions that Numba does not compile."""
        dtype = np.dtype(self.dtype).name
        if self.activation_functions is not None:
            return custom_activation(self.activation_functions, dtype)
        return named_activation(self.activation, dtype)

    def _likelihood(self, X: Array, y: Array, constants: dict[int, float]) -> Bound:
        return self._bind((kernels.linear_energy, kernels.network_energy), X, y, X, constants)

    def energy(self) -> Bound:
        """U and its gradient, with workspaces of its own (those of one block of samples, none for the identity)."""
        constants = {kernels.NOISE: self.noise_variance}
        if not self.is_linear:
            return self._likelihood(self.X, self.y, constants)
        # |X v - y|^2 = |R v - Q^T y|^2 + |y - Q Q^T y|^2 with X = Q R.
        Q, R = np.linalg.qr(np.asarray(self.X, float))
        projected = Q.T @ self.y
        rest = np.asarray(self.y) - Q @ projected
        return self._likelihood(R, projected, constants | {kernels.OFFSET: float(rest @ rest)})

    def minibatch(self, size: int) -> Bound:
        """As `energy`, with |f - y|^2 from `size` samples times P/size: whoever calls it writes X and y before."""
        P = len(self.X)
        if not 1 <= size <= P:
            raise BadInput("size", size, f"a number of samples from 1 to {P}")
        constants = {kernels.NOISE: self.noise_variance * size / P, kernels.FRESH: 1.0}
        return self._likelihood(self.X[:size], self.y[:size], constants)

    def observables(self) -> Bound:
        """Fills a row of `row_size` numbers: outputs, sum_i a_i^2, (1/N) sum_i (w_i.u)^2 per direction u."""
        empty = np.empty((0, self.X.shape[1]))
        points = empty if self.points is None else self.points
        rows = np.concatenate([points, empty if self.directions is None else self.directions])
        functions = kernels.observe_linear, kernels.observe_network
        return self._bind(functions, rows, np.empty(0), points, {kernels.POINTS: len(points)})

    def whiten(self, readout: Array, hidden: Array, precisions: Array | None = None) -> Array:
        """The position of given weights a (N,) and w (N, D), and precisions (None: their means given w)."""
        widths, v = np.sqrt(np.broadcast_to(self.weight_prior_variance, self.X.shape[1:])), np.empty(0)
        if self.precision_prior is not None:
            (shape, rate), n = self.precision_prior, self.precisions
            if precisions is None:
                precisions = (shape + self.width / 2) / (rate + (hidden[:, :n] ** 2).sum(axis=0) / 2)
            widths = np.concatenate([1 / np.sqrt(precisions), widths[n:]])
            v = -np.log(precisions * rate / shape) / (2 * _stretch(shape))
        alpha = np.ravel(readout) / math.sqrt(self.readout_prior_variance)
        return np.concatenate([alpha, np.ravel(hidden / widths), v])
