"""A small sweep of the linear network, for tests: what it asks for, and how it is run and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr
from typer.testing import CliRunner

from fieldtheory.cli import app
from fieldtheory.export.sweep import Sweep

LINEAR: dict[str, Any] = {
    "theories": ["exact"], "task": {"name": "ising", "input_dim": 6, "test_samples": 9},
    "network": {"width": 8, "noise_variance": 0.3}, "axes": {"samples": [5, 8], "seed": [0, 1, 2]}}  # fmt: skip
NET, TASK = LINEAR["network"], LINEAR["task"]
CHAINS = {"method": "hmc", "chains": 2, "draws": 40, "warmup": 30}


def asked(**changes: Any) -> Sweep:
    return Sweep.from_mapping({**LINEAR, **changes})


def the_same(one: xr.Dataset, other: xr.Dataset) -> None:
    clocks = ["seconds", "cpu_seconds"]
    xr.testing.assert_identical(one.drop_vars(clocks), other.drop_vars(clocks))


def command(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
