r"""The variational free energy in the population limit, as a function of the order parameters and mean precisions.

One site's action s(w), with all constants, has F = -N ln ∫dw e^{-s} ≥ -ln Z; after the rule `hyperprior` the precisions
of the inputs are part of the environment, F(m, λ; s).  By permutation symmetry there is one for each class of inputs
(:mod:`.population.whitened`): those of a parity are ``relevant``, each axis of a target of Gaussian inputs is a class
of its own, and the others are the ``rest``.  In w_j = u_j/√λ_j the prior is N(0, 1) whatever λ is, so that one set of
nodes serves every solution:

    F = offset(m, λ; s) - N ln Σ_i W_i e^{-t(u_i; m, λ; s)},

a smooth function, the gradient of which is taken exactly: branches that follow it are branches of one function.  Of its
curvature only ∂²/∂λ² is not that of the sum over nodes but that of the integral over w, where λ multiplies w² alone
(∂⟨O⟩/∂λ = -Cov(O, Σw²)/2), so that no second derivative of the activation is needed.  ∂F/∂λ has the average of
w·∂t/∂w in place of ⟨w²⟩ (the virial theorem), which vanishes with what is learned.

At fixed λ and s, F is concave in m: t is minus the square of what is linear in m, and so is the offset.  Modes that are
not kept are taken for zero, with which F bounds -ln Z only where symmetry says so (a single parity).  What all
solutions at one noise share, the norm of the likelihood (P/2) ln 2πs, is left out of F.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from fieldtheory.compile import Kernel, compile_kernel
from fieldtheory.errors import NotConverged, RuleError
from fieldtheory.population.arguments import check_nodes
from fieldtheory.population.nodes import FIELD, NODE
from fieldtheory.population.whitened import KINDS
from fieldtheory.symbolic.fields import Entry, SpaceSum, depends_on, distribute

if TYPE_CHECKING:
    from fieldtheory.population.meanfield import MeanFieldPopulation

Array = np.ndarray

SHARE = sp.Symbol("P/s", positive=True)


@dataclass(frozen=True)
class Point:
    """F and its derivatives by (m…, ln λ…) and by ln s, with what is measured on the nodes there.

    ``slopes`` and ``values`` are those of each random shift; ``right_side`` are ⟨N a J_n⟩, which m_n equals at a
    solution, ``own`` is the curvature by m at a given law of one site, ``moments`` ⟨Σw²⟩ by class.
    """

    value: float
    slope: Array
    noise_slope: float
    curvature: Array
    mixed: Array
    slopes: Array
    values: Array
    nodes: float
    right_side: Array
    own: Array
    moments: Array

    @property
    def orders(self) -> int:
        """How many of the unknowns are order parameters: the first."""
        return len(self.right_side)

    @property
    def stable(self) -> bool:
        """Whether F has a minimum in the precisions, with the order parameters at its maximum in them."""
        n, curvature = self.orders, self.curvature
        inner, across, outer = curvature[:n, :n], curvature[:n, n:], curvature[n:, n:]
        if np.linalg.eigvalsh((inner + inner.T) / 2).max() >= 0:
            return False
        reduced = outer - across.T @ np.linalg.solve(inner, across)
        return bool((np.linalg.eigvalsh((reduced + reduced.T) / 2) > 0).all())


class FreeEnergy:
    """F(m…, λ…; s) of a population theory, compiled."""

    def __init__(self, theory: MeanFieldPopulation) -> None:
        self.theory = theory
        self.unknowns = tuple(theory.order_parameters.values())
        (self.weights,) = theory.closure.fields
        self.inputs = self.weights.spaces[0]
        (self.noise,) = (s for s in sp.Add(*theory.unwritten).free_symbols if s.name == "s")  # type: ignore[attr-defined]
        overlaps = dict(zip(theory._modes, theory._overlaps.values(), strict=True))
        self.features = KINDS[theory.law.name](theory.activation, overlaps, theory._averages, self.inputs.size)
        self.counts, self.precisions = self.features.counts, self.features.precisions

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
            return {name: {} for name in self.counts}
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
            {spread: sites * sp.Symbol(f"moment_{name}", positive=True) / self.counts[name]}) for name in self.counts}

    def _by_class(self, total: SpaceSum) -> sp.Expr:
        return sp.Add(*(self.counts[name] * total.body.xreplace(self.environment[name]) for name in self.counts))

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
            elif shared.free_symbols & {*self.unknowns, *self.precisions.values()}:
                raise RuleError(f"{term} depends on the solution and on P and s in another way than through s/P")
        return sp.Add(*kept)

    @cached_property
    def _collective(self) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
        """(c, t, f) of the theory, with the power sums of the weights in those of whitened weights."""
        c, tilt, source = (expr.xreplace({entry: self.features.in_whitened(sp.Integer(entry.name[2:]))
                                          for entry in expr.atoms(Entry) if entry.name.startswith("Q_")})
                           for expr in self.theory.collective)
        return c, tilt, source

    @property
    def tilt(self) -> sp.Expr:
        """t(u; G, λ; s), with G and the averages over the inputs as data."""
        return self._collective[1]

    def _along(self, expr: sp.Expr, name: str) -> sp.Expr:
        """The derivative by ln λ of a class, the averages over the inputs moving with it and the field held."""
        precision = self.precisions[name]
        total = precision * sp.diff(expr, precision)
        for entry in expr.atoms(Entry):
            if entry != FIELD and not entry.name.startswith("q_"):
                symbol = sp.Dummy()
                slope = sp.diff(expr.xreplace({entry: symbol}), symbol).xreplace({symbol: entry})
                total += slope * Entry(f"{entry.name}_{name}", "data", entry.spaces)
        return total

    # -------------------------------------------------------------------------------------------- compiled

    @cached_property
    def _scalars(self) -> list[sp.Symbol]:
        c, tilt, source = self._collective
        symbols = c.free_symbols | tilt.free_symbols | source.free_symbols | self.offset.free_symbols
        return sorted(symbols | set(self.precisions.values()), key=lambda symbol: symbol.name)  # type: ignore[attr-defined]

    @cached_property
    def laws(self) -> Kernel:
        """On the nodes of one shift: weights, derivatives of t by ln s, ln λ and the field, and f."""
        _, t, source = self._collective
        s, top = self.noise, sp.Symbol("top", real=True)
        outputs = {"weight": Entry("W", "data", (NODE,)) * sp.exp(top - t), "source": source}
        first = {"s": s * sp.diff(t, s)} | {name: self._along(t, name) for name in self.counts}
        outputs |= first | {f"{name}_s": s * sp.diff(body, s) for name, body in first.items() if name != "s"}
        outputs |= {f"{name}_G": _by_field(body) for name, body in first.items()}
        outputs |= {"G": _by_field(t), "G_G": _by_field(_by_field(t))}
        entries = sorted({e for expr in outputs.values() for e in expr.atoms(Entry)}, key=lambda e: e.name)
        return compile_kernel(outputs, scalars=[*self._scalars, top], entries=entries, name="freeenergy")

    @cached_property
    def exponent(self) -> Kernel:
        entries = sorted(self.tilt.atoms(Entry), key=lambda entry: entry.name)
        return compile_kernel({"tilt": self.tilt}, scalars=self._scalars, entries=entries, name="tilt")

    @cached_property
    def base(self) -> Kernel:
        """The offset and its derivatives."""
        scales = {m.name: (m, sp.S.One) for m in self.unknowns} | {n: (x, x) for n, x in self.precisions.items()}

        def along(expr: sp.Expr, name: str) -> sp.Expr:
            symbol, scale = scales[name]
            return scale * sp.diff(expr, symbol)

        outputs = {"c": self._collective[0], "F": self.offset, "s": self.noise * sp.diff(self.offset, self.noise)}
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


def _by_field(expr: sp.Expr) -> sp.Expr:
    field = sp.Dummy(real=True)
    return sp.diff(expr.xreplace({FIELD: field}), field).xreplace({field: FIELD})


class Landscape:
    """The free energy on one set of whitened nodes, in x = (m…, ln λ of each class that moves) and ln s.

    Parameters
    ----------
    prior : precision of a weight under the prior, which λ is where it does not move.
    """

    def __init__(self, energy: FreeEnergy, input_dim: int, values: Mapping[str, float], prior: float,
                 relevant_only: bool | None, count: int, shifts: int, seed: int) -> None:
        D = energy.features.dimension(input_dim)
        check_nodes(count, shifts, seed)
        self.energy, self.values, self.prior = energy, {**values, "D": float(D)}, prior
        self.moving = () if energy.hyperprior is None else energy.features.present(D)
        target = energy.theory.target
        self.target = np.array([target.get(mode, 0.0) for mode in energy.theory.modes])
        self._kernel, drawn = energy.features.draw(D, relevant_only, count, shifts, seed)
        wanted = {*self._kernel.arguments, *energy.laws.arguments, *(f"q_2_{name}" for name in energy.counts), "n_perp",
                  *(f"u_{name}" for name in energy.counts)}
        self._shifts = [{name: np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x
                         for name, x in given.items() if name in wanted} for given in drawn]
        self._at: tuple[float, ...] | None = None
        self._moved: list[dict[str, Array]] = []
        self._top = 0.0

    @property
    def orders(self) -> int:
        """The number of order parameters."""
        return len(self.target)

    @property
    def modes(self) -> list[str]:
        return [mode.name for mode in self.energy.theory._modes]

    @property
    def leading(self) -> int:
        """Which order parameter is that of the target's largest mode."""
        return int(np.argmax(np.abs(self.target)))

    @property
    def lazy(self) -> Array:
        """x where nothing is learned: the prior."""
        return np.r_[np.zeros(self.orders), np.full(len(self.moving), np.log(self.prior))]

    def next_outputs(self, x: Array, noise: float) -> Array:
        """The output in the next modes that are not kept, ⟨f J⟩ at the law of one site."""
        theory, scalars = self.energy.theory, self._scalars(x, noise)
        if not theory.next_modes:
            return np.zeros(0)
        self.at(x, noise)  # sets the scale of the weights
        kernel, base = self.energy.laws, self.energy.base
        gap = self.target - base(**{name: scalars[name] for name in base.arguments})["c"] * x[:self.orders]
        found, total = np.zeros(len(theory.next_modes)), 0.0
        for given in self._arrays(scalars):
            law = {**scalars, **given, "G": gap @ given["overlaps"], "top": self._top}
            here = kernel(**{name: law[name] for name in kernel.arguments})
            J = theory.next_overlaps(self.energy.features.unwhitened(given, scalars))
            found += J @ (here["weight"] * here["source"])
            total += float(here["weight"].sum())
        return found / total

    def left_out(self, x: Array, noise: float) -> tuple[float, list[str]]:
        """The power of the output in the next modes that are not kept, and what a status says of it."""
        power = float((self.next_outputs(x, noise)**2).sum())
        return power, self.energy.theory.truncation(power)

    def learned(self, x: Array) -> float:
        """The share of the target that the output holds."""
        return float(self.target @ x[:self.orders] / (self.target @ self.target))

    # ------------------------------------------------------------------------------------------------------

    def _scalars(self, x: Array, noise: float) -> dict[str, float]:
        found = {**self.values, "s": float(np.exp(noise)), "P": 1.0}
        found |= {m.name: float(v) for m, v in zip(self.energy.unknowns, x, strict=False)}
        found |= {f"lambda_{name}": self.prior for name in self.energy.counts}
        found |= {f"lambda_{name}": float(np.exp(v)) for name, v in zip(self.moving, x[self.orders:], strict=True)}
        return found

    def _arrays(self, scalars: Mapping[str, float]) -> list[dict[str, Array]]:
        """What the law of a site needs on the nodes of each shift at some precisions.

        ``overlaps`` are J by mode, ``moves`` their derivatives by class and mode, ``squares`` Σu²/2 by class.
        """
        lambdas = {f"lambda_{name}": scalars[f"lambda_{name}"] for name in self.energy.counts}
        if tuple(lambdas.values()) != self._at:
            names = [entry.name for entry in self.energy.features.overlaps.values()]
            self._moved = []
            for shift in self._shifts:
                given = {**shift, **lambdas}
                found = self._kernel(**{name: given[name] for name in self._kernel.arguments})
                size = len(shift["W"])  # an average that is the same for all weights is a number
                found = {name: np.broadcast_to(value, size) for name, value in found.items()}
                self._moved.append({
                    **shift, **found, "overlaps": np.array([found[name] for name in names]),
                    "moves": np.array([[found[f"{name}_{label}"] for name in names] for label in self.energy.counts]),
                    "squares": np.array([shift[f"q_2_{label}"] for label in self.energy.counts]) / 2})
            self._at = tuple(lambdas.values())
        return self._moved

    def at(self, x: Array, noise: float) -> Point:
        """F and its derivatives at x = (m…, ln λ…) and noise = ln s."""
        scalars = self._scalars(x, noise)
        base = self.energy.base(**{name: scalars[name] for name in self.energy.base.arguments})
        gap = self.target - base["c"] * x[:self.orders]
        arrays = self._arrays(scalars)
        for attempt in range(2):
            sums = [self._sums({**scalars, **given, "G": gap @ given["overlaps"], "top": self._top}, gap, base["c"])
                    for given in arrays]
            totals = [found["Z"] for found in sums]
            if min(totals) > 1e-60 and max(totals) < 1e60:
                break
            if attempt:
                raise NotConverged("the weights of the nodes leave the finite numbers", float(max(totals)))
            exponent = self.energy.exponent
            self._top = min(float(exponent(**{n: ({**scalars, **given, "G": gap @ given["overlaps"]})[n]
                                              for n in exponent.arguments})["tilt"].min()) for given in arrays)
        return self._point(sums, base, scalars)

    def _sums(self, given: Mapping[str, Any], gap: Array, c: float) -> dict[str, Any]:
        """Sums over the nodes of one shift, of derivatives of t by a = (m…, ln λ of each class, ln s).

        ∂t/∂m_n = -c J_n ∂t/∂G, and ln λ moves J_n.
        """
        kernel, names = self.energy.laws, tuple(self.energy.counts)
        found = kernel(**{name: given[name] for name in kernel.arguments})
        weight, overlaps, moves, squares = found["weight"], given["overlaps"], given["moves"], given["squares"]
        shifted = gap @ moves  # ∂G/∂ln λ
        with np.errstate(over="ignore", invalid="ignore"):
            first = np.vstack([-c * overlaps * found["G"], [found[name] + found["G"] * shift for name, shift in
                                                            zip(names, shifted, strict=True)],
                               np.broadcast_to(found["s"], weight.shape)])
            weighted = first * weight
            turned = np.array([(found[f"{name}_G"] + found["G_G"] * shift) * weight
                               for name, shift in zip(names, shifted, strict=True)])
            return {"Z": float(weight.sum()), "Z2": float(weight @ weight), "first": weighted.sum(axis=1),
                    "products": weighted @ first.T, "squares": squares @ weight, "by_squares": weighted @ squares.T,
                    "R": overlaps @ (weight * found["source"]),
                    "m_m": c**2 * (overlaps * (weight * found["G_G"])) @ overlaps.T,
                    "c_m": -c * (turned @ overlaps.T + moves @ (weight * found["G"])),
                    "m_s": -c * overlaps @ (weight * found["s_G"]),
                    "c_s": np.array([weight @ (found[f"{name}_s"] + found["s_G"] * shift)
                                     for name, shift in zip(names, shifted, strict=True)])}

    def updated(self, point: Point) -> Array:
        """ln λ of each moving class from the second moments found at a point."""
        if not self.moving:
            return np.zeros(0)
        kernel = self.energy.update
        moments = zip(self.energy.counts, point.moments, strict=True)
        given = {**self.values, **{f"moment_{name}": float(v) for name, v in moments}}
        found = kernel(**{name: given[name] for name in kernel.arguments})
        return np.log([found[name] for name in self.moving])

    def _point(self, sums: list[dict[str, Any]], base: Mapping[str, float], scalars: Mapping[str, float]) -> Point:
        N, labels = scalars["N"], tuple(self.energy.counts)
        orders = tuple(m.name for m in self.energy.unknowns)
        n, unknowns = len(orders), (*orders, *self.moving)
        place = {name: k for k, name in enumerate((*orders, *labels))}
        at = [place[name] for name in unknowns]
        total = np.array([found["Z"] for found in sums])
        mean = {name: sum(found[name] for found in sums) / total.sum() for name in sums[0]}
        first = mean["first"]
        inside = np.block([[mean["m_m"], mean["c_m"].T], [mean["c_m"], np.zeros((len(labels), len(labels)))]])
        response = inside - mean["products"][:-1, :-1] + np.outer(first[:-1], first[:-1])
        # of a derivative by ln λ by another one: that of the weights w, of which it is a fixed function
        response[n:, n:] = np.outer(first[n:-1], mean["squares"]) - mean["by_squares"][n:-1]
        across = np.r_[mean["m_s"], mean["c_s"]] - mean["products"][:-1, -1] + first[:-1] * first[-1]
        slope = np.array([base[name] for name in unknowns])
        second = np.array([[base[f"{a}_{b}"] for b in unknowns] for a in unknowns])
        slopes = np.array([slope + N * found["first"][at] / found["Z"] for found in sums])
        if base["c"] == 0.0:  # a single neuron: F is no function of m, which is ⟨N a J⟩; its equation stands in
            m = np.array([scalars[name] for name in orders])
            slope[:n], second[:n, :n] = mean["R"] - m, -np.eye(n)
            slopes[:, :n] = np.array([found["R"] / found["Z"] for found in sums]) - m
        logs = np.log(total) - self._top
        value = base["F"] - N * (np.log(total.mean()) - self._top)
        return Point(float(value), slope + N * first[at], base["s"] + N * float(first[-1]),
                     second + N * response[np.ix_(at, at)],
                     np.array([base[f"s_{name}"] for name in unknowns]) + N * across[at],
                     slopes, base["F"] - N * logs,
                     float(total.sum()**2 / sum(found["Z2"] for found in sums)), mean["R"],
                     second[:n, :n] + N * mean["m_m"],
                     2 * mean["squares"] / np.array([scalars[f"lambda_{name}"] for name in labels]))


__all__ = ["FreeEnergy", "Landscape", "Point"]
