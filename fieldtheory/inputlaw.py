"""The numerical checks of the rules that average over inputs (:mod:`.symbolic.bases`), on a law with few points.

On the hypercube the law itself has few points: with every input sampled once, projection and Parseval's sum are exact,
and nothing that the rules computed enters.  For Gaussian inputs the points and weights of Gauss-Hermite quadrature,
with as many Hermite polynomials, are an orthonormal basis as complete; closed forms are then met up to the quadrature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
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

POINTS = 60
"""Of the quadrature that stands for Gaussian inputs, in one dimension."""


class DiscreteLaw:
    """Points (K, D), their weights, and K orthonormal basis functions (K, K) on them.

    ``tolerance``: how far a closed form may differ.
    """

    def __init__(self, name: str, dimension: int) -> None:
        self.tolerance = 1e-6 if name == "gaussian" else 1e-9
        if name == "gaussian":
            nodes, weights = np.polynomial.hermite_e.hermegauss(POINTS)
            self.points, self.weights = nodes[:, None], weights / weights.sum()
            rows = [np.ones(POINTS), nodes]
            for n in range(1, POINTS - 1):
                rows.append((nodes * rows[n] - np.sqrt(n) * rows[n - 1]) / np.sqrt(n + 1))
            self.basis = np.array(rows)
        else:
            self.points = np.where((np.arange(2**dimension)[:, None] >> np.arange(dimension)) & 1, -1.0, 1.0)
            self.weights = np.full(2**dimension, 0.5**dimension)
            subsets = [s for size in range(dimension + 1) for s in combinations(range(dimension), size)]
            self.basis = np.array([self.points[:, list(s)].prod(axis=1) for s in subsets])

    def evaluate(self, expr: sp.Expr, values: Values, axes: Sequence[Space] | None = None) -> Any:
        """An expression with averages over this law."""
        table: dict[sp.Basic, sp.Basic] = {}
        given = dict(values)
        for k, node in enumerate(sorted(expr.atoms(InputAverage), key=sp.default_sort_key)):
            spaces = sorted(open_spaces(node.body), key=lambda space: space.name)
            total: Any = 0.0
            for point, weight, column in zip(self.points, self.weights, self.basis.T):
                at = {**values, node.inputs: point}
                for e in (e for e in node.body.atoms(Entry) if e.name == node.basis.name):
                    at[e] = column[:int(values[e.spaces[0].size])]
                total = total + weight * np.asarray(evaluate(node.body, at, axes=spaces))
            table[node] = Entry(f"<E{k}>", "data", spaces)
            given[table[node]] = total
        return evaluate(expr.xreplace(table), given, axes=axes)


def _nodes(step: Step) -> list[InputAverage]:
    found = step.after.expr.atoms(InputAverage) | step.before.expr.atoms(InputAverage)
    if not found:
        raise RuleError("the action has no average over inputs")
    return sorted(found, key=sp.default_sort_key)


def law_and_sizes(step: Step) -> tuple[DiscreteLaw, dict[sp.Basic, int]]:
    """The law to check a step on, and the sizes of its spaces."""
    node = _nodes(step)[0]
    # what the projection claims of samples holds for every law of which they are all points
    name = "hypercube" if step.rule == "project" else node.law.name
    law = DiscreteLaw(name, 2)
    K, D = len(law.points), law.points.shape[1]
    sizes: dict[sp.Basic, int] = {node.inputs.spaces[0].size: D}
    modes = {space for expr in (step.before.expr, step.after.expr) for space in expr.atoms(Space)
             if space in {e.spaces[0] for n in _nodes(step) for e in n.body.atoms(Entry) if e.name == n.basis.name}}
    sizes |= {space.size: K for space in modes}
    if step.rule == "restrict":
        sizes[step.details["kept"].size] = min(2, K)  # type: ignore[attr-defined]
    if step.rule == "project":
        sizes[step.details["space"].size] = K  # type: ignore[attr-defined]
    if step.rule == "diagonal":
        sizes[step.details["basis"].spaces[1].size] = K + 2  # type: ignore[attr-defined]
    return law, sizes


def compare_projected(step: Step, pushed: Pushed, values: Values, law: DiscreteLaw) -> Iterator[tuple[str, float]]:
    """(quantity, error) of a step at random values of everything but the inputs."""
    values = dict(values)
    kept = 0
    if step.rule == "project":
        sample, mode = step.details["space"], step.details["modes"]
        for entry in list(values):
            if not isinstance(entry, Entry) or entry.spaces[:1] != (sample,):
                continue
            if entry.spaces[1:] == step.details["inputs"].spaces:  # type: ignore[attr-defined]
                values[entry] = law.points
            else:
                spaces = exchanged(entry, sample, mode)  # type: ignore[arg-type]
                values[Entry(entry.name, entry.domain, spaces)] = law.basis * law.weights @ values[entry]
    if step.rule == "restrict":
        kept = int(values[step.details["kept"].size])  # type: ignore[attr-defined]
        for old, new in dict(step.details["entries"]).items():  # type: ignore[call-overload]
            values[old] = np.where(np.arange(len(values[old])) < kept, values[old], 0.0)
            values[new] = values[old][:kept]
        for entry in list(values):  # other data at the modes kept
            if isinstance(entry, Entry) and entry.spaces == (step.details["kept"],) and entry not in \
                    dict(step.details["entries"]).values():  # type: ignore[call-overload]
                whole = Entry(entry.name, entry.domain, (step.details["modes"],))  # type: ignore[arg-type]
                values[entry] = np.asarray(values[whole])[:kept]
    if step.rule == "diagonal":
        _diagonalised(step, values, law)
        yield "off the diagonal", off_diagonal(step, values, law)
    before, after = (law.evaluate(action.expr, values) for action in (step.before, step.after))
    yield "S", abs(before - after) / max(abs(before), 1.0)
    for name, (old, new) in pushed.items():
        was, now = (np.asarray(law.evaluate(e, values, _axes(e))) for e in (old, new))
        if step.rule == "project" and open_spaces(old) == {step.details["space"]}:
            was = law.basis @ (law.weights * was)
        if kept and open_spaces(old) == {step.details["modes"]}:
            was = was[:kept]
        yield f"<{name}>", float(np.max(np.abs(was - now)) / max(float(np.max(np.abs(was))), 1.0))


def _diagonalised(step: Step, values: Values, law: DiscreteLaw) -> None:
    """The unit matrix for the eigenvectors, and no eigenvalues besides those of the modes."""
    V: Any = step.details["basis"]
    mode, eigen = V.spaces
    count, samples = len(law.points), int(values[eigen.size])
    values[V] = np.eye(count, samples) / np.sqrt(samples)
    for entry in [e for e in values if isinstance(e, Entry) and e.spaces == (eigen,)]:
        values[entry] = np.where(np.arange(samples) < count, values[entry], 0.0)
        values[Entry(entry.name, entry.domain, (mode,))] = values[entry][:count]


def off_diagonal(step: Step, values: Values, law: DiscreteLaw, target: Sequence[int] = (-1,)) -> float:
    """The largest ⟨J_T J_T'⟩, T ≠ T', over a law of one site that knows one parity, relative to the diagonal.

    ``target`` are the modes that the site knows: with more than one the symmetry is broken.

    The weights take a few random values and all that sign flips make of them.
    """
    mode, (w,) = step.details["modes"], step.after.fields
    node = next(n for n in _nodes(step) if mode in open_spaces(n))
    given = dict(values)
    for entry in given:
        if isinstance(entry, Entry) and entry.spaces == (mode,) and entry.domain == "data":
            kept = np.zeros(len(law.points))
            kept[list(target)] = 1.0
            given[entry] = kept * given[entry]
    logs, overlaps = [], []
    for flip in law.points:
        for stretch in (0.5, 1.0, 1.7):
            given[w] = flip * values[w] * stretch ** np.arange(len(flip))
            logs.append(-float(law.evaluate(step.after.expr, given)))
            overlaps.append(law.evaluate(node, given, [mode]))  # type: ignore[list-item]
    q = np.exp(np.array(logs) - max(logs))
    J = np.array(overlaps)
    kernel = (J.T * q) @ J / q.sum()
    return float(np.max(np.abs(kernel - np.diag(np.diag(kernel)))) / np.max(np.diag(kernel)))


def _axes(expr: sp.Expr) -> list[Space]:
    return sorted(open_spaces(expr), key=lambda space: space.name)


__all__ = ["DiscreteLaw", "compare_projected", "law_and_sizes", "off_diagonal"]
