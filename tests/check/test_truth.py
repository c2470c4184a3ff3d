"""The float64 truth: onnx's own node data, and onnxruntime where onnx has none or is wrong."""

from __future__ import annotations

import math
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

from normswap.check import kernels
from normswap.check.truth import Evaluator, Noise, TruthUnavailable

# Operators with a definition of our own, whose onnx test data says what they should give.
OPERATORS = [
    "BatchNormalization", "Conv", "ConvTranspose", "DequantizeLinear", "Erf", "GRU", "Gelu", "GroupNormalization",
    "HardSwish", "InstanceNormalization", "LSTM", "LogSoftmax", "MeanVarianceNormalization",
    "Mish", "RNN", "Resize", "Softmax",
]  # fmt: skip


@pytest.fixture(scope="module")
def node_tests() -> list[TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx computes its data on import, overflows included
        return collect_testcases(None)


@pytest.mark.parametrize("operator", OPERATORS)
def test_onnx_node_data(node_tests, operator):
    """Every test that onnx has for the operator; its data is float32, or narrower."""
    ran = 0
    for case in node_tests:
        model = case.model
        if model is None or [node.op_type for node in model.graph.node] != [operator] or "training" in case.name:
            continue
        opset = {entry.domain: entry.version for entry in model.opset_import}[model.graph.node[0].domain]
        node = ir.from_proto(model).graph[0]
        for inputs, outputs in case.data_sets:
            arrays = [onnx.numpy_helper.to_array(i) if isinstance(i, onnx.TensorProto) else i for i in inputs]
            feeds = dict(zip([value.name for value in model.graph.input], arrays, strict=True))
            results = kernels.run(node, [feeds.get(name) for name in model.graph.node[0].input], opset)
            named = dict(zip(model.graph.node[0].output, results, strict=False))
            for value, expected in zip(model.graph.output, outputs, strict=True):
                tolerance = 1e-5 if expected.dtype == np.float32 else 1e-2
                np.testing.assert_allclose(
                    named[value.name], np.asarray(expected).astype(np.float64), tolerance, tolerance, err_msg=case.name
                )
                ran += 1
    assert ran


def agrees_with_onnxruntime(model: onnx.ModelProto, tolerance: float = 1e-5) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    feeds = {
        value.name: (
            generator.standard_normal(value.shape).astype(np.float32)
            if value.type == "tensor(float)"
            else np.array([3, 1, 4][: value.shape[0]], np.int32)
        )
        for value in session.get_inputs()
    }
    truth = Evaluator.open(ir.from_proto(model)).run(feeds)
    for ours, theirs in zip(truth, session.run(None, feeds), strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, theirs, tolerance, tolerance)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            """9]> g (float[2, 3, 4] x, float[3] s, float[3] b, float[3] m, float[3] r)
            => (float[2, 3, 4] y)
            { v = Abs(r)\n y = BatchNormalization(x, s, b, m, v) }""",
            id="BatchNormalization-9",
        ),
        pytest.param("11]> g (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = Softmax(x) }", id="Softmax-11"),
        pytest.param(
            "11]> g (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = LogSoftmax<axis = 2>(x) }",
            id="LogSoftmax-11",
        ),
        pytest.param(
            """17]> g (float[2, 4, 5, 6] x, float[4, 3, 3, 2] w, float[6] b)
            => (float[N, M, H, W] y)
            { y = ConvTranspose<group = 2, strides = [2, 1], pads = [1, 0, 0, 1], output_padding = [1, 0]>
                (x, w, b) }""",
            id="grouped ConvTranspose",
        ),
        pytest.param(
            """17]> g (float[2, 4, 9, 8] x, float[6, 2, 3, 2] w, float[6] b) => (float[N, M, H, W] y)
            { y = Conv<group = 2, strides = [2, 1], dilations = [1, 3], pads = [1, 0, 0, 2]>(x, w, b) }""",
            id="grouped Conv",
        ),
        pytest.param(
            """17]> g (float[2, 4, 9, 8] x, float[6, 4, 4, 3] w) => (float[N, M, H, W] y)
            { y = Conv<strides = [2, 1], auto_pad = "SAME_LOWER">(x, w) }""",
            id="padded Conv",
        ),
        pytest.param(
            """17]>
            g (float[5, 3, 2] x, float[2, 16, 2] w, float[2, 16, 4] r, float[2, 32] b, int32[3] n, float[2, 3, 4] h,
               float[2, 3, 4] c, float[2, 12] p) => (float[5, 2, 3, 4] y, float[2, 3, 4] last, float[2, 3, 4] cell)
            { y, last, cell = LSTM<hidden_size = 4, direction = "bidirectional", clip = 0.7, input_forget = 1>(
                x, w, r, b, n, h, c, p) }""",
            id="LSTM with lengths and peepholes",
        ),
        pytest.param(
            """17]> g (float[5, 3, 2] x, float[1, 12, 2] w, float[1, 12, 4] r, int32[3] n)
            => (float[5, 1, 3, 4] y, float[1, 3, 4] last)
            { y, last = GRU<hidden_size = 4, direction = "reverse", linear_before_reset = 1,
                activations = ["HardSigmoid", "LeakyRelu"], activation_alpha = [0.3, 0.2], activation_beta = [0.4]>(
                x, w, r, , n) }""",
            id="GRU with activations",
        ),
        pytest.param(
            """17]> g (float[5, 3, 2] x, float[1, 4, 2] w, float[1, 4, 4] r, int32[3] n)
            => (float[5, 1, 3, 4] y, float[1, 3, 4] last) { y, last = RNN<hidden_size = 4>(x, w, r, , n) }""",
            id="RNN with lengths",
        ),
        pytest.param(
            """18, "com.microsoft": 1]> g (float[2, 6] x, float[6] b, float[2, 6] z, float[6] s)
            => (float[2, 6] y) {
                a = com.microsoft.BiasGelu(x, b)
                d = com.microsoft.QuickGelu(a)
                e, m, i, f = com.microsoft.SkipLayerNormalization(d, z, s, b)
                y = com.microsoft.Gelu(f) }""",
            id="com.microsoft",
        ),
        pytest.param(
            """17]> g (float[2, 3] x) => (float[2, 3] y, float[4, 2, 3] all) {
                n = Constant<value = int64 {4}>()
                yes = Constant<value = bool {1}>()
                y, all = Loop(n, yes, x)
                <body = step (int64 i, bool go, float[2, 3] s) => (bool on, float[2, 3] t, float[2, 3] u) {
                    on = Identity(go)
                    t = Add(s, x)
                    u = Mul(s, t)
                }> }""",
            id="Loop that captures",
        ),
        pytest.param(
            """17]> g (float[3] s, float[2, 3, 5] x) => (float[3] last, float[3, 5] all) {
                zero = Constant<value = int64 {0}>()
                k = Gather(x, zero)
                last, all = Scan(s, k) <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
                    scan_input_directions = [1], body = step (float[3] c, float[3] v) => (float[3] d, float[3] e) {
                        d = Add(c, v)
                        e = Neg(d)
                    }> }""",
            id="Scan backwards",
        ),
        pytest.param(
            """17]> g (float[2, 3] x) => (float[2, 3] y) {
                total = ReduceSum<keepdims = 0>(x)
                zero = Constant<value = float {0.0}>()
                up = Greater(total, zero)
                y = If(up) <then_branch = a () => (float[2, 3] p) { p = Exp(x) },
                            else_branch = b () => (float[2, 3] q) { q = Neg(x) }> }""",
            id="If",
        ),
        pytest.param(
            """17, "own": 1]> g (float[2, 3] x) => (float[2, 3] y) { y = own.twice(x) }
            <opset_import: ["": 17], domain: "own"> twice (v) => (w) { w = Add(v, v) }""",
            id="local function",
        ),
        pytest.param(
            """13]> g (float[1, 2, 4, 5] x) => (float[1, 2, 9, 10] y) <float[4] s = {1, 1, 2.25, 2}> {
                y = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(x, , s) }""",
            id="Resize",
        ),
    ],
)
def test_against_onnxruntime(text):
    agrees_with_onnxruntime(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {text}'))


def test_erf():
    x = np.concatenate([np.linspace(-7, 7, 50_001), 10.0 ** np.arange(-20, 1), [np.inf, -np.inf, 0.0]])
    expected = np.vectorize(math.erf)(x)
    assert np.abs(kernels.erf(x) - expected).max() < 3e-16
    small = np.abs(x) < 1e-3
    np.testing.assert_allclose(kernels.erf(x[small]), expected[small], rtol=3e-16)
    assert np.isnan(kernels.erf(np.array([np.nan]))).all()


def test_float16_model_is_computed_in_float64(build):
    """16-bit storage does not show in the truth: 1 + 2⁻¹² is no float16."""
    model = build(
        '<ir_version: 8, opset_import: ["": 17]> g (float16[N] x, float16[N] z) => (float[N] y) '
        "{ s = Add(x, z)\n d = Cast<to = 10>(s)\n y = Cast<to = 1>(d) }"
    )
    feeds = {"x": np.array([1], np.float16), "z": np.array([2.0**-12], np.float16)}
    assert Evaluator.open(ir.from_proto(model)).run(feeds)[0] == 1 + 2.0**-12


@pytest.mark.parametrize("node", ["RandomNormalLike(x)", "nobody.Unknown(x)"])
def test_what_has_no_truth_is_named(build, node):
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17, "nobody": 1]> g (float[N] x) => (float[N] y) {{ [here] y = {node} }}'
    )
    with pytest.raises(TruthUnavailable, match="here"):
        Evaluator.open(ir.from_proto(model)).run({"x": np.zeros(3, np.float32)})


def test_noise_disturbs_what_is_rounded_and_nothing_else(build):
    model = build(
        """<ir_version: 8, opset_import: ["": 17]> g (float16[N, 4] x)
        => (float16[N, 4] moved, float16[N, 4] rounded, float s) {
            moved = Neg(x)
            rounded = Add(x, x)
            n = Shape(x)
            f = Cast<to = 1>(n)
            s = ReduceProd<keepdims = 0>(f)
        }"""
    )
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float16)
    evaluator = Evaluator.open(ir.from_proto(model))
    plain = evaluator.run({"x": x})
    noisy = evaluator.run({"x": x}, Noise(np.random.default_rng(0)))
    assert np.array_equal(plain[0], noisy[0])
    assert plain[2] == noisy[2] == 200
    relative = np.abs(noisy[1] / plain[1] - 1)
    spacing = float(np.finfo(np.float16).eps)
    assert spacing / 2 < relative.max() <= spacing


def test_another_value_of_the_same_name_in_the_other_branch_is_not_taken_for_what_is_known_better():
    """1/48 is known exactly in one branch; in the other the same name is a constant of its own."""
    text = """<ir_version: 10, opset_import: ["": 20]> g (bool b, float[2] x) => (float[2] y) { y = If (b) <
        then_branch = one () => (float[2] p) { c = Constant<value_float = 0.020833334>() p = Mul(x, c) },
        else_branch = two () => (float[2] q) { c = Constant<value_float = 3.0>() q = Mul(x, c) }> }"""
    evaluator = Evaluator.open(ir.from_proto(onnx.parser.parse_model(text)), {"c": lambda: np.asarray(1 / 48)})
    for condition, factor in ((True, 1 / 48), (False, 3.0)):
        (y,) = evaluator.run({"b": np.asarray(condition), "x": np.ones(2, np.float32)})
        np.testing.assert_array_equal(y, [factor, factor])
