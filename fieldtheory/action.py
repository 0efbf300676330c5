"""Actions as users hold them: an expression, its fields, the rules as methods, and the steps that led to it.

The front door to :mod:`fieldtheory.symbolic`; every method returns a new object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import sympy as sp

from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.symbolic import rules
from fieldtheory.symbolic.closures import Closure, close
from fieldtheory.symbolic.fields import (
    Entry,
    Space,
    SpaceSum,
    depends_on,
    entries,
    open_spaces,
    pointwise_diff,
    structure_key,
    sum_over,
    sums,
    tidy,
    vary,
)
from fieldtheory.symbolic.forms import Form, hessian
from fieldtheory.symbolic.loops import ScalarExpansion
from fieldtheory.symbolic.printing import latex
from fieldtheory.symbolic.rules import FieldAction, Step
from fieldtheory.symbolic.saddle import OrderParameter, conjugate_to, scalar_saddle
from fieldtheory.symbolic.series import Series

if TYPE_CHECKING:
    from fieldtheory.network import Network

Field: TypeAlias = sp.Expr
Quantity: TypeAlias = sp.Expr | str

ACTIVATIONS: Mapping[str, Callable[[sp.Expr], sp.Expr]] = {
    "identity": lambda h: h,
    "erf": sp.erf,
    "relu": lambda h: sp.Max(h, 0),
    "tanh": sp.tanh,
    "quadratic": lambda h: h**2,
}
"""What each named activation is, as an expression; everything else follows by rules."""


class Action:
    """S[fields], minus the log of an unnormalised density.

    Parameters
    ----------
    expr : a closed SymPy expression in symbols, entries and sums over spaces.
    fields : the symbols or entries integrated over (flat measure; dφ/2πi on an imaginary contour).
    large : the large parameter N of a loop expansion, where S is N times a function of order one.
    definitions : what parameters stand for (g = σ_a² N^{1-γ}), for counting and for numbers.
    quantities : named observables of the fields, carried along by every rule.

    Raises
    ------
    BadInput
        If the expression is open in some space, or does not depend on a field.
    """

    def __init__(self, expr: Any, fields: Iterable[Field], *, large: sp.Symbol | None = None,
                 definitions: Mapping[sp.Expr, sp.Expr] | None = None,
                 quantities: Mapping[str, sp.Expr] | None = None, steps: tuple[Step, ...] = ()) -> None:
        self.value = FieldAction(sp.sympify(expr), tuple(fields), dict(definitions or {}))
        self.large = large
        self.quantities = dict(quantities or {})
        self.steps = steps
        for field in self.value.fields:
            if not depends_on(self.value.expr, field):
                raise BadInput("fields", field, "fields that the action depends on")

    @property
    def expr(self) -> sp.Expr:
        return self.value.expr

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.value.fields

    @property
    def definitions(self) -> Mapping[sp.Expr, sp.Expr]:
        return self.value.definitions

    @property
    def last(self) -> Mapping[str, sp.Basic]:
        """What the last step found on its way, such as the variance of the field that it integrated out."""
        return self.steps[-1].details if self.steps else {}

    def __repr__(self) -> str:
        return f"Action({self.expr}, fields=[{', '.join(map(str, self.fields))}])"

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {latex(self.expr)}$"

    def __getitem__(self, name: str) -> Entry | sp.Symbol:
        """A field, datum or parameter of the action by its name."""
        pool: list[Any] = [*self.fields, *entries(self.expr), *self.expr.free_symbols]
        pool += [entry for quantity in self.quantities.values() for entry in entries(quantity)]
        for candidate in pool:
            if getattr(candidate, "name", None) == name:
                return candidate
        raise UnknownName("name", name, {str(getattr(c, "name", c)) for c in pool})

    def space(self, name: str) -> Space:
        """A space of the action by its name."""
        found = {space.name: space for space in self.expr.atoms(Space)}
        if name not in found:
            raise UnknownName("space", name, found)
        return found[name]

    def rename(self, names: Mapping[str, str]) -> Action:
        """The same action with fields, spaces and symbols renamed; its history is left behind."""
        value = self.value.rename(names)
        return Action(value.expr, value.fields, definitions=value.definitions, large=self.large)

    # ---------------------------------------------------------------------------------------------- rules

    def _after(self, step: Step) -> Action:
        return Action(step.after.expr, step.after.fields, large=self.large, definitions=step.after.definitions,
                      quantities=self.quantities, steps=(*self.steps, step))

    def _field(self, field: Field | str) -> Field:
        return self.value.find(field) if isinstance(field, str) else field

    def observe(self, quantity: Quantity, *, start: int = 0) -> sp.Expr:
        """A quantity of the original fields (those before step ``start``) as an observable of the fields left."""
        if isinstance(quantity, str):
            if quantity not in self.quantities:
                raise UnknownName("quantity", quantity, self.quantities)
            quantity = self.quantities[quantity]
        for step in self.steps[start:]:
            quantity = tidy(step.push(quantity))
        return quantity

    def integrate_out(self, field: Field | str) -> Action:
        """Integrate a Gaussian field out, exactly (:func:`fieldtheory.symbolic.rules.integrate_out`)."""
        return self._after(rules.integrate_out(self.value, self._field(field)))

    def introduce(self, name: str, quantity: Quantity, *, conjugate: str, domain: str = "real") -> Action:
        """Name a quantity and impose the name by an imaginary conjugate field (:func:`rules.introduce`)."""
        definition = self.observe(quantity) if isinstance(quantity, str) else quantity
        spaces = sorted(open_spaces(definition), key=lambda space: space.name)
        return self._after(rules.introduce(self.value, Entry(name, domain, spaces), definition,
                                           Entry(conjugate, "imaginary", spaces)))

    conjugate = introduce

    def integrate_conjugate(self, field: Field | str) -> Action:
        """Integrate the conjugate of a sum of squares out (:func:`rules.integrate_conjugate`)."""
        return self._after(rules.integrate_conjugate(self.value, self._field(field)))  # type: ignore[arg-type]

    def change_variable(self, old: Field | str, new: str, function: Callable[[sp.Expr], sp.Expr]) -> Action:
        """Change a scalar field, old = function(new), with its Jacobian (:func:`rules.change_variable`)."""
        entry = Entry(new, "real")
        return self._after(rules.change_variable(self.value, self._field(old), entry, function(entry)))  # type: ignore[arg-type]

    def logarithm(self, field: Field | str, name: str) -> Action:
        """Change a positive scalar field to its logarithm: the measure dQ/Q is flat in u = ln Q."""
        return self.change_variable(field, name, sp.exp)

    def diagonalise(self, matrix: str, *, modes: str, spectrum: str, variance: sp.Expr,
                    projections: Mapping[str, str] | None = None) -> Action:
        """Rotate the rows of a data matrix into the eigenbasis of K = variance · X Xᵀ (:func:`rules.diagonalise`).

        ``projections`` names X' Xᵀ U for other matrices with the same columns, such as test inputs.
        """
        X = self[matrix]
        rows = X.spaces[0]  # type: ignore[union-attr]
        space = Space(modes, rows.size)
        eigenvalues = Entry(spectrum, "spectrum", (space,))
        gram = Entry(f"{spectrum}_{matrix}", "spectrum", (space,))
        named = {self[key]: Entry(name, "data", (self[key].spaces[0], space))  # type: ignore[union-attr]
                 for key, name in (projections or {}).items()}
        step = rules.diagonalise(self.value, X, rows, space, spectrum=eigenvalues,  # type: ignore[arg-type]
                                 scale=1 / variance, projections=named, definition=variance * gram)
        return self._after(step)

    def factorise(self, space: str) -> Action:
        """Independent sites as the N-th power of one site's integral (:func:`rules.factorise`)."""
        return self._after(rules.factorise(self.value, self.space(space)))

    def integrate_site(self, field: Entry | str) -> Action:
        """Integrate a Gaussian field out inside a one-site integral (:func:`rules.integrate_site`)."""
        inside = {e.name: e for node in self.expr.atoms(rules.LogIntegral) for e in node.fields}
        name = field if isinstance(field, str) else field.name
        if name not in inside:
            raise UnknownName("field", name, inside)
        return self._after(rules.integrate_site(self.value, inside[name]))

    def leading_order(self, large: str) -> Action:
        """Keep the leading order in 1/N with everything else fixed (:func:`rules.leading_order`)."""
        return self._after(rules.leading_order(self.value, self[large]))  # type: ignore[arg-type]

    # ------------------------------------------------------------------------------------------- geometry

    def gradient(self, field: Field | str) -> sp.Expr:
        return vary(self.expr, self._field(field))

    def hessian(self, field: Field | str) -> Form:
        return hessian(self.expr, self._field(field))

    def conjugate_to(self, name: str, quantity: sp.Expr) -> OrderParameter:
        """The variable conjugate to a sum, as its name (:func:`fieldtheory.symbolic.saddle.conjugate_to`)."""
        return conjugate_to(self.expr, name, quantity)

    def collectivise(self, field: Field | str, *names: str) -> tuple[OrderParameter, ...]:
        """Name every sum of a field that enters non-linearly, each by the variable conjugate to half of it.

        Raises
        ------
        BadInput
            If there are not as many such sums as names; the message lists the sums.
        """
        field = self._field(field)
        found = [total for total in sums(self.expr) if depends_on(total, field)
                 and depends_on(pointwise_diff(self.expr, total), total)]
        if len(found) != len(names):
            raise BadInput("names", ", ".join(names) or "none",
                           f"one for each of {', '.join(map(str, found)) or 'no sums'}")
        ordered = sorted(found, key=structure_key)
        return tuple(self.conjugate_to(name, total / 2) for name, total in zip(names, ordered, strict=True))

    def close(self, loops: int = 0, *, parameters: tuple[OrderParameter, ...] = ()) -> Closure:
        """Close the action in the way that the fields left allow (:func:`fieldtheory.symbolic.closures.close`).

        After a change of variables the unknown is printed and solved in the old variable.
        """
        coordinate = None
        last = self.steps[-1] if self.steps else None
        if last is not None and last.rule == "change_variable":
            ((old, expression),) = last.substitution.items()
            symbol = sp.Symbol(old.name, positive=old.domain == "positive", real=True)  # type: ignore[attr-defined]
            unknown = sp.Dummy(real=True)
            (inverse,) = sp.solve(expression.xreplace({self.fields[0]: unknown}) - symbol, unknown)
            coordinate = (symbol, inverse)
        return close(self.value, loops, parameters=parameters, coordinate=coordinate)

    # -------------------------------------------------------------------- expansions of one scalar field

    def _scalar(self) -> Field:
        field = self.fields[0] if len(self.fields) == 1 else None
        if field is None or (isinstance(field, Entry) and field.spaces):
            raise RuleError("loop expansions are for an action of one scalar field; reduce it first")
        return field

    def saddle_points(self) -> tuple[dict[str, Any], ...]:
        """All real solutions of S' = 0 that SymPy finds: value, action, hessian and stability of each."""
        field = self._scalar()
        unknown = sp.Dummy("x", real=True)
        found = []
        for root in sp.solve(sp.diff(self.expr.xreplace({field: unknown}), unknown), unknown):
            if root.is_real is False:
                continue
            at = {field: root}
            curvature = sp.simplify(vary(vary(self.expr, field), field).xreplace(at))
            stability = "stable" if curvature.is_positive else "unstable" if curvature.is_negative else (
                "degenerate" if curvature.is_zero else "depends on the parameters")
            found.append({"value": root, "action": sp.simplify(self.expr.xreplace(at)), "hessian": curvature,
                          "stability": stability})
        return tuple(sorted(found, key=lambda s: sp.default_sort_key(s["value"])))

    def _saddle(self, at: Any | None) -> sp.Expr:
        if at is not None:
            return sp.sympify(at)
        stable = [s for s in self.saddle_points() if s["stability"] in ("stable", "depends on the parameters")]
        if not stable:
            raise RuleError("no real saddle point with positive curvature was found; give one as at=...")
        best = stable[0]
        for other in stable[1:]:
            difference = sp.simplify(other["action"] - best["action"])
            if difference.is_negative:
                best = other
            elif not difference.is_nonnegative:
                raise RuleError("which saddle point dominates depends on the parameters; choose one by at=...")
        return best["value"]

    def _series(self, terms: Mapping[int, sp.Expr], at: sp.Expr, remainder: int) -> Series:
        field = self._scalar()
        low = min(terms)
        parameter = 1 / self.large if self.large is not None else sp.Symbol("hbar", positive=True)
        coefficients = []
        for order in range(low, remainder):
            value = terms.get(order, sp.S.Zero).xreplace({field: at})
            if self.large is not None:
                value = sp.expand(sp.expand_log(sp.simplify(value * self.large**order)))
                if value.has(self.large):
                    raise BadInput("large", self.large, "a parameter that multiplies the whole action")
            coefficients.append(value)
        return Series(tuple(coefficients), parameter, low, remainder)

    def log_partition(self, loops: int, *, at: Any | None = None) -> Series:
        """ln Z relative to the Gaussian at the saddle, as a series through ``loops`` loops (ħ^{loops-1}).

        The Gaussian, -S(x*) - ½ ln(S''/2π), is left out; its own exponent of N is that of ``saddle_points``.
        """
        if not isinstance(loops, int) or loops < 0:
            raise BadInput("loops", loops, "an integer that is zero or more")
        expansion = ScalarExpansion.of(self.expr, self._scalar(), max(loops - 1, 0))
        terms = {k: v for k, v in expansion.log_partition().items() if k >= 1}
        return self._series(terms or {1: sp.S.Zero}, self._saddle(at), max(loops, 1))

    def expectation(self, observable: Any, loops: int, *, at: Any | None = None) -> Series:
        """⟨O⟩ to L loops, a series in 1/N with remainder N^-(L+1)."""
        expansion = ScalarExpansion.of(self.expr, self._scalar(), loops)
        return self._series(expansion.expectation(sp.sympify(observable)), self._saddle(at), loops + 1)

    def cumulant(self, *observables: Any, loops: int, at: Any | None = None) -> Series:
        """The connected correlation of n observables to L loops, a series with remainder N^-(n+L)."""
        return _connected([sp.sympify(o) for o in observables],
                          lambda o: self.expectation(o, loops + len(observables) - 1, at=at))

    def saddle(self, name: str | None = None) -> Any:
        """The equation of state of the one scalar field that is left."""
        field = self._scalar()
        return scalar_saddle(self.expr, field, name or str(getattr(field, "name", field)))  # type: ignore[arg-type]


def _connected(observables: list[sp.Expr], average: Callable[[sp.Expr], Series]) -> Series:
    """κ(O_1…O_n) = ⟨O_1…O_n⟩ - Σ over the blocks that hold O_1 of κ(block) ⟨rest⟩."""
    from itertools import combinations
    first, rest = observables[0], observables[1:]
    total = average(sp.Mul(*observables))
    for size in range(len(rest)):
        for chosen in combinations(range(len(rest)), size):
            block = [first, *(rest[i] for i in chosen)]
            left = sp.Mul(*(rest[i] for i in range(len(rest)) if i not in chosen))
            total = total - _connected(block, average) * average(left)
    return total.map(sp.expand)


def microscopic_action(network: Network) -> Action:
    r"""The action of f(x) = Σ_i a_i φ(w_i·x) with its priors and its likelihood, all constants included:

    S = Σ_i [N a_i²/2g + ½ ln(2πg/N)] + Σ_id [D w_id²/2σ_w² + ½ ln(2πσ_w²/D)] + Σ_μ [(y_μ-f_μ)²/2s + ½ ln 2πs].

    Parameters stay symbols; ``definitions`` hold g = σ_a² N^{1-γ} and s = s_0 N^{-δ}, with γ and δ numbers where
    the scaling has them.  Quantities: ``output``, ``test_output``, ``probed_output`` (v·f) and its square,
    ``hidden_kernel`` (Σ_i (v·h_i)²/N), ``readout_norm`` (Σ a_i²), ``discrepancy_along_target``.
    """
    N, D, P, P_test = (sp.Symbol(name, positive=True) for name in ("N", "D", "P", "P_*"))
    g, s = sp.Symbol("g", positive=True), sp.Symbol("s", positive=True)
    sigma_a2, sigma_w2, s_0 = (sp.Symbol(name, positive=True) for name in HYPERPARAMETERS.values())
    site, inputs, sample, test = Space("site", N), Space("input", D), Space("sample", P), Space("test", P_test)
    a, w = Entry("a", "real", (site,)), Entry("w", "real", (site, inputs))
    X, X_test = Entry("X", "data", (sample, inputs)), Entry("X_*", "data", (test, inputs))
    y, v = Entry("y", "data", (sample,)), Entry("v", "data", (sample,))
    phi = _activation(network.activation)
    hidden = SpaceSum(X * w, inputs)
    output = SpaceSum(a * phi(hidden), site)
    expr = (SpaceSum(N * a**2 / (2 * g) + sp.log(2 * sp.pi * g / N) / 2, site)
            + sum_over(D * w**2 / (2 * sigma_w2) + sp.log(2 * sp.pi * sigma_w2 / D) / 2, (inputs, site))
            + SpaceSum((y - output)**2 / (2 * s) + sp.log(2 * sp.pi * s) / 2, sample))
    gamma, delta = (sp.Symbol(name, real=True) if value is None else sp.nsimplify(value)
                    for name, value in (("gamma", network.scaling.readout), ("delta", network.scaling.noise)))
    quantities = {
        "output": output,
        "test_output": SpaceSum(a * phi(SpaceSum(X_test * w, inputs)), site),
        "probed_output": SpaceSum(v * output, sample),
        "probed_output_squared": SpaceSum(v * output, sample)**2,
        "hidden_kernel": SpaceSum(SpaceSum(v * hidden, sample)**2, site) / N,
        "readout_norm": SpaceSum(a**2, site),
        "discrepancy_along_target": SpaceSum(y * (y - output), sample) / SpaceSum(y**2, sample),
    }
    return Action(tidy(expr), (a, w), definitions={g: sigma_a2 * N**(1 - gamma), s: s_0 * N**(-delta)},
                  quantities=quantities)


HYPERPARAMETERS = {"readout_variance": "sigma_a^2", "weight_variance": "sigma_w^2", "noise_variance": "s_0"}
"""The symbols that stand for a network's hyperparameters."""


def _activation(activation: Any) -> Callable[[sp.Expr], sp.Expr]:
    if isinstance(activation, str):
        return ACTIVATIONS[activation]
    if not isinstance(activation, sp.Expr) or len(activation.free_symbols) != 1:
        raise BadInput("activation", activation, "a name, or a SymPy expression in one symbol")
    (symbol,) = activation.free_symbols
    return lambda h: activation.xreplace({symbol: h})


__all__ = ["HYPERPARAMETERS", "Action", "microscopic_action"]
