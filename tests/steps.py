"""One operator and one map: what its transfer answers, and whether the answer's equation is true.

The operator is called `n` in every text. The equation is evaluated here from the definition of a map, by onnx's
reference evaluator on values of a whole run, and once more by the proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from normswap import maps
from normswap.discover import Discovery
from normswap.maps import Map
from normswap.plan import Plan
from normswap.prove import Obligation, prove
from normswap.scene import Scene
from normswap.transfer import Blocked, Request, Step, transfer
from tests.graphs import AGREEMENT, Array, Floats, Scenario, drawn, feeds, mapped, parsed, scenario
from tests.operators import ConvTranspose


@dataclass(frozen=True)
class Case:
    """T wanted on output `output` of the node `n` (`at` is None: pull), or given on its input `at` (push)."""

    text: str
    map: Map
    at: int | None = None
    output: int = 0
    opset: int = 17
    ir_version: int = 8

    def scenario(self) -> Scenario:
        """The model of the text, and its facts."""
        return scenario(parsed(self.text, self.opset, self.ir_version))

    def answer(self, told: Scenario) -> Step | Blocked:
        """What the transfer answers."""
        return transfer(Request(told.node("n"), self.map, self.at, told.facts, self.output))


# A wrong version of a step, for a request.
Mistake = Callable[[Step, Request], Step]


def center(rank: int, axis: int, size: int) -> Map:
    """Center over one whole axis."""
    return maps.centering(rank, {axis % rank: size})


def heads(rank: int, axis: int, size: int, count: int) -> Map:
    """Center over each of `count` blocks of an axis."""
    return maps.Map(
        _line(np.arange(size) * count // size, rank, axis).astype(np.int64), np.ones((1,) * rank), np.zeros((1,) * rank)
    )


def scale(rank: int, axis: int, size: int) -> Map:
    """Another factor at each place of an axis, some of them negative."""
    return maps.affine(rank, scale=_line(drawn("scale", (size,)), rank, axis))


def shift(rank: int, axis: int, size: int) -> Map:
    """Another shift at each place of an axis."""
    return maps.affine(rank, shift=_line(drawn("shift", (size,)), rank, axis))


def uniform(rank: int, scale: float = 1.0, shift: float = 0.0) -> Map:
    """The same factor and shift everywhere."""
    return maps.affine(rank, scale=np.asarray(scale), shift=np.asarray(shift))


def all_at_once(rank: int, axis: int, size: int) -> Map:
    """Center, scale and shift along one axis."""
    return maps.Map(center(rank, axis, size).group, scale(rank, axis, size).scale, shift(rank, axis, size).shift)


def scale_and_shift(rank: int, axis: int, size: int) -> Map:
    """Scale and shift along one axis."""
    return maps.affine(rank, scale(rank, axis, size).scale, shift(rank, axis, size).offset())


def _line(array: np.ndarray, rank: int, axis: int) -> np.ndarray:
    return array.reshape([-1 if place == axis % rank else 1 for place in range(rank)])


# --- the equation ---------------------------------------------------------------------------------------------------


def passes(case: Case) -> Step:
    """The step of a case, after its equation was found true, directly and by the proof."""
    told = case.scenario()
    step = case.answer(told)
    assert isinstance(step, Step), step
    assert equation(told, step, pulls=case.at is None) < AGREEMENT
    obligation = obligation_of(told, step, pulls=case.at is None)
    assert obligation.holds, obligation.failure
    return step


def wrong(case: Case, mistake: Mistake) -> str:
    """What the proof says of a step with a mistake in it, where the step itself is right."""
    told, step = case.scenario(), passes(case)
    spoiled = mistake(step, Request(told.node("n"), case.map, case.at, told.facts, case.output))
    return obligation_of(told, spoiled, pulls=case.at is None).failure


def blocks(case: Case) -> str:
    """The reason id with which a case is blocked."""
    answer = case.answer(case.scenario())
    assert isinstance(answer, Blocked), answer
    return answer.reason_id


class SimplifiedLayerNormalization(OpRun):
    """onnxruntime's RMSNormalization, which onnx has not."""

    op_domain = "com.microsoft"

    def _run(self, x: Floats, gain: Floats, axis: int = -1, epsilon: float = 1e-5) -> tuple[Floats]:
        axes = tuple(range(axis % x.ndim, x.ndim))
        return (gain * x / np.sqrt(np.square(x).mean(axis=axes, keepdims=True) + epsilon),)


class GroupNormalization(OpRun):
    """GroupNormalization, which onnx computes in float32."""

    op_domain = ""

    def _run(self, x: Floats, *parameters: Floats, num_groups: int, epsilon: float, stash_type: int) -> tuple[Floats]:
        gain, bias = (np.repeat(array, x.shape[1] // array.size) for array in parameters)
        groups = x.reshape(x.shape[0], num_groups, -1)
        mean, variance = groups.mean(axis=2, keepdims=True), groups.var(axis=2, keepdims=True)
        normalized = ((groups - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)
        return (np.moveaxis(np.moveaxis(normalized, 1, -1) * gain + bias, -1, 1),)


class BatchNormalization(OpRun):
    """BatchNormalization at inference, of which onnx makes one in training at opsets 7 to 13."""

    op_domain = ""

    def _run(self, x: Floats, *parameters: Floats, epsilon: float, **_: object) -> tuple[Floats]:
        gain, bias, mean, variance = (array.reshape(-1, *[1] * (x.ndim - 2)) for array in parameters)
        return (gain * (x - mean) / np.sqrt(variance + epsilon) + bias,)


def _evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    own = [
        ConvTranspose,
        SimplifiedLayerNormalization,
        GroupNormalization,
        *([BatchNormalization] if 7 <= opset < 14 else []),
    ]
    return ReferenceEvaluator(model, new_ops=own)


def equation(told: Scenario, step: Step, *, pulls: bool) -> float:
    """How far the two sides of a step's equation are apart, relative to the larger; infinite for another shape."""
    node = next(node for node in told.proto.graph.node if node.name == "n")
    values = _evaluator(told.proto).run(None, feeds(told.proto), intermediate=True)
    plain = [values[name] if name else None for name in node.input]
    with_maps = [
        mapped(step.inputs[index], array) if index in step.inputs else array for index, array in enumerate(plain)
    ]
    before, after = (plain, list(with_maps)) if pulls else (with_maps, list(plain))
    for index, a_map in step.constants.items():
        old = np.zeros(step.created[index]) if index in step.created else plain[index]
        after += [None] * (index + 1 - len(after))
        after[index] = _constant(a_map, old)
    left, right = _run(told, node, before), _run(told, _with_attributes(node, step), after)
    worst = 0.0
    for position, (old, new) in enumerate(zip(left, right, strict=True)):
        if position in step.outputs:
            old = mapped(step.outputs[position], old) if pulls else old
            new = new if pulls else mapped(step.outputs[position], new)
        if old.shape != new.shape:
            return np.inf
        worst = max(worst, float(np.abs(old - new).max(initial=0.0) / max(np.abs(old).max(initial=0.0), 1e-300)))
    return worst


def _constant(a_map: Map, old: Floats) -> Floats:
    """The new constant, by the definition of the map, in the smallest shape that says the same and is at least the old."""
    full = old.reshape((1,) * (a_map.rank - old.ndim) + old.shape)
    new = mapped(a_map, full)
    for axis, size in enumerate(full.shape):
        if size == 1 and np.ptp(new, axis=axis).max(initial=0.0) == 0:
            new = new.take([0], axis)
    while new.ndim > old.ndim and new.shape[0] == 1:
        new = new[0]
    return new


def _with_attributes(node: onnx.NodeProto, step: Step) -> onnx.NodeProto:
    """The node as the step changes it; a float attribute is rounded to float32."""
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    del changed.attribute[:]
    changed.attribute.extend(attribute for attribute in node.attribute if attribute.name not in step.attributes)
    changed.attribute.extend(onnx.helper.make_attribute(name, number) for name, number in step.attributes.items())
    return changed


def _run(told: Scenario, node: onnx.NodeProto, arrays: list[Array | None]) -> list[Array]:
    names = [f"i{index}" if array is not None else "" for index, array in enumerate(arrays)]
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    del alone.input[:]
    alone.input.extend(names)
    inputs = [onnx.ValueInfoProto(name=name) for name in names if name]
    outputs = [onnx.ValueInfoProto(name=name) for name in alone.output]
    graph = onnx.helper.make_graph([alone], "alone", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=told.proto.opset_import)
    given = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    return [np.asarray(output) for output in _evaluator(model).run(None, given)]


def obligation_of(told: Scenario, step: Step, *, pulls: bool) -> Obligation:
    """The proof's obligation for the node `n` in a plan that consists of this step."""
    node = told.node("n")
    labels = {node.inputs[index]: a_map for index, a_map in step.inputs.items()}
    labels |= {node.outputs[position]: a_map for position, a_map in step.outputs.items()}
    direction = "pull" if pulls else "push"
    plan = Plan(direction, (), {node: step}, labels, {}, Discovery(direction))  # type: ignore[arg-type]
    scene = Scene.of(told.facts, (), (output.name or "" for output in told.model.graph.outputs))
    return next(obligation for obligation in prove(scene, plan) if obligation.node == "n")
