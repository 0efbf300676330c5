"""What the linear network must show: coefficients of the loop expansion, errors, reproducibility, memory."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp

import fieldtheory as ft
from fieldtheory.symbolic.series import numerical_value
from tests.linear_theories import SCALINGS, UNIT, linear, relative_error

ROOT = Path(__file__).resolve().parent.parent

# ------------------------------------------------------- the loop expansion about Q at P = N, standard scaling

LAM = [Fraction(2), Fraction(1, 2), Fraction(1), Fraction(1, 4)]
TARGETS = [Fraction(1), Fraction(-3, 2), Fraction(1, 2), Fraction(2)]
G, S = Fraction(1), Fraction(1, 2)
WIDTHS = (40, 160, 640)
DIGITS = 40


def _fit(Q: Any) -> Any:
    """Qλ/(Qλ+s) of the first mode (λ = 2, s = 1/2), for SymPy and for mpmath."""
    return 4 * Q / (4 * Q + 1)


@cache
def _engine(loops: int) -> tuple[Any, ...]:
    """The closure with ``loops`` loops: its state, its average of the observable, and the saddle at any N.

    The spectrum is repeated: S at (N, P = N) is N/4 times S at (4, 4), so derivatives there give those at every N.
    """
    theory = linear(view="rescaling", loops=loops)
    closure = theory.closure
    average = closure.average(_fit(sp.exp(closure.field)))
    values = {"N": 4, "g": sp.Rational(G), "s": sp.Rational(S), "lambda": list(map(sp.Rational, LAM)),
              "y": list(map(sp.Rational, TARGETS))}
    with mpmath.workdps(DIGITS + 10):
        Q = mpmath.findroot(lambda Q: numerical_value(closure.state.equations[0], values | {"Q": Q}, DIGITS + 5),
                            (mpmath.mpf("0.5"), mpmath.mpf("1.5")))
    expansion = closure.expansion.coefficients
    vertices = {str(symbol) for symbol in expansion.vertices.values()}
    return closure, average, values | {"Q": Q}, str(expansion.propagator), vertices


@cache
def _predicted(loops: int, width: int) -> Any:
    """⟨Qλ/(Qλ+s)⟩ as the engine's closure has it, at 40 digits."""
    closure, average, values, propagator, vertices = _engine(loops)
    at = dict(values)
    scale = sp.Rational(width, 4)
    needed = average.free_symbols
    for symbol, expr in closure.coefficients.items():
        if str(symbol) in vertices | {propagator}:
            factor = scale if str(symbol) in vertices else 1 / scale
            at[str(symbol)] = numerical_value(expr * factor, at, DIGITS)
        elif symbol in needed:
            at[str(symbol)] = numerical_value(expr, at, DIGITS)
    return numerical_value(average, at, DIGITS)


@cache
def _exact(width: int) -> Any:
    counts = [width // 4] * 4
    posterior = ft.exact.QPosterior(LAM, TARGETS, width, G, S, digits=DIGITS, multiplicity=counts)
    return posterior.expect(_fit)


def coefficient_ratios(loops: int) -> list[float]:
    """error · N^{L+1} against the engine's own next coefficient, at every width."""
    ratios = []
    for width in WIDTHS:
        with mpmath.workdps(DIGITS):
            error = _exact(width) - _predicted(loops, width)
            following = _predicted(loops + 1, width) - _predicted(loops, width)
            ratios.append(float(error / following))
    return ratios


@pytest.mark.parametrize("loops", range(4))
def test_error_approaches_the_next_coefficient(loops: int) -> None:
    ratios = coefficient_ratios(loops)
    distances = [abs(ratio - 1) for ratio in ratios]
    assert distances[-1] < 0.05, ratios
    # The distance itself falls as 1/N: a coefficient that is nearly right would stop short.
    assert all(b < 0.4 * a for a, b in pairwise(distances)), ratios


def test_a_wrong_coefficient_would_be_seen() -> None:
    """The same comparison rejects an expansion whose two-loop term is off by one part in ten."""
    with mpmath.workdps(DIGITS):
        found = [float((_exact(N) - _predicted(1, N)) / (mpmath.mpf("1.1") * (_predicted(2, N) - _predicted(1, N))))
                 for N in WIDTHS]
    assert abs(found[-1] - 1) > 0.05


# ------------------------------------------------------------------------------------------- the table of errors

COLUMNS = {"nngp": dict(name="nngp"), "tree": dict(view="adaptation", loops=0), "1PI": dict(view="adaptation", loops=1),
           "Q saddle": dict(view="rescaling", loops=0)}


def errors(scaling: str, width: int, samples: int, seed: int = 1) -> dict[str, float]:
    net = UNIT.replace(width=width, scaling=SCALINGS[scaling])
    data = ft.tasks.ising(samples, int(0.8 * width), seed=seed)
    exact = ft.exact.linear(net, data)
    return {label: relative_error(linear(net, **options).predict(data), exact) for label, options in COLUMNS.items()}


#: theory notes, D = 0.8N, P = 0.6N; another draw of the data: within a factor of two.
NOTED = {("standard", 100): (4.7e-2, 9.1e-2, 9.4e-3, 4.2e-3), ("standard", 400): (4.6e-2, 9.0e-2, 1.3e-2, 1.0e-3),
         ("mean-field", 100): (3.6e-1, 6.2e-3, 5.9e-4, 1.4e-4), ("mean-field", 400): (4.5e-1, 2.0e-3, 1.4e-4, 9.1e-6)}


@pytest.mark.parametrize("scaling, width", NOTED)
def test_table_of_errors(scaling: str, width: int) -> None:
    found = errors(scaling, width, int(0.6 * width))
    for label, noted in zip(COLUMNS, NOTED[scaling, width]):
        assert noted / 2 < found[label] < 2 * noted, (label, found[label], noted)


@pytest.mark.slow
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("samples", [20, 0.6])
def test_slopes_of_the_table_up_to_1600(scaling: str, samples: float) -> None:
    """Tree level: 1/N at fixed P under both scalings; at P ∝ N it stays under standard scaling and falls otherwise."""
    rows = [errors(scaling, N, int(samples * N) if samples < 1 else int(samples)) for N in (100, 400, 1600)]
    slopes = {label: np.log(rows[0][label] / rows[-1][label]) / np.log(16) for label in COLUMNS}
    fixed = samples >= 1
    expected = {"tree": 1.0 if fixed else {"standard": 0.0, "mean-field": 0.93}[scaling],
                "1PI": 2.0 if fixed else {"standard": 0.0, "mean-field": 1.27}[scaling]}
    for label, slope in expected.items():
        assert slopes[label] == pytest.approx(slope, abs=0.2), slopes
    if fixed and scaling == "standard":
        assert rows[0]["1PI"] < 0.2 * rows[0]["tree"]


# --------------------------------------------------------------------------------------------------------- memory

LARGE = """
import resource, time
import numpy as np
import fieldtheory as ft

rng = np.random.default_rng(0)
X = rng.standard_normal((5000, {D}))
data = ft.Dataset(X, np.sign(X @ rng.standard_normal({D})) + 0.1 * rng.standard_normal(5000), X[:100])
net = ft.Network(width=2000, readout_variance=1.0, weight_variance=1.0, noise_variance=1.0,
                 scaling=ft.Scaling.mean_field())
begin = time.perf_counter()
for options in ({{"view": "adaptation", "loops": 0}}, {{"view": "rescaling", "loops": 1}}):
    found = ft.theories["linear"](net, **options).predict(data)
    assert np.isfinite(found.mean_output).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.perf_counter() - begin)
"""


@pytest.mark.slow
@pytest.mark.parametrize("input_dim", [200, 6000])
def test_five_thousand_samples_in_two_gigabytes(input_dim: int) -> None:
    program = LARGE.format(D=input_dim)
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    gigabytes, seconds = map(float, run.stdout.split())
    print(f"D = {input_dim}: {gigabytes:.2f} GB, {seconds:.0f} s")
    assert gigabytes < 2.0
