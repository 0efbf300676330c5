"""Series: ring axioms, honest remainders, powers and functions against direct expansion, evaluation."""


import mpmath
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory.errors import AsymptoticWarning, BadInput, FieldTheoryError, RuleError
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum
from fieldtheory.symbolic.series import EXACT, Series, numerical_value

N = sp.Symbol("N", positive=True)
h, a, b = sp.symbols("h a b")
P = sp.Symbol("P", positive=True, integer=True)
mode = Space("mode", P)
lam = Entry("lambda", "spectrum", (mode,))
y = Entry("y", "data", (mode,))

rationals = st.fractions(min_value=-4, max_value=4, max_denominator=6).map(sp.Rational)


@st.composite
def series(draw, min_offset=-2, exact=None):
    terms = tuple(draw(st.lists(rationals, max_size=4)))
    offset = draw(st.integers(min_offset, 2))
    is_exact = draw(st.booleans()) if exact is None else exact
    gap = EXACT if is_exact else offset + len(terms) + draw(st.integers(0, 2))
    return Series(terms, h, offset, gap)


def witness(x, order):
    """Two functions that share the known part of x and differ in the remainder."""
    free = [sp.S.Zero] if x.is_exact else [sp.Rational(7, 3), sp.Rational(-11, 5)]
    return [x.as_expr() + c * h**(0 if x.is_exact else x.remainder) for c in free]


def direct(expr, low, high):
    expanded = sp.expand(expr)
    return {k: expanded.coeff(h, k) for k in range(low, high)}


@settings(max_examples=60, deadline=None)
@given(series(), series())
def test_sum_and_product_state_the_sharp_remainder(x, z):
    for result, combine in ((x + z, lambda p, q: p + q), (x * z, lambda p, q: p * q)):
        high = 12 if result.is_exact else int(result.remainder)
        options = [combine(p, q) for p in witness(x, 0) for q in witness(z, 0)]
        for option in options:  # every completion of the operands has the coefficients that the result claims
            assert direct(option, -8, high) == {k: result.coefficient(k) for k in range(-8, high)}
        if not result.is_exact:  # and at the remainder itself they disagree, so it is not pessimistic
            assert len({sp.expand(option).coeff(h, high) for option in options}) > 1


@settings(max_examples=40, deadline=None)
@given(series(), series(), series())
def test_ring_axioms(x, z, w):
    assert x + z == z + x
    assert x * z == z * x
    assert (x + z) + w == x + (z + w)
    assert x - x == Series((), h, 0, x.remainder)
    left, right = x * (z + w), x * z + x * w
    common = int(min(left.remainder, right.remainder, 12))
    assert left.truncate(common - 1) == right.truncate(common - 1)


@settings(max_examples=40, deadline=None)
@given(series(min_offset=0, exact=False), st.sampled_from([-3, -1, sp.Rational(1, 2), sp.Rational(-3, 2)]))
def test_powers_exp_and_log_by_their_defining_property(x, alpha):
    unit = 1 + h * x
    if unit.remainder > 1:
        p = unit**alpha
        assert p.remainder == unit.remainder
        denominator = sp.Rational(alpha).q
        product = p**denominator * unit**(-sp.Rational(alpha).p)
        assert product == Series((1,), h, 0, unit.remainder)
        assert unit.log().exp() == unit
        assert (unit.log() * 3).exp() == unit**3
        high = min(unit.remainder, 4)
        difference = sp.series(sp.log(unit.as_expr()), h, 0, high).removeO() - unit.log().as_expr()
        assert all(sp.expand(difference).coeff(h, k) == 0 for k in range(high))


def test_shifts_and_symbolic_coefficients():
    x = Series((a, b, 1), 1 / N, -1)
    assert x.remainder == 2 and x.as_expr() == a * N + b + 1 / N
    assert x / N == Series((a, b, 1), 1 / N, 0) and x * N == Series((a, b, 1), 1 / N, -2)
    assert (x * x).map(sp.expand).terms == (a**2, 2 * a * b, b**2 + 2 * a)
    assert (x * x).remainder == 1  # N¹ times O(N⁻²)
    inverse = (1 / x).map(sp.simplify)
    assert inverse.offset == 1 and inverse.terms[:2] == (1 / a, -b / a**2)
    assert (x**-2).remainder == 2 + 3
    assert (2 - x).coefficient(0) == 2 - b and (a * x).coefficient(0) == a * b
    assert Series((0, 0, a), h, 0) * Series((b,), h) == Series((a * b,), h, 2)  # zeros buy accuracy: O(h³)
    assert Series((1,), h) ** 0 == Series((1,), h, 0, EXACT)


def test_half_integer_orders():
    root = Series((1, a, b), N**sp.Rational(-1, 2))
    square = root * root
    assert square.as_expr() == 1 + 2 * a / sp.sqrt(N) + (a**2 + 2 * b) / N
    assert str(root) == "1 + a/sqrt(N) + b/N + O(N**(-3/2))"


def test_truncation_is_a_value():
    x = Series((1, a, b), 1 / N)
    assert x.truncate(1) == Series((1, a), 1 / N) and x.truncate(1).remainder == 2
    assert x.truncate(5) == x, "cannot know more than it does"
    assert x.truncate(-1) == Series((), 1 / N, 0, 0)
    with pytest.raises(RuleError, match="remainder"):
        x.coefficient(3)
    assert x.coefficient(-1) == 0
    assert Series.from_expr(1 + a / N, 1 / N).truncate(3) == Series((1, a, 0, 0), 1 / N)
    assert Series.from_expr(0, h) == Series((), h, 0, EXACT)
    assert Series.from_expr(h + h**3, h, remainder=2) == Series((1,), h, 1)


def test_equality_and_hash_ignore_how_zeros_are_stored():
    assert Series((0, 1), h) == Series((1,), h, 1) and hash(Series((0, 1), h)) == hash(Series((1,), h, 1))
    assert Series((1,), h) != Series((1, 0), h), "a known zero is knowledge"
    assert Series((1, 0), h) == Series((1,), h, 0, 2)
    assert Series((1,), h) != Series((1,), 1 / N) and Series((1,), h) != 1


@pytest.mark.parametrize("bad", [
    lambda: Series((1,), h) + Series((1,), 1 / N),
    lambda: Series((1,), h) * Series((1,), 1 / N),
    lambda: Series((N,), 1 / N),
    lambda: Series((SpaceSum(lam, Space("site", N)),), 1 / N),
    lambda: Series((1,), N + 1),
    lambda: Series((1, 2), h, 0, 1),
    lambda: Series((1,), h) * sp.exp(h),
    lambda: Series((1,), h) + sp.sqrt(h),
    lambda: Series((1,), h)**a,
    lambda: Series((1, 1), h, 1)**sp.Rational(1, 2),
    lambda: Series((0,), h)**-1,
    lambda: Series((1, 1), h, 0, EXACT)**-1,
    lambda: Series((1,), h, -1).exp(),
    lambda: Series((1,), h, 1).log(),
])
def test_refusals(bad):
    with pytest.raises(FieldTheoryError):
        bad()


def test_mismatch_names_the_parameter():
    with pytest.raises(BadInput, match="parameter: got 1/N; expected h"):
        Series((1,), h) - Series((1,), 1 / N)


def test_evaluation():
    x = Series((1, a, SpaceSum(lam * y**2, mode) / P), 1 / N)
    data = {"lambda": [1.0, 2.0], y: [3.0, -1.0], a: 0.5}
    assert x.evaluate_terms(data, N=10) == pytest.approx((1, 0.05, 0.055))
    with pytest.warns(AsymptoticWarning, match="the terms grow from"):  # .05, then .055
        assert x.evaluate({**data, N: 10}) == pytest.approx(1.105) and isinstance(x.evaluate(data, N=10), float)
        assert x.evaluate({**data, P: 2}, N=10) == x.evaluate(data, N=10)
    exact = Series((sp.Rational(1, 3), sp.log(a)), h).evaluate({a: 2, h: sp.Rational(1, 7)}, digits=30)
    with mpmath.workdps(40):
        assert abs(exact - (mpmath.mpf(1) / 3 + mpmath.log(2) / 7)) < mpmath.mpf(10)**-30
    assert Series((sp.sqrt(a),), h).evaluate(a=-4) == 2j
    for wrong, name in (({}, "a"), ({**data, "P": 3, "N": 1}, "P"), ({**data, y: [1.0], "N": 1}, "y")):
        with pytest.raises(BadInput, match=name):
            x.evaluate(wrong)
    with pytest.raises(BadInput, match="closed"):
        numerical_value(lam, {"lambda": [1]})


def test_evaluation_of_nested_and_two_space_sums():
    other = Space("test", sp.Symbol("T"))
    table, u = Entry("C", "data", (other, mode)), Entry("u", "data", (other,))
    expr = SpaceSum(u * SpaceSum(table * lam, mode)**2, other)
    expr += SpaceSum(1 / (lam + SpaceSum(lam, mode)), mode)
    values = {"C": [[1, 2], [3, 4], [0, 1]], "u": [1, 2, 3], "lambda": [1, 3]}
    assert numerical_value(expr, values) == pytest.approx(7**2 + 2 * 15**2 + 3 * 3**2 + 1 / 5 + 1 / 7)


def test_arrays_of_any_type():
    np = pytest.importorskip("numpy")
    expr = SpaceSum(lam * y**2, mode) + P
    assert numerical_value(expr, {"lambda": np.ones(3), "y": np.arange(3.0)}) == 8.0


def test_text_and_latex():
    x = Series((-1, a, 0, -b / 2), 1 / N)
    assert str(x) == "-1 + a/N - b/(2*N**3) + O(N**(-4))" and repr(x) == f"Series({x})"
    body = r"-1 + \frac{a}{N} - \frac{b}{2 N^{3}} + O\left(\frac{1}{N^{4}}\right)"
    assert x._repr_latex_() == rf"$\displaystyle {body}$"
    assert sp.latex(x) in x._repr_latex_()
    assert str(Series((), h, 0, EXACT)) == "0" and str(Series((1, a - b), h, 0, EXACT)) == "1 + h*(a - b)"
