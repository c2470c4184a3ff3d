"""Averages, sums and maxima over positions pass maps along channels; those along the map's own axis do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from normswap import maps
from normswap.maps import Map
from normswap.transfer import Request, Step
from normswap.transfer.passing import times
from tests.steps import Case, all_at_once, blocks, center, heads, obligation_of, passes, scale, scale_and_shift, shift


def positive(rank: int, axis: int, size: int) -> Map:
    """Another positive factor, and another shift, at each place of an axis."""
    both = scale_and_shift(rank, axis, size)
    return maps.affine(rank, np.abs(both.scale), both.offset())


def zero(rank: int, axis: int, size: int) -> Map:
    """A factor of zero in the first place of an axis."""
    factors = positive(rank, axis, size).scale.copy()
    factors.flat[0] = 0.0
    return maps.affine(rank, scale=factors)


def reduce(operator: str, axes: str = "1", keepdims: int = 1, x: str = "B,S,8") -> str:
    """A reduction of x whose axes are an input."""
    return f"""
        main (double[{x}] x) => (double[{"K,L,M" if keepdims else "K,M"}] y)
        <int64[{axes.count(",") + 1}] axes = {{{axes}}}> {{ [n] y = {operator}<keepdims = {keepdims}>(x, axes) }}"""


def attributes(operator: str, keepdims: int = 1, x: str = "B,S,8") -> str:
    shape = "K,L,M" if keepdims else "K,M"
    call = f"{operator}<axes = [1], keepdims = {keepdims}>(x)"
    return f"main (double[{x}] x) => (double[{shape}] y) {{ [n] y = {call} }}"


def pool(operator: str, given: str = "", x: str = "B,8,6,7", y: str = "K,L,M,N") -> str:
    call = f"{operator}<{given}>(x)" if given else f"{operator}(x)"
    return f"main (double[{x}] x) => (double[{y}] y) {{ [n] y = {call} }}"


WITH_PLACES = """
    main (double[B,8,6,7] x) => (double[B,8,K,L] y, int64[B,8,K,L] places) {
        [n] y, places = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
    }"""
PADDED = "kernel_shape = [2, 2], pads = [1, 1, 1, 1]"
COUNTED = ", count_include_pad = 1"
RUNTIME_AXES = "main (double[B,S,8] x, int64[1] axes) => (double[K,L,M] y) { [n] y = ReduceMean(x, axes) }"
PASSES = {
    "ReduceMean pull": Case(reduce("ReduceMean"), all_at_once(3, 2, 8), opset=18),
    "ReduceMean pull without the axis": Case(reduce("ReduceMean", keepdims=0), all_at_once(2, 1, 8), opset=18),
    "ReduceMean pull, axes as attribute": Case(attributes("ReduceMean", 0), all_at_once(2, 1, 8)),
    "ReduceMean pull, a negative axis as attribute": Case(
        attributes("ReduceMean", 0).replace("[1]", "[-2]"), all_at_once(2, 1, 8)
    ),
    "ReduceMean push": Case(reduce("ReduceMean"), all_at_once(3, 2, 8), 0, opset=18),
    "ReduceMean push without the axis": Case(reduce("ReduceMean", "-2", 0), all_at_once(3, 2, 8), 0, opset=18),
    "ReduceMean pull, wide positions": Case(attributes("ReduceMean", x="B,40,8"), all_at_once(3, 2, 8)),
    "ReduceSum pull": Case(reduce("ReduceSum"), center(3, 2, 8)),
    "ReduceSum pull shift": Case(reduce("ReduceSum", x="B,40,8"), all_at_once(3, 2, 8)),
    "ReduceSum pull shift over two axes": Case(
        reduce("ReduceSum", "-1, 1", x="B,5,8,3").replace("K,L,M", "K,L,M,N"), scale_and_shift(4, 2, 8)
    ),
    "ReduceSum push": Case(reduce("ReduceSum", keepdims=0), scale(3, 2, 8), 0),
    "ReduceSum push shift": Case(reduce("ReduceSum", keepdims=0, x="B,5,8"), all_at_once(3, 2, 8), 0),
    "ReduceMax pull": Case(attributes("ReduceMax"), positive(3, 2, 8)),
    "ReduceMax push": Case(attributes("ReduceMax", 0), positive(3, 2, 8), 0),
    "ReduceMax pull, axes as input": Case(reduce("ReduceMax", keepdims=0), zero(2, 1, 8), opset=18),
    "ReduceMin pull": Case(attributes("ReduceMin", 0), positive(2, 1, 8)),
    "ReduceMin push": Case(attributes("ReduceMin"), positive(3, 2, 8), 0),
    "GlobalAveragePool pull": Case(pool("GlobalAveragePool"), all_at_once(4, 1, 8)),
    "GlobalAveragePool push": Case(pool("GlobalAveragePool"), all_at_once(4, 1, 8), 0),
    "GlobalMaxPool pull": Case(pool("GlobalMaxPool"), positive(4, 1, 8)),
    "GlobalMaxPool push": Case(pool("GlobalMaxPool"), positive(4, 1, 8), 0),
    "AveragePool pull": Case(pool("AveragePool", PADDED), all_at_once(4, 1, 8)),
    "AveragePool push": Case(pool("AveragePool", PADDED), scale_and_shift(4, 1, 8), 0),
    "AveragePool pull scale with padding counted": Case(pool("AveragePool", PADDED + COUNTED), heads(4, 1, 8, 2)),
    "AveragePool push scale with padding counted": Case(pool("AveragePool", PADDED + COUNTED), scale(4, 1, 8), 0),
    "AveragePool pull shift without padding to count": Case(
        pool("AveragePool", "kernel_shape = [2, 3], strides = [2, 1]" + COUNTED), scale_and_shift(4, 1, 8)
    ),
    "AveragePool pull shift, VALID": Case(
        pool("AveragePool", 'kernel_shape = [2, 3], auto_pad = "VALID"' + COUNTED), scale_and_shift(4, 1, 8)
    ),
    "AveragePool pull, SAME_UPPER": Case(
        pool("AveragePool", 'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"'),
        scale_and_shift(4, 1, 8),
    ),
    "AveragePool pull, last window beyond the end": Case(
        pool("AveragePool", "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1"), scale_and_shift(4, 1, 8)
    ),
    "MaxPool pull": Case(pool("MaxPool", PADDED), positive(4, 1, 8)),
    "MaxPool push": Case(pool("MaxPool", PADDED), positive(4, 1, 8), 0),
    "MaxPool pull factors of zero": Case(pool("MaxPool", "kernel_shape = [3, 3], strides = [2, 2]"), zero(4, 1, 8)),
    "MaxPool pull, strides, dilations, pads and last window": Case(
        pool(
            "MaxPool", "kernel_shape = [3, 2], strides = [2, 2], dilations = [1, 2], pads = [1, 1, 1, 1], ceil_mode = 1"
        ),
        positive(4, 1, 8),
    ),
    "MaxPool push, SAME_LOWER": Case(
        pool("MaxPool", 'kernel_shape = [3, 3], strides = [1, 1], auto_pad = "SAME_LOWER"'), positive(4, 1, 8), 0
    ),
    "MaxPool pull, a window larger than the input": Case(
        pool("MaxPool", "kernel_shape = [13, 13], pads = [6, 6, 6, 6]"), positive(4, 1, 8)
    ),
    "MaxPool pull along one axis": Case(
        pool("MaxPool", "kernel_shape = [3], strides = [2]", "B,8,7", "K,L,M"), positive(3, 1, 8)
    ),
    "MaxPool pull with places": Case(WITH_PLACES, positive(4, 1, 8)),
    "MaxPool push with places": Case(WITH_PLACES, positive(4, 1, 8), 0),
}
BLOCKS = {
    "ReduceMean push along the map": (Case(reduce("ReduceMean", "2"), center(3, 2, 8), 0, opset=18), "foreign-reader"),
    "ReduceMean push over all, as no axes are given": (
        Case(
            "main (double[B,S,8] x) => (double[K,L,M] y) <int64[0] axes = {}> { [n] y = ReduceMean(x, axes) }",
            center(3, 2, 8),
            0,
            opset=18,
        ),
        "foreign-reader",
    ),
    "ReduceMean over axes of run time": (Case(RUNTIME_AXES, center(3, 2, 8), opset=18), "unknown-shape"),
    "ReduceSum pull a shift of a free number": (Case(reduce("ReduceSum"), shift(3, 2, 8)), "unknown-shape"),
    "ReduceSum push a shift of a free number": (Case(reduce("ReduceSum"), shift(3, 2, 8), 0), "unknown-shape"),
    "ReduceMax pull a negative factor": (Case(attributes("ReduceMax"), scale(3, 2, 8)), "negative-scale"),
    "ReduceMax push along the map": (
        Case(attributes("ReduceMax").replace("[1]", "[2]"), positive(3, 2, 8), 0),
        "foreign-reader",
    ),
    "ReduceMin push a negative factor": (Case(attributes("ReduceMin"), scale(3, 2, 8), 0), "negative-scale"),
    "ReduceMin pull a center": (Case(attributes("ReduceMin"), center(3, 2, 8)), "does-not-commute"),
    "GlobalAveragePool push along positions": (Case(pool("GlobalAveragePool"), center(4, 2, 6), 0), "opaque-producer"),
    "GlobalMaxPool pull a negative factor": (Case(pool("GlobalMaxPool"), scale(4, 1, 8)), "negative-scale"),
    "AveragePool pull along positions": (Case(pool("AveragePool", PADDED), center(4, 2, 7)), "opaque-producer"),
    "AveragePool pull shift with padding counted": (
        Case(pool("AveragePool", PADDED + COUNTED), shift(4, 1, 8)),
        "zero-padding",
    ),
    "AveragePool push shift with padding counted": (
        Case(pool("AveragePool", 'kernel_shape = [2, 2], auto_pad = "SAME_UPPER"' + COUNTED), shift(4, 1, 8), 0),
        "zero-padding",
    ),
    "AveragePool pull shift with a last window that may be counted": (
        Case(pool("AveragePool", "kernel_shape = [2, 2], ceil_mode = 1" + COUNTED), shift(4, 1, 8)),
        "zero-padding",
    ),
    "MaxPool pull a negative factor": (Case(pool("MaxPool", PADDED), scale(4, 1, 8)), "negative-scale"),
    "MaxPool push a negative factor": (Case(pool("MaxPool", PADDED), scale(4, 1, 8), 0), "negative-scale"),
    "MaxPool pull a center": (Case(pool("MaxPool", PADDED), center(4, 1, 8)), "does-not-commute"),
    "MaxPool push a factor of zero with places": (Case(WITH_PLACES, zero(4, 1, 8), 0), "does-not-commute"),
    "MaxPool pull to places": (Case(WITH_PLACES, positive(4, 1, 8), output=1), "opaque-producer"),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id


@pytest.mark.parametrize("x", ["B,8,5", "B,8,5,4,3"])
def test_a_global_maximum_has_any_number_of_axes(x: str) -> None:
    """The yardstick of the other cases, onnx's own operator, has two."""
    rank = x.count(",") + 1
    text = f"main (double[{x}] x) => (double[{'K,L,M,N,O'[: 2 * rank - 1]}] y) {{ [n] y = GlobalMaxPool(x) }}"
    case = Case(text, positive(rank, 1, 8))
    told = case.scenario()
    step = case.answer(told)
    assert isinstance(step, Step)
    assert obligation_of(told, step, pulls=True).holds


# --- mistakes -------------------------------------------------------------------------------------------------------


def as_it_is(step: Step | None, request: Request) -> Step:
    """The same map on both sides, whatever stands in its way."""
    return Step(inputs={0: request.map}, outputs={0: request.map})


def shift_times(factor: float) -> Callable[[Step, Request], Step]:
    """Another shift on the side that the map does not come from."""

    def mistake(step: Step, request: Request) -> Step:
        if request.pulls:
            return replace(step, inputs={0: times(step.inputs[0], factor)})
        return replace(step, outputs={0: times(step.outputs[0], factor)})

    return mistake


MUTANTS: dict[str, tuple[Case, Callable[..., Step]]] = {
    "the shift of a sum as it is": (PASSES["ReduceSum pull shift"], shift_times(40.0)),
    "the shift of a sum times the wrong number": (PASSES["ReduceSum push shift"], shift_times(8.0 / 5.0)),
    "the shift of a sum the wrong way": (PASSES["ReduceSum push shift"], shift_times(1.0 / 25.0)),
    "a negative factor through ReduceMax": (BLOCKS["ReduceMax pull a negative factor"][0], as_it_is),
    "a negative factor through ReduceMin": (BLOCKS["ReduceMin push a negative factor"][0], as_it_is),
    "a center through ReduceMin": (BLOCKS["ReduceMin pull a center"][0], as_it_is),
    "a map along the mean's own axis": (
        Case(attributes("ReduceMean").replace("[1]", "[2]"), scale(3, 2, 8), 0),
        lambda step, request: Step(inputs={0: request.map}),
    ),
    "a negative factor through MaxPool": (BLOCKS["MaxPool pull a negative factor"][0], as_it_is),
    "a negative factor down through MaxPool": (BLOCKS["MaxPool push a negative factor"][0], as_it_is),
    "a negative factor through GlobalMaxPool": (BLOCKS["GlobalMaxPool pull a negative factor"][0], as_it_is),
    "a center through MaxPool": (BLOCKS["MaxPool pull a center"][0], as_it_is),
    "a factor of zero through MaxPool with places": (BLOCKS["MaxPool push a factor of zero with places"][0], as_it_is),
    "a shift through an average that counts its padding": (
        BLOCKS["AveragePool pull shift with padding counted"][0],
        as_it_is,
    ),
    "a shift down through an average that counts its padding": (
        BLOCKS["AveragePool push shift with padding counted"][0],
        as_it_is,
    ),
    "a shift through an average that counts what it pads to the same size": (
        Case(
            pool(
                "AveragePool", 'kernel_shape = [2, 2], strides = [3, 3], auto_pad = "SAME_LOWER"' + COUNTED, "B,8,7,10"
            ),
            scale_and_shift(4, 1, 8),
        ),
        as_it_is,
    ),
    "a map along pooled positions": (
        Case(pool("AveragePool", "kernel_shape = [3, 1], pads = [1, 0, 1, 0]"), scale(4, 2, 6)),
        as_it_is,
    ),
    "only the shift forgotten": (
        PASSES["AveragePool push"],
        lambda step, request: replace(step, outputs={0: maps.linear(request.map)}),
    ),
}


@pytest.mark.parametrize(("case", "mistake"), MUTANTS.values(), ids=MUTANTS)
def test_the_proof_catches_a_mistake(case: Case, mistake: Callable[..., Step]) -> None:
    told = case.scenario()
    wrong = mistake(case.answer(told), Request(told.node("n"), case.map, case.at, told.facts))
    assert obligation_of(told, wrong, pulls=case.at is None).failure.startswith("differs by")
