"""Many chains: seeds, threads, warm-up, progress, interruption.

Each chain has its own random stream, spawned from the seed by the chain's number, and its own step. The
result is a function of the arguments alone: how many threads run, and where progress is reported, does not
change one bit of it.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from fieldtheory.errors import BadInput, NotConverged, UnknownName
from fieldtheory.network import Network
from fieldtheory.sampling import methods
from fieldtheory.sampling.diagnostics import to_inference_data
from fieldtheory.sampling.methods import Method, find_method
from fieldtheory.sampling.posterior import Bound, Posterior
from fieldtheory.tasks import Dataset, check_dataset

Array = NDArray[np.float64]
Progress = bool | Callable[[int, int], None]
Start = Callable[[np.random.Generator], Array]

# One call of the stepper should last about this long: between calls a chain looks whether it is to stop.
_CALL_SECONDS = 0.1
_FIRST_STEP = 0.1
# A chain that accepts less than this has not moved enough to mean anything.
_STUCK = 0.01
_SMALLEST_STEP = 1e-10


@dataclass(frozen=True)
class Draws:
    """Kept draws of all chains: `rows` (chain, draw, observable), `statistics` name -> (chain, draw)."""

    rows: Array
    statistics: dict[str, Array]


class _Chain:
    """One chain: a state that `advance` carries forward, in as many calls as convenient."""

    def __init__(
        self,
        number: int,
        energy: Bound,
        observe: Bound,
        method: Method,
        seed: np.random.SeedSequence,
        start: Start,
        step: float | None,
    ) -> None:
        self.number, self.energy, self.observe = number, energy, observe
        self.method, self.given_step = method, step
        self.rng = np.random.default_rng(seed)
        position = start(self.rng)
        self.state = np.zeros((5, len(position)))
        self.state[0] = position
        self.scalars = np.zeros(methods.SLOTS)
        self.scalars[methods.ENERGY] = math.nan
        self.advance(np.empty((0, 0)), np.empty((0, 0)), adapt=False)  # compiles; evaluates the first energy
        if not math.isfinite(self.scalars[methods.ENERGY]):
            raise BadInput("initial", f"a start where the energy of chain {number} is not finite", "another")
        self.done, self._calls = 0, 1.0

    def advance(self, rows: Array, stats: Array, adapt: bool, thin: int = 1) -> int:
        """Fill `rows` and `stats`, as far as the chain stays finite; the number of draws completed."""
        m = self.method
        return methods.advance(
            self.energy.function,
            self.energy.arrays,
            self.observe.function,
            self.observe.arrays,
            self.state,
            self.scalars,
            self.rng,
            m.leapfrog,
            m.trajectory or 0.0,
            m.jitter,
            m.accept or adapt,
            m.target_acceptance,
            adapt,
            thin,
            rows,
            stats,
        )

    def run(self, rows: Array, stats: Array, warmup: int, thin: int, stopped: Callable[[], bool]) -> None:
        """Warm up, freeze the step, and fill `rows` and `stats`, unless `stopped` in between."""
        adapt = self.given_step is None
        step = self.given_step or _FIRST_STEP
        # Adaptation starts afresh half way: what it learned on the way in is not about the posterior.
        for length in (warmup // 2, warmup - warmup // 2):
            methods.restart_adaptation(self.scalars, step)
            self._cover(np.empty((length, 0)), np.empty((length, stats.shape[1])), adapt, 1, stopped)
            if adapt and length:
                step = math.exp(self.scalars[methods.LOG_STEP_MEAN])
        if step < _SMALLEST_STEP and adapt and not stopped():
            raise NotConverged(f"warm-up shrank the step of chain {self.number} to nothing", residual=step)
        methods.restart_adaptation(self.scalars, step)
        self._cover(rows, stats, False, thin, stopped)

    def _cover(self, rows: Array, stats: Array, adapt: bool, thin: int, stopped: Callable[[], bool]) -> None:
        begin = 0
        while begin < len(stats) and not stopped():
            end = min(len(stats), begin + max(1, int(self._calls / thin)))
            began = time.perf_counter()
            completed = self.advance(rows[begin:end], stats[begin:end], adapt, thin)
            if completed < end - begin:
                self._diverged(self.done + completed * thin)
            elapsed = max(time.perf_counter() - began, 1e-6)
            self._calls = min((end - begin) * thin * _CALL_SECONDS / elapsed, 4.0 * self._calls)
            self.done += (end - begin) * thin
            begin = end

    def _diverged(self, iteration: int) -> None:
        step = math.exp(self.scalars[methods.LOG_STEP])
        cure = f"below {step:.3g}, or a method with an accept test (mala, hmc)"
        what = f"chain {self.number} left the finite numbers at iteration {iteration}"
        if self.given_step is not None:
            raise BadInput("step", f"{self.given_step}, with which {what}", f"a step {cure}")
        raise NotConverged(f"{what} with the adapted step; give a step {cure}", residual=math.inf)


def run(
    energy: Callable[[], Bound],
    observe: Callable[[], Bound],
    row_size: int,
    start: Start,
    *,
    method: str | Method = "mala",
    chains: int = 8,
    draws: int = 2000,
    warmup: int | None = None,
    thin: int = 1,
    step: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = False,
) -> Draws:
    """Sample exp(-U) for any compiled energy U; `sample` is this for a network.

    `energy` and `observe` make one `Bound` per chain (their workspaces are not shared); `start` draws a
    position from a chain's random generator; the other arguments are those of `sample`.
    """
    method = find_method(method)
    counts = {"chains": (chains, 1), "draws": (draws, 1), "thin": (thin, 1), "seed": (seed, 0)}
    counts |= {"warmup": (warmup or 0, 0), "threads": (1 if threads is None else threads, 1)}
    for name, (value, least) in counts.items():
        _check_count(name, value, least)
    if step is not None and not 0 < step < math.inf:
        raise BadInput("step", repr(step), "a positive number, or None to adapt it in warm-up")
    warmup = max(500, draws * thin // 2) if warmup is None else warmup
    if step is None and warmup < 20:
        raise BadInput("warmup", warmup, "at least 20 iterations to adapt the step, or a step")

    rows = np.empty((chains, draws, row_size))
    stats = np.empty((chains, draws, len(methods.STATISTICS)))
    stop = threading.Event()
    seeds = np.random.SeedSequence(seed).spawn(chains)
    # Chains run in parallel: OpenBLAS threads inside them would collapse, and could change the last bits.
    with (
        threadpool_limits(1, user_api="blas"),
        _reporter(progress, chains * (warmup + draws * thin)) as report,
    ):
        team = [_Chain(k, energy(), observe(), method, seeds[k], start, step) for k in range(chains)]
        with ThreadPoolExecutor(min(chains, threads or os.cpu_count() or 1)) as pool:
            pending = {
                pool.submit(chain.run, rows[k], stats[k], warmup, thin, stop.is_set)
                for k, chain in enumerate(team)
            }
            try:
                while pending:
                    finished, pending = wait(pending, timeout=0.1)
                    for future in finished:
                        future.result()
                    report(sum(chain.done for chain in team))
            except BaseException:  # an interrupt too: let the threads end before it goes on
                stop.set()
                raise
    acceptance = stats[:, :, methods.STATISTICS.index("acceptance_rate")].mean(axis=1)
    if method.accept and acceptance.min() < _STUCK:
        worst = int(acceptance.argmin())
        what = f"chain {worst} accepted {acceptance[worst]:.2%} of its proposals"
        if step is not None:
            raise BadInput(
                "step", f"{step}, with which {what}", "a smaller step, or None to adapt it in warm-up"
            )
        raise NotConverged(
            f"{what} with the adapted step; a longer warm-up may help", residual=1 - acceptance[worst]
        )
    return Draws(rows, {name: stats[:, :, k] for k, name in enumerate(methods.STATISTICS)})


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise BadInput(name, repr(value), f"an integer >= {least}")


@contextlib.contextmanager
def _reporter(progress: Progress, total: int) -> Iterator[Callable[[int], None]]:
    if callable(progress):
        yield lambda done: progress(done, total)
    elif progress:
        from rich.progress import Progress as Bar

        with Bar(transient=True) as bar:
            task = bar.add_task("sampling", total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        yield lambda done: None


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
