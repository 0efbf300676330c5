"""Powers of N: exact chambers of the linear network, and measured slopes of random and known equations."""

import itertools
from fractions import Fraction

import mpmath
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.counting import balance, exponent, power_counting, select_chamber, stationarity
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, rename
from fieldtheory.symbolic.maxplus import convex_union, interior_point, irredundant
from fieldtheory.symbolic.series import numerical_value

N, g, s, P, Q, q, x, z = sp.symbols("N g s P Q q x z", positive=True)
gamma, delta, p, a, b = sp.symbols("gamma delta p a b")
mode = Space("mode", P)
lam = Entry("lambda", "spectrum", (mode,))
y = Entry("y", "data", (mode,))
GIVEN = {N: 1, g: 1 - gamma, s: -delta, P: p}
CUBE = (p >= 0, p <= 1, delta >= 0)

ACTION = (-N * sp.log(Q) / 2 + N * Q / (2 * g) + SpaceSum(sp.log(Q * lam + s), mode) / 2
          + SpaceSum(y**2 / (Q * lam + s), mode) / 2)
STATE = 1 - g / Q - g / N * (SpaceSum(y**2 * lam / (Q * lam + s)**2, mode)
                             - SpaceSum(lam / (Q * lam + s), mode))
PARTS = {"entropy": N / 2, "prior": N * Q / (2 * g),
         "target": SpaceSum(y**2 * Q * lam / (Q * lam + s)**2, mode),
         "trace": SpaceSum(Q * lam / (Q * lam + s), mode)}
POINTS = {"standard, P ~ 1": (1, 0, 0), "standard, P ~ N": (1, 0, 1),
          "mean-field, P ~ 1": (2, 1, 0), "mean-field, P ~ N": (2, 1, 1)}


def at(point):
    return dict(zip((gamma, delta, p), point, strict=True))


def counted():
    return power_counting(STATE, [Q], GIVEN, PARTS, corrections=["trace"], constraints=CUBE)


# -------------------------------------------------------------------------------------- the linear network


def test_chambers_of_the_order_parameter():
    found = {(c.exponents[Q], frozenset(map(str, c.conditions))) for c in balance(STATE, [Q], GIVEN, CUBE)}
    assert found == {
        (1 - gamma, frozenset({"gamma <= delta + 1", "gamma + p <= 2"})),
        (1 - gamma, frozenset({"delta + 1 <= gamma", "2*delta + p <= gamma"})),
        ((p - gamma) / 2, frozenset({"2 <= gamma + p", "gamma <= 2*delta + p"}))}


def test_the_action_gives_the_chambers_of_its_equation_of_state():
    u = sp.Symbol("u", real=True)
    in_u = ACTION.xreplace({Q: sp.exp(u)})
    direct = balance(STATE, [Q], GIVEN)
    for action in (ACTION, in_u.xreplace({u: sp.log(Q)})):
        chambers = balance(stationarity(action, [Q]), [Q], GIVEN)
        assert [c.exponents for c in chambers] == [c.exponents for c in direct]
        assert [c.conditions for c in chambers] == [c.conditions for c in direct]
    with pytest.raises(RuleError, match=r"exp\(u\)"):
        balance(in_u, [u], GIVEN)


def test_trace_term_chamber_by_chamber():
    counting = counted()
    assert [c.contributions["trace"] for c in counting.chambers] == [p, delta - gamma + p + 1, p]
    assert [c.contributions["entropy"] for c in counting.chambers] == [1, 1, 1]
    assert [c.dominant for c in counting.chambers] == [
        ("entropy", "prior"), ("entropy", "prior"), ("prior", "target")]
    assert len(counting.chambers[0].leading) == 1
    assert set(counting.chambers[0].leading[0]) == {1, -g / Q}


@pytest.mark.parametrize(("name", "alpha", "trace", "order"), [
    ("standard, P ~ 1", 0, 0, -1), ("standard, P ~ N", 0, 1, 0),
    ("mean-field, P ~ 1", -1, 0, -1), ("mean-field, P ~ N", sp.Rational(-1, 2), 1, sp.Rational(-1, 2))])
def test_where_the_saddle_suffices(name, alpha, trace, order):
    counting = counted()
    (here,) = counting.at(at(POINTS[name]))
    assert here.exponents == {Q: alpha} and here.contributions["trace"] == trace
    report = counting.saddle_suffices(at(POINTS[name]))
    assert (report.relative_order, bool(report), report.correction) == (order, order < 0, "trace")
    assert ("trace" in counting.leading(at(POINTS[name]))[0]) == (order == 0)


def test_regions_where_the_saddle_suffices():
    regions = [frozenset(map(str, region)) for region in counted().saddle_regions()]
    assert regions == [frozenset({"gamma <= delta + 1", "gamma + p <= 2", "p < 1"}),
                       frozenset({"delta + 1 <= gamma", "2*delta + p <= gamma", "delta + p < gamma"}),
                       frozenset({"2 <= gamma + p", "gamma <= 2*delta + p", "p < gamma"})]


def test_tree_level_of_the_conjugate_field_balances_two_unknowns():
    j = Entry("j", "real", (mode,))
    system = [1 / q - 1 / g + SpaceSum(lam * j**2, mode) / N, s * j + q * lam * j - y]
    chambers = balance(system, [q, j], GIVEN, CUBE)
    assert {(c.exponents[q], c.exponents[j]) for c in chambers} == {
        (1 - gamma, delta), (1 - gamma, gamma - 1), ((p - gamma) / 2, (gamma - p) / 2)}
    assert {c.conditions for c in chambers} == {c.conditions for c in balance(STATE, [Q], GIVEN, CUBE)}


def slope(function, low, high):
    return (mpmath.log(function(high)) - mpmath.log(function(low))) / (mpmath.log(high) - mpmath.log(low))


@pytest.mark.parametrize("name", POINTS)
def test_measured_slopes_of_the_root_and_of_the_trace(name):
    """The root of the equation of state for widths up to 1e12; two degenerate eigenvalues allow such a P."""
    G, D, e = POINTS[name]

    def root(width):
        size, noise, prior = width**e, width**-D, width**(1 - G)
        modes = ((mpmath.mpf(2), mpmath.mpf("1.5")), (mpmath.mpf("0.5"), mpmath.mpf("0.7")))

        def equation(log_q):
            value = mpmath.exp(log_q)
            total = sum(t * t * l / (value * l + noise)**2 - l / (value * l + noise) for l, t in modes) / 2
            return 1 - prior / value - prior / width * size * total

        below, above = mpmath.log(prior) - 20, mpmath.log(prior) + 2 * mpmath.log(width)
        assert equation(below) < 0 < equation(above)
        for _ in range(100):
            middle = (below + above) / 2
            below, above = (below, middle) if equation(middle) > 0 else (middle, above)
        value = mpmath.exp(below)
        return value, size * sum(value * l / (value * l + noise) for l, _ in modes)

    with mpmath.workdps(30):
        (here,) = counted().at(at(POINTS[name]))
        low, high = mpmath.mpf(10)**10, mpmath.mpf(10)**12
        for k, expected in enumerate((here.exponents[Q], here.contributions["trace"])):
            assert slope(lambda n, k=k: root(n)[k], low, high) == pytest.approx(float(expected), abs=2e-3)


def test_definitions_may_stand_in_the_equation_or_be_counted_first():
    sigma, noise = sp.symbols("sigma_a s_0", positive=True)
    definitions = {g: sigma**2 * N**(1 - gamma), s: noise * N**-delta}
    known = {N: 1, sigma: 0, noise: 0}
    exponents = {N: 1, P: p, **{symbol: exponent(d, known) for symbol, d in definitions.items()}}
    assert exponents[g] == 1 - gamma and exponents[s] == -delta
    inside = balance(STATE.xreplace(definitions), [Q], {**known, P: p}, CUBE)
    key = [(c.exponents, set(c.conditions)) for c in balance(STATE, [Q], exponents, CUBE)]
    assert all((c.exponents, set(c.conditions)) in key for c in inside) and len(inside) == len(key)
    with pytest.raises(RuleError, match="dominates"):
        exponent(N + s, {N: 1, s: -delta})


def test_numerical_exponents_and_fixed_ones():
    for values in map(at, POINTS.values()):
        numbers = {k: sp.sympify(e).subs(values) for k, e in GIVEN.items()}
        (here,) = balance(STATE, [Q], numbers)
        assert here.exponents == counted().at(values)[0].exponents and here.conditions == ()
    standard = balance(STATE, [Q], GIVEN, (sp.Eq(gamma, 1 + delta), *CUBE))
    assert {c.exponents[Q] for c in standard} <= {-delta, (p - delta - 1) / 2, 1 - gamma, (p - gamma) / 2}
    for point in itertools.product((0, 1, 2), (0, sp.Rational(1, 2), 1)):
        values = {gamma: 1 + point[0], delta: point[0], p: point[1]}
        assert {c.exponents[Q] for c in select_chamber(standard, values)} == {
            c.exponents[Q] for c in select_chamber(balance(STATE, [Q], GIVEN, CUBE), values)}
    assert not select_chamber(standard, {gamma: 1, delta: 1, p: 0})


# --------------------------------------------------------------------------------------- chambers as values


def test_points_by_name_and_refused_outside():
    chamber = balance(STATE, [Q], GIVEN, CUBE)[0]
    assert chamber.at(gamma=1, delta=0, p=0.5).exponents == {Q: 0}
    partial = chamber.at(gamma=1)
    assert partial.exponents == {Q: 0} and all(gamma not in c.free_symbols for c in partial.conditions)
    assert not chamber.contains(gamma=1, delta=0, p=2), "the imposed constraints count"
    with pytest.raises(BadInput, match="point"):
        chamber.at(gamma=2, delta=0, p=0)
    with pytest.raises(BadInput, match="delta"):
        chamber.contains(gamma=1, p=0)
    with pytest.raises(RuleError, match="no dominant balance"):
        counted().at(gamma=1, delta=0, p=3)


def test_coexisting_solutions_are_all_reported():
    cubic = x**3 - N**a * x**2 + x - N**-a  # roots of order N^a and N^-a for a > 0
    chambers = balance(cubic, [x], {N: 1}, (a >= 0,))
    assert sorted(c.exponents[x] for c in select_chamber(chambers, {a: 2})) == [-2, 2]
    counting = power_counting(cubic, [x], {N: 1}, {"x": x, "one": sp.S.One}, corrections=["x"],
                              constraints=(a >= 0,))
    report = counting.saddle_suffices(a=2)
    assert not report and report.relative_order == 2 and len(report.solutions) == 2


def test_contributions_refine_chambers_and_are_merged_where_nothing_changes():
    parts = {"max": x + N**b, "flat": 1 / (1 + (x + N**b) / N**(a + b))}
    counting = power_counting(x - N**a, [x], {N: 1}, parts, constraints=(a >= 0, b >= 0))
    for va, vb in itertools.product((0, 1, 3), repeat=2):
        (here,) = counting.at(a=va, b=vb)
        assert here.contributions == {"max": max(va, vb), "flat": 0}
    merged = power_counting(x - N**a, [x], {N: 1}, {"one": 1 + 1 / (x + N**b)},
                            constraints=(a >= 0, b >= 0))
    assert len(merged.chambers) == 1 and merged.chambers[0].conditions == ()


def test_signs_decide_which_terms_may_balance():
    r, c = sp.Symbol("r", real=True), sp.Symbol("c", real=True)
    assert not balance(x + N**a, [x], {N: 1}), "two positive terms have no root"
    assert balance(r + N**a, [r], {N: 1}) and balance(x + c, [x], {c: a})
    assert not balance(r + N**a * r**3, [r], {N: 1}), "the unknown sign of r cancels"
    assert {c.exponents[x] for c in balance(x**2 + c * x - N**a, [x], {N: 1, c: b})} == {a / 2, a - b, b}
    counting = power_counting(x + c, [x], {c: a}, {"x": x})
    assert any("sign of c" in line for line in counting.assumptions)
    total = SpaceSum(y * lam, mode)
    assert balance(x - total, [x], {P: p})[0].exponents == {x: p}


def test_assumptions_are_stated():
    text = "\n".join(counted().assumptions)
    for piece in ("lambda, y", "order 1", "fixed fraction of the P terms", "do not cancel", "p <= 1"):
        assert piece in text
    assert "sign" not in text and "logarithms" not in text
    logs = power_counting(STATE, [Q], GIVEN, {"half ln det": SpaceSum(sp.log(Q * lam + s), mode) / 2})
    assert any("logarithms" in line for line in logs.assumptions)


def test_tables():
    counting = counted()
    rows = counting.table()
    assert rows[0] == ["where", Q, "entropy", "prior", "target", "trace"]
    assert len(rows) == 4 and rows[1][1:] == [1 - gamma, 1, 1, gamma + p - 1, p]
    assert isinstance(rows[1][0], sp.And) and set(rows[1][0].args) == set(counting.chambers[0].conditions)
    lines = str(counting).splitlines()
    assert lines[0].split() == ["where", "Q", *PARTS]
    assert lines[2].split() == "gamma <= delta + 1, gamma + p <= 2 1 - gamma 1 1 gamma + p - 1 p".split()
    nothing = power_counting(x + N, [x], {N: 1}, {"x": x})
    assert nothing.table() == [["where"]] and str(nothing).startswith("where")
    assert power_counting(x - N, [x], {N: 1}, {"x": x}).table()[1] == ["always", 1, 1]
    latex = counting._repr_latex_()
    assert latex.startswith("$") and r"\gamma \leq \delta + 1" in latex and r"\text{trace}" in latex


@pytest.mark.parametrize(("call", "match"), [
    (lambda: balance(x - N, [x], {}), "exponents"),
    (lambda: balance([x - N], [x, z], {N: 1}), "equations"),
    (lambda: balance(x - N, [x], {N: 1, x: 0}), "unknowns"),
    (lambda: balance(x - N, [x + 1], {N: 1}), "unknowns"),
    (lambda: balance(x - N, [x], {N: a**2}), "affine"),
    (lambda: balance(x - N, [x], {N: sp.sqrt(2) * a}), "affine"),
    (lambda: balance(x - N, [x], {N: a}, (a >= 1, a <= 1)), "open region"),
    (lambda: balance(x - N, [x], {N: a}, (sp.S.false,)), "constraints"),
    (lambda: balance(x - N, [x], {N: a}, (sp.Eq(a, 1), sp.Eq(a, 2))), "contradiction"),
    (lambda: balance(x - Entry("phi", "real"), [x], {N: 1}), "phi"),
    (lambda: balance(x**2 - z**b, [x], {z: a}), "symbolic power"),
    (lambda: power_counting(x - N, [x], {N: 1}, {"x": x}, corrections=["w"]), "corrections"),
    (lambda: power_counting(x - N, [x], {N: 1}, {"x": x}, corrections=["x"]), "corrections"),
    (lambda: power_counting(x - N, [x], {N: 1}, {"nil": x - x}), "contributions"),
    (lambda: power_counting(x - N, [x], {N: 1}, {"x": x}).saddle_suffices(), "corrections"),
])
def test_bad_input(call, match):
    with pytest.raises(BadInput, match=match):
        call()


def test_unknown_functions_are_refused_or_given_an_exponent():
    with pytest.raises(RuleError, match="erf"):
        balance(x - N * sp.erf(x), [x], {N: 1})
    assert balance(x - N * sp.erf(x), [x], {N: 1, sp.erf(x): 0})[0].exponents == {x: 1}


# -------------------------------------------------------------------- measured slopes of random equations

exponents_ = st.fractions(-3, 3, max_denominator=2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([-1, 1]), st.integers(1, 9), exponents_, exponents_),
                min_size=2, max_size=5), st.fractions(-2, 2, max_denominator=7))
def test_positive_roots_of_a_random_polynomial(rows, where):
    """Terms ± c N^(u + v a) x^k: at a huge N the exponents of all positive roots are the chambers'."""
    lines = [sign * c * N**(sp.Rational(u) + sp.Rational(v) * a) * x**k
             for k, (sign, c, u, v) in enumerate(rows)]
    heights = [u + v * where for _, _, u, v in rows]
    pairs = itertools.combinations(range(len(rows)), 2)
    slopes = sorted((heights[i] - heights[j]) / (j - i) for i, j in pairs)
    gaps = [t - r for r, t in itertools.pairwise(slopes) if t != r]
    assume(len(set(slopes)) == len(slopes) and (not gaps or min(gaps) >= Fraction(1, 40)))
    predicted = sorted(c.exponents[x] for c in select_chamber(balance(sum(lines), [x], {N: 1}), {a: where}))
    with mpmath.workdps(50):

        def scale(e):
            return mpmath.mpf(10)**(mpmath.mpf(400 * e.numerator) / e.denominator)

        coefficients = [sign * c * scale(h) for (sign, c, _, _), h in zip(rows, heights, strict=True)]
        # where the polynomial changes sign between the candidate scales: one root there, as they are distinct
        edges = [slopes[0] - 1, *((r + t) / 2 for r, t in itertools.pairwise(slopes)), slopes[-1] + 1]
        signs = [mpmath.sign(mpmath.polyval(coefficients[::-1], scale(e))) for e in edges]
        changes = [slope for slope, (r, t) in zip(slopes, itertools.pairwise(signs), strict=True) if r != t]
    assert [Fraction(int(e.p), int(e.q)) for e in predicted] == changes


def test_a_measured_root_against_every_chamber():
    """A denominator inside: x = N^a / (x + N^b), solved at a huge N on a grid of (a, b)."""
    equation = x - N**a / (x + N**b)
    chambers = balance(equation, [x], {N: 1})
    for va, vb in itertools.product(range(-3, 4), repeat=2):
        (here,) = select_chamber(chambers, {a: va, b: vb})
        with mpmath.workdps(60):
            size = mpmath.mpf(10)**30
            root = (-size**vb + mpmath.sqrt(size**(2 * vb) + 4 * size**va)) / 2 if 2 * vb <= va else (
                2 * size**va / (size**vb + mpmath.sqrt(size**(2 * vb) + 4 * size**va)))
            assert mpmath.log(root) / mpmath.log(size) == pytest.approx(float(here.exponents[x]), abs=0.02)


def test_a_two_unknown_system_against_its_solution():
    system = [x * z - N**a, x + z * N**b - 3 * N**(a + 2)]  # so large a sum has positive solutions
    for va, vb in ((0, 0), (1, 0), (2, -1), (1, 2)):
        found = {(c.exponents[x], c.exponents[z])
                 for c in select_chamber(balance(system, [x, z], {N: 1}), {a: va, b: vb})}
        with mpmath.workdps(80):
            size = mpmath.mpf(10)**30
            half = 3 * size**(va + 2) / 2  # x² - 2 half x + N^(a+b) = 0
            root = half + mpmath.sqrt(half**2 - size**(va + vb))
            pairs = {tuple(round(mpmath.log(t) / mpmath.log(size)) for t in (r, size**va / r))
                     for r in (root, size**(va + vb) / root)}
        assert found == pairs


def test_growth_of_random_expressions_is_their_measured_slope():
    """Contributions with nested sums: numbers at a huge N, against the chamber that contains the point."""
    expressions = {"one": SpaceSum(lam / (x * lam + s), mode) * (1 + x)**3,
                   "two": 1 / (s + 1 / (x + SpaceSum(y**2, mode))), "three": sp.sqrt(N + x**2) / (1 + s * x)}
    counting = power_counting(x - g, [x], GIVEN, expressions)
    with mpmath.workdps(30):
        for point in itertools.product((sp.Rational(-1, 3), 2), (-1, sp.Rational(7, 5)), (0,)):
            (here,) = counting.at(at(point))
            numbers = {}
            for k in (60, 90):
                big = mpmath.mpf(10)**k
                values = {N: big, x: big**mpmath.mpf(1 - point[0]), g: 0, s: big**mpmath.mpf(-point[1]),
                          lam: [1, 2], y: [1, 3], P: 2}
                numbers[k] = {label: numerical_value(e, values, 30) for label, e in expressions.items()}
            for label in expressions:
                measured = mpmath.log(numbers[90][label] / numbers[60][label], 10) / 30
                assert measured == pytest.approx(float(here.contributions[label]), abs=1e-3)


# ----------------------------------------------------------------------------------------------- inequalities

rows_ = st.lists(st.tuples(*[st.integers(-3, 3).map(Fraction)] * 4), min_size=1, max_size=7)
GRID = list(itertools.product([Fraction(k, 2) for k in range(-6, 7)], repeat=3))


def holds(row, point, strict=True):
    value = sum(c * t for c, t in zip(row, (*point, 1), strict=True))
    return value > 0 if strict else value >= 0


@settings(max_examples=150, deadline=None)
@given(rows_)
def test_fourier_motzkin_against_a_grid(rows):
    point = interior_point(rows, 3)
    if point is None:
        assert not any(all(holds(row, t) for row in rows) for t in GRID)
    else:
        assert all(holds(row, point) for row in rows)


@settings(max_examples=40, deadline=None)
@given(rows_, rows_)
def test_irredundant_rows_and_convex_unions_describe_the_same_points(rows, others):
    assume(interior_point(rows, 3) is not None)
    few = irredundant(rows, (), 3)
    for t in GRID[::17]:
        assert all(holds(r, t, False) for r in few) == all(holds(r, t, False) for r in rows)
    assume(interior_point(others, 3) is not None)
    both = irredundant(others, (), 3)
    union = convex_union(few, both, (), 3)
    if union is not None:
        for t in GRID[::17]:
            if not any(holds(r, t, False) and not holds(r, t) for r in (*few, *both, *union)):
                assert all(holds(r, t) for r in union) == (
                    all(holds(r, t) for r in few) or all(holds(r, t) for r in both))


# ------------------------------------------------------------------------------------- names and hash seeds


def test_renaming_renames_the_result():
    names = {"N": "width", "g": "zeta", "s": "A", "P": "m", "Q": "aa", "lambda": "ev", "y": "b",
             "gamma": "zz", "delta": "cc", "p": "bb", "mode": "k"}
    new = {rename(k, names): rename(sp.sympify(e), names) for k, e in GIVEN.items()}
    cube = [rename(c, names) for c in CUBE]
    parts = {label: rename(part, names) for label, part in PARTS.items()}
    renamed = power_counting(rename(STATE, names), [rename(Q, names)], new, parts, corrections=["trace"],
                             constraints=cube)
    original = counted()
    assert len(renamed.chambers) == len(original.chambers)
    for new_one, old in zip(renamed.chambers, original.chambers, strict=True):
        assert list(new_one.exponents.values()) == [rename(e, names) for e in old.exponents.values()]
        assert list(new_one.conditions) == [rename(c, names) for c in old.conditions]
        assert new_one.contributions == {k: rename(e, names) for k, e in old.contributions.items()}
        assert [set(t) for t in new_one.leading] == [{rename(e, names) for e in t} for t in old.leading]
