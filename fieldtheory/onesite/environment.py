r"""The self-consistent environment of one site, solved on data.

The law of a site depends on its environment: order parameters m, or the mean quadratic form C of the other sites.  At a
fixed law both follow from averages that do not contain them: m = ⟨c⟩ + ⟨u vᵀ⟩ m is linear (adaptive-kernel regression,
m = K (s + c K)⁻¹ y), and C = ⟨u vᵀ⟩ is diagonalised.  So the averages are what is iterated, never m itself: plain
iteration of m diverges, and averages of noisy linear equations are better than the average of their solutions.  Several
independent ensembles of particles (:mod:`.settling`) give the Monte-Carlo error of everything.  Shared precisions are
order parameters of their own (:mod:`.precisions`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.errors import BadInput, NotConverged, RuleError
from fieldtheory.newton import newton_system
from fieldtheory.onesite.batches import Batch
from fieldtheory.onesite.convex import BEYOND, RIM, STRETCHES, Potential, StretchedGrid, minimise
from fieldtheory.onesite.descent import Descent
from fieldtheory.onesite.particles import Coordinates, Grid, Particles
from fieldtheory.onesite.precisions import Precision, fit, number
from fieldtheory.onesite.settling import Run, settle
from fieldtheory.symbolic.fields import Entry, depends_on, open_spaces
from fieldtheory.symbolic.siteclosure import Affine, SiteClosure, affine

Array = np.ndarray
Values = dict[str, Any]

PATIENCE = 50
"""Iterations in which quadrature must come closer by a factor of ten, before Newton's method takes over."""
UNKNOWNS = 100
"""For how many of them Newton's method is used: it looks at twice as many laws in every step."""


@dataclass(frozen=True)
class Effort:
    """How long to run: ensembles and their particles, sweeps that settle, that average, and that measure.

    ``settle`` None: 100, and 150 where shared precisions settle too.
    """

    ensembles: int = 4
    particles: int = 96
    settle: int | None = None
    average: int = 100
    measure: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ensembles", "particles", "settle", "average", "measure"):
            value = getattr(self, name)
            if value is None and name == "settle":
                continue
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
    log_partition: float = np.nan
    quadrature_error: float = 0.0
    """How far outputs move, relative, if the law of one site is summed over other nodes; 0 with particles."""
    self_pairs: float = 0.0
    misses: list[Array] = field(default_factory=list)
    """By how much the measured environment is not the one it was measured under, part by part, relative."""
    drift: list[Array] = field(default_factory=list)
    """How far the environment went in the second half of the sweeps that average, likewise."""
    drifting: float = 0.0
    """What was left of a drift of all ensembles when they had settled for as long as they may, relative."""
    settled: int = 0
    """Sweeps that settled."""
    condensate: float = 0.0
    """The share of the output along the targets that weights without bound carry (:mod:`.descent`)."""
    lobes: float = np.inf
    """Effective directions that the share is read off (:mod:`.lobes`)."""
    binding: Array | None = None
    """Directions that are tilted to the edge or nearly, where weights without bound carry any of the output."""
    tilt: float = 0.0
    """The largest tilt of the prior along any direction found, 1 at the edge of where a law exists."""


class Environment:
    """The equations of a closure at one site, planned; ``outputs`` are observables of the site's fields."""

    def __init__(self, closure: SiteClosure, outputs: Mapping[str, sp.Expr], *, projections: bool = True) -> None:
        self.closure = closure
        self.fields, self.outputs = closure.fields, dict(outputs)
        if len(closure.parameters) > 1:
            raise RuleError(f"{len(closure.parameters)} order parameters: their self-consistency is not linear")
        self.parameter: Entry | None = next(iter(closure.parameters), None)
        self.shared = closure.shared
        dynamics = {"energy": closure.action.expr}
        dynamics |= {f"gradient_{k}": g for k, g in enumerate(closure.gradients.values())}
        self.dynamics = Batch(dynamics, self.fields)
        self.affine: dict[str, Affine] = {}
        self.observed: dict[str, Entry] = {}
        pairs: dict[str, tuple[sp.Expr, ...]] = {}
        direct = dict(outputs)
        if self.parameter is not None:
            self.affine["environment"] = affine(closure.parameters[self.parameter], self.parameter)
            for name, expr in outputs.items():
                if any(depends_on(expr, v) for v in self.shared):
                    continue
                try:
                    read = affine(expr, self.parameter)
                except RuleError:  # a quadratic observable is averaged as it is
                    continue
                if read.pairs:
                    self.affine[name] = read
                    del direct[name]
            self.observed = {m.name: m for m in closure.observed if any(depends_on(x, m) for x in direct.values())}
            self.affine |= {name: affine(closure.observed[m], self.parameter) for name, m in self.observed.items()}
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
        of_environment = {label: expr for label, expr in statics.items() if label.startswith("environment|")}
        self.made = Batch(of_environment, self.fields)
        """What the environment alone is made of."""
        self.direct = Batch(direct, self.fields) if direct else None

    # ------------------------------------------------------------------------------------------- at one law

    def averages(self, fields: Sequence[Array], weights: Array, run: Any) -> dict[str, Array]:
        """What a bound plan has of the environment and of what is reported beside it, averaged over weighted nodes."""
        found = run(fields)
        result: dict[str, Array] = {}
        for name, count in self.pairs.items():
            if f"{name}|u0" not in found and f"{name}|c" not in found:
                continue
            total = np.zeros(())
            for k in range(count):
                u, v = found[f"{name}|u{k}"], found[f"{name}|v{k}"]
                total = total + (u.reshape(len(u), -1) * weights[:, None]).T @ v.reshape(len(v), -1)
            result[name] = total
            if f"{name}|c" in found:
                result[f"{name}|c"] = np.tensordot(weights, found[f"{name}|c"], 1)
        return result

    def precisions(self, values: Values) -> dict[str, Precision]:
        """The order parameters of shared laws, at these values."""
        return {v.name: Precision(law, values, self.fields) for v, law in self.shared.items()}

    def solve(self, averages: Mapping[str, Array], precisions: Mapping[str, Precision] | None = None,
              before: Mapping[str, Array] | None = None, *, renew: bool = True,
              rate: float | None = None) -> dict[str, Array]:
        """The environment that the averages determine; that of shared laws near the one ``before``, at a rate.

        Without ``renew`` the part that takes an eigenvalue problem stays as it was before.
        """
        shared = {name: law.solve(averages, (before or {})[name], rate)
                  for name, law in (precisions or {}).items()}
        return (self._solve(averages) if renew or self.parameter is not None else dict(before or {})) | shared

    def _solve(self, averages: Mapping[str, Array]) -> dict[str, Array]:
        if self.parameter is not None:
            coupling = averages["environment"]
            m = np.linalg.solve(np.eye(len(coupling)) - coupling, averages["environment|c"])
            return {self.parameter.name: m}
        C = averages["environment"]
        values, basis = np.linalg.eigh((C + C.T) / 2)
        return dict(zip(self.spectral, (np.maximum(values, 0.0), basis), strict=True))

    @property
    def spectral(self) -> list[str]:
        """The names of eigenvalues and eigenvectors."""
        return [str(getattr(self.closure.step.details[key], "name", key)) for key in ("spectrum", "basis")]

    def parts(self, environment: Mapping[str, Array]) -> list[Array]:
        """An environment as arrays whose distances mean something: m or C, and the logarithms of shared parameters."""
        if self.parameter is not None:
            first = environment[self.parameter.name]
        else:
            kappa, basis = list(environment.values())[:2]
            first = (basis * kappa) @ basis.T
        return [first, *(np.log(environment[v.name]) for v in self.shared)]

    @staticmethod
    def _sizes(parts: Sequence[Array]) -> list[float]:
        """What distances are relative to; of logarithms their number."""
        first, *logs = parts
        return [max(float(np.linalg.norm(first)), 1e-300), *(float(np.sqrt(log.size)) for log in logs)]

    def answer(self, averages: Mapping[str, Array], environment: Mapping[str, Array],
               precisions: Mapping[str, Precision] | None = None) -> list[Array]:
        """The parts of the environment that averages taken under another one determine."""
        if self.parameter is not None:
            return self.parts(self.solve(averages, precisions, environment))
        C = averages["environment"]  # C itself, not its eigenvectors
        logs = [np.log(law.solve(averages, environment[name], 1.0)) for name, law in (precisions or {}).items()]
        return [(C + C.T) / 2, *logs]

    def misses(self, averages: Mapping[str, Array], environment: Mapping[str, Array],
               precisions: Mapping[str, Precision] | None = None) -> list[Array]:
        """How far the averages' environment is from the one they were taken under, part by part, relative."""
        old = self.parts(environment)
        return [(a - b) / size for a, b, size in
                zip(self.answer(averages, environment, precisions), old, self._sizes(old), strict=True)]

    def environment_change(self, averages: Mapping[str, Array], environment: Mapping[str, Array],
                           precisions: Mapping[str, Precision] | None = None) -> float:
        """The size of all misses together."""
        return float(np.sqrt(sum(np.sum(miss**2) for miss in self.misses(averages, environment, precisions))))

    def spread(self, ensembles: Sequence[Ensemble]) -> float:
        """How far the environments of independent ensembles lie from their mean, relative: one standard deviation."""
        found = [self.parts(ensemble.environment) for ensemble in ensembles]
        centre = [np.mean(parts, axis=0) for parts in zip(*found, strict=True)]
        square = sum((np.linalg.norm(a - b) / size)**2 for parts in found
                     for a, b, size in zip(parts, centre, self._sizes(centre), strict=True))
        return float(np.sqrt(square / max(len(found) - 1, 1)))

    def learned(self, environment: Mapping[str, Array], values: Values) -> Array:
        """Scalars that grow as more is learned: what of m or C is along the targets, and how far precisions differ."""
        y = values["y"]
        size = max(float(y @ y), 1e-300)
        if self.parameter is not None:
            m = environment[self.parameter.name]
            share = m @ y / size if np.shape(m) == np.shape(y) else np.linalg.norm(m)
        else:
            kappa, basis = (environment[name] for name in self.spectral)
            share = (kappa @ (y @ basis)**2) / size / max(kappa.sum(), 1e-300)
        return np.array([share, *(np.log(environment[v.name]).std() for v in self.shared)])

    def at_other_data(self, averages: Mapping[str, Array], environment: Mapping[str, Array]) -> dict[str, Array]:
        """What outputs need at other data than the samples: the order parameter, or C in the eigenbasis."""
        if self.parameter is None:
            basis = environment[self.spectral[1]]
            return {name: averages[name] @ basis for name in self.pairs if name != "environment"}
        m = environment[self.parameter.name]
        return {name: averages[f"{name}|c"] + averages[name] @ m for name in self.observed}

    def at(self, values: Values) -> Environment:
        """These equations with the numbers of a network, where a closure needs them."""
        return self

    def completed(self, ensemble: Ensemble) -> Ensemble:
        """An ensemble of particles, with what a closure adds to its outputs."""
        return ensemble

    def several(self, ensembles: Sequence[Ensemble]) -> bool:
        """Whether ensembles disagree on a shared parameter by more than a factor of two."""
        found = [np.array([np.log(ensemble.environment[v.name]) for ensemble in ensembles]) for v in self.shared]
        return any(float(np.ptp(logs, axis=0).max()) > np.log(2) for logs in found)

    def read(self, averages: Mapping[str, Array], environment: Mapping[str, Array],
             direct: Mapping[str, Array]) -> dict[str, Array]:
        """The observables: affine ones at the environment that the same averages determine."""
        found = dict(direct)
        if self.parameter is not None:
            m = environment[self.parameter.name]
            for name in self.affine:
                if name in self.outputs:
                    value = averages[f"{name}|c"] + averages[name] @ m
                    found[name] = value if open_spaces(self.outputs[name]) else np.asarray(value).reshape(())
        return found

    # --------------------------------------------------------------------------------------------- solving

    def coordinates(self, values: Values) -> Coordinates:
        """One site as a vector; under a shared law the prior is that of a field which nothing is learned of."""
        unlearned = {v: law.unlearned for v, law in self.shared.items()}
        shapes, scales = [], []
        for f, precision in self.closure.prior_precisions.items():
            shape = tuple(int(values[space.size.name]) for space in f.spaces)
            shapes.append(shape)
            scales.append(np.full(int(np.prod(shape)), number(precision.xreplace(unlearned), values)**-0.5))
        return Coordinates(tuple(shapes), np.concatenate(scales))

    def _averages(self, sampler: Grid | Particles, statics: Any, precisions: Mapping[str, Precision],
                  environment: Mapping[str, Array]) -> dict[str, Array]:
        """All that the next environment is made of, under the law in this one."""
        found = self.averages(sampler.fields, sampler.weights, statics)
        for name, law in precisions.items():
            found |= law.averages(sampler, environment[name])
        return found

    def _minimised(self, values: Values, start: Ensemble | None) -> Ensemble:
        """The minimum of a convex potential, with ln Z to one loop about it."""
        assert self.parameter is not None
        name, first = self.parameter.name, None
        if start is not None:
            before = start.environment or self._solve(
                self.averages(start.sampler.fields, start.sampler.weights, self.statics.bind(values)))
            first = before[name] if np.shape(before[name]) == np.shape(values["y"]) else None
        found = minimise(self, values, first)
        environment, sampler = {name: found.point}, found.sampler
        outputs = self._outputs(values, environment, sampler)
        return Ensemble(environment, outputs, found.residual, sampler, sampler.log_integral,
                        log_partition=found.log_partition,
                        quadrature_error=self._unresolved(values, environment, sampler, outputs))

    def _outputs(self, values: Values, environment: dict[str, Array], sampler: Grid) -> dict[str, Array]:
        """The observables under the law that nodes have been brought to."""
        averages = self._averages(sampler, self.statics.bind(values), {}, environment)
        direct = self._direct(values | self.at_other_data(averages, environment), environment, sampler)
        return self.read(averages, environment, direct)

    def _unresolved(self, values: Values, environment: dict[str, Array], sampler: StretchedGrid,
                    outputs: Mapping[str, Array]) -> float:
        """The largest relative change if the law is summed over other nodes, of observables that are open.

        The environment follows where it is the minimum of a convex potential, and stays as it is otherwise.  Of closed
        observables one may be small beside what it is a difference of, as that of target and output is.
        """
        twin = sampler.twin()
        if self.closure.convex and number(self.closure.potential.stiffness, values) > 0:
            assert self.parameter is not None
            try:
                found = Potential(self.closure, values).minimise(environment[self.parameter.name], twin, 1e-8)
            except NotConverged:
                return np.inf
            environment = {self.parameter.name: found.point}
        else:
            twin.update(self.dynamics.bind(values | environment))
        other = self._outputs(values, environment, twin)
        rounding = max(1e-8 * float(np.linalg.norm(values["y"])), 1e-300)  # of outputs that vanish
        return max((float(np.linalg.norm(value - other[name])) / max(float(np.linalg.norm(value)), rounding)
                    for name, value in outputs.items() if np.ndim(value)), default=0.0)

    def on_grid(self, values: Values, tolerance: float = 1e-11, limit: int = 2000,
                start: Ensemble | None = None) -> Ensemble:
        """By quadrature, iterated with damping until the environment reproduces itself.

        It begins with the prior, or with the law and the environment of another solution.  Where the environment is
        the minimum of a convex potential, it is minimised instead (:mod:`.convex`).
        """
        if self.closure.convex and number(self.closure.potential.stiffness, values) > 0:
            return self._minimised(values, start)
        coordinates, precisions = self.coordinates(values), self.precisions(values)
        sampler = StretchedGrid(coordinates, np.eye(coordinates.size))
        statics = self.statics.bind(values)
        first = sampler if start is None else start.sampler
        environment = self._solve(self.averages(first.fields, first.weights, statics)) | {
            name: np.full(law.shape, law.unlearned) if start is None else law.plain(first)
            for name, law in precisions.items()}
        if start is not None:
            fits = self._fits(start, environment)
            environment |= {k: v for k, v in start.environment.items() if k in precisions or fits}
        for k in range(STRETCHES):
            environment, _, residual = self._settled(values, sampler, precisions, environment, tolerance, limit)
            if sampler.outside < RIM:
                break
            sampler = sampler.wider(1.25**k)
        else:
            raise NotConverged(BEYOND, sampler.outside)
        for name, law in precisions.items():
            law.check(environment[name])
        outputs = self._outputs(values, environment, sampler)
        return Ensemble(environment, outputs, residual, sampler, sampler.log_integral,
                        quadrature_error=self._unresolved(values, environment, sampler, outputs))

    def _settled(self, values: Values, sampler: Grid, precisions: Mapping[str, Precision],
                 environment: dict[str, Array], tolerance: float,
                 limit: int) -> tuple[dict[str, Array], dict[str, Array], float]:
        """On these nodes the environment that reproduces itself, the averages under it, and how well.

        Damped iteration; where it does not contract (the environment answers a change of the law by many times as
        much) and the unknowns are few, Newton's method takes over.
        """
        statics = self.made.bind(values)

        def under(environment: dict[str, Array]) -> tuple[dict[str, Array], float]:
            if precisions:
                sampler.rescale(fit(sampler.coordinates, precisions, environment))
            sampler.update(self.dynamics.bind(values | environment))
            new = self._averages(sampler, statics, precisions, environment)
            return new, self.environment_change(new, environment, precisions)

        averages: dict[str, Array] = {}
        residual, weight, earlier = np.inf, 0.5, np.inf
        for t in range(limit):
            new, change = under(environment)
            if change > 2 * residual:
                weight = max(weight / 2, 0.01)
            residual = change
            if residual < tolerance:
                return environment, new, residual
            if t % PATIENCE == PATIENCE - 1:
                if residual > 0.1 * earlier and not precisions:
                    root = self._root(environment, new, lambda e: under(e)[0])
                    if root is not None:
                        environment = root
                        new, residual = under(environment)
                        return environment, new, residual
                earlier = residual
            averages = averages or new
            averages = {key: (1 - weight) * averages[key] + weight * value for key, value in new.items()}
            environment = self.solve(averages, precisions, environment)
        raise NotConverged("the environment of one site does not settle under quadrature", residual)

    def _root(self, environment: dict[str, Array], averages: dict[str, Array],
              under: Callable[[dict[str, Array]], dict[str, Array]]) -> dict[str, Array] | None:
        """The environment that reproduces itself by Newton's method; None for more unknowns than it is made for.

        The unknowns are m, or the mean form that C is made of.
        """
        if self.parameter is not None:
            name = self.parameter.name
            start = np.ravel(environment[name])

            def made(x: Array) -> dict[str, Array]:
                return {name: x}

            def read(found: Mapping[str, Array]) -> Array:
                return np.ravel(self.solve(found)[name])
        else:
            form = averages["environment"]
            upper = np.triu_indices(len(form))
            start = form[upper]

            def made(x: Array) -> dict[str, Array]:
                C = np.zeros_like(form)
                C[upper] = x
                return self._solve(averages | {"environment": C + np.triu(C, 1).T})

            def read(found: Mapping[str, Array]) -> Array:
                return ((found["environment"] + found["environment"].T) / 2)[upper]
        if start.size > UNKNOWNS:
            return None
        scale = max(float(np.abs(start).max()), 1e-300)
        found = newton_system(lambda x: read(under(made(scale * x))) / scale - x, start / scale)
        return made(scale * found.values)

    def _direct(self, values: Values, environment: Mapping[str, Array], sampler: Grid) -> dict[str, Array]:
        if self.direct is None:
            return {}
        run = self.direct.bind(values | dict(environment))
        found = run(sampler.fields)
        return {key: np.tensordot(sampler.weights, value, 1) for key, value in found.items()}

    def with_particles(self, values: Values, effort: Effort, seed: np.random.SeedSequence,
                       start: Ensemble | None = None) -> Ensemble:
        """By particles, from draws of the prior; or from where the particles of another solution ended.

        ``start`` may have been solved at other values, with other samples or another number of particles.  Its
        environment is kept for the first sweeps where it is of the same shape, until averages over the
        moved particles replace it.
        """
        if self.at_saddle and number(self.closure.potential.stiffness, values) > 0:
            descent = Descent(self, values)
            found = descent.run(effort, seed, start)
            descent.condensed([found], seed.spawn(1))
            return found
        run = Run(self.at(values), values, effort, seed, start)
        settle([run])
        return run.equations.completed(run.finish())

    def together(self, values: Values, effort: Effort, seeds: Sequence[np.random.SeedSequence],
                 start: Sequence[Ensemble | None], every: Callable[..., Any] = map) -> list[Ensemble]:
        """Independent ensembles by particles, which settle until they no longer drift the same way."""
        if self.at_saddle and number(self.closure.potential.stiffness, values) > 0:
            descent = Descent(self, values)
            found = list(every(lambda seed, first: Descent(self, values).run(effort, seed, first), seeds, start))
            descent.condensed(found, [seed.spawn(1)[0] for seed in seeds], every)
            return found
        runs = list(every(lambda seed, first: Run(self.at(values), values, effort, seed, first), seeds, start))
        settle(runs, every)
        return list(every(lambda run: run.equations.completed(run.finish()), runs))

    @property
    def at_saddle(self) -> bool:
        """Whether the environment is a field at its saddle that sites follow by one square of features."""
        return (self.closure.step.rule == "site_saddle" and self.closure.convex
                and len(self.closure.potential.bend) == 1)

    def _fits(self, start: Ensemble, environment: Mapping[str, Array]) -> bool:
        old, new = ({k: np.shape(v) for k, v in found.items()} for found in (start.environment, environment))
        return old == new


__all__ = ["Effort", "Ensemble", "Environment"]
