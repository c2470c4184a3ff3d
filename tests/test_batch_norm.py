"""BatchNormalization as an Affine: its gain and bias, and the ways in which it is none."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from normswap.batch_norm import of_operator
from normswap.learn import learn
from normswap.norm import Norm, Unrecognized
from tests.graphs import parsed, run

TEXT = """main (double[N,3,5] x) => (double[N,3,5] y) <double[3] s, double[3] b, double[3] m, double[3] v>
    {{ [bn] {outputs} = BatchNormalization{attributes}(x, s, b, m, v) }}"""


def proto(attributes: str = "", outputs: str = "y", opset: int = 17, text: str = TEXT) -> onnx.ModelProto:
    model = parsed(text.format(attributes=attributes, outputs=outputs), opset)
    for tensor in model.graph.initializer:
        if tensor.name == "v":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray([0.5, 1.0, 2.0]), "v"))
    return model


def found(model: onnx.ModelProto) -> Norm | Unrecognized:
    graph = ir.from_proto(model)
    return of_operator(next(node for node in graph.graph if node.name == "bn"), "", learn(graph))


@pytest.mark.parametrize(
    ("opset", "attributes"), [(9, ""), (15, ""), (17, "<epsilon = 0.25>"), (17, "<training_mode = 0>")]
)
def test_gain_and_bias(opset: int, attributes: str) -> None:
    norm = found(proto(attributes, opset=opset))
    assert isinstance(norm, Norm)
    assert norm.gain is not None
    assert norm.bias is not None
    given = {"x": np.random.default_rng(0).normal(size=(2, 3, 5))}
    expected = run(proto(attributes, opset=17), given)["y"]
    np.testing.assert_allclose(given["x"] * norm.gain.array + norm.bias.array, expected, rtol=1e-12, atol=1e-12)


def test_what_does_nothing_is_no_part() -> None:
    model = proto()
    for tensor in model.graph.initializer:
        if tensor.name in ("b", "m"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(3), tensor.name))
    norm = found(model)
    assert isinstance(norm, Norm)
    assert norm.bias is None


@pytest.mark.parametrize(
    ("attributes", "outputs", "opset", "reason_id"),
    [
        ("<training_mode = 1>", "y, running_mean, running_variance", 17, "training-mode"),
        ("", "y, mean, variance, saved_mean, saved_variance", 9, "training-mode"),
    ],
)
def test_in_training_it_is_none(attributes: str, outputs: str, opset: int, reason_id: str) -> None:
    item = found(proto(attributes, outputs, opset))
    assert isinstance(item, Unrecognized)
    assert item.reason_id == reason_id


def test_before_opset_7_inference_must_be_written() -> None:
    model = proto(opset=9)
    model.opset_import[0].version = 6
    item = found(model)
    assert isinstance(item, Unrecognized)
    assert item.reason_id == "training-mode"
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("is_test", 1))
    assert isinstance(found(model), Norm)


def test_statistics_per_position_are_none() -> None:
    text = TEXT.replace(
        "double[3] s, double[3] b, double[3] m, double[3] v",
        "double[3,5] s, double[3,5] b, double[3,5] m, double[3,5] w",
    )
    item = found(proto(text=text.replace("m, v)", "m, w)"), opset=8, attributes="<spatial = 0>"))
    assert isinstance(item, Unrecognized)
    assert item.reason_id == "widening-parameter"
