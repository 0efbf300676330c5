"""The adaptive kernel at tree level: rule, identity activation against the linear theory, convexity, divergences."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import BadInput, NotConverged, RuleError
from fieldtheory.onesite.convex import Potential, escaping, minimise
from fieldtheory.onesite.descent import INSIDE, Descent, Directions, nearest
from fieldtheory.onesite.environment import Effort, Ensemble
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from fieldtheory.symbolic.loops import hbar
from fieldtheory.symbolic.potential import potential
from fieldtheory.symbolic.rules import FieldAction
from fieldtheory.symbolic.siteclosure import SiteClosure
from fieldtheory.symbolic.treelevel import growth, site_saddle
from tests.populations import limit

H = sp.Symbol("h", real=True)
SCALINGS = {"standard": ft.Scaling.standard(), "mean-field": ft.Scaling.mean_field()}
NET = ft.Network(width=6, readout_variance=1.3, weight_variance=0.9, noise_variance=0.3)


@cache
def theory(activation: Any, bias: float = 0, scaling: str = "standard") -> ft.Theory:
    net = NET.replace(activation=activation, bias_variance=bias, scaling=SCALINGS[scaling])
    return ft.theories["adaptive-kernel"](net)


def data(inputs: int, samples: int, scale: float = 1.5, seed: int = 0) -> ft.Dataset:
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(samples, inputs)), scale * rng.normal(size=samples)
    return ft.Dataset(X, y, rng.normal(size=(3, inputs)), np.ones(3))


# ------------------------------------------------------------------------------------------------- derivation


@pytest.mark.parametrize(("activation", "bias"), [
    ("relu", 1), pytest.param("erf", 0, marks=pytest.mark.slow),
    pytest.param(sp.tanh(H) + H / 5, 0, marks=pytest.mark.slow)])
def test_every_step_is_verified(activation: Any, bias: float) -> None:
    derivation = theory(activation, bias).derivation
    report = derivation.verify(seed=3)
    assert report.ok, str(report)
    assert {row.quantity for row in report.rows} >= {"S at the saddle", "curvature", "convexity",
                                                     "ln Z, next coefficient"}
    (step,) = (step for step in derivation.steps if not step.exact)
    assert step.remainder == hbar


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("part", ["action", "equation", "observable"])
def test_a_wrong_saddle_is_caught(part: str) -> None:
    derivation = theory("erf").derivation
    (step,) = (step for step in derivation.steps if step.rule == "site_saddle")
    ((t, body),) = dict(step.details["order_parameters"]).items()
    wrong = 1.02
    if part == "action":
        step = dataclasses.replace(step, after=step.after.replace_expr(step.after.expr.xreplace({t: wrong * t})))
    elif part == "equation":
        details = {**step.details, "order_parameters": sp.Dict({t: sp.Float(wrong) * body})}
        step = dataclasses.replace(step, details=details)
    else:
        push = step.push
        step = dataclasses.replace(step, push=lambda observable: sp.Float(wrong) * push(observable))
    assert not dataclasses.replace(derivation, steps=(step,)).verify(seed=1).ok


def test_the_rule_finds_the_tilt() -> None:
    """One site: the prior times exp((t·φ)² g/2N), at t = (y - f)/s."""
    S = theory("erf").action
    t, g, N, s = S["t"], S["g"], S["N"], S["s"]
    feature = sp.erf(SpaceSum(S["X"] * Entry("w", "real", (S.space("input"),)), S.space("input")))
    tilt = SpaceSum(t * feature, S.space("sample"))
    coupled = sp.Add(*(term for term in sp.Add.make_args(S.expr) if term.has(sp.erf)))
    assert sp.expand(coupled + g * tilt**2 / (2 * N)) == 0
    assert sp.expand(S.last["order_parameters"][t] - (S["y"] - g * feature * tilt) / s) == 0
    assert sp.expand(S.observe("output") - g * feature * tilt) == 0  # by the equation of state
    closure = theory("erf").closure
    assert isinstance(closure, SiteClosure) and closure.convex and closure.potential.stiffness == s


def test_convexity_is_claimed_by_signs_only() -> None:
    """With sites that repel each other along the field the sign is the other one, and nothing is claimed."""
    N, c = sp.Symbol("N", positive=True), sp.Symbol("c", positive=True)
    site, sample = Space("site", N), Space("sample", sp.Symbol("P", positive=True))
    x, j = Entry("x", "real", (site,)), Entry("j", "imaginary", (sample,))
    u = Entry("u", "data", (sample,))
    base = SpaceSum(x**2 / 2, site) - SpaceSum(j**2, sample) / 2 + SpaceSum(u * j, sample)
    for sign, expected in ((-1, True), (1, False)):
        action = FieldAction(base + sign * c * SpaceSum(sp.exp(x) * SpaceSum(u * j, sample)**2, site), (x, j))
        after = site_saddle(action, site, j, "t").after
        assert potential(after.expr, after.fields, Entry("t", "data", (sample,)), N).convex == expected


@pytest.mark.parametrize(("name", "expected"), [("mean-field", True), ("collapsed-mean-field", False)])
def test_independent_sites_have_a_convex_potential(name: str, expected: bool) -> None:
    """The law of one of N identical sites is unique: by rule, from the action before the readout is integrated out."""
    closure = ft.theories[name](NET.replace(activation="relu")).closure
    assert isinstance(closure, SiteClosure) and closure.convex == expected


def test_what_the_rule_cannot_do_is_refused() -> None:
    S = ft.Network(activation="erf").action()
    with pytest.raises(RuleError, match="besides those of site"):
        S.conjugate("f", "output", conjugate="j").site_saddle("site", "j", "t")
    reduced = S.conjugate("f", "output", conjugate="j").integrate_out("a").integrate_out("f")
    with pytest.raises(BadInput, match="name"):
        reduced.site_saddle("site", "j", "w")
    N = sp.Symbol("N", positive=True)
    site, sample = Space("site", N), Space("sample", sp.Symbol("P", positive=True))
    x, k = Entry("x", "real", (site,)), Entry("k", "real", (sample,))
    total = SpaceSum(k, sample)
    coupled = FieldAction(SpaceSum(x**2, site) + total * SpaceSum(x, site) + SpaceSum(k**2, sample), (x, k))
    with pytest.raises(RuleError, match="no conjugate field"):
        site_saddle(coupled, site, k, "t")


@pytest.mark.parametrize("activation", ["quadratic", H**3, H + H**2 / 5])
def test_a_site_whose_integral_diverges_is_refused(activation: Any) -> None:
    """Features that grow faster than the weights: exp((t·φ)²) beats the prior for every t."""
    with pytest.raises(RuleError, match="diverges"):
        ft.theories["adaptive-kernel"](NET.replace(activation=activation))


def test_growth() -> None:
    x = Entry("x", "real", (Space("input", sp.Symbol("D", positive=True)),))
    u = SpaceSum(x * Entry("X", "data", x.spaces), x.spaces[0])
    for feature, power in ((sp.erf(u), 0), (sp.Max(u, 0), 1), (u + sp.tanh(u), 1), (u**2, 2)):
        assert growth(feature, (x,)) == power, feature


# --------------------------------------------------------------------------------- the identity: the linear theory


def test_the_identity_gives_the_linear_action() -> None:
    """The same action by another order of steps: the weights of one site integrated last."""
    S = NET.replace(activation="identity").action()
    S = S.conjugate("f", "output", conjugate="j").integrate_out("a").integrate_out("f")
    S = S.factorise("site").integrate_site("w")
    linear = ft.theories["linear"](NET.replace(activation="identity"), view="adaptation", loops=0).action
    (rotated,) = (step for step in linear.steps if step.rule == "diagonalise")
    variance = rotated.details["scale"]
    (gram,) = (node for node in S.expr.atoms(SpaceSum) if node.body.has(Entry("X", "data", S["X"].spaces))
               and node.space == S.space("input"))
    lam, k = linear["lambda"], linear.space("mode")
    j, y = linear["j"], linear["y"]
    # |Xᵀ j|² in the eigenbasis of K, as the rotation does it
    modes = {gram: variance * SpaceSum(lam * j**2, k)}
    rest = {S["j"]: j, S["y"]: y, S.space("sample"): k}
    assert sp.simplify(sp.expand_log(S.expr.xreplace(modes).xreplace(rest) - linear.expr, force=True)) == 0


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("inputs", [1, 2])
def test_the_identity_gives_the_linear_numbers(inputs: int, scaling: str) -> None:
    given = data(inputs, 5, 4.0)
    found = theory("identity", 0, scaling).predict(given)
    net = theory("identity", 0, scaling).network
    linear = ft.theories["linear"](net, view="adaptation", loops=0).predict(given)
    assert float(linear.q) > 1.5 * net.effective_readout_variance()  # far from the fixed kernel
    for name in ("mean_output", "test_output", "readout_norm", "discrepancy_along_target", "log_evidence"):
        scale = float(np.abs(linear[name]).max())
        assert float(np.abs(found[name] - linear[name]).max()) < 1e-9 * scale, name
    assert found.attrs["status"] == "converged" and "only solution" in found.attrs["uniqueness"]
    assert found.mean_output.attrs["remainder"] == "O(hbar)"


def test_particles_give_the_linear_numbers() -> None:
    """Two-sided, over all outputs; a net with another readout prior must fail."""
    given = data(8, 12, 6.0)
    effort = dict(ensembles=8, particles=64, settle=60, average=60, measure=40)
    found = theory("identity").predict(given, width=40, effort=effort)
    assert found.attrs["particle_ess"] > 2000 and found.attrs["acceptance"] > 0.6
    net = theory("identity").network.replace(width=40)

    def pull(net: ft.Network) -> float:
        linear = ft.theories["linear"](net, view="adaptation", loops=0).predict(given)
        z = ((found.mean_output - linear.mean_output) / found.mean_output_mcse).values
        return float(np.sqrt((z**2).mean()))

    assert pull(net) < 3.0  # seven degrees of freedom, twelve correlated outputs
    assert pull(net.replace(readout_variance=1.6)) > 5.0


# ---------------------------------------------------------------------------------------------- one solution


@pytest.mark.parametrize("activation", ["erf", "relu"])
def test_every_start_ends_at_one_solution(activation: str) -> None:
    predictor = theory(activation)._site_predictor
    given, rng = data(1, 4, 5.0), np.random.default_rng(1)
    environment, values = predictor.environment(False), predictor.values(theory(activation).network, given, 5)
    best = minimise(environment, values)
    for scale in (0.1, 3.0, 30.0):
        again = minimise(environment, values, scale * rng.normal(size=4))
        assert np.abs(again.point - best.point).max() < 1e-8 * np.abs(best.point).max()
    assert np.linalg.eigvalsh(best.curvature).min() > values["s"] * (1 - 1e-12)
    warm = environment.on_grid(values, start=Ensemble({"t": 2 * best.point}, {}, 0.0, best.sampler))
    assert np.abs(warm.environment["t"] - best.point).max() < 1e-8 * np.abs(best.point).max()


@pytest.mark.parametrize("activation", ["erf", "relu"])
def test_the_mean_output_is_the_slope_of_the_potential(activation: str) -> None:
    """f = y - s ∂F/∂(-y): the minimum of F moves with y by the envelope theorem; F'' by differences of its slope."""
    predictor, given = theory(activation)._site_predictor, data(1, 3, 2.0)
    net, h = theory(activation).network, 1e-4
    environment, values = predictor.environment(False), predictor.values(net, given, 4)
    found = theory(activation).predict(given, width=4)
    centre = minimise(environment, values)
    slopes, points = [], []
    for e in np.eye(3):
        sides = [minimise(environment, values | {"y": given.y + sign * h * e}) for sign in (1, -1)]
        slopes.append((sides[0].value - sides[1].value) / (2 * h))
        points.append((sides[0].point - sides[1].point) / (2 * h))
    assert np.abs(given.y + values["s"] * np.array(slopes) - found.mean_output.values).max() < 1e-6
    assert np.abs(np.linalg.inv(np.array(points)) - centre.curvature).max() < 1e-5 * np.abs(centre.curvature).max()


def test_a_law_near_its_divergence_widens_the_nodes() -> None:
    """ReLU with a target far out: the law of one site reaches beyond ten standard deviations of its prior."""
    predictor, given = theory("relu")._site_predictor, data(1, 4, 12.0)
    environment, values = predictor.environment(False), predictor.values(theory("relu").network, given, 2)
    minimum = minimise(environment, values)
    assert minimum.sampler.stretch.max() > 2 and minimum.residual < 1e-11
    assert escaping(environment, values, {"t": minimum.point}, minimum.sampler) == 0.0
    assert escaping(environment, values, {"t": 1.5 * minimum.point}, minimum.sampler) > 0.1
    with pytest.raises(NotConverged, match="not found"):
        Potential(environment.closure, values).minimise(minimum.point + 1, minimum.sampler, 1e-11, limit=1)


# ------------------------------------------------------------------------------------ particles near the edge


@pytest.mark.parametrize(("order", "noise", "condensed"), [
    (4, 0.3, True), pytest.param(2, 0.8, False, marks=pytest.mark.slow)])
def test_particles_on_the_full_cube_are_the_population(order: int, noise: float, condensed: bool) -> None:
    """Two-sided; on one side of the onset of the condensate and on the other.  A wider network must fail."""
    X = np.array(list(product([-1.0, 1.0], repeat=6)))
    y = X[:, :order].prod(axis=1)
    net = ft.Network(activation="relu", width=32, readout_variance=1.0, weight_variance=1.0, noise_variance=noise)
    effort = dict(ensembles=4, particles=64, settle=60, average=60, measure=30)
    found = ft.theories["adaptive-kernel"](net).predict(ft.Dataset(X, y), effort=effort)
    assert found.attrs["status"].startswith("converged") and found.attrs["particle_ess"] > 2000
    assert ("weights without bound" in found.attrs["status"]) == condensed
    m = float(found.mean_output.values @ y / (y @ y))
    bound = float(found.mean_output_mcse.mean())  # if all outputs erred together
    population = limit("adaptive-kernel", net, "hypercube", order)
    exact = population.solve(6, samples=64)
    assert (exact.condensate > 0.05) == condensed and (found.attrs["condensate"] > 0.05) == condensed
    assert abs(m - exact.m) < 3 * bound + 0.002 and bound < 0.02
    share, error = found.attrs["condensate"], np.hypot(found.attrs["condensate_mcse"], exact.condensate_error)
    assert error < 0.015 and abs(share - exact.condensate) < 4 * error + 0.015
    assert "beyond all particles" not in found.attrs["status"]
    # at the edge y - f is known as well as the edge: half the tilt's tolerance, with no noise of particles to hide in
    assert not condensed or abs((1 - m) / (1 - exact.m) - 1) < INSIDE
    assert abs(m - population.solve(6, samples=64, width=64).m) > 4 * bound + 0.002


def test_particles_keep_to_the_domain() -> None:
    """No direction is tilted beyond the exponent of the prior, also those that were not looked at."""
    predictor, rng = theory("relu")._site_predictor, np.random.default_rng(2)
    environment = predictor.environment(False)
    values = predictor.values(theory("relu").network, data(4, 10, 6.0), 10)
    descent = Descent(environment, values)
    found = descent.run(Effort(particles=48, settle=60, average=40, measure=20), np.random.SeedSequence(1))
    _, slopes = descent.slopes(rng.standard_normal((20000, 4)))
    assert 0.8 < np.abs(slopes @ found.environment["t"]).max() < 1.005
    assert 0.8 < found.tilt <= 1 + INSIDE
    assert escaping(environment, values, found.environment, found.sampler) == 0
    assert escaping(environment, values, {"t": 1.5 * found.environment["t"]}, found.sampler) > 0


def test_directions_that_were_missed_are_found_at_the_end() -> None:
    """From far outside of the domain with no direction known, the last step ends on its edge; and where it does not,

    status says so.
    """
    predictor, rng = theory("relu")._site_predictor, np.random.default_rng(4)
    given = data(4, 10, 6.0)
    environment, values = predictor.environment(False), predictor.values(theory("relu").network, given, 10)
    descent = Descent(environment, values)
    _, slopes = descent.slopes(rng.standard_normal((20000, 4)))
    t = rng.normal(size=10)
    t *= 2 / np.abs(slopes @ t).max()
    none = Directions(np.zeros((0, 4)), np.zeros((0, 10)), np.zeros(0))
    final, known, tilt = descent.finished(t, np.zeros(10), np.eye(10), none, np.random.SeedSequence(2))
    assert tilt <= 1 + INSIDE and np.abs(slopes @ final).max() < 1.002 < np.abs(slopes @ t).max()
    assert np.abs(final - t + known.weights @ known.rows(t, 0.0)).max() < 1e-9 * np.abs(t).max()  # F' + Σ c ψ = 0
    effort = Effort(ensembles=2, particles=32, settle=20, average=20, measure=10)
    solved = predictor.solve(theory("relu").network, given, 10, ["mean_output"], effort)
    assert "diverges" not in " ".join(predictor.certificates(solved)[1])
    solved.ensembles[1].tilt = 1.1
    assert "diverges" in " ".join(predictor.certificates(solved)[1])


def test_averages_are_affine_in_the_environment() -> None:
    """Constants and slopes at one t are the averages there, and to first order those at another, reweighted to it."""
    predictor, rng = theory("erf")._site_predictor, np.random.default_rng(5)
    environment = predictor.environment(False)
    descent = Descent(environment, values := predictor.values(theory("erf").network, data(4, 5), 10))
    fields = descent.coordinates.split(rng.standard_normal((300, 4)))
    t, move = rng.normal(size=5), rng.normal(size=5)
    statics, weights = environment.statics.bind(values), np.full(300, 1 / 300)
    read = descent.linear(t, descent.potential.evaluated(t, fields)["pull"], fields, weights, statics)

    def averaged(at: np.ndarray) -> np.ndarray:
        logs = descent.potential.evaluated(t, fields)["energy"] - descent.potential.evaluated(at, fields)["energy"]
        moved = np.exp(logs) / np.exp(logs).sum()
        found = environment.averages(fields, moved, statics)
        return np.asarray(found["environment|c"] + found["environment"] @ at)

    h = 1e-4
    assert np.abs(read["environment|c"] + read["environment"] @ t - averaged(t)).max() < 1e-12
    slope = (averaged(t + h * move) - averaged(t - h * move)) / (2 * h)
    assert np.abs(read["environment"] @ move - slope).max() < 1e-6 * np.abs(slope).max()


def test_the_nearest_point_of_the_domain() -> None:
    """Stationarity, feasibility and complementarity, at random problems."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        root, t, rows = rng.normal(size=(5, 5)), 0.1 * rng.normal(size=5), rng.normal(size=(7, 5))
        rows /= np.maximum(1.0, (rows @ t) / 0.9)[:, None]
        slope, curvature = 3 * rng.normal(size=5), root @ root.T + np.eye(5)
        step, c = nearest(t, slope, curvature, rows)
        assert np.abs(slope + curvature @ step + c @ rows).max() < 1e-6
        assert c.min() >= 0 and (rows @ (t + step)).max() < 1 + 1e-6
        assert np.abs(c * (1 - rows @ (t + step))).max() < 1e-6
