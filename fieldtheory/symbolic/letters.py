r"""Names and indices in print: the letter of every space, free or bound by the sums around, and what it hangs on.

Letters depend on structure and names only, and none is a name that the expressions use.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sympy as sp

from fieldtheory.symbolic.fields import Entry, Space, open_spaces
from fieldtheory.symbolic.functionnames import FunctionPrinter
from fieldtheory.symbolic.names import glue, name_latex, split_name

LETTERS = {"mode": ("k", "l", "m", "n"), "eigenmode": ("k", "l", "m", "n"), "sample": (r"\mu", r"\nu", r"\rho"),
           "site": ("i", "j", "l"), "input": ("d", "c", "e"), "test": ("t", "r")}
"""Index letters by the name of the space; the first that no name in the expression uses is taken."""
FREE_LETTERS = {"test": "*"}  # a prediction at a test point is f_*, but nobody writes a sum over *


class NamePrinter(FunctionPrinter):
    """Symbols, entries and spaces; ``symbol_names`` and ``context`` as in `fieldtheory.symbolic.printing.latex`."""

    def __init__(self, symbol_names: Mapping[Any, str] | None = None, context: Iterable[sp.Basic] = ()) -> None:
        # an upright imaginary unit, since i is the index of a site; factors in the order of _print_Mul
        super().__init__({"ln_notation": True, "imaginary_unit": "ri", "diff_operator": "rd", "order": "none"})
        self._given = dict(symbol_names or {})
        self._letters: dict[Space, tuple[str, str]] = {}
        self._taken: set[str] = set()
        self._depth: dict[Space, int] = {}
        self._free: frozenset[Space] = frozenset()
        self._learn(*context)

    def _enter(self, expr: Any) -> sp.Basic:
        expr = sp.sympify(expr)
        self._learn(expr)
        self._free, self._depth = open_spaces(expr), {}
        return expr

    def _learn(self, *exprs: sp.Basic) -> None:
        spaces: set[Space] = set()
        for expr in exprs:
            self._taken |= {self._symbol(atom) for atom in expr.atoms(sp.Symbol)}
            self._taken |= {self._given_name(e) or name_latex(e.name) for e in expr.atoms(Entry)}
            # y_k beside the entries y would be read as one of them
            self._taken |= {sub for atom in expr.atoms(sp.Symbol, Entry) for sub in split_name(atom.name)[2]
                            if sub not in FREE_LETTERS.values()}
            spaces |= expr.atoms(Space)
        for space in sorted(spaces - self._letters.keys(), key=sp.default_sort_key):
            first = space.name[:1].lower()
            pool = LETTERS.get(space.name, (first,) if first.isascii() and first.isalpha() else ())
            used = self._taken | {letter for pair in self._letters.values() for letter in pair}
            letters = (*pool, r"\alpha", r"\beta", *"abcdhlmnpqrtuv")
            bound = next((x for x in letters if x not in used), f"a_{{{len(self._letters)}}}")
            free = FREE_LETTERS.get(space.name, bound)
            self._letters[space] = (bound if free in used else free, bound)

    def bound_letter(self, space: Space) -> str:
        """The letter of a space as summed over."""
        self._learn(space)
        return self._letters[space][1]

    def bare(self, entry: Entry) -> str:
        """The name of an entry without indices."""
        return self._entry(entry, [])

    def index_of(self, space: Space) -> str:
        """The letter of a space at the present place in an expression: free, or bound by the sums around."""
        if space not in self._letters:
            self._learn(space)
        free, bound = self._letters[space]
        depth = self._depth.get(space, 0)
        if depth == 0:
            return free
        # the inner sum shadows the outer index of the same space: a prime tells them apart
        return bound + "'" * (depth - 1 + (space in self._free and free == bound))

    @contextlib.contextmanager
    def bound(self, space: Space) -> Iterator[None]:
        self._depth[space] = self._depth.get(space, 0) + 1
        try:
            yield
        finally:
            self._depth[space] -= 1

    def _given_name(self, node: Any) -> str | None:
        return self._given.get(node, self._given.get(node.name))

    def _symbol(self, symbol: sp.Symbol) -> str:
        return self._given_name(symbol) or name_latex(symbol.name)

    def _print_Symbol(self, expr: sp.Symbol, style: str = "plain") -> str:
        return self._symbol(expr)

    _print_Dummy = _print_Symbol

    def _print_Str(self, expr: sp.Basic) -> str:
        return name_latex(str(expr))

    def _print_Space(self, expr: Space) -> str:
        return rf"\mathrm{{{expr.name}}}"

    def _print_Entry(self, expr: Entry) -> str:
        return self._entry(expr, [self.index_of(space) for space in expr.spaces])

    def entry_parts(self, entry: Entry) -> tuple[str, list[str], list[str]]:
        """Base, superscripts and subscripts of an entry, to which indices are added."""
        given = self._given_name(entry)
        base, supers, subs = split_name(entry.name) if given is None else (given, [], [])
        if re.search(r"[_^]", re.sub(r"\{.*\}", "", base)):
            base = f"{{{base}}}"
        return base, supers, subs

    def _entry(self, entry: Entry, indices: list[str]) -> str:
        if not indices:
            given = self._given_name(entry)
            return name_latex(entry.name) if given is None else given
        base, supers, subs = self.entry_parts(entry)
        if subs and subs[-1] in indices:  # a datum at test points, X_*, has its * as index
            subs = subs[:-1]
        return glue(base, supers, [*subs, " ".join(indices)])
