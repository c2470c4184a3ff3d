"""Ratios of times and what they say, on times that are drawn: nothing here looks at a clock."""

from __future__ import annotations

import numpy as np
import pytest

from normswap.bench.ratio import EFFECT, Floats, Ratio, Verdict, ratio, trusted, verdict, worst

ROUNDS, BLOCKS = 100, 10
CONTROL = Ratio(1.0, 0.99, 1.01)


def drawn(seed: int, factor: float = 1.0, between: float = 0.0) -> Floats:
    """Seconds of rounds: noise of 3 %, outliers, and a level that changes `between` blocks."""
    generator = np.random.default_rng(seed)
    level = np.repeat(np.exp(between * generator.standard_normal(BLOCKS)), ROUNDS // BLOCKS)
    outliers = np.where(generator.random(ROUNDS) < 0.05, 20.0, 1.0)
    return factor * level * np.exp(0.03 * generator.standard_normal(ROUNDS)) * outliers


def test_equal_models_are_called_different_in_less_than_one_case_in_twenty_even_where_blocks_differ() -> None:
    generator = np.random.default_rng(0)
    seen = [
        ratio(drawn(3 * seed, between=0.02), drawn(3 * seed + 1, between=0.02), BLOCKS, generator) for seed in range(60)
    ]
    missed = sum(not found.low <= 1 <= found.high for found in seen)
    assert missed <= 0.1 * len(seen)  # 95 % intervals of ten blocks
    assert sum(verdict(found, CONTROL) in ("faster", "slower") for found in seen) <= 0.05 * len(seen)


@pytest.mark.parametrize(("factor", "expected"), [(1.05, "slower"), (1 / 1.05, "faster"), (1.01, None)])
def test_a_difference_of_five_percent_is_found_and_one_of_one_percent_is_none(
    factor: float, expected: Verdict | None
) -> None:
    generator = np.random.default_rng(0)
    for seed in range(20):
        found = ratio(drawn(2 * seed, factor), drawn(2 * seed + 1), BLOCKS, generator)
        assert verdict(found, CONTROL) == (expected or "no detectable difference")
        assert found.low < found.median < found.high


def test_machine_that_slows_down_for_both_does_not_show() -> None:
    slow = np.where(np.arange(ROUNDS) > ROUNDS // 2, 3.0, 1.0)
    found = ratio(slow * drawn(1), slow * drawn(2), BLOCKS, np.random.default_rng(0))
    assert abs(found.median - 1) < EFFECT


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (Ratio(1.0, 0.99, 1.01), True),
        (Ratio(1.01, 1.002, 1.018), False),  # the original is slower than itself
        (Ratio(1.0, 0.96, 1.03), False),  # too wide to see an effect
    ],
)
def test_nothing_is_said_where_the_original_differs_from_itself(control: Ratio, *, expected: bool) -> None:
    assert trusted(control) == expected
    assert (verdict(Ratio(2.0, 1.9, 2.1), control) == "slower") == expected
    assert (verdict(Ratio(2.0, 1.9, 2.1), control) == "inconclusive") != expected


def test_one_slower_model_makes_the_verdict() -> None:
    assert worst(["faster", "inconclusive", "slower"]) == "slower"
    assert worst(["faster", "inconclusive"]) == "inconclusive"
    assert worst(["faster", "no detectable difference"]) == "no detectable difference"
    assert worst(["faster"]) == "faster"
