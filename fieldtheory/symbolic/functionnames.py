"""LaTeX of functions, constants and integrals, told apart from the symbols of an expression that look like them."""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.printing.latex import LatexPrinter

from fieldtheory.symbolic.names import glue


class FunctionPrinter(LatexPrinter):
    """SymPy's LaTeX printer, but an e, a Γ or a W is a function only where no symbol is printed like it."""

    _taken: set[str]
    """What the symbols of the expression are printed as."""

    def _print_loggamma(self, expr: sp.Expr, exp: str | None = None) -> str:
        tex = rf"\ln\Gamma{bracketed(self._print(expr.args[0]))}"
        return tex if exp is None else rf"{bracketed(tex)}^{{{exp}}}"

    def _print(self, expr: Any, **options: Any) -> str:
        if isinstance(expr, sp.NumberSymbol):  # they have their own ways to print themselves, as symbols γ, e, π
            named = {sp.S.EulerGamma: r"\gamma_{\mathrm{E}}", sp.E: self._euler()}
            named |= {sp.pi: r"\mathrm{\pi}"} if r"\pi" in self._taken else {}
            if expr in named:
                return named[expr]
        return str(super()._print(expr, **options))

    def _print_ExpBase(self, expr: sp.Expr, exp: str | None = None) -> str:
        tex = glue(self._euler(), [self._print(expr.exp)], [])
        return tex if exp is None else glue(bracketed(tex), [exp], [])

    def _euler(self) -> str:
        return r"\mathrm{e}" if "e" in self._taken else "e"

    def _print_gamma(self, expr: sp.Expr, exp: str | None = None) -> str:
        return self._named(expr, r"\Gamma" if r"\Gamma" not in self._taken else r"\operatorname{gamma}", exp)

    def _print_function_in_words(self, expr: sp.Expr, exp: str | None = None) -> str:
        # one letter, as SymPy prints it, is a name that is wanted for other things
        return self._named(expr, rf"\operatorname{{{type(expr).__name__}}}", exp)

    _print_Heaviside = _print_LambertW = _print_zeta = _print_uppergamma = _print_lowergamma = _print_function_in_words
    _print_besseli = _print_besselj = _print_besselk = _print_bessely = _print_function_in_words

    def _named(self, expr: sp.Expr, head: str, exp: str | None) -> str:
        head = head if exp is None else glue(head, [exp], [])
        return head + bracketed(", ".join(self._print(argument) for argument in expr.args))

    def _print_Integral(self, expr: sp.Integral) -> str:
        heads = [r"\int" if len(limit) == 1 else rf"\int_{{{self._print(limit[1])}}}^{{{self._print(limit[2])}}}"
                 for limit in reversed(expr.limits)]
        body = self._print(expr.function)
        if expr.function.is_Add or expr.function.could_extract_minus_sign():
            body = bracketed(body)
        ends = [rf"\, \mathrm{{d}} {self._print(limit[0])}" for limit in expr.limits]
        return f"{' '.join(heads)} {body}{''.join(ends)}"


def bracketed(tex: str | None) -> str:
    """Round brackets that grow."""
    return rf"\left({tex}\right)"
