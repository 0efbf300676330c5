r"""What the cavity leaves out: the fluctuation of the other sites' quadratic form, cluster by cluster.

After the cavity N-1 sites are replaced by the mean of their form, N-1 times a medium c.  Two things are put right here.

**Clusters.**  With n sites kept and N-n media the shared field j is integrated out of an action S_n(θ_1 … θ_n), by the
rule that integrates it out of the cavity's (n = 1).  The exact S of N sites is then, about any medium,

    S = S_0 + Σ_i s_1(θ_i) + Σ_{i<j} s_2(θ_i, θ_j) + …,
    s_1 = S_1 - S_0,   s_2 = S_2 - S_1 - S_1' + S_0,

and every observable likewise.  The law e^{-s_1} is the cavity's; s_2 is the first term it drops, and with N = 2 sites
nothing comes after it.  s_2 is of second order in deviations of the sites' forms from the medium.

**The medium.**  The expansion is exact for any c; which one serves best depends on what is to be small.  The mean,
c = ⟨k⟩ over one site, leaves in the resolvent ⟨(s + K)⁻¹⟩ all powers of P/N, of which a site gives one.  The
self-consistent medium is the one in which a site changes the resolvent by nothing on average,

    ⟨Cov_1(j)⟩ = Cov_0(j),

with one site in N-1 media on the left and N media on the right: that sums the chains in which every site is met again
only after those met since (the rainbows), which are of order (P/N)^k at P ∝ N.  Per eigenvalue it is an algebraic
equation in the average of the site's screened form k/B, solved here by SymPy.

Derived here; the second is the coherent-potential approximation for sites of rank one (Soven 1967), in the form of
Marchenko and Pastur where sites are independent of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import sympy as sp
from sympy.core.symbol import Str

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic import rules
from fieldtheory.symbolic.fields import Entry, SpaceSum, depends_on, distribute, open_spaces, variations
from fieldtheory.symbolic.forms import gaussian
from fieldtheory.symbolic.rules import FieldAction, Step, names_in, tex

MEDIA = ("mean", "self-consistent")
PAIRS = sp.Symbol("delta_2", positive=True)
"""What clusters of two sites add to those of one, s_2."""
TRIPLES = sp.Symbol("delta_3", positive=True)
"""What clusters of three sites add to those of two; and correlations beyond chains of s_2."""


def fluctuation(action: FieldAction, cavity: Step, observables: Mapping[str, sp.Expr], *, resolvent: str,
                loops: int) -> Step:
    """Prepare the correction of a cavity: clusters of up to two sites, and the medium they are in.

    Parameters
    ----------
    action : as the cavity left it, in the fields of one site and the shared field.
    observables : in these fields; those linear in the shared field, or free of it, have clusters.
    resolvent : the medium, ``mean`` or ``self-consistent``.
    loops : 0 keeps one site in its medium; 1 adds s_2 and the chains of it (rings) in the law of one site.

    ``details``: ``energies`` S_0, S_1, S_2 and ``observables`` O_0, O_1, O_2, in which the spectrum (and projections)
    stand for those of the media present, N-n times c; ``screening`` B; ``medium``, the spectrum of N-1 media as a
    function of an eigenvalue ``screened`` of ⟨k/B⟩.

    Raises
    ------
    RuleError
        If a site is not of rank one in the shared field.
    """
    if resolvent not in MEDIA:
        raise BadInput("resolvent", resolvent, " or ".join(MEDIA))
    if isinstance(loops, bool) or loops not in (0, 1):
        raise BadInput("loops", loops, "0 (one site in its medium) or 1 (pairs of sites)")
    j, kappa, space = (cavity.details[key] for key in ("single", "spectrum", "space"))
    assert isinstance(j, Entry) and isinstance(kappa, Entry)
    fields = tuple(f for f in action.fields if f != j)
    used = names_in(action.expr, *action.fields, *action.definitions)
    twin = {f: Entry(_prime(f.name, used), f.domain, f.spaces) for f in fields}  # type: ignore[attr-defined]

    features: dict[sp.Basic, Entry] = {}

    def named(expr: sp.Expr) -> sp.Expr:
        """Vectors that one site's fields make, by name: what a site is for the shared field."""
        if not any(depends_on(expr, f) for f in fields) or expr in fields:
            return expr
        if open_spaces(expr) and not depends_on(expr, j) and isinstance(expr, SpaceSum | sp.Function):
            spaces = sorted(open_spaces(expr), key=lambda s: s.name)
            if expr not in features:
                features[expr] = Entry(_prime(f"psi_{len(features)}", used), "data", spaces)
            return features[expr]
        return expr.func(*(named(arg) if isinstance(arg, sp.Expr) else arg for arg in expr.args))

    def kept(expr: sp.Expr, sites: int) -> sp.Expr:
        """What an expression of one site is with so many of them."""
        terms = sp.Add.make_args(distribute(expr))
        own = named(sp.Add(*(t for t in terms if any(depends_on(t, f) for f in fields))))
        bare = sp.Add(*(t for t in terms if not any(depends_on(t, f) for f in fields)))
        table = twin | {psi: Entry(psi.name + "'", "data", psi.spaces) for psi in features.values()}
        return bare + sp.Add(*(own, own.xreplace(table))[:sites])

    steps = []
    for n in range(2 + loops):
        left = (fields, tuple(twin.values()))[:n]
        steps.append(rules.integrate_out(replace(action, expr=kept(action.expr, n),
                                                 fields=(*(f for some in left for f in some), j)), j))
    law = gaussian(kept(action.expr, 1), j)
    if len(law.form.pairs) != 1:
        raise RuleError(f"one site is of rank {len(law.form.pairs)} in {j}, not of rank one")
    clusters: dict[Str, sp.Tuple] = {}
    for name, expr in observables.items():
        if not depends_on(expr, j):
            continue  # an average over one site
        try:
            linear = not any(depends_on(c * d, j) for c, d, _ in variations(expr, j))
        except RuleError:
            continue
        if linear:
            clusters[Str(name)] = sp.Tuple(*(step.push(kept(expr, n)) for n, step in enumerate(steps)))
    made = {psi: expr for expr, psi in features.items()}
    second = {psi: Entry(psi.name + "'", "data", psi.spaces) for psi in made}
    shared, screened = cavity.details["shared"], sp.Symbol("r", positive=True)
    medium = _medium(law.form.diag * (-1 if j.domain == "imaginary" else 1), kappa, space.size, screened)  # type: ignore[attr-defined]
    words = {"mean": "their mean",
             "self-consistent": "the one in which a site leaves the resolvent as it is on average, "
             f"$\\langle {tex(j)} {tex(j)} \\rangle_1 = \\langle {tex(j)} {tex(j)} \\rangle_0$"}[resolvent]
    kept_words = "One site is kept." if not loops else (
        "Pairs of sites are kept, $s_2 = S_2 - S_1 - S_1' + S_0$; chains of them close on the site (one loop).")
    return Step("fluctuation", action, action, lambda observable: observable,
                details={"twins": sp.Dict(twin | second), "features": sp.Dict(made), "observables": sp.Dict(clusters),
                         "energies": sp.Tuple(*(step.after.expr for step in steps)), "bare": kept(action.expr, 0),
                         "screening": sp.exp(law.form.log_det_low_rank()).xreplace(made), "medium": medium,
                         "screened": screened, "space": space, "single": j, "spectrum": kappa,
                         "basis": cavity.details["basis"], "shared": shared, "whole": cavity.before.expr,
                         "removed": sp.Tuple(*(f for f in cavity.removed if f != shared)),
                         "resolvent": Str(resolvent), "loops": sp.Integer(loops)},
                description=f"The others' form is expanded about that of a medium, cluster by cluster. The medium is "
                            f"{words}. {kept_words}")


def _prime(name: str, used: set[str]) -> str:
    while name in used:
        name += "'"
    return name


def _medium(diagonal: sp.Expr, kappa: Entry, N: sp.Expr, screened: sp.Symbol) -> sp.Expr:
    """The spectrum of N-1 media: with c = κ/(N-1), 1/A_0 = 1/A_1 - r/A_1², where A_n holds N-n media."""
    c = sp.Symbol("c", positive=True)
    A_0, A_1 = (diagonal.xreplace({kappa: count * c}) for count in (N, N - 1))
    equation = sp.numer(sp.together(1 / A_0 - 1 / A_1 + screened / A_1**2))
    roots = sp.solve(equation, c, simplify=False, check=False)
    numbers = {x: sp.Integer(2 + k) for k, x in enumerate(sorted((diagonal - kappa + N + screened).free_symbols,
                                                               key=lambda x: x.name))}
    positive = [root for root in roots if root.xreplace(numbers).is_positive]
    if len(positive) != 1:
        raise RuleError(f"the equation of the medium has {len(positive)} positive roots, not one: {roots}")
    return sp.expand((N - 1) * sp.together(positive[0]))


__all__ = ["MEDIA", "PAIRS", "TRIPLES", "fluctuation"]
