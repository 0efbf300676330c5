r"""The law of one site near the edge of where it exists, by weighted directions: what of the output it carries.

Lobes of the law around directions that are tilted almost to the edge reach far out, and particles seldom find them.
The law of a direction ω follows from an integral over |x| along the ray, in deviations of the prior.  With
x² = 2z/(1 - tilt)

    ∫ |x|^{n-1} e^{-s(|x|ω)} d|x| ∝ (1 - tilt(ω))^{-n/2} ∫ z^{n/2-1} e^{-z} e^{z - s} dz,

a generalised Gauss-Laguerre sum, in which z - s is constant for features homogeneous of degree one.  Directions are
drawn from Gaussian laws elongated by a along the directions e that bind; the angular density of one is, relative to
the prior's,

    a^{-1} (1 - (1 - a^{-2}) (e·ω)²)^{-n/2}.

So weights are known, and their effective number says whether the draws have met the law: elongated laws cover the lobes
and the prior covers the rest, as far as the law of most neurons is near the prior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.special

Array = np.ndarray

ELONGATED = (1.0, 1.5, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0)
"""By how much laws of directions are longer along a direction that binds than across; 1 is the prior."""
RADII = 3
"""Nodes along a ray; one is exact for features homogeneous of degree one."""
DIRECTIONS, TOGETHER = 6144, 512
"""Directions drawn, and how many are looked at together."""
CLOSE = 0.98
"""The cosine above which two directions share a lobe."""
FEW = 200.0
"""Effective directions below which nothing is said of the law."""
ROOM = 1e-9
"""1 - tilt of directions at the edge itself."""


@dataclass(frozen=True)
class Elongated:
    """Gaussian laws elongated along directions e (unit vectors), with equal weights."""

    along: Array

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Unit vectors, as many of every law as of any other."""
        laws = rng.permutation(count) % (len(self.along) * len(ELONGATED))
        e, a = self.along[laws // len(ELONGATED)], np.array(ELONGATED)[laws % len(ELONGATED)]
        x = rng.standard_normal(e.shape)
        x = x + ((a - 1) * (x * e).sum(axis=1))[:, None] * e
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def log_density(self, units: Array) -> Array:
        """Of directions, relative to the prior's."""
        a = np.array(ELONGATED)
        square = (units @ self.along.T)**2
        logs = -units.shape[1] / 2 * np.log1p(-(1 - a**-2) * square[:, :, None]) - np.log(a)
        found = scipy.special.logsumexp(logs.reshape(len(units), -1), axis=1)
        return np.asarray(found - np.log(len(self.along) * len(a)))


def apart(units: Array) -> Array:
    """Those of some directions, the first of them first, that are not close to one before, up to a sign."""
    close, kept = np.abs(units @ units.T) > CLOSE, np.ones(len(units), dtype=bool)
    for k in range(len(units)):
        kept[k] = not np.any(close[k, :k] & kept[:k])
    return units[kept]


def laguerre(count: int, power: float) -> tuple[Array, Array]:
    """Nodes z and normalised weights of ∫ z^power e^{-z} f dz, for any power (Golub and Welsch)."""
    k = np.arange(count)
    z, vectors = scipy.linalg.eigh_tridiagonal(2 * k + 1 + power, np.sqrt(k[1:] * (k[1:] + power)))
    return z, vectors[0]**2


def averaged(energy_and_value: Callable[[Array], tuple[Array, Array]], tilts: Callable[[Array], Array], along: Array,
             rng: np.random.Generator, directions: int = DIRECTIONS) -> tuple[float, float, float]:
    """The average of a number over the law of one site, its effective number of directions, and their largest tilt.

    Parameters
    ----------
    energy_and_value : of points (point, component) in deviations of the prior.
    tilts : of unit vectors, relative to the exponent of the prior: below 1 wherever the law exists.
    along : the directions that bind, (direction, component).
    """
    laws, size = Elongated(along), along.shape[1]
    z, radial = laguerre(RADII, size / 2 - 1)
    logs, sums, largest = [], [], 0.0
    for _ in range(-(-directions // TOGETHER)):
        units = laws.draw(TOGETHER, rng)
        tilt = tilts(units)
        room, largest = np.maximum(1 - tilt, ROOM), max(largest, float(tilt.max()))
        points = units[:, None] * np.sqrt(2 * z / room[:, None])[:, :, None]
        energy, value = (found.reshape(-1, RADII) for found in energy_and_value(points.reshape(-1, size)))
        rays = np.log(radial) + z - energy
        logs.append(-size / 2 * np.log(room) - laws.log_density(units) + scipy.special.logsumexp(rays, axis=1))
        sums.append((scipy.special.softmax(rays, axis=1) * value).sum(axis=1))
    weights = scipy.special.softmax(np.concatenate(logs))
    return float(weights @ np.concatenate(sums)), float(1 / (weights**2).sum()), largest


__all__ = ["FEW", "Elongated", "apart", "averaged", "laguerre"]
