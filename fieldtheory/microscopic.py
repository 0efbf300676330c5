"""The microscopic action of a network: its priors and its likelihood, as an action over its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp

from fieldtheory.action import Action
from fieldtheory.errors import BadInput
from fieldtheory.network import ARD
from fieldtheory.symbolic.bases import obstruction
from fieldtheory.symbolic.fields import Entry, Space, SpaceSum, sum_over, tidy

if TYPE_CHECKING:
    from fieldtheory.network import Network

HYPERPARAMETERS = {"readout_variance": "sigma_a^2", "weight_variance": "sigma_w^2", "noise_variance": "s_0"}
"""The symbols that stand for a network's hyperparameters."""

BIAS_PARAMETER = "sigma_b^2"
"""The symbol of the variance of the biases."""

ARD_PARAMETERS = {"alpha0": "alpha_0", "beta0": "beta_0"}
"""The symbols of shape and rate of the precisions' prior."""

EXPONENTS = {"readout": "gamma", "noise": "delta"}
"""The symbols that stand for the exponents of a network's scaling."""

PER_TARGET = ("discrepancy_along_target", "hidden_kernel_overlap")
"""Quantities that are divided by y·y, and so not defined for the target zero."""

ACTIVATIONS: Mapping[str, Callable[[sp.Expr], sp.Expr]] = {
    "identity": lambda h: h,
    "erf": sp.erf,
    "relu": lambda h: sp.Max(h, 0),
    "tanh": sp.tanh,
    "quadratic": lambda h: h**2,
}
"""What each named activation is, as an expression; everything else follows by rules."""


def microscopic_action(network: Network) -> Action:
    r"""The action of f(x) = Σ_i a_i φ(w_i·x) with its priors and its likelihood, all constants included:

    S = Σ_i [N a_i²/2g + ½ ln(2πg/N)] + Σ_id [D w_id²/2σ_w² + ½ ln(2πσ_w²/D)] + Σ_μ [(y_μ-f_μ)²/2s + ½ ln 2πs].

    With biases the pre-activation is w_i·x + b_i, and Σ_i [b_i²/2σ_b² + ½ ln 2πσ_b²] is added.  Under ARD the term
    of the hidden weights is Σ_id [λ_d w_id²/2 - ½ ln(λ_d/2π)], and the precisions λ are a positive field over the
    inputs with Σ_d [β_0 λ_d - (α_0-1) ln λ_d - α_0 ln β_0 + ln Γ(α_0)].  What is absent leaves no trace.

    Parameters stay symbols; ``definitions`` hold g = σ_a² N^{1-γ} and s = s_0 N^{-δ}.  Quantities: ``output``,
    ``test_output``, ``probed_output`` (v·f) and its square, ``hidden_kernel`` (Σ_i (v·h_i)²/N), ``readout_norm``
    (Σ a_i²), ``discrepancy_along_target``; under ARD ``precision`` (λ).
    """
    N, D, P, P_test = (sp.Symbol(name, positive=True) for name in ("N", "D", "P", "P_*"))
    g, s = sp.Symbol("g", positive=True), sp.Symbol("s", positive=True)
    sigma_a2, sigma_w2, s_0 = (sp.Symbol(name, positive=True) for name in HYPERPARAMETERS.values())
    site, inputs, sample, test = Space("site", N), Space("input", D), Space("sample", P), Space("test", P_test)
    a, w = Entry("a", "real", (site,)), Entry("w", "real", (site, inputs))
    X, X_test = Entry("X", "data", (sample, inputs)), Entry("X_*", "data", (test, inputs))
    y, v = Entry("y", "data", (sample,)), Entry("v", "data", (sample,))
    gamma, delta = (sp.Symbol(name, real=True) for name in EXPONENTS.values())
    definitions: dict[sp.Expr, sp.Expr] = {g: sigma_a2 * N**(1 - gamma), s: s_0 * N**(-delta)}
    phi, fields, prior, shift = activation_function(network.activation), [a, w], sp.S.Zero, sp.S.Zero
    precision: sp.Expr = D / sigma_w2
    if isinstance(network.prior, ARD):
        precision = Entry("lambda", "positive", (inputs,))
        alpha, beta = (sp.Symbol(name, positive=True) for name in ARD_PARAMETERS.values())
        prior += SpaceSum(beta * precision - (alpha - 1) * sp.log(precision) - alpha * sp.log(beta)
                          + sp.loggamma(alpha), inputs)
        fields.append(precision)
        if network.prior.beta0 is None:
            definitions[beta] = alpha * sigma_w2 / D
    if network.has_bias:
        sigma_b2, b = sp.Symbol(BIAS_PARAMETER, positive=True), Entry("b", "real", (site,))
        prior += SpaceSum(b**2 / (2 * sigma_b2) + sp.log(2 * sp.pi * sigma_b2) / 2, site)
        fields.append(b)
        shift = b
    hidden = SpaceSum(X * w, inputs) + shift
    output = SpaceSum(a * phi(hidden), site)
    expr = (SpaceSum(N * a**2 / (2 * g) + sp.log(2 * sp.pi * g / N) / 2, site)
            + sum_over(precision * w**2 / 2 + sp.log(2 * sp.pi / precision) / 2, (inputs, site)) + prior
            + SpaceSum((y - output)**2 / (2 * s) + sp.log(2 * sp.pi * s) / 2, sample))
    quantities = {
        "output": output,
        "test_output": SpaceSum(a * phi(SpaceSum(X_test * w, inputs) + shift), site),
        "probed_output": SpaceSum(v * output, sample),
        "probed_output_squared": SpaceSum(v * output, sample)**2,
        "hidden_kernel": SpaceSum(SpaceSum(v * hidden, sample)**2, site) / N,
        "readout_norm": SpaceSum(a**2, site),
        "discrepancy_along_target": SpaceSum(y * (y - output), sample) / SpaceSum(y**2, sample),
    }
    if isinstance(network.prior, ARD):
        quantities["precision"] = precision
    return Action(tidy(expr), fields, definitions=definitions, quantities=quantities, width=N)


def site_quantities(action: Action) -> dict[str, sp.Expr]:
    """What theories that keep the law of one site can say beyond the quantities of :func:`microscopic_action`.

    ``weight_second_moment`` is (1/N) Σ_i w_id², open in the inputs, and ``test_output_squared`` is f(x)² at the test
    inputs.  Where the hidden weights are integrated out pointwise neither has a meaning, so that not every action of a
    network carries them.
    """
    site = action.space("site")
    return {"weight_second_moment": SpaceSum(action["w"]**2, site) / site.size,  # type: ignore[operator]
            "test_output_squared": action.quantities["test_output"]**2}


def out_of_sight(network: Network, orders: Sequence[int]) -> str | None:
    """Why features overlap with no mode of these orders, or not with all; None where they may (biases: always).

    By rule, for inputs with an even law: :func:`fieldtheory.symbolic.bases.obstruction`.
    """
    if not orders or network.has_bias:
        return None
    h = sp.Symbol("h", real=True)
    reasons = [obstruction(activation_function(network.activation)(h), h, order) for order in orders]
    if None not in reasons:
        return f"the network cannot see the target: {reasons[0]}"
    unseen = [reason for reason in reasons if reason is not None]
    return f"the network cannot see all of the target: {'; '.join(unseen)}" if unseen else None


def activation_function(activation: Any) -> Callable[[sp.Expr], sp.Expr]:
    """The activation of a network as a function of expressions; BadInput for what is neither name nor expression."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation]
    if not isinstance(activation, sp.Expr) or len(activation.free_symbols) != 1:
        raise BadInput("activation", activation, "a name, or a SymPy expression in one symbol")
    (symbol,) = activation.free_symbols
    return lambda h: activation.xreplace({symbol: h})
