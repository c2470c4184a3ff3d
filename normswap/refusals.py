"""Why a goal was not moved, in the model's own names: the nearest thing on its way that could not give.

Refusals are results. The planner's discovery is searched from the goal outwards; a reader that must keep the old form
explains more than an operator behind which one explicit map would have been possible.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from normswap import prices
from normswap.discover import Discovery, outwards
from normswap.facts import Facts
from normswap.ledger import Refusal
from normswap.norm import Norm
from normswap.plan import Plan
from normswap.scene import Direction, Foreign, Goal
from normswap.transfer import Blocked, Step

SENTENCES: Mapping[str, str] = {
    "foreign-reader": "{site}: its residual stream also feeds {who}, which sees the mean",
    "graph-output": "{site}: its residual stream is delivered as {who}, which would be centered",
    "subgraph-capture": "{site}: its residual stream is read inside {who}",
    "post-norm": "{site}: its input is a sum with the output of {who}",
    "opaque-producer": "{site}: its input comes from {who}, and an explicit Center there costs as much as it saves",
    "coarser-groups": "{site}: on its way up, {who}: centering the pieces is not centering the whole",
    "not-worthwhile": "{site}: exact, but the result would cost as much as it saves",
}
# Of an Affine that did not move: the clause for each way it was tried.
WAYS: Mapping[Direction, str] = {"pull": "upwards", "push": "downwards"}
AFFINE: Mapping[Direction, Mapping[str, str]] = {
    "pull": {
        "foreign-reader": "{who} reads the value, too, and would see it changed",
        "graph-output": "{who} delivers the value, too",
        "subgraph-capture": "{who} reads the value, too",
        "opaque-producer": "{who}, of which it cannot become a part",
        "not-worthwhile": "exact, but the result would cost as much as it saves",
    },
    "push": {
        "foreign-reader": "{who}, of which it cannot become a part",
        "graph-output": "{who}",
        "subgraph-capture": "{who}, which reads the value inside",
        "not-worthwhile": "exact, but the result would cost as much as it saves",
    },
}
OTHERWISE = "{site}: on its way up stands {who}"


def explain(plan: Plan, goal: Goal, facts: Facts) -> Refusal:
    """The refusal of `goal`, which `plan` did not move."""
    reason_id, who = obstacle(plan, goal, facts)
    sentence = SENTENCES.get(reason_id, OTHERWISE).format(site=_site(goal.norm), who=who)
    return Refusal(goal.norm.name, reason_id, sentence)


def explain_affine(norm: Norm, tried: Sequence[tuple[Plan, Goal]], facts: Facts) -> Refusal:
    """The refusal of a constant Affine, which could move neither up nor down."""
    if not tried:
        return Refusal(norm.name, "unknown-shape", f"{_site(norm)}: the rank of its output could not be found")
    ways = {plan.direction: obstacle(plan, goal, facts) for plan, goal in tried}
    clauses = [
        f"{WAYS[way]}, {AFFINE[way].get(reason, '{who}').format(who=who)}" for way, (reason, who) in ways.items()
    ]
    # What stands above an Affine is often just where its input comes from; then what is below says more.
    chosen = next((reason_id for reason_id, _ in ways.values() if reason_id != "opaque-producer"), "opaque-producer")
    return Refusal(norm.name, chosen, f"{_site(norm)}: {'; '.join(clauses)}")


def _site(norm: Norm) -> str:
    return f"{norm.kind} `{norm.name}`"


def obstacle(plan: Plan, goal: Goal, facts: Facts) -> tuple[str, str]:
    """The nearest thing on the way of `goal` that could not give: its reason id, and what it is."""
    found = plan.discovery
    pushed = found.direction == "push"
    border = next((node for node, step in _reached(found, goal) if _is_border(step)), None) if pushed else None
    if border is not None:
        return "zero-padding", f"{border.op_type} `{border.name}`, at whose zero padding another shift would be needed"
    blocked: Blocked | None = None
    foreign: Foreign | None = None
    for value in outwards(found, goal.value):
        moves = pushed or value.producer() in found.steps
        if foreign is None and moves and value in found.foreign:
            foreign = found.foreign[value][0]
        answer = found.blocked.get(value)
        if answer is not None and (blocked is None or (answer.reason_id == "post-norm" != blocked.reason_id)):
            blocked = answer
        if blocked if pushed else foreign:  # nothing further away says more
            break
    if pushed and blocked is not None:  # what a reader answers says more than that it reads
        foreign = None
    if foreign is not None:
        reason_id, who = foreign.reason_id, foreign.reader
    elif blocked is not None:
        reason_id, who = blocked.reason_id, blocked.detail
    elif any(_is_shared(step, node, found, facts) for node, step in _reached(found, goal)):
        reason_id, who = "shared-weights", "a weight that others read, too, of which a copy costs more than it saves"
    else:
        reason_id, who = "not-worthwhile", ""
    return reason_id, who


def _is_border(step: Step) -> bool:
    """Whether a shift that was the same at every position comes out as one that is not."""
    before = {axis for a_map in step.inputs.values() for axis in a_map.axes()}
    return any(a_map.shifts and len(a_map.axes()) > max(1, len(before)) for a_map in step.outputs.values())


def _reached(found: Discovery, goal: Goal) -> Iterator[tuple[ir.Node, Step]]:
    values = set(outwards(found, goal.value))
    for node, step in found.steps.items():
        if not values.isdisjoint((*node.inputs, *node.outputs)):
            yield node, step


def _is_shared(step: Step, node: ir.Node, found: Discovery, facts: Facts) -> bool:
    """Whether the step would need a copy of a constant that somebody reads who does not move."""
    constants = [node.inputs[index] for index in step.constants if index not in step.created]
    origins = [facts.origin(value) for value in constants if value is not None]
    read_elsewhere = any(reader not in found.steps for value in origins for reader, _ in facts.readers(value))
    return read_elsewhere or any(prices.unstored(value, facts) for value in origins)
