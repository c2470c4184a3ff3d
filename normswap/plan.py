"""The planner: of all the ways a map could move, the cheapest consistent one.

Every value a map can reach has an old form and a changed form. One yes-or-no choice per operator, moved or not, and a
minimum cut over them: a goal not moved costs its price, a moved operator its new constants, and a form that nobody
makes costs one explicit map (or is impossible). All-or-nothing components, partial success, vetoes, copies of shared
weights, and one explicit Center behind a tied embedding all follow from that.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap import maps, prices
from normswap.cut import Choices
from normswap.discover import Discovery, discover_pull, discover_push, given, goal_reading, is_invariant
from normswap.facts import Facts
from normswap.maps import Map
from normswap.scene import Direction, Goal, Scene
from normswap.transfer import Step


@dataclass(frozen=True, eq=False)
class Plan:
    """An accepted choice. `labels` says which values are made in changed form, `explicit` where one map is inserted.

    pull: `explicit` values keep their old form, and their changed form stands beside it.
    push: `explicit` values are made in changed form, and their old form is restored beside it.
    """

    direction: Direction
    goals: tuple[Goal, ...]
    steps: Mapping[ir.Node, Step]
    labels: Mapping[ir.Value, Map]
    explicit: Mapping[ir.Value, Map]
    discovery: Discovery


def plan_pull(scene: Scene, goals: Sequence[Goal]) -> Plan:
    """Move the maps of `goals` up, as far as it pays."""
    found = discover_pull(scene, goals)
    choices = Choices()
    for goal in goals:
        choices.gains(goal, goal.price)
        if maps.same(found.labels[goal.value], goal.map):
            choices.requires(goal, ("form", goal.value))
        else:
            choices.forbid(goal)
    for value, a_map in found.labels.items():
        producer = value.producer()
        price = _explicit_price(scene, value, a_map)
        if producer in found.steps:
            if price is None:
                choices.requires(("form", value), producer)
            else:
                choices.costs_without(("form", value), producer, price)
        elif price is None:
            choices.forbid(("form", value))
        else:
            choices.costs(("form", value), price)
    for node, step in found.steps.items():
        for index in step.inputs:
            choices.requires(node, ("form", given(node.inputs[index])))
        for position in step.outputs:
            value = node.outputs[position]
            if value in found.foreign:
                choices.forbid(node)
            for use in value.uses():
                if use.node in found.steps and use.idx in found.steps[use.node].inputs:
                    choices.requires(node, use.node)
                reading = goal_reading(scene, found, use.node, value)
                if reading is not None and not is_invariant(scene, use.node, use.idx, value, reading.map):
                    choices.requires(node, reading)
    _price_constants(scene, found, choices)
    chosen = choices.best()
    steps = {node: step for node, step in found.steps.items() if node in chosen}
    made = {value: a_map for value, a_map in found.labels.items() if value.producer() in steps}
    explicit = {
        value: a_map for value, a_map in found.labels.items() if ("form", value) in chosen and value not in made
    }
    return Plan("pull", tuple(goal for goal in goals if goal in chosen), steps, made, explicit, found)


def plan_push(scene: Scene, goals: Sequence[Goal]) -> Plan:
    """Move the maps of `goals` down, as far as it pays."""
    found = discover_push(scene, goals)
    choices = Choices()
    makers: dict[ir.Value, Hashable] = {goal.value: goal for goal in goals}
    for node, step in found.steps.items():
        makers.update({node.outputs[position]: node for position in step.outputs})
    for goal in goals:
        choices.gains(goal, goal.price)
    for value, a_map in found.labels.items():
        maker = makers[value]
        price = _explicit_price(scene, value, a_map)
        if price is None:
            choices.requires(maker, ("old form unneeded", value))
        else:
            choices.costs_without(maker, ("old form unneeded", value), price)
        if value in found.foreign:
            choices.forbid(("old form unneeded", value))
        for use in value.uses():
            if use.node in found.steps and use.idx in found.steps[use.node].inputs:
                choices.requires(("old form unneeded", value), use.node)
                choices.requires(use.node, maker)
    _price_constants(scene, found, choices)
    chosen = choices.best()
    steps = {node: step for node, step in found.steps.items() if node in chosen}
    made = {value: a_map for value, a_map in found.labels.items() if makers[value] in chosen}
    explicit = {value: a_map for value, a_map in made.items() if ("old form unneeded", value) not in chosen}
    return Plan("push", tuple(goal for goal in goals if goal in chosen), steps, made, explicit, found)


# --- prices ---------------------------------------------------------------------------------------------------------


def _explicit_price(scene: Scene, value: ir.Value, a_map: Map) -> int | None:
    """The price of one explicit map on `value`; None where it cannot be written in a few operators."""
    facts = scene.facts
    dims = facts.dims(value)
    if dims is None or not scene.allow_explicit:
        return None
    if a_map.centers:
        whole = all(a_map.group.shape[axis] in (1, dims[axis]) for axis in range(a_map.rank))
        single = bool((a_map.group == a_map.group.flat[0]).all())
        plain = not (a_map.scales or a_map.shifts) and a_map.group.size > 1
        return prices.center(value, facts) if whole and single and plain else None
    numbers = 0 if scene.allow_larger else int(np.prod(a_map.scale.shape) + np.prod(a_map.shift.shape))
    read = prices.elements(value, facts) if numbers > prices.CACHED else 0
    return (a_map.scales + a_map.shifts) * prices.elementwise(value, facts) + prices.storage(numbers) + read


def _growth(constant: ir.Value, a_map: Map, facts: Facts) -> int:
    """How many numbers more the map of a constant has, where it varies along an axis that the constant lacks."""
    shape = facts.shape(constant) or ()
    wide = np.broadcast_shapes(shape, a_map.group.shape, a_map.scale.shape, a_map.shift.shape)
    return int(np.prod(wide, dtype=np.int64) - np.prod(shape, dtype=np.int64))


def _price_constants(scene: Scene, found: Discovery, choices: Choices) -> None:
    """A constant is replaced for free if all its readers move alike; otherwise the new one is a copy."""
    users: dict[tuple[ir.Value, Hashable], list[tuple[ir.Node, int]]] = {}
    for node, step in found.steps.items():
        for index, a_map in step.constants.items():
            if index in step.created:
                choices.costs(node, 1)
                continue
            if not scene.allow_larger:
                choices.costs(node, prices.storage(_growth(given(node.inputs[index]), a_map, scene.facts)))
            constant = scene.facts.origin(given(node.inputs[index]))
            users.setdefault((constant, a_map.key()), []).append((node, index))
    for (constant, key), slots in users.items():
        form, alone = ("copy", constant, key), ("replaced", constant, key)
        for node, _ in slots:
            choices.requires(node, form)
            choices.requires(alone, node)
        if any(reader not in slots for reader in scene.facts.readers(constant)) or constant.is_graph_output():
            choices.forbid(alone)
        if not scene.allow_larger:
            choices.costs(form, prices.storage(prices.unstored(constant, scene.facts)))
        choices.costs_without(form, alone, 0 if scene.allow_larger else prices.copy(constant, scene.facts))
