r"""The mean precisions under Gaussian inputs, with the others' kernel solved for at each of them.

At given precisions the kernel is that of a fixed prior, C = F(C; λ), with one solution; what is left is one equation
λ = Λ(⟨w²⟩) for each class of inputs.  Nodes are a lattice with weights of the prior, of which e^{-(λ-λ_0)w²/2} makes
those of any λ: averages of w² on it err by little, and no virial theorem is needed.  Equations are those averaged over
the random shifts, each with a kernel of its own, so that the shifts give the errors; derivatives by ln λ and ln s are
differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp

import numpy as np

from fieldtheory.compile import Kernel
from fieldtheory.errors import NotConverged
from fieldtheory.population.blocks import BlockEquations, BlockKernels
from fieldtheory.population.eigenvalues import given
from fieldtheory.population.sectors import Basis, Batch
from fieldtheory.population.selection import PLANTED, JointPoint

Array = np.ndarray

STEP = 1e-5
"""Of ln λ and ln s, for derivatives; kernels are solved to 1e-10."""


class SettledEquations:
    """The gaps of the output in the target's modes and of ln λ, as a function of x = (m…, ln λ…) and ln s.

    It stands where a landscape of a free energy does in :class:`.population.branches.Follower`.
    """

    unknown: tuple[()] = ()
    few = 30.0
    """Effective nodes below which a result is not trusted: a lattice errs by 1e-8 at twice as many."""

    def __init__(self, kernels: BlockKernels, update: Kernel, basis: Basis, batches: Sequence[Batch], target: Array,
                 places: Sequence[int], counts: Mapping[str, float], values: Mapping[str, float], prior: float,
                 modes: Sequence[str], degree: int) -> None:
        self.kernels, self.update, self.basis, self.batches = kernels, update, basis, list(batches)
        self.values, self.prior, self.whole_target = dict(values), prior, target
        self.places, self.target = list(places), target[list(places)]
        self.moving, self.counts = tuple(counts), np.array(list(counts.values()))
        self.modes, self.orders, self.degree = list(modes), len(self.places), degree
        self.leading = int(np.argmax(np.abs(self.target)))
        points = [batch.nodes.points for batch in batches]
        self.squares = [np.column_stack([(one.size[:, None] * one.cosines)**2, (one.size * one.rest)**2])
                        for one in points]
        self.kernel_of: list[Array | None] = [None] * len(self.batches)
        self._jacobians: list[Array | None] = [None] * len(self.batches)

    def learned(self, x: Array) -> float:
        return float(self.target @ x[:self.orders] / (self.target @ self.target))

    def left_out(self, x: Array, noise: float) -> tuple[float, list[str]]:
        """The largest eigenvalue of the kernel in modes that are not kept, in units of the noise, and what a status
        says of it."""
        batch, equations, C = self.solved(0, np.exp(x[self.orders:]), noise)
        remainder = equations.remainder(batch, C)
        return remainder, equations.truncation(remainder, self.degree)

    @property
    def lazy(self) -> Array:
        """The prior."""
        self.kernel_of = [None] * len(self.batches)
        return self.state({})

    def state(self, precisions: Mapping[str, float], share: float = 0.0) -> Array:
        """x where a share of the target is learned, at some precisions (or those of the prior)."""
        return np.r_[share * self.target, np.log([precisions.get(name, self.prior) for name in self.moving])]

    def planted(self, noise: float) -> Array:
        """A start that has learned: cheap relevant inputs, and a kernel that holds the target."""
        precisions = {name: PLANTED["rest" if name == "rest" else "relevant"] * self.prior for name in self.moving}
        x = self.state(precisions, PLANTED["m"])
        equations = self.at_noise(noise)
        for i in range(len(self.batches)):
            batch = self.weighted(i, np.exp(x[self.orders:]))
            self.kernel_of[i] = equations.start(batch, True)
        return x

    def at_noise(self, noise: float) -> BlockEquations:
        return BlockEquations(self.kernels, {**self.values, "s": exp(noise)}, self.basis, self.whole_target)

    def weighted(self, shift: int, precision: Array) -> Batch:
        """The nodes of one shift with the weights of a law with other precisions."""
        batch = self.batches[shift]
        return replace(batch, weights=batch.weights * np.exp(-self.squares[shift] @ (precision - self.prior) / 2))

    def solved(self, shift: int, precision: Array, noise: float,
               keep: bool = False) -> tuple[Batch, BlockEquations, Array]:
        """The kernel at given precisions on the nodes of one shift."""
        batch, equations = self.weighted(shift, precision), self.at_noise(noise)
        known, jacobian = self.kernel_of[shift], self._jacobians[shift]
        root = None if known is None else equations.root(batch, known, jacobian)
        if root is None or not root.converged:
            root = equations.settled(batch, known is not None)  # type: ignore[arg-type]
        if not root.converged:
            raise NotConverged("the others' kernel was not found at given precisions", float(precision.min()))
        if keep:
            self.kernel_of[shift], self._jacobians[shift] = root.kappa, root.jacobian
        return batch, equations, root.kappa

    def _images(self, logs: Array, noise: float, keep: bool = False) -> tuple[Array, float]:
        """(m…, ln Λ…) of each shift, and the fewest effective nodes."""
        found, effective = [], np.inf
        for shift, squares in enumerate(self.squares):
            batch, equations, C = self.solved(shift, np.exp(logs), noise, keep)
            law = equations.law(batch, C)
            moments = law.weights @ squares / self.counts
            values = [float(self.update(**given(self.update, {**self.values, "moment": float(v)}))["precision"])
                      for v in moments]
            found.append(np.r_[equations.output(batch, C)[self.places], np.log(values)])
            effective = min(effective, law.effective)
        return np.array(found), float(effective)

    def at(self, x: Array, noise: float) -> JointPoint:
        """The gaps and their derivatives."""
        n, logs = self.orders, x[self.orders:]
        images, effective = self._images(logs, noise, keep=True)
        mean = images.mean(axis=0)
        curvature = -np.eye(len(x))
        for c in range(len(logs)):
            moved = logs + STEP * (np.arange(len(logs)) == c)
            curvature[:, n + c] += (self._images(moved, noise)[0].mean(axis=0) - mean) / STEP
        mixed = (self._images(logs, noise + STEP)[0].mean(axis=0) - mean) / STEP
        return JointPoint(mean - x, images - x, curvature, mixed, effective, mean[:n], outputs=n)


__all__ = ["SettledEquations"]
