"""Residual scales: what is one, and that folding it before centering is exact."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

import normswap
from normswap.session import Session
from tests.graphs import filled

SCALED = """
<ir_version: 10, opset_import: ["": 18]>
scaled (double[N,5,4] x) => (double[N,5,3] y)
<double[4,6] w0, double[6] g, double[6] c, double[6,6] w1, double[6] b1, {SCALE} s, double[6,3] w2>
{{
  h = MatMul(x, w0)
  [ln_1] n = LayerNormalization <axis = -1> (h, g, c)
  p = MatMul(n, w1)
  a = Add(p, b1)
  [scale] b = Mul({ORDER})
  k = Add({OTHER}, b)
  [ln_2] o = LayerNormalization <axis = -1> (k, g, c)
  y = MatMul(o, w2)
}}
"""


def proto(scale: str = "double[6]", order: str = "a, s", other: str = "h") -> onnx.ModelProto:
    text = SCALED.format(SCALE=scale, ORDER=order, OTHER=other)
    return filled(onnx.parser.parse_model(text))


@pytest.mark.parametrize("scale", ["double[6]", "double[1,1,6]", "double[1]"])
@pytest.mark.parametrize("order", ["a, s", "s, a"])
def test_a_scale_is_folded_into_the_branch_before_it_is_centered(scale: str, order: str):
    original = proto(scale, order)
    result = normswap.convert(original, check=False)
    operators = [node.op_type for node in result.model.graph.node]
    assert operators.count("RMSNormalization") == 2
    assert "Mul" not in operators
    assert [rewrite.site for rewrite in result.rewrites if rewrite.rule == "scale-up"] == ["scale"]
    x = np.random.default_rng(1).normal(0.5, 2.0, (2, 5, 4))
    left, right = (ReferenceEvaluator(model).run(None, {"x": x})[0] for model in (original, result.model))
    np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("change", [{"order": "a, a"}, {"order": "a, h"}, {"other": "b"}])
def test_what_is_no_residual_scale(change: dict[str, str]):
    session = Session.of(ir.from_proto(proto(**change)), proving=False)
    assert [norm for norm in session.affines if norm.variant in ("LayerScale", "SkipInit")] == []


def test_a_scale_in_a_model_where_nothing_converts_is_left():
    text = proto()
    text.graph.output.append(onnx.helper.make_tensor_value_info("k", onnx.TensorProto.DOUBLE, ["N", 5, 6]))
    result = normswap.convert(text, check=False)
    assert [node.op_type for node in result.model.graph.node] == [node.op_type for node in text.graph.node]
