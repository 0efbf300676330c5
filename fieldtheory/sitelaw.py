"""The numerical checks of the rules that single out a site, against the action of several.

The best product law is checked on a *discrete* site, which takes a few random values: everything that the rule claims
holds for any measure, so that no quadrature stands between claim and check.  On all combinations of values of two
or three sites the functional F[q] = ⟨S⟩ + N Σ q ln q is summed from the action before the step; at the law e^{-s} it
must be stationary under random changes of q, equal -N ln Σ e^{-s}, and lie above -ln Z.

The law of a shared positive field is checked likewise: all other fields jointly take a few random values, and the
field itself is on a grid, evenly in its logarithm, where sums of densities of this kind err by less than 1e-12.

With other populations beside, laws are drawn for them, and F must be stationary in the law of the one that is left.

Of a cavity everything but the mean is exact: with the other sites held anywhere, and their form in place of its mean,
the actions before and after may differ by a constant only.  An observable that goes over to one site because all have
the same law is recovered by the mean over the sites that may be singled out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import sympy as sp

from fieldtheory.errors import NotConverged
from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.fields import Entry, depends_on, open_spaces
from fieldtheory.symbolic.rules import Step

Array = np.ndarray
Values = dict[sp.Basic, Any]
Pushed = Mapping[str, tuple[sp.Expr, sp.Expr]]

POINTS = {1: 50, 2: 80, 3: 20}
"""How many values the discrete site takes, by the number of sites."""


def _far(first: Any, second: Any, scale: float = 1e-3) -> float:
    size = max(float(np.max(np.abs(first))), float(np.max(np.abs(second))), scale)
    return float(np.max(np.abs(np.asarray(first) - np.asarray(second))) / size)


def _axes(expr: sp.Expr) -> list[Any]:
    return sorted(open_spaces(expr), key=lambda space: space.name)


def _pairs(step: Step) -> list[tuple[Entry, Entry]]:
    """A field over the sites with its twin on one."""
    return [(f, next(g for g in step.added if g.name == f.name)) for f in step.removed  # type: ignore[attr-defined]
            if step.details["space"] in f.spaces]  # type: ignore[attr-defined]




def compare_decoupled(step: Step, pushed: Pushed, values: Values, sites: int,
                      rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """(quantity, error, tolerance) for some number of sites."""
    if step.details["aside"]:
        yield from _compare_population(step, pushed, values, rng)
        return
    count = POINTS[sites]
    points = {twin: 0.7 * rng.standard_normal((*np.shape(values[twin]), count)) for _, twin in _pairs(step)}
    combinations = np.stack([g.ravel() for g in np.meshgrid(*[np.arange(count)] * sites, indexing="ij")])
    whole = dict(values)
    for f, twin in _pairs(step):
        axis = f.spaces.index(step.details["space"])
        whole[f] = np.stack([points[twin][..., k] for k in combinations], axis=axis)
    S = np.real(evaluate(step.before.expr, whole))
    parameters = dict(step.details["order_parameters"])
    if sites == 1:
        yield "S of one site", _far(S, np.real(evaluate(step.after.expr, {**values, **points}))), 1e-10
        return
    shapes = [np.shape(values[m]) for m in parameters]
    bodies = [np.asarray(evaluate(g, {**values, **points}, axes=m.spaces)) for m, g in parameters.items()]

    def at(x: Array) -> dict[sp.Basic, Array]:
        ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
        return {m: x[a:b].reshape(shape)
                for m, a, b, shape in zip(parameters, ends[:-1], ends[1:], shapes, strict=True)}

    def law(x: Array) -> tuple[Array, float]:
        logs = -np.real(evaluate(step.after.expr, {**values, **points, **at(x)}))
        total = float(scipy.special.logsumexp(logs))
        return np.exp(logs - total), total

    def mismatch(x: Array) -> Array:
        q, _ = law(x)
        return np.concatenate([np.ravel(body @ q) for body in bodies]) - x

    found = scipy.optimize.root(mismatch, np.zeros(sum(int(np.prod(shape)) for shape in shapes)), tol=1e-13)
    if np.max(np.abs(found.fun)) > 1e-9:
        raise NotConverged("no self-consistent law of the drawn site was found", float(np.max(np.abs(found.fun))))
    q, total = law(found.x)

    def joint(q: Array) -> Array:
        return np.prod(q[combinations], axis=0)

    def functional(q: Array) -> float:
        return float(joint(q) @ S + sites * np.sum(q * np.log(q)))

    free = functional(q)
    yield "F = -N ln z", _far(free, -sites * total), 1e-8
    log_partition = float(scipy.special.logsumexp(-S))
    yield "-ln Z below F", max(0.0, -log_partition - free), 1e-10
    yield "F stationary", _slope(functional, q, rng), 1e-5
    at_law = {**values, **at(found.x)}
    for m, body in dict(step.details["observed"]).items():
        at_law[m] = np.asarray(evaluate(body, {**values, **points}, axes=m.spaces)) @ q
    for name, (old, new) in pushed.items():
        before = np.asarray(evaluate(old, whole, axes=_axes(old)))
        one = np.asarray(evaluate(new, {**at_law, **points}, axes=_axes(old)))
        was = before @ joint(q) if any(depends_on(old, f) for f, _ in _pairs(step)) else before
        yield f"<{name}>", _far(was, one @ q if any(depends_on(new, f) for f in points) else one), 1e-8


def _slope(functional: Callable[[Array], float], q: Array, rng: np.random.Generator, epsilon: float = 1e-4) -> float:
    """The slope of a functional of a law along random directions, relative to its curvature."""
    slopes, bends = [], []
    for _ in range(3):
        h = rng.standard_normal(len(q))
        sides = []
        for sign in (1, -1):
            moved = q * np.exp(sign * epsilon * h)
            sides.append(functional(moved / moved.sum()))
        slopes.append((sides[0] - sides[1]) / (2 * epsilon))
        bends.append((sides[0] + sides[1] - 2 * functional(q)) / epsilon**2)
    return float(np.max(np.abs(slopes)) / max(np.max(np.abs(bends)), 1e-3))


def _compare_population(step: Step, pushed: Pushed, values: Values,
                        rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """Two sites of every population; those of the others have laws that are drawn, and that their averages follow."""
    count, sites = 10, 2
    spaces: list[Any] = [step.details["space"], *step.details["aside"]]  # type: ignore[misc]
    fields = {space: [(f, Entry(f.name, f.domain, tuple(s for s in f.spaces if s != space)))
                      for f in step.removed if space in f.spaces] for space in spaces}  # type: ignore[attr-defined]
    whole_size = sp.Add(*(space.size for space in spaces))
    values = values | {symbol: sites * len(spaces) for symbol, value in step.before.definitions.items()
                       if value == whole_size}
    mesh = np.stack([g.ravel() for g in np.meshgrid(*[np.arange(count)] * (sites * len(spaces)), indexing="ij")])
    points, whole, combinations = {}, dict(values), {}
    for k, space in enumerate(spaces):
        combinations[space] = mesh[sites * k:sites * (k + 1)]
        for f, twin in fields[space]:
            shape = tuple(n for n, s in zip(np.shape(values[f]), f.spaces, strict=True) if s != space)
            points[twin] = 0.7 * rng.standard_normal((*shape, count))
            whole[f] = np.stack([points[twin][..., c] for c in combinations[space]], axis=f.spaces.index(space))
    S = np.real(evaluate(step.before.expr, whole))
    laws = {space: rng.dirichlet(np.full(count, 2.0)) for space in spaces[1:]}
    known: Values = {}
    for m, body in dict(step.details["others"]).items():
        (space,) = (s for s in spaces[1:] if any(depends_on(body, twin) for _, twin in fields[s]))
        known[m] = np.asarray(evaluate(body, {**values, **points}, axes=m.spaces)) @ laws[space]
    parameters = dict(step.details["order_parameters"])
    bodies = [np.asarray(evaluate(g, {**values, **points}, axes=m.spaces)) for m, g in parameters.items()]
    ends = np.cumsum([0, *(int(np.prod(body.shape[:-1])) for body in bodies)])

    def law(x: Array) -> Array:
        at = {m: x[a:b].reshape(body.shape[:-1])
              for m, body, a, b in zip(parameters, bodies, ends[:-1], ends[1:], strict=True)}
        logs = -np.real(evaluate(step.after.expr, {**values, **points, **known, **at}))
        return np.exp(logs - scipy.special.logsumexp(logs))

    found = scipy.optimize.root(lambda x: np.concatenate([np.ravel(b @ law(x)) for b in bodies]) - x,
                                np.zeros(ends[-1]), tol=1e-13)
    if np.max(np.abs(found.fun)) > 1e-9:
        raise NotConverged("no self-consistent law of the drawn site was found", float(np.max(np.abs(found.fun))))
    q = law(found.x)

    def joint(q: Array) -> Array:
        given = np.prod([np.prod(laws[space][combinations[space]], axis=0) for space in spaces[1:]], axis=0)
        return np.prod(q[combinations[spaces[0]]], axis=0) * given

    def functional(q: Array) -> float:
        return float(joint(q) @ S + sites * np.sum(q * np.log(q)))

    yield "F stationary", _slope(functional, q, rng), 1e-5
    at_law = {**values, **known, **{m: found.x[a:b].reshape(body.shape[:-1]) for m, body, a, b in
                                    zip(parameters, bodies, ends[:-1], ends[1:], strict=True)}}
    for name, (old, new) in pushed.items():
        before = np.asarray(evaluate(old, whole, axes=_axes(old)))
        one = np.asarray(evaluate(new, {**at_law, **points}, axes=_axes(old)))
        yield f"<{name}>", _far(before @ joint(q), one @ q if any(depends_on(new, f) for f in points) else one), 1e-8


GRID = np.arange(-16.0, 16.1, 0.125)
"""ln λ."""
CONFIGURATIONS = 8
"""Values that all fields but λ take jointly."""


def compare_hyperprior(step: Step, pushed: Pushed, values: Values,
                       rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """(quantity, error, tolerance) for F[p, r] = ⟨S⟩ + Σ p ln p + ∫ r ln r, with p and r found from S alone."""
    shared: Entry = step.details["shared"]  # type: ignore[assignment]
    ((v, coupled),) = dict(step.details["order_parameters"]).items()
    shape = np.shape(values[shared])
    count = int(np.prod(shape))
    mesh = np.stack([g.ravel() for g in np.meshgrid(*[GRID] * count, indexing="ij")])
    log_volume = mesh.sum(axis=0) + count * np.log(GRID[1] - GRID[0])
    points = {f: 0.7 * rng.standard_normal((*np.shape(values[f]), CONFIGURATIONS)) for f in step.after.fields}

    def on_mesh(expr: sp.Expr, k: int, axes: Any = None) -> Array:
        at = {**values, **{f: array[..., k] for f, array in points.items()}, shared: np.exp(mesh).reshape(*shape, -1)}
        found = np.real(np.asarray(evaluate(expr, at, axes=axes)))
        return found if depends_on(expr, shared) else np.repeat(found[..., None], mesh.shape[1], axis=-1)

    S = np.array([on_mesh(step.before.expr, k) for k in range(CONFIGURATIONS)])
    statistic = np.asarray(evaluate(coupled, {**values, **points}, axes=v.spaces))

    def normalised(logs: Array) -> Array:
        weights: Array = np.exp(logs - scipy.special.logsumexp(logs))
        return weights

    def entropy(weights: Array, log_measure: Any) -> float:
        kept = weights > 0
        return float(weights[kept] @ (np.log(weights) - log_measure)[kept]) if np.ndim(log_measure) else \
            float(weights[kept] @ np.log(weights[kept]))

    def functional(p: Array, r: Array) -> float:
        with np.errstate(divide="ignore"):
            return float(p @ S @ r) + entropy(p, 0.0) + entropy(r, log_volume)

    def law(x: Array) -> tuple[Array, float]:
        logs = -np.real(evaluate(step.after.expr, {**values, **points, v: x.reshape(shape)}))
        return normalised(logs), float(scipy.special.logsumexp(logs))

    # fixed-point form, which contracts: the average of v under the law that v determines
    found = scipy.optimize.root(lambda x: np.ravel(statistic @ law(x)[0]) - x,
                                np.ravel(statistic.mean(axis=-1)), tol=1e-13)
    if np.max(np.abs(found.fun)) > 1e-9:
        raise NotConverged("no self-consistent law of the shared field was found", float(np.max(np.abs(found.fun))))
    p, log_total = law(found.x)
    r = normalised(log_volume - p @ S)
    free = functional(p, r)
    yield "F = -ln z", _far(free, -log_total), 1e-8
    log_partition = float(scipy.special.logsumexp(log_volume - S))
    yield "-ln Z below F", max(0.0, -log_partition - free), 1e-10
    slopes, bends, epsilon = [], [], 1e-4
    for _ in range(3):
        h, sides = rng.standard_normal(CONFIGURATIONS), []
        tilt = np.exp(mesh) / (1 + np.exp(mesh))
        tilt = rng.standard_normal(count) @ tilt
        for sign in (1, -1):
            moved_p, moved_r = p * np.exp(sign * epsilon * h), r * np.exp(sign * epsilon * tilt)
            sides.append(functional(moved_p / moved_p.sum(), moved_r / moved_r.sum()))
        slopes.append((sides[0] - sides[1]) / (2 * epsilon))
        bends.append((sides[0] + sides[1] - 2 * free) / epsilon**2)
    yield "F stationary", float(np.max(np.abs(slopes)) / max(np.max(np.abs(bends)), 1e-3)), 1e-5
    at_law = {**values, **points, v: found.x.reshape(shape)}
    for name, (old, new) in pushed.items():
        axes = _axes(old)
        was = sum(p[k] * (on_mesh(old, k, axes) @ r) for k in range(CONFIGURATIONS))
        one = np.asarray(evaluate(new, at_law, axes=axes))
        yield f"<{name}>", _far(was, one @ p if any(depends_on(new, f) for f in points) else one), 1e-8


def compare_cavity(step: Step, pushed: Pushed, values: Values, sites: int,
                   rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """The action for a few values of one site and of the shared field, the others held fixed.

    An observable is compared with its mean over which site is the one: all have the same law.
    """
    count = 5
    details = step.details
    space, shared, j, V = (details[key] for key in ("space", "shared", "single", "basis"))
    (sample,) = shared.spaces  # type: ignore[attr-defined]
    others = {twin: rng.standard_normal((*np.shape(values[twin]), sites - 1)) for _, twin in _pairs(step)}
    points = {twin: rng.standard_normal((*np.shape(values[twin]), count)) for _, twin in _pairs(step)}
    field = rng.standard_normal((*np.shape(values[shared]), count)) * (1j if shared.domain == "imaginary" else 1)  # type: ignore[attr-defined]
    whole = {**values, shared: field}
    for f, twin in _pairs(step):
        axis = f.spaces.index(space)  # type: ignore[union-attr]
        fixed = [np.broadcast_to(others[twin][..., k, None], np.shape(points[twin])) for k in range(sites - 1)]
        whole[f] = np.stack([points[twin], *fixed], axis=axis)

    def form(pairs: Any, rest: Mapping[Entry, Array], rows: Any, columns: Any) -> Array:
        total = np.zeros(())
        for u, v in pairs:
            at = {**values, **rest}
            left, right = (np.real(np.asarray(evaluate(e, at, axes=[s])).reshape(-1, max(sites - 1, 1)))
                           for e, s in ((u, rows), (v, columns)))
            total = total + left @ right.T / max(sites - 1, 1)
        return np.asarray(total)

    def environment(one: Mapping[Entry, Array], rest: Mapping[Entry, Array], field: Array) -> Values:
        """One site with the form of the rest in place of its mean."""
        C = form(details["kernel"], rest, sample, sample) if sites > 1 else np.zeros(2 * np.shape(values[shared]))
        kappa, basis = np.linalg.eigh((C + C.T) / 2)
        found: Values = {**values, **one, details["spectrum"]: np.maximum(kappa, 0.0), V: basis, j: basis.T @ field}
        for name, pairs in dict(details["projections"]).items():
            mean = form(pairs, rest, name.spaces[0], sample) if sites > 1 else np.zeros(np.shape(values[name]))
            found[name] = mean @ basis
        return found

    frame = environment(points, others, field)
    difference = evaluate(step.before.expr, whole) - evaluate(step.after.expr, frame)
    scale = float(np.max(np.abs(evaluate(step.before.expr, whole))))
    yield "S, the others' form given", float(np.max(np.abs(difference - difference[0])) / scale), 1e-10
    frames = []  # by point and by the site that is singled out of those there
    for p in range(count):
        there = {twin: np.concatenate([points[twin][..., p, None], others[twin]], axis=-1) for twin in points}
        frames.append([environment({twin: x[..., k, None] for twin, x in there.items()},
                                   {twin: np.delete(x, k, axis=-1) for twin, x in there.items()}, field[..., p, None])
                       for k in range(sites)])
    for name, (old, new) in pushed.items():
        was = np.asarray(evaluate(old, whole, axes=_axes(old)))
        if not any(depends_on(old, f) for f in (*step.removed, shared)):
            was = np.repeat(was[..., None], count, axis=-1)  # the same at every point
        now = np.stack([np.mean([np.asarray(evaluate(new, at, axes=_axes(old))).reshape(was.shape[:-1])
                                 for at in at_point], axis=0) for at_point in frames], axis=-1)
        yield f"<{name}>", _far(was, now), 1e-9


def _quadratic(expr: sp.Expr, field: Entry, values: Values) -> tuple[float, Array, Array]:
    """c, b and A of an action c + b·x + ½ xᵀAx in a field x (or ix, on the imaginary axis), from its values."""
    count, unit = np.shape(values[field])[0], 1j if field.domain == "imaginary" else 1.0
    corners = np.concatenate([np.zeros((count, 1)), np.eye(count), -np.eye(count)], axis=1)
    ends = np.array([np.eye(count)[a] + np.eye(count)[b] for a in range(count) for b in range(count)]).T
    S = evaluate(expr, {**values, field: unit * np.concatenate([corners, ends], axis=1)})
    c, up, down, both = S[0], S[1:count + 1], S[count + 1:2 * count + 1], S[2 * count + 1:].reshape(count, count)
    A = both - up[:, None] - up[None, :] + c
    return float(np.real(c)), (up - down) / 2, np.real(A)


def _without(expr: sp.Expr, field: Entry, values: Values) -> float:
    """-ln ∫ dx/2π e^{-S} of an action that is quadratic in x."""
    c, b, A = _quadratic(expr, field, values)
    log_det = np.linalg.slogdet(A)[1] + (len(b) * np.log(2 * np.pi) if field.domain == "imaginary" else
                                         -len(b) * np.log(2 * np.pi))
    return float(np.real(c - b @ np.linalg.solve(A, b) / 2 + log_det / 2))


def compare_fluctuation(step: Step, values: Values, rng: np.random.Generator) -> Iterator[tuple[str, float, float]]:
    """Clusters of n sites are the action of n sites where there are no others; a site leaves the medium as it is."""
    details: Any = step.details
    shared, j, V, kappa, space = (details[key] for key in ("shared", "single", "basis", "spectrum", "space"))
    basis = np.linalg.qr(rng.standard_normal(np.shape(values[V])))[0]
    features, twins = dict(details["features"]), dict(details["twins"])
    fields = [f for f in step.before.fields if f != j]
    for n, energy in enumerate(details["energies"]):
        if n == 0:
            continue
        drawn = {f: rng.standard_normal((n, *np.shape(values[f]))) for f in fields}
        at = {**values, V: basis, kappa: np.zeros_like(values[kappa]), space.size: n}
        for k in range(n):
            one = {f: array[k] for f, array in drawn.items()}
            made = {psi: evaluate(expr, {**at, **one}, axes=psi.spaces) for psi, expr in features.items()
                    if not any(e not in at and e not in one for e in expr.atoms(Entry))}
            at |= {key if k == 0 else twins[key]: value for key, value in (one | made).items()}
        whole = {**values, space.size: n}
        for f in details["removed"]:
            (twin,) = (g for g in fields if g.name == f.name)
            whole[f] = np.moveaxis(drawn[twin], 0, f.spaces.index(space))
        alone = _without(details["whole"], shared, whole)
        yield f"S of {n} sites", _far(alone, float(np.real(evaluate(energy, at)))), 1e-8
    N, count = 5, 6
    ones = [{f: rng.standard_normal(np.shape(values[f])) for f in fields} for _ in range(count)]
    p = rng.dirichlet(np.ones(count))
    C = np.zeros(2 * np.shape(values[kappa]))
    parameters = sorted(details["medium"].free_symbols - {details["screened"]}, key=str)
    medium = sp.lambdify([details["screened"], *parameters], details["medium"])
    numbers = [{**values, space.size: N}[x] for x in parameters]

    def matrix(expr: sp.Expr, fields_: Values, scale: float) -> Array:
        eigen, turn = np.linalg.eigh(C * scale)
        at = {**values, **fields_, V: turn, kappa: eigen, space.size: N}
        return np.asarray(turn @ _quadratic(expr, j, at)[2] @ turn.T)

    for _ in range(400):
        R = np.zeros_like(C)
        eigen, turn = np.linalg.eigh(C)
        empty = matrix(details["bare"], {}, 1.0)
        for weight, one in zip(p, ones, strict=True):
            B = float(np.real(evaluate(details["screening"], {**values, **one, V: turn, kappa: eigen, space.size: N})))
            R += weight * (matrix(step.before.expr, one, 1.0) - empty) / B
        r, turn = np.linalg.eigh(R)
        new = (turn * medium(np.maximum(r, 0.0), *numbers)) @ turn.T
        C = (C + new) / 2
        if np.abs(new - C).max() < 1e-13 * np.abs(C).max():
            break
    mean = sum(weight * np.linalg.inv(matrix(step.before.expr, one, 1.0)) for weight, one in zip(p, ones, strict=True))
    left = np.linalg.inv(matrix(details["bare"], {}, N / (N - 1)))
    if str(details["resolvent"]) != "mean":
        yield "resolvent of the medium", _far(mean, left), 1e-8


__all__ = ["compare_cavity", "compare_decoupled", "compare_fluctuation", "compare_hyperprior"]
