"""Theories in the population limit, for tests: by name, network, law and target."""

from __future__ import annotations

from typing import Any

import fieldtheory as ft


def limit(name: str, network: ft.Network, law: str = "hypercube", target: Any = 2, **options: Any) -> Any:
    """The population limit of a theory, with relevance determination where the network has it."""
    theory = {key: options.pop(key) for key in ("resolvent", "loops") if key in options}
    derived = ft.theories[f"{name}-ard" if network.has_ard else name](network, **theory)
    return derived.population_limit(law, target, **options)
