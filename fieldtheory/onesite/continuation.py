"""Following a solution as the noise or the number of samples changes, up and down, each point from the one before.

With one solution both ways agree within their errors.  Where they do not there is either more than one solution
(hysteresis), or particles that do not mix, which the certificates of every point tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.special
import xarray as xr

from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, UnknownName
from fieldtheory.network import Network
from fieldtheory.onesite.environment import Effort
from fieldtheory.onesite.prediction import SitePredictor, Solved

Array = np.ndarray

ALONG = ("noise_variance", "samples")
DIRECTIONS = ("up", "down")
CHANCE = 1e-3
"""How rarely two directions that agree are taken to differ (Student's t: errors from few ensembles are uncertain)."""
Case = Callable[[float], tuple[Network, Dataset]]


def cases(net: Network, data: Dataset, along: str, values: Sequence[float]) -> tuple[Array, Case]:
    """The values in ascending order, and network and data at each: other noise, or the first samples of the data."""
    if along not in ALONG:
        raise UnknownName("along", along, ALONG)
    found = np.unique(np.asarray(values, dtype=float))
    if found.size < 2 or not np.all(np.isfinite(found)) or not np.all(found > 0):
        raise BadInput("values", list(values), "at least two positive numbers")
    if along == "noise_variance":
        return found, lambda value: (net.replace(noise_variance=float(value)), data)
    if np.any(found != np.round(found)) or found[-1] > data.samples or data.X is None:
        raise BadInput("values", list(values), f"whole numbers up to {data.samples}, the samples that the data have")
    X = data.X
    return found, lambda value: (net, Dataset(X[:int(value)], data.y[:int(value)], data.X_test, data.y_test))


def order_parameter(solved: Solved, data: Dataset, name: str) -> Array:
    """f·y/y·y of every ensemble, at the samples or at the test inputs."""
    y = data.y if name == "mean_output" else data.y_test
    assert y is not None
    return solved.draws(name) @ y / float(y @ y)


def follow(predictor: SitePredictor, net: Network, data: Dataset, width: int | None, along: str,
           values: Sequence[float], effort: Effort) -> xr.Dataset:
    """Solutions along ``values`` in both directions (direction, value), and how far the directions differ.

    ``order_parameter`` is f·y/y·y at the samples, ``test_order_parameter`` at the test inputs, each with ``_mcse``;
    ``residual``, ``spread`` and ``status`` certify every point.  ``difference`` is up minus down, and ``hysteresis``
    says where it is significant.
    """
    points, case = cases(net, data, along, values)
    names = {"order_parameter": "mean_output"}
    if data.X_test is not None and data.y_test is not None and np.any(data.y_test):
        names["test_order_parameter"] = "test_output"
    if not np.any(data.y):
        raise BadInput("data", "y = 0", "targets that are not all zero: an overlap with them is followed")
    shape = (len(DIRECTIONS), len(points))
    keys = [key for name in names for key in (name, f"{name}_mcse")]
    table = {key: np.full(shape, np.nan) for key in (*keys, "residual", "spread")}
    status = np.full(shape, "", dtype=object)
    for d, direction in enumerate(DIRECTIONS):
        before: Solved | None = None
        for k in range(len(points)) if direction == "up" else reversed(range(len(points))):
            there, some = case(points[k])
            start = None if before is None else _from(before)
            step = effort if before is None else _continued(effort)
            before = predictor.solve(there, some, width, list(names.values()), step, start)
            for name, output in names.items():
                draws = order_parameter(before, some, output)
                table[name][d, k] = draws.mean()
                error = draws.std(ddof=1) / np.sqrt(len(draws)) if len(draws) > 1 else 0.0
                table[f"{name}_mcse"][d, k] = error
            attributes, reservations = predictor.certificates(before)
            table["residual"][d, k] = attributes["residual"]
            table["spread"][d, k] = attributes.get("spread", 0.0)
            status[d, k] = "; ".join(reservations) or "converged"
    variables: dict[str, Any] = {key: (("direction", along), value) for key, value in table.items()}
    variables["status"] = (("direction", along), status.astype(str))
    up, down = table["order_parameter"]
    error = np.hypot(*table["order_parameter_mcse"])
    variables |= {"difference": ((along,), up - down), "difference_mcse": ((along,), error)}
    count = len(before.ensembles) if before is not None else 1
    apart = np.abs(up - down) > scipy.special.stdtrit(max(2 * count - 2, 1), 1 - CHANCE / 2) * error + 1e-8
    variables["hysteresis"] = ((along,), apart)
    return xr.Dataset(variables, coords={"direction": list(DIRECTIONS), along: points})


def _continued(effort: Effort) -> Effort:
    """The same effort with other random numbers than those that the solution started from has seen."""
    return Effort(**{name: getattr(effort, name) for name in Effort.__dataclass_fields__ if name != "seed"},
                  seed=effort.seed + 1)


def _from(solved: Solved) -> Any:
    """Every ensemble where that of another solution ended."""
    return lambda environment, values, count: list(solved.ensembles)


__all__ = ["ALONG", "follow", "order_parameter"]
