"""Measures of one output, and the bounds they are held against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from normswap.check.measure import Error, measure, relative_difference
from normswap.check.verdict import CLOSE, EXPLAINED, Sample, may_change, overall, pool, too_large, unexplained

EPS = float(np.finfo(np.float32).eps)


def sample(original: float, converted: float, family: str = "f", elements: int = 2000, **more: object) -> Sample:
    truth = np.linspace(-1, 1, elements)
    return Sample(family, measure(truth, truth + original, truth + converted), **more)


def test_bound_is_the_originals_own_error_and_two_roundings():
    floor = 2 * EPS
    assert not too_large(pool([sample(1e-5, 2e-5)])[0], EPS)
    assert too_large(pool([sample(1e-5, 2.1e-5 + floor)])[0], EPS)
    assert not too_large(pool([sample(1e-5, 2.9e-5, elements=900)])[0], EPS)
    assert too_large(pool([sample(1e-5, 3.1e-5 + floor, elements=900)])[0], EPS)
    assert not too_large(pool([sample(0, floor)])[0], EPS)
    assert too_large(pool([sample(0, 1.1 * floor)])[0], EPS)
    assert "RMSE" not in too_large(pool([sample(0, 1.0)])[0], EPS)


def test_rmse_is_judged_too():
    """One place equally wrong in both models hides a widespread error from the maximum."""
    truth = np.linspace(-1, 1, 2000)
    spike = np.zeros(2000)
    spike[7] = 1e-2
    measured = measure(truth, truth + spike, truth + spike + 9e-3)
    assert "RMSE" in too_large(pool([Sample("f", measured)])[0], EPS)


def test_families_do_not_hide_each_other():
    pooled = pool([sample(1e-2, 1e-2, "large"), sample(1e-6, 1e-4, "small")])
    assert [bool(too_large(p, EPS)) for p in pooled] == [False, True]


def test_control_widens_the_bound():
    assert too_large(pool([sample(1e-6, 1e-4)])[0], EPS)
    assert not too_large(pool([sample(1e-6, 1e-4, controls=(Error(1e-4, 2000e-8),))])[0], EPS)


def test_a_close_failure_and_one_on_few_elements_are_looked_at_again():
    bound = 2e-5 + 2 * EPS
    close, far = sample(1e-5, 0.9 * CLOSE * bound), sample(1e-5, 1.1 * CLOSE * bound)
    assert too_large(pool([close])[0], EPS)
    assert may_change(pool([close]), EPS)
    assert not may_change(pool([far]), EPS)
    assert not may_change(pool([close, replace(far, family="g")]), EPS)
    assert may_change(pool([sample(1e-5, 1.0, elements=900)]), EPS)
    assert not may_change(pool([sample(1e-5, 1e-5)]), EPS)  # what failed was no error


def test_an_original_far_from_the_truth_must_be_explained():
    wrong = sample(0.5, 0.5)
    assert unexplained(pool([wrong])[0], EPS)
    noise = Error(0.5 / EXPLAINED, 1.0)
    assert not unexplained(pool([sample(0.5, 0.5, controls=(noise,))])[0], EPS)


@pytest.mark.parametrize(
    ("original", "converted", "words"),
    [
        ([1, np.nan], [np.nan, 1], "2 of 2 places"),
        ([np.inf, 1], [-np.inf, 1], "1 of 2 places"),
        ([1, 2], [1], "shape [2] became [1]"),
    ],
)
def test_mismatch(original, converted, words):
    a, b = np.array(original, np.float32), np.array(converted, np.float32)
    assert words in measure(a.astype(np.float64), a, b).mismatch


def test_same_non_finite_places_leave_the_rest_to_be_judged():
    a = np.array([np.nan, np.inf, 1], np.float32)
    measured = measure(np.array([3.0, 4.0, 1.0]), a, a)
    assert not measured.mismatch
    assert measured.finite == 1
    assert measure(np.array([np.nan, 4.0, np.nan]), a, a).truth_disagrees


def test_relative_difference():
    assert relative_difference(np.array([1.0, -4.0]), np.array([1.0, -4.1])) == pytest.approx(0.025)
    assert relative_difference(np.array([1.0]), np.array([np.nan])) is None
    assert relative_difference(np.zeros(2), np.zeros(2)) == 0


def test_overall():
    assert overall({"a": "pass", "b": "fail"}, ["a"]) == "fail"
    assert overall({"a": "pass", "b": "inconclusive"}, ["a"]) == "inconclusive"
    assert overall({"a": "pass", "b": "pass"}, ["a"]) == "pass"
    assert overall({"a": "pass"}, []) == "inconclusive"
    assert overall({}, ["a"]) == "inconclusive"
