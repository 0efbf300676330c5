"""Collapsed mean-field theory under Gaussian inputs: blocks by symmetry against the whole kernel in a tensor basis."""

from dataclasses import replace
from itertools import product
from math import comb, factorial, sqrt

import numpy as np
import pytest
import scipy.special
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.population.blocks import BlockEquations
from fieldtheory.population.lattices import Points, draw_points, generator
from fieldtheory.population.modes import Mode
from fieldtheory.population.sectors import Batch, SectorNodes, choose, overlaps, sectors
from fieldtheory.randompoints import draw
from fieldtheory.sectorlaw import OrbitLaw, in_blocks, off_blocks, sizes_in_sectors
from fieldtheory.stepchecks import check_step
from fieldtheory.symbolic import sectors as rule
from fieldtheory.symbolic.bases import directional_overlap, directional_weight
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from fieldtheory.symbolic.harmonics import harmonics
from tests.populations import limit
from tests.test_mutations import Mutation, _plant

NET = ft.Network(activation="relu", width=64, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1)
U = sp.Symbol("u", real=True)


@pytest.fixture(scope="module")
def two():
    return limit("collapsed-mean-field", NET, "gaussian", 2)


# ---------------------------------------------------------------------------------------------- geometry


def hermite(n: int, x: np.ndarray) -> np.ndarray:
    return scipy.special.eval_hermitenorm(n, x) / sqrt(factorial(n))


@settings(max_examples=8, deadline=None)
@given(n=st.integers(2, 12), order=st.integers(0, 9))
def test_powers_of_a_cosine_in_harmonics(n, order):
    found = harmonics(sp.Integer(n), order)
    for j in range(order + 1):
        assert sum(h.multiplicity * h.weights.get(j, 0) for h in found) == 1
    for l, h in enumerate(found):
        assert h.multiplicity == comb(n + l - 1, l) - (comb(n + l - 3, l - 2) if l > 1 else 0)
    if n > 2:
        t = np.linspace(-1, 1, 7)
        for j in range(order + 1):
            total = sum(float(h.multiplicity * h.weights.get(j, 0)) * scipy.special.eval_gegenbauer(l, (n - 2) / 2, t)
                        / scipy.special.eval_gegenbauer(l, (n - 2) / 2, 1.0) for l, h in enumerate(found))
            assert np.allclose(total, t**j, atol=1e-10)


def test_harmonics_at_a_symbol_and_on_two_points():
    n = sp.Symbol("n", positive=True)
    found = harmonics(n, 3)
    assert sp.factor(found[2].multiplicity - (n - 1) * (n + 2) / 2) == 0
    assert [h.multiplicity for h in harmonics(sp.Integer(1), 5)] == [1, 1]
    assert directional_weight((1,), 0, sp.Integer(1), 2) == 0
    with pytest.raises(BadInput, match="order"):
        harmonics(n, -1)


@pytest.mark.parametrize("order, pairs, momentum", [(1, 0, 1), (0, 1, 1), (2, 0, 2), (1, 1, 2), (0, 0, 3)])
def test_overlaps_with_a_harmonic(order, pairs, momentum):
    """E[φ(w·x) e(x)] over three inputs, the polynomial in |x_⊥| made orthonormal numerically, Y = √2 cos lθ."""
    w = np.random.default_rng(3).normal(size=3)
    z, q = np.polynomial.hermite_e.hermegauss(14)
    x = np.array(list(product(z, repeat=3)))
    p = np.prod(list(product(q / q.sum(), repeat=3)), axis=1)
    radius, angle = np.hypot(x[:, 1], x[:, 2]), np.arctan2(x[:, 2], x[:, 1])
    known: list[np.ndarray] = []
    for k in range(pairs + 1):
        column = radius**(momentum + 2 * k) * np.sqrt(2) * np.cos(momentum * angle)
        for other in known:
            column = column - (p @ (column * other)) * other
        known.append(column / np.sqrt(p @ column**2))
    h = x @ w
    expected = p @ ((h**5 / 9 - h**4 / 3 + h**3 - h) * known[-1] * hermite(order, x[:, 0]))
    size = float(np.linalg.norm(w))
    Y = np.sqrt(2) * np.cos(momentum * np.arctan2(w[2], w[1]))
    j = directional_overlap(U**5 / 9 - U**4 / 3 + U**3 - U, U, (order,), pairs, sp.Float(size), [sp.Float(w[0] / size)],
                            sp.Float((w[1:]**2).sum() / size**2), sp.Integer(2), momentum)
    assert float(j) * Y == pytest.approx(expected, rel=1e-9)


@settings(max_examples=12, deadline=None)
@given(d=st.integers(1, 2), dimension=st.integers(3, 9), degree=st.integers(0, 6), seed=st.integers(0, 999))
def test_modes_of_a_degree_sum_to_its_power(d, dimension, degree, seed):
    """Σ over all modes of degree m of j j' Σ_m Y Y' is (v·v')^m: nothing is missing, nothing is twice."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(2, d + dimension))
    v /= np.linalg.norm(v, axis=1)[:, None]
    rest = np.linalg.norm(v[:, d:], axis=1)
    t = float(v[0, d:] @ v[1, d:]) / rest.prod()
    points = Points(np.ones(2), np.ones(2), v[:, :d], rest, np.zeros(2, bool))
    table = np.eye(degree + 1)[None, degree] * np.ones((2, 1))
    total = 0.0
    for sector in sectors([Mode((1,) * d)], dimension, degree, [degree]):
        j, l = overlaps(sector, points, table, dimension), sector.momentum
        zonal = scipy.special.eval_gegenbauer(l, (dimension - 2) / 2, [t, 1.0])
        total += sector.multiplicity * zonal[0] / zonal[1] * float(j[0] @ j[1])
    assert total == pytest.approx(float(v[0] @ v[1])**degree, abs=1e-10)


# --------------------------------------------------------------------------------- against the whole kernel


def whole_kernel(w, weights, phi, degree, D, N, s, target):
    """C over the tensor Hermite basis, and the output, by damped iteration: no sectors, no nodes but those given."""
    T = [t for t in product(range(degree + 1), repeat=D) if sum(t) <= degree]
    z, q = np.polynomial.hermite_e.hermegauss(degree + 2)
    x = np.array(list(product(z, repeat=D)))
    Q = np.prod(list(product(q / q.sum(), repeat=D)), axis=1)
    E = np.array([np.prod([hermite(n, x[:, i]) for i, n in enumerate(t)], axis=0) for t in T])
    J, y = phi(w @ x.T) @ (E * Q).T, np.array([target.get(t, 0.0) for t in T])
    C = np.zeros((len(T), len(T)))
    for _ in range(2000):
        R = np.linalg.inv(s * np.eye(len(T)) + C)
        B, b = 1 + np.einsum("na,ab,nb->n", J, R, J) / N, J @ (R @ y)
        log = -np.log(B) / 2 + b**2 / (2 * N * B)
        p = weights * np.exp(log - log.max())
        p /= p.sum()
        change = (1 - 1 / N) * (J.T * p) @ J - C
        C += 0.6 * change
        if np.max(np.abs(change)) < 1e-12:
            break
    output = y - s * (R @ (y - J.T @ (p * b / B) / N))
    return dict(zip(T, output, strict=True)), np.linalg.eigvalsh(C)


CASES = [("u", lambda h: h, 1, 3, {1: 1.0}), ("u + u**2/2", lambda h: h + h**2 / 2, 2, 3, {2: 1.0}),
         ("u + u**2/2", lambda h: h + h**2 / 2, 2, 3, {1: 0.5, 2: 1.0}),
         ("u**3", lambda h: h**3, 3, 3, {1: 1.0, 3: -0.3}),
         ("u + u**2/2", lambda h: h + h**2 / 2, 2, 4, {(1, 1): 1.0}),
         ("u + u**2/2", lambda h: h + h**2 / 2, 2, 4, {(2, 0): 0.8, (1, 1): 1.0})]
ACTIVATIONS = {"u": U, "u + u**2/2": U + U**2 / 2, "u**3": U**3}


def in_sectors(kernels, activation, degree, D, N, s, target, first, radii, weights, multiplicity=None):
    """The same from blocks, on nodes given by components along the directions and the norm of the rest."""
    modes = [Mode.read(key, first.shape[1]) for key in target]
    size = np.sqrt((first**2).sum(axis=1) + radii**2)
    points = Points(weights, size, first / size[:, None], radii / size, np.zeros(len(size), bool))
    r = sp.Symbol("r", positive=True)
    directional = [sp.lambdify(r, directional_overlap(ACTIVATIONS[activation], U, (m,), 0, r, [sp.S.One], sp.S.Zero,
                                                      sp.S.One))(size) * np.ones_like(size) for m in range(degree + 1)]
    table, dimension = np.stack(directional, axis=1), D - first.shape[1]
    found = sectors(modes, dimension, degree, range(degree + 1))
    if multiplicity is not None:
        found = [replace(sector, multiplicity=multiplicity) for sector in found]
    nodes = SectorNodes(points, tuple(overlaps(sector, points, table, dimension) for sector in found),
                        (table**2).sum(axis=1), np.zeros(len(size)))
    y = np.array([dict(zip(modes, target.values(), strict=True)).get(mode, 0.0) for mode in found[0].modes])
    basis = choose(found, nodes, y, 0.0)
    batch = Batch.of(nodes, basis)
    equations = BlockEquations(kernels, {"N": float(N), "g": 1.0, "s": s, "P": 1.0}, basis, y)
    root = equations.root(batch, equations.start(batch, False))
    assert root.converged
    spectrum = [value for sector, block, size in zip(basis.sectors, basis.blocks(root.kappa), basis.sizes, strict=True)
                for value in np.linalg.eigvalsh(block[:size, :size]).tolist() * int(sector.multiplicity)]
    return dict(zip([m.key for m in found[0].modes], equations.output(batch, root.kappa), strict=True)), spectrum


@pytest.mark.parametrize("activation, phi, degree, D, target", CASES)
def test_blocks_against_the_whole_kernel(two, activation, phi, degree, D, target):
    """A law on 40 nodes and all turns of them by an eighth: to 1e-8 the same eigenvalues, each as often, and output."""
    rng = np.random.default_rng(5)
    d, N, s, turns = (1 if isinstance(next(iter(target)), int) else 2), 8, 0.05, 8
    first = rng.normal(size=(20, d))
    first = np.concatenate([first * sign for sign in product((1.0, -1.0), repeat=d)])
    radii, weights = np.tile(rng.uniform(0.3, 1.5, 20), 2**d), np.tile(rng.uniform(0.5, 1.0, 20), 2**d)
    angle = 2 * np.pi * np.arange(turns) / turns
    w = np.concatenate([np.column_stack([first, radii * np.cos(a), radii * np.sin(a)]) for a in angle])
    padded = {(*((key,) if d == 1 else key), 0, 0): c for key, c in target.items()}
    expected, spectrum = whole_kernel(w, np.tile(weights, turns), phi, degree, D, N, s, padded)
    found, values = in_sectors(two.kernels, activation, degree, D, N, s, target, first, radii, weights)
    for key, m in found.items():
        orders = (key,) if isinstance(key, int) else key
        if len(orders) == d:
            assert m == pytest.approx(expected[(*orders, 0, 0)], abs=1e-8)
        elif orders[-1] == 1:  # (x_a² + x_b² - 2)/2 beyond the directions
            assert m == pytest.approx(sqrt(2) * expected[(*orders[:d], 2, 0)], abs=1e-8)
    seen = spectrum[spectrum > 1e-9]
    assert np.allclose(np.sort(np.array(values)[np.array(values) > 1e-9]), seen, atol=1e-8)
    wrong, _ = in_sectors(two.kernels, activation, degree, D, N, s, target, first, radii, weights, multiplicity=1.0)
    key = next(iter(target))
    assert abs(wrong[key] - found[key]) > 1e-4


# -------------------------------------------------------------------------------------------------- the rule


def test_the_derivation_verifies_itself(two):
    report = two.derivation.verify(seed=1)
    assert report.ok, report
    assert "off the blocks" in str(report)
    (step,) = [step for step in two.action.steps if step.rule == "sectors"]
    assert step.exact and "Schur" in step.description


def sectors_step(theory):
    return next(step for step in theory.action.steps if step.rule == "sectors")


def checked(step):
    symbols = frozenset(s for e in (step.before.expr, step.after.expr) for s in e.free_symbols)
    sizes = frozenset(s for e in (step.before.expr, step.after.expr) for space in e.atoms(Space)
                      for s in space.size.free_symbols)
    return check_step(step, {}, np.random.default_rng(0), symbols & sizes)


@pytest.mark.parametrize("old, new", [
    ("SpaceSum(d * SpaceSum(vectors(total.body), outer), one)", "SpaceSum(SpaceSum(vectors(total.body), outer), one)"),
    ("SpaceSum(U * renamed(total.body / basis), inner) / sp.sqrt(samples)",
     "SpaceSum(U * renamed(total.body / basis), inner)"),
    (" + count * total.body.xreplace(empty)", "")])
def test_an_error_in_the_rule_is_caught(two, old, new, monkeypatch):
    before = sectors_step(two).before
    assert all(result.ok for result in checked(sectors_step(two)))
    _plant(monkeypatch, Mutation("sectors", rule, "sectors", old, new, lambda: two.derivation, "sectors"))
    step = rule.sectors(before, sectors_step(two).details["basis"])
    assert not all(result.ok for result in checked(step))


def test_a_target_without_the_symmetry_has_no_blocks(two):
    step = sectors_step(two)
    exprs = [step.before.expr, step.after.expr, *step.after.fields]
    sizes = {**dict.fromkeys((s for e in exprs for s in e.free_symbols), 2), **sizes_in_sectors(step)}
    rng, law = np.random.default_rng(0), OrbitLaw()
    values = in_blocks(step, draw(exprs, sizes, rng), law, rng)
    assert off_blocks(step, values, law) < 1e-12
    y = next(e for e in values if isinstance(e, Entry) and e.name == "y" and e.spaces == (step.details["modes"],))
    for other in ((1, 0, 0), (2, 0, 0)):  # another parity, another angular momentum
        values[y] = values[y] + np.array([member == other for member in law.members])
        assert off_blocks(step, values, law) > 1e-4


def test_the_rule_refuses():
    S = NET.action().conjugate("f", "output", conjugate="j").integrate_out("a").integrate_out("f")
    S = S.cavity("site", "j", modes="eigenmode").integrate_out("j").project("sample", "X", "gaussian")
    with pytest.raises(BadInput, match="eigenvectors"):
        rule.sectors(S.value, S["y"])
    with pytest.raises(BadInput, match="names"):
        S.sectors("V", radial="mode")
    with pytest.raises(RuleError, match="vectors over the modes"):
        rule.sectors(replace(S.value, expr=_alone(S)), S["V"])


def _alone(S):
    """Σ_k (Σ_T V y): one vector, which has no number."""
    V = S["V"]
    mode, eigen = V.spaces
    y = Entry("y", "data", (mode,))
    return SpaceSum(SpaceSum(V * y, mode), eigen)


# ------------------------------------------------------------------------------------------------- solutions


@pytest.mark.parametrize("target", [2, {(1, 1): 1.0}, {1: 1.0, 2: -0.5}], ids=str)
def test_an_infinitely_wide_network_regresses_with_the_fixed_kernel(target):
    """That of `nngp`, whose spectrum knows no nodes; features of degree two are kept.  A narrow network must fail."""
    h = sp.Symbol("h", real=True)
    net = NET.replace(activation=h + h**2 / 2)
    theory, fixed = (limit(name, net, "gaussian", target) for name in ("collapsed-mean-field", "nngp"))
    exact = fixed.solve(5, 0.01)
    wide, narrow = (theory.solve(5, 0.01, width=width, degree=2) for width in (10**8, 64))
    assert wide.status == "converged"
    for mode, m in exact.order_parameters.items():
        assert wide.order_parameters[mode] == pytest.approx(m, abs=1e-6)
    assert wide.test_error == pytest.approx(exact.test_error, abs=1e-6)
    assert abs(narrow.test_error - exact.test_error) > 1e-3


def test_a_rotated_single_index(two):
    """he_2 along (u_1 + u_2)/√2 in the modes of two directions: the same eigenvalues and the same error."""
    target = {(2, 0): 0.5, (1, 1): sqrt(0.5), (0, 2): 0.5}
    one = two.solve(4, 0.01, degree=6)
    theory = limit("collapsed-mean-field", NET, "gaussian", target)
    theory.__dict__["kernels"] = two.kernels  # they do not depend on the target
    other = theory.solve(4, 0.01, nodes=8192, shifts=2, degree=6)
    assert "not converged" not in one.status + other.status
    m = sum(weight * other.order_parameters[key] for key, weight in target.items())
    assert m == pytest.approx(one.m, abs=1e-4) and other.test_error == pytest.approx(one.test_error, abs=1e-4)
    assert other.spectrum[0, 0] == pytest.approx(one.spectrum[0, 0], rel=1e-3)


def test_what_is_left_out_is_small_or_said(two):
    rough = two.solve(10, 0.05**2, degree=4, nodes=1024, shifts=2)
    assert rough.status.startswith("truncated at degree 4") and rough.remainder > 0.01
    found = two.solve(10, 0.05**2, nodes=1024, shifts=2)
    more = two.solve(10, 0.05**2, degree=found.degree + 4, nodes=1024, shifts=2)
    assert found.status == "converged" and abs(found.m - more.m) < 3e-4 < abs(rough.m - more.m)
    assert found.error < 1e-6
    plain = limit("mean-field", NET, "gaussian", 2, order=4).solve(10, 0.05**2, nodes=1024, shifts=2)
    assert found.m > 1.5 * plain.order_parameters[2]


def test_both_ways_agree(two):
    both = two.follow(6, noise=[0.003, 0.01, 0.03], nodes=1024, shifts=2)
    assert both.attrs["unique"] and set(both.status.values) == {"converged"}
    assert (np.diff(both.m_down.values[:, 0]) < 0).all()


@pytest.mark.parametrize("directions, D, count, accuracy", [(1, 2, 1024, 1e-7), (1, 30, 512, 1e-7), (2, 5, 4096, 1e-5)])
def test_moments_of_the_prior_on_a_lattice(directions, D, count, accuracy):
    """E |w|² = σ², E (w·u)⁴ = 3σ⁴/D²; and of a lattice with another generator they are not as good."""
    points = draw_points(directions, D, 2.0, count, np.random.default_rng(1))
    W, along = points.weights, points.size * points.cosines[:, 0]
    assert [W.sum(), W @ points.size**2 / 2, W @ along**4 * D**2 / 12] == pytest.approx([1, 1, 1], abs=accuracy)
    assert np.allclose((points.cosines**2).sum(axis=1) + points.rest**2, 1) and W[points.edge].sum() < 1e-6
    assert generator(count, (16.0,) * (directions + 1))[:2] != (1, 1)


def test_the_output_does_not_depend_on_the_shift(two):
    found = [two.solve(6, 0.01, degree=8, nodes=1024, shifts=2, seed=seed).m for seed in range(2)]
    assert abs(found[0] - found[1]) < 1e-6


def test_refusals(two):
    with pytest.raises(BadInput, match="polynomial of degree 1"):
        limit("collapsed-mean-field", NET, "gaussian", {1: 1.0, 3: 0.5})
    with pytest.raises(BadInput, match="resolvent"):
        limit("collapsed-mean-field", NET, "gaussian", 2, resolvent="self-consistent")
    with pytest.raises(BadInput, match="loops"):
        limit("collapsed-mean-field", NET, "gaussian", 2, loops=1)
    with pytest.raises(BadInput, match="degree"):
        two.solve(6, 0.01, degree=1)
    with pytest.raises(BadInput, match="input_dim"):
        two.solve(1, 0.01)
    with pytest.raises(BadInput, match="shifts"):
        two.solve(6, 0.01, shifts=1)
    assert "effective nodes" in two.solve(8, 1e-3, nodes=64, degree=4, shifts=2).status
