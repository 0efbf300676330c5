"""ESS, R-hat and standard errors of observables that ignore the order and the sign of neurons.

Individual weights mean nothing across chains: neurons can be permuted, and an odd activation allows signs to
flip. Outputs, the readout norm and overlaps do not change under either. This is the one module that touches
ArviZ, whose result is an InferenceData up to 0.23 and an xarray DataTree from 1 on; it takes seconds to
import and is imported where it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from types import ModuleType
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from fieldtheory.errors import BadInput

Array = NDArray[np.float64]
Variables = Mapping[str, tuple[tuple[str, ...], ArrayLike]]

#: Types of those statistics of a draw that are not real numbers.
STATISTIC_TYPES: Mapping[str, type] = {"n_steps": np.int64, "diverging": bool}

# Samples count when R-hat is below the one and bulk and tail ESS are above the other: 100 effective samples for each
# of four chains (Vehtari et al. 2021). Their R-hat of 1.01 is for one quantity; here the worst of hundreds counts.
MINIMUM_ESS, MAXIMUM_RHAT = 400.0, 1.05


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
    groups: dict[str, dict[str, Any]] = {
        "posterior": {name: (("chain", "draw", *dims), values) for name, (dims, values) in posterior.items()},
        "sample_stats": {
            name: (("chain", "draw"), np.asarray(values).astype(STATISTIC_TYPES.get(name, float)))
            for name, values in statistics.items()
        },
        "observed_data": dict(observed),
    }
    datasets = {}
    for group, variables in groups.items():
        dataset = xr.Dataset(variables, attrs=dict(attributes) if group == "posterior" else {})
        datasets[group] = dataset.assign_coords({dim: np.arange(size) for dim, size in dataset.sizes.items()})
    return from_groups(datasets)


def from_groups(datasets: Mapping[str, xr.Dataset]) -> Any:
    """An InferenceData of these groups, or a DataTree from ArviZ 1 on."""
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
    with np.errstate(divide="ignore", invalid="ignore"):  # constants give NaN, which no gate lets pass
        result = getattr(_arviz(), statistic)(xr.Dataset({"x": (("chain", "draw", "entry"), entries)}), **options)
    return result["x"].values.reshape(values.shape[2:])


def ess(values: ArrayLike) -> Array:
    """Bulk effective sample size (Vehtari et al. 2021) of each entry of (chain, draw, ...)."""
    return _apply("ess", values, method="bulk")


def ess_tail(values: ArrayLike) -> Array:
    """Tail effective sample size (Vehtari et al. 2021): the smaller of those of the 5 % and the 95 % quantile."""
    return _apply("ess", values, method="tail")


def rhat(values: ArrayLike) -> Array:
    """Rank-normalised split R-hat (Vehtari et al. 2021) of each entry of (chain, draw, ...); 1 when mixed.

    NaN for fewer than two chains of four draws.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim > 1 and (values.shape[0] < 2 or values.shape[1] < 4):
        return np.full(values.shape[2:], np.nan)
    return _apply("rhat", values, method="rank")


def mcse(values: ArrayLike) -> Array:
    """Monte-Carlo standard error of the mean of each entry of (chain, draw, ...)."""
    return _apply("mcse", values, method="mean")


def mcse_sd(values: ArrayLike) -> Array:
    """Monte-Carlo standard error of the standard deviation of each entry of (chain, draw, ...).

    By the delta method from that of the mean of the squared deviations; 0 where nothing varies. (ArviZ 0.23 computes
    the same, but fails on it from NumPy 2.4 on.)
    """
    values = np.asarray(values, dtype=float)
    squares, sd = (values - values.mean(axis=(0, 1))) ** 2, values.std(axis=(0, 1))
    return np.divide(mcse(squares), 2 * sd, out=np.zeros_like(sd), where=sd > 0)


def bfmi(energy: ArrayLike) -> Array:
    """Bayesian fraction of missing information of each chain, from its energies (chain, draw): mean (dE)^2/Var E.

    Below about 0.3 fresh momenta change the energy too little to visit all of it (Betancourt 2016).
    """
    energy = np.asarray(energy, dtype=float)
    spread = ((energy - energy.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    steps = (np.diff(energy, axis=1) ** 2).sum(axis=1)
    return np.divide(steps, spread, out=np.full(len(energy), np.nan), where=spread > 0)


def shortfall(
    ess: ArrayLike, rhat: ArrayLike, minimum_ess: float = MINIMUM_ESS, maximum_rhat: float = MAXIMUM_RHAT
) -> tuple[Literal["ess", "rhat"], int] | None:
    """The gate before any judgement: which statistic of which entry fails it worst, ESS before R-hat, or None.

    What cannot be computed (NaN: too few chains or draws, a constant) does not pass.
    """
    lows, highs = np.nan_to_num(np.ravel(ess), nan=-1.0), np.nan_to_num(np.ravel(rhat), nan=np.inf)
    if len(lows) and not lows.min() >= minimum_ess:
        return "ess", int(lows.argmin())
    if len(highs) and not highs.max() <= maximum_rhat:
        return "rhat", int(highs.argmax())
    return None


def observables(samples: Any, *, along: ArrayLike | None = None) -> dict[str, tuple[tuple[str, ...], Array]]:
    """Series whose means are the observables of a prediction: name -> (dims, values (chain, draw, ...)).

    mean_output and test_output: the outputs. variance_along_mean_output: (v.(f - <f>))^2, v the unit vector
    along `along` (P,), by default along the sampled mean output (whose own error enters at second order in
    MCSE/|<f>|). discrepancy_along_target: y.(y - f)/y.y. readout_norm, hidden_kernel_overlap,
    direction_overlap and whatever else was sampled: as it is.
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
    for name in posterior.data_vars:
        if name != "output":
            series[str(name)] = tuple(map(str, posterior[name].dims[2:])), posterior[name].values
    return series


def summarise(samples: Any, *, along: ArrayLike | None = None) -> xr.Dataset:
    """Mean and standard deviation with their MCSE, ESS and R-hat of every observable, named as in a prediction.

    Each variable has the dimension `statistic` ("mean", "sd", "mcse" of the mean, "mcse_sd", "ess" in the bulk,
    "ess_tail", "rhat") before its own; attributes are those of the samples, with `smallest_ess` (in the bulk) and
    `largest_rhat` over all of them.
    """
    table = {
        name: (("statistic", *dims), np.stack([compute(x) for compute in _COMPUTED.values()]))
        for name, (dims, x) in observables(samples, along=along).items()
    }
    summary = xr.Dataset(
        table, coords={"statistic": list(STATISTICS)}, attrs=_group(samples, "posterior").attrs
    )
    return summary.assign_attrs(
        smallest_ess=min(float(np.min(x[STATISTICS.index("ess")])) for _, x in table.values()),
        largest_rhat=max(float(np.max(x[STATISTICS.index("rhat")])) for _, x in table.values()),
    )


_COMPUTED: dict[str, Callable[[Array], Array]] = {
    "mean": lambda x: x.mean(axis=(0, 1)),
    "sd": lambda x: x.std(axis=(0, 1)),
    "mcse": mcse,
    "mcse_sd": mcse_sd,
    "ess": ess,
    "ess_tail": ess_tail,
    "rhat": rhat,
}
STATISTICS = tuple(_COMPUTED)
