"""A loop expansion as an appendix: what it says is what the action computes, and pdflatex sets it within the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import BadInput
from fieldtheory.export.appendix import _Names
from fieldtheory.export.document import LINE_LENGTH
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from fieldtheory.symbolic.linebreaks import tex_width
from fieldtheory.symbolic.parsing import parse_latex
from tests.latex_round_trip import is_same

N, g, n = sp.symbols("N g n", positive=True)
x, y, h = sp.symbols("x y h", real=True)
COMPONENTS = Space("component", n)
PHI = Entry("phi", "real", [COMPONENTS])


def _conjugate_output() -> ft.Action:
    """The linear network's output action in its conjugate, the number of samples P a symbol."""
    action = ft.Network(activation="identity").action().conjugate("f", "output", conjugate="j").integrate_out("w")
    variance = sp.Symbol("sigma_w^2", positive=True) / sp.Symbol("D", positive=True)
    return (
        action.diagonalise("X", modes="mode", spectrum="lambda", variance=variance, projections={"X_*": "T"})
        .integrate_out("a")
        .integrate_out("f")
    )


ACTIONS: dict[str, tuple[Callable[[], ft.Action], dict[str, Any]]] = {
    "one field": (lambda: ft.Action(N * (x**2 / 2 + h * x**3 / 6 + g * x**4 / 24), [x], large=N), {"at": 0}),
    "one field, four loops": (lambda: ft.Action(N * (x**2 / 2 + g * x**4 / 24), [x], large=N), {"loops": 4}),
    "two minima": (lambda: ft.Action(N * (-(x**2) / 2 + g * x**4 / 24), [x], large=N), {}),
    "two fields": (
        lambda: ft.Action(
            N * (x**2 / 2 + y**2 / 2 - x * y / 3 + g * x**2 * y**2 / 4 + h * x**3 / 6 + x**4 / 24), [x, y], large=N
        ),
        {"at": [0, 0]},
    ),
    "sixth power": (lambda: ft.Action(x**2 / 2 + g * x**6 / 720, [x]), {}),
    "vector": (
        lambda: ft.Action(SpaceSum(PHI**2, COMPONENTS) / 2 + g * SpaceSum(PHI**2, COMPONENTS) ** 2 / 24, [PHI]),
        {},
    ),
    "conjugate output": (_conjugate_output, {}),
}


def _place(action: ft.Action, options: dict[str, Any]) -> Any:
    """Where the appendix expands."""
    if isinstance(action.fields[0], Entry):
        return 0
    return (
        options["at"]
        if "at" in options
        else next(point for point in action.saddle_points() if point.stability == "stable")
    )


@pytest.mark.parametrize("name", ["one field", "two fields", "vector", "two minima"])
def test_every_diagram_is_there_with_its_weight(name: str) -> None:
    make, options = ACTIONS[name]
    action = make()
    tex = action.appendix(**{"loops": 3, **options})
    diagrams = [diagram for order in (2, 3) for diagram in action.diagrams(order, at=_place(action, options))]
    assert tex.count(r"\begin{tikzpicture}") == len(diagrams)
    rows = [row for row in tex.split("\n") if row.startswith(r"\end{tikzpicture} & ")]
    assert len(rows) == len(diagrams)
    for row, diagram in zip(rows, diagrams, strict=True):
        *_, factor, order, weight = (cell.strip() for cell in row.removesuffix(r" \\").split(" & "))
        assert factor == f"${diagram.symmetry_factor}$"
        shown = parse_latex(weight.replace(r"\small", ""), diagram.weight)
        assert is_same(shown, diagram.weight)
        if action.large is not None:
            assert parse_latex(order, [N]) == N ** diagram.powers()[N]


@pytest.mark.parametrize("name", ["one field", "two fields", "vector", "two minima"])
def test_the_series_is_the_sum_of_the_diagrams(name: str) -> None:
    make, options = ACTIONS[name]
    action = make()
    at = _place(action, options)
    tex = action.appendix(**{"loops": 3, **options})
    series = action.log_partition(3, at=at)
    for order in (2, 3):
        coefficient = series.coefficient(order - 1)
        scale = series.parameter ** (order - 1) if action.large is not None else 1  # hbar is one in a weight
        assert sp.simplify(action.diagrams(order, at=at).weight - coefficient * scale) == 0
        shown = re.search(rf"c_\{{{order - 1}\}} &?= (.*?)(?:[.,] *(?:\\\\|\n|$))", tex, re.DOTALL)
        assert shown is not None
        assert is_same(parse_latex(shown[1], coefficient), coefficient)
    assert r"O\left(" in tex


def test_names_for_sums_put_back_give_the_series() -> None:
    action = _conjugate_output()
    series = action.log_partition(3)
    names = _Names(atom.name for atom in action.expr.atoms(sp.Symbol, Entry))
    short = series.map(names.given_to)
    assert not any(term.has(SpaceSum, Entry) for term in short.terms)
    back = {symbol: value for value, symbol in names.table.items()}
    for term, whole in zip(short.terms, series.terms, strict=True):
        while term.free_symbols & back.keys():
            term = term.xreplace(back)
        assert is_same(term, whole)
    assert sum(map(sp.count_ops, (*short.terms, *names.table))) < sum(map(sp.count_ops, series.terms)) / 3


def test_equivalent_minima_are_counted() -> None:
    make, _ = ACTIONS["two minima"]
    assert "one other of the same action is not included" in make().appendix(2)


def test_a_fragment_is_the_body_of_the_document(tmp_path: Path) -> None:
    make, options = ACTIONS["two fields"]
    action = make()
    whole = action.appendix(2, tmp_path / "whole.tex", **options)
    part = action.appendix(2, standalone=False, title="To two loops: $N$ & $g$", **options)
    assert (tmp_path / "whole.tex").read_text() == whole and whole.startswith(r"\documentclass")
    assert part.startswith("% Needs ") and "documentclass" not in part and "longtable,tikz" in part.split("\n")[0]
    assert r"\section{\texorpdfstring" in part
    body = whole.split(r"\appendix")[1].replace(r"\section", r"\subsection").split(r"\end{document}")[0]
    assert body.strip() in part


@pytest.mark.parametrize("length", [40.0, LINE_LENGTH])
def test_long_sums_are_broken_at_the_line_length(length: float) -> None:
    make, options = ACTIONS["conjugate output"]
    tex = make().appendix(2, line_length=length, **options)
    rows = [
        row
        for block in re.findall(r"\\begin\{align\}(.*?)\\end\{align\}", tex, re.DOTALL)
        for row in block.split(r"\\")
    ]
    assert rows and max(map(tex_width, rows)) <= 1.1 * length


def test_nothing_is_written_where_the_expansion_fails(tmp_path: Path) -> None:
    make, _ = ACTIONS["one field"]
    with pytest.raises(BadInput, match="loops"):
        make().appendix(1, tmp_path / "appendix.tex")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ACTIONS)
def test_pdflatex_sets_it_within_the_page(name: str, compile_latex: Callable[[str], Path]) -> None:
    make, options = ACTIONS[name]
    pdf = compile_latex(make().appendix(**{"loops": 3, **options}))
    log = pdf.with_suffix(".log").read_text(errors="replace")
    assert all(float(points) < 2 for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log))


def test_pdflatex_sets_a_fragment(compile_latex: Callable[[str], Path]) -> None:
    make, options = ACTIONS["two fields"]
    part = make().appendix(3, standalone=False, title="Loops & $N$", **options)
    packages = re.search(r"\\usepackage\{(.*?)\}", part)
    assert packages is not None
    head = r"\documentclass[11pt]{article}\usepackage[margin=28mm,a4paper]{geometry}"
    head += rf"\usepackage{{{packages[1]},hyperref}}"
    compile_latex(f"{head}\n\\begin{{document}}\nText.\n\\appendix\n{part}\n\\end{{document}}\n")
