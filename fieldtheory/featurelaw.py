"""The numerical check of Gaussian features: one site's law before the step and after, for small readouts.

The hidden weights of one site are integrated by a polar rule with edges where a pre-activation vanishes (there an
activation may have its kink), the latents by Gauss-Hermite, both at the same values of everything else.  With the
readout scaled as √ε the difference of the actions must approach ε² times what the step says it drops, an average that
is taken anew here; the features F are factors of moments computed by the same quadrature, never of the closed form,
which is compared in a line of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.averages import GaussianAverage
from fieldtheory.symbolic.features import CORRELATION, SIGMA_U, SIGMA_V, SiteAverage, U
from fieldtheory.symbolic.fields import Entry, Space, depends_on, open_spaces
from fieldtheory.symbolic.rules import Step

Array = np.ndarray
Values = Mapping[sp.Basic, Any]

SCALES = (1 / 16, 1 / 32, 1 / 64)
"""The squared readout, in units of its draw."""


class _Nodes(NamedTuple):
    """Values of the hidden fields of one site (nodes last), weights of the flat measure."""

    fields: dict[sp.Basic, Array]
    weights: Array


def feature_sizes(step: Step, samples: int) -> dict[sp.Symbol, int]:
    """Sizes at which the check is done: one site, two hidden components, one test point."""
    details = step.details
    features, sizes = details["features"], {details["site"].size: 1}
    sample, axis = features.spaces
    (columns,) = (space for space in details["matrix"].spaces if space != sample)
    others = [entry.spaces[0] for entry in details["projections"].values()]
    sizes |= {columns.size: 3 - len(step.removed), sample.size: samples} | {space.size: 1 for space in others}
    return sizes | {axis.size: samples + len(others)}


def compare_laws(step: Step, pushed: Mapping[str, tuple[sp.Expr, sp.Expr]],
                 values: dict[sp.Basic, Any]) -> Iterator[tuple[str, float, float]]:
    """(quantity, error, tolerance) for each thing compared, at random ``values`` of everything but the weights."""
    if len(step.removed) > 2:
        raise RuleError("the check is for hidden weights with one bias")
    details, readout = step.details, step.details["readout"]
    nodes = _polar(step, values)
    phi, matrices = _features_at(step, values, nodes)
    prior = _prior_weights(step, values, nodes)
    moments = (phi * prior) @ phi.T
    yield "kernel", _kernel_error(step, moments, _preactivations(step, values, nodes), prior), 1e-8

    strength, directions = np.linalg.eigh(moments / float(np.real(evaluate(details["variance"], values))))
    root = directions * np.sqrt(np.maximum(strength, 0.0))
    place = 0
    for matrix in matrices:  # rows of one factor of the joint moments: F, then F at the test points
        count = np.shape(values[matrix])[0]
        values[matrix], place = root[place:place + count], place + count
    latents = _latents(step, values)

    averages = _site_averages(step, values, nodes, prior)
    size = max((abs(average)**(1 / float(node.body.as_base_exp()[1])) for node, average in averages.items()),
               default=1.0)
    values[readout] = np.sign(values[readout]) / (np.sqrt(2) * size)  # orders fall fast, and none drowns in rounding
    moving = [name for name, (old, _) in pushed.items() if any(depends_on(old, field) for field in step.removed)]

    def both(scale: float) -> list[tuple[complex, dict[str, Array]]]:
        """Before and after the step: -ln of the integral over the sign of the readout, and averages of observables."""
        found = []
        for expr, points, k in ((step.before.expr, nodes, 0), (step.after.expr, latents, 1)):
            norm, sums = 0.0 + 0.0j, dict.fromkeys(moving, np.zeros(()))
            for sign in (1, -1):
                at = {**values, readout: sign * np.sqrt(scale) * values[readout], **points.fields}
                density = points.weights * np.exp(-evaluate(expr, at))
                norm += density.sum()
                for name in moving:
                    value = np.asarray(evaluate(pushed[name][k], at, axes=_axes(pushed[name][0])))
                    sums[name] = sums[name] + value @ density
            found.append((-np.log(norm), {name: total / norm for name, total in sums.items()}))
        return found

    rows = [both(scale) for scale in SCALES]
    if step.exact:
        yield "S", max(float(abs(np.expm1(before[0] - after[0]))) for before, after in rows), 1e-9
    else:
        limit = _extrapolated([(before[0] - after[0]) / scale**2 for (before, after), scale in zip(rows, SCALES)])
        dropped = evaluate(details["dropped"], {**values, **averages})
        yield "next coefficient", float(abs(limit - dropped) / abs(dropped)), 1e-3
    for name, (old, new) in pushed.items():
        if name in moving:
            limits = _extrapolated([(before[1][name] - after[1][name]) / scale
                                    for (before, after), scale in zip(rows, SCALES)])
            size = float(np.max(np.abs(rows[0][1][1][name]))) / SCALES[0]
            yield f"<{name}>", float(np.max(np.abs(limits))) / max(size, 1e-3), 1e-3
        else:
            was, now = (np.asarray(evaluate(o, values, axes=_axes(old))) for o in (old, new))
            yield f"<{name}>", float(np.max(np.abs(was - now)) / max(np.max(np.abs(was)), 1e-3)), 1e-9


def _axes(expr: sp.Expr) -> list[Space]:
    return sorted(open_spaces(expr), key=lambda space: space.name)


def _extrapolated(values: list[Any]) -> Any:
    """The limit of zero scale from scales ε, ε/2, ε/4: O(ε³) is left."""
    first, second, third = values
    return (8 * third - 6 * second + first) / 3


def _unit(step: Step, values: Values, nodes: Callable[[Array], dict[sp.Basic, Array]]) -> Array:
    """Pre-activations at the ends of the two coordinate axes, (point, axis): they are linear."""
    return _preactivations(step, values, _Nodes(nodes(np.eye(2)), np.ones(2)))


def _polar(step: Step, values: Values) -> _Nodes:
    """∫ over two hidden components in polar coordinates of the whitened prior."""
    variances = [float(np.real(evaluate(step.details[name], values))) for name in ("weight_variance", "shift_variance")]

    def spread(x: Array) -> dict[sp.Basic, Array]:
        found, used = {}, 0
        for field, variance in zip(step.removed, variances, strict=False):
            shape = np.shape(values[field])
            count = int(np.prod(shape))
            found[field] = np.sqrt(variance) * x[used:used + count].reshape(*shape, x.shape[1])
            used += count
        return found

    slopes = _unit(step, values, spread)
    kinks = np.arctan2(-slopes[:, 0], slopes[:, 1])
    edges = np.unique(np.mod(np.concatenate([kinks, kinks + np.pi, np.arange(4) * np.pi / 2]), 2 * np.pi))
    angle, angle_weights = _panels(np.append(edges, edges[0] + 2 * np.pi), 16)
    radius, radius_weights = _panels(np.linspace(0.0, 9.0, 7), 12)
    r, theta = (grid.ravel() for grid in np.meshgrid(radius, angle, indexing="ij"))
    weights = np.outer(radius * radius_weights, angle_weights).ravel()
    scale = np.prod([np.sqrt(variance)**np.prod(np.shape(values[field]))
                     for field, variance in zip(step.removed, variances, strict=False)])
    return _Nodes(spread(np.stack([r * np.cos(theta), r * np.sin(theta)])), weights * scale)


def _panels(edges: Array, nodes: int) -> tuple[Array, Array]:
    x, w = np.polynomial.legendre.leggauss(nodes)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (x + 1)).ravel(), (half * w).ravel()


def _latents(step: Step, values: Values) -> _Nodes:
    """∫ over the latents of one site by Gauss-Hermite."""
    latent = step.details["latent"]
    count = int(np.prod(np.shape(values[latent])))
    variance = float(np.real(evaluate(step.details["variance"], values)))
    x, w = np.polynomial.hermite_e.hermegauss(12)
    grid = np.stack([g.ravel() for g in np.meshgrid(*[x] * count, indexing="ij")])
    weights = np.prod(np.meshgrid(*[w] * count, indexing="ij"), axis=0).ravel() * variance**(count / 2)
    weights = weights * np.exp((grid**2).sum(axis=0) / 2)
    return _Nodes({latent: np.sqrt(variance) * grid.reshape(*np.shape(values[latent]), -1)}, weights)


def _points(step: Step) -> dict[Entry, Entry]:
    """Features by the inputs that they belong to."""
    return {step.details["matrix"]: step.details["features"], **dict(step.details["projections"])}


def _preactivations(step: Step, values: Values, nodes: _Nodes) -> Array:
    """h at every point, training and test, by node."""
    h, matrix = step.details["preactivation"], step.details["matrix"]
    rows = []
    for inputs in _points(step):
        expr = h.xreplace({matrix: inputs})
        axes = [next(space for space in inputs.spaces if space in open_spaces(expr)), step.details["site"]]
        rows.append(np.asarray(evaluate(expr, {**values, **nodes.fields}, axes=axes))[:, 0])
    return np.concatenate(rows)


def _features_at(step: Step, values: Values, nodes: _Nodes) -> tuple[Array, list[Entry]]:
    h = _preactivations(step, values, nodes)
    flat = np.real(evaluate(step.details["activation"], {U: h.ravel()}))
    return np.broadcast_to(flat, h.size).reshape(h.shape), list(_points(step).values())


def _prior_weights(step: Step, values: Values, nodes: _Nodes) -> Array:
    """The prior as normalised weights, from its variances."""
    log = np.zeros_like(nodes.weights)
    for field, name in zip(step.removed, ("weight_variance", "shift_variance"), strict=False):
        spread = nodes.fields[field].reshape(-1, len(log))
        log -= (spread**2).sum(axis=0) / (2 * float(np.real(evaluate(step.details[name], values))))
    weights = nodes.weights * np.exp(log)
    return weights / weights.sum()


def _site_averages(step: Step, values: Values, nodes: _Nodes, prior: Array) -> dict[sp.Basic, complex]:
    """Every average over one site that the dropped term holds; its own prior, not the one read by the rule."""
    found: dict[sp.Basic, complex] = {}
    for node in step.details["dropped"].atoms(SiteAverage):
        at = {field: nodes.fields[whole][0] for field, whole in zip(node.fields, step.removed, strict=True)}
        weights = nodes.weights * np.exp(-evaluate(node.prior, {**values, **at}))
        found[node] = complex(np.sum(weights * evaluate(node.body, {**values, **at})) / weights.sum())
    return found


def _kernel_error(step: Step, moments: Array, h: Array, prior: Array) -> float:
    """The closed form of E[φ(u)φ(v)], where there is one, against the quadrature."""
    closed = step.details["kernel"].doit()
    if closed.has(GaussianAverage):
        return 0.0
    covariance = (h * prior) @ h.T
    sigma = np.sqrt(np.diag(covariance))
    worst = 0.0
    for i, k in np.ndindex(moments.shape):
        rho = float(np.clip(covariance[i, k] / (sigma[i] * sigma[k]), -1.0, 1.0))
        value = evaluate(closed, {SIGMA_U: sigma[i], SIGMA_V: sigma[k], CORRELATION: rho if i != k else 1.0})
        worst = max(worst, float(abs(value - moments[i, k])))
    return worst / float(np.max(np.abs(moments)))


__all__ = ["compare_laws", "feature_sizes"]
