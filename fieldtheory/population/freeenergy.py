r"""The variational free energy in the population limit, as a function of the order parameter and the mean precisions.

One site's action s(w), with all constants, has F = -N ln ∫dw e^{-s} ≥ -ln Z; after the rule `hyperprior` the precisions
of the inputs are part of the environment, F(m, λ; s).  By permutation symmetry there are two of them, that of the k
inputs of the parity (``relevant``) and that of the others (``rest``).  In w_j = u_j/√λ_j the prior is N(0, 1) whatever
λ is, so that one set of nodes serves every solution:

    F = offset(m, λ; s) - N ln Σ_i W_i e^{-t(u_i; m, λ; s)},

a smooth function, the gradient of which is taken exactly: branches that follow it are branches of one function.  Of its
curvature only ∂²/∂λ² is not that of the sum over nodes but that of the integral over w, where λ multiplies w² alone
(∂⟨O⟩/∂λ = -Cov(O, Σw²)/2), so that no second derivative of the activation is needed.  ∂F/∂λ has the average of
w·∂t/∂w in place of ⟨w²⟩ (the virial theorem), which vanishes with what is learned.

What all solutions at one noise share, the norm of the likelihood (P/2) ln 2πs, is left out of F.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from fieldtheory.compile import Kernel, compile_kernel
from fieldtheory.errors import BadInput, NotConverged, RuleError
from fieldtheory.population.nodes import _FEW_HERMITE, EXACT, NODE, U, _of_one, orthant, smoothed
from fieldtheory.symbolic.bases import parity_part
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on, distribute

if TYPE_CHECKING:
    from fieldtheory.population.meanfield import MeanFieldPopulation

Array = np.ndarray

CLASSES = ("relevant", "rest")
"""Inputs of the parity, and all others."""
FAR = Space("far", sp.Symbol("N_far", positive=True))
"""Corners of the cube of the other inputs (or nodes of a Gaussian in their place)."""
SHARE = sp.Symbol("P/s", positive=True)


@dataclass(frozen=True)
class Point:
    """F and its derivatives by (m, ln λ) and by ln s, with what is measured on the nodes there.

    ``slopes`` and ``values`` are those of each random shift; ``right_side`` is ⟨N a J⟩, which m equals at a solution,
    ``moments`` ⟨Σw²⟩ by class.
    """

    value: float
    slope: Array
    noise_slope: float
    curvature: Array
    mixed: Array
    slopes: Array
    values: Array
    nodes: float
    right_side: float
    moments: Array


class FreeEnergy:
    """F(m, λ; s) of a population theory of one parity, compiled."""

    def __init__(self, theory: MeanFieldPopulation) -> None:
        if theory.law.name != "hypercube":
            raise RuleError("the free energy with precisions of their own is for a parity on the hypercube")
        self.theory = theory
        (order,) = theory.modes
        assert isinstance(order, int)
        self.order = order
        (self.m,) = theory.order_parameters.values()
        (self.weights,) = theory.closure.fields
        self.inputs = self.weights.spaces[0]
        (self.noise,) = (s for s in theory.tilt.free_symbols if s.name == "s")  # type: ignore[attr-defined]
        self.precisions = {name: sp.Symbol(f"lambda_{name}", positive=True) for name in CLASSES}
        self.counts = {"relevant": sp.Integer(self.order), "rest": self.inputs.size - self.order}

    # ----------------------------------------------------------------------------------------- expressions

    @cached_property
    def hyperprior(self) -> Mapping[str, sp.Basic] | None:
        """What the rule found of the law of the precisions; None under a fixed prior."""
        found = [step for step in self.theory.action.steps if step.rule == "hyperprior"]
        return found[0].details if found else None

    @cached_property
    def environment(self) -> dict[str, dict[sp.Basic, sp.Basic]]:
        """By class: the order parameter of the precisions in terms of the mean precision λ of the class."""
        if self.hyperprior is None:
            return {name: {} for name in CLASSES}
        (spread,) = dict(self.hyperprior["order_parameters"])  # type: ignore[call-overload]
        unknown = sp.Dummy()
        found = {}
        for name, precision in self.precisions.items():
            (solved,) = sp.solve(self.hyperprior["mean"].xreplace({spread: unknown}) - precision, unknown)
            found[name] = {spread: solved}
        return found

    @cached_property
    def means(self) -> dict[str, sp.Expr]:
        """By class: the mean precision that ⟨Σw²⟩ over the inputs of the class (``moment_…``) asks for."""
        if self.hyperprior is None:
            return {}
        ((spread, body),) = dict(self.hyperprior["order_parameters"]).items()  # type: ignore[call-overload]
        if not isinstance(body, SpaceSum) or body.body.as_base_exp()[1] != 2:
            raise RuleError(f"the precisions are not coupled to a sum of squares of the weights: {body}")
        sites = body.space.size
        return {name: self.hyperprior["mean"].xreplace(  # type: ignore[attr-defined]
            {spread: sites * sp.Symbol(f"moment_{name}", positive=True) / self.counts[name]}) for name in CLASSES}

    def _by_class(self, total: SpaceSum) -> sp.Expr:
        return sp.Add(*(self.counts[name] * total.body.xreplace(self.environment[name]) for name in CLASSES))

    @cached_property
    def offset(self) -> sp.Expr:
        """F but for -N ln of the average of e^{-tilt} over the prior, without what all solutions share."""
        expr = self.theory.action.expr
        fixed = sp.Add(*(t for t in sp.Add.make_args(distribute(expr)) if not depends_on(t, self.weights)))
        norm = SpaceSum(sp.log(self.theory.closure.prior_precisions[self.weights] / (2 * sp.pi)) / 2, self.inputs)
        table = {total: self._by_class(total) for total in (fixed + norm).atoms(SpaceSum) if total.space == self.inputs}
        N = sp.Symbol("N", positive=True)
        P = sp.Symbol("P", positive=True)
        total = sp.expand(N * self.theory._on_modes((fixed + norm).xreplace(table)))
        kept = []
        for term in sp.Add.make_args(total):
            shared = sp.powsimp(term.xreplace({P: SHARE * self.noise}))
            if not shared.has(self.noise):
                kept.append(shared.xreplace({SHARE: 1 / self.noise}))
            elif shared.free_symbols & {self.m, *self.precisions.values()}:
                raise RuleError(f"{term} depends on the solution and on P and s in another way than through s/P")
        return sp.Add(*kept)

    @cached_property
    def _powers(self) -> dict[sp.Expr, sp.Expr]:
        """Power sums of the weights in those of the whitened ones, by class."""
        found = {}
        for entry in self.theory.tilt.atoms(Entry):
            if entry.name.startswith("Q_"):
                power = sp.Integer(entry.name[2:])
                found[entry] = sp.Add(*(precision**(-power / 2) * Entry(f"q_{power}_{name}", "data", (NODE,))
                                        for name, precision in self.precisions.items()))
        return found

    @cached_property
    def tilt(self) -> sp.Expr:
        """t(u; m, λ; s), with the averages over the inputs as data."""
        return self.theory.tilt.xreplace(self._powers)

    def _along(self, expr: sp.Expr, name: str) -> sp.Expr:
        """The derivative by ln λ of a class, the averages over the inputs moving with it."""
        precision = self.precisions[name]
        total = precision * sp.diff(expr, precision)
        for entry in expr.atoms(Entry):
            if not entry.name.startswith("q_"):
                symbol = sp.Dummy()
                slope = sp.diff(expr.xreplace({entry: symbol}), symbol).xreplace({symbol: entry})
                total += slope * Entry(f"{entry.name}_{name}", "data", entry.spaces)
        return total

    # -------------------------------------------------------------------------------------------- compiled

    @cached_property
    def _scalars(self) -> list[sp.Symbol]:
        symbols = self.tilt.free_symbols | self.offset.free_symbols | set(self.precisions.values())
        symbols |= self.theory.sources[self.theory.modes[0]].free_symbols
        return sorted(symbols, key=lambda symbol: symbol.name)  # type: ignore[attr-defined]

    @cached_property
    def sums(self) -> Kernel:
        """Sums over the nodes of one shift."""
        s, m = self.noise, self.m
        W, top = Entry("W", "data", (NODE,)), sp.Symbol("top", real=True)
        weight = W * sp.exp(top - self.tilt)
        observables = {"m": sp.diff(self.tilt, m), "s": s * sp.diff(self.tilt, s)}
        observables |= {name: self._along(self.tilt, name) for name in CLASSES}
        squares = {name: Entry(f"q_2_{name}", "data", (NODE,)) / 2 for name in CLASSES}
        outputs: dict[str, sp.Expr] = {"Z": sp.S.One, "Z2": weight, "R": self.theory.sources[self.theory.modes[0]]
                                       .xreplace(self._powers)}
        outputs |= observables | {f"q_{name}": body for name, body in squares.items()}
        for a, first in observables.items():  # derivatives of ⟨∂t⟩: of the body, and of the law
            outputs |= {f"{a}_m": sp.diff(first, m), f"{a}_s": s * sp.diff(first, s)}
            outputs |= {f"{a}*m": first * observables["m"], f"{a}*s": first * observables["s"]}
            outputs |= {f"{a}*q_{name}": first * body for name, body in squares.items() if a in CLASSES}
        whole = {name: SpaceSum(weight * body, NODE) for name, body in outputs.items()}
        entries = sorted({e for expr in whole.values() for e in expr.atoms(Entry)}, key=lambda e: e.name)
        return compile_kernel(whole, scalars=[*self._scalars, top], entries=entries, name="freeenergy")

    @cached_property
    def exponent(self) -> Kernel:
        entries = sorted(self.tilt.atoms(Entry), key=lambda entry: entry.name)
        return compile_kernel({"tilt": self.tilt}, scalars=self._scalars, entries=entries, name="tilt")

    @cached_property
    def base(self) -> Kernel:
        """The offset and its derivatives."""
        scales = {"m": (self.m, sp.S.One), **{name: (x, x) for name, x in self.precisions.items()}}

        def along(expr: sp.Expr, name: str) -> sp.Expr:
            symbol, scale = scales[name]
            return scale * sp.diff(expr, symbol)

        outputs = {"F": self.offset, "s": self.noise * sp.diff(self.offset, self.noise)}
        for a in scales:
            outputs[a] = along(self.offset, a)
            outputs[f"s_{a}"] = along(outputs["s"], a)
            outputs |= {f"{a}_{b}": along(outputs[a], b) for b in scales}
        return compile_kernel(outputs, scalars=self._scalars, entries=[], name="offset")

    @cached_property
    def update(self) -> Kernel:
        """The equations of the precisions: λ of each class from ⟨Σw²⟩."""
        symbols = {s for expr in self.means.values() for s in expr.free_symbols}
        return compile_kernel(self.means, scalars=sorted(symbols, key=lambda s: s.name), entries=[],  # type: ignore[attr-defined]
                              name="precisions")

    def features(self, closed: bool) -> Kernel:
        """Averages over the inputs on nodes, and their derivatives by ln λ of each class."""
        if closed not in self._features:
            near, far = self.precisions.values()
            rest, one = Entry("far", "data", (NODE, FAR)), Entry("one", "data", (FAR,))
            rho, size = Entry("rho", "positive", (NODE,)), sp.Symbol("rho", positive=True)
            functions = {f"J_{self.order}": (True, self.theory.activation)}
            functions |= {entry.name: (False, _of_one(node)) for node, entry in self.theory._averages.items()}
            half = list(product((1, -1), repeat=self.order))[:2**(self.order - 1)]  # the others by x → -x
            outputs: dict[str, sp.Expr] = {}
            for name, (signed, function) in functions.items():
                inside = _part(function, self.order if signed else 0)
                inside = smoothed(inside, size) if closed else inside
                assert inside is not None
                slope = _continuous(sp.diff(inside, U))
                for corner, signs in enumerate(half):
                    u = Entry(f"near_{corner}", "data", (NODE,)) / sp.sqrt(near)
                    if closed:
                        table = {U: u, size: rho / sp.sqrt(far)}
                        bodies = {"": inside.xreplace(table), "_relevant": -u * slope.xreplace(table) / 2,
                                  "_rest": (-size * sp.diff(inside, size) / 2).xreplace(table)}
                    else:
                        h = rest / sp.sqrt(far)
                        bodies = {"": SpaceSum(one * inside.xreplace({U: u + h}), FAR),
                                  "_relevant": -u * SpaceSum(one * slope.xreplace({U: u + h}), FAR) / 2,
                                  "_rest": -SpaceSum(one * h * slope.xreplace({U: u + h}), FAR) / 2}
                    weight = sp.Rational(prod(signs) if signed else 1, len(half))
                    for suffix, body in bodies.items():
                        outputs[name + suffix] = outputs.get(name + suffix, sp.S.Zero) + weight * body
            entries = sorted({e for expr in outputs.values() for e in expr.atoms(Entry)}, key=lambda e: e.name)
            self._features[closed] = compile_kernel(outputs, scalars=[near, far], entries=entries, name="whitened")
        return self._features[closed]

    @cached_property
    def _features(self) -> dict[bool, Kernel]:
        return {}

    @cached_property
    def closed(self) -> bool:
        """Whether every average over a Gaussian rest is known in closed form."""
        functions = [_part(self.theory.activation, self.order)]
        functions += [_part(_of_one(node), 0) for node in self.theory._averages]
        return all(smoothed(f, sp.Symbol("rho", positive=True)) is not None for f in functions)


def _part(function: sp.Expr, parity: int) -> sp.Expr:
    """The even or odd part of a function of U, real as it stands."""
    found = parity_part(function, U, parity)
    return (function + (-1)**parity * function.xreplace({U: -U})) / 2 if found.has(sp.I) else found


def _continuous(slope: sp.Expr) -> sp.Expr:
    """The slope of a continuous function of U, in which δ(U) stands beside what vanishes there."""
    terms = sp.Add.make_args(sp.expand(slope))
    for term in terms:
        if term.has(sp.DiracDelta) and term.replace(sp.DiracDelta, lambda *_: sp.S.One).xreplace({U: sp.S.Zero}) != 0:
            raise RuleError(f"the slope of the activation holds {term}: on single corners of the cube the free energy "
                            "of an activation that jumps is not smooth (relevant_only averages over the rest)")
    return sp.Add(*(term for term in terms if not term.has(sp.DiracDelta)))


def _components(k: int, D: int) -> list[tuple[float, float, float]]:
    """As for the fixed prior, but in units of the deviation at the present precision: weights grow with it."""
    found = {(0.0, 1.0, 1.0), (0.0, 1.5, 1.0), (0.0, 1.0, 0.7), (0.0, 0.5, 1.0)}
    found |= {(omega, width, 1.0) for omega in (0.5, 0.8, 1.1, 1.5, 2.0) for width in (0.15, 0.4)}
    found |= {(omega, 1.0, 1.0) for omega in (1.0, 2.0)}
    far = (D / k)**0.5
    found |= {(float(omega), 0.4, 0.7) for omega in np.arange(1.0, 1.3 * far + 0.5, max(0.5, far / 6))}
    return sorted(found)


class Landscape:
    """The free energy on one set of whitened nodes, in x = (m, ln λ of each class that moves) and ln s.

    Parameters
    ----------
    prior : precision of a weight under the prior, which λ is where it does not move.
    """

    def __init__(self, energy: FreeEnergy, input_dim: int, values: Mapping[str, float], prior: float,
                 relevant_only: bool | None, count: int, shifts: int, seed: int) -> None:
        k, D = energy.order, input_dim
        if isinstance(D, bool) or not isinstance(D, int) or k > D:
            raise BadInput("input_dim", D, "an integer that is at least the order of the target")
        if shifts < 2 or count < 64:
            raise BadInput("nodes", (count, shifts), "at least 64 nodes and 2 shifts")
        self.energy, self.values, self.prior = energy, {**values, "D": float(D)}, prior
        self.moving = () if energy.hyperprior is None else CLASSES[:1] if k == D else CLASSES
        only = D > EXACT if relevant_only is None else bool(relevant_only)
        radial = only and k != D
        self._kernel = energy.features(radial and energy.closed)
        rng = np.random.default_rng(seed)
        self._shifts = [self._draw(k, D, radial, count, rng) for _ in range(shifts)]
        self._at: tuple[float, ...] | None = None
        self._moved: list[dict[str, Array]] = []
        self._top = 0.0

    def _draw(self, k: int, D: int, radial: bool, count: int, rng: np.random.Generator) -> dict[str, Array]:
        nodes, norms, weights = orthant(_components(k, D), k, 0 if radial else D - k, D - k, count, rng)

        def corners(n: int) -> Array:
            return np.array(list(product((1.0, -1.0), repeat=n))).reshape(2**n, n)

        z, q = _FEW_HERMITE
        far = np.outer(norms, z) if radial else nodes[:, k:] @ corners(D - k).T
        given: dict[str, Array] = {"W": weights / weights.sum(), "far": far, "rho": norms,
                                   "one": q if radial else np.full(2**(D - k), 0.5**(D - k))}
        given |= {f"near_{c}": column for c, column in enumerate((nodes[:, :k] @ corners(k)[:2**(k - 1)].T).T)}
        powers = {f"q_{p}_relevant": (nodes[:, :k]**p).sum(axis=1) for p in range(2, 9)}
        powers |= {f"q_{p}_rest": (nodes[:, k:]**p).sum(axis=1) for p in range(3, 9)}
        powers["q_2_rest"] = norms**2 if radial else (nodes[:, k:]**2).sum(axis=1)
        wanted = {*self._kernel.arguments, *self.energy.sums.arguments}
        return {name: np.ascontiguousarray(array) for name, array in (given | powers).items() if name in wanted}

    # ------------------------------------------------------------------------------------------------------

    def _scalars(self, x: Array, noise: float) -> dict[str, float]:
        found = {**self.values, self.energy.m.name: float(x[0]), "s": float(np.exp(noise)), "P": 1.0}
        found |= {f"lambda_{name}": self.prior for name in CLASSES}
        found |= {f"lambda_{name}": float(np.exp(v)) for name, v in zip(self.moving, x[1:], strict=True)}
        return found

    def _arrays(self, scalars: Mapping[str, float]) -> list[dict[str, Array]]:
        key = tuple(scalars[f"lambda_{name}"] for name in CLASSES)
        if key != self._at:
            kernel = self._kernel
            lambdas = dict(zip((f"lambda_{name}" for name in CLASSES), key, strict=True))
            self._moved = []
            for shift in self._shifts:
                given = {**shift, **lambdas}
                found = kernel(**{name: given[name] for name in kernel.arguments})
                size = len(shift["W"])  # an average that is the same for all weights is a number
                self._moved.append({**shift, **{name: np.broadcast_to(v, size) for name, v in found.items()}})
            self._at = key
        return self._moved

    def at(self, x: Array, noise: float) -> Point:
        """F and its derivatives at x = (m, ln λ…) and noise = ln s."""
        scalars = self._scalars(x, noise)
        arrays = self._arrays(scalars)
        kernel = self.energy.sums
        for attempt in range(2):
            given = {**scalars, "top": self._top}
            raw = np.array([list(kernel(**{n: (given | a)[n] for n in kernel.arguments}).values()) for a in arrays])
            if raw[:, 0].min() > 1e-60 and raw[:, 0].max() < 1e60:
                break
            if attempt:
                raise NotConverged("the weights of the nodes leave the finite numbers", float(raw[:, 0].max()))
            exponent = self.energy.exponent
            self._top = min(float(exponent(**{n: (scalars | a)[n] for n in exponent.arguments})["tilt"].min())
                            for a in arrays)
        return self._point(dict(zip(kernel.outputs, raw.T, strict=True)), scalars)

    def updated(self, point: Point) -> Array:
        """ln λ of each moving class from the second moments found at a point."""
        if not self.moving:
            return np.zeros(0)
        kernel = self.energy.update
        given = {**self.values, **{f"moment_{name}": float(v) for name, v in zip(CLASSES, point.moments, strict=True)}}
        found = kernel(**{name: given[name] for name in kernel.arguments})
        return np.log([found[name] for name in self.moving])

    def _point(self, raw: Mapping[str, Array], scalars: Mapping[str, float]) -> Point:
        base = self.energy.base(**{name: scalars[name] for name in self.energy.base.arguments})
        N, unknowns = scalars["N"], ("m", *self.moving)
        mean = {name: float(column.sum() / raw["Z"].sum()) for name, column in raw.items()}

        def response(a: str, b: str) -> float:
            """The derivative of ⟨∂_a t⟩ by m or ln s; by ln λ in the weights w, of which ∂_a t is a fixed function."""
            if b in CLASSES:
                return -mean[f"{a}*q_{b}"] + mean[a] * mean[f"q_{b}"]
            return mean[f"{a}_{b}"] - mean[f"{a}*{b}"] + mean[a] * mean[b]

        slope = np.array([base[n] + N * mean[n] for n in unknowns])
        slopes = np.stack([base[n] + N * raw[n] / raw["Z"] for n in unknowns], axis=1)
        curvature = np.array([[base[f"{a}_{b}"] + N * (response(b, a) if a == "m" else response(a, b))
                               for b in unknowns] for a in unknowns])
        mixed = np.array([base[f"s_{a}"] + N * response(a, "s") for a in unknowns])
        logs = np.log(raw["Z"]) - self._top
        value = base["F"] - N * (np.log(raw["Z"].mean()) - self._top)
        moments = np.array([2 * mean[f"q_{name}"] / scalars[f"lambda_{name}"] for name in CLASSES])
        return Point(float(value), slope, base["s"] + N * mean["s"], curvature, mixed, slopes, base["F"] - N * logs,
                     float(raw["Z"].sum()**2 / raw["Z2"].sum()), mean["R"], moments)


__all__ = ["CLASSES", "FreeEnergy", "Landscape", "Point"]
