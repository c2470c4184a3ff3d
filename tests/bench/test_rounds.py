"""The order of an interleaved measurement, with models that only write down that they were run."""

from __future__ import annotations

from collections import Counter

import numpy as np

from normswap.bench.rounds import BLOCKS, RUNS, measure
from normswap.bench.session import Run

ROUNDS = 40


def test_all_models_take_turns_in_orders_of_their_own_and_every_block_has_new_sessions() -> None:
    log: list[str] = []
    opened: Counter[str] = Counter()

    def opener(name: str) -> Run:
        opened[name] += 1
        return lambda: log.append(name)

    rounds: list[int] = []

    def begin(number: int) -> None:
        rounds.append(len(log))

    arms = {name: lambda name=name: opener(name) for name in "abc"}
    taken = measure(arms, ROUNDS // BLOCKS, np.random.default_rng(0), begin)
    runs = taken["a"].seconds.shape[1]
    assert RUNS[0] <= runs <= RUNS[1]
    orders = ["".join(log[start : start + 3 * runs : runs]) for start in rounds]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) == 6
    assert opened == dict.fromkeys("abc", BLOCKS)
    assert all(each.rounds.shape == (ROUNDS,) and (each.seconds > 0).all() for each in taken.values())
