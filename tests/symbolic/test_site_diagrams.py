"""Which diagrams of the resolvent of many sites the medium of ``fluctuation`` sums: all rainbows, no crossed one."""

from __future__ import annotations

from collections import Counter
from math import comb

import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.symbolic.counting import exponent
from tests.oracles.site_words import Word, words

ORDER = 4
N, P, g, p = (sp.Symbol(name, positive=True) for name in ("N", "P", "g", "p"))
RATIO = sp.Symbol("rho", positive=True)
LEVELS = sp.Integer(2), sp.Integer(5)
"""Eigenvalues of the covariance of a site's features, each for half of the modes; the noise is 1."""


def moment(order: int) -> sp.Expr:
    return sp.Add(*(level**order for level in LEVELS)) / len(LEVELS)


def power(word: Word, order: int) -> sp.Expr:
    """The power of N of a diagram at P ~ N^p: a sum over sites for each block, a trace over samples for each loop."""
    return sp.expand(exponent((g / N)**order * N**len(word.blocks) * P**len(word.loops), {N: 1, P: p, g: 0}))


def rainbow(word: Word, order: int) -> bool:
    """Sites met again only after those met since, and never twisted: of order (P/N)^loops."""
    return sp.expand(power(word, order) - (p - 1) * len(word.loops)) == 0


def enumerated(order: int, level: sp.Expr) -> sp.Expr:
    """The coefficient of g^m of ⟨(s + K)⁻¹⟩ in a mode, at leading order in N at P = ratio N."""
    total = sp.Add(*(RATIO**len(word.loops) * level**word.line * sp.Mul(*(moment(length) for length in word.loops))
                     for word in words(order) if rainbow(word, order)))
    return (-1)**order * total


@pytest.mark.parametrize("order", range(1, ORDER + 1))
def test_powers_of_diagrams(order: int) -> None:
    """Rainbows are of order N^((p-1) t) with t traces; others with as many are lower by N^e, e ≥ 1."""
    found = list(words(order))
    assert len(found) == sp.factorial2(2 * order - 1)
    lost = [sp.expand((p - 1) * len(word.loops) - power(word, order)) for word in found]
    assert all(e.is_Integer and e >= 0 for e in lost)
    kept = Counter(len(word.loops) for word, e in zip(found, lost, strict=True) if e == 0)
    narayana = {t: comb(order, t) * comb(order, t + 1) // order for t in range(order)}  # non-crossing partitions
    assert kept == narayana
    crossed = [e for word, e in zip(found, lost, strict=True) if word.crossed]
    assert all(e >= 1 for e in crossed) and bool(crossed) == (order >= 4)  # a b a b is the first
    assert order == 1 or min(e for e in lost if e) == 1


def reciprocal(rest: sp.Expr) -> sp.Expr:
    """1/(1 + rest) to ORDER in g, for a rest of order g."""
    found = total = sp.Integer(1)
    for _ in range(ORDER):
        total = sp.expand(-total * rest)
        total = sp.Add(*(total.coeff(g, k) * g**k for k in range(1, ORDER + 1)))
        found += total
    return sp.expand(found)


def medium_series(screened: bool = True) -> list[sp.Expr]:
    """The same coefficients by the medium that the rule derives, at P = ratio N for N → ∞, where φᵀGφ is its mean."""
    theory = ft.theories["collapsed-mean-field"](ft.Network(activation="identity"), resolvent="self-consistent")
    (step,) = (step for step in theory.action.steps if step.rule == "fluctuation")
    names = {x.name: x for x in step.details["medium"].free_symbols}
    inverse, large = sp.symbols("u x", positive=True)  # 1/N, and N r, which stays finite
    medium = step.details["medium"].xreplace({names["s"]: sp.Integer(1), names["N"]: 1 / inverse,
                                              step.details["screened"]: large * inverse})
    spectrum = sp.limit(sp.simplify(medium), inverse, 0).replace(sp.Pow, lambda base, power: sp.factor(base)**power)
    resolvent: dict[sp.Expr, sp.Expr] = dict.fromkeys(LEVELS, sp.Integer(1))
    for _ in range(ORDER):  # every round is right to one more order of g
        screening = g * RATIO * sp.Add(*(level * resolvent[level] for level in LEVELS)) / len(LEVELS)
        unscreened = reciprocal(screening) if screened else sp.Integer(1)
        resolvent = {level: reciprocal(spectrum.xreplace({large: g * level * unscreened})) for level in LEVELS}
    return [sp.expand(resolvent[LEVELS[0]]).coeff(g, m) for m in range(ORDER + 1)]


def test_the_medium_sums_the_rainbows() -> None:
    """c (1 - rG) = r and r = ⟨k/B⟩, as power series: coefficient by coefficient the enumerated rainbows."""
    found = medium_series()
    assert found[0] == 1
    for order in range(1, ORDER + 1):
        assert sp.expand(found[order] - enumerated(order, LEVELS[0])) == 0, order


def test_the_mean_sums_one_of_them() -> None:
    """Without the screening B the medium is the mean, and lacks every diagram with a trace from the second order on."""
    wrong = medium_series(screened=False)
    assert sp.expand(wrong[1] - enumerated(1, LEVELS[0])) == 0
    for order in range(2, ORDER + 1):
        missing = sp.expand(enumerated(order, LEVELS[0]) - wrong[order])
        assert missing != 0 and missing.coeff(RATIO, 0) == 0
