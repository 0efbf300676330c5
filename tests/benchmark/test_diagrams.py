"""Diagrams, timed: generation to nine loops beside feyngraph (compiled Rust), contraction for two fields.

feyngraph is a development-time oracle, not a dependency: without it (pip install feyngraph) its comparison is
skipped.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter

import pytest
import sympy as sp

from fieldtheory.symbolic.diagrams import vacuum_sum
from fieldtheory.symbolic.topologies import _generate, topologies

pytestmark = pytest.mark.slow

BUDGETS = [([4], 8, 359, 5.0), ([4], 9, 1635, 30.0), ([3, 4], 5, 590, 5.0)]


def generated(valences, loops):
    _generate.cache_clear()
    start = time.perf_counter()
    found = topologies(valences, loops)
    return found, time.perf_counter() - start


@pytest.mark.parametrize("valences, loops, count, seconds", BUDGETS, ids=lambda value: str(value))
def test_generation(benchmark, valences, loops, count, seconds):
    found = benchmark.pedantic(lambda: generated(valences, loops)[0], rounds=3)
    assert len(found) == count
    assert benchmark.stats.stats.min < seconds


def test_all_of_phi3_and_phi4_through_five_loops(benchmark):
    found = benchmark.pedantic(lambda: [generated([3, 4], loops)[0] for loops in range(2, 6)], rounds=3)
    assert [len(each) for each in found] == [3, 12, 73, 590]
    assert benchmark.stats.stats.min < 5.0


@pytest.mark.parametrize("valences, loops", [([4], 6), ([4], 8), ([3, 4], 4), ([3, 4], 5)], ids=str)
def test_beside_feyngraph(benchmark, capsys, valences, loops):
    feyngraph = pytest.importorskip("feyngraph")
    peer = pytest.importorskip("feyngraph.topology")
    feyngraph.set_threads(1)
    start = time.perf_counter()
    theirs = peer.TopologyGenerator(0, loops, peer.TopologyModel(valences)).generate()
    seconds = time.perf_counter() - start
    found, ours = min((generated(valences, loops) for _ in range(3)), key=lambda run: run[1])
    assert len(found) == len(theirs)
    assert Counter(t.symmetry_factor for t in found) == Counter(
        theirs[k].symmetry_factor() for k in range(len(theirs)))
    benchmark.extra_info.update(classes=len(found), ours=ours, feyngraph=seconds, ratio=seconds / ours)
    with capsys.disabled():
        print(f"\n{len(found)} classes of {valences} at {loops} loops: {ours:.3f} s, feyngraph {seconds:.3f} s, "
              f"ratio {seconds / ours:.1f}")
    benchmark.pedantic(lambda: generated(valences, loops), rounds=1)


@pytest.mark.parametrize("loops, seconds", [(3, 1.0), (4, 10.0)])
def test_two_fields_cubic_and_quartic(benchmark, loops, seconds):
    names = "xy"
    vertices = {key: sp.Symbol("V" + "".join(key)) for order in (3, 4)
                for key in itertools.combinations_with_replacement(names, order)}
    propagator = sp.Matrix([[sp.Symbol("Gxx"), sp.Symbol("Gxy")], [sp.Symbol("Gxy"), sp.Symbol("Gyy")]])
    found = benchmark.pedantic(lambda: vacuum_sum(loops, vertices, propagator, names), rounds=2)
    assert len(found[3].args) == 235
    assert benchmark.stats.stats.min < seconds
