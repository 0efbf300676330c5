"""Solutions of the population theory with a precision of its own for every input, one at a time.

Several solutions may exist at one noise (:mod:`.population.branches` finds all): one is found from the prior, one from
precisions at which the relevant inputs are cheap, and of both the one with the least free energy is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.population.branches import Follower, Root
from fieldtheory.population.freeenergy import Landscape

if TYPE_CHECKING:
    from fieldtheory.population.base import PopulationSolution

Start = Literal["prior", "planted"]

LEARNED, RELEVANT, REST = 0.9, 0.1, 1.5
"""Where a solution that has learned is looked for: the share of the target, and precisions in units of the prior's."""


def _settled(follower: Follower, noise: float, start: PopulationSolution | Start) -> Root:
    landscape = follower.landscape
    prior = {name: landscape.prior for name in landscape.moving}
    if start == "prior":
        m, precisions = 0 * landscape.target, prior
    elif start == "planted":
        m = LEARNED * landscape.target
        precisions = {name: (REST if name == "rest" else RELEVANT) * landscape.prior for name in landscape.moving}
    elif isinstance(start, str):
        raise BadInput("start", start, "'prior', 'planted', a solution, or None for the better of both")
    else:
        m, precisions = np.array(list(start.order_parameters.values())), dict(start.precisions) or prior
    try:
        return follower.settle(np.r_[m, np.log([precisions[name] for name in landscape.moving])], noise)
    except NotConverged:
        if start != "prior":
            raise
        return follower.lazy(noise)


def solve(landscape: Landscape, noise: float, start: PopulationSolution | Start | None) -> Root:
    """The solution from a start; without one that of the least free energy.

    Raises
    ------
    NotConverged
        If none is found from any start.
    BadInput
        If a precision runs away.
    """
    follower, found, failed = Follower(landscape), [], None
    for one in ("prior", "planted") if start is None else (start,):
        try:
            found.append(_settled(follower, float(np.log(noise)), one))  # type: ignore[arg-type]
        except NotConverged as error:
            failed = error
    if failed is not None and not found:
        raise failed
    best = min(found, key=lambda root: root.point.value)
    follower.check(best.x)
    return best


__all__ = ["Start", "solve"]
