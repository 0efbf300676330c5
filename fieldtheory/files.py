"""Files that exist whole or not at all: whatever interrupts a run, no half-written file stays behind."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the directory of ``path``, moved onto it when the block ends without an exception.

    For writers that want a path of their own (NetCDF, ``.npz``). The suffix is kept, since some append the
    one they expect. On any exception, an interrupt included, the temporary file is removed and whatever
    stood at ``path`` before is untouched. A symbolic link is followed: its target is replaced, not the link.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.stem[:80]}.{secrets.token_hex(6)}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_atomically(path: str | os.PathLike[str], text: str | bytes) -> Path:
    """Write ``text`` (a str as UTF-8, with its line ends unchanged) to ``path``, whole or not at all.

    Errors are those of the operating system (``FileNotFoundError`` for a directory that is not there, ...).
    """
    content = text.encode("utf-8") if isinstance(text, str) else text
    with replacing(path) as temporary, open(temporary, "xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())  # or a crash after the rename could leave an empty file
    return Path(path)
