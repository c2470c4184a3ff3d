"""The table of verdicts: what normswap says about pairs of models of which it is known whether they compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import normswap
from benchmarks.verdicts.__main__ import ACCEPTED, AS_IT_IS, REJECTED, Column, page, word
from benchmarks.verdicts.pairs import Pair
from benchmarks.verdicts.right import RIGHT
from benchmarks.verdicts.tools import CRASHED, FAIL, INCONCLUSIVE, PASS
from benchmarks.verdicts.wrong import WRONG

PAIRS = [*RIGHT, *WRONG]
BY_NAME = {pair.name: pair for pair in PAIRS}

# The table is of the full check. The quick one says the same about all pairs but these, and is what is run here.
NEEDS_ALL_FAMILIES = {"ties the other way", "one branch of If wrong"}


def marked(pair: Pair):
    marks = [pytest.mark.xfail(reason=pair.missed, raises=AssertionError)] if pair.missed else []
    return pytest.param(pair, id=pair.name, marks=marks)


@pytest.mark.parametrize("pair", [marked(pair) for pair in PAIRS])
def test_the_verdict_is_right(pair: Pair) -> None:
    result = normswap.check(*pair.make(), quick=pair.name not in NEEDS_ALL_FAMILIES)
    assert result.verdict == (PASS if pair.right else FAIL), result.reason


def test_there_are_enough_pairs_with_names_of_their_own() -> None:
    assert len(BY_NAME) == len(PAIRS) >= 40
    assert all(pair.right for pair in RIGHT)
    assert not any(pair.right for pair in WRONG)


def outputs(model: onnx.ModelProto, value: np.ndarray) -> np.ndarray:
    (result,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: value})
    return result


def test_what_is_missed_is_wrong() -> None:
    original, converted = BY_NAME["embedding wrong in one row"].make()
    ids = np.full((2, 16), 77)
    assert np.abs(outputs(original, ids) - outputs(converted, ids)).max() > 0.1
    original, converted = BY_NAME["float16 square overflows"].make()
    value = np.full((2, 16, 64), 100, np.float16)
    assert (outputs(original, value) == 1).all()
    with np.errstate(over="ignore"):
        assert (outputs(converted, value) == 0).all()


@pytest.mark.parametrize(
    ("pair", "verdict", "expected"),
    [
        (RIGHT[0], PASS, AS_IT_IS),
        (RIGHT[0], FAIL, REJECTED),
        (WRONG[0], FAIL, AS_IT_IS),
        (WRONG[0], PASS, ACCEPTED),
        (WRONG[0], INCONCLUSIVE, INCONCLUSIVE),
        (RIGHT[0], CRASHED, CRASHED),
    ],
)
def test_a_verdict_is_judged(pair: Pair, verdict: str, expected: str) -> None:
    assert word(pair, verdict) == expected


def test_the_page_counts_what_it_lists() -> None:
    pairs = [RIGHT[0], WRONG[0], WRONG[1]]
    text = page(pairs, [Column("a tool", "1.0", "2.0", [(PASS, ""), (FAIL, ""), (PASS, "")])])
    assert text.startswith("**Right verdicts on 3 pairs of models: a tool 2.**")
    assert "onnxruntime 2.0 on" in text
    sums, listed = text.split("## Correct rewrites")
    assert [row.split("|")[-2].strip() for row in sums.splitlines() if row.startswith("| ")][2:] == list("21000")
    assert listed.count(ACCEPTED) == 1
