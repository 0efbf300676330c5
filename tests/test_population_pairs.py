"""The fluctuation of the others' kernel in the population limit: a self-consistent medium, and pairs of sites."""

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.population.eigenvalues import ClassNodes, Equations, classes
from fieldtheory.population.pairs import PairLaw, chosen
from tests.populations import limit

NET = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1)


@pytest.fixture(scope="module")
def paired():
    return {resolvent: limit("collapsed-mean-field", NET, "hypercube", 2, resolvent=resolvent, loops=1)
            for resolvent in ("mean", "self-consistent")}


@pytest.fixture(scope="module")
def dressed():
    return limit("collapsed-mean-field", NET, "hypercube", 2, resolvent="self-consistent")


def cube(D: int) -> np.ndarray:
    return np.where((np.arange(2**D)[:, None] >> np.arange(D)) & 1, -1.0, 1.0)


class OnSamples:
    """The same equations on the 2^D samples themselves: S_n = ½ ln det + ½ yᵀ(…)⁻¹y, each flip a node of its own."""

    def __init__(self, nodes: np.ndarray, weights: np.ndarray, N: float, noise: float, D: int, k: int) -> None:
        self.X = cube(D)
        self.N, self.s, self.P = N, noise * len(self.X), len(self.X)
        w = (nodes[:, None, :] * self.X[None]).reshape(-1, D) / np.sqrt(D)
        self.log_weights = np.log(np.repeat(weights, len(self.X)))
        self.phi, self.y = np.maximum(w @ self.X.T, 0) / np.sqrt(N), self.X[:, :k].prod(axis=1)

    def clusters(self, C: np.ndarray, phi: np.ndarray, sites: int) -> tuple[np.ndarray, np.ndarray]:
        """S and the output of some sites, phi (..., n, P), in media with kernel (N-n)/(N-1) C."""
        M = self.s * np.eye(self.P) + (self.N - sites) / (self.N - 1) * C
        total = M + np.einsum("...na,...nb->...ab", phi, phi)
        j = np.linalg.solve(total, np.broadcast_to(self.y[:, None], (*total.shape[:-1], 1)))[..., 0]
        return np.linalg.slogdet(total)[1] / 2 + j @ self.y / 2, 1 - self.s * (j @ self.y) / self.P

    def medium(self, C: np.ndarray, p: np.ndarray, resolvent: str) -> np.ndarray:
        if resolvent == "mean":
            return (self.N - 1) * (self.phi.T * p) @ self.phi
        one = np.linalg.inv(self.s * np.eye(self.P) + C)
        screened = 1 + np.einsum("na,ab,nb->n", self.phi, one, self.phi)
        r = (self.phi.T * (p / screened)) @ self.phi
        return (self.N - 1) * np.linalg.solve(np.eye(self.P) - r @ one, r)  # c (1 - rG) = r

    def solve(self, resolvent: str, *, chains: float = 1.0, rounds: int = 200) -> tuple[float, np.ndarray]:
        n, others = len(self.phi), self.N - 1
        p = np.exp(self.log_weights - self.log_weights.max())
        p /= p.sum()
        C = self.medium(np.zeros((self.P, self.P)), p, "mean")
        one, both = self.phi[:, None], np.stack(np.broadcast_arrays(self.phi[:, None], self.phi[None]), axis=2)
        for _ in range(rounds):
            zero, (S_1, o_1), (S_2, o_2) = (self.clusters(C, sites, count) for count, sites in enumerate(
                (np.zeros((1, self.P)), one, both)))
            s_2 = S_2 - S_1[:, None] - S_1[None] + zero[0]
            mean = s_2 @ p
            V = s_2 - mean[:, None] - mean[None] + p @ mean
            loop = np.linalg.solve(np.eye(n) + others * V * p, V)  # (1 + MVp)⁻¹V
            new = self.log_weights - S_1 - others * mean + chains * others / 2 * np.einsum("ab,b,ba->a", V, p, loop)
            new = np.exp(new - new.max())
            new /= new.sum()
            change = np.abs(new - p).sum() + np.abs(self.medium(C, p, resolvent) - C).max() / self.s
            p, C = (p + 2 * new) / 3, (C + 2 * self.medium(C, p, resolvent)) / 3
            if change < 1e-10:
                break
        W = np.outer(p, p) - chains * p[:, None] * loop * p
        pairs = np.sum(W * (o_2 - o_1[:, None] - o_1[None] + zero[1]))
        return float(zero[1] + self.N * (p @ o_1 - zero[1]) + self.N * (self.N - 1) / 2 * pairs), C


@pytest.mark.parametrize("resolvent", ["mean", "self-consistent"])
def test_against_pairs_on_the_samples(paired, resolvent):
    """Nodes and all their flips one by one, no parities, no transform: the same law, output and medium."""
    D, k, N, noise = 3, 2, 8.0, 0.04
    theory = paired[resolvent]
    rng = np.random.default_rng(0)
    points, weights = np.abs(rng.normal(size=(4, D))) * 1.3, rng.uniform(0.5, 2.0, size=4)
    J, labels = theory.overlaps(points, 1.0), classes(D, k)
    powers = np.stack([(J[:, labels == c]**2).sum(axis=1) for c in range(6)], axis=1)
    sizes = np.bincount(labels).astype(float)
    values = {"N": N, "g": 1.0, "s": noise, "P": 1.0}
    # classes are symmetric under permutations of the inputs: so are nodes that come with all of them
    orders = [[0, 1, 2], [1, 0, 2]]
    everywhere = np.concatenate([points[:, order] for order in orders])
    other = theory.overlaps(everywhere, 1.0)
    law = PairLaw(theory.pairing, Equations(theory.kernels, values, sizes, k),
                  ClassNodes(everywhere, np.tile(weights, 2), other[:, 3], np.tile(powers, (2, 1))), other, labels)
    found = law.solve(law.equations.start(law.nodes, False))
    exact = OnSamples(everywhere, np.tile(weights, 2), N, noise, D, k)
    m, C = exact.solve(resolvent)
    assert found.output == pytest.approx(m, abs=1e-7)
    chi = np.stack([exact.X[:, [j for j in range(D) if T >> j & 1]].prod(axis=1) for T in range(2**D)])
    assert chi @ C @ chi.T / exact.P**2 == pytest.approx(np.diag(found.kappa[labels]), abs=1e-7)
    assert abs(exact.solve(resolvent, chains=0.0)[0] - m) > 1e-3  # pairs without the chains that close


def test_the_medium_leaves_the_resolvent_alone(dressed):
    """⟨G_1⟩ of one site in N-1 media is that of N media, mode by mode, for modes other than the target's."""
    D, noise, N = 5, 0.005, 64
    found = dressed.solve(D, noise, nodes=4096, shifts=2)
    assert found.status == "converged"
    kappa = np.array(list(found.spectrum.values()))
    (batch, _) = dressed.nodes(D, 1.0, 4096, 2, 0)
    equations = Equations(dressed.kernels, {"N": 64.0, "g": 1.0, "s": noise, "P": 1.0},
                          np.bincount(classes(D, 2)).astype(float), 2)
    kappa = equations.root(batch, kappa).kappa
    G, sizes = 1 / (noise + kappa), np.bincount(classes(D, 2))
    B = 1 + batch.powers @ G / N
    at, _ = equations.tilted(batch, kappa)
    p = batch.weights * np.exp(-(at["tilt"] - at["tilt"].min()))
    one = G - G**2 * ((p / p.sum() / B) @ batch.powers) / N / sizes
    assert one == pytest.approx(1 / (noise + kappa * N / (N - 1)), rel=1e-8)
    mean = limit("collapsed-mean-field", NET, "hypercube", 2).solve(D, noise, nodes=4096, shifts=2)
    assert found.m < mean.m - 0.01  # the cavity's own output is too large by the fluctuation of the kernel


def test_nodes_for_pairs_keep_the_averages(dressed):
    (batch, _) = dressed.nodes(4, 1.0, 1024, 2, 0)
    tilt = -3 * batch.overlap**2
    places, weights = chosen(batch.weights, tilt, batch.powers, batch.overlap**2, 64, np.random.default_rng(0))
    law, few = batch.weights * np.exp(-tilt), weights * np.exp(-tilt[places])
    assert few @ batch.powers[places] / few.sum() == pytest.approx(law @ batch.powers / law.sum(), rel=1e-7, abs=1e-15)
    assert len(places) <= 64 and (weights > 0).all()
    with pytest.raises(NotConverged, match="more pairs"):
        chosen(batch.weights, tilt, batch.powers + 1e3 * (np.arange(len(tilt)) == 5)[:, None], batch.overlap**2, 16,
               np.random.default_rng(0))


def test_one_site_has_no_fluctuation(paired):
    """With one neuron every medium and every loop are the same."""
    plain = limit("collapsed-mean-field", NET, "hypercube", 2).solve(3, 0.05, width=1, nodes=1024, shifts=2)
    for theory in paired.values():
        assert theory.solve(3, 0.05, width=1, nodes=1024, shifts=2).m == pytest.approx(plain.m, abs=1e-10)


def test_the_mediums_agree_better_with_pairs(paired, dressed):
    """The expansion is exact about any medium: what depends on it shrinks with every cluster."""
    plain = limit("collapsed-mean-field", NET, "hypercube", 2).solve(4, 0.01, nodes=2048, shifts=3)
    alone = dressed.solve(4, 0.01, nodes=2048, shifts=3)
    with_pairs = [theory.solve(4, 0.01, nodes=2048, shifts=3, pairs=64) for theory in paired.values()]
    assert all(found.status == "converged" and found.error < 0.003 for found in with_pairs)
    gap, error = plain.m - alone.m, np.hypot(*(found.error for found in with_pairs))
    assert gap > 0.02
    assert abs(with_pairs[0].m - with_pairs[1].m) + 2 * error < 0.8 * gap


def test_pairs_that_attract_are_refused():
    """4-parity well past its onset: chains of pairs do not sum, and no number is returned."""
    theory = limit("collapsed-mean-field", NET, "hypercube", 4, resolvent="self-consistent", loops=1)
    with pytest.raises(NotConverged, match=r"least eigenvalue of 1 \+ MpV: -.*loops=0"):
        theory.solve(5, 0.02**2, nodes=2048, shifts=2, pairs=64)


def test_refusals(paired):
    with pytest.raises(BadInput, match="resolvent"):
        limit("collapsed-mean-field", NET, "hypercube", 2, resolvent="typical")
    with pytest.raises(BadInput, match="loops"):
        limit("collapsed-mean-field", NET, "hypercube", 2, loops=2)
    with pytest.raises(BadInput, match="pairs"):
        paired["mean"].solve(3, 0.01, pairs=8, nodes=256)


def test_the_derivation_verifies_itself(paired):
    report = paired["self-consistent"].derivation.verify(seed=1)
    assert report.ok and "resolvent of the medium" in str(report) and "S of 2 sites" in str(report)
    assert list(paired["self-consistent"].equations) == ["kappa_bare", "kappa"]
    assert list(paired["mean"].equations) == ["kappa"]


@pytest.mark.slow
def test_pairs_repair_two_parity(paired, dressed):
    """D = 8, N = 64: chains give m = .329 ± .002 and .641 ± .002; one site in its medium is .03 to .05 below."""
    for kappa, m in ((0.1, 0.329), (0.07, 0.641)):
        found = paired["self-consistent"].solve(8, kappa**2, pairs=96)
        assert found.status == "converged" and found.error < 0.003
        assert abs(found.m - m) < 0.006 + 3 * found.error
        assert dressed.solve(8, kappa**2).m < m - 0.02
