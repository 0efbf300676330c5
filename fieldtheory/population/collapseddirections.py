"""Collapsed mean-field theory in the population limit under Gaussian inputs: one site in blocks of the others' kernel.

After `cavity` and `project` the rule `sectors` writes the mean kernel of the others in blocks C_l, by the rotations of
the inputs that leave the directions of the target alone.  The target and the output are in one sector, but all modes of
that sector mix.  The unknowns are the entries of all blocks that matter (:mod:`.population.sectors`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import comb
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.action import Action
from fieldtheory.compile import Kernel
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.network import Network
from fieldtheory.population.arguments import check_degree, check_dimension, check_nodes, check_start
from fieldtheory.population.base import OneSitePopulation, PopulationSolution, standard_error
from fieldtheory.population.blocks import BlockEquations, BlockKernels
from fieldtheory.population.eigenvalues import compiled
from fieldtheory.population.lattices import draw_points
from fieldtheory.population.modes import Key, Mode
from fieldtheory.population.nodes import NODE, population_values
from fieldtheory.population.sectors import (
    BEYOND,
    Basis,
    Batch,
    Radial,
    Sector,
    SectorNodes,
    beyond,
    choose,
    overlaps,
    sectors,
)
from fieldtheory.symbolic.bases import InputAverage
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on, distribute, open_spaces

Array = np.ndarray

LEVEL = Space("level", sp.Symbol("N_level", positive=True))
DEGREE, HIGHEST, STEP = 12, 24, 4
"""Hermite degree that is kept at first, at most, and how many more at a time, where none is given."""
MANY = 1500
"""Monomials in the directions and in what is perpendicular beyond which no more degrees are added."""
SMALL = 1e-3
"""The largest eigenvalue of the kernel left out, in units of the noise s/P, above which degrees are added."""
KEPT = 2e-3
"""Directions of a block in which the kernel can reach this, in units of the noise, are kept."""
ON_LATTICE, SHIFTS = {1: 2048, 2: 8192}, 4
"""Nodes per shift by the number of directions, 16384 where there are more; and shifts."""
FEW = 12.0
"""Effective nodes below which a result is not trusted: of a lattice, whose errors the shifts tell, few are needed."""
OUTSIDE = 1e-6
"""Part of the law of one site that may be at the edge of the nodes."""
FAINT = 1e-7
"""Part of E φ² below which a sector is left out."""


@dataclass(frozen=True)
class DirectionsSolution(PopulationSolution):
    """What a population theory gives, with the output in all modes of the target's sector.

    ``spectrum`` are the eigenvalues of the others' kernel by angular momentum and number, from the largest;
    ``blocks`` the kernel itself by (angular momentum, signs under flips), over the modes of each sector up to
    ``degree``; ``remainder`` bounds the largest eigenvalue that is left out, in units of the noise s/P.
    """

    output: Mapping[Key, float] = field(default_factory=dict)
    spectrum: Mapping[tuple[int, int], float] = field(default_factory=dict)
    blocks: Mapping[tuple[int, tuple[int, ...]], Array] = field(default_factory=dict)
    degree: int = 0
    remainder: float = 0.0


class CollapsedDirections(OneSitePopulation):
    """Collapsed mean-field theory of a network on a few Hermite modes, for infinitely many Gaussian samples.

    Parameters
    ----------
    site : the action after `cavity`, with the shared field integrated out.
    network, law, target : as of :class:`.PopulationTheory`.  All modes of the output are kept.

    Raises
    ------
    BadInput
        For a medium other than the mean, or pairs of sites, which are available on the hypercube.
    """

    title = "Collapsed mean-field theory"

    def __init__(self, site: Action, network: Network, law: str = "gaussian",
                 target: Key | Mapping[Key, float] = 2) -> None:
        super().__init__(site, network, law, target)
        corrected = next((step.details for step in site.steps if step.rule == "fluctuation"), None)
        if corrected is not None:
            raise BadInput("theory", f"resolvent {corrected['resolvent']}, loops {corrected['loops']}", "the mean "
                           "resolvent without loops: the fluctuation of the others' kernel is known on the hypercube")
        self._drawn: dict[Any, Any] = {}
        self._held: dict[Any, tuple[Basis, list[Batch]]] = {}

    @cached_property
    def action(self) -> Action:
        return self.site.project("sample", "X", self.law.name).sectors("V").restrict("sector", "target", "y")

    @cached_property
    def eigenvalue(self) -> sp.Expr:
        """The body whose average over the law of one site is κ, open in sectors and levels."""
        V, restriction = self.closure.step.details["basis"], self.closure.steps[-1]
        rotated = sp.Add(*(SpaceSum(V * u, V.spaces[0]) * SpaceSum(V * v, V.spaces[0])  # type: ignore[attr-defined, union-attr]
                           for u, v in self.closure.kernel))
        for step in self.closure.steps[1:]:
            rotated = rotated if step is restriction else step.push(rotated)
        return sp.factor(rotated)

    @property
    def equations(self) -> dict[str, sp.Eq]:
        """κ U = ⟨...⟩ U for each block, over the law that it determines: written in its eigenbasis."""
        sector = self.closure.steps[-1].details["modes"]
        kappa = next(e for e in self.action.expr.atoms(Entry) if e.name == "kappa" and e.spaces[0] == sector)
        return {"kappa": sp.Eq(kappa, self.closure.average(self.eigenvalue), evaluate=False)}

    # ------------------------------------------------------------------------------------------- expressions

    @cached_property
    def kernels(self) -> BlockKernels:
        """All that the law of one site is compiled to."""
        lowered = _Lowered(self.action.steps)
        (w,) = self.closure.fields
        moving = [term for term in sp.Add.make_args(distribute(self.action.expr)) if depends_on(term, w)]
        prior = distribute(SpaceSum(self.closure.prior_precisions[w] * w**2 / 2, w.spaces[0]))
        tilt = lowered.closed(sp.Add(*moving) - prior)
        on_nodes, on_targets = lowered.open(self.action.observe("output"))
        outputs: dict[str, sp.Expr] = {"tilt": tilt}
        for entry in lowered.weights:
            if tilt.has(entry):
                dummy = sp.Dummy(real=True)
                slope = sp.diff(tilt.xreplace({entry: dummy}), dummy).xreplace({dummy: entry})
                outputs[f"tilt_by_{entry.name}"] = sp.factor(slope)
        keys = {name: f"output_{name}" for name in on_nodes}
        outputs |= {keys[name]: expr for name, expr in on_nodes.items()}
        return BlockKernels(compiled(outputs, "collapsed"), self._levels(lowered.weights | lowered.vectors),
                             lowered.scale(self.eigenvalue),
                             tuple(e.name for e in lowered.weights if e.name.startswith("A_") and tilt.has(e)),
                             tuple(e.name for e in lowered.weights if e.name.startswith("B_") and tilt.has(e)),
                             keys, on_targets)

    @staticmethod
    def _levels(weights: Mapping[Entry, sp.Expr]) -> Kernel:
        spectrum, dummy = Entry("kappa", "spectrum", (LEVEL,)), sp.Dummy(nonnegative=True)
        outputs: dict[str, sp.Expr] = {}
        for entry, weight in weights.items():
            slope = sp.diff(weight.xreplace({spectrum: dummy}), dummy).xreplace({dummy: spectrum})
            outputs |= {entry.name: weight, f"slope_{entry.name}": slope}
        return compiled(outputs, "levels")

    # ------------------------------------------------------------------------------------------------- nodes

    def _target_vector(self, sector: Sector) -> Array:
        wanted = {Mode.read(key, len(self._modes[0].orders)): c for key, c in self.target.items()}
        return np.array([wanted.get(mode, 0.0) for mode in sector.modes])

    @staticmethod
    def reach(D: int) -> float | None:
        """How far nodes reach along the directions, in units of the prior's deviation; None as far as is usual."""
        return None

    def nodes(self, D: int, variance: float, degree: int, count: int, shifts: int,
              seed: int) -> tuple[list[Sector], list[SectorNodes]]:
        """Sectors up to a degree, and nodes of each shift, drawn once."""
        least = len(self._modes[0].orders) + 1
        check_dimension(D, least)
        check_nodes(count, shifts, seed)
        key = (D, variance, count, shifts, seed)
        if key not in self._drawn:
            rng = np.random.default_rng(seed)
            points = [draw_points(least - 1, D, variance, count, rng, self.reach(D)) for _ in range(shifts)]
            sizes = np.concatenate([one.size for one in points])
            radial = Radial(self.activation, float(sizes.min()), float(sizes.max()), HIGHEST + BEYOND + 1)
            self._drawn, self._held = {key: (points, [radial(one.size) for one in points], {})}, {}
        points, tables, known = self._drawn[key]
        if degree not in known:
            dimension, top = D - least + 1, max(np.abs(table).max() for table, _ in tables)
            seen = [m for m in range(degree + 1) if max(np.abs(table[:, m]).max() for table, _ in tables) > 1e-12 * top]
            found = sectors(self._modes, dimension, degree, seen)
            first = [overlaps(sector, points[0], tables[0][0], dimension) for sector in found]
            loud = [i for i, j in enumerate(first) if i == 0 or (j**2).mean(axis=0).sum() * found[i].multiplicity
                    > FAINT * tables[0][1].mean()]
            found = [found[i] for i in loud]
            known[degree] = found, [
                SectorNodes(one, tuple(overlaps(sector, one, table, dimension) for sector in found), squares,
                            beyond(one, table[:, :degree + BEYOND + 1], degree + 1, dimension))
                for one, (table, squares) in zip(points, tables, strict=True)]
        return known[degree]

    # ------------------------------------------------------------------------------------------------ solving

    def solve(self, input_dim: int, noise: float | None = None, *, samples: float | None = None,
              width: int | None = None, degree: int | None = None, nodes: int | None = None, shifts: int = SHIFTS,
              seed: int = 0, start: DirectionsSolution | None = None) -> DirectionsSolution:
        """The kernel of the others and the output at noise s_eff = s/P, or at a number of samples with the network's.

        Parameters
        ----------
        degree : Hermite degree up to which modes are kept; without it as far as what is left out matters.
        nodes, shifts : nodes per random shift of a lattice, and their number; the spread between shifts is the error
            (of the nodes: what is left out is told by the remainder).
        start : a solution at another noise to start from.  Without it two starts are taken, one where the others know
            nothing of the target and one where they have learned it; should they lead to different solutions,
            ``status`` says so, and the solution of the first is given.
        """
        values, variance = population_values(self.network, noise, samples, width)
        nodes = ON_LATTICE.get(len(self._modes[0].orders), 16384) if nodes is None else nodes
        order, count = max(mode.order for mode in self._modes), len(self._modes[0].orders)
        check_start(start, DirectionsSolution)
        if degree is not None:
            check_degree(degree, order, HIGHEST)
        affordable = [n for n in range(order, HIGHEST + 1) if n == order or comb(n + count + 1, count + 1) < MANY]
        highest = min(max(DEGREE, order + 2), affordable[-1]) if degree is None else degree
        while True:
            found = self._solved(input_dim, values, variance, highest, nodes, shifts, seed, start)
            if degree is not None or found.remainder <= SMALL or highest + STEP not in affordable:
                return found
            highest, start = highest + STEP, found if "several" not in found.status else start

    def _solved(self, D: int, values: Mapping[str, float], variance: float, degree: int, count: int, shifts: int,
                seed: int, start: DirectionsSolution | None) -> DirectionsSolution:
        found, drawn = self.nodes(D, variance, degree, count, shifts, seed)
        target = self._target_vector(found[0])
        one = BlockEquations(self.kernels, values, Basis((0,), (found[0],), (target[:, None],)), target)
        key = (values["s"], one.factor, *self._drawn, degree)
        if key not in self._held:
            basis = choose(found, drawn[0], target, KEPT * values["s"] / max(one.factor, 1e-300))
            self._held = {key: (basis, [Batch.of(nodes, basis) for nodes in drawn])}
        basis, batches = self._held[key]
        equations = BlockEquations(self.kernels, values, basis, target)
        status: list[str] = []
        if start is None:
            C, different = equations.starts(batches[0])
            if different:
                both = [float(target @ equations.output(batches[0], at) / (target @ target)) for at in different]
                status.append(f"several solutions: {both[0]:.4g} of the target from the lazy start, {both[1]:.4g} from "
                              "a specialised one")
        else:
            C = basis.adopted(start.blocks)
        roots = equations.solutions(batches, C)
        laws = [equations.law(batch, at) for batch, at in zip(batches, roots, strict=True)]
        residual = max(equations.distance(at, law.image) for at, law in zip(roots, laws, strict=True))
        outputs = np.array([equations.output(batch, at) for batch, at in zip(batches, roots, strict=True)])
        remainder = equations.remainder(batches[0], roots[0])
        effective = min(law.effective for law in laws)
        outside = max(float(law.weights[batch.nodes.points.edge].sum())
                      for law, batch in zip(laws, batches, strict=True))
        if outside > OUTSIDE:
            status.append(f"not converged: {outside:.1g} of the law of one site is at the edge of the nodes")
        if effective < FEW:
            status.append(f"not converged: {effective:.0f} effective nodes (give more nodes)")
        if residual > 1e-8:
            status.append(f"not converged: residual {residual:.1g}")
        status += equations.truncation(remainder, degree)
        means, errors = outputs.mean(axis=0), standard_error(outputs)
        output = {mode.key: float(m) for mode, m in zip(found[0].modes, means, strict=True)}
        spread = {mode.key: float(e) for mode, e in zip(found[0].modes, errors, strict=True)}
        C = np.mean(roots, axis=0)
        return DirectionsSolution({key: output[key] for key in self.modes}, {key: spread[key] for key in self.modes},
                                  float(((target - means)**2).sum()), residual, effective,
                                  "; ".join(status) or "converged", output=output, spectrum=equations.spectrum(C),
                                  blocks=basis.whole(C), degree=degree, remainder=remainder)


class _Lowered:
    """Sums over sectors, levels and modes by name: ``weights`` of forms A and lines B, ``vectors`` of the output."""

    def __init__(self, steps: Sequence[Any]) -> None:
        (step,) = (step for step in steps if step.rule == "sectors")
        self.rotation, self.multiplicity = step.details["rotation"], step.details["multiplicity"]
        self.radial, self.level, self.sector = (step.details[key] for key in ("radial", "level", "sector"))
        self.weights: dict[Entry, sp.Expr] = {}
        self.vectors: dict[Entry, sp.Expr] = {}

    def _split(self, body: sp.Expr) -> tuple[sp.Expr, list[bool]]:
        """(f(κ), for each vector Σ_b U u whether it is an overlap) of a body over the levels."""
        weight, overlap = sp.S.One, []
        for base, power in body.as_powers_dict().items():
            if isinstance(base, SpaceSum) and base.space == self.radial:
                vector = base.body / _named(base.body, self.rotation.name)
                overlap += [isinstance(vector, InputAverage)] * int(power)
                if not isinstance(vector, InputAverage | Entry):
                    raise RuleError(f"{vector} is neither an overlap nor the target")
            else:
                weight *= base**power
        at = {e: Entry("kappa", "spectrum", (LEVEL,)) for e in weight.atoms(Entry) if e.name == "kappa"}
        return weight.xreplace(at), overlap

    def _known(self, table: dict[Entry, sp.Expr], kind: str, weight: sp.Expr) -> Entry:
        name = next((e for e, known in table.items() if known == weight and e.name.startswith(kind)), None)
        entry = name or Entry(f"{kind}{len(table)}", "data", (NODE,))
        table[entry] = weight
        return entry

    def closed(self, expr: sp.Expr) -> sp.Expr:
        """An expression with A and B for its sums."""
        table: dict[sp.Basic, sp.Basic] = {}
        for total in expr.atoms(SpaceSum):
            if total.space.name in (self.sector.name, "target") and total.has(InputAverage):
                inner = total.body / _named(total.body, self.multiplicity.name)
                if not isinstance(inner, SpaceSum) or inner.space != self.level:
                    raise RuleError(f"{total} is no sum over {self.level.name}s")
                weight, overlap = self._split(inner.body)
                if len(overlap) != 2 or not any(overlap) or (all(overlap) and total.space != self.sector):
                    raise RuleError(f"{total} is neither a form of one site nor its product with the target")
                table[total] = self._known(self.weights, "A_" if all(overlap) else "B_", weight)
        return expr.xreplace(table)

    def open(self, expr: sp.Expr) -> tuple[dict[str, sp.Expr], dict[str, sp.Expr]]:
        """The output: coefficients of f(C) j and of f(C) y, by the name of f."""
        named: dict[sp.Basic, tuple[sp.Dummy, Entry, bool]] = {}
        for total in expr.atoms(SpaceSum):
            if total.space == self.level and self.radial in open_spaces(total):
                weight, overlap = self._split(total.body / _named(total.body, self.rotation.name))
                named[total] = sp.Dummy(), self._known(self.vectors, "v_", weight), overlap[0]
        for e in expr.atoms(Entry):
            if e.name == "y" and e.spaces and self.radial in e.spaces:
                named.setdefault(e, (sp.Dummy(), self._known(self.vectors, "v_", sp.S.One), False))
        dummies = {total: dummy for total, (dummy, _, _) in named.items()}
        written = self.closed(_outermost(expr, dummies))
        on_nodes: dict[str, sp.Expr] = {}
        on_targets: dict[str, sp.Expr] = {}
        for dummy, vector, at_nodes in named.values():
            table = on_nodes if at_nodes else on_targets
            coefficient = sp.diff(written, dummy)
            table[vector.name] = table.get(vector.name, sp.S.Zero) + coefficient
            written = sp.expand(written - coefficient * dummy)
        if written != 0:
            raise RuleError(f"{written} is left of the output")
        return on_nodes, on_targets

    def scale(self, eigenvalue: sp.Expr) -> sp.Expr:
        """What stands before the square of Σ_b U j."""
        (vector,) = (total for total in eigenvalue.atoms(SpaceSum) if total.space == self.radial)
        x = sp.Dummy()
        found = sp.cancel(eigenvalue.xreplace({vector: x}) / x**2)
        if found.has(x, Entry):
            raise RuleError(f"{eigenvalue} is no square of an overlap")
        return found


def _named(body: sp.Expr, name: str) -> Entry:
    """The factor of that name."""
    (found,) = (f for f in sp.Mul.make_args(body) if isinstance(f, Entry) and f.name == name)
    return found


def _outermost(expr: sp.Expr, table: Mapping[sp.Basic, sp.Basic]) -> sp.Expr:
    """Replaced where it is not below a closed sum."""
    if expr in table:
        return table[expr]  # type: ignore[return-value]
    if not expr.args or isinstance(expr, SpaceSum | Entry):
        return expr
    return expr.func(*(_outermost(arg, table) for arg in expr.args))  # type: ignore[arg-type]


__all__ = ["CollapsedDirections", "DirectionsSolution"]
