"""Maps on values: T(v) = scale · (v − mean of each group) + shift, as three small arrays.

The arrays broadcast against the value and have size 1 along every axis that the map ignores. A layout operator carries
a map by being run on element numbers: `push` gathers the map of its output from those of its inputs, `pull` scatters
the other way. Groups are named by their smallest element, and a map must be the same under two bindings of the free
dimensions, so that what is carried does not depend on any size that is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from normswap.reference import Floats

Integers = npt.NDArray[np.int64]
Shape = tuple[int, ...]
Number = TypeVar("Number", np.int64, np.float64)

UNTOUCHED = -1  # the group number of elements that no Center touches


class Unmappable(Exception):
    """A map cannot be carried; `reason_id` is a key of `reasons.REASONS`."""

    def __init__(self, reason_id: str, detail: str) -> None:
        super().__init__(detail)
        self.reason_id = reason_id


@dataclass(eq=False)
class Deferred:
    """A float64 array of known shape that is computed when somebody first looks at its numbers."""

    shape: Shape
    function: Callable[[], Floats]
    _value: Floats | None = field(default=None, repr=False)

    def force(self) -> Floats:
        """The array itself."""
        if self._value is None:
            self._value = np.broadcast_to(self.function(), self.shape)
        return self._value


@dataclass(frozen=True, eq=False)
class Map:
    """T(v) = scale · (v − mean of each group) + shift, on values of rank `rank`.

    `group` int64, `scale` and `shift` float64; each has the value's rank and size 1 along the axes it ignores.
    Elements with the same group number, at the same place along the ignored axes, are centered together.
    """

    group: Integers
    scale: Floats
    shift: Floats | Deferred

    @property
    def rank(self) -> int:
        """The rank of the values this map is for."""
        return self.group.ndim

    @property
    def centers(self) -> bool:
        """Whether some element is centered."""
        return bool((self.group != UNTOUCHED).any())

    @property
    def scales(self) -> bool:
        """Whether some element is scaled."""
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        """Whether some element is shifted; a deferred shift counts, since planning does not look at weights."""
        return isinstance(self.shift, Deferred) or bool(np.any(self.shift != 0))

    @property
    def is_identity(self) -> bool:
        """Whether T(v) = v."""
        return not (self.centers or self.scales or self.shifts)

    def offset(self) -> Floats:
        """The shift as an array; computes it where it was deferred."""
        return self.shift.force() if isinstance(self.shift, Deferred) else self.shift

    def varies(self, axis: int) -> bool:
        """Whether the map looks at `axis`: it has more than one entry along it."""
        return max(self.group.shape[axis], self.scale.shape[axis], self.shift.shape[axis]) > 1

    def axes(self) -> tuple[int, ...]:
        """The axes the map looks at."""
        return tuple(axis for axis in range(self.rank) if self.varies(axis))

    def key(self) -> tuple[object, ...]:
        """A hashable that is equal exactly for equal maps (a deferred shift is equal to itself only)."""
        shift = id(self.shift) if isinstance(self.shift, Deferred) else self.shift.tobytes()
        shapes = (self.group.shape, self.scale.shape, self.shift.shape)
        return (*shapes, self.group.tobytes(), self.scale.tobytes(), shift)


def identity(rank: int) -> Map:
    """The map that changes nothing."""
    ones = (1,) * rank
    return Map(np.full(ones, UNTOUCHED, dtype=np.int64), np.ones(ones), np.zeros(ones))


def centering(rank: int, sizes: Mapping[int, int]) -> Map:
    """Center over the axes (non-negative) in `sizes`, whose sizes are static; one group at each place."""
    shape = tuple(sizes.get(axis, 1) for axis in range(rank))
    plain = identity(rank)
    return Map(np.zeros(shape, dtype=np.int64), plain.scale, plain.shift)


def affine(rank: int, scale: Floats | None = None, shift: Floats | Deferred | None = None) -> Map:
    """Scale, then Shift; arrays of lower rank are aligned at the last axis, as numpy broadcasts."""
    plain = identity(rank)
    return Map(
        plain.group,
        plain.scale if scale is None else _aligned(scale, rank),
        plain.shift if shift is None else shift if isinstance(shift, Deferred) else _aligned(shift, rank),
    )


def _aligned(array: Floats, rank: int) -> Floats:
    return np.asarray(array, dtype=np.float64).reshape((1,) * (rank - array.ndim) + array.shape)


def linear(a_map: Map) -> Map:
    """The map without its shift."""
    return Map(a_map.group, a_map.scale, np.zeros((1,) * a_map.rank))


def same(left: Map, right: Map) -> bool:
    """Whether two maps are equal."""
    return left is right or left.key() == right.key()


# --- applying -------------------------------------------------------------------------------------------------------


def apply(a_map: Map, array: Floats) -> Floats:
    """T(array) in float64. `array` broadcasts against the map; the result has its shape where that is possible.

    An array of size 1 along an axis stays so unless the result varies along it, and an array of lower rank than the
    map keeps its rank if the map ignores the axes it lacks: a bias [D] stays [D] under a map of rank 3.
    """
    full = array.reshape((1,) * (a_map.rank - array.ndim) + array.shape)
    result = (full - _group_means(a_map.group, full)) * a_map.scale + a_map.offset()
    return _shrunk(result, array.shape)


def _group_means(group: Integers, array: Floats) -> Floats:
    """The mean of each element's group, 0 for the untouched; broadcasts against `array`."""
    if (group == UNTOUCHED).all():
        return np.zeros((1,) * array.ndim)
    axes = tuple(axis for axis in range(group.ndim) if group.shape[axis] > 1)
    if (group == group.flat[0]).all():
        means: Floats = array.mean(axis=axes, keepdims=True) if axes else array
        return means
    wide = np.broadcast_to(array, np.broadcast_shapes(array.shape, group.shape))
    last = np.moveaxis(wide, axes, range(-len(axes), 0))
    flat = last.reshape(*last.shape[: last.ndim - len(axes)], -1)
    numbers = group.reshape(-1)
    order = np.argsort(numbers, kind="stable")
    _, starts, inverse, counts = np.unique(numbers[order], return_index=True, return_inverse=True, return_counts=True)
    sums = np.add.reduceat(flat[..., order], starts, axis=-1) / counts
    spread = np.empty_like(flat)
    spread[..., order] = np.where(numbers[order] == UNTOUCHED, 0.0, sums[..., inverse])
    return np.moveaxis(spread.reshape(last.shape), range(-len(axes), 0), axes)


def _shrunk(result: Floats, shape: Shape) -> Floats:
    """`result` with axes dropped, or cut back to size 1, where the original `shape` had it so and nothing is lost."""
    original = (1,) * (result.ndim - len(shape)) + shape
    for axis, size in enumerate(original):
        if size == 1 and result.shape[axis] > 1 and (result == result.take([0], axis)).all():
            result = result.take([0], axis)
    extra = result.ndim - len(shape)
    return result.reshape(result.shape[extra:]) if all(size == 1 for size in result.shape[:extra]) else result


def restricted(a_map: Map, axis: int, indices: Integers) -> Map:
    """The map on values cut to `indices` along `axis`. No Center may run along the axis."""
    if a_map.group.shape[axis] > 1 and a_map.centers:
        raise Unmappable("coarser-groups", "a value cannot be cut along an axis that is centered")

    def cut(array: Floats) -> Floats:
        return array.take(indices, axis) if array.shape[axis] > 1 else array

    group = a_map.group.take([0], axis) if a_map.group.shape[axis] > 1 else a_map.group
    return Map(group, cut(a_map.scale), cut(a_map.offset()) if a_map.shift.shape[axis] > 1 else a_map.shift)


def inserted(a_map: Map, rank: int, axes: Sequence[int]) -> Map:
    """The map on values of `rank` whose axes `axes` are this map's axes, in order; the others are ignored."""
    shape_of = {axis: position for position, axis in enumerate(axes)}

    def widen(shape: Shape) -> Shape:
        return tuple(shape[shape_of[axis]] if axis in shape_of else 1 for axis in range(rank))

    if list(axes) != sorted(axes):
        raise ValueError("axes must be ascending")
    shift: Floats | Deferred
    if isinstance(a_map.shift, Deferred):
        deferred, target = a_map.shift, widen(a_map.shift.shape)
        shift = Deferred(target, lambda: deferred.force().reshape(target))
    else:
        shift = a_map.shift.reshape(widen(a_map.shift.shape))
    return Map(a_map.group.reshape(widen(a_map.group.shape)), a_map.scale.reshape(widen(a_map.scale.shape)), shift)


# --- carrying through layout operators ------------------------------------------------------------------------------

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
    """Group numbers replaced by the smallest of `numbers` in each group; the untouched keep UNTOUCHED."""
    touched = group != UNTOUCHED
    names = np.full(group.shape, UNTOUCHED, dtype=np.int64)
    if touched.any():
        _, first, inverse = np.unique(group[touched], return_index=True, return_inverse=True)
        names[touched] = numbers[touched][first][inverse]
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
    return _agreed([_push(maps, source) for source in sources])


def _push(maps: Sequence[Map], sources: Sources) -> Map:
    kept, copied = _without_copies(sources.output)
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
    order = np.argsort(places, kind="stable")
    group[places[order]] = _named_by_smallest(wanted.group.ravel()[mine][order], places[order])
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
