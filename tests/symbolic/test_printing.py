"""LaTeX of the expression class: names, indices, sums, matrix notation, line breaks."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.linalg
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory.errors import BadInput
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, rename
from fieldtheory.symbolic.linebreaks import tex_width
from fieldtheory.symbolic.matrixform import matrix_form
from fieldtheory.symbolic.names import name_latex
from fieldtheory.symbolic.printing import FieldPrinter, latex, multiline

N, g, s, Q, u, q = sp.symbols("N g s Q u q", positive=True)
mode, sample, site = Space("mode", sp.Symbol("P")), Space("sample", sp.Symbol("P")), Space("site", N)
inputs, test = Space("input", sp.Symbol("D")), Space("test", sp.Symbol("P_test"))
lam, y = Entry("lam", "spectrum", [mode]), Entry("y", "data", [mode])
j, T = Entry("j", "imaginary", [mode]), Entry("T", "data", [test, mode])
f, a, w = Entry("f", "real", [sample]), Entry("a", "real", [site]), Entry("w", "real", [site, inputs])
X = Entry("X", "data", [sample, inputs])

TRACE = SpaceSum(lam / (Q * lam + s), mode)
FORM = SpaceSum(y**2 * lam / (Q * lam + s) ** 2, mode)
SADDLE = sp.Eq(1 - g / Q - (g / N) * (FORM - TRACE), 0)
ACTION = (N * sp.exp(u) / (2 * g) - N * u / 2 + SpaceSum(sp.log(sp.exp(u) * lam + s), mode) / 2
          + SpaceSum(y**2 / (sp.exp(u) * lam + s), mode) / 2)


@pytest.mark.parametrize(("name", "tex"), [
    ("lam", r"\lambda"), ("lambda", r"\lambda"), ("λ", r"\lambda"), ("Σ", r"\Sigma"), ("y", "y"),
    ("sigma_a", r"\sigma_{a}"), ("s_0", "s_{0}"), ("x1", "x_{1}"), ("q'", r"q^{\prime}"),
    ("ftilde", r"\tilde{f}"),
    ("f_tilde", r"\tilde{f}"), ("Qhat", r"\hat{Q}"), ("P_test", r"P_{\mathrm{test}}"), ("P_*", "P_{*}"),
    ("width", r"\mathrm{width}"), (r"\mathcal{Z}", r"\mathcal{Z}"), ("50%", r"\mathrm{50\%}"),
])
def test_names(name: str, tex: str) -> None:
    assert name_latex(name) == tex
    assert latex(sp.Symbol(name)) == tex
    assert latex(Entry(name)) == tex


@pytest.mark.parametrize(("expr", "tex"), [
    (lam, r"\lambda_{k}"), (y, "y_{k}"), (a, "a_{i}"), (w, "w_{i d}"), (f, r"f_{\mu}"), (T, "T_{* k}"),
    (Entry("sigma_a", "real", [site]), r"\sigma_{a,i}"),
    (Entry("x^2", "real", [site]) ** 2, r"\left(x^{2}_{i}\right)^{2}"),
    (TRACE, r"\sum_{k=1}^{P} \frac{\lambda_{k}}{Q \lambda_{k} + s}"),
    (SpaceSum(y**2, mode) ** 2, r"\left(\sum_{k=1}^{P} y_{k}^{2}\right)^{2}"),
    (1 / SpaceSum(y**2, mode), r"\frac{1}{\sum_{k=1}^{P} y_{k}^{2}}"),
    (-(N / 2) * sp.log(1 - g / N * SpaceSum(lam * j**2, mode)),
     r"- \frac{N}{2} \ln{\left(1 - \frac{g}{N} \sum_{k=1}^{P} \lambda_{k} j_{k}^{2} \right)}"),
    (SpaceSum((f - SpaceSum(a * SpaceSum(X * w, inputs), site)) ** 2, sample) / (2 * s),
     r"\frac{1}{2 s} \sum_{\mu=1}^{P} \left(f_{\mu} "
     r"- \sum_{i=1}^{N} a_{i} \sum_{d=1}^{D} X_{\mu d} w_{i d}\right)^{2}"),
    (SpaceSum(y, mode) * SpaceSum(lam, mode),
     r"\left(\sum_{k=1}^{P} \lambda_{k}\right) \sum_{k=1}^{P} y_{k}"),
    (SpaceSum(Entry("h", "data", [test]), test), r"\sum_{t=1}^{P_{\mathrm{test}}} h_{t}"),
    (sp.log(Q) * TRACE, r"\left(\ln Q\right) \sum_{k=1}^{P} \frac{\lambda_{k}}{Q \lambda_{k} + s}"),
    (sp.I * SpaceSum(j, mode), r"\mathrm{i} \sum_{k=1}^{P} j_{k}"),
    (Entry("X_*", "data", [test, mode]), "X_{* k}"),
    (sp.loggamma(N / 2), r"\ln\Gamma\left(\frac{N}{2}\right)"),
    (y + N * sp.log(g) / 2 - N * sp.log(N) / 2 + SpaceSum(lam, mode) - sp.loggamma(N),
     r"y_{k} + \sum_{k'=1}^{P} \lambda_{k'} - \ln\Gamma\left(N\right) + \frac{N}{2} \ln{\left(\frac{g}{N} \right)}"),
])
def test_sums_over_modes(expr: sp.Expr, tex: str) -> None:
    assert latex(expr) == tex


def test_the_inner_of_two_sums_over_one_space_is_primed() -> None:
    inner = SpaceSum(lam, mode)
    assert latex(SpaceSum(y / (s + lam * inner), mode)) == (
        r"\sum_{k=1}^{P} \frac{y_{k}}{s + \lambda_{k} \sum_{k'=1}^{P} \lambda_{k'}}")
    assert latex(y * inner) == r"y_{k} \sum_{k'=1}^{P} \lambda_{k'}"


@pytest.mark.parametrize(("expr", "tex"), [
    (TRACE, r"\operatorname{tr}\left[K \left(Q K + s\right)^{-1}\right]"),
    (FORM, r"y^{\top} K \left(Q K + s\right)^{-2} y"),
    (SpaceSum(sp.log(Q * lam + s), mode), r"\ln\det\left(Q K + s\right)"),
    (SpaceSum(y**2, mode), r"y^{\top} y"),
    (SpaceSum(y * j * sp.sqrt(lam), mode), r"y^{\top} K^{1/2} j"),
    (-(N / 2) * sp.log(1 - g / N * SpaceSum(lam * j**2, mode)),
     r"- \frac{N}{2} \ln{\left(1 - \frac{g}{N} j^{\top} K j \right)}"),
    (SpaceSum(lam * sp.log(lam), mode), r"\operatorname{tr}\left[K \ln\left(K\right)\right]"),
    (SpaceSum(T**2 * lam, mode), r"\left[T K T^{\top}\right]_{* *}"),
    (FORM**2, r"\left(y^{\top} K \left(Q K + s\right)^{-2} y\right)^{2}"),
    (Q * lam * y / (Q * lam + s), r"Q K \left(Q K + s\right)^{-1} y"),
    (Q * SpaceSum(T * y / (Q * lam + s), mode), r"Q T \left(Q K + s\right)^{-1} y"),
    (sp.Eq(Entry("f", "real", [mode]), lam * y * TRACE),
     r"f = \operatorname{tr}\left[K \left(Q K + s\right)^{-1}\right] K y"),
    (SpaceSum(Entry("kappa", "spectrum", [mode]) * y**2, mode),
     r"y^{\top} \operatorname{diag}\left(\kappa\right) y"),
    (s * (lam * y - y / (Q * lam + s)), r"s \left(K y - \left(Q K + s\right)^{-1} y\right)"),
    (SADDLE, r"1 - \frac{g}{Q} - \frac{g}{N} \left(y^{\top} K \left(Q K + s\right)^{-2} y"
             r" - \operatorname{tr}\left[K \left(Q K + s\right)^{-1}\right]\right) = 0"),
])
def test_matrix_notation(expr: sp.Expr, tex: str) -> None:
    assert latex(expr, style="traces") == tex


@pytest.mark.parametrize("expr", [
    SpaceSum(y, mode),                                            # one vector
    SpaceSum(y**3, mode), SpaceSum(y**2 * j, mode),               # three
    SpaceSum(lam / (lam + y**2), mode),                           # data inside the function
    SpaceSum(sp.erf(lam), mode),                                  # a function without a customary matrix form
    SpaceSum(lam**Entry("c", "data", [mode]), mode),
    SpaceSum(lam * Entry("kappa", "spectrum", [mode]), mode),     # two spectra
    SpaceSum(y**2 / (lam + SpaceSum(T, test)), mode),             # a sum that is open in the mode
])
def test_what_is_no_trace_stays_a_sum(expr: sp.Expr) -> None:
    assert latex(expr, style="traces").startswith(r"\sum_{k=1}^{P}")
    assert latex(expr, style="traces") == latex(expr)


def _on_matrix(expr: sp.Expr, x: Entry, K: np.ndarray) -> np.ndarray:
    """F(K) by matrix functions, without K's eigenbasis."""
    if expr == x:
        return K
    if not expr.has(x):
        return float(expr) * np.eye(len(K))
    if expr.is_Add:
        return sum(_on_matrix(arg, x, K) for arg in expr.args)
    if expr.is_Mul:
        factors = [_on_matrix(arg, x, K) for arg in expr.args]
        return np.linalg.multi_dot(factors)
    if expr.is_Pow and expr.exp.is_Integer:
        return np.linalg.matrix_power(_on_matrix(expr.base, x, K), int(expr.exp))
    if expr.is_Pow:
        return scipy.linalg.fractional_matrix_power(_on_matrix(expr.base, x, K), float(expr.exp))
    function = {sp.log: scipy.linalg.logm, sp.exp: scipy.linalg.expm}[expr.func]
    return function(_on_matrix(expr.args[0], x, K))


@pytest.mark.parametrize("body", [
    lam / (2 * lam + 1), y**2 * lam / (2 * lam + 1) ** 2, y * j * sp.sqrt(lam) * sp.log(lam + 3),
    sp.log(lam + 2), y**2 * sp.exp(-lam) / (lam + sp.sqrt(lam) + 1), y**2 * (1 + 1 / (1 + lam)) ** 3,
])
def test_matrix_form_is_the_sum(body: sp.Expr) -> None:
    rng = np.random.default_rng(0)
    U, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    values = {lam: rng.uniform(0.5, 2.0, 4), y: rng.normal(size=4), j: rng.normal(size=4)}
    modewise = sum(complex(body.xreplace({e: float(v[k]) for e, v in values.items()})) for k in range(4))
    form = matrix_form(body, mode)
    assert form is not None and form.spectrum == lam and not form.scalars
    F = _on_matrix(sp.Mul(*form.functions), lam, U @ np.diag(values[lam]) @ U.T)
    vectors = [U @ values[v] for v in form.vectors]
    whole = vectors[0] @ F @ vectors[1] if vectors else np.trace(F)
    assert whole == pytest.approx(modewise.real, rel=1e-10)


def test_letters_and_matrices_avoid_names_in_use() -> None:
    assert latex(sp.Symbol("k") * SpaceSum(lam, mode)) == r"k \sum_{l=1}^{P} \lambda_{l}"
    assert latex(SpaceSum(lam, mode), context=[sp.Symbol("k")]) == r"\sum_{l=1}^{P} \lambda_{l}"
    assert latex(sp.Symbol("K") * TRACE, style="traces").startswith(r"K \operatorname{tr}\left[\mathsf{K} ")
    other = Space("mode", sp.Symbol("M"))
    two = latex(SpaceSum(lam, mode) + SpaceSum(Entry("z", "data", [other]), other))
    assert set(re.findall(r"_\{(\w)\}", two)) == {"k", "l"}


def test_given_names() -> None:
    names = {Q: r"\mathcal{Q}", "y": "t", lam: r"\ell"}
    assert latex(FORM, symbol_names=names) == (
        r"\sum_{k=1}^{P} \frac{\ell_{k} t_{k}^{2}}{\left(\mathcal{Q} \ell_{k} + s\right)^{2}}")
    assert latex(FORM, style="traces", matrices={"lam": r"\Theta"}) == (
        r"y^{\top} \Theta \left(Q \Theta + s\right)^{-2} y")


def test_renaming_renames_and_nothing_else() -> None:
    renamed = rename(FORM, {"y": "v", "lam": "kappa", "s": "t"})
    assert latex(renamed) == latex(FORM, symbol_names={"y": "v", "lam": r"\kappa", "s": "t"})


def test_nodes_print_through_the_printer() -> None:
    # a method of this name on a node would silently override the printer
    assert not any(hasattr(node, "_latex") for node in (Entry, SpaceSum, Space))


def test_bad_arguments() -> None:
    with pytest.raises(BadInput, match="style"):
        latex(Q, style="matrix")
    with pytest.raises(BadInput, match="width"):
        multiline(Q, 0)


# ------------------------------------------------------------------------------------------ line breaks
def _balanced(tex: str) -> bool:
    return tex.count("{") == tex.count("}") and tex.count(r"\left") == tex.count(r"\right")


def test_a_short_formula_stays_on_one_line() -> None:
    assert multiline(SADDLE, 66) == latex(SADDLE) == latex(SADDLE, line_length=66)
    assert "aligned" in latex(SADDLE, line_length=40)


@pytest.mark.parametrize("style", ["modes", "traces"])
@pytest.mark.parametrize("order", [2, 4, 6])
def test_long_formulas_are_broken_inside_brackets_too(style: str, order: int) -> None:
    expr = sp.diff(ACTION, u, order)
    lines = FieldPrinter(style=style).lines(expr, 60, left=r"S^{(n)}")
    assert len(lines) > 1
    for line in lines:
        assert line.count("&") == 1 and _balanced(line)
        assert tex_width(line) <= 60
    assert "".join(lines).count(r"\biggl(") == "".join(lines).count(r"\biggr)") == 1


def test_nothing_is_lost_in_a_break() -> None:
    whole = latex(ACTION)
    assert "".join(re.sub(r"[&\s]|\\quad", "", line) for line in FieldPrinter().lines(ACTION, 20)) == (
        re.sub(r"\s", "", whole))


def test_a_vector_is_broken_inside_its_bracket() -> None:
    expr = y - s * sp.Add(*(g**n * lam * y / (Q * lam + s) ** n for n in range(1, 6)))
    lines = FieldPrinter(style="traces").lines(expr, 50, left="f")
    assert len(lines) > 1 and all(tex_width(line) <= 50 and _balanced(line) for line in lines)
    assert lines[0].startswith("f &= y") and "_{k}" not in "".join(lines)


def test_alignment_on_demand() -> None:
    assert FieldPrinter().lines(Q, 40, left="q", align=True) == ["q &= Q"]
    assert FieldPrinter().lines(sp.Eq(q, Q), 40, align=True) == ["q &= Q"]
    assert FieldPrinter().lines(sp.Eq(q, Q), 40) == ["q = Q"]


def test_where_an_equation_is_aligned() -> None:
    right = FieldPrinter().lines(sp.Eq(q, sp.diff(ACTION, u, 3)), 50)
    assert right[0].startswith("q &= ") and all(line.startswith(r"&\quad ") for line in right[1:])
    left = FieldPrinter().lines(SADDLE, 40)
    assert left[-1].endswith("= 0") and len(left) == 2
    head = FieldPrinter().lines(ACTION, 40, left=r"S\left[a_1, a_2, a_3, a_4, a_5, a_6, a_7\right]")
    assert head[0].endswith(r"\right]") and head[1].startswith("& = ")


_names = st.text(st.sampled_from("abkxyzQλ_'%#&~$^0123456789 "), min_size=1, max_size=8)


@given(name=_names)
def test_any_name_prints_as_balanced_latex(name: str) -> None:
    for tex in (latex(sp.Symbol(name) ** 2), latex(Entry(name, "real", [mode]) ** 2)):
        assert _balanced(tex)
        assert not re.search(r"(?<!\\)[%#&$~]", tex)


_term = st.tuples(st.integers(-9, 9).filter(bool), st.integers(0, 3), st.integers(0, 3), st.booleans())
_terms = st.lists(_term, min_size=2, max_size=12)


@settings(max_examples=40)
@given(terms=_terms, width=st.integers(15, 80))
def test_lines_keep_to_the_width(terms: list[tuple[int, int, int, bool]], width: int) -> None:
    total = sp.Add(*(c * Q**m * g**n * (TRACE if with_sum else 1) for c, m, n, with_sum in terms))
    lines = FieldPrinter().lines(N * (total + s) / 2, width)
    assert all(_balanced(line) for line in lines)
    # the widest thing that cannot be broken: N/2, a bracket, and one term with its sum
    assert all(tex_width(line) <= max(width, 40) for line in lines)
