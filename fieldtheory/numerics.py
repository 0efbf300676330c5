"""Numbers for symbols: an expression on small arrays, and integrals of exp(-S) over a few of its fields.

This is how a derivation checks itself (:mod:`fieldtheory.derivation`).  It reads expressions and never
rewrites them, so that an error of the algebra cannot hide in it.  Cost is that of plain NumPy on arrays with
one axis for each space; it is meant for sizes of two or three, not for data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import scipy.special
import sympy as sp

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, open_spaces
from fieldtheory.symbolic.sites import Bundle

Array = np.ndarray
Values = Mapping[sp.Basic, Any]

_FUNCTIONS: dict[Any, Callable[..., Array]] = {
    sp.log: np.emath.log, sp.exp: np.exp, sp.Abs: np.abs, sp.sin: np.sin, sp.cos: np.cos, sp.tanh: np.tanh,
    sp.erf: scipy.special.erf, sp.gamma: scipy.special.gamma, sp.digamma: scipy.special.digamma,
    sp.loggamma: lambda x: scipy.special.loggamma(x) if np.iscomplexobj(x) else scipy.special.gammaln(x),
    Bundle: lambda x: x, sp.sign: np.sign,
    sp.Max: lambda *x: reduce(np.maximum, x), sp.Min: lambda *x: reduce(np.minimum, x),
}


@lru_cache(maxsize=256)
def _lowered(function: Any, arity: int) -> Callable[..., Array]:
    symbols = sp.symbols(f"x0:{arity}", cls=sp.Dummy)
    return sp.lambdify(symbols, function(*symbols), ["scipy", "numpy"])  # type: ignore[no-any-return]


def space_size(space: Space, values: Values) -> int:
    """Number of points of a space once its symbols have values."""
    size = space.size.xreplace({s: sp.sympify(values[s]) for s in space.size.free_symbols if s in values})
    if not size.is_Integer:
        if not size.is_number or abs(float(size) - round(float(size))) > 1e-9:
            raise BadInput("values", f"size {space.size} of {space.name} = {size}", "an integer")
        size = sp.Integer(round(float(size)))
    return int(size)


def evaluate(expr: Any, values: Values, *, axes: Sequence[Space] | None = None) -> Any:
    """The value of an expression: a number, or an array with one axis for each space in which it is open.

    ``values`` gives every entry an array over its spaces, every symbol and every scalar entry a number; any
    of them may have one more, trailing axis, a batch, which the result then has too.  A key may also be any
    other node (an integral that is not evaluated here).  ``axes`` orders the axes of the result (default: by
    name).  Logarithms and roots are principal and turn complex where they must.

    Raises
    ------
    BadInput
        If something in the expression has no value, or an array does not fit its spaces.
    """
    expr = sp.sympify(expr)
    spaces = sorted(expr.atoms(Space) | set(axes or ()), key=lambda space: space.name)
    axis = {space: i for i, space in enumerate(spaces)}
    sizes = {space: space_size(space, values) for space in spaces}
    cache: dict[sp.Basic, Array] = {}
    batched = False

    def given(node: sp.Basic) -> Array:
        nonlocal batched
        array = np.asarray(values[node])
        own = node.spaces if isinstance(node, Entry) else ()
        if len(set(own)) != len(own):
            raise BadInput("expr", f"{node} over {own}", "entries with one axis for each space")
        shape = tuple(sizes[space] for space in own)
        if array.shape[:len(own)] != shape or array.ndim > len(own) + 1:
            raise BadInput("values", f"shape {array.shape} for {node}", f"{shape}, or one more axis")
        if array.ndim == len(own) + 1:
            batched = True
        else:
            array = array[..., None]
        order = sorted(range(len(own)), key=lambda i: axis[own[i]])
        array = array.transpose(*order, len(own))
        full = [1] * len(spaces) + [array.shape[-1]]
        for i in order:
            full[axis[own[i]]] = shape[i]
        return array.reshape(full)

    def walk(node: sp.Basic) -> Array:
        if node not in cache:
            cache[node] = compute(node)
        return cache[node]

    def compute(node: sp.Basic) -> Array:
        if node in values:
            return given(node)
        if isinstance(node, SpaceSum):
            body, i = walk(node.body), axis[node.space]
            return body.sum(axis=i, keepdims=True) if body.shape[i] > 1 else body * sizes[node.space]
        if isinstance(node, Entry | sp.Symbol):
            raise BadInput("values", f"none for {node}", "one for every entry and symbol")
        if node.is_number:
            number = complex(node)
            return np.full([1] * (len(spaces) + 1), number if number.imag else number.real)
        if isinstance(node, sp.Add):
            return reduce(np.add, map(walk, node.args))
        if isinstance(node, sp.Mul):
            return reduce(np.multiply, map(walk, node.args))
        if isinstance(node, sp.Pow):
            base, exponent = walk(node.base), node.exp
            if exponent.is_Integer:
                return base ** int(exponent) if exponent >= 0 else 1 / base ** int(-exponent)
            return np.emath.power(base, walk(exponent))
        if isinstance(node, sp.Function | sp.Max | sp.Min | sp.Piecewise):
            function = _FUNCTIONS.get(node.func) or _lowered(node.func, len(node.args))
            return np.asarray(function(*map(walk, node.args)))
        raise BadInput("expr", type(node).__name__, "sums, products, powers, functions")

    result = walk(expr)
    # an axis that the expression is open in has its full length even where nothing on it varies
    opened = open_spaces(expr) if axes is None else frozenset(axes)
    shape = [sizes[space] if space in opened else 1 for space in spaces] + [result.shape[-1]]
    result = np.broadcast_to(result, shape)
    result = result.squeeze(tuple(i for i, space in enumerate(spaces) if space not in opened))
    kept = [space for space in spaces if space in opened]
    if axes is not None:
        result = result.transpose(*[kept.index(space) for space in axes], len(kept))
    if not batched:
        result = result[..., 0]
    return result if result.ndim else result[()]


@dataclass(frozen=True)
class Quadrature:
    """∫ e^{-S}: its log, nodes (component, node) and normalised weights, and how far a shifted grid is off.

    ``field_values`` holds the integrated fields at the nodes, the nodes on the last axis.
    """

    log_value: complex
    nodes: Array
    weights: Array
    error: float
    field_values: Mapping[sp.Basic, Array] = dataclasses.field(default_factory=dict)

    def average(self, observable: Array) -> tuple[Array, Array]:
        """⟨O⟩ and ⟨|O|⟩ from values with the nodes on the last axis; the second is the scale of rounding."""
        return observable @ self.weights, np.abs(observable) @ np.abs(self.weights)


def _stationary(action: Callable[[Array], Array], size: int) -> tuple[Array, Array]:
    """Minimum of Re S and its Hessian, by finite differences and damped Newton steps (one for a Gaussian)."""
    delta = 1e-2
    unit = np.eye(size) * delta
    pairs = [(a, b) for a in range(size) for b in range(a)]
    shifts = np.stack([np.zeros(size), *unit, *-unit, *(unit[a] + unit[b] for a, b in pairs),
                       *(-unit[a] - unit[b] for a, b in pairs)], axis=1)
    centre, eigenvalues = np.zeros(size), np.ones(size)
    hessian = np.eye(size)
    for _ in range(60):
        s = np.real(action(centre[:, None] + shifts))
        plus, minus = s[1:1 + size], s[1 + size:1 + 2 * size]
        gradient = (plus - minus) / (2 * delta)
        second = (plus - 2 * s[0] + minus) / delta**2
        hessian = np.diag(second)
        mixed = s[1 + 2 * size:]
        for i, (a, b) in enumerate(pairs):
            both = (mixed[i] - 2 * s[0] + mixed[i + len(pairs)]) / delta**2
            hessian[a, b] = hessian[b, a] = (both - second[a] - second[b]) / 2
        if not np.all(np.isfinite(hessian)):
            raise NotConverged("exp(-S) is not finite around the centre of the quadrature", float("nan"))
        eigenvalues, vectors = np.linalg.eigh(hessian)
        downhill = np.maximum(np.abs(eigenvalues), 1e-3)
        step = -vectors @ ((vectors.T @ gradient) / downhill)
        scale = 1.0
        while scale > 1e-3 and not np.real(action((centre + scale * step)[:, None])[0]) <= s[0] + 1e-12:
            scale /= 2
        centre = centre + scale * step
        if np.max(np.abs(step) * np.sqrt(downhill.max())) < 1e-4:
            break
    if eigenvalues.min() < 1e-3:
        raise NotConverged("exp(-S) does not decay in every direction", float(eigenvalues.min()))
    return centre, hessian


def integrate(action: Callable[[Array], Array], size: int, *, tolerance: float = 1e-11,
              max_nodes: int = 600_000) -> Quadrature:
    """∫ dⁿx e^{-S(x)} over real x (n ≤ 3) by the trapezoidal rule, S(x) given on nodes of shape (n, nodes).

    The grid fills a ball, centred and scaled by minimum and curvature of Re S found numerically, which
    grows and is refined until the integrand vanishes at its border and a grid shifted by half a step agrees.
    For an analytic integrand the error falls exponentially in the number of nodes along an axis.

    Raises
    ------
    NotConverged
        If Re S has no minimum, or the grid would need more than ``max_nodes`` nodes.
    """
    centre, hessian = _stationary(action, size)
    eigenvalues, vectors = np.linalg.eigh(hessian)
    stretch = vectors / np.sqrt(eigenvalues)
    log_volume = -np.log(eigenvalues).sum() / 2
    half_width, step, error = 8.5, 0.6, math.inf
    while True:
        count = math.ceil(half_width / step)
        if 2 * (2 * count + 1) ** size > max_nodes:
            raise NotConverged(f"an integral over {size} fields needs more than {max_nodes} nodes", error)
        ticks = step * np.arange(-count, count + 1)
        grid = np.stack([g.ravel() for g in np.meshgrid(*[ticks] * size, indexing="ij")])
        radius = np.sqrt((grid**2).sum(axis=0))
        grid, radius = grid[:, radius <= ticks[-1]], radius[radius <= ticks[-1]]
        border = radius > ticks[-1] - step
        grid = np.concatenate([grid, grid + step / 2], axis=1)
        nodes = centre[:, None] + stretch @ grid
        s = action(nodes) + np.zeros(nodes.shape[1])
        reference = np.real(s).min()
        if not np.isfinite(reference):
            raise NotConverged("exp(-S) is not finite on the grid of the quadrature", float("nan"))
        weights = np.exp(reference - s)
        weights[~np.isfinite(weights)] = 0.0
        first, second = weights[:border.size].sum(), weights[border.size:].sum()
        total = (first + second) / 2
        error = abs(first - second) / abs(total) if total else math.inf
        if np.abs(weights[:border.size][border]).max() > 1e-15:
            half_width *= 1.5
        elif error > tolerance:
            step /= 1.4
        else:
            log_value = complex(np.log(total + 0j) - reference + size * math.log(step) + log_volume)
            # one of the two grids is enough for averages: they agree
            return Quadrature(log_value, nodes[:, :border.size], weights[:border.size] / first, float(error))


def contour_integral(action: Callable[[Array], Array]) -> tuple[complex, float]:
    r"""ln ∫ dh/(2πi) e^{-S(h)} up an imaginary contour, and the error, for S → κh at infinity with real κ.

    The singularities lie on the side where e^{-κh} decays, on the real axis; the contour passes on the
    other side.  It is bent into the parabola h = h₀ - μ((1 + iu)² - 1)/κ around them, where the trapezoidal
    rule converges exponentially; h₀ is where |e^{-S}| is smallest on the real axis, and a second h₀ gives the
    error.

    Raises
    ------
    NotConverged
        If no such point is found.
    """
    far = 1e5
    right, farther = action(np.array([[far + 1j, 2 * far + 1j]]))
    kappa = float(np.real(farther - right)) / far
    if not abs(kappa) > 1e-3:
        raise NotConverged("the integrand does not decay along any direction of the contour", kappa)
    # outward from the decaying side the action is real until a singularity, where it becomes complex
    points = -np.concatenate([-np.geomspace(1e3, 1e-3, 600), np.geomspace(1e-3, 1e3, 600)]) / kappa
    s = action(points[None, :] + 0j)
    blocked = np.flatnonzero(~np.isfinite(s) | (np.abs(np.imag(s) - np.imag(s[-1])) > 1e-9))
    start = blocked[-1] + 1 if blocked.size else 0
    if start >= points.size - 2:
        raise NotConverged("no real point on the proper side of the singularities", float(points[-1]))
    best = start + int(np.argmax(np.real(s[start:])))
    singular = points[max(start - 1, 0)]
    logs = []
    for widen in (1.0, 1.3):
        h0 = singular + widen * (points[best] - singular)
        mu = max(abs(kappa * (h0 - singular)), 0.1)
        u = -np.sign(kappa) * np.linspace(-1, 1, 4001) * math.sqrt(60 / mu + 9)
        z = mu * (1 + 1j * u) ** 2
        h = h0 - (z - mu) / kappa
        slope = -2j * mu * (1 + 1j * u) / kappa * (u[1] - u[0])
        s = action(h[None, :])
        reference = np.real(s).min()
        logs.append(complex(np.log(np.sum(np.exp(reference - s) * slope) / (2j * np.pi)) - reference))
    return logs[0], abs(np.expm1(logs[1] - logs[0]))


def domain(field: sp.Basic) -> str:
    """What a field ranges over; a scalar field may be a plain symbol, positive if it is declared so."""
    return field.domain if isinstance(field, Entry) else "positive" if field.is_positive else "real"


Components = tuple[int, Callable[[Array], dict[sp.Basic, Array]], Callable[[Array], Any]]


def component_values(fields: Sequence[sp.Basic], values: Values) -> Components:
    """Real components of fields: how many, a map from (component, node) to values, and -ln of the measure.

    A real component is the field's; an imaginary field is i times it, with measure 1/(2π); a positive one
    is its exponential, with the Jacobian in the measure.
    """
    shapes = [tuple(space_size(space, values) for space in getattr(f, "spaces", ())) for f in fields]
    starts = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
    table = [(f, domain(f), shape, slice(*ends))
             for f, shape, *ends in zip(fields, shapes, starts, starts[1:])]

    def unpack(x: Array) -> dict[sp.Basic, Array]:
        found: dict[sp.Basic, Array] = {}
        for f, kind, shape, part in table:
            component = x[part].reshape(*shape, x.shape[1])
            found[f] = (1j * component if kind == "imaginary" else
                        np.exp(component) if kind == "positive" else component)
        return found

    def measure(x: Array) -> Any:
        total: Any = 0.0
        for _, kind, shape, part in table:
            if kind == "imaginary":
                total = total + math.prod(shape) * math.log(2 * math.pi)
            elif kind == "positive":
                total = total - x[part].sum(axis=0)
        return total

    return int(starts[-1]), unpack, measure


def conditional_integral(expr: sp.Expr, fields: Sequence[sp.Basic], values: Values) -> Quadrature:
    """∫ e^{-expr} over ``fields`` (imaginary ones with measure dφ/2πi), all else fixed at ``values``."""
    size, unpack, measure = component_values(fields, values)

    def action(x: Array) -> Array:
        return np.asarray(evaluate(expr, {**values, **unpack(x)}) + measure(x))

    quadrature = integrate(action, size)
    return replace(quadrature, field_values=unpack(quadrature.nodes))


__all__ = ["Quadrature", "component_values", "conditional_integral", "contour_integral", "domain", "evaluate",
           "integrate", "space_size"]
