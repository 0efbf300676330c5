"""What a sweep is asked to do: a TOML file made a `Sweep`, every key of it checked before anything runs."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fieldtheory import console, tasks
from fieldtheory.catalogue import theories
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, UnknownName
from fieldtheory.network import ARD, Network
from fieldtheory.sampling.methods import find_method

Point = dict[str, Any]
"""One value of every axis."""

SECTIONS = ("title", "theories", "outputs", "task", "network", "axes", "sampling", "figures")
NETWORK: dict[str, Any] = {
    "activation": "identity", "readout_variance": 1.0, "weight_variance": 1.0, "bias_variance": 0,
    "scaling": "standard", "prior": "gaussian"}  # fmt: skip
"""Keys of [network] that may be left out, with what they then are."""
REQUIRED = ("width", "noise_variance")
OF_NETWORK = (*NETWORK, *REQUIRED)
SAMPLING = ("method", "chains", "draws", "warmup", "thin", "step", "seed", "dtype", "gibbs", "gibbs_every", "tempering",
            "batch_size", "adapt_mass", "target_acceptance", "label")  # fmt: skip
FIGURES = ("formats", "quantities")
FORMATS = ("png", "svg", "pdf")

#: What can be asked for, in words.
QUANTITIES: dict[str, str] = {
    "test_error": "mean squared error of the mean predictor on the test inputs",
    "train_error": "mean squared error of the mean predictor on the training inputs",
    "order_parameter": "overlap of the mean predictor with the target on the test inputs, f.y/y.y",
    "log_evidence": "ln Z",
    "weight_second_moment": "second moment of the hidden weights along each input, averaged over the neurons",
    "relevance": "the second moments of the weights relative to their mean over the inputs",
    "effective_inputs": "number of inputs that share the relevance, (sum r)^2/sum r^2: 1 for one, D for all alike",
    "readout_norm": "sum of the squared readout weights",
    "discrepancy_along_target": "what is left of the target along itself on the training inputs, y.(y - f)/y.y",
    "variance_along_mean_output": "variance of the output along its mean",
    "hidden_kernel_overlap": "overlap of the hidden kernel with the target",
}
DEFAULT_OUTPUTS = ("test_error", "train_error", "order_parameter", "log_evidence", "relevance", "effective_inputs")
ON_TEST = ("test_error", "order_parameter")
PER_INPUT = ("weight_second_moment", "relevance")
SAMPLED, EXACT = "samples", "exact"

EXAMPLE = """\
# fieldtheory sweep learning.toml --jobs 2
# Every point is written to the folder learning/ as soon as it is finished; the same command goes on after an interrupt.

title = "2-parity with ReLU"

# Names of theories (`fieldtheory list`), or tables with their options; "all" is every theory that covers the network.
# "exact" is the quadrature of the linear network.
theories = ["nngp", {name = "kernel-rescaling", loops = 1, label = "rescaling"}]
# theories = ["mean-field", {name = "collapsed-mean-field", effort = {particles = 200}}]

# Left out, all of the first six where they are defined. Also: weight_second_moment, readout_norm,
# discrepancy_along_target, variance_along_mean_output, hidden_kernel_overlap.
outputs = ["test_error", "train_error", "order_parameter", "log_evidence", "relevance", "effective_inputs"]

[task]
name = "parity"            # ising, parity, single-index, multi-index, digits, or an .npz beside this file
input_dim = 6              # options of the task, as in ft.tasks.parity
order = 2
test_samples = "cube"      # or a number; samples = "cube" trains on every input once, too

[network]
activation = "relu"        # identity, erf, relu, tanh or quadratic
width = 20
readout_variance = 1.0
weight_variance = 1.0
bias_variance = 0.0
scaling = "standard"       # or "mean-field", or exponents such as "3/2,1/2"
prior = "gaussian"         # or {alpha0 = 4.0}: a precision per input is drawn too (ARD)

# Any option of the task or the network, or chi (1: standard scaling, N: mean-field), takes values here: a list, or
# {start = 0.01, stop = 1.0, count = 5, spacing = "log"}. `seed` is that of the data: error bars are over it.
[axes]
samples = [10, 20, 40]
noise_variance = [0.1, 0.5]
seed = [0, 1, 2]

# Leave this table out for theories alone. The options are those of ft.sample.
[sampling]
method = "hmc"
chains = 4
draws = 1000
seed = 0
label = "posterior"

[figures]
formats = ["svg", "png"]
quantities = ["test_error", "order_parameter"]
"""


@dataclass(frozen=True)
class Approximation:
    """A theory with its options, by the label that it has in the results."""

    label: str
    theory: str
    options: Mapping[str, Any] = field(default_factory=dict)
    effort: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Sweep:
    """What is computed at every point of a grid: by theories, by chains, or both.

    ``task`` and ``network`` hold the options that do not vary, ``axes`` the values of those that do, in order.
    """

    title: str
    task: Mapping[str, Any]
    network: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]]
    approximations: tuple[Approximation, ...]
    sampling: Mapping[str, Any] | None
    outputs: tuple[str, ...]
    figures: Mapping[str, Any]
    every_theory: bool = False
    folder: Path = Path()

    @classmethod
    def load(cls, path: str | Path) -> Sweep:
        """From a TOML file; paths in it are relative to its folder.

        Errors: BadInput naming the key, what it was, and what would do.
        """
        path = Path(path)
        if not path.is_file():
            raise BadInput("sweep", str(path), "an existing .toml file (fieldtheory sweep --example prints one)")
        try:
            text = path.read_text(encoding="utf-8")
            return cls.from_mapping(tomllib.loads(text), path.parent)
        except UnicodeDecodeError:
            raise BadInput("sweep", str(path), "a text file in UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            raise BadInput("sweep", f"{path}: {error}", "valid TOML (fieldtheory sweep --example)") from None

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any], folder: str | Path = ".") -> Sweep:
        """From what a TOML file holds."""
        _known("sweep", given, SECTIONS)
        task, network = _section(given, "task"), _section(given, "network")
        if not isinstance(task.get("name"), str):
            raise BadInput("task.name", repr(task.get("name")), f"{', '.join(tasks.NAMES)}, or an .npz file")
        _known("network", network, OF_NETWORK)
        axes = {name: _values(f"axes.{name}", value) for name, value in _section(given, "axes").items()}
        for name in axes:
            for place, there in (("task", task), ("network", network)):
                if name in there:
                    raise BadInput(f"axes.{name}", f"also in [{place}]", f"{name} in one of the two")
        if "name" in axes:
            raise BadInput("axes.name", list(axes["name"]), "one task; put it in [task]")
        approximations, every = _approximations(given.get("theories", []))
        sampling = None if "sampling" not in given else _sampling(_section(given, "sampling"))
        if not approximations and sampling is None:
            raise BadInput("theories", "none, and no [sampling]", "at least one of them")
        labels = [a.label for a in approximations] + ([] if sampling is None else [str(sampling["label"])])
        for label in labels:
            if labels.count(label) > 1:
                raise BadInput("theories", f"{label!r} twice", "a label of its own for each: {name = ..., label = ...}")
        title = given.get("title", "")
        if not isinstance(title, str):
            raise BadInput("title", repr(title), "text")
        found = cls(title, task, network, axes, approximations, sampling, (), _figures(_section(given, "figures")),
                    every, Path(folder))
        return found._checked(given.get("outputs"))

    def _checked(self, outputs: Any) -> Sweep:
        """With its outputs, after a look at every value of every axis beside the first values of the others."""
        first = self.points()[0]
        data = self.data_at(first)  # before a name that lacks, the axis that is perhaps misspelt for it
        for name in REQUIRED:
            if name not in self.network and name not in self.axes:
                raise BadInput(f"network.{name}", "nothing", "a number there, or values in [axes]")
        for name, values in self.axes.items():
            for value in values[1:] if name != "seed" else ():
                self.data_at(first | {name: value})
                self.network_at(first | {name: value})
        net = self.network_at(first)
        if self.sampling is not None and net.noise_variance == 0:
            raise BadInput("network.noise_variance", 0, "a positive number beside [sampling]")
        testable = data.y_test is not None and bool(np.any(data.y_test))
        if outputs is None:
            chosen = tuple(name for name in DEFAULT_OUTPUTS if testable or name not in ON_TEST)
        else:
            chosen = _names("outputs", outputs, QUANTITIES)
            for name in chosen:
                if name in ON_TEST and not testable:
                    raise BadInput("outputs", name, "test_samples in [task] (or y_test in the .npz) beside it, or "
                                   "outputs without it")
        return replace(self, outputs=chosen)

    # ------------------------------------------------------------------------------------------------ the grid

    def points(self) -> list[Point]:
        """Every combination of the values of the axes; the last axis varies fastest."""
        return [dict(zip(self.axes, values)) for values in itertools.product(*self.axes.values())]

    @property
    def labels(self) -> list[str]:
        """The samples first, where there are any, then the theories."""
        return ([] if self.sampling is None else [str(self.sampling["label"])]) + [a.label for a in self.approximations]

    def network_at(self, point: Point) -> Network:
        """The network of a point."""
        given = {**NETWORK, **self.network, **{name: value for name, value in point.items() if name in OF_NETWORK}}
        try:
            scaling, prior = given["scaling"], given["prior"]
            net = console.network(given["width"], given["activation"], _scaling(scaling), given["readout_variance"],
                                  given["weight_variance"], given["noise_variance"])
            net = net.replace(bias_variance=given["bias_variance"], prior=_prior(prior))
            return net.along(point["chi"]) if "chi" in point else net
        except BadInput as error:
            raise self._placed(error, "network", point) from None

    def data_at(self, point: Point) -> Dataset:
        """The data set of a point: of a file, ``samples`` of its training inputs, chosen by ``seed``."""
        options = {name: value for name, value in self.task.items() if name != "name"}
        options |= {name: value for name, value in point.items() if name not in (*OF_NETWORK, "chi")}
        name = str(self.task["name"])
        try:
            if name.endswith(".npz"):
                return _part(tasks.load(self.folder / name), **options)
            if isinstance(options.get("classes"), list):
                options["classes"] = tuple(options["classes"])
            return tasks.load(name, **options)
        except UnknownName as error:
            if not error.argument.startswith("option of"):
                raise self._placed(error, "task", point) from None
            option = str(error.given).strip("'")
            place = "axes" if option in point else "task"
            choices = (*error.choices, *OF_NETWORK, "chi") if place == "axes" else error.choices
            raise UnknownName(place, option, choices) from None
        except BadInput as error:
            raise self._placed(error, "task", point) from None
        except (TypeError, ValueError, AttributeError) as error:  # a word where a number belongs
            expected = f"options as ft.tasks.{name.replace('-', '_')} takes them ({error})"
            raise BadInput("task", options, expected) from None

    def _placed(self, error: BadInput, section: str, point: Point) -> BadInput:
        """The error with its argument under the name of its key."""
        name = {"data": "name", "path": "name"}.get(error.argument, error.argument)
        where = "axes" if name.partition(".")[0] in point else section
        if isinstance(error, UnknownName):
            return UnknownName(f"{where}.{name}", str(error.given).strip("'"), error.choices)
        return BadInput(f"{where}.{name}", error.given, error.expected)

    # ------------------------------------------------------------------------------------------------ identity

    def identity(self) -> dict[str, Any]:
        """Everything that the numbers depend on, by dotted key; words and figures may change without harm."""
        data = self.folder / str(self.task["name"])
        content = {"task.content": hashlib.sha256(data.read_bytes()).hexdigest()} if data.suffix == ".npz" else {}
        found: dict[str, Any] = {"outputs": list(self.outputs)} | content
        for section in ("task", "network", "axes", "sampling"):
            table: Mapping[str, Any] | None = getattr(self, section)
            found |= {f"{section}.{name}": value for name, value in (table or {}).items()}
        for a in self.approximations:
            effort = {"effort": dict(a.effort)} if a.effort else {}
            found[f"theories.{a.label}"] = {"name": a.theory, **a.options, **effort}
        return json.loads(json.dumps(found, default=str))


def _known(where: str, given: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in given:
        if name not in names:
            raise UnknownName(where, name, names)


def _section(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = given.get(name, {})
    if not isinstance(section, Mapping):
        raise BadInput(name, repr(section), f"a table, [{name}]")
    return dict(section)


def _names(where: str, given: Any, choices: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    if not isinstance(given, list) or not given:
        raise BadInput(where, repr(given), "a list of names")
    for name in given:
        if name not in choices:
            raise UnknownName(where, name, choices)
    return tuple(dict.fromkeys(given))


def _values(where: str, given: Any) -> tuple[Any, ...]:
    """The values of an axis: a list, or so many between two ends."""
    if isinstance(given, Mapping) and {"start", "stop", "count"} <= set(given):
        _known(where, given, ("start", "stop", "count", "spacing"))
        return _between(where, **given)
    if not isinstance(given, list) or not given:
        raise BadInput(where, repr(given), 'a list of values, or {start = .., stop = .., count = .., spacing = "log"}')
    for k, value in enumerate(given):
        if value in given[:k]:
            raise BadInput(where, f"{value!r} twice", "every value once")
        if isinstance(value, float) and not np.isfinite(value):
            raise BadInput(where, value, "finite numbers")
    return tuple(given)


def _between(where: str, start: Any, stop: Any, count: Any, spacing: Any = "linear") -> tuple[Any, ...]:
    numbers = [x for x in (start, stop) if isinstance(x, int | float) and not isinstance(x, bool) and np.isfinite(x)]
    if len(numbers) < 2 or isinstance(count, bool) or not isinstance(count, int) or count < 2 or start == stop:
        raise BadInput(where, f"start = {start!r}, stop = {stop!r}, count = {count!r}",
                       "two different numbers and an integer >= 2")
    if spacing not in ("linear", "log"):
        raise UnknownName(f"{where}.spacing", spacing, ("linear", "log"))
    if spacing == "log" and min(numbers) <= 0:
        raise BadInput(f"{where}.spacing", "'log' between numbers that are not positive", "'linear', or positive ones")
    grid = (np.geomspace if spacing == "log" else np.linspace)(start, stop, count)
    if isinstance(start, int) and isinstance(stop, int):
        return tuple(dict.fromkeys(round(float(x)) for x in grid))  # counts and seeds; those that coincide once
    return tuple(float(f"{x:.12g}") for x in grid)


def _approximations(given: Any) -> tuple[tuple[Approximation, ...], bool]:
    if given == "all":
        return tuple(Approximation(name, name) for name in theories), True
    if not isinstance(given, list):
        raise BadInput("theories", repr(given), 'a list of names or of tables {name = "..", ..}, or "all"')
    return tuple(_approximation(entry, k) for k, entry in enumerate(given)), False


def _approximation(given: Any, k: int) -> Approximation:
    entry = {"name": given} if isinstance(given, str) else given
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise BadInput(f"theories[{k}]", repr(given), 'a name, or a table {name = "..", ..}')
    options = dict(entry)
    name, label, effort = options.pop("name"), options.pop("label", None), options.pop("effort", None)
    if name not in (*theories, EXACT):
        raise UnknownName(f"theories[{k}]", name, (*theories, EXACT))
    known = [] if name == EXACT else [parameter for parameter in inspect.signature(theories[name]).parameters][1:]
    for option in options:
        if option not in known:
            raise UnknownName(f"theories[{k}]", option, ("label", "effort", *known))
    if effort is not None and not isinstance(effort, Mapping):
        raise BadInput(f"theories[{k}].effort", repr(effort), "a table such as {particles = 200, average = 300}")
    if label is None:
        label = ", ".join([name, *(f"{option} {value}" for option, value in options.items())])
    return Approximation(str(label), name, options, effort)


def _sampling(given: dict[str, Any]) -> dict[str, Any]:
    _known("sampling", given, SAMPLING)
    given = {"method": "hmc", "chains": 4, "draws": 1000, "seed": 0, "label": SAMPLED} | given
    seed = given["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BadInput("sampling.seed", repr(seed), "an integer >= 0")
    try:
        find_method(str(given["method"]))
    except UnknownName as error:
        raise UnknownName("sampling.method", given["method"], error.choices) from None
    return given


def _figures(given: dict[str, Any]) -> dict[str, Any]:
    _known("figures", given, FIGURES)
    scalars = [name for name in QUANTITIES if name not in PER_INPUT]
    chosen = {"formats": ["svg", "png"], "quantities": ["test_error", "order_parameter"]} | given
    return {"formats": _names("figures.formats", chosen["formats"], FORMATS),
            "quantities": _names("figures.quantities", chosen["quantities"], scalars)}


def _scaling(given: Any) -> str:
    """The scaling as the command line writes it."""
    if isinstance(given, list) and len(given) == 2:
        return f"{given[0]},{given[1]}"
    if not isinstance(given, str):
        raise BadInput("scaling", repr(given), "'standard', 'mean-field', or two exponents such as '3/2,1/2'")
    return given


def _prior(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    _known("prior", given, ("alpha0", "beta0"))
    if "alpha0" not in given:
        raise BadInput("prior.alpha0", "nothing", "a number > 0, or prior = 'gaussian'")
    return ARD(**given)


def _part(data: Dataset, samples: int | None = None, seed: int | None = None, **other: Any) -> Dataset:
    """So many training samples of a data set: the first, or with a seed a random choice."""
    if other:
        raise UnknownName("option of a file", next(iter(other)), ("samples", "seed"))
    for name, value, least in (("samples", samples, 1), ("seed", seed, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise BadInput(name, repr(value), f"an integer >= {least}")
    if samples is None and seed is None:
        return data
    if data.X is None:
        key = "seed" if samples is None else "samples"
        raise BadInput(key, "a file with a kernel", "X in the file, or no such key")
    count = data.samples if samples is None else samples
    if count > data.samples:
        raise BadInput("samples", samples, f"at most {data.samples}, which the file has")
    order = np.arange(data.samples) if seed is None else np.random.default_rng(seed).permutation(data.samples)
    kept = order[:count]
    return Dataset(data.X[kept], data.y[kept], data.X_test, data.y_test, name=data.name)
