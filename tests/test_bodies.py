"""Norms in local functions: once per body, in its own names; what calls differ in is not said of all."""

from __future__ import annotations

import onnx.parser
import pytest

import normswap
from normswap.ledger import Inspection

MODEL = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
main (float[B,T,6] x, float[6] r, bool c) => (float[B,T,6] y)
<float[6] g0 = {1, 2, 3, 4, 5, 6}, float[6] g1 = {2, 2, 3, 4, 5, 6}>
{
  a = own.block(x, g0)
  b = own.block(a, g1)
  d = own.outer(b, g0)
  y = If (c) <then_branch = yes () => (float[B,T,6] u) { u = own.block(d, FOURTH) },
              else_branch = no () => (float[B,T,6] o) { o = Identity(d) }>
}
<domain: "own", opset_import: ["" : 17]>
block (v, gain) => (w)
{
  [mean] m = ReduceMean <axes = [-1]> (v)
  [less] d = Sub(v, m)
  q = Mul(d, d)
  [variance] s = ReduceMean <axes = [-1]> (q)
  eps = Constant <value = float {0.00001}> ()
  e = Add(s, eps)
  t = Sqrt(e)
  [unit] u = Div(d, t)
  [scale] w = Mul(u, gain)
}
<domain: "own", opset_import: ["" : 17, "own" : 1]>
outer (v, gain) => (w)
{
  h = own.block(v, gain)
  [norm] k = LayerNormalization(h, gain)
  [spread] z = ReduceMean <axes = [-1]> (k)
  [centered] w = Sub(k, z)
}
"""


def inspected(fourth: str) -> Inspection:
    return normswap.inspect(onnx.parser.parse_model(MODEL.replace("FOURTH", fourth)))


def test_a_norm_of_a_body_is_one_row_in_its_own_names():
    inner, outer = inspected("g0").norms
    assert (inner.name, inner.kind, inner.graph, inner.calls, inner.scale) == (
        *("scale", "LayerNorm", "own.block"),
        *(4, "constant"),
    )
    assert inner.nodes == ("mean", "less", "q", "variance", "e", "t", "unit", "scale")
    assert (inner.input, inner.output, inner.parameters["gain"].name) == ("v", "w", "gain")
    assert [node.inputs for node in inner.region][:2] == [("v",), ("v", "m")]
    assert (outer.name, outer.graph, outer.calls, outer.input) == ("norm", "own.outer", 1, "h")


def test_a_gain_that_one_call_gives_at_run_time_is_run_time():
    inner, _ = inspected("r").norms
    assert (inner.name, inner.graph, inner.calls, inner.scale, inner.parameters) == (
        "unit",
        "own.block",
        4,
        "runtime",
        {},
    )
    assert inner.nodes[-1] == "unit"


def test_a_target_does_to_a_body_what_it_does_to_every_call():
    inner, _ = inspected("g0").norms
    assert not inner.can["rmsnorm"]["exact"]
    assert inner.can["rmsnorm"]["reason_id"] == "opaque-producer"  # the first call reads an input of the model


def test_what_is_no_norm_is_told_once_in_its_own_names():
    (row,) = inspected("g0").unrecognized
    assert (row.node, row.reason_id) == ("spread", "center-only")
    assert "`spread`" in row.reason


def test_norms_of_other_sizes_in_one_body():
    source = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    main (float[B,6] x, float[B,8] z) => (float[B,6] y, float[B,8] w)
    { y = own.block(x)  w = own.block(z) }
    <domain: "own", opset_import: ["" : 17]>
    block (v) => (w)
    {
      q = Mul(v, v)
      s = ReduceMean <axes = [-1]> (q)
      t = Sqrt(s)
      [unit] w = Div(v, t)
    }"""
    (row,) = normswap.inspect(onnx.parser.parse_model(source)).norms
    assert (row.kind, row.size, row.calls, row.axes) == ("RMSNorm", None, 2, (1,))


def test_two_norms_of_one_body_are_two_rows():
    source = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    main (float[B,6] x) => (float[B,6] y) { h = own.block(x)  y = own.block(h) }
    <domain: "own", opset_import: ["" : 17]>
    block (v) => (w)
    {
      q = Mul(v, v)
      s = ReduceMean <axes = [-1]> (q)
      t = Sqrt(s)
      [first] u = Div(v, t)
      r = Relu(u)
      p = Mul(r, r)
      o = ReduceMean <axes = [-1]> (p)
      k = Sqrt(o)
      [second] w = Div(r, k)
    }"""
    rows = normswap.inspect(onnx.parser.parse_model(source)).norms
    assert [(row.name, row.calls) for row in rows] == [("first", 2), ("second", 2)]


def test_two_norms_of_the_same_squares_are_two_rows():
    source = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    main (float[B,6] x) => (float[B,6] y) { h = own.block(x)  z = Relu(h)  y = own.block(z) }
    <domain: "own", opset_import: ["" : 17]>
    block (v) => (w)
    {
      q = Mul(v, v)
      s = ReduceMean <axes = [-1]> (q)
      t = Sqrt(s)
      [first] a = Div(v, t)
      o = ReduceMean <axes = [-1]> (q)
      k = Sqrt(o)
      [second] b = Div(v, k)
      r = Relu(b)
      w = Add(a, r)
    }"""
    rows = normswap.inspect(onnx.parser.parse_model(source)).norms
    assert [(row.name, row.calls) for row in rows] == [("first", 2), ("second", 2)]


@pytest.mark.parametrize("order", ["a = own.block(h) b = own.block(x)", "b = own.block(x) a = own.block(h)"])
def test_one_call_that_cannot_is_enough(order):
    weight = ", ".join(map(str, range(36)))
    source = f"""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    main (float[B,6] x) => (float[B,6] a, float[B,6] b) <float[6,6] w = {{{weight}}}, float[6] g = {{1,2,3,4,5,6}}>
    {{ h = MatMul(x, w)  {order} }}
    <domain: "own", opset_import: ["" : 17]>
    block (v) => (u) {{ o = Constant <value = float[6] {{1,1,1,1,1,1}}> ()  u = LayerNormalization(v, o) }}"""
    (row,) = normswap.inspect(onnx.parser.parse_model(source)).norms
    assert row.calls == 2
    assert not row.can["rmsnorm"]["exact"]
    alone = onnx.parser.parse_model(source.replace("own.block(x)", "Identity(x)"))
    assert normswap.inspect(alone).norms[0].can["rmsnorm"]["exact"]


def test_without_functions_nothing_changes():
    source = """<ir_version: 8, opset_import: ["" : 17]> main (float[B,6] x) => (float[B,6] y)
    <float[6] g = {1, 2, 3, 4, 5, 6}> { h = LayerNormalization(x, g)  y = LayerNormalization(h, g) }"""
    rows = normswap.inspect(onnx.parser.parse_model(source)).norms
    assert [(row.graph, row.calls, row.output) for row in rows] == [("", 1, "h"), ("", 1, "y")]
