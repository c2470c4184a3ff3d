"""The smallest set of rewrites that fails: minimal by the property that defines it, and the right one when planted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import normswap
from normswap.bisect.culprits import Converter, find, smallest
from normswap.conversion import Options
from tests.bisect.conftest import chain

SETS = st.sets(st.integers(0, 11), min_size=1, max_size=4)


@given(count=st.integers(1, 12), causes=st.lists(SETS, min_size=1, max_size=3))
def test_of_several_causes_one_is_found_and_nothing_else(count: int, causes: list[set[int]]) -> None:
    """Failures are monotone: a set fails if it holds a cause whole. Then the smallest is one of the causes."""
    items = list(range(count))
    if not any(cause <= set(items) for cause in causes):
        return
    found = smallest(items, lambda chosen: any(cause <= set(chosen) for cause in causes))
    assert set(found) in causes
    assert found == sorted(found)


@given(count=st.integers(2, 7), seed=st.randoms(use_true_random=False))
def test_no_item_can_be_left_out_however_failures_depend_on_each_other(count: int, seed) -> None:
    items = list(range(count))
    failing = {frozenset(items)} | {
        frozenset(item for item in items if bits >> item & 1) for bits in range(1, 2**count) if seed.random() < 0.3
    }
    asked: list[frozenset[int]] = []

    def fails(chosen: Sequence[int]) -> bool:
        asked.append(frozenset(chosen))
        return frozenset(chosen) in failing

    found = smallest(items, fails)
    assert frozenset(found) in failing
    assert len(found) == 1 or not any(frozenset(found) - {item} in failing for item in found)
    assert frozenset() not in asked
    assert frozenset(items) not in asked


def test_one_of_many_is_found_in_few_trials() -> None:
    asked = []
    assert smallest(range(1024), lambda chosen: asked.append(chosen) or 77 in chosen) == [77]
    assert len(asked) <= 20


def converter(model: onnx.ModelProto) -> Converter:
    options = Options(("rmsnorm",), "auto", (), (), frozenset(), allow_larger=False, progress=lambda line: None)
    return Converter(model, options, "cpu", None)


def test_the_wrong_site_is_found(misspell: Callable[..., None]) -> None:
    misspell("ln_4")
    found = find(converter(chain()), [f"ln_{index}" for index in range(1, 6)])
    assert found.sites == ("ln_4",)
    assert found.minimal
    assert 1 < found.trials <= 6


def test_two_that_are_wrong_give_one_of_them(misspell: Callable[..., None]) -> None:
    misspell("ln_2", "ln_5")
    assert find(converter(chain()), [f"ln_{index}" for index in range(1, 6)]).sites in (("ln_2",), ("ln_5",))


def test_what_does_not_fail_has_no_culprit() -> None:
    found = find(converter(chain()), ["ln_1", "ln_2"])
    assert found.sites == ()
    assert not found.minimal
    assert found.trials == 1


def test_trials_are_bounded_and_said_to_be(misspell: Callable[..., None]) -> None:
    misspell("ln_4")
    found = find(converter(chain()), [f"ln_{index}" for index in range(1, 6)], limit=2)
    assert found.trials == 2
    assert not found.minimal
    assert "ln_4" in found.sites


@pytest.mark.parametrize("bisect", [True, False])
def test_names_that_look_like_patterns_are_names(misspell: Callable[..., None], bisect: bool) -> None:
    """`[a]` as a shell pattern is `a`, `*` is everything."""
    misspell("[a]*?")
    result = normswap.convert(chain(["a", "[a]*?", "a*", "*", "ab"]), "rmsnorm", bisect=bisect)
    assert result.check is not None
    assert result.check.verdict == "fail"
    assert (result.check.bisect is not None) == bisect
    if result.check.bisect:
        assert result.check.bisect.sites == ("[a]*?",)
