"""Sampling methods, declared as data, and the one loop that runs them all.

Every method draws a fresh momentum p ~ N(0, 1), follows the leapfrog rule

    p <- p - (e/2) grad U,   q <- q + e p,   p <- p - (e/2) grad U

for some steps of size e, and accepts the end point with probability min(1, exp(-change of U + p^2/2)), or
always. One leapfrog step is one Euler step of the Langevin equation dq = -grad U dt + sqrt(2) dB over a time
e^2/2:

    ULA   one leapfrog step, no accept test: biased (on a well k q^2/2 the variance is 1/(k (1 - k e^2/4))),
          and transient where the force grows faster than linearly: at too large a step it ends in overflow;
    MALA  one leapfrog step, accept test;
    HMC   as many steps as make a trajectory of given length, jittered, accept test.

A new method of this family is a new `Method`, not a new loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fieldtheory.errors import BadInput, UnknownName

Array = NDArray[np.float64]

# Nesterov's dual averaging with the constants of Hoffman & Gelman (2014), section 3.2.
_SHRINKAGE, _DELAY, _DECAY = 0.05, 10.0, 0.75
# Energy errors beyond this mark a draw as diverging: no accept test with a sensible step would pass it.
_DIVERGING = 1000.0


@dataclass(frozen=True)
class Method:
    """How one draw is made.

    leapfrog: leapfrog steps per draw; with a `trajectory`, the most that are allowed.
    trajectory: length of a trajectory in whitened coordinates (the prior has unit width), or None.
    accept: whether the accept test is made.  Without it the draws are biased by the step.
    target_acceptance: what warm-up aims at (with the accept test on, even if it is off afterwards).
    jitter: the trajectory (the step, where there is none) is stretched by a uniform factor in [1 - jitter,
        1 + jitter] at each draw, so that no orbit closes.
    """

    name: str
    leapfrog: int = 1
    trajectory: float | None = None
    accept: bool = True
    target_acceptance: float = 0.57
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.leapfrog < 1:
            raise BadInput("leapfrog", self.leapfrog, "an integer >= 1")
        if self.trajectory is not None and not self.trajectory > 0:
            raise BadInput("trajectory", self.trajectory, "a positive number or None")
        if not 0 < self.target_acceptance < 1:
            raise BadInput("target_acceptance", self.target_acceptance, "a number between 0 and 1")
        if not 0 <= self.jitter < 1:
            raise BadInput("jitter", self.jitter, "a number in [0, 1)")


METHODS = {
    method.name: method
    for method in (
        Method("ula", accept=False, target_acceptance=0.99),
        Method("mala"),
        Method("hmc", leapfrog=128, trajectory=1.5, target_acceptance=0.8, jitter=0.5),
    )
}


def find_method(method: str | Method) -> Method:
    """The method of that name, or the method itself; UnknownName suggests the nearest."""
    if isinstance(method, Method):
        return method
    if method not in METHODS:
        raise UnknownName("method", method, list(METHODS))
    return METHODS[method]


# Slots of a chain's scalars.
ENERGY, LOG_STEP, LOG_STEP_MEAN, SHORTFALL, ADAPTED, ANCHOR, SLOTS = 0, 1, 2, 3, 4, 5, 6
#: Columns of the statistics of one kept draw.
STATISTICS = ("acceptance_rate", "lp", "energy", "step_size", "n_steps", "diverging")


def restart_adaptation(scalars: Array, step: float) -> None:
    """Start dual averaging from `step`, forgetting what was learned."""
    scalars[[LOG_STEP, LOG_STEP_MEAN]] = math.log(step)
    scalars[[SHORTFALL, ADAPTED]] = 0.0
    scalars[ANCHOR] = math.log(2.0 * step)


@njit(cache=True, nogil=True)
def advance(
    energy: Any,
    bound: tuple[Any, ...],
    observe: Any,
    observed: tuple[Any, ...],
    state: Array,
    scalars: Array,
    rng: np.random.Generator,
    leapfrog: int,
    trajectory: float,
    jitter: float,
    accept: bool,
    target: float,
    adapt: bool,
    thin: int,
    rows: Array,
    stats: Array,
) -> int:
    """Make `thin` draws for each row of `stats`, and keep the last of each `thin` in `rows`.

    `state` (5, size) holds position, gradient, momentum, and the proposal's position and gradient; `scalars`
    the energy (NaN: to be evaluated) and the step. Both carry over between calls, so how a run is cut into
    calls does not matter.
    Returns the number of kept draws completed, less than asked only if an unadjusted chain left the finite
    numbers.
    """
    position, gradient, momentum, proposal, slope = state[0], state[1], state[2], state[3], state[4]
    size = position.size
    if math.isnan(scalars[ENERGY]):
        scalars[ENERGY] = energy(position, gradient, bound)
    for kept in range(stats.shape[0]):
        acceptance, leaps, diverging = 0.0, 0, 0.0
        for _ in range(thin):
            step, steps = math.exp(scalars[LOG_STEP]), leapfrog
            stretch = 1.0 + jitter * (2.0 * rng.random() - 1.0) if jitter > 0.0 else 1.0
            if 0.0 < trajectory * stretch < leapfrog * step:
                steps = math.ceil(trajectory * stretch / step)
                step = trajectory * stretch / steps
            elif trajectory == 0.0:
                step *= stretch
            kinetic = 0.0
            for k in range(size):
                momentum[k] = rng.standard_normal()
                kinetic += momentum[k] * momentum[k]
            before = scalars[ENERGY] + 0.5 * kinetic
            for k in range(size):
                momentum[k] -= 0.5 * step * gradient[k]
                proposal[k] = position[k] + step * momentum[k]
            potential = energy(proposal, slope, bound)
            for _ in range(steps - 1):
                if not math.isfinite(potential):
                    break
                for k in range(size):
                    momentum[k] -= step * slope[k]
                    proposal[k] += step * momentum[k]
                potential = energy(proposal, slope, bound)
                leaps += 1
            leaps += 1
            kinetic = 0.0
            for k in range(size):
                momentum[k] -= 0.5 * step * slope[k]
                kinetic += momentum[k] * momentum[k]
            change = potential + 0.5 * kinetic - before
            finite = math.isfinite(change)
            rate = min(1.0, math.exp(-change)) if finite and change > 0.0 else (1.0 if finite else 0.0)
            if not finite or change > _DIVERGING:
                diverging = 1.0
            acceptance += rate
            if not accept and not finite:
                return kept
            if not accept or rng.random() < rate:
                for k in range(size):
                    position[k], gradient[k] = proposal[k], slope[k]
                scalars[ENERGY] = potential
                before += change
            if adapt:
                count = scalars[ADAPTED] + 1.0
                scalars[ADAPTED] = count
                scalars[SHORTFALL] += ((target - rate) - scalars[SHORTFALL]) / (count + _DELAY)
                scalars[LOG_STEP] = scalars[ANCHOR] - math.sqrt(count) / _SHRINKAGE * scalars[SHORTFALL]
                scalars[LOG_STEP_MEAN] += count**-_DECAY * (scalars[LOG_STEP] - scalars[LOG_STEP_MEAN])
        stats[kept, 0] = acceptance / thin
        stats[kept, 1] = -scalars[ENERGY]
        stats[kept, 2] = before
        stats[kept, 3] = math.exp(scalars[LOG_STEP])
        stats[kept, 4] = leaps
        stats[kept, 5] = diverging
        if rows.shape[1] > 0:
            observe(position, rows[kept], observed)
    return stats.shape[0]
