"""Shapes inside Loop and Scan bodies: kept where every pass hands on what it was given, and only there."""

from __future__ import annotations

import pytest

from tests.graphs import parsed, scenario

LOOP = """main (int64 n, bool c, double[2,3] x) => (double[A,B] y) <double[3,3] w> {{
    y = Loop (n, c, x) <body = b (int64 i, bool go, h) => (bool on, k) {{ on = Identity(go) p = MatMul(h, w) {} }}> }}"""


def shape_of(text: str, name: str, opset: int = 17, ir_version: int = 8) -> tuple[int, ...] | None:
    told = scenario(parsed(text, opset, ir_version))
    values = [value for node in told.model.graph.all_nodes() for value in node.outputs]
    return told.facts.shape(next(value for value in values if value.name == name))


def test_a_carried_value_has_the_shape_it_began_with() -> None:
    assert shape_of(LOOP.format("k = Tanh(p)"), "p") == (2, 3)


@pytest.mark.parametrize("growing", ["k = Concat<axis = 0>(h, p)", "q = Tanh(p) k = Transpose<perm = [1, 0]>(q)"])
def test_a_value_that_changes_from_pass_to_pass_has_none(growing: str) -> None:
    assert shape_of(LOOP.format(growing), "p") is None


def test_a_scanned_value_loses_its_axis() -> None:
    text = """main (double[2,3] s, double[7,2,4] x) => (double[A,B] last, double[C,D,E] ys) <double[4,3] w> {
        last, ys = Scan <num_scan_inputs = 1, body = b (h, t) => (k, o) {
            p = MatMul(t, w) q = Add(h, p) k = Identity(q) o = Tanh(q) }> (s, x) }"""
    assert shape_of(text, "p") == (2, 3)
    assert shape_of(text, "q") == (2, 3)


def test_a_scan_of_opset_8_has_lengths_first_and_a_batch_that_its_body_does_not_see() -> None:
    text = """main (double[1,2] s, double[1,7,2] x) => (double[1,2] last, double[1,7,2] ys) {
        last, ys = Scan <num_scan_inputs = 1, body = b (double[2] h, double[2] t) => (double[2] k, double[2] o) {
            k = Add(h, t) o = Identity(k) }> (, s, x) }"""
    assert shape_of(text, "k", opset=8, ir_version=4) == (2,)
