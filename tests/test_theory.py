"""Predictions of the linear network, in both views and to every order, against the exact finite-width oracle."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group

import fieldtheory as ft
from fieldtheory.errors import BadInput, FieldTheoryError, NotConverged, RuleError, UnknownName
from fieldtheory.testing import datasets, networks
from tests.linear_theories import SCALINGS, UNIT, linear, relative_error

SCALARS = ("variance_along_mean_output", "discrepancy_along_target", "hidden_kernel_overlap", "readout_norm")
VIEWS = {"nngp": dict(name="nngp"), "tree": dict(view="adaptation", loops=0), "1PI": dict(view="adaptation", loops=1),
         "Q saddle": dict(view="rescaling", loops=0), "Q, 1 loop": dict(view="rescaling", loops=1),
         "Q, 2 loops": dict(view="rescaling", loops=2), "Q, 3 loops": dict(view="rescaling", loops=3)}
QUICK = ("tree", "Q saddle", "Q, 1 loop")


def draw(seed: int, samples: int, input_dim: int, test_samples: int = 0) -> ft.Dataset:
    rng = np.random.default_rng(seed)
    X, X_test = rng.standard_normal((samples, input_dim)), rng.standard_normal((test_samples, input_dim))
    y = np.sign(X @ rng.standard_normal(input_dim)) + 0.1 * rng.standard_normal(samples)
    return ft.Dataset(X, y, X_test if test_samples else None)


# ------------------------------------------------------------------------------------------- against the oracle

#: Relative errors allowed at N = 100, D = 80, P = 60: (mean output, scalars), three to five times what is measured.
ALLOWED = {
    ("standard", "nngp"): (0.15, 0.4), ("standard", "tree"): (0.3, 0.8), ("standard", "1PI"): (0.05, 0.3),
    ("standard", "Q saddle"): (1.5e-2, 0.2), ("standard", "Q, 1 loop"): (5e-5, 3e-3),
    ("standard", "Q, 2 loops"): (2e-6, 1e-4), ("standard", "Q, 3 loops"): (2e-8, 2e-6),
    ("mean-field", "tree"): (0.02, 0.15), ("mean-field", "1PI"): (3e-3, 2e-2),
    ("mean-field", "Q saddle"): (6e-4, 0.3), ("mean-field", "Q, 1 loop"): (5e-7, 1e-3),
    ("mean-field", "Q, 2 loops"): (5e-10, 1e-6), ("mean-field", "Q, 3 loops"): (5e-12, 1e-9),
}


@pytest.mark.parametrize("scaling, label", ALLOWED)
def test_every_observable_against_the_oracle(scaling: str, label: str) -> None:
    net = UNIT.replace(scaling=SCALINGS[scaling])
    data = ft.tasks.ising(60, 80, seed=1, test_samples=10)
    exact, found = ft.exact.linear(net, data), linear(net, **VIEWS[label]).predict(data)
    mean, scalar = ALLOWED[scaling, label]
    assert relative_error(found, exact) < mean
    assert relative_error(found, exact, "test_output") < 5 * mean
    for name in SCALARS:
        assert relative_error(found, exact, name) < scalar, name
    assert found.attrs["status"] == "ok" and found.attrs["residual"] < 1e-8


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("samples", [20, 60])
def test_every_loop_about_q_brings_every_observable_closer(scaling: str, samples: int) -> None:
    net = UNIT.replace(scaling=SCALINGS[scaling])
    data = ft.tasks.ising(samples, 80, seed=2, test_samples=10)
    exact = ft.exact.linear(net, data)
    for name in ("mean_output", "test_output", "log_evidence", *SCALARS):
        errors = [relative_error(linear(net, view="rescaling", loops=L).predict(data), exact, name) for L in range(4)]
        assert all(b < 0.2 * a or b < 1e-12 for a, b in pairwise(errors)), (name, errors)


def test_fixed_kernel_fails_under_mean_field_scaling() -> None:
    net = UNIT.replace(scaling=SCALINGS["mean-field"])
    data = ft.tasks.ising(60, 80, seed=1)
    exact, found = ft.exact.linear(net, data), linear(net, name="nngp").predict(data)
    assert relative_error(found, exact) > 0.25 and relative_error(found, exact, "hidden_kernel_overlap") > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_variance_along_the_output_needs_the_curvature_kernel(seed: int) -> None:
    """Within half a percent by C' = qK + (2/N) f fᵀ, over ten percent low by rescaling alone."""
    net = UNIT.replace(width=400, scaling=SCALINGS["mean-field"])
    data = ft.tasks.ising(20, 320, seed=seed)
    exact, *found = (float(values.variance_along_mean_output) for values in (
        ft.exact.linear(net, data),
        *(linear(net, **VIEWS[label]).predict(data) for label in ("tree", "Q saddle", "Q, 1 loop"))))
    curvature, rescaled, one_loop = (value / exact - 1 for value in found)
    assert abs(curvature) < 0.005 and -0.25 < rescaled < -0.10 and abs(one_loop) < 1e-3


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("samples, input_dim", [(30, 50), (50, 30)])
def test_matrices(scaling: str, samples: int, input_dim: int) -> None:
    net, outputs = UNIT.replace(scaling=SCALINGS[scaling]), ["output_covariance", "hidden_kernel"]
    data = draw(3, samples, input_dim)
    exact = ft.exact.linear(net, data, outputs=outputs)
    found = linear(net, view="rescaling", loops=3).predict(data, outputs=outputs)
    for name in outputs:
        assert found[name].dims == ("sample", "other_sample")
        assert relative_error(found, exact, name) < 1e-7, name


@pytest.mark.parametrize("label", VIEWS)
def test_scalars_are_the_quadratic_forms_of_the_matrices(label: str) -> None:
    net, data = UNIT.replace(scaling=SCALINGS["mean-field"], weight_variance=1.7), draw(4, 12, 8)
    outputs = ["mean_output", "output_covariance", "hidden_kernel", "variance_along_mean_output",
               "hidden_kernel_overlap"]
    found = linear(net, **VIEWS[label]).predict(data, outputs=outputs)
    C, H, f, y = (np.asarray(a) for a in (found.output_covariance, found.hidden_kernel, found.mean_output, data.y))
    assert f @ C @ f / (f @ f) == pytest.approx(float(found.variance_along_mean_output), rel=1e-9)
    assert y @ H @ y / (y @ y) == pytest.approx(float(found.hidden_kernel_overlap), rel=1e-9)
    assert np.linalg.eigvalsh(C).min() > -1e-12 and np.linalg.eigvalsh(H).min() > -1e-9 * np.trace(H)


# ----------------------------------------------------------------------------------------------- log evidence


def _differences(theory: ft.Theory, data: ft.Dataset) -> list[float]:
    """Central differences of the predicted ln Z in each hyperparameter."""
    net, slopes = theory.network, []
    for name in ("readout_variance", "weight_variance", "noise_variance"):
        h = 1e-4 * getattr(net, name)
        ends = []
        for shift in (h, -h):
            theory.network = net.replace(**{name: getattr(net, name) + shift})
            ends.append(float(theory.predict(data, outputs=["log_evidence"]).log_evidence))
        slopes.append((ends[0] - ends[1]) / (2 * h))
    return slopes


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("loops", [0, 1, 2])
def test_gradient_is_the_slope_of_the_log_evidence(scaling: str, loops: int) -> None:
    """∂ ln Z/∂θ = -⟨∂S/∂θ⟩ order by order: ln Z reaches one order further than averages of as many loops."""
    net = ft.Network(width=30, readout_variance=0.7, weight_variance=1.6, noise_variance=0.4, scaling=SCALINGS[scaling])
    data = draw(5, 10, 7)
    gradient = linear(net, view="rescaling", loops=loops + 1).predict(data, outputs=["log_evidence_gradient"])
    slopes = _differences(linear(net, view="rescaling", loops=loops), data)
    np.testing.assert_allclose(gradient.log_evidence_gradient, slopes, rtol=1e-5)


@pytest.mark.parametrize("label, tolerance", [("tree", 0.2), ("1PI", 0.1), ("Q saddle", 0.1), ("Q, 3 loops", 3e-5)])
def test_gradient_against_the_oracle(label: str, tolerance: float) -> None:
    net, data = UNIT.replace(noise_variance=0.4, scaling=SCALINGS["mean-field"]), draw(5, 6, 7)
    asked = dict(outputs=["log_evidence_gradient"])
    exact, found = (values.log_evidence_gradient for values in
                    (ft.exact.linear(net, data, **asked), linear(net, **VIEWS[label]).predict(data, **asked)))
    assert list(found.hyperparameter.values) == list(exact.hyperparameter.values)
    assert np.linalg.norm(found - exact) < tolerance * np.linalg.norm(exact)


def test_published_numbers_of_a_small_network() -> None:
    net = ft.Network(width=10, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1)
    data = ft.Dataset.from_kernel(np.diag([1.0, 2.0, 4.0]), [1.0, -1.0, 2.0])
    (saddle,) = linear(net, view="rescaling", loops=0).solutions(data)
    assert saddle.values["Q"] == pytest.approx(0.950558766408871, rel=1e-12)
    found = linear(net, view="rescaling", loops=3).predict(data)
    assert float(found.readout_norm) == pytest.approx(0.977997577944576, rel=2e-4)
    assert float(found.log_evidence) == pytest.approx(-5.15399575948249, abs=2e-4)


# --------------------------------------------------------------------------------------------- several saddles

THREE = ft.Dataset.from_kernel(np.diag([1.0] * 100 + [0.02]), [0.0] * 100 + [2.0])
THREE_NET = ft.Network(width=50, readout_variance=1.0, weight_variance=1.0, noise_variance=0.01)


def test_three_saddles_with_stability_and_weight() -> None:
    found = linear(THREE_NET, view="rescaling", loops=1).solutions(THREE)
    assert [s.values["Q"] for s in found] == pytest.approx([0.01559, 0.06225, 0.86636], rel=1e-3)
    assert [s.stability for s in found] == ["stable", "unstable", "stable"]
    assert [s.weight for s in found if s.stability == "unstable"] == [0.0]
    assert sum(s.weight or 0.0 for s in found) == pytest.approx(1.0)
    assert max(s.residual for s in found) < 1e-8


def test_the_dominant_saddle_is_the_one_predicted_from() -> None:
    theory = linear(THREE_NET, view="rescaling", loops=1)
    best = max(theory.solutions(THREE), key=lambda s: s.weight or 0.0)
    assert float(theory.predict(THREE).Q) == best.values["Q"]
    posterior = ft.exact.linear_posterior(THREE_NET, THREE)
    np.testing.assert_allclose(posterior.stationary_points, [s.values["Q"] for s in theory.solutions(THREE)], rtol=1e-9)


def test_branches_run_from_standard_to_mean_field_scaling() -> None:
    data = ft.tasks.ising(60, 80, seed=1)
    theory = linear(UNIT, view="rescaling", loops=0)
    found = theory.branches(data)
    chi, Q = found.chi.values, found.Q.values
    assert chi[0] == 1.0 and chi[-1] == pytest.approx(100.0)
    np.testing.assert_allclose(found.weight.sum("branch"), 1.0)
    assert np.abs(np.diff(np.log(Q), axis=0)).max() < 0.2
    for index, scaling in ((0, "standard"), (-1, "mean-field")):
        alone = linear(UNIT.replace(scaling=SCALINGS[scaling]), view="rescaling", loops=0).predict(data)
        assert Q[index, 0] == pytest.approx(float(alone.Q), rel=1e-9)
    assert (found.stability.values == 1).all()


def test_branches_are_born_in_pairs() -> None:
    """The three roots of one data set are one root on either side of two folds."""
    found = linear(THREE_NET, view="rescaling", loops=0).branches(THREE, values=np.geomspace(0.3, 3.0, 31))
    count = np.isfinite(found.Q.values).sum(axis=1)
    assert set(count) == {1, 3} and count[0] == 1 and count[-1] == 1
    np.testing.assert_allclose(found.weight.sum("branch"), 1.0)
    stable = np.nansum(found.stability.values, axis=1)
    assert (stable == 1).all()  # one more stable root than unstable ones, always


# ----------------------------------------------------------------------------------------- powers of the width

POINTS = {(1, 0, 0): True, (1, 0, 1): False, (2, 1, 0): True, (2, 1, 1): True}
"""Where tree level suffices, at (γ, δ, p): everywhere but at standard scaling with as many samples as neurons."""


def _at(point: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("gamma", "delta", "p"), point))


@pytest.mark.parametrize("point", POINTS)
def test_engine_reports_where_a_saddle_suffices(point: tuple[int, int, int]) -> None:
    tree = linear(view="adaptation", loops=0).power_counting().saddle_suffices(**_at(point))
    assert tree.suffices == POINTS[point] and tree.correction == "trace"
    assert linear(view="rescaling", loops=0).power_counting().saddle_suffices(**_at(point)).suffices


@pytest.mark.parametrize("point", POINTS)
def test_trace_leads_the_equation_of_state_only_where_tree_level_fails(point: tuple[int, int, int]) -> None:
    counting = linear(view="rescaling", loops=0).power_counting(of="equation")
    (trace,) = [label for label in counting.chambers[0].contributions if "y" not in label and "lambda" in label]
    (leading,) = counting.leading(**_at(point))
    assert (trace in leading) == (not POINTS[point])


@pytest.mark.parametrize("scaling", SCALINGS)
def test_tree_error_falls_as_one_over_width_at_fixed_samples(scaling: str) -> None:
    errors = {label: [] for label in ("tree", "1PI")}
    for N in (100, 400):
        net, data = UNIT.replace(width=N, scaling=SCALINGS[scaling]), ft.tasks.ising(20, int(0.8 * N), seed=1)
        exact = ft.exact.linear(net, data)
        for label, found in errors.items():
            found.append(relative_error(linear(net, **VIEWS[label]).predict(data), exact))
    slopes = {label: np.log(found[0] / found[1]) / np.log(4) for label, found in errors.items()}
    assert slopes["tree"] == pytest.approx(1, abs=0.2) and slopes["1PI"] == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("scaling, exponent", [("standard", 0.0), ("mean-field", 0.5)])
def test_tree_error_with_as_many_samples_as_neurons(scaling: str, exponent: float) -> None:
    """The order parameter errs as counted: N⁰ where the trace leads, N^-1/2 where it is suppressed (p = 1)."""
    slope = _slope_of_tree(scaling, (100, 400))
    counted = linear(view="adaptation", loops=0).power_counting().saddle_suffices(
        gamma=SCALINGS[scaling].readout, delta=SCALINGS[scaling].noise, p=1).relative_order
    assert -float(counted) == exponent
    assert slope == pytest.approx(exponent, abs=0.15)


def _slope_of_tree(scaling: str, widths: tuple[int, int]) -> float:
    errors = []
    for N in widths:
        net, data = UNIT.replace(width=N, scaling=SCALINGS[scaling]), ft.tasks.ising(int(0.6 * N), int(0.8 * N), seed=1)
        found = linear(net, **VIEWS["tree"]).predict(data)
        errors.append(relative_error(found, ft.exact.linear(net, data), "readout_norm"))
    return float(np.log(errors[0] / errors[1]) / np.log(widths[1] / widths[0]))


# ------------------------------------------------------------------------------------------------- symmetries


@settings(max_examples=15)
@given(networks(), datasets())
@pytest.mark.parametrize("label", QUICK)
def test_flipping_the_labels_flips_the_outputs_and_nothing_else(label: str, net: ft.Network, data: ft.Dataset) -> None:
    theory = linear(net, **VIEWS[label])
    flipped = ft.Dataset(data.X, -data.y, data.X_test)
    one, other = theory.predict(data), theory.predict(flipped)
    for name in one.data_vars:
        sign = -1 if name in ("mean_output", "test_output") else 1
        np.testing.assert_allclose(other[name], sign * one[name], rtol=1e-9, atol=1e-12, err_msg=str(name))


@settings(max_examples=15)
@given(networks(), datasets(), st.integers(0, 1000))
@pytest.mark.parametrize("label", QUICK)
def test_rotating_the_samples_rotates_the_outputs(label: str, net: ft.Network, data: ft.Dataset, seed: int) -> None:
    """(X, y) → (RX, Ry) with R orthogonal, permutations among them."""
    rng = np.random.default_rng(seed)
    P = data.samples
    R = np.eye(P)[rng.permutation(P)] if seed % 2 or P == 1 else special_ortho_group.rvs(P, random_state=rng)
    theory = linear(net, **VIEWS[label])
    one, other = theory.predict(data), theory.predict(ft.Dataset(R @ data.X, R @ data.y, data.X_test))
    scale = float(np.abs(data.y).max())
    np.testing.assert_allclose(other.mean_output, R @ one.mean_output.values, rtol=1e-6, atol=1e-7 * scale)
    for name in set(one.data_vars) - {"mean_output"}:
        np.testing.assert_allclose(other[name], one[name], rtol=1e-6, atol=1e-7 * scale, err_msg=str(name))


@settings(max_examples=15)
@given(networks(), datasets(), st.sampled_from([0.25, 4.0]))
def test_only_the_product_of_prior_variances_matters(net: ft.Network, data: ft.Dataset, factor: float) -> None:
    """f is unchanged by a → a/√c, w → √c w."""
    moved = net.replace(readout_variance=net.readout_variance / factor, weight_variance=net.weight_variance * factor)
    one, other = (linear(either, **VIEWS["Q, 1 loop"]).predict(data) for either in (net, moved))
    np.testing.assert_allclose(other.mean_output, one.mean_output, rtol=1e-7, atol=1e-9)
    assert float(other.log_evidence) == pytest.approx(float(one.log_evidence), rel=1e-9, abs=1e-9)
    assert float(other.readout_norm) == pytest.approx(float(one.readout_norm) / factor, rel=1e-7)


@settings(max_examples=20)
@given(networks(), datasets())
def test_every_network_and_data_set_is_predicted(net: ft.Network, data: ft.Dataset) -> None:
    """Any width from 1, any scaling, more samples than dimensions or fewer: finite, and about right."""
    exact, found = ft.exact.linear(net, data), linear(net, **VIEWS["Q, 1 loop"]).predict(data)
    assert all(np.isfinite(found[name]).all() for name in found.data_vars)
    assert set(exact.data_vars) <= set(found.data_vars)
    assert np.linalg.norm(found.mean_output - exact.mean_output) <= 0.5 * np.linalg.norm(exact.mean_output) + 1e-9


# ----------------------------------------------------------------------------------------------- corner cases


@pytest.mark.parametrize("label", VIEWS)
def test_a_kernel_alone_predicts_as_the_inputs_do(label: str) -> None:
    data = draw(6, 6, 4, test_samples=3)
    kernel = ft.Dataset.from_kernel(data.kernel(1.0), data.y, data.test_kernel(1.0))
    theory = linear(UNIT.replace(weight_variance=1.3), **VIEWS[label])
    outputs = ["mean_output", "test_output", "output_covariance", "hidden_kernel", "log_evidence"]
    one, other = theory.predict(data, outputs=outputs), theory.predict(kernel, outputs=outputs)
    for name in outputs:
        np.testing.assert_allclose(other[name], one[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("label", VIEWS)
def test_without_noise_the_outputs_interpolate(label: str) -> None:
    net, data = UNIT.replace(noise_variance=0), draw(7, 5, 8, test_samples=2)
    exact, found = ft.exact.linear(net, data), linear(net, **VIEWS[label]).predict(data)
    np.testing.assert_allclose(found.mean_output, data.y, rtol=1e-9)
    np.testing.assert_allclose(found.test_output, exact.test_output, rtol=1e-7)  # fixed by K alone
    assert float(found.discrepancy_along_target) == 0 and float(found.variance_along_mean_output) == 0


@pytest.mark.parametrize("label", VIEWS)
def test_without_noise_a_singular_kernel_is_refused(label: str) -> None:
    with pytest.raises(BadInput, match="noise_variance"):
        linear(UNIT.replace(noise_variance=0), **VIEWS[label]).predict(draw(7, 8, 5))


@pytest.mark.parametrize("width", [1, 2, 3, 10])
def test_narrow_networks(width: int) -> None:
    data = draw(8, 6, 4, test_samples=2)
    net = UNIT.replace(width=width, noise_variance=0.5)
    exact, found = ft.exact.linear(net, data), linear(net, **VIEWS["Q, 2 loops"]).predict(data)
    assert relative_error(found, exact) < 0.1 / width
    assert all(np.isfinite(linear(net, **VIEWS[label]).predict(data).mean_output).all()
               for label in ("nngp", "tree", "Q saddle"))


def test_the_effective_action_says_where_it_has_no_root() -> None:
    with pytest.raises(NotConverged) as caught:
        linear(UNIT.replace(width=1, noise_variance=0.1), **VIEWS["1PI"]).predict(draw(8, 6, 4))
    assert np.isfinite(caught.value.residual)


@pytest.mark.parametrize("targets", ["one sample", "constant", "zero", "inputs zero"])
@pytest.mark.parametrize("label", VIEWS)
def test_degenerate_data(label: str, targets: str) -> None:
    data = draw(9, 6, 4, test_samples=2)
    X, y = data.X, data.y
    X, y = {"one sample": (X[:1], y[:1]), "constant": (X, 0 * y + 1), "zero": (X, 0 * y),
            "inputs zero": (0 * X, y)}[targets]
    data = ft.Dataset(X, y, data.X_test)
    net = UNIT.replace(width=300)
    exact, found = ft.exact.linear(net, data), linear(net, **VIEWS[label]).predict(data)
    # An L-loop average errs as N^-(L+1); on such data the constant is of order one (measured 0.3 to 1.0).
    error = float(np.linalg.norm(found.mean_output - exact.mean_output))
    allowed = 3 * 300.0**-(VIEWS[label].get("loops", 0) + 1)
    assert error <= allowed * float(np.linalg.norm(exact.mean_output)) + 1e-13
    if targets in ("zero", "inputs zero"):
        assert not found.mean_output.any() and not found.test_output.any()


def test_a_prediction_in_float64_at_large_width() -> None:
    net, data = UNIT.replace(width=10**6), draw(10, 20, 30)
    exact = ft.exact.linear(net, data)
    for label in ("nngp", "tree", "1PI", "Q saddle", "Q, 3 loops"):
        assert relative_error(linear(net, **VIEWS[label]).predict(data), exact) < 1e-4, label
    assert relative_error(linear(net, **VIEWS["Q, 3 loops"]).predict(data), exact) < 1e-10


# ------------------------------------------------------------------------------------------------- bad input


def test_width_may_be_given_late() -> None:
    data = draw(11, 5, 4)
    late = linear(UNIT.replace(width=None), **VIEWS["Q saddle"]).predict(data, width=37)
    early = linear(UNIT.replace(width=37), **VIEWS["Q saddle"]).predict(data)
    assert late.identical(early) and late.attrs["width"] == 37
    assert linear(**VIEWS["Q saddle"]).predict(data, width=37).identical(early)


@pytest.mark.parametrize("missing", ["width", "readout_variance", "weight_variance", "noise_variance"])
@pytest.mark.parametrize("label", QUICK)
def test_a_missing_number_is_named(label: str, missing: str) -> None:
    with pytest.raises(BadInput, match=missing):
        linear(UNIT.replace(**{missing: None}), **VIEWS[label]).predict(draw(11, 5, 4))


@pytest.mark.parametrize("missing", ["readout", "noise"])
def test_a_missing_exponent_is_named(missing: str) -> None:
    scaling = ft.Scaling(**{"readout": 1, "noise": 0} | {missing: None})
    with pytest.raises(BadInput, match=f"scaling.{missing}"):
        linear(UNIT.replace(scaling=scaling), **VIEWS["Q saddle"]).predict(draw(11, 5, 4))


def test_unknown_names_come_with_the_nearest() -> None:
    theory, data = linear(**VIEWS["Q saddle"]), draw(11, 5, 4)
    for call, hint in ((lambda: ft.theories["liner"], "linear"),
                       (lambda: ft.theories["linear"](UNIT, view="rescalng"), "rescaling"),
                       (lambda: theory.predict(data, outputs=["mean_outptu"]), "mean_output"),
                       (lambda: theory.branches(data, along="chy"), "chi"),
                       (lambda: theory.power_counting(of="equations"), "equation")):
        with pytest.raises(UnknownName) as caught:
            call()
        assert caught.value.suggestion == hint


@pytest.mark.parametrize("options", [dict(view="rescaling", loops=-1), dict(view="rescaling", loops=0.5),
                                     dict(view="adaptation", loops=2), dict(view="adaptation", loops=-1)])
def test_loops_that_do_not_exist_are_refused(options: dict) -> None:
    with pytest.raises(BadInput, match="loops"):
        ft.theories["linear"](UNIT, **options)


@pytest.mark.parametrize("values", [[0.0, 1.0], [-1.0], [], [[1.0, 2.0]]])
def test_branches_need_positive_values(values: list) -> None:
    with pytest.raises(BadInput, match="values"):
        linear(**VIEWS["Q saddle"]).branches(draw(11, 5, 4), values=values)


@pytest.mark.parametrize("label", ["nngp", "tree"])
def test_branches_need_one_unknown_with_an_action(label: str) -> None:
    with pytest.raises(RuleError, match="branches"):
        linear(**VIEWS[label]).branches(draw(11, 5, 4))


@pytest.mark.parametrize("width", [0, -3, 1.5, True])
def test_widths_that_are_none_are_refused(width: object) -> None:
    with pytest.raises(BadInput, match="width"):
        linear(**VIEWS["Q saddle"]).predict(draw(11, 5, 4), width=width)  # type: ignore[arg-type]


def test_every_exception_is_one_of_ours() -> None:
    with pytest.raises(FieldTheoryError):
        linear(name="nngp").power_counting()


# ----------------------------------------------------------------------------------------------- presentation


def test_the_catalogue() -> None:
    assert {"linear", "nngp"} <= set(ft.theories) and len(ft.theories) == len(list(ft.theories))
    assert all(ft.theories.describe().values())


@pytest.mark.parametrize("label", VIEWS)
def test_equations_and_kernel_are_shown(label: str) -> None:
    theory = linear(**VIEWS[label])
    assert len(theory.equations) >= len(theory.closure.state.unknowns)
    assert "def " in theory.kernel.source
    assert len(theory.derivation.steps) >= 6
    prediction = theory.predict(draw(12, 5, 4))
    assert {"theory", "status", "residual", "remainder", "width", "scaling"} <= set(prediction.attrs)
    for unknown in theory.closure.state.unknowns:
        assert unknown.name in prediction


def test_only_what_is_asked_for_is_returned() -> None:
    found = linear(**VIEWS["Q saddle"]).predict(draw(12, 5, 4), outputs=["readout_norm"])
    assert set(found.data_vars) == {"readout_norm", "Q"}


@pytest.mark.parametrize(("activation", "orders", "said"), [
    ("relu", {3: 1.0}, "cannot see the target"), ("relu", {1: 1.0, 3: 0.5}, "cannot see all of the target"),
    ("relu", {2: 1.0}, None), ("erf", {2: 1.0}, "no even part"), ("erf", {3: 1.0}, None)])
def test_what_an_activation_cannot_see_of_a_known_target_is_said(activation: str, orders: dict[int, float],
                                                                 said: str | None, tmp_path: Path) -> None:
    """By rule, before any number, for every theory; a file keeps the orders, and a bias breaks the symmetry."""
    net = ft.Network(activation=activation, width=20, readout_variance=1.0, weight_variance=1.0, noise_variance=0.5)
    data = ft.tasks.single_index(12, 5, orders, seed=3)
    for kept in (data, ft.Dataset.load(data.save(tmp_path / "kept.npz"))):
        status = ft.theories["nngp"](net).predict(kept).status
        assert (said in status) if said else ("cannot see" not in status)
    biased = net.replace(bias_variance=0.3)
    assert "cannot see" not in ft.theories["nngp"](biased).predict(data).status
