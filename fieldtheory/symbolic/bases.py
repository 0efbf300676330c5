r"""The population limit: sums over samples become averages over the law of the inputs, in an orthonormal basis.

With an orthonormal basis e_k of functions of the inputs, E[e_k e_l] = δ_kl, every function has components
u_k = E[u e_k], and for many samples

    Σ_μ u(x_μ) v(x_μ) → P E[u v] = P Σ_k u_k v_k.

:func:`project` is this replacement: what was a vector over samples (targets, outputs, features) becomes a vector over
modes.  It is exact where the samples are every input once.  :func:`complete` sums products of two features over the
complete basis back into an average, E[φ²] = Σ_k J_k²; :func:`restrict` keeps the modes that the target has.

The two laws: x uniform on {-1, +1}^D with the Walsh functions χ_S = Π_{i∈S} x_i, and x ~ N(0, 1) with products of
normalised Hermite polynomials.  Both are even and have E x xᵀ = 1; what an activation can see of a mode follows from
that (:func:`obstruction`).  Derived here; the population theory is that of Göring et al. 2025 (arXiv 2510.15174).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp
from sympy.core.symbol import Str

from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.symbolic.averages import NoClosedForm, closed_form, elementary, hermite_coefficient
from fieldtheory.symbolic.fields import (
    Entry,
    PositiveFunctional,
    Space,
    SpaceSum,
    depends_on,
    distribute,
    map_sums,
    open_spaces,
    tidy,
)
from fieldtheory.symbolic.harmonics import cosine_moment, harmonics
from fieldtheory.symbolic.rules import FieldAction, Step, names_in, tex

SAMPLING = sp.Symbol("delta_P", positive=True)
"""What the average over finitely many samples differs from that over the law of the inputs by."""

TRUNCATION = sp.Symbol("delta_modes", positive=True)
"""What modes that are not kept would change."""


@dataclass(frozen=True)
class InputLaw:
    """Independent, even inputs of variance one: what a rule needs to know of their law.

    ``generating`` is ln E e^{tx} in t, ``basis`` the name of the basis functions.
    """

    name: str
    basis: str
    generating: sp.Expr

    def cumulant(self, order: int) -> sp.Expr:
        return sp.diff(self.generating, T, order).subs(T, 0)


T = sp.Symbol("t", real=True)
LAWS = {law.name: law for law in (InputLaw("hypercube", "chi", sp.log(sp.cosh(T))),
                                  InputLaw("gaussian", "he", T**2 / 2))}
"""Laws of the inputs by name."""


def input_law(name: str) -> InputLaw:
    if name not in LAWS:
        raise UnknownName("law", name, LAWS)
    return LAWS[name]


class InputAverage(PositiveFunctional):
    """E_x[body]: args (body, the inputs x and basis function that it binds, the name of the law).

    The body holds the inputs as SpaceSum(x w) and at most one basis function, in whose space it is open.
    """

    def __new__(cls, body: Any, inputs: Entry, basis: Entry, law: str | Str) -> InputAverage:
        body = sp.sympify(body)
        if isinstance(basis, Entry) and basis.spaces and not depends_on(body, basis):
            basis = Entry(basis.name, basis.domain)  # bound to no mode: the same average, whatever the modes are
        return super().__new__(cls, body, sp.Tuple(inputs, basis), Str(str(law)))

    @property
    def inputs(self) -> Entry:
        return self.args[1][0]  # type: ignore[index]

    @property
    def basis(self) -> Entry:
        return self.args[1][1]  # type: ignore[index]

    @property
    def law(self) -> InputLaw:
        return input_law(str(self.args[2]))

    @property
    def func(self) -> Any:
        return _rebuild

    def _eval_derivative(self, s: sp.Basic) -> sp.Expr:
        if s not in self.body.free_symbols:
            return sp.S.Zero
        raise RuleError(f"the derivative of {self} by what stands inside the average over inputs is not taken")

    def _latex(self, printer: Any) -> str:
        x = printer._print(sp.Symbol(self.inputs.name))
        return rf"\mathbb{{E}}_{{{x}}}\left[{printer._print(self.body)}\right]"

    def _sympystr(self, printer: Any) -> str:
        return f"E_{self.inputs.name}[{printer._print(self.body)}]"


def _rebuild(body: sp.Expr, bound: sp.Tuple, law: Str) -> sp.Expr:
    return InputAverage(body, bound[0], bound[1], law)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- projection


def project(action: FieldAction, sample: Space, matrix: Entry, law: str, *, modes: str = "mode",
            inputs: str = "x") -> Step:
    r"""Σ_μ u_μ v_μ → P Σ_k u_k v_k with u_k = E[u e_k]: samples become modes of the law of the inputs.

    ``matrix`` are the inputs X over (sample, input).  Data and fields over samples are then their components, under
    the same name; a function of the pre-activation Σ X w becomes an :class:`InputAverage` with the basis function.

    Approximate: the average over P samples is taken for that over the law (exact if every input occurs once).

    Raises
    ------
    RuleError
        For a sum over samples that is not a sum of products of two functions of the sample.
    """
    known = input_law(law)
    if matrix.spaces[:1] != (sample,) or len(matrix.spaces) != 2:
        raise BadInput("matrix", matrix, f"inputs over ({sample.name}, input)")
    for name in (modes, inputs, known.basis):
        if name in names_in(action.expr, *action.fields, *action.definitions):
            raise BadInput("names", name, "a name that is not in use")
    mode = Space(modes, sp.Symbol(f"N_{modes}", positive=True))
    x, e = Entry(inputs, "data", matrix.spaces[1:]), Entry(known.basis, "data", (mode,))

    def component(vector: sp.Expr) -> sp.Expr:
        """E[u e_k] of a function u of the sample."""
        vector = distribute(vector)
        if vector.is_Add:
            return sp.Add(*(component(term) for term in vector.args))
        outside = [f for f in sp.Mul.make_args(vector) if sample not in open_spaces(f)]
        inside = [f for f in sp.Mul.make_args(vector) if sample in open_spaces(f)]
        if len(inside) == 1:
            (factor,) = inside
            if isinstance(factor, Entry) and factor != matrix:
                return sp.Mul(*outside) * Entry(factor.name, factor.domain, exchanged(factor, sample, mode))
            if isinstance(factor, SpaceSum) and factor.space != matrix.spaces[1]:
                return sp.Mul(*outside) * SpaceSum(component(factor.body), factor.space)
        body = sp.Mul(*inside).xreplace({matrix: x})
        if sample in open_spaces(body):
            raise RuleError(f"{vector} is not a function of the inputs {matrix} alone")
        return sp.Mul(*outside) * InputAverage(body * e, x, e, law)

    def on_modes(total: SpaceSum) -> sp.Expr:
        if total.space != sample:
            return SpaceSum(map_sums(total.body, on_modes), total.space)
        factors: list[sp.Expr] = []
        outside = []
        for factor in sp.Mul.make_args(total.body):
            if sample not in open_spaces(factor):
                outside.append(factor)
            elif factor.is_Pow and factor.exp == 2:
                factors += [factor.base] * 2
            else:
                factors.append(factor)
        if len(factors) > 2:  # a power of the pre-activation is one function
            factors = [*(f for f in factors if isinstance(f, Entry)),
                       sp.Mul(*(f for f in factors if not isinstance(f, Entry)))]
        if len(factors) == 1:
            factors = [factors[0], sp.S.One]
        if len(factors) != 2:
            raise RuleError(f"{total} is no sum of products of two functions of the sample")
        return sp.Mul(sample.size, *outside) * SpaceSum(component(factors[0]) * component(factors[1]), mode)

    def push(observable: sp.Expr) -> sp.Expr:
        inner = map_sums(observable, on_modes)
        return tidy(component(inner) if open_spaces(observable) == {sample} else inner)

    if sample not in {s for f in action.expr.atoms(SpaceSum) for s in (f.space,)}:
        raise RuleError(f"the action has no sum over {sample.name}")
    after = replace(action, expr=tidy(map_sums(action.expr, on_modes)),
                    fields=tuple(Entry(f.name, f.domain, exchanged(f, sample, mode))
                                 if isinstance(f, Entry) else f for f in action.fields))
    return Step("project", action, after, push, details={"space": sample, "modes": mode, "basis": e, "inputs": x},
                description=f"Sums over many samples are averages over the law of the inputs ({law}), written in its "
                            f"orthonormal basis ${tex(e)}$: $\\sum_\\mu u_\\mu v_\\mu \\to "
                            f"{tex(sample.size)}\\sum_k u_k v_k$.", remainder=SAMPLING)


def complete(action: FieldAction) -> Step:
    """Σ_k E[u e_k] E[v e_k] = E[u v] over the complete basis (Parseval), evaluated where the law allows it. Exact."""

    def gathered(total: SpaceSum) -> sp.Expr:
        factors = [f for factor in sp.Mul.make_args(total.body)
                   for f in ([factor.base] * 2 if factor.is_Pow and factor.exp == 2 else [factor])]
        nodes = [f for f in factors if isinstance(f, InputAverage) and total.space in open_spaces(f)]
        rest = [f for f in factors if f not in nodes]
        if len(nodes) != 2 or any(total.space in open_spaces(f) for f in rest):
            inner = map_sums(total.body, gathered)
            return total if inner == total.body else SpaceSum(inner, total.space)
        first, second = nodes
        body = first.body / first.basis * second.body / second.basis
        return sp.Mul(*rest) * evaluated(InputAverage(body, first.inputs, first.basis, first.args[2]))

    def push(observable: sp.Expr) -> sp.Expr:
        return tidy(map_sums(observable, gathered))

    return Step("complete", action, replace(action, expr=push(action.expr)), push,
                description="Products of two components, summed over the complete basis, are averages over the inputs.")


def restrict(action: FieldAction, modes: Space, kept: Space, entries: Iterable[Entry]) -> Step:
    """Only ``kept`` modes of some data over ``modes``: their components at all others are zero.

    That the target has no other components is what it is; that the output has none must be a symmetry of the law of one
    site.  For a single parity it is: the law is symmetric under sign flips of two inputs of S, or of one outside, and
    under one of S together with the sign of the readout; so it is for sectors, the representations of a symmetry
    (:mod:`.symbolic.sectors`).  For Hermite modes it is an approximation (the remainder).
    """
    nodes = action.expr.atoms(InputAverage)
    exact = all(node.law.name == "hypercube" or len(node.basis.spaces) > 1 for node in nodes)
    named = {f: Entry(f.name, f.domain, exchanged(f, modes, kept)) for f in entries}

    def on(expr: sp.Expr) -> sp.Expr:
        whole = {total: sp.Dummy(real=total.is_real, nonnegative=total.is_nonnegative)
                 for total in expr.atoms(SpaceSum) if total.space == modes}  # what is left runs over all modes
        expr = expr.xreplace(whole)
        table: dict[sp.Basic, sp.Basic] = dict(named)
        for e in expr.atoms(Entry):
            if modes in e.spaces:
                table[e] = Entry(e.name, e.domain, exchanged(e, modes, kept))
        return expr.xreplace(table).xreplace({dummy: total for total, dummy in whole.items()})

    def kept_only(total: SpaceSum) -> sp.Expr:
        if total.space == modes:
            if not any(depends_on(total.body, f) for f in named):
                return total
            return SpaceSum(on(total.body), kept)
        return SpaceSum(map_sums(total.body, kept_only), total.space)

    def push(observable: sp.Expr) -> sp.Expr:
        if modes in open_spaces(observable):
            return tidy(on(map_sums(observable, kept_only)))
        return tidy(map_sums(observable, kept_only))

    names = ", ".join(f"${tex(f)}$" for f in named)
    return Step("restrict", action, replace(action, expr=push(action.expr)), push,
                details={"modes": modes, "kept": kept, "entries": sp.Dict(named)},
                description=f"{names} vanish at all {modes.name}s but those of the target.",
                remainder=None if exact else TRUNCATION)


def diagonal(action: FieldAction, basis: Entry) -> Step:
    r"""The eigenvectors of the others' mean kernel are the basis functions: V_Tk = δ_Tk/√P, Σ_T V_Tk u_T → u_k/√P.

    ``basis`` is V over (mode, eigenmode), after `cavity` over P samples and `project`.  Of the P eigenvalues all but
    those of the modes vanish: a sum over eigenmodes is one over modes, and P - N_mode times its body at zero.

    A symmetry, hence exact: where the target is one parity χ_S, the law of one site keeps its form under every sign
    flip of a weight (J_T → ±J_T, and the target enters as J_S²), under which the overlaps with two different modes
    change by different signs for some flip, so that ⟨J_T J_T'⟩ = 0.

    Raises
    ------
    RuleError
        For Gaussian inputs, where modes of the same symmetry (he_1 and he_3 of one direction) mix.
    """
    laws = {node.law.name for node in action.expr.atoms(InputAverage)}
    if laws != {"hypercube"}:
        raise RuleError(f"the mean kernel is not known to be diagonal in the basis of the law ({', '.join(laws)})")
    mode, eigen = basis.spaces
    samples = eigen.size

    def moved(expr: sp.Expr) -> sp.Expr:
        """An expression open in the eigenmodes as one open in the modes."""
        table: dict[sp.Basic, sp.Basic] = {}
        for total in expr.atoms(SpaceSum):
            if total.space == mode and depends_on(total, basis):
                table[total] = total.body / basis / sp.sqrt(samples)
        expr = expr.xreplace(table)
        if depends_on(expr, basis):
            raise RuleError(f"{basis} stands outside of a sum over {mode.name}, or twice in one")
        return expr.xreplace({e: Entry(e.name, e.domain, exchanged(e, eigen, mode)) for e in expr.atoms(Entry)
                              if eigen in e.spaces})

    def over_modes(total: SpaceSum) -> sp.Expr:
        if total.space != eigen:
            return SpaceSum(map_sums(total.body, over_modes), total.space)
        if mode in open_spaces(total):  # Σ_k V_Tk u_k
            rest = total.body / basis
            if mode in open_spaces(rest):
                raise RuleError(f"{total} is open in {mode.name} in another way than through {basis}")
            return moved(rest) / sp.sqrt(samples)
        empty: dict[sp.Basic, sp.Basic] = {e: sp.S.Zero for e in total.body.atoms(Entry) if eigen in e.spaces}
        return SpaceSum(moved(total.body), mode) + (samples - mode.size) * total.body.xreplace(empty)

    def push(observable: sp.Expr) -> sp.Expr:
        if {mode, eigen} <= open_spaces(observable):
            raise RuleError(f"{observable} is open in the modes and in the eigenmodes")
        return tidy(moved(map_sums(observable, over_modes)))

    return Step("diagonal", action, replace(action, expr=push(action.expr)), push,
                details={"basis": basis, "modes": mode},
                description=f"The mean kernel of the others is diagonal in the basis functions, by the sign flips of "
                            f"the weights: ${tex(basis)}$ is the unit matrix over $\\sqrt{{{tex(samples)}}}$.")


def exchanged(entry: Entry, old: Space, new: Space) -> tuple[Space, ...]:
    """The spaces of an entry with one in place of another."""
    return tuple(new if space == old else space for space in entry.spaces)


# ------------------------------------------------------------------------------------- what an average over x is


def evaluated(node: sp.Expr) -> sp.Expr:
    """E[f(h)] of a function of one pre-activation h = Σ x w, where the law of the inputs gives it; else the node.

    Under an even law only the even part of f counts.  A polynomial follows from the cumulants of h, which are those of
    one input times Σ w^n; for Gaussian inputs h is Gaussian, of variance Σ w².
    """
    if not isinstance(node, InputAverage):
        return node
    nodes = [total for total in node.body.atoms(SpaceSum) if depends_on(total, node.inputs)]
    if len(nodes) != 1 or depends_on(node.body, node.basis):
        return node
    (h,) = nodes
    weights, u = h.body / node.inputs, sp.Dummy("u", real=True)
    function = node.body.xreplace({h: u})
    if depends_on(weights, node.inputs) or depends_on(function, node.inputs):
        return node
    even = parity_part(function, u, 0)
    if even.is_polynomial(u):
        return _polynomial_average(even, u, weights, h.space, node.law)
    if node.law.name == "gaussian":
        try:
            return closed_form(function, [u], [[SpaceSum(weights**2, h.space)]])
        except NoClosedForm:
            return node
    return node


def _polynomial_average(function: sp.Expr, u: sp.Symbol, weights: sp.Expr, space: Space, law: InputLaw) -> sp.Expr:
    degree = int(sp.Poly(function, u).degree()) if function.has(u) else 0
    logarithm = sp.Add(*(law.cumulant(n) * SpaceSum(weights**n, space) * T**n / sp.factorial(n)
                         for n in range(1, degree + 1)))
    generating = sp.Add(*(logarithm**n / sp.factorial(n) for n in range(degree + 1)))
    moments = sp.Poly(sp.expand(generating), T)
    return sp.Add(*(c * moments.coeff_monomial(T**n) * sp.factorial(n)
                    for (n,), c in sp.Poly(function, u).terms()))


def directional_overlap(activation: sp.Expr, variable: sp.Symbol, orders: Sequence[int], pairs: int, size: sp.Expr,
                        cosines: Sequence[sp.Expr], rest: sp.Expr, dimension: sp.Expr, momentum: int = 0) -> sp.Expr:
    r"""j in E[φ(w·x) e(x)] = j(w) Y(ŵ_⊥) under Gaussian inputs.

    Here e = Π_a he_{n_a}(u_a·x) × (a polynomial of degree l + 2k in |x_⊥|) Y(x̂_⊥), with a harmonic Y of degree l.

    Features with weights of direction v and v' overlap in degree m by c_m(|w|) c_m(|w'|) (v·v')^m (Mehler).  With
    v·v' = Σ_a τ_a τ'_a + ρρ' t, t the cosine between the perpendicular parts, and t^{l+2k} in harmonics
    (:mod:`.symbolic.harmonics`), this is a sum over modes of J J': j² is the coefficient of
    Π_a (τ_a τ'_a)^{n_a} (ρρ')^{l+2k} Σ_m Y_lm Y'_lm.  Without angular ``momentum`` l, Y = 1.
    ``size`` is |w|, ``cosines`` are τ_a, ``rest`` is ρ² = 1 - Σ τ_a², ``dimension`` that of the perpendicular space.
    """
    coefficient = hermite_coefficient(activation, variable, sum(orders) + momentum + 2 * pairs, size**2)
    weight = sp.sqrt(directional_weight(orders, pairs, dimension, momentum))
    powers = sp.Mul(*(tau**n for tau, n in zip(cosines, orders, strict=True)))
    return coefficient * weight * powers * rest**(pairs + sp.Rational(momentum, 2))


def directional_weight(orders: Sequence[int], pairs: int, dimension: sp.Expr, momentum: int = 0) -> sp.Expr:
    """The coefficient of Π_a (τ_a τ'_a)^{n_a} (ρρ')^j Σ_m Y_lm Y'_lm in (v·v')^{Σn+j}, j = l + 2k."""
    power = momentum + 2 * pairs
    numbers = (*orders, power)
    multinomial = sp.factorial(sum(numbers)) / sp.Mul(*(sp.factorial(n) for n in numbers))
    if not momentum:
        return multinomial * cosine_moment(pairs, dimension)
    degrees = harmonics(sp.sympify(dimension), power + -power % 8)  # one list for several powers
    return multinomial * degrees[momentum].weights[power] if momentum < len(degrees) else sp.S.Zero


def parity_part(function: sp.Expr, variable: sp.Symbol, parity: int) -> sp.Expr:
    """The even (0) or odd (1) part of a function, in polynomials, exponentials, sign and erf."""
    reflected = function.xreplace({variable: -variable})
    sides = [sp.expand(elementary(side)) for side in (function, reflected)]
    total = sp.expand((sides[0] + (-1)**(parity % 2) * sides[1]) / 2)
    return sp.Add(*(_without_signs(term, variable) for term in sp.Add.make_args(total)))


def _without_signs(term: sp.Expr, variable: sp.Symbol) -> sp.Expr:
    """u^n sign(u)^(2p) is u^n for n > 0, also at u = 0."""
    powers = term.as_powers_dict()
    count, degree = powers.get(sp.sign(variable), sp.S.Zero), powers.get(variable, sp.S.Zero)
    if count and degree.is_positive and count.is_Integer and count > 1:
        return term / sp.sign(variable)**(count - count % 2)
    return term


def obstruction(activation: sp.Expr, variable: sp.Symbol, order: int) -> str | None:
    """Why no feature φ(w·x) overlaps with a mode of some order, for any w; None where one may.

    The order is |S| of a parity χ_S, or n of a Hermite mode he_n(u·x).  The law of the inputs is even, so that a mode
    overlaps only with the part of φ of its own parity; and a polynomial of degree d is made of modes of order up to d.
    """
    if not isinstance(order, int) or order < 0:
        raise BadInput("order", order, "an integer that is zero or more")
    kind, part = ("odd", "even")[order % 2 == 0], parity_part(activation, variable, order)
    part = sp.simplify(part) if not part.is_polynomial(variable) else part
    if part == 0:
        return f"the activation has no {kind} part, and a mode of order {order} is {kind}"
    if part.is_polynomial(variable) and (degree := int(sp.Poly(part, variable).degree())) < order:
        return (f"the {kind} part of the activation, {sp.sstr(part)}, is a polynomial of degree {degree}, and has no "
                f"overlap with a mode of order {order}")
    return None


__all__ = ["InputAverage", "InputLaw", "LAWS", "SAMPLING", "TRUNCATION", "complete", "diagonal", "directional_overlap",
           "directional_weight", "evaluated", "input_law", "obstruction", "parity_part", "project", "restrict"]
