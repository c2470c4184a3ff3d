"""Layout operators carry a map by being run on element numbers: Reshape, Transpose, Slice, Split, Concat, Expand ...

One function serves them all; what each one does to groups follows from what it does to elements. A Gather whose map
ignores the gathered axis needs no indices and so works for an embedding with run-time ids, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normswap import carry, maps, reference
from normswap.carry import NO_SOURCE, Sources
from normswap.maps import Integers, Shape, Unmappable
from normswap.reference import attribute
from normswap.transfer.step import Along, Blocked, Request, Step, labels, selected

# Which inputs are data; the others (shapes, axes, indices) must follow from shapes and constants. None: all of them.
DATA_INPUTS: Mapping[str, tuple[int, ...] | None] = {
    "Concat": None,
    "DepthToSpace": (0,),
    "Expand": (0,),
    "Flatten": (0,),
    "Gather": (0,),
    "Pad": (0,),
    "Reshape": (0,),
    "Slice": (0,),
    "SpaceToDepth": (0,),
    "Split": (0,),
    "Squeeze": (0,),
    "Tile": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
}
BINDINGS = (0, 1)
# A layout operator on more elements than this is not carried through: the map would cost more than it can bring.
ELEMENT_BUDGET = 1 << 23


def layout(request: Request) -> Step | Blocked:
    """Any operator of `DATA_INPUTS`, in both directions."""
    data = DATA_INPUTS[request.node.op_type]
    indices = tuple(range(len(request.node.inputs))) if data is None else data
    if not request.pulls and (request.at not in indices or len(indices) > 1):
        return Blocked("does-not-commute", "one of several pieces that are put together, or not the data")
    try:
        return _carried(request, indices)
    except Unmappable as error:
        return Blocked(error.reason_id, str(error))


def _carried(request: Request, indices: tuple[int, ...]) -> Step | Blocked:
    node, facts = request.node, request.facts
    sources = [_sources(request, indices, binding) for binding in BINDINGS]
    if request.pulls:
        wanted = carry.pull(request.map, [per_output[request.output] for per_output in sources])
    else:
        wanted = (request.map,)
    outputs = {}
    for position, output in enumerate(node.outputs):
        if request.pulls and position == request.output:
            outputs[position] = request.map
        elif facts.rank(output) is not None:
            carried = carry.push(wanted, [per_output[position] for per_output in sources])
            if not carried.is_identity:
                outputs[position] = carried
    split = labels(request, dict(zip(indices, wanted, strict=True)))
    if isinstance(split, Blocked):
        return split
    return Step(inputs=split[0], outputs=outputs, constants=split[1])


def _sources(request: Request, data: tuple[int, ...], binding: int) -> list[Sources]:
    """One `Sources` per output: the operator run on the numbers of its data elements, under `binding`."""
    node, facts = request.node, request.facts
    arrays: list[reference.Array | None] = []
    shapes: list[Shape] = []
    start = 0
    for index, value in enumerate(node.inputs):
        if _is_padding(node, index):
            arrays.append(_padding(request, binding))
        elif value is None:
            arrays.append(None)
        elif index in data:
            shape = facts.shape(value, binding)
            if shape is None:
                raise Unmappable("unknown-shape", f"the shape of `{value.name}` is not known")
            size = int(np.prod(shape, dtype=np.int64))
            if start + size > ELEMENT_BUDGET:
                raise Unmappable("does-not-commute", f"a layout operator on {start + size} elements")
            arrays.append(np.arange(start, start + size, dtype=np.int64).reshape(shape))
            shapes.append(shape)
            start += size
        else:
            array = facts.derived(value, binding)
            if array is None:
                raise Unmappable("unknown-shape", f"`{value.name}`, which is computed at run time")
            arrays.append(array)
    if _is_padding(node, len(arrays)):
        arrays.append(_padding(request, binding))
    try:
        outputs = reference.run(node, arrays, facts.opset(node))
    except reference.Unexecutable as error:
        raise Unmappable("unknown-shape", str(error)) from error
    return [Sources(tuple(shapes), np.asarray(output, dtype=np.int64)) for output in outputs]


def _is_padding(node: ir.Node, index: int) -> bool:
    """Whether input `index`, there or not, is what a Pad puts around its data."""
    mode = node.attributes.get("mode")
    return node.op_type == "Pad" and index == 2 and (mode is None or mode.as_string() == "constant")


def _padding(request: Request, binding: int) -> Integers:
    value = request.value(2)
    if "pads" in request.node.attributes or (value is not None and _is_not_zero(request.facts.derived(value, binding))):
        raise Unmappable("coarser-groups", "padding with something that may not be zero")
    return np.asarray(NO_SOURCE, dtype=np.int64)


def _is_not_zero(array: reference.Array | None) -> bool:
    return array is None or bool(array.any())


def gather(request: Request) -> Step | Blocked:
    """Gather: rows of a table or positions of a value; a map that ignores the gathered axis keeps its other axes."""
    node = request.node
    data, indices = request.dims(0), request.dims(1)
    if data is None or indices is None:
        return Blocked("unknown-shape", "a gather of unknown rank")
    axis = attribute(node, "axis", 0) % len(data)
    # output axes: data[:axis], indices, data[axis + 1:]
    kept = [*range(axis), *range(axis + len(indices), len(data) + len(indices) - 1)]
    others = [*range(axis), *range(axis + 1, len(data))]
    if request.pulls and all(a in kept for a in request.map.axes()):
        on_data = maps.inserted(selected(request.map, kept), len(data), others)
        split = labels(request, {0: on_data})
        if isinstance(split, Blocked):
            return split
        table = Along(0, axis)
        return Step(inputs=split[0], outputs={0: request.map}, constants=split[1], cut=((table,),), indices={1: table})
    if request.at == 0 and not request.map.varies(axis):
        out = maps.inserted(selected(request.map, others), len(data) + len(indices) - 1, kept)
        return Step(inputs={0: request.map}, outputs={0: out}, indices={1: Along(0, axis)})
    return layout(request)


def shape_only(request: Request) -> Step | Blocked:
    """Shape and Size do not look at the numbers: invariant to every map."""
    if request.pulls:
        return Blocked("opaque-producer", "a shape")
    return Step(inputs={0: request.map})
