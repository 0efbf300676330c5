"""What every test shares: Hypothesis settings, a quiet Matplotlib, and pdflatex."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")

# No deadline: the first example of a test may compile a kernel.  On CI the draws are the same every time, so
# that a change is judged by the same examples as its parent; elsewhere every run tries new ones.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever compiles LaTeX is a latex test, marked or not."""
    for item in items:
        if "compile_latex" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.latex)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without pdflatex a latex test is skipped, or fails where FIELDTHEORY_REQUIRE_LATEX=1 (as CI sets)."""
    if item.get_closest_marker("latex") and shutil.which("pdflatex") is None:
        if os.environ.get("FIELDTHEORY_REQUIRE_LATEX") == "1":
            pytest.fail("pdflatex is not installed and FIELDTHEORY_REQUIRE_LATEX=1", pytrace=False)
        pytest.skip("pdflatex is not installed")


@pytest.fixture
def compile_latex(tmp_path: Path) -> Callable[[str], Path]:
    """compile_latex(source) -> the PDF; an error of pdflatex fails the test with the end of its log."""

    def compile_source(source: str) -> Path:
        (tmp_path / "document.tex").write_text(source, encoding="utf-8")
        options = ["-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape"]
        run = subprocess.run(
            ["pdflatex", *options, "document.tex"],
            cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False,
        )
        assert run.returncode == 0, "pdflatex failed:\n" + "\n".join(run.stdout.splitlines()[-40:])
        return tmp_path / "document.pdf"

    return compile_source
