"""An accepted plan, applied: nodes and weights keep their names, old weights are not edited, nothing is left over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import normswap
from normswap import goals, rewrite
from normswap.emit import NotFinite
from normswap.plan import Plan, plan_pull
from normswap.scene import Scene
from normswap.session import Session
from normswap.targets import TARGETS
from tests.graphs import converted, counts, drawn, nodes, parsed, reasons, weights, with_weights

TEXT = """
    main (double[B,S,4] x) => (double[B,S,8] y) <double[4,8] w, double[8] c, double[8] g, double[8] b, double[8,8] v, double[8] d> {
        [product] p = MatMul(x, w)
        [sum] s = Add(c, p)
        [ln] n = LayerNormalization(s, g, b)
        [next] q = MatMul(n, v)
        [end] y = Add(q, d)
    }"""
TWO = """
    main (double[B,S,8] x) => (double[B,S,8] y, double[B,S,8] z) <double[8] g>
    { s = Tanh(x) [ln] y = LayerNormalization(s, g) [also] z = LayerNormalization(s, g) }"""


def run_on(text: str) -> tuple[onnx.ModelProto, Session]:
    """The session of a text after its target, before any norm is spelled."""
    proto = parsed(text)
    session = Session.of(ir.from_proto(proto))
    run_rmsnorm(session)
    assert session.refused == []
    return proto, session


def run_rmsnorm(session: Session) -> None:
    """The target on every norm."""
    chosen = TARGETS["rmsnorm"].choose(Session.of(session.model, proving=False), None)
    TARGETS["rmsnorm"].run(session, chosen)


def test_the_graph_keeps_its_nodes_names_and_operand_order() -> None:
    proto, session = run_on(TEXT)
    found = [(node.op_type, node.name, [value.name for value in node.inputs if value]) for node in session.model.graph]
    expected = [(node.op_type, node.name, list(node.input)) for node in proto.graph.node]
    norm = ("RMSNorm", "ln", ["s", "ln/axes_1", "ln/epsilon_1", "g"])  # those of the LayerNorm without bias are gone
    assert found == [norm if name == "ln" else (op, name, inputs) for op, name, inputs in expected]
    assert [value.name for node in session.model.graph for value in node.outputs] == ["p", "s", "n", "q", "y"]


def test_new_weights_take_over_the_names_and_the_old_ones_are_gone() -> None:
    proto, session = run_on(TEXT)
    before = {tensor.name for tensor in proto.graph.initializer}
    after = session.model.graph.initializers
    assert set(after) == (before - {"b"}) | {"ln/axes_1", "ln/epsilon_1"}
    assert (
        np.abs(after["d"].const_value.numpy() - (drawn("d", (8,)) + drawn("b", (8,)) @ drawn("v", (8, 8)))).max()
        < 1e-14
    )  # type: ignore[union-attr]


def test_the_weights_that_were_given_are_not_edited() -> None:
    proto = parsed(TEXT)
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    session = Session.of(model)
    run_rmsnorm(session)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_the_metadata_of_the_norm_stay_with_it() -> None:
    proto = parsed(TEXT)
    proto.graph.node[2].metadata_props.add(key="namespace", value="encoder.norm")
    result = converted(proto)
    kept = {node.name: {item.key: item.value for item in node.metadata_props} for node in nodes(result)}
    assert kept["ln"]["namespace"] == "encoder.norm"


DECOMPOSED = """
    main (double[B,S,4] x) => (double[B,S,8] y)
    <double[4,8] w, double[8] c, double[8] g, double[8] b, double two = {2.0}, double eps = {0.00001}> {
        p = MatMul(x, w)
        s = Add(p, c)
        m = ReduceMean<axes = [-1]>(s)
        d = Sub(s, m)
        e = Pow(d, two)
        v = ReduceMean<axes = [-1]>(e)
        a = Add(v, eps)
        r = Sqrt(a)
        q = Div(d, r)
        k = Mul(q, g)
        [last] n = Add(k, b)
        y = Tanh(n)
    }"""


def test_of_a_norm_in_pieces_nothing_is_left_over() -> None:
    _, session = run_on(DECOMPOSED)
    assert [node.op_type for node in session.model.graph] == ["MatMul", "Add", "RMSNorm", "Add", "Tanh"]
    assert [node.name for node in session.model.graph][2] == "last"
    assert not {"two", "eps"} & set(session.model.graph.initializers)
    assert counts(converted(parsed(DECOMPOSED))) == (1, 0)


@pytest.mark.parametrize(("piece", "shape"), [("m", "B,S,1"), ("d", "B,S,8"), ("v", "B,S,1"), ("q", "B,S,8")])
def test_a_piece_that_is_an_output_is_still_delivered(piece: str, shape: str) -> None:
    text = DECOMPOSED.replace("double[B,S,8] y)", f"double[B,S,8] y, double[{shape}] {piece})")
    result = converted(parsed(text))
    assert piece in [output for node in nodes(result) for output in node.output]
    if piece == "m":  # the mean itself would be zero
        assert counts(result) == (0, 0)


def test_two_readers_of_a_bias_share_the_new_one() -> None:
    text = """
        main (double[B,S,4] x) => (double[B,S,8] y) <double[4,8] w, double[4,8] v, double[8] c, double[8] g, double[8] used> {
            p = MatMul(x, w)
            a = Add(p, c)
            q = MatMul(x, v)
            b = Add(q, c)
            s = Add(a, b)
            [ln] n = LayerNormalization(s, g)
            y = Mul(n, used)
        }"""
    result = converted(parsed(text))
    assert counts(result) == (1, 0)
    assert set(weights(result)) >= {"w", "v", "c"}
    assert not any("moved" in name for name in weights(result))


# --- explicit maps --------------------------------------------------------------------------------------------------


def test_an_explicit_center_stands_right_behind_its_value_and_the_old_form_stays_readable() -> None:
    text = TWO.replace("double[B,S,8] z)", "double[B,S,8] z, double[B,S,8] u)").replace(
        "s = Tanh(x)", "s = Tanh(x) u = Exp(s)"
    )
    result = converted(parsed(text))
    assert counts(result) == (2, 1)
    assert [node.op_type for node in nodes(result)][:3] == ["Tanh", "ReduceMean", "Sub"]
    (exp,) = [node for node in nodes(result) if node.op_type == "Exp"]
    assert list(exp.input) == ["s"]


def test_an_input_is_centered_at_the_start_of_the_graph() -> None:
    text = (
        TWO.replace("s = Tanh(x) ", "")
        .replace("(s, g)", "(x, g)")
        .replace("main (double[B,S,8] x)", "main (double[B,S,8] first, double[B,S,8] x)")
    )
    text = text.replace("double[B,S,8] z)", "double[B,S,8] z, double[B,S,8] u)").replace("[ln]", "u = Exp(first) [ln]")
    result = converted(parsed(text))
    assert counts(result) == (2, 1)
    assert [node.op_type for node in nodes(result)][:2] == ["ReduceMean", "Sub"]


MERGED = """
    main (double[B,S,4] x) => (double[B,S,8] y)
    <double[4,32] w, double[32] g, double[32] b, double[32,8] reduce, double[8] g2, double[8] b2, double[8,8] v, double[8] d> {
        h = MatMul(x, w)
        [merge] n = LayerNormalization(h, g, b)
        s = MatMul(n, reduce)
        [inner] m = LayerNormalization(s, g2, b2)
        q = MatMul(m, v)
        f = Add(q, d)
        t = Add(s, f)
        y = Tanh(t)
    }"""


def test_a_bias_that_moves_to_a_narrower_value_is_added_there_for_all_who_read_it() -> None:
    result = converted(parsed(MERGED))
    assert counts(result)[0] >= 1
    merged = [rewrite.rule for rewrite in result.rewrites if rewrite.site == "merge"]
    assert merged[:2] == ["bias-down", "center-up"]
    (added,) = [node for node in nodes(result) if node.op_type == "Add" and node.output[0] == "s"]
    assert added.input[0] == "s/unmoved"
    assert all("s/unmoved" not in node.input for node in nodes(result) if node is not added)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def planned(text: str) -> tuple[Session, Plan]:
    session = Session.of(ir.from_proto(parsed(text)))
    scene = Scene.of(session.facts, session.norms)
    return session, plan_pull(scene, goals.center_goals(session))


def test_an_explicit_map_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    session, plan = planned(TWO)
    original = rewrite.explicit

    def twice(emitter: object, a_map: object, value: object) -> list[ir.Node]:
        made = original(emitter, a_map, value)  # type: ignore[arg-type]
        made[-1].replace_input_with(1, made[-1].inputs[0])  # x − x
        return made

    monkeypatch.setattr(rewrite, "explicit", twice)
    with pytest.raises(rewrite.Broken, match="explicit map behind `s` differs"):
        rewrite.apply(plan, session.facts)


def test_a_reader_that_was_not_redirected_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
        main (double[B,S,8] x) => (double[B,S,8] y) <double[8,8] w, double[8] g> {
            x0 = Tanh(x)
            [one] n = LayerNormalization(x0, g)
            f = MatMul(n, w)
            x1 = Add(x0, f)
            [two] y = LayerNormalization(x1, g)
        }"""
    session, plan = planned(text)
    assert {value.name for value in plan.explicit} == {"x0"}
    monkeypatch.setattr(rewrite, "_redirect", lambda *_: None)
    with pytest.raises(rewrite.Broken, match=r"Add.*reads the wrong form of `x0`"):
        rewrite.apply(plan, session.facts)


def test_a_weight_that_would_overflow_in_its_type_is_not_written() -> None:
    text = """
        main (float16[B,4] x) => (float16[B,2] y) <float16[4,2] w, float16[2] g> { s = MatMul(x, w) [ln] y = LayerNormalization(s, g) }"""
    model = with_weights(parsed(text), w=np.tile([60000.0, -60000.0], (4, 1)))
    session = Session.of(ir.from_proto(model))
    plan = plan_pull(Scene.of(session.facts, session.norms), goals.center_goals(session))
    assert plan.goals
    rewrite.apply(plan, session.facts)  # centered, they are as large as they were
    huge = with_weights(
        parsed(text.replace("[4,2]", "[4,3]").replace("[2] g", "[3] g").replace("[B,2]", "[B,3]")),
        w=np.tile([60000.0, -60000.0, -60000.0], (4, 1)),
    )
    session = Session.of(ir.from_proto(huge))
    plan = plan_pull(Scene.of(session.facts, session.norms), goals.center_goals(session))
    with pytest.raises(NotFinite, match="`w/moved` would not be finite in FLOAT16"):
        rewrite.apply(plan, session.facts)


def test_what_would_overflow_is_refused() -> None:
    text = "main (float[B,4] x) => (float[B,3] y) <float[4,3] w, float[3] g> { s = MatMul(x, w) [ln] y = LayerNormalization(s, g) }"
    huge = float(np.finfo(np.float32).max)
    model = with_weights(parsed(text), w=np.tile([huge, -huge, -huge], (4, 1)))
    result = normswap.convert(model, "rmsnorm", check=False)
    assert set(reasons(result).values()) == {"not-finite"}
    assert counts(result) == (0, 0)
    assert result.model == model


def test_a_plan_of_nothing_changes_nothing() -> None:
    session, plan = planned(TWO)
    before = ir.to_proto(session.model).SerializeToString(deterministic=True)
    nothing = replace(plan, goals=(), steps={}, labels={}, explicit={})
    rewrite.apply(nothing, session.facts)
    assert ir.to_proto(session.model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("target", ["rmsnorm", "folded"])
def test_of_a_bias_of_zeros_that_cannot_go_on_nothing_is_left(target: str) -> None:
    text = """main (double[B,S,4] x) => (double[B,S,4] y) <double[4,4] w, double[4] g, double[4] b>
        { s = MatMul(x, w) [ln] n = LayerNormalization(s, g, b) y = Tanh(n) }"""
    model = with_weights(parsed(text), b=np.zeros(4))
    if target == "rmsnorm":
        assert [node.op_type for node in nodes(converted(model))] == ["MatMul", "RMSNormalization", "Tanh"]
    else:
        assert reasons(normswap.convert(model, target, check=False)) == {"ln": "foreign-reader"}
