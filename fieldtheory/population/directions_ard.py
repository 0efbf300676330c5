"""Collapsed mean field with relevance determination in the population limit under Gaussian inputs.

As for a parity (:mod:`.population.collapsed_ard`), with blocks of the others' kernel in place of its eigenvalues
(:mod:`.population.collapseddirections`) and a mean precision for every relevant input and one for the rest
(:mod:`.population.settled`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.action import Action
from fieldtheory.compile import Kernel
from fieldtheory.errors import BadInput
from fieldtheory.network import Network
from fieldtheory.population.arguments import check_degree, ridges
from fieldtheory.population.blocks import BlockEquations
from fieldtheory.population.branches import Branches, Root
from fieldtheory.population.collapseddirections import (
    DEGREE,
    HIGHEST,
    KEPT,
    OUTSIDE,
    CollapsedDirections,
    DirectionsSolution,
)
from fieldtheory.population.fixedpoints import FixedPoints, followed
from fieldtheory.population.modes import Key
from fieldtheory.population.nodes import population_values
from fieldtheory.population.relevance import Start
from fieldtheory.population.sectors import Basis, Batch, choose
from fieldtheory.population.selection import update_of
from fieldtheory.population.settled import SettledEquations

COUNT = {1: 6144, 2: 24576}
"""Nodes of one shift by the number of directions: the law of one site is wider than under a fixed prior."""
FARTHEST = 37.0
"""The density of the prior is a number up to here."""


class CollapsedARDDirections(CollapsedDirections):
    """Collapsed mean field with a precision for every input, for Gaussian inputs; directions are the axes x_1, x_2, …

    Parameters
    ----------
    site : the action after `hyperprior` and `cavity`, with the shared field integrated out.
    network, law, target : as of :class:`.PopulationTheory`; the prior is an ``ARD``.
    """

    title = "Collapsed mean-field theory with relevance determination"

    def __init__(self, site: Action, network: Network, law: str = "gaussian",
                 target: Key | Mapping[Key, float] = 2) -> None:
        super().__init__(site, network, law, target)
        self._settled: dict[Any, SettledEquations] = {}

    @property
    def equations(self) -> dict[str, sp.Eq]:
        """Of the blocks as for a fixed prior, and W_j = ⟨Σ_i w_ij²⟩, of which the mean precision is a function."""
        shared = {v.name: sp.Eq(v, self.closure.average(law.body), evaluate=False)
                  for v, law in self.closure.shared.items()}
        return {**super().equations, **shared}

    @staticmethod
    def reach(D: int) -> float | None:
        return float(min(max(20.0, 3.2 * sqrt(D)), FARTHEST))

    @cached_property
    def update(self) -> Kernel:
        """A mean precision as a function of ⟨w²⟩."""
        return update_of(self.closure)

    def _equations(self, input_dim: int, noise: float | None, samples: float | None, width: int | None, degree: int,
                   nodes: int | None, shifts: int, seed: int) -> tuple[SettledEquations, float]:
        """The equations of the precisions, with what matters at a noise (the least of several), and the noise."""
        d = len(self._modes[0].orders)
        check_degree(degree, max(mode.order for mode in self._modes), HIGHEST)
        variance = self.network.hidden_prior_variance(input_dim)
        values, _ = population_values(self.network.replace(weight_variance=variance * input_dim), noise, samples, width)
        ridge = values["s"]
        hyper = self.network.precision_prior(input_dim)
        assert hyper is not None
        values |= {"alpha_0": hyper[0], "beta_0": hyper[1], "s": ridge}
        count = COUNT.get(d, 32768) if nodes is None else nodes
        key = (input_dim, variance, degree, count, shifts, seed, *values.values())
        if key not in self._settled:
            found, drawn = self.nodes(input_dim, variance * input_dim, degree, count, shifts, seed)
            target = self._target_vector(found[0])
            scale = BlockEquations(self.kernels, values, Basis((0,), (found[0],), (target[:, None],)), target).factor
            basis = choose(found, drawn[0], target, KEPT * values["s"] / max(scale, 1e-300))
            names = ["relevant"] if d == 1 else [f"relevant_{a + 1}" for a in range(d)]
            places = [found[0].modes.index(mode) for mode in self._modes]
            self._settled = {key: SettledEquations(
                self.kernels, self.update, basis, [Batch.of(one, basis) for one in drawn], target, places,
                {**dict.fromkeys(names, 1.0), "rest": float(input_dim - d)}, values, 1 / variance,
                [mode.name for mode in self._modes], degree)}
        return self._settled[key], ridge

    def solve(self, input_dim: int, noise: float | None = None, *, samples: float | None = None,  # type: ignore[override]
              width: int | None = None, degree: int = DEGREE + 8, nodes: int | None = None, shifts: int = 4,
              seed: int = 0, start: DirectionsSolution | Start | None = None) -> DirectionsSolution:
        """A solution, as of :meth:`.CollapsedARDPopulation.solve`; ``degree`` as of :class:`.CollapsedDirections`."""
        equations, ridge = self._equations(input_dim, noise, samples, width, degree, nodes, shifts, seed)
        follower = FixedPoints(equations)
        given: Any = start
        if isinstance(start, DirectionsSolution):
            if set(start.precisions) != set(equations.moving):
                raise BadInput("start", start, f"a solution for {input_dim} inputs of this theory")
            given = np.r_[list(start.order_parameters.values()), np.log(list(start.precisions.values()))]
            equations.kernel_of = [equations.basis.adopted(start.blocks)] * shifts
        root, other = follower.start(float(np.log(ridge)), given)
        return self._found(equations, root, [] if other is None else [
            f"several solutions: m = {root.x[equations.leading]:.4g} from large noise, "
            f"{other.x[equations.leading]:.4g} from a specialised start"], degree)

    def _found(self, equations: SettledEquations, root: Root, status: list[str], degree: int) -> DirectionsSolution:
        n, point, shifts = equations.orders, root.point, len(equations.batches)
        precision, errors, residual = np.exp(root.x[n:]), root.errors, float(np.abs(root.point.slope).max())
        solved = [equations.solved(i, precision, root.noise) for i in range(shifts)]
        laws = [one.law(batch, C) for batch, one, C in solved]
        outputs = np.mean([one.output(batch, C) for batch, one, C in solved], axis=0)
        remainder, truncated = equations.left_out(root.x, root.noise)
        outside = max(float(law.weights[batch.nodes.points.edge].sum())
                      for law, (batch, _, _) in zip(laws, solved, strict=True))
        C = np.mean([C for _, _, C in solved], axis=0)
        if outside > OUTSIDE:
            status.append(f"not converged: {outside:.1g} of the law of one site is at the edge of the nodes")
        if point.nodes < equations.few:
            status.append(f"not converged: {point.nodes:.0f} effective nodes (give more nodes)")
        if residual > 1e-8:
            status.append(f"not converged: residual {residual:.1g}")
        status += truncated
        if not root.stable:
            status.append("an unstable solution")
        modes = equations.basis.sectors[0].modes
        return DirectionsSolution(
            dict(zip(self.modes, root.x[:n].tolist(), strict=True)),
            dict(zip(self.modes, errors[:n].tolist(), strict=True)),
            float(((equations.whole_target - outputs)**2).sum()), residual, point.nodes,
            "; ".join(status) or "converged",
            precisions=dict(zip(equations.moving, precision.tolist(), strict=True)),
            precision_errors=dict(zip(equations.moving, (precision * errors[n:]).tolist(), strict=True)),
            output={mode.key: float(m) for mode, m in zip(modes, outputs, strict=True)},
            spectrum=solved[0][1].spectrum(C), blocks=equations.basis.whole(C), degree=degree, remainder=remainder)

    def branches(self, input_dim: int, noise: Sequence[float] | None = None, *, samples: Sequence[float] | None = None,
                 width: int | None = None, degree: int = DEGREE + 8, nodes: int | None = None, shifts: int = 4,
                 seed: int = 0) -> Branches:
        """All solutions and the spinodals, as of :meth:`.CollapsedARDPopulation.branches`.

        Stability is that of the map of the precisions, with the others' kernel settled.
        """
        noises = ridges(self.network, noise, samples, width)
        equations, _ = self._equations(input_dim, min(noises), None, width, degree, nodes, shifts, seed)
        return followed(equations, noises)


__all__ = ["CollapsedARDDirections"]
