"""ESS, R-hat and standard errors of observables that ignore the order and the sign of neurons.

Individual weights mean nothing across chains: neurons can be permuted, and an odd activation allows signs to
flip. Outputs, the readout norm and overlaps do not change under either. This is the one module that touches
ArviZ, whose result is an InferenceData up to 0.23 and an xarray DataTree from 1 on; it takes seconds to
import and is imported where it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from fieldtheory.errors import BadInput

Array = NDArray[np.float64]
Variables = Mapping[str, tuple[tuple[str, ...], ArrayLike]]

STATISTICS = ("mean", "mcse", "ess", "rhat")


def _arviz() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # 0.23 announces 1.0 on every import
        import arviz
    return arviz


def to_inference_data(
    posterior: Variables,
    statistics: Mapping[str, ArrayLike],
    observed: Variables,
    attributes: Mapping[str, Any],
) -> Any:
    """Samples in ArviZ's layout: an InferenceData, or a DataTree from ArviZ 1 on.

    `posterior` maps names to (dims after chain and draw, values (chain, draw, ...)), `statistics` names to
    values (chain, draw), `observed` names to (dims, values).
    """
    casts = {"n_steps": np.int64, "diverging": bool}
    groups: dict[str, dict[str, Any]] = {
        "posterior": {name: (("chain", "draw", *dims), values) for name, (dims, values) in posterior.items()},
        "sample_stats": {
            name: (("chain", "draw"), np.asarray(values).astype(casts.get(name, float)))
            for name, values in statistics.items()
        },
        "observed_data": dict(observed),
    }
    datasets = {}
    for group, variables in groups.items():
        dataset = xr.Dataset(variables, attrs=dict(attributes) if group == "posterior" else {})
        datasets[group] = dataset.assign_coords({dim: np.arange(size) for dim, size in dataset.sizes.items()})
    if int(version("arviz").partition(".")[0]) >= 1:
        return xr.DataTree.from_dict({f"/{group}": dataset for group, dataset in datasets.items()})
    return _arviz().InferenceData(**datasets)


def _group(samples: Any, name: str) -> xr.Dataset:
    group = samples[name]
    return group.to_dataset() if isinstance(group, xr.DataTree) else group


def _apply(statistic: str, values: ArrayLike, **options: Any) -> Array:
    """An ArviZ statistic of `values` (chain, draw, ...), over the first two axes."""
    values = np.asarray(values, dtype=float)
    if values.ndim < 2:
        raise BadInput("values", f"shape {values.shape}", "an array of shape (chain, draw, ...)")
    entries = values.reshape(*values.shape[:2], -1)
    # A Dataset is what every version takes and gives back; plain arrays are treated differently.
    result = getattr(_arviz(), statistic)(xr.Dataset({"x": (("chain", "draw", "entry"), entries)}), **options)
    return result["x"].values.reshape(values.shape[2:])


def ess(values: ArrayLike) -> Array:
    """Bulk effective sample size (Vehtari et al. 2021) of each entry of (chain, draw, ...)."""
    return _apply("ess", values, method="bulk")


def rhat(values: ArrayLike) -> Array:
    """Rank-normalised split R-hat (Vehtari et al. 2021) of each entry of (chain, draw, ...); 1 when mixed."""
    return _apply("rhat", values, method="rank")


def mcse(values: ArrayLike) -> Array:
    """Monte-Carlo standard error of the mean of each entry of (chain, draw, ...)."""
    return _apply("mcse", values, method="mean")


def observables(samples: Any, *, along: ArrayLike | None = None) -> dict[str, tuple[tuple[str, ...], Array]]:
    """Series whose means are the observables of a prediction: name -> (dims, values (chain, draw, ...)).

    mean_output and test_output: the outputs. variance_along_mean_output: (v.(f - <f>))^2, v the unit vector
    along `along` (P,), by default along the sampled mean output (whose own error enters at second order in
    MCSE/|<f>|). discrepancy_along_target: y.(y - f)/y.y. readout_norm, hidden_kernel_overlap,
    direction_overlap: as sampled.
    """
    posterior, target = _group(samples, "posterior"), _group(samples, "observed_data")["target"].values
    f = posterior["output"].values
    mean = f.mean(axis=(0, 1))
    v = mean if along is None else np.asarray(along, dtype=float)
    if v.shape != mean.shape or not np.linalg.norm(v) > 0:
        raise BadInput("along", f"shape {v.shape}", f"a non-zero vector of shape {mean.shape}")
    series: dict[str, tuple[tuple[str, ...], Array]] = {
        "mean_output": (("sample",), f),
        "variance_along_mean_output": ((), ((f - mean) @ (v / np.linalg.norm(v))) ** 2),
    }
    if np.any(target):
        series["discrepancy_along_target"] = (), (target - f) @ target / (target @ target)
    for name in ("test_output", "readout_norm", "hidden_kernel_overlap", "direction_overlap"):
        if name in posterior:
            series[name] = tuple(map(str, posterior[name].dims[2:])), posterior[name].values
    return series


def summarise(samples: Any, *, along: ArrayLike | None = None) -> xr.Dataset:
    """Mean, MCSE, bulk ESS and R-hat of every observable, named as in a prediction.

    Each variable has the dimension `statistic` ("mean", "mcse", "ess", "rhat") before its own; attributes are
    those of the samples, with `smallest_ess` and `largest_rhat` over all of them.
    """
    table = {
        name: (("statistic", *dims), np.stack([x.mean(axis=(0, 1)), mcse(x), ess(x), rhat(x)]))
        for name, (dims, x) in observables(samples, along=along).items()
    }
    summary = xr.Dataset(
        table, coords={"statistic": list(STATISTICS)}, attrs=_group(samples, "posterior").attrs
    )
    return summary.assign_attrs(
        smallest_ess=min(float(np.min(x[STATISTICS.index("ess")])) for _, x in table.values()),
        largest_rhat=max(float(np.max(x[STATISTICS.index("rhat")])) for _, x in table.values()),
    )
