"""The exact oracle against brute force, Fourier, reference numbers, exact identities and invariances."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory import tasks
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, NotConverged, UnknownName
from fieldtheory.exact import QPosterior, linear, linear_posterior
from fieldtheory.network import ARD, Network, Scaling
from tests.oracles.linear_quadrature import by_fourier, by_weights

ALL = ("output_covariance", "hidden_kernel", "log_evidence_gradient")
STANDARD = Network(width=40, readout_variance=1.3, weight_variance=0.7, noise_variance=0.4)
MEAN_FIELD = STANDARD.replace(scaling=Scaling.mean_field())


def gaussian_data(P: int, D: int, seed: int, P_test: int = 2) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset(rng.normal(size=(P, D)), rng.normal(size=P), rng.normal(size=(P_test, D)))


def close(a: object, b: object, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), tolerance, tolerance)


# --------------------------------------------------------------------------- numbers and brute force


def test_biases_on_a_grid() -> None:
    """One neuron, f = a (w.x + b): the trapezoidal rule over a, w and b themselves."""
    net = Network(width=1, readout_variance=0.8, weight_variance=1.2, noise_variance=4, bias_variance=0.9)
    data = gaussian_data(2, 1, seed=3)
    t = np.linspace(-8, 8, 120)
    a, w, b = (math.sqrt(v) * t for v in (0.8, 1.2, 0.9))
    density = np.exp(-(t**2) / 2) / np.exp(-(t**2) / 2).sum()
    h, h_test = ((w[:, None, None] * X[:, 0] + b[:, None]) for X in (data.X, data.X_test))
    f, f_test = a[:, None, None, None] * h, a[:, None, None, None] * h_test
    p = np.einsum("i,j,k->ijk", density, density, density)
    p *= np.exp(-((f - data.y) ** 2).sum(axis=-1) / 8) / (8 * math.pi)
    got = linear(net, data, outputs=("output_covariance", "hidden_kernel"))
    Z = p.sum()
    close(got.log_evidence, math.log(Z))
    mean = np.einsum("ijk,ijkm->m", p, f) / Z
    close(got.mean_output, mean)
    close(got.test_output, np.einsum("ijk,ijkm->m", p, f_test) / Z)
    close(got.output_covariance, np.einsum("ijk,ijkm,ijkn->mn", p, f, f) / Z - np.outer(mean, mean))
    close(got.hidden_kernel, np.einsum("ijk,jkm,jkn->mn", p, h, h) / Z)


def test_biases_are_one_more_input() -> None:
    net = STANDARD.replace(bias_variance=0.35)
    data = gaussian_data(6, 3, seed=4)
    K, ones = data.kernel(1.0), np.ones((6, 6))
    kernel = Dataset.from_kernel(K + 0.5 * ones, data.y, data.test_kernel(1.0) + 0.5)
    assert np.allclose(data.with_bias(0.5).kernel(1.0), K + 0.5 * ones, rtol=1e-14)
    assert np.allclose(data.with_bias(0.5).test_kernel(1.0), data.test_kernel(1.0) + 0.5, rtol=1e-14)
    answers = [linear(net, data), linear(STANDARD, data.with_bias(0.5)), linear(STANDARD, kernel)]
    answers.append(linear(net, Dataset.from_kernel(K, data.y, data.test_kernel(1.0))))
    for answer in answers[1:]:
        for name in answers[0].data_vars:
            close(answer[name], answers[0][name])
    assert abs(answers[0].log_evidence - linear(STANDARD, data).log_evidence) > 1e-3
    for argument, call in {
        "outputs": lambda: linear(net, data, outputs=("log_evidence_gradient",)),
        "prior": lambda: linear(net.replace(prior=ARD(2)), data),
        "bias_variance": lambda: linear(net.replace(bias_variance=None), data),
        "ratio": lambda: data.with_bias(-1.0),
    }.items():
        with pytest.raises(BadInput, match=f"^{argument}: got"):
            call()


def test_reference_numbers() -> None:
    posterior = QPosterior([1, 2, 4], [1, -1, 2], 10, 1, 0.1)
    assert posterior.log_evidence == pytest.approx(-5.15399575948249, rel=1e-14)
    assert posterior.mean == pytest.approx(0.977997577944576, rel=1e-14)
    assert posterior.stationary_points == pytest.approx([0.950558766408871], rel=1e-13)
    precise = QPosterior([1, 2, 4], [1, -1, 2], 10, 1, "0.1", digits=30)
    assert abs(precise.log_evidence - mpmath.mpf("-5.15399575948249")) < 1e-14
    assert abs(precise.mean - mpmath.mpf("0.977997577944576")) < 1e-15


@pytest.mark.parametrize(
    ("N", "P", "D", "points"), [(1, 1, 1, 400), (1, 3, 2, 150), (1, 2, 2, 150), (2, 1, 1, 50), (2, 2, 1, 50)]
)
def test_every_weight_on_a_grid(N: int, P: int, D: int, points: int) -> None:
    net = Network(
        width=N, readout_variance=0.8, weight_variance=1.2, noise_variance=4, scaling=Scaling(1.5, 0.5)
    )
    data = gaussian_data(P, D, seed=10 * N + P)
    got = linear(net, data, outputs=ALL)
    g, s = net.effective_readout_variance(), net.effective_noise_variance()
    want = by_weights(data.X, data.y, data.X_test, width=N, g=g, weight_variance=1.2, s=s, points=points)
    close(got.log_evidence, want.log_evidence)
    close(got.mean_output, want.mean)
    close(got.test_output, want.test_mean)
    close(got.output_covariance, want.covariance)
    close(got.hidden_kernel, want.hidden_kernel)
    close(got.readout_norm, want.Q)
    along, y2 = want.mean / np.linalg.norm(want.mean), data.y @ data.y
    close(got.variance_along_mean_output, along @ want.covariance @ along)
    close(got.discrepancy_along_target, data.y @ (data.y - want.mean) / y2)
    close(got.hidden_kernel_overlap, data.y @ want.hidden_kernel @ data.y / y2)


@pytest.mark.parametrize("N", [1, 2, 7, 300, 10**6])
@pytest.mark.parametrize("D", [1, 3])
def test_fourier_integral_over_the_conjugate(N: int, D: int) -> None:
    net, data = STANDARD.replace(width=N, noise_variance=0.6), gaussian_data(2, D, seed=N % 97)
    got = linear(net, data, outputs=ALL)
    g, s = net.effective_readout_variance(), net.effective_noise_variance()
    want = by_fourier(data.kernel(0.7), data.y, data.test_kernel(0.7), width=N, g=g, s=s)
    close(got.log_evidence, want.log_evidence)
    close(got.mean_output, want.mean)
    close(got.test_output, want.test_mean)
    close(got.output_covariance, want.covariance)
    close(got.log_evidence_gradient, [want.gradient[0] / 1.3, want.gradient[0] / 0.7, want.gradient[1]])


def test_three_saddles_are_found_and_integrated_over() -> None:
    arguments = ([1, 0.02], [0, 2], 50, 1)
    posterior = QPosterior(*arguments, 0.01, multiplicity=[100, 1])
    assert posterior.stationary_points == pytest.approx([0.01559, 0.06225, 0.86636], abs=5e-6)
    precise = QPosterior(*arguments, 0.01, digits=30, multiplicity=[100, 1])
    assert posterior.log_evidence == pytest.approx(float(precise.log_evidence), rel=1e-13)
    assert posterior.mean == pytest.approx(float(precise.mean), rel=1e-12)
    # By another integrator, on a grid that knows neither the maxima nor the substitution Q = g e^t.
    with mpmath.workdps(25):

        def weight(Q: mpmath.mpf) -> mpmath.mpf:
            flat, tilted = Q + mpmath.mpf(0.01), mpmath.mpf(0.02) * Q + mpmath.mpf(0.01)
            return Q**24 * mpmath.exp(-25 * Q - 2 / tilted + 120) / flat**50 / mpmath.sqrt(tilted)

        cuts = [0, 0.008, 0.012, 0.016, 0.024, 0.04, 0.1, 0.3, 0.6, 0.8, 0.9, 1.1, 1.5, 2, 3, 5]
        Z = mpmath.quad(weight, cuts)
        mean = mpmath.quad(lambda Q: Q * weight(Q), cuts) / Z
        log_evidence = mpmath.log(Z) - 120 + 25 * mpmath.log(25) - mpmath.loggamma(25)
        log_evidence -= mpmath.mpf(101) / 2 * mpmath.log(2 * mpmath.pi)
    assert float(precise.mean) == pytest.approx(float(mean), rel=1e-12)
    assert float(precise.log_evidence) == pytest.approx(float(log_evidence), rel=1e-13)


def test_two_separate_peaks_are_weighed_against_each_other() -> None:
    # The valley between the maxima is below rounding: disjoint intervals, each with a share in the sum.
    modes = {"eigenvalues": [1, 0.02], "targets": [0, 1.78835], "multiplicity": [4000, 40]}
    fast, slow = (QPosterior(width=2000, g=1, s=0.01, digits=digits, **modes) for digits in (None, 25))
    Q, p = fast.nodes()
    assert 0.4 < p[Q < 0.06].sum() < 0.6
    assert fast.log_evidence == pytest.approx(float(slow.log_evidence), rel=1e-13)
    assert fast.mean == pytest.approx(float(slow.mean), rel=1e-10)


@settings(max_examples=12, deadline=None)
@given(
    N=st.sampled_from([1, 2, 3, 10, 1000, 10**6]),
    seed=st.integers(0, 10**6),
    g=st.floats(1e-4, 1e4),
    s=st.sampled_from([0.0, 1e-18, 1e-6, 0.1, 1.0, 1e3]),
    y_scale=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_float64_agrees_with_thirty_digits(N: int, seed: int, g: float, s: float, y_scale: float) -> None:
    rng = np.random.default_rng(seed)
    lam, y = np.exp(rng.uniform(-6, 3, size=3)), y_scale * rng.normal(size=3)
    fast, slow = (QPosterior(lam, y, N, g, s, digits) for digits in (None, 30))
    assert fast.log_evidence == pytest.approx(float(slow.log_evidence), rel=1e-10, abs=1e-10)
    moments = [posterior.expect(lambda Q: (Q, Q**2, lam / (Q * lam + s) * Q)) for posterior in (fast, slow)]
    for got, want in zip(*moments, strict=True):
        close(got / np.asarray(want, float), 1.0)
    assert fast.residual < 1e-10


def test_eigenvalues_negative_by_rounding_count_as_zero() -> None:
    a, b = (QPosterior([1.0, tiny], [1.0, 0.3], 5, 1.0, 0.1) for tiny in (-1e-16, 0.0))
    assert a.log_evidence == b.log_evidence


def test_repeated_spectrum_costs_its_distinct_modes() -> None:
    lam, y = np.array([2.0, 0.3, 0.0]), np.array([1.0, -0.2, 0.5])
    counts = [3, 4, 2]
    once = QPosterior(lam, y, 9, 1.1, 0.2, multiplicity=counts)
    spelled = QPosterior(np.repeat(lam, counts), np.repeat(y, counts), 9, 1.1, 0.2)
    assert once.log_evidence == pytest.approx(spelled.log_evidence, rel=1e-14)
    assert once.mean == pytest.approx(spelled.mean, rel=1e-14)
    wide = QPosterior([1, "0.5"], [1, 1], 10**4, 1, "0.1", digits=30, multiplicity=[5000, 5000])
    shares = wide.expect(lambda Q: [Q / (Q + 1), Q])
    assert isinstance(shares, list) and abs(shares[1] - wide.mean) < mpmath.mpf(10) ** -30
    fast = QPosterior([1, 0.5], [1, 1], 10**4, 1, 0.1, multiplicity=[5000, 5000])
    assert fast.log_evidence == pytest.approx(float(wide.log_evidence), rel=1e-13)


# ----------------------------------------------------------------------------- identities and limits

networks = st.builds(
    Network,
    width=st.sampled_from([1, 3, 30, 1000]),
    readout_variance=st.floats(0.2, 5),
    weight_variance=st.floats(0.2, 5),
    noise_variance=st.floats(0.05, 5),
    scaling=st.sampled_from([Scaling.standard(), Scaling.mean_field(), Scaling(1.5, 0.5)]),
)
datasets = st.builds(gaussian_data, st.integers(1, 7), st.integers(1, 7), st.integers(0, 10**6))
relaxed = settings(max_examples=20, deadline=None)


@settings(max_examples=8, deadline=None)
@given(networks, datasets)
def test_gradient_is_the_slope_of_the_log_evidence(net: Network, data: Dataset) -> None:
    gradient = linear(net, data, outputs=ALL).log_evidence_gradient
    for name in gradient.hyperparameter.values:
        x, h = float(getattr(net, name)), 1e-3
        steps = {
            k: float(linear(net.replace(**{name: x * (1 + k * h)}), data).log_evidence)
            for k in (-2, -1, 1, 2)
        }
        slope = (8 * (steps[1] - steps[-1]) - (steps[2] - steps[-2])) / (12 * h * x)
        got = float(gradient.sel(hyperparameter=name))
        assert got == pytest.approx(slope, rel=1e-6, abs=1e-8 * abs(steps[1]) / (h * x))


@relaxed
@given(networks, datasets)
def test_schwinger_dyson(net: Network, data: Dataset) -> None:
    """0 = E[L'(t)]: the prior's pull on Q against the data's, which enters the code by different terms."""
    got = linear(net, data, outputs=ALL)
    by_data = float(got.log_evidence_gradient[0]) * net.readout_variance
    by_prior = net.width / 2 * (float(got.readout_norm) / got.attrs["effective_readout_variance"] - 1)
    assert by_data == pytest.approx(by_prior, rel=1e-9, abs=1e-12 * net.width)


@relaxed
@given(networks, datasets, st.integers(0, 1000))
def test_invariances(net: Network, data: Dataset, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = linear(net, data, outputs=ALL)
    rotation = np.linalg.qr(rng.normal(size=(data.input_dim, data.input_dim)))[0]
    order = rng.permutation(data.samples)
    moved = Dataset((data.X @ rotation)[order], data.y[order], data.X_test @ rotation)
    scalars = [name for name, value in base.data_vars.items() if not value.dims]
    turned = linear(net, moved, outputs=ALL)
    for name in scalars:
        close(turned[name], base[name], 1e-8)
    close(turned.mean_output, base.mean_output[order], 1e-8)
    close(turned.test_output, base.test_output, 1e-8)
    close(turned.hidden_kernel, base.hidden_kernel.values[np.ix_(order, order)], 1e-8)

    flipped = linear(net, Dataset(data.X, -data.y, data.X_test), outputs=ALL)
    for name in [*scalars, "output_covariance", "hidden_kernel"]:
        close(flipped[name], base[name])
    close(flipped.mean_output, -base.mean_output)

    c = 1.7  # a -> a c, w -> w / c
    variances = {"readout_variance": net.readout_variance * c, "weight_variance": net.weight_variance / c}
    shifted = linear(net.replace(**variances), data)
    for name in ("mean_output", "test_output", "variance_along_mean_output", "log_evidence"):
        close(shifted[name], base[name])
    close(shifted.readout_norm, c * base.readout_norm)
    close(shifted.hidden_kernel_overlap, base.hidden_kernel_overlap / c)

    units = {"readout_variance": net.readout_variance * c**2, "noise_variance": net.noise_variance * c**2}
    louder = linear(net.replace(**units), Dataset(data.X, c * data.y, data.X_test))
    close(louder.mean_output, c * base.mean_output)
    close(louder.log_evidence, base.log_evidence - data.samples * math.log(c))


@relaxed
@given(networks, datasets)
def test_matrices_and_kernel_data(net: Network, data: Dataset) -> None:
    got = linear(net, data, outputs=ALL)
    for name in ("output_covariance", "hidden_kernel"):
        matrix = got[name].values
        close(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix)[0] > -1e-10 * np.trace(matrix)
    along, y = got.mean_output.values, data.y
    close(along @ got.output_covariance.values @ along / (along @ along), got.variance_along_mean_output)
    close(y @ got.hidden_kernel.values @ y / (y @ y), got.hidden_kernel_overlap)
    close(y @ (y - along) / (y @ y), got.discrepancy_along_target)
    known_by_kernel = Dataset.from_kernel(data.kernel(1.0), y, data.test_kernel(1.0))
    other = linear(net, known_by_kernel, outputs=ALL)
    for name in got.data_vars:
        close(other[name], got[name], 1e-7)


def test_only_the_effective_scales_matter() -> None:
    data = gaussian_data(6, 4, seed=3)
    N = MEAN_FIELD.width
    other = STANDARD.replace(readout_variance=1.3 / N, noise_variance=0.4 / N)
    a, b, c = linear(MEAN_FIELD, data), linear(other, data), linear(MEAN_FIELD.along(N), data)
    for name in a.data_vars:
        close(a[name], b[name], 1e-13)
        close(a[name], c[name], 1e-13)


def test_wide_limit_is_gaussian_process_regression() -> None:
    data = gaussian_data(5, 8, seed=1)
    K, s, y = 1.3 * data.kernel(0.7), 0.4, data.y
    mean = K @ np.linalg.solve(K + s * np.eye(5), y)
    _, logdet = np.linalg.slogdet(2 * np.pi * (K + s * np.eye(5)))
    evidence = -0.5 * (logdet + y @ np.linalg.solve(K + s * np.eye(5), y))
    errors = []
    for N in (10**4, 10**6):
        got = linear(STANDARD, data, width=N, outputs=["output_covariance"])
        errors.append(float(np.abs(got.mean_output - mean).max()))
        close(got.log_evidence, evidence, 100 / N)
        close(got.output_covariance, s * np.linalg.solve(K + s * np.eye(5), K), 100 / N)
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.05)  # 1/N, and nothing else


def test_thirty_digits_round_to_the_float64_answer() -> None:
    data = gaussian_data(4, 6, seed=5)
    fast, slow = linear(MEAN_FIELD, data, outputs=ALL), linear(MEAN_FIELD, data, outputs=ALL, digits=30)
    for name in fast.data_vars:
        close(slow[name], fast[name], 1e-13)
    assert slow.attrs["residual"] < 1e-30
    assert float(linear_posterior(MEAN_FIELD, data).mean) == pytest.approx(
        float(fast.readout_norm), rel=1e-14
    )


# ----------------------------------------------------------------------------------------- zero noise


def test_zero_noise_is_the_limit_of_small_noise() -> None:
    data = gaussian_data(4, 6, seed=2)
    zero, small = (linear(MEAN_FIELD.replace(noise_variance=s), data, outputs=ALL) for s in (0, 1e-11))
    np.testing.assert_allclose(zero.mean_output, data.y, rtol=1e-13)
    assert np.abs(zero.output_covariance.values).max() == 0 and float(zero.discrepancy_along_target) == 0
    for name in ("log_evidence", "readout_norm", "test_output", "hidden_kernel", "log_evidence_gradient"):
        close(small[name], zero[name], 1e-6)
    # P = 1, K = k: y is sqrt(Q k) times a normal, in closed form a Bessel function of order (N - 1)/2.
    N, g, k, y = 4, 1.3, 0.7, 0.9
    with mpmath.workdps(20):
        z = mpmath.sqrt(mpmath.mpf(N) / (g * k)) * y
        constant = mpmath.sqrt(N / (mpmath.pi * g * k)) * 2 ** mpmath.mpf((1 - N) / 2) / mpmath.gamma(N / 2)
        want = mpmath.log(constant * z ** mpmath.mpf((N - 1) / 2) * mpmath.besselk((N - 1) / 2, z))
    assert QPosterior([k], [y], N, g, 0).log_evidence == pytest.approx(float(want), rel=1e-13)


def test_zero_noise_with_a_singular_kernel() -> None:
    reachable = tasks.ising(12, 5, teacher="linear", test_samples=3)
    got = linear(MEAN_FIELD.replace(noise_variance=0), reachable, outputs=ALL)
    np.testing.assert_allclose(got.mean_output, reachable.y, atol=1e-13)
    np.testing.assert_allclose(got.test_output, reachable.y_test, atol=1e-12)
    assert float(got.log_evidence) == math.inf and "diverges" in got.attrs["status"]
    near = linear(MEAN_FIELD.replace(noise_variance=1e-9), reachable)
    close(got.readout_norm, near.readout_norm, 1e-6)
    with pytest.raises(BadInput, match=r"^noise_variance: got 0; .*range of K"):
        linear(MEAN_FIELD.replace(noise_variance=0), tasks.ising(12, 5))
    with pytest.raises(BadInput, match=r"^noise_variance: got 0; .*normalisable"):
        QPosterior([1, 2], [0, 0], 2, 1, 0)
    assert QPosterior([1, 2], [0, 0], 7, 1, 0).mean == pytest.approx(5 / 7)  # Q is Gamma((N - r)/2, N/2g)


# ------------------------------------------------------------------------------ degenerate and refused


def test_degenerate_data() -> None:
    silent = linear(STANDARD, Dataset(np.zeros((3, 2)), [1.0, -1.0, 2.0], np.ones((1, 2))), outputs=ALL)
    assert np.all(silent.mean_output == 0) and float(silent.readout_norm) == pytest.approx(1.3)
    assert float(silent.discrepancy_along_target) == 1
    assert float(silent.log_evidence) == pytest.approx(-1.5 * math.log(2 * math.pi * 0.4) - 6 / 0.8)
    assert math.isnan(float(silent.variance_along_mean_output))
    quiet = linear(STANDARD, Dataset(np.eye(2), [0.0, 0.0]), digits=20)
    assert np.all(quiet.mean_output == 0) and math.isnan(float(quiet.hidden_kernel_overlap))
    duplicated = np.vstack([np.eye(3), np.eye(3)])
    twice = linear(STANDARD, Dataset(duplicated, [1.0, 2, 3, 1, 2, 3]))
    halved = linear(STANDARD.replace(noise_variance=0.2), Dataset(np.eye(3), [1.0, 2, 3]))
    close(twice.mean_output[:3], halved.mean_output, 1e-12)
    close(twice.readout_norm, halved.readout_norm, 1e-12)


def test_layout() -> None:
    data = tasks.ising(6, 4, test_samples=3)
    default = linear(MEAN_FIELD, data)
    assert set(default.data_vars) == {
        "mean_output", "test_output", "variance_along_mean_output", "discrepancy_along_target",
        "hidden_kernel_overlap", "readout_norm", "log_evidence",
    }  # fmt: skip
    assert default.mean_output.dims == ("sample",) and default.test_output.dims == ("test",)
    everything = linear(MEAN_FIELD, data, outputs=ALL, width=7)
    assert everything.output_covariance.dims == everything.hidden_kernel.dims == ("sample", "other_sample")
    assert everything.attrs["width"] == 7 and everything.attrs["scaling"] == "mean-field"
    assert everything.attrs["dataset"] == "ising" and everything.attrs["status"] == "ok"
    assert "test_output" not in linear(MEAN_FIELD, tasks.ising(6, 4)).data_vars


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("width", {"width": 0}), ("width", {"width": 2.0}), ("eigenvalues", {"eigenvalues": [-1.0, 1.0]}),
        ("eigenvalues", {"eigenvalues": []}), ("eigenvalues", {"eigenvalues": ["a", "b"]}),
        ("targets", {"targets": [1.0]}), ("targets", {"targets": [1.0, math.nan]}), ("g", {"g": 0}),
        ("s", {"s": -1e-9}), ("s", {"s": None}), ("digits", {"digits": 0}),
        ("multiplicity", {"multiplicity": [1, 0]}), ("multiplicity", {"multiplicity": [1.0, 2.0]}),
    ],
)  # fmt: skip
def test_bad_modes_are_named(argument: str, change: dict) -> None:
    good = {"eigenvalues": [1.0, 2.0], "targets": [1.0, 0.0], "width": 3, "g": 1.0, "s": 0.1}
    with pytest.raises(BadInput, match=f"^{argument}: got "):
        QPosterior(**(good | change))


@pytest.mark.parametrize("oracle", [linear, linear_posterior])
def test_arrays_in_place_of_a_dataset_are_refused(oracle: Any) -> None:
    net = Network(width=5, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0)
    with pytest.raises(BadInput, match=r"^data: got tuple; expected a Dataset"):
        oracle(net, (np.eye(3), np.ones(3)))


def test_bad_requests_are_named() -> None:
    data = tasks.ising(3, 4)
    with pytest.raises(BadInput, match=r"^activation"):
        linear(STANDARD.replace(activation="erf"), data)
    with pytest.raises(BadInput, match=r"^input_dim: got 5"):
        linear(STANDARD.replace(input_dim=5), data)
    for name in ("width", "readout_variance", "weight_variance", "noise_variance"):
        with pytest.raises(BadInput, match=f"^{name}: got None"):
            linear(STANDARD.replace(**{name: None}), data)
    with pytest.raises(UnknownName, match="output_covariance"):
        linear(STANDARD, data, outputs=["output_covarience"])


def test_averages_that_do_not_exist() -> None:
    posterior = QPosterior([1.0], [1.0], 1, 1.0, 0.1)  # density Q^(-1/2) at small Q
    with mpmath.workdps(20):
        weight = lambda Q: mpmath.exp(-Q / 2 - 0.5 / (Q + 0.1)) / mpmath.sqrt(Q + 0.1)  # noqa: E731
        up, down = (
            mpmath.quad(lambda Q, p=p: Q**p * weight(Q), [0, 1e-6, 1e-3, 0.1, 1, 5, 80]) for p in (-0.8, -0.5)
        )
    assert posterior.expect(lambda Q: Q**-0.3) == pytest.approx(float(up / down), rel=1e-3)
    with pytest.raises(NotConverged):
        posterior.expect(lambda Q: 1 / Q)
    with pytest.raises(NotConverged):
        posterior.expect(lambda Q: math.nan)
