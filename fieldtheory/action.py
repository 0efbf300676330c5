"""Actions as users hold them: an expression, its fields, the rules as methods, and the steps that led to it.

The front door to :mod:`fieldtheory.symbolic`; every method returns a new object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any, TypeAlias

import sympy as sp

from fieldtheory.errors import BadInput, RuleError, UnknownName
from fieldtheory.symbolic import expansion, rotation, rules, saddles, structured
from fieldtheory.symbolic.closures import Closure, close
from fieldtheory.symbolic.diagrams import Diagrams, diagrams
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
from fieldtheory.symbolic.loops import hbar
from fieldtheory.symbolic.printing import latex
from fieldtheory.symbolic.rules import FieldAction, Step
from fieldtheory.symbolic.saddle import OrderParameter, conjugate_to
from fieldtheory.symbolic.saddles import SaddlePoint
from fieldtheory.symbolic.series import Series

Field: TypeAlias = sp.Expr
Quantity: TypeAlias = sp.Expr | str



class Action:
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
        coordinate = None
        last = self.steps[-1] if self.steps else None
        if last is not None and last.rule == "change_variable":
            ((old, expression),) = last.substitution.items()
            symbol = sp.Symbol(old.name, positive=old.domain == "positive", real=True)  # type: ignore[attr-defined]
            unknown = sp.Dummy(real=True)
            (inverse,) = sp.solve(expression.xreplace({self.fields[0]: unknown}) - symbol, unknown)
            coordinate = (symbol, inverse)
        return close(self.value, loops, parameters=parameters, coordinate=coordinate)

    # ----------------------------------------------------------------------------------------- expansions

    def saddle_points(self, *, complex: bool = False) -> tuple[SaddlePoint, ...]:
        """All saddle points, each with its Hessian and stability (:func:`.symbolic.saddles.saddle_points`)."""
        return saddles.saddle_points(self.expr, self.fields, large=self.large, complex=complex)

    def _saddle(self, at: Any | None, every: bool = False, *, single: bool = False) -> Any:
        """``at``, or the dominant saddle; with ``single``, refuse to pick one of several equivalent ones."""
        if at is not None:
            return at
        points = self.saddle_points()
        equivalent = saddles.equivalent(points, saddles.dominant(points, self.large), self.large)
        if single and not every and len(equivalent) > 1:
            raise RuleError(f"{len(equivalent)} saddle points are equivalent ({'; '.join(map(str, equivalent))}): "
                            "choose one (at=...) or sum them (all=True)")
        return equivalent if every else equivalent[0]

    @property
    def _extended(self) -> Entry | None:
        """The field over a space, where the action is of one."""
        field = self.fields[0] if len(self.fields) == 1 else None
        return field if isinstance(field, Entry) and field.spaces else None

    def _formal(self, terms: Mapping[int, sp.Expr], low: int, remainder: int) -> Series:
        return Series(tuple(terms.get(k, sp.S.Zero) for k in range(low, remainder)), hbar, low, remainder)

    def log_partition(self, loops: int, *, at: Any | None = None, all: bool = False) -> Series:
        """ln Z relative to the Gaussian at the saddle, through ``loops`` loops: remainder N^-loops.

        The saddle is the dominant one, or ``at``; with ``all`` every equivalent one is summed (its ln 2 included).
        For one field over a space of symbolic size, a formal series in ħ whose terms are functionals of the field at
        its saddle (at=0 expands about zero).

        Raises
        ------
        BadInput, RuleError
            For an action that is not bounded below, not analytic or degenerate there; the message says where.
        """
        field = self._extended
        if field is None:
            return expansion.log_partition(self.expr, self.fields, self._saddle(at, all), loops, self.large)
        terms = structured.log_partition_terms(self.expr, field, loops, at=_symbolic(at))
        return self._formal(terms, 1, max(loops, 1))

    def expectation(self, observable: Any, loops: int, *, at: Any | None = None, all: bool = False) -> Series:
        """⟨O⟩ to L loops: remainder N^-(L+1)."""
        field = self._extended
        if field is None:
            saddle = self._saddle(at, all, single=True)
            return expansion.expectation(self.expr, self.fields, saddle, observable, loops, self.large)
        terms = structured.expectation_terms(self.expr, field, sp.sympify(observable), loops, at=_symbolic(at))
        return self._formal(terms, 0, loops + 1)

    def cumulant(self, *observables: Any, loops: int, at: Any | None = None, all: bool = False) -> Series:
        """The connected correlation of n observables to L loops: remainder N^-(n+L)."""
        saddle = self._saddle(at, all, single=True)
        return expansion.cumulant(self.expr, self.fields, saddle, observables, loops, self.large)

    def effective_action(self, loops: int) -> Series:
        """The 1PI effective action Γ in the classical field, to L loops."""
        field = self._extended
        if field is None:
            return expansion.effective_action(self.expr, self.fields, loops, self.large)
        return self._formal(structured.effective_action_terms(self.expr, field, loops), 0, loops + 1)

    def diagrams(self, loops: int, *, kind: str = "connected", legs: Iterable[Any] = (),
                 at: Any | None = None) -> Diagrams:
        """The Feynman diagrams with exactly that many loops, each with symmetry factor, weight and powers.

        ``kind="1pi"`` keeps those that no single cut disconnects; ``legs`` are the fields at external points.  For an
        O(n) vector, a field over a space, the expansion is about zero and n stays a symbol.
        """
        legs = tuple(legs)
        order = 2 * max(loops, 1) + len(legs)  # no vertex of a connected diagram has more lines
        field = self._extended
        if field is not None:
            return _vector_diagrams(self.expr, field, loops, order, kind, legs)
        point = self._saddle(at)
        if not isinstance(point, SaddlePoint):
            values = point if isinstance(point, Mapping) else dict(
                zip(self.fields, point if isinstance(point, Sequence) else [point], strict=True))
        else:
            values = point.values
        jets = _derivatives(self.expr, self.fields, values, order)
        vertices = {index: value for index, value in jets.items() if len(index) > 2 and value != 0}
        hessian = sp.Matrix(len(self.fields), len(self.fields),
                            lambda i, k: jets.get(tuple(self.fields[m] for m in sorted((i, k))), sp.S.Zero))
        if hessian.det() == 0:
            raise RuleError("the saddle point has a flat direction; diagrams have no propagator there")
        return diagrams(vertices, hessian.inv(), self.fields, loops, legs=legs, kind=kind)


def _symbolic(value: Any) -> sp.Expr | None:
    return None if value is None else sp.sympify(value)


def _derivatives(expr: sp.Expr, fields: Sequence[sp.Expr], values: Mapping[Any, Any],
                 order: int) -> dict[tuple[sp.Expr, ...], sp.Expr]:
    """Derivatives of order 2 … ``order`` at a point, by multiset of fields."""
    dummies = {f: sp.Dummy(str(f), real=True) for f in fields}
    at = {dummies[f]: sp.sympify(values[f]) for f in fields}
    level: dict[tuple[sp.Expr, ...], sp.Expr] = {(): expr.xreplace(dummies)}
    found: dict[tuple[sp.Expr, ...], sp.Expr] = {}
    for size in range(1, order + 1):
        level = {index: sp.diff(level[index[:-1]], dummies[index[-1]])
                 for index in combinations_with_replacement(fields, size) if level.get(index[:-1], 0) != 0}
        if size > 1:
            found |= {index: sp.expand(value.xreplace(at)) for index, value in level.items()}
    return found


def _vector_diagrams(expr: sp.Expr, field: Entry, loops: int, order: int, kind: str, legs: tuple[Any, ...]) -> Diagrams:
    """Diagrams of an O(n) vector about zero: vertices with all indices equal give the rest by symmetry."""
    single = sp.Symbol(field.name, real=True)

    def one_component(node: sp.Expr) -> sp.Expr:
        if isinstance(node, SpaceSum):
            return one_component(node.body)
        if node == field:
            return single
        return node.func(*map(one_component, node.args)) if node.args else node

    if len(field.spaces) != 1 or any(total.body.xreplace({field: sp.S.Zero}) != 0 for total in sums(expr)):
        raise RuleError(f"diagrams of {field.name} are for a vector over one space, about zero")
    jets = _derivatives(one_component(expr), (single,), {single: 0}, order)
    vertices = {index: value for index, value in jets.items() if len(index) > 2 and value != 0}
    components = {single: field.spaces[0].size}
    return diagrams(vertices, sp.Matrix([[1 / jets[single, single]]]), (single,), loops,
                    legs=tuple(single if leg == field else leg for leg in legs), kind=kind, components=components)


__all__ = ["Action"]
