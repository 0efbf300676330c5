"""Observables of the linear network at finite width, as averages over the posterior of Q."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fieldtheory.dataset import Dataset, Spectrum, check_dataset
from fieldtheory.errors import BadInput, UnknownName
from fieldtheory.exact.posterior import QPosterior
from fieldtheory.network import Network

Array = NDArray[np.float64]

ON_REQUEST = ("hidden_kernel", "log_evidence_gradient", "output_covariance")
ALWAYS = (
    "discrepancy_along_target", "hidden_kernel_overlap", "log_evidence", "mean_output", "readout_norm",
    "test_output", "variance_along_mean_output",
)  # fmt: skip


def _resolve(net: Network, data: Dataset, width: int | None) -> tuple[Spectrum, int, float, float]:
    """Spectrum, N, g, s of a linear network and a data set that fit each other."""
    check_dataset(data)
    if not (isinstance(net.activation, str) and net.activation == "identity"):
        raise BadInput(
            "activation", repr(net.activation), "'identity': the exact oracle is for the linear network"
        )
    if net.input_dim is not None and data.input_dim is not None and net.input_dim != data.input_dim:
        raise BadInput("input_dim", net.input_dim, f"{data.input_dim}, the input dimension of the data")
    net.plain("the exact oracle", bias=True)
    bias, weight = net.bias_variance, net.weight_variance
    if weight is None or bias is None:
        name = "weight_variance" if weight is None else "bias_variance"
        raise BadInput(name, None, "a number (it is still a symbol)")
    if bias:
        data = data.with_bias(float(bias) / float(weight))
    N = net.resolve_width(width)
    g, s = net.effective_readout_variance(N), net.effective_noise_variance(N)
    return data.spectrum(float(weight)), N, g, s


def linear_posterior(
    net: Network, data: Dataset, *, width: int | None = None, digits: int | None = None
) -> QPosterior:
    """The posterior of Q for a linear network and a data set; `width` overrides the network's own."""
    modes, N, g, s = _resolve(net, data, width)
    return QPosterior(modes.eigenvalues, modes.target_modes, N, g, s, digits)


def linear(
    net: Network,
    data: Dataset,
    *,
    width: int | None = None,
    outputs: Sequence[str] | None = None,
    digits: int | None = None,
) -> xr.Dataset:
    """Posterior observables of the linear network at finite width, exact up to quadrature.

    Equations, with A = (Q K + s)^-1 and averages E over p(Q | y):
        mean_output           <f> = E[Q K A y];  test_output  E[Q K_* A y]
        output_covariance     Cov f = E[s Q K A] + Cov_Q(Q K A y)
        hidden_kernel         <(1/N) sum_i h_i h_i^T> = ((N - 1) K + E[s K A + Q K A y y^T A K]) / N, h = X w
        log_evidence          ln Z = ln E_Q N(y; 0, Q K + s)
        log_evidence_gradient d ln Z / d theta = E[d ln N(y; 0, Q K + s) / d theta] at fixed Q / g (Fisher)
    Shapes: the layout of a prediction: mean_output (sample), test_output (test) with test inputs, the scalars
        variance_along_mean_output, discrepancy_along_target, hidden_kernel_overlap, readout_norm,
        log_evidence; beside them, when named in `outputs`, output_covariance and hidden_kernel (sample,
        other_sample) and log_evidence_gradient (hyperparameter).
    Scaling: any; N is `width` or the network's own. Cost: the spectrum, then O(P) per node, some hundred
        nodes.
    Validity: identity activation, fixed prior; biases enter as K + bias_variance 1 1^T. noise_variance = 0 where
        the limit exists: then f = y, and the evidence is that of N(y; 0, QK), +inf if K is singular. A direction
        of zero length (y = 0) leaves its scalar NaN.
    Precision: 1e-10 relative in float64; `digits` does the quadrature in that many digits and rounds to
        float64 at the end (the spectrum stays float64: `QPosterior` takes exact modes). attrs["residual"] is
        the quadrature's error estimate.
    Errors: BadInput naming the argument; UnknownName for an output that does not exist; NotConverged.
    """
    asked = () if outputs is None else tuple(outputs)
    for name in asked:
        if name not in ON_REQUEST + ALWAYS:
            raise UnknownName("outputs", name, ON_REQUEST + ALWAYS)
    if "log_evidence_gradient" in asked and net.has_bias:
        raise BadInput("outputs", "log_evidence_gradient", "a network without biases for the gradient: it goes along "
                       "the kernel as a whole")
    modes, N, g, s = _resolve(net, data, width)
    r, named = modes.rank, ("readout_variance", "weight_variance", "noise_variance")
    priors = {name: float(getattr(net, name)) for name in named}
    posterior = QPosterior(modes.eigenvalues, modes.target_modes, N, g, s, digits)
    backend = posterior.backend
    s_, null_count, null_y2 = posterior.s, posterior.null_count, posterior.null_y2
    with backend.working():
        lam, y = backend.array(modes.eigenvalues[:r]), backend.array(modes.target_modes[:r])
        y2 = y**2

    def per_node(Q: Any) -> tuple[Any, ...]:
        v = lam * Q + s_
        shrink = y2 / v
        overlap = (lam * shrink).sum()
        return (
            lam / v * Q,  # Q K A, mode by mode
            1 / v * Q,  # Q A
            (shrink * s_).sum(),
            overlap * s_ + overlap**2 * Q,
            Q,
            ((shrink - 1) * lam / v).sum() * Q / 2,  # d ln N(y; 0, QK + s) / d ln K
            ((shrink - 1) / v).sum() / 2,  # and by s, on the range of K
            1 / v * s_,  # 1 - Q K A without cancellation
        )

    means = posterior.expect(per_node)
    with backend.working():
        shares, rest = backend.array(means[0]), backend.array(means[7])
        mean = shares * y
        norm2, y_norm2 = (mean**2).sum(), y2.sum() + null_y2
    if norm2 > 0:
        spread = posterior.expect(lambda Q: (_deviation(Q, lam, s_, shares, rest) * (mean * y)).sum() ** 2)
        variance = float(((mean**2 * shares).sum() * s_ + spread) / norm2)
    else:
        variance = math.nan
    with backend.working():
        overlap = ((N - 1) * (lam * y2).sum() + means[3]) / N
        scalars = {
            "variance_along_mean_output": variance,
            "discrepancy_along_target": float((means[2] + null_y2) / y_norm2) if y_norm2 > 0 else math.nan,
            "hidden_kernel_overlap": float(overlap / y_norm2) if y_norm2 > 0 else math.nan,
            "readout_norm": float(means[4]),
            "log_evidence": float(posterior.log_evidence),
        }

    def padded(values: Any) -> Array:
        return np.concatenate([_floats(values), np.zeros(data.samples - r)])

    variables: dict[str, Any] = {"mean_output": ("sample", modes.from_modes(padded(mean)))}
    if modes.test_basis is not None:
        variables["test_output"] = (
            "test",
            modes.test_from_modes(padded(backend.array(means[1]) * y)),
        )
    variables.update(scalars)
    if {"output_covariance", "hidden_kernel"} & set(asked):
        variables.update(_matrices(asked, posterior, modes, s, N, _floats(shares), _floats(rest)))
    if "log_evidence_gradient" in asked:
        by_kernel, by_noise = float(means[5]), float(means[6])
        if null_count:
            by_noise += -math.inf if s == 0 else float(null_y2 / s_ - null_count) / (2 * s)
        chain = net.replace(noise_variance=1).effective_noise_variance(N)
        by_variances = [by_kernel / priors["readout_variance"], by_kernel / priors["weight_variance"]]
        variables["log_evidence_gradient"] = ("hyperparameter", [*by_variances, by_noise * chain])
    coordinates = {"hyperparameter": list(priors)}
    singular = s == 0 and null_count > 0
    return xr.Dataset(
        variables,
        coords=coordinates if "log_evidence_gradient" in asked else {},
        attrs={
            "theory": "exact",
            "status": "interpolates; the log evidence diverges because K is singular" if singular else "ok",
            "residual": posterior.residual,
            "remainder": "none: exact at finite width",
            "dataset": data.name,
            "width": N,
            "scaling": net.scaling.name,
            **priors,
            "bias_variance": float(net.bias_variance or 0.0),
            "prior": str(net.prior),
            "effective_readout_variance": g,
            "effective_noise_variance": s,
        },
    )


def _floats(values: Any) -> Array:
    return np.asarray(values, dtype=np.float64)


def _deviation(Q: Any, lam: Any, s: Any, shares: Any, rest: Any) -> Any:
    """Q K A - E[Q K A], mode by mode, from the smaller of Q K A and 1 - Q K A = s A: exact as s -> 0."""
    v = lam * Q + s
    return np.where(shares < rest, lam / v * Q - shares, rest - 1 / v * s)


def _matrices(
    asked: Sequence[str], posterior: QPosterior, modes: Spectrum, s: float, N: int, shares: Array, rest: Array
) -> dict[str, tuple[tuple[str, str], Array]]:
    """The (P, P) observables: a diagonal in the modes plus a Gram matrix over nodes, never indefinite."""
    r, dims = modes.rank, ("sample", "other_sample")
    lam, y = modes.eigenvalues[:r], modes.target_modes[:r]
    Q, p = (_floats(array)[:, None] for array in posterior.nodes())
    keep = p[:, 0] > 1e-40
    Q, p = Q[keep], p[keep]
    v = lam * Q + s
    found = {}

    def assemble(diagonal: Array, rows: Array) -> Array:
        factor = modes.basis @ rows.T
        return (modes.basis * diagonal) @ modes.basis.T + factor @ factor.T

    if "output_covariance" in asked:
        rows = np.sqrt(p) * _deviation(Q, lam, s, shares, rest) * y
        found["output_covariance"] = (dims, assemble(s * shares, rows))
    if "hidden_kernel" in asked:
        rows = np.sqrt(p * Q) * (lam / v) * y
        diagonal = (N - 1) * lam + s * (p * (lam / v)).sum(axis=0)
        found["hidden_kernel"] = (dims, assemble(diagonal / N, rows / math.sqrt(N)))
    return found
