r"""The self-consistent environment of one site, solved on data.

The law of a site depends on its environment: order parameters m, or the mean quadratic form C of the other sites.  At a
fixed law both follow from averages that do not contain them: m = ⟨c⟩ + ⟨u vᵀ⟩ m is linear (adaptive-kernel regression,
m = K (s + c K)⁻¹ y), and C = ⟨u vᵀ⟩ is diagonalised.  So the averages are what is iterated, never m itself: plain
iteration of m diverges, and averages of noisy linear equations are better than the average of their solutions.  With
particles the averages carry weight .1 while the law settles, then 1/t; the environment is then frozen, and what is
reported is measured under it.  Several independent ensembles give the Monte-Carlo error of everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.errors import BadInput, NotConverged, RuleError
from fieldtheory.onesite.batches import Batch
from fieldtheory.onesite.particles import Coordinates, Grid, Particles
from fieldtheory.symbolic.fields import Entry, open_spaces
from fieldtheory.symbolic.siteclosure import Affine, SiteClosure, affine

Array = np.ndarray
Values = dict[str, Any]


@dataclass(frozen=True)
class Effort:
    """How long to run: ensembles and their particles, sweeps that settle, that average, and that measure."""

    ensembles: int = 4
    particles: int = 96
    settle: int = 100
    average: int = 100
    measure: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ensembles", "particles", "settle", "average", "measure"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < (2 if name == "ensembles" else 1):
                raise BadInput(f"effort.{name}", value, f"an integer >= {2 if name == 'ensembles' else 1}")


@dataclass
class Ensemble:
    """One self-consistent solution: environment, observables measured under it, and how well it closes."""

    environment: dict[str, Array]
    outputs: dict[str, Array]
    residual: float
    sampler: Grid | Particles
    log_integral: float = np.nan
    trace: list[Array] = field(default_factory=list)


def _relative(change: Array, whole: Array) -> float:
    return float(np.linalg.norm(change)) / max(float(np.linalg.norm(whole)), 1e-300)


class Environment:
    """The equations of a closure at one site, planned; ``outputs`` are observables of the site's fields."""

    def __init__(self, closure: SiteClosure, outputs: Mapping[str, sp.Expr], *, projections: bool = True) -> None:
        self.closure = closure
        self.fields, self.outputs = closure.fields, dict(outputs)
        if len(closure.parameters) > 1:
            raise RuleError(f"{len(closure.parameters)} order parameters: their self-consistency is not linear")
        self.parameter: Entry | None = next(iter(closure.parameters), None)
        dynamics = {"energy": closure.action.expr}
        dynamics |= {f"gradient_{k}": g for k, g in enumerate(closure.gradients.values())}
        self.dynamics = Batch(dynamics, self.fields)
        self.affine: dict[str, Affine] = {}
        pairs: dict[str, tuple[sp.Expr, ...]] = {}
        direct = dict(outputs)
        if self.parameter is not None:
            self.affine["environment"] = affine(closure.parameters[self.parameter], self.parameter)
            for name, expr in outputs.items():
                try:
                    self.affine[name] = affine(expr, self.parameter)
                    del direct[name]
                except RuleError:  # a quadratic observable is averaged as it is
                    continue
            pairs = {name: a.pairs for name, a in self.affine.items()}
        else:
            pairs = {"environment": closure.kernel}
            pairs |= {entry.name: found for entry, found in closure.projections.items() if projections}
        statics: dict[str, sp.Expr] = {}
        for name, found in pairs.items():
            for k, (u, v) in enumerate(found):
                statics |= {f"{name}|u{k}": u, f"{name}|v{k}": v}
        for name, a in self.affine.items():
            statics[f"{name}|c"] = a.constant
        self.pairs = {name: len(found) for name, found in pairs.items()}
        self.statics = Batch(statics, self.fields)
        self.direct = Batch(direct, self.fields) if direct else None

    # ------------------------------------------------------------------------------------------- at one law

    def averages(self, fields: Sequence[Array], weights: Array, run: Any) -> dict[str, Array]:
        """What the environment is made of, averaged over weighted nodes."""
        found = run(fields)
        result: dict[str, Array] = {}
        for name, count in self.pairs.items():
            total = np.zeros(())
            for k in range(count):
                u, v = found[f"{name}|u{k}"], found[f"{name}|v{k}"]
                total = total + (u.reshape(len(u), -1) * weights[:, None]).T @ v
            result[name] = total
            if f"{name}|c" in found:
                result[f"{name}|c"] = np.tensordot(weights, found[f"{name}|c"], 1)
        return result

    def solve(self, averages: Mapping[str, Array]) -> dict[str, Array]:
        """The environment that the averages determine."""
        if self.parameter is not None:
            coupling = averages["environment"]
            m = np.linalg.solve(np.eye(len(coupling)) - coupling, averages["environment|c"])
            return {self.parameter.name: m}
        C = averages["environment"]
        values, basis = np.linalg.eigh((C + C.T) / 2)
        names = [str(getattr(self.closure.step.details[key], "name", key)) for key in ("spectrum", "basis")]
        found = {names[0]: np.maximum(values, 0.0), names[1]: basis}
        return found | {name: averages[name] @ basis for name in self.pairs if name != "environment"}

    def environment_change(self, averages: Mapping[str, Array], environment: Mapping[str, Array]) -> float:
        """How far the averages' environment is from the one they were taken under, relative."""
        if self.parameter is not None:
            m = environment[self.parameter.name]
            return _relative(self.solve(averages)[self.parameter.name] - m, m)
        kappa, basis = list(environment.values())[:2]
        C = (basis * kappa) @ basis.T
        return _relative(averages["environment"] - C, C)

    def spread(self, ensembles: Sequence[Ensemble]) -> float:
        """How far the environments of independent ensembles lie from their mean, relative: one standard deviation."""
        if self.parameter is not None:
            found = np.array([ensemble.environment[self.parameter.name] for ensemble in ensembles])
        else:
            parts = [list(ensemble.environment.values())[:2] for ensemble in ensembles]
            found = np.array([(basis * kappa) @ basis.T for kappa, basis in parts])
        centre = found.mean(axis=0)
        square = ((found - centre)**2).sum() / max(len(found) - 1, 1)
        return float(np.sqrt(square)) / max(float(np.linalg.norm(centre)), 1e-300)

    def read(self, averages: Mapping[str, Array], environment: Mapping[str, Array],
             direct: Mapping[str, Array]) -> dict[str, Array]:
        """The observables: affine ones at the environment that the same averages determine."""
        found = dict(direct)
        if self.parameter is not None:
            m = environment[self.parameter.name]
            for name in self.affine:
                if name != "environment":
                    value = averages[f"{name}|c"] + averages[name] @ m
                    found[name] = value if open_spaces(self.outputs[name]) else np.asarray(value).reshape(())
        return found

    # --------------------------------------------------------------------------------------------- solving

    def coordinates(self, values: Values) -> Coordinates:
        shapes, scales = [], []
        for f, precision in self.closure.prior_precisions.items():
            shape = tuple(int(values[space.size.name]) for space in f.spaces)
            number = precision.xreplace({symbol: sp.Float(values[symbol.name]) for symbol in precision.free_symbols})
            shapes.append(shape)
            scales.append(np.full(int(np.prod(shape)), float(number)**-0.5))
        return Coordinates(tuple(shapes), np.concatenate(scales))

    def on_grid(self, values: Values, tolerance: float = 1e-11, limit: int = 2000) -> Ensemble:
        """By quadrature, iterated with damping until the environment reproduces itself."""
        sampler = Grid(self.coordinates(values))
        statics = self.statics.bind(values)
        averages = self.averages(sampler.fields, sampler.weights, statics)
        environment, residual, weight = self.solve(averages), np.inf, 0.5
        for _ in range(limit):
            sampler.update(self.dynamics.bind(values | environment))
            new = self.averages(sampler.fields, sampler.weights, statics)
            change = self.environment_change(new, environment)
            if change > 2 * residual:
                weight = max(weight / 2, 0.01)
            residual = change
            if residual < tolerance:
                break
            averages = {key: (1 - weight) * averages[key] + weight * value for key, value in new.items()}
            environment = self.solve(averages)
        else:
            raise NotConverged("the environment of one site does not settle under quadrature", residual)
        direct = self._direct(values, environment, sampler)
        return Ensemble(environment, self.read(new, environment, direct), residual, sampler, sampler.log_integral)

    def _direct(self, values: Values, environment: Mapping[str, Array], sampler: Grid) -> dict[str, Array]:
        if self.direct is None:
            return {}
        run = self.direct.bind(values | dict(environment))
        found = run(sampler.fields)
        return {key: np.tensordot(sampler.weights, value, 1) for key, value in found.items()}

    def with_particles(self, values: Values, effort: Effort, seed: np.random.SeedSequence) -> Ensemble:
        """By particles, from draws of the prior."""
        sampler = Particles(self.coordinates(values), effort.particles, seed)
        statics = self.statics.bind(values)
        averages = self.averages(sampler.fields, sampler.weights, statics)
        environment = self.solve(averages)
        for t in range(effort.settle + effort.average):
            sampler.update(self.dynamics.bind(values | environment))
            weight = max(0.1, 1 / (t + 2)) if t < effort.settle else 1 / (t - effort.settle + 10)
            new = self.averages(sampler.fields, sampler.weights, statics)
            averages = {key: averages[key] + weight * (value - averages[key]) for key, value in new.items()}
            environment = self.solve(averages)
        sampler.adapting = False
        bound = self.dynamics.bind(values | environment)
        direct = None if self.direct is None else self.direct.bind(values | environment)
        total: dict[str, Array] = {}
        sums: dict[str, Array] = {}
        for _ in range(effort.measure):
            sampler.update(bound)
            for key, value in self.averages(sampler.fields, sampler.weights, statics).items():
                total[key] = total.get(key, 0.0) + value / effort.measure
            if direct is not None:
                for key, value in direct(sampler.fields).items():
                    sums[key] = sums.get(key, 0.0) + np.tensordot(sampler.weights, value, 1) / effort.measure
        residual = self.environment_change(total, environment)
        share = effort.average / (effort.average + effort.measure)
        both = {key: share * averages[key] + (1 - share) * value for key, value in total.items()}
        final = self.solve(both) if self.parameter is not None else environment
        return Ensemble(final, self.read(both, final, sums), residual, sampler)


__all__ = ["Effort", "Ensemble", "Environment"]
