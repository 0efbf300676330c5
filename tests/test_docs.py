"""The examples that people copy run: every Python block of README.md and docs/, and every command shown exists."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.is_file()]
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+|~~~+) *\{?(?P<language>[\w-]*)\}?(?P<info>[^\n]*)\n"
                   r"(?P<body>.*?)^(?P=indent)(?P=ticks) *$", re.MULTILINE | re.DOTALL)
PYTHON = {"python", "py", "python3", "code-cell"}
SHELL = {"bash", "sh", "shell", "console"}


def blocks(text: str, languages: set[str]) -> Iterator[tuple[int, str]]:
    """(line number, code) of each fenced block; ``python no-run`` is for reading only."""
    for match in FENCE.finditer(text):
        if match["language"].lower() in languages and "no-run" not in match["info"]:
            line = text.count("\n", 0, match.start("body")) + 1
            yield line, re.sub(f"(?m)^{match['indent']}", "", match["body"])


def commands(code: str) -> Iterator[list[str]]:
    """The words of each command of a shell block; where lines have a prompt, the others are output."""
    lines = code.replace("\\\n", " ").splitlines()
    prompted = [line for line in lines if line.startswith("$ ")]
    for line in prompted or lines:
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):  # VARIABLE=value command
            words = words[1:]
        for part in _split(words):
            if part:
                yield part


def _split(words: list[str]) -> Iterator[list[str]]:
    """Commands joined by && or |, one by one."""
    part: list[str] = []
    for word in words:
        if word in ("&&", "||", "|", ";"):
            yield part
            part = []
        else:
            part.append(word)
    yield part


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of one page in order, in one namespace."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    plt.switch_backend("Agg")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        for line, code in blocks(page.read_text(encoding="utf-8"), PYTHON):
            # Blank lines in front make tracebacks point into the page.
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
    finally:
        plt.close("all")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """Each command is a make target, a subcommand of fieldtheory with the options shown, or known to any shell."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line, code in blocks(page.read_text(encoding="utf-8"), SHELL):
        for command in commands(code):
            where = f"{page.name}:{line}: {shlex.join(command)}"
            program, *arguments = command
            if Path(program).name == "make":
                plain = [word for word in arguments if not word.startswith("-") and "=" not in word]
                assert set(plain) <= targets, where
            elif Path(program).name == "fieldtheory":
                _check_command_line(arguments, where)
            elif program.endswith(".ci/run"):
                assert (ROOT / ".ci" / "run").is_file(), where
            else:
                known = {"cd", "export", "source", ".", "git", "pip", "python", "python3", "pytest"}
                assert Path(program).name in known or shutil.which(program) or program.startswith(".venv/"), where


def _check_command_line(arguments: list[str], where: str) -> None:
    import typer.main

    cli = pytest.importorskip("fieldtheory.cli")
    group = typer.main.get_command(cli.app)
    if not arguments or arguments[0].startswith("-"):
        return
    subcommands = getattr(group, "commands", {})
    assert arguments[0] in subcommands, where
    options = {name for parameter in subcommands[arguments[0]].params
               for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for word in arguments[1:]:
        if re.match(r"--?[a-z]", word):
            assert word.split("=")[0] in options, where


def anchors(page: Path) -> set[str]:
    """What a link into a page may name: its headings as GitHub spells them, and ids set by hand."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE)
    spelt = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    by_hand = re.findall(r'<a (?:id|name)="([^"]+)"|^\(([\w-]+)\)=$', text, re.MULTILINE)
    return spelt | {name for pair in by_hand for name in pair if name}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


def test_blocks_are_found() -> None:
    text = ("# A page\n\n```python\nx = 1\n```\n\n- item\n  ```python\n  y = x\n  ```\n\n"
            "```bash\nmake test  # all\n```\n")
    assert list(blocks(text, PYTHON)) == [(4, "x = 1\n"), (9, "y = x\n")]
    (block,) = blocks(text, SHELL)
    assert list(commands(block[1])) == [["make", "test"]]
    assert list(commands("$ A=1 fieldtheory list | head\nlinear\n")) == [["fieldtheory", "list"], ["head"]]
    assert list(blocks("```python no-run\n1/0\n```\n", PYTHON)) == []
