"""Layout operators carry a map by being run on element numbers: Reshape, Transpose, Slice, Split, Concat, Expand ...

One function serves them all; what each one does to groups follows from what it does to elements. Axes that the map
ignores and the operator leaves alone are cut to a few positions first. A Gather whose map ignores the gathered axis
needs no indices and so works for an embedding with run-time ids, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
# These work on each axis by itself, and on all but their own only by putting it in another place.
AXIS_BY_AXIS = frozenset({"Concat", "Slice", "Split", "Transpose"})
# These keep the elements in their order, so what they do between the first and last axes does not depend on those.
IN_ORDER = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
# To so many positions an axis is cut that the map ignores and the operator leaves alone: enough to be seen as ignored.
POSITIONS = 2
AXES = 3  # the input of a Slice that names its axes
PADDING = 2  # the input of a Pad that holds what it puts around its data
# A layout operator on more elements than this is not carried through: the map would cost more than it can bring.
ELEMENT_BUDGET = 1 << 23


def layout(request: Request) -> Step | Blocked:
    """Any operator of `DATA_INPUTS`, in both directions."""
    data = DATA_INPUTS[request.node.op_type]
    indices = tuple(range(len(request.node.inputs))) if data is None else data
    if request.at is not None and request.at not in indices:
        return Blocked("does-not-commute", "whose layout it decides")
    if request.at is not None and request.node.inputs.count(request.value(request.at)) > 1:
        return Blocked("does-not-commute", "which puts a value beside itself")
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
        ranks = [facts.rank(value) or 0 for index in indices if (value := node.inputs[index]) is not None]
        wanted = tuple(
            request.map if index == request.at else maps.identity(rank)
            for index, rank in zip(indices, ranks, strict=True)
        )
    outputs = {}
    for position in range(len(node.outputs)):
        if request.pulls and position == request.output:
            outputs[position] = request.map
            continue
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
    shapes: list[Shape] = []
    operands: list[reference.Array | None] = []
    for index, value in enumerate(node.inputs):
        if value is None or index in data or _is_padding(node, index):
            array = None
        elif (array := facts.derived(value, binding)) is None:
            raise Unmappable("unknown-shape", f"`{value.name}`, which is computed at run time")
        operands.append(array)
        if value is not None and index in data:
            shape = facts.shape(value, binding)
            if shape is None:
                raise Unmappable("unknown-shape", f"the shape of `{value.name}` is not known")
            shapes.append(shape)
    made = facts.shape(node.outputs[0], binding) if node.op_type in IN_ORDER else None
    if made is not None:
        given, made = _cut_in_order(request, shapes[0], made)
        return [Sources((given,), _numbers(given, 0).reshape(made))]
    if node.op_type in AXIS_BY_AXIS:
        shapes = _cut_axis_by_axis(request, shapes, operands)
    starts = np.cumsum([0, *(np.prod(shape, dtype=np.int64) for shape in shapes)]).tolist()
    for index, shape, start in zip(data, shapes, starts, strict=False):
        operands[index] = _numbers(shape, start)
    if node.op_type == "Pad":
        operands += [None] * (PADDING + 1 - len(operands))
        operands[PADDING] = _padding(request, binding) if _is_padding(node, PADDING) else operands[PADDING]
    try:
        outputs = reference.run(node, operands, facts.opset(node))
    except reference.Unexecutable as error:
        raise Unmappable("unknown-shape", str(error)) from error
    return [Sources(tuple(shapes), np.asarray(output, dtype=np.int64)) for output in outputs]


def _numbers(shape: Shape, start: int) -> Integers:
    """The numbers of a value's elements, counted from `start`."""
    size = int(np.prod(shape, dtype=np.int64))
    if start + size > ELEMENT_BUDGET:
        raise Unmappable("does-not-commute", f"a layout operator on {start + size} elements")
    return np.arange(start, start + size, dtype=np.int64).reshape(shape)


def _cut_in_order(request: Request, given: Shape, made: Shape) -> tuple[Shape, Shape]:
    """Both shapes of an operator of `IN_ORDER`, cut where the map ignores what the operator leaves alone.

    (first…, rest, last…) → (first…, other, last…) is the identity on first and last, whatever their sizes; a map that
    ignores all of the rest ignores all of the other, too.
    """
    shorter = min(len(given), len(made))
    first = next((axis for axis in range(shorter) if given[axis] != made[axis]), shorter)
    last = next((axis for axis in range(shorter - first) if given[-1 - axis] != made[-1 - axis]), shorter - first)
    looks_at = request.map.axes()
    ignored = [axis for axis in range(first) if axis not in looks_at]
    ignored += [axis for axis in range(-last, 0) if axis + request.map.rank not in looks_at]
    without_rest = not any(first <= axis < request.map.rank - last for axis in looks_at)

    def cut(shape: Shape) -> Shape:
        sizes = list(shape)
        for axis in ignored:
            sizes[axis] = min(sizes[axis], POSITIONS)
        if without_rest:
            sizes[first : len(sizes) - last] = [1] * (len(sizes) - last - first)
        return tuple(sizes)

    if np.prod(given, dtype=np.int64) != np.prod(made, dtype=np.int64):
        raise Unmappable("unknown-shape", "a shape that does not fit the other")
    return cut(given), cut(made)


def _cut_axis_by_axis(
    request: Request, shapes: Sequence[Shape], operands: Sequence[reference.Array | None]
) -> list[Shape]:
    """The input shapes of an operator of `AXIS_BY_AXIS`, cut along axes that are not its own and the map ignores."""
    node, rank = request.node, len(shapes[0])
    order = list(range(rank))  # the input axis that each output axis comes from
    if node.op_type == "Transpose":
        written = node.attributes.get("perm")
        order = order[::-1] if written is None else list(written.as_ints())
        own: set[int] = set()
    elif node.op_type == "Slice":
        own = _sliced(node, operands, rank)
    else:
        written = node.attributes.get("axis")
        own = {attribute(node, "axis", 0) % rank} if written is not None or node.op_type == "Split" else set(order)
    kept = own | {order[axis] if request.pulls else axis for axis in request.map.axes()}
    return [
        tuple(size if axis in kept else min(size, POSITIONS) for axis, size in enumerate(shape)) for shape in shapes
    ]


def _sliced(node: ir.Node, operands: Sequence[reference.Array | None], rank: int) -> set[int]:
    """The axes that a Slice names; the first ones where it names none."""
    written = node.attributes.get("axes")
    if written is not None:
        return {axis % rank for axis in written.as_ints()}
    if len(operands) > AXES and (named := operands[AXES]) is not None:
        return {int(axis) % rank for axis in named}
    return set(range(rank))


def _is_padding(node: ir.Node, index: int) -> bool:
    """Whether input `index`, there or not, is what a Pad puts around its data."""
    mode = node.attributes.get("mode")
    return node.op_type == "Pad" and index == PADDING and (mode is None or mode.as_string() == "constant")


def _padding(request: Request, binding: int) -> Integers:
    value = request.value(PADDING)
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
