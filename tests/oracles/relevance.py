"""Mean-field theory with a precision that is drawn, by brute force on a tiny network, written from the model.

f(x) = Σ_i a_i φ(w_i x) in one input dimension, a_i ~ N(0, A⁻¹), w_i ~ N(0, 1/λ), λ ~ Gamma(α, rate β), likelihood
exp(-Σ(f-y)²/2s).  The law q(a, w)^N r(λ) is found on a grid of (a, w) and one of ln λ; r is never integrated by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.optimize
import scipy.special

Array = np.ndarray
Activation = Callable[[Array], Array]

LOG_PRECISIONS = np.linspace(-14.0, 9.0, 1151)


def _grid(A: float, width: float, nodes: int = 321, reach: float = 9.0) -> tuple[Array, Array, float]:
    """a, w and the log of the area of a cell."""
    u = np.linspace(-reach, reach, nodes)
    a, w = (g.ravel() for g in np.meshgrid(u / np.sqrt(A), u * width, indexing="ij"))
    return a, w, 2 * np.log(u[1] - u[0]) + np.log(width / np.sqrt(A))


def mean_field(x: Array, y: Array, N: int, A: float, alpha: float, beta: float, s: float, phi: Activation,
               width: float) -> tuple[Array, float, float]:
    """Mean output, mean precision, and the variational bound on ln Z (all densities normalised).

    F = ⟨-ln p(y, a, w, λ)⟩ + N ⟨ln q⟩ + ⟨ln r⟩ is stationary in q and r in turn: ln q is the average of the log joint
    density over r and the N-1 others, ln r that over all N neurons.
    """
    a, w, cell = _grid(A, width)
    u, step = LOG_PRECISIONS, LOG_PRECISIONS[1] - LOG_PRECISIONS[0]
    precisions = np.exp(u)
    features = a * phi(w * x[:, None])
    log_readout = -A * a**2 / 2 + np.log(A / (2 * np.pi)) / 2
    log_gamma = alpha * np.log(beta) - scipy.special.gammaln(alpha) + (alpha - 1) * u - beta * precisions

    def law_of_precision(second: float) -> Array:
        logs = log_gamma + N * u / 2 - N * precisions * second / 2 + u  # flat in λ: dλ = λ du
        weights = np.exp(logs - logs.max())
        return weights / weights.sum()

    def law_of_site(m: Array, r: Array) -> Array:
        prior = r @ (u - np.log(2 * np.pi)) / 2 - (r @ precisions) * w**2 / 2
        logs = log_readout + prior + (y - (1 - 1 / N) * m) @ features / s - (features**2).sum(axis=0) / (2 * s)
        weights = np.exp(logs - logs.max())
        return weights / weights.sum()

    def mismatch(state: Array) -> Array:
        r = law_of_precision(np.exp(state[-1]))
        q = law_of_site(state[:-1], r)
        return np.append(N * features @ q - state[:-1], np.log(w**2 @ q) - state[-1])

    found = scipy.optimize.root(mismatch, np.append(np.zeros(len(y)), np.log(beta / alpha)), tol=1e-13)
    assert np.max(np.abs(found.fun)) < 1e-9
    m, r = found.x[:-1], law_of_precision(np.exp(found.x[-1]))
    q = law_of_site(m, r)
    mean, second = features @ q, (features**2) @ q
    energy = (((y - m)**2).sum() + N * (second - mean**2).sum()) / (2 * s) + len(y) * np.log(2 * np.pi * s) / 2
    kept, held = q > 0, r > 0
    site = q[kept] @ (np.log(q[kept]) - cell - log_readout[kept])
    site -= r @ (u - np.log(2 * np.pi)) / 2 - (r @ precisions) * (w**2 @ q) / 2
    shared = r[held] @ (np.log(r[held]) - np.log(step) - u[held] - log_gamma[held])
    return m, float(r @ precisions), -float(energy + N * site + shared)


def log_evidence_one_neuron(x: Array, y: Array, A: float, alpha: float, beta: float, s: float, phi: Activation,
                            width: float) -> float:
    """ln Z of one neuron, λ integrated exactly: a weight has a Student t of 2α degrees of freedom."""
    u = np.linspace(-9, 9, 401)
    t = np.linspace(-9, 9, 2001)  # w = width · sinh t: the tails fall as a power
    a, w = (g.ravel() for g in np.meshgrid(u / np.sqrt(A), width * np.sinh(t), indexing="ij"))
    log_measure = np.log((u[1] - u[0]) / np.sqrt(A)) + np.log((t[1] - t[0]) * np.hypot(w, width))
    log_prior = (-A * a**2 / 2 + np.log(A / (2 * np.pi)) / 2 + alpha * np.log(beta) - scipy.special.gammaln(alpha)
                 + scipy.special.gammaln(alpha + 0.5) - np.log(2 * np.pi) / 2 - (alpha + 0.5) * np.log(beta + w**2 / 2))
    log_likelihood = -((y[:, None] - a * phi(w * x[:, None]))**2).sum(axis=0) / (2 * s)
    return float(scipy.special.logsumexp(log_measure + log_prior + log_likelihood)) - len(y) * np.log(2 * np.pi * s) / 2
