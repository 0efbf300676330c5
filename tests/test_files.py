"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fieldtheory.files import replacing, write_atomically


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "a.tex", "λ\r\nx\n")
    assert path.read_bytes() == "λ\r\nx\n".encode()
    write_atomically(str(path), b"bytes")
    assert path.read_bytes() == b"bytes"
    assert os.listdir(tmp_path) == ["a.tex"]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, kind: type[BaseException]) -> None:
    path = write_atomically(tmp_path / "a.nc", "before")
    with pytest.raises(kind), replacing(path) as temporary:
        temporary.write_text("half of")
        assert temporary.suffix == ".nc"
        raise kind
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.nc"]


def test_a_failed_rename_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "taken", "text")
    assert os.listdir(tmp_path) == ["taken"]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "nowhere" / "a.txt", "text")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target = write_atomically(tmp_path / "target", "old")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_atomically(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    written = write_atomically(tmp_path / "atomic", "")
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode
