"""SkipLayerNormalization read as Add + LayerNorm: converted where it can be, put back as it was where not."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

import normswap
from normswap.model import open_model, to_proto
from normswap.regroup import write
from normswap.session import Session
from tests.graphs import filled

SKIP = """
<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>
skip (float[N,4] x) => (float[N,3] y{EXTRA})
<float[4,6] w0, float[6,6] w1, float[6] g, float[6] c, float[6] b, float[6,3] head>
{{
  h = MatMul(x, w0)
  [first] n = LayerNormalization <axis = -1> (h, g, c)
  a = MatMul(n, w1)
  [skip] m, mean, deviation, s = com.microsoft.SkipLayerNormalization <epsilon = 0.01> (a, h, g, c, b)
  y = MatMul(m, head)
  {MORE}
}}
"""


def model(extra: str = "", more: str = "") -> onnx.ModelProto:
    return filled(onnx.parser.parse_model(SKIP.format(EXTRA=extra, MORE=more)))


def test_both_norms_convert_and_the_check_passes():
    result = normswap.convert(model())
    operators = [node.op_type for node in result.model.graph.node]
    assert operators.count("RMSNormalization") == 2
    assert "SkipLayerNormalization" not in operators
    assert result.check is not None
    assert result.check.verdict == "pass"


@pytest.mark.parametrize("more", ["", "u = Exp(s)"])
def test_an_untouched_bundle_is_put_back_as_it_was(more: str):
    proto = model(", float[N,6] u" if more else "", more)
    document = open_model(proto)
    session = Session.of(document.model)
    assert [norm.name for norm in session.norms] == ["first", "skip"]
    write(session)
    restored = to_proto(document, session.model)
    assert [(n.op_type, n.name, list(n.input)) for n in restored.graph.node] == [
        (n.op_type, n.name, list(n.input)) for n in proto.graph.node
    ]
    assert restored.graph.node[3].output[0] == "m"
    if more:
        assert restored.graph.node[3].output[3] == "s"


def test_a_bundle_whose_statistics_are_used_is_left():
    proto = model(", float[N,1] u", "u = Identity(mean)")
    assert [norm.name for norm in Session.of(open_model(proto).model).norms] == ["first"]


def test_a_bundle_beside_a_converted_norm_keeps_its_form():
    """The stream of `skip` is read by a nonlinearity, so only a norm elsewhere converts."""
    more = "u = Exp(s)  k = MatMul(x, w0)  [other] o = LayerNormalization <axis = -1> (k, g, c)  v = MatMul(o, head)"
    result = normswap.convert(model(", float[N,6] u, float[N,3] v", more), check=False)
    operators = [node.op_type for node in result.model.graph.node]
    assert operators.count("RMSNormalization") == 1
    assert operators.count("SkipLayerNormalization") == 1
    assert {refusal.site for refusal in result.refused} == {"first", "skip"}
