"""A map is what its definition says, applied to values and to constants of lower rank, and compared by its numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normswap import maps
from normswap.maps import UNTOUCHED, Deferred, Map, Unmappable
from tests.graphs import AGREEMENT, mapped

SIZES = (1, 2, 3, 4)
examples = settings(max_examples=150, deadline=None, derandomize=True)


@st.composite
def shaped_maps(draw: st.DrawFn, ranks: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[Map, tuple[int, ...]]:
    """A map and a shape of values it is for: each of its arrays ignores some of the axes."""
    rank = draw(st.sampled_from(ranks))
    shape = tuple(draw(st.sampled_from(SIZES)) for _ in range(rank))

    def array(numbers: list[float]) -> np.ndarray:
        part = tuple(size if draw(st.booleans()) else 1 for size in shape)
        count = int(np.prod(part))
        return np.reshape(draw(st.lists(st.sampled_from(numbers), min_size=count, max_size=count)), part)

    group = array([UNTOUCHED, 0, 1, 2]).astype(np.int64)
    return Map(group, array([1.0, -2.0, 0.0, 3.5]), array([0.0, -1.5, 4.0])), shape


def values(shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.random.default_rng(3).normal(0.7, 2.0, shape))


@given(shaped_maps())
@examples
def test_it_is_applied_as_defined(drawn: tuple[Map, tuple[int, ...]]) -> None:
    a_map, shape = drawn
    x = values(shape)
    result = maps.apply(a_map, x)
    assert result.shape == x.shape
    assert np.abs(result - mapped(a_map, x)).max(initial=0.0) < AGREEMENT


@given(shaped_maps((1, 2, 3)), st.data())
@examples
def test_a_constant_grows_only_where_it_must(drawn: tuple[Map, tuple[int, ...]], data: st.DataObject) -> None:
    a_map, shape = drawn
    lead = data.draw(st.integers(0, len(shape)))
    small = tuple(size if data.draw(st.booleans()) else 1 for size in shape[lead:])
    x = values(small)
    result = maps.apply(a_map, x)
    expected = mapped(a_map, x.reshape((1,) * lead + small))
    assert np.abs(np.broadcast_to(result, expected.shape) - expected).max(initial=0.0) < AGREEMENT
    for axis, size in enumerate((1,) * lead + small):
        grown = result.shape[axis - len(shape)] if axis >= len(shape) - result.ndim else 1
        assert grown == size or np.ptp(expected, axis=axis).max() > 0


def test_the_center_of_a_bias_keeps_its_rank_under_a_map_of_higher_rank() -> None:
    center = maps.centering(3, {2: 8})
    assert maps.apply(center, values((8,))).shape == (8,)
    assert maps.apply(center, values((1, 8))).shape == (1, 8)


def test_one_number_is_zero_once_it_is_centered_and_grows_under_a_shift_that_varies() -> None:
    assert maps.apply(maps.centering(3, {2: 8}), np.asarray([4.0])).tolist() == [0.0]
    shift = maps.affine(2, shift=np.arange(3.0))
    assert maps.apply(shift, np.asarray(1.0)).tolist() == [[1.0, 2.0, 3.0]]


@given(shaped_maps((1, 2, 3)), st.data())
@examples
def test_cut_along_an_axis_it_does_to_the_rest_what_it_did(
    drawn: tuple[Map, tuple[int, ...]], data: st.DataObject
) -> None:
    a_map, shape = drawn
    axis = data.draw(st.integers(0, len(shape) - 1))
    kept = np.asarray(sorted(data.draw(st.sets(st.integers(0, shape[axis] - 1), min_size=1))), dtype=np.int64)
    x = values(shape)
    try:
        cut = maps.restricted(a_map, axis, kept)
    except Unmappable:
        assert a_map.group.shape[axis] > 1
        return
    assert np.abs(maps.apply(cut, x.take(kept, axis)) - maps.apply(a_map, x).take(kept, axis)).max() < AGREEMENT


@given(shaped_maps((0, 1, 2)), st.data())
@examples
def test_on_more_axes_it_ignores_the_others(drawn: tuple[Map, tuple[int, ...]], data: st.DataObject) -> None:
    a_map, shape = drawn
    rank = len(shape) + data.draw(st.integers(0, 2))
    axes = sorted(data.draw(st.permutations(range(rank)))[: len(shape)])
    others = [axis for axis in range(rank) if axis not in axes]
    wide = maps.inserted(a_map, rank, axes)
    assert wide.rank == rank
    x = values((*(3 for _ in others), *shape))
    order = [*others, *axes]
    moved = x.transpose(np.argsort(order)) if rank else x
    result = maps.apply(wide, moved).transpose(order) if rank else maps.apply(wide, moved)
    for place in np.ndindex(*(3 for _ in others)):
        assert np.abs(result[place] - maps.apply(a_map, x[place])).max(initial=0.0) < AGREEMENT


def test_axes_must_ascend() -> None:
    with pytest.raises(ValueError, match="ascending"):
        maps.inserted(maps.identity(2), 3, [1, 0])


@given(shaped_maps())
@examples
def test_equal_maps_have_equal_keys_and_other_maps_have_not(drawn: tuple[Map, tuple[int, ...]]) -> None:
    a_map, _ = drawn
    again = Map(a_map.group.copy(), a_map.scale.copy(), np.array(a_map.offset()))
    assert maps.same(a_map, again)
    assert hash(a_map.key()) == hash(again.key())
    assert not maps.same(a_map, Map(a_map.group, a_map.scale + 1, a_map.shift))
    assert not maps.same(a_map, Map(a_map.group, a_map.scale, a_map.offset() + 1))


@given(shaped_maps())
@examples
def test_the_identity_is_what_changes_nothing(drawn: tuple[Map, tuple[int, ...]]) -> None:
    a_map, shape = drawn
    assert maps.identity(len(shape)).is_identity
    if a_map.is_identity:
        assert np.array_equal(mapped(a_map, values(shape)), values(shape))
    assert maps.linear(a_map).shifts is False
    assert a_map.axes() == tuple(axis for axis in range(len(shape)) if a_map.varies(axis))


def test_a_parameter_is_aligned_at_the_last_axis() -> None:
    a_map = maps.affine(3, scale=np.arange(4.0), shift=np.ones((2, 1)))
    assert a_map.scale.shape == (1, 1, 4)
    assert a_map.offset().shape == (1, 2, 1)


# --- deferred shifts ------------------------------------------------------------------------------------------------


def unasked() -> np.ndarray:
    raise AssertionError("a weight was looked at")


def test_a_deferred_shift_is_not_computed_by_planning() -> None:
    a_map = maps.affine(2, shift=Deferred((1, 4), unasked))
    assert a_map.shifts
    assert a_map.varies(1)
    assert not a_map.is_identity
    assert maps.same(a_map, a_map)
    assert not maps.same(a_map, maps.affine(2, shift=Deferred((1, 4), unasked)))
    assert not maps.linear(a_map).shifts
    assert maps.inserted(a_map, 3, [1, 2]).shift.shape == (1, 1, 4)
    assert maps.restricted(a_map, 0, np.asarray([0])).shift is a_map.shift


def test_a_deferred_shift_is_computed_once_and_has_the_shape_it_promised() -> None:
    asked = []

    def function() -> np.ndarray:
        asked.append(1)
        return np.asarray(2.0)

    a_map = maps.affine(2, shift=Deferred((1, 4), function))
    assert maps.apply(a_map, np.zeros((3, 4))).tolist() == [[2.0] * 4] * 3
    assert a_map.offset().shape == (1, 4)
    assert len(asked) == 1
