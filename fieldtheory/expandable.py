"""What can be asked of an action by expanding it: saddle points, loops, diagrams, powers of N.

The half of :class:`fieldtheory.action.Action` that computes; the other half turns one action into another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations_with_replacement
from os import PathLike
from typing import Any, Literal, TypeAlias, overload

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic import correlations, expansion, saddles, structured
from fieldtheory.symbolic.closures import Closure
from fieldtheory.symbolic.contour import check_bounded
from fieldtheory.symbolic.diagrams import Diagrams, diagrams
from fieldtheory.symbolic.fields import Entry, SpaceSum, sums, vary
from fieldtheory.symbolic.loopcounting import LoopCounting, count_closure, count_field_loops, count_scalar_loops
from fieldtheory.symbolic.moments import check_loops
from fieldtheory.symbolic.saddle import OrderParameter
from fieldtheory.symbolic.saddles import SaddlePoint
from fieldtheory.symbolic.series import Series
from fieldtheory.symbolic.spatial import checked_action, checked_observable

Field: TypeAlias = sp.Expr


class Expandable:
    """An expression in fields, with a large parameter or none, and its expansions."""

    @property
    def expr(self) -> sp.Expr:
        """The action."""
        raise NotImplementedError

    @property
    def fields(self) -> tuple[Field, ...]:
        """What it is integrated over."""
        raise NotImplementedError

    large: sp.Symbol | None

    def saddle_points(self, *, complex: bool = False) -> tuple[SaddlePoint, ...]:
        """All saddle points, each with its Hessian and stability (:func:`.symbolic.saddles.saddle_points`)."""
        return saddles.saddle_points(self.expr, self.fields, large=self.large, complex=complex)

    def _saddle(self, at: Any | None, every: bool = False, *, single: bool = False) -> Any:
        """``at``, or the dominant saddle; with ``single``, refuse to pick one of several equivalent ones."""
        if at is not None:
            return at
        try:
            points = self.saddle_points()
            best = saddles.dominant(points, self.large)
        except RuleError:
            check_bounded(saddles.per_large(self.expr, self.large)[0], self.fields)  # the reason, where it is this
            raise
        equivalent = saddles.equivalent(points, best, self.large)
        if single and not every and len(equivalent) > 1:
            raise RuleError(f"{len(equivalent)} saddle points are equivalent ({'; '.join(map(str, equivalent))}): "
                            "choose one (at=...) or sum them (all=True)")
        return equivalent if every else equivalent[0]

    @property
    def _extended(self) -> Entry | None:
        """The field over a space, where the action is of one."""
        field = self.fields[0] if len(self.fields) == 1 else None
        return field if isinstance(field, Entry) and field.spaces else None

    def log_partition(self, loops: int, *, at: Any | None = None, all: bool = False, formal: bool = False) -> Series:
        """ln Z relative to the Gaussian at the saddle, through ``loops`` loops: remainder N^-loops.

        The saddle is the dominant one, or ``at``; with ``all`` every equivalent one is summed (its ln 2 included).
        For one field over a space of symbolic size the terms are functionals of the field at its saddle (at=0 expands
        about zero, where it has to be stationary).  With ``formal`` the action need not be bounded below: the series
        then stands for no integral on the real contour.  It counts loops, not what other parameters contribute: where
        a size or a parameter grows with N as well, `power_counting` says whether the order kept dominates.

        Raises
        ------
        BadInput, RuleError
            For an action that is not bounded below, not analytic or degenerate there; the message says where.
        """
        field = self._extended
        if field is None:
            saddle = self._saddle(at, all)
            return expansion.log_partition(self.expr, self.fields, saddle, loops, self.large, formal=formal)
        at = _symbolic(at)
        action, parameter = checked_action(self.expr, field, at, self.large, formal=formal)
        terms = structured.log_partition_terms(action, field, loops, at=at)
        return _gathered(terms, parameter, 1, max(loops, 1))

    def appendix(self, loops: int = 3, path: str | PathLike[str] | None = None, *, at: Any | None = None,
                 standalone: bool = True, **options: Any) -> str:
        """The expansion of ln Z in LaTeX: action, saddle, Feynman rules, diagrams with their weights, series.

        Written to ``path`` too if that is given, whole or not at all.  With ``standalone=False`` a fragment to input
        after an appendix begins; further options: :func:`fieldtheory.export.appendix.expansion_document`.
        """
        from fieldtheory.export.appendix import expansion_document
        from fieldtheory.files import write_atomically

        text: str = expansion_document(self, loops, at=at, standalone=standalone, **options)
        if path is not None:
            write_atomically(path, text)
        return text

    def expectation(self, observable: Any, loops: int, *, at: Any | None = None, all: bool = False,
                    formal: bool = False) -> Series:
        """⟨O⟩ to L loops: remainder N^-(L+1).  Options as in `log_partition`."""
        return self.cumulant(observable, loops=loops, at=at, all=all, formal=formal)

    def cumulant(self, *observables: Any, loops: int, at: Any | None = None, all: bool = False,
                 formal: bool = False) -> Series:
        """The connected correlation of n observables to L loops: remainder N^-(n+L).  Options as in `log_partition`.

        For one field over a space the observables are closed expressions, such as Σ φ² or Σ u φ with a vector u.
        """
        field = self._extended
        if field is not None:
            at = _symbolic(at)
            action, parameter = checked_action(self.expr, field, at, self.large, formal=formal)
            asked = [checked_observable(o, action, field, at) for o in observables]
            terms = correlations.cumulant_terms(action, field, asked, loops, at=at)
            return _gathered(terms, parameter, len(observables) - 1, len(observables) + loops)
        saddle = self._saddle(at, all, single=True)
        return expansion.cumulant(self.expr, self.fields, saddle, observables, loops, self.large, formal=formal)

    def effective_action(self, loops: int) -> Series:
        """The 1PI effective action Γ in the classical field, to L loops: from N s = S on, with remainder N^-L."""
        field = self._extended
        if field is None:
            return expansion.effective_action(self.expr, self.fields, loops, self.large)
        action, parameter = checked_action(self.expr, field, None, self.large, formal=True)
        terms = structured.effective_action_terms(action, field, loops)
        return _gathered({power - 1: term for power, term in terms.items()}, parameter, -1, loops)

    @overload
    def diagrams(self, loops: int, *, kind: str = ..., legs: Iterable[Any] = ..., at: Any | None = ...,
                 all: Literal[False] = ...) -> Diagrams: ...

    @overload
    def diagrams(self, loops: int, *, kind: str = ..., legs: Iterable[Any] = ..., at: Any | None = ...,
                 all: Literal[True]) -> tuple[Diagrams, ...]: ...

    def diagrams(self, loops: int, *, kind: str = "connected", legs: Iterable[Any] = (), at: Any | None = None,
                 all: bool = False) -> Diagrams | tuple[Diagrams, ...]:
        """The Feynman diagrams with exactly that many loops, each with symmetry factor, weight and powers.

        ``kind="1pi"`` keeps those that no single cut disconnects; ``legs`` are the fields at external points.  They
        belong to one saddle point, the dominant one or ``at``; with ``all`` there is one set for each of the
        equivalent ones, in the order of ``saddle_points``.  For an O(n) vector, a field over a space, the expansion
        is about zero and n stays a symbol.

        Raises
        ------
        BadInput, RuleError
            For several equivalent saddle points with neither ``at`` nor ``all``; at a point that is not stationary, or
            is flat to second order.
        """
        legs = tuple(legs)
        check_loops(loops)
        order = 2 * max(loops, 1) + len(legs)  # no vertex of a connected diagram has more lines
        field = self._extended
        if field is not None:
            if all or _symbolic(at) not in (None, sp.S.Zero):
                raise RuleError(f"diagrams of {field.name}, a field over a space, are drawn about zero only")
            checked_action(self.expr, field, sp.S.Zero, self.large, formal=True)
            return _vector_diagrams(self.expr, field, loops, order, kind, legs)
        if not all:
            chosen = self._saddle(at, single=True)
            return diagrams(*self._rules(chosen, order), loops, legs=legs, kind=kind)
        points = self._saddle(None, every=True) if at is None else at
        if not isinstance(points, tuple) or not {type(point) for point in points} == {SaddlePoint}:
            raise BadInput("at", at, "None or a tuple of saddle points, with all=True")
        ordered = [p for p in self.saddle_points() if p in points] if at is None else points
        return tuple(diagrams(*self._rules(point, order), loops, legs=legs, kind=kind) for point in ordered)

    def _rules(self, at: Any | None, order: int,
               ) -> tuple[dict[tuple[sp.Expr, ...], sp.Expr], sp.Matrix, tuple[Field, ...]]:
        """Vertices through an order, propagator and fields about a saddle point."""
        points = expansion.expansions(self.expr, self.fields, self._saddle(at), 0, self.large, True)
        if len(points) != 1:
            raise BadInput("at", at, "one saddle point; all=True for each of several")
        jets = _derivatives(self.expr, self.fields, dict(zip(self.fields, points[0].point)), order)
        vertices = {index: value for index, value in jets.items() if len(index) > 2 and value != 0}
        hessian = sp.Matrix(len(self.fields), len(self.fields),
                            lambda i, k: jets.get(tuple(self.fields[m] for m in sorted((i, k))), sp.S.Zero))
        return vertices, hessian.inv(), self.fields

    # ------------------------------------------------------------------------------------- powers of N

    def power_counting(self, exponents: Mapping[Any, Any] | None = None, *, loops: int = 3, at: Any | None = None,
                       parameters: tuple[OrderParameter, ...] | None = None,
                       constraints: Sequence[Any] = ()) -> LoopCounting:
        """The exponent of N of vertices, lines and loop orders, and where a fixed loop order closes.

        Parameters
        ----------
        exponents : of every symbol and size, affine in symbolic exponents, such as {g: -a, n: nu}; the large parameter
            has 1, data 0.  Without it everything but the large parameter is of order one.
        loops : orders that are counted one by one; growth is counted for all of them (for vertices through 2 loops
            legs where the action is no polynomial).
        at : where to expand, as in `log_partition`.
        parameters : for a field over a space away from zero, the names of its sums (`collectivise`); made if missing.
        constraints : inequalities that the exponents obey.

        ``.regions()`` are the conditions, ``.report(...)`` the verdict at a point, ``str()`` the table.

        Raises
        ------
        BadInput, RuleError
            For a symbol without an exponent or exponents that are not affine; where no saddle point is known.
        """
        given = {sp.sympify(key): value for key, value in (exponents or {}).items()}
        known: dict[Any, Any] = {} if self.large is None else {self.large: sp.S.One}
        if exponents is None:
            known |= {symbol: sp.S.Zero for symbol in self.expr.free_symbols - {self.large, *self.fields}}
        field = self._extended
        if field is None:
            rules = self._rules(at, 2 * loops)
            return count_scalar_loops(*rules, loops, known | given, constraints=constraints)
        if at is None and parameters is None and vary(self.expr, field).xreplace({field: sp.S.Zero}) == 0:
            at = sp.S.Zero
        if at is not None:
            return count_field_loops(self.expr, field, loops, known | given, at=_symbolic(at), constraints=constraints)
        return count_closure(self._closed(field, parameters), known | given, loops, constraints=constraints)

    def _closed(self, field: Entry, parameters: tuple[OrderParameter, ...] | None) -> Closure:
        raise NotImplementedError


def _gathered(terms: Mapping[int, sp.Expr], parameter: sp.Expr, low: int, remainder: int) -> Series:
    return Series(tuple(terms.get(k, sp.S.Zero) for k in range(low, remainder)), parameter, low, remainder)


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


__all__ = ["Expandable"]
