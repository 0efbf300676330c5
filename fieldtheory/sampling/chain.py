"""One chain: a state that warm-up and sampling carry forward, in as many calls as convenient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.sampling import methods
from fieldtheory.sampling.methods import Method
from fieldtheory.sampling.posterior import Bound

Array = NDArray[np.float64]
Start = Callable[[np.random.Generator], Array]

# One call of the stepper should last about this long: between calls a chain looks whether it is to stop.
_CALL_SECONDS = 0.1
_FIRST_STEP = 0.1
_SMALLEST_STEP = 1e-10


class Chain:
    """One chain: a state that `advance` carries forward, in as many calls as convenient."""

    def __init__(
        self,
        number: int,
        energy: Bound,
        observe: Bound,
        method: Method,
        seed: np.random.SeedSequence,
        start: Start,
        step: float | None,
    ) -> None:
        self.number, self.energy, self.observe = number, energy, observe
        self.method, self.given_step = method, step
        self.rng = np.random.default_rng(seed)
        position = start(self.rng)
        self.state = np.zeros((5, len(position)))
        self.state[0] = position
        self.scalars = np.zeros(methods.SLOTS)
        self.scalars[methods.ENERGY] = math.nan
        self.advance(np.empty((0, 0)), np.empty((0, 0)), adapt=False)  # compiles; evaluates the first energy
        if not math.isfinite(self.scalars[methods.ENERGY]):
            raise BadInput("initial", f"a start where the energy of chain {number} is not finite", "another")
        self.done, self._calls = 0, 1.0

    def advance(self, rows: Array, stats: Array, adapt: bool, thin: int = 1) -> int:
        """Fill `rows` and `stats`, as far as the chain stays finite; the number of draws completed."""
        m = self.method
        return methods.advance(
            self.energy.function,
            self.energy.arrays,
            self.observe.function,
            self.observe.arrays,
            self.state,
            self.scalars,
            self.rng,
            m.leapfrog,
            m.trajectory or 0.0,
            m.jitter,
            m.accept or adapt,
            m.target_acceptance,
            adapt,
            thin,
            rows,
            stats,
        )

    def run(self, rows: Array, stats: Array, warmup: int, thin: int, stopped: Callable[[], bool]) -> None:
        """Warm up, freeze the step, and fill `rows` and `stats`, unless `stopped` in between."""
        adapt = self.given_step is None
        step = self.given_step or _FIRST_STEP
        # Adaptation starts afresh half way: what it learned on the way in is not about the posterior.
        for length in (warmup // 2, warmup - warmup // 2):
            methods.restart_adaptation(self.scalars, step)
            self._cover(np.empty((length, 0)), np.empty((length, stats.shape[1])), adapt, 1, stopped)
            if adapt and length:
                step = math.exp(self.scalars[methods.LOG_STEP_MEAN])
        if step < _SMALLEST_STEP and adapt and not stopped():
            raise NotConverged(f"warm-up shrank the step of chain {self.number} to nothing", residual=step)
        methods.restart_adaptation(self.scalars, step)
        self._cover(rows, stats, False, thin, stopped)

    def _cover(self, rows: Array, stats: Array, adapt: bool, thin: int, stopped: Callable[[], bool]) -> None:
        begin = 0
        while begin < len(stats) and not stopped():
            end = min(len(stats), begin + max(1, int(self._calls / thin)))
            began = time.perf_counter()
            completed = self.advance(rows[begin:end], stats[begin:end], adapt, thin)
            if completed < end - begin:
                self._diverged(self.done + completed * thin)
            elapsed = max(time.perf_counter() - began, 1e-6)
            self._calls = min((end - begin) * thin * _CALL_SECONDS / elapsed, 4.0 * self._calls)
            self.done += (end - begin) * thin
            begin = end

    def _diverged(self, iteration: int) -> None:
        step = math.exp(self.scalars[methods.LOG_STEP])
        cure = f"below {step:.3g}, or a method with an accept test (mala, hmc)"
        what = f"chain {self.number} left the finite numbers at iteration {iteration}"
        if self.given_step is not None:
            raise BadInput("step", f"{self.given_step}, with which {what}", f"a step {cure}")
        raise NotConverged(f"{what} with the adapted step; give a step {cure}", residual=math.inf)
