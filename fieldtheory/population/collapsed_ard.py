r"""Collapsed mean-field theory with relevance determination in the population limit, for a parity.

The rule `hyperprior` averages the precisions over their best law that is independent of the weights; the readouts are
integrated out, one site is singled out in the mean kernel of the others, and sums over samples become sums over the
parities, as for a fixed prior (:mod:`.population.collapsed`).  The unknowns are the eigenvalues κ of the others' kernel
by class of parities, and the mean precisions of the relevant inputs and of the rest (:mod:`.population.selection`).

Inputs that are used get cheap, and there may be several solutions at one noise, all on one curve from large noise
(:meth:`CollapsedARDPopulation.branches`).  No functional is known whose stationary points they are: the Jacobian of the
equations violates the condition for one, whatever factors equations and unknowns are multiplied by.  So there are
spinodals, and stability of the fixed-point map, but no free energy and no point of equal weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.action import Action
from fieldtheory.errors import BadInput
from fieldtheory.network import Network
from fieldtheory.population.arguments import check_dimension, check_nodes, ridges
from fieldtheory.population.base import FEW, NODES, SHIFTS
from fieldtheory.population.branches import Branches, Root
from fieldtheory.population.collapsed import CollapsedPopulation, CollapsedSolution
from fieldtheory.population.fixedpoints import FixedPoints, followed
from fieldtheory.population.modes import Key
from fieldtheory.population.nodes import EXACT, population_values
from fieldtheory.population.relevance import Start
from fieldtheory.population.selection import GrownNodes, JointEquations, JointKernels


class CollapsedARDPopulation(CollapsedPopulation):
    """Collapsed mean field with a precision for every input, on one parity, for infinitely many samples.

    Parameters
    ----------
    site : the action after `hyperprior` and `cavity`, with the shared field integrated out.
    network, law, target : as of :class:`.PopulationTheory`; the prior is an ``ARD``.
    """

    title = "Collapsed mean-field theory with relevance determination"

    def __init__(self, site: Action, network: Network, law: str = "hypercube",
                 target: Key | Mapping[Key, float] = 2) -> None:
        super().__init__(site, network, law, target)
        self._joint: dict[Any, JointEquations] = {}

    @property
    def equations(self) -> dict[str, sp.Eq]:
        """κ_T as for a fixed prior, and W_j = ⟨Σ_i w_ij²⟩, of which the mean precision is a function."""
        shared = {v.name: sp.Eq(v, self.closure.average(law.body), evaluate=False)
                  for v, law in self.closure.shared.items()}
        return {**super().equations, **shared}

    @cached_property
    def joint_kernels(self) -> JointKernels:
        """The law of one site and the update of the precisions, compiled."""
        return JointKernels(self)

    def _equations(self, input_dim: int, noise: float | None, samples: float | None, width: int | None, nodes: int,
                   shifts: int, seed: int) -> tuple[JointEquations, float]:
        """The joint equations on nodes, and the noise."""
        D, k = input_dim, self.order
        check_dimension(D, max(k, 1), EXACT)
        check_nodes(nodes, shifts, seed)
        variance = self.network.hidden_prior_variance(D)
        values, _ = population_values(self.network.replace(weight_variance=variance * D), noise, samples, width)
        ridge = values.pop("s")
        hyper = self.network.precision_prior(D)
        assert hyper is not None
        values |= {"alpha_0": hyper[0], "beta_0": hyper[1]}
        place = (D, variance, nodes, shifts, seed)
        key = (*place, *values.values())
        if key not in self._joint:
            if place not in self._drawn:
                self._drawn = {place: GrownNodes.draw(self, D, variance * D, nodes, shifts, seed,  # type: ignore[dict-item]
                                                      self.joint_kernels.slope)}
            (coefficient,) = self.target.values()
            self._joint = {key: JointEquations(self.joint_kernels, self._drawn[place], D, k,  # type: ignore[arg-type]
                                               coefficient, values, 1 / variance)}
        return self._joint[key], ridge

    def solve(self, input_dim: int, noise: float | None = None, *, samples: float | None = None,  # type: ignore[override]
              width: int | None = None, nodes: int = NODES // 2, shifts: int = SHIFTS, seed: int = 0,
              start: CollapsedSolution | Start | None = None) -> CollapsedSolution:
        """A solution at noise s_eff = s/P, or at a number of samples with the network's noise.

        Parameters
        ----------
        nodes, shifts : nodes per random shift, and their number; the spread between shifts is the error.
        start : a solution at another noise; ``prior`` for the solution that is reached from large noise, ``planted``
            for one that has learned.  Without it both are looked for; should they differ, ``status`` says so and the
            first is given: nothing is known by which to weigh them.  :meth:`branches` finds all.

        Raises
        ------
        NotConverged
            If no solution is found from the start.  Too few effective nodes are said in ``status``.
        BadInput
            If a precision runs away.
        """
        equations, ridge = self._equations(input_dim, noise, samples, width, nodes, shifts, seed)
        follower = FixedPoints(equations)
        given: Any = start
        if isinstance(start, CollapsedSolution):
            if list(start.spectrum) != equations.labels or set(start.precisions) != set(equations.moving):
                raise BadInput("start", start, f"a solution for order {self.order} and {input_dim} inputs")
            given = equations.state(start.m, start.spectrum, start.precisions)
        root, other = follower.start(float(np.log(ridge)), given)
        return self._found(equations, root, [] if other is None else [
            f"several solutions: m = {root.x[0]:.4g} from large noise, {other.x[0]:.4g} from a specialised start"])

    def _found(self, equations: JointEquations, root: Root, status: list[str]) -> CollapsedSolution:
        n, errors, point = equations.orders, root.errors, root.point
        residual = float(np.abs(point.slope).max())
        if point.nodes < FEW:
            status.append(f"not converged: {point.nodes:.0f} effective nodes (give more nodes)")
        if residual > 1e-8:
            status.append(f"not converged: residual {residual:.1g}")
        if not root.stable:
            status.append("an unstable solution")
        spectrum = dict.fromkeys(equations.labels, 0.0) | dict(zip(equations.unknown, np.exp(root.x[1:n]).tolist(),
                                                                   strict=True))
        precisions = np.exp(root.x[n:])
        (mode,), (coefficient,), m = self.modes, self.target.values(), float(root.x[0])
        return CollapsedSolution({mode: m}, {mode: float(errors[0])}, (coefficient - m)**2, residual, point.nodes,
                                 "; ".join(status) or "converged",
                                 precisions=dict(zip(equations.moving, precisions.tolist(), strict=True)),
                                 precision_errors=dict(zip(equations.moving, (precisions * errors[n:]).tolist(),
                                                           strict=True)), spectrum=spectrum)

    def branches(self, input_dim: int, noise: Sequence[float] | None = None, *, samples: Sequence[float] | None = None,
                 width: int | None = None, nodes: int = NODES // 4, shifts: int = SHIFTS, seed: int = 0) -> Branches:
        """All solutions at some noises s/P (or numbers of samples), the spinodals, and which solutions are stable.

        The curve of solutions is followed from large noise through its folds (:mod:`.population.branches`).  In place
        of a free energy the dataset has ``growth``, the largest real part of the eigenvalues of the Jacobian of the map
        (ln κ, ln λ) → (ln F, ln Λ), below 1 where iterations with small steps return to the solution; and ``spectrum``,
        κ by class.  ``transition`` is None, since no two solutions can be weighed.

        Raises
        ------
        BadInput
            If a precision runs away.
        NotConverged
            If the curve is lost; too few effective nodes, or folds within their errors, are said in ``status``.
        """
        noises = ridges(self.network, noise, samples, width)
        equations, _ = self._equations(input_dim, noises[0], None, width, nodes, shifts, seed)
        found = followed(equations, noises)
        spectrum = np.exp(found.dataset.order_parameters.values[..., 1:])
        dataset = found.dataset.drop_vars(["order_parameters", "order_parameters_mcse", "mode"])
        return replace(found, dataset=dataset.assign(spectrum=(("branch", "noise", "class"), spectrum)).assign_coords(
            {"class": [f"{i},{j}" for i, j in equations.unknown]}))


__all__ = ["CollapsedARDPopulation"]
