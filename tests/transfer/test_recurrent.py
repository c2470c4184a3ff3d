"""Recurrent layers absorb a map of their input in W and the input's half of B, whatever else they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from normswap import maps
from normswap.maps import Deferred, Map
from normswap.transfer import Request, Step
from tests.graphs import Floats
from tests.steps import Case, all_at_once, blocks, center, obligation_of, passes, scale, scale_and_shift, shift, uniform

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUT, HIDDEN = 6, 4
SCALE, SHIFT, BOTH = scale(3, 2, INPUT), shift(3, 2, INPUT), scale_and_shift(3, 2, INPUT)


def layer(
    operator: str = "LSTM",
    attributes: str = "",
    *,
    bias: bool = True,
    inputs: Sequence[str] = (),
    runtime: Sequence[str] = (),
    x: str = "T,B",
    directions: int = 1,
    before: str = "",
) -> str:
    """A recurrent layer of x [x, 6]; of its `inputs` n (lengths), h, c, p, those in `runtime` are not constant."""
    gates, batch_first = GATES[operator] * HIDDEN, "layout = 1" in attributes
    state = f"double[B,{directions},{HIDDEN}]" if batch_first else f"double[{directions},B,{HIDDEN}]"
    kinds = {"n": "int32[B]", "h": state, "c": state, "p": f"double[{directions},{3 * HIDDEN}]"}
    declared = {"w": f"double[{directions},{gates},{INPUT}]", "r": f"double[{directions},{gates},{HIDDEN}]"}
    declared |= {"b": f"double[{directions},{2 * gates}]"} if bias else {}
    declared |= {"p": kinds["p"]} if "p" in inputs else {}
    given = {name: kinds[name] for name in inputs if name != "p"} | {name: declared.pop(name) for name in runtime}
    slots = ["x", "w", "r", "b" if bias else "", *(name if name in inputs else "" for name in kinds)]
    call = ", ".join(slots).rstrip(", ")
    results = ["y", "last", *(["cell"] if operator == "LSTM" else [])]
    parameters = "".join(f", {kind} {name}" for name, kind in given.items())
    outputs = ", ".join(f"double[{'K,L,M,N' if name == 'y' else 'K,L,M'}] {name}" for name in results)
    return f"""
        main (double[{x},{INPUT}] x{parameters}) => ({outputs}) <{", ".join(f"{k} {n}" for n, k in declared.items())}>
        {{ {before}\n [n] {", ".join(results)} = {operator}<hidden_size = {HIDDEN}{attributes and ", "}{attributes}>({call}) }}"""


PASSES = {
    **{f"{operator} push": Case(layer(operator), BOTH, 0) for operator in GATES},
    **{f"{operator} push scale": Case(layer(operator), SCALE, 0) for operator in GATES},
    **{f"{operator} push shift without B": Case(layer(operator, bias=False), SHIFT, 0) for operator in GATES},
    **{
        f"{operator} push, both directions": Case(layer(operator, 'direction = "bidirectional"', directions=2), BOTH, 0)
        for operator in GATES
    },
    **{
        f"{operator} push, both directions without B, with lengths and states": Case(
            layer(operator, 'direction = "bidirectional"', bias=False, inputs=["n", "h"], directions=2), BOTH, 0
        )
        for operator in GATES
    },
    **{f"{operator} push, reverse": Case(layer(operator, 'direction = "reverse"'), BOTH, 0) for operator in GATES},
    **{f"{operator} push, lengths": Case(layer(operator, inputs=["n"]), BOTH, 0) for operator in GATES},
    **{
        f"{operator} push, batch first": Case(layer(operator, "layout = 1", x="B,T", inputs=["n", "h"]), BOTH, 0)
        for operator in ("GRU", "RNN")
    },
    "LSTM push, batch first": Case(layer("LSTM", "layout = 1", x="B,T", inputs=["n", "h", "c", "p"]), BOTH, 0),
    "LSTM push, everything": Case(layer(inputs=["n", "h", "c", "p"]), BOTH, 0),
    "LSTM push, coupled gates": Case(layer("LSTM", "input_forget = 1, clip = 0.7"), BOTH, 0),
    "LSTM push, other activations": Case(
        layer("LSTM", 'activations = ["HardSigmoid", "Relu", "Softsign"], activation_alpha = [0.3]'), BOTH, 0
    ),
    "LSTM push center": Case(layer(), center(3, 2, INPUT), 0),
    "LSTM push center and shift": Case(layer(), Map(center(3, 2, INPUT).group, np.ones((1, 1, 1)), SHIFT.shift), 0),
    "LSTM push one number": Case(layer(), uniform(3, -2.0, 0.5), 0),
    "LSTM push, R at run time": Case(layer(runtime=["r"]), BOTH, 0),
    "LSTM push, long": Case(layer(x="60,20", inputs=["n", "h", "c"]).replace("B", "20"), BOTH, 0),
    "LSTM push, states that follow from shapes": Case(
        layer(
            inputs=["h"],
            before="s = Shape<start = 1, end = 2>(x) o = Constant<value_ints = [1]>() k = Constant<value_ints = [4]>()"
            " z = Concat<axis = 0>(o, s, k) h = ConstantOfShape<value = double[1] {0.5}>(z)",
        ).replace(", double[1,B,4] h)", ")"),
        BOTH,
        0,
    ),
    "GRU push, linear before reset": Case(layer("GRU", "linear_before_reset = 1", inputs=["h"]), BOTH, 0),
    "GRU push, reset before linear": Case(layer("GRU", "linear_before_reset = 0", inputs=["h"]), BOTH, 0),
    # On absolute values the update gate lets nothing through: the measure of the proof must not be that alone.
    "GRU push, saturated": Case(layer("GRU"), uniform(3, 12.0), 0),
    "RNN push, at an old opset": Case(layer("RNN", inputs=["n"]), BOTH, 0, opset=7),
}
BLOCKS = {
    **{f"{operator} pull": (Case(layer(operator), scale(4, 3, HIDDEN)), "opaque-producer") for operator in GATES},
    "LSTM pull of the last state": (Case(layer(), scale(3, 2, HIDDEN), output=1), "opaque-producer"),
    "LSTM push along the steps": (Case(layer(x="5,B"), scale(3, 0, 5), 0), "does-not-commute"),
    "GRU push along the batch": (Case(layer("GRU", x="T,5"), shift(3, 1, 5), 0), "does-not-commute"),
    "LSTM push center and scale": (Case(layer(), all_at_once(3, 2, INPUT), 0), "does-not-commute"),
    "LSTM push on a state": (Case(layer(inputs=["h"]), scale(3, 2, HIDDEN), 5), "does-not-commute"),
    "RNN push on R": (Case(layer("RNN", runtime=["r"]), scale(3, 2, HIDDEN), 2), "does-not-commute"),
    "RNN push, W at run time": (Case(layer("RNN", runtime=["w"]), SCALE, 0), "opaque-producer"),
    "GRU push shift, B at run time": (Case(layer("GRU", runtime=["b"]), SHIFT, 0), "overridable-initializer"),
}


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_it_passes(case: Case) -> None:
    passes(case)


@pytest.mark.parametrize(("case", "reason_id"), BLOCKS.values(), ids=BLOCKS)
def test_it_blocks(case: Case, reason_id: str) -> None:
    assert blocks(case) == reason_id


def test_only_what_changes_is_changed() -> None:
    step = passes(Case(layer(), SCALE, 0))
    assert step.constants.keys() == {1}
    step = passes(Case(layer(bias=False, directions=2, attributes='direction = "bidirectional"'), SHIFT, 0))
    assert step.constants.keys() == {3}
    assert step.created == {3: (2, 2 * GATES["LSTM"] * HIDDEN)}
    assert not step.outputs


def test_a_scale_does_not_need_a_constant_bias() -> None:
    assert passes(Case(layer("GRU", runtime=["b"]), SCALE, 0)).constants.keys() == {1}


# --- mistakes -------------------------------------------------------------------------------------------------------


def on_bias(change: Callable[[Floats], Floats]) -> Callable[[Step, Request], Step]:
    def mistake(step: Step, request: Request) -> Step:
        shift = step.constants[3].shift
        wrong = maps.affine(2, shift=Deferred(shift.shape, lambda: change(step.constants[3].offset())))
        return replace(step, constants={**step.constants, 3: wrong})

    return mistake


def exchanged_gates(row: Floats) -> Floats:
    """The input gate's part where the output gate's belongs."""
    parts = np.split(row, 8, axis=1)
    return np.concatenate([parts[1], parts[0], *parts[2:]], axis=1)


def of_the_scaled_weight(step: Step, request: Request) -> Step:
    """(W·s) t in place of W t."""
    weight = request.facts.float64(request.node.inputs[1])  # type: ignore[arg-type]
    product = (weight * step.constants[1].scale) @ request.map.offset().reshape(-1)
    return on_bias(lambda row: np.concatenate([product, np.zeros_like(product)], axis=1))(step, request)


def on_hidden(step: Step, request: Request) -> Step:
    """The scale on R, whose last axis is as long."""
    return replace(step, constants={2: step.constants[1], **{k: v for k, v in step.constants.items() if k != 1}})


def on_steps(step: Step, request: Request) -> Step:
    """A map along the steps, taken for one along the input."""
    return Step(inputs={0: request.map}, constants={1: maps.affine(3, scale=request.map.scale.reshape(1, 1, -1))})


MUTANTS: dict[str, tuple[Case, Callable[[Step, Request], Step]]] = {
    "the recurrent half of B in a GRU that resets after its product": (
        PASSES["GRU push, linear before reset"],
        on_bias(lambda row: np.roll(row, row.shape[1] // 2, axis=1)),
    ),
    "both halves of B": (
        PASSES["LSTM push"],
        on_bias(lambda row: row + np.roll(row, row.shape[1] // 2, axis=1)),
    ),
    "another order of gates": (PASSES["LSTM push"], on_bias(exchanged_gates)),
    "the other direction's shift": (PASSES["LSTM push, both directions"], on_bias(lambda row: row[::-1])),
    "one direction's shift for both": (PASSES["GRU push, both directions"], on_bias(lambda row: row[[0, 0]])),
    "no shift in the second direction": (
        PASSES["RNN push, both directions without B, with lengths and states"],
        on_bias(lambda row: row * [[1.0], [0.0]]),
    ),
    "the wrong sign of the shift": (PASSES["RNN push"], on_bias(lambda row: -row)),
    "the shift of the scaled weight": (PASSES["LSTM push, lengths"], of_the_scaled_weight),
    "B forgotten": (
        PASSES["GRU push"],
        lambda step, request: replace(step, constants={1: step.constants[1]}),
    ),
    "W forgotten": (PASSES["GRU push"], lambda step, request: replace(step, constants={3: step.constants[3]})),
    "the scale on W's first axis": (
        PASSES["RNN push scale"],
        lambda step, request: replace(step, constants={1: maps.affine(3, scale=np.full((1, 4, 1), 2.0))}),
    ),
}


@pytest.mark.parametrize(("case", "mistake"), MUTANTS.values(), ids=MUTANTS)
def test_the_proof_catches_a_mistake(case: Case, mistake: Callable[[Step, Request], Step]) -> None:
    told = case.scenario()
    step = passes(case)
    wrong = mistake(step, Request(told.node("n"), case.map, case.at, told.facts))
    assert obligation_of(told, wrong, pulls=False).failure.startswith("differs by")
