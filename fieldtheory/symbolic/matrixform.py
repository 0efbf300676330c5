"""Sums over modes that are traces, log-determinants or bilinear forms: finding the function, and the vectors.

Σ_k u_k v_k F(λ_k) = uᵀ F(K) v where λ is the spectrum of K and u, v are given in its eigenbasis; without
vectors it is tr F(K). Derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import sympy as sp

from fieldtheory.symbolic.fields import Entry, Space, open_spaces, top_atoms


class MatrixForm(NamedTuple):
    """uᵀ F(K) v, tr F(K) or ln det F(K) as found in a body: vectors, factors of F, argument of F."""

    vectors: tuple[Entry, ...]
    scalars: tuple[sp.Expr, ...]
    functions: tuple[sp.Expr, ...]
    spectrum: Entry | None


def matrix_form(body: sp.Expr, space: Space) -> MatrixForm | None:
    """The factors of ``body`` sorted out, or None if it is not F(λ) times powers of entries of ``space``."""
    vectors: list[Entry] = []
    scalars, functions = [], []
    spectra: set[Entry] = set()
    for factor in sp.Mul.make_args(body):
        base, exponent = factor.as_base_exp()
        if space not in open_spaces(factor):
            scalars.append(factor)
        elif isinstance(base, Entry) and base.domain != "spectrum":
            if exponent not in (1, 2) or base.spaces.count(space) != 1 or len(base.spaces) > 2:
                return None
            vectors += [base] * int(exponent)
        else:
            local = {atom for atom in top_atoms(factor) if space in open_spaces(atom)}
            if not all(_is_spectrum(atom, space) and _is_function(factor, atom) for atom in local):
                return None
            spectra |= local  # type: ignore[arg-type]
            functions.append(factor)
    if len(spectra) > 1:
        return None
    key = sp.default_sort_key
    # a matrix open in another space stands on the left; then data before fields, then by name
    vectors.sort(key=lambda v: (len(v.spaces) == 1, v.domain != "data", key(v)))
    functions.sort(key=lambda f: (f.as_base_exp()[0] not in spectra, key(f)))
    return MatrixForm(tuple(vectors), tuple(scalars), tuple(functions), next(iter(spectra), None))


def _is_spectrum(atom: sp.Basic, space: Space) -> bool:
    return isinstance(atom, Entry) and atom.domain == "spectrum" and atom.spaces == (space,)


def _is_function(expr: sp.Basic, atom: sp.Basic) -> bool:
    """Whether ``expr`` can be printed as a function of a matrix in place of ``atom``."""
    if expr == atom or atom not in set(top_atoms(expr)):
        return True
    if expr.is_Pow:
        return atom not in set(top_atoms(expr.exp)) and _is_function(expr.base, atom)
    if expr.is_Add or expr.is_Mul or isinstance(expr, sp.log | sp.exp):
        return all(_is_function(arg, atom) for arg in expr.args)
    return False
