"""What one-site theories cost: the largest problem of the docs, and the growth with samples, inputs and width.

A sweep moves every particle by eight leapfrog steps, each a few products (particles × P × P) for the collapsed theory
and (particles × D × P) for independent sites, and one compiled loop between two of them; C is diagonalised every third
sweep, P³.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import fieldtheory as ft
from fieldtheory.onesite.particles import Particles

pytestmark = pytest.mark.slow

SHORT = dict(ensembles=2, particles=96, settle=6, average=6, measure=6)


def task(samples: int, inputs: int) -> ft.Dataset:
    cube = ft.tasks.parity(1, min(inputs, 10), 2, test_samples="cube")
    X = np.random.default_rng(1000).choice([-1.0, 1.0], size=(samples, inputs))
    if inputs > 10:
        return ft.Dataset(X, X[:, 0] * X[:, 1])
    return ft.Dataset(X, X[:, 0] * X[:, 1], cube.X_test, cube.y_test)


def network(width: int, activation: str = "relu") -> ft.Network:
    return ft.Network(activation=activation, width=width, readout_variance=1.0, weight_variance=1.0,
                      noise_variance=0.25)


def seconds(theory: ft.Theory, data: ft.Dataset, width: int, repeats: int = 3, **effort: int) -> float:
    """CPU seconds of one thread and its helpers, the least of a few runs."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        theory.predict(data, width=width, outputs=["mean_output"], effort=effort)
        found.append(time.process_time() - started)
    return min(found)


def test_collapsed_mean_field_with_four_hundred_samples() -> None:
    theory, data = ft.theories["collapsed-mean-field"](network(64)), task(400, 10)
    started, spent = time.perf_counter(), time.process_time()
    found = theory.predict(data)
    wall, cpu = time.perf_counter() - started, time.process_time() - spent
    print(f"\ncollapsed, N = 64, P = 400, D = 10: {wall:.0f} s wall, {cpu:.0f} CPU seconds")
    assert found.attrs["status"] == "converged" and cpu < 120


@pytest.mark.parametrize("name", ["mean-field", "collapsed-mean-field"])
def test_exponents_of_the_cost(name: str) -> None:
    theory = ft.theories[name](network(64))
    theory.predict(task(20, 4), effort=SHORT)  # plans are made
    cost = {}
    for label, points in {"P": [(100, 10, 64), (200, 10, 64), (400, 10, 64), (800, 10, 64)],
                          "D": [(200, 10, 64), (200, 40, 64), (200, 160, 64)],
                          "N": [(200, 10, 16), (200, 10, 64), (200, 10, 256)]}.items():
        cost[label] = [seconds(theory, task(P, D), N, **SHORT) for P, D, N in points]
        x = np.log([dict(zip("PDN", point, strict=True))[label] for point in points])
        exponent = np.polyfit(x, np.log(cost[label]), 1)[0]
        print(f"\n{name}: {label}^{exponent:.2f}", [f"{1e3 * t / 18:.1f} ms a sweep" for t in cost[label]])
    assert cost["P"][-1] / cost["P"][0] < 8**2.7


def least(call: Callable[[], object], repeats: int = 100) -> float:
    """CPU seconds of this thread, the least of many."""
    found = []
    for _ in range(repeats):
        started = time.thread_time()
        call()
        found.append(time.thread_time() - started)
    return min(found)


@pytest.mark.parametrize("name", ["mean-field", "collapsed-mean-field"])
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_compiled_gradients_beside_the_same_plan_in_numpy(name: str, activation: str) -> None:
    """A gradient in a compiled sweep of 96 particles, everything of the sweep counted, and one run by NumPy."""
    theory = ft.theories[name](network(64, activation))
    environment = theory._site_predictor.environment(False)
    started = time.process_time()
    _ = environment.dynamics.code
    print(f"\n{name}, {activation}: compiled, or found on disk, in {time.process_time() - started:.2f} CPU seconds")
    for P in (50, 100, 400):
        values = theory._site_predictor.values(network(64, activation), task(P, 10), 64)
        sampler = Particles(environment.coordinates(values), 96, np.random.SeedSequence(0))
        averages = environment.averages(sampler.fields, sampler.weights, environment.statics.bind(values))
        run = environment.dynamics.bind(values | environment.solve(averages))
        with threadpool_limits(1, user_api="blas"):
            compiled = least(lambda run=run, sampler=sampler: sampler.update(run)) / 9
            interpreted = least(lambda run=run, sampler=sampler: run(sampler.fields))
        print(f"P = {P}: {1e6 * compiled:.0f} µs compiled, {1e6 * interpreted:.0f} µs by NumPy: "
              f"{interpreted / compiled:.1f} times")
        assert compiled < interpreted
