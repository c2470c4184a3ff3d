"""Averages over positions pass maps along channels; sums and averages along the map's own axis do not."""

from __future__ import annotations

import pytest

from tests.steps import Case, all_at_once, blocks, center, heads, passes, scale, scale_and_shift, shift


def reduce(operator: str, axes: str = "1", keepdims: int = 1, x: str = "B,S,8") -> str:
    """A reduction of x whose axes are an input."""
    return f"""
        main (double[{x}] x) => (double[{"K,L,M" if keepdims else "K,M"}] y)
        <int64[{axes.count(",") + 1}] axes = {{{axes}}}> {{ [n] y = {operator}<keepdims = {keepdims}>(x, axes) }}"""


def attributes(operator: str, keepdims: int = 1) -> str:
    shape = "K,L,M" if keepdims else "K,M"
    call = f"{operator}<axes = [1], keepdims = {keepdims}>(x)"
    return f"main (double[B,S,8] x) => (double[{shape}] y) {{ [n] y = {call} }}"


def pool(operator: str, given: str = "") -> str:
    call = f"{operator}<{given}>(x)" if given else f"{operator}(x)"
    return f"main (double[B,8,6,7] x) => (double[K,L,M,N] y) {{ [n] y = {call} }}"


PADDED = "kernel_shape = [2, 2], pads = [1, 1, 1, 1]"
PASSES = {
    "ReduceMean pull": Case(reduce("ReduceMean"), all_at_once(3, 2, 8), opset=18),
    "ReduceMean pull without the axis": Case(reduce("ReduceMean", keepdims=0), all_at_once(2, 1, 8), opset=18),
    "ReduceMean pull, axes as attribute": Case(attributes("ReduceMean", 0), all_at_once(2, 1, 8)),
    "ReduceMean pull, a negative axis as attribute": Case(
        attributes("ReduceMean", 0).replace("[1]", "[-2]"), all_at_once(2, 1, 8)
    ),
    "ReduceMean push": Case(reduce("ReduceMean"), all_at_once(3, 2, 8), 0, opset=18),
    "ReduceMean push without the axis": Case(reduce("ReduceMean", "-2", 0), all_at_once(3, 2, 8), 0, opset=18),
    "ReduceSum pull": Case(reduce("ReduceSum"), center(3, 2, 8)),
    "ReduceSum push": Case(reduce("ReduceSum", keepdims=0), scale(3, 2, 8), 0),
    "GlobalAveragePool pull": Case(pool("GlobalAveragePool"), all_at_once(4, 1, 8)),
    "GlobalAveragePool push": Case(pool("GlobalAveragePool"), all_at_once(4, 1, 8), 0),
    "AveragePool pull": Case(pool("AveragePool", PADDED), all_at_once(4, 1, 8)),
    "AveragePool push": Case(pool("AveragePool", PADDED), scale_and_shift(4, 1, 8), 0),
    "AveragePool pull scale with padding counted": Case(
        pool("AveragePool", PADDED + ", count_include_pad = 1"), heads(4, 1, 8, 2)
    ),
}
BLOCKS = {
    "ReduceMean push along the map": (Case(reduce("ReduceMean", "2"), center(3, 2, 8), 0, opset=18), "foreign-reader"),
    "ReduceMean over axes of run time": (
        Case(
            "main (double[B,S,8] x, int64[1] axes) => (double[K,L,M] y) { [n] y = ReduceMean(x, axes) }",
            center(3, 2, 8),
            opset=18,
        ),
        "unknown-shape",
    ),
    "ReduceSum pull shift": (Case(reduce("ReduceSum"), shift(3, 2, 8)), "elementwise-scale"),
    "ReduceSum push shift": (Case(reduce("ReduceSum"), shift(3, 2, 8), 0), "elementwise-scale"),
    "GlobalAveragePool push along positions": (Case(pool("GlobalAveragePool"), center(4, 2, 6), 0), "opaque-producer"),
    "AveragePool pull along positions": (Case(pool("AveragePool", PADDED), center(4, 2, 7)), "opaque-producer"),
    "AveragePool pull shift with padding counted": (
        Case(pool("AveragePool", PADDED + ", count_include_pad = 1"), shift(4, 1, 8)),
        "zero-padding",
    ),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id
