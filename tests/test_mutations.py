"""Errors planted in the rules, each of which ``verify`` must catch.

A mutation replaces a piece of the source of one function; the test fails if that piece is no longer there.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory import checks
from fieldtheory.derivation import Derivation, VerificationReport
from fieldtheory.symbolic import closures, fields, forms, rotation, rules
from fieldtheory.symbolic.fields import Entry
from fieldtheory.symbolic.rules import FieldAction, Step
from tests import linear_network as linear


class Mutation(NamedTuple):
    """``old`` becomes ``new`` in the source of ``owner.name``; the derivation must then fail in a step of ``rule``."""

    what: str
    owner: object
    name: str
    old: str
    new: str
    derivation: Callable[[], Derivation]
    rule: str


def _closing(name: str, **options: object) -> Callable[[], Derivation]:
    """The closing step alone of a theory of the linear network."""
    def build() -> Derivation:
        theory = ft.theories[name](ft.Network(), **options)
        action = theory.action.value
        step = Step("close", action, action, lambda o: o, check=checks.check_closure(theory.closure))
        return Derivation("closing", "", (step,))

    build.__name__ = "-".join(map(str, (name, *options.values())))
    return build


CLOSINGS = (_closing("nngp"), *(_closing("linear", view=view, loops=loops)
                                for view in ("adaptation", "rescaling") for loops in (0, 1)))


def _doubled() -> list[Mutation]:
    """What every closure reports, doubled."""
    exact, field, field_1, scalar, scalar_1 = CLOSINGS
    cases = [(closures.Closure, "average", "return ", "return 2 * ", (exact,)),
             (closures.Closure, "variance", "return ", "return 2 * ", (exact,)),
             (closures.Closure, "log_partition", "return ", "return 2 * ", (exact,)),
             *((closures.FieldClosure, name, "return ", "return 2 * ", (field, field_1))
               for name in ("average", "variance", "log_partition")),
             *((closures.ScalarClosure, name, "return ", "return 2 * ", (scalar, scalar_1))
               for name in ("average", "variance", "log_partition")),
             (closures.FieldClosure, "average", "trace_with(self.propagator) / 2", "trace_with(self.propagator)",
              (field_1,)),
             (closures.FieldClosure, "variance", "conditional + ", "", (field, field_1)),
             (closures.ScalarClosure, "variance", "conditional + spread", "conditional", (scalar_1,)),
             (closures.ScalarClosure, "log_partition", ", *loop.log_partition.values()", "", (scalar_1,))]
    return [Mutation(f"{owner.__name__}.{name}, {new.strip() or 'no ' + old}: {build.__name__}", owner, name, old, new,
                     build, "close") for owner, name, old, new, builds in cases for build in builds]


def _wide_network() -> Derivation:
    """The leading order in 1/N with the observables of a network."""
    return ft.theories["nngp"](ft.Network()).derivation


def _changed_badly(name: str) -> Callable[[], Derivation]:
    """A change of variables whose image is part of the line, written by hand."""
    def build() -> Derivation:
        u, v = Entry("u", "real"), Entry("v", "real")
        x, slope = {"exp": (sp.exp(v), sp.exp(v)), "atan": (sp.atan(v), 1 / (1 + v**2))}[name]
        before = FieldAction(u**2 / 2, (u,))
        after = FieldAction(x**2 / 2 - sp.log(slope), (v,))
        step = Step("change_variable", before, after, lambda o: o.xreplace({u: x}), substitution={u: x})
        return Derivation("half the line", "", (step,))

    return build


MUTATIONS = (
    *_doubled(),
    Mutation("an observable rescaled and shifted", rules, "leading_order", "return tidy(sp.Add(",
             "return 3 + 7 * tidy(sp.Add(", _wide_network, "leading_order"),
    Mutation("the source's half, local form", forms.Gaussian, "completed_square", "self.form.spaces) / 2",
             "self.form.spaces)", linear.conjugate_view, "integrate_out"),
    Mutation("the source's half, low rank", forms.Gaussian, "completed_square", "quadratic(self.source) / 2",
             "quadratic(self.source)", linear.rank_two, "integrate_out"),
    Mutation("sign of the source's term", rules, "integrate_out", "law.constant - law", "law.constant + law",
             linear.conjugate_view, "integrate_out"),
    Mutation("sign of the log-determinant", rules, "integrate_out", "shifted += (law.form.log_det() -",
             "shifted -= (law.form.log_det() +", linear.conjugate_view, "integrate_out"),
    Mutation("the log-determinant's half", rules, "integrate_out", "law.form.log_det() - size",
             "2 * law.form.log_det() - size", linear.conjugate_view, "integrate_out"),
    Mutation("no 2π, real field", rules, "integrate_out", " - size * sp.log(2 * sp.pi)", "",
             linear.conjugate_view, "integrate_out"),
    Mutation("no 2π, imaginary field", rules, "integrate_out", " + size * sp.log(2 * sp.pi)", "",
             linear.rescaling_view, "integrate_out"),
    Mutation("real 2π for an imaginary field", rules, "integrate_out", " + size * sp.log(2 * sp.pi)",
             " - size * sp.log(2 * sp.pi)", linear.rescaling_view, "integrate_out"),
    Mutation("the determinant of H, not of -H, for an imaginary field", rules, "integrate_out",
             "law.form.scale(sp.S.NegativeOne).log_det()", "law.form.log_det()",
             linear.rescaling_view, "integrate_out"),
    Mutation("the observable not averaged", rules, "integrate_out", "gaussian_average(observable, law)",
             "observable.xreplace({candidate: law.mean})", linear.conjugate_view, "integrate_out"),
    Mutation("sign of the mean", forms.Gaussian, "mean", "-self.form.solve", "self.form.solve",
             linear.conjugate_view, "integrate_out"),
    Mutation("weight of second order in an average", forms, "gaussian_average", "(2 * order)", "2",
             linear.conjugate_view, "integrate_out"),
    Mutation("sign of Woodbury's correction", forms.Form, "inverse", "(-sp.Add(", "(sp.Add(",
             linear.rank_two, "integrate_out"),
    Mutation("no cross term in Woodbury's core", forms.Form, "_core", "self._over(",
             "int(a == b) * self._over(", linear.rank_two, "integrate_out"),
    Mutation("no identity in Woodbury's core", forms.Form, "_core", "sp.KroneckerDelta(a, b)", "0",
             linear.rank_two, "integrate_out"),
    Mutation("Woodbury's core transposed", forms.Form, "inverse", "core[a, b] * self.pairs[a][0]",
             "core[b, a] * self.pairs[a][0]", linear.rank_two, "integrate_out"),
    Mutation("no determinant of the low-rank part", forms.Form, "log_det", " + self.log_det_low_rank()", "",
             linear.rank_two, "integrate_out"),
    Mutation("a trace without its cross term", forms.Form, "trace_with",
             "sum_over(v * u_other, narrow) * sum_over(v_other * u, narrow)", "0",
             linear.rank_two, "integrate_out"),
    Mutation("the wrong second variation", fields, "second_variation", "local.append(c * d)",
             "local.append(c * d / 2)", linear.conjugate_view, "integrate_out"),
    Mutation("a log that loses its scalar factor", fields, "_tidy_log", "sp.expand_log(sp.log(scalar)) + ", "",
             linear.conjugate_view, "integrate_out"),
    Mutation("sign of the constraint", rules, "introduce", "(name - definition)", "(name + definition)",
             linear.conjugate_view, "introduce"),
    Mutation("the conjugate's coefficient", rules, "introduce", "sum_over(conjugate *", "sum_over(2 * conjugate *",
             linear.conjugate_view, "introduce"),
    Mutation("no conjugate for the name itself", rules, "introduce", "(name - definition)", "(-definition)",
             linear.conjugate_view, "introduce"),
    Mutation("the name in the wrong place", rules, "replacement", "{node: (name -", "{node: (2 * name -",
             linear.rescaling_view, "introduce"),
    Mutation("Γ(α + 1) for Γ(α)", rules, "integrate_conjugate", "sp.loggamma(alpha)", "sp.loggamma(alpha + 1)",
             linear.rescaling_view, "integrate_conjugate"),
    Mutation("Q^(N/2) for Q^(N/2 - 1)", rules, "integrate_conjugate", "(alpha - 1)", "alpha",
             linear.rescaling_view, "integrate_conjugate"),
    Mutation("no |d| from the contour", rules, "integrate_conjugate", " + sp.log(sp.Abs(d))", "",
             linear.sum_of_squares, "integrate_conjugate"),
    Mutation("sign of the branch point", rules, "integrate_conjugate", "rest - kappa * c / d",
             "rest + kappa * c / d", linear.sum_of_squares, "integrate_conjugate"),
    Mutation("no Jacobian", rules, "change_variable", " - sp.log(sp.Abs(jacobian))", "",
             linear.rescaling_view, "change_variable"),
    Mutation("sign of the Jacobian", rules, "change_variable", "- sp.log(sp.Abs", "+ sp.log(sp.Abs",
             linear.rescaling_view, "change_variable"),
    Mutation("no scale in the spectrum", rotation, "diagonalise", "sp.sqrt(scale * spectrum)", "sp.sqrt(spectrum)",
             linear.conjugate_view, "diagonalise"),
    Mutation("λ for its root", rotation, "diagonalise", "sp.sqrt(scale * spectrum)", "scale * spectrum",
             linear.conjugate_view, "diagonalise"),
    Mutation("test inputs projected on V, not on X", rotation, "_contract", "projections[right] / root",
             "projections[right]", linear.conjugate_view, "diagonalise"),
    Mutation("one site's integral to the first power", rules, "factorise", "- space.size * one_site",
             "- one_site", linear.site_view, "factorise"),
    Mutation("a site's coefficient lost", rules, "factorise", "coefficient * total.body", "total.body",
             linear.site_view, "factorise"),
    Mutation("the one-site integral off by a factor", rules, "integrate_site", "LogIntegral(inner.after.expr",
             "LogIntegral(1 + inner.after.expr", linear.site_view, "integrate_site"),
    Mutation("sign of the one-site action", rules, "integrate_site", "LogIntegral(inner.after.expr",
             "LogIntegral(-inner.after.expr", linear.site_view, "integrate_site"),
    Mutation("half of the next order", rules, "leading_order", '{"dropped": dropped}', '{"dropped": dropped / 2}',
             linear.wide_limit, "leading_order"),
    Mutation("the leading order doubled", rules, "leading_order", "tidy(kept", "tidy(2 * kept",
             linear.wide_limit, "leading_order"),
)


def _plant(monkeypatch: pytest.MonkeyPatch, mutation: Mutation) -> None:
    attribute = inspect.getattr_static(mutation.owner, mutation.name)
    original = attribute.fget if isinstance(attribute, property) else attribute
    source = textwrap.dedent(inspect.getsource(original)).removeprefix("@property\n")
    assert source.count(mutation.old) == 1, f"{mutation.old!r} is no longer in {mutation.name}: rewrite the mutation"
    scope: dict[str, object] = {}
    code = "from __future__ import annotations\n" + source.replace(mutation.old, mutation.new)
    exec(compile(code, f"<mutated {mutation.name}>", "exec"), original.__globals__, scope)
    mutated = scope[mutation.name]
    if inspect.isclass(mutation.owner):
        monkeypatch.setattr(mutation.owner, mutation.name,
                            property(mutated) if isinstance(attribute, property) else mutated)
        return
    # wherever the function has been imported by name
    for module in [m for key, m in sys.modules.items() if key.startswith("fieldtheory.symbolic")]:
        if getattr(module, mutation.name, None) is original:
            monkeypatch.setattr(module, mutation.name, mutated)


def _reports(derivation: Derivation, rule: str) -> Iterator[VerificationReport]:
    """Of each step by this rule, as ``derivation.verify`` has it, one by one."""
    observables = dict(derivation.observables)
    for step in derivation.steps:
        if step.rule == rule:
            yield Derivation(step.rule, "", (step,), observables=observables).verify(seed=1)
        observables = {name: step.push(observable) for name, observable in observables.items()}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.what)
def test_a_planted_error_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(monkeypatch, mutation)
    assert any(not report.ok for report in _reports(mutation.derivation(), mutation.rule)), f"not caught: {mutation}"


@pytest.mark.parametrize("build", linear.DERIVATIONS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_without_one_every_step_holds(build: Callable[[], Derivation], seed: int) -> None:
    report = build().verify(seed)
    assert report.ok, str(report)
    assert max(row.error for row in report.rows if row.kind == "exact") < 1e-10


@pytest.mark.parametrize("build", CLOSINGS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_closure_holds(build: Callable[[], Derivation], seed: int) -> None:
    report = build().verify(seed)
    assert report.ok, str(report)
    names = {row.quantity for row in report.rows}
    assert any("ln Z as reported" in name for name in names), names
    assert any("variance" in name and "as reported" in name for name in names), names


@pytest.mark.parametrize("name", ["exp", "atan"])
def test_a_map_onto_part_of_the_line_is_caught(name: str) -> None:
    report = _changed_badly(name)().verify()
    # every value at a point is right; the integral is not
    assert {row.quantity for row in report.failures} & {"integral", "S"}, str(report)
    assert not report.ok


def test_there_is_a_mutation_for_every_rule() -> None:
    public = {name for module in (rules, rotation) for name, value in vars(module).items() if inspect.isfunction(value)
              and value.__module__ == module.__name__ and not name.startswith("_")
              and inspect.signature(value).return_annotation in ("Step", rules.Step)}
    assert public <= {mutation.rule for mutation in MUTATIONS}
