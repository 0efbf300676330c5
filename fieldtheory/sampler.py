"""Samples of any network: activations given as expressions are compiled here, and handed down as functions.

The samplers see no symbols; this module stands above `compile` and opens what the specification of a network only
carries along.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import sympy as sp
from numba import njit
from numpy.typing import ArrayLike

from fieldtheory import sampling
from fieldtheory.compile import compile_kernel
from fieldtheory.dataset import Dataset
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.microscopic import ACTIVATIONS, activation_function
from fieldtheory.network import Network
from fieldtheory.sampling.methods import Method
from fieldtheory.sampling.progress import Progress

_ARGUMENT = sp.Symbol("h", real=True)


def sample(
    net: Network,
    data: Dataset,
    *,
    method: str | Method = "hmc",
    chains: int = 8,
    draws: int = 2000,
    warmup: int | None = None,
    thin: int = 1,
    step: float | None = None,
    seed: int = 0,
    progress: Progress = False,
    activation_functions: tuple[Callable, Callable] | None = None,
    directions: ArrayLike | None = None,
    initial: Literal["prior", "zero"] | tuple[ArrayLike, ...] = "prior",
    threads: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: float = 30.0,
    dtype: str = "float64",
    gibbs: str | Sequence[str] = (),
    gibbs_every: int | None = None,
    tempering: int | Sequence[float] | None = None,
    batch_size: int | None = None,
    adapt_mass: bool = False,
    target_acceptance: float | None = None,
) -> Any:
    """Draw from the posterior over the weights of `net` given `data`, by Langevin or Hamiltonian chains.

    Equation: density exp(-U), U as in `sampling.posterior`; no theory enters. MALA and HMC are unbiased at any
        step, ULA has a bias of the order of the step squared.
    Activations: any of `network.ACTIVATIONS`; a SymPy expression in one symbol, which is differentiated and compiled
        (on disk, so that a second process pays milliseconds); or any object together with `activation_functions`.
    Everything else is described at `sampling.sample`, which does the work.
    Errors: BadInput naming `activation` for an expression with a jump, in several symbols, or with a function that
        does not compile; those of `sampling.sample`.
    """
    if isinstance(net, Network) and activation_functions is None:
        net, activation_functions = _compiled(net)
    return sampling.sample(
        net,
        data,
        method=method,
        chains=chains,
        draws=draws,
        warmup=warmup,
        thin=thin,
        step=step,
        seed=seed,
        progress=progress,
        activation_functions=activation_functions,
        directions=directions,
        initial=initial,
        threads=threads,
        out=out,
        resume=resume,
        overwrite=overwrite,
        checkpoint_every=checkpoint_every,
        dtype=dtype,
        gibbs=gibbs,
        gibbs_every=gibbs_every,
        tempering=tempering,
        batch_size=batch_size,
        adapt_mass=adapt_mass,
        target_acceptance=target_acceptance,
    )


def _compiled(net: Network) -> tuple[Network, tuple[Callable, Callable] | None]:
    """The network with its activation by name where it has one, else with the compiled (phi, phi')."""
    if not isinstance(net.activation, sp.Basic):  # a name, or an object that nobody here can open
        return net, None
    phi = activation_function(net.activation)(_ARGUMENT)
    for name, function in ACTIVATIONS.items():  # the same function, and the faster one
        if phi == function(_ARGUMENT):
            return net.replace(activation=name), None
    return net, compile_activation(phi)


@lru_cache(maxsize=32)
def compile_activation(phi: sp.Expr) -> tuple[Callable, Callable]:
    """phi and its derivative, number to number, compiled by Numba; `phi` is an expression in one real symbol.

    Errors: BadInput when it jumps, or contains a function without a counterpart in machine code.
    """
    (symbol,) = phi.free_symbols
    slope = sp.diff(phi, symbol)
    if slope.has(sp.DiracDelta, sp.Derivative, sp.Subs):
        raise BadInput("activation", phi, "an expression without jumps, whose derivative SymPy knows")
    try:
        value_at, slope_at = (
            compile_kernel({"value": expr}, scalars=[symbol], name="activation").raw for expr in (phi, slope)
        )
    except RuleError as error:
        raise BadInput("activation", f"{phi} ({error})", "functions that compile_kernel knows, or any object with "
                       "activation_functions=(phi, its derivative)") from error
    return njit(lambda h: value_at(h)[0]), njit(lambda h: slope_at(h)[0])
