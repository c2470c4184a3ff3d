"""Einsum absorbs maps where it is a product with one constant operand, however its letters are arranged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from normswap import maps
from normswap.maps import Map
from normswap.transfer import Request, Step
from normswap.transfer.einsum import Product, relabelled
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


def einsum(equation: str, x: str = "B,5,6", w: str = "6,8", y: str = "K,L,M") -> str:
    return f"""
        main (double[{x}] x) => (double[{y}] y) <double[{w}] w>
        {{ [n] y = Einsum<equation = "{equation}">(x, w) }}""".replace("double[]", "double")


def weight_first(equation: str, w: str = "8,6", x: str = "B,6,5", y: str = "K,L,M") -> str:
    return einsum(equation, x, w, y).replace("(x, w) }", "(w, x) }")


def activations(equation: str, a: str, b: str, y: str = "K,L,M,N") -> str:
    return f"""
        main (double[{a}] x, double[{b}] w) => (double[{y}] y) {{ [n] y = Einsum<equation = "{equation}">(x, w) }}"""


def block(*shape: int, shifts: bool = False) -> Map:
    """Another factor at each place of a block of axes, and with `shifts` another shift."""
    return maps.affine(len(shape), drawn("scale", shape), drawn("shift", shape) if shifts else None)


def center_of(rank: int, **sizes: int) -> Map:
    """One Center over several axes."""
    return maps.centering(rank, {int(axis[1:]): size for axis, size in sizes.items()})


HEADS = einsum("btd,dhk->bthk", "B,T,6", "6,3,4", "K,L,M,N")
HEADS_BACK = einsum("bthk,hkd->btd", "B,T,3,4", "3,4,8")
TURNED = einsum("btd,dkh->bhtk", "B,T,6", "6,4,3", "K,L,M,N")
PER_HEAD = einsum("bhtk,hkd->bhtd", "B,3,T,4", "3,4,8", "K,L,M,N")
QUERIES = activations("bqhd,bkhd->bhqk", "B,5,3,4", "B,7,3,4")
PASSES = {
    "Einsum pull": Case(einsum("bij,jk->bik"), maps.linear(all_at_once(3, 2, 8))),
    "Einsum pull, cut": Case(einsum("bij,jk->bik", "B,T,40", "40,24"), heads(3, 2, 24, 3)),
    "Einsum pull with spaces": Case(einsum(" bij , jk -> bik "), center(3, 2, 8)),
    "Einsum pull without an output": Case(einsum("bij,jk"), center(3, 2, 8)),
    "Einsum pull without an output, in the order of letters": Case(einsum("zij,ja"), center(3, 0, 8)),
    "Einsum pull without an output, an ellipsis": Case(einsum("...j,ja"), center(3, 2, 8)),
    "Einsum pull a turned weight": Case(einsum("bij,kj->bik", w="8,6"), center(3, 2, 8)),
    "Einsum pull a turned output": Case(einsum("bij,jk->bki"), maps.linear(all_at_once(3, 1, 8))),
    "Einsum pull a weight first": Case(weight_first("kj,bji->bki"), maps.linear(all_at_once(3, 1, 8))),
    "Einsum pull heads": Case(HEADS, block(1, 1, 3, 4)),
    "Einsum pull center of each head": Case(HEADS, center_of(4, _3=4)),
    "Einsum pull center over all heads": Case(HEADS, center_of(4, _2=3, _3=4)),
    "Einsum pull center of each head, scaled": Case(
        HEADS, replace(center_of(4, _3=4), scale=drawn("scale", (1, 1, 3, 4)))
    ),
    "Einsum pull turned heads": Case(TURNED, block(1, 3, 1, 4)),
    "Einsum pull center of some turned heads": Case(
        TURNED, replace(center_of(4, _1=3, _3=4), group=np.reshape([0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4], (1, 3, 1, 4)))
    ),
    "Einsum pull past one letter": Case(HEADS, scale(4, 2, 3)),
    "Einsum pull rows": Case(einsum("bij,jk->bik"), maps.linear(all_at_once(3, 1, 5))),
    "Einsum pull turned rows": Case(einsum("bij,jk->kib", "3,5,6"), block(1, 5, 3)),
    "Einsum pull center of turned rows": Case(
        einsum("bij,jk->kib", "3,5,6"),
        replace(center_of(3, _1=5, _2=3), group=np.reshape(np.tile([0, 1, 0], 5), (1, 5, 3))),
    ),
    "Einsum pull a factor of both": Case(PER_HEAD, scale(4, 1, 3)),
    "Einsum pull a factor per head": Case(PER_HEAD, block(1, 3, 1, 8)),
    "Einsum pull a summed row": Case(einsum("bij,jk->bk", y="K,L"), center(2, 1, 8)),
    "Einsum pull an outer product": Case(einsum("bi,k->bik", "B,5", "8"), maps.linear(all_at_once(3, 2, 8))),
    "Einsum pull ellipsis": Case(einsum("...d,dk->...k"), center(3, 2, 8)),
    "Einsum pull rows in an ellipsis": Case(einsum("...d,dk->...k"), center(3, 1, 5)),
    "Einsum pull two ellipses": Case(einsum("...md,...dk->...mk", "B,3,5,6", "3,6,8", "K,L,M,N"), block(1, 3, 1, 8)),
    "Einsum pull an ellipsis of nothing": Case(einsum("...bij,jk->...bik"), center(3, 2, 8)),
    "Einsum pull past a weight that is broadcast": Case(einsum("bij,bjk->bik", "3,5,6", "1,6,8"), scale(3, 0, 3)),
    "Einsum pull uniform": Case(HEADS, uniform(4, -2.0)),
    "Einsum pull of two activations": Case(QUERIES, center(4, 3, 7)),
    "Einsum pull of two activations to the left": Case(QUERIES, scale(4, 2, 5)),
    "Einsum pull of two activations to one": Case(QUERIES, scale(4, 1, 3)),
    "Einsum push": Case(einsum("bij,jk->bik"), scale_and_shift(3, 2, 6), 0),
    "Einsum push center": Case(einsum("bij,jk->bik"), center(3, 2, 6), 0),
    "Einsum push, cut": Case(einsum("bij,jk->bik", "B,40,40", "40,24"), scale_and_shift(3, 2, 40), 0),
    "Einsum push a weight first": Case(weight_first("kj,bji->bki"), scale_and_shift(3, 1, 6), 1),
    "Einsum push heads": Case(HEADS, scale_and_shift(3, 2, 6), 0),
    "Einsum push from heads": Case(HEADS_BACK, block(1, 1, 3, 4, shifts=True), 0),
    "Einsum push from one letter": Case(HEADS_BACK, scale_and_shift(4, 2, 3), 0),
    "Einsum push center over all heads": Case(HEADS_BACK, center_of(4, _2=3, _3=4), 0),
    "Einsum push turned heads": Case(einsum("bthk,dkh->dbt", "B,T,3,4", "8,4,3"), block(1, 1, 3, 4, shifts=True), 0),
    "Einsum push a factor of both": Case(PER_HEAD, scale_and_shift(4, 1, 3), 0),
    "Einsum push a factor per head": Case(PER_HEAD, block(1, 3, 1, 4, shifts=True), 0),
    "Einsum push rows": Case(einsum("bij,jk->kbi"), scale_and_shift(3, 1, 5), 0),
    "Einsum push center of rows": Case(einsum("bij,jk->kbi"), center(3, 1, 5), 0),
    "Einsum push shift at each place": Case(einsum("bij,jk->kbi"), maps.affine(3, shift=drawn("t", (1, 5, 6))), 0),
    "Einsum push what is summed with nothing": Case(einsum("bij,jk->bk", y="K,L"), scale_and_shift(3, 2, 6), 0),
    "Einsum push shift of what is summed with nothing": Case(einsum("bij,jk->bk", y="K,L"), shift(3, 1, 5), 0),
    "Einsum push to a number": Case(einsum("j,j->", "6", "6", ""), scale_and_shift(1, 0, 6), 0),
    "Einsum push ellipsis": Case(einsum("...d,dk->...k"), scale_and_shift(3, 2, 6), 0),
    "Einsum push to an ellipsis that the input lacks": Case(
        einsum("md,...dk->...mk", "5,6", "3,6,8"), scale_and_shift(2, 1, 6), 0
    ),
    "Einsum push past a weight that is broadcast": Case(
        einsum("bij,bjk->bik", "3,5,6", "1,6,8"), scale_and_shift(3, 0, 3), 0
    ),
    "Einsum push to an input that is broadcast": Case(
        einsum("bij,bjk->bik", "1,5,6", "3,6,8"), scale_and_shift(3, 2, 6), 0
    ),
    "Einsum push uniform": Case(HEADS_BACK, uniform(4, -2.0, 0.5), 0),
    "Einsum push of two activations": Case(QUERIES, scale(4, 1, 7), 1),
}
BLOCKS = {
    "Einsum pull shift": (Case(HEADS, shift(4, 3, 4)), "no-bias"),
    "Einsum pull center over what both have": (Case(PER_HEAD, center(4, 1, 3)), "does-not-commute"),
    "Einsum pull rows and columns": (Case(einsum("bij,jk->bik"), block(1, 5, 8)), "does-not-commute"),
    "Einsum pull a diagonal": (Case(einsum("bii,ik->bk", "B,6,6", y="K,L"), center(2, 1, 8)), "does-not-commute"),
    "Einsum pull a summed ellipsis": (Case(einsum("...d,dk->k", "5,6", y="K"), center(1, 0, 8)), "does-not-commute"),
    "Einsum pull of another rank": (Case(einsum("bij,jk->bik", "5,6"), center(3, 2, 8)), "unknown-shape"),
    "Einsum pull of three": (
        Case(einsum("bij,jk,k->bik").replace("(x, w)", "(x, w, v)").replace("] w>", "] w, double[8] v>"), center(3, 2, 8)),
        "does-not-commute",
    ),
    "Einsum pull of one": (
        Case('main (double[B,5] x) => (double[K,L] y) { [n] y = Einsum<equation = "ij->ji">(x) }', center(2, 0, 5)),
        "does-not-commute",
    ),
    "Einsum push shift over what is free and summed": (
        Case(einsum("bij,jk->bk", "B,T,6", y="K,L"), shift(3, 2, 6), 0),
        "unknown-shape",
    ),
    "Einsum push scale of what is summed with nothing": (
        Case(einsum("bij,jk->bk", y="K,L"), scale(3, 1, 5), 0),
        "does-not-commute",
    ),
    "Einsum push center over a kept and a summed letter": (
        Case(PER_HEAD, center_of(4, _1=3, _3=4), 0),
        "does-not-commute",
    ),
    "Einsum push center and scale": (Case(einsum("bij,jk->bik"), all_at_once(3, 2, 6), 0), "does-not-commute"),
    "Einsum push shift of one of two activations": (Case(QUERIES, shift(4, 3, 4), 0), "no-bias"),
    "Einsum push along what two activations sum": (Case(QUERIES, scale(4, 3, 4), 0), "does-not-commute"),
}  # fmt: skip


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id


def test_groups_are_named_by_their_smallest_element_after_a_turn() -> None:
    names = np.asarray([[0, 1, 0], [3, 1, -1]])
    turned = relabelled(Map(names, np.ones((1, 1)), np.zeros((1, 1))), "ab", "bca")
    assert turned.group.reshape(3, 2).tolist() == [[0, 1], [2, 2], [0, -1]]
    assert turned.scale.shape == turned.shift.shape == (1, 1, 1)


# --- mistakes -------------------------------------------------------------------------------------------------------


def on_weight(change: Callable[[Map], Map]) -> Mistake:
    return lambda step, request: replace(step, constants={i: change(a_map) for i, a_map in step.constants.items()})


def behind(change: Callable[[Map], Map]) -> Mistake:
    return lambda step, request: replace(step, outputs={0: change(step.outputs[0])})


def reordered(a_map: Map) -> Map:
    """The numbers in the order of the other operand's letters."""
    return Map(a_map.group, a_map.scale.T.reshape(a_map.scale.shape), a_map.shift)


def one_mean(a_map: Map) -> Map:
    return Map(np.zeros_like(a_map.group), a_map.scale, a_map.shift)


def square(equation: str) -> str:
    return einsum(equation, "B,5,6", "6,6")


def turned(a_map: Map) -> Map:
    return Map(a_map.group.T, a_map.scale.T, a_map.shift.T)  # type: ignore[union-attr]


MUTANTS: dict[str, tuple[Case, Mistake]] = {
    "pull: the weight is forgotten": (PASSES["Einsum pull heads"], lambda step, request: replace(step, constants={})),
    "pull: the summed axis": (Case(square("bij,jk->bik"), scale(3, 2, 6)), on_weight(turned)),
    "pull: the summed axis of a turned weight": (Case(square("bij,kj->bik"), center(3, 2, 6)), on_weight(turned)),
    "pull: the order of the letters": (PASSES["Einsum pull turned heads"], on_weight(reordered)),
    "pull: one mean for all heads": (PASSES["Einsum pull center of some turned heads"], on_weight(one_mean)),
    "pull: rows keep their form": (PASSES["Einsum pull turned rows"], lambda step, request: replace(step, inputs={})),
    "push: the weight is forgotten": (PASSES["Einsum push heads"], lambda step, request: replace(step, constants={})),
    "push: the kept axis": (Case(square("bij,jk->bik"), scale(3, 2, 6), 0), on_weight(turned)),
    "push: the order of the letters": (PASSES["Einsum push turned heads"], on_weight(reordered)),
    "push: the shift is forgotten": (PASSES["Einsum push from heads"], behind(maps.linear)),
    "push: the sign of the shift": (PASSES["Einsum push from heads"], behind(lambda a_map: times(a_map, -1.0))),
    "push: what is summed with nothing counts once": (
        PASSES["Einsum push what is summed with nothing"],
        behind(lambda a_map: times(a_map, 0.2)),
    ),
    "push: rows keep their form": (
        PASSES["Einsum push rows"],
        behind(lambda a_map: maps.affine(3, shift=a_map.shift)),
    ),
    "push: a factor of both, on both": (
        PASSES["Einsum push a factor of both"],
        behind(lambda a_map: Map(a_map.group, np.full((1, 1, 1, 1), 2.0), a_map.shift)),
    ),
}


@pytest.mark.parametrize(("case", "mistake"), MUTANTS.values(), ids=MUTANTS)
def test_the_proof_catches_a_mistake(case: Case, mistake: Mistake) -> None:
    assert wrong(case, mistake).startswith("differs by")


@pytest.mark.parametrize(
    ("case", "step"),
    [
        # a mean along a letter that both have, as the mean of the weights
        (
            BLOCKS["Einsum pull center over what both have"][0],
            Step({}, {0: center(4, 1, 3)}, {1: center(3, 0, 3)}),
        ),
        # a factor along what is summed over and the weight lacks, dropped
        (BLOCKS["Einsum push scale of what is summed with nothing"][0], Step({0: scale(3, 1, 5)})),
        # a shift without a bias, taken for nothing
        (BLOCKS["Einsum pull shift"][0], Step({}, {0: shift(4, 3, 4)})),
    ],
)
def test_the_proof_catches_a_precondition_that_is_dropped(case: Case, step: Step) -> None:
    said = obligation_of(case.scenario(), step, pulls=case.at is None)
    assert said.failure.startswith("differs by")


def test_what_is_the_same_along_an_axis_does_not_have_its_letter() -> None:
    case = PASSES["Einsum push to an input that is broadcast"]
    told = case.scenario()
    product = Product.of(Request(told.node("n"), case.map, 0, told.facts), "bij", "bjk", "bik")
    assert isinstance(product, Product)
    assert product.operands == (".ij", "bjk")
