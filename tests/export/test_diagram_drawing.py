"""Drawings of diagrams: every line, vertex and leg is there, apart from the others, and compiles."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import sympy as sp

from fieldtheory.export.diagrams import GALLERY, draw, gallery, svg, tikz
from fieldtheory.symbolic.diagrams import Diagram, Diagrams, diagrams
from fieldtheory.symbolic.topologies import Topology, topologies

SVG = "{http://www.w3.org/2000/svg}"
SAMPLE = (*topologies([4], 5), *topologies([3], vertices=4), *topologies([3, 4], 2, legs=2),
          *topologies([4], 2, legs=4)[::9], *topologies([3, 4], 1, legs=3), *topologies([6], vertices=2),
          *topologies([8], vertices=1), *topologies([3, 4], 0, legs=4), *topologies([4], vertices=2, kind="all"),
          *topologies([3, 4], 0, legs=2), *topologies([3], vertices=10)[::97], *topologies([3, 4], 2, legs=1))


def at(curve: tuple[complex, ...], t: float) -> complex:
    a, b, c, d = curve
    return (1 - t)**3 * a + 3 * (1 - t)**2 * t * b + 3 * (1 - t) * t * t * c + t**3 * d


@pytest.mark.parametrize("topology", SAMPLE, ids=lambda t: "-".join(f"{i}{j}" for i, j in t.edges))
def test_everything_is_drawn_once(topology: Topology) -> None:
    drawing = draw(topology)
    assert len(drawing.dots) == topology.nodes - topology.legs
    assert len(drawing.curves) + len(drawing.circles) == len(topology.edges)
    assert sorted(leg for _, leg in drawing.labels) == list(range(topology.legs))
    assert all(abs(p - q) > 0.3 for p, q in itertools.combinations(drawing.dots, 2))
    assert all(abs(where - dot) > 0.3 for where, _ in drawing.labels for dot in drawing.dots)
    # lines that share both ends go different ways
    for one, other in itertools.combinations(drawing.curves, 2):
        assert min(abs(at(one, 0.4) - at(other, t)) for t in (0.4, 0.6)) > 0.02
    assert all(abs(p - q) > 0.1 for (p, _), (q, _) in itertools.combinations(drawing.circles, 2))
    # every line ends where its vertices are
    ends = [end for a, _, _, d in drawing.curves for end in (a, d)]
    on_vertices = sum(any(abs(end - dot) < 1e-9 for dot in drawing.dots) for end in ends)
    assert on_vertices == 2 * len(drawing.curves) - topology.legs
    for centre, radius in drawing.circles:
        assert any(abs(abs(centre - dot) - radius) < 1e-9 for dot in drawing.dots)


def test_no_line_runs_over_a_vertex() -> None:
    for topology in topologies([4], 5):
        drawing = draw(topology)
        for curve in drawing.curves:
            for dot in drawing.dots:
                if abs(dot - curve[0]) > 1e-9 and abs(dot - curve[3]) > 1e-9:
                    assert min(abs(at(curve, k / 40) - dot) for k in range(41)) > 0.08, topology


def test_two_legs_lie_left_and_right() -> None:
    for topology in topologies([3, 4], 2, legs=2):
        (first, _), (second, _) = sorted(draw(topology).labels, key=lambda label: label[1])
        assert first.real < second.real
        assert abs(first.imag - second.imag) < 0.2 * (second.real - first.real)


def test_svg_is_xml_inside_its_box() -> None:
    for topology in SAMPLE[::4]:
        root = ElementTree.fromstring(svg(topology))
        assert root.tag == f"{SVG}svg"
        *_, width, height = map(float, root.attrib["viewBox"].split())
        dots = [c for c in root.iter(f"{SVG}circle") if c.get("r") == "2.6"]
        assert len(dots) == topology.nodes - topology.legs
        for shape in root.iter(f"{SVG}path"):
            start = re.match(r"M([-\d.]+),([-\d.]+)", shape.attrib["d"])
            assert start and 0 <= float(start[1]) <= width and 0 <= float(start[2]) <= height
        assert len(list(root.iter(f"{SVG}text"))) == topology.legs


def test_labels_are_escaped_and_numbered_where_they_repeat() -> None:
    topology = topologies([3], 1, legs=3)[0]
    element = svg(topology, ["<i>&", "phi_1", "phi_1"])
    ElementTree.fromstring(element)
    assert "&lt;i&gt;&amp;" in element and element.count("<tspan") == 2
    assert "{\\phi_{1}}_{2}" in tikz(topology, ["x", "phi_1", "phi_1"])
    assert "{x}_{1}" in tikz(topologies([3], 0, legs=3)[0], [sp.Symbol("x")] * 3)


def test_a_notebook_shows_diagrams_with_their_weights() -> None:
    x, g = sp.symbols("x g")
    found = diagrams({(x,) * 4: g}, [[1]], [x], 3)
    page = found._repr_html_()
    assert page.count("<svg") == 2 and r"\frac{g^{2}}{48}" in page
    assert found[0]._repr_html_().count("<svg") == 1
    assert found[0].to_svg() == svg(found[0].topology)
    assert found.to_tikz().count(r"\begin{tikzpicture}") == 2
    assert r"$\frac{1}{8}$" in gallery([Diagram(topologies([4], 2)[0])])
    many = Diagrams([Diagram(topologies([4], 2)[0])] * (GALLERY + 3))
    assert "and 3 more" in many._repr_html_()


def test_plain_tikz_compiles(compile_latex: Callable[[str], Path]) -> None:
    pictures = "\n".join(f"${tikz(topology)}$\\quad" for topology in SAMPLE[::3])
    named = tikz(topologies([3], 1, legs=3)[0], ["x", "phi_1", "phi_1"])
    document = "\n".join([r"\documentclass{article}", r"\usepackage{tikz}", r"\begin{document}", pictures, named,
                          r"\end{document}"])
    assert compile_latex(document).stat().st_size > 0
