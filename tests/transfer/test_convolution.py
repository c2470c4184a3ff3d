"""Convolutions absorb maps: along the right channels of the right group, with the right bias or border."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from normswap import maps
from normswap.maps import Deferred, Map
from normswap.transfer import Request, Step
from tests.graphs import drawn
from tests.steps import (
    Case,
    Mistake,
    all_at_once,
    blocks,
    center,
    heads,
    passes,
    scale,
    scale_and_shift,
    shift,
    uniform,
    wrong,
)


def conv(
    attributes: str = "", w: str = "8,4,3", x: str = "B,4,T", bias: str = "8", more: str = "", operator: str = "Conv"
) -> str:
    """A convolution with a constant bias of shape `bias`, with the run-time bias `more`, or without one."""
    declared = f", double[{bias}] c" if bias and not more else ""
    result = "K,L,M,N,O"[: 2 * x.count(",") + 1]
    return f"""
        main (double[{x}] x{more}) => (double[{result}] y) <double[{w}] w{declared}>
        {{ [n] y = {operator}{f"<{attributes}>" if attributes else ""}(x, w{", c" if declared or more else ""}) }}"""


def up(attributes: str = "", w: str = "4,8,3", x: str = "B,4,T", bias: str = "8", more: str = "") -> str:
    return conv(attributes, w, x, bias, more, "ConvTranspose")


def along_positions(shape: tuple[int, ...]) -> Map:
    """Another shift at each place of each channel."""
    return maps.affine(len(shape), shift=drawn("positions", shape))


RUNTIME = ", double[8] c"
IN_GROUPS = "group = 2, strides = [2], pads = [1, 0], dilations = [2]"
PASSES = {
    "Conv pull": Case(conv(), all_at_once(3, 1, 8)),
    "Conv pull, cut": Case(conv(w="8,40,3", x="B,40,T"), all_at_once(3, 1, 8)),
    "Conv pull padded and strided": Case(conv("pads = [1, 1], strides = [2]"), all_at_once(3, 1, 8)),
    "Conv pull SAME_UPPER": Case(conv('auto_pad = "SAME_UPPER"'), all_at_once(3, 1, 8)),
    "Conv pull SAME_LOWER": Case(conv('auto_pad = "SAME_LOWER", strides = [2]'), all_at_once(3, 1, 8)),
    "Conv pull in two dimensions": Case(conv("dilations = [2, 1]", "8,4,3,2", "B,4,H,W"), all_at_once(4, 1, 8)),
    "Conv pull in three dimensions": Case(
        conv("group = 2, strides = [1, 2, 1], pads = [0, 1, 0, 1, 0, 1]", "8,2,2,3,1", "B,4,5,5,U"),
        scale_and_shift(5, 1, 8),
    ),
    "Conv pull shift without bias": Case(conv(bias=""), shift(3, 1, 8)),
    "Conv pull uniform": Case(conv("pads = [1, 1]"), uniform(3, -2.0, 0.5)),
    "Conv pull uniform without bias": Case(conv(bias=""), uniform(3, -2.0, 0.5)),
    "Conv pull to a bias of size 1": Case(conv(bias="1"), all_at_once(3, 1, 8)),
    "Conv pull to one channel": Case(conv(w="1,4,3", bias="1"), uniform(3, 3.0, 0.5)),
    "Conv pull run-time bias": Case(conv(more=RUNTIME), all_at_once(3, 1, 8)),
    "Conv pull scale in groups": Case(conv(IN_GROUPS, "8,2,3"), scale_and_shift(3, 1, 8)),
    "Conv pull scale depthwise": Case(conv("group = 4", "8,1,3"), scale_and_shift(3, 1, 8)),
    "Conv pull center within groups": Case(conv("group = 2", "8,2,3"), heads(3, 1, 8, 4)),
    "Conv push scale": Case(conv("pads = [1, 1]"), scale(3, 1, 4), 0),
    "Conv push scale, cut": Case(conv("pads = [1, 1]", w="40,4,3", bias="40"), scale(3, 1, 4), 0),
    "Conv push scale without bias, cut": Case(conv(w="40,4,3", bias=""), scale(3, 1, 4), 0),
    "Conv push shift": Case(conv(), scale_and_shift(3, 1, 4), 0),
    "Conv push shift, cut": Case(conv(w="40,4,3", bias="40"), scale_and_shift(3, 1, 4), 0),
    "Conv push shift without bias": Case(conv(bias=""), scale_and_shift(3, 1, 4), 0),
    "Conv push shift to a bias of size 1": Case(conv(bias="1"), scale_and_shift(3, 1, 4), 0),
    "Conv push shift past a run-time bias": Case(conv(more=RUNTIME), scale_and_shift(3, 1, 4), 0),
    "Conv push in groups": Case(conv("group = 2", "8,2,3"), scale_and_shift(3, 1, 4), 0),
    "Conv push depthwise": Case(conv("group = 4", "8,1,3"), scale_and_shift(3, 1, 4), 0),
    "Conv push strided and dilated": Case(
        conv("strides = [2, 1], dilations = [1, 2]", "8,4,3,2", "B,4,H,W"), scale_and_shift(4, 1, 4), 0
    ),
    "Conv push uniform": Case(conv("group = 2", "8,2,3"), uniform(3, -2.0, 0.5), 0),
    "Conv push from one channel": Case(conv(w="8,1,3", x="B,1,T"), uniform(3, -2.0, 0.5), 0),
    "Conv push zero scale": Case(conv(), maps.affine(3, scale=np.reshape([0.0, 1.0, 0.0, -1.0], (1, 4, 1))), 0),
    "Conv push VALID": Case(conv('auto_pad = "VALID"'), scale_and_shift(3, 1, 4), 0),
    "Conv push padding of nothing": Case(conv('auto_pad = "SAME_UPPER", strides = [2]', "8,4,1"), shift(3, 1, 4), 0),
    "Conv push center": Case(conv("pads = [1, 1]"), center(3, 1, 4), 0),
    "Conv push center within groups": Case(conv("group = 2, pads = [1, 1]", "8,2,3"), heads(3, 1, 4, 2), 0),
    "Conv push center depthwise": Case(conv("group = 2", "4,1,3", "B,2,T", "4"), heads(3, 1, 2, 2), 0),
    "Conv push center and shift": Case(conv(), replace(center(3, 1, 4), shift=shift(3, 1, 4).offset()), 0),
    "Conv push border": Case(conv("pads = [1, 2]", x="B,4,6"), scale_and_shift(3, 1, 4), 0),
    "Conv push border without bias": Case(conv("pads = [1, 0]", x="B,4,6", bias=""), shift(3, 1, 4), 0),
    "Conv push border past a run-time bias": Case(conv("pads = [1, 0]", x="B,4,6", more=RUNTIME), shift(3, 1, 4), 0),
    "Conv push border SAME_LOWER": Case(
        conv('auto_pad = "SAME_LOWER", strides = [2, 1]', "8,4,3,2", "B,4,6,5"), scale_and_shift(4, 1, 4), 0
    ),
    "Conv push border in groups": Case(conv(IN_GROUPS, "8,2,3", "B,4,9"), scale_and_shift(3, 1, 4), 0),
    "Conv push border depthwise": Case(
        conv("group = 4, pads = [1, 1, 1, 1]", "8,1,3,3", "B,4,5,6"), scale_and_shift(4, 1, 4), 0
    ),
    "Conv push border in three dimensions": Case(
        conv("pads = [0, 1, 0, 1, 0, 0]", "8,4,2,2,1", "B,4,3,4,2"), scale_and_shift(5, 1, 4), 0
    ),
    "Conv push border of one number": Case(conv("pads = [1, 1]", x="B,4,6"), uniform(3, 1.0, 2.5), 0),
    "Conv push border of a border": Case(conv("pads = [1, 1]", x="B,4,6"), along_positions((1, 4, 6)), 0),
    "Conv push another shift at each position": Case(conv(x="B,4,6"), along_positions((1, 1, 6)), 0),
    "ConvTranspose pull": Case(up(), all_at_once(3, 1, 8)),
    "ConvTranspose pull, cut": Case(up(w="40,8,3", x="B,40,T"), all_at_once(3, 1, 8)),
    "ConvTranspose pull strided": Case(
        up("strides = [2, 3], pads = [0, 1, 1, 2], output_padding = [1, 0]", "4,8,3,4", "B,4,H,W"), all_at_once(4, 1, 8)
    ),
    "ConvTranspose pull to a gap": Case(up("strides = [3]", "4,8,2"), all_at_once(3, 1, 8)),
    "ConvTranspose pull dilated": Case(up("dilations = [2]"), all_at_once(3, 1, 8)),
    "ConvTranspose pull to an output shape": Case(
        up("strides = [2], output_shape = [10]", x="B,4,5"), all_at_once(3, 1, 8)
    ),
    "ConvTranspose pull in three dimensions": Case(
        up("group = 2, strides = [1, 2, 1]", "4,4,2,3,1", "B,4,3,2,U"), scale_and_shift(5, 1, 8)
    ),
    "ConvTranspose pull without bias": Case(up(bias=""), all_at_once(3, 1, 8)),
    "ConvTranspose pull in groups without bias": Case(up("group = 2", "4,4,3", bias=""), scale_and_shift(3, 1, 8)),
    "ConvTranspose pull in groups": Case(up(IN_GROUPS, "4,4,3"), scale_and_shift(3, 1, 8)),
    "ConvTranspose pull depthwise": Case(up("group = 4", "4,2,3"), scale_and_shift(3, 1, 8)),
    "ConvTranspose pull center within groups": Case(up("group = 2", "4,4,3"), heads(3, 1, 8, 4)),
    "ConvTranspose pull center depthwise": Case(up("group = 2", "4,1,3", bias="2"), heads(3, 1, 2, 2)),
    "ConvTranspose pull all within groups": Case(
        up("group = 2", "4,4,3"), replace(heads(3, 1, 8, 2), scale=scale(3, 1, 8).scale, shift=shift(3, 1, 8).shift)
    ),
    "ConvTranspose pull uniform": Case(up("group = 2", "4,4,3"), uniform(3, -2.0, 0.5)),
    "ConvTranspose pull run-time bias": Case(up(more=RUNTIME), all_at_once(3, 1, 8)),
    "ConvTranspose push scale": Case(up("strides = [2]"), scale(3, 1, 4), 0),
    "ConvTranspose push scale, cut": Case(up(w="4,40,3", bias="40"), scale(3, 1, 4), 0),
    "ConvTranspose push scale in groups": Case(up(IN_GROUPS, "4,4,3"), scale(3, 1, 4), 0),
    "ConvTranspose push scale depthwise": Case(up("group = 4", "4,2,3"), scale(3, 1, 4), 0),
    "ConvTranspose push uniform scale": Case(up(), uniform(3, -2.0), 0),
    "ConvTranspose push center": Case(up("strides = [2]"), center(3, 1, 4), 0),
    "ConvTranspose push center within groups": Case(up("group = 2", "4,4,3"), heads(3, 1, 4, 2), 0),
    "ConvTranspose push shift": Case(up("strides = [2], pads = [1, 0]", x="B,4,5"), scale_and_shift(3, 1, 4), 0),
    "ConvTranspose push shift in groups": Case(up(IN_GROUPS, "4,4,3", "B,4,5"), scale_and_shift(3, 1, 4), 0),
    "ConvTranspose push shift to a gap": Case(up("strides = [3]", "4,8,2", "B,4,5", ""), shift(3, 1, 4), 0),
    "ConvTranspose push shift to an output shape": Case(
        up("strides = [2], output_shape = [10]", x="B,4,5"), shift(3, 1, 4), 0
    ),
    "ConvTranspose push another shift at each position": Case(up(x="B,4,5"), along_positions((1, 4, 5)), 0),
}
BLOCKS = {
    "Conv pull center across groups": (Case(conv("group = 2", "8,2,3"), center(3, 1, 8)), "grouped-weights"),
    "Conv pull center of which one group crosses": (
        Case(
            conv("group = 2", "8,2,3"), replace(center(3, 1, 8), group=np.reshape([0, 0, 1, 1, 1, 1, 2, 2], (1, 8, 1)))
        ),
        "grouped-weights",
    ),
    "Conv pull depthwise": (Case(conv("group = 4", "8,1,3"), heads(3, 1, 8, 2)), "grouped-weights"),
    "Conv pull over positions": (Case(conv(x="B,4,9"), center(3, 2, 7)), "does-not-commute"),
    "Conv pull run-time weight": (
        Case("main (double[B,4,T] x, double[8,4,3] w) => (double[B,8,U] y) { [n] y = Conv(x, w) }", scale(3, 1, 8)),
        "opaque-producer",
    ),
    "Conv pull run-time bias that broadcasts": (Case(conv(more=", double[1] c"), scale(3, 1, 8)), "broadcast"),
    "Conv push shift into padding": (Case(conv("pads = [1, 1]"), shift(3, 1, 4), 0), "zero-padding"),
    "Conv push shift into padding at one end": (Case(conv("pads = [0, 1]"), shift(3, 1, 4), 0), "zero-padding"),
    "Conv push shift into padding of one free axis": (
        Case(conv("pads = [0, 1, 0, 1]", "8,4,3,3", "B,4,7,W"), shift(4, 1, 4), 0),
        "zero-padding",
    ),
    "Conv push shift into automatic padding": (
        Case(conv('auto_pad = "SAME_LOWER"'), shift(3, 1, 4), 0),
        "zero-padding",
    ),
    "Conv push center across groups": (Case(conv("group = 2", "8,2,3"), center(3, 1, 4), 0), "grouped-weights"),
    "Conv push center and scale": (Case(conv(), all_at_once(3, 1, 4), 0), "does-not-commute"),
    "Conv push scale along positions": (Case(conv(x="B,4,9"), scale(3, 2, 9), 0), "does-not-commute"),
    "Conv push shift along the batch": (Case(conv(x="3,4,9"), shift(3, 0, 3), 0), "does-not-commute"),
    "Conv push on the bias": (Case(conv(more=RUNTIME), shift(1, 0, 8), 2), "does-not-commute"),
    "ConvTranspose pull center across groups": (Case(up("group = 2", "4,4,3"), center(3, 1, 8)), "grouped-weights"),
    "ConvTranspose pull over positions": (Case(up(x="B,4,5"), center(3, 2, 7)), "does-not-commute"),
    "ConvTranspose push shift": (Case(up("strides = [2]"), shift(3, 1, 4), 0), "zero-padding"),
    "ConvTranspose push center across groups": (Case(up("group = 2", "4,4,3"), center(3, 1, 4), 0), "grouped-weights"),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id


def test_a_border_is_as_large_as_the_output_and_computed_when_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    case = PASSES["Conv push border depthwise"]
    told = case.scenario()
    monkeypatch.setattr("normswap.reference.run", None)
    step = case.answer(told)
    assert isinstance(step, Step)
    border = step.outputs[0].shift
    assert isinstance(border, Deferred)
    assert border.shape == (1, 8, 5, 6)
    monkeypatch.undo()
    assert np.ptp(border.force()[0, :, 1:-1, 1:-1], axis=(1, 2)).max() < 1e-12  # the interior is one number a channel
    assert np.ptp(border.force(), axis=(2, 3)).min() > 1e-3


def test_without_padding_a_shift_ends_in_the_bias() -> None:
    step = passes(PASSES["Conv push shift without bias"])
    assert (step.constants.keys(), step.created, step.outputs) == ({1, 2}, {2: (8,)}, {})


# --- mistakes -------------------------------------------------------------------------------------------------------


def without(index: int) -> Mistake:
    return lambda step, request: replace(step, constants={i: m for i, m in step.constants.items() if i != index})


def weight(change: Callable[[Map, Request], Map]) -> Mistake:
    """The map of the weight changed."""
    return lambda step, request: replace(step, constants={**step.constants, 1: change(step.constants[1], request)})


def bias(change: Callable[[np.ndarray], np.ndarray]) -> Mistake:
    """The shift of the bias changed."""

    def mistake(step: Step, request: Request) -> Step:
        a_map = step.constants[2]
        return replace(step, constants={**step.constants, 2: Map(a_map.group, a_map.scale, change(a_map.offset()))})

    return mistake


def border(change: Callable[[np.ndarray, Request], np.ndarray]) -> Mistake:
    """The map of the border changed."""
    return lambda step, request: replace(
        step, outputs={0: maps.affine(request.map.rank, shift=change(step.outputs[0].offset(), request))}
    )


def of_the_first_group(a_map: Map, request: Request) -> Map:
    """Every conv group gets what belongs to the first."""
    scale, group = a_map.scale, a_map.group
    half = len(scale) // 2
    if scale.shape[0] > 1 and scale.shape[1] > 1:
        scale = np.concatenate([scale[:half], scale[:half]])
    if group.shape[0] > 1 and group.shape[1] > 1:
        group = np.concatenate([group[:half], group[:half]])
    return Map(group, scale, a_map.shift)


def turned(a_map: Map, request: Request) -> Map:
    """Along the other channels."""
    return Map(np.swapaxes(a_map.group, 0, 1), np.swapaxes(a_map.scale, 0, 1), a_map.shift)


def one_mean(a_map: Map, request: Request) -> Map:
    """One mean for all that an output channel reads, or all it makes, group or no group."""
    return Map(np.zeros_like(a_map.group), a_map.scale, a_map.shift)


def of_the_scaled_weight(t: np.ndarray, request: Request) -> np.ndarray:
    return t * request.map.scale.mean()


def interior(t: np.ndarray, request: Request) -> np.ndarray:
    """The same number at the border as inside."""
    return np.broadcast_to(t[:, :, 2:3], t.shape)


def into_the_bias(step: Step, request: Request) -> Step:
    """What a ConvTranspose makes of a shift, taken for one number per channel."""
    inside = step.outputs[0].offset().mean(axis=(0, 2))
    return replace(step, outputs={}, constants={**step.constants, 2: maps.affine(1, shift=inside)})


SQUARE = Case(conv(w="4,4,3", bias="4"), scale_and_shift(3, 1, 4), 0)
MUTANTS: dict[str, tuple[Case, Mistake]] = {
    "Conv pull: the bias is forgotten": (PASSES["Conv pull"], without(2)),
    "Conv pull: the weight is forgotten": (PASSES["Conv pull"], without(1)),
    "Conv pull: the bias is not shifted": (PASSES["Conv pull"], bias(np.zeros_like)),
    "Conv pull: the bias is shifted the other way": (PASSES["Conv pull shift without bias"], bias(np.negative)),
    "Conv pull: the input channels": (Case(SQUARE.text, SQUARE.map), weight(turned)),
    "Conv pull: one mean across the groups": (PASSES["Conv pull center within groups"], weight(one_mean)),
    "Conv push: the weight is forgotten": (PASSES["Conv push scale"], without(1)),
    "Conv push: the shift is forgotten": (PASSES["Conv push shift"], without(2)),
    "Conv push: the sign of the shift": (PASSES["Conv push shift"], bias(np.negative)),
    "Conv push: the output channels": (SQUARE, weight(turned)),
    "Conv push: the channels of the first group": (PASSES["Conv push in groups"], weight(of_the_first_group)),
    "Conv push: one mean across the groups": (PASSES["Conv push center within groups"], weight(one_mean)),
    "Conv push: no border": (PASSES["Conv push border"], border(interior)),
    "Conv push: no shift behind": (PASSES["Conv push border"], lambda step, request: replace(step, outputs={})),
    "Conv push: the border of the new weight": (PASSES["Conv push border"], border(of_the_scaled_weight)),
    "Conv push: the sign of the border": (PASSES["Conv push border"], border(lambda t, request: -t)),
    "Conv push: the border turned around": (PASSES["Conv push border"], border(lambda t, request: t[:, :, ::-1])),
    "Conv push: the border and the bias": (
        PASSES["Conv push border"],
        lambda step, request: replace(step, constants={**step.constants, 2: maps.affine(1, shift=np.ones(8))}),
    ),
    "ConvTranspose pull: the bias is forgotten": (PASSES["ConvTranspose pull"], without(2)),
    "ConvTranspose pull: the input channels": (
        Case(up(w="4,4,3", bias="4"), scale_and_shift(3, 1, 4)),
        weight(turned),
    ),
    "ConvTranspose pull: the channels of the first group": (
        PASSES["ConvTranspose pull in groups"],
        weight(of_the_first_group),
    ),
    "ConvTranspose pull: one mean for two input channels": (
        PASSES["ConvTranspose pull center within groups"],
        weight(of_the_first_group),
    ),
    "ConvTranspose push: the output channels": (Case(up(w="4,4,3", bias="4"), scale(3, 1, 4), 0), weight(turned)),
    "ConvTranspose push: the same shift everywhere": (PASSES["ConvTranspose push shift"], into_the_bias),
    "ConvTranspose push: the sign of the shift": (PASSES["ConvTranspose push shift"], border(lambda t, request: -t)),
}


@pytest.mark.parametrize(("case", "mistake"), MUTANTS.values(), ids=MUTANTS)
def test_the_proof_catches_a_mistake(case: Case, mistake: Mistake) -> None:
    assert wrong(case, mistake).startswith("differs by")
