"""Collapsed mean-field theory in the population limit: against data that are the whole cube, on a grid."""

from itertools import product

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.inputlaw import law_and_sizes, off_diagonal
from fieldtheory.population.eigenvalues import classes, walsh
from fieldtheory.randompoints import draw
from fieldtheory.symbolic import bases
from fieldtheory.symbolic.bases import diagonal
from fieldtheory.symbolic.fields import Entry
from tests.populations import limit
from tests.test_mutations import Mutation, _plant, _reports

NET = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1)


@pytest.fixture(scope="module")
def two():
    return limit("collapsed-mean-field", NET, "hypercube", 2)


@pytest.fixture(scope="module")
def four():
    return limit("collapsed-mean-field", NET, "hypercube", 4)


def on_samples(D: int, N: int, noise: float, others: int, points: int) -> float:
    """m from the kernel of the others on all 2^D samples, no basis, with the law of w on a grid over all weights."""
    axis = 5 * (np.arange(points) + 0.5 - points / 2) / (points / 2) / np.sqrt(D)
    w = np.stack([g.ravel() for g in np.meshgrid(*[axis] * D, indexing="ij")], axis=1)
    corners = np.array(list(product([-1.0, 1.0], repeat=D)))
    phi, y, s = np.maximum(w @ corners.T, 0), corners[:, :2].prod(axis=1), noise * len(corners)
    prior = np.exp(-D * (w**2).sum(axis=1) / 2)
    C = np.zeros((len(y), len(y)))
    for _ in range(500):
        G = np.linalg.inv(s * np.eye(len(y)) + C)
        B, b = 1 + ((phi @ G) * phi).sum(axis=1) / N, phi @ (G @ y)
        log = -np.log(B) / 2 + b**2 / (2 * N * B)
        p = prior * np.exp(log - log.max())
        p /= p.sum()
        change = others / N * (phi.T * p) @ phi - C
        C += 0.4 * change
        if np.max(np.abs(change)) < 1e-12:
            break
    j = G @ y - G @ (phi.T @ (p * b / B)) / N
    return float(y @ (y - s * j)) / len(y)


@pytest.mark.parametrize("D, N, noise, points", [(2, 64, 0.02, 240), (3, 8, 0.01, 56)])
def test_against_the_whole_cube_as_data(two, D, N, noise, points):
    found = two.solve(D, noise, width=N, nodes=16384)
    assert found.status == "converged" and found.error < 5e-4
    assert abs(found.m - on_samples(D, N, noise, N - 1, points)) < 5 * found.error + 2e-4
    assert abs(found.m - on_samples(D, N, noise, N, points)) > 10 * found.error + 4e-4  # all neurons for the others


def test_reference_values_on_the_cube(two, four):
    """D = 8, N = 64: two independent programs gave .342/.622/.794 and .340/.619/.795; .123/.359/.604 for k = 4."""
    for theory, kappas, expected in ((two, (0.1, 0.07, 0.05), (0.341, 0.6205, 0.7945)),
                                     (four, (0.055, 0.045, 0.035), (0.123, 0.359, 0.604))):
        for kappa, m in zip(kappas, expected, strict=True):
            found = theory.solve(8, kappa**2)
            assert found.status == "converged" and found.residual < 1e-9
            assert abs(found.m - m) < 0.003 + 3 * found.error
            assert found.test_error == pytest.approx((1 - found.m)**2)
    plain = limit("mean-field", NET, "hypercube", 4).solve(8, 0.035**2)
    assert found.m > 10 * plain.m  # mean field misses the onset


def test_the_spectrum(two):
    found = two.solve(6, 0.005)
    assert set(found.spectrum) == set(labels(6, 2))
    assert found.spectrum[2, 0] > 2 * found.spectrum[0, 2]  # that of the target is learned
    assert found.spectrum[1, 2] == 0 < found.spectrum[1, 0]  # ReLU sees no odd parity of three
    wide = two.solve(6, 0.005, width=10**7)
    fixed = two.solve(6, 1e3, width=10**7)
    assert wide.spectrum[2, 0] == pytest.approx(fixed.spectrum[2, 0], rel=1e-3)  # no learning
    kernel = wide.spectrum[2, 0]
    assert wide.m == pytest.approx(kernel / (kernel + 0.005), rel=1e-4)


def labels(D: int, k: int) -> list[tuple[int, int]]:
    return [(int(label) // (D - k + 1), int(label) % (D - k + 1)) for label in classes(D, k)]


def test_fast_walsh_transform():
    D = 4
    corners = np.where((np.arange(2**D)[:, None] >> np.arange(D)) & 1, -1.0, 1.0)
    chi = np.array([corners[:, [j for j in range(D) if T >> j & 1]].prod(axis=1) for T in range(2**D)])
    values = np.random.default_rng(0).normal(size=(3, 2**D))
    assert np.allclose(walsh(values), values @ chi.T / 2**D, atol=1e-14)
    assert labels(D, 3)[0b1011] == (2, 1)


def test_the_derivation_verifies_itself(two):
    report = two.derivation.verify(seed=1)
    assert report.ok and "off the diagonal" in str(report)


@pytest.mark.parametrize("name, old, new, rule", [
    ("diagonal", "total.body / basis / sp.sqrt(samples)", "total.body / basis", "diagonal"),
    ("diagonal", "moved(rest) / sp.sqrt(samples)", "moved(rest)", "diagonal"),
    ("diagonal", " + (samples - mode.size) * total.body.xreplace(empty)", "", "diagonal"),
    ("project", "sp.Mul(sample.size, *outside) * SpaceSum", "sp.Mul(*outside) * SpaceSum", "project"),
    ("restrict", "expr = expr.xreplace(whole)", "pass", "restrict")])
def test_an_error_in_a_rule_is_caught(name, old, new, rule, monkeypatch):
    def build():
        return limit("collapsed-mean-field", NET, "hypercube", 2).derivation

    _plant(monkeypatch, Mutation(name, bases, name, old, new, build, rule))
    assert any(not report.ok for report in _reports(build(), rule))


def test_two_parities_are_not_diagonal(two):
    """The check of the symmetry fails for a target without it."""
    (step,) = [step for step in two.action.steps if step.rule == "diagonal"]
    law, sizes = law_and_sizes(step)
    values = draw([step.before.expr, step.after.expr, *step.after.fields], {
        **dict.fromkeys((s for e in (step.before.expr, step.after.expr) for s in e.free_symbols), 2), **sizes},
        np.random.default_rng(0))
    for entry in list(values):
        if isinstance(entry, Entry) and entry.name == "kappa":
            values[Entry("kappa", "spectrum", (step.details["modes"],))] = np.full(len(law.points), 0.7)
    assert off_diagonal(step, values, law) < 1e-12
    assert off_diagonal(step, values, law, target=(1, 3)) > 1e-3  # χ_1 and χ_12


def test_both_ways_agree(two, four):
    """Over the onset, in the noise and in the number of samples: one solution, whichever side it is reached from."""
    noises = np.geomspace(0.03, 0.07, 6)**2
    for theory in (four, limit("mean-field", NET, "hypercube", 4)):
        both = theory.follow(8, noise=noises)
        assert both.attrs["unique"] and set(both.status.values) == {"converged"}
        assert (np.diff(both.m_down.values[:, 0]) < 0).all()
    samples = [20, 60, 200]
    along = two.follow(6, samples=samples)
    for P, m in zip(samples, along.m_up.values[:, 0], strict=True):
        assert m == pytest.approx(two.solve(6, NET.noise_variance / P).m, abs=1e-7)


def test_hysteresis_is_seen():
    """A theory with two solutions: the one that it was started near."""
    from fieldtheory.population.base import PopulationSolution
    from fieldtheory.population.continuation import follow

    class Bistable:
        modes = (2,)

        def solve(self, input_dim, noise=None, *, samples=None, start=None):
            before = 0.0 if start is None and noise > 0.5 else 1.0 if start is None else start.m
            m = 1.0 if noise < 0.3 else 0.0 if noise > 0.7 else before
            return PopulationSolution({2: m}, {2: 0.0}, (1 - m)**2, 0.0, 1e3, "converged")

    found = follow(Bistable(), 8, noise=[0.1, 0.4, 0.6, 0.9])
    assert not found.attrs["unique"]
    assert list(found.m_down.values[:, 0]) == [1, 0, 0, 0] and list(found.m_up.values[:, 0]) == [1, 1, 1, 0]


def test_refusals(two):
    with pytest.raises(BadInput, match="hypercube"):
        limit("collapsed-mean-field", NET, "gaussian", 2, resolvent="self-consistent")
    with pytest.raises(BadInput, match="polynomial of degree 1"):
        limit("collapsed-mean-field", NET, "hypercube", 3)
    with pytest.raises(BadInput, match="one parity"):
        limit("collapsed-mean-field", NET, "hypercube", {2: 1.0, 4: 1.0})
    with pytest.raises(BadInput, match="input_dim"):
        two.solve(30, 0.01)
    with pytest.raises(BadInput, match="start"):
        two.solve(6, 0.01, start=two.solve(5, 0.01))
    with pytest.raises(BadInput, match="noise"):
        two.follow(6)
    with pytest.raises(BadInput, match="two different"):
        two.follow(6, noise=[0.1])
    assert "effective nodes" in two.solve(8, 1e-4, nodes=128).status
    S = NET.action().conjugate("f", "output", conjugate="j").integrate_out("a").integrate_out("f")
    S = S.cavity("site", "j", modes="eigenmode").integrate_out("j").project("sample", "X", "gaussian")
    with pytest.raises(RuleError, match="gaussian"):
        diagonal(S.value, S["V"])


def test_another_activation():
    """tanh has no closed form anywhere: 3-parity."""
    theory = limit("collapsed-mean-field", NET.replace(activation="tanh"), "hypercube", 3)
    found = theory.solve(5, 0.002)
    assert found.status == "converged" and 0.2 < found.m < 1
