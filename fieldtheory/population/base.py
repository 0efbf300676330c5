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
from fieldtheory.microscopic import activation_function
from fieldtheory.network import Network
from fieldtheory.population.continuation import follow
from fieldtheory.population.modes import Key, read_target
from fieldtheory.population.nodes import U
from fieldtheory.symbolic.bases import input_law
from fieldtheory.symbolic.siteclosure import SiteClosure

FEW = 100.0
"""Effective nodes below which a result is not trusted."""
NODES, SHIFTS = 8192, 8


@dataclass(frozen=True)
class PopulationSolution:
    """Order parameters by mode, the error of each from the shifts of the nodes, and what certifies them.

    ``nodes`` are the effective nodes of the worst shift, ``residual`` the largest |m - R(m)|; ``test_error`` is
    E (y - f̄)², over the modes kept.  Under ARD ``precisions`` are those of the relevant inputs and of the rest, and
    ``free_energy`` bounds -ln Z but for (P/2) ln 2πs, where no mode is left out.
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
    """A theory of a network on a target with few modes, for infinitely many samples of a law of inputs.

    Parameters
    ----------
    site : the reduced action of a theory, of one site or of the network, over samples.
    network : its activation, variances, width, scaling and prior; without biases.
    law : ``hypercube`` (the target is a parity) or ``gaussian`` (Hermite modes of a few directions).
    target : the coefficient of each mode, {k: 1.0} for y = χ_S with |S| = k; an integer k means that.  For Gaussian
        inputs {n: g} is he_n(u·x), and with several orthonormal directions {(1, 1): g} is he_1(u_1·x) he_1(u_2·x).
        Under ``ARD`` they are axes, u_a·x = x_a.

    Raises
    ------
    BadInput
        If no feature of the activation overlaps with a mode of the target: with the reason.
    """

    title: ClassVar[str]
    solve: Callable[..., Any]
    """The order parameters at noise s_eff = s/P, or at a number of samples: a :class:`PopulationSolution`."""

    def __init__(self, site: Action, network: Network, law: str = "hypercube", target: Key | Mapping[Key, float] = 2, *,
                 modes: Sequence[Key] = (), order: int | None = None) -> None:
        self.site, self.law = site, input_law(law)
        self.network = network.plain("the population limit", ard=network.has_ard)
        self.activation = activation_function(self.network.activation)(U)
        read = read_target(law, self.activation, U, target, modes, order)
        self.target, self.modes, self._modes = read.coefficients, read.keys, read.modes

    @property
    @abstractmethod
    def action(self) -> Action:
        """The action for many samples: that of one site, or of what is left of the network."""

    @property
    @abstractmethod
    def equations(self) -> dict[str, sp.Eq]:
        """The equations of the order parameters."""

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


class OneSitePopulation(PopulationTheory):
    """A population theory that is closed by averages over the law of one site."""

    @cached_property
    def closure(self) -> SiteClosure:
        closure = self.action.close()
        assert isinstance(closure, SiteClosure)
        return closure


__all__ = ["FEW", "NODES", "SHIFTS", "OneSitePopulation", "PopulationSolution", "PopulationTheory"]
