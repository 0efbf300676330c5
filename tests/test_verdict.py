"""Verdicts: true predictions are kept, wrong ones rejected, and what cannot be told is not told.

The samples are drawn here from a known law (autocorrelated Gaussian outputs), so that no sampler and no theory
takes part.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import fieldtheory as ft
from fieldtheory.errors import BadInput
from fieldtheory.sampling.diagnostics import to_inference_data
from fieldtheory.verdict import Sampled, holm, validate

P, P_TEST = 6, 3
TARGET = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
MEAN = np.array([0.7, -0.4, 0.9, 0.5, -0.8, -0.3])
TEST_MEAN = np.array([0.2, -0.1, 0.6])
FACTOR = np.random.default_rng(5).normal(size=(P, P)) * 0.3
COVARIANCE = FACTOR @ FACTOR.T + 0.05 * np.eye(P)
OVERLAP, NORM = 2.0, 0.8


def draw(seed: int, chains: int = 4, draws: int = 1500, memory: float = 0.5, **shifts: Any) -> Any:
    """An AR(1) process with exactly these means and this covariance; a skewed law for the readout norm."""
    rng = np.random.default_rng(seed)

    def series(shape: tuple[int, ...]) -> np.ndarray:
        x = rng.normal(size=(chains, draws, *shape))
        for t in range(1, draws):
            x[:, t] = memory * x[:, t - 1] + np.sqrt(1 - memory**2) * x[:, t]
        return x

    root = np.linalg.cholesky(COVARIANCE)
    output = MEAN + series((P,)) @ root.T + shifts.get("chain_offset", np.zeros(chains))[:, None, None]
    posterior = {
        "output": (("sample",), output),
        "test_output": (("test",), TEST_MEAN + 0.4 * series((P_TEST,))),
        "readout_norm": ((), NORM * series(()) ** 2),
        "hidden_kernel_overlap": ((), OVERLAP + 0.5 * series(())),
    }
    attributes = {"width": 10, "method": "test", "dataset": "synthetic"}
    return to_inference_data(posterior, {"energy": output.sum(axis=-1)}, {"target": (("sample",), TARGET)}, attributes)


def prediction(**changes: Any) -> xr.Dataset:
    v = MEAN / np.linalg.norm(MEAN)
    values = {
        "mean_output": ("sample", MEAN), "test_output": ("test", TEST_MEAN),
        "variance_along_mean_output": v @ COVARIANCE @ v,
        "discrepancy_along_target": TARGET @ (TARGET - MEAN) / P,
        "hidden_kernel_overlap": OVERLAP, "readout_norm": NORM, "log_evidence": -1.0,
    }  # fmt: skip
    return xr.Dataset(values | changes, attrs={"theory": "truth", "status": "ok", "width": 10})


@pytest.fixture(scope="module")
def samples() -> Sampled:
    return Sampled(draw(0))


def test_the_truth_is_kept(samples: Sampled) -> None:
    verdict = validate(prediction(), samples)
    assert verdict.ok and verdict.status == "kept" and not verdict.rejected
    assert verdict.table.sizes["row"] == P + P_TEST + 5
    assert float(verdict.table.ess.min()) > 400
    assert {row.observable for row in verdict} == {
        "mean_output_along_itself", "variance_along_mean_output", "discrepancy_along_target", "hidden_kernel_overlap",
        "readout_norm", "mean_output", "test_output",
    }  # fmt: skip


TWINS = {
    "mean_output": {"mean_output": ("sample", 1.1 * MEAN)},
    "test_output": {"test_output": ("test", TEST_MEAN + np.array([0, 0.1, 0]))},
    "variance_along_mean_output": {"variance_along_mean_output": 0.8 * float(prediction().variance_along_mean_output)},
    "hidden_kernel_overlap": {"hidden_kernel_overlap": 1.05 * OVERLAP},
    "readout_norm": {"readout_norm": 1.25 * NORM},
    "discrepancy_along_target": {"discrepancy_along_target": 0.5},
}


@pytest.mark.parametrize("name", TWINS)
def test_a_wrong_twin_is_rejected_by_name(samples: Sampled, name: str) -> None:
    verdict = validate(prediction(**TWINS[name]), samples)
    assert not verdict.ok and verdict.status == "rejected"
    assert name in verdict.rejected
    assert verdict.worst is not None and verdict.worst.p_adjusted < 0.01


def test_a_tenth_off_along_the_mean_is_seen_best_along_the_mean(samples: Sampled) -> None:
    verdict = validate(prediction(mean_output=("sample", 1.1 * MEAN)), samples)
    assert verdict.worst is not None and verdict.worst.observable == "mean_output_along_itself"


def test_false_rejections_are_as_rare_as_the_level_says() -> None:
    # 60 sets of samples at level 0.1: more than 15 rejections have probability 3e-4 if each has 0.1
    # (correlated rows and Holm make it rarer still), and none at all would mean a test without power.
    statuses = [validate(prediction(), draw(seed, draws=500, memory=0.0), level=0.1).status for seed in range(60)]
    assert statuses.count("undecided") == 0
    assert statuses.count("rejected") <= 15


def test_a_prediction_with_errors_of_its_own() -> None:
    """Averages of four ensembles, whose noise exceeds that of the chains: kept as the level says.

    Whoever leaves their errors out rejects nearly always; and with them a wrong theory is still rejected.
    """
    rejections = {"with errors": 0, "without": 0, "wrong": 0}
    for seed in range(40):
        ensembles = MEAN + 0.2 * np.random.default_rng(seed).normal(size=(4, P))
        mean, error = ensembles.mean(axis=0), ensembles.std(axis=0, ddof=1) / 2
        given = {"mean_output": ("sample", mean), "mean_output_mcse": ("sample", error)}
        v = mean / np.linalg.norm(mean)  # what else is predicted is exact here
        noisy = prediction(**given, variance_along_mean_output=v @ COVARIANCE @ v).assign_attrs(ensembles=4)
        sampled = Sampled(draw(seed, draws=500, memory=0.0))
        cases = {"with errors": noisy, "without": noisy.drop_vars("mean_output_mcse"),
                 "wrong": noisy.assign(mean_output=-noisy.mean_output)}
        for name, one in cases.items():
            verdict = validate(one, sampled, level=0.1)
            assert verdict.status != "undecided"
            rejections[name] += verdict.status == "rejected"
            assert ("±" in str(verdict)) == (name != "without")
    assert rejections["with errors"] <= 12 and rejections["without"] > 33 and rejections["wrong"] > 33


def test_detectable_is_detected_with_the_stated_power() -> None:
    """Each z is moved by exactly the stated effect: four in five must then be significant."""
    seen = []
    for seed in range(40):
        table = validate(prediction(), draw(100 + seed, draws=500, memory=0.0)).table
        count = table.sizes["row"]
        moved = np.abs(table.sampled + table.detectable - table.predicted) / table.mcse
        from scipy.special import ndtri

        seen.append(float((moved > ndtri(1 - 0.01 / (2 * count))).mean()))
    assert 0.75 < np.mean(seen) < 0.85


def test_few_effective_samples_decide_nothing() -> None:
    few = draw(1, chains=2, draws=200, memory=0.9)
    for changes in ({}, {"mean_output": ("sample", 3 * MEAN)}):
        verdict = validate(prediction(**changes), few)
        assert verdict.status == "undecided" and not verdict.ok
        assert "too few effective samples" in verdict.reason and "undecided" in str(verdict)
    ungated = validate(prediction(mean_output=("sample", 3 * MEAN)), few, minimum_ess=1, maximum_rhat=9)
    assert ungated.status == "rejected"


def test_chains_that_disagree_decide_nothing() -> None:
    apart = draw(2, chain_offset=np.array([-0.4, 0.0, 0.0, 0.4]))
    verdict = validate(prediction(), apart, minimum_ess=1)
    assert verdict.status == "undecided" and "R-hat" in verdict.reason


def test_a_theory_without_a_root_is_not_rejected(samples: Sampled) -> None:
    lost = prediction(mean_output=("sample", np.full(P, np.nan))).assign_attrs(status="no root")
    verdict = validate(lost, samples)
    assert verdict.status == "undecided" and "no root" in verdict.reason


def test_zero_labels_and_a_zero_mean_leave_out_what_has_no_direction() -> None:
    raw = draw(3)
    output = raw["posterior"]["output"].values - MEAN
    at_zero = {
        "posterior": xr.Dataset({"output": (("chain", "draw", "sample"), output)}),
        "observed_data": xr.Dataset({"target": ("sample", np.zeros(P))}),
    }
    nothing = prediction(mean_output=("sample", np.zeros(P)), variance_along_mean_output=np.nan,
                         discrepancy_along_target=np.nan, hidden_kernel_overlap=np.nan)  # fmt: skip
    verdict = validate(nothing, at_zero)
    assert verdict.ok and set(verdict.table.observable.values) == {"mean_output"}


def test_what_the_two_say_of_themselves_is_compared(samples: Sampled) -> None:
    verdict = validate(prediction().assign_attrs(width=20), samples)
    assert any("width = 20" in note for note in verdict.notes) and "width = 20" in str(verdict)
    net = ft.Network(width=2, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0, bias_variance=0.5)
    data = ft.tasks.ising(3, 2, seed=0)
    drawn = ft.sample(net.replace(prior=ft.ARD(2)), data, method="ula", chains=2, draws=10, warmup=30, seed=0)
    notes = validate(ft.exact.linear(net.replace(bias_variance=0), data), drawn).notes
    assert sum("bias_variance = 0.0, the samples for 0.5" in note or "prior = gaussian" in note for note in notes) == 2
    assert "without accept test" in notes[-1]


def test_a_data_tree_will_do() -> None:
    old = draw(0)
    groups = {f"/{name}": xr.Dataset(dict(old[name].data_vars)) for name in ("posterior", "observed_data")}
    xr.testing.assert_identical(validate(prediction(), xr.DataTree.from_dict(groups)).table,
                                validate(prediction(), old).table)  # fmt: skip


def test_it_prints_everywhere(samples: Sampled) -> None:
    verdict = validate(prediction(), samples)
    assert "kept" in str(verdict) and "variance of f along" in str(verdict)
    assert verdict._repr_html_().count("<tr>") == 8
    with pytest.raises(AttributeError):
        verdict.status = "rejected"  # type: ignore[misc]


def test_it_draws_itself(samples: Sampled) -> None:
    figure = validate(prediction(), samples).plot()
    assert figure.axes[0].get_title(loc="left") == "truth: kept"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prediction": prediction().isel(sample=slice(0, 3))}, "prediction"),
        ({"prediction": {"mean_output": MEAN}}, "prediction"),
        ({"prediction": prediction().drop_vars("mean_output")}, "prediction"),
        ({"samples": 3}, "samples"),
        ({"samples": SimpleNamespace()}, "samples"),
        ({"level": 0.0}, "level"),
        ({"level": 1.5}, "level"),
    ],
)
def test_bad_input_is_named(samples: Sampled, arguments: dict[str, Any], named: str) -> None:
    given = {"prediction": prediction(), "samples": samples, "level": 0.01} | arguments
    with pytest.raises(BadInput) as raised:
        validate(given["prediction"], given["samples"], level=given["level"])
    assert raised.value.argument == named


@given(npst.arrays(float, st.integers(1, 12), elements=st.floats(0, 1)), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: np.ndarray, level: float) -> None:
    order, rejected = np.argsort(p, kind="stable"), np.zeros(len(p), bool)
    for rank, k in enumerate(order):
        if (len(p) - rank) * p[k] >= level:
            break
        rejected[k] = True
    adjusted = holm(p)
    assert np.array_equal(adjusted < level, rejected)
    assert np.all(adjusted >= p) and np.all(adjusted <= 1)


def test_holm_passes_over_nan() -> None:
    assert np.allclose(holm(np.array([0.01, np.nan, 0.04])), [0.02, np.nan, 0.04], equal_nan=True)
