r"""The first correction in 1/N to the infinitely wide network at γ = 1, of the exact posterior and of each closure.

Written by hand from perturbation theory about the Gaussian law of the conjugate j = t + iε, ε ~ N(0, G), with
G = (s + gK)⁻¹, t = Gy, K = E φφᵀ over the prior of one neuron.  The N neurons add (g²/8N) [E (j·φ)⁴ - (E (j·φ)²)²] to
ln of the weight, and ⟨f⟩ = y + s ∂_y ln Z, so that with E over the prior

    exact:    N δf = (g² s/2) G [E φ(t·φ)³ - Kt tKt  -  3 E φ(t·φ)(φGφ) + Kt tr KG + 2 KGKt].

A closure tilts the law of one neuron by τ/N, which changes the kernel of the regression,
N δf = s g G E[φφᵀ(τ - E τ)] t:

    adaptive kernel τ = g (t·φ)²/2;   collapsed mean field τ = g [(t·φ)² - φGφ]/2;
    mean field      τ = g [(t·φ)² - |φ|²/s]/2, and of its own B = A + |φ|²/s and cavity factor
                    N δf += -(g² s/s) G E[φφᵀ|φ|²] t + g²KGKt;
    kernel rescaling, to one loop: the exact one with Gaussian moments of φ.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def coefficients(features: Array, weights: Array, y: Array, g: float, s: float) -> dict[str, Array]:
    """N (f - f_∞) as N → ∞; ``features`` (sample, node) with the ``weights`` of the prior, which add up to 1."""
    def mean(values: Array) -> Array:
        """E of values (node,) or (sample, node)."""
        return values @ weights

    K = (features * weights) @ features.T
    G = np.linalg.inv(s * np.eye(len(y)) + g * K)
    t = G @ y
    along, square = t @ features, (features**2).sum(axis=0)
    self_energy = np.einsum("mn,mk,kn->n", features, G, features)
    trace, KGKt = np.trace(K @ G), K @ G @ K @ t

    def tilted(tau: Array) -> Array:
        return s * g * G @ mean(features * along * (tau - mean(tau)))

    exact = mean(features * along**3) - K @ t * (t @ K @ t) - 3 * mean(features * along * self_energy)
    gaussian = 2 * K @ t * (t @ K @ t) - 3 * (K @ t * trace + 2 * KGKt)
    both = K @ t * trace + 2 * KGKt
    own = -g**2 * G @ mean(features * along * square) + g**2 * K @ G @ K @ t
    return {"exact": g**2 * s / 2 * G @ (exact + both), "kernel-rescaling": g**2 * s / 2 * G @ (gaussian + both),
            "adaptive-kernel": tilted(g * along**2 / 2),
            "collapsed-mean-field": tilted(g * (along**2 - self_energy) / 2),
            "mean-field": tilted(g * (along**2 - square / s) / 2) + own}


def kernel_fluctuation(features: Array, weights: Array, y: Array, g: float, s: float) -> Array:
    """What the collapsed theory lacks, -g² s G [E φφᵀGφφᵀ - KGK] t: the fluctuation of the kernel."""
    K = (features * weights) @ features.T
    G = np.linalg.inv(s * np.eye(len(y)) + g * K)
    t = G @ y
    self_energy = np.einsum("mn,mk,kn->n", features, G, features)
    return -g**2 * s * G @ ((features * (t @ features) * self_energy) @ weights - K @ G @ K @ t)

