"""A derivation: the list of steps taken, which prints itself and verifies itself.

An exact step is checked *conditionally* and numerically, at random small sizes: only the fields that it
removes are integrated, by quadrature, with all else held at random values, and the result is compared with the
action after the step, additive constants included.  Nothing that the step itself computed (a mean, a
covariance) enters the check.  Observables are checked alike: their average over the
conditional law against what the step turned them into.  An approximate step brings a check of its own, of the
next coefficient of its expansion; without one it counts as not verified.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from os import PathLike
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.errors import NotConverged, RuleError
from fieldtheory.featurelaw import compare_laws, feature_sizes
from fieldtheory.inputlaw import compare_projected, law_and_sizes
from fieldtheory.numerics import conditional_integral, contour_integral, evaluate
from fieldtheory.sitelaw import compare_cavity, compare_decoupled
from fieldtheory.symbolic.fields import Entry, Space, depends_on, open_spaces
from fieldtheory.symbolic.rules import FieldAction, LogIntegral, Step

Array = np.ndarray
Seen = dict[sp.Symbol, set[int]]
"""Sizes used by earlier draws."""
Generator = np.random.Generator
Values = dict[sp.Basic, Any]
Pushed = Mapping[str, tuple[sp.Expr, sp.Expr]]
"""Observables before and after a step, by name."""

TOLERANCE = 1e-9
BUDGET = 3
"""Real components integrated at once."""
DRAWS = 3
"""Random draws of sizes and values for each step."""


@dataclass(frozen=True)
class CheckResult:
    """One quantity compared: how far the two ways of computing it differ, and how far they may."""

    quantity: str
    error: float
    tolerance: float = TOLERANCE
    message: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.tolerance)


Check = Callable[[Generator], list[CheckResult]]
"""What a step may carry as its ``check``; an approximate step must."""


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
        sizes = _size_symbols(self.steps, self.observables.values())
        observables = dict(self.observables)
        for i, (step, rng) in enumerate(zip(self.steps, generators)):
            started = time.perf_counter()
            results = _structure(step, self.steps[i - 1] if i else None, rng, sizes)
            pushed: dict[str, tuple[sp.Expr, sp.Expr]] = {}
            for name, observable in observables.items():
                try:
                    pushed[name] = (observable, sp.sympify(step.push(observable)))
                except Exception as error:
                    results.append(_broken(f"<{name}>", error))
            observables = {name: after for name, (_, after) in pushed.items()}
            results += _check_step(step, pushed, rng, sizes)
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


# ------------------------------------------------------------------------------------------- random values


def _expressions(steps: Iterable[Step], more: Iterable[sp.Basic]) -> Iterator[sp.Basic]:
    for step in steps:
        for action in (step.before, step.after):
            yield action.expr
            yield from action.fields
        yield from step.details.values()
    yield from map(sp.sympify, more)


def _size_symbols(steps: Iterable[Step], more: Iterable[sp.Basic]) -> frozenset[sp.Symbol]:
    """Symbols that are the size of some space somewhere in the derivation, and so are always integers."""
    spaces = {space for expr in _expressions(steps, more) for space in expr.atoms(Space)}
    return frozenset(symbol for space in spaces for symbol in space.size.free_symbols)


def _with(expr: sp.Expr, sizes: Mapping[sp.Symbol, int]) -> sp.Expr:
    return expr.xreplace({symbol: sp.Integer(n) for symbol, n in sizes.items()})


def _draw_sizes(integrated: Sequence[sp.Basic], symbols: frozenset[sp.Symbol], rng: Generator,
                seen: Seen) -> dict[sp.Symbol, int]:
    """Random sizes of 2 to 4, such that at most BUDGET real components are integrated over.

    A draw avoids the sizes that earlier ones have ``seen``, so that together they see several components along
    every space, and no size twice that happens to hide an error (Γ(1) = Γ(2)).
    """
    count = sp.Add(*(sp.Mul(*(space.size for space in getattr(f, "spaces", ()))) for f in integrated))
    bound = sorted(count.free_symbols & symbols, key=str)
    options = [dict(zip(bound, sizes)) for sizes in product(range(1, BUDGET + 1), repeat=len(bound))]
    options = [option for option in options if _with(count, option) <= BUDGET]
    if not options:
        raise RuleError(f"{count} components are too many to integrate over (at most {BUDGET})")
    options = [options[i] for i in rng.permutation(len(options))]
    new = [(sum(n > 1 and max(seen.get(s, {1})) == 1 for s, n in option.items()),
            sum(n > 1 and n not in seen.get(s, ()) for s, n in option.items()),
            sum(n > 1 for n in option.values())) for option in options]
    sizes = dict(options[new.index(max(new))])
    for symbol in sorted(symbols - set(sizes), key=str):
        left = sorted({2, 3, 4} - seen.get(symbol, set()))
        sizes[symbol] = int(rng.choice(left or [2, 3, 4]))
    for symbol, size in sizes.items():
        seen.setdefault(symbol, set()).add(size)
    return sizes


def _draw(exprs: Iterable[sp.Basic], sizes: Mapping[sp.Symbol, int], rng: Generator, *,
          tilt: bool = False) -> Values:
    """Random values for all in some expressions: imaginary fields at i t (with ``tilt``, off the axis)."""
    values: Values = dict(sizes)
    exprs = list(exprs)
    symbols = {s for expr in exprs for s in expr.free_symbols | expr.atoms(sp.Symbol)}
    symbols |= {s for expr in exprs for space in expr.atoms(Space) for s in space.size.free_symbols}
    for symbol in sorted(symbols - set(sizes), key=lambda s: (s.name, sp.srepr(s))):
        if symbol.is_integer:
            values[symbol] = int(rng.integers(2, 5))
        elif symbol.is_nonnegative:
            values[symbol] = rng.uniform(0.6, 1.8)
        else:
            values[symbol] = -rng.uniform(0.6, 1.8) if symbol.is_negative else rng.normal()
    entries = {entry for expr in exprs for entry in expr.atoms(Entry)}
    for entry in sorted(entries, key=sp.default_sort_key):
        shape = tuple(int(_with(space.size, sizes)) for space in entry.spaces)
        if entry.domain in ("positive", "spectrum"):
            values[entry] = rng.uniform(0.4, 1.8, shape)
        elif entry.domain == "imaginary":
            real = rng.normal(scale=0.8, size=shape) if tilt else 0.0
            values[entry] = real + 1j * rng.normal(scale=0.6, size=shape)
        else:
            values[entry] = rng.normal(scale=1.0 if entry.is_data else 0.7, size=shape)
    return values


# --------------------------------------------------------------------------------------- checks of one step


def _broken(quantity: str, error: Exception) -> CheckResult:
    return CheckResult(quantity, float("inf"), TOLERANCE, f"{type(error).__name__}: {error}")


def _density(log_before: complex, log_after: complex) -> float:
    """How far two densities differ, relative, from their logs (which may differ by 2πi)."""
    difference = complex(log_before) - complex(log_after)
    return abs(complex(np.expm1(difference))) if difference.real < 50 else float("inf")


def _far(first: Any, second: Any, scale: Any = 0.0) -> float:
    """Largest difference of two arrays, relative to their largest entry (or ``scale``)."""
    first, second = np.asarray(first), np.asarray(second)
    size = max(np.max(np.abs(first)), np.max(np.abs(second)), np.max(np.abs(scale)), 1e-12)
    return float(np.max(np.abs(first - second)) / size)


def _axes(expr: sp.Expr) -> list[Space]:
    return sorted(open_spaces(expr), key=lambda space: space.name)


def _same_observables(pushed: Pushed, before: Values, after: Values) -> Iterator[CheckResult]:
    """Observables that a step rewrites without averaging."""
    for name, (old, new) in pushed.items():
        axes = _axes(old)
        was, now = evaluate(old, before, axes=axes), evaluate(new, after, axes=axes)
        yield CheckResult(f"<{name}>", _far(was, now))


def _structure(step: Step, previous: Step | None, rng: Generator,
               symbols: frozenset[sp.Symbol]) -> list[CheckResult]:
    """Of any step: it starts where the last one ended, and S has no field that the action lacks."""
    results = []
    for action in (step.before, step.after):
        inner = {f for node in action.expr.atoms(LogIntegral) for f in node.fields}
        loose = {e for e in action.expr.atoms(Entry) if not e.is_data} - inner - set(action.fields)
        if loose:
            names = ", ".join(sorted(e.name for e in loose))
            message = f"{names} in S but not integrated over"
            results.append(CheckResult("fields", float("inf"), message=message))
    if previous is None or previous.after.expr == step.before.expr:
        return results
    try:
        values = _draw((previous.after.expr, step.before.expr), _draw_sizes((), symbols, rng, {}), rng)
        error = _far(evaluate(previous.after.expr, values), evaluate(step.before.expr, values))
        results.append(CheckResult("starts where the last step ended", error))
    except Exception as error:
        results.append(_broken("starts where the last step ended", error))
    return results


def _check_step(step: Step, pushed: Pushed, rng: Generator,
                symbols: frozenset[sp.Symbol]) -> list[CheckResult]:
    """All checks of one step, the worst of a few draws for each quantity."""
    worst: dict[str, CheckResult] = {}
    own: Check | None = step.check
    try:
        rule = _check_of(step)
        if rule is not None:
            seen: Seen = {}
            for _ in range(DRAWS):
                for result in rule(step, pushed, rng, symbols, seen):
                    known = worst.get(result.quantity)
                    if known is None or not result.error <= known.error:
                        worst[result.quantity] = result
        elif own is None:
            message = "not verified: the step brings no check"
            return [CheckResult("next coefficient", float("inf"), message=message)]
        results = list(worst.values())
        return results if own is None else results + list(own(rng))
    except Exception as error:
        return [*worst.values(), _broken("S", error)]


def _relevant(step: Step, pushed: Pushed) -> list[sp.Basic]:
    more = [expr for pair in pushed.values() for expr in pair]
    return list(_expressions((step,), [*more, *step.removed, *step.added]))


def _until_convergent(compute: Callable[[Values], Any], draw: Callable[[bool], Values]) -> tuple[Values, Any]:
    """Draw values until the integral converges: first with imaginary fields on their axis, then off it.

    Both sides of an exact step are analytic in the fields that are held fixed, so they may be held at any
    value at which the integral converges.
    """
    for attempt in range(16):
        values = draw(attempt > 0)
        try:
            return values, compute(values)
        except NotConverged as error:
            last = error
    raise last


def _integrated(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
                seen: Seen) -> Iterator[CheckResult]:
    """Fields integrated out (or in, by a step that linearises): -ln ∫ e^{-S}, and averages over that law."""
    gone = step.removed or step.added
    if step.removed and step.added:
        raise RuleError(f"no check is known for {step.rule}, which removes and adds fields")
    whole, left = (step.before, step.after) if step.removed else (step.after, step.before)
    sizes = _draw_sizes(gone, symbols, rng, seen)
    relevant = _relevant(step, pushed)
    values, quadrature = _until_convergent(lambda drawn: conditional_integral(whole.expr, gone, drawn),
                                           lambda tilt: _draw(relevant, sizes, rng, tilt=tilt))
    yield CheckResult("S", _density(quadrature.log_value, -evaluate(left.expr, values)))
    if not step.removed:
        yield from _same_observables(pushed, values, values)
        return
    at_nodes = {**values, **quadrature.field_values}
    for name, (old, new) in pushed.items():
        axes = _axes(old)
        at_node, after = np.asarray(evaluate(old, at_nodes, axes=axes)), evaluate(new, values, axes=axes)
        if not any(depends_on(old, f) for f in gone):
            at_node = np.broadcast_to(at_node[..., None], (*at_node.shape, quadrature.weights.size))
        average, scale = quadrature.average(at_node)
        yield CheckResult(f"<{name}>", _far(average, after, scale))


def _contour(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
             seen: Seen) -> Iterator[CheckResult]:
    """A scalar conjugate integrated out along a contour around the branch point of the action."""
    (conjugate,) = step.removed
    values = _draw(_relevant(step, pushed), _draw_sizes((), symbols, rng, seen), rng)
    log_value, spread = contour_integral(
        lambda h: np.asarray(evaluate(step.before.expr, {**values, conjugate: h[0]})))
    yield CheckResult("S", max(_density(log_value, -evaluate(step.after.expr, values)), spread))
    yield from _same_observables(pushed, values, values)


def _changed(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
             seen: Seen) -> Iterator[CheckResult]:
    """A change of variables: S'(new) = S(old(new)) - ln|numerical derivative| at a point, and the same integral.

    Only the integrals see whether the map reaches every value of the old field.
    """
    sizes = _draw_sizes((), symbols, rng, seen)
    relevant = _relevant(step, pushed)
    before = _draw(relevant, sizes, rng)
    after = dict(before)
    log_jacobian = 0.0
    changed: list[sp.Basic] = []
    for old, expression in step.substitution.items():
        (new,) = (f for f in step.after.fields if f not in step.before.fields and depends_on(expression, f))
        changed.append(new)
        before[old] = evaluate(expression, after)
        tilted = evaluate(expression, {**after, new: after[new] + 1e-30j})
        log_jacobian += float(np.log(abs(np.imag(tilted) / 1e-30)))
    yield CheckResult("S", _density(log_jacobian - evaluate(step.before.expr, before),
                                    -evaluate(step.after.expr, after)))
    values, whole = _until_convergent(
        lambda drawn: conditional_integral(step.before.expr, list(step.substitution), drawn),
        lambda tilt: _draw(relevant, sizes, rng, tilt=tilt))
    image = conditional_integral(step.after.expr, changed, values)
    yield CheckResult("integral", _density(whole.log_value, image.log_value))
    yield from _same_observables(pushed, before, after)


def _introduced(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
                seen: Seen) -> Iterator[CheckResult]:
    """A name and its conjugate: S' = S where the name is right; the conjugate times name - definition."""
    name, conjugate = step.added
    definition = step.details["definition"]
    values = _draw(_relevant(step, pushed), _draw_sizes((), symbols, rng, seen), rng)
    right = np.asarray(evaluate(definition, values, axes=name.spaces))
    named = {**values, name: right}
    before, after = evaluate(step.before.expr, values), evaluate(step.after.expr, named)
    yield CheckResult("S", _far(before, after, 1.0))
    off = evaluate(step.after.expr, {**values, conjugate: np.zeros_like(values[conjugate])})
    coupling = np.sum(values[conjugate] * (values[name] - right))
    yield CheckResult("conjugate coupling", _far(evaluate(step.after.expr, values) - off, coupling, 1.0))
    yield from _same_observables(pushed, values, named)


def _rotated(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
             seen: Seen) -> Iterator[CheckResult]:
    """A rotation into the eigenbasis of a random matrix, with more rows than columns or fewer."""
    matrix, rows, modes, spectrum, scale = (step.details[key] for key in
                                            ("matrix", "rows", "modes", "spectrum", "scale"))
    projections = dict(step.details.get("projections", sp.Dict()))
    (columns,) = (space for space in matrix.spaces if space != rows)
    relevant = _relevant(step, pushed)
    sizes = _draw_sizes((), symbols, rng, seen)
    if {rows.size, columns.size} <= symbols and len(seen[rows.size]) < 3:  # both shapes, whatever the sizes drawn
        sizes |= {rows.size: 3, columns.size: 2} if len(seen[rows.size]) == 1 else {rows.size: 2, columns.size: 3}
    before = _draw(relevant, sizes, rng)
    x = before[matrix] if matrix.spaces[0] == rows else before[matrix].T
    eigenvalues, basis = np.linalg.eigh(x @ x.T)
    eigenvalues = np.where(np.arange(len(x)) < len(x) - x.shape[1], 0.0, eigenvalues)
    after = dict(before)
    after[spectrum] = eigenvalues / evaluate(scale, before)
    for entry in [e for e in before if isinstance(e, Entry)]:
        if rows in entry.spaces and entry != matrix:
            axis = entry.spaces.index(rows)
            twin = Entry(entry.name, entry.domain, tuple(modes if s == rows else s for s in entry.spaces))
            after[twin] = np.moveaxis(np.tensordot(basis.T, before[entry], (1, axis)), 0, axis)
    for other, projection in projections.items():
        axis = other.spaces.index(columns)
        found = np.tensordot(before[other], basis.T @ x, (axis, 1))  # X' Xᵀ U, with modes last
        after[projection] = found if projection.spaces[-1] == modes else np.moveaxis(found, -1, 0)
    yield CheckResult("S", _far(evaluate(step.before.expr, before), evaluate(step.after.expr, after), 1.0))
    for name, (old, new) in pushed.items():
        axes = _axes(old)
        was = np.asarray(evaluate(old, before, axes=axes))
        if rows in axes:
            axis = axes.index(rows)
            was = np.moveaxis(np.tensordot(basis.T, was, (1, axis)), 0, axis)
        now = evaluate(new, after, axes=[modes if space == rows else space for space in axes])
        yield CheckResult(f"<{name}>", _far(was, now))


def _one_site(action: FieldAction, other: FieldAction) -> list[LogIntegral]:
    """One-site integrals that stand in one action and not in the other."""
    return sorted(action.expr.atoms(LogIntegral) - other.expr.atoms(LogIntegral), key=sp.default_sort_key)


def _factorised(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
                seen: Seen) -> Iterator[CheckResult]:
    """S' is linear in the one-site integral; with its integrand's mean over sites in its place, S' is S."""
    space = step.details["space"]
    (integral,) = _one_site(step.after, step.before)
    values = _draw(_relevant(step, pushed), _draw_sizes((), symbols, rng, seen), rng)
    sites = dict(values)
    for f in step.removed:
        twin = Entry(f.name, f.domain, tuple(s for s in f.spaces if s != space))
        sites[twin] = np.moveaxis(values[f], f.spaces.index(space), -1)
    mean = -np.mean(evaluate(integral.body, sites))
    yield CheckResult("S", _far(evaluate(step.before.expr, values),
                                evaluate(step.after.expr, {**values, integral: mean}), 1.0))
    yield from _same_observables(pushed, values, values)


def _site_integrated(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
                     seen: Seen) -> Iterator[CheckResult]:
    """A field of the one-site integral: its integrand integrated over this field is the integrand after."""
    (whole,) = _one_site(step.before, step.after)
    left = _one_site(step.after, step.before)
    sizes = _draw_sizes(step.removed, symbols, rng, seen)
    relevant = _relevant(step, pushed)
    values, quadrature = _until_convergent(
        lambda drawn: conditional_integral(whole.body, step.removed, drawn),
        lambda tilt: _draw(relevant, sizes, rng, tilt=tilt))
    after = {**values, **{node: -evaluate(node.body, values) for node in left}}
    yield CheckResult("S", _density(-evaluate(step.before.expr, {**values, whole: quadrature.log_value}),
                                    -evaluate(step.after.expr, after)))
    yield from _same_observables(pushed, values, after)


def _rewritten(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
               seen: Seen) -> Iterator[CheckResult]:
    """Neither fields nor values change: the same function, written otherwise."""
    values = _draw(_relevant(step, pushed), _draw_sizes((), symbols, rng, seen), rng)
    yield CheckResult("S", _far(evaluate(step.before.expr, values), evaluate(step.after.expr, values), 1.0))
    yield from _same_observables(pushed, values, values)


def _leading(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
             seen: Seen) -> Iterator[CheckResult]:
    """Terms of order N^-k dropped: N^k (S - S') must approach N^k times the first of them.

    What is dropped of an observable is not on record; N^(k-1) times the difference must approach zero.
    """
    large, exponent = (1 / sp.sympify(step.remainder)).as_base_exp()
    if not (large.is_Symbol and exponent.is_Integer):
        raise RuleError(f"the remainder {step.remainder} is no whole power of a parameter")
    power = int(exponent)
    dropped = step.details["dropped"]
    values = _draw(_relevant(step, pushed), _draw_sizes((), symbols - {large}, rng, seen), rng)

    def limit(quantity: Callable[[Values, int], Any]) -> Any:
        """As N → ∞, by two Richardson steps in 1/N: O(N^-3) is left."""
        first, second, third = (np.asarray(quantity({**values, large: n}, n)) for n in (1000, 2000, 4000))
        return (8 * third - 6 * second + first) / 3

    found, expected = limit(lambda at, n: [
        n**power * (complex(evaluate(step.before.expr, at)) - complex(evaluate(step.after.expr, at))),
        n**power * complex(evaluate(dropped, at))])
    yield CheckResult("next coefficient", _far(found, expected, 1e-3), 1e-5)
    for name, (old, new) in pushed.items():
        axes = _axes(old)
        kept, left = limit(lambda at, n, old=old, new=new, axes=axes: [  # type: ignore[misc]
            evaluate(new, at, axes=axes),
            n**(power - 1) * (evaluate(old, at, axes=axes) - evaluate(new, at, axes=axes))])
        yield CheckResult(f"<{name}>", float(np.max(np.abs(left)) / max(np.max(np.abs(kept)), 1e-3)), 1e-5)


def _featured(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
              seen: Seen) -> Iterator[CheckResult]:
    """Features made Gaussian: one site's law before and after, for small readouts."""
    samples = 1 + len(seen) % 2
    sizes = {**dict.fromkeys(symbols, 2), **feature_sizes(step, samples)}
    seen[sp.Symbol(f"draw {len(seen)}")] = set()
    for quantity, error, tolerance in compare_laws(step, pushed, _draw(_relevant(step, pushed), sizes, rng)):
        yield CheckResult(quantity, error, tolerance)


def _singled_out(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
                 seen: Seen) -> Iterator[CheckResult]:
    """One site of one, two and three."""
    compare = {"decouple": compare_decoupled, "cavity": compare_cavity}[step.rule]
    count = 1 + len(seen) % 3
    seen[sp.Symbol(f"draw {len(seen)}")] = set()
    sizes = {**dict.fromkeys(symbols, 2), step.details["space"].size: count}
    for quantity, error, tolerance in compare(step, pushed, _draw(_relevant(step, pushed), sizes, rng), count, rng):
        yield CheckResult(quantity, error, tolerance)


def _over_inputs(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
                 seen: Seen) -> Iterator[CheckResult]:
    """Averages over inputs, on a law with few points."""
    law, given = law_and_sizes(step)
    sizes = {**dict.fromkeys(symbols, 2), **given}
    seen[sp.Symbol(f"draw {len(seen)}")] = set()
    values = _draw(_relevant(step, pushed), sizes, rng)  # type: ignore[arg-type]
    for quantity, error in compare_projected(step, pushed, values, law):
        yield CheckResult(quantity, error, law.tolerance)


Rule = Callable[[Step, Pushed, Generator, frozenset[sp.Symbol], Seen], Iterator[CheckResult]]
_RULES: dict[str, Rule] = {
    "integrate_out": _integrated, "integrate_conjugate": _contour, "change_variable": _changed,
    "introduce": _introduced, "diagonalise": _rotated, "factorise": _factorised,
    "integrate_site": _site_integrated, "gaussian_features": _featured,
    "complete": _over_inputs, "restrict": _over_inputs,
}


_APPROXIMATIONS: dict[str, Rule] = {"leading_order": _leading, "gaussian_features": _featured,
                                    "decouple": _singled_out, "cavity": _singled_out,
                                    "project": _over_inputs, "restrict": _over_inputs}


def _check_of(step: Step) -> Rule | None:
    """The check of a step: by its rule's name, or for an exact one by what it changes."""
    if not step.exact:
        return _APPROXIMATIONS.get(step.rule)
    if step.rule in _RULES:
        return _RULES[step.rule]
    if step.substitution:
        return _changed
    return _integrated if step.removed or step.added else _rewritten


__all__ = ["Check", "CheckResult", "Derivation", "Row", "VerificationReport"]
