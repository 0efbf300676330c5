r"""An environment that is the minimum of a convex potential, solved by particles: a stochastic Newton method.

F(t) = N ln ∫ e^{-s(θ, t)} (:mod:`.symbolic.potential`) has slope and curvature that are averages over the law of one
site, so that particles give both.  The iteration of adaptive-kernel regression, t = (s + g⟨φφᵀ⟩)⁻¹ y at a fixed law,
answers a change of t by N cov(∂s)/(s + g⟨φφᵀ⟩) times as much; near the edge of the domain of F, where the law has heavy
tails, that is many times, and its steps grow.  Newton steps t - a F''⁻¹F' with the weights a of an average do not.

**The edge.**  Where the features grow linearly (ReLU), (t·φ)² competes with the prior, and F is finite for

    (t·ψ(ω))² ≤ 1 for every direction ω,    ψψᵀ = lim -s₁''(λω)/λ²   at |λω| in standard deviations of the prior.

These are constraints on t.  Directions that bind are found among the particles and near those found before; every step
is the nearest point of the domain in the metric of F''.  At the minimum of F on the closed domain

    F'(t) + Σ_k c_k ψ_k = 0,   c_k ≥ 0,

and c_k is what a *condensate* adds to averages: weights without bound along ω_k, of probability c_k/(N λ²) at |w| = λ,
which suggests single neurons in a finite network.  While particles move, the constraints are kept a little inside of
the edge (``INSIDE``), so that the law exists; the last step, with averages to first order in t, goes to the edge.

**What is certified.**  Directions are searched for, not enumerated: the last t is surveyed by points that begin at new
draws of the prior, until a survey finds no direction that is tilted beyond the edge (``Ensemble.tilt``, its largest).
Where directions bind, t and so the output are those of the edge.  Which part of it the law carries is not what
particles say, as they seldom meet lobes of small weight far out: the law at the mean t of all ensembles is summed over
weighted directions instead (:mod:`.lobes`), and what remains of the output is the condensate's.  Averages of
observables that are not affine in t are those before the last step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
import scipy.optimize

from fieldtheory.onesite.batches import Batch
from fieldtheory.onesite.convex import FAR, Potential
from fieldtheory.onesite.lobes import FEW, Elongated, apart, averaged
from fieldtheory.onesite.particles import Particles
from fieldtheory.symbolic.fields import Entry, SpaceSum

if TYPE_CHECKING:
    from fieldtheory.onesite.environment import Effort, Ensemble, Environment

Array = np.ndarray

INSIDE = 2e-3
"""How far from the edge constraints are kept: the tilt along every direction is at most 1 - INSIDE of the prior."""
CONDENSED = 0.005
"""The share of the output in a condensate from which on it is told."""
NEAR = 0.9
"""The tilt from which on a direction has a lobe of its own among the laws that the condensate is read off."""
GAIN = 0.2
"""The part of a Newton step that is taken while the law settles."""
CLIMBERS, STEPS, ARRIVED = 8, 12, 1e-3
"""Climbers, steps that each tries in a sweep, and how long steps are that end a climb."""
SURVEY, SURVEYS = 60, 5
"""How often directions are looked for before the first sweep and in a survey of the last t; surveys at most."""
NEW, KNOWN = 3, 48
"""Directions added in a sweep, and kept."""
LAGGING = 20
"""Batches of prior draws that the first curvature is worth."""


@dataclass(frozen=True)
class Directions:
    """Directions ω (unit vectors in deviations of the prior) with their ψ, and the weights c of the condensate."""

    points: Array
    slopes: Array
    weights: Array

    def rows(self, t: Array, inside: float = INSIDE) -> Array:
        """Constraints as rows · t ≤ 1, on the side where t is."""
        return self.slopes * np.where(self.slopes @ t < 0, -1.0, 1.0)[:, None] / np.sqrt(1 - inside)


class Climbers:
    """Points that climb to the directions which t tilts most, by random steps of a length that adapts.

    The best directions are kinks as a rule, where pre-activations vanish, so that no gradient is followed.
    """

    def __init__(self, points: Array, rng: np.random.Generator) -> None:
        self.rng = rng
        self.points = points[:CLIMBERS] / np.linalg.norm(points[:CLIMBERS], axis=1, keepdims=True)
        self.lengths, self.tilt = np.full(len(self.points), 0.3), 0.0

    def proposals(self) -> Array:
        """Each climber and its trial steps, (climber, step, component)."""
        shape = (len(self.points), STEPS, self.points.shape[1])
        move = self.rng.standard_normal(shape) * self.lengths[:, None, None] / np.sqrt(shape[2])
        move *= np.exp(self.rng.standard_normal((*shape[:2], 1)))
        move[:, 0] = 0.0
        return self.points[:, None] + move

    def move(self, units: Array, tilts: Array, others: Array) -> None:
        """To the best step.  One that has arrived, or is where another is, begins again at one of the other points."""
        best, self.tilt = np.argmax(tilts, axis=1), float(tilts.max())
        self.points = units[np.arange(len(best)), best]
        self.lengths = self.lengths * np.where(best > 0, 1.3, 0.7)
        again = np.triu(self.points @ self.points.T > 0.9999, 1).any(axis=0) | (self.lengths < ARRIVED)
        self.points[again] = others[self.rng.integers(len(others), size=int(again.sum()))]
        self.lengths[again] = 0.3


def nearest(t: Array, slope: Array, curvature: Array, rows: Array) -> tuple[Array, Array]:
    """(d, c) with d the minimum of slope·d + d·curvature·d/2 under rows·(t + d) ≤ 1, and c the multipliers."""
    factor = scipy.linalg.cho_factor(curvature)
    free = -scipy.linalg.cho_solve(factor, slope)
    over = rows @ (t + free) - 1
    c = np.zeros(len(rows))
    if not len(rows) or over.max() <= 0:
        return free, c
    moved = scipy.linalg.cho_solve(factor, rows.T)
    gram = rows @ moved
    gram[np.diag_indices_from(gram)] *= 1 + 1e-9
    root = np.linalg.cholesky(gram)
    c, _ = scipy.optimize.nnls(root.T, scipy.linalg.solve_triangular(root, over, lower=True))
    return free - moved @ c, c


class Descent:
    """The minimum of F by particles, for a potential whose -s₁'' is one pair u vᵀ, u a multiple of v."""

    def __init__(self, environment: Environment, values: Mapping[str, Any]) -> None:
        self.environment, self.values = environment, dict(values)
        self.potential = Potential(environment.closure, values)
        ((u, v),) = environment.closure.potential.bend
        self.far = Batch({"u": u, "v": v}, environment.fields).bind(self.values)
        ((t, body),) = environment.closure.parameters.items()
        along = SpaceSum(body * Entry("y", "data", t.spaces), t.spaces[0])
        self.along_target = Batch({"energy": environment.closure.action.expr, "value": along}, environment.fields)
        self.coordinates = environment.coordinates(dict(values))
        self.name = self.potential.parameter.name

    def slopes(self, points: Array) -> tuple[Array, Array]:
        """Unit vectors along some points, and their ψ."""
        size = np.linalg.norm(points, axis=1, keepdims=True)
        units = points / np.where(size > 0, size, 1.0)
        found = self.far(self.coordinates.split(FAR * units))
        v = found["v"] / FAR
        square = (v**2).sum(axis=1)
        ratio = (found["u"] * v).sum(axis=1) / FAR / np.where(square > 0, square, 1.0)
        return units, v * np.sqrt(np.maximum(ratio, 0.0))[:, None]

    def explored(self, known: Directions, t: Array, points: Array, climbers: Climbers, most: int = KNOWN) -> Directions:
        """With those directions added, of particles and climbers, that t tilts most beyond the constraint."""
        trials = climbers.proposals()
        units, slopes = self.slopes(np.concatenate([trials.reshape(-1, trials.shape[2]), points]))
        tilts, count = (slopes @ t)**2, trials.shape[0] * trials.shape[1]
        climbers.move(units[:count].reshape(trials.shape), tilts[:count].reshape(trials.shape[:2]),
                      units[count:])
        order = np.argsort(-tilts)[:NEW]
        order = order[tilts[order] > 1 - INSIDE]
        weights = np.append(known.weights, np.zeros(len(order)))
        units = np.concatenate([known.points, units[order]])
        slopes = np.concatenate([known.slopes, slopes[order]])
        rank = np.where(np.arange(len(units)) < len(known.points), weights + 1e-9 * (slopes @ t)**2, np.inf)
        kept = np.sort(np.argsort(-rank)[:most])
        return Directions(units[kept], slopes[kept], weights[kept])

    def begin(self, sampler: Particles) -> tuple[Array, Array, Directions]:
        """t, F'' and directions from draws of the prior: fixed-kernel regression, drawn into the domain."""
        drawn = sampler.rng.standard_normal((LAGGING * len(sampler.points), sampler.points.shape[1]))
        fields = self.coordinates.split(drawn)
        weights = np.full(len(drawn), 1 / len(drawn))
        averages = self.environment.averages(fields, weights, self.environment.statics.bind(self.values))
        t = self.environment.solve(averages)[self.name]
        _, slopes = self.slopes(drawn)
        t = t * min(1.0, 0.9 / max(float(np.abs(slopes @ t).max()), 1e-300))
        _, curvature = self.potential.derivatives(t, self.potential.evaluated(t, fields), weights)
        return t, curvature, Directions(drawn[:0], slopes[:0], np.zeros(0))

    def run(self, effort: Effort, seed: np.random.SeedSequence, start: Ensemble | None = None) -> Ensemble:
        """Settle, average, and measure under the environment that this ends at."""
        from fieldtheory.onesite.environment import Ensemble

        environment, sampler = self.environment, Particles(self.coordinates, effort.particles, seed)
        weights = np.full(effort.particles, 1 / effort.particles)
        t, curvature, known = self.begin(sampler)
        if start is not None:
            sampler.begin(start.sampler)  # type: ignore[arg-type]
            before = start.environment.get(self.name)
            if before is not None and before.shape == t.shape:
                t = before
        climbers = Climbers(sampler.points, np.random.default_rng(seed.spawn(1)[0]))
        none = np.zeros_like(t)
        for _ in range(SURVEY):
            known = self.explored(known, t, sampler.points, climbers)
            t = t + nearest(t, none, curvature, known.rows(t))[0]
        statics = environment.statics.bind(self.values)
        settle, halfway = effort.settle or 100, t
        beside: dict[str, Array] = {}
        found: dict[str, Array] = {}
        measured: dict[str, Array] = {}
        for k in range(settle + effort.average + effort.measure):
            sampler.adapting = k < settle + effort.average
            if k == settle + effort.average // 2:
                halfway = t
            self.recalled(sampler, t)  # one that is left in a lobe without a law goes far, and outweighs all others
            self.sweep(sampler, t)
            here = self.potential.evaluated(t, sampler.fields)
            if k >= settle:
                _add(found, self.linear(t, here["pull"], sampler.fields, weights, statics))
            if not sampler.adapting:
                beside = beside or environment.at_other_data(_over(found, k + 1 - settle), {self.name: t})
                _add(measured, self.direct(t, beside, sampler.fields, weights / effort.measure))
                continue
            known = self.explored(known, t, sampler.points, climbers)
            miss, bent = self.potential.derivatives(t, here, weights)
            rate = min(1 / min(k + LAGGING, 2 * settle), np.trace(curvature) / np.trace(bent))  # no one law outweighs
            curvature = curvature + rate * (bent - curvature)
            gain = GAIN if k < settle else 1 / (k - settle + 1 / GAIN)
            step, c = nearest(t, self.potential.stiffness * miss, curvature / gain, known.rows(t))
            t, known = t + step, replace(known, weights=known.weights + gain * (c - known.weights))
        found = _over(found, effort.average + effort.measure)
        coupling, size = self.potential.stiffness, max(float(np.linalg.norm(t)), 1e-300)
        slope = coupling * (t - found["environment|c"] - found["environment"] @ t)
        bent = coupling * (np.eye(len(t)) - found["environment"])
        sizes, vectors = np.linalg.eigh((bent + bent.T) / 2)
        bent = (vectors * np.maximum(sizes, coupling)) @ vectors.T  # F'' is no less, and few particles do not know it
        step, _ = nearest(t, slope, bent, known.rows(t))
        final, known, tilt = self.finished(t, slope, bent, known, seed)
        carried, y = (known.rows(t, 0.0).T @ known.weights) @ self.values["y"], self.values["y"]
        if np.any(known.weights):
            beyond = self.coordinates.split(FAR * known.points)
            portions = known.weights / (self.potential.sites * FAR**2)
            for name, pairs in environment.averages(beyond, portions, statics).items():
                if name in environment.pairs:
                    found[f"{name}|c"] = found[f"{name}|c"] + pairs @ final
            _add(measured, self.direct(t, beside, beyond, portions))
        answer = {self.name: final}
        return Ensemble(answer, environment.read(found, answer, measured), float(np.linalg.norm(final - t)) / size,
                        sampler, misses=[step / size], drift=[(t - halfway) / size], tilt=tilt,
                        condensate=float(carried / ((y - coupling * final) @ y)) if known.weights.any() else 0.0,
                        binding=known.points[(known.slopes @ final)**2 > NEAR] if known.weights.any() else None)

    def finished(self, t: Array, slope: Array, bent: Array, known: Directions,
                 seed: np.random.SeedSequence) -> tuple[Array, Directions, float]:
        """t after the last step, to the edge itself, with the directions that bind there, and the largest tilt found.

        Directions are looked for from new draws of the prior, and from those that lie near directions that bind, until
        a survey from draws that were not used before finds none beyond the edge.
        """
        rng, step = np.random.default_rng(seed.spawn(1)[0]), np.zeros_like(t)
        for _ in range(SURVEYS):
            drawn, tilt = rng.standard_normal((4 * CLIMBERS, self.coordinates.size)), 0.0
            climbers = Climbers(drawn, rng)
            for k in range(SURVEY):
                step, c = nearest(t, slope, bent, known.rows(t, 0.0))
                known = replace(known, weights=c)
                if k < SURVEY - 1:
                    if c.any():
                        drawn[::2] = Elongated(known.points[c > 0]).draw(2 * CLIMBERS, rng)
                    known = self.explored(known, t + step, drawn, climbers, 4 * KNOWN)
                    tilt = max(tilt, climbers.tilt, float(((known.slopes @ (t + step))**2).max(initial=0.0)))
            if tilt <= 1 + INSIDE:
                break
        return t + step, known, tilt

    def condensed(self, ensembles: Sequence[Ensemble], seeds: Sequence[np.random.SeedSequence],
                  every: Callable[..., Any] = map) -> None:
        """What ensembles together say of the condensate: the law at their mean t, by directions that are drawn anew.

        The noise of t tilts one ensemble's law along directions of its own; that of the mean is less.  Where directions
        that are drawn do not meet the law (``lobes``), the share stays what the particles do not carry, which is more.
        """
        found = [one.binding for one in ensembles if one.binding is not None]
        if not found:
            return
        y, coupling = self.values["y"], self.potential.stiffness
        t = np.mean([one.environment[self.name] for one in ensembles], axis=0)
        units, slopes = self.slopes(np.concatenate(found))
        rows = Directions(units, slopes, np.zeros(len(units))).rows(t, 0.0)
        t = t + nearest(t, np.zeros_like(t), np.eye(len(t)), rows)[0]
        tilts = (slopes @ t)**2
        largest = float(tilts.max())
        along = apart(units[np.argsort(-tilts)])
        t = t / np.sqrt(largest)
        run = self.along_target.bind(self.values | {self.name: t})

        def energy_and_value(points: Array) -> tuple[Array, Array]:
            found = run(self.coordinates.split(points))
            return found["energy"], found["value"]

        def tilted(units: Array) -> Array:
            return np.asarray((self.slopes(units)[1] @ t)**2)

        laws = list(every(lambda seed: averaged(energy_and_value, tilted, along, np.random.default_rng(seed)), seeds))
        for one, (value, effective, beyond) in zip(ensembles, laws, strict=True):
            one.lobes, one.tilt = effective, max(one.tilt, largest * beyond)
            if min(found[1] for found in laws) >= FEW:
                one.condensate = float(coupling * (value - y @ t) / ((y - coupling * t) @ y))

    def linear(self, t: Array, pull: Array, fields: Sequence[Array], weights: Array, statics: Any) -> dict[str, Array]:
        """Averages that are affine in t at a fixed law, as constants and slopes in t to first order, the law following:

            ∂⟨u v·t⟩/∂t = ⟨u vᵀ (1 + t·p)⟩ - ⟨u v·t⟩⟨p⟩ᵀ,    p = -∂s/∂t, parallel to v.
        """
        found = statics(fields)
        value = self.environment.averages(fields, weights, lambda _: found)
        slope = self.environment.averages(fields, weights * (1 + pull @ t), lambda _: found)
        mean = weights @ pull
        for name in self.environment.pairs:
            here = value[name] @ t
            slope[name] = slope[name] - np.multiply.outer(here, mean)
            slope[f"{name}|c"] = value[f"{name}|c"] + here - slope[name] @ t
        return slope

    def recalled(self, sampler: Particles, t: Array) -> None:
        """Particles along directions in which there is no law at this t are put where the prior is."""
        units, slopes = self.slopes(sampler.points)
        lost = (slopes @ t)**2 > 1 - INSIDE
        sampler.points[lost] = units[lost] * np.sqrt(units.shape[1])

    def sweep(self, sampler: Particles, t: Array) -> None:
        """One sweep at fixed t, and a change of scale: tails along directions near the edge are long."""
        run, rng = self.environment.dynamics.bind(self.values | {self.name: t}), sampler.rng
        sampler.update(run)
        x = sampler.points
        change = rng.standard_normal((len(x), 1)) * rng.uniform(0.0, 0.6, (len(x), 1))
        y = np.exp(change) * x
        before, after = (run(self.coordinates.split(z))["energy"] for z in (x, y))
        accept = np.log(rng.random(len(x))) < before - after + x.shape[1] * change[:, 0]
        sampler.points = np.where(accept[:, None], y, x)

    def direct(self, t: Array, beside: Mapping[str, Array], fields: Sequence[Array],
               weights: Array) -> dict[str, Array]:
        """Observables that are averaged as they are, summed over weighted nodes."""
        if self.environment.direct is None:
            return {}
        run = self.environment.direct.bind(self.values | {self.name: t} | dict(beside))
        return {key: np.tensordot(weights, value, 1) for key, value in run(fields).items()}


def _add(total: dict[str, Array], more: Mapping[str, Array]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0.0) + value


def _over(total: Mapping[str, Array], count: int) -> dict[str, Array]:
    return {key: value / count for key, value in total.items()}


__all__ = ["Climbers", "Descent", "Directions", "nearest"]
