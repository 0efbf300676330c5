r"""Mean-field theory in the population limit: the law of one site reduced by symmetry, and its order parameters solved.

After `project`, `decouple`, `integrate_out`, `complete` and `restrict` the action of one site depends on the hidden
weights through few averages over the inputs: the overlaps J = E[φ e] with the modes kept, E φ², and |w|².  They are
evaluated on nodes that cover the prior, once; the law at any order parameter is then a reweighting of the nodes.

- Parity on the hypercube.  The law is symmetric under every sign flip of a weight, so that nodes are drawn in one
  orthant.  J is a sum over the corners of the cube of the coordinates that are kept (all of them, or those of the
  parity, when the pre-activation of the rest is Gaussian: exact for D → ∞).
- A few directions u_a under Gaussian inputs.  Nodes are |w| and τ_a = cos(w, u_a), and for one direction
  J_n = c_n(|w|) τⁿ (Mehler).

Nodes are low-discrepancy points of the prior and of laws with large weights on the relevant inputs, weighted by their
mixture; several random shifts give the error.  With one order parameter the right side falls with m, as
:attr:`MeanFieldPopulation.slope` shows, so that bisection finds the only solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.optimize
import sympy as sp

from fieldtheory.action import Action
from fieldtheory.compile import Kernel, compile_kernel
from fieldtheory.errors import BadInput, NotConverged, RuleError
from fieldtheory.population import relevance
from fieldtheory.population.arguments import ridge, ridges
from fieldtheory.population.base import FEW, NODES, SHIFTS, FewModesPopulation, PopulationSolution, standard_error
from fieldtheory.population.branches import Branches, Root, branches
from fieldtheory.population.freeenergy import FreeEnergy, Landscape
from fieldtheory.population.modes import Key
from fieldtheory.population.nodes import FIELD, NODE, Features, Nodes, U, population_values
from fieldtheory.population.relevance import Start
from fieldtheory.symbolic.bases import InputAverage
from fieldtheory.symbolic.features import homogeneity
from fieldtheory.symbolic.fields import Entry, SpaceSum, depends_on, distribute
from fieldtheory.symbolic.onset import Onset

Array = np.ndarray

@dataclass(frozen=True)
class _Law:
    """The law of one site on the nodes: ⟨f J_n⟩, f times the probability of each node, and effective nodes."""

    right_side: Array
    pull: Array
    nodes: float


class MeanFieldPopulation(FewModesPopulation):
    """The mean-field theory of a network on a target with few modes, for infinitely many samples.

    Under an ``ARD`` prior the mean precisions of the relevant inputs and of the rest are solved for as well, and there
    may be several solutions (:meth:`branches`).

    Parameters
    ----------
    site : the action after `decouple` and with the readout integrated out.
    network, law, target, modes, order : as of :class:`.FewModesPopulation`.
    """

    title = "Mean-field theory"

    @cached_property
    def action(self) -> Action:
        return self.site.project("sample", "X", self.law.name).complete().restrict("mode", "target", "m", "y")

    @cached_property
    def order_parameters(self) -> dict[Key, sp.Symbol]:
        return {mode.key: sp.Symbol("m" if len(self.modes) == 1 else f"m_{mode.name}", real=True)
                for mode in self._modes}

    @cached_property
    def _overlaps(self) -> dict[Key, Entry]:
        return {mode.key: Entry(f"J_{mode.name}", "data", (NODE,)) for mode in self._modes}

    @cached_property
    def _averages(self) -> dict[InputAverage, Entry]:
        """Averages over the inputs without a basis function, such as E φ² where it is not known in closed form."""
        nodes = sorted((n for n in self.action.expr.atoms(InputAverage) if not depends_on(n.body, n.basis)),
                       key=sp.default_sort_key)
        return {node: Entry(f"A_{k}", "data", (NODE,)) for k, node in enumerate(nodes)}

    # ----------------------------------------------------------------------------------------- expressions

    def _on_modes(self, expr: sp.Expr, order: Key | None = None) -> sp.Expr:
        """Sums over the modes written out, an open expression at one of them; averages over inputs by name."""
        restriction = self.closure.steps[-1]
        kept, vectors = restriction.details["kept"], dict(restriction.details["entries"])  # type: ignore[call-overload]
        names = {entry.name: entry for entry in vectors.values()}

        def at(body: sp.Expr, n: Key) -> sp.Expr:
            table: dict[sp.Basic, sp.Basic] = {names["m"]: self.order_parameters[n],
                                               names["y"]: sp.nsimplify(self.target.get(n, 0.0), rational=True)}
            table |= {node: self._overlaps[n] for node in body.atoms(InputAverage) if depends_on(node.body, node.basis)}
            return body.xreplace(table)

        table = {total: sp.Add(*(at(total.body, n) for n in self.modes))
                 for total in expr.atoms(SpaceSum) if total.space == kept}
        written = expr.xreplace(table)
        if order is not None:
            written = at(written, order)
        inputs = self.closure.fields[0].spaces[0]
        squares = {total: Entry(f"Q_{self._power(total)}", "data", (NODE,))
                   for total in written.atoms(SpaceSum) if total.space == inputs and not total.has(InputAverage)
                   and not any(node.has(total) for node in self._averages)}
        return written.xreplace(self._averages).xreplace(squares)

    def _power(self, total: SpaceSum) -> int:
        (w,) = self.closure.fields
        base, power = total.body.as_base_exp()
        if base != w or not power.is_Integer:
            raise RuleError(f"{total} is no power sum of the weights")
        return int(power)

    @cached_property
    def unwritten(self) -> tuple[sp.Expr, sp.Expr]:
        """What the action of one site adds to its prior, with the sums over the modes as they are: logarithms, rest."""
        (w,) = self.closure.fields
        terms = [t for t in sp.Add.make_args(distribute(self.action.expr)) if depends_on(t, w)]
        prior = distribute(SpaceSum(self.closure.prior_precisions[w] * w**2 / 2, w.spaces[0]))
        rational, logarithms = sp.S.Zero, sp.S.Zero
        for term in sp.Add.make_args(distribute(sp.Add(*terms) - prior)):
            if term.has(sp.log):
                logarithms += term
            else:
                rational += term
        return logarithms, rational

    @cached_property
    def collective(self) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
        """(c, t, f) on the nodes: the tilt t, m_n = ⟨f J_n⟩, with what they see of the modes as one field G.

        Raises
        ------
        RuleError
            If the order parameters enter in another way than through G = Σ_n (y_n - c m_n) J_n.
        """
        logarithms, rational = self.unwritten
        (body,) = self.closure.parameters.values()
        learned, wanted, overlap = (sp.Dummy(real=True) for _ in range(3))  # Σ m J, Σ y J, and J of one mode
        named = {"m": learned, "y": wanted}
        kept = self.closure.steps[-1].details["kept"]
        table: dict[sp.Basic, sp.Basic] = {}
        for total in (rational + body).atoms(SpaceSum):
            if total.space == kept:
                (node,) = (n for n in total.atoms(InputAverage) if depends_on(n.body, n.basis))
                table |= {total: named[(total.body / node).name], node: overlap}  # type: ignore[attr-defined]
        rational, each = rational.xreplace(table), sp.cancel(body.xreplace(table) / overlap)
        c = sp.cancel(-sp.diff(rational, learned) / sp.diff(rational, wanted))
        if c.has(learned, wanted, SpaceSum) or each.has(overlap) or logarithms.has(kept) or (
                sp.cancel(sp.diff(each, learned) + c * sp.diff(each, wanted)) != 0):
            raise RuleError("the action does not depend on the order parameters through Σ(y - cm)J alone")
        tilt, source = (sp.factor(self._on_modes(expr.xreplace({learned: sp.S.Zero, wanted: FIELD})))
                        for expr in (rational, each))
        return c, self._on_modes(logarithms) + tilt, source

    @cached_property
    def _written(self) -> tuple[sp.Expr, sp.Expr, sp.Expr, sp.Symbol]:
        """The tilt of one mode, the body whose average is m, its overlap, and m."""
        if len(self.modes) != 1:
            raise RuleError("with several order parameters the right side is a vector")
        ((key, m),), (J,) = self.order_parameters.items(), self._overlaps.values()
        c, tilt, source = self.collective
        table = {FIELD: (sp.nsimplify(self.target[key], rational=True) - c * m) * J}
        return sp.expand(tilt.xreplace(table), deep=False), sp.factor(J * source.xreplace(table)), J, m

    @property
    def tilt(self) -> sp.Expr:
        """What the action of one site adds to its prior, for one mode, in the quantities on the nodes."""
        return self._written[0]

    @property
    def sources(self) -> dict[Key, sp.Expr]:
        """The body whose average over the law is m, for one mode."""
        return {self.modes[0]: self._written[1]}

    @property
    def equations(self) -> dict[str, sp.Eq]:
        """m_n = ⟨N a J_n⟩ with the readout integrated out."""
        return self.closure.equations

    @cached_property
    def slope(self) -> tuple[sp.Expr, sp.Expr]:
        """(α, β) of dR/dm = α R - β Var, R(m) the right side and Var ≥ 0 the variance of its body over the law.

        Where α < 0 < β for 0 < m < 1/c, R falls from a positive value: the solution is unique and bisection finds it.

        Raises
        ------
        RuleError
            For more than one mode.
        """
        tilt, body, _, m = self._written
        alpha = sp.factor(sp.cancel(sp.diff(body, m) / body))
        beta = sp.factor(sp.cancel(sp.together(sp.diff(tilt, m)) / body))
        if alpha.atoms(Entry) or beta.atoms(Entry):
            raise RuleError("the action does not depend on the order parameter through the body of its average alone")
        return alpha, beta

    @cached_property
    def onset(self) -> Onset:
        """Where neurons specialise at large D (:mod:`.symbolic.onset`), for a parity and a homogeneous activation.

        Raises
        ------
        RuleError
            If E φ² is not known as a function of |w|² alone.
        """
        if self.law.name != "hypercube":
            raise RuleError("the onset is derived for parities")
        if self.network.has_ard:
            raise RuleError("the onset is derived for a fixed prior, and by its branches(relevance=True) for given "
                            "precisions of the relevant inputs; branches(input_dim, noise) solves for the precisions")
        (order,), (J,), (m,) = self._modes[0].orders, self._overlaps.values(), self.order_parameters.values()
        (w,) = self.closure.fields
        Q = Entry("Q_2", "data", (NODE,))
        tilt = self.tilt.xreplace({m: sp.S.Zero})
        degree = homogeneity(self.activation)
        if degree is None or tilt.atoms(Entry) - {J, Q}:
            raise RuleError(f"{self.activation} is no power law, or its mean square is no function of |w|² alone")
        overlap, size = sp.Symbol("J", real=True), sp.Symbol("Q", positive=True)
        P, D = (sp.Symbol(name, positive=True) for name in "PD")
        return Onset(tilt.xreplace({J: overlap, Q: size, P: sp.S.One}), overlap, size, sp.Symbol("s", positive=True),
                     self.closure.prior_precisions[w], D, self.activation, U, order, degree)

    # -------------------------------------------------------------------------------------------- compiled

    @cached_property
    def kernel(self) -> Kernel:
        """On the nodes: weights, whose sum is Z, and times f; whatever the number of modes."""
        _, tilt, source = self.collective
        weight = sp.exp(Entry("ln_W", "data", (NODE,)) + sp.Symbol("top", real=True) - tilt)
        return self._on_field({"weight": weight, "pull": weight * source}, "population")

    @cached_property
    def exponent(self) -> Kernel:
        """The tilt on the nodes, whose least value keeps the weights finite, and c."""
        c, tilt, _ = self.collective
        return self._on_field({"tilt": tilt, "c": c}, "tilt")

    def _on_field(self, outputs: Mapping[str, sp.Expr], name: str) -> Kernel:
        symbols = {symbol for expr in outputs.values() for symbol in expr.free_symbols}
        entries = {entry for expr in outputs.values() for entry in expr.atoms(Entry)}
        return compile_kernel(dict(outputs), scalars=sorted(symbols, key=lambda symbol: symbol.name),
                              entries=sorted(entries, key=lambda entry: entry.name), name=name)

    @cached_property
    def _landscapes(self) -> dict[Any, Landscape]:
        return {}

    @cached_property
    def features(self) -> Features:
        return Features(self.activation, self.law.name, dict(zip(self._modes, self._overlaps.values(), strict=True)),
                        self._averages)

    # -------------------------------------------------------------------------------------------- solutions

    def _bound(self, nodes: Nodes, values: Mapping[str, float]) -> Callable[[Sequence[float]], _Law]:
        """m -> the law of one site."""
        W = nodes.arrays["W"]
        logs = np.log(W, where=W > 0, out=np.full_like(W, -1e5))
        known = {**values, "ln_W": logs}
        tilted, weighted = (nodes.given(kernel, known) for kernel in (self.exponent, self.kernel))  # type: ignore[arg-type]
        J = np.array([np.broadcast_to(nodes.arrays[entry.name], len(W)) for entry in self._overlaps.values()])
        y = np.array([self.target.get(n, 0.0) for n in self.modes])
        c = self.exponent(**tilted, G=np.zeros(len(W)))["c"]
        top = 0.0

        def law(m: Sequence[float]) -> _Law:
            nonlocal top
            G = (y - c * np.asarray(m)) @ J
            found = self.kernel(**weighted, G=G, top=top)
            Z = float(found["weight"].sum())
            if not 1e-60 < Z < 1e60:  # the scale that served another m has left the range
                top = float((self.exponent(**tilted, G=G)["tilt"] - logs).min())
                found = self.kernel(**weighted, G=G, top=top)
                Z = float(found["weight"].sum())
            if not Z > 0 or not np.isfinite(Z):
                raise NotConverged("the weights of the nodes leave the finite numbers", Z)
            pull = found["pull"] / Z
            return _Law(J @ pull, pull, Z**2 / float(found["weight"] @ found["weight"]))

        return law

    def solve(self, input_dim: int, noise: float | None = None, *, samples: float | None = None,
              width: int | None = None, relevant_only: bool | None = None, nodes: int = NODES, shifts: int = SHIFTS,
              seed: int = 0, start: PopulationSolution | Start | None = None) -> PopulationSolution:
        """The order parameters at noise s_eff = s/P, or at a number of samples with the network's noise.

        Parameters
        ----------
        relevant_only : keep only the inputs of the parity, the rest as one Gaussian of norm |w_⊥| (default: for
            input_dim > 10), on the hypercube.
        nodes, shifts : nodes per random shift, and their number; the spread between shifts is the error.
        start : a solution at another noise to start from; without it from zero, or one order parameter by bisection.
            Under ARD also ``prior`` or ``planted`` (the relevant inputs are cheap); without it the better of both, by
            their free energies.

        Raises
        ------
        NotConverged
            If weights overflow.  Too few effective nodes are said in ``status``.
        BadInput
            If a precision runs away, under ARD.
        """
        if self.network.has_ard:
            landscape = self._landscape(input_dim, width, relevant_only, nodes, shifts, seed)
            return self._solution(landscape, relevance.solve(landscape, ridge(self.network, noise, samples, width),
                                                             start))
        if isinstance(start, str):
            raise BadInput("start", start, "a solution: under a fixed prior there is one, wherever one starts")
        values, variance = population_values(self.network, noise, samples, width)
        batches = self.features.nodes(input_dim, variance, relevant_only, nodes, shifts, seed)
        found: list[list[float]] = []
        residuals, effective, beyond = [], [], []
        guess = None if start is None else [start.order_parameters[n] for n in self.modes]
        for batch in batches:
            law = self._bound(batch, values)
            m = list(self._root(law, values["N"], guess))
            guess = m if len(self.modes) > 1 or start is not None else None
            here = law(m)
            found.append(m)
            residuals.append(float(np.max(np.abs(here.right_side - m))))
            effective.append(here.nodes)
            beyond.append(self.next_overlaps(batch.arrays) @ here.pull)
        means, errors = np.mean(found, axis=0), standard_error(found)
        left_out = float((np.mean(beyond, axis=0)**2).sum())
        status = self.truncation(left_out)
        if min(effective) < FEW:
            status.append(f"not converged: {min(effective):.0f} effective nodes (give more nodes)")
        if max(residuals) > 1e-8:
            status.append(f"not converged: residual {max(residuals):.1g}")
        missing = np.array([self.target.get(n, 0.0) for n in self.modes]) - means
        return PopulationSolution(dict(zip(self.modes, map(float, means))), dict(zip(self.modes, map(float, errors))),
                                  float(missing @ missing), max(residuals), min(effective),
                                  "; ".join(status) or "converged", left_out=left_out, leading=self.leading)

    # -------------------------------------------------------------------------------------------- free energy

    @cached_property
    def free_energy(self) -> FreeEnergy:
        """F(m…, λ…; s), which is stationary at the solutions (:mod:`.population.freeenergy`)."""
        return FreeEnergy(self)

    def _landscape(self, input_dim: int, width: int | None, relevant_only: bool | None, nodes: int, shifts: int,
                   seed: int) -> Landscape:
        """The free energy on nodes."""
        N = self.network.resolve_width(width)
        values = {"N": float(N), "g": self.network.effective_readout_variance(N)}
        hyper = self.network.precision_prior(input_dim)
        if hyper is not None:
            values |= {"alpha_0": hyper[0], "beta_0": hyper[1]}
        prior = 1 / self.network.hidden_prior_variance(input_dim)
        key = (input_dim, tuple(values.items()), prior, relevant_only, nodes, shifts, seed)
        if key not in self._landscapes:
            made = Landscape(self.free_energy, input_dim, values, prior, relevant_only, nodes, shifts, seed)
            self._landscapes.clear()  # the last only
            self._landscapes[key] = made
        return self._landscapes[key]

    def _solution(self, landscape: Landscape, root: Root) -> PopulationSolution:
        orders, effective = landscape.orders, root.point.nodes
        m, precisions = root.x[:orders], np.exp(root.x[orders:])
        left_out, status = landscape.left_out(root.x, root.noise)
        if effective < FEW:
            status.append(f"not converged: {effective:.0f} effective nodes (give more nodes)")
        missing = landscape.target - m

        def by(names: Iterable[Any], numbers: Array) -> dict[Any, float]:
            return dict(zip(names, numbers.tolist(), strict=True))

        return PopulationSolution(by(self.modes, m), by(self.modes, root.errors[:orders]), float(missing @ missing),
                                  root.residual, effective, "; ".join(status) or "converged",
                                  by(landscape.moving, precisions),
                                  by(landscape.moving, precisions * root.errors[orders:]), root.point.value,
                                  left_out, self.leading)

    def branches(self, input_dim: int, noise: Sequence[float] | None = None, *, samples: Sequence[float] | None = None,
                 width: int | None = None, relevant_only: bool | None = None, nodes: int = NODES // 2,
                 shifts: int = SHIFTS, seed: int = 0) -> Branches:
        """All solutions at some noises s/P (or numbers of samples), spinodals and transition.

        The curve of solutions is followed from large noise through its folds (:mod:`.population.branches`).  Under a
        fixed prior it has none.

        Raises
        ------
        BadInput
            If a precision runs away.
        NotConverged
            If the curve is lost; too few effective nodes, or folds within their errors, are said in ``status``.
        """
        noises = ridges(self.network, noise, samples, width)
        return branches(self._landscape(input_dim, width, relevant_only, nodes, shifts, seed), noises, FEW)

    def _root(self, law: Callable[[Sequence[float]], _Law], N: float,
              guess: Sequence[float] | None = None) -> Array:
        if len(self.modes) > 1 or guess is not None:
            found = scipy.optimize.root(lambda m: law(m).right_side - m,
                                        np.zeros(len(self.modes)) if guess is None else guess, tol=1e-12)
            return np.asarray(found.x)
        if N == 1:
            return law([0.0]).right_side
        (coefficient,) = self.target.values()
        sign, high = float(np.sign(coefficient)), abs(coefficient) * N / (N - 1)

        def gap(m: float) -> float:
            return float(sign * law([sign * m]).right_side[0] - m)

        return np.array([sign * scipy.optimize.brentq(gap, 0.0, high, xtol=1e-13, rtol=1e-12)])


__all__ = ["MeanFieldPopulation"]
