"""Folding, on graphs that nobody thought of: 50 of fixed seeds and 30 that hypothesis draws, and shrinks where they fail.

More are tried by `python -m tests.random_folds --count N`; 20,000 were, once.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from normswap.transfer import TRANSFERS
from tests.random_folds.draft import Unfit
from tests.random_folds.examine import Outcome, examined, second_opinion
from tests.random_folds.growth import drawn
from tests.random_folds.table import TABLE

SEEDS = range(50)
EXAMPLES = 30
IN_ONNXRUNTIME = 10  # every so many seeds


@cache
def outcome(seed: int) -> Outcome | None:
    """What becomes of a graph; None where it gives no finite numbers."""
    try:
        return examined(drawn(random.Random(seed)))
    except Unfit:
        return None


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_the_graph_the_function_stays(seed: int) -> None:
    if outcome(seed) is not None and seed % IN_ONNXRUNTIME == 0:
        second_opinion(drawn(random.Random(seed)))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(st.randoms(use_true_random=False))
def test_whatever_hypothesis_draws_the_function_stays(source: random.Random) -> None:
    graph = drawn(source)
    event("with a body" if "body = " in graph.text or "then_branch" in graph.text else "flat")
    try:
        examined(graph)
    except Unfit:
        event("not run")


def test_every_operator_that_maps_cross_is_drawn() -> None:
    # Upsample is gone since opset 10, and graphs are of opset 17 and later; SimplifiedLayerNormalization is drawn as a
    # spelling of RMSNormalization.
    assert TRANSFERS.keys() - TABLE.keys() == {"Upsample", "SimplifiedLayerNormalization"}


def test_the_graphs_are_worth_drawing() -> None:
    outcomes = [found for seed in SEEDS if (found := outcome(seed)) is not None]
    assert len(outcomes) > len(SEEDS) * 0.9
    moves, reasons = Counter[str](), Counter[str]()
    for found in outcomes:
        moves += found.moves
        reasons += found.refusals
    assert {
        "affine-up",
        "affine-up/explicit",
        "affine-down",
        "affine-down/explicit",
        "shift-up",
        "shift-down",
        "scale-up",
        "scale-down",
        "combine",
        "dead-branch",
    } <= moves.keys()
    assert {"does-not-commute", "foreign-reader", "graph-output", "negative-scale"} <= reasons.keys()
