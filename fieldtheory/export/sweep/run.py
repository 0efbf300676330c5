"""Run a sweep: every finished point goes to a folder of its own accord, and the same call goes on from there."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr
from threadpoolctl import threadpool_limits

from fieldtheory.errors import BadInput, CorruptFile, FieldTheoryError
from fieldtheory.export.sweep.measure import Measurer, Record
from fieldtheory.export.sweep.settings import Sweep
from fieldtheory.export.sweep.table import table_of
from fieldtheory.files import write_atomically

Unit = tuple[int, str]
"""The number of a point, and the label of an approximation."""
SETTINGS, POINTS = "settings.json", "points"
THEORIES, SAMPLING = "theories.", "sampling."


@dataclass(frozen=True)
class State:
    """How far a sweep is: units done of how many, the seconds that are left (None: not known yet), the last unit."""

    done: int
    total: int
    seconds_left: float | None
    last: Record | None = None


def run_sweep(sweep: Sweep, out: str | os.PathLike[str] | None = None, *, jobs: int = 1, retry: bool = False,
              progress: Callable[[State], None] = lambda state: None,
              note: Callable[[str], None] = lambda text: None) -> xr.Dataset:
    """Everything that a sweep asks for, over its axes and `approximation`.

    ``out``, a folder, receives each approximation at each point as soon as it is finished; the same sweep with the same
    folder computes only what is not there, and the numbers are those of a run that nothing ended. A sweep with theories
    more or fewer, or with chains added, is the same sweep; another is refused, with the keys that differ. ``jobs``
    processes share the work; the numbers do not depend on how many (in a script they need
    ``if __name__ == "__main__":``). ``retry`` computes again what failed. ``note`` is told which theories are left out
    of "all", since they do not cover the network.

    Variables: the outputs, each with its Monte-Carlo error as ``<name>_mcse`` where there is one; ``state``, "ok",
    "doubtful" (values, with a reservation), "failed" or "not covered"; ``reason``, in words; ``seconds``; ``residual``,
    ``ess``, ``rhat`` and what else certifies a result. No value is missing without a reason, but those that an
    approximation never gives: ``attrs["not_given_by"]`` of a variable lists these.

    Errors: BadInput for a folder of another sweep, a named theory that covers no network of the sweep, or an option
        that a theory or sampler refuses; CorruptFile for a point on disk that is not what was written.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise BadInput("jobs", repr(jobs), "an integer >= 1")
    store = None if out is None else Store(Path(out), sweep)
    points = sweep.points()
    records: dict[Unit, Record] = {} if store is None else store.read()
    if retry:
        records = {unit: record for unit, record in records.items() if record["state"] != "failed"}
    with threadpool_limits(1, user_api="blas"):  # the last bits do not depend on the machine's load, nor on jobs
        measurer = Measurer(sweep, jobs)
        if sweep.every_theory or any((k, label) not in records for k in range(len(points)) for label in sweep.labels):
            sweep = _covered(sweep, measurer, note)
        units = [(k, label) for k in range(len(points)) for label in sweep.labels]
        pending = [unit for unit in units if unit not in records]
        done = {unit: record for unit, record in records.items() if unit in units}
        progress(State(len(done), len(units), _left(done, pending, points, jobs)))
        try:
            for unit, record in (_in_turn(measurer, pending) if jobs == 1 or len(pending) < 2 else
                                 _side_by_side(sweep, pending, jobs)):
                done[unit] = record
                if store is not None:
                    store.write(unit, record)
                progress(State(len(done), len(units), _left(done, [x for x in pending if x not in done], points, jobs),
                               record))
        except KeyboardInterrupt:
            where = "nothing was kept, without a folder" if store is None else (
                f"{len(done)} of {len(units)} are in {store.folder}; the same call goes on from there")
            raise KeyboardInterrupt(where) from None
    return table_of(sweep, [done[unit] for unit in units])


def _covered(sweep: Sweep, measurer: Measurer, note: Callable[[str], None]) -> Sweep:
    """Without the theories that "all" brought and the network does not suit; one that was named is refused."""
    uncovered = measurer.uncovered()
    for label, reason in uncovered.items():
        if not sweep.every_theory:
            raise BadInput(f"theories.{label}", f"a network that it does not cover ({reason})",
                           "another theory, or another [network]")
        note(f"{label} left out: {reason}")
    return replace(sweep, approximations=tuple(a for a in sweep.approximations if a.label not in uncovered))


def _in_turn(measurer: Measurer, pending: list[Unit]) -> Iterator[tuple[Unit, Record]]:
    for unit in pending:
        yield unit, measurer.measure(*unit)


# ------------------------------------------------------------------------------------------------------ processes

_measurer: Measurer | None = None


def _begin(sweep: Sweep, jobs: int) -> None:
    """In each process: an interrupt is the business of the one that hands out the work."""
    global _measurer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threadpool_limits(1, user_api="blas")
    _measurer = Measurer(sweep, jobs)


def _end_with_parent() -> None:
    """A parent that was killed closes nothing: whoever waits for its next word would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _measure(unit: Unit) -> Record:
    assert _measurer is not None
    return _measurer.measure(*unit)


def _side_by_side(sweep: Sweep, pending: list[Unit], jobs: int) -> Iterator[tuple[Unit, Record]]:
    """Units as they are finished, by processes that are started afresh: a fork would copy threads half-way."""
    pool = ProcessPoolExecutor(min(jobs, len(pending)), multiprocessing.get_context("spawn"), _begin, (sweep, jobs))
    try:
        futures: dict[Future[Record], Unit] = {}
        queue = iter(pending)

        def more() -> None:
            for unit in queue:
                futures[pool.submit(_measure, unit)] = unit
                if len(futures) >= 2 * jobs:
                    return

        more()
        while futures:
            finished, _ = wait(futures, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in finished:
                unit = futures.pop(future)
                yield unit, future.result()
            more()
    except BrokenProcessPool:
        raise FieldTheoryError("a process ended before its work was done, perhaps for want of memory; what was "
                               "finished is kept, and the same call with fewer jobs goes on") from None
    except BaseException:
        for process in (getattr(pool, "_processes", None) or {}).values():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _left(done: Mapping[Unit, Record], pending: list[Unit], points: list[dict[str, Any]], jobs: int) -> float | None:
    """Seconds that are left: what the same approximation took, with as many samples where that is known."""
    if not pending:
        return 0.0
    if not done:
        return None
    took: dict[Any, list[float]] = {}
    for (k, label), record in done.items():
        for key in ((label, points[k].get("samples")), label, None):
            took.setdefault(key, []).append(record["seconds"])
    mean = {key: sum(seconds) / len(seconds) for key, seconds in took.items()}
    return sum(mean.get((label, points[k].get("samples")), mean.get(label, mean[None])) for k, label in pending) / jobs


# ---------------------------------------------------------------------------------------------------------- folder


class Store:
    """The folder of a sweep: its settings, and a file for each approximation at each point."""

    def __init__(self, folder: Path, sweep: Sweep) -> None:
        self.folder, self.labels = folder, sweep.labels
        self.points = [json.loads(json.dumps(point, default=str)) for point in sweep.points()]
        identity = sweep.identity()
        self.fingerprints = {label: _digest(_of(label, sweep, identity)) for label in self.labels}
        settings = folder / SETTINGS
        if settings.is_file():
            if any((folder / POINTS).glob("[0-9]*.json")):
                kept = _json(settings)
                _same(identity, kept, folder)
                identity = kept | identity  # what theories that are not asked for now were
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadInput("out", str(folder), "a new or empty folder, or that of this sweep")
        (folder / POINTS).mkdir(parents=True, exist_ok=True)
        write_atomically(settings, json.dumps(identity, indent=1, ensure_ascii=False))

    def path(self, unit: Unit) -> Path:
        """points/00007-mean-field-5f3a9c.json: labels that differ in more than letters are told apart."""
        k, label = unit
        slug = re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")[:40]
        return self.folder / POINTS / f"{k:05d}-{slug}-{_digest(label)[:6]}.json"

    def write(self, unit: Unit, record: Record) -> None:
        """Whole or not at all."""
        (self.folder / POINTS).mkdir(exist_ok=True)
        kept = {**record, "fingerprint": self.fingerprints[unit[1]]}
        write_atomically(self.path(unit), json.dumps(kept, default=str, allow_nan=False, ensure_ascii=False))

    def read(self) -> dict[Unit, Record]:
        """What is there already."""
        found: dict[Unit, Record] = {}
        for k, point in enumerate(self.points):
            for label in self.labels:
                path = self.path((k, label))
                if not path.is_file():
                    continue
                record = _json(path)
                if (record.pop("fingerprint", None) != self.fingerprints[label] or record.get("approximation") != label
                        or record.get("point") != point or "state" not in record):
                    raise CorruptFile(f"{path}: not a point of this sweep; remove it, and it is computed again")
                found[k, label] = record
        return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        found = None
    if not isinstance(found, dict):
        raise CorruptFile(f"{path}: cut short, or changed; remove it, and it is computed again")
    return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _of(label: str, sweep: Sweep, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers of one approximation depend on."""
    sampled = sweep.sampling is not None and label == sweep.sampling["label"]
    own = [key for key in identity if key.startswith(SAMPLING)] if sampled else [f"{THEORIES}{label}"]
    return {key: value for key, value in identity.items() if key in own or not key.startswith((SAMPLING, THEORIES))}


def _same(identity: Mapping[str, Any], kept: Mapping[str, Any], folder: Path) -> None:
    """The folder is that of the same sweep but for theories, or chains, that one of the two lacks; or what differs is
    named."""
    chains = [any(key.startswith(SAMPLING) for key in table) for table in (identity, kept)]

    def free(key: str) -> bool:
        if key.startswith(THEORIES):
            return not (key in identity and key in kept)
        return key.startswith(SAMPLING) and not all(chains)

    different = [key for key in dict.fromkeys((*identity, *kept))
                 if identity.get(key) != kept.get(key) and not free(key)]
    if not different:
        return

    def shown(table: Mapping[str, Any], key: str) -> str:
        return json.dumps(table[key], ensure_ascii=False) if key in table else "nothing"

    key, *others = different
    also = f" (and other values of {', '.join(others)})" if others else ""
    raise BadInput(key, f"{shown(identity, key)}{also}",
                   f"{shown(kept, key)}, with which {folder} was begun; or another folder (--out)")
