"""What a transfer is asked and what it answers: the vocabulary shared by all of `transfer/`.

pull    n'(T_in(x)) = T_out(n(x))       T is wanted on an output; new values are T(old)
push    n(T_in(x)) = T_out(n'(x))       T is on an input; old values are T(new); needs no inverse

A new constant is a map applied to the old one, in both directions, so planning never looks at a weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from normswap import maps
from normswap.facts import Facts
from normswap.maps import Map, Shape


@dataclass(frozen=True)
class Request:
    """T wanted on output `output` of `node` (`at` is None: pull), or given on its input `at` (push)."""

    node: ir.Node
    map: Map
    at: int | None
    facts: Facts
    output: int = 0

    @property
    def pulls(self) -> bool:
        """Whether T is wanted on an output."""
        return self.at is None

    def value(self, index: int) -> ir.Value | None:
        """The input at `index`, None where it is omitted."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def dims(self, index: int) -> tuple[int | None, ...] | None:
        """The static dimensions of input `index`; None where it is omitted or its rank is unknown."""
        value = self.value(index)
        return None if value is None else self.facts.dims(value)

    def is_constant(self, index: int) -> bool:
        """Whether input `index` is a constant."""
        value = self.value(index)
        return value is not None and self.facts.is_constant(value)


@dataclass(frozen=True)
class Along:
    """An axis of the input (or with `output`, the output) `index` of an operator."""

    index: int
    axis: int
    output: bool = False


@dataclass(frozen=True)
class Step:
    """How an operator moves a map. All indices are positions; labels that are absent are the identity.

    `inputs` and `outputs` label activations; `constants` are the maps that turn old constants into new ones;
    `created` gives the shape of a constant the node lacked, taken as zeros before its map in `constants`; `attributes`
    the new values of float attributes.
    For proofs: every tuple in `cut` names axes that may be cut together (of an output only where it has no label),
    `indices` the inputs that hold positions along an axis of another input, `lengths` those that hold how much of it
    counts (1 to all), and `probes` smaller shapes that serve as well for an activation as its own.
    """

    inputs: Mapping[int, Map] = field(default_factory=dict)
    outputs: Mapping[int, Map] = field(default_factory=dict)
    constants: Mapping[int, Map] = field(default_factory=dict)
    created: Mapping[int, Shape] = field(default_factory=dict)
    attributes: Mapping[str, float] = field(default_factory=dict)
    cut: Sequence[tuple[Along, ...]] = ()
    indices: Mapping[int, Along] = field(default_factory=dict)
    lengths: Mapping[int, Along] = field(default_factory=dict)
    probes: Mapping[int, Shape] = field(default_factory=dict)


@dataclass(frozen=True)
class Blocked:
    """Why a map cannot pass an operator: a key of `reasons.REASONS`, and a clause for the message."""

    reason_id: str
    detail: str


def only_along(a_map: Map, axes: Sequence[int]) -> bool:
    """Whether the map ignores every axis that is not in `axes` (non-negative)."""
    return all(axis in axes for axis in a_map.axes())


def on_axis(a_map: Map, axis: int, rank: int, target: int) -> Map:
    """A map that looks only at `axis`, as the same map on axis `target` of values of `rank`."""
    alone = Map(*(_alone(array, axis) for array in (a_map.group, a_map.scale, a_map.offset())))  # type: ignore[arg-type]
    return maps.inserted(alone, rank, [target])


def _alone(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], axis: int) -> object:
    return array.reshape(-1) if array.shape[axis] > 1 else array.reshape(1)


def labels(request: Request, wanted: Mapping[int, Map]) -> tuple[dict[int, Map], dict[int, Map]] | Blocked:
    """Split maps wanted on inputs into those on activations, fitted to each operand's rank, and those on constants.

    A constant of lower rank or of size 1 takes the map as it is; an activation must have every axis the map looks at.
    """
    inputs: dict[int, Map] = {}
    constants: dict[int, Map] = {}
    for index, a_map in wanted.items():
        if a_map.is_identity:
            continue
        if request.is_constant(index):
            constants[index] = a_map
            continue
        fitted = fit(a_map, request.dims(index))
        if isinstance(fitted, Blocked):
            return fitted
        inputs[index] = fitted
    return inputs, constants


def rows(request: Request, operands: Sequence[int]) -> list[tuple[Along, ...]]:
    """What may be cut of an element-wise operator: every output axis the map ignores, on all operands that have it."""
    dims = {index: request.dims(index) for index in operands}
    rank = max((len(known) for known in dims.values() if known is not None), default=0)
    lead = rank - request.map.rank
    cuts = []
    for axis in range(rank):
        if axis >= lead and request.map.varies(axis - lead):
            continue
        places = {index: axis - rank + len(known) for index, known in dims.items() if known is not None}
        together = tuple(
            Along(index, place) for index, place in places.items() if place >= 0 and (dims[index] or ())[place] != 1
        )
        if together:
            cuts.append(together)
    return cuts


def fit(a_map: Map, dims: tuple[int | None, ...] | None) -> Map | Blocked:
    """The map on an operand of shape `dims` that is broadcast to the map's rank."""
    if dims is None:
        return Blocked("unknown-shape", "an operand whose rank is unknown")
    missing = a_map.rank - len(dims)
    if any(axis < missing or dims[axis - missing] == 1 for axis in a_map.axes()):
        return Blocked("broadcast", "an operand that is the same along the mapped axis")
    return drop_leading(a_map, missing)


def drop_leading(a_map: Map, count: int) -> Map:
    """The map without its first `count` axes, which it ignores."""
    return a_map if count <= 0 else selected(a_map, range(count, a_map.rank))


def selected(a_map: Map, axes: Sequence[int]) -> Map:
    """The map on only `axes` (ascending), when it ignores all others."""
    arrays = (a_map.group, a_map.scale, a_map.offset())
    group, scale, shift = (array.reshape([array.shape[axis] for axis in axes]) for array in arrays)
    return Map(group, scale, shift)
