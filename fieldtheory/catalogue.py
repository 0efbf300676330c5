"""The catalogue of theories, found by name and never registered by hand."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import TypeVar

from fieldtheory.errors import UnknownName
from fieldtheory.theory import Theory

T = TypeVar("T")


def choose(argument: str, name: str, choices: Mapping[str, T]) -> T:
    """The choice of that name.

    Raises
    ------
    UnknownName
        With the nearest name, if there is none.
    """
    if name not in choices:
        raise UnknownName(argument, name, choices)
    return choices[name]


class Catalogue(Mapping[str, Callable[..., Theory]]):
    """Theories by name: every file of the ``derivations`` package, and the entry points ``fieldtheory.theories``.

    ``theories["linear"](net, view="rescaling", loops=1)`` makes a :class:`Theory`.
    """

    @cached_property
    def _found(self) -> dict[str, Callable[[], Callable[..., Theory]]]:
        package = importlib.import_module("derivations")
        found: dict[str, Callable[[], Callable[..., Theory]]] = {}
        for module in pkgutil.iter_modules(package.__path__):
            def load(path: str = f"derivations.{module.name}") -> Callable[..., Theory]:
                return importlib.import_module(path).derive

            found[module.name.replace("_", "-")] = load
        for entry in entry_points(group="fieldtheory.theories"):
            found[entry.name] = entry.load
        return found

    def __getitem__(self, name: str) -> Callable[..., Theory]:
        return choose("theory", name, self._found)()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._found))

    def __len__(self) -> int:
        return len(self._found)

    def describe(self) -> dict[str, str]:
        """The first line of what each theory says of itself."""
        return {name: (inspect.getdoc(self[name]) or "").split("\n")[0] for name in self}


theories = Catalogue()

__all__ = ["Catalogue", "choose", "theories"]
