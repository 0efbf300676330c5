"""The linear network by two routes that never mention Q: all weights on a grid, and Fourier integrals over j.

Neither shares a formula with `fieldtheory.exact`: the first knows only the definition of the network, the
second the characteristic function of its prior, E exp(-i j . f) = (1 + (g/N) j^T K j)^(-N/2).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Posterior(NamedTuple):
    """What both routes can say; None where a route cannot."""

    log_evidence: float
    mean: Array
    covariance: Array
    test_mean: Array
    Q: float | None = None
    hidden_kernel: Array | None = None
    gradient: Array | None = None  # of ln Z in (ln g, s)


def by_weights(
    X: Array, y: Array, X_test: Array, *, width: int, g: float, weight_variance: float, s: float, points: int
) -> Posterior:
    """Trapezoidal rule over all N (1 + D) weights in units of their prior deviations, |coordinate| <= 7.5."""
    P, D = X.shape
    nodes = np.linspace(-7.5, 7.5, points)
    prior = np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi) * (nodes[1] - nodes[0])
    size = width * (1 + D)
    rest = np.meshgrid(*[nodes] * (size - 1), indexing="ij", sparse=False)
    rest = np.stack([axis.ravel() for axis in rest]) if size > 1 else np.zeros((0, 1))
    rest_prior = np.ones(1)
    for _ in range(size - 1):
        rest_prior = np.multiply.outer(rest_prior, prior).ravel()
    Z, f1, f2, t1, Q1 = 0.0, np.zeros(P), np.zeros((P, P)), np.zeros(len(X_test)), 0.0
    H = np.zeros((P, P))
    for first, weight in zip(nodes, prior, strict=True):
        theta = np.vstack([np.full((1, rest.shape[1]), first), rest])
        a = theta[:width] * np.sqrt(g / width)
        w = theta[width:].reshape(width, D, -1) * np.sqrt(weight_variance / D)
        h = np.einsum("pd,ndk->npk", X, w)
        f = np.einsum("nk,npk->pk", a, h)
        f_test = np.einsum("nk,pd,ndk->pk", a, X_test, w)
        p = (
            weight
            * rest_prior
            * np.exp(-((f - y[:, None]) ** 2).sum(axis=0) / (2 * s))
            / (2 * np.pi * s) ** (P / 2)
        )
        Z += p.sum()
        f1, f2, t1 = f1 + f @ p, f2 + (f * p) @ f.T, t1 + f_test @ p
        Q1 += (a**2).sum(axis=0) @ p
        H += np.einsum("npk,nqk->pq", h * p, h) / width
    mean = f1 / Z
    return Posterior(float(np.log(Z)), mean, f2 / Z - np.outer(mean, mean), t1 / Z, float(Q1 / Z), H / Z)


def by_fourier(
    K: Array, y: Array, K_test: Array, *, width: int, g: float, s: float, points: int = 601
) -> Posterior:
    """Trapezoidal rule over j in R^P, P <= 2.

    Z = int dj/(2 pi)^P exp(i j . y - s j . j / 2) (1 + (g/N) j^T K j)^(-N/2); the rest differentiates it.
    """
    P, N = len(y), width
    nodes = np.linspace(-9, 9, points) / np.sqrt(s)
    j = np.array(list(itertools.product(nodes, repeat=P))).T
    form = np.einsum("pk,pq,qk->k", j, K, j) / N
    base = 1 + g * form
    kernel = np.exp(1j * (y @ j) - s * (j**2).sum(axis=0) / 2 - N / 2 * np.log(base))
    kernel *= ((nodes[1] - nodes[0]) / (2 * np.pi)) ** P
    Z = kernel.sum().real
    first = (1j * j @ kernel).real / Z  # d ln Z / dy
    second = (-(j * kernel) @ j.T).real / Z - np.outer(first, first)
    test = g * (-1j * (K_test @ j) @ (kernel / base)).real / Z
    by_g = (kernel * (-N / 2) * g * form / base).sum().real / Z
    by_s = (kernel * (-(j**2).sum(axis=0) / 2)).sum().real / Z
    return Posterior(
        float(np.log(Z)), y + s * first, s * np.eye(P) + s**2 * second, test, gradient=np.array([by_g, by_s])
    )
