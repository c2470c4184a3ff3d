"""Weight norm put back: inference stays what it is, the two parameters are torch's, and folding returns the weights."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import normswap
from normswap import reparameterize as module
from normswap.computed import computed_weights
from normswap.plain_weights import fold_computed
from normswap.reparameterize import Reparameterization, reparameterize
from tests.graphs import Array, Floats, drawn, feeds, parsed, scenario, with_weights

Singles = npt.NDArray[np.float32]
# A sum of some hundred products in float32, in an order that is not known.
INFERENCE = 1e-5


def text(reads: str, x: str, y: str, w: str, dtype: str = "float") -> str:
    return f"main ({dtype}[{x}] x) => ({dtype}[{y}] y) <{dtype}[{w}] w> {{ {reads.replace('y =', '[linear] y =')} }}"


# What reads the weight, and the axes of its norms.
READERS = {
    "Conv": (text("y = Conv(x, w)", "1,3,6,6", "1,4,4,4", "4,3,3,3"), (1, 2, 3)),
    "Conv of one dimension": (text("y = Conv(x, w)", "1,3,6", "1,4,4", "4,3,3"), (1, 2)),
    "grouped Conv": (text("y = Conv<group = 3>(x, w)", "1,6,6,6", "1,6,4,4", "6,2,3,3"), (1, 2, 3)),
    "ConvTranspose": (text("y = ConvTranspose(x, w)", "1,3,6,6", "1,4,8,8", "3,4,3,3"), (0, 2, 3)),
    "grouped ConvTranspose": (text("y = ConvTranspose<group = 3>(x, w)", "1,6,6,6", "1,6,8,8", "6,2,3,3"), (0, 2, 3)),
    "Gemm": (text("y = Gemm(x, w)", "2,5", "2,4", "5,4"), (0,)),
    "Gemm, transB": (text("y = Gemm<transB = 1>(x, w)", "2,5", "2,4", "4,5"), (1,)),
    "Gemm, on the left": (text("y = Gemm(w, x)", "5,2", "4,2", "4,5"), (1,)),
    "Gemm, transA": (text("y = Gemm<transA = 1>(w, x)", "5,2", "4,2", "5,4"), (0,)),
    "MatMul": (text("y = MatMul(x, w)", "2,3,5", "2,3,4", "5,4"), (0,)),
    "MatMul of a batch": (text("y = MatMul(x, w)", "2,3,5", "2,3,4", "2,5,4"), (0, 1)),
    "MatMul, on the left": (text("y = MatMul(w, x)", "2,5,3", "2,4,3", "4,5"), (1,)),
    "MatMul, transposed": (text("t = Transpose(w) i = Identity(t) y = MatMul(x, i)", "2,3,5", "2,3,4", "4,5"), (1,)),
    "MatMul, permuted": (text("t = Transpose<perm = [2, 0, 1]>(w) y = MatMul(x, t)", "2,3,5", "2,3,4", "5,4,2"), (0, 2)),
}  # fmt: skip
# What a weight is filled with; `u` is standard normal, and every other row or column is picked by `odd`.
FILLS = {
    "usual numbers": lambda u, odd: u,
    "rows of zeros": lambda u, odd: np.where(odd, 0, u),
    "zeros alone": lambda u, odd: 0 * u,
    "large numbers": lambda u, odd: u * 2.0**100,
    "small numbers": lambda u, odd: u * 2.0**-110,
    "denormal numbers": lambda u, odd: u * 2.0**-145,
    "large and small rows": lambda u, odd: u * np.where(odd, 2.0**110, 2.0**-130),
    "large and small numbers in a row": lambda u, odd: u * np.exp2(30 * drawn("sizes", u.shape)),
}


def filled(name: str, fill: str, opset: int = 17) -> tuple[onnx.ModelProto, Singles, tuple[int, ...]]:
    """The model of a reader with a weight of that kind, that weight, and the axes of its norms."""
    body, axes = READERS[name]
    model = parsed(body, opset)
    shape = tuple(model.graph.initializer[0].dims)
    kept = next(axis for axis in range(len(shape)) if axis not in axes)
    odd = np.expand_dims(np.arange(shape[kept]) % 2 == 1, axes)
    weight = np.asarray(FILLS[fill](drawn("w", shape), odd), dtype=np.float32)
    return with_weights(model, w=weight), weight, axes


def reparameterized(
    model: onnx.ModelProto, names: Collection[str] | None = None
) -> tuple[onnx.ModelProto, Reparameterization]:
    told = scenario(model)
    result = reparameterize(told.model, told.facts, names)
    after = ir.to_proto(told.model)
    onnx.checker.check_model(after, full_check=True)
    return after, result


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    told = scenario(model)
    folding = fold_computed(told.facts, computed_weights(told.model, told.facts))
    assert folding.refused == []
    return ir.to_proto(told.model)


def stored(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def inferred(model: onnx.ModelProto) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds(model))[0])


def steps_apart(left: Array, right: Array) -> int:
    """How many float32 numbers two arrays are apart at most."""
    numbers = [array.astype(np.float32).view(np.int32).astype(np.int64) for array in (left, right)]
    ordered = [np.where(n < 0, -(n & 0x7FFFFFFF), n) for n in numbers]
    return int(np.abs(ordered[0] - ordered[1]).max())


def norms(weight: Array, axes: tuple[int, ...]) -> Floats:
    return np.sqrt((weight.astype(np.float64) ** 2).sum(axis=axes, keepdims=True))


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", READERS)
def test_inference_stays_and_folding_returns_the_weight(name: str, fill: str) -> None:
    model, weight, _ = filled(name, fill)
    after, result = reparameterized(model)
    assert result.refused == []
    before = inferred(model)
    assert np.abs(inferred(after) - before).max() <= INFERENCE * np.abs(before).max()
    (back,) = stored(folded(after)).values()
    original = weight if back.shape == weight.shape and "perm" not in name and "transposed" not in name else weight.T
    if name == "MatMul, permuted":
        original = weight.transpose(2, 0, 1)
    assert steps_apart(back, original) <= 1


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("name", READERS)
def test_the_weight_is_computed_from_g_and_v(name: str, opset: int) -> None:
    model, weight, axes = filled(name, "usual numbers", opset)
    after, result = reparameterized(model)
    operators = [node.op_type for node in model.graph.node]
    assert [node.op_type for node in after.graph.node] == ["ReduceL2", "Div", "Mul", *operators]
    assert [node.name for node in after.graph.node][:3] == ["w/norm", "w/unit", "w/weight"]
    held = stored(after)
    assert list(held) == ["w/v", "w/g", "w/axes"][: 2 if opset < 18 else 3]
    assert np.array_equal(held["w/v"], weight)
    assert np.array_equal(held["w/g"], norms(weight, axes).astype(np.float32))
    assert after.graph.node[2].output == ["w"]
    (rewrite,) = result.rewrites
    assert (rewrite.site, rewrite.rule, rewrite.exact, rewrite.proof.obligations) == (
        "linear",
        "weights/weight-norm",
        True,
        1,
    )
    assert rewrite.proof.max_relative_error < 1e-14
    told = scenario(after)
    assert [found.kind for found in computed_weights(told.model, told.facts)] == ["WeightNorm"]


def test_a_row_of_zeros_has_a_direction_and_no_gain() -> None:
    model, weight, _ = filled("Gemm, transB", "rows of zeros")
    after, _ = reparameterized(model)
    held = stored(after)
    assert (held["w/g"][1::2] == 0).all()
    assert (held["w/v"][1::2] == 1).all()
    assert np.array_equal(held["w/v"][::2], weight[::2])
    told = scenario(after)
    assert [(found.kind, found.epsilon) for found in computed_weights(told.model, told.facts)] == [("WeightNorm", 0.0)]


@pytest.mark.parametrize("fill", ["large numbers", "denormal numbers"])
def test_a_row_whose_squares_leave_the_range_is_scaled_by_a_power_of_two(fill: str) -> None:
    model, weight, axes = filled("Gemm", fill)
    after, _ = reparameterized(model)
    held = stored(after)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = held["w/v"].astype(np.float64) / weight.astype(np.float64)
    exponents = np.unique(np.log2(ratio[weight != 0]))
    assert np.array_equal(exponents, np.round(exponents))
    assert np.isfinite((held["w/v"] ** 2).sum(axis=axes)).all()
    assert ((held["w/v"] ** 2).sum(axis=axes) > 0).all()
    assert np.array_equal(held["w/g"], norms(weight, axes).astype(np.float32))


def test_the_facts_are_those_of_the_new_graph() -> None:
    model, weight, axes = filled("Gemm", "usual numbers")
    told = scenario(model)
    reparameterize(told.model, told.facts)
    (found,) = computed_weights(told.model, told.facts)
    assert (found.value.name, found.kind, found.axes, found.scale) == ("w", "WeightNorm", axes, "constant")
    assert np.abs(told.facts.float64(told.model.graph.initializers["w/g"]) - norms(weight, axes)).max() < 1e-15
    fold_computed(told.facts, [found])
    exact = told.facts.float64(told.model.graph.initializers["w"])
    assert np.abs(exact - weight).max() < 1e-15  # from g as it was before it was rounded
    assert np.array_equal(exact.astype(np.float32), weight)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 9), st.integers(2, 30)),
    size=st.integers(-150, 110),
    spread=st.integers(0, 40),
)
def test_random_weights_come_back_to_within_one_step(seed: int, shape: tuple[int, int], size: int, spread: int) -> None:
    random = np.random.default_rng(seed)
    exponents = size + random.integers(-spread, spread + 1, shape)
    weight = np.ldexp(random.normal(size=shape), np.minimum(exponents, 115)) * (random.random(shape) < 0.9)
    model = parsed(text("y = MatMul(x, w)", f"2,{shape[0]}", f"2,{shape[1]}", f"{shape[0]},{shape[1]}"))
    after, result = reparameterized(with_weights(model, w=weight.astype(np.float32)))
    if result.refused:  # a product that is too large or small by itself, beside one that is not
        assert {refusal.reason_id for refusal in result.refused} == {"narrow-type"}
        return
    (back,) = stored(folded(after)).values()
    assert steps_apart(back, weight.astype(np.float32)) <= 1


# --- weights that several nodes read, and weights elsewhere -----------------------------------------------------------

TIED = """
    main (int64[2] ids, float[2,4] x) => (float[2,5] y, float[2,4] e, float[2,5] z) <float[5,4] w> {
        [embedding] e = Gather(w, ids)
        [head] y = Gemm<transB = 1>(x, w)
        [other] t = Transpose(w)
        [more] z = MatMul(x, t)
    }"""


def test_a_weight_that_several_nodes_read_is_reparameterized_once() -> None:
    after, result = reparameterized(parsed(TIED))
    assert [node.op_type for node in after.graph.node] == [
        "ReduceL2",
        "Div",
        "Mul",
        "Gather",
        "Gemm",
        "Transpose",
        "MatMul",
    ]
    assert [rewrite.site for rewrite in result.rewrites] == ["head", "more"]
    assert list(stored(after)) == ["w/v", "w/g"]
    assert result.refused == []


@pytest.mark.parametrize(
    ("body", "names", "reason"),
    [
        (TIED, {"head"}, "Gemm `head`: `more` also reads `w`, and is to stay as it is"),
        (TIED.replace("t = Transpose(w)", "t = Identity(w)").replace("float[2,4] x", "float[2,4] x, float[2,5] v").replace("MatMul(x, t)", "MatMul(v, t)").replace("float[2,5] z", "float[2,4] z"),
         None, "Gemm `head`: those who read `w` have their outputs along different axes"),
        (TIED.replace("float[2,5] z)", "float[2,5] z, float[5,4] w)"), None, "Gemm `head`: `w` is also an output of the model, and is to stay as it is"),
    ],
)  # fmt: skip
def test_readers_that_disagree(body: str, names: Collection[str] | None, reason: str) -> None:
    model = parsed(body)
    after, result = reparameterized(model, names)
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in model.graph.node]
    assert list(stored(after)) == ["w"]
    assert (result.rewrites, {refusal.reason_id for refusal in result.refused}) == ([], {"disagreeing-readers"})
    assert result.refused[0].reason == reason


def test_only_the_named_nodes() -> None:
    body = "main (float[2,5] x) => (float[2,4] y) <float[5,6] a, float[6,4] b> { [one] h = MatMul(x, a) [two] y = MatMul(h, b) }"
    after, result = reparameterized(parsed(body), {"two"})
    assert [rewrite.site for rewrite in result.rewrites] == ["two"]
    assert list(stored(after)) == ["a", "b/v", "b/g"]


def test_a_weight_in_a_constant_node() -> None:
    body = "main (float[2,2] x) => (float[2,2] y) { r = Relu(x) w = Constant<value = float[2,2] {3, 1, 4, 2}>() y = MatMul(r, w) }"
    model = parsed(body)
    after, _ = reparameterized(model)
    assert [node.op_type for node in after.graph.node] == ["Relu", "ReduceL2", "Div", "Mul", "MatMul"]
    assert np.array_equal(stored(after)["w/g"], np.asarray([[5, np.sqrt(np.float32(5))]], dtype=np.float32))
    assert np.abs(inferred(after) - inferred(model)).max() <= INFERENCE * np.abs(inferred(model)).max()


def test_inside_a_loop() -> None:
    body = """main (float[2,4] x) => (float[2,4] y) <float[4,4] w, int64 count = {3}, bool more = {1}> {
        y = Loop(count, more, x) <body = step (int64 i, bool go, float[2,4] s) => (bool on, float[2,4] t) { on = Identity(go) [inner] t = MatMul(s, w) }>
    }"""
    model = parsed(body)
    after, result = reparameterized(model)
    assert [rewrite.site for rewrite in result.rewrites] == ["inner"]
    assert [node.op_type for node in after.graph.node] == ["ReduceL2", "Div", "Mul", "Loop"]
    assert np.abs(inferred(after) - inferred(model)).max() <= INFERENCE * np.abs(inferred(model)).max()
    assert steps_apart(stored(folded(after))["w"], stored(model)["w"]) <= 1


def test_a_product_of_activations_has_no_weight() -> None:
    after, result = reparameterized(parsed("main (float[2,2] x) => (float[2,2] y) { y = MatMul(x, x) }"))
    assert (result.rewrites, result.refused) == ([], [])
    assert [node.op_type for node in after.graph.node] == ["MatMul"]


def test_one_number_is_no_weight() -> None:
    _, result = reparameterized(parsed(text("y = MatMul(x, w)", "2,1", "2,1", "1,1")))
    assert (result.rewrites, result.refused) == ([], [])


def test_a_product_of_constants_has_no_weight_and_is_none() -> None:
    body = "main (float[2,4] x) => (float[2,3] y) <float[4,5] a, float[5,3] b> { [inner] w = MatMul(a, b) [outer] y = MatMul(x, w) }"
    _, result = reparameterized(parsed(body))
    assert (result.rewrites, [(refusal.site, refusal.reason_id) for refusal in result.refused]) == (
        [],
        [("outer", "computed-weight")],
    )


def test_a_mistake_is_caught_by_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    split = module._split
    monkeypatch.setattr(
        module,
        "_split",
        lambda weight, axes, dtype: (split(weight, axes, dtype)[0], norms(weight, (1,)).T[:, :4], True),
    )
    model, _, _ = filled("Gemm", "usual numbers")
    after, result = reparameterized(model)
    assert [refusal.reason_id for refusal in result.refused] == ["proof-failed"]
    assert ([node.op_type for node in after.graph.node], list(stored(after))) == (["Gemm"], ["w"])


def test_a_bias_is_no_weight() -> None:
    body = "main (float[2,5] x) => (float[2,4] y) <float[5,4] w, float[2,4] b> { [linear] y = Gemm(x, w, b) }"
    assert list(stored(reparameterized(parsed(body))[0])) == ["b", "w/v", "w/g"]


def test_names_that_are_taken() -> None:
    body = 'main (float[2,5] x) => (float[2,4] y) <float[5,4] w, float[2,4] "w/v", float[2,4] "w/norm"> { m = MatMul(x, w) s = Add(m, "w/v") y = Add(s, "w/norm") }'
    after, _ = reparameterized(parsed(body))
    assert list(stored(after)) == ["w/v", "w/norm", "w/v_1", "w/g"]
    assert [node.output[0] for node in after.graph.node][:3] == ["w/norm_1", "w/unit", "w"]


def test_a_weight_that_was_folded_before_is_no_float32_yet_and_reparameterized_all_the_same() -> None:
    body = """main (float[1,3,6,6] x) => (float[1,4,6,6] y) <float[4,3,1,1] w, float[4] s, float[4] b, float[4] m, float[4] v> {
        h = Conv(x, w) [norm] y = BatchNormalization(h, s, b, m, v) }"""
    model = parsed(body)
    model = with_weights(model, v=np.abs(stored(model)["v"]) + 0.1)
    result = normswap.convert(model, ["folded", "weightnorm"], check=False)
    assert ([rewrite.rule for rewrite in result.rewrites], result.refused) == (["affine-up", module.RULE], ())
    assert isinstance(result.model, onnx.ModelProto)
    assert np.abs(inferred(result.model) - inferred(model)).max() <= INFERENCE * np.abs(inferred(model)).max()


def test_a_weight_that_was_sparse_gives_its_name_to_what_is_computed() -> None:
    model = parsed(text("y = MatMul(x, w)", "2,2", "2,2", "2,2"))
    del model.graph.initializer[:]
    values = onnx.numpy_helper.from_array(np.asarray([3, 4], np.float32), "w")
    places = onnx.numpy_helper.from_array(np.asarray([0, 3]), "w/places")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [2, 2]))
    result = normswap.convert(model, "weightnorm", check=False).model
    assert isinstance(result, onnx.ModelProto)
    assert list(result.graph.sparse_initializer) == []
    assert np.array_equal(inferred(result), inferred(model))


# --- refusals ---------------------------------------------------------------------------------------------------------

COMPUTED = "l = ReduceL2<axes = [0]>(v) d = Div(v, l)"
REFUSED = {
    "half precision": (text("y = MatMul(x, w)", "2,5", "2,4", "5,4", "float16"), "narrow-type", "MatMul `linear`: `w` is of type FLOAT16"),
    "bfloat16": (text("y = MatMul(x, w)", "2,5", "2,4", "5,4", "bfloat16"), "narrow-type", "MatMul `linear`: `w` is of type BFLOAT16"),
    "a weight norm": (f"main (float[2,5] x) => (float[2,4] y) <float[5,4] v> {{ {COMPUTED} [linear] y = MatMul(x, d) }}", "already", "MatMul `linear`: `d` has a weight norm"),
    "another chain": ("main (float[2,5] x) => (float[2,4] y) <float[5,4] v> { s = Add(v, v) [linear] y = MatMul(x, s) }", "computed-weight", "MatMul `linear`: `s` is computed from other constants"),
    "a chain that is not run": ("main (float[2,5] x) => (float[2,4] y) <float[5,4] v> { s = com.microsoft.Unheard(v) [linear] y = MatMul(x, s) }", None, None),
    "quantized": (
        "main (float[2,5] x) => (float[2,4] y) <float[5,4] v, float scale, int8 zero = {0}> { q = QuantizeLinear(v, scale, zero) d = DequantizeLinear(q, scale, zero) [linear] y = MatMul(x, d) }",
        "quantized-weights", "MatMul `linear`: `d` comes from quantized numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    body, reason_id, reason = REFUSED[name]
    told = scenario(parsed(body))
    before = ir.to_proto(told.model).SerializeToString(deterministic=True)
    result = reparameterize(told.model, told.facts)
    assert ir.to_proto(told.model).SerializeToString(deterministic=True) == before
    found = [(refusal.site, refusal.reason_id, refusal.reason) for refusal in result.refused]
    assert (result.rewrites, found) == ([], [] if reason_id is None else [("linear", reason_id, reason)])


def test_a_weight_that_the_caller_may_replace() -> None:
    model = parsed(text("y = MatMul(x, w)", "2,5", "2,4", "5,4"), weights_are_inputs=True)
    after, result = reparameterized(model)
    assert [refusal.reason_id for refusal in result.refused] == ["overridable-initializer"]
    assert list(stored(after)) == ["w"]


@pytest.mark.parametrize(
    ("numbers", "reason_id"),
    [([np.inf, 1.0], "not-finite"), ([np.nan, 1.0], "not-finite"), ([3e38, 3e38], "not-finite"), ([1e38, 1e-44], "narrow-type")],
)  # fmt: skip
def test_numbers_that_cannot_be_held(numbers: list[float], reason_id: str) -> None:
    model = parsed(text("y = MatMul(x, w)", "2,2", "2,1", "2,1"))
    model = with_weights(model, w=np.asarray(numbers)[:, None])
    after, result = reparameterized(model)
    assert [refusal.reason_id for refusal in result.refused] == [reason_id]
    assert (len(after.graph.node), list(stored(after))) == (1, ["w"])
