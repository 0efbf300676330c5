"""The command line: what it prints, what it writes, and what it says of bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from fieldtheory import exact, tasks
from fieldtheory.catalogue import theories
from fieldtheory.cli import app
from fieldtheory.network import Network, Scaling
from fieldtheory.terminal import with_error

SMALL = ["--data", "ising", "--samples", "8", "--input-dim", "10", "--width", "20"]
CHAINS = ["--chains", "4", "--draws", "700", "--warmup", "300"]


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def in_a_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fieldtheory.cli", *arguments], capture_output=True, text=True,
                          check=False, **options)  # fmt: skip


@pytest.mark.parametrize("command", ["list", "derive", "phases", "predict", "population", "sample", "validate",
                                     "sweep"])
def test_every_command_shows_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    example = " ".join(result.stdout.split()).partition("Example: ")[2]
    assert example.startswith(f"fieldtheory {command}")


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    script = ("import sys; from fieldtheory.cli import app\ntry: app(['validate', '--help'])\nexcept SystemExit: pass\n"
              "print(sorted({'numpy', 'sympy', 'numba', 'xarray', 'arviz', 'matplotlib'} & set(sys.modules)))")
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_list_names_what_there_is() -> None:
    assert {"kernel-rescaling", "linear", "nngp"} <= set(json.loads(run("list", "--json").stdout))
    assert "linear" in run("list").stdout


def test_predict_agrees_with_the_oracle_it_calls(tmp_path: Path) -> None:
    path = tmp_path / "exact.nc"
    result = run("predict", "exact", *SMALL, "--noise-variance", "0.5", "--scaling", "3/2,1/2", "--out", path, "--json")
    assert result.exit_code == 0, result.stderr
    net = Network(width=20, readout_variance=1.0, weight_variance=1.0, noise_variance=0.5, scaling=Scaling(1.5, 0.5))
    truth = exact.linear(net, tasks.ising(8, 10))
    assert np.allclose(json.loads(result.stdout)["mean_output"], truth.mean_output, rtol=1e-12)
    with xr.open_dataset(path, engine="h5netcdf") as written:
        assert np.array_equal(written.mean_output, truth.mean_output) and written.attrs["theory"] == "exact"
    assert [file.name for file in tmp_path.iterdir()] == ["exact.nc"]


def test_predict_takes_a_file_and_prints_a_table(tmp_path: Path) -> None:
    data = tasks.single_index(6, 4, test_samples=2).save(tmp_path / "mine.npz")
    result = run("predict", "nngp", "--data", data, "--width", 30)
    assert result.exit_code == 0, result.stderr
    assert "mean_output (6)" in result.stdout and "test_output (2)" in result.stdout
    assert "readout_norm" in result.stdout and "standard scaling" not in result.stdout


def test_predict_shows_what_every_input_has_and_folds_a_long_status(tmp_path: Path) -> None:
    data = tasks.parity("cube", 3, 3, test_samples="cube")
    path = data.save(tmp_path / "unseen.npz")
    given = ["predict", "mean-field-ard", "--ard", "4", "--data", path, "--activation", "relu", "--width", 8,
             "--scaling", "standard", "--effort", "ensembles=2,particles=8,settle=4,average=4,measure=4"]
    result = run(*given)
    assert result.exit_code == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.strip()]
    precision = next(line for line in rows if line.strip().startswith("precision (3)"))
    assert len(re.findall(r"± [\d.e-]+", precision)) == 3  # one of each input, not their mean
    assert any(line.split()[-1] == "1" for line in rows if "test error of the mean" in line)
    said = " ".join(" ".join(rows).split())
    assert "…" not in said and "discrepancy_along_target" in said  # the names are whole
    assert "a polynomial of degree 1, and has no overlap with a mode of order 3" in said  # and so is the status
    assert "_mcse" not in said


@pytest.mark.parametrize(("value", "error", "text"), [
    (0.053449, 2e-4, "0.05345 ± 0.0002"), (2.8, 0.0, "2.80000"), (3.1e-12, 0.0, "3.1e-12"), (0.0, 0.0, "0.00000"),
    (3e-12, 5e-12, "3e-12 ± 5e-12"), (14.051, 0.8, "14.05 ± 0.8"), (1234.5, 20.0, "1234 ± 2e+01")])
def test_numbers_have_the_digits_that_their_errors_leave(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text


def test_population_prints_what_python_gives() -> None:
    given = ["population", "kernel-rescaling", "--law", "gaussian", "--target", "1:1,2:0.5", "--noise", "0.04,0.01"]
    result = run(*given, "--json")
    assert result.exit_code == 0, result.stderr
    net = Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0)
    limit = theories["kernel-rescaling"](net).population_limit("gaussian", {1: 1.0, 2: 0.5})
    for row, noise in zip(json.loads(result.stdout)["solutions"], (0.04, 0.01), strict=True):
        found = limit.solve(8, noise)
        assert row["noise"] == noise and np.isclose(row["test_error"], found.test_error, rtol=1e-12)
        assert np.isclose(row["order_parameters"]["2"], found.order_parameters[2], rtol=1e-12)
    table = run(*given)
    assert "m_1" in table.stdout and "converged" in table.stdout


def test_derive_prints_latex_and_verifies(tmp_path: Path) -> None:
    path = tmp_path / "nngp.tex"
    result = run("derive", "nngp", "--out", path, "--verify")
    assert result.exit_code in (0, 1) and "error" in result.stdout
    assert (result.exit_code == 0) == ("NOT verified" not in result.stdout)
    assert path.read_text().startswith("\\documentclass")
    document = run("derive", "nngp").stdout
    assert document.startswith("\\documentclass") and "\\end{document}" in document
    assert "steps" in json.loads(run("derive", "nngp", "--json").stdout)


def test_phases_prints_inequalities_and_draws_them(tmp_path: Path) -> None:
    path = tmp_path / "phases.svg"
    result = run("phases", "linear", "--view", "adaptation", "--at", "0,1", "--out", path, "--json")
    assert result.exit_code == 0, result.stderr
    regions = json.loads(result.stdout)["regions"]
    assert ["p < 1", "gamma <= delta + 1", "gamma + p <= 2"] in regions["saddle"]
    assert regions["equal"] == [["1 = p", "gamma <= 1"], ["gamma = p", "1 <= gamma"]]
    assert "<svg" in path.read_text()
    for options, name in ((("--fix", "q"), "--fix"), (("--at", "1/0"), "--at")):
        refused = run("phases", "linear", *options, "--out", path)
        assert refused.exit_code == 2 and name in refused.stderr


def test_sample_writes_what_it_drew(tmp_path: Path) -> None:
    path = tmp_path / "samples.nc"
    result = run("sample", *SMALL, *CHAINS, "--out", path, "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert len(summary["mean_output"]["mean"]) == 8 and summary["attributes"]["smallest_ess"] > 0
    with xr.open_dataset(path, group="posterior", engine="h5netcdf") as posterior:
        assert posterior.output.shape == (4, 700, 8)
        assert np.allclose(posterior.output.mean(("chain", "draw")), summary["mean_output"]["mean"])
    again = json.loads(run("sample", *SMALL, *CHAINS, "--json").stdout)
    assert again["mean_output"] == summary["mean_output"]


def test_options_of_the_network_and_a_verdict_on_the_chains() -> None:
    given = run("sample", *SMALL, *CHAINS, "--bias-variance", "0.5", "--ard", "3", "--gibbs", "precision")
    assert given.exit_code == 0 and "converged" in given.stderr
    assert given.stdout != run("sample", *SMALL, *CHAINS).stdout
    biased = run("predict", "nngp", *SMALL, "--bias-variance", "0.5", "--json")
    assert biased.stdout != run("predict", "nngp", *SMALL, "--json").stdout


def test_validate_keeps_the_oracle_and_writes_the_report(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    result = run("validate", "nngp", *SMALL, *CHAINS, "--out", folder)
    assert result.exit_code == 0, result.stdout + result.stderr
    assert re.search(r"NNGP\s+rejected", result.stdout) and re.search(r"exact\s+kept", result.stdout)
    assert "judged: exact: kept" in result.stdout
    assert sorted(file.name for file in folder.iterdir()) == ["derivation.tex", "report.html"]


def test_validate_judges_the_view_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fieldtheory.export.study.MOST_LOOPS", 0)
    arguments = ["validate", "linear", *SMALL, *CHAINS, "--view", "adaptation", "--loops", "0", "--json"]
    result = run(*arguments)
    printed = json.loads(result.stdout)  # nothing else may stand there
    assert printed["judged"] == "tree level"
    statuses = {entry["label"]: entry["status"] for entry in printed["results"]}
    assert statuses["exact"] == "kept" and statuses["NNGP"] == "rejected"
    assert result.exit_code == (0 if statuses["tree level"] == "kept" else 1)


def test_a_sampler_with_a_bias_is_rejected_against_the_oracle() -> None:
    result = run("validate", "nngp", *SMALL, *CHAINS, "--draws", "4000", "--method", "ula", "--step", "0.3", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == "rejected"


def test_too_few_draws_are_no_agreement() -> None:
    result = run("validate", "nngp", *SMALL, "--chains", "2", "--draws", "40", "--warmup", "50", "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["status"] == "undecided"


def test_one_short_chain_lets_no_library_talk() -> None:
    short = [*SMALL, "--chains", "1", "--draws", "10", "--warmup", "50"]
    for command in (["sample"], ["validate", "nngp"]):
        done = in_a_process(*command, *short)
        assert done.returncode in (0, 1), done.stderr
        assert "WARNING" not in done.stderr + done.stdout
    assert "R-hat needs at least 2 chains" in run("sample", *short, "--json").stderr


def test_sweep_writes_its_table(tmp_path: Path) -> None:
    table, text = tmp_path / "table.nc", tmp_path / "table.csv"
    result = run("sweep", "nngp", "--widths", "20,40", "--seeds", "2", "--out", table)
    assert result.exit_code == 0 and "exponent" in result.stdout
    with xr.open_dataset(table, engine="h5netcdf") as written:
        assert dict(written.error.sizes) == {"scaling": 2, "regime": 2, "width": 2, "approximation": 1}
        assert float(written.error.min()) > 0 and written.spread.notnull().all()
    assert run("sweep", "nngp", "--widths", "20", "--out", text, "--json").exit_code == 0
    assert text.read_text().startswith("scaling,regime,width,approximation,error")


def object_arrays(folder: Path) -> Path:
    np.savez(folder / "objects.npz", X=np.array([[1, None]], dtype=object), y=np.ones(1))
    return folder / "objects.npz"


def not_numbers(folder: Path) -> Path:
    np.savez(folder / "nan.npz", X=np.array([[1.0, np.nan]]), y=np.ones(1))
    return folder / "nan.npz"


def too_large(folder: Path) -> Path:
    np.savez(folder / "large.npz", X=np.full((4, 3), 1e200), y=np.ones(4))
    return folder / "large.npz"


def misspelt(folder: Path) -> Path:
    np.savez(folder / "typo.npz", X=np.eye(2), y=np.ones(2), Xtest=np.eye(2))
    return folder / "typo.npz"


BAD: dict[str, tuple[list[Any], list[str]]] = {
    "theory": (["predict", "linaer"], ["theory", "'linaer'", "did you mean 'linear'"]),
    "task": (["predict", "nngp", "--data", "isign"], ["--data", "'isign'", "did you mean 'ising'"]),
    "no such file": (["predict", "nngp", "--data", "none.npz"], ["--data: got none.npz", "existing .npz"]),
    "misspelt array": (["predict", "nngp", "--data", misspelt], ["--data", "Xtest", "typo.npz", "X_test"]),
    "objects": (["predict", "nngp", "--data", object_arrays], ["X", "objects"]),
    "nan": (["predict", "nngp", "--data", not_numbers], ["X", "NaN"]),
    "file and option": (["predict", "nngp", "--data", not_numbers, "--samples", "3"], ["--data", "--samples"]),
    "no samples": (["predict", "nngp", "--samples", "0"], ["--samples", "0", ">= 1"]),
    "an option of another task": (["predict", "nngp", "--data", "digits", "--input-dim", "3"], ["--input-dim"]),
    "classes": (["predict", "nngp", "--data", "digits", "--classes", "three,8"], ["--classes", "three", "3,8"]),
    "law": (["population", "nngp", "--law", "gauss"], ["--law", "did you mean 'gaussian'"]),
    "target": (["population", "nngp", "--target", "2;3"], ["--target: got '2;3'", "1:1,3:-0.3"]),
    "out of sight": (["population", "mean-field", "--target", "3"], ["--target", "odd part of the activation"]),
    "noises": (["population", "nngp", "--noise", "0.1,0"], ["--noise: got '0.1,0'", "positive"]),
    "no limit": (["population", "linear", "--activation", "identity"], ["a theory of one site"]),
    "modes that are all kept": (["population", "nngp", "--order", "4"], ["--order", "keeps all modes"]),
    "a parity of no inputs": (["population", "mean-field", "--target", "0"], ["--target: got {0: 1.0}", "one input"]),
    "modes of a parity": (["population", "mean-field", "--order", "3"], ["--order: got 3", "that parity alone"]),
    "no nodes": (["population", "nngp", "--nodes", "512"], ["--nodes: got 512", "no --nodes"]),
    "nothing planted": (["predict", "mean-field", "--start", "planted"], ["--relevant: got no --relevant", "inputs"]),
    "no particles": (["predict", "mean-field", "--effort", "particles=0"], ["--effort particles: got 0", ">= 1"]),
    "no ARD": (["predict", "mean-field-ard", "--activation", "relu"], ["--ard: got no --ard; expected --ard ALPHA"]),
    "ARD for a fixed prior": (["predict", "mean-field", "--ard", "4"], ["--ard: got ARD", "expected no --ard"]),
    "phases of drawn precisions": (["phases", "mean-field-ard"], ["theory: got mean-field-ard", "fixed prior"]),
    "resolvent": (["predict", "collapsed-mean-field", "--resolvent", "foo"], ["--resolvent: got foo", "mean"]),
    "numbers beyond floats": (["predict", "collapsed-mean-field", "--activation", "relu", "--data", too_large,
                               "--width", "5"], ["got a matrix that linear algebra fails on", "rescale"]),
    "out of reach": (["predict", "nngp", *SMALL, "--out", "/proc/x.nc"], ["--out: got /proc/x.nc", "written"]),
    "width": (["predict", "nngp", "--width", "0"], ["--width", "0", "integer >= 1"]),
    "an activation no rule takes": (["predict", "linear", "--activation", "erf"], [
        "--activation: got 'erf'", "such as identity", "linear"]),
    "seed of the task": (["predict", "nngp", "--data-seed", "-1"], ["--data-seed: got -1", ">= 0"]),
    "no theory of that prior": (["predict", "nngp", "--ard", "4"], ["--ard: got ARD with alpha0 = 4", "fixed prior"]),
    "prior": (["sample", "--ard", "-1"], ["--ard: got -1", "> 0"]),
    "biases": (["sample", "--bias-variance", "-1"], ["--bias-variance: got -1", ">= 0"]),
    "step": (["sample", "--step", "-1"], ["--step", "-1", "or no --step to adapt it"]),
    "width in words": (["predict", "nngp", "--width", "wide"], ["--width", "'wide'", "valid integer"]),
    "variance in words": (["predict", "nngp", "--weight-variance=big"], ["--weight-variance", "big", "number"]),
    "variance": (["predict", "nngp", "--noise-variance", "-1"], ["--noise-variance", "-1", ">= 0"]),
    "scaling": (["predict", "nngp", "--scaling", "meanfield"], ["--scaling", "did you mean 'mean-field'"]),
    "exponents": (["predict", "nngp", "--scaling", "2,x"], ["--scaling", "2,x"]),
    "activation": (["predict", "nngp", "--activation", "rleu"], ["--activation", "did you mean 'relu'"]),
    "view": (["predict", "linear", "--view", "rescalling"], ["--view", "did you mean 'rescaling'"]),
    "no view": (["predict", "nngp", "--view", "rescaling"], ["--view", "none"]),
    "loops": (["predict", "linear", "--loops", "-1"], ["--loops", "-1"]),
    "method": (["sample", "--method", "mcmc"], ["--method", "mcmc"]),
    "chains": (["sample", "--chains", "0"], ["--chains", ">= 1"]),
    "no noise to sample": (["sample", "--noise-variance", "0"], ["--noise-variance", "positive"]),
    "level": (["validate", "nngp", "--level", "2"], ["--level", "2", "between 0 and 1"]),
    "widths": (["sweep", "nngp", "--widths", "100;200"], ["--widths", "100;200"]),
    "out": (["predict", "nngp", "--out", "prediction.txt"], ["--out", ".nc"]),
    "out nowhere": (["predict", "nngp", "--out", "no/such/folder/x.nc"], ["--out", "existing folder"]),
    "out is a file": (["validate", "nngp", "--out", not_numbers], ["--out", "folder"]),
    "no theory": (["predict"], ["THEORY"]),
    "no such option": (["predict", "nngp", "--widht", "3"], ["--widht"]),
    "no such command": (["forecast"], ["forecast"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_names_it(case: str, tmp_path: Path) -> None:
    arguments, words = BAD[case]
    result = run(*(argument(tmp_path) if callable(argument) else argument for argument in arguments))
    assert result.exit_code == 2, result.stdout + result.stderr
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert "None" not in result.stderr and "symbol" not in result.stderr  # words of Python, not of a command line


def test_bad_input_in_a_process_of_its_own() -> None:
    done = in_a_process("predict", "linaer")
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.strip().splitlines()) == 1


def test_an_interrupt_leaves_no_file(tmp_path: Path) -> None:
    import signal

    command = [sys.executable, "-m", "fieldtheory.cli", "sample", "--width", "200", "--draws", "500000",
               "--out", str(tmp_path / "samples.nc")]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "sampling" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr and "interrupted" in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failing_writer_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: xr.Dataset, path: str, **options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(xr.Dataset, "to_netcdf", interrupted)
    result = run("predict", "exact", *SMALL, "--out", tmp_path / "x.nc")
    assert result.exit_code == 130 and list(tmp_path.iterdir()) == []
