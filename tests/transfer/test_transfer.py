"""Every operator of the table has cases in both directions, and one in which it blocks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from normswap.reasons import REASONS
from normswap.transfer import TRANSFERS, Request, Step, transfer
from tests.graphs import parsed, scenario, with_weights
from tests.steps import Case, blocks, center, passes, shift, uniform
from tests.transfer import (
    test_attention,
    test_convolution,
    test_einsum,
    test_elementwise,
    test_layout,
    test_linear,
    test_normalization,
    test_pad,
    test_piecewise,
    test_pooling,
    test_recurrent,
    test_resize,
)

MODULES = (
    test_attention,
    test_convolution,
    test_einsum,
    test_elementwise,
    test_layout,
    test_linear,
    test_normalization,
    test_pad,
    test_piecewise,
    test_pooling,
    test_recurrent,
    test_resize,
)
# Through which no map can pass in one of the directions, and those that never block a map they can carry.
ONE_WAY = {
    "Where": "pull",
    "Softmax": "push",
    "LogSoftmax": "push",
    "Shape": "push",
    "Size": "push",
    "GRU": "push",
    "LSTM": "push",
    "RNN": "push",
}
NEVER_BLOCK = {
    "Neg", "Identity", "Sum", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "DepthToSpace", "SpaceToDepth", "ReduceMean",
}  # fmt: skip


def operator(case: Case) -> str:
    return next(node.op_type for node in parsed(case.text, case.opset).graph.node if node.name == "n")


def passing() -> Iterator[Case]:
    for module in MODULES:
        yield from module.PASSES.values()


def test_every_operator_passes_a_map_in_both_directions() -> None:
    seen = {(operator(case), "pull" if case.at is None else "push") for case in passing()}
    expected = {
        (name, direction)
        for name in TRANSFERS
        for direction in ("pull", "push")
        if ONE_WAY.get(name, direction) == direction
    }
    assert expected - seen == set()


def test_every_operator_blocks_a_map_that_it_cannot_carry() -> None:
    seen = {operator(case) for module in MODULES for case, _ in module.BLOCKS.values()}
    assert set(TRANSFERS) - seen == NEVER_BLOCK - seen


def test_every_reason_is_in_the_table() -> None:
    assert {reason_id for module in MODULES for _, reason_id in module.BLOCKS.values()} <= REASONS.keys()


UNKNOWN = "main (double[B,S,8] x) => (double[B,S,8] y) { [n] y = Tanh(x) }"


@pytest.mark.parametrize(("at", "reason_id"), [(None, "opaque-producer"), (0, "foreign-reader")])
def test_an_operator_that_is_not_in_the_table_blocks(at: int | None, reason_id: str) -> None:
    assert blocks(Case(UNKNOWN, center(3, 2, 8), at)) == reason_id


def test_an_operator_of_another_domain_that_has_a_name_of_the_table_blocks() -> None:
    text = "main (float[B,S,8] x) => (float[B,S,8] y) <float[8,8] w> { [n] y = com.microsoft.Gemm(x, w) }"
    model = parsed(text.replace("com.microsoft.Gemm", "MatMul"))
    model.graph.node[0].domain = "com.microsoft"
    told = scenario(model)
    assert Case(text, center(3, 2, 8)).answer(told).reason_id == "opaque-producer"  # type: ignore[union-attr]


QUANTIZED = """
    main (double[B,S,6] x) => (double[B,S,8] y) <int8[6,8] q, float scale = {0.1}> {
        f = DequantizeLinear(q, scale)
        w = Cast<to = 11>(f)
        [n] y = MatMul(x, w)
    }"""


def test_a_weight_that_is_stored_quantized_stays_as_it_is() -> None:
    assert blocks(Case(QUANTIZED, center(3, 2, 8))) == "quantized-weights"


def test_a_weight_that_is_computed_from_constants_is_a_constant() -> None:
    text = """
        main (double[B,S,6] x) => (double[B,S,8] y) <double[8,6] q> {
            w = Transpose(q)
            [n] y = MatMul(x, w)
        }"""
    assert passes(Case(text, center(3, 2, 8))).constants.keys() == {1}


def test_behind_a_factor_of_zero_no_shift_is_left() -> None:
    told = scenario(
        with_weights(parsed("main (double[B,8] x) => (double[B,8] y) <double[8] z> { [n] y = Mul(x, z) }"), z=[0.0] * 8)
    )
    step = transfer(Request(told.node("n"), shift(2, 1, 8), 0, told.facts))
    assert isinstance(step, Step)
    assert step.inputs.keys() == {0}
    assert step.outputs == {}


def test_a_map_looks_at_no_axis_without_need() -> None:
    told = scenario(
        with_weights(parsed("main (double[B,8] x) => (double[B,8] y) <double[8] z> { [n] y = Mul(x, z) }"), z=[2.0] * 8)
    )
    step = transfer(Request(told.node("n"), uniform(2, shift=3.0), 0, told.facts))
    assert isinstance(step, Step)
    assert step.outputs[0].shift.shape == (1, 1)
