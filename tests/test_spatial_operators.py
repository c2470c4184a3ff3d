"""Our definitions of operators along space do what onnxruntime does."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from normswap import reference
from tests.graphs import drawn, parsed

# Both compute in float32 from the same numbers.
AGREEMENT = 1e-5


def text(call: str, x: str = "1,2,5,6", y: str = "K,L,M,N", constants: str = "") -> str:
    declared = f"<{constants}>" if constants else ""
    return f"main (float[{x}] x) => (float[{y}] y) {declared} {{ [n] y = {call} }}"


SCALES = "float[4] scales = {1.0, 1.0, 2.0, 1.5}"
CASES = {
    "AveragePool dilated, without padding": (
        text('AveragePool<auto_pad = "VALID", dilations = [2, 1], kernel_shape = [2, 3], strides = [1, 2]>(x)'),
        19,
    ),
    "AveragePool that counts its padding": (
        text("AveragePool<count_include_pad = 1, kernel_shape = [2, 3], pads = [1, 0, 1, 2]>(x)"),
        17,
    ),
    "AveragePool that counts its padding, and a last window beyond it": (
        text(
            "AveragePool<ceil_mode = 1, count_include_pad = 1, kernel_shape = [3, 3], pads = [1, 0, 1, 1], strides = [2, 3]>(x)"
        ),
        17,
    ),
    "MaxPool, padded unevenly": (text("MaxPool<kernel_shape = [3, 3], pads = [0, 1, 0, 1]>(x)"), 17),
    "MaxPool dilated, with a last window": (
        text(
            "MaxPool<ceil_mode = 1, dilations = [2, 1], kernel_shape = [2, 2], pads = [0, 1, 1, 0], strides = [2, 3]>(x)"
        ),
        17,
    ),
    "MaxPool to the same size": (
        text('MaxPool<auto_pad = "SAME_UPPER", kernel_shape = [2, 3], strides = [1, 2]>(x)'),
        17,
    ),
    "MaxPool from below": (text('MaxPool<auto_pad = "SAME_LOWER", kernel_shape = [2, 2]>(x)'), 17),
    "Clip between": (text("Clip(x, low, high)", constants="float low = {-0.5}, float high = {0.5}"), 17),
    "Clip where bounds cross": (text("Clip(x, low, high)", constants="float low = {0.5}, float high = {-0.5}"), 17),
    "Clip from above": (text("Clip(x, , high)", constants="float high = {0.5}"), 17),
    "Clip by attributes": (text("Clip<min = -0.5, max = 0.25>(x)"), 10),
    "Pad": (text("Pad(x, pads, value)", constants="int64[8] pads = {0,1,0,2,0,0,1,0}, float value = {3.0}"), 17),
    "Pad some axes": (text("Pad(x, pads, , axes)", constants="int64[2] pads = {1,2}, int64[1] axes = {-1}"), 18),
    "Pad and take away": (text("Pad(x, pads)", constants="int64[8] pads = {0,0,-1,2,0,0,1,-2}"), 17),
    "Pad reflected": (text('Pad<mode = "reflect">(x, pads)', constants="int64[8] pads = {0,0,1,2,0,0,1,0}"), 17),
    "Pad wrapped": (text('Pad<mode = "wrap">(x, pads)', constants="int64[8] pads = {0,0,1,2,0,0,1,0}"), 19),
    "Pad by attributes": (text("Pad<pads = [0,0,1,2,0,0,1,0], value = 3.0>(x)"), 10),
    "GlobalMaxPool along one axis": (text("GlobalMaxPool(x)", "2,3,5", "K,L,M"), 17),
    "GlobalMaxPool along three axes": (text("GlobalMaxPool(x)", "2,3,5,4,3", "K,L,M,N,O"), 17),
    "Upsample nearest": (text("Upsample(x, scales)", constants=SCALES), 9),
    "Upsample linear": (text('Upsample<mode = "linear">(x, scales)', constants=SCALES), 9),
    "Upsample by attribute": (text("Upsample<scales = [1.0, 1.0, 2.0, 1.5]>(x)"), 7),
    "Resize before it had a region": (text('Resize<mode = "linear">(x, scales)', constants=SCALES), 10),
    "Resize nearest": (text("Resize(x, , scales)", constants=SCALES), 17),
    "Resize cubic": (text('Resize<mode = "cubic">(x, , scales)', constants=SCALES), 17),
    "Resize to sizes": (text("Resize(x, , , sizes)", constants="int64[4] sizes = {1,2,9,4}"), 17),
}


@pytest.mark.parametrize(("graph", "opset"), CASES.values(), ids=CASES)
def test_it_is_what_onnxruntime_computes(graph: str, opset: int) -> None:
    proto = parsed(graph, opset)
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    x = drawn("x", shape).astype(np.float32)
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    model = ir.from_proto(proto)
    node = next(node for node in model.graph if node.name == "n")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer} | {"x": x}
    operands = [None if value is None else arrays[value.name] for value in node.inputs]
    (found,) = reference.run(node, operands, opset)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < AGREEMENT


@pytest.mark.parametrize("order", [0, 1])
def test_the_places_of_maxima_are_those_of_onnxruntime(order: int) -> None:
    call = f"MaxPool<kernel_shape = [2, 3], pads = [1, 0, 0, 2], storage_order = {order}, strides = [1, 2]>(x)"
    proto = parsed(text(call).replace("N] y)", "N] y, int64[O,P,Q,R] places)").replace("y = Max", "y, places = Max"))
    x = drawn("x", (1, 2, 5, 6)).astype(np.float32)
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    found = reference.run(next(iter(ir.from_proto(proto).graph)), [x], 17)
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
