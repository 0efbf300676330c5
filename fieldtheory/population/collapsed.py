r"""Collapsed mean-field theory in the population limit: one site in the mean kernel of the others; for a parity.

All readouts are integrated exactly, one site is singled out (`cavity`), and sums over samples become sums over the
parities χ_T of all subsets T of the inputs (`project`).  The mean kernel of the others is diagonal in them, by the
sign flips of the weights (`diagonal`): its eigenvalues are the order parameters.  By permutations of the inputs they
depend on T through (|T∩S|, |T∖S|) alone, the *class* of T, so that there are (k+1)(D-k+1) of them.  On nodes of the
weights all overlaps J_T follow from φ on the corners of the cube by a fast Walsh transform, once; the law of one site
at any eigenvalues is a reweighting.  The equations κ = F(κ), an average over that law, are solved by Newton's method in
ln κ, with derivatives of the law as covariances over the nodes, from the lazy and from a specialised start.

What the mean kernel leaves out, its fluctuation, is put back by the rule `fluctuation`: a self-consistent medium in
place of the mean, κ_T = c(r_T) with r_T the average of the screened form of one site, and pairs of sites
(:mod:`.population.pairs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import comb, sqrt
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.action import Action
from fieldtheory.compile import Kernel
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.network import Network
from fieldtheory.population.arguments import check_dimension, check_nodes, check_start
from fieldtheory.population.base import FEW, NODES, SHIFTS, OneSitePopulation, PopulationSolution, standard_error
from fieldtheory.population.eigenvalues import (
    CLASS,
    ClassNodes,
    Equations,
    Kernels,
    classes,
    compiled,
    corners,
    walsh,
)
from fieldtheory.population.modes import Key
from fieldtheory.population.nodes import EXACT, NODE, U, components, orthant, population_values
from fieldtheory.population.pairs import Pairing, PairLaw, PairSolution, chosen
from fieldtheory.symbolic.bases import InputAverage
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on, distribute, tidy
from fieldtheory.symbolic.rules import Step

Array = np.ndarray

PAIRS = 128
"""Nodes on which pairs are looked at; the cost grows as 2^D times the square and, less, the cube."""


@dataclass(frozen=True)
class CollapsedSolution(PopulationSolution):
    """What a population theory gives, and the eigenvalues κ of the others' kernel by class (|T∩S|, |T∖S|)."""

    spectrum: Mapping[tuple[int, int], float] = field(default_factory=dict)


class CollapsedPopulation(OneSitePopulation):
    """Collapsed mean-field theory of a network on one parity on the hypercube, for infinitely many samples.

    Parameters
    ----------
    site : the action after `cavity` and perhaps `fluctuation`, with the shared field integrated out.
    network, law, target : as of :class:`.PopulationTheory`.  All modes of the output are kept.
    """

    title = "Collapsed mean-field theory"

    def __init__(self, site: Action, network: Network, law: str = "hypercube",
                 target: Key | Mapping[Key, float] = 2) -> None:
        super().__init__(site, network, law, target)
        (self.order,) = self._modes[0].orders
        self._drawn: dict[Any, list[ClassNodes]] = {}

    @cached_property
    def action(self) -> Action:
        return self.site.project("sample", "X", self.law.name).diagonal("V").restrict("mode", "target", "y")

    @cached_property
    def eigenvalue(self) -> sp.Expr:
        """The body whose average over the law of one site is κ_T, open in the modes."""
        V = self.closure.step.details["basis"]
        rotated = sp.Add(*(_rotated(u, V) * _rotated(v, V) for u, v in self.closure.kernel))
        return sp.factor(self.closure.after(rotated))

    @property
    def equations(self) -> dict[str, sp.Eq]:
        """κ_T = ⟨...⟩, over the law that it determines; if the medium is not the mean, by way of the screened form."""
        kappa = next(e for e in self.action.expr.atoms(Entry) if e.name == "kappa" and e.spaces != self._kept)
        if not self.dressed:
            return {"kappa": sp.Eq(kappa, self.closure.average(self.eigenvalue), evaluate=False)}
        form = self.closure.average(self.eigenvalue / self.screening)
        medium, bare = self.medium
        screened = Entry(bare.name, "spectrum", kappa.spaces)
        return {bare.name: sp.Eq(screened, form, evaluate=False),
                "kappa": sp.Eq(kappa, medium.xreplace({bare: screened}), evaluate=False)}

    # --------------------------------------------------------------------------------------------- fluctuation

    @cached_property
    def fluctuation(self) -> Step | None:
        """The step that puts the fluctuation of the others' kernel back, in part."""
        return next((step for step in self.action.steps if step.rule == "fluctuation"), None)

    @property
    def dressed(self) -> bool:
        """Whether the medium differs from the mean."""
        return self.fluctuation is not None and str(self.fluctuation.details["resolvent"]) != "mean"

    @property
    def loops(self) -> int:
        """1 with pairs of sites and the chains of them that close."""
        return 0 if self.fluctuation is None else int(self.fluctuation.details["loops"])  # type: ignore[call-overload]

    @property
    def _corrections(self) -> Any:
        assert self.fluctuation is not None
        return self.fluctuation.details

    def on_modes(self, expr: sp.Expr) -> sp.Expr:
        """What `fluctuation` has integrated the shared field out of, in the parities."""
        found = self._corrections
        made: dict[sp.Basic, sp.Basic] = dict(found["features"])
        both = dict(found["twins"])
        second = {both[f]: e.xreplace({w: both[w] for w in self.closure.fields}) for f, e in found["features"].items()}
        expr = expr.xreplace(made | second)
        places = [k for k, step in enumerate(self.action.steps) if step is self.fluctuation]
        for step in self.action.steps[places[0] + 2:]:  # all but the integration, which has been done
            expr = tidy(step.push(expr))
        return expr

    @cached_property
    def screening(self) -> sp.Expr:
        """B, by which the form of a site is divided where the medium is to leave the resolvent alone."""
        return self.on_modes(self._corrections["screening"])  # type: ignore[arg-type]

    @cached_property
    def medium(self) -> tuple[sp.Expr, sp.Symbol]:
        """The spectrum of the medium of N-1 others in the average of their screened form, and how that is called."""
        found = self._corrections
        bare, N = sp.Symbol("kappa_bare", positive=True), found["space"].size
        return _without_cancellation(found["medium"]).xreplace({found["screened"]: bare / (N - 1)}), bare

    @cached_property
    def medium_kernel(self) -> Kernel:
        """The medium of each class, and its derivative."""
        medium, bare = self.medium
        spectrum = Entry(bare.name, "spectrum", (CLASS,))
        return compiled({"medium": medium.xreplace({bare: spectrum}),
                          "slope": sp.diff(medium, bare).xreplace({bare: spectrum})}, "medium")

    @cached_property
    def pairing(self) -> Pairing:
        """The energy and the output of pairs of sites."""
        found = self._corrections
        outputs = {str(name): exprs for name, exprs in found["observables"].items()}["output"]
        coefficient = sp.nsimplify(next(iter(self.target.values())), rational=True)
        twins = {w: found["twins"][w] for w in self.closure.fields}
        return Pairing([self.on_modes(expr) for expr in found["energies"]], [self.on_modes(expr) for expr in outputs],
                       twins, found["space"].size, self._kept[0], coefficient)

    # ------------------------------------------------------------------------------------------- expressions

    @property
    def _kept(self) -> tuple[Space, ...]:
        return (self.closure.steps[-1].details["kept"],)  # type: ignore[return-value]

    @cached_property
    def _lowered(self) -> tuple[dict[str, sp.Expr], dict[Entry, sp.Expr], sp.Expr]:
        """Tilt, output and share of the form on the nodes, the weight of a class in each sum, κ_T per Σ J_T²/size."""
        overlap, eigenvalue = Entry("J", "data", (NODE,)), sp.Symbol("kappa_S", nonnegative=True)
        spectrum = Entry("kappa", "spectrum", (CLASS,))
        (coefficient,) = self.target.values()
        weights: dict[Entry, sp.Expr] = {}

        def at_target(expr: sp.Expr) -> sp.Expr:
            table: dict[sp.Basic, sp.Basic] = {node: overlap for node in expr.atoms(InputAverage)}
            table |= {e: eigenvalue if e.name == "kappa" else sp.nsimplify(coefficient, rational=True)
                      for e in expr.atoms(Entry) if e.spaces == self._kept}
            return expr.xreplace(table)

        def lowered(expr: sp.Expr) -> sp.Expr:
            table: dict[sp.Basic, sp.Basic] = {}
            for total in sorted(expr.atoms(SpaceSum), key=sp.default_sort_key):
                if (total.space,) == self._kept:
                    table[total] = at_target(total.body)
                elif total.has(InputAverage):
                    weight = _per_power(total.body).xreplace(
                        {e: spectrum for e in total.body.atoms(Entry) if e.name == spectrum.name})
                    known = next((entry for entry, other in weights.items() if other == weight), None)
                    table[total] = known or Entry(f"A_{len(weights)}", "data", (NODE,))
                    weights[table[total]] = weight  # type: ignore[index]
            return at_target(expr.xreplace(table))

        (w,) = self.closure.fields
        moving = [term for term in sp.Add.make_args(distribute(self.action.expr)) if depends_on(term, w)]
        prior = distribute(SpaceSum(self.closure.prior_precisions[w] * w**2 / 2, w.spaces[0]))
        found = {"tilt": lowered(sp.Add(*moving) - prior), "output": lowered(self.action.observe("output"))}
        if self.dressed:
            found["share"] = lowered(1 / self.screening)
        if (left := {e for expr in found.values() for e in expr.atoms(Entry)} - {overlap, *weights}):
            raise RuleError(f"{', '.join(map(str, left))} is left in the law of one site")
        return found, weights, _per_power(self.eigenvalue)

    @cached_property
    def kernel(self) -> Kernel:
        """On each node: tilt, output and share, and derivatives of tilt and share by the sums over modes and κ_S."""
        found, weights, _ = self._lowered
        outputs = dict(found)
        for name in ("tilt", "share"):
            if name in found:
                outputs[f"{name}_by_S"] = sp.diff(found[name], sp.Symbol("kappa_S", nonnegative=True))
                for entry in weights:
                    dummy = sp.Dummy(real=True)
                    slope = sp.diff(found[name].xreplace({entry: dummy}), dummy).xreplace({dummy: entry})
                    outputs[f"{name}_by_{entry.name}"] = slope
        return compiled({name: sp.factor(expr) if name != "tilt" else expr for name, expr in outputs.items()},
                         "collapsed")

    @cached_property
    def class_kernel(self) -> Kernel:
        """On each class: its weight in each sum over modes, and the derivative by κ."""
        spectrum, dummy = Entry("kappa", "spectrum", (CLASS,)), sp.Dummy(nonnegative=True)
        outputs: dict[str, sp.Expr] = {}
        for entry, weight in self._lowered[1].items():
            slope = sp.diff(weight.xreplace({spectrum: dummy}), dummy).xreplace({dummy: spectrum})
            outputs |= {entry.name: weight, f"slope_{entry.name}": slope}
        return compiled(outputs, "classes")

    @cached_property
    def kernels(self) -> Kernels:
        """All that the law of one site is compiled to."""
        _, weights, scale = self._lowered
        return Kernels(self.kernel, self.class_kernel, self.medium_kernel if self.dressed else None,
                       [entry.name for entry in weights], scale)

    # ------------------------------------------------------------------------------------------------- nodes

    @cached_property
    def _phi(self) -> Kernel:
        return compiled({"phi": self.activation.xreplace({U: Entry("h", "data", (NODE,))})}, "activation")

    def nodes(self, D: int, variance: float, count: int, shifts: int, seed: int) -> list[ClassNodes]:
        """Nodes of each shift, drawn once."""
        check_dimension(D, max(self.order, 1), EXACT)
        check_nodes(count, shifts, seed)
        key = (D, variance, count, shifts, seed)
        if key not in self._drawn:
            rng = np.random.default_rng(seed)
            self._drawn = {key: [self._nodes(D, variance, count, rng) for _ in range(shifts)]}
        return self._drawn[key]

    def _nodes(self, D: int, variance: float, count: int, rng: np.random.Generator) -> ClassNodes:
        k = self.order
        w, _, weights = orthant(components(k, D), k, D - k, D - k, count, rng)
        labels = classes(D, k)
        order = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[order], np.arange((k + 1) * (D - k + 1)))
        powers, overlap = np.empty((len(w), len(starts))), np.empty(len(w))
        for part in np.array_split(np.arange(len(w)), max(1, len(w) * 2**D // 2**22)):
            J = self.overlaps(w[part], variance)
            overlap[part] = J[:, 2**k - 1]
            powers[part] = np.add.reduceat(J[:, order]**2, starts, axis=1)
        return ClassNodes(w, weights, overlap, powers)

    def overlaps(self, points: Array, variance: float) -> Array:
        """J_T of all subsets T, at some weights in units of the prior's deviation."""
        D = points.shape[1]
        h = (points * sqrt(variance / D)) @ corners(D).T
        return walsh(self._phi(h=h.ravel())["phi"].reshape(h.shape))

    # ------------------------------------------------------------------------------------------------ solving

    def solve(self, input_dim: int, noise: float | None = None, *, samples: float | None = None,
              width: int | None = None, nodes: int = NODES // 2, shifts: int = SHIFTS,
              seed: int = 0, pairs: int = PAIRS, start: CollapsedSolution | None = None) -> CollapsedSolution:
        """The eigenvalues and the output m at noise s_eff = s/P, or at a number of samples with the network's noise.

        Parameters
        ----------
        nodes, shifts : nodes per random shift, and their number; the spread between shifts is the error.
        pairs : with one loop, how many of the nodes the law of one site is corrected on, with all their flips.
        start : a solution at another noise to start from.  Without it two starts are taken, one where the others know
            nothing of the target and one where they have learned it; should they lead to different solutions,
            ``status`` says so, and the solution of the first is given.

        Raises
        ------
        NotConverged
            With one loop, where chains of pairs do not sum: with the least eigenvalue.
        """
        values, variance = population_values(self.network, noise, samples, width)
        check_start(start, CollapsedSolution)
        batches = self.nodes(input_dim, variance, nodes, shifts, seed)
        k = self.order
        labels = [(i, j) for i in range(k + 1) for j in range(input_dim - k + 1)]
        sizes = np.array([comb(k, i) * comb(input_dim - k, j) for i, j in labels], dtype=float)
        equations = Equations(self.kernels, values, sizes, k)
        status: list[str] = []
        if start is None:
            kappa, different = equations.starts(batches[0])
            if different:
                both = [equations.law(batches[0], at).output for at in different]
                status.append(f"several solutions: m = {both[0]:.4g} from the lazy start, {both[1]:.4g} from a "
                              "specialised one")
        else:
            if list(start.spectrum) != labels:
                raise BadInput("start", start, f"a solution for order {k} and {input_dim} inputs")
            kappa = np.array(list(start.spectrum.values()))
        found = equations.solutions(batches, kappa)
        laws = [equations.law(batch, at) for batch, at in zip(batches, found, strict=True)]
        paired = [self._pairs(equations, batch, at, variance, pairs, seed)
                  for batch, at in zip(batches, found, strict=True) if self.loops and values["N"] > 1]
        outputs, effective = [law.output for law in laws], min(law.effective for law in laws)
        residual = max(float(np.max(np.abs(law.image - at) / (values["s"] + at)))
                       for law, at in zip(laws, found, strict=True))
        if paired:
            outputs, found = [law.output for law in paired], [law.kappa for law in paired]
            residual = max(residual, *(law.residual for law in paired))
        m, error = float(np.mean(outputs)), float(standard_error(outputs))
        if effective < FEW:
            status.append(f"not converged: {effective:.0f} effective nodes (give more nodes)")
        if residual > 1e-8:
            status.append(f"not converged: residual {residual:.1g}")
        (mode,), (coefficient,) = self.modes, self.target.values()
        spectrum = dict(zip(labels, map(float, np.mean(found, axis=0)), strict=True))
        return CollapsedSolution({mode: m}, {mode: error}, (coefficient - m)**2, residual, effective,
                                 "; ".join(status) or "converged", spectrum=spectrum)

    def _pairs(self, equations: Equations, batch: ClassNodes, kappa: Array, variance: float, count: int,
               seed: int) -> PairSolution:
        """The law with pairs: what they change on some of the nodes, added to the law without them on all."""
        if isinstance(count, bool) or not isinstance(count, int) or not 16 <= count <= len(batch.weights):
            raise BadInput("pairs", count, f"an integer from 16 to the number of nodes ({len(batch.weights)})")
        at, _ = equations.tilted(batch, kappa)
        forms = batch.powers * np.atleast_1d(at.get("share", 1.0))[:, None]
        features = np.column_stack([forms[:, equations.target], forms.sum(axis=1), at["output"]])
        places, weights = chosen(batch.weights, at["tilt"], features, batch.overlap**2, count,
                                 np.random.default_rng(seed))
        few = ClassNodes(batch.points[places], weights, batch.overlap[places], batch.powers[places])
        D = few.points.shape[1]
        law = PairLaw(self.pairing, equations, few, self.overlaps(few.points, variance), classes(D, self.order))
        alone = equations.root(few, kappa).kappa
        found = law.solve(alone)
        output = found.output + equations.law(batch, kappa).output - equations.law(few, alone).output
        return replace(found, output=output, kappa=found.kappa * np.where(alone > 0, kappa, 1.0)
                       / np.where(alone > 0, alone, 1.0))


def _per_power(body: sp.Expr) -> sp.Expr:
    """The factor of J_T² in a body over modes."""
    node, *more = body.atoms(InputAverage)
    J = sp.Dummy(real=True)
    factor = sp.cancel(body.xreplace({node: J}) / J**2)
    if more or factor.has(J):
        raise RuleError(f"{body} is no multiple of the square of one overlap")
    return sp.factor(factor)


def _without_cancellation(expr: sp.Expr) -> sp.Expr:
    """a + b√d as (a² - b²d)/(a - b√d): the root of a quadratic equation that vanishes with its constant."""
    (root,) = {power for power in expr.atoms(sp.Pow) if power.exp == sp.Rational(1, 2)}
    x = sp.Dummy()
    poly = sp.Poly(sp.expand(expr.xreplace({root: x})), x)
    b, a = (poly.coeff_monomial(x**k) for k in (1, 0))
    return sp.factor(a**2 - b**2 * root.base) / (a - b * root)


def _rotated(vector: sp.Expr, basis: Entry) -> sp.Expr:
    """Σ_μ V_μk v_μ."""
    return distribute(SpaceSum(basis * vector, basis.spaces[0]))


__all__ = ["CollapsedPopulation", "CollapsedSolution"]
