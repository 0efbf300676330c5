r"""An L-loop result of an action judged by its next coefficient, against sums over a lattice.

With N the large parameter (1/ħ where there is none), the error of an L-loop result times the right power of N
approaches the engine's own next coefficient:

    ln Z           N^max(L,1) (exact - kept),      ⟨O⟩            N^(L+1) (exact - kept),
    κ(O_1 … O_n)   N^(n+L) (exact - kept),         Γ(φ)           N^L (exact - kept).

Both are compared at several N and extrapolated to 1/N = 0.  The exact side (:mod:`fieldtheory.exact.lattice`) knows
no saddle's expansion and no diagram; a slope alone would pass with a wrong constant, and fail where the coefficient
happens to vanish.  Derived here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import mpmath
import numpy as np
import sympy as sp

from fieldtheory.action import Action
from fieldtheory.derivation import Derivation
from fieldtheory.errors import BadInput, FieldTheoryError, NotConverged, RuleError
from fieldtheory.exact.lattice import LatticeLaw
from fieldtheory.randompoints import Generator
from fieldtheory.stepchecks import Check, CheckResult
from fieldtheory.symbolic.expansion import hbar, polynomial_terms
from fieldtheory.symbolic.fields import Entry
from fieldtheory.symbolic.printing import latex
from fieldtheory.symbolic.rules import Step
from fieldtheory.symbolic.saddles import SaddlePoint
from fieldtheory.symbolic.series import Series

WIDTHS = (1_000, 2_000, 4_000)
"""Values of the large parameter at which an expansion is judged."""
LOG_PARTITION, EFFECTIVE_ACTION = "ln Z", "Gamma"
TOLERANCE = 1e-3
"""How far the extrapolated error may be from the next coefficient, relative to the larger of them."""
Quantity: TypeAlias = "sp.Expr | str | tuple[sp.Expr, ...]"
"""An observable, "ln Z", "Gamma", or several observables for their joint cumulant."""


# ------------------------------------------------------------------------------------------------- what was found


@dataclass(frozen=True)
class Comparison:
    """Errors of one quantity times N to its power, and what they should approach.

    ``found`` and ``expected`` are the scaled error and the scaled next term at each of the ``widths``.
    """

    quantity: str
    loops: int
    widths: tuple[int, ...]
    found: tuple[float, ...]
    expected: tuple[float, ...]

    @property
    def error(self) -> float:
        """|found - expected|, extrapolated to 1/N = 0, relative to the largest of all."""
        left = _extrapolated(self.widths, [a - b for a, b in zip(self.found, self.expected)])
        scale = max(map(abs, (*self.found, *self.expected)))
        return abs(left) / scale if scale > 1e-6 else abs(left)  # both vanish, to the digits of the exact side

    @property
    def message(self) -> str:
        return "error and next term times N^k: " + ", ".join(
            f"{a:+.6g} / {b:+.6g}" for a, b in zip(self.found, self.expected))

    def __str__(self) -> str:
        table = "\n".join(f"{N:>10}  {a:+.10e}  {b:+.10e}"
                          for N, a, b in zip(self.widths, self.found, self.expected))
        return (f"{self.quantity}: the error after {self.loops} loops against the next term, times N to its "
                f"power:\n{'N':>10}  {'error':>17}  {'next term':>17}\n{table}")


def _extrapolated(widths: Sequence[int], values: Sequence[float]) -> float:
    """The limit 1/N → 0 of the polynomial in 1/N through all values."""
    total = 0.0
    for i, value in enumerate(values):
        total += value * math.prod(widths[i] / (widths[i] - other) for j, other in enumerate(widths) if j != i)
    return total


def check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """At least two different numbers, growing."""
    found = tuple(widths)
    if len(found) < 2 or sorted(set(found)) != list(found) or found[0] < 1:
        raise BadInput("widths", widths, "two or more growing values of the large parameter")
    return found


def digits_for(power: int, width: int) -> int:
    """Thirty at least, and ten of an error of order N^-power."""
    return max(30, 10 + math.ceil(power * math.log10(width)))


# ------------------------------------------------------------------------------------------------ an action's laws


class ActionExpansion:
    """An action of a few scalar fields with numbers in it: its loop expansion, and its exact averages at any N.

    Parameters
    ----------
    action : with at most its large parameter left as a symbol; without one, loops are counted by ħ = 1/N.
    at : the saddle; None for the dominant one.

    Raises
    ------
    BadInput
        For a symbol without a number.
    RuleError
        For a field over a space, or one on an imaginary contour.
    """

    def __init__(self, action: Action, at: Any = None) -> None:
        for field in action.fields:
            if isinstance(field, Entry) and (field.spaces or field.domain == "imaginary"):
                raise RuleError(f"the next coefficient is judged for real scalar fields, and {field} is none: "
                                "write it out at small sizes")
        self.action = action
        self.large = sp.Dummy("N", positive=True) if action.large is None else action.large
        left = sorted(map(str, action.expr.free_symbols - {*action.fields, self.large}))
        if left:
            raise BadInput("values", f"none for {left[0]}", f"values for {', '.join(left)}")
        whole = action.expr * self.large if action.large is None else action.expr
        self.fields = tuple(sp.Dummy(f"u{i}", real=True) for i in range(len(action.fields)))
        self._names = dict(zip(action.fields, self.fields))
        self.expr = whole.xreplace(self._names)
        self.at = self._saddle() if at is None else at
        self._laws: dict[int, LatticeLaw] = {}
        self._series: dict[Any, Series] = {}

    def _saddle(self) -> Any:
        """The dominant saddle; of more than two fields the lowest minimum found by descent.

        All saddle points of three coupled fields are many seconds' work, and need not be isolated off the real axis.
        """
        if len(self.fields) < 3:
            points = self.action.saddle_points()
            return self.action._saddle(None) if len(points) > 1 else points[0]
        return dict(zip(self.action.fields, lowest_minimum(self.expr.xreplace({self.large: sp.S.One}), self.fields)))

    @cached_property
    def point(self) -> list[sp.Expr]:
        """The saddle, in the order of the fields."""
        return [sp.sympify(v) for v in saddle_values(self.at, self.action.fields)]

    # -------------------------------------------------------------------------------------------- the exact side

    def _function(self, expr: sp.Expr, N: int) -> Any:
        """For the lattice: a polynomial's coefficients, or a function of mpf."""
        expr = expr.xreplace({self.large: sp.Integer(N)})
        terms = polynomial_terms(expr, self.fields)
        if terms is None:
            return sp.lambdify(self.fields, expr, "mpmath")
        return {powers: _number(c) for powers, c in terms.items()}

    def _hessian(self, N: int, at: Sequence[Any]) -> list[list[Any]]:
        values = {self.large: sp.Integer(N), **dict(zip(self.fields, at))}
        return [[_number(entry.xreplace(values)) for entry in row] for row in self._bends]

    @cached_property
    def _slopes(self) -> list[sp.Expr]:
        return [sp.diff(self.expr, f) for f in self.fields]

    @cached_property
    def _bends(self) -> list[list[sp.Expr]]:
        return [[sp.diff(slope, f) for f in self.fields] for slope in self._slopes]

    def law(self, N: int, digits: int) -> LatticeLaw:
        """exp(-S)/Z about the saddle, to at least that many digits."""
        known = self._laws.get(N)
        if known is None or known.digits < digits:
            with mpmath.workdps(digits + 25):
                center = [_number(v) for v in self.point]
                known = LatticeLaw(self._function(self.expr, N), center, self._hessian(N, self.point), digits)
            self._laws[N] = known
        return known

    def exact(self, quantity: Any, N: int, digits: int) -> Any:
        """The quantity at N, of which an expansion knows the powers of N that ``kept`` keeps."""
        with mpmath.workdps(digits + 25):
            if quantity == EFFECTIVE_ACTION:
                return self._effective_action(N, digits)
            law = self.law(N, digits)
            if quantity == LOG_PARTITION:
                determinant = mpmath.det(mpmath.matrix(self._hessian(N, self.point)))
                gauss = len(self.fields) * mpmath.log(2 * mpmath.pi) / 2 - mpmath.log(determinant) / 2
                at = {self.large: sp.Integer(N), **dict(zip(self.fields, self.point))}
                return law.log_partition + _number(self.expr.xreplace(at)) - gauss
            observables = quantity if isinstance(quantity, tuple) else (quantity,)
            return law.cumulant([self._function(o.xreplace(self._names), N) for o in observables])

    @cached_property
    def classical(self) -> list[sp.Rational]:
        """Where Γ is judged: near the saddle and off it, where the action is still convex."""
        point = [sp.nsimplify(sp.N(v, 12), rational=True).limit_denominator(64) for v in self.point]
        for scale in (8, 32, 128, 512):
            trial = [v + sp.Rational((-1)**i, scale) for i, v in enumerate(point)]
            with mpmath.workdps(20):
                matrix = mpmath.matrix(self._hessian(1, trial))
                if min(mpmath.eigsy(matrix, eigvals_only=True)) > 0:
                    return trial
        raise RuleError("the action is not convex near the saddle; its effective action is not judged")

    def _effective_action(self, N: int, digits: int) -> Any:
        """Γ(φ) = J·φ - ln ∫ Πdx√N exp(-S + J·x), with the J that makes ⟨x⟩ = φ.

        Γ is the largest value over J: Newton's method in J, whose last step is added to second order.
        """
        n, classical = len(self.fields), self.classical
        center = [_number(v) for v in classical]
        at = {self.large: sp.Integer(N), **dict(zip(self.fields, classical))}
        source = mpmath.matrix([_number(slope.xreplace(at)) for slope in self._slopes])
        hessian, expr = self._hessian(N, classical), sp.expand(self.expr)
        units = [tuple(int(i == j) for j in range(n)) for i in range(n)]
        for precision in (16, 16, 20, digits):
            tilted = expr - sum(_exactly(source[i]) * f for i, f in enumerate(self.fields))
            law = LatticeLaw(self._function(tilted, N), center, hessian, precision)
            excess = mpmath.matrix([law.cumulant([{u: 1}]) - center[i] for i, u in enumerate(units)])
            covariance = mpmath.matrix([[law.cumulant([{u: 1}, {v: 1}]) for v in units] for u in units])
            step = mpmath.lu_solve(covariance, excess)
            gain = mpmath.fsum(excess[i] * step[i] for i in range(n)) / 2
            value = mpmath.fsum(source[i] * center[i] for i in range(n)) - law.log_partition
            source = source - step
        return value + gain - mpmath.mpf(n) / 2 * mpmath.log(N)

    # ----------------------------------------------------------------------------------------- the expansion

    def series(self, quantity: Any, loops: int) -> Series:
        """What the engine says, through the front door."""
        key = (quantity, loops)
        if key not in self._series:
            S = self.action
            if quantity == LOG_PARTITION:
                found = S.log_partition(loops, at=self.at)
            elif quantity == EFFECTIVE_ACTION:
                values = dict(zip(S.fields, self.classical))
                found = S.effective_action(loops).map(lambda term: term.xreplace(values))
            elif isinstance(quantity, tuple):
                found = S.cumulant(*quantity, loops=loops, at=self.at)
            else:
                found = S.expectation(quantity, loops, at=self.at)
            self._series[key] = found
        return self._series[key]

    def power(self, quantity: Any, loops: int) -> int:
        """The first power of 1/N that an L-loop result leaves out."""
        if quantity == LOG_PARTITION:
            return max(loops, 1)
        if quantity == EFFECTIVE_ACTION:
            return loops
        return loops + (len(quantity) if isinstance(quantity, tuple) else 1)

    def terms(self, quantity: Any, loops: int, N: int, digits: int) -> tuple[Any, Any]:
        """The sum of the terms that an L-loop result keeps, and the next one."""
        power = self.power(quantity, loops)
        further = self.series(quantity, max(loops, 1) + 1 if quantity == LOG_PARTITION else loops + 1)
        symbol = hbar if self.action.large is None else self.large
        at = {symbol: sp.Rational(1, N) if self.action.large is None else sp.Integer(N)}
        kept = mpmath.fsum(self.series(quantity, loops).evaluate_terms(at, digits))
        following = Series((further.coefficient(power),), further.parameter, power)
        return kept, mpmath.fsum(following.evaluate_terms(at, digits))

    def compare(self, quantity: Any, loops: int, widths: Sequence[int] = WIDTHS) -> Comparison:
        """The error of an L-loop result beside the next term, at each N."""
        found, expected = [], []
        power = self.power(quantity, loops)
        digits = digits_for(max(power, loops + 4), max(widths))  # the same for all, so that they share a lattice
        for N in widths:
            with mpmath.workdps(digits + 10):
                exact = self.exact(quantity, N, digits)
                kept, following = self.terms(quantity, loops, N, digits + 10)
                found.append(float((exact - kept) * mpmath.mpf(N)**power))
                expected.append(float(following * mpmath.mpf(N)**power))
        return Comparison(quantity_name(quantity), loops, tuple(widths), tuple(found), tuple(expected))


def quantity_name(quantity: Any) -> str:
    if isinstance(quantity, tuple):
        return f"kappa({', '.join(map(str, quantity))})"
    return quantity if isinstance(quantity, str) else f"<{quantity}>"


def checked_quantity(quantity: Any, fields: Iterable[Any]) -> Any:
    """An expression, a tuple of them, "ln Z" or "Gamma"; BadInput for other strings."""
    if isinstance(quantity, str) and quantity not in (LOG_PARTITION, EFFECTIVE_ACTION):
        raise BadInput("observable", quantity, f"an expression in {', '.join(map(str, fields))}, a tuple of them for "
                                               f"their joint cumulant, {LOG_PARTITION!r} or {EFFECTIVE_ACTION!r}")
    if isinstance(quantity, list | tuple):
        return tuple(map(sp.sympify, quantity)) if len(quantity) != 1 else sp.sympify(quantity[0])
    return quantity if isinstance(quantity, str) else sp.sympify(quantity)


def standard_quantities(fields: Sequence[Any]) -> tuple[Any, ...]:
    """ln Z, means, third and fourth cumulants, and up to two fields the effective action."""
    first, last = fields[0], fields[-1]
    found = (LOG_PARTITION, last, first * last, (first, first, last), (first, last, last, first))
    return (*found, EFFECTIVE_ACTION) if len(fields) < 3 else found


def saddle_values(saddle: Any, fields: Sequence[Any]) -> list[Any]:
    if isinstance(saddle, SaddlePoint):
        saddle = saddle.values
    if isinstance(saddle, Mapping):
        by_name = {str(key): value for key, value in saddle.items()}
        if missing := [str(f) for f in fields if str(f) not in by_name]:
            raise BadInput("at", ", ".join(by_name), f"a value for {missing[0]}")
        return [by_name[str(f)] for f in fields]
    return list(saddle) if isinstance(saddle, list | tuple | sp.Tuple) else [saddle]


def _number(value: Any) -> Any:
    """An mpf of the working precision."""
    value = sp.sympify(value)
    if value.is_Rational:
        return mpmath.mpf(int(value.p)) / int(value.q)
    return mpmath.mpmathify(value.evalf(mpmath.mp.dps + 5))


def _exactly(value: Any) -> sp.Rational:
    """An mpf as the rational number that it is."""
    sign, mantissa, exponent, _ = mpmath.mpf(value)._mpf_
    return sp.Rational((-1)**sign * int(mantissa)) * sp.Integer(2)**exponent


# ---------------------------------------------------------------------------------------------- lowest minimum


def lowest_minimum(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> list[sp.Expr]:
    """The lowest minimum that descent finds from many starts: rational where the gradient vanishes there exactly.

    Raises
    ------
    NotConverged
        Where no start leads to a minimum.
    """
    slopes = [sp.diff(expr, f) for f in fields]
    bends = [[sp.diff(s, f) for f in fields] for s in slopes]
    value, gradient, hessian = (sp.lambdify(fields, e, "math") for e in (expr, slopes, bends))
    rng, best = np.random.default_rng(0), None
    for start in [np.zeros(len(fields)), *rng.normal(scale=2.0, size=(24, len(fields)))]:
        u, damping, size = start, 1.0, math.inf
        for _ in range(200):
            g, h = np.array(gradient(*u), dtype=float), np.array(hessian(*u), dtype=float)
            size = float(np.abs(g).max())
            if size < 1e-11:
                break
            shift = np.linalg.solve(h + (damping + max(0.0, -np.linalg.eigvalsh(h)[0])) * np.eye(len(u)), g)
            lower = value(*(u - shift)) <= value(*u)
            u, damping = (u - shift, damping / 8 if damping > 1e-12 else 0.0) if lower else (u, 4 * damping + 1e-9)
        if size < 1e-8 and np.linalg.eigvalsh(h)[0] > 0 and (best is None or value(*u) < value(*best) - 1e-12):
            best = u
    if best is None:
        raise NotConverged("no minimum of the action was found", math.inf)
    exact = [sp.Rational(*float(v).as_integer_ratio()).limit_denominator(10_000) for v in best]
    if all(sp.expand(s.xreplace(dict(zip(fields, exact)))) == 0 for s in slopes):
        return exact
    with mpmath.workdps(80):
        steps = sp.lambdify(fields, slopes, "mpmath")
        found = mpmath.findroot(lambda *u: steps(*u), tuple(map(float, best)), tol=mpmath.mpf(10)**-120)
        return [sp.Float(v, 70) for v in found]


# -------------------------------------------------------------------------------------- a derivation's last step


def expansion_check(action: Action, loops: int, quantities: Sequence[Any], at: Any) -> Check:
    """The check of an L-loop result, at random numbers for the parameters."""
    def check(rng: Generator) -> list[CheckResult]:
        expansion, values = drawn(action, at, rng)
        inserted = [tuple(o.xreplace(values) for o in q) if isinstance(q, tuple)
                    else q if isinstance(q, str) else q.xreplace(values) for q in quantities]
        results = []
        for quantity, name in zip(inserted, map(quantity_name, quantities)):
            comparison = expansion.compare(quantity, loops)
            results.append(CheckResult(f"{name}, {loops} loops", comparison.error, TOLERANCE, comparison.message))
        return results

    return check


def drawn(action: Action, at: Any, rng: Generator) -> tuple[ActionExpansion, dict[sp.Symbol, sp.Rational]]:
    """The action with random rational numbers for its parameters, such that it has a stable saddle."""
    symbols = sorted(action.expr.free_symbols - {*action.fields, action.large}, key=sp.default_sort_key)
    refusal: Exception | None = None
    for attempt in range(16 if symbols else 1):
        values = {}
        for symbol in symbols:
            size = sp.Rational(int(rng.integers(5, 24)), 16)
            if symbol.is_integer:
                size = sp.Integer(int(rng.integers(1, 4)))
            elif not symbol.is_nonnegative:  # what may be odd in a field must not win over what is even
                size = size * (-1)**int(rng.integers(2)) / 2**(attempt // 2)
            values[symbol] = -abs(size) if symbol.is_negative else size
        point = None if at is None else [sp.sympify(v).xreplace(values) for v in saddle_values(at, action.fields)]
        try:
            numbers = Action(action.expr.xreplace(values), action.fields, large=action.large)
            expansion = ActionExpansion(numbers, point)
            expansion.law(WIDTHS[0], 10)
            numbers.log_partition(1, at=expansion.at)
            return expansion, values
        except FieldTheoryError as error:
            if not symbols:
                raise
            refusal = error
    raise RuleError(f"no numbers for {', '.join(map(str, symbols))} gave a stable action: {refusal}")


def expansion_derivation(action: Action, loops: int, quantities: Sequence[Any] | None = None,
                         at: Any = None) -> Derivation:
    """The steps that led to an action and its L-loop expansion, which verifies itself; :meth:`Action.derivation`."""
    if any(getattr(field, "spaces", ()) for field in action.fields):
        raise RuleError("loop expansions are verified for scalar fields; write a field over a space out, with one "
                        "scalar for each point")
    chosen = tuple(checked_quantity(q, action.fields) for q in
                   (standard_quantities(action.fields) if quantities is None else quantities))
    series: dict[str, Series] = {}
    for quantity in chosen:
        name = quantity_name(quantity)
        if quantity == LOG_PARTITION:
            series[name] = action.log_partition(loops, at=at)
        elif quantity == EFFECTIVE_ACTION:
            series[name] = action.effective_action(loops)
        elif isinstance(quantity, tuple):
            series[name] = action.cumulant(*quantity, loops=loops, at=at)
        else:
            series[name] = action.expectation(quantity, loops, at=at)
    large = hbar if action.large is None else 1 / action.large
    step = Step("expand", action.value, action.value, lambda observable: observable,
                details={"loops": sp.Integer(loops)}, remainder=large**max(loops, 1),
                description=f"the loop expansion about the saddle, through {loops} loops",
                check=expansion_check(action, loops, chosen, at))
    results = {name: found.as_expr() for name, found in series.items()}
    return Derivation("Loop expansion", f"$S = {latex(action.expr)}$", (*action.steps, step), results=results)


__all__ = ["ActionExpansion", "Comparison", "EFFECTIVE_ACTION", "LOG_PARTITION", "WIDTHS", "expansion_derivation"]
