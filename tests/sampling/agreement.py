"""How a stochastic test earns its tolerance: enough effective samples first, then a two-sided z."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from fieldtheory.sampling import ess, mcse, rhat


def z_scores(series: ArrayLike, expected: ArrayLike, *, effective: float = 1000) -> np.ndarray:
    """(mean - expected)/MCSE of each entry of (chain, draw, ...), after a gate on ESS and R-hat."""
    series = np.asarray(series)
    assert np.min(ess(series)) > effective, f"only {np.min(ess(series)):.0f} effective samples"
    assert np.max(rhat(series)) < 1.02
    return (series.mean(axis=(0, 1)) - np.asarray(expected)) / mcse(series)


def disagreement(series: Mapping[str, ArrayLike], expected: Mapping[str, ArrayLike], **gate: float) -> float:
    """The largest |z| over named observables; below 4.5 is agreement (3e-6 per entry, by chance)."""
    return max(float(np.max(np.abs(z_scores(series[name], expected[name], **gate)))) for name in expected)
