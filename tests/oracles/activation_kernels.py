"""Kernels of wide networks as published, and one sample's posterior by quadrature; no symbolic algebra.

Cho and Saul 2009, "Kernel methods for deep learning", eqs. (1)-(8): the arc-cosine kernels of order n are
k_n = |x|ⁿ|y|ⁿ J_n(θ)/π, J_0 = π-θ, J_1 = sin θ + (π-θ) cos θ, J_2 = 3 sin θ cos θ + (π-θ)(1+2cos²θ), and twice the
average E[Θ(u)Θ(v) uⁿ vⁿ].  Williams 1997, "Computing with infinite networks", eq. (11): erf gives an arcsine.
"""

from __future__ import annotations

import numpy as np


def arc_cosine(order: int, covariance: np.ndarray) -> np.ndarray:
    """E[Θ(u)uⁿ Θ(v)vⁿ] for every pair of points."""
    norm = np.sqrt(np.diag(covariance))
    scale = np.outer(norm, norm)
    theta = np.arccos(np.clip(covariance / scale, -1.0, 1.0))
    J = {0: np.pi - theta, 1: np.sin(theta) + (np.pi - theta) * np.cos(theta),
         2: 3 * np.sin(theta) * np.cos(theta) + (np.pi - theta) * (1 + 2 * np.cos(theta)**2)}[order]
    return scale**order * J / (2 * np.pi)


def arc_sine(covariance: np.ndarray) -> np.ndarray:
    """E[erf u erf v] for every pair of points."""
    scale = 1 + 2 * np.diag(covariance)
    return 2 / np.pi * np.arcsin(2 * covariance / np.sqrt(np.outer(scale, scale)))


def wide_network(K: np.ndarray, y: np.ndarray, s: float, K_test: np.ndarray | None = None) -> np.ndarray:
    """Gaussian-process regression: K (K + s)⁻¹ y, at the samples or at test points."""
    return (K if K_test is None else K_test) @ np.linalg.solve(K + s * np.eye(len(y)), y)


def one_sample_mean(phi, variance: float, y: float, g: float, s: float, width: int) -> float:
    """⟨f⟩ of one sample, exactly: f = Σ_i a_i φ(h_i), a_i ~ N(0, g/N), h_i ~ N(0, variance).

    p(y) = ∫dt/2π e^{ity - st²/2} χ(t)^N with χ(t) = E_h exp(-g t² φ(h)²/2N), and ⟨f⟩ = y + s d ln p/dy.
    """
    x, w = np.polynomial.legendre.leggauss(100)
    z = np.concatenate([6 * x - 6, 6 * x + 6])  # an edge at zero, for kinks
    weights = np.tile(6 * w, 2) * np.exp(-z**2 / 2) / np.sqrt(2 * np.pi)
    squares = phi(np.sqrt(variance) * z)**2
    t = np.linspace(0.0, 14 / np.sqrt(s), 1001)
    chi = np.exp(-g * t[:, None]**2 * squares / (2 * width)) @ weights
    law = np.exp(-s * t**2 / 2) * chi**width
    return float(y - s * np.sum(t * np.sin(t * y) * law) / np.sum(np.where(t == 0, 0.5, 1.0) * np.cos(t * y) * law))
