"""The population limit with a precision of its own for every input: against integrals over all weights on a grid."""

from itertools import product

import numpy as np
import pytest
import scipy.special
import sympy as sp
import xarray as xr

import fieldtheory as ft
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.population.branches import Follower
from tests.populations import limit

H = sp.Symbol("h", real=True)
NET = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1,
                 prior=ft.ARD(4.0))


class Grid:
    """Mean-field theory of a 2-parity with ReLU on all weights: written out, no rule used."""

    def __init__(self, D: int, N: int, alpha0: float, points: int) -> None:
        self.D, self.N, self.alpha, self.beta, self.c = D, N, alpha0, alpha0 / D, 1 - 1 / N
        axis = 7 * (np.arange(points) + 0.5) / points  # in units of the prior's deviation; J² is even in every weight
        self.w = np.stack([g.ravel() for g in np.meshgrid(*[axis] * D, indexing="ij")], axis=1) / np.sqrt(D)
        self.cell = (2 * 7 / points / np.sqrt(D))**D
        corners = np.array(list(product([-1.0, 1.0], repeat=D)))
        phi = np.maximum(self.w @ corners.T, 0)
        self.J, self.square = (phi * corners[:, :2].prod(axis=1)).mean(axis=1), (phi**2).mean(axis=1)

    def law(self, m: float, precision: np.ndarray, s: float) -> tuple[np.ndarray, float]:
        B = self.N + self.square / s
        log = -(precision * self.w**2).sum(axis=1) / 2 - np.log(B / self.N) / 2
        log += ((1 - self.c * m) * self.J / s)**2 / (2 * B)
        total = float(scipy.special.logsumexp(log))
        return np.exp(log - total), total + np.log(self.cell) - self.D / 2 * np.log(2 * np.pi)

    def free_energy(self, m: float, precision: np.ndarray, s: float) -> float:
        """-N ln z, the Gamma laws with the given means, and what the decoupling counts twice."""
        shape = self.alpha + self.N / 2
        gamma = (self.beta * precision - shape * np.log(precision) + shape * np.log(shape) - shape
                 - scipy.special.gammaln(shape) - self.alpha * np.log(self.beta) + scipy.special.gammaln(self.alpha))
        return -self.N * self.law(m, precision, s)[1] + float(gamma.sum()) + (1 - self.c * m**2) / (2 * s)

    def solve(self, s: float, m: float, precision: np.ndarray, c: float | None = None) -> tuple[float, np.ndarray]:
        c = self.c if c is None else c
        for _ in range(3000):
            p, _ = self.law(m, precision, s)
            B = self.N + self.square / s
            slope = self.N / s * float((p * self.J**2 / B).sum())
            new = slope / (1 + c * slope)
            update = (self.alpha + self.N / 2) / (self.beta + self.N / 2 * (p @ self.w**2))
            change = abs(new - m) + np.abs(update / precision - 1).max()
            m, precision = m + (new - m) / 2, update
            if change < 1e-11:
                return m, precision
        raise AssertionError("the reference has not converged")


@pytest.fixture(scope="module")
def theory():
    return limit("mean-field", NET, "hypercube", 2)


@pytest.mark.parametrize("D, N, s, points", [(2, 16, 0.05, 300), (3, 6, 0.03, 64)])
def test_against_a_grid_over_all_weights(theory, D, N, s, points):
    grid = Grid(D, N, 4.0, points)
    found = theory.solve(D, s, width=N, nodes=4096)
    m, precision = grid.solve(s, 0.5, np.full(D, float(D)))
    assert found.status == "converged" and found.error < 1e-3
    assert abs(found.m - m) < 5 * found.error + 2e-4
    for name, value in zip(found.precisions, precision[[0, -1]], strict=False):
        assert abs(found.precisions[name] - value) < 5 * found.precision_errors[name] + 1e-3 * value
    assert found.free_energy == pytest.approx(grid.free_energy(m, precision, s), abs=2e-3 * N)
    fixed = limit("mean-field", NET.replace(prior="gaussian"), "hypercube", 2).solve(D, s, width=N)
    assert abs(fixed.m - m) > 20 * found.error  # the wrong twin: precisions that do not move


@pytest.fixture(scope="module")
def folded(theory):
    """D = 40 inputs: a lazy and a learned solution, with an unstable one between."""
    return theory.branches(40, np.geomspace(0.05, 0.12, 8)**2, nodes=1024, shifts=4)


def _curve(folded, name):
    return folded.curve[name].values


def test_an_s_curve(folded):
    assert folded.status == "converged" and list(folded.dataset.stable.values) == [True, False, True]
    low, high = folded.spinodals
    assert low.noise < folded.transition.noise < high.noise and low.m < high.m
    assert max(low.error / low.noise, high.error / high.noise) < 0.02
    data = folded.dataset
    inside = (data.noise > low.noise) & (data.noise < high.noise)
    assert bool((data.m.notnull().sum("branch") == xr.where(inside, 3, 1)).all())
    m = data.m.values[:, inside.values]
    assert bool((m[0] < m[1]).all() and (m[1] < m[2]).all())
    assert float(data.residual.max()) < 1e-8
    jumps = data.m_up - data.m_down
    assert bool((jumps[inside] > 0.2).all()) and np.abs(jumps[~inside]).max() < 1e-12  # hysteresis
    precision = data.precision.sel(inputs="relevant").values[:, inside.values]
    assert bool((precision[0] > precision[2]).all())  # relevant inputs are cheap once they are learned


def test_thermodynamics(theory, folded):
    """dF/dσ = ∂F/∂σ along a branch, and so the area between the branches vanishes where they weigh the same."""
    sigma = np.log(folded.curve.noise.values)
    F, slope, branch = (_curve(folded, name) for name in ("free_energy", "noise_slope", "branch"))
    for number in range(3):
        on = branch == number
        areas = np.abs(np.diff(sigma[on]))
        change, expected = np.diff(F[on]), (slope[on][1:] + slope[on][:-1]) / 2 * np.diff(sigma[on])
        assert np.abs(change - expected).max() < 0.03 * np.abs(slope[on]).max() * areas.max()
    energy = folded.landscape
    root = folded.sections[2][len(folded.sections[2]) // 2]
    follower, h = Follower(energy), 1e-4
    sides = [follower.newton(root.x, root.noise + d) for d in (h, -h)]
    assert (sides[0].point.value - sides[1].point.value) / (2 * h) == pytest.approx(root.point.noise_slope, rel=1e-5)
    # from the lazy to the learned solution at the transition, through both folds
    equal = np.log(folded.transition.noise)
    lazy, learned = folded.transition.m
    m = _curve(folded, "m")
    along = (m > lazy) & (m < learned)
    s = np.r_[equal, sigma[along], equal]
    ends = [follower.on_section(folded.sections[k], equal).point.noise_slope for k in (0, 2)]
    y = np.r_[ends[0], slope[along], ends[1]] - np.mean(ends)
    area = np.diff(s) * (y[1:] + y[:-1]) / 2
    assert abs(area.sum()) < 0.01 * np.abs(area).sum()
    away = folded.transition.noise * 1.1  # a wrong twin: the area between the branches at another noise
    other = [follower.on_section(folded.sections[k], np.log(away)).point for k in (0, 2)]
    assert abs(other[0].value - other[1].value) > 0.03 * np.abs(area).sum() > 1


def test_every_start_ends_on_the_curve(folded):
    """Newton's method from random points finds no solution that is not on the curve."""
    rng, follower = np.random.default_rng(1), Follower(folded.landscape)
    noise = np.log(folded.transition.noise)
    known = np.array([follower.on_section(section, noise).x for section in folded.sections])
    hits = set()
    for _ in range(40):
        x = np.r_[rng.uniform(0, 0.8), np.log(40 * np.exp(rng.uniform([-4, -0.3], [0.3, 0.5])))]
        root = follower.newton(follower._best(x, noise), noise)
        if root is not None:
            distance = np.abs(known - root.x).max(axis=1)
            assert distance.min() < 1e-4
            hits.add(int(distance.argmin()))
    assert {0, 2} <= hits


def test_the_gradient_is_that_of_the_free_energy(folded):
    landscape, x, sigma, h = folded.landscape, np.r_[0.3, np.log([8.0, 50.0])], np.log(0.008), 1e-5
    point = landscape.at(x, sigma)
    for k in range(3):
        step = h * np.eye(3)[k]
        ends = [landscape.at(x + step, sigma), landscape.at(x - step, sigma)]
        assert (ends[0].value - ends[1].value) / (2 * h) == pytest.approx(point.slope[k], rel=1e-6)
        moved = (ends[0].slope - ends[1].slope) / (2 * h)
        if k == 0:
            assert point.curvature[0] == pytest.approx(moved, rel=1e-5)
        else:  # by ln λ that of the integral, not of the sum over the nodes
            assert np.abs(point.curvature[k] - moved).max() < 0.05 * np.abs(np.diag(point.curvature)).max()
    ends = [landscape.at(x, sigma + h), landscape.at(x, sigma - h)]
    assert (ends[0].value - ends[1].value) / (2 * h) == pytest.approx(point.noise_slope, rel=1e-6)
    assert point.mixed == pytest.approx((ends[0].slope - ends[1].slope) / (2 * h), rel=1e-5)


def test_the_precisions_solve_the_equations_of_the_rule(theory):
    """λ = ⟨λ⟩ of the law that the rule derives, from ⟨w²⟩ on the nodes, which the free energy does not use."""
    found = theory.solve(40, 0.06**2, nodes=4096, start="planted")
    landscape = theory._landscape(40, None, None, 4096, 8, 0)
    x = np.r_[found.m, np.log(list(found.precisions.values()))]
    asked = np.exp(landscape.updated(landscape.at(x, np.log(0.06**2))))
    for name, value in zip(found.precisions, asked, strict=True):
        assert value == pytest.approx(found.precisions[name], rel=0.01)


def test_a_fixed_prior_has_no_fold_and_is_the_limit(theory):
    """α0 → ∞ at β0 = α0 σ_w²/D: one solution at every noise, and the difference falls as 1/α0."""
    given = {"nodes": 512, "shifts": 4}
    noises = [0.05**2, 0.1**2]
    plain = limit("mean-field", NET.replace(prior="gaussian"), "hypercube", 2)
    fixed = plain.branches(40, noises, **given)
    gaps = []
    for alpha0 in (1e4, 1e5):
        found = limit("mean-field", NET.replace(prior=ft.ARD(alpha0)), "hypercube", 2).branches(40, noises, **given)
        assert found.spinodals == () and found.transition is None and len(found.dataset.branch) == 1
        gaps.append(float((found.dataset.m - fixed.dataset.m).isel(noise=0).item()))
    assert fixed.spinodals == () and len(fixed.dataset.branch) == 1
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.05)
    again = plain.solve(40, noises[0], relevant_only=True)  # other nodes
    error = np.hypot(fixed.dataset.m_mcse.isel(noise=0).item(), again.error)
    assert abs(fixed.dataset.m.isel(noise=0).item() - again.m) < 5 * error < 0.2 * again.m


def test_both_ways_of_following(theory):
    found = theory.follow(40, noise=[0.05**2, 0.085**2, 0.12**2], nodes=512, shifts=4)
    difference = found.difference.values[:, 0]
    assert not found.attrs["unique"]
    assert difference[1] > 0.3 and max(difference[0], difference[2]) < 1e-6


def test_on_the_whole_cube(theory):
    """All corners, against a Gaussian in place of the other inputs, which overestimates m at few inputs."""
    exact, rest = (theory.solve(8, 0.1**2, relevant_only=only, nodes=1024, shifts=4) for only in (False, True))
    assert exact.status == rest.status == "converged"
    assert 0 < rest.m - exact.m < 0.15 * exact.m
    assert exact.precisions["relevant"] < 8 < exact.precisions["rest"]


def test_a_single_neuron():
    """N = 1: no other neuron shares the output, and m = ⟨a J⟩ at the precisions that the one neuron asks for."""
    theory = limit("mean-field", NET, "hypercube", 2)
    found = theory.solve(4, 0.05, width=1, nodes=512, shifts=2)
    landscape = theory._landscape(4, 1, None, 512, 2, 0)
    x = np.r_[found.m, np.log(list(found.precisions.values()))]
    point = landscape.at(x, np.log(0.05))
    assert found.residual < 1e-9 and found.m > 0 and np.abs(point.slope).max() < 1e-8
    assert landscape.at(x + [0.1, 0, 0], np.log(0.05)).value == pytest.approx(point.value, rel=1e-12)
    more = theory.solve(4, 0.05, width=2, nodes=512, shifts=2)
    assert found.m < more.m < 4 * found.m


def test_refusals(theory):
    with pytest.raises(BadInput, match=r"alpha0=1e-06.*the precision of the rest inputs runs to"):
        runaway = limit("mean-field", NET.replace(prior=ft.ARD(1e-6)), "hypercube", 2)
        runaway.branches(40, [0.01, 0.1], nodes=256, shifts=2)
    with pytest.raises(BadInput, match="start"):
        theory.solve(8, 0.01, start="nowhere", nodes=256, shifts=2)
    with pytest.raises(BadInput, match="start"):
        limit("mean-field", NET.replace(prior="gaussian"), "hypercube", 2).solve(8, 0.01, start="planted")
    with pytest.raises(BadInput, match="noise"):
        theory.branches(8, [0.1])
    with pytest.raises(BadInput, match="samples"):
        theory.branches(8)
    with pytest.raises(RuleError, match="fixed prior"):
        _ = theory.onset


def test_the_derivation_verifies_itself(theory):
    assert theory.derivation.verify().ok
    assert set(theory.equations) == {"m", "W"}


@pytest.mark.slow
def test_the_learned_branch_ends_at_a_noise_without_the_dimension(theory):
    """N = 64, α0 = 4: the upper spinodal hardly moves with D, the lower one falls, and the fold begins near D = 16."""
    ends = {D: [s.noise**0.5 for s in theory.branches(D, [0.04**2, 0.3**2], relevant_only=True, nodes=2048).spinodals]
            for D in (12, 40, 80, 160)}
    assert ends[12] == []
    low, high = (np.array([ends[D][k] for D in (40, 80, 160)]) for k in (0, 1))
    assert np.abs(np.diff(np.log(high)) / np.log(2)).max() < 0.04
    assert (np.diff(np.log(low)) / np.log(2) < -0.6).all()


@pytest.mark.slow
def test_every_input_once_on_finite_data(theory):
    """The theory of a data set that holds every corner of the cube once is the same: particles against nodes."""
    X = np.array(list(product([-1.0, 1.0], repeat=5)))
    data, noise = ft.Dataset(X, X[:, 0] * X[:, 1]), 0.1**2
    net = NET.replace(width=32, noise_variance=noise * len(X))
    expected = theory.solve(5, noise, width=32, nodes=4096)
    found = ft.theories["mean-field-ard"](net).predict(data)
    assert found.attrs["status"] == "converged"
    m = float((found.mean_output * data.y).mean())
    error = float(found.discrepancy_along_target_mcse)
    assert error < 0.01 and abs(m - expected.m) < 4 * error
    values = np.repeat([expected.precisions[name] for name in ("relevant", "rest")], [2, 3])
    assert (np.abs(found.precision.values - values) < 5 * found.precision_mcse.values).all()


def _two_ways(activation, order, D, only=None):
    """A fixed prior: the order parameter by bisection, and on the curve of the free energy, with other nodes."""
    theory = limit("mean-field", NET.replace(activation=activation, prior="gaussian"), "hypercube", order)
    found = theory.solve(D, 0.05**2, relevant_only=only, nodes=4096)
    curve = theory.branches(D, [0.05**2, 0.1], relevant_only=only, nodes=1024).dataset.isel(noise=0, branch=0)
    error = np.hypot(float(curve.m_mcse), found.error)
    assert abs(float(curve.m) - found.m) < 5 * error + 1e-4 and error < 0.02 * found.m


@pytest.mark.slow
def test_a_quadratic_activation():
    """E φ² with fourth powers of the weights, and a population that is an exact polynomial."""
    _two_ways("quadratic", 2, 6)


@pytest.mark.slow
@pytest.mark.parametrize("activation, order, D", [("erf", 3, 6), ("tanh", 3, 6), (sp.Max(H, 0) + sp.sin(H) / 3, 2, 6)])
def test_other_activations(activation, order, D):
    """Averages over the inputs without a closed form, and slopes with none over the rest."""
    _two_ways(activation, order, D, D > 10)
    theory = limit("mean-field", NET.replace(activation=activation), "hypercube", order)
    found = theory.solve(D, 0.05**2, relevant_only=D > 10, nodes=1024)
    assert found.status == "converged" and found.precisions["relevant"] < found.precisions["rest"]
