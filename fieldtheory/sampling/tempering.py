"""Parallel tempering over the noise: a ladder of chains, of which the coldest is kept.

Rung k samples exp(-U_k), U_k the energy at noise variance T_k s with 1 = T_0 < T_1 < ... : the hotter, the less
the data count, down to the prior. Neighbours propose to exchange positions, and do so with probability

    min(1, exp(U_i(q_i) + U_j(q_j) - U_i(q_j) - U_j(q_i))),

which leaves the product of all laws, and so the law of the coldest, exactly stationary whatever the U_k are.
Even and odd pairs take turns; in warm-up the temperatures move towards equal rates of rejection, by the rule of
Syed, Bouchard-Cote, Deligiannidis & Doucet (J. R. Stat. Soc. B 84, 2022): the rates add up to a barrier
Lambda(T), of which each pair gets the same share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldtheory.errors import BadInput
from fieldtheory.sampling import methods
from fieldtheory.sampling.chain import Array, Chain, Start
from fieldtheory.sampling.kernels import NOISE
from fieldtheory.sampling.methods import Method
from fieldtheory.sampling.posterior import Bound
from fieldtheory.sampling.random import new_stream, uniform

EnergyAt = Callable[[Bound, float], Bound]


def statistics_of(rungs: int) -> tuple[str, ...]:
    """Columns of the statistics of one kept draw of a ladder.

    Those of a chain, and `exchange_k`: the mean probability with which rungs k and k + 1 exchanged positions, NaN
    where that was not proposed between this draw and the one before.
    """
    return (*methods.STATISTICS, *(f"exchange_{k}" for k in range(rungs - 1)))


# Where in warm-up the temperatures move; from the last on they stay, and steps adapt to them.
_MOVES = (0.1, 0.2, 0.35, 0.5)


def geometric_ladder(rungs: int, hottest: float) -> tuple[float, ...]:
    """Temperatures 1 = T_0 < ... < T_(rungs-1) = hottest in constant ratio."""
    if isinstance(rungs, bool) or rungs != int(rungs) or rungs < 2:
        raise BadInput("tempering", rungs, "at least 2 temperatures, or None for no tempering")
    return tuple(hottest ** (k / (rungs - 1)) for k in range(int(rungs)))


def tempered_noise(energy: Bound, temperature: float) -> Bound:
    """A network's energy with the noise variance times `temperature`; all arrays but the constants are shared."""
    X, y, constants, *rest = energy.arrays
    constants = constants.copy()
    constants[NOISE] *= temperature
    return Bound(energy.function, (X, y, constants, *rest))


class Ladder:
    """Chains at several temperatures that exchange positions; to its caller, one chain: the coldest.

    `energy_at(energy, T)` makes the energy at temperature T of that wanted, T = 1. The temperatures given are where
    warm-up begins; `adapt_ladder` False keeps them, as warm-up always keeps the first and the last. Exchanges are
    proposed every `swap_every` iterations (None: every one that is a trajectory, else every tenth).
    """

    def __init__(
        self,
        number: int,
        energy: Bound,
        observe: Bound,
        method: Method,
        seed: np.random.SeedSequence,
        start: Start,
        step: float | None = None,
        *,
        temperatures: Sequence[float],
        energy_at: EnergyAt = tempered_noise,
        adapt_ladder: bool = True,
        swap_every: int | None = None,
        **options: Any,
    ) -> None:
        ladder = np.array(temperatures, float)
        if len(ladder) < 2 or ladder[0] != 1.0 or not (np.diff(ladder) > 0).all() or not np.isfinite(ladder).all():
            raise BadInput("tempering", list(temperatures), "at least two growing temperatures, the first of them 1")
        if method.minibatch or options.get("batch") is not None:
            raise BadInput("tempering", "a ladder for minibatches", "a method that knows its energy (hmc, mala)")
        self.number, self.method, self.adapt_ladder = number, method, adapt_ladder
        self.energy_at = partial(energy_at, energy)
        self.swap_every = swap_every or (1 if method.repeats > 1 else 10)
        self.temperatures = ladder
        own, *seeds = seed.spawn(len(ladder) + 1)
        self.stream = new_stream(own)
        self.rungs = [
            Chain(number, self.energy_at(float(T)), observe, method, seeds[k], start, step, **options)
            for k, T in enumerate(ladder)
        ]
        # Sum of the probabilities of exchange of each pair of neighbours, and how often it was proposed.
        self.exchanged, self.proposed = np.zeros(len(ladder) - 1), np.zeros(len(ladder) - 1)
        self.round, self.moves, self.since = 0, 0, 0

    @property
    def completed(self) -> int:
        """Draws kept."""
        return self.rungs[0].completed

    @property
    def done(self) -> int:
        """Iterations made, each of all rungs."""
        return self.rungs[0].done

    @property
    def gradients(self) -> int:
        """Gradients since the ladder was made."""
        return sum(rung.gradients for rung in self.rungs)

    @property
    def swap_rates(self) -> Array:
        """The mean probability of exchange of each pair of neighbours, since the temperatures last moved."""
        return self.exchanged / np.maximum(self.proposed, 1.0)

    def run(self, rows: Array, stats: Array, warmup: int, thin: int, stopped: Callable[[], bool]) -> int:
        """As `Chain.run`; the rows are those of the coldest rung."""
        return self.draw(rows, stats, thin, stopped) if self.warm_up(warmup, stopped) else 0

    def warm_up(self, warmup: int, stopped: Callable[[], bool]) -> bool:
        """Go on with the warm-up of all rungs and of the ladder; whether it has ended."""
        moves = [int(part * warmup) for part in _MOVES] if self.adapt_ladder else []
        while not all([rung.is_warm(warmup) for rung in self.rungs]):  # all of them: a stage may begin
            if stopped():
                return False
            made = [rung.warm_by(self.swap_every - self.since, warmup) for rung in self.rungs]
            self._count(made[0])
            if self.moves < len(moves) and self.rungs[0].warmed >= moves[self.moves]:
                self._move()
        return True

    def draw(self, rows: Array, stats: Array, thin: int, stopped: Callable[[], bool]) -> int:
        """Fill `rows` and `stats` with the next draws of the coldest rung unless `stopped`; how many were made.

        The columns are those of `statistics_of`; `n_steps` counts the gradients of all rungs: what a draw has cost.
        """
        none, part = np.empty((1, 0), rows.dtype), np.empty((1, len(methods.STATISTICS)))
        for k in range(len(stats)):
            if stopped():
                return k
            stats[k] = 0.0
            left, exchanged, proposed = thin, self.exchanged.copy(), self.proposed.copy()
            while left:
                length = min(left, self.swap_every - self.since)
                left -= length
                for j, rung in enumerate(self.rungs):
                    rung.step_by(none if j or left else rows[k : k + 1], part, False, length)
                    stats[k, 4] += part[0, 4]
                    if j == 0:
                        stats[k, 0] += part[0, 0] * length / thin
                        stats[k, [1, 2, 3]] = part[0, [1, 2, 3]]
                        stats[k, 5] = max(stats[k, 5], part[0, 5])
                self._count(length)
            made = self.proposed - proposed
            stats[k, len(methods.STATISTICS) :] = np.where(
                made > 0, (self.exchanged - exchanged) / np.maximum(made, 1.0), np.nan
            )
            for rung in self.rungs:
                rung.completed += 1
        return len(stats)

    def _count(self, iterations: int) -> None:
        self.since += iterations
        if self.since == self.swap_every:
            self.since = 0
            self._swap()

    def _swap(self) -> None:
        """Propose to exchange the positions of every other pair of neighbours."""
        for i in range(self.round % 2, len(self.rungs) - 1, 2):
            colder, hotter = self.rungs[i], self.rungs[i + 1]
            gain = -sum(self._exchange(colder, hotter))
            probability = math.exp(min(0.0, gain)) if not math.isnan(gain) else 0.0
            self.exchanged[i] += probability
            self.proposed[i] += 1
            if not uniform(self.stream) < probability:
                for rung in (colder, hotter):
                    old = rung.state[methods.CARRIED : methods.CARRIED + 2]
                    rung.state[[methods.POSITION, methods.GRADIENT]] = old
                    rung.scalars[methods.ENERGY] = self._old_energy[rung is hotter]
        self.round += 1

    def _exchange(self, colder: Chain, hotter: Chain) -> tuple[float, float]:
        """Exchange positions, and what the energy of each changes by; the old ones are kept beside."""
        self._old_energy = [float(rung.scalars[methods.ENERGY]) for rung in (colder, hotter)]
        for rung in (colder, hotter):
            rung.state[methods.CARRIED : methods.CARRIED + 2] = rung.state[[methods.POSITION, methods.GRADIENT]]
        for rung, other in ((colder, hotter), (hotter, colder)):
            rung.state[methods.POSITION] = other.state[methods.CARRIED]
        return colder.evaluate() - self._old_energy[0], hotter.evaluate() - self._old_energy[1]

    def _move(self) -> None:
        """Move the temperatures between the first and the last to equal shares of the barrier."""
        self.moves += 1
        if self.proposed.min() > 0:
            # A floor keeps the barrier growing where every exchange was made.
            shares = np.maximum(1.0 - self.swap_rates, 1e-3)
            barrier = np.concatenate([[0.0], np.cumsum(shares)])
            equal = np.linspace(0.0, barrier[-1], len(barrier))
            self.temperatures[1:-1] = np.exp(np.interp(equal, barrier, np.log(self.temperatures)))[1:-1]
            self._rebuild()
        self.exchanged[:] = self.proposed[:] = 0.0

    def _rebuild(self) -> None:
        for rung, T in zip(self.rungs, self.temperatures, strict=True):
            rung.set_energy(self.energy_at(float(T)))

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Everything the future depends on: as `Chain.snapshot`, of each rung, and the ladder's own."""
        own = {
            "ladder/temperatures": self.temperatures.copy(),
            "ladder/swaps": np.stack([self.exchanged, self.proposed]),
            "ladder/stream": self.stream.copy(),
            "ladder/progress": np.array([self.round, self.moves, self.since]),
        }
        return own | {f"rung{k}/{n}": a for k, rung in enumerate(self.rungs) for n, a in rung.snapshot().items()}

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Take over a snapshot; BadInput if it is another kind of ladder's."""
        own = self.snapshot()
        for name in own:
            if name not in snapshot:
                raise BadInput("snapshot", f"nothing for {name}", f"{', '.join(own)}")
        self.temperatures[:] = snapshot["ladder/temperatures"]
        self.exchanged[:], self.proposed[:] = snapshot["ladder/swaps"]
        self.stream[:] = snapshot["ladder/stream"]
        self.round, self.moves, self.since = (int(n) for n in snapshot["ladder/progress"])
        self._rebuild()
        for k, rung in enumerate(self.rungs):
            prefix = f"rung{k}/"
            rung.restore({n.removeprefix(prefix): a for n, a in snapshot.items() if n.startswith(prefix)})
