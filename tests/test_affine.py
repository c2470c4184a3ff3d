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
from tests.graphs import filled, parsed, with_weights

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


# --- which arithmetic is one ----------------------------------------------------------------------------------------

FOUND = {
    "a factor per channel": ("y = Mul(x, c)", [("scale", 1)]),
    "factor and shift": ("a = Div(x, c) y = Add(a, d)", [("BatchNorm arithmetic", 2)]),
    "a mean, as BatchNorm subtracts it": ("a = Sub(x, c) y = Add(a, d)", [("mean-only BatchNorm", 2)]),
    "cut after the last step per channel": (
        "a = Mul(x, c) b = Add(a, d) y = Mul(b, one)",
        [("BatchNorm arithmetic", 2)],
    ),
    "c - x behind a factor": ("a = Mul(x, c) y = Sub(d, a)", [("BatchNorm arithmetic", 2)]),
    "read twice in the middle": ("a = Mul(x, c) b = Add(a, d) y = Mul(a, b)", [("scale", 1)]),
    "two factors": ("a = Mul(x, c) y = Div(a, d)", [("scale", 2)]),
    "a mean alone": ("y = Sub(x, c)", [("shift", 1)]),
    "a branch with two factors and a bias": (
        "p = MatMul(x, w) a = Mul(p, one) b = Div(a, two) e = Add(b, one) y = Add(x, e)",
        [("SkipInit", 2)],
    ),
}
NONE = {
    "a bias": "y = Add(x, c)",
    "a scalar factor, as of attention": "y = Mul(x, two)",
    "a scalar bias": "y = Sub(x, one)",
    "a factor per position and channel": "y = Mul(x, both)",
    "a denominator": "y = Div(c, x)",
    "a factor that widens": "y = Mul(x, wide)",
    "a factor computed at run time": "a = ReduceMean<axes = [-1]>(x) y = Mul(x, a)",
    "x + 0.044715 x^3 of a GELU": "a = Mul(x, x) b = Mul(a, x) d2 = Mul(b, one) y = Add(x, d2)",
}
ARITHMETIC = """main (double[N,5,6] x) => (double[K,L,M] y) <double[6] c, double[6] d, double[5,6] both, double[2,1,1,6] wide,
    double one, double two, double[6,6] w> {{ {} }}"""


@pytest.mark.parametrize("case", FOUND)
def test_found(case: str) -> None:
    body, expected = FOUND[case]
    session = Session.of(ir.from_proto(parsed(ARITHMETIC.format(body))), proving=False)
    assert [(norm.variant, len(norm.nodes)) for norm in session.affines] == expected


@pytest.mark.parametrize("case", NONE)
def test_left_alone(case: str) -> None:
    text = ARITHMETIC.format(NONE[case]).replace("double[K,L,M] y", "double[K,L,M] y")
    proto = parsed(
        text.replace("(double[K,L,M] y)", "(double[J,K,L,M] y)" if "wide" in NONE[case] else "(double[K,L,M] y)")
    )
    assert Session.of(ir.from_proto(proto), proving=False).affines == []


def test_what_a_chain_computes_is_its_gain_and_bias() -> None:
    proto = parsed(ARITHMETIC.format("a = Sub(x, c) b = Div(a, d) e = Mul(b, c) y = Sub(d, e)"))
    (norm,) = Session.of(ir.from_proto(proto), proving=False).affines
    x = np.random.default_rng(0).normal(size=(2, 5, 6))
    assert norm.gain is not None
    assert norm.bias is not None
    expected = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    np.testing.assert_allclose(x * norm.gain.array + norm.bias.array, expected, rtol=1e-12, atol=1e-12)


def test_the_gain_of_a_norm_is_not_also_a_line_beside_a_batch_norm():
    text = """main (double[N,6,4] x) => (double[N,6,4] y) <double eta, double eps = {0.5}, int64[1] last = {-1},
        double[6] s, double[6] b, double[6] m, double[6] v> {
        q = Mul(x, x) a = ReduceMean(q, last) e = Add(a, eps) r = Sqrt(e) d = Div(x, r) z = Dropout(d) [rms] g = Mul(z, eta)
        [bn] k = BatchNormalization(z, s, b, m, v) y = Add(g, k) }"""
    model = with_weights(parsed(text, 18), v=np.full(6, 2.0), eta=3.0)
    session = Session.of(ir.from_proto(model), proving=False)
    assert {norm.name: norm.kind for norm in (*session.norms, *session.affines)} == {
        "rms": "ScaleNorm",  # its gain is one number
        "bn": "BatchNorm",
    }


LAID_OUT = {
    "Transpose": "t = Transpose<perm = [0, 2, 1]>(x) p = MatMul(t, w) a = Mul(s, p) b = Transpose<perm = [0, 2, 1]>(a)",
    "Reshape": "r = Reshape(x, flat) p = MatMul(r, w) a = Mul(p, s) z = Shape(x) b = Reshape(a, z)",
    "Cast": "p = MatMul(x, w) h = Cast<to = 1>(p) l = Cast<to = 11>(h) a = Mul(l, s) k = Cast<to = 1>(a) b = Cast<to = 11>(k)",
}


@pytest.mark.parametrize("lines", LAID_OUT.values(), ids=LAID_OUT)
def test_the_scale_of_a_branch_is_a_layer_scale_in_whatever_layout(lines: str) -> None:
    text = f"main (double[N,6,6] x) => (double[N,6,6] y) <double[6] s, double[6,6] w, int64[2] flat = {{{{-1, 6}}}}> {{{{ {lines} y = Add({{}}, b) }}}}"
    found = {
        other: [norm.variant for norm in Session.of(ir.from_proto(parsed(text.format(other))), proving=False).affines]
        for other in ("x", "b")
    }
    assert found == {"x": ["LayerScale"], "b": ["scale"]}


ATTENTION = """main (double[N,H,6,4] q, double[N,H,4,6] k, double[N,H,6,6] mask, bool[N,H,6,6] seen) => (double[J,K,L,M] y)
    <double factor, double[3,1,1] of_head, double[4,6] w, double low, int64[4] shape = {{0, 0, 0, 0}}> {{
    {} e = Add(b, mask) r = Reshape(e, shape) o = Where(seen, r, low) {} }}"""


@pytest.mark.parametrize(
    "scaled", ["b = Mul(p, factor)", "b = Div(p, factor)", "c = Cast<to = 11>(p) b = Mul(c, of_head)"]
)
def test_the_scale_of_attention_is_no_goal(scaled: str) -> None:
    """It scales a product of activations, and a Softmax reads the sum; either alone does not make it one of attention."""

    def variants(product: str, reader: str) -> list[str]:
        text = ATTENTION.format(f"p = MatMul(q, {product}) {scaled}", f"y = {reader}(o)").replace("N,H", "N,3")
        return [norm.variant for norm in Session.of(ir.from_proto(parsed(text)), proving=False).affines]

    assert variants("k", "Softmax") == []
    for product, reader in (("w", "Softmax"), ("k", "Sigmoid")):
        assert variants(product, reader) == ["LayerScale" if "of_head" in scaled else "SkipInit"]
