"""Figures: a prediction against samples, errors against the width, roots of the equations of state against χ.

Every function returns a Matplotlib `Figure` that belongs to no window: `figure.savefig(path)`, or show it in a
notebook. Colours are those of Okabe & Ito, which the colour-blind can tell apart; what matters is told by
marker and line style as well.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from fieldtheory.errors import BadInput
from fieldtheory.verdict import Sampled, Verdict, validate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A8A8A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", (0, (6, 2)), (0, (1, 1.5)), "-.", (0, (8, 2, 1, 2, 1, 2)), (0, (3, 1)), "-", "-")
STYLE: dict[str, Any] = {
    "font.family": "sans-serif", "font.size": 9.0, "mathtext.fontset": "dejavusans",
    "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.labelsize": 9.0, "axes.linewidth": 0.7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.6,
    "legend.frameon": False, "legend.fontsize": 8.5, "lines.linewidth": 1.6, "lines.markersize": 4.5,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "svg.fonttype": "path", "svg.hashsalt": "fieldtheory", "figure.facecolor": "white",
}  # fmt: skip

Compared = Mapping[str, xr.Dataset | Verdict]


@contextlib.contextmanager
def _figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> Iterator[tuple[Figure, Any]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False, **options)


def svg(figure: Figure) -> str:
    """The figure as an SVG element for a page, with text as paths: the same bytes for the same figure."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return element_of(stream.getvalue())


def element_of(document: str) -> str:
    """The element of an SVG document for a page: without metadata (its date, its vocabulary), ids made its own."""
    element = document[document.index("<svg"):].strip()
    return scope_ids(re.sub(r"<metadata>.*?</metadata>\s*", "", element, flags=re.DOTALL))


def scope_ids(element: str, copy: int = 0) -> str:
    """An SVG element with ids that no other of the page shares: a prefix made of its content and its `copy`."""
    import hashlib

    prefix = "s" + hashlib.sha256(f"{copy}{element}".encode()).hexdigest()[:10]
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", element)


def prediction_against_sample(predictions: Compared, samples: Any = None) -> Figure:
    """Mean outputs, predicted against sampled: values above, residuals in Monte-Carlo standard errors below.

    `predictions` maps a label to a prediction, compared with `samples` here, or to the verdict on one. The band
    in the lower panels holds what chance explains at the verdict's level over all the observables at once.
    """
    if not predictions:
        raise BadInput("predictions", "none", "at least one prediction or verdict")
    verdicts = {}
    if any(not isinstance(entry, Verdict) for entry in predictions.values()):
        samples = samples if isinstance(samples, Sampled) else Sampled(samples)
    for label, entry in predictions.items():
        verdicts[label] = entry if isinstance(entry, Verdict) else validate(entry, samples)
    count = len(verdicts)
    width = min(3.1 * count + 0.6, 10.5) if count > 1 else 4.2
    with _figure(2, count, (width, 4.7), sharex=True, sharey="row",
                 height_ratios=[3, 1.5]) as (figure, axes):  # fmt: skip
        for k, (label, verdict) in enumerate(verdicts.items()):
            _compare(axes[0, k], axes[1, k], label, verdict, first=k == 0)
    return figure


def _compare(above: Axes, below: Axes, label: str, verdict: Verdict, first: bool) -> None:
    table, level = verdict.table, verdict.level
    above.axline((0, 0), slope=1, color="#8A8A8A", linewidth=0.8, zorder=1)
    groups = (("mean_output", "training inputs", COLOURS[0], "o", COLOURS[0]),
              ("test_output", "test inputs", COLOURS[1], "D", "white"))
    residuals = []
    for name, words, colour, marker, face in groups:
        rows = table.isel(row=table.observable.values == name)
        if not rows.sizes["row"]:
            continue
        options: dict[str, Any] = dict(fmt=marker, color=colour, markerfacecolor=face, markersize=3.6,
                                       markeredgewidth=0.8, elinewidth=0.8, linestyle="none", zorder=3)
        above.errorbar(rows.predicted, rows.sampled, yerr=rows.mcse, label=words, **options)
        below.plot(rows.predicted, rows.z, marker, color=colour, markerfacecolor=face, markersize=3.2,
                   markeredgewidth=0.8, linestyle="none", zorder=3)
        residuals.append(np.abs(rows.z.values))
    from scipy.special import ndtri

    reach = float(ndtri(1 - level / (2 * max(table.sizes["row"], 1))))
    below.axhspan(-reach, reach, color="#E8EEF4", zorder=0, linewidth=0)
    below.axhline(0, color="#8A8A8A", linewidth=0.8, zorder=1)
    below.set_yscale("symlog", linthresh=10.0, linscale=1.5)
    largest = max([np.nanmax(r) for r in residuals if np.isfinite(r).any()] + [reach])
    low, high = below.get_ylim()
    if largest * 1.3 >= max(abs(low), high) or first:
        bound = 1.4 * max(largest, reach, 8.0)
        below.set_ylim(-bound, bound)
    top = below.get_ylim()[1]
    ticks = [0.0, *([5.0] if top < 60 else []), *(10.0**k for k in range(1, 7) if 10.0**k < top)]
    below.set_yticks(sorted({sign * tick for tick in ticks for sign in (-1, 1)}))
    below.yaxis.set_major_formatter(lambda value, _: f"{value + 0.0:g}")  # no -0
    below.minorticks_off()
    above.set_title(f"{label}: {verdict.status}")
    below.set_xlabel(r"predicted $\langle f\rangle$")
    if first:
        above.set_ylabel(r"sampled $\langle f\rangle$ (bars: 1 MCSE)")
        below.set_ylabel("residual\n(MCSE)")
        above.legend(loc="upper left", handletextpad=0.3, borderaxespad=0.2)


def error_against_width(table: xr.Dataset) -> Figure:
    """Relative error of ⟨f⟩ against the exact oracle as a function of N, one panel per scaling and number of samples.

    `table` is what `errors_against_width` computes: `error` over (scaling, regime, width, approximation).
    """
    error = table["error"]
    scalings, loads = list(map(str, table.scaling.values)), list(map(str, table.regime.values))
    size = (min(3.7 * len(scalings) + 1.9, 10.5), 3.3 * len(loads))
    with _figure(len(loads), len(scalings), size, sharex=True, sharey=True) as (figure, axes):
        for i, load in enumerate(loads):
            for j, scaling in enumerate(scalings):
                ax = axes[i, j]
                for k, name in enumerate(map(str, table.approximation.values)):
                    values = error.sel(scaling=scaling, regime=load, approximation=name)
                    ax.plot(table.width, values, label=name, color=COLOURS[k % 8], marker=MARKERS[k % 8],
                            linestyle=LINES[k % 8])
                ax.set_xscale("log")
                ax.set_yscale("log")
                ax.set_title(f"{scaling} scaling, {load}")
                _width_ticks(ax, table.width.values)
                _guide(ax, table.width.values, error.sel(scaling=scaling, regime=load).values)
                if i == len(loads) - 1:
                    ax.set_xlabel("width N")
                if j == 0:
                    ax.set_ylabel(r"relative error of $\langle f\rangle$")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def _width_ticks(ax: Axes, widths: Sequence[int]) -> None:
    ax.set_xticks(list(widths), [f"{int(N)}" for N in widths])
    ax.minorticks_off()


def _guide(ax: Axes, widths: np.ndarray, errors: np.ndarray) -> None:
    """A line of slope -1 above the data, to compare by eye."""
    if len(widths) < 2 or not np.isfinite(errors).any() or not np.nanmax(errors) > 0:
        return
    N = np.array([widths[0], widths[-1]], dtype=float)
    height = 6 * float(np.nanmax(errors))
    ax.plot(N, height * N[0] / N, color="#8A8A8A", linewidth=0.9, zorder=1)
    ax.annotate("1/N", (N[0], height), xytext=(12, 2), textcoords="offset points", color="#6A6A6A", fontsize=8)


def roots_against_chi(branches: xr.Dataset | Mapping[str, xr.Dataset], *, exact: tuple[Any, Any] | None = None,
                      readout_variance: float | None = None) -> Figure:
    """Every root of the equation of state on the way from standard (χ = 1) to mean-field scaling (χ = N).

    Stable roots are drawn solid, unstable ones dashed. `branches` is what `theory.branches` returns, or several
    by name. `exact` are pairs (χ, ⟨Q⟩) for comparison. With `readout_variance`, roots are shown relative to
    g = σ_a²/χ: the factor by which learning rescales the kernel.
    """
    named = {"root": branches} if isinstance(branches, xr.Dataset) else dict(branches)
    with _figure(1, 1, (6.2, 3.4)) as (figure, axes):
        ax = axes[0, 0]

        def shown(chi: np.ndarray, Q: np.ndarray) -> np.ndarray:
            return Q if readout_variance is None else Q * chi / readout_variance

        for k, (label, found) in enumerate(named.items()):
            chi = np.asarray(found["chi"].values, dtype=float)
            for branch in range(found.sizes.get("branch", 0)):
                one = found.isel(branch=branch)
                Q = shown(chi, np.asarray(one["order_parameter"].values, dtype=float))
                unstable = np.asarray(one["stability"].values).astype(str) == "unstable"
                solid, dashed = np.where(unstable, np.nan, Q), np.where(_widened(unstable), Q, np.nan)
                words = label if branch == 0 else None
                if np.isfinite(solid).any():
                    ax.plot(chi, solid, color=COLOURS[k % 8], label=words, linestyle="-")
                if np.isfinite(dashed).any():
                    ax.plot(chi, dashed, color=COLOURS[k % 8], linestyle=(0, (3, 2)), linewidth=1.2)
        if exact is not None:
            chi, Q = (np.asarray(part, dtype=float) for part in exact)
            ax.plot(chi, shown(chi, Q), "o", color="black", markerfacecolor="white", markersize=4.5, zorder=4,
                    label=r"exact $\langle Q\rangle$", linestyle="none")
        if readout_variance is not None:
            ax.axhline(1, color="#8A8A8A", linewidth=0.9, zorder=1)
            ax.annotate("infinite width: $Q = g$", (1, 1), xytext=(-4, 4), textcoords="offset points", ha="right",
                        xycoords=("axes fraction", "data"), color="#6A6A6A", fontsize=8)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel(r"$\chi$   (1: standard scaling, $N$: mean-field scaling)")
        ax.set_ylabel("order parameter" if readout_variance is None else r"root relative to $g=\sigma_a^2/\chi$")
        _plain_ticks(ax)
        _branch_legend(ax, named)
    return figure


def _widened(mask: np.ndarray) -> np.ndarray:
    """The mask and its neighbours, so that a dashed piece meets the solid one."""
    wide = mask.copy()
    wide[1:] |= mask[:-1]
    wide[:-1] |= mask[1:]
    return wide & mask.any()


def _plain_ticks(ax: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        decades = np.log10(high / low)
        few, more, many = (1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axis.set_major_locator(LogLocator(subs=few if decades > 2.5 else more if decades > 1 else many))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())


def _branch_legend(ax: Axes, named: Mapping[str, xr.Dataset]) -> None:
    from matplotlib.lines import Line2D

    handles, labels = ax.get_legend_handles_labels()
    if any((np.asarray(found["stability"].values).astype(str) == "unstable").any() for found in named.values()):
        handles += [Line2D([], [], color="#555555", linestyle=(0, (3, 2)), linewidth=1.2)]
        labels += ["unstable"]
    ax.legend(handles, labels, loc="best")
