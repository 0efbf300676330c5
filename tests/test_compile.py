"""Compiled kernels against the same expressions at 30 digits, and against formulas written by hand."""

from __future__ import annotations

import functools
import hashlib
import pickle

import mpmath
import numba
import numpy as np
import pytest
import sympy as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldtheory import compile as compiler
from fieldtheory.compile import Kernel, compile_kernel
from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, rename

TOLERANCE = 1e-12  # relative to the sum of the absolute values of the terms
TINY = 1e-290  # and float64 resolves nothing near its smallest numbers

N, P, g, s = sp.symbols("N P g s", positive=True)
u = sp.Symbol("u", real=True)
MODE, TEST = Space("mode", P), Space("test", sp.Symbol("P_test", positive=True))
LAM, Y, T = Entry("lambda", "spectrum", [MODE]), Entry("y", "data", [MODE]), Entry("T", "data", [TEST, MODE])
Q = sp.exp(u)
ACTION = (
    -N * u / 2
    + N * Q / (2 * g)
    + SpaceSum(sp.log(Q * LAM + s), MODE) / 2
    + SpaceSum(Y**2 / (Q * LAM + s), MODE) / 2
)


def action_outputs() -> dict[str, sp.Expr]:
    derivatives = {f"d{order}": sp.diff(ACTION, u, order) for order in range(1, 7)}
    return {
        "action": ACTION,
        **derivatives,
        "mean_output": Q * LAM * Y / (Q * LAM + s),
        "test_output": SpaceSum(T * Q * Y / (Q * LAM + s), MODE),
    }


@functools.cache
def action_kernel() -> Kernel:
    return compile_kernel(action_outputs(), scalars=[u, N, g, s], entries=[LAM, Y, T], name="q_action")


@functools.cache
def nested_kernel() -> Kernel:
    inner = SpaceSum(Y**2 * LAM / (Q * LAM + s), MODE)
    field = SpaceSum(T * Y, MODE)
    outputs = {
        "twice": SpaceSum(LAM / (LAM * inner + s), MODE) - N * inner,
        "vector": LAM / (1 + LAM * inner) + SpaceSum(sp.tanh(Y), MODE) / P,
        "product": SpaceSum(field**2 / (1 + field**2), TEST),
        "fold": SpaceSum(sp.tanh(Y * T + field), MODE) + inner,
        "back": SpaceSum(T * sp.cos(field), TEST) * Y,
        "only_outer": SpaceSum(T * sp.exp(-(Y**2) / s) * (LAM + Y) / (LAM * inner + 1), MODE) * field,
        "constant": N * g - s ** sp.Rational(3, 2) / sp.pi,
        "sizes": SpaceSum(1 + Y, MODE),
    }
    return compile_kernel(outputs, scalars=[u, N, g, s], entries=[LAM, Y, T], name="nested")


def assert_agrees(kernel: Kernel, values: dict) -> None:
    found, exact = kernel(**values), kernel.reference(values)
    for name, reference in exact.items():
        error = np.abs(np.asarray(reference.value - found[name], dtype=float))
        assert np.all(error <= TOLERANCE * np.asarray(reference.scale, dtype=float) + TINY), (name, values)


numbers = st.floats(-4, 4, allow_subnormal=False).map(lambda t: 10.0**t)
targets = st.floats(-100, 100, allow_subnormal=False)


@st.composite
def arguments(draw):
    modes, tests = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    spectrum = st.lists(st.one_of(st.just(0.0), numbers), min_size=modes, max_size=modes)
    return {
        "u": draw(st.floats(-8, 8, allow_subnormal=False)),
        "N": draw(numbers),
        "g": draw(numbers),
        "s": draw(numbers),
        "lambda": draw(spectrum),
        "y": draw(st.lists(targets, min_size=modes, max_size=modes)),
        "T": np.reshape(
            draw(st.lists(targets, min_size=modes * tests, max_size=modes * tests)), (tests, modes)
        ),
    }


@given(arguments())
@settings(max_examples=60, deadline=None)
def test_q_action_and_six_derivatives(values):
    assert_agrees(action_kernel(), values)


@given(arguments())
@settings(max_examples=60, deadline=None)
def test_nested_sums_and_products(values):
    assert_agrees(nested_kernel(), values)


@given(arguments())
@settings(max_examples=40, deadline=None)
def test_against_formulas_written_by_hand(values):
    """S and dS/du by hand, term by term: neither the walk over the trees nor its scale is trusted here."""
    found = action_kernel()(**values)
    with mpmath.workdps(40):
        width, variance, noise = (mpmath.mpf(values[name]) for name in ("N", "g", "s"))
        order = mpmath.exp(values["u"])
        lam, y = ([mpmath.mpf(x) for x in values[name]] for name in ("lambda", "y"))
        a = [order * x + noise for x in lam]
        action = [
            -width * values["u"] / 2,
            width * order / (2 * variance),
            *(mpmath.log(x) / 2 for x in a),
            *(t**2 / (2 * x) for t, x in zip(y, a)),
        ]
        slope = [
            -width / 2,
            width * order / (2 * variance),
            *(order * x / (2 * b) for x, b in zip(lam, a)),
            *(-(t**2) * order * x / (2 * b**2) for t, x, b in zip(y, lam, a)),
        ]
        for name, terms in ("action", action), ("d1", slope):
            assert abs(mpmath.fsum(terms) - found[name]) <= TOLERANCE * mpmath.fsum(abs(t) for t in terms)


def test_a_long_sum_keeps_the_tolerance():
    rng = np.random.default_rng(0)
    assert_agrees(
        action_kernel(),
        {
            "u": 0.3,
            "N": 400.0,
            "g": 1.0,
            "s": 0.1,
            "lambda": rng.exponential(size=300),
            "y": rng.normal(size=300),
            "T": rng.normal(size=(2, 300)),
        },
    )


def test_the_comparison_can_fail():
    """A relative error of 1e-11 planted in the second derivative is seen."""
    values = {
        "u": 0.3,
        "N": 40.0,
        "g": 1.0,
        "s": 0.1,
        "lambda": [1.0, 2.0],
        "y": [1.0, -1.0],
        "T": [[1.0, 2.0]],
    }
    good = action_kernel()
    wrong = {**good.outputs, "d2": good.outputs["d2"] * (1 + sp.Rational(1, 10**11))}
    twin = Kernel(good.name, wrong, good.scalars, good.entries, good.source, good.path, good.raw)
    with pytest.raises(AssertionError, match="d2"):
        assert_agrees(twin, values)


X = sp.Symbol("x", real=True)
FUNCTIONS = [
    sp.sqrt(1 + X**2),
    X ** sp.Rational(-3, 2),
    sp.log(X),
    sp.exp(-(X**2)),
    sp.erf(X),
    sp.sin(X),
    sp.loggamma(X),
    sp.cos(X),
    sp.tanh(X),
    sp.asin(X / 7),
    abs(X - 2),
    sp.Max(X, 2, X**2),
    sp.Min(0, X - 2),
    X**sp.pi,
    2**X,
    X**7,
    (1 + X) ** -5,
    sp.diff(sp.Max(0, X - 2), X),
    sp.diff(abs(X - 2), X),
    -X,
    -(X + 1) * 3,
    sp.pi / 3 + X,
    sp.Piecewise((X, X < 1), (X**2, sp.And(X >= 1, X < 3)), (1 / X, True)),
    sp.Float("0.1") * X,
]


def test_every_function():
    outputs = {f"f{place}": f for place, f in enumerate(FUNCTIONS)}
    kernel = compile_kernel(outputs, scalars=[X], name="functions")
    for x in (0.3, 1.7, 3.4):
        assert_agrees(kernel, {"x": x})
    found = kernel(x=float("nan"))
    assert all(np.isnan(found[name]) for name in outputs)


words = st.sampled_from([LAM, Y, s, N, Q, sp.Integer(2), sp.Rational(-1, 3)])


def grow(children):
    positive = children.map(lambda e: 1 + e**2)
    return st.one_of(
        st.tuples(children, children).map(lambda p: p[0] + p[1]),
        st.tuples(children, children).map(lambda p: p[0] * p[1]),
        st.tuples(positive, st.integers(-3, 3)).map(lambda p: p[0] ** p[1]),
        positive.map(sp.log),
        positive.map(sp.sqrt),
        children.map(sp.tanh),
        children.map(lambda e: SpaceSum(sp.tanh(e) * LAM, MODE)),
        children.map(sp.cos),
    )


@given(st.lists(st.recursive(words, grow, max_leaves=8), min_size=1, max_size=3), st.integers(0, 99))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_expression(exprs, seed):
    """The generated text run as plain Python, so that hundreds of programs need no compiler."""
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba, "njit", lambda *args, **options: lambda function: function)
        kernel = compile_kernel(
            {f"e{k}": e for k, e in enumerate(exprs)}, scalars=[u, N, s], entries=[LAM, Y], name="uncompiled"
        )
    assert_agrees(
        kernel,
        {
            "u": rng.normal(),
            "N": 1 + rng.random(),
            "s": rng.random(),
            "lambda": rng.exponential(size=3),
            "y": rng.normal(size=3),
        },
    )


# -- refusals


def test_what_cannot_be_compiled_is_named():
    for expr, word in (
        (sp.gamma(X), "gamma"),
        (sp.I * X, "ImaginaryUnit"),
        (sp.Function("phi")(X), "phi"),
        (sp.Piecewise((X, sp.Not(sp.Contains(X, sp.S.Integers))), (0, True)), "cannot be compiled"),
    ):
        with pytest.raises(RuleError, match=word):
            compile_kernel({"f": expr}, scalars=[X])
    with pytest.raises(RuleError, match="'f' is open in"):
        compile_kernel({"f": T + 1}, scalars=[], entries=[T])
    other = Space("other", 3)
    with pytest.raises(RuleError, match="not matrices"):
        compile_kernel(
            {
                "f": SpaceSum(
                    SpaceSum(sp.tanh(SpaceSum(sp.tanh(T * LAM * Entry("h", "data", [other])), MODE)), TEST),
                    other,
                )
            },
            scalars=[],
            entries=[T, LAM, Entry("h", "data", [other])],
        )


def test_arguments_that_do_not_fit():
    for scalars, entries, word in (
        ([u, N, g], [LAM, Y], "s as well"),
        ([u, N, g, s], [LAM], "y as well"),
        ([u, N, g, s, sp.Symbol("y")], [LAM, Y], "distinct"),
        ([LAM], [], "scalars"),
        ([u, sp.Symbol("N"), g, s], [LAM, Y], "other assumptions"),
        ([1], [], "symbols"),
    ):
        with pytest.raises(BadInput, match=word):
            compile_kernel({"action": ACTION}, scalars=scalars, entries=entries)
    with pytest.raises(BadInput, match="outputs"):
        compile_kernel({}, scalars=[u])


GOOD = {"u": 0.3, "N": 40.0, "g": 1.0, "s": 0.1, "lambda": [1.0, 2.0], "y": [1.0, -1.0], "T": [[1.0, 2.0]]}


@pytest.mark.parametrize(
    "change, word",
    [
        ({"y": [1.0]}, "y: got shape"),
        ({"y": 1.0}, "y: got shape"),
        ({"T": [1.0, 2.0]}, "T: got shape"),
        ({"u": [1.0, 2.0]}, "u: got"),
        ({"u": "a"}, "u: got"),
        ({"y": ["a", "b"]}, "y: got"),
        ({"y": 1j}, "y: got"),
    ],
)
def test_call_refuses_bad_values(change, word):
    with pytest.raises(BadInput, match=word):
        action_kernel()(**{**GOOD, **change})


def test_call_refuses_missing_and_unknown_names():
    with pytest.raises(BadInput, match="lambda: got nothing"):
        action_kernel()(**{name: value for name, value in GOOD.items() if name != "lambda"})
    with pytest.raises(UnknownName, match="lambda"):
        action_kernel()(**GOOD, lamda=1.0)
    with pytest.raises(UnknownName):
        action_kernel().bind("y", **GOOD)


def test_declared_size_must_match_the_arrays():
    kernel = compile_kernel({"mean": SpaceSum(Y, MODE) / P}, scalars=[P], entries=[Y], name="mean")
    assert kernel(P=2, y=[1.0, 3.0])["mean"] == 2.0
    with pytest.raises(BadInput, match="P = 3"):
        kernel(P=3, y=[1.0, 3.0])
    fixed = Entry("z", "data", [Space("three", 3)])
    kernel = compile_kernel({"z": fixed**2}, scalars=[], entries=[fixed], name="fixed")
    with pytest.raises(BadInput, match="three"):
        kernel(z=[1.0, 2.0])


# -- the generated module


def test_names_are_made_safe():
    nasty = [
        "lambda",
        "x0",
        "np",
        "s0",
        "α",
        "1a",
        "a b",
        "a_b",
        'q"""\nimport os',
        "__x",
        "i_mode",
        "n_mode",
    ]
    symbols = [sp.Symbol(name, real=True) for name in nasty]
    h = Entry("class", "data", [Space("mode", sp.Symbol("for"))])
    kernel = compile_kernel(
        {
            "def": sum(k * x for k, x in enumerate(symbols, 1)) + SpaceSum(h**2, h.spaces[0]),
            "a\nb": h + symbols[0],
        },
        scalars=symbols,
        entries=[h],
        name="import os; x",
    )
    found = kernel(**dict.fromkeys(nasty, 1.0), **{"class": [1.0, 2.0]})
    assert found["def"] == 78 + 5 and list(found["a\nb"]) == [2.0, 3.0]
    assert "import os" not in kernel.source


def test_nothing_depends_on_names():
    """Every symbol, field and space renamed: the same numbers, bit for bit."""
    table = {
        "u": "zz",
        "N": "aa",
        "g": "n",
        "s": "b",
        "lambda": "y",
        "y": "lambda",
        "T": "c",
        "mode": "w",
        "test": "v",
    }
    other = compile_kernel(
        {k: rename(e, table) for k, e in action_outputs().items()},
        name="q_action",
        scalars=[rename(x, table) for x in (u, N, g, s)],
        entries=[rename(x, table) for x in (LAM, Y, T)],
    )
    first, second = action_kernel()(**GOOD), other(**{table[name]: value for name, value in GOOD.items()})
    for name in first:
        assert np.array_equal(first[name], second[name])


def test_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDTHEORY_CACHE_DIR", str(tmp_path / "new" / "cache"))
    kernel = compile_kernel({"f": X + 41}, scalars=[X], name="cached")
    assert kernel.path.parent == tmp_path / "new" / "cache" and kernel.path.read_text() == kernel.source
    assert kernel.path.stem == f"cached_{hashlib.sha256(kernel.source.encode()).hexdigest()}"
    assert [p.suffix for p in kernel.path.parent.glob("*.*")] == [".py"]  # no partial file
    written = kernel.path.stat().st_mtime_ns
    compile_kernel({"f": X + 41}, scalars=[X], name="cached")
    assert kernel.path.stat().st_mtime_ns == written
    kernel.path.write_text("raise SystemExit")
    again = compile_kernel({"f": X + 41}, scalars=[X], name="cached")
    assert again.path.read_text() == kernel.source and again(x=1.0) == {"f": 42.0}
    monkeypatch.delenv("FIELDTHEORY_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiler.cache_directory() == tmp_path / "fieldtheory"


def test_unusable_cache_directory_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FIELDTHEORY_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="cache directory not usable"):
        kernel = compile_kernel({"f": X + 43}, scalars=[X], name="homeless")
    assert kernel(x=1.0) == {"f": 44.0}


def test_arrays_of_any_kind():
    expected = action_kernel()(**GOOD)
    frozen = np.array([1.0, 2.0])
    frozen.setflags(write=False)
    strided = np.array([1.0, 0.0, -1.0, 0.0])[::2]
    found = action_kernel()(
        **{**GOOD, "lambda": frozen, "y": strided, "T": np.asfortranarray([[1, 2]]), "N": 40}
    )
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    with pytest.raises(ValueError, match="length"):
        action_kernel().raw(0.3, 40.0, 1.0, 0.1, frozen, frozen[:1].copy(), np.ones((1, 2)))


def test_bind_and_pickle():
    kernel = action_kernel()
    expected = kernel(**GOOD)
    rest = {name: value for name, value in GOOD.items() if name not in ("u", "s")}
    assert kernel.bind("u", s=0.1, **rest)(0.3)[1] == expected["d1"]
    assert kernel.bind("s", "u", **rest)(0.1, 0.3)[1] == expected["d1"]
    assert pickle.loads(pickle.dumps(kernel))(**GOOD)["d6"] == expected["d6"]
