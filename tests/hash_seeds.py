"""A program in processes of its own, under several hash seeds: what must not depend on the order of a set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def printed_under(program: str, seeds: Iterable[int] = (0, 1, 2)) -> set[str]:
    """What the program prints under these seeds: one text, if it does not depend on them."""
    def printed(seed: int) -> str:
        return subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": str(seed)}, cwd=ROOT,
                              check=True, capture_output=True, text=True).stdout

    with ThreadPoolExecutor(2) as pool:
        return set(pool.map(printed, seeds))
