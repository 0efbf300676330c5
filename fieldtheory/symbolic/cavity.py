r"""One site in the mean kernel of the others.

Where the sites are coupled through a field that they share and that enters quadratically, one is singled out and the
others are replaced by the mean of their quadratic form, in its eigenbasis; the shared field stays, and is integrated
out afterwards.  What is dropped is the fluctuation of that form.  Derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.symbolic.fields import (
    Entry,
    Space,
    SpaceSum,
    depends_on,
    distribute,
    entries,
    open_spaces,
    tidy,
    top_replace,
    variations,
)
from fieldtheory.symbolic.forms import gaussian, hessian
from fieldtheory.symbolic.rules import FieldAction, Step, tex
from fieldtheory.symbolic.sites import Sites, check_fresh, gathered, unbundle

FLUCTUATION = sp.Symbol("delta_K", positive=True)
"""The fluctuation of the other sites' quadratic form about its mean."""


def cavity(action: FieldAction, space: Space, shared: Entry, *, spectrum: str, basis: str, modes: str,
           projections: Mapping[Entry, str] | None = None) -> Step:
    r"""One site and the field that all sites share; the others by the mean of their quadratic form.

    The action must be S = R(j) + Σ_i [s(θ_i) + T(θ_i, j)] with R and T quadratic in the shared field j over samples,
    T of low rank.  The N-1 others add the mean of their form to that of R: C_μν = -(N-1) ⟨∂²T/∂j_μ∂j_ν⟩ (j on the
    imaginary axis), which the law of one site determines in turn.  In its eigenbasis, C = V κ Vᵀ, all is local plus
    low rank, so that j can be integrated out.  In an observable a sum over sites that is linear in j keeps one site
    and the mean over the others, C_*: named ``projections`` in the eigenbasis.  A sum without j, and one
    that is not open in another space, is N times its term of one site: all have the same law.

    What is dropped is the fluctuation of the others' form (the remainder): nothing for a single site.

    Raises
    ------
    RuleError
        If the action does not have this form.
    """
    sites = Sites.of(action, space)
    if [f for f in action.fields if f not in sites.fields] != [shared]:
        raise RuleError(f"the fields besides those of {space.name} are not {shared} alone")
    (sample,) = shared.spaces
    check_fresh(action, (spectrum, basis, modes, *(projections or {}).values()))
    mode = Space(modes, sample.size)
    kappa, V = Entry(spectrum, "spectrum", (mode,)), Entry(basis, "data", (sample, mode))
    j = Entry(shared.name, shared.domain, (mode,))
    others = space.size - 1
    rest, local, coupled = sp.S.Zero, sp.S.Zero, sp.S.Zero
    for coefficient, bodies in sites.monomials(distribute(action.expr)):
        if isinstance(bodies, SpaceSum):
            bodies = (sites.site_sum(bodies),)
        if len(bodies) > 1:
            raise RuleError(f"the sites of {space.name} are coupled directly, not through {shared} alone")
        if not bodies:
            rest += coefficient
        elif depends_on(coefficient, shared):
            raise RuleError(f"{shared} multiplies a sum over {space.name} from outside: what a site adds to every "
                            f"{sample.name} alike, a constant or a bias outside of the nonlinear part of the "
                            "activation, is not known to this closure (a bias can be one more input: "
                            "data.with_bias)")
        elif depends_on(bodies[0], shared):
            coupled += coefficient * sites.on_one(bodies[0])
        else:
            local += coefficient * sites.on_one(bodies[0])
    constant, moving = rest.as_independent(SpaceSum, as_Add=True)
    law = gaussian(moving, shared)
    form = hessian(coupled, shared)
    pairs = gathered(tuple((unbundle(u), unbundle(v)) for u, v in form.pairs))
    if form.diag != 0 or any(depends_on(part, shared) for pair in pairs for part in pair):
        raise RuleError(f"one site is not of low rank in {shared}")
    if coupled.xreplace({shared: sp.S.Zero}) != 0 or open_spaces(law.form.diag) or law.form.pairs:
        raise RuleError(f"the action is no sum of quadratic forms in {shared}, one of them the same for every sample")

    def rotate(vector: sp.Expr) -> sp.Expr:
        """Components in the eigenbasis: Σ_μ V_μk v_μ."""
        return distribute(SpaceSum(V * vector, sample))

    oriented = -1 if shared.domain == "imaginary" else 1
    expr = (law.constant + constant + local + _linear(law.source, rotate, j, sample, mode)
            + SpaceSum((law.form.diag + oriented * kappa) * j**2, mode) / 2
            + sp.Add(*(SpaceSum(rotate(u) * j, mode) * SpaceSum(rotate(v) * j, mode) for u, v in pairs)) / 2)
    kernel = tuple(sp.Tuple(oriented * others * u, v) for u, v in pairs)
    named = _projections(kernel, projections or {}, sample, mode)
    after = replace(action, expr=tidy(expr), fields=(*sites.single.values(), j))

    def seen(body: sp.Expr) -> sp.Expr:
        """A sum over sites that is linear in the shared field: this site's part, and the mean of the others' part."""
        parts = list(variations(body, shared))
        if sample in open_spaces(body) or len(open_spaces(body)) != 1 or any(
                freed != {sample} or depends_on(u * v, shared) for u, v, freed in parts):
            raise RuleError(f"an observable that is not linear in {shared}, or not open in one other space, is not "
                            "known to this closure")
        pairs = gathered(tuple((u, v) for u, v, _ in parts))
        pairs = gathered(tuple((unbundle(v), unbundle(u)) for u, v in pairs))  # by the second factor too
        moving = sp.Add(*(others * u * v for v, u in pairs))
        for name, known in named.items():
            ratio = _ratio(moving, sp.Add(*(u * v for u, v in known)))
            if ratio is not None:
                return sp.Add(ratio * SpaceSum(name * j, mode), *(u * SpaceSum(rotate(v) * j, mode) for v, u in pairs))
        raise RuleError(f"the mean of {body} over the other sites has no name: give its data in projections")

    def push(observable: sp.Expr) -> sp.Expr:
        total, body = sp.S.Zero, sp.S.Zero
        for coefficient, bodies in sites.monomials(distribute(observable)):
            if isinstance(bodies, SpaceSum):
                bodies = (sites.site_sum(bodies),)
            one = [unbundle(sites.on_one(found)) for found in bodies]
            free = [found for found in one if not depends_on(found, shared)]
            if bodies and (depends_on(coefficient, shared) or (free and len(one) > 1)):
                raise RuleError("an observable with products of sums over sites is not known to this closure")
            if not bodies:
                total += _in_modes(coefficient, shared, j, V, sample, mode, rotate)
            elif free:
                total += space.size * coefficient * free[0]  # all sites have the same law
            elif len(one) == 1 and not open_spaces(one[0]):
                total += space.size * coefficient * _in_modes(one[0], shared, j, V, sample, mode, rotate)
            elif len(one) == 1:
                body += coefficient * one[0]
            else:
                total += coefficient * sp.Mul(*(seen(found) for found in one))
        return tidy(total + seen(body) if body != 0 else total)

    size = tex(space.size)
    return Step("cavity", action, after, push, removed=(*sites.fields, shared), added=after.fields,
                details={"space": space, "shared": shared, "kernel": sp.Tuple(*kernel), "spectrum": kappa, "basis": V,
                         "single": j, "projections": sp.Dict(named)},
                description=f"One site is singled out; the ${size} - 1$ others are replaced by the mean of their "
                            f"quadratic form in ${tex(shared)}$, with eigenvalues ${tex(kappa)}$ and eigenvectors "
                            f"${tex(V)}$. What is dropped is the fluctuation of that form.",
                remainder=FLUCTUATION)


def _ratio(first: sp.Expr, second: sp.Expr) -> sp.Expr | None:
    """The closed factor between two open expressions, or None where there is none."""
    found = []
    for expr in (first, second):
        parts: dict[sp.Expr, sp.Expr] = {}
        for term in sp.Add.make_args(sp.expand(unbundle(expr))):
            inside = sp.Mul(*(f for f in sp.Mul.make_args(term) if open_spaces(f)))
            parts[inside] = parts.get(inside, sp.S.Zero) + term / inside
        found.append(parts)
    if found[0].keys() != found[1].keys():
        return None
    ratios = {sp.cancel(found[0][key] / found[1][key]) for key in found[0]}
    return ratios.pop() if len(ratios) == 1 else None


def _projections(kernel: Sequence[sp.Tuple], projections: Mapping[Entry, str], sample: Space,
                 mode: Space) -> dict[Entry, sp.Tuple]:
    """The pairs of C with its first point at other data, by the name of C_* V."""
    found: dict[Entry, sp.Tuple] = {}
    for other, name in projections.items():
        pairs = []
        for u, v in kernel:
            data = [e for e in entries(u) if e.is_data and sample in e.spaces and e.spaces[1:] == other.spaces[1:]]
            if len(data) != 1:
                raise RuleError(f"{u} holds {len(data)} data that {other} could stand in for, not one")
            pairs.append(sp.Tuple(u.xreplace({data[0]: other}), v))
        found[Entry(name, "data", (other.spaces[0], mode))] = sp.Tuple(*pairs)
    return found


def _linear(source: sp.Expr, rotate: Callable[[sp.Expr], sp.Expr], j: Entry, sample: Space, mode: Space) -> sp.Expr:
    """Σ_k j_k b_k for the source b of a shared field."""
    total = sp.S.Zero
    for term in sp.Add.make_args(distribute(source)):
        inside = sp.Mul(*(f for f in sp.Mul.make_args(term) if sample in open_spaces(f)))
        total += term / inside * SpaceSum(rotate(inside) * j, mode)
    return total


def _in_modes(expr: sp.Expr, shared: Entry, j: Entry, V: Entry, sample: Space, mode: Space,
              rotate: Callable[[sp.Expr], sp.Expr]) -> sp.Expr:
    """An expression in the shared field written in the eigenbasis; Σ_μ j_μ b_μ = Σ_k j_k b_k."""
    table: dict[sp.Basic, sp.Basic] = {shared: SpaceSum(V * j, mode)}
    for total in expr.atoms(SpaceSum):
        if total.space == sample and depends_on(total, shared):
            other = total.body / shared
            if depends_on(other, shared):
                raise RuleError(f"{total} is not linear in {shared}")
            table[total] = SpaceSum(rotate(other) * j, mode)
    return top_replace(expr, table)


__all__ = ["FLUCTUATION", "cavity"]
