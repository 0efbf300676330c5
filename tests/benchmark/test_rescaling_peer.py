"""Kernel rescaling beside `deepbays`, the package of Pacelli et al. (2023): the same Q, the same predictor, the time.

`deepbays` minimises x - ln x + (1/N) ln det(T + xK/l1) + (1/N) yᵀ(T + xK/l1)⁻¹y in x with SciPy: our action of Q at
tree level, with Q = x/l1, l0 = 1/σ_w², l1 = 1/σ_a², T = s.  It needs PyTorch, whose build for a CPU will do:

    pip install torch --index-url https://download.pytorch.org/whl/cpu
    pip install --no-deps deepbays

Its import asks for CuPy and torchvision, of which nothing is used here: stand-ins take their place.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import types
from typing import Any

import numpy as np
import pytest

import fieldtheory as ft

pytestmark = pytest.mark.slow

STAND_INS = {"cupy": (), "cupy.cuda": ("Device",), "torchvision": (), "torchvision.transforms": ()}
CASES = [("erf", 100, 20), ("erf", 400, 20), ("relu", 100, 20), ("relu", 400, 20)]


def peer() -> Any:
    """The module `rkgp` of the package, or a skip that says what is missing."""
    pytest.importorskip("torch")
    absent = [name for name in STAND_INS if importlib.util.find_spec(name.partition(".")[0]) is None]
    try:
        for name in absent:
            sys.modules[name] = types.ModuleType(name)
            for attribute in STAND_INS[name]:
                setattr(sys.modules[name], attribute, object)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, sys.modules[name])
        return pytest.importorskip("deepbays.rkgp")
    finally:
        for name in absent:
            del sys.modules[name]


def fastest(call: Any, rounds: int) -> float:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


@pytest.mark.parametrize(("activation", "samples", "input_dim"), CASES)
def test_rescaling_beside_the_peer(activation: str, samples: int, input_dim: int) -> None:
    rkgp = peer()
    net = ft.Network(activation=activation, width=64, readout_variance=1.5, weight_variance=0.8, noise_variance=0.25)
    data = ft.tasks.ising(samples, input_dim, seed=0, test_samples=200)
    theory = ft.theories["kernel-rescaling"](net, loops=0)
    found = theory.predict(data)

    def theirs() -> Any:
        model = rkgp.FC_1HL(N1=64, T=0.25, l0=1 / 0.8, l1=1 / 1.5, act=activation)
        model.preprocess(data.X, data.y)
        model.optimize()
        return model, model.predict(data.X_test)

    def ours() -> None:
        again = ft.Dataset(data.X, data.y, data.X_test, data.y_test)  # nothing kept from a call before
        theory.predict(again, outputs=["test_output"])

    model, prediction = theirs()
    seconds = fastest(ours, 5), fastest(theirs, 3)
    difference = float(np.abs(prediction - found.test_output.values).max())
    print(f"\n{activation} P={samples}: Q {float(found.Q):.8f} beside {model.optQ * 1.5:.8f}, test output differs "
          f"by {difference:.1e}; {1e3 * seconds[0]:.2f} ms beside {1e3 * seconds[1]:.1f} ms, "
          f"{seconds[1] / seconds[0]:.0f}x")
    assert abs(model.optQ * 1.5 / float(found.Q) - 1) < 1e-6  # where its minimiser stops
    assert difference < 1e-6 * np.abs(prediction).max()
    assert found.attrs["residual"] < 1e-10
