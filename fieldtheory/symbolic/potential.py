r"""The potential of a one-site action in its environment, F(m) = N ln ∫dθ e^{-s(θ, m)}, and whether it is convex.

The self-consistent environment is a stationary point of F: of the action at a saddle, or of a variational free energy.
With s = r(m) + s₁(θ, m), r being what no field of the site has a part in,

    F'' = -N r'' + N [⟨-s₁''⟩ + cov(∂s₁/∂m)],

the averages over e^{-s}.  A covariance is positive; where -s₁ is a square of features times what is not negative, so is
the first; and with -N r'' > 0 besides, F is strictly convex and has one stationary point, its minimum.  Derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from fieldtheory.errors import RuleError
from fieldtheory.symbolic.fields import Entry, depends_on, distribute, open_spaces, top_replace, vary
from fieldtheory.symbolic.forms import Pairs, hessian
from fieldtheory.symbolic.sites import gathered, unbundle


@dataclass(frozen=True)
class Potential:
    """F'' in parts: -N r'' (``stiffness``), -s₁'' as pairs (``bend``), -∂s₁/∂m (``pull``), open in m's space."""

    parameter: Entry
    sites: sp.Expr
    stiffness: sp.Expr
    bend: Pairs
    pull: sp.Expr

    @cached_property
    def convex(self) -> bool:
        """Whether F is convex by the signs of the parts, and strictly so where the stiffness is not zero."""
        many = {symbol: 1 + sp.Dummy(nonnegative=True) for symbol in self.sites.free_symbols}  # at least one site
        definite = bool(sp.factor(top_replace(self.stiffness, many)).is_nonnegative) and self.stiffness != 0
        return definite and all(_is_square(u, v) for u, v in self.bend)


def potential(action: sp.Expr, fields: tuple[Entry, ...], parameter: Entry, sites: sp.Expr) -> Potential:
    """Read the one-site action of ``sites`` sites as a function of one order parameter.

    Raises
    ------
    RuleError
        If r is not quadratic, and the same for every component of m; or s₁'' is not of low rank.
    """
    alone, moving = sp.S.Zero, sp.S.Zero
    for term in sp.Add.make_args(distribute(action)):
        if any(depends_on(term, f) for f in fields):
            moving += term
        else:
            alone += term
    shared, own = hessian(alone * sites, parameter), hessian(moving, parameter)
    if shared.pairs or own.diag != 0 or open_spaces(shared.diag) or depends_on(shared.diag, parameter):
        raise RuleError(f"the potential of {parameter} has a curvature of another form")
    bend = tuple((-u, v) for u, v in gathered(own.pairs))
    stiffness = sp.cancel(-shared.diag)
    return Potential(parameter, sites, stiffness, bend, -vary(moving, parameter))


def _is_square(u: sp.Expr, v: sp.Expr) -> bool:
    """Whether u v is a number that is not negative times v²."""
    ratio = u / v  # as a rule they are the same features, and no polynomials need to be multiplied out
    if open_spaces(ratio):
        ratio = sp.cancel(unbundle(u) / unbundle(v))
    return not open_spaces(ratio) and bool(ratio.is_nonnegative)


__all__ = ["Potential", "potential"]
