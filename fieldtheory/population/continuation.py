r"""A population theory along the noise or the number of samples, followed both ways.

Each solution starts the next one, from large noise down (the lazy side) and from small noise up (the learned side).
Where both agree at every point one solution is all that this finds; where they do not, there is hysteresis, and the two
are different solutions of the same equations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xarray as xr

from fieldtheory.errors import BadInput

if TYPE_CHECKING:
    from fieldtheory.population.base import PopulationSolution

AGREE = 1e-6
"""How far solutions of the same equations may differ: the nodes are the same both ways, so that no error of theirs
counts."""


class Solvable(Protocol):
    """A population theory whose solutions can be started from others."""

    @property
    def modes(self) -> tuple[Any, ...]: ...

    @property
    def solve(self) -> Callable[..., PopulationSolution]: ...


def follow(theory: Solvable, input_dim: int, *, noise: Sequence[float] | None = None,
           samples: Sequence[float] | None = None, **given: Any) -> xr.Dataset:
    """Solutions along noises s/P, or along numbers of samples with the network's noise.

    Returns
    -------
    Dataset over ``noise`` (or ``samples``) and ``mode``: ``m_down`` and ``m_up``, followed towards smaller and larger
    noise, ``m_mcse`` (the error of the nodes), ``difference`` = |m_down - m_up|; over noise ``test_error``,
    ``residual``, ``nodes`` (effective, the fewer of both ways) and ``status``; the attribute ``unique`` says whether
    both ways agree everywhere.

    Raises
    ------
    BadInput
        Unless one of both is given, as at least two different positive numbers.
    """
    if (noise is None) == (samples is None):
        raise BadInput("noise", noise, "a list of positive numbers, or samples: one of the two")
    name, numbers = ("noise", noise) if noise is not None else ("samples", samples)
    points = sorted({float(x) for x in numbers})  # type: ignore[union-attr]
    if len(points) < 2 or not points[0] > 0:
        raise BadInput(name, numbers, "at least two different positive numbers")
    ways: dict[str, list[PopulationSolution]] = {}
    for way in ("down", "up"):
        rising = (way == "down") == (name == "samples")  # less noise is more samples
        ordered = points if rising else points[::-1]
        found, start = {}, None
        for x in ordered:
            found[x] = start = theory.solve(input_dim, **{name: x}, start=start, **given)
        ways[way] = [found[x] for x in points]
    down, up = ways["down"], ways["up"]
    values = {way: np.array([list(s.order_parameters.values()) for s in solutions]) for way, solutions in ways.items()}
    errors = np.array([list(s.errors.values()) for s in down])
    difference = np.abs(values["down"] - values["up"])
    data: dict[str, Any] = {
        "m_down": ((name, "mode"), values["down"]), "m_up": ((name, "mode"), values["up"]),
        "m_mcse": ((name, "mode"), errors), "difference": ((name, "mode"), difference),
        "test_error": (name, [s.test_error for s in down]),
        "residual": (name, [max(a.residual, b.residual) for a, b in zip(down, up, strict=True)]),
        "nodes": (name, [min(a.nodes, b.nodes) for a, b in zip(down, up, strict=True)]),
        "status": (name, [a.status if a.status == b.status else f"down: {a.status}; up: {b.status}"
                          for a, b in zip(down, up, strict=True)])}
    found_modes = [mode if isinstance(mode, int) else "_".join(map(str, mode)) for mode in theory.modes]
    dataset = xr.Dataset(data, coords={name: points, "mode": [str(mode) for mode in found_modes]})
    dataset.attrs["unique"] = bool(difference.max() < AGREE)
    return dataset


__all__ = ["follow"]
