"""Samples of a network's weight posterior: from a network and data to chains, and from draws to named observables."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from fieldtheory.dataset import Dataset, check_dataset
from fieldtheory.errors import BadInput, UnknownName
from fieldtheory.network import Network
from fieldtheory.sampling.chain import Start
from fieldtheory.sampling.chains import run
from fieldtheory.sampling.checkpoint import digest_of, digest_of_functions
from fieldtheory.sampling.diagnostics import to_inference_data
from fieldtheory.sampling.gibbs import (
    check_blocks,
    check_precision,
    network_update,
    updates_per_iteration,
)
from fieldtheory.sampling.methods import Method, find_method
from fieldtheory.sampling.posterior import Bound, Posterior
from fieldtheory.sampling.progress import Progress
from fieldtheory.sampling.store import Layout, Store
from fieldtheory.sampling.tempering import geometric_ladder

Array = NDArray[np.float64]


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

    Equation: density exp(-U), U as in `posterior`; no theory enters. MALA and HMC are unbiased at any step,
        ULA has a bias of the order of the step squared.
    Shapes: `posterior` holds `output` (chain, draw, sample); `test_output` (chain, draw, test) when there are
        test inputs; (chain, draw) `readout_norm`, sum_i a_i^2, and, unless y = 0, `hidden_kernel_overlap`,
        (1/N) sum_i (y.h_i)^2 / y.y with h_i = X w_i; and for `directions` u (k, D) `direction_overlap`
        (chain, draw, direction), (1/N) sum_i (w_i.u)^2 / u.u. None depends on the order of the neurons, or
        for odd activations on their sign. `sample_stats` holds `acceptance_rate`, `lp` = -U, `energy` (U plus
        the momentum's), `step_size`, `n_steps` (gradients), `diverging`, and under tempering `exchange_k`, the
        probability with which rungs k and k + 1 exchanged positions; `observed_data` the target.
    Arguments: `method` "hmc", "mala", "ula", "underdamped", "sgld" or a `Method`. One draw in `thin` iterations is
        kept, after `warmup` iterations (None: half as many as follow, at least 500) in which the step is adapted,
        unless `step` gives it: the e of one step of the splitting (Langevin time e^2/2, where the prior is N(0, 1)).
        `dtype`: "float64" or "float32". `gibbs`: blocks drawn exactly given the rest, "readout" and, under an ARD
        prior, "precision", after every `gibbs_every` iterations (None: when they have cost as much as the draw).
        `tempering`: a ladder of chains at growing noise that exchange positions, a number of rungs or their noise
        variances; the coldest, at the network's own, is kept. `batch_size`: samples per minibatch for "sgld" (None:
        a quarter). `adapt_mass`: whether warm-up also measures the width of each coordinate. `target_acceptance`: what
        the step is adapted to (None: the method's own, .8 for hmc); nearer to 1 where draws diverge.
        `activation_functions`: Numba-compilable phi and its derivative, number to number, for an activation
        without a name; an expression in one symbol is differentiated and compiled by `fieldtheory.sample`, which is
        this function otherwise (on disk, so that a second process pays milliseconds), unless it jumps.
        `initial`: where chains start, "prior" (under ARD, with all precisions at their mean), "zero" or weights
        a (N,), w (N, D) and, with biases, b (N,).
        `progress`: True for bars in a terminal, or a function of (iterations done, of how many). `threads`: chains
        run at a time (None: one per processor); the draws do not depend on it.
    Long runs: `out`, a folder ending in .zarr, receives the draws while they are made, and is what is returned,
        read lazily: memory does not grow with `draws`. Every `checkpoint_every` seconds, and when an interrupt
        or a failure ends the run, each chain is saved; the same call with `resume=True` goes on, whatever ended
        the run and whenever, and the draws are bit by bit those of a run that nothing ended (on the same versions
        and processor; else it warns). `resume=True` begins where nothing has begun, and with more `draws` extends
        a run; its warm-up stays what it was, so that only with the same `warmup` the draws are those of asking
        for more at once. Other data or arguments are refused; so is an existing folder without `resume` or
        `overwrite`.
    Scaling: one gradient costs 4 N P D operations; for the identity activation O(N D + D^2), whatever P.
        Inputs are first rotated into their span when that is smaller (exact: the prior is isotropic).
    Validity: every number of the network given, `noise_variance` > 0. A dataset made from a kernel has no
        inputs: a factor of the kernel serves as inputs, without test outputs and directions.
    Returns an ArviZ InferenceData, from ArviZ 1 on an xarray DataTree.
    Errors: BadInput naming the argument, among others for a step at which a chain diverges or never accepts;
        UnknownName for a method, block or start; NotConverged when adaptation finds no usable step; CannotWrite
        for a full disk or a read-only folder; CorruptFile for a run on disk that is not what was written.
    """
    check_dataset(data)
    method = find_method(method)
    if target_acceptance is not None:
        if not isinstance(target_acceptance, Real):
            raise BadInput("target_acceptance", repr(target_acceptance), "a number between 0 and 1, or None")
        method = replace(method, target_acceptance=target_acceptance)
    width = net.resolve_width()
    if net.input_dim is not None and net.input_dim != data.input_dim:
        raise BadInput("data", f"inputs of dimension {data.input_dim}", f"the network's {net.input_dim}")
    with threadpool_limits(1, user_api="blas"):
        inputs = _Inputs.of(net, data, directions)
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
        precision_prior=inputs.precision_prior,
        relevant=data.input_dim,
        dtype=dtype,
    )
    posterior.activation_function()  # refused before anything is written, or evaluated in Python
    if not isinstance(adapt_mass, bool):
        raise BadInput("adapt_mass", repr(adapt_mass), "True or False")
    blocks = check_blocks(gibbs)
    check_precision(blocks, posterior)
    if gibbs_every is not None and (not blocks or isinstance(gibbs_every, bool) or not gibbs_every >= 1):
        raise BadInput("gibbs_every", gibbs_every, "an integer >= 1 beside gibbs, or None")
    every = gibbs_every or updates_per_iteration(blocks, posterior, method.repeats)
    energy, batch = _energy(posterior, method, blocks, batch_size)
    temperatures = None if tempering is None else _temperatures(tempering, net, data)
    if temperatures is not None and method.minibatch:
        raise BadInput("tempering", tempering, "None beside sgld: a minibatch has no energy to exchange")
    start = _start(posterior, inputs, initial)
    layout = _layout(net, data, method, thin, seed, inputs, directions, initial, activation_functions)
    way = {"gibbs": blocks, "gibbs_every": every, "tempering": temperatures, "batch_size": batch_size}
    attributes = {**layout.attributes, "gibbs": ", ".join(blocks), "accept_test": int(method.accept)}
    attributes |= {} if step is None else {"step": float(step)} if isinstance(step, Real) else {}
    layout = replace(layout, identity={**layout.identity, **way, "adapt_mass": adapt_mass}, attributes=attributes)
    if out is None and (resume or overwrite):
        raise BadInput("resume" if resume else "overwrite", True, "out, the folder of the run, beside it")
    store = None if out is None else Store(out, layout, resume=resume, overwrite=overwrite, every=checkpoint_every)
    drawn = run(
        energy,
        posterior.observables,
        posterior.row_size,
        start,
        method=method,
        chains=chains,
        draws=draws,
        warmup=warmup,
        thin=thin,
        step=step,
        seed=seed,
        threads=threads,
        progress=progress,
        store=store,
        temperatures=temperatures,
        adapt_mass=adapt_mass,
        update=network_update(blocks),
        update_every=every,
        **({} if batch is None else {"batch": batch}),
    )
    if store is not None:
        return store.open()
    assert drawn is not None
    return to_inference_data(
        {name: (dims, drawn.rows[:, :, where]) for name, (dims, where) in layout.columns.items()},
        drawn.statistics,
        layout.observed,
        layout.attributes,
    )


def _energy(
    posterior: Posterior, method: Method, blocks: tuple[str, ...], batch_size: int | None
) -> tuple[Callable[[], Bound], tuple[Array, Array] | None]:
    """What makes the energy of one chain, and the data of which it draws minibatches, if it does."""
    if not method.minibatch:
        if batch_size is not None:
            raise BadInput("batch_size", batch_size, f"none beside {method.name!r}, which takes all data")
        return posterior.energy, None
    P = len(posterior.X)
    size = max(1, P // 4) if batch_size is None else batch_size
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 1 <= size <= P:
        raise BadInput("batch_size", repr(size), f"an integer from 1 to {P}, the number of samples")
    if blocks:
        raise BadInput("gibbs", blocks, "no exact draws beside minibatches: they are given all data")
    data = (np.ascontiguousarray(posterior.X, posterior.dtype), np.ascontiguousarray(posterior.y, posterior.dtype))
    return partial(posterior.minibatch, int(size)), data


def _temperatures(tempering: Any, net: Network, data: Dataset) -> tuple[float, ...]:
    """The ladder: so many rungs, up to a noise at which y costs half a unit of energy, or noise variances."""
    if isinstance(tempering, int | np.integer):
        return geometric_ladder(int(tempering), max(4.0, float(data.y @ data.y) / net.effective_noise_variance()))
    own = float(net.noise_variance)  # type: ignore[arg-type]  # a number: the effective one was asked for before
    try:
        variances = sorted({own, *(float(variance) for variance in tempering)})
    except (TypeError, ValueError):
        raise BadInput("tempering", repr(tempering), "a number of rungs, or noise variances") from None
    if variances[0] < own or not math.isfinite(variances[-1]) or len(variances) < 2:
        raise BadInput("tempering", list(tempering), f"noise variances above the network's own, {own:g}")
    return tuple(variance / own for variance in variances)


def _layout(
    net: Network,
    data: Dataset,
    method: Method,
    thin: int,
    seed: int,
    inputs: _Inputs,
    directions: ArrayLike | None,
    initial: Any,
    activation_functions: tuple[Callable, Callable] | None,
) -> Layout:
    """Where the observables stand in a row, what is said of them, and what their law depends on."""
    P, M = data.samples, len(inputs.points)
    target_rows = len(inputs.directions) - (0 if directions is None else len(np.asarray(directions)))
    columns: dict[str, tuple[tuple[str, ...], int | slice]] = {
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
    attributes = {
        "method": method.name,
        "seed": seed,
        "thin": thin,
        "dataset": data.name,
        "width": net.resolve_width(),
        "activation": str(net.activation),
        "scaling": net.scaling.name,
    } | {
        name: float(value)
        for name in ("readout_variance", "weight_variance", "noise_variance", "bias_variance")
        if (value := getattr(net, name)) is not None
    } | {"prior": str(net.prior)}
    identity = {f"net.{part.name}": str(getattr(net, part.name)) for part in fields(net)}
    if activation_functions is not None:  # an activation that is no name may print differently each time
        identity["net.activation"] = digest_of_functions(activation_functions)
    if data.X is None:
        identity["data.kernel"] = digest_of(inputs.X)
    else:
        identity |= {"data.X": digest_of(data.X)}
        identity |= {} if data.X_test is None else {"data.X_test": digest_of(data.X_test)}
    identity["data.y"] = digest_of(data.y)
    identity["directions"] = "None" if directions is None else digest_of(np.asarray(directions, dtype=float))
    identity["initial"] = initial if isinstance(initial, str) else ", ".join(
        digest_of(np.asarray(part, dtype=float)) for part in initial
    )
    return Layout(
        {name: column for name, column in columns.items() if not absent.get(name)},
        {"target": (("sample",), data.y)},
        attributes,
        identity,
    )


@dataclass(frozen=True)
class _Inputs:
    """What the posterior needs of the data, in coordinates that span the inputs.

    `basis` (D, d) maps hidden weights to those coordinates, None for the identity. A bias is one more input, the
    last: the constant `bias_input`, so large that its weight has the prior of all others (0: no biases).
    The first of the `directions` is X^T y / |y|, unless y = 0: (w . X^T y)^2 / y.y = (y.h)^2 / y.y.
    """

    X: Array
    points: Array
    directions: Array
    weight_prior_variance: float
    bias_input: float = 0.0
    precision_prior: tuple[float, float] | None = None
    basis: Array | None = None

    @classmethod
    def of(cls, net: Network, data: Dataset, directions: ArrayLike | None) -> _Inputs:
        if data.X is None:
            if data.test_samples:
                raise BadInput("data", "a kernel with test points", "inputs X and X_test, or no test points")
            if directions is not None:
                raise BadInput("directions", "directions for a kernel", "a dataset with inputs X")
            if net.has_ard:
                raise BadInput("data", "a kernel", "inputs X, to which the precisions of an ARD prior belong")
            spectrum = data.spectrum(1.0)
            X, variance = spectrum.basis * np.sqrt(spectrum.eigenvalues[: spectrum.rank]), net.hidden_prior_variance(1)
        else:
            X, variance = data.X, net.hidden_prior_variance(data.X.shape[1])
        marks = np.empty((0, X.shape[1])) if directions is None else _unit(directions, X.shape[1])
        points = X if data.X_test is None else np.concatenate([X, data.X_test])
        if net.bias_variance is None:
            raise BadInput("bias_variance", None, "a number (it is still a symbol)")
        precision, constant = net.precision_prior(X.shape[1]), math.sqrt(net.bias_variance / variance)
        if constant:
            points = np.column_stack([points, np.full(len(points), constant)])
            marks = np.column_stack([marks, np.zeros(len(marks))])
        X, basis, spanning = points[: data.samples], None, np.concatenate([points, marks])
        if np.any(data.y):
            marks = np.concatenate([(X.T @ data.y)[None] / np.linalg.norm(data.y), marks])
        if len(spanning) < X.shape[1] and not net.has_ard:  # precisions belong to the inputs as they are
            basis = np.linalg.qr(spanning.T)[0]
            points, marks = points @ basis, marks @ basis
        return cls(points[: data.samples], points, marks, variance, constant, precision, basis)


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
            weights = posterior.size - posterior.precisions
            return lambda rng: np.concatenate([rng.standard_normal(weights), np.zeros(posterior.precisions)])
        if initial == "zero":
            return lambda rng: np.zeros(posterior.size)
        raise UnknownName("initial", initial, ["prior", "zero"])
    D = (posterior.X.shape[1] if inputs.basis is None else len(inputs.basis)) - bool(inputs.bias_input)
    N, shapes = posterior.width, [(posterior.width,), (posterior.width, D)]
    names, shapes = ("(a, w, b)", [*shapes, (N,)]) if inputs.bias_input else ("(a, w)", shapes)
    try:
        parts = [np.asarray(part, dtype=float) for part in initial]
    except (TypeError, ValueError):
        raise BadInput(
            "initial", type(initial).__name__, f"'prior', 'zero', or weights {names}"
        ) from None
    if [part.shape for part in parts] != shapes:
        given = ", ".join(str(part.shape) for part in parts)
        raise BadInput("initial", f"weights of shapes {given}", f"{names} of shapes {', '.join(map(str, shapes))}")
    readout, hidden = parts[0], parts[1]
    if inputs.bias_input:
        hidden = np.column_stack([hidden, parts[2] / inputs.bias_input])
    position = posterior.whiten(readout, hidden if inputs.basis is None else hidden @ inputs.basis)
    return lambda rng: position
