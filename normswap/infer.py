"""Shapes and types of one operator's outputs, by onnx's own inference, fed with everything derived so far.

Nodes that are alike are inferred once. Norm operators of onnxruntime, for which onnx has no schema, keep the shape.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from normswap import reference
from normswap.facts import SMALL, Facts
from normswap.maps import Shape
from normswap.reference import Array

# What onnx's inference raises at operators it does not know or that are not well formed.
UNINFERABLE = (
    onnx.checker.ValidationError,
    onnx.defs.SchemaError,
    onnx.shape_inference.InferenceError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)
# Operators that make a shape of shapes alone, whatever numbers they read: the layers of a model differ in these only.
OF_SHAPES = frozenset({"Add", "Conv", "Div", "Gemm", "MatMul", "Max", "Min", "Mul", "Pow", "Sub", "Sum", "Where"})
# Norm operators that onnx has no schema for (in a domain of onnxruntime's, or before the opset that brought them).
NORM_OPERATORS = frozenset(
    (domain, name)
    for domain, name in reference.STAND_INS
    if (name.endswith(("Norm", "Normalization")) and name != "BatchNormalization") or domain == "normswap"
)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that a node holds."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
            yield from attribute.as_graphs()


def infer(facts: Facts, node: ir.Node, binding: int) -> None:
    """Shapes and types of the outputs of `node` by onnx's own inference, fed with everything derived so far."""
    shapes = facts.shapes[binding]
    if node.op_type == "If":
        branches = list(subgraphs(node))
        for index, output in enumerate(node.outputs):
            found = {facts.shape(branch.outputs[index], binding) for branch in branches}
            if len(found) == 1 and None not in found:
                shapes[output] = next(shape for shape in found if shape is not None)
            dtype = next((known for branch in branches if (known := facts.dtype(branch.outputs[index]))), None)
            if dtype is not None:
                facts.types.setdefault(output, dtype)
        return
    if (node.domain, node.op_type) in NORM_OPERATORS:
        _infer_norm(facts, node, binding)
        return
    for output, (dtype, sizes) in zip(node.outputs, _inferred(facts, node, binding), strict=False):
        if dtype is not None:
            facts.types.setdefault(output, dtype)
        if sizes is not None:
            shapes[output] = sizes


def _infer_norm(facts: Facts, node: ir.Node, binding: int) -> None:
    """The output of a norm operator, and the sum that it may deliver besides, have the shape and type of its input."""
    first, place = node.inputs[0], {"SkipGroupNorm": 1, "EmbedLayerNormalization": 2}.get(node.op_type, 3)
    shape = None if first is None else facts.shape(first, binding)
    if node.op_type == "EmbedLayerNormalization":  # a row of the table for each id
        first = node.inputs[2]
        table = None if first is None else facts.shape(first, binding)
        shape = None if shape is None or table is None else (*shape, *table[1:])
    dtype = None if first is None else facts.dtype(first)
    for output in (node.outputs[0], *node.outputs[place : place + 1]):
        if shape is not None:
            facts.shapes[binding][output] = shape
        if dtype is not None:
            facts.types.setdefault(output, dtype)


# What inference says of an output: its type and its shape, as far as they are known.
Inferred = tuple[ir.DataType | None, Shape | None]
# The outputs of an operator by what they follow from: nodes that are alike are inferred once.
_known: dict[Hashable, Sequence[Inferred]] = {}
MOST_KNOWN = 1 << 14


def _inferred(facts: Facts, node: ir.Node, binding: int) -> Sequence[Inferred]:
    inputs = tuple(None if value is None else _input(facts, node, value, binding) for value in node.inputs)
    alike = reference.alike(node, facts.opset(node))
    numbers = tuple(None if item is None or item[2] is None else item[2].tobytes() for item in inputs)
    kinds = tuple(None if item is None else (*item[:2], item[2] is None or item[2].dtype.str) for item in inputs)
    key = None if alike is None else (alike, kinds, numbers, facts.model.ir_version)
    if key is None or key not in _known:
        found = _infer_node(facts, node, inputs)
        if key is None:
            return found
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[key] = found
    return _known[key]


Input = tuple[ir.DataType | None, Shape | None, Array | None]


def _input(facts: Facts, node: ir.Node, value: ir.Value, binding: int) -> Input:
    """The type of an input, its shape, and its numbers where these are few and may be sizes or positions."""
    dtype, shape = facts.dtype(value), facts.shape(value, binding)
    small = shape is not None and math.prod(shape) <= SMALL
    array = facts.derived(value, binding) if small and node.op_type not in OF_SHAPES else None
    return dtype, shape, array


def _infer_node(facts: Facts, node: ir.Node, inputs: Sequence[Input | None]) -> Sequence[Inferred]:
    opset = facts.opset(node)
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value, item in zip(node.inputs, inputs, strict=True):
        if value is None or value.name is None or item is None:
            continue
        dtype, shape, array = item
        if dtype is not None:
            types[value.name] = onnx.helper.make_tensor_type_proto(int(dtype), shape)
        if array is not None:
            data[value.name] = onnx.numpy_helper.from_array(np.ascontiguousarray(array), value.name)
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        inferred = onnx.shape_inference.infer_node_outputs(
            schema,
            ir.serde.serialize_node(node),
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid(node.domain, opset)],
            ir_version=max(facts.model.ir_version, 4),
        )
    except UNINFERABLE:
        return ()
    return [_of_proto(inferred.get(output.name or "")) for output in node.outputs]


def _of_proto(proto: onnx.TypeProto | None) -> Inferred:
    if proto is None or not proto.HasField("tensor_type"):
        return None, None
    tensor = proto.tensor_type
    dtype = ir.DataType(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return dtype, None
    sizes = tuple(dim.dim_value for dim in tensor.shape.dim)
    return dtype, sizes if min(sizes, default=0) >= 0 else None
