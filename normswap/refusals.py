"""Why a goal was not moved, in the model's own names: the nearest thing on its way that could not give.

Refusals are results. The planner's discovery is searched from the goal outwards; a reader that must keep the old form
explains more than an operator behind which one explicit map would have been possible.
"""

from __future__ import annotations

from collections.abc import Mapping

from normswap.discover import outwards
from normswap.ledger import Refusal
from normswap.plan import Plan
from normswap.scene import Foreign, Goal
from normswap.transfer import Blocked

SENTENCES: Mapping[str, str] = {
    "foreign-reader": "{site}: its residual stream also feeds {who}, which sees the mean",
    "graph-output": "{site}: its residual stream is delivered as {who}, which would be centered",
    "subgraph-capture": "{site}: its residual stream is read inside {who}",
    "post-norm": "{site}: its input is a sum with the output of {who}",
    "opaque-producer": "{site}: its input comes from {who}, and an explicit Center there costs as much as it saves",
    "coarser-groups": "{site}: on its way up, {who}: centering the pieces is not centering the whole",
    "not-worthwhile": "{site}: exact, but the result would cost as much as it saves",
}
OTHERWISE = "{site}: on its way up stands {who}"


def explain(plan: Plan, goal: Goal) -> Refusal:
    """The refusal of `goal`, which `plan` did not move."""
    site = f"{goal.norm.kind} `{goal.norm.name}`"
    found = plan.discovery
    blocked: Blocked | None = None
    foreign: Foreign | None = None
    for value in outwards(found, goal.value):
        if foreign is None and value in found.foreign and value.producer() in found.steps:
            foreign = found.foreign[value][0]
        answer = found.blocked.get(value)
        if answer is not None and (blocked is None or (answer.reason_id == "post-norm" != blocked.reason_id)):
            blocked = answer
    if foreign is not None:
        reason_id, who = foreign.reason_id, foreign.reader
    elif blocked is not None:
        reason_id, who = blocked.reason_id, blocked.detail
    else:
        reason_id, who = "not-worthwhile", ""
    sentence = SENTENCES.get(reason_id, OTHERWISE).format(site=site, who=who)
    return Refusal(goal.norm.name, reason_id, sentence)
