"""The rules, exactly: where they arrive, what they refuse, and that names and hash seeds change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory.errors import BadInput, NotGaussian, RuleError
from fieldtheory.numerics import evaluate
from fieldtheory.symbolic import rotation, rules
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, rename, sum_over
from fieldtheory.symbolic.forms import Form, hessian
from fieldtheory.symbolic.rules import FieldAction, LogIntegral, Step
from tests import linear_network as linear
from tests.linear_network import D, N, P, X, a, f, g, h, inputs, j, mode, output, s, sample, site, spectrum, w, y

jm, ym, fm = Entry("j", "imaginary", (mode,)), Entry("y", "data", (mode,)), Entry("f", "real", (mode,))
Q, u = linear.Q, linear.u
jKj = SpaceSum(spectrum * jm**2, mode)


def _same(found: sp.Expr, expected: sp.Expr) -> bool:
    """Equal up to splitting logs of positive symbols."""
    return sp.expand(sp.expand_log(sp.expand_log(found) - sp.expand_log(expected))) == 0


def test_the_action_in_the_conjugate_output() -> None:
    final = linear.conjugate_view().steps[-1].after
    expected = N * sp.log(1 - g * jKj / N) / 2 - s * SpaceSum(jm**2, mode) / 2 + SpaceSum(jm * ym, mode)
    assert _same(final.expr, expected)
    assert final.fields == (jm,)


def test_independent_sites_give_the_same_action() -> None:
    assert _same(linear.site_view().steps[-1].after.expr, linear.conjugate_view().steps[-1].after.expr)


def test_the_output_integrated_last_leaves_the_likelihood() -> None:
    before = linear.conjugate_view().steps[-2].after
    expected = (N * sp.log(1 - g * jKj / N) / 2 + SpaceSum(jm * fm, mode)
                + SpaceSum((ym - fm)**2, mode) / (2 * s) + P * sp.log(2 * sp.pi * s) / 2)
    assert _same(before.expr, expected)


def test_the_action_in_the_order_parameter_with_all_constants() -> None:
    action = linear.rescaling_view().steps[-1].after
    q = sp.exp(linear.u)
    modes = q * spectrum + s
    expected = (-N * linear.u / 2 + N * q / (2 * g) + N * sp.log(2 * g / N) / 2 + sp.loggamma(N / 2)
                + SpaceSum(sp.log(modes), mode) / 2 + SpaceSum(ym**2 / modes, mode) / 2 + P * sp.log(2 * sp.pi) / 2)
    assert _same(action.expr, expected)
    assert action.fields == (linear.u,)


def test_the_conjugate_before_the_output_gives_the_gaussian_prior_of_the_output() -> None:
    # j out first: f ~ N(0, QK) given Q, which needs an invertible K; then f out gives the same action
    action = linear.rescaling_view().steps[5].after
    prior = rules.integrate_out(action, jm).after
    assert _same(prior.expr - action.expr.xreplace({jm: sp.S.Zero}),
                 SpaceSum(fm**2 / (Q * spectrum), mode) / 2 + SpaceSum(sp.log(2 * sp.pi * Q * spectrum), mode) / 2)
    last = rules.integrate_out(prior, fm).after
    values = {linear.N: 5, P: 2, s: 0.3, g: 0.9, Q: 0.8, ym: [1.0, -0.4], spectrum: [0.5, 2.0]}
    first = linear.rescaling_view().steps[7].after
    assert evaluate(last.expr, values) == pytest.approx(evaluate(first.expr, values), rel=1e-13)


def test_the_curvature_of_the_conjugate_action() -> None:
    # δ²/δjδj of -(N/2) ln(1 - (g/N) jᵀKj): -(qK + (2/N) q² Kj jᵀK) with q = g/(1 - g jᵀKj/N)
    form = hessian(linear.conjugate_view().steps[-1].after.expr, jm)
    q = g / (1 - g * jKj / N)
    assert sp.simplify(form.diag + q * spectrum + s) == 0
    ((u, v),) = form.pairs
    assert sp.simplify(u * v + 2 * q**2 / N * (spectrum * jm)**2) == 0
    assert form.nonlocal_spaces == (mode,)


def test_a_readout_at_fixed_hidden_weights_has_a_low_rank_form() -> None:
    # site by site dense in general: P pairs would be needed, so it is refused by name, not done wrong
    action = linear.conjugate_view().steps[0].before
    with pytest.raises(RuleError, match=r"a.*diagonalise first|a.*spaces"):
        rules.integrate_out(action, a)


# ------------------------------------------------------------------------------------------------ refusals


def _nonlinear(phi: Callable[[sp.Expr], sp.Expr]) -> FieldAction:
    """The microscopic action with an activation, its output named."""
    hidden = SpaceSum(a * phi(SpaceSum(X * w, inputs)), site)
    expr = (SpaceSum(a**2, site) * N / (2 * g) + sum_over(w**2, (inputs, site)) / 2
            + SpaceSum((y - hidden)**2, sample) / (2 * s))
    return rules.introduce(FieldAction(expr, (a, w)), f, hidden, j).after


@pytest.mark.parametrize("phi, how", [
    (sp.erf, "through erf"), (lambda x: sp.Max(0, x), "through Max"), (sp.tanh, "through tanh"),
    (lambda x: x**3, "at order 3"), (lambda x: x**4, "at order 4"),
], ids=["erf", "relu", "tanh", "cubic", "quartic"])
def test_hidden_weights_behind_an_activation_are_refused_by_name(phi: Callable, how: str) -> None:
    with pytest.raises(NotGaussian, match=f"^w enters {how}$"):
        rules.integrate_out(_nonlinear(phi), w)


def test_hidden_weights_behind_a_square_are_gaussian_but_of_full_rank() -> None:
    with pytest.raises(RuleError, match="low rank") as caught:
        rules.integrate_out(_nonlinear(lambda x: x**2), w)
    assert not isinstance(caught.value, NotGaussian)


def test_the_conjugate_of_a_one_site_integral_is_refused() -> None:
    action = linear.site_view().steps[1].after
    with pytest.raises(NotGaussian, match="j enters through LogIntegral"):
        rules.integrate_out(action, j)


def test_a_quartic_field_is_refused() -> None:
    x = Entry("x", "real", (site,))
    with pytest.raises(NotGaussian, match="x enters at order 4"):
        rules.integrate_out(FieldAction(SpaceSum(x**2 + x**4, site), (x,)), x)


def _scalar(expr: sp.Expr, *fields: sp.Expr) -> FieldAction:
    return FieldAction(expr, fields)


z, v = sp.Symbol("z", real=True), Entry("v")


def _named(name: Entry) -> Step:
    """Σ a named where it enters as a square."""
    total = SpaceSum(a, site)
    return rules.introduce(_scalar(g * SpaceSum(a**2, site) + total**2, a), name, total, h)


def _wide(term: sp.Expr) -> Step:
    return rules.leading_order(_scalar(z**2 / 2 + term, z), N)


REFUSALS: tuple[tuple[str, type[Exception], str, Callable[[], object]], ...] = (
    ("an open action", BadInput, "open in site", lambda: FieldAction(a**2, (a,))),
    ("not a field", BadInput, "field", lambda: rules.integrate_out(_scalar(u**2, u), Q)),
    ("an unknown field name", BadInput, "field", lambda: _scalar(u**2, u).find("v")),
    ("a positive field", RuleError, "Q is positive", lambda: rules.integrate_out(_scalar(Q**2, Q), Q)),
    ("a real conjugate", BadInput, "imaginary", lambda: rules.introduce(linear.microscopic(), f, output, f)),
    ("a definition that is absent", RuleError, "does not contain",
     lambda: rules.introduce(linear.microscopic(), Q, SpaceSum(a**4, site), h)),
    ("a name on other spaces", RuleError, "same spaces", lambda: rules.introduce(linear.microscopic(), Q, output, h)),
    ("a conjugate that is a vector", RuleError, "scalar imaginary",
     lambda: rules.integrate_conjugate(_scalar(SpaceSum(j * y, sample), j), j)),
    ("a conjugate that enters otherwise", RuleError, "κ h",
     lambda: rules.integrate_conjugate(_scalar(h**2 + h * Q, Q, h), h)),
    ("a contour without a sign", RuleError, "signs",
     lambda: rules.integrate_conjugate(_scalar(N * sp.log(1 + h * sp.Symbol("b", real=True)) + h * Q, Q, h), h)),
    ("a change of variables that is not monotone", RuleError, "monotone",
     lambda: rules.change_variable(_scalar(Q**2, Q), Q, u, u**2)),
    ("a change of a vector", RuleError, "scalar", lambda: rules.change_variable(linear.microscopic(), a, u, u)),
    ("a matrix that is not over the rows", BadInput, "matrix",
     lambda: rotation.diagonalise(linear.microscopic(), a, sample, mode, spectrum=spectrum, scale=D)),
    ("coupled sites", RuleError, "coupled", lambda: rules.factorise(linear.microscopic(), site)),
    ("a space without fields", RuleError, "no field lives on mode",
     lambda: rules.factorise(linear.microscopic(), mode)),
    ("a Gaussian of the wrong sign", RuleError, "diverges", lambda: rules.integrate_out(_scalar(-z**2 / 2, z), z)),
    ("an imaginary Gaussian of the wrong sign", RuleError, "diverges",
     lambda: rules.integrate_out(_scalar(h**2, h), h)),
    ("a low-rank part of the wrong sign", RuleError, "diverges",
     lambda: rules.integrate_out(_scalar(SpaceSum(a**2, site) / 2 - SpaceSum(a, site)**2, a), a)),
    ("a positive name for either sign", BadInput, "domain", lambda: _named(Entry("E", "positive"))),
    ("a name that is data", BadInput, "domain", lambda: _named(Entry("E", "data"))),
    ("an imaginary name", BadInput, "domain", lambda: _named(Entry("E", "imaginary"))),
    ("the name of a field", BadInput, "name: got a", lambda: _named(Entry("a"))),
    ("the name of a parameter", BadInput, "name: got g", lambda: _named(Entry("g"))),
    ("one name for both", BadInput, "conjugate: got h", lambda: _named(Entry("h"))),
    ("renaming onto a name", BadInput, "for both", lambda: linear.microscopic().rename({"g": "s"})),
    ("half a line", RuleError, "u over all real", lambda: rules.change_variable(_scalar(u**2, u), u, v, sp.exp(v))),
    ("an interval", RuleError, "u over all real", lambda: rules.change_variable(_scalar(u**2, u), u, v, sp.atan(v))),
    ("more than a half line", RuleError, "Q over all positive",
     lambda: rules.change_variable(_scalar(Q, Q), Q, v, 2 * v)),
    ("a change of an imaginary field", RuleError, "imaginary",
     lambda: rules.change_variable(_scalar(h**2, h), h, v, 2 * v)),
    ("a change to a name in use", BadInput, "new",
     lambda: rules.change_variable(_scalar(Q**2 * u, Q, u), Q, u, sp.exp(u))),
    ("a change of a symbol", BadInput, "Entry", lambda: rules.change_variable(_scalar(z**2, z), z, v, 2 * v)),  # type: ignore[arg-type]
    ("a fractional power of N", RuleError, "whole power", lambda: _wide(z**4 / sp.sqrt(N))),
    ("a logarithm of N", RuleError, "whole power", lambda: _wide(z**4 * sp.log(N) / N)),
    ("an inverse logarithm of N", RuleError, "whole power", lambda: _wide(z**4 / sp.log(N))),
    ("nothing to drop", RuleError, "nothing to drop", lambda: _wide(z**4)),
    ("a field of no site", BadInput, "one-site", lambda: rules.integrate_site(linear.microscopic(), Entry("b"))),
)


@pytest.mark.parametrize("what, error, match, call", REFUSALS, ids=[case[0] for case in REFUSALS])
def test_a_rule_that_does_not_apply_says_why(what: str, error: type[Exception], match: str, call: Callable) -> None:
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("phi", [sp.erf, lambda x: sp.Max(0, x)], ids=["erf", "relu"])
def test_a_rotation_through_an_activation_is_refused(phi: Callable) -> None:
    with pytest.raises(RuleError):
        rotation.diagonalise(_nonlinear(phi), X, sample, mode, spectrum=spectrum, scale=D)


def test_a_sum_over_samples_that_is_not_quadratic_is_not_rotated() -> None:
    v = Entry("b", "real", (inputs,))
    action = FieldAction(SpaceSum(SpaceSum(X * v, inputs)**4, sample), (v,))
    with pytest.raises(RuleError, match="degree 4"):
        rotation.diagonalise(action, X, sample, mode, spectrum=spectrum, scale=D)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_remainder_is_the_first_order_dropped(order: int) -> None:
    step = _wide(z**4 / N**order + z**6 / N**(order + 1))
    assert step.after.expr == z**2 / 2 and step.remainder == N**-order
    assert step.details["dropped"] == z**4 / N**order
    # an observable is kept as far as the action is right
    observable = sp.Add(*(z**k / N**k for k in range(5)))
    assert sp.expand(step.push(observable) - sp.Add(*(z**k / N**k for k in range(order)))) == 0


def test_a_map_onto_the_range_of_the_field_is_taken() -> None:
    c = sp.Symbol("c", positive=True)
    logarithm = sp.log(Entry("v", "positive"))
    for old, expression in ((u, c * v + 1), (u, sp.sinh(v)), (Q, c * sp.exp(-2 * v)), (u, logarithm)):
        (new,) = expression.atoms(Entry)
        assert rules.change_variable(_scalar(old**2, old), old, new, expression).after.fields == (new,)


def test_a_low_rank_sign_that_is_open_is_left_to_the_user() -> None:
    total = SpaceSum(a, site)
    action = rules.integrate_out(_scalar(SpaceSum(a**2, site) / 2 - total**2 * g, a), a).after
    assert action.expr.has(sp.log(1 - 2 * N * g))


def test_one_site_integrals_stay_until_their_last_field() -> None:
    steps = linear.site_view().steps
    (integral,) = steps[1].after.expr.atoms(LogIntegral)
    assert {entry.name for entry in integral.fields} == {"a", "w"}
    (integral,) = steps[2].after.expr.atoms(LogIntegral)
    assert [entry.name for entry in integral.fields] == ["a"]
    assert not steps[3].after.expr.atoms(LogIntegral)


# --------------------------------------------------------------------------------- names and hash seeds

NAMES = ("a w f j X X_test y v lambda T Q u h N D P g s sigma_w2 site input sample mode test").split()


def _replay(derivation: tuple[Step, ...], names: dict[str, str]) -> FieldAction:
    """The order-parameter derivation from a renamed start, every argument renamed."""

    def new(expr: sp.Basic) -> sp.Basic:
        return rename(expr, names)

    def out(action: FieldAction, entry: Entry) -> FieldAction:
        return rules.integrate_out(action, new(entry)).after

    action = derivation[0].before.rename(names)
    action = rules.introduce(action, new(f), new(output), new(j)).after
    action = out(action, w)
    action = rotation.diagonalise(action, new(X), new(sample), new(mode), spectrum=new(spectrum),
                               scale=new(D / linear.variance)).after
    action = rules.introduce(action, new(Q), new(linear.norm), new(h)).after
    action = out(action, a)
    action = rules.integrate_conjugate(action, new(h)).after
    action = out(out(action, fm), jm)
    return rules.change_variable(action, new(Q), new(u), new(sp.exp(u))).after


FRESH = st.lists(st.text("abcxyzABC_0123456789", min_size=1, max_size=4).map(lambda t: "n" + t),
                 min_size=len(NAMES), max_size=len(NAMES), unique=True)


@settings(max_examples=12)
@given(st.one_of(st.permutations(NAMES), FRESH))
def test_renaming_the_input_renames_the_output(names: list[str]) -> None:
    table = dict(zip(NAMES, names))
    steps = linear.rescaling_view().steps
    found, expected = _replay(steps, table), steps[-1].after.rename(table)
    assert found == expected
    assert sp.srepr(found.expr) == sp.srepr(expected.expr)


def test_an_unused_space_is_never_summed_over() -> None:
    # integrating a field over sites leaves no site behind but in sizes
    expr = linear.conjugate_view().steps[-1].after.expr
    assert not {space.name for space in expr.atoms(Space)} - {"mode"}
    assert isinstance(hessian(expr, jm), Form)
