r"""A kernel matrix over many samples, replaced by the integral operator of the kernel, in its eigenfunctions.

For P samples of a law of inputs the eigenvalues of the kernel matrix tend to λ_k = P κ_k and the components of what
lives on samples to √P times those in the eigenfunctions, ∫dx' ρ(x') K(x, x') e_k(x') = κ_k e_k(x).  Derived here.
"""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.symbolic.bases import SAMPLING
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, distribute, map_sums, open_spaces, tidy
from fieldtheory.symbolic.rules import FieldAction, Step, tex


def integral_operator(action: FieldAction, spectrum: Entry, name: str, modes: Space) -> Step:
    r"""λ_k → P κ_k over the eigenfunctions, and every other vector over the modes of the matrix √P times its own.

    ``spectrum`` are the eigenvalues λ of the kernel matrix over its modes, after `diagonalise`; ``name`` is that of κ
    over ``modes``, the eigenfunctions.  Of the P eigenvalues all but those of the eigenfunctions vanish: a sum over the
    modes of the matrix is one over eigenfunctions, and P - N_modes times its body at zero.

    Raises
    ------
    RuleError
        If a field lives on the modes of the matrix, or data on them and another space.
    """
    (old,) = spectrum.spaces
    samples = old.size
    if left := [f for f in action.fields if isinstance(f, Entry) and old in f.spaces]:
        raise RuleError(f"{left[0]} lives on the modes of the kernel matrix, and is not integrated out")
    kappa = Entry(name, spectrum.domain, (modes,))

    def moved(expr: sp.Expr) -> sp.Expr:
        """An expression open in the modes of the matrix as one open in the eigenfunctions."""
        table: dict[sp.Basic, sp.Basic] = {spectrum: samples * kappa}
        for e in expr.atoms(Entry):
            if old in e.spaces and e != spectrum:
                if e.spaces != (old,):
                    raise RuleError(f"{e} lives on the modes of the kernel matrix and on another space")
                table[e] = sp.sqrt(samples) * Entry(e.name, e.domain, (modes,))
        return expr.xreplace(table)

    def over_eigenfunctions(total: SpaceSum) -> sp.Expr:
        if total.space != old:
            return SpaceSum(map_sums(total.body, over_eigenfunctions), total.space)
        empty: dict[sp.Basic, sp.Basic] = {e: sp.S.Zero for e in total.body.atoms(Entry) if old in e.spaces}
        return SpaceSum(moved(total.body), modes) + (samples - modes.size) * total.body.xreplace(empty)

    def push(observable: sp.Expr) -> sp.Expr:
        inner = map_sums(observable, over_eigenfunctions)
        return tidy(distribute(moved(inner) / sp.sqrt(samples)) if old in open_spaces(observable) else inner)

    definitions = {key: value for key, value in action.definitions.items() if key != spectrum}
    after = replace(action, expr=push(action.expr), definitions=definitions)
    return Step("integral_operator", action, after, push,
                details={"spectrum": spectrum, "modes": modes, "name": sp.Symbol(name)},
                description=f"For many samples the eigenvalues of the kernel matrix are ${tex(samples)}$ times those "
                            f"of the kernel's integral operator, ${tex(spectrum)} \\to {tex(samples)} {tex(kappa)}$; "
                            f"components over samples $\\sqrt{{{tex(samples)}}}$ times those in its eigenfunctions.",
                remainder=SAMPLING)


__all__ = ["integral_operator"]
