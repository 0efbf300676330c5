"""Sums over lattices against integrals known in other ways."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import pytest

from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.exact.lattice import LatticeLaw

QUARTIC = {(2,): Fraction(1, 2), (4,): Fraction(1, 24)}


def test_the_quartic_integral_of_the_literature() -> None:
    """Zero-dimensional φ⁴ at g = 1: Z and ⟨φ²⟩ to 18 digits; to 40 by Bessel functions, as a polynomial and called."""
    with mpmath.workdps(50):
        # ∫ exp(-x²/2 - x⁴/24) dx = √3 e^{3/4} K_{1/4}(3/4)
        exact = mpmath.sqrt(3) * mpmath.exp(0.75) * mpmath.besselk(0.25, 0.75)
        for action in (QUARTIC, lambda u: u**2 / 2 + u**4 / 24):
            law = LatticeLaw(action, [0], [[1]], 40)
            Z = mpmath.exp(law.log_partition)
            assert abs(Z / exact - 1) < mpmath.mpf(10)**-39
            assert abs(Z / mpmath.sqrt(2 * mpmath.pi) - mpmath.mpf("0.918918905923241764")) < mpmath.mpf(10)**-18
            assert abs(law.mean({(2,): 1}) - mpmath.mpf("0.750511146389689066")) < mpmath.mpf(10)**-18
            assert abs(law.mean(lambda u: u**2) - law.mean({(2,): 1})) < mpmath.mpf(10)**-38


def test_where_the_lattice_lies_does_not_matter() -> None:
    at_zero, beside = LatticeLaw(QUARTIC, [0], [[1]], 30), LatticeLaw(QUARTIC, [Fraction(1, 3)], [[2]], 30)
    with mpmath.workdps(40):
        assert abs(at_zero.log_partition - beside.log_partition) < mpmath.mpf(10)**-28
        fourth = [law.cumulant([{(1,): 1}] * 4) for law in (at_zero, beside)]
        assert abs(fourth[0] - fourth[1]) < mpmath.mpf(10)**-28


@pytest.mark.parametrize("n", [2, 3])
def test_a_vector_against_its_radial_integral(n: int) -> None:
    """exp(-r²/2 - r⁴/24) in n fields: Z and ⟨r²⟩ in one dimension."""
    unit = [tuple(2 * (i == k) for k in range(n)) for i in range(n)]
    action: dict[tuple[int, ...], Fraction] = {alpha: Fraction(1, 2) for alpha in unit}
    for a in unit:
        for b in unit:
            key = tuple(i + j for i, j in zip(a, b))
            action[key] = action.get(key, Fraction(0)) + Fraction(1, 24)
    law = LatticeLaw(action, [0] * n, [[int(i == j) for j in range(n)] for i in range(n)], 18)
    with mpmath.workdps(30):
        def radial(power: int) -> mpmath.mpf:
            return mpmath.quad(lambda r: r**power * mpmath.exp(-r**2 / 2 - r**4 / 24), [0, 1, 2, 4, 8, 12])

        sphere = 2 * mpmath.pi if n == 2 else 4 * mpmath.pi
        assert abs(mpmath.exp(law.log_partition) / (sphere * radial(n - 1)) - 1) < 1e-15
        assert abs(law.mean({alpha: 1 for alpha in unit}) / (radial(n + 1) / radial(n - 1)) - 1) < 1e-14


def test_gaussian_cumulants() -> None:
    """κ(x², y², xy) = 8 c (ab + c²)·… by Isserlis, and the erf average of the literature with a = b = 1, c = ½."""
    a, b, c = Fraction(1), Fraction(1), Fraction(1, 2)
    det = a * b - c**2
    law = LatticeLaw({(2, 0): b / det / 2, (1, 1): -c / det, (0, 2): a / det / 2}, [0, 0],
                     [[b / det, -c / det], [-c / det, a / det]], 20)
    xx, yy, xy = {(2, 0): 1}, {(0, 2): 1}, {(1, 1): 1}
    assert abs(law.cumulant([xx, yy]) - 2 * c**2) < 1e-18
    assert abs(law.cumulant([xx, yy, xy]) - 4 * c * (a * b + c**2)) < 1e-17
    assert abs(law.cumulant([xx] * 4) - 48) < 1e-16
    assert abs(law.mean(lambda u, v: mpmath.erf(u) * mpmath.erf(v)) - mpmath.mpf("0.216346895938785")) < 1e-15


def test_what_has_no_law_is_refused() -> None:
    with pytest.raises(BadInput, match="positive definite"):
        LatticeLaw(QUARTIC, [0], [[-1]], 20)
    with pytest.raises(NotConverged, match="lattice"):
        LatticeLaw({(2,): Fraction(1, 2), (3,): 1}, [0], [[1]], 20)
