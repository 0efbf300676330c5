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
        """The same action with fields, spaces and symbols renamed."""
        return FieldAction(
            rename(self.expr, names),
            tuple(rename(f, names) for f in self.fields),
            {rename(k, names): rename(v, names) for k, v in self.definitions.items()})


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


def _tex(name: sp.Expr) -> str:
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
        If its form is neither local nor low rank, or the field is positive.
    """
    _check_field(action, candidate)
    domain = _domain(candidate)
    if domain == "positive":
        raise RuleError(f"{candidate} is positive: a Gaussian integral over a half line is not Gaussian")
    law = gaussian(action.expr, candidate)
    size = candidate.size if isinstance(candidate, Entry) else sp.S.One
    shifted = law.constant - law.completed_square
    if domain == "imaginary":
        shifted += (law.form.scale(sp.S.NegativeOne).log_det() + size * sp.log(2 * sp.pi)) / 2
    else:
        shifted += (law.form.log_det() - size * sp.log(2 * sp.pi)) / 2
    after = replace(action, expr=tidy(shifted), fields=_without(action, candidate))
    return Step("integrate_out", action, after, lambda observable: gaussian_average(observable, law),
                removed=(candidate,), details={"mean": law.mean, "variance": law.covariance.diag},
                description=f"The action is Gaussian in ${_tex(candidate)}$, which is integrated out.")


def introduce(action: FieldAction, name: Entry, definition: sp.Expr, conjugate: Entry) -> Step:
    r"""Name a quantity E[fields] and impose the name by a conjugate field: 1 = ∫dq dq̂/(2πi) e^{-q̂·(q-E)}.

    ``definition`` may be a number (an order parameter, Σ_i a_i²) or open in the spaces of ``name`` (an output,
    f_μ = Σ_i a_i h_iμ); it is replaced by the name wherever the action contains it.  The conjugate is imaginary.

    Raises
    ------
    RuleError
        If the spaces do not match, or the action does not contain the definition.
    """
    if conjugate.domain != "imaginary":
        raise BadInput("conjugate", f"{conjugate.name} with domain {conjugate.domain}", "an imaginary field")
    if frozenset(name.spaces) != open_spaces(definition) or name.spaces != conjugate.spaces:
        raise RuleError(f"{name.name}, its conjugate and its definition must live on the same spaces")
    factor, node = definition.as_coeff_Mul()
    table = {node: name / factor}
    named = action.expr.xreplace(table)
    if named == action.expr:
        raise RuleError(f"the action does not contain the definition of {name.name}, so naming it changes nothing")
    expr = named + sum_over(conjugate * (name - definition), name.spaces)
    after = replace(action, expr=tidy(expr), fields=(*action.fields, name, conjugate))
    return Step("introduce", action, after, lambda observable: observable.xreplace(table),
                added=(name, conjugate), details={"definition": definition},
                description=f"The quantity that appears in the action is named ${_tex(name)}$, and the name is imposed "
                            f"by a conjugate field ${_tex(conjugate)}$ on the imaginary axis.")


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
                description=f"The integral over ${_tex(conjugate)}$ is the inverse Laplace transform of a power.")


def change_variable(action: FieldAction, old: Entry, new: sp.Expr, expression: sp.Expr) -> Step:
    r"""Change a scalar field, old = x(new), with its Jacobian: S'(new) = S(x(new)) - ln|dx/dnew|.

    Raises
    ------
    RuleError
        If the map is not monotone for every real value of the new field, as far as its sign can be decided.
    """
    _check_field(action, old)
    if old.spaces or not isinstance(new, Entry) or new.spaces:
        raise RuleError("only scalar fields are changed here")
    jacobian = vary(expression, new)
    if not (jacobian.is_positive or jacobian.is_negative):
        raise RuleError(f"{expression} is not known to be monotone in {new}")
    table = {old: expression}
    expr = action.expr.xreplace(table) - sp.log(sp.Abs(jacobian))
    after = replace(action, expr=tidy(expr), fields=tuple(new if f == old else f for f in action.fields))
    return Step("change_variable", action, after, lambda observable: observable.xreplace(table),
                substitution=table, details={"jacobian": jacobian},
                description=f"Change variables from ${_tex(old)}$ to ${_tex(new)}$, with the Jacobian.")


def diagonalise(action: FieldAction, matrix: Entry, rows: Space, modes: Space, *, spectrum: Entry, scale: sp.Expr,
                projections: Mapping[Entry, Entry] | None = None, definition: sp.Expr | None = None) -> Step:
    r"""Rotate the rows of a data matrix into the eigenbasis of its Gram matrix.

    X_μd = Σ_k U_μk (scale·λ_k)^{1/2} V_kd with orthonormal U and V, so that X Xᵀ = U (scale·λ) Uᵀ.  Every field
    and datum over ``rows`` becomes its component over ``modes``; sums over the columns are contracted by
    Σ_d V_kd V_ld = δ_kl.  ``projections`` names X' Xᵀ U for other matrices X' with the same columns (test inputs);
    ``definition`` says what the spectrum stands for.

    Raises
    ------
    RuleError
        If the action is not invariant under the rotation: a non-linear function stands between the matrix and
        a sum over rows, or something over the rows enters other than linearly and quadratically.
    """
    if rows not in matrix.spaces or len(matrix.spaces) != 2:
        raise BadInput("matrix", matrix, f"a data matrix over {rows.name} and one other space")
    (columns,) = (space for space in matrix.spaces if space != rows)
    vectors = Entry(f"V_{matrix.name}", "data", (modes, columns))
    projections = dict(projections or {})
    root = sp.sqrt(scale * spectrum)

    def rotate(expr: sp.Expr) -> sp.Expr:
        table: dict[sp.Basic, sp.Basic] = {matrix: root * vectors, rows: modes}
        for entry in expr.atoms(Entry):
            if rows in entry.spaces and entry != matrix:
                table[entry] = Entry(entry.name, entry.domain,
                                     tuple(modes if space == rows else space for space in entry.spaces))
        _check_rotation(expr, rows, matrix)
        rotated = expr.xreplace(table)
        contracted = _contract(rotated, vectors, root, modes, columns, projections)
        left = [a for a in contracted.atoms(Entry) if a == vectors or a in projections]
        if left:
            raise RuleError(f"{left[0]} remains after the rotation: the action is not a function of the Gram matrix of "
                            f"{matrix.name}, or a non-linear function stands in the way")
        return contracted

    fields = []
    for candidate in action.fields:
        if isinstance(candidate, Entry) and rows in candidate.spaces:
            candidate = Entry(candidate.name, candidate.domain,
                              tuple(modes if space == rows else space for space in candidate.spaces))
        fields.append(candidate)
    definitions = {key.xreplace({rows: modes}): value for key, value in action.definitions.items()}
    if definition is not None:
        definitions[spectrum] = definition
    after = FieldAction(rotate(action.expr), tuple(fields), definitions)
    return Step("diagonalise", action, after, rotate,
                details={"matrix": matrix, "rows": rows, "modes": modes, "spectrum": spectrum, "scale": scale,
                         "projections": sp.Dict(projections)},
                description=f"Rotate the samples into the eigenbasis of the Gram matrix of ${_tex(matrix)}$, with "
                            f"eigenvalues ${_tex(spectrum)}$ of the kernel $K$; what lives on samples keeps its name.")


def _check_rotation(expr: sp.Basic, rows: Space, matrix: Entry) -> None:
    """Only sums over rows that are bilinear in what lives on the rows are invariant under a rotation of the rows."""
    for total in expr.atoms(SpaceSum):
        if total.space != rows:
            continue
        for term in sp.Add.make_args(sp.expand(total.body)):
            degree = 0
            for factor in sp.Mul.make_args(term):
                base, exponent = factor.as_base_exp()
                if rows not in open_spaces(base):
                    continue
                if not isinstance(base, Entry | SpaceSum) or not exponent.is_Integer or exponent < 1:
                    raise RuleError(f"{factor} over {rows.name} is not linear: the rotation by {matrix.name} does not "
                                    "commute with it")
                degree += int(exponent)
            if degree != 2:
                raise RuleError(f"a sum over {rows.name} of degree {degree} is not invariant under a rotation")


def _contract(expr: sp.Expr, vectors: Entry, root: sp.Expr, modes: Space, columns: Space,
              projections: Mapping[Entry, Entry]) -> sp.Expr:
    """Σ over columns of two factors, each linear in V: Σ_d V_kd V_ld = δ_kl and Σ_d X'_td V_kd = projection/root."""

    def contract(node: sp.Expr) -> sp.Expr:
        if isinstance(node, SpaceSum):
            body = contract(node.body)
            if node.space != columns:
                return SpaceSum(body, node.space)
            return sp.Add(*(_contract_term(term) for term in sp.Add.make_args(distribute(body))))
        if not node.args or isinstance(node, Entry):
            return node
        return node.func(*(contract(arg) for arg in node.args))

    def _contract_term(term: sp.Expr) -> sp.Expr:
        outside: list[sp.Expr] = []
        factors: list[sp.Expr] = []
        for factor in sp.Mul.make_args(term):
            base, exponent = factor.as_base_exp()
            if columns not in open_spaces(factor):
                outside.append(factor)
            elif exponent.is_Integer and exponent > 0:
                factors.extend([base] * int(exponent))
            else:
                factors.append(factor)
        if len(factors) != 2:
            return SpaceSum(term, columns)
        (left, kind_left), (right, kind_right) = sorted(
            ((f, _kind(f)) for f in factors), key=lambda pair: ("open", "summed", "other").index(pair[1]))
        if kind_left == "open" and kind_right == "open":
            contracted: sp.Expr = sp.S.One
        elif kind_left == "open" and kind_right == "summed":
            contracted = right.body / vectors
        elif kind_left == "summed" and kind_right == "summed":
            contracted = SpaceSum(left.body / vectors * (right.body / vectors), modes)
        elif kind_right == "other" and right in projections:
            named = projections[right] / root
            contracted = named if kind_left == "open" else SpaceSum(left.body / vectors * named, modes)
        else:
            return SpaceSum(term, columns)
        return sp.Mul(*outside, contracted)

    def _kind(factor: sp.Expr) -> str:
        if factor == vectors:
            return "open"
        if isinstance(factor, SpaceSum) and factor.space == modes and not depends_on(factor.body / vectors, vectors):
            return "summed"
        return "other"

    return contract(expr)


def leading_order(action: FieldAction, large: sp.Symbol) -> Step:
    r"""Keep the leading order in 1/N, everything else (sums, sizes of other spaces, other parameters) held fixed.

    The step is approximate: its remainder is O(1/N), and ``details`` holds the first term dropped.

    Raises
    ------
    RuleError
        If the action has no expansion in whole powers of 1/N, or N stands inside a sum.
    """

    def truncate(expr: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
        atoms = {a: sp.Dummy(positive=a.is_positive) for a in top_atoms(expr) if a != large}
        sizes = {symbol for a in atoms for space in a.atoms(Space) for symbol in space.size.free_symbols}
        if large in sizes or any(large in a.free_symbols for a in atoms):
            raise RuleError(f"{large} stands inside a sum: its expansion there is not uniform")
        small = sp.Dummy("epsilon", positive=True)
        opened = top_replace(expr, atoms).xreplace({large: 1 / small})
        expansion = sp.series(opened, small, 0, 2).removeO()
        kept = sp.Add(*(t for t in sp.Add.make_args(sp.expand(expansion)) if not _vanishes(t, small)))
        dropped = sp.expand(expansion) - kept
        back = {dummy: a for a, dummy in atoms.items()} | {small: 1 / large}
        return tidy(kept.xreplace(back)), dropped.xreplace(back)

    kept, dropped = truncate(action.expr)
    after = replace(action, expr=kept)
    return Step("leading_order", action, after, lambda observable: truncate(observable)[0],
                details={"dropped": dropped},
                description=f"Keep the leading order in $1/{_tex(large)}$, everything else held fixed.",
                remainder=1 / large)


def _vanishes(term: sp.Expr, small: sp.Symbol) -> bool:
    return bool(sp.limit(term, small, 0, "+") == 0)


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
                description=f"The one-site action is Gaussian in ${_tex(candidate)}$, which is integrated out.")
