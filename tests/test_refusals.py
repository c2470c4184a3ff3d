"""What is not converted says why, in the model's own names: one reason per norm, the nearest that could not give."""

from __future__ import annotations

import pytest

from normswap.ledger import Refusal
from normswap.reasons import REASONS
from normswap.refusals import SENTENCES
from tests.graphs import converted, counts, parsed

HEADER = "<double[4,8] w, double[8,8] v, double[8] c, double[8] g, double[8] b, double[8] factor>"


def refused(
    body: str, inputs: str = "double[B,S,4] x", outputs: str = "double[B,S,8] y", header: str = HEADER
) -> Refusal:
    """The one refusal for the norm `ln` of a model in which nothing can be converted."""
    result = converted(parsed(f"main ({inputs}) => ({outputs}) {header} {{ {body} }}"))
    assert counts(result) == (0, 0)
    (refusal,) = result.refused
    assert refusal.site == "ln"
    assert refusal.reason_id in REASONS
    assert refusal.reason.startswith("LayerNorm `ln`: ")
    assert "\n" not in refusal.reason
    return refusal


NORM = "[ln] y = LayerNormalization(s, g)"


@pytest.mark.parametrize(
    ("body", "reason_id", "named"),
    [
        (f"s = MatMul(x, w) [probe] u = Exp(s) {NORM}", "foreign-reader", "Exp `probe`"),
        (f"s = MatMul(x, w) t = Neg(s) [probe] u = Exp(t) {NORM}", "foreign-reader", "Exp `probe`"),
        (f"s = MatMul(x, w) u = Identity(s) {NORM}", "graph-output", "output `u`"),
        (f"p = MatMul(x, w) [gate] s = Tanh(p) u = Neg(p) {NORM}", "opaque-producer", "Tanh `gate`"),
    ],
)
def test_it_names_who_stands_in_the_way(body: str, reason_id: str, named: str) -> None:
    refusal = refused(body, outputs="double[B,S,8] y, double[B,S,8] u")
    assert (refusal.reason_id, named in refusal.reason) == (reason_id, True), refusal.reason


@pytest.mark.parametrize(
    ("body", "reason_id"),
    [
        (f"p = MatMul(x, w) s = Mul(p, factor) {NORM}", "does-not-commute"),
        (f"p = MatMul(x, w) i = Cast<to = 7>(p) s = Cast<to = 11>(i) {NORM}", "opaque-producer"),
        (f"p = MatMul(x, w) q = ReduceSum<keepdims = 1>(p) s = Add(p, q) {NORM}", "broadcast"),
    ],
)
def test_it_says_what_kind_of_obstacle_it_is(body: str, reason_id: str) -> None:
    assert refused(body).reason_id == reason_id


def test_an_input_is_named() -> None:
    refusal = refused("[ln] y = LayerNormalization(x, g)", inputs="double[B,S,8] x")
    assert refusal.reason_id == "opaque-producer"
    assert "the input `x`" in refusal.reason


def test_another_norm_that_reads_the_stream_is_named_by_its_kind() -> None:
    body = """s = MatMul(x, w) q = Mul(s, s) m = ReduceMean<axes = [-1]>(q) e = Add(m, tiny) r = Sqrt(e)
        [rms] u = Div(s, r) [ln] y = LayerNormalization(s, g)"""
    header = HEADER.replace(">", ", double tiny = {0.00001}>")
    refusal = refused(body, outputs="double[B,S,8] y, double[B,S,8] u", header=header)
    assert refusal.reason_id == "foreign-reader"
    assert "RMSNorm `rms`" in refusal.reason


def test_what_would_save_nothing_is_left_and_said_to_be_exact() -> None:
    # Its bias stays as an Add of its own, which costs more than the mean of so few elements.
    body = "s = MatMul(x, w) [ln] n = LayerNormalization(s, g, b) y = Tanh(n)"
    refusal = refused(body, inputs="double[1,1,4] x", outputs="double[1,1,8] y")
    assert refusal.reason_id == "not-worthwhile"


def test_a_reader_explains_more_than_a_producer_behind_which_a_center_would_do() -> None:
    body = f"p = Tanh(x0) r = MatMul(x, w) s = Add(p, r) [probe] u = Exp(s) {NORM}"
    refusal = refused(body, inputs="double[B,S,4] x, double[B,S,8] x0", outputs="double[B,S,8] y, double[B,S,8] u")
    assert refusal.reason_id == "foreign-reader"


def test_every_norm_of_a_stream_has_its_own_refusal() -> None:
    text = f"""
        main (double[B,S,4] x) => (double[B,S,8] y, double[B,S,8] s1) {HEADER} {{
            s = MatMul(x, w)
            [one] n = LayerNormalization(s, g)
            f = MatMul(n, v)
            s1 = Add(s, f)
            [two] y = LayerNormalization(s1, g)
        }}"""
    result = converted(parsed(text))
    assert [(refusal.site, refusal.reason_id) for refusal in result.refused] == [
        ("one", "graph-output"),
        ("two", "graph-output"),
    ]


def test_every_sentence_is_about_a_reason_of_the_table_and_names_the_norm() -> None:
    assert SENTENCES.keys() <= REASONS.keys()
    assert all("{site}" in sentence for sentence in SENTENCES.values())


@pytest.mark.parametrize("total", ["Add(t, n)", "Add(n, t)", "Sum(t, n, t)"])
def test_post_norm_explains_more_than_another_obstacle_beside_it(total: str) -> None:
    text = f"""
        main (double[B,S,8] x) => (double[B,S,8] y) {HEADER} {{
            [before] n = LayerNormalization(x, g, b)
            t = Tanh(n)
            s = {total}
            [ln] y = LayerNormalization(s, g)
        }}"""
    result = converted(parsed(text))
    assert {refusal.site: refusal.reason_id for refusal in result.refused}["ln"] == "post-norm"
