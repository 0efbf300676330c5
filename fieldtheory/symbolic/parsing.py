r"""Reading back what the printer writes: LaTeX of the expression class, to the expression.

The grammar is that of `fieldtheory.symbolic.printing`, not of LaTeX at large: products by juxtaposition, sums over
spaces that reach to the end of their product, matrices and vectors without indices in the notation of traces, and
formulas broken into lines. Names mean what a *vocabulary* says, the longest printed name first, so that nothing is
guessed and nothing evaluated.
What the indices range over follows from what carries them (`fieldtheory.symbolic.indices`). Derived here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy as sp
from sympy.core.relational import Relational

from fieldtheory.errors import BadInput, BadLatex
from fieldtheory.symbolic.arrays import Array, add, multiply, power, transposed
from fieldtheory.symbolic.fields import Entry, SpaceSum, open_spaces
from fieldtheory.symbolic.grammar import CLOSING, CONSTANTS, DIFFERENTIAL, FUNCTIONS, OPERATORS, RELATIONS
from fieldtheory.symbolic.indices import IndexCursor
from fieldtheory.symbolic.rules import LogIntegral
from fieldtheory.symbolic.series import Series
from fieldtheory.symbolic.tokens import END
from fieldtheory.symbolic.vocabulary import Vocabulary, Word

Value = Any
"""A scalar expression, an equation or condition, or an `Array`."""


def parse_latex(text: str, names: Any, *, symbol_names: Mapping[Any, str] | None = None,
                matrices: Mapping[str, str] | None = None) -> Any:
    r"""The expression, equation, condition or matrix that a formula written by `latex` stands for.

    Parameters
    ----------
    text : LaTeX as `latex` and `multiline` write it, in either style and with or without line breaks.
    names : what may occur: expressions whose symbols, entries, functions and averages are meant, or these themselves.
    symbol_names, matrices : as they were given to the printer.

    Returns
    -------
    An expression equal to the one printed; identical in form where the printer has not rearranged it (logarithms of
    scalars it joins). A vector of the notation of traces comes back as an expression open in its space.

    Raises
    ------
    BadLatex
        With the position, what stands there and what was expected: for anything outside the grammar, an index
        that no entry explains or that its sum does not bind, and matrices that do not fit.
    BadInput
        If two of the names are printed alike.
    """
    return _finished(_Reader(text, Vocabulary(names, symbol_names, matrices)).whole())


def parse_series(text: str, names: Any, parameter: Any, **options: Any) -> Series:
    r"""A printed `Series` in powers of ``parameter``, with its remainder O(ε^r); without one it is exact."""
    reader = _Reader(text, Vocabulary([names, sp.sympify(parameter)], **options))
    reader.remainder = sp.S.Zero
    expr = _finished(reader.whole())
    if reader.remainder == 0:
        return Series.from_expr(expr, parameter)
    symbol, step = sp.sympify(parameter).as_base_exp()
    base, exponent = reader.remainder.as_base_exp()
    order = exponent / step if base == symbol else sp.S.Zero if reader.remainder == 1 else None
    if order is None or not order.is_Integer:
        raise BadInput("parameter", parameter, f"one of which {reader.remainder} is a power")
    return Series.from_expr(expr, parameter, int(order))


def _finished(value: Value) -> Any:
    return value.value() if isinstance(value, Array) else value


class _Reader(IndexCursor):
    """Recursive descent."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        super().__init__(text)
        self.vocabulary = vocabulary
        self.has_conditions = any(token.text in (r"\wedge", r"\vee") for token in self.tokens)
        self.remainder: sp.Expr | None = None

    def group(self) -> Value:
        self.expects("{")
        value = self.expression()
        self.expects("}")
        return value

    def scalar(self, value: Value, start: int, what: str = "a scalar") -> sp.Expr:
        if isinstance(value, sp.Expr):
            return value
        self.fail(f"{what}, not a {'matrix or vector' if isinstance(value, Array) else 'condition'}", start)

    # ------------------------------------------------------------------------------------------ structure
    def whole(self) -> Value:
        value = self.condition()
        if self.now != END:
            self.fail("the end, or an operator")
        return value

    def condition(self) -> Value:
        parts = [self.relation()]
        joint = self.now
        while joint in (r"\wedge", r"\vee") and self.skips(joint):
            parts.append(self.relation())
        return parts[0] if len(parts) == 1 else (sp.And if joint == r"\wedge" else sp.Or)(*parts)

    def relation(self) -> Value:
        if self.now == r"\left(" and self.has_conditions:  # around conditions, or the start of a formula
            before = self.place()
            self.at += 1
            try:
                value = self.condition()
                if isinstance(value, Relational | sp.And | sp.Or) and self.skips(r"\right)"):
                    return value
            except BadLatex:
                pass
            self.back_to(before)
        start = self.at
        left = self.expression()
        if self.now not in RELATIONS:
            return left
        relation = RELATIONS[self.now]
        self.at += 1
        right = self.expression()
        try:
            add(left, right)  # of one shape
        except ValueError as error:
            self.fail(str(error), start)
        return relation(_finished(left), _finished(right), evaluate=False)

    def expression(self) -> Value:
        sign = -1 if self.skips("-") else (self.skips("+"), 1)[1]
        total: Value = None
        while True:
            start = self.at
            term = self.order() if self.sees("O", r"\left(") and self.remainder is not None else self.product()
            try:
                term = term if sign == 1 else multiply(sp.S.NegativeOne, term)
                total = term if total is None else add(total, term)
            except ValueError as error:
                self.fail(str(error), start)
            if self.skips("+"):
                sign = 1
            elif self.skips("-"):
                sign = -1
            else:
                return total

    def order(self) -> sp.Expr:
        self.expects("O", r"\left(")
        start = self.at
        self.remainder = self.scalar(self.expression(), start)
        self.expects(r"\right)")
        return sp.S.Zero

    def product(self) -> Value:
        total: Value = None
        number = False
        while total is None or not self.ends():
            start = self.at
            dotted = total is not None and self.skips(r"\cdot")
            divided = total is not None and not dotted and self.skips("/")
            if number and not (dotted or divided) and self.now[0].isdigit():
                self.fail(r"\cdot between two numbers")
            number = self.now[0].isdigit()
            factor = self.factor()
            try:
                factor = power(factor, sp.S.NegativeOne) if divided else factor
                total = factor if total is None else multiply(total, factor)
            except ValueError as error:
                self.fail(str(error), start)
        return total

    def ends(self) -> bool:
        return self.now in CLOSING or self.now in ("+", "-") or self.sees(*DIFFERENTIAL)

    def factor(self) -> Value:
        start = self.at
        value = self.atom()
        while True:
            if self.sees("^", "{", r"\top", "}"):
                self.at += 4
                value = self.checked(lambda held=value: transposed(held), start)
            elif self.sees("^"):
                exponent = self.exponent()
                value = self.checked(lambda held=value, raised=exponent: power(held, raised), start)
            elif self.skips("!"):
                value = sp.factorial(self.scalar(value, start))
            else:
                return value

    def checked(self, operation: Any, start: int) -> Value:
        try:
            return operation()
        except ValueError as error:
            self.fail(str(error), start)

    def exponent(self) -> Value:
        self.expects("^")
        return self.group()

    # ------------------------------------------------------------------------------------------ atoms
    def atom(self) -> Value:
        for tokens, constant in CONSTANTS.items():
            if len(tokens) > 1 and self.skips(*tokens):
                return self.euler() if constant is sp.E else constant
        for tokens, word in self.vocabulary.starting(self.now):
            if self.sees(*tokens):
                before = self.place()
                self.at += len(tokens)
                value = self.word(word)
                if value is not None:
                    return value
                self.back_to(before)
        for (token, *more), constant in CONSTANTS.items():
            if not more and self.skips(token):
                return self.euler() if constant is sp.E else constant
        text = self.now
        if text[0].isdigit():
            self.at += 1
            return sp.Float(text) if "." in text else sp.Integer(text)
        readers = {r"\left(": self.bracket, r"\left[": self.square, r"\left|": self.absolute, "{": self.group,
                   r"\frac": self.fraction, r"\sqrt": self.root, r"\sum": self.sum, r"\ln": self.logarithm,
                   r"\int": self.integral, r"\operatorname": self.operator, r"\begin": self.environment,
                   r"\binom": self.binomial, r"\left\langle": self.average}
        if text in readers:
            return readers[text]()
        if text in FUNCTIONS:
            self.at += 1
            return self.applied(FUNCTIONS[text])
        self.fail(f"a formula made of {self.vocabulary}")

    def euler(self) -> Value:
        start = self.at
        exponent = self.exponent() if self.now == "^" else sp.S.One
        return exponent.map(sp.exp) if isinstance(exponent, Array) else sp.exp(self.scalar(exponent, start))

    def bracket(self) -> Value:
        self.expects(r"\left(")
        value = self.expression()
        self.expects(r"\right)")
        return value

    def average(self) -> sp.Expr:
        """⟨body⟩ over the variables in its subscript, by the law that the vocabulary has for them."""
        self.expects(r"\left\langle")
        start = self.at
        body = self.scalar(self.expression(), start)
        self.expects(r"\right\rangle", "_", "{")
        known = [names for names in self.vocabulary.laws if self.sees(*names, "}")]
        if not known:
            self.fail("the variables of an average among the names")
        self.at += len(known[0]) + 1
        node = self.vocabulary.laws[known[0]]
        return node.func(body, *node.args[1:])

    def absolute(self) -> sp.Expr:
        self.expects(r"\left|")
        start = self.at
        value = self.scalar(self.group() if self.now == "{" else self.expression(), start)
        self.expects(r"\right|")
        return sp.Abs(value)

    def square(self) -> Value:
        """An element of a matrix or vector, [X w]_μ, or a matrix written out."""
        start = self.at
        self.expects(r"\left[")
        if self.sees(r"\begin"):
            value: Value = self.environment()
            self.expects(r"\right]")
            return value
        value = self.expression()
        self.expects(r"\right]")
        if not isinstance(value, Array):
            self.fail("a matrix or vector in square brackets", start)
        self.expects("_", "{")
        at = self.at
        indices = self.indices()
        self.expects("}")
        if len(indices) != len(value.spaces):
            self.fail(f"{len(value.spaces)} indices", at)
        self.bind(indices, value.spaces, at)
        return value.value()

    def fraction(self) -> Value:
        start = self.at
        self.expects(r"\frac")
        if self.sees("{", *DIFFERENTIAL) or self.sees("{", r"\partial"):
            return self.derivative(start)
        above, at = self.group(), self.at
        below = self.scalar(self.group(), at)
        return self.checked(lambda: multiply(above, 1 / below), start)

    def derivative(self, start: int) -> sp.Expr:
        head = DIFFERENTIAL if self.sees("{", *DIFFERENTIAL) else (r"\partial",)
        self.expects("{", *head)
        order = self.exponent() if self.now == "^" else sp.S.One
        self.expects("}", "{")
        variables: list[tuple[sp.Expr, sp.Expr]] = []
        while self.skips(*head):
            at = self.at
            variable = self.scalar(self.atom(), at)
            variables.insert(0, (variable, self.exponent() if self.now == "^" else sp.S.One))
        if sp.Add(*(count for _, count in variables)) != order:
            self.fail("as many derivatives below as above", start)
        self.expects("}")
        at = self.at
        return sp.Derivative(self.scalar(self.product(), at), *variables)

    def root(self) -> sp.Expr:
        self.expects(r"\sqrt")
        start = self.at
        degree: sp.Expr = sp.Integer(2)
        if self.skips("["):
            degree = self.scalar(self.expression(), start)
            self.expects("]")
        return self.scalar(self.group(), start) ** (1 / degree)

    def binomial(self) -> sp.Expr:
        self.expects(r"\binom")
        return sp.binomial(self.group(), self.group())

    def logarithm(self) -> Value:
        start = self.at
        self.expects(r"\ln")
        if self.skips(r"\det"):
            at = self.at
            inside = self.bracket()
            if not isinstance(inside, Array) or not inside.diagonal:
                self.fail("a function of one matrix", at)
            return inside.trace(sp.log)
        if self.skips(r"\Gamma", r"\left("):
            self.at -= 1
            return self.applied(sp.loggamma)
        if self.sees(r"\int"):
            return self.site_integral()
        if self.now in ("{", r"\left("):
            held: Value = self.arguments()
            if len(held) != 1:
                self.fail("one argument", start)
            return held[0].map(sp.log) if isinstance(held[0], Array) else sp.log(held[0])
        at = self.at
        value = self.scalar(self.atom(), at)
        if self.now == "^":
            self.fail("brackets around what the logarithm is of")
        return sp.log(value)

    def operator(self) -> Value:
        start = self.at
        self.expects(r"\operatorname", "{")
        name = ""
        while self.now not in ("}", END):
            name, self.at = name + self.now, self.at + 1
        self.expects("}")
        if name == "tr":
            self.expects(r"\left[")
            at = self.at
            inside = self.expression()
            self.expects(r"\right]")
            if not isinstance(inside, Array) or not inside.diagonal:
                self.fail("a function of one matrix", at)
            return inside.trace()
        if name == "diag":
            self.expects(r"\left(")
            spectrum = self.vocabulary.spectrum([token.text for token in self.tokens[self.at:]])
            if spectrum is None:
                self.fail("the name of a spectrum")
            self.at += spectrum[1]
            self.expects(r"\right)")
            return Array.function(spectrum[0])
        if name == "CRootOf":
            polynomial, number = self.arguments()
            return sp.CRootOf(polynomial, int(number))
        if name not in OPERATORS:
            self.fail(f"tr, diag, or one of {', '.join(sorted(OPERATORS))}", start)
        return self.applied(OPERATORS[name])

    def applied(self, function: Any) -> sp.Expr:
        raised = self.exponent() if self.now == "^" else sp.S.One
        start = self.at
        arguments = [self.scalar(argument, start) for argument in self.arguments()]
        return self.checked(lambda: function(*arguments) ** raised, start)

    def arguments(self) -> list[Value]:
        braced = self.skips("{")
        self.expects(r"\left(")
        found = [self.expression()]
        while self.skips(","):
            found.append(self.expression())
        self.expects(r"\right)")
        if braced:
            self.expects("}")
        return found

    def environment(self) -> Value:
        if self.skips(r"\begin", "matrix"):
            rows = self.rows("matrix")
            if len({len(row) for row in rows}) != 1:
                self.fail("rows of one length")
            return sp.ImmutableMatrix(rows)
        self.expects(r"\begin", "cases")
        return sp.Piecewise(*(tuple(row) for row in self.rows("cases")))

    def rows(self, name: str) -> list[list[Any]]:
        rows: list[list[Any]] = [[]]
        while True:
            if self.skips(r"\text", "{", *"otherwise", "}"):
                rows[-1].append(sp.S.true)
            else:
                self.skips(r"\text", "{", *"for", "}")
                rows[-1].append(_finished(self.condition()))
            if self.skips(r"\\"):
                rows.append([])
            elif not self.skips("&"):
                self.expects(r"\end", name)
                return rows

    # ------------------------------------------------------------------------------------------ names, sums
    def word(self, word: Word) -> Value | None:
        """What a name stands for, or None where the indices that it needs do not follow."""
        if isinstance(word.meaning, type):
            return self.applied(word.meaning) if self.now in ("{", r"\left(") else None
        if not word.indexed:
            return word.meaning
        start = self.at
        entry: Entry = word.meaning
        if not self.skips(*word.opening):
            return None
        indices = self.indices()
        if len(indices) != len(entry.spaces) or (word.starred and "*" not in indices) or not self.skips("}"):
            return None
        self.bind(indices, entry.spaces, start)
        return entry

    def sum(self) -> sp.Expr:
        self.expects(r"\sum", "_", "{")
        start = self.at
        index = self.indices()
        if len(index) != 1:
            self.fail("one index", start)
        self.expects("=", "1", "}", "^")
        at = self.at
        size = self.scalar(self.group(), at)
        with self.binding(index[0]) as frame:
            body_at = self.at
            body = self.scalar(self.product(), body_at)
        space = frame.space
        if space is None or space not in open_spaces(body):
            self.fail(f"a body that depends on {index[0]}", body_at)
        if space.size != size:
            self.fail(f"{space.size}, the size of the space {space.name}", at)
        return SpaceSum(body, space)

    def integral(self) -> sp.Expr:
        limits: list[list[sp.Expr]] = []
        while self.skips(r"\int"):
            if self.skips("_"):
                low = self.group()
                self.expects("^")
                limits.append([low, self.group()])
            else:
                limits.append([])
        start = self.at
        body = self.scalar(self.product(), start)
        bounds = []
        for limit in reversed(limits):
            self.expects(*DIFFERENTIAL)
            at = self.at
            bounds.append((self.scalar(self.atom(), at), *limit))
        return sp.Integral(body, *bounds)

    def site_integral(self) -> sp.Expr:
        self.expects(r"\int")
        fields = []
        while not self.skips(r"\exp"):
            imaginary = self.skips(r"\frac", "{")
            self.expects(*DIFFERENTIAL)
            tokens = [token.text for token in self.tokens[self.at:]]
            found = self.vocabulary.bare(tokens, imaginary)
            if found is None:
                self.fail(f"the name of {'an imaginary' if imaginary else 'a real'} field")
            fields.append(found[0])
            self.at += found[1]
            if imaginary:
                self.expects("}", "{", "2", r"\pi", r"\mathrm", "{", "i", "}", "}")
        start = self.at
        exponent = self.scalar(self.bracket(), start)
        return LogIntegral(-exponent, sp.Tuple(*fields))


__all__ = ["parse_latex", "parse_series"]
