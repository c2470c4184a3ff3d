"""Cutting a serialized model at its weights and splicing it again, on what protobuf allows but nobody writes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

from normswap.model import wire

WEIGHT = np.arange(700, dtype=np.float32)


def model(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float x) => (float y) { y = Neg(x) }')
    proto.graph.initializer.extend(tensors)
    return proto


def there_and_back(data: bytes) -> bytes:
    skeleton, cuts = wire.cut(memoryview(data))
    size, pieces = wire.splice(skeleton, {index: (cut.field, cut.length) for index, cut in enumerate(cuts)})
    spans = {index: data[cut.offset : cut.offset + cut.length] for index, cut in enumerate(cuts)}
    result = b"".join(piece if isinstance(piece, bytes) else spans[piece] for piece in pieces)
    assert len(result) == size
    return result


def test_weights_leave_and_come_back():
    data = model(onnx.numpy_helper.from_array(WEIGHT, "w"), onnx.numpy_helper.from_array(WEIGHT[:3], "b"))
    serialized = data.SerializeToString(deterministic=True)
    skeleton, cuts = wire.cut(memoryview(serialized))
    assert [serialized[cut.offset : cut.offset + cut.length] for cut in cuts] == [WEIGHT.tobytes()]
    assert len(skeleton) < 300
    assert there_and_back(serialized) == serialized


def test_weights_anywhere():
    data = model()
    node = data.graph.node.add(op_type="If")
    inner = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    constant = inner.node.add(op_type="Constant").attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    constant.t.CopyFrom(onnx.numpy_helper.from_array(WEIGHT))
    data.functions.add().node.add().attribute.add().tensors.append(onnx.numpy_helper.from_array(WEIGHT))
    data.training_info.add().algorithm.sparse_initializer.add().values.CopyFrom(onnx.numpy_helper.from_array(WEIGHT))
    serialized = data.SerializeToString(deterministic=True)
    skeleton, cuts = wire.cut(memoryview(serialized))
    assert len(cuts) == 3
    assert len(skeleton) < 400
    assert there_and_back(serialized) == serialized


@pytest.mark.parametrize(
    "extra",
    [
        b"\xfb\x7f\x08\x01\x13\x0a\x01a\x14\xfc\x7f",  # an unknown group that holds a number, a group and text
        b"\xfa\x7f\x05later",
        b"\xf9\x7f" + bytes(8),
        b"\xfd\x7f" + bytes(4),
    ],
)
def test_unknown_fields_of_every_kind(extra):
    serialized = model(onnx.numpy_helper.from_array(WEIGHT, "w")).SerializeToString(deterministic=True) + extra
    assert there_and_back(serialized) == serialized


def test_a_graph_in_two_parts_is_one_graph():
    first, second = model(), onnx.ModelProto()
    second.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHT, "w"))
    serialized = first.SerializeToString() + second.SerializeToString()
    assert there_and_back(serialized) == serialized
    skeleton, _ = wire.cut(memoryview(serialized))
    assert [tensor.name for tensor in onnx.ModelProto.FromString(skeleton).graph.initializer] == ["w"]


def test_data_that_looks_like_a_token_is_data():
    data = wire.token(0)[:-1] + b"\x00"
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.UINT8, dims=[23], raw_data=data[:23])
    serialized = model(tensor).SerializeToString(deterministic=True)
    assert there_and_back(serialized) == serialized


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x3a\x05abc", "needs 5 bytes, 3 are left"),
        (b"\x3a\xff", "within a number"),
        (b"\x08" + b"\xff" * 11, "more than 64 bits"),
        (b"\x00\x01", "number 0"),
        (b"\x0f", "wire type 7"),
        (b"\xfb\x7f\x08\x01\x14", "a group ends"),
        (b"\x09abc", "needs 8 bytes"),
    ],
)
def test_what_is_malformed(data, expected):
    with pytest.raises(wire.Malformed, match=expected):
        wire.cut(memoryview(data))


def test_nesting_has_a_limit():
    graph = onnx.GraphProto(name="x" * wire.LARGE)
    data = graph.SerializeToString()
    for _ in range(60):
        data = b"\x0a" + _delimited(b"\x2a" + _delimited(b"\x32" + _delimited(data)))
    with pytest.raises(wire.Malformed, match="nested deeper"):
        wire.cut(memoryview(b"\x3a" + _delimited(data)))


def _delimited(data: bytes) -> bytes:
    return wire.field_header(1, len(data))[1:] + data
