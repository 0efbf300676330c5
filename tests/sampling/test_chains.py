"""Seeds, threads, interruption and bad input; the layout of what comes out."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import xarray as xr

from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, NotConverged, UnknownName
from fieldtheory.network import Network
from fieldtheory.sampling import Bound, run, sample, summarise
from fieldtheory.tasks import ising
from tests.sampling.test_methods import coordinates, well

NET = Network(width=4, readout_variance=1.0, weight_variance=1.0, noise_variance=0.5)
DATA = ising(5, 3, seed=1, test_samples=2)
FEW = dict(chains=3, draws=40, warmup=30)


def outputs(samples) -> np.ndarray:
    return samples["posterior"]["output"].values


@pytest.mark.parametrize("activation, method", [("identity", "hmc"), ("erf", "mala"), ("relu", "ula")])
def test_a_seed_fixes_every_bit(activation, method):
    net = NET.replace(activation=activation)
    calls = []
    first = sample(net, DATA, method=method, seed=7, threads=1, **FEW)
    again = sample(net, DATA, method=method, seed=7, threads=3, **FEW, progress=lambda *done: calls.append(done))
    other = sample(net, DATA, method=method, seed=8, **FEW)
    for group in ("posterior", "sample_stats"):
        for name in first[group].data_vars:
            assert np.array_equal(first[group][name], again[group][name]), name
    assert not np.array_equal(outputs(first), outputs(other))
    assert calls[-1] == (3 * 70, 3 * 70)
    # a chain does not depend on how many others there are, and no two are alike
    alone = outputs(sample(net, DATA, method=method, seed=7, **{**FEW, "chains": 1}))
    assert np.array_equal(alone[0], outputs(first)[0])
    assert not np.array_equal(outputs(first)[0], outputs(first)[1])


def test_cutting_a_run_into_calls_does_not_change_it(monkeypatch):
    whole = outputs(sample(NET, DATA, method="hmc", seed=3, **FEW))
    monkeypatch.setattr("fieldtheory.sampling.chain._CALL_SECONDS", 1e-9)
    assert np.array_equal(outputs(sample(NET, DATA, method="hmc", seed=3, **FEW)), whole)


def test_thinning_keeps_one_in_so_many():
    options = dict(method="mala", step=0.3, warmup=0, chains=2, seed=1)
    every = outputs(sample(NET, DATA, draws=30, **options))
    assert np.array_equal(every[:, 2::3], outputs(sample(NET, DATA, draws=10, thin=3, **options)))


def test_layout(tmp_path):
    u = np.array([[1.0, 0, 0], [0, 2.0, 0]])
    samples = sample(NET, DATA, method="hmc", directions=u, **FEW)
    posterior = samples["posterior"]
    assert {name: posterior[name].dims for name in posterior.data_vars} == {
        "output": ("chain", "draw", "sample"), "test_output": ("chain", "draw", "test"),
        "readout_norm": ("chain", "draw"), "hidden_kernel_overlap": ("chain", "draw"),
        "direction_overlap": ("chain", "draw", "direction")}
    assert dict(posterior.sizes) == {"chain": 3, "draw": 40, "sample": 5, "test": 2, "direction": 2}
    assert {"acceptance_rate", "energy", "step_size", "diverging"} <= set(samples["sample_stats"].data_vars)
    assert np.array_equal(samples["observed_data"]["target"], DATA.y)
    assert posterior.attrs["method"] == "hmc" and posterior.attrs["dataset"] == "ising"
    # it goes to disk and back
    samples.to_netcdf(str(tmp_path / "samples.nc"), engine="h5netcdf")
    with xr.open_dataset(tmp_path / "samples.nc", group="posterior", engine="h5netcdf") as back:
        assert np.array_equal(back["output"], posterior["output"])


def test_summary():
    summary = summarise(sample(NET, DATA, method="hmc", **{**FEW, "draws": 200}))
    assert summary["mean_output"].dims == ("statistic", "sample")
    assert set(summary.data_vars) == {"mean_output", "test_output", "variance_along_mean_output",
                                      "discrepancy_along_target", "readout_norm", "hidden_kernel_overlap"}
    assert summary.attrs["smallest_ess"] == min(float(summary[name].sel(statistic="ess").min()) for name in summary)
    assert bool((summary["mean_output"].sel(statistic="mcse") > 0).all())


def test_overlaps_along_given_directions_agree_with_the_target_s():
    """(1/N) sum (w.u)^2/u.u along u = X^T y is the hidden kernel's overlap times y.y/|X^T y|^2; also in the span."""
    for data in (DATA, ising(2, 7, seed=2)):
        u = data.X.T @ data.y
        posterior = sample(NET, data, method="hmc", directions=[u, 3 * u], **FEW)["posterior"]
        expected = posterior["hidden_kernel_overlap"] * (data.y @ data.y) / (u @ u)
        for k in range(2):
            np.testing.assert_allclose(posterior["direction_overlap"][:, :, k], expected, rtol=1e-10)


def test_targets_that_vanish_have_no_overlap():
    samples = sample(NET, Dataset(DATA.X, np.zeros(5)), method="hmc", **FEW)
    assert set(samples["posterior"].data_vars) == {"output", "readout_norm"}
    assert "hidden_kernel_overlap" not in summarise(samples)


def test_given_starts():
    rng = np.random.default_rng(0)
    for data in (DATA, ising(2, 7, seed=2)):
        a, w = rng.normal(size=4), rng.normal(size=(4, data.input_dim))
        options = dict(initial=(a, w), step=1e-9, warmup=0, chains=1, draws=1, method="hmc")
        np.testing.assert_allclose(outputs(sample(NET, data, **options))[0, 0], a @ w @ data.X.T, atol=1e-6)
    assert abs(outputs(sample(NET, DATA, **{**options, "initial": "zero"}))).max() < 1e-6


def test_an_interrupt_ends_the_chains_and_is_passed_on():
    def interrupt(done, total):
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        sample(NET, DATA, chains=4, draws=10**6, progress=interrupt)
    assert threading.active_count() == before


@pytest.mark.parametrize("method, words", [("ula", "left the finite numbers"), ("mala", "accepted")])
def test_a_step_that_cannot_work_is_named(method, words):
    with pytest.raises(BadInput, match=f"step: got 100.0.*{words}.*step"):
        sample(NET, DATA, method=method, step=100.0, **FEW)


def flat(position, gradient, bound):
    gradient[:] = 0.0
    return 0.0


def box(position, gradient, bound):
    gradient[0] = 0.0
    return 0.0 if abs(position[0]) < 1.0 else np.inf


@pytest.mark.parametrize("options", [dict(method="hmc"), dict(method="mala"), dict(method="ula"),
                                     dict(method="underdamped"), dict(method="hmc", step=0.1)], ids=str)
def test_a_constant_target_is_refused(options):
    energies, observe = [Bound.make(flat), Bound.make(box)], Bound.make(coordinates)
    with pytest.raises(BadInput, match="energy: got a constant"):
        run(lambda: energies[0], lambda: observe, 1, lambda rng: np.zeros(1), **options, **FEW)
    if options["method"] in ("hmc", "mala"):  # in a box it is a law, and a proposal beyond is refused
        uniform = run(lambda: energies[1], lambda: observe, 1, lambda rng: np.zeros(1), **{**FEW, **options})
        assert np.abs(uniform.rows).max() < 1.0


def test_a_step_too_small_to_move_is_refused():
    with pytest.raises(BadInput, match=r"step: got 1e-300.*never changed"):
        sample(NET, DATA, method="hmc", step=1e-300, **{**FEW, "warmup": 0})


def test_a_density_that_cannot_be_adapted_to():
    def needle(position, gradient, bound):
        gradient[0] = 0.0
        return 0.0 if position[0] == 0.0 else np.inf

    density, observe = Bound.make(needle), Bound.make(coordinates)
    with pytest.raises(NotConverged, match="shrank the step"):
        run(lambda: density, lambda: observe, 1, lambda rng: np.zeros(1), method="mala", **FEW)


def test_a_step_longer_than_the_trajectory_is_refused():
    with pytest.raises(BadInput, match=r"step: got 1\.5; expected at most 1, the length of a trajectory"):
        sample(NET, DATA, method="hmc", step=1.5, **FEW)


def test_a_start_without_a_finite_energy():
    bound, observe = Bound.make(well, constants=(1.0, np.inf, 1.0)), Bound.make(coordinates)
    with pytest.raises(BadInput, match="initial"):
        run(lambda: bound, lambda: observe, 1, lambda rng: np.zeros(1), **FEW)


@pytest.mark.parametrize("argument, value", [
    ("method", "nuts"), ("initial", "posterior"), ("initial", (np.zeros(3), np.zeros((4, 3)))), ("initial", 3),
    ("chains", 0), ("draws", 0), ("draws", 2.5), ("thin", 0), ("warmup", -1), ("warmup", 3), ("seed", -1),
    ("threads", 0), ("step", 0.0), ("step", np.nan), ("directions", np.zeros((1, 3))), ("directions", np.ones(3)),
])
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(BadInput, match=argument):
        sample(NET, DATA, **{**FEW, argument: value})


@pytest.mark.parametrize("change", [
    {"noise_variance": 0.0}, {"noise_variance": None}, {"weight_variance": None}, {"readout_variance": None},
    {"width": None}])
def test_networks_that_cannot_be_sampled(change):
    with pytest.raises(BadInput, match=next(iter(change))):
        sample(NET.replace(**change), DATA, **FEW)


def test_data_that_cannot_be_sampled():
    kernel = Dataset.from_kernel(np.eye(2), [1.0, -1.0], np.ones((1, 2)))
    with pytest.raises(BadInput, match="data"):
        sample(NET, kernel, **FEW)
    with pytest.raises(BadInput, match="data"):
        sample(NET.replace(input_dim=4), DATA, **FEW)
    with pytest.raises(UnknownName, match="method"):
        sample(NET, DATA, method="mela", **FEW)


def test_arrays_in_place_of_a_dataset_are_refused() -> None:
    with pytest.raises(BadInput, match=r"^data: got tuple; expected a Dataset"):
        sample(NET, (DATA.X, DATA.y), **FEW)
