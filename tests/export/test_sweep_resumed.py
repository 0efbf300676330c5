"""Sweeps: an end at any moment loses nothing, and what is there already is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fieldtheory import exact
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, CorruptFile, FieldTheoryError
from fieldtheory.export.sweep import Sweep, run_sweep
from fieldtheory.export.sweep.measure import Measurer
from fieldtheory.export.sweep.run import Store
from fieldtheory.network import Network
from tests.sweeps import CHAINS, NET, asked, the_same


def test_an_interrupted_sweep_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    sweep = asked(theories=["exact", "nngp"], sampling=CHAINS, axes={"samples": [5, 8]})
    whole = run_sweep(sweep)

    def interrupt(state: Any) -> None:
        if state.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"4 of 6 are in .* goes on"):
        run_sweep(sweep, tmp_path / "run", progress=interrupt)
    kept = {path: path.read_bytes() for path in (tmp_path / "run" / "points").iterdir()}
    assert len(kept) == 4
    seen: list[Any] = []
    the_same(run_sweep(sweep, tmp_path / "run", progress=seen.append), whole)
    assert [state.done for state in seen] == [4, 5, 6] and seen[0].seconds_left > 0 and seen[-1].seconds_left == 0
    assert all(path.read_bytes() == content for path, content in kept.items())
    the_same(run_sweep(sweep, tmp_path / "run"), whole)  # nothing is left to do


def alive(process: Path) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_goes_on_the_same(jobs: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('theories = ["exact"]\n[task]\nname = "ising"\ninput_dim = 6\n[network]\nwidth = 8\n'
                    'noise_variance = 0.3\n[axes]\nsamples = {start = 3, stop = 116, count = 114}\nseed = [0, 1, 2]\n'
                    '[sampling]\nchains = 2\ndraws = 40\nwarmup = 30\n[figures]\nformats = ["svg"]\n')
    process = subprocess.Popen([sys.executable, "-m", "fieldtheory.cli", "sweep", str(file), "--jobs", jobs],
                               stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    points = tmp_path / "sweep" / "points"
    # a busy machine may take minutes to start it, and then not look here for a while: there are many points to do
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline and len(list(points.glob("[0-9]*.json"))) < 3:
        time.sleep(0.02)
    assert process.poll() is None
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    children = [Path("/proc", pid) for pid in listed.read_text().split()] if listed.is_file() else []
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and any(map(alive, children)):
        time.sleep(0.02)
    assert not any(map(alive, children))  # nobody goes on for a parent that is gone
    sweep = Sweep.load(file)
    found = Store(tmp_path / "sweep", sweep).read()  # whole, each of them
    assert 3 <= len(found) < 2 * len(sweep.points())
    fresh = Measurer(sweep)
    for (k, label), record in list(found.items())[:6]:
        again = fresh.measure(k, label)
        clocks = {"seconds": 0, "cpu_seconds": 0}
        assert {**record, **clocks} == json.loads(json.dumps({**again, **clocks}))


@pytest.mark.slow
def test_processes_share_the_work_without_a_difference(tmp_path: Path) -> None:
    sweep = asked(axes={"samples": [5, 8], "seed": [0, 1]})
    the_same(run_sweep(sweep, tmp_path / "run", jobs=2), run_sweep(sweep))


def test_theories_and_chains_join_a_folder(tmp_path: Path) -> None:
    """What is there already is kept to the byte, also for a theory that is not asked for in between."""
    axes = {"samples": [5]}
    run_sweep(asked(axes=axes, theories=["exact"]), tmp_path / "run")
    kept = {path: path.read_bytes() for path in (tmp_path / "run" / "points").iterdir()}
    run_sweep(asked(axes=axes, theories=["nngp"], sampling=CHAINS), tmp_path / "run")
    whole = asked(axes=axes, theories=["nngp", "exact"], sampling=CHAINS)
    the_same(run_sweep(whole, tmp_path / "run"), run_sweep(whole))
    assert len(list((tmp_path / "run" / "points").iterdir())) == 3
    assert all(path.read_bytes() == content for path, content in kept.items())
    for label in ("exact", "nngp"):
        other = {"name": "linear", "label": label}
        with pytest.raises(BadInput, match=rf"^theories\.{label}: got .*linear"):
            run_sweep(asked(axes=axes, theories=[other]), tmp_path / "run")


def test_a_folder_of_another_sweep_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    sweep = asked(axes={"samples": [5]})
    run_sweep(sweep, tmp_path / "run")
    other = asked(axes={"samples": [5, 8]}, network={**NET, "width": 9})
    with pytest.raises(BadInput) as caught:
        run_sweep(other, tmp_path / "run")
    assert caught.value.argument == "network.width"
    assert "got 9 (and other values of axes.samples); expected 8" in str(caught.value)
    run_sweep(asked(axes={"samples": [5]}, title="words", figures={"formats": ["png"]}), tmp_path / "run")
    with pytest.raises(BadInput, match=r"sampling\.draws: got 41"):
        sampled = {"axes": {"samples": [5]}, "theories": []}
        run_sweep(asked(**sampled, sampling=CHAINS), tmp_path / "chains")
        run_sweep(asked(**sampled, sampling={**CHAINS, "draws": 41}), tmp_path / "chains")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match=r"out: .* new or empty folder"):
        run_sweep(sweep, tmp_path / "full")
    with pytest.raises(BadInput):  # refused before a point is there: the folder may begin again
        run_sweep(asked(theories=["linear"], network={**NET, "activation": "relu"}), tmp_path / "new")
    run_sweep(sweep, tmp_path / "new")


@pytest.mark.parametrize("content", ["", '{"state": "ok"', '{"state": "ok", "values": {}}', "[1]"])
def test_a_point_that_was_tampered_with_is_refused(content: str, tmp_path: Path) -> None:
    sweep = asked(axes={"samples": [5]})
    run_sweep(sweep, tmp_path / "run")
    (point,) = (tmp_path / "run" / "points").iterdir()
    point.write_text(content)
    with pytest.raises(CorruptFile, match="remove it, and it is computed again"):
        run_sweep(sweep, tmp_path / "run")


def test_what_failed_is_computed_again_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = asked(axes={"samples": [5, 8]})

    def fails(net: Network, data: Dataset) -> Any:
        raise FieldTheoryError("out of order") if data.samples == 8 else OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exact, "linear", fails)
        with pytest.raises(OSError, match="No space"):  # nothing about the point: nothing is recorded
            run_sweep(sweep, tmp_path / "run")
        assert not list((tmp_path / "run" / "points").iterdir())
        assert run_sweep(asked(axes={"samples": [8]}), tmp_path / "one").reason.values.item() == "out of order"
    assert run_sweep(asked(axes={"samples": [8]}), tmp_path / "one").state.values.item() == "failed"
    assert run_sweep(asked(axes={"samples": [8]}), tmp_path / "one", retry=True).state.values.item() == "ok"
