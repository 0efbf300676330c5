"""Mean-field theory and exact posteriors of tiny networks by brute force, written from the model, not the engine.

The network is f(x) = Σ_i a_i φ(w_i x) in one input dimension, a_i ~ N(0, A⁻¹), w_i ~ N(0, v), likelihood
exp(-Σ(f-y)²/2s).  The readout is never integrated by hand: both a and w are on a grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.optimize

Array = np.ndarray
Activation = Callable[[Array], Array]


def grid(A: float, v: float, nodes: int = 401, reach: float = 9.0) -> tuple[Array, Array, Array]:
    """a, w and the log of the prior's weights on a rectangle."""
    u = np.linspace(-reach, reach, nodes)
    a, w = (g.ravel() for g in np.meshgrid(u / np.sqrt(A), u * np.sqrt(v), indexing="ij"))
    log_prior = -A * a**2 / 2 - w**2 / (2 * v)
    return a, w, log_prior - np.log(np.exp(log_prior).sum())


def mean_field(x: Array, y: Array, N: int, A: float, v: float, s: float, phi: Activation, *,
               cavity: float | None = None, self_term: bool = True) -> tuple[Array, float]:
    """Mean output, and the variational bound on ln Z with normalised priors and e^{-Σ(f-y)²/2s} / (2πs)^{P/2}.

    The law of (a, w) is the best one for N independent neurons: minimise E|y - Σ a_i φ_i|²/2s + N KL(q|prior), whose
    stationarity is q ∝ prior exp(-E_others |y - aφ - M'|²/2s).  ``cavity`` and ``self_term`` plant errors.
    """
    a, w, log_prior = grid(A, v)
    features = a * phi(w * x[:, None])  # (sample, node)
    c = 1 - 1 / N if cavity is None else cavity

    def law(m: Array) -> Array:
        logs = log_prior + (y - c * m) @ features / s - (self_term * (features**2).sum(axis=0) / (2 * s))
        weights = np.exp(logs - logs.max())
        return weights / weights.sum()

    found = scipy.optimize.root(lambda m: N * features @ law(m) - m, np.zeros(len(y)), tol=1e-13)
    assert np.max(np.abs(found.fun)) < 1e-9
    m, q = found.x, law(found.x)
    mean, second = features @ q, (features**2) @ q
    energy = (((y - m)**2).sum() + N * (second - mean**2).sum()) / (2 * s) + len(y) * np.log(2 * np.pi * s) / 2
    kept = q > 0
    relative = float((q[kept] * (np.log(q[kept]) - log_prior[kept])).sum())
    return m, -(energy + N * relative)


def exact_one_neuron(x: Array, y: Array, A: float, v: float, s: float, phi: Activation,
                     x_test: Array) -> tuple[Array, Array]:
    """Posterior mean outputs of one neuron, at the samples and at test inputs."""
    a, w, log_prior = grid(A, v)
    logs = log_prior - ((y[:, None] - a * phi(w * x[:, None]))**2).sum(axis=0) / (2 * s)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    return (a * phi(w * x[:, None])) @ weights, (a * phi(w * x_test[:, None])) @ weights
