"""The hand-written gradient against the compiled gradient of the symbolic action: two derivations of one thing."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.compile import compile_kernel
from fieldtheory.sampling import ACTIVATIONS, Posterior
from fieldtheory.symbolic.fields import Entry, SpaceSum

N, D, P = 3, 2, 4
SIZES = {"site": N, "input": D, "sample": P}


def explicit(expr: sp.Basic, point: dict) -> sp.Basic:
    """Sums over spaces written out at small sizes, entries as symbols with numbers."""
    if isinstance(expr, SpaceSum):
        size = SIZES[expr.space.name]
        return sp.Add(*(explicit(expr.body, {**point, expr.space: k}) for k in range(size)))
    if isinstance(expr, Entry):
        return sp.Symbol("_".join([expr.name, *(str(point[space]) for space in expr.spaces)]), real=True)
    return expr.func(*(explicit(part, point) for part in expr.args)) if expr.args else expr


def compiled_gradient(activation: str, numbers: dict[str, float]):
    """(a, w, X, y) -> gradient, from the gradient that the action's own rule gives."""
    action = ft.Network(activation=activation, width=None).action()
    a, w = (action[name] for name in ("a", "w"))
    (site,), (_, inputs) = a.spaces, w.spaces
    outputs = {f"a{i}": explicit(action.gradient(a), {site: i}) for i in range(N)}
    outputs |= {f"w{i}{j}": explicit(action.gradient(w), {site: i, inputs: j}) for i in range(N) for j in range(D)}
    outputs = {name: sp.sympify(expr).subs({s: numbers[s.name] for s in expr.free_symbols if s.name in numbers})
               for name, expr in outputs.items()}
    symbols = sorted(set().union(*(expr.free_symbols for expr in outputs.values())), key=lambda s: s.name)
    kernel = compile_kernel(outputs, scalars=symbols)

    def gradient(arrays: dict[str, np.ndarray]) -> np.ndarray:
        values = {"_".join([name, *map(str, index)]): array[index]
                  for name, array in arrays.items() for index in np.ndindex(array.shape)}
        found = kernel(**{s.name: float(values[s.name]) for s in symbols})
        return np.array([float(found[name]) for name in outputs])

    return gradient


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_gradients_agree(activation, dtype):
    numbers = dict(N=N, D=D, g=0.7, s=0.3) | {"sigma_w^2": 1.3}
    symbolic = compiled_gradient(activation, numbers)
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(P, D)), rng.normal(size=P)
    posterior = Posterior(N, numbers["g"] / N, numbers["sigma_w^2"] / D, numbers["s"], X, y, activation, dtype=dtype)
    scales = np.repeat(np.sqrt([numbers["g"] / N, numbers["sigma_w^2"] / D]), [N, N * D])
    bound, error, slip = posterior.energy(), 0.0, 0.0
    for _ in range(5):
        position = rng.normal(size=posterior.size).astype(dtype)
        found = np.empty_like(position)
        bound(position, found)
        weights = scales * position
        arrays = {"a": weights[:N], "w": weights[N:].reshape(N, D), "X": X, "y": y}
        expected = scales * symbolic(arrays)
        error = max(error, np.linalg.norm(found - expected) / np.linalg.norm(expected))
        arrays["y"] = y * (1 + 1e-5)
        slip = max(slip, np.linalg.norm(found - scales * symbolic(arrays)) / np.linalg.norm(expected))
    assert error < (1e-12 if dtype is np.float64 else 1e-5)
    assert slip > 1e-7  # a target wrong by one part in 100,000 is seen at the precision above
