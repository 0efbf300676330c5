"""The numerical checks of blocks by symmetry (:mod:`.symbolic.sectors`), on a law of inputs with a few points.

One input along a direction and two perpendicular to it: points come in orbits under the flip of the first and the
rotations and reflections of the others by a third of a turn.  Functions on the points are one sector for each parity
and angular momentum 0 or 1, complete; weights in an orbit of the same group see the symmetry exactly, and nothing that
the rule computed enters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.bases import InputAverage, exchanged
from fieldtheory.symbolic.fields import Entry, Space, open_spaces
from fieldtheory.symbolic.rules import Step

Array = np.ndarray
Values = dict[sp.Basic, Any]
Pushed = Mapping[str, tuple[sp.Expr, sp.Expr]]

TURNS, ORBITS, EMPTY = 3, 2, 2
"""Rotations of the perpendicular inputs, orbits of points, and eigenmodes of the samples that are no modes."""


class OrbitLaw:
    """Points (12, 3), even weights, and the basis function of sector, component and number in it (12, points).

    The sectors are (even, 0), (odd, 0), (even, 1), (odd, 1); ``members`` lists (sector, component, number).
    """

    def __init__(self) -> None:
        self.multiplicities = np.array([1.0, 1.0, 2.0, 2.0])
        angles = 2 * np.pi * np.arange(TURNS) / TURNS
        along, across = np.array([0.6, 1.4]), np.array([1.1, 0.5])
        points, self.members, rows = [], [], []
        for orbit, sign, angle in product(range(ORBITS), (1.0, -1.0), angles):
            points.append([sign * along[orbit], across[orbit] * np.cos(angle), across[orbit] * np.sin(angle)])
        self.points = np.array(points)
        mixing = np.linalg.qr(np.array([[1.0, 0.4], [-0.3, 1.0]]))[0] * np.sqrt(ORBITS)
        of_point = np.repeat(np.arange(ORBITS), 2 * TURNS)
        signs = np.sign(self.points[:, 0])
        for sector, d in enumerate(self.multiplicities):
            for component, number in product(range(int(d)), range(ORBITS)):
                harmonic = self.harmonics(self.points)[sector][component]
                rows.append(mixing[number][of_point] * harmonic * signs**(sector % 2))
                self.members.append((sector, component, number))
        self.basis = np.array(rows)

    @staticmethod
    def harmonics(vectors: Array) -> list[list[Array]]:
        """Y of every sector at some vectors, normalised to an average square of one."""
        across = vectors[:, 1:] / np.linalg.norm(vectors[:, 1:], axis=1)[:, None]
        one, two = [np.ones(len(vectors))], [np.sqrt(2) * across[:, 0], np.sqrt(2) * across[:, 1]]
        return [one, one, two, two]

    def orbit(self, w: Array) -> list[Array]:
        """A vector, turned so that its perpendicular part points at one of the angles, and all that the group makes."""
        size = float(np.linalg.norm(w[1:]))
        return [np.array([sign * w[0], size * np.cos(angle), size * np.sin(angle)])
                for sign, angle in product((1.0, -1.0), 2 * np.pi * np.arange(TURNS) / TURNS)]

    def zonal(self, w: Array) -> Array:
        """Σ_m e_lmb Y_lm(ŵ)/d_l (sector, number, point), whose overlap with a feature is j_lb."""
        Y = self.harmonics(w[None])
        found = np.zeros((len(self.multiplicities), ORBITS, len(self.points)))
        for row, (sector, component, number) in zip(self.basis, self.members, strict=True):
            found[sector, number] += row * Y[sector][component][0] / self.multiplicities[sector]
        return found

    def evaluate(self, expr: sp.Expr, values: Values, basis: Array, axes: list[Space] | None = None) -> Any:
        """An expression with averages over this law of functions and basis functions (its spaces, point)."""
        table: dict[sp.Basic, sp.Basic] = {}
        given = dict(values)
        for k, node in enumerate(sorted(expr.atoms(InputAverage), key=sp.default_sort_key)):
            spaces = sorted(open_spaces(node.body), key=lambda space: space.name)
            at = {**values, node.inputs: self.points.T}
            for e in (e for e in node.body.atoms(Entry) if e.name == node.basis.name):
                at[e] = basis
            table[node] = Entry(f"<E{k}>", "data", spaces)
            given[table[node]] = np.mean(np.asarray(evaluate(node.body, at, axes=spaces)), axis=-1)
        return evaluate(expr.xreplace(table), given, axes=axes)


def sizes_in_sectors(step: Step) -> dict[sp.Basic, int]:
    """Sizes of the spaces of a step in which modes have become sectors."""
    details: Any = step.details
    node = next(iter(sorted(step.before.expr.atoms(InputAverage), key=sp.default_sort_key)))
    if step.rule == "restrict":
        return {details["modes"].size: 3, details["kept"].size: 1, node.inputs.spaces[0].size: 3}
    law = OrbitLaw()
    mode, eigen = details["basis"].spaces
    return {node.inputs.spaces[0].size: 3, mode.size: len(law.points), eigen.size: len(law.points) + EMPTY,
            details["sector"].size: len(law.multiplicities), details["radial"].size: ORBITS,
            details["level"].size: ORBITS}


def is_in_sectors(step: Step) -> bool:
    """Whether a step makes sectors, or restricts to some."""
    nodes = step.before.expr.atoms(InputAverage)
    return step.rule == "sectors" or (step.rule == "restrict" and any(len(n.basis.spaces) > 1 for n in nodes))


def compare_in_sectors(step: Step, pushed: Pushed, values: Values,
                       rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """(quantity, error) of such a step, at random values."""
    yield from _restricted(step, pushed, values, rng) if step.rule == "restrict" else \
        _in_blocks(step, pushed, values, rng)


def _in_blocks(step: Step, pushed: Pushed, values: Values, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    law, (w,) = OrbitLaw(), step.after.fields
    values = in_blocks(step, values, law, rng)
    values[w] = law.orbit(np.asarray(values[w]))[1]
    zonal, Y = law.zonal(values[w]), law.harmonics(values[w][None])
    before = law.evaluate(step.before.expr, values, law.basis)
    after = law.evaluate(step.after.expr, values, zonal)
    yield "S", abs(before - after) / max(abs(before), 1.0)
    details: Any = step.details
    for name, (old, new) in pushed.items():
        opened = details["modes"] in open_spaces(old)
        was = np.asarray(law.evaluate(old, values, law.basis, [details["modes"]] if opened else None))
        now = np.asarray(law.evaluate(new, values, zonal, [details["sector"], details["radial"]] if opened else None))
        if opened:
            now = np.array([now[sector, number] * Y[sector][component][0] for sector, component, number in law.members])
        yield f"<{name}>", float(np.max(np.abs(was - now)) / max(float(np.max(np.abs(was))), 1.0))
    yield "off the blocks", off_blocks(step, values, law)


def in_blocks(step: Step, values: Values, law: OrbitLaw, rng: np.random.Generator) -> Values:
    """Random blocks, the matrix V that they make, and a target in the first sector."""
    details: Any = step.details
    V, U, d = details["basis"], details["rotation"], details["multiplicity"]
    mode, eigen = V.spaces
    samples, count = int(values[eigen.size]), len(law.multiplicities)
    found = dict(values)
    found[U] = np.array([np.linalg.qr(rng.standard_normal((ORBITS, ORBITS)))[0] for _ in range(count)])
    found[d] = law.multiplicities
    found[V] = np.zeros((len(law.points), samples))
    kappas = {e: rng.uniform(0.2, 2.0, (count, ORBITS)) for e in found if isinstance(e, Entry) and e.spaces == (eigen,)}
    for entry, levels in kappas.items():
        found[entry] = np.zeros(samples)
        found[Entry(entry.name, entry.domain, (details["sector"], details["level"]))] = levels
    for i, (sector, component, number) in enumerate(law.members):
        for j, (other, at, level) in enumerate(law.members):
            if (sector, component) == (other, at):
                found[V][i, j] = found[U][sector, number, level] / np.sqrt(samples)
        for entry, levels in kappas.items():
            found[entry][i] = levels[sector, number]
    for entry in [e for e in found if isinstance(e, Entry) and e.spaces == (mode,) and e.domain == "data"]:
        target = rng.standard_normal((count, ORBITS)) * (np.arange(count) == 0)[:, None]
        found[entry] = np.array([target[sector, number] for sector, _, number in law.members])
        found[Entry(entry.name, entry.domain, (details["sector"], details["radial"]))] = target
    return found


def off_blocks(step: Step, values: Values, law: OrbitLaw) -> float:
    """How far ⟨J Jᵀ⟩ is from blocks that are the same for every component, over laws of one site, relative to its size.

    The weights take a few random values, and all that the group makes of them.
    """
    details: Any = step.details
    mode, (w,) = details["modes"], step.after.fields
    node = next(n for n in sorted(step.before.expr.atoms(InputAverage), key=sp.default_sort_key)
                if mode in open_spaces(n))
    logs, overlaps = [], []
    for stretch in (0.6, 1.0, 1.5):
        for vector in law.orbit(np.asarray(values[w]) * stretch ** np.arange(3)):
            given = {**values, w: vector}
            logs.append(-float(law.evaluate(step.before.expr, given, law.basis)))
            overlaps.append(law.evaluate(node, given, law.basis, [mode]))  # type: ignore[arg-type]
    q = np.exp(np.array(logs) - max(logs))
    J = np.array(overlaps)
    kernel = (J.T * q) @ J / q.sum()
    expected = np.zeros_like(kernel)
    for i, (sector, component, number) in enumerate(law.members):
        for j, (other, at, second) in enumerate(law.members):
            if (sector, component) == (other, at):
                first = law.members.index((sector, 0, number)), law.members.index((sector, 0, second))
                expected[i, j] = kernel[first]
    return float(np.max(np.abs(kernel - expected)) / np.max(np.abs(kernel)))


def _restricted(step: Step, pushed: Pushed, values: Values, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """Any overlaps will do: a sum over the sectors in which the target is zero is one over those where it is not."""
    details: Any = step.details
    modes, kept = details["modes"], details["kept"]
    values, count = dict(values), int(values[kept.size])
    exprs = [step.before.expr, step.after.expr, *(expr for pair in pushed.values() for expr in pair)]
    nodes: dict[sp.Basic, Entry] = {}
    for node in sorted({n for expr in exprs for n in expr.atoms(InputAverage)}, key=sp.default_sort_key):
        spaces = node.basis.spaces
        if modes in spaces:
            nodes[node] = Entry("<J>", "data", spaces)
            values[nodes[node]] = rng.standard_normal([int(values[space.size]) for space in spaces])
    for node in {n for expr in exprs for n in expr.atoms(InputAverage)} - set(nodes):
        whole = tuple(modes if space == kept else space for space in node.basis.spaces)
        nodes[node] = Entry("<J>", "data", node.basis.spaces)
        values[nodes[node]] = values[Entry("<J>", "data", whole)][:count]
    for old, new in dict(details["entries"]).items():
        number = np.arange(len(values[old])) < count
        values[old] = np.where(number.reshape(-1, *[1] * (np.ndim(values[old]) - 1)), values[old], 0.0)
        values[new] = values[old][:count]
    for entry in {e for expr in exprs for e in expr.atoms(Entry) if kept in e.spaces} - set(
            dict(details["entries"]).values()):
        whole_entry = Entry(entry.name, entry.domain, exchanged(entry, kept, modes))
        if entry.spaces[0] != kept:
            raise RuleError(f"{entry} is not data over {kept.name} first")
        if whole_entry in values:
            values[entry] = np.asarray(values[whole_entry])[:count]
    before, after = (evaluate(expr.xreplace(nodes), values) for expr in exprs[:2])
    yield "S", abs(before - after) / max(abs(before), 1.0)
    for name, (old, new) in pushed.items():
        axes = [sorted(open_spaces(expr), key=lambda s: (s not in (modes, kept), s.name)) for expr in (old, new)]
        was, now = (np.asarray(evaluate(expr.xreplace(nodes), values, axes=of))
                    for expr, of in zip((old, new), axes, strict=True))
        if modes in axes[0]:
            was = was[:count]
        yield f"<{name}>", float(np.max(np.abs(was - now)) / max(float(np.max(np.abs(was))), 1.0))


__all__ = ["OrbitLaw", "compare_in_sectors", "in_blocks", "is_in_sectors", "off_blocks", "sizes_in_sectors"]
