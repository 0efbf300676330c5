"""Where the search for a solution begins: draws of the prior, large weights, or weights planted along some inputs.

At a fixed prior the solution of identical sites is unique (the variational objective is convex in their common law), so
that the start must not matter; under shared precisions there may be several solutions, and a planted start finds what
draws of the prior do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fieldtheory.errors import BadInput, UnknownName
from fieldtheory.onesite.environment import Ensemble, Environment
from fieldtheory.onesite.particles import Coordinates, Particles
from fieldtheory.onesite.prediction import Start

Array = np.ndarray

STARTS = ("prior", "large", "planted")
LARGE = 3.0
"""Standard deviations of the prior."""
ASIDE = 0.1
"""Of planted weights, what those along the other inputs are relative to the prior."""
COUNT = 512


def beginning(start: Any, relevant: Sequence[int] | None, seed: int) -> Start | None:
    """Where ensembles begin; None for draws of the prior.

    ``start`` is "prior"; "large", weights three times as large as the prior's; "planted", weights with random signs
    along the ``relevant`` inputs, which hold the norm that the prior gives to all; or weights (neuron, input), from
    which particles are drawn.

    Raises
    ------
    BadInput
        For another start, inputs that are not there, or weights of another shape.
    """
    if isinstance(start, str):
        if start not in STARTS:
            raise UnknownName("start", start, STARTS)
        if (relevant is None) == (start == "planted"):
            raise BadInput("relevant", relevant, "the inputs that weights are planted along" if start == "planted"
                           else "None: only a planted start has any")
        if start == "prior":
            return None
    elif relevant is not None:
        raise BadInput("relevant", relevant, "None where weights are given")

    def begin(environment: Environment, values: dict[str, Any], count: int) -> list[Ensemble | None]:
        coordinates = environment.coordinates(values)
        where = _weights(environment, coordinates)
        found: list[Ensemble | None] = []
        for source in np.random.SeedSequence([seed, 1]).spawn(count):
            sampler = Particles(coordinates, COUNT, source)
            sampler.points[:, where] = _points(start, relevant, sampler, where)
            found.append(Ensemble({}, {}, np.inf, sampler))
        return found

    return begin


def _weights(environment: Environment, coordinates: Coordinates) -> slice:
    """The components of the hidden weights: the field over the inputs."""
    sizes = [int(np.prod(shape)) for shape in coordinates.shapes]
    for k, shape in enumerate(coordinates.shapes):
        if shape:
            return slice(sum(sizes[:k]), sum(sizes[:k + 1]))
    raise BadInput("start", environment.fields, "a site with weights along the inputs")


def _points(start: Any, relevant: Sequence[int] | None, sampler: Particles, where: slice) -> Array:
    """Whitened weights of the particles."""
    rng, prior = sampler.rng, sampler.points[:, where]
    inputs = prior.shape[1]
    if isinstance(start, str) and start == "large":
        return LARGE * prior
    if isinstance(start, str):
        chosen = np.unique(np.atleast_1d(np.asarray(relevant)))
        if chosen.dtype.kind not in "iu" or not len(chosen) or chosen.min() < 0 or chosen.max() >= inputs:
            raise BadInput("relevant", list(relevant or ()), f"inputs from 0 to {inputs - 1}")
        points = ASIDE * prior
        signs = rng.choice([-1.0, 1.0], (len(points), len(chosen)))
        points[:, chosen] += signs * np.sqrt(inputs / len(chosen))
        return points
    given = np.asarray(start, dtype=float)
    if given.ndim != 2 or given.shape[1] != inputs or not len(given) or not np.all(np.isfinite(given)):
        raise BadInput("start", f"an array of shape {given.shape}",
                       f"{', '.join(STARTS)}, or weights (neuron, {inputs})")
    return given[rng.integers(len(given), size=len(prior))] / sampler.coordinates.scales[where] + ASIDE * prior


__all__ = ["STARTS", "beginning"]
