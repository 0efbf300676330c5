"""Phase diagrams: where in the space of scaling exponents a saddle suffices, and where the loop expansion fails.

The regions are the polyhedra that a power counting finds (`PowerCounting.regions`); each panel is a plane through
them, cut exactly, polygon by polygon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.export.plots import COLOURS, _figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fieldtheory.symbolic.counting import PowerCounting

Point = tuple[sp.Rational, sp.Rational]
VERDICTS = {
    "saddle": ("the saddle suffices", "#CFE3F3"),
    "finite": ("finitely many loop orders survive", "#F3E3A6"),
    "growing": ("every loop order larger: no order closes", "#EFC4AE"),
    "equal": ("every loop order equally large: resum", COLOURS[1]),
}


def phase_diagram(counting: PowerCounting, x: Any, y: Any, panels: Sequence[Mapping[Any, Any]] = ({},), *,
                  limits: Mapping[Any, tuple[Any, Any]] | None = None,
                  points: Mapping[str, Mapping[Any, Any]] | None = None) -> Figure:
    """The regions of a power counting over the exponents ``x`` and ``y``, one panel for each choice of the others.

    Parameters
    ----------
    counting : what `theory.power_counting(of="loops")` or `action.power_counting(...)` returns.
    x, y : two of its exponents, by symbol or name.
    panels : values of all other exponents, one mapping for each panel.
    limits : the range shown of each exponent, 0 to 2 where nothing is said.
    points : named points of the whole space, marked in the panels that hold them.

    Raises
    ------
    BadInput
        For an exponent that the counting does not have, or a panel that leaves one open.
    """
    names = {symbol.name: symbol for symbol in counting.parameters}
    ranges = {str(name): tuple(map(_exact, pair)) for name, pair in (limits or {}).items()}
    for name in (str(x), str(y)):
        if name not in names:
            raise BadInput("exponents", name, f"two of {', '.join(names)}")
    planes = []
    for panel in panels:
        fixed = {str(name): _exact(value) for name, value in panel.items()}
        if {*fixed, str(x), str(y)} != set(names) or {str(x), str(y)} & set(fixed):
            others = ", ".join(sorted(set(names) - {str(x), str(y)}))
            raise BadInput("panels", panel, f"values of {others or 'nothing'}")
        planes.append({names[name]: value for name, value in fixed.items()})
    if not planes:
        raise BadInput("panels", "none", "at least one mapping of the exponents that are held fixed")
    axes_of = names[str(x)], names[str(y)]
    box: tuple[Any, Any] = tuple(ranges.get(str(axis), (sp.S.Zero, sp.Integer(2)))  # type: ignore[assignment]
                                 for axis in (x, y))
    regions = counting.regions()
    with _figure(1, len(planes), (min(3.1 * len(planes) + 0.4, 11), 4.0), sharey=True) as (figure, grid):
        for k, plane in enumerate(planes):
            axes = grid[0, k]
            axes.grid(False)
            _draw(axes, regions, axes_of, plane, box)
            _mark(axes, counting, axes_of, plane, box, points or {})
            axes.set_xlabel(_word(axes_of[0]))
            axes.set_title(", ".join(f"{_word(symbol)} = {value}" for symbol, value in plane.items()))
            axes.set_xlim(*map(float, box[0]))
            axes.set_ylim(*map(float, box[1]))
        grid[0, 0].set_ylabel(_word(axes_of[1]))
        figure.legend(handles=_legend(regions), loc="outside lower center", ncols=2)
    return figure


def _exact(value: Any) -> sp.Rational:
    return sp.nsimplify(sp.Rational(value) if isinstance(value, Fraction) else value, rational=True)


def _word(symbol: sp.Symbol) -> str:
    return f"${sp.latex(symbol)}$"


def _draw(axes: Axes, regions: Mapping[str, Sequence[tuple[sp.Rel, ...]]], over: tuple[sp.Symbol, sp.Symbol],
          plane: Mapping[sp.Symbol, sp.Expr], box: tuple[Any, Any]) -> None:
    """Polygons for the open verdicts, and lines, or polygons in a plane that holds them, for the equations."""
    outline = [(box[0][0], box[1][0]), (box[0][1], box[1][0]), (box[0][1], box[1][1]), (box[0][0], box[1][1])]
    for verdict, (_, colour) in VERDICTS.items():
        for region in regions.get(verdict, ()):
            polygon = section(region, over, plane, outline)
            corners = list(dict.fromkeys(polygon))
            if len(corners) < 2:
                continue
            places = [(float(a), float(b)) for a, b in corners]
            if len(corners) == 2:
                if verdict == "equal":
                    axes.plot(*zip(*places), color=colour, linewidth=2.4, solid_capstyle="butt", zorder=3)
            else:
                above = verdict == "equal"
                axes.fill(*zip(*places), facecolor=colour, edgecolor=colour if above else "#8A8A8A",
                          alpha=0.6 if above else 1.0, linewidth=0.5, zorder=2 if above else 1)


def section(region: Sequence[sp.Rel], over: tuple[sp.Symbol, sp.Symbol], plane: Mapping[sp.Symbol, sp.Expr],
            outline: Sequence[Point]) -> list[Point]:
    """The part of a convex outline where all relations hold, its boundary included, as corners in order."""
    polygon = list(outline)
    for relation in region:
        gap = sp.expand((relation.gts - relation.lts if not isinstance(relation, sp.Eq)
                         else relation.lhs - relation.rhs).xreplace(dict(plane)))
        for side in (gap, -gap) if isinstance(relation, sp.Eq) else (gap,):
            if isinstance(relation, sp.StrictLessThan) and side == 0:
                return []
            polygon = _clip(polygon, side, over)
    return polygon


def _clip(polygon: list[Point], gap: sp.Expr, over: tuple[sp.Symbol, sp.Symbol]) -> list[Point]:
    """The part of a convex polygon where gap ≥ 0."""
    heights = [gap.xreplace(dict(zip(over, corner))) for corner in polygon]
    kept: list[Point] = []
    for k, (corner, height) in enumerate(zip(polygon, heights)):
        before, above = polygon[k - 1], heights[k - 1]
        if (height > 0 and above < 0) or (height < 0 and above > 0):
            share = above / (above - height)
            kept.append(tuple(a + share * (b - a) for a, b in zip(before, corner)))  # type: ignore[arg-type]
        if height >= 0:
            kept.append(corner)
    return kept


def _mark(axes: Axes, counting: PowerCounting, over: tuple[sp.Symbol, sp.Symbol], plane: Mapping[sp.Symbol, sp.Expr],
          box: tuple[Any, Any], points: Mapping[str, Mapping[Any, Any]]) -> None:
    for label, point in points.items():
        values = {str(name): _exact(value) for name, value in point.items()}
        if {symbol.name for symbol in counting.parameters} - set(values):
            raise BadInput("points", f"{label}: {dict(point)}", "a value of every exponent")
        if any(values[symbol.name] != value for symbol, value in plane.items()):
            continue
        place = [values[symbol.name] for symbol in over]
        if all(low <= value <= high for value, (low, high) in zip(place, box)):
            across = (place[0] - box[0][0]) / (box[0][1] - box[0][0])
            side = "left" if across <= 0.5 else "center" if across <= 0.75 else "right"
            top = place[1] > (box[1][0] + 2 * box[1][1]) / 3
            axes.plot(*map(float, place), "o", color="black", markersize=5, zorder=5, clip_on=False)
            axes.annotate(label, (float(place[0]), float(place[1])), textcoords="offset points", ha=side,
                          xytext=({"left": 5, "center": 0, "right": -5}[side], -5 if top else 5),
                          va="top" if top else "bottom", fontsize=8, zorder=5)


def _legend(regions: Mapping[str, Sequence[Any]]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [Line2D([], [], color=colour, linewidth=2.4, label=words) if verdict == "equal" else
            Patch(facecolor=colour, edgecolor="#8A8A8A", linewidth=0.5, label=words)
            for verdict, (words, colour) in VERDICTS.items() if regions.get(verdict)
            ] + [Line2D([], [], color="#8A8A8A", linewidth=0.7, label="another dominant balance")]


__all__ = ["phase_diagram", "section"]
