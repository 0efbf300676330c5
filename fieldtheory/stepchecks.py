"""The numerical check of one step of a derivation, by its rule.

An exact step is checked *conditionally*, at random small sizes: only the fields that it removes are integrated, by
quadrature, with all else held at random values, and the result is compared with the action after the step, additive
constants included.  Nothing that the step itself computed (a mean, a covariance) enters the check.  Observables are
checked alike: their average over the conditional law against what the step turned them into.  An approximate step
brings a check of its own, of the next coefficient of its expansion; without one it counts as not verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.errors import NotConverged, RuleError
from fieldtheory.featurelaw import compare_laws, feature_sizes
from fieldtheory.inputlaw import compare_projected, law_and_sizes
from fieldtheory.numerics import conditional_integral, contour_integral, evaluate
from fieldtheory.randompoints import Generator, Seen, Values, draw, draw_sizes, expressions
from fieldtheory.sectorlaw import compare_in_sectors, is_in_sectors, sizes_in_sectors
from fieldtheory.sitelaw import compare_cavity, compare_decoupled, compare_fluctuation, compare_hyperprior
from fieldtheory.symbolic.fields import Entry, Space, depends_on, open_spaces
from fieldtheory.symbolic.rules import FieldAction, LogIntegral, Step
from fieldtheory.treelaw import compare_site_saddle

Pushed = Mapping[str, tuple[sp.Expr, sp.Expr]]
"""Observables before and after a step, by name."""

TOLERANCE = 1e-9
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


def broken(quantity: str, error: Exception) -> CheckResult:
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


def check_structure(step: Step, previous: Step | None, rng: Generator,
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
        values = draw((previous.after.expr, step.before.expr), draw_sizes((), symbols, rng, {}), rng)
        error = _far(evaluate(previous.after.expr, values), evaluate(step.before.expr, values))
        results.append(CheckResult("starts where the last step ended", error))
    except Exception as error:
        results.append(broken("starts where the last step ended", error))
    return results


def check_step(step: Step, pushed: Pushed, rng: Generator,
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
        return [*worst.values(), broken("S", error)]


def _relevant(step: Step, pushed: Pushed) -> list[sp.Basic]:
    more = [expr for pair in pushed.values() for expr in pair]
    return list(expressions((step,), [*more, *step.removed, *step.added]))


def _until_convergent(compute: Callable[[Values], Any], point: Callable[[bool], Values]) -> tuple[Values, Any]:
    """Draw values until the integral converges: first with imaginary fields on their axis, then off it.

    Both sides of an exact step are analytic in the fields that are held fixed, so they may be held at any
    value at which the integral converges.
    """
    for attempt in range(16):
        values = point(attempt > 0)
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
    sizes = draw_sizes(gone, symbols, rng, seen)
    relevant = _relevant(step, pushed)
    values, quadrature = _until_convergent(lambda drawn: conditional_integral(whole.expr, gone, drawn),
                                           lambda tilt: draw(relevant, sizes, rng, tilt=tilt))
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
    values = draw(_relevant(step, pushed), draw_sizes((), symbols, rng, seen), rng)
    log_value, spread = contour_integral(
        lambda h: np.asarray(evaluate(step.before.expr, {**values, conjugate: h[0]})))
    yield CheckResult("S", max(_density(log_value, -evaluate(step.after.expr, values)), spread))
    yield from _same_observables(pushed, values, values)


def _changed(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
             seen: Seen) -> Iterator[CheckResult]:
    """A change of variables: S'(new) = S(old(new)) - ln|numerical derivative| at a point, and the same integral.

    Only the integrals see whether the map reaches every value of the old field.
    """
    sizes = draw_sizes((), symbols, rng, seen)
    relevant = _relevant(step, pushed)
    before = draw(relevant, sizes, rng)
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
        lambda tilt: draw(relevant, sizes, rng, tilt=tilt))
    image = conditional_integral(step.after.expr, changed, values)
    yield CheckResult("integral", _density(whole.log_value, image.log_value))
    yield from _same_observables(pushed, before, after)


def _introduced(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
                seen: Seen) -> Iterator[CheckResult]:
    """A name and its conjugate: S' = S where the name is right; the conjugate times name - definition."""
    name, conjugate = step.added
    definition = step.details["definition"]
    values = draw(_relevant(step, pushed), draw_sizes((), symbols, rng, seen), rng)
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
    sizes = draw_sizes((), symbols, rng, seen)
    if {rows.size, columns.size} <= symbols and len(seen[rows.size]) < 3:  # both shapes, whatever the sizes drawn
        sizes |= {rows.size: 3, columns.size: 2} if len(seen[rows.size]) == 1 else {rows.size: 2, columns.size: 3}
    before = draw(relevant, sizes, rng)
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
    values = draw(_relevant(step, pushed), draw_sizes((), symbols, rng, seen), rng)
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
    sizes = draw_sizes(step.removed, symbols, rng, seen)
    relevant = _relevant(step, pushed)
    values, quadrature = _until_convergent(
        lambda drawn: conditional_integral(whole.body, step.removed, drawn),
        lambda tilt: draw(relevant, sizes, rng, tilt=tilt))
    after = {**values, **{node: -evaluate(node.body, values) for node in left}}
    yield CheckResult("S", _density(-evaluate(step.before.expr, {**values, whole: quadrature.log_value}),
                                    -evaluate(step.after.expr, after)))
    yield from _same_observables(pushed, values, after)


def _rewritten(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
               seen: Seen) -> Iterator[CheckResult]:
    """Neither fields nor values change: the same function, written otherwise."""
    values = draw(_relevant(step, pushed), draw_sizes((), symbols, rng, seen), rng)
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
    values = draw(_relevant(step, pushed), draw_sizes((), symbols - {large}, rng, seen), rng)

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
    for quantity, error, tolerance in compare_laws(step, pushed, draw(_relevant(step, pushed), sizes, rng)):
        yield CheckResult(quantity, error, tolerance)


def _singled_out(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
                 seen: Seen) -> Iterator[CheckResult]:
    """One site of one, two and three."""
    compare = {"decouple": compare_decoupled, "cavity": compare_cavity}[step.rule]
    count = 2 if step.details.get("aside") else 1 + len(seen) % 3
    seen[sp.Symbol(f"draw {len(seen)}")] = set()
    sizes = {**dict.fromkeys(symbols, 2), step.details["space"].size: count}
    for quantity, error, tolerance in compare(step, pushed, draw(_relevant(step, pushed), sizes, rng), count, rng):
        yield CheckResult(quantity, error, tolerance)


def _clustered(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
               seen: Seen) -> Iterator[CheckResult]:
    """The clusters of a cavity's fluctuation, and its medium."""
    details = step.details
    seen[sp.Symbol(f"draw {len(seen)}")] = set()
    sizes = dict.fromkeys(symbols, 2)
    exprs = [step.before.expr, *(details[key] for key in ("whole", "basis", "spectrum", "screening", "bare"))]
    for quantity, error, tolerance in compare_fluctuation(step, draw(exprs, sizes, rng), rng):
        yield CheckResult(quantity, error, tolerance)


def _tree_level(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
                seen: Seen) -> Iterator[CheckResult]:
    """A shared field at its saddle, with one sample and two, one site and two."""
    turn = len(seen)
    seen[sp.Symbol(f"draw {turn}")] = set()
    samples, count = ((1, 2), (2, 1), (2, 2))[turn % 3]
    (sample,) = step.details["shared"].spaces  # type: ignore[attr-defined]
    sizes = {**dict.fromkeys(symbols, 2), step.details["space"].size: count, sample.size: samples}  # type: ignore[attr-defined]
    values = draw(_relevant(step, pushed), sizes, rng)
    for quantity, error, tolerance in compare_site_saddle(step, pushed, values, count, rng):
        yield CheckResult(quantity, error, tolerance)


def _hyperprior(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
                seen: Seen) -> Iterator[CheckResult]:
    """The law of a shared field of one component, and of two."""
    count = 1 + len(seen) % 2
    seen[sp.Symbol(f"draw {len(seen)}")] = set()
    (space,) = step.details["shared"].spaces  # type: ignore[attr-defined]
    sizes = {**dict.fromkeys(symbols, 2), space.size: count}
    for quantity, error, tolerance in compare_hyperprior(step, pushed, draw(_relevant(step, pushed), sizes, rng), rng):
        yield CheckResult(quantity, error, tolerance)


def _over_inputs(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
                 seen: Seen) -> Iterator[CheckResult]:
    """Averages over inputs, on a law with few points."""
    if is_in_sectors(step):
        yield from _in_sectors(step, pushed, rng, symbols)
        return
    law, given = law_and_sizes(step)
    sizes = {**dict.fromkeys(symbols, 2), **given}
    seen[sp.Symbol(f"draw {len(seen)}")] = set()
    values = draw(_relevant(step, pushed), sizes, rng)  # type: ignore[arg-type]
    for quantity, error in compare_projected(step, pushed, values, law):
        yield CheckResult(quantity, error, law.tolerance)


def _in_sectors(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol]) -> Iterator[CheckResult]:
    """Blocks by symmetry, on orbits of a small group."""
    sizes = {**dict.fromkeys(symbols, 2), **sizes_in_sectors(step)}
    values = draw(_relevant(step, pushed), sizes, rng)  # type: ignore[arg-type]
    for quantity, error in compare_in_sectors(step, pushed, values, rng):
        yield CheckResult(quantity, error)


def _split(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
           seen: Seen) -> Iterator[CheckResult]:
    """The fields of the populations, one after another, are those of the sites."""
    space, populations = step.details["space"], dict(step.details["populations"])
    sizes = draw_sizes((), symbols | {part.size for part in populations}, rng, seen)
    sizes[space.size] = sum(sizes[part.size] for part in populations)
    after = draw([*_relevant(step, pushed), *step.after.fields], sizes, rng)
    before = dict(after)
    for table in zip(*populations.values(), strict=True):
        (field,) = {pair[0] for pair in table}
        before[field] = np.concatenate([after[pair[1]] for pair in table], axis=field.spaces.index(space))
    yield CheckResult("S", _far(evaluate(step.before.expr, before), evaluate(step.after.expr, after), 1.0))
    yield from _same_observables(pushed, before, after)


def _operator(step: Step, pushed: Pushed, rng: Generator, symbols: frozenset[sp.Symbol],
              seen: Seen) -> Iterator[CheckResult]:
    """Every point of a law sampled once: the eigenvalues and eigenfunctions of a kernel of low rank are then known."""
    spectrum, modes = step.details["spectrum"], step.details["modes"]
    (old,) = spectrum.spaces
    samples, rank = 3 + len(seen) % 2, 2
    seen[sp.Symbol(f"draw {len(seen)}")] = set()
    points = rng.standard_normal((samples, rank))
    eigenvalues, basis = np.linalg.eigh(points @ points.T)
    operator, functions = np.linalg.eigh(points @ points.T / samples)
    keep = slice(samples - rank, None)
    values = draw(_relevant(step, pushed), {**dict.fromkeys(symbols, 2), old.size: samples, modes.size: rank}, rng)
    values[spectrum] = np.where(np.arange(samples) < samples - rank, 0.0, eigenvalues)
    values[Entry(str(step.details["name"]), spectrum.domain, (modes,))] = operator[keep]
    for entry in [e for e in values if isinstance(e, Entry) and e.spaces == (old,) and e != spectrum]:
        on_samples = points @ rng.standard_normal(rank)  # in the range of the kernel
        values[entry] = basis.T @ on_samples
        e_k = np.sqrt(samples) * functions[:, keep]
        values[Entry(entry.name, entry.domain, (modes,))] = e_k.T @ on_samples / samples
    yield CheckResult("S", _far(evaluate(step.before.expr, values), evaluate(step.after.expr, values), 1.0))
    for name, (before, after) in pushed.items():
        axes = _axes(before)
        was = np.asarray(evaluate(before, values, axes=axes))
        now = np.asarray(evaluate(after, values, axes=_axes(after)))
        if old in axes:
            was, now = basis @ was, np.sqrt(samples) * functions[:, keep] @ now
        yield CheckResult(f"<{name}>", _far(was, now))


Rule = Callable[[Step, Pushed, Generator, frozenset[sp.Symbol], Seen], Iterator[CheckResult]]
_RULES: dict[str, Rule] = {
    "integrate_out": _integrated, "integrate_conjugate": _contour, "change_variable": _changed,
    "introduce": _introduced, "diagonalise": _rotated, "factorise": _factorised, "split": _split,
    "integrate_site": _site_integrated, "gaussian_features": _featured, "fluctuation": _clustered,
    "complete": _over_inputs, "diagonal": _over_inputs, "sectors": _over_inputs, "restrict": _over_inputs,
}


_APPROXIMATIONS: dict[str, Rule] = {"leading_order": _leading, "gaussian_features": _featured,
                                    "decouple": _singled_out, "cavity": _singled_out, "site_saddle": _tree_level,
                                    "hyperprior": _hyperprior, "project": _over_inputs, "restrict": _over_inputs,
                                    "integral_operator": _operator}


def _check_of(step: Step) -> Rule | None:
    """The check of a step: by its rule's name, or for an exact one by what it changes."""
    if not step.exact:
        return _APPROXIMATIONS.get(step.rule)
    if step.rule in _RULES:
        return _RULES[step.rule]
    if step.substitution:
        return _changed
    return _integrated if step.removed or step.added else _rewritten
