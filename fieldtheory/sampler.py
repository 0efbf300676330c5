"""Samples of any network: activations given as expressions are compiled here, and handed down as functions.

The samplers see no symbols; this module stands above `compile` and opens what the specification of a network only
carries along.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import sympy as sp
from numba import njit

from fieldtheory import sampling
from fieldtheory.compile import compile_kernel
from fieldtheory.errors import BadInput, RuleError
from fieldtheory.microscopic import ACTIVATIONS, activation_function
from fieldtheory.network import Network

Given = ParamSpec("Given")
Found = TypeVar("Found")

_ARGUMENT = sp.Symbol("h", real=True)


def _of_any_network(draw: Callable[Given, Found]) -> Callable[Given, Found]:
    """The same function for networks whose activation is an expression, which is compiled."""
    signature = inspect.signature(draw)

    @wraps(draw)
    def sample(*given: Given.args, **options: Given.kwargs) -> Found:
        bound = signature.bind(*given, **options)
        net = bound.arguments["net"]
        if isinstance(net, Network) and bound.arguments.get("activation_functions") is None:
            bound.arguments["net"], bound.arguments["activation_functions"] = _compiled(net)
        return draw(*bound.args, **bound.kwargs)

    return sample


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


sample = _of_any_network(sampling.sample)
"""As :func:`.sampling.sample`, of any network."""
