"""Constant Affines move into the weights around them: what is left of the graph, its numbers, and what must not move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import normswap
from normswap.ledger import Conversion
from tests.graphs import AGREEMENT, disagreement, nodes, parsed, reasons, run, with_weights


def batch_norm(name: str, channels: int) -> str:
    """The declarations of the constants of a BatchNormalization called `name`."""
    return ", ".join(f"double[{channels}] {name}_{part}" for part in ("s", "b", "m", "v"))


def applied(name: str) -> str:
    """The inputs of a BatchNormalization called `name`, after its data."""
    return ", ".join(f"{name}_{part}" for part in ("s", "b", "m", "v"))


def proto(text: str, opset: int = 17, ir_version: int = 8, **weights: object) -> onnx.ModelProto:
    """The model of a text, in which every variance (a name that ends in _v) is positive."""
    model = parsed(text, opset, ir_version)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_v"):
            array = np.abs(onnx.numpy_helper.to_array(tensor)) + 0.1
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return with_weights(model, **weights)  # type: ignore[arg-type]


def folded(model: onnx.ModelProto, **options: object) -> Conversion:
    """`model` folded; whole runs before and after agree."""
    result = normswap.convert(model, "folded", check=False, **options)  # type: ignore[arg-type]
    assert isinstance(result.model, onnx.ModelProto)
    onnx.checker.check_model(result.model)
    assert max(disagreement(run(model), run(result.model)).values()) < AGREEMENT
    return result


def operators(result: Conversion) -> list[str]:
    """The operators of the result, in order, without constants."""
    return [node.op_type for node in nodes(result) if node.op_type != "Constant"]


def linear(producer: str, shape: str, out: str, weights: str, more: str = "") -> str:
    """A BatchNormalization behind one operator, and a Relu behind that."""
    return f"""main (double[{shape}] x) => (double[{out}] y) <{weights}, {batch_norm("bn", 6)}>
        {{ h = {producer} {more} k = BatchNormalization(h, {applied("bn")}) y = Relu(k) }}"""


B6 = batch_norm("bn", 6)
UP: Mapping[str, tuple[str, Sequence[str]]] = {
    "Conv 1-D": (linear("Conv(x, w)", "N,4,T", "N,6,U", "double[6,4,3] w"), ["Conv", "Relu"]),
    "Conv in groups, strided, padded": (
        linear(
            "Conv<group = 2, strides = [2, 2], pads = [1, 0, 2, 1]>(x, w, c)",
            "N,4,9,8",
            "N,6,H,W",
            "double[6,2,3,3] w, double[6] c",
        ),
        ["Conv", "Relu"],
    ),
    "Conv depthwise 3-D": (
        linear("Conv<group = 6>(x, w)", "N,6,4,5,3", "N,6,D,H,W", "double[6,1,2,2,2] w"),
        ["Conv", "Relu"],
    ),
    "ConvTranspose, strided": (
        linear("ConvTranspose<strides = [2]>(x, w)", "N,4,7", "N,6,U", "double[4,6,3] w"),
        ["ConvTranspose", "Relu"],
    ),
    "ConvTranspose and a bias": (
        linear("ConvTranspose(x, w)", "N,4,7", "N,6,U", "double[4,6,3] w, double[1,6,1] c", "g = Add(h, c)").replace(
            "BatchNormalization(h", "BatchNormalization(g"
        ),
        ["ConvTranspose", "Add", "Relu"],
    ),
    "Gemm": (
        linear("Gemm<alpha = 0.5, beta = 2.0, transB = 1>(x, w, c)", "N,4", "N,6", "double[6,4] w, double[6] c"),
        ["Gemm", "Relu"],
    ),
    "MatMul keeps the shift as an Add": (
        linear("MatMul(x, w)", "N,4", "N,6", "double[4,6] w"),
        ["MatMul", "Add", "Relu"],
    ),
    "MatMul and Add": (
        linear("MatMul(x, w)", "N,4", "N,6", "double[4,6] w, double[6] c", "g = Add(c, h)").replace(
            "BatchNormalization(h", "BatchNormalization(g"
        ),
        ["MatMul", "Add", "Relu"],
    ),
    "an embedding": (
        f"""main (int64[N,T] x) => (double[N,6,T] y) <double[9,6] w, {B6}>
        {{ h = Gather(w, x) t = Transpose<perm = [0, 2, 1]>(h) k = BatchNormalization(t, {applied("bn")}) y = Relu(k) }}""",
        ["Gather", "Transpose", "Relu"],
    ),
    "each piece of a Concat": (
        f"""main (double[N,4,T] x) => (double[N,6,T] y) <double[2,4,1] v, double[4,4,1] w, {B6}> {{
            a = Conv(x, v) b = Conv(x, w) h = Concat<axis = 1>(a, b)
            k = BatchNormalization(h, {applied("bn")}) y = Relu(k) }}""",
        ["Conv", "Conv", "Concat", "Relu"],
    ),
    "both branches of a sum": (
        f"""main (double[N,4,T] x) => (double[N,6,T] y) <double[6,4,1] v, double[6,4,3] w, {B6}> {{
            a = Conv(x, v) b = Conv<pads = [1, 1]>(x, w) h = Add(a, b)
            k = BatchNormalization(h, {applied("bn")}) y = Relu(k) }}""",
        None,
    ),
    "arithmetic, and a BatchNormalization": (
        linear(
            "Conv(x, w)",
            "N,4,T",
            "N,6,U",
            "double[6,4,1] w, double[6,1] r, double[6,1] d, double[6,1] e",
            "g = Div(h, r) i = Sub(g, d) j = Mul(i, e)",
        ).replace("BatchNormalization(h", "BatchNormalization(j"),
        ["Conv", "Relu"],
    ),
    "BN(x) + x (RepBN)": (
        f"""main (double[N,4,T] x) => (double[N,6,T] y) <double[6,4,1] w, double eta, {B6}> {{
            h = Conv(x, w) k = BatchNormalization(h, {applied("bn")}) e = Mul(h, eta) r = Add(k, e) y = Relu(r) }}""",
        ["Conv", "Relu"],
    ),
}


@pytest.mark.parametrize("case", UP)
def test_up(case: str) -> None:
    text, expected = UP[case]
    result = folded(proto(text))
    assert "BatchNormalization" not in operators(result)
    assert result.after.norms == {}
    assert result.refused == ()
    if expected is not None:
        assert operators(result) == expected


DOWN: Mapping[str, tuple[str, Sequence[str]]] = {
    "Conv without padding": (
        f"""main (double[N,6,T] x) => (double[N,4,U] y) <double[4,3,2] w, double[4] c, {B6}>
        {{ k = BatchNormalization(x, {applied("bn")}) y = Conv<group = 2>(k, w, c) }}""",
        ["Conv"],
    ),
    "zero-padded Conv keeps the shift": (
        f"""main (double[N,6,T] x) => (double[N,4,U] y) <double[4,6,3] w, double[4] c, {B6}>
        {{ k = BatchNormalization(x, {applied("bn")}) y = Conv<pads = [1, 1]>(k, w, c) }}""",
        ["Add", "Conv"],
    ),
    "three products": (
        f"""main (double[N,6] x) => (double[N,4] q, double[N,4] k, double[N,4] v)
        <double[6,4] wq, double[6,4] wk, double[4,6] wv, double[4] cq, double[4] cv, {B6}> {{
            n = BatchNormalization(x, {applied("bn")})
            a = MatMul(n, wq) q = Add(a, cq) k = Gemm(n, wk) v = Gemm<transB = 1>(n, wv, cv) }}""",
        ["MatMul", "Add", "Gemm", "Gemm"],
    ),
    "LSTM": (
        f"""main (double[T,6,N] x) => (double[N,2,T,3] y) <double[2,12,6] w, double[2,12,3] r, {B6}> {{
            k = BatchNormalization(x, {applied("bn")}) t = Transpose<perm = [2, 0, 1]>(k)
            y = LSTM<hidden_size = 3, direction = "bidirectional">(t, w, r) }}""",
        ["Transpose", "LSTM"],
    ),
    "pooled and flattened": (
        f"""main (double[N,6,H,W] x) => (double[N,4] y) <double[6,4] w, {B6}> {{
            k = BatchNormalization(x, {applied("bn")}) p = GlobalAveragePool(k) f = Flatten(p) y = Gemm(f, w) }}""",
        ["GlobalAveragePool", "Flatten", "Gemm"],
    ),
    "another BatchNormalization": (
        f"""main (double[N,6,T] x) => (double[N,6,T] y) <{B6}, {batch_norm("o", 6)}> {{
            k = BatchNormalization(x, {applied("bn")}) l = BatchNormalization(k, {applied("o")}) y = Relu(l) }}""",
        ["BatchNormalization", "Relu"],
    ),
    "the gain and bias of a LayerNorm": (
        """main (double[N,S,6] x) => (double[N,S,4] q, double[N,S,4] k) <double[6] g, double[6] b, double[6,4] wq, double[6,4] wk,
        double[4] cq, double[4] ck> {
            n = LayerNormalization(x, g, b) a = MatMul(n, wq) q = Add(a, cq) d = MatMul(n, wk) k = Add(d, ck) }""",
        ["LayerNormalization", "MatMul", "Add", "MatMul", "Add"],
    ),
    "a uniform scale into epsilon": (
        """main (double[N,S,6] x) => (double[N,S,6] y) <double[6] s, double[6] g, double[6] b>
        { h = Tanh(x) m = Mul(h, s) y = LayerNormalization(m, g, b) }""",
        ["Tanh", "LayerNormalization"],
    ),
}


@pytest.mark.parametrize("case", DOWN)
def test_down(case: str) -> None:
    text, expected = DOWN[case]
    uniform = {"s": np.full(6, -3.0)} if "epsilon" in case else {}
    result = folded(proto(text, **uniform))
    assert operators(result) == expected


def test_of_a_folded_layer_norm_gain_and_bias_are_gone() -> None:
    result = folded(proto(DOWN["the gain and bias of a LayerNorm"][0]))
    node = nodes(result)[0]
    gain = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer}[node.input[1]]
    assert (gain == 1).all()
    assert len(node.input) == 2


# --- what must not move ---------------------------------------------------------------------------------------------


def behind(operator: str, more: str = "", outputs: str = "double[N,4,U] y") -> str:
    return f"""main (double[N,6,T] x) => ({outputs}) <double[4,6,3] w, {B6}>
        {{ t = Tanh(x) k = BatchNormalization(t, {applied("bn")}) {operator} {more} }}"""


TRAPS = {
    "a rectifier": (behind("y = Relu(k)", outputs="double[N,6,T] y"), "negative-scale"),
    "an output": (behind("z = Identity(k) y = Conv(k, w)", outputs="double[N,6,T] z, double[N,4,U] y"), "graph-output"),
    "a mean over the channels": (behind("y = ReduceMean<axes = [1]>(k)", outputs="double[N,1,T] y"), "foreign-reader"),
    "an activation": (behind("y = Sigmoid(k)", outputs="double[N,6,T] y"), "foreign-reader"),
}


@pytest.mark.parametrize("case", TRAPS)
def test_left_as_it_is(case: str) -> None:
    text, reason = TRAPS[case]
    model = proto(text)
    result = folded(model)
    assert result.model == model
    assert list(reasons(result).values()) == [reason]


@pytest.mark.parametrize("norm", ["RMSNormalization(x, g)", "LayerNormalization<axis = -2>(x, g, b)"])
def test_a_gain_of_ones_and_a_bias_of_zeros_are_nothing_to_move(norm: str) -> None:
    text = f"main (double[N,2,6] x) => (double[N,2,6] y) <double[2,6] g, double[2,6] b> {{ n = {norm} y = Tanh(n) }}"
    model = proto(text.replace("[2,6] g", "[6] g") if "RMS" in norm else text, 23, 11)
    model = with_weights(model, g=np.ones((2, 6)[-1:] if "RMS" in norm else (2, 6)), b=np.zeros((2, 6)))
    result = folded(model)
    assert result.model == model
    assert result.refused == ()


def test_a_norm_that_nobody_reads_stays_and_takes_no_other_along() -> None:
    text = f"""main (double[N,6] x) => (double[N,6] y) <double[6] g, double[6] b, double[6] c, {B6}> {{
        y = Tanh(x) n = LayerNormalization(x, g, b) a = Add(n, c) k = BatchNormalization(a, {applied("bn")}) }}"""
    result = folded(proto(text))
    assert operators(result) == ["Tanh", "LayerNormalization", "Add", "BatchNormalization"]
    assert result.refused == ()


def test_a_norm_that_would_need_another_epsilon_does_not_read_a_changed_value_by_the_way() -> None:
    text = f"""main (double[N,1,6] x, bool b) => (double[N,1,6] y) <double[6] w, double r, double[1] g, double[1] c, {batch_norm("bn", 1)}> {{
        t = Tanh(x) h = Mul(t, w) y = If (b) <
            then_branch = first () => (double[N,1,6] p) {{ p = InstanceNormalization(h, g, c) }},
            else_branch = second () => (double[N,1,6] q) {{ k = BatchNormalization(h, {applied("bn")}) m = Mul(h, r) q = Add(k, m) }}
        > }}"""
    result = folded(proto(text))
    assert "proof-failed" not in reasons(result).values()


def test_what_was_left_of_an_affine_and_then_taken_into_another_is_not_looked_for() -> None:
    text = f"""main (double[3,1,T] x) => (double[3,1,T] y) <double[3,1,1] a, double[3,1,1] b, double[3,1,1] c, {batch_norm("bn", 1)}> {{
        h = Tanh(x) s = Sub(h, a) k = BatchNormalization(s, {applied("bn")}) d = Div(k, b) y = Sub(d, c) }}"""
    result = folded(proto(text))
    assert operators(result) == ["Tanh", "Mul", "Add"]


def test_an_affine_is_what_its_numbers_are_along_not_its_shape() -> None:
    text = """main (double[N,6,4] x) => (double[N,8,4] y) <double[8,3,1] w, double[4] row, double[6,1] g, double[6,4] c> {
        m = Mul(x, g) a = Add(m, c) r = Mul(a, row) y = Conv<group = 2>(r, w) }"""
    result = folded(proto(text, row=np.full(4, 2.0), c=np.zeros((6, 4))))
    assert operators(result) == ["Conv"]


def test_two_that_disagree_on_one_producer_are_left() -> None:
    text = f"""main (double[N,4,T] x) => (double[N,6,U] y, double[N,6,U] z) <double[6,4,3] w, {B6}, {batch_norm("o", 6)}> {{
        h = Conv(x, w) a = BatchNormalization(h, {applied("bn")}) b = BatchNormalization(h, {applied("o")})
        y = Relu(a) z = Relu(b) }}"""
    assert len(reasons(folded(proto(text)))) == 2


def test_two_that_agree_on_one_producer_fold_at_once() -> None:
    text = f"""main (double[N,4,T] x) => (double[N,6,U] y, double[N,6,U] z) <double[6,4,3] w, {B6}> {{
        h = Conv(x, w) a = BatchNormalization(h, {applied("bn")}) b = BatchNormalization(h, {applied("bn")})
        y = Relu(a) z = Sigmoid(b) }}"""
    assert operators(folded(proto(text))) == ["Conv", "Relu", "Sigmoid"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bn_v": -np.ones(6)}, "invalid-statistics"),
        ({"bn_v": np.full(6, np.nan)}, "invalid-statistics"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(change: dict[str, np.ndarray], reason: str) -> None:
    result = normswap.convert(proto(UP["Conv 1-D"][0], **change), "folded", check=False)
    assert set(reasons(result).values()) == {reason}


def test_training_mode_is_refused() -> None:
    text = linear("Conv(x, w)", "N,4,T", "N,6,U", "double[6,4,3] w").replace(
        "BatchNormalization(", "BatchNormalization<training_mode = 1>("
    )
    text = text.replace("k = Batch", "k, running_mean, running_var = Batch")
    result = normswap.convert(proto(text), "folded", check=False)
    assert set(reasons(result).values()) == {"training-mode"}


@pytest.mark.parametrize(("ir_version", "reason"), [(3, None), (8, "overridable-initializer")])
def test_initializers_that_are_inputs_are_constants_up_to_ir_3(ir_version: int, reason: str | None) -> None:
    model = parsed(UP["Conv 1-D"][0], 7 if ir_version == 3 else 17, ir_version, weights_are_inputs=True)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_v"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(6), tensor.name))
    result = normswap.convert(model, "folded", check=False)
    assert set(reasons(result).values()) == ({reason} if reason else set())
    assert bool(result.rewrites) == (reason is None)


def test_run_time_parameters_are_refused() -> None:
    text = (
        linear("Conv(x, w)", "N,4,T", "N,6,U", "double[6,4,3] w")
        .replace("double[N,4,T] x)", "double[N,4,T] x, double[6] live)")
        .replace("bn_m, bn_v)", "live, bn_v)")
    )
    result = normswap.convert(proto(text), "folded", check=False)
    assert set(reasons(result).values()) == {"runtime-parameter"}


# --- shared, narrow, quantized --------------------------------------------------------------------------------------

SHARED = f"""main (double[N,4] x, double[N,4] z) => (double[N,6] y, double[N,6] u) <double[4,6] w, double[6] c, {B6}, {batch_norm("o", 6)}> {{
    h = Gemm(x, w, c) k = BatchNormalization(h, {applied("bn")}) y = Relu(k)
    g = Gemm(z, w, c) l = BatchNormalization(g, {applied("OTHER")}) u = Relu(l) }}"""


def test_a_shared_weight_is_replaced_once_where_all_its_readers_agree() -> None:
    result = folded(proto(SHARED.replace("OTHER", "bn")))
    gemms = [node for node in nodes(result) if node.op_type == "Gemm"]
    assert len({node.input[1] for node in gemms}) == 1
    assert result.after.bytes < result.before.bytes


def test_a_shared_weight_is_copied_where_that_is_cheaper_and_never_edited() -> None:
    result = folded(proto(SHARED.replace("OTHER", "o")))
    assert operators(result) == ["Gemm", "Relu", "Gemm", "Relu"]
    assert len({node.input[1] for node in nodes(result) if node.op_type == "Gemm"}) == 2


def test_a_copy_that_costs_more_than_it_saves_is_made_only_where_the_model_may_grow() -> None:
    text = """main (double[1,2000] x, double[1,2000] z) => (double[1,6] y, double[1,2000] q) <double[2000,2000] w, double[2000,6] v, double[2000] g>
        { h = MatMul(x, w) k = Mul(h, g) y = MatMul(k, p) q = MatMul(z, w) }"""
    text = text.replace("y = MatMul(k, p)", "t = Tanh(k) y = MatMul(t, v)")
    assert reasons(folded(proto(text))) == {"k": "shared-weights"}
    assert "Mul" not in operators(folded(proto(text), allow_larger=True))


DEAD_CHANNEL = f"""main (double[N,6,16,16] x) => (double[N,4,H,W] y) <double[4,6,3,3] w, double[4] c, {B6}>
    {{ t = Tanh(x) k = BatchNormalization(t, {applied("bn")}) h = Conv<pads = [1, 1, 1, 1], dilations = [1, 1]>(k, w, c) y = Relu(h) }}"""


def test_behind_a_dead_channel_only_a_map_of_the_border_is_exact_and_it_makes_the_model_larger() -> None:
    gains = np.asarray([0.0, 1.0, -2.0, 0.5, 3.0, 1.5])
    model = proto(DEAD_CHANNEL.replace("16,16]", "136,136]"), bn_s=gains)
    assert operators(folded(model)) == ["Tanh", "BatchNormalization", "Conv", "Relu"]
    larger = folded(model, allow_larger=True)
    assert operators(larger) == ["Tanh", "Conv", "Add", "Relu"]
    assert larger.after.bytes > larger.before.bytes + 8 * 4 * 136 * 136 - 8 * 30


HALF = f"""main (float16[N,4] x) => (float16[N,6] y) <float16[4,6] w, float16[6] c, {batch_norm("bn", 6).replace("double", "float")}> {{
    h = Gemm(x, w, c) f = Cast<to = 1>(h) k = BatchNormalization(f, {applied("bn")}) d = Cast<to = 10>(k) y = Relu(d) }}"""


def test_a_float16_weight_takes_a_float32_batch_norm_in_and_says_how_large_it_became() -> None:
    result = normswap.convert(proto(HALF), "folded", check=False)
    assert "BatchNormalization" not in operators(result)
    weight = next(tensor for tensor in result.model.graph.initializer if tensor.name == "w")
    assert weight.data_type == onnx.TensorProto.FLOAT16
    assert "max |W|" in result.rewrites[0].detail


def test_what_would_overflow_in_float16_is_refused_alone() -> None:
    model = proto(HALF, bn_v=np.full(6, 1e-12), bn_s=np.full(6, 1e6))
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.append(onnx.helper.make_attribute("epsilon", 1e-12))
    result = normswap.convert(model, "folded", check=False)
    assert set(reasons(result).values()) == {"not-finite"}
    assert operators(result) == ["Gemm", "Cast", "Mul", "Cast", "Relu"]  # the bias went, the gain could not


QUANTIZED = f"""main (float[N,4,T] x) => (float[N,6,U] y) <int8[6,4,1] q, float[6] d, {batch_norm("bn", 6).replace("double", "float")}> {{
    w = DequantizeLinear<axis = 0>(q, d) h = Conv(x, w) k = BatchNormalization(h, {applied("bn")}) y = Relu(k) }}"""


@pytest.mark.parametrize("positive", [True, False])
def test_a_quantized_weight_takes_positive_gains_into_its_scales(positive: bool) -> None:
    gains = np.linspace(0.5, 2.0, 6) * (1 if positive else -1)
    result = normswap.convert(proto(QUANTIZED, 19, bn_s=gains), "folded", check=False)
    assert operators(result)[:2] == ["DequantizeLinear", "Conv"]
    if positive:
        assert operators(result) == ["DequantizeLinear", "Conv", "Relu"]
        before, after = run(proto(QUANTIZED, 19, bn_s=gains)), run(result.model)
        assert max(disagreement(before, after).values()) < 1e-6  # float32
        kept = next(tensor for tensor in result.model.graph.initializer if tensor.name == "q")
        assert kept.data_type == onnx.TensorProto.INT8
    else:
        assert "quantized-weights" in reasons(result).values()


# --- wherever it is -------------------------------------------------------------------------------------------------


def test_inside_a_branch_with_weights_from_outside() -> None:
    text = f"""main (double[N,4] x, bool b) => (double[N,6] y) <double[4,6] w, double[6] c, {B6}> {{
        y = If (b) <
            then_branch = first () => (double[N,6] p) {{ h = Gemm(x, w, c) k = BatchNormalization(h, {applied("bn")}) p = Relu(k) }},
            else_branch = second () => (double[N,6] q) {{ g = Gemm(x, w, c) q = Relu(g) }}
        > }}"""
    result = folded(proto(text))
    assert result.after.norms == {}


def test_two_targets_in_a_row_round_once() -> None:
    text = """main (float[N,S,4] x) => (float[N,S,4] y) <float[4,6] w, float[6] g, float[6] b, float[6,4] v, float[4] c>
        { h = MatMul(x, w) n = LayerNormalization(h, g, b) m = MatMul(n, v) y = Add(m, c) }"""
    result = normswap.convert(proto(text), ["folded", "rmsnorm"])
    assert result.after.norms == {"RMSNorm": 1}
    assert result.check is not None
    assert result.check.verdict == "pass"
    assert [output.float64_difference < 1e-12 for output in result.check.outputs] == [True]


def test_a_gain_that_is_gone_stays_as_wide_as_the_axis() -> None:
    """With one element it broadcasts, by the operator's definition; onnxruntime's fusion with an Add does not take it."""
    result = folded(proto(DOWN["the gain and bias of a LayerNorm"][0]))
    assert isinstance(result.model, onnx.ModelProto)
    gain = next(tensor for tensor in result.model.graph.initializer if tensor.name == nodes(result)[0].input[1])
    assert list(gain.dims) == [6]


def test_a_tied_embedding_is_not_stored_twice_for_a_gain() -> None:
    text = """main (int64[N,S] ids) => (double[N,S,3000] y) <double[3000,8] table, double[8] g> {
        x = Gather(table, ids) t = Tanh(x) n = LayerNormalization(t, g)
        head = Transpose<perm = [1, 0]>(table) y = MatMul(n, head) }"""
    result = folded(proto(text.replace("double[N,S,3000] y", "double[1,1,3000] y").replace("int64[N,S]", "int64[1,1]")))
    assert result.after.bytes == result.before.bytes
    assert set(reasons(result).values()) == {"shared-weights"}


def test_a_norm_that_is_left_out_takes_nothing_in() -> None:
    text = f"""main (double[N,6,T] x) => (double[N,6,T] y) <{B6}, {batch_norm("o", 6)}> {{
        t = Tanh(x) [first] k = BatchNormalization(t, {applied("bn")}) [second] l = BatchNormalization(k, {applied("o")}) y = Relu(l) }}"""
    model = proto(text)
    assert folded(model, exclude="second").model == model
    assert folded(model, only="first").model == model
    assert operators(folded(model)) == ["Tanh", "BatchNormalization", "Relu"]


def test_an_output_that_a_weight_delivers_now_keeps_its_type_and_what_is_said_of_it(tmp_path: Path) -> None:
    """Converted from a file, the result is the model in memory, whose output was the BatchNormalization's."""
    text = """main (float[N,4,H,W] x) => (float[N,4,H,W] y) <float[4,4,1,1] w, float[4] s, float[4] b, float[4] m, float[4] v> {
        h = Conv(x, w) y = BatchNormalization(h, s, b, m, v) }"""
    model = with_weights(parsed(text), v=np.ones(4))
    model.graph.quantization_annotation.add(tensor_name="y").quant_parameter_tensor_names.add(key="SCALE", value="w")
    onnx.save(model, tmp_path / "model.onnx")
    result = normswap.convert(tmp_path / "model.onnx", "folded")
    assert isinstance(result.model, ir.Model)
    assert result.check is not None
    assert result.check.verdict == "pass"
    assert ir.to_proto(result.model).graph.output[0].type == model.graph.output[0].type
    result.save(tmp_path / "out.onnx")
    saved = onnx.load(tmp_path / "out.onnx").graph
    assert [node.op_type for node in saved.node] == ["Conv"]
    assert (saved.output, saved.quantization_annotation) == (model.graph.output, model.graph.quantization_annotation)


def test_a_large_float32_weight_that_would_overflow_is_refused_before_it_is_written() -> None:
    text = """main (float[1,512,1,1] x) => (float[1,512,1,1] y) <float[512,512,1,1] w, float[512] s, float[512] b, float[512] m, float[512] v> {
        h = Conv(x, w) y = BatchNormalization(h, s, b, m, v) }"""
    model = with_weights(parsed(text), v=np.ones(512), s=np.full(512, 3e38))
    result = normswap.convert(model, "folded", check=False)
    assert "not-finite" in reasons(result).values()
    assert isinstance(result.model, onnx.ModelProto)
    assert all(np.isfinite(onnx.numpy_helper.to_array(tensor)).all() for tensor in result.model.graph.initializer)


def test_patterns_may_name_what_an_earlier_target_folded_away() -> None:
    text = UP["Conv 1-D"][0].replace("h = Conv", "[conv] h = Conv").replace("k = Batch", "[bn] k = Batch")
    result = normswap.convert(proto(text), ["folded", "weightnorm"], only=["bn", "conv"], check=False)
    assert result.after.norms == {"WeightNorm": 1}


def test_a_target_between_others_is_applied_each_time() -> None:
    result = normswap.convert(proto(UP["Conv 1-D"][0]), ["folded", "weightnorm", "folded"], check=False)
    assert result.after.norms == {}


def test_a_batch_norm_that_changes_nothing_is_removed() -> None:
    text = UP["Conv 1-D"][0].replace("BatchNormalization(", "BatchNormalization<epsilon = 0.0>(")
    ones, zeros = np.ones(6), np.zeros(6)
    result = folded(proto(text, bn_s=ones, bn_v=ones, bn_b=zeros, bn_m=zeros))
    assert operators(result) == ["Conv", "Relu"]


def test_a_mask_of_infinities_is_no_failure_of_a_proof() -> None:
    text = f"""main (double[N,4,T] x) => (double[N,6,T] y) <double[6,4,1] w, double[6,1] mask, {B6}> {{
        h = Conv(x, w) m = Add(h, mask) k = BatchNormalization(m, {applied("bn")}) y = Relu(k) }}"""
    mask = np.asarray([0.0, 0.0, -np.inf, 0.0, 0.0, 0.0])[:, None]
    result = normswap.convert(proto(text, mask=mask, bn_s=np.ones(6)), "folded", check=False)
    assert "proof-failed" not in reasons(result).values()


def test_an_output_is_not_delivered_without_its_gain_and_bias_even_if_it_may_change() -> None:
    text = f"main (double[N,6,T] x) => (double[N,6,T] y) <{B6}> {{ y = BatchNormalization(x, {applied('bn')}) }}"
    result = normswap.convert(proto(text), "folded", allow_changed_outputs="y", check=False)
    assert operators(result) == ["BatchNormalization"]


def test_a_border_map_does_not_rest_on_sizes_that_only_happen_to_agree() -> None:
    """Behind an average in strides of 3, the 3 and the 5 positions of the two bindings were both 1 or 2."""
    text = f"""main (double[1,1,N] x) => (double[1,2,U] y) <double[3,1,2] w, double[2,3,3] v, {batch_norm("bn", 3)}> {{
        h = Conv<dilations = [2]>(x, w) p = AveragePool<auto_pad = "SAME_LOWER", kernel_shape = [3], strides = [3]>(h)
        t = Tanh(p) k = BatchNormalization(t, {applied("bn")}) c = Conv<auto_pad = "SAME_LOWER", strides = [2]>(k, v)
        y = Tanh(c) }}"""
    for gains in (np.asarray([0.0, 1.0, -1.0]), np.asarray([0.5, 1.0, -1.0])):
        model = proto(text, bn_s=gains)
        result = normswap.convert(model, "folded", check=False, allow_larger=True)
        for size in (4, 7, 9, 13):
            given = {"x": np.random.default_rng(size).normal(size=(1, 1, size))}
            assert max(disagreement(run(model, given), run(result.model, given)).values()) < AGREEMENT


def test_a_border_map_needs_no_static_size_but_its_own() -> None:
    text = f"""main (double[1,3,5] x, double[N,T] z) => (double[1,2,5] y, double[N,T] u) <double[2,3,3] v, {batch_norm("bn", 3)}> {{
        t = Tanh(x) k = BatchNormalization(t, {applied("bn")}) y = Conv<pads = [1, 1]>(k, v) u = Tanh(z) }}"""
    model = proto(text, bn_s=np.asarray([0.0, 1.0, -1.0]))
    result = normswap.convert(model, "folded", check=False, allow_larger=True)
    assert operators(result) == ["Tanh", "Conv", "Add", "Tanh"]


@pytest.mark.parametrize(("axes", "kind"), [("[2, 3]", "InstanceNorm"), ("[1]", "LayerNorm")])
def test_an_affine_of_a_decomposed_norm_of_an_image(axes: str, kind: str) -> None:
    """Whatever the norm is called: what is per channel goes into the weight behind it."""
    result = folded(
        proto(f"""main (double[N,4,5,7] x) => (double[N,6,5,7] y)
        <double[8,4,1,1] w, double[8,1,1] g, double[8,1,1] b, double[6,8,1,1] v, double eps = {{1e-5}}> {{
            h = Conv(x, w) m = ReduceMean<axes = {axes}>(h) d = Sub(h, m) q = Mul(d, d) a = ReduceMean<axes = {axes}>(q)
            e = Add(a, eps) s = Sqrt(e) u = Div(d, s) k = Mul(u, g) z = Add(k, b) y = Conv(z, v) }}""")
    )
    assert result.before.norms == {kind: 1}
    assert [item.rule for item in result.rewrites if item.rule.startswith("affine")] == ["affine-down"]
    assert isinstance(result.model, onnx.ModelProto)
    assert {"g", "b"}.isdisjoint(tensor.name for tensor in result.model.graph.initializer)


LENGTH = """main (double[N,T,8] x) => (double[N,T,6] y) <double[8,6] w, double k = {{3}}> {{
    l = ReduceL2<axes = [-1]>(x) u = Div(x, l) {rest} }}"""


def test_the_number_of_a_scale_norm_goes_and_leaves_an_rms_norm() -> None:
    result = folded(proto(LENGTH.format(rest="z = Mul(u, k) y = MatMul(z, w)")))
    assert (result.before.norms, result.after.norms) == ({"ScaleNorm": 1}, {"RMSNorm": 1})
    assert "affine-down" in {item.rule for item in result.rewrites}


def test_the_length_of_an_l2_norm_is_no_gain() -> None:
    result = folded(proto(LENGTH.format(rest="y = MatMul(u, w)")))
    assert (result.rewrites, result.refused, result.after.norms) == ((), (), {"L2Norm": 1})


def test_the_gain_of_a_norm_over_channels_leaves_ones_along_the_channels() -> None:
    text = """main (double[N,6,1] x) => (double[N,4,1] y) <double[6,1] g, double[4,6,1] w, double eps = {0.1}> {
        m = ReduceMean<axes = [1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes = [1]>(q) e = Add(v, eps)
        r = Sqrt(e) z = Div(d, r) [norm] n = Mul(z, g) y = Conv(n, w) }"""
    result = folded(proto(text))
    assert [rewrite.site for rewrite in result.rewrites if rewrite.rule == "affine-down"] == ["norm"]
    assert result.refused == ()
