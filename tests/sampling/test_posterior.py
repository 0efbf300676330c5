"""The hand-written energy, gradient and observables against plain NumPy, written from the definition."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from fieldtheory.errors import BadInput, UnknownName
from fieldtheory.sampling import ACTIVATIONS, Bound, Posterior

# Each is analytic where it is used, so that derivatives follow from a complex step.
PLAIN = {
    "identity": lambda h: h,
    "erf": scipy.special.erf,
    "relu": lambda h: np.where(np.real(h) > 0, h, 0),
    "tanh": np.tanh,
    "quadratic": lambda h: h * h,
}
SWISH = (njit(lambda h: h / (1.0 + np.exp(-h))),
         njit(lambda h: (1.0 + np.exp(-h) * (1.0 + h)) / (1.0 + np.exp(-h)) ** 2))


def plain_energy(posterior: Posterior, position: np.ndarray, phi=None) -> complex:
    """-ln(prior x likelihood) up to a constant, in the weights themselves, sample by sample."""
    phi = phi or PLAIN[posterior.activation]
    N, D = posterior.width, posterior.X.shape[1]
    a = position[:N] * np.sqrt(posterior.readout_prior_variance)
    w = position[N:].reshape(N, D) * np.sqrt(posterior.weight_prior_variance)
    prior = sum(a**2) / (2 * posterior.readout_prior_variance)
    prior += sum(w.ravel() ** 2) / (2 * posterior.weight_prior_variance)
    outputs = [sum(a[i] * phi(w[i] @ x) for i in range(N)) for x in posterior.X]
    errors = [f - y for f, y in zip(outputs, posterior.y)]
    return prior + sum(e**2 for e in errors) / (2 * posterior.noise_variance)


def plain_gradient(posterior: Posterior, position: np.ndarray, phi=None) -> np.ndarray:
    """By complex step: exact to rounding."""
    steps = 1e-30j * np.eye(posterior.size)
    return np.array([np.imag(plain_energy(posterior, position + step, phi)) / 1e-30 for step in steps])


NAMES = st.sampled_from(sorted(ACTIVATIONS))


@st.composite
def posteriors(draw, activation=NAMES):
    N, D, P, M, k = (draw(st.integers(1, most)) for most in (5, 4, 6, 3, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scales = draw(st.tuples(*[st.floats(0.05, 3.0)] * 3))
    posterior = Posterior(
        N, *scales, X=rng.normal(size=(P, D)), y=rng.normal(size=P), activation=draw(activation),
        points=rng.normal(size=(M, D)), directions=rng.normal(size=(k, D)))
    return posterior, rng.normal(size=posterior.size)


def gradient_error(bound: Bound, posterior: Posterior, position: np.ndarray, phi=None) -> float:
    expected, gradient = plain_gradient(posterior, position, phi), np.empty_like(position)
    bound(position, gradient)
    return float(np.linalg.norm(gradient - expected) / np.linalg.norm(expected))


@given(posteriors())
def test_energy_and_gradient(drawn):
    posterior, position = drawn
    bound = posterior.energy()
    energy = bound(position, np.empty_like(position))
    assert energy == pytest.approx(plain_energy(posterior, position).real, rel=1e-11)
    assert gradient_error(bound, posterior, position) < 1e-10


def test_every_activation_is_tested():
    assert set(PLAIN) == set(ACTIVATIONS)


@given(posteriors(activation=st.just("identity")))
def test_observables(drawn):
    posterior, position = drawn
    N, D = posterior.width, posterior.X.shape[1]
    a = position[:N] * np.sqrt(posterior.readout_prior_variance)
    w = position[N:].reshape(N, D) * np.sqrt(posterior.weight_prior_variance)
    overlaps = np.mean((w @ posterior.directions.T) ** 2, axis=0)
    for name, phi in PLAIN.items():
        network = Posterior(**{**vars(posterior), "activation": name})
        row = np.full(network.row_size, np.nan)
        network.observables()(position, row)
        outputs = a @ phi(w @ posterior.points.T)
        np.testing.assert_allclose(row, [*outputs, a @ a, *overlaps], rtol=1e-11, atol=1e-12)


@given(posteriors(), st.randoms(use_true_random=False))
def test_neurons_in_another_order_change_nothing(drawn, random):
    posterior, position = drawn
    N = posterior.width
    order = random.sample(range(N), N)
    signs = np.where(posterior.activation in ("identity", "erf", "tanh"), random.choices([-1.0, 1.0], k=N), 1.0)
    moved = np.concatenate([(signs * position[:N])[order],
                            (signs[:, None] * position[N:].reshape(N, -1))[order].ravel()])
    energy, row, rows = posterior.energy(), np.empty(posterior.row_size), np.empty(posterior.row_size)
    scratch = np.empty_like(position)
    assert energy(position, scratch) == pytest.approx(energy(moved, scratch), rel=1e-12)
    posterior.observables()(position, row)
    posterior.observables()(moved, rows)
    np.testing.assert_allclose(row, rows, rtol=1e-11, atol=1e-12)


def example(**changes) -> Posterior:
    rng = np.random.default_rng(3)
    given = dict(width=3, readout_prior_variance=0.5, weight_prior_variance=0.7, noise_variance=0.2,
                 X=rng.normal(size=(4, 2)), y=rng.normal(size=4))
    return Posterior(**{**given, **changes})


def test_an_activation_of_the_users_own():
    posterior = example(activation=object(), activation_functions=SWISH)
    position = np.random.default_rng(0).normal(size=posterior.size)
    assert gradient_error(posterior.energy(), posterior, position, lambda h: h / (1 + np.exp(-h))) < 1e-12


def test_a_wrong_slope_is_seen():
    """The witness of the witness: a derivative wrong by one part in a thousand does not pass."""
    wrong = example(activation="tanh", activation_functions=(
        njit(lambda h: np.tanh(h)), njit(lambda h: 1.001 * (1 - np.tanh(h) ** 2))))
    position = np.random.default_rng(0).normal(size=wrong.size)
    assert gradient_error(wrong.energy(), wrong, position) > 1e-5


def test_another_gradient_can_be_bound():
    """The same stepper takes any energy: here the network's, with the gradient by another road."""
    posterior = example()

    def energy(position, gradient, bound):
        X, y, constants, _, _, _ = bound
        N, D = 3, X.shape[1]
        gradient[:] = position
        total = 0.5 * np.dot(position, position)
        for mu in range(X.shape[0]):
            f = 0.0
            for i in range(N):
                for j in range(D):
                    f += constants[0] * position[i] * position[N + i * D + j] * X[mu, j]
            r = (f - y[mu]) / constants[1]
            total += 0.5 * constants[1] * r * r
            for i in range(N):
                for j in range(D):
                    gradient[i] += r * constants[0] * position[N + i * D + j] * X[mu, j]
                    gradient[N + i * D + j] += r * constants[0] * position[i] * X[mu, j]
        return total

    scale = np.sqrt(posterior.readout_prior_variance * posterior.weight_prior_variance)
    other = Bound.make(energy, posterior.X, posterior.y, [scale, posterior.noise_variance])
    position = np.random.default_rng(1).normal(size=posterior.size)
    gradients = np.empty((2, posterior.size))
    energies = posterior.energy()(position, gradients[0]), other(position, gradients[1])
    assert energies[0] == pytest.approx(energies[1], rel=1e-12)
    np.testing.assert_allclose(*gradients, rtol=1e-12, atol=1e-12)


def test_bad_input():
    with pytest.raises(BadInput, match="noise_variance"):
        example(noise_variance=0.0)
    with pytest.raises(UnknownName, match="did you mean 'relu'"):
        example(activation="rellu")
    with pytest.raises(BadInput, match="activation_functions"):
        example(activation=object())
    with pytest.raises(BadInput, match="activation_functions"):
        example(activation_functions=(np.tanh,))
    with pytest.raises(BadInput, match="activation_functions"):
        example(activation_functions=(lambda h: str(h), lambda h: 1.0)).energy()
