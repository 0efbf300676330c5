"""Truncated expansions as values: Σ_k c_k ε^k, known up to a stated remainder O(ε^r).

ε is a symbol (a formal, loop-counting one) or a rational power of one, such as 1/N or N^(-1/2).  Coefficients
are any SymPy expressions, sums over spaces included, that do not contain the symbol of ε.  Every operation
works out its remainder from both operands, so nothing is ever dropped in silence:

    r_{a+b} = min(r_a, r_b),    r_{ab} = min(o_a + r_b, o_b + r_a),    o the order of the first non-zero term.

Coefficients are left as the operations build them; ``series.map(sp.expand)`` tidies them when asked.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import mpmath
import sympy as sp

from fieldtheory.errors import AsymptoticWarning, BadInput, RuleError
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, entries, open_spaces, top_atoms, top_replace
from fieldtheory.symbolic.printing import latex
from fieldtheory.symbolic.resummation import Estimate, resummed, truncation_error

EXACT = math.inf
"""The remainder of a series with no further terms."""


@dataclass(frozen=True, eq=False, repr=False)
class Series:
    """Σ_k terms[k] ε^(offset + k) + O(ε^remainder).

    Parameters
    ----------
    terms : coefficients of consecutive powers, zeros included.
    parameter : ε: a Symbol, or a rational power of one (``1/N``, ``N**Rational(-1, 2)``).
    offset : the power of the first term; negative for a series that starts at N¹ in ε = 1/N.
    remainder : the first power that is not known; by default the one after the last term.  A larger one
        states that the coefficients between are zero, ``EXACT`` that all further ones are.

    Raises
    ------
    BadInput
        For an ε of another form, a remainder inside the terms, or a coefficient that contains the symbol of ε
        (its order would be ambiguous: expand in a formal, loop-counting symbol instead).
    """

    terms: tuple[sp.Expr, ...]
    parameter: sp.Expr
    offset: int = 0
    remainder: Any = None  # an int, or EXACT, once constructed

    def __post_init__(self) -> None:
        parameter = sp.sympify(self.parameter)
        base, power = parameter.as_base_exp()
        if not (base.is_Symbol and power.is_Rational):
            raise BadInput("parameter", parameter, "a Symbol, or a rational power of one such as 1/N")
        terms = tuple(sp.sympify(term) for term in self.terms)
        offset = int(self.offset)
        if not terms and self.remainder is not None:
            offset = int(min(offset, self.remainder))  # nothing known: the remainder says it all
        end = offset + len(terms)
        remainder = end if self.remainder is None else self.remainder
        if remainder < end:
            raise BadInput("remainder", remainder, f"at least {end}, the power after the last term")
        if remainder != EXACT:
            remainder = int(remainder)
            terms += (sp.S.Zero,) * (remainder - end)
        for term in terms:
            if term.has(base):  # looks below sums and into their sizes, where free_symbols does not
                raise BadInput("terms", term, f"coefficients free of {base}, in which they are expanded")
        for name, value in (("terms", terms), ("parameter", parameter), ("offset", offset),
                            ("remainder", remainder)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_expr(cls, expr: Any, parameter: Any, remainder: int | float = EXACT) -> Series:
        """Read a Laurent polynomial in ε; exact unless a remainder is given, which truncates it."""
        symbol, power = sp.sympify(parameter).as_base_exp()
        found: dict[int, sp.Expr] = {}
        for term in sp.Add.make_args(sp.expand_mul(sp.sympify(expr), deep=False)):
            if not term.has(symbol):
                found[0] = found.get(0, sp.S.Zero) + term
                continue
            coefficient, dependent = term.as_independent(symbol, as_Add=False)
            base, exponent = dependent.as_base_exp()
            order = exponent / power
            if base != symbol or not order.is_Integer:
                raise BadInput("expr", term, f"a coefficient times an integer power of {parameter}")
            found[int(order)] = found.get(int(order), sp.S.Zero) + coefficient
        low = min(found)
        top = max(found) + 1 if remainder == EXACT else int(remainder)
        terms = tuple(found.get(order, sp.S.Zero) for order in range(low, top))
        return cls(terms, parameter, low, remainder)

    @property
    def order(self) -> int | float:
        """The power of the first non-zero coefficient, or the remainder when all known ones vanish."""
        return next((self.offset + k for k, term in enumerate(self.terms) if term != 0), self.remainder)

    @property
    def is_exact(self) -> bool:
        return self.remainder == EXACT

    def coefficient(self, order: int) -> sp.Expr:
        """The coefficient of ε^order; RuleError when the series does not reach that far."""
        if order >= self.remainder:
            raise RuleError(f"order {order} lies in the remainder, of order {self.remainder}")
        k = order - self.offset
        return self.terms[k] if 0 <= k < len(self.terms) else sp.S.Zero

    def truncate(self, order: int) -> Series:
        """Keep the powers up to and including ``order``; the remainder becomes ε^(order + 1) at best."""
        remainder = min(self.remainder, order + 1)
        keep = len(self.terms) if remainder == EXACT else max(0, remainder - self.offset)
        return Series(self.terms[:keep], self.parameter, self.offset, remainder)

    def map(self, function: Callable[[sp.Expr], Any]) -> Series:
        """Apply a function (``sp.expand``, a substitution) to every coefficient."""
        return Series(tuple(map(function, self.terms)), self.parameter, self.offset, self.remainder)

    def as_expr(self) -> sp.Expr:
        """The sum of the known terms, the remainder left to ``self.remainder``."""
        return sp.Add(*self._powers())

    def _powers(self) -> tuple[sp.Expr, ...]:
        return tuple(c * self.parameter**(self.offset + k) for k, c in enumerate(self.terms))

    # ------------------------------------------------------------------------------------------ arithmetic

    def _coerce(self, other: Any) -> Series:
        if not isinstance(other, Series):
            return Series.from_expr(other, self.parameter)
        if other.parameter != self.parameter:
            raise BadInput("parameter", other.parameter, f"{self.parameter}, as in the other series")
        return other

    def _gather(self, low: int, remainder: int | float, top: int,
                coefficient: Callable[[int], Any]) -> Series:
        stop = top if remainder == EXACT else int(remainder)
        terms = tuple(coefficient(order) for order in range(low, max(low, stop)))
        return Series(terms, self.parameter, low, remainder)

    def __add__(self, other: Any) -> Series:
        other = self._coerce(other)
        top = max(self.offset + len(self.terms), other.offset + len(other.terms))
        return self._gather(min(self.offset, other.offset), min(self.remainder, other.remainder), top,
                            lambda k: self.coefficient(k) + other.coefficient(k))

    def __mul__(self, other: Any) -> Series:
        other = self._coerce(other)
        if EXACT in (self.order, other.order):  # an exact zero
            return Series((), self.parameter, 0, EXACT)
        remainder = min(self.order + other.remainder, other.order + self.remainder)
        low = self.offset + other.offset

        def coefficient(order: int) -> sp.Expr:
            return sp.Add(*(a * other.coefficient(order - self.offset - k) for k, a in enumerate(self.terms)
                            if a != 0 and other.offset <= order - self.offset - k < other.remainder))

        return self._gather(low, remainder, low + len(self.terms) + len(other.terms) - 1, coefficient)

    def __pow__(self, exponent: Any) -> Series:
        """A rational power, provided that it leaves integer powers of ε.

        From p = a^α follows a p' = α a' p, that is k a_0 p_k = Σ_{j=1..k} (α j - k + j) a_j p_{k-j}.
        """
        power = sp.sympify(exponent)
        if not power.is_Rational:
            raise BadInput("exponent", exponent, "an integer or a rational number")
        if power.is_Integer and power >= 0:
            result = Series((sp.S.One,), self.parameter, 0, EXACT)
            for _ in range(int(power)):
                result = result * self
            return result
        lead = self.order
        if lead == self.remainder:
            raise RuleError(f"the power {power} of a series without a known non-zero term")
        shift = lead * power
        if not shift.is_Integer:
            raise RuleError(f"the power {power} of a series from order {lead} has no integer orders")
        if self.is_exact and not any(self.terms[int(lead) - self.offset + 1:]):
            return Series((self.coefficient(int(lead))**power,), self.parameter, int(shift), EXACT)
        a = self._finite(f"the power {power}")
        p = [a[0]**power]
        for k in range(1, len(a)):
            p.append(sp.Add(*((power * j - k + j) * a[j] * p[k - j] for j in range(1, k + 1))) / (k * a[0]))
        return Series(tuple(p), self.parameter, int(shift))

    def _finite(self, what: str) -> tuple[sp.Expr, ...]:
        if self.is_exact:
            raise RuleError(f"{what} of an exact series has infinitely many terms: truncate it first")
        return self.terms[int(self.order) - self.offset:]

    def exp(self) -> Series:
        """exp: k e_k = Σ_j j a_j e_{k-j}; refused when a negative power of ε makes it singular."""
        if self.order < 0:
            raise RuleError(f"exp of a series that starts at the negative order {self.order}")
        self._finite("exp")
        a = [self.coefficient(k) for k in range(int(self.remainder))]
        e = [sp.exp(a[0])] if a else []
        for k in range(1, len(a)):
            e.append(sp.Add(*(j * a[j] * e[k - j] for j in range(1, k + 1))) / k)
        return Series(tuple(e), self.parameter)

    def log(self) -> Series:
        """log: k a_0 l_k = k a_k - Σ_{0<j<k} j l_j a_{k-j}; refused when ln ε itself would appear."""
        if self.order != 0 or self.remainder == 0:
            raise RuleError(f"log of a series that starts at order {self.order}, not 0")
        a = self._finite("log")
        logs = [sp.log(a[0])]
        for k in range(1, len(a)):
            logs.append((k * a[k] - sp.Add(*(j * logs[j] * a[k - j] for j in range(1, k)))) / (k * a[0]))
        return Series(tuple(logs), self.parameter)

    def __neg__(self) -> Series:
        return self.map(lambda term: -term)

    def __sub__(self, other: Any) -> Series:
        return self + -self._coerce(other)

    def __rsub__(self, other: Any) -> Series:
        return -self + other

    def __truediv__(self, other: Any) -> Series:
        return self * self._coerce(other)**-1

    def __rtruediv__(self, other: Any) -> Series:
        return self**-1 * other

    __radd__, __rmul__ = __add__, __mul__

    # -------------------------------------------------------------------------------- comparison and output

    def _key(self) -> tuple[Any, ...]:
        terms = list(self.terms[int(self.order) - self.offset:]) if self.order != self.remainder else []
        while terms and terms[-1] == 0:
            terms.pop()
        return self.parameter, self.order, self.remainder, tuple(terms)

    def __eq__(self, other: object) -> bool:
        """Same ε, remainder and coefficients as written (compare ``a.map(sp.expand)`` otherwise)."""
        return self._key() == other._key() if isinstance(other, Series) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def evaluate_terms(self, values: Mapping[Any, Any] | None = None, digits: int | None = None,
                       **named: Any) -> tuple[Any, ...]:
        """The number c_k ε^k of every term, in order; arguments as in ``evaluate``."""
        return tuple(numerical_values(self._powers(), {**(values or {}), **named}, digits))

    def evaluate(self, values: Mapping[Any, Any] | None = None, digits: int | None = None, *,
                 with_error: bool = False, **named: Any) -> Any:
        """The sum of the known terms as a number: a float, or with ``digits`` an mpf of that many digits.

        ``values`` maps symbols and entries, or their names, to numbers and sequences: ``numerical_value``.

        Where the terms have begun to grow at these values, the series is asymptotic and past its smallest term: an
        :class:`~fieldtheory.errors.AsymptoticWarning` says where to truncate.  With ``with_error`` the result is an
        :class:`~fieldtheory.symbolic.resummation.Estimate`, as from ``estimate``.
        """
        found = self._estimate({**(values or {}), **named}, digits, 3)
        return found if with_error else found.value

    def estimate(self, values: Mapping[Any, Any] | None = None, digits: int | None = None, **named: Any) -> Estimate:
        """``evaluate(..., with_error=True)``: the sum with an estimate of what the truncation leaves out.

        Terms that still fall are continued geometrically to the order of the remainder.  Past the smallest term the
        error is the size of the last term, and ``smallest`` tells where to truncate.
        """
        return self._estimate({**(values or {}), **named}, digits, 3)

    def _estimate(self, given: Mapping[Any, Any], digits: int | None, stacklevel: int) -> Estimate:
        with mpmath.workdps((15 if digits is None else digits) + 10):
            terms = numerical_values(self._powers(), given, mpmath.mp.dps)
            total = mpmath.fsum(terms)
            powers = [(self.offset + k, term) for k, term in enumerate(terms)]
            error, smallest = (mpmath.mpf(0), None) if self.is_exact else truncation_error(powers, int(self.remainder))
        if smallest is not None:
            warnings.warn(f"the terms grow from {self.parameter}^{smallest} on: the series is past its smallest term; "
                          f"truncate({smallest}) or resum it", AsymptoticWarning, stacklevel=stacklevel)
        return Estimate(_rounded(total, digits), _rounded(error, digits), smallest)

    def resum(self, values: Mapping[Any, Any] | None = None, method: str = "pade-borel", digits: int | None = None,
              **named: Any) -> Estimate:
        """The series resummed by Padé approximants of its Borel transform ("pade-borel"), or of itself ("pade").

        The error is the distance to neighbouring approximants.  Needs numbers for every symbol, ε included, and at
        least three coefficients; a pole on the path (a series that is not Borel summable) is refused: RuleError.
        """
        given = {**(values or {}), **named}
        if self.is_exact:
            return self._estimate(given, digits, 3)
        with mpmath.workdps((15 if digits is None else digits) + 15):
            known = numerical_values(self._powers(), given, mpmath.mp.dps)
            leading = min(self.offset, 0) - self.offset  # powers below ε^0 are summed as they are
            series = [mpmath.mpf(0)] * max(self.offset, 0) + known[-leading:]
            value, error = resummed(series, mpmath.mpf(1), method)
            value += mpmath.fsum(known[:-leading] if leading else [])
        return Estimate(_rounded(value, digits), _rounded(error, digits))

    def __str__(self) -> str:
        text = _joined(self._powers(), sp.sstr)
        rest = "" if self.is_exact else f"O({sp.sstr(self.parameter**self.remainder)})"
        return " + ".join(part for part in (text, rest) if part) or "0"

    def __repr__(self) -> str:
        return f"Series({self})"

    def _latex_terms(self, show: Callable[[sp.Expr], str] = latex) -> str:
        """LaTeX without delimiters; ``show`` prints one expression."""
        text = _joined(self._powers(), show)
        rest = "" if self.is_exact else rf"O\left({show(self.parameter**self.remainder)}\right)"
        return " + ".join(part for part in (text, rest) if part) or "0"

    def _latex(self, printer: Any, *args: Any) -> str:
        return self._latex_terms(printer._print)

    def _repr_latex_(self) -> str:
        return rf"$\displaystyle {self._latex_terms()}$"


def _joined(terms: Iterable[sp.Expr], show: Callable[[sp.Expr], str]) -> str:
    text = ""
    for term in terms:
        if term == 0:
            continue
        minus = not term.is_Add and term.could_extract_minus_sign()
        sign = (" - " if minus else " + ") if text else ("-" if minus else "")
        term = -term if minus else term
        shown = show(term)
        text += sign + (f"({shown})" if term.is_Add and (text or minus) else shown)
    return text


# ---------------------------------------------------------------------------------------------------- numbers


def numerical_value(expr: Any, values: Mapping[Any, Any], digits: int | None = None) -> Any:
    """The number of a closed expression: a float, or with ``digits`` an mpf; complex where the value is.

    ``values`` maps symbols and entries, or their names, to numbers and to sequences (nested, one level for
    each space of the entry; any array type will do).  The size of a space may be left to the data.  mpmath
    throughout: made for checking and for series, not for loops over many points.

    Raises
    ------
    BadInput
        Naming a symbol or entry without a value, a sequence of the wrong length, or an open expression.
    """
    return numerical_values([expr], values, digits)[0]


def numerical_values(exprs: Iterable[Any], values: Mapping[Any, Any], digits: int | None = None) -> list[Any]:
    """Several numbers at the same values, sums that they share being done once; as ``numerical_value``."""
    exprs = [sp.sympify(expr) for expr in exprs]
    for expr in exprs:
        if open_spaces(expr):
            raise BadInput("expr", expr, "a closed expression, with no free space")
    with mpmath.workdps((15 if digits is None else digits) + 10):
        numbers = _Numbers(sp.Tuple(*exprs), values)
        found = [numbers.value(expr, {}) for expr in exprs]
    return [_rounded(value, digits) for value in found]


def _rounded(value: Any, digits: int | None) -> Any:
    """A float, or with ``digits`` an mpf; complex where the value is."""
    if isinstance(value, mpmath.mpc) and value.imag == 0:
        value = value.real
    if digits is None:
        return complex(value) if isinstance(value, mpmath.mpc) else float(value)
    with mpmath.workdps(digits):
        return +value


class _Numbers:
    """Recursive evaluation at one point of each bound space."""

    def __init__(self, expr: sp.Basic, values: Mapping[Any, Any]) -> None:
        by_name = {key: value for key, value in values.items() if isinstance(key, str)}
        atoms = expr.atoms(sp.Symbol) | set(entries(expr))
        self.values: dict[sp.Basic, Any] = {
            atom: values[atom] if atom in values else by_name[atom.name]
            for atom in atoms if atom in values or atom.name in by_name}
        self.functions: dict[sp.Expr, tuple[list[sp.Basic], Callable[..., Any]]] = {}
        self.closed: dict[sp.Expr, Any] = {}
        self.lengths: dict[Space, int] = {}
        for entry in entries(expr):
            data = self.values.get(entry)
            for space in entry.spaces:
                if data is None:
                    break
                if self.lengths.setdefault(space, len(data)) != len(data):
                    raise BadInput(entry.name, f"{len(data)} values over {space.name}",
                                   f"{self.lengths[space]}, as in other data")
                data = data[0] if len(data) else None
        for space, length in self.lengths.items():
            if space.size.is_Symbol:
                self.values.setdefault(space.size, length)

    def length(self, space: Space) -> int:
        size = self.value(space.size, {})
        if size != int(size) or size < 0 or self.lengths.setdefault(space, int(size)) != size:
            raise BadInput(str(space.size), size, f"the {self.lengths.get(space, 'whole number of')} "
                                                  f"points of {space.name}")
        return int(size)

    def value(self, expr: sp.Expr, at: dict[Space, int]) -> Any:
        if isinstance(expr, sp.Symbol | Entry):
            if expr not in self.values:
                raise BadInput(expr.name, "no value", "a number" if expr.is_Symbol else "its numbers")
            number = self.values[expr]
            for space in expr.spaces if isinstance(expr, Entry) else ():
                number = number[at[space]]
            return number.evalf(mpmath.mp.dps)._to_mpmath(mpmath.mp.prec) if isinstance(number, sp.Expr) \
                else mpmath.mpmathify(number)
        if isinstance(expr, SpaceSum):
            if expr in self.closed:
                return self.closed[expr]
            points = range(self.length(expr.space))
            total = mpmath.fsum(self.value(expr.body, {**at, expr.space: k}) for k in points)
            if not open_spaces(expr):
                self.closed[expr] = total
            return total
        if expr not in self.functions:
            atoms = sorted(set(top_atoms(expr)), key=sp.default_sort_key)
            dummies = {atom: sp.Dummy() for atom in atoms}
            body = top_replace(expr, dummies)
            self.functions[expr] = atoms, sp.lambdify(list(dummies.values()), body, modules="mpmath")
        atoms, function = self.functions[expr]
        return mpmath.mpmathify(function(*(self.value(atom, at) for atom in atoms)))
