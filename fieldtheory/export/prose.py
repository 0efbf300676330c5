"""Prose in LaTeX: special characters escaped, mathematical characters of Unicode in TeX's commands."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from fieldtheory.symbolic.names import name_latex

_ESCAPES = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
            "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"$<$", ">": r"$>$",
            "|": r"$|$", '"': "''"}
_SIGNS = {
    "–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "…": r"\ldots{}", "\u00a0": "~",
    "§": r"\S{}", "½": r"$\frac12$", "¹": "$^1$", "²": "$^2$", "³": "$^3$", "⁻": "$^-$", "°": r"$^\circ$",
    "ᵀ": r"$^\top$", "⊤": r"$^\top$", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "±": r"$\pm$",
    "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "≈": r"$\approx$", "≪": r"$\ll$", "≫": r"$\gg$",
    "∝": r"$\propto$", "∞": r"$\infty$", "∼": r"$\sim$", "→": r"$\to$", "∂": r"$\partial$", "∈": r"$\in$",
    "⟨": r"$\langle$", "⟩": r"$\rangle$", "√": r"$\surd$", "∫": r"$\int$", "∑": r"$\sum$", "⊥": r"$\perp$",
    "ħ": r"$\hbar$", "ℏ": r"$\hbar$", "∏": r"$\prod$", "∇": r"$\nabla$", "≡": r"$\equiv$", "≃": r"$\simeq$",
    "≲": r"$\lesssim$", "≳": r"$\gtrsim$", "∓": r"$\mp$", "⊗": r"$\otimes$", "⊙": r"$\odot$", "∘": r"$\circ$",
    "←": r"$\leftarrow$", "↔": r"$\leftrightarrow$", "⇒": r"$\Rightarrow$", "∉": r"$\notin$", "⊂": r"$\subset$",
    "∥": r"$\parallel$", "‖": r"$\|$", "†": r"$\dagger$", "′": r"$'$", "ℝ": r"$\mathbb{R}$", "¼": r"$\frac14$",
    "⁺": "$^+$", "ᵢ": "$_i$", "ⱼ": "$_j$", "ₖ": "$_k$", "ₙ": "$_n$", "⋅": r"$\cdot$",
    **{character: f"$^{digit}$" for digit, character in zip("0456789", "⁰⁴⁵⁶⁷⁸⁹", strict=True)},
    **{character: f"$_{digit}$" for digit, character in enumerate("₀₁₂₃₄₅₆₇₈₉")},
}


def escape(text: str) -> str:
    """Text that prints as it stands: TeX's special characters escaped, Greek and common signs set in math."""
    return "".join(_ESCAPES.get(character) or _sign(character) for character in str(text))


def _sign(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() or character.isspace() else ""
    if character in _SIGNS:
        return _SIGNS[character]
    name = unicodedata.name(character, "")
    if re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER \w+", name):
        return f"${name_latex(character)}$"
    if name.startswith("LATIN ") and unicodedata.decomposition(character):
        return character  # an accented letter, which inputenc knows
    return rf"\texttt{{U+{ord(character):04X}}}"


def prose(text: str) -> str:
    """`escape`, but what stands between two dollars is math and stays; a lone dollar is a dollar."""
    parts = re.split(r"\$([^$]+)\$", str(text))
    return "".join(f"${_math(part)}$" if position % 2 else escape(part) for position, part in enumerate(parts))


def _math(tex: str) -> str:
    """LaTeX of a formula with the mathematical characters of Unicode as commands."""
    # braces, so that σ_a stays one letter with its index, and a command ends where it ends
    return "".join(c if c.isascii() else f"{{{_sign(c).strip('$')}}}" if _sign(c)[:2] not in ("$^", "$_")
                   else _sign(c).strip("$") for c in tex)


def plain(text: str) -> str:
    """For PDF bookmarks, which take no math."""
    return re.sub(r"[^A-Za-z0-9 ,.:;()/=+-]", "", str(text))


def sentence(text: str) -> str:
    text = " ".join(str(text).split())
    return text if not text or text[-1] in ".!?:" else text + "."


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def words(name: str) -> str:
    return " ".join(str(name).split("_"))


def listing(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
