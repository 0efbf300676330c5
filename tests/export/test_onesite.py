"""Derivations that end in averages over one site: what is abbreviated is what was derived, and no bracket is lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.derivation import Derivation
from fieldtheory.export.latex import derivation_document
from fieldtheory.export.onesite import abbreviated
from fieldtheory.numerics import evaluate
from fieldtheory.symbolic.abbreviations import Mean, merged, shown_means
from fieldtheory.symbolic.arrange import collected, is_average
from fieldtheory.symbolic.features import SiteAverage
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on, open_spaces
from fieldtheory.symbolic.linebreaks import tex_width
from fieldtheory.symbolic.printing import FieldPrinter, latex
from tests.latex_round_trip import assert_round_trip

ARD = {"prior": ft.ARD(alpha0=4.0)}
THEORIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mean field": ("mean-field", {"activation": "relu"}, {}),
    "mean field, erf and biases": ("mean-field", {"activation": "erf", "bias_variance": 1.0}, {}),
    "mean field, relevance": ("mean-field-ard", {"activation": "relu", **ARD}, {}),
    "collapsed": ("collapsed-mean-field", {"activation": "relu"}, {}),
    "collapsed, quadratic": ("collapsed-mean-field", {"activation": "quadratic"}, {}),
    "collapsed, pairs": ("collapsed-mean-field", {"activation": "tanh"}, {"resolvent": "self-consistent", "loops": 1}),
    "collapsed, relevance": ("collapsed-mean-field-ard", {"activation": "erf", **ARD}, {}),
    "adaptive kernel": ("adaptive-kernel", {"activation": "relu"}, {}),
}
MEDIUMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "collapsed, in its medium": ("collapsed-mean-field", {"activation": "relu"}, {"resolvent": "self-consistent"}),
    "collapsed, pairs alone": ("collapsed-mean-field", {"activation": "relu"}, {"loops": 1}),
}
SIZES = {"sample": 3, "mode": 3, "eigenmode": 3, "input": 2, "test": 1}


def _width(expr: sp.Expr) -> float:
    return tex_width(latex(expr, style="traces"))


@cache
def _derivation(case: str) -> Derivation:
    name, network, options = (THEORIES | MEDIUMS)[case]
    return ft.theories[name](ft.Network(**network), **options).derivation


@cache
def _document(case: str) -> str:
    return derivation_document(_derivation(case))


@pytest.fixture(params=sorted(THEORIES), scope="module")
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def derivation(case: str) -> Derivation:
    return _derivation(case)


@pytest.fixture(scope="module")
def shown(derivation: Derivation) -> Any:
    return abbreviated(derivation, _width)


def _means(expr: sp.Basic) -> list[sp.Basic]:
    return [node for node in sp.preorder_traversal(expr) if is_average(node)]


def _values(exprs: list[sp.Expr]) -> dict[Any, Any]:
    rng = np.random.default_rng(3)
    whole = sp.Tuple(*exprs)
    values: dict[Any, Any] = {space.size: SIZES[space.name] for space in whole.atoms(Space) if space.name in SIZES}
    sizes = dict(values)
    for symbol in sorted(whole.atoms(sp.Symbol) - set(sizes), key=str):
        values[symbol] = rng.uniform(1.2, 2.0)
    for entry in sorted(whole.atoms(Entry), key=sp.default_sort_key):
        values[entry] = rng.uniform(0.5, 1.5, [SIZES[space.name] for space in entry.spaces])
    return values


def _at_one_point(expr: sp.Expr) -> sp.Expr:
    """An average under a law that is certain of one value of the fields."""
    while means := [node for node in _means(expr) if not any(_means(arg) for arg in node.args)]:
        expr = expr.xreplace({node: node.args[0] for node in means})
    return expr


def test_what_is_abbreviated_is_what_was_derived(derivation: Derivation, shown: Any) -> None:
    made = {name: value for name, value in shown.made.items()}
    for step in shown.steps:
        made |= {name: value for name, value in step.definitions.items() if isinstance(name, Entry) and name.spaces}
    made = {name: value for name, value in made.items() if name.domain != "spectrum"}

    def spelled_out(expr: sp.Expr) -> sp.Expr:
        for _ in range(3):
            expr = expr.xreplace(shown.names).xreplace(made)
        return expr

    # those of a medium are not the equations of the theory's own data
    equations = {} if shown.clusters is not None else {key: eq.rhs for key, eq in derivation.equations.items()}
    pairs = [(derivation.results[key], value) for key, value in shown.results.items()]
    pairs += [(value, shown.equations[key].rhs) for key, value in equations.items()]
    pairs.append((derivation.steps[-1].after.expr, shown.last.expr))
    assert len(pairs) > 4
    for before, after in pairs:
        one, other = _at_one_point(before), _at_one_point(spelled_out(_at_one_point(after)))
        values = _values([one, other])
        axes = tuple(sorted(open_spaces(one), key=lambda space: space.name))
        found, wanted = (np.asarray(evaluate(expr, values, axes=axes)) for expr in (other, one))
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_the_site_stays_inside_the_brackets(shown: Any) -> None:
    fields = [*shown.last.fields, *shown.last.moving]
    averages = 0
    for expr in (*(eq.rhs for eq in shown.equations.values()), *shown.results.values(), *shown.others.values()):
        means = _means(expr)
        averages += len(means)
        assert not any(depends_on(expr.xreplace({node: sp.S.One for node in means}), field) for field in fields), expr
        for width in (None, 60, 25):
            tex = latex(expr, style="traces", line_length=width)
            assert tex.count(r"\langle") == tex.count(r"\rangle_{") == len(means), tex
    assert averages >= 5


def test_the_document_is_narrow_and_says_what_it_prints(case: str) -> None:
    text = _document(case)
    assert " is\n\\begin" in text and "Probed" not in text and "squared is" not in text
    for environment in re.findall(r"\\begin\{(?:equation|align)\}(.*?)\\end", text, re.DOTALL):
        assert all(tex_width(line.replace(r"\notag", "")) < 79 for line in re.split(r"\\\\\*?\n", environment))
    for name in set(re.findall(r"(?<![\\a-zA-Z])([bcqBCAG])(?:_\{\*\})? &?= ", text)):
        assert text.count(name) > 2


def test_the_medium_that_is_solved_for_is_printed() -> None:
    mean, dressed, pairs = (_document(case) for case in ("collapsed", *MEDIUMS))
    assert r"\sqrt{N^{2} r_{k}^{2}" in dressed and "r_{k} &= g" in dressed and "leaves the resolvent" in dressed
    assert r"\sqrt" not in mean and "resolvent" not in mean
    assert "S_2 &= " in pairs and r"\phi^{\prime}_{\mu} =" in pairs and "s_2 = S_2 - S_1" in pairs
    assert "S_2" not in dressed


def test_arranging_keeps_an_average_around_its_body() -> None:
    space = Space("input", sp.Symbol("D", positive=True))
    w, X = Entry("w", "real", [space]), Entry("X", "data", [space])
    node = SiteAverage(SpaceSum(X * w, space)**2 + SpaceSum(w**2, space), SpaceSum(w**2, space), sp.Tuple(w))
    assert collected(3 * node, _width) == 3 * node
    assert latex(3 * node, style="traces").count(r"\langle") == 1
    broken = FieldPrinter(style="traces").lines(shown_means(3 * node), 15)
    assert r"\biggl\langle" in broken[0] and r"\biggr\rangle_{w}" in broken[-1] and len(broken) > 1


def test_data_are_merged_only_where_the_expression_allows() -> None:
    sample = Space("sample", sp.Symbol("P", positive=True))
    y, m, phi = Entry("y", "data", [sample]), Entry("m", "data", [sample]), Entry("phi", "real", [sample])
    c = sp.Symbol("c", positive=True)
    u, v = SpaceSum(y * phi, sample), SpaceSum(m * phi, sample)
    residuals: dict[Any, Any] = {}
    found = merged((u - c * v)**2 / (1 + SpaceSum(phi**2, sample)) + 2 * (u - c * v), [phi], {m}, residuals, ())
    ((residual, value),) = residuals.values()
    assert sp.expand(value - (y - c * m)) == 0
    assert not depends_on(found, y) and not depends_on(found, m) and depends_on(found, residual)
    kept = (u - c * v)**2 + v
    assert merged(kept, [phi], {m}, {}, ()) == kept


def test_entries_of_a_product_of_matrices_read_back() -> None:
    mode, sample = (Space(name, sp.Symbol("P", positive=True)) for name in ("eigenmode", "sample"))
    V, y, kappa = Entry("V", "data", [sample, mode]), Entry("y", "data", [sample]), Entry("kappa", "spectrum", [mode])
    z, s = Entry("z", "data", [sample]), sp.Symbol("s", positive=True)
    one, other = SpaceSum(V * y, sample), SpaceSum(V * z, sample)
    for expr in (SpaceSum(one**2 / (kappa + s), mode), SpaceSum(one * other / (kappa + s), mode) / s):
        assert "[V^{\\top} y\\right]_{k}" in latex(expr, style="traces")
        assert_round_trip(expr)


def test_an_average_shown_keeps_its_fields() -> None:
    w = Entry("w", "real", [])
    assert latex(Mean(w**2, sp.Tuple(w))**2) == r"\left\langle w^{2} \right\rangle_{w}^{2}"


@pytest.mark.latex
@pytest.mark.parametrize("name", sorted(THEORIES))
def test_no_line_is_too_wide(name: str, compile_latex: Callable[[str], Path]) -> None:
    pdf = compile_latex(_document(name))
    log = pdf.with_suffix(".log").read_text(errors="replace")
    assert all(float(width) <= 2 for width in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log))
