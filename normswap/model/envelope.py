"""What onnx_ir cannot hold, kept, and put back onto whatever a rewrite left as it was.

Three versions of a model are compared: what onnx_ir makes of the original (base), the rewritten model (ours), and
the original itself. Where base and ours agree nobody changed anything, and the original is taken, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from normswap.model import protos, wire
from normswap.model.merge import merge
from normswap.model.weights import Storage

_LISTED_INITIALIZERS_UNTIL_IR = 3  # up to this version an initializer has to be a graph input too


@dataclass(frozen=True)
class Stored:
    """A tensor that is not in the skeleton, and how the original keeps it."""

    tensor: ir.TensorProtocol
    field: int = wire.RAW_DATA  # of TensorProto, when inline
    external: bool = False
    checksum: bool = False  # the original names a checksum of the external file


@dataclass(frozen=True)
class Envelope:
    """The original model without its weights, and where these are.

    original: never changed and never handed to onnx_ir. Token i stands for tensors[i].
    readable: `original` with placeholders for what onnx_ir cannot hold; stub i stands for tensors[i].
    storages: the files that the weights are read from.
    """

    original: onnx.ModelProto
    readable: onnx.ModelProto
    tensors: tuple[Stored, ...]
    storages: tuple[Storage, ...]

    def open(self) -> ir.Model:
        """A new onnx_ir model of the original, with its weights attached."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.readable)
        model = ir.from_proto(copy)
        _exchange_tensors(model, self._stored)
        return model

    def restore(self, model: ir.Model) -> tuple[onnx.ModelProto, tuple[Stored, ...]]:
        """The protobuf form of `model`, original in everything that the model did not change.

        Returns:
            A ModelProto with tokens for large tensors, and what token i stands for: `tensors`, then new tensors.
        """
        stubs = _Stubs(self.tensors)
        base, ours = _serialize(self.open(), stubs), _serialize(model, stubs)
        _list_initializers(ours, base)
        result = onnx.ModelProto()
        result.CopyFrom(self.original)
        merge(result, base, ours)
        _stubs_to_tokens(result)
        return result, tuple(stubs.stored)

    def release(self) -> None:
        """Give the memory that reading weights took back to the operating system; arrays that view them stay valid."""
        for storage in self.storages:
            storage.release()

    def _stored(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if isinstance(tensor, ir.ExternalTensor) and tensor.location == protos.STUB and tensor.offset is not None:
            return self.tensors[tensor.offset].tensor
        return tensor


def weightless(model: ir.Model) -> onnx.ModelProto:
    """A ModelProto of `model` for shape inference and version conversion, which need no weights.

    Tensors of at least 1 KiB are typed but say that their data is elsewhere (external data at a location that is
    nowhere): onnx.shape_inference and onnx.version_converter accept that, and keep the tensors in their places.
    Smaller tensors keep their values, which data propagation needs. `model` is not changed.
    """
    return _serialize(model, _Stubs(()))


def serialize_apart(model: ir.Model) -> tuple[onnx.ModelProto, list[Stored]]:
    """The protobuf form of a model with tokens for its large tensors, and the tensors; `model` is not changed."""
    stubs = _Stubs(())
    proto = _serialize(model, stubs)
    _stubs_to_tokens(proto)
    for scope, _ in protos.scopes(proto):
        if isinstance(scope, onnx.GraphProto):  # onnx_ir adds a value info for every initializer
            constants = {tensor.name for tensor in scope.initializer}
            for position in reversed(range(len(scope.value_info))):
                if scope.value_info[position].name in constants:
                    del scope.value_info[position]
    for tensor, _ in protos.tensors(proto):  # onnx_ir writes the metadata of some tensors twice
        unique = {entry.key: entry.value for entry in tensor.metadata_props}
        if len(unique) < len(tensor.metadata_props):
            del tensor.metadata_props[:]
            for key, value in unique.items():
                tensor.metadata_props.add(key=key, value=value)
    return proto, stubs.stored


def _stubs_to_tokens(model: onnx.ModelProto) -> None:
    for tensor, _ in protos.tensors(model):
        if (index := protos.stub_index(tensor)) is not None:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = wire.token(index)


class _Stubs:
    """Numbers for tensors: the ones of the original by identity, and a new one for every other large tensor."""

    def __init__(self, stored: Sequence[Stored]) -> None:
        self.stored = list(stored)
        self._index = {id(item.tensor): index for index, item in enumerate(stored)}

    def __call__(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if tensor.dtype == ir.DataType.STRING:
            return tensor
        index = self._index.get(id(tensor))
        if index is None:
            if tensor.nbytes < wire.LARGE or _is_in_typed_field(tensor):
                return tensor
            index = self._index[id(tensor)] = len(self.stored)
            self.stored.append(Stored(tensor, external=isinstance(tensor, ir.ExternalTensor)))
        return ir.ExternalTensor(
            protos.STUB,
            index,
            None,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props) or None,
        )


def _is_in_typed_field(tensor: ir.TensorProtocol) -> bool:
    """Whether the elements are varints in a TensorProto: onnx_ir hands that on as it is, which no bytes could do."""
    return isinstance(tensor, ir.serde.TensorProtoTensor) and not tensor.raw.HasField("raw_data")


def _serialize(model: ir.Model, stub: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> onnx.ModelProto:
    copy = model.clone()
    _exchange_tensors(copy, stub)
    return ir.to_proto(copy)


def _exchange_tensors(model: ir.Model, exchange: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
    """Replace every tensor of `model`, initializer or attribute, by what `exchange` makes of it."""
    for graph in _graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = exchange(value.const_value)
        for node in graph:
            _exchange_attributes(node.attributes, exchange)
    for function in model.functions.values():
        _exchange_attributes(function.attributes, exchange)


def _exchange_attributes(
    attributes: MutableMapping[str, ir.Attr], exchange: Callable[[ir.TensorProtocol], ir.TensorProtocol]
) -> None:
    for name, attribute in list(attributes.items()):
        if attribute.is_ref() or attribute.value is None:
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if (exchanged := exchange(tensor)) is not tensor:
                attributes[name] = ir.AttrTensor(name, exchanged, attribute.doc_string)
        elif attribute.type == ir.AttributeType.TENSORS:
            changed = [exchange(tensor) for tensor in attribute.as_tensors()]
            attributes[name] = ir.AttrTensors(name, changed, attribute.doc_string)


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield from model.graphs()
    for function in model.functions.values():
        yield function.graph
        yield from function.subgraphs()


def _list_initializers(ours: onnx.ModelProto, base: onnx.ModelProto) -> None:
    """Up to IR version 3 the initializers are graph inputs too: list new ones, drop those that are gone."""
    if ours.ir_version > _LISTED_INITIALIZERS_UNTIL_IR:
        return
    inputs = ours.graph.input
    before = {tensor.name for tensor in base.graph.initializer}
    after = {tensor.name for tensor in ours.graph.initializer}
    for position in reversed(range(len(inputs))):
        if inputs[position].name in before - after:
            del inputs[position]
    listed = {value.name for value in inputs}
    for tensor in ours.graph.initializer:
        if tensor.name not in before | listed:
            inputs.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
