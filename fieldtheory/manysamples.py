"""What turns sums over many samples into averages over the law of the inputs, in a basis of functions of them.

A part of :class:`fieldtheory.action.Action`.
"""

from __future__ import annotations

from typing import Any, Self

import sympy as sp

from fieldtheory.symbolic import bases
from fieldtheory.symbolic.fields import Space
from fieldtheory.symbolic.integraloperator import integral_operator
from fieldtheory.symbolic.rules import FieldAction, Step
from fieldtheory.symbolic.sectors import sectors


class ManySamples:
    """The verbs of an action for many samples."""

    value: FieldAction

    def __getitem__(self, name: str) -> Any:
        raise NotImplementedError

    def space(self, name: str) -> Space:
        """The space of that name."""
        raise NotImplementedError

    def _check_fresh(self, argument: str, *names: str) -> None:
        raise NotImplementedError

    def _after(self, step: Step) -> Self:
        raise NotImplementedError

    def _with_known_quantities(self) -> Self:
        raise NotImplementedError

    def project(self, space: str, matrix: str, law: str, *, modes: str = "mode", inputs: str = "x") -> Self:
        """Many samples: averages over the law of the inputs, in its basis (:func:`.symbolic.bases.project`).

        ``matrix`` are the inputs, ``law`` is ``hypercube`` (Walsh functions) or ``gaussian`` (Hermite polynomials).
        """
        self._check_fresh("names", modes, inputs)
        step = bases.project(self.value, self.space(space), self[matrix], law, modes=modes, inputs=inputs)
        return self._after(step)._with_known_quantities()

    def complete(self) -> Self:
        """Sums over the complete basis as averages over the inputs (:func:`.symbolic.bases.complete`)."""
        return self._after(bases.complete(self.value))

    def restrict(self, modes: str, name: str, *vectors: str) -> Self:
        """Only some modes of ``vectors``, as a space called ``name`` (:func:`.symbolic.bases.restrict`)."""
        self._check_fresh("name", name)
        kept = Space(name, sp.Symbol(f"N_{name}", positive=True))
        step = bases.restrict(self.value, self.space(modes), kept, [self[vector] for vector in vectors])
        return self._after(step)._with_known_quantities()

    def diagonal(self, basis: str) -> Self:
        """The eigenvectors of the others' mean kernel are the basis functions (:func:`.symbolic.bases.diagonal`)."""
        return self._after(bases.diagonal(self.value, self[basis]))._with_known_quantities()

    def sectors(self, basis: str, *, sector: str = "sector", radial: str = "radial", level: str = "level",
                rotation: str = "U", multiplicity: str = "d") -> Self:
        """The others' mean kernel in blocks, by a symmetry of one site (:func:`.symbolic.sectors.sectors`).

        The names are those of the blocks, of what is in one, of its eigenvectors, and of how often it is repeated.
        """
        names = {"sector": sector, "radial": radial, "level": level, "rotation": rotation, "multiplicity": multiplicity}
        self._check_fresh("names", *names.values())
        return self._after(sectors(self.value, self[basis], **names))._with_known_quantities()

    def integral_operator(self, spectrum: str, name: str, *, modes: str = "eigenfunction") -> Self:
        """The kernel matrix as its integral operator (:func:`.symbolic.integraloperator.integral_operator`)."""
        self._check_fresh("name", name, modes)
        space = Space(modes, sp.Symbol(f"N_{modes}", positive=True))
        return self._after(integral_operator(self.value, self[spectrum], name, space))._with_known_quantities()


__all__ = ["ManySamples"]
