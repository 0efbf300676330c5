"""Many chains: seeds, threads, progress, interruption, and going on after it.

Each chain has its own random stream, spawned from the seed by the chain's number, and its own step. The
result is a function of the arguments alone: how many threads run, where progress is reported, and where a run
was stopped and resumed, does not change one bit of it.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.sampling import methods
from fieldtheory.sampling.chain import Chain, Start
from fieldtheory.sampling.methods import Method, find_method
from fieldtheory.sampling.posterior import Bound
from fieldtheory.sampling.progress import Plan, Progress, State, reporting
from fieldtheory.sampling.store import Kept, Store
from fieldtheory.sampling.tempering import Ladder, statistics_of

Array = NDArray[np.floating]

# A chain that accepts less than this has not moved enough to mean anything.
_STUCK = 0.01
# From so many draws on, that nothing changes means something.
_ENOUGH = 10
# Between two looks at the chains, for progress and for an interrupt.
_LOOK_SECONDS = 0.1


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
    method: str | Method = "hmc",
    chains: int = 8,
    draws: int = 2000,
    warmup: int | None = None,
    thin: int = 1,
    step: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = False,
    store: Store | None = None,
    temperatures: Sequence[float] | None = None,
    **options: Any,
) -> Draws | None:
    """Sample exp(-U) for any compiled energy U; `sample` is this for a network.

    `energy` and `observe` make one `Bound` per chain (their workspaces are not shared); `start` draws a
    position from a chain's random generator; `options` are further ones of a `Chain`, or with `temperatures` of
    a `Ladder` of them; the other arguments are those of `sample`. With a `store` the draws are there, and None
    is returned.
    """
    method = find_method(method)
    counts = {"chains": (chains, 1), "draws": (draws, 1), "thin": (thin, 1), "seed": (seed, 0)}
    counts |= {"warmup": (warmup or 0, 0), "threads": (1 if threads is None else threads, 1)}
    for name, (value, least) in counts.items():
        _check_count(name, value, least)
    if step is not None and not 0 < step < math.inf:
        raise BadInput("step", repr(step), "a positive number, or None to adapt it in warm-up")
    if step is not None and method.trajectory is not None and step > method.trajectory:
        longest = f"at most {method.trajectory:g}, the length of a trajectory of {method.name!r}, or None to adapt it"
        raise BadInput("step", step, longest)
    if warmup is None:
        warmup = max(500, draws * thin // 2)
        warmup = store.warmup(warmup) if store else warmup
    if step is None and warmup < 20:
        raise BadInput("warmup", warmup, "at least 20 iterations to adapt the step, or a step")

    dtype = energy().arrays[0].dtype
    names = methods.STATISTICS if temperatures is None else statistics_of(len(temperatures))
    with contextlib.ExitStack() as held:
        if store is None:
            rows = np.empty((chains, draws, row_size), dtype)
            stats = np.empty((chains, draws, len(names)))
            kept: list[Kept] = [Kept(rows[k], stats[k], names) for k in range(chains)]
        else:
            settings = {"method": method.name, "chains": chains, "draws": draws, "warmup": warmup, "thin": thin}
            settings |= {"step": step, "seed": seed, "dtype": dtype.name}
            settings |= {f"method.{name}": value for name, value in asdict(method).items()}
            held.enter_context(store.running(settings, row_size, dtype, names))
            kept = [store.kept(k) for k in range(chains)]
        # Chains run in parallel: OpenBLAS threads inside them would collapse, and could change the last bits.
        held.enter_context(threadpool_limits(1, user_api="blas"))
        seeds = np.random.SeedSequence(seed).spawn(chains)
        make: Any = Chain if temperatures is None else partial(Ladder, temperatures=temperatures)
        team = {
            k: make(k, energy(), observe(), method, seeds[k], start, step, **options)
            for k in range(chains)
            if kept[k].drawn < draws
        }
        for k, chain in team.items():
            if (snapshot := kept[k].snapshot) is not None:
                chain.restore(snapshot)
        _work(team, kept, Plan(chains, warmup, draws * thin), draws, thin, threads, progress, store)
    _check_energies(team, step, kept)
    _check_acceptance(method, step, [one.acceptance for one in kept])
    if store is not None:
        return None
    return Draws(rows, {name: stats[:, :, k] for k, name in enumerate(names)})


def _work(
    team: dict[int, Chain | Ladder],
    kept: list[Kept],
    plan: Plan,
    draws: int,
    thin: int,
    threads: int | None,
    progress: Progress,
    store: Store | None,
) -> None:
    """Let the chains run to their ends, or to an interrupt or a failure, after which each is saved."""
    stop = threading.Event()

    def follow(chain: Chain | Ladder, keep: Kept) -> None:
        looks = 0

        def pause() -> bool:
            nonlocal looks
            looks += 1  # not at the first look: however often it is saved, the chain gets on
            return stop.is_set() or (looks > 1 and keep.due())

        if keep.drawn >= draws or stop.is_set():
            return
        while keep.drawn < draws and not stop.is_set():
            looks = 0
            rows, stats = keep.room()
            drawn = chain.run(rows, stats, plan.warmup, thin, pause)
            keep.filled(stats[:drawn])
            if keep.due():
                keep.save(chain.snapshot())
        keep.save(chain.snapshot())

    def state() -> State:
        whole = plan.warmup + plan.sampling
        iterations = [team[k].done if k in team else whole for k in range(plan.chains)]
        gradients = sum(chain.gradients for chain in team.values())
        return State(iterations, gradients, sum(one.divergences for one in kept))

    try:
        with reporting(progress, plan) as report, ThreadPoolExecutor(
            min(plan.chains, threads or os.cpu_count() or 1)
        ) as pool:
            futures = [pool.submit(follow, chain, kept[k]) for k, chain in team.items()]
            pending = set(futures)
            try:
                while pending:
                    finished, pending = wait(pending, timeout=_LOOK_SECONDS)
                    for future in finished:
                        future.result()
                    report(state())
                report(state())
            except BaseException:  # an interrupt too: let the threads end before it goes on
                stop.set()
                raise
    except KeyboardInterrupt:
        if store is None:
            raise
        for future in futures:
            future.result()  # a chain that could not be saved: worse news than the interrupt
        least = min(one.drawn for one in kept)
        how = "the same call with resume=True goes on from there"
        raise KeyboardInterrupt(f"{least} of {draws} draws of each chain are in {store.path}; {how}") from None


def _check_energies(team: Mapping[int, Chain | Ladder], step: float | None, kept: list[Kept]) -> None:
    """BadInput where nothing was ever refused and the energy never changed: no law, or no motion."""
    for k, chain in team.items():
        if kept[k].drawn < _ENOUGH or kept[k].acceptance < 1.0 or kept[k].lowest < kept[k].highest:
            continue
        what = f"chain {k} accepted every proposal and the energy never changed"
        coldest = chain.rungs[0] if isinstance(chain, Ladder) else chain
        if np.any(coldest.state[methods.GRADIENT]):
            raise BadInput("step", f"{step}, with which {what}", "a step large enough to move, or None to adapt it")
        raise BadInput("energy", f"a constant: {what}", "one that grows at infinity, as that of any proper density")


def _check_acceptance(method: Method, step: float | None, acceptance: list[float]) -> None:
    if not method.accept or min(acceptance) >= _STUCK:
        return
    worst = int(np.argmin(acceptance))
    what = f"chain {worst} accepted {acceptance[worst]:.2%} of its proposals"
    if step is not None:
        raise BadInput("step", f"{step}, with which {what}", "a smaller step, or None to adapt it in warm-up")
    raise NotConverged(
        f"{what} with the adapted step; a longer warm-up may help", residual=1 - acceptance[worst]
    )


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise BadInput(name, repr(value), f"an integer >= {least}")
