"""Runs on disk: killed, resumed, extended, refused; what is in the folder, and what it costs in memory."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, CannotWrite, CorruptFile
from fieldtheory.network import ARD, Network
from fieldtheory.sampling import Method, checkpoint, open_samples, sample, store, summarise
from fieldtheory.tasks import ising

NET = Network(width=4, readout_variance=1.0, weight_variance=1.0, noise_variance=0.5)
DATA = ising(5, 3, seed=1, test_samples=2)
RUN = dict(chains=2, draws=60, warmup=40, method="mala", seed=5)


def arrays(samples) -> dict[str, np.ndarray]:
    return {f"{group}/{name}": samples[group][name].values
            for group in ("posterior", "sample_stats", "observed_data") for name in samples[group].data_vars}


def assert_same(left, right) -> None:
    left, right = arrays(left), arrays(right)
    assert set(left) == set(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert np.array_equal(left[name], right[name], equal_nan=True), name


@pytest.fixture(scope="module")
def whole():
    return sample(NET, DATA, **RUN)


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks in a short run."""
    monkeypatch.setattr(store, "_BLOCK_BYTES", 8 * 14 * 7)
    monkeypatch.setattr(store, "_LEAST_BLOCK", 1)


@pytest.fixture
def short_calls(monkeypatch):
    """Many calls of the stepper, between which a chain can be stopped and saved, and long enough to be seen."""
    monkeypatch.setattr("fieldtheory.sampling.chain._CALL_SECONDS", 1e-9)
    monkeypatch.setattr("fieldtheory.sampling.chains._LOOK_SECONDS", 1e-3)
    due = store.Stored.due
    monkeypatch.setattr(store.Stored, "due", lambda kept: bool(time.sleep(1e-3)) or due(kept))


def interrupting(after: int):
    def progress(done: int, total: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    return progress


def stopped_run(out: Path, whole_run=RUN, after: int = 100, **options) -> None:
    """A run in `out` that an interrupt ended on the way."""
    with pytest.raises(KeyboardInterrupt):
        sample(NET, DATA, **{**whole_run, **options}, out=out, progress=interrupting(after))


# ------------------------------------------------------------------------------------------------ what is on disk


@pytest.mark.parametrize("options", [{}, {"thin": 3}, {"method": "hmc"}, {"method": "underdamped", "step": 0.3},
                                     {"directions": np.eye(3)[:2]}], ids=str)
def test_draws_on_disk_are_those_in_memory(tmp_path, small_blocks, options):
    run = {**RUN, **options}
    drawn = sample(NET, DATA, **run, out=tmp_path / "run.zarr", checkpoint_every=0.0)
    assert_same(drawn, sample(NET, DATA, **run))
    assert drawn["posterior"].attrs["method"] == run["method"]
    assert len(list((tmp_path / "run.zarr/posterior/output").glob("c.*"))) > 4  # blocks
    assert np.isfinite(summarise(drawn)["mean_output"]).all()


def test_any_reader_of_zarr_finds_the_groups_of_arviz(tmp_path, small_blocks, whole):
    sample(NET, DATA, **RUN, out=tmp_path / "run.zarr")
    tree = xr.open_datatree(tmp_path / "run.zarr", engine="zarr", chunks=None)
    assert_same(tree, whole)
    assert tree["posterior"]["output"].dims == ("chain", "draw", "sample")
    assert list(tree["posterior"]["chain"].values) == [0, 1]
    tree.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "run.nc", group="posterior", engine="h5netcdf") as back:
        assert np.array_equal(back["output"], whole["posterior"]["output"])
    assert_same(open_samples(tmp_path / "run.zarr"), whole)
    with pytest.raises(BadInput, match="path"):
        open_samples(tmp_path)


def test_draws_are_read_when_they_are_asked_for(tmp_path):
    drawn = sample(NET, DATA, **RUN, out=tmp_path / "run.zarr")
    shutil.rmtree(tmp_path / "run.zarr/posterior/readout_norm")
    (tmp_path / "run.zarr/posterior/output/c.1.0.0").write_bytes(b"short")
    assert drawn["posterior"]["test_output"].values.shape == (2, 60, 2)
    with pytest.raises(Exception, match=r"."):  # the reader's own error, and never numbers
        drawn["posterior"]["output"].values  # noqa: B018


def test_memory_does_not_grow_with_the_number_of_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_BLOCK_BYTES", 1 << 16)
    data = ising(40, 3, seed=1)
    run = dict(chains=2, warmup=20, method="mala", step=0.1, threads=1)
    sample(NET, data, **run, draws=10, out=tmp_path / "first.zarr")  # what is compiled and imported is not draws

    def peak(draws: int, **options) -> int:
        tracemalloc.start()
        try:
            sample(NET, data, **run, draws=draws, **options)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    short, long = (peak(draws, out=tmp_path / f"{draws}.zarr") for draws in (500, 6000))
    assert long < 1.2 * short + 100_000
    assert peak(6000) > long + 2 * 4000 * 40 * 8  # the twin that keeps them all


# ------------------------------------------------------------------------------------------ stopped and resumed


@pytest.mark.parametrize("after", [1, 81, 150])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    tmp_path, small_blocks, short_calls, whole, after, threads
):
    out = tmp_path / "run.zarr"
    with pytest.raises(KeyboardInterrupt, match=r"of 60 draws of each chain are in .*run\.zarr.*resume=True"):
        sample(NET, DATA, **RUN, out=out, threads=threads, progress=interrupting(after), checkpoint_every=1e6)
    assert_same(sample(NET, DATA, **RUN, out=out, threads=3 - threads, resume=True), whole)
    assert_same(sample(NET, DATA, **RUN, out=out, resume=True), whole)  # there is nothing left to do


@pytest.mark.parametrize("options", [
    {"gibbs": ("readout", "precision"), "prior": ARD(2.0)}, {"tempering": 2},
    *(pytest.param(options, marks=pytest.mark.slow) for options in (
        {"gibbs": "readout"}, {"prior": ARD(2.0)}, {"dtype": "float32"}, {"adapt_mass": True},
        {"method": "sgld", "batch_size": 2, "step": 0.2}, {"method": "underdamped", "step": 0.3}))], ids=str)
def test_every_kind_of_chain_goes_on(tmp_path, small_blocks, short_calls, options):
    """Stopped in warm-up, and again after it."""
    net, run = NET.replace(activation="erf", prior=options.get("prior", "gaussian")), {**RUN, **options}
    run.pop("prior", None)
    for after, resume in ((20, False), (120, True)):
        with pytest.raises(KeyboardInterrupt):
            sample(net, DATA, **run, out=tmp_path / "run.zarr", resume=resume, progress=interrupting(after))
    assert_same(sample(net, DATA, **run, out=tmp_path / "run.zarr", resume=True), sample(net, DATA, **run))


KILLED = '''
import os, random, signal, sys, time
import numpy as np
from fieldtheory.network import Network
from fieldtheory.sampling import chain, sample, store
from fieldtheory.tasks import ising

chain._CALL_SECONDS, store._BLOCK_BYTES, store._LEAST_BLOCK = 1e-3, 8 * 14 * 7, 1
os.fsync = lambda handle: None  # for the power going off, not for processes
out, mode = sys.argv[1:]
net = Network(width=4, readout_variance=1.0, weight_variance=1.0, noise_variance=0.5)
run = dict(chains=2, draws=60, warmup=40, method="mala", seed=5, out=out, resume=True, checkpoint_every=0.0)
sample(net, ising(5, 3, seed=1, test_samples=2), **{**run, "draws": 2, "out": out + ".first.zarr"})  # compile

def child(doom):
    pid = os.fork()
    if pid:
        return pid
    doom()
    sample(net, ising(5, 3, seed=1, test_samples=2), **run, threads=random.choice([1, 2]))
    os._exit(0)

def at_the(n):
    """Kill this process at its nth change of a name in the file system, or right after it."""
    def doom():
        left, after = n, random.random() < 0.5
        def patched(call):
            def replace(*names):
                nonlocal left
                left -= 1
                if left == 0 and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                call(*names)
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return replace
        os.replace, os.rename = patched(os.replace), patched(os.rename)
    return doom

random.seed(1)
kills, limit = 0, 0.02
while True:
    n = 1 + kills if kills < 16 else random.randrange(1, 120)
    pid = child(at_the(n) if mode == "names" else lambda: None)
    if mode == "times":
        time.sleep(random.uniform(0.0, limit))
        limit *= 1.1
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    kills += 1
print(kills)
'''


@pytest.mark.parametrize("mode, least", [("names", 10), pytest.param("times", 5, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, whole, mode, least):
    """SIGKILL at every change of a name in the file system, and at any time: in warm-up, between draws and state."""
    out = tmp_path / "run.zarr"
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(out), mode]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= least
    assert_same(open_samples(out), whole)
    assert not [name for name in out.rglob(".*") if name.is_file()]


@pytest.mark.parametrize("finished", [True, False])
def test_more_draws_are_those_that_would_have_been_made_at_once(tmp_path, small_blocks, short_calls, whole, finished):
    out, fewer = tmp_path / "run.zarr", {**RUN, "draws": 23}
    if finished:
        sample(NET, DATA, **fewer, out=out)
    else:
        stopped_run(out, fewer)
    assert_same(sample(NET, DATA, **RUN, out=out, resume=True), whole)
    with pytest.raises(BadInput, match="draws: got 23; expected at least the 60"):
        sample(NET, DATA, **fewer, out=out, resume=True)


def test_the_warm_up_is_that_of_the_beginning(tmp_path):
    run = {**RUN, "warmup": None}
    sample(NET, DATA, **run, out=tmp_path / "run.zarr")
    longer = sample(NET, DATA, **{**run, "draws": 1200}, out=tmp_path / "run.zarr", resume=True)
    assert_same(longer, sample(NET, DATA, **{**run, "warmup": 500, "draws": 1200}))


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("change, words", [
    (dict(seed=6), r"seed = 6 where the run has 5"),
    (dict(method="hmc"), r"method = hmc where the run has mala"),
    (dict(method=Method("mala", target_acceptance=0.6)), r"target_acceptance = 0.6 where the run has 0.57"),
    (dict(chains=3), r"chains = 3 where the run has 2"),
    (dict(warmup=41, thin=2), r"warmup = 41 where the run has 40; thin = 2 where the run has 1"),
    (dict(step=0.1), r"step = 0.1 where the run has None"),
    (dict(initial="zero"), r"initial = zero where the run has prior"),
    (dict(directions=np.eye(3)), r"directions = array \(3, 3\) .* where the run has None"),
    (dict(net=NET.replace(width=5)), r"net.width = 5 where the run has 4"),
    (dict(net=NET.replace(noise_variance=0.6)), r"net.noise_variance = 0.6 where the run has 0.5"),
    (dict(net=NET.replace(activation="erf")), r"net.activation = erf where the run has identity"),
    (dict(data=ising(5, 3, seed=2, test_samples=2)), r"data.X = array \(5, 3\) float64 sha256 .*; data.y = "),
    (dict(data=Dataset(DATA.X, DATA.y)), r"data.X_test = nothing where the run has array \(2, 3\)"),
], ids=str)
def test_a_run_is_not_resumed_with_other_arguments(tmp_path, whole, change, words):
    sample(NET, DATA, **RUN, out=tmp_path / "run.zarr")
    change = dict(change)
    net, data = change.pop("net", NET), change.pop("data", DATA)
    with pytest.raises(BadInput, match=rf"^resume: got .*{words}.*; expected the arguments with which"):
        sample(net, data, **{**RUN, **change}, out=tmp_path / "run.zarr", resume=True)
    assert_same(open_samples(tmp_path / "run.zarr"), whole)


def test_other_versions_are_said(tmp_path, monkeypatch, whole):
    stopped_run(tmp_path / "run.zarr")
    monkeypatch.setattr(checkpoint, "environment", lambda: {"numba": "0.0"})
    with pytest.warns(UserWarning, match=r"numba 0\.0 \(was .*last bit"):
        assert_same(sample(NET, DATA, **RUN, out=tmp_path / "run.zarr", resume=True), whole)


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def _pickled(path: Path) -> None:
    """A checkpoint with a correct checksum whose content would run code if it were unpickled."""
    import hashlib
    import io

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(path) + ".sprung",)

    packed = io.BytesIO()
    np.savez(packed, tally=np.array([Trap()], dtype=object))
    content = packed.getvalue()
    head = f"fieldtheory checkpoint 1 {hashlib.sha256(content).hexdigest()} {len(content)}\n"
    path.write_bytes(head.encode() + content)


def _of_another_run(path: Path) -> None:
    other = path.parent.parent.with_name("other.zarr")
    sample(NET, DATA, **{**RUN, "seed": 6}, out=other)
    shutil.copy(other / "checkpoint/chain-0", path)


@pytest.mark.parametrize("damage, words", [
    (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cut short"),
    (lambda path: path.write_bytes(b""), "not a checkpoint"),
    (lambda path: path.write_bytes(path.read_bytes()[:20]), "not a checkpoint"),
    (lambda path: _flip(path, -50), "checksum does not hold"),
    (lambda path: _flip(path, 30), "checksum does not hold"),
    (lambda path: path.write_bytes(path.read_bytes().replace(b"checkpoint 1", b"checkpoint 9", 1)), "format 9"),
    (_pickled, "other than plain arrays"),
    (_of_another_run, "of another run"),
], ids=["cut", "empty", "only a head", "content", "checksum", "format", "pickle", "another run"])
def test_a_damaged_checkpoint_is_refused_and_its_remedy_works(
    tmp_path, small_blocks, short_calls, whole, damage, words
):
    out = tmp_path / "run.zarr"
    stopped_run(out)
    path = out / "checkpoint/chain-0"
    damage(path)
    with pytest.raises(CorruptFile, match=rf"chain-0 .*{words}.*delete it and resume"):
        sample(NET, DATA, **RUN, out=out, resume=True)
    assert not Path(str(path) + ".sprung").exists()
    path.unlink()
    assert_same(sample(NET, DATA, **RUN, out=out, resume=True), whole)


@pytest.mark.parametrize("damage, words", [
    (lambda path: _flip(path, 100), "checksum"), (lambda path: path.unlink(), "missing"),
    (lambda path: path.write_bytes(path.read_bytes()[:-8]), "checksum")], ids=["changed", "missing", "cut"])
@pytest.mark.parametrize("finished", [True, False])
def test_damaged_draws_are_refused_and_their_remedy_works(
    tmp_path, small_blocks, short_calls, whole, damage, words, finished
):
    out = tmp_path / "run.zarr"
    if finished:
        sample(NET, DATA, **RUN, out=out)
    else:
        stopped_run(out, after=150)
    damage(out / "posterior/output/c.1.0.0")
    with pytest.raises(CorruptFile, match=rf"output/c\.1\.0\.0 .*{words}.*delete .*chain-1 and resume"):
        sample(NET, DATA, **RUN, out=out, resume=True)
    (out / "checkpoint/chain-1").unlink()
    assert_same(sample(NET, DATA, **RUN, out=out, resume=True), whole)


@pytest.mark.parametrize("damage, words", [
    (lambda text: text[:-30], "cut short"), (lambda text: text.replace('"seed": 5', '"seed": 6'), "checksum"),
    (lambda text: json.dumps(json.loads(text) | {"format": 2}), "format 2"), (lambda text: "[]", "cut short")])
def test_damaged_settings_are_refused(tmp_path, damage, words):
    sample(NET, DATA, **RUN, out=tmp_path / "run.zarr")
    path = tmp_path / "run.zarr/checkpoint/run.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(CorruptFile, match=rf"run\.json .*{words}.*overwrite=True"):
        sample(NET, DATA, **RUN, out=tmp_path / "run.zarr", resume=True)


def test_nothing_is_overwritten_unasked(tmp_path, whole):
    out = tmp_path / "run.zarr"
    sample(NET, DATA, **{**RUN, "seed": 8}, out=out)
    with pytest.raises(BadInput, match=r"out: got .*which exists; expected resume=True .*overwrite=True"):
        sample(NET, DATA, **RUN, out=out)
    assert_same(sample(NET, DATA, **RUN, out=out, overwrite=True), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr/precious").write_text("data")
    with pytest.raises(BadInput, match="not a run"):
        sample(NET, DATA, **RUN, out=tmp_path / "mine.zarr", overwrite=True)
    assert (tmp_path / "mine.zarr/precious").exists()


@pytest.mark.parametrize("options, words", [
    (dict(out="run.nc"), "out: .*zarr"), (dict(out="nowhere/run.zarr"), "out: .*folder that exists"),
    (dict(resume=True), "resume: .*out"), (dict(overwrite=True), "overwrite: .*out"),
    (dict(out="run.zarr", resume=True, overwrite=True), "resume: .*one of them"),
    (dict(out="run.zarr", checkpoint_every=-1.0), "checkpoint_every"),
    (dict(out="run.zarr", checkpoint_every=np.nan), "checkpoint_every"), (dict(out=3), "out: "),
])
def test_bad_arguments_of_a_run_are_named(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=f"^{words}"):
        sample(NET, DATA, **RUN, **options)
    assert not list(tmp_path.iterdir())


def test_two_processes_do_not_write_one_run(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    sample(NET, DATA, **RUN, out=tmp_path / "run.zarr")
    with open(tmp_path / "run.zarr/checkpoint/lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for how in ("resume", "overwrite"):
            with pytest.raises(BadInput, match="another process"):
                sample(NET, DATA, **{**RUN, "draws": 90}, out=tmp_path / "run.zarr", **{how: True})


# ------------------------------------------------------------------------------------- disks that are full or closed


@pytest.mark.parametrize("at", [0, 3, 20, 30, 45, 70, 100])
def test_a_full_disk_loses_nothing(tmp_path, small_blocks, monkeypatch, whole, at):
    out, left, real = tmp_path / "run.zarr", [at], os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CannotWrite, match=r"^out: cannot write .*run\.zarr \(No space left on device\)"):
            sample(NET, DATA, **RUN, out=out, checkpoint_every=0.0)
    assert not list(tmp_path.rglob(".*"))
    assert_same(sample(NET, DATA, **RUN, out=out, resume=True), whole)


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small disk needs to be allowed")
    try:
        run = {**RUN, "draws": 20_000, "step": 0.3}
        with pytest.raises(CannotWrite, match=r"No space left on device.*resume=True"):
            sample(NET, DATA, **run, out=disk / "run.zarr", checkpoint_every=0.02)
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert_same(sample(NET, DATA, **run, out=disk / "run.zarr", resume=True), sample(NET, DATA, **run))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for options in (dict(out=disk / "run.zarr", resume=True, draws=20_001), dict(out=disk / "new.zarr")):
            with pytest.raises(CannotWrite, match="Read-only file system"):
                sample(NET, DATA, **{**run, **options})
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="no folder is closed to root")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CannotWrite, match="nothing was begun"):
        sample(NET, DATA, **RUN, out=tmp_path / "run.zarr")
