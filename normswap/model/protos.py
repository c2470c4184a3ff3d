"""Walks over the protobuf form of a model: every graph, every node, every tensor, in a fixed order.

onnx has no such walk that reaches subgraphs, function bodies, sparse tensors and training information alike.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import onnx
import onnx_ir as ir

Scope: TypeAlias = onnx.GraphProto | onnx.FunctionProto
"""What has nodes: a graph or the body of a local function."""


STUB = f"*/weights kept apart/{secrets.token_hex(8)}"
"""The location of external data that is nowhere: not a path that a model may have, and different in every process."""


UNKNOWN_DIMENSION = -1
"""What exporters without names for free dimensions (PaddlePaddle, old Keras) write; runtimes accept it."""


def scopes(model: onnx.ModelProto) -> Iterator[tuple[Scope, str]]:
    """Every graph, subgraph and function body with its name for messages, training graphs last."""
    yield from _with_subgraphs(model.graph, f"graph `{model.graph.name}`")
    for function in model.functions:
        yield from _with_subgraphs(function, f"function `{function.domain}.{function.name}`")
    for training in model.training_info:
        yield from _with_subgraphs(training.initialization, "training initialization")
        yield from _with_subgraphs(training.algorithm, "training algorithm")


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that are attributes of `node`."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors(model: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, bool]]:
    """Every tensor of the model, and whether it is an initializer (which every loader accepts as external data)."""
    for scope, _ in scopes(model):
        if isinstance(scope, onnx.GraphProto):
            yield from ((tensor, True) for tensor in scope.initializer)
            for sparse in scope.sparse_initializer:
                yield from ((part, False) for part in (sparse.values, sparse.indices))
        else:
            yield from ((tensor, False) for tensor in _attribute_tensors(scope.attribute_proto))
        for node in scope.node:
            yield from ((tensor, False) for tensor in _attribute_tensors(node.attribute))


def label(node: onnx.NodeProto) -> str:
    """How messages call a node: its name, else its operator and first output."""
    if node.name:
        return f"{node.op_type} `{node.name}`"
    return f"{node.op_type} that makes `{next(iter(node.output), '')}`"


def tensor_types(type_: onnx.TypeProto) -> Iterator[onnx.TypeProto.Tensor | onnx.TypeProto.SparseTensor]:
    """The tensor types within a type: itself, or the elements of its sequences, options and maps."""
    if type_.HasField("tensor_type"):
        yield type_.tensor_type
    if type_.HasField("sparse_tensor_type"):
        yield type_.sparse_tensor_type
    if type_.HasField("sequence_type"):
        yield from tensor_types(type_.sequence_type.elem_type)
    if type_.HasField("optional_type"):
        yield from tensor_types(type_.optional_type.elem_type)
    if type_.HasField("map_type"):
        yield from tensor_types(type_.map_type.value_type)


def plain_domain(domain: str) -> str:
    """The name of an operator domain, that of ONNX itself in its usual, empty form."""
    return "" if domain == "ai.onnx" else domain


def printable(text: str) -> str:
    """`text` on one line, without characters that a terminal would act on: names in a model can contain anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_text(field: object) -> bool:
    """Whether a string field holds UTF-8: for anything else protobuf returns bytes."""
    return isinstance(field, str)


def byte_count(tensor: onnx.TensorProto) -> int:
    """How many bytes the elements of `tensor` take in the form of `raw_data`."""
    bits: int = math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth
    return -(-bits // 8)


def stub(tensor: onnx.TensorProto, index: int) -> None:
    """Make `tensor`, which has a token for data, one that onnx_ir can hold: external, as number `index` of nowhere."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=STUB)
    tensor.external_data.add(key="offset", value=str(index))


def stub_index(tensor: onnx.TensorProto) -> int | None:
    """The number that `stub` gave to this tensor, None if it is another kind of tensor."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL or len(tensor.external_data) < 2:
        return None
    location, offset = tensor.external_data[:2]
    return int(offset.value) if location.value == STUB else None


def _with_subgraphs(scope: Scope, name: str) -> Iterator[tuple[Scope, str]]:
    yield scope, name
    for node in scope.node:
        for graph in subgraphs(node):
            yield from _with_subgraphs(graph, f"{label(node)}, subgraph `{graph.name}`")


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        for tensor in (*sparse, *attribute.sparse_tensors):
            yield from (tensor.values, tensor.indices)
