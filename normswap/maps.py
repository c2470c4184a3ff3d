"""Maps on values: T(v) = scale · (v − mean of each group) + shift, as three small arrays.

The arrays broadcast against the value and have size 1 along every axis that the map ignores. How maps cross layout
operators is in `carry`, how they cross all others in `transfer/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from normswap.reference import Floats

Integers = npt.NDArray[np.int64]
Shape = tuple[int, ...]

UNTOUCHED = -1  # the group number of elements that no Center touches


class Unmappable(Exception):
    """A map cannot be carried; `reason_id` is a key of `reasons.REASONS`."""

    def __init__(self, reason_id: str, detail: str) -> None:
        super().__init__(detail)
        self.reason_id = reason_id


@dataclass(eq=False)
class Deferred:
    """A float64 array of known shape that is computed when somebody looks at its numbers, and then kept if `keep`."""

    shape: Shape
    function: Callable[[], Floats]
    keep: bool = True
    _value: Floats | None = field(default=None, repr=False)

    def force(self) -> Floats:
        """The array itself."""
        if self._value is not None:
            return self._value
        array = np.broadcast_to(self.function(), self.shape)
        if self.keep:
            self._value = array
        return array


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
        return any(array.shape[axis] > 1 for array in (self.group, self.scale, self.shift))

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


def narrowed(array: Floats) -> Floats:
    """The array with size 1 along every axis on which it does not depend: what a map looks at, and no more."""
    for axis in range(array.ndim):
        first = array.take([0], axis)
        array = first if (array == first).all() else array
    return array


def trimmed(a_map: Map) -> Map:
    """The same map, which looks at no axis without need; a deferred shift is not looked into, nor are groups."""
    shift = a_map.shift if isinstance(a_map.shift, Deferred) else narrowed(a_map.shift)
    return Map(a_map.group, narrowed(a_map.scale), shift)


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
