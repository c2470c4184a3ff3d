"""Averages, sums and maxima over axes that a map ignores.

mean(s·x + t) = s·mean(x) + t; a sum over N elements makes the shift N·t. max(s·x + t) = s·max(x) + t for s ≥ 0.
A pool pads with zeros where it averages, which no shift passes if they are counted, and with −∞ for a maximum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from normswap import maps
from normswap.maps import Shape
from normswap.reference import attribute
from normswap.transfer.passing import ignored, not_increasing, small, times, unchanged
from normswap.transfer.step import Blocked, Request, Step, labels, selected

EXTREMA = frozenset({"GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMin"})


def reduction(request: Request) -> Step | Blocked:
    """ReduceMean, ReduceSum, ReduceMax and ReduceMin over axes off the map's own."""
    node, dims = request.node, request.dims(0)
    reduced = _axes(request, len(dims or ()))
    if dims is None or reduced is None:
        return Blocked("unknown-shape", "a reduction over axes that are not known")
    keeps = bool(attribute(node, "keepdims", 1))
    kept = [axis for axis in range(len(dims)) if keeps or axis not in reduced]
    on_input = request.map if keeps or not request.pulls else maps.inserted(request.map, len(dims), kept)
    if any(on_input.varies(axis) for axis in reduced):
        return Blocked("opaque-producer" if request.pulls else "foreign-reader", f"{node.op_type} `{node.name}`")
    blocked = not_increasing(request.map) if node.op_type in EXTREMA else None
    if blocked is not None:
        return blocked
    factor = 1.0
    if request.map.shifts and node.op_type == "ReduceSum":
        sizes = [dims[axis] for axis in reduced]
        if None in sizes or 0 in sizes or not request.facts.is_certain(request.value(0)):
            return Blocked("unknown-shape", "a sum of a number of shifts that is not known")
        factor = float(np.prod([size or 0 for size in sizes]))
    cut = ignored(Request(node, on_input, 0, request.facts), but=reduced if factor != 1 else ())
    if request.pulls:
        split = labels(request, {0: times(on_input, 1 / factor)})
        if isinstance(split, Blocked):
            return split
        return Step(inputs=split[0], outputs={0: request.map}, constants=split[1], cut=cut)
    made = times(on_input if keeps else selected(on_input, kept), factor)
    return Step(inputs={0: request.map}, outputs={0: made}, cut=cut)


def _axes(request: Request, rank: int) -> tuple[int, ...] | None:
    everything = () if attribute(request.node, "noop_with_empty_axes", 0) else tuple(range(rank))
    written = request.node.attributes.get("axes")
    if written is not None:
        return tuple(axis % rank for axis in written.as_ints())
    value = request.value(1)
    if value is None:
        return everything
    array = request.facts.constant(value)
    if array is None:
        return None
    return tuple(int(axis) % rank for axis in array.reshape(-1)) if array.size else everything


def pool(request: Request) -> Step | Blocked:
    """AveragePool, MaxPool and their global forms, for maps along channels."""
    node, a_map = request.node, request.map
    is_maximum = node.op_type in EXTREMA
    if request.output != 0 or any(axis > 1 for axis in a_map.axes()):
        return Blocked("opaque-producer", f"{node.op_type} `{node.name}`")
    blocked = not_increasing(a_map) if is_maximum else None
    if blocked is not None:
        return blocked
    if len(node.outputs) > 1 and not a_map.scale.all():
        return Blocked("does-not-commute", "which also gives places of maxima, that a factor of zero loses")
    if not is_maximum and a_map.shifts and _counts_padding(node):
        return Blocked("zero-padding", "an average that counts its zero padding")
    if "kernel_shape" not in node.attributes:
        return unchanged(request, cut=ignored(request))
    return unchanged(request, probes=_window(request))


def _counts_padding(node: ir.Node) -> bool:
    """Whether an average may count padding, also that of a last window that `ceil_mode` lets reach beyond the end."""
    automatic = node.attributes.get("auto_pad")
    same = automatic is not None and automatic.as_string() in ("SAME_LOWER", "SAME_UPPER")
    padded = same or any(_integers(node, "pads", [])) or bool(attribute(node, "ceil_mode", 0))
    return padded and bool(attribute(node, "count_include_pad", 0))


def _integers(node: ir.Node, name: str, default: Sequence[int]) -> Sequence[int]:
    found = node.attributes.get(name)
    return default if found is None else found.as_ints()


def _window(request: Request) -> dict[int, Shape]:
    """An input with two output positions along each spatial axis, or a few more if the padding alone fills a window.

    As much of a stride is left over as in the model, on which what SAME pads and what `ceil_mode` adds depend.
    """
    node, value = request.node, request.value(0)
    shape = None if value is None else request.facts.shape(value)
    if shape is None:
        return {}
    kernel = _integers(node, "kernel_shape", [])
    ones = [1] * len(kernel)
    strides, dilations = _integers(node, "strides", ones), _integers(node, "dilations", ones)
    pads = _integers(node, "pads", [0] * (2 * len(kernel)))
    positions = {0: 1, 1: 2}
    for axis, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        reach = dilation * (size - 1) + 1 + stride
        least = max(reach - pads[axis] - pads[axis + len(kernel)], stride + 1)
        positions[axis + 2] = least + (shape[axis + 2] - least) % stride
    return small(request, positions)
