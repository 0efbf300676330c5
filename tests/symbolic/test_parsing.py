"""Reading the printer's LaTeX back: round trips of drawn expressions and of all that derivations emit, and refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sympy as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory.errors import BadInput, BadLatex
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from fieldtheory.symbolic.parsing import parse_latex, parse_series
from fieldtheory.symbolic.printing import FieldPrinter, latex
from fieldtheory.symbolic.rules import LogIntegral
from fieldtheory.symbolic.series import EXACT, Series
from fieldtheory.symbolic.tokens import tokenised
from tests import linear_network
from tests.latex_round_trip import assert_round_trip, is_same

P, N, g, s = sp.symbols("P N g s", positive=True)
x, y_ = sp.symbols("x y", real=True)
mode, site = Space("mode", P), Space("site", N)
inputs, test = Space("input", sp.Symbol("D", positive=True)), Space("test", sp.Symbol("P_test", positive=True))
lam, y = Entry("lambda", "spectrum", [mode]), Entry("y", "data", [mode])
j, a = Entry("j", "imaginary", [mode]), Entry("a", "real", [site])
T, w = Entry("T", "data", [test, mode]), Entry("w", "real", [site, inputs])
X_test, X = Entry("X_*", "data", [test, inputs]), Entry("X", "data", [mode, inputs])
Q, square = Entry("Q", "positive"), Entry("z^2", "real", [mode])

# names that mean something else too: e, π, Γ, O, d and K; k and y_k beside an index k and entries y; a power in a name
SYMBOLS = [
    sp.Symbol(name, positive=True)
    for name in (
        "g",
        "e",
        "k",
        "y_k",
        "sigma_a",
        "sigma_w^2",
        "q'",
        "lamda_2",
        "Qhat",
        "S_3",
        "P_0",
        "O",
        "d",
        "x10",
        "K",
        "pi",
    )
]
REALS = [sp.Symbol(name, real=True) for name in ("h", "ftilde", "alpha", "Gamma")]
_numbers = [*map(sp.Integer, (-3, -2, -1, 1, 2, 7, 12)), sp.Rational(1, 2), sp.Rational(-3, 4), sp.I, sp.pi, sp.E]
_leaves = st.sampled_from([*SYMBOLS, *REALS, lam, lam, lam, y, y, j, a, T, w, Q, square, *_numbers])
_exponents = st.sampled_from(
    [*map(sp.Integer, (-3, -2, -1, 2, 3)), *(sp.Rational(k, 2) for k in (-1, 1, 3)), g, -g, g + 1]
)
_functions = st.sampled_from([sp.log, sp.exp, sp.tanh, sp.erf, sp.loggamma, lambda arg: 1 / arg])


def _grown(inner: st.SearchStrategy[sp.Expr]) -> st.SearchStrategy[sp.Expr]:
    several = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        several.map(lambda args: sp.Add(*args)),
        several.map(lambda args: sp.Mul(*args)),
        st.tuples(inner, _exponents).map(lambda pair: pair[0] ** pair[1]),
        st.tuples(_functions, inner).map(lambda pair: pair[0](pair[1])),
        st.tuples(inner, st.sampled_from([mode, mode, site, test])).map(lambda pair: SpaceSum(*pair)),
    )


EXPRESSIONS = st.recursive(_leaves, _grown, max_leaves=8).filter(
    lambda expr: not expr.has(sp.zoo, sp.nan, sp.oo, -sp.oo) and sp.count_ops(expr) < 60
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(expr=EXPRESSIONS)
def test_whatever_is_drawn_reads_back(expr: sp.Expr) -> None:
    assert_round_trip(expr)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(expr=EXPRESSIONS)
def test_whatever_is_drawn_reads_back_many_times(expr: sp.Expr) -> None:
    assert_round_trip(expr)


phi, f = sp.Function("phi"), sp.Function("f")


@pytest.mark.parametrize(
    "expr",
    [
        sp.sqrt(x),
        sp.cbrt(x),
        x ** sp.Rational(-3, 2),
        sp.Float(2.5),
        sp.Float(1.5e-7),
        3 * sp.Integer(2) ** x,
        sp.oo,
        sp.tanh(x) ** 2,
        1 / sp.sin(x),
        sp.cos(x) ** g,
        sp.asinh(x) ** 2,
        sp.erf(x) ** 2,
        sp.gamma(x) ** 2,
        sp.gamma(x) * sp.Symbol("Gamma"),
        sp.log(sp.Symbol("Gamma")) * x,
        sp.loggamma(x) ** 2,
        sp.polygamma(1, x),
        sp.besselk(0, x),
        sp.Heaviside(x) * x,
        sp.LambertW(x),
        sp.zeta(x),
        sp.EulerGamma * sp.Symbol("gamma"),
        sp.log(x) ** 2,
        sp.log(g) * sp.log(s) * (x + 1),
        sp.Abs(x) ** 3,
        sp.sign(x),
        sp.Max(x, y_),
        sp.binomial(x, 2),
        sp.factorial(x),
        sp.Symbol("e") * sp.exp(x),
        sp.I * x,
        sp.exp(x) ** y_,
        (sp.exp(x) + 1) ** 2,
        sp.Mul(-1, x + y_, evaluate=False),
        (-x) ** y_,
        (x**y_) ** 2,
        sp.E,
        phi(x),
        phi(x, y_) * g,
        sp.Derivative(f(x), x) * sp.Symbol("d"),
        sp.Derivative(phi(x, y_), x, x, y_),
        sp.Integral(sp.exp(-(x**2)), (x, 0, sp.oo)),
        sp.Integral(x * y_, (x, 0, y_), (y_, -1, 1)) * N,
        sp.Integral(x + g, x),
        sp.Piecewise((x, x > 0), (-x, True)),
        sp.CRootOf(sp.Symbol("z") ** 5 - sp.Symbol("z") - 1, 0),
        sp.ImmutableMatrix([[x, 1 / N], [-y_, sp.sqrt(2)]]),
        sp.Eq(x, y_ + 1),
        x < y_,
        sp.And(x < y_, (g >= 1) | (y_ < 2)),
        x * (x + y_ + g) * sp.log(sp.Symbol("Gamma")),  # the sum is broken, and stands after the logarithm
    ],
    ids=str,
)
def test_every_kind_of_node(expr: Any) -> None:
    assert_round_trip(expr)


@pytest.mark.parametrize(
    "expr",
    [
        SpaceSum(y**2 * lam / (g * lam + s) ** 2, mode),
        SpaceSum(sp.log(g * lam + s), mode),
        SpaceSum(lam / (g * lam + s), mode),
        SpaceSum(y * j * sp.sqrt(lam) * sp.log(lam), mode),
        SpaceSum(T**2 * lam, mode),
        SpaceSum(a * SpaceSum(X_test * w, inputs), site),
        SpaceSum(SpaceSum(w**2, inputs), site),
        SpaceSum(SpaceSum(X * j, mode) ** 2, inputs),
        y * SpaceSum(y, mode),
        SpaceSum(y / (s + lam * SpaceSum(lam, mode)), mode),
        g * lam * y / (g * lam + s),
        sp.exp(-lam * g) * y,
        SpaceSum(T * y / (g * lam + s), mode) * g,
        s * (lam * y - y / (g * lam + s)),
        sp.Eq(y, lam * j, evaluate=False),
        sp.Symbol("K") * SpaceSum(lam, mode),
        SpaceSum(Entry("kappa", "spectrum", [mode]) * y**2, mode),
        SpaceSum(square**2, mode),
        Entry("sigma_a", "real", [site]) * g,
        Entry("h", "data", [test]) * SpaceSum(Entry("h", "data", [test]), test),
        Entry("ftilde", "imaginary", [mode]) ** 2,
        SpaceSum(y, Space("mode", P)) * SpaceSum(Entry("u", "data", [Space("mode", N)]), Space("mode", N)),
        g * LogIntegral(Q**2 / 2 + y_ * Q, sp.Tuple(Q)) * x,
        LogIntegral(Entry("h", "imaginary") * Q - x, sp.Tuple(Q, Entry("h", "imaginary"))) ** 2,
    ],
    ids=str,
)
def test_sums_traces_and_forms(expr: sp.Expr) -> None:
    assert_round_trip(expr)


# ------------------------------------------------------------------------------------------ what is emitted
def _emitted(derivation: Any) -> list[Any]:
    found = [step.after.expr for step in derivation.steps]
    found += [value for step in derivation.steps for value in step.details.values()]
    for part in ("equations", "results", "abbreviations", "observables", "definitions"):
        found += getattr(derivation, part).values()
    return [expr for expr in found if isinstance(expr, sp.Expr | sp.Eq)]


NETWORK = ft.Network(activation="identity")


@pytest.mark.parametrize(
    ("name", "options"), [("linear", {"view": "rescaling"}), ("linear", {"view": "adaptation"}), ("nngp", {})]
)
def test_every_formula_of_a_theory_reads_back(name: str, options: dict[str, Any]) -> None:
    for expr in _emitted(ft.theories[name](NETWORK, **options).derivation):
        assert_round_trip(expr, widths=(30,))


@pytest.mark.parametrize(
    "make",
    [linear_network.site_view, linear_network.rank_two, linear_network.sum_of_squares],
    ids=lambda make: make.__name__,
)
def test_every_step_of_other_derivations_reads_back(make: Any) -> None:
    for step in make().steps:
        assert_round_trip(step.after.expr, widths=(30,))


def test_the_table_of_powers_reads_back() -> None:
    symbolic = ft.Network(activation="identity", scaling=ft.Scaling())
    table = ft.theories["linear"](symbolic, view="adaptation").power_counting().table()
    for cell in (cell for row in table for cell in row if isinstance(cell, sp.Basic)):
        assert_round_trip(cell)


@pytest.mark.parametrize("activation", ["tanh", "erf"])
def test_a_microscopic_action_reads_back(activation: str) -> None:
    assert_round_trip(ft.Network(activation=activation).action().expr)


def _assert_series(series: Series) -> None:
    found = parse_series(series._latex_terms(), list(series.terms), series.parameter)
    assert found.remainder == series.remainder
    known = range(series.offset, series.offset + len(series.terms))
    assert all(is_same(found.coefficient(k), series.coefficient(k)) for k in known)


QUARTIC = ft.Action(N * (x**2 / 2 + sp.Symbol("h", real=True) * x**3 / 6 + g * x**4 / 24), [x], large=N)
PAIR = ft.Action(N * (x**2 / 2 + y_**2 / 2 - x * y_ / 3 + g * x**2 * y_**2 / 4 + x**4 / 24), [x, y_], large=N)
COMPONENTS = Space("component", sp.Symbol("n", positive=True))
PHI = Entry("phi", "real", [COMPONENTS])
VECTOR = ft.Action(SpaceSum(PHI**2, COMPONENTS) / 2 + g * SpaceSum(PHI**2, COMPONENTS) ** 2 / 24, [PHI])


def test_series_read_back() -> None:
    for series in (
        QUARTIC.log_partition(3, at=0),
        QUARTIC.expectation(x, 2, at=0),
        QUARTIC.effective_action(2),
        PAIR.log_partition(3, at=[0, 0]),
        VECTOR.log_partition(3, at=0),
        VECTOR.effective_action(2),
        Series((x + 1, -x - 2, -(x - 1) * g), N ** sp.Rational(-1, 2), -1),
        Series((g, -g), 1 / N, 0, EXACT),
        Series((), 1 / N, 0, 3),
        Series((sp.Mul(-1, x + 1, evaluate=False),) * 2, 1 / N),
    ):
        _assert_series(series)


def test_weights_and_saddles_read_back() -> None:
    for diagram in (*QUARTIC.diagrams(3, at=0), *PAIR.diagrams(2, at=[0, 0]), *VECTOR.diagrams(3)):
        assert_round_trip(diagram.weight)
    for point in QUARTIC.saddle_points():
        for expr in (*point.point, point.action, point.hessian):
            assert_round_trip(expr)


def test_an_order_of_several_powers_is_refused() -> None:
    with pytest.raises(BadInput, match="parameter"):
        parse_series(r"x + O\left(\frac{1}{N^{3}}\right)", [x, N], N**-2)


# ------------------------------------------------------------------------------------------ what must fail
def _without(tex: str, start: int) -> str:
    token = re.compile(r"\\[A-Za-z]+|\\.|\d+|.", re.DOTALL).match(tex, start)
    assert token is not None
    return tex[:start] + " " + tex[token.end() :]


@pytest.mark.parametrize("style", ["modes", "traces"])
def test_a_token_lost_is_a_round_trip_failed(style: str) -> None:
    """A minus, a bracket, an index, a brace: without any one of them the formula is another, or none."""
    expr = (
        -g * SpaceSum(y**2 / (g * lam + s), mode)
        + SpaceSum(T * j, mode) ** 2 / 2
        - sp.log(g * x / (s + 1))
        + (sp.sqrt(g) * SpaceSum(sp.log(lam + 2), mode))
    )
    tex = latex(expr, style=style)
    assert is_same(parse_latex(tex, expr), expr)
    for token in tokenised(tex)[:-1]:
        damaged = _without(tex, token.start)
        try:
            found = parse_latex(damaged, expr)
        except BadLatex as error:
            assert 0 <= error.position <= len(damaged) and error.found and error.expected
        else:
            assert not is_same(found, expr), damaged


def test_a_minus_lost_from_the_printer_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = FieldPrinter._print_Add
    monkeypatch.setattr(
        FieldPrinter, "_print_Add", lambda self, expr, order=None: printed(self, expr, order).replace("-", "+")
    )
    with pytest.raises(AssertionError):
        assert_round_trip(x - g)


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"\frac{x}{", "a formula"),
        (r"x + ", "a formula"),
        (r"\left(x", r"\\right\)"),
        (r"q", "a formula"),
        (r"\sum_{k=1}^{P} x", "depends on k"),
        (r"\sum_{k=1}^{N} y_{k}", "P, the size"),
        (r"\sum_{k=1}^{P} \sum_{k'=1}^{P} y_{k} y_{k'}", "binds"),
        (r"y_{k'}", "a sum that binds k'"),
        (r"y_{*}", "an index of the space mode"),
        (r"\sum_{i=1}^{P} a_{i} y_{i}", "an index of the space"),
        (r"y + x", "a vector"),
        (r"y y", "multiplied"),
        (r"\operatorname{tr}\left[y\right]", "one matrix"),
        (r"\operatorname{eval}\left(x\right)", "tr, diag"),
        (r"x^{y}", "an exponent"),
        (r"2 3", "cdot"),
        (r"\ln x^{2}", "brackets"),
        (r"\left[K\right]", "_"),
        (r"\input{file}", "a formula"),
        ("", "a formula"),
        (r"x^{\top}", "transposition"),
        (r"y_{k} + O\left(x\right)", "a formula"),
        (r"\frac{\mathrm{d}}{\mathrm{d} x}", "a formula"),
        (r"T_{k}", "got _"),
    ],
)
def test_what_is_not_understood_is_refused(tex: str, expected: str) -> None:
    names = [x, P, N, y, a, lam, T]
    with pytest.raises(BadLatex, match=expected) as caught:
        parse_latex(tex, names)
    assert str(caught.value.position) in str(caught.value)


def test_names_printed_alike_are_refused() -> None:
    for names in (
        [sp.Symbol("lam"), sp.Symbol("lambda")],
        [x, sp.Symbol("x")],
        [sp.Symbol("y"), y],
        [sp.Symbol("12")],
        [lam, Entry("lambda", "spectrum", [site])],
        ["x"],
    ):
        with pytest.raises(BadInput, match="names"):
            parse_latex("1", names)


def test_names_as_given_to_the_printer() -> None:
    expr = g * SpaceSum(y**2 * lam, mode)
    options: dict[str, Any] = {"symbol_names": {g: r"\mathcal{G}^{(3)}", "y": "t"}, "matrices": {"lambda": r"\Theta"}}
    for style in ("modes", "traces"):
        assert parse_latex(latex(expr, style=style, **options), expr, **options) == expr
