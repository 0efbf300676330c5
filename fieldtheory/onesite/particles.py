"""Averages over the law of one site: by quadrature in few dimensions, else by particles that move under HMC.

A *sampler of the site* has ``update(energy)`` that brings it to the law exp(-energy), and nodes with weights.
:class:`Grid` reweights fixed nodes; :class:`Particles` moves a few hundred copies, all at once, by Hamiltonian steps in
coordinates where the prior is isotropic, with jittered steps adapted while ``adapting``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fieldtheory.onesite.batches import Bound

Array = np.ndarray

LEAPS = 8
"""Leapfrog steps in a sweep."""
ACCEPTANCE = 0.85
"""What the step size is adapted to."""


@dataclass(frozen=True)
class Coordinates:
    """The fields of one site as one vector: shapes, and the standard deviation of the prior of each component."""

    shapes: tuple[tuple[int, ...], ...]
    scales: Array

    @property
    def size(self) -> int:
        return len(self.scales)

    def split(self, x: Array) -> list[Array]:
        """Whitened vectors (particle, component) -> the fields (particle, ...)."""
        fields, start, y = [], 0, x * self.scales
        for shape in self.shapes:
            count = int(np.prod(shape))
            fields.append(y[:, start:start + count].reshape(len(x), *shape))
            start += count
        return fields

    def join(self, arrays: Sequence[Array]) -> Array:
        """Gradients in the fields -> gradients in the whitened vector."""
        return np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1) * self.scales


class Grid:
    """Gauss-Legendre nodes on panels of every axis, with an edge at zero; one or two dimensions.

    With ``fewer`` there is that number of nodes less on each panel.
    """

    exact = True
    dimensions = 2

    def __init__(self, coordinates: Coordinates, end: float = 10.0, fewer: int = 0) -> None:
        panels, order = ((40, 16), (20, 8))[coordinates.size - 1]
        x, w = np.polynomial.legendre.leggauss(order - fewer)
        edges = np.linspace(-end, end, panels + 1)
        half = np.diff(edges)[:, None] / 2
        axis, weights = (edges[:-1, None] + half * (x + 1)).ravel(), (half * w).ravel()
        mesh = np.meshgrid(*[axis] * coordinates.size, indexing="ij")
        self.points = np.stack([m.ravel() for m in mesh], axis=1)
        self.log_volume = np.log(reduce_product(np.meshgrid(*[weights] * coordinates.size, indexing="ij"))).ravel()
        self.log_volume += np.log(coordinates.scales).sum()
        self.coordinates = coordinates
        self.weights = np.full(len(self.points), 1 / len(self.points))
        self.log_integral = np.nan
        self.force = np.zeros_like(self.points)
        self.start(self.log_volume - (self.points**2).sum(axis=1) / 2)

    def start(self, logs: Array) -> None:
        top = logs.max()
        weights = np.exp(logs - top)
        self.log_integral = float(top + np.log(weights.sum()))
        self.weights = weights / weights.sum()

    @property
    def fields(self) -> list[Array]:
        return self.coordinates.split(self.points)

    def update(self, run: Bound) -> None:
        found = run(self.fields)
        self.force = gradients(found, self.coordinates)
        self.start(self.log_volume - found["energy"])

    def rescale(self, coordinates: Coordinates) -> None:
        """The same nodes in other units of the prior."""
        self.log_volume = self.log_volume + np.log(coordinates.scales / self.coordinates.scales).sum()
        self.coordinates = coordinates


def reduce_product(arrays: Sequence[Array]) -> Array:
    result = np.ones(())
    for array in arrays:
        result = result * array
    return result


class Particles:
    """Copies of one site, drawn from the prior at first."""

    exact = False

    def __init__(self, coordinates: Coordinates, count: int, seed: np.random.SeedSequence, step: float = 0.15) -> None:
        self.rng = np.random.default_rng(seed)
        self.coordinates, self.step, self.adapting = coordinates, step, True
        self.points = self.rng.standard_normal((count, coordinates.size))
        self.weights = np.full(count, 1 / count)
        self.force = np.zeros_like(self.points)
        self.accepted: list[float] = []
        self.energies: list[Array] = []

    def begin(self, other: Grid | Particles) -> None:
        """Take the places of another solution's particles, drawn with replacement where there are not as many."""
        count = len(self.points)
        chosen = np.arange(count)
        if len(other.points) != count or isinstance(other, Grid):
            chosen = self.rng.choice(len(other.points), size=count, p=other.weights)
        self.points = other.points[chosen] * (other.coordinates.scales / self.coordinates.scales)
        self.step = getattr(other, "step", self.step)

    @property
    def fields(self) -> list[Array]:
        return self.coordinates.split(self.points)

    def update(self, run: Bound, share: float = 1.0) -> None:
        """One sweep: ``LEAPS`` leapfrog steps and an accept/reject test for every particle.

        With a ``share`` the law is that of this share of the energy, the rest being the energy of the prior.
        """
        rng, x = self.rng, self.points
        start = rng.standard_normal(x.shape)
        step = self.step * rng.uniform(0.6, 1.4, (len(x), 1))
        y, p, (energy, proposed), before, after = run.motion.leapfrog(
            x, start, step[:, 0], LEAPS, self.coordinates.scales, self.coordinates.shapes, share)
        with np.errstate(over="ignore", invalid="ignore"):
            change = energy - proposed + ((start**2).sum(axis=1) - (p**2).sum(axis=1)) / 2
            accept = rng.random(len(x)) < np.exp(np.minimum(change, 0.0))  # a NaN is refused
        self.points, self.force = np.where(accept[:, None], y, x), np.where(accept[:, None], after, before)
        rate = float(accept.mean())
        if self.adapting:
            self.step = float(np.clip(self.step * np.exp(0.3 * (rate - ACCEPTANCE)), 1e-4, 1.0))
        else:
            self.accepted.append(rate)
            self.energies.append(np.where(accept, proposed, energy))


def gradients(found: dict[str, Array], coordinates: Coordinates) -> Array:
    """Of the energy, in whitened coordinates."""
    return coordinates.join([found[key] for key in sorted(found) if key != "energy"])


__all__ = ["Coordinates", "Grid", "Particles"]
