"""Actions of one field against integrals in the literature; the front door of rules and closures."""

from __future__ import annotations

import mpmath
import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.testing import assert_next_coefficient

x = sp.Symbol("x", real=True)
N, g, a, b = sp.symbols("N g a b", positive=True)
QUARTIC = ft.Action(N * (x**2 / 2 + g * x**4 / 24), fields=[x], large=N)
MIXED = ft.Action(N * (x**2 / 2 + a * x**3 / 3 + b * x**4 / 4), fields=[x], large=N)


def coefficients(series: ft.Series, low: int, high: int) -> list[sp.Expr]:
    return [sp.expand(series.coefficient(k)) for k in range(low, high)]


# --------------------------------------------------------------------------------------------------- quartic


def test_quartic_series() -> None:
    assert coefficients(QUARTIC.log_partition(5), 1, 5) == [-g / 8, g**2 / 12, -11 * g**3 / 96, 17 * g**4 / 72]
    assert coefficients(QUARTIC.expectation(x**2, 4), 0, 5) == [0, 1, -g / 2, 2 * g**2 / 3, -11 * g**3 / 8]


def test_quartic_at_unit_coupling() -> None:
    """The series diverges; its diagonal Padé approximants reach the exact numbers at g = 1, N = 1."""
    loops = 10
    log_z = [float(c.subs(g, 1)) for c in coefficients(QUARTIC.log_partition(loops), 1, loops)]
    square = [float(c.subs(g, 1)) for c in coefficients(QUARTIC.expectation(x**2, loops), 1, loops)]
    for terms, exact in ((log_z, float(mpmath.log(0.918918905923241764))), (square, 0.750511146389689066)):
        p, q = mpmath.pade(terms[:9], 4, 4)
        assert float(mpmath.polyval(p[::-1], 1) / mpmath.polyval(q[::-1], 1)) == pytest.approx(exact, abs=2e-3)


def test_optimal_truncation_at_weak_coupling() -> None:
    """At g/N = 1/50 the four-loop series agrees with the integral to the size of the next term."""
    found = QUARTIC.log_partition(5).evaluate({"g": 1, "N": 50})
    with mpmath.workdps(30):
        def weight(t: mpmath.mpf) -> mpmath.mpf:
            return mpmath.exp(-t**2 / 2 - t**4 / 24 / 50)

        exact = mpmath.log(mpmath.quad(weight, [-mpmath.inf, 0, mpmath.inf]) / mpmath.sqrt(2 * mpmath.pi))
    assert abs(found - float(exact)) < 2 * 50.0**-5


# ---------------------------------------------------------------------------------------- cubic and quartic


def test_mixed_series() -> None:
    assert coefficients(MIXED.log_partition(2, at=0), 1, 2) == [5 * a**2 / 6 - 3 * b / 4]
    assert coefficients(MIXED.cumulant(x, loops=2, at=0), 0, 3) == [0, -a, sp.expand(-5 * a**3 + 8 * a * b)]
    assert coefficients(MIXED.cumulant(x, x, loops=1, at=0), 0, 3) == [0, 1, 4 * a**2 - 3 * b]


def _cumulants(alpha: sp.Rational, beta: sp.Rational, width: int) -> list[mpmath.mpf]:
    """κ_1 … κ_4 by quadrature at 50 digits."""
    alpha, beta = mpmath.mpf(alpha.p) / alpha.q, mpmath.mpf(beta.p) / beta.q
    scale = 1 / mpmath.sqrt(width)

    def moment(k: int) -> mpmath.mpf:
        def integrand(t: mpmath.mpf) -> mpmath.mpf:
            u = t * scale
            return u**k * mpmath.exp(-width * (u**2 / 2 + alpha * u**3 / 3 + beta * u**4 / 4))

        return mpmath.fsum(integrand(mpmath.mpf(i) / 8) for i in range(-130, 131))

    m = [moment(k) for k in range(5)]
    m = [value / m[0] for value in m]
    return [m[1], m[2] - m[1]**2, m[3] - 3 * m[2] * m[1] + 2 * m[1]**3,
            m[4] - 4 * m[3] * m[1] - 3 * m[2]**2 + 12 * m[2] * m[1]**2 - 6 * m[1]**4]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_cumulants_against_quadrature(order: int) -> None:
    """κ_n to one loop, tree level first: κ_3 = -2a/N², κ_4 = (12a² - 6b)/N³; the error is of order N^-(n+1)."""
    trees = {1: 0, 2: 1, 3: -2 * a, 4: 12 * a**2 - 6 * b}
    series = MIXED.cumulant(*[x] * order, loops=1, at=0)
    low = order - 1
    assert series.remainder == order + 1
    assert sp.expand(series.coefficient(low) - trees[order]) == 0
    assert all(sp.expand(series.coefficient(k)) == 0 for k in range(low))
    numbers = {"a": sp.Rational(1, 3), "b": sp.Rational(1, 2)}
    numeric = ft.Action(MIXED.expr.subs({a: numbers["a"], b: numbers["b"]}), fields=[x], large=N)
    further = numeric.cumulant(*[x] * order, loops=2, at=0)
    ratios = []
    with mpmath.workdps(50):
        for width in (400, 6400):
            at = numbers | {"N": width}
            exact = _cumulants(numbers["a"], numbers["b"], width)[order - 1]
            kept, following = (s.evaluate(at, digits=40) for s in (series, further))
            ratios.append(float((exact - kept) / (following - kept)))
    assert abs(ratios[1] - 1) < 0.05 and abs(ratios[1] - 1) < 0.2 * abs(ratios[0] - 1)


@pytest.mark.parametrize("observable", [x, x**2, sp.exp(x), x**3 - x])
def test_next_coefficients(observable: sp.Expr) -> None:
    for loops in (0, 1, 2):
        assert_next_coefficient(MIXED, loops, observable, values={"a": sp.Rational(1, 3), "b": sp.Rational(1, 2)})


def test_mixed_correlations_are_symmetric_and_linear() -> None:
    one = MIXED.cumulant(x, x**2, loops=1, at=0).map(sp.expand)
    other = MIXED.cumulant(x**2, x, loops=1, at=0).map(sp.expand)
    assert one == other
    shifted = MIXED.cumulant(x + 5, x**2, loops=1, at=0).map(sp.expand)
    assert shifted == one


# ----------------------------------------------------------------------------------------------- saddle points


def test_saddle_points_with_stability() -> None:
    double = ft.Action(N * (x**2 - 1)**2, fields=[x], large=N)
    found = double.saddle_points()
    assert [(s.value, s.stability) for s in found] == [(-1, "stable"), (0, "unstable"), (1, "stable")]
    assert [s.hessian[0] for s in found] == [8 * N, -4 * N, 8 * N]
    tilted = ft.Action(N * ((x**2 - 1)**2 + (x - 1)**2 / 4), fields=[x], large=N)
    assert tilted._saddle(None).value == 1


def test_a_saddle_may_be_chosen() -> None:
    double = ft.Action(N * (x**2 - 1)**2, fields=[x], large=N)
    up, down = (double.expectation(x, 1, at=at).map(sp.expand) for at in (1, -1))
    assert up.coefficient(0) == 1 and up == -down


def test_no_saddle_is_refused() -> None:
    with pytest.raises(RuleError, match="no real saddle point"):
        ft.Action(N * sp.exp(x), fields=[x], large=N).expectation(x, 1)


@pytest.mark.parametrize("potential", [-x**2, sp.exp(x) - x**2, x - sp.log(x), a * x**2 - x**4,
                                       x**2 - x**4 * sp.cosh(x), b * sp.cosh(x) * (1 - a * x**4)])
def test_an_unbounded_action_is_refused_by_its_direction(potential: sp.Expr) -> None:
    """Also where it has no saddle point at which it could be asked, or is complex on part of the contour."""
    with pytest.raises(BadInput, match="falls without bound along x = "):
        ft.Action(N * potential, fields=[x], large=N).expectation(x, 1)


def test_a_formal_series_needs_no_bound() -> None:
    cubic = ft.Action(N * (x**2 / 2 + g * x**3 / 6), fields=[x], large=N)
    with pytest.raises(BadInput, match="formal=True"):
        cubic.log_partition(3, at=0)
    diagrams = sum(d.weight for loops in (2, 3) for d in cubic.diagrams(loops, at=0))
    assert sp.expand(cubic.log_partition(3, at=0, formal=True).as_expr() - diagrams) == 0
    assert cubic.expectation(x, 1, at=0, formal=True).coefficient(1) == -g / 2


def test_complex_couplings() -> None:
    """An imaginary cubic term only makes the weight oscillate; a complex mass with a positive real part converges."""
    for potential in (x**2 / 2 + sp.I * x**3 / 3 + x**4 / 4, (1 + sp.I) * x**2 / 2 + x**3 / 5 + x**4 / 4):
        S = ft.Action(N * potential, fields=[x], large=N)
        assert S.saddle_points()[0].stability == "stable"
        errors = []
        for width in (400, 1600):
            with mpmath.workdps(30):
                weight = sp.lambdify(x, sp.exp(-width * potential), "mpmath")
                grid = [mpmath.mpf(k) / 200 for k in range(-700, 701)]
                exact = mpmath.fsum(u * weight(u) for u in grid) / mpmath.fsum(weight(u) for u in grid)
                errors.append(complex((exact - S.expectation(x, 1).evaluate(N=width, digits=25)) * width**2))
        following = complex(S.expectation(x, 2).coefficient(2))
        gaps = [abs(error - following) / abs(following) for error in errors]
        assert gaps[1] < 0.05 and gaps[1] < gaps[0] / 3


def test_a_large_parameter_must_multiply_the_action() -> None:
    with pytest.raises(BadInput, match="large"):
        ft.Action(x**2 / 2 + N * x**4, fields=[x], large=N).log_partition(2)


@pytest.mark.parametrize("loops", [-1, 1.5])
def test_loops_must_be_a_natural_number(loops: object) -> None:
    with pytest.raises(BadInput, match="loops"):
        QUARTIC.log_partition(loops)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="loops"):
        QUARTIC.expectation(x, loops)  # type: ignore[arg-type]


def test_without_a_large_parameter_loops_are_counted_by_hbar() -> None:
    plain = ft.Action(x**2 / 2 + g * x**4 / 24, fields=[x])
    assert plain.log_partition(2).parameter == sp.Symbol("hbar", positive=True)
    assert coefficients(plain.expectation(x**2, 2), 0, 3) == [0, 1, -g / 2]


# --------------------------------------------------------------------------------------- the microscopic action


def test_bad_actions() -> None:
    with pytest.raises(BadInput, match="fields"):
        ft.Action(g, fields=[x])
    space = ft.Space("site", N)
    with pytest.raises(BadInput, match="expr"):
        ft.Action(ft.Entry("a", "real", (space,))**2, fields=[ft.Entry("a", "real", (space,))])
    with pytest.raises(BadInput, match="scalar fields"):
        ft.Network().action().log_partition(1)


def test_names_are_looked_up() -> None:
    S = ft.Network().action()
    assert S["a"].name == "a" and S["X"].name == "X" and S.space("site").name == "site"
    for call in (lambda: S["sigma_b"], lambda: S.space("sites"), lambda: S.observe("outputs")):
        with pytest.raises(UnknownName):
            call()
    with pytest.raises(BadInput):
        S.integrate_out("b")


def test_rules_return_new_actions() -> None:
    S = ft.Network().action()
    before = sp.srepr(S.expr)
    named = S.conjugate("f", "output", conjugate="j")
    assert sp.srepr(S.expr) == before and S.steps == () and len(named.steps) == 1
    assert {f.name for f in named.fields} == {"a", "w", "f", "j"}
    assert S.last == {} and "variance" in named.integrate_out("w").last


def test_definitions_hold_the_powers_of_the_width() -> None:
    S = ft.Network(scaling=ft.Scaling(readout=2, noise=1)).action()
    mean_field = {sp.Symbol("gamma", real=True): 2, sp.Symbol("delta", real=True): 1}
    for name in ("g", "s"):
        value = S.definitions[S[name]].subs(mean_field)
        assert sp.degree(1 / value, S.width) == 1


def test_power_counting_follows_a_renaming() -> None:
    """What a symbol stands for decides its power of N, not how it is called."""
    theory = ft.theories["linear"](ft.Network(), view="adaptation", loops=0)
    renamed = theory.action.rename({"g": "G", "s": "kappa", "N": "n"})
    other = ft.Theory("renamed", "Renamed", theory.network, renamed, parameters=renamed.collectivise("j", "q"))
    point = {"gamma": 1, "delta": 0, "p": 1}
    mine, theirs = (t.power_counting().saddle_suffices(**point) for t in (theory, other))
    assert not mine and not theirs and mine.relative_order == theirs.relative_order == 0


def test_an_activation_that_is_not_gaussian_is_refused_by_name() -> None:
    S = ft.Network(activation="erf").action().conjugate("f", "output", conjugate="j")
    with pytest.raises(RuleError, match="erf"):
        S.integrate_out("w")


def test_a_user_activation_is_an_expression() -> None:
    z = sp.Symbol("z")
    S = ft.Network(activation=z**3 + z).action()
    assert S.expr.has(ft.Entry("w", "real", S["w"].spaces))
    with pytest.raises((BadInput, ValueError)):
        ft.Network(activation=z * sp.Symbol("t")).action()


def test_collectivise_wants_one_name_for_each_sum() -> None:
    S = ft.Network().action().conjugate("f", "output", conjugate="j").integrate_out("w")
    S = S.diagonalise("X", modes="mode", spectrum="lambda", variance=S.last["variance"], projections={"X_*": "T"})
    S = S.integrate_out("a").integrate_out("f")
    (q,) = S.collectivise("j", "q")
    assert q.symbol.name == "q"
    with pytest.raises(BadInput, match="names"):
        S.collectivise("j")
    with pytest.raises(BadInput, match="names"):
        S.collectivise("j", "q", "r")


def test_renaming_an_action_renames_its_saddle() -> None:
    S = ft.Action(N * (x**2 / 2 + g * x**4 / 24), fields=[x], large=N).rename({"g": "coupling"})
    assert "coupling" in {s.name for s in S.expr.free_symbols}


def test_printing() -> None:
    assert "x" in repr(QUARTIC) and QUARTIC._repr_latex_().startswith("$")


def test_two_fields_by_moments_and_by_diagrams() -> None:
    """Two routines that share nothing: Gaussian moments, and the sum over Feynman diagrams."""
    z, a, b = sp.Symbol("z", real=True), sp.Symbol("a", positive=True), sp.Symbol("b", positive=True)
    S = ft.Action(N * (x**2 / 2 + z**2 + a * x * z**2 / 3 + b * z**4 / 4 + x**4 / 5), fields=[x, z], large=N)
    series = S.log_partition(3, at=(0, 0))
    for loops in (2, 3):
        by_diagrams = sum(diagram.weight for diagram in S.diagrams(loops, at=(0, 0)))
        assert sp.expand(by_diagrams - series.coefficient(loops - 1) / N**(loops - 1)) == 0
    assert all(diagram.powers()[N] == -2 for diagram in S.diagrams(3, at=(0, 0)))


def test_a_vector_with_symbolic_components_by_collective_fields_and_by_diagrams() -> None:
    n = sp.Symbol("n", positive=True)
    space = ft.Space("component", n)
    phi = ft.Entry("phi", "real", (space,))
    square = ft.SpaceSum(phi**2, space)
    S = ft.Action(square / 2 + g * square**2 / 24, fields=[phi])
    series = S.log_partition(4, at=0)
    leading = {2: -n**2 * g / 24, 3: n**3 * g**2 / 144, 4: -5 * n**4 * g**3 / 2592}
    for loops, expected in leading.items():
        coefficient = sp.expand(series.coefficient(loops - 1))
        assert sp.expand(coefficient - sum(d.weight for d in S.diagrams(loops))) == 0
        assert sp.LT(coefficient, n) == expected
    scalar = ft.Action(x**2 / 2 + g * x**4 / 24, fields=[x]).log_partition(4)
    assert [sp.expand(term.subs(n, 1)) for term in series.terms] == [sp.expand(term) for term in scalar.terms]


def test_equivalent_saddles_are_summed_on_request() -> None:
    well = ft.Action(N * (x**4 / 4 - x**2 / 2), fields=[x], large=N)
    one, both = well.log_partition(2), well.log_partition(2, all=True)
    assert both.coefficient(0) == sp.log(2) and both.coefficient(1) == one.coefficient(1) != 0


# --------------------------------------------------------------------------------------------- names and contours


@pytest.mark.parametrize("fields", [x, "x", [x, x], ["x"], None], ids=str)
def test_fields_are_a_list_of_different_fields(fields: object) -> None:
    with pytest.raises(BadInput, match="fields"):
        ft.Action(x**2, fields)  # type: ignore[arg-type]


def test_a_name_is_used_once() -> None:
    S = ft.Network().action()
    named = S.conjugate("f", "output", conjugate="j")
    for call in (lambda: S.conjugate("f", "output", conjugate="f"), lambda: S.conjugate("a", "output", conjugate="j"),
                 lambda: S.rename({"g": "s"}), lambda: S.conjugate("X_*", "output", conjugate="j"),
                 lambda: named.introduce("Q", "readout_norm", conjugate="j", domain="positive"),
                 lambda: ft.Action(ft.Entry("Q", "positive") * g, [ft.Entry("Q", "positive")]).logarithm("Q", "g")):
        with pytest.raises(BadInput, match=r"in use|differ"):
            call()


def test_renaming_keeps_the_quantities_and_the_large_parameter() -> None:
    S = ft.Network().action()
    renamed = S.rename({"a": "b", "N": "M"})
    assert set(renamed.quantities) == set(S.quantities)
    assert renamed.observe("readout_norm") == ft.SpaceSum(renamed["b"]**2, renamed.space("site"))
    later = S.conjugate("f", "output", conjugate="j").integrate_out("w").rename({"f": "out"})
    assert later.steps == () and later.observe("output") == later["out"]
    swapped = ft.Action(N * (x**2 + g * x**4), [x], large=N).rename({"N": "g", "g": "N"})
    assert swapped.large == sp.Symbol("g", positive=True)
    assert swapped.expr == swapped.large * (x**2 + N * x**4)


def test_a_named_quantity_that_an_average_brings_back_is_refused_early() -> None:
    S = ft.Network().action().introduce("Q", "readout_norm", conjugate="h", domain="positive")
    S = S.conjugate("f", "output", conjugate="j")
    with pytest.raises(RuleError, match="integrate w out first, and introduce Q then"):
        S.integrate_out("w")


def test_a_sum_of_a_real_field_has_a_conjugate_of_the_right_sign() -> None:
    """S = e/2 + e²/4 - h·x with e = Σ x²: r = 1 + e, x = h/r, and r - 1 = Σ h²/r² has a positive root."""
    space = ft.Space("component", N)
    field, source = ft.Entry("x", "real", (space,)), ft.Entry("h", "data", (space,))
    square = ft.SpaceSum(field**2, space)
    S = ft.Action(square / 2 + square**2 / 4 - ft.SpaceSum(source * field, space), [field])
    (r,) = S.collectivise("x", "r")
    assert r.value == 1 + square and r.symbol.is_positive
    state = S.close(0, parameters=(r,)).state
    assert state.domains == ("positive",)
    assert sp.simplify(state.equations[0] - (r.symbol - 1 - ft.SpaceSum(source**2, space) / r.symbol**2)) == 0
    well = ft.Action(-square / 2 + square**2 / 4 - ft.SpaceSum(source * field, space), [field])
    (r,) = well.collectivise("x", "r")
    assert r.symbol.is_positive is None and r.symbol.is_real
    with pytest.raises(BadInput, match="in use"):
        S.collectivise("x", "h")


def test_diagrams_belong_to_one_of_several_equivalent_saddles() -> None:
    well = ft.Action(N * (x**4 / 4 - x**2 / 2), fields=[x], large=N)
    points = well.saddle_points()
    left, right = points[0], points[-1]
    with pytest.raises(RuleError, match="2 saddle points are equivalent"):
        well.diagrams(2)
    for at in (right, 1, {x: 1}):
        assert sp.expand(well.diagrams(2, at=at).weight - well.log_partition(2, at=at).coefficient(1) / N) == 0
    assert [d.weight for d in well.diagrams(2, at=(left, right), all=True)] == [
        d.weight for d in well.diagrams(2, all=True)] == [sp.Rational(3, 4) / N] * 2
    means = [d.weight for d in well.diagrams(1, legs=[x], all=True)]
    assert means == [well.expectation(x, 1, at=p).coefficient(1) / N for p in (left, right)] and means[0] == -means[1]
    for at, match in ((sp.Rational(1, 2), "stationary"), ((1, 2), "one value for each"), ((left, right), "all=True")):
        with pytest.raises(BadInput, match=match):
            well.diagrams(2, at=at)
    with pytest.raises(BadInput, match="tuple of saddle points"):
        well.diagrams(2, at=1, all=True)
