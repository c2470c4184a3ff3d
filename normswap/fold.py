"""Folding: every constant Affine moves into the weights around it, up or down, whole or by parts.

What can be absorbed to the last bit goes first; then what gets at least to a cheaper place, and leaves a map there.

All Affines of a kind move in one plan, so that a weight they share is replaced once. Those that are left and met
another one are tried alone, since of two that exclude each other one may still go. Moves are repeated until none moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from normswap.dead_branch import remove_dead_branches
from normswap.discover import Discovery, stepped
from normswap.goals import Part, Sites, affine_goals, combined_goals, has_affine, selected
from normswap.ledger import Refusal
from normswap.merge import merge
from normswap.norm import PARTS, Kind, Norm
from normswap.plain_weights import fold_computed
from normswap.plan import Plan, plan_pull, plan_push
from normswap.refusals import explain_affine
from normswap.rewrite import Change
from normswap.scene import Direction, Goal, Scene
from normswap.session import Planner, Session, move


@dataclass(frozen=True)
class Stage:
    """One way to try: where to, with which part, and whether an explicit map may be left on the way."""

    direction: Direction
    part: Part
    allow_explicit: bool

    @property
    def rule(self) -> str:
        """What the ledger calls a move of this stage."""
        return f"{'affine' if self.part == 'whole' else self.part}-{WORDS[self.direction]}"


# Whole first, then in parts: upstream the scale is nearer to the weights, downstream the shift is.
WAYS: tuple[tuple[Direction, Part], ...] = (
    ("pull", "whole"),
    ("push", "whole"),
    ("pull", "scale"),
    ("pull", "shift"),
    ("push", "shift"),
    ("push", "scale"),
)
# One problem each: an Affine beside a BatchNorm may be absorbed by it, but not while both want to move.
KINDS: tuple[frozenset[Kind], ...] = (
    frozenset({"BatchNorm"}),
    frozenset({"Affine"}),
    frozenset(kind for kind, parts in PARTS.items() if parts.root_mean_square),
)
PLANNERS: Mapping[Direction, Planner] = {"pull": plan_pull, "push": plan_push}
WORDS: Mapping[Direction, str] = {"pull": "up", "push": "down"}
# Every move takes at least one part of one norm away, or makes it cheaper; this many rounds end what does not end.
ROUNDS = 64


def fold(session: Session, sites: Sites = None) -> None:
    """Move the constant Affines in `sites` as far as it pays; each move is planned, proved and logged by `move`.

    Before that, computed weights become plain ones, and branches that add zero are removed; after it, parallel linear
    operators are merged.
    """
    _fold_computed(session, sites)
    _remove_dead_branches(session, sites)
    for allow_explicit in (False, True):
        stages = [Stage(*way, allow_explicit) for way in WAYS]
        for _ in range(ROUNDS):
            if not any(_try(session, stage, sites) for stage in stages):
                break  # after a move the first stage comes first again
        _combine(session, sites)
    left = {weight.name for weight in session.computed_weights()}
    left |= {norm.name for norm in (*session.norms, *session.affines) if has_affine(norm)}
    # What was refused on one way may have gone another one, and is refused once.
    distinct = {(refusal.site, refusal.reason_id): refusal for refusal in session.refused}
    session.refused = [
        refusal
        for refusal in distinct.values()
        if refusal.site in left | session.parts.keys() or refusal.reason_id == "proof-failed"
    ]
    _merge(session, sites)


def _combine(session: Session, sites: Sites) -> None:
    """Write an Affine that stays, and takes more operators than it needs, in fewer; nothing moves."""
    affines = [norm for norm in session.affines if selected(norm, sites)]
    move(session, _in_place, combined_goals(affines, session.facts), "combine")


def _in_place(_: Scene, goals: Sequence[Goal]) -> Plan:
    return Plan("pull", tuple(goals), {}, {}, {}, Discovery("pull"))


def _fold_computed(session: Session, sites: Sites) -> None:
    chosen = [weight for weight in session.computed_weights() if sites is None or weight.value.name in sites]
    folding = fold_computed(session.facts, chosen)
    session.rewrites += folding.rewrites
    session.refused += folding.refused
    session.computed = None


def _remove_dead_branches(session: Session, sites: Sites) -> None:
    scales = [norm.output for norm in session.affines if selected(norm, sites)]
    rewrites, refused, replaced = remove_dead_branches(session.model, session.facts, scales, proving=session.proving)
    session.rewrites += rewrites
    session.refused += refused
    session.follow(Change(values=replaced))


def _merge(session: Session, sites: Sites) -> None:
    """One operator for parallel ones, where an Affine was moved into one of them or stands beside them."""
    affines = [norm for norm in session.affines if selected(norm, sites)]
    took = {node.outputs[0] for slots in session.absorbed.values() for node, _ in slots if node.graph is not None}
    rewrites, refused = merge(session.model, session.facts, took, affines, proving=session.proving)
    session.rewrites += rewrites
    session.refused += refused
    session.follow(Change())


def _try(session: Session, stage: Stage, sites: Sites) -> bool:
    """Whether something moved."""
    moved = False
    for kinds in KINDS:
        goals = _goals(session, stage, kinds, sites)
        if not goals:
            continue
        plan = _move(session, stage, goals)
        moved |= bool(plan.goals)
        moving, near = set(plan.goals), _near_conflicts(plan.discovery)
        left = {goal.site for goal in goals if goal not in moving and goal.value in near}
        for site in sorted(left):
            alone = _goals(session, stage, kinds, {site})
            moved |= bool(alone) and bool(_move(session, stage, alone).goals)
    return moved


def _move(session: Session, stage: Stage, goals: Sequence[Goal]) -> Plan:
    return move(session, PLANNERS[stage.direction], goals, stage.rule, allow_explicit=stage.allow_explicit)


def _near_conflicts(found: Discovery) -> set[ir.Value]:
    """The values of goals that may not have moved because of another: those from which a conflict can be reached."""
    near, pending = set(found.conflicts), list(found.conflicts)
    while pending:
        value = pending.pop()
        for node in (value.producer(), *(use.node for use in value.uses())):
            if node is not None and node in found.steps and value in stepped(found, node):
                fresh = {item for item in (*node.inputs, *node.outputs) if item is not None} - near
                near |= fresh
                pending += fresh
    return near


def _goals(session: Session, stage: Stage, kinds: frozenset[Kind], sites: Sites) -> list[Goal]:
    norms = [norm for norm in (*session.affines, *session.norms) if norm.kind in kinds]
    return affine_goals(norms, session.facts, stage.direction, stage.part, sites)


def refuse_rest(session: Session, sites: Sites = None) -> None:
    """Record why each constant Affine that is left in `sites` was not moved, up or down."""
    known = {refusal.site for refusal in session.refused}
    found = {norm.name for norm in session.affines}
    parts = [norm for norm in session.parts.values() if norm.name not in found and _is_there(norm)]
    for norm in (*session.affines, *session.norms, *parts):
        if selected(norm, sites) and norm.name not in known and has_affine(norm):
            refusal = _refusal(session, norm)
            if norm not in parts or refusal.reason_id != "no-bias":  # a product's shift is an Add: there it belongs
                session.refused.append(refusal)


def _is_there(norm: Norm) -> bool:
    """Whether a norm was not taken into another one since."""
    makers = (norm.input.producer(), norm.output.producer())
    return all(node is None or node.graph is not None for node in makers)


def _refusal(session: Session, norm: Norm) -> Refusal:
    scene = session.scene([norm])
    plans = []
    for direction, planner in PLANNERS.items():
        goals = affine_goals([norm], session.facts, direction, "whole")
        plans += [(planner(scene, goals), goals[0])] if goals else []
    return explain_affine(norm, plans, session.facts)
