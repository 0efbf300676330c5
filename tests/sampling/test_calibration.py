"""Simulation-based calibration: weights from the prior, data from the weights, ranks of the truth among the draws.

If weights, then data are drawn from the model, the weights are themselves a draw from the posterior given those data,
and the rank of any function of them among L independent draws is uniform on 0..L (Talts et al. 2018; the likelihood
among the functions, Modrák et al. 2023).  The simulator is written a second time here, from the definition of the
network: a helper in the package would share its errors.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import scipy.stats

from fieldtheory.dataset import Dataset
from fieldtheory.network import ARD, Network, Scaling
from fieldtheory.sampling import METHODS, sample

D, P, DRAWS, FEW, MANY = 2, 6, 31, 64, 600
# Short steps: a small network is stiff where its weights are large, and a rank forgives no chain that stays too long.
CAREFUL = replace(METHODS["hmc"], target_acceptance=0.9)
PHI = {"erf": scipy.special.erf, "identity": lambda h: h, "relu": lambda h: np.maximum(h, 0)}
BASE = Network(width=3, readout_variance=2.0, weight_variance=2.5, noise_variance=0.6, scaling=Scaling(1, 1))
NETS = {
    "erf with bias": BASE.replace(activation="erf", bias_variance=1.5),
    "ARD": BASE.replace(activation="erf", prior=ARD(1.5, 0.4)),
    "identity": BASE,
}
SLOW = {
    # At small α0 and without a bound on φ large weights can stand before small readouts, where every step is too long.
    "relu with bias and ARD": BASE.replace(activation="relu", bias_variance=0.5, prior=ARD(8.0)),
    "identity with bias": BASE.replace(bias_variance=1.5, width=2),
    "wide": BASE.replace(activation="erf", width=8, scaling=Scaling.mean_field(), bias_variance=0.3),
}


def simulate(net: Network, rng: np.random.Generator) -> tuple[Dataset, dict[str, float]]:
    """A data set drawn from the model, and functions of the weights it was drawn from."""
    N = net.width
    X = rng.normal(size=(P + 1, D))
    variance = np.full(D, net.weight_variance / D)
    if isinstance(net.prior, ARD):
        rate = net.prior.beta0 or net.prior.alpha0 * net.weight_variance / D
        variance = 1 / rng.gamma(net.prior.alpha0, 1 / rate, size=D)
    a = rng.normal(size=N) * np.sqrt(net.readout_variance * float(N) ** -net.scaling.readout)
    h = X @ (rng.normal(size=(N, D)) * np.sqrt(variance)).T + rng.normal(size=N) * np.sqrt(net.bias_variance)
    f = PHI[net.activation](h) @ a
    y = f[:P] + rng.normal(size=P) * np.sqrt(net.noise_variance * float(N) ** -net.scaling.noise)
    overlap = ((y @ h[:P]) ** 2).sum() / N / (y @ y)
    truth = {"f": f[0], "f at the test input": f[P], "readout norm": a @ a, "overlap": overlap}
    return Dataset(X[:P], y, X[P:]), truth | {"misfit": ((f[:P] - y) ** 2).sum()}


def drawn(net: Network, data: Dataset, seed: int, warmup: int) -> dict[str, np.ndarray]:
    """The same functions of the weights along one chain."""
    posterior = sample(net, data, method=CAREFUL, chains=1, draws=DRAWS, warmup=warmup, thin=16, seed=seed,
                       threads=1)["posterior"]
    f = posterior["output"].values[0]
    return {"f": f[:, 0], "f at the test input": posterior["test_output"].values[0, :, 0],
            "readout norm": posterior["readout_norm"].values[0],
            "overlap": posterior["hidden_kernel_overlap"].values[0], "misfit": ((f - data.y) ** 2).sum(axis=1)}


def p_values(truth: Network, assumed: Network, simulations: int, seed: int = 1, bins: int = 4) -> dict[str, float]:
    """χ² p-values of the ranks, after a gate: successive draws are nearly independent."""
    rng, warmup = np.random.default_rng(seed), 150 if simulations == FEW else 800
    ranks: dict[str, list[int]] = {}
    echoes: dict[str, list[float]] = {}
    for k in range(simulations):
        data, true = simulate(truth, rng)
        for name, values in drawn(assumed, data, k, warmup).items():
            ranks.setdefault(name, []).append(int((values < true[name]).sum()))
            z = (values - values.mean()) / values.std()
            echoes.setdefault(name, []).append(float(np.mean(z[1:] * z[:-1])) + 1 / DRAWS)  # its bias is -1/DRAWS
    assert max(np.mean(echo) for echo in echoes.values()) < 0.25, {k: np.mean(v) for k, v in echoes.items()}
    counts = {name: np.bincount(np.array(rank) * bins // (DRAWS + 1), minlength=bins) for name, rank in ranks.items()}
    return {name: float(scipy.stats.chisquare(count).pvalue) for name, count in counts.items()}


@pytest.mark.parametrize("name", NETS)
def test_ranks_are_uniform(name: str) -> None:
    found = p_values(NETS[name], NETS[name], FEW)
    assert min(found.values()) > 0.01 / len(found), found


def test_a_wrong_noise_is_seen() -> None:
    net = NETS["erf with bias"]
    found = p_values(net, net.replace(noise_variance=3 * net.noise_variance), FEW)
    assert min(found.values()) < 1e-6, found


def test_forgotten_biases_are_seen() -> None:
    net = NETS["erf with bias"].replace(bias_variance=4.0)
    found = p_values(net, net.replace(bias_variance=0), FEW)
    assert min(found.values()) < 1e-4, found


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS | SLOW)
def test_ranks_are_uniform_over_many_simulations(name: str) -> None:
    net = (NETS | SLOW)[name]
    found = p_values(net, net, MANY, seed=2, bins=16)
    assert min(found.values()) > 0.01 / len(found), found


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"noise_variance": 0.8}, {"prior": "gaussian"}, {"prior": ARD(2.5, 0.4)}], ids=str)
def test_many_simulations_see_smaller_errors(change: dict) -> None:
    net = NETS["ARD"]
    found = p_values(net, net.replace(**change), MANY, seed=2, bins=16)
    assert min(found.values()) < 1e-4, found
