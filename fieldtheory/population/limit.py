"""Which population theory continues a theory for many samples: found by the rules that led to its action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fieldtheory.action import Action
from fieldtheory.errors import BadInput
from fieldtheory.network import Network
from fieldtheory.population.adaptive import AdaptiveKernelPopulation
from fieldtheory.population.base import FewModesPopulation, PopulationTheory
from fieldtheory.population.collapsed import CollapsedPopulation
from fieldtheory.population.collapsed_ard import CollapsedARDPopulation
from fieldtheory.population.collapseddirections import CollapsedDirections
from fieldtheory.population.directions_ard import CollapsedARDDirections
from fieldtheory.population.fixed import FixedKernelPopulation
from fieldtheory.population.meanfield import MeanFieldPopulation
from fieldtheory.population.modes import Key
from fieldtheory.symbolic.bases import input_law

KINDS: tuple[tuple[set[str], str | None, type[PopulationTheory]], ...] = (
    ({"cavity", "hyperprior"}, "hypercube", CollapsedARDPopulation),
    ({"cavity", "hyperprior"}, "gaussian", CollapsedARDDirections),
    ({"cavity"}, "hypercube", CollapsedPopulation),
    ({"cavity"}, "gaussian", CollapsedDirections),
    ({"site_saddle"}, None, AdaptiveKernelPopulation),
    ({"decouple"}, None, MeanFieldPopulation),
    ({"gaussian_features", "diagonalise"}, None, FixedKernelPopulation),
)
"""The rules that an action has come by, the law of the inputs (None: any), and what continues it."""


def population_limit(action: Action, network: Network, law: str = "hypercube",
                     target: Key | Mapping[Key, float] = 2, *, modes: Sequence[Key] | None = None,
                     order: int | None = None, loops: int = 0) -> PopulationTheory:
    """A theory's action for infinitely many samples of a law of inputs (:class:`.PopulationTheory`).

    ``modes`` and ``order`` are for theories that keep few modes of the output (mean field, the adaptive kernel:
    :class:`.FewModesPopulation`); ``loops`` is the order at which what is left after all sums over sites are gone is
    closed.

    Raises
    ------
    BadInput
        For a theory without a population limit, a law or target that does not fit, or modes where all are kept.
    """
    input_law(law)
    rules = {step.rule for step in action.steps}
    found = next((kind for needed, where, kind in KINDS if needed <= rules and where in (law, None)), None)
    if found is None:
        raise BadInput("theory", ", ".join(step.rule for step in action.steps), "a theory of one site, or of Gaussian "
                       "features: what its sums over samples become is not known for others")
    options: dict[str, Any] = {}
    if issubclass(found, FixedKernelPopulation):
        options["loops"] = loops
    elif law == "hypercube" and 0 in (target if isinstance(target, Mapping) else [target]):
        raise BadInput("target", target, "a parity of at least one input: without one no direction is singled out")
    if issubclass(found, FewModesPopulation) and law == "gaussian":
        options |= {"modes": modes, "order": order}
    elif modes or order is not None:
        why = "this theory keeps all modes"
        if issubclass(found, FewModesPopulation):
            why = "by symmetry the output is that parity alone"
        raise BadInput("modes" if modes else "order", modes or order, f"none: {why}")
    return found(action, network, law, target, **options)


__all__ = ["population_limit"]
