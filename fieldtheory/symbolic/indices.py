"""What the indices of a formula range over.

That is not written in a formula; it follows from the entries that carry an index, and two that disagree are an error.
An index inside a sum over its space must be the one that this sum binds, since an expression has no way to say
otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fieldtheory.symbolic.fields import Space
from fieldtheory.symbolic.letters import FREE_LETTERS
from fieldtheory.symbolic.tokens import END, Cursor


@dataclass
class Frame:
    """A sum around the present place: the index that it binds, and its space once known."""

    index: str
    space: Space | None


class IndexCursor(Cursor):
    """A place among the tokens of a formula, with what its letters range over and the sums around it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.letters: dict[str, Space] = {}
        self._frames: list[Frame] = []

    def place(self) -> tuple[int, dict[str, Space]]:
        """Where the cursor stands and what it knows, to come back to."""
        return self.at, dict(self.letters)

    def back_to(self, place: tuple[int, dict[str, Space]]) -> None:
        self.at, self.letters = place

    def indices(self) -> list[str]:
        found = []
        while self.now not in ("}", ",", "=", END):
            index, self.at = self.now, self.at + 1
            if self.sees("_", "{"):
                index += "_{" + self.tokens[self.at + 2].text + "}"
                self.at += 3
                self.expects("}")
            while self.skips("'"):
                index += "'"
            found.append(index)
        return found

    @contextlib.contextmanager
    def binding(self, index: str) -> Iterator[Frame]:
        """Inside the sum over ``index``; its space is known at the end."""
        frame = Frame(index, self.letters.get(index.rstrip("'")))
        self._frames.append(frame)
        try:
            yield frame
        finally:
            self._frames.pop()

    def bind(self, indices: Sequence[str], spaces: Sequence[Space], at: int) -> None:
        """Note that the ``indices`` range over these ``spaces`` here."""
        for index, space in zip(indices, spaces):
            self._bind(index, space, at)

    def _bind(self, index: str, space: Space, at: int) -> None:
        letter = index.rstrip("'")
        known = self.letters.setdefault(letter, space)
        if known != space or (letter in FREE_LETTERS.values() and FREE_LETTERS.get(space.name) != letter):
            self.fail(f"an index of the space {space.name} (of size {space.size}), not {index}", at)
        frames = [frame for frame in self._frames if frame.space == space or frame.index.rstrip("'") == letter]
        if frames and frames[-1].index != index:
            self.fail(f"{frames[-1].index}, the index that the sum binds, not {index}", at)
        if frames:
            frames[-1].space = space
        elif index != letter:
            self.fail(f"a sum that binds {index}", at)
