"""Theory against Langevin chains that know none: what must be kept is kept, and what is wrong is rejected.

Fixed seeds; the effective sample size is tested first; z-scores from Monte-Carlo standard errors, two-sided, all
observables at once.  Every test has twins that must fail: a theory that is wrong at this width, and chains that are.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from fieldtheory import exact, tasks
from fieldtheory.catalogue import theories
from fieldtheory.dataset import Dataset
from fieldtheory.network import Network, Scaling
from fieldtheory.sampling import sample, summarise
from fieldtheory.testing import assert_agrees, assert_rejected

MINIMUM = 2000
"""Effective samples behind every observable."""


def network(width: int) -> Network:
    return Network(width=width, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0,
                   scaling=Scaling.mean_field())


def dataset(name: str) -> Dataset:
    return tasks.ising(30, 40, seed=5) if name == "ising" else tasks.digits(samples=60, seed=2)


@cache
def chains(name: str, method: str, draws: int, thin: int, step: float | None) -> Any:
    return sample(network(60), dataset(name), method=method, chains=4, draws=draws, thin=thin, step=step, seed=11,
                  warmup=1500 if step is not None else None)


def effective(samples: Any, prediction: Any) -> float:
    return float(summarise(samples, along=prediction.mean_output.values).attrs["smallest_ess"])


@pytest.mark.parametrize(("name", "view"), [("ising", "rescaling"), ("digits", "adaptation")])
def test_what_is_exact_or_close_agrees_and_what_is_neither_does_not(name: str, view: str) -> None:
    """The saddle in Q misses the directional part of the variance; the tree level in j the fluctuation of Q."""
    net, data = network(60), dataset(name)
    samples = chains(name, "hmc", 3000, 1, None)
    truth = exact.linear(net, data)
    assert effective(samples, truth) >= MINIMUM
    assert_agrees(truth, samples, minimum_ess=MINIMUM)
    assert_agrees(theories["linear"](net, view="rescaling", loops=2).predict(data), samples, minimum_ess=MINIMUM)
    assert_rejected(theories["nngp"](net).predict(data), samples, minimum_ess=MINIMUM)
    assert_rejected(theories["linear"](net, view=view, loops=0).predict(data), samples, minimum_ess=MINIMUM)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ising", "digits"])
def test_metropolis_adjusted_langevin_agrees_with_the_oracle(name: str) -> None:
    samples = chains(name, "mala", 4000, 25, None)
    truth = exact.linear(network(60), dataset(name))
    assert effective(samples, truth) >= MINIMUM
    assert_agrees(truth, samples, minimum_ess=MINIMUM)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ising", "digits"])
def test_chains_without_the_accept_step_at_too_large_a_step_are_rejected(name: str) -> None:
    samples = chains(name, "ula", 3000, 20, 0.2)
    truth = exact.linear(network(60), dataset(name))
    assert effective(samples, truth) >= MINIMUM
    assert_rejected(truth, samples, minimum_ess=MINIMUM)
