"""Remake constraints.txt: install every extra with each Python given, freeze, and merge.

    python tools/pin.py python3.11 python3.12 > constraints.txt

Give one interpreter per Python version at which some package's newest release changes, oldest first; where
they differ the lines carry environment markers.  Only names and versions are kept, not where they came from.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from itertools import groupby
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
HEADER = """\
# Every package of every extra, pinned; remade by: python tools/pin.py python3.11 python3.12 > constraints.txt
"""


def freeze(interpreter: str) -> tuple[str, dict[str, str]]:
    """The Python version ("3.11") and {package: version} of a scratch environment with every extra."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    wanted = ["setuptools", *project["dependencies"], *extras]
    wanted = [line for line in wanted if not line.startswith(project["name"])]  # dev names our other extras
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([interpreter, "-m", "venv", scratch], check=True)
        python = str(Path(scratch) / "bin" / "python")
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-q", "-U", *wanted], check=True)
        listing = subprocess.check_output([*pip, "freeze", "--all"], text=True)
        print_version = "import sys; print('%d.%d' % sys.version_info[:2])"
        python_version = subprocess.check_output([python, "-c", print_version], text=True)
    lines = (line.partition("==") for line in listing.splitlines() if "==" in line and "://" not in line)
    return python_version.strip(), {name: pin for name, _, pin in lines if name != "pip"}


def merge(frozen: list[tuple[str, dict[str, str]]]) -> list[str]:
    """One line a package, or one for each run of Python versions that share a pin."""
    lines = []
    for name in sorted({name for _, pins in frozen for name in pins}, key=str.casefold):
        runs = groupby(enumerate(frozen), key=lambda item: item[1][1].get(name))
        for pin, run in ((pin, [index for index, _ in items]) for pin, items in runs):
            above = [f'python_version >= "{frozen[run[0]][0]}"'] if run[0] > 0 else []
            below = [f'python_version < "{frozen[run[-1] + 1][0]}"'] if run[-1] + 1 < len(frozen) else []
            marker = " and ".join(above + below)
            if pin is not None:
                lines.append(f"{name}=={pin}" + (f" ; {marker}" if marker else ""))
    return lines


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(HEADER + "\n".join(merge([freeze(interpreter) for interpreter in sys.argv[1:]])))
