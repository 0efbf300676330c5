"""The kernel of a hidden layer's features on data, K_φ = E[φ(u) φ(v)] from the covariance of pre-activations.

Where the average has a closed form it is compiled, element by element of the Gram matrix; where it has none it is
Mehler's series Σ_n c_n(σ_u) c_n(σ_v) ρⁿ in the correlation ρ, with the Hermite coefficients c_n by quadrature: one
integral a sample and order, not one a pair, a matrix that is positive by construction, and by Parseval a bound on what
the series leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.compile import Kernel, compile_kernel
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput
from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.averages import GaussianAverage
from fieldtheory.symbolic.features import CORRELATION, SIGMA_U, SIGMA_V, U
from fieldtheory.symbolic.fields import Entry, Space

Array = np.ndarray

ORDERS = (32, 64, 128, 256, 512)
"""How far Mehler's series is taken: no further than the accuracy asked for needs, and never beyond the last."""
ACCURACY = 1e-13
"""What the series may leave out, relative to the largest element."""
TINY = 1e-100
"""A standard deviation of zero, for formulas that divide by it."""


@dataclass(frozen=True, eq=False)
class FeatureKernel:
    """E[φ(u) φ(v)] for numbers: ``activation`` is φ(u), ``average`` the average as a node.

    ``closed`` is its closed form in σ_u, σ_v and ρ, None where the rules find none.
    """

    activation: sp.Expr
    average: GaussianAverage

    @cached_property
    def closed(self) -> sp.Expr | None:
        found = self.average.doit()
        return None if found.has(GaussianAverage) else found

    @cached_property
    def slope(self) -> float | None:
        """α where K_φ is α times the covariance of the pre-activations, as for a linear activation."""
        ratio = None if self.closed is None else sp.cancel(self.closed / (SIGMA_U * SIGMA_V * CORRELATION))
        return float(ratio) if ratio is not None and ratio.is_number else None

    @cached_property
    def compiled(self) -> Kernel:
        """The closed form as a kernel over pairs of points."""
        pair = Space("pair", sp.Symbol("pairs", positive=True))
        entries = {symbol: Entry(symbol.name, "data", (pair,)) for symbol in (SIGMA_U, SIGMA_V, CORRELATION)}
        assert self.closed is not None
        return compile_kernel({"kernel": self.closed.xreplace(entries)}, scalars=[], entries=list(entries.values()),
                              name="feature_kernel")

    def matrices(self, covariance: Array, test: tuple[Array, Array] | None = None) -> tuple[Array, Array | None, float]:
        """K_φ (P, P), K_φ* (T, P) or None, and a bound on their error beyond rounding.

        ``covariance`` (P, P) is that of the pre-activations; ``test`` is (T, P) between test points and samples, and
        the variances (T,) at the test points.  Correlations beyond ±1 by rounding are ±1; a point of variance zero
        has φ(0).

        Raises
        ------
        BadInput
            If the average does not exist or is not finite on these data.
        """
        sigma = np.sqrt(np.diag(covariance))
        rho = _correlation(covariance, sigma, sigma)
        across = None if test is None else (np.sqrt(test[1]), _correlation(test[0], np.sqrt(test[1]), sigma))
        if self.closed is not None:
            P = len(sigma)
            rows, columns = np.triu_indices(P)
            K, error = np.empty((P, P)), 0.0
            K[rows, columns] = self._elements(sigma[rows], sigma[columns], rho[rows, columns])
            K[columns, rows] = K[rows, columns]
            K_test = None if across is None else self._elements(
                np.repeat(across[0], P), np.tile(sigma, len(across[0])), across[1].ravel()).reshape(across[1].shape)
        else:
            K, K_test, error = self._series(sigma, rho, across)
        if not np.isfinite(K).all() or (K_test is not None and not np.isfinite(K_test).all()):
            raise BadInput("activation", self.activation, "an activation with a finite mean square on these data")
        return K, K_test, error

    def _elements(self, sigma_u: Array, sigma_v: Array, rho: Array) -> Array:
        values = {SIGMA_U: np.maximum(sigma_u, TINY), SIGMA_V: np.maximum(sigma_v, TINY), CORRELATION: rho}
        found = self.compiled(**{symbol.name: value for symbol, value in values.items()})["kernel"]
        return np.broadcast_to(found, rho.shape)

    # ----------------------------------------------------------------------------------------- Mehler's series

    def _series(self, sigma: Array, rho: Array,
                across: tuple[Array, Array] | None) -> tuple[Array, Array | None, float]:
        P = len(sigma)
        spread = sigma if across is None else np.concatenate([sigma, across[0]])
        values, place = np.unique(spread, return_inverse=True)  # inputs of equal norm share their coefficients
        off = np.abs(rho - np.diag(np.diag(rho)))
        largest = max(float(off.max(initial=0.0)), 0.0 if across is None else float(np.abs(across[1]).max(initial=0.0)))
        for orders in ORDERS:
            coefficients, squares, quadrature = hermite_table(self.activation, values, orders)
            if not np.isfinite(squares).all():
                raise BadInput("activation", self.activation, "an activation with a finite mean square on these data")
            left = np.maximum(squares - (coefficients**2).sum(axis=1), 0.0)
            bound = float(left.max()) * largest**orders
            if bound <= ACCURACY * float(squares.max()):
                break
        c = coefficients[place]
        K = _mehler(c[:P], c[:P], rho)
        np.fill_diagonal(K, squares[place[:P]])
        K = (K + K.T) / 2
        return K, None if across is None else _mehler(c[P:], c[:P], across[1]), bound + quadrature


def _correlation(covariance: Array, rows: Array, columns: Array) -> Array:
    """Correlations, ±1 where they are so to rounding, 0 at a point of variance zero."""
    scale = np.sqrt(np.outer(rows**2, columns**2))
    rho = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
    np.clip(rho, -1.0, 1.0, out=rho)
    near = 1.0 - np.abs(rho) <= 4 * np.finfo(float).eps
    rho[near] = np.sign(rho[near])
    return rho


def _panels(nodes: int, panels: int = 20, end: float = 13.0) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights on panels that have an edge at zero, where activations have their kinks."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    edges = np.linspace(-end, end, 2 * panels + 1)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (x + 1)).ravel(), (half * w).ravel()


def hermite_table(activation: sp.Expr, sigma: Array, orders: int) -> tuple[Array, Array, float]:
    """c_n(σ) = E[φ(σz) he_n(z)] (σ, n), E[φ(σz)²] (σ,), and an estimate of the quadrature's error of the latter."""
    squares = []
    for nodes in (14, 20):
        z, weights = _panels(nodes)
        half = weights * np.exp(-z**2 / 4) / np.sqrt(2 * np.pi)
        with np.errstate(over="ignore", invalid="ignore"):
            phi = np.real(np.stack([evaluate(activation, {U: s * z}) * np.ones_like(z) for s in sigma]))
            integrand = phi**2 * half * np.exp(-z**2 / 4)
        whole = integrand.sum(axis=1)
        lost = integrand[:, np.abs(z) > 12].sum(axis=1) > 1e-8 * whole  # grows as fast as the law falls
        squares.append(np.where(lost, np.inf, whole))
    table = np.empty((len(sigma), orders))
    before, function = np.zeros_like(z), np.exp(-z**2 / 4)  # Hermite functions: nothing overflows
    for n in range(orders):
        table[:, n] = phi @ (half * function)
        before, function = function, (z * function - np.sqrt(n) * before) / np.sqrt(n + 1)
    rough, fine = squares
    both = np.isfinite(rough) & np.isfinite(fine)
    return table, fine, float(np.abs(fine[both] - rough[both]).max(initial=0.0))


def _mehler(left: Array, right: Array, rho: Array, block: int = 64) -> Array:
    """Σ_n c_n(row) c_n(column) ρⁿ by Horner's rule, in blocks of rows that stay in the cache."""
    K = np.empty_like(rho)
    present = np.abs(left).max(axis=0, initial=0.0) * np.abs(right).max(axis=0, initial=0.0) > 0
    for start in range(0, len(rho), block):
        rows = slice(start, start + block)
        total = np.zeros_like(rho[rows])
        for n in range(left.shape[1] - 1, -1, -1):
            total *= rho[rows]
            if present[n]:
                total += left[rows, n, None] * right[:, n]
        K[rows] = total
    return K


def feature_data(kernel: FeatureKernel, details: Mapping[str, Any], numbers: Mapping[str, float],
                 data: Dataset) -> tuple[Dataset, float, float]:
    """The data as the theory sees them, the weight variance at which their kernel is K_φ, and the error of K_φ.

    ``details`` are those of the rule ``gaussian_features``, whose prior variances are read with ``numbers``.
    """
    def number(expr: sp.Expr) -> float:
        return float(expr.xreplace({s: sp.Float(numbers[s.name]) for s in expr.free_symbols}))

    strength = number(details["weight_variance"]) * numbers["D"]  # of a kernel: X X^T / D
    shift = number(details["shift_variance"])
    if kernel.slope is not None:  # the inputs themselves serve, with one more for the bias: their rank is kept
        return (data.with_bias(shift / strength) if shift else data), kernel.slope * strength, 0.0
    covariance = data.kernel(strength) + shift
    test, cross = None, data.test_kernel(strength)
    if cross is not None:
        if data.X_test is None:
            raise BadInput("data", "a kernel with test points", "inputs X and X_test: the kernel of the features needs "
                           "the variance at the test points")
        test = (cross + shift, strength * (data.X_test**2).mean(axis=1) + shift)
    K, K_test, error = kernel.matrices(covariance, test)
    return Dataset.from_kernel(K, data.y, K_test, data.y_test, name=data.name), 1.0, error


__all__ = ["FeatureKernel", "feature_data", "hermite_table"]
