r"""Drawings of diagrams, as TikZ and as inline SVG: vertices are dots, self-loops petals, legs stick out.

The layout is ours and the same on every run.  Each connected part is placed once on circles, in the cyclic orders
that promise few crossings, and from each of these once by stress majorisation (Gansner, Koren, North 2004)

    minimise Σ_{i<j} d_ij^{-2} (|x_i - x_j| - d_ij)²,        d_ij the distance along lines,

and the placement with the fewest crossings, lines over vertices and narrow angles, the least stress and the
shortest lines is kept.  Several lines between a pair of vertices are circular arcs, a self-loop is put where its
vertex has most room.  Milliseconds for a diagram of a few vertices, a tenth of a second for one of ten.
"""

from __future__ import annotations

import cmath
import html
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations
from math import atan, cos, hypot, pi, sin, tan
from typing import TYPE_CHECKING, Any

import sympy as sp

from fieldtheory.symbolic.names import name_latex
from fieldtheory.symbolic.printing import latex

if TYPE_CHECKING:
    from fieldtheory.symbolic.diagrams import Diagram
    from fieldtheory.symbolic.topologies import Topology

LEG, PETAL, GAP = 0.7, 0.3, 0.5
"""Length of a leg, radius of a petal, and space between disconnected parts, in distances of two vertices."""
PIXELS, CENTIMETRES = 44.0, 1.1
"""One distance of two vertices on the page."""
GALLERY = 200
"""The most diagrams that a notebook is given to draw at once."""

Point = complex


@dataclass(frozen=True)
class Drawing:
    """Cubic curves (start, control, control, end), circles (centre, radius), dots, and labels (where, leg)."""

    curves: tuple[tuple[Point, Point, Point, Point], ...] = ()
    circles: tuple[tuple[Point, float], ...] = ()
    dots: tuple[Point, ...] = ()
    labels: tuple[tuple[Point, int], ...] = ()

    def box(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of the lines and dots."""
        points = [*self.dots, *(_on_curve(curve, k / 12) for curve in self.curves for k in range(13))]
        points += [centre + radius * d for centre, radius in self.circles for d in (1, -1, 1j, -1j)]
        across, up = [p.real for p in points] or [0.0], [p.imag for p in points] or [0.0]
        return min(across), min(up), max(across), max(up)

    def moved(self, by: Point) -> Drawing:
        return Drawing(tuple((a + by, b + by, c + by, d + by) for a, b, c, d in self.curves),
                       tuple((centre + by, radius) for centre, radius in self.circles),
                       tuple(dot + by for dot in self.dots), tuple((where + by, leg) for where, leg in self.labels))


def _on_curve(curve: tuple[Point, Point, Point, Point], t: float) -> Point:
    a, b, c, d = curve
    s = 1 - t
    return s**3 * a + 3 * s * s * t * b + 3 * s * t * t * c + t**3 * d


# ------------------------------------------------------------------------------------------------ pictures
def tikz(topology: Topology, legs: Sequence[Any] = ()) -> str:
    """A ``tikzpicture`` centred on the line of a formula; plain TikZ, no library needed."""
    drawing, names = draw(topology), _names(topology, legs)

    def at(point: Point) -> str:
        return f"({_number(CENTIMETRES * point.real)},{_number(CENTIMETRES * point.imag)})"

    rows = [r"\begin{tikzpicture}[baseline={([yshift=-.6ex]current bounding box.center)}, line width=.6pt]"]
    if not drawing.labels:  # else TikZ counts the control points of curves in, which stand far out
        left, bottom, right, top = drawing.box()
        margin = 0.06
        rows.append(rf"  \useasboundingbox {at(complex(left - margin, bottom - margin))} rectangle "
                    rf"{at(complex(right + margin, top + margin))};")
    for a, b, c, d in drawing.curves:
        rows.append(rf"  \draw {at(a)} -- {at(d)};" if _is_straight((a, b, c, d)) else
                    rf"  \draw {at(a)} .. controls {at(b)} and {at(c)} .. {at(d)};")
    rows += [rf"  \draw {at(centre)} circle [radius={_number(CENTIMETRES * radius)}];"
             for centre, radius in drawing.circles]
    rows += [rf"  \fill {at(dot)} circle [radius=1.5pt];" for dot in drawing.dots]
    for where, leg in drawing.labels:
        base, subscript = names[leg]
        name = (latex(base) if isinstance(base, sp.Basic) else name_latex(str(base))) if base != "" else ""
        text = f"{{{name}}}_{{{subscript}}}" if name and subscript else name or subscript
        rows.append(rf"  \node[inner sep=0pt, font=\scriptsize] at {at(where)} {{${text}$}};")
    return "\n".join([*rows, r"\end{tikzpicture}"])


def svg(topology: Topology, legs: Sequence[Any] = ()) -> str:
    """An ``svg`` element that takes the colour of the text around it."""
    drawing, names = draw(topology), _names(topology, legs)
    left, bottom, right, top = drawing.box()
    margin = 0.34 if drawing.labels else 0.12
    left, bottom, right, top = left - margin, bottom - margin, right + margin, top + margin

    def at(point: Point) -> str:
        return f"{_number(PIXELS * (point.real - left), 1)},{_number(PIXELS * (top - point.imag), 1)}"

    width, height = (_number(PIXELS * size, 1) for size in (right - left, top - bottom))
    words = f"{topology.loops} loops, symmetry factor {topology.symmetry_factor}"
    rows = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img" aria-label="diagram: {words}">',
            '<g fill="none" stroke="currentColor" stroke-width="1.3" stroke-linecap="round">']
    for a, b, c, d in drawing.curves:
        path = f"M{at(a)}L{at(d)}" if _is_straight((a, b, c, d)) else f"M{at(a)}C{at(b)} {at(c)} {at(d)}"
        rows.append(f'<path d="{path}"/>')
    for centre, radius in drawing.circles:
        x, y = at(centre).split(",")
        rows.append(f'<circle cx="{x}" cy="{y}" r="{_number(PIXELS * radius, 1)}"/>')
    rows.append('</g><g fill="currentColor">')
    for dot in drawing.dots:
        x, y = at(dot).split(",")
        rows.append(f'<circle cx="{x}" cy="{y}" r="2.6"/>')
    for where, leg in drawing.labels:
        x, y = at(where).split(",")
        base, subscript = names[leg]
        small = f'<tspan dy="3" font-size="8">{subscript}</tspan>' if base != "" and subscript else ""
        rows.append(f'<text x="{x}" y="{y}" dy="3.5" font-family="serif" font-size="11" text-anchor="middle">'
                    f"{html.escape(str(base)) if base != '' else subscript}{small}</text>")
    return "\n".join([*rows, "</g></svg>"])


def gallery(diagrams: Sequence[Diagram]) -> str:
    """Diagrams side by side, each above its weight, or above 1/S where that is too long or unknown."""
    figures = []
    for diagram in diagrams[:GALLERY]:
        caption = rf"\frac{{1}}{{{diagram.symmetry_factor}}}" if diagram.symmetry_factor > 1 else "1"
        if diagram.rules is not None and diagram.weight.count_ops() <= 25:
            caption = latex(diagram.weight)
        figures.append(f'<figure style="margin:0;text-align:center">{svg(diagram.topology, diagram.legs)}'
                       f"<figcaption>${html.escape(caption)}$</figcaption></figure>")
    if len(diagrams) > GALLERY:
        figures.append(f"<p>… and {len(diagrams) - GALLERY} more</p>")
    style = "display:flex;flex-wrap:wrap;gap:1.2em;align-items:flex-end"
    return f'<div style="{style}">{"".join(figures)}</div>'


def _names(topology: Topology, legs: Sequence[Any]) -> list[tuple[Any, str]]:
    """(field, number) of each leg: the number where the field alone would not tell it from another."""
    if not legs:
        return [("", str(k + 1)) for k in range(topology.legs)]
    return [(label, str(k + 1) if list(legs).count(label) > 1 else "") for k, label in enumerate(legs)]


def _number(value: float, digits: int = 3) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}".rstrip("0").rstrip(".")  # no -0


def _is_straight(curve: tuple[Point, Point, Point, Point]) -> bool:
    a, b, c, d = curve
    return a != d and abs(((b - a) * (d - a).conjugate()).imag) + abs(((c - a) * (d - a).conjugate()).imag) < 1e-9


# -------------------------------------------------------------------------------------------------- layout
@lru_cache(maxsize=512)
def draw(topology: Topology) -> Drawing:
    """The drawing of a topology: its connected parts from left to right."""
    whole, edge = Drawing(), 0.0
    for nodes in _connected_parts(topology):
        lines = {pair: m for pair, m in topology.multiplicities.items() if pair[0] in nodes}
        part = _draw_part(nodes, lines, topology.legs)
        left, bottom, right, top = part.box()
        part = part.moved(complex(edge - left, -(bottom + top) / 2))
        edge += right - left + GAP
        whole = Drawing(whole.curves + part.curves, whole.circles + part.circles, whole.dots + part.dots,
                        whole.labels + part.labels)
    return whole


def _connected_parts(topology: Topology) -> list[list[int]]:
    parts: list[set[int]] = []
    for node in range(topology.nodes):
        touched = [{i, j} for i, j in topology.multiplicities if node in (i, j)]
        merged = {node}.union(*touched, *(part for part in parts if any(part & pair for pair in touched)))
        parts = [part for part in parts if not part & merged] + [merged]
    return sorted(sorted(part) for part in parts)


def _draw_part(nodes: list[int], lines: dict[tuple[int, int], int], legs: int) -> Drawing:
    links = {pair: m for pair, m in lines.items() if pair[0] != pair[1]}
    distance = _distances(nodes, links, legs)
    candidates = []
    for order in _cyclic_orders([node for node in nodes if node >= legs], links):
        circle = _circle(order, links, legs)
        sides = {(min(pair), max(pair)) for pair in zip(order, [*order[1:], order[0]])}
        if sides - {(order[0], order[0])} <= {pair for pair, m in links.items() if m == 1 or pair in sides} and all(
                pair in sides for pair, m in links.items() if m > 1):  # the sides are lines, and hold all multiple ones
            candidates.append((circle, True))
        candidates.append((_majorise({**{n: 0j for n in nodes}, **circle}, distance), False))
    if not candidates:  # a line from leg to leg
        candidates = [({node: complex(k) for k, node in enumerate(nodes)}, False)]
    best = min(candidates, key=lambda c: round(_badness(c[0], links, distance, c[1]), 6))
    places = best[0]
    if nodes[:2] == [0, 1] and legs == 2 and len(nodes) > 3 and len({j for i, j in links if i < 2}) == 1:
        (inner,) = {j for i, j in links if i < 2}  # both legs at one vertex: opposite to each other
        others = [places[node] - places[inner] for node in nodes if node >= legs and node != inner]
        up = sum(others) / abs(sum(others))
        places = {**places, 0: places[inner] + 1j * LEG * up, 1: places[inner] - 1j * LEG * up}
    places = _turned(places, legs, best[1])
    return _with_lines(places, lines, legs, best[1])


def _distances(nodes: list[int], links: dict[tuple[int, int], int], legs: int) -> dict[tuple[int, int], float]:
    """Along lines, for i < j: a leg is shorter than a line, lines that share their ends are longer."""
    far = float(len(nodes) + 1)
    distance = {(i, j): 0.0 if i == j else far for i in nodes for j in nodes}
    for (i, j), m in links.items():
        distance[i, j] = distance[j, i] = LEG if i < legs else 1.0 if m == 1 else 1.15
    for k in nodes:
        for i in nodes:
            for j in nodes:
                distance[i, j] = min(distance[i, j], distance[i, k] + distance[k, j])
    return {(i, j): d * (1.3 if j < legs else 1.0) for (i, j), d in distance.items() if i < j}  # legs keep apart


def _cyclic_orders(vertices: list[int], links: dict[tuple[int, int], int]) -> list[tuple[int, ...]]:
    """A few cyclic orders with few crossings and short chords: from all of them, or from a fixed sample."""
    if not vertices:
        return []
    first, *others = vertices
    if len(vertices) <= 6:
        orders = [(first, *rest) for rest in permutations(others) if len(rest) < 2 or rest[0] < rest[-1]]
    else:
        source, orders = random.Random(1), [tuple(vertices)]
        for _ in range(60):
            source.shuffle(others)
            orders.append((first, *others))
        orders = [_exchanged(order, links) for order in orders]
    ranked = sorted((_chord_cost(order, links), order) for order in set(orders))
    return [order for _, order in ranked[:4]]


def _chord_cost(order: tuple[int, ...], links: dict[tuple[int, int], int]) -> float:
    size, place = len(order), {node: k for k, node in enumerate(order)}
    chords = sorted(tuple(sorted((place[i], place[j]))) for i, j in links if i in place and j in place)
    crossings = sum(a < c < b < d for (a, b), (c, d) in combinations(chords, 2))
    length = sum(m * m * sin(pi * abs(place[i] - place[j]) / size) for (i, j), m in links.items()
                 if i in place and j in place)
    return round(crossings + 0.3 * length, 9)


def _exchanged(order: tuple[int, ...], links: dict[tuple[int, int], int]) -> tuple[int, ...]:
    """Exchange pairs as long as that lowers the cost."""
    cost = _chord_cost(order, links)
    improved = True
    while improved:
        improved = False
        for a, b in combinations(range(1, len(order)), 2):
            other = list(order)
            other[a], other[b] = other[b], other[a]
            if (lower := _chord_cost(tuple(other), links)) < cost:
                order, cost, improved = tuple(other), lower, True
    return order


def _circle(order: tuple[int, ...], links: dict[tuple[int, int], int], legs: int) -> dict[int, Point]:
    """Vertices on a circle whose sides have length one; legs point outwards."""
    size = len(order)
    radius = 0.5 / sin(pi / size) if size > 1 else 0.0
    start = pi / 2 if size % 2 else pi / 2 + pi / size if size > 2 else pi
    places = {node: radius * cmath.exp(1j * (start - 2 * pi * k / size)) for k, node in enumerate(order)}
    for node in order:
        attached = [i for (i, j) in links if j == node and i < legs]
        outward = places[node] / radius if radius else 1 + 0j
        spread = pi / 3 if radius else 2 * pi / max(len(attached), 1)
        for k, leg in enumerate(attached):
            places[leg] = places[node] + LEG * outward * cmath.exp(1j * spread * (k - (len(attached) - 1) / 2))
    return places


def _majorise(places: dict[int, Point], distance: dict[tuple[int, int], float]) -> dict[int, Point]:
    """Move each node to the least stress against the others in turn; starting points are nudged off symmetry."""
    nodes = sorted(places)
    spot = {node: places[node] + 0.01 * cmath.exp(2.4j * k) for k, node in enumerate(nodes)}
    pulls = {i: [(j, distance[min(i, j), max(i, j)]) for j in nodes if j != i] for i in nodes}
    for _ in range(300):
        moved = 0.0
        for i in nodes:
            total, weights, here = 0j, 0.0, spot[i]
            for j, d in pulls[i]:
                apart = here - spot[j]
                total += (spot[j] + d * apart / (abs(apart) or 1.0)) / d**2
                weights += 1 / d**2
            if weights:
                spot[i] = here + 1.6 * (total / weights - here)
                moved = max(moved, abs(spot[i] - here))
        if moved < 1e-4:
            break
    # A chain straightens slowly: finish it.
    middle = sum(spot.values()) / len(spot)
    axis = cmath.exp(0.5j * cmath.phase(sum((p - middle)**2 for p in spot.values())))
    straight = {node: middle + axis * ((p - middle) / axis).real for node, p in spot.items()}
    chain = all(abs(spot[node] - p) < 0.4 for node, p in straight.items())
    chain = chain and all(abs(straight[i] - straight[j]) > 0.6 * d for (i, j), d in distance.items())
    return straight if chain else spot


def _badness(places: dict[int, Point], links: dict[tuple[int, int], int], distance: dict[tuple[int, int], float],
             on_circle: bool) -> float:
    """What makes a drawing hard to read: crossings, lines over vertices, narrow angles, stress, long lines."""
    cost: float = -1.0 if on_circle else 0.0
    for (a, b), (c, d) in combinations(links, 2):
        if len({a, b, c, d}) == 4:
            cost += _cross(places[a], places[b], places[c], places[d])
        else:
            (shared,) = {a, b} & {c, d}
            one, other = (places[(x if y == shared else y)] - places[shared] for x, y in ((a, b), (c, d)))
            cost += 3.0 * (abs(cmath.phase(one / other)) < 0.35) if one and other else 3.0
    for (a, b) in links:
        along = places[b] - places[a]
        length = abs(along) or 1e-9
        cost += 0.1 * length
        for node, place in places.items():
            if node not in (a, b):
                relative = (place - places[a]) / along if along else 0j
                cost += 3.0 * (-0.05 < relative.real < 1.05 and abs(relative.imag) * length < 0.2)
    for (i, j), wanted in distance.items():
        apart = abs(places[i] - places[j])
        cost += 0.4 * (apart / wanted - 1)**2 + (3.0 if apart < 0.35 else 0.0)
    return cost


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    def side(p: Point, q: Point, r: Point) -> float:
        return ((q - p).conjugate() * (r - p)).imag

    return side(a, b, c) * side(a, b, d) < -1e-9 and side(c, d, a) * side(c, d, b) < -1e-9


def _turned(places: dict[int, Point], legs: int, on_circle: bool) -> dict[int, Point]:
    """Legs to the left and right, in their order from the top; without legs the long axis across."""
    middle = sum(places.values()) / len(places)
    places = {node: place - middle for node, place in places.items()}
    outer = sorted(node for node in places if node < legs)
    if not outer:
        spread = sum(place * place for place in places.values())
        if on_circle and len(places) > 2:
            return places
        if abs(spread) < 0.05 * sum(abs(place)**2 for place in places.values()):  # no long axis: the farthest on top
            top = max(places, key=lambda node: (round(abs(places[node]), 3), -node))
            return {node: place * cmath.exp(1j * (pi / 2 - cmath.phase(places[top]))) for node, place in places.items()}
        return {node: place * cmath.exp(-0.5j * cmath.phase(spread)) for node, place in places.items()}
    left = (len(outer) + 1) // 2
    angles = [pi * (0.5 + (k + 0.5) / left) for k in range(left)]
    angles += [pi * (0.5 - (k + 0.5) / (len(outer) - left)) for k in range(len(outer) - left)]
    best = None
    for mirrored in (False, True):
        seen = {node: place.conjugate() if mirrored else place for node, place in places.items()}
        overlap = sum(cmath.exp(-1j * angle) * seen[leg] for leg, angle in zip(outer, angles))
        if best is None or abs(overlap) > best[0] + 1e-6:
            best = abs(overlap), overlap, seen
    assert best is not None
    turn = cmath.exp(-1j * cmath.phase(best[1])) if best[0] > 1e-9 else 1
    return {node: place * turn for node, place in best[2].items()}


# --------------------------------------------------------------------------------------------------- lines
def _arc(a: Point, b: Point, bulge: float) -> tuple[Point, Point, Point, Point]:
    """The circular arc from a to b whose height is ``bulge`` times its chord, to the left of the way."""
    half = 2 * atan(2 * bulge)
    if abs(half) < 1e-9:
        return a, a + (b - a) / 3, b - (b - a) / 3, b
    handle = (b - a) * (2 / 3) * tan(half / 2) / sin(half)
    return a, a + handle * cmath.exp(1j * half), b - handle * cmath.exp(-1j * half), b


def _bulges(count: int, least: float) -> list[float]:
    """Heights of ``count`` arcs side by side, the outermost no flatter than ``least``."""
    outer = max(least, 0.3 if count == 2 else 0.42)
    return [outer * (1 - 2 * k / (count - 1)) for k in range(count)]


def _with_lines(places: dict[int, Point], lines: dict[tuple[int, int], int], legs: int, on_circle: bool) -> Drawing:
    vertices = [node for node in places if node >= legs]
    centre = sum((places[node] for node in vertices), 0j) / max(len(vertices), 1)
    side = 0.5 * tan(pi / (2 * len(vertices))) if on_circle and len(vertices) > 2 else 0.0
    curves, directions = [], {node: [] for node in places}  # type: tuple[list[Any], dict[int, list[float]]]
    for (i, j), count in sorted(lines.items()):
        if i == j:
            continue
        a, b = places[i], places[j]
        on_side = side > 0 and i >= legs and abs(abs(a - b) - 1) < 1e-6  # neighbours follow the circle
        if on_side and ((b - a).conjugate() * (centre - a)).imag > 0:
            a, b, i, j = b, a, j, i
        heights = ([side] if on_side else [0.0]) if count == 1 else _bulges(count, side)
        for height in heights:
            curve = _arc(a, b, height)
            curves.append(curve)
            directions[i].append(cmath.phase(curve[1] - curve[0]))
            directions[j].append(cmath.phase(curve[2] - curve[3]))
    circles = []
    for node in vertices:
        number = lines.get((node, node), 0)
        for direction, room in _petals(directions[node], number, places[node] - centre):
            if room > 2.9:
                circles.append((places[node] + PETAL * cmath.exp(1j * direction), PETAL))
            else:
                width, length = min(0.9, 0.38 * room), 2.6 * PETAL / 0.75
                one, other = (places[node] + length * cmath.exp(1j * (direction + turn)) / max(cos(width), 0.6)
                              for turn in (width, -width))
                curves.append((places[node], one, other, places[node]))
    labels = []
    for leg in (node for node in places if node < legs):
        (inner,) = [j if i == leg else i for i, j in lines if leg in (i, j)]
        outward = places[leg] - places[inner]
        labels.append((places[leg] + 0.2 * outward / hypot(outward.real, outward.imag), leg))
    return Drawing(tuple(curves), tuple(circles), tuple(places[node] for node in vertices), tuple(labels))


def _petals(taken: list[float], number: int, outward: Point) -> Iterator[tuple[float, float]]:
    """(direction, room) of ``number`` petals: the widest gaps between lines, outer ones first, shared out evenly."""
    if not taken:  # nothing but petals
        start = pi if number % 2 == 0 else pi / 2
        yield from ((start + 2 * pi * k / number, 2 * pi / number) for k in range(number))
        return
    edges = sorted(angle % (2 * pi) for angle in taken)
    gaps = [((after - before) or 2 * pi, before) for before, after in zip(edges, [*edges[1:], edges[0] + 2 * pi])]
    away = outward / abs(outward) if abs(outward) > 1e-6 else 1j

    def room(gap: int) -> float:
        width, before = gaps[gap]
        facing = (cmath.exp(1j * (before + width / 2)) * away.conjugate()).real
        return round(width / (counts[gap] + 1) * (1 + 0.4 * facing), 6)

    counts = [0] * len(gaps)
    for _ in range(number):
        counts[max(range(len(gaps)), key=room)] += 1
    for (width, before), count in zip(gaps, counts):
        yield from ((before + width * (k + 0.5) / count, width / count) for k in range(count))
