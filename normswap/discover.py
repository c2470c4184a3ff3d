"""Discovery: how far a map could travel, operator by operator, before anything is chosen.

From the goals a worklist of transfers labels every value a map can reach with the map of its changed form. What blocks,
and who must keep reading the old form, is recorded with its reason: it limits the choice, and explains refusals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from normswap import maps
from normswap.maps import Map
from normswap.norm import Norm
from normswap.scene import Direction, Foreign, Goal, Scene, center_of
from normswap.transfer import DATA_INPUTS, Blocked, Request, Step, transfer


@dataclass(eq=False)
class Discovery:
    """What a worklist of transfers found: steps by operator, the map of each value's changed form, and what blocks."""

    direction: Direction
    steps: dict[ir.Node, Step] = field(default_factory=dict)
    labels: dict[ir.Value, Map] = field(default_factory=dict)
    goals: Mapping[Norm, Goal] = field(default_factory=dict)
    blocked: dict[ir.Value, Blocked] = field(default_factory=dict)  # values whose producer (push: a reader) cannot move
    foreign: dict[ir.Value, list[Foreign]] = field(default_factory=dict)  # readers that keep the old form
    conflicts: set[ir.Value] = field(default_factory=set)  # values at which goals of this problem exclude each other


def discover_pull(scene: Scene, goals: Sequence[Goal]) -> Discovery:
    """Follow the maps of `goals` upwards."""
    found = Discovery("pull", goals={goal.norm: goal for goal in goals})
    _pull_from(scene, found, [(goal.value, goal.map) for goal in goals])
    _pull_from(scene, found, list(_companions(scene, goals)))
    _retract(found)
    _find_foreign(scene, found)
    return found


def _companions(scene: Scene, goals: Sequence[Goal]) -> Iterator[tuple[ir.Value, Map]]:
    """What is no goal but may move along: norms that do not mind a Center, and outputs that may change."""
    centers = [goal.map for goal in goals if goal.map.centers]
    for norm in scene.norms if centers else ():
        center = center_of(norm, scene.facts)
        if center is not None:
            yield norm.input, center
    for value in scene.facts.model.graph.outputs:
        alike = (goal.map for goal in goals if scene.facts.dims(goal.value) == scene.facts.dims(value))
        if value.name in scene.changeable and (a_map := next(alike, None)) is not None:
            yield value, a_map


def _pull_from(scene: Scene, found: Discovery, work: list[tuple[ir.Value, Map]]) -> None:
    while work:
        value, a_map = work.pop()
        if value in found.labels:
            if not maps.same(found.labels[value], a_map):
                found.blocked[value] = Blocked("coarser-groups", "a value that is mapped in two different ways")
                found.conflicts.add(value)
            continue
        found.labels[value] = a_map
        answer = _pull_through(scene, found, value, a_map)
        if isinstance(answer, Blocked):
            found.blocked[value] = answer
            continue
        node = _given_node(value)
        found.steps[node] = answer
        work += [(given(node.inputs[index]), wanted) for index, wanted in answer.inputs.items()]
        work += [(node.outputs[position], made) for position, made in answer.outputs.items()]


def _given_node(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _pull_through(scene: Scene, found: Discovery, value: ir.Value, a_map: Map) -> Step | Blocked:
    node = value.producer()
    if node is None:
        if value.is_initializer():
            return Blocked("overridable-initializer", f"`{value.name}`, which the caller may replace")
        return Blocked("opaque-producer", f"the input `{value.name}`")
    if node in found.steps:
        return found.steps[node]
    norm = wall(scene, found, node, a_map)
    if norm is not None:
        if norm in found.goals:
            found.conflicts.add(value)
        return Blocked("post-norm", f"{norm.kind} `{norm.name}`, whose gain would have to keep the mean at zero")
    answer = transfer(Request(node, a_map, None, scene.facts, value.index() or 0))
    return _named_block(answer, node) if isinstance(answer, Blocked) else answer


def _named_block(answer: Blocked, node: ir.Node) -> Blocked:
    """The answer with the operator that gave it, unless it names one itself."""
    if "`" in answer.detail:
        return answer
    return Blocked(answer.reason_id, f"{node.op_type} `{node.name or node.outputs[0].name}`, {answer.detail}")


def _retract(found: Discovery) -> None:
    """Drop steps that want another form of a value than the one that is labelled."""
    changed = True
    while changed:
        changed = False
        for node, step in list(found.steps.items()):
            wanted = [(node.inputs[index], a_map) for index, a_map in step.inputs.items()]
            made = [(value, step.outputs.get(position)) for position, value in enumerate(node.outputs)]
            for value, a_map in [*wanted, *made]:
                label = found.labels.get(given(value))
                if not _agree(label, a_map):
                    del found.steps[node]
                    found.conflicts.add(given(value))
                    for output in node.outputs:
                        found.blocked.setdefault(output, Blocked("coarser-groups", f"{node.op_type} `{node.name}`"))
                    changed = True
                    break


def _agree(label: Map | None, a_map: Map | None) -> bool:
    """Whether a value is labelled with what a step wants or makes; None is the identity."""
    return label is a_map if label is None or a_map is None else maps.same(label, a_map)


def discover_push(scene: Scene, goals: Sequence[Goal]) -> Discovery:
    """Follow the maps of `goals` downwards."""
    found = Discovery("push", goals={goal.norm: goal for goal in goals})
    work: list[tuple[ir.Value, Map]] = [(goal.value, goal.map) for goal in goals]
    while work:
        value, a_map = work.pop()
        if value in found.labels:
            continue
        found.labels[value] = a_map
        for use in value.uses():
            if use.node.graph is not _graph_of(value):
                continue
            owner = wall(scene, found, use.node, a_map)
            if use.node in found.steps or owner in found.goals:
                found.conflicts.add(value)
            if use.node in found.steps or owner is not None:
                continue
            answer = transfer(Request(use.node, a_map, use.idx, scene.facts))
            if isinstance(answer, Blocked):
                found.blocked.setdefault(value, _named_block(answer, use.node))
            elif any(use.node.outputs[p] in found.labels for p in answer.outputs):
                found.conflicts.add(value)
            else:
                found.steps[use.node] = answer
                work += [(use.node.outputs[position], made) for position, made in answer.outputs.items()]
    _find_foreign(scene, found)
    return found


def _graph_of(value: ir.Value) -> object:
    node = value.producer()
    return node.graph if node is not None else value.graph


def _find_foreign(scene: Scene, found: Discovery) -> None:
    """Collect, per labelled value, the readers that keep it in its old form whatever is chosen."""
    for value, a_map in found.labels.items():
        foreign = list(_foreign_readers(scene, found, value, a_map))
        if foreign:
            found.foreign[value] = foreign


def _foreign_readers(scene: Scene, found: Discovery, value: ir.Value, a_map: Map) -> Iterator[Foreign]:
    # An output that may be delivered centered may not be delivered without its gain or bias.
    if value.is_graph_output() and (value.name not in scene.changeable or not a_map.centers):
        yield Foreign(value, "graph-output", f"the output `{value.name}`")
    for use in value.uses():
        step = found.steps.get(use.node)
        if step is not None and use.idx in step.inputs:
            continue
        if goal_reading(scene, found, use.node, value) is not None:
            continue
        if found.direction == "pull" and is_invariant(scene, use.node, use.idx, value, a_map):
            continue
        yield _named(scene, value, use.node)


# What a stream passes through unseen on its way to whoever really reads it: sums and layout.
STREAM = frozenset({*DATA_INPUTS, "Add", "Cast", "Dropout", "Identity", "Neg", "Sub", "Sum"})


def _named(scene: Scene, value: ir.Value, reader: ir.Node) -> Foreign:
    """The reader that keeps `value` in its old form; beyond sums and layout, the first that looks at the numbers."""
    node, seen = reader, {reader}
    while node.op_type in STREAM and node not in scene.owners and node.graph is _graph_of(value):
        output = node.outputs[0]
        dtype = scene.facts.dtype(output)
        if dtype is not None and not dtype.is_floating_point():
            break
        if output.is_graph_output():
            return Foreign(value, "graph-output", f"the output `{output.name}`")
        following = next((use.node for use in output.uses() if use.node not in seen), None)
        if following is None:
            break
        node = following
        seen.add(node)
    if node.graph is not _graph_of(value):
        return Foreign(value, "subgraph-capture", f"a control-flow body (`{node.name}`)")
    owner = scene.owners.get(node)
    if owner is None:
        return Foreign(value, "foreign-reader", f"{node.op_type} `{node.name}`")
    return Foreign(value, "foreign-reader", f"{owner.kind} `{owner.name}` over other elements")


def wall(scene: Scene, found: Discovery, node: ir.Node, a_map: Map) -> Norm | None:
    """The norm that `node` belongs to and that the map cannot enter; one that is an operator may take an Affine in."""
    norm = scene.owners.get(node)
    kept = norm is not None and norm.output.name in scene.untouched
    if norm is None or kept or norm in found.goals or norm.nodes != (node,) or a_map.centers:
        return norm
    return None


def goal_reading(scene: Scene, found: Discovery, node: ir.Node, value: ir.Value) -> Goal | None:
    """The goal, if any, that pulls a map onto `value` and reads it by `node`."""
    norm = scene.owners.get(node)
    goal = found.goals.get(norm) if norm is not None else None
    return goal if goal is not None and goal.value is value else None


def is_invariant(scene: Scene, node: ir.Node, index: int, value: ir.Value, a_map: Map) -> bool:
    """Whether `node` computes the same from T(value) as from value: n(T(x)) = n(x)."""
    norm = scene.owners.get(node)
    if norm is not None:
        # RMS∘Center∘Center = RMS∘Center, for the same groups.
        center = center_of(norm, scene.facts)
        return value is norm.input and center is not None and maps.same(center, a_map)
    answer = transfer(Request(node, a_map, index, scene.facts))
    return isinstance(answer, Step) and not (answer.outputs or answer.constants or answer.attributes)


def given(value: ir.Value | None) -> ir.Value:
    """An input that a step names, which is there."""
    assert value is not None
    return value


def outwards(found: Discovery, start: ir.Value) -> Iterator[ir.Value]:
    """Labelled values in order of their distance from `start`, across the operators that could move."""
    seen, queue = {start}, deque([start])
    while queue:
        value = queue.popleft()
        yield value
        nodes = [value.producer(), *(use.node for use in value.uses())]
        for node in nodes:
            if node is None or node not in found.steps:
                continue
            for other in stepped(found, node):
                if other not in seen:
                    seen.add(other)
                    queue.append(other)


def stepped(found: Discovery, node: ir.Node) -> list[ir.Value]:
    """The labelled values that the step of `node` changes."""
    step = found.steps[node]
    near = [node.inputs[index] for index in step.inputs] + [node.outputs[index] for index in step.outputs]
    return [value for value in near if value is not None and value in found.labels]
