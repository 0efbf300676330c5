"""The import walls of pyproject.toml stand, and each contract catches what it forbids.

Every row of PLANTED breaks one contract in a temporary copy of the packages.  A row names modules as they are
called in the finished house; those that do not exist are created empty in the copy.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
UPWARD = next(contract for contract in CONTRACTS if contract["id"] == "layers")["ignore_imports"]

# contract, importing module, statement, the edge or module that must be reported
PLANTED = [
    # each layer reaches one step up
    ("layers", "fieldtheory.errors", "import fieldtheory.network", "fieldtheory.network"),
    ("layers", "fieldtheory.errors", "import fieldtheory.tasks", "fieldtheory.tasks"),
    ("layers", "fieldtheory.network", "import fieldtheory.symbolic.fields", "fieldtheory.symbolic.fields"),
    ("layers", "fieldtheory.tasks", "from fieldtheory import exact", "fieldtheory.exact"),
    ("layers", "fieldtheory.files", "import fieldtheory.tasks", "fieldtheory.tasks"),
    ("layers", "fieldtheory.symbolic.rules", "import fieldtheory.numerics", "fieldtheory.numerics"),
    ("layers", "fieldtheory.numerics", "from fieldtheory.action import Action", "fieldtheory.action"),
    ("layers", "fieldtheory.stepchecks", "from fieldtheory.derivation import Derivation", "fieldtheory.derivation"),
    ("layers", "fieldtheory.action", "import fieldtheory.compile", "fieldtheory.compile"),
    ("layers", "fieldtheory.compile", "import fieldtheory.solve", "fieldtheory.solve"),
    ("layers", "fieldtheory.solve", "import fieldtheory.newton", "fieldtheory.newton"),
    ("layers", "fieldtheory.newton", "import fieldtheory.branches", "fieldtheory.branches"),
    ("layers", "fieldtheory.branches", "import fieldtheory.predictor", "fieldtheory.predictor"),
    ("layers", "fieldtheory.compile", "import fieldtheory.sampler", "fieldtheory.sampler"),
    ("layers", "fieldtheory.sampler", "import fieldtheory.predictor", "fieldtheory.predictor"),
    ("layers", "fieldtheory.sampler", "import fieldtheory.solve", "fieldtheory.solve"),
    ("layers", "fieldtheory.predictor", "import fieldtheory.derivation", "fieldtheory.derivation"),
    ("layers", "fieldtheory.derivation", "import fieldtheory.verdict", "fieldtheory.verdict"),
    ("layers", "fieldtheory.verdict", "import fieldtheory.theory", "fieldtheory.theory"),
    ("layers", "fieldtheory.checks", "import fieldtheory.theory", "fieldtheory.theory"),
    ("layers", "fieldtheory.verdict", "import fieldtheory.checks", "fieldtheory.checks"),
    ("layers", "fieldtheory.theory", "import fieldtheory.catalogue", "fieldtheory.catalogue"),
    ("layers", "fieldtheory.theory", "import fieldtheory.cli", "fieldtheory.cli"),
    ("layers", "fieldtheory.console", "import fieldtheory.comparisons", "fieldtheory.comparisons"),
    ("layers", "fieldtheory.comparisons", "import fieldtheory.cli", "fieldtheory.cli"),
    ("layers", "fieldtheory.theory", "import fieldtheory.console", "fieldtheory.console"),
    ("layers", "fieldtheory.theory", "import fieldtheory.testing", "fieldtheory.testing"),
    ("layers", "fieldtheory.theory", "import fieldtheory.export.report", "fieldtheory.export.report"),
    # the three that live side by side and know nothing of each other
    ("layers", "fieldtheory.symbolic.rules", "import fieldtheory.sampling", "fieldtheory.sampling"),
    ("layers", "fieldtheory.symbolic.rules", "import fieldtheory.exact", "fieldtheory.exact"),
    ("layers", "fieldtheory.sampling.methods", "import fieldtheory.exact", "fieldtheory.exact"),
    ("layers", "fieldtheory.exact", "import fieldtheory.sampling.chains", "fieldtheory.sampling.chains"),
    # the witnesses look at what is above them
    *[
        ("witnesses", witness, f"import fieldtheory.{theory}", f"fieldtheory.{theory}")
        for witness in ("fieldtheory.sampling.posterior", "fieldtheory.exact")
        for theory in ("action", "compile", "solve", "theory", "sampler")
    ],
    # only the listed edges point upwards, not their neighbours
    ("layers", "fieldtheory.tasks", "def f(): import fieldtheory.action", "fieldtheory.action"),
    ("layers", "fieldtheory.network", "def f(): import fieldtheory.compile", "fieldtheory.compile"),
    ("layers", "fieldtheory.solve", "def f(): import fieldtheory.export.plots", "fieldtheory.export.plots"),
    ("layers", "fieldtheory.verdict", "import fieldtheory.export.latex", "fieldtheory.export.latex"),
    # a module that says not where it lives
    ("layers", "fieldtheory.helpers", "", "fieldtheory.helpers"),
    ("engine-knows-no-theory", "fieldtheory.theory", "import derivations.linear", "derivations.linear"),
    ("engine-knows-no-theory", "fieldtheory", "from derivations import linear", "derivations.linear"),
    ("front-door", "fieldtheory.solve", "import fieldtheory as ft", "fieldtheory"),
    ("front-door", "fieldtheory.symbolic.rules", "def f(): from fieldtheory import Action", "fieldtheory"),
    ("symbols-only", "fieldtheory.symbolic.rules", "import numpy as np", "numpy"),
    ("symbols-only", "fieldtheory.symbolic.loops", "def f(): from numba import njit", "numba"),
    ("symbols-only", "fieldtheory.symbolic", "from scipy import special", "scipy"),
    ("witnesses", "fieldtheory.exact", "import sympy as sp", "sympy"),
    ("witnesses", "fieldtheory.sampling.posterior", "def f(): from sympy import lambdify", "sympy"),
    ("witnesses", "fieldtheory.exact", "from fieldtheory.symbolic import forms", "fieldtheory.symbolic"),
    ("witnesses", "fieldtheory.sampling.chains", "import fieldtheory.symbolic", "fieldtheory.symbolic"),
    ("theories-stand-alone", "derivations.planted", "from derivations import linear", "derivations.linear"),
    ("theories-stand-alone", "derivations.planted", "def f(): from . import linear", "derivations.linear"),
]


def path_of(house: Path, module: str) -> Path:
    """The file of a module of the copy, created empty with its packages where missing."""
    path = house.joinpath(*module.split("."))
    if (path / "__init__.py").exists():
        return path / "__init__.py"
    for package in reversed(path.relative_to(house).parents[:-1]):
        (house / package).mkdir(exist_ok=True)
        (house / package / "__init__.py").touch()
    path.with_suffix(".py").touch()
    return path.with_suffix(".py")


def plant(house: Path, module: str, statement: str) -> None:
    path = path_of(house, module)
    path.write_text(f"{path.read_text()}\n\n{statement}\n")


def lint(house: Path, contract: str = "") -> subprocess.CompletedProcess[str]:
    """Run import-linter inside the copy: -c puts the working directory first on the path."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    options = ["--no-cache", "--no-logo", *(["--contract", contract] if contract else [])]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-c", program, *options]
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for package in ("fieldtheory", "derivations"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def module_level_imports(source: str) -> Iterator[str]:
    """The modules that a file imports when it is imported: not inside calls, not for type checkers only."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            pending.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending.extend(ast.iter_child_nodes(node))


def reaches_up_on_import(source: str, imported: str) -> bool:
    return any(f"{name}.".startswith(f"{imported}.") for name in module_level_imports(source))


def test_the_walls_stand(house: Path) -> None:
    run = lint(house)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_contract_is_planted_against() -> None:
    assert {contract["id"] for contract in CONTRACTS} == {contract for contract, *_ in PLANTED}


@pytest.mark.parametrize(("contract", "module", "statement", "reported"), PLANTED)
def test_a_planted_violation_is_caught(
    house: Path, contract: str, module: str, statement: str, reported: str
) -> None:
    if reported.split(".")[0] in ("fieldtheory", "derivations"):
        path_of(house, reported)
    plant(house, module, statement)
    run = lint(house, contract)
    assert run.returncode == 1
    assert "BROKEN" in run.stdout, run.stdout + run.stderr
    edge = f"{module} -> {reported}" if statement else f"- {reported}"
    assert any(line.strip("- ").startswith(edge.strip("- ")) for line in run.stdout.splitlines()), run.stdout


def test_a_chain_through_a_lower_module_is_caught(house: Path) -> None:
    plant(house, "fieldtheory.exact", "import fieldtheory.errors")
    plant(house, "fieldtheory.errors", "import sympy")
    run = lint(house, "witnesses")
    assert run.returncode == 1
    assert "fieldtheory.errors -> sympy" in run.stdout, run.stdout + run.stderr


def test_a_chain_through_the_front_door_is_caught(house: Path) -> None:
    plant(house, "fieldtheory", "import fieldtheory.theory")
    path_of(house, "fieldtheory.theory")
    plant(house, "fieldtheory.exact", "import fieldtheory")
    run = lint(house, "layers")
    assert run.returncode == 1
    assert "fieldtheory -> fieldtheory.theory" in run.stdout, run.stdout + run.stderr


def test_the_listed_exceptions_pass(house: Path) -> None:
    for edge in UPWARD:
        importer, imported = edge.split(" -> ")
        path_of(house, imported)
        plant(house, importer, f"def planted():\n    import {imported}")
    run = lint(house)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("edge", UPWARD)
def test_an_exception_lives_inside_a_call(edge: str, house: Path) -> None:
    importer, imported = edge.split(" -> ")
    source = path_of(house, importer).read_text()
    assert not reaches_up_on_import(source, imported)
    assert not reaches_up_on_import(source + f"\n\ndef f(): import {imported}\n", imported)
    package, _, name = imported.rpartition(".")
    assert reaches_up_on_import(source + f"\nimport {imported}\n", imported)
    assert reaches_up_on_import(source + f"\nclass A:\n    from {package} import {name}\n", imported)
