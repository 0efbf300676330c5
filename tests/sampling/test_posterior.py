"""The hand-written energy, gradient and observables against plain NumPy, written from the definition."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
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
        X, y, constants, _, _, _, _ = bound
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


# --- blocks, precisions, widths of columns, minibatches --------------------------


def simple_gradient(posterior: Posterior, position: np.ndarray) -> tuple[float, np.ndarray]:
    """U and its gradient by NumPy, in float64, for sizes at which samples come in several blocks."""
    N, D = posterior.width, posterior.X.shape[1]
    widths = np.broadcast_to(np.sqrt(posterior.weight_prior_variance), (D,))
    readout = np.sqrt(posterior.readout_prior_variance)
    a, w = readout * position[:N], widths * position[N:].reshape(N, D)
    h = w @ posterior.X.T
    phi = {"erf": scipy.special.erf, "relu": lambda h: np.maximum(h, 0), "identity": lambda h: h}
    slope = {"erf": lambda h: 2 / np.sqrt(np.pi) * np.exp(-h * h), "relu": lambda h: 1.0 * (h > 0),
             "identity": np.ones_like}
    errors = a @ phi[posterior.activation](h) - posterior.y
    r = errors / posterior.noise_variance
    gradient = position.copy()
    gradient[:N] += readout * phi[posterior.activation](h) @ r
    gradient[N:] += ((a[:, None] * slope[posterior.activation](h) * r) @ posterior.X * widths).ravel()
    return 0.5 * position @ position + errors @ r / 2, gradient


SHAPES = [(1, 1, 1), (7, 3, 5), (17, 9, 65), (64, 16, 128), (203, 33, 301), (300, 20, 1001)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("activation", ["erf", "relu", "identity"])
@pytest.mark.parametrize(("N", "D", "P"), SHAPES)
def test_blocks_and_precisions(N, D, P, activation, dtype):
    rng = np.random.default_rng(N)
    posterior = Posterior(N, 1 / N, rng.uniform(0.5, 2, D) / D, 0.1, rng.normal(size=(P, D)), rng.normal(size=P),
                          activation, dtype=dtype)
    bound = posterior.energy()
    assert bound.dtype == dtype
    positions = rng.normal(size=(2, posterior.size)).astype(dtype)
    positions[1] = positions[0] + 0.01 * positions[1]
    found, exact = np.empty_like(positions), np.empty(positions.shape)
    energies = [bound(q, g) for q, g in zip(positions, found)]
    expected = []
    for q, g in zip(positions, exact):
        energy, g[:] = simple_gradient(posterior, q.astype(float))
        expected.append(energy)
    scale = np.sqrt(N + P) * np.finfo(dtype).eps
    assert np.linalg.norm(found - exact) < 2 * scale * np.linalg.norm(exact)
    # What an accept test sees: a difference of energies, wrong by far less than one.
    change, right = energies[1] - energies[0], expected[1] - expected[0]
    rounding = np.finfo(float).eps * (expected[0] + 1)  # of the two energies themselves, in float64 always
    assert abs(change - right) < 5 * scale * np.sqrt((expected[0] + 1) / posterior.noise_variance) + 20 * rounding
    # The same again, bit for bit: nothing of one call is left for the next.
    again = np.empty_like(found[0])
    assert bound(positions[0], again) == energies[0] and np.array_equal(again, found[0])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("activation", ["erf", "identity", "relu"])
def test_what_is_not_finite_reaches_the_energy(activation, dtype):
    posterior = Posterior(20, 0.05, 0.1, 0.1, np.random.default_rng(0).normal(size=(90, 7)), np.ones(90), activation,
                          dtype=dtype)
    bound, gradient = posterior.energy(), np.empty(posterior.size, dtype)
    for place in (0, 25):
        position = np.full(posterior.size, 0.1, dtype)
        for value in (np.nan, np.inf):
            position[place] = value
            assert not np.isfinite(bound(position, gradient))


SHAPE_RATE = (1.5, 0.4)


def with_precisions(relevant: int, activation: str = "erf") -> Posterior:
    return example(X=np.random.default_rng(5).normal(size=(4, 3)), weight_prior_variance=0.3, activation=activation,
                   precision_prior=SHAPE_RATE, relevant=relevant)


def over_the_precision(bound: Bound, position: np.ndarray, N: int, j: int, relevant: int) -> float:
    """ln of the integral over v_j, at given weights, of the density of (w_j, v_j) over that at the position."""
    n, t, lost = position.size - relevant, np.sqrt(scipy.special.polygamma(1, SHAPE_RATE[0])) / 2, position.copy()
    here = bound(position, lost)

    def density(v: float) -> float:
        moved, stretch = position.copy(), np.exp(t * (v - position[n + j]))
        moved[n + j] = v
        moved[N:n].reshape(N, -1)[:, j] /= stretch
        return np.exp(here - bound(moved, lost)) / stretch**N

    return np.log(scipy.integrate.quad(density, -12, 25, epsabs=0, epsrel=1e-10, points=[position[n + j]])[0])


@pytest.mark.parametrize("activation", ["erf", "identity"])
@pytest.mark.parametrize("relevant", [3, 2, 0])
def test_precisions_have_their_law(relevant, activation):
    """exp(-U) at given weights, integrated over v with the Jacobian of omega, is the multivariate t of each column; and
    the gradient by differences."""
    posterior, (shape, rate) = with_precisions(relevant, activation), SHAPE_RATE
    plain = example(X=posterior.X, weight_prior_variance=0.3, activation=activation)
    bound, without, rng, N = posterior.energy(), plain.energy(), np.random.default_rng(6), posterior.width
    gradient, lost, n = np.empty(posterior.size), np.empty(posterior.size), plain.size
    assert posterior.size == n + relevant
    differences = []
    for _ in range(3):
        a, w = rng.normal(size=N), rng.normal(size=(N, 3))
        position, squares = posterior.whiten(a, w), (w**2).sum(axis=0)
        widths = np.sqrt(squares / (position[N:n].reshape(N, 3) ** 2).sum(axis=0))
        found = bound(position, gradient) + N * np.log(widths[:relevant]).sum()
        found -= sum(over_the_precision(bound, position, N, j, relevant) for j in range(relevant))
        student = (shape + N / 2) * np.log(rate + squares[:relevant] / 2).sum()
        differences.append(found - student - without(plain.whiten(a, w), lost[:n]) + squares[:relevant].sum() / 0.6)
        steps = 1e-5 * np.eye(posterior.size)
        numeric = [(bound(position + e, lost) - bound(position - e, lost)) / 2e-5 for e in steps]
        np.testing.assert_allclose(gradient, numeric, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(differences, differences[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_position_of_given_weights(dtype):
    """What is observed at the position of weights is what the weights give, whatever the precisions are."""
    rng, X = np.random.default_rng(2), np.random.default_rng(5).normal(size=(4, 3))
    posterior = example(X=X, activation="erf", precision_prior=SHAPE_RATE, relevant=2, points=X, directions=np.eye(3),
                        dtype=dtype)
    a, w = rng.normal(size=posterior.width), rng.normal(size=(posterior.width, 3))
    expected = [*(a @ scipy.special.erf(w @ X.T)), a @ a, *np.mean(w**2, axis=0)]
    row, tolerance = np.empty(posterior.row_size, dtype), 100 * np.finfo(dtype).eps
    for precisions in (None, np.array([0.2, 30.0])):
        posterior.observables()(posterior.whiten(a, w, precisions).astype(dtype), row)
        np.testing.assert_allclose(row, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", ["erf", "identity"])
def test_minibatches(activation):
    """A minibatch of all samples is the whole; gradients of a partition average to it."""
    rng = np.random.default_rng(7)
    posterior = Posterior(11, 0.1, 0.2, 0.3, rng.normal(size=(60, 5)), rng.normal(size=60), activation)
    position = rng.normal(size=posterior.size)
    whole, gradients = np.empty(posterior.size), np.empty((3, posterior.size))
    energy = posterior.energy()(position, whole)
    everything = np.empty_like(whole)
    assert posterior.minibatch(60)(position, everything) == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(everything, whole, rtol=1e-10, atol=1e-10)
    bound, energies = posterior.minibatch(20), []
    for gradient, rows in zip(gradients, rng.permutation(60).reshape(3, 20)):
        bound.arrays[0][:], bound.arrays[1][:] = posterior.X[rows], posterior.y[rows]
        energies.append(bound(position, gradient))
    assert np.mean(energies) == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(gradients.mean(axis=0), whole, rtol=1e-10, atol=1e-10)
    with pytest.raises(BadInput, match="size"):
        posterior.minibatch(61)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("activation", ["erf", "relu", "identity"])
def test_observables_in_blocks(activation, dtype):
    rng = np.random.default_rng(8)
    N, D, M = 130, 12, 700
    widths = rng.uniform(0.5, 2, D)
    points, directions = rng.normal(size=(M, D)), rng.normal(size=(2, D))
    posterior = Posterior(N, 1 / N, widths / D, 0.1, points[:5], points[:5, 0], activation, points=points,
                          directions=directions, dtype=dtype)
    position = rng.normal(size=posterior.size).astype(dtype)
    row = np.empty(posterior.row_size, dtype)
    posterior.observables()(position, row)
    a = position[:N].astype(float) / np.sqrt(N)
    w = position[N:].reshape(N, D).astype(float) * np.sqrt(widths / D)
    expected = [*(a @ PLAIN[activation](w @ points.T)), a @ a, *np.mean((w @ directions.T) ** 2, axis=0)]
    np.testing.assert_allclose(row, expected, atol=40 * np.finfo(dtype).eps, rtol=40 * np.finfo(dtype).eps)


def test_other_precisions_are_refused():
    with pytest.raises(BadInput, match="dtype"):
        example(dtype=np.float16)
    with pytest.raises(BadInput, match="precision_prior"):
        example(precision_prior=(1.0, 0.0))
