"""Weights absorb maps: MatMul, Gemm and Conv, along the right axis, with the right bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.steps import Case, all_at_once, blocks, center, heads, passes, scale, scale_and_shift, shift, uniform


def gemm(bias: str, attributes: str = "", a: str = "B,6", b: str = "6,8", more: str = "") -> str:
    """A Gemm with a constant C of shape `bias`, or with the further inputs `more`, or without C."""
    declared = f", double[{bias}] c".replace("[[]]", "") if bias else ""
    return f"""
        main (double[{a}] x{more}) => (double[M,N] y) <double[{b}] w{declared}>
        {{ [n] y = Gemm{f"<{attributes}>" if attributes else ""}(x, w{", c" if bias or more else ""}) }}"""


def matmul(x: str = "B,S,6", w: str = "6,8") -> str:
    return f"main (double[{x}] x) => (double[K,L,M,N] y) <double[{w}] w> {{ [n] y = MatMul(x, w) }}"


def left(w: str = "8,6", x: str = "B,6,S") -> str:
    return f"main (double[{x}] x) => (double[K,L,M] y) <double[{w}] w> {{ [n] y = MatMul(w, x) }}"


def conv(attributes: str = "", w: str = "8,4,3", x: str = "B,4,T", bias: bool = True) -> str:
    return f"""
        main (double[{x}] x) => (double[K,L,M] y) <double[{w}] w{", double[8] c" if bias else ""}>
        {{ [n] y = Conv{f"<{attributes}>" if attributes else ""}(x, w{", c" if bias else ""}) }}"""


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
    "Conv pull": Case(conv(), all_at_once(3, 1, 8)),
    "Conv pull, cut": Case(conv(w="8,40,3", x="B,40,T"), all_at_once(3, 1, 8)),
    "Conv pull padded and strided": Case(conv("pads = [1, 1], strides = [2]"), all_at_once(3, 1, 8)),
    "Conv pull automatic padding": Case(conv('auto_pad = "SAME_UPPER"'), all_at_once(3, 1, 8)),
    "Conv pull in two dimensions": Case(
        conv("dilations = [2, 1]", "8,4,3,2", "B,4,H,W").replace("K,L,M", "K,L,M,N"), all_at_once(4, 1, 8)
    ),
    "Conv pull shift without bias": Case(conv(bias=False), shift(3, 1, 8)),
    "Conv pull scale in groups": Case(conv("group = 2", "8,2,3"), scale_and_shift(3, 1, 8)),
    "Conv pull center within groups": Case(conv("group = 2", "8,2,3"), heads(3, 1, 8, 4)),
    "Conv push scale": Case(conv("pads = [1, 1]"), scale(3, 1, 4), 0),
    "Conv push shift": Case(conv(), scale_and_shift(3, 1, 4), 0),
    "Conv push shift without bias": Case(conv(bias=False), scale_and_shift(3, 1, 4), 0),
    "Conv push in groups": Case(conv("group = 2", "8,2,3"), scale_and_shift(3, 1, 4), 0),
    "Conv push depthwise": Case(conv("group = 4", "8,1,3"), scale_and_shift(3, 1, 4), 0),
}
BLOCKS = {
    "MatMul pull shift": (Case(matmul(), shift(3, 2, 8)), "no-bias"),
    "MatMul pull rows of a weight that broadcasts": (Case(matmul("7,6", "3,6,8"), center(3, 1, 7)), "does-not-commute"),
    "MatMul push center and scale": (Case(matmul(), all_at_once(3, 2, 6), 0), "does-not-commute"),
    "MatMul push shift along rows": (Case(matmul("B,7,6"), shift(3, 1, 7), 0), "does-not-commute"),
    "Gemm pull rows": (Case(gemm("8", a="5,6"), center(2, 0, 5)), "does-not-commute"),
    "Gemm pull run-time C that broadcasts": (Case(gemm("", more=", double[B,1] c"), center(2, 1, 8)), "broadcast"),
    "Gemm pull shift past beta 0": (Case(gemm("8", "beta = 0.0"), shift(2, 1, 8)), "unknown-shape"),
    "Gemm push shift past beta 0": (Case(gemm("8", "beta = 0.0"), shift(2, 1, 6), 0), "unknown-shape"),
    "Gemm pull shift past beta 0 without C": (Case(gemm("", "beta = 0.0"), shift(2, 1, 8)), "unknown-shape"),
    "Gemm push on C": (Case(gemm("", more=", double[B,8] c"), shift(2, 1, 8), 2), "does-not-commute"),
    "Gemm of two activations": (
        Case("main (double[B,6] x, double[6,8] w) => (double[B,8] y) { [n] y = Gemm(x, w) }", center(2, 1, 8)),
        "opaque-producer",
    ),
    "Conv pull center across groups": (Case(conv("group = 2", "8,2,3"), center(3, 1, 8)), "grouped-weights"),
    "Conv pull center of which one group crosses": (
        Case(
            conv("group = 2", "8,2,3"), replace(center(3, 1, 8), group=np.reshape([0, 0, 1, 1, 1, 1, 2, 2], (1, 8, 1)))
        ),
        "grouped-weights",
    ),
    "Conv pull depthwise": (Case(conv("group = 4", "8,1,3"), heads(3, 1, 8, 2)), "grouped-weights"),
    "Conv pull over positions": (Case(conv(x="B,4,9"), center(3, 2, 7)), "does-not-commute"),
    "Conv push shift into padding": (Case(conv("pads = [1, 1]"), shift(3, 1, 4), 0), "zero-padding"),
    "Conv push shift into automatic padding": (
        Case(conv('auto_pad = "SAME_LOWER"'), shift(3, 1, 4), 0),
        "zero-padding",
    ),
    "Conv push center": (Case(conv(), center(3, 1, 4), 0), "does-not-commute"),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id
