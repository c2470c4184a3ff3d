"""What onnx_ir cannot open or would spoil, replaced by something it can hold and that means the same.

Nothing here has to be undone: the envelope compares what onnx_ir makes of the placeholders before and after a
rewrite, and takes everything that did not change from the original.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from normswap.errors import InputRefused
from normswap.model import protos, wire

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    RepeatedAttributes: TypeAlias = RepeatedCompositeFieldContainer[onnx.AttributeProto]

TensorOf: TypeAlias = Callable[[onnx.TensorProto], ir.TensorProtocol]
Documented: TypeAlias = onnx.ModelProto | onnx.GraphProto | onnx.FunctionProto | onnx.NodeProto

_DEVICES_SINCE_IR = 11  # below, onnx_ir warns about device configurations and drops them
_MAX_DENSE_BYTES = (1 << 31) - 1  # of a sparse tensor: what a runtime could hold in a protobuf
_AttributeProto = onnx.AttributeProto

# The field that holds a value of each attribute type; singular fields are tested for presence, repeated for content.
_VALUE_FIELDS = {
    "f": _AttributeProto.FLOAT,
    "i": _AttributeProto.INT,
    "s": _AttributeProto.STRING,
    "t": _AttributeProto.TENSOR,
    "g": _AttributeProto.GRAPH,
    "tp": _AttributeProto.TYPE_PROTO,
    "sparse_tensor": _AttributeProto.SPARSE_TENSOR,
    "floats": _AttributeProto.FLOATS,
    "ints": _AttributeProto.INTS,
    "strings": _AttributeProto.STRINGS,
    "tensors": _AttributeProto.TENSORS,
    "graphs": _AttributeProto.GRAPHS,
    "type_protos": _AttributeProto.TYPE_PROTOS,
    "sparse_tensors": _AttributeProto.SPARSE_TENSORS,
}


def substitute(model: onnx.ModelProto, tensor_of: TensorOf, first_index: int) -> list[ir.TensorProtocol]:
    """Replace, in place, what onnx_ir 1.1.0 cannot hold.

    Args:
        model: a copy of the original, with tokens for large tensors; every token becomes a stub.
        tensor_of: the tensor that a TensorProto of the original stands for.
        first_index: the number of the first tensor that is made here.

    Returns:
        The dense form of each sparse tensor, computed when asked for, stubbed as first_index, first_index + 1, ...
    """
    dense: list[ir.TensorProtocol] = []
    _forget_doc_string(model)

    def densify(sparse: onnx.SparseTensorProto, into: onnx.TensorProto) -> None:
        original = onnx.SparseTensorProto()
        original.CopyFrom(sparse)
        tensor = _dense(original, tensor_of)
        into.Clear()
        into.name = sparse.values.name
        into.data_type = sparse.values.data_type
        into.dims.extend(sparse.dims)
        protos.stub(into, first_index + len(dense))
        dense.append(tensor)

    for entry in (*model.opset_import, *(entry for function in model.functions for entry in function.opset_import)):
        entry.domain = protos.plain_domain(entry.domain)  # onnx_ir knows this for nodes only
    for scope, _ in list(protos.scopes(model)):
        if isinstance(scope, onnx.GraphProto):
            for sparse in scope.sparse_initializer:
                densify(sparse, scope.initializer.add())
            del scope.sparse_initializer[:]
            _readable_types((*scope.input, *scope.output, *scope.value_info))
        else:
            _readable_types(scope.value_info)
            _substitute_attributes(scope.attribute_proto)
        _forget_doc_string(scope)
        for node in scope.node:
            _forget_doc_string(node)
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "sparse_value":
                    attribute.name, attribute.type = "value", _AttributeProto.TENSOR
                    densify(attribute.sparse_tensor, attribute.t)
                    attribute.ClearField("sparse_tensor")
            _substitute_attributes(node.attribute)
            if any(not _device_configuration_is_valid(item) for item in node.device_configurations):
                del node.device_configurations[:]
    if model.ir_version < _DEVICES_SINCE_IR:
        _forget_devices(model)
    for tensor, _ in protos.tensors(model):
        if (index := wire.token_index(tensor.raw_data)) is not None:
            protos.stub(tensor, index)
        del tensor.metadata_props[:]  # onnx_ir would write them twice
    return dense


def _dense(sparse: onnx.SparseTensorProto, tensor_of: TensorOf) -> ir.LazyTensor:
    """The dense tensor that `sparse` abbreviates; its indices are linear [NNZ] or coordinates [NNZ, rank]."""
    shape, dtype = tuple(sparse.dims), ir.DataType(sparse.values.data_type)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.bitwidth / 8 > _MAX_DENSE_BYTES:
        raise InputRefused(f"sparse tensor `{sparse.values.name}`: its shape {list(shape)} is too large to be dense")

    def evaluate() -> ir.TensorProtocol:
        values, indices = tensor_of(sparse.values).numpy(), tensor_of(sparse.indices).numpy()
        array = np.zeros(shape, values.dtype)
        if indices.ndim == 1:
            array.reshape(-1)[indices] = values
        else:
            array[tuple(indices.T)] = values
        return ir.Tensor(array, dtype)

    return ir.LazyTensor(evaluate, dtype, ir.Shape(shape), name=sparse.values.name)


def _substitute_attributes(attributes: RepeatedAttributes) -> None:
    unreadable = []
    for position, attribute in enumerate(attributes):
        if attribute.type == _AttributeProto.UNDEFINED and not attribute.ref_attr_name:
            attribute.type = _type_of(attribute)
        if attribute.HasField("s"):
            attribute.s = _as_utf8(attribute.s)
        attribute.strings[:] = [_as_utf8(text) for text in attribute.strings]
        types = [attribute.tp] if attribute.HasField("tp") else attribute.type_protos
        sparse = attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors) > 0
        untyped = attribute.type == _AttributeProto.UNDEFINED and not attribute.ref_attr_name
        if sparse or untyped or not all(map(_is_representable, types)):
            unreadable.append(position)
    for position in reversed(unreadable):
        del attributes[position]


def _type_of(attribute: onnx.AttributeProto) -> _AttributeProto.AttributeType:
    """The type that an attribute without one (IR versions 1 and 2) has, judged by where its value is."""
    present = {field.name for field, _ in attribute.ListFields()}
    return next((type_ for name, type_ in _VALUE_FIELDS.items() if name in present), _AttributeProto.UNDEFINED)


def _as_utf8(text: bytes) -> bytes:
    return text.decode("utf-8", errors="backslashreplace").encode()


def _readable_types(values: Iterable[onnx.ValueInfoProto]) -> None:
    for value in values:
        if not _is_representable(value.type):
            value.ClearField("type")
        for tensor_type in protos.tensor_types(value.type):
            for dim in tensor_type.shape.dim if tensor_type.HasField("shape") else ():
                if dim.dim_value == protos.UNKNOWN_DIMENSION:
                    dim.ClearField("dim_value")  # to onnx_ir it would be a size like any other


def _is_representable(type_: onnx.TypeProto) -> bool:
    """Whether onnx_ir has a type for this: it has no maps, and no containers of an unknown element type."""
    if type_.HasField("map_type"):
        return False
    for kind in ("sequence_type", "optional_type"):
        if type_.HasField(kind):
            inner = getattr(type_, kind).elem_type
            return inner.WhichOneof("value") is not None and _is_representable(inner)
    return True


def _device_configuration_is_valid(configuration: onnx.NodeDeviceConfigurationProto) -> bool:
    """onnx_ir refuses to write a device configuration that does not say what it configures."""
    return bool(configuration.configuration_id) and all(spec.tensor_name for spec in configuration.sharding_spec)


def _forget_devices(model: onnx.ModelProto) -> None:
    del model.configuration[:]
    for scope, _ in protos.scopes(model):
        for node in scope.node:
            del node.device_configurations[:]


def _forget_doc_string(message: Documented) -> None:
    if not protos.is_text(message.doc_string):
        message.ClearField("doc_string")
