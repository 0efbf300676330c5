"""Nodes over the law of one site, reduced by symmetry, and averages over the inputs on them.

Nodes are low-discrepancy points of a mixture of laws, with weights for the prior.  On the hypercube the prior and
every average squared are symmetric under sign flips of a weight, so that one orthant is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import scipy.special
import sympy as sp

from fieldtheory.compile import Kernel, compile_kernel
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.network import Network
from fieldtheory.population import directions
from fieldtheory.population.arguments import check_dimension, check_nodes, ridge
from fieldtheory.population.modes import Mode
from fieldtheory.symbolic.averages import GaussianAverage, average
from fieldtheory.symbolic.bases import InputAverage
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on
from fieldtheory.symbolic.sites import unbundle

Array = np.ndarray

EXACT = 10
"""Inputs up to which every corner of the hypercube is summed."""

NODE = Space("node", sp.Symbol("N_node", positive=True))
CORNER = Space("corner", sp.Symbol("N_corner", positive=True))
QUADRATURE = Space("quadrature", sp.Symbol("N_quadrature", positive=True))
U = sp.Symbol("u", real=True)
"""The pre-activation in an activation."""
FIELD = Entry("G", "data", (NODE,))
"""What a site sees of the target and the output, Σ_n (y_n - c m_n) J_n."""


@dataclass(frozen=True)
class Nodes:
    """Nodes of one shift: weights W of the prior, and everything that the action needs there."""

    arrays: dict[str, Array]

    def given(self, kernel: Kernel, values: Mapping[str, float]) -> dict[str, Any]:
        """The arguments of a kernel, as far as they are known here."""
        known = {**values, **self.arrays}
        return {name: known[name] for name in kernel.arguments if name in known}


class Features:
    """Averages over the inputs on nodes, compiled from the activation."""

    def __init__(self, activation: sp.Expr, law: str, overlaps: Mapping[Mode, Entry],
                 averages: Mapping[InputAverage, Entry]) -> None:
        self.activation, self.cube = activation, law == "hypercube"
        self.overlaps, self.averages, self.modes = dict(overlaps), dict(averages), tuple(overlaps)
        self._kernels: dict[Any, Kernel] = {}
        self._drawn: dict[Any, list[Nodes]] = {}

    def nodes(self, D: int, variance: float, relevant_only: bool | None, count: int, shifts: int,
              seed: int) -> list[Nodes]:
        orders = self.modes[0].orders
        least = max(orders[0], 1) if self.cube else len(orders) + 1
        check_dimension(D, least)
        check_nodes(count, shifts, seed)
        only = D > EXACT if relevant_only is None else bool(relevant_only)
        key = (D, variance, only, count, shifts, seed)
        if key not in self._drawn:
            rng = np.random.default_rng(seed)
            make = self._parity if self.cube else self._direction
            self._drawn = {key: [make(D, variance, only, count, rng) for _ in range(shifts)]}  # the last only
        return self._drawn[key]

    # ------------------------------------------------------------------------------------------- hypercube

    def _parity(self, D: int, variance: float, only: bool, count: int, rng: np.random.Generator) -> Nodes:
        """Weights in one orthant; a mixture of the prior and of laws centred at ω on the relevant inputs."""
        (k,) = self.modes[0].orders
        kept = k if only else D
        rest = D - k
        return self.on_cube(D, variance, *orthant(components(k, D), k, kept - k, rest, count, rng))

    def on_cube(self, D: int, variance: float, nodes: Array, norms: Array, weights: Array) -> Nodes:
        """Averages at weights in units of the prior's deviation, those of the parity first: all, or the norm of the
        rest."""
        (k,), kept = self.modes[0].orders, nodes.shape[1]
        radial = kept < D
        unit = sqrt(variance / D)
        signs = np.where((np.arange(2**kept)[:, None] >> np.arange(kept)) & 1, -1.0, 1.0)
        kernel = self._cube_kernel(radial)
        h: Array = (nodes * unit) @ signs.T
        one, chi = np.full(2**kept, 0.5**kept), signs[:, :k].prod(axis=1)
        if radial and "rho" not in kernel.arguments:  # no closed form: every corner with nodes of the rest
            z, q = _FEW_HERMITE
            h = (h[:, :, None] + unit * norms[:, None, None] * z).reshape(len(h), -1)
            one, chi = np.outer(one, q).ravel(), np.repeat(chi, len(z))
        given: dict[str, Any] = {"h": h, "one": one, "chi": chi * one, "rho": norms * unit}
        found = kernel(**{name: given[name] for name in kernel.arguments})
        whole = nodes**2
        powers = {f"Q_{p}": unit**p * (nodes**p).sum(axis=1) for p in range(3, 9)}
        powers["Q_2"] = unit**2 * (whole.sum(axis=1) + norms**2)
        return Nodes({"W": weights, **powers, **found})

    def _cube_kernel(self, radial: bool) -> Kernel:
        if radial not in self._kernels:
            h = Entry("h", "data", (NODE, CORNER))
            rho = Entry("rho", "positive", (NODE,))
            chi, one = Entry("chi", "data", (CORNER,)), Entry("one", "data", (CORNER,))
            functions = {entry.name: (chi, self.activation) for entry in self.overlaps.values()}
            functions |= {entry.name: (one, _of_one(node)) for node, entry in self.averages.items()}
            means = {name: smoothed(f, rho) for name, (_, f) in functions.items()} if radial else {}
            if None in means.values():
                means = {}
            outputs = {name: SpaceSum(weight * (means.get(name) or f).xreplace({U: h}), CORNER)
                       for name, (weight, f) in functions.items()}
            self._kernels[radial] = _compiled(outputs)
        return self._kernels[radial]

    # ------------------------------------------------------------------------------------ Gaussian inputs

    def _direction(self, D: int, variance: float, only: bool, count: int, rng: np.random.Generator) -> Nodes:
        """|w| and the cosines with the relevant directions."""
        return self.on_directions(directions.draw(self.modes, D, variance, partial(_points, rng=rng), count))

    def on_directions(self, drawn: Mapping[str, Any]) -> Nodes:
        """Averages at weights given as :func:`.directions.draw` gives them."""
        kernel = self._radial_kernel()
        given = {**drawn, "z": _HERMITE[0], "q": _HERMITE[1]}
        found = kernel(**{name: given[name] for name in kernel.arguments})
        return Nodes({**drawn, "Q_2": drawn["r"]**2, **found})

    def _radial_kernel(self) -> Kernel:
        if "radial" not in self._kernels:
            r = Entry("r", "positive", (NODE,))
            outputs = {entry.name: _closed(expr, r) for entry, expr in
                       directions.overlaps(self.activation, U, self.overlaps, NODE).items()}
            for node, entry in self.averages.items():
                outputs[entry.name] = _closed(average(_of_one(node), [U], [[r**2]]), r)
            self._kernels["radial"] = _compiled(outputs)
        return self._kernels["radial"]


def _hermite(count: int) -> tuple[Array, Array]:
    nodes, weights = scipy.special.roots_hermitenorm(count)
    return nodes, weights / weights.sum()


_HERMITE, _FEW_HERMITE = _hermite(80), _hermite(24)


def orthant(laws: Sequence[tuple[float, float, float]], k: int, kept: int, rest: int, count: int,
            rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """(weights on k relevant and ``kept`` other inputs, the norm of those not kept, W) for the law N(0, 1) of each.

    Nodes of a mixture of laws in one orthant, of which W corrects; of ``rest`` other inputs all or none are kept.
    """
    radial = rest > kept
    each = max(count // len(laws), 16)
    drawn, scale = [], []
    for omega, width, shrink in laws:
        u = _points(each, k + kept + radial, rng)
        g = scipy.special.ndtri(u[:, :k + kept])
        g[:, :k] = omega + width * g[:, :k]
        g[:, k:] *= shrink
        drawn.append(np.abs(g))
        scale.append(shrink * np.sqrt(2 * scipy.special.gammaincinv(rest / 2, u[:, -1])) if radial else
                     np.zeros(each))
    nodes, norms = np.concatenate(drawn), np.concatenate(scale)
    square = norms**2 if radial else (nodes[:, k:]**2).sum(axis=1)
    first = nodes[:, :k]
    ratios = [(np.logaddexp(-((first - omega) / width)**2 / 2, -((first + omega) / width)**2 / 2)
               + first**2 / 2 - np.log(2 * width)).sum(axis=1)
              - rest * np.log(shrink) - square * (shrink**-2 - 1) / 2 for omega, width, shrink in laws]
    weights = np.exp(-scipy.special.logsumexp(ratios, axis=0)) * len(laws) / len(nodes)
    return nodes, norms, weights


def components(k: int, D: int) -> list[tuple[float, float, float]]:
    """(centre, width) on the k relevant inputs and the scale of the rest, in units of the prior's deviation.

    The prior itself, wide laws, and narrow ones around a neuron that has specialised: how far it grows depends on the
    noise, so all sizes up to |w|² a good deal above the prior's are there.
    """
    far = sqrt(D / k)
    found = {(float(omega), 1.0, 1.0) for omega in np.arange(0.0, far + 1.5)}
    for omega in np.arange(0.5, 1.3 * far + 0.5, 0.5 if far < 3 else far / 6):
        pinned = sqrt(max(1 - k * omega**2 / D, 0.15))
        scales = (0.25, 0.5, 0.8) if D - k <= 16 else (pinned, 0.8 * pinned, 1.0)
        found |= {(float(omega), 0.4, float(scale)) for scale in scales}
    return sorted(found)


def population_values(network: Network, noise: float | None, samples: float | None,
                      width: int | None) -> tuple[dict[str, float], float]:
    """The numbers of the action of one site at noise s/P, or at some samples with the network's; and σ_w²."""
    N = network.resolve_width(width)
    s = ridge(network, noise, samples, width)
    variance = network.weight_variance
    if variance is None:
        raise BadInput("weight_variance", None, "a number (it is still a symbol)")
    return {"N": float(N), "g": network.effective_readout_variance(N), "s": s, "P": 1.0}, float(variance)


def _compiled(outputs: Mapping[str, sp.Expr]) -> Kernel:
    entries = sorted({e for expr in outputs.values() for e in expr.atoms(Entry)}, key=lambda e: e.name)
    scalars = sorted({s for expr in outputs.values() for s in expr.free_symbols}, key=lambda symbol: symbol.name)
    return compile_kernel(outputs, scalars=scalars, entries=entries, name="features")


def _of_one(node: InputAverage) -> sp.Expr:
    """The body of an average as a function of its one pre-activation."""
    found = [total for total in node.body.atoms(SpaceSum) if depends_on(total, node.inputs)]
    if len(found) != 1:
        raise RuleError(f"{node} is not the average of a function of one pre-activation (the population limit is for "
                        "nonlinear activations)")
    (h,) = found
    return unbundle(node.body.xreplace({h: U}))


def smoothed(function: sp.Expr, rho: sp.Expr) -> sp.Expr | None:
    """E_z f(u + ρz) in closed form; None where there is none."""
    z, size = sp.Dummy("z", real=True), sp.Symbol("rho", positive=True)
    found = average(function.xreplace({U: U + size * z}), [z], [[sp.S.One]])
    return None if found.has(GaussianAverage) else found.xreplace({size: rho})


def _closed(expr: sp.Expr, r: Entry) -> sp.Expr:
    """An average over u ~ N(0, r²), by quadrature where it has no closed form."""
    if not expr.has(GaussianAverage):
        return expr
    node, weight = Entry("z", "data", (QUADRATURE,)), Entry("q", "data", (QUADRATURE,))
    table = {found: SpaceSum(weight * found.body.xreplace({found.variables[0]: r * node}), QUADRATURE)
             for found in expr.atoms(GaussianAverage)}
    return expr.xreplace(table)


def _points(count: int, axes: int, rng: np.random.Generator) -> Array:
    """A randomly shifted rank-one sequence with the generalised golden ratio (Roberts), in the open unit cube."""
    root = 2.0
    for _ in range(60):
        root = (1 + root)**(1 / (axes + 1))
    steps = root**-np.arange(1.0, axes + 1)
    found = (rng.random(axes) + np.arange(1, count + 1)[:, None] * steps) % 1.0
    return np.clip(found, 1e-15, 1 - 1e-15)


__all__ = ["EXACT", "NODE", "Features", "Nodes", "U", "components", "population_values", "smoothed"]
