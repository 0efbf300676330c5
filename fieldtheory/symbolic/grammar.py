"""What the commands of printed formulas mean: relations, functions, constants, and what ends a product."""

from __future__ import annotations

import sympy as sp

from fieldtheory.symbolic.tokens import END

RELATIONS = {"=": sp.Eq, "<": sp.Lt, ">": sp.Gt, r"\leq": sp.Le, r"\geq": sp.Ge, r"\neq": sp.Ne}
FUNCTIONS = {r"\sin": sp.sin, r"\cos": sp.cos, r"\tan": sp.tan, r"\cot": sp.cot, r"\sinh": sp.sinh,
             r"\cosh": sp.cosh, r"\tanh": sp.tanh, r"\coth": sp.coth, r"\exp": sp.exp, r"\Gamma": sp.gamma,
             r"\max": sp.Max, r"\min": sp.Min}
OPERATORS = {name: getattr(sp, name) for name in (
    "erf", "erfc", "erfi", "asin", "acos", "atan", "asinh", "acosh", "atanh", "acoth", "sech", "csch", "sign",
    "polygamma", "digamma", "loggamma", "besseli", "besselj", "besselk", "bessely", "Heaviside", "LambertW", "zeta",
    "sinc", "hyper", "uppergamma", "lowergamma", "gamma")}
CONSTANTS: dict[tuple[str, ...], sp.Expr] = {
    tuple(r"\mathrm { i }".split()): sp.I, tuple(r"\mathrm { e }".split()): sp.E, ("e",): sp.E,
    tuple(r"\gamma _ { \mathrm { E } }".split()): sp.EulerGamma, (r"\pi",): sp.pi,
    tuple(r"\mathrm { \pi }".split()): sp.pi, (r"\infty",): sp.oo}
DIFFERENTIAL = tuple(r"\mathrm { d }".split())
CLOSING = {r"\right)", r"\right\rangle", r"\right]", r"\right|", "}", "]", ",", "&", r"\\", r"\wedge", r"\vee", r"\end",
           END, *RELATIONS}
"""What ends a product."""
