"""Pad passes a map with its value mapped; what looks at some axis only where the value stays zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from normswap import maps
from normswap.transfer import Request, Step
from tests.steps import (
    Case,
    all_at_once,
    blocks,
    center,
    obligation_of,
    passes,
    scale,
    scale_and_shift,
    shift,
    uniform,
)

SPACE = "int64[8] pads = {0, 0, 1, 2, 0, 0, 3, 0}"


def pad(constants: str = SPACE, mode: str = "", operands: str = "x, pads", more: str = "") -> str:
    given = f'<mode = "{mode}">' if mode else ""
    x, y = "double[2,8,6,7] x", "double[K,L,M,N] y"
    return f"main ({x}{more}) => ({y}) <{constants}> {{ [n] y = Pad{given}({operands}) }}"


def valued(number: float, kind: str = "double") -> str:
    return pad(f"{SPACE}, {kind} value = {{{number}}}", operands="x, pads, value")


def by_attributes(given: str) -> str:
    return f"main (double[2,8,6,7] x) => (double[K,L,M,N] y) {{ [n] y = Pad<pads = [0,0,1,2,0,0,3,0]{given}>(x) }}"


CHANNELS = all_at_once(4, 1, 8)
SCALE, BOTH = scale(4, 1, 8), scale_and_shift(4, 1, 8)
CHOSEN = pad("int64[4] pads = {1, 2, 3, 0}, int64[2] axes = {-2, 3}", operands="x, pads, , axes")
PASSES = {
    "Pad pull scale": Case(pad(), SCALE),
    "Pad push scale": Case(pad(), SCALE, 0),
    "Pad pull center": Case(pad(), center(4, 1, 8)),
    "Pad push center": Case(pad(), center(4, 1, 8), 0),
    "Pad pull one map, no value yet": Case(pad(), uniform(4, -2.0, 3.0)),
    "Pad push one map, no value yet": Case(pad(), uniform(4, -2.0, 3.0), 0),
    "Pad pull the same map in each channel": Case(
        pad(), maps.affine(4, scale=np.full((8, 1, 1), -2.0), shift=np.full((8, 1, 1), 3.0))
    ),
    "Pad pull one map": Case(valued(1.5), uniform(4, -2.0, 3.0)),
    "Pad push one map": Case(valued(1.5), uniform(4, -2.0, 3.0), 0),
    "Pad pull a factor of zero": Case(valued(1.5), uniform(4, 0.0, 3.0)),
    "Pad pull one map, value of one element": Case(valued(1.5, "double[1]"), uniform(4, -2.0, 3.0)),
    "Pad pull zero that is written": Case(valued(0.0), SCALE),
    "Pad push factors of zero": Case(pad(), maps.affine(4, scale=np.zeros((8, 1, 1))), 0),
    "Pad pull one map, value by attribute": Case(by_attributes(", value = 1.5"), uniform(4, -2.0, 3.0), opset=10),
    "Pad push one map, value by attribute": Case(by_attributes(", value = 1.5"), uniform(4, -2.0, 3.0), 0, opset=10),
    "Pad pull one map, no attribute yet": Case(by_attributes(""), uniform(4, -2.0, 3.0), opset=10),
    "Pad push scale by attribute": Case(by_attributes(', mode = "constant"'), SCALE, 0, opset=2),
    "Pad pull some axes": Case(CHOSEN, SCALE, opset=18),
    "Pad push some axes, one map": Case(CHOSEN, uniform(4, -2.0, 3.0), 0, opset=18),
    "Pad pull edge": Case(pad(mode="edge"), CHANNELS),
    "Pad push edge": Case(pad(mode="edge"), CHANNELS, 0),
    "Pad pull reflect": Case(pad(mode="reflect"), CHANNELS),
    "Pad push reflect": Case(by_attributes(', mode = "reflect"'), BOTH, 0, opset=10),
    "Pad pull wrap": Case(pad(mode="wrap"), CHANNELS, opset=19),
    "Pad push wrap": Case(pad(mode="wrap"), CHANNELS, 0, opset=19),
    "Pad pull along its axis": Case(pad("int64[8] pads = {0, 1, 0, 0, 0, 2, 0, 0}"), scale(4, 1, 11)),
    "Pad pull no padding": Case(pad("int64[8] pads = {0, 0, 0, 0, 0, 0, 0, 0}"), BOTH),
}
# onnx takes no numbers away.
ONLY_PROVED = {
    "Pad pull and take away": Case(pad("int64[8] pads = {0, 0, -1, 2, 0, 0, 3, -2}"), uniform(4, -2.0, 3.0)),
}
BLOCKS = {
    "Pad pull a shift per channel": (Case(pad(), shift(4, 1, 8)), "zero-padding"),
    "Pad push a shift per channel": (Case(pad(), shift(4, 1, 8), 0), "zero-padding"),
    "Pad pull a scale of another value": (Case(valued(1.5), SCALE), "zero-padding"),
    "Pad pull center with another value": (Case(valued(1.5), center(4, 1, 8)), "coarser-groups"),
    "Pad push a factor of zero": (Case(valued(1.5), uniform(4, 0.0), 0), "zero-padding"),
    "Pad pull a value of run time": (
        Case(pad(operands="x, pads, value", more=", double value"), uniform(4, 2.0)),
        "zero-padding",
    ),
    "Pad push to the value": (
        Case(pad(operands="x, pads, value", more=", double value"), uniform(0, 2.0), 2),
        "does-not-commute",
    ),
    "Pad pull padding of run time": (
        Case("main (double[2,8] x, int64[4] pads) => (double[K,L] y) { [n] y = Pad(x, pads) }", uniform(2, 2.0)),
        "unknown-shape",
    ),
    "Pad pull edge along its axis": (
        Case(pad("int64[8] pads = {0, 1, 0, 0, 0, 0, 0, 0}", mode="edge"), scale(4, 1, 9)),
        "coarser-groups",
    ),
    "Pad push along its axis": (Case(pad("int64[8] pads = {0, 1, 0, 0, 0, 0, 0, 0}"), SCALE, 0), "coarser-groups"),
    "Pad pull a shift along its axis": (
        Case(pad("int64[8] pads = {0, 1, 0, 0, 0, 0, 0, 0}"), shift(4, 1, 9)),
        "coarser-groups",
    ),
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


def test_a_value_is_made_where_there_is_none() -> None:
    pulled = passes(PASSES["Pad pull one map, no value yet"])
    assert pulled.created == {2: ()}
    assert pulled.constants[2].offset().item() == 3.0
    pushed = passes(PASSES["Pad push one map, no value yet"])
    assert pushed.constants[2].offset().item() == 1.5  # T(1.5) = 0


def test_a_linear_map_leaves_zero_alone() -> None:
    assert not passes(PASSES["Pad pull scale"]).constants
    assert not passes(Case(by_attributes(""), uniform(4, 2.0), opset=10)).attributes


# --- mistakes -------------------------------------------------------------------------------------------------------


def as_it_is(step: Step | None, request: Request) -> Step:
    """The same map on both sides, whatever stands in its way."""
    return Step(inputs={0: request.map}, outputs={0: request.map})


def on_value(scale: float, shift: float) -> Callable[[Step, Request], Step]:
    def mistake(step: Step, request: Request) -> Step:
        return replace(step, constants={2: uniform(0, scale, shift)})

    return mistake


MUTANTS: dict[str, tuple[Case, Callable[..., Step]]] = {
    "a shift past zeros": (BLOCKS["Pad pull a shift per channel"][0], as_it_is),
    "a shift down past zeros": (BLOCKS["Pad push a shift per channel"][0], as_it_is),
    "a scale past another value": (BLOCKS["Pad pull a scale of another value"][0], as_it_is),
    "a center past another value": (Case(valued(1.5), maps.linear(CHANNELS)), as_it_is),
    "the value forgotten": (PASSES["Pad pull one map"], as_it_is),
    "the value by attribute forgotten": (PASSES["Pad pull one map, value by attribute"], as_it_is),
    "no value made": (PASSES["Pad push one map, no value yet"], as_it_is),
    "the value not inverted": (PASSES["Pad push one map"], on_value(-2.0, 3.0)),
    "the shift of the new value with the wrong sign": (PASSES["Pad push one map, no value yet"], on_value(-0.5, -1.5)),
    "a scale along repeated numbers": (
        Case(pad("int64[8] pads = {0, 0, 1, 0, 0, 0, 1, 0}", mode="wrap"), scale(4, 3, 7), opset=19),
        lambda step, request: Step(inputs={0: uniform(4, 2.0)}, outputs={0: request.map}),
    ),
}


@pytest.mark.parametrize(("case", "mistake"), MUTANTS.values(), ids=MUTANTS)
def test_the_proof_catches_a_mistake(case: Case, mistake: Callable[..., Step]) -> None:
    told = case.scenario()
    wrong = mistake(case.answer(told), Request(told.node("n"), case.map, case.at, told.facts))
    assert obligation_of(told, wrong, pulls=case.at is None).failure.startswith("differs by")
