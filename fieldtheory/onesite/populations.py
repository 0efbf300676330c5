r"""Broken permutation symmetry: populations of sites with laws of their own, each in the average field of all.

The best law of *identical* independent sites is unique.  Where laws may differ, q_1 for N_1 sites and q_2 for the
N_2 = N - N_1 others, the variational free energy F = -N_1 ln z_1 - N_2 ln z_2 is convex in each law, not in both.
With the output of the others given, a population is a problem like that of identical sites, with one solution:

    m_1 = B_1(m_2),  m_2 = B_2(m_1);

solving one after the other lowers F, so that the minima are what it settles at, and stationary points that are not
minima, as often the symmetric one, are found as the other roots of B_1(B_2(m)) = m.  The action of a site of a
population follows from the microscopic one by `split` and `decouple`, and the steps after these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import scipy.optimize
import sympy as sp
import xarray as xr
from threadpoolctl import threadpool_limits

from fieldtheory.action import Action
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.network import Network
from fieldtheory.onesite.environment import Effort, Ensemble, Environment
from fieldtheory.onesite.particles import Grid
from fieldtheory.onesite.prediction import SitePredictor
from fieldtheory.onesite.search import beginning
from fieldtheory.symbolic.fields import SpaceSum

Array = np.ndarray
Values = dict[str, Any]

POPULATIONS = {"first": "1", "second": "2"}
"""The spaces of the populations, and the ending of what belongs to them."""
SAME = 1e-6
"""Relative distance below which two roots are one."""


def populations(action: Action) -> dict[str, Action]:
    """The action of one site of each population, by the rules that led to that of identical sites.

    Raises
    ------
    BadInput
        If the sites were not decoupled first: the closure is no variational one.
    """
    step = action.steps[0]
    if step.rule != "decouple" or any(later.rule != "integrate_out" for later in action.steps[1:]):
        raise BadInput("theory", step.rule, "a theory of independent sites at a fixed prior (mean-field): its free "
                       "energy is a functional of the laws, which may then differ")
    first = Action(step.before.expr, step.before.fields, definitions=step.before.definitions, width=action.width,
                   quantities={"output": action.quantities["output"]})
    apart = first.split(step.details["space"].name, **POPULATIONS)  # type: ignore[attr-defined]
    (m,) = dict(step.details["order_parameters"])
    named = {space: f"{m.name}_{ending}" for space, ending in POPULATIONS.items()}
    found = {}
    for space, ending in POPULATIONS.items():
        others = {other: [name] for other, name in named.items() if other != space}
        one = apart.decouple(space, named[space], others=others)
        for later in action.steps[1:]:
            (gone,) = later.removed
            one = one.integrate_out(f"{gone.name}_{ending}")  # type: ignore[attr-defined]
        found[space] = one
    return found


def own_output(one: Action, space: str) -> sp.Expr:
    """The part of the output that a population makes, in the fields of its site."""
    whole = one.steps[0].push(one.quantities["output"])
    aside = {total: sp.S.Zero for total in whole.atoms(SpaceSum) if total.space.name in POPULATIONS.keys() - {space}}
    return one.observe(whole.xreplace(aside), start=1)


class Populations:
    """The equations of two populations of the sites of a closure, planned once."""

    def __init__(self, predictor: SitePredictor, action: Action) -> None:
        self.predictor = predictor
        self.actions = populations(action)

    @cached_property
    def environments(self) -> list[Environment]:
        return [Environment(one.close(), {"output": own_output(one, space)}, projections=False)  # type: ignore[arg-type]
                for space, one in self.actions.items()]

    @property
    def names(self) -> list[str]:
        """m_1 and m_2."""
        return [str(environment.parameter.name) for environment in self.environments]  # type: ignore[union-attr]

    def values(self, net: Network, data: Dataset, width: int | None, sizes: Sequence[int]) -> Values:
        found = self.predictor.values(net, data, width)
        N = int(found["N"])
        counts = [n for n in sizes if isinstance(n, int) and not isinstance(n, bool) and n > 0]
        if len(sizes) != 2 or len(counts) != 2 or sum(counts) != N:
            raise BadInput("sizes", tuple(sizes), f"two positive numbers of neurons that add up to the width, {N}")
        return found | {f"N_{ending}": float(n) for ending, n in zip(POPULATIONS.values(), sizes, strict=True)}

    # ------------------------------------------------------------------------------------------- quadrature

    def other(self, values: Values, k: int, m: Array) -> Ensemble:
        """Population k where the output of the other is m."""
        return self.environments[k].on_grid(values | {self.names[1 - k]: m})

    def around(self, values: Values, m: Array) -> tuple[Ensemble, Ensemble]:
        """Both populations in turn: the second where the first has m, then the first in the field of the second."""
        second = self.other(values, 1, m)
        return self.other(values, 0, second.environment[self.names[1]]), second

    def map(self, values: Values, m: Array) -> Array:
        """B_1(B_2(m))."""
        return self.around(values, m)[0].environment[self.names[0]]

    def roots(self, values: Values, starts: int, seed: int) -> Iterator[Array]:
        """m_1 at every root that is met, from shares of the symmetric solution and from random vectors."""
        rng = np.random.default_rng(seed)

        def mismatch(m: Array) -> Array:
            return self.map(values, m) - m

        whole = next(iter(self.predictor.environment(False).on_grid(values).environment.values()))
        scale = max(float(np.linalg.norm(whole)), 1e-12)
        shares = np.linspace(0, 1, starts)
        guesses = [share * whole for share in shares]
        if whole.size > 1:
            noise = 0.3 * scale / np.sqrt(whole.size)
            guesses += [guess + noise * rng.standard_normal(whole.size) for guess in guesses]
        found: list[Array] = []
        for guess in guesses:
            for rounds in (8, 0):  # minima by going round, other roots by Newton's method
                m = guess
                for _ in range(rounds):
                    m = self.map(values, m)
                m = scipy.optimize.root(mismatch, m, tol=1e-11).x
                if np.linalg.norm(mismatch(m)) < 1e-8 * scale and all(
                        np.linalg.norm(m - known) > SAME * scale for known in found):
                    found.append(m)
                    yield m

    def contraction(self, values: Values, m: Array) -> float:
        """The spectral radius of m -> B_1(B_2(m)) at a root: below 1 at a minimum of F."""
        h = 1e-4 * max(float(np.abs(m).max()), 1e-6)
        columns = [(self.map(values, m + h * e) - self.map(values, m - h * e)) / (2 * h) for e in np.eye(len(m))]
        return float(np.abs(np.linalg.eigvals(np.array(columns).T)).max())

    def solutions(self, net: Network, data: Dataset, width: int | None, sizes: Sequence[int], starts: int,
                  seed: int) -> xr.Dataset:
        """All that is found by quadrature, lowest free energy first."""
        values = self.values(net, data, width, sizes)
        if self.environments[0].coordinates(values).size > Grid.dimensions:
            raise BadInput("data", f"{values['D']:.0f} inputs", f"at most {Grid.dimensions} hidden components of a "
                           "site, for quadrature; with particles a population is followed from where it is planted "
                           "(give relevant)")
        rows = []
        for m in self.roots(values, starts, seed):
            both = self.around(values, m)
            F = -sum(n * one.log_integral for n, one in zip(sizes, both, strict=True))
            residual = float(np.linalg.norm(both[0].environment[self.names[0]] - m))
            rows.append((F, [one.outputs["output"] for one in both], residual, self.contraction(values, m)))
        if not rows:
            raise NotConverged("no solution with two populations was found", np.inf)
        rows.sort(key=lambda row: row[0])
        outputs = np.array([row[1] for row in rows])
        per_site = outputs / np.asarray(sizes, dtype=float)[:, None]
        gap = np.linalg.norm(per_site[:, 0] - per_site[:, 1], axis=1) / np.linalg.norm(per_site, axis=(1, 2))
        return xr.Dataset({
            "population_output": (("solution", "population", "sample"), outputs),
            "mean_output": (("solution", "sample"), outputs.sum(axis=1)),
            "log_evidence_bound": (("solution",), -np.array([row[0] for row in rows])),
            "asymmetry": (("solution",), gap),
            "contraction": (("solution",), np.array([row[3] for row in rows])),
            "residual": (("solution",), np.array([row[2] for row in rows]))},
            coords={"population": list(POPULATIONS), "size": ("population", np.asarray(sizes))},
            attrs={"averages": "quadrature", "status": "converged"})

    # -------------------------------------------------------------------------------------------- particles

    def planted(self, net: Network, data: Dataset, width: int | None, sizes: Sequence[int], relevant: Sequence[int],
                effort: Effort, rounds: int) -> xr.Dataset:
        """Where the laws go when the first population begins along some inputs and the second at the prior.

        The populations are solved by turns, ``rounds`` times, each from where its particles are.
        """
        values = self.values(net, data, width, sizes)
        if self.environments[0].coordinates(values).size <= Grid.dimensions:
            raise BadInput("relevant", list(relevant), "None: all solutions are found by quadrature here")
        plant = beginning("planted", relevant, effort.seed)
        assert plant is not None
        size = [int(values[space.size.name]) for space in self.environments[0].parameter.spaces]  # type: ignore[union-attr]
        plants = plant(self.environments[0], values, effort.ensembles)
        seeds = np.random.SeedSequence(effort.seed).spawn(effort.ensembles)

        def run(first: Ensemble | None, seed: np.random.SeedSequence) -> list[Array]:
            """Outputs of both populations after every round."""
            ensembles: list[Ensemble | None] = [first, None]
            m, trace = [np.zeros(size), np.zeros(size)], []
            for turn in seed.spawn(rounds):
                outputs = []
                for k, source in enumerate(turn.spawn(2)):
                    given = values | {self.names[1 - k]: m[1 - k]}
                    found = self.environments[k].with_particles(given, effort, source, ensembles[k])
                    ensembles[k], m[k] = found, found.environment[self.names[k]]
                    outputs.append(found.outputs["output"])
                trace.append(np.array(outputs))
            return trace

        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(2) as pool:
            traces = np.array(list(pool.map(run, plants, seeds)))  # (ensemble, round, population, sample)
        y = np.asarray(data.y, dtype=float)
        share = traces @ y / (y @ y) / np.asarray(sizes, dtype=float)  # of the target, by one site

        def error(x: Array) -> Array:
            return x.std(axis=0, ddof=1) / np.sqrt(len(x))

        last = traces[:, -1]
        return xr.Dataset({
            "population_output": (("population", "sample"), last.mean(axis=0)),
            "population_output_mcse": (("population", "sample"), error(last)),
            "mean_output": (("sample",), last.sum(axis=1).mean(axis=0)),
            "mean_output_mcse": (("sample",), error(last.sum(axis=1))),
            "share": (("round", "population"), share.mean(axis=0)),
            "share_mcse": (("round", "population"), error(share))},
            coords={"population": list(POPULATIONS), "size": ("population", np.asarray(sizes))},
            attrs={"averages": "particles", "ensembles": effort.ensembles})


__all__ = ["Populations", "populations"]
