"""Shapes that inference cannot find: seen in one run, and what follows from them derived."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import normswap
from normswap import observe as module
from normswap.learn import PRIMES, learn, unknown
from normswap.observe import observe
from tests.graphs import filled

# FusedMatMul belongs to onnxruntime: onnx's inference does not know it, and nothing behind it has a shape.
UNKNOWN = """
<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>
opaque (float[N,S,4] x) => (float[N,S,2] y)
<float[4,6] w0, float[6] g, float[6] c, float[6,2] w1>
{
  h = com.microsoft.FusedMatMul <alpha = 0.5> (x, w0)
  k = MatMul(x, w0)
  s = Add(h, k)
  shape = Shape(s)
  t = Reshape(s, shape)
  [norm] n = LayerNormalization <axis = -1> (t, g, c)
  y = MatMul(n, w1)
}
"""


def proto() -> onnx.ModelProto:
    return filled(onnx.parser.parse_model(UNKNOWN))


def test_observed_shapes_are_static_where_both_runs_agree():
    facts = learn(ir.from_proto(proto()))
    assert {value.name for value in unknown(facts)} >= {"h", "s", "n"}
    observe(facts)
    assert unknown(facts) == []
    dims = {value.name: facts.dims(value) for node in facts.model.graph for value in node.outputs}
    assert dims["n"] == (None, None, 6)
    shape = next(node.outputs[0] for node in facts.model.graph if node.op_type == "Shape")
    assert [facts.derived(shape, binding).tolist() for binding in (0, 1)] == [[*primes[:2], 6] for primes in PRIMES]


def test_a_norm_behind_an_unknown_shape_is_not_given_up():
    assert [norm.kind for norm in normswap.inspect(proto()).norms] == ["LayerNorm"]


def test_a_model_that_does_not_run_keeps_its_gaps(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(module, "_runner", broken)
    facts = learn(ir.from_proto(proto()))
    observe(facts)
    assert unknown(facts)
    assert normswap.inspect(proto()).norms == ()
