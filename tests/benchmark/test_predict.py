"""A default prediction after the eigendecomposition of K, which the data keep.

At P = 2,000 it should take less than 5 ms on a machine that is otherwise idle (the fastest of the rounds).
"""

from __future__ import annotations

import numpy as np
import pytest

import fieldtheory as ft

pytestmark = pytest.mark.slow

MEAN_AND_ORDER = ["mean_output", "readout_norm", "discrepancy_along_target", "log_evidence"]


def data_set(samples: int) -> ft.Dataset:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((samples, samples + 100))
    data = ft.Dataset(X, np.sign(X @ rng.standard_normal(X.shape[1])))
    data.spectrum(1.0)
    return data


@pytest.fixture(scope="module")
def data() -> ft.Dataset:
    return data_set(2000)


OPTIONS = {"NNGP": ("nngp", {}), "tree": ("linear", dict(view="adaptation", loops=0)),
           "Q saddle": ("linear", dict(view="rescaling", loops=0)),
           "Q, 1 loop": ("linear", dict(view="rescaling", loops=1)),
           "Q, 3 loops": ("linear", dict(view="rescaling", loops=3))}


@pytest.mark.parametrize("scaling", ["standard", "mean-field"])
@pytest.mark.parametrize("label", OPTIONS)
@pytest.mark.parametrize("outputs", [MEAN_AND_ORDER, None], ids=["means and order parameters", "all default outputs"])
def test_prediction_at_two_thousand_samples(
    benchmark, data: ft.Dataset, label: str, scaling: str, outputs: list[str] | None
) -> None:
    name, options = OPTIONS[label]
    net = ft.Network(width=3000, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0,
                     scaling={"standard": ft.Scaling.standard(), "mean-field": ft.Scaling.mean_field()}[scaling])
    theory = ft.theories[name](net, **options)
    found = benchmark.pedantic(theory.predict, (data,), {"outputs": outputs}, rounds=100, warmup_rounds=2)
    benchmark.extra_info.update(residual=found.attrs["residual"])
