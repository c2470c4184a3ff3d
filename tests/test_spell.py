"""Spelling: which rule writes a norm for which opset and type, what it is called, and that onnxruntime fuses it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from normswap import reference, rules
from normswap.spell import TOLERANCE, Unspelled, spell

DTYPES = {"float": "FLOAT", "double": "DOUBLE", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}


def norm(opset: int, call: str = "RMSNorm(h, axes, epsilon, gain)", dtype: str = "float", axes: str = "-1") -> ir.Model:
    """A model with one norm, named `ln`, of the output of a Relu; gain and bias are 1 to 8 and 8 to 1."""
    count = len(axes.split(","))
    model = ir.from_proto(
        onnx.parser.parse_model(
            f"""<ir_version: 8, opset_import: ["": {opset}, "normswap": 1]>
            g ({dtype}[N,3,8] x) => ({dtype}[N,3,8] y)
              <int64[{count}] axes = {{{axes}}}, float epsilon = {{0.25}}, {dtype}[8] gain = {{1,2,3,4,5,6,7,8}},
               {dtype}[8] bias = {{8,7,6,5,4,3,2,1}}>
            {{ [relu] h = Relu(x)  [ln] y = normswap.{call} }}"""
        )
    )
    for name, array in (("gain", np.arange(1, 9)), ("bias", np.arange(8, 0, -1))):
        data = ir.DataType[DTYPES[dtype]]  # the parser takes half floats as bit patterns
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(array.astype(data.numpy()), dtype=data, name=name)
    return model


def session(model: ir.Model, tmp_path=None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if tmp_path is not None:
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize(
    ("opset", "dtype", "rule"),
    [
        (9, "float", "primitive/RMSNorm-9"),
        (17, "float", "primitive/RMSNorm-9"),
        (18, "float", "primitive/RMSNorm-18"),
        (22, "double", "primitive/RMSNorm-18"),
        (23, "float", "onnx/RMSNormalization-23"),
        (17, "float16", "primitive/RMSNorm_half-9"),
        (18, "float16", "primitive/RMSNorm_half-18"),
        (23, "float16", "onnx/RMSNormalization-23"),
        (17, "bfloat16", "primitive/RMSNorm_bfloat16-13"),
        (18, "bfloat16", "primitive/RMSNorm_half-18"),
    ],
)
def test_rms_norm_by_opset_and_type(opset, dtype, rule):
    model = norm(opset, dtype=dtype)
    (spelled,) = spell(model)
    assert (spelled.site, spelled.rule) == ("ln", rule)
    assert spelled.max_relative_error <= TOLERANCE
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


@pytest.mark.parametrize(
    ("opset", "call", "rule"),
    [
        (9, "LayerNorm(h, axes, epsilon, gain, bias)", "primitive/LayerNorm-9"),
        (9, "LayerNorm(h, axes, epsilon, gain)", "primitive/LayerNorm-9:unbiased"),
        (17, "LayerNorm(h, axes, epsilon, gain, bias)", "onnx/LayerNormalization-17"),
        (23, "LayerNorm(h, axes, epsilon, gain)", "onnx/LayerNormalization-17:unbiased"),
    ],
)
def test_layer_norm_by_opset(opset, call, rule):
    model = norm(opset, call)
    assert [spelled.rule for spelled in spell(model)] == [rule]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_axes_the_operator_cannot_write_are_spelled_out():
    assert [spelled.rule for spelled in spell(norm(23, axes="-2"))] == ["primitive/RMSNorm-18"]


def test_several_trailing_axes_are_those_from_the_first_on():
    model = norm(23, axes="-2, -1")
    assert [spelled.rule for spelled in spell(model)] == ["onnx/RMSNormalization_trailing-23:two"]
    assert model.graph[1].attributes["axis"].as_int() == -2


def test_an_epsilon_that_is_no_float32_is_spelled_out():
    """The attribute of the operator would round it."""
    model = norm(23, dtype="double")
    epsilon = model.graph.initializers["epsilon"]
    epsilon.const_value = ir.tensor(np.float64(0.1), name="epsilon")
    epsilon.dtype = ir.DataType.DOUBLE
    assert [spelled.rule for spelled in spell(model)] == ["primitive/RMSNorm-18"]
    assert model.graph.initializers["ln/epsilon"].const_value.numpy() == 0.1


def test_the_runtime_may_be_primitive():
    assert [spelled.rule for spelled in spell(norm(23), runtime="primitive")] == ["primitive/RMSNorm-18"]


@pytest.mark.parametrize("opset", [9, 14, 17, 18, 20, 23])
@pytest.mark.parametrize("axes", ["-1", "-2, -1"])
@pytest.mark.parametrize("call", ["RMSNorm(h, axes, epsilon, gain)", "LayerNorm(h, axes, epsilon, gain, bias)"])
def test_onnxruntime_computes_the_norm(opset, axes, call):
    model = norm(opset, call, axes=axes)
    spell(model)
    x = np.random.default_rng(2).normal(size=(5, 3, 8)).astype(np.float32)
    over = tuple(int(axis) for axis in axes.split(","))
    h, gain, bias = np.maximum(x, 0).astype(np.float64), np.arange(1, 9), np.arange(8, 0, -1)
    if "LayerNorm" in call:
        expected = reference.root_mean_square(reference.center(h, over), over, 0.25) * gain + bias
    else:
        expected = reference.root_mean_square(h, over, 0.25) * gain
    (y,) = session(model).run(None, {"x": x})
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [9, 12, 13, 14, 17, 18, 20])
@pytest.mark.parametrize(
    ("call", "fused"),
    [
        ("RMSNorm(h, axes, epsilon, gain)", "SimplifiedLayerNormalization"),
        ("LayerNorm(h, axes, epsilon, gain, bias)", "LayerNormalization"),
    ],
)
def test_onnxruntime_fuses_the_primitive_chain(opset, call, fused, tmp_path):
    model = norm(opset, call)
    spell(model, runtime="primitive")
    session(model, tmp_path)
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert operators == {"Relu": 1, fused: 1}


def test_names_and_metadata():
    model = norm(18)
    node = model.graph[1]
    node.metadata_props["namespace"] = "model.ln"
    node.doc_string = "from the user"
    spell(model)
    relu, *chain = model.graph
    assert (relu.name, relu.outputs[0].name) == ("relu", "h")
    assert [node.name for node in chain] == [
        "ln/squares",
        "ln/mean_square",
        "ln/shifted",
        "ln/root",
        "ln/normalized",
        "ln",
    ]
    assert [node.outputs[0].name for node in chain][-1] == "y"
    assert {node.metadata_props["normswap.rule"] for node in chain} == {"primitive/RMSNorm-18"}
    assert chain[-1].metadata_props["namespace"] == "model.ln"
    assert chain[-1].doc_string == "from the user"
    # The constants of the norm that nobody reads any more are gone; the gain is the graph's own tensor.
    assert sorted(model.graph.initializers) == ["bias", "gain", "ln/axes", "ln/epsilon", "ln/two"]
    assert model.graph.outputs[0] is chain[-1].outputs[0]
    assert model.graph.outputs[0].shape == ir.Shape(["N", 3, 8])
    assert "normswap" not in model.opset_imports


def test_a_name_that_is_taken_gets_a_number():
    model = norm(18)
    model.graph[0].outputs[0].name = "ln/two"
    spell(model)
    assert model.graph[0].outputs[0].name == "ln/two"
    assert "ln/two_1" in model.graph.initializers


@pytest.mark.parametrize("version", [3, 8])
def test_where_there_are_no_initializers_constants_are_nodes(version):
    """In a function never, and before IR version 4 only beside a graph input of the same name."""
    text = f"""<ir_version: {version}, opset_import: ["": 14, "local": 1]>
    g (float[2,8] x) => (float[2,8] y) {{ y = local.f(x) }}
    <domain: "local", opset_import: ["": 14, "normswap": 1]>
    f (x) => (y) {{
      axes = Constant<value_ints = [-1]>()
      epsilon = Constant<value_float = 0.25>()
      gain = Constant<value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]>()
      [ln] y = normswap.RMSNorm(x, axes, epsilon, gain)
    }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    spell(model)
    (function,) = model.functions.values()
    operators = Counter(node.op_type for node in function)
    assert operators == {"Constant": 3, "Pow": 1, "ReduceMean": 1, "Add": 1, "Sqrt": 1, "Div": 1, "Mul": 1}
    assert "normswap" not in function.opset_imports
    (y,) = session(model).run(None, {"x": np.ones((2, 8), np.float32)})
    np.testing.assert_allclose(y[0], np.arange(1, 9) / np.sqrt(1.25), rtol=1e-6)


def test_initializers_before_ir_version_4():
    model = norm(9)
    model.ir_version = 3
    for value in list(model.graph.initializers.values()):
        model.graph.inputs.append(value)
    spell(model)
    assert {node.name for node in model.graph if node.op_type == "Constant"} == {"ln/two", "ln/epsilon"}
    onnx.checker.check_model(ir.to_proto(model))


def test_inside_a_subgraph():
    text = """<ir_version: 8, opset_import: ["": 17, "normswap": 1]>
    g (float[2,8] x, bool c) => (float[2,8] y)
      <int64[1] axes = {-1}, float epsilon = {0.25}, float[8] gain = {1,2,3,4,5,6,7,8}>
    {
      y = If (c) <
        then_branch = t () => (float[2,8] a) { [ln] a = normswap.RMSNorm(x, axes, epsilon, gain) },
        else_branch = e () => (float[2,8] b) { b = Identity(x) }
      >
    }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert [spelled.site for spelled in spell(model)] == ["ln"]
    x = np.ones((2, 8), np.float32)
    (y,) = session(model).run(None, {"x": x, "c": np.asarray(True)})
    np.testing.assert_allclose(y[0], np.arange(1, 9) / np.sqrt(1.25), rtol=1e-6)


def test_a_norm_that_no_rule_writes_is_named():
    with pytest.raises(Unspelled, match="no rule of onnx or primitive writes GroupNorm `ln`"):
        spell(norm(18, "GroupNorm(h, axes, epsilon, gain)"))


def test_a_rule_that_computes_something_else_is_caught():
    """The rules of RMSNorm put in the place of LayerNorm's."""
    by_name = {rule.name: rule for rule in rules.load()}
    layer, rms = by_name["primitive/LayerNorm-18:unbiased"], by_name["primitive/RMSNorm-18"]
    with pytest.raises(Unspelled, match="`ln`: rule primitive/LayerNorm-18:unbiased computes something else"):
        spell(norm(18, "LayerNorm(h, axes, epsilon, gain)"), from_rules=[replace(layer, replace=rms.replace)])


def test_approximate_rules_do_not_run():
    inexact = [replace(rule, exact=False) for rule in rules.load()]
    with pytest.raises(Unspelled, match="no rule"):
        spell(norm(18), from_rules=inexact)
