"""The modes of a population theory: which the target has, which the output keeps, and what they are called.

On the hypercube a mode is a parity, by its order.  Under Gaussian inputs with d relevant directions u_1, …, u_d it is
Π_a he_{n_a}(u_a·x) times a polynomial of order 2k in |x_⊥|, the inputs perpendicular to all of them: by the symmetry of
the law no other modes occur.  It is written (n_1, …, n_d), with k added behind where k > 0; for one direction the
integer n stands for (n,).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import sympy as sp

from fieldtheory.errors import BadInput
from fieldtheory.symbolic.bases import input_law, obstruction

Key = int | tuple[int, ...]
"""What a mode is written as."""


@dataclass(frozen=True)
class Mode:
    """Orders along the directions, and the order in |x_⊥|² of what is perpendicular to them."""

    orders: tuple[int, ...]
    pairs: int = 0

    @property
    def order(self) -> int:
        """The total order as a polynomial in the inputs."""
        return sum(self.orders) + 2 * self.pairs

    @property
    def key(self) -> Key:
        if self.pairs:
            return (*self.orders, self.pairs)
        return self.orders[0] if len(self.orders) == 1 else self.orders

    @property
    def name(self) -> str:
        return "_".join(map(str, (*self.orders, *([self.pairs] if self.pairs else []))))

    @classmethod
    def read(cls, key: Key, directions: int = 1, argument: str = "modes") -> Mode:
        """A mode from what it is written as."""
        numbers = (key,) if isinstance(key, int) else tuple(key)
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers) \
                or len(numbers) not in (directions, directions + 1):
            raise BadInput(argument, key, f"{directions} order(s), zero or more, and at most one number more for the "
                                          "perpendicular inputs")
        return cls(numbers[:directions], numbers[directions] if len(numbers) > directions else 0)


@dataclass(frozen=True)
class Target:
    """The coefficients of a target by mode, and the modes that the output keeps: those that the network can see."""

    coefficients: Mapping[Key, float]
    modes: tuple[Mode, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(mode.key for mode in self.modes)


def read_target(law: str, activation: sp.Expr, variable: sp.Symbol, target: Key | Mapping[Key, float],
                modes: Sequence[Key] = (), order: int | None = None) -> Target:
    """The target and modes of a population theory; ``order``: keep every mode of total order up to this.

    Raises
    ------
    BadInput
        If no feature of the activation overlaps with a mode of the target: with the reason.
    """
    input_law(law)
    given = target if isinstance(target, Mapping) else {target: 1.0}
    coefficients = {key: float(c) for key, c in given.items() if c}
    if not coefficients:
        raise BadInput("target", target, "at least one mode")
    lengths = {1 if isinstance(key, int) else len(key) for key in coefficients}
    if len(lengths) > 1:
        raise BadInput("target", target, "modes with the same number of directions")
    (directions,) = lengths
    if law == "hypercube" and (len(coefficients) > 1 or directions > 1 or modes or order is not None):
        raise BadInput("target", target, "one parity: the symmetry that closes the theory is that of a single one")
    wanted = {Mode.read(key, directions, "target"): c for key, c in coefficients.items()}
    for mode in wanted:
        if reason := obstruction(activation, variable, mode.order):
            raise BadInput("target", f"a mode of order {mode.order}", f"one that the network can see: {reason}")
    kept = {*wanted, *(Mode.read(key, directions) for key in modes), *_up_to(order, directions)}
    seen = [mode for mode in kept if obstruction(activation, variable, mode.order) is None]
    return Target({mode.key: c for mode, c in wanted.items()},
                  tuple(sorted(seen, key=lambda mode: (mode.order, mode.pairs, mode.orders))))


def _up_to(order: int | None, directions: int) -> Iterable[Mode]:
    if order is None:
        return
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise BadInput("order", order, "an integer that is zero or more")
    for numbers in product(range(order + 1), repeat=directions):
        for pairs in range((order - sum(numbers)) // 2 + 1):
            yield Mode(numbers, pairs)


def alike(modes: Sequence[Mode], order: int) -> tuple[Mode, ...]:
    """Modes of total order up to this that symmetry lets stand beside some modes of a target.

    Where all modes of the target have one parity under the flip of some directions, the square of the target's overlap
    with a neuron is even under it, and so is the law of one site: the output has the parity of the target.
    """
    directions = len(modes[0].orders)
    fixed = []
    for flip in product((0, 1), repeat=directions):
        parities = {_parity(mode, flip) for mode in modes}
        if len(parities) == 1:
            fixed.append((flip, parities.pop()))
    found = [mode for mode in _up_to(order, directions) if all(_parity(mode, flip) == odd for flip, odd in fixed)]
    return tuple(sorted(found, key=lambda mode: (mode.order, mode.pairs, mode.orders)))


def _parity(mode: Mode, flip: tuple[int, ...]) -> int:
    return sum(n for n, turned in zip(mode.orders, flip, strict=True) if turned) % 2


__all__ = ["Key", "Mode", "Target", "alike", "read_target"]
