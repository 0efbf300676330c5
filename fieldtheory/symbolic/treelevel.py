r"""Sites that are independent given a field they share, and that field at its saddle: their tree level.

Once sites are coupled through a conjugate field j alone, S = R(j) - N ln ∫dθ e^{-s₁(θ, j)}.  The contour of j runs
along the imaginary axis; its saddle lies at real j = t, where -S is stationary,

    ∂R/∂t + N ⟨∂s₁/∂t⟩ = 0,   ⟨·⟩ over the law e^{-s₁(θ, t)} of one site.

With R quadratic, t = -R''⁻¹ (R'(0) + N ⟨∂s₁/∂t⟩) is an average over one site: what is left is a one-site action with t
as its environment, s = s₁ + R(t)/N, and -N ln ∫dθ e^{-s} is the action at the saddle, minus the potential F of t
(:mod:`.potential`).  Its signs say whether the saddle is the only one.  Derived here.
"""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on, distribute, tidy, vary
from fieldtheory.symbolic.forms import gaussian
from fieldtheory.symbolic.loops import hbar
from fieldtheory.symbolic.potential import potential
from fieldtheory.symbolic.rules import FieldAction, LogIntegral, Step, factorise, names_in, tex
from fieldtheory.symbolic.sites import Sites, unbundle


def site_saddle(action: FieldAction, space: Space, shared: Entry, name: str) -> Step:
    r"""The sites independent given a shared conjugate field, which is put at its saddle: called ``name``, real data.

    ``details``: ``order_parameters`` {t: the one-site expression whose average t is}.  Observables are taken at the
    saddle and averaged over sites; what is linear in the shared field alone is written as an average over one site by
    the equation of state.

    What is dropped is a loop, the fluctuation of the shared field (remainder ħ).

    Raises
    ------
    RuleError
        If the sites are coupled otherwise, the shared field is no conjugate (imaginary) field or does not enter
        quadratically outside of the sites, or the integral over one site diverges for every t but zero.
    """
    sites = Sites.of(action, space)
    if [f for f in action.fields if f not in sites.fields] != [shared]:
        raise RuleError(f"the fields besides those of {space.name} are not {shared} alone")
    if shared.domain != "imaginary":
        raise RuleError(f"{shared} is no conjugate field: its saddle is not that of a law of sites")
    if name in names_in(action.expr, *action.fields, *action.definitions):
        raise BadInput("name", name, "a name that is not in use")
    apart = factorise(action, space).after
    (node,) = (n for n in apart.expr.atoms(LogIntegral) if set(n.fields) == set(sites.single.values()))
    rest = apart.expr + space.size * node
    law = gaussian(rest, shared)
    t = Entry(name, "data", shared.spaces)
    at = {shared: t}
    slope = vary(node.body, shared)
    value = distribute(-law.form.solve(law.source + space.size * slope))
    expr = tidy(node.body.xreplace(at) + distribute(rest.xreplace(at) / space.size))
    after = replace(action, expr=expr, fields=tuple(sites.single.values()))
    found = potential(expr, after.fields, t, space.size)  # type: ignore[arg-type]
    for feature in dict.fromkeys(unbundle(-u) for u, _ in found.bend):
        _check_growth(feature, tuple(sites.single.values()), t)

    def push(observable: sp.Expr) -> sp.Expr:
        total = sp.S.Zero
        for coefficient, bodies in sites.monomials(distribute(observable)):
            if isinstance(bodies, SpaceSum):
                bodies = (sites.site_sum(bodies),)
            if len(bodies) > 1:
                raise RuleError("an observable with products of sums over sites is not known to this closure")
            if bodies:
                total += coefficient.xreplace(at) * space.size * unbundle(sites.on_one(bodies[0])).xreplace(at)
            else:
                total += _at_saddle(coefficient, shared, t, value.xreplace(at))
        return tidy(distribute(total))

    size = tex(space.size)
    unique = (f" $F = -S$ has curvature of at least ${sp.latex(found.stiffness)}$ there, by the signs of its parts: "
              "the solution is unique.") if found.convex else ""
    return Step("site_saddle", action, after, push, removed=(*sites.fields, shared), added=after.fields,
                details={"space": space, "shared": shared, "order_parameters": sp.Dict({t: value.xreplace(at)})},
                description=f"Given ${tex(shared)}$ the ${size}$ sites are independent, and ${tex(shared)}$ is put at "
                            f"its saddle, the real value ${tex(t)}$.{unique} What is dropped is the fluctuation of "
                            f"${tex(shared)}$ about it.",
                remainder=hbar)


def _at_saddle(expr: sp.Expr, shared: Entry, t: Entry, value: sp.Expr) -> sp.Expr:
    """An expression of the shared field at its saddle; by the equation of state, t = ⟨value⟩, where it is linear."""
    if not depends_on(expr, shared):
        return expr
    strength = sp.Dummy("strength", real=True)
    scaled = expr.xreplace({shared: strength * shared})
    linear = sp.diff(scaled, strength, 2) == 0
    return distribute(expr.xreplace({shared: value if linear else t}))


def growth(feature: sp.Expr, fields: tuple[Entry, ...]) -> sp.Expr | None:
    """The largest power with which a feature grows along a ray in the fields of its site: 0, 1, 2, …; None: not known.

    A feature that tends to a constant, or grows as a logarithm, has power 0.
    """
    far = sp.Dummy("far", positive=True)
    linear = [node for node in feature.atoms(SpaceSum) if any(depends_on(node, f) for f in fields)]
    outer = [node for node in linear if not any(node != other and depends_on(other, node) for other in linear)]
    loose = [f for f in fields if not f.spaces]
    powers: list[sp.Expr] = []
    for sign in (1, -1):
        ray = feature.xreplace({node: sign * far for node in outer}).xreplace({f: sign * far for f in loose})
        ray = ray.doit()
        try:
            power = sp.limit(far * sp.diff(sp.log(ray**2), far) / 2, far, sp.oo) if ray.has(far) else sp.S.Zero
        except (NotImplementedError, ValueError, sp.PoleError):
            return None
        if power is sp.nan or not power.is_extended_real:
            return None
        powers.append(sp.Max(power, 0))
    return sp.Max(*powers)


def radial(tilt: sp.Expr, dimension: sp.Expr) -> sp.Expr:
    r"""A tilt that grows with the square of the radius, with the radius of a standard Gaussian vector integrated out.

    ``tilt`` is its value at radius one: -ln of the average of e^{-ρ² tilt} over ρ, the norm of ``dimension`` standard
    normal components, (n/2) ln(1 + 2 tilt).  It exists where 1 + 2 tilt > 0.
    """
    rho, rate, size = (sp.Dummy(name, positive=True) for name in ("rho", "rate", "size"))
    integral = sp.gammasimp(sp.integrate(rho**(size - 1) * sp.exp(-rate * rho**2), (rho, 0, sp.oo)))
    half = sp.Rational(1, 2)
    ratio = sp.powsimp(sp.expand_power_base(integral / integral.xreplace({rate: half})))
    exponent = sp.simplify(-sp.expand_log(sp.log(ratio), force=True))
    doubled = sp.Dummy("doubled", positive=True)  # 1 + 2 tilt
    exponent = sp.simplify(sp.expand_log(exponent.xreplace({rate: doubled / 2}), force=True))
    return exponent.xreplace({doubled: 1 + 2 * tilt, size: dimension})


def _check_growth(feature: sp.Expr, fields: tuple[Entry, ...], t: Entry) -> None:
    """Refuse features whose square grows faster than the exponent of a Gaussian prior."""
    power = growth(feature, fields)
    if power is not None and power > 1:
        raise RuleError(f"the integral over one site diverges for every {t} but zero: its action holds minus the "
                        f"square of {feature}, which grows with the power {power} of the weights, and the prior is "
                        "Gaussian. There is no saddle; theories that keep the readout's self-term exist (mean-field)")


__all__ = ["growth", "radial", "site_saddle"]
