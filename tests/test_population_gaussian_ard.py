"""Precisions of their own and free energies under Gaussian inputs: against integrals over all weights on a grid."""

import numpy as np
import pytest
import scipy.special
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.population.nodes import U
from fieldtheory.population.whitened import continuous
from tests.populations import limit

H = sp.Symbol("h", real=True)
NET = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1,
                 prior=ft.ARD(4.0))
FIXED = NET.replace(prior="gaussian")


@pytest.fixture(scope="module")
def pair():
    """y = x_1 x_2 and ReLU: three precisions."""
    return limit("mean-field", NET, "gaussian", {(1, 1): 1.0}, modes=[])


@pytest.fixture(scope="module")
def single():
    """y = he_2(x_1) and ReLU, that mode alone."""
    return limit("mean-field", NET, "gaussian", 2, modes=[])


def _gradient(theory):
    landscape = theory._landscape(5, None, None, 256, 2, 0)
    n, rng, h = landscape.orders, np.random.default_rng(5), 1e-5
    x = np.r_[rng.normal(scale=0.4, size=n), np.log(5) + rng.normal(size=len(landscape.moving))]
    assert n == len(theory.modes) and len(x) == n + len(theory.free_energy.counts)
    sigma = np.log(0.02)
    point = landscape.at(x, sigma)
    for k, step in enumerate(h * np.eye(len(x))):
        ends = [landscape.at(x + step, sigma), landscape.at(x - step, sigma)]
        assert (ends[0].value - ends[1].value) / (2 * h) == pytest.approx(point.slope[k], rel=1e-6, abs=1e-6)
        if k < n:  # by ln λ the curvature is that of the integral, not of the sum over the nodes
            moved = (ends[0].slope - ends[1].slope) / (2 * h)
            assert point.curvature[k] == pytest.approx(moved, rel=1e-5, abs=1e-4)
    ends = [landscape.at(x, sigma + h), landscape.at(x, sigma - h)]
    assert (ends[0].value - ends[1].value) / (2 * h) == pytest.approx(point.noise_slope, rel=1e-6)
    assert point.mixed == pytest.approx((ends[0].slope - ends[1].slope) / (2 * h), rel=1e-5, abs=1e-4)
    assert (np.linalg.eigvalsh(point.curvature[:n, :n]) < 0).all()  # concave in the order parameters
    return point


def test_the_gradient_is_that_of_the_free_energy(pair):
    """At random points."""
    point = _gradient(pair)
    assert len(point.slope) == 4 and point.orders == 1


@pytest.mark.slow
@pytest.mark.parametrize("activation, target, modes", [
    ("relu", {(1, 1): 1.0}, [(2, 0), (0, 0, 1)]), ("erf", {1: 1.0, 3: -0.3}, []),
    ("tanh", 1, [(1, 1)]), (sp.Max(H, 0) * sp.tanh(H), 2, [0])])
def test_the_gradient_with_more_modes_and_activations(activation, target, modes):
    """Modes of what is perpendicular; and averages without a closed form, one with a kink."""
    _gradient(limit("mean-field", NET.replace(activation=activation), "gaussian", target, modes=modes))


class Grid:
    """Mean-field theory of ReLU and one mode on all weights: written out, no rule used."""

    def __init__(self, D, N, alpha0, points, overlap):
        self.D, self.N, self.alpha, self.beta, self.c = D, N, alpha0, alpha0 / D, 1 - 1 / N
        axis = 7 * (np.arange(points) + 0.5) / points  # in units of the prior's deviation; J² is even in every weight
        self.w = np.stack([g.ravel() for g in np.meshgrid(*[axis] * D, indexing="ij")], axis=1) / np.sqrt(D)
        self.cell = (2 * 7 / points / np.sqrt(D))**D
        square = (self.w**2).sum(axis=1)
        self.J, self.square = overlap(*self.w.T) / np.sqrt(4 * np.pi * square), square / 2  # c_2 = |w|/√4π for ReLU

    def law(self, m, precision, s):
        B = self.N + self.square / s
        log = -(precision * self.w**2).sum(axis=1) / 2 - np.log(B / self.N) / 2
        log += ((1 - self.c * m) * self.J / s)**2 / (2 * B)
        total = float(scipy.special.logsumexp(log))
        return np.exp(log - total), total + np.log(self.cell) - self.D / 2 * np.log(2 * np.pi)

    def free_energy(self, m, precision, s):
        """-N ln z, the Gamma laws with the given means, and what the decoupling counts twice."""
        shape = self.alpha + self.N / 2
        gamma = (self.beta * precision - shape * np.log(precision) + shape * np.log(shape) - shape
                 - scipy.special.gammaln(shape) - self.alpha * np.log(self.beta) + scipy.special.gammaln(self.alpha))
        return -self.N * self.law(m, precision, s)[1] + float(gamma.sum()) + (1 - self.c * m**2) / (2 * s)

    def solve(self, s, m=0.5, moving=True):
        precision = np.full(self.D, float(self.D))
        for _ in range(3000):
            p, _ = self.law(m, precision, s)
            slope = self.N / s * float((p * self.J**2 / (self.N + self.square / s)).sum())
            new = slope / (1 + self.c * slope)
            update = precision if not moving else (self.alpha + self.N / 2) / (self.beta + self.N / 2 * (p @ self.w**2))
            change = abs(new - m) + np.abs(update / precision - 1).max()
            m, precision = m + (new - m) / 2, update
            if change < 1e-9:
                return m, precision
        raise AssertionError("the reference has not converged")


def _on_grid(theory, D, s, grid):
    N = grid.N
    found = theory.solve(D, s, width=N, nodes=4096)
    m, precision = grid.solve(s)
    assert "not converged" not in found.status and found.error < 2e-3
    assert abs(found.m - m) < 5 * found.error + 3e-4
    for value, name in zip(precision, found.precisions, strict=True):
        assert abs(found.precisions[name] - value) < 5 * found.precision_errors[name] + 2e-3 * value
    landscape = theory._landscape(D, N, None, 4096, 8, 0)
    values = landscape.at(np.r_[found.m, np.log(list(found.precisions.values()))], np.log(s)).values
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(found.free_energy - grid.free_energy(m, precision, s)) < 5 * error + 1e-3 < 0.3
    fixed, _ = grid.solve(s, moving=False)
    assert abs(found.m - fixed) > 20 * found.error  # the wrong twin: precisions that do not move


def test_against_a_grid_over_all_weights(single):
    _on_grid(single, 2, 0.02, Grid(2, 8, 4.0, 120, lambda a, b: a**2))


@pytest.mark.slow
def test_two_directions_against_a_grid(pair):
    _on_grid(pair, 3, 0.004, Grid(3, 8, 4.0, 64, lambda a, b, c: np.sqrt(2) * a * b))
    other = limit("mean-field", NET, "gaussian", (0, 2), modes=[])
    _on_grid(other, 3, 0.01, Grid(3, 8, 4.0, 64, lambda a, b, c: b**2))


def test_a_target_that_does_not_tell_directions_apart(pair):
    """Under exchange of x_1 and x_2 nothing changes: equal precisions, found and not put in."""
    same = pair.solve(6, 0.003, nodes=2048, shifts=4)
    names = ["relevant_1", "relevant_2"]
    assert list(same.precisions) == [*names, "rest"]
    first, second = (same.precisions[name] for name in names)
    error = np.hypot(*(same.precision_errors[name] for name in names))
    assert abs(first - second) < 5 * error < 0.08 * first and first < 5 < 6 < same.precisions["rest"]
    # λ = ⟨λ⟩ of the law that the rule derives, from ⟨w²⟩ on the nodes, which the free energy does not use
    landscape = pair._landscape(6, None, None, 2048, 4, 0)
    x = np.r_[same.m, np.log(list(same.precisions.values()))]
    asked = np.exp(landscape.updated(landscape.at(x, np.log(0.003))))
    assert asked == pytest.approx(list(same.precisions.values()), rel=0.02)
    assert pair.derivation.verify().ok and set(pair.equations) == {"m", "W"}


@pytest.mark.slow
def test_a_target_that_tells_directions_apart():
    other = limit("mean-field", NET, "gaussian", {(2, 0): 1.0, (0, 2): 0.4}, modes=[]).solve(6, 0.01, nodes=2048)
    assert other.precisions["relevant_2"] > 1.5 * other.precisions["relevant_1"]


def _hysteresis(theory, ends, **given):
    """A lazy and a learned solution at D = 40, one between, and equal F."""
    found = theory.branches(40, np.geomspace(0.07, 0.15, 5)**2, **given)
    assert "not converged" not in found.status and list(found.dataset.stable.values) == [True, False, True]
    assert found.status.startswith("truncated: output of power") and found.dataset.left_out.max() > 1e-3
    low, high = found.spinodals
    assert low.noise < found.transition.noise < high.noise and low.m < high.m
    assert np.array([low.noise, high.noise])**0.5 == pytest.approx(ends, abs=0.001)
    assert found.dataset.order_parameters.sel(mode="2", drop=True).identical(
        found.dataset.m.rename("order_parameters"))
    assert float(found.dataset.residual.max()) < 1e-8
    noise, (small, large) = found.transition.noise, found.transition.m
    lazy, learned = (theory.solve(40, noise, start=start, **given) for start in ("prior", "planted"))
    outer = found.dataset.isel(noise=0, branch=-1)  # what is left out is what a solution there says
    there = theory.solve(40, float(outer.noise), start="planted", **given)
    assert float(outer.left_out) == pytest.approx(there.left_out, rel=1e-6)
    assert lazy.order_parameters[2] == pytest.approx(small, rel=1e-3)
    assert learned.order_parameters[2] == pytest.approx(large, rel=1e-3) and large > 20 * small
    assert lazy.free_energy == pytest.approx(learned.free_energy, abs=1e-4)
    away = [theory.solve(40, 0.8 * noise, start=start, **given).free_energy for start in ("prior", "planted")]
    assert away[1] < away[0] - 1  # a wrong twin: not at equal F
    best = theory.solve(40, 0.8 * noise, **given)
    assert best.free_energy == pytest.approx(away[1], abs=1e-6)


def test_hysteresis(single):
    _hysteresis(single, [0.0963, 0.1389], nodes=512, shifts=4)


@pytest.mark.slow
def test_hysteresis_with_the_modes_that_mix():
    """What the output holds beside the target costs: the learned solution ends at less noise."""
    theory = limit("mean-field", NET, "gaussian", 2, modes=[0, (0, 1), 4, (2, 1), (0, 2)])
    _hysteresis(theory, [0.0829, 0.1039], nodes=2048, shifts=8)


@pytest.mark.slow
def test_a_fixed_prior_has_no_fold_and_is_the_limit():
    """α0 → ∞ at β0 = α0 σ_w²/D: the difference falls as 1/α0; and the free energy's curve is the known solution."""
    given = {"nodes": 512, "shifts": 4}
    noises, modes = [0.05**2, 0.1**2], [0, (0, 1)]
    plain = limit("mean-field", FIXED, "gaussian", 2, modes=modes)
    fixed = plain.branches(12, noises, **given)
    assert fixed.spinodals == () and len(fixed.dataset.branch) == 1
    gaps = []
    for alpha0 in (1e4, 1e5):
        found = limit("mean-field", NET.replace(prior=ft.ARD(alpha0)), "gaussian", 2, modes=modes)
        again = found.branches(12, noises, **given)
        assert again.spinodals == () and again.transition is None
        gaps.append((again.dataset.order_parameters - fixed.dataset.order_parameters).values[0, 0])
    assert gaps[0] / gaps[1] == pytest.approx([10, 10, 10], rel=0.05)
    solved = plain.solve(12, noises[0])  # from other nodes, by finding the root of R(m) - m
    for k, key in enumerate(plain.modes):
        at = fixed.dataset.isel(noise=0, branch=0, mode=k)
        error = np.hypot(float(at.order_parameters_mcse), solved.errors[key])
        assert abs(float(at.order_parameters) - solved.order_parameters[key]) < 5 * error < 0.03


@pytest.mark.slow
def test_the_sign_and_size_of_a_target():
    """y → -y turns the sign of the output; a target of another size is found from its own start."""
    given = {"nodes": 1024, "shifts": 2}
    plus, minus = (limit("mean-field", NET, "gaussian", {2: g}, modes=[]).solve(8, 0.01, **given)
                   for g in (0.7, -0.7))
    assert plus.m == pytest.approx(-minus.m, rel=1e-9) and 0.2 < plus.m < 0.7
    assert plus.free_energy == pytest.approx(minus.free_energy, rel=1e-12)


def _design(angles):
    """Points of the plane, equally likely, at three radii with the first three moments of |x| for x ~ N(0, 1)."""
    sums = [3 * scipy.special.gamma(1 + k / 2) * 2**(k / 2) for k in (1, 2, 3)]
    e = [1.0]  # elementary symmetric functions from power sums (Newton)
    for k in (1, 2, 3):
        e.append(sum((-1)**(i - 1) * e[k - i] * sums[i - 1] for i in range(1, k + 1)) / k)
    radii = np.roots([1.0, -e[1], e[2], -e[3]]).real
    theta = 2 * np.pi * (np.arange(angles) + 0.5) / angles
    return np.concatenate([r * np.stack([np.cos(theta), np.sin(theta)], axis=1) for r in radii])


@pytest.mark.slow
def test_data_that_stand_for_the_law():
    """ReLU is homogeneous: such points are the law of the inputs but for high harmonics of the angle.

    The theory on them by quadrature, all modes at once, is where the population tends to as modes are added.
    """
    X, noise, width = _design(24), 0.02, 32
    y = (X[:, 0]**2 - 1) / np.sqrt(2)
    assert (np.abs(X[:, 0])**3).mean() == pytest.approx(np.sqrt(8 / np.pi), rel=1e-3)
    net = NET.replace(width=width, noise_variance=noise * len(X))
    expected = ft.theories["mean-field-ard"](net).predict(ft.Dataset(X, y))
    assert expected.attrs["status"] == "converged"
    gaps = []
    for order in (0, 2, 4, 6):
        modes = [(n, k) for n in range(0, order + 1, 2) for k in range((order - n) // 2 + 1)]
        found = limit("mean-field", net, "gaussian", 2, modes=modes if order else []).solve(2, noise)
        precisions = np.array(list(found.precisions.values()))
        gaps.append([found.order_parameters[2] - float((expected.mean_output * y).mean()),
                     *precisions - expected.precision.values])
    gaps = np.abs(gaps)
    assert (gaps[0] > [0.2, 0.5, 0.2]).all()  # he_2 alone
    assert (gaps[1] < [0.01, 0.04, 0.01]).all() and (gaps[2] < [0.004, 0.013, 0.006]).all()
    assert (gaps[3] < [0.002, 0.007, 0.005]).all()


def test_refusals(pair):
    with pytest.raises(BadInput, match="input_dim"):
        pair.solve(2, 0.01)
    with pytest.raises(BadInput, match="nodes"):
        pair.solve(6, 0.01, nodes=10)
    with pytest.raises(BadInput, match="start"):
        pair.solve(6, 0.01, start="nowhere", nodes=64, shifts=2)
    assert not continuous(U * sp.diff(sp.sign(U), U))  # a jump at zero moves with no precision
    for slope in (sp.diff(sp.sign(U), U), U * sp.diff(sp.sign(U - 1) * sp.tanh(U), U)):
        with pytest.raises(RuleError, match="jumps"):
            continuous(slope)
