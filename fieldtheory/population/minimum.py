"""The minimum of a convex potential whose domain may be bounded: by bisection, by Newton's method, at the edge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize

from fieldtheory.errors import NotConverged

Array = np.ndarray

EDGE = 1e-12
"""How far from the edge of its domain F is looked at, relative."""
ROUNDS = 60
"""Rounds in which a direction better than the one expected is improved."""


@dataclass(frozen=True)
class At:
    """F and its derivatives at some t; m = y - s t, and the part of it that the law carries; effective nodes.

    ``pull`` is the output of one mode over its J, by node; ``normals`` of the domain are (t·J) J of the directions (by
    column) at which the integral over one site just diverges.
    """

    value: float
    slope: Array
    curvature: Array
    output: Array
    carried: Array
    margin: float
    nodes: float
    pull: Array
    normals: Array

    @property
    def condensed(self) -> bool:
        """Whether some of the output is at the edge of the domain."""
        return self.normals.size > 0

    @property
    def residual(self) -> float:
        """The violation of the optimality conditions on the closed domain (Karush, Kuhn, Tucker)."""
        missing = self.output - self.carried
        if not self.condensed:
            return float(np.abs(missing).max())
        _, violation = scipy.optimize.nnls(self.normals / np.linalg.norm(self.normals, axis=0), missing)
        return float(violation + np.linalg.norm(missing) * abs(self.margin))  # the normals', and how far the edge is


def climbed(best: Array, height: Callable[[Array], Array], folded: Callable[[Array], Array], length: float,
             rng: np.random.Generator) -> Array:
    """The unit vector of the largest height near one, by random trials that come closer."""
    for _ in range(ROUNDS):
        trial = folded(best + length * rng.standard_normal((64, best.shape[1])) * (np.arange(64) > 0)[:, None])
        trial /= np.linalg.norm(trial, axis=1, keepdims=True)
        first = int(np.argmax(height(trial)))
        best, length = trial[first:first + 1], length if first else 0.7 * length
    return best


def bisected(at: Callable[[Array], At], edge: float) -> Array:
    """Where F' vanishes, for one mode; the edge, where F falls up to there."""
    sign = -1.0 if float(at(np.zeros(1)).slope[0]) > 0 else 1.0

    def slope(t: float) -> float:
        return sign * float(at(np.array([sign * t])).slope[0])

    top = edge * (1 - EDGE)
    if not np.isfinite(top):
        top = 1.0
        while slope(top) < 0:
            top *= 2
    elif slope(top) < 0:
        return np.array([sign * top])
    return np.array([sign * scipy.optimize.brentq(slope, 0.0, top, xtol=1e-13 * top, rtol=1e-13)])


def newton(at: Callable[[Array], At], t: Array, limit: int = 200) -> Array:
    """The minimum of a convex function from wherever it is finite, or from zero."""
    here = at(t)
    if not np.isfinite(here.value):
        t, here = np.zeros_like(t), at(np.zeros_like(t))
    for _ in range(limit):
        try:
            step = -np.linalg.solve(here.curvature, here.slope)
        except np.linalg.LinAlgError:
            raise NotConverged("the curvature of the potential has no inverse in floating-point numbers",
                               float(np.abs(here.slope).max())) from None
        decrease, length = float(here.slope @ step), 1.0
        slack = 1e-13 * max(abs(here.value), 1.0)
        if np.linalg.norm(step) < 1e-13 * np.linalg.norm(t):
            return t
        while not (new := at(t + length * step)).value <= here.value + 1e-4 * length * decrease + slack:
            length /= 2
            if length < 1e-12:
                return t
        t, here = t + length * step, new
    raise NotConverged("the minimum of the potential was not found", float(np.linalg.norm(here.slope)))


__all__ = ["EDGE", "At", "bisected", "climbed", "newton"]
