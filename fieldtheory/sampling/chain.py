"""One chain: a state that warm-up and sampling carry forward, in as many calls as convenient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba import typeof
from numpy.typing import NDArray

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.sampling import methods
from fieldtheory.sampling.gibbs import no_update
from fieldtheory.sampling.methods import Method
from fieldtheory.sampling.posterior import Bound
from fieldtheory.sampling.random import new_stream

Array = NDArray[np.floating]
Start = Callable[[np.random.Generator], Array]

# One call of the stepper should last about this long: between calls a chain looks whether it is to stop.
_CALL_SECONDS = 0.1
_FIRST_STEP = 0.1
_SMALLEST_STEP = 1e-10


class Chain:
    """One chain.  Everything its future depends on is in `snapshot`, and nothing else is.

    `advance` steps it; `warm_up` and `draw` decide how. All of them may be cut anywhere between two calls of
    the stepper: what follows is the same bit by bit.
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
        adapt_mass: bool = False,
        update: Callable[[Bound], Bound] | None = None,
        update_every: int = 1,
        batch: tuple[Array, Array] | None = None,
    ) -> None:
        self.number, self.energy, self.observe = number, energy, observe
        self.method, self.given_step, self.adapt_mass = method, step, adapt_mass
        # It shares the arrays of the energy, some of which it may change: they are part of the chain's state.
        self._make_update, self.update_every = update, update_every if update else 0
        self.update = update(energy) if update else None
        self.stream, self._splitting = new_stream(seed), method.compiled()
        dtype = energy.arrays[0].dtype
        position = np.asarray(start(np.random.default_rng(seed)), dtype)
        self.state = np.zeros((methods.ROWS, len(position)), dtype)
        self.state[methods.POSITION] = position
        self.scale = np.empty(0, dtype)
        self._entries: dict[Any, Callable[..., int]] = {}
        X, y = batch or (energy.arrays[0][:0], energy.arrays[1][:0])
        self.batch = np.arange(len(X)), X, y
        self.scalars = np.zeros(methods.SLOTS)
        # Iterations made in warm-up, stages of it that have begun, draws kept, iterations made.
        self.warmed, self.stage, self.completed, self.done = 0, 0, 0, 0
        self._calls, self.gradients = 1.0, 0  # gradients since the chain was made: for progress, not for the future
        if not math.isfinite(self.evaluate()):
            raise BadInput("initial", f"a start where the energy of chain {number} is not finite", "another")

    def set_energy(self, energy: Bound) -> None:
        """From here on another energy."""
        self.energy = energy
        self.update = self._make_update(energy) if self._make_update else None
        self.evaluate()

    def evaluate(self) -> float:
        """The energy and its gradient anew, at a position that something else has changed; the energy."""
        self.scalars[methods.ENERGY] = math.nan
        self.advance(np.empty((0, 0), self.state.dtype), np.empty((0, 0)), adapt=False)
        return float(self.scalars[methods.ENERGY])

    def advance(self, rows: Array, stats: Array, adapt: bool, thin: int = 1, measure: bool = False) -> int:
        """Fill `rows` and `stats`, as far as the chain stays finite; the number of draws completed."""
        m = self.method
        arguments = (
            self.energy.function,
            self.energy.arrays,
            self.observe.function,
            self.observe.arrays,
            self.update.function if self.update else no_update(self.state.dtype),
            self.update.arrays if self.update else self.energy.arrays,
            self.update_every,
            self.batch,
            self.state,
            self.scale,
            self.scalars,
            self.stream,
            *self._splitting,
            m.repeats,
            m.trajectory or 0.0,
            m.refresh,
            m.friction,
            m.jitter,
            m.accept,
            m.decay,
            m.delay,
            m.target_acceptance,
            adapt,
            measure,
            thin,
            rows,
            stats,
        )
        # To find the types of compiled functions anew takes Numba longer than a short trajectory: once is enough.
        form = tuple((a.dtype, a.flags.c_contiguous, a.flags.writeable) for a in (rows, stats))
        if form not in self._entries:
            self._entries[form] = methods.advance.compile(tuple(map(typeof, arguments)))
        return self._entries[form](*arguments)

    def run(self, rows: Array, stats: Array, warmup: int, thin: int, stopped: Callable[[], bool]) -> int:
        """Finish the warm-up and fill `rows` and `stats` with the next draws, unless `stopped` in between.

        Returns the number of draws completed in this call.
        """
        return self.draw(rows, stats, thin, stopped) if self.warm_up(warmup, stopped) else 0

    def warm_up(self, warmup: int, stopped: Callable[[], bool]) -> bool:
        """Go on with a warm-up of `warmup` iterations from where it is; whether it has ended, with steps frozen."""
        while not self.is_warm(warmup):
            if stopped():
                return False
            self.warm_by(max(1, int(self._calls)), warmup)
        return True

    def is_warm(self, warmup: int) -> bool:
        """Whether a warm-up of `warmup` iterations is behind the chain; begins its next stage where one is due."""
        ends = self._stages(warmup)
        while self.stage < len(ends) and self.warmed >= ends[self.stage]:
            self._begin_stage(ends)
        return self.stage == len(ends)

    def warm_by(self, length: int, warmup: int) -> int:
        """At most `length` iterations of the present stage of warm-up; how many were made."""
        length = min(length, self._stages(warmup)[self.stage] - self.warmed)
        stats = np.empty((length, len(methods.STATISTICS)))
        measure = self.adapt_mass and self.stage > 1
        self.step_by(np.empty((length, 0), self.state.dtype), stats, self.given_step is None, 1, measure)
        self.warmed += length
        return length

    def draw(self, rows: Array, stats: Array, thin: int, stopped: Callable[[], bool]) -> int:
        """Fill `rows` and `stats` with the next draws unless `stopped`; the number completed in this call."""
        begin = 0
        while begin < len(stats) and not stopped():
            end = min(len(stats), begin + max(1, int(self._calls / thin)))
            self.step_by(rows[begin:end], stats[begin:end], False, thin)
            self.completed += end - begin
            begin = end
        return begin

    def _stages(self, warmup: int) -> list[int]:
        """At how many iterations each stage of warm-up begins; with the last, sampling does.

        Adaptation starts afresh half way: what it learned on the way in is not about the posterior. The
        widths are measured in between, in stages of growing length, each of which uses those of the last.
        """
        parts = (0.0, 0.15, 0.3, 0.5, 0.8, 1.0) if self.adapt_mass else (0.0, 0.5, 1.0)
        return [int(part * warmup) for part in parts]

    def _begin_stage(self, ends: list[int]) -> None:
        adapt, step = self.given_step is None, self.given_step or _FIRST_STEP
        if adapt and self.stage and self.scalars[methods.ADAPTED]:
            step = math.exp(self.scalars[methods.LOG_STEP_MEAN])
        self.stage += 1
        if self.stage == len(ends) and step < _SMALLEST_STEP and adapt:
            raise NotConverged(f"warm-up shrank the step of chain {self.number} to nothing", residual=step)
        if self.scalars[methods.MEASURED] > 1 and self.stage < len(ends):
            self._set_mass()
        self.state[methods.MEAN] = self.state[methods.SPREAD] = 0
        self.scalars[[methods.MEASURED, methods.ITERATION]] = 0.0
        methods.restart_adaptation(self.scalars, step)

    def _set_mass(self) -> None:
        """The widths of the coordinates: the deviations measured, shrunk towards 1, those of the prior."""
        count = self.scalars[methods.MEASURED]
        variance = (self.state[methods.SPREAD] + 5.0) / (count + 5.0)
        self.scale = np.sqrt(variance).astype(self.state.dtype)

    def step_by(self, rows: Array, stats: Array, adapt: bool, thin: int, measure: bool = False) -> None:
        """Fill `rows` and `stats` in one call of the stepper; an error if the chain leaves the finite numbers."""
        began = time.perf_counter()
        completed = self.advance(rows, stats, adapt, thin, measure)
        if completed < len(stats):
            self._diverged(self.done + completed * thin)
        elapsed = max(time.perf_counter() - began, 1e-6)
        self._calls = min(len(stats) * thin * _CALL_SECONDS / elapsed, 4.0 * self._calls)
        self.done += len(stats) * thin
        self.gradients += int(stats[:, methods.STATISTICS.index("n_steps")].sum())

    def _diverged(self, iteration: int) -> None:
        step = math.exp(self.scalars[methods.LOG_STEP])
        cure = f"below {step:.3g}, or a method with an accept test (mala, hmc)"
        what = f"chain {self.number} left the finite numbers at iteration {iteration}"
        if self.given_step is not None:
            raise BadInput("step", f"{self.given_step}, with which {what}", f"a step {cure}")
        raise NotConverged(f"{what} with the adapted step; give a step {cure}", residual=math.inf)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Everything the future of the chain depends on, as arrays of its own.

        A new chain made with the same arguments that gets it by `restore` goes on as this one would, bit by bit.
        """
        return {
            "state": self.state[: methods.CARRIED].copy(),
            "scale": self.scale.copy(),
            "scalars": self.scalars.copy(),
            "stream": self.stream.copy(),
            "order": self.batch[0].copy(),
            "constants": self.energy.arrays[2].copy(),
            "progress": np.array([self.warmed, self.stage, self.completed, self.done]),
        }

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Take over a snapshot; BadInput if it is another kind of chain's."""
        own = self.snapshot()
        for name, array in own.items():
            given = np.asarray(snapshot[name]) if name in snapshot else None
            fits = given is not None and given.dtype == array.dtype and given.shape == array.shape
            if not fits and not (name == "scale" and given is not None and given.shape == self.state[0].shape):
                shape = "nothing" if given is None else f"{given.dtype}{given.shape}"
                raise BadInput("snapshot", f"{shape} for {name}", f"{array.dtype}{array.shape}, as a like chain makes")
        self.state[: methods.CARRIED] = snapshot["state"]
        self.scale = np.array(snapshot["scale"], self.state.dtype)
        self.scalars[:] = snapshot["scalars"]
        self.stream[:] = snapshot["stream"]
        self.batch[0][:] = snapshot["order"]
        self.energy.arrays[2][:] = snapshot["constants"]
        self.warmed, self.stage, self.completed, self.done = (int(n) for n in snapshot["progress"])
