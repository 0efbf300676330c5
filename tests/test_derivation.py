"""What ``Derivation.verify`` reports: every step, every observable, and whatever goes wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mpmath
import numpy as np
import pytest
import sympy as sp

from fieldtheory.derivation import Derivation
from fieldtheory.numerics import evaluate
from fieldtheory.stepchecks import CheckResult
from fieldtheory.symbolic import rules
from fieldtheory.symbolic.fields import Entry, SpaceSum
from fieldtheory.symbolic.rules import FieldAction, Step
from tests import linear_network as linear


def test_the_linear_derivation_is_verified() -> None:
    report = linear.rescaling_view().verify(seed=5)
    assert report.ok, str(report)
    assert report.seconds > 0
    assert {row.step for row in report.rows} == set(range(1, 10))
    assert {row.quantity for row in report.rows} == {"S", "conjugate coupling", "integral"} | {
        f"<{name}>" for name in linear.OBSERVABLES}
    assert "verified" in str(report) and "integrate_conjugate" in str(report)


def test_a_seed_fixes_the_report() -> None:
    derivation = linear.sum_of_squares()
    first, second = derivation.verify(3), derivation.verify(3)
    assert [row.error for row in first.rows] == [row.error for row in second.rows]


def test_an_empty_derivation_is_not_verified() -> None:
    assert not Derivation("nothing", "", ()).verify().ok


def _approximate(check: object = None) -> Derivation:
    action = linear.conjugate_view().steps[-1].after
    step = Step("expand", action, action, lambda o: o, remainder=1 / linear.N, check=check)  # type: ignore[arg-type]
    return Derivation("approximate", "", (step,))


def test_an_approximate_step_without_a_check_is_not_verified() -> None:
    report = _approximate().verify()
    assert not report.ok
    assert report.rows[0].kind == "approximate"
    assert "not verified" in report.rows[0].message


@pytest.mark.parametrize("error, ok", [(1e-12, True), (1e-3, False), (float("nan"), False)])
def test_an_approximate_step_brings_its_own_check(error: float, ok: bool) -> None:
    report = _approximate(lambda rng: [CheckResult("next coefficient", error, 1e-6)]).verify()
    assert report.ok is ok
    assert report.rows[0].quantity == "next coefficient"


def test_whatever_a_check_raises_is_a_row() -> None:
    def broken(rng: np.random.Generator) -> list[CheckResult]:
        raise ZeroDivisionError("by design")

    report = _approximate(broken).verify()
    assert not report.ok
    assert "ZeroDivisionError: by design" in str(report)


def test_a_gap_between_steps_is_found() -> None:
    whole = linear.conjugate_view()
    report = Derivation("gap", "", (whole.steps[0], *whole.steps[2:])).verify()
    assert [row.step for row in report.failures if row.quantity.startswith("starts where")] == [2]
    # the same function written otherwise is no gap
    first, second, *rest = whole.steps
    other = dataclasses.replace(second, before=second.before.replace_expr(sp.factor_terms(second.before.expr)))
    assert Derivation("rewritten", "", (first, other, *rest)).verify().ok


def test_a_field_left_behind_is_found() -> None:
    step = linear.conjugate_view().steps[-1]
    after = dataclasses.replace(step.after, expr=step.before.expr)
    report = Derivation("left", "", (dataclasses.replace(step, after=after),)).verify()
    assert "f in S but not integrated over" in str(report)


def test_an_observable_that_cannot_be_carried_is_reported() -> None:
    whole = linear.site_view()
    report = dataclasses.replace(whole, observables={"norm": linear.norm}).verify()
    (failure,) = report.failures
    assert failure.step == 2 and failure.quantity == "<norm>" and "before factorising" in failure.message


def test_too_many_components_are_reported() -> None:
    big = Entry("b", "real", (linear.Space("big", sp.Integer(5)),))
    step = rules.integrate_out(FieldAction(SpaceSum(big**2, big.spaces[0]), (big,)), big)
    report = Derivation("big", "", (step,)).verify()
    assert "too many" in report.failures[0].message


def test_observables_arrive_where_the_oracle_is() -> None:
    # given Q: outputs are N(0, QK) and seen through noise, (theory) ⟨f⟩ = QK (QK + s)⁻¹ y
    found = linear.rescaling_view().carried(8)["output"]
    v, y = (Entry(name, "data", (linear.mode,)) for name in "vy")
    q, noise, eigenvalues = 0.7, 0.3, np.array([2.0, 0.5, 0.1])
    probe, targets = np.array([0.3, -1.0, 0.4]), np.array([1.0, 2.0, -1.0])
    values = {linear.Q: q, linear.s: noise, linear.N: 10, linear.P: 3, v: probe, y: targets,
              linear.spectrum: eigenvalues, linear.g: 1.0}
    expected = probe @ (q * eigenvalues / (q * eigenvalues + noise) * targets)
    assert evaluate(found, values) == pytest.approx(expected, rel=1e-13)


def test_the_order_parameter_action_has_every_constant() -> None:
    steps = linear.rescaling_view().steps
    action = steps[-1].after
    targets = Entry("y", "data", (linear.mode,))
    values = {linear.spectrum: np.array([1.0, 2.0, 4.0]), targets: np.array([1.0, -1.0, 2.0]), linear.s: 0.1,
              linear.g: 1.0, linear.N: 10, linear.P: 3}
    u = np.linspace(-8, 4, 4001)
    weight = np.exp(-evaluate(action.expr, {**values, linear.u: u}))
    step = u[1] - u[0]
    assert np.log(weight.sum() * step) == pytest.approx(-5.15399575948249, abs=1e-12)
    assert (weight * np.exp(u)).sum() / weight.sum() == pytest.approx(0.977997577944576, abs=1e-13)
    # and by other means: Q is g/N times a χ² of N degrees of freedom, outputs N(0, Qλ + s) given Q
    with mpmath.workdps(20):
        def density(q: mpmath.mpf) -> mpmath.mpf:
            law = mpmath.exp(-5 * q) * (5 * q)**4 * 5 / mpmath.gamma(5)
            for eigenvalue, target in ((1, 1), (2, -1), (4, 2)):
                c = q * eigenvalue + mpmath.mpf("0.1")
                law *= mpmath.exp(-mpmath.mpf(target)**2 / (2 * c)) / mpmath.sqrt(2 * mpmath.pi * c)
            return law

        exact = mpmath.log(mpmath.quad(density, [0, 0.5, 1, 2, 4, 8, 16]))
    assert float(exact) == pytest.approx(-5.15399575948249, abs=1e-13)


def test_both_views_are_the_same_integral() -> None:
    # ∫dj e^{-S(j)} for one mode against ∫du e^{-S(u)}
    conjugate = linear.conjugate_view().steps[-1].after
    rescaled = linear.rescaling_view().steps[-1].after
    targets = Entry("y", "data", (linear.mode,))
    values = {linear.spectrum: np.array([1.7]), targets: np.array([0.8]), linear.s: 0.4, linear.g: 0.9,
              linear.N: 5, linear.P: 1}
    u, t = np.linspace(-12, 4, 6001), np.linspace(-60, 60, 60001)
    over_u = np.sum(np.exp(-evaluate(rescaled.expr, {**values, linear.u: u}))) * (u[1] - u[0])
    j = Entry("j", "imaginary", (linear.mode,))
    over_j = np.sum(np.exp(-evaluate(conjugate.expr, {**values, j: 1j * t[None, :]}))) * (t[1] - t[0]) / (2 * np.pi)
    assert over_j.real == pytest.approx(over_u, rel=1e-9)
    assert abs(over_j.imag) < 1e-12


def test_definitions_are_collected() -> None:
    sigma = sp.Symbol("sigma", positive=True)
    action = dataclasses.replace(linear.microscopic(), definitions={linear.g: sigma**2})
    step = rules.introduce(action, linear.f, linear.output, linear.j)
    assert Derivation("with g", "", (step,)).definitions == {linear.g: sigma**2}


def test_it_prints_as_latex() -> None:
    derivation = linear.rescaling_view()
    text = derivation._repr_latex_()
    assert text.startswith("$") and text.endswith("$") and r"\sum_{k=1}^{P}" in text
    assert text.count(r"\\") == len(derivation.steps)


def test_it_writes_a_whole_document_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "derivation.tex"
    linear.conjugate_view().to_latex(path)
    text = path.read_text()
    assert text.startswith(r"\documentclass") and text.rstrip().endswith(r"\end{document}")
    with pytest.raises(OSError):
        linear.conjugate_view().to_latex(tmp_path / "nowhere" / "derivation.tex")
    assert [file.name for file in tmp_path.iterdir()] == ["derivation.tex"]
