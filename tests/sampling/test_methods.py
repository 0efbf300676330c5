"""The stationary laws of the methods, each with a wrong twin that must fail the same test."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import scipy.special

from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, UnknownName
from fieldtheory.network import Network, Scaling
from fieldtheory.sampling import METHODS, Bound, Draws, Method, observables, run, sample
from fieldtheory.sampling.methods import find_method
from fieldtheory.tasks import ising
from tests.sampling.agreement import disagreement

AGREE = 4.5


def well(position, gradient, bound):
    """sum k (q - m)^2/2, off centre; the gradient is multiplied by a constant that should be one."""
    k, m, factor = bound[2][0], bound[2][1], bound[2][2]
    total = 0.0
    for i in range(position.size):
        gradient[i] = factor * k * (position[i] - m)
        total += 0.5 * k * (position[i] - m) ** 2
    return total


def tilted(position, gradient, bound):
    """q^4/4 - q^2 + 0.7 q for each coordinate: two unequal wells."""
    total = 0.0
    for i in range(position.size):
        q = position[i]
        gradient[i] = q**3 - 2.0 * q + 0.7
        total += q**4 / 4.0 - q**2 + 0.7 * q
    return total


def coordinates(position, row, bound):
    row[:] = position
    return 0.0


def draws(energy, size=1, constants=(), **options) -> Draws:
    bound, observe = Bound.make(energy, constants=constants), Bound.make(coordinates)
    return run(lambda: bound, lambda: observe, size, lambda rng: rng.standard_normal(size), **options)


def draw(energy, size=1, constants=(), **options) -> np.ndarray:
    return draws(energy, size, constants, **options).rows


K, M, STEP = 2.0, 1.5, 1.1


def euler_series(factor: float = 1.0) -> dict[str, np.ndarray]:
    q = draw(well, 4, (K, M, factor), method="ula", step=STEP, chains=4, draws=5000, warmup=100, thin=3, seed=1)
    return {"mean": q, "variance": (q - M) ** 2}


def test_the_bias_of_unadjusted_langevin_is_euler_s():
    """Variance T/(k(1 - eta k/2)) with T = 1, eta = step^2/2: 2.5 times the posterior's at this step."""
    expected = np.full(4, 1 / (K * (1 - STEP**2 / 2 * K / 2)))
    assert disagreement(euler_series(), {"mean": np.full(4, M), "variance": expected}) < AGREE
    # the twins: the law without the bias, and a force 10 % too strong
    assert disagreement(euler_series(), {"variance": np.full(4, 1 / K)}) > 3 * AGREE
    assert disagreement(euler_series(1.1), {"variance": expected}) > AGREE


def tilted_moments() -> dict[str, float]:
    def integral(n: int) -> float:
        return scipy.integrate.quad(lambda q: q**n * np.exp(-(q**4) / 4 + q**2 - 0.7 * q), -8, 8)[0]

    return {f"q^{n}": integral(n) / integral(0) for n in (1, 2, 3)}


@pytest.mark.parametrize("method", ["mala", "hmc", Method("hmc-4", repeats=4, target_acceptance=0.8, jitter=0.3)])
def test_methods_with_an_accept_test_are_exact(method):
    q = draw(tilted, method=method, chains=4, draws=6000, thin=4, seed=2)[:, :, 0]
    assert disagreement({f"q^{n}": q**n for n in (1, 2, 3)}, tilted_moments()) < AGREE


def test_without_the_accept_test_the_same_comparison_fails():
    q = draw(tilted, method="ula", step=0.5, chains=4, draws=6000, thin=4, seed=2)[:, :, 0]
    assert disagreement({f"q^{n}": q**n for n in (1, 2, 3)}, tilted_moments()) > 2 * AGREE


@pytest.mark.parametrize("method", ["ula", "mala", "hmc"])
def test_the_energy_that_is_carried_is_the_state_s(method):
    made = draws(well, 3, (K, M, 1.0), method=method, chains=2, draws=100, warmup=50, thin=2)
    np.testing.assert_allclose(made.statistics["lp"], -K / 2 * ((made.rows - M) ** 2).sum(axis=2), rtol=1e-12)


@pytest.mark.parametrize("leapfrog", [1, 3])
def test_energy_errors_are_of_third_order_in_the_step(leapfrog):
    """What a leapfrog step that is not time-reversible does not have."""
    rejected = []
    for step in (0.05, 0.1):
        method = Method("one", repeats=leapfrog)
        made = draws(tilted, 20, method=method, step=step, chains=1, draws=4000, warmup=500)
        rejected.append(1 - made.statistics["acceptance_rate"].mean())
    assert 2.5 < np.log2(rejected[1] / rejected[0]) < 3.5


def linear_comparison(data: Dataset, net: Network, effective: float = 1000, **options) -> float:
    exact = pytest.importorskip("fieldtheory.exact").linear(net, data)
    series = {name: values for name, (_, values) in observables(
        sample(net, data, seed=5, **options), along=exact["mean_output"]).items() if name in exact}
    assert len(series) >= 5
    return disagreement(series, {name: exact[name].values for name in series}, effective=effective)


def linear_network(scaling=None) -> Network:
    return Network(width=6, readout_variance=1.3, weight_variance=0.8, noise_variance=0.2,
                   scaling=scaling or Scaling.mean_field())


@pytest.mark.parametrize("scaling", [Scaling.standard(), Scaling.mean_field()], ids=lambda s: s.name)
@pytest.mark.parametrize("input_dim", [3, 20])
def test_hmc_against_the_exact_linear_network(scaling, input_dim):
    """With 20 inputs the samples do not span them, and sampling takes place in the span."""
    data = ising(5, input_dim, seed=4, label_scale=2.0, test_samples=2)
    assert linear_comparison(data, linear_network(scaling), method="hmc", chains=4, draws=2000, thin=2) < AGREE


def test_mala_against_the_exact_linear_network():
    data = ising(4, 3, seed=4, test_samples=2)
    assert linear_comparison(data, linear_network(), method="mala", chains=4, draws=4000, thin=25) < AGREE


def test_a_kernel_in_place_of_inputs():
    data = ising(4, 3, seed=4)
    kernel = Dataset.from_kernel(data.kernel(1.0), data.y)
    assert linear_comparison(kernel, linear_network(), method="hmc", chains=4, draws=2000, thin=2) < AGREE


def test_unadjusted_langevin_at_too_large_a_step_is_rejected_by_the_exact_network():
    data = ising(4, 3, seed=4, test_samples=2)
    options = dict(method="ula", chains=4, draws=4000, thin=25, warmup=500)
    assert linear_comparison(data, linear_network(), step=0.2, **options) > 2 * AGREE


@pytest.mark.parametrize("activation, phi", [
    ("erf", scipy.special.erf), ("relu", lambda h: np.maximum(h, 0)),
    ("tanh", np.tanh), ("quadratic", np.square)])
def test_one_neuron_against_quadrature(activation, phi):
    """N = 1, D = 1, P = 2: both weights integrated on a grid."""
    net = Network(activation, width=1, readout_variance=1.5, weight_variance=2.0, noise_variance=0.3)
    data = Dataset([[1.0], [-0.4]], [0.9, 0.5])
    q = np.linspace(-9, 9, 1801)
    a, w = np.sqrt(1.5) * q[:, None], np.sqrt(2.0) * q[None]
    f = np.stack([a * phi(w * x) for x in data.X[:, 0]])
    log = -(a**2) / 3.0 - w**2 / 4.0 - ((f - data.y[:, None, None]) ** 2).sum(axis=0) / 0.6
    p = np.exp(log - log.max())
    p /= p.sum()
    h = data.X[:, :, None] * w
    expected = {
        "mean_output": (f * p).sum(axis=(1, 2)),
        "readout_norm": (a**2 * p).sum(),
        "hidden_kernel_overlap": ((data.y @ h[:, 0]) ** 2 * p.sum(axis=0)).sum() / (data.y @ data.y),
    }
    # a w^2 leaves a narrow neck at large w, which a step that the bulk accepts does not pass
    step = 0.1 if activation == "quadratic" else None
    samples = sample(net, data, method="hmc", step=step, chains=4, draws=3000, thin=2, seed=6)
    series = {name: values for name, (_, values) in observables(samples).items()}
    assert disagreement(series, expected) < AGREE


def test_methods_are_found_by_name():
    assert find_method("mala") is METHODS["mala"]
    assert find_method(METHODS["hmc"]) is METHODS["hmc"]
    with pytest.raises(UnknownName, match="did you mean 'mala'"):
        find_method("malla")


@pytest.mark.parametrize("argument, value", [
    ("repeats", 0), ("trajectory", -1.0), ("target_acceptance", 1.0), ("jitter", 1.0)])
def test_a_method_that_makes_no_sense(argument, value):
    with pytest.raises(BadInput, match=argument):
        Method("mine", **{argument: value})
