"""Quadratic forms that are local plus low rank, and Gaussian averages with them.

A form on a field over spaces R is

    H(x, x') = δ(x, x') d(x) + δ(s, s') Σ_a u_a(x) v_a(x'),

with x = (s, m), the sum non-local over the spaces m and local over the spaces s that are left.  Everything
a Gaussian integral needs stays in this class: the determinant by the matrix determinant lemma, inverse and
solve by Woodbury, traces of products.  Derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from fieldtheory.errors import NotGaussian, RuleError
from fieldtheory.symbolic.fields import (
    Entry,
    Space,
    SpaceSum,
    depends_on,
    distribute,
    open_spaces,
    second_variation,
    sum_over,
    top_atoms,
    top_replace,
    vary,
)

Pairs = tuple[tuple[sp.Expr, sp.Expr], ...]


@dataclass(frozen=True)
class Form:
    """A quadratic form: ``diag`` (open in the field's spaces) plus ``pairs`` (u, v) over ``nonlocal_spaces``.

    A scalar field has no spaces; its form is the number ``diag``.
    """

    spaces: tuple[Space, ...]
    diag: sp.Expr
    pairs: Pairs = ()
    nonlocal_spaces: tuple[Space, ...] = ()

    @property
    def local_spaces(self) -> tuple[Space, ...]:
        return tuple(space for space in self.spaces if space not in self.nonlocal_spaces)

    def _over(self, expr: sp.Expr) -> sp.Expr:
        return sum_over(expr, self.nonlocal_spaces)

    def scale(self, factor: sp.Expr) -> Form:
        """The form times a scalar."""
        pairs = tuple((factor * u, v) for u, v in self.pairs)
        return Form(self.spaces, factor * self.diag, pairs, self.nonlocal_spaces)

    def add(self, other: Form) -> Form:
        """Sum of two forms on the same spaces that are non-local over the same ones."""
        if other.pairs and self.pairs and other.nonlocal_spaces != self.nonlocal_spaces:
            raise RuleError("a sum of forms that are non-local over different spaces")
        nonlocal_spaces = self.nonlocal_spaces if self.pairs else other.nonlocal_spaces
        return Form(self.spaces, self.diag + other.diag, self.pairs + other.pairs, nonlocal_spaces)

    def _core(self) -> sp.Matrix:
        """1 + Vᵀ D⁻¹ U, the matrix of the determinant lemma (entries open in the local spaces)."""
        rank = len(self.pairs)
        return sp.Matrix(rank, rank, lambda a, b: sp.KroneckerDelta(a, b) + self._over(
            self.pairs[a][1] * self.pairs[b][0] / self.diag))

    def log_det_local(self) -> sp.Expr:
        """Σ ln d: the part of the log-determinant that knows nothing of the low-rank pairs."""
        return sum_over(sp.log(self.diag), self.spaces)

    def log_det_low_rank(self) -> sp.Expr:
        """Σ ln det(1 + Vᵀ D⁻¹ U): what the low-rank pairs add."""
        if not self.pairs:
            return sp.S.Zero
        return sum_over(sp.log(self._core().det()), self.local_spaces)

    def log_det(self) -> sp.Expr:
        return self.log_det_local() + self.log_det_low_rank()

    @property
    def is_known_not_positive(self) -> bool:
        """True where the diagonal or the low-rank determinant has a decidably wrong sign (sizes of spaces are ≥ 1)."""
        sizes = {symbol for space in self.spaces for symbol in space.size.free_symbols}
        at_least_one = {symbol: 1 + sp.Dummy(nonnegative=True) for symbol in sizes}
        signs = [self.diag, *([self._core().det()] if self.pairs else [])]
        return any(sp.expand(top_replace(sign, at_least_one)).is_nonpositive for sign in signs)

    def apply(self, vector: sp.Expr) -> sp.Expr:
        """H b, open in the form's spaces."""
        return self.diag * vector + sp.Add(*(u * self._over(v * vector) for u, v in self.pairs))

    def inverse(self) -> Form:
        """H⁻¹ by Woodbury."""
        if self.diag == 0:
            raise RuleError("the quadratic form has no local part; it cannot be inverted")
        if not self.pairs:
            return Form(self.spaces, 1 / self.diag)
        core = self._core()
        core = core.adjugate() / core.det()  # of low rank: elimination would look for zeros in every entry
        pairs = tuple(
            (-sp.Add(*(core[a, b] * self.pairs[a][0] for a in range(len(self.pairs)))) / self.diag,
             self.pairs[b][1] / self.diag)
            for b in range(len(self.pairs)))
        return Form(self.spaces, 1 / self.diag, pairs, self.nonlocal_spaces)

    def solve(self, vector: sp.Expr) -> sp.Expr:
        """H⁻¹ b, open in the form's spaces."""
        return self.inverse().apply(vector)

    def quadratic(self, left: sp.Expr, right: sp.Expr | None = None) -> sp.Expr:
        """bᵀ H c, summed over all spaces."""
        return sum_over(left * self.apply(left if right is None else right), self.spaces)

    def trace_with(self, other: Form) -> sp.Expr:
        """Tr(H H') of two forms on the same spaces."""
        total = sum_over(self.diag * other.diag, self.spaces)
        for form, local in ((self, other.diag), (other, self.diag)):
            total += sp.Add(*(sum_over(u * v * local, self.spaces) for u, v in form.pairs))
        narrow = [space for space in self.spaces if space in self.nonlocal_spaces and space in other.nonlocal_spaces]
        shared = [space for space in self.spaces if space not in narrow]
        for u, v in self.pairs:
            for u_other, v_other in other.pairs:
                total += sum_over(sum_over(v * u_other, narrow) * sum_over(v_other * u, narrow), shared)
        return total


def hessian(expr: sp.Expr, field: sp.Expr) -> Form:
    """Second functional derivative of a closed expression as a Form.

    Raises
    ------
    RuleError
        If the expression couples points of the field in a way that is not local plus low rank.
    """
    gradient = vary(expr, field)
    if isinstance(field, sp.Symbol):
        return Form((), sp.diff(gradient, field))
    assert isinstance(field, Entry)
    local, pairs = second_variation(gradient, field)
    if len(pairs) > 1:
        raise RuleError(f"the form in {field.name} is non-local over several different sets of spaces")
    for freed, terms in pairs.items():
        order = tuple(space for space in field.spaces if space in freed)
        return Form(field.spaces, local, _merge(terms), order)
    return Form(field.spaces, local)


def _merge(terms: list[tuple[sp.Expr, sp.Expr]]) -> Pairs:
    """Pairs with the same v become one."""
    by_v: dict[sp.Expr, sp.Expr] = {}
    for u, v in terms:
        by_v[v] = by_v.get(v, sp.S.Zero) + u
    return tuple((u, v) for v, u in sorted(by_v.items(), key=lambda item: sp.default_sort_key(item[0])) if u != 0)


@dataclass(frozen=True)
class Gaussian:
    """S = c + b·φ + ½ φᵀHφ in one field: its three parts, with the moments of e^{-S}."""

    field: sp.Expr
    constant: sp.Expr
    source: sp.Expr
    form: Form

    @property
    def mean(self) -> sp.Expr:
        """⟨φ⟩ = -H⁻¹ b."""
        return distribute(-self.form.solve(self.source))

    @property
    def completed_square(self) -> sp.Expr:
        """½ bᵀ H⁻¹ b, what completing the square takes off the constant."""
        if not self.form.pairs:
            return sum_over(sp.expand_multinomial(self.source**2) / self.form.diag, self.form.spaces) / 2
        return self.form.inverse().quadratic(self.source) / 2

    @property
    def covariance(self) -> Form:
        """⟨φφᵀ⟩ - ⟨φ⟩⟨φ⟩ᵀ = H⁻¹ (negative on an imaginary contour)."""
        return self.form.inverse()


def gaussian(expr: sp.Expr, field: sp.Expr) -> Gaussian:
    """Read an action as Gaussian in one field.

    Raises
    ------
    NotGaussian
        If the second variation still contains the field; the message says how it enters.
    """
    if depends_on(expr, field) and _how(expr, field).startswith("through"):
        raise NotGaussian(f"{_name(field)} enters {_how(expr, field)}")
    try:
        form = hessian(expr, field)
    except RuleError as error:
        if _degree(expr, field) > 2:
            raise NotGaussian(f"{_name(field)} enters {_how(expr, field)}") from error
        raise
    offenders = [form.diag, *(part for pair in form.pairs for part in pair)]
    if any(depends_on(part, field) for part in offenders):
        raise NotGaussian(f"{_name(field)} enters {_how(expr, field)}")
    if form.diag == 0:
        raise NotGaussian(f"{_name(field)} enters at order 1 only: its integral is a delta function")
    at_zero = {field: sp.S.Zero}
    return Gaussian(field, expr.xreplace(at_zero), vary(expr, field).xreplace(at_zero), form)


def _name(field: sp.Expr) -> str:
    return getattr(field, "name", str(field))


def _how(expr: sp.Basic, field: sp.Expr) -> str:
    """In words, how a field enters an expression other than quadratically."""
    for node in sp.preorder_traversal(expr):
        if node == field or not depends_on(node, field):
            continue
        if not isinstance(node, sp.Add | sp.Mul | sp.Pow | SpaceSum):
            return f"through {node.func.__name__}"
        if isinstance(node, sp.Pow) and not (node.exp.is_Integer and node.exp > 0):
            return f"through the power {node.exp}"
    return f"at order {_degree(expr, field)}"


def _degree(expr: sp.Basic, field: sp.Expr) -> int:
    if expr == field:
        return 1
    if isinstance(expr, sp.Add):
        return max(_degree(arg, field) for arg in expr.args)
    if isinstance(expr, sp.Mul):
        return sum(_degree(arg, field) for arg in expr.args)
    if isinstance(expr, sp.Pow) and expr.exp.is_Integer:
        return int(expr.exp) * _degree(expr.base, field)
    if isinstance(expr, SpaceSum):
        return _degree(expr.body, field)
    return 0


def gaussian_average(observable: sp.Expr, law: Gaussian, *, orders: int = 6) -> sp.Expr:
    """⟨O⟩ over a Gaussian field, for O polynomial in it: exp(½ Tr G δ²/δφδφ) O at the mean.

    The observable may be open in spaces other than those of the field.

    Raises
    ------
    NotGaussian
        If O is not polynomial in the field, so that the series does not end.
    """
    field = law.field
    if not depends_on(observable, field):
        return observable
    total, term = observable, observable
    covariance = law.covariance
    for order in range(1, orders + 1):
        second = open_hessian(term, field)
        term = second.trace_with(covariance) / (2 * order) if second is not None else sp.S.Zero
        if term == 0:
            return total.xreplace({field: law.mean})
        total += term
    raise NotGaussian(f"the observable enters beyond order {2 * orders} in {_name(field)}, {_how(observable, field)}")


def open_hessian(observable: sp.Expr, field: sp.Expr) -> Form | None:
    """Second variation of an observable that may be open in other spaces; None where it vanishes.

    An observable open in one of the field's own spaces must be probed by a test vector, Σ_μ v_μ O_μ.
    """
    if isinstance(field, Entry) and open_spaces(observable) & set(field.spaces):
        if not _nonlinear(observable, field):
            return None
        raise RuleError(f"an observable open in a space of {field.name} is averaged through a probe vector on it")
    form = hessian(observable, field)
    return None if form.diag == 0 and not form.pairs else form


def _nonlinear(expr: sp.Expr, field: Entry) -> bool:
    atoms = [a for a in set(top_atoms(expr)) if depends_on(a, field)]
    dummies = {a: sp.Dummy() for a in atoms}
    opened = top_replace(expr, dummies)
    symbols = list(dummies.values())
    if any(sp.diff(opened, x, y) != 0 for x in symbols for y in symbols):
        return True
    return any(isinstance(a, SpaceSum) and _nonlinear(a.body, field) for a in atoms)


__all__ = ["Form", "Gaussian", "gaussian", "gaussian_average", "hessian", "open_hessian"]
