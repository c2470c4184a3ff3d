"""Parallel operators that are added: which become one, what it is called, and that it computes the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from normswap.facts import Facts
from normswap.merge import merge
from normswap.session import Session
from tests.graphs import AGREEMENT, drawn, parsed, with_weights
from tests.merge.merging import Merged, merged, trimmed


@dataclass(frozen=True)
class RepVGG:
    """The block of RepVGG: a large and a small Conv and a BatchNormalization of one value, added."""

    spatial: str = "H,W"
    channels: int = 4
    group: int = 1
    kernels: tuple[str, str] = ("3,3", "1,1")
    attributes: tuple[str, str] = ("pads = [1,1,1,1]", "")
    biases: tuple[bool, bool] = (False, False)
    identity: bool = True
    dtype: str = "double"

    def text(self) -> str:
        count, inputs, t = self.channels, self.channels // self.group, self.dtype
        convs = [
            f"[{name}] {out} = Conv<group = {self.group}{', ' if more else ''}{more}>(x, w{name}{f', b{name}' * bias})"
            for name, out, more, bias in zip(("big", "small"), ("p", "q"), self.attributes, self.biases, strict=True)
        ]
        weights = ", ".join(
            f"{t}[{count},{inputs},{kernel}] w{name}, {t}[{count}] b{name}"
            for name, kernel in zip(("big", "small"), self.kernels, strict=True)
        )
        last = "[norm] i = BatchNormalization(x, g, b, m, v) s = Add(p, q) [sum] y = Add(s, i)"
        return f"""main ({t}[N,{count},{self.spatial}] x) => ({t}[N,M,{",".join("JKL"[: self.spatial.count(",") + 1])}] y)
            <{weights}, {t}[{count}] g, {t}[{count}] b, {t}[{count}] m, {t}[{count}] v>
            {{ {" ".join(convs)} {last if self.identity else "[sum] y = Add(p, q)"} }}"""

    def proto(self) -> onnx.ModelProto:
        return trimmed(with_weights(parsed(self.text()), v=np.linspace(0.5, 2, self.channels)))


STRIDED = {"spatial": "13,14", "identity": False}
BLOCKS = {
    "plain": (RepVGG(), (3, 3), [1, 1, 1, 1]),
    "biases": (RepVGG(biases=(True, True)), (3, 3), [1, 1, 1, 1]),
    "the first has a bias": (RepVGG(biases=(True, False), identity=False), (3, 3), [1, 1, 1, 1]),
    "the second has a bias": (RepVGG(biases=(False, True), identity=False), (3, 3), [1, 1, 1, 1]),
    "in groups": (RepVGG(channels=6, group=2, biases=(True, True)), (3, 3), [1, 1, 1, 1]),
    "depthwise": (RepVGG(group=4), (3, 3), [1, 1, 1, 1]),
    "1-D": (RepVGG("W", kernels=("3", "1"), attributes=("pads = [1,1]", "")), (3,), [1, 1]),
    "3-D": (
        RepVGG("5,H,W", kernels=("3,3,3", "1,1,1"), attributes=("pads = [1,1,1,1,1,1]", "")),
        (3, 3, 3),
        [1] * 6,
    ),
    "even kernel": (RepVGG(kernels=("2,4", "1,1"), attributes=("pads = [0,1,1,2]", "")), (2, 4), [0, 1, 1, 2]),
    "one-sided pads": (RepVGG(attributes=("pads = [2,0,0,2]", "")), (3, 3), [2, 0, 0, 2]),
    "kernels overlap in part": (
        RepVGG(kernels=("1,3", "3,1"), attributes=("pads = [0,1,0,1]", "pads = [1,0,1,0]")),
        (3, 3),
        [1, 1, 1, 1],
    ),
    "the small one is not in the middle": (
        RepVGG(kernels=("5,5", "3,2"), attributes=("pads = [2,2,2,2]", "pads = [2,0,0,1]"), identity=False),
        (5, 5),
        [2, 2, 2, 2],
    ),
    "dilations": (
        RepVGG(
            kernels=("3,3", "2,1"),
            attributes=("pads = [2,3,2,3], dilations = [2,3]", "pads=[2,0,0,0], dilations = [2,3]"),
        ),
        (3, 3),
        [2, 3, 2, 3],
    ),
    "dilated and not": (RepVGG(attributes=("pads = [2,2,2,2], dilations = [2,2]", "")), (3, 3), [2, 2, 2, 2]),
    "dilated within a dense kernel": (
        RepVGG(kernels=("5,5", "3,3"), attributes=("pads = [2,2,2,2]", "pads = [2,2,2,2], dilations = [2,2]")),
        (5, 5),
        [2, 2, 2, 2],
    ),
    "stride": (
        RepVGG("H,W", identity=False, attributes=("pads = [1,1,1,1], strides = [2,2]", "strides = [2,2]")),
        (3, 3),
        [1, 1, 1, 1],
    ),
    "strides": (
        RepVGG(**STRIDED, attributes=("pads = [1,1,1,1], strides = [2,3]", "strides = [2,3]")),
        (3, 3),
        [1, 1, 1, 1],
    ),
    "same upper": (RepVGG(attributes=('auto_pad = "SAME_UPPER"', "")), (3, 3), [1, 1, 1, 1]),
    "same lower, even": (
        RepVGG(kernels=("4,4", "1,1"), attributes=('auto_pad = "SAME_LOWER"', 'auto_pad = "SAME_UPPER"')),
        (4, 4),
        [2, 2, 1, 1],
    ),
    "valid": (RepVGG(kernels=("1,1", "1,1"), attributes=('auto_pad = "VALID"', "")), (1, 1), [0, 0, 0, 0]),
    "same with strides": (
        RepVGG(
            **STRIDED,
            attributes=('auto_pad = "SAME_UPPER", strides = [2,2]', 'auto_pad = "SAME_UPPER", strides = [2,2]'),
        ),
        (3, 3),
        [1, 0, 1, 1],
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_of_rep_vgg_becomes_one_conv(name: str) -> None:
    block, kernel, pads = BLOCKS[name]
    result = merged(block.proto(), {"p"})
    assert result.operators == ["Conv"]
    assert result.refusals == []
    assert result.attribute("sum", "pads") == pads
    inputs = result.node("sum").input
    assert result.weights[inputs[1]].shape[2:] == kernel
    assert len(inputs) == 2 + (any(block.biases) or block.identity)
    assert len(result.weights) == len(inputs) - 1


def test_the_weight_is_that_of_the_formula() -> None:
    result = merged(RepVGG(biases=(True, True)).proto(), {"p"})
    gain = drawn("g", (4,)) / np.sqrt(np.linspace(0.5, 2, 4) + np.float32(1e-5))
    weight = drawn("wbig", (4, 4, 3, 3))
    weight[:, :, 1, 1] += drawn("wsmall", (4, 4, 1, 1))[:, :, 0, 0] + np.diag(gain)
    bias = drawn("bbig", (4,)) + drawn("bsmall", (4,)) + drawn("b", (4,)) - drawn("m", (4,)) * gain
    np.testing.assert_allclose(result.weights["wbig"], weight, rtol=1e-14)
    np.testing.assert_allclose(result.weights["bbig"], bias, rtol=1e-13)


def test_names_and_the_ledger() -> None:
    result = merged(RepVGG(biases=(True, True)).proto(), {"p"})
    assert list(result.node("sum").input) == ["x", "wbig", "bbig"]  # the new weights take over the names of the old
    assert [(rewrite.site, rewrite.rule, rewrite.exact) for rewrite in result.rewrites] == [("sum", "merge", True)]
    assert result.rewrites[0].detail == "Conv `big` + Conv `small` + BatchNormalization `norm`"
    assert all(norm.nodes[0].graph is None for norm in result.session.affines)


def test_the_unrounded_weights_are_known() -> None:
    result = merged(RepVGG(dtype="float").proto(), {"p"}, agreement=1e-5)
    facts: Facts = result.session.facts
    value = result.session.model.graph.initializers["wbig"]
    plain = drawn("wbig", (4, 4, 3, 3)).astype(np.float32)[:, :, 0, 0]
    assert facts.float64(value).dtype == np.float64
    assert (facts.float64(value)[:, :, 0, 0] == plain).all()
    inside = facts.float64(value)[:, :, 1, 1]
    assert (inside.astype(np.float32) == result.weights["wbig"][:, :, 1, 1]).all()
    assert (inside != result.weights["wbig"][:, :, 1, 1]).any()


def test_in_half_precision() -> None:
    result = merged(RepVGG(dtype="float16", biases=(True, True)).proto(), {"p"}, agreement=5e-3)
    assert result.operators == ["Conv"]
    assert {array.dtype for array in result.weights.values()} == {np.dtype(np.float16)}


def test_what_is_not_finite_in_half_precision_is_left() -> None:
    block = RepVGG(dtype="float16", identity=False, biases=(True, False))
    large = np.full((4, 4, 3, 3), 6e4)
    proto = with_weights(block.proto(), wbig=large, wsmall=large[:, :, :1, :1])
    session_before = proto.SerializeToString()
    result = merged_unrun(proto)
    assert result.reasons == ["not-finite"]
    assert result.operators == ["Conv", "Conv", "Add"]
    assert set(result.weights) == {"wbig", "wsmall", "bbig"}
    assert proto.SerializeToString() == session_before


def merged_unrun(proto: onnx.ModelProto) -> Merged:
    """As `merged`, of a model whose outputs overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return merged(proto, {"p"}, agreement=np.inf)


# --- sums -----------------------------------------------------------------------------------------------------------

FOUR = """
    main (double[N,4,H,W] x) => (double[N,4,H,W] y)
    <double[4,4,3,3] a, double[4,4,1,3] b, double[4,4,3,1] c, double[4] d, double[4,1,1] k> {
        [a] p = Conv<pads = [1,1,1,1]>(x, a)
        [b] q = Conv<pads = [0,1,0,1]>(x, b)
        [c] r = Conv<pads = [1,0,1,0]>(x, c, d)
        [sum] y = Sum(q, p, k, r)
    }"""
PRODUCTS = """
    main (double[B,S,4] x) => (double[B,S,6] y) <double[4,6] u, double[4,6] w, double[6] c, double[6] d> {{
        [u] p = MatMul(x, u)
        [w] q = MatMul(x, w)
        {sums}
    }}"""
GEMMS = """
    main (double[N,5] x) => (double[N,5] y) <double[5,5] u, double[5,5] w, double[5,5] z, double[5] c, double[1,5] d, double[1,5] s> {
        [u] p = Gemm<alpha = 0.5, beta = 2.0>(x, u, c)
        [w] q = Gemm<transB = 1>(x, w, d)
        [z] r = MatMul(x, z)
        [scale] i = Mul(s, x)
        t = Add(p, q)
        o = Add(r, i)
        [sum] y = Add(o, t)
    }"""


def test_a_sum_of_four() -> None:
    result = merged(FOUR, {"q"})
    assert result.operators == ["Conv"]
    assert list(result.node("sum").output) == ["y"]
    assert len(result.weights) == 2


def test_two_products() -> None:
    result = merged(PRODUCTS.format(sums="[sum] y = Add(p, q)"), {"q"})
    assert result.operators == ["MatMul"]
    np.testing.assert_allclose(result.weights["u"], drawn("u", (4, 6)) + drawn("w", (4, 6)), rtol=1e-15)
    assert set(result.weights) == {"u"}


@pytest.mark.parametrize(
    "sums",
    [
        "s = Add(p, c) t = Add(q, d) [sum] y = Add(s, t)",
        "s = Add(p, c) t = Add(s, q) [sum] y = Add(t, d)",
        "[sum] y = Sum(c, p, d, q)",
    ],
)
def test_products_with_biases_keep_one_of_them(sums: str) -> None:
    result = merged(PRODUCTS.format(sums=sums), {"q"})
    assert result.operators in (["MatMul", "Add"], ["MatMul", "Sum"])
    assert result.node("sum").output[0] == "y"
    assert {array.shape for array in result.weights.values()} == {(4, 6), (6,)}


@pytest.mark.parametrize(
    "sums", ["s = Add(p, c) [sum] y = Add(s, q)", "s = Add(p, q) [sum] y = Add(s, c)", "[sum] y = Sum(c, q, p)"]
)
def test_the_only_bias_of_products_stays_what_it_is(sums: str) -> None:
    result = merged(PRODUCTS.format(sums=sums), {"q"})
    assert result.operators in (["MatMul", "Add"], ["MatMul", "Sum"])
    assert len(result.weights) == 2
    assert "c" in result.node("sum").input


def test_gemms_and_a_product_and_a_scale() -> None:
    result = merged(GEMMS, {"q"})
    assert result.operators == ["Gemm"]
    assert result.attribute("sum", "alpha") is None
    assert result.attribute("sum", "beta") is None
    weight = 0.5 * drawn("u", (5, 5)) + drawn("w", (5, 5)).T + drawn("z", (5, 5)) + np.diag(drawn("s", (1, 5))[0])
    np.testing.assert_allclose(result.weights["u"], weight, rtol=1e-14)


def test_gemms_that_transpose_their_input() -> None:
    text = """main (double[4,N] x) => (double[N,6] y) <double[4,6] u, double[6,4] w, double[6] c> {
        p = Gemm<transA = 1>(x, u) q = Gemm<transA = 1, transB = 1>(x, w, c) [sum] y = Add(p, q) }"""
    result = merged(text, {"p"})
    assert result.operators == ["Gemm"]
    assert result.attribute("sum", "transA") == 1


def test_a_constant_that_is_added_goes_into_the_bias() -> None:
    text = RepVGG(biases=(True, False)).text().replace("s = Add(p, q)", "k = Add(p, c) s = Add(k, q)")
    text = text.replace("double[4] g,", "double[4] g, double[1,4,1,1] c,")
    result = merged(with_weights(parsed(text), v=np.ones(4)), {"p"})
    assert result.operators == ["Conv"]


# --- what else is in the sum ----------------------------------------------------------------------------------------

BETWEEN = """
    main (double[N,4,H,W] x, double[N,4,H,W] z) => (double[N,4,H,W] y) <double[4,4,3,3] a, double[4,4,1,1] b, double[4] c> {{
        t = Tanh(z)
        [a] p = Conv<pads = [1,1,1,1]>(x, a)
        [b] q = Conv(x, b, c)
        {sums}
    }}"""


@pytest.mark.parametrize(
    ("sums", "left"),
    [
        ("s = Add(p, t) [sum] y = Add(s, q)", 1),
        ("s = Add(t, q) [sum] y = Add(p, s)", 1),
        ("s = Add(p, q) [sum] y = Add(t, s)", 1),
        ("[sum] y = Sum(t, q, p)", 1),
        ("s = Add(p, t) r = Add(q, z) [sum] y = Add(s, r)", 2),
        ("s = Add(p, t) r = Add(s, z) [sum] y = Add(r, q)", 2),
        ("s = Sum(p, t, q) [sum] y = Add(s, z)", 2),
        ("s = Add(t, z) r = Add(p, q) [sum] y = Sum(s, r)", 2),
    ],
)
def test_other_operands_stay_in_the_sum(sums: str, left: int) -> None:
    result = merged(BETWEEN.format(sums=sums), {"q"})
    assert result.operators.count("Conv") == 1
    assert result.node("a").input[0] == "x"
    assert result.operators.count("Add") + result.operators.count("Sum") in (1, left)
    assert result.node("sum").output[0] == "y"


def test_two_inputs_make_two_operators() -> None:
    text = """main (double[N,4] x, double[N,4] z) => (double[N,4] y) <double[4,4] a, double[4,4] b, double[4,4] c, double[4,4] d> {
        p = MatMul(x, a) q = MatMul(z, b) r = MatMul(x, c) s = MatMul(z, d) t = Add(p, q) u = Add(r, s) [sum] y = Add(t, u) }"""
    result = merged(text, {"p"})
    assert result.operators == ["MatMul", "MatMul", "Add"]
    assert len(result.rewrites) == 2


def test_a_sum_that_two_read_is_an_operand_of_its_own() -> None:
    sums = "s = Add(p, q) r = Conv(x, b) u = Mul(s, t) o = Add(s, r) [sum] y = Add(o, u)"
    result = merged(BETWEEN.format(sums=sums), {"q"})
    assert result.operators.count("Conv") == 2


def test_graph_outputs_keep_their_names() -> None:
    text = BETWEEN.format(sums="[sum] y = Add(p, q)")
    result = merged(text, {"q"})
    assert [output.name for output in result.proto.graph.output] == ["y"]
    assert result.node("sum").op_type == "Conv"


# --- the input itself -----------------------------------------------------------------------------------------------

RESIDUAL = """
    main (double[N,4,H,W] x) => (double[N,4,H,W] y) <double[4,4,3,3] a, double[4,4,1,1] b, double[1,4,1,1] s, double h> {{
        [a] p = Conv<pads = [1,1,1,1]>(x, a)
        [b] q = Conv(x, b)
        {sums}
    }}"""


def test_a_residual_connection_stays_one() -> None:
    result = merged(RESIDUAL.format(sums="[sum] y = Add(x, p)"), None)
    assert (result.rewrites, result.refusals) == ([], [])


def test_a_residual_connection_stays_beside_what_is_merged() -> None:
    result = merged(RESIDUAL.format(sums="s = Add(x, p) [sum] y = Add(s, q)"), {"p"})
    assert result.operators == ["Conv", "Add"]
    assert sorted(result.node("sum").input) == ["p", "x"]


def test_the_input_itself_where_that_is_allowed() -> None:
    result = merged(RESIDUAL.format(sums="s = Add(x, p) [sum] y = Add(s, q)"), {"p"}, allow_identity=True)
    assert result.operators == ["Conv"]


def test_a_vector_on_the_input_is_reason_enough() -> None:
    result = merged(RESIDUAL.format(sums="[scale] i = Mul(x, s) [sum] y = Add(i, p)"), ())
    assert result.operators.count("Mul") == 0


def test_a_number_on_the_input_is_not() -> None:
    """It is no norm, and stays what it is."""
    assert merged(RESIDUAL.format(sums="[scale] i = Mul(x, h) [sum] y = Add(i, p)"), None).rewrites == []


def test_only_sums_with_a_site_are_merged() -> None:
    text = RESIDUAL.format(sums="[sum] y = Add(p, q)")
    assert merged(text, ()).rewrites == []
    assert len(merged(text, {"p"}).rewrites) == 1
    assert len(merged(text, None).rewrites) == 1


# --- what must not merge --------------------------------------------------------------------------------------------


def pair(first: str, second: str, *, x: str = "N,4,12,12", more: str = "", outputs: str = "", inputs: str = "") -> str:
    """Two Convs p and q, added."""
    return f"""main (double[{x}] x{inputs}) => (double[N,4,J,K] y{outputs})
        <double[4,4,3,3] a, double[4,4,1,1] b, double[4,4,2,2] e, double[4,2,3,3] g> {{
        [a] p = Conv<{first}
        [b] q = Conv<{second}
        {more}
        [sum] y = Add(p, q) }}"""


SAME = "pads = [1,1,1,1]>(x, a)"
NEAR_MISSES = {
    "another input": (pair(SAME, "group = 1>(z, b)", inputs=", double[N,4,12,12] z"), []),
    "other strides": (
        pair("pads = [1,1,1,1], strides = [2,2]>(x, a)", "dilations = [6,6]>(x, e)"),
        ["not-parallel"],
    ),
    "other groups": (pair(SAME, "group = 2, pads = [1,1,1,1]>(x, g)"), ["not-parallel"]),
    "another reader": (
        pair(SAME, "group = 1>(x, b)", more="z = Tanh(q)", outputs=", double[N,4,J,K] z"),
        ["foreign-reader"],
    ),
    "an output inside": (pair(SAME, "group = 1>(x, b)", outputs=", double[N,4,J,K] q"), ["graph-output"]),
    "a run-time weight": (pair(SAME, "group = 1>(x, z)", inputs=", double[4,4,1,1] z"), ["opaque-producer"]),
    "SAME with a stride on a free size": (
        pair('auto_pad = "SAME_UPPER", strides = [2,2]>(x, a)', "strides = [2,2]>(x, b)", x="N,4,H,12"),
        ["unknown-shape"],
    ),
    "outputs that agree only on odd sizes": (
        pair("pads = [1,1,1,1], strides = [2,2]>(x, a)", "pads = [0,0,1,1], strides = [2,2]>(x, b)", x="N,4,H,W"),
        ["not-parallel"],
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_must_not_merge(name: str) -> None:
    text, reasons = NEAR_MISSES[name]
    result = merged(text, None)
    assert result.rewrites == []
    assert result.reasons == reasons
    assert result.operators.count("Conv") == 2


def test_an_overridable_weight() -> None:
    proto = parsed(pair(SAME, "group = 1>(x, b)"), weights_are_inputs=True)
    assert merged(proto, None).reasons == ["overridable-initializer"]


def test_a_weight_that_is_an_input_is_constant_before_ir_version_4() -> None:
    proto = parsed(pair(SAME, "group = 1>(x, b)"), opset=8, ir_version=3, weights_are_inputs=True)
    session = Session.of(ir.from_proto(proto))
    rewrites, refusals = merge(session.model, session.facts, None, session.affines)
    assert ([rewrite.site for rewrite in rewrites], refusals) == (["sum"], [])


def test_same_padding_with_a_stride_has_its_kernel_elsewhere() -> None:
    """On an even size SAME_UPPER begins with no padding, so the small kernel lies at the first tap, not in the middle."""
    text = pair('auto_pad = "SAME_UPPER", strides = [2,2]>(x, a)', 'auto_pad = "SAME_UPPER", strides = [2,2]>(x, b)')
    result = merged(text, None)
    assert result.attribute("sum", "pads") == [0, 0, 1, 1]
    weight = drawn("a", (4, 4, 3, 3))
    weight[:, :, :1, :1] += drawn("b", (4, 4, 1, 1))
    np.testing.assert_allclose(result.weights["a"], weight, rtol=1e-15)


def test_a_scale_along_another_axis() -> None:
    text = """main (double[B,5,5] x) => (double[B,5,5] y) <double[5,5] w, double[5,5] u, double[5,1] s> {
        p = MatMul(x, w) i = Mul(x, s) [sum] y = Add(p, i) }"""
    result = merged(text, None)
    assert (result.rewrites, result.reasons) == ([], ["not-parallel"])


def test_a_bias_that_differs_from_row_to_row() -> None:
    text = """main (double[5,4] x) => (double[5,6] y) <double[4,6] w, double[4,6] u, double[5,6] c> {
        p = Gemm(x, w, c) q = Gemm(x, u) [sum] y = Add(p, q) }"""
    assert merged(text, None).reasons == ["broadcast"]


def test_a_constant_that_differs_from_place_to_place_stays_in_the_sum() -> None:
    text = """main (double[N,5,4] x) => (double[N,5,6] y) <double[4,6] w, double[4,6] u, double[5,6] c> {
        p = MatMul(x, w) q = MatMul(x, u) s = Add(p, c) [sum] y = Add(s, q) }"""
    result = merged(text, None)
    assert result.operators == ["MatMul", "Add"]
    assert "c" in result.weights


def test_what_would_cost_more_than_before() -> None:
    """Of many channels, a 3×3 kernel costs more than 3×1 and 1×3 together and the Add."""
    block = RepVGG(
        "64,64", 64, kernels=("3,1", "1,3"), attributes=("pads = [1,0,1,0]", "pads = [0,1,0,1]"), identity=False
    )
    result = merged(block.proto(), None)
    assert (result.rewrites, result.reasons) == ([], ["not-worthwhile"])


def test_of_three_those_are_merged_for_which_it_pays() -> None:
    text = """main (double[1,64,32,32] x) => (double[1,64,32,32] y) <double[64,64,3,1] a, double[64,64,1,3] b, double[64,64,1,1] c> {
        [a] p = Conv<pads = [1,0,1,0]>(x, a)
        [b] q = Conv<pads = [0,1,0,1]>(x, b)
        [c] r = Conv(x, c)
        s = Add(p, q)
        [sum] y = Add(s, r) }"""
    result = merged(text, None)
    assert result.operators == ["Conv", "Conv", "Add"]
    assert (len(result.rewrites), result.reasons) == (1, ["not-worthwhile"])


# --- weights that others read ---------------------------------------------------------------------------------------


def test_a_shared_weight_is_not_edited() -> None:
    text = """main (double[N,4] x) => (double[N,4] y, double[N,4] z) <double[4,4] w, double[4,4] u> {
        p = MatMul(x, w) q = MatMul(x, u) [sum] y = Add(p, q) t = Tanh(x) [other] z = MatMul(t, w) }"""
    result = merged(text, None)
    assert result.node("other").input[1] == "w"
    assert (result.weights["w"] == drawn("w", (4, 4))).all()
    assert result.node("sum").op_type == "MatMul"
    assert result.node("sum").input[1] not in ("w", "u")


def test_one_weight_in_both_operators() -> None:
    text = """main (double[N,4] x) => (double[N,4] y) <double[4,4] w> {
        p = MatMul(x, w) q = MatMul(x, w) [sum] y = Add(p, q) }"""
    assert (merged(text, None).weights["w"] == 2 * drawn("w", (4, 4))).all()


def test_weights_in_constant_nodes_and_behind_operators() -> None:
    text = """main (double[N,2] x) => (double[N,2] y) <double[2,2] w> {
        u = Constant<value = double[2,2] {1, 2, 3, 4}>() t = Transpose(w)
        p = MatMul(x, u) q = MatMul(x, t) [sum] y = Add(p, q) }"""
    result = merged(text, None)
    assert result.operators == ["MatMul"]
    weight = np.array([[1, 2], [3, 4]]) + drawn("w", (2, 2)).T
    np.testing.assert_allclose(result.weights[result.node("sum").input[1]], weight, rtol=1e-15)


def test_a_quantized_weight_stays_quantized() -> None:
    text = """main (float[N,4] x) => (float[N,4] y) <int8[4,4] w, float s = {0.5}, float[4,4] u> {
        d = DequantizeLinear(w, s) p = MatMul(x, d) q = MatMul(x, u) [sum] y = Add(p, q) }"""
    result = merged(text, None, opset=21, ir_version=10)
    assert (result.rewrites, result.reasons) == ([], ["quantized-weights"])


# --- elsewhere ------------------------------------------------------------------------------------------------------

BODY = """
    main (double[N,4] x, bool c) => (double[N,4] y) <double[4,4] w, double[4,4] u> {
        t = Tanh(x)
        y = If (c) <
            then_branch = yes () => (double[N,4] a) { [p] p = MatMul(t, w) q = MatMul(t, u) [sum] a = Add(p, q) },
            else_branch = no () => (double[N,4] b) { b = Relu(t) }>
    }"""


def test_inside_control_flow() -> None:
    proto = parsed(BODY)
    result = merged(proto, None)
    branch = result.proto.graph.node[-1].attribute[0].g
    assert [(node.op_type, node.name, list(node.output)) for node in branch.node] == [("MatMul", "sum", ["a"])]
    assert set(result.weights) == {"w"}


def test_an_operator_outside_of_the_body_stays_there() -> None:
    text = BODY.replace("t = Tanh(x)", "t = Tanh(x) q = MatMul(t, u)").replace(" q = MatMul(t, u) [sum]", " [sum]")
    assert merged(text, None).rewrites == []


def test_a_trial_changes_the_graph_without_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session.of(ir.from_proto(RepVGG().proto()), proving=False)
    monkeypatch.setattr("normswap.merge.merger.equation", lambda *_: pytest.fail("proved"))
    rewrites, _ = merge(session.model, session.facts, None, session.affines, proving=False)
    assert [rewrite.proof.obligations for rewrite in rewrites] == [0]
    assert [node.op_type for node in session.model.graph] == ["Conv"]


def test_the_result_agrees_to_the_last_digits() -> None:
    assert merged(RepVGG().proto(), None, agreement=AGREEMENT / 1000).rewrites[0].proof.max_relative_error < 1e-14
