"""Sums split a map, products pass its linear part, and what looks alike but is not linear blocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from normswap.maps import Map, affine
from normswap.transfer import Step
from tests.steps import (
    Case,
    all_at_once,
    blocks,
    center,
    heads,
    obligation_of,
    passes,
    scale,
    scale_and_shift,
    shift,
    uniform,
)

CENTER, SCALE, SHIFT = center(3, 2, 8), scale(3, 2, 8), shift(3, 2, 8)
ALL = all_at_once(3, 2, 8)


def two(operator: str, left: str = "B,S,8", right: str = "B,S,8", constants: str = "") -> str:
    """An operator on a and b, each an input, or a constant where `constants` names it."""
    shapes = {"a": left, "b": right}
    kinds = {name: f"double[{shape}] {name}".replace("[]", "") for name, shape in shapes.items()}
    inputs = ", ".join(kind for name, kind in kinds.items() if name not in constants)
    given = ", ".join(kind for name, kind in kinds.items() if name in constants)
    return f"main ({inputs}) => (double[K,L,8] y) {f'<{given}>' if given else ''} {{ [n] y = {operator}(a, b) }}"


def one(operator: str, dtype: str = "double", result: str = "double", before: str = "", declared: str = "") -> str:
    """An operator on x."""
    call = operator if "(" in operator else f"{operator}(x)"
    return f"main ({dtype}[B,S,8] x) => ({result}[B,S,8] y) {declared} {{ {before} [n] y = {call} }}"


def where(mask: str, left: str = "B,S,8", right: str = "B,S,8", constants: str = "") -> str:
    return (
        two("Where", left, right, constants)
        .replace("main (", f"main (bool[{mask}] m, ")
        .replace("(a, b) }", "(m, a, b) }")
    )


THREE = "main (double[B,S,8] a, double[B,S,8] b) => (double[B,S,8] y) <double[8] c> { [n] y = Sum(a, c, b) }"
DROPOUT = one("Dropout(x, ratio, training)", declared="<double ratio = {0.5}, bool training = {0}>")
TRAINING = one("Dropout(x, ratio, training)", declared="<double ratio = {0.5}, bool training = {1}>")
UNKNOWN_TRAINING = one("Dropout(x, ratio, training)", declared="<double ratio = {0.5}>").replace(
    "(double[B,S,8] x)", "(double[B,S,8] x, bool training)"
)
PASSES = {
    "Add pull to both": Case(two("Add"), ALL),
    "Add pull to a bias": Case(two("Add", right="8", constants="b"), ALL),
    "Add pull to a bias on the left": Case(two("Add", left="8", constants="a"), ALL),
    "Add pull to a constant of rank 3": Case(two("Add", right="1,1,8", constants="b"), ALL),
    "Add pull to one number": Case(two("Add", right="1", constants="b"), ALL),
    "Add pull to a number": Case(two("Add", right="", constants="b"), ALL),
    "Add pull to an activation of lower rank": Case(two("Add", right="S,8"), ALL),
    "Add pull per head": Case(two("Add", right="8", constants="b"), heads(3, 2, 8, 2)),
    "Add pull, cut": Case(two("Add", "B,40,8", "40,8", constants="b"), ALL),
    "Add push shift on": Case(two("Add"), SHIFT, 1),
    "Add push shift to a constant": Case(two("Add", right="8", constants="b"), SHIFT, 0),
    "Add push shift to a number": Case(two("Add", left="1", constants="a"), SHIFT, 1),
    "Add push shift from lower rank": Case(two("Add", right="8"), shift(1, 0, 8), 1),
    "Sub pull to both": Case(two("Sub"), ALL),
    "Sub pull to a constant": Case(two("Sub", right="8", constants="b"), ALL),
    "Sub pull from a constant": Case(two("Sub", left="8", constants="a"), ALL),
    "Sub push first": Case(two("Sub"), SHIFT, 0),
    "Sub push second": Case(two("Sub"), SHIFT, 1),
    "Sub push first, constant": Case(two("Sub", right="8", constants="b"), SHIFT, 0),
    "Sub push second, constant": Case(two("Sub", left="8", constants="a"), SHIFT, 1),
    "Sum pull": Case(THREE, ALL),
    "Sum push": Case(THREE, SHIFT, 2),
    "Mul pull past a number": Case(two("Mul", right="", constants="b"), ALL),
    "Mul pull past a number on the left": Case(two("Mul", left="", constants="a"), ALL),
    "Mul pull past a value per token": Case(two("Mul", right="B,S,1"), CENTER),
    "Mul pull scale past a vector": Case(two("Mul", right="8", constants="b"), scale_and_shift(3, 2, 8)),
    "Mul pull scale past an activation": Case(two("Mul"), SCALE),
    "Mul push past a number": Case(two("Mul", right="", constants="b"), ALL, 0),
    "Mul push past a vector": Case(two("Mul", right="8", constants="b"), scale_and_shift(3, 2, 8), 0),
    "Mul push past a value per token": Case(two("Mul", right="B,S,1"), CENTER, 0),
    "Mul push past a larger rank": Case(two("Mul", right="2,1,1,1", constants="b").replace("K,L", "J,K,L"), ALL, 0),
    "Mul push past a long column": Case(
        two("Mul", left="1,8", right="24,1", constants="b").replace("K,L", "K"), shift(2, 1, 8), 0
    ),
    "Mul push from one number per token": Case(two("Mul", left="B,S,1"), uniform(3, -2.0), 0),
    "Mul pull scale to a vector": Case(two("Mul", right="8", constants="b"), SCALE),
    "Mul pull scale to a vector on the left": Case(two("Mul", left="8", constants="a"), SCALE),
    "Mul pull scale to a constant of rank 3": Case(two("Mul", right="1,5,8", constants="b"), SCALE),
    "Mul pull scale past a number per token": Case(two("Mul", "B,5,8", "5,1", constants="b"), SCALE),
    "Mul pull one number to a vector": Case(two("Mul", right="8", constants="b"), uniform(3, -2.0)),
    "Mul pull scale of two axes past a vector": Case(
        two("Mul", "B,5,8", "8", constants="b"), affine(3, scale=np.outer(SCALE.scale[0, 0, :5], SCALE.scale))
    ),
    "Mul pull scale to a gate": Case(two("Mul", right="B,1,8"), SCALE),
    "Mul push scale to a vector": Case(two("Mul", right="8", constants="b"), SCALE, 0),
    "Mul push scale to a vector on the left": Case(two("Mul", left="8", constants="a"), SCALE, 1),
    "Mul push scale to a vector from lower rank": Case(two("Mul", "5,8", "B,5,8"), scale(2, 1, 8), 0),
    "Mul push scale to a constant of larger rank": Case(
        two("Mul", right="2,1,1,8", constants="b").replace("K,L", "J,K,L"), SCALE, 0
    ),
    "Mul push scale past a number": Case(two("Mul", right="1", constants="b"), SCALE, 0),
    "Mul push scale to a vector, cut": Case(two("Mul", "B,40,8", "40,8", constants="b"), SCALE, 0),
    "Div pull past a number": Case(two("Div", right="", constants="b"), ALL),
    "Div pull past a value per token": Case(two("Div", right="B,S,1"), CENTER),
    "Div pull past a vector": Case(two("Div", right="8", constants="b"), scale_and_shift(3, 2, 8)),
    "Div push numerator": Case(two("Div", right="8", constants="b"), scale_and_shift(3, 2, 8), 0),
    "Neg pull": Case(one("Neg"), ALL),
    "Neg push": Case(one("Neg"), ALL, 0),
    "Identity pull": Case(one("Identity"), ALL),
    "Identity push": Case(one("Identity"), ALL, 0),
    "Identity pull, cut": Case(one("Identity").replace("B,S,8", "B,40,8"), ALL),
    "Cast pull": Case(one("Cast<to = 11>", "float"), ALL),
    "Cast push": Case(one("Cast<to = 11>", "float"), ALL, 0),
    "Dropout pull": Case(one("Dropout"), ALL),
    "Dropout push": Case(one("Dropout"), ALL, 0),
    "Dropout pull, told not to train": Case(DROPOUT, ALL),
    "Dropout pull, before it could train": Case(one("Dropout"), ALL, opset=7),
    "Where pull past a mask per token": Case(where("B,S,1"), ALL),
    "Where pull past one mask": Case(where("1"), ALL),
    "Where pull scale and shift past any mask": Case(where("B,S,8"), scale_and_shift(3, 2, 8)),
    "Where pull per head past any mask of the axis ignored": Case(where("B,1,1"), heads(3, 2, 8, 2)),
    "Where pull to a constant": Case(where("B,S,1", right="8", constants="b"), ALL),
    "Where pull to a number": Case(where("B,S,1", right="", constants="b"), ALL),
}
BLOCKS = {
    "Add pull to an activation of size 1": (Case(two("Add", right="B,S,1"), CENTER), "broadcast"),
    "Add pull to an activation that lacks the axis": (Case(two("Add", right="8"), center(3, 1, 5)), "broadcast"),
    "Add push center of one operand": (Case(two("Add"), CENTER, 0), "does-not-commute"),
    "Sub push scale of one operand": (Case(two("Sub"), SCALE, 1), "does-not-commute"),
    "Mul pull center past a vector": (Case(two("Mul", right="8", constants="b"), CENTER), "does-not-commute"),
    "Mul pull center past an activation": (Case(two("Mul"), CENTER), "does-not-commute"),
    "Mul pull shift past a value per token": (Case(two("Mul", right="B,S,1"), SHIFT), "elementwise-scale"),
    "Mul push shift past a value per token": (Case(two("Mul", right="B,S,1"), SHIFT, 0), "elementwise-scale"),
    "Mul push center past a vector": (Case(two("Mul", right="8", constants="b"), CENTER, 0), "elementwise-scale"),
    "Div pull center past a vector": (Case(two("Div", right="8", constants="b"), CENTER), "elementwise-scale"),
    "Div push denominator": (Case(two("Div"), SCALE, 1), "does-not-commute"),
    "Cast to integers": (Case(one("Cast<to = 7>", result="int64"), CENTER), "opaque-producer"),
    "Cast from integers": (Case(one("Cast<to = 11>", "int64"), CENTER), "opaque-producer"),
    "Cast to eight bits": (
        Case(one("Cast<to = 17>", result="float8e4m3fn"), SCALE, opset=19, ir_version=9),
        "opaque-producer",
    ),
    "Cast from eight bits": (
        Case(one("Cast<to = 11>", "float8e4m3fn"), SCALE, opset=19, ir_version=9),
        "opaque-producer",
    ),
    "Dropout in training": (Case(TRAINING, CENTER), "training-mode"),
    "Dropout that may be in training": (Case(UNKNOWN_TRAINING, CENTER), "training-mode"),
    "Where pull center past a mask along the axis": (Case(where("B,S,8"), CENTER), "does-not-commute"),
    "Where pull center past a mask of lower rank": (Case(where("8"), CENTER), "does-not-commute"),
    "Where pull to a branch of size 1": (Case(where("B,S,1", right="B,S,1"), CENTER), "broadcast"),
    "Where push": (Case(where("B,S,1"), SCALE, 1), "does-not-commute"),
    "Where push mask": (Case(where("B,S,1"), SCALE, 0), "does-not-commute"),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id


@pytest.mark.parametrize("operator", ["Mul", "Div"])
def test_a_shift_does_not_pass_a_factor_of_zero_upwards(operator: str) -> None:
    text = f"main (double[B,S,2] a) => (double[B,S,2] y) <double[2] b = {{0.0, 2.0}}> {{ [n] y = {operator}(a, b) }}"
    wanted = shift(3, 2, 2)
    assert blocks(Case(text, wanted)) == "elementwise-scale"


def test_a_shift_passes_a_factor_of_zero_downwards() -> None:
    text = "main (double[B,S,2] a) => (double[B,S,2] y) <double[2] b = {0.0, 2.0}> { [n] y = Mul(a, b) }"
    passes(Case(text, shift(3, 2, 2), 0))


def absorbed(text: str, a_map: Map, at: int | None = None) -> Step:
    return passes(Case(text, a_map, at))


def test_a_constant_takes_the_shift_so_that_no_activation_changes_by_it() -> None:
    step = absorbed(two("Add", right="8", constants="b"), SHIFT)
    assert not step.inputs
    assert step.constants.keys() == {1}


def test_a_shift_that_a_constant_absorbs_ends_there() -> None:
    step = absorbed(two("Add", right="8", constants="b"), SHIFT, 0)
    assert not step.outputs
    assert step.constants.keys() == {1}


def places(case: Case) -> tuple[list[int], list[int], list[int]]:
    """Which inputs, outputs and constants a step touches."""
    step = passes(case)
    return [*step.inputs], [*step.outputs], [*step.constants]


def test_a_vector_takes_a_scale_from_either_side_and_a_number_lets_it_through() -> None:
    assert places(PASSES["Mul pull scale to a vector"]) == ([], [0], [1])
    assert places(PASSES["Mul push scale to a vector"]) == ([0], [], [1])
    assert places(PASSES["Mul pull one number to a vector"]) == ([], [0], [1])
    assert places(PASSES["Mul pull scale past a number per token"]) == ([0], [0], [])
    assert places(PASSES["Mul pull scale of two axes past a vector"]) == ([0], [0], [])
    assert places(PASSES["Mul push scale past a number"]) == ([0], [0], [])
    assert places(Case(two("Mul", right="1", constants="b"), SCALE)) == ([0], [0], [])
    assert places(Case(two("Mul", right="", constants="b"), uniform(3, 2.0))) == ([0], [0], [])


def test_a_shift_goes_past_a_vector_with_its_scale() -> None:
    assert places(Case(two("Mul", right="8", constants="b"), scale_and_shift(3, 2, 8))) == ([0], [0], [])
    assert places(Case(two("Mul", right="8", constants="b"), SHIFT, 0)) == ([0], [0], [])


def computed(left: str, right: str) -> str:
    """A product of two values that are computed."""
    return f"""
        main (double[{left}] x, double[{right}] z) => (double[K,L,8] y)
        {{ a = Tanh(x) b = Sigmoid(z) [n] y = Mul(a, b) }}"""


@pytest.mark.parametrize(
    ("left", "right", "wanted", "taker"),
    [
        ("B,S,8", "B,1,8", SCALE, 1),
        ("B,1,8", "B,S,8", SCALE, 0),
        ("B,S,8", "B,S,8", SCALE, 0),
        ("B,S,8", "8", SCALE, 1),
        ("B,S,8", "B,S,1", SCALE, 0),
        ("B,S,1", "B,S,8", SCALE, 1),
        ("B,S,8", "B,1,1", uniform(3, -2.0), 1),
        ("B,5,8", "8", affine(3, scale=np.outer(np.arange(1.0, 6.0), SCALE.scale)), 0),
    ],
)
def test_of_two_activations_the_smaller_takes_a_scale_if_it_varies_along_its_axes(
    left: str, right: str, wanted: Map, taker: int
) -> None:
    assert places(Case(computed(left, right), wanted)) == ([taker], [0], [])


def test_a_scale_goes_to_what_is_computed_rather_than_to_an_input() -> None:
    text = computed("B,S,8", "B,1,8").replace("b = Sigmoid(z)", "").replace("(a, b)", "(a, z)")
    assert places(Case(text, SCALE)) == ([0], [0], [])


MUTANTS = {
    "a scale on both factors": lambda step: replace(step, inputs={0: SCALE}),
    "a vector that does not take its scale": lambda step: replace(step, constants={}),
    "a scale that goes on all the same": lambda step: replace(step, outputs={} if step.outputs else {0: SCALE}),
    "the inverse scale": lambda step: replace(step, constants={1: affine(3, scale=1 / SCALE.scale)}),
}


@pytest.mark.parametrize(
    ("name", "at"),
    [(name, at) for name in MUTANTS for at in (None, 0) if (name, at) != ("a scale on both factors", 0)],
)
def test_the_proof_catches_a_mistake(name: str, at: int | None) -> None:
    case = Case(two("Mul", right="8", constants="b"), SCALE, at)
    wrong = MUTANTS[name](passes(case))
    assert obligation_of(case.scenario(), wrong, pulls=at is None).failure.startswith("differs by")
