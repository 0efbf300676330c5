r"""Names for what the actions and averages of one site repeat, found in the expressions themselves.

- :func:`features`: the activation, read off the output Σ_i a_i φ(h_i): each of its values gets the name φ.
- :func:`merged`: two sums Σ u_μ φ_μ and Σ v_μ φ_μ that an expression holds only as Σ (u_μ + c v_μ) φ_μ become one.
- :func:`sums`: sums over a space that depend on the site's fields, are wide, and occur often.

Nothing changes in value where the names stand for their definitions.  Derived here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import sympy as sp

from fieldtheory.symbolic.arrange import is_average
from fieldtheory.symbolic.fields import Entry, SpaceSum, depends_on, open_spaces, top_atoms, top_replace

ACTIVATION = "phi"
RESIDUAL = ("r", "h", "t", "u")
"""Names of merged data, the first that is free."""
ODD, EVEN = ("b", "c", "q", "h", "l", "t", "e"), ("B", "C", "A", "G", "L", "M", "U", "Y", "Z")
"""Names of sums of odd and even degree in the fields of a site."""
OFTEN, WIDE = 3, 8.0
"""How often a sum must occur, and how wide it must be, to get a name."""


class Mean(sp.Expr):
    """⟨body⟩ over the fields of one site as it is shown, the law left out: args (body, fields)."""

    is_commutative = True

    @property
    def fields(self) -> tuple[Entry, ...]:
        return tuple(self.args[1])  # type: ignore[arg-type]

    def _latex(self, printer: Any) -> str:
        return rf"\left\langle {printer._print(self.args[0])} \right\rangle{printer.bound_fields(self)}"


def shown_means(expr: Any) -> Any:
    """Every average over a site as a `Mean`."""
    found = {node for node in sp.preorder_traversal(expr) if is_average(node) and not isinstance(node, Mean)}
    return expr.xreplace({node: Mean(node.args[0], next(arg for arg in node.args if isinstance(arg, sp.Tuple)))
                          for node in found})


def simplest(expr: Any, fields: Collection[sp.Basic], width: Callable[[sp.Expr], float]) -> Any:
    """Averages with fractions brought together where that is shorter, and what no field is in before the bracket."""
    found = {node for node in sp.preorder_traversal(expr) if isinstance(node, Mean)}
    return expr.xreplace({node: _outside(_shortest(node.args[0], width), node.args[1], fields) for node in found})


def _shortest(body: sp.Expr, width: Callable[[sp.Expr], float]) -> sp.Expr:
    """The narrowest of a few ways to write a rational function of sums, data and fields."""
    dummies = {atom: sp.Dummy(f"x{k:03d}", positive=atom.is_positive) for k, atom in enumerate(
        sorted(set(_opaque(body)), key=sp.default_sort_key))}
    back = {dummy: atom for atom, dummy in dummies.items()}

    def best(node: sp.Expr) -> sp.Expr:
        if not node.args:
            return node
        node = node.func(*map(best, node.args))
        ways = [node, sp.factor(node)] if node.is_Add or (node.is_Mul and node.has(sp.Add)) else [node]
        return min(ways, key=lambda way: width(way.xreplace(back)))

    return best(_shut(body, dummies)).xreplace(back)


def _opaque(expr: sp.Basic) -> Iterable[sp.Basic]:
    if isinstance(expr, Entry | SpaceSum | sp.Function | sp.Max | Mean):
        yield expr
        return
    for arg in expr.args:
        yield from _opaque(arg)


def _shut(expr: Any, dummies: Mapping[sp.Basic, sp.Dummy]) -> Any:
    if expr in dummies:
        return dummies[expr]
    return expr.func(*(_shut(arg, dummies) for arg in expr.args)) if expr.args else expr


def _outside(body: sp.Expr, bound: sp.Tuple, fields: Collection[sp.Basic]) -> sp.Expr:
    terms = sp.Add.make_args(body)
    fixed = sp.Add(*(term for term in terms if not _held(term, fields)))
    content, moving = sp.factor_terms(sp.Add(*(term for term in terms if _held(term, fields)))).as_coeff_Mul()
    factors = sp.Mul.make_args(moving)
    before = sp.Mul(content, *(factor for factor in factors if not _held(factor, fields)))
    inside = sp.Mul(*(factor for factor in factors if _held(factor, fields)))
    return fixed + (before * Mean(inside, bound) if inside != 1 else before)


# ---------------------------------------------------------------------------------------------- the activation
def features(output: sp.Expr, exprs: Iterable[sp.Basic], fields: Collection[sp.Basic],
             taken: Collection[str]) -> dict[sp.Expr, Entry]:
    """The values of the activation in some expressions, and the name of each.

    ``output`` is Σ_i a_i φ(h_i); nothing is named if φ is the identity, or no single function or power.
    """
    known = {factor for total in output.atoms(SpaceSum) for factor in sp.Mul.make_args(total.body)
             if _is_value(factor, fields)}
    kinds = {_kind(factor) for factor in known}
    if len(kinds) != 1 or ACTIVATION in taken:
        return {}
    found: dict[sp.Expr, Entry] = {}
    for expr in exprs:
        for node in sp.preorder_traversal(expr):
            if _is_value(node, fields) and _kind(node) in kinds:
                spaces = sorted(open_spaces(node), key=lambda space: (space.name == "site", space.name))
                elsewhere = any(space.name == "test" for space in spaces)
                primes = "'" * max(entry.name.count("'") for entry in node.atoms(Entry))
                found[node] = Entry(ACTIVATION + primes + "_*" * elsewhere, "real", spaces)
    return found


def _is_value(node: sp.Basic, fields: Collection[sp.Basic]) -> bool:
    """A function or power of a pre-activation: open, of a sum over inputs with a field of a site in it."""
    if not (isinstance(node, sp.Function | sp.Max) or (node.is_Pow and node.exp.is_Integer and node.exp > 1)):
        return False
    return bool(open_spaces(node)) and any(depends_on(total, field) for total in node.atoms(SpaceSum)
                                           for field in fields) and not isinstance(node, sp.log)


def _kind(node: sp.Basic) -> tuple[Any, ...]:
    """The function, and over what its argument sums."""
    return type(node), node.exp if node.is_Pow else None, frozenset(total.space for total in node.atoms(SpaceSum))


# ---------------------------------------------------------------------------------------------- linear forms
def merged(expr: sp.Expr, fields: Collection[sp.Basic], unknowns: Collection[sp.Basic],
           residuals: dict[tuple[Any, ...], tuple[Entry, sp.Expr]], taken: Collection[str],
           inside: bool = False) -> sp.Expr:
    """Sums that differ in one datum, where the expression depends on one combination of them alone.

    Of u and v with ∂_v E = c ∂_u E, c free of all sums, E depends on u + c v only.  ``residuals`` collects the data
    u_μ + c v_μ by what they are made of; ``inside`` an average v is written in them also where u stays.
    """
    averages = {node: node.func(merged(node.args[0], fields, unknowns, residuals, taken, True), *node.args[1:])
                for node in sp.preorder_traversal(expr) if is_average(node)}
    expr = expr.xreplace(averages)
    totals = sorted({atom for atom in top_atoms(expr) if isinstance(atom, SpaceSum) and _held(atom, fields)},
                    key=sp.default_sort_key)
    dummies = {total: sp.Dummy(real=True) for total in totals}
    opened = top_replace(expr, dummies)
    back: dict[sp.Basic, sp.Expr] = {dummy: total for total, dummy in dummies.items()}
    for one in totals:
        for other in totals:
            parted = _parted(one, other, fields)
            if parted is None or parted[0] in unknowns or dummies[one] not in opened.free_symbols:
                continue
            datum, second, rest = parted
            slopes = sp.diff(opened, dummies[other]), sp.diff(opened, dummies[one])
            ratio = sp.factor(sp.cancel(slopes[0] / slopes[1])) if 0 not in slopes else sp.S.Zero
            if ratio == 0 or ratio.has(*dummies.values()) or ratio.has(Entry):
                continue
            key = (datum, second, ratio)
            if key not in residuals:
                used = {entry.name for entry, _ in residuals.values()} | set(taken)
                name = next((name for name in RESIDUAL if name not in used), None)
                if name is None:
                    continue
                residuals[key] = Entry(name, "data", datum.spaces), datum + ratio * second
            opened = opened.xreplace({dummies[other]: sp.S.Zero})
            back[dummies[one]] = SpaceSum(rest * residuals[key][0], one.space)
    # elsewhere the datum that is left is written in the combination where that is shorter
    for (known, second, ratio), (residual, _) in residuals.items() if inside else ():
        for one in totals:
            for other in totals:
                parted = _parted(one, other, fields)
                if parted is None or parted[:2] != (known, second):
                    continue
                new = sp.Dummy(real=True)
                way = sp.factor(opened.xreplace({dummies[other]: (new - dummies[one]) / ratio}))
                if sp.count_ops(way) < sp.count_ops(sp.factor(opened)):
                    opened, back[new] = way, SpaceSum(parted[2] * residual, one.space)
    return top_replace(opened, back)


def _held(total: sp.Basic, fields: Collection[sp.Basic]) -> bool:
    return any(depends_on(total, field) for field in fields)


def _parted(one: SpaceSum, other: SpaceSum, fields: Collection[sp.Basic]) -> tuple[Entry, Entry, sp.Expr] | None:
    """The data in which two sums differ, and the factors that they share."""
    if one == other or one.space != other.space:
        return None
    first, second = (set(sp.Mul.make_args(total.body)) for total in (one, other))
    apart = [*(first - second), *(second - first)]
    if len(first - second) != 1 or len(second - first) != 1 or not all(
            isinstance(x, Entry) and x.domain == "data" and x.spaces == (one.space,) for x in apart):
        return None
    return apart[0], apart[1], sp.Mul(*(first & second))


# ---------------------------------------------------------------------------------------------- repeated sums
def sums(exprs: Sequence[sp.Basic], fields: Collection[sp.Basic], width: Callable[[sp.Expr], float],
         taken: Collection[str]) -> dict[sp.Expr, Entry]:
    """Names for sums that hold a field of the site, where they occur often and are wide; in order of occurrence."""
    counts: Counter[sp.Expr] = Counter()
    for expr in exprs:
        counts.update(_occurring(expr, fields))
    used = set(taken)
    found: dict[sp.Expr, Entry] = {}
    for total, count in counts.items():
        if count < OFTEN or width(total) < WIDE:
            continue
        pool = ODD if sum(_degree(factor, fields) for factor in sp.Mul.make_args(total.body)) % 2 else EVEN
        name = next((name for name in pool if name not in used), None)
        if name is None:
            continue
        used.add(name)
        spaces = sorted(open_spaces(total), key=lambda space: space.name)
        found[total] = Entry(name + "_*" * any(space.name == "test" for space in spaces), "data", spaces)
    return found


def _occurring(expr: sp.Basic, fields: Collection[sp.Basic]) -> Iterable[sp.Expr]:
    if isinstance(expr, SpaceSum) and not any(map(is_average, sp.preorder_traversal(expr))):
        if _held(expr, fields):
            yield expr
        return
    for arg in expr.args:
        if not isinstance(arg, sp.Tuple):
            yield from _occurring(arg, fields)


def _degree(factor: sp.Expr, fields: Collection[sp.Basic]) -> int:
    base, exponent = factor.as_base_exp()
    return int(exponent) if exponent.is_Integer and _held(base, fields) else 0


def renamed(expr: Any, names: Mapping[sp.Expr, Entry]) -> Any:
    """The names in place of what they stand for; values of φ first in powers of them."""
    return expr.xreplace(dict(names)) if names else expr


__all__ = ["Mean", "features", "merged", "renamed", "shown_means", "simplest", "sums"]
