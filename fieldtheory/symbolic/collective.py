r"""Two expansions that give the loops of a field over a space of symbolic size, to any order.

The action depends on the field through sums over the space, S = Φ(M₁, …, M_R) + Σ_k l(φ_k) with
M_a = Σ_k m_a(φ_k); l and m_a may depend on k through data.  Name the sums that enter non-linearly,

    ∫dφ e^{-S/ħ} = ∫dM dh ∏_k dφ_k exp(-[Φ(M) - h·M + Σ_k (l + h·m)(φ_k)]/ħ),

and no two points of the space are coupled any more.  Two expansions follow, each with a handful of fields.

1. One point of the space at fixed h.  With h = Φ' + η, η the fluctuation,

       w_k(η) = -ħ ln ∫dφ e^{-(l + h·m)/ħ},   ∂^r w_k/∂η_{a₁}…∂η_{a_r} = (-1)^{r+1} ħ^{1-r} κ_k(m_{a₁}, …, m_{a_r}),

   joint cumulants under the law of one point, expanded in ħ: polynomials in 1/d, d = l'' + Φ'·m'', and in higher
   derivatives, all local in k.
2. The 2R numbers (M, h) about their saddle.  With B_ab = Σ_k m_a' m_b'/d and F = Φ'' their propagator is
   ⟨MM⟩ = C B, ⟨Mh⟩ = -C, ⟨hh⟩ = -F C, C = (1 + B F)⁻¹: this is Woodbury's identity for (S'')⁻¹.  Vertices are the
   derivatives of Φ and of Σ_k w_k, the latter a series in ħ.

Order by order in ħ this is the loop expansion of the field itself, as both expand the same integral about the same
saddle.  Only finished sums over k appear, so that no two indices can meet; sizes stay symbolic.  On an
imaginary contour the propagator 1/d is negative and nothing else changes.  Derived here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from math import factorial, prod

import sympy as sp
from sympy.polys.rings import PolyElement

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.fields import (
    Entry,
    SpaceSum,
    depends_on,
    distribute,
    pointwise_diff,
    structure_key,
    sum_over,
    top_atoms,
    top_replace,
)
from fieldtheory.symbolic.moments import Coefficients, Index, Moments, Propagator, indices
from fieldtheory.symbolic.saddle import OrderParameter, express

Terms = dict[int, sp.Expr]


def at_saddle(expr: sp.Expr, field: Entry, parameters: tuple[OrderParameter, ...], at: sp.Expr | None) -> sp.Expr:
    """An expression in named sums, at the saddle."""
    expr = express(expr, parameters)
    return expr if at is None else expr.xreplace({field: sp.sympify(at)})


# ------------------------------------------------------------------------------------------ taking S apart


def summand(total: SpaceSum, field: Entry) -> sp.Expr | None:
    """The summand m(φ_k) of a sum over the field's spaces (sums over others done first); None for other sums."""
    node: sp.Expr = total
    peeled = []
    while isinstance(node, SpaceSum):
        peeled.append(node.space)
        node = node.body
    if not set(field.spaces) <= set(peeled):
        return None
    node = sum_over(node, [space for space in peeled if space not in field.spaces])
    return node if all(a == field or not depends_on(a, field) for a in top_atoms(node)) else None


@dataclass(frozen=True)
class Split:
    """Φ + Σ l: the sums that enter non-linearly with their summands, Φ as a function of them, and l."""

    totals: tuple[SpaceSum, ...]
    bodies: tuple[sp.Expr, ...]
    outer: sp.Expr
    local: sp.Expr


def split(expr: sp.Expr, field: Entry, collective: tuple[SpaceSum, ...] = ()) -> Split:
    """Take an expression apart; ``collective`` sums count as non-linear whatever they do."""
    if not isinstance(field, Entry) or not field.spaces or field.is_data:
        raise BadInput("field", field, "a field over a space")
    dependent = sorted({a for a in top_atoms(expr) if depends_on(a, field)}, key=_order)
    for atom in dependent:
        if not isinstance(atom, SpaceSum) or summand(atom, field) is None:
            raise RuleError(f"{field.name} enters through {atom}, which is not a sum over its points of a function of "
                            "the field at that point")
    stand_in = {atom: sp.Dummy(f"M{k}") for k, atom in enumerate(dependent)}
    opened = top_replace(expr, stand_in)
    slopes = {atom: sp.diff(opened, symbol) for atom, symbol in stand_in.items()}
    coupled = [atom for atom in dependent if slopes[atom].has(*stand_in.values())]
    nonlinear = sorted({*coupled, *collective}, key=_order)
    local, zero = sp.S.Zero, {}
    for atom in dependent:
        if atom not in nonlinear:
            body = summand(atom, field)
            assert body is not None
            local += slopes[atom] * body
            zero[stand_in[atom]] = sp.S.Zero
    back = {symbol: atom for atom, symbol in stand_in.items()}
    outer = opened.xreplace(zero).xreplace(back)
    bodies = tuple(summand(total, field) or sp.S.Zero for total in nonlinear)
    return Split(tuple(nonlinear), bodies, outer, distribute(local))


def _order(expr: sp.Basic) -> tuple[tuple[int, str], object]:
    return structure_key(expr), sp.default_sort_key(expr)


# ------------------------------------------------------------------------------------------ the two expansions


class CountedMoments(Moments):
    """Moments whose vertices come with any power of ε: {(power of ε, multi-index): coefficient}.

    A coefficient that is a sum is one generator of the ring, unless ``merged``: then it enters term by term, so
    that equal terms meet.
    """

    def __init__(self, fields: int, order: int, vertices: Mapping[tuple[int, Index], sp.Expr], propagator: Propagator,
                 further: Iterable[sp.Expr] = (), merged: Iterable[sp.Expr] = ()) -> None:
        super().__init__(fields, order, {}, propagator)
        known = {key: value for key, value in vertices.items() if value != 0 and key[0] <= order}
        self._merged = set(merged)
        self._names: dict[sp.Expr, sp.Dummy] = {}
        values = [*(g for row in propagator for g in row), *known.values(), *further]
        self.coefficients = Coefficients([term for value in values for term in self._terms(value)])
        self.zero, self.one = self.coefficients.ring.zero, self.coefficients.ring.one
        self.propagator = [[self.element(g) for g in row] for row in propagator]
        for (power, alpha), value in known.items():
            self.interaction[power][alpha] = self.element(value)
        self._gaussian = {(0,) * fields: self.one}
        self._weight = [{(0,) * fields: self.one}]

    def _terms(self, value: sp.Expr) -> tuple[sp.Expr, ...]:
        if value in self._merged:
            return sp.Add.make_args(distribute(value))  # type: ignore[no-any-return]
        number, rest = value.as_coeff_Mul()
        if rest.is_Add or (rest.is_Mul and any(factor.is_Add for factor in rest.args)):
            return (number * self._names.setdefault(rest, sp.Dummy(f"v{len(self._names)}")),)
        return (value,)

    def element(self, value: sp.Expr) -> PolyElement:
        """One of the given values in the ring."""
        return sum((self.coefficients[term] for term in self._terms(value)), self.zero)

    def expression(self, element: PolyElement) -> sp.Expr:
        return super().expression(element).xreplace({name: value for value, name in self._names.items()})


class CollectiveExpansion:
    """Both expansions of one action to one power of ε = √ħ.

    ``sources`` are J₁, J₂, …, open in the field's spaces, by power of ħ; ``observable`` a closed expression.
    """

    def __init__(self, action: sp.Expr, field: Entry, order: int, parameters: tuple[OrderParameter, ...],
                 at: sp.Expr | None, sources: list[sp.Expr] | None = None, observable: sp.Expr = sp.S.Zero) -> None:
        self.field, self.order, self.parameters, self.at = field, order, parameters, at
        both = set(split(action, field).totals) | set(split(observable, field).totals)
        totals = tuple(sorted(both, key=_order))
        self.action = split(action, field, totals)
        self.observable = split(observable, field, totals)
        self.totals, self.bodies = self.action.totals, self.action.bodies
        self.rank = len(self.totals)
        self.sources = sources or []
        self._cumulants: dict[tuple[Index, ...], list[PolyElement]] = {}

    def _value(self, expr: sp.Expr) -> sp.Expr:
        return at_saddle(expr, self.field, self.parameters, self.at)

    def _outer_jets(self, outer: sp.Expr, degree: int) -> dict[Index, sp.Expr]:
        """∂^α of a function of the sums, for |α| ≤ degree."""
        symbols = [sp.Dummy(f"M{a}") for a in range(self.rank)]
        opened = top_replace(outer, dict(zip(self.totals, symbols)))
        back = dict(zip(symbols, self.totals))
        raw: dict[Index, sp.Expr] = {(0,) * self.rank: opened}
        for n in range(1, degree + 1):
            for alpha in indices(self.rank, n):
                a = next(i for i, power in enumerate(alpha) if power)
                raw[alpha] = sp.diff(raw[(*alpha[:a], alpha[a] - 1, *alpha[a + 1:])], symbols[a])
        return {alpha: self._value(value.xreplace(back)) for alpha, value in raw.items() if value != 0}

    @cached_property
    def _phi(self) -> dict[Index, sp.Expr]:
        return self._outer_jets(self.action.outer, self.order + 2) if self.rank else {}

    def _jets(self, body: sp.Expr, degree: int) -> list[sp.Expr]:
        """A function of the field at one point and its derivatives."""
        found = [body]
        for _ in range(degree):
            found.append(distribute(pointwise_diff(found[-1], self.field)))
        return found

    # -------------------------------------------------------------------------------- one point of the space

    @cached_property
    def _site_jets(self) -> tuple[list[sp.Expr], list[dict[int, sp.Expr]], dict[int, sp.Expr]]:
        """Derivatives of l + Φ'·m, of every m_a, and of the local part of the observable, what vanishes left out."""
        degree = self.order + 2
        unit = [tuple(int(i == a) for i in range(self.rank)) for a in range(self.rank)]
        slopes = [self._phi.get(alpha, sp.S.Zero) for alpha in unit]
        raw = [self._jets(body, degree) for body in self.bodies]
        m = [[self._value(jet) for jet in jets] for jets in raw]
        local = [self._value(jet) for jet in self._jets(self.action.local, degree)]
        weight = [distribute(local[k] + sp.Add(*(slope * jets[k] for slope, jets in zip(slopes, m))))
                  for k in range(degree + 1)]
        observed = [self._value(jet) for jet in self._jets(self.observable.local, degree)]
        return (weight, [{b: jet for b, jet in enumerate(jets) if b and jet != 0} for jets in m],
                {b: jet for b, jet in enumerate(observed) if jet != 0})

    @cached_property
    def _inverse(self) -> sp.Expr:
        """1/d at one point."""
        d = self._site_jets[0][2]
        if d == 0:
            raise RuleError(f"the quadratic form in {self.field.name} has no local part; it cannot be inverted")
        return express(1 / d, ())

    @cached_property
    def _site(self) -> CountedMoments:
        weight, m, observed = self._site_jets
        vertices: dict[tuple[int, Index], sp.Expr]
        vertices = {(k - 2, (k,)): weight[k] / factorial(k) for k in range(3, self.order + 3)}
        for l, source in enumerate(self.sources, start=1):
            vertices[2 * l - 1, (1,)] = -source
        further = [jet for jets in (*m, observed) for jet in jets.values()]
        merged = [-source for source in self.sources] if self.rank < 2 else []
        return CountedMoments(1, self.order, vertices, ((self._inverse,),), further, merged)

    def _cumulant(self, factors: list[dict[int, sp.Expr]], power: int) -> sp.Expr:
        """The part of κ(A₁, A₂, …) of order ħ^power at one point, for functions with the given derivatives."""
        site = self._site
        total = site.zero
        for degrees in _bounded([sorted(b for b in jets if b) for jets in factors], 2 * power):
            e = 2 * power - sum(degrees)
            kappa = site.cumulant([(b,) for b in degrees], self._cumulants)[e]
            if kappa:
                for jets, b in zip(factors, degrees):
                    kappa = kappa * site.element(jets[b])
                total = total + kappa / prod(map(factorial, degrees))
        return site.expression(total)

    def _summed(self, expr: sp.Expr) -> sp.Expr:
        return sum_over(expr, self.field.spaces)

    # -------------------------------------------------------------------------------- the collective variables

    @cached_property
    def _lines(self) -> tuple[Propagator, sp.Expr]:
        """⟨MM⟩, ⟨Mh⟩, ⟨hh⟩ as one 2R × 2R matrix, without ħ, and the determinant D = det(1 + B F)."""
        R, m = self.rank, self._site_jets[1]
        names: dict[sp.Dummy, sp.Expr] = {}

        def named(value: sp.Expr, what: str, a: int, b: int) -> sp.Expr:
            if value == 0:
                return value
            names[symbol := sp.Dummy(f"{what}{a}{b}")] = value
            return symbol

        B, F = sp.zeros(R, R), sp.zeros(R, R)
        for a, b in combinations_with_replacement(range(R), 2):
            slopes = m[a].get(1, sp.S.Zero) * m[b].get(1, sp.S.Zero)
            B[a, b] = B[b, a] = named(self._summed(slopes * self._inverse), "B", a, b)
            alpha = tuple(int(i == a) + int(i == b) for i in range(R))
            F[a, b] = F[b, a] = named(self._phi.get(alpha, sp.S.Zero), "F", a, b)
        core = sp.eye(R) + B * F
        determinant, adjugate = sp.expand(core.det(method="berkowitz")), core.adjugate(method="berkowitz")
        D = determinant.xreplace(names)

        def line(entry: sp.Expr) -> sp.Expr:
            return distribute(sp.expand(entry).xreplace(names)) / D

        mm, mh, hh = ((adjugate * B).applyfunc(line), (-adjugate).applyfunc(line), (-F * adjugate).applyfunc(line))
        matrix = sp.Matrix(sp.BlockMatrix([[mm, mh], [mh.T, hh]]))
        return tuple(tuple(row) for row in matrix.tolist()), D

    @cached_property
    def vertices(self) -> dict[tuple[int, Index], sp.Expr]:
        """The vertices of (M, h) without sign, {(power of ε, multi-index): coefficient}, with loops at one point."""
        R, m = self.rank, self._site_jets[1]
        vertices: dict[tuple[int, Index], sp.Expr] = {}
        for alpha, value in self._phi.items():
            if sum(alpha) > 2:
                vertices[sum(alpha) - 2, (*alpha, *(0,) * R)] = value / prod(map(factorial, alpha))
        for r in range(1, self.order + 3):
            for alpha in indices(R, r):
                factors = [m[a] for a, power in enumerate(alpha) for _ in range(power)]
                for l in range((self.order + 2 - r) // 2 + 1):
                    if 2 * l + r > 2:
                        kappa = self._summed(self._cumulant(factors, l + r - 1))
                        value = (-1)**(r + 1) * kappa / prod(map(factorial, alpha))
                        vertices[2 * l + r - 2, ((0,) * R + alpha)] = value
        return {key: value for key, value in vertices.items() if value != 0}

    @property
    def lines(self) -> Propagator:
        """⟨MM⟩, ⟨Mh⟩, ⟨hh⟩ as one 2R × 2R matrix, without ħ."""
        return self._lines[0]

    @property
    def point(self) -> tuple[sp.Expr, dict[int, sp.Expr]]:
        """1/d and the vertices of third and higher order at one point of the space."""
        return self._inverse, {k: jet for k, jet in enumerate(self._site_jets[0]) if k > 2 and jet != 0}

    def _collective(self, further: list[sp.Expr]) -> CountedMoments:
        """The weight of the fluctuations of (M, h); ``further`` expressions are to have a place in its ring."""
        R, vertices = self.rank, self.vertices
        lines, D = self._lines
        further = [D, 1 / D, *further]
        # With one sum terms meet and cancel; with several their number would explode.
        merged = [*further, *vertices.values(), *(line for row in lines for line in row)] if R < 2 else []
        return CountedMoments(2 * R, self.order, vertices, lines, further, merged)

    def _collected(self, weight: CountedMoments, element: PolyElement) -> sp.Expr:
        """A polynomial in the collective ring as an expression; with D = 1 + t and x = 1/D, t x is 1 - x."""
        _, D = self._lines
        terms = sp.Add.make_args(D)
        if self.rank < 2 and len(terms) == 2 and sp.S.One in terms:
            t, x = weight.element(D) - weight.one, weight.element(1 / D)
            if len(t) == len(x) == 1:  # a derivative of Φ that is a sum makes t several terms
                element = _reduce(element, t, x)
        return weight.expression(element)

    # -------------------------------------------------------------------------------- what is asked for

    def log_partition(self) -> Terms:
        """The terms of ħ¹, ħ², …: from two loops on."""
        alone = self._site.log_norm()
        terms = {power: self._summed(self._site.expression(alone[power])) for power in range(1, self.order // 2 + 1)}
        if not self.rank:
            return terms
        weight = self._collective(list(terms.values()))
        joint = weight.log_norm()
        return {power: self._collected(weight, joint[power] + weight.element(term)) for power, term in terms.items()}

    def expectation(self) -> Terms:
        """⟨O⟩, O = Ω(M) + Σ_k o(φ_k), both expanded in the fluctuations of M and h."""
        R, (_, m, observed) = self.rank, self._site_jets
        alone = {power: self._summed(self._cumulant([observed], power)) for power in range(1, self.order // 2 + 1)}
        tree = self._value(self.observable.outer) + self._summed(observed.get(0, sp.S.Zero))
        if not R:
            return {0: tree, **alone}
        zero = (0,) * R
        expansion: list[tuple[int, Index, sp.Expr]] = []
        for alpha, value in self._outer_jets(self.observable.outer, self.order).items():
            if any(alpha):
                expansion.append((sum(alpha), (*alpha, *zero), value / prod(map(factorial, alpha))))
        for r in range(1, self.order + 1):
            for alpha in indices(R, r):
                factors = [m[a] for a, power in enumerate(alpha) for _ in range(power)]
                for l in range((self.order - r) // 2 + 1):
                    value = self._summed(self._cumulant([observed, *factors], l + r))
                    if value != 0:
                        sign = (-1)**r
                        expansion.append((2 * l + r, (*zero, *alpha), sign * value / prod(map(factorial, alpha))))
        weight = self._collective([*alone.values(), *(value for _, _, value in expansion)])
        found = {power: weight.element(value) for power, value in alone.items()}
        for start, index, value in expansion:
            moment = weight.moment(index)
            for power in found:
                if 2 * power >= start:
                    found[power] += weight.element(value) * moment[2 * power - start]
        return {0: tree} | {power: self._collected(weight, value) for power, value in found.items()}


def _reduce(element: PolyElement, t: PolyElement, x: PolyElement) -> PolyElement:
    """Replace t x by 1 - x, for monomials t and x, until it occurs no more."""
    ((monomial, number),) = (t * x).terms()
    places = [i for i, power in enumerate(monomial) if power]
    done, rest = element.ring.zero, element
    while rest:
        following = element.ring.zero
        for powers, coefficient in rest.terms():
            times = min(powers[i] // monomial[i] for i in places)
            left = element.ring.from_terms([(tuple(p - times * m for p, m in zip(powers, monomial)),
                                             coefficient / number**times)])
            if times:
                following += left * (1 - x)**times
            else:
                done += left
        rest = following
    return done


def _bounded(choices: list[list[int]], limit: int) -> Iterator[tuple[int, ...]]:
    """One number from each list, with a sum of at most ``limit``."""
    if not choices:
        yield ()
        return
    least = sum(min(rest, default=limit + 1) for rest in choices[1:])
    for first in choices[0]:
        if first + least <= limit:
            for rest in _bounded(choices[1:], limit - first):
                yield (first, *rest)


__all__ = ["CollectiveExpansion", "CountedMoments", "Split", "Terms", "at_saddle", "split", "summand"]
