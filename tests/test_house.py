"""Packaging: what is pinned, what a target is called, and that nothing points at one machine."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import pin
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def test_constraints_are_names_and_versions_only() -> None:
    for pin_ in PINS:
        assert re.fullmatch(r"==[0-9][0-9A-Za-z.]*", str(pin_.specifier)), pin_
        assert pin_.url is None and not pin_.extras, pin_


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_once_within_its_range(python: str) -> None:
    environment = {"python_version": python}
    active = [pin_ for pin_ in PINS if pin_.marker is None or pin_.marker.evaluate(environment)]
    pins = {canonicalize_name(pin_.name): str(pin_.specifier).removeprefix("==") for pin_ in active}
    assert len(pins) == len(active)
    for requirement in map(Requirement, chain(PROJECT["dependencies"], *EXTRAS.values())):
        if requirement.name != PROJECT["name"]:
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_every_dependency_says_why() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for requirement in PROJECT["dependencies"]:
        (line,) = [line for line in lines if line.strip().startswith(f'"{requirement}"')]
        assert re.search(r"# \w+", line), line


@pytest.mark.parametrize("target", "help demo test test-latex test-all check bench clean".split())
def test_the_makefile_has_the_targets_people_rely_on(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_pins_that_differ_carry_markers() -> None:
    frozen = [
        ("3.11", {"numpy": "2.4", "sympy": "1.14", "old": "1"}),
        ("3.12", {"numpy": "2.5", "sympy": "1.14"}),
        ("3.14", {"numpy": "2.6", "sympy": "1.14", "New": "2"}),
    ]
    assert pin.merge(frozen) == [
        'New==2 ; python_version >= "3.14"',
        'numpy==2.4 ; python_version < "3.12"',
        'numpy==2.5 ; python_version >= "3.12" and python_version < "3.14"',
        'numpy==2.6 ; python_version >= "3.14"',
        'old==1 ; python_version < "3.12"',
        "sympy==1.14",
    ]
