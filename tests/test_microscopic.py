"""The microscopic action with its options, against log-densities written in SciPy's terms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sympy as sp

from fieldtheory.network import ARD, Network
from tests.test_gradients import NUMBERS, D, N, symbolic, weights

BIASED, RELEVANT = {"bias_variance": 0.7}, {"prior": ARD(2.5, 1.7)}


def minus_log_density(net: Network, values: dict[str, np.ndarray]) -> float:
    """-ln p(a, w, b, λ, y) by scipy.stats, every norm included."""
    a, w, y = values["a"], values["w"], values["y"]
    h, total = values["X"] @ w.T, -scipy.stats.norm.logpdf(a, scale=math.sqrt(net.readout_prior_variance())).sum()
    if net.has_bias:
        h = h + values["b"]
        total -= scipy.stats.norm.logpdf(values["b"], scale=math.sqrt(net.bias_variance)).sum()
    if net.has_ard:
        shape, rate = net.precision_prior(D)
        total -= scipy.stats.gamma.logpdf(values["lambda"], shape, scale=1 / rate).sum()
        total -= scipy.stats.norm.logpdf(w, scale=1 / np.sqrt(values["lambda"])).sum()
    else:
        total -= scipy.stats.norm.logpdf(w, scale=math.sqrt(net.weight_variance / D)).sum()
    return total - scipy.stats.norm.logpdf(y, scipy.special.erf(h) @ a, math.sqrt(net.effective_noise_variance())).sum()


@pytest.mark.parametrize("options", [{}, BIASED, RELEVANT, BIASED | RELEVANT, {"prior": ARD(3)}], ids=str)
def test_the_action_is_minus_the_log_density(options: dict) -> None:
    net = Network(activation="erf", **NUMBERS, **options)
    for seed in range(3):
        values = weights(seed)
        assert symbolic(net, values)["S"] == pytest.approx(minus_log_density(net, values), rel=1e-12)


def test_the_precisions_have_the_gradient_of_their_density() -> None:
    net = Network(activation="erf", **NUMBERS, **RELEVANT)
    values = weights(0)
    alpha0, beta0 = net.precision_prior(D)
    expected = beta0 + (values["w"] ** 2).sum(axis=0) / 2 - (alpha0 - 1 + N / 2) / values["lambda"]
    assert symbolic(net, values)["lambda"] == pytest.approx(expected, rel=1e-12)


def test_options_that_are_absent_leave_no_trace() -> None:
    plain = Network(activation="erf").action()
    same = Network(activation="erf", bias_variance=0, prior="gaussian").action()
    assert [sp.srepr(e) for e in (plain.expr, *plain.quantities.values())] == \
        [sp.srepr(e) for e in (same.expr, *same.quantities.values())]
    assert [field.name for field in plain.fields] == ["a", "w"]
    assert not plain.expr.free_symbols & {sp.Symbol(n, positive=True) for n in ("sigma_b^2", "alpha_0", "beta_0")}
    both = Network(activation="erf", bias_variance=None, prior=ARD(2)).action()
    assert [field.name for field in both.fields] == ["a", "w", "lambda", "b"]
    beta, alpha, sigma, size = (sp.Symbol(n, positive=True) for n in ("beta_0", "alpha_0", "sigma_w^2", "D"))
    assert both.definitions[beta] == alpha * sigma / size
    assert beta not in Network(activation="erf", prior=ARD(2, 3)).action().definitions


def test_a_bias_moves_every_quantity() -> None:
    """Outputs at training and test inputs and the hidden kernel see w.x + b."""
    S = Network(activation="erf", bias_variance=1.0).action()
    for name in ("output", "test_output", "hidden_kernel", "probed_output"):
        assert S["b"] in S.quantities[name].atoms(type(S["b"])), name
