"""Fields over spaces, sums without dummy indices, and functional derivatives.

A sum *binds a space*; a field inside it means "this field at the bound index".  With ``lam`` and ``j``
fields over ``mode``, ``SpaceSum(lam * j**2, mode)`` is all of Σ_k λ_k j_k², so nothing is ever renamed and
no index can be captured.  An expression with free spaces is *open*: it means its value at one point of
each of them.  A matrix needs nothing more: with data ``X`` over (sample, input), X w is
``SpaceSum(X * w, input)``, open in sample, and Xᵀ j is ``SpaceSum(X * j, sample)``, open in input.

Derived here; the notation follows no paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import Any

import sympy as sp
from sympy.core.symbol import Str

from fieldtheory.errors import BadInput, RuleError

DOMAINS = ("real", "imaginary", "positive", "data", "spectrum")
"""What a field ranges over: three contours of integration, and two kinds of data (real; non-negative)."""


class Space(sp.Basic):
    """A set of indices with a name and a symbolic size, such as the N sites of a hidden layer."""

    def __new__(cls, name: str | Str, size: Any) -> Space:
        return super().__new__(cls, Str(str(name)), sp.sympify(size))

    @property
    def name(self) -> str:
        return self.args[0].name  # type: ignore[attr-defined]

    @property
    def size(self) -> sp.Expr:
        return self.args[1]  # type: ignore[return-value]

    def _sympystr(self, printer: Any) -> str:
        return self.name


class Entry(sp.Expr):
    """A field or data at one point of each of its spaces; with no spaces, a scalar field.

    Everything that distinguishes two entries lives in ``args``, so that equality and hashing are SymPy's.
    """

    is_commutative = True
    _diff_wrt = False  # plain .diff() would ignore the sums; use vary()

    def __new__(cls, name: str | Str, domain: str | Str = "real", spaces: Iterable[Space] = ()) -> Entry:
        if str(domain) not in DOMAINS:
            raise BadInput("domain", domain, f"one of {', '.join(DOMAINS)}")
        return super().__new__(cls, Str(str(name)), Str(str(domain)), sp.Tuple(*spaces))

    @property
    def name(self) -> str:
        return self.args[0].name  # type: ignore[attr-defined]

    @property
    def domain(self) -> str:
        return self.args[1].name  # type: ignore[attr-defined]

    @property
    def spaces(self) -> tuple[Space, ...]:
        return tuple(self.args[2])  # type: ignore[arg-type]

    @property
    def size(self) -> sp.Expr:
        """Number of components, the product of the sizes of its spaces."""
        return sp.Mul(*(space.size for space in self.spaces))

    @property
    def is_data(self) -> bool:
        return self.domain in ("data", "spectrum")

    @property
    def free_symbols(self) -> set[sp.Basic]:
        return set()

    def _eval_derivative(self, s: Any) -> sp.Expr:
        return sp.S.Zero

    def _eval_is_extended_real(self) -> bool:
        return self.domain != "imaginary"

    _eval_is_real = _eval_is_extended_real

    def _eval_is_finite(self) -> bool:
        return True

    def _eval_is_imaginary(self) -> bool | None:
        return None if self.domain == "imaginary" else False

    def _eval_is_positive(self) -> bool | None:
        return True if self.domain == "positive" else None

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.domain in ("positive", "spectrum") else None

    _eval_is_extended_positive = _eval_is_positive
    _eval_is_extended_nonnegative = _eval_is_nonnegative

    def _sympystr(self, printer: Any) -> str:
        return self.name


class PositiveFunctional(sp.Expr):
    """A sum or an average of its first argument, the body, with weights that are not negative."""

    is_commutative = True

    @property
    def body(self) -> sp.Expr:
        return self.args[0]  # type: ignore[return-value]

    @property
    def free_symbols(self) -> set[sp.Basic]:
        return self.body.free_symbols

    def _eval_is_extended_real(self) -> bool | None:
        return self.body.is_extended_real

    _eval_is_real = _eval_is_extended_real

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.body.is_nonnegative else None

    _eval_is_extended_nonnegative = _eval_is_nonnegative


class SpaceSum(PositiveFunctional):
    """Σ over one space of an open expression: linear, with everything that does not depend on it outside.

    The sum of a constant is the constant times the size of the space, so Σ_i 1 = N needs no case of its own.
    """

    def __new__(cls, body: Any, space: Space) -> sp.Expr:  # type: ignore[misc]
        body = distribute(sp.sympify(body))
        if body.is_Add:
            return sp.Add(*(cls(term, space) for term in body.args))
        outside: list[sp.Expr] = []
        inside: list[sp.Expr] = []
        for factor in sp.Mul.make_args(body):
            (inside if space in open_spaces(factor) else outside).append(factor)
        if not inside:
            return body * space.size
        return sp.Mul(*outside, super().__new__(cls, sp.Mul(*inside), space))

    @property
    def space(self) -> Space:
        return self.args[1]  # type: ignore[return-value]

    def _eval_derivative(self, s: sp.Basic) -> sp.Expr:
        if s in self.space.size.free_symbols:
            raise RuleError(f"the derivative of a sum over {self.space.name} by its own size {s} is not defined")
        return SpaceSum(sp.diff(self.body, s), self.space)

    def _sympystr(self, printer: Any) -> str:
        return f"S_{self.space.name}[{printer._print(self.body)}]"


def distribute(expr: sp.Expr) -> sp.Expr:
    """Multiply out the sums among the factors of each term.

    Unlike SymPy's ``expand``, never a denominator, a power or an argument.
    """
    if expr.is_Add:
        return sp.Add(*(distribute(term) for term in expr.args))
    if not expr.is_Mul or not any(factor.is_Add for factor in expr.args):
        return expr
    choices = [factor.args if factor.is_Add else (factor,) for factor in expr.args]
    return sp.Add(*(distribute(sp.Mul(*choice)) for choice in product(*choices)))


def sum_over(expr: Any, spaces: Iterable[Space]) -> sp.Expr:
    """Sum an open expression over several spaces."""
    result = sp.sympify(expr)
    for space in spaces:
        result = SpaceSum(result, space)
    return result


def open_spaces(expr: sp.Basic) -> frozenset[Space]:
    """The spaces in which an expression is open (no sum binds them)."""
    if isinstance(expr, Entry):
        return frozenset(expr.spaces)
    if isinstance(expr, SpaceSum):
        return open_spaces(expr.body) - {expr.space}
    found: frozenset[Space] = frozenset()
    if isinstance(expr, sp.Tuple):  # variables of integration, bound by the node that lists them
        return found
    for arg in expr.args:
        found |= open_spaces(arg)
    return found


def top_atoms(expr: sp.Basic) -> Iterator[sp.Basic]:
    """Entries, sums and scalar symbols of an expression, without looking below any sum."""
    if isinstance(expr, Entry | SpaceSum | sp.Symbol):
        yield expr
        return
    for arg in expr.args:
        yield from top_atoms(arg)


def top_replace(expr: sp.Basic, mapping: Mapping[sp.Basic, sp.Basic]) -> Any:
    """Replace nodes without looking below any sum (``xreplace`` would)."""
    if expr in mapping:
        return mapping[expr]
    if not expr.args or isinstance(expr, Entry | SpaceSum):
        return expr
    args = [top_replace(arg, mapping) for arg in expr.args]
    return expr if all(new is old for new, old in zip(args, expr.args, strict=True)) else expr.func(*args)


def depends_on(expr: sp.Basic, field: sp.Basic) -> bool:
    return expr == field or any(depends_on(arg, field) for arg in expr.args)


def entries(expr: sp.Basic) -> list[Entry]:
    """All entries in an expression, sums included, in a fixed order."""
    return sorted(expr.atoms(Entry), key=sp.default_sort_key)


def sums(expr: sp.Basic) -> list[SpaceSum]:
    """The outermost sums of an expression, in a fixed order."""
    found = {atom for atom in top_atoms(expr) if isinstance(atom, SpaceSum)}
    return sorted(found, key=sp.default_sort_key)


def map_sums(expr: sp.Basic, function: Callable[[SpaceSum], sp.Expr]) -> sp.Expr:
    """Apply a function to every outermost sum."""
    return top_replace(expr, {total: function(total) for total in sums(expr)})


@lru_cache(maxsize=4096)
def _held(atom: sp.Basic) -> sp.Dummy:
    """What stands for an atom that is held fixed: the same every time, so that SymPy knows derivatives it has taken."""
    return sp.Dummy(positive=atom.is_positive, real=atom.is_real)


def pointwise_diff(expr: sp.Expr, atom: sp.Basic) -> sp.Expr:
    """∂ expr/∂ atom with every sum other than ``atom`` held fixed."""
    dummies = {a: _held(a) for a in set(top_atoms(expr)) | {atom} if not isinstance(a, sp.Symbol) or a == atom}
    back = {dummy: a for a, dummy in dummies.items()}
    derivative = sp.diff(top_replace(expr, dummies), dummies[atom])
    return derivative.xreplace(back)


def variations(expr: sp.Expr, field: Entry) -> list[tuple[sp.Expr, sp.Expr, frozenset[Space]]]:
    """Every way in which ``expr`` depends on ``field``, as (coefficient, derivative, freed).

    The product is δ expr/δ field.  ``freed`` are the spaces of the field whose sum the variation has removed:
    in these the derivative stands at the *new*, external point, the coefficient still at the inner, bound one.
    """
    found: list[tuple[sp.Expr, sp.Expr, frozenset[Space]]] = []
    atoms = {a for a in top_atoms(expr) if isinstance(a, Entry | SpaceSum) and depends_on(a, field)}
    for atom in sorted(atoms, key=sp.default_sort_key):
        outer = pointwise_diff(expr, atom)
        if outer == 0:
            continue
        if isinstance(atom, Entry):
            found.append((outer, sp.S.One, frozenset()))
            continue
        space = atom.space
        for c, d, freed in variations(atom.body, field):
            clash = open_spaces(c) & freed
            if space in freed:
                c, d = SpaceSum(c, space), d
            elif space in field.spaces:
                if clash and space in open_spaces(c):
                    raise RuleError(f"{field.name}: two different points of {_names(clash)} meet in one factor")
                c, d = (sp.S.One, c * d) if space in open_spaces(c) else (c, d)
                freed = freed | {space}
            elif space not in open_spaces(d):
                c = SpaceSum(c, space)
            elif not clash:
                c, d = sp.S.One, SpaceSum(c * d, space)
            else:
                raise RuleError(f"{field.name}: two different points of {_names(clash)} meet in one factor: the form "
                                "is neither local nor of low rank (diagonalise first)")
            found.append((outer * c, d, freed))
    return found


def _names(spaces: Iterable[Space]) -> str:
    return ", ".join(sorted(space.name for space in spaces))


def vary(expr: sp.Expr, field: sp.Expr) -> sp.Expr:
    """Functional derivative δ expr/δ field of a closed expression, open in the field's spaces.

    For a scalar symbol it is the ordinary derivative.

    Raises
    ------
    RuleError
        If the expression is not closed, so that some space of the field stays bound to nothing.
    """
    if isinstance(field, sp.Symbol):
        return sp.diff(expr, field)
    if not isinstance(field, Entry):
        raise BadInput("field", field, "an Entry or a Symbol")
    total = []
    for c, d, freed in variations(sp.sympify(expr), field):
        if freed != frozenset(field.spaces):
            missing = _names(frozenset(field.spaces) - freed)
            raise RuleError(f"{field.name} varied in an expression that is open in {missing}")
        total.append(c * d)
    return sp.Add(*total)


Pair = tuple[sp.Expr, sp.Expr]


def second_variation(gradient: sp.Expr, field: Entry) -> tuple[sp.Expr, dict[frozenset[Space], list[Pair]]]:
    """Derivative of an open gradient G(x) by field(x'): the local part, and the pairs u(x) v(x') by freed spaces."""
    local: list[sp.Expr] = []
    pairs: dict[frozenset[Space], list[Pair]] = {}
    for c, d, freed in variations(gradient, field):
        if freed:
            pairs.setdefault(freed, []).append((c, d))
        else:
            local.append(c * d)
    return sp.Add(*local), pairs


def tidy(expr: sp.Expr) -> sp.Expr:
    """The same expression with logs of products split, a positive scalar taken out of a log of a sum of sums,
    and minus signs taken out of denominators whose terms are all negative.  Blind to names: renaming commutes."""
    if isinstance(expr, Entry) or not expr.args:
        return expr
    args = [tidy(arg) if isinstance(arg, sp.Expr) else arg for arg in expr.args]
    if any(new is not old for new, old in zip(args, expr.args, strict=True)):
        expr = expr.func(*args)
    if isinstance(expr, sp.log):
        return _tidy_log(expr)
    if isinstance(expr, sp.Pow) and expr.exp.is_Integer and expr.exp < 0 and expr.base.is_Add:
        expr = _tidy_denominator(expr.base, expr.exp)
    return distribute(expr) if isinstance(expr, sp.Add | sp.Mul) and not open_spaces(expr) else expr


def _tidy_denominator(base: sp.Expr, exponent: sp.Expr) -> sp.Expr:
    """base**exponent with the common monomial taken out (where it is open), each factor with a sign not all minus."""
    result = sp.S.One
    for factor in _content(base) if open_spaces(base) else sp.Mul.make_args(base):
        if factor.is_Add and all(term.as_coeff_Mul()[0].is_negative for term in factor.args):
            result *= sp.S.NegativeOne**exponent * (-factor)**exponent
        else:
            result *= factor**exponent
    return result


def _content(base: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """A sum as (common monomial, cofactor): N g λ/q + N g s/q² is N g/q² times (q λ + s)."""
    powers = [term.as_powers_dict() for term in base.args]
    shared = [b for b in powers[0] if not b.is_Number and all(b in p for p in powers)]
    lowest = {b: sp.Min(*(p[b] for p in powers)) for b in shared}
    monomial = sp.Mul(*(b**e for b, e in lowest.items() if e.is_Number))
    return monomial, distribute(sp.Add(*(term / monomial for term in base.args)))


def _tidy_log(expr: sp.Expr) -> sp.Expr:
    argument = expr.args[0]
    scalar = sp.Add(*(term for term in sp.Add.make_args(argument) if not term.atoms(Entry)))
    if argument.is_Add and not open_spaces(argument) and scalar.is_positive and sums(argument):
        rest = sp.Add(*(sp.Mul(term, 1 / scalar) for term in argument.args if term.atoms(Entry)))
        return sp.expand_log(sp.log(scalar)) + sp.log(1 + rest)
    return sp.expand_log(expr)


def structure_key(expr: sp.Basic) -> tuple[int, str]:
    """A sort key that is blind to names, so that engine-made names follow a renaming of the input."""
    def shape(node: sp.Basic) -> str:
        if isinstance(node, Entry):
            return f"<{node.domain}{len(node.spaces)}>"
        if isinstance(node, sp.Symbol):
            return "<symbol>"
        if not node.args:
            return str(node)
        return f"{type(node).__name__}({','.join(sorted(shape(arg) for arg in node.args))})"

    return int(expr.count_ops()), shape(expr)


def rename(expr: sp.Basic, names: Mapping[str, str]) -> Any:
    """Rename entries, spaces and symbols (by name) throughout an expression."""
    table: dict[sp.Basic, sp.Basic] = {}
    for symbol in expr.atoms(sp.Symbol):
        if symbol.name in names:
            table[symbol] = sp.Symbol(names[symbol.name], **symbol.assumptions0)
    for text in expr.atoms(Str):
        if str(text) in names:
            table[text] = Str(names[str(text)])
    return expr.xreplace(table)
