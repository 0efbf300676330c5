r"""The eigenvalues of the others' kernel and the mean precisions of the inputs: their joint equations on nodes.

By permutations of the inputs there is one eigenvalue κ for each class of parities, and one mean precision λ for the
inputs of the parity (``relevant``) and one for the others (``rest``).  All are averages over the law of one site,

    κ = F(κ, λ; s),    λ = Λ(⟨Σw²⟩),

a reweighting of one set of nodes: λ enters by e^{-(λ-λ_0)Σw²/2}.  Where nothing is learned ⟨Σw²⟩ = n/λ whatever λ is,
and an error of the nodes would move λ by many times itself.  The virial theorem puts ⟨Σ(1 - w ∂t/∂w)⟩/λ in its place,
with t what the action of one site adds to its prior: no error is left where t does not depend on w.  It takes the
change of every overlap as the weights of a class of inputs grow, one more Walsh transform for each class.

All derivatives are exact, as averages and covariances over the nodes, so that Newton's method and the continuation of
:mod:`.population.branches` apply.  The equations are no gradient: stability is that of the map (κ, λ) → (F, Λ).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb, exp, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from fieldtheory.compile import Kernel
from fieldtheory.errors import NotConverged
from fieldtheory.population.base import FEW
from fieldtheory.population.eigenvalues import CLASS, classes, compiled, corners, given, reweighted, walsh
from fieldtheory.population.nodes import NODE, U, orthant
from fieldtheory.population.whitened import continuous
from fieldtheory.symbolic.fields import Entry
from fieldtheory.symbolic.siteclosure import SiteClosure

if TYPE_CHECKING:
    from fieldtheory.population.collapsed_ard import CollapsedARDPopulation

Array = np.ndarray

INPUTS = ("relevant", "rest")
"""Inputs of the parity, and all others."""
PLANTED = {"m": 0.9, "relevant": 0.2, "rest": 1.3}
"""Where a solution that has learned is looked for: share of the target, and precisions in units of the prior's."""
_NONE = np.zeros((0, 0))
WIDE = 3.0
"""Deviation of the relevant inputs in the law that nodes have weights of, in units of the prior's: their weights grow,
and weights of the prior itself would underflow."""
UNSEEN = 1e-12
"""Eigenvalue of the prior, relative to the largest, that is rounding."""


@dataclass(frozen=True)
class JointPoint:
    """What the equations give at some x = (m, ln κ…, ln λ…) and ln s.

    ``slope`` are the gaps ⟨f⟩ - m, ln F - ln κ, ln Λ - ln λ and ``slopes`` those of each random shift; ``curvature``
    and ``mixed`` are the derivatives of the gaps by x and ln s; ``right_side`` is what m and ln κ equal at a solution.
    There is no free energy: ``value``, ``values`` and ``noise_slope`` are not numbers.  ``outputs`` are those of x that
    the equations of the others do not depend on.
    """

    slope: Array
    slopes: Array
    curvature: Array
    mixed: Array
    nodes: float
    right_side: Array
    value: float = float("nan")
    values: float = float("nan")
    noise_slope: float = float("nan")
    outputs: int = 1

    @property
    def orders(self) -> int:
        return len(self.right_side)

    @property
    def growth(self) -> float:
        """The largest real part of the eigenvalues of the Jacobian of (ln κ, ln λ) → (ln F, ln Λ)."""
        return float(np.linalg.eigvals(self.curvature[self.outputs:, self.outputs:]).real.max()) + 1

    @property
    def stable(self) -> bool:
        """Whether the map, damped, returns to the solution."""
        return self.growth < 1


class JointKernels:
    """What the law of one site and the update of the precisions are compiled to."""

    def __init__(self, theory: CollapsedARDPopulation) -> None:
        found, weights, self.scale = theory._lowered
        self.sums = [entry.name for entry in weights]
        self.noise, self.eigenvalue = sp.Symbol("s", positive=True), sp.Symbol("kappa_S", nonnegative=True)
        overlap = Entry("J", "data", (NODE,))
        growths = {entry: Entry(f"d{entry.name}", "data", (NODE,)) for entry in (overlap, *weights)}
        excess = sp.Add(*(_by(found["tilt"], entry) * growth for entry, growth in growths.items()))
        self.nodes = self._with_slopes({"tilt": found["tilt"], "output": found["output"]}, list(weights), "joint")
        self.excess = self._with_slopes({"excess": excess}, [*weights, *(growths[entry] for entry in weights)],
                                        "excess")
        spectrum = Entry("kappa", "spectrum", (CLASS,))
        per_class: dict[str, sp.Expr] = {}
        for entry, weight in weights.items():
            per_class |= {entry.name: weight, f"slope_{entry.name}": _by(weight, spectrum),
                          f"noise_{entry.name}": self.noise * sp.diff(weight, self.noise)}
        self.classes = compiled(per_class, "classes")
        slope = continuous(sp.diff(theory.activation, U))
        self.slope = compiled({"slope": slope.xreplace({U: Entry("h", "data", (NODE,))})}, "slope")
        self.update = update_of(theory.closure)

    def _with_slopes(self, outputs: Mapping[str, sp.Expr], entries: list[Entry], name: str) -> Kernel:
        """Expressions on the nodes with their derivatives by ln s at fixed κ, by κ_S, and by sums over the modes."""
        found: dict[str, sp.Expr] = {}
        for label, expr in outputs.items():
            found[label] = expr
            found[f"{label}_by_s"] = sp.factor(self.noise * sp.diff(expr, self.noise))
            found[f"{label}_by_S"] = sp.factor(sp.diff(expr, self.eigenvalue))
            found |= {f"{label}_by_{entry.name}": sp.factor(_by(expr, entry)) for entry in entries}
        return compiled(found, name)


def update_of(closure: SiteClosure) -> Kernel:
    """A mean precision as a function of ⟨w²⟩ (``moment``), and its derivative, from what `hyperprior` found."""
    moment = sp.Symbol("moment", positive=True)
    (law,) = closure.shared.values()  # λ from an average of the square of one field, times a number
    precision = law.precision.xreplace({law.parameter: law.number * moment})
    return compiled({"precision": precision, "slope": sp.diff(precision, moment)}, "precisions")


def _by(expr: sp.Expr, entry: Entry) -> sp.Expr:
    dummy = sp.Dummy(real=True)
    return sp.diff(expr.xreplace({entry: dummy}), dummy).xreplace({dummy: entry})


@dataclass(frozen=True)
class GrownNodes:
    """Nodes of all shifts, one after the other: their weights, Σw² of each class of inputs, the overlap with the target
    and Σ J_T² over each class of parities, and how these grow with the weights of each class of inputs.

    The weights are those of Gaussian laws with the ``precisions`` of each class.
    """

    shifts: int
    precisions: Array
    weights: Array
    squares: Array
    overlap: Array
    powers: Array
    overlap_growth: Array
    powers_growth: Array

    @classmethod
    def draw(cls, theory: CollapsedARDPopulation, D: int, variance: float, count: int, shifts: int, seed: int,
             slope: Kernel) -> GrownNodes:
        k, rng = theory.order, np.random.default_rng(seed)
        labels = classes(D, k)
        order = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[order], np.arange((k + 1) * (D - k + 1)))
        signs, unit, target = corners(D), sqrt(variance / D), 2**k - 1
        inputs = (slice(0, k), slice(k, D))[:1 if k == D else 2]
        rows: list[tuple[Array, ...]] = []
        for _ in range(shifts):
            w, _, weights = orthant(components(k, D), k, D - k, D - k, count, rng)
            w[:, :k] *= WIDE
            squares = np.stack([unit**2 * (w[:, i]**2).sum(axis=1) for i in inputs], axis=1)
            for part in np.array_split(np.arange(len(w)), max(1, len(w) * 2**D // 2**21)):
                J = theory.overlaps(w[part], variance)
                shares = [unit * w[part, i] @ signs[:, i].T for i in inputs]
                slopes = slope(h=sum(shares).ravel())["slope"]  # type: ignore[union-attr]
                grown = [walsh(np.broadcast_to(slopes, J.size).reshape(J.shape) * share) for share in shares]
                rows.append((weights[part] / weights.sum(), squares[part], J[:, target],
                             np.add.reduceat(J[:, order]**2, starts, axis=1),
                             np.stack([dJ[:, target] for dJ in grown]),
                             np.stack([np.add.reduceat(2 * (J * dJ)[:, order], starts, axis=1) for dJ in grown])))
        columns = list(zip(*rows, strict=True))
        precisions = np.array([WIDE**-2, 1.0])[:len(inputs)] / unit**2
        return cls(shifts, precisions, *(np.concatenate(c) for c in columns[:4]),
                   *(np.concatenate(c, axis=1) for c in columns[4:]))

    def seen(self, keep: Array) -> GrownNodes:
        """With some classes of parities only."""
        return GrownNodes(self.shifts, self.precisions, self.weights, self.squares, self.overlap, self.powers[:, keep],
                          self.overlap_growth, self.powers_growth[:, :, keep])


def components(k: int, D: int) -> list[tuple[float, float, float]]:
    """(centre, width) on the k relevant inputs in units of ``WIDE``, and the scale of the rest.

    Lazy neurons at any precisions, which move by factors of ten and more, and specialised ones of all sizes.
    """
    found = {(0.0, width / WIDE, scale) for width in (0.7, 1.0, 1.5, 2.2, 3.3, 5.0, 8.0)
             for scale in (0.4, 0.6, 0.8, 1.0)}
    for omega in np.geomspace(0.8, 6 * sqrt(D / k) + 1, 10).tolist():
        found |= {(omega / WIDE, max(0.4, 0.25 * omega) / WIDE, scale) for scale in (0.3, 0.5, 0.7, 0.9)}
    return sorted(found)


class JointEquations:
    """The gaps of m, ln κ and ln λ on one set of nodes, as a function of x = (m, ln κ…, ln λ…) and ln s.

    It stands where a landscape of a free energy does in :class:`.population.branches.Follower`.
    """

    few = FEW

    def __init__(self, kernels: JointKernels, nodes: GrownNodes, input_dim: int, order: int, target: float,
                 values: Mapping[str, float], prior: float) -> None:
        self.kernels, self.values, self.prior = kernels, {**values, "D": float(input_dim)}, prior
        self.moving = INPUTS[:nodes.squares.shape[1]]
        self.counts = np.array([order, input_dim - order], dtype=float)[:len(self.moving)]
        self.labels = [(i, j) for i in range(order + 1) for j in range(input_dim - order + 1)]
        sizes = np.array([comb(order, i) * comb(input_dim - order, j) for i, j in self.labels], dtype=float)
        scale: Any = kernels.scale
        number = float(scale.xreplace({symbol: sp.Float(values[symbol.name]) for symbol in scale.free_symbols}))
        weights = nodes.weights * np.exp(nodes.squares @ (nodes.precisions - prior) / 2)
        mean = weights @ nodes.powers / weights.sum()
        seen = mean > UNSEEN * mean.max()
        self.nodes, self.scale = nodes.seen(seen), number / sizes[seen]
        self.spectrum = self.scale * mean[seen]
        self.seen = [label for label, here in zip(self.labels, seen, strict=True) if here]
        self.alone = number == 0  # one neuron has no others
        self.unknown = [] if self.alone else self.seen
        self.place = self.seen.index((order, 0))
        self.orders, self.leading, self.target = 1 + len(self.unknown), 0, target
        self.modes = ["m", *(f"kappa_{i}_{j}" for i, j in self.unknown)]

    def learned(self, x: Array) -> float:
        return float(x[0] / self.target)

    def left_out(self, x: Array, noise: float) -> tuple[float, list[str]]:
        """Nothing: all parities are kept."""
        return 0.0, []

    @property
    def lazy(self) -> Array:
        """The prior."""
        return np.r_[0.0, np.log(self.spectrum[:len(self.unknown)]), np.full(len(self.moving), np.log(self.prior))]

    def planted(self, noise: float) -> Array:
        """A start that has learned: a large eigenvalue of the target, and cheap relevant inputs."""
        learned = {self.seen[self.place]: max(3 * exp(noise), float(self.spectrum[self.place]))}
        return self.state(PLANTED["m"] * self.target, learned, {name: PLANTED[name] * self.prior for name in INPUTS})

    def state(self, m: float, spectrum: Mapping[tuple[int, int], float], precisions: Mapping[str, float]) -> Array:
        """x of some order parameters; what is not given, or zero, is that of the prior."""
        lazy = np.exp(self.lazy[1:])
        kappa = [spectrum.get(label, 0.0) or at for label, at in zip(self.unknown, lazy, strict=False)]
        precision = [precisions.get(name, self.prior) for name in self.moving]
        return np.r_[m, np.log(kappa), np.log(precision)]

    # ----------------------------------------------------------------------------------------------------

    def gaps(self, x: Array, noise: float) -> Array:
        """⟨f⟩ - m, ln F - ln κ and ln Λ - ln λ."""
        return self._evaluated(x, noise, False).slope

    def at(self, x: Array, noise: float) -> JointPoint:
        """The gaps and their derivatives."""
        return self._evaluated(x, noise, True)

    def _evaluated(self, x: Array, noise: float, derivatives: bool) -> JointPoint:
        n, nodes = self.orders, self.nodes
        precision = np.exp(x[n:])
        kappa = np.zeros(len(self.seen)) if self.alone else np.exp(x[1:n])
        values = {**self.values, "s": exp(noise), "kappa": kappa, "kappa_S": float(kappa[self.place]),
                  "J": nodes.overlap}
        per_class = self.kernels.classes(**given(self.kernels.classes, values))
        values |= {name: nodes.powers @ per_class[name] for name in self.kernels.sums}
        law = self._on_nodes(self.kernels.nodes, values)
        tilt = law["tilt"] + nodes.squares @ ((precision - nodes.precisions) / 2)
        q, effective = reweighted(nodes.weights, tilt)
        parts = [self._on_nodes(self.kernels.excess, {
            **values, "dJ": nodes.overlap_growth[c], **{f"d{name}": nodes.powers_growth[c] @ per_class[name]
                                                        for name in self.kernels.sums}})
            for c in range(len(self.moving))]
        bodies = np.column_stack([law["output"], *([] if self.alone else [nodes.powers]),
                                  *(part["excess"] for part in parts)])
        means = q @ bodies
        by_shift = q.reshape(nodes.shifts, 1, -1)
        shares = (by_shift @ bodies.reshape(nodes.shifts, -1, bodies.shape[1]))[:, 0] / by_shift.sum(axis=2)
        images = np.array([self._image(row, precision)[0] for row in (means, *shares)])
        gaps = images - x
        if not derivatives:
            return JointPoint(gaps[0], gaps[1:], _NONE, _NONE, effective, images[0, :n])

        # ∂⟨b⟩ = ⟨∂b⟩ - Cov(b, ∂t) by x and ln s, then the chain to the logarithms
        moves = np.zeros((len(q), len(x) + 1))
        moves[:, n:-1] = nodes.squares * (precision / 2)
        for slope, powers, name in self._ways(law, "tilt"):
            if not self.alone:
                moves[:, 1:n] += slope[:, None] * powers * (kappa * per_class[f"slope_{name}"])
            moves[:, -1] += slope * (powers @ per_class[f"noise_{name}"])
        if not self.alone:
            moves[:, 1 + self.place] += kappa[self.place] * law["tilt_by_S"]
        moves[:, -1] += law["tilt_by_s"]
        changes = -((bodies * q[:, None]).T @ moves - np.outer(means, q @ moves))
        for row, found, label in ((0, law, "output"), *((n + c, part, "excess") for c, part in enumerate(parts))):
            for slope, powers, name in self._ways(found, label, row - n):
                mean = (q * slope) @ powers
                if not self.alone:
                    changes[row, 1:n] += mean * kappa * per_class[f"slope_{name}"]
                changes[row, -1] += mean @ per_class[f"noise_{name}"]
            if not self.alone:
                changes[row, 1 + self.place] += kappa[self.place] * (q @ found[f"{label}_by_S"])
            changes[row, -1] += q @ found[f"{label}_by_s"]
        _, chain = self._image(means, precision)
        changes[1:n] /= means[1:n, None]
        changes[n:] *= chain[:, None]
        changes[n:, n:-1] += np.diag(chain * (self.counts - means[n:]))
        return JointPoint(gaps[0], gaps[1:], changes[:, :-1] - np.eye(len(x)), changes[:, -1], effective, images[0, :n])

    def _on_nodes(self, kernel: Kernel, values: Mapping[str, Any]) -> dict[str, Array]:
        size = len(self.nodes.weights)
        return {name: np.broadcast_to(v, size) for name, v in kernel(**given(kernel, values)).items()}

    def _image(self, means: Array, precision: Array) -> tuple[Array, Array]:
        """(m, ln F, ln Λ) from averages, and the derivative of ln Λ by the average of the excess."""
        n, update = self.orders, self.kernels.update
        moments = (self.counts - means[n:]) / precision / self.counts
        if not (moments > 0).all():
            raise NotConverged("⟨w²⟩ by the virial theorem is not positive (give more nodes)", float(moments.min()))
        found = [update(**given(update, {**self.values, "moment": float(v)})) for v in moments]
        values, slopes = (np.array([float(f[name]) for f in found]) for name in ("precision", "slope"))
        spectrum = self.scale[:len(self.unknown)] * means[1:n]
        return np.r_[means[0], np.log(spectrum), np.log(values)], -slopes / values / precision / self.counts

    def _ways(self, found: Mapping[str, Array], label: str, growth: int = -1) -> list[tuple[Array, Array, str]]:
        """How a body on the nodes moves with each sum over modes: its slope, and the powers in the sum."""
        ways = [(found[f"{label}_by_{name}"], self.nodes.powers, name) for name in self.kernels.sums]
        if growth >= 0:
            ways += [(found[f"{label}_by_d{name}"], self.nodes.powers_growth[growth], name)
                     for name in self.kernels.sums]
        return ways


__all__ = ["INPUTS", "PLANTED", "GrownNodes", "JointEquations", "JointKernels", "JointPoint", "components", "update_of"]
