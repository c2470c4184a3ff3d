"""Norm operators absorb an Affine behind them in gain and bias, and before them what their statistics cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from normswap.maps import Map, affine
from normswap.transfer import Blocked, Request, Step
from normswap.transfer.step import on_axis
from tests.graphs import Floats, Scenario, parsed, scenario
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

# Epsilon is no negligible part of the statistics, and it and its quotients by powers of two are exact in float32.
EPSILON = "epsilon = 0.125"
POSITIVE = "{0.5, 1.25, 2.0, 0.75}"  # variances


def batch_norm(attributes: str = EPSILON, x: str = "N,4,H,W", given: str = "", outputs: str = "y") -> str:
    """A BatchNormalization; the parameters named in `given` are inputs."""
    named = {name: f"double[4] {name}" for name in ("g", "b", "m", "v")}
    inputs = "".join(f", {named.pop(name)}" for name in given)
    declared = ", ".join(kind + (f" = {POSITIVE}" if name == "v" else "") for name, kind in named.items())
    rank = ",".join("KLMN"[: x.count(",") + 1])
    return f"""
        main (double[{x}] x{inputs}) => (double[{rank}] y) {f"<{declared}>" if declared else ""}
        {{ [n] {outputs} = BatchNormalization<{attributes}>(x, g, b, m, v) }}"""


def norm(
    operator: str = "LayerNormalization",
    attributes: str = EPSILON,
    x: str = "B,S,8",
    parameters: str = "8",
    given: str = "",
    bias: bool = True,
    results: str = "",
) -> str:
    """A norm over the last axes; the parameters named in `given` are inputs, `results` are more outputs."""
    bias = bias and operator == "LayerNormalization"
    named = {name: f"double[{parameters}] {name}" for name in ("g", "b")[: 1 + bias]}
    inputs = "".join(f", {named.pop(name)}" for name in given)
    call = f"{operator}<{attributes}>(x, g{', b' if bias else ''})"
    outputs = "".join(f", double[K,L,M] {name}" for name in results)
    return f"""
        main (double[{x}] x{inputs}) => (double[K,L,M] y{outputs}) {f"<{', '.join(named.values())}>" if named else ""}
        {{ [n] {", ".join(["y", *results])} = {call} }}"""


def channels(
    operator: str = "InstanceNormalization", given: str = "", parameters: str = "4", x: str = "N,4,H,W"
) -> str:
    """An InstanceNormalization or a GroupNormalization of two groups."""
    named = {name: f"double[{parameters}] {name}" for name in ("g", "b")}
    inputs = "".join(f", {named.pop(name)}" for name in given)
    groups = ", num_groups = 2" if operator == "GroupNormalization" else ""
    return f"""
        main (double[{x}] x{inputs}) => (double[J,K,L,M] y) {f"<{', '.join(named.values())}>" if named else ""}
        {{ [n] y = {operator}<{EPSILON}{groups}>(x, g, b) }}"""


RMS, GROUP = "RMSNormalization", "GroupNormalization"
SIMPLIFIED = "com.microsoft.SimplifiedLayerNormalization"
BATCH = scale_and_shift(4, 1, 4)
LAST = scale_and_shift(3, 2, 8)
PER_GROUP = affine(4, shift=np.reshape([0.5, 0.5, -2.0, -2.0], (1, 4, 1, 1)))
PASSES = {
    "BatchNormalization pull": Case(batch_norm(), BATCH),
    "BatchNormalization pull scale": Case(batch_norm(), scale(4, 1, 4)),
    "BatchNormalization pull shift": Case(batch_norm(), shift(4, 1, 4)),
    "BatchNormalization pull one number": Case(batch_norm(), uniform(4, -2.0, 0.5)),
    "BatchNormalization pull in a matrix": Case(batch_norm(x="N,4"), scale_and_shift(2, 1, 4)),
    "BatchNormalization push": Case(batch_norm(), BATCH, 0),
    "BatchNormalization push scale": Case(batch_norm(), scale(4, 1, 4), 0),
    "BatchNormalization push shift": Case(batch_norm(), shift(4, 1, 4), 0),
    "BatchNormalization push one number": Case(batch_norm(), uniform(4, 3.0, -1.0), 0),
    "BatchNormalization push zero": Case(
        batch_norm(), affine(4, scale=np.reshape([0.0, 1.0, 2.0, 3.0], (1, 4, 1, 1))), 0
    ),
    "BatchNormalization push in a matrix": Case(batch_norm(x="N,4"), scale_and_shift(2, 1, 4), 0),
    "BatchNormalization push with the default epsilon": Case(batch_norm("momentum = 0.5"), BATCH, 0, opset=15),
    **{
        f"BatchNormalization {direction} at opset {opset}": Case(
            batch_norm(EPSILON + (", is_test = 1" if opset < 7 else "")), BATCH, at, opset=opset
        )
        for opset in (6, 7, 8, 9, 13, 14, 15)
        for direction, at in (("pull", None), ("push", 0))
    },
    "LayerNormalization pull": Case(norm(), LAST),
    "LayerNormalization pull scale": Case(norm(), scale(3, 2, 8)),
    "LayerNormalization pull shift without bias": Case(norm(bias=False), shift(3, 2, 8)),
    "LayerNormalization pull without bias": Case(norm(bias=False), LAST),
    "LayerNormalization pull one number without bias": Case(norm(bias=False), uniform(3, 2.0, 0.5)),
    "LayerNormalization pull over two axes": Case(
        norm(attributes=EPSILON + ", axis = 1", x="B,3,8", parameters="3,8"), LAST
    ),
    "LayerNormalization pull over two axes along the first": Case(
        norm(attributes=EPSILON + ", axis = -2", x="B,3,8", parameters="3,8", bias=False), scale_and_shift(3, 1, 3)
    ),
    "LayerNormalization pull over two axes with the parameters of one": Case(
        norm(attributes=EPSILON + ", axis = 1", x="B,3,8"), scale_and_shift(3, 1, 3)
    ),
    "LayerNormalization pull shift, gain at run time": Case(norm(given="g"), shift(3, 2, 8)),
    "LayerNormalization push factor": Case(norm(), uniform(3, 2.0), 0),
    "LayerNormalization push negative factor": Case(norm(), uniform(3, -0.5), 0),
    "LayerNormalization push sign": Case(norm(), uniform(3, -1.0), 0),
    "LayerNormalization push factor and shift": Case(norm(), uniform(3, -4.0, 1.5), 0),
    "LayerNormalization push shift along another axis": Case(norm(x="B,5,8"), shift(3, 1, 5), 0),
    "LayerNormalization push center": Case(norm(), center(3, 2, 8), 0),
    "LayerNormalization push center, parameters at run time": Case(norm(given="gb"), center(3, 2, 8), 0),
    "LayerNormalization push factor, parameters at run time": Case(norm(given="gb"), uniform(3, 0.5, 1.0), 0),
    "LayerNormalization push the default epsilon": Case(norm(attributes="axis = -1"), uniform(3, 0.5), 0),
    "RMSNormalization pull": Case(norm(RMS), scale(3, 2, 8), opset=23),
    "RMSNormalization push": Case(norm(RMS), uniform(3, 0.5), 0, opset=23),
    "RMSNormalization push negative": Case(norm(RMS), uniform(3, -2.0), 0, opset=23),
    "RMSNormalization push without epsilon": Case(norm(RMS, "epsilon = 0.0"), uniform(3, 1e-30), 0, opset=23),
    "SimplifiedLayerNormalization pull": Case(norm(SIMPLIFIED), scale(3, 2, 8)),
    "SimplifiedLayerNormalization push": Case(norm(SIMPLIFIED), uniform(3, -2.0), 0),
    "InstanceNormalization pull": Case(channels(), BATCH),
    "InstanceNormalization pull one number": Case(channels(), uniform(4, -2.0, 0.5)),
    "InstanceNormalization push shift along channels": Case(channels(), shift(4, 1, 4), 0),
    "InstanceNormalization push factor": Case(channels(), uniform(4, -2.0, 0.5), 0),
    "GroupNormalization pull": Case(channels(GROUP), BATCH, opset=21),
    "GroupNormalization push factor": Case(channels(GROUP), uniform(4, -0.5, 2.0), 0, opset=21),
    "GroupNormalization push shift along groups": Case(channels(GROUP), PER_GROUP, 0, opset=21),
}
BLOCKS = {
    "BatchNormalization pull center": (Case(batch_norm(), center(4, 1, 4)), "does-not-commute"),
    "BatchNormalization push center": (Case(batch_norm(), all_at_once(4, 1, 4), 0), "does-not-commute"),
    "BatchNormalization pull along positions": (Case(batch_norm(x="N,4,5,W"), scale(4, 2, 5)), "does-not-commute"),
    "BatchNormalization push along positions": (Case(batch_norm(x="N,4,5,W"), shift(4, 2, 5), 0), "does-not-commute"),
    "BatchNormalization push on a parameter": (
        Case(batch_norm(given="m"), scale(1, 0, 4), 3),
        "unknown-shape",
    ),
    "BatchNormalization in training": (
        Case(batch_norm(EPSILON + ", training_mode = 1", outputs="y, rm, rv"), BATCH),
        "training-mode",
    ),
    "BatchNormalization in training before opset 14": (
        Case(batch_norm(outputs="y, rm, rv, sm, sv"), BATCH, opset=9),
        "training-mode",
    ),
    "BatchNormalization that is no test": (Case(batch_norm(), BATCH, 0, opset=6), "training-mode"),
    "BatchNormalization pull, gain at run time": (Case(batch_norm(given="g"), BATCH), "runtime-parameter"),
    "BatchNormalization push, variance at run time": (Case(batch_norm(given="v"), BATCH, 0), "runtime-parameter"),
    "LayerNormalization pull center": (Case(norm(), center(3, 2, 8)), "does-not-commute"),
    "LayerNormalization pull along tokens": (Case(norm(x="B,5,8"), scale(3, 1, 5)), "does-not-commute"),
    "LayerNormalization pull a statistic": (Case(norm(results="mi"), uniform(3, 2.0), output=1), "opaque-producer"),
    "LayerNormalization pull beside a statistic": (Case(norm(results="m"), LAST), "statistics-used"),
    "LayerNormalization push beside a statistic": (Case(norm(results="m"), uniform(3, 2.0), 0), "statistics-used"),
    "LayerNormalization pull, gain at run time": (Case(norm(given="g"), LAST), "runtime-parameter"),
    "LayerNormalization pull, bias at run time": (Case(norm(given="b"), scale(3, 2, 8)), "runtime-parameter"),
    "LayerNormalization pull shift over a free axis": (
        Case(norm(attributes=EPSILON + ", axis = 1", bias=False), shift(3, 2, 8)),
        "no-bias",
    ),
    "LayerNormalization push on a parameter": (Case(norm(given="g"), scale(1, 0, 8), 1), "unknown-shape"),
    "LayerNormalization push on a parameter of full rank": (
        Case(norm(attributes=EPSILON + ", axis = 0", x="2,3,8", parameters="2,3,8", given="b"), uniform(3, 2.0), 2),
        "does-not-commute",
    ),
    "LayerNormalization push scale": (Case(norm(), scale(3, 2, 8), 0), "does-not-commute"),
    "LayerNormalization push shift": (Case(norm(), shift(3, 2, 8), 0), "does-not-commute"),
    "LayerNormalization push scale along another axis": (Case(norm(x="B,5,8"), scale(3, 1, 5), 0), "does-not-commute"),
    "LayerNormalization push center of a part": (Case(norm(), heads(3, 2, 8, 2), 0), "does-not-commute"),
    "LayerNormalization push center along another axis": (
        Case(norm(x="B,5,8"), center(3, 1, 5), 0),
        "does-not-commute",
    ),
    "LayerNormalization push zero": (Case(norm(), uniform(3, 0.0), 0), "does-not-commute"),
    "LayerNormalization push negative, gain at run time": (
        Case(norm(given="g"), uniform(3, -2.0), 0),
        "runtime-parameter",
    ),
    "LayerNormalization push until epsilon is no number": (Case(norm(), uniform(3, 1e-30), 0), "not-finite"),
    "LayerNormalization push until epsilon is none": (Case(norm(), uniform(3, 1e30), 0), "not-finite"),
    "LayerNormalization push what is almost zero": (Case(norm(), uniform(3, 1e-200), 0), "not-finite"),
    "RMSNormalization pull shift": (Case(norm(RMS), shift(3, 2, 8), opset=23), "no-bias"),
    "RMSNormalization push shift": (Case(norm(RMS), uniform(3, 1.0, 2.0), 0, opset=23), "does-not-commute"),
    "RMSNormalization push center": (Case(norm(RMS), center(3, 2, 8), 0, opset=23), "does-not-commute"),
    "RMSNormalization push scale": (Case(norm(RMS), scale(3, 2, 8), 0, opset=23), "does-not-commute"),
    "SimplifiedLayerNormalization pull shift": (Case(norm(SIMPLIFIED), shift(3, 2, 8)), "no-bias"),
    "InstanceNormalization pull along positions": (Case(channels(x="N,4,5,W"), scale(4, 2, 5)), "does-not-commute"),
    "InstanceNormalization push scale": (Case(channels(), scale(4, 1, 4), 0), "does-not-commute"),
    "InstanceNormalization push shift along positions": (
        Case(channels(x="N,4,5,W"), shift(4, 2, 5), 0),
        "does-not-commute",
    ),
    "InstanceNormalization pull, bias at run time": (Case(channels(given="b"), BATCH), "runtime-parameter"),
    "GroupNormalization push shift within groups": (
        Case(channels(GROUP), shift(4, 1, 4), 0, opset=21),
        "does-not-commute",
    ),
    "GroupNormalization push center": (Case(channels(GROUP), center(4, 1, 4), 0, opset=21), "does-not-commute"),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id


def test_only_what_changes_is_changed() -> None:
    assert passes(PASSES["BatchNormalization pull shift"]).constants.keys() == {2}
    assert passes(PASSES["BatchNormalization push shift"]).constants.keys() == {2}
    assert passes(PASSES["LayerNormalization pull shift without bias"]).constants.keys() == {2}
    step = passes(PASSES["LayerNormalization pull over two axes along the first"])
    assert step.created == {2: (3, 8)}
    step = passes(PASSES["LayerNormalization push negative factor"])
    assert step.attributes == {"epsilon": 0.5}
    assert step.constants.keys() == {1}
    step = passes(PASSES["LayerNormalization push factor"])
    assert (step.attributes, step.constants, step.outputs) == ({"epsilon": 0.03125}, {}, {})
    assert passes(PASSES["LayerNormalization push shift along another axis"]).attributes == {}


def of_opset_18(case: Case) -> Scenario:
    """A GroupNormalization with one gain per group; onnx's checker refuses it ever since opset 21 replaced it."""
    model = parsed(case.text, 21)
    model.opset_import[0].version = 18
    return scenario(model)


def test_a_gain_per_group_takes_nothing() -> None:
    case = Case(channels(GROUP, parameters="2"), BATCH)
    assert case.answer(of_opset_18(case)).reason_id == "grouped-weights"  # type: ignore[union-attr]


def test_a_gain_per_group_may_change_its_sign() -> None:
    case = Case(channels(GROUP, parameters="2"), uniform(4, -2.0, 1.0), 0)
    told = of_opset_18(case)
    step = case.answer(told)
    assert isinstance(step, Step)
    assert step.constants.keys() == {1}
    assert obligation_of(told, step, pulls=False).holds


def test_batch_statistics_per_element_block() -> None:
    text = """
        main (double[N,2,3] x) => (double[K,L,M] y)
        <double[2,3] g, double[2,3] b, double[2,3] m, double[2,3] v>
        { [n] y = BatchNormalization<spatial = 0>(x, g, b, m, v) }"""
    assert blocks(Case(text, scale(3, 1, 2), opset=7)) == "unknown-shape"


@pytest.mark.parametrize("at", [None, 0])
def test_onnxruntime_has_a_norm_in_the_domain_of_onnx(at: int | None) -> None:
    model = parsed(norm(SIMPLIFIED))
    model.graph.node[0].domain = ""
    told = scenario(model)
    step = Case("", scale(3, 2, 8) if at is None else uniform(3, -2.0), at).answer(told)
    assert isinstance(step, Step)
    assert obligation_of(told, step, pulls=at is None).holds


def test_another_norm_of_onnxruntime_is_not_that_of_the_table() -> None:
    model = parsed(norm(RMS), 23)
    model.graph.node[0].domain = "com.microsoft"
    assert Case("", scale(3, 2, 8)).answer(scenario(model)).reason_id == "opaque-producer"  # type: ignore[union-attr]


# --- mistakes -------------------------------------------------------------------------------------------------------

Mistake = Callable[[Step, Request], Step]


def without(index: int) -> Mistake:
    return lambda step, request: replace(step, constants={k: v for k, v in step.constants.items() if k != index})


def with_constant(index: int, change: Callable[[Map], Map]) -> Mistake:
    return lambda step, request: replace(step, constants={**step.constants, index: change(step.constants[index])})


def with_epsilon(factor: float) -> Mistake:
    return lambda step, request: replace(step, attributes={"epsilon": factor * step.attributes["epsilon"]})


def shift_of(formula: Callable[..., Floats]) -> Mistake:
    """The shift of a pushed map by another formula of s, t, gain, mean and variance."""

    def mistake(step: Step, request: Request) -> Step:
        gain, _, mean, variance = (request.facts.float64(value) for value in request.node.inputs[1:] if value)
        s, t = request.map.scale.reshape(-1), request.map.offset().reshape(-1)
        return replace(step, constants={**step.constants, 2: affine(1, shift=formula(s, t, gain, mean, variance))})

    return mistake


def vanishes(step: Step | Blocked, request: Request) -> Step:
    """What is pushed does not matter to the norm."""
    return Step(inputs={0: request.map})


def absorbed(step: Step | Blocked, request: Request) -> Step:
    """What is pulled is absorbed along the last axis."""
    scale = request.map.scale.reshape(-1)
    return Step(outputs={0: request.map}, constants={1: affine(1, scale=scale), 2: affine(1, scale=scale)})


def averaged(step: Step | Blocked, request: Request) -> Step:
    """A factor per channel, as if it were its mean."""
    factor = request.map.scale.mean()
    return Step(inputs={0: request.map}, attributes={"epsilon": 0.125 / factor**2})


def as_at_inference(step: Step | Blocked, request: Request) -> Step:
    return Step(inputs={0: request.map}, constants={1: affine(1, scale=request.map.scale.reshape(-1))})


def halved(step: Step | Blocked, request: Request) -> Step:
    return Step(inputs={0: request.map}, attributes={"epsilon": 0.125 / 4})


PUSHED, PULLED = PASSES["BatchNormalization push"], PASSES["LayerNormalization pull"]
NEGATIVE, WIDE = PASSES["LayerNormalization push negative factor"], PASSES["RMSNormalization push negative"]
MUTANTS: dict[str, tuple[Case, Mistake]] = {
    "a BatchNormalization's mean is forgotten": (PUSHED, shift_of(lambda s, t, g, m, v: g / np.sqrt(v + 0.125) * t)),
    "its epsilon is forgotten": (PUSHED, shift_of(lambda s, t, g, m, v: g / np.sqrt(v) * (t + (s - 1) * m))),
    "its gain is forgotten": (PUSHED, shift_of(lambda s, t, g, m, v: (t + (s - 1) * m) / np.sqrt(v + 0.125))),
    "its new gain instead of the old": (
        PUSHED,
        shift_of(lambda s, t, g, m, v: s * g / np.sqrt(v + 0.125) * (t + (s - 1) * m)),
    ),
    "the variance instead of the deviation": (
        PUSHED,
        shift_of(lambda s, t, g, m, v: g / (v + 0.125) * (t + (s - 1) * m)),
    ),
    "the wrong sign of the mean": (PUSHED, shift_of(lambda s, t, g, m, v: g / np.sqrt(v + 0.125) * (t - (s - 1) * m))),
    "its gain is not scaled": (PUSHED, without(1)),
    "its bias is pushed like one that is pulled": (
        PUSHED,
        lambda step, request: replace(step, constants={1: step.constants[1], 2: on_axis(request.map, 1, 1, 0)}),
    ),
    "a pulled bias is not scaled": (
        PASSES["BatchNormalization pull"],
        with_constant(2, lambda a_map: affine(1, shift=a_map.offset())),
    ),
    "a pulled gain is shifted": (
        PASSES["BatchNormalization pull"],
        lambda step, request: replace(step, constants={1: step.constants[2], 2: step.constants[2]}),
    ),
    "a pulled bias is forgotten": (PULLED, without(2)),
    "a pulled gain is forgotten": (PULLED, without(1)),
    "a created bias along the other axis": (
        Case(
            norm(attributes=EPSILON + ", axis = 1", x="B,8,8", parameters="8,8", bias=False), scale_and_shift(3, 1, 8)
        ),
        with_constant(2, lambda a_map: affine(2, shift=a_map.offset().reshape(1, -1))),
    ),
    "epsilon times the factor squared": (NEGATIVE, with_epsilon(0.25**2)),
    "epsilon over the factor": (NEGATIVE, with_epsilon(0.5)),
    "epsilon not changed": (WIDE, lambda step, request: replace(step, attributes={})),
    "the sign of the factor is forgotten": (WIDE, without(1)),
    "the sign of the bias as well": (
        NEGATIVE,
        lambda step, request: replace(step, constants={**step.constants, 2: affine(1, scale=np.asarray(-1.0))}),
    ),
    "a factor per channel vanishes": (BLOCKS["LayerNormalization push scale"][0], averaged),
    "a factor per token vanishes": (BLOCKS["LayerNormalization push scale along another axis"][0], averaged),
    "a factor of zero vanishes": (BLOCKS["LayerNormalization push zero"][0], vanishes),
    "a shift along the averaged axis vanishes": (BLOCKS["LayerNormalization push shift"][0], vanishes),
    "a Center of half the axis vanishes": (BLOCKS["LayerNormalization push center of a part"][0], vanishes),
    "a Center of another axis vanishes": (BLOCKS["LayerNormalization push center along another axis"][0], vanishes),
    "a mean vanishes before an RMSNorm": (BLOCKS["RMSNormalization push shift"][0], vanishes),
    "a Center vanishes before an RMSNorm": (BLOCKS["RMSNormalization push center"][0], vanishes),
    "a shift within a group vanishes": (BLOCKS["GroupNormalization push shift within groups"][0], vanishes),
    "a shift along positions vanishes": (BLOCKS["InstanceNormalization push shift along positions"][0], vanishes),
    "a scale along tokens is absorbed": (Case(norm(x="B,8,8"), scale(3, 1, 8)), absorbed),
    "a Center is absorbed": (
        BLOCKS["BatchNormalization pull center"][0],
        lambda step, request: Step(outputs={0: request.map}, constants={2: on_axis(request.map, 1, 1, 0)}),
    ),
    "what trains is taken for what does not": (
        Case(batch_norm(EPSILON + ", training_mode = 1", outputs="y, rm, rv"), scale(4, 1, 4), 0),
        as_at_inference,
    ),
    "a statistic that is read is forgotten": (BLOCKS["LayerNormalization push beside a statistic"][0], halved),
}


@pytest.mark.parametrize(("case", "mistake"), MUTANTS.values(), ids=MUTANTS)
def test_the_proof_catches_a_mistake(case: Case, mistake: Mistake) -> None:
    told = case.scenario()
    answer = case.answer(told)
    if case in PASSES.values():
        passes(case)
    wrong = mistake(answer, Request(told.node("n"), case.map, case.at, told.facts))  # type: ignore[arg-type]
    assert obligation_of(told, wrong, pulls=case.at is None).failure.startswith("differs by")
