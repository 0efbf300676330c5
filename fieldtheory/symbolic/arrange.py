"""Arranging an expression for the reader: logarithms joined, like terms collected. Nothing changes in value.

Simplifiers of computer algebra aim at short expressions, not at legible ones, and look into the bodies of sums;
here sums over spaces, functions of the modes and entries stay as they are, and only their coefficients, rational
in scalar symbols, are brought together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import reduce

import sympy as sp

from fieldtheory.symbolic.fields import Entry, SpaceSum

Width = Callable[[sp.Expr], float]


def depth(term: sp.Expr) -> int:
    """The highest power of a resolvent, by which the terms of an expansion are ordered."""
    return max((-power.exp for power in term.atoms(sp.Pow)
                if power.exp.is_Integer and power.base.is_Add and power.base.has(Entry)), default=0)


def is_short(arg: sp.Expr) -> bool:
    """What a logarithm may stand before without brackets."""
    return bool(arg.is_Symbol or arg.is_NumberSymbol or isinstance(arg, Entry)
                or (arg.is_Integer and arg.is_nonnegative))


def is_tall(factor: sp.Expr) -> bool:
    """Factors that stand beside a fraction rather than in its numerator."""
    base, exponent = factor.as_base_exp()
    return bool(exponent.is_positive) and base.has(SpaceSum, sp.log)


def is_tall_below(factor: sp.Expr) -> bool:
    """A denominator too large to be split from its numerator."""
    base, exponent = factor.as_base_exp()
    return bool(exponent.is_negative) and base.has(SpaceSum)


def is_site_integral(expr: sp.Basic) -> bool:
    """Whether it is a `LogIntegral`, which is defined above this module; SymPy's printers know nodes by name too."""
    return type(expr).__name__ == "LogIntegral"


def is_average(expr: sp.Basic) -> bool:
    """Whether it is an average over one site, shown in angle brackets: a node that binds the fields of its body."""
    return type(expr).__name__ in ("SiteAverage", "Mean")


def split_product(expr: sp.Mul) -> tuple[str, sp.Expr, list[sp.Expr]]:
    """Sign, coefficient and tall factors of a product."""
    sign, expr = ("- ", -expr) if expr.could_extract_minus_sign() else ("", expr)
    if not expr.is_Mul:
        return sign, sp.S.One, []
    tall = sorted((f for f in expr.args if is_tall(f)),
                  key=lambda f: (isinstance(f, SpaceSum), sp.default_sort_key(f)))
    return sign, sp.Mul._from_args([f for f in expr.args if f not in tall]), tall


# ---------------------------------------------------------------------------------------------- logarithms
def joined_logs(terms: Sequence[sp.Expr]) -> list[sp.Expr]:
    """Terms of a sum with N/2 ln g - N/2 ln N as N/2 ln(g/N), and -N/2 ln Q + ln Q as (1 - N/2) ln Q.

    Logarithms of scalars are joined where their coefficients agree up to sign, those of a field where their
    arguments do; all others stay. Only factors known to be positive, and at most one other, join.
    """
    kept: list[sp.Expr] = []
    constants: dict[sp.Expr, list[sp.Expr]] = {}
    fields: dict[sp.Expr, list[sp.Expr]] = {}
    for term in terms:
        coefficient, arg = _scalar_log(term)
        if arg is None:
            kept.append(term)
        elif arg.has(Entry):
            fields.setdefault(arg, []).append(coefficient)
        else:
            negative = coefficient.could_extract_minus_sign()
            group = constants.setdefault(-coefficient if negative else coefficient, [])
            group.append(1 / arg if negative else arg)
    kept += [sp.Add(*coefficients) * sp.log(arg) for arg, coefficients in fields.items()]
    for coefficient, args in sorted(constants.items(), key=lambda pair: sp.default_sort_key(pair[0])):
        positive = [arg for arg in args if arg.is_positive]
        others = [arg for arg in args if not arg.is_positive]
        for product in (sp.Mul(*positive, *others[:1]), *others[1:]):
            flipped = sp.fraction(product)[0] == 1
            if product != 1:
                kept.append(-coefficient * sp.log(1 / product) if flipped else coefficient * sp.log(product))
    return kept


def _scalar_log(term: sp.Expr) -> tuple[sp.Expr, sp.Expr | None]:
    factors = sp.Mul.make_args(term)
    logs = [factor for factor in factors if isinstance(factor, sp.log)]
    rest = sp.Mul(*(factor for factor in factors if not isinstance(factor, sp.log)))
    if len(logs) != 1 or rest.has(Entry, SpaceSum, sp.log):
        return term, None
    (arg,) = logs[0].args
    scalar = not arg.has(SpaceSum) and not arg.is_Add and (arg.is_number or not arg.atoms(Entry) or arg.is_Atom
                                                            or isinstance(arg, Entry))
    return (rest, arg) if scalar else (term, None)


# ---------------------------------------------------------------------------------------------- like terms
def collected(expr: sp.Expr, width: Width, orders: Collection[sp.Symbol] = ()) -> sp.Expr:
    """A sum of products with each sum over a space, or function of the modes, written once.

    Parameters
    ----------
    width : what to keep small where a coefficient can be written in several ways.
    orders : parameters that count orders (ħ): each power of them is arranged apart and put before brackets.
    """
    if isinstance(expr, sp.Equality):
        return sp.Eq(collected(expr.lhs, width, orders), collected(expr.rhs, width, orders), evaluate=False)
    averages = {node for node in sp.preorder_traversal(expr) if is_average(node)}
    expr = expr.xreplace({node: node.func(collected(node.args[0], width, orders), *node.args[1:])
                          for node in averages})
    logs = [term for term in sp.Add.make_args(expr) if _scalar_log(term)[1] is not None]
    table: dict[sp.Expr, sp.Symbol] = {}
    scalar = _frozen(sp.Add(*(term for term in sp.Add.make_args(expr) if term not in logs)), table)
    return sp.Add(_collected(scalar, table, width, orders), *logs)


def in_terms_of(expr: sp.Expr, symbol: sp.Symbol, value: sp.Expr, width: Width,
                orders: Collection[sp.Symbol] = ()) -> sp.Expr:
    """`collected`, with ``symbol`` in place of a sum in which its ``value`` is linear, where that is shorter."""
    best = collected(expr, width, orders)
    if expr == value:
        return best
    table: dict[sp.Expr, sp.Symbol] = {}
    frozen = _frozen(value, table)
    named = set(table.values())
    scalar = _frozen(expr, table)
    for old in sorted(named & scalar.free_symbols, key=str):
        slope = sp.diff(frozen, old)
        if not slope.free_symbols & named and slope != 0:
            solved = (symbol - (frozen - slope * old).expand()) / slope
            other = _collected(scalar.xreplace({old: solved}), {**table, symbol: symbol}, width, orders)
            best = min(best, other, key=width)
    return best


def _collected(scalar: sp.Expr, table: dict[sp.Expr, sp.Symbol], width: Width,
               orders: Collection[sp.Symbol]) -> sp.Expr:
    back = {symbol: node for node, symbol in table.items()}
    frozen = set(back)
    by_order: dict[sp.Expr, dict[sp.Expr, list[sp.Expr]]] = {}
    for term in sp.Add.make_args(_expanded(scalar, frozen | set(orders))):
        coefficient: list[sp.Expr] = []
        structure: list[sp.Expr] = []
        order: list[sp.Expr] = []
        for factor in sp.Mul.make_args(term):
            base, exponent = factor.as_base_exp()
            scalars = not factor.free_symbols & frozen or (base.is_Add and exponent.is_negative)
            (order if base in orders else coefficient if scalars else structure).append(factor)
        found = by_order.setdefault(sp.Mul(*order), {})
        found.setdefault(sp.Mul(*structure), []).append(sp.Mul(*coefficient))

    def shown(expr: sp.Expr) -> float:
        return width(expr.xreplace(back))

    brackets = sorted(by_order.items(), key=lambda pair: sp.default_sort_key(pair[0]))
    return sp.Add(*(power * _bracket(found, shown) for power, found in brackets)).xreplace(back)


def _frozen(expr: sp.Expr, table: dict[sp.Expr, sp.Symbol]) -> sp.Expr:
    """``expr`` as a rational function of scalars and of symbols for all that is to stay as it is."""
    base, exponent = expr.as_base_exp() if expr.is_Pow else (expr, sp.S.One)
    # an average too: without its fields its body would stand outside of it
    opaque = isinstance(expr, SpaceSum | Entry | sp.Function) or is_average(expr) or (
        expr.is_Pow and (not exponent.is_Integer or (base.is_Add and _has_bare_entry(base))))
    if opaque:
        # a name in front of all others, counted up, so that the order of terms does not depend on the run
        return table.setdefault(expr, sp.Symbol(f"_{len(table):04d}", positive=expr.is_positive))
    if not expr.args:
        return expr
    return expr.func(*(_frozen(arg, table) for arg in expr.args))


def _has_bare_entry(expr: sp.Expr) -> bool:
    """Whether an entry stands in ``expr`` outside of sums."""
    if isinstance(expr, Entry):
        return True
    return not isinstance(expr, SpaceSum) and any(_has_bare_entry(arg) for arg in expr.args)


def _expanded(expr: sp.Expr, frozen: set[sp.Symbol]) -> sp.Expr:
    """Products multiplied out, but neither denominators nor brackets of scalars alone."""
    kept: dict[sp.Expr, sp.Dummy] = {}

    def shut(node: sp.Expr, whole: bool = False) -> sp.Expr:
        if node.is_Pow and node.base.is_Add and node.exp.is_negative:
            return kept.setdefault(node.base, sp.Dummy(f"kept{len(kept)}")) ** node.exp
        if node.is_Add and not node.free_symbols & frozen and not whole:
            return kept.setdefault(node, sp.Dummy(f"kept{len(kept)}"))
        return node.func(*map(shut, node.args)) if node.args else node

    opened = sp.expand(shut(expr, whole=True))
    return opened.xreplace({dummy: node for node, dummy in kept.items()})


def _bracket(found: dict[sp.Expr, list[sp.Expr]], width: Width) -> sp.Expr:
    """The sum of coefficient times structure, structures that share a coefficient in one bracket."""
    below = [{f for f in sp.Mul.make_args(structure) if f.as_base_exp()[1].is_negative} for structure in found]
    common = set.intersection(*below) if len(found) > 1 else set()
    divisor = sp.Mul(*common)
    shared: dict[sp.Expr, list[tuple[sp.Expr, sp.Expr]]] = {}
    for structure, terms in found.items():
        structure = structure / divisor
        for coefficient in _coefficients(terms, width, structure == 1):
            number, rest = coefficient.as_coeff_Mul()
            if rest.could_extract_minus_sign():
                number, rest = -number, -rest
            if rest.is_Add or rest == 1 or structure == 1:  # not to be shared
                shared[sp.Dummy()] = [(sp.S.One, coefficient * structure)]
            else:
                shared.setdefault(rest, []).append((number, structure))
    terms = []
    for rest, members in shared.items():
        if len(members) == 1:
            ((number, structure),) = members
            terms.append(number * structure * (1 if isinstance(rest, sp.Dummy) else rest))
            continue
        content = reduce(sp.gcd, [abs(number) for number, _ in members])
        content = -content if all(number < 0 for number, _ in members) else content
        terms.append(content * rest * sp.Add(*(number / content * structure for number, structure in members)))
    return divisor * sp.Add(*terms)


def _coefficients(terms: Iterable[sp.Expr], width: Width, alone: bool) -> list[sp.Expr]:
    """A sum of coefficients, written in the simplest of a few ways; several terms only where it stands alone."""
    terms = list(terms)
    total = sp.Add(*terms)
    if not total.is_Add and not total.has(sp.Add):
        return [total]
    whole = sp.factor(total)
    ways = [list(sp.Add.make_args(total)), [whole]] if alone else [[whole]]
    for simple in (lambda below: below.is_number, lambda below: not below.has(sp.Add)):
        plain = sp.Add(*(term for term in terms if simple(sp.fraction(term)[1])))
        rest = sp.factor(sp.Add(*(term for term in terms if not simple(sp.fraction(term)[1]))))
        ways.append([*sp.Add.make_args(plain if alone else sp.factor(plain)), rest])
    best = min(ways, key=lambda way: (sp.count_ops(sp.Add(*way)), width(sp.Add(*way))))
    return best if alone else [sp.Add(*best)]
