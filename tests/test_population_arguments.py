"""What population theories refuse, all of them by name, and what their solutions print."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory.errors import BadInput, NotConverged
from fieldtheory.population.arguments import check_degree, check_dimension, check_nodes, check_start, ridge, ridges
from fieldtheory.population.base import PopulationSolution
from tests.populations import limit

NET = ft.Network(activation="relu", width=16, readout_variance=1.0, weight_variance=1.0, noise_variance=0.1)


@pytest.mark.parametrize("noise", [0.0, -1.0, np.nan, np.inf, "0.1", None])
def test_one_noise_is_a_positive_number(noise: Any) -> None:
    with pytest.raises(BadInput, match="noise"):
        ridge(NET, noise, None, None)
    with pytest.raises(BadInput, match="noise"):
        ridges(NET, [0.1, noise], None, None)
    if noise is not None:
        with pytest.raises(BadInput, match="samples"):
            ridge(NET, None, noise, None)


def test_noise_and_samples_that_will_do() -> None:
    assert ridge(NET, 0.01, None, None) == 0.01 and ridge(NET, None, 10, None) == pytest.approx(0.01)


@pytest.mark.parametrize(("check", "name", "given"), [
    (lambda x: check_nodes(x, 8, 0), "nodes", [10, -64, 100.5, "many", True]),
    (lambda x: check_nodes(64, x, 0), "shifts", [1, 2.5, None]),
    (lambda x: check_nodes(64, 2, x), "seed", [-1, 0.5, "one"]),
    (lambda x: check_degree(x, 2, 24), "degree", [1, 25, 8.5, "8", False]),
    (lambda x: check_dimension(x, 2, 10), "input_dim", [1, 11, 6.0, "6", np.int64(6)]),
    (lambda x: check_start(x, PopulationSolution), "start", ["lazy", 0.3]),
])
def test_refusals_name_the_argument_and_what_was_given(check: Any, name: str, given: list[Any]) -> None:
    for value in given:
        with pytest.raises(BadInput, match=name) as caught:
            check(value)
        assert caught.value.given == repr(value)


def test_what_will_do() -> None:
    check_nodes(64, 2, 0)
    check_nodes(np.int64(64), 2, np.int64(3))
    check_degree(2, 2, 24)
    check_dimension(2, 2)
    check_start(None, PopulationSolution)


def test_a_noise_below_all_rounding_is_no_result() -> None:
    theory = limit("collapsed-mean-field", NET, "gaussian")
    with pytest.raises(NotConverged, match="rounding of the eigenvalues"), np.errstate(all="ignore"):
        theory.solve(4, 1e-30, degree=4, nodes=256, shifts=2)


def test_a_theory_and_its_solution_print_what_one_reads_first() -> None:
    theory = limit("mean-field", NET)
    assert repr(theory).startswith("MeanFieldPopulation(law='hypercube', target={2: 1.0}, network=Network(")
    with pytest.raises(BadInput, match="seed"):
        theory.solve(4, 0.01, nodes=64, shifts=2, seed=-1)
    solution = theory.solve(4, 0.01, nodes=256, shifts=2)
    text = str(solution)
    assert f"m_2 = {solution.m:.6g} ± {solution.error:.1g}" in text
    assert f"test error = {solution.test_error:.5g}" in text
    assert text.splitlines()[-1] == f"  status: {solution.status}" and "precision" not in text
    known = PopulationSolution({1: 0.5, (0, 1): -0.1}, {1: 0.0, (0, 1): 0.01}, 0.25, 0.0, 100.0, "converged",
                               {"relevant": 1.5}, {"relevant": 0.01}, leading=1)
    lines = ["m_1 = 0.5", "m_(0, 1) = -0.1 ± 0.01", "precision relevant = 1.5 ± 0.01", "test error = 0.25",
             "status: converged"]
    assert [line.strip() for line in str(known).splitlines()] == ["PopulationSolution", *lines]
