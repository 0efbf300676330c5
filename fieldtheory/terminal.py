"""What the command line prints: numbers as JSON or in tables with their errors, and how far the work has come.

Numbers go to standard output, everything else to standard error.  Whatever is heavy is imported inside a function.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

_LOG_SECONDS = 15.0  # between two lines of a stage that goes on, where there is no terminal


def _plain(value: Any) -> Any:
    """Anything as what JSON knows: arrays as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def by_text(value: Any) -> Any:
    """A mapping with keys that are text, where they were modes or classes; arrays are left out."""
    if not isinstance(value, Mapping):
        return value
    return {"x".join(map(str, key)) if isinstance(key, tuple) else str(key): item for key, item in value.items()
            if isinstance(item, float | int)}


def print_json(value: Any) -> None:
    """On standard output."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def as_mapping(dataset: xr.Dataset) -> dict[str, Any]:
    """A prediction as what `print_json` takes."""
    return {"attributes": dict(dataset.attrs), **{str(name): dataset[name].values for name in dataset.data_vars}}


SHOWN = 12  # entries of a quantity that has one for each input, up to which all of them are printed


def quantities(prediction: xr.Dataset, targets: Any = None) -> tuple[list[list[str]], list[list[str]]]:
    """Numbers and arrays of a prediction as rows of a table, each with its Monte-Carlo error beside it.

    With the targets at the test inputs also the test error of the mean predictor.
    """
    scalars, arrays = [], []
    if targets is not None and "test_output" in prediction:
        squares = (prediction.test_output.values - targets) ** 2
        scalars.append(["test error of the mean", f"{float(squares.mean()):.6g}"])
    for name in map(str, prediction.data_vars):
        values = prediction[name].values
        if name.endswith("_mcse") and name.removesuffix("_mcse") in prediction:
            continue
        errors = prediction[f"{name}_mcse"].values if f"{name}_mcse" in prediction else 0 * values
        if values.ndim == 0:
            scalars.append([name, with_error(float(values), float(errors)) if errors else f"{float(values):.8g}"])
        elif prediction[name].dims == ("input",) and values.size <= SHOWN:
            arrays.append([f"{name} ({values.size})", "  ".join(map(with_error, values, errors))])
        elif values.ndim == 1:
            error = f", largest error {float(errors.max()):.1g}" if errors.any() else ""
            arrays.append([f"{name} ({values.size})", f"mean {float(values.mean()):+.4g}, root mean square "
                           f"{math.sqrt(float((values**2).mean())):.4g}{error}"])
    return scalars, arrays


def with_error(value: float, error: float) -> str:
    """A number to the digits that its error leaves; without an error to five, however small it is."""
    if not error or not math.isfinite(error):
        return f"{value:.5f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3g}"
    digits = 1 - math.floor(math.log10(abs(error)))
    if digits > 9:
        return f"{value:.3g} ± {error:.1g}"
    return f"{value:.{max(digits, 0)}f} ± {error:.1g}"


def show(rows: Sequence[Sequence[str]], title: str = "", *, words: Sequence[int] = (0,), rule_after: int | None = None,
         file: Any = None) -> None:
    """A table in the terminal; as wide as it must be where there is no terminal.

    ``words`` are columns of words: what is in the last of them is folded where a line is too short for it.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = file or sys.stdout
    console = Console(file=stream, width=None if stream.isatty() else 200, highlight=False)
    table = Table(box=_box(), header_style="bold")
    head, *body = rows
    for k, name in enumerate(head):
        table.add_column(name, justify="left" if k in words else "right", no_wrap=k == 0 or k != max(words),
                         overflow="fold")
    styles = {"kept": "green", "rejected": "red", "undecided": "yellow", "no prediction": "yellow", "ok": "green",
              "FAILED": "red"}
    for n, row in enumerate(body):
        table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in row), end_section=n == rule_after)
    if title:  # not in the table, which would fold it to its own width
        console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(table)


def _box() -> Any:
    from rich import box

    return box.SIMPLE_HEAD


@contextlib.contextmanager
def progress() -> Iterator[Callable[..., None]]:
    """report(text) begins a stage; report(text, done, total, note=..) moves its bar. On standard error.

    Loggers of libraries are silent meanwhile: ArviZ warns of chains too few for R-hat, which the table shows as nan.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with _stages() as report:
            yield report
    finally:
        logging.disable(before)


def duration(seconds: float | None) -> str:
    """How long is left, in words; nothing where that is not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    minutes = round(seconds / 60)
    return f"{minutes} min left" if minutes < 90 else f"{minutes / 60:.1f} h left"


def bars(text: str) -> bool | Callable[[int, int], None]:
    """For whoever draws bars of its own: True in a terminal, elsewhere a function that says once what has begun."""
    if sys.stderr.isatty():
        return True
    said: list[str] = []

    def say(done: int, total: int) -> None:
        if not said:
            said.append(text)
            print(f"... {text}", file=sys.stderr, flush=True)

    return say


@contextlib.contextmanager
def _stages() -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:  # lines for a log, one per stage
        last, said = "", 0.0

        def say(text: str, done: int = 0, total: int = 0, note: str = "") -> None:
            nonlocal last, said
            late = note and time.monotonic() - said > _LOG_SECONDS
            if text != last or late:
                where = f" {done} of {total}, {note}" if late and text == last else ""
                print(f"... {text}{where}", file=sys.stderr, flush=True)
                last, said = text, time.monotonic()

        yield say
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, Any] = {}

        def report(text: str, done: int = 0, total: int = 0, note: str = "") -> None:
            if text not in tasks:
                for known in tasks.values():
                    bar.update(known, total=1, completed=1)
                tasks[text] = bar.add_task(text, total=total or None, completed=done, note=note)
            elif total:
                bar.update(tasks[text], completed=done, total=total, note=note)

        yield report
        for known in tasks.values():
            bar.update(known, total=1, completed=1)
