"""What the command line understands, and refuses: options made objects, files to write, errors in one line.

`fieldtheory.cli` holds the commands, and `fieldtheory.terminal` prints. Whatever is heavy is imported inside a
function, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from typer.core import TyperGroup

from fieldtheory.errors import BadInput, FieldTheoryError, NotConverged, RuleError, UnknownName

if TYPE_CHECKING:

    from fieldtheory.dataset import Dataset
    from fieldtheory.network import Network, Scaling

DONE, DISAGREES, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class Group(TyperGroup):
    """One line for whatever goes wrong by the caller's doing, in place of a traceback or a box."""

    _interrupt: KeyboardInterrupt | None = None

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt as interrupt:  # the parser makes an exit status of it, without its words
            self._interrupt = interrupt
            raise

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            with warnings.catch_warnings():
                # Overflow and the like in lines of the package: what is not finite is refused by name where it ends.
                warnings.simplefilter("ignore", RuntimeWarning)
                code = super().main(*args, **(extra | {"standalone_mode": False}))
        except FieldTheoryError as error:
            _refuse(_worded(error))
        except OSError as error:
            _refuse(f"{error.filename or 'output'}: {error.strerror or error}")
        except KeyboardInterrupt as interrupt:
            _interrupted(interrupt)
        except Exception as error:
            # Typer carries its own copy of Click in some versions and uses Click's in others.
            if hasattr(error, "format_message") and hasattr(error, "exit_code"):
                _refuse(_usage(error, list(extra.get("args") or (args[0] if args else None) or sys.argv[1:])))
            if type(error).__name__ == "Abort":
                _interrupted(self._interrupt)
            if type(error).__name__ == "LinAlgError":  # known without importing NumPy for it
                _refuse(_not_numbers(error))
            raise
        if code == INTERRUPTED:
            _interrupted(self._interrupt)
        sys.exit(code if isinstance(code, int) else DONE)


def _worded(error: FieldTheoryError) -> str:
    """The message on one line, with an argument of the engine under the name of its option."""
    text = " ".join(str(error).split())
    options = {"activation", "ard", "batch_size", "bias_variance", "chains", "checkpoint_every", "classes", "data",
               "data_seed", "draws", "dtype", "effort", "gibbs", "input_dim", "jobs", "law", "level", "loops",
               "method", "nodes", "noise", "noise_variance", "order", "out", "overwrite", "readout_variance",
               "relevant", "resolvent", "resume", "samples", "scaling", "seed", "start", "step", "target",
               "tempering", "test_samples", "thin", "threads", "view", "warmup", "weight_variance", "width", "widths"}
    name = str(getattr(error, "argument", ""))
    text = text.replace(", or None to keep it a symbol", "")  # a number that was given stays no symbol
    if name.startswith("prior"):  # the one prior that has an option
        text, name = f"ard{text.removeprefix(name)}", "ard"
        text = text.replace("got gaussian; expected ft.ARD(alpha0)", "got no --ard; expected --ard ALPHA")
        text = text.replace("expected 'gaussian'", "expected no --ard")
    flag, dot, part = name.partition(".")
    if flag in options and text.startswith(name):
        option = f"--{flag.replace('_', '-')}"
        text = f"{option}{dot and ' '}{part}{text[len(name):]}"
        # What Python spells None is, here, an option that is left out.
        text = text.replace("or None to", f"or no {option} to").replace("got None;", f"got no {option};")
        text = text.replace("expected None:", f"expected no {option}:")
    text = _as_options(text)
    return f"did not converge: {text}" if isinstance(error, NotConverged) else text


def _as_options(text: str) -> str:
    return re.sub(r"\b(resume|overwrite)=True", r"--\1", text)


def _usage(error: Any, given: list[str]) -> str:
    """A usage error of the parser on one line; where a value has the wrong type, with that value."""
    param = getattr(error, "param", None)
    flags = list(getattr(param, "opts", ()))
    if type(error).__name__ == "BadParameter" and flags and flags[0].startswith("--"):
        for k, word in enumerate(given):
            flag, equals, value = word.partition("=")
            if flag in flags and (equals or k + 1 < len(given)):
                kind = re.search(r"valid (integer|number|float|path)", str(error))
                expected = f"a valid {kind[1]}" if kind else str(error)
                return f"{flag}: got {value if equals else given[k + 1]!r}; expected {expected}"
    return " ".join(str(error.format_message()).split())


def _not_numbers(error: Exception) -> str:
    """What is left to say where linear algebra met numbers beyond what floats hold."""
    return (f"numbers: got a matrix that linear algebra fails on ({error}); expected inputs, targets and variances "
            "whose products floats can hold: rescale them")


def _refuse(message: str) -> NoReturn:
    print(f"fieldtheory: {message}", file=sys.stderr)
    sys.exit(BAD_INPUT)


def _interrupted(interrupt: KeyboardInterrupt | None = None) -> NoReturn:
    said = _as_options(" ".join(str(interrupt or "").split())).replace("the same call", "the same command")
    print(f"fieldtheory: interrupted; {said or 'no file was left half written'}", file=sys.stderr)
    sys.exit(INTERRUPTED)


# ------------------------------------------------------------------------------------------------- from options


def _scaling(text: str) -> Scaling:
    from fieldtheory.network import Scaling

    named = {"standard": Scaling.standard, "mean-field": Scaling.mean_field}
    if text.lower().replace("_", "-") in named:
        return named[text.lower().replace("_", "-")]()
    if "," not in text:
        raise UnknownName("scaling", text, [*named, "gamma,delta"])
    try:
        gamma, delta = (Fraction(part.strip()) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise BadInput("scaling", repr(text), "two exponents 'gamma,delta', such as 2,1 or 3/2,1/2") from None
    return Scaling(readout=gamma, noise=delta)


def network(width: int | None, activation: str, scaling: str, readout: float, weight: float, noise: float, *,
            bias_variance: float = 0.0, ard: float | None = None) -> Network:
    """The network that the options describe."""
    from fieldtheory.network import Network

    return Network(activation=activation, width=width, readout_variance=readout, weight_variance=weight,
                   noise_variance=noise, scaling=_scaling(scaling), **priors(bias_variance, ard))


def priors(bias_variance: float, ard: float | None) -> dict[str, Any]:
    """The options of a network's prior, as arguments of `Network`."""
    from fieldtheory.network import ARD

    return {"bias_variance": bias_variance, "prior": "gaussian" if ard is None else ARD(ard)}


def dataset(name: str, samples: int | None, test_samples: int | None, input_dim: int | None, classes: str | None,
            seed: int) -> Dataset:
    """The data set that the options describe: a task by name, or a file."""
    from fieldtheory import tasks

    named = not (name.endswith(".npz") or Path(name).is_file())
    options: dict[str, Any] = {"samples": samples, "test_samples": test_samples, "input_dim": input_dim}
    if classes is not None:
        if not re.fullmatch(r"\d,\d", classes.replace(" ", "")):
            raise BadInput("classes", repr(classes), "two digits, such as 3,8")
        options["classes"] = tuple(int(digit) for digit in classes.split(","))
    given = {key: value for key, value in options.items() if value is not None}
    if not named and given:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise BadInput("data", f"{name} with {flags}", "no such option beside a file, whose arrays say it all")
    if named:
        if name == "digits" and samples is None:
            given = {"samples": 100, "test_samples": 40} | given
        given["seed"] = seed
    try:
        return tasks.load(name, **given)
    except UnknownName as error:
        if error.argument.startswith("option of "):
            option = f"--{str(error.given).strip(chr(39)).replace('_', '-')}"
            raise BadInput("data", f"{name} with {option}", "a task that has this option, or no such option") from None
        raise
    except BadInput as error:
        if not named:
            what = name if error.argument == "path" else f"{name} ({error.argument}: {error.given})"
            raise BadInput("data", what, error.expected) from None
        if error.argument == "seed":  # --seed is that of the chains
            raise BadInput("data_seed", error.given, error.expected) from None
        raise


def search(effort: str | None, start: str | None, relevant: str | None) -> dict[str, Any]:
    """How a theory with particles looks for its solution, as arguments of `predict`."""
    found: dict[str, Any] = {} if start is None else {"start": start}
    if effort is not None:
        parts = [part.split("=") for part in effort.replace(" ", "").split(",")]
        if not all(len(part) == 2 and part[1].isdecimal() for part in parts):
            raise BadInput("effort", effort, "names and integers, such as settle=150,ensembles=4")
        found["effort"] = {name: int(number) for name, number in parts}
    if relevant is not None:
        parts_of = relevant.replace(" ", "").split(",")
        if not all(part.isdecimal() for part in parts_of):
            raise BadInput("relevant", relevant, "inputs counted from 0, such as 0,1")
        found["relevant"] = [int(part) for part in parts_of]
    return found


def modes(text: str) -> dict[Any, float]:
    """A target as text: modes with coefficients, such as 2 or 1:1,3:-0.3 or 1x1."""
    found: dict[Any, float] = {}
    for item in text.replace(" ", "").split(","):
        matched = re.fullmatch(r"(\d+(?:x\d+)*)(?::([-+]?[\d.]+(?:e[-+]?\d+)?))?", item)
        try:
            coefficient = float(matched[2]) if matched and matched[2] else 1.0
        except ValueError:
            matched = None
        if not matched:
            raise BadInput("target", repr(text), "modes with coefficients, such as 2 or 1:1,3:-0.3 or 1x1")
        orders = tuple(map(int, matched[1].split("x")))
        found[orders if len(orders) > 1 else orders[0]] = coefficient
    return found


def numbers(flag: str, text: str) -> list[float]:
    """Positive numbers separated by commas."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < number < math.inf for number in found):
        raise BadInput(flag, repr(text), "positive numbers separated by commas")
    return found


def theory(name: str, net: Network, *, view: str | None = None, loops: int | None = None,
           resolvent: str | None = None) -> Any:
    """The theory of this name for a network, in the view and to the order asked for."""
    import inspect

    from fieldtheory.catalogue import theories

    derive = theories[name]
    options = {key: value for key, value in (("view", view), ("loops", loops), ("resolvent", resolvent))
               if value is not None}
    for key in options:
        if key not in inspect.signature(derive).parameters:
            raise BadInput(key, options[key], f"no --{key}: the theory {name} has none")
    if loops is not None and loops < 0:
        raise BadInput("loops", loops, "an integer >= 0")
    try:
        return derive(net, **options)
    except RuleError as error:
        if net.activation == "identity":
            raise
        expected = f"one that the theory {name} can treat, such as identity (it stops where {error})"
        raise BadInput("activation", repr(net.activation), expected) from None


# ------------------------------------------------------------------------------------------------------- output


def check_out(path: Path | None, suffixes: Sequence[str], folders: bool = False) -> None:
    """Refuse before the work what would fail after it. `folders`: a .zarr may be one that is there."""
    if path is None:
        return
    if path.suffix not in suffixes:
        raise BadInput("out", str(path), f"a file ending in {' or '.join(suffixes)}")
    folder = path.absolute().parent
    if (path.is_dir() and not (folders and path.suffix == ".zarr")) or not folder.is_dir():
        raise BadInput("out", str(path), "a file in an existing folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput("out", str(path), "a file in a folder that can be written to")


def phase_counting(found: Any) -> Any:
    """The power counting of a theory's loops, for P between 1 and infinity and noise that does not grow."""
    import sympy as sp

    delta = sp.Symbol("delta", real=True)
    return found.power_counting(of="loops", constraints=[delta >= 0])


def relation_text(relation: Any) -> str:
    """An inequality as SymPy writes it, an equation with its sign."""
    return f"{relation.lhs} = {relation.rhs}" if type(relation).__name__ == "Equality" else str(relation)


EXPONENTS = ("gamma", "delta", "p")


def phase_planes(fix: str, values: str) -> list[dict[str, Fraction]]:
    """The planes where one exponent has the values given."""
    if fix not in EXPONENTS:
        raise UnknownName("--fix", fix, EXPONENTS)
    try:
        return [{fix: Fraction(part)} for part in values.split(",")]
    except (ValueError, ZeroDivisionError):
        raise BadInput("--at", repr(values), "numbers separated by commas, such as 0,1/2,1") from None


def phase_figure(counting: Any, fix: str, values: str) -> Any:
    """The regions in the planes where one exponent has the values given, with the usual scalings marked."""
    from fieldtheory.network import Scaling

    planes = phase_planes(fix, values)
    x, y = (name for name in EXPONENTS if name != fix)
    points = {words: {"gamma": scaling.readout, "delta": scaling.noise, "p": 1} for words, scaling in
              (("standard, P ~ N", Scaling.standard()), ("mean-field, P ~ N", Scaling.mean_field()))}
    return counting.plot(x, y, planes, limits={"gamma": (0, 3), "delta": (0, 2), "p": (0, 2)}, points=points)


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """A file that cannot be written is a bad --out, whatever library says so and however."""
    try:
        yield
    except OSError as error:
        raise BadInput("out", str(path), f"a file that can be written ({error.strerror or error})") from None


def write_figure(path: Path, figure: Any) -> None:
    """A figure in the format that the file's name says, whole or not at all."""
    import io

    from fieldtheory.files import write_atomically

    stream = io.BytesIO()
    figure.savefig(stream, format=path.suffix[1:], dpi=150)
    with written(path):
        write_atomically(path, stream.getvalue())


def check_folder(path: Path) -> None:
    """A folder that exists, or one that can be made."""
    standing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not standing.is_dir() or not os.access(standing, os.W_OK):
        raise BadInput("out", str(path), "a folder, existing or new, that can be written to")


def write_netcdf(path: Path, dataset: Any) -> None:
    """A prediction, a table or samples as NetCDF, whole or not at all."""
    from fieldtheory.files import replacing

    with written(path), replacing(path) as temporary:
        # bool and None have no place in NetCDF attributes.
        if hasattr(dataset, "attrs") and hasattr(dataset, "data_vars"):
            dataset = dataset.assign_attrs({key: value if isinstance(value, str | int | float) else str(value)
                                            for key, value in dataset.attrs.items() if value is not None})
        dataset.to_netcdf(str(temporary), engine="h5netcdf")
