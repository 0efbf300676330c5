r"""Nodes over the law of one site under Gaussian inputs: randomly shifted lattices, for integrands that are smooth.

The law of one site is an analytic function of the components of its weight along the directions and of the norm of the
rest, and vanishes far away.  An even sum over a lattice then errs by the Fourier components at the vectors of the dual
lattice alone (as the trapezoidal rule does), which fall faster than any power of their length: the generator is that
whose shortest dual vector is longest.  The error is told from random shifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import gcd, log, sqrt

import numpy as np
import scipy.stats

Array = np.ndarray

FAR = 8.0
"""How far weights along a direction reach at least, in units of the prior's deviation; twice √D otherwise."""
WIDE = 5.5
"""How far beyond √(D - d) the norm of the rest reaches."""
CANDIDATES = 150
EDGE = 0.04
"""Part of an axis on either side that is its edge."""


@dataclass(frozen=True)
class Points:
    """Nodes of one shift: weights of the prior, |w|, cosines with the directions, and ρ.

    ``edge`` says which are so far out that the law of one site should not reach them.
    """

    weights: Array
    size: Array
    cosines: Array
    rest: Array
    edge: Array


@lru_cache(maxsize=32)
def generator(count: int, lengths: tuple[float, ...]) -> tuple[int, ...]:
    """(1, a, a², …) mod count with the longest shortest dual vector h, h·z ≡ 0, over axes of some lengths."""
    axes = len(lengths)
    reach = {1: 1, 2: 64, 3: 20}.get(axes, 9)
    h = np.array([vector for vector in product(range(-reach, reach + 1), repeat=axes - 1)], dtype=np.int64)
    tail = ((h / np.array(lengths[1:]))**2).sum(axis=1)
    best, found = -1.0, (1,) * axes
    for a in np.unique(np.linspace(2, count // 2, CANDIDATES).astype(int)).tolist():
        if gcd(a, count) > 1:
            continue
        z = [pow(a, k, count) for k in range(axes)]
        first = -(h @ np.array(z[1:], dtype=np.int64)) % count  # h_1, up to multiples of count
        first = np.where(first > count // 2, first - count, first)
        square = (first / lengths[0])**2 + tail
        shortest = float(square[square > 0].min())
        if shortest > best:
            best, found = shortest, tuple(z)
    return found


def draw_points(directions: int, D: int, variance: float, count: int, rng: np.random.Generator,
                far: float | None = None) -> Points:
    """Components along the directions, of either sign, and the norm of the rest, of weights N(0, variance/D).

    ``far`` is how far components reach, in units of the prior's deviation.
    """
    rest = D - directions
    far = far or max(FAR, 2 * sqrt(D))
    high = sqrt(rest) + WIDE
    low = -high if rest == 1 else min(log(sqrt(rest)) - 21 / rest, -1.0)
    lengths = (*[2 * far] * directions, high - low)
    z = np.array(generator(count, lengths), dtype=np.int64)
    u = (np.arange(count)[:, None] * z % count / count + rng.random(directions + 1)) % 1.0
    along, t = far * (2 * u[:, :-1] - 1), low + (high - low) * u[:, -1]
    # of one component the sign; of more the logarithm near zero, so that the density vanishes at the end
    norm, stretch = (np.abs(t), np.full(count, 0.5)) if rest == 1 else (np.logaddexp(0, t), 1 / (1 + np.exp(-t)))
    weights = scipy.stats.norm.pdf(along).prod(axis=1) * (2 * far)**directions
    weights = weights * scipy.stats.chi.pdf(norm, rest) * stretch * (high - low) / count
    size = np.sqrt((along**2).sum(axis=1) + norm**2)
    edge = (np.abs(u[:, :-1] - 0.5) > 0.5 - EDGE).any(axis=1) | (u[:, -1] > 1 - EDGE)
    if rest == 1:
        edge |= u[:, -1] < EDGE
    return Points(weights, size * sqrt(variance / D), along / size[:, None], norm / size, edge)


__all__ = ["Points", "draw_points", "generator"]
