"""Draw the figures of the README and of these pages: `make docs-figures` (less than a minute).

Everything is computed here: data are drawn or bundled, chains run, nothing is read from a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import fieldtheory as ft
from fieldtheory.console import phase_counting, phase_figure
from fieldtheory.export.plots import LINES, MARKERS, STYLE, roots_against_chi, svg
from fieldtheory.export.study import normalised_branches
from fieldtheory.verdict import validate

STATIC = Path(__file__).parent / "_static"
WIDTHS = (50, 100, 200, 400, 800)
SEEDS = range(4)
NET = ft.Network(width=100, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0)
#: Label: theory, options, and how far its label is shifted up so that it covers no other.
ORDERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "NNGP": ("nngp", {}, 0),
    "j, tree level": ("linear", {"view": "adaptation", "loops": 0}, 7),
    "j, one loop": ("linear", {"view": "adaptation", "loops": 1}, -5),
    "Q, saddle": ("linear", {"view": "rescaling", "loops": 0}, 0),
    "Q, 1 loop": ("linear", {"view": "rescaling", "loops": 1}, 0),
    "Q, 2 loops": ("linear", {"view": "rescaling", "loops": 2}, 0),
    "Q, 3 loops": ("linear", {"view": "rescaling", "loops": 3}, 0),
}
STYLES = dict(zip(ORDERS, zip(("#D55E00", "#000000", "#009E73", "#0072B2", "#CC79A7", "#B37C00", "#56B4E9"),
                              MARKERS, LINES)))  # fmt: skip


def write(name: str, figure: Figure) -> None:
    (STATIC / name).write_text(svg(figure) + "\n", encoding="utf-8")
    print(f"docs/_static/{name}")


def prediction_against_samples(above: Any, below: Any) -> None:
    """⟨f⟩ on two classes of digits, mean-field scaling, N = P = 100: the fixed kernel and the Q saddle."""
    net = NET.replace(scaling=ft.Scaling.mean_field())
    data = ft.tasks.digits((3, 8), samples=100, test_samples=40)
    samples = ft.sample(net, data, method="hmc", chains=8, draws=1000, seed=0)
    above.axline((0, 0), slope=1, color="#8A8A8A", linewidth=0.8, zorder=1)
    for label in ("NNGP", "Q, saddle"):
        name, options, _ = ORDERS[label]
        table = validate(ft.theories[name](net, **options).predict(data), samples).table
        rows = table.isel(row=np.isin(table.observable.values, ("mean_output", "test_output")))
        colour, marker, _ = STYLES[label]
        style = dict(color=colour, markersize=3.4, linestyle="none", markeredgewidth=0)
        above.plot(rows.predicted, rows.sampled, marker, label=label, **style)
        below.plot(rows.predicted, rows.z, marker, **style)
    above.set_ylabel(r"sampled $\langle f\rangle$")
    above.set_title("prediction against chains (digits 3 and 8)\nmean-field scaling, N = P = 100")
    above.legend(loc="upper left", handletextpad=0.2)
    below.axhspan(-4, 4, color="#E8EEF4", zorder=0, linewidth=0)
    below.set_yscale("symlog", linthresh=10.0)
    below.set_yticks([-1000, -100, -10, 0, 10, 100, 1000], ["−1000", "−100", "−10", "0", "10", "100", "1000"])
    below.minorticks_off()
    below.set_ylabel("difference\n(standard errors)")
    below.set_xlabel(r"predicted $\langle f\rangle$")


def errors(ax: Any) -> None:
    """Relative error of ⟨f⟩ at standard scaling, P = 0.6 N, for every order; the mean over some data sets."""
    theories = {label: ft.theories[name](NET, **options) for label, (name, options, _) in ORDERS.items()}
    found = {label: np.zeros(len(WIDTHS)) for label in theories}
    for k, N in enumerate(WIDTHS):
        for seed in SEEDS:
            data = ft.tasks.ising(samples=round(0.6 * N), input_dim=round(0.8 * N), seed=seed)
            exact = ft.exact.linear(NET, data, width=N).mean_output.values
            for label, theory in theories.items():
                predicted = theory.predict(data, width=N, outputs=["mean_output"]).mean_output.values
                found[label][k] += np.linalg.norm(predicted - exact) / np.linalg.norm(exact) / len(SEEDS)
    for label, values in found.items():
        colour, marker, line = STYLES[label]
        slope = round(float(np.log(values[-1] / values[1]) / np.log(WIDTHS[-1] / WIDTHS[1])), 1) + 0.0
        ax.plot(WIDTHS, values, color=colour, marker=marker, linestyle=line)
        ax.annotate(f"{label}:  $N^{{{slope:g}}}$", (WIDTHS[-1], values[-1]), xytext=(9, ORDERS[label][2]),
                    textcoords="offset points", va="center", color=colour, fontsize=8.5)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(WIDTHS, [str(N) for N in WIDTHS])
    ax.minorticks_off()
    ax.set_xlabel("width N")
    ax.set_ylabel(r"relative error of $\langle f\rangle$")
    ax.set_title("every order against the exact oracle (±1 inputs)\nstandard scaling, P = 0.6 N")


def overview() -> None:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.2, 4.5), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=[1, 1.2], wspace=0.04)
        prediction_against_samples(*left.subplots(2, 1, sharex=True, height_ratios=[3, 1.5]))
        errors(right.subplots())
        write("overview.svg", figure)


def branches() -> None:
    """The case with three saddle points of Q, followed through standard (χ = 1) to mean-field scaling (χ = N)."""
    eigenvalues, targets = np.r_[np.ones(100), 0.02], np.r_[np.zeros(100), 2.0]
    data = ft.Dataset.from_kernel(np.diag(eigenvalues), targets)
    net = NET.replace(width=50, noise_variance=0.01)
    theory = ft.theories["linear"](net, view="rescaling", loops=0)
    found = theory.branches(data, along="chi", values=np.geomspace(0.4, 50, 300))
    points = np.geomspace(0.4, 50, 12)
    exact = [float(ft.exact.linear(net.along(chi), data).readout_norm) for chi in points]
    write("branches.svg", roots_against_chi({"saddle of Q": normalised_branches(found)}, exact=(points, exact),
                                            readout_variance=1.0))  # fmt: skip


def phases() -> None:
    """Where the saddle in j of the linear network suffices, from the inequalities that the power counting finds."""
    theory = ft.theories["linear"](ft.Network(scaling=ft.Scaling()), view="adaptation", loops=0)
    write("phases.svg", phase_figure(phase_counting(theory), "delta", "0,1/2,1"))


if __name__ == "__main__":
    STATIC.mkdir(exist_ok=True)
    phases()
    overview()
    branches()
