"""The minimum cut as choices: gains against costs, requirements, and ties that stay."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from normswap.cut import Choices


def test_a_gain_is_taken_if_it_pays():
    choices = Choices()
    choices.gains("norm", 5)
    choices.costs("norm", 4)
    assert choices.best() == {"norm"}


def test_a_tie_stays():
    choices = Choices()
    choices.gains("norm", 5)
    choices.costs("norm", 5)
    assert choices.best() == frozenset()


def test_two_gains_pay_what_one_does_not():
    choices = Choices()
    for norm in ("a", "b"):
        choices.gains(norm, 3)
        choices.requires(norm, "center")
    choices.costs("center", 5)
    assert choices.best() == {"a", "b", "center"}


def test_a_veto_far_away_holds():
    choices = Choices()
    choices.gains("norm", 100)
    choices.requires("norm", "add")
    choices.requires("add", "reader")
    choices.forbid("reader")
    assert choices.best() == frozenset()


def test_a_price_that_only_counts_without_the_other():
    choices = Choices()
    choices.gains("a", 3)
    choices.costs_without("a", "b", 10)
    assert choices.best() == {"a", "b"}


def test_nothing_to_gain_is_nothing_to_do():
    choices = Choices()
    choices.costs("a", 1)
    choices.forbid("b")
    assert choices.best() == frozenset()


KEYS = "abcd"


@given(
    st.dictionaries(st.sampled_from(KEYS), st.integers(1, 9)),
    st.dictionaries(st.sampled_from(KEYS), st.integers(1, 9)),
    st.sets(st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS)), max_size=5),
    st.dictionaries(st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS)), st.integers(1, 9), max_size=4),
    st.sets(st.sampled_from(KEYS), max_size=1),
)
def test_the_choice_is_the_smallest_of_the_cheapest(gains, costs, requires, without, forbidden):
    """Against trying all sixteen subsets."""

    def price(chosen: frozenset[str]) -> float:
        if chosen & forbidden or any(a in chosen and b not in chosen for a, b in requires):
            return float("inf")
        left = sum(value for key, value in gains.items() if key not in chosen)
        paid = sum(value for key, value in costs.items() if key in chosen)
        return left + paid + sum(value for (a, b), value in without.items() if a in chosen and b not in chosen)

    choices = Choices()
    for key, value in gains.items():
        choices.gains(key, value)
    for key, value in costs.items():
        choices.costs(key, value)
    for a, b in requires:
        choices.requires(a, b)
    for (a, b), value in without.items():
        choices.costs_without(a, b, value)
    for key in forbidden:
        choices.forbid(key)
    subsets = [frozenset(s) for size in range(len(KEYS) + 1) for s in itertools.combinations(KEYS, size)]
    cheapest = min(map(price, subsets))
    best = choices.best()
    assert price(best) == cheapest
    assert all(best <= other for other in subsets if price(other) == cheapest)
