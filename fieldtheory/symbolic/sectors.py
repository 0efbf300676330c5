r"""The others' mean kernel where it is not diagonal: blocks, by the representations of the symmetry of one site.

Where the law of one site does not change under a group that acts on the inputs (for Gaussian inputs rotations that
leave the directions of the target alone, and flips of a direction in which the target has one parity), modes fall into
*sectors*, the irreducible representations.  A mode is then a sector l, a component m = 1 … d_l in it, and which of the
radial functions b it belongs to; and a feature overlaps as

    E[φ(w·x) e_{lmb}(x)] = j_{lb}(w) Y_lm(w),      Σ_m Y_lm(w)² = d_l.

By Schur's lemma ⟨J Jᵀ⟩ vanishes between different (l, m) and is the same for every m: one block ⟨j_l j_lᵀ⟩ for each
sector, and a quadratic form in the overlaps of one site is Σ_l d_l j_lᵀ R_l j_l.  Parities on the hypercube are the
case of blocks with one function (:func:`.symbolic.bases.diagonal`).  Derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.bases import InputAverage
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on, map_sums, open_spaces, tidy
from fieldtheory.symbolic.rules import FieldAction, Step, names_in, tex


def sectors(action: FieldAction, basis: Entry, *, sector: str = "sector", radial: str = "radial",
            level: str = "level", rotation: str = "U", multiplicity: str = "d") -> Step:
    r"""The eigenvectors of the others' mean kernel are those of its blocks: V_{(lmb)(l'm'e)} = δ_ll' δ_mm' U_lbe/√P.

    ``basis`` is V over (mode, eigenmode), after `cavity` over P samples and `project`.  Modes become (sector, radial),
    eigenmodes (sector, level), and what stands for a mode afterwards is the factor of Y_lm in it: for an overlap j_lb,
    for the target and the output what they are in the one-dimensional sector that they are in.  A sum over modes
    becomes Σ_l d_l Σ_b; of the P eigenvalues all but those of the modes vanish.

    A symmetry, hence exact, where the target is invariant (up to a sign) under the group whose representations the
    sectors are; the check draws laws of sites with that symmetry.

    Raises
    ------
    RuleError
        Where V stands in another way than in a product of two vectors over the modes.
    """
    if len(basis.spaces) != 2:
        raise BadInput("basis", basis, "eigenvectors over (mode, eigenmode)")
    names = (sector, radial, level, rotation, multiplicity)
    for name in names:
        if name in names_in(action.expr, *action.fields, *action.definitions) or names.count(name) > 1:
            raise BadInput("names", name, "names that differ and are not in use")
    mode, eigen = basis.spaces
    samples = eigen.size
    one, inner, outer = (Space(name, sp.Symbol(f"N_{name}", positive=True)) for name in (sector, radial, level))
    U, d = Entry(rotation, "data", (one, inner, outer)), Entry(multiplicity, "spectrum", (one,))

    def renamed(expr: sp.Expr) -> sp.Expr:
        """What is open in the modes or the eigenmodes, in the sectors."""
        table: dict[sp.Basic, sp.Basic] = {}
        for e in expr.atoms(Entry):
            spaces = tuple(s for old in e.spaces for s in ((one, inner) if old == mode else
                                                           (one, outer) if old == eigen else (old,)))
            table[e] = Entry(e.name, e.domain, spaces)
        return expr.xreplace(table)

    def vectors(expr: sp.Expr) -> sp.Expr:
        """Σ_T V_Tk u_T as Σ_b U u/√P."""
        table: dict[sp.Basic, sp.Basic] = {}
        for total in expr.atoms(SpaceSum):
            if total.space == mode and depends_on(total, basis):
                if depends_on(total.body / basis, basis):
                    raise RuleError(f"{basis} stands twice in {total}")
                table[total] = SpaceSum(U * renamed(total.body / basis), inner) / sp.sqrt(samples)
        expr = expr.xreplace(table)
        if depends_on(expr, basis):
            raise RuleError(f"{basis} stands outside of a sum over {mode.name}")
        return renamed(expr)

    def paired(body: sp.Expr, is_vector: Callable[[sp.Basic], bool]) -> None:
        """Y_lm² sums to d_l where two vectors over the modes meet; Y_lm alone does not."""
        count = sum(int(power) for base, power in body.as_powers_dict().items() if is_vector(base))
        if count not in (0, 2):
            raise RuleError(f"{body} holds {count} vectors over the modes, not two or none")

    def in_sectors(total: SpaceSum) -> sp.Expr:
        if total.space == eigen:
            if mode in open_spaces(total):  # Σ_k V_Tk u_k
                rest = total.body / basis
                if mode in open_spaces(rest):
                    raise RuleError(f"{total} is open in {mode.name} in another way than through {basis}")
                return SpaceSum(U * vectors(rest), outer) / sp.sqrt(samples)
            paired(total.body, lambda base: isinstance(base, SpaceSum) and depends_on(base, basis))
            empty: dict[sp.Basic, sp.Basic] = {e: sp.S.Zero for e in total.body.atoms(Entry) if eigen in e.spaces}
            count = samples - inner.size * SpaceSum(d, one)
            return SpaceSum(d * SpaceSum(vectors(total.body), outer), one) + count * total.body.xreplace(empty)
        if total.space == mode:
            paired(total.body, lambda base: isinstance(base, Entry | InputAverage) and mode in open_spaces(base))
            return SpaceSum(d * SpaceSum(renamed(total.body), inner), one)
        return SpaceSum(map_sums(total.body, in_sectors), total.space)

    def push(observable: sp.Expr) -> sp.Expr:
        opened = {mode, eigen} & open_spaces(observable)
        if len(opened) > 1:
            raise RuleError(f"{observable} is open in the modes and in the eigenmodes")
        found = vectors(observable) if opened == {eigen} else renamed(map_sums(observable, in_sectors))
        return tidy(found)

    return Step("sectors", action, replace(action, expr=push(action.expr)), push,
                details={"basis": basis, "modes": mode, "sector": one, "radial": inner, "level": outer,
                         "rotation": U, "multiplicity": d},
                description=f"The law of one site does not change under a group of rotations and flips of the inputs; "
                            f"by Schur's lemma the mean kernel of the others has one block for each of its "
                            f"representations, the {sector}s, repeated ${tex(d)}$ times, with eigenvectors ${tex(U)}$. "
                            f"What carried a mode is the factor of a harmonic $Y$, with "
                            f"$\\sum_m Y_m^2 = {tex(d)}$.")


__all__ = ["sectors"]
