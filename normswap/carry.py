"""Carrying maps through layout operators, by running the operator on element numbers.

`push` gathers the map of an output from those of the inputs, `pull` scatters the other way. Groups are named by their
smallest element, and a map must come out the same under two bindings of the free dimensions, so that nothing that is
carried depends on a size that is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from normswap.maps import UNTOUCHED, Integers, Map, Shape, Unmappable, same
from normswap.reference import Floats

Number = TypeVar("Number", np.int64, np.float64)

# For one binding: for every element of an output, the number of the input element it is a copy of, counted through all
# inputs one after the other; NO_SOURCE where it comes from none (padding).
NO_SOURCE = -1


@dataclass(frozen=True, eq=False)
class Sources:
    """Where the elements of a layout operator's output come from, under one binding of the free dimensions."""

    inputs: tuple[Shape, ...]
    output: Integers


@dataclass(frozen=True, eq=False)
class _Elements:
    """A map written out per element of a whole value: group names (flat element numbers), scale, shift, validity."""

    group: Integers
    scale: Floats
    shift: Floats
    valid: npt.NDArray[np.bool_]


def _expanded(a_map: Map, shape: Shape) -> _Elements:
    """`a_map` per element of a value of `shape`; groups are named by their smallest element's flat number."""
    numbers = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    group = a_map.group
    corner = numbers[tuple(slice(0, size) for size in group.shape)]
    names = _named_by_smallest(group, corner)
    ignored = [axis for axis in range(len(shape)) if group.shape[axis] == 1]
    steps = sum((_along(shape, axis) * _stride(shape, axis) for axis in ignored), np.zeros((1,) * len(shape), np.int64))
    full = np.where(np.broadcast_to(names, shape) == UNTOUCHED, UNTOUCHED, names + steps)
    scale, shift = np.broadcast_to(a_map.scale, shape), np.broadcast_to(a_map.offset(), shape)
    return _Elements(full, scale, shift, np.ones(shape, dtype=bool))


def _along(shape: Shape, axis: int) -> Integers:
    return np.arange(shape[axis], dtype=np.int64).reshape([-1 if a == axis else 1 for a in range(len(shape))])


def _stride(shape: Shape, axis: int) -> int:
    return int(np.prod(shape[axis + 1 :], dtype=np.int64))


def _named_by_smallest(group: Integers, numbers: Integers) -> Integers:
    """Group numbers replaced by the smallest of `numbers`, which ascend, in each group; the untouched stay so."""
    touched = group != UNTOUCHED
    names = np.full(group.shape, UNTOUCHED, dtype=np.int64)
    if touched.any():
        found, own = group[touched], numbers[touched]
        first = np.empty(found.max() + 1, dtype=np.int64)
        first[found[::-1]] = own[::-1]  # of several writes to one place the last stays: the smallest number
        names[touched] = first[found]
    return names


def _compressed(elements: _Elements) -> Map:
    """The smallest arrays that say the same; places that are not valid may be anything."""
    group, valid = _squeezed(elements.group, elements.valid, names=True)
    numbers = np.arange(group.size, dtype=np.int64).reshape(group.shape)
    scale, _ = _squeezed(np.where(elements.valid, elements.scale, 1.0), elements.valid)
    shift, _ = _squeezed(np.where(elements.valid, elements.shift, 0.0), elements.valid)
    return Map(_named_by_smallest(np.where(valid, group, UNTOUCHED), numbers), scale, shift)


def _squeezed(
    array: npt.NDArray[Number], valid: npt.NDArray[np.bool_], *, names: bool = False
) -> tuple[npt.NDArray[Number], npt.NDArray[np.bool_]]:
    """`array` cut to size 1 along every axis it does not vary along; group `names` count relative to their place."""
    shape = array.shape
    for axis in range(len(shape)):
        relative = np.where(array < 0, array, array - _along(shape, axis) * _stride(shape, axis)) if names else array
        first = np.take_along_axis(relative, valid.argmax(axis=axis, keepdims=True), axis)
        if (~valid | (relative == first)).all():
            array, valid = first, np.asarray(valid.any(axis=axis, keepdims=True))
    return array, valid


def push(maps: Sequence[Map], sources: Sequence[Sources]) -> Map:
    """The map on a layout operator's output, given those on its inputs; `sources` has one entry per binding.

    Raises `Unmappable` where a group would be torn apart, or where the result depends on a free dimension.
    """
    _check_size(sources)
    return _agreed([_push(maps, source) for source in sources])


def _check_size(sources: Sequence[Sources]) -> None:
    """Raise `Unmappable` where there are no elements: there may be some under other sizes of the free dimensions."""
    if any(0 in shape for source in sources for shape in (*source.inputs, source.output.shape)):
        raise Unmappable("unknown-shape", "a piece without elements")


def _push(maps: Sequence[Map], sources: Sources) -> Map:
    kept, _ = _without_copies(sources.output)
    parts = [_expanded(a_map, shape) for a_map, shape in zip(maps, sources.inputs, strict=True)]
    starts = np.cumsum([0, *(part.group.size for part in parts)])
    names = np.concatenate(
        [
            np.where(part.group == UNTOUCHED, UNTOUCHED, part.group + start).ravel()
            for part, start in zip(parts, starts, strict=False)
        ]
    )
    scale = np.concatenate([part.scale.ravel() for part in parts])
    shift = np.concatenate([part.shift.ravel() for part in parts])
    if (kept == NO_SOURCE).any():
        raise Unmappable("coarser-groups", "padding puts other elements beside those of a map")
    group = names[kept]
    kept_counts = np.bincount(group[group != UNTOUCHED], minlength=names.size)
    all_counts = np.bincount(names[names != UNTOUCHED], minlength=names.size)
    if ((kept_counts != 0) & (kept_counts != all_counts)).any():
        raise Unmappable("coarser-groups", "only a part of the elements that are centered together is kept")
    numbers = np.arange(kept.size, dtype=np.int64).reshape(kept.shape)
    elements = _Elements(_named_by_smallest(group, numbers), scale[kept], shift[kept], np.ones(kept.shape, bool))
    return _compressed(elements)


def pull(a_map: Map, sources: Sequence[Sources]) -> tuple[Map, ...]:
    """The maps wanted on a layout operator's inputs so that its output carries `a_map`; one `sources` per binding.

    Raises `Unmappable` where a group is spread over several inputs, or the result depends on a free dimension.
    """
    _check_size(sources)
    per_binding = [_pull(a_map, source) for source in sources]
    return tuple(_agreed(list(maps)) for maps in zip(*per_binding, strict=True))


def _pull(a_map: Map, sources: Sources) -> tuple[Map, ...]:
    kept, copied = _without_copies(sources.output)
    if any(a_map.varies(axis) for axis in copied):
        raise Unmappable("coarser-groups", "copies of one element would need different maps")
    wanted = _expanded(a_map, tuple(1 if axis in copied else size for axis, size in enumerate(sources.output.shape)))
    flat, names = kept.ravel(), wanted.group.ravel()
    padded = flat == NO_SOURCE
    if padded.any() and not _pull_keeps_zero(wanted, padded.reshape(kept.shape)):
        raise Unmappable("coarser-groups", "padding is centered or shifted together with the rest")
    if (np.bincount(flat[~padded], minlength=1) > 1).any():
        raise Unmappable("coarser-groups", "copies of one element would need different maps")
    results = []
    start = 0
    for shape in sources.inputs:
        size = int(np.prod(shape))
        mine = ~padded & (flat >= start) & (flat < start + size)
        if len(sources.inputs) > 1 and _shared(names[mine], names[~mine]):
            raise Unmappable("coarser-groups", "elements that are centered together come from several values")
        results.append(_scattered(wanted, flat[mine] - start, mine, shape))
        start += size
    return tuple(results)


def _pull_keeps_zero(wanted: _Elements, padded: npt.NDArray[np.bool_]) -> bool:
    """Whether the map leaves zero padding zero: no shift there, and groups of padding only."""
    return not _shared(wanted.group[padded], wanted.group[~padded]) and not wanted.shift[padded].any()


def _shared(left: Integers, right: Integers) -> bool:
    """Whether some group has elements on both sides."""
    present = np.zeros(int(max(left.max(initial=0), right.max(initial=0))) + 1, dtype=bool)
    present[left[left != UNTOUCHED]] = True
    return bool(present[right[right != UNTOUCHED]].any())


def _scattered(wanted: _Elements, places: Integers, mine: npt.NDArray[np.bool_], shape: Shape) -> Map:
    size = int(np.prod(shape))
    valid = np.zeros(size, dtype=bool)
    valid[places] = True
    group = np.full(size, UNTOUCHED, dtype=np.int64)
    group[places] = wanted.group.ravel()[mine]
    group = _named_by_smallest(group, np.arange(size, dtype=np.int64))
    scale, shift = np.ones(size), np.zeros(size)
    scale[places], shift[places] = wanted.scale.ravel()[mine], wanted.shift.ravel()[mine]
    return _compressed(
        _Elements(group.reshape(shape), scale.reshape(shape), shift.reshape(shape), valid.reshape(shape))
    )


def _without_copies(output: Integers) -> tuple[Integers, frozenset[int]]:
    """`output` cut to size 1 along axes on which every element is a copy of the first, and those axes."""
    copied = set()
    for axis in range(output.ndim):
        first = output.take([0], axis)
        if output.shape[axis] > 1 and (output == first).all():
            output = first
            copied.add(axis)
    return output, frozenset(copied)


def _agreed(maps: Sequence[Map]) -> Map:
    if not all(same(maps[0], other) for other in maps[1:]):
        raise Unmappable("unknown-shape", "the map would depend on a dimension whose size is not known")
    return maps[0]
