"""The law of one site by weighted directions, near the edge of where it exists, against Gaussian laws."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from fieldtheory.onesite.lobes import ELONGATED, FEW, Elongated, apart, averaged, laguerre


@pytest.mark.parametrize("power", [0.0, 2.5, 300.0])
def test_radial_nodes_integrate_polynomials(power: float) -> None:
    z, weights = laguerre(3, power)
    for degree in range(6):
        exact = scipy.special.poch(power + 1, degree)
        assert abs(weights @ z**degree / exact - 1) < 1e-11
    assert abs(weights @ z**6 / scipy.special.poch(power + 1, 6) - 1) > 1e-13


def test_the_density_of_directions() -> None:
    """Its average over the prior is one, and draws weighted by its inverse have the moments of the prior."""
    rng = np.random.default_rng(0)
    laws = Elongated(np.eye(5)[:2])
    prior = rng.standard_normal((200000, 5))
    density = np.exp(laws.log_density(prior / np.linalg.norm(prior, axis=1, keepdims=True)))
    assert abs(density.mean() - 1) < 4 * density.std() / np.sqrt(len(density)) < 0.3
    units = laws.draw(64 * len(ELONGATED) * 2 * 20, rng)
    weights = np.exp(-laws.log_density(units))
    moments = (units * weights[:, None]).T @ units / weights.sum()
    assert np.abs(moments - np.eye(5) / 5).max() < 0.01
    assert (units**2).mean(axis=0)[0] > 0.3  # the draws themselves are not the prior's


@pytest.mark.parametrize("tilt", [0.5, 0.9, 0.998])
def test_the_second_moment_of_a_law_far_out(tilt: float) -> None:
    """exp(-(|x|² - tilt x_0²)/2): ⟨x_0²⟩ = 1/(1 - tilt).  Laws elongated along another direction miss it."""
    size = 6

    def energy_and_value(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 1000 + ((x**2).sum(axis=1) - tilt * x[:, 0]**2) / 2, x[:, 0]**2

    def tilts(units: np.ndarray) -> np.ndarray:
        return np.asarray(tilt * units[:, 0]**2)

    found = [averaged(energy_and_value, tilts, np.eye(size)[:2], np.random.default_rng(k))[:2] for k in range(8)]
    values = np.array([value for value, _ in found]) * (1 - tilt)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert min(effective for _, effective in found) > FEW
    assert error < 0.06 and abs(values.mean() - 1) < 5 * error
    if tilt > 0.99:
        _, effective, _ = averaged(energy_and_value, tilts, np.eye(size)[1:2], np.random.default_rng(0))
        assert effective < FEW


def test_directions_apart() -> None:
    units = np.array([[1.0, 0.0], [0.999, 0.0447], [-1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert np.array_equal(apart(units), units[[0, 3, 4]])
