r"""The correction of a cavity on data: its medium, and pairs of sites in the law of one.

With the clusters S_n of :mod:`.symbolic.cavityfluctuation` the sites are particles with energies s_1 and pair
interactions s_2.  About the law p of independent sites, N p(θ) fluctuates as a density does, with the quadratic action
½ δρ (1/(Np) + V) δρ, V being s_2 less its means.  One loop of it, ½ Tr [ln(1 + MpV) - MpV] with M = N - 1 others,
is every chain of interactions that closes, and its derivative is the energy of one site,

    E = S_1 + M ⟨s_2⟩ - ½ M [V p (1 + MVp)⁻¹ V](θ, θ),      p ∝ e^{-E};

the law of a pair is p p' less p V (1 + MpV)⁻¹ p'.  An observable is O_0 + N ⟨o_1⟩ + ½N(N-1) ⟨o_2⟩ of these.  The law,
and the medium that it determines, are iterated on nodes: those of quadrature, or particles of the cavity's own law,
which are reweighted:
what they say of the difference to the cavity is added to its own long averages.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.linalg
import scipy.special
import sympy as sp

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.onesite.batches import Batch
from fieldtheory.onesite.environment import Ensemble, Environment
from fieldtheory.onesite.pairs import Pairs
from fieldtheory.onesite.particles import Grid, Particles
from fieldtheory.onesite.precisions import Precision
from fieldtheory.symbolic.fields import Entry
from fieldtheory.symbolic.siteclosure import SiteClosure

Array = np.ndarray
Values = dict[str, Any]

NODES = 512
"""Particles of one ensemble whose pairs are looked at; the cost grows as the square and, less, the cube."""
APART = 5
"""Sweeps between particles that are kept."""
QUADRATURE = 1000
"""Nodes of a quadrature for which pairs are still affordable."""
TOLERANCE = 1e-4
"""How far the law of particles may still move, in total variation: less than what their number leaves open."""
PATIENCE = 6
"""Iterations in a row after which chains of pairs that do not sum are taken for an instability."""
SELF_PAIRS = 0.1
"""The part of chains of two pairs that comes back to the same particle above which there are too few of them."""
NEGLIGIBLE = 1e-22
"""The weight of a node, relative to the largest, below which it is left out of pairs."""
QUANTITY = {"mean_output": "output"}
"""Outputs whose quantity of the action has another name."""


def environment_of(closure: SiteClosure) -> type[Environment]:
    """Which equations a closure has."""
    return ClusterEnvironment if any(step.rule == "fluctuation" for step in closure.steps) else Environment


class ClusterEnvironment(Environment):
    """The equations of a cavity in a medium; with one loop also those of pairs."""

    def __init__(self, closure: SiteClosure, outputs: Mapping[str, sp.Expr], *, projections: bool = True) -> None:
        (step,) = (step for step in closure.steps if step.rule == "fluctuation")
        found: Any = step.details
        self.details = found
        self.loops = int(found["loops"])
        self.dressed = str(found["resolvent"]) != "mean"
        self.screening = Batch({"screening": found["screening"]}, closure.fields)
        self.values: Values = {}
        self.beside: dict[str, Array] = {}
        super().__init__(closure, outputs, projections=projections)
        if self.loops:
            known = {str(name): exprs for name, exprs in dict(found["observables"]).items()}
            clusters = {name: known[key] for name in outputs if (key := QUANTITY.get(name, name)) in known}
            needed = sp.Tuple(found["energies"], *clusters.values()).atoms(Entry)
            features = {psi: expr for psi, expr in dict(found["features"]).items() if psi in needed}
            self.vectors = Batch({psi.name: expr for psi, expr in features.items()}, closure.fields)
            self.features = list(features)
            vectors = [*closure.fields, *features]
            twins = {field: twin for field, twin in dict(found["twins"]).items() if field in vectors}
            self.energies = [Pairs(expr, vectors, twins) for expr in found["energies"]]
            self.clusters = {name: [Pairs(expr, vectors, twins) for expr in exprs] for name, exprs in clusters.items()}

    # ------------------------------------------------------------------------------------------------- medium

    def at(self, values: Values) -> ClusterEnvironment:
        """A copy with the numbers of a network, which keeps what one ensemble needs to be completed."""
        own = copy.copy(self)
        own.values = values
        return own

    def _dressed(self, averages: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
        """The environment, and the ratio of its spectrum to that of what it is made of."""
        environment = super()._solve(averages)
        spectrum, _ = self.spectral
        bare, others = environment[spectrum], self.values["N"] - 1
        if not self.dressed or others == 0:
            return environment, np.ones(len(bare))
        medium, r = self.details["medium"], self.details["screened"]
        symbols = sorted(medium.free_symbols - {r}, key=lambda symbol: symbol.name)
        function = sp.lambdify([r, *symbols], medium, "numpy")
        kappa = np.maximum(function(bare / others, *(self.values[symbol.name] for symbol in symbols)), 0.0)
        seen = bare > 1e-14 * bare.max()
        return environment | {spectrum: kappa}, np.where(seen, kappa / np.where(seen, bare, 1.0), 1.0)

    def _solve(self, averages: Mapping[str, Array]) -> dict[str, Array]:
        return self._dressed(averages)[0]

    def at_other_data(self, averages: Mapping[str, Array], environment: Mapping[str, Array]) -> dict[str, Array]:
        own, ratio = self._dressed(averages)
        V, basis = own[self.spectral[1]], environment[self.spectral[1]]
        turned = (V * ratio) @ (V.T @ basis)
        self.beside = {name: averages[name] @ turned for name in self.pairs if name != "environment"}
        return self.beside

    def _averages(self, sampler: Grid | Particles, statics: Any, precisions: Mapping[str, Precision],
                  environment: Mapping[str, Array]) -> dict[str, Array]:
        found = super()._averages(sampler, statics, precisions, environment)
        return found | self._formed(sampler.fields, sampler.weights, statics, environment)

    def _formed(self, fields: list[Array], weights: Array, statics: Any,
                environment: Mapping[str, Array]) -> dict[str, Array]:
        """What the medium is made of: a site's form, screened where the medium is to leave the resolvent alone."""
        if self.dressed:
            weights = weights / self.screening.bind(self.values | dict(environment))(fields)["screening"]
        return self.averages(fields, weights, statics)

    def answer(self, averages: Mapping[str, Array], environment: Mapping[str, Array],
               precisions: Mapping[str, Precision] | None = None) -> list[Array]:
        if not self.dressed:
            return super().answer(averages, environment, precisions)
        return self.parts(self.solve(averages, precisions, environment))

    def on_grid(self, values: Values, tolerance: float = 1e-11, limit: int = 2000,
                start: Ensemble | None = None) -> Ensemble:
        own = self.at(values)
        found = Environment.on_grid(own, values, tolerance, limit, start)
        if not self.loops or values["N"] == 1:
            return found
        if isinstance(found.sampler, Grid) and len(found.sampler.points) > QUADRATURE:
            raise BadInput("loops", 1, f"one hidden component of a site by quadrature, or more than {Grid.dimensions}: "
                           "pairs of nodes are too many in between")
        assert isinstance(found.sampler, Grid)
        return own._corrected(found, found.sampler.fields, found.sampler.log_volume, exact=True)

    def completed(self, ensemble: Ensemble) -> Ensemble:
        found, values = ensemble, self.values
        if not self.loops or values["N"] == 1:
            return found
        sampler, kept = found.sampler, []
        assert isinstance(sampler, Particles)
        bound = self.dynamics.bind(values | found.environment)
        for _ in range(-(-NODES // len(sampler.points))):
            for _ in range(APART):
                sampler.update(bound)
            kept.append(sampler.fields)
        fields = [np.concatenate(arrays) for arrays in zip(*kept, strict=True)]
        return self._corrected(found, fields, bound(fields)["energy"], exact=False)

    # -------------------------------------------------------------------------------------------------- pairs

    def _corrected(self, found: Ensemble, fields: list[Array], logs: Array, *, exact: bool,
                   limit: int = 200) -> Ensemble:
        """The law with one loop on weighted nodes; ``logs`` is the log weight of a node where its energy is zero."""
        values, others = self.values, self.values["N"] - 1
        statics = self.statics.bind(values)
        environment = dict(found.environment) | self.beside
        first = scipy.special.softmax(logs - self.dynamics.bind(values | environment)(fields)["energy"])
        seen = first > NEGLIGIBLE * first.max()
        fields, logs, first = [f[seen] for f in fields], logs[seen], first[seen] / first[seen].sum()
        count = len(logs)
        start = environment = self._made(fields, first, statics, environment)
        p, residual, mixing, unstable = first, np.inf, 1.0, 0
        for _ in range(limit):
            S_0, S_1, S_2 = self._matrices(self.energies, environment, fields)
            S_0, S_1 = S_0.item(), S_1[:, 0]
            s_2 = S_2 - S_1[:, None] - S_1[None, :] + S_0
            mean = s_2 @ p if exact else (s_2 @ p - np.diagonal(s_2) * p) / (1 - p)
            V = s_2 - (s_2 @ p)[:, None] - (s_2 @ p)[None, :] + p @ s_2 @ p
            root = np.sqrt(p)
            spread = np.eye(count) + others * root[:, None] * V * root
            try:
                chain = scipy.linalg.cho_solve(scipy.linalg.cho_factor(spread), root[:, None] * V)
                unstable = 0
            except np.linalg.LinAlgError:  # on the way to the solution this may pass
                unstable += 1
                if unstable == PATIENCE:
                    raise NotConverged("the law of independent sites is unstable: pairs of sites attract each other so "
                                       "strongly that chains of them do not sum; take resolvent=\"mean\", more noise, "
                                       "or loops=0", residual) from None
                chain = np.linalg.solve(spread, root[:, None] * V)
            energy = S_1 + others * mean - others / 2 * np.einsum("ab,ab->b", root[:, None] * V, chain)
            new = scipy.special.softmax(logs - energy)
            change = float(np.abs(new - p).sum())
            mixing = max(mixing / 2, 0.1) if change > residual else mixing
            residual = change
            if residual < (1e-11 if exact else TOLERANCE):
                break
            p = (1 - mixing) * p + mixing * new
            environment = self._made(fields, p, statics, environment)
        if unstable or residual > (1e-9 if exact else 10 * TOLERANCE):
            raise NotConverged("the law of one site with pairs does not settle", residual)
        chains = -(root[:, None] * chain) * p  # what correlations add to p p'
        W = np.outer(p, p) + chains
        outputs = dict(found.outputs)
        run = None if self.direct is None else self.direct.bind(values | environment)(fields)
        for name in outputs:
            if name in self.clusters:
                plans = self.clusters[name]
                alone = plans[1].bind(self._media(start, 1), self._nodes(start, fields)).average(first[:, None])
                changed = self._observed(plans, environment, fields, p, W, exact)
            elif run is not None:
                alone, changed = (np.tensordot(weights, run[name], 1) for weights in (first, p))
            outputs[name] = outputs[name] + changed - alone
        size = p @ V**2 @ p
        shared = float(p**2 @ np.diagonal(V)**2 / size) if size > 0 and not exact else 0.0
        if not exact:  # the medium of few particles is noisy, and serves for the difference only
            return replace(found, outputs=outputs, log_integral=np.nan, self_pairs=shared)
        kept = {key: environment[key] for key in found.environment}
        return replace(found, environment=kept, outputs=outputs, residual=residual, log_integral=np.nan)

    def _observed(self, clusters: list[Pairs], environment: dict[str, Array], fields: list[Array], p: Array, W: Array,
                  exact: bool) -> Array:
        """O_0 + N ⟨o_1⟩ + ½N(N-1) ⟨o_2⟩; of pairs of particles, those of different ones."""
        N = self.values["N"]
        if not exact:
            W = W - np.diag(np.diagonal(W))
            W = W / W.sum()
        O_0, O_1, O_2 = (plan.bind(self._media(environment, n), self._nodes(environment, fields))
                         for n, plan in enumerate(clusters))
        bare, pair = O_0.average(np.ones((1, 1))), O_2.average(W)
        one, in_pair = O_1.average(p[:, None]), O_1.average((W.sum(axis=0) + W.sum(axis=1))[:, None])
        return bare + N * (one - bare) + N * (N - 1) / 2 * (pair - in_pair + bare)

    def _media(self, environment: Mapping[str, Array], sites: int) -> Values:
        """The values with N - n media, whose form the environment has for N - 1."""
        scale = (self.values["N"] - sites) / (self.values["N"] - 1)
        basis = self.spectral[1]
        return self.values | {key: value if key == basis else scale * value for key, value in environment.items()}

    def _nodes(self, environment: Mapping[str, Array], fields: list[Array]) -> list[Array]:
        made = self.vectors.bind(self.values | dict(environment))(fields)
        return [*fields, *(made[psi.name] for psi in self.features)]

    def _matrices(self, plans: list[Pairs], environment: Mapping[str, Array], fields: list[Array]) -> list[Array]:
        nodes = self._nodes(environment, fields)
        return [plan.bind(self._media(environment, n), nodes).matrix() for n, plan in enumerate(plans)]

    def _made(self, fields: list[Array], weights: Array, statics: Any,
              environment: Mapping[str, Array]) -> dict[str, Array]:
        """The medium that weighted nodes make."""
        averages = self._formed(fields, weights, statics, environment)
        made = self._solve(averages)
        return made | self.at_other_data(averages, made)


__all__ = ["SELF_PAIRS", "ClusterEnvironment", "environment_of"]
