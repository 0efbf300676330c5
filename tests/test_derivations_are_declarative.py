"""Theory files declare and the engine computes: ours do, and the check catches the ways round it we know."""

from __future__ import annotations

from pathlib import Path

import check_derivations
import pytest

DECLARATIVE = '''
"""A theory file; its docstring may say ln Z = -g/8 + 0.125 and log(x)."""
from __future__ import annotations

import fieldtheory as ft

LARGE = "N"


def derive(net: ft.Network, *, loops: int = 1, view: str = "rescaling", fast: bool = True) -> ft.Action:
    S = net.action().conjugate("f").integrate_out("V")   # a comment: sqrt(2) = 1.41421356
    half, gamma = ft.Rational(1, 2), net.scaling.readout
    return -1 * S.integrate_out("a", times=2)[0] * half**gamma
'''

PLANTED = {
    "import numpy as np": "imports numpy",
    "import sympy": "imports sympy",
    "import fieldtheory.symbolic.rules": "imports fieldtheory.symbolic.rules",
    "from fieldtheory import exact": "imports from fieldtheory",
    "from fieldtheory.symbolic.rules import conjugate": "imports from fieldtheory.symbolic.rules",
    "from . import nngp": "imports from .",
    "def f():\n    from derivations import nngp": "imports from derivations",
    "c = 3": "number 3",
    "c = 0.5": "number 0.5",
    "c = 1.0": "number 1.0",
    "c = 1j": "number 1j",
    "c = -2": "number -2",
    "def f(loops=4): return loops": "number 4",
    "c = 1 / 2": "arithmetic on numbers",
    "c = 2**2 * 2 + 1": "arithmetic on numbers",
    "def f(x): return x ** (-1 / 2)": "arithmetic on numbers",
    "def f(x, log): return log(1 - x)": "calls log",
    "def f(x): return ft.sqrt(x)": "calls sqrt",
    "def f(S, x): return S.diff(x)": "calls diff",
    "def f(x): return ft.solve(x)": "calls solve",
    "ln = ft.log": "uses ft.log",
    "def f(net, data): return ft.exact.linear(net, data)": "looks at ft.exact",
    "def f(net, data): return ft.sample(net, data)": "looks at ft.sample",
    "rules = ft._rules": "uses ft._rules",
    "c = eval('1/8')": "calls eval",
    "c = float('0.125')": "calls float",
    "log = getattr(ft, 'lo' + 'g')": "calls getattr",
    "log = ft.Action.conjugate.__globals__": "reaches for __globals__",
}


def test_our_theory_files_are_declarative(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_derivations.main([]) == 0, capsys.readouterr().out


def test_a_declarative_file_passes() -> None:
    assert list(check_derivations.violations(DECLARATIVE)) == []


@pytest.mark.parametrize("line", PLANTED)
def test_a_planted_violation_is_caught(line: str) -> None:
    found = list(check_derivations.violations(DECLARATIVE + "\n" + line + "\n"))
    assert any(PLANTED[line] in message for _, message in found), found


def test_only_the_front_door_is_used(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text('__all__ = ["Action", "Network", "Rational"]\n')
    names = check_derivations.front_door(tmp_path)
    assert names == {"Action", "Network", "Rational"}
    assert list(check_derivations.violations(DECLARATIVE, names)) == []
    found = list(check_derivations.violations(DECLARATIVE + "\nkernel = ft.compile\n", names))
    assert [message for _, message in found] == ["uses ft.compile, which is not a name of the front door"]


def test_the_command_names_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theory = tmp_path / "planted.py"
    theory.write_text("import fieldtheory as ft\n\nc = 3\n")
    assert check_derivations.main([str(theory)]) == 1
    assert f"{theory}:3: the number 3" in capsys.readouterr().out
