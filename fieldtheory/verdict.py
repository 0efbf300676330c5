"""Prediction x Samples -> Verdict: does what was predicted agree with what was sampled, and how well could we tell?

Every observable that both know is compared: z = (sampled mean - prediction) / MCSE, with the prediction's own
Monte-Carlo error where a theory has one. A verdict is about all of them at once, so their p-values are corrected
together (Holm 1979); it is given only where the chains have mixed and hold enough effective samples; and it always
says how large a discrepancy would have been seen.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.special
import xarray as xr
from numpy.typing import NDArray

from fieldtheory.errors import BadInput
from fieldtheory.sampling import diagnostics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Status = Literal["kept", "rejected", "undecided"]

VECTORS = ("mean_output", "test_output")
SCALARS = ("discrepancy_along_target", "hidden_kernel_overlap", "readout_norm")
ALONG, VARIANCE = "mean_output_along_itself", "variance_along_mean_output"
#: What is compared, in the order of the table.
OBSERVABLES = (ALONG, VARIANCE, *SCALARS, *VECTORS)
WORDS = {
    ALONG: "mean output along its own direction",
    VARIANCE: "variance of f along ⟨f⟩",
    "discrepancy_along_target": "discrepancy y - ⟨f⟩ along the target",
    "hidden_kernel_overlap": "hidden kernel's overlap with the target",
    "readout_norm": "readout norm ⟨Σ aᵢ²⟩",
    "mean_output": "mean output, training inputs",
    "test_output": "mean output, test inputs",
}
POWER = 0.8
HEADER = ("observable", "predicted", "sampled", "MCSE", "ESS", "z", "p (Holm)", "could see")


@dataclass(frozen=True)
class Row:
    """One observable compared. `detectable` is the smallest discrepancy seen with 80 % power, in its units."""

    observable: str
    index: int
    predicted: float
    sampled: float
    mcse: float
    predicted_mcse: float
    ess: float
    rhat: float
    z: float
    p: float
    p_adjusted: float
    detectable: float
    detectable_relative: float

    @property
    def name(self) -> str:
        """The observable in words, with its entry."""
        words = WORDS.get(self.observable, self.observable)
        return words if self.index < 0 else f"{words} #{self.index}"


class Sampled:
    """Samples with the statistics that any prediction is compared with, computed once for many verdicts."""

    def __init__(self, samples: Any) -> None:
        try:
            posterior, target = samples["posterior"], samples["observed_data"]["target"]
            self.output = np.asarray(posterior["output"].values, dtype=float)
        except (KeyError, TypeError, AttributeError):
            expected = "samples with posterior['output'] and observed_data['target'], as `sample` returns"
            raise BadInput("samples", type(samples).__name__, expected) from None
        if self.output.ndim != 3 or self.output.shape[1] < 4:
            raise BadInput("samples", f"outputs of shape {self.output.shape}", "(chain, draw >= 4, sample)")
        self.attrs: Mapping[str, Any] = dict(posterior.attrs)
        self.target = np.asarray(target.values, dtype=float)
        self.series: dict[str, Array] = {"mean_output": self.output}
        for name in ("test_output", "hidden_kernel_overlap", "readout_norm"):
            if name in posterior:
                self.series[name] = np.asarray(posterior[name].values, dtype=float)
        if np.any(self.target):
            y = self.target
            self.series["discrepancy_along_target"] = (y - self.output) @ y / (y @ y)

    @cached_property
    def mean_output(self) -> Array:
        return self.output.mean(axis=(0, 1))

    @cached_property
    def statistics(self) -> dict[str, dict[str, Array]]:
        """Of every observable that does not depend on the prediction: mean, mcse, ess, rhat."""
        return {name: _statistics(values) for name, values in self.series.items()}

    def along(self, direction: Array) -> dict[str, dict[str, Array]]:
        """Statistics of v.f and of (v.(f - <f>))^2 for the unit vector v along `direction` (P,)."""
        v = direction / np.linalg.norm(direction)
        f = self.output @ v
        return {ALONG: _statistics(f), VARIANCE: _statistics((f - f.mean()) ** 2)}


def _statistics(values: Array) -> dict[str, Array]:
    return {
        "sampled": np.asarray(values.mean(axis=(0, 1))),
        "mcse": diagnostics.mcse(values),
        "ess": diagnostics.ess(values),
        "rhat": diagnostics.rhat(values),
    }


@dataclass(frozen=True)
class Verdict:
    """What `validate` found: `status` "kept", "rejected" or "undecided", and the `table` behind it.

    `table` is an xarray Dataset over `row`, with coordinates `observable` and `index` (-1 for a scalar) and
    the columns of `Row`. `reason` says in one sentence why.
    """

    theory: str
    status: Status
    reason: str
    level: float
    table: xr.Dataset = field(repr=False)
    prediction: xr.Dataset = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the samples keep the prediction. False as well where they cannot tell: see `status`."""
        return self.status == "kept"

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The table as a tuple of rows."""
        columns = [self.table[name].values.tolist() for name in ("observable", "index", *self.table.data_vars)]
        return tuple(Row(*row) for row in zip(*columns))

    @property
    def worst(self) -> Row | None:
        """The row with the largest |z|; None where nothing could be compared."""
        z = np.abs(self.table.z.values)
        return self.rows[int(np.nanargmax(z))] if np.isfinite(z).any() else None

    @property
    def rejected(self) -> tuple[str, ...]:
        """Observables with an entry whose adjusted p-value is below the level."""
        low = self.table.p_adjusted.values < self.level
        return tuple(name for name in OBSERVABLES if low[self.table.observable.values == name].any())

    def summary(self) -> list[Row]:
        """One row per observable: the entry with the largest |z|."""
        rows = []
        for name in OBSERVABLES:
            where = np.flatnonzero(self.table.observable.values == name)
            if len(where):
                z = np.nan_to_num(np.abs(self.table.z.values[where]), nan=np.inf)
                rows.append(self.rows[where[np.argmax(z)]])
        return rows

    def __str__(self) -> str:
        cells: list[tuple[str, ...]] = [HEADER]
        cells += [_cells(row) for row in self.summary()]
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
        return "\n".join([f"{self.theory}: {self.status}: {self.reason}", *lines, *map("note: {}".format, self.notes)])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in HEADER)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row)) + "</tr>"
                       for row in self.summary())
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return (f"<p><b>{html.escape(self.theory)}: {self.status}</b>: {html.escape(self.reason)}</p>"
                f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}")

    def plot(self) -> Figure:
        """The prediction against the samples, with residuals in standard errors."""
        from fieldtheory.export.plots import prediction_against_sample

        return prediction_against_sample({self.theory: self})


def _cells(row: Row) -> tuple[str, ...]:
    seen = f"{row.detectable:.2g}"
    if math.isfinite(row.detectable_relative):
        seen += f" ({100 * row.detectable_relative:.2g} %)"
    own = f" ± {row.predicted_mcse:.1g}" if row.predicted_mcse > 0 else ""
    return (row.name, f"{row.predicted:.5g}{own}", f"{row.sampled:.5g}", f"{row.mcse:.1g}", f"{row.ess:.0f}",
            f"{row.z:+.1f}", f"{row.p_adjusted:.2g}", seen)


def validate(prediction: xr.Dataset, samples: Any, *, level: float = 0.01,
             minimum_ess: float = diagnostics.MINIMUM_ESS, maximum_rhat: float = diagnostics.MAXIMUM_RHAT) -> Verdict:
    """Compare a prediction with samples, observable by observable.

    Compared, where both have them: <f> at every training and test input, <f> along its own predicted direction
        v, the variance v.Cov(f).v, the discrepancy along the target, the hidden kernel's overlap, the readout
        norm. z = (sampled - predicted)/MCSE; p two-sided and normal, adjusted by Holm's method over all rows.
        Where the prediction has a Monte-Carlo error of its own (``<name>_mcse``, from a few ensembles) it is added in
        squares, and p is of Student's t with Welch's degrees of freedom.
    Verdict: "rejected" when an adjusted p-value is below `level`: for a true prediction this happens with
        probability at most `level`, however the rows are correlated. Before that, "undecided" when fewer than
        `minimum_ess` effective samples stand behind any row or R-hat exceeds `maximum_rhat` in any (then
        neither agreement nor disagreement means anything), or where there is no prediction to compare.
    Power: `detectable` is (z at level/(2 rows) + z at 80 %) errors, the Bonferroni bound; relative to the
        prediction, or to the root mean square over the entries of a vector.
    Arguments: `prediction` in the layout of `exact.linear`; `samples` as `sample` returns them, or a `Sampled`
        where many predictions meet the same samples.
    Validity: the law of large numbers of a chain that has mixed; some hundred effective samples for the normal
        law. The variance is about the sampled mean, whose error adds a relative 1/ESS.
    Errors: BadInput naming the argument, for shapes that disagree or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise BadInput("level", level, "a number between 0 and 1")
    if not isinstance(prediction, xr.Dataset) or "mean_output" not in prediction:
        raise BadInput("prediction", type(prediction).__name__, "an xarray Dataset with mean_output")
    sampled = samples if isinstance(samples, Sampled) else Sampled(samples)
    for name in VECTORS:
        if name in prediction and name in sampled.series:
            want, given = sampled.series[name].shape[2:], prediction[name].shape
            if want != given:
                raise BadInput("prediction", f"{name} of shape {given}", f"{want}, as the samples")
    predicted = {name: np.asarray(prediction[name].values, dtype=float) for name in OBSERVABLES if name in prediction}
    statistics = {name: found for name, found in sampled.statistics.items() if name in predicted}
    mean, status = predicted["mean_output"], str(prediction.attrs.get("status", "ok"))
    direction = mean if np.all(np.isfinite(mean)) else np.zeros_like(mean)
    if np.linalg.norm(direction) > 0:
        predicted[ALONG] = np.asarray(np.linalg.norm(direction))
        statistics |= {k: v for k, v in sampled.along(direction).items() if k in predicted}
    errors = {name: np.asarray(prediction[f"{name}_mcse"].values, dtype=float) for name in predicted
              if f"{name}_mcse" in prediction}
    if ALONG in predicted and "mean_output" in errors:  # errors of entries are correlated: their sum is the most
        errors[ALONG] = np.asarray(np.abs(direction) @ errors["mean_output"] / np.linalg.norm(direction))
    table = _table(predicted, errors, statistics, level, float(prediction.attrs.get("ensembles", np.inf)) - 1)
    attributes = {key: value for key, value in prediction.attrs.items() if isinstance(value, str | int | float)}
    verdict = _judge(table, level, minimum_ess, maximum_rhat, status)
    return Verdict(_label(attributes), *verdict, level, table.assign_attrs(level=level, rows=table.sizes["row"]),
                   prediction, _notes(attributes, sampled.attrs))


def _label(attributes: Mapping[str, Any]) -> str:
    words = [str(attributes.get("theory", "prediction"))]
    if attributes.get("view"):
        words.append(str(attributes["view"]))
    if isinstance(attributes.get("loops"), int):
        words.append(f"{attributes['loops']} loop{'' if attributes['loops'] == 1 else 's'}")
    return ", ".join(words)


def _table(predicted: Mapping[str, Array], errors: Mapping[str, Array], statistics: Mapping[str, Mapping[str, Array]],
           level: float, freedom: float) -> xr.Dataset:
    columns: dict[str, list[Any]] = {}
    names: list[str] = []
    for name in OBSERVABLES:
        # Where the direction has no length, its variance is NaN, and there is nothing to compare.
        if name not in statistics or (name == VARIANCE and np.isnan(predicted[name]) and ALONG not in predicted):
            continue
        value = np.atleast_1d(predicted[name])
        size = np.sqrt(np.mean(value**2))
        found = {key: np.atleast_1d(array) for key, array in statistics[name].items()}
        names += [name] * len(value)
        entries = {"index": np.arange(len(value)) if predicted[name].ndim else np.array([-1]), "predicted": value,
                   "predicted_mcse": np.broadcast_to(errors.get(name, 0.0), value.shape), **found,
                   "size": np.full(len(value), size)}
        for key, array in entries.items():
            columns.setdefault(key, []).append(array)
    flat = {key: np.concatenate(arrays) for key, arrays in columns.items()}
    count = len(names)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.hypot(flat["mcse"], flat["predicted_mcse"])
        z = (flat["sampled"] - flat["predicted"]) / error
        own = flat["predicted_mcse"] > 0
        degrees = np.where(own, freedom * (error / flat["predicted_mcse"])**4, np.inf)  # Welch (1947), of many draws
        p = 2 * scipy.special.stdtr(degrees, -np.abs(z))
        quantile = -scipy.special.stdtrit(degrees, level / (2 * count))
        reach = (quantile + scipy.special.ndtri(POWER)) * error
        relative = np.where(flat["size"] > 0, reach / flat["size"], np.nan)
    data = {key: flat[key] for key in ("predicted", "sampled", "mcse", "predicted_mcse", "ess", "rhat")}
    data |= {"z": z, "p": p, "p_adjusted": holm(p), "detectable": reach, "detectable_relative": relative}
    return xr.Dataset({key: ("row", array) for key, array in data.items()},
                      coords={"observable": ("row", names), "index": ("row", flat["index"])})


def holm(p: Array) -> Array:
    """Holm's adjusted p-values: below a level exactly where the step-down test at that level rejects.

    The probability of any false rejection is then at most the level, under any dependence (Holm, Scand. J.
    Stat. 6, 65, 1979). NaN stays NaN and counts for nothing.
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return adjusted


def _judge(table: xr.Dataset, level: float, minimum_ess: float, maximum_rhat: float, status: str) -> tuple[Status, str]:
    if not np.isfinite(table.predicted.values).all():
        missing = sorted(set(table.observable.values[~np.isfinite(table.predicted.values)]))
        why = f" ({status})" if status != "ok" else ""
        return "undecided", f"no prediction{why} of {', '.join(WORDS[name] for name in missing)}"
    ess, rhat = table.ess.values, table.rhat.values
    if short := diagnostics.shortfall(ess, rhat, minimum_ess, maximum_rhat):
        statistic, worst = short
        name = WORDS[str(table.observable.values[worst])]
        if statistic == "ess":
            return "undecided", (f"too few effective samples: {ess[worst]:.0f} of {name}, "
                                 f"where at least {minimum_ess:g} are needed")
        return "undecided", (f"the chains disagree with each other: R-hat {rhat[worst]:.3f} of {name}, "
                             f"where at most {maximum_rhat:g} is allowed")
    z, count = np.abs(table.z.values), table.sizes["row"]
    if not np.isfinite(z).all():
        return "undecided", "an observable did not vary at all over the samples"
    k = int(np.argmax(z))
    name, low = WORDS[str(table.observable.values[k])], int((table.p_adjusted.values < level).sum())
    extent = f"|z| up to {z[k]:.1f} ({name})"
    if low:
        return "rejected", f"{low} of {count} observables differ at level {level:g}, {extent}"
    return "kept", f"no difference in {count} observables at level {level:g}, {extent}"


def _notes(prediction: Mapping[str, Any], samples: Mapping[str, Any]) -> tuple[str, ...]:
    """What the two say about themselves and do not agree on."""
    keys = ("width", "scaling", "readout_variance", "weight_variance", "noise_variance", "bias_variance", "prior",
            "dataset")
    notes = [f"the prediction is for {key} = {prediction[key]}, the samples for {samples[key]}"
             for key in keys if key in prediction and key in samples and prediction[key] != samples[key]]
    if prediction.get("status", "ok") != "ok":
        notes.append(f"the prediction's own status: {prediction['status']}")
    if not samples.get("accept_test", 1):
        notes.append("the samples were drawn without accept test, and carry a bias of their own")
    return tuple(notes)
