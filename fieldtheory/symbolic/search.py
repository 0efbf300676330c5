r"""Stationary points of an analytic action with numbers for all its parameters, where no algebra finds them.

Damped Newton steps on ∇S = 0 from a fixed set of starts, in floats and then in many digits.  What is found is a
stationary point to ``DIGITS`` digits (a degenerate one to fewer); that all were found cannot be promised, and a warning
says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import product
from typing import Any

import mpmath
import sympy as sp

from fieldtheory.errors import SearchWarning

DIGITS = 60
"""Of the numbers found."""
AXIS = {1: 161, 2: 11, 3: 7}
"""Starts along each axis by the number of fields, from -REACH to REACH, denser near zero."""
REACH = 20.0
MAX_STEPS = 60


def stationary_points(gradient: Sequence[sp.Expr], symbols: Sequence[sp.Symbol]) -> list[tuple[sp.Expr, ...]]:
    """Real solutions of ∇S = 0: rational where that is exact, else floats.

    Warns
    -----
    SearchWarning
        Always: there may be others.
    """
    n = len(symbols)
    jacobian = [[sp.diff(g, x) for x in symbols] for g in gradient]
    (coarse, coarse_bends), (fine, fine_bends) = (
        [sp.lambdify(list(symbols), e, modules) for e in (list(gradient), jacobian)]
        for modules in (["math", "mpmath"], ["mpmath"]))
    count = AXIS.get(n, 3)
    axis = [REACH * (2 * k / (count - 1) - 1)**3 for k in range(count)]
    found: list[tuple[sp.Expr, ...]] = []
    seen: list[Any] = []
    for start in sorted(product(axis, repeat=n), key=lambda u: sum(map(abs, u))):
        near = _newton(mpmath.fp, coarse, coarse_bends, start, 1e-11)
        if near is None or any(mpmath.norm(near - other) < 1e-6 * (1 + mpmath.norm(near)) for other in seen):
            continue
        seen.append(near)
        found.append(_exact(gradient, symbols, near) or _polished(fine, fine_bends, near))
    warnings.warn(f"the stationary points were searched for numerically: {len(found)} found from {count**n} starts "
                  f"with coordinates up to {REACH:g}; there may be others", SearchWarning, stacklevel=2)
    return found


def _newton(ctx: Any, slopes: Any, bends: Any, start: Any, tolerance: Any) -> Any:
    """A root from one start; None where the steps do not settle, or the function is not real or not defined."""
    u = ctx.matrix(list(start))
    try:
        g = ctx.matrix(slopes(*u))
        for _ in range(MAX_STEPS):
            if any(ctx.im(x) for x in g):
                return None
            J = ctx.matrix(bends(*u))
            step = ctx.lu_solve(J, g)
            while True:  # halve until the slope falls
                trial = u - step
                following = ctx.matrix(slopes(*trial))
                if ctx.norm(following) <= ctx.norm(g) or ctx.norm(step) < tolerance:
                    break
                step = step / 2
            u, g = trial, following
            if ctx.norm(step) <= tolerance * (1 + ctx.norm(u)):
                return u if ctx.norm(g) < 1e3 * tolerance * (1 + ctx.mnorm(J)) else None
    except (ValueError, ZeroDivisionError, OverflowError, TypeError):
        pass
    return None


def _exact(gradient: Sequence[sp.Expr], symbols: Sequence[sp.Symbol], near: Any) -> tuple[sp.Expr, ...] | None:
    """Rational numbers of few digits, if the gradient vanishes there exactly."""
    point = [sp.Rational(*float(x).as_integer_ratio()).limit_denominator(1000) for x in near]
    at = dict(zip(symbols, point))
    if any(abs(float(p) - float(x)) > 1e-6 for p, x in zip(point, near)):
        return None
    return tuple(point) if all(sp.simplify(g.xreplace(at)) == 0 for g in gradient) else None


def _polished(slopes: Any, bends: Any, near: Any) -> tuple[sp.Expr, ...]:
    with mpmath.workdps(DIGITS + 20):
        found = _newton(mpmath.mp, slopes, bends, near, mpmath.mpf(10)**-(DIGITS + 5))
        if found is not None:
            return tuple(sp.Float(x, DIGITS) for x in found)
        return tuple(sp.Float(x, 15) for x in near)  # a degenerate one, to which the steps converge slowly


__all__ = ["stationary_points"]
