"""What each method leaves stationary, and the order of the bias of those that have one; each with a wrong twin."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from numba import njit

from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, UnknownName
from fieldtheory.network import ARD, Network, Scaling
from fieldtheory.sampling import METHODS, Bound, Method, ess, mcse, observables, rhat, run, sample
from fieldtheory.sampling.chain import Chain
from fieldtheory.sampling.gibbs import draw_gamma, draw_gaussian
from fieldtheory.sampling.methods import MOMENTUM, POSITION, STATISTICS
from fieldtheory.sampling.random import new_stream
from fieldtheory.sampling.tempering import Ladder, statistics_of
from fieldtheory.tasks import ising
from tests.sampling.agreement import disagreement
from tests.sampling.test_methods import coordinates, tilted, well
from tests.sampling.test_snapshots import Cut

AGREE = 4.5
WELL, TILTED, COORDINATES = Bound.make(well, constants=(2.0, 1.5, 1.0)), Bound.make(tilted), Bound.make(coordinates)


def rows(energy: Bound, size: int = 1, **options) -> np.ndarray:
    return run(lambda: energy, lambda: COORDINATES, size, lambda rng: rng.standard_normal(size), **options).rows


# --- order of bias ----------------------------------------------------------------------------------------


def test_baoab_has_no_bias_in_the_position_of_a_harmonic_well():
    """At a step where Euler's variance is 5 times too large; ABO in another order (OBABO) is biased like Euler."""
    step = 1.1
    options = dict(size=4, step=step, chains=4, draws=6000, warmup=100, thin=3, seed=3)
    q = rows(WELL, method="underdamped", **options)
    assert disagreement({"mean": q, "variance": (q - 1.5) ** 2},
                        {"mean": np.full(4, 1.5), "variance": np.full(4, 0.5)}) < AGREE
    twin = rows(WELL, method=Method("obabo", splitting="OBABO", refresh=False, accept=False), **options)
    assert disagreement({"variance": (twin - 1.5) ** 2}, {"variance": np.full(4, 0.5)}) > 3 * AGREE
    # and its own bias is Euler's: the leapfrog inside conserves p^2/2 + k(1 - k e^2/4) q^2/2
    biased = np.full(4, 0.5 / (1 - 2.0 * step**2 / 4))
    assert disagreement({"variance": (twin - 1.5) ** 2}, {"variance": biased}) < AGREE


def batch_well(position, gradient, bound):
    """sum over the rows x of the batch of c (q - x)^2/2 in one dimension; c = constants[0]."""
    X, c = bound[0], bound[2][0]
    gradient[0], total = 0.0, 0.0
    for mu in range(X.shape[0]):
        gradient[0] += c * (position[0] - X[mu, 0])
        total += 0.5 * c * (position[0] - X[mu, 0]) ** 2
    return total


def sgld_draws(P: int, B: int, k: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).standard_normal((P, 1)) * 3
    energy = Bound.make(batch_well, X[:B], np.zeros(B), (k / B,))
    q = rows(energy, method="sgld", step=step, batch=(X, np.zeros(P)), chains=1, draws=60000, warmup=100, thin=2)
    return q, X[:, 0]


def test_the_bias_of_minibatches_is_known_on_a_well():
    """With q' = (1 - eta k) q + eta k mean(batch) + sqrt(2 eta) xi, eta = step^2/2, and Var mean(batch) =
    s^2/B (P - B)/(P - 1): variance (2 eta + eta^2 k^2 Var)/(1 - (1 - eta k)^2)."""
    P, B, k, step = 12, 3, 1.5, 0.7
    q, x = sgld_draws(P, B, k, step)
    eta = step**2 / 2
    spread = x.var() / B * (P - B) / (P - 1)
    expected = (2 * eta + eta**2 * k**2 * spread) / (1 - (1 - eta * k) ** 2)
    q = np.concatenate(np.split(q, 4, axis=1))  # pieces of one chain, as chains
    assert disagreement({"mean": q[:, :, 0], "variance": (q[:, :, 0] - x.mean()) ** 2},
                        {"mean": x.mean(), "variance": expected}) < AGREE
    with_replacement = (2 * eta + eta**2 * k**2 * x.var() / B) / (1 - (1 - eta * k) ** 2)
    full_batch = 2 * eta / (1 - (1 - eta * k) ** 2)
    for wrong in (with_replacement, full_batch):
        assert disagreement({"variance": (q[:, :, 0] - x.mean()) ** 2}, {"variance": wrong}) > AGREE


def test_a_decreasing_step_loses_its_bias():
    options = dict(size=4, step=1.1, chains=4, draws=4000, thin=3, seed=1, warmup=0)
    fading = Method("fading", accept=False, decay=0.33, delay=30.0)
    late = (rows(WELL, method=fading, **options)[:, 2000:] - 1.5) ** 2
    step = 1.1 * (1 + np.arange(6000, 12000) / 30.0) ** -0.33
    left = (0.5 / (1 - 2.0 * step**2 / 4)).mean()
    assert 0.5 < left < 0.53
    assert disagreement({"variance": late}, {"variance": np.full(4, left)}, effective=500) < AGREE


# --- exactness --------------------------------------------------------------------------------------------


def tilted_moments() -> dict[str, float]:
    def integral(n: int) -> float:
        return scipy.integrate.quad(lambda q: q**n * np.exp(-(q**4) / 4 + q**2 - 0.7 * q), -8, 8)[0]

    return {f"q^{n}": integral(n) / integral(0) for n in (1, 2, 3)}


GENERALISED = {
    "kept momentum": Method("ghmc", splitting="OBABO", refresh=False, friction=1.0, target_acceptance=0.8),
    "baoab": Method("baoab", splitting="BAOAB", refresh=False, target_acceptance=0.8),
    "bath inside a trajectory": Method("malt", splitting="OBABO", repeats=4, target_acceptance=0.8),
    "two stages": Method("two", splitting="BABAB", coefficients=(0.2, 0.5, 0.6, 0.5, 0.2), repeats=3),
}


@pytest.mark.parametrize("name", GENERALISED)
@pytest.mark.parametrize("adapt_mass", [False, True])
def test_any_palindrome_with_an_accept_test_is_exact(name, adapt_mass):
    q = rows(TILTED, method=GENERALISED[name], chains=4, draws=6000, thin=6, seed=2, adapt_mass=adapt_mass)[:, :, 0]
    assert disagreement({f"q^{n}": q**n for n in (1, 2, 3)}, tilted_moments()) < AGREE


@pytest.mark.parametrize("word", ["BAB", "BABAB", "BABABAB"])
def test_trajectories_are_reversible_and_preserve_volume(word):
    """Forward, momentum reversed, forward again: back to the start; and the Jacobian's determinant is 1."""
    def flow(q: np.ndarray, p: np.ndarray) -> np.ndarray:
        chain = Chain(0, TILTED, COORDINATES, Method("flow", splitting=word + "O" + word, refresh=False, accept=False,
                                                     friction=1e-300), np.random.SeedSequence(0), lambda rng: q, 0.2)
        chain.warm_up(0, lambda: False)
        chain.state[MOMENTUM] = p
        chain.step_by(np.empty((1, 0)), np.empty((1, len(STATISTICS))), False, 1)
        return np.concatenate([chain.state[POSITION], chain.state[MOMENTUM]])

    q, p = np.array([0.3, -1.2]), np.array([0.7, 0.4])
    end = flow(q, p)
    back = flow(end[:2], -end[2:])
    np.testing.assert_allclose(back, np.concatenate([q, -p]), atol=1e-13)
    assert np.abs(end[:2] - q).max() > 0.05
    x, h = np.concatenate([q, p]), 1e-5
    jacobian = [(flow(*np.split(x + h * e, 2)) - flow(*np.split(x - h * e, 2))) / (2 * h) for e in np.eye(4)]
    assert abs(np.linalg.det(np.array(jacobian))) == pytest.approx(1.0, abs=1e-8)


# --- exact draws ------------------------------------------------------------------------------------------


@njit
def _gammas(stream, shape, out):
    for k in range(out.size):
        out[k] = draw_gamma(stream, shape)


@pytest.mark.parametrize("shape", [0.4, 1.0, 7.5])
def test_gamma_draws(shape):
    out = np.empty(20000)
    _gammas(new_stream(np.random.SeedSequence(4)), shape, out)
    assert scipy.stats.kstest(out, scipy.stats.gamma(shape).cdf).pvalue > 1e-4
    assert scipy.stats.kstest(out, scipy.stats.gamma(shape * 1.15).cdf).pvalue < 1e-4


@pytest.mark.parametrize("N, P", [(3, 5), (5, 3)])
def test_the_readout_is_drawn_from_its_law_by_either_factor(N, P):
    rng = np.random.default_rng(1)
    Phi, y, noise = rng.standard_normal((N, P)), rng.standard_normal(P), 0.3
    draws, stream = np.empty((20000, N)), new_stream(np.random.SeedSequence(2))
    for b in draws:
        draw_gaussian(Phi, y, noise, stream, b)
    covariance = np.linalg.inv(np.eye(N) + Phi @ Phi.T / noise)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - covariance @ Phi @ y / noise).T)
    for row in white:
        assert scipy.stats.kstest(row, "norm").pvalue > 1e-4
    off = (np.corrcoef(white) - np.eye(N)) * math.sqrt(len(draws))
    assert np.abs(off).max() < AGREE
    wrong = np.linalg.solve(np.linalg.cholesky(1.1 * covariance), (draws - covariance @ Phi @ y / noise).T)
    assert min(scipy.stats.kstest(row, "norm").pvalue for row in wrong) < 1e-4


@cache
def series_of(net: Network, options: tuple, seed: int) -> dict[str, np.ndarray]:
    return {name: values for name, (_, values) in observables(sample(net, DATA, seed=seed, **dict(options))).items()}


def compare(net: Network, one: dict, other: dict, effective: float = 600) -> float:
    """The largest |z| of the difference of all invariant observables between two ways of sampling."""
    series = [series_of(net, tuple(options.items()), 3 + k) for k, options in enumerate((one, other))]
    worst = 0.0
    for name in series[0]:
        a, b = (s[name] for s in series)
        assert min(np.min(ess(a)), np.min(ess(b))) > effective and max(np.max(rhat(a)), np.max(rhat(b))) < 1.03, name
        z = (a.mean(axis=(0, 1)) - b.mean(axis=(0, 1))) / np.hypot(mcse(a), mcse(b))
        worst = max(worst, float(np.abs(z).max()))
    return worst


DATA = ising(6, 3, seed=2, label_scale=1.5)
HMC = dict(method="hmc", chains=4, draws=2500)


def network(activation="erf", **options) -> Network:
    return Network(activation=activation, width=5, readout_variance=1.2, weight_variance=1.5, noise_variance=0.3,
                   scaling=Scaling.standard(), **options)


KINKED = ("readout", "float32")
WAYS = {
    "mala": dict(method="mala", chains=4, draws=2500, thin=25),
    "readout": dict(HMC, gibbs="readout"),
    "readout-mala": dict(method="mala", chains=4, draws=3000, thin=20, gibbs=("readout",), gibbs_every=3),
    "underdamped": dict(method="underdamped", step=0.15, chains=4, draws=2000, thin=40),
    "float32": dict(HMC, dtype="float32"),
    "mass": dict(HMC, adapt_mass=True),
    "tempering": dict(HMC, tempering=3, draws=800),
}
#: What differs in kind for an activation with a kink is tested with it by default too.
CASES = [pytest.param(activation, way, marks=[pytest.mark.slow] * (activation == "relu" and way not in KINKED))
         for activation in ("erf", "relu") for way in WAYS]


@pytest.mark.parametrize("activation, way", CASES)
def test_every_way_agrees_with_hmc(activation, way):
    assert compare(network(activation), HMC, WAYS[way]) < AGREE


@pytest.mark.slow
@pytest.mark.parametrize("way", [dict(method="ula", step=0.05, chains=4, draws=3000, thin=300),
                                 dict(method="sgld", step=0.03, batch_size=3, chains=4, draws=3000, thin=600)])
def test_biased_ways_agree_at_a_small_step(way):
    assert compare(network(), HMC, way, effective=300) < AGREE


def test_another_noise_would_be_seen():
    """The twin of the comparisons above."""
    assert compare(network(), HMC, HMC) < AGREE
    one, other = (series_of(net, tuple(HMC.items()), 3) for net in (network(), network().replace(noise_variance=0.6)))
    assert disagreement({"f": other["mean_output"]}, {"f": one["mean_output"].mean(axis=(0, 1))}, effective=600) > AGREE


RELEVANCE = {"moved": {}, "drawn": dict(gibbs="precision"), "readout": dict(gibbs=("readout", "precision")),
             "tempering": dict(tempering=2, gibbs="precision")}


@pytest.mark.parametrize("way", RELEVANCE)
def test_precisions_moved_or_drawn_have_one_law(way):
    net = network(prior=ARD(3.0), bias_variance=0.4)
    assert compare(net, dict(HMC, thin=2), dict(HMC, **RELEVANCE[way]), effective=400) < AGREE


ONE = Network(activation="erf", width=1, readout_variance=1.5, weight_variance=1.0, noise_variance=0.2,
              scaling=Scaling.standard(), prior=ARD(2.5, 1.5))
TWO_INPUTS = Dataset(np.array([[0.7], [-1.6]]), np.array([1.1, -0.8]))


def one_neuron(net: Network, data: Dataset) -> dict[str, np.ndarray]:
    """Means for one neuron on one input: λ integrated out by hand, a given w Gaussian, and w by quadrature.

    Of w² the logarithm: its own tail is so heavy that its mean has a large error.
    """
    (X, y), g, s = (data.X[:, 0], data.y), net.readout_prior_variance(), net.effective_noise_variance()
    shape, rate = net.precision_prior(1)

    def moments(w: float) -> np.ndarray:
        phi = scipy.special.erf(w * X)
        variance = 1 / (1 / g + phi @ phi / s)
        mean = variance * (phi @ y) / s
        weight = math.sqrt(variance) * math.exp(mean**2 / (2 * variance)) * (rate + w * w / 2) ** -(shape + 0.5)
        return weight * np.array([1.0, *(mean * phi), mean**2 + variance, math.log1p(w * w)])

    total, *rest = scipy.integrate.quad_vec(moments, 0, np.inf, epsrel=1e-10)[0]  # erf is odd: half of all w are enough
    return {"f": np.array(rest[:2]) / total, "a^2": rest[2] / total, "ln(1 + w^2)": rest[3] / total}


@pytest.mark.parametrize("blocks", [(), ("precision",)])
def test_one_neuron_with_a_precision_against_quadrature(blocks):
    """And the twin: without the Jacobian dλ/dv the law of λ would be Gamma(α0 - 1, β0)."""
    def drawn(net: Network) -> dict[str, np.ndarray]:
        posterior = sample(net, TWO_INPUTS, method="hmc", chains=4, draws=4000, thin=4, gibbs=blocks, seed=5,
                           directions=[[1.0]])["posterior"]
        return {"f": posterior["output"].values, "a^2": posterior["readout_norm"].values,
                "ln(1 + w^2)": np.log1p(posterior["direction_overlap"].values[..., 0])}

    expected = one_neuron(ONE, TWO_INPUTS)
    assert disagreement(drawn(ONE), expected) < AGREE
    assert disagreement(drawn(ONE.replace(prior=ARD(1.5, 1.5))), expected) > 2 * AGREE


# --- tempering --------------------------------------------------------------------------------------------


def double_well(position, gradient, bound):
    """constants[2] is the noise: (q^2 - 4)^2/(4 noise) + 0.6 (q - 2)/noise/10 + (q/8)^2/2."""
    q, s = position[0], bound[2][2]
    gradient[0] = (q**3 - 4.0 * q) / s + 0.06 / s + q / 64.0
    return (q**2 - 4.0) ** 2 / (4.0 * s) + 0.06 * (q - 2.0) / s + q * q / 128.0


DOUBLE = Bound.make(double_well, constants=(0.0, 0.0, 0.15))


def share_of_the_right_well() -> float:
    def density(q: float) -> float:
        return math.exp(-((q**2 - 4) ** 2) / 0.6 - 0.06 * (q - 2) / 0.15 - q * q / 128)

    right, left = (scipy.integrate.quad(density, *ends)[0] for ends in ((0, 6), (-6, 0)))
    return right / (left + right)


def tempered(temperatures, draws: int = 4000, chains: int = 4, energy: Bound = DOUBLE, **options) -> tuple:
    out, ladders = np.empty((chains, draws, 1)), []
    for k, seed in enumerate(np.random.SeedSequence(7).spawn(chains)):
        ladder = Ladder(k, energy, COORDINATES, METHODS["hmc"], seed, lambda rng: np.array([2.0]),
                        temperatures=temperatures, **options)
        stats = np.empty((draws, len(statistics_of(len(temperatures)))))
        ladder.run(out[k], stats, 1000, 1, lambda: False)
        np.testing.assert_allclose(np.nanmean(stats[:, len(STATISTICS) :], axis=0), ladder.swap_rates, atol=0.1)
        ladders.append(ladder)
    return out[:, :, 0] > 0, ladders


def test_tempering_finds_the_other_well_with_the_right_weight():
    """From q = 2 the barrier is 27 high: MALA never crosses it; a ladder does, and knows the weights."""
    options = dict(method="mala", chains=2, draws=5000)
    assert (run(lambda: DOUBLE, lambda: COORDINATES, 1, lambda rng: np.array([2.0]), **options).rows > 0).all()
    right, ladders = tempered((1.0, 2.0, 8.0, 30.0, 100.0), draws=1500)
    assert disagreement({"right": right.astype(float)}, {"right": share_of_the_right_well()}, effective=300) < AGREE
    assert disagreement({"right": right.astype(float)}, {"right": 0.5}, effective=300) > AGREE
    for ladder in ladders:  # towards equal rates, from rungs that were not
        rates = ladder.swap_rates
        assert rates.min() > 0.3 and rates.max() - rates.min() < 0.25, rates


def test_a_ladder_cut_anywhere_goes_on_bit_by_bit():
    def new() -> Ladder:
        return Ladder(0, DOUBLE, COORDINATES, METHODS["hmc"], np.random.SeedSequence(3), lambda rng: np.array([2.0]),
                      temperatures=(1.0, 10.0, 100.0), swap_every=2)

    whole, parts, stats = np.empty((40, 1)), np.empty((40, 1)), np.empty((40, len(statistics_of(3))))
    new().run(whole, stats, 60, 3, lambda: False)
    begin, saved = 0, None
    while begin < 40:
        ladder = new()
        if saved is not None:
            ladder.restore(saved)
        begin += ladder.run(parts[begin:], stats[begin:], 60, 3, Cut(5))
        saved = ladder.snapshot()
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize("options", [dict(method="hmc", gibbs="readout"), dict(method="sgld", batch_size=2),
                                     dict(method="underdamped"), dict(method="hmc", tempering=3)], ids=str)
def test_threads_do_not_change_a_bit(options):
    some = dict(chains=3, draws=20, warmup=40, seed=1, **options)
    one, three = (sample(network(), DATA, threads=threads, **some)["posterior"]["output"].values for threads in (1, 3))
    assert np.array_equal(one, three)


def test_the_step_is_adapted_to_the_acceptance_asked_for():
    stats = [sample(network(), DATA, chains=4, draws=200, warmup=300, seed=2, target_acceptance=target)["sample_stats"]
             for target in (0.6, None, 0.95)]  # None: .8
    steps = [float(one["step_size"].mean()) for one in stats]
    assert steps[0] > 1.2 * steps[1] > 1.4 * steps[2]
    assert 0.9 < float(stats[2]["acceptance_rate"].mean()) < 0.99


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument, value", [
    ("splitting", "BABA"), ("splitting", "ABA"), ("splitting", "BCB"), ("coefficients", (0.5, 1.0)),
    ("coefficients", (0.3, 1.0, 0.3)), ("friction", 0.0), ("refresh", False), ("minibatch", True), ("decay", 0.5)])
def test_methods_that_make_no_sense(argument, value):
    with pytest.raises(BadInput, match=argument):
        Method("mine", **{argument: value})


@pytest.mark.parametrize("argument, options", [
    ("gibbs", dict(gibbs="reedout")), ("gibbs", dict(gibbs="precision")), ("gibbs_every", dict(gibbs_every=2)),
    ("batch_size", dict(method="sgld", batch_size=7)), ("batch_size", dict(method="hmc", batch_size=2)),
    ("tempering", dict(tempering=1)), ("tempering", dict(tempering=[0.1, 0.2])),
    ("tempering", dict(method="sgld", tempering=3, step=0.1)), ("target_acceptance", dict(target_acceptance=1.2)),
    ("target_acceptance", dict(target_acceptance="high"))])
def test_bad_options_are_named(argument, options):
    with pytest.raises((BadInput, UnknownName), match=argument):
        sample(network(), DATA, chains=1, draws=5, warmup=30, **options)
