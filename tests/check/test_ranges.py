"""What may be fed to an input, found from what the graph does with it."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from normswap.check.ranges import Ids, Lengths, Mask, Numbers, OneOf, Positions, role


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g (int64[N] i) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = Gather(w, i) }", Ids(3)),
        (
            """g (int32[N] i) => (float[1, N, 2] y)
            <float[3, 2] w = {1, 2, 3, 4, 5, 6}, int64[1] a = {0}, int64[1] two = {2}> {
                b = Cast<to = 7>(i)
                c = Unsqueeze(b, a)
                d = Add(c, two)
                y = Gather(w, d) }""",
            Ids(1),
        ),
        (
            """g (int64[N] i) => (float[N, 2] y, float[2, N] z) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
                y = Gather(w, i)
                t = Transpose<perm = [1, 0]>(w)
                z = Gather<axis = 0>(t, i) }""",
            Ids(2),
        ),
        (
            """g (int64[N] position_ids) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}>
            { y = Gather(w, position_ids) }""",
            Positions(2),
        ),
        ("g (int64[N] position_ids) => (float[N] y) { y = Cast<to = 1>(position_ids) }", Positions(None)),
        ("g (int64[N] attention_mask) => (float[N] y) { y = Cast<to = 1>(attention_mask) }", Mask()),
        ("g (int64[N] i) => (int64[N] y) { zero = Constant<value = int64 {0}>()\n y = CumSum(i, zero) }", Mask()),
        ("g (bool[N] keep) => (bool[N] y) { y = Not(keep) }", Mask()),
        (
            "g (float[N, 1, S, S] mask, float[N, 4, S, S] x) => (float[N, 4, S, S] y) { y = Add(x, mask) }",
            Mask(additive=True),
        ),
        ("g (float[N, S] attention_mask) => (float[N, S] y) { y = Neg(attention_mask) }", Mask()),
        (
            """g (int64 rate) => (bool y) <int64 slow = {8000}, int64 fast = {16000}>
            { a = Equal(rate, fast)
 b = Equal(slow, rate)
 y = Or(a, b) }""",
            OneOf((8000, 16000)),
        ),
        (
            """g (int32[N] n, float[T, N, 1] x, float[1, 1, 1] w, float[1, 1, 1] r) => (float[T, 1, N, 1] y)
            { y = RNN<hidden_size = 1>(x, w, r, , n) }""",
            Lengths(),
        ),
        ("g (uint8[N, 3] image) => (float[N, 3] y) { y = Cast<to = 1>(image) }", Numbers(256)),
        ("g (int64[N] i) => (float[N] y) { y = Cast<to = 1>(i) }", Numbers(2)),
        ("g (float[N] x) => (float[N] y) { y = Neg(x) }", Numbers()),
    ],
)
def test_role(text, expected):
    assert role(parse(text).graph.inputs[0]) == expected


def test_role_of_an_input_that_a_subgraph_captures():
    model = parse(
        """g (int64[N] i, bool c) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
            y = If(c) <then_branch = a () => (float[N, 2] p) { p = Gather(w, i) },
                       else_branch = b () => (float[N, 2] q) { q = Gather(w, i) }> }"""
    )
    assert role(model.graph.inputs[0]) == Ids(3)
