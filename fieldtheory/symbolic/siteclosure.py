r"""Closing an action at one site: averages over the law e^{-s} of its fields, and the environment they determine.

What is left of an action after :mod:`.symbolic.sites` is s(θ), which depends on an *environment*: order parameters
m = N ⟨g⟩, or the mean quadratic form of the other sites, C = Σ ⟨u vᵀ⟩.  Averages stay symbolic, as
:class:`SiteAverage` nodes; what numerics need of them is named here: the parts of each average that do not depend on
the environment.  An average that is affine in m at a fixed law, ⟨c⟩ + Σ ⟨u vᵀ⟩ m, makes m = ⟨c⟩ + Σ⟨u vᵀ⟩ m a linear
equation: adaptive-kernel regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from fieldtheory.errors import NotGaussian, RuleError
from fieldtheory.symbolic.closures import Closure
from fieldtheory.symbolic.features import SiteAverage
from fieldtheory.symbolic.fields import (
    Entry,
    SpaceSum,
    depends_on,
    distribute,
    open_spaces,
    pointwise_diff,
    tidy,
    variations,
    vary,
)
from fieldtheory.symbolic.forms import hessian
from fieldtheory.symbolic.potential import Potential, potential
from fieldtheory.symbolic.rules import Step
from fieldtheory.symbolic.saddle import EquationsOfState

Pair = tuple[sp.Expr, sp.Expr]

SINGLED_OUT = ("decouple", "cavity", "site_saddle")
"""Rules that leave one site."""


@dataclass(frozen=True)
class Affine:
    """A site's expression as constant + Σ_ν coupling(·, ν) m_ν, coupling = Σ u(·) v(ν) over ``pairs``."""

    constant: sp.Expr
    pairs: tuple[Pair, ...]


def affine(expr: sp.Expr, parameter: Entry) -> Affine:
    """Read an expression of one site as affine in an order parameter.

    Raises
    ------
    RuleError
        If it is not: the self-consistency is no linear equation at a fixed law.
    """
    pairs = []
    for c, d, freed in variations(expr, parameter):
        if freed != frozenset(parameter.spaces) or depends_on(c, parameter) or depends_on(d, parameter):
            raise RuleError(f"an average over one site is not affine in {parameter} at a fixed law")
        pairs.append((c, d))
    return Affine(expr.xreplace({parameter: sp.S.Zero}), _gathered(pairs))


def _gathered(pairs: list[Pair]) -> tuple[Pair, ...]:
    """Pairs with proportional second factors become one."""
    found: dict[sp.Expr, sp.Expr] = {}
    for u, v in pairs:
        number, rest = v.as_coeff_Mul()
        outer = sp.Mul(*(f for f in sp.Mul.make_args(rest) if f.as_base_exp()[0].is_Symbol))
        found[rest / outer] = found.get(rest / outer, sp.S.Zero) + u * number * outer
    return tuple((u, v) for v, u in found.items())


@dataclass(frozen=True)
class Shared:
    r"""An order parameter v = ⟨n w²⟩ of one site's field w, whose prior has the precision ℓ(v), with 1/ℓ affine in v.

    Averages of w² are noisy where w follows its prior, and v moves slowly there: ⟨w²⟩ = 1/ℓ(v).  The virial
    theorem ⟨w ∂s/∂w⟩ = 1 says ⟨w²⟩ = (1 - ⟨x⟩)/ℓ, with the excess x = w ∂s/∂w - ℓ w² zero there.
    """

    closure: SiteClosure
    parameter: Entry
    body: sp.Expr

    @cached_property
    def field(self) -> Entry:
        """w."""
        moving = [f for f in self.closure.fields if depends_on(self.body, f)]
        if len(moving) != 1 or open_spaces(self.number) or any(depends_on(self.number, f) for f in self.closure.fields):
            raise RuleError(f"{self.parameter} is not an average of the square of one field of a site")
        return moving[0]

    @property
    def number(self) -> sp.Expr:
        """n."""
        (moving,) = (f for f in self.closure.fields if depends_on(self.body, f))
        return sp.cancel(self.body / moving**2)

    @cached_property
    def precision(self) -> sp.Expr:
        """ℓ(v)."""
        return self.closure.prior_precisions[self.field]

    @cached_property
    def excess(self) -> sp.Expr:
        """x."""
        return self.field * distribute(self.closure.gradients[self.field] - self.precision * self.field)

    @cached_property
    def inverse(self) -> tuple[sp.Expr, sp.Expr]:
        """1/ℓ = constant + slope · v."""
        v = self.parameter
        slope = sp.cancel(pointwise_diff(1 / self.precision, v))
        if depends_on(slope, v):
            raise RuleError(f"the variance of {self.field} under its prior is not affine in {v}")
        return sp.cancel((1 / self.precision).xreplace({v: sp.S.Zero})), slope

    @cached_property
    def unlearned(self) -> sp.Expr:
        """v where w follows its prior: v = n/ℓ(v)."""
        constant, slope = self.inverse
        return sp.cancel(self.number * constant / (1 - self.number * slope))


@dataclass(frozen=True)
class SiteClosure(Closure):
    """An action in the fields of one site, with the steps since one was singled out, or a hyperprior averaged over."""

    steps: tuple[Step, ...] = ()

    @property
    def state(self) -> EquationsOfState:
        return EquationsOfState((), (), (), definitions=self.equations)

    @property
    def step(self) -> Step:
        """The one that singled a site out."""
        return next(step for step in self.steps if step.rule in SINGLED_OUT)

    @property
    def fields(self) -> tuple[Entry, ...]:
        return self.action.fields  # type: ignore[return-value]

    def after(self, observable: sp.Expr, step: Step | None = None) -> sp.Expr:
        """An observable of the fields that a step left (the one that singled a site out), in those left now."""
        found = [k for k, known in enumerate(self.steps) if known is (step or self.step)]
        for later in self.steps[found[0] + 1:]:
            observable = tidy(later.push(observable))
        return observable

    def average(self, observable: sp.Expr) -> sp.Expr:
        """⟨O⟩ over one site's law, left symbolic; what does not depend on the site stands outside."""
        moving: list[sp.Expr] = []
        fixed: list[sp.Expr] = []
        for term in sp.Add.make_args(distribute(observable)):
            (moving if any(depends_on(term, f) for f in self.fields) else fixed).append(term)
        law = sp.Tuple(*self.fields)
        return sp.Add(*fixed) + (SiteAverage(sp.Add(*moving), self.action.expr, law) if moving else sp.S.Zero)

    def log_partition(self) -> sp.Expr:
        raise RuleError("ln Z is an integral over one site, not a closed expression")

    @cached_property
    def parameters(self) -> dict[Entry, sp.Expr]:
        """Order parameters, and N g as an expression in the fields left: m = ⟨N g⟩."""
        return {m: self.after(body) for m, body in dict(self.step.details.get("order_parameters", {})).items()}

    @cached_property
    def observed(self) -> dict[Entry, sp.Expr]:
        """Order parameters at other data, likewise: what observables need of them."""
        return {m: self.after(body) for m, body in dict(self.step.details.get("observed", {})).items()}

    @cached_property
    def shared(self) -> dict[Entry, Shared]:
        """What the laws of shared fields depend on: order parameters that are plain averages over one site."""
        found = {}
        for step in self.steps:
            if step.rule == "hyperprior":
                ((v, coupled),) = dict(step.details["order_parameters"]).items()  # type: ignore[arg-type]
                found[v] = Shared(self, v, self.after(coupled, step))
        return found

    @cached_property
    def kernel(self) -> tuple[Pair, ...]:
        """The mean quadratic form of the other sites as pairs, C_μν = Σ ⟨u_μ v_ν⟩."""
        return tuple((pair[0], pair[1]) for pair in self.step.details.get("kernel", ()))

    @cached_property
    def convex(self) -> bool:
        """Whether the environment is the only stationary point of a convex potential, by the signs of its parts.

        Read before any field of the site is integrated out: an integral of exponentials of convex functions is one.
        """
        alone = not self.step.details.get("others")  # populations with laws of their own are not convex together
        if len(self.parameters) != 1 or self.shared or self.kernel or self.step.rule == "cavity" or not alone:
            return False
        try:
            return self._potential(self.step.after.expr, self.step.after.fields).convex  # type: ignore[arg-type]
        except RuleError:
            return False

    @cached_property
    def potential(self) -> Potential:
        """The potential of the environment, with its curvature in averages over the fields left."""
        return self._potential(self.action.expr, self.fields)

    def _potential(self, expr: sp.Expr, fields: tuple[Entry, ...]) -> Potential:
        (m,) = self.parameters
        return potential(expr, fields, m, self.step.details["space"].size)  # type: ignore[attr-defined]

    @cached_property
    def projections(self) -> dict[Entry, tuple[Pair, ...]]:
        """C between other points and the samples as pairs, by the datum that stands for it in the eigenbasis."""
        found = dict(self.step.details.get("projections", {}))
        return {name: tuple((pair[0], pair[1]) for pair in pairs) for name, pairs in found.items()}

    @cached_property
    def gradients(self) -> dict[Entry, sp.Expr]:
        """∂s/∂θ for each field."""
        return {f: vary(self.action.expr, f) for f in self.fields}

    @cached_property
    def prior_precisions(self) -> dict[Entry, sp.Expr]:
        """The part of the curvature that does not depend on any field: where the law of the prior is Gaussian."""
        found: dict[Entry, sp.Expr] = {}
        terms = [term for term in sp.Add.make_args(distribute(self.action.expr))
                 if not any(depends_on(term, m) for m in self.parameters)]  # those are of the law in an environment
        for f in self.fields:
            precision = sp.S.Zero
            for term in terms:
                if depends_on(term, f):
                    try:
                        form = hessian(term, f)
                    except RuleError:
                        continue
                    if not form.pairs and not any(depends_on(form.diag, x) for x in self.fields):
                        precision += form.diag
            if precision == 0:
                raise NotGaussian(f"the prior of {f} on one site is not Gaussian")
            found[f] = precision
        return found

    @cached_property
    def equations(self) -> dict[str, sp.Eq]:
        """What the environment is, in averages over the law that it determines."""
        found = {m.name: sp.Eq(m, self.average(body), evaluate=False) for m, body in self.parameters.items()}
        found |= {v.name: sp.Eq(v, self.average(law.body), evaluate=False) for v, law in self.shared.items()}
        if self.kernel:
            spectrum, basis = self.step.details["spectrum"], self.step.details["basis"]
            total = self.average(sp.Add(*(_in_basis(u, basis) * _in_basis(v, basis) for u, v in self.kernel)))
            found[spectrum.name] = sp.Eq(spectrum, total, evaluate=False)  # type: ignore[attr-defined]
        return found


def _in_basis(vector: sp.Expr, basis: Entry) -> sp.Expr:
    """Σ_μ V_μk v_μ."""
    return distribute(SpaceSum(basis * vector, basis.spaces[0]))


__all__ = ["SINGLED_OUT", "Affine", "Shared", "SiteClosure", "affine"]
