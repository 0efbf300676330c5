"""Sweeps: what is computed at each point, and how it is drawn and printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from fieldtheory import exact
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput
from fieldtheory.export.sweep import EXAMPLE, Sweep, over_seeds, run_sweep
from fieldtheory.export.sweep import figures as drawn
from fieldtheory.export.sweep.measure import of_prediction, of_samples
from fieldtheory.export.sweep.settings import DEFAULT_OUTPUTS
from fieldtheory.export.sweep.table import reservations, rows
from fieldtheory.sampling.diagnostics import to_inference_data
from tests.sweeps import CHAINS, NET, asked, command, the_same

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
