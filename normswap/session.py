"""One working copy of a model on its way through plans: its facts, its norms, and the ledger so far.

`move` is the only way anything changes: plan, prove, apply. A plan with an obligation that does not hold is dropped,
and the model stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import onnx_ir as ir

from normswap import affine, conditioning, recognize, rewrite
from normswap.bundles import Bundle, extra, unbundle
from normswap.computed import ComputedWeight, computed_weights
from normswap.discover import outwards
from normswap.facts import Facts
from normswap.finite import not_finite
from normswap.functions import inlined, norms_inside
from normswap.inventory import inventory
from normswap.ir_version import raise_ir_version
from normswap.learn import learn
from normswap.ledger import Inventory, Proof, Refusal, Rewrite
from normswap.norm import Norm, Unrecognized
from normswap.observe import observe
from normswap.operator_views import of_operator
from normswap.plan import Plan
from normswap.prove import Obligation, prove
from normswap.reference import Floats
from normswap.refusals import explain
from normswap.rules import Library, library
from normswap.scene import Goal, Regions, Scene, nodes_of

# A copy of a shared constant that takes fewer bytes than this is not worth a line in the ledger: biases are smaller.
TOLD = 1 << 12
Planner = Callable[[Scene, Sequence[Goal]], Plan]


@dataclass(eq=False)
class Session:
    """A model that may be changed, and what is known and was done so far."""

    model: ir.Model
    facts: Facts
    norms: list[Norm]
    affines: list[Norm]
    named: tuple[Norm, ...] = ()  # norms that are recognized, and whose parts no target moves
    bundles: tuple[Bundle, ...] = ()
    unrecognized: tuple[Unrecognized, ...] = ()
    inlined: tuple[str, ...] = ()  # local functions that hold norms, which stand in their callers' place now
    changeable: frozenset[str] = frozenset()
    allow_larger: bool = False
    untouched: frozenset[str] = frozenset()  # the outputs of norms that the user left out
    proving: bool = True
    absorbed: dict[str, list[tuple[ir.Node, int]]] = field(
        default_factory=dict
    )  # by site: the inputs it was moved into
    computed: list[ComputedWeight] | None = None  # those found so far; see `computed_weights`
    parts: dict[str, Norm] = field(default_factory=dict)  # by name: Affines of which a part is left
    rewrites: list[Rewrite] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    regions: tuple[list[Norm], Regions] | None = None  # the norms when they were last looked at, by their nodes
    library: Library = field(default_factory=library)  # the rules by which norms are spelled

    @staticmethod
    def of(
        model: ir.Model,
        changeable: Iterable[str] = (),
        *,
        allow_larger: bool = False,
        unrounded: Mapping[str, Callable[[], Floats]] | None = None,
        proving: bool = True,
        rules: Library | None = None,
    ) -> Session:
        """A session on a copy of `model`; the weights are shared, the graph is not.

        `unrounded` computes, by name, weights that an earlier session made, in float64.
        """
        copy, functions = inlined(model.clone())
        raise_ir_version(copy)
        bundles = unbundle(copy)
        known = learn(copy)
        observe(known)
        for name, numbers in (unrounded or {}).items():
            if name in copy.graph.initializers:
                known.inherit(copy.graph.initializers[name], numbers)
        found = recognize.recognize(copy, known)
        affines, others = _affines(copy, known, (*found.norms, *found.named))
        return Session(
            copy,
            known,
            list(found.norms),
            affines,
            found.named,
            bundles,
            (*found.unrecognized, *others, *norms_inside(copy)),
            functions,
            frozenset(changeable),
            allow_larger,
            proving=proving,
            library=rules or library(),
        )

    def scene(self, goals: Iterable[Norm], *, allow_explicit: bool = True) -> Scene:
        """What a planner looks at: all norms, and the Affines among `goals`; others are places to be absorbed in."""
        if self.regions is None or self.regions[0] is not self.norms:
            self.regions = self.norms, nodes_of(self.norms)
        own = set(self.norms)
        affines = [norm for norm in goals if norm not in own]
        affines += [norm for norm in self.affines if norm.output.name in self.untouched and norm not in affines]
        return Scene.of(
            self.facts,
            [*self.norms, *affines],
            self.changeable,
            allow_larger=self.allow_larger,
            allow_explicit=allow_explicit,
            untouched=self.untouched,
            regions=(self.regions[1], nodes_of(affines)),
        )

    def own_affines(self) -> list[Norm]:
        """The constant Affines that are norms by themselves, and no part of a norm that is seen in a wider view."""
        wider = [norm.outer for norm in (*self.norms, *self.named) if norm.outer is not None]
        within = {node for norm in wider for node in norm.nodes}
        return [norm for norm in self.affines if not within.issuperset(norm.nodes)]

    def computed_weights(self) -> list[ComputedWeight]:
        """The weights that are computed from constants: looked for once, and again after `computed` is reset."""
        if self.computed is None:
            self.computed = computed_weights(self.model, self.facts)
        return self.computed

    def inventory(self) -> Inventory:
        """What the model consists of."""
        kinds: list[str] = [norm.kind for norm in (*self.norms, *self.named, *self.affines)]
        kinds += [weight.kind for weight in self.computed_weights() if weight.kind is not None]
        found = inventory(self.model, kinds)
        nodes, size = extra(self.bundles)  # what is apart in this copy only is counted as the one operator it is
        return replace(found, nodes=found.nodes - nodes, bytes=found.bytes - size)

    def follow(self, change: rewrite.Change) -> None:
        """Bring the norms up to date with a change of the graph, and look for Affines anew."""
        self.norms = rewrite.followed(self.norms, change)
        self.affines, _ = _affines(self.model, self.facts, (*self.norms, *self.named))

    def weights(self, site: str) -> list[ir.Value]:
        """The constants, as they are now, into which parts of the norm whose output is `site` were moved."""
        found = (node.inputs[index] for node, index in self.absorbed.get(site, ()) if node.graph is not None)
        return [value for value in dict.fromkeys(found) if value is not None and value in self.facts.moved]

    def unrounded(self) -> dict[str, Callable[[], Floats]]:
        """How to compute, in float64, each weight that a plan made, by its name in the model as it is now."""
        weights = self.model.graph.initializers
        return {
            name: partial(self.facts.float64, value) for name, value in weights.items() if value in self.facts.moved
        }


def _affines(model: ir.Model, facts: Facts, norms: Iterable[Norm]) -> tuple[list[Norm], list[Unrecognized]]:
    """The constant Affines outside of `norms`, and the operators that ought to be some."""
    covered = {node for norm in norms for node in norm.nodes}
    found = [item for graph, path in recognize.graphs(model.graph) for item in affine.find(graph, path, facts, covered)]
    return (
        [item for item in found if isinstance(item, Norm)],
        [item for item in found if isinstance(item, Unrecognized)],
    )


def move(
    session: Session,
    planner: Planner,
    goals: Sequence[Goal],
    rule: str,
    *,
    refuse: bool = False,
    allow_explicit: bool = True,
) -> Plan:
    """Plan, prove and apply; with `refuse`, goals that did not move are recorded with their reason."""
    if not goals:
        return planner(Scene.of(session.facts, session.norms), ())
    scene = session.scene((goal.norm for goal in goals), allow_explicit=allow_explicit)
    plan, obligations = _proved(session, scene, planner, goals)
    moved = {goal.norm for goal in plan.goals}
    if refuse:
        explained = {refusal.site for refusal in session.refused}
        left = [goal for goal in goals if goal.norm not in moved and goal.norm.name not in explained]
        session.refused += [explain(plan, goal, session.facts) for goal in left]
    if not plan.goals:
        return plan
    names = {value: value.name for value in plan.explicit}  # as the user knows them: some are renamed
    for goal in plan.goals:
        session.absorbed.setdefault(goal.site, []).extend(_slots(plan, _reach(plan, goal)))
    change = rewrite.apply(plan, session.facts, eager=session.proving)
    session.follow(change)
    _note_parts(session, plan, change)
    session.norms = [_reread(norm, plan, session.facts) for norm in session.norms]
    error = max((obligation.error for obligation in obligations), default=0.0)
    proof = Proof(len(obligations), error)
    session.rewrites += [Rewrite(goal.norm.name, rule, True, proof, _detail(session, goal)) for goal in plan.goals]
    for old, copy in change.copies.items():
        size = 0 if copy.const_value is None else copy.const_value.nbytes
        if size >= TOLD:
            detail = f"`{old.name}` is read by others, too: the copy takes {size:,} bytes"
            session.rewrites.append(Rewrite(copy.name or "", f"{rule}/copy", True, proof, detail))
    for value, new in change.inserted.items():
        behind = f"behind `{names[value]}`"
        session.rewrites.append(Rewrite(new.name or "", f"{rule}/explicit", True, proof, behind))
    return plan


def _note_parts(session: Session, plan: Plan, change: rewrite.Change) -> None:
    """Remember what is left of Affines that moved by parts, to explain it in the end."""
    kept = rewrite.followed(session.parts.values(), change)
    session.parts = {norm.name: norm for norm in kept}
    for goal in plan.goals:
        session.parts.pop(goal.norm.name, None)
        left = change.norms[goal.norm]
        if not left.parts.root_mean_square and (left.gain is not None or left.bias is not None):
            session.parts[goal.norm.name] = rewrite.followed([left], change)[0]


def _reread(norm: Norm, plan: Plan, facts: Facts) -> Norm:
    """The view of a norm whose operator took a map into its own parameters."""
    if len(norm.nodes) != 1 or norm.nodes[0] not in plan.steps:
        return norm
    again = of_operator(norm.nodes[0], norm.graph, facts)
    return again if isinstance(again, Norm) else norm


def _proved(
    session: Session, scene: Scene, planner: Planner, goals: Sequence[Goal]
) -> tuple[Plan, tuple[Obligation, ...]]:
    """A plan all of whose obligations hold: goals that an obligation fails for are dropped, with what they reach."""
    while True:
        plan = planner(scene, goals)
        obligations = prove(scene, plan) if session.proving else ()
        unfit = not_finite(plan, session.facts, eager=session.proving)
        failed = next((obligation for obligation in (*unfit, *obligations) if not obligation.holds), None)
        if failed is None:
            return plan, obligations
        reached = [goal for goal in plan.goals if not failed.values.isdisjoint(_reach(plan, goal))]
        dropped = set(reached or plan.goals)
        session.refused += [_unproved(goal, failed) for goal in plan.goals if goal in dropped]
        goals = [goal for goal in goals if goal not in dropped] if dropped else []


def _reach(plan: Plan, goal: Goal) -> frozenset[ir.Value]:
    """All values that the goal has to do with."""
    return frozenset((goal.norm.input, goal.norm.output, *outwards(plan.discovery, goal.value)))


def _slots(plan: Plan, values: frozenset[ir.Value]) -> list[tuple[ir.Node, int]]:
    """The constants that the plan replaces, at operators that have to do with `values`: which input of which node."""
    return [
        (node, index)
        for node, step in plan.steps.items()
        if not values.isdisjoint(value for value in (*node.inputs, *node.outputs) if value is not None)
        for index in step.constants
    ]


def _detail(session: Session, goal: Goal) -> str:
    """What stays behind of an Affine, and the largest of its new weights in a narrow type, which may overflow."""
    if goal.map.is_identity:
        return f"{len(goal.norm.nodes)} operators in fewer, where they are"
    left = (
        []
        if goal.norm.parts.root_mean_square
        else [
            f"its {part} stays behind as {operator}"
            for part, operator, parameter in (
                ("gain", "a Mul", goal.remaining.gain),
                ("bias", "an Add", goal.remaining.bias),
            )
            if parameter is not None
        ]
    )
    narrow = [value for value in session.weights(goal.site) if value.dtype is not None and value.dtype.bitwidth < 32]
    before, after = conditioning.largest(narrow, session.facts)
    if after is not None:
        left.append(f"max |W| {0.0 if before is None else before:.3g} before, {after:.3g} after")
    return "; ".join(left)


def _unproved(goal: Goal, obligation: Obligation) -> Refusal:
    reason = f"{goal.norm.kind} `{goal.norm.name}`: the step at `{obligation.node}` {obligation.failure}"
    return Refusal(goal.norm.name, obligation.reason_id, reason)
