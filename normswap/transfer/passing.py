"""What operators that let a map through have in common: the step, what the map must be like, and small probes.

A map passes unchanged where n(T(x)) = T(n(x)). For a maximum that takes an increasing map; and where the operator holds
a constant that stands beside its input (a bound, a padding value), the constant takes the map too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from normswap import maps
from normswap.maps import Deferred, Map, Shape
from normswap.reference import Floats
from normswap.transfer.step import Along, Blocked, Request, Step, labels

# Positions of a probe along axes that the map ignores: more than a Clip has pieces, with its old bounds and its new.
POSITIONS = 5


def unchanged(
    request: Request, *, cut: Sequence[tuple[Along, ...]] = (), probes: Mapping[int, Shape] | None = None
) -> Step | Blocked:
    """The same map on input 0 and output 0, in both directions."""
    inputs: dict[int, Map] = {0: request.map}
    constants: dict[int, Map] = {}
    if request.pulls:
        split = labels(request, inputs)
        if isinstance(split, Blocked):
            return split
        inputs, constants = split
    return Step(inputs=inputs, outputs={0: request.map}, constants=constants, cut=cut, probes=probes or {})


def not_increasing(a_map: Map) -> Blocked | None:
    """Why T does not keep the order of numbers, None where a ≤ b gives T(a) ≤ T(b); a factor of zero does."""
    if a_map.centers:
        return Blocked("does-not-commute", "which does not commute with a Center")
    if not (a_map.scale >= 0).all():
        return Blocked("negative-scale", "which a negative factor would turn around")
    return None


def uniform(a_map: Map) -> Map | None:
    """The map as one that looks at no axis, where it is the same everywhere. Into a deferred shift nobody looks."""
    arrays = [a_map.scale] if isinstance(a_map.shift, Deferred) else [a_map.scale, a_map.shift]
    same = all((array == array.flat[0]).all() for array in arrays)
    if not same or a_map.centers or (isinstance(a_map.shift, Deferred) and np.prod(a_map.shift.shape) > 1):
        return None
    ones = (1,) * a_map.rank
    shift = a_map.shift if isinstance(a_map.shift, Deferred) else a_map.shift.reshape(-1)[:1].reshape(ones)
    return maps.affine(a_map.rank, a_map.scale.reshape(-1)[:1].reshape(ones), shift)


def on_constant(a_map: Map, rank: int, *, inverted: bool = False) -> Map:
    """A map that looks at no axis, or its inverse v ↦ (v − t) / s, on values of `rank`."""
    ones = (1,) * rank
    factor = (1 / a_map.scale if inverted else a_map.scale).reshape(ones)

    def shift() -> Floats:
        offset = a_map.offset().reshape(ones)
        return -offset * factor if inverted else offset

    return maps.affine(rank, factor, Deferred(ones, shift) if isinstance(a_map.shift, Deferred) else shift())


def times(a_map: Map, factor: float) -> Map:
    """The map with its shift multiplied by `factor`."""
    shift: Floats | Deferred
    if isinstance(a_map.shift, Deferred):
        deferred = a_map.shift
        shift = Deferred(deferred.shape, lambda: factor * deferred.force())
    else:
        shift = factor * a_map.shift
    return Map(a_map.group, a_map.scale, shift)


def ignored(request: Request, but: Sequence[int] = ()) -> list[tuple[Along, ...]]:
    """What may be cut of input 0 where the operator takes any sizes: the axes that the map ignores, `but` some."""
    rank = request.map.rank
    return [(Along(0, axis),) for axis in range(rank) if axis not in but and not request.map.varies(axis)]


def small(request: Request, positions: Mapping[int, int] | None = None) -> dict[int, Shape]:
    """A probe of input 0 with few positions along the axes that the map ignores, and the map's own along the others.

    `positions` says how many along an axis, where it matters to the operator.
    """
    value = request.value(0)
    shape = None if value is None else request.facts.shape(value)
    if shape is None:
        return {}
    wanted = positions or {}
    sizes = (size if request.map.varies(axis) else wanted.get(axis, POSITIONS) for axis, size in enumerate(shape))
    return {0: tuple(sizes)}


def image(a_map: Map, number: float) -> float:
    """T(number) for a map that looks at no axis."""
    return float(maps.apply(a_map, np.asarray(number, dtype=np.float64)).item())
