"""How far the chains are: a bar for each phase in a terminal, a function's business elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

#: True for bars on standard error (nothing where that is no terminal), or a function of (iterations done, of how many)
Progress = bool | Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What is to be done: so many chains, each with so many iterations before and after the first draw."""

    chains: int
    warmup: int
    sampling: int


@dataclass(frozen=True)
class State:
    """What was done: iterations of each chain, gradients since this process began, divergences after warm-up."""

    iterations: Sequence[int]
    gradients: int
    divergences: int


@contextlib.contextmanager
def reporting(progress: Progress, plan: Plan) -> Iterator[Callable[[State], None]]:
    """A function to be told the state from time to time."""
    if callable(progress):
        total = plan.chains * (plan.warmup + plan.sampling)
        yield lambda state: progress(sum(state.iterations), total)
        return
    if not progress:
        yield lambda state: None
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not (console.is_terminal or console.is_jupyter):
        yield lambda state: None
        return
    with _bars(plan, console) as report:
        yield report


@contextlib.contextmanager
def _bars(plan: Plan, console: object) -> Iterator[Callable[[State], None]]:
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    began = time.monotonic()
    with Bars(*columns, console=console, refresh_per_second=4) as bars:  # type: ignore[arg-type]
        phases = {
            name: bars.add_task(name, total=plan.chains * length, start=False, note="")
            for name, length in (("warm-up", plan.warmup), ("sampling", plan.sampling))
            if length
        }
        started: set[str] = set()

        def report(state: State) -> None:
            elapsed = max(time.monotonic() - began, 1e-9)
            done = {
                "warm-up": sum(min(n, plan.warmup) for n in state.iterations),
                "sampling": sum(max(n - plan.warmup, 0) for n in state.iterations),
            }
            note = f"{_short(state.gradients / elapsed)} gradients/s"
            if state.divergences:
                note += f", {state.divergences} divergences"
            last = [name for name in phases if done[name]][-1:]
            for name, task in phases.items():
                if done[name] and name not in started:
                    started.add(name)
                    bars.start_task(task)
                bars.update(task, completed=done[name], note=note if [name] == last else "")

        yield report


def _short(rate: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.3g}{letter}"
    return f"{rate:.3g}"
