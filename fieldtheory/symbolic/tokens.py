"""LaTeX as tokens with their places, layout left out, brackets of every size told apart only by their side."""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from fieldtheory.errors import BadLatex

END = "the end"
_TOKENS = re.compile(r"\\begin\{\w+\*?\}|\\end\{\w+\*?\}|\\[A-Za-z]+|\\.|\d+(?:\.\d+)?|\s+|.", re.DOTALL)
_LAYOUT = {r"\quad", r"\qquad", r"\,", r"\:", r"\;", r"\ ", r"\!", r"\displaystyle", r"\notag", r"\limits", "$"}
_SIZES = {r"\left": r"\left", r"\right": r"\right", **{f"\\{size}{side}": rf"\{name}" for size in
          ("big", "Big", "bigg", "Bigg") for side, name in (("l", "left"), ("r", "right"))}}
_ROUND = {"(": r"\left(", ")": r"\right)"}
_TABLES = {"matrix", "cases"}
"""Environments whose cells and rows mean something; of all others nothing but the formula is read."""


class Token(NamedTuple):
    text: str
    start: int


def tokenised(text: str) -> list[Token]:
    """The tokens that carry meaning, and one for the end."""
    found: list[Token] = []
    tables: list[str] = []
    sized: str | None = None
    for match in _TOKENS.finditer(text):
        token, start = match[0], match.start()
        edge = re.fullmatch(r"\\(begin|end)\{(\w+\*?)\}", token)
        if edge:
            if edge[2] in _TABLES:
                tables = [*tables, edge[2]] if edge[1] == "begin" else tables[:-1]
                found += [Token(f"\\{edge[1]}", start), Token(edge[2], start)]
        elif token in _SIZES:
            sized = _SIZES[token]
        elif token.isspace() or token in _LAYOUT or (token in ("&", r"\\") and not tables):
            continue
        elif sized:
            found.append(Token(sized + token, start))
            sized = None
        else:
            found.append(Token(_ROUND.get(token, token), start))
    return [*found, Token(END, len(text))]


class Cursor:
    """A place among the tokens of a formula."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.at = text, tokenised(text), 0

    @property
    def now(self) -> str:
        return self.tokens[self.at].text

    def fail(self, expected: str, at: int | None = None) -> NoReturn:
        token = self.tokens[self.at if at is None else at]
        raise BadLatex(self.text, token.start, token.text, expected)

    def sees(self, *texts: str) -> bool:
        return tuple(token.text for token in self.tokens[self.at:self.at + len(texts)]) == texts

    def skips(self, *texts: str) -> bool:
        found = self.sees(*texts)
        self.at += len(texts) if found else 0
        return found

    def expects(self, *texts: str) -> None:
        for text in texts:
            if not self.skips(text):
                self.fail(text)
