r"""Rules that replace many coupled sites by one site in a self-consistent environment.

The sites of a space are coupled through sums over them, M = Σ_i g(θ_i), in which the action is polynomial.  One site
is singled out, M = g(θ) + M', and what it feels of the others is an average over them:

- :func:`decouple`: the best law of independent, identical sites.  It minimises F[q] = ⟨S⟩ + N ∫q ln q, so that
  q(θ) ∝ exp(-⟨S⟩_others), the average over the N-1 others being a polynomial in averages over one site.  With the
  constants of :func:`decouple` the one-site action s(θ) has F = -N ln ∫dθ e^{-s}, and ln Z ≥ -F.
- :func:`cavity`: where the sites are coupled through a field that they share and that enters quadratically, the
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
    variations,
)
from fieldtheory.symbolic.forms import Pairs, gaussian, hessian
from fieldtheory.symbolic.rules import FieldAction, Step, names_in, tex

DIVERGENCE = sp.Symbol("D_KL", positive=True)
"""What the variational free energy exceeds the true one by: the relative entropy of the law kept to the exact law."""
FLUCTUATION = sp.Symbol("delta_K", positive=True)
"""The fluctuation of the other sites' quadratic form about its mean."""

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
class _Sites:
    """The sites of a space: their fields, what they are called on one site, and the averages met so far."""

    space: Space
    fields: tuple[Entry, ...]
    single: dict[sp.Basic, sp.Basic] = field(init=False)
    named: dict[sp.Expr, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.single = {f: Entry(f.name, f.domain, tuple(s for s in f.spaces if s != self.space)) for f in self.fields}

    @classmethod
    def of(cls, action: FieldAction, space: Space) -> _Sites:
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
        if len(nested) == 1:
            rest = sp.Mul(*(f for f in inside if f != nested[0]))
            return outside * SpaceSum(self.mean(rest * nested[0].body), nested[0].space)
        inner = self.on_one(sp.Mul(*inside))
        if inner not in self.named:
            spaces = sorted(open_spaces(inner), key=lambda space: space.name)
            self.named[inner] = Entry(f"<{len(self.named)}>", "data", spaces)
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

    def one_site(self, bodies: Bodies) -> sp.Expr:
        """⟨Π_a M_a⟩_others - (1 - 1/N)⟨Π_a M_a⟩: a monomial's part in the one-site action.

        With M_a = g_a + M'_a, subsets A of the factors are of the site itself and the rest is averaged.  The terms
        without the site combine to -(b-1) (N-1)(N-2)…(N-b+1) for b different sites, so that averages over a single
        one cancel.
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
                elif count != 1:
                    total += (1 - count) * (sp.ff(N - 1, count - 1) if count else 1 / N) * product
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


def _fresh(action: FieldAction, names: Sequence[str]) -> None:
    used = names_in(action.expr, *action.fields, *action.definitions)
    for name in names:
        if name in used:
            raise BadInput("names", name, "a name that is not in use")
        used.add(name)


def decouple(action: FieldAction, space: Space, names: Sequence[str]) -> Step:
    r"""The best law of independent, identical sites, as the action s(θ) of one site.

    s(θ) = ⟨S⟩_others - (1 - 1/N) ⟨S⟩, each average a polynomial in averages over one site.  Those that remain are
    order parameters, N ⟨g⟩, called by ``names``; ``details["order_parameters"]`` says of which g.  The variational
    free energy is F = -N ln ∫dθ e^{-s}, stationary at their self-consistent values, and -ln Z ≤ F; the difference is
    the relative entropy of the product law to the exact one (the remainder).  Observables that are polynomials in
    sums over sites become N times an expression in one site, and order parameters.

    Raises
    ------
    RuleError
        If a field is shared by the sites, the action is not polynomial in the sums over them, or an observable needs
        an average that has no name.
    BadInput
        If there are not as many order parameters as names; the message lists them.
    """
    sites = _Sites.of(action, space)
    shared = [f for f in action.fields if f not in sites.fields]
    if shared:
        raise RuleError(f"{', '.join(map(str, shared))} is shared by the sites of {space.name}: integrate it out "
                        "first, or keep it (cavity)")
    _fresh(action, names)
    raw = distribute(sites.map(action.expr, sites.one_site))
    left = sorted((body for body, name in sites.named.items() if depends_on(raw, name)), key=structure_key)
    if len(left) != len(names):
        found = "; ".join(f"{space.size} <{body}>" for body in left) or "none"
        raise BadInput("names", ", ".join(names) or "none", f"one for each order parameter ({found})")
    table = {sites.named[body]: Entry(name, "data", sites.named[body].spaces)
             for body, name in zip(left, names, strict=True)}
    parameters = {table[sites.named[body]]: space.size * body for body in left}

    def push(observable: sp.Expr) -> sp.Expr:
        pushed = sites.map(observable, sites.whole_average).xreplace(table)
        unnamed = [body for body, name in sites.named.items() if depends_on(pushed, name)]
        if unnamed:
            raise RuleError(f"an observable needs <{unnamed[0]}> over one site, which the action does not")
        return tidy(sp.expand_func(pushed))

    expr = tidy(sp.expand_func(raw.xreplace(table)))
    after = replace(action, expr=expr, fields=tuple(sites.single.values()))
    size = tex(space.size)
    return Step("decouple", action, after, push, removed=sites.fields, added=after.fields,
                details={"space": space, "order_parameters": sp.Dict(parameters)},
                description=f"The best law of ${size}$ independent, identical sites: each in the average field of the "
                            f"${size} - 1$ others. Its free energy $-{size} \\ln\\int e^{{-s}}$ is an upper bound of "
                            "$-\\ln Z$; what it exceeds it by is the relative entropy of the two laws.",
                remainder=DIVERGENCE)


def cavity(action: FieldAction, space: Space, shared: Entry, *, spectrum: str, basis: str, modes: str,
           projections: Mapping[Entry, str] | None = None) -> Step:
    r"""One site and the field that all sites share; the others by the mean of their quadratic form.

    The action must be S = R(j) + Σ_i [s(θ_i) + T(θ_i, j)] with R and T quadratic in the shared field j over samples,
    T of low rank.  The N-1 others add the mean of their form to that of R: C_μν = -(N-1) ⟨∂²T/∂j_μ∂j_ν⟩ (j on the
    imaginary axis), which the law of one site determines in turn.  In its eigenbasis, C = V κ Vᵀ, all is local plus
    low rank, so that j can be integrated out.  An observable with a sum over sites that is linear in j keeps one site
    and the mean over the others, C_*: named ``projections`` in the eigenbasis.

    What is dropped is the fluctuation of the others' form (the remainder): nothing for a single site.

    Raises
    ------
    RuleError
        If the action does not have this form.
    """
    sites = _Sites.of(action, space)
    if [f for f in action.fields if f not in sites.fields] != [shared]:
        raise RuleError(f"the fields besides those of {space.name} are not {shared} alone")
    (sample,) = shared.spaces
    _fresh(action, (spectrum, basis, modes, *(projections or {}).values()))
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
            raise RuleError(f"{shared} multiplies a sum over {space.name}: name that sum first")
        elif depends_on(bodies[0], shared):
            coupled += coefficient * sites.on_one(bodies[0])
        else:
            local += coefficient * sites.on_one(bodies[0])
    constant, moving = rest.as_independent(SpaceSum, as_Add=True)
    law = gaussian(moving, shared)
    form = hessian(coupled, shared)
    pairs = _gathered(tuple((unbundle(u), unbundle(v)) for u, v in form.pairs))
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

    def push(observable: sp.Expr) -> sp.Expr:
        total, body = sp.S.Zero, sp.S.Zero
        for coefficient, bodies in sites.monomials(distribute(observable)):
            if isinstance(bodies, SpaceSum):
                bodies = (sites.site_sum(bodies),)
            if len(bodies) > 1 or (bodies and depends_on(coefficient, shared)):
                raise RuleError("an observable with products of sums over sites is not known to this closure")
            if bodies:
                body += coefficient * sites.on_one(bodies[0])
            else:
                total += _in_modes(coefficient, shared, j, V, sample, mode, rotate)
        if body == 0:
            return tidy(total)
        parts = list(variations(body, shared))
        if sample in open_spaces(body) or len(open_spaces(body)) != 1 or any(
                freed != {sample} or depends_on(u * v, shared) for u, v, freed in parts):
            raise RuleError(f"an observable that is not linear in {shared}, or not open in one other space, is not "
                            "known to this closure")
        pairs = _gathered(tuple((u, v) for u, v, _ in parts))
        pairs = _gathered(tuple((unbundle(v), unbundle(u)) for u, v in pairs))  # by the second factor too
        moving = sp.Add(*(others * u * v for v, u in pairs))
        mean = next((name for name, known in named.items()
                     if sp.expand(unbundle(moving - sp.Add(*(u * v for u, v in known)))) == 0), None)
        if mean is None:
            raise RuleError(f"the mean of {body} over the other sites has no name: give its data in projections")
        total += sp.Add(*(u * SpaceSum(rotate(v) * j, mode) for v, u in pairs)) + SpaceSum(mean * j, mode)
        return tidy(total)

    size = tex(space.size)
    return Step("cavity", action, after, push, removed=(*sites.fields, shared), added=after.fields,
                details={"space": space, "shared": shared, "kernel": sp.Tuple(*kernel), "spectrum": kappa, "basis": V,
                         "single": j, "projections": sp.Dict(named)},
                description=f"One site is singled out; the ${size} - 1$ others are replaced by the mean of their "
                            f"quadratic form in ${tex(shared)}$, with eigenvalues ${tex(kappa)}$ and eigenvectors "
                            f"${tex(V)}$. What is dropped is the fluctuation of that form.",
                remainder=FLUCTUATION)


def _gathered(pairs: Pairs) -> Pairs:
    """Pairs with proportional first factors become one."""
    found: dict[sp.Expr, sp.Expr] = {}
    for u, v in pairs:
        scale, direction = _direction(u)
        found[direction] = found.get(direction, sp.S.Zero) + scale * v
    return tuple((bundle(u), bundle(v)) for u, v in found.items())


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


__all__ = ["DIVERGENCE", "FLUCTUATION", "cavity", "decouple"]
