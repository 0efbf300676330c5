r"""The adaptive kernel at tree level in the population limit: one potential of the conjugate output, minimised.

After `site_saddle`, `project` and `restrict` the action of one site holds minus the square of Σ_n t_n J_n, with the
overlaps J_n = E[φ e_n] of its features with the modes kept and the discrepancy t = (y - m)/s.  The potential

    F(t) = N ln ∫dw e^{-s(w, t)}

is convex (:mod:`.symbolic.potential`), so that its minimum is the only solution: bisection finds it for one mode,
Newton's method with backtracking for several.

**Homogeneous activations** (ReLU).  J is homogeneous in |w|, the tilt is quadratic, and |w| is integrated in closed
form at every direction (:func:`.symbolic.treelevel.radial`): nodes are directions, and F is finite where the tilt is
below the exponent of the prior in all of them.  At the edge of that domain F is infinite, or finite: where the best
direction is a kink (a parity's, at which pre-activations vanish) few directions are near it.  Then F may still fall at
the edge.  No law of one site has a saddle there; the least value of F on the closed domain is at the edge, and the
output that the law does not carry is carried by a *condensate*: weights without bound along the best direction, of
vanishing probability.  (An interpretation, which nothing here proves: single neurons that a finite network grows.)  The
output is m = y - s t still.  The optimality conditions there: what the law does not carry is a sum, with weights that
are not negative, of normals of the domain, one for each direction at which the integral just diverges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import sqrt
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import sympy as sp

from fieldtheory.action import Action
from fieldtheory.compile import Kernel, compile_kernel
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.network import Network
from fieldtheory.population import directions
from fieldtheory.population.arguments import check_start
from fieldtheory.population.base import FEW, NODES, SHIFTS, FewModesPopulation, PopulationSolution, standard_error
from fieldtheory.population.minimum import EDGE, At, bisected, climbed, newton
from fieldtheory.population.modes import Key
from fieldtheory.population.nodes import EXACT, NODE, Features, Nodes, U, _points, population_values
from fieldtheory.symbolic.bases import InputAverage
from fieldtheory.symbolic.features import homogeneity
from fieldtheory.symbolic.fields import Entry, SpaceSum, depends_on, distribute
from fieldtheory.symbolic.treelevel import growth, radial

Array = np.ndarray

FORCED, OVERLAP = sp.Symbol("u", real=True), sp.Symbol("J", real=True)
"""Σ_n t_n J_n, and J of a mode."""
CONJUGATE, COEFFICIENT = sp.Symbol("t", real=True), sp.Symbol("y", real=True)
"""t and y of a mode."""
SCALARS = ("N", "g", "s", "P", "D")
ELONGATED = (1.0, 1.5, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 65.0)
"""By how much laws of directions are longer along the best direction than across; 1 is the prior."""
CONDENSED = 1e-6
"""The least share of the output that counts as a condensate."""
ACTIVE = 1e-9
"""The margin of a direction at which the integral over one site is taken to diverge."""
TINY = 1e-8
"""The norm of the other inputs that stands for zero, at which averages over them are not defined."""
CLIMBS = 4
"""How often the best direction is looked for and the minimum found again with it."""


@dataclass(frozen=True)
class AdaptiveSolution(PopulationSolution):
    """Order parameters m_n, the conjugates t_n = (y_n - m_n)/s, and F'' by the conjugates, positive definite.

    ``margin`` is how far the law of one site is from its divergence: 1 less the largest tilt relative to the prior,
    over the nodes and the direction that random trials from the best of them climb to; 1 for a bounded activation.
    ``condensate`` is the share of the output along the target that is carried by weights without bound: 0 where there
    is a law of one site; ``condensate_error`` is its error.  ``residual`` is the largest violation of the optimality
    conditions of F on its closed domain, in units of the output: where the minimum is inside, |m - R|.
    """

    discrepancy: Mapping[Key, float] = field(default_factory=dict)
    curvature: tuple[tuple[float, ...], ...] = ()
    margin: float = 1.0
    condensate: float = 0.0
    condensate_error: float = 0.0


class AdaptiveKernelPopulation(FewModesPopulation):
    """The adaptive kernel at tree level for infinitely many samples of a target with few modes.

    Parameters
    ----------
    site : the action after `site_saddle`.
    network, law, target, modes, order : as of :class:`.FewModesPopulation`.

    Raises
    ------
    BadInput
        If no feature of the activation overlaps with a mode of the target (with the reason), or if the activation grows
        linearly without being homogeneous: the tail of the law of one site is then not integrated in closed form.
    RuleError
        If the activation grows faster than linearly: there is no saddle.
    """

    title = "The adaptive kernel"

    def __init__(self, site: Action, network: Network, law: str = "hypercube", target: Key | Mapping[Key, float] = 2, *,
                 modes: Sequence[Key] | None = None, order: int | None = None) -> None:
        super().__init__(site, network, law, target, modes=modes, order=order)
        (w,) = self.action.fields
        linear = SpaceSum(w * Entry("x", "data", w.spaces), w.spaces[0])  # type: ignore[attr-defined]
        if growth(self.activation.xreplace({U: linear}), (w,)) != 0 and not self.radial:  # type: ignore[arg-type]
            raise BadInput("activation", network.activation, "one that is bounded, or homogeneous of degree one "
                           "(relu): the tail of the law of one site is not integrated for others")

    @cached_property
    def action(self) -> Action:
        return self.site.project("sample", "X", self.law.name).complete().restrict("mode", "target", "t", "y")

    @property
    def equations(self) -> dict[str, sp.Eq]:
        """t = y/s less an average over the law of one site."""
        return self.closure.equations

    # ----------------------------------------------------------------------------------------- expressions

    @cached_property
    def _overlaps(self) -> dict[Key, Entry]:
        return {mode.key: Entry(f"J_{mode.name}", "data", (NODE,)) for mode in self._modes}

    def _on_nodes(self, expr: sp.Expr) -> sp.Expr:
        """An expression with Σ_n t_n J_n over the modes as one number on each node, and an open J_n as another."""
        kept = self.closure.steps[-1].details["kept"]
        sums = {total: FORCED for total in expr.atoms(SpaceSum) if total.space == kept and total.has(InputAverage)}
        (t,) = self.closure.parameters
        for total in sums:
            if not isinstance(total.body / Entry(t.name, t.domain, (kept,)), InputAverage):  # type: ignore[arg-type]
                raise RuleError(f"{total} is not the overlap of a feature with {t}")
        expr = expr.xreplace(sums)
        return expr.xreplace({node: OVERLAP for node in expr.atoms(InputAverage)})

    @cached_property
    def tilt(self) -> sp.Expr:
        """What the action of one site adds to its prior, in u = Σ_n t_n J_n."""
        (w,) = self.closure.fields
        terms = [term for term in sp.Add.make_args(distribute(self.action.expr)) if depends_on(term, w)]
        prior = distribute(SpaceSum(self.closure.prior_precisions[w] * w**2 / 2, w.spaces[0]))
        return sp.factor(self._on_nodes(distribute(sp.Add(*terms) - prior)))

    @cached_property
    def exponent(self) -> sp.Expr:
        """The tilt; where its activation is homogeneous of degree one, with |w| integrated out at given direction."""
        degree = homogeneity(self.activation)
        scale = sp.Dummy("scale", positive=True)
        if degree is None or sp.cancel(self.tilt.xreplace({FORCED: scale**degree * FORCED}) / self.tilt) != scale**2:
            return self.tilt
        (w,) = self.closure.fields
        return radial(self.tilt, w.spaces[0].size)

    @property
    def radial(self) -> bool:
        """Whether nodes are directions, |w| being integrated in closed form."""
        return self.exponent != self.tilt

    @cached_property
    def offset(self) -> sp.Expr:
        """What is no function of the weights but of t, for one mode: the action holds its sum over the modes."""
        (w,) = self.closure.fields
        (t,) = self.closure.parameters
        kept = self.closure.steps[-1].details["kept"]
        alone = sp.Add(*(term for term in sp.Add.make_args(distribute(self.action.expr)) if not depends_on(term, w)))
        sums = {total: total.body for total in alone.atoms(SpaceSum) if total.space == kept}
        known = {t.name: CONJUGATE, "y": COEFFICIENT}
        table = {e: known[e.name] for total in sums for e in total.atoms(Entry)}
        found = alone.xreplace(sums).xreplace(table)
        return found - found.xreplace({CONJUGATE: sp.S.Zero, COEFFICIENT: sp.S.Zero})

    @cached_property
    def output(self) -> sp.Expr:
        """m of a mode as a function of its t: the minimum of F, where N⟨-∂s/∂t⟩ is a multiple of the output.

        Raises
        ------
        RuleError
            If it is none.
        """
        return sp.expand(self._ratio * sp.diff(self.offset, CONJUGATE))

    @cached_property
    def _ratio(self) -> sp.Expr:
        """The output over the force on t."""
        ratio = sp.cancel(self._on_nodes(self.action.observe("output")) / (-sp.diff(self.tilt, FORCED) * OVERLAP))
        if ratio.has(FORCED) or ratio.has(OVERLAP):
            raise RuleError("the output is no multiple of the force on its conjugate")
        return ratio

    # -------------------------------------------------------------------------------------------- compiled

    @cached_property
    def kernel(self) -> Kernel:
        """On nodes: the exponent, its derivatives by u, and the tilt."""
        outputs = {"exponent": self.exponent, "pull": sp.factor(-sp.diff(self.exponent, FORCED)),
                   "bend": sp.factor(-sp.diff(self.exponent, FORCED, 2)), "tilt": self.tilt}
        scalars = sorted({s for expr in outputs.values() for s in expr.free_symbols} - {FORCED}, key=lambda s: s.name)
        u = Entry(FORCED.name, "data", (NODE,))
        return compile_kernel({name: expr.xreplace({FORCED: u}) for name, expr in outputs.items()}, scalars=scalars,
                              entries=[u], name="adaptive")

    @cached_property
    def _alone(self) -> Callable[..., Any]:
        """The offset of a mode, its derivatives by t, m, and the ratio of m to the force."""
        given = [CONJUGATE, COEFFICIENT, *(sp.Symbol(name, positive=True) for name in SCALARS)]
        outputs = [self.offset, sp.diff(self.offset, CONJUGATE), sp.diff(self.offset, CONJUGATE, 2), self.output,
                   self._ratio]
        return sp.lambdify(given, outputs, "math")  # type: ignore[no-any-return]

    @cached_property
    def features(self) -> Features:
        overlaps = dict(zip(self._modes, self._overlaps.values(), strict=True))
        return Features(self.activation, self.law.name, overlaps, {})

    # ------------------------------------------------------------------------------------------------- nodes

    @cached_property
    def _drawn(self) -> dict[Any, list[Nodes]]:
        return {}

    def nodes(self, D: int, variance: float, only: bool | None, count: int, shifts: int, seed: int) -> list[Nodes]:
        """Nodes of each shift; directions at |w| of one deviation of the prior where |w| is integrated out.

        Nodes of no weight are the edge: directions in which the tilt is largest.
        """
        if not self.radial:
            return self.features.nodes(D, variance, only, count, shifts, seed)
        key = (D, variance, only, count, shifts, seed)
        if key not in self._drawn:
            self.features.nodes(D, variance, only, min(count, 64), min(shifts, 2), seed)  # what it refuses
            rng = np.random.default_rng(seed)
            make = self._cube if self.law.name == "hypercube" else self._gaussian
            self._drawn.clear()
            self._drawn[key] = [make(D, variance, D > EXACT if only is None else bool(only), count, rng)
                                for _ in range(shifts)]
        return self._drawn[key]

    def _cube(self, D: int, variance: float, only: bool, count: int, rng: np.random.Generator) -> Nodes:
        """Directions in one orthant, of Gaussian laws elongated along that with equal weights on the parity's inputs.

        The angular density of a Gaussian law elongated by a along e is (1/a) (1 - (1 - a⁻²)(e·w)²/|w|²)^(-D/2),
        relative to that of the prior.
        """
        (k,) = self._modes[0].orders
        kept = k if only else D
        u = _points(max(count // len(ELONGATED), 16), kept + (kept < D), rng)
        z, norm = scipy.special.ndtri(u[:, :kept]), np.zeros(len(u))
        if kept < D:
            norm = np.sqrt(2 * scipy.special.gammaincinv((D - k) / 2, u[:, -1]))
        drawn = []
        for a in ELONGATED:
            w = z.copy()
            w[:, :k] += (a - 1) * w[:, :k].mean(axis=1, keepdims=True)
            drawn.append(np.abs(np.column_stack([w, norm])))
        w = np.concatenate(drawn)
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        flips = np.array([(1.0, *signs) for signs in product((1.0, -1.0), repeat=k - 1)])
        cosines = (w[:, :k] @ flips.T)**2 / k
        density = np.mean([((1 - (1 - a**-2) * cosines)**(-D / 2)).mean(axis=1) / a for a in ELONGATED], axis=0)
        best = np.zeros((1, w.shape[1]))
        best[0, :k] = 1 / sqrt(k)
        best[0, kept:] = TINY * (kept < D)
        w, W = np.concatenate([w, best]), np.append(1 / (density * len(density)), 0.0)

        def at(w: Array, W: Array) -> Nodes:
            return self.features.on_cube(D, variance, w[:, :kept], w[:, kept], W)

        found = at(w, W)
        (J,) = (found.arrays[entry.name] for entry in self._overlaps.values())
        top = int(np.argmax(J**2))
        if J[top]**2 > J[-1]**2 * (1 + 1e-9):  # another direction is better
            def folded(w: Array) -> Array:
                w = np.abs(w)
                w[:, kept:] *= kept < D
                return w

            def height(w: Array) -> Array:
                (J,) = (at(w, np.zeros(len(w))).arrays[entry.name] for entry in self._overlaps.values())
                return J**2

            found = at(np.concatenate([w, climbed(w[top:top + 1], height, folded, 0.1, rng)]), np.append(W, 0.0))
        return found

    def _gaussian(self, D: int, variance: float, only: bool, count: int, rng: np.random.Generator) -> Nodes:
        """Directions by their angle with one relevant direction, on panels refined towards it; or as they are drawn."""
        scale = sqrt(variance / D)
        if len(self._modes[0].orders) > 1:
            drawn = directions.draw(self._modes, D, variance, lambda number, axes: _points(number, axes, rng), count)
            return self.features.on_directions({**drawn, "r": np.full(len(drawn["W"]), scale)})
        x, q = np.polynomial.legendre.leggauss(12)
        edges = np.unique(np.concatenate([[0.0], np.geomspace(1e-7, np.pi / 2, 40), np.linspace(0, np.pi / 2, 33)]))
        half = np.diff(edges)[:, None] / 2
        angle, weight = (edges[:-1, None] + half * (1 + x)).ravel(), (half * q).ravel()
        angle, weight = np.append(angle, 0.0), np.append(weight * np.sin(angle)**(D - 2), 0.0)
        tau = np.concatenate([np.cos(angle), -np.cos(angle)])
        given = {"W": np.tile(weight, 2) / (2 * weight.sum()), "r": np.full(len(tau), scale), "tau_0": tau,
                 "rho2": np.tile(np.sin(angle)**2, 2), "n_perp": float(D - 1)}
        return self.features.on_directions(given)

    # ------------------------------------------------------------------------------------------------ solving

    def _potential(self, nodes: Nodes, values: Mapping[str, float]) -> Callable[[Array], At]:
        """t -> F and its derivatives; F is infinite where the integral over one site diverges."""
        given = {name: values[name] for name in self.kernel.arguments if name != "u"}
        J = np.array([nodes.arrays[entry.name] for entry in self._overlaps.values()])
        y = [self.target.get(n, 0.0) for n in self.modes]
        W, N, scalars = nodes.arrays["W"], values["N"], [values[name] for name in SCALARS]

        def at(t: Array) -> At:
            with np.errstate(invalid="ignore", divide="ignore"):
                found = self.kernel(u=np.asarray(t, dtype=float) @ J, **given)
            S, force, bend, tilt = (found[name] for name in ("exponent", "pull", "bend", "tilt"))
            alone = np.array([self._alone(a, b, *scalars) for a, b in zip(t, y, strict=True)])
            offset, slope, curvature, output, ratio = alone.T
            margin = float(1 + 2 * tilt.min()) if self.radial else 1.0
            if not np.all(np.isfinite(S)):
                nothing = np.full(len(J), np.nan)
                return At(np.inf, nothing, np.diag(nothing), output, nothing, margin, 0.0, nothing, np.zeros((0, 0)))
            top = float((-S).max())
            weights = W * np.exp(-S - top)
            Z = float(weights.sum())
            p = weights / Z
            mean = J @ (p * force)
            second = (J * (p * (bend + force**2))) @ J.T - np.outer(mean, mean) - np.diag(curvature)
            size = np.abs(force * J).sum(axis=0) * p
            heavy = float(size.sum()**2 / (size**2).sum()) if size.any() else np.inf
            ends = J[:, 1 + 2 * tilt < ACTIVE] if self.radial else J[:, :0]
            return At(N * float(top + np.log(Z) - offset.sum()), N * (mean - slope), N * second, output, ratio * mean,
                       margin, min(float(1 / (p**2).sum()), heavy), float(ratio[0]) * p * force, ends * (t @ ends))

        return at

    def _edge(self, nodes: Nodes, values: Mapping[str, float]) -> float:
        """t up to which the integral over one site exists, for one mode: where 1 + 2 tilt vanishes."""
        if not self.radial:
            return np.inf
        (J,) = (nodes.arrays[entry.name] for entry in self._overlaps.values())
        given = {name: values[name] for name in self.kernel.arguments if name != "u"}
        with np.errstate(invalid="ignore", divide="ignore"):
            return sqrt(-0.5 / self.kernel(u=J, **given)["tilt"].min())

    def _with_best(self, nodes: Nodes, t: Array, rng: np.random.Generator) -> Nodes:
        """Under Gaussian inputs, the nodes and the direction of the largest tilt at t, found from the best of them."""
        drawn = nodes.arrays
        axes = [name for name in drawn if name.startswith("tau_")]
        J = np.array([drawn[entry.name] for entry in self._overlaps.values()])
        top = int(np.argmax((t @ J)**2))
        w = np.array([*(drawn[name][top] for name in axes), sqrt(drawn["rho2"][top])])

        def at(w: Array) -> Nodes:
            given = {name: column for name, column in zip(axes, w.T, strict=False)}
            return self.features.on_directions({**given, "W": np.zeros(len(w)), "r": np.full(len(w), drawn["r"][0]),
                                                "rho2": w[:, -1]**2, "n_perp": drawn["n_perp"]})

        def height(w: Array) -> Array:
            found = at(w).arrays
            return np.asarray((t @ np.array([found[entry.name] for entry in self._overlaps.values()]))**2)

        best = at(climbed(w[None], height, lambda w: w, 0.1, rng)).arrays
        return Nodes({name: value if np.ndim(value) == 0 else np.append(value, best[name])
                      for name, value in drawn.items()})

    def solve(self, input_dim: int, noise: float | None = None, *, samples: float | None = None,
              width: int | None = None, relevant_only: bool | None = None, nodes: int = NODES, shifts: int = SHIFTS,
              seed: int = 0, start: AdaptiveSolution | None = None) -> AdaptiveSolution:
        """The order parameters at noise s_eff = s/P, or at a number of samples with the network's noise.

        Parameters
        ----------
        relevant_only, nodes, shifts, seed : as for ``MeanFieldPopulation``.
        start : a solution to start from.  There is one, wherever one starts.

        Raises
        ------
        NotConverged
            If Newton's method does not end.  Too few effective nodes are said in ``status``.
        """
        values, variance = population_values(self.network, noise, samples, width)
        values["D"] = float(input_dim)
        y = np.array([self.target.get(n, 0.0) for n in self.modes])
        check_start(start, AdaptiveSolution)
        guess = np.zeros(len(y)) if start is None else np.array(list(start.discrepancy.values()))
        found: list[At] = []
        points: list[Array] = []
        beyond = []
        batches = self.nodes(input_dim, variance, relevant_only, nodes, shifts, seed)
        rng = np.random.default_rng(seed + 1)
        for batch in batches:
            guess, here = self._least(batch, values, guess)
            for _ in range(CLIMBS if self.radial and self.law.name == "gaussian" else 0):
                margin = here.margin
                batch = self._with_best(batch, guess, rng)
                guess, here = self._least(batch, values, guess)
                if here.margin > margin - 1e-9:
                    break
            points.append(guess)
            found.append(here)
            beyond.append(self.next_overlaps(batch.arrays) @ here.pull)
        outputs = np.array([here.output for here in found])
        shares = np.array([1 - here.carried @ y / (here.output @ y) for here in found])
        condensed = any(here.condensed for here in found) and bool(shares.mean() > CONDENSED)
        condensate, spread = (float(shares.mean()), float(standard_error(shares))) if condensed else (0.0, 0.0)
        residual, effective = max(here.residual for here in found), min(here.nodes for here in found)
        left_out = float((np.mean(beyond, axis=0)**2).sum())
        status = self.truncation(left_out)
        if effective < FEW:
            status.append(f"not converged: {effective:.0f} effective nodes (give more nodes)")
        if residual > 1e-8:
            status.append(f"not converged: residual {residual:.1g}")
        means, errors = outputs.mean(axis=0), standard_error(outputs)
        if condensed:  # where the edge is, to which y - m is proportional, is known to its own accuracy
            errors = np.hypot(errors, EDGE * np.abs(y - means))
            if not status:
                status.append(f"converged; a share {condensate:.2g} of the output is a condensate (weights without "
                              "bound)")
        curvature = np.mean([here.curvature for here in found], axis=0)

        def by_mode(numbers: Array) -> dict[Key, float]:
            return dict(zip(self.modes, map(float, numbers), strict=True))

        return AdaptiveSolution(by_mode(means), by_mode(errors), float((y - means) @ (y - means)), residual, effective,
                                "; ".join(status) or "converged", discrepancy=by_mode(np.mean(points, axis=0)),
                                curvature=tuple(map(tuple, curvature.tolist())),
                                margin=min(here.margin for here in found), condensate=condensate,
                                condensate_error=spread, left_out=left_out, leading=self.leading)

    def _least(self, nodes: Nodes, values: Mapping[str, float], guess: Array) -> tuple[Array, At]:
        """The minimum of F on nodes."""
        at = self._potential(nodes, values)
        t = bisected(at, self._edge(nodes, values)) if len(guess) == 1 else newton(at, guess)
        return t, at(t)


__all__ = ["AdaptiveKernelPopulation", "AdaptiveSolution"]
