"""The cavity of a linear network, solved without particles: one site's law is a mixture of Gaussians.

With φ = L z, L Lᵀ the covariance of the prior and B = A + φᵀGφ, b = φᵀGy, the law of a site is
e^{-z²/2} B^{-1/2} e^{b²/2B} ∝ ∫da e^{-z²/2 - B a²/2 + a b}, Gaussian in z at given a, and 1/B = ∫dt e^{-tB} likewise.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def site_averages(L: Array, G: Array, y: Array, A: float, nodes: int = 24) -> tuple[Array, Array]:
    """⟨φφᵀ⟩ and ⟨φφᵀ/B⟩."""
    mu, U = np.linalg.eigh(L.T @ G @ L)
    mu, h, F = np.maximum(mu, 0.0), U.T @ (L.T @ (G @ y)), L @ U
    scale = A + mu.sum()
    x, wx = np.polynomial.hermite_e.hermegauss(nodes)
    u, wu = np.polynomial.laguerre.laggauss(nodes)
    a = x / np.sqrt(scale)

    def moment(t: Array, log_weight: Array) -> tuple[float, Array]:
        precision = 1 + np.add.outer(a**2, 2 * t)[..., None] * mu
        logs = (log_weight - A * np.add.outer(a**2 / 2, t) - np.log(precision).sum(axis=-1) / 2
                + a[:, None]**2 * (h**2 / precision).sum(axis=-1) / 2)
        weights, precision = np.exp(logs).ravel(), precision.reshape(-1, len(mu))
        mean = np.repeat(a, len(t))[:, None] * h / precision
        total = (F * (weights @ (1 / precision))) @ F.T + (F @ (mean.T * weights) @ mean) @ F.T
        return float(weights.sum()), total

    flat = np.log(wx) + x**2 / 2
    Z, plain = moment(np.zeros(1), flat[:, None])
    _, screened = moment(u / scale, flat[:, None] + np.log(wu) + u - np.log(scale))
    return plain / Z, screened / Z


def mean_output(X: Array, y: Array, width: int, *, self_consistent: bool, g: float = 1.0, s: float = 1.0) -> Array:
    """⟨f⟩ of one site in the medium of the others, σ_w = 1; ``self_consistent`` or the mean."""
    A, others, eye = width / g, width - 1, np.eye(len(y))
    K = X @ X.T / X.shape[1]
    values, V = np.linalg.eigh(K)
    L = V * np.sqrt(np.maximum(values, 0.0))
    G, mixed = np.linalg.inv(s * eye + g * K), None
    for _ in range(300):
        plain, screened = site_averages(L, G, y, A)
        form = screened if self_consistent else plain / A
        mixed = form if mixed is None else (mixed + form) / 2
        r, basis = np.linalg.eigh(mixed)
        c = np.maximum(r, 0.0)
        if self_consistent:  # c (1 - r / (s + (N-1) c)) = r
            half = (r + others * r - s) / 2
            c = (half + np.sqrt(half**2 + others * c * s)) / others
        G, before = (basis / (s + others * c)) @ basis.T, G
        if np.linalg.norm(G - before) < 1e-11 * np.linalg.norm(G):
            j = G @ y
            return y - s * (j - G @ (screened @ j))
    raise RuntimeError("the cavity did not settle")
