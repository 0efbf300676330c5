"""What a report shows, computed: every approximation of a theory beside the exact oracle and the samples.

A theory file says which views and orders it has by accepting them; nothing here knows a theory by name, except
for the words in `LABELS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from fieldtheory import exact as oracle
from fieldtheory import tasks
from fieldtheory.catalogue import theories
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, FieldTheoryError, RuleError, UnknownName
from fieldtheory.network import Network, Scaling
from fieldtheory.theory import Theory
from fieldtheory.verdict import Sampled, Verdict, validate

LABELS = {
    ("adaptation", 0): "tree level", ("adaptation", 1): "one loop",
    ("rescaling", 0): "Q saddle", ("rescaling", 1): "Q saddle + 1 loop",
    ("rescaling", 2): "Q saddle + 2 loops", ("rescaling", 3): "Q saddle + 3 loops",
}  # fmt: skip
BASELINE = ("nngp", "NNGP")
MOST_LOOPS = 3
ROUNDING = 1e-14
#: Samples of the error tables: a number, or a fraction of the width.
LOADS: dict[str, float] = {"P = 20": 20, "P = 0.6N": 0.6}
INPUTS_PER_WIDTH = 0.8

Note = Callable[[str], None]


def label_of(theory: Theory) -> str:
    """How an approximation is called in tables."""
    if (theory.view, theory.loops) in LABELS:
        return LABELS[theory.view, theory.loops]
    if theory.name == BASELINE[0]:
        return BASELINE[1]
    view = f", {theory.view}" if theory.view else ""
    order = f", {theory.loops} loop{'' if theory.loops == 1 else 's'}" if theory.view or theory.loops else ""
    return theory.name + view + order


def views(name: str, net: Network) -> tuple[str, ...]:
    """The views that a theory offers: (\"\",) where it has none."""
    if "view" not in inspect.signature(theories[name]).parameters:
        return ("",)
    try:
        theories[name](net, view="?")
    except UnknownName as error:  # which lists what there is
        return error.choices
    return ("",)


def approximations(name: str, net: Network, note: Note = lambda text: None) -> dict[str, Theory]:
    """Every approximation that a theory offers for a network, by label, after the infinitely wide network.

    Errors: UnknownName for a theory that does not exist; whatever the theory raises for a network that it does
        not apply to.
    """
    found: list[Theory] = []
    if name != BASELINE[0] and BASELINE[0] in theories:
        try:
            found.append(theories[BASELINE[0]](net))
        except (RuleError, BadInput) as error:  # a prior that it is not for, or an activation that no rule takes
            note(f"{BASELINE[1]} left out: {error}")
    has_loops = "loops" in inspect.signature(theories[name]).parameters
    for view in views(name, net):
        options: dict[str, Any] = {"view": view} if view else {}
        for loops in range(MOST_LOOPS + 1) if has_loops else (None,):
            try:
                found.append(theories[name](net, **options, **({} if loops is None else {"loops": loops})))
            except BadInput:  # the order is not known in this view
                if not loops:
                    raise
                break
    return {label_of(theory): theory for theory in found}


def predict(theory: Theory, data: Dataset, **options: Any) -> tuple[xr.Dataset | None, str]:
    """A prediction, or None with the reason why there is none (no root, for instance)."""
    try:
        return theory.predict(data, **options), ""
    except BadInput:
        raise
    except FieldTheoryError as error:
        return None, str(error)


def relative_error(prediction: xr.Dataset | None, truth: xr.Dataset | None) -> float:
    """|<f> - <f>_exact| / |<f>_exact| over the training inputs; NaN where either is missing."""
    if prediction is None or truth is None:
        return float("nan")
    size = float(np.linalg.norm(truth.mean_output))
    return float(np.linalg.norm(prediction.mean_output - truth.mean_output)) / size if size else float("nan")


# --------------------------------------------------------------------------------------------- errors and roots


def errors_against_width(
    found: Mapping[str, Theory], *, widths: Sequence[int] = (100, 400, 1600), seeds: Sequence[int] = (0,),
    scalings: Mapping[str, Scaling] | None = None, loads: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:  # fmt: skip
    """Relative L2 error of <f> on the training inputs against the exact oracle, on Ising-like data of our drawing.

    Inputs are ±1, labels the sign of a random direction, D = 0.8 N. Shapes: `error` and its `spread` (the
    standard deviation over `seeds`; the error is their mean) over (scaling, regime, width, approximation), NaN
    where there is no solution; `error` of a single seed is over (.., seed) in `errors`. `regime` says the number of
    samples, fixed or as a fraction of N.

    Errors: BadInput for widths that are not positive integers, or too small for one sample and one input.
    """
    scalings = scalings or {"standard": Scaling.standard(), "mean-field": Scaling.mean_field()}
    loads = dict(loads or LOADS)
    if not widths or any(int(N) != N or N < 2 for N in widths):
        raise BadInput("widths", list(widths), "integers >= 2")
    if not seeds:
        raise BadInput("seeds", list(seeds), "at least one seed")
    widths = sorted({int(N) for N in widths})
    shape = (len(scalings), len(loads), len(widths), len(found), len(seeds))
    errors, done, total = np.full(shape, np.nan), 0, int(np.prod(shape[:3])) * len(seeds)
    nets = {name: next(iter(found.values())).network.replace(scaling=scaling) for name, scaling in scalings.items()}
    shifted = {(name, label): theory.with_network(net) for name, net in nets.items() for label, theory in found.items()}
    for j, load in enumerate(loads.values()):
        for k, N in enumerate(widths):
            for m, seed in enumerate(seeds):
                data = tasks.ising(_count(load, N), _count(INPUTS_PER_WIDTH, N), seed=seed)
                for i, (name, net) in enumerate(nets.items()):
                    truth = oracle.linear(net, data, width=N)
                    for n, label in enumerate(found):
                        prediction, _ = predict(shifted[name, label], data, width=N, outputs=["mean_output"])
                        errors[i, j, k, n, m] = relative_error(prediction, truth)
                    done += 1
                    progress(done, total)
    dims = ("scaling", "regime", "width", "approximation")
    with np.errstate(invalid="ignore"):
        spread = errors.std(axis=-1, ddof=1) if len(seeds) > 1 else np.full(shape[:-1], np.nan)
    return xr.Dataset(
        {"error": (dims, errors.mean(axis=-1)), "spread": (dims, spread), "errors": ((*dims, "seed"), errors)},
        coords={"scaling": list(scalings), "regime": list(loads), "width": widths, "approximation": list(found),
                "seed": list(seeds)},
        attrs={"quantity": "relative L2 error of the mean training output against the exact oracle",
               "data": "ising", "input_dim": f"{INPUTS_PER_WIDTH:g} N"}
        | {name: float(getattr(next(iter(nets.values())), name))
           for name in ("readout_variance", "weight_variance", "noise_variance")},
    )  # fmt: skip


def _count(load: float, width: int) -> int:
    return max(1, round(load * width)) if load < 1 else int(load)


def local_exponent(table: xr.Dataset) -> xr.DataArray:
    """-d ln(error)/d ln N between the two largest widths; NaN where rounding is what is left of the error."""
    if table.sizes["width"] < 2:
        return table["error"].isel(width=0, drop=True) * np.nan
    last, before = table["error"].isel(width=-1, drop=True), table["error"].isel(width=-2, drop=True)
    N = table.width.values
    return (-np.log(last / before) / np.log(N[-1] / N[-2])).where(last > ROUNDING)


def roots(found: Mapping[str, Theory], data: Dataset, exact_points: int = 9) -> tuple[dict[str, xr.Dataset], Any]:
    """All roots against χ of every approximation without loops that can follow them, and (χ, exact ⟨Q⟩)."""
    branches = {}
    for label, theory in found.items():
        if theory.loops or theory.name == BASELINE[0]:
            continue
        try:
            branches[label] = normalised_branches(theory.branches(data, along="chi"))
        except FieldTheoryError:  # this view has no scalar whose branches can be followed
            continue
    if not branches:
        return {}, None
    net = next(iter(found.values())).network
    if net.activation != "identity":
        return branches, None
    chi = np.geomspace(1.0, net.resolve_width(), exact_points)
    return branches, (chi, np.array([float(oracle.linear(net.along(x), data).readout_norm) for x in chi]))


def normalised_branches(branches: xr.Dataset) -> xr.Dataset:
    """With the unknown under the name `order_parameter`, and `stability` in words."""
    unknown = str(branches.attrs.get("order_parameter", ""))
    if unknown in branches and "order_parameter" not in branches:
        branches = branches.rename({unknown: "order_parameter"})
    stability = branches["stability"]
    if stability.dtype.kind == "f":
        words = np.select([stability > 0, stability < 0, stability == 0], ["stable", "unstable", "marginal"], "")
        branches = branches.assign(stability=(stability.dims, words))
    return branches


# -------------------------------------------------------------------------------------------------------- study


@dataclass(frozen=True)
class Result:
    """One approximation: what it predicts, its error against the exact mean, and the verdict of the samples.

    `reach` is its largest error against the oracle in units of the smallest error that the samples could have
    seen (80 % power): far above 1 it should be rejected, far below it cannot be.
    """

    label: str
    prediction: xr.Dataset | None
    verdict: Verdict | None
    error: float
    note: str = ""
    reach: float = float("nan")

    @property
    def status(self) -> str:
        return self.verdict.status if self.verdict is not None else "no prediction"


@dataclass(frozen=True)
class Counted:
    """What the engine's power counting says of a saddle: the largest correction is of order N^exponent, relative."""

    label: str
    load: str
    correction: str
    exponent: Any
    suffices: bool


@dataclass(frozen=True)
class Study:
    """Everything a report shows."""

    name: str
    network: Network
    data: Dataset
    level: float
    found: Mapping[str, Theory]
    results: tuple[Result, ...]
    exact: Result | None
    sampled: Sampled
    sampling: Mapping[str, Any]
    counted: tuple[Counted, ...] = ()
    verification: Mapping[str, Any] = field(default_factory=dict)
    errors: xr.Dataset | None = None
    branches: Mapping[str, xr.Dataset] = field(default_factory=dict)
    exact_roots: Any = None
    view: str = ""

    def __iter__(self) -> Iterator[Result]:
        yield from self.results
        if self.exact is not None:
            yield self.exact

    def labels(self, status: str) -> list[str]:
        """Approximations with that status, the oracle not among them."""
        return [result.label for result in self.results if result.status == status]


def judge(found: Mapping[str, Theory], net: Network, data: Dataset, sampled: Sampled,
          level: float) -> tuple[tuple[Result, ...], Result | None]:
    """Predictions of every approximation and of the oracle, each with its verdict."""
    truth = oracle.linear(net, data) if net.activation == "identity" else None

    best = None if truth is None else validate(truth, sampled, level=level)

    def result(label: str, prediction: xr.Dataset | None, note: str) -> Result:
        verdict = None if prediction is None else validate(prediction, sampled, level=level)
        return Result(label, prediction, verdict, relative_error(prediction, truth), note, reach(verdict, best))

    results = tuple(result(label, *predict(theory, data)) for label, theory in found.items())
    return results, None if truth is None else Result("exact", truth, best, 0.0, "", 0.0)


def reach(verdict: Verdict | None, truth: Verdict | None) -> float:
    """Largest |prediction - truth| / detectable over the observables that both verdicts compare."""
    if verdict is None or truth is None:
        return float("nan")
    known = {(row.observable, row.index): row.predicted for row in truth}
    ratios = [abs(row.predicted - known[row.observable, row.index]) / row.detectable
              for row in verdict if (row.observable, row.index) in known and row.detectable > 0]
    return max(ratios, default=float("nan"))


def count_powers(found: Mapping[str, Theory], scaling: Scaling) -> tuple[Counted, ...]:
    """Where a saddle suffices at this scaling, for P = O(1) and P ∝ N, by the engine's own counting."""
    rows = []
    for label, theory in found.items():
        if theory.loops or theory.name == BASELINE[0] or not scaling.is_numeric:
            continue
        try:
            counting = theory.power_counting()
            for load, p in (("P = O(1)", 0), ("P ∝ N", 1)):
                report = counting.saddle_suffices(gamma=scaling.readout, delta=scaling.noise, p=p)
                rows.append(Counted(label, load, report.correction, report.relative_order, report.suffices))
        except FieldTheoryError:  # nothing to count, or no balance at this point
            continue
    return tuple(rows)


def representatives(found: Mapping[str, Theory]) -> dict[str, Theory]:
    """One theory per view, for its derivation: at one loop, or the saddle where the view knows no loops."""
    chosen: dict[str, Theory] = {}
    for theory in found.values():
        if theory.name == BASELINE[0] and len(found) > 1:
            continue
        known = chosen.get(theory.view)
        if known is None or (known.loops == 0 and theory.loops == 1):
            chosen[theory.view] = theory
    return chosen


def diagnostics(samples: Any, sampled: Sampled) -> dict[str, Any]:
    """What is reported of the chains: sizes, acceptance, step, smallest ESS and largest R-hat per observable."""
    stats = samples["sample_stats"]
    found: dict[str, Any] = {"chains": sampled.output.shape[0], "draws": sampled.output.shape[1]}
    for name in ("acceptance_rate", "step_size", "n_steps"):
        if name in stats:
            found[name] = float(np.mean(stats[name].values))
    if "diverging" in stats:
        found["diverging"] = int(np.sum(stats["diverging"].values))
    found |= {name: sampled.attrs[name] for name in ("method", "seed", "thin") if name in sampled.attrs}
    direction = sampled.mean_output
    table = dict(sampled.statistics)
    if np.linalg.norm(direction) > 0:
        table |= sampled.along(direction)
    found["observables"] = {name: {"ess": float(np.min(x["ess"])), "rhat": float(np.max(x["rhat"])),
                                   "mcse": float(np.max(x["mcse"]))} for name, x in table.items()}
    found["smallest_ess"] = min(x["ess"] for x in found["observables"].values())
    found["largest_rhat"] = max(x["rhat"] for x in found["observables"].values())
    return found
