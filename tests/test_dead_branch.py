"""Branches that add zero are removed, with what served only them; what is zero in part, or smaller, stays."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from normswap import dead_branch
from normswap.dead_branch import remove_dead_branches
from normswap.learn import learn
from normswap.ledger import Refusal, Rewrite
from tests.graphs import disagreement, parsed, run, with_weights

BLOCK = """
    main (double[B,S,4] x) => (double[B,S,4] y) <double[4,6] u, double[6,4] w, double{shape} alpha, double[4] g> {{
        h = Tanh(x)
        a = MatMul(h, u)
        r = Relu(a)
        b = MatMul(r, w)
        [scale] c = Mul({order})
        [sum] s = Add({operands})
        y = Mul(s, g)
    }}"""


def block(shape: str = "", order: str = "b, alpha", operands: str = "h, c", alpha: float = 0.0) -> onnx.ModelProto:
    """A residual branch h + alpha · f(h)."""
    return with_weights(parsed(BLOCK.format(shape=shape, order=order, operands=operands)), alpha=filled(shape, alpha))


def filled(shape: str, number: float) -> np.ndarray:
    return np.full([int(size) for size in shape.strip("[]").split(",") if size], number)


def removed(
    proto: onnx.ModelProto, sites: Collection[str] | None = None
) -> tuple[onnx.ModelProto, list[Rewrite], list[Refusal], dict[str, str]]:
    """The model without dead branches, of which whole runs give exactly what they gave."""
    model = ir.from_proto(proto)
    facts = learn(model)
    values = (value for graph in model.graphs() for node in graph for value in node.outputs)
    chosen = None if sites is None else [value for value in values if value.name in sites]
    rewrites, refusals, replaced = remove_dead_branches(model, facts, chosen)
    result = ir.to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    assert set(disagreement(run(proto), run(result)).values()) == {0.0}
    return result, rewrites, refusals, {old.name or "": new.name or "" for old, new in replaced.items()}


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("shape", ["", "[1]", "[4]", "[1,1,4]"])
@pytest.mark.parametrize("order", ["b, alpha", "alpha, b"])
@pytest.mark.parametrize("operands", ["h, c", "c, h"])
def test_a_branch_times_zero_is_removed(shape: str, order: str, operands: str) -> None:
    result, rewrites, refusals, replaced = removed(block(shape, order, operands))
    assert operators(result) == ["Tanh", "Mul"]
    assert [tensor.name for tensor in result.graph.initializer] == ["g"]
    assert [(rewrite.site, rewrite.rule, rewrite.exact) for rewrite in rewrites] == [("scale", "dead-branch", True)]
    assert "finite" in rewrites[0].detail
    assert refusals == []
    assert replaced == {"s": "h"}


def test_a_layer_scale_that_is_zero_in_part_stays() -> None:
    proto = with_weights(block("[4]"), alpha=[0, 0, 0, 1e-30])
    result, rewrites, _, _ = removed(proto)
    assert operators(result) == operators(proto)
    assert rewrites == []


def test_a_small_alpha_stays() -> None:
    assert removed(block(alpha=1e-12))[1] == []


def test_a_sum_that_is_an_output_keeps_its_name() -> None:
    text = """main (double[N,4] x) => (double[N,4] y) <double[4,4] w, double a = {0}>
        { b = MatMul(x, w) c = Mul(b, a) [sum] y = Add(x, c) }"""
    result, rewrites, _, replaced = removed(parsed(text))
    assert [(node.op_type, node.name, list(node.input), list(node.output)) for node in result.graph.node] == [
        ("Identity", "sum", ["x"], ["y"])
    ]
    assert (len(rewrites), replaced) == (1, {})
    assert not result.graph.initializer


def test_only_branches_with_a_site_are_removed() -> None:
    assert removed(block(), ())[1] == []
    assert removed(block(), {"s", "h", "b"})[1] == []
    assert len(removed(block(), {"c"})[1]) == 1


def test_what_others_read_of_the_branch_stays() -> None:
    proto = block()
    proto.graph.output.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.DOUBLE, ["B", "S", 4]))
    assert operators(removed(proto)[0]) == ["Tanh", "MatMul", "Relu", "MatMul", "Mul"]


def test_dead_branches_one_after_another() -> None:
    text = """main (double[N,4] x) => (double[N,4] y) <double[4,4] w, double a = {0}> {
        h = Tanh(x)
        b = MatMul(h, w) c = Mul(b, a) s = Add(h, c)
        d = MatMul(s, w) e = Mul(a, d) t = Add(e, s)
        y = Relu(t) }"""
    result, rewrites, _, replaced = removed(parsed(text))
    assert operators(result) == ["Tanh", "Relu"]
    assert len(rewrites) == 2
    assert replaced == {"s": "h", "t": "h"}


# --- zeros in weights -----------------------------------------------------------------------------------------------


def linear(operator: str, weights: str, x: str = "N,4", after: str = "", dead: str = "p") -> onnx.ModelProto:
    """x + operator(tanh(x)), in which every weight is zero."""
    text = f"""main (double[{x}] x) => (double[{x}] y) <{weights}, double[4] k>
        {{ t = Tanh(x) [linear] p = {operator} {after} [sum] s = Add(x, {dead}) y = Relu(s) }}"""
    model = parsed(text)
    zeros = {tensor.name: np.zeros(tuple(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type == 11}
    return with_weights(model, **zeros)


OPERATORS = {
    "MatMul": linear("MatMul(t, w)", "double[4,4] w"),
    "Gemm": linear("Gemm<alpha = 2.0>(t, w, c)", "double[4,4] w, double[4] c"),
    "Gemm without bias": linear("Gemm<transB = 1>(t, w)", "double[4,4] w"),
    "Conv": linear("Conv<pads = [1,1,1,1]>(t, w, c)", "double[4,4,3,3] w, double[4] c", "N,4,H,W"),
    "Conv in groups": linear("Conv<group = 2>(t, w)", "double[4,2,1] w", "N,4,W"),
    "dilated Conv": linear("Conv<pads = [20,20], dilations = [20]>(t, w)", "double[4,4,3] w", "N,4,60"),
    "ConvTranspose": linear("ConvTranspose<pads = [1,1]>(t, w, c)", "double[4,4,3] w, double[4] c", "N,4,W"),
    "BatchNormalization": with_weights(
        linear("BatchNormalization(t, g, b, m, v)", "double[4] g, double[4] b, double[4] m, double[4] v"),
        m=[1, 2, 3, 4],
        v=[1, 2, 3, 4],
    ),
    "bias of its own": linear("MatMul(t, w)", "double[4,4] w, double[4] c", after="a = Add(c, p)", dead="a"),
    "layout": linear(
        "MatMul(t, w)",
        "double[4,4] w, int64[3] split = {0, 2, 2}, int64[2] flat = {0, 4}",
        after="a = Reshape(p, split) b = Transpose<perm = [0, 2, 1]>(a) c = Reshape(b, flat)",
        dead="c",
    ),
    "gate": linear("MatMul(t, w)", "double[4,4] w", after="r = Sigmoid(t) a = Mul(r, p)", dead="a"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_a_linear_operator_of_zeros_is_removed(name: str) -> None:
    result, rewrites, refusals, _ = removed(OPERATORS[name])
    assert operators(result) == ["Relu"]
    assert [rewrite.site for rewrite in rewrites] == ["linear"]
    assert refusals == []
    assert rewrites[0].proof.obligations == 2


@pytest.mark.parametrize("name", ["Gemm", "Conv", "ConvTranspose", "BatchNormalization", "bias of its own"])
def test_a_bias_is_added_all_the_same(name: str) -> None:
    proto = OPERATORS[name]
    bias = "b" if name == "BatchNormalization" else "c"
    assert removed(with_weights(proto, **{bias: [0, 0, 1, 0]}))[1] == []


def test_one_weight_that_is_not_zero() -> None:
    weight = np.zeros((4, 4))
    weight[2, 3] = 1
    assert removed(with_weights(OPERATORS["MatMul"], w=weight))[1] == []


def test_a_norm_in_training_is_not_zero() -> None:
    text = """main (double[N,4] x) => (double[N,4] y) <double[4] g, double[4] b, double[4] m, double[4] v> {
        t = Tanh(x)
        p, q, r = BatchNormalization<training_mode = 1>(t, g, b, m, v)
        s = Add(x, p) y = Relu(s) }"""
    proto = with_weights(parsed(text), g=np.zeros(4), b=np.zeros(4), v=np.ones(4))
    model = ir.from_proto(proto)
    assert remove_dead_branches(model, learn(model))[0] == []


# --- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "z", "y"),
    [
        ("1,4", "N,4", "N,4"),
        ("4", "N,4", "N,4"),
        ("N,1", "N,4", "N,4"),
        ("M,4", "N,4", "K,4"),
        ("N,4", "1,N,4", "1,N,4"),
    ],
)
def test_a_branch_that_widens_the_sum_stays(x: str, z: str, y: str) -> None:
    text = f"""main (double[{x}] x, double[{z}] z) => (double[{y}] y) <double a = {{0}}>
        {{ t = Tanh(x) c = Mul(z, a) s = Add(t, c) y = Relu(s) }}"""
    model = ir.from_proto(parsed(text))
    assert remove_dead_branches(model, learn(model))[0] == []


NAMES = """
    main (double[M,4] x, double[N,4] z) => (double[M,4] y) <double a = {0}>
    { o = Add(x, z) t = Tanh(o) c = Mul(o, a) s = Add(t, c) y = Relu(s) }"""


def test_dimensions_that_are_taken_for_equal_are_not_enough() -> None:
    """M and N must be equal, or one of them 1, for the first sum to exist; nothing says which."""
    model = ir.from_proto(parsed(NAMES))
    assert remove_dead_branches(model, learn(model))[0] == []


@pytest.mark.parametrize(("names", "count"), [("MM", 1), ("MN", 0), (("M", None), 0)])
def test_dimensions_of_one_name_are(names: tuple[str | None, str | None], count: int) -> None:
    proto = parsed(NAMES)
    for value, name in zip("ts", names, strict=True):
        proto.graph.value_info.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.DOUBLE, [name, 4]))
    model = ir.from_proto(proto)
    assert len(remove_dead_branches(model, learn(model))[0]) == count


def test_a_branch_that_is_widened_itself_is_removed() -> None:
    text = """main (double[N,4] x, double[1,4] z) => (double[N,4] y) <double a = {0}>
        { t = Tanh(x) c = Mul(z, a) s = Add(t, c) y = Relu(s) }"""
    assert operators(removed(parsed(text))[0]) == ["Tanh", "Relu"]


def test_a_constant_that_is_added_to_zeros_stays() -> None:
    text = """main (double[2,4] x) => (double[2,4] y) <double a = {0}, double[2,4] k>
        { c = Mul(x, a) s = Add(k, c) y = Relu(s) }"""
    assert removed(parsed(text))[1] == []


def test_inside_control_flow() -> None:
    text = """main (double[N,4] x, bool c) => (double[N,4] y) <double[4,4] w, double zero = {0}> {
        t = Tanh(x)
        y = If (c) <
            then_branch = yes () => (double[N,4] a) { p = MatMul(t, w) q = Mul(p, zero) s = Add(t, q) a = Relu(s) },
            else_branch = no () => (double[N,4] b) { p2 = MatMul(t, w) q2 = Mul(p2, zero) b = Add(t, q2) }>
    }"""
    result, rewrites, _, _ = removed(parsed(text))
    bodies = [attribute.g for attribute in result.graph.node[-1].attribute]
    assert sorted([node.op_type for node in body.node] for body in bodies) == [["Identity"], ["Relu"]]
    assert len(rewrites) == 2
    assert not result.graph.initializer


def test_an_alpha_that_may_be_replaced_stays() -> None:
    proto = block()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("alpha", onnx.TensorProto.DOUBLE, []))
    assert removed(proto)[1] == []


# --- mutants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "row", "proto"),
    [
        ("PRODUCTS", {"Gemm": ((0, 1), ())}, with_weights(OPERATORS["Gemm"], c=np.ones(4))),
        ("PRODUCTS", {"Conv": ((0, 1), ())}, with_weights(OPERATORS["Conv"], c=np.ones(4))),
        ("PRODUCTS", {"BatchNormalization": ((1,), ())}, with_weights(OPERATORS["BatchNormalization"], b=np.ones(4))),
        ("PRODUCTS", {"Div": ((0, 1), ())}, None),
        ("PASSES", {"Cos"}, "Cos"),
        ("PASSES", {"Sigmoid"}, "Sigmoid"),
    ],
)
def test_the_proof_catches_a_wrong_table(
    table: str, row: object, proto: onnx.ModelProto | str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if proto is None:
        proto = linear("Div(t, w)", "double[4] w", "N,4")
    if isinstance(proto, str):
        proto = linear("MatMul(t, w)", "double[4,4] w", after=f"a = {proto}(p)", dead="a")
    old = getattr(dead_branch, table)
    monkeypatch.setattr(dead_branch, table, {**old, **row} if isinstance(row, dict) else old | row)  # type: ignore[dict-item]
    model = ir.from_proto(proto)
    rewrites, refusals, _ = remove_dead_branches(model, learn(model))
    assert (rewrites, [refusal.reason_id for refusal in refusals]) == ([], ["proof-failed"])


def test_the_proof_catches_a_shape_that_is_not_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_branch, "same_shape", lambda *_: True)
    text = """main (double[1,4] x, double[N,4] z) => (double[N,4] y) <double a = {0}>
        { t = Tanh(x) c = Mul(z, a) s = Add(t, c) y = Relu(s) }"""
    model = ir.from_proto(parsed(text))
    rewrites, refusals, _ = remove_dead_branches(model, learn(model))
    assert (rewrites, [refusal.reason_id for refusal in refusals]) == ([], ["proof-failed"])
