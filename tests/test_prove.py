"""A wrong transfer, planner or norm does not get past the proof: each mutant on a graph where it would do harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import pytest

from normswap import discover, goals, maps, regroup
from normswap.maps import Deferred, Map
from normswap.plan import Plan, plan_pull, plan_push
from normswap.prove import prove
from normswap.scene import Foreign, Goal, Scene
from normswap.session import Planner, Session, move
from normswap.transfer import TRANSFERS, Blocked, Request, Step
from normswap.transfer.convolution import Convolution
from tests.graphs import AGREEMENT, disagreement, parsed, run

Patch = pytest.MonkeyPatch
Goals = Callable[[Session], list[Goal]]
# A mutant must be wrong by more than any rounding, or it is none.
HARM = 1e-4


@dataclass(frozen=True)
class Mutant:
    """A mistake, and a model in which it does harm: which goals of it move in which direction."""

    text: str
    plant: Callable[[Patch], None]
    goals: Goals = goals.center_goals
    planner: Planner = plan_pull
    # Mistakes of the planner or the goals themselves.
    spoil_plan: Callable[[Plan], Plan] | None = None
    spoil_goal: Callable[[Goal], Goal] | None = None


def moved(mutant: Mutant, *, proving: bool, spoiled: bool) -> tuple[Session, Plan]:
    """The session after the move, and its plan; `spoiled` with the mistakes that are no patches."""
    session = Session.of(ir.from_proto(parsed(mutant.text)), proving=proving)

    def planner(scene: Scene, goals: Sequence[Goal]) -> Plan:
        plan = mutant.planner(scene, goals)
        return mutant.spoil_plan(plan) if spoiled and mutant.spoil_plan and goals else plan

    goals = mutant.goals(session)
    if spoiled and mutant.spoil_goal:
        goals = [mutant.spoil_goal(goal) for goal in goals]
    return session, move(session, planner, goals, "moved")


def results(session: Session) -> dict[str, np.ndarray]:
    """What the session's model computes."""
    regroup.write(session)
    return run(ir.to_proto(session.model))


def frozen(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


# --- mistakes in transfers ------------------------------------------------------------------------------------------


def changed(operator: str, change: Callable[[Step, Request], Step]) -> Callable[[Patch], None]:
    """Replace every step of an operator."""
    original = TRANSFERS[operator]

    def function(request: Request) -> Step | Blocked:
        answer = original(request)
        return change(answer, request) if isinstance(answer, Step) else answer

    return lambda patch: patch.setitem(TRANSFERS, operator, function)  # type: ignore[arg-type]


def unblocked(operator: str, step: Callable[[Request], Step]) -> Callable[[Patch], None]:
    """Answer with a step where an operator blocks."""
    original = TRANSFERS[operator]

    def function(request: Request) -> Step | Blocked:
        answer = original(request)
        return step(request) if isinstance(answer, Blocked) else answer

    return lambda patch: patch.setitem(TRANSFERS, operator, function)  # type: ignore[arg-type]


def both(*plants: Callable[[Patch], None]) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        for one in plants:
            one(patch)

    return plant


def nothing(patch: Patch) -> None:
    """The mistake is not in a function."""


def without_bias(step: Step, request: Request) -> Step:
    return replace(step, constants={index: a_map for index, a_map in step.constants.items() if index != 2})


def other_axis(index: int) -> Callable[[Step, Request], Step]:
    """The map of a square constant along its other axis."""

    def change(step: Step, request: Request) -> Step:
        a_map = step.constants[index]
        turned = Map(a_map.group.T, a_map.scale.T, a_map.offset().T)
        return replace(step, constants={**step.constants, index: turned}, cut=())

    return change


def times_shift(index: int, factor: float) -> Callable[[Step, Request], Step]:
    def change(step: Step, request: Request) -> Step:
        if index not in step.constants:
            return step
        a_map = step.constants[index]
        shift = Deferred(a_map.shift.shape, lambda: factor * a_map.offset())
        return replace(step, constants={**step.constants, index: Map(a_map.group, a_map.scale, shift)})

    return change


def transposed_shift(step: Step, request: Request) -> Step:
    """t Wᵀ in place of t W."""
    weight = request.facts.float64(request.node.inputs[1])  # type: ignore[arg-type]
    shift = request.map.offset().reshape(-1) @ weight
    return replace(step, constants={**step.constants, 2: maps.affine(1, shift=shift)})


def twice(step: Step, request: Request) -> Step:
    """A constant absorbs the shift, and it goes on all the same."""
    ends = request.pulls or not step.constants or request.node.outputs[0].is_graph_output()
    return step if ends else replace(step, outputs={0: request.map})


def first_operand_only(step: Step, request: Request) -> Step:
    return replace(step, inputs={0: step.inputs[0]}) if len(step.inputs) == 2 else step


def as_is(*inputs: int) -> Callable[[Request], Step]:
    """The map passes to these inputs, or from the one it is on, to the output."""

    def step(request: Request) -> Step:
        if request.pulls:
            return Step(inputs=dict.fromkeys(inputs, request.map), outputs={0: request.map})
        return Step(inputs={request.at or 0: request.map}, outputs={0: request.map})

    return step


def invariant(request: Request) -> Step:
    return Step() if request.pulls else Step(inputs={request.at or 0: request.map})


def one_group(request: Request) -> Step:
    """A grouped convolution taken for a full one."""
    rank = len(request.dims(1) or ())
    return Step(outputs={0: request.map}, constants={1: maps.centering(rank, {0: 8})})


def piece_by_piece(request: Request) -> Step:
    pieces = maps.centering(3, {2: 8})
    return Step(inputs={0: pieces, 1: pieces}, outputs={0: request.map})


def whole_axis(step: Step, request: Request) -> Step:
    return replace(step, inputs={0: maps.centering(3, {2: 8})}) if request.pulls else step


def on_denominator(step: Step, request: Request) -> Step:
    return replace(step, inputs={1: step.inputs[0]}) if request.pulls else step


def widened(step: Step, request: Request) -> Step:
    """A constant gets a map of rank 3 in a graph of rank 2."""
    wide = {index: maps.inserted(a_map, 3, [1, 2]) for index, a_map in step.constants.items()}
    return replace(step, constants=wide, cut=())


def not_shrunk(patch: Patch) -> None:
    patch.setattr(maps, "_shrunk", lambda result, shape: result)


# --- mistakes in the planner ----------------------------------------------------------------------------------------


def no_foreign_readers(patch: Patch) -> None:
    patch.setattr(discover, "_foreign_readers", lambda *_: iter(()))


def no_foreign_outputs(patch: Patch) -> None:
    original = discover._foreign_readers

    def readers(*arguments: object) -> Iterator[Foreign]:
        return (found for found in original(*arguments) if found.reason_id != "graph-output")  # type: ignore[arg-type]

    patch.setattr(discover, "_foreign_readers", readers)


def every_norm_is_invariant(patch: Patch) -> None:
    patch.setattr(discover, "is_invariant", lambda scene, node, *_: node in scene.owners)


def without_explicit(plan: Plan) -> Plan:
    return replace(plan, explicit={})


def other_epsilon(goal: Goal) -> Goal:
    return replace(goal, remaining=replace(goal.remaining, epsilon=0.1))


def without_gain(goal: Goal) -> Goal:
    return replace(goal, remaining=replace(goal.remaining, gain=None))


# --- the models -----------------------------------------------------------------------------------------------------

NORM = "[ln] n = LayerNormalization(s, g)\n y = Tanh(n)"
GEMM = """
    main (double[B,8] x) => (double[B,8] y) <double[8,8] w, double[8] c, double[8] g>
    {{ s = Gemm<{}>(x, w, c) [ln] y = LayerNormalization(s, g) }}"""
GEMM_BEHIND = """
    main (double[B,4] x) => (double[B,8] y) <double[4,8] v, double[8,8] w, double[8] c, double[8] g, double[8] b>
    {{ s = MatMul(x, v) [ln] n = LayerNormalization(s, g, b) y = Gemm<{}>(n, w, c) }}"""
BEHIND = """
    main (double[B,S,4] x) => (double[B,S,8] y)
    <double[4,8] v, double[8,8] w, double[8] c, double[8,8] u, double[8] d, double[8] g, double[8] b>
    {{ s = MatMul(x, v) [ln] n = LayerNormalization(s, g, b) {} }}"""
STREAM = """
    main (double[B,S,4] x) => (double[B,S,8] y{})
    <double[4,8] v, double[4,8] w, double[8] c, double[8] g, bool[8] mask, double[8] factor, double tiny = {{0.00001}}>
    {{ {}\n [ln] y = LayerNormalization(s, g) }}"""


def stream(body: str, more: str = "") -> str:
    return STREAM.format(f", {more}" if more else "", body)


ROWS = """
    main (double[B,4] x) => (double[B,8] y) <double[4,8] v, double[8] c, double[8] g>
    { p = MatMul(x, v) s = Add(p, c) [ln] y = LayerNormalization(s, g) }"""
EMBEDDING = """
    main (int64[B,S] ids) => (double[B,S,8] y) <double[8,8] table, double[8] g>
    { s = Gather(table, ids) [ln] y = LayerNormalization(s, g) }"""
DEPTHWISE = """
    main (double[B,8,T] x) => (double[B,T,8] y) <double[8,1,1] w, double[8] g>
    { d = Conv<group = 8>(x, w) s = Transpose<perm = [0, 2, 1]>(d) [ln] y = LayerNormalization(s, g) }"""
JOINED = """
    main (double[B,S,4] x) => (double[B,S,16] y) <double[4,8] v, double[4,8] w, double[16] g>
    { p = MatMul(x, v) q = MatMul(x, w) s = Concat<axis = -1>(p, q) [ln] y = LayerNormalization(s, g) }"""
HEADS = """
    main (double[B,S,4] x) => (double[B,S,2,4] y) <double[4,8] v, double[4] g, int64[4] to = {0, 0, 2, 4}>
    { p = MatMul(x, v) s = Reshape(p, to) [ln] y = LayerNormalization(s, g) }"""
OPAQUE = """
    main (double[B,S,8] x) => (double[B,S,8] y, double[B,S,8] z) <double[8] g>
    { s = Tanh(x) [ln] y = LayerNormalization(s, g) [also] z = LayerNormalization(s, g) }"""
SCALED = """
    main (double[B,S,4] x, double[B,S,8] r) => (double[B,S,8] y)
    <double[4,8] v, double[4,8] w, double[8] gain, double three = {3.0}> {
        p = MatMul(x, v)
        q = MatMul(x, w)
        d = Div(p, q)
        f = Mul(d, gain)
        y = Add(r, f)
    }"""
PADDED = """
    main (double[B,T,4] x) => (double[B,6,M] y) <double[4,8] v, double[6,8,3] w, double[6] c, double[8] g, double[8] b> {
        s = MatMul(x, v)
        [ln] n = LayerNormalization(s, g, b)
        t = Transpose<perm = [0, 2, 1]>(n)
        y = Conv<pads = [1, 1]>(t, w, c)
    }"""
SCORES = """
    main (double[B,S,4] x, double[B,S,S] scores) => (double[B,S,8] y) <double[4,8] v, double[8] d, double[8] g, double[8] b> {
        s = MatMul(x, v)
        [ln] n = LayerNormalization(s, g, b)
        a = MatMul(scores, n)
        y = Add(a, d)
    }"""
SOFTMAX = stream("s = MatMul(x, v)\n z = Softmax<axis = 1>(s)", "double[B,S,8] z")
OTHER_NORM = stream(
    "s = MatMul(x, v)\n q = Mul(s, s)\n m = ReduceMean<axes = [-1]>(q)\n e = Add(m, tiny)\n r = Sqrt(e)\n"
    "z = Div(s, r)", "double[B,S,8] z"
)  # fmt: skip

MUTANTS = {
    "a bias is not centered": Mutant(GEMM.format("transB = 0"), changed("Gemm", without_bias)),
    "the wrong axis under transB": Mutant(GEMM.format("transB = 1"), changed("Gemm", other_axis(1))),
    "the wrong axis of a MatMul": Mutant(
        ROWS.replace("4] x", "8] x").replace("[4,8]", "[8,8]"), changed("MatMul", other_axis(1))
    ),
    "transB is ignored": Mutant(
        GEMM_BEHIND.format("transB = 1"), changed("Gemm", transposed_shift), goals.bias_goals, plan_push
    ),
    "alpha is applied to C": Mutant(
        GEMM_BEHIND.format("alpha = 0.5"), changed("Gemm", times_shift(2, 2.0)), goals.bias_goals, plan_push
    ),
    "beta is forgotten": Mutant(
        GEMM_BEHIND.format("beta = 3.0"), changed("Gemm", times_shift(2, 3.0)), goals.bias_goals, plan_push
    ),
    "a shift is counted twice": Mutant(
        BEHIND.format("p = MatMul(n, w) q = Add(p, c) r = MatMul(q, u) y = Add(r, d)"),
        changed("Add", twice),
        goals.bias_goals,
        plan_push,
    ),
    "the sign of a Sub": Mutant(
        BEHIND.format("p = MatMul(n, w) y = Sub(c, p)"),
        changed("Sub", times_shift(0, -1.0)),
        goals.bias_goals,
        plan_push,
    ),
    "the shift passes a run-time factor": Mutant(
        BEHIND.format("f = Tanh(s) p = Mul(n, f) y = Add(p, d)"),
        unblocked("Mul", as_is(0)),
        goals.bias_goals,
        plan_push,
    ),
    "the shift passes weights that do not sum to one": Mutant(
        SCORES, unblocked("MatMul", as_is(1)), goals.bias_goals, plan_push
    ),
    "the shift passes zero padding": Mutant(
        PADDED,
        lambda patch: patch.setattr(Convolution, "has_border", lambda _: False),
        goals.bias_goals,
        plan_push,
    ),
    "a constant that widens the output": Mutant(ROWS, both(changed("Add", widened), not_shrunk)),
    "one operand of an Add alone": Mutant(
        stream("p = MatMul(x, v)\n q = MatMul(x, w)\n s = Add(p, q)"), changed("Add", first_operand_only)
    ),
    "a mask is ignored": Mutant(
        stream("p = MatMul(x, v)\n q = MatMul(x, w)\n s = Where(mask, p, q)"), unblocked("Where", as_is(1, 2))
    ),
    "a factor per channel is ignored": Mutant(
        stream("p = MatMul(x, v)\n s = Mul(p, factor)"), unblocked("Mul", as_is(0))
    ),
    "a grouped convolution as a full one": Mutant(DEPTHWISE, unblocked("Conv", one_group)),
    "a Concat along the axis passes": Mutant(JOINED, unblocked("Concat", piece_by_piece)),
    "a group per head as the whole axis": Mutant(HEADS, changed("Reshape", whole_axis)),
    "an embedding over its rows": Mutant(EMBEDDING, changed("Gather", other_axis(0))),
    "a cast to integers passes": Mutant(
        stream("p = MatMul(x, v)\n i = Cast<to = 7>(p)\n s = Cast<to = 11>(i)"), unblocked("Cast", as_is(0))
    ),
    "a nonlinearity passes": Mutant(
        stream("p = MatMul(x, v)\n s = Tanh(p)"),
        lambda patch: patch.setitem(TRANSFERS, "Tanh", as_is(0)),  # type: ignore[arg-type]
    ),
    "a denominator is scaled": Mutant(SCALED, changed("Div", on_denominator), goals.scale_goals),
    "a softmax over another axis is invariant": Mutant(SOFTMAX, unblocked("Softmax", invariant)),
    "a foreign reader is forgotten": Mutant(
        stream("s = MatMul(x, v)\n z = Exp(s)", "double[B,S,8] z"), no_foreign_readers
    ),
    "an RMSNorm does not mind": Mutant(OTHER_NORM, every_norm_is_invariant),
    "an output changes silently": Mutant(stream("s = MatMul(x, v)", "double[B,S,8] s"), no_foreign_outputs),
    "an explicit Center is forgotten": Mutant(OPAQUE, nothing, spoil_plan=without_explicit),
    "another epsilon": Mutant(ROWS, nothing, spoil_goal=other_epsilon),
    "a gain is dropped": Mutant(ROWS, nothing, spoil_goal=without_gain),
}
# Where nothing moves without the mistake, since the model is one that must not be touched.
REFUSED = {
    "the shift passes a run-time factor", "the shift passes weights that do not sum to one",
    "the shift passes zero padding", "a mask is ignored", "a factor per channel is ignored",
    "a grouped convolution as a full one", "a Concat along the axis passes", "a cast to integers passes",
    "a nonlinearity passes", "a softmax over another axis is invariant", "a foreign reader is forgotten",
    "an RMSNorm does not mind", "an output changes silently",
}  # fmt: skip

every_mutant = pytest.mark.parametrize("name", MUTANTS)


@every_mutant
def test_without_the_mistake_it_is_proved(name: str) -> None:
    mutant = MUTANTS[name]
    session, plan = moved(mutant, proving=True, spoiled=False)
    assert [refusal.reason_id for refusal in session.refused] == []
    assert bool(plan.goals) == (name not in REFUSED)
    assert len(session.rewrites) >= len(plan.goals)
    apart = disagreement(run(parsed(mutant.text)), results(session))
    assert {output: error for output, error in apart.items() if error > AGREEMENT} == {}


@every_mutant
def test_the_mistake_would_do_harm(name: str, monkeypatch: Patch) -> None:
    mutant = MUTANTS[name]
    mutant.plant(monkeypatch)
    session, plan = moved(mutant, proving=False, spoiled=True)
    assert plan.goals
    try:
        after = results(session)
    except (RuntimeError, ValueError):  # a model that does not run is harm enough
        return
    assert max(disagreement(run(parsed(mutant.text)), after).values()) > HARM


@every_mutant
def test_the_proof_catches_the_mistake_and_the_model_stays(name: str, monkeypatch: Patch) -> None:
    mutant = MUTANTS[name]
    untouched = frozen(Session.of(ir.from_proto(parsed(mutant.text))).model)
    mutant.plant(monkeypatch)
    session, plan = moved(mutant, proving=True, spoiled=True)
    assert plan.goals == ()
    assert {refusal.reason_id for refusal in session.refused} == {"proof-failed"}
    assert session.rewrites == []
    assert frozen(session.model) == untouched
    assert max(disagreement(run(parsed(mutant.text)), results(session)).values()) < AGREEMENT


# --- what an obligation says ----------------------------------------------------------------------------------------


def obligations(text: str, change: Callable[[Plan], Plan] = lambda plan: plan) -> dict[str, str]:
    """What every obligation of centering the model says, by node."""
    session = Session.of(ir.from_proto(parsed(text)))
    scene = Scene.of(session.facts, session.norms)
    found = prove(scene, change(plan_pull(scene, goals.center_goals(session))))
    assert all((obligation.error <= 1e-12) == obligation.holds for obligation in found)
    return {obligation.node: obligation.failure for obligation in found}


NAMED = """
    main (double[B,4] x) => (double[B,8] y) <double[4,8] v, double[8] c, double[8] g>
    { [product] p = MatMul(x, v) [sum] s = Add(p, c) [ln] n = LayerNormalization(s, g) [end] y = Tanh(n) }"""


def test_every_node_that_touches_a_map_is_proved_and_no_other() -> None:
    assert obligations(NAMED) == {"product": "", "sum": "", "ln": ""}


def test_what_cannot_be_executed_has_failed(monkeypatch: Patch) -> None:
    monkeypatch.setattr("normswap.reference._operator", lambda *_: _broken)
    said = obligations(NAMED)
    assert said["product"].startswith("could not be executed")


def _broken(*_: object) -> None:
    raise RuntimeError("no kernel")


def test_an_error_names_the_node_and_how_far_it_is_off(monkeypatch: Patch) -> None:
    changed("Add", lambda step, request: replace(step, constants={}))(monkeypatch)
    session, _ = moved(Mutant(NAMED, nothing), proving=True, spoiled=False)
    (refusal,) = session.refused
    assert refusal.site == "ln"
    assert "`sum` differs by" in refusal.reason


def test_what_is_made_from_a_shape_is_cut_like_what_stands_beside_it() -> None:
    session = Session.of(
        ir.from_proto(
            parsed("""main (double[1,4,1,T] x) => (double[1,4,1,U] y) <double[4,4,3,3] w, double[1,4,1,1] c, double[4,1,1] g> {
            h = Conv<pads = [1, 1, 1, 1]>(x, w) size = Shape(h) e = Expand(c, size) s = Add(h, e) y = Mul(s, g) }""")
        )
    )
    found = goals.affine_goals(session.affines, session.facts, "pull", "whole")
    assert move(session, plan_pull, found, "up").goals
    assert session.refused == []


def test_who_reads_a_restored_value_has_nothing_to_prove() -> None:
    text = """main (double[N,8,T] x) => (double[N,4,T] y) <double[8,1] g, int64 trips = {2}> {
        m = Mul(x, g) a, b = Split<axis = 1, num_outputs = 2>(m)
        [loop] y = Loop(trips, , a) <body = b (int64 i, bool on, double[N,4,T] h) => (bool again, double[N,4,T] k) {
            k = Tanh(h) again = Identity(on) }> }"""
    session = Session.of(ir.from_proto(parsed(text, 18)), allow_larger=True)
    found = goals.affine_goals(session.affines, session.facts, "push", "whole")
    plan = move(session, plan_push, found, "down")
    assert [value.name for value in plan.explicit] == ["a/unmoved"]
    assert session.refused == []


def test_a_goal_below_another_reads_what_that_one_restored() -> None:
    text = """main (double[4,3,4,6] x) => (double[4,3,4] y) <double[4,1] r, double[6,2] w, double[3,1,1] g, double[2] v> {
        a = Mul(x, r) p = MatMul(a, w) m = Mul(p, g) q = MatMul(m, v) y = Tanh(q) }"""
    session = Session.of(ir.from_proto(parsed(text)))
    found = goals.affine_goals(session.affines, session.facts, "push", "whole")
    plan = move(session, plan_push, found, "down")
    assert len(plan.goals) == len(plan.explicit) == 2
    assert session.refused == []


def test_what_has_nothing_to_do_with_a_mistake_moves_all_the_same(monkeypatch: Patch) -> None:
    text = """
        main (double[B,4] x) => (double[B,8] y, double[B,8] z)
        <double[4,8] v, double[8] c, double[4,8] w, double[8] d, double[8] g> {
            p = MatMul(x, v)
            s = Add(p, c)
            [right] y = LayerNormalization(s, g)
            q = MatMul(x, w)
            t = Sub(q, d)
            [wrong] z = LayerNormalization(t, g)
        }"""
    changed("Sub", lambda step, request: replace(step, constants={}))(monkeypatch)
    session, plan = moved(Mutant(text, nothing), proving=True, spoiled=False)
    assert [goal.norm.name for goal in plan.goals] == ["right"]
    assert [(refusal.site, refusal.reason_id) for refusal in session.refused] == [("wrong", "proof-failed")]
    assert max(disagreement(run(parsed(text)), results(session)).values()) < AGREEMENT
