"""Collapsed mean field with relevance determination in the population limit: against grids and limits."""

from copy import copy
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
import scipy.optimize
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import BadInput
from fieldtheory.population import PopulationTheory
from fieldtheory.population.eigenvalues import corners, walsh
from fieldtheory.population.fixedpoints import FixedPoints
from tests.populations import limit

H = sp.Symbol("h", real=True)
NET = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1,
                 prior=ft.ARD(4.0))


@cache
def theory(k: int) -> PopulationTheory:
    return limit("collapsed-mean-field", NET, "hypercube", k)


def at(k: int, alpha: float) -> PopulationTheory:
    """At another α0, of which neither the derivation nor what is compiled knows."""
    found = copy(theory(k))
    found.network = NET.replace(prior=ft.ARD(alpha))
    return found


@pytest.fixture(scope="module")
def two():
    return theory(2)


@pytest.fixture(scope="module")
def folded():
    """4-parity at a broad prior of the precisions: two solutions already at D = 6."""
    return at(4, 1.0)


def on_grid(features, y: np.ndarray, N: int, noise: float, *, others: int | None = None, alpha: float = 4.0,
            shape: float = 0.0, points: int = 100) -> tuple[float, np.ndarray]:
    """m and the precisions for D = 2 from the whole kernel of the others, in any orthonormal functions, on all weights.

    ``features`` and ``y`` are the activation and the target in these functions.  Precisions are the means of their
    Gamma laws, (alpha + shape + N/2) over the rate.
    """
    axis = 8 * (np.arange(points) + 0.5 - points / 2) / (points / 2) / np.sqrt(2)
    w = np.stack([g.ravel() for g in np.meshgrid(axis, axis, indexing="ij")], axis=1)
    phi = features(w)
    C, precision = np.zeros((len(y), len(y))), np.full(2, 2.0)
    for _ in range(500):
        G = np.linalg.inv(noise * np.eye(len(y)) + C)
        B, b = 1 + ((phi @ G) * phi).sum(axis=1) / N, phi @ (G @ y)
        log = -np.log(B) / 2 + b**2 / (2 * N * B) - w**2 @ precision / 2
        p = np.exp(log - log.max())
        p /= p.sum()
        change = (N - 1 if others is None else others) / N * (phi.T * p) @ phi - C
        C += 0.5 * change
        update = (alpha + shape + N / 2) / (alpha / 2 + N / 2 * (p @ w**2)) / precision
        precision *= update**0.4
        if np.max(np.abs(change)) < 1e-10 and np.max(np.abs(update - 1)) < 1e-10:
            break
    else:
        raise AssertionError("the grid has not converged")
    j = G @ y - G @ (phi.T @ (p * b / B)) / N
    return float(y @ (y - noise * j)), precision


def disagreement(found, expected: tuple[float, np.ndarray], floor: float) -> float:
    """The largest deviation of m and the precisions, in errors and what a grid errs by."""
    gaps = [abs(found.m - expected[0]) / (found.error + floor / 10)]
    gaps += [abs(value - other) / (found.precision_errors[name] + floor)
             for (name, value), other in zip(found.precisions.items(), expected[1], strict=False)]
    return max(gaps)


@pytest.mark.parametrize("k, N, noise", [(1, 8, 0.05), (1, 1, 0.05)])
def test_against_the_whole_square_as_data(k, N, noise):
    """For one neuron there are no others, and the readout is exact."""
    samples = np.array(list(product([-1.0, 1.0], repeat=2)))
    y = samples[:, :k].prod(axis=1) / 2

    def features(w: np.ndarray) -> np.ndarray:
        return np.maximum(w @ samples.T, 0) / 2

    found = theory(k).solve(2, noise, width=N)
    assert found.status == "converged" and found.residual < 1e-9
    assert disagreement(found, on_grid(features, y, N, noise), 2e-3) < 5
    assert disagreement(found, on_grid(features, y, N, noise, others=N), 2e-3) > 10  # all neurons for the others
    assert disagreement(found, on_grid(features, y, N, noise, shape=-1.0), 2e-3) > 10  # the mode for the mean


def quadratic(w: np.ndarray) -> np.ndarray:
    """(w·x)² in orthonormal Hermite functions of degree 0 and 2."""
    pairs = [2 * w[:, i] * w[:, j] for i, j in combinations(range(w.shape[1]), 2)]
    return np.column_stack([(w**2).sum(axis=1), np.sqrt(2) * w**2, *pairs])


def test_against_all_hermite_functions():
    """Gaussian inputs and (w·x)²: on two inputs four functions are all there are."""
    squares = limit("collapsed-mean-field", NET.replace(activation=H**2), "gaussian", 2)
    assert set(squares.equations) == {"kappa", "W"}
    found = squares.solve(2, 0.1, width=8, degree=2, nodes=4096, shifts=2)
    assert found.status == "converged" and found.residual < 1e-9
    y = np.array([0.0, 1.0, 0.0, 0.0])
    assert disagreement(found, on_grid(quadratic, y, 8, 0.1), 1e-3) < 1
    assert disagreement(found, on_grid(quadratic, y, 8, 0.1, others=8), 1e-3) > 10
    assert disagreement(found, on_grid(quadratic, y, 8, 0.1, shape=-1.0), 1e-3) > 10


def test_derivatives(two):
    """By ln κ, ln λ and ln s, with others and without."""
    for width in (64, 1):
        equations, _ = two._equations(5, 0.01, None, width, 128, 2, 0)
        rng = np.random.default_rng(0)
        x = equations.lazy + 0.3 * rng.normal(size=len(equations.lazy))
        point, step = equations.at(x, -4.0), 1e-5
        for direction in np.eye(len(x)):
            up, down = (equations.gaps(x + sign * step * direction, -4.0) for sign in (1, -1))
            assert np.allclose((up - down) / (2 * step), point.curvature @ direction, atol=1e-8)
        change = (equations.gaps(x, -4.0 + step) - equations.gaps(x, -4.0 - step)) / (2 * step)
        assert np.allclose(change, point.mixed, atol=1e-8)


def test_the_equations_come_from_the_rules(two):
    """κ and W are averages over the law of one site, and the precisions a function of W."""
    assert set(two.equations) == {"kappa", "W"}
    report = two.derivation.verify(seed=0)
    assert report.ok and "hyperprior" in str(report)


def test_towards_the_fixed_prior(two):
    """As 1/α0, on the same nodes; and where it tends to is the theory of the fixed prior, on nodes of its own."""
    m = {alpha: at(2, alpha).solve(5, 0.01, nodes=512, start="prior") for alpha in (1e3, 1e4, 1e8)}
    first, second = (m[alpha].m - m[1e8].m for alpha in (1e3, 1e4))
    assert first > 1e-3 and first / second == pytest.approx(10, rel=0.1)
    fixed = limit("collapsed-mean-field", NET.replace(prior="gaussian"), "hypercube", 2).solve(5, 0.01, nodes=1024)
    assert abs(m[1e8].m - fixed.m) < 5 * np.hypot(m[1e8].error, fixed.error)


def evidence(D: int, k: int, noise: float, precision: np.ndarray) -> float:
    """-ln of the evidence of regression with the kernel of infinitely many ReLU neurons at some precisions."""
    x = corners(D)
    variance = 1 / np.r_[np.full(k, precision[0]), np.full(D - k, precision[1])]
    cosine = np.clip(x @ variance / variance.sum(), -1, 1)
    angle = np.arccos(cosine)
    kernel = variance.sum() * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
    level = noise + np.maximum(walsh(kernel[None])[0], 0.0)
    return float(np.log(level).sum() + 1 / level[2**k - 1]) / 2


def test_infinitely_many_neurons():
    """The kernel is fixed at given precisions, and those are stationary for prior and evidence: no nodes, no sites."""
    D, k, noise, alpha = 5, 2, 0.01, 4.0
    beta, counts = alpha / D, np.array([k, D - k])

    def slope(logs: np.ndarray, shape: float = alpha) -> np.ndarray:
        step = 1e-5
        changes = [(evidence(D, k, noise, np.exp(logs + step * e)) - evidence(D, k, noise, np.exp(logs - step * e)))
                   / (2 * step) for e in np.eye(2)]
        return counts * (beta * np.exp(logs) - shape) + np.array(changes)

    expected, other = (np.exp(scipy.optimize.root(slope, np.log([2.0, 6.0]), args=(shape,)).x)
                       for shape in (alpha, alpha - 1))
    found = at(k, alpha).solve(D, noise, width=10**6, nodes=1024, start="prior")
    precisions, errors = (np.array(list(v.values())) for v in (found.precisions, found.precision_errors))
    assert found.status == "converged"
    assert (np.abs(precisions - expected) < 5 * errors + 1e-3).all()
    assert (np.abs(precisions - other) > 10 * errors + 1e-2).any()


@pytest.fixture(scope="module")
def followed(folded):
    return folded.branches(6, noise=[0.006, 0.0085, 0.0095, 0.013], nodes=512, shifts=4)


def test_branches(folded, followed):
    """4-parity at D = 6: between the spinodals three solutions, of which the middle one is unstable."""
    result, noises = followed, followed.dataset.noise.values.tolist()
    assert result.status == "converged" and result.transition is None
    low, high = result.spinodals
    assert 0.0075 < low.noise < 0.0085 and 0.010 < high.noise < 0.0115 and low.m < 0.1 < high.m
    table = result.dataset
    assert list(table.stable.values) == [True, False, True]
    inside = table.isel(noise=slice(1, 3))
    assert not inside.m.isnull().any() and "free_energy" not in table
    assert (inside.growth[1] > 1).all() and (inside.growth[0] < 1).all() and (inside.growth[2] < 1).all()
    assert table.m_up[2] > 0.4 > 0.1 > table.m_down[2]
    both = folded.solve(6, noises[2], nodes=512, shifts=4)
    planted = folded.solve(6, noises[2], nodes=512, shifts=4, start="planted")
    assert "several solutions" in both.status
    assert both.m == pytest.approx(float(inside.m[0, 1]), abs=1e-8)
    assert planted.m == pytest.approx(float(inside.m[2, 1]), abs=1e-8)
    along = folded.follow(6, noise=noises, nodes=512, shifts=4)
    assert not along.attrs["unique"]
    assert np.allclose(along.m_down[:, 0], table.m_down, atol=1e-7)
    assert np.allclose(along.m_up[:, 0], table.m_up, atol=1e-7)


def test_an_unstable_solution_is_left(folded, followed):
    """The damped map leaves the middle solution to either side, and returns to the others: what stability says."""
    equations, _ = folded._equations(6, 0.0095, None, None, 512, 4, 0)
    follower, noise = FixedPoints(equations), float(np.log(0.0095))
    table = followed.dataset.isel(noise=2)
    rates = np.r_[1.0, np.full(equations.orders - 1, 0.5), np.full(2, 0.2)]
    for branch, stays in enumerate((True, False, True)):
        at = table.isel(branch=branch)
        x = np.r_[float(at.m), np.log(at.spectrum.values), np.log(at.precision.values)]
        assert np.abs(equations.gaps(x, noise)).max() < 1e-7
        y = x + 0.01
        for _ in range(150):
            y = y + rates * equations.gaps(y, noise)
        assert (np.abs(y - x).max() < 0.01) == stays
        assert follower.newton(x, noise).stable == stays  # type: ignore[union-attr]


def test_no_functional(two):
    """A gradient, up to factors, has M_ab M_bc M_ca = M_ac M_cb M_ba at its zeros: far from it at finite width."""
    def cycle(width: int) -> float:
        equations, _ = two._equations(4, 0.01, None, width, 1024, 2, 0)
        root = FixedPoints(equations).lazy(float(np.log(0.01)))
        M, n = root.point.curvature, equations.orders
        a, b, c = 1 + equations.unknown.index((1, 0)), 1 + equations.unknown.index((2, 0)), n
        return float(M[a, b] * M[b, c] * M[c, a] / (M[a, c] * M[c, b] * M[b, a]))

    near, far = cycle(10**4), cycle(16)
    assert abs(near - 1) < 0.05 and abs(far - 1) > 0.15


def test_refusals(two):
    with pytest.raises(BadInput, match="polynomial of degree 1"):
        limit("collapsed-mean-field", NET, "hypercube", 3)
    with pytest.raises(BadInput, match="input_dim"):
        two.solve(30, 0.01)
    with pytest.raises(BadInput, match="nodes"):
        two.solve(5, 0.01, nodes=10)
    with pytest.raises(BadInput, match="start"):
        two.solve(5, 0.01, nodes=64, start="lazy")
    with pytest.raises(BadInput, match="start"):
        two.solve(5, 0.01, nodes=64, start=two.solve(4, 0.01, nodes=128, start="prior"))
    with pytest.raises(BadInput, match="noise"):
        two.branches(5, noise=[0.1], samples=[10])
    with pytest.raises(BadInput, match="two different"):
        two.branches(5, noise=[0.1], nodes=64)
    assert "effective nodes" in at(4, 0.05).solve(8, 0.001, nodes=64, shifts=2, start="planted").status


@pytest.mark.slow
def test_branches_under_gaussian_inputs():
    """he_2 of one input, D = 40: spinodals, and the solutions that `follow` finds."""
    direction = limit("collapsed-mean-field", NET, "gaussian", 2)
    noises = [0.006, 0.010, 0.013, 0.02]
    result = direction.branches(40, noise=noises, nodes=2048, degree=12)
    low, high = result.spinodals
    assert 0.0085 < low.noise < 0.0095 and 0.0145 < high.noise < 0.0165
    assert list(result.dataset.stable.values) == [True, False, True] and result.transition is None
    along = direction.follow(40, noise=noises, nodes=2048, degree=12)
    assert np.allclose(along.m_down[:, 0], result.dataset.m_down, atol=2e-4)
    assert np.allclose(along.m_up[:, 0], result.dataset.m_up, atol=2e-4)


@pytest.mark.slow
def test_two_directions_alike():
    """x_1 x_2: both inputs have the same precision; towards the fixed prior as 1/α0."""
    pairs = {alpha: limit("collapsed-mean-field", NET.replace(prior=ft.ARD(alpha)), "gaussian", {(1, 1): 1.0})
             .solve(6, 0.01, degree=8, shifts=2, start="prior") for alpha in (4.0, 1e3, 1e4, 1e8)}
    assert pairs[4.0].precisions["relevant_1"] == pytest.approx(pairs[4.0].precisions["relevant_2"], rel=1e-3)
    plain = limit("collapsed-mean-field", NET.replace(prior="gaussian"), "gaussian", {(1, 1): 1.0})
    fixed = plain.solve(6, 0.01, degree=8)
    assert abs(pairs[1e8].m - fixed.m) < 5 * np.hypot(pairs[1e8].error, fixed.error) + 1e-4
    first, second = (pairs[alpha].m - pairs[1e8].m for alpha in (1e3, 1e4))
    assert first / second == pytest.approx(10, rel=0.1)


@pytest.mark.slow
def test_against_particles():
    """The full cube D = 5, every input once: the theory on data, whose particles know no basis and no nodes."""
    noise, net = 0.01, NET.replace(width=32, noise_variance=0.32)
    found = limit("collapsed-mean-field", net, "hypercube", 2).solve(5, noise)
    cube = ft.tasks.parity("cube", 5, 2, test_samples="cube")
    theory, rows = ft.theories["collapsed-mean-field-ard"](net), []
    for seed in range(4):
        effort = {"ensembles": 4, "settle": 300, "average": 400, "measure": 200, "seed": seed}
        predicted = theory.predict(cube, effort=effort)
        precision = predicted.precision.values
        rows.append([float(predicted.mean_output.values @ cube.y / (cube.y @ cube.y)), precision[:2].mean(),
                     precision[2:].mean()])
    mean, error = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / 2
    expected = np.array([found.m, *found.precisions.values()])
    own = np.array([found.error, *found.precision_errors.values()])
    assert (error < [0.005, 0.05, 0.05]).all()
    assert (np.abs(mean - expected) < 4 * np.hypot(error, own) + [0.003, 0.01, 0.01]).all()


@pytest.mark.slow
def test_another_activation():
    """tanh, 3-parity: nodes and derivatives without a closed form anywhere."""
    found = limit("collapsed-mean-field", NET.replace(activation="tanh"), "hypercube", 3).solve(5, 0.002, nodes=1024)
    assert found.status == "converged" and found.precisions["relevant"] < found.precisions["rest"]
