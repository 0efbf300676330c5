"""The kernels of every theory against the same expressions at thirty digits."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory.catalogue import theories
from fieldtheory.compile import Kernel
from fieldtheory.network import Network
from fieldtheory.theory import Theory

CASES = {
    "nngp": {},
    "tree": {"view": "adaptation", "loops": 0},
    "one loop": {"view": "adaptation", "loops": 1},
    "Q saddle": {"view": "rescaling", "loops": 0},
    "Q, 3 loops": {"view": "rescaling", "loops": 3},
}


@cache
def theory(case: str) -> Theory:
    return theories["nngp" if case == "nngp" else "linear"](Network(), **CASES[case])


def kernels(case: str) -> dict[str, Kernel]:
    predictor = theory(case)._predictor
    found = {"outputs": predictor.output_kernel, "probes": predictor.probe_kernel,
             "gradient": predictor.gradient_kernel, "evidence": predictor.evidence_kernel}
    if theory(case).closure.state.unknowns:
        found["state"] = predictor.state_kernel
    if theory(case).closure.coefficients:
        found |= {f"coefficients {k}": kernel for k, kernel in enumerate(predictor.coefficient_kernels)}
    if predictor.profile_kernel is not None:
        found["profile"] = predictor.profile_kernel
    return found


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), modes=st.integers(1, 5))
@pytest.mark.parametrize("case", CASES)
def test_compiled_equals_the_expressions_at_thirty_digits(case: str, seed: int, modes: int) -> None:
    rng = np.random.default_rng(seed)
    for name, kernel in kernels(case).items():
        values = {scalar.name: float(rng.uniform(0.3, 3.0)) for scalar in kernel.scalars}
        values |= {"N": float(rng.integers(5, 50))} if "N" in values else {}
        for entry in kernel.entries:
            drawn = rng.uniform(0.2, 2.0, modes)
            values[entry.name] = drawn if entry.domain == "spectrum" else drawn * rng.choice([-1.0, 1.0], modes)
        found, exact = kernel(**values), kernel.reference(values)
        for output, reference in exact.items():
            error = np.abs(np.asarray(reference.value, dtype=object) - np.asarray(found[output], dtype=object))
            assert np.all(error <= 1e-12 * np.asarray(reference.scale, dtype=object)), (name, output)
