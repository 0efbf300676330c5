"""From an action closed at one site to a prediction on data, with Monte-Carlo errors and certificates."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
import xarray as xr
from threadpoolctl import threadpool_limits

from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, NotConverged, UnknownName
from fieldtheory.microscopic import ARD_PARAMETERS, BIAS_PARAMETER, HYPERPARAMETERS, PER_TARGET
from fieldtheory.network import Network
from fieldtheory.onesite.batches import Batch
from fieldtheory.onesite.clusters import SELF_PAIRS, environment_of
from fieldtheory.onesite.convex import escaping
from fieldtheory.onesite.descent import CONDENSED, INSIDE, SURVEYS
from fieldtheory.onesite.environment import Effort, Ensemble, Environment
from fieldtheory.onesite.evidence import log_integral
from fieldtheory.onesite.lobes import FEW
from fieldtheory.onesite.particles import Grid, Particles
from fieldtheory.symbolic.fields import open_spaces
from fieldtheory.symbolic.siteclosure import SiteClosure

Array = np.ndarray
Start = Callable[[Environment, dict[str, Any], int], "list[Ensemble | None]"]
"""Where ensembles begin, from the equations, the values and their number; None is the prior."""

REPORTED = {"output": "mean_output", "test_output": "test_output", "readout_norm": "readout_norm",
            "discrepancy_along_target": "discrepancy_along_target", "precision": "precision",
            "weight_second_moment": "weight_second_moment", "test_output_squared": "test_output_squared"}
"""Quantities of a network by the name of their average in a prediction."""
SQUARED = "test_output_squared"
VARIANCES = {"output_variance": "sample", "test_output_variance": "test"}
"""On request: ⟨f²⟩ - ⟨f⟩² at the samples and at the test inputs, by where they are."""
BOUND = "log_evidence_bound"
"""N ln ∫e^{-s} for independent sites."""
MIXED = 400.0
"""Effective samples of the energy below which particles count as not mixing."""
RESOLVED = 1e-2
"""The relative change of an output between two sets of nodes above which a quadrature counts as unresolved."""
DRIFT = 2.5
"""Standard errors that the mean move of many ensembles may be from zero; more for few."""
INVISIBLE = 1e-20
"""The share of a target that features drawn from the prior hold, below which they cannot express it."""


@dataclass(frozen=True)
class Solved:
    """A solution by independent ensembles, with the values it was found at; other solutions may start from it."""

    environment: Environment
    values: dict[str, Any]
    ensembles: list[Ensemble]
    names: tuple[str, ...]
    """What was asked for."""
    test_points: int
    """How many of the inputs at which the output was observed are test inputs; the samples follow, if needed."""

    def draws(self, name: str) -> Array:
        """An output of every ensemble, ensembles first."""
        if name == "relevance":
            moments = self.draws("weight_second_moment")
            return moments / moments.mean(axis=-1, keepdims=True)
        if name in VARIANCES:
            f, square = (np.array([e.outputs[key] for e in self.ensembles]) for key in ("test_output", SQUARED))
            part = slice(0, self.test_points) if VARIANCES[name] == "test" else slice(self.test_points, None)
            return square[:, part] - f[:, part]**2
        found = np.array([ensemble.outputs[name] for ensemble in self.ensembles])
        return found[:, :self.test_points] if name == "test_output" else found

    def average(self, name: str) -> tuple[Array, Array]:
        """Mean and Monte-Carlo standard error over the ensembles; 0 by quadrature."""
        draws = self.draws(name)
        if not np.all(np.isfinite(draws)):
            raise NotConverged(f"{name} is not finite", max(ensemble.residual for ensemble in self.ensembles))
        error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws)) if len(draws) > 1 else np.zeros_like(draws[0])
        return draws.mean(axis=0), error


class SitePredictor:
    """The quantities of an action closed at one site, averaged over its law.

    One or two hidden components of a site are integrated by quadrature; for more, ensembles of particles are run.
    """

    def __init__(self, closure: SiteClosure, observables: Mapping[str, sp.Expr]) -> None:
        self.closure = closure
        self.observables = {REPORTED[name]: expr for name, expr in observables.items() if name in REPORTED}
        self._environments: dict[tuple[bool, bool], Environment] = {}

    def environment(self, with_test: bool = True, with_squares: bool = False) -> Environment:
        """The equations, planned; without test points the quantities there are left out."""
        key = with_test, with_squares
        if key not in self._environments:
            left_out = {name for name, wanted in (("test_output", with_test), (SQUARED, with_squares)) if not wanted}
            outputs = {name: expr for name, expr in self.observables.items() if name not in left_out}
            self._environments[key] = environment_of(self.closure)(self.closure, outputs, projections=with_test)
        return self._environments[key]

    @property
    def outputs(self) -> dict[str, tuple[str, ...]]:
        """Everything that can be asked for, by its dimensions."""
        found = {name: tuple(space.name for space in open_spaces(expr)) for name, expr in self.observables.items()
                 if name != SQUARED}
        if self.closure.step.rule == "decouple":
            found[BOUND] = ()
        if "weight_second_moment" in found:
            found["relevance"] = found["weight_second_moment"]
        if SQUARED in self.observables:
            found |= {name: (place,) for name, place in VARIANCES.items()}
        return found

    def values(self, net: Network, data: Dataset, width: int | None) -> dict[str, Any]:
        """Every symbol and datum by the name it has in the expressions."""
        if data.X is None:
            raise BadInput("data", "a kernel in place of inputs", "inputs X: the law of hidden weights needs them")
        N = net.resolve_width(width)
        s = net.effective_noise_variance(N)
        if s == 0:
            raise BadInput("noise_variance", 0, "a positive number: the law of one site is singular without noise")
        found: dict[str, Any] = {"N": float(N), "g": net.effective_readout_variance(N), "s": s,
                                 "P": float(data.samples), "D": float(data.X.shape[1]), "X": data.X, "y": data.y}
        ard = net.precision_prior(data.X.shape[1])
        if ard is not None:
            found |= dict(zip(ARD_PARAMETERS.values(), ard, strict=True))
            if not 1e-12 < (size := float((data.X**2).sum(axis=1).mean()) * ard[1] / ard[0]) < 1e12:
                raise BadInput("prior.beta0", ard[1], "a number for which the precision alpha0/beta0 does not diverge: "
                               f"under this prior w.x has variance {size:.2g}")
        given = {symbol: name for name, symbol in HYPERPARAMETERS.items()} | {BIAS_PARAMETER: "bias_variance"}
        for symbol, name in given.items():
            value = getattr(net, name)
            if value is None and name == "weight_variance" and ard is not None:
                continue  # the prior of the precisions sets the size of the weights
            if value is None:
                raise BadInput(name, None, "a number (it is still a symbol)")
            found[symbol] = float(value)
        if data.X_test is not None:
            found["X_*"] = data.X_test
        return found

    def solve(self, net: Network, data: Dataset, width: int | None, wanted: Sequence[str] | None, effort: Effort,
              start: Start | None = None) -> Solved:
        """Solve the equations on data, every ensemble on its own; ``start`` says where each of them begins."""
        with_test = data.X_test is not None
        known = self.outputs
        for name in wanted or ():
            if name in VARIANCES and name not in known:
                raise BadInput("outputs", name, "an output that the theory derives: it has no second moment of the "
                               "output (" + ", ".join(known) + ")")
            if name not in known:
                raise UnknownName("outputs", name, known)
            if "test" in known[name] and not with_test:
                raise BadInput("outputs", name, "data with test inputs, X_test")
        names = tuple(name for name, places in known.items() if (with_test or "test" not in places)
                      and (name not in (*VARIANCES, BOUND) if wanted is None else name in wanted))
        values, squares = self.values(net, data, width), bool(VARIANCES.keys() & set(names))
        if "output_variance" in names:  # at the samples, as at other inputs
            values["X_*"] = np.concatenate([values["X_*"], data.X]) if with_test else data.X  # type: ignore[list-item]
        environment = self.environment(with_test or squares, squares)
        count = effort.ensembles if environment.coordinates(values).size > Grid.dimensions else 1
        begin = [None] * count if start is None else start(environment, values, count)
        if count == 1:
            ensembles = [environment.on_grid(values, start=begin[0])]
        else:
            seeds = np.random.SeedSequence(effort.seed).spawn(count)
            with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
                ensembles = environment.together(values, effort, seeds, begin, pool.map)
        return Solved(environment, values, ensembles, names, 0 if data.X_test is None else len(data.X_test))

    def predict(self, net: Network, data: Dataset, width: int | None, wanted: list[str] | None,
                effort: Effort, start: Start | None = None) -> xr.Dataset:
        """Averages over one site's law, each with its Monte-Carlo error as ``<name>_mcse`` (0 by quadrature).

        By quadrature and for independent sites also ``log_evidence_bound``, N ln ∫e^{-s} ≤ ln Z, which particles
        integrate on request (twice the time); about a saddle ``log_evidence`` to one loop.

        Raises
        ------
        NotConverged
            If a result is not finite, or quadrature does not settle.  Particles that do not settle, or do not mix, say
            so in the attribute ``status``.
        """
        return self.report(self.solve(net, data, width, wanted, effort, start), data)

    def report(self, solved: Solved, data: Dataset) -> xr.Dataset:
        """A solution as variables with their errors, certificates and status."""
        environment, ensembles, values = solved.environment, solved.ensembles, solved.values
        undefined = [] if np.any(data.y) else [name for name in solved.names if name in PER_TARGET]
        variables: dict[str, Any] = {}
        for name in solved.names:
            if name in undefined:
                variables |= {name: ((), np.nan), f"{name}_mcse": ((), np.nan)}
            if name == BOUND or name in undefined:
                continue
            mean, error = solved.average(name)
            variables |= {name: (self.outputs[name], mean), f"{name}_mcse": (self.outputs[name], error)}
        if environment.parameter is not None and ensembles[0].sampler.exact:
            saddle = self.closure.step.rule == "site_saddle"
            name = "log_evidence" if saddle else BOUND
            variables[name] = ((), ensembles[0].log_partition if saddle else values["N"] * ensembles[0].log_integral)
        elif BOUND in solved.names:
            found = [log_integral(environment, values, one, k) for k, one in enumerate(ensembles)]
            bounds = values["N"] * np.array(found)
            variables[BOUND] = ((), bounds.mean())
            variables[f"{BOUND}_mcse"] = ((), bounds.std(ddof=1) / np.sqrt(len(bounds)))
        attributes, status = self.certificates(solved)
        if data.X_test is not None and data.y_test is not None:
            share = self.visibility(environment, ensembles, values | {"X_*": data.X_test}, data)
            attributes["target_visibility"] = share
            if share < INVISIBLE:
                status.append("the features of this activation have no overlap with the target at the test points: the "
                              "network cannot learn it, and what it fits is no more than the samples")
        attributes["status"] = "; ".join(status) or "converged"
        if undefined:
            attributes["status"] += f"; the target is zero, and {', '.join(undefined)} not defined"
        return xr.Dataset(variables, attrs=attributes)

    @staticmethod
    def certificates(solved: Solved) -> tuple[dict[str, Any], list[str]]:
        """How well the environment reproduces itself, against how far independent ensembles differ."""
        environment, ensembles = solved.environment, solved.ensembles
        residual = float(np.sqrt(np.mean([ensemble.residual**2 for ensemble in ensembles])))
        attributes: dict[str, Any] = {"residual": residual, "ensembles": len(ensembles)}
        status: list[str] = []
        if environment.closure.convex:
            attributes["uniqueness"] = "the only solution: its potential is strictly convex"
            if environment.at_saddle:
                shares = np.array([one.condensate for one in ensembles])
                attributes["condensate"] = float(shares.mean())
                attributes["condensate_mcse"] = float(shares.std(ddof=min(1, len(shares) - 1)) / np.sqrt(len(shares)))
            # particles at a saddle are kept where their law exists
            exact = [one for one in ensembles if one.sampler.exact or not environment.at_saddle]
            lost = max((escaping(environment, solved.values, one.environment, one.sampler) for one in exact), default=0)
            if lost > 0:
                status.append(f"not converged: the integral over one site diverges along {lost:.2g} of the directions "
                              "looked at; the solution, which exists, is elsewhere (effort: more particles or sweeps)")
        if ensembles[0].sampler.exact:
            missed = ensembles[0].quadrature_error
            if missed > RESOLVED:
                status.append(f"not converged: other nodes of the quadrature change outputs by {missed:.2g}: the law "
                              "of one site is too narrow for them (more noise, or a wider network)")
            return attributes | {"averages": "quadrature", "quadrature_error": missed}, status
        spread = environment.spread(ensembles)
        particles = [ensemble.sampler for ensemble in ensembles if isinstance(ensemble.sampler, Particles)]
        ess = sum(effective_samples(np.array(sampler.energies)) for sampler in particles)
        accepted = float(np.mean([sampler.accepted for sampler in particles]))
        attributes |= {"averages": "particles", "spread": spread, "particle_ess": ess, "acceptance": accepted}
        if getattr(environment, "loops", 0):
            alone = max(ensemble.self_pairs for ensemble in ensembles)
            attributes["self_pairs"] = alone
            if alone > SELF_PAIRS:
                status.append(f"not converged: {alone:.0%} of the chains of pairs lead from a particle to itself: "
                              "there are too few particles for so many samples, and the correction is biased (loops=0)")
        if environment.several(ensembles):
            status.append("not converged: ensembles ended with different precisions, perhaps in different solutions "
                          "(start: one of them at a time)")
        attributes["settled"] = ensembles[0].settled
        if ensembles[0].drifting > 0:
            status.append(f"not settled: all ensembles still drift by {ensembles[0].drifting:.2g} of what they have "
                          f"learned after {ensembles[0].settled} sweeps (effort: more to settle, or another start)")
        if residual > 4 * spread:
            status.append(f"not converged: the environment still moves by {residual:.2g}, ensembles differ by "
                          f"{spread:.2g} (effort: more sweeps to settle and to average)")
        drift = max(_together([one.drift for one in ensembles]), _together([one.misses for one in ensembles]))
        attributes["drift"] = drift
        if drift > DRIFT * np.sqrt(1 + 4 / (len(ensembles) - 1)**2):
            status.append(f"not converged: all ensembles drift the same way, by {drift:.1f} times their standard error "
                          "(effort: more sweeps to settle and to average)")
        if ess < MIXED or accepted < 0.3:
            status.append(f"not converged: the particles do not mix ({ess:.0f} effective samples of the energy, "
                          f"acceptance {accepted:.2f}; effort: more particles or sweeps)")
        tilt = max(ensemble.tilt for ensemble in ensembles)
        if tilt > 1 + INSIDE:
            status.append(f"not converged: there are directions along which the integral over one site diverges (tilt "
                          f"{tilt:.4g} of the prior) still after {SURVEYS} surveys (effort: more sweeps to settle)")
        if (share := attributes.get("condensate", 0.0)) > CONDENSED:
            carried = f"a share {share:.2g} of the output is carried by weights without bound"
            if min(ensemble.lobes for ensemble in ensembles) < FEW:
                carried += ", or beyond all particles"
            status.append(carried if status else f"converged; {carried}")
        return attributes, status

    def visibility(self, environment: Environment, ensembles: list[Ensemble], values: dict[str, Any],
                   data: Dataset) -> float:
        """E (φ·y)² T/(|φ|² |y|²) over the features φ of a site at the T test points: 1 for an unrelated target.

        The features are the parts of the test output that move with the site; on a full set of inputs a target that
        no feature overlaps with, an odd parity of three inputs under ReLU say, has zero.
        """
        pairs = (environment.affine["test_output"].pairs if environment.parameter is not None
                 else next(iter(self.closure.projections.values())))
        assert data.y_test is not None
        batch = Batch({f"u{k}": u for k, (u, _) in enumerate(pairs)}, self.closure.fields)
        features = next(iter(batch.bind(values)(ensembles[0].sampler.fields).values()))
        size = (features**2).sum(axis=1)
        moving = size > 0
        if not np.any(moving) or not np.any(data.y_test):
            return float("nan")
        overlap = (features[moving] @ data.y_test)**2 / (size[moving] * (data.y_test @ data.y_test))
        return float(overlap.mean() * len(data.y_test))


def _together(moves: Sequence[Sequence[Array]]) -> float:
    """The mean over ensembles of how an environment moves, relative to its standard error: the largest of its parts.

    About 1 where each goes its own way; moves of many components are compared by their lengths.
    """
    found = []
    for part in zip(*moves, strict=True):
        x = np.array(part).reshape(len(part), -1)
        error = float(np.sqrt(x.var(axis=0, ddof=1).sum() / len(x)))
        found.append(float(np.linalg.norm(x.mean(axis=0))) / max(error, 1e-300))
    return max(found, default=0.0)


def effective_samples(energies: Array) -> float:
    """Effective samples of the energy of particles (sweep, particle), by Geyer's initial positive sequence."""
    sweeps, particles = energies.shape
    centred = energies - energies.mean()
    variance = float((centred**2).mean())
    if variance == 0:
        return 0.0
    time, lag = 1.0, 1
    while lag + 1 < sweeps // 2:
        pair = sum(float((centred[:-k] * centred[k:]).mean()) / variance for k in (lag, lag + 1))
        if pair <= 0:
            break
        time += 2 * pair
        lag += 2
    return sweeps * particles / time


__all__ = ["SitePredictor", "Solved", "Start", "effective_samples"]
