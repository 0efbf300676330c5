"""One point of a sweep: data and network made, a theory or chains asked, and what is reported computed from it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from fieldtheory import exact
from fieldtheory.catalogue import theories
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, FieldTheoryError
from fieldtheory.export.sweep.settings import EXACT, ON_TEST, PER_INPUT, SAMPLING, Approximation, Point, Sweep
from fieldtheory.network import Network
from fieldtheory.sampler import sample
from fieldtheory.sampling import diagnostics
from fieldtheory.sampling.convergence import diagnose
from fieldtheory.theory import Theory

Array = np.ndarray
Record = dict[str, Any]
"""What is kept of one approximation at one point; JSON without loss.

``state``: "ok"; "doubtful", values with a reservation; "failed" or "not covered", no values. ``reason``: why.
"""
SETTLED = ("ok", "converged")
"""What a prediction's status says when there is no reservation."""


class NotCovered(Exception):
    """A theory that is not for this kind of network, in its own words."""


class Measurer:
    """Measures points of one sweep; derivations, compiled code and the data of the last point are kept."""

    def __init__(self, sweep: Sweep, jobs: int = 1) -> None:
        self.sweep, self.points = sweep, sweep.points()
        self.threads = max(1, (os.cpu_count() or 1) // jobs)
        self.approximations = {a.label: a for a in sweep.approximations}
        self._theories: dict[Any, Theory | str] = {}
        self._data: tuple[Point, Dataset] | None = None

    def data(self, point: Point) -> Dataset:
        """The data set of a point, kept for the approximations that follow at the same point."""
        if self._data is None or self._data[0] != point:
            self._data = point, self.sweep.data_at(point)
        return self._data[1]

    def theory(self, a: Approximation, net: Network) -> Theory:
        """The theory for a network; derived once for each activation, with and without biases.

        Raises
        ------
        NotCovered
            Where the theory refuses the network.
        BadInput
            Where it refuses an option.
        """
        key = (a.label, net.activation, net.has_bias, str(net.prior))
        if key not in self._theories:
            try:
                self._theories[key] = theories[a.theory](net, **a.options)
            except FieldTheoryError as error:
                argument = getattr(error, "argument", "")
                if isinstance(error, BadInput) and argument in a.options:
                    raise BadInput(f"theories.{a.label}.{argument}", error.given, error.expected) from None
                self._theories[key] = str(error)
        found = self._theories[key]
        if isinstance(found, str):
            raise NotCovered(found)
        return found.with_network(net)

    def uncovered(self) -> dict[str, str]:
        """Theories that cover no network of the sweep, with the reason."""
        nets = {(net.activation, net.has_bias, str(net.prior)): net
                for net in map(self.sweep.network_at, self.points)}
        found = {}
        for a in self.sweep.approximations:
            reasons = []
            for net in nets.values():
                try:
                    self._refuse_exact(net) if a.theory == EXACT else self.theory(a, net)
                except NotCovered as error:
                    reasons.append(str(error))
            if len(reasons) == len(nets):
                found[a.label] = reasons[0]
        return found

    @staticmethod
    def _refuse_exact(net: Network) -> None:
        if net.activation != "identity" or net.has_ard:
            raise NotCovered("the exact quadrature is for the linear network with a fixed prior")

    # ------------------------------------------------------------------------------------------------ one point

    def measure(self, index: int, label: str) -> Record:
        """One approximation at one point. What goes wrong there is recorded; what is wrong everywhere is raised."""
        point = self.points[index]
        began, busy = time.perf_counter(), time.process_time()
        record: Record = {"point": point, "approximation": label, "state": "ok", "reason": "", "values": {},
                          "errors": {}, "numbers": {}}
        try:
            data, net = self.data(point), self.sweep.network_at(point)
            a = self.approximations.get(label)
            record |= self._sampled(net, data, index) if a is None else self._predicted(a, net, data)
            _loud(record)
        except NotCovered as error:
            record |= {"state": "not covered", "reason": str(error)}
        except BadInput as error:
            if str(error.argument).partition(".")[0] in ("sampling", "theories", "task", "axes", "network"):
                raise  # a key of the file: the same at every point
            record |= {"state": "failed", "reason": str(error)}
        except OSError:
            raise  # a full disk: nothing about this point
        except FieldTheoryError as error:
            record |= {"state": "failed", "reason": str(error)}
        except (ArithmeticError, ValueError, np.linalg.LinAlgError, MemoryError) as error:
            record |= {"state": "failed", "reason": f"{type(error).__name__}: {error}"}
        record["reason"] = " ".join(record["reason"].split())
        record["seconds"] = time.perf_counter() - began
        record["cpu_seconds"] = time.process_time() - busy
        return record

    def _predicted(self, a: Approximation, net: Network, data: Dataset) -> Record:
        if a.theory == EXACT:
            self._refuse_exact(net)
            prediction = exact.linear(net, data)
        else:
            options: dict[str, Any] = {} if a.effort is None else {"effort": dict(a.effort)}
            try:
                prediction = self.theory(a, net).predict(data, **options)
            except BadInput as error:
                if str(error.argument).startswith("effort"):
                    raise BadInput(f"theories.{a.label}.{error.argument}", error.given, error.expected) from None
                raise
        values, errors = of_prediction(prediction, data, self.sweep.outputs)
        status = str(prediction.attrs.get("status", "ok"))
        keep = ("residual", "spread", "particle_ess", "acceptance", "kernel_error", "target_visibility")
        numbers = {name: float(prediction.attrs[name]) for name in keep if name in prediction.attrs}
        return {"state": "ok" if status in SETTLED else "doubtful", "reason": "" if status in SETTLED else status,
                "values": values, "errors": errors, "numbers": numbers}

    def _sampled(self, net: Network, data: Dataset, index: int) -> Record:
        assert self.sweep.sampling is not None
        options = {name: value for name, value in self.sweep.sampling.items() if name != "label"}
        options["seed"] += index  # chains of their own at every point
        if isinstance(options.get("gibbs"), list):
            options["gibbs"] = tuple(options["gibbs"])
        wants_relevance = data.X is not None and {*PER_INPUT, "effective_inputs"} & set(self.sweep.outputs)
        if wants_relevance:
            options["directions"] = np.eye(data.X.shape[1])  # type: ignore[union-attr]
        try:
            samples = sample(net, data, threads=self.threads, **options)
        except BadInput as error:
            if error.argument in SAMPLING and error.argument in self.sweep.sampling and error.argument != "step":
                raise BadInput(f"sampling.{error.argument}", error.given, error.expected) from None
            raise
        found = diagnose(samples)
        ess, rhat = (np.concatenate([np.ravel(x.sel(statistic=key).values) for x in found.table.data_vars.values()])
                     for key in ("ess", "rhat"))
        values, errors = of_samples(samples, data, self.sweep.outputs)
        numbers = {"ess": float(np.nanmin(ess)), "rhat": float(np.nanmax(rhat)), "sampling_seed": options["seed"]}
        return {"state": "ok" if found else "doubtful", "reason": "" if found else found.verdict, "values": values,
                "errors": errors, "numbers": numbers}


# ------------------------------------------------------------------------------------------ what is reported


def _judged(name: str, data: Dataset) -> tuple[str, Array | None]:
    """The output that a quantity of the mean predictor is made of, and the target that it is compared with."""
    return ("test_output", data.y_test) if name in ON_TEST else ("mean_output", data.y)


def of_prediction(prediction: xr.Dataset, data: Dataset,
                  outputs: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is reported of a prediction. Its Monte-Carlo errors are of single outputs, whose correlation is not
    known: an error made of several is the sum of their sizes, which is the most that it can be."""
    values: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    for name in outputs:
        known = MEAN_PREDICTOR.get(name)
        if known is not None:
            output, target = _judged(name, data)
            if output in prediction and target is not None:
                f = prediction[output].values
                values[name], slope, curvature = known(f, target)
                if f"{output}_mcse" in prediction:
                    size = prediction[f"{output}_mcse"].values
                    errors[name] = float(np.abs(slope) @ size + curvature * (size @ size))
        elif name in prediction:
            values[name] = prediction[name].values.tolist()
            if f"{name}_mcse" in prediction:
                errors[name] = prediction[f"{name}_mcse"].values.tolist()
    if "effective_inputs" in outputs and "relevance" in prediction:
        values["effective_inputs"] = effective_inputs(prediction["relevance"].values)
    return values, errors


def of_samples(samples: Any, data: Dataset, outputs: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is reported of samples, with Monte-Carlo standard errors: of a function of the mean predictor that of
    its linear part, and what the noise of the mean adds to a square."""
    series = {name: values for name, (_, values) in diagnostics.observables(samples).items()}
    if "direction_overlap" in series:
        series["weight_second_moment"] = series.pop("direction_overlap")
    values: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    for name in outputs:
        known = MEAN_PREDICTOR.get(name)
        if known is not None:
            output, target = _judged(name, data)
            if output not in series or target is None:
                continue
            draws = series[output]
            values[name], slope, curvature = known(draws.mean(axis=(0, 1)), target)
            error = float(diagnostics.mcse(draws @ slope))
            if curvature:
                error = float(np.hypot(error, curvature * np.sum(diagnostics.mcse(draws) ** 2)))
            errors[name] = error
        elif name in ("relevance", "effective_inputs") and "weight_second_moment" in series:
            draws = series["weight_second_moment"]
            r = draws.mean(axis=(0, 1))
            if name == "relevance":
                values[name] = (r / r.mean()).tolist()
                slopes = (np.eye(len(r)) - r / r.sum()) / r.mean()
                errors[name] = np.asarray(diagnostics.mcse(draws @ slopes)).tolist()
            else:
                values[name] = effective_inputs(r)
                errors[name] = float(diagnostics.mcse(draws @ (2 * r.sum() / (r @ r) * (1 - r.sum() * r / (r @ r)))))
        elif name in series:
            values[name] = np.asarray(series[name].mean(axis=(0, 1))).tolist()
            errors[name] = np.asarray(diagnostics.mcse(series[name])).tolist()
    return values, errors


def squared_error(f: Array, y: Array) -> tuple[float, Array, float]:
    """(1/n) |f - y|², its gradient in f, and half its curvature along each entry."""
    return float((f - y) @ (f - y)) / len(y), 2 * (f - y) / len(y), 1 / len(y)


def overlap(f: Array, y: Array) -> tuple[float, Array, float]:
    """f.y/y.y, its gradient, and no curvature; not a number for y = 0, where it is not defined."""
    size = float(y @ y)
    return (float(f @ y) / size, y / size, 0.0) if size else (float("nan"), np.zeros_like(y), 0.0)


MEAN_PREDICTOR = {"test_error": squared_error, "train_error": squared_error, "order_parameter": overlap}


def effective_inputs(relevance: Array) -> float:
    """(Σ r)²/Σ r²."""
    return float(relevance.sum() ** 2 / (relevance @ relevance))


def _loud(record: Mapping[str, Any]) -> None:
    """A value that is not finite is said, and taken out: nothing that is not a number goes on silently."""
    values, errors = record["values"], record["errors"]
    bad = [name for name, value in values.items() if not np.all(np.isfinite(value))]
    for name in bad:
        del values[name]
        errors.pop(name, None)
    for name in [name for name, value in errors.items() if not np.all(np.isfinite(value))]:
        del errors[name]
    numbers = record["numbers"]
    for name in [name for name, value in numbers.items() if not np.isfinite(value)]:
        del numbers[name]
    if bad:
        words = f"{', '.join(bad)} {'is' if len(bad) == 1 else 'are'} not finite, or not defined here"
        record["state"] = "doubtful"  # type: ignore[index]
        record["reason"] = "; ".join(filter(None, [record["reason"], words]))  # type: ignore[index]


__all__ = ["Measurer", "NotCovered", "Record", "effective_inputs", "of_prediction", "of_samples"]
