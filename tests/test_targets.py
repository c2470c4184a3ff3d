"""The target rmsnorm: what it moves, in which order, and that it moves nothing that serves no norm it converts."""

from __future__ import annotations

import onnx_ir as ir
import pytest

import normswap
from normswap.session import Session
from normswap.targets import TARGETS, Selection
from tests.graphs import converted, counts, nodes, parsed, reasons, weights

MODEL = """
    main (double[B,S,4] x) => (double[B,S,{out}] y) <double[4,8] w, double[8] g, double[8] b, double[8,{out}] head{more}> {{
        s = MatMul(x, w)
        [ln] n = LayerNormalization(s, g, b)
        {end}
    }}"""


def rules(text: str, **options: object) -> list[tuple[str, str]]:
    """What was done where, without how it was spelled."""
    result = converted(parsed(text), **options)
    return [(item.site, item.rule) for item in result.rewrites if not item.rule.startswith("spell/")]


def test_a_bias_goes_where_it_costs_nothing() -> None:
    absorbed = MODEL.format(out=9, more=", double[9] d", end="o = MatMul(n, head)\n y = Add(o, d)")
    assert rules(absorbed) == [("ln", "bias-down"), ("ln", "center-up")]


def test_a_bias_does_not_move_onto_a_wider_value_of_no_bias() -> None:
    assert rules(MODEL.format(out=900, more="", end="y = MatMul(n, head)")) == [("ln", "center-up")]


def test_a_bias_moves_onto_a_narrower_value() -> None:
    assert rules(MODEL.format(out=3, more="", end="o = MatMul(n, head)\n y = Tanh(o)"))[0] == ("ln", "bias-down")


def test_a_bias_of_several_readers_moves_only_if_all_of_them_take_it() -> None:
    one = "o = MatMul(n, head)\n p = Add(o, d)\n q = Tanh(n)\n y = Mul(p, q)"
    assert ("ln", "bias-down") not in rules(MODEL.format(out=8, more=", double[8] d", end=one))
    both = "o = MatMul(n, head)\n p = Add(o, d)\n r = MatMul(n, v)\n q = Add(r, d)\n y = Mul(p, q)"
    assert rules(MODEL.format(out=8, more=", double[8] d, double[8,8] v", end=both))[0] == ("ln", "bias-down")


HELD = """
    main (double[B,S,4] x) => (double[B,S,8] y, double[B,S,8] t)
    <double[4,8] w, double[8] g, double[8] b, double[8,8] v, double[8] d, double[8] scale> {
        s = MatMul(x, w)
        [ln] n = LayerNormalization(s, g, b)
        o = MatMul(n, v)
        p = Add(o, d)
        f = Mul(p, scale)
        t = Add(s, f)
        [end] y = LayerNormalization(t, g)
    }"""


def test_of_a_norm_that_is_refused_nothing_else_moves_either() -> None:
    model = parsed(HELD)
    result = converted(model)
    assert result.rewrites == ()
    assert result.model == model
    assert reasons(result).keys() == {"ln", "end"}


def test_the_scale_moves_before_the_center() -> None:
    found = rules(HELD.replace(", double[B,S,8] t)", ")"))
    assert [rule for _, rule in found] == ["scale-up", "bias-down", "center-up", "center-up"]


def test_a_scale_that_serves_no_center_stays() -> None:
    text = """
        main (double[B,S,4] x, double[B,S,8] r) => (double[B,S,8] y) <double[4,8] w, double[8] scale> {
            p = MatMul(x, w)
            f = Mul(p, scale)
            y = Add(r, f)
        }"""
    assert rules(text) == []


def test_an_rmsnorm_is_not_touched() -> None:
    text = """
        main (double[B,S,4] x) => (double[B,S,8] y) <double[4,8] w, double[8] g> {
            s = MatMul(x, w)
            [rms] y = RMSNormalization(s, g)
        }"""
    model = parsed(text, opset=23, ir_version=11)
    result = converted(model)
    assert (result.model, result.candidates, result.exit_code) == (model, 0, 0)


@pytest.mark.parametrize("gain", ["double[8] g", "double[1] g"])
def test_the_gain_stays_with_the_norm(gain: str) -> None:
    text = MODEL.format(out=9, more=", double[9] d", end="o = MatMul(n, head)\n y = Add(o, d)").replace(
        "double[8] g", gain
    )
    result = converted(parsed(text))
    assert counts(result) == (1, 0)
    assert weights(result)["g"].shape == ((8,) if "8" in gain else (1,))


def test_a_model_without_norms_is_returned_as_it_is() -> None:
    model = parsed("main (double[B,4] x) => (double[B,4] y) { y = Tanh(x) }")
    result = converted(model)
    assert (result.model, result.rewrites, result.refused, result.candidates) == (model, (), (), 0)


def test_the_trial_chooses_what_the_run_then_does() -> None:
    model = ir.from_proto(parsed(HELD.replace(", double[B,S,8] t)", ")")))
    trial = Session.of(model, proving=False)
    chosen = TARGETS["rmsnorm"].choose(trial, None)
    assert chosen == Selection(frozenset({"n", "y"}), frozenset({"f"}))
    session = Session.of(model)
    TARGETS["rmsnorm"].run(session, chosen)
    assert [rewrite.rule for rewrite in session.rewrites] == [rewrite.rule for rewrite in trial.rewrites]
    assert session.refused == []


def test_no_operator_is_added_where_all_is_absorbed() -> None:
    session = Session.of(
        ir.from_proto(parsed(MODEL.format(out=9, more=", double[9] d", end="o = MatMul(n, head)\n y = Add(o, d)")))
    )
    TARGETS["rmsnorm"].run(session, Selection(frozenset({"n"})))
    assert [node.op_type for node in session.model.graph] == ["MatMul", "RMSNorm", "MatMul", "Add"]


def test_in_float32_it_is_one_operator_of_onnx() -> None:
    text = MODEL.format(out=9, more=", float[9] d", end="o = MatMul(n, head)\n y = Add(o, d)").replace(
        "double", "float"
    )
    result = normswap.convert(parsed(text), "rmsnorm", check=False)
    assert [node.op_type for node in nodes(result)] == ["MatMul", "RMSNormalization", "MatMul", "Add"]


def test_beside_a_norm_that_converts_a_scale_that_serves_another_stays() -> None:
    text = """
        main (double[B,S,4] x, double[B,S,8] r) => (double[B,S,8] y, double[B,S,8] z)
        <double[4,8] w, double[4,8] v, double[8] c, double[8] g, double[8] scale> {
            s = MatMul(x, w)
            [ln] y = LayerNormalization(s, g)
            p = MatMul(x, v)
            q = Add(p, c)
            f = Mul(q, scale)
            z = Add(r, f)
        }"""
    assert rules(text) == [("ln", "center-up")]


SERIES = """main (double[N,6,5] x) => (double[N,6,8] y)
    <double[5,8] w, double[8] row, double[6,1] column, double eps = {{1e-5}}> {{
        h = MatMul(x, w) m = ReduceMean<axes = [-1]>(h) d = Sub(h, m) q = Mul(d, d) a = ReduceMean<axes = [-1]>(q)
        e = Add(a, eps) s = Sqrt(e) u = Div(d, s) y = Mul(u, {gain}) }}"""


@pytest.mark.parametrize(("gain", "kind"), [("row", "LayerNorm"), ("column", "InstanceNorm")])
def test_only_layer_norms_become_rms_norms(gain: str, kind: str) -> None:
    """The one differs from the other in nothing but its gain."""
    result = converted(parsed(SERIES.format(gain=gain)))
    assert result.before.norms == {kind: 1}
    assert counts(result) == (int(kind == "LayerNorm"), 0)
    assert result.refused == ()
