"""Figures of a sweep: quantities along an axis with errors over the seeds, maps over two axes, relevance of inputs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from fieldtheory.errors import BadInput
from fieldtheory.export.plots import COLOURS, LINES, MARKERS, _figure
from fieldtheory.export.sweep.table import SEED, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS = {
    "samples": "samples P", "noise_variance": r"noise variance $s_0$", "width": "width N", "chi": r"$\chi$",
    "alpha0": r"$\alpha_0$", "beta0": r"$\beta_0$", "input_dim": "inputs D", "order": "order of the parity",
    "test_error": "test error of the mean predictor",
    "train_error": "training error of the mean predictor", "order_parameter": "order parameter",
    "log_evidence": r"$\ln Z$", "effective_inputs": "effective inputs",
}  # fmt: skip
MOST_PANELS, MOST_TICKS, MOST_COLUMNS = 9, 7, 4
BLACK = "#000000"
"""Of samples, and of nothing else."""
WIDE = 3.0
"""From this ratio of the largest to the smallest value on, an axis is logarithmic."""


def words(name: str) -> str:
    """How an axis or a quantity is called in figures."""
    return WORDS.get(name, name.replace("_", " "))


def axes_of(table: xr.Dataset, numeric: bool = True) -> list[str]:
    """The axes of a sweep but the seeds: those with two numbers or more, or all."""
    names = [str(name) for name in json.loads(table.attrs["axes"]) if name != SEED]
    return [name for name in names if table[name].dtype.kind in "if" and table.sizes[name] > 1] if numeric else names


def sweep_figures(table: xr.Dataset, quantities: Any) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of everything that the axes allow: curves along each, maps over pairs, the relevance of inputs."""
    shown = [name for name in quantities if name in table]
    axes = axes_of(table)
    for quantity in shown:
        for axis in axes:
            yield f"{quantity}-against-{axis}".replace("_", "-"), curve(table, quantity, axis)
        for k, x in enumerate(axes):
            for y in axes[k + 1:]:
                yield f"{quantity}-over-{x}-and-{y}".replace("_", "-"), phase_map(table, quantity, x, y)
    if "relevance" in table:
        yield "relevance", relevance(table)


def _check_axis(table: xr.Dataset, axis: str) -> None:
    if axis not in axes_of(table):
        known = ", ".join(axes_of(table)) or "there is none"
        raise BadInput("axis", repr(axis), f"an axis of two or more numbers: {known}")


def curve(table: xr.Dataset, quantity: str, axis: str) -> Figure:
    """A quantity against an axis, one line for each approximation and one panel for each value of the other axes.

    Bars are standard errors over the seeds of the data (with one seed, Monte-Carlo errors). Open markers have a
    reservation, or lack a seed; a cross on the lower edge is a point without any value. An approximation that does not
    cover a network is not in its panel.
    """
    _check_axis(table, axis)
    averaged = over_seeds(table, quantity)
    panels = _panels(table, axis)
    rows, columns = _shape(len(panels))
    with _figure(rows, columns, (min(3.6 * columns + 1.9, 11.5), 2.9 * rows + 0.4), sharex=True,
                 sharey=True) as (figure, grid):  # fmt: skip
        for ax, where in zip(grid.flat, panels, strict=False):
            _curves(ax, averaged.sel(where), axis, _covering(table.sel(where)))
            if where:
                ax.set_title(_where(where))
        _log_where_wide(grid[0, 0], averaged, axis, quantity)
        for ax in list(grid.flat)[len(panels):]:
            ax.set_axis_off()
        for ax in grid[-1]:
            ax.set_xlabel(words(axis))
        for ax in grid[:, 0]:
            ax.set_ylabel(words(quantity))
        _title(figure, table)
        _legend(figure, grid, table)
    return figure


def _title(figure: Figure, table: xr.Dataset, where: str = "") -> None:
    """Above all panels, so that a long title takes no width from them."""
    words_above = ", ".join(filter(None, [str(table.attrs.get("title", "")), where]))
    figure.suptitle(words_above, fontsize=9.5, x=0.01, ha="left")


def _legend(figure: Figure, grid: np.ndarray, table: xr.Dataset) -> None:
    """One for all panels, in the order of the approximations."""
    handles = {label: handle for ax in grid.flat for handle, label in zip(*ax.get_legend_handles_labels())}
    labels = [label for label in _styles(table) if label in handles]
    figure.legend([handles[label] for label in labels], labels, loc="outside right center")


def _covering(table: xr.Dataset) -> dict[str, tuple[str, str, Any]]:
    """The styles of the approximations that are for this kind of network."""
    return {label: style for label, style in _styles(table).items()
            if not (table["state"].sel(approximation=label) == "not covered").all()}


def _styles(table: xr.Dataset) -> dict[str, tuple[str, str, Any]]:
    """Colour, marker and line of each approximation: samples are black points, theories lines."""
    labels, sampled = list(map(str, table.approximation.values)), str(table.attrs.get("sampled", ""))
    theories = [label for label in labels if label != sampled]
    colours = [colour for colour in COLOURS if colour != BLACK]
    styles = {label: (colours[k % len(colours)], MARKERS[(k + 1) % 8], LINES[k % 8])
              for k, label in enumerate(theories)}
    return {label: styles.get(label, (BLACK, MARKERS[0], "none")) for label in labels}


def _curves(ax: Axes, averaged: xr.Dataset, axis: str, styles: Mapping[str, tuple[str, str, Any]]) -> None:
    x = averaged[axis].values
    for label, (colour, marker, line) in styles.items():
        one = averaged.sel(approximation=label)
        mean, error, sound = one["mean"].values, one["error"].values, one["sound"].values.astype(bool)
        there = np.isfinite(mean)
        above = 2 * (line == "none")  # samples lie on all lines
        ax.errorbar(x[there], mean[there], yerr=np.nan_to_num(error[there]), label=label, color=colour, linestyle=line,
                    marker=marker, capsize=2, elinewidth=1.0, zorder=3 + above)
        open_ = there & ~sound
        ax.plot(x[open_], mean[open_], marker, color=colour, markerfacecolor="white",
                linestyle="none", zorder=4 + above)
        if not there.all():
            ax.plot(x[~there], np.full(np.sum(~there), 0.02), "x", color=colour, transform=ax.get_xaxis_transform(),
                    zorder=7)


def phase_map(table: xr.Dataset, quantity: str, x: str, y: str) -> Figure:
    """A quantity over two axes, one panel for each approximation; other axes at their middle value.

    Of an order parameter the contour at one half is drawn. Hatched cells have no value, dotted ones a reservation.
    """
    for axis in (x, y):
        _check_axis(table, axis)
    averaged = over_seeds(table, quantity)
    others = {name: table[name].values[table.sizes[name] // 2] for name in axes_of(table, numeric=False)
              if name not in (x, y)}
    averaged = averaged.sel(others).transpose("approximation", y, x)
    labels = [label for label in map(str, table.approximation.values)
              if np.isfinite(averaged["mean"].sel(approximation=label)).any()]
    values = averaged["mean"].values
    low, high = (float(f(values)) for f in (np.nanmin, np.nanmax)) if np.isfinite(values).any() else (0.0, 1.0)
    if quantity == "order_parameter":
        low, high = min(low, 0.0), max(high, 1.0)
    rows, columns = _shape(max(len(labels), 1))
    with _figure(rows, columns, (min(3.0 * columns + 1.4, 11.5), 2.7 * rows + 0.4), sharex=True,
                 sharey=True) as (figure, grid):  # fmt: skip
        image = None
        for ax, label in zip(grid.flat, labels, strict=False):
            one = averaged.sel(approximation=label)
            image = _map(ax, one, x, y, low, high, contour=quantity == "order_parameter")
            ax.set_title(label)
        for ax in list(grid.flat)[len(labels):]:
            ax.set_axis_off()
        for ax in grid[-1]:
            ax.set_xlabel(words(x))
        for ax in grid[:, 0]:
            ax.set_ylabel(words(y))
        if image is not None:
            figure.colorbar(image, ax=grid, label=words(quantity))
        _title(figure, table, _where(others))
    return figure


def _map(ax: Axes, one: xr.Dataset, x: str, y: str, low: float, high: float, contour: bool) -> Any:
    X, Y, Z = one[x].values, one[y].values, one["mean"].values
    edges = [_edges(values) for values in (X, Y)]
    ax.set_facecolor("#D8D8D8")
    ax.grid(visible=False)
    image = ax.pcolormesh(*edges, np.ma.masked_invalid(Z), vmin=low, vmax=high, cmap="viridis", shading="flat",
                          edgecolor="none")
    for side, values in (("x", X), ("y", Y)):
        _scale(ax, side, values)
    missing = ~np.isfinite(Z)
    if missing.any():
        ax.pcolor(*edges, np.ma.masked_where(~missing, np.zeros_like(Z)), hatch="////", alpha=0.0)
    for j, i in zip(*np.nonzero(~one["sound"].values.astype(bool) & ~missing)):
        ax.plot(X[i], Y[j], ".", color="white", markersize=3)
    if contour and np.isfinite(Z).all() and Z.min() < 0.5 < Z.max() and min(Z.shape) > 1:
        ax.contour(X, Y, Z, levels=[0.5], colors="white", linewidths=1.2)
    return image


def _edges(values: np.ndarray) -> np.ndarray:
    """Of cells about points, half-way between them (in the logarithm where the axis will be logarithmic)."""
    wide = _wide(values)
    order = np.log(values) if wide else np.asarray(values, dtype=float)
    middle = (order[1:] + order[:-1]) / 2
    found = np.concatenate([[2 * order[0] - middle[0]], middle, [2 * order[-1] - middle[-1]]])
    return np.exp(found) if wide else found


def relevance(table: xr.Dataset) -> Figure:
    """The second moment of the weights along each input relative to its mean over the inputs, at which a line is drawn.

    One column for each value of the first axis of numbers (of many, the ends and some between), one row for each
    combination of the axes of words; other numbers are at their middle value.
    """
    values = table["relevance"]
    values = values.mean(SEED) if SEED in values.dims else values
    error = table["relevance"].std(SEED, ddof=1) / np.sqrt(table.sizes[SEED]) if table.sizes.get(SEED, 1) > 1 else (
        table.get("relevance_mcse", table["relevance"] * np.nan))
    error = error.mean(SEED) if SEED in error.dims else error
    numeric = axes_of(table)
    of_words = [name for name in axes_of(table, numeric=False) if name not in numeric]
    middle = {name: table[name].values[table.sizes[name] // 2] for name in numeric[1:]}
    across: list[dict[str, Any]] = [{}] if not numeric else [
        {numeric[0]: table[numeric[0]].values[k]}
        for k in sorted({int(k) for k in np.linspace(0, table.sizes[numeric[0]] - 1,
                                                     min(table.sizes[numeric[0]], MOST_COLUMNS)).round()})]
    down = [{name: table[name].values[k] for name, k in zip(of_words, place)}
            for place in np.ndindex(*(table.sizes[name] for name in of_words))][:MOST_COLUMNS]
    inputs = np.arange(1, table.sizes["input"] + 1)
    with _figure(len(down), len(across), (min(2.8 * len(across) + 1.9, 11.5), 2.6 * len(down) + 0.4),
                 sharex=True, sharey="row") as (figure, grid):  # fmt: skip
        for ax, (row, column) in zip(grid.flat, itertools.product(down, across)):
            where = column | row | middle
            styles = _covering(table.sel(where))
            for k, (label, (colour, marker, _)) in enumerate(styles.items()):
                one = values.sel(where).sel(approximation=label)
                if np.isfinite(one).any():
                    beside = 0.5 * (k - (len(styles) - 1) / 2) / len(styles)  # so that none covers another
                    ax.errorbar(inputs + beside, one, yerr=np.nan_to_num(error.sel(where).sel(approximation=label)),
                                label=label, color=colour, marker=marker, markersize=3.5, linestyle="none", capsize=2)
            ax.axhline(1, color="#8A8A8A", linewidth=0.9, zorder=1)
            ax.xaxis.get_major_locator().set_params(integer=True)
        for ax, column in zip(grid[0], across):
            ax.set_title(_where(column))
        for ax in grid[-1]:
            ax.set_xlabel("input")
        for ax, row in zip(grid[:, 0], down):
            ax.set_ylabel(", ".join(filter(None, ["relevance", _where(row)])))
        _title(figure, table, _where(middle))
        _legend(figure, grid, table)
    return figure


def _panels(table: xr.Dataset, axis: str) -> list[dict[str, Any]]:
    """One for each combination of the other axes; of too many, the ends and some between."""
    others = [name for name in axes_of(table, numeric=False) if name != axis]
    places = list(np.ndindex(*(table.sizes[name] for name in others)))
    if len(places) > MOST_PANELS:
        places = [places[k] for k in np.linspace(0, len(places) - 1, MOST_PANELS).round().astype(int)]
    return [{name: table[name].values[k] for name, k in zip(others, place)} for place in places]


def _shape(panels: int) -> tuple[int, int]:
    columns = panels if panels <= 3 else int(np.ceil(np.sqrt(panels)))
    return -(-panels // columns), columns


def _where(where: Mapping[str, Any]) -> str:
    """In words: ``gaussian prior``, ``prior alpha0 = 4``, ``samples P = 100``."""
    return ", ".join(_said(name.replace("_", " "), value) if isinstance(value, str) else
                     f"{words(name)} = {value:.4g}" if isinstance(value, float) else f"{words(name)} = {value}"
                     for name, value in where.items())


def _said(name: str, value: str) -> str:
    """A value of an axis that is a word ("gaussian"), or settings ("alpha0 4.0, beta0 0.5")."""
    if " " not in value:
        return f"{value.replace('_', ' ')} {name}"
    pairs = [pair.partition(" ") for pair in value.split(", ")]
    return ", ".join([name, *(f"{WORDS.get(key, key)} = {number.removesuffix('.0')}" for key, _, number in pairs)])


def _wide(values: np.ndarray) -> bool:
    return bool(len(values) > 1 and np.min(values) > 0 and np.max(values) > WIDE * np.min(values))


def _scale(ax: Axes, side: str, values: np.ndarray) -> None:
    """A logarithmic axis where the values are wide, with ticks at (some of) them."""
    from matplotlib.ticker import NullFormatter

    if not _wide(values):
        return
    getattr(ax, f"set_{side}scale")("log")
    shown = values[:: -(-len(values) // MOST_TICKS)]
    getattr(ax, f"set_{side}ticks")(list(shown), [f"{value:.3g}" for value in shown])
    getattr(ax, f"{side}axis").set_minor_formatter(NullFormatter())


def _log_where_wide(ax: Axes, averaged: xr.Dataset, axis: str, quantity: str) -> None:
    _scale(ax, "x", averaged[axis].values)
    mean = averaged["mean"].values[np.isfinite(averaged["mean"].values)]
    if quantity.endswith("error") and len(mean) and _wide(mean):
        ax.set_yscale("log")


__all__ = ["curve", "phase_map", "relevance", "sweep_figures"]
