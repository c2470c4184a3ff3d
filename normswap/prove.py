"""Proofs: one obligation per node that touches a label, executed in float64 on the model's own constants.

pull    n'(T_in(x)) = T_out(n(x))
push    n(T_in(x)) = T_out(n'(x))

The labels are read off the plan's values, not off what a transfer claimed, so every reader of a changed value is
checked whether or not the planner thought of it. Induction over the graph's order makes the obligations a proof of the
whole plan, up to rounding. What cannot be executed has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from normswap import maps, reference
from normswap.drawing import DEVIATION, MEAN, Drawing, generator
from normswap.facts import Facts
from normswap.maps import Map
from normswap.norm import Norm
from normswap.plan import Plan
from normswap.reference import Array, Floats
from normswap.regions import Region
from normswap.scene import Scene
from normswap.setting import settings
from normswap.transfer.step import Step

# Relative to the operator on absolute values: rounding of float64 sums of a few thousand terms is 1e-13, and a wrong
# map is wrong by far more (MATH.md §11).
TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Obligation:
    """One equation: at which node, its largest relative error, and why it failed (empty if it holds).

    `values` are those that the equation is about, `reason_id` what a failure is called.
    """

    node: str
    error: float
    failure: str = ""
    values: frozenset[ir.Value] = frozenset()
    reason_id: str = "proof-failed"

    @property
    def holds(self) -> bool:
        """Whether the equation was executed and is true."""
        return not self.failure


def prove(scene: Scene, plan: Plan) -> tuple[Obligation, ...]:
    """Execute every obligation of `plan`, on the graph before it is rewritten."""
    # Many small products: threads only wait for each other, the more the busier the machine is.
    with threadpool_limits(limits=1, user_api="blas"):
        return tuple(_obligations(scene, plan))


def _obligations(scene: Scene, plan: Plan) -> Iterator[Obligation]:
    touched: dict[ir.Node, None] = dict.fromkeys(plan.steps)
    norms: dict[Norm, None] = {goal.norm: None for goal in plan.goals}
    for value in plan.labels:
        if value.is_graph_output() and value.name not in scene.changeable and value not in plan.explicit:
            failure = "an output of the model would change"
            yield Obligation(f"output {value.name}", np.inf, failure, frozenset({value}))
        producer = value.producer()
        if producer is not None and producer not in scene.owners:
            touched[producer] = None
        for use in value.uses():
            if use.node in scene.owners and use.node not in plan.steps:
                norms[scene.owners[use.node]] = None
            else:
                touched[use.node] = None
    for node in touched:
        if node not in plan.steps and _sees_nothing(plan, node):
            continue
        values = frozenset(value for value in (*node.inputs, *node.outputs) if value is not None)
        check = partial(_check_node, scene.facts, plan, node, plan.steps.get(node))
        yield _obligation(node.name or node.op_type, values, check)
    for norm in norms:
        check = partial(_check_norm, scene.facts, plan, norm)
        yield _obligation(norm.name, frozenset({norm.input, norm.output}), check)


def _sees_nothing(plan: Plan, node: ir.Node) -> bool:
    """Whether a node that did not move reads and makes only old forms, some of them restored by an explicit map."""
    read = (_read(plan, value, moved=False) for value in node.inputs if value is not None)
    return all(label is None for label in read) and not any(value in plan.labels for value in node.outputs)


def _obligation(name: str, values: frozenset[ir.Value], check: Callable[[], float]) -> Obligation:
    try:
        error = check()
    except (reference.Unexecutable, maps.Unmappable, KeyError, ValueError, IndexError) as problem:
        return Obligation(name, np.inf, f"could not be executed: {problem}", values)
    return Obligation(name, error, "" if error <= TOLERANCE else f"differs by {error:.1e}", values)


def _read(plan: Plan, value: ir.Value, *, moved: bool) -> Map | None:
    """The map between the old value and the form that a reader sees; None for the identity."""
    if plan.direction == "pull":
        if moved and value in plan.explicit:
            return plan.explicit[value]
        return plan.labels.get(value)
    if not moved and value in plan.explicit:
        return None
    return plan.labels.get(value)


def _check_node(facts: Facts, plan: Plan, node: ir.Node, step: Step | None) -> float:
    drawing = Drawing.of(facts, node, step or Step())
    old: list[Array | None] = []
    new: list[Array | None] = []
    for index, value in enumerate(node.inputs):
        before: Array | None = None
        after: Array | None = None
        if step is not None and index in step.constants and index not in step.created:
            constant = drawing.constant(index)
            before, after = constant, maps.apply(drawing.cut_map(step.constants[index], index, constant.ndim), constant)
        elif value is not None:
            drawn = drawing.draw(index)
            label = _read(plan, value, moved=step is not None and index in step.inputs)
            mapped = drawn
            if label is not None:
                mapped = maps.apply(drawing.cut_map(label, index, drawn.ndim), drawn.astype(np.float64))
            before, after = (drawn, mapped) if plan.direction == "pull" else (mapped, drawn)
        old.append(before)
        new.append(after)
    for index, shape in (step.created if step is not None else {}).items():
        assert step is not None
        new += [None] * (index + 1 - len(new))
        new[index] = maps.apply(step.constants[index], np.zeros(shape))
    replacement = reference.changed(node, step.attributes if step is not None else {})
    return _compare(facts, plan, (node, replacement), old, new)


def _compare(
    facts: Facts,
    plan: Plan,
    nodes: tuple[ir.Node, ir.Node],
    old: Sequence[Array | None],
    new: Sequence[Array | None],
) -> float:
    node, replacement = nodes
    opset = facts.opset(node)
    before, after = reference.run(node, old, opset), reference.run(replacement, new, opset)
    sizes = reference.run(node, _sizes(node, old), opset)
    also = reference.run(replacement, _sizes(node, new), opset)
    worst = 0.0
    for value, left, right, size, other in zip(node.outputs, before, after, sizes, also, strict=False):
        label = plan.labels.get(value)
        if left.dtype != np.float64:
            worst = max(worst, 0.0 if np.array_equal(left, right) else np.inf)
            continue
        # The results count too: absolute values saturate a GRU's update gate, which then lets nothing through.
        scale = np.abs(size) + np.abs(other) + np.abs(left) + np.abs(right)
        if label is not None and plan.direction == "pull":
            left, scale = maps.apply(label, left.astype(np.float64)), _size_of(label, scale)
        elif label is not None:
            right, scale = maps.apply(label, right.astype(np.float64)), _size_of(label, scale)
        worst = max(worst, relative_error(left, right, scale))
    return worst


def relative_error(left: Array, right: Array, scale: Floats) -> float:
    """The largest |left − right| relative to `scale`; infinite where shapes or non-finite values differ."""
    if left.shape != right.shape:
        return np.inf
    finite = np.isfinite(left.astype(np.float64))
    if (left.size and not finite.any()) or not np.array_equal(left[~finite], right[~finite]):
        return np.inf  # NaN is equal to nothing; the infinities of a mask are to themselves
    sizes = np.broadcast_to(scale, left.shape)[finite]
    if not np.isfinite(sizes).all():
        return np.inf
    difference = np.abs(left[finite].astype(np.float64) - right[finite].astype(np.float64))
    return float((difference / np.maximum(sizes, np.finfo(np.float64).tiny)).max(initial=0.0))


def _sizes(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array | None]:
    """Absolute values: how large the terms are of which a result is made. The bounds of a Clip are none of them."""
    return [array if node.op_type == "Clip" and index > 0 else _absolute(array) for index, array in enumerate(arrays)]


def _absolute(array: Array | None) -> Array | None:
    return np.abs(array) if array is not None and array.dtype == np.float64 else array


def _size_of(label: Map, scale: Floats) -> Floats:
    """|T|(m): the most that the map of something of size m can be."""
    spread = maps.Map(label.group, np.ones((1,) * label.rank), np.zeros((1,) * label.rank))
    means = scale - maps.apply(spread, scale)
    result: Floats = np.abs(label.scale) * (scale + np.abs(means)) + np.abs(label.offset())
    return result


# --- explicit maps --------------------------------------------------------------------------------------------------


def explicit_error(a_map: Map, value: ir.Value, result: ir.Value, facts: Facts) -> float:
    """How far the nodes between `value` and `result` are from computing `a_map`, on a probe of the value's rank."""
    shape = facts.shape(value)
    if shape is None:
        return np.inf
    small = tuple(size if a_map.varies(axis) else min(size, 2 + axis) for axis, size in enumerate(shape))
    x = generator(value.name or "").normal(MEAN, DEVIATION, small)
    known: dict[ir.Value, Array] = {value: x}

    def compute(wanted: ir.Value) -> Array:
        node = wanted.producer()
        if wanted not in known and node is not None:
            inputs = [None if source is None else compute(source) for source in node.inputs]
            known.update(zip(node.outputs, reference.run(node, inputs, facts.opset(node)), strict=False))
        if wanted in known:
            return known[wanted]
        array = facts.float64(wanted) if wanted in facts.moved else facts.constant(wanted)
        if array is None:
            raise KeyError(f"`{wanted.name}` is not a constant")
        return array

    expected = maps.apply(a_map, x)
    return relative_error(expected, compute(result), np.abs(x).max(initial=0.0) + np.abs(expected))


# --- norms ----------------------------------------------------------------------------------------------------------


def _check_norm(facts: Facts, plan: Plan, norm: Norm) -> float:
    """The region on the old input against what replaces it, or against itself, on the form it will read."""
    ready = settings(_region(norm), facts, (0,))
    if ready is None:
        raise ValueError("the region does not run")
    x = generator(norm.name).normal(MEAN, DEVIATION, ready[0].shape)
    goal = next((goal for goal in plan.goals if goal.norm is norm), None)
    # Upwards a goal reads what was pulled onto its input; downwards it is left what it always read.
    label = _read(plan, norm.input, moved=goal is not None and plan.direction == "pull")
    seen = x if label is None else maps.apply(label, x)
    before = ready[0].run(x)[norm.output]
    after = ready[0].run(seen)[norm.output] if goal is None else formula(goal.remaining, seen)
    if plan.direction == "push" and norm.output in plan.labels:
        after = maps.apply(plan.labels[norm.output], np.asarray(after, dtype=np.float64))
    size = np.abs(np.asarray(before, dtype=np.float64))
    return relative_error(before, after, size + size.max(initial=0.0))


def _region(norm: Norm) -> Region:
    inside = {norm.input, *(value for node in norm.nodes for value in node.outputs)}
    read = dict.fromkeys(value for node in norm.nodes for value in node.inputs if value is not None)
    return Region(norm.input, norm.nodes[0], norm.nodes, tuple(value for value in read if value not in inside))


def formula(norm: Norm, x: Floats) -> Floats:
    """gain · RMS(ε)(Center(x)) + bias in float64, with the parts that the norm has."""
    y = reference.center(x, norm.axes) if norm.parts.center else x
    if norm.parts.root_mean_square:
        y = reference.root_mean_square(y, norm.axes, norm.epsilon)
    if norm.gain is not None:
        y = y * norm.gain.array
    return y if norm.bias is None else y + norm.bias.array
