"""From an action closed at one site to a prediction on data, with Monte-Carlo errors and certificates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import sympy as sp
import xarray as xr
from threadpoolctl import threadpool_limits

from fieldtheory.errors import BadInput, NotConverged, UnknownName
from fieldtheory.microscopic import BIAS_PARAMETER, HYPERPARAMETERS
from fieldtheory.network import Network
from fieldtheory.onesite.batches import Batch
from fieldtheory.onesite.environment import Effort, Ensemble, Environment
from fieldtheory.onesite.particles import Grid, Particles
from fieldtheory.symbolic.fields import open_spaces
from fieldtheory.symbolic.siteclosure import SiteClosure
from fieldtheory.tasks import Dataset

Array = np.ndarray

REPORTED = {"output": "mean_output", "test_output": "test_output", "readout_norm": "readout_norm",
            "discrepancy_along_target": "discrepancy_along_target"}
"""Quantities of a network by the name of their average in a prediction."""
MIXED = 400.0
"""Effective samples of the energy below which particles count as not mixing."""
INVISIBLE = 1e-20
"""The share of a target that features drawn from the prior hold, below which they cannot express it."""


class SitePredictor:
    """The quantities of an action closed at one site, averaged over its law.

    One or two hidden components of a site are integrated by quadrature; for more, ensembles of particles are run.
    """

    def __init__(self, closure: SiteClosure, observables: Mapping[str, sp.Expr]) -> None:
        self.closure = closure
        self.observables = {REPORTED[name]: expr for name, expr in observables.items() if name in REPORTED}
        self._environments: dict[bool, Environment] = {}

    def environment(self, with_test: bool = True) -> Environment:
        """The equations, planned; without test points the quantities there are left out."""
        if with_test not in self._environments:
            outputs = {name: expr for name, expr in self.observables.items() if with_test or name != "test_output"}
            self._environments[with_test] = Environment(self.closure, outputs, projections=with_test)
        return self._environments[with_test]

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
        given = {symbol: name for name, symbol in HYPERPARAMETERS.items()} | {BIAS_PARAMETER: "bias_variance"}
        for symbol, name in given.items():
            value = getattr(net, name)
            if value is None:
                raise BadInput(name, None, "a number (it is still a symbol)")
            found[symbol] = float(value)
        if data.X_test is not None:
            found["X_*"] = data.X_test
        return found

    def predict(self, net: Network, data: Dataset, width: int | None, wanted: list[str] | None,
                effort: Effort) -> xr.Dataset:
        """Averages over one site's law, each with its Monte-Carlo error as ``<name>_mcse`` (0 by quadrature).

        By quadrature and for independent sites also ``log_evidence_bound``, N ln ∫e^{-s} ≤ ln Z.

        Raises
        ------
        NotConverged
            If a result is not finite, or quadrature does not settle.  Particles that do not settle, or do not mix, say
            so in the attribute ``status``.
        """
        with_test = data.X_test is not None
        environment, values = self.environment(with_test), self.values(net, data, width)
        available = [name for name in self.observables if with_test or name != "test_output"]
        for name in wanted or ():
            if name not in self.observables:
                raise UnknownName("outputs", name, self.observables)
        names = [name for name in available if wanted is None or name in wanted]
        coordinates = environment.coordinates(values)
        if coordinates.size <= Grid.dimensions:
            ensembles = [environment.on_grid(values)]
        else:
            seeds = np.random.SeedSequence(effort.seed).spawn(effort.ensembles)
            with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
                ensembles = list(pool.map(lambda seed: environment.with_particles(values, effort, seed), seeds))
        variables: dict[str, Any] = {}
        for name in names:
            draws = np.array([ensemble.outputs[name] for ensemble in ensembles])
            if not np.all(np.isfinite(draws)):
                raise NotConverged(f"{name} is not finite", max(ensemble.residual for ensemble in ensembles))
            dims = tuple(space.name for space in open_spaces(self.observables[name]))
            variables[name] = (dims, draws.mean(axis=0))
            error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws)) if len(draws) > 1 else np.zeros_like(draws[0])
            variables[f"{name}_mcse"] = (dims, error)
        if environment.parameter is not None and ensembles[0].sampler.exact:
            variables["log_evidence_bound"] = ((), values["N"] * ensembles[0].log_integral)
        attributes, status = self._certificates(environment, ensembles)
        if with_test and data.y_test is not None:
            share = self.visibility(environment, ensembles, values, data)
            attributes["target_visibility"] = share
            if share < INVISIBLE:
                status.append("the features of this activation have no overlap with the target at the test points: the "
                              "network cannot learn it, and what it fits is no more than the samples")
        attributes["status"] = "; ".join(status) or "converged"
        return xr.Dataset(variables, attrs=attributes)

    def _certificates(self, environment: Environment, ensembles: list[Ensemble]) -> tuple[dict[str, Any], list[str]]:
        """How well the environment reproduces itself, against how far independent ensembles differ."""
        residual = float(np.sqrt(np.mean([ensemble.residual**2 for ensemble in ensembles])))
        attributes: dict[str, Any] = {"residual": residual, "ensembles": len(ensembles)}
        if ensembles[0].sampler.exact:
            return attributes | {"averages": "quadrature"}, []
        spread = environment.spread(ensembles)
        particles = [ensemble.sampler for ensemble in ensembles if isinstance(ensemble.sampler, Particles)]
        ess = sum(effective_samples(np.array(sampler.energies)) for sampler in particles)
        accepted = float(np.mean([sampler.accepted for sampler in particles]))
        attributes |= {"averages": "particles", "spread": spread, "particle_ess": ess, "acceptance": accepted}
        status = []
        if residual > 4 * spread:
            status.append(f"not converged: the environment still moves by {residual:.2g}, ensembles differ by "
                          f"{spread:.2g} (effort: more sweeps to settle)")
        if ess < MIXED or accepted < 0.3:
            status.append(f"not converged: the particles do not mix ({ess:.0f} effective samples of the energy, "
                          f"acceptance {accepted:.2f}; effort: more particles or sweeps)")
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


__all__ = ["SitePredictor", "effective_samples"]
