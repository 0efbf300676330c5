r"""LaTeX of the expression class: fields, data and sums over spaces, as sums over modes or as traces.

``style="modes"`` writes every sum out with an index letter of its space. ``style="traces"`` writes a sum over
modes of a function of one spectrum entry λ and at most two data or field entries in the notation of matrices,

    Σ_k F(λ_k) = tr F(K),   Σ_k ln F(λ_k) = ln det F(K),   Σ_k u_k v_k F(λ_k) = uᵀ F(K) v,

which holds for every F because K and F(K) share their eigenbasis; a scalar added to a matrix stands for that
multiple of the identity. Where the body is not of this form the sum over modes stays. Derived here.

Output depends on structure and names only, never on hash order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import sympy as sp
from sympy.printing.precedence import PRECEDENCE

from fieldtheory.errors import BadInput
from fieldtheory.symbolic.arrange import (
    depth,
    is_short,
    is_site_integral,
    is_tall,
    is_tall_below,
    joined_logs,
    split_product,
)
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on, open_spaces, top_atoms
from fieldtheory.symbolic.functionnames import bracketed
from fieldtheory.symbolic.letters import NamePrinter
from fieldtheory.symbolic.linebreaks import break_points, fill, tex_width
from fieldtheory.symbolic.matrixform import MatrixForm, matrix_form
from fieldtheory.symbolic.names import glue

STYLES = ("modes", "traces")
MATRICES = {"lambda": "K", "lamda": "K", "lam": "K", "λ": "K"}
"""The matrix whose eigenvalues a spectrum entry holds."""


def latex(expr: Any, *, style: str = "modes", symbol_names: Mapping[Any, str] | None = None,
          line_length: float | None = None, matrices: Mapping[str, str] | None = None,
          context: Iterable[sp.Basic] = ()) -> str:
    r"""LaTeX (without dollars) of an expression or an ``sp.Eq``.

    Parameters
    ----------
    style : "modes" or "traces".
    symbol_names : LaTeX for symbols and entries, by the object itself or by its name.
    line_length : if given, an expression wider than so many characters becomes an ``aligned`` block, see
        `multiline`.
    matrices : names of the matrices for spectrum entries, by the entry's name (λ is the spectrum of K).
    context : other expressions printed beside this one; index letters avoid their names too.
    """
    printer = FieldPrinter(style=style, symbol_names=symbol_names, matrices=matrices, context=context)
    return printer.doprint(expr) if line_length is None else printer.multiline(expr, line_length)


def multiline(expr: Any, width: float, **options: Any) -> str:
    r"""LaTeX broken at + and - into an ``aligned`` block where it is wider than ``width`` characters.

    Brackets that do not fit on a line are broken inside. The width is that of the printed formula, in
    characters of half an em (a text line has about 66), not that of its source. Options as in `latex`.
    """
    return FieldPrinter(**options).multiline(expr, width)


class FieldPrinter(NamePrinter):
    """SymPy's LaTeX printer with entries, spaces and sums; parameters as in `latex`.

    Terms with a symbol of ``late`` (coefficients of corrections) come after the others of a sum.
    """

    def __init__(self, *, style: str = "modes", symbol_names: Mapping[Any, str] | None = None,
                 matrices: Mapping[str, str] | None = None, context: Iterable[sp.Basic] = (),
                 late: Iterable[sp.Symbol] = ()) -> None:
        if style not in STYLES:
            raise BadInput("style", repr(style), f"one of {', '.join(STYLES)}")
        super().__init__(symbol_names, context)
        self.style = style
        self._matrices = MATRICES | dict(matrices or {})
        self._late = frozenset(late)
        self._whole: sp.Basic | None = None
        self._variables: tuple[sp.Basic, ...] = ()

    @contextlib.contextmanager
    def an_action_of(self, expr: Any, variables: Iterable[sp.Basic]) -> Iterator[FieldPrinter]:
        """Inside, terms of this sum without any of these fields are constants and come last."""
        before = self._whole, self._variables
        self._whole, self._variables = expr, tuple(variables)
        try:
            yield self
        finally:
            self._whole, self._variables = before

    # ------------------------------------------------------------------------------ whole expressions
    def doprint(self, expr: Any) -> str:
        expr = self._enter(expr)
        if self.style == "traces" and self._free:
            vector = self._print_open(expr)
            if vector is not None:
                return vector
        return str(self._print(expr))

    def multiline(self, expr: Any, width: float) -> str:
        """See the function of the same name."""
        lines = self.lines(expr, width)
        if len(lines) == 1:
            return lines[0]
        return "\n".join([r"\begin{aligned}", " \\\\\n".join(lines), r"\end{aligned}"])

    def lines(self, expr: Any, width: float, left: str | None = None, align: bool = False) -> list[str]:
        r"""The lines of ``expr``, or of ``left = expr``, with an ``&`` at the point of alignment of each.

        A single line, without ``&`` unless ``align`` asks for it, if all of it fits into ``width`` characters or
        nothing in it can be broken.
        """
        if width <= 0:
            raise BadInput("width", width, "a positive number of characters")
        expr = self._enter(expr)
        vector = self.is_vector(expr)
        tail = ""
        if left is None and isinstance(expr, sp.Equality):
            sides = [(vector and self._print_open(side)) or self._print(side) for side in expr.args]
            if tex_width(sides[0]) > max(tex_width(sides[1]), 0.35 * width):  # as where the right side is 0
                expr, tail = expr.lhs, f" = {sides[1]}"
            else:
                left, expr = sides[0], expr.rhs
        whole = (self._print_open(expr) if vector else None) or self._print(expr)
        if tex_width(f"{left or ''} = {whole}{tail}") <= width:
            return [f"{whole}{tail}" if left is None else f"{left} {'&' if align else ''}= {whole}"]
        indent = tex_width(f"{left} = ") if left is not None else 0.0
        long_head = indent > 0.35 * width
        room = max(width - (3.0 if long_head else indent) - 3.0, 10.0)
        *pieces, last = self._open_pieces(expr, room) if vector else break_points(self, expr, room)
        rows = fill([*pieces, last + tail], room)
        if left is None:
            return ["& " + row for row in rows] if len(rows) > 1 or align else rows
        hanging = [r"&\quad " + row for row in rows[1:]]
        if long_head:  # a long left side stands on a line of its own
            return [f"& {left}", "& = " + rows[0], *hanging]
        return [f"{left} {'&' if hanging or align else ''}= {rows[0]}", *hanging]

    # ------------------------------------------------------------------------------ sums and products
    def _print_SpaceSum(self, expr: SpaceSum) -> str:
        if self.style == "traces":
            found = self.matrix_notation(expr)
            if found is not None:
                return found
        head = self.sum_head(expr.space)
        with self.bound(expr.space):
            body = self._print(expr.body)
            if expr.body.is_Add or expr.body.could_extract_minus_sign():
                body = bracketed(body)
        return f"{head} {body}"

    def _print_log(self, expr: sp.Expr, exp: str | None = None) -> str:
        (arg,) = expr.args
        if exp is None and is_short(arg):
            return rf"\ln {self._print(arg)}"
        return str(super()._print_log(expr, exp))

    def _print_LogIntegral(self, expr: sp.Expr) -> str:
        return self.integral_head(expr) + bracketed(self._print(-expr.args[0]))

    def bound_fields(self, average: sp.Expr) -> str:
        """The fields over which an average is taken, as its index."""
        fields = next(arg for arg in average.args if isinstance(arg, sp.Tuple))
        return rf"_{{{', '.join(self.bare(field) for field in fields)}}}"

    def integral_head(self, expr: sp.Expr) -> str:
        """ln ∫ dφ exp before its exponent in brackets, fields on an imaginary contour with their 2πi."""
        fields = expr.args[1]
        measure = [rf"\mathrm{{d}} {self.bare(field)}" for field in fields.args]
        measure = [rf"\frac{{{step}}}{{2 \pi \mathrm{{i}}}}" if field.domain == "imaginary" else step
                   for step, field in zip(measure, fields.args)]
        steps = r" \, ".join(measure)
        return rf"\ln \int {steps} \, \exp"

    def sum_head(self, space: Space) -> str:
        size = self._print(space.size)
        with self.bound(space):
            return rf"\sum_{{{self.index_of(space)}=1}}^{{{size}}}"

    def parenthesize(self, item: sp.Expr, level: int, is_neg: bool = False, strict: bool = False) -> str:
        loose = isinstance(item, SpaceSum) and (PRECEDENCE["Mul"] < level or not strict) and not self._is_entry(item)
        loose |= is_site_integral(item) and level >= PRECEDENCE["Pow"]
        raised = isinstance(item, Entry) and level >= PRECEDENCE["Pow"] and "^" in self._print(item)
        if loose or raised:
            return self._add_parens(self._print(item))
        return super().parenthesize(item, level, is_neg, strict)

    def _needs_mul_brackets(self, expr: sp.Expr, first: bool = False, last: bool = False) -> bool:
        if isinstance(expr, SpaceSum):
            return not last and not (self.style == "traces" and self._is_delimited(expr)) and not self._is_entry(expr)
        if isinstance(expr, sp.log):
            return not last and is_short(expr.args[0])
        if is_site_integral(expr):
            return not last
        if not last and expr.is_Mul and any(
                isinstance(f, SpaceSum) and self._needs_mul_brackets(f) for f in expr.args):
            return True  # or what follows would read as part of the sum
        return bool(super()._needs_mul_brackets(expr, first, last))

    def _as_ordered_terms(self, expr: sp.Add, order: str | None = None) -> list[sp.Expr]:
        return self.ordered_terms(expr)

    def ordered_terms(self, expr: sp.Add) -> list[sp.Expr]:
        """The terms of a sum as they are printed, logarithms of scalars joined."""
        # data before parameters, then sums, then constants of normalisation; and no minus in front if avoidable
        terms = joined_logs(super()._as_ordered_terms(expr, order="lex"))
        fields = self._variables if expr == self._whole else ()
        terms.sort(key=lambda term: (self._is_constant(term, fields), *self._place(term), depth(term)))
        if terms[0].could_extract_minus_sign():
            late, kind = self._place(terms[0])
            like = {(late, kind)} | ({(late, 0), (late, 1)} if kind < 2 else set())
            positive = next((term for term in terms
                             if not term.could_extract_minus_sign() and self._place(term) in like), None)
            if positive is not None:
                terms = [positive, *(term for term in terms if term is not positive)]
        return terms

    @staticmethod
    def _is_constant(term: sp.Expr, fields: Collection[sp.Basic]) -> int:
        """Whether a term is without fields, 2 if it is without any sum too; never where no fields are named."""
        if not fields or any(depends_on(term, field) for field in fields):
            return 0
        return 1 if term.has(Entry) else 2

    def _place(self, term: sp.Expr) -> tuple[bool, int]:
        late = bool(self._late & term.free_symbols)
        if term.has(SpaceSum) or any(entry.is_data and not entry.spaces for entry in term.atoms(Entry)):
            return late, 2  # a datum without an index is the name of a sum
        return late, 0 if term.has(Entry) else 3 if term.has(sp.log, sp.loggamma) else 1

    def _print_Mul(self, expr: sp.Expr) -> str:
        # also called by _print_Pow, with powers
        args = expr.args if expr.is_Mul else ()
        if not args or args[0] is sp.S.One or any(arg.is_Number for arg in args[1:]):  # or unevaluated
            return super()._print_Mul(expr)
        if not any(map(is_tall, args)) or any(map(is_tall_below, args)):
            negative = expr.could_extract_minus_sign()
            positive = -expr if negative else expr
            if positive.is_Mul:
                tex = super()._print_Mul(sp.Mul._from_args(sorted(positive.args, key=self._rank)))
            else:
                tex = self.bracket_sum(positive)
            return f"- {tex}" if negative else tex
        sign, coefficient, tall = split_product(expr)
        if not tall:
            positive = self._print(-expr)
            return "- " + (bracketed(positive) if (-expr).is_Add else positive)
        texts = [] if coefficient == 1 else [self.factor(coefficient, last=False)]
        # of several forms in vectors each stands in brackets, the last too
        several = sum(isinstance(f, SpaceSum) and not self._is_delimited(f) and not self._is_entry(f)
                      for f in tall) > 1
        texts += [self.factor(factor, last=factor is tall[-1] and (self.style == "modes" or not several))
                  for factor in tall]
        return sign + " ".join(texts)

    def _rank(self, factor: sp.Expr) -> tuple[int, bool, Any]:
        """Numbers, coefficients, parameters, brackets of them, functions, then spectra, data and fields."""
        base = factor.as_base_exp()[0]
        if isinstance(base, Entry) and base.spaces:
            rank = {"spectrum": 6, "data": 7}.get(base.domain, 8)
        elif isinstance(factor, sp.exp):
            rank = 5
        elif base.is_number:
            rank = 0 if base.is_Rational else 1
        elif base.is_Atom or isinstance(base, Entry):
            rank = 2 if base in self._late else 3
        else:
            rank = 9 if base.has(Entry) else 4 if base.is_Add else 5
        return rank, "_" in getattr(base, "name", ""), sp.default_sort_key(factor)

    def factor(self, factor: sp.Expr, last: bool) -> str:
        open_ended = [] if last or not factor.is_Mul else [
            f for f in factor.args if self._needs_mul_brackets(f, last=False) > self._needs_mul_brackets(f, last=True)]
        if open_ended:  # of a product the end may take in what follows: ln Γ (…)
            rest = sp.Mul._from_args([f for f in factor.args if f not in open_ended])
            front = [] if rest == 1 else [self.factor(rest, last=False)]
            return " ".join([*front, *(bracketed(self._print(f)) for f in open_ended)])
        tex = self._print(factor)
        return bracketed(tex) if self._needs_mul_brackets(factor, last=last) else tex

    def bracket_sum(self, expr: sp.Expr) -> str:
        return bracketed(self._print(expr)) if expr.is_Add else str(self._print(expr))

    # ------------------------------------------------------------------------------ matrix notation
    def _is_delimited(self, total: SpaceSum) -> bool:
        form = matrix_form(total.body, total.space)
        return form is not None and form.spectrum is not None and not form.vectors

    def _is_entry(self, total: SpaceSum) -> bool:
        """Whether a sum is printed as an entry of a product of matrices, in square brackets."""
        return self.style == "traces" and (self.matrix_notation(total) or "").startswith(r"\left[")

    def matrix_notation(self, total: SpaceSum, indexed: bool = True) -> str | None:
        """A sum as trace, log-determinant or form; None where it is none of these."""
        form = matrix_form(total.body, total.space)
        if form is None or form.scalars or len(form.vectors) not in (0, 2):
            return None
        if not form.vectors and form.spectrum is not None:
            (only, *more) = form.functions
            if isinstance(only, sp.log) and not more:
                return r"\ln\det" + bracketed(self._matrix(only.args[0], form.spectrum))
            return rf"\operatorname{{tr}}\left[{self._matrices_of(form)}\right]"
        left, right = form.vectors
        middle = self._matrices_of(form)
        tex = " ".join(filter(None, [self._oriented(left, total.space, left=True), middle,
                                     self._oriented(right, total.space, left=False)]))
        others = [s for v in form.vectors for s in v.spaces if s != total.space]
        if not others or not indexed:
            return tex
        return glue(rf"\left[{tex}\right]", [], [" ".join(self.index_of(space) for space in others)])

    def _oriented(self, entry: Entry, space: Space, left: bool) -> str:
        """An entry as the left or right factor of a product over ``space``, transposed where need be."""
        name = self.bare(entry)
        wants_first = not left  # the summed index of a right factor is its row
        is_first = entry.spaces[0] == space
        transposed = left if len(entry.spaces) == 1 else is_first != wants_first
        if not transposed:
            return name
        return (bracketed(name) if "^" in name else name) + r"^{\top}"

    def _matrices_of(self, form: MatrixForm) -> str:
        if form.spectrum is None:
            return ""
        return " ".join(self._matrix_factor(factor, form.spectrum) for factor in form.functions)

    def matrix_name(self, spectrum: Entry) -> str:
        """The matrix whose eigenvalues a spectrum holds."""
        name = self._matrices.get(spectrum.name)
        if name is None:
            return r"\operatorname{diag}" + bracketed(self.bare(spectrum))
        return rf"\mathsf{{{name}}}" if name in self._taken else name

    def _matrix(self, expr: sp.Expr, x: Entry) -> str:
        """F(x) with the matrix in place of x, negative powers written as such."""
        if expr == x:
            return self.matrix_name(x)
        if x not in set(top_atoms(expr)):
            return self._print(expr)
        if expr.is_Add:
            return "".join(self._signed(self.ordered_terms(expr), lambda term: self._matrix(term, x)))
        if expr.is_Mul:
            sign, expr = ("- ", -expr) if expr.could_extract_minus_sign() else ("", expr)
            if not expr.is_Mul:
                return sign + self._bracketed(expr, x)
            factors = [f for f in expr.as_ordered_factors() if x in set(top_atoms(f))]
            scalar = sp.Mul._from_args([f for f in expr.args if f not in factors])
            texts = [] if scalar == 1 else [self.factor(scalar, last=False)]
            return sign + " ".join([*texts, *(self._matrix_factor(f, x) for f in factors)])
        if expr.is_Pow:
            return glue(self._bracketed(expr.base, x), [self._exponent(expr.exp)], [])
        if isinstance(expr, sp.exp):
            return glue("e", [self._matrix(expr.args[0], x)], [])
        return r"\ln" + bracketed(self._matrix(expr.args[0], x))

    def _exponent(self, exponent: sp.Expr) -> str:
        if exponent.is_Rational and not exponent.is_Integer:
            return f"{exponent.p}/{exponent.q}"
        return self._print(exponent)

    def _matrix_factor(self, expr: sp.Expr, x: Entry) -> str:
        return bracketed(self._matrix(expr, x)) if expr.is_Add else self._matrix(expr, x)

    def _bracketed(self, expr: sp.Expr, x: Entry) -> str:
        return self._matrix(expr, x) if expr == x else bracketed(self._matrix(expr, x))

    def _signed(self, terms: list[sp.Expr], show: Callable[[sp.Expr], str | None]) -> list[str]:
        pieces = []
        for position, term in enumerate(terms):
            negative = position > 0 and term.could_extract_minus_sign()
            operator = (" - " if negative else " + ") if position else ""
            term = -term if negative else term
            pieces.append(operator + (bracketed(show(term)) if term.is_Add else f"{show(term)}"))
        return pieces

    def is_vector(self, expr: sp.Basic) -> bool:
        """Whether an open expression is printed as a vector, without an index."""
        self._enter(expr)
        return self.style == "traces" and bool(self._free) and self._print_open(expr) is not None

    def _print_open(self, expr: sp.Basic) -> str | None:
        """An expression open in one space as a vector, F(K) y or T F(K) y; None where it is not one."""
        if isinstance(expr, sp.Equality):
            sides = [self._print_open(side) if side != 0 else "0" for side in expr.args]
            return None if None in sides else "{} = {}".format(*sides)
        spaces = open_spaces(expr)
        if len(spaces) != 1:
            return None
        (space,) = spaces
        if any(self._vector_term(term, space) is None for term in sp.Add.make_args(expr)):
            return None
        return "".join(self._open_pieces(expr))

    def _open_pieces(self, expr: sp.Expr, room: float | None = None) -> list[str]:
        """The terms of a vector with their signs; one wider than ``room`` is cut inside its bracket."""
        (space,) = open_spaces(expr)
        pieces: list[str] = []
        for position, term in enumerate(self.ordered_terms(expr) if expr.is_Add else [expr]):
            negative = position > 0 and term.could_extract_minus_sign()
            operator = (" - " if negative else " + ") if position else ""
            term = -term if negative else term
            whole = self._vector_term(term, space)
            scalar, inside = self._vector_bracket(term, space)
            if room is None or inside is None or tex_width(f"{whole}") <= room:
                pieces.append(operator + (bracketed(whole) if term.is_Add else f"{whole}"))
                continue
            first, *more, last = self._open_pieces(inside, room)
            pieces += [rf"{operator}{self.factor(scalar, last=False)} \biggl({first}", *more, rf"{last}\biggr)"]
        return pieces

    def _vector_bracket(self, term: sp.Expr, space: Space) -> tuple[sp.Expr, sp.Expr | None]:
        """A scalar and the sum of vectors that it multiplies; without the latter if the term is none such."""
        factors = sp.Mul.make_args(term)
        inner = [f for f in factors if space in open_spaces(f)]
        scalar = sp.Mul._from_args([f for f in factors if f not in inner])
        if len(inner) != 1 or not inner[0].is_Add or any(
                self._vector_term(part, space) is None for part in inner[0].args):
            return scalar, None
        return scalar, inner[0]

    def _vector_term(self, term: sp.Expr, space: Space) -> str | None:
        sign, term = ("- ", -term) if term.could_extract_minus_sign() else ("", term)
        if term.is_Add:
            return None
        scalar, inside = self._vector_bracket(term, space)
        open_factors = [f for f in sp.Mul.make_args(term) if space in open_spaces(f)]
        if inside is not None:
            tex: str | None = bracketed("".join(self._open_pieces(inside)))
        elif len(open_factors) == 1 and isinstance(open_factors[0], SpaceSum):
            total = open_factors[0]
            form = matrix_form(total.body, total.space)
            if form is None or [s for v in form.vectors for s in v.spaces if s != total.space] != [space]:
                return None
            tex = self.matrix_notation(total, indexed=False)
        else:
            form = matrix_form(sp.Mul._from_args(open_factors), space)
            if form is None or len(form.vectors) != 1 or form.vectors[0].spaces != (space,):
                return None
            tex = " ".join(filter(None, [self._matrices_of(form), self.bare(form.vectors[0])]))
        if tex is None:
            return None
        return sign + (tex if scalar == 1 else f"{self.factor(scalar, last=False)} {tex}")
