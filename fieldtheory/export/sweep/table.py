"""The results of a sweep as one xarray Dataset, and averages of it over the seeds of the data."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import xarray as xr

from fieldtheory.errors import UnknownName
from fieldtheory.export.sweep.settings import PER_INPUT, QUANTITIES, Sweep

SEED = "seed"
CERTIFICATES = {"R-hat": (("rhat",), np.max, ".4g"), "effective samples": (("ess", "particle_ess"), np.min, ".0f"),
                "residual": (("residual",), np.max, ".1g")}
"""Numbers that certify a result: where they stand, which of several is the worst, and how many digits are shown."""
PACKAGES = ("bayes-fieldtheory", "numpy", "numba", "sympy")


def table_of(sweep: Sweep, records: Sequence[Mapping[str, Any]]) -> xr.Dataset:
    """Records, point by point and approximation by approximation, as variables over (axes.., approximation)."""
    labels = sweep.labels
    dims = (*sweep.axes, "approximation")
    shape = (*map(len, sweep.axes.values()), len(labels))
    inputs = max((len(record["values"][name]) for record in records for name in PER_INPUT if name in record["values"]),
                 default=0)

    def collect(part: str, name: str) -> Any:
        given = [record[part].get(name) for record in records]
        if name not in PER_INPUT:
            return dims, np.array([np.nan if value is None else value for value in given]).reshape(shape)
        array = np.full((len(records), inputs), np.nan)
        for row, value in zip(array, given):
            if value is not None:
                row[: len(value)] = value  # the number of inputs may be an axis
        return (*dims, "input"), array.reshape(*shape, inputs)

    variables: dict[str, Any] = {}
    for name in sweep.outputs:
        givers = {record["approximation"] for record in records if name in record["values"]}
        if not givers:
            continue
        about = {"long_name": QUANTITIES[name], "not_given_by": json.dumps([x for x in labels if x not in givers],
                                                                           ensure_ascii=False)}
        variables[name] = (*collect("values", name), about)
        if any(name in record["errors"] for record in records):
            words = "Monte-Carlo standard error; for theories with particles the most that it can be"
            variables[f"{name}_mcse"] = (*collect("errors", name), {"long_name": f"{words}, of {name}"})
    for name in sorted({name for record in records for name in record["numbers"]}):
        variables[name] = collect("numbers", name)
    for name in ("state", "reason"):
        variables[name] = dims, np.array([record[name] for record in records], dtype=object).reshape(shape)
    for name in ("seconds", "cpu_seconds"):
        variables[name] = dims, np.array([record[name] for record in records]).reshape(shape)
    coords = {name: _coordinate(values) for name, values in sweep.axes.items()} | {"approximation": labels}
    theories = {a.label: {"name": a.theory, **a.options} for a in sweep.approximations}
    return xr.Dataset(variables, coords=coords, attrs={
        "title": sweep.title or f"{sweep.task['name']}, {sweep.network.get('activation', 'identity')}",
        "task": json.dumps(dict(sweep.task), default=str), "network": json.dumps(dict(sweep.network), default=str),
        "axes": json.dumps({name: list(values) for name, values in sweep.axes.items()}, default=str),
        "theories": json.dumps(theories, default=str), "sampling": json.dumps(sweep.sampling and dict(sweep.sampling)),
        "sampled": "" if sweep.sampling is None else str(sweep.sampling["label"]), "versions": _versions(),
    })  # fmt: skip


def _coordinate(values: Sequence[Any]) -> list[Any]:
    """Numbers as they are; anything else in words."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return list(values)
    return [value if isinstance(value, str) else
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
            for value in values]


def _versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # run from a source tree
            continue
    return ", ".join(found)


def over_seeds(table: xr.Dataset, quantity: str) -> xr.Dataset:
    """The mean of a quantity over the seeds of the data, and its error: `mean`, `error`, `count`, `sound`.

    ``error`` is the standard error over the seeds that have a value; with one seed, the Monte-Carlo error where there
    is one, else NaN. ``count`` is how many have one, and ``sound`` says whether that is all, none with a reservation.
    """
    if quantity not in table:
        raise UnknownName("quantity", quantity, [str(name) for name in table.data_vars])
    values = table[quantity]
    sound = table["state"] == "ok"
    mcse = table.get(f"{quantity}_mcse", values * np.nan)
    if SEED not in values.dims:
        return xr.Dataset({"mean": values, "error": mcse, "count": values.notnull().astype(int),
                           "sound": sound & values.notnull()})
    count = values.notnull().sum(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means and deviations of nothing, which are no numbers
        mean, alone = values.mean(SEED), mcse.mean(SEED)
        error = (values.std(SEED, ddof=1) / np.sqrt(count)).where(count > 1, alone)
    return xr.Dataset({"mean": mean, "error": error, "count": count, "sound": (sound & values.notnull()).all(SEED)})


def rows(table: xr.Dataset, quantities: Sequence[str]) -> list[list[str]]:
    """For a terminal: a line for each quantity at each combination of axes but the seed, a column per approximation.

    The last lines of a combination certify it, by the worst over the seeds: R-hat of chains, effective samples of
    chains and of the energy of particles, the residual of theories.
    """
    axes = [name for name in json.loads(table.attrs["axes"]) if name != SEED]
    quantities = [name for name in quantities if name in table]
    averaged = {name: over_seeds(table, name) for name in quantities}
    labels = [str(label) for label in table.approximation.values]
    head = [*axes, "quantity", *labels]
    lines = [head]
    for place in np.ndindex(*(table.sizes[name] for name in axes)):
        where = dict(zip(axes, place))
        for name in quantities:
            one = averaged[name].isel(where)
            cells = [_cell(one.sel(approximation=label)) for label in labels]
            lines.append([*(_text(table[axis].values[k]) for axis, k in where.items()), name.replace("_", " "), *cells])
        one = table.isel(where)
        for word in CERTIFICATES:
            cells = [_certificate(one.sel(approximation=label), word) for label in labels]
            if set(cells) != {"-"}:
                lines.append([*(_text(table[axis].values[k]) for axis, k in where.items()), word, *cells])
    return lines


def _certificate(one: xr.Dataset, word: str) -> str:
    """The worst over the seeds."""
    names, worst, digits = CERTIFICATES[word]
    values = np.concatenate([one[name].values.ravel() for name in names if name in one] or [np.zeros(0)])
    values = values[np.isfinite(values)]
    return f"{worst(values):{digits}}" if values.size else "-"


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{value:g}"


def _cell(one: xr.Dataset) -> str:
    mean, error = float(one["mean"]), float(one["error"])
    if not np.isfinite(mean):
        return "-"
    return f"{mean:.4g}" + (f" ± {error:.1g}" if np.isfinite(error) else "") + ("" if bool(one["sound"]) else " ?")


def reservations(table: xr.Dataset) -> list[str]:
    """What is doubtful, failed or not covered: one line for each approximation and kind, with one reason."""
    lines = []
    for label in map(str, table.approximation.values):
        one = table.sel(approximation=label)
        states, reasons = one["state"].values.ravel(), one["reason"].values.ravel()
        for state in ("failed", "not covered", "doubtful"):
            where = np.flatnonzero(states == state)
            if where.size:
                others = len(set(reasons[where])) - 1
                more = f" (and {others} more reasons: `reason` in the results)" if others else ""
                lines.append(f"{label}: {where.size} of {states.size} points {state}: {reasons[where[0]]}{more}")
    return lines
