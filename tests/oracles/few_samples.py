r"""The exact posterior of a network of any width with one or two samples, by a Fourier integral; knows no theory.

The network is f(x) = Σ_i a_i φ(w_i·x) in one or two input dimensions, a_i ~ N(0, 1/A), w_i ~ N(0, v) componentwise,
likelihood exp(-|f-y|²/2s).  The N neurons are independent under the prior, so that the characteristic function of the
outputs is that of one neuron to the N-th power, and

    Z(y) = ∫ d^Pk/(2π)^P e^{-ik·y - s|k|²/2} χ(k)^N,   χ(k) = E_w exp(-(k·φ(w))²/2A),

in which every average follows: ⟨f_*⟩ = (i N/A Z) ∫ … χ^{N-1} E_w[φ_* (k·φ) e^{…}], and ⟨f⟩ with φ for φ_*.  The
integrand is analytic where χ is, so that the contour may be shifted, k = q - iτ, to where it does not cancel: τ
minimises the modulus on the imaginary axis.  The trapezoidal rule then converges geometrically; a second grid, between
the points of the first, gives the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize

Array = np.ndarray
Activation = Callable[[Array], Array]


def prior_nodes(dimension: int, v: float, end: float = 9.0) -> tuple[Array, Array]:
    """Nodes (dimension, node) and log weights of the prior of w, on Gauss-Legendre panels with an edge at zero.

    In two dimensions panels are in angle and radius, so that the kinks of ReLU may be given an edge by the caller's
    choice of inputs on the axes.
    """
    x, weight = np.polynomial.legendre.leggauss(16)

    def panels(lower: float, upper: float, count: int) -> tuple[Array, Array]:
        edges = np.linspace(lower, upper, count + 1)
        half = np.diff(edges)[:, None] / 2
        return (edges[:-1, None] + half * (x + 1)).ravel(), (half * weight).ravel()

    if dimension == 1:
        u, measure = panels(-end, end, 24)
        return np.sqrt(v) * u[None], np.log(measure / np.sqrt(2 * np.pi)) - u**2 / 2
    radius, along = panels(0.0, end, 5)
    angle, around = panels(0.0, 2 * np.pi, 8)
    r, a = (g.ravel() for g in np.meshgrid(radius, angle, indexing="ij"))
    measure = (along[:, None] * around[None]).ravel() * r / (2 * np.pi)
    return np.sqrt(v) * np.stack([r * np.cos(a), r * np.sin(a)]), np.log(measure) - r**2 / 2


@dataclass(frozen=True)
class Posterior:
    """Means at samples and test points, ln Z with a normalised prior and likelihood, and the error of the rule."""

    mean: Array
    test: Array
    log_evidence: float
    error: float


def posterior(X: Array, y: Array, N: int, A: float, v: float, s: float, phi: Activation,
              X_test: Array | None = None, spacing: float = 0.4) -> Posterior:
    """Exact averages for X of shape (P, D), P and D at most 2."""
    P, D = X.shape
    w, logs = prior_nodes(D, v)
    features = phi(X @ w)
    other = np.concatenate([features, phi(X_test @ w)]) if X_test is not None else features

    def one_neuron(k: Array) -> Array:
        """ln of the integrand of χ, (node, point), for k of shape (P, point)."""
        return logs[:, None] - (features.T @ k)**2 / (2 * A)

    def log_chi(k: Array) -> tuple[Array, Array]:
        terms = one_neuron(k)
        top = terms.real.max(axis=0)
        weights = np.exp(terms - top)
        total = weights.sum(axis=0)
        return np.log(total) + top, weights / total

    def log_modulus(tau: Array) -> float:
        value, _ = log_chi(-1j * tau[:, None])
        return float(N * value[0].real - y @ tau + s * tau @ tau / 2)

    tau = scipy.optimize.minimize(log_modulus, np.zeros(P), method="BFGS", options={"gtol": 1e-7}).x
    reference, unit = log_modulus(tau), np.eye(P)
    size = 1e-2 / np.sqrt(s + N / A)
    bend = np.array([[sum(a * b * log_modulus(tau + size * (a * unit[k] + b * unit[l])) for a in (1, -1)
                          for b in (1, -1)) / (4 * size**2) for l in range(P)] for k in range(P)])
    values, vectors = np.linalg.eigh((bend + bend.T) / 2)
    stretch = vectors / np.sqrt(np.maximum(values, s))

    def integrand(q: Array) -> tuple[Array, Array, Array]:
        k = stretch @ q - 1j * tau[:, None]
        value, weights = log_chi(k)
        return k, weights, np.exp(N * value - 1j * (y @ k) - s * (k**2).sum(axis=0) / 2 - reference)

    reach = 8.0  # until nothing is left along the axes
    while reach < 400 and max(np.abs(integrand(reach * sign * unit)[2]).max() for sign in (1, -1)) > 1e-17:
        reach *= 1.25
    results = []
    for shift in (0.0, 0.5):
        ticks = spacing * (np.arange(-int(reach / spacing) - 1, int(reach / spacing) + 1) + shift)
        q = np.stack([g.ravel() for g in np.meshgrid(*[ticks] * P, indexing="ij")])
        total, sums = 0j, np.zeros(len(other), dtype=complex)
        for start in range(0, q.shape[1], 2000):
            k, weights, density = integrand(q[:, start:start + 2000])
            sums += (other @ (weights * (features.T @ k))) @ density
            total += density.sum()
        volume = abs(np.linalg.det(stretch)) * (spacing / (2 * np.pi))**P
        results.append((np.real(1j * N / A * sums / total), reference + float(np.log(np.real(total) * volume))))
    (first, log_first), (second, log_second) = results
    error = max(float(np.abs(first - second).max()), abs(log_first - log_second))
    means = (first + second) / 2
    return Posterior(means[:P], means[P:], (log_first + log_second) / 2, error)
