"""Computed weights: named by what the chain computes, however it is spelled, and folded to what it computes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from normswap.computed import ComputedWeight, computed_weights
from normswap.ledger import Refusal
from normswap.plain_weights import Folding, fold_computed
from tests.graphs import AGREEMENT, Floats, Scenario, disagreement, drawn, parsed, run, scenario, with_weights

SHAPE = (4, 3, 3, 3)
CONV, GEMM = "y = Conv(x, w)", "y = Gemm(x, w)"
# ε as the models here write it, in float64.
EPSILON = 1e-5
NUMBERS = f"double half = {{0.5}}, double two = {{2}}, double n = {{27}}, double less = {{26}}, double eps = {{{EPSILON}}}, double tiny = {{1e-12}}"
SIZES = (
    "int64[3] channels = {1, 4, -1}, int64[4] whole = {4, 3, 3, 3}, int64[2] rows = {4, -1}, int64[2] last = {-1, 4}"
)


def model(
    body: str, weights: str = "double[4,3,3,3] v, double[4,1,1,1] g", reads: str = CONV, opset: int = 17
) -> onnx.ModelProto:
    """A model that computes the weight w of one operator."""
    x, y = ("double[2,3,6,6]", "double[2,4,4,4]") if "Conv" in reads else ("double[2,5]", "double[2,4]")
    return parsed(f"main ({x} x) => ({y} y) <{weights}, {NUMBERS}, {SIZES}> {{ {body} {reads} }}", opset)


def only(proto: onnx.ModelProto) -> tuple[Scenario, ComputedWeight]:
    """The one weight that a model computes."""
    told = scenario(proto)
    (weight,) = computed_weights(told.model, told.facts)
    return told, weight


def folded(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Folding]:
    """The model with all its weights folded, which computes what it did."""
    told = scenario(proto)
    folding = fold_computed(told.facts, computed_weights(told.model, told.facts))
    result = ir.to_proto(told.model)
    onnx.checker.check_model(result, full_check=True)
    apart = disagreement(run(proto), run(result))
    assert max(apart.values()) <= AGREEMENT
    return result, folding


def norm(x: Floats, axes: tuple[int, ...]) -> Floats:
    return np.sqrt((x * x).sum(axis=axes, keepdims=True))


def deviation(x: Floats, sample: int = 0) -> Floats:
    return x.std(axis=(1, 2, 3), ddof=sample, keepdims=True)


def centered(x: Floats) -> Floats:
    return np.asarray(x - x.mean(axis=(1, 2, 3), keepdims=True))


V, G = drawn("v", SHAPE), drawn("g", (4, 1, 1, 1))


@dataclass(frozen=True)
class Case:
    """How a weight is spelled, and what it is."""

    body: str
    kind: str | None
    axes: tuple[int, ...]
    weight: Callable[[], Floats]
    weights: str = "double[4,3,3,3] v, double[4,1,1,1] g"
    reads: str = CONV
    opset: int = 17
    epsilon: float = 0.0
    variant: str = ""
    scale: str = field(default="constant")


ROWS, ALL = (1, 2, 3), (0, 1, 2, 3)
MEAN = "m = ReduceMean<axes = [1, 2, 3]>(v) c = Sub(v, m)"
VARIANCE = f"{MEAN} q = Mul(c, c) s = ReduceMean<axes = [1, 2, 3]>(q)"
SAMPLE = f"{MEAN} q = Mul(c, c) p = ReduceSum(q, spatial) s = Div(p, less)"
SPATIAL = "int64[3] spatial = {1, 2, 3}"
NORM = {
    "torch": "l = ReduceL2<axes = [1, 2, 3], keepdims = 1>(v)",
    "squares": "q = Mul(v, v) t = ReduceSum(q, spatial) l = Sqrt(t)",
    "powers": "q = Pow(v, two) t = ReduceSum(q, spatial) l = Pow(t, half)",
    "reshaped": "r = Reshape(v, rows) k = ReduceL2<axes = [1], keepdims = 0>(r) u = Unsqueeze(k, spatial) l = Identity(u)",
    "in two steps": "k = ReduceSumSquare<axes = [2, 3]>(v) t = ReduceSum(k, second) l = Sqrt(t)",
    "by a product": "r = Reshape(v, rows) p = Transpose<perm = [1, 0]>(r) h = MatMul(r, p) e = EyeLike(h) d = Mul(h, e) k = ReduceSum(d, second) o = Sqrt(k) l = Unsqueeze(o, planes)",
}
WITH_AXES = f"double[4,3,3,3] v, double[4,1,1,1] g, {SPATIAL}, int64[1] second = {{1}}, int64[2] planes = {{2, 3}}"
WEIGHT_NORMS = {
    f"norm by {name}": Case(f"{body} d = Div(v, l) w = Mul(d, g)", "WeightNorm", ROWS, lambda: G * V / norm(V, ROWS), WITH_AXES)
    for name, body in NORM.items()
    if name != "by a product"
} | {
    "a matrix product for the squares": Case(
        NORM["by a product"].replace("d = Mul(h, e)", "i = Mul(h, e)").replace("ReduceSum(d", "ReduceSum(i") + " a = Div(v, l) w = Mul(a, g)",
        "WeightNorm", ROWS, lambda: G * V / norm(V, ROWS), WITH_AXES,
    ),
    "the gain first": Case("l = ReduceL2<axes = [1, 2, 3]>(v) k = Div(g, l) w = Mul(k, v)", "WeightNorm", ROWS, lambda: G * V / norm(V, ROWS)),
    "a gain that is computed": Case("l = ReduceL2<axes = [1, 2, 3]>(v) e = Exp(g) k = Div(e, l) w = Mul(k, v)", "WeightNorm", ROWS, lambda: np.exp(G) * V / norm(V, ROWS)),
    "no gain": Case("l = ReduceL2<axes = [1, 2, 3]>(v) w = Div(v, l)", "WeightNorm", ROWS, lambda: V / norm(V, ROWS), scale="none"),
    "LpNormalization": Case("l = LpNormalization<axis = 0, p = 2>(a) w = Mul(l, b)", "WeightNorm", (0,), lambda: drawn("b", (1, 4)) * drawn("a", (5, 4)) / norm(drawn("a", (5, 4)), (0,)), "double[5,4] a, double[1,4] b", GEMM),
    "dim 1": Case("l = ReduceL2<axes = [0, 2, 3]>(v) d = Div(v, l) w = Mul(d, h)", "WeightNorm", (0, 2, 3), lambda: drawn("h", (1, 3, 1, 1)) * V / norm(V, (0, 2, 3)), "double[4,3,3,3] v, double[1,3,1,1] h"),
    "dim None": Case("l = ReduceL2<keepdims = 0>(v) d = Div(v, l) w = Mul(d, h)", "WeightNorm", ALL, lambda: drawn("h", ()) * V / norm(V, ALL), "double[4,3,3,3] v, double h"),
    "axes as an input": Case("l = ReduceL2(v, spatial) d = Div(v, l) w = Mul(g, d)", "WeightNorm", ROWS, lambda: G * V / norm(V, ROWS), WITH_AXES, opset=18),
    "of a transposed kernel": Case(
        "l = ReduceL2<axes = [0, 1, 2]>(k) d = Div(k, l) p = Mul(d, h) w = Transpose<perm = [3, 2, 0, 1]>(p)", "WeightNorm", ROWS,
        lambda: (drawn("h", (4,)) * drawn("k", (3, 3, 3, 4)) / norm(drawn("k", (3, 3, 3, 4)), (0, 1, 2))).transpose(3, 2, 0, 1), "double[3,3,3,4] k, double[4] h",
    ),
    "of a kernel that was flat": Case(
        "t = Transpose(k) l = ReduceL2<axes = [1]>(t) d = Div(t, l) p = Mul(d, h) w = Reshape(p, whole)", "WeightNorm", ROWS,
        lambda: (drawn("h", (4, 1)) * drawn("k", (27, 4)).T / norm(drawn("k", (27, 4)).T, (1,))).reshape(SHAPE), "double[27,4] k, double[4,1] h",
    ),
    "a least norm": Case(
        "l = ReduceL2<axes = [1, 2, 3]>(v) f = Max(l, tiny) d = Div(v, f) w = Mul(d, g)", "WeightNorm", ROWS, lambda: G * V / norm(V, ROWS), epsilon=1e-12, variant="epsilon as the least deviation",
    ),
    "a least square": Case(
        "q = ReduceSumSquare<axes = [1, 2, 3]>(v) f = Max(q, tiny) l = Sqrt(f) d = Div(v, l) w = Mul(d, g)", "WeightNorm", ROWS, lambda: G * V / norm(V, ROWS), epsilon=1e-12, variant="epsilon as the least deviation",
    ),
    "epsilon under the root": Case(
        "q = ReduceSumSquare<axes = [1, 2, 3]>(v) f = Add(q, eps) l = Sqrt(f) d = Div(v, l) w = Mul(d, g)", "WeightNorm", ROWS, lambda: G * V / np.sqrt(norm(V, ROWS) ** 2 + EPSILON), epsilon=EPSILON,
    ),
}  # fmt: skip
BATCH_NORM = "r = Reshape(v, channels) b, i, j = BatchNormalization<training_mode = 1, epsilon = 0.001, momentum = 1.0>(r, gain, zeros, a0, a1)"
STANDARDIZED = {
    "variance": Case(f"{VARIANCE} e = Add(s, eps) d = Sqrt(e) w = Div(c, d)", "WeightStandardization", ROWS, lambda: centered(V) / np.sqrt(deviation(V) ** 2 + EPSILON), epsilon=EPSILON, scale="none"),
    "variance and gain": Case(f"{VARIANCE} e = Add(s, eps) d = Sqrt(e) k = Div(g, d) w = Mul(c, k)", "WeightStandardization", ROWS, lambda: G * centered(V) / np.sqrt(deviation(V) ** 2 + EPSILON), epsilon=EPSILON),
    "no epsilon": Case(f"{VARIANCE} d = Sqrt(s) w = Div(c, d)", "WeightStandardization", ROWS, lambda: centered(V) / deviation(V), scale="none"),
    "of a sample": Case(f"{SAMPLE} e = Add(s, eps) d = Sqrt(e) w = Div(c, d)", "WeightStandardization", ROWS, lambda: centered(V) / np.sqrt(deviation(V, 1) ** 2 + EPSILON), WITH_AXES, epsilon=EPSILON),
    "as its authors have it": Case(
        "a = ReduceMean<axes = [1]>(v) b = ReduceMean<axes = [2]>(a) m = ReduceMean<axes = [3]>(b) c = Sub(v, m) r = Reshape(c, rows) o = ReduceMean<axes = [1]>(r) t = Sub(r, o) q = Mul(t, t)"
        " p = ReduceSum(q, second) f = Div(p, less) d = Sqrt(f) h = Unsqueeze(d, planes) e = Add(h, eps) k = Shape(c) l = Expand(e, k) w = Div(c, l)",
        "WeightStandardization", ROWS, lambda: centered(V) / (deviation(V, 1) + EPSILON), WITH_AXES, epsilon=EPSILON, variant="epsilon outside the root",
    ),
    "as NFNets have it": Case(
        f"{SAMPLE} h = Mul(s, n) e = Max(h, eps) d = Sqrt(e) i = Reciprocal(d) k = Mul(i, g) a = Mul(v, k) b = Mul(m, k) w = Sub(a, b)",
        "WeightStandardization", ROWS, lambda: G * centered(V) / np.sqrt(27 * deviation(V, 1) ** 2), WITH_AXES, epsilon=EPSILON, variant="epsilon as the least deviation",
    ),
    "as a BatchNormalization in training": Case(
        f"{BATCH_NORM} s = Shape(v) w = Reshape(b, s)", "WeightStandardization", ROWS, lambda: drawn("gain", (4,)).reshape(4, 1, 1, 1) * centered(V) / np.sqrt(deviation(V) ** 2 + np.float32(0.001)),
        "double[4,3,3,3] v, double[4] gain, double[4] zeros = {0, 0, 0, 0}, double[4] a0, double[4] a1", epsilon=float(np.float32(0.001)),
    ),
}  # fmt: skip
SIGMA = "a = Reshape(v, rows) b = MatMul(a, t) s = MatMul(u, b)"
SPECTRAL = {
    "as torch exports it": Case(f"{SIGMA} w = Div(v, s)", "SpectralNorm", ALL, lambda: V / (drawn("u", (4,)) @ V.reshape(4, 27) @ drawn("t", (27,))), "double[4,3,3,3] v, double[4] u, double[27] t", scale="none"),
    "the other vector first": Case("a = Reshape(v, rows) b = MatMul(a, t) s = MatMul(b, u) w = Div(v, s)", "SpectralNorm", ALL, lambda: V / (drawn("u", (4,)) @ V.reshape(4, 27) @ drawn("t", (27,))), "double[4,3,3,3] v, double[4] u, double[27] t", scale="none"),
    "of a ConvTranspose": Case(
        "p = Transpose<perm = [1, 0, 2, 3]>(k) a = Reshape(p, rows) b = MatMul(a, t) s = MatMul(u, b) w = Div(k, s)", "SpectralNorm", ALL,
        lambda: drawn("k", (3, 4, 3, 3)) / (drawn("u", (4,)) @ drawn("k", (3, 4, 3, 3)).transpose(1, 0, 2, 3).reshape(4, 27) @ drawn("t", (27,))),
        "double[3,4,3,3] k, double[4] u, double[27] t", "y = ConvTranspose<pads = [2, 2, 2, 2]>(x, w)", scale="none",
    ),
    "of a matrix, by sums": Case(
        "a = Mul(k, t) b = ReduceSum(a, second) c = Mul(b, u) s = ReduceSum(c) w = Div(k, s)", "SpectralNorm", (0, 1),
        lambda: drawn("k", (4, 5)) / (drawn("u", (4, 1)).T @ drawn("k", (4, 5)) @ drawn("t", (5,))), "double[4,5] k, double[4,1] u, double[5] t, int64[1] second = {1}", "y = Gemm<transB = 1>(x, w)", scale="none",
    ),
}  # fmt: skip
NEAR_MISSES = {
    "norms over space alone": Case("l = ReduceL2<axes = [2, 3]>(v) d = Div(v, l) w = Mul(d, g)", None, (), lambda: G * V / norm(V, (2, 3))),
    "epsilon outside the root of a norm": Case("l = ReduceL2<axes = [1, 2, 3]>(v) e = Add(l, eps) d = Div(v, e) w = Mul(d, g)", None, (), lambda: G * V / (norm(V, ROWS) + EPSILON)),
    "a gain that varies within a group": Case("l = ReduceL2<axes = [1, 2, 3]>(v) d = Div(v, l) w = Mul(d, h)", None, (), lambda: drawn("h", (4, 3, 1, 1)) * V / norm(V, ROWS), "double[4,3,3,3] v, double[4,3,1,1] h"),
    "a gain per channel after a norm of everything": Case("l = ReduceL2(v) d = Div(v, l) w = Mul(d, g)", None, (), lambda: G * V / norm(V, ALL)),
    "the square of the norm": Case("l = ReduceSumSquare<axes = [1, 2, 3]>(v) d = Div(v, l) w = Mul(d, g)", None, (), lambda: G * V / norm(V, ROWS) ** 2),
    "the sum of absolute values": Case("l = ReduceL1<axes = [1, 2, 3]>(v) d = Div(v, l) w = Mul(d, g)", None, (), lambda: G * V / np.abs(V).sum(axis=ROWS, keepdims=True)),
    "the norm of something else": Case("l = ReduceL2<axes = [1, 2, 3]>(u) d = Div(v, l) w = Mul(d, g)", None, (), lambda: G * V / norm(drawn("u", SHAPE), ROWS), "double[4,3,3,3] v, double[4,3,3,3] u, double[4,1,1,1] g"),
    "a norm that is clipped": Case("l = ReduceL2<axes = [1, 2, 3]>(v) d = Div(v, l) k = Clip(d, low, high) w = Mul(k, g)", None, (), lambda: G * np.clip(V / norm(V, ROWS), -0.9, 0.9), "double[4,3,3,3] v, double[4,1,1,1] g, double low = {-0.9}, double high = {0.9}"),
    "a bias behind the standardization": Case(f"{VARIANCE} d = Sqrt(s) a = Div(c, d) w = Add(a, g)", None, (), lambda: centered(V) / deviation(V) + G),
    "one mean for all": Case("m = ReduceMean(v) c = Sub(v, m) q = Mul(c, c) s = ReduceMean<axes = [1, 2, 3]>(q) d = Sqrt(s) w = Div(c, d)", None, (), lambda: (V - V.mean()) / np.sqrt(((V - V.mean()) ** 2).mean(axis=ROWS, keepdims=True))),
    "standardized over everything": Case("m = ReduceMean(v) c = Sub(v, m) q = Mul(c, c) s = ReduceMean(q) d = Sqrt(s) w = Div(c, d)", None, (), lambda: (V - V.mean()) / V.std()),
    "an epsilon per channel": Case("q = ReduceSumSquare<axes = [1, 2, 3]>(v) a = Abs(g) f = Add(q, a) l = Sqrt(f) w = Div(v, l)", None, (), lambda: V / np.sqrt(norm(V, ROWS) ** 2 + np.abs(G))),
    "a fourth root": Case("q = ReduceSumSquare<axes = [1, 2, 3]>(v) a = Mul(q, q) f = Add(a, eps) k = Sqrt(f) l = Sqrt(k) w = Div(v, l)", None, (), lambda: V / (norm(V, ROWS) ** 4 + EPSILON) ** 0.25),
    "v by its deviation, not centered": Case(f"{VARIANCE} d = Sqrt(s) w = Div(v, d)", None, (), lambda: V / deviation(V)),
    "a product with one vector": Case("a = Reshape(v, rows) b = MatMul(a, t) s = ReduceSum(b) w = Div(v, s)", None, (), lambda: V / (V.reshape(4, 27) @ drawn("t", (27,))).sum(), "double[4,3,3,3] v, double[27] t"),
    "a multiple of the spectral norm": Case(f"{SIGMA} h = Mul(s, two) w = Div(v, h)", None, (), lambda: V / (2 * (drawn("u", (4,)) @ V.reshape(4, 27) @ drawn("t", (27,)))), "double[4,3,3,3] v, double[4] u, double[27] t"),
    "a spectral norm with an absolute value": Case(f"{SIGMA} h = Abs(s) w = Div(v, h)", None, (), lambda: V / abs(drawn("u", (4,)) @ V.reshape(4, 27) @ drawn("t", (27,))), "double[4,3,3,3] v, double[4] u, double[27] t"),
    "a sum of two weights": Case("w = Add(v, u)", None, (), lambda: V + drawn("u", SHAPE), "double[4,3,3,3] v, double[4,3,3,3] u"),
    "a multiple": Case("w = Mul(v, g)", None, (), lambda: V * G),
}  # fmt: skip
CASES = WEIGHT_NORMS | STANDARDIZED | SPECTRAL | NEAR_MISSES


@pytest.mark.parametrize("name", CASES)
def test_a_weight_is_what_it_computes(name: str) -> None:
    case = CASES[name]
    _, weight = only(model(case.body, case.weights, case.reads, case.opset))
    assert (weight.kind, weight.axes, weight.variant) == (case.kind, case.axes, case.variant)
    assert weight.epsilon == pytest.approx(case.epsilon, rel=1e-9)
    assert weight.scale == ("none" if case.kind is None else case.scale)
    assert [node.op_type for node in weight.readers] == [case.reads.split("= ")[1].split("(")[0].split("<")[0]]
    assert (weight.name, weight.value.name) == ("w", "w")


@pytest.mark.parametrize("name", CASES)
def test_folding_leaves_the_reader_and_one_weight_with_the_numbers_of_the_chain(name: str) -> None:
    case = CASES[name]
    result, folding = folded(model(case.body, case.weights, case.reads, case.opset))
    assert [node.op_type for node in result.graph.node] == [case.reads.split("= ")[1].split("(")[0].split("<")[0]]
    used = {name for node in result.graph.node for name in node.input}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    assert "w" in used
    assert not set(re.findall(r"\w+", case.body)) - {"w"} & set(stored)
    assert np.abs(stored["w"] - case.weight()).max() <= 1e-13 * np.abs(case.weight()).max()
    (rewrite,) = folding.rewrites
    assert (rewrite.site, rewrite.rule, rewrite.exact, rewrite.proof.obligations) == ("w", "weights/fold", True, 1)
    assert rewrite.proof.max_relative_error <= 1e-13
    assert folding.refused == []


# --- which constants are computed weights -----------------------------------------------------------------------------

NONE = {
    "a plain weight": ("", "double[4,3,3,3] w", CONV),
    "behind layout operators": ("a = Transpose<perm = [0, 1, 3, 2]>(v) b = Reshape(a, rows) w = Reshape(b, whole)", "double[4,3,3,3] v", CONV),
    "behind a cast": ("w = Cast<to = 11>(v)", "float16[4,3,3,3] v", CONV),
    "behind two casts and a copy": ("a = Cast<to = 1>(v) b = Identity(a) w = Cast<to = 11>(b)", "float16[4,3,3,3] v", CONV),
    "in pieces": ("w = Concat<axis = 0>(v, u)", "double[1,3,3,3] v, double[3,3,3,3] u", CONV),
    "a Constant": ("w = Constant<value = double[2,2] {1, 2, 3, 4}>() z = MatMul(w, w)", "double[5,4] v", "y = Gemm(x, v)"),
    "quantized": ("q = QuantizeLinear(v, scale, zero) d = DequantizeLinear(q, scale, zero) w = Cast<to = 11>(d)", "float[4,3,3,3] v, float scale, int8 zero = {0}", CONV),
    "quantized by arithmetic": ("d = Div(v, g) r = Round(d) w = Mul(r, g)", "double[4,3,3,3] v, double[4,1,1,1] g", CONV),
    "cast to integers": ("d = Div(v, g) r = Cast<to = 6>(d) f = Cast<to = 11>(r) w = Mul(f, g)", "double[4,3,3,3] v, double[4,1,1,1] g", CONV),
    "one number": ("w = Mul(v, v)", "double[1,1] v, double[5,4] u", "z = Gemm(x, u) y = Mul(z, w)"),
    "larger than anything stored": ("a = Expand(v, whole) w = Mul(a, g)", "double[1,1,3,3] v, double[4,1,1,1] g", CONV),
    "a vector": ("b = Mul(v, v)", "double[4] v, double[4,3,3,3] w", "y = Conv(x, w, b)"),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_computed_weight_is_not_reported(name: str) -> None:
    body, weights, reads = NONE[name]
    told = scenario(model(body, weights, reads))
    assert computed_weights(told.model, told.facts) == []


@pytest.mark.parametrize(("ir_version", "kinds"), [(3, ["WeightNorm"]), (8, [])])
def test_a_weight_that_the_caller_may_replace_is_not_computed_from_constants(ir_version: int, kinds: list[str]) -> None:
    body = "main (double[2,5] x) => (double[2,4] y) <double[5,4] v> { l = ReduceL2<axes = [0]>(v) w = Div(v, l) y = MatMul(x, w) }"
    told = scenario(parsed(body, opset=9, ir_version=ir_version, weights_are_inputs=True))
    assert [weight.kind for weight in computed_weights(told.model, told.facts)] == kinds


def test_a_weight_that_depends_on_the_input_is_not_computed_from_constants() -> None:
    told = scenario(model("l = ReduceL2(x) d = Mul(v, l) w = Mul(d, g)"))
    assert computed_weights(told.model, told.facts) == []


NORMED = "l = ReduceL2<axes = [1]>(v) d = Div(v, l) p = Mul(d, g)"
TWO = "double[4,5] v, double[4,1] g"


def test_what_layout_operators_make_of_one_weight_for_several_readers_is_folded_once() -> None:
    proto = parsed(
        f"main (double[2,4] x, double[2,5] z) => (double[2,5] y, double[2,4] a) <{TWO}> {{ {NORMED} y = MatMul(x, p) t = Transpose(p) a = MatMul(z, t) }}"
    )
    told = scenario(proto)
    (weight,) = computed_weights(told.model, told.facts)
    assert (weight.value.name, [node.op_type for node in weight.readers]) == ("p", ["MatMul", "MatMul"])
    result, _ = folded(proto)
    assert [node.op_type for node in result.graph.node] == ["MatMul", "Transpose", "MatMul"]
    assert [tensor.name for tensor in result.graph.initializer] == ["p"]


def test_several_weights_in_one_are_folded_one_by_one() -> None:
    body = f"{NORMED} e = Mul(h, h) c = Concat<axis = 0>(p, e) y = MatMul(x, c)"
    proto = parsed(f"main (double[2,8] x) => (double[2,5] y) <{TWO}, double[4,5] h> {{ {body} }}")
    told = scenario(proto)
    found = computed_weights(told.model, told.facts)
    assert {weight.value.name: weight.kind for weight in found} == {"p": "WeightNorm", "e": None}
    result, _ = folded(proto)
    assert [node.op_type for node in result.graph.node] == ["Concat", "MatMul"]


def test_what_is_repeated_is_folded_before_it_is() -> None:
    proto = parsed(
        f"main (double[2,2,4] x) => (double[2,2,5] y) <{TWO}, int64[3] thrice = {{2, 4, 5}}> {{ {NORMED} e = Expand(p, thrice) y = MatMul(x, e) }}"
    )
    _, weight = only(proto)
    assert (weight.value.name, weight.kind) == ("p", "WeightNorm")
    assert [node.op_type for node in folded(proto)[0].graph.node] == ["Expand", "MatMul"]


def test_a_cast_belongs_to_the_chain() -> None:
    proto = parsed(
        "main (double[2,5] x) => (double[2,4] y) <float16[5,4] v> { l = ReduceL2<axes = [0]>(v) d = Div(v, l) w = Cast<to = 11>(d) y = MatMul(x, w) }"
    )
    told = scenario(proto)
    (weight,) = computed_weights(told.model, told.facts)
    assert (weight.value.name, weight.kind, weight.axes) == ("w", "WeightNorm", (0,))
    fold_computed(told.facts, [weight])
    assert [node.op_type for node in told.model.graph] == ["MatMul"]
    assert told.model.graph.initializers["w"].dtype == ir.DataType.DOUBLE


def test_a_gain_of_zero_does_not_hide_the_form() -> None:
    g = np.where(np.arange(4).reshape(4, 1, 1, 1) == 0, 0, G)
    for name, epsilon in (("norm by torch", 0.0), ("a least norm", 1e-12)):
        case = WEIGHT_NORMS[name]
        _, weight = only(with_weights(model(case.body, case.weights), g=g))
        assert (weight.kind, weight.axes, weight.epsilon) == ("WeightNorm", ROWS, epsilon)


def test_a_weight_of_zeros_has_no_form() -> None:
    proto = with_weights(model(WEIGHT_NORMS["norm by torch"].body, WITH_AXES), g=np.zeros((4, 1, 1, 1)))
    assert only(proto)[1].kind is None
    assert not onnx.numpy_helper.to_array(
        next(tensor for tensor in folded(proto)[0].graph.initializer if tensor.name == "w")
    ).any()


def test_the_gates_of_an_lstm_in_another_order() -> None:
    proto = parsed(
        """main (double[3,2,5] x) => (double[3,1,2,2] y) <double[8,5] v, double[8,1] g, double[1,8,2] r, int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, int64[1] eight = {8}>
        { l = ReduceL2<axes = [1]>(v) d = Div(v, l) p = Mul(d, g) a = Slice(p, zero, two, zero) b = Slice(p, two, four, zero) c = Slice(p, four, eight, zero)
          q = Concat<axis = 0>(a, c, b) w = Unsqueeze(q, zero) y = LSTM<hidden_size = 2>(x, w, r) }"""
    )
    _, weight = only(proto)
    assert (weight.kind, weight.axes, weight.size) == ("WeightNorm", (0, 2), 5)
    told = scenario(proto)
    fold_computed(told.facts, computed_weights(told.model, told.facts))
    v, g = drawn("v", (8, 5)), drawn("g", (8, 1))
    expected = (g * v / norm(v, (1,)))[[0, 1, 4, 5, 6, 7, 2, 3]][None]
    assert np.abs(told.facts.float64(told.model.graph.initializers["w"]) - expected).max() < 1e-14


IN_A_BODY = """
    main (bool c, double[2,5] x) => (double[2,4] y) <double[5,4] v, double[1,4] g> {
        [branch] y = If(c) <
            then_branch = then () => (double[2,4] a) { l = ReduceL2<axes = [0]>(v) d = Div(v, l) [weight] w = Mul(d, g) a = MatMul(x, w) },
            else_branch = other () => (double[2,4] b) { k = ReduceL2<axes = [0]>(v) e = Div(v, k) w2 = Mul(e, g) n = Neg(x) b = MatMul(n, w2) }
        >
    }"""


def test_inside_a_branch_with_constants_from_outside() -> None:
    proto = parsed(IN_A_BODY)
    told = scenario(proto)
    found = computed_weights(told.model, told.facts)
    assert [(weight.name, weight.kind, weight.graph) for weight in found] == [
        ("weight", "WeightNorm", "branch/then_branch"),
        ("w2", "WeightNorm", "branch/else_branch"),
    ]
    result, folding = folded(proto)
    assert [[node.op_type for node in attribute.g.node] for attribute in result.graph.node[0].attribute] == [
        ["MatMul"],
        ["Neg", "MatMul"],
    ]
    assert sorted(tensor.name for tensor in result.graph.initializer) == ["w/folded", "w2/folded"]
    assert [rewrite.site for rewrite in folding.rewrites] == ["weight", "w2"]


def test_in_the_body_of_a_loop_with_a_chain_outside() -> None:
    proto = parsed(
        """main (double[2,4] x) => (double[2,4] y) <double[4,4] v, double[1,4] g, int64 count = {3}, bool more = {1}> {
            l = ReduceL2<axes = [0]>(v) d = Div(v, l) w = Mul(d, g)
            y = Loop(count, more, x) <body = step (int64 i, bool go, double[2,4] s) => (bool on, double[2,4] t) { on = Identity(go) t = MatMul(s, w) }>
        }"""
    )
    _, weight = only(proto)
    assert (weight.kind, weight.graph, [node.op_type for node in weight.readers]) == ("WeightNorm", "", ["MatMul"])
    result, _ = folded(proto)
    assert [node.op_type for node in result.graph.node] == ["Loop"]


# --- folding ----------------------------------------------------------------------------------------------------------


def test_what_others_read_stays() -> None:
    body = "main (double[2,5] x) => (double[2,4] y, double[1,4] l, double[2,4] z) <double[5,4] v, double[1,4] g> { l = ReduceL2<axes = [0]>(v) d = Div(v, l) w = Mul(d, g) y = MatMul(x, w) z = MatMul(x, v) }"
    result, _ = folded(parsed(body))
    assert [node.op_type for node in result.graph.node] == ["ReduceL2", "MatMul", "MatMul"]
    assert sorted(tensor.name for tensor in result.graph.initializer) == ["v", "w"]


def test_a_weight_that_is_also_an_output_is_still_delivered() -> None:
    body = "main (double[2,5] x) => (double[2,4] y, double[5,4] w) <double[5,4] v, double[1,4] g> { l = ReduceL2<axes = [0]>(v) d = Div(v, l) w = Mul(d, g) y = MatMul(x, w) }"
    result, _ = folded(parsed(body))
    assert [node.op_type for node in result.graph.node] == ["ReduceL2", "Div", "Mul", "MatMul"]
    assert result.graph.node[3].input[1] == "w/folded"


def test_only_what_was_chosen_is_folded() -> None:
    body = "main (double[2,5] x) => (double[2,4] y) <double[5,4] v, double[1,4] g, double[4,4] u> { l = ReduceL2<axes = [0]>(v) d = Div(v, l) w = Mul(d, g) a = MatMul(x, w) s = Add(u, u) y = MatMul(a, s) }"
    told = scenario(parsed(body))
    named = [weight for weight in computed_weights(told.model, told.facts) if weight.kind is not None]
    folding = fold_computed(told.facts, named)
    assert [node.op_type for node in told.model.graph] == ["MatMul", "Add", "MatMul"]
    assert [old.name for old in folding.replaced] == ["w"]


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_a_weight_is_computed_in_float64_and_rounded_once(dtype: ir.DataType) -> None:
    t = dtype.name.lower()
    body = f"main ({t}[2,50] x) => ({t}[2,40] y) <{t}[50,40] v, {t}[1,40] g> {{ l = ReduceL2<axes = [0]>(v) d = Div(v, l) w = Mul(d, g) y = MatMul(x, w) }}"
    told = scenario(parsed(body))
    (weight,) = computed_weights(told.model, told.facts)
    rounded_at_every_step = told.facts.constant(weight.value)
    fold_computed(told.facts, [weight])
    new = told.model.graph.initializers["w"]
    v, g = (
        drawn(name, shape).astype(dtype.numpy()).astype(np.float64) for name, shape in (("v", (50, 40)), ("g", (1, 40)))
    )
    exact = g * v / norm(v, (0,))
    assert new.const_value is not None
    assert new.dtype == new.const_value.dtype == dtype
    assert np.abs(told.facts.float64(new) - exact).max() < 1e-15
    assert np.array_equal(new.const_value.numpy(), told.facts.float64(new).astype(dtype.numpy()))
    assert not np.array_equal(new.const_value.numpy(), rounded_at_every_step)


def refused(proto: onnx.ModelProto) -> list[Refusal]:
    """The refusals for a model that stays as it is."""
    told = scenario(proto)
    before = ir.to_proto(told.model).SerializeToString(deterministic=True)
    folding = fold_computed(told.facts, computed_weights(told.model, told.facts))
    assert ir.to_proto(told.model).SerializeToString(deterministic=True) == before
    assert folding.rewrites == []
    return folding.refused


def test_a_row_of_zeros_is_refused_and_does_not_crash() -> None:
    v = V.copy()
    v[2] = 0
    proto = with_weights(model(WEIGHT_NORMS["no gain"].body, "double[4,3,3,3] v"), v=v)
    (refusal,) = refused(proto)
    assert (refusal.site, refusal.reason_id) == ("w", "not-finite")
    assert refusal.reason == "WeightNorm of 2 operators over axes 1, 2, 3: `w` would not be finite in DOUBLE"


def test_what_overflows_its_type_is_refused() -> None:
    body = "main (float16[2,5] x) => (float16[2,4] y) <float16[5,4] v, float16[1,4] g> { l = ReduceL2<axes = [0]>(v) d = Div(v, l) w = Mul(d, g) h = Mul(w, w) y = MatMul(x, h) }"
    (refusal,) = refused(with_weights(parsed(body), g=np.full((1, 4), 60000.0)))
    assert refusal.reason_id == "not-finite"


@pytest.mark.parametrize(("last", "size"), [("w = Identity(b)", 64), ("w = Slice(b, zero, sixty)", 60)])
def test_a_chain_that_cannot_be_run_is_no_computed_weight(last: str, size: int) -> None:
    """A BatchNormalization in training before opset 14; large enough not to be evaluated while facts are learnt."""
    body = f"b, a0, a1, a2, a3 = BatchNormalization(v, g, g, g, g) {last} y = MatMul(x, w)"
    constants = "double[64,80] v, double[80] g, int64[1] zero = {0}, int64[1] sixty = {60}"
    told = scenario(parsed(f"main (double[2,{size}] x) => (double[2,80] y) <{constants}> {{ {body} }}", opset=13))
    assert told.facts.is_constant(told.value("w"))
    assert computed_weights(told.model, told.facts) == []


def test_a_form_that_does_not_hold_on_the_numbers_of_the_model_is_refused() -> None:
    """The variance as E[v²] − E[v]² is right for usual numbers and loses all its digits beside a mean of 1e7."""
    body = f"{MEAN} q = Mul(v, v) a = ReduceMean<axes = [1, 2, 3]>(q) b = Mul(m, m) s = Sub(a, b) d = Sqrt(s) w = Div(c, d)"
    proto = model(body, "double[4,3,3,3] v")
    assert only(proto)[1].kind == "WeightStandardization"
    assert folded(proto)[1].refused == []
    (refusal,) = refused(with_weights(proto, v=V + 1e7))
    assert (refusal.site, refusal.reason_id) == ("w", "proof-failed")


def test_constant_nodes_of_the_chain_go_and_initializers_that_are_outputs_stay() -> None:
    body = """main (double[2,2] x) => (double[2,2] y, double[1,2] g) <double[1,2] g> {
        v = Constant<value = double[2,2] {3, 1, 4, 2}>() l = ReduceL2<axes = [0]>(v) d = Div(v, l) w = Mul(d, g) y = MatMul(x, w)
    }"""
    result, _ = folded(parsed(body))
    assert [node.op_type for node in result.graph.node] == ["MatMul"]
    assert [tensor.name for tensor in result.graph.initializer] == ["g", "w"]
