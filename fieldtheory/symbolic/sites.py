r"""Rules that replace many coupled sites by one site in a self-consistent environment.

The sites of a space are coupled through sums over them, M = Σ_i g(θ_i), in which the action is polynomial.  One site
is singled out, M = g(θ) + M', and what it feels of the others is an average over them:

- :func:`decouple`: the best law of independent, identical sites.  It minimises F[q] = ⟨S⟩ + N ∫q ln q, so that
  q(θ) ∝ exp(-⟨S⟩_others), the average over the N-1 others being a polynomial in averages over one site.  With the
  constants of :func:`decouple` the one-site action s(θ) has F = -N ln ∫dθ e^{-s}, and ln Z ≥ -F.
- :func:`.cavity.cavity`: where the sites are coupled through a field that they share and that enters quadratically, the
  others are replaced by the mean of their quadratic form, in its eigenbasis; the shared field stays.

That N-1 others are left is what puts the factor 1 - 1/N beside an average, and that the site's own term in M² is not
averaged is what leaves its self-term: neither is put in by hand.  Derived here; the first is the mean-field theory of
Göring et al. 2025 (arXiv 2510.15174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp
from sympy.utilities.iterables import multiset_partitions

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.fields import (
    Entry,
    Space,
    SpaceSum,
    depends_on,
    distribute,
    entries,
    open_spaces,
    structure_key,
    tidy,
    top_atoms,
    top_replace,
)
from fieldtheory.symbolic.forms import Pairs
from fieldtheory.symbolic.rules import FieldAction, Step, names_in, tex

DIVERGENCE = sp.Symbol("D_KL", positive=True)
"""What the variational free energy exceeds the true one by: the relative entropy of the law kept to the exact law."""

Bodies = tuple[sp.Expr, ...]


class Bundle(sp.Function):
    """A sum that is not multiplied out, such as an activation of several terms; equal to its argument."""

    @classmethod
    def eval(cls, argument: sp.Expr) -> sp.Expr | None:
        return None if argument.is_Add else argument

    def _eval_derivative(self, s: sp.Basic) -> sp.Expr:
        return Bundle(sp.diff(self.args[0], s))

    def _eval_is_extended_real(self) -> bool | None:
        return self.args[0].is_extended_real

    _eval_is_real = _eval_is_extended_real

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        text = rf"\left({printer._print(self.args[0])}\right)"
        return text if exp is None else f"{text}^{{{exp}}}"


def bundle(expr: sp.Expr) -> sp.Expr:
    """A sum as its common factors times a bundle of what is left; anything else as it is."""
    if not expr.is_Add:
        return expr
    scale, direction = _direction(expr)
    return sp.Mul(scale, *(Bundle(f) if f.is_Add else f for f in sp.Mul.make_args(sp.factor_terms(direction))))


def _direction(expr: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """An open expression as a closed factor times what is the same for all multiples of it."""
    def closed(term: sp.Expr) -> sp.Expr:
        return sp.Mul(*(f for f in sp.Mul.make_args(term) if not open_spaces(f)))

    terms = sp.Add.make_args(sp.expand(expr))
    scale = closed(min(terms, key=lambda term: structure_key(term / closed(term))))
    return scale, sp.expand(expr / scale)


def unbundle(expr: sp.Expr) -> sp.Expr:
    return expr.replace(Bundle, lambda argument: argument)


@dataclass
class Sites:
    """The sites of a space: their fields, what they are called on one site, and the averages met so far."""

    space: Space
    fields: tuple[Entry, ...]
    single: dict[sp.Basic, sp.Basic] = field(init=False)
    named: dict[sp.Expr, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.single = {f: Entry(f.name, f.domain, tuple(s for s in f.spaces if s != self.space)) for f in self.fields}

    @classmethod
    def of(cls, action: FieldAction, space: Space) -> Sites:
        gone = tuple(f for f in action.fields if isinstance(f, Entry) and space in f.spaces)
        if not gone:
            raise RuleError(f"no field lives on {space.name}")
        return cls(space, gone)

    def holds(self, expr: sp.Basic) -> bool:
        return any(depends_on(expr, f) for f in self.fields)

    # ------------------------------------------------------------------------------------ polynomials in M

    def monomials(self, expr: sp.Expr) -> Iterator[tuple[sp.Expr, Bodies | SpaceSum]]:
        """The terms of an expression: a coefficient without sites, and the bodies g of the Σ_i g that it multiplies.

        A term that is linear in a sum over another space, with sums over sites inside, is given as that sum.
        """
        atoms = sorted({a for a in top_atoms(expr) if self.holds(a)}, key=sp.default_sort_key)
        loose = [a for a in atoms if not isinstance(a, SpaceSum)]
        if loose:
            raise RuleError(f"{loose[0]} stands outside of any sum over {self.space.name}")
        dummies = {a: sp.Dummy(real=True) for a in atoms}
        opened = top_replace(expr, dummies)
        if not atoms:
            yield expr, ()
            return
        if not opened.is_polynomial(*dummies.values()):
            names = ", ".join(map(str, atoms))
            raise RuleError(f"not a polynomial in the sums over {self.space.name} that it holds ({names})")
        bodies = self._together(opened, dummies)
        for powers, coefficient in sp.Poly(opened, *dummies.values()).terms():
            factors = [a for a, power in zip(atoms, powers, strict=True) for _ in range(power)]
            if any(a not in bodies and a.space == self.space for a in factors):
                continue  # part of a sum that has its turn as a whole
            if len(factors) == 1 and factors[0].space != self.space:
                yield coefficient, factors[0]
            else:
                yield coefficient, tuple(bodies[a] if a in bodies else self.site_sum(a) for a in factors)

    def _together(self, opened: sp.Expr, dummies: Mapping[sp.Basic, sp.Dummy]) -> dict[sp.Basic, sp.Expr]:
        """Bodies of the sums over sites; those that enter only as M_1 + r M_2 become one, called by the first."""
        bodies: dict[sp.Basic, sp.Expr] = {}
        sums = set(dummies.values())
        slopes = {a: sp.diff(opened, d) for a, d in dummies.items() if a.space == self.space}
        for a, slope in slopes.items():
            moving = bool(slope.free_symbols & sums)  # a sum that enters linearly stands for itself
            ratios = {first: sp.cancel(slope / slopes[first]) for first in bodies if moving}
            first = next((k for k, ratio in ratios.items() if not ratio.free_symbols & sums), None)
            if first is None:
                bodies[a] = a.body
            else:
                bodies[first] += ratios[first] * a.body
        return {a: bundle(body) for a, body in bodies.items()}

    def site_sum(self, total: SpaceSum) -> sp.Expr:
        """g where the sum is Σ_i g: sums over other spaces outside Σ_i are moved inside (Fubini)."""
        if total.space == self.space:
            return total.body
        result = sp.S.Zero
        for coefficient, bodies in self.monomials(total.body):
            if isinstance(bodies, SpaceSum):
                bodies = (self.site_sum(bodies),)
            if len(bodies) != 1:
                raise RuleError(f"a product of sums over {total.space.name} that hold more than one sum over "
                                f"{self.space.name} each: {total}")
            result += SpaceSum(coefficient * bodies[0], total.space)
        return result

    def on_one(self, expr: sp.Expr) -> sp.Expr:
        return expr.xreplace(self.single)

    def mean(self, body: sp.Expr) -> sp.Expr:
        """⟨body⟩ over one site, as (a name for N ⟨body⟩)/N; what does not depend on the site stands outside."""
        body = distribute(body)
        fixed = sp.Add(*(term for term in sp.Add.make_args(body) if not self.holds(term)))
        if fixed != 0:
            return fixed + self.mean(body - fixed)
        factors = sp.Mul.make_args(body)
        inside = [f for f in factors if self.holds(f)]
        outside = sp.Mul(*(f for f in factors if f not in inside))
        nested = [f for f in inside if isinstance(f, SpaceSum)]
        rest = sp.Mul(*(f for f in inside if f not in nested))
        if len(nested) == 1 and open_spaces(rest) <= {self.space}:  # else its terms would have averages of their own
            return outside * SpaceSum(self.mean(rest * nested[0].body), nested[0].space)
        inner = self.on_one(sp.Mul(*inside))
        if inner not in self.named:
            spaces = sorted(open_spaces(inner), key=lambda space: space.name)
            self.named[inner] = Entry(f"<{len(self.named)} on {self.space.name}>", "data", spaces)
        return outside * self.named[inner] / self.space.size

    def partitions(self, bodies: Bodies) -> Iterator[tuple[int, sp.Expr]]:
        """The set partitions of some factors: how many blocks, and the product of the blocks' averages."""
        if not bodies:
            yield 0, sp.S.One
            return
        for blocks in multiset_partitions(list(range(len(bodies)))):
            yield len(blocks), sp.Mul(*(self.mean(sp.Mul(*(bodies[k] for k in block))) for block in blocks))

    def whole_average(self, bodies: Bodies) -> sp.Expr:
        """⟨Π_a M_a⟩ over independent sites, but what only one site has a part in: that stands under one average.

        That is N times an expression in one site, and products of averages over different sites.
        """
        N = self.space.size
        total = sp.S.Zero
        for count, product in self.partitions(bodies):
            total += N * self.on_one(sp.Mul(*bodies)) if count == 1 else sp.ff(N, count) * product
        return total

    def one_site(self, bodies: Bodies, elsewhere: int = 0, share: sp.Expr = sp.S.One) -> sp.Expr:
        """⟨Π_a M_a⟩_others - (1 - 1/N)⟨Π_a M_a⟩: a monomial's part in the one-site action.

        With M_a = g_a + M'_a, subsets A of the factors are of the site itself and the rest is averaged.  The terms
        without the site combine to -(b-1) (N-1)(N-2)…(N-b+1) for b different sites, so that averages over a single
        one cancel.  Of the b sites some may be ``elsewhere``, in other populations; these terms are the same for
        every site then, and ``share`` is this population's part of all sites.
        """
        N = self.space.size
        total = sp.S.Zero
        for chosen in range(2**len(bodies)):
            own = [k for k in range(len(bodies)) if chosen >> k & 1]
            rest = tuple(bodies[k] for k in range(len(bodies)) if k not in own)
            mine = self.on_one(sp.Mul(*(bodies[k] for k in own)))
            for count, product in self.partitions(rest):
                if own:
                    total += mine * sp.ff(N - 1, count) * product
                elif count + elsewhere != 1:
                    total += (1 - count - elsewhere) * share * (sp.ff(N - 1, count - 1) if count else 1 / N) * product
        return total

    def averaged(self, expr: sp.Expr, then: Callable[[sp.Expr, int], sp.Expr]) -> sp.Expr:
        """⟨expr⟩ over independent sites with every average named; ``then`` is given each term and its count of sites.

        The rest of a term, which may hold other populations, goes through ``then`` with it.
        """
        total = sp.S.Zero
        for coefficient, bodies in self.monomials(distribute(expr)):
            if isinstance(bodies, SpaceSum):
                inner = self.averaged(bodies.body, then)
                total += coefficient * SpaceSum(inner, bodies.space)
            else:
                for count, product in self.partitions(bodies):
                    total += then(coefficient * sp.ff(self.space.size, count) * product, count)
        return total

    def map(self, expr: sp.Expr, function: Callable[[Bodies], sp.Expr]) -> sp.Expr:
        """Apply a function of the bodies to every monomial, inside sums over other spaces too."""
        total = sp.S.Zero
        for coefficient, bodies in self.monomials(expr):
            if isinstance(bodies, SpaceSum):
                total += coefficient * SpaceSum(self.map(bodies.body, function), bodies.space)
            else:
                total += coefficient * function(bodies)
        return total


def check_fresh(action: FieldAction, names: Sequence[str]) -> None:
    """Refuse a name that is in use, or is given twice."""
    used = names_in(action.expr, *action.fields, *action.definitions)
    for name in names:
        if name in used:
            raise BadInput("names", name, "a name that is not in use")
        used.add(name)


def decouple(action: FieldAction, space: Space, names: Sequence[str], *,
             others: Mapping[Space, Sequence[str]] | None = None,
             projections: Mapping[Entry, str] | None = None) -> Step:
    r"""The best law of independent, identical sites, as the action s(θ) of one site.

    s(θ) = ⟨S⟩_others - (1 - 1/N) ⟨S⟩, each average a polynomial in averages over one site.  Those that remain are
    order parameters, N ⟨g⟩, called by ``names``; ``details["order_parameters"]`` says of which g.  The variational
    free energy is F = -N ln ∫dθ e^{-s}, stationary at their self-consistent values, and -ln Z ≤ F; the difference is
    the relative entropy of the product law to the exact one (the remainder).  Observables that are polynomials in
    sums over sites become N times an expression in one site, and order parameters; ``projections`` names what the
    order parameter is at other data, such as test inputs, for observables that need it.

    With ``others``, populations of sites with laws of their own, that are independent too, s(θ) is the action of one
    site of ``space`` where their averages, called by the names given, are data.  Of all populations together
    F = -Σ_p N_p ln ∫dθ e^{-s_p}.

    Raises
    ------
    RuleError
        If a field is shared by the sites, the action is not polynomial in the sums over them, or an observable needs
        an average that has no name.
    BadInput
        If there are not as many order parameters as names; the message lists them.
    """
    sites = Sites.of(action, space)
    populations = [Sites.of(action, other) for other in others or {}]
    gone = (*sites.fields, *(f for population in populations for f in population.fields))
    shared = [f for f in action.fields if f not in gone]
    if shared:
        raise RuleError(f"{', '.join(map(str, shared))} is shared by the sites of {space.name}: integrate it out "
                        "first, or keep it (cavity)")
    check_fresh(action, (*names, *(name for found in (others or {}).values() for name in found),
                    *(projections or {}).values()))
    share = space.size / sp.Add(space.size, *(population.space.size for population in populations))

    def through(expr: sp.Expr, last: Callable[[sp.Expr, int], sp.Expr]) -> sp.Expr:
        """Average over the other populations; what is left, and how many sites were averaged over, goes to ``last``."""
        def after(left: Sequence[Sites], expr: sp.Expr, count: int) -> sp.Expr:
            if not left:
                return last(expr, count)
            return left[0].averaged(expr, lambda term, more: after(left[1:], term, count + more))

        return after(populations, expr, 0)

    raw = distribute(through(action.expr, lambda expr, count: sites.map(
        expr, lambda bodies: sites.one_site(bodies, count, sp.cancel(share)))))
    table: dict[Entry, Entry] = {}
    parameters: dict[Entry, sp.Expr] = {}
    for population, called in zip((sites, *populations), (names, *(others or {}).values()), strict=True):
        size = population.space.size
        left = sorted((body for body, name in population.named.items() if depends_on(raw, name)), key=structure_key)
        if len(left) != len(called):
            found = "; ".join(f"{size} <{body}>" for body in left) or "none"
            raise BadInput("names", ", ".join(called) or "none", f"one for each order parameter ({found})")
        entry = {body: Entry(name, "data", population.named[body].spaces)
                 for body, name in zip(left, called, strict=True)}
        table |= {population.named[body]: entry[body] for body in left}
        if population is sites:
            parameters = {entry[body]: size * body for body in left}
    observed = {name: body for other, called in (projections or {}).items()
                for name, body in _at_other_data(parameters, other, called).items()}

    def push(observable: sp.Expr) -> sp.Expr:
        pushed = through(observable, lambda expr, _: sites.map(expr, sites.whole_average))
        known = table | {sites.named[body / space.size]: name for name, body in observed.items()
                         if body / space.size in sites.named}
        pushed = pushed.xreplace(known)
        unnamed = [body for population in (sites, *populations) for body, name in population.named.items()
                   if depends_on(pushed, name)]
        if unnamed:
            raise RuleError(f"an observable needs <{unnamed[0]}> over one site, which the action does not")
        return tidy(sp.expand_func(pushed))

    expr = tidy(sp.expand_func(raw.xreplace(table)))
    after = replace(action, expr=expr, fields=tuple(sites.single.values()))
    size = tex(space.size)
    aside = "" if not populations else " The other populations, " + ", ".join(
        p.space.name for p in populations) + ", enter by their averages."
    return Step("decouple", action, after, push, removed=gone, added=after.fields,
                details={"space": space, "order_parameters": sp.Dict(parameters), "observed": sp.Dict(observed),
                         "aside": sp.Tuple(*(others or {})),
                         "others": sp.Dict({table[name]: population.space.size * body for population in populations
                                            for body, name in population.named.items() if name in table})},
                description=f"The best law of ${size}$ independent, identical sites: each in the average field of the "
                            f"${size} - 1$ others. Its free energy $-{size} \\ln\\int e^{{-s}}$ is an upper bound of "
                            f"$-\\ln Z$; what it exceeds it by is the relative entropy of the two laws.{aside}",
                remainder=DIVERGENCE)


def _at_other_data(parameters: Mapping[Entry, sp.Expr], other: Entry, called: str) -> dict[Entry, sp.Expr]:
    """The order parameter over the samples with other data in place of the samples'; one without data needs none."""
    found: dict[Entry, sp.Expr] = {}
    for m, body in parameters.items():
        data = [e for e in entries(body) if e.is_data and e.spaces[:1] == m.spaces and e.spaces[1:] == other.spaces[1:]]
        if len(data) == 1:
            found[Entry(called, "data", (other.spaces[0],))] = body.xreplace({data[0]: other})
    if len(found) > 1:
        raise RuleError(f"{len(found)} order parameters hold data that {other} could stand in for, not one")
    return found


def gathered(pairs: Pairs) -> Pairs:
    """Pairs with proportional first factors become one."""
    found: dict[sp.Expr, sp.Expr] = {}
    for u, v in pairs:
        scale, direction = _direction(u)
        found[direction] = found.get(direction, sp.S.Zero) + scale * v
    return tuple((bundle(u), bundle(v)) for u, v in found.items())


__all__ = ["DIVERGENCE", "Bundle", "Sites", "bundle", "check_fresh", "decouple", "gathered", "unbundle"]
