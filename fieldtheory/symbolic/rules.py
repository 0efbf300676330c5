"""Rules that turn one action into another.

An action is minus the log of an unnormalised density over its fields, with flat measure: dφ for a real or
positive field, dφ/2πi for an imaginary one.  Each rule takes an action and returns a :class:`Step`, which
holds the action before and after, and knows how an *observable* of the old fields becomes an observable of
the new ones, so that what a theory predicts is derived along with its action.  A rule that does not apply
raises and names the reason.  Derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.fields import (
    Entry,
    Space,
    SpaceSum,
    depends_on,
    distribute,
    open_spaces,
    rename,
    structure_key,
    sum_over,
    sums,
    tidy,
    top_atoms,
    top_replace,
    vary,
)
from fieldtheory.symbolic.forms import gaussian, gaussian_average


@dataclass(frozen=True)
class FieldAction:
    """S[fields]: a closed expression, the fields integrated over, and what its parameters stand for.

    ``definitions`` say what a parameter or a datum stands for (g = σ_a² N^{1-γ}, λ = σ_w² ξ); they are used
    for counting powers, for derivatives in hyperparameters and for numbers, never silently substituted.
    """

    expr: sp.Expr
    fields: tuple[sp.Expr, ...]
    definitions: Mapping[sp.Expr, sp.Expr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if open_spaces(self.expr):
            names = ", ".join(sorted(space.name for space in open_spaces(self.expr)))
            raise BadInput("expr", f"an expression open in {names}", "a closed expression (a number, not a vector)")

    def replace_expr(self, expr: sp.Expr) -> FieldAction:
        return replace(self, expr=expr)

    def find(self, name: str) -> sp.Expr:
        """The field of that name."""
        for candidate in self.fields:
            if str(getattr(candidate, "name", candidate)) == name:
                return candidate
        known = ", ".join(str(getattr(f, "name", f)) for f in self.fields)
        raise BadInput("field", name, f"one of the fields {known}")

    def rename(self, names: Mapping[str, str]) -> FieldAction:
        """The same action with fields, spaces and symbols renamed.

        Raises
        ------
        BadInput
            If two of them would then share a name.
        """
        used = names_in(self.expr, *self.fields, *self.definitions, *self.definitions.values())
        check_distinct(names, used)
        return FieldAction(
            rename(self.expr, names),
            tuple(rename(f, names) for f in self.fields),
            {rename(k, names): rename(v, names) for k, v in self.definitions.items()})


def names_in(*exprs: sp.Basic) -> set[str]:
    """The names of all entries, spaces and symbols in some expressions."""
    return {str(node.name) for expr in exprs for node in expr.atoms(Entry, Space, sp.Symbol)}


def check_distinct(names: Mapping[str, str], used: set[str]) -> None:
    """Refuse to give two things one name."""
    taken: dict[str, str] = {}
    for old in sorted(used):
        new = names.get(old, old)
        if new in taken:
            raise BadInput("names", f"{new} for both {taken[new]} and {old}", "names that differ")
        taken[new] = old


def _check_fresh(action: FieldAction, **names: str) -> None:
    used = names_in(action.expr, *action.fields, *action.definitions, *action.definitions.values())
    for argument, name in names.items():
        if name in used:
            raise BadInput(argument, name, "a name that is not in use")
        used.add(name)


Push = Callable[[sp.Expr], sp.Expr]


@dataclass(frozen=True)
class Step:
    """One rule applied once.

    ``removed`` and ``added`` are fields integrated out and introduced: the step claims that integrating the
    removed ones out of exp(-before) and the added ones out of exp(-after) leaves the same function.
    ``substitution`` maps old fields to expressions in new ones where the step is a change of variables.
    """

    rule: str
    before: FieldAction
    after: FieldAction
    push: Push
    removed: tuple[sp.Expr, ...] = ()
    added: tuple[sp.Expr, ...] = ()
    substitution: Mapping[sp.Basic, sp.Basic] = field(default_factory=dict)
    details: Mapping[str, sp.Basic] = field(default_factory=dict)
    description: str = ""
    remainder: sp.Expr | None = None
    check: Callable[..., Any] | None = None
    """How to verify the step numerically, from a random generator; only an approximate step needs its own."""

    @property
    def exact(self) -> bool:
        return self.remainder is None

    @property
    def definitions(self) -> Mapping[sp.Expr, sp.Expr]:
        """Definitions that this step adds."""
        return {k: v for k, v in self.after.definitions.items() if k not in self.before.definitions}


def _without(action: FieldAction, *gone: sp.Expr) -> tuple[sp.Expr, ...]:
    return tuple(f for f in action.fields if f not in gone)


def _check_field(action: FieldAction, candidate: sp.Expr) -> None:
    if candidate not in action.fields:
        known = ", ".join(str(f) for f in action.fields) or "none"
        raise BadInput("field", candidate, f"a field of the action ({known})")


def tex(name: sp.Expr) -> str:
    """The name of a field in LaTeX, without indices."""
    return sp.latex(sp.Symbol(str(getattr(name, "name", name))))


def _domain(candidate: sp.Expr) -> str:
    return candidate.domain if isinstance(candidate, Entry) else "real"


def integrate_out(action: FieldAction, candidate: sp.Expr) -> Step:
    r"""Integrate a Gaussian field out exactly.

    With S = c + b·φ + ½ φᵀHφ and n components, a real field leaves S' = c - ½ bᵀH⁻¹b + ½ ln det(H/2π), an
    imaginary one (measure dφ/2πi) S' = c - ½ bᵀH⁻¹b + ½ ln det(-2πH).  Observables are averaged over the
    conditional Gaussian law.

    Raises
    ------
    NotGaussian
        If the field does not enter quadratically; the message says how it enters.
    RuleError
        If its form is neither local nor low rank, or has a sign for which the integral diverges, or the field is
        positive.
    """
    _check_field(action, candidate)
    domain = _domain(candidate)
    if domain == "positive":
        raise RuleError(f"{candidate} is positive: a Gaussian integral over a half line is not Gaussian")
    law = gaussian(action.expr, candidate)
    oriented = law.form.scale(sp.Integer(-1)) if domain == "imaginary" else law.form
    if oriented.is_known_not_positive:
        low_rank = " and low-rank terms" if law.form.pairs else ""
        raise RuleError(f"the integral over {candidate} diverges: its quadratic form, with diagonal {law.form.diag}"
                        f"{low_rank}, must be {'negative' if domain == 'imaginary' else 'positive'}")
    size = candidate.size if isinstance(candidate, Entry) else sp.S.One
    shifted = law.constant - law.completed_square
    if domain == "imaginary":
        shifted += (law.form.scale(sp.S.NegativeOne).log_det() + size * sp.log(2 * sp.pi)) / 2
    else:
        shifted += (law.form.log_det() - size * sp.log(2 * sp.pi)) / 2
    after = replace(action, expr=tidy(shifted), fields=_without(action, candidate))
    return Step("integrate_out", action, after, lambda observable: gaussian_average(observable, law),
                removed=(candidate,), details={"mean": law.mean, "variance": law.covariance.diag},
                description=f"The action is Gaussian in ${tex(candidate)}$, which is integrated out.")


def replacement(definition: sp.Expr, name: sp.Expr) -> dict[sp.Expr, sp.Expr]:
    """The substitution that turns ``definition`` into ``name``: one of its terms is replaced, and the others cancel."""
    terms = [term.as_coeff_Mul() for term in sp.Add.make_args(definition)]
    alone = [(factor, node) for factor, node in terms if sum(other.has(node) for _, other in terms) == 1]
    factor, node = max(alone, key=lambda term: structure_key(term[1]))
    return {node: (name - (definition - factor * node)) / factor}


def introduce(action: FieldAction, name: Entry, definition: sp.Expr, conjugate: Entry) -> Step:
    r"""Name a quantity E[fields] and impose the name by a conjugate field: 1 = ∫dq dq̂/(2πi) e^{-q̂·(q-E)}.

    ``definition`` may be a number (an order parameter, Σ_i a_i²) or open in the spaces of ``name`` (an output,
    f_μ = Σ_i a_i h_iμ); it is replaced by the name wherever the action contains it.  The conjugate is imaginary.

    Raises
    ------
    RuleError
        If the spaces do not match, or the action does not contain the definition.
    BadInput
        If a name is in use, or the domain does not hold all values of the definition: "positive" only for what
        cannot be negative.
    """
    if conjugate.domain != "imaginary":
        raise BadInput("conjugate", f"{conjugate.name} with domain {conjugate.domain}", "an imaginary field")
    if name.domain not in ("real", "positive"):
        raise BadInput("domain", name.domain, "real or positive")
    _check_fresh(action, name=name.name, conjugate=conjugate.name)
    if frozenset(name.spaces) != open_spaces(definition) or name.spaces != conjugate.spaces:
        raise RuleError(f"{name.name}, its conjugate and its definition must live on the same spaces")
    if name.domain == "positive" and not definition.is_nonnegative:
        raise BadInput("domain", f"positive for {definition}", "real, for a quantity that may be negative")
    table = replacement(definition, name)
    named = tidy(action.expr.xreplace(table))
    if not depends_on(named, name):
        raise RuleError(f"the action does not contain the definition of {name.name}, so naming it changes nothing")
    expr = named + sum_over(conjugate * (name - definition), name.spaces)
    after = replace(action, expr=tidy(expr), fields=(*action.fields, name, conjugate))
    return Step("introduce", action, after, lambda observable: observable.xreplace(table),
                added=(name, conjugate), details={"definition": definition},
                description=f"The quantity that appears in the action is named ${tex(name)}$, and the name is imposed "
                            f"by a conjugate field ${tex(conjugate)}$ on the imaginary axis.")


def integrate_conjugate(action: FieldAction, conjugate: Entry) -> Step:
    r"""∫dh/(2πi) e^{-κh} (c + d h)^{-α} = e^{κc/d} (-κ/d)^{α-1} / (|d| Γ(α)): the law of a sum of squares.

    Applies to a scalar imaginary field that enters only as κ h + α ln(c + d h), with -κ/d and α positive.

    Raises
    ------
    RuleError
        If it enters in any other way, or a sign that the contour needs cannot be decided.
    """
    _check_field(action, conjugate)
    if conjugate.domain != "imaginary" or conjugate.spaces:
        raise RuleError(f"{conjugate} is not a scalar imaginary field")
    h = sp.Dummy("h")
    opened = distribute(action.expr.xreplace({conjugate: h}))
    logs = [term for term in sp.Add.make_args(opened) if term.has(h) and term.has(sp.log)]
    linear = sp.Add(*(term for term in sp.Add.make_args(opened) if term.has(h) and not term.has(sp.log)))
    rest = sp.Add(*(term for term in sp.Add.make_args(opened) if not term.has(h)))
    kappa = sp.diff(linear, h)
    arguments = {log.args[0] for term in logs for log in term.atoms(sp.log) if log.has(h)}
    if kappa.has(h) or kappa == 0 or len(arguments) != 1:
        raise RuleError(f"{conjugate} does not enter as κ h + α ln(c + d h)")
    argument = arguments.pop()
    alpha, d = sp.Add(*logs) / sp.log(argument), sp.diff(argument, h)
    c = argument.xreplace({h: sp.S.Zero})
    if alpha.has(h) or d.has(h):
        raise RuleError(f"{conjugate} does not enter as κ h + α ln(c + d h)")
    t = -kappa / d
    if not (d.is_positive or d.is_negative) or not t.is_positive or not alpha.is_positive:
        raise RuleError(f"the contour of {conjugate} needs the signs of {d}, {t} and {alpha}, which are not decided")
    expr = rest - kappa * c / d - (alpha - 1) * sp.log(t) + sp.log(sp.Abs(d)) + sp.loggamma(alpha)
    after = replace(action, expr=tidy(expr), fields=_without(action, conjugate))

    def push(observable: sp.Expr) -> sp.Expr:
        if depends_on(observable, conjugate):
            raise RuleError(f"an observable that contains the conjugate {conjugate} cannot be averaged here")
        return observable

    return Step("integrate_conjugate", action, after, push, removed=(conjugate,),
                description=f"The integral over ${tex(conjugate)}$ is the inverse Laplace transform of a power.")


def change_variable(action: FieldAction, old: Entry, new: sp.Expr, expression: sp.Expr) -> Step:
    r"""Change a scalar field, old = x(new), with its Jacobian: S'(new) = S(x(new)) - ln|dx/dnew|.

    Raises
    ------
    RuleError
        If the map is not monotone for every value of the new field, as far as its sign can be decided, or does
        not reach exactly the values over which the old field is integrated.
    BadInput
        If the field is a plain symbol, or the new name is in use.
    """
    _check_field(action, old)
    if not isinstance(old, Entry):
        raise BadInput("field", f"the symbol {old}", f"a field that says what it ranges over: Entry('{old}', 'real')")
    if old.spaces or not isinstance(new, Entry) or new.spaces:
        raise RuleError("only scalar fields are changed here")
    jacobian = vary(expression, new)
    if not (jacobian.is_positive or jacobian.is_negative):
        raise RuleError(f"{expression} is not known to be monotone in {new}")
    _check_fresh(action, new=new.name)
    _check_range(old, new, expression)
    table = {old: expression}
    expr = action.expr.xreplace(table) - sp.log(sp.Abs(jacobian))
    after = replace(action, expr=tidy(expr), fields=tuple(new if f == old else f for f in action.fields))
    return Step("change_variable", action, after, lambda observable: observable.xreplace(table),
                substitution=table, details={"jacobian": jacobian},
                description=f"Change variables from ${tex(old)}$ to ${tex(new)}$, with the Jacobian.")


RANGES = {"real": (-sp.oo, sp.oo), "positive": (sp.S.Zero, sp.oo)}
"""The values of a field on a real contour."""


def _check_range(old: Entry, new: Entry, expression: sp.Expr) -> None:
    """A monotone map reaches what lies between its limits: these must be the ends of the old field's range."""
    if old.domain not in RANGES or new.domain not in RANGES:
        raise RuleError(f"only real and positive fields are changed here, not {old.domain} to {new.domain}")
    z = sp.Dummy("z", real=True, positive=new.domain == "positive" or None)
    lower, upper = RANGES[new.domain]
    mapped = expression.xreplace({new: z})
    try:
        ends = {sp.limit(mapped, z, lower, "+"), sp.limit(mapped, z, upper, "-")}
    except (NotImplementedError, ValueError) as error:
        raise RuleError(f"the limits of {expression} are not known") from error
    if ends != set(RANGES[old.domain]):
        reached = " and ".join(sorted(map(str, ends)))
        raise RuleError(f"{expression} runs between {reached}, and {old} over all {old.domain} numbers: "
                        "the integral would change")


def leading_order(action: FieldAction, large: sp.Symbol) -> Step:
    r"""Keep the leading order in 1/N, everything else (sums, sizes of other spaces, other parameters) held fixed.

    The step is approximate: what does not fall with N is kept, ``details`` holds the first term dropped, and the
    remainder is its power N^-k.  Observables are kept through all orders before N^-k.

    Raises
    ------
    RuleError
        If the terms that fall with N are not whole powers of 1/N, if there are none among the first
        ``MAX_ORDER``, or if N stands inside a sum.
    """
    falling: list[sp.Expr] = []
    for end in range(2, MAX_ORDER + 2):
        powers = _powers(action.expr, large, end)
        falling = sorted(power for power in powers if power > 0)
        if falling:
            break
    if not falling:
        raise RuleError(f"no term of the action falls with {large}, to order {large}^-{MAX_ORDER}: nothing to drop")
    first = falling[0]
    kept = sp.Add(*(term for power, term in powers.items() if power <= 0))
    dropped = powers[first]
    after = replace(action, expr=tidy(kept))

    def push(observable: sp.Expr) -> sp.Expr:
        terms = _powers(observable, large, int(first))
        return tidy(sp.Add(*(term for power, term in terms.items() if power < first)))

    return Step("leading_order", action, after, push, details={"dropped": dropped},
                description=f"Keep the leading order in $1/{tex(large)}$, everything else held fixed.",
                remainder=large**-first)


MAX_ORDER = 6
"""How far ``leading_order`` looks for the first term that falls with N."""


def _powers(expr: sp.Expr, large: sp.Symbol, end: int) -> dict[sp.Expr, sp.Expr]:
    """The terms of an expansion in 1/N by their power of 1/N, below ``end``; powers above zero are whole."""
    atoms = {a: sp.Dummy(positive=a.is_positive) for a in top_atoms(expr) if a != large}
    sizes = {symbol for a in atoms for space in a.atoms(Space) for symbol in space.size.free_symbols}
    if large in sizes or any(large in a.free_symbols for a in atoms):
        raise RuleError(f"{large} stands inside a sum: its expansion there is not uniform")
    small = sp.Dummy("epsilon", positive=True)
    opened = top_replace(expr, atoms).xreplace({large: 1 / small})
    back = {dummy: a for a, dummy in atoms.items()} | {small: 1 / large}
    try:
        expansion = sp.expand(sp.series(opened, small, 0, end).removeO())
    except (sp.PoleError, NotImplementedError, ValueError) as error:
        raise RuleError(f"the action or an observable has no known expansion in powers of 1/{large}") from error
    found: dict[sp.Expr, sp.Expr] = {}
    for term in sp.Add.make_args(expansion):
        rest = term.as_independent(small, as_Add=False)[1]
        factors = rest.as_powers_dict()
        power = sp.sympify(factors.pop(small, 0))
        logs = sp.Mul(*(base**exponent for base, exponent in factors.items()))
        falls = power > 0 or (power == 0 and logs != 1 and sp.limit(logs, small, 0, "+") == 0)
        if falls and not (power.is_Integer and logs == 1):
            raise RuleError(f"{term.xreplace(back)} is not a whole power of 1/{large}, and nothing bounds what follows")
        if power < end:
            found[power] = found.get(power, sp.S.Zero) + term.xreplace(back)
    return found


def factorise(action: FieldAction, space: Space) -> Step:
    r"""Sites that are independent, S = R + Σ_i S₁(fields_i), integrate to the N-th power of one site's integral.

    The result holds the one-site integral as :class:`LogIntegral`; integrating out a field of the site goes
    inside it, and when no field is left it is an ordinary expression.

    Raises
    ------
    RuleError
        If the sites are coupled: the action is not linear in sums over ``space``.
    """
    gone = tuple(f for f in action.fields if isinstance(f, Entry) and space in f.spaces)
    if not gone:
        raise RuleError(f"no field lives on {space.name}")
    single = {f: Entry(f.name, f.domain, tuple(s for s in f.spaces if s != space)) for f in gone}
    body, rest = sp.S.Zero, sp.S.Zero
    for term in sp.Add.make_args(distribute(action.expr)):
        site_sums = [total for total in sums(term) if any(depends_on(total, f) for f in gone)]
        if not site_sums:
            rest += term
            continue
        coefficient, total = _one_site_sum(term, space, gone)
        body += coefficient * total.body
    one_site = LogIntegral(body.xreplace(single), sp.Tuple(*single.values()))
    after = replace(action, expr=rest - space.size * one_site, fields=_without(action, *gone))

    def push(observable: sp.Expr) -> sp.Expr:
        if any(depends_on(observable, f) for f in gone):
            raise RuleError(f"an observable of the sites of {space.name} is averaged before factorising")
        return observable

    return Step("factorise", action, after, push, removed=gone, details={"space": space},
                description=f"The sites of {space.name} are independent: their integral is the power of one.")


def _one_site_sum(term: sp.Expr, space: Space, gone: tuple[Entry, ...]) -> tuple[sp.Expr, SpaceSum]:
    """term = coefficient · Σ_i body; sums over other spaces outside Σ_i are moved inside (Fubini)."""
    dependent = [f for f in sp.Mul.make_args(term) if any(depends_on(f, g) for g in gone)]
    coefficient = sp.Mul(*(f for f in sp.Mul.make_args(term) if f not in dependent))
    if len(dependent) == 1 and isinstance(dependent[0], SpaceSum):
        total = dependent[0]
        if total.space == space:
            return coefficient, total
        inner = distribute(total.body)
        if not inner.is_Add:
            inner_coefficient, inner_total = _one_site_sum(inner, space, gone)
            body = SpaceSum(inner_coefficient * inner_total.body, total.space)
            swapped = SpaceSum(body, space)
            if isinstance(swapped, SpaceSum) and swapped.space == space:
                return coefficient, swapped
    raise RuleError(f"the sites of {space.name} are coupled through {term}")


class LogIntegral(sp.Expr):
    """ln ∫ dφ e^{-body} over the fields of one site (imaginary fields with dφ/2πi): args (body, fields)."""

    is_commutative = True

    def __new__(cls, body: sp.Expr, fields: sp.Tuple) -> sp.Expr:  # type: ignore[misc]
        if not fields:
            return -body
        return super().__new__(cls, body, fields)

    @property
    def body(self) -> sp.Expr:
        return self.args[0]  # type: ignore[return-value]

    @property
    def fields(self) -> tuple[Entry, ...]:
        return tuple(self.args[1])  # type: ignore[arg-type]


def integrate_site(action: FieldAction, candidate: Entry) -> Step:
    """Integrate a Gaussian field out inside the one-site integral that holds it."""
    holders = [node for node in sp.preorder_traversal(action.expr)
               if isinstance(node, LogIntegral) and candidate in node.fields]
    if not holders:
        raise BadInput("field", candidate, "a field of a one-site integral")
    inner = integrate_out(FieldAction(holders[0].body, holders[0].fields), candidate)
    after = action.replace_expr(action.expr.xreplace(
        {holders[0]: LogIntegral(inner.after.expr, sp.Tuple(*inner.after.fields))}))
    return Step("integrate_site", action, after, lambda observable: observable, removed=(candidate,),
                description=f"The one-site action is Gaussian in ${tex(candidate)}$, which is integrated out.")
