"""Samples of a network's weight posterior: from a network and data to chains, and from draws to named observables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from fieldtheory.errors import BadInput, UnknownName
from fieldtheory.network import Network
from fieldtheory.sampling.chain import Start
from fieldtheory.sampling.chains import Progress, run
from fieldtheory.sampling.diagnostics import to_inference_data
from fieldtheory.sampling.methods import Method, find_method
from fieldtheory.sampling.posterior import Posterior
from fieldtheory.tasks import Dataset, check_dataset

Array = NDArray[np.float64]


def sample(
    net: Network,
    data: Dataset,
    *,
    method: str | Method = "mala",
    chains: int = 8,
    draws: int = 2000,
    warmup: int | None = None,
    thin: int = 1,
    step: float | None = None,
    seed: int = 0,
    progress: Progress = False,
    activation_functions: tuple[Callable, Callable] | None = None,
    directions: ArrayLike | None = None,
    initial: Literal["prior", "zero"] | tuple[ArrayLike, ArrayLike] = "prior",
    threads: int | None = None,
) -> Any:
    """Draw from the posterior over the weights of `net` given `data`, by Langevin or Hamiltonian chains.

    Equation: density exp(-U), U as in `posterior`; no theory enters. MALA and HMC are unbiased at any step,
        ULA has a bias of the order of the step squared.
    Shapes: `posterior` holds `output` (chain, draw, sample); `test_output` (chain, draw, test) when there are
        test inputs; (chain, draw) `readout_norm`, sum_i a_i^2, and, unless y = 0, `hidden_kernel_overlap`,
        (1/N) sum_i (y.h_i)^2 / y.y with h_i = X w_i; and for `directions` u (k, D) `direction_overlap`
        (chain, draw, direction), (1/N) sum_i (w_i.u)^2 / u.u. None depends on the order of the neurons, or
        for odd activations on their sign. `sample_stats` holds `acceptance_rate`, `lp` = -U, `energy` (U plus
        the momentum's), `step_size`, `n_steps`, `diverging`; `observed_data` the target.
    Arguments: `method` "ula", "mala", "hmc" or a `Method`. One draw in `thin` iterations is kept, after
        `warmup` iterations (None: half as many as follow, at least 500) in which the step is adapted, unless
        `step` gives the leapfrog step e (Langevin time e^2/2 per step, where the prior is N(0, 1)).
        `progress`: True for a bar, or a function of (iterations done, of how many). `activation_functions`:
        Numba-compilable phi and its derivative, number to number, for an activation without a name.
        `initial`: where chains start, "prior", "zero" or weights a (N,) and w (N, D). `threads`: chains run
        at a time (None: one per processor).
    Scaling: one gradient costs 4 N P D operations; for the identity activation O(N D + D^2), whatever P.
        Inputs are first rotated into their span when that is smaller (exact: the prior is isotropic).
    Validity: every number of the network given, `noise_variance` > 0. A dataset made from a kernel has no
        inputs: a factor of the kernel serves as inputs, without test outputs and directions.
    Returns an ArviZ InferenceData, from ArviZ 1 on an xarray DataTree.
    Errors: BadInput naming the argument, among others for a step at which a chain diverges or never accepts;
        UnknownName for a method or start; NotConverged when adaptation finds no usable step.
    """
    check_dataset(data)
    method = find_method(method)
    width = net.resolve_width()
    if net.weight_variance is None:
        raise BadInput("weight_variance", None, "a number (it is still a symbol)")
    if net.input_dim is not None and net.input_dim != data.input_dim:
        raise BadInput("data", f"inputs of dimension {data.input_dim}", f"the network's {net.input_dim}")
    with threadpool_limits(1, user_api="blas"):
        inputs = _Inputs.of(data, float(net.weight_variance), directions)
    posterior = Posterior(
        width=width,
        readout_prior_variance=net.readout_prior_variance(),
        weight_prior_variance=inputs.weight_prior_variance,
        noise_variance=net.effective_noise_variance(),
        X=inputs.X,
        y=data.y,
        activation=net.activation,
        activation_functions=activation_functions,
        points=inputs.points,
        directions=inputs.directions,
    )
    drawn = run(
        posterior.energy,
        posterior.observables,
        posterior.row_size,
        _start(posterior, inputs, initial),
        method=method,
        chains=chains,
        draws=draws,
        warmup=warmup,
        thin=thin,
        step=step,
        seed=seed,
        threads=threads,
        progress=progress,
    )

    P, M = data.samples, len(inputs.points)
    target_rows = len(inputs.directions) - (0 if directions is None else len(np.asarray(directions)))
    columns: dict[str, tuple[tuple[str, ...], Any]] = {
        "output": (("sample",), slice(P)),
        "test_output": (("test",), slice(P, M)),
        "readout_norm": ((), M),
        "hidden_kernel_overlap": ((), M + 1),
        "direction_overlap": (("direction",), slice(M + 1 + target_rows, None)),
    }
    absent = {
        "test_output": M == P,
        "hidden_kernel_overlap": not target_rows,
        "direction_overlap": directions is None,
    }
    return to_inference_data(
        {
            name: (dims, drawn.rows[:, :, where])
            for name, (dims, where) in columns.items()
            if not absent.get(name)
        },
        drawn.statistics,
        {"target": (("sample",), data.y)},
        {
            "method": method.name,
            "seed": seed,
            "thin": thin,
            "dataset": data.name,
            "width": width,
            "activation": str(net.activation),
            "scaling": net.scaling.name,
        }
        | {
            name: float(getattr(net, name))
            for name in ("readout_variance", "weight_variance", "noise_variance")
        },
    )


@dataclass(frozen=True)
class _Inputs:
    """What the posterior needs of the data, in coordinates that span the inputs.

    `basis` (D, d) maps hidden weights to those coordinates, None for the identity. The first of the
    `directions` is X^T y / |y|, unless y = 0: (w . X^T y)^2 / y.y = (y.h)^2 / y.y.
    """

    X: Array
    points: Array
    directions: Array
    weight_prior_variance: float
    basis: Array | None = None

    @classmethod
    def of(cls, data: Dataset, weight_variance: float, directions: ArrayLike | None) -> _Inputs:
        if data.X is None:
            if data.test_samples:
                raise BadInput("data", "a kernel with test points", "inputs X and X_test, or no test points")
            if directions is not None:
                raise BadInput("directions", "directions for a kernel", "a dataset with inputs X")
            spectrum = data.spectrum(1.0)
            X = spectrum.basis * np.sqrt(spectrum.eigenvalues[: spectrum.rank])
        else:
            X, weight_variance = data.X, weight_variance / data.X.shape[1]
        marks = np.empty((0, X.shape[1])) if directions is None else _unit(directions, X.shape[1])
        points = X if data.X_test is None else np.concatenate([X, data.X_test])
        basis, spanning = None, np.concatenate([points, marks])
        if np.any(data.y):
            marks = np.concatenate([(X.T @ data.y)[None] / np.linalg.norm(data.y), marks])
        if len(spanning) < X.shape[1]:
            basis = np.linalg.qr(spanning.T)[0]
            points, marks = points @ basis, marks @ basis
        return cls(points[: data.samples], points, marks, weight_variance, basis)


def _unit(directions: ArrayLike, input_dim: int) -> Array:
    u = np.array(directions, dtype=float)
    if u.ndim != 2 or u.shape[1] != input_dim or not np.isfinite(u).all():
        raise BadInput(
            "directions", f"an array of shape {u.shape}", f"finite numbers, shape (k, {input_dim})"
        )
    norms = np.linalg.norm(u, axis=1, keepdims=True)
    if not norms.all():
        raise BadInput("directions", "a direction of length 0", "directions of positive length")
    return u / norms


def _start(posterior: Posterior, inputs: _Inputs, initial: Any) -> Start:
    """The function that draws a chain's first position."""
    if isinstance(initial, str):
        if initial == "prior":
            return lambda rng: rng.standard_normal(posterior.size)
        if initial == "zero":
            return lambda rng: np.zeros(posterior.size)
        raise UnknownName("initial", initial, ["prior", "zero"])
    N, D = posterior.width, posterior.X.shape[1] if inputs.basis is None else len(inputs.basis)
    try:
        readout, hidden = (np.asarray(part, dtype=float) for part in initial)
    except (TypeError, ValueError):
        raise BadInput(
            "initial", type(initial).__name__, "'prior', 'zero', or a pair of weights (a, w)"
        ) from None
    if readout.shape != (N,) or hidden.shape != (N, D):
        raise BadInput(
            "initial", f"weights of shapes {readout.shape} and {hidden.shape}", f"({N},) and ({N}, {D})"
        )
    position = posterior.whiten(readout, hidden if inputs.basis is None else hidden @ inputs.basis)
    return lambda rng: position
