"""The rotation of data into the eigenbasis of their Gram matrix, a rule like those of :mod:`.symbolic.rules`.

Derived here.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from fieldtheory.errors import BadInput, RuleError
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, depends_on, distribute, open_spaces
from fieldtheory.symbolic.rules import FieldAction, Step, tex


def diagonalise(action: FieldAction, matrix: Entry, rows: Space, modes: Space, *, spectrum: Entry, scale: sp.Expr,
                projections: Mapping[Entry, Entry] | None = None, definition: sp.Expr | None = None) -> Step:
    r"""Rotate the rows of a data matrix into the eigenbasis of its Gram matrix.

    X_μd = Σ_k U_μk (scale·λ_k)^{1/2} V_kd with orthonormal U and V, so that X Xᵀ = U (scale·λ) Uᵀ.  Every field
    and datum over ``rows`` becomes its component over ``modes``; sums over the columns are contracted by
    Σ_d V_kd V_ld = δ_kl.  ``projections`` names X' Xᵀ U for other matrices X' with the same columns (test inputs);
    ``definition`` says what the spectrum stands for.

    Raises
    ------
    RuleError
        If the action is not invariant under the rotation: a non-linear function stands between the matrix and
        a sum over rows, or something over the rows enters other than linearly and quadratically.
    """
    if rows not in matrix.spaces or len(matrix.spaces) != 2:
        raise BadInput("matrix", matrix, f"a data matrix over {rows.name} and one other space")
    (columns,) = (space for space in matrix.spaces if space != rows)
    vectors = Entry(f"V_{matrix.name}", "data", (modes, columns))
    projections = dict(projections or {})
    root = sp.sqrt(scale * spectrum)

    def rotate(expr: sp.Expr) -> sp.Expr:
        table: dict[sp.Basic, sp.Basic] = {matrix: root * vectors, rows: modes}
        for entry in expr.atoms(Entry):
            if rows in entry.spaces and entry != matrix:
                table[entry] = Entry(entry.name, entry.domain,
                                     tuple(modes if space == rows else space for space in entry.spaces))
        _check_rotation(expr, rows, matrix)
        rotated = expr.xreplace(table)
        contracted = _contract(rotated, vectors, root, modes, columns, projections)
        left = [a for a in contracted.atoms(Entry) if a == vectors or a in projections]
        if left:
            raise RuleError(f"{left[0]} remains after the rotation: the action is not a function of the Gram matrix of "
                            f"{matrix.name}, or a non-linear function stands in the way")
        return contracted

    fields = []
    for candidate in action.fields:
        if isinstance(candidate, Entry) and rows in candidate.spaces:
            candidate = Entry(candidate.name, candidate.domain,
                              tuple(modes if space == rows else space for space in candidate.spaces))
        fields.append(candidate)
    definitions = {key.xreplace({rows: modes}): value for key, value in action.definitions.items()}
    if definition is not None:
        definitions[spectrum] = definition
    after = FieldAction(rotate(action.expr), tuple(fields), definitions)
    return Step("diagonalise", action, after, rotate,
                details={"matrix": matrix, "rows": rows, "modes": modes, "spectrum": spectrum, "scale": scale,
                         "projections": sp.Dict(projections)},
                description=f"Rotate the samples into the eigenbasis of the Gram matrix of ${tex(matrix)}$, with "
                            f"eigenvalues ${tex(spectrum)}$ of the kernel $K$; what lives on samples keeps its name.")


def _check_rotation(expr: sp.Basic, rows: Space, matrix: Entry) -> None:
    """Only sums over rows that are bilinear in what lives on the rows are invariant under a rotation of the rows."""
    for total in expr.atoms(SpaceSum):
        if total.space != rows:
            continue
        for term in sp.Add.make_args(sp.expand(total.body)):
            degree = 0
            for factor in sp.Mul.make_args(term):
                base, exponent = factor.as_base_exp()
                if rows not in open_spaces(base):
                    continue
                if not isinstance(base, Entry | SpaceSum) or not exponent.is_Integer or exponent < 1:
                    raise RuleError(f"{factor} over {rows.name} is not linear: the rotation by {matrix.name} does not "
                                    "commute with it")
                degree += int(exponent)
            if degree != 2:
                raise RuleError(f"a sum over {rows.name} of degree {degree} is not invariant under a rotation")


def _contract(expr: sp.Expr, vectors: Entry, root: sp.Expr, modes: Space, columns: Space,
              projections: Mapping[Entry, Entry]) -> sp.Expr:
    """Σ over columns of two factors, each linear in V: Σ_d V_kd V_ld = δ_kl and Σ_d X'_td V_kd = projection/root."""

    def contract(node: sp.Expr) -> sp.Expr:
        if isinstance(node, SpaceSum):
            body = contract(node.body)
            if node.space != columns:
                return SpaceSum(body, node.space)
            return sp.Add(*(_contract_term(term) for term in sp.Add.make_args(distribute(body))))
        if not node.args or isinstance(node, Entry):
            return node
        return node.func(*(contract(arg) for arg in node.args))

    def _contract_term(term: sp.Expr) -> sp.Expr:
        outside: list[sp.Expr] = []
        factors: list[sp.Expr] = []
        for factor in sp.Mul.make_args(term):
            base, exponent = factor.as_base_exp()
            if columns not in open_spaces(factor):
                outside.append(factor)
            elif exponent.is_Integer and exponent > 0:
                factors.extend([base] * int(exponent))
            else:
                factors.append(factor)
        if len(factors) != 2:
            return SpaceSum(term, columns)
        (left, kind_left), (right, kind_right) = sorted(
            ((f, _kind(f)) for f in factors), key=lambda pair: ("open", "summed", "other").index(pair[1]))
        if kind_left == "open" and kind_right == "open":
            contracted: sp.Expr = sp.S.One
        elif kind_left == "open" and kind_right == "summed":
            contracted = right.body / vectors
        elif kind_left == "summed" and kind_right == "summed":
            contracted = SpaceSum(left.body / vectors * (right.body / vectors), modes)
        elif kind_right == "other" and right in projections:
            named = projections[right] / root
            contracted = named if kind_left == "open" else SpaceSum(left.body / vectors * named, modes)
        else:
            return SpaceSum(term, columns)
        return sp.Mul(*outside, contracted)

    def _kind(factor: sp.Expr) -> str:
        if factor == vectors:
            return "open"
        if isinstance(factor, SpaceSum) and factor.space == modes and not depends_on(factor.body / vectors, vectors):
            return "summed"
        return "other"

    return contract(expr)
