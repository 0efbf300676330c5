"""A derivation: the list of steps taken, which prints itself and verifies itself (:mod:`fieldtheory.stepchecks`)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.randompoints import size_symbols
from fieldtheory.stepchecks import broken, check_step, check_structure
from fieldtheory.symbolic.rules import Step


@dataclass(frozen=True)
class Row:
    """One line of a report; ``step`` counts from 1, and ``seconds`` stands on the first line of a step."""

    step: int
    rule: str
    kind: str
    quantity: str
    error: float
    tolerance: float
    seconds: float
    message: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.tolerance)


@dataclass(frozen=True)
class VerificationReport:
    """What :meth:`Derivation.verify` found, row by row."""

    title: str
    rows: tuple[Row, ...]
    seed: int = 0

    @property
    def ok(self) -> bool:
        """Every row holds, and there is one."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.ok)

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)

    def __str__(self) -> str:
        header = ("step", "rule", "kind", "quantity", "error", "allowed", "", "")
        table = [(str(row.step), row.rule, row.kind, row.quantity, f"{row.error:.1e}", f"{row.tolerance:.0e}",
                  "ok" if row.ok else "FAILED", row.message) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(header, *table)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
                 for line in (header, *table)]
        failed = f"NOT verified: {len(self.failures)} of {len(self.rows)} checks failed"
        verdict = "verified" if self.ok else failed
        return "\n".join([f"{self.title}: {verdict} ({self.seconds:.1f} s, seed {self.seed})", *lines])


@dataclass(frozen=True)
class Derivation:
    """Steps from a network's microscopic action to the equations of a theory.

    ``observables`` are expressions in the fields of the first action; each step turns them into expressions
    in its own.  ``equations`` and ``notes`` say what the derivation arrives at.
    """

    title: str
    network_description: str
    steps: tuple[Step, ...]
    observables: Mapping[str, sp.Expr] = field(default_factory=dict)
    equations: Mapping[str, sp.Eq] = field(default_factory=dict)
    results: Mapping[str, sp.Expr] = field(default_factory=dict)
    abbreviations: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def definitions(self) -> dict[sp.Expr, sp.Expr]:
        """Everything that a symbol or datum of any of the actions stands for."""
        found: dict[sp.Expr, sp.Expr] = {}
        for step in self.steps:
            found.update(step.before.definitions)
            found.update(step.after.definitions)
        return found

    def verify(self, seed: int = 0) -> VerificationReport:
        """Check every step numerically; never raises: what goes wrong is a row that failed."""
        rows: list[Row] = []
        generators = np.random.default_rng(seed).spawn(len(self.steps))
        sizes = size_symbols(self.steps, self.observables.values())
        observables = dict(self.observables)
        for i, (step, rng) in enumerate(zip(self.steps, generators)):
            started = time.perf_counter()
            results = check_structure(step, self.steps[i - 1] if i else None, rng, sizes)
            pushed: dict[str, tuple[sp.Expr, sp.Expr]] = {}
            for name, observable in observables.items():
                try:
                    pushed[name] = (observable, sp.sympify(step.push(observable)))
                except Exception as error:
                    results.append(broken(f"<{name}>", error))
            observables = {name: after for name, (_, after) in pushed.items()}
            results += check_step(step, pushed, rng, sizes)
            seconds = time.perf_counter() - started
            for k, result in enumerate(results):
                rows.append(Row(i + 1, step.rule, "exact" if step.exact else "approximate", result.quantity,
                                result.error, result.tolerance, 0.0 if k else seconds, result.message))
        return VerificationReport(self.title, tuple(rows), seed)

    def carried(self, upto: int | None = None) -> dict[str, sp.Expr]:
        """The observables in the fields that are left after all steps, or after the first ``upto``."""
        found = dict(self.observables)
        for step in self.steps[:upto]:
            found = {name: step.push(observable) for name, observable in found.items()}
        return found

    def to_latex(self, path: str | PathLike[str]) -> None:
        """Write the derivation as a complete LaTeX document, whole or not at all."""
        from fieldtheory.export.latex import derivation_document
        from fieldtheory.files import write_atomically

        document: Any = derivation_document
        write_atomically(path, document(self))

    def _repr_latex_(self) -> str:
        from fieldtheory.symbolic.printing import latex

        lines = [r"\text{microscopic:}\quad & S = " + latex(self.steps[0].before.expr)] if self.steps else []
        for step in self.steps:
            rule = step.rule.replace("_", " ") + ("" if step.exact else ", approximate")
            lines.append(rf"\text{{{rule}:}}\quad & S = " + latex(step.after.expr))
        lines += [rf"\text{{{name.replace('_', ' ')}:}}\quad & {latex(equation.lhs)} = {latex(equation.rhs)}"
                  for name, equation in self.equations.items()]
        return "$\\displaystyle\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}$"
