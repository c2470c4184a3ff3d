"""Layout operators carry a map wherever its groups stay whole, and say why where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from normswap.maps import Map
from normswap.transfer import Step
from tests.steps import Case, all_at_once, blocks, center, heads, passes, scale, scale_and_shift, shift, uniform


def layout(operator: str, x: str = "B,S,8", y: str = "K,L,M", constants: str = "", more: str = "") -> str:
    """An operator on x; `constants` are declared, `more` are further inputs."""
    declared = f"<{constants}>" if constants else ""
    return f"main (double[{x}] x{more}) => (double[{y}] y) {declared} {{ [n] y = {operator} }}"


def reshape(target: str, x: str = "B,S,8", y: str = "K,L,M", attributes: str = "") -> str:
    size = target.count(",") + 1
    return layout(f"Reshape{attributes}(x, to)", x, y, f"int64[{size}] to = {{{target}}}")


def both(rank: int, axes: dict[int, int]) -> Map:
    """Center over several axes at once."""
    group = np.zeros([axes.get(axis, 1) for axis in range(rank)], dtype=np.int64)
    return Map(group, np.ones((1,) * rank), np.zeros((1,) * rank))


SPLIT = """
    main (double[B,S,24] x) => (double[B,S,8] y, double[B,S,8] z, double[B,S,8] u) <int64[3] sizes = {8, 8, 8}>
    { [n] y, z, u = Split<axis = -1>(x, sizes) }"""
UNEVEN = """
    main (double[B,S,8] x) => (double[B,S,6] y, double[B,S,2] z) <int64[2] sizes = {6, 2}>
    { [n] y, z = Split<axis = -1>(x, sizes) }"""
SLICE = "int64[1] start = {2}, int64[1] end = {6}, int64[1] axis = {-1}"
ROWS = "int64[1] start = {0}, int64[1] end = {1}, int64[1] axis = {1}"
CONCAT = "main (double[B,S,8] a, double[B,1,8] b) => (double[B,T,8] y) { [n] y = Concat<axis = 1>(a, b) }"
TOKEN = """
    main (double[B,S,8] a) => (double[B,T,8] y) <double[1,1,8] token, int64[1] one = {1}> {
        batch = Shape<start = 0, end = 1>(a)
        shape = Concat<axis = 0>(batch, one, one)
        wide = Expand(token, shape)
        [n] y = Concat<axis = 1>(wide, a)
    }"""
CLASS = """
    main (double[B,S,8] a) => (double[B,1,8] y) <double[1,1,8] token, int64[1] one = {1}> {
        batch = Shape<start = 0, end = 1>(a)
        shape = Concat<axis = 0>(batch, one, one)
        [n] y = Expand(token, shape)
    }"""
JOINED = "main (double[B,S,8] a, double[B,S,8] b) => (double[B,S,16] y) { [n] y = Concat<axis = -1>(a, b) }"
PARTLY_CONSTANT = """
    main (double[1,S,8] a) => (double[1,T,8] y) <double[1,2,8] first> { [n] y = Concat<axis = 1>(first, a) }"""
RUNTIME_SHAPE = """
    main (double[B,S,8] x) => (double[K,L] y) <int64[1] width = {8}> {
        batch = Shape<start = 0, end = 1>(x)
        length = Shape<start = 1, end = 2>(x)
        rows = Mul(batch, length)
        to = Concat<axis = 0>(rows, width)
        [n] y = Reshape(x, to)
    }"""
EMBEDDING = "main (int64[B,S] ids) => (double[B,S,8] y) <double[40,8] table> { [n] y = Gather(table, ids) }"
COLUMNS = "main (int64[S] ids) => (double[8,S] y) <double[8,40] table> { [n] y = Gather<axis = 1>(table, ids) }"
FIRST = layout("Gather<axis = 1>(x, first)", y="K,M", constants="int64 first = {0}")
PICKED = layout("Gather<axis = 2>(x, some)", constants="int64[3] some = {5, 0, 2}")
PAD = "int64[6] pads = {0, 0, 0, 0, 1, 0}"
PATCHES = "B,8,H,W"

PASSES = {
    "Reshape pull to heads": Case(reshape("0, 0, 2, 4", y="K,L,M,N"), center(4, 3, 4)),
    "Reshape pull from heads": Case(reshape("0, 0, -1", "B,S,2,4"), all_at_once(3, 2, 8)),
    "Reshape push to heads": Case(reshape("0, 0, 2, 4", y="K,L,M,N"), heads(3, 2, 8, 2), 0),
    "Reshape push scale to heads": Case(reshape("0, 0, 2, 4", y="K,L,M,N"), scale_and_shift(3, 2, 8), 0),
    "Reshape pull past free axes": Case(reshape("-1, 8", y="K,L"), all_at_once(2, 1, 8)),
    "Reshape push past free axes": Case(reshape("-1, 8", y="K,L"), all_at_once(3, 2, 8), 0),
    "Reshape pull to a run-time shape": Case(RUNTIME_SHAPE, all_at_once(2, 1, 8)),
    "Reshape pull one scale": Case(reshape("-1, 4", y="K,L"), uniform(2, -2.0, 3.0)),
    "Transpose pull": Case(layout("Transpose<perm = [0, 2, 1]>(x)"), all_at_once(3, 1, 8)),
    "Transpose push": Case(layout("Transpose<perm = [0, 2, 1]>(x)"), all_at_once(3, 2, 8), 0),
    "Transpose pull from channels first": Case(
        layout("Transpose<perm = [0, 2, 3, 1]>(x)", PATCHES, "K,L,M,N"), all_at_once(4, 3, 8)
    ),
    "Transpose pull over two axes": Case(layout("Transpose<perm = [0, 2, 1]>(x)", "B,3,8"), both(3, {1: 8, 2: 3})),
    "Slice pull": Case(layout("Slice(x, start, end, axis)", constants=ROWS), all_at_once(3, 2, 8)),
    "Slice push": Case(layout("Slice(x, start, end, axis)", constants=ROWS), all_at_once(3, 2, 8), 0),
    "Slice pull along its axis": Case(layout("Slice(x, start, end, axis)", constants=SLICE), scale_and_shift(3, 2, 4)),
    "Slice pull center of a part": Case(layout("Slice(x, start, end, axis)", constants=SLICE), center(3, 2, 4)),
    "Slice push along its axis": Case(
        layout("Slice(x, start, end, axis)", constants=SLICE), scale_and_shift(3, 2, 8), 0
    ),
    "Slice push whole groups": Case(
        layout("Slice(x, start, end, axis)", constants=SLICE.replace("{2}", "{4}").replace("{6}", "{8}")),
        heads(3, 2, 8, 2),
        0,
    ),
    "Split pull first": Case(SPLIT, center(3, 2, 8)),
    "Split pull second": Case(SPLIT, all_at_once(3, 2, 8), output=1),
    "Split push": Case(SPLIT, scale_and_shift(3, 2, 24), 0),
    "Split push per part": Case(SPLIT, heads(3, 2, 24, 3), 0),
    "Split pull along tokens": Case(
        SPLIT.replace("axis = -1", "axis = 0").replace("B,S,24", "24,S,8").replace("B,S,8", "8,S,8"),
        all_at_once(3, 2, 8),
    ),
    "Concat pull": Case(CONCAT, all_at_once(3, 2, 8)),
    "Concat pull to a constant": Case(PARTLY_CONSTANT, all_at_once(3, 2, 8)),
    "Concat pull to an expanded token": Case(TOKEN, all_at_once(3, 2, 8)),
    "Concat pull scale along its axis": Case(JOINED, scale_and_shift(3, 2, 16)),
    "Concat pull per piece": Case(JOINED, heads(3, 2, 16, 2)),
    "Expand pull": Case(CLASS, all_at_once(3, 2, 8)),
    "Expand pull what is copied along": Case(
        layout("Expand(x, to)", "S,8", constants="int64[3] to = {4, 1, 8}"), all_at_once(3, 2, 8)
    ),
    "Expand push": Case(layout("Expand(x, to)", "S,8", constants="int64[3] to = {4, 1, 8}"), all_at_once(2, 1, 8), 0),
    "Tile pull": Case(layout("Tile(x, by)", "1,S,8", constants="int64[3] by = {3, 1, 1}"), all_at_once(3, 2, 8)),
    "Tile push": Case(layout("Tile(x, by)", "1,S,8", constants="int64[3] by = {3, 1, 1}"), all_at_once(3, 2, 8), 0),
    "Squeeze pull": Case(layout("Squeeze(x, at)", "B,1,8", "K,M", "int64[1] at = {1}"), all_at_once(2, 1, 8)),
    "Squeeze push": Case(layout("Squeeze(x, at)", "B,1,8", "K,M", "int64[1] at = {1}"), all_at_once(3, 2, 8), 0),
    "Unsqueeze pull": Case(layout("Unsqueeze(x, at)", "B,8", "K,L,M", "int64[1] at = {1}"), all_at_once(3, 2, 8)),
    "Unsqueeze push": Case(layout("Unsqueeze(x, at)", "B,8", "K,L,M", "int64[1] at = {1}"), all_at_once(2, 1, 8), 0),
    "Unsqueeze pull, axes as attribute": Case(
        layout("Unsqueeze<axes = [1]>(x)", "B,8", "K,L,M"), all_at_once(3, 2, 8), opset=11
    ),
    "Flatten pull": Case(layout("Flatten<axis = 2>(x)", y="K,M"), all_at_once(2, 1, 8)),
    "Flatten push": Case(layout("Flatten<axis = 2>(x)", y="K,M"), all_at_once(3, 2, 8), 0),
    "Pad pull beside": Case(layout("Pad(x, pads)", constants=PAD), center(3, 2, 8)),
    "Pad pull scale": Case(layout("Pad(x, pads)", constants=PAD), scale(3, 2, 8)),
    "Pad pull zero that is written": Case(
        layout("Pad(x, pads, with)", constants=PAD + ", double with = {0.0}"), center(3, 2, 8)
    ),
    "Reshape pull groups that lie across axes": Case(reshape("0, 3, 4", "B,2,6"), center(3, 2, 4)),
    "Reshape push groups that lie across axes": Case(reshape("0, 3, 4", "B,2,6"), center(3, 2, 6), 0),
    "DepthToSpace pull": Case(layout("DepthToSpace<blocksize = 2>(x)", PATCHES, "K,L,M,N"), center(4, 1, 2)),
    "DepthToSpace push": Case(layout("DepthToSpace<blocksize = 2>(x)", PATCHES, "K,L,M,N"), uniform(4, 2.0, 3.0), 0),
    "SpaceToDepth pull": Case(layout("SpaceToDepth<blocksize = 2>(x)", "B,2,4,6", "K,L,M,N"), uniform(4, -2.0, 3.0)),
    "SpaceToDepth push": Case(layout("SpaceToDepth<blocksize = 2>(x)", "B,2,4,6", "K,L,M,N"), center(4, 1, 2), 0),
    "Gather pull embedding": Case(EMBEDDING, all_at_once(3, 2, 8)),
    "Gather pull embedding, other axis": Case(COLUMNS, all_at_once(2, 0, 8)),
    "Gather pull one position": Case(FIRST, all_at_once(2, 1, 8)),
    "Gather push one position": Case(FIRST, all_at_once(3, 2, 8), 0),
    "Gather pull along its axis": Case(PICKED, scale_and_shift(3, 2, 3)),
    "Gather pull center of what is picked": Case(PICKED, center(3, 2, 3)),
    "Gather push along its axis": Case(PICKED, scale_and_shift(3, 2, 8), 0),
    "Gather push run-time positions": Case(
        layout("Gather<axis = 1>(x, ids)", y="K,L,M,N", more=", int64[P,Q] ids"), all_at_once(3, 2, 8), 0
    ),
    "Shape push": Case("main (double[B,S,8] x) => (int64[3] y) { [n] y = Shape(x) }", all_at_once(3, 2, 8), 0),
    "Size push": Case("main (double[B,S,8] x) => (int64 y) { [n] y = Size(x) }", all_at_once(3, 2, 8), 0),
}
BLOCKS = {
    "Reshape push that cuts through groups": (
        Case(reshape("-1, 8", "B,S,12", "K,L"), center(3, 2, 12), 0),
        "unknown-shape",
    ),
    "Reshape push a scale along a free axis": (Case(reshape("8, -1", y="K,L"), scale(3, 2, 8), 0), "unknown-shape"),
    "Reshape to a shape of run time": (
        Case(layout("Reshape(x, to)", y="K,L", more=", int64[2] to"), center(2, 1, 8)),
        "unknown-shape",
    ),
    "Slice push a part of a group": (
        Case(layout("Slice(x, start, end, axis)", constants=SLICE), center(3, 2, 8), 0),
        "coarser-groups",
    ),
    "Split push a part of a group": (Case(SPLIT, center(3, 2, 24), 0), "coarser-groups"),
    "Split push uneven parts of groups": (Case(UNEVEN, heads(3, 2, 8, 2), 0), "coarser-groups"),
    "Concat pull along the axis": (Case(JOINED, center(3, 2, 16)), "coarser-groups"),
    "Concat push": (Case(CONCAT, scale(3, 2, 8), 0), "does-not-commute"),
    "Expand pull a scale of what is copied": (
        Case(layout("Expand(x, to)", "B,S,1", constants="int64[3] to = {1, 1, 8}"), scale(3, 2, 8)),
        "coarser-groups",
    ),
    "Tile pull a scale of what is copied": (
        Case(layout("Tile(x, by)", "B,S,4", constants="int64[3] by = {1, 1, 2}"), scale(3, 2, 8)),
        "coarser-groups",
    ),
    "Tile push the center of one copy": (
        Case(layout("Tile(x, by)", "B,S,4", constants="int64[3] by = {1, 1, 2}"), center(3, 2, 4), 0),
        "coarser-groups",
    ),
    "Pad pull along the axis": (
        Case(layout("Pad(x, pads)", constants="int64[6] pads = {0, 0, 1, 0, 0, 1}"), center(3, 2, 10)),
        "coarser-groups",
    ),
    "Pad pull a shift": (Case(layout("Pad(x, pads)", constants=PAD), shift(3, 2, 8)), "coarser-groups"),
    "Pad with another value": (
        Case(layout("Pad(x, pads, with)", constants=PAD + ", double with = {1.0}"), center(3, 2, 8)),
        "coarser-groups",
    ),
    "Pad pull edge, as copies do": (
        Case(layout('Pad<mode = "edge">(x, pads)', constants=PAD), center(3, 2, 8)),
        "coarser-groups",
    ),
    "Pad pull with attributes": (
        Case(layout("Pad<pads = [0, 0, 0, 0, 1, 0], value = 1.0>(x)"), center(3, 2, 8), opset=10),
        "coarser-groups",
    ),
    "Pad push a shift": (Case(layout("Pad(x, pads)", constants=PAD), shift(3, 2, 8), 0), "coarser-groups"),
    "Pad push": (Case(layout("Pad(x, pads)", constants=PAD), center(3, 2, 8), 0), "coarser-groups"),
    "Gather push a part of a group": (Case(PICKED, center(3, 2, 8), 0), "coarser-groups"),
    "Gather pull a place twice": (
        Case(layout("Gather<axis = 2>(x, some)", constants="int64[3] some = {5, 0, 5}"), scale(3, 2, 3)),
        "coarser-groups",
    ),
    "Gather pull run-time places along the axis": (
        Case(layout("Gather<axis = 2>(x, ids)", more=", int64[4] ids"), scale(3, 2, 4)),
        "unknown-shape",
    ),
    "Gather pull the axis of the ids": (
        Case(
            "main (int64[6] ids) => (double[6,8] y) <double[40,8] table> { [n] y = Gather(table, ids) }",
            center(2, 0, 6),
        ),
        "unknown-shape",
    ),
    "Shape pull": (
        Case("main (double[B,S,8] x) => (int64[3] y) { [n] y = Shape(x) }", scale(1, 0, 3)),
        "opaque-producer",
    ),
    "Size pull": (Case("main (double[B,S,8] x) => (int64 y) { [n] y = Size(x) }", uniform(0, 2.0)), "opaque-producer"),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id


def test_a_token_is_centered_once_however_often_it_is_expanded() -> None:
    step = passes(Case(CLASS, center(3, 2, 8)))
    assert not step.inputs
    assert step.constants[0].group.shape == (1, 1, 8)


def test_a_part_of_a_projection_is_centered_alone() -> None:
    step = passes(Case(SPLIT, center(3, 2, 8), output=1))
    assert isinstance(step, Step)
    assert (step.inputs[0].group.reshape(3, 8) >= 0).any(axis=1).tolist() == [False, True, False]
    assert step.outputs.keys() == {1}
