"""Gradient steps of the samplers: steps per second, share of the machine's matrix products, and peers beside them.

Four networks (N, D, P) in both precisions. A gradient of f = sum_i a_i phi(w_i . x) counts as 4 N P D + 4 N P
operations, and the share is that rate over the rate of a square product of the same precision (NumPy's), both on
one thread, the least CPU time of many turns in which all that is compared takes part. Steps per second are those
of two chains on two threads, again in turns with the peers: unadjusted Langevin, momentum and random numbers
included, with the gradient written by hand in PyTorch, and by BlackJAX's SGLD on the full batch (each peer in two
arrangements, one chain to a thread or both in one call: the faster counts). What is not installed is left out,
and named.

With `make bench PYTEST_ARGS="-s tests/benchmark/test_sampling.py"` the tables are printed; they are in the
benchmark's extra information too.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numba import njit
from threadpoolctl import threadpool_limits

from fieldtheory.sampling import METHODS, Posterior, ess, methods, rhat
from fieldtheory.sampling.chain import Chain
from fieldtheory.sampling.random import fill_normal, new_stream

pytestmark = pytest.mark.slow

SIZES = {"A": (64, 16, 128), "B": (256, 32, 512), "C": (512, 64, 2000), "D": (1024, 100, 4000)}
PRECISIONS = ["float64", "float32"]
STEP = 1e-3
# Each turn of a measurement lasts about so long, and there are so many.
SECONDS, TURNS = 0.05, 12


def posterior(size: str, activation: str, dtype: str, factor: int = 1) -> Posterior:
    N, D, P = SIZES[size]
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(factor * P, D)), rng.normal(size=factor * P)
    return Posterior(N, 1 / N, 1 / D, 0.1, X, y, activation, dtype=dtype)


def operations(size: str) -> int:
    N, D, P = SIZES[size]
    return 4 * N * P * D + 4 * N * P


def least(jobs: dict[str, Callable[[int], None]], clock: Callable[[], Any]) -> dict[str, Any]:
    """Seconds for one repetition of each job(repetitions), the least of turns that all of them take."""
    repetitions, best = {}, {}
    for name, job in jobs.items():
        job(1)
        count, seconds = 1, 0.0
        while seconds < SECONDS:
            # The faster of two: another program's turn is not taken for the job's own slowness.
            count, seconds = 2 * count, np.inf
            for _ in range(2):
                began = time.perf_counter()
                job(count)
                seconds = min(seconds, time.perf_counter() - began)
        repetitions[name], best[name] = count, np.inf
    for _ in range(TURNS):
        for name, job in jobs.items():
            began = clock()
            job(repetitions[name])
            best[name] = np.minimum(best[name], (clock() - began) / repetitions[name])
    return best


def cpu() -> float:
    return time.thread_time_ns() * 1e-9


def wall_and_cpu() -> np.ndarray:
    """Where other programs take processors away, only the second means something: that of all threads together."""
    return np.array([time.perf_counter(), time.process_time()])


@njit
def evaluate(function, repetitions, position, gradient, arrays):
    for _ in range(repetitions):
        function(position, gradient, arrays)


@njit
def activate(function, repetitions, h, slope):
    for _ in range(repetitions):
        for k in range(0, h.size, 2048):
            function(h[k : k + 2048], slope[k : k + 2048])


@njit
def draw(repetitions, stream, out):
    for _ in range(repetitions):
        fill_normal(stream, out)


def gradient_job(target: Posterior) -> Callable[[int], None]:
    bound = target.energy()
    position = np.random.default_rng(1).normal(size=target.size).astype(target.dtype)
    gradient = np.empty_like(position)
    return lambda repetitions: evaluate(bound.function, repetitions, position, gradient, bound.arrays)


def report(title: str, row: dict[str, float], benchmark: Any) -> None:
    benchmark.extra_info.update(row)
    print(f"\n{title}: " + ", ".join(f"{name} {value:.3g}" for name, value in row.items()))


@pytest.mark.parametrize("activation", ["erf", "relu"])
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("size", SIZES)
def test_share_of_the_matrix_product_rate(benchmark, size: str, dtype: str, activation: str) -> None:
    """And how a step's time is split: `act` and `random` on their own, `products` what remains of the gradient."""
    target, n = posterior(size, activation, dtype), 1024
    square = np.random.default_rng(2).normal(size=(n, n)).astype(dtype)
    out, (N, _, P) = np.empty_like(square), SIZES[size]
    bound = target.energy()
    h = np.random.default_rng(3).normal(size=(N, bound.arrays[3].shape[1])).astype(dtype).ravel()
    slope, noise, stream = np.empty_like(h), np.empty(target.size, dtype), new_stream(np.random.SeedSequence(0))
    with threadpool_limits(1, user_api="blas"):
        best = least({
            "product": lambda repetitions: [np.dot(square, square, out=out) for _ in range(repetitions)] and None,
            "gradient": gradient_job(target),
            "activation": lambda repetitions: activate(bound.arrays[6], repetitions, h, slope),
            "random": lambda repetitions: draw(repetitions, stream, noise),
        }, cpu)
    rate = 2 * n**3 / best["product"]
    step = best["gradient"] + best["random"]
    active = best["activation"] * N * P / h.size
    report(f"{size} {dtype} {activation}", {
        "GFLOP/s of products": rate / 1e9, "share": operations(size) / best["gradient"] / rate,
        "share with noise": operations(size) / step / rate, "microseconds": 1e6 * best["gradient"],
        "products": (best["gradient"] - active) / step, "act": active / step, "random": best["random"] / step,
    }, benchmark)
    benchmark.pedantic(gradient_job(target), (1,), rounds=10, warmup_rounds=2)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_identity_does_not_grow_with_the_samples(benchmark, dtype: str) -> None:
    jobs = {str(f): gradient_job(posterior("C", "identity", dtype, f)) for f in (1, 16)}
    best = least(jobs, cpu)
    report(f"identity {dtype}", {f"microseconds at P = {2000 * int(f)}": 1e6 * t for f, t in best.items()}, benchmark)
    benchmark.pedantic(jobs["1"], (10,), rounds=10, warmup_rounds=2)


# --- steps per second beside peers --------------------------------------------------------------------------


def ours(target: Posterior) -> Callable[[int], None]:
    """Two chains of unadjusted Langevin, as `sample` runs them, each on a thread."""
    nothing = Posterior(1, 1.0, 1.0, 1.0, np.ones((1, 1)), np.ones(1), "identity", dtype=target.dtype).observables()
    start = lambda rng: rng.standard_normal(target.size)  # noqa: E731
    chains = [Chain(k, target.energy(), nothing, METHODS["ula"], seed, start, STEP)
              for k, seed in enumerate(np.random.SeedSequence(0).spawn(2))]
    for chain in chains:
        methods.restart_adaptation(chain.scalars, STEP)
    pool = ThreadPoolExecutor(2)

    def one(chain: Chain, steps: int) -> None:
        chain.advance(np.empty((steps, 0), target.dtype), np.empty((steps, len(methods.STATISTICS))), False)

    return lambda steps: list(pool.map(one, chains, [steps] * 2)) and None


def with_torch(target: Posterior) -> dict[str, Callable[[int], None]]:
    """The same with the gradient by hand in PyTorch: a chain to a thread, and two chains as one batch."""
    import torch

    dtype = getattr(torch, np.dtype(target.dtype).name)
    X, y = torch.tensor(target.X, dtype=dtype), torch.tensor(target.y, dtype=dtype)
    readout, width = target.readout_prior_variance**0.5, target.weight_prior_variance**0.5
    relu, N, D = target.activation == "relu", target.width, target.X.shape[1]
    torch.set_num_threads(1)

    def run(chains: int, steps: int) -> None:
        alpha, omega = torch.randn(chains, N, dtype=dtype), torch.randn(chains, N, D, dtype=dtype)
        with torch.no_grad():
            for _ in range(steps):
                h = (omega.view(-1, D) @ (width * X).T).view(chains, N, -1)
                if relu:
                    phi, slope = torch.relu(h), (h > 0).to(dtype)
                else:
                    phi, slope = torch.erf(h), 2 / np.pi**0.5 * torch.exp(-h * h)
                r = (readout * torch.einsum("cn,cnp->cp", alpha, phi) - y) / target.noise_variance
                slope.mul_(r[:, None]).mul_((readout * width) * alpha[:, :, None])
                force = (slope.view(-1, len(y)) @ X).view(chains, N, D)
                pull = readout * torch.einsum("cnp,cp->cn", phi, r)
                alpha.mul_(1 - STEP**2 / 2).add_(pull, alpha=-(STEP**2) / 2).add_(torch.randn_like(alpha), alpha=STEP)
                omega.mul_(1 - STEP**2 / 2).add_(force, alpha=-(STEP**2) / 2).add_(torch.randn_like(omega), alpha=STEP)

    def batch(steps: int) -> None:
        torch.set_num_threads(2)
        run(2, steps)
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(2)
    return {"torch, threads": lambda steps: list(pool.map(run, [1, 1], [steps] * 2)) and None, "torch, batch": batch}


def with_blackjax(target: Posterior) -> dict[str, Callable[[int], None]]:
    """BlackJAX's SGLD with the gradient by JAX, of the full batch: a chain to a thread, and two as one batch."""
    import blackjax
    import jax
    import jax.numpy as jnp

    dtype = np.dtype(target.dtype).name
    jax.config.update("jax_enable_x64", dtype == "float64")  # with it on, the noise would be float64 always
    X, y = jnp.asarray(target.X, dtype), jnp.asarray(target.y, dtype)
    readout, width = target.readout_prior_variance**0.5, target.weight_prior_variance**0.5
    phi = jax.nn.relu if target.activation == "relu" else jax.scipy.special.erf

    def log_density(position: Any, batch: Any) -> Any:
        alpha, omega = position
        f = readout * (alpha @ phi(omega @ (width * batch[0]).T))
        prior = 0.5 * (alpha @ alpha + jnp.sum(omega * omega))
        return -prior - 0.5 * jnp.sum((f - batch[1]) ** 2) / target.noise_variance

    sampler = blackjax.sgld(jax.grad(log_density))

    def chain(key: Any, position: Any, steps: Any) -> Any:
        def step(k: Any, carried: Any) -> Any:
            return sampler.step(jax.random.fold_in(key, k), carried, (X, y), jnp.asarray(STEP**2 / 2, dtype))

        return jax.lax.fori_loop(0, steps, step, position)

    single, double = jax.jit(chain), jax.jit(jax.vmap(chain, (0, 0, None)))
    rng = np.random.default_rng(0)
    start = (jnp.asarray(rng.normal(size=(2, target.width)), dtype),
             jnp.asarray(rng.normal(size=(2, target.width, target.X.shape[1])), dtype))
    keys, pool = jax.random.split(jax.random.key(0), 2), ThreadPoolExecutor(2)

    def one(k: int, steps: int) -> None:
        jax.block_until_ready(single(keys[k], (start[0][k], start[1][k]), steps))

    return {"blackjax, threads": lambda steps: list(pool.map(one, [0, 1], [steps] * 2)) and None,
            "blackjax, batch": lambda steps: jax.block_until_ready(double(keys, start, steps)) and None}


PEERS = {"torch": with_torch, "blackjax": with_blackjax}


@pytest.mark.parametrize("activation", ["erf", "relu"])
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("size", SIZES)
def test_steps_per_second_beside_peers(benchmark, size: str, dtype: str, activation: str) -> None:
    target = posterior(size, activation, dtype)
    jobs, missing = {"fieldtheory": ours(target)}, []
    for name, peer in PEERS.items():
        if importlib.util.find_spec(name) is None:
            missing.append(name)
        else:
            jobs |= peer(target)
    with threadpool_limits(1, user_api="blas"):
        best = least(jobs, wall_and_cpu)
    row = {name: 1 / seconds[0] for name, seconds in best.items()}
    if len(row) > 1:
        peers = np.min([seconds for name, seconds in best.items() if name != "fieldtheory"], axis=0)
        lead = peers / best["fieldtheory"]
        row |= {"times the fastest peer": lead[0], "the same by CPU seconds": lead[1]}
    absent = f" (not installed: {', '.join(missing)})" if missing else ""
    report(f"steps per second of each of two chains, {size} {dtype} {activation}{absent}", row, benchmark)
    benchmark.pedantic(jobs["fieldtheory"], (1,), rounds=10, warmup_rounds=2)


# --- effective samples of f -----------------------------------------------------------------------------------

WARMUP, DRAWS = 400, 600


def effective(f: np.ndarray) -> float:
    """Effective samples of f (chain, draw, sample), the median over samples; NaN for chains that did not mix."""
    number = float(np.median(ess(f)))
    return number if number > 100 and np.median(rhat(f)) < 1.05 else np.nan


def effective_by_us(target: Posterior, name: str) -> float:
    rows, seconds = [], 0.0
    for k, seed in enumerate(np.random.SeedSequence(1).spawn(2)):
        chain = Chain(k, target.energy(), target.observables(), METHODS[name], seed,
                      lambda rng: rng.standard_normal(target.size))
        chain.warm_up(WARMUP, lambda: False)
        rows.append(np.empty((DRAWS, target.row_size), target.dtype))
        began = time.process_time()
        chain.draw(rows[-1], np.empty((DRAWS, len(methods.STATISTICS))), 1, lambda: False)
        seconds += time.process_time() - began
    return effective(np.array(rows, float)[:, :, : len(target.X)]) / seconds


def effective_by_numpyro(target: Posterior) -> float:
    import jax
    import jax.numpy as jnp
    from numpyro.infer import MCMC, NUTS

    dtype = np.dtype(target.dtype).name
    jax.config.update("jax_enable_x64", dtype == "float64")
    N, D = target.width, target.X.shape[1]
    X, y = jnp.asarray(target.X * target.weight_prior_variance**0.5, dtype), jnp.asarray(target.y, dtype)
    readout = target.readout_prior_variance**0.5
    phi = jax.nn.relu if target.activation == "relu" else jax.scipy.special.erf

    def outputs(q: Any) -> Any:
        return readout * (q[:N] @ phi(q[N:].reshape(N, D) @ X.T))

    def potential(q: Any) -> Any:
        return 0.5 * (q @ q) + 0.5 * jnp.sum((outputs(q) - y) ** 2) / target.noise_variance

    values, seconds = [], 0.0
    for k in range(2):
        start = jax.random.normal(jax.random.key(10 + k), (N * (D + 1),), dtype)
        sampler = MCMC(NUTS(potential_fn=potential), num_warmup=WARMUP, num_samples=DRAWS, progress_bar=False)
        sampler.warmup(jax.random.key(k), init_params=start)
        sampler.run(jax.random.key(20 + k))  # compiles
        began = time.process_time()
        sampler.run(jax.random.key(30 + k))
        draws = jax.block_until_ready(sampler.get_samples())
        seconds += time.process_time() - began
        values.append(np.asarray(jax.lax.map(outputs, draws), float))
    return effective(np.array(values)) / seconds


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("size", ["A", "B"])
def test_effective_samples_per_cpu_second(benchmark, size: str, dtype: str) -> None:
    """Of f at the training inputs, median over them, after warm-up and compilation."""
    plain = posterior(size, "erf", dtype)
    target = replace(plain, points=plain.X)
    with threadpool_limits(1, user_api="blas"):
        row = {name: effective_by_us(target, name) for name in ("mala", "hmc")}
    missing = ""
    if importlib.util.find_spec("numpyro") is None:
        missing = " (not installed: numpyro)"
    else:
        row["numpyro nuts"] = effective_by_numpyro(target)
    report(f"effective samples per CPU second, {size} {dtype}{missing}", row, benchmark)
    benchmark.pedantic(gradient_job(target), (1,), rounds=10, warmup_rounds=2)
