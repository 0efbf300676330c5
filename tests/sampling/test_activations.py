"""phi and phi' in both precisions against mpmath, for arguments of any size."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from numba import njit

from fieldtheory.errors import BadInput
from fieldtheory.network import Network
from fieldtheory.sampling import sample
from fieldtheory.sampling.activations import ACTIVATIONS, custom_activation, named_activation, number_type
from fieldtheory.tasks import ising

EXACT = {
    "identity": (lambda x: x, lambda x: 1),
    "erf": (mpmath.erf, lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x)),
    "relu": (lambda x: max(x, 0), lambda x: int(x > 0)),
    "tanh": (mpmath.tanh, lambda x: mpmath.sech(x) ** 2),
    "quadratic": (lambda x: x * x, lambda x: 2 * x),
}
# Largest absolute errors where phi is bounded; in units of the last place elsewhere.
ERRORS = {("erf", "float64"): 6e-16, ("erf", "float32"): 2.2e-7,
          ("tanh", "float64"): 7e-16, ("tanh", "float32"): 3.5e-7}


@njit
def call(activate, h, slope):
    activate(h, slope)


def evaluate(activate, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    h, slope = x.copy(), np.full_like(x, np.nan)
    call(activate, h, slope)
    return h, slope


def arguments(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    x = np.concatenate([
        rng.normal(size=300), rng.uniform(-7, 7, 600), np.linspace(3.9, 4.1, 50), np.linspace(5.9, 6.1, 50),
        10.0 ** rng.uniform(-300, 300, 50), [0.0, -0.0, 0.5, 1e-8, -1e-8, 4.0, 6.0, 26.6, 9.4, -30.0, 5e-324, 1e-310]])
    with np.errstate(over="ignore"):
        x = x.astype(dtype)
    return x[np.isfinite(x)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_against_mpmath(name, dtype):
    x = arguments(dtype)
    with np.errstate(over="ignore"):
        exact = [np.array([float(f(mpmath.mpf(float(v)))) for v in x]) for f in EXACT[name]]
        found = evaluate(named_activation(name, dtype), x)
        for values, expected in zip(found, exact):
            if (name, dtype) in ERRORS:
                assert np.abs(values.astype(float) - expected).max() < ERRORS[name, dtype]
            else:
                np.testing.assert_allclose(values, expected.astype(dtype), rtol=np.finfo(dtype).eps, atol=1e-307)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_what_is_not_finite_stays_seen(name, dtype):
    # Long enough for whole vectors, so that not only the scalar end of the loop is tried.
    for x, values, slopes in (
        (np.nan, {"identity": np.nan}, {}),
        (np.inf, {"erf": 1, "tanh": 1}, {"erf": 0, "tanh": 0, "relu": 1, "quadratic": np.inf}),
        (-np.inf, {"erf": -1, "tanh": -1, "relu": 0, "quadratic": np.inf, "identity": -np.inf},
         {"erf": 0, "tanh": 0, "relu": 0, "quadratic": -np.inf}),
    ):
        h, slope = evaluate(named_activation(name, dtype), np.full(67, x, dtype))
        np.testing.assert_array_equal(h, np.full(67, values.get(name, x)))
        if name in slopes:
            np.testing.assert_allclose(slope, np.full(67, slopes[name]), atol=1e-37)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["erf", "tanh"])
def test_odd_at_zero(name, dtype):
    h, slope = evaluate(named_activation(name, dtype), np.array([0.0, -0.0] * 20, dtype))
    assert not h.any() and np.array_equal(np.signbit(h), [False, True] * 20)
    np.testing.assert_allclose(slope, float(EXACT[name][1](0.0)), rtol=np.finfo(dtype).eps)


def test_every_activation_is_tested():
    assert set(EXACT) == set(ACTIVATIONS)


@pytest.mark.parametrize("pair", [(njit(lambda x: np.sin(x)), njit(lambda x: np.cos(x))), (np.sin, np.cos),
                                  (math.sin, lambda x: np.cos(x))], ids=["compiled", "ufunc", "built in"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_pair_of_functions(dtype, pair):
    x = arguments(dtype)[:600]
    found = evaluate(custom_activation(pair, dtype), x)
    for values, expected in zip(found, (np.sin(x), np.cos(x))):
        np.testing.assert_allclose(values, expected, atol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("phi", [lambda h, k: h, lambda h: "a", lambda h: [h], np.add, str],
                         ids=["two arguments", "text", "a list", "add", "str"])
def test_functions_that_are_not_of_a_number(phi):
    """Refused before anything evaluates them, whether the run is to be stored or not."""
    net = Network(activation="erf", width=2, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0)
    with pytest.raises(BadInput, match=r"^activation_functions: got"):
        sample(net, ising(3, 2, seed=0), activation_functions=(phi, lambda h: 1.0), chains=1, draws=2, warmup=20)


def test_other_precisions_are_refused():
    with pytest.raises(BadInput, match="dtype"):
        number_type(np.float16)
