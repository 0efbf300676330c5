"""A derivation engine for the statistical field theory of Bayesian neural networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fieldtheory import errors, exact, tasks
    from fieldtheory.action import Action
    from fieldtheory.catalogue import choose, theories
    from fieldtheory.dataset import Dataset
    from fieldtheory.derivation import Derivation
    from fieldtheory.network import ARD, Network, Scaling
    from fieldtheory.sampler import sample
    from fieldtheory.sampling.convergence import diagnose
    from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
    from fieldtheory.symbolic.series import Series
    from fieldtheory.theory import Theory
    from fieldtheory.verdict import validate

_HOMES = {
    "ARD": "network",
    "Action": "action",
    "Dataset": "dataset",
    "Derivation": "derivation",
    "Entry": "symbolic.fields",
    "Network": "network",
    "Scaling": "network",
    "Series": "symbolic.series",
    "Space": "symbolic.fields",
    "SpaceSum": "symbolic.fields",
    "Theory": "theory",
    "choose": "catalogue",
    "diagnose": "sampling.convergence",
    "sample": "sampler",
    "theories": "catalogue",
    "validate": "verdict",
}
_MODULES = ("errors", "exact", "tasks")

__all__ = ["ARD", "Action", "Dataset", "Derivation", "Entry", "Network", "Scaling", "Series", "Space", "SpaceSum",
           "Theory", "choose", "diagnose", "errors", "exact", "sample", "tasks", "theories", "validate"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import fieldtheory`` costs nothing."""
    if name in _MODULES:
        return importlib.import_module(f"fieldtheory.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'fieldtheory' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fieldtheory.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
