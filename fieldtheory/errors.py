"""Every exception the package raises on purpose, in one bottom layer that anything may import."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class FieldTheoryError(Exception):
    """Base of everything raised on purpose: `except FieldTheoryError` catches nothing else."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default rebuilds from `args` (the message) and so loses, or chokes on, the fields of a subclass.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[FieldTheoryError], args: tuple[Any, ...], state: dict[str, Any]) -> FieldTheoryError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class BadInput(FieldTheoryError, ValueError):
    """An argument that cannot be used: which one, what was given, what would do.

    `argument`, `given` and `expected` stay on the exception as they were passed.
    """

    def __init__(self, argument: str, given: object, expected: str) -> None:
        super().__init__(f"{argument}: got {given}; expected {expected}")
        self.argument, self.given, self.expected = argument, given, expected


class UnknownName(BadInput):
    """A name that is not among `choices`; `.suggestion` is the nearest one, or None."""

    def __init__(self, argument: str, given: object, choices: Iterable[str]) -> None:
        self.choices = tuple(sorted(choices))
        near = difflib.get_close_matches(str(given).lower(), self.choices, n=1, cutoff=0.5)
        self.suggestion = near[0] if near else None
        hint = f" (did you mean {self.suggestion!r}?)" if near else ""
        super().__init__(argument, repr(given), f"one of {', '.join(self.choices)}{hint}")


class BadLatex(FieldTheoryError, ValueError):
    """A formula that cannot be read; `.position` is where in the text, `.found` what stands there."""

    def __init__(self, text: str, position: int, found: str, expected: str) -> None:
        around = text[max(position - 25, 0):position + 25]
        super().__init__(f"at character {position}, near {around!r}: got {found}; expected {expected}")
        self.text, self.position, self.found, self.expected = text, position, found, expected


class RuleError(FieldTheoryError):
    """A rule that does not apply to the action it was given."""


class NotGaussian(RuleError):
    """A field that was to be integrated out enters beyond second order: "V enters at order 4 through phi"."""


class NotConverged(FieldTheoryError):
    """An iteration, quadrature or continuation that stopped short; `.residual` is how far it got."""

    def __init__(self, message: str, residual: float) -> None:
        super().__init__(f"{message} (residual {residual:.3g})")
        self.residual = residual


class CorruptFile(FieldTheoryError):
    """A file that is not what its name promises: truncated, of another format, or holding pickled objects."""


class CannotWrite(FieldTheoryError, OSError):
    """The disk is full, or the folder read-only: nothing that was saved before is lost."""


class SearchWarning(UserWarning):
    """Stationary points were searched for numerically: those found are such, but there may be others."""


class AsymptoticWarning(UserWarning):
    """An asymptotic series was summed past its smallest term: further terms make it worse."""
