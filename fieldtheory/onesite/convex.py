r"""An environment that is the minimum of a convex potential, solved by quadrature with Newton's method.

:mod:`.symbolic.potential` gives the curvature of F(t) = N ln ∫ e^{-s(θ, t)} in averages over one site, and shows by its
signs that it is positive.  So Newton steps with backtracking end at the one minimum from anywhere.  On nodes that end
somewhere F is finite and convex for every t, also where the integral itself diverges; the nodes are stretched until
the law has died out on their rim.  Where t is a field at its saddle, its fluctuation is known with the curvature:
ln Z = F - ½ ln det 2πF'' to one loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fieldtheory.errors import NotConverged
from fieldtheory.onesite.batches import Batch
from fieldtheory.onesite.particles import Coordinates, Grid
from fieldtheory.onesite.precisions import number

if TYPE_CHECKING:
    from fieldtheory.onesite.environment import Environment
    from fieldtheory.symbolic.siteclosure import SiteClosure

Array = np.ndarray

RIM = 1e-15
"""The share of the law that may be left on the outermost panels of the nodes."""
STRETCHES = 9
"""How often nodes are stretched; lobes of small weight reach further than the second moment says."""
FAR = 1e4
"""How far out along a ray, in standard deviations of the prior, an action is looked at."""
BEYOND = ("the law of one site reaches beyond the nodes of the quadrature, however wide: its integral is close to "
          "diverging")


class StretchedGrid(Grid):
    """The nodes of a :class:`Grid`, mapped by a matrix; ``rim`` are those on the outermost panels."""

    def __init__(self, coordinates: Coordinates, stretch: Array, end: float = 10.0, fewer: int = 0) -> None:
        super().__init__(coordinates, end, fewer)
        self.rim = np.abs(self.points).max(axis=1) > 0.95 * end
        self.stretch = stretch
        self.points = self.points @ stretch.T
        self.log_volume = self.log_volume + np.linalg.slogdet(stretch)[1]
        self.start(self.log_volume - (self.points**2).sum(axis=1) / 2)

    @property
    def outside(self) -> float:
        """The share of the law on the rim."""
        return float(self.weights[self.rim].sum())

    def twin(self) -> StretchedGrid:
        """Nodes of the same reach at other places, one less on each panel: what differs there is not resolved."""
        return StretchedGrid(self.coordinates, self.stretch, fewer=1)

    def wider(self, factor: float) -> StretchedGrid:
        """Nodes stretched to a multiple of the second moment of the law that these hold, never below the prior's."""
        moment = (self.points * self.weights[:, None]).T @ self.points
        values, vectors = np.linalg.eigh(moment)
        return StretchedGrid(self.coordinates, (vectors * np.sqrt(np.maximum(values, 1.0)) * factor) @ vectors.T)


@dataclass(frozen=True)
class Minimum:
    """Where F is least: the law there, F, its curvature, and how well the equation of state holds."""

    point: Array
    sampler: StretchedGrid
    value: float
    curvature: Array
    residual: float

    @property
    def log_partition(self) -> float:
        """ln Z to one loop, where the environment is a field at its saddle."""
        return float(self.value - np.linalg.slogdet(2 * np.pi * self.curvature)[1] / 2)


class Potential:
    """F with gradient and curvature, by averages over nodes."""

    def __init__(self, closure: SiteClosure, values: Mapping[str, Any]) -> None:
        ((self.parameter, body),) = closure.parameters.items()
        self.parts = parts = closure.potential
        self.bends = len(parts.bend)
        outputs = {"energy": closure.action.expr, "value": body, "pull": parts.pull, "stiffness": parts.stiffness}
        outputs |= {f"{side}{k}": part for k, pair in enumerate(parts.bend)
                    for side, part in zip("uv", pair, strict=True)}
        self.plan = Batch(outputs, closure.fields)
        self.values = dict(values)
        self.sites = float(values[str(parts.sites)])

    @property
    def stiffness(self) -> float:
        """-N r''."""
        return number(self.parts.stiffness, self.values)

    def evaluated(self, t: Array, fields: Sequence[Array]) -> dict[str, Array]:
        """All that the derivatives are averages of."""
        return self.plan.bind(self.values | {self.parameter.name: t})(fields)

    def at(self, t: Array, sampler: StretchedGrid) -> dict[str, Array]:
        found = self.evaluated(t, sampler.fields)
        sampler.start(sampler.log_volume - found["energy"])
        return found

    def derivatives(self, t: Array, found: Mapping[str, Array], weights: Array) -> tuple[Array, Array]:
        """The equation of state, t - ⟨value⟩, and the curvature."""
        pull = found["pull"]
        mean = weights @ pull
        bend = sum((found[f"u{k}"] * weights[:, None]).T @ found[f"v{k}"] for k in range(self.bends))
        spread = ((pull - mean) * weights[:, None]).T @ (pull - mean)
        curvature = found["stiffness"][0] * np.eye(len(t)) + self.sites * (bend + spread)
        return t - weights @ found["value"], (curvature + curvature.T) / 2

    def minimise(self, t: Array, sampler: StretchedGrid, tolerance: float, limit: int = 200) -> Minimum:
        found = self.at(t, sampler)
        F = self.sites * sampler.log_integral
        for _ in range(limit):
            miss, curvature = self.derivatives(t, found, sampler.weights)
            residual = float(np.linalg.norm(miss)) / max(float(np.linalg.norm(t)), 1e-300)
            if residual < tolerance:
                return Minimum(t, sampler, F, curvature, residual)
            slope = found["stiffness"][0] * miss
            step = -np.linalg.solve(curvature, slope)
            decrease, length = float(slope @ step), 1.0
            while True:
                found = self.at(t + length * step, sampler)
                new = self.sites * sampler.log_integral
                if new <= F + 1e-4 * length * decrease + 1e-12 * max(abs(F), 1.0) or length < 1e-10:
                    break
                length /= 2
            t, F = t + length * step, new
        raise NotConverged("the minimum of the potential was not found under quadrature", residual)


def minimise(environment: Environment, values: Mapping[str, Any], start: Array | None = None,
             tolerance: float = 1e-11) -> Minimum:
    """The minimum of F, from ``start`` or from the law of the prior.

    Raises
    ------
    NotConverged
        If Newton's method does not end, or the law of one site reaches beyond any nodes.
    """
    potential = Potential(environment.closure, values)
    coordinates = environment.coordinates(dict(values))
    sampler = StretchedGrid(coordinates, np.eye(coordinates.size))
    if start is None:
        averages = environment.averages(sampler.fields, sampler.weights, environment.statics.bind(values))
        start = next(iter(environment.solve(averages).values()))
    for k in range(STRETCHES):
        minimum = potential.minimise(start, sampler, tolerance)
        left = sampler.outside
        if left < RIM:
            return minimum
        start, sampler = minimum.point, sampler.wider(1.25**k)
    raise NotConverged(BEYOND, left)


def escaping(environment: Environment, values: Mapping[str, Any], found: Mapping[str, Array],
             sampler: Any) -> float:
    """The share of directions, of those in which nodes or particles lie, along which the action falls without end.

    Along these the integral over one site diverges: there is no law, whatever particles seem to do.
    """
    size = np.linalg.norm(sampler.points, axis=1)
    at = size > 0
    rays = FAR * sampler.points[at] / size[at, None]
    run = environment.dynamics.bind(dict(values) | dict(found))
    energy = [run(sampler.coordinates.split(scale * rays))["energy"] for scale in (1.0, 2.0)]
    return float(np.mean(energy[1] < energy[0])) if np.any(at) else 0.0


__all__ = ["Minimum", "Potential", "StretchedGrid", "escaping", "minimise"]
