r"""What a divergent series still says: its truncation error, and its Padé and Padé-Borel sums.

A loop expansion is asymptotic: its coefficients grow like L!, and its terms fall to a smallest one and then grow.
The Borel transform B(t) = Σ c_k t^k/k! converges near t = 0; a Padé approximant continues it along t > 0 and

    Σ c_k ε^k  →  ∫_0^∞ e^{-t} B(ε t) dt.

Numbers only, in mpmath.  Source: standard; Bender and Orszag, Advanced Mathematical Methods, chapter 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mpmath

from fieldtheory.errors import BadInput, NotConverged, RuleError

METHODS = ("pade-borel", "pade")


@dataclass(frozen=True)
class Estimate:
    """A number and an estimate of its error (of its size, not a bound).

    ``smallest`` is the power of ε of the smallest term where the terms have begun to grow; otherwise None.
    """

    value: Any
    error: Any
    smallest: int | None = None

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        return f"{mpmath.nstr(self.value, 12)} ± {mpmath.nstr(self.error, 2)}"


def truncation_error(terms: Sequence[tuple[int, Any]], remainder: int) -> tuple[Any, int | None]:
    """The size of what a truncated series leaves out, and the power of its smallest term if it is past that.

    ``terms`` are (power, term); zeros are left out.  Still falling terms are continued geometrically, with the last
    ratio, to the power of the remainder; past the smallest term, or with one term only, the error is the size of the
    last one.  Past it means that the last step was upwards, from ε^0 on: a small term before larger ones that fall is
    an accident, and so is a small action beside its fluctuations.
    """
    sizes = [(power, abs(term)) for power, term in terms if term != 0]
    if not sizes:
        return mpmath.inf, None
    last = sizes[-1][1]
    if len(sizes) == 1:
        return last, None
    (p, a), (q, b) = sizes[-2:]
    if b > a and p >= 0:
        return last, min((size, -power) for power, size in sizes if power >= 0)[1] * -1
    return b * (b / a)**(mpmath.mpf(remainder - q) / (q - p)), None


def resummed(coefficients: Sequence[Any], epsilon: Any, method: str) -> tuple[Any, Any]:
    """Σ c_k ε^k resummed, and its distance to the neighbouring approximants.

    The near-diagonal approximants [m/n] with m + n one less than the number of coefficients are tried in order of
    |m - n|; those with a pole on the path are passed over.

    Raises
    ------
    RuleError
        With fewer than three coefficients, or a pole on the path in every approximant.
    NotConverged
        Where the Borel integral is not a number.
    """
    if method not in METHODS:
        raise BadInput("method", method, f"one of {', '.join(METHODS)}")
    if len(coefficients) < 3:
        raise RuleError(f"{len(coefficients)} coefficients are too few to resum; at least 3 are needed")
    values = []
    for count in (len(coefficients), len(coefficients) - 1):
        found = [v for m, n in _degrees(count - 1) if (v := _approximant(coefficients[:count], epsilon, method, m, n))
                 is not None]
        values += found[:2] if count == len(coefficients) else found[:1]
    if not values:
        raise RuleError("every Padé approximant has a pole on the path of summation: the series cannot be resummed in "
                        "this direction")
    best = values[0]
    if not mpmath.isfinite(best):
        raise NotConverged("the Borel integral does not converge", float("nan"))
    others = [abs(best - v) for v in values[1:]]
    return best, max(others) if others else abs(best)


def _degrees(total: int) -> list[tuple[int, int]]:
    """[m/n] with m + n = total and n ≥ 1, the most nearly diagonal first, n ≥ m before n < m."""
    pairs = [(total - n, n) for n in range(1, total + 1)]
    return sorted(pairs, key=lambda mn: (abs(mn[0] - mn[1]), mn[0]))[:4]


def _approximant(coefficients: Sequence[Any], epsilon: Any, method: str, m: int, n: int) -> Any:
    """The sum by one approximant; None where it does not exist or has a pole on the path."""
    borel = method == "pade-borel"
    scaled = [c * epsilon**k / (mpmath.factorial(k) if borel else 1) for k, c in enumerate(coefficients)]
    try:
        top, bottom = pade(scaled, m, n)
        if not borel:
            value = mpmath.polyval(bottom, 1)
            return mpmath.polyval(top, 1) / value if value else None
        while abs(bottom[0]) < _tiny():
            bottom = bottom[1:]
        if len(bottom) > 1 and any(_on_path(root) for root in mpmath.polyroots(bottom, maxsteps=200, extraprec=200)):
            return None
        return mpmath.quad(lambda t: mpmath.exp(-t) * mpmath.polyval(top, t) / mpmath.polyval(bottom, t),
                           [0, 1, 4, 16, mpmath.inf])
    except mpmath.libmp.NoConvergence:
        return None


def pade(series: Sequence[Any], m: int, n: int) -> tuple[list[Any], list[Any]]:
    """Numerator and denominator of [m/n], highest power first, with Q(0) = 1.

    Where the equations for Q are singular the approximant is one of lower degrees, which is found by going down the
    diagonal; a rational function is so recovered whatever degrees are asked for.
    """
    c = list(series)
    while n > 0:
        rows = [[c[m + i - j] if m + i >= j else mpmath.mpf(0) for j in range(1, n + 1)] + [-c[m + i]]
                for i in range(1, n + 1)]
        q = _solve(rows)
        if q is not None:
            break
        m, n = max(m - 1, 0), n - 1
    else:
        q = []
    bottom = [mpmath.mpf(1), *q]
    top = [mpmath.fsum(bottom[j] * c[i - j] for j in range(min(i, n) + 1)) for i in range(m + 1)]
    return top[::-1], bottom[::-1]


def _solve(rows: list[list[Any]]) -> list[Any] | None:
    """Gauss with the largest pivot of scaled rows; None for a singular system."""
    n = len(rows)
    rows = [[x / scale for x in row] for row in rows if (scale := max(map(abs, row[:-1]))) != 0]
    if len(rows) < n:
        return None
    for k in range(n):
        best = max(range(k, n), key=lambda i: abs(rows[i][k]))
        if abs(rows[best][k]) < _tiny():
            return None
        rows[k], rows[best] = rows[best], rows[k]
        for i in range(n):
            if i != k:
                factor = rows[i][k] / rows[k][k]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k])]
    return [row[-1] / row[k] for k, row in enumerate(rows)]


def _tiny() -> Any:
    return mpmath.mpf(10)**(-mpmath.mp.dps + 8)


def _on_path(root: Any) -> bool:
    return bool(mpmath.re(root) >= 0 and abs(mpmath.im(root)) <= mpmath.mpf(10)**-8 * (1 + abs(root)))
