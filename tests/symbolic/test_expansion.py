"""Loop expansions of one to three fields against closed forms, quadrature, each other, and the one-field routine."""

import time
from functools import partial

import mpmath
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory.errors import BadInput, FieldTheoryError, RuleError
from fieldtheory.symbolic.expansion import (
    Expansion,
    cumulant,
    effective_action,
    expectation,
    gaussian_part,
    hbar,
    log_partition,
)
from fieldtheory.symbolic.fields import Entry
from fieldtheory.symbolic.saddles import choose_saddle, saddle_points
from fieldtheory.symbolic.series import Series, numerical_value
from fieldtheory.testing import actions, assert_next_coefficient

x, y, z = sp.symbols("x y z", real=True)
N = sp.Symbol("N", positive=True)
g, m, k = sp.symbols("g m k", positive=True)
a, b, c = sp.symbols("a b c")
R = sp.Rational
quartic = N * (x**2 / 2 + g * x**4 / 24)
cubic_quartic = x**2 / 2 + a * x**3 / 3 + b * x**4 / 4
two_fields = N * (x**2 / 2 + y**2 / 2 + a * x**3 / 6 + b * x**2 * y / 2 + c * y**3 / 6 + g * (x**2 + y**2)**2 / 24)


def difference(left, right):
    return [sp.simplify(p - q) for p, q in zip(left, right, strict=True)]


# ------------------------------------------------------------------------------------------------- closed forms


def test_quartic_reference_numbers():
    assert log_partition(quartic, [x], None, 5, N) == Series(
        (-g / 8, g**2 / 12, -R(11, 96) * g**3, R(17, 72) * g**4), 1 / N, 1)
    squares = expectation(quartic, [x], None, N * x**2 / N, 4, N)
    assert squares == Series((0, 1, -g / 2, 2 * g**2 / 3, -R(11, 8) * g**3), 1 / N)


def test_cubic_alone_is_the_airy_function():
    series = log_partition(x**2 / 2 + g * x**3 / 6, [x], 0, 4, formal=True)
    assert series.terms == (R(5, 24) * g**2, R(5, 16) * g**4, R(1105, 1152) * g**6)


def test_an_analytic_action_gives_stirling():
    """∫ exp(-N (e^x - x)) dx = Γ(N) N^-N."""
    series = log_partition(N * (sp.exp(x) - x), [x], 0, 10, N)
    bernoulli = [sp.bernoulli(n + 1) / (n * (n + 1)) for n in range(1, 10)]
    assert series.terms == tuple(bernoulli)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_vector_model_against_its_radial_integral(n):
    """∫ r^{n-1} exp(-r²/2 - g r⁴/24): ⟨r^{4j}⟩ = n (n+2) … (n+4j-2)."""
    fields = (x, y, z)[:n]
    square = sum(f**2 for f in fields)
    found = log_partition(square / 2 + g * square**2 / 24, fields, (0,) * n, 4)
    Z = sum((-g * hbar / 24)**j / sp.factorial(j) * sp.Mul(*(n + 2 * i for i in range(2 * j))) for j in range(5))
    expected = sp.series(sp.log(Z), hbar, 0, 4).removeO()
    assert sp.expand(found.as_expr() - expected) == 0


def test_cubic_quartic_reference_numbers():
    assert log_partition(cubic_quartic, [x], 0, 2).terms == (5 * a**2 / 6 - 3 * b / 4,)
    kappa = {n: cumulant(cubic_quartic, [x], 0, (x,) * n, 2) for n in (1, 2, 3, 4)}
    assert [kappa[n].offset for n in kappa] == [0, 1, 2, 3] and [kappa[n].remainder for n in kappa] == [3, 4, 5, 6]
    assert kappa[1].map(sp.expand) == Series((0, -a, -5 * a**3 + 8 * a * b), hbar)
    assert [sp.expand(t) for t in kappa[2].terms[:2]] == [1, 4 * a**2 - 3 * b]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_cumulants_are_derivatives_by_a_source(n):
    """ln Z of S - J x about its own saddle x(J) = J - a J² + …, differentiated n times: tree, one and two loops."""
    J = sp.Symbol("J")
    root = sp.S.Zero
    for _ in range(n + 1):
        expanded = sp.Poly(J - a * root**2 - b * root**3, J)
        root = sum(c * J**i for (i,), c in expanded.terms() if i <= n + 1)
    point = Expansion(cubic_quartic - J * x, (x,), (root,), hbar)
    orders = (-point.value, -sp.log(point.hessian[0, 0]) / 2, point.log_partition(2)[1])
    expected = [sp.diff(term, J, n).subs(J, 0) for term in orders]
    found = cumulant(cubic_quartic, [x], 0, (x,) * n, 2)
    assert [sp.expand(t) for t in found.terms] == [sp.expand(t) for t in expected]


def test_moments_of_an_exponential_sum_the_cumulants():
    """ln⟨e^{tx}⟩ = Σ κ_n tⁿ/n! at t = ½, both to ħ³."""
    generating = expectation(cubic_quartic, [x], 0, sp.exp(x / 2), 3).log()
    parts = [cumulant(cubic_quartic, [x], 0, (x,) * n, 4 - n) / (2**n * sp.factorial(n)) for n in (1, 2, 3, 4)]
    total = sum(parts[1:], parts[0])
    assert not any(difference(generating.terms[1:4], [total.coefficient(i) for i in (1, 2, 3)]))


# ------------------------------------------------------------------------------------- against the other routine


# ---------------------------------------------------------------------------------------------------- identities


def test_fields_that_do_not_couple_add():
    left, right = log_partition(quartic, [x], 0, 4, N), log_partition(quartic.xreplace({x: y, g: k}), [y], 0, 4, N)
    both = log_partition(quartic + quartic.xreplace({x: y, g: k}), [x, y], (0, 0), 4, N)
    assert both.map(sp.expand) == (left + right).map(sp.expand)


def test_a_linear_change_of_fields_changes_nothing():
    values = {a: R(1, 2), b: R(-1, 3), c: R(1, 4), g: 3}
    action = two_fields.xreplace(values)
    rotated = action.xreplace({x: x + y / 2, y: y - x / 3})
    assert log_partition(rotated, [x, y], (0, 0), 4, N) == log_partition(action, [x, y], (0, 0), 4, N)
    old = cumulant(action, [x, y], (0, 0), (x, x, y), 1, N)
    new = cumulant(rotated, [x, y], (0, 0), (x + y / 2, x + y / 2, y - x / 3), 1, N)
    assert new == old and any(old.terms)


def test_a_shift_of_the_fields_changes_nothing():
    shifted = two_fields.xreplace({x: x - m, y: y + 2})
    at = log_partition(shifted, [x, y], {x: m, y: -2}, 3, N)
    assert at.map(sp.expand) == log_partition(two_fields, [x, y], (0, 0), 3, N).map(sp.expand)


def test_cumulants_are_multilinear_and_symmetric():
    at = partial(cumulant, two_fields, [x, y], (0, 0), loops=1, large=N)
    left = at(observables=(x + 3 * y, y, x**2))
    right = at(observables=(x, x**2, y)) + 3 * at(observables=(y, y, x**2))
    assert left.map(sp.expand) == right.map(sp.expand)
    mean = partial(expectation, two_fields, [x, y], (0, 0), large=N)
    direct = mean(observable=x**2 * y, loops=3) - mean(observable=x**2, loops=3) * mean(observable=y, loops=3)
    kappa = at(observables=(x**2, y), loops=2)
    assert not any(difference([direct.coefficient(i) for i in (1, 2, 3)], [kappa.coefficient(i) for i in (1, 2, 3)]))
    assert at(observables=(x, sp.S(2))) == Series((0, 0), 1 / N, 1)


@pytest.mark.parametrize("loops", [1, 2, 3])
def test_the_effective_action_at_its_minimum_is_minus_ln_z(loops):
    """Γ'(φ̄) = 0 at φ̄ = ⟨φ⟩, and Γ(φ̄) = -ln Z: two fields with every cubic coupling."""
    values = {a: R(1, 2), b: R(-1, 3), c: R(1, 4), g: 3}
    action = two_fields.xreplace(values)
    gamma = effective_action(action, [x, y], loops, N)
    log_z = log_partition(action, [x, y], (0, 0), loops, N)
    mean = {f: expectation(action, [x, y], (0, 0), f, loops, N) for f in (x, y)}
    slope = {f: sp.diff(gamma.as_expr(), f) for f in (x, y)}
    left = []
    for number in (10**6, 10**8):  # what is left out is of order N^-loops in Γ and N^(1-loops-1) N in its slope
        at = {f: mean[f].evaluate(digits=70, N=number) for f in (x, y)}
        with mpmath.workdps(70):
            value = gamma.evaluate({**at, N: number}, digits=70) + log_z.evaluate(digits=70, N=number)
            value += mpmath.log(2 * mpmath.pi)
            slopes = [numerical_value(slope[f], {**at, N: number}, 70) for f in (x, y)] if loops < 3 else []
            left.append([float(abs(v) * mpmath.mpf(number)**loops) for v in (value, *slopes)])
    assert all(0 < v < 1000 for v in left[0])
    assert left[1] == pytest.approx(left[0], rel=1e-3)


def test_the_effective_action_of_one_field_has_the_textbook_terms():
    S = [sp.diff(quartic / N, x, n) for n in range(5)]
    gamma = effective_action(quartic, [x], 2, N)
    expected = (S[0], sp.log(S[2] / (2 * sp.pi)) / 2, S[4] / (8 * S[2]**2) - S[3]**2 / (12 * S[2]**3))
    assert gamma.offset == -1 and gamma.remainder == 2
    assert not any(sp.simplify(sp.expand_log(p - q, force=True)) for p, q in zip(gamma.terms, expected, strict=True))


# ---------------------------------------------------------------------------------------------------- quadrature


@pytest.mark.parametrize("n", [1, 2])
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_random_actions_approach_the_next_coefficient(n, data):
    """ln Z, means, third and fourth cumulants and the effective action; tests/test_testing.py has the wrong twins."""
    assert_next_coefficient(data.draw(actions(n)), loops=2)


@pytest.mark.slow
@pytest.mark.parametrize("n, loops", [(1, 4), (2, 3), (3, 2)])
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_random_actions_to_more_loops(n, loops, data):
    assert_next_coefficient(data.draw(actions(n)), loops=loops)


def test_thirty_digits_in_one_field_with_fourth_cumulant():
    action = N * cubic_quartic.subs({a: R(1, 2), b: R(1, 2)})
    series = cumulant(action, [x], None, (x,) * 4, 2, N)
    function = sp.lambdify([x, N], action, "mpmath")

    def exact(number):
        width = 1 / mpmath.sqrt(number)
        grid = [i * width / 4 for i in range(-80, 81)]
        weight = [mpmath.exp(-function(p, number)) for p in grid]
        moment = [mpmath.fsum(w * p**n for w, p in zip(weight, grid)) / mpmath.fsum(weight) for n in range(5)]
        _, p, q, r, s = moment
        return s - 4 * r * p - 3 * q**2 + 12 * q * p**2 - 6 * p**4

    with mpmath.workdps(50):
        ratio = [(exact(number) - mpmath.fsum(series.evaluate_terms(digits=50, N=number)[:2])) * mpmath.mpf(number)**5
                 / mpmath.mpf(str(series.terms[2].evalf(30))) for number in (10**3, 10**5)]
    assert abs(ratio[1] - 1) < 2e-3 and abs(ratio[1] - 1) < abs(ratio[0] - 1) / 50


# ---------------------------------------------------------------------------------------------- several saddles


def test_equivalent_saddles_bring_their_logarithm():
    well = N * (-x**2 / 2 + x**4 / 4)
    both = choose_saddle(well, [x], N, all=True)
    one = log_partition(well, [x], both[0], 3, N)
    assert log_partition(well, [x], both, 3, N) == one + sp.log(2)
    assert expectation(well, [x], both, x, 2, N) == Series((0, 0, 0), 1 / N)
    assert cumulant(well, [x], both, (x, x), 2, N).terms == (1, -1, -3)
    with pytest.raises(BadInput, match="equivalent"):
        log_partition(well, [x], saddle_points(well, [x], large=N), 2, N)


def test_saddles_of_equal_action_but_different_curvature():
    action = N * x**2 * (x - 1)**2 * (1 + x + x**2)
    both = choose_saddle(action, [x], N, all=True)
    assert len(both) == 2
    function = sp.lambdify([x, N], action, "mpmath")
    grid = [mpmath.mpf(i) / 1000 for i in range(-1500, 2500)]
    series = log_partition(action, [x], both, 4, N), expectation(action, [x], both, x, 2, N), \
        cumulant(action, [x], both, (x, x), 2, N)
    errors = []
    with mpmath.workdps(30):
        for number in (1000, 2000, 4000):
            weight = [mpmath.exp(-function(p, number)) for p in grid]
            total = mpmath.fsum(weight)
            mean, square = (mpmath.fsum(w * p**k for w, p in zip(weight, grid)) / total for k in (1, 2))
            gauss = gaussian_part(action, [x], both[0], N).subs(N, number)
            exact = mpmath.log(total / 1000) - mpmath.mpf(str(gauss.evalf(30))), mean, square - mean**2
            # what all terms but the last leave, times N to the power of the last
            errors.append([(value - mpmath.fsum(s.evaluate_terms(digits=30, N=number)[:-1])) * number**(s.remainder - 1)
                           for value, s in zip(exact, series)])
    limits = [(a - 6 * b + 8 * c) / 3 for a, b, c in zip(*errors)]
    assert [float(v) for v in limits] == pytest.approx([float(s.terms[-1]) for s in series], rel=1e-3)
    assert all(abs(s.terms[-1]) > 1e-3 for s in series)


def test_every_kind_of_saddle_value():
    """A radical, an algebraic number, a float and a complex one all give the expansion at that point."""
    well = N * (-m * x**2 / 2 + g * x**4 / 24)
    exact = log_partition(well, [x], sp.sqrt(6 * m / g), 3, N)
    assert not exact.as_expr().has(sp.sqrt(6 * m / g))
    assert sp.simplify(exact.terms[0] - g / (8 * m**2)) == 0  # S'' = 2m, S''' = g x*, S'''' = g
    numbers = {m: 2, g: 5}
    rough = log_partition(well.subs(numbers), [x], float(sp.sqrt(R(12, 5))), 3, N)
    assert [float(t) for t in rough.terms] == pytest.approx([float(t.subs(numbers)) for t in exact.terms])
    tilted = N * (x**6 / 6 + x**3 / 3 + x**2 - x)
    point = choose_saddle(tilted, [x], N)
    assert point.value.has(sp.CRootOf)
    root = point.value.evalf(30)
    near = Expansion(tilted / N, (x,), (root,), 1 / N).log_partition(3)
    assert [float(t) for t in log_partition(tilted, [x], None, 3, N).terms] == pytest.approx(list(map(float, near[1:])))
    imaginary = log_partition(quartic, [x], sp.I * sp.sqrt(6 / g), 2, N)
    assert sp.simplify(imaginary.terms[0] - g / 8) == 0  # S'' = -2


def test_parameters_in_the_propagator():
    action = m * x**2 / 2 + k * y**2 / 2 + c * x * y + g * x**2 * y**2 / 4 + x**4 + y**4
    values = {m: 2, k: 3, c: R(1, 2), g: 5}
    general = log_partition(action, [x, y], (0, 0), 3)
    special = log_partition(action.subs(values), [x, y], (0, 0), 3)
    assert [sp.nsimplify(t.subs(values)) for t in general.terms] == list(special.terms)


# -------------------------------------------------------------------------------------- names, seeds and speed


def test_renaming_everything_renames_the_result():
    names = dict(zip((x, y, a, b, c, g, N), sp.symbols("q p zeta alpha B A M"), strict=True))
    names[x], names[y] = sp.symbols("q p", real=True)
    names[g], names[N] = sp.symbols("A M", positive=True)
    renamed = two_fields.xreplace(names)
    for call in (lambda s, f, n: log_partition(s, f, (0, 0), 3, n),
                 lambda s, f, n: cumulant(s, f, (0, 0), (f[0], f[0], f[1]), 1, n),
                 lambda s, f, n: effective_action(s, f, 2, n)):
        before, after = call(two_fields, (x, y), N), call(renamed, (names[x], names[y]), names[N])
        assert [sp.expand(t.xreplace(names) - u) for t, u in zip(before.terms, after.terms)] == [0] * len(before.terms)


def test_entries_are_fields_too():
    u = Entry("u", "real")
    series = expectation(quartic.xreplace({x: u}), [u], None, u**2, 2, N)
    assert series == expectation(quartic, [x], None, x**2, 2, N)


def test_ten_loops_and_two_fields_in_time():
    coefficients = sp.symbols("v3:21")
    action = x**2 / 2 + sum(v * x**n / sp.factorial(n) for n, v in enumerate(coefficients, start=3))
    start = time.process_time()
    assert len(log_partition(action, [x], 0, 10, formal=True).terms) == 9
    assert time.process_time() - start < 3  # 0.3 s on the machine measured
    start = time.process_time()
    log_partition(two_fields, [x, y], (0, 0), 3, N)
    assert time.process_time() - start < 3


# ------------------------------------------------------------------------------------------------------ refusals

w = sp.Symbol("w")


@pytest.mark.parametrize("call, match", [
    (lambda: log_partition(quartic, [x], None, -1, N), "loops: got -1"),
    (lambda: effective_action(quartic, [x], -1, N), "loops: got -1"),
    (lambda: log_partition(quartic, [x], None, 1.5, N), "loops"),
    (lambda: log_partition(quartic, [x, y], None, 2, N), "fields: got y"),
    (lambda: log_partition(quartic, [], None, 2, N), "fields: got none"),
    (lambda: log_partition(quartic, [x, x], None, 2, N), "different"),
    (lambda: expectation(quartic, [x], None, x * w, 2, N), "unknown symbol w"),
    (lambda: expectation(quartic, [x], None, x * N, 2, N), "free of N"),
    (lambda: cumulant(quartic, [x], None, (), 2, N), "at least one"),
    (lambda: log_partition(quartic + x**2, [x], None, 2, N), "still contains x\\*\\*2/N"),
    (lambda: log_partition(x**2 + x**4, [x], None, 2, N), "multiplies the whole action"),
    (lambda: log_partition(quartic, [x], None, 2, 5), "large: got 5"),
    (lambda: log_partition(N * (x**2 / 2 + x**3), [x], None, 2, N), "without bound along x = -t, as -t\\*\\*3"),
    (lambda: log_partition(N * (x**2 / 2 - g * x**4), [x], None, 2, N), "without bound along"),
    (lambda: log_partition(x**2 + y**2 + (x - y)**4 - 3 * x**2 * y**2, [x, y], (0, 0), 2), "without bound"),
    (lambda: log_partition(y**2 / 2 - x**2 * y + x**4 / 4 + x**2, [x, y], (0, 0), 2), "t\\*\\*2"),
    (lambda: log_partition(x * sp.atan(x) - sp.sqrt(1 + x**2) * 2, [x], 0, 2), "without bound"),
    (lambda: log_partition(x**2 / 2 + sp.Abs(x)**3, [x], 0, 2), "Abs\\(x\\); expected a term that is analytic"),
    (lambda: log_partition(x**2 / 2 + sp.Max(x, 0)**3, [x], None, 2), "Max"),
    (lambda: log_partition(x**2 / 2 + (x**2)**R(5, 4), [x], 0, 2), "analytic"),
    (lambda: expectation(quartic, [x], 0, sp.Abs(x), 2, N), "observable: got Abs"),
    (lambda: log_partition((x**2 + y**2 - 1)**2, [x, y], (1, 0), 2), "vanishes along \\(0, 1\\)"),
    (lambda: log_partition((x**2 + y**2 - 1)**2, [x, y], None, 2), "vanishes along"),
    (lambda: log_partition(x**4, [x], None, 2), "flat to second order"),
    (lambda: log_partition(quartic, [x], 1, 2, N), "saddle: got x = 1; expected a stationary point"),
    (lambda: log_partition(quartic, [x], (0, 0), 2, N), "one value for each of x"),
    (lambda: log_partition(quartic, [x], {y: 0}, 2, N), "one value for each of x"),
])
def test_refusals(call, match):
    with pytest.raises(FieldTheoryError, match=match):
        call()


def test_a_kink_away_from_the_saddle_does_no_harm():
    action = N * ((x - 2)**2 / 2 + sp.Abs(x)**3 / 6 - 2 * x)
    plain = N * ((x - 2)**2 / 2 + x**3 / 6 - 2 * x)
    assert log_partition(action, [x], R(2), 3, N) == log_partition(plain, [x], R(2), 3, N, formal=True)


def test_formal_expansions_of_unstable_actions_are_allowed_on_request():
    with pytest.raises(BadInput, match="formal=True"):
        log_partition(x**2 / 2 - x**4 / 24, [x], 0, 2)
    assert log_partition(x**2 / 2 - x**4 / 24, [x], 0, 2, formal=True).terms == (R(1, 8),)
    with pytest.raises(RuleError):
        log_partition(x**4 - x**2 * y**2 + y**4, [x, y], None, 1)
