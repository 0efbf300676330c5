"""Plans for particles: as compiled code, as NumPy runs them, and as mpmath evaluates the expressions."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldtheory import vectormath
from fieldtheory.compile import _Walk
from fieldtheory.errors import RuleError
from fieldtheory.onesite import batchcode
from fieldtheory.onesite.batches import Batch, Bound
from fieldtheory.onesite.particles import LEAPS, Coordinates, Particles
from fieldtheory.onesite.trajectories import NARROW, block
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from tests.hash_seeds import printed_under

sample, inputs, mode = (Space(name, sp.Symbol(size, positive=True)) for name, size in
                        (("sample", "P"), ("input", "D"), ("mode", "K")))
X, V = Entry("X", "data", (sample, inputs)), Entry("V", "data", (sample, mode))
y, kappa = Entry("y", "data", (sample,)), Entry("kappa", "spectrum", (mode,))
w, b = Entry("w", "real", (inputs,)), Entry("b", "real", ())
s = sp.Symbol("s", positive=True)
P, D, K = 5, 3, 4
COORDINATES = Coordinates(((D,), ()), np.array([0.7, 1.1, 0.9, 1.3]))

# ------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("ours, exact, relative", [
    (vectormath.exponential, mpmath.exp, True), (vectormath.error_function, mpmath.erf, False),
    (vectormath.hyperbolic_tangent, mpmath.tanh, False)])
def test_elementary_functions(ours: Any, exact: Any, relative: bool) -> None:
    rng = np.random.default_rng(0)
    for x in map(float, [*rng.normal(size=300), *(30 * rng.normal(size=300))]):
        value = exact(mpmath.mpf(x))
        assert abs(ours(x) - value) <= 1e-15 * (abs(value) if relative else 1)
    assert np.isnan(ours(np.nan))
    assert ours(np.inf) == float(exact(mpmath.inf)) and ours(-np.inf) == float(exact(-mpmath.inf))
    assert ours(709.0) == pytest.approx(float(exact(709))) and ours(-1e4) == pytest.approx(float(exact(-1e4)))


# ------------------------------------------------------------------------------------------------- plans

FUNCTIONS = (sp.tanh, sp.erf, sp.sin, sp.Abs, lambda h: sp.exp(-h**2), lambda h: sp.Max(0, h),
             lambda h: sp.Heaviside(h) * h, lambda h: sp.Min(h, s * h**2), lambda h: h**3 + h**2,
             lambda h: 1 / sp.sqrt(1 + h**2), lambda h: sp.log(1 + sp.exp(h)))


@st.composite
def plans(draw: Any) -> dict[str, sp.Expr]:
    """An energy and what stands for its gradients, made of sums as in the action of one site."""
    h = SpaceSum(X * w, inputs) + (b if draw(st.booleans()) else 0)
    phi, slope = (draw(st.sampled_from(FUNCTIONS))(h) for _ in range(2))
    in_modes = SpaceSum(V * phi, sample)
    closed = [SpaceSum(phi * y, sample), SpaceSum(phi**2, sample) / s, SpaceSum(w**2, inputs), b**2,
              SpaceSum(in_modes**2 / (s + kappa), mode), SpaceSum(in_modes * kappa, mode),
              SpaceSum(phi * slope, sample), sp.log(1 + SpaceSum(in_modes**2, mode) / s),
              1 / (1 + SpaceSum(phi**2, sample)), SpaceSum(in_modes, mode)]
    opened = [w, w * draw(st.sampled_from(closed)), SpaceSum(X * slope * y, sample), SpaceSum(X * slope, sample) * b,
              SpaceSum(in_modes * SpaceSum(V * X * slope, sample) / (s + kappa), mode),
              SpaceSum(X**2 * phi, sample) / s]

    def mixture(parts: list[sp.Expr], first: sp.Expr) -> sp.Expr:
        chosen = draw(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from(parts)), min_size=1, max_size=3))
        return first + sum(c * part for c, part in chosen)

    return {"energy": mixture(closed, b**2), "gradient_0": mixture(opened, w), "gradient_1": mixture(closed, b)}


def data(seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"X": rng.normal(size=(P, D)), "V": rng.normal(size=(P, K)), "y": rng.normal(size=P),
            "kappa": rng.uniform(0.5, 2.0, K), "s": 0.7}


def interpreted(source: str) -> Any:
    """The text of generated code as Python runs it."""
    namespace: dict[str, Any] = {"__name__": "interpreted"}
    text = source.replace("from numba import cfunc", "cfunc = lambda *_, **__: lambda function: function")
    exec(text.replace("    use_whole_registers()\n", ""), namespace)
    return namespace["particles"]


def assert_values(found: dict[str, Any], outputs: dict[str, sp.Expr], points: np.ndarray) -> None:
    """What was found for particles against mpmath, in units of the terms' sizes."""
    for n, fields in enumerate(zip(*COORDINATES.split(points), strict=True)):
        values = data()
        with mpmath.workdps(30):
            walk = _Walk({X: values["X"], V: values["V"], y: values["y"], kappa: values["kappa"], s: values["s"],
                          w: fields[0], b: float(fields[1])})
            for label, expr in outputs.items():
                at = [{inputs: d} for d in range(D)] if label == "gradient_0" else [{}]
                for point, ours in zip(at, np.atleast_1d(found[label][n]), strict=True):
                    value, scale = walk(expr, point)
                    assert abs(float(ours) - value) <= 1e-13 * (1 + scale), label


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
def test_generated_text_numpy_and_mpmath_agree(outputs: dict[str, sp.Expr]) -> None:
    batch, points = Batch(outputs, (w, b)), np.random.default_rng(2).normal(size=(3, 4))
    bound = batch.bind(data())
    assert_values(bound(COORDINATES.split(points)), outputs, points)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batchcode, "import_source", lambda name, source: (None, interpreted(source)))
        motion = bound.motion
    places, room = motion.places(COORDINATES.shapes)
    energy, force = np.empty(3), np.empty((4, 3))
    motion.code.function(points.T.copy(), COORDINATES.scales, energy, force, motion.fixed, places, np.empty(3 * room))
    force = force.T / COORDINATES.scales
    assert_values({"energy": energy, "gradient_0": force[:, :3], "gradient_1": force[:, 3]}, outputs, points)


def an_energy() -> tuple[Batch, dict[str, Any]]:
    """A law of three weights and a bias, with its gradient, coupled through modes."""
    phi = sp.erf(SpaceSum(X * w, inputs) + b)
    inner = SpaceSum(V * phi, sample)
    slope = 2 / sp.sqrt(sp.pi) * sp.exp(-(SpaceSum(X * w, inputs) + b)**2)
    back = SpaceSum(V * inner / (s + kappa), mode)
    outputs = {"energy": SpaceSum(w**2, inputs) / 2 + b**2 / 2 + SpaceSum(inner**2 / (s + kappa), mode) / 2,
               "gradient_0": w + SpaceSum(X * slope * back, sample), "gradient_1": b + SpaceSum(slope * back, sample)}
    return Batch(outputs, (w, b)), data()


def by_hand(sampler: Particles, run: Bound, share: float, leaps: int = LEAPS) -> None:
    """One sweep in NumPy, from the same random numbers."""
    def at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = run(sampler.coordinates.split(x))
        force = sampler.coordinates.join([found["gradient_0"], found["gradient_1"]])
        return (1 - share) * (x**2).sum(axis=1) / 2 + share * found["energy"], (1 - share) * x + share * force

    rng, x = sampler.rng, sampler.points
    energy, force = at(x)
    p = rng.standard_normal(x.shape)
    before = energy + (p**2).sum(axis=1) / 2
    step = sampler.step * rng.uniform(0.6, 1.4, (len(x), 1))
    z = x
    p = p - step / 2 * force
    for leap in range(leaps):
        z = z + step * p
        energy, force = at(z)
        p = p - (step if leap < leaps - 1 else step / 2) * force
    accept = rng.random(len(x)) < np.exp(np.minimum(before - energy - (p**2).sum(axis=1) / 2, 0.0))
    sampler.points = np.where(accept[:, None], z, x)
    sampler.step = float(np.clip(sampler.step * np.exp(0.3 * (accept.mean() - 0.85)), 1e-4, 1.0))


def test_compiled_sweeps_are_those_of_numpy() -> None:
    batch, values = an_energy()
    run, count = batch.bind(values), 2 * NARROW + 5
    assert block(count, 10**6) < count  # more than one block
    for share in (1.0, 0.3):
        ours, theirs, wrong = (Particles(COORDINATES, count, np.random.SeedSequence(3)) for _ in range(3))
        for _ in range(8):
            ours.update(run, share)
            by_hand(theirs, run, share)
            by_hand(wrong, run, share, leaps=LEAPS - 1)
        np.testing.assert_allclose(ours.points, theirs.points, rtol=1e-10, atol=1e-10)
        assert ours.step == pytest.approx(theirs.step, rel=1e-12)
        assert np.abs(ours.points - wrong.points).max() > 0.1
    ours.step, ours.adapting = 1e200, False  # beyond all numbers: refused
    before = ours.points
    ours.update(run)
    np.testing.assert_array_equal(ours.points, before)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, values = an_energy()
    motion, rng = batch.bind(values).motion, np.random.default_rng(0)
    x, p, step = rng.normal(size=(101, 4)), rng.normal(size=(101, 4)), rng.uniform(0.1, 0.2, 101)
    found = []
    for width in (101, 48, 7):
        monkeypatch.setattr("fieldtheory.onesite.trajectories.block", lambda count, room, width=width: width)
        found.append(motion.leapfrog(x, p, step, 5, COORDINATES.scales, COORDINATES.shapes))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-12)


def test_what_moves_nothing_is_refused() -> None:
    with pytest.raises(RuleError, match="gradients"):
        _ = Batch({"energy": b**2, "gradient_0": w}, (w, b)).bind({}).motion
    with pytest.raises(RuleError, match="does not depend"):
        _ = Batch({"energy": b**2, "gradient_0": w, "gradient_1": s}, (w, b)).bind({"s": 1.0}).motion


@pytest.mark.slow
def test_the_text_does_not_depend_on_the_process() -> None:
    (text,) = printed_under("from tests.test_batches import an_energy; print(an_energy()[0].code.source)")
    assert "def particles" in text
