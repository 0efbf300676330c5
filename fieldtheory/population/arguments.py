"""What is given to every population theory: the noise, the number of inputs and of nodes; checked once."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from numbers import Integral, Real

from fieldtheory.errors import BadInput
from fieldtheory.network import Network


def ridges(network: Network, noise: Sequence[float] | None, samples: Sequence[float] | None,
           width: int | None) -> list[float]:
    """Noises s/P as given, or at numbers of samples with the network's noise variance.

    Raises
    ------
    BadInput
        Unless one of both is given, as positive numbers.
    """
    if (noise is None) == (samples is None):
        raise BadInput("noise", noise, "positive numbers, or samples: one of the two")
    name, numbers = ("noise", noise) if noise is not None else ("samples", samples)
    assert numbers is not None
    if isinstance(numbers, str) or not hasattr(numbers, "__iter__"):
        raise BadInput(name, numbers, "a list of positive numbers")
    found = list(numbers)
    if not found or not all(isinstance(x, Real) and 0 < x < inf for x in found):
        raise BadInput(name, numbers, "a list of positive numbers")
    if noise is not None:
        return [float(x) for x in found]
    s = network.effective_noise_variance(network.resolve_width(width))
    if not s > 0:
        raise BadInput("noise_variance", s, "a positive number")
    return [s / float(x) for x in found]


def ridge(network: Network, noise: float | None, samples: float | None, width: int | None) -> float:
    """The one noise s/P."""
    if (noise is None) == (samples is None):
        raise BadInput("noise", noise, "a positive number, or samples: one of the two")
    for name, x in (("noise", noise), ("samples", samples)):
        if x is not None and not (isinstance(x, Real) and 0 < x < inf):
            raise BadInput(name, x, "a positive number")
    one, other = (None if x is None else [x] for x in (noise, samples))
    return ridges(network, one, other, width)[0]


def check_dimension(D: int, least: int, most: int | None = None) -> None:
    """The number of inputs must be an integer from ``least`` on; to ``most`` where all corners of a cube are summed."""
    if isinstance(D, bool) or not isinstance(D, int) or least > D or (most is not None and most < D):
        wanted = f"an integer that is at least {least} for this target" if most is None else (
            f"an integer from {least} to {most}: all corners of the cube count")
        raise BadInput("input_dim", repr(D), wanted)


def check_nodes(count: int, shifts: int, seed: int) -> None:
    """Enough nodes for an average, and shifts for its error; and a seed that gives random numbers."""
    for name, given, least in (("nodes", count, 64), ("shifts", shifts, 2), ("seed", seed, 0)):
        if isinstance(given, bool) or not isinstance(given, Integral) or given < least:
            raise BadInput(name, repr(given), f"an integer >= {least}")


def check_degree(degree: int, least: int, most: int) -> None:
    """A degree up to which modes are kept: those of the target at least, and no more than overlaps are known for."""
    if isinstance(degree, bool) or not isinstance(degree, int) or not least <= degree <= most:
        raise BadInput("degree", repr(degree), f"an integer from the order of the target ({least}) to {most}")


def check_start(start: object, kind: type) -> None:
    """A start must be a solution of the same theory, or none."""
    if start is not None and not isinstance(start, kind):
        raise BadInput("start", repr(start), "a solution of this theory, or None")


__all__ = ["check_degree", "check_dimension", "check_nodes", "check_start", "ridge", "ridges"]
