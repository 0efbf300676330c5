"""Many chains: seeds, threads, progress, interruption.

Each chain has its own random stream, spawned from the seed by the chain's number, and its own step. The
result is a function of the arguments alone: how many threads run, and where progress is reported, does not
change one bit of it.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.sampling import methods
from fieldtheory.sampling.chain import Chain, Start
from fieldtheory.sampling.methods import Method, find_method
from fieldtheory.sampling.posterior import Bound

Array = NDArray[np.float64]
Progress = bool | Callable[[int, int], None]

# A chain that accepts less than this has not moved enough to mean anything.
_STUCK = 0.01


@dataclass(frozen=True)
class Draws:
    """Kept draws of all chains: `rows` (chain, draw, observable), `statistics` name -> (chain, draw)."""

    rows: Array
    statistics: dict[str, Array]


def run(
    energy: Callable[[], Bound],
    observe: Callable[[], Bound],
    row_size: int,
    start: Start,
    *,
    method: str | Method = "mala",
    chains: int = 8,
    draws: int = 2000,
    warmup: int | None = None,
    thin: int = 1,
    step: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = False,
) -> Draws:
    """Sample exp(-U) for any compiled energy U; `sample` is this for a network.

    `energy` and `observe` make one `Bound` per chain (their workspaces are not shared); `start` draws a
    position from a chain's random generator; the other arguments are those of `sample`.
    """
    method = find_method(method)
    counts = {"chains": (chains, 1), "draws": (draws, 1), "thin": (thin, 1), "seed": (seed, 0)}
    counts |= {"warmup": (warmup or 0, 0), "threads": (1 if threads is None else threads, 1)}
    for name, (value, least) in counts.items():
        _check_count(name, value, least)
    if step is not None and not 0 < step < math.inf:
        raise BadInput("step", repr(step), "a positive number, or None to adapt it in warm-up")
    warmup = max(500, draws * thin // 2) if warmup is None else warmup
    if step is None and warmup < 20:
        raise BadInput("warmup", warmup, "at least 20 iterations to adapt the step, or a step")

    rows = np.empty((chains, draws, row_size))
    stats = np.empty((chains, draws, len(methods.STATISTICS)))
    stop = threading.Event()
    seeds = np.random.SeedSequence(seed).spawn(chains)
    # Chains run in parallel: OpenBLAS threads inside them would collapse, and could change the last bits.
    with (
        threadpool_limits(1, user_api="blas"),
        _reporter(progress, chains * (warmup + draws * thin)) as report,
    ):
        team = [Chain(k, energy(), observe(), method, seeds[k], start, step) for k in range(chains)]
        with ThreadPoolExecutor(min(chains, threads or os.cpu_count() or 1)) as pool:
            pending = {
                pool.submit(chain.run, rows[k], stats[k], warmup, thin, stop.is_set)
                for k, chain in enumerate(team)
            }
            try:
                while pending:
                    finished, pending = wait(pending, timeout=0.1)
                    for future in finished:
                        future.result()
                    report(sum(chain.done for chain in team))
            except BaseException:  # an interrupt too: let the threads end before it goes on
                stop.set()
                raise
    acceptance = stats[:, :, methods.STATISTICS.index("acceptance_rate")].mean(axis=1)
    if method.accept and acceptance.min() < _STUCK:
        worst = int(acceptance.argmin())
        what = f"chain {worst} accepted {acceptance[worst]:.2%} of its proposals"
        if step is not None:
            raise BadInput(
                "step", f"{step}, with which {what}", "a smaller step, or None to adapt it in warm-up"
            )
        raise NotConverged(
            f"{what} with the adapted step; a longer warm-up may help", residual=1 - acceptance[worst]
        )
    return Draws(rows, {name: stats[:, :, k] for k, name in enumerate(methods.STATISTICS)})


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise BadInput(name, repr(value), f"an integer >= {least}")


@contextlib.contextmanager
def _reporter(progress: Progress, total: int) -> Iterator[Callable[[int], None]]:
    if callable(progress):
        yield lambda done: progress(done, total)
    elif progress:
        from rich.progress import Progress as Bar

        with Bar(transient=True) as bar:
            task = bar.add_task("sampling", total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        yield lambda done: None
