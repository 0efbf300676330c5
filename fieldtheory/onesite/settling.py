"""Particles on their way to a self-consistent environment: how long they settle, and what is measured then.

Averages carry weight .1 while the law settles, then 1/t; the environment is then frozen, and what is reported is
measured under it.  Shared precisions crawl where a solution has nearly ceased to exist, by less in one sweep than
sampling noise, so that neither a single environment nor the differences of ensembles show it.  Independent ensembles go
the same way, however: scalars that grow with what is learned are averaged over successive windows of sweeps, and
settling goes on until the mean step of the ensembles between windows is not significant by their own errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

from fieldtheory.onesite.particles import Particles

if TYPE_CHECKING:
    from fieldtheory.onesite.environment import Effort, Ensemble, Environment

Array = np.ndarray

FOLLOW = 0.3
"""The part of their way that shared precisions go in a sweep where the mean kernel of the others must keep up."""
HELD = 10
"""Sweeps under the environment of the solution started from, before that of the particles takes over."""
RENEWED = 3
"""Sweeps after which C is diagonalised again: its average hardly moves in one, and it takes longer than the sweep."""
WARM = 20
"""The last sweeps of settling: averages of what is reported beside the environment begin there."""
WINDOWS = 3
"""In how many windows the sweeps of ``effort.settle`` are looked at."""
LONGER = 8
"""How many times ``effort.settle`` particles settle at most, while they drift."""
CHANCE = 0.1
"""How rarely settled ensembles are taken to drift, which costs one more window (Student's t of a few ensembles)."""
SMALL = 2e-3
"""A step between windows, relative, that is settled however significant it is."""


class Run:
    """One ensemble of particles, from draws of the prior or from where another solution ended."""

    def __init__(self, equations: Environment, values: dict[str, Any], effort: Effort, seed: np.random.SeedSequence,
                 start: Ensemble | None = None) -> None:
        self.equations, self.values, self.effort = equations, values, effort
        self.sampler = Particles(equations.coordinates(values), effort.particles, seed)
        self.precisions = equations.precisions(values)
        self.settle = effort.settle or (150 if self.precisions else 100)
        self.warm = min(WARM, self.settle // 3)
        if start is not None:
            self.sampler.begin(start.sampler)
        self.made, self.all = equations.made.bind(values), equations.statics.bind(values)
        self.averages = equations.averages(self.sampler.fields, self.sampler.weights, self.made)
        self.environment, self.held = equations._solve(self.averages), 0
        for name, law in self.precisions.items():
            first = np.full(law.shape, law.unlearned) if start is None else law.plain(self.sampler)
            self.environment[name] = first
        if start is not None:
            fits = equations._fits(start, self.environment)
            kept = {k: v for k, v in start.environment.items() if k in self.precisions or fits}
            self.environment, self.held = self.environment | kept, min(HELD, self.settle - 1) if kept else 0
        self.used: dict[str, Array] = {}
        self.taken = dict.fromkeys(self.averages, 1)
        self.sweeps = 0
        self.halfway: list[Array] = []
        self.drifting = 0.0

    def _sweep(self, statics: Any, weight: float, *, renew: bool | None = None) -> None:
        """Particles move under the environment, which follows averages where the last sweep has this weight."""
        equations = self.equations
        if any(value is not self.used.get(name) for name, value in self.environment.items()):
            self.bound, self.used = equations.dynamics.bind(self.values | self.environment), self.environment
        self.sampler.update(self.bound)
        new = equations._averages(self.sampler, statics, self.precisions, self.environment)
        for key, value in new.items():
            self.taken[key] = self.taken.get(key, 0) + 1
            before = self.averages.get(key, value)
            self.averages[key] = before + max(weight, 1 / self.taken[key]) * (value - before)
        if self.sweeps >= self.held:
            rate = None if equations.parameter is not None else FOLLOW * min(1.0, 10 * weight)
            self.environment = equations.solve(
                self.averages, self.precisions, self.environment, rate=rate,
                renew=self.sweeps % RENEWED == 0 if renew is None else renew)
        self.sweeps += 1

    @property
    def window(self) -> int:
        """Sweeps in a window."""
        return max((self.settle - self.warm) // WINDOWS, 1)

    def advance(self, sweeps: int) -> Array:
        """Settle for so many sweeps; the mean over them of what grows as more is learned."""
        total = np.zeros(1)
        for _ in range(sweeps):
            self._sweep(self.made, 0.1)
            total = total + self.equations.learned(self.environment, self.values)
        return total / max(sweeps, 1)

    def finish(self) -> Ensemble:
        """Average, freeze the environment, and measure under it."""
        from fieldtheory.onesite.environment import Ensemble

        equations, sampler, effort = self.equations, self.sampler, self.effort
        for _ in range(self.warm):
            self._sweep(self.all, 0.1)
        for k in range(effort.average):
            if k == effort.average // 2:
                self.halfway = equations.parts(self.environment)
            self._sweep(self.all, 1 / (k + 10), renew=True if k == effort.average - 1 else None)
        environment, precisions, sampler.adapting = self.environment, self.precisions, False
        bound = equations.dynamics.bind(self.values | environment)
        beside = equations.at_other_data(self.averages, environment)
        direct = None if equations.direct is None else equations.direct.bind(self.values | environment | beside)
        # at a mean kernel all that is reported are averages of their own
        statics = self.made if equations.parameter is None else self.all
        total: dict[str, Array] = {}
        sums: dict[str, Array] = {}
        for _ in range(effort.measure):
            sampler.update(bound)
            for key, value in equations._averages(sampler, statics, precisions, environment).items():
                total[key] = total.get(key, 0.0) + value / effort.measure
            if direct is not None:
                for key, value in direct(sampler.fields).items():
                    sums[key] = sums.get(key, 0.0) + np.tensordot(sampler.weights, value, 1) / effort.measure
        for name, law in precisions.items():
            law.check(environment[name])
        misses, ended = equations.misses(total, environment, precisions), equations.parts(environment)
        drift = [(b - a) / size for a, b, size in zip(self.halfway, ended, equations._sizes(ended), strict=True)]
        residual = float(np.sqrt(sum(np.sum(miss**2) for miss in misses)))
        share = effort.average / (effort.average + effort.measure)
        both = {key: share * self.averages[key] + (1 - share) * value for key, value in total.items()}
        final = equations.solve(both, precisions, environment) if equations.parameter is not None else environment
        return Ensemble(final, equations.read(both, final, sums), residual, sampler, misses=misses, drift=drift,
                        drifting=self.drifting, settled=self.sweeps - effort.average)


def settle(runs: Sequence[Run], every: Callable[..., Any] = map) -> None:
    """Settle independent ensembles until they no longer drift the same way, or for ``LONGER`` times as long.

    ``every`` is map, or that of a pool.  What is left of a drift at the limit is kept by the runs.
    """
    first = runs[0]
    history: list[Array] = []  # windows of (ensemble, scalar)
    left = first.settle - first.warm - (WINDOWS - 1) * first.window
    while True:
        size = left if len(history) < 1 else first.window
        history.append(np.array(list(every(lambda run: run.advance(size), runs))))  # noqa: B023 (all done at once)
        if len(history) < WINDOWS:
            continue
        drift = drifting(history)
        if drift == 0 or first.sweeps + first.warm >= LONGER * first.settle:
            break
    for run in runs:
        run.drifting = drift


def drifting(history: Sequence[Array]) -> float:
    """The largest significant step, relative, of the ensembles' mean between the last windows; 0 if there is none.

    Of four windows or more the last two are compared with the two before.
    """
    if len(history[0]) < 2:
        return 0.0
    steps = history[-1] - history[-2]
    if len(history) > WINDOWS:
        steps = (history[-1] + history[-2] - history[-3] - history[-4]) / 2
    mean, error = steps.mean(axis=0), steps.std(axis=0, ddof=1) / np.sqrt(len(steps))
    size = np.maximum(np.abs(history[-1].mean(axis=0)), 1e-300)
    significant = np.abs(mean) > scipy.special.stdtrit(len(steps) - 1, 1 - CHANCE / 2) * error
    relative = np.abs(mean) / size
    return float(np.max(np.where(significant & (relative > SMALL), relative, 0.0)))


__all__ = ["LONGER", "Run", "drifting", "settle"]
