"""The fixed kernel in the population limit, as it is (infinite width) or rescaled: closures without feature learning.

Features are made Gaussian and the kernel matrix rotated into its eigenbasis, as on data; for many samples its
eigenvalues are those of the integral operator of the kernel (`integral_operator`), which follow from the law of the
inputs by symmetry (:mod:`.population.spectra`).  No average over a law of sites is left, so that there are no nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp

from fieldtheory.action import Action
from fieldtheory.compile import Kernel
from fieldtheory.errors import BadInput
from fieldtheory.network import Network
from fieldtheory.population.base import PopulationSolution, PopulationTheory
from fieldtheory.population.modes import Key
from fieldtheory.population.nodes import population_values
from fieldtheory.population.spectra import OperatorSpectrum, operator_spectrum
from fieldtheory.predictor import Predictor, call, compile_expressions
from fieldtheory.symbolic.closures import Closure

Array = np.ndarray


class FixedKernelPopulation(PopulationTheory):
    """Regression with the fixed kernel of a network, or with the kernel rescaled, for infinitely many samples.

    Parameters
    ----------
    site : the action after `gaussian_features` and `diagonalise`, with nothing over samples left to integrate.
    network, law, target : as of :class:`.PopulationTheory`.
    loops : the order of the closure of what is left.
    """

    title = "The fixed kernel"

    def __init__(self, site: Action, network: Network, law: str = "hypercube", target: Key | Mapping[Key, float] = 2, *,
                 loops: int = 0) -> None:
        super().__init__(site, network, law, target)
        self.loops = loops
        self._spectra: dict[Any, OperatorSpectrum] = {}

    @cached_property
    def action(self) -> Action:
        return self.site.integral_operator("lambda", "kappa")

    @cached_property
    def closure(self) -> Closure:
        return self.action.close(self.loops)

    @property
    def equations(self) -> dict[str, sp.Eq]:
        return dict(self.closure.state.definitions)

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.action, self.closure, "operator")

    @cached_property
    def _output(self) -> Kernel:
        return compile_expressions({"output": self.closure.average(self.action.observe("output"))}, "operator_output")

    def spectrum(self, input_dim: int) -> OperatorSpectrum:
        """The spectrum of the kernel for D inputs."""
        variance = self.network.weight_variance
        if variance is None:
            raise BadInput("weight_variance", None, "a number (it is still a symbol)")
        key = (input_dim, float(variance))
        if key not in self._spectra:
            self._spectra = {key: operator_spectrum(self.law.name, self.activation, float(variance), input_dim,
                                                    {mode: self.target[mode] for mode in self.modes})}
        return self._spectra[key]

    def solve(self, input_dim: int, noise: float | None = None, *, samples: float | None = None,
              width: int | None = None, start: PopulationSolution | None = None) -> PopulationSolution:
        """The order parameters at noise s_eff = s/P, or at a number of samples with the network's noise.

        There are no nodes, and no error of them.  Of several saddles it is the one with the largest weight.
        """
        values, _ = population_values(self.network, noise, samples, width)
        spectrum = self.spectrum(input_dim)
        data = {"kappa": spectrum.eigenvalues, "y": spectrum.target, "hbar": 1.0}
        best, at = self._predictor.state(values | data)
        output = call(self._output, at)["output"]
        modes = dict(zip(self.modes, map(float, spectrum.reading @ output), strict=True))
        missing = float(np.sum((spectrum.target - output)**2))
        return PopulationSolution(modes, dict.fromkeys(modes, 0.0), missing, best.residual, np.inf, "converged")


__all__ = ["FixedKernelPopulation"]
