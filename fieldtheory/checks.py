"""The check of a closure: the error of an expansion against its own next term, at several values of ħ.

Dividing the action by ħ counts loops.  The average over exp(-S/ħ) is done by quadrature, at random small sizes;
(exact - kept)/(kept with one more loop - kept) must approach 1 as ħ → 0, which tests the coefficient and not
merely the slope.  Derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from fieldtheory.derivation import Check, CheckResult
from fieldtheory.errors import RuleError
from fieldtheory.numerics import evaluate
from fieldtheory.solve import newton_system
from fieldtheory.symbolic.closures import Closure, FieldClosure, ScalarClosure
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, entries, vary
from fieldtheory.symbolic.loops import ScalarExpansion, hbar, loop_coefficients, scalar_derivatives
from fieldtheory.symbolic.series import numerical_value

Array = np.ndarray
Generator = np.random.Generator

LOOP_PARAMETERS = (sp.Rational(1, 16), sp.Rational(1, 32), sp.Rational(1, 64))
TOLERANCE = 0.15
"""How far from 1 the ratio may be at the smallest ħ; it must also have come closer with each halving."""
DIGITS = 30


def check_closure(closure: Closure) -> Check | None:
    """The check that the closing step of a derivation carries; None where nothing was dropped."""
    if isinstance(closure, ScalarClosure):
        return lambda rng: _check_scalar(closure, rng)
    if isinstance(closure, FieldClosure):
        return lambda rng: _check_field(closure, rng)
    return None


def _draw(expr: sp.Expr, skip: set[sp.Basic], samples: int, rng: Generator) -> dict[sp.Basic, Any]:
    """Random parameters and data of order one; every space has ``samples`` points."""
    sizes = {symbol for space in expr.atoms(Space) for symbol in space.size.free_symbols}
    values: dict[sp.Basic, Any] = {}
    for symbol in sorted(expr.free_symbols | sizes, key=sp.default_sort_key):
        if symbol not in skip:
            values[symbol] = samples if symbol in sizes else int(rng.integers(6, 10)) if symbol.name == "N" \
                else float(rng.uniform(0.5, 1.5))
    for entry in entries(expr):
        if entry not in skip:
            shape = (samples,) * len(entry.spaces)
            signs = 1 if entry.domain == "spectrum" else rng.choice([-1, 1], shape)
            values[entry] = rng.uniform(0.4, 1.6, shape) * signs
    return values


def _ratios(name: str, ratios: list[float]) -> CheckResult:
    distances = [abs(ratio - 1) for ratio in ratios]
    closer = all(after < before or after < 1e-6 for before, after in pairwise(distances))
    message = "(exact - kept)/(next - kept) = " + ", ".join(f"{ratio:.4f}" for ratio in ratios)
    return CheckResult(name, distances[-1] if closer else float("inf"), TOLERANCE, message)


def _check_scalar(closure: ScalarClosure, rng: Generator) -> list[CheckResult]:
    """⟨Q⟩, ⟨Q²⟩ of the unknown Q, and ln Z of one scalar field, by quadrature at 30 digits."""
    field, loops = closure.field, closure.loops
    values = _draw(closure.action.expr, {field}, 3, rng)
    unknown = _inverse(closure.coordinate, closure.symbol, field)
    observables = {f"<{closure.symbol}>": unknown, f"<{closure.symbol}^2>": unknown**2}
    action = _explicit(closure.action.expr, values)
    with mpmath.workdps(DIGITS + 10):
        x = _lowest_minimum(_function(action, field), _function(scalar_derivatives(action, field, 1)[1], field))
        at = {field: sp.Float(x, DIGITS + 10)}
        # S_2 … S_{2L+4} and the jets of the observables: all that L + 1 loops need, as numbers.
        S = [_number(term, at) for term in scalar_derivatives(action, field, 2 * loops + 4)]
        jets = {name: [_number(term, at) for term in scalar_derivatives(o, field, 2 * loops + 2)]
                for name, o in observables.items()}
        jets["ln Z"] = []
        functions = {name: _function(o, field) for name, o in observables.items()}
        exact = [_moments(_function(action, field), functions, x, S, h) for h in LOOP_PARAMETERS]
        results = []
        for name, jet in jets.items():
            ratios = []
            for h, moments in zip(LOOP_PARAMETERS, exact, strict=True):
                kept, further = (_expanded(S, jet, loops + more, h) for more in (0, 1))
                ratios.append(float((moments[name] - kept) / (further - kept)))
            results.append(_ratios(name, ratios))
        at_one = [_expanded(S, jets[name], loops, 1) for name in observables]
    claimed = [closure.average(observable) for observable in observables.values()]
    results.append(_agreement(closure, claimed, at_one, values | {field: x}))
    return results


def _explicit(expr: sp.Expr, values: dict[sp.Basic, Any]) -> sp.Expr:
    """The same expression with sums written out and numbers put in, a function of the fields alone."""
    def at(node: sp.Basic, point: dict[Space, int]) -> sp.Basic:
        if isinstance(node, SpaceSum):
            size = np.shape(values[next(e for e in entries(node) if node.space in e.spaces and e in values)])[0]
            return sp.Add(*(at(node.body, point | {node.space: k}) for k in range(size)))
        if isinstance(node, Entry) and node in values:
            return sp.Float(float(np.asarray(values[node])[tuple(point[s] for s in node.spaces)]), DIGITS + 10)
        if isinstance(node, sp.Symbol) and node in values:
            return sp.Float(values[node], DIGITS + 10)  # type: ignore[arg-type]
        if isinstance(node, Entry) or not node.args:
            return node
        return node.func(*(at(arg, point) for arg in node.args))

    return at(expr, {})  # type: ignore[return-value]


def _function(expr: sp.Expr, field: sp.Expr) -> Callable[[object], mpmath.mpf]:
    dummy = sp.Dummy("u")
    return sp.lambdify(dummy, expr.xreplace({field: dummy}), "mpmath")


def _number(expr: sp.Expr, at: dict[sp.Basic, sp.Expr]) -> mpmath.mpf:
    return mpmath.mpf(expr.xreplace(at).evalf(DIGITS + 10))


def _lowest_minimum(action: Callable[[object], mpmath.mpf], slope: Callable[[object], mpmath.mpf]) -> mpmath.mpf:
    """The lowest minimum of S(u) within |u| < 8."""
    grid = np.linspace(-8.0, 8.0, 161)
    k = int(np.argmin([float(action(u)) for u in grid]))
    if k in (0, len(grid) - 1):
        raise RuleError("the saddle of the drawn action lies outside the range searched")
    return mpmath.findroot(slope, (grid[k - 1], grid[k + 1]), solver="anderson", tol=mpmath.mpf(10)**(-2 * DIGITS))


def _expanded(S: list[mpmath.mpf], jet: list[mpmath.mpf], loops: int, h: object) -> mpmath.mpf:
    """⟨O⟩ for S/ħ through that many loops, from numbers; ln Z, through one loop more, where there is no jet."""
    loop = loop_coefficients(loops)
    h = mpmath.mpf(sp.Rational(h).p) / sp.Rational(h).q
    table = {loop.propagator: sp.Float(h / S[2], DIGITS + 10)}
    table |= {symbol: sp.Float(S[k] / h, DIGITS + 10) for k, symbol in loop.vertices.items()}
    if not jet:
        total = -S[0] / h - mpmath.log(S[2] / (2 * mpmath.pi * h)) / 2
        return total + mpmath.fsum(_number(z, table) for z in loop.log_partition.values())
    return mpmath.fsum(_number(sp.Add(*c.values()), table) * jet[n] for n, c in loop.expectation.items())


def _moments(action: Callable[[object], mpmath.mpf], observables: dict[str, Callable[[object], mpmath.mpf]],
             x: mpmath.mpf, S: list[mpmath.mpf], h: sp.Rational) -> dict[str, mpmath.mpf]:
    """ln ∫ e^{-S/ħ} and averages over it, by the trapezoidal rule, which converges geometrically here."""
    hm = mpmath.mpf(h.p) / h.q
    step = mpmath.sqrt(hm / S[2]) / 4
    nodes = [x + step * k for k in range(-60, 61)]
    weights = [mpmath.exp(-(action(u) - S[0]) / hm) for u in nodes]
    norm = mpmath.fsum(weights)
    found = {"ln Z": mpmath.log(norm * step) - S[0] / hm}
    for name, observable in observables.items():
        found[name] = mpmath.fsum(w * observable(u) for w, u in zip(weights, nodes, strict=True)) / norm
    return found


def _agreement(closure: ScalarClosure, claimed: list[sp.Expr], expected: list[mpmath.mpf],
               values: dict[sp.Basic, Any]) -> CheckResult:
    """What the closure reports, through its coefficients and in its own unknown, is the expansion at ħ = 1."""
    at = dict(values)
    at[closure.symbol] = numerical_value(_inverse(closure.coordinate, closure.symbol, closure.field), values, DIGITS)
    for symbol, expr in closure.coefficients.items():
        at[symbol] = numerical_value(expr, at, DIGITS)
    worst = max(float(abs(numerical_value(expr, at, DIGITS) / value - 1))
                for expr, value in zip(claimed, expected, strict=True))
    return CheckResult("averages as reported", worst, 1e-12)


def _inverse(coordinate: sp.Expr, symbol: sp.Symbol, field: sp.Expr) -> sp.Expr:
    """The unknown as a function of the field: u = ln Q gives Q = e^u."""
    dummy = sp.Dummy("u", real=True)
    (solution,) = sp.solve(coordinate - dummy, symbol)
    return solution.xreplace({dummy: field})


# ------------------------------------------------------------------------------------ a field over a space


def _check_field(closure: FieldClosure, rng: Generator) -> list[CheckResult]:
    """⟨j⟩ with one sample (the coefficient) and with two (cross-mode terms), and the closed equations of state."""
    results = [_closed_equations(closure, rng)]
    for samples in (1, 2):
        if closure.loops and samples == 2:
            results.append(_second_order(closure, rng))
            continue
        values = _draw(closure.gamma, {closure.field, hbar}, samples, rng)
        ratios = []
        for h in map(float, LOOP_PARAMETERS):
            exact = _field_mean(closure, values, h, samples)
            kept = _stationary(closure, values, h, samples, loops=closure.loops)
            further = (_two_loops(closure, values, h) if closure.loops
                       else _stationary(closure, values, h, samples, loops=1))
            ratios.append(float(np.sum(exact - kept) / np.sum(further - kept)))
        results.append(_ratios(f"<{closure.field.name}>, {samples} sample{'s' * (samples > 1)}", ratios))
    return results


def _gamma(closure: FieldClosure, loops: int) -> sp.Expr:
    """The effective action of S/ħ times ħ."""
    parts = replace(closure, loops=loops)
    return parts.gamma


def _stationary(closure: FieldClosure, values: dict[sp.Basic, Any], h: float, samples: int, *, loops: int) -> Array:
    """The stationary point of the effective action, as a vector, by Newton's method on all components."""
    gradient = vary(_gamma(closure, loops), closure.field)
    tree = vary(closure.action.expr, closure.field)
    start = np.full(samples, 0.0)
    for expr in (tree, gradient):
        def residual(j: Array, expr: sp.Expr = expr) -> Array:
            return np.real(evaluate(expr, values | {closure.field: j, hbar: h}))

        start = newton_system(residual, start, tolerance=1e-13).values
    return start


def _field_mean(closure: FieldClosure, values: dict[sp.Basic, Any], h: float, samples: int) -> Array:
    """⟨j⟩ over exp(-S/ħ) along the contour through the saddle, by the trapezoidal rule in up to two dimensions."""
    saddle = _stationary(closure, values, h, samples, loops=0)
    step = 1j if closure.field.domain == "imaginary" else 1.0
    form = closure.effective.fluctuation
    at = values | {closure.field: saddle}
    curvature = np.diag(np.broadcast_to(evaluate(form.diag, at), samples)).astype(float)
    for u, v in form.pairs:
        curvature = curvature + np.outer(evaluate(u, at), evaluate(v, at))
    root = np.linalg.inv(np.linalg.cholesky(curvature * (step * step).real)).T * np.sqrt(h)
    axis = np.arange(-9.0, 9.01, 0.2)
    mesh = np.stack([m.ravel() for m in np.meshgrid(*[axis] * samples, indexing="ij")])
    points = saddle[:, None] + step * (root @ mesh)
    action = evaluate(closure.action.expr, values | {closure.field: points})
    floor = evaluate(closure.action.expr, at)
    weights = np.exp(-(action - floor) / h)
    return np.real((points * weights).sum(axis=1) / weights.sum())


def _one_sample(expr: sp.Expr, values: dict[sp.Basic, Any], field: Entry) -> tuple[sp.Expr, dict[sp.Basic, Any]]:
    """The same expression with every space of one point: sums disappear, entries become scalars."""
    def lower(node: sp.Basic) -> sp.Basic:
        if isinstance(node, SpaceSum):
            return lower(node.body)
        if isinstance(node, Entry):
            return Entry(node.name, "data" if node == field else node.domain)
        return node.func(*map(lower, node.args)) if node.args else node

    scalars = {lower(k): (float(np.ravel(v)[0]) if isinstance(k, Entry) else v) for k, v in values.items()}
    return lower(expr), scalars  # type: ignore[return-value]


def _two_loops(closure: FieldClosure, values: dict[sp.Basic, Any], h: float) -> Array:
    """⟨j⟩ through two loops with one sample, by the expansion of one scalar field (another routine)."""
    expr, scalars = _one_sample(closure.action.expr, values, closure.field)
    field = Entry(closure.field.name, "data")
    expansion = ScalarExpansion.of(expr / hbar, field, 2)
    saddle = _stationary(closure, values, h, 1, loops=0)
    at = scalars | {field: float(saddle[0]), hbar: h}
    return np.array([float(numerical_value(sp.Add(*expansion.expectation(field).values()), at))])


def _second_order(closure: FieldClosure, rng: Generator) -> CheckResult:
    """With two samples, the error of the one-loop mean falls fourfold when ħ is halved."""
    values = _draw(closure.gamma, {closure.field, hbar}, 2, rng)
    errors = [float(np.linalg.norm(_field_mean(closure, values, h, 2) - _stationary(closure, values, h, 2, loops=1)))
              for h in map(float, LOOP_PARAMETERS)]
    exponent = float(np.log2(errors[-2] / errors[-1]))
    return CheckResult(f"<{closure.field.name}>, 2 samples, order in ħ", abs(exponent - 2), TOLERANCE,
                       f"measured exponent {exponent:.3f}")


def _closed_equations(closure: FieldClosure, rng: Generator) -> CheckResult:
    """At the stationary vector, the named sums solve the closed equations and the profile is the vector."""
    values = _draw(closure.gamma, {closure.field, hbar}, 3, rng)
    j = _stationary(closure, values, 1.0, 3, loops=closure.loops)
    at: dict[sp.Basic, Any] = values | {closure.field: j, hbar: 1.0}
    for parameter in closure.parameters:
        at[parameter.symbol] = float(evaluate(parameter.value, at))
    for symbol in closure.state.unknowns:
        if symbol not in at:
            at[symbol] = float(evaluate(closure.state.definitions[symbol.name].rhs, at))
    worst = max(abs(float(evaluate(equation, at))) for equation in closure.state.equations)
    profile = np.max(np.abs(evaluate(closure.state.profile, at) - j))
    return CheckResult("equations of state", max(worst, float(profile)), 1e-9)


