"""Sweeps: what a file may say, what is computed at each point, and that an end at any moment loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from fieldtheory import exact, tasks
from fieldtheory.cli import app
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, CorruptFile, FieldTheoryError
from fieldtheory.export.sweep import EXAMPLE, Sweep, over_seeds, run_sweep
from fieldtheory.export.sweep import figures as drawn
from fieldtheory.export.sweep.measure import Measurer, of_prediction, of_samples
from fieldtheory.export.sweep.run import Store
from fieldtheory.export.sweep.settings import DEFAULT_OUTPUTS, OF_NETWORK, QUANTITIES, SECTIONS
from fieldtheory.export.sweep.table import reservations, rows
from fieldtheory.network import ARD, Network, Scaling
from fieldtheory.sampling.diagnostics import to_inference_data

LINEAR: dict[str, Any] = {
    "theories": ["exact"], "task": {"name": "ising", "input_dim": 6, "test_samples": 9},
    "network": {"width": 8, "noise_variance": 0.3}, "axes": {"samples": [5, 8], "seed": [0, 1, 2]}}  # fmt: skip
STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
CHAINS = {"method": "hmc", "chains": 2, "draws": 40, "warmup": 30}


def asked(**changes: Any) -> Sweep:
    return Sweep.from_mapping({**LINEAR, **changes})


def the_same(one: xr.Dataset, other: xr.Dataset) -> None:
    clocks = ["seconds", "cpu_seconds"]
    xr.testing.assert_identical(one.drop_vars(clocks), other.drop_vars(clocks))


def command(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# ------------------------------------------------------------------------------------------------------- the file


def test_the_example_says_what_there_is() -> None:
    sweep = Sweep.from_mapping(tomllib.loads(EXAMPLE))
    assert command("sweep", "--example").stdout == EXAMPLE
    assert [len(values) for values in sweep.axes.values()] == [3, 2, 3] and sweep.labels[0] == "posterior"
    assert set(tomllib.loads(EXAMPLE)) == set(SECTIONS)
    for name in (*QUANTITIES, *OF_NETWORK, "chi"):
        assert name in EXAMPLE


def test_networks_and_data_of_a_point() -> None:
    sweep = asked(network={"activation": "erf", "width": 8, "bias_variance": 0.5, "scaling": "3/2,1/2"},
                  axes={"samples": [5, 8], "noise_variance": {"start": 0.01, "stop": 1.0, "count": 3, "spacing": "log"},
                        "prior": ["gaussian", {"alpha0": 4.0}], "seed": {"start": 3, "stop": 4, "count": 2}})
    assert sweep.axes["noise_variance"] == (0.01, 0.1, 1.0) and sweep.axes["seed"] == (3, 4)
    points = sweep.points()
    assert len(points) == 24
    last = points[-1]
    assert sweep.network_at(last) == Network("erf", 8, 1.0, 1.0, 1.0, Scaling("3/2" and 1.5, 0.5), bias_variance=0.5,
                                             prior=ARD(4.0))
    data = tasks.ising(8, 6, seed=4, test_samples=9)
    assert np.array_equal(sweep.data_at(last).X, data.X) and np.array_equal(sweep.data_at(last).y_test, data.y_test)
    along = asked(axes={"chi": [1.0, 4.0]}, task={"name": "ising", "samples": 5})
    assert along.network_at({"chi": 4.0}).effective_noise_variance() == pytest.approx(0.3 / 4)


def test_a_file_of_arrays_is_cut_to_size(tmp_path: Path) -> None:
    data = tasks.ising(12, 4, test_samples=5)
    data.save(tmp_path / "mine.npz")
    given = {**LINEAR, "task": {"name": "mine.npz"}, "axes": {"samples": [3, 12], "seed": [0, 1]}}
    sweep = Sweep.from_mapping(given, tmp_path)
    all_of_it = {tuple(x) for x in data.X}
    for point in sweep.points():
        found = sweep.data_at(point)
        assert found.samples == point["samples"] and {tuple(x) for x in found.X} <= all_of_it
        assert np.array_equal(found.X_test, data.X_test)
    assert not np.array_equal(*(sweep.data_at({"samples": 3, "seed": seed}).X for seed in (0, 1)))
    first = sweep.identity()["task.content"]
    tasks.ising(12, 4, seed=1, test_samples=5).save(tmp_path / "mine.npz")
    assert sweep.identity()["task.content"] != first  # other data under the same name are other data
    with pytest.raises(BadInput, match=r"axes\.samples: got 13; expected at most 12"):
        Sweep.from_mapping({**given, "axes": {"samples": [3, 13]}}, tmp_path)


NET, TASK = LINEAR["network"], LINEAR["task"]
BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a section": ({"netwrok": {}}, ["sweep", "'netwrok'", "'network'"]),
    "no task": ({"task": {}}, ["task.name", "ising"]),
    "a task": ({"task": {"name": "isign"}}, ["task.name", "'isign'", "did you mean 'ising'"]),
    "an option of the task": ({"task": {**TASK, "sampels": 3}}, ["task", "'sampels'", "did you mean 'samples'"]),
    "a word for a number": ({"task": {"name": "parity", "label_noise": "big"}}, ["task", "big", "ft.tasks.parity"]),
    "a size of the task": ({"axes": {"samples": [5, 0]}}, ["axes.samples", "0", ">= 1"]),
    "a file": ({"task": {"name": "none.npz"}}, ["task.name", "none.npz", "existing"]),
    "a key of the network": ({"network": {**NET, "noise": 1}}, ["network", "'noise'", "noise_variance"]),
    "no width": ({"network": {"noise_variance": 1.0}}, ["network.width", "nothing", "[axes]"]),
    "a width": ({"network": {**NET, "width": 0}}, ["network.width", "0", ">= 1"]),
    "a scaling": ({"network": {**NET, "scaling": "standrad"}}, ["network.scaling", "did you mean 'standard'"]),
    "a prior": ({"network": {**NET, "prior": {"alpha0": -1.0}}}, ["network.prior.alpha0", "-1.0", "> 0"]),
    "a key of the prior": ({"network": {**NET, "prior": {"alpha": 1.0}}}, ["network.prior", "'alpha'", "alpha0"]),
    "an activation on an axis": ({"axes": {"activation": ["relu", "rleu"]}}, ["axes.activation", "mean 'relu'"]),
    "an axis": ({"axes": {"smaples": [5, 8]}}, ["axes", "'smaples'", "did you mean 'samples'"]),
    "an axis of one number": ({"axes": {"samples": 5}}, ["axes.samples", "5", "a list of values"]),
    "an empty axis": ({"axes": {"samples": []}}, ["axes.samples", "list of values"]),
    "a value twice": ({"axes": {"samples": [5, 5]}}, ["axes.samples", "5 twice"]),
    "an axis twice": ({"axes": {"width": [5, 6]}}, ["axes.width", "also in [network]"]),
    "a range": ({"axes": {"chi": {"start": 0.0, "stop": 1.0, "count": 3, "spacing": "log"}}}, [
        "axes.chi.spacing", "not positive"]),
    "a count": ({"axes": {"chi": {"start": 1.0, "stop": 2.0, "count": 1}}}, ["axes.chi", "count = 1", ">= 2"]),
    "a theory": ({"theories": ["linaer"]}, ["theories[0]", "'linaer'", "did you mean 'linear'"]),
    "an option of a theory": ({"theories": [{"name": "linear", "loop": 1}]}, ["theories[0]", "did you mean 'loops'"]),
    "a theory twice": ({"theories": ["exact", "exact"]}, ["theories", "'exact' twice", "label"]),
    "theories in words": ({"theories": "nngp"}, ["theories", "'nngp'", "list of names", '"all"']),
    "nothing to do": ({"theories": []}, ["theories", "none", "[sampling]"]),
    "a quantity": ({"outputs": ["test_eror"]}, ["outputs", "did you mean 'test_error'"]),
    "nothing to test on": ({"task": {"name": "ising", "samples": 5}, "axes": {}, "outputs": ["test_error"]}, [
        "outputs", "test_error", "test_samples"]),
    "a sampler": ({"sampling": {"method": "hcm"}}, ["sampling.method", "'hcm'", "did you mean 'hmc'"]),
    "an option of the sampler": ({"sampling": {"drwas": 3}}, ["sampling", "'drwas'", "did you mean 'draws'"]),
    "no noise for chains": ({"sampling": {}, "network": {**NET, "noise_variance": 0}}, [
        "noise_variance", "[sampling]"]),
    "a format": ({"figures": {"formats": ["gif"]}}, ["figures.formats", "'gif'", "svg"]),
    "figures of vectors": ({"figures": {"quantities": ["relevance"]}}, ["figures.quantities", "'relevance'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_keys_are_named(case: str) -> None:
    changes, words = BAD[case]
    with pytest.raises(BadInput) as caught:
        asked(**changes)
    for word in words:
        assert word in str(caught.value)


def test_options_that_only_the_work_can_judge_stop_it_with_their_key() -> None:
    linear = {"name": "linear", "view": "rescalling", "label": "L"}
    for changes, key in (({"sampling": {**CHAINS, "chains": 0}}, "sampling.chains"),
                         ({"theories": [{"name": "nngp", "effort": {"particles": 3}}]}, "theories.nngp.effort"),
                         ({"theories": [linear]}, "theories.L.view"),
                         ({"theories": ["linear"], "network": {**NET, "activation": "relu"}}, "theories.linear")):
        with pytest.raises(BadInput) as caught:
            run_sweep(asked(**changes))
        assert caught.value.argument == key


# ------------------------------------------------------------------------------------------------------ the numbers


def test_what_is_reported_follows_from_the_mean_predictor() -> None:
    """Against kernel regression written out here; the oracle's own mean where it is asked."""
    sweep = asked(theories=["nngp", "exact"], axes={"samples": [5, 8], "seed": [0, 1]})
    table = run_sweep(sweep)
    assert table.test_error.dims == ("samples", "seed", "approximation")
    for point in sweep.points():
        data, net = sweep.data_at(point), sweep.network_at(point)
        K, K_test = data.X @ data.X.T / 6, data.X_test @ data.X.T / 6
        f = K_test @ np.linalg.solve(K + 0.3 * np.eye(data.samples), data.y)
        found = table.sel(point)
        assert float(found.test_error.sel(approximation="nngp")) == pytest.approx(np.mean((f - data.y_test) ** 2))
        assert float(found.order_parameter.sel(approximation="nngp")) == pytest.approx(f @ data.y_test / 9)
        f = exact.linear(net, data).mean_output.values
        assert float(found.train_error.sel(approximation="exact")) == pytest.approx(np.mean((f - data.y) ** 2))
    averaged = over_seeds(table, "test_error").sel(samples=5, approximation="nngp")
    values = table.test_error.sel(samples=5, approximation="nngp").values
    assert float(averaged["mean"]) == pytest.approx(values.mean())
    assert float(averaged["error"]) == pytest.approx(values.std(ddof=1) / np.sqrt(2))
    assert bool(averaged["sound"]) and (table.state == "ok").all() and not reservations(table)
    assert "relevance" not in table  # which neither gives


def independent_draws(seed: int, truth: np.ndarray, relevance: np.ndarray) -> Any:
    """Draws without autocorrelation about a mean predictor and second moments that are known."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(len(truth)) + 0.2 * np.random.default_rng(7).standard_normal((len(truth), len(truth)))
    f = truth + rng.standard_normal((4, 60, len(truth))) @ mixing
    r = relevance * rng.gamma(8.0, 1 / 8, (4, 60, len(relevance)))
    return to_inference_data({"output": (("sample",), f), "test_output": (("test",), f),
                              "direction_overlap": (("direction",), r)}, {}, {"target": (("sample",), np.ones(5))}, {})


def test_monte_carlo_errors_are_those_of_repeated_runs() -> None:
    truth, relevance = np.array([0.5, 1.0, -0.3, 0.8, 1.2]), np.array([1.0, 3.0, 0.5])
    X = np.random.default_rng(0).standard_normal((5, 3))
    data = Dataset(X, np.ones(5), X, np.ones(5))
    names = ["test_error", "order_parameter", "effective_inputs", "relevance"]
    runs = [of_samples(independent_draws(seed, truth, relevance), data, names) for seed in range(50)]
    exact_values = {"test_error": np.mean((truth - 1) ** 2), "order_parameter": truth.mean(),
                    "effective_inputs": relevance.sum() ** 2 / (relevance @ relevance)}
    runs = [tuple({**of, "first": of["relevance"][0], "second": of["relevance"][1]} for of in run) for run in runs]
    exact_values |= {"first": relevance[0] / relevance.mean(), "second": relevance[1] / relevance.mean()}
    for name, value in exact_values.items():
        z = np.array([(values[name] - value) / errors[name] for values, errors in runs])
        # 50 values of a unit normal: their mean is known to 0.14, their deviation to 0.1; a bias may add 0.2.
        assert abs(z.mean()) < 0.2 + 4 * 0.14 and 1 - 4 * 0.1 < z.std() < 1 + 4 * 0.1, name
    draws = [independent_draws(seed, truth, relevance)["posterior"]["output"].values for seed in range(50)]
    naive = np.array([(values["order_parameter"] - truth.mean()) / (f.std(axis=(0, 1)).mean() / np.sqrt(240))
                      for (values, _), f in zip(runs, draws)])
    assert not 1 - 4 * 0.1 < naive.std() < 1 + 4 * 0.1  # the error of one output is not that of their mean


def test_errors_of_particles_are_the_most_that_they_can_be() -> None:
    truth, size = np.array([0.5, 1.0, -0.3]), np.array([0.01, 0.02, 0.03])
    prediction = xr.Dataset({"test_output": ("test", truth), "test_output_mcse": ("test", size),
                             "relevance": ("input", np.array([2.0, 0.0]))})
    data = Dataset(np.eye(3), np.ones(3), np.eye(3), np.ones(3))
    values, errors = of_prediction(prediction, data, ["test_error", "order_parameter", "relevance", "effective_inputs"])
    assert values["relevance"] == [2.0, 0.0] and values["effective_inputs"] == 1.0
    for signs in np.ndindex(2, 2, 2):
        moved = truth + (2 * np.array(signs) - 1) * size
        assert abs(moved.mean() - truth.mean()) <= errors["order_parameter"] + 1e-15
        assert abs(np.mean((moved - 1) ** 2) - values["test_error"]) <= errors["test_error"] + 1e-15


def test_chains_beside_theories_with_the_relevance_of_inputs() -> None:
    given = {"theories": ["nngp"], "outputs": [*DEFAULT_OUTPUTS, "weight_second_moment"],
             "task": {"name": "parity", "input_dim": 4, "test_samples": "cube"},
             "network": {"activation": "relu", "width": 10, "noise_variance": 0.05}, "axes": {"samples": [16, 24]},
             "sampling": {**CHAINS, "chains": 4, "draws": 150, "warmup": 150, "label": "posterior"}}  # fmt: skip
    table = run_sweep(Sweep.from_mapping(given))
    posterior = table.sel(approximation="posterior", samples=24)
    assert posterior.relevance.shape == (4,) and float(posterior.test_error_mcse) > 0 and float(posterior.ess) > 0
    r, error = posterior.relevance.values, posterior.relevance_mcse.values
    assert r[:2].min() - r[2:].max() > 2 * (error[:2].max() + error[2:].max())  # the inputs that the target depends on
    assert table.relevance.sel(approximation="nngp").isnull().all()
    assert json.loads(table.relevance.attrs["not_given_by"]) == ["nngp"]
    assert json.loads(table.log_evidence.attrs["not_given_by"]) == ["posterior"]
    assert posterior.sampling_seed - table.sampling_seed.sel(approximation="posterior", samples=16) == 1
    moments = posterior.weight_second_moment.values
    assert moments == pytest.approx(r * moments.mean()) and r.mean() == pytest.approx(1)
    shown = {line[1]: line[2] for line in rows(table, ["test_error"]) if line[0] == "24"}
    assert shown["R-hat"] == f"{float(posterior.rhat):.4g}"
    assert shown["effective samples"] == f"{float(posterior.ess):.0f}"
    for state, reason in zip(table.state.values.ravel(), table.reason.values.ravel()):
        assert state == "ok" or (state == "doubtful" and "do: " in reason)
    names = [name for name, _ in drawn.sweep_figures(table, ["test_error"])]
    assert names == ["test-error-against-samples", "relevance"]


def test_what_fails_says_so_and_the_rest_goes_on() -> None:
    task = {"name": "single-index", "input_dim": 6}
    sweep = asked(theories=["nngp", "exact"], network={"width": 8}, task=task, axes={
        "samples": [4, 9], "noise_variance": [0.0, 0.1], "prior": ["gaussian", {"alpha0": 4.0}]})
    table = run_sweep(sweep)
    fixed = table.sel(prior="gaussian", approximation="nngp")
    assert fixed.state.values.tolist() == [["ok", "ok"], ["failed", "ok"]]  # nine samples of six inputs, no noise
    where = {"samples": 9, "noise_variance": 0.0}
    assert "K is rank-deficient" in str(fixed.reason.sel(where).values) and np.isnan(fixed.train_error.sel(where))
    assert np.isfinite(table.train_error.sel(prior="gaussian", approximation="exact")).sum() == 4
    assert (table.state.sel(prior="alpha0 4.0") == "not covered").all()
    assert ((table.reason != "") == (table.state != "ok")).all()
    assert (table.train_error.isnull() == table.state.isin(["failed", "not covered"])).all()
    assert any("nngp: 1 of 8 points failed: noise_variance: got 0" in line for line in reservations(table))
    (line,) = [row for row in rows(table, ["train_error"]) if row[:4] == ["9", "0", "gaussian", "train error"]]
    assert line[-2] == "-" and line[-1] != "-"
    assert not over_seeds(table, "train_error").sound.sel(where).any("approximation").sel(prior="alpha0 4.0")
    with pytest.raises(BadInput, match=r"axis: got 'prior'; expected .* samples"):
        drawn.phase_map(table, "train_error", "samples", "prior")


def test_all_leaves_out_what_does_not_cover_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fieldtheory.export.sweep.settings.theories", ("linear", "nngp"))
    said: list[str] = []
    sweep = asked(theories="all", network={**NET, "activation": "erf"}, axes={"samples": [5]})
    table = run_sweep(sweep, note=said.append)
    assert table.approximation.values.tolist() == ["nngp"]
    assert len(said) == 1 and said[0].startswith("linear left out: ")


def test_a_value_that_is_no_number_is_not_silent() -> None:
    sweep = asked(task={"name": "single-index", "input_dim": 4, "hermite": {"0": 0.0}, "test_samples": 3, "samples": 5},
                  axes={}, outputs=["train_error", "discrepancy_along_target"])
    table = run_sweep(sweep)
    assert str(table.state.values[0]) == "doubtful" and "discrepancy_along_target" in str(table.reason.values[0])
    assert float(table.train_error[0]) == pytest.approx(0)


def test_what_does_not_cover_a_network_is_not_in_its_panel() -> None:
    table = run_sweep(asked(theories=["nngp", "exact"], task={"name": "single-index", "input_dim": 6}, axes={
        "samples": [4, 9], "prior": ["gaussian", {"alpha0": 4.0}]}, sampling=CHAINS))
    fixed, ard = drawn.curve(table, "train_error", "samples").axes
    assert [c.get_label() for c in fixed.containers] == ["samples", "nngp", "exact"]
    assert [c.get_label() for c in ard.containers] == ["samples"]
    assert not [line for ax in (fixed, ard) for line in ax.lines if line.get_marker() == "x"]
    panels = drawn.relevance(table).axes
    assert len(panels) == 4  # one row for each prior
    assert [len(ax.containers) for ax in panels] == [1, 1, 1, 1]


# ------------------------------------------------------------------------------------------------------- going on


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
                    'noise_variance = 0.3\n[axes]\nsamples = {start = 3, stop = 40, count = 38}\nseed = [0, 1, 2]\n'
                    '[sampling]\nchains = 2\ndraws = 40\nwarmup = 30\n[figures]\nformats = ["svg"]\n')
    process = subprocess.Popen([sys.executable, "-m", "fieldtheory.cli", "sweep", str(file), "--jobs", jobs],
                               stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    points = tmp_path / "sweep" / "points"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(points.glob("[0-9]*.json"))) < 3:
        time.sleep(0.02)
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    children = [Path("/proc", pid) for pid in listed.read_text().split()] if listed.is_file() else []
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while time.monotonic() < deadline and any(map(alive, children)):
        time.sleep(0.02)
    assert not any(map(alive, children))  # nobody goes on for a parent that is gone
    sweep = Sweep.load(file)
    found = Store(tmp_path / "sweep", sweep).read()  # whole, each of them
    assert 3 <= len(found) < 228
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


# ----------------------------------------------------------------------------------------------- figures, commands


def table_of_two_axes() -> xr.Dataset:
    rng = np.random.default_rng(0)
    dims, shape = ("samples", "noise_variance", "seed", "approximation"), (4, 3, 5, 2)
    values = rng.uniform(0.1, 1, shape)
    states = np.full(shape, "ok", dtype=object)
    values[0, 0, :, 1], states[0, 0, :, 1] = np.nan, "failed"
    values[1, 0, 2, 1], states[1, 0, 2, 1] = np.nan, "failed"
    return xr.Dataset(
        {"order_parameter": (dims, values), "state": (dims, states), "reason": (dims, states)},
        coords={"samples": [10, 20, 40, 80], "noise_variance": [0.1, 0.3, 1.0], "seed": range(5),
                "approximation": ["samples", "mean-field"]},
        attrs={"title": "t", "sampled": "samples", "axes": '{"samples": 0, "noise_variance": 0, "seed": 0}'})


def test_curves_show_means_over_seeds_with_their_errors() -> None:
    table = table_of_two_axes()
    figure = drawn.curve(table, "order_parameter", "samples")
    assert [ax.get_title(loc="left")[-3:] for ax in figure.axes] == ["0.1", "0.3", "= 1"]
    theory = next(c for c in figure.axes[0].containers if c.get_label() == "mean-field")
    points, _, (bars,) = theory.lines
    assert points.get_xdata().tolist() == [20, 40, 80]  # nothing where nothing is
    values = table.order_parameter.sel(noise_variance=0.1, approximation="mean-field")
    assert points.get_ydata() == pytest.approx(values.mean("seed").values[1:])
    half = [np.ptp(path.vertices[:, 1]) / 2 for path in bars.get_paths()]
    assert half[1:] == pytest.approx((values.std("seed", ddof=1) / np.sqrt(5)).values[2:])
    assert half[0] == pytest.approx(float(values[1].std("seed", ddof=1)) / np.sqrt(4))
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[10]]
    opened = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [line.get_xdata().tolist() for line in opened] == [[20]]
    assert figure.axes[0].get_xscale() == "log"


def test_maps_have_a_panel_for_each_approximation() -> None:
    table = table_of_two_axes()
    figure = drawn.phase_map(table, "order_parameter", "samples", "noise_variance")
    panels = figure.axes[:2]
    assert [ax.get_title(loc="left") for ax in panels] == ["samples", "mean-field"]
    mesh = panels[1].collections[0]
    shown = np.ma.asarray(mesh.get_array()).reshape(3, 4)
    mean = table.order_parameter.sel(approximation="mean-field").mean("seed").values.T
    assert shown.mask.sum() == 1 and shown.mask[0, 0]
    assert np.ma.allclose(shown, np.ma.masked_invalid(mean))
    names = [name for name, _ in drawn.sweep_figures(table, ["order_parameter", "test_error"])]
    assert names == ["order-parameter-against-samples", "order-parameter-against-noise-variance",
                     "order-parameter-over-samples-and-noise-variance"]  # fmt: skip


def test_the_command_writes_results_and_figures(tmp_path: Path) -> None:
    file = tmp_path / "learning.toml"
    file.write_text('title = "a title"\ntheories = ["exact"]\n[task]\nname = "ising"\ninput_dim = 6\ntest_samples = 5\n'
                    '[network]\nwidth = 8\nnoise_variance = 0.1\n[axes]\nsamples = [4, 8]\nseed = [0, 1]\n'
                    '[figures]\nformats = ["svg"]\nquantities = ["test_error"]\n')
    result = command("sweep", file)
    assert result.exit_code == 0, result.stderr
    assert "a title" in result.stdout and "test error" in result.stdout and "±" in result.stdout
    folder = tmp_path / "learning"
    names = {path.name for path in folder.iterdir()}
    assert names == {"settings.json", "points", "results.nc", "test-error-against-samples.svg"}
    assert len(list((folder / "points").iterdir())) == 4
    with xr.open_dataset(folder / "results.nc", engine="h5netcdf") as table:
        assert table.attrs["title"] == "a title" and "numpy" in table.attrs["versions"]
        assert json.loads(table.attrs["network"]) == {"width": 8, "noise_variance": 0.1}
        the_same(table.load(), run_sweep(Sweep.load(file)))
    found = json.loads(command("sweep", file, "--json", "--out", folder).stdout)
    assert len(found["results"]) == 4 and found["results"][0]["state"] == "ok"


@pytest.mark.parametrize(("arguments", "words"), [
    ([], ["THEORY|FILE.toml", "--example"]),
    (["none.toml"], ["none.toml", "existing .toml", "--example"]),
    (["broken.toml"], ["broken.toml", "Invalid value", "valid TOML"]),
    (["fine.toml", "--widths", "3"], ["--widths", "fine.toml"]),
    (["fine.toml", "--jobs", "0"], ["--jobs", "0", ">= 1"]),
    (["fine.toml", "--out", "fine.toml"], ["--out", "folder"]),
    (["nngp", "--jobs", "2"], ["--jobs", ".toml"]),
])  # fmt: skip
def test_bad_arguments_are_one_line(arguments: list[str], words: list[str], tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.toml").write_text("theories = [")
    Path("fine.toml").write_text('theories = ["exact"]\n[task]\nname = "ising"\n[network]\nwidth = 8\n'
                                 "noise_variance = 1.0\n")
    result = command("sweep", *arguments)
    assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    (tmp_path / "learning.toml").write_text(EXAMPLE)
    result = command("sweep", tmp_path / "learning.toml", "--jobs", "2")
    assert result.exit_code == 0, result.stderr
    with xr.open_dataset(tmp_path / "learning" / "results.nc", engine="h5netcdf") as table:
        assert table.test_error.notnull().all()
        error = over_seeds(table, "test_error").sel(approximation="posterior", noise_variance=0.1)
        assert float(error["mean"].sel(samples=40)) < float(error["mean"].sel(samples=10)) / 3


# ------------------------------------------------------------------------------------------------------- studies


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_a_study_asks_for_what_there_is(study: Path) -> None:
    sweep = Sweep.load(study)
    assert sweep.labels[0].startswith("posterior") and sweep.title
    assert f"fieldtheory sweep studies/{study.name} " in study.read_text(encoding="utf-8")
    covered = {"mean-field-ard", "collapsed-mean-field-ard"}
    ard = {str(sweep.network_at(point).has_ard) for point in sweep.points()}
    assert all(str(a.theory in covered) in ard for a in sweep.approximations)


def test_the_reference_data_are_those_of_the_generator() -> None:
    sweep = Sweep.load(next(study for study in STUDIES if study.stem == "learning-curve"))
    data = sweep.data_at({"samples": 50, "seed": 1003})
    X = np.random.default_rng(1003).choice([-1.0, 1.0], size=(50, 10))
    assert np.array_equal(data.X, X) and np.array_equal(data.y, X[:, 0] * X[:, 1]) and data.test_samples == 1024


@pytest.mark.slow
def test_the_learning_curve_at_its_first_point() -> None:
    """Against an independent program: .609 ± .050 and .649 ± .054 over the data sets; here chains on the same data."""
    (study,) = (study for study in STUDIES if study.stem == "learning-curve")
    given = tomllib.loads(study.read_text(encoding="utf-8"))
    given["axes"] = {"samples": [50], "seed": given["axes"]["seed"]}
    given["theories"] = [theory for theory in given["theories"] if theory["label"] in ("NNGP", "cMF")]
    table = run_sweep(Sweep.from_mapping(given))
    assert (table.state == "ok").all()
    found = over_seeds(table, "test_error").sel(samples=50)["mean"]
    mean = {str(label): float(found.sel(approximation=label)) for label in found.approximation.values}
    assert abs(mean["posterior"] - 0.609) < 0.01  # chains agree to .002, and so did those of the other program
    assert abs(mean["cMF"] - 0.649) < 0.04 and abs(mean["NNGP"] - 0.868) < 0.005
