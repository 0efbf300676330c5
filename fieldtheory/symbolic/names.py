"""LaTeX of names: base, superscripts and subscripts from what a symbol or field is called."""

from __future__ import annotations

import re
import unicodedata

from sympy.printing.conventions import split_super_sub
from sympy.printing.latex import modifier_dict, translate


def name_latex(name: str) -> str:
    """LaTeX of a name: ``sigma_a`` is σ with subscript a, ``ftilde`` f under a tilde; words are upright."""
    return glue(*split_name(name))


def split_name(name: str) -> tuple[str, list[str], list[str]]:
    """Base, superscripts and subscripts, each in LaTeX."""
    if "\\" in name or "{" in name:  # already LaTeX
        return name, [], []
    stem = name.rstrip("'")
    primes = [r"\prime"] * (len(name) - len(stem))  # TeX would refuse an exponent after q'
    base, supers, subs = split_super_sub(stem)
    base = _word(base)
    for modifier in [s for s in subs if s in modifier_dict]:  # f_tilde is ftilde
        base = modifier_dict[modifier](base)
    return base, primes + [_word(s) for s in supers], [_word(s) for s in subs if s not in modifier_dict]


def _word(text: str) -> str:
    if len(text) == 1 and not text.isascii():
        greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(text, ""))
        if greek:
            text = greek[2].lower() if greek[1] == "SMALL" else greek[2].capitalize()
    tex = translate("lambda" if text == "lam" else text)
    if tex != text:
        return tex
    if re.fullmatch(r"[A-Za-z]|[0-9.,+*-]+|", text):
        return text
    escaped = re.sub(r"[#$%&_ ]", lambda found: "\\" + found[0], re.sub(r"[\^~']", "", text))
    return rf"\mathrm{{{escaped}}}"


def glue(base: str, supers: list[str], subs: list[str]) -> str:
    """The inverse of `split_name`."""
    upper = f"^{{{' '.join(supers)}}}" if supers else ""
    lower = f"_{{{','.join(subs)}}}" if subs else ""
    return base + upper + lower
