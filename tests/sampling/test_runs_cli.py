"""Runs from the command line, and what is said while chains run."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from fieldtheory.cli import app
from fieldtheory.network import Network, Scaling
from fieldtheory.sampling import open_samples, progress, sample
from fieldtheory.tasks import ising

SMALL = ["sample", "--data", "ising", "--samples", "8", "--input-dim", "10", "--width", "8", "--method", "mala",
         "--chains", "2", "--draws", "50", "--warmup", "40"]  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_run_is_written_resumed_and_extended(tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    first = run(*SMALL, "--out", out, "--threads", "1", "--json")
    assert first.exit_code == 0 and "wrote" in first.stderr, first.stderr
    again = run(*SMALL, "--out", out, "--resume", "--json")
    assert again.exit_code == 0 and again.stdout == first.stdout
    longer = run(*SMALL, "--draws", "80", "--out", out, "--resume")
    assert longer.exit_code == 0, longer.stderr
    f = open_samples(out)["posterior"]["output"].values
    net = Network(width=8, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0, scaling=Scaling.mean_field())
    drawn = sample(net, ising(8, 10, seed=0), method="mala", chains=2, draws=80, warmup=40, seed=0)
    assert f.shape == (2, 80, 8) and np.array_equal(f, drawn["posterior"]["output"])
    replaced = run(*SMALL, "--seed", "3", "--out", out, "--overwrite")
    assert replaced.exit_code == 0 and open_samples(out)["posterior"].attrs["seed"] == 3


@pytest.mark.parametrize("options", [["--gibbs", "readout"], ["--dtype", "float32"], ["--tempering", "2"],
                                     ["--method", "sgld", "--batch-size", "2", "--step", "0.1"]], ids=str)
def test_the_options_of_chains_are_passed_on(tmp_path: Path, options) -> None:
    plain, other = run(*SMALL, "--json"), run(*SMALL, *options, "--json", "--out", tmp_path / "run.zarr")
    assert plain.exit_code == other.exit_code == 0, other.stderr
    assert plain.stdout != other.stdout
    resumed = run(*SMALL, "--out", tmp_path / "run.zarr", "--resume")
    assert resumed.exit_code == 2 and " where the run has " in resumed.stderr


@pytest.mark.parametrize("arguments, words", [
    (["--out", "samples.txt"], ["--out: got samples.txt", ".zarr or .nc"]),
    (["--resume"], ["--resume", "no --out"]),
    (["--out", "samples.nc", "--resume"], ["--resume with samples.nc", ".zarr"]),
    (["--overwrite"], ["--overwrite", "no --out"]),
    (["--out", "no/such/run.zarr"], ["--out", "existing folder"]),
    (["--gibbs", "readot"], ["--gibbs", "'readot'", "did you mean 'readout'"]),
    (["--gibbs", "precision"], ["--gibbs", "prior"]),
    (["--dtype", "float16"], ["--dtype", "float16", "float32"]),
    (["--threads", "0"], ["--threads", "0", ">= 1"]),
    (["--tempering", "1"], ["--tempering", "at least 2"]),
    (["--batch-size", "3"], ["--batch-size", "3"]),
    (["--method", "sgld", "--batch-size", "9"], ["--batch-size", "9", "1 to 8"]),
    (["--checkpoint-every", "-1", "--out", "x.zarr"], ["--checkpoint-every", "-1", ">= 0"]),
    (["--step", "nan"], ["--step", "nan", "or no --step to adapt it"]),
], ids=str)
def test_bad_input_is_one_line_that_names_it(tmp_path: Path, monkeypatch, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*SMALL, *arguments)
    assert result.exit_code == 2 and result.stdout == "", result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert not list(tmp_path.iterdir())


def test_what_exists_is_refused_in_words_of_the_command_line(tmp_path: Path) -> None:
    assert run(*SMALL, "--out", tmp_path / "run.zarr").exit_code == 0
    result = run(*SMALL, "--out", tmp_path / "run.zarr")
    assert result.exit_code == 2 and "--resume to go on with it, --overwrite" in result.stderr
    assert "True" not in result.stderr


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    import signal

    command = [sys.executable, "-m", "fieldtheory.cli", *SMALL, "--draws", "5000000", "--out", str(tmp_path / "r.zarr")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "sampling" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr
    assert re.search(r"interrupted; \d+ of 5000000 draws .*r\.zarr; the same command with --resume goes on", stderr)
    assert open_samples(tmp_path / "r.zarr")["posterior"].sizes["draw"] == 5_000_000


# ------------------------------------------------------------------------------------------------------ progress


def test_bars_show_phases_rates_and_divergences() -> None:
    stream = io.StringIO()
    with progress._bars(progress.Plan(2, 100, 400), Console(file=stream, force_terminal=True, width=140)) as report:
        report(progress.State([50, 0], 1000, 0))
        time.sleep(0.01)
        report(progress.State([100, 100], 200_000, 0))
        report(progress.State([500, 300], 500_000, 7))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert re.search(r"warm-up\s.*100%", shown)
    assert re.search(r"sampling\s.*75%.*left.*gradients/s, 7 divergences", shown)


def test_bars_are_silent_where_there_is_no_terminal(capsys) -> None:
    net = Network(width=4, readout_variance=1.0, weight_variance=1.0, noise_variance=0.5)
    sample(net, ising(5, 3, seed=1), chains=1, draws=20, warmup=30, progress=True)
    assert capsys.readouterr() == ("", "")
