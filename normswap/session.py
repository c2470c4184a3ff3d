"""One working copy of a model on its way through plans: its facts, its norms, and the ledger so far.

`move` is the only way anything changes: plan, prove, apply. A plan with an obligation that does not hold is dropped,
and the model stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import onnx_ir as ir

from normswap import affine, recognize, rewrite
from normswap.bundles import Bundle, unbundle
from normswap.discover import outwards
from normswap.facts import Facts
from normswap.learn import learn
from normswap.ledger import Proof, Refusal, Rewrite
from normswap.norm import Norm, Unrecognized
from normswap.observe import observe
from normswap.plan import Plan
from normswap.prove import Obligation, prove
from normswap.reference import Floats
from normswap.refusals import explain
from normswap.scene import Goal, Scene
from normswap.views import operator_kind, unrecognized

Planner = Callable[[Scene, Sequence[Goal]], Plan]


@dataclass(eq=False)
class Session:
    """A model that may be changed, and what is known and was done so far."""

    model: ir.Model
    facts: Facts
    norms: list[Norm]
    scales: list[Norm]
    bundles: tuple[Bundle, ...] = ()
    unrecognized: tuple[Unrecognized, ...] = ()
    changeable: frozenset[str] = frozenset()
    proving: bool = True
    rewrites: list[Rewrite] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @staticmethod
    def of(model: ir.Model, changeable: Iterable[str] = (), *, proving: bool = True) -> Session:
        """A session on a copy of `model`; the weights are shared, the graph is not."""
        copy = model.clone()
        bundles = unbundle(copy)
        known = learn(copy)
        observe(known)
        found = recognize.recognize(copy, known)
        return Session(
            copy,
            known,
            list(found.norms),
            affine.residual_scales(copy, known),
            bundles,
            (*found.unrecognized, *_inside_functions(copy)),
            frozenset(changeable),
            proving,
        )

    def unrounded(self) -> dict[str, Callable[[], Floats]]:
        """How to compute, in float64, each weight that a plan made, by its name in the model as it is now."""
        weights = self.model.graph.initializers
        return {
            name: partial(self.facts.float64, value) for name, value in weights.items() if value in self.facts.moved
        }


def _inside_functions(model: ir.Model) -> Iterator[Unrecognized]:
    """Norm operators in the bodies of local functions, which are not looked into: they do not go unmentioned."""
    for function in model.functions.values():
        for node in function:
            if operator_kind(node) is not None:
                yield unrecognized(node, "local-function", f" in function `{function.name}`")


def move(session: Session, planner: Planner, goals: Sequence[Goal], rule: str, *, refuse: bool = False) -> Plan:
    """Plan, prove and apply; with `refuse`, goals that did not move are recorded with their reason."""
    if not goals:
        return planner(Scene.of(session.facts, session.norms), ())
    affines = [goal.norm for goal in goals if goal.norm.kind == "Affine"]
    scene = Scene.of(session.facts, [*session.norms, *affines], session.changeable)
    plan, obligations = _proved(session, scene, planner, goals)
    moved = {goal.norm for goal in plan.goals}
    if refuse:
        explained = {refusal.site for refusal in session.refused}
        left = [goal for goal in goals if goal.norm not in moved and goal.norm.name not in explained]
        session.refused += [explain(plan, goal) for goal in left]
    names = {value: value.name for value in plan.explicit}  # as the user knows them: some are renamed
    change = rewrite.apply(plan, session.facts, eager=session.proving)
    session.norms = rewrite.followed(session.norms, change)
    session.scales = rewrite.followed([scale for scale in session.scales if scale not in change.norms], change)
    error = max((obligation.error for obligation in obligations), default=0.0)
    proof = Proof(len(obligations), error)
    session.rewrites += [Rewrite(goal.norm.name, rule, True, proof) for goal in plan.goals]
    for value, new in change.inserted.items():
        behind = f"behind `{names[value]}`"
        session.rewrites.append(Rewrite(new.name or "", f"{rule}/explicit", True, proof, behind))
    return plan


def _proved(
    session: Session, scene: Scene, planner: Planner, goals: Sequence[Goal]
) -> tuple[Plan, tuple[Obligation, ...]]:
    """A plan all of whose obligations hold: goals that an obligation fails for are dropped, with what they reach."""
    while True:
        plan = planner(scene, goals)
        obligations = prove(scene, plan) if session.proving else ()
        failed = next((obligation for obligation in obligations if not obligation.holds), None)
        if failed is None:
            return plan, obligations
        reached = [goal for goal in plan.goals if not failed.values.isdisjoint(_reach(plan, goal))]
        dropped = set(reached or plan.goals)
        session.refused += [_unproved(goal, failed) for goal in plan.goals if goal in dropped]
        goals = [goal for goal in goals if goal not in dropped] if dropped else []


def _reach(plan: Plan, goal: Goal) -> frozenset[ir.Value]:
    """All values that the goal has to do with."""
    return frozenset((goal.norm.input, goal.norm.output, *outwards(plan.discovery, goal.value)))


def _unproved(goal: Goal, obligation: Obligation) -> Refusal:
    reason = f"{goal.norm.kind} `{goal.norm.name}`: the step at `{obligation.node}` {obligation.failure}"
    return Refusal(goal.norm.name, "proof-failed", reason)
