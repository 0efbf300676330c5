"""Langevin and Hamiltonian chains for the weight posterior of a network.

These modules know the network and no theory: energy and gradient are written by hand, so that samples can
judge predictions. They never see the symbolic engine.
"""

from fieldtheory.sampling.activations import ACTIVATIONS
from fieldtheory.sampling.chains import Draws, run
from fieldtheory.sampling.diagnostics import ess, mcse, observables, rhat, summarise, to_inference_data
from fieldtheory.sampling.methods import METHODS, Method
from fieldtheory.sampling.posterior import ENERGY, Bound, Posterior
from fieldtheory.sampling.store import open_samples
from fieldtheory.sampling.weights import sample

__all__ = [
    "ACTIVATIONS",
    "Bound",
    "Draws",
    "ENERGY",
    "METHODS",
    "Method",
    "Posterior",
    "ess",
    "mcse",
    "observables",
    "open_samples",
    "rhat",
    "run",
    "sample",
    "summarise",
    "to_inference_data",
]
