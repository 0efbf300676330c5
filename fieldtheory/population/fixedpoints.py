"""Solutions of equations that are no gradient, followed through their folds: fixed points of a map.

What differs from a free energy (:mod:`.population.branches`): the Jacobian is not symmetric, so that a fold is read
with its left null vector; stability is that of the map; and no two solutions can be weighed against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp

import numpy as np

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.population.base import standard_error
from fieldtheory.population.branches import WEIGHT, Branches, Follower, Root, Spinodal, branches
from fieldtheory.population.selection import JointEquations
from fieldtheory.population.settled import SettledEquations

Array = np.ndarray

NEAR = 0.05
"""Gap below which Newton's method is tried."""
FIRST, LAST = 0.5, 20.0
"""Steps in time of the flow to a solution: the longest is short beside the times in which an unstable one is left."""
SAME = 1e-5
"""How far ln κ and ln λ from two starts may differ if they are the same solution."""
CLOSE = 0.5
"""How far in ln λ Newton's method may lead from there."""


class FixedPoints(Follower):
    """Newton steps and continuation of fixed points of (κ, λ) → (F, Λ)."""

    landscape: JointEquations | SettledEquations  # type: ignore[assignment]

    def __init__(self, equations: JointEquations | SettledEquations) -> None:
        super().__init__(equations)  # type: ignore[arg-type]

    @property
    def _metric(self) -> Array:
        spectrum = len(self.landscape.unknown)
        return np.r_[np.full(self.outputs, WEIGHT**2), np.full(spectrum, 1 / max(spectrum, 1)),
                     np.ones(self.size + 1 - self.orders)]

    def newton(self, x: Array, noise: float, *, tolerance: float = 1e-9, steps: int = 30) -> Root | None:
        try:
            return super().newton(x, noise, tolerance=tolerance, steps=steps)
        except NotConverged:  # where the nodes do not reach
            return None

    def correct(self, guess: Array, tangent: Array, tolerance: float = 1e-6) -> Root | None:
        try:
            return super().correct(guess, tangent, tolerance)
        except NotConverged:
            return None

    def settle(self, x: Array, noise: float, rounds: int = 200) -> Root:
        """From afar along the flow dx/dt = gap, by implicit steps, until Newton's method takes over.

        Raises
        ------
        NotConverged
            If it does not.
        """
        time, last = FIRST, np.inf
        for _ in range(rounds):
            point = self.landscape.at(x, noise)
            size = float(np.abs(point.slope).max())
            time = min(1.5 * time, LAST) if size < 2 * last else max(time / 2, FIRST)
            last = size
            move = np.linalg.solve(np.eye(len(x)) / time - point.curvature, point.slope)
            x = x + move * min(1.0, 1 / float(np.abs(move).max()))
            self.check(x)
            if size < NEAR:
                found = self.newton(x, noise)
                if found is not None and found.stable and np.abs((found.x - x)[self.orders:]).max() < CLOSE:
                    return found
        raise NotConverged("no solution was found from this start", last)

    def spinodal(self, root: Root) -> Spinodal:
        """The noise at a fold; with u G_x = 0 a shift of the nodes moves it by -u·δG/u·∂_σG."""
        left, _, _ = np.linalg.svd(root.point.curvature)
        null = left[:, -1]
        moves = -(root.point.slopes @ null) / float(root.point.mixed @ null)
        noise = exp(root.noise)
        error = noise * float(standard_error(moves))
        return Spinodal(noise, error, float(root.x[self.landscape.leading]),
                        dict(zip(self.landscape.moving, np.exp(root.x[self.orders:]).tolist(), strict=True)))

    def start(self, noise: float, start: Array | str | None) -> tuple[Root, Root | None]:
        """The solution from a start; without one that from large noise and, where it differs, the planted one."""
        if isinstance(start, np.ndarray):
            root = self.newton(start, noise)
            moved = np.inf if root is None else float(np.abs((root.x - start)[self.outputs:]).max())
            near = root is not None and root.stable and moved < 1.0
            return (root if near else self.settle(start, noise)), None  # type: ignore[return-value]
        if start not in ("prior", "planted", None):
            raise BadInput("start", start, "'prior', 'planted', a solution, or None for both")
        if start == "planted":
            return self.settle(self.landscape.planted(noise), noise), None
        root = self.lazy(noise)
        if start == "prior":
            return root, None
        other = self.settle(self.landscape.planted(noise), noise)
        return root, other if np.abs((other.x - root.x)[self.outputs:]).max() > SAME else None

    @property
    def outputs(self) -> int:
        """How many of the unknowns are outputs, the first."""
        return self.orders - len(self.landscape.unknown)

    def transition(self, sections: Sequence[Sequence[Root]]) -> None:
        """There is none: no bound of ln Z is known whose stationary points these solutions are."""


def followed(equations: JointEquations | SettledEquations, noises: Sequence[float]) -> Branches:
    """All branches, with what stability is read from in place of the free energy."""
    found = branches(equations, noises, equations.few, FixedPoints)  # type: ignore[arg-type]
    dataset = found.dataset
    orders, precision = dataset.order_parameters.values, dataset.precision.values
    growth = np.full(orders.shape[:2], np.nan)
    for at in zip(*np.nonzero(~np.isnan(dataset.m.values)), strict=True):
        x = np.r_[orders[at], np.log(precision[at])]
        growth[at] = equations.at(x, float(np.log(dataset.noise.values[at[1]]))).growth
    return replace(found, dataset=dataset.drop_vars("free_energy").assign(growth=(("branch", "noise"), growth)),
                   curve=found.curve.drop_vars(["free_energy", "noise_slope"]))


__all__ = ["FixedPoints", "followed"]
