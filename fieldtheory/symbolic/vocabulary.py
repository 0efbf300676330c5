"""What printed names stand for: the printer's names of symbols, entries and functions, as sequences of tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sympy as sp
from sympy.core.function import AppliedUndef, UndefinedFunction

from fieldtheory.errors import BadInput
from fieldtheory.symbolic.arrays import Array
from fieldtheory.symbolic.fields import Entry
from fieldtheory.symbolic.letters import FREE_LETTERS
from fieldtheory.symbolic.names import glue
from fieldtheory.symbolic.printing import FieldPrinter
from fieldtheory.symbolic.tokens import tokenised

AVERAGES = ("GaussianAverage", "SiteAverage")
"""Nodes with a body first, what they bind as a tuple, and the law among the rest."""


class Word(NamedTuple):
    """A meaning; an ``indexed`` one is an entry whose indices follow ``opening``, ``starred`` if * is among them."""

    meaning: Any
    indexed: bool = False
    opening: tuple[str, ...] = ()
    starred: bool = False


class Vocabulary:
    """Names by their first token, the longest first.

    Raises
    ------
    BadInput
        If two names are printed alike, or one like a number.
    """

    def __init__(self, names: Any, symbol_names: Mapping[Any, str] | None = None,
                 matrices: Mapping[str, str] | None = None) -> None:
        atoms = set(_atoms(names))
        self.printer = FieldPrinter(symbol_names=symbol_names, matrices=matrices,
                                    context=[atom for atom in atoms if isinstance(atom, sp.Basic)])
        self.table: dict[str, list[tuple[tuple[str, ...], Word]]] = {}
        self.known: dict[tuple[Any, ...], Any] = {}
        self.entries = sorted((atom for atom in atoms if isinstance(atom, Entry)), key=sp.default_sort_key)
        for atom in sorted(atoms, key=lambda atom: (str(atom), str(type(atom)))):
            self._learn(atom)
        self.laws = {self._bound_names(node): node for node in _averages(names)}
        for words in self.table.values():
            words.sort(key=lambda pair: (-len(pair[0]) - len(pair[1].opening), pair[0], not pair[1].starred))

    def __str__(self) -> str:
        names = sorted({str(getattr(word.meaning, "name", word.meaning)) for words in self.table.values()
                        for _, word in words if not isinstance(word.meaning, Array)})
        return ", ".join(names) or "numbers alone"

    def starting(self, token: str) -> Sequence[tuple[tuple[str, ...], Word]]:
        return self.table.get(token, ())

    def _bound_names(self, node: sp.Basic) -> tuple[str, ...]:
        bound = next(arg for arg in node.args if isinstance(arg, sp.Tuple))
        return texts(", ".join(self.printer._print(sp.Symbol(variable.name)) for variable in bound))

    def spectrum(self, tokens: Sequence[str]) -> tuple[Entry, int] | None:
        """The spectrum whose name ``tokens`` start with, and the number of tokens that it takes."""
        return self._named(tokens, lambda entry: entry.domain == "spectrum")

    def bare(self, tokens: Sequence[str], imaginary: bool) -> tuple[Entry, int] | None:
        """The same for a field."""
        return self._named(tokens, lambda entry: not entry.is_data and (entry.domain == "imaginary") == imaginary)

    def _named(self, tokens: Sequence[str], wanted: Any) -> tuple[Entry, int] | None:
        found = [(entry, len(name)) for entry in self.entries if wanted(entry)
                 for name in [texts(self.printer.bare(entry))] if tuple(tokens[:len(name)]) == name]
        return max(found, key=lambda pair: pair[1], default=None)

    def _learn(self, atom: Any) -> None:
        if isinstance(atom, UndefinedFunction):
            self._add(self.printer._hprint_Function(atom.__name__), Word(atom))
        elif isinstance(atom, sp.Symbol):
            self._add(self.printer._print(atom), Word(atom))
        elif not atom.spaces:
            self._add(self.printer.bare(atom), Word(atom))
        else:
            self._learn_indexed(atom)
            if atom.domain == "spectrum" and len(atom.spaces) == 1:
                matrix = self.printer.matrix_name(atom)
                if r"\operatorname" not in matrix:
                    self._add(matrix, Word(Array.function(atom)))
            elif len(atom.spaces) <= 2:
                self._add(self.printer.bare(atom), Word(Array.of(atom)))

    def _learn_indexed(self, entry: Entry) -> None:
        whole = self.printer.entry_parts(entry)
        self._add_indexed(entry, *whole)
        base, supers, subs = whole
        if subs and subs[-1] in FREE_LETTERS.values():  # X_* at test points has its * as index
            self._add_indexed(entry, base, supers, subs[:-1], starred=True)

    def _add_indexed(self, entry: Entry, base: str, supers: list[str], subs: list[str], starred: bool = False) -> None:
        opening = ("_", "{", *(token for sub in subs for token in (*texts(sub), ",")))
        self._add(glue(base, supers, []), Word(entry, True, opening, starred))

    def _add(self, tex: str, word: Word) -> None:
        tokens = texts(tex)
        if not tokens or re.fullmatch(r"[\d.,+*-]+", "".join(tokens)):
            raise BadInput("names", repr(tex), "names that are not printed like numbers")
        kind = (tokens, word.opening, word.indexed, word.starred)
        known = self.known.setdefault(kind, word.meaning)
        if known != word.meaning:
            raise BadInput("names", f"two that are printed as {tex}", "names that are printed differently")
        self.table.setdefault(tokens[0], []).append((tokens, word))


def texts(tex: str) -> tuple[str, ...]:
    """The tokens of a name, without their places."""
    return tuple(token.text for token in tokenised(tex)[:-1])


def _atoms(names: Any) -> Iterator[Any]:
    if isinstance(names, UndefinedFunction):
        yield names
    elif isinstance(names, sp.MatrixBase):
        yield from _atoms(list(names))
    elif isinstance(names, sp.Basic):
        yield from names.atoms(sp.Symbol, Entry)
        yield from (node.func for node in names.atoms(AppliedUndef))
        for entry in names.atoms(Entry):  # sizes of spaces
            yield from (symbol for space in entry.spaces for symbol in space.size.atoms(sp.Symbol))
    elif isinstance(names, Iterable) and not isinstance(names, str):
        for name in names:
            yield from _atoms(name)
    elif not isinstance(names, int | float | complex):
        raise BadInput("names", repr(names), "expressions, or symbols and entries")


def _averages(names: Any) -> list[sp.Basic]:
    """Averages among the names: a formula shows over what they are, the names say by which law."""
    if isinstance(names, sp.Basic):
        found = {node for node in sp.preorder_traversal(names) if type(node).__name__ in AVERAGES}
        return sorted(found, key=sp.default_sort_key)
    if isinstance(names, Iterable) and not isinstance(names, str):
        return [node for name in names for node in _averages(name)]
    return []


__all__ = ["Vocabulary", "Word"]
