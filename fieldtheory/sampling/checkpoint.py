"""Checkpoints: what a chain needs to go on as if nothing had happened, in one file that is whole or refused.

A checkpoint is one line of text, `fieldtheory checkpoint <format> <sha256> <length>`, and behind it an `.npz`
of plain arrays, to which line and checksum refer. It is written beside its name and moved onto it, so that
whatever kills a run leaves the previous checkpoint or the new one. Nothing in it is ever unpickled.

A run is described by its settings, a flat mapping from names to text and numbers; arrays among them are
represented by their digests. Only a run with the same settings may go on from a checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldtheory.errors import BadInput, CorruptFile
from fieldtheory.files import write_atomically

FORMAT = 1
_MAGIC = "fieldtheory checkpoint"
#: Settings that a run may be resumed with another value of.
FREE = ("draws",)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write plain arrays to a checkpoint, whole or not at all, and on the disk when this returns."""
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    if objects := [name for name, array in plain.items() if array.dtype.hasobject]:
        raise TypeError(f"a checkpoint holds plain arrays, and {', '.join(objects)} would have to be pickled")
    packed = io.BytesIO()
    np.savez(packed, **plain)  # type: ignore[arg-type]  # its stubs take a name for allow_pickle
    content = packed.getvalue()
    head = f"{_MAGIC} {FORMAT} {hashlib.sha256(content).hexdigest()} {len(content)}\n"
    write_atomically(path, head.encode() + content)


def load_arrays(path: Path, remedy: str) -> dict[str, NDArray[Any]]:
    """The arrays of a checkpoint. CorruptFile for one that is cut short, changed, or of another format."""
    head, _, content = path.read_bytes().partition(b"\n")
    words = head.decode("ascii", "replace").split()
    if words[:2] != _MAGIC.split() or len(words) != 5:
        raise CorruptFile(f"{path} is not a checkpoint; {remedy}")
    if words[2] != str(FORMAT):
        raise CorruptFile(f"{path} is a checkpoint of format {words[2]}, and this version reads {FORMAT}; {remedy}")
    if str(len(content)) != words[4]:
        raise CorruptFile(f"{path} is cut short: {len(content)} bytes of {words[4]}; {remedy}")
    if hashlib.sha256(content).hexdigest() != words[3]:
        raise CorruptFile(f"{path} was changed after it was written: its checksum does not hold; {remedy}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as packed:
            return {name: packed[name] for name in packed.files}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptFile(f"{path} holds something other than plain arrays ({error}); {remedy}") from None


# ---------------------------------------------------------------------------------------------------- settings


def digest_of(array: ArrayLike) -> str:
    """An array in one line: its shape, type, and the beginning of the SHA-256 of its bytes."""
    values = np.ascontiguousarray(array)
    content = hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest()
    return f"array {values.shape} {values.dtype} sha256 {content[:24]}"


def digest_of_functions(functions: tuple[Callable, ...]) -> str:
    """Functions of a number in one line, by their values: what a name or an address would not tell."""
    grid = np.concatenate([np.linspace(-4.0, 4.0, 33), [-30.0, 30.0, 1e-3]])
    return digest_of([[float(function(x)) for x in grid] for function in functions])


def environment() -> dict[str, str]:
    """Versions and processor: with others the last bits of a sum may differ."""
    from llvmlite import binding

    found = {name: version(name) for name in ("numpy", "scipy", "numba")}
    with contextlib.suppress(PackageNotFoundError):  # run from its source
        found["bayes-fieldtheory"] = version("bayes-fieldtheory")
    return found | {"processor": binding.get_host_cpu_name()}


def write_settings(path: Path, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write a run's settings, and the facts of its storage, as JSON with a checksum."""
    body = {"settings": dict(settings), "environment": environment(), **facts}
    text = json.dumps({"format": FORMAT, "sha256": _checksum(body), **body}, indent=1)
    write_atomically(path, text)


def read_settings(path: Path, remedy: str) -> dict[str, Any]:
    """What `write_settings` wrote: "settings", "environment" and the facts. CorruptFile if it was changed."""
    try:
        content = json.loads(path.read_bytes())
        given, found = content.pop("sha256"), content.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CorruptFile(f"{path} is cut short, or not the description of a run; {remedy}") from None
    if found != FORMAT:
        raise CorruptFile(f"{path} has format {found}, and this version reads {FORMAT}; {remedy}")
    if given != _checksum(content):
        raise CorruptFile(f"{path} was changed after it was written: its checksum does not hold; {remedy}")
    return content


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back, so that they compare equal to those of a file."""
    return json.loads(json.dumps(dict(settings), default=str))


def key_of(settings: Mapping[str, Any]) -> bytes:
    """What tells the checkpoints of a run from those of another: a digest of all but the free settings."""
    return bytes.fromhex(_checksum({name: value for name, value in settings.items() if name not in FREE}))


def check_same(given: Mapping[str, Any], recorded: Mapping[str, Any], where: Path) -> None:
    """BadInput naming every setting, but the free ones, that differs from the recorded, with both values."""
    names = [name for name in {**recorded, **given} if name not in FREE]
    missing = object()
    different = [name for name in names if given.get(name, missing) != recorded.get(name, missing)]
    if different:
        said = "; ".join(
            f"{name} = {given.get(name, 'nothing')} where the run has {recorded.get(name, 'nothing')}"
            for name in different
        )
        raise BadInput(
            "resume", said, f"the arguments with which {where} was started, or another out for another run"
        )


def warn_of_changes(recorded: Mapping[str, str], where: Path) -> None:
    """A warning if the run was started with other versions or on another processor."""
    now = environment()
    changed = [f"{name} {now.get(name)} (was {recorded.get(name)})" for name in now if now[name] != recorded.get(name)]
    if changed:
        warnings.warn(
            f"{where} goes on with {', '.join(changed)}: its draws are as good, but need not be those that an "
            "uninterrupted run would have made to the last bit",
            stacklevel=4,
        )


def sync(paths: list[Path]) -> None:
    """Wait until files, and the names they have in their folders, are on the disk."""
    folders = {path.parent for path in paths}
    for path in (*paths, *folders):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
