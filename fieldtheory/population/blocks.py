r"""The others' kernel in blocks: C = F(C), an average over the law of one site on nodes, solved for all blocks at once.

Forms and lines of one site are Σ_l d_l j_lᵀ f(C_l) j_l and yᵀ f(C_0) j_0, with f(C) = U f(κ) Uᵀ a function of the
eigenvalues; how it changes with C are the divided differences of f (Daleckii and Krein 1965).  Steps are measured
against s + C, which stays positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.compile import Kernel
from fieldtheory.errors import NotConverged
from fieldtheory.population.eigenvalues import STEPS, STRIDE, Equations, Root, given, reweighted
from fieldtheory.population.sectors import Basis, Batch

Array = np.ndarray

SAID = 1e-2
"""The largest eigenvalue of the kernel left out, in units of the noise s/P, above which it is said.  What it changes in
the output is some tenths of it."""
TOLERANCE = 1e-10
"""The largest eigenvalue of (s + C)^{-1/2} (F(C) - C) (s + C)^{-1/2} at a solution."""


@dataclass(frozen=True)
class BlockKernels:
    """What the law of one site is compiled to.

    ``nodes`` gives on each node the tilt, its derivatives by the ``forms`` and the ``lines``, and the coefficients in
    the output of vectors f(C_0) j_0; ``levels`` all f on eigenvalues, and their derivatives.  ``outputs`` and
    ``targets`` name these coefficients of f(C_0) j_0 and give those of f(C_0) y, by the name of f.
    """

    nodes: Kernel
    levels: Kernel
    scale: sp.Expr
    forms: tuple[str, ...]
    lines: tuple[str, ...]
    outputs: Mapping[str, str]
    targets: Mapping[str, sp.Expr]


@dataclass(frozen=True)
class BlockLaw:
    """F(C), ∂F/∂C, what the kernels give on the nodes, the weights there, and effective nodes."""

    image: Array
    jacobian: Array | None
    on_nodes: Mapping[str, Array]
    weights: Array
    effective: float


class Spectral:
    """All blocks in their eigenbases: κ (block, level) and U (block, row, level), and f at κ and at zero."""

    def __init__(self, equations: BlockEquations, C: Array) -> None:
        basis = equations.basis
        stack = basis.blocks(C)
        rows = np.arange(stack.shape[1])
        self.empty = rows >= basis.sizes[:, None]
        stack[:, rows, rows] -= self.empty * (1 + 2 * np.abs(C).max())  # levels of nothing come first
        self.kappa, self.U = np.linalg.eigh(stack)
        self.empty = self.empty[:, ::-1]
        self.kappa[self.empty] = 0.0
        if not self.kappa.min() + equations.values["s"] > 0:
            raise NotConverged(f"rounding of the eigenvalues of the others' kernel, {self.kappa.max():.3g} at most, "
                               "exceeds the noise s/P", equations.values["s"])
        self.U *= ~self.empty[:, None, :]
        flat = np.concatenate([self.kappa.ravel(), [0.0]])
        kernel = equations.kernels.levels
        found = kernel(**given(kernel, {**equations.values, "kappa": flat}))
        self.functions = {name: np.broadcast_to(values, flat.shape) for name, values in found.items()}
        self.noise = equations.values["s"]

    def at(self, name: str) -> Array:
        """f(κ) by block and level."""
        return self.functions[name][:-1].reshape(self.kappa.shape)

    def zero(self, name: str) -> float:
        """f(0)."""
        return float(self.functions[name][-1])

    def divided(self, name: str) -> Array:
        """(f(κ) - f(κ'))/(κ - κ') between the levels of each block."""
        f, slope, kappa = self.at(name), self.at(f"slope_{name}"), self.kappa
        gap = kappa[:, :, None] - kappa[:, None, :]
        near = np.abs(gap) < 1e-5 * (self.noise + np.abs(kappa[:, :, None] + kappa[:, None, :]))
        return np.where(near, (slope[:, :, None] + slope[:, None, :]) / 2,
                        (f[:, :, None] - f[:, None, :]) / np.where(near, 1.0, gap))

    def turned(self, stack: Array) -> Array:
        return self.U.transpose(0, 2, 1) @ stack @ self.U

    def back(self, stack: Array) -> Array:
        return self.U @ stack @ self.U.transpose(0, 2, 1)


class BlockEquations(Equations):
    """C = F(C) for all blocks, at one noise; ``target`` is y in the modes of the first sector."""

    def __init__(self, kernels: BlockKernels, values: Mapping[str, float], basis: Basis, target: Array) -> None:
        self.kernels, self.values, self.basis, self.target_modes = kernels, dict(values), basis, target
        scale: Any = kernels.scale
        self.factor = float(scale.xreplace({symbol: sp.Float(values[symbol.name]) for symbol in scale.free_symbols}))
        self.y = basis.columns[0].T @ target

    def start(self, batch: Any, learned: bool) -> Array:
        """F at the prior; as if the others had learned the target."""
        C = self.factor * (batch.weights @ batch.powers) / batch.weights.sum()
        if learned:
            blocks, size = self.basis.blocks(C), len(self.y)
            unit = self.y / np.linalg.norm(self.y)
            known = float(unit @ blocks[0, :size, :size] @ unit)
            blocks[0, :size, :size] += max(3 * self.values["s"] - known, 0.0) * np.outer(unit, unit)
            C = self.basis.vector(blocks)
        return C

    # ------------------------------------------------------------------------------------------ law of one site

    def _weights(self, spectral: Spectral) -> tuple[dict[str, Array], Array]:
        """Of the unknowns in each form, of the target's overlaps in each line; and U_a U_bᵀ + U_b U_aᵀ of unknowns."""
        number, rows, columns = self.basis.unknowns
        units = spectral.U[number, rows][:, :, None] * spectral.U[number, columns][:, None, :]
        units = units + units.transpose(0, 2, 1)
        units[rows == columns] /= 2
        diagonal, d = np.diagonal(units, axis1=1, axis2=2), self.basis.multiplicities[number]
        found = {name: d * (diagonal * spectral.at(name)[number]).sum(axis=1) for name in self.kernels.forms}
        size = len(self.y)
        first = spectral.U[0, :size]
        found |= {name: first @ (spectral.at(name)[0] * (first.T @ self.y)) for name in self.kernels.lines}
        return found, units

    def _slopes(self, spectral: Spectral, units: Array) -> dict[str, Array]:
        """The derivatives of all weights by the unknowns."""
        number = self.basis.unknowns[0]
        flat, same = units.reshape(len(units), -1), number[:, None] == number
        first, size = spectral.U[0, :len(self.y)], int((number == 0).sum())
        found = {}
        for name in (*self.kernels.forms, *self.kernels.lines):
            divided = spectral.divided(name)
            if name in self.kernels.forms:
                weighted = flat * divided.reshape(len(divided), -1)[number]
                found[name] = self.basis.multiplicities[number][:, None] * (weighted @ flat.T) * same
            else:
                found[name] = first @ ((units[:size] * divided[0]) @ (first.T @ self.y)).T
        return found

    def law(self, batch: Any, kappa: Array, *, slope: bool = False) -> Any:
        """F and its derivative at blocks given by the vector of unknowns."""
        return self._law(batch, Spectral(self, kappa), slope)

    def _law(self, batch: Batch, spectral: Spectral, slope: bool = False) -> BlockLaw:
        weights, units = self._weights(spectral)
        known: dict[str, Any] = dict(self.values)
        known |= {name: batch.powers @ weights[name] + batch.tail * spectral.zero(name) for name in self.kernels.forms}
        known |= {name: batch.target @ weights[name] for name in self.kernels.lines}
        at = self.kernels.nodes(**given(self.kernels.nodes, known))
        q, effective = reweighted(batch.weights, at["tilt"])
        means, jacobian = q @ batch.powers, None
        if slope:  # ∂⟨p⟩/∂C = -Cov(p, ∂tilt/∂C)
            slopes = self._slopes(spectral, units)
            jacobian = np.zeros((len(means), len(means)))
            for name, change in slopes.items():
                moving = batch.powers if name in self.kernels.forms else batch.target
                weighted = q * at[f"tilt_by_{name}"]
                found = (batch.powers.T * weighted) @ moving - np.outer(means, weighted @ moving)
                jacobian[:, :change.shape[1]] -= found @ change
            jacobian *= self.factor
        return BlockLaw(self.factor * means, jacobian, at, q, effective)

    # ------------------------------------------------------------------------------------------------- solving

    def _relative(self, spectral: Spectral, change: Array) -> Array:
        """(s + C)^{-1/2} change (s + C)^{-1/2} in the eigenbasis of C."""
        root = np.sqrt(self.values["s"] + spectral.kappa)
        return spectral.turned(self.basis.blocks(change)) / (root[:, :, None] * root[:, None, :])

    def _gap(self, spectral: Spectral, change: Array) -> float:
        return float(np.abs(np.linalg.eigvalsh(self._relative(spectral, change))).max())

    def distance(self, kappa: Array, other: Array) -> float:
        """The largest eigenvalue of (s + C)^{-1/2} (C' - C) (s + C)^{-1/2}."""
        return self._gap(Spectral(self, kappa), other - kappa)

    def _moved(self, spectral: Spectral, relative: tuple[Array, Array]) -> Array:
        """(s + C)^½ exp(X) (s + C)^½ - s, X in the eigenbasis of C by its own."""
        values, vectors = relative
        root = np.sqrt(self.values["s"] + spectral.kappa)
        grown = (vectors * np.exp(values)[:, None, :]) @ vectors.transpose(0, 2, 1)
        grown = grown * root[:, :, None] * root[:, None, :]
        levels = np.arange(root.shape[1])
        grown[:, levels, levels] -= self.values["s"]
        return self.basis.vector(spectral.back(grown))

    def root(self, batch: Any, kappa: Array, jacobian: Array | None = None) -> Root:
        """Newton's method; a Jacobian from elsewhere serves as long as the gap falls fast."""
        C, own = kappa, jacobian is None
        here = Spectral(self, C)
        law = self._law(batch, here, own)
        gap = self._gap(here, law.image - C)
        for _ in range(STEPS):
            if law.jacobian is not None:
                jacobian = law.jacobian
            assert jacobian is not None
            if gap < TOLERANCE:
                break
            step = np.linalg.solve(np.eye(len(C)) - jacobian, law.image - C)
            values, vectors = np.linalg.eigh(self._relative(here, step))
            values *= min(1.0, STRIDE / max(float(np.abs(values).max()), 1e-300))
            own = law.jacobian is not None
            for halving in range(12 if own else 1):
                trial = self._moved(here, (values / 2**halving, vectors))
                there = Spectral(self, trial)
                new = self._law(batch, there, own)
                moved = self._gap(there, new.image - trial)
                if moved < (1 - 0.1 / 2**halving) * gap:
                    break
            if own and not moved < gap:
                break  # no step along this direction helps
            if own or moved < 0.3 * gap:
                C, here, law, gap = trial, there, new, moved
            else:
                law = self._law(batch, here, True)
        assert jacobian is not None
        return Root(C, jacobian, gap < TOLERANCE)

    # -------------------------------------------------------------------------------------------- what it gives

    def output(self, batch: Batch, C: Array) -> Array:
        """The average output in all modes of the target's sector."""
        spectral = Spectral(self, C)
        law, T = self._law(batch, spectral), self.basis.columns[0]
        U = T @ spectral.U[0, :T.shape[1]]

        def applied(name: str, vector: Array) -> Array:
            return spectral.zero(name) * (vector - T @ (T.T @ vector)) + U @ (spectral.at(name)[0] * (U.T @ vector))

        found = np.zeros(len(T))
        for name, coefficient in self.kernels.targets.items():
            known = {x: sp.Float(self.values[x.name]) for x in coefficient.free_symbols}  # type: ignore[attr-defined]
            found += float(coefficient.xreplace(known)) * applied(name, self.target_modes)  # type: ignore[arg-type]
        for name, key in self.kernels.outputs.items():
            found += applied(name, (law.weights * law.on_nodes[key]) @ batch.nodes.overlaps[0])
        return found

    def remainder(self, batch: Batch, C: Array) -> float:
        """The largest eigenvalue of the kernel in what is left out, or a bound on it, in units of the noise."""
        q = self._law(batch, Spectral(self, C)).weights
        found = float(q @ batch.nodes.beyond)
        columns = dict(zip(self.basis.numbers, self.basis.columns, strict=True))
        for i, j in enumerate(batch.nodes.overlaps):
            gram = (j.T * q) @ j
            if i in columns:
                rest = np.eye(len(gram)) - columns[i] @ columns[i].T
                gram = rest @ gram @ rest
            found = max(found, float(np.linalg.eigvalsh(gram)[-1]))
        return self.factor * found / self.values["s"]

    @staticmethod
    def truncation(remainder: float, degree: int) -> list[str]:
        """What a status says about the largest eigenvalue that is left out, in units of the noise."""
        if remainder <= SAID:
            return []
        return [f"truncated at degree {degree}: an eigenvalue of {remainder:.2g} of the noise is left out"]

    def spectrum(self, C: Array) -> dict[tuple[int, int], float]:
        """Eigenvalues by angular momentum and number, from the largest."""
        spectral = Spectral(self, C)
        values: dict[int, list[float]] = {}
        for sector, kappa, empty in zip(self.basis.sectors, spectral.kappa, spectral.empty, strict=True):
            values.setdefault(sector.momentum, []).extend(kappa[~empty].tolist())
        return {(momentum, i): value for momentum, found in sorted(values.items())
                for i, value in enumerate(sorted(found, reverse=True))}


__all__ = ["BlockEquations", "BlockKernels", "BlockLaw"]
