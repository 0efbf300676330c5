"""The check of a closure: what it reports, and the error of it, against integrals at several values of ħ.

Dividing the action by ħ counts loops.  The average over exp(-S/ħ) is done by quadrature, at random small sizes;
(exact - kept)/(kept with one more loop - kept), extrapolated to ħ = 0, must be 1, which tests the coefficient
and not merely the slope.  Averages, variances and ln Z are taken as the closure reports them.  Derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.exact.lattice import LatticeLaw
from fieldtheory.newton import newton_system
from fieldtheory.numerics import evaluate
from fieldtheory.stepchecks import Check, CheckResult
from fieldtheory.symbolic.closures import Closure, FieldClosure, ScalarClosure
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, entries, vary
from fieldtheory.symbolic.loops import ScalarExpansion, hbar, loop_coefficients, scalar_derivatives
from fieldtheory.symbolic.series import numerical_value
from fieldtheory.symbolic.siteclosure import SiteClosure, affine

Array = np.ndarray
Generator = np.random.Generator

LOOP_PARAMETERS = (sp.Rational(1, 64), sp.Rational(1, 128), sp.Rational(1, 256))
TOLERANCE = 1e-3
"""How far from 1 the ratio may be once extrapolated; a coefficient off by this fraction passes."""
DIGITS = 30


def check_closure(closure: Closure) -> Check:
    """The check that the closing step of a derivation carries."""
    if isinstance(closure, ScalarClosure):
        return lambda rng: _check_scalar(closure, rng)
    if isinstance(closure, FieldClosure):
        return lambda rng: _check_field(closure, rng)
    if isinstance(closure, SiteClosure):
        return lambda rng: _check_site(closure, rng)
    return lambda rng: _check_exact(closure, rng)


def _check_site(closure: SiteClosure, rng: Generator) -> list[CheckResult]:
    """At one site: the parts of a self-consistent average make up the whole, the gradient is that of the action."""
    S = closure.action.expr
    results = []
    for m, body in closure.parameters.items():
        parts, samples = affine(body, m), 3
        made = parts.constant + sp.Add(*(u * SpaceSum(v * m, *m.spaces) for u, v in parts.pairs))
        values = _draw(sp.Tuple(S, body), set(), samples, rng)
        whole, sum_of_parts = (np.asarray(evaluate(expr, values, axes=m.spaces)) for expr in (body, made))
        error = float(np.max(np.abs(whole - sum_of_parts)) / max(np.max(np.abs(whole)), 1e-3))
        results.append(CheckResult(f"equation of {m.name}", error, 1e-10))
    values, step = _draw(S, set(), 3, rng), 1e-5
    for field, gradient in closure.gradients.items():
        direction = rng.standard_normal(np.shape(values[field]))
        sides = [float(np.real(evaluate(S, values | {field: values[field] + moved})))
                 for moved in (step * direction, -step * direction)]
        slope = float(np.sum(direction * np.asarray(evaluate(gradient, values, axes=field.spaces))))
        error = abs((sides[0] - sides[1]) / (2 * step) - slope) / max(abs(slope), 1e-2)
        results.append(CheckResult(f"gradient in {field.name}", error, 1e-5))
    return results


def _check_exact(closure: Closure, rng: Generator) -> list[CheckResult]:
    """Where no field is left nothing is averaged: ⟨O⟩ = O, the variance is ⟨A²⟩ - A² and ln Z is -S."""
    S = closure.action.expr
    O, square = S, S**2 + S
    values = _draw(S, set(), 3, rng)
    kept = float(np.real(evaluate(S, values)))
    pairs = {"average": (closure.average(O), kept), "variance": (closure.variance(O, square), kept),
             "ln Z": (closure.log_partition(), -kept)}
    return [CheckResult(f"{name} as reported", abs(float(np.real(evaluate(expr, values))) - expected) / (1 + abs(kept)),
                        1e-9) for name, (expr, expected) in pairs.items()]


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


def _extrapolated(values: Sequence[Any] | Array) -> Any:
    """The limit ħ → 0 from values at ħ, ħ/2, ħ/4, by two Richardson steps: O(ħ³) is left."""
    first, second, third = values
    return (8 * third - 6 * second + first) / 3


def _ratios(name: str, ratios: list[float]) -> CheckResult:
    message = "(exact - kept)/(next - kept) = " + ", ".join(f"{ratio:.4f}" for ratio in ratios)
    return CheckResult(name, float(abs(_extrapolated(ratios) - 1)), TOLERANCE, message)


def _check_scalar(closure: ScalarClosure, rng: Generator) -> list[CheckResult]:
    """⟨Q⟩, ⟨Q²⟩, the variance of the unknown Q, and ln Z of one scalar field, by sums over a lattice at 30 digits."""
    field, loops = closure.field, closure.loops
    values = _draw(closure.action.expr, {field}, 3, rng)
    Q = closure.symbol
    unknown = _inverse(closure.coordinate, Q, field)
    observables = {f"<{Q}>": unknown, f"<{Q}^2>": unknown**2}
    action = _explicit(closure.action.expr, values)
    with mpmath.workdps(DIGITS + 10):
        weight = _function(action, field)
        x = _lowest_minimum(weight, _function(scalar_derivatives(action, field, 1)[1], field))
        at = {field: sp.Float(x, DIGITS + 10)}
        # S_2 … S_{2L+4} and the jets of the observables: all that L + 1 loops need, as numbers.
        S = [_number(term, at) for term in scalar_derivatives(action, field, 2 * loops + 4)]
        series = {name: _coefficients(S, [_number(term, at) for term in scalar_derivatives(o, field, 2 * loops + 2)],
                                      loops + 1) for name, o in observables.items()}
        first, second = series.values()
        series[f"variance of {Q}"] = [second[k] - mpmath.fsum(first[i] * first[k - i] for i in range(k + 1))
                                      for k in range(loops + 2)]
        series["ln Z"] = _coefficients(S, [], loops + 1)
        functions = {name: _function(o, field) for name, o in observables.items()}
        ratios: dict[str, list[float]] = {name: [] for name in series}
        for h in LOOP_PARAMETERS:
            hm = mpmath.mpf(h.p) / h.q
            law = LatticeLaw(lambda u, hm=hm: weight(u) / hm, [x], [[S[2] / hm]], DIGITS)
            exact = {"ln Z": law.log_partition} | {name: law.mean(o) for name, o in functions.items()}
            mean, mean_square = (exact[name] for name in observables)
            exact[f"variance of {Q}"] = mean_square - mean**2
            exact["ln Z"] += S[0] / hm - mpmath.log(hm) / 2  # what is left is a series in ħ
            for name, coefficients in series.items():
                kept = mpmath.fsum(c * hm**k for k, c in enumerate(coefficients[:-1]))
                ratios[name].append(float((exact[name] - kept) / (coefficients[-1] * hm**(loops + 1))))
        expected = {name: mpmath.fsum(coefficients[:-1]) for name, coefficients in series.items()}
        expected["ln Z"] -= S[0]
        # reported of an observable with ⟨A²⟩ - A² = Q², given Q, which adds its average
        expected[f"variance of {Q}"] += expected[f"<{Q}^2>"]
    reported = {name: closure.average(o) for name, o in observables.items()}
    reported |= {f"variance of {Q}": closure.variance(unknown, 2 * unknown**2), "ln Z": closure.log_partition()}
    results = [_ratios(name, found) for name, found in ratios.items()]
    return [*results, *_agreement(closure, reported, expected, values | {field: x})]


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


def _coefficients(S: list[mpmath.mpf], jet: list[mpmath.mpf], loops: int) -> list[mpmath.mpf]:
    """The coefficients of 1, ħ, … ħ^loops of ⟨O⟩ for S/ħ; without a jet of ln Z, less -S_0/ħ + (ln ħ)/2."""
    loop = loop_coefficients(loops + (not jet))
    table = {loop.propagator: sp.Float(1 / S[2], DIGITS + 10)}
    table |= {symbol: sp.Float(S[k], DIGITS + 10) for k, symbol in loop.vertices.items() if k < len(S)}
    if not jet:
        terms = (loop.log_partition.get(k + 1, sp.S.Zero) for k in range(1, loops + 1))
        return [mpmath.log(2 * mpmath.pi / S[2]) / 2, *(_number(term, table) for term in terms)]
    return [mpmath.fsum(_number(c[k], table) * jet[n] for n, c in loop.expectation.items() if k in c)
            for k in range(loops + 1)]


def _agreement(closure: ScalarClosure, reported: dict[str, sp.Expr], expected: dict[str, mpmath.mpf],
               values: dict[sp.Basic, Any]) -> list[CheckResult]:
    """What the closure reports, through its coefficients and in its own unknown, is the expansion at ħ = 1."""
    at = dict(values)
    at[closure.symbol] = numerical_value(_inverse(closure.coordinate, closure.symbol, closure.field), values, DIGITS)
    for symbol, expr in closure.coefficients.items():
        at[symbol] = numerical_value(expr, at, DIGITS)
    slope = max(abs(numerical_value(equation, at, DIGITS)) for equation in closure.state.equations)
    results = [CheckResult("equation of state", float(slope), 1e-12)]
    for name, expr in reported.items():
        error = abs(numerical_value(expr, at, DIGITS) - expected[name]) / max(abs(expected[name]), mpmath.mpf(1e-3))
        results.append(CheckResult(f"{name} as reported", float(error), 1e-12))
    return results


def _inverse(coordinate: sp.Expr, symbol: sp.Symbol, field: sp.Expr) -> sp.Expr:
    """The unknown as a function of the field: u = ln Q gives Q = e^u."""
    dummy = sp.Dummy("u", real=True)
    (solution,) = sp.solve(coordinate - dummy, symbol)
    return solution.xreplace({dummy: field})


# ------------------------------------------------------------------------------------ a field over a space


def _check_field(closure: FieldClosure, rng: Generator) -> list[CheckResult]:
    """⟨j⟩ with one sample and two (cross-mode terms), the closed equations of state, and what is reported."""
    stationary = Stationary(closure)
    results = [_closed_equations(closure, rng, stationary)]
    for samples in (1,) if closure.loops else (1, 2):
        values = _draw(closure.gamma, {closure.field, hbar}, samples, rng)
        two_loops = _two_loops(closure, values, stationary) if closure.loops else None
        ratios = []
        for h in map(float, LOOP_PARAMETERS):
            points, weights, _ = _field_law(closure, values, h, samples, stationary)
            exact = np.real(points @ weights)
            kept = stationary(values, h, samples, loops=closure.loops)
            further = two_loops(h) if two_loops else stationary(values, h, samples, loops=1)
            ratios.append(float(np.sum(exact - kept) / np.sum(further - kept)))
        results.append(_ratios(f"<{closure.field.name}>, {samples} sample{'s' * (samples > 1)}", ratios))
    return results + _reported(closure, rng, stationary)


def _reported(closure: FieldClosure, rng: Generator, stationary: Stationary) -> list[CheckResult]:
    """⟨O⟩ through ħ^loops, variances through ħ and ln Z through ħ⁰, as the closure of S/ħ reports them, at two samples.

    Of either side the coefficient of the highest power is extrapolated to ħ = 0.
    """
    field, eta, samples = closure.field, sp.Dummy("eta", positive=True), 2
    (space,) = field.spaces
    scaled = replace(closure, action=replace(closure.action, expr=closure.action.expr / eta))
    v = Entry("v", "data", (space,))
    values = _draw(closure.gamma, {field, hbar}, samples, rng)
    values[v] = rng.uniform(0.4, 1.6, samples) * rng.choice([-1, 1], samples)
    probe, squares = SpaceSum(v * field, space), SpaceSum(v * field**2, space)
    averaged = {"<Σvj>": probe, "<(Σvj)²>": probe**2, "<Σvj²>": squares}
    averaged |= {f"<sum named {parameter.symbol}>": parameter.total for parameter in closure.parameters}
    # the square of an observable that fluctuates at a fixed field too, by ħ Σvj²
    varied = {"variance of Σvj": (probe, probe**2 + eta * squares), "variance of Σvj²": (squares, squares**2)}
    claims = {name: scaled.average(o) for name, o in averaged.items()}
    claims |= {name: scaled.variance(*pair) for name, pair in varied.items()} | {"ln Z": scaled.log_partition()}
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in claims}
    for h in map(float, LOOP_PARAMETERS):
        tree, at = ({**values, field: stationary(values, h, samples, loops=loops), hbar: 1.0, eta: h}
                    for loops in (0, closure.loops))
        at |= {parameter.symbol: float(np.real(evaluate(parameter.value, at))) for parameter in closure.parameters}
        points, weights, log_partition = _field_law(closure, values, h, samples, stationary)
        nodes = {**values, field: points, eta: h}

        def mean(o: sp.Expr, nodes: dict[sp.Basic, Any] = nodes, weights: Array = weights) -> float:
            return float(np.real(np.sum(evaluate(o, nodes) * weights)))

        for name, claim in claims.items():
            claimed = float(np.real(evaluate(claim, at)))
            if name in averaged:
                base = float(np.real(evaluate(averaged[name], tree))) if closure.loops else 0.0
                pair = [(value - base) / h**closure.loops for value in (mean(averaged[name]), claimed)]
            elif name in varied:
                observable, square = varied[name]
                pair = [(mean(square) - mean(observable)**2) / h, claimed / h]
            else:
                pair = [0.0, claimed - log_partition]
            rows[name].append((pair[0], pair[1]))
    results = []
    for name, pairs in rows.items():
        exact, claimed = _extrapolated(np.asarray(pairs))
        scale = 1.0 if name == "ln Z" else max(abs(exact), 1e-2)
        results.append(CheckResult(f"{name} as reported", float(abs(claimed - exact) / scale), TOLERANCE))
    return results


class Stationary:
    """The stationary point of the effective action of S/ħ, whose gradient is derived once for each number of loops."""

    def __init__(self, closure: FieldClosure) -> None:
        self.closure = closure
        self.gradients = {-1: vary(closure.action.expr, closure.field)}  # where Newton's method begins

    def __call__(self, values: dict[sp.Basic, Any], h: float, samples: int, *, loops: int) -> Array:
        """As a vector, by Newton's method on all components, from the stationary point of S."""
        field = self.closure.field
        if loops not in self.gradients:
            self.gradients[loops] = vary(replace(self.closure, loops=loops).gamma, field)
        start = np.full(samples, 0.0)
        for expr in (self.gradients[-1], self.gradients[loops]):
            def residual(j: Array, expr: sp.Expr = expr) -> Array:
                return np.real(evaluate(expr, values | {field: j, hbar: h}))

            start = newton_system(residual, start, tolerance=1e-13).values
        return start


def _field_law(closure: FieldClosure, values: dict[sp.Basic, Any], h: float, samples: int,
               stationary: Stationary) -> tuple[Array, Array, float]:
    """exp(-S/ħ) along the contour through the saddle: points (component, node), normalised weights and ln Z.

    By the trapezoidal rule in up to two dimensions; the measure on an imaginary contour is dj/2πi.
    """
    saddle = stationary(values, h, samples, loops=0)
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
    floor = float(np.real(evaluate(closure.action.expr, at)))
    weights = np.exp(-(action - floor) / h)
    total = float(np.real(weights.sum()))
    volume = samples * np.log(0.2 if step == 1.0 else 0.2 / (2 * np.pi)) + np.linalg.slogdet(root)[1]
    return points, weights / total, float(np.log(total) + volume - floor / h)


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


def _two_loops(closure: FieldClosure, values: dict[sp.Basic, Any],
               stationary: Stationary) -> Callable[[float], Array]:
    """⟨j⟩ at ħ, through two loops with one sample, by the expansion of one scalar field, not the effective action."""
    expr, scalars = _one_sample(closure.action.expr, values, closure.field)
    field = Entry(closure.field.name, "data")
    mean = sp.Add(*ScalarExpansion.of(expr / hbar, field, 2).expectation(field).values())

    def at(h: float) -> Array:
        saddle = stationary(values, h, 1, loops=0)
        return np.array([float(numerical_value(mean, scalars | {field: float(saddle[0]), hbar: h}))])

    return at


def _closed_equations(closure: FieldClosure, rng: Generator, stationary: Stationary) -> CheckResult:
    """At the stationary vector, the named sums solve the closed equations and the profile is the vector."""
    values = _draw(closure.gamma, {closure.field, hbar}, 3, rng)
    j = stationary(values, 1.0, 3, loops=closure.loops)
    at: dict[sp.Basic, Any] = values | {closure.field: j, hbar: 1.0}
    for parameter in closure.parameters:
        at[parameter.symbol] = float(evaluate(parameter.value, at))
    for symbol in closure.state.unknowns:
        if symbol not in at:
            at[symbol] = float(evaluate(closure.state.definitions[symbol.name].rhs, at))
    worst = max(abs(float(evaluate(equation, at))) for equation in closure.state.equations)
    profile = np.max(np.abs(evaluate(closure.state.profile, at) - j))
    return CheckResult("equations of state", max(worst, float(profile)), 1e-9)


