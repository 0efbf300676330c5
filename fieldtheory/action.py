"""Actions as users hold them: an expression, its fields, the rules as methods, and the steps that led to it.

The front door to :mod:`fieldtheory.symbolic`; every method returns a new object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import sympy as sp

from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.expandable import Expandable
from fieldtheory.manysamples import ManySamples
from fieldtheory.symbolic import cavity, cavityfluctuation, hyperpriors, rotation, rules, sites, treelevel
from fieldtheory.symbolic import features as feature_rules
from fieldtheory.symbolic import populations as populations_rule
from fieldtheory.symbolic.closures import Closure, close
from fieldtheory.symbolic.collective import split
from fieldtheory.symbolic.fields import (
    Entry,
    Space,
    SpaceSum,
    depends_on,
    entries,
    open_spaces,
    pointwise_diff,
    rename,
    structure_key,
    sums,
    tidy,
    vary,
)
from fieldtheory.symbolic.forms import Form, hessian
from fieldtheory.symbolic.printing import latex
from fieldtheory.symbolic.rules import FieldAction, Step
from fieldtheory.symbolic.saddle import OrderParameter, conjugate_to
from fieldtheory.symbolic.siteclosure import SINGLED_OUT, SiteClosure

if TYPE_CHECKING:
    from fieldtheory.derivation import Derivation, VerificationReport

Field: TypeAlias = sp.Expr
Quantity: TypeAlias = sp.Expr | str


class Action(Expandable, ManySamples):
    """S[fields], minus the log of an unnormalised density.

    Parameters
    ----------
    expr : a closed SymPy expression in symbols, entries and sums over spaces.
    fields : the symbols or entries integrated over (flat measure; dφ/2πi on an imaginary contour).
    large : the large parameter N of a loop expansion, where S is N times a function of order one.
    definitions : what parameters stand for (g = σ_a² N^{1-γ}), for counting and for numbers.
    quantities : named observables of the fields, carried along by every rule.
    width : the symbol of a network's width, whose powers are counted.

    Raises
    ------
    BadInput
        If the expression is open in some space, or does not depend on a field.
    """

    def __init__(self, expr: Any, fields: Iterable[Field], *, large: sp.Symbol | None = None,
                 definitions: Mapping[sp.Expr, sp.Expr] | None = None,
                 quantities: Mapping[str, sp.Expr] | None = None, width: sp.Symbol | None = None,
                 steps: tuple[Step, ...] = ()) -> None:
        given: Any = fields
        fields = tuple(fields) if isinstance(fields, Iterable) and not isinstance(fields, str) else (fields,)
        for field in fields:
            if not isinstance(field, sp.Symbol | Entry) or fields.count(field) > 1 or isinstance(given, sp.Basic):
                raise BadInput("fields", given, "a list of different fields, each a Symbol or an Entry")
        self.value = FieldAction(sp.sympify(expr), fields, dict(definitions or {}))
        self.large = large
        self.width = width
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
        pool += [entry for step in self.steps for entry in step.details.get("projections", sp.Dict()).values()]
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
        """The same action with fields, spaces and symbols renamed.

        Its history is left behind: quantities become observables of the fields left, but those that the steps cannot
        average are left behind too.

        Raises
        ------
        BadInput
            If two things would then share a name.
        """
        quantities: dict[str, sp.Expr] = {}
        for name in self.quantities:
            try:
                quantities[name] = self.observe(name)
            except RuleError:
                continue
        rules.check_distinct(names, self._names(quantities))
        value = self.value.rename(names)
        return Action(value.expr, value.fields, definitions=value.definitions,
                      large=None if self.large is None else rename(self.large, names),
                      width=None if self.width is None else rename(self.width, names),
                      quantities={name: rename(quantity, names) for name, quantity in quantities.items()})

    def _names(self, quantities: Mapping[str, sp.Expr] | None = None) -> set[str]:
        """Every name in use: of fields, data, spaces, parameters and what they stand for."""
        more = (self.quantities if quantities is None else quantities).values()
        return rules.names_in(self.expr, *self.fields, *self.definitions, *self.definitions.values(), *more)

    def _check_fresh(self, argument: str, *names: str) -> None:
        used = self._names()
        for name in names:
            if name in used:
                raise BadInput(argument, name, "a name that is not in use")
            used.add(name)

    # ---------------------------------------------------------------------------------------------- rules

    def _after(self, step: Step) -> Action:
        return Action(step.after.expr, step.after.fields, large=self.large, definitions=step.after.definitions,
                      quantities=self.quantities, width=self.width, steps=(*self.steps, step))

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
        step = rules.integrate_out(self.value, self._field(field))
        self._check_namings(step)
        return self._after(step)

    def _check_namings(self, step: Step) -> None:
        """Refuse an average that brings back a quantity which has a name: the name would no longer stand for it."""
        (gone,) = step.removed
        for naming in self.steps:
            node = naming.details["definition"].as_coeff_Mul()[1] if naming.rule == "introduce" else sp.S.One
            fields = [entry for entry in node.atoms(Entry) if not entry.is_data]
            if not fields or any(entry not in step.after.fields for entry in fields):
                continue
            for name in self.quantities:
                try:
                    found = tidy(step.push(self.observe(name)))
                except RuleError:
                    continue
                if found.has(node):
                    raise RuleError(f"the average of {name} over {gone} holds {node}, which is named {naming.added[0]} "
                                    f"already: integrate {gone} out first, and introduce {naming.added[0]} then")

    def introduce(self, name: str, quantity: Quantity, *, conjugate: str, domain: str = "real") -> Action:
        """Name a quantity and impose the name by an imaginary conjugate field (:func:`rules.introduce`)."""
        definition = self.observe(quantity) if isinstance(quantity, str) else quantity
        self._check_fresh("name", name)
        self._check_fresh("conjugate", conjugate)
        spaces = sorted(open_spaces(definition), key=lambda space: space.name)
        return self._after(rules.introduce(self.value, Entry(name, domain, spaces), definition,
                                           Entry(conjugate, "imaginary", spaces)))

    conjugate = introduce

    def integrate_conjugate(self, field: Field | str) -> Action:
        """Integrate the conjugate of a sum of squares out (:func:`rules.integrate_conjugate`)."""
        return self._after(rules.integrate_conjugate(self.value, self._field(field)))  # type: ignore[arg-type]

    def change_variable(self, old: Field | str, new: str, function: Callable[[sp.Expr], sp.Expr]) -> Action:
        """Change a scalar field, old = function(new), with its Jacobian (:func:`rules.change_variable`)."""
        self._check_fresh("new", new)
        entry = Entry(new, "real")
        return self._after(rules.change_variable(self.value, self._field(old), entry, function(entry)))  # type: ignore[arg-type]

    def logarithm(self, field: Field | str, name: str) -> Action:
        """Change a positive scalar field to its logarithm: the measure dQ/Q is flat in u = ln Q."""
        return self.change_variable(field, name, sp.exp)

    def diagonalise(self, matrix: str, *, modes: str, spectrum: str, variance: sp.Expr,
                    projections: Mapping[str, str] | None = None) -> Action:
        """Rotate the rows of a data matrix into the eigenbasis of K = variance · X Xᵀ (:func:`rotation.diagonalise`).

        ``projections`` names X' Xᵀ U for other matrices with the same columns, such as test inputs.
        """
        self._check_fresh("names", modes, spectrum, *(projections or {}).values())
        X = self[matrix]
        rows = X.spaces[0]  # type: ignore[union-attr]
        space = Space(modes, rows.size)
        eigenvalues = Entry(spectrum, "spectrum", (space,))
        gram = Entry(f"{spectrum}_{matrix}", "spectrum", (space,))
        named = {self[key]: Entry(name, "data", (self[key].spaces[0], space))  # type: ignore[union-attr]
                 for key, name in (projections or {}).items()}
        step = rotation.diagonalise(self.value, X, rows, space, spectrum=eigenvalues,  # type: ignore[arg-type]
                                 scale=1 / variance, projections=named, definition=variance * gram)
        return self._after(step)

    def gaussian_features(self, weights: Field | str, *, features: str = "F", latent: str = "z",
                          projections: Mapping[str, str] | None = None) -> Action:
        """Replace the features of a hidden layer by Gaussian ones (:func:`.symbolic.features.gaussian_features`).

        ``projections`` names the features at other data, such as test inputs.  Quantities that hold the hidden
        weights in another way have no law any more, and are left behind.
        """
        self._check_fresh("names", features, latent, *(projections or {}).values())
        named = {self[key]: name for key, name in (projections or {}).items()}
        step = feature_rules.gaussian_features(self.value, self._field(weights), features=features, latent=latent,  # type: ignore[arg-type]
                                 projections=named)  # type: ignore[arg-type]
        return self._after(step)._with_known_quantities()

    def _with_known_quantities(self) -> Action:
        """Without the quantities that an approximate step has no average for."""
        for name in tuple(self.quantities):
            try:
                self.observe(name)
            except RuleError:
                del self.quantities[name]
        return self

    def hyperprior(self, field: Field | str, name: str) -> Action:
        """The best law of a shared positive field, averaged over (:func:`.symbolic.hyperpriors.hyperprior`).

        ``name`` is that of the order parameter: the average of what the field multiplies.  Quantities that are not
        linear in the field, or in the power of it that the action holds, are left behind.
        """
        self._check_fresh("name", name)
        return self._after(hyperpriors.hyperprior(self.value, self._field(field), name))._with_known_quantities()  # type: ignore[arg-type]

    def split(self, space: str, **populations: str) -> Action:
        """The sites of a space in populations of their own (:func:`.symbolic.populations.split`).

        ``split("site", first="1", second="2")``: spaces by name, and the ending of what lives on them.
        """
        return self._after(populations_rule.split(self.value, self.space(space), populations))

    def decouple(self, space: str, *names: str, others: Mapping[str, Sequence[str]] | None = None,
                 projections: Mapping[str, str] | None = None) -> Action:
        """The best law of independent, identical sites, as the action of one (:func:`.symbolic.sites.decouple`).

        ``names`` are those of the order parameters, N times the average of what the sites are coupled through;
        ``others`` the same by space, for populations that stay aside; ``projections`` what the order parameter is at
        other data.  Quantities that need other averages are left behind.
        """
        aside = {self.space(other): tuple(called) for other, called in (others or {}).items()}
        data: Any = {self[key]: name for key, name in (projections or {}).items()}
        self._check_fresh("names", *names, *(name for called in aside.values() for name in called), *data.values())
        step = sites.decouple(self.value, self.space(space), names, others=aside, projections=data)
        return self._after(step)._with_known_quantities()

    def cavity(self, space: str, shared: Field | str, *, spectrum: str = "kappa", basis: str = "V", modes: str = "mode",
               projections: Mapping[str, str] | None = None) -> Action:
        """One site, with the mean of the others' quadratic form in a shared field (:func:`.symbolic.cavity.cavity`).

        ``spectrum`` and ``basis`` name its eigenvalues and eigenvectors, ``projections`` its rows at other data (test
        inputs) in that basis.  Quantities that are not linear in the shared field are left behind.
        """
        self._check_fresh("names", spectrum, basis, modes, *(projections or {}).values())
        field: Any = self._field(shared)
        data: Any = {self[key]: name for key, name in (projections or {}).items()}
        step = cavity.cavity(self.value, self.space(space), field, spectrum=spectrum, basis=basis, modes=modes,
                            projections=data)
        return self._after(step)._with_known_quantities()

    def site_saddle(self, space: str, shared: Field | str, name: str) -> Action:
        """Sites that are independent given a shared conjugate field, and that field at its saddle, called ``name``.

        See :func:`.symbolic.treelevel.site_saddle`.  Quantities that it has no average for are left behind.
        """
        self._check_fresh("name", name)
        step = treelevel.site_saddle(self.value, self.space(space), self._field(shared), name)  # type: ignore[arg-type]
        return self._after(step)._with_known_quantities()

    def fluctuation(self, *, resolvent: str = "mean", loops: int = 0) -> Action:
        """What the last cavity left out, the fluctuation of the others' form (:func:`.symbolic.cavityfluctuation`).

        ``resolvent`` is the medium that stands for the others, ``mean`` or ``self-consistent``; with one loop pairs of
        sites enter the law of one.  Before the shared field is integrated out; with one loop, quantities that are not
        linear in it are left behind.

        Raises
        ------
        RuleError
            If the last step is no cavity.
        """
        last = self.steps[-1] if self.steps else None
        if last is None or last.rule != "cavity":
            raise RuleError("the last step is no cavity, whose fluctuation could be put back")
        seen = {name: self.observe(name) for name in self.quantities} if loops else {}
        step = cavityfluctuation.fluctuation(self.value, last, seen, resolvent=resolvent, loops=loops)
        cut = replace(last, remainder=cavityfluctuation.TRIPLES if loops else cavityfluctuation.PAIRS)
        corrected = self._after(step)
        corrected.steps = (*self.steps[:-1], cut, step)
        clusters = {str(name) for name in step.details["observables"]}  # type: ignore[attr-defined]
        for name, expr in seen.items():
            if depends_on(expr, last.details["single"]) and name not in clusters:
                del corrected.quantities[name]
        return corrected

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
        self._check_fresh("name", name)
        return conjugate_to(self.expr, name, quantity)

    def collectivise(self, field: Field | str, *names: str) -> tuple[OrderParameter, ...]:
        """Name every sum of a field that enters non-linearly, each by the variable conjugate to half of it.

        The names are positive where the contour says so (:func:`fieldtheory.symbolic.saddle.conjugate_to`).

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
        single = [k for k, step in enumerate(self.steps) if step.rule in SINGLED_OUT]
        if single:
            shared = [k for k, step in enumerate(self.steps) if step.rule == "hyperprior"]
            return SiteClosure(self.value, loops, self.steps[min(single[-1:] + shared):])
        coordinate = None
        changed = next((step for step in reversed(self.steps) if step.rule == "change_variable"), None)
        if changed is not None and set(changed.after.fields) == set(self.fields):
            ((old, expression),) = changed.substitution.items()
            symbol = sp.Symbol(old.name, positive=old.domain == "positive", real=True)  # type: ignore[attr-defined]
            unknown = sp.Dummy(real=True)
            (inverse,) = sp.solve(expression.xreplace({self.fields[0]: unknown}) - symbol, unknown)
            coordinate = (symbol, inverse)
        return close(self.value, loops, parameters=parameters, coordinate=coordinate)

    def _sums(self, field: Entry) -> tuple[SpaceSum, ...]:
        """The sums of a field that enter non-linearly."""
        return split(self.expr, field).totals

    def _fresh(self, stem: str, count: int) -> tuple[str, ...]:
        """Names that are not in use: the stem, or the stem with numbers."""
        used = self._names()
        names = [stem] if count == 1 else [f"{stem}_{k + 1}" for k in range(count)]
        while used.intersection(names):
            names = [f"{name}'" for name in names]
        return tuple(names)

    def _named(self, field: Entry) -> tuple[OrderParameter, ...]:
        return self.collectivise(field, *self._fresh("q", len(self._sums(field))))

    def _closed(self, field: Entry, parameters: tuple[OrderParameter, ...] | None) -> Closure:
        return self.close(0, parameters=self._named(field) if parameters is None else parameters)

    def auxiliary(self, field: Field | str | None = None) -> Action:
        """Name every sum of a field that enters non-linearly, impose the names, and integrate the field out.

        S = Φ(M₁, …, M_R) + Σ_k l(φ_k) becomes Φ(M) + h·M minus the log of independent Gaussian integrals, one for each
        point of the space: an action of 2R numbers, whose saddle sums the chains of bubbles and everything else that is
        tree-like in M, to all orders in Φ.  Exact: the steps are `introduce` and `integrate_out`.

        Raises
        ------
        RuleError, NotGaussian
            If the action couples the points in another way, if nothing couples them, or if the field is not Gaussian
            once the sums have names.
        """
        if field is None:
            field = self._extended or self.fields[0]
        entry = self._field(field)
        totals = split(self.expr, entry).totals  # type: ignore[arg-type]
        if not totals:
            raise RuleError(f"no sum of {entry} enters non-linearly: its points are independent, with nothing to name")
        action = self
        names, conjugates = self._fresh("M", len(totals)), self._fresh("h", len(totals))
        for total, name, conjugate in zip(totals, names, conjugates):
            action = action.introduce(name, total, conjugate=conjugate)
        return action.integrate_out(entry)

    def derivation(self, loops: int, *quantities: Any, at: Any | None = None) -> Derivation:
        """The steps that led here and the loop expansion, as a derivation that prints and verifies itself.

        ``quantities`` are observables, tuples of them for joint cumulants, "ln Z" and "Gamma"; without any: ln Z, two
        means, a third and a fourth cumulant, and for one or two fields the effective action.

        Its last step is checked at random numbers for the parameters: the error of the L-loop result at three values
        of the large parameter, times the right power of it, must approach the next coefficient
        (:mod:`fieldtheory.next_coefficient`).
        """
        from fieldtheory.next_coefficient import expansion_derivation

        return expansion_derivation(self, loops, quantities or None, at)  # type: ignore[no-any-return]

    def verify(self, loops: int, *quantities: Any, seed: int = 0, at: Any | None = None) -> VerificationReport:
        """Check the steps and the L-loop expansion numerically: ``derivation(loops, ...).verify(seed)``."""
        return self.derivation(loops, *quantities, at=at).verify(seed)


__all__ = ["Action"]
