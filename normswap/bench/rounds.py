"""Interleaved timing: in every round all models take a turn, in an order drawn anew.

Whatever slows the machine down for a while slows all of them. Where in memory a session's weights happen to lie makes
it faster or slower for as long as it lives, so every block of rounds has sessions of its own.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from normswap.bench.session import Run

Seconds = npt.NDArray[np.float64]

BLOCKS = 10
"""How often all sessions are made anew; the bootstrap resamples these blocks."""

STEADY = 0.1
"""A model is warm when the medians of its last two turns differ by less than this, relative to the larger."""
WARM_UP_TURNS = 10
"""Turns after which it is taken for warm all the same: on a busy machine no two are alike."""
TURN_SECONDS = 0.005
"""A turn is so many runs that it lasts about this long: the clock and the change of models cost microseconds."""
RUNS = (3, 200)
"""The fewest and the most runs of a turn."""


@dataclass(frozen=True)
class Taken:
    """The seconds of every run of one model: one row per round, one column per run of its turn."""

    seconds: Seconds

    @property
    def rounds(self) -> Seconds:
        """The median of each round."""
        medians: Seconds = np.median(self.seconds, axis=1)
        return medians


def whole_blocks(rounds: int) -> int:
    """So many rounds, and as many more as make all blocks equally long."""
    return -(-rounds // BLOCKS) * BLOCKS


def turn(run: Run, runs: int) -> Seconds:
    """The seconds of `runs` calls, one after the other."""
    taken = np.zeros(runs)
    for number in range(runs):
        start = time.perf_counter()
        run()
        taken[number] = time.perf_counter() - start
    return taken


def warm_up(run: Run) -> float:
    """Run until the time is steady; the seconds of one run."""
    last = float("inf")
    for _ in range(WARM_UP_TURNS):
        median = float(np.median(turn(run, RUNS[0])))
        if abs(median - last) < STEADY * max(median, last):
            break
        last = median
    return median


def measure(
    arms: Mapping[str, Callable[[], Run]],
    rounds_per_block: int,
    generator: np.random.Generator,
    progress: Callable[[int], None],
) -> dict[str, Taken]:
    """The times of every arm, each opened anew for every block of rounds, in an order drawn anew.

    All take as many runs per turn. `progress` is called with the number of each round.
    """
    taken: dict[str, list[Seconds]] = {name: [] for name in arms}
    runs = 0
    for block in range(BLOCKS):
        opened = {name: arms[name]() for name in generator.permutation(list(arms))}
        slowest = max(warm_up(run) for run in opened.values())
        runs = runs or int(np.clip(np.ceil(TURN_SECONDS / max(slowest, 1e-9)), *RUNS))
        with _no_garbage_collection():
            for number in range(rounds_per_block):
                progress(block * rounds_per_block + number)
                for name in generator.permutation(list(opened)):
                    taken[name].append(turn(opened[name], runs))
    return {name: Taken(np.stack(turns)) for name, turns in taken.items()}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
