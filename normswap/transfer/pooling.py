"""Averages and sums over axes that a map ignores: Center and scales pass, a shift passes an average.

mean(s·x + t) = s·mean(x) + t over the positions; a sum of N of them makes the shift N·t, which blocks.
"""

from __future__ import annotations

from normswap import maps
from normswap.reference import attribute
from normswap.transfer.step import Blocked, Request, Step, labels, selected


def reduction(request: Request) -> Step | Blocked:
    """ReduceMean and ReduceSum over axes off the map's own."""
    dims = request.dims(0)
    reduced = _axes(request, len(dims or ()))
    if dims is None or reduced is None:
        return Blocked("unknown-shape", "a reduction over axes that are not known")
    keeps = bool(attribute(request.node, "keepdims", 1))
    kept = [axis for axis in range(len(dims)) if keeps or axis not in reduced]
    if request.map.shifts and request.node.op_type == "ReduceSum":
        return Blocked("elementwise-scale", "a sum, which multiplies a shift")
    if request.pulls:
        if keeps and any(request.map.varies(axis) for axis in reduced):
            return Blocked("opaque-producer", f"{request.node.op_type} `{request.node.name}`")
        wanted = request.map if keeps else maps.inserted(request.map, len(dims), kept)
        split = labels(request, {0: wanted})
        if isinstance(split, Blocked):
            return split
        return Step(inputs=split[0], outputs={0: request.map}, constants=split[1])
    if any(request.map.varies(axis) for axis in reduced):
        return Blocked("foreign-reader", f"{request.node.op_type} `{request.node.name}`")
    return Step(inputs={0: request.map}, outputs={0: request.map if keeps else selected(request.map, kept)})


def _axes(request: Request, rank: int) -> tuple[int, ...] | None:
    written = request.node.attributes.get("axes")
    if written is not None:
        return tuple(axis % rank for axis in written.as_ints())
    value = request.value(1)
    if value is not None:
        array = request.facts.constant(value)
        return None if array is None else tuple(int(axis) % rank for axis in array.reshape(-1))
    return () if attribute(request.node, "noop_with_empty_axes", 0) else tuple(range(rank))


def global_pool(request: Request) -> Step | Blocked:
    """GlobalAveragePool and AveragePool: maps along the channels pass, a shift where no zero padding is counted."""
    if any(axis != 1 for axis in request.map.axes()):
        return Blocked("opaque-producer", f"{request.node.op_type} `{request.node.name}`")
    if request.map.shifts and attribute(request.node, "count_include_pad", 0):
        return Blocked("zero-padding", "an average that counts its zero padding")
    if request.pulls:
        split = labels(request, {0: request.map})
        if isinstance(split, Blocked):
            return split
        return Step(inputs=split[0], outputs={0: request.map}, constants=split[1])
    return Step(inputs={0: request.map}, outputs={0: request.map})
