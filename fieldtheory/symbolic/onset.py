r"""Where a neuron specialises: the onset of feature learning at large input dimension, from the action of one site.

The lazy solution has m ≈ 0 and weights spread over all D inputs, |w|² = D/precision.  A specialised neuron has
w = ω(±1, …, ±1) on the k inputs of the parity and an isotropic rest of norm² kω² t.  With R = |w|²:

- the overlap is J = R^{p/2} j(t) for an activation with φ(xh) = x^p φ(h), a signed binomial sum of the activation
  averaged over the Gaussian pre-activation of the rest;
- a rest of D - k inputs with norm² R t/(1+t) has the entropy (D/2) ln of it, to leading order in D.

So the action of a neuron is  precision R/2 - (D/2) ln R + (D/2) ln(1 + 1/t) - G(R) j²(t), with the gain G read from
the action of one site at m = 0.  G has a sum in its denominator; which term dominates is a *branch*, found by dominant
balance, with the condition on the width under which it holds.  In each branch:

- where G does not depend on R (saturated), R stays at its lazy value, and both states weigh the same when the cost
  (D/2) ln(1 + 1/t) equals the gain: a Maxwell construction, maximised over t;
- where G is proportional to R (unsaturated), both are linear in R, and the lazy state is stable until the coefficient
  of R vanishes for some t: an instability.

With precisions of their own for the k inputs (relevance determination) the cost of the relevant weights is
relevance · kω²/2 in place of the entropy: no power of D.  Derived here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mpmath
import sympy as sp
from sympy.concrete.gosper import gosper_sum

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.averages import NoClosedForm, closed_form
from fieldtheory.symbolic.counting import balance

SIZE, RATIO = sp.Symbol("R", positive=True), sp.Symbol("t", positive=True)
"""|w|², and the rest's share of it over that of the relevant inputs."""
OVERLAP = sp.Symbol("j", positive=True)
"""j(t), the overlap at |w| = 1."""
LOGARITHM = sp.Symbol("L", positive=True)
"""ln(1 + 1/t)."""
RELEVANCE = sp.Symbol("r", positive=True)
"""The precision of the relevant weights, where it is not that of all."""
HALF_ORDER = sp.Symbol("n", integer=True, positive=True)


@dataclass(frozen=True)
class Branch:
    """One dominant balance of the gain.

    ``threshold`` is the noise s/P of the onset as an expression in j² (at the best t), L = ln(1 + 1/t) and parameters;
    ``objective`` what is maximised over t; ``exponent`` the power of D in it where N ~ D^nu, under ``condition``.
    """

    name: str
    gain: sp.Expr
    threshold: sp.Expr
    objective: sp.Expr
    exponent: sp.Expr
    condition: tuple[sp.Rel, ...]

    @property
    def assumptions(self) -> str:
        kind = ("the specialised and the lazy state weigh the same, at fixed |w|" if self.name == "saturated" else
                "the curvature of the lazy state vanishes along a specialised direction: |w| grows until it saturates")
        where = " and ".join(sp.sstr(c) for c in self.condition) or "always"
        return f"D large at fixed k, equal weights on the relevant inputs, m = 0; N ~ D**nu with {where}; {kind}"


class Onset:
    """The onset for parities of ``order`` k on the hypercube.

    Parameters
    ----------
    tilt : what the action of one site adds to its prior at m = 0, in the symbols ``overlap`` (J) and ``size`` (|w|²).
    noise : the symbol of the noise; other symbols are parameters.
    precision : that of a weight under the prior, D/σ_w².
    activation, variable : φ as a function of the pre-activation.

    Raises
    ------
    RuleError
        For an activation without a power law, or a gain that is not a monomial of |w| in a branch.
    """

    def __init__(self, tilt: sp.Expr, overlap: sp.Symbol, size: sp.Symbol, noise: sp.Symbol, precision: sp.Expr,
                 dimension: sp.Symbol, activation: sp.Expr, variable: sp.Symbol, order: int, degree: sp.Expr) -> None:
        self.noise, self.precision, self.dimension = noise, precision, dimension
        self.activation, self.variable, self.order, self.degree = activation, variable, order, degree
        reduced = sp.expand(tilt.xreplace({overlap: SIZE**(degree / 2) * OVERLAP, size: SIZE}))
        extra = reduced.free_symbols & {overlap, size}
        gain = -reduced.coeff(OVERLAP, 2)
        if extra or gain == 0 or sp.expand(sp.diff(reduced, OVERLAP, 3)) != 0:
            raise RuleError("the action of one site is not quadratic in the overlap")
        self.gain = sp.factor(gain)

    # ---------------------------------------------------------------------------------------------- branches

    def branches(self, exponents: Mapping[sp.Symbol, Any] | None = None, *,
                 relevance: bool = False) -> dict[str, Branch]:
        """The dominant balances of cost and gain, by name.

        ``exponents`` are those of the parameters in powers of D; by default N ~ D**nu and all else fixed.  With
        ``relevance`` the relevant inputs have a precision r of their own.
        """
        D, s = self.dimension, self.noise
        nu = sp.Symbol("nu", real=True)
        known: dict[Any, Any] = {symbol: 0 for symbol in self.gain.free_symbols | self.precision.free_symbols
                                 | {SIZE, OVERLAP, LOGARITHM, RELEVANCE, RATIO}}
        known |= {symbol: nu for symbol in known if getattr(symbol, "name", "") == "N"}
        known |= {D: 1, **(exponents or {})}
        known.pop(s, None)
        found = {}
        _, denominator = sp.fraction(sp.together(self.gain))
        sums = [f for f in sp.Mul.make_args(sp.factor(denominator)) if f.is_Add]
        for term in (sums[0].args if len(sums) == 1 else (None,)):
            gain = self.gain if term is None else sp.factor(self.gain.xreplace({sums[0]: term}))
            if gain == self.gain and term is not None:
                gain = sp.factor(sp.fraction(sp.factor(self.gain))[0] / (denominator / sums[0] * term))
            branch = self._branch(gain, relevance)
            dropped = None if term is None else sums[0] - term
            exponent, conditions = self._scale(branch[3], dropped, term, known)
            found[branch[0]] = Branch(branch[0], gain, branch[1], branch[2], exponent, conditions)
        return dict(sorted(found.items()))

    def _branch(self, gain: sp.Expr, relevance: bool) -> tuple[str, sp.Expr, sp.Expr, sp.Expr]:
        """(name, threshold, objective, cost - gain) for one form of the gain."""
        D, s = self.dimension, self.noise
        if not gain.has(SIZE):
            name = "saturated"
            cost = D * LOGARITHM / 2
            if relevance:  # the rest keeps its lazy norm² D/precision = R t/(1+t); kω² is that over t
                cost = RELEVANCE * D / self.precision / RATIO / 2
        elif not (gain / SIZE).has(SIZE):
            name = "unsaturated"
            cost = (RELEVANCE if relevance else self.precision) * SIZE / 2
        else:
            raise RuleError(f"the gain {gain} is neither free of |w|² nor proportional to it")
        difference = cost - gain * OVERLAP**2
        positive = [root for root in sp.solve(difference, s) if root.is_positive]
        if len(positive) != 1:
            raise RuleError(f"{difference} has {len(positive)} positive roots in {s}")
        threshold = sp.simplify(positive[0])
        objective = sp.Mul(*(f for f in sp.Mul.make_args(sp.powdenest(threshold, force=True))
                             if f.free_symbols & {OVERLAP, LOGARITHM, RATIO}))
        return name, threshold, objective, difference

    def _scale(self, difference: sp.Expr, dropped: sp.Expr | None, kept: sp.Expr | None,
               known: Mapping[Any, Any]) -> tuple[sp.Expr, tuple[sp.Rel, ...]]:
        """The exponent of the noise, and when the term kept in the denominator is the larger one."""
        chambers = balance([difference], [self.noise], known)
        if len(chambers) != 1:
            raise RuleError(f"{difference} balances in {len(chambers)} ways")
        (chamber,) = chambers
        exponent = chamber.exponents[self.noise]
        conditions = list(chamber.conditions)
        if dropped is not None and kept is not None:
            ratio = sp.factor(kept / dropped)
            powers = [(base, power) for base, power in ratio.as_powers_dict().items()]
            scale = sp.expand(sp.Add(*(power * (exponent if base == self.noise else sp.sympify(known.get(base, 0)))
                                       for base, power in powers)))
            conditions.append(sp.Ge(scale, 0) if scale.free_symbols else sp.true if scale >= 0 else sp.false)
        return exponent, tuple(_solved(c) for c in conditions if c != sp.true)

    # --------------------------------------------------------------------------------------------- overlaps

    @cached_property
    def smoothed(self) -> sp.Expr:
        """E_z φ(u + ρz), z ~ N(0, 1): what the activation is, averaged over the rest."""
        z, rho = sp.Dummy("z", real=True), sp.Symbol("rho", positive=True)
        try:
            return closed_form(self.activation.xreplace({self.variable: self.variable + rho * z}), [z], [[sp.S.One]])
        except NoClosedForm:
            raise RuleError(f"the average of {self.activation} over the rest has no closed form") from None

    def overlap(self, order: int | None = None) -> sp.Expr:
        """J on w = (±1 on k inputs) with a rest of norm ρ = √(kt), over |w|^p: the function j(t)."""
        k, rho = order or self.order, sp.Symbol("rho", positive=True)
        u = self.variable
        total = sp.Add(*((-1)**i * sp.binomial(k, i) * self.smoothed.xreplace({u: sp.Integer(k - 2 * i)})
                         for i in range(k + 1)))
        return total.xreplace({rho: sp.sqrt(k * RATIO)}) / 2**k / (k * (1 + RATIO))**(self.degree / 2)

    def aligned(self) -> sp.Expr:
        """c_k = E[φ(Σ x_i) Π x_i] over k = 2n signs as a closed form in n, by Gosper's algorithm.

        Raises
        ------
        RuleError
            If φ is not a polynomial on either side of zero, or the sum has no closed form.
        """
        i, n, p = sp.Symbol("i", integer=True), HALF_ORDER, sp.Dummy("p", positive=True)
        sides = sp.expand(sum(self.activation.xreplace({self.variable: h}) for h in (p, -p)))
        if not sides.is_polynomial(p):
            raise RuleError(f"{self.activation} is no polynomial on either side of zero")
        term = (-1)**i * sp.binomial(2 * n, i) * sides.xreplace({p: 2 * n - 2 * i})
        total = gosper_sum(term, (i, 0, n - 1))
        if total is None:
            raise RuleError(f"the sum of {term} has no closed form")
        middle = (-1)**n * sp.binomial(2 * n, n) * self.activation.xreplace({self.variable: sp.S.Zero})
        return sp.simplify((total + middle) / 4**n)

    def aligned_exponent(self) -> sp.Expr:
        """The power of k in j²(0) = c_k²/k^p, from the ratio of successive terms: n (ratio - 1) → exponent."""
        c = self.aligned()**2 / HALF_ORDER**self.degree
        ratio = sp.combsimp(sp.gammasimp((c.xreplace({HALF_ORDER: HALF_ORDER + 1}) / c).rewrite(sp.gamma)))
        return sp.limit(sp.simplify(HALF_ORDER * (ratio - 1)), HALF_ORDER, sp.oo)

    # ---------------------------------------------------------------------------------------------- numbers

    def maximum(self, branch: Branch, order: int | None = None, digits: int = 15) -> tuple[Any, Any]:
        """(the largest objective over t, the t where it is): t = 0 where the rest is empty."""
        k = order or self.order
        if k % 2 and self.degree == 1:
            raise BadInput("order", k, "an order that the activation can see")
        with mpmath.workdps(digits + 10 + k // 2):
            j = sp.lambdify(RATIO, self.overlap(k), "mpmath")
            value = sp.lambdify((OVERLAP, LOGARITHM, RATIO), branch.objective, "mpmath")

            def at(x: Any) -> Any:
                t = mpmath.exp(x)
                return value(abs(j(t)), mpmath.log1p(1 / t), t)

            grid = [mpmath.mpf(x) / 4 for x in range(-60, 25)]
            heights = [at(x) for x in grid]
            best = max(range(len(grid)), key=heights.__getitem__)
            if best == 0:
                return value(abs(_empty(self, k)), mpmath.inf, mpmath.mpf(0)) if not branch.objective.has(
                    LOGARITHM, RATIO) else heights[0], mpmath.mpf(0)
            low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
            golden = (mpmath.sqrt(5) - 1) / 2
            while high - low > mpmath.mpf(10)**(-digits // 2 - 1):
                a, b = high - golden * (high - low), low + golden * (high - low)
                low, high = (low, b) if at(a) > at(b) else (a, high)
            x = (low + high) / 2
            return at(x), mpmath.exp(x)

    def critical(self, branch: Branch, order: int | None = None, **values: float) -> Any:
        """κ_c = √(s/P) in numbers: parameters by name."""
        peak, _ = self.maximum(branch, order)
        prefactor = sp.simplify(branch.threshold / branch.objective)
        number = sp.N(prefactor.subs({s: values[s.name] for s in prefactor.free_symbols}), 30)  # type: ignore[attr-defined]
        return mpmath.sqrt(mpmath.mpf(number) * peak)

    def local_exponent(self, branch: Branch, order: int) -> Any:
        """d ln κ_c/d ln k between k and k + 2, everything but k fixed."""
        ends = [self.maximum(branch, k)[0] for k in (order, order + 2)]
        return mpmath.log(ends[1] / ends[0]) / mpmath.log(mpmath.mpf(order + 2) / order) / 2


def _empty(onset: Onset, k: int) -> Any:
    """j(0), the rest being empty."""
    total = sum((-1)**i * sp.binomial(k, i) * onset.activation.xreplace({onset.variable: sp.Integer(k - 2 * i)})
                for i in range(k + 1))
    return mpmath.mpf(sp.N(total / sp.Integer(2)**k, mpmath.mp.dps)) / mpmath.mpf(k)**(float(onset.degree) / 2)


def _solved(relation: sp.Rel) -> sp.Rel:
    """An inequality in one symbol solved for it, if that is possible."""
    symbols = sorted(relation.free_symbols, key=lambda symbol: symbol.name)  # type: ignore[attr-defined]
    if len(symbols) != 1:
        return relation
    found = sp.solve(relation, symbols[0])
    parts = [c for c in sp.And.make_args(found) if not c.has(sp.oo)] if isinstance(found, sp.And | sp.Rel) else []
    return parts[0] if len(parts) == 1 else relation


__all__ = ["Branch", "Onset"]
