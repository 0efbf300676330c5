"""Nodes over the law of one site under Gaussian inputs: |w| and the cosines with the relevant directions.

Rotations that leave the directions alone are a symmetry, so that nodes are d components along the directions and the
norm of the rest.  A flip of one component is a symmetry as well where all modes kept have the same parity in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import sqrt
from typing import Any

import numpy as np
import scipy.stats
import sympy as sp

from fieldtheory.population.modes import Mode
from fieldtheory.symbolic.bases import directional_overlap
from fieldtheory.symbolic.fields import Entry, Space

Array = np.ndarray


def overlaps(activation: sp.Expr, variable: sp.Symbol, modes: Mapping[Mode, Entry],
             node: Space) -> dict[Entry, sp.Expr]:
    """J of each mode in r = |w|, the cosines tau_a, rho2 = 1 - Σ τ_a², and the dimension of what is perpendicular."""
    count = len(next(iter(modes)).orders)
    r = Entry("r", "positive", (node,))
    cosines = [Entry(f"tau_{a}", "data", (node,)) for a in range(count)]
    rest, dimension = Entry("rho2", "data", (node,)), sp.Symbol("n_perp", positive=True)
    return {entry: directional_overlap(activation, variable, mode.orders, mode.pairs, r, cosines, rest, dimension)
            for mode, entry in modes.items()}


def draw(modes: tuple[Mode, ...], D: int, variance: float, points: Any, count: int) -> dict[str, Any]:
    """Weights W of the prior on nodes, and what :func:`overlaps` is written in; ``points``: (number, axes) -> (0, 1).

    Every component along a direction, and the norm of the rest, is drawn from the prior or evenly from a range that
    neurons which have specialised stay in.
    """
    d, scale = len(modes[0].orders), sqrt(D)
    mixed = [len({mode.orders[a] % 2 for mode in modes}) > 1 for a in range(d)]
    signs = [np.array(sign) for sign in product(*((1.0, -1.0) if both else (1.0,) for both in mixed))]
    u = points(max(count // len(signs), 16), d + 1)
    along = [_half_even(u[:, a], scipy.stats.halfnorm(), 0.0, 2 * scale) for a in range(d)]
    rest, weights = _half_even(u[:, d], scipy.stats.chi(D - d), 0.2 * scale, 1.2 * scale)
    weights = weights * np.prod([weight for _, weight in along], axis=0) / (len(u) * len(signs))
    first = np.concatenate([np.stack([x for x, _ in along], axis=1) * sign for sign in signs])
    rest = np.tile(rest, len(signs))
    radius = np.sqrt((first**2).sum(axis=1) + rest**2)
    found = {f"tau_{a}": first[:, a] / radius for a in range(d)}
    return {"W": np.tile(weights, len(signs)), "r": radius * sqrt(variance / D), "rho2": (rest / radius)**2,
            "n_perp": float(D - d), **found}


def _half_even(u: Array, law: Any, low: float, high: float) -> tuple[Array, Array]:
    """Points of which one half follow a law and one half are even between two numbers; weights for the law."""
    x = np.where(u < 0.5, law.ppf(np.minimum(2 * u, 1 - 1e-15)), low + (high - low) * (2 * u - 1))
    density = law.pdf(x)
    even = np.where((x >= low) & (x <= high), 1 / (high - low), 0.0)
    return x, density / (density / 2 + even / 2)


__all__ = ["draw", "overlaps"]
