"""Arithmetic around reductions that nobody thought of: whatever is named a norm in it is one, and what is one is named.

300 graphs of fixed seeds. More are tried by `python -m tests.random_non_norms --count N`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest

from normswap.learn import learn
from normswap.recognize import recognize
from tests.random_non_norms.examine import Outcome, claim_of, examined
from tests.random_non_norms.graph import Graph
from tests.random_non_norms.judge import Claim, Untrue, judge
from tests.random_non_norms.mutations import MUTATIONS

SEEDS = range(300)


@cache
def outcome(seed: int) -> Outcome:
    return examined(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_named_is_true(seed: int) -> None:
    assert outcome(seed).graphs == 1


def test_what_is_spelled_correctly_is_recognized() -> None:
    total = _total()
    assert total.controls >= 20
    assert total.missed == []


def test_the_graphs_are_worth_drawing() -> None:
    total = _total()
    assert {mutation.__name__ for mutation in MUTATIONS} <= total.made.keys()
    assert {"LayerNorm", "RMSNorm", "L2Norm", "Affine"} <= total.kinds.keys()
    assert {"not-a-norm", "different-axes", "center-only", "other-statistic", "piecewise"} <= total.reasons.keys()
    assert total.elements > 1_000_000
    assert total.invalid <= total.graphs // 50


def _total() -> Outcome:
    total = Outcome()
    for seed in SEEDS:
        total.add(outcome(seed))
    return total


# --- the judge ------------------------------------------------------------------------------------------------------


def layer_norm() -> tuple[Graph, Claim]:
    graph = Graph("double", ("B", "T", 12))
    centered = graph.node("Sub", "x", graph.node("ReduceMean", "x", axes=[-1]))
    square = graph.node("ReduceMean", graph.node("Mul", centered, centered), axes=[-1])
    output = graph.node("Div", centered, graph.node("Sqrt", graph.node("Add", square, graph.number(1e-5))))
    graph.outputs = [output]
    one, zero = np.asarray(1.0), np.asarray(0.0)
    return graph, Claim("LayerNorm", (2,), 1e-5, "inside", 1, None, False, "x", output, one, zero)


def test_the_judge_agrees_with_what_is_true() -> None:
    assert judge(*layer_norm(), seed=0) > 10_000


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "RMSNorm"},
        {"axes": (1,)},
        {"axes": (1, 2)},
        {"epsilon": 1.000001e-5},
        {"epsilon": 0.0},
        {"place": "outside"},
        {"place": "floor"},
        {"groups": 2},
        {"elements": 11},
        {"total": True},
        {"gain": np.asarray(1.00000001)},
        {"gain": np.asarray(-1.0)},
        {"gain": np.linspace(1, 2, 12)},
        {"bias": np.asarray(1e-9)},
        {"kind": "Affine"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_the_judge_sees_every_part_of_a_claim(changes: dict[str, object]) -> None:
    graph, claim = layer_norm()
    with pytest.raises(Untrue):
        judge(graph, replace(claim, **changes), seed=0)


# --- what random graphs have found ----------------------------------------------------------------------------------


def named(graph: Graph) -> list[Claim]:
    """The norms that are named in a graph, after the judge has agreed with each."""
    model = ir.from_proto(graph.model())
    seen = recognize(model, learn(model))
    claims = [claim_of(norm) for norm in (*seen.norms, *seen.named)]
    assert all(judge(graph, claim, seed=0) for claim in claims)
    return claims


def root_mean_square(graph: Graph, square: str, epsilon: float = 1e-5) -> str:
    mean = graph.node("ReduceMean", square, axes=[-1])
    return graph.node("Sqrt", graph.node("Add", mean, graph.number(epsilon)))


def test_what_was_added_to_x_after_its_mean_was_taken_is_seen() -> None:
    graph = Graph("double", ("B", "T", 12))
    mean = graph.node("ReduceMean", "x", axes=[-1])
    centered = graph.node("Sub", graph.node("Add", "x", graph.number(1e-12)), mean)
    output = graph.node("Div", centered, root_mean_square(graph, graph.node("Mul", centered, centered), 1e-3))
    graph.outputs = [output]
    assert [(claim.kind, claim.input) for claim in named(graph)] == [("RMSNorm", centered)]


def test_what_was_added_to_the_inverse_of_the_divisor_is_seen() -> None:
    graph = Graph("double", ("B", "T", 12))
    inverse = graph.node("Reciprocal", root_mean_square(graph, graph.node("Mul", "x", "x")))
    graph.outputs = [graph.node("Mul", "x", graph.node("Add", inverse, graph.number(1e-12)))]
    assert named(graph) == []


@pytest.mark.parametrize(("dtype", "gain"), [("bfloat16", 0.74609375), ("bfloat16", 0.2490234375), ("float", 61 / 60)])
def test_a_gain_near_a_mean_is_itself(dtype: str, gain: float) -> None:
    graph = Graph(dtype, ("B", 4, 12))
    scaled = graph.node("Div", "x", root_mean_square(graph, graph.node("Mul", "x", "x")))
    graph.outputs = [graph.node("Mul", scaled, graph.number(gain))]
    assert [float(claim.gain.item()) for claim in named(graph)] == [pytest.approx(float(np.float32(gain)), rel=1e-9)]


def test_an_infinite_bound_is_no_epsilon() -> None:
    graph = Graph("float16", ("B", "T", 12))
    square = graph.node("Mul", "x", "x")
    bounded = graph.node("Clip", square, graph.number(0.0), graph.number(np.inf))
    graph.outputs = [graph.node("Div", "x", root_mean_square(graph, bounded, 1e-3))]
    assert [claim.epsilon for claim in named(graph)] == [pytest.approx(1e-3, rel=1e-3)]


@pytest.mark.parametrize(("to", "recognized"), [("float16", True), ("float8", False), ("int64", False)])
def test_a_cast_to_8_bits_does_more_than_round(to: str, recognized: bool) -> None:
    graph = Graph("float", ("B", "T", 12), opset=19)
    square = graph.node("Cast", graph.node("Cast", graph.node("Mul", "x", "x"), to=to), to="own")
    mean = graph.node("Div", graph.node("ReduceSum", square, graph.integers([-1])), graph.number(12.0))
    root = graph.node("Sqrt", graph.node("Add", mean, graph.number(1e-5)))
    graph.outputs = [graph.node("Div", "x", root)]
    model = ir.from_proto(graph.model())
    seen = recognize(model, learn(model))
    assert bool((*seen.norms, *seen.named)) is recognized


@pytest.mark.parametrize(("bound", "recognized"), [(1e4, False), (1e8, False), (1e300, True)])
def test_a_bound_that_bites_far_from_zero_is_seen(bound: float, recognized: bool) -> None:
    graph = Graph("double", ("B", "T", 12))
    mean = graph.node("ReduceMean", "x", axes=[-1])
    centered = graph.node("Sub", "x", mean)
    root = root_mean_square(graph, graph.node("Mul", centered, centered), 1e-12)
    factor = graph.node("Div", graph.number(np.linspace(0.5, 1.5, 12)), root)
    shift = graph.node("Sub", graph.number(np.linspace(-1, 1, 12)), graph.node("Mul", mean, factor))
    bounded = graph.node("Min", shift, graph.number(bound))
    graph.outputs = [graph.node("Add", graph.node("Mul", "x", factor), bounded)]
    assert ("x" in [claim.input for claim in named(graph)]) is recognized


def test_what_is_undefined_at_zero_is_no_norm_of_x() -> None:
    graph = Graph("double", ("B", "T", 12))
    length = graph.node("ReduceL2", "x", axes=[-1])
    inverse = graph.node("Div", "x", graph.node("Mul", "x", length))
    graph.outputs = [graph.node("Mul", inverse, "x")]
    assert named(graph) == []


def test_what_was_added_to_x_before_its_squares_is_seen() -> None:
    graph = Graph("double", ("B", "T", 12))
    mean = graph.node("ReduceMean", "x", axes=[-1])
    moved = graph.node("Add", "x", graph.number(1e-12))
    square = graph.node("ReduceMean", graph.node("Mul", moved, moved), axes=[-1])
    variance = graph.node("Sub", square, graph.node("Mul", mean, mean))
    root = graph.node("Sqrt", graph.node("Add", variance, graph.number(1e-6)))
    graph.outputs = [graph.node("Div", graph.node("Sub", "x", mean), root)]
    assert named(graph) == []
