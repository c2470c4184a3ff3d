"""What is carried through a layout operator does before it what the map does behind it, or nothing is carried."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from normswap import carry, maps
from normswap.carry import NO_SOURCE, Sources
from normswap.maps import Map, Unmappable
from tests.graphs import AGREEMENT, mapped
from tests.test_maps import shaped_maps, values

Layout = Callable[[Sequence[np.ndarray]], np.ndarray]
examples = settings(max_examples=400, deadline=None, derandomize=True)


def sources(layout: Layout, shapes: Sequence[tuple[int, ...]]) -> Sources:
    """The layout run on element numbers, as the transfer does it."""
    starts = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    numbers = [
        np.arange(start, start + int(np.prod(shape))).reshape(shape)
        for start, shape in zip(starts, shapes, strict=False)
    ]
    return Sources(tuple(shapes), np.asarray(layout(numbers), dtype=np.int64))


def run(layout: Layout, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The layout run on numbers; what has no source is zero."""
    flat = np.concatenate([array.ravel() for array in arrays])
    places = sources(layout, [array.shape for array in arrays]).output
    return np.where(places == NO_SOURCE, 0.0, flat[places])


def factors(size: int) -> list[int]:
    return [factor for factor in range(1, size + 1) if size % factor == 0]


@st.composite
def rearrangements(draw: st.DrawFn, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Reshape, Transpose, or elements in reverse: every element of the input once."""
    kind = draw(st.sampled_from(["reshape", "transpose", "reverse"]))
    if kind == "reshape":
        size = int(np.prod(shape))
        first = draw(st.sampled_from(factors(size)))
        second = draw(st.sampled_from(factors(size // first)))
        target = (first, second, size // first // second)
        return lambda array: array.reshape(target)
    if kind == "transpose":
        order = draw(st.permutations(range(len(shape))))
        return lambda array: array.transpose(order)
    axis = draw(st.integers(0, len(shape) - 1))
    return lambda array: np.flip(array, axis)


@st.composite
def selections(draw: st.DrawFn, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Slice, Gather, Tile, Expand, Pad: some elements left out, some several times, some from nowhere."""
    axis = draw(st.integers(0, len(shape) - 1))
    kind = draw(st.sampled_from(["slice", "gather", "tile", "expand", "pad"]))
    if kind == "slice":
        start, step = draw(st.integers(0, shape[axis] - 1)), draw(st.integers(1, 2))
        return lambda array: array.take(range(start, shape[axis], step), axis)
    if kind == "gather":
        places = draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=4))
        return lambda array: array.take(places, axis)
    if kind == "tile":
        return lambda array: np.concatenate([array, array], axis)
    if kind == "expand":
        return lambda array: np.repeat(array[None], 2, 0)
    width = [(0, 1) if place == axis else (0, 0) for place in range(len(shape))]
    return lambda array: np.pad(array, width, constant_values=NO_SOURCE)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Layout, tuple[tuple[int, ...], ...]]:
    """One or two inputs, rearranged, joined, and cut or copied; and their shapes."""
    sizes = st.sampled_from([1, 2, 3, 4])
    shape = tuple(draw(st.lists(sizes, min_size=1, max_size=3)))
    shapes: tuple[tuple[int, ...], ...] = (shape,)
    joined: Layout = lambda arrays: arrays[0]  # noqa: E731
    if draw(st.booleans()):
        axis = draw(st.integers(0, len(shape) - 1))
        other = tuple(draw(sizes) if place == axis else size for place, size in enumerate(shape))
        shapes = (shape, other)
        joined = lambda arrays: np.concatenate(list(arrays), axis)  # noqa: E731
    current = sources(joined, shapes).output
    steps: list[Callable[[np.ndarray], np.ndarray]] = []
    for kind in draw(st.lists(st.sampled_from([rearrangements, selections]), max_size=2)):
        steps.append(draw(kind(current.shape)))
        current = steps[-1](current)

    def layout(arrays: Sequence[np.ndarray]) -> np.ndarray:
        result = joined(arrays)
        for step in steps:
            result = step(result)
        return result

    return layout, shapes


@st.composite
def maps_for(draw: st.DrawFn, shape: tuple[int, ...]) -> Map:
    """A map on values of `shape`; mostly whole axes and blocks of them, as norms have them, else anything."""
    ones = (1,) * len(shape)
    plain = maps.identity(len(shape))
    axis = draw(st.integers(0, max(len(shape) - 1, 0)))
    kind = draw(st.sampled_from(["center", "blocks", "scale", "shift", "any"])) if shape else "any"
    line = [size if place == axis else 1 for place, size in enumerate(shape)]
    if kind == "center":
        return Map(np.zeros(line, np.int64), plain.scale, plain.shift)
    if kind == "blocks":
        count = draw(st.sampled_from(factors(shape[axis])))
        return Map((np.arange(shape[axis]) * count // shape[axis]).reshape(line), plain.scale, plain.shift)
    if kind == "scale":
        return Map(plain.group, np.arange(2.0, shape[axis] + 2).reshape(line), plain.shift)
    if kind == "shift":
        return Map(plain.group, np.full(ones, -1.5), np.arange(1.0, shape[axis] + 1).reshape(line))
    part = tuple(size if draw(st.booleans()) else 1 for size in shape)
    count = int(np.prod(part))
    group = np.reshape(draw(st.lists(st.integers(-1, 2), min_size=count, max_size=count)), part).astype(np.int64)
    return Map(group, np.full(ones, 2.0), np.full(ones, draw(st.sampled_from([0.0, 3.0]))))


@given(st.data())
@examples
def test_pulled_it_does_before_the_operator_what_it_does_behind_it(data: st.DataObject) -> None:
    layout, shapes = data.draw(layouts())
    found = sources(layout, shapes)
    a_map = data.draw(maps_for(found.output.shape))
    try:
        wanted = carry.pull(a_map, [found])
    except Unmappable:
        event("blocked")
        return
    arrays = [values(shape) + index for index, shape in enumerate(shapes)]
    left = run(layout, [mapped(one, array) for one, array in zip(wanted, arrays, strict=True)])
    assert np.abs(left - mapped(a_map, run(layout, arrays))).max(initial=0.0) < AGREEMENT


@given(st.data())
@examples
def test_pushed_it_does_behind_the_operator_what_it_does_before_it(data: st.DataObject) -> None:
    layout, shapes = data.draw(layouts())
    given_maps = [data.draw(maps_for(shape)) for shape in shapes]
    try:
        out = carry.push(given_maps, [sources(layout, shapes)])
    except Unmappable:
        event("blocked")
        return
    arrays = [values(shape) + index for index, shape in enumerate(shapes)]
    left = run(layout, [mapped(one, array) for one, array in zip(given_maps, arrays, strict=True)])
    assert np.abs(left - mapped(out, run(layout, arrays))).max(initial=0.0) < AGREEMENT


@given(shaped_maps((1, 2, 3)), st.data())
@examples
def test_what_only_rearranges_carries_every_map_there_and_back(
    drawn: tuple[Map, tuple[int, ...]], data: st.DataObject
) -> None:
    a_map, shape = drawn
    step = data.draw(rearrangements(shape))
    found = sources(lambda arrays: step(arrays[0]), [shape])
    out = carry.push([a_map], [found])
    (back,) = carry.pull(out, [found])
    assert np.abs(mapped(back, values(shape)) - mapped(a_map, values(shape))).max() < AGREEMENT


@given(shaped_maps((1, 2, 3)))
@examples
def test_what_is_carried_is_as_small_as_can_be(drawn: tuple[Map, tuple[int, ...]]) -> None:
    a_map, shape = drawn
    (small,) = carry.pull(a_map, [sources(lambda arrays: arrays[0], [shape])])
    for axis, size in enumerate(shape):
        assert small.scale.shape[axis] in (1, size)
        assert small.scale.shape[axis] == 1 or np.ptp(small.scale, axis=axis).max() > 0
        assert small.offset().shape[axis] == 1 or np.ptp(small.offset(), axis=axis).max() > 0
    again = carry.push([small], [sources(lambda arrays: arrays[0], [shape])])
    assert maps.same(small, again)


# --- what blocks ----------------------------------------------------------------------------------------------------


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(Unmappable) as caught:
        call()
    return caught.value.reason_id


WHOLE = maps.centering(2, {1: 4})


def test_a_part_of_a_group_blocks() -> None:
    part = sources(lambda arrays: arrays[0][:, :3], [(2, 4)])
    assert reason(lambda: carry.push([WHOLE], [part])) == "coarser-groups"


def test_a_group_over_several_inputs_blocks() -> None:
    joined = sources(lambda arrays: np.concatenate(list(arrays), 1), [(2, 2), (2, 2)])
    assert reason(lambda: carry.pull(WHOLE, [joined])) == "coarser-groups"


def test_copies_that_need_different_maps_block() -> None:
    copied = sources(lambda arrays: np.repeat(arrays[0], 4, 1), [(2, 1)])
    different = maps.affine(2, scale=np.arange(1.0, 5))
    assert reason(lambda: carry.pull(different, [copied])) == "coarser-groups"


def test_padding_within_a_group_blocks() -> None:
    padded = sources(lambda arrays: np.pad(arrays[0], ((0, 0), (0, 1)), constant_values=NO_SOURCE), [(2, 3)])
    assert reason(lambda: carry.pull(WHOLE, [padded])) == "coarser-groups"
    assert reason(lambda: carry.push([maps.centering(2, {1: 3})], [padded])) == "coarser-groups"


def test_what_depends_on_a_free_dimension_blocks() -> None:
    bindings = [sources(lambda arrays: arrays[0].reshape(-1), [(free, 4)]) for free in (3, 5)]
    scale = maps.affine(2, scale=np.arange(1.0, 5))
    assert reason(lambda: carry.push([scale], bindings)) == "unknown-shape"
    kept = [sources(lambda arrays: arrays[0].reshape(-1, 4), [(free, 2, 2)]) for free in (3, 5)]
    assert carry.pull(maps.centering(2, {1: 4}), kept)[0].group.shape == (1, 2, 2)


@pytest.mark.parametrize("sizes", [(4, 0), (0, 4)])
def test_a_piece_without_elements_blocks_and_does_not_crash(sizes: tuple[int, int]) -> None:
    joined = sources(lambda arrays: np.concatenate(list(arrays), 1), [(2, size) for size in sizes])
    assert reason(lambda: carry.pull(maps.affine(2, scale=np.arange(1.0, 5)), [joined])) == "unknown-shape"
    empty = sources(lambda arrays: arrays[0][:, 4:], [(2, 4)])
    assert reason(lambda: carry.push([maps.affine(2, scale=np.arange(1.0, 5))], [empty])) == "unknown-shape"
