r"""Gaussian averages of functions in closed form, where there is one, by rules and not from a table.

Every function that the rules know is a sum of terms

    (polynomial) · exp(quadratic polynomial) · Π_k s_k(ℓ_k),   s = sign or erf, ℓ_k affine in the variables,

since |x| = x sign x, max(x, y) = (x + y + |x - y|)/2, the step is (1 + sign x)/2, and sin x is a sum of exponentials.
The exponential tilts the law to another Gaussian; Stein's lemma E[x_i G] = m_i E[G] + Σ_j Σ_ij E[∂_j G] takes the
polynomial off, and a delta function that it leaves conditions the law; Price's theorem does two odd functions of zero
mean: the derivative of E[s_1(x) s_2(y)] by the covariance c is E[s_1' s_2'], which is k/√(A - B c²), and the integral
from c = 0, where E factorises, is an arcsine.  What is left over (tanh, three steps with thresholds) stays an
unevaluated :class:`GaussianAverage`.  Price 1958; Stein 1981; the rest derived here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import sympy as sp
from sympy.core.relational import Relational

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.fields import distribute


class NoClosedForm(RuleError):
    """The rules do not reach this average; the message says what stands in the way."""


class GaussianAverage(sp.Expr):
    """⟨body⟩ over Gaussian variables of mean zero: args (body, variables, covariance), the variables bound.

    ``doit()`` is the closed form, or the node itself where the rules find none.
    """

    is_commutative = True

    def __new__(cls, body: Any, variables: Iterable[sp.Symbol], covariance: Any) -> GaussianAverage:
        bound, covariance = sp.Tuple(*variables), sp.ImmutableMatrix(covariance)
        count = len(bound)
        if covariance.shape != (count, count) or covariance != covariance.T:
            raise BadInput("covariance", covariance, f"a symmetric matrix over {count} variables")
        return super().__new__(cls, sp.sympify(body), bound, covariance)  # type: ignore[no-any-return]

    @property
    def body(self) -> sp.Expr:
        return self.args[0]  # type: ignore[return-value]

    @property
    def variables(self) -> tuple[sp.Symbol, ...]:
        return tuple(self.args[1])  # type: ignore[arg-type]

    @property
    def covariance(self) -> sp.ImmutableMatrix:
        return self.args[2]

    @property
    def free_symbols(self) -> set[sp.Basic]:
        return (self.body.free_symbols - set(self.variables)) | self.covariance.free_symbols

    def _eval_is_extended_real(self) -> bool | None:
        return self.body.is_extended_real

    _eval_is_real = _eval_is_extended_real

    def doit(self, **hints: Any) -> sp.Expr:
        try:
            return closed_form(self.body, self.variables, self.covariance)
        except NoClosedForm:
            return self

    def _latex(self, printer: Any) -> str:
        names = ", ".join(printer._print(v) for v in self.variables)
        return rf"\left\langle {printer._print(self.body)} \right\rangle_{{{names}}}"

    def _sympystr(self, printer: Any) -> str:
        return f"<{printer._print(self.body)}>_({', '.join(map(str, self.variables))})"


def average(body: Any, variables: Iterable[sp.Symbol], covariance: Any) -> sp.Expr:
    """⟨body⟩ over (variables) ~ N(0, covariance): its closed form, else the node :class:`GaussianAverage`."""
    return GaussianAverage(body, variables, covariance).doit()


def closed_form(body: Any, variables: Sequence[sp.Symbol], covariance: Any) -> sp.Expr:
    """⟨body⟩ over (variables) ~ N(0, covariance).

    Validity: a covariance that is positive definite, or degenerate in a way that the result stays finite.

    Raises
    ------
    NoClosedForm
        Where the rules of this module do not reach; the message says what is in the way.
    """
    x, law = tuple(variables), _Law(sp.zeros(len(variables), 1), sp.Matrix(covariance))
    total = sp.Add(*(_expectation(term, x, law) for term in _terms(elementary(sp.sympify(body)), x)))
    return _collected(total)


def hermite_coefficient(function: sp.Expr, variable: sp.Symbol, order: int, variance: sp.Expr = sp.S.One) -> sp.Expr:
    r"""c_n = E[φ(u) he_n(u/σ)] with u ~ N(0, σ²) and he_n the normalised Hermite polynomial, E he_n² = 1.

    So E[φ(u) ψ(v)] = Σ_n c_n d_n ρⁿ at correlation ρ (Mehler), and E φ² = Σ_n c_n².
    """
    if not isinstance(order, int) or order < 0:
        raise BadInput("order", order, "an integer that is zero or more")
    t = sp.Dummy("t")
    exponential = sp.Poly(sp.series(sp.exp(variable * t - t**2 / 2), t, 0, order + 1).removeO(), t)
    polynomial = sp.sqrt(sp.factorial(order)) * exponential.coeff_monomial(t**order)
    return average(function * polynomial.xreplace({variable: variable / sp.sqrt(variance)}), [variable], [[variance]])


# ------------------------------------------------------------------------------------------------ normal form


def elementary(expr: sp.Expr) -> sp.Expr:
    """The same function in polynomials, exponentials, sign and erf: |x| = x sign x, cos x = (e^{ix} + e^{-ix})/2, …"""
    if not expr.args:
        return expr
    args = [elementary(arg) if isinstance(arg, sp.Expr) else arg for arg in expr.args]
    if isinstance(expr, sp.Piecewise):
        return _pieces(expr)
    if isinstance(expr, sp.Abs):
        return args[0] * _sign(args[0])
    if isinstance(expr, sp.Max | sp.Min):
        side = 1 if isinstance(expr, sp.Max) else -1
        ordered = sorted(args, key=sp.default_sort_key)
        return reduce(lambda a, b: (a + b + side * (a - b) * _sign(a - b)) / 2, ordered)
    if isinstance(expr, sp.Heaviside):
        return (1 + _sign(args[0])) / 2
    if isinstance(expr, sp.sign):
        return _sign(args[0])
    if isinstance(expr, sp.erfc):
        return 1 - sp.erf(args[0])
    if isinstance(expr, sp.sin | sp.cos | sp.sinh | sp.cosh):
        return expr.func(*args).rewrite(sp.exp)
    return expr.func(*args)


def _sign(x: sp.Expr) -> sp.Expr:
    """sign x, a positive number or symbol in front dropped and a product split: sign(2x) = sign x."""
    x = sp.expand(x)
    if x.is_Mul:
        return sp.Mul(*(_sign(factor) for factor in x.args))
    if x.is_Pow and x.exp.is_Integer:
        return _sign(x.base)**x.exp
    if x.is_Add and x.as_coefficients_dict() and x.could_extract_minus_sign():
        return -_sign(-x)
    return sp.sign(x)


def _pieces(expr: sp.Piecewise) -> sp.Expr:
    total, left = sp.S.Zero, sp.S.One
    for value, condition in expr.args:
        if condition == sp.true:
            return total + left * elementary(value)
        if not isinstance(condition, Relational) or isinstance(condition, sp.Eq | sp.Ne):
            raise NoClosedForm(f"the condition {condition} of a piece is no inequality")
        difference = condition.gts - condition.lts
        holds = (1 + _sign(difference)) / 2
        total, left = total + left * holds * elementary(value), left * (1 - holds)
    return total


@dataclass(frozen=True)
class _Term:
    """constant · polynomial · exp(exponent) · Π step(affine) · Π δ(affine)."""

    constant: sp.Expr
    polynomial: sp.Expr = sp.S.One
    exponent: sp.Expr = sp.S.Zero
    steps: tuple[tuple[Any, sp.Expr], ...] = ()
    deltas: tuple[sp.Expr, ...] = ()


@dataclass(frozen=True)
class _Law:
    mean: sp.Matrix
    covariance: sp.Matrix

    def of(self, affine: sp.Expr, x: tuple[sp.Symbol, ...]) -> tuple[sp.Expr, sp.Expr, sp.Matrix]:
        """Mean, variance, and covariance with the variables, of α·x + γ."""
        alpha = sp.Matrix([sp.diff(affine, v) for v in x])
        mean = affine.xreplace(dict(zip(x, self.mean)))
        with_x = self.covariance * alpha
        return sp.expand(mean), sp.factor(sp.expand((alpha.T * with_x)[0])), with_x


def _degree(expr: sp.Expr, x: Sequence[sp.Symbol]) -> int | None:
    """The total degree of a polynomial in the variables, None for anything else."""
    if not expr.is_polynomial(*x):
        return None
    return int(sp.Poly(expr, *x).total_degree())


def _terms(expr: sp.Expr, x: tuple[sp.Symbol, ...]) -> list[_Term]:
    """The terms of an elementary function, multiplied out."""
    found = []
    for addend in sp.Add.make_args(sp.expand(expr, power_exp=False)):
        term = _Term(sp.S.One)
        for factor in sp.Mul.make_args(addend):
            term = _absorb(term, factor, x)
        found.append(term)
    return found


def _absorb(term: _Term, factor: sp.Expr, x: tuple[sp.Symbol, ...]) -> _Term:
    if not factor.free_symbols & set(x):
        return replace(term, constant=term.constant * factor)
    base, power = (factor, sp.S.One) if isinstance(factor, sp.exp) else factor.as_base_exp()
    if isinstance(factor, sp.exp) or (isinstance(base, sp.exp) and power.is_Integer):
        exponent = sp.expand(power * base.args[0])
        if (degree := _degree(exponent, x)) is None or degree > 2:
            raise NoClosedForm(f"exp({exponent}) is no exponential of a quadratic polynomial")
        return replace(term, exponent=term.exponent + exponent)
    if not power.is_Integer or power < 0:
        raise NoClosedForm(f"{factor} is no whole power")
    if isinstance(base, sp.sign | sp.erf | sp.DiracDelta):
        affine = sp.expand(base.args[0])
        if (degree := _degree(affine, x)) is None or degree > 1 or len(base.args) > 1:
            raise NoClosedForm(f"{base} has an argument that is not affine")
        if isinstance(base, sp.DiracDelta):
            return replace(term, deltas=term.deltas + (affine,) * int(power))
        times = int(power) % 2 if isinstance(base, sp.sign) else int(power)
        return replace(term, steps=term.steps + ((base.func, affine),) * times)
    if _degree(base, x) is None:
        raise NoClosedForm(f"no rule averages {base}")
    return replace(term, polynomial=term.polynomial * factor)


# ------------------------------------------------------------------------------------------------ the rules


def _root(expr: sp.Expr) -> sp.Expr:
    """√expr with what is a square taken out, so that nothing cancels at correlation ±1."""
    return sp.sqrt(sp.factor(expr))


def _collected(total: sp.Expr) -> sp.Expr:
    """One term for each product of roots and transcendental functions, its rational coefficient factored.

    A radicand that divides the coefficient goes into the root: b/√b would be 0/0 at correlation ±1.
    """
    coefficients: dict[sp.Expr, sp.Expr] = {}
    for term in sp.Add.make_args(distribute(total)):
        rational = sp.Mul(*(f for f in sp.Mul.make_args(term) if f.is_rational_function(*f.free_symbols)))
        rest = term / rational if rational != 0 else sp.S.One
        coefficients[rest] = coefficients.get(rest, sp.S.Zero) + rational
    found = []
    for rest, coefficient in coefficients.items():
        for root in [f for f in sp.Mul.make_args(rest) if f.is_Pow and f.exp == -sp.S.Half and f.base.free_symbols]:
            quotient = sp.cancel(coefficient / root.base)
            if sp.fraction(quotient)[1].free_symbols <= sp.fraction(sp.cancel(coefficient))[1].free_symbols:
                coefficient, rest = quotient, rest / root * sp.sqrt(root.base)
        found.append(sp.factor(coefficient) * rest)
    return sp.Add(*found)


def _expectation(term: _Term, x: tuple[sp.Symbol, ...], law: _Law) -> sp.Expr:
    if term.constant == 0:
        return sp.S.Zero
    if term.exponent != 0:
        return _tilted(term, x, law)
    if term.deltas:
        return _conditioned(term, x, law)
    polynomial = sp.Poly(term.polynomial, *x)
    total = []
    for powers, coefficient in polynomial.terms():
        monomial = replace(term, constant=term.constant * coefficient, polynomial=sp.S.One)
        if sum(powers) == 0:
            total.append(monomial.constant * _of_steps(monomial.steps, x, law))
        else:
            total.append(_stein(monomial, list(powers), x, law))
    return sp.Add(*total)


def _tilted(term: _Term, x: tuple[sp.Symbol, ...], law: _Law) -> sp.Expr:
    """exp(½xᵀAx + bᵀx + k): the Gaussian of covariance (1 - ΣA)⁻¹Σ, and a factor det(1 - ΣA)^{-1/2} exp(…)."""
    at = dict(zip(x, law.mean))
    gradient = sp.Matrix([sp.diff(term.exponent, v) for v in x])
    A = sp.hessian(term.exponent, x)
    if any(A) and (-A).is_positive_semidefinite is not True:
        raise NoClosedForm(f"exp({term.exponent}) grows, and its average may not exist")
    if term.steps and term.exponent.has(sp.I):
        raise NoClosedForm("a step function times a sine or cosine")
    b = gradient.xreplace(at)
    core = (sp.eye(len(x)) - law.covariance * A)
    determinant = sp.factor(core.det())
    covariance = (core.adjugate() * law.covariance / determinant).applyfunc(sp.factor)
    shift = covariance * b
    factor = sp.exp(sp.expand(term.exponent.xreplace(at)) + sp.factor(sp.expand((b.T * shift)[0])) / 2)
    tilted = _Law((law.mean + shift).applyfunc(sp.factor), covariance)
    rest = replace(term, constant=term.constant * factor / _root(determinant), exponent=sp.S.Zero)
    return _expectation(rest, x, tilted)


def _conditioned(term: _Term, x: tuple[sp.Symbol, ...], law: _Law) -> sp.Expr:
    """δ(ℓ): the density of ℓ at zero times the average over the law conditioned on ℓ = 0."""
    first, *others = term.deltas
    mean, variance, with_x = law.of(first, x)
    if variance == 0:
        raise NoClosedForm(f"delta({first}) of a variable that does not vary")
    density = sp.exp(-mean**2 / (2 * variance)) / _root(2 * sp.pi * variance)
    conditional = _Law((law.mean - with_x * mean / variance).applyfunc(sp.factor),
                       (law.covariance - with_x * with_x.T / variance).applyfunc(sp.factor))
    return _expectation(replace(term, constant=term.constant * density, deltas=tuple(others)), x, conditional)


def _stein(term: _Term, powers: list[int], x: tuple[sp.Symbol, ...], law: _Law) -> sp.Expr:
    """E[x_i G] = m_i E[G] + Σ_j Σ_ij E[∂_j G]."""
    i = next(k for k, power in enumerate(powers) if power)
    powers = powers.copy()
    powers[i] -= 1
    rest = replace(term, polynomial=sp.Mul(*(v**n for v, n in zip(x, powers))))
    total = [law.mean[i] * _expectation(rest, x, law)] if law.mean[i] != 0 else []
    for j, v in enumerate(x):
        covariance = law.covariance[i, j]
        if covariance == 0:
            continue
        derivatives = [replace(rest, constant=rest.constant * powers[j], polynomial=rest.polynomial / v)] \
            if powers[j] else []
        derivatives += [_differentiated(rest, k, v) for k in range(len(rest.steps))]
        total += [covariance * _expectation(derivative, x, law) for derivative in derivatives]
    return sp.Add(*total)


def _differentiated(term: _Term, k: int, variable: sp.Symbol) -> _Term:
    """The term with its k-th step differentiated: sign' = 2δ, erf' = (2/√π) e^{-ℓ²}."""
    kind, affine = term.steps[k]
    slope = sp.diff(affine, variable)
    others = term.steps[:k] + term.steps[k + 1:]
    constant = 2 * slope * term.constant
    if kind is sp.sign:
        return replace(term, constant=constant, steps=others, deltas=(*term.deltas, affine))
    return replace(term, constant=constant / sp.sqrt(sp.pi), steps=others,
                   exponent=sp.expand(term.exponent - affine**2))


def _of_steps(steps: tuple[tuple[Any, sp.Expr], ...], x: tuple[sp.Symbol, ...], law: _Law) -> sp.Expr:
    """E[Π s_k(ℓ_k)] of odd functions s_k."""
    constant, kept = sp.S.One, []
    for kind, affine in steps:
        mean, variance, with_x = law.of(affine, x)
        if variance == 0:
            constant *= kind(mean)
        else:
            kept.append((kind, affine, mean, variance, with_x))
    if constant == 0 or not kept:
        return constant
    if any(mean.has(sp.I) for _, _, mean, _, _ in kept):
        raise NoClosedForm("a step function times a sine or cosine")
    if len(kept) == 1:
        ((kind, _, mean, variance, _),) = kept
        return constant * sp.erf(mean / _root(2 * variance if kind is sp.sign else 1 + 2 * variance))
    if all(mean == 0 for _, _, mean, _, _ in kept):
        if len(kept) % 2:
            return sp.S.Zero
        if len(kept) == 2:
            return constant * _price(kept, x)
    raise NoClosedForm(f"a product of {len(kept)} step functions, with thresholds or more than two")


def _price(kept: list[Any], x: tuple[sp.Symbol, ...]) -> sp.Expr:
    """Two odd functions of zero mean: ∫_0^c dc' E[s_1' s_2'] at covariance c'."""
    (first, _, _, variance, with_x), (second, affine, _, other, _) = kept
    alpha = sp.Matrix([sp.diff(affine, v) for v in x])
    covariance = sp.factor(sp.expand((alpha.T * with_x)[0]))
    if covariance == 0:
        return sp.S.Zero
    u, v, t = sp.Dummy("u", real=True), sp.Dummy("v", real=True), sp.Dummy("t", positive=True)
    law = _Law(sp.zeros(2, 1), sp.Matrix([[variance, t * covariance], [t * covariance, other]]))
    slopes = _differentiated(_differentiated(_Term(sp.S.One, steps=((first, u), (second, v))), 0, u), 0, v)
    density = _expectation(slopes, (u, v), law)
    radicand = sp.Poly(sp.expand(sp.cancel(density**-2)), t)
    constant, quadratic = radicand.coeff_monomial(1), radicand.coeff_monomial(t**2)
    ratio = sp.cancel(-quadratic / covariance**2)
    if sp.expand(radicand.as_expr() - constant - quadratic * t**2) != 0 or not ratio.is_positive:
        raise NoClosedForm(f"the integral of {density} over the covariance")
    kappa = sp.sqrt(ratio)
    return sp.asin(kappa * covariance / _root(constant)) / kappa


__all__ = ["GaussianAverage", "NoClosedForm", "average", "closed_form", "elementary", "hermite_coefficient"]
