"""Statistics against series whose errors are known, and verdicts on chains that are wrong in one known way each."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory.errors import BadInput
from fieldtheory.sampling import diagnostics, ess, mcse, rhat, sample, summarise, to_inference_data
from fieldtheory.sampling.diagnostics import bfmi, ess_tail, mcse_sd, observables, shortfall

CHAINS, DRAWS, ENTRIES = 8, 500, 3


def noise(seed: int = 0, shape: tuple[int, ...] = (CHAINS, DRAWS, ENTRIES)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def samples(f: np.ndarray, method: str = "hmc", step: float | None = None, accept_test: int = 1,
            **statistics: np.ndarray) -> object:
    shape = f.shape[:2]
    given = {"acceptance_rate": np.full(shape, 0.8), "lp": noise(1, shape), "energy": noise(2, shape),
             "step_size": np.full(shape, 0.1), "n_steps": np.full(shape, 9), "diverging": np.zeros(shape)}
    target = {"target": (("sample",), np.ones(f.shape[2]))}
    attributes = {"method": method, "accept_test": accept_test} | ({} if step is None else {"step": step})
    return to_inference_data({"output": (("sample",), f)}, given | statistics, target, attributes)


def autoregressive(rho: float, seed: int = 3) -> np.ndarray:
    steps = noise(seed, (CHAINS, DRAWS, 1)) * np.sqrt(1 - rho**2)
    x = np.empty_like(steps)
    x[:, 0] = noise(seed + 1, (CHAINS, 1))
    for k in range(1, DRAWS):
        x[:, k] = rho * x[:, k - 1] + steps[:, k]
    return x


# ------------------------------------------------------------------------------------------------ statistics


def test_effective_samples_and_errors_of_an_autoregression() -> None:
    """x_k = ρ x_{k-1} + noise: variance 1, ESS n (1-ρ)/(1+ρ); squares have ρ² in place of ρ."""
    n = CHAINS * DRAWS
    for rho in (0.0, 0.5, 0.8):
        x = autoregressive(rho)
        expected = n * (1 - rho) / (1 + rho)
        assert ess(x)[0] == pytest.approx(expected, rel=0.2)
        assert mcse(x)[0] == pytest.approx(expected**-0.5, rel=0.15)
        assert mcse_sd(x)[0] == pytest.approx((n * (1 - rho**2) / (1 + rho**2)) ** -0.5 / np.sqrt(2), rel=0.15)
        assert 0.3 * expected < ess_tail(x)[0] < 1.5 * n
        assert rhat(x)[0] < 1.05


def test_bfmi_of_energies() -> None:
    assert bfmi(noise(0, (4, 4000))) == pytest.approx(np.full(4, 2.0), rel=0.1)  # 2 (1 - ρ)
    assert bfmi(autoregressive(0.95)[..., 0]).max() < 0.3
    assert np.isnan(bfmi(np.ones((2, 5)))).all()


def test_the_gate() -> None:
    assert shortfall([500, 400], [1.0, 1.05]) is None
    assert shortfall([500, 399], [9.0, 1.0]) == ("ess", 1)
    assert shortfall([500, 400], [1.0, 1.06]) == ("rhat", 1)
    assert shortfall([np.nan, 500], [1.0, 1.0]) == ("ess", 0) and shortfall([500], [np.nan]) == ("rhat", 0)
    assert shortfall([5], [1.2], minimum_ess=4, maximum_rhat=1.3) is None


def test_the_summary_has_every_statistic() -> None:
    f = noise()
    table = summarise(samples(f))
    assert tuple(table.statistic.values) == diagnostics.STATISTICS
    found = table["mean_output"]
    for name, value in {"mean": f.mean((0, 1)), "sd": f.std((0, 1)), "mcse": mcse(f), "mcse_sd": mcse_sd(f),
                        "ess": ess(f), "ess_tail": ess_tail(f), "rhat": rhat(f)}.items():
        assert np.array_equal(found.sel(statistic=name), value), name


def test_whatever_was_sampled_is_an_observable() -> None:
    drawn = samples(noise())
    drawn["posterior"]["precision"] = (("chain", "draw", "input"), noise(5, (CHAINS, DRAWS, 2)))
    assert observables(drawn)["precision"][0] == ("input",)


# ------------------------------------------------------------------------------------------------ verdicts


def test_good_chains_converge() -> None:
    found = ft.diagnose(samples(noise()))
    assert found and found.converged and found.causes == () and found.notes == ()
    assert found.verdict.startswith("converged: R-hat at most 1.0")
    assert "mean_output" in str(found) and "chain 7: acceptance 0.80" in str(found)
    assert "<b>converged</b>" in found._repr_html_() and found.table["mean_output"].sizes["sample"] == ENTRIES
    assert set(found.chains.data_vars) == {"acceptance_rate", "step_size", "leapfrog", "bfmi", "divergences"}


def shifted(chains: list[int]) -> np.ndarray:
    f = noise()
    f[chains, :, 1] += 3
    return f


def spread() -> np.ndarray:
    f = noise()
    f[:, :, 1] += np.arange(CHAINS)[:, None]
    return f


def drifting() -> np.ndarray:
    f = noise()
    f[:, :, 1] += np.maximum(0, 1 - np.arange(DRAWS) / 250) * np.linspace(-9, 9, CHAINS)[:, None]
    return f


def frozen() -> np.ndarray:
    f = noise()
    f[3] = 1
    return f


def infinite() -> np.ndarray:
    f = noise()
    f[0, 0, 2] = np.inf
    return f


@pytest.mark.parametrize(("f", "because", "remedy"), [
    (shifted([2, 5]), r"R-hat of mean_output\[1\] is 1\.\d+ \(.*chains 2 and 5 stay in another mode: 2\.9\d* against",
     "tempering"),
    (shifted([4]), r"chain 4 stays in another mode", "tempering"),
    (shifted([0, 1, 2, 3, 4, 6]), r"chains 5 and 7 stay in another mode", "tempering"),
    (spread(), r"each chain stays near a value of its own, from .* to 7\.", "tempering"),
    (drifting(), r"second halves only", "warm-up"),
    (np.cumsum(noise(), axis=1), r"too slowly", "times as many iterations"),
    (autoregressive(0.97), r"R-hat|effective samples", "gibbs"),
    (noise()[:, :20], r"there are \d+ effective samples", "times as many"),
    (frozen(), r"chain 3 did not move", "initial="),
    (infinite(), r"mean_output\[2\] is not finite", "smaller step"),
    (noise()[:1], r"one chain cannot", "chains=4"),
    (np.ones((CHAINS, DRAWS, 1)), r"nothing varies", "larger step"),
], ids="two one most spread drifting walking slow few frozen infinite single constant".split())
def test_each_way_of_going_wrong_has_its_words(f: np.ndarray, because: str, remedy: str,
                                                recwarn: pytest.WarningsRecorder) -> None:
    found = ft.diagnose(samples(f))
    assert not found and found.verdict.startswith("not converged, because ")
    first = found.causes[0]
    assert re.search(because, first.because), first
    assert remedy in first.remedy, first
    assert first.because in str(found) and first.remedy.split("'")[0] in found._repr_html_()
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_divergences_and_energies() -> None:
    many, one = np.zeros((CHAINS, DRAWS)), np.zeros((CHAINS, DRAWS))
    many[0, :50], one[2, 3] = 1, 1
    found = ft.diagnose(samples(noise(), diverging=many))
    assert "50 of 4000 draws diverged" in found.verdict and "step=0.05" in found.causes[0].remedy
    assert ft.diagnose(samples(noise(), diverging=one))  # one in four thousand proves nothing
    assert "BFMI is 0." in ft.diagnose(samples(noise(), energy=autoregressive(0.98)[..., 0])).notes[0]
    steps = np.where(np.arange(CHAINS) == 6, 0.01, 0.1)[:, None] * np.ones(DRAWS)
    assert "chain 6 adapted a step of 0.01" in ft.diagnose(samples(noise(), step_size=steps)).notes[0]
    assert "without accept test" in ft.diagnose(samples(noise(), "ula", accept_test=0)).notes[0]


def test_the_remedy_fits_the_acceptance() -> None:
    for rate, words in ((0.02, "a smaller step (acceptance is 0.02)"), (0.999, "a longer warm-up (acceptance")):
        found = ft.diagnose(samples(autoregressive(0.99), "mala", acceptance_rate=np.full((CHAINS, DRAWS), rate)))
        assert words in found.causes[0].remedy and "method='hmc'" in found.causes[0].remedy


@pytest.mark.parametrize("rate, accept_test, words", [
    (0.9999, 1, "the step of 0.2 that was given is too small (acceptance is 0.9999"),
    (0.9999, 0, "the step of 0.2 that was given is too small"),
    (0.995, 0, None), (0.8, 1, None), (0.02, 1, "the step of 0.2 that was given is too large (acceptance is 0.02)")])
def test_a_step_that_was_given_is_judged_by_the_acceptance(rate: float, accept_test: int, words: str | None) -> None:
    rates = np.full((CHAINS, DRAWS), rate)
    found = ft.diagnose(samples(autoregressive(0.99), step=0.2, accept_test=accept_test, acceptance_rate=rates))
    assert (words or "R-hat") in found.causes[0].because
    assert words is None or (len(found.causes) == 1 and "step=None" in found.causes[0].remedy)
    assert ft.diagnose(samples(noise(), step=0.2, acceptance_rate=rates))  # the chains have moved all the same


def test_tiny_steps_are_recognised_by_every_method() -> None:
    net = ft.Network(activation="erf", width=3, readout_variance=1.0, weight_variance=1.0, noise_variance=0.3)
    for method in ("hmc", "mala", "ula", "underdamped"):
        drawn = sample(net, ft.tasks.ising(4, 2, seed=0), method=method, step=1e-4, warmup=0, chains=3, draws=100)
        (cause,) = ft.diagnose(drawn).causes
        assert "the step of 0.0001 that was given is too small" in cause.because, method


def test_outputs_that_do_not_depend_on_the_weights() -> None:
    net = ft.Network(activation="erf", width=3, readout_variance=1.0, weight_variance=1.0, noise_variance=0.3)
    found = ft.diagnose(sample(net, ft.Dataset(np.zeros((3, 2)), np.ones(3)), chains=4, draws=400, seed=0))
    assert "likelihood is constant" in found.causes[0].because
    assert float(found.chains.step_size.max()) <= 1.0  # of the trajectory's length: no step is longer


def test_rungs_that_never_exchange() -> None:
    few, often = np.full((CHAINS, DRAWS), np.nan), np.full((CHAINS, DRAWS), 0.4)
    few[:, ::7] = 0.003
    found = ft.diagnose(samples(noise(), exchange_0=often, exchange_1=few))
    assert [cause.because for cause in found.causes] == [
        "rungs 1 and 2 of the ladder exchange 0.003 of the times that it is proposed"]
    assert ft.diagnose(samples(noise(), exchange_0=often))
    net = ft.Network(activation="erf", width=3, readout_variance=1.0, weight_variance=1.0, noise_variance=1e-3)
    data, options = ft.tasks.ising(12, 3, seed=0), dict(chains=2, draws=60, warmup=150, seed=0)
    drawn = sample(net, data, tempering=2, **options)
    assert "rungs 0 and 1" in ft.diagnose(drawn).verdict
    close = sample(net, data, tempering=[1.05e-3], **options)
    rates = close["sample_stats"]["exchange_0"].values
    assert 0.2 < np.nanmean(rates) <= 1 and "rungs" not in ft.diagnose(close).verdict


def test_constants_are_noted_and_do_not_count() -> None:
    f = noise()
    f[:, :, 0] = 0.0
    found = ft.diagnose(samples(f))
    assert found and found.notes == ("mean_output[0] did not vary at all",)


def test_validate_asks_for_the_same() -> None:
    """What `diagnose` does not pass, `validate` does not judge."""
    f = shifted([2, 5]) + 1
    prediction = ft.exact.linear(ft.Network(width=3, readout_variance=1, weight_variance=1, noise_variance=1),
                                 ft.Dataset(np.eye(3), np.ones(3)))
    verdict = ft.validate(prediction, samples(f))
    assert verdict.status == "undecided" and not ft.diagnose(samples(f))


def test_thresholds_can_be_set() -> None:
    f = noise()[:, :40]
    assert not ft.diagnose(samples(f)) and ft.diagnose(samples(f), minimum_ess=100, maximum_rhat=1.1)


def test_a_network_with_two_modes_is_caught() -> None:
    """f = a w, y large: the posterior is ±; the readout's sign is not an observable, but with a bias it shows."""
    net = ft.Network(activation="relu", width=1, readout_variance=1.0, weight_variance=1.0, noise_variance=1e-4,
                     bias_variance=1.0)
    data = ft.Dataset([[1.0], [-1.0]], [1.0, 1.0])
    found = ft.diagnose(sample(net, data, method="hmc", chains=6, draws=300, warmup=300, seed=2))
    assert not found and found.causes


@pytest.mark.parametrize(("argument", "call"), [
    ("samples", lambda: ft.diagnose(3)),
    ("samples", lambda: ft.diagnose(samples(noise()[:, :3]))),
    ("minimum_ess", lambda: ft.diagnose(samples(noise()), minimum_ess=0)),
    ("maximum_rhat", lambda: ft.diagnose(samples(noise()), maximum_rhat=-1)),
    ("along", lambda: ft.diagnose(samples(noise()), along=np.ones(2))),
])
def test_bad_input(argument: str, call: object) -> None:
    with pytest.raises(BadInput, match=f"^{argument}: got"):
        call()
