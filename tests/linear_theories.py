"""The linear network's theories for tests: derived once, then used with any numbers."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import xarray as xr

import fieldtheory as ft

UNIT = ft.Network(width=100, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0)
SCALINGS = {"standard": ft.Scaling.standard(), "mean-field": ft.Scaling.mean_field()}


@cache
def _derived(name: str, options: tuple[tuple[str, Any], ...]) -> ft.Theory:
    theory = ft.theories[name](ft.Network(scaling=ft.Scaling()), **dict(options))
    _ = theory._predictor.outputs, theory._predictor.probed
    return theory


def linear(net: ft.Network = UNIT, **options: Any) -> ft.Theory:
    """The linear network in a view, to an order; ``name="nngp"`` for the infinitely wide one.

    The action keeps every number as a symbol, so one derivation serves every network.
    """
    theory = copy.copy(_derived(options.pop("name", "linear"), tuple(sorted(options.items()))))
    theory.network = net
    return theory


def relative_error(prediction: xr.Dataset, exact: xr.Dataset, name: str = "mean_output") -> float:
    """Relative L2 error of one observable."""
    return float(np.linalg.norm(prediction[name] - exact[name]) / np.linalg.norm(exact[name]))
