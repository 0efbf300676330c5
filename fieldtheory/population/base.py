"""What population theories share: the law of one site, its closure and derivation, solutions along the noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import sympy as sp
import xarray as xr

from fieldtheory.action import Action
from fieldtheory.derivation import Derivation
from fieldtheory.network import Network
from fieldtheory.population.continuation import follow
from fieldtheory.population.modes import Key
from fieldtheory.symbolic.bases import InputLaw
from fieldtheory.symbolic.siteclosure import SiteClosure

FEW = 100.0
"""Effective nodes below which a result is not trusted."""
NODES, SHIFTS = 8192, 8


@dataclass(frozen=True)
class PopulationSolution:
    """Order parameters by mode, the error of each from the shifts of the nodes, and what certifies them.

    ``nodes`` are the effective nodes of the worst shift, ``residual`` the largest |m - R(m)|; ``test_error`` is
    E (y - f̄)², over the modes kept.  Under ARD ``precisions`` are those of the relevant inputs and of the rest, and
    ``free_energy`` bounds -ln Z but for (P/2) ln 2πs.
    """

    order_parameters: Mapping[Key, float]
    errors: Mapping[Key, float]
    test_error: float
    residual: float
    nodes: float
    status: str
    precisions: Mapping[str, float] = field(default_factory=dict)
    precision_errors: Mapping[str, float] = field(default_factory=dict)
    free_energy: float | None = None

    @property
    def m(self) -> float:
        """The order parameter where there is one mode."""
        (value,) = self.order_parameters.values()
        return value

    @property
    def error(self) -> float:
        (value,) = self.errors.values()
        return value


class PopulationTheory(ABC):
    """A theory of a network on a target with few modes, for infinitely many samples of a law of inputs."""

    title: ClassVar[str]
    network: Network
    law: InputLaw
    target: Mapping[Key, float]
    modes: tuple[Key, ...]
    solve: Callable[..., Any]
    """The order parameters at noise s_eff = s/P, or at a number of samples: a :class:`PopulationSolution`."""

    @property
    @abstractmethod
    def action(self) -> Action:
        """The law of one site, derived from the microscopic action."""

    @property
    @abstractmethod
    def equations(self) -> dict[str, sp.Eq]:
        """The equations of the order parameters."""

    @cached_property
    def closure(self) -> SiteClosure:
        closure = self.action.close()
        assert isinstance(closure, SiteClosure)
        return closure

    @property
    def derivation(self) -> Derivation:
        """The steps, which print and verify themselves."""
        observables = {"output": self.network.action().quantities["output"]}
        return Derivation(f"{self.title} in the population limit", str(self.network), self.action.steps, observables,
                          equations=self.equations)

    def follow(self, input_dim: int, *, noise: Sequence[float] | None = None, samples: Sequence[float] | None = None,
               **given: Any) -> xr.Dataset:
        """Solutions followed along the noise or the number of samples, both ways (:func:`.continuation.follow`)."""
        return follow(self, input_dim, noise=noise, samples=samples, **given)


__all__ = ["FEW", "NODES", "SHIFTS", "PopulationSolution", "PopulationTheory"]
