"""Nodes over the law of one site under Gaussian inputs: |w| and the cosines with the relevant directions.

Rotations that leave the directions alone are a symmetry, so that nodes are d components along the directions and the
norm of the rest.  A flip of one component is a symmetry as well where all modes kept have the same parity in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    signs = _signs(modes)
    u = points(max(count // len(signs), 16), d + 1)
    far = scipy.stats.uniform(0.0, 2 * scale)
    along = [_mixture(u[:, a], (scipy.stats.halfnorm(), far)) for a in range(d)]
    rest, weights = _mixture(u[:, d], (scipy.stats.chi(D - d), scipy.stats.uniform(0.2 * scale, scale)))
    weights = weights * np.prod([weight for _, weight in along], axis=0) / (len(u) * len(signs))
    first = np.concatenate([np.stack([x for x, _ in along], axis=1) * sign for sign in signs])
    rest = np.tile(rest, len(signs))
    radius = np.sqrt((first**2).sum(axis=1) + rest**2)
    found = {f"tau_{a}": first[:, a] / radius for a in range(d)}
    return {"W": np.tile(weights, len(signs)), "r": radius * sqrt(variance / D), "rho2": (rest / radius)**2,
            "n_perp": float(D - d), **found}


def whitened(modes: tuple[Mode, ...], D: int, points: Any, count: int) -> tuple[Array, Array, Array]:
    """(W, the components u_a along the directions by row, the norm of the rest) for the law N(0, 1) of each weight.

    Where the precisions follow the weights, ⟨u²⟩ stays near one, so that a neuron which stands out has a few times
    that; under a fixed prior up to √D.  What is perpendicular shrinks where neurons specialise.
    """
    d, scale = len(modes[0].orders), sqrt(D)
    signs = _signs(modes)
    u = points(max(count // len(signs), 16), d + 1)
    near, far = scipy.stats.uniform(0.0, min(6.0, 2 * scale)), scipy.stats.uniform(0.0, 2 * scale)
    drawn = [_mixture(u[:, a], (scipy.stats.halfnorm(), near, far)) for a in range(d)]
    law = scipy.stats.chi(D - d)
    shrunk = [scipy.stats.chi(D - d, scale=shrink) for shrink in (0.85, 0.65)]
    rest, weights = _mixture(u[:, d], (law, *shrunk, scipy.stats.uniform(0.1 * scale, 1.2 * scale)))
    weights = weights * np.prod([weight for _, weight in drawn], axis=0)
    along = np.concatenate([np.stack([x for x, _ in drawn]) * sign[:, None] for sign in signs], axis=1)
    return np.tile(weights, len(signs)), along, np.tile(rest, len(signs))


def _signs(modes: tuple[Mode, ...]) -> list[Array]:
    """Orthants that are not related by a symmetry: a flip is one where all modes have the same parity in it."""
    mixed = [len({mode.orders[a] % 2 for mode in modes}) > 1 for a in range(len(modes[0].orders))]
    return [np.array(sign) for sign in product(*((1.0, -1.0) if both else (1.0,) for both in mixed))]


def _mixture(u: Array, laws: Sequence[Any]) -> tuple[Array, Array]:
    """Points of which as many follow each of some laws, from evenly spread ones; weights for the first law."""
    part = np.minimum((len(laws) * u).astype(int), len(laws) - 1)
    within = np.clip(len(laws) * u - part, 1e-15, 1 - 1e-15)
    x = np.empty_like(u)
    for k, law in enumerate(laws):
        x[part == k] = law.ppf(within[part == k])
    densities = np.array([law.pdf(x) for law in laws])
    return x, densities[0] / densities.mean(axis=0)


__all__ = ["draw", "overlaps", "whitened"]
