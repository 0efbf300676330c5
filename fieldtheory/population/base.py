"""What population theories share: the law of one site, its closure and derivation, solutions along the noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt
from typing import Any, ClassVar

import numpy as np
import scipy.stats
import sympy as sp
import xarray as xr

from fieldtheory.action import Action
from fieldtheory.derivation import Derivation
from fieldtheory.microscopic import activation_function
from fieldtheory.network import Network
from fieldtheory.population.continuation import follow
from fieldtheory.population.modes import Key, Mode, alike, read_target
from fieldtheory.population.nodes import NODE, Features, U
from fieldtheory.symbolic.bases import input_law, obstruction
from fieldtheory.symbolic.fields import Entry
from fieldtheory.symbolic.siteclosure import SiteClosure

FEW = 100.0
"""Effective nodes below which a result is not trusted."""
NODES, SHIFTS = 8192, 8
BEYOND = 2
"""Orders above the highest one of the target that are kept, and above those kept that are looked at."""
TRUNCATED = 1e-3
"""The power of the output in modes not kept, relative to that of the target, above which a result says so."""


def standard_error(values: Any, axis: int = 0) -> Any:
    """The 68.27 % half-width of a mean over a few random shifts: Student's, of which a Gaussian's is too small."""
    found = np.asarray(values, dtype=float)
    count = found.shape[axis]
    factor = float(scipy.stats.t.ppf(scipy.stats.norm.cdf(1.0), count - 1))
    return factor * found.std(axis=axis, ddof=1) / sqrt(count)


def _with_error(value: float, error: float) -> str:
    return f"{value:.6g} ± {error:.1g}" if error else f"{value:.6g}"


@dataclass(frozen=True)
class PopulationSolution:
    """Order parameters by mode, the error of each from the shifts of the nodes, and what certifies them.

    ``nodes`` are the effective nodes of the worst shift, ``residual`` the largest |m - R(m)|; ``test_error`` is
    E (y - f̄)², over the modes kept.  Errors are 68 % intervals of Student's law.  Where few modes are kept,
    ``left_out`` is the power Σ m² of the output, at the law of one site found, in the modes of the next orders that are
    not; ``status`` says so where it counts, and no error includes it.  ``leading`` is the target's largest mode.  Under
    ARD ``precisions`` are those of the relevant inputs and of the rest, and ``free_energy`` bounds -ln Z but for
    (P/2) ln 2πs, where no mode is left out.
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
    left_out: float = 0.0
    leading: Key | None = None

    @property
    def m(self) -> float:
        """The order parameter of the target's largest mode, or the only one."""
        return self._leading(self.order_parameters)

    @property
    def error(self) -> float:
        """The error of :attr:`m`."""
        return self._leading(self.errors)

    def _leading(self, values: Mapping[Key, float]) -> float:
        if self.leading is not None:
            return values[self.leading]
        (value,) = values.values()
        return value

    def __str__(self) -> str:
        """What one reads first: order parameters and precisions with their errors, the test error, the status."""
        shown = [f"m_{key} = {_with_error(m, self.errors[key])}" for key, m in self.order_parameters.items()]
        shown += [f"precision {name} = {_with_error(value, self.precision_errors.get(name, 0.0))}"
                  for name, value in self.precisions.items()]
        shown += [f"test error = {self.test_error:.5g}", f"status: {self.status}"]
        return f"{type(self).__name__}\n  " + "\n  ".join(shown)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # in a notebook the fields, arrays too, are too many
        printer.text(str(self))


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

    def __repr__(self) -> str:
        return f"{type(self).__name__}(law={self.law.name!r}, target={self.target}, network={self.network})"

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


class FewModesPopulation(OneSitePopulation):
    """A population theory that keeps few modes of the output, and measures what is in the next ones.

    Parameters
    ----------
    site, network, law, target : as of :class:`PopulationTheory`.
    modes : modes kept in the output besides those of the target (Gaussian inputs; a parity is closed by symmetry);
        (n, k) adds a polynomial of order 2k in what is perpendicular to the direction (:mod:`.population.modes`).  An
        empty list keeps the target's alone; without modes and order those up to two orders above the target's that
        symmetry allows.
    order : keep every mode of total order up to this.
    """

    def __init__(self, site: Action, network: Network, law: str = "hypercube", target: Key | Mapping[Key, float] = 2, *,
                 modes: Sequence[Key] | None = None, order: int | None = None) -> None:
        activation = activation_function(network.activation)(U)
        wanted = read_target(law, activation, U, target).modes
        if modes is None and order is None and law == "gaussian":
            modes = [mode.key for mode in alike(wanted, max(mode.order for mode in wanted) + BEYOND)]
        super().__init__(site, network, law, target, modes=modes or (), order=order)
        self._wanted = wanted

    @property
    def leading(self) -> Key:
        """The target's largest mode."""
        return max(self.target, key=lambda key: abs(self.target[key]))

    @cached_property
    def next_modes(self) -> tuple[Mode, ...]:
        """Modes that the output may have up to two orders above those kept, and that are not kept."""
        if self.law.name == "hypercube":
            return ()
        order = max(mode.order for mode in self._modes) + BEYOND
        return tuple(mode for mode in alike(self._wanted, order)
                     if mode not in self._modes and obstruction(self.activation, U, mode.order) is None)

    @cached_property
    def _next_features(self) -> Features:
        return Features(self.activation, self.law.name,
                        {mode: Entry(f"J_{mode.name}", "data", (NODE,)) for mode in self.next_modes}, {})

    def next_overlaps(self, arrays: Mapping[str, Any]) -> np.ndarray:
        """J of the next modes (by row) on nodes under Gaussian inputs."""
        if not self.next_modes:
            return np.zeros((0, len(arrays["W"])))
        found = self._next_features.on_directions(arrays).arrays
        return np.array([found[entry.name] for entry in self._next_features.overlaps.values()])

    def truncation(self, left_out: float) -> list[str]:
        """What a status says about the power in modes that are not kept."""
        if left_out <= TRUNCATED * sum(c**2 for c in self.target.values()):
            return []
        return [f"truncated: output of power {left_out:.2g} in modes that are not kept; give order="]


__all__ = ["BEYOND", "FEW", "NODES", "SHIFTS", "FewModesPopulation", "OneSitePopulation", "PopulationSolution",
           "PopulationTheory", "standard_error"]
