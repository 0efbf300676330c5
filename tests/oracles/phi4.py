"""The φ⁴ integral: ln Z of S = φ²/2 + gφ⁴/24 from its moments.  No reference to diagrams."""

from __future__ import annotations

from fractions import Fraction
from math import factorial, prod


def double_factorial(k: int) -> int:
    return prod(range(k, 0, -2))


def log_series(moments: list[Fraction]) -> list[Fraction]:
    """ln of a power series that starts with one."""
    logs = [Fraction(0)]
    for k in range(1, len(moments)):
        logs.append(moments[k] - sum((j * logs[j] * moments[k - j] for j in range(1, k)), Fraction(0)) / k)
    return logs


def phi4_log_partition(order: int) -> list[Fraction]:
    """Coefficients of gᵏ in ln Z for S = φ²/2 + gφ⁴/24, from ⟨φ^{4k}⟩ = (4k - 1)!!."""
    return log_series([Fraction((-1)**k * double_factorial(4 * k - 1), factorial(k) * 24**k)
                       for k in range(order + 1)])
