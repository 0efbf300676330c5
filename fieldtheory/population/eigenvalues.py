r"""The eigenvalues of the others' kernel by class of parities: κ = F(κ), an average over the law of one site on nodes.

By permutations of the inputs the eigenvalue of a parity χ_T depends on (|T∩S|, |T∖S|) alone, the class of T.  The
kernels that the law of one site is compiled to (:class:`Kernels`) are told apart from how the equations are solved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.compile import Kernel, compile_kernel
from fieldtheory.errors import NotConverged
from fieldtheory.symbolic.fields import Entry, Space

Array = np.ndarray

CLASS = Space("class", sp.Symbol("N_class", positive=True))
STEPS, STRIDE, TOLERANCE = 60, 1.5, 1e-10
"""Newton steps at most, how far ln κ may go in one, and the largest |ln F(κ) - ln κ| of a solution."""
SAME = 1e-5
"""How far solutions from two starts may differ if they are the same."""
FAR, LONGEST, SHORTEST = 4.0, 0.5, 0.01
"""How far in ln(noise) a solution is followed from, and by which steps."""


@dataclass(frozen=True)
class ClassNodes:
    """Nodes of one shift: where, weights of the prior, the overlap with the target, and Σ J_T² over each class."""

    points: Array
    weights: Array
    overlap: Array
    powers: Array


@dataclass(frozen=True)
class Kernels:
    """What the law of one site is compiled to: on nodes, on classes, its medium, and κ_T per Σ J_T²/size.

    ``nodes`` gives tilt, output and (for a medium that is not the mean) share, and derivatives of tilt and share by
    the ``sums`` over modes and by κ_S; ``classes`` the weight of a class in each sum, and its derivative.
    """

    nodes: Kernel
    classes: Kernel
    medium: Kernel | None
    sums: list[str]
    scale: sp.Expr


@dataclass(frozen=True)
class Law:
    """What the law of one site gives at some eigenvalues: F(κ), ∂F/∂κ, the output, effective nodes."""

    image: Array
    jacobian: Array | None
    output: float
    effective: float


@dataclass(frozen=True)
class Root:
    """Eigenvalues, the Jacobian of ln F by ln κ that was used last, and whether ln F = ln κ."""

    kappa: Array
    jacobian: Array
    converged: bool


class Equations:
    """κ = F(κ) for all classes, at one noise."""

    def __init__(self, kernels: Kernels, values: Mapping[str, float], sizes: Array, order: int) -> None:
        self.kernel, self.class_kernel = kernels.nodes, kernels.classes
        self.values, self.sums = dict(values), kernels.sums
        scale: Any = kernels.scale
        number = scale.xreplace({symbol: sp.Float(values[symbol.name]) for symbol in scale.free_symbols})
        self.scale, self.sizes = float(number) / sizes, sizes
        self.medium_kernel = kernels.medium if values["N"] > 1 else None
        self.target = order * len(sizes) // (order + 1)
        """The class with |T∩S| = k and |T∖S| = 0."""

    def at(self, noise: float) -> Equations:
        """The same at another noise."""
        found = copy(self)
        found.values = {**self.values, "s": noise}
        return found

    def settled(self, batch: ClassNodes, learned: bool) -> Root:
        """From the prior, or as if the others had learned the target; where this fails, along the noise from far away.

        The lazy solution is followed from larger noise, a learned one from smaller.
        """
        root = self.root(batch, self.start(batch, learned))
        if root.converged:
            return root
        goal = log(self.values["s"])
        place = goal + (-FAR if learned else FAR)
        there = self.at(exp(place))
        last, stride = there.root(batch, there.start(batch, learned)), LONGEST
        while last.converged and place != goal and stride > SHORTEST:
            new = goal + np.sign(place - goal) * max(abs(place - goal) - stride, 0.0)
            found = self.at(exp(new)).root(batch, last.kappa)
            if found.converged:
                last, place, stride = found, new, min(2 * stride, LONGEST)
            else:
                stride /= 2
        return last if place == goal else root

    def starts(self, batch: Any) -> tuple[Array, list[Array]]:
        """A solution to start from, that of the lazy start where it converges; and both where the two starts differ."""
        roots = [self.settled(batch, learned) for learned in (False, True)]
        found = next((root.kappa for root in roots if root.converged), roots[0].kappa)
        differ = all(root.converged for root in roots) and self.distance(found, roots[1].kappa) > SAME
        return found, [root.kappa for root in roots] if differ else []

    def solutions(self, batches: Sequence[Any], kappa: Array) -> list[Array]:
        """The solution on each shift of the nodes, from that on the one before."""
        found: list[Array] = []
        jacobian = None
        for batch in batches:
            root = self.root(batch, kappa, jacobian)
            if not root.converged and jacobian is not None:
                root = self.root(batch, kappa)
            kappa, jacobian = root.kappa, root.jacobian
            found.append(kappa)
        return found

    def distance(self, kappa: Array, other: Array) -> float:
        """The largest difference in ln κ."""
        seen = kappa > 0
        return float(np.max(np.abs(np.log(kappa[seen] / other[seen])), initial=0.0))

    def start(self, batch: ClassNodes, learned: bool) -> Array:
        """F at the prior; with the eigenvalue of the target as if the others had learned it."""
        kappa, _ = self.formed(batch.weights @ batch.powers / batch.weights.sum())
        if learned:
            kappa[self.target] = max(kappa[self.target], 3 * self.values["s"])
        return kappa

    def tilted(self, batch: ClassNodes, kappa: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """What the kernels give on the nodes and on the classes."""
        per_class = self.class_kernel(**given(self.class_kernel, {**self.values, "kappa": kappa}))
        known: dict[str, Any] = {**self.values, "J": batch.overlap, "kappa_S": float(kappa[self.target])}
        known |= {name: batch.powers @ per_class[name] for name in self.sums}
        return self.kernel(**given(self.kernel, known)), per_class

    def formed(self, form: Array) -> tuple[Array, Array | float]:
        """The eigenvalues that a medium has, from the averages of Σ J_T² over classes; and how they change with κ."""
        bare = self.scale * form
        if self.medium_kernel is None:
            return bare, 1.0
        at = self.medium_kernel(**given(self.medium_kernel, {**self.values, "kappa_bare": bare}))
        return at["medium"], at["slope"]

    def law(self, batch: ClassNodes, kappa: Array, *, slope: bool = False) -> Law:
        at, per_class = self.tilted(batch, kappa)
        q, effective = reweighted(batch.weights, at["tilt"])
        shared = q if self.medium_kernel is None else q * at["share"]
        means = shared @ batch.powers
        image, change = self.formed(means)
        jacobian = None
        if slope:  # ∂⟨p⟩/∂κ = ⟨∂p/∂κ⟩ - Cov(p, ∂tilt/∂κ), with κ in the sums over modes and at the target
            jacobian = np.zeros((len(kappa), len(kappa)))
            for name in self.sums:
                tilt = at[f"tilt_by_{name}"]
                weighted = shared * tilt - (q * at[f"share_by_{name}"] if self.medium_kernel is not None else 0.0)
                found = (batch.powers.T * weighted) @ batch.powers - np.outer(means, (q * tilt) @ batch.powers)
                jacobian -= found * per_class[f"slope_{name}"]
            tilt = at["tilt_by_S"]
            weighted = shared * tilt - (q * at["share_by_S"] if self.medium_kernel is not None else 0.0)
            jacobian[:, self.target] -= weighted @ batch.powers - means * (q @ tilt)
            jacobian *= (self.scale * change)[:, None]
        return Law(image, jacobian, float(q @ at["output"]), effective)

    def root(self, batch: ClassNodes, kappa: Array, jacobian: Array | None = None) -> Root:
        """Newton's method for ln F(κ) = ln κ over the classes that the activation sees.

        A Jacobian from elsewhere, such as another shift of the nodes, serves as long as the gap falls fast.
        """
        law = self.law(batch, kappa, slope=jacobian is None)
        seen = law.image > 1e-12 * law.image.max()
        kappa = np.where(seen, np.where(kappa > 0, kappa, law.image), 0.0)
        law = self.law(batch, kappa, slope=jacobian is None)
        gap = np.log(law.image[seen] / kappa[seen])
        for _ in range(STEPS):
            if law.jacobian is not None:
                jacobian = law.jacobian[np.ix_(seen, seen)] * kappa[seen] / law.image[seen][:, None]
            assert jacobian is not None
            if np.max(np.abs(gap), initial=0.0) < TOLERANCE:
                break
            step = np.linalg.solve(np.eye(len(gap)) - jacobian, gap)
            step *= min(1.0, STRIDE / float(np.max(np.abs(step))))
            own = law.jacobian is not None
            for halving in range(12 if own else 1):
                trial = kappa.copy()
                trial[seen] *= np.exp(step / 2**halving)
                new = self.law(batch, trial, slope=own)
                moved = np.log(new.image[seen] / trial[seen])
                if np.linalg.norm(moved) < (1 - 0.1 / 2**halving) * np.linalg.norm(gap):
                    break
            better = np.linalg.norm(moved) < np.linalg.norm(gap)
            if own and not better:
                break  # no step along this direction helps
            if own or np.linalg.norm(moved) < 0.3 * np.linalg.norm(gap):
                kappa, law, gap = trial, new, moved
            else:
                law = self.law(batch, kappa, slope=True)
        assert jacobian is not None
        return Root(kappa, jacobian, bool(np.max(np.abs(gap), initial=0.0) < TOLERANCE))


def reweighted(weights: Array, tilt: Array) -> tuple[Array, float]:
    """Nodes with weights of the prior under the law e^{-tilt}: their share of it, and how many count.

    Raises
    ------
    NotConverged
        If the weights leave the finite numbers.
    """
    q = weights * np.exp(tilt.min() - tilt)
    total = float(q.sum())
    if not total > 0 or not np.isfinite(total):
        raise NotConverged("the weights of the nodes leave the finite numbers", total)
    return q / total, total**2 / float(q @ q)


def classes(D: int, k: int) -> Array:
    """The class of each subset T of the inputs (a binary number): |T∩S| (D-k+1) + |T∖S|, S the first k inputs."""
    bits = (np.arange(2**D)[:, None] >> np.arange(D)) & 1
    return bits[:, :k].sum(axis=1) * (D - k + 1) + bits[:, k:].sum(axis=1)


def walsh(values: Array) -> Array:
    """E[f χ_T] for all T, of functions f on the corners of the cube (rows): the fast Walsh transform."""
    found = np.array(values, dtype=float)
    size = found.shape[1]
    step = 1
    while step < size:
        pairs = found.reshape(len(found), -1, 2, step)
        first, second = pairs[:, :, 0].copy(), pairs[:, :, 1]
        pairs[:, :, 0] += second
        pairs[:, :, 1] = first - second
        step *= 2
    return found / size


def corners(D: int) -> Array:
    """The corners of the cube."""
    return np.where((np.arange(2**D)[:, None] >> np.arange(D)) & 1, -1.0, 1.0)


def compiled(outputs: Mapping[str, sp.Expr], name: str) -> Kernel:
    entries = sorted({e for expr in outputs.values() for e in expr.atoms(Entry)}, key=lambda e: e.name)
    scalars = sorted({s for expr in outputs.values() for s in expr.free_symbols}, key=lambda symbol: symbol.name)
    return compile_kernel(outputs, scalars=scalars, entries=entries, name=name)


def given(kernel: Kernel, known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: known[name] for name in kernel.arguments if name in known}


__all__ = ["CLASS", "ClassNodes", "Equations", "Kernels", "Law", "Root", "classes", "compiled", "corners", "given",
           "reweighted", "walsh"]
