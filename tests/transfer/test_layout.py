"""Layout operators carry a map wherever its groups stay whole, and say why where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from normswap.maps import Map, same
from normswap.transfer import Request, Step, transfer
from tests.graphs import parsed, scenario
from tests.steps import Case, all_at_once, blocks, center, heads, obligation_of, passes, scale, scale_and_shift, uniform


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
ROWS_JOINED = "main (double[B,2,8] a, double[B,3,8] b) => (double[B,5,8] y) { [n] y = Concat<axis = 1>(a, b) }"
MAPS_JOINED = "main (double[B,8,H,W] a, double[B,4,H,W] b) => (double[B,12,H,W] y) { [n] y = Concat<axis = 1>(a, b) }"
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
    "Reshape pull to groups of channels": Case(reshape("0, 2, 4, 5, 7", "B,8,5,7", "K,L,M,N,O"), all_at_once(5, 2, 4)),
    "Reshape push to groups of channels": Case(
        reshape("0, 2, 4, 5, 7", "B,8,5,7", "K,L,M,N,O"), all_at_once(4, 1, 8), 0
    ),
    "Reshape push shared axes the map looks at": Case(
        reshape("0, 2, 4, 7", "B,8,7", "K,L,M,N"), both(3, {1: 8, 2: 7}), 0
    ),
    "Transpose pull without a permutation": Case(layout("Transpose(x)", "2,3,8"), all_at_once(3, 0, 8)),
    "Transpose push without a permutation": Case(layout("Transpose(x)", "2,3,8"), scale_and_shift(3, 1, 3), 0),
    "Slice pull by attributes": Case(
        layout("Slice<axes = [1, -1], starts = [2, 1], ends = [6, 5]>(x)", "2,8,7"), scale_and_shift(3, 1, 4), opset=9
    ),
    "Slice push without axes": Case(
        layout("Slice(x, start, end)", "8,4,6", constants="int64[1] start = {2}, int64[1] end = {6}"),
        scale_and_shift(3, 0, 8),
        0,
    ),
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
    "Concat push one piece": Case(JOINED, scale_and_shift(3, 2, 8), 0),
    "Concat push center of one piece": Case(JOINED, center(3, 2, 8), 1),
    "Concat push one map for a piece": Case(JOINED, uniform(3, -2.0, 3.0), 1),
    "Concat push beside rows": Case(ROWS_JOINED, scale_and_shift(3, 2, 8), 1),
    "Concat pull feature maps": Case(MAPS_JOINED, scale_and_shift(4, 1, 12)),
    "Concat push feature maps": Case(MAPS_JOINED, scale_and_shift(4, 1, 8), 0),
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
    "Concat push beside rows of a free number": (Case(CONCAT, scale(3, 2, 8), 0), "unknown-shape"),
    "Concat push of a value beside itself": (
        Case("main (double[B,S,8] a) => (double[B,S,16] y) { [n] y = Concat<axis = 2>(a, a) }", scale(3, 2, 8), 0),
        "does-not-commute",
    ),
    "Tile push to the number of copies": (
        Case(layout("Tile(x, by)", "1,S,8", more=", int64[3] by"), uniform(1, 2.0), 1),
        "does-not-commute",
    ),
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


WIDE = "1,256,80,80"
LARGE = {
    "Concat": (
        f"main (float[{WIDE}] a, float[{WIDE}] b) => (float[1,512,80,80] y) {{ [n] y = Concat<axis = 1>(a, b) }}",
        512,
    ),
    "Split": (
        f"main (float[1,512,80,80] a) => (float[{WIDE}] y, float[{WIDE}] z) {{ [n] y, z = Split<axis = 1>(a) }}",
        256,
    ),
    "Reshape": (
        f"main (float[{WIDE}] a) => (float[1,256,6400] y) <int64[3] to = {{0, 256, -1}}> {{ [n] y = Reshape(a, to) }}",
        256,
    ),
}


@pytest.mark.parametrize(("text", "channels"), LARGE.values(), ids=LARGE)
def test_what_is_carried_does_not_depend_on_how_large_other_axes_are(text: str, channels: int) -> None:
    """Two sizes: the operator on a few positions, and with every axis at its own size, beyond what may be carried."""
    few = text.replace("80,80", "3,5").replace("6400", "15")
    rank = text.split("=>")[1].split("]")[0].count(",") + 1
    wanted = scale_and_shift(rank, 1, channels)
    answers = [Case(size, wanted, opset=13).answer(Case(size, wanted, opset=13).scenario()) for size in (text, few)]
    assert all(isinstance(answer, Step) for answer in answers)
    large, small = answers
    assert isinstance(large, Step)
    assert isinstance(small, Step)
    assert large.inputs.keys() == small.inputs.keys()
    assert all(same(large.inputs[index], small.inputs[index]) for index in large.inputs)


def test_an_output_of_unknown_rank_is_mapped_all_the_same() -> None:
    told = scenario(parsed("main (double[N,6] x) => (double[M,K,6] y) <int64[1] i = {1}> { [n] y = Unsqueeze(x, i) }"))
    for table in told.facts.shapes:
        del table[told.value("y")]
    step = transfer(Request(told.node("n"), scale(2, 1, 6), 0, told.facts))
    assert isinstance(step, Step)
    assert step.outputs[0].scale.shape == (1, 1, 6)


def test_one_piece_is_mapped_and_the_others_are_not() -> None:
    step = passes(Case(JOINED, uniform(3, 2.0, 3.0), 1))
    assert step.outputs[0].scale.reshape(-1).tolist() == [1.0] * 8 + [2.0] * 8
    assert step.outputs[0].offset().reshape(-1).tolist() == [0.0] * 8 + [3.0] * 8


# --- mistakes -------------------------------------------------------------------------------------------------------


def with_output(a_map: Map) -> Callable[[Step, Request], Step]:
    return lambda step, request: replace(step, outputs={0: a_map})


def with_inputs(**inputs: Map) -> Callable[[Step, Request], Step]:
    return lambda step, request: replace(step, inputs={int(name[2:]): a_map for name, a_map in inputs.items()})


def rolled(a_map: Map, axis: int) -> Map:
    return Map(a_map.group, np.roll(a_map.scale, 1, axis), np.roll(a_map.offset(), 1, axis))


MUTANTS: dict[str, tuple[Case, Callable[[Step, Request], Step]]] = {
    "the map of one piece for all": (PASSES["Concat push one map for a piece"], with_output(uniform(3, -2.0, 3.0))),
    "the map of one piece on the other": (
        PASSES["Concat push one piece"],
        lambda step, request: with_output(rolled_by_half(step.outputs[0]))(step, request),
    ),
    "the pieces exchanged": (
        PASSES["Concat pull scale along its axis"],
        lambda step, request: replace(step, inputs={0: step.inputs[1], 1: step.inputs[0]}),
    ),
    "another permutation": (
        PASSES["Transpose pull over two axes"],
        with_inputs(at0=center(3, 2, 8)),
    ),
    "the neighbour's factor in a slice": (
        PASSES["Slice pull along its axis"],
        lambda step, request: replace(step, inputs={0: rolled(step.inputs[0], 2)}),
    ),
    "heads side by side taken for heads one after the other": (
        PASSES["Reshape push scale to heads"],
        lambda step, request: with_output(uniform(4, 2.0))(step, request),
    ),
}


def rolled_by_half(a_map: Map) -> Map:
    half = a_map.scale.shape[2] // 2
    return Map(a_map.group, np.roll(a_map.scale, half, 2), np.roll(a_map.offset(), half, 2))


@pytest.mark.parametrize(("case", "mistake"), MUTANTS.values(), ids=MUTANTS)
def test_the_proof_catches_a_mistake(case: Case, mistake: Callable[[Step, Request], Step]) -> None:
    told = case.scenario()
    step = passes(case)
    wrong = mistake(step, Request(told.node("n"), case.map, case.at, told.facts))
    assert obligation_of(told, wrong, pulls=case.at is None).failure.startswith("differs by")
