"""Weights absorb maps: MatMul and Gemm, along the right axis, with the right bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from normswap import maps
from normswap.maps import Map
from normswap.transfer import Request, Step
from normswap.transfer.passing import times
from tests.graphs import drawn
from tests.steps import (
    Case,
    Mistake,
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
    wrong,
)


def gemm(bias: str, attributes: str = "", a: str = "B,6", b: str = "6,8", more: str = "") -> str:
    """A Gemm with a constant C of shape `bias`, or with the further inputs `more`, or without C."""
    declared = f", double[{bias}] c".replace("[[]]", "") if bias else ""
    return f"""
        main (double[{a}] x{more}) => (double[M,N] y) <double[{b}] w{declared}>
        {{ [n] y = Gemm{f"<{attributes}>" if attributes else ""}(x, w{", c" if bias or more else ""}) }}"""


def gemm_left(attributes: str = "", w: str = "8,6", x: str = "6,5") -> str:
    """A Gemm with a constant A."""
    return f"""
        main (double[{x}] x) => (double[M,N] y) <double[{w}] w, double[8,1] c>
        {{ [n] y = Gemm<{attributes or "transA = 0"}, alpha = 0.5, beta = -3.0>(w, x, c) }}"""


TWO_ACTIVATIONS = "main (double[5,6] x, double[6,8] w) => (double[5,8] y) { [n] y = Gemm(x, w) }"


def matmul(x: str = "B,S,6", w: str = "6,8", y: str = "K,L,M,N") -> str:
    text = f"main (double[{x}] x) => (double[{y}] y) <double[{w}] w> {{ [n] y = MatMul(x, w) }}"
    return text.replace("double[]", "double")


def left(w: str = "8,6", x: str = "B,6,S", y: str = "K,L,M") -> str:
    return f"main (double[{x}] x) => (double[{y}] y) <double[{w}] w> {{ [n] y = MatMul(w, x) }}"


def all_linear(rank: int, axis: int, size: int) -> Map:
    """Center and scale along one axis."""
    return maps.linear(all_at_once(rank, axis, size))


def per_head() -> Map:
    """Other centers and scales in each head."""
    return replace(center(4, 3, 8), scale=drawn("scale", (1, 3, 1, 8)))


def per_head_input() -> Map:
    """Other scales and shifts in each head."""
    return maps.affine(4, drawn("scale", (1, 3, 1, 6)), drawn("shift", (1, 3, 1, 6)))


def table(rows: int, columns: int) -> Map:
    """Another shift at each place."""
    return maps.affine(3, shift=drawn("table", (1, rows, columns)))


def scaled_table(rows: int, columns: int) -> Map:
    """Another factor at each place."""
    return maps.affine(3, scale=drawn("table", (1, rows, columns)))


BOTH_SCALED = "alpha = 0.5, beta = -3.0"
PASSES = {
    "MatMul pull center": Case(matmul(), center(3, 2, 8)),
    "MatMul pull center per head": Case(matmul(), heads(3, 2, 8, 2)),
    "MatMul pull scale": Case(matmul(), scale(3, 2, 8)),
    "MatMul pull a batch of weights": Case(matmul("B,3,S,6", "3,6,8"), center(4, 3, 8)),
    "MatMul pull weights that broadcast": Case(matmul("S,6", "3,6,8"), center(3, 2, 8)),
    "MatMul pull along rows": Case(matmul("B,7,6"), center(3, 1, 7)),
    "MatMul pull over the batch": Case(matmul("3,S,6"), center(3, 0, 3)),
    "MatMul pull weight on the left": Case(left(), center(3, 1, 8)),
    "MatMul pull through to the columns": Case(left(x="B,6,7"), scale(3, 2, 7)),
    "MatMul push scale": Case(matmul(), scale(3, 2, 6), 0),
    "MatMul push, cut": Case(matmul("B,40,6"), scale_and_shift(3, 2, 6), 0),
    "MatMul push shift": Case(matmul(), shift(3, 2, 6), 0),
    "MatMul push scale and shift": Case(matmul(), scale_and_shift(3, 2, 6), 0),
    "MatMul push one shift": Case(matmul(), uniform(3, 1.0, 2.5), 0),
    "MatMul push center": Case(matmul(), center(3, 2, 6), 0),
    "MatMul push along rows": Case(matmul("B,7,6"), scale(3, 1, 7), 0),
    "MatMul pull, cut": Case(matmul("B,S,40", "40,24"), heads(3, 2, 24, 3)),
    "MatMul pull uniform": Case(matmul(), uniform(3, -2.0)),
    "MatMul pull per head into a batch of weights": Case(matmul("B,3,S,6", "3,6,8"), per_head()),
    "MatMul pull heads alone": Case(matmul("B,3,S,6", "3,6,8"), scale(4, 1, 3)),
    "MatMul pull heads that the weights lack": Case(matmul("B,3,S,6"), scale(4, 1, 3)),
    "MatMul pull heads that are broadcast": Case(matmul("B,3,S,6", "1,6,8"), scale(4, 1, 3)),
    "MatMul pull heads that the weights bring": Case(matmul("S,6", "3,6,8"), scale(3, 0, 3)),
    "MatMul pull center over heads that the weights bring": Case(matmul("S,6", "3,6,8"), center(3, 0, 3)),
    "MatMul pull rows of weights that broadcast": Case(matmul("7,6", "3,6,8"), center(3, 1, 7)),
    "MatMul pull a stack on the left": Case(left("3,8,6", "B,3,6,S", "K,L,M,N"), all_linear(4, 2, 8)),
    "MatMul pull columns past a stack on the left": Case(left("3,8,6", "B,3,6,7", "K,L,M,N"), center(4, 3, 7)),
    "MatMul pull from a vector": Case(matmul(w="6", y="K,L"), uniform(2, -2.0)),
    "MatMul pull rows from a vector": Case(matmul("B,7,6", "6", "K,L"), all_linear(2, 1, 7)),
    "MatMul pull from a vector on the left": Case(left("6", "B,6,7", "K,L"), scale(2, 1, 7)),
    "MatMul pull to a vector": Case(matmul("6", y="K"), all_linear(1, 0, 8)),
    "MatMul push from a vector": Case(matmul("6", y="K"), scale_and_shift(1, 0, 6), 0),
    "MatMul push to a vector": Case(matmul(w="6", y="K,L"), scale_and_shift(3, 2, 6), 0),
    "MatMul push to a vector on the left": Case(left("6", "B,6,7", "K,L"), scale_and_shift(3, 1, 6), 1),
    "MatMul push of two vectors": Case(matmul("6", "6", ""), scale_and_shift(1, 0, 6), 0),
    "MatMul push to a stack": Case(matmul("B,3,S,6", "3,6,8"), scale_and_shift(4, 3, 6), 0),
    "MatMul push to a stack that the input lacks": Case(matmul("S,6", "3,6,8"), scale_and_shift(2, 1, 6), 0),
    "MatMul push per head": Case(matmul("B,3,S,6", "3,6,8"), per_head_input(), 0),
    "MatMul push heads that are broadcast": Case(matmul("B,3,S,6", "1,6,8"), scale_and_shift(4, 1, 3), 0),
    "MatMul push weight on the left": Case(left(), scale_and_shift(3, 1, 6), 1),
    "MatMul push columns past the left": Case(left(x="B,6,7"), scale_and_shift(3, 2, 7), 1),
    "MatMul push center on the left": Case(left(), center(3, 1, 6), 1),
    "MatMul push a stack on the left": Case(left("3,8,6", "B,3,6,S", "K,L,M,N"), scale_and_shift(4, 2, 6), 1),
    "MatMul push center and one scale": Case(matmul(), replace(center(3, 2, 6), scale=uniform(3, -2.0).scale), 0),
    "MatMul push shift along rows": Case(matmul("B,7,6"), scale_and_shift(3, 1, 7), 0),
    "MatMul push shift along rows and columns": Case(matmul("B,7,6"), table(7, 6), 0),
    "Gemm pull": Case(gemm("8"), all_at_once(2, 1, 8)),
    "Gemm pull transB": Case(gemm("8", "transB = 1", b="8,6"), all_at_once(2, 1, 8)),
    "Gemm pull transB square": Case(gemm("6", "transB = 1", b="6,6"), center(2, 1, 6)),
    "Gemm pull transA": Case(gemm("8", "transA = 1", a="6,B"), all_at_once(2, 1, 8)),
    "Gemm pull alpha and beta": Case(gemm("8", BOTH_SCALED), all_at_once(2, 1, 8)),
    "Gemm pull, cut": Case(gemm("24", "transB = 1", a="B,40", b="24,40"), all_at_once(2, 1, 24)),
    "Gemm pull center without C": Case(gemm(""), center(2, 1, 8)),
    "Gemm pull shift without C": Case(gemm("", BOTH_SCALED), shift(2, 1, 8)),
    "Gemm pull C of shape [1, N]": Case(gemm("1,8", BOTH_SCALED), all_at_once(2, 1, 8)),
    "Gemm pull C of shape [M, N]": Case(gemm("5,8", BOTH_SCALED, a="5,6"), all_at_once(2, 1, 8)),
    "Gemm pull C of shape [M, 1]": Case(gemm("5,1", BOTH_SCALED, a="5,6"), all_at_once(2, 1, 8)),
    "Gemm pull C of shape [1]": Case(gemm("1", BOTH_SCALED), all_at_once(2, 1, 8)),
    "Gemm pull C of shape []": Case(gemm("[]", BOTH_SCALED), all_at_once(2, 1, 8)),
    "Gemm pull run-time C": Case(gemm("", BOTH_SCALED, more=", double[B,8] c"), all_at_once(2, 1, 8)),
    "Gemm pull run-time C of rank 1": Case(gemm("", BOTH_SCALED, more=", double[8] c"), all_at_once(2, 1, 8)),
    "Gemm push": Case(gemm("8"), scale_and_shift(2, 1, 6), 0),
    "Gemm push transB": Case(gemm("8", "transB = 1", b="8,6"), scale_and_shift(2, 1, 6), 0),
    "Gemm push transB square": Case(gemm("6", "transB = 1", b="6,6"), scale_and_shift(2, 1, 6), 0),
    "Gemm push transA": Case(gemm("8", "transA = 1", a="6,B"), scale_and_shift(2, 0, 6), 0),
    "Gemm push alpha and beta": Case(gemm("8", BOTH_SCALED), scale_and_shift(2, 1, 6), 0),
    "Gemm push without C": Case(gemm("", BOTH_SCALED), scale_and_shift(2, 1, 6), 0),
    "Gemm push C of shape [1, N]": Case(gemm("1,8", BOTH_SCALED), shift(2, 1, 6), 0),
    "Gemm push C of shape [M, N]": Case(gemm("5,8", BOTH_SCALED, a="5,6"), shift(2, 1, 6), 0),
    "Gemm push C of shape [1]": Case(gemm("1", BOTH_SCALED), shift(2, 1, 6), 0),
    "Gemm push C of shape []": Case(gemm("[]", BOTH_SCALED), shift(2, 1, 6), 0),
    "Gemm push run-time C": Case(gemm("", BOTH_SCALED, more=", double[B,8] c"), shift(2, 1, 6), 0),
    "Gemm push center": Case(gemm("8"), center(2, 1, 6), 0),
    "Gemm pull uniform": Case(gemm("8", BOTH_SCALED), uniform(2, -2.0, 0.5)),
    "Gemm pull uniform without C": Case(gemm("", BOTH_SCALED), uniform(2, -2.0, 0.5)),
    "Gemm pull past beta 0": Case(gemm("8", "beta = 0.0"), scale(2, 1, 8)),
    "Gemm pull rows": Case(gemm("8", BOTH_SCALED, a="5,6"), all_at_once(2, 0, 5)),
    "Gemm pull rows to C of shape [M, 1]": Case(gemm("5,1", BOTH_SCALED, a="5,6"), all_at_once(2, 0, 5)),
    "Gemm pull rows without C": Case(gemm("", BOTH_SCALED, a="5,6"), scale_and_shift(2, 0, 5)),
    "Gemm pull rows transA": Case(gemm("8", "transA = 1", a="6,5"), all_at_once(2, 0, 5)),
    "Gemm pull weight on the left": Case(gemm_left(), all_at_once(2, 0, 8)),
    "Gemm pull weight on the left transA": Case(gemm_left("transA = 1", "6,8"), all_at_once(2, 0, 8)),
    "Gemm pull columns past the left": Case(gemm_left(), all_at_once(2, 1, 5)),
    "Gemm pull of two activations": Case(TWO_ACTIVATIONS, center(2, 1, 8)),
    "Gemm push to an output shift past beta 0": Case(gemm("8", "beta = 0.0"), scale_and_shift(2, 1, 6), 0),
    "Gemm push past beta 0 without C": Case(gemm("", "beta = 0.0"), shift(2, 1, 6), 0),
    "Gemm push rows without C": Case(gemm("", BOTH_SCALED, a="5,6"), scale_and_shift(2, 0, 5), 0),
    "Gemm push shift along rows": Case(gemm("8", BOTH_SCALED, a="5,6"), shift(2, 0, 5), 0),
    "Gemm push shift along rows without C": Case(gemm("", BOTH_SCALED, a="5,6"), shift(2, 0, 5), 0),
    "Gemm push C of shape [M, 1]": Case(gemm("5,1", BOTH_SCALED, a="5,6"), scale_and_shift(2, 1, 6), 0),
    "Gemm push uniform": Case(gemm("8", BOTH_SCALED), uniform(2, -2.0, 0.5), 0),
    "Gemm push uniform without C": Case(gemm("", BOTH_SCALED), uniform(2, -2.0, 0.5), 0),
    "Gemm push, cut": Case(gemm("24", "transB = 1", a="B,40", b="24,40"), scale_and_shift(2, 1, 40), 0),
    "Gemm push scale, cut": Case(gemm("24", "transB = 1", a="B,40", b="24,40"), scale(2, 1, 40), 0),
    "Gemm push weight on the left": Case(gemm_left(), scale_and_shift(2, 0, 6), 1),
    "Gemm push weight on the left transB": Case(gemm_left("transB = 1", x="5,6"), scale_and_shift(2, 1, 6), 1),
    "Gemm push on C": Case(gemm("", BOTH_SCALED, more=", double[B,8] c"), shift(2, 1, 8), 2),
    "Gemm push on C of rank 1": Case(gemm("", BOTH_SCALED, more=", double[8] c"), shift(1, 0, 8), 2),
    "Gemm push on C past beta 0": Case(gemm("", "beta = 0.0", more=", double[B,8] c"), shift(2, 1, 8), 2),
}
BLOCKS = {
    "MatMul pull shift": (Case(matmul(), shift(3, 2, 8)), "no-bias"),
    "MatMul pull over heads that both have": (
        Case(matmul("B,3,S,6", "3,6,8"), center(4, 1, 3)),
        "does-not-commute",
    ),
    "MatMul pull rows and columns": (Case(matmul("B,7,6"), scaled_table(7, 8)), "does-not-commute"),
    "MatMul push rows and columns": (Case(matmul("B,7,6"), scaled_table(7, 6), 0), "does-not-commute"),
    "MatMul push over heads that both have": (Case(matmul("B,3,S,6", "3,6,8"), center(4, 1, 3), 0), "does-not-commute"),
    "MatMul push center and scale": (Case(matmul(), all_at_once(3, 2, 6), 0), "does-not-commute"),
    "Gemm pull run-time C that broadcasts": (Case(gemm("", more=", double[B,1] c"), center(2, 1, 8)), "broadcast"),
    "Gemm pull shift past beta 0": (Case(gemm("8", "beta = 0.0"), shift(2, 1, 8)), "no-bias"),
    "Gemm pull shift past beta 0 without C": (Case(gemm("", "beta = 0.0"), shift(2, 1, 8)), "no-bias"),
    "Gemm push rows past C": (Case(gemm("8", a="5,6"), scale(2, 0, 5), 0), "does-not-commute"),
    "Gemm push center and scale": (Case(gemm("8"), all_at_once(2, 1, 6), 0), "does-not-commute"),
    "Gemm push scale on C": (Case(gemm("", more=", double[B,8] c"), scale(2, 1, 8), 2), "does-not-commute"),
    "Gemm push along what two activations sum": (Case(TWO_ACTIVATIONS, scale(2, 1, 6), 0), "does-not-commute"),
    "Gemm push shift of one of two activations": (Case(TWO_ACTIVATIONS, shift(2, 0, 5), 0), "no-bias"),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id


def test_a_bias_is_made_where_there_was_none() -> None:
    assert passes(PASSES["Gemm pull uniform without C"]).created == {2: (8,)}
    assert passes(PASSES["Gemm push without C"]).created == {2: (8,)}
    assert passes(PASSES["Gemm pull rows without C"]).created == {2: (5, 1)}


def test_what_the_weight_takes_goes_no_further() -> None:
    for name in (
        "MatMul pull per head into a batch of weights",
        "MatMul pull heads alone",
        "MatMul pull from a vector",
    ):
        step = passes(PASSES[name])
        assert (step.inputs, step.constants.keys()) == ({}, {1})
    assert passes(PASSES["MatMul push heads that are broadcast"]).constants == {}


# --- mistakes -------------------------------------------------------------------------------------------------------


def without(index: int) -> Mistake:
    return lambda step, request: replace(step, constants={i: m for i, m in step.constants.items() if i != index})


def behind(factor: float) -> Mistake:
    """The shift of the output times a factor."""
    return lambda step, request: replace(step, outputs={0: times(step.outputs[0], factor)})


def bias(factor: float) -> Mistake:
    """The shift of C times a factor."""
    return lambda step, request: replace(step, constants={**step.constants, 2: times(step.constants[2], factor)})


def on_bias(change: Callable[[Map], Map]) -> Mistake:
    return lambda step, request: replace(step, constants={**step.constants, 2: change(step.constants[2])})


def turned(index: int) -> Mistake:
    """A square weight along its other axis."""

    def mistake(step: Step, request: Request) -> Step:
        a_map = step.constants[index]
        axes = np.swapaxes(a_map.group, -1, -2), np.swapaxes(a_map.scale, -1, -2), a_map.shift
        return replace(step, constants={**step.constants, index: Map(*axes)})

    return mistake


def of_the_first_head(step: Step, request: Request) -> Step:
    a_map = step.constants[1]
    return replace(
        step, constants={1: Map(a_map.group, a_map.scale[:, :1] if a_map.rank > 3 else a_map.scale[:1], a_map.shift)}
    )


def of_one_row(step: Step, request: Request) -> Step:
    """The same shift in every row."""
    t = step.outputs[0].offset()
    return replace(step, outputs={0: maps.affine(3, shift=np.broadcast_to(t[:, :1], t.shape))})


def of_the_scaled_weight(step: Step, request: Request) -> Step:
    weight = request.facts.float64(request.node.inputs[1]) * step.constants[1].scale  # type: ignore[arg-type]
    return replace(step, outputs={0: maps.affine(3, shift=request.map.offset() @ weight)})


def linear_only(step: Step, request: Request) -> Step:
    return replace(step, outputs={0: maps.linear(step.outputs[0])})


def the_same_scale_of_the_sum(step: Step, request: Request) -> Step:
    """s (α A B) + β C taken for s (α A B + β C)."""
    return Step({0: request.map}, {0: request.map})


SQUARE = {
    "MatMul pull": Case(matmul("B,S,8", "8,8"), all_linear(3, 2, 8)),
    "MatMul push": Case(matmul("B,S,8", "8,8"), scale(3, 2, 8), 0),
    "MatMul left": Case(left("8,8", "B,8,S"), scale(3, 1, 8)),
    "Gemm pull": Case(gemm("8", "transB = 1", "B,8", "8,8"), all_at_once(2, 1, 8)),
    "Gemm push": Case(gemm("8", "transA = 1", "8,B", "8,8"), scale_and_shift(2, 0, 8), 0),
}
MUTANTS: dict[str, tuple[Case, Mistake]] = {
    "MatMul pull: the input axis": (SQUARE["MatMul pull"], turned(1)),
    "MatMul pull: the weight is forgotten": (PASSES["MatMul pull scale"], without(1)),
    "MatMul pull: the input axis of a weight on the left": (SQUARE["MatMul left"], turned(0)),
    "MatMul pull: the first head's factors": (
        PASSES["MatMul pull per head into a batch of weights"],
        of_the_first_head,
    ),
    "MatMul pull: both operands": (
        PASSES["MatMul pull heads alone"],
        lambda step, request: replace(step, inputs={0: request.map}),
    ),
    "MatMul push: the output axis": (SQUARE["MatMul push"], turned(1)),
    "MatMul push: the shift is forgotten": (PASSES["MatMul push shift"], behind(0.0)),
    "MatMul push: the sign of the shift": (PASSES["MatMul push weight on the left"], behind(-1.0)),
    "MatMul push: the shift of the new weight": (PASSES["MatMul push scale and shift"], of_the_scaled_weight),
    "MatMul push: the shift of the first row": (PASSES["MatMul push shift along rows and columns"], of_one_row),
    "MatMul push: no shift of rows": (PASSES["MatMul push shift along rows"], linear_only),
    "Gemm pull: C is forgotten": (PASSES["Gemm pull"], without(2)),
    "Gemm pull: the output axis under transB": (SQUARE["Gemm pull"], turned(1)),
    "Gemm pull: beta": (PASSES["Gemm pull shift without C"], bias(-3.0)),
    "Gemm pull: C is not shifted": (PASSES["Gemm pull alpha and beta"], on_bias(maps.linear)),
    "Gemm pull: a C of shape [M, 1] is not centered": (
        PASSES["Gemm pull C of shape [M, 1]"],
        on_bias(lambda a_map: maps.affine(2, a_map.scale, a_map.shift)),
    ),
    "Gemm pull: a run-time C keeps its form": (
        PASSES["Gemm pull run-time C"],
        lambda step, request: replace(step, inputs={}),
    ),
    "Gemm pull: rows of A alone": (PASSES["Gemm pull rows"], without(2)),
    "Gemm push: the output axis under transA": (SQUARE["Gemm push"], turned(1)),
    "Gemm push: alpha": (PASSES["Gemm push alpha and beta"], bias(2.0)),
    "Gemm push: beta": (PASSES["Gemm push without C"], bias(-3.0)),
    "Gemm push: C is forgotten": (PASSES["Gemm push"], without(2)),
    "Gemm push: C under beta 0": (
        PASSES["Gemm push to an output shift past beta 0"],
        lambda step, request: Step(step.inputs, {}, {**step.constants, 2: step.outputs[0]}),
    ),
    "Gemm push on C: beta": (PASSES["Gemm push on C"], behind(-1 / 3)),
    "Gemm push on C: nothing behind": (PASSES["Gemm push on C of rank 1"], behind(0.0)),
}


@pytest.mark.parametrize(("case", "mistake"), MUTANTS.values(), ids=MUTANTS)
def test_the_proof_catches_a_mistake(case: Case, mistake: Mistake) -> None:
    assert wrong(case, mistake).startswith("differs by")


def test_rows_may_not_pass_a_bias() -> None:
    told = BLOCKS["Gemm push rows past C"][0].scenario()
    unblocked = the_same_scale_of_the_sum(Step(), Request(told.node("n"), scale(2, 0, 5), 0, told.facts))
    assert obligation_of(told, unblocked, pulls=False).failure.startswith("differs by")
