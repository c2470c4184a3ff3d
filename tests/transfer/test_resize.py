"""Resize and Upsample pass every map along axes that keep their size, and nothing along the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from normswap.transfer import Request, Step
from tests.steps import Case, all_at_once, blocks, center, obligation_of, passes, scale, scale_and_shift, uniform

BY_SCALES = "float[4] scales = {1.0, 1.0, 2.0, 1.5}"
BY_SIZES = "int64[4] sizes = {2, 8, 9, 7}"
COMPUTED = """
    main (double[B,8,H,W] x, double[B,8,K,L] like) => (double[B,8,K,L] y) <int64[1] channels = {8}> {
        batch = Shape<start = 0, end = 1>(x)
        target = Shape<start = 2>(like)
        sizes = Concat<axis = 0>(batch, channels, target)
        [n] y = Resize(x, , , sizes)
    }"""
RUNTIME = "main (double[B,8,6,7] x, float[4] scales) => (double[K,L,M,N] y) { [n] y = Resize(x, , scales) }"


def resize(given: str = "", constants: str = BY_SCALES, x: str = "2,8,6,7") -> str:
    operands = "x, , scales" if "scales" in constants else "x, , , sizes"
    call = f"Resize<{given}>({operands})" if given else f"Resize({operands})"
    return f"main (double[{x}] x) => (double[K,L,M,N] y) <{constants}> {{ [n] y = {call} }}"


def upsample(scales: str = "1.0, 1.0, 2.0, 3.0", given: str = "") -> str:
    call = f"Upsample<{given}>(x, scales)" if given else "Upsample(x, scales)"
    return f"main (double[B,8,6,7] x) => (double[K,L,M,N] y) <float[4] scales = {{{scales}}}> {{ [n] y = {call} }}"


MODES = {
    "nearest, rounded up": 'mode = "nearest", nearest_mode = "ceil"',
    "linear": 'mode = "linear"',
    "linear between corners": 'mode = "linear", coordinate_transformation_mode = "align_corners"',
    "cubic without what is outside": 'mode = "cubic", exclude_outside = 1, cubic_coeff_a = -0.5',
}
SMALLER = "float[4] scales = {1.0, 1.0, 0.5, 0.6}"
PASSES = {
    **{f"Resize pull, {name}": Case(resize(given), all_at_once(4, 1, 8)) for name, given in MODES.items()},
    "Resize push": Case(resize(), all_at_once(4, 1, 8), 0),
    "Resize push linear": Case(resize('mode = "linear"'), scale_and_shift(4, 1, 8), 0),
    "Resize pull smaller, with a filter": Case(
        resize('mode = "linear", antialias = 1', SMALLER), all_at_once(4, 1, 8), opset=18
    ),
    "Resize push smaller, with a cubic filter": Case(
        resize('mode = "cubic", antialias = 1', SMALLER), all_at_once(4, 1, 8), 0, opset=18
    ),
    "Resize pull to sizes": Case(resize('mode = "linear"', BY_SIZES), all_at_once(4, 1, 8)),
    "Resize push along an axis that keeps its size": Case(resize("", BY_SIZES), scale_and_shift(4, 3, 7), 0),
    "Resize pull to sizes of run time": Case(COMPUTED, all_at_once(4, 1, 8)),
    "Resize push two axes": Case(
        resize("axes = [2, 3]", "float[2] scales = {2.0, 1.5}"), all_at_once(4, 1, 8), 0, opset=18
    ),
    "Resize pull as large as fits": Case(
        resize('axes = [2, 3], keep_aspect_ratio_policy = "not_larger"', "int64[2] sizes = {9, 7}"),
        all_at_once(4, 1, 8),
        opset=18,
    ),
    "Resize pull one scale and shift": Case(resize(), uniform(4, -2.0, 3.0)),
    "Upsample pull": Case(upsample(), all_at_once(4, 1, 8), opset=9),
    "Upsample push": Case(upsample(), all_at_once(4, 1, 8), 0, opset=9),
}
# onnx has no definition of these, or one whose weights are rounded to float32.
ONLY_PROVED = {
    "Resize pull cubic": Case(resize('mode = "cubic"'), all_at_once(4, 1, 8)),
    "Resize push cubic from corner to corner": Case(
        resize('mode = "cubic", coordinate_transformation_mode = "asymmetric"'), scale_and_shift(4, 1, 8), 0
    ),
    "Resize pull linear, without a region": Case(
        resize('mode = "linear"').replace("x, , scales", "x, scales"), all_at_once(4, 1, 8), opset=10
    ),
    "Upsample pull, factors by attribute": Case(
        """main (double[B,8,6,7] x) => (double[K,L,M,N] y) {
            [n] y = Upsample<mode = "nearest", scales = [1.0, 1.0, 2.0, 3.0]>(x)
        }""",
        all_at_once(4, 1, 8),
        opset=7,
    ),
    "Upsample pull linear": Case(upsample(given='mode = "linear"'), all_at_once(4, 1, 8), opset=9),
    "Upsample push by a half more": Case(upsample("1.0, 1.0, 1.5, 1.0"), scale_and_shift(4, 1, 8), 0, opset=9),
}
BLOCKS = {
    "Resize pull along a resized axis": (Case(resize(), scale(4, 2, 12)), "does-not-commute"),
    "Resize push along a resized axis": (Case(resize("", BY_SIZES), scale(4, 2, 6), 0), "does-not-commute"),
    "Resize pull along an axis that may be resized": (
        Case(
            resize('axes = [2, 3], keep_aspect_ratio_policy = "not_smaller"', "int64[2] sizes = {6, 7}"),
            scale(4, 2, 6),
            opset=18,
        ),
        "does-not-commute",
    ),
    "Resize pull past a constant from outside": (
        Case(resize('coordinate_transformation_mode = "tf_crop_and_resize"'), uniform(4, 2.0)),
        "does-not-commute",
    ),
    "Resize push, factors of run time": (Case(RUNTIME, all_at_once(4, 1, 8), 0), "unknown-shape"),
    "Resize push to its factors": (Case(RUNTIME, uniform(1, 2.0), 2), "does-not-commute"),
    "Upsample pull along a resized axis": (Case(upsample(), center(4, 3, 21), opset=9), "does-not-commute"),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize("case", ONLY_PROVED.values(), ids=ONLY_PROVED)
def test_it_is_proved(case: Case) -> None:
    told = case.scenario()
    step = case.answer(told)
    assert isinstance(step, Step)
    assert obligation_of(told, step, pulls=case.at is None).holds


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id


def test_a_large_value_is_proved_on_a_small_one() -> None:
    step = passes(Case(resize(x="2,8,30,40"), all_at_once(4, 1, 8)))
    assert step.probes[0] == (5, 8, 5, 5)


# --- mistakes -------------------------------------------------------------------------------------------------------


def as_it_is(step: Step | None, request: Request) -> Step:
    """The same map on both sides, whatever stands in its way."""
    return Step(inputs={0: request.map}, outputs={0: request.map})


CROPPED = """
    main (double[2,8,6,7] x) => (double[K,L,M,N] y)
    <double[8] region = {0.0, 0.0, -0.5, -0.5, 1.0, 1.0, 1.5, 1.5}, float[4] scales = {1.0, 1.0, 2.0, 2.0}>
    { [n] y = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">(x, region, scales) }"""
SAME_SIZE = "float[4] scales = {1.0, 1.0, 1.1, 1.0}"
MUTANTS: dict[str, tuple[Case, Callable[..., Step]]] = {
    "a shift past a constant from outside": (Case(CROPPED, uniform(4, 1.0, 3.0)), as_it_is),
    "a factor along an axis that is resized to its own size": (
        Case(resize('mode = "linear"', SAME_SIZE), scale(4, 2, 6), 0),
        as_it_is,
    ),
    "another factor in the output": (
        PASSES["Resize push"],
        lambda step, request: Step(inputs=step.inputs, outputs={0: uniform(4, 2.0)}),
    ),
}


@pytest.mark.parametrize(("case", "mistake"), MUTANTS.values(), ids=MUTANTS)
def test_the_proof_catches_a_mistake(case: Case, mistake: Callable[..., Step]) -> None:
    told = case.scenario()
    wrong = mistake(case.answer(told), Request(told.node("n"), case.map, case.at, told.facts))
    assert obligation_of(told, wrong, pulls=case.at is None).failure.startswith("differs by")
