"""A chain cut anywhere goes on bit by bit as if it had not been."""

from __future__ import annotations

import numpy as np
import pytest

from fieldtheory.errors import BadInput
from fieldtheory.sampling import METHODS, Bound, Method
from fieldtheory.sampling.chain import Chain
from fieldtheory.sampling.methods import STATISTICS
from tests.sampling.test_methods import coordinates, tilted

SIZE, WARMUP, DRAWS, THIN = 3, 40, 30, 2


ENERGY, OBSERVE = Bound.make(tilted), Bound.make(coordinates)


def chain(method: str | Method = "mala", number: int = 0, **options) -> Chain:
    seed = np.random.SeedSequence(5).spawn(number + 1)[number]
    find = METHODS[method] if isinstance(method, str) else method
    return Chain(number, ENERGY, OBSERVE, find, seed,
                 lambda rng: rng.standard_normal(SIZE), **options)


class Cut:
    """Says stop after so many questions."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def __call__(self) -> bool:
        self.patience -= 1
        return self.patience < 0


@pytest.mark.parametrize("options", [
    {"method": "mala"}, {"method": "hmc"}, {"method": "underdamped"}, {"method": "ula", "step": 0.3},
    {"method": "hmc", "adapt_mass": True},
], ids=str)
@pytest.mark.parametrize("patience", [1, 3])
def test_a_run_in_pieces_is_the_run_in_one(options, patience, monkeypatch):
    rows, stats = np.empty((DRAWS, SIZE)), np.empty((DRAWS, len(STATISTICS)))
    assert chain(**options).run(rows, stats, WARMUP, THIN, lambda: False) == DRAWS
    monkeypatch.setattr("fieldtheory.sampling.chain._CALL_SECONDS", 1e-9)  # one iteration a call
    again, more, begin, saved, pieces = np.empty_like(rows), np.empty_like(stats), 0, None, 0
    while begin < DRAWS:
        part = chain(**options)
        if saved is not None:
            part.restore(saved)
        begin += part.run(again[begin:], more[begin:], WARMUP, THIN, Cut(patience))
        saved, pieces = part.snapshot(), pieces + 1
        assert part.completed == begin
    assert pieces > DRAWS / patience
    assert np.array_equal(rows, again) and np.array_equal(stats, more)


def test_a_chain_that_forgets_its_momentum_differs():
    """The twin: what the snapshot holds is needed."""
    whole, part = chain("underdamped", step=0.3), chain("underdamped", step=0.3)
    rows, stats = np.empty((2, 10, SIZE)), np.empty((2, 10, len(STATISTICS)))
    for one in (whole, part):
        one.run(rows[0], stats[0], WARMUP, THIN, lambda: False)
    saved = whole.snapshot()
    saved["state"][2] = 0.0
    part.restore(saved)
    for k, one in enumerate((whole, part)):
        one.draw(rows[k], stats[k], THIN, lambda: False)
    assert not np.array_equal(rows[0], rows[1])


def test_another_chain_s_snapshot_is_refused():
    saved = chain().snapshot()
    del saved["stream"]
    with pytest.raises(BadInput, match="snapshot: got nothing for stream"):
        chain().restore(saved)
    saved = chain().snapshot()
    saved["state"] = saved["state"][:, :2]
    with pytest.raises(BadInput, match=r"snapshot: got float64\(5, 2\) for state"):
        chain().restore(saved)
