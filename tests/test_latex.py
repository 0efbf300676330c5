"""The TeX installation has what exported derivations need, and its absence is reported as asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

DOCUMENT = r"""
\documentclass[11pt]{article}
\usepackage[margin=25mm]{geometry}
\usepackage{amsmath, amssymb, mathtools, bm, booktabs, graphicx, xcolor, tikz, hyperref}
\begin{document}
\begin{align}
  W(j) &= -\frac{N}{2} \ln\Bigl(1 - \frac{g}{N}\, j^{\mathsf T} K j\Bigr) \label{eq:w} \\
  \mathcal{Z} &= \int \mathrm{d}\bm{j}\, e^{W(j)}
\end{align}
\begin{tikzpicture} \draw (0, 0) circle (1); \fill (1, 0) circle (2pt); \end{tikzpicture}
\eqref{eq:w} %s
\end{document}
"""


def test_the_packages_of_an_exported_derivation_are_there(compile_latex: Callable[[str], Path]) -> None:
    assert compile_latex(DOCUMENT % "").stat().st_size > 0


def test_an_error_in_the_source_is_an_error_of_the_test(compile_latex: Callable[[str], Path]) -> None:
    with pytest.raises(AssertionError, match="Undefined control sequence"):
        compile_latex(DOCUMENT % r"\nosuchmacro")


@pytest.mark.parametrize(("required", "outcome"), [("1", "error"), ("", "skipped")])
def test_a_missing_pdflatex_is_reported_as_asked(required: str, outcome: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "packages", __file__]
    environment = {**os.environ, "PATH": str(tmp_path), "FIELDTHEORY_REQUIRE_LATEX": required}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert f"1 {outcome}" in run.stdout
    assert (run.returncode == 0) == (outcome == "skipped")
