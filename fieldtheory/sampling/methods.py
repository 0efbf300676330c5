"""Sampling methods, declared as data, and the one loop that runs them all.

A step of size e is a splitting: a word in three letters, each an exact flow for the part of e that is its
coefficient c,

    B   kick    p <- p - c e grad U(q)
    A   drift   q <- q + c e p
    O   bath    p <- x p + sqrt(1 - x^2) N(0, 1),   x = exp(-friction c e),

and one iteration is some steps, after a fresh momentum p ~ N(0, 1) or with the old one, then accepted with
probability min(1, exp(-work)), or always. The work is the change of U + p^2/2 less what the bath put in: for a
palindromic word of which the flows A and B preserve volume, this test makes exp(-U) exactly stationary; after a
rejection a momentum that is kept is reversed. With fresh momenta one leapfrog step BAB is one Euler step of the
Langevin equation dq = -grad U dt + sqrt(2) dB over a time e^2/2:

    ula          one BAB, no test: biased (on a well k q^2/2 the variance is 1/(k (1 - k e^2/4))), and
                 transient where the force grows faster than linearly: at too large a step it ends in overflow;
    mala         one BAB, test;
    hmc          as many BABAB as make a trajectory of given length, jittered, test;
    underdamped  one BAOAB, the momentum is kept, no test: biased, though on a well k q^2/2 not in q, whose
                 variance is 1/k at every stable step (Leimkuhler & Matthews, 2013);
    sgld         as ula with the gradient of a minibatch, drawn afresh for each iteration: on top of the
                 step's bias, one of the order of the step squared times the variance of the minibatch gradient.

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
from fieldtheory.sampling.random import fill_normal, uniform
from fieldtheory.vectormath import FAST

Array = NDArray[np.floating]

# Nesterov's dual averaging with the constants of Hoffman & Gelman (2014), section 3.2.
_SHRINKAGE, _DELAY, _DECAY = 0.05, 10.0, 0.75
# Energy errors beyond this mark a draw as diverging: no accept test with a sensible step would pass it.
_DIVERGING = 1000.0
# The two-stage splitting with the least mean energy error in Gaussian wells (Blanes, Casas & Sanz-Serna, SIAM J. Sci.
# Comput. 36, 2014): at equal acceptance it needs about a fifth fewer gradients than BAB on networks.
_TWO_STAGE = 0.21178
_LETTERS = "BAO"
_KICK, _DRIFT = 0, 1


@dataclass(frozen=True)
class Method:
    """How one iteration is made.

    splitting: a palindrome in the letters B, A, O, kicks outermost among B and A: the last gradient of a step
        is the first of the next.
    coefficients: the part of the step for each letter, those of one letter adding up to 1; None shares it out
        equally.
    repeats: steps per iteration; with a `trajectory`, the most that are allowed.
    trajectory: length of a trajectory in whitened coordinates (the prior has unit width), or None.
    refresh: whether each iteration starts with a fresh momentum.  Without, the splitting needs a bath.
    friction: of the bath O, in units of the inverse of whitened time.
    accept: whether the accept test is made.  Without it the draws are biased by the step.
    target_acceptance: what warm-up aims at (with the accept test on, even if it is off afterwards).
    jitter: the trajectory (the step, where there is none) is stretched by a uniform factor in [1 - jitter,
        1 + jitter] at each iteration, so that no orbit closes; the longest takes at most `repeats` steps.
    minibatch: whether each iteration draws a minibatch.
    decay, delay: after warm-up the step of iteration t is e (1 + t/delay)^-decay; decay 0 keeps it constant.
    """

    name: str
    splitting: str = "BAB"
    coefficients: tuple[float, ...] | None = None
    repeats: int = 1
    trajectory: float | None = None
    refresh: bool = True
    friction: float = 1.0
    accept: bool = True
    target_acceptance: float = 0.57
    jitter: float = 0.0
    minibatch: bool = False
    decay: float = 0.0
    delay: float = 1000.0

    def __post_init__(self) -> None:
        word, parts = self.splitting, self.shares
        moves = word.replace("O", "")
        if set(word) - set(_LETTERS) or not {"B", "A"} <= set(word) or moves[0] != "B" or word != word[::-1]:
            raise BadInput(
                "splitting", word, "a palindrome of the letters B, A, O with B outermost among B and A, as BAOAB"
            )
        if len(parts) != len(word) or not np.allclose(parts, parts[::-1]) or not self._is_consistent(parts):
            raise BadInput(
                "coefficients", self.coefficients, f"{len(word)} numbers, a palindrome, adding up to 1 for each letter"
            )
        if self.repeats < 1:
            raise BadInput("repeats", self.repeats, "an integer >= 1")
        if self.trajectory is not None and not self.trajectory > 0:
            raise BadInput("trajectory", self.trajectory, "a positive number or None")
        if not 0 < self.target_acceptance < 1:
            raise BadInput("target_acceptance", self.target_acceptance, "a number between 0 and 1")
        if not 0 <= self.jitter < 1:
            raise BadInput("jitter", self.jitter, "a number in [0, 1)")
        if not 0 < self.friction < math.inf:
            raise BadInput("friction", self.friction, "a positive number")
        if not self.refresh and "O" not in word:
            raise BadInput("refresh", False, "True, or a splitting with a bath O: the energy would never change")
        if self.minibatch and (self.accept or not self.refresh):
            raise BadInput("minibatch", True, "accept=False and refresh=True: a minibatch has no energy to test")
        if not (0 <= self.decay <= 1 and self.delay > 0) or (self.decay and self.accept):
            raise BadInput(
                "decay", self.decay, "a number in [0, 1] with delay > 0, and 0 for a method with an accept test"
            )

    @property
    def shares(self) -> tuple[float, ...]:
        """The coefficient of each letter."""
        if self.coefficients is not None:
            return tuple(self.coefficients)
        return tuple(1.0 / self.splitting.count(letter) for letter in self.splitting)

    def _is_consistent(self, parts: tuple[float, ...]) -> bool:
        totals = (sum(c for c, x in zip(parts, self.splitting, strict=True) if x == y) for y in set(self.splitting))
        return all(math.isclose(total, 1.0) for total in totals)

    def compiled(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Letters as numbers, and their coefficients: what the loop reads."""
        return np.array([_LETTERS.index(x) for x in self.splitting]), np.array(self.shares, float)


METHODS = {
    method.name: method
    for method in (
        Method("ula", accept=False, target_acceptance=0.99),
        Method("mala"),
        Method(
            "hmc",
            splitting="BABAB",
            coefficients=(_TWO_STAGE, 0.5, 1.0 - 2.0 * _TWO_STAGE, 0.5, _TWO_STAGE),
            repeats=64,
            trajectory=1.0,
            target_acceptance=0.8,
            jitter=0.5,
        ),
        Method("underdamped", splitting="BAOAB", refresh=False, accept=False, target_acceptance=0.99),
        Method("sgld", accept=False, target_acceptance=0.99, minibatch=True),
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
ENERGY, LOG_STEP, LOG_STEP_MEAN, SHORTFALL, ADAPTED, ANCHOR, ITERATION, MEASURED, SLOTS = range(9)
# Rows of a chain's state: what carries over between calls comes first.
POSITION, GRADIENT, MOMENTUM, MEAN, SPREAD, CARRIED = 0, 1, 2, 3, 4, 5
ROWS = 9
#: Columns of the statistics of one kept draw.
STATISTICS = ("acceptance_rate", "lp", "energy", "step_size", "n_steps", "diverging")


def restart_adaptation(scalars: Array, step: float) -> None:
    """Start dual averaging from `step`, forgetting what was learned."""
    scalars[[LOG_STEP, LOG_STEP_MEAN]] = math.log(step)
    scalars[[SHORTFALL, ADAPTED]] = 0.0
    scalars[ANCHOR] = math.log(2.0 * step)


@njit(cache=True, nogil=True)
def _kick(momentum: Array, gradient: Array, scale: Array, amount: float) -> None:
    c = momentum.dtype.type(amount)
    if scale.size == 0:
        for k in range(momentum.size):
            momentum[k] -= c * gradient[k]
    else:
        for k in range(momentum.size):
            momentum[k] -= c * scale[k] * gradient[k]


@njit(cache=True, nogil=True)
def _drift(position: Array, momentum: Array, scale: Array, amount: float) -> None:
    c = momentum.dtype.type(amount)
    if scale.size == 0:
        for k in range(momentum.size):
            position[k] += c * momentum[k]
    else:
        for k in range(momentum.size):
            position[k] += c * scale[k] * momentum[k]


@njit(cache=True, nogil=True)
def _mix(momentum: Array, noise: Array, share: float) -> None:
    kept, fresh = momentum.dtype.type(share), momentum.dtype.type(math.sqrt(1.0 - share * share))
    for k in range(momentum.size):
        momentum[k] = kept * momentum[k] + fresh * noise[k]


@njit(cache=True, nogil=True, fastmath=FAST)
def _kinetic(momentum: Array) -> float:
    total = 0.0
    for k in range(momentum.size):
        total += np.float64(momentum[k]) * np.float64(momentum[k])
    return 0.5 * total


@njit(cache=True, nogil=True)
def _welford(position: Array, mean: Array, spread: Array, count: float) -> None:
    share = mean.dtype.type(1.0 / count)
    for k in range(position.size):
        away = position[k] - mean[k]
        mean[k] += share * away
        spread[k] += away * (position[k] - mean[k])


@njit(cache=True, nogil=True)
def _select(stream: NDArray[np.uint64], order: NDArray[np.int64], X: Array, y: Array, Z: Array, z: Array) -> None:
    """A uniformly random set of rows of (X, y) into (Z, z): the first len(Z) steps of a shuffle of `order`."""
    for k in range(Z.shape[0]):
        other = k + int(uniform(stream) * (order.size - k))
        order[k], order[other] = order[other], order[k]
        Z[k], z[k] = X[order[k]], y[order[k]]


@njit(cache=True, nogil=True)
def advance(
    energy: Any,
    bound: tuple[Any, ...],
    observe: Any,
    observed: tuple[Any, ...],
    update: Any,
    updated: tuple[Any, ...],
    update_every: int,
    batch: tuple[Any, ...],
    state: Array,
    scale: Array,
    scalars: Array,
    stream: NDArray[np.uint64],
    letters: NDArray[np.int64],
    shares: Array,
    repeats: int,
    trajectory: float,
    refresh: bool,
    friction: float,
    jitter: float,
    accept: bool,
    decay: float,
    delay: float,
    target: float,
    adapt: bool,
    measure: bool,
    thin: int,
    rows: Array,
    stats: Array,
) -> int:
    """Make `thin` iterations for each row of `stats`, and keep the last of each `thin` in `rows`.

    `state` (ROWS, size) holds position, gradient, momentum, running mean and sum of squares (which `measure`
    keeps), and where the iteration began; `scale` the widths of the coordinates, or nothing; `scalars` the
    energy (NaN: to be evaluated) and the step; `batch` the order, X and y that minibatches are drawn from, or
    an empty order; `update` draws part of the position anew every `update_every` iterations, 0 for never.
    All carry over between calls, so how a run is cut into calls does not matter.
    Returns the number of kept draws completed, less than asked only if a chain without accept test left the
    finite numbers.
    """
    position, gradient, momentum = state[POSITION], state[GRADIENT], state[MOMENTUM]
    mean, spread = state[MEAN], state[SPREAD]
    old_position, old_gradient, old_momentum = state[CARRIED], state[CARRIED + 1], state[CARRIED + 2]
    noise, last = state[CARRIED + 3], letters.size - 1
    order, X, y = batch
    if math.isnan(scalars[ENERGY]):
        scalars[ENERGY] = energy(position, gradient, bound)
    for kept in range(stats.shape[0]):
        acceptance, evaluations, diverging, total = 0.0, 0, 0.0, 0.0
        for _ in range(thin):
            step, steps = math.exp(scalars[LOG_STEP]), repeats
            if decay > 0.0 and not adapt:
                step *= (1.0 + scalars[ITERATION] / delay) ** -decay
            stretch = 1.0 + jitter * (2.0 * uniform(stream) - 1.0) if jitter > 0.0 else 1.0
            if trajectory > 0.0:
                length = min(trajectory, repeats * step / (1.0 + jitter)) * stretch
                steps = max(1, math.ceil(length / step))
                step = length / steps
            else:
                step *= stretch
            if refresh:
                fill_normal(stream, momentum)
            if order.size > 0:
                _select(stream, order, X, y, bound[0], bound[1])
                scalars[ENERGY] = energy(position, gradient, bound)
                evaluations += 1
            old_position[:] = position
            old_gradient[:] = gradient
            if not refresh:
                old_momentum[:] = momentum
            potential, kinetic, heat, fresh = scalars[ENERGY], _kinetic(momentum), 0.0, True
            before = potential + kinetic
            for repeat in range(steps):
                for j in range(letters.size):
                    # What closes an iteration matters to the energy and to the next gradient: without a test,
                    # and with another minibatch next, to nothing.
                    if order.size > 0 and not adapt and repeat == steps - 1 and j == last:
                        break
                    amount = shares[j] * step
                    if letters[j] == _KICK:
                        if not fresh:
                            potential = energy(position, gradient, bound)
                            fresh = True
                            evaluations += 1
                            if not math.isfinite(potential):
                                break
                        _kick(momentum, gradient, scale, amount)
                    elif letters[j] == _DRIFT:
                        _drift(position, momentum, scale, amount)
                        fresh = False
                    else:
                        heat -= _kinetic(momentum)
                        fill_normal(stream, noise)
                        _mix(momentum, noise, math.exp(-friction * amount))
                        heat += _kinetic(momentum)
                if not math.isfinite(potential):
                    break
            change = potential + _kinetic(momentum) - before - heat
            finite = math.isfinite(change)
            rate = min(1.0, math.exp(-change)) if finite and change > 0.0 else (1.0 if finite else 0.0)
            if order.size > 0 and not adapt:  # the iteration was not closed, and the next has another energy
                acceptance = math.nan
            elif not finite or change > _DIVERGING:
                diverging = 1.0
            acceptance += rate
            total = before
            if not (accept or adapt):
                if not finite:
                    return kept
                scalars[ENERGY] = potential
                total += change + heat
            elif uniform(stream) < rate:
                scalars[ENERGY] = potential
                total += change + heat
            else:
                position[:] = old_position
                gradient[:] = old_gradient
                if not refresh:
                    for k in range(momentum.size):
                        momentum[k] = -old_momentum[k]
            if adapt:
                count = scalars[ADAPTED] + 1.0
                scalars[ADAPTED] = count
                scalars[SHORTFALL] += ((target - rate) - scalars[SHORTFALL]) / (count + _DELAY)
                scalars[LOG_STEP] = scalars[ANCHOR] - math.sqrt(count) / _SHRINKAGE * scalars[SHORTFALL]
                if trajectory > 0.0:  # no step is longer, and one that grows for ever would not come back
                    scalars[LOG_STEP] = min(scalars[LOG_STEP], math.log(trajectory))
                scalars[LOG_STEP_MEAN] += count**-_DECAY * (scalars[LOG_STEP] - scalars[LOG_STEP_MEAN])
            scalars[ITERATION] += 1.0
            if update_every > 0 and scalars[ITERATION] % update_every == 0.0:
                update(position, stream, updated)
                scalars[ENERGY] = energy(position, gradient, bound)
                evaluations += 1
            if measure:
                scalars[MEASURED] += 1.0
                _welford(position, mean, spread, scalars[MEASURED])
        stats[kept, 0] = acceptance / thin
        stats[kept, 1] = -scalars[ENERGY]
        stats[kept, 2] = total
        stats[kept, 3] = math.exp(scalars[LOG_STEP])
        stats[kept, 4] = evaluations
        stats[kept, 5] = diverging
        if rows.shape[1] > 0:
            observe(position, rows[kept], observed)
    return stats.shape[0]
