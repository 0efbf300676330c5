"""One site by quadrature: activations of several terms, biases, and whether the nodes resolve the law."""

from __future__ import annotations

import numpy as np
import sympy as sp

import fieldtheory as ft

Array = np.ndarray
h = sp.Symbol("h", real=True)
POLYNOMIAL = (h + h**2 / 2, lambda x: x + x**2 / 2)
X, y = np.array([[0.7], [-1.3]]), np.array([1.6, 1.0])


def one_neuron(phi: object, X: Array, y: Array, s: float, g: float, v: float, points: list[Array]) -> Array:
    """The exact mean output of one neuron with the readout integrated out, by the trapezoidal rule."""
    w = np.sqrt(v) * np.stack([grid.ravel() for grid in np.meshgrid(*points, indexing="ij")])
    F = phi(X @ w)  # type: ignore[operator]
    B, b = 1 / g + (F**2).sum(axis=0) / s, y @ F / s
    logs = -(w**2).sum(axis=0) / (2 * v) - np.log(B) / 2 + b**2 / (2 * B)
    weights = np.exp(logs - logs.max())
    return np.asarray(F @ (weights * b / B) / weights.sum())


def test_a_polynomial_with_a_linear_term() -> None:
    """Mean field is exact for one neuron, also where the activation has the pre-activation for a factor."""
    activation, phi = POLYNOMIAL
    net = ft.Network(activation=activation, width=1, readout_variance=1.5, weight_variance=1.2, noise_variance=0.3)
    found = ft.theories["mean-field"](net).predict(ft.Dataset(X, y))
    exact = one_neuron(phi, X, y, 0.3, 1.5, 1.2, [np.linspace(-12, 12, 20001)])
    assert np.allclose(found.mean_output, exact, atol=1e-11)
    assert not np.allclose(one_neuron(lambda x: x, X, y, 0.3, 1.5, 1.2, [np.linspace(-12, 12, 20001)]), exact, atol=0.1)


def test_the_order_parameter_of_a_polynomial_is_the_output() -> None:
    """One number for each sample, not one for each sample and input: the sum over inputs is not taken apart."""
    S = ft.Network(activation=POLYNOMIAL[0]).action().decouple("site", "m", projections={"X_*": "m_*"})
    (m,) = S.last["order_parameters"]
    assert [space.name for space in m.spaces] == ["sample"]
    plain = ft.Network(activation="identity").action().decouple("site", "m")
    (m,) = plain.last["order_parameters"]
    assert [space.name for space in m.spaces] == ["input"]


def test_the_tree_level_with_biases_is_that_of_one_more_input() -> None:
    """Terms that are the same for every sample, b Σ_μ t_μ, in the equation of state and beside the prior."""
    net = ft.Network(activation="identity", width=5, readout_variance=0.7, weight_variance=2.0, noise_variance=0.3,
                     bias_variance=0.6)
    found = ft.theories["adaptive-kernel"](net).predict(ft.Dataset(X, y))
    plain = ft.theories["linear"](net.replace(bias_variance=0), view="adaptation", loops=0)
    expected = plain.predict(ft.Dataset(X, y).with_bias(0.3)).mean_output
    assert np.allclose(found.mean_output, expected, atol=1e-8)
    assert not np.allclose(plain.predict(ft.Dataset(X, y)).mean_output, expected, atol=1e-2)


def test_a_law_too_narrow_for_the_nodes_is_said() -> None:
    """The difference to other nodes is no less than the error, and stands in the status where it is large."""
    rng = np.random.default_rng(0)
    many = rng.normal(size=(8, 2))
    targets = 1.3 * np.tanh(many @ [0.8, -0.5])
    net = ft.Network(activation="tanh", width=1, readout_variance=2.0, weight_variance=2.0, noise_variance=1.0)
    for noise, resolved in ((0.3, True), (0.003, False)):
        exact = one_neuron(np.tanh, many, targets, noise, 2.0, 1.0, [np.linspace(-6, 6, 801)] * 2)
        found = ft.theories["mean-field"](net.replace(noise_variance=noise)).predict(ft.Dataset(many, targets))
        error = float(np.linalg.norm(found.mean_output - exact) / np.linalg.norm(exact))
        assert error < found.attrs["quadrature_error"] + 1e-12
        assert (found.attrs["status"] == "converged") == resolved
        assert resolved == (error < 3e-3)


def test_a_target_that_is_zero() -> None:
    """The output is zero, and what is relative to the target is said not to be defined."""
    net = ft.Network(activation="relu", width=4, readout_variance=1.0, weight_variance=1.0, noise_variance=0.3)
    for name in ("mean-field", "collapsed-mean-field", "adaptive-kernel"):
        with np.errstate(divide="ignore", invalid="ignore"):
            found = ft.theories[name](net).predict(ft.Dataset(X, np.zeros(2)))
        assert found.attrs["status"] == "converged; the target is zero, and discrepancy_along_target not defined"
        assert np.isnan(found.discrepancy_along_target) and np.abs(found.mean_output).max() < 1e-12
        rest = found.drop_vars(["discrepancy_along_target", "discrepancy_along_target_mcse"])
        assert np.isfinite(rest.to_array()).all()
