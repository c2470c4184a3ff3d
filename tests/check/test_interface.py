"""What breaks a caller and what it does not notice."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from normswap.check.interface import compare, interface


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))


BASE = "g (float[N, 4] x, int64[N] i) => (float[N, 4] y, float[N] z) { y = Neg(x)\n z = Cast<to = 1>(i) }"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (BASE.replace("float[N, 4] x, int64[N] i", "int64[N] i, float[N, 4] x"), "order of the inputs"),
        (BASE.replace("float[N, 4] y, float[N] z", "float[N] z, float[N, 4] y"), "order of the outputs"),
        (BASE.replace("float[N, 4] y, float[N] z", "float[N, 4] y"), "output `z` is lost"),
        (BASE.replace("int64[N] i", "int64[N] j"), "input `i` is lost; input `j` is new"),
        (BASE.replace("int64[N] i", "int32[N] i"), "input `i` was INT64, is INT32"),
        (BASE.replace("float[N, 4] x", "float[2, 4] x"), "input `x` was [N, 4], is [2, 4]"),
        (BASE.replace("float[N, 4] x", "float[N, 5] x"), "input `x` was [N, 4], is [N, 5]"),
        (BASE.replace("float[N, 4] y", "float[N, 5] y"), "output `y` was [N, 4], is [N, 5]"),
        (BASE.replace("float[N, 4] x", "float[N, 4, 1] x"), "input `x` was [N, 4], is [N, 4, 1]"),
    ],
)
def test_broken_interface(changed, words):
    found = compare(interface(parse(BASE)), interface(parse(changed)))
    assert words in "; ".join(found.broken)


@pytest.mark.parametrize(
    "changed",
    [
        BASE.replace("float[N, 4] x", "float[M, 4] x"),
        BASE.replace("float[N, 4] x", "float[N, P] x"),
        BASE.replace("float[N, 4] y", "float[2, 4] y"),
        BASE.replace("float[N, 4] y", "float[] y"),
    ],
)
def test_differences_that_no_caller_notices(changed):
    found = compare(interface(parse(BASE)), interface(parse(changed)))
    assert not found.broken
    assert len(found.notes) == 1


def test_overridable_initializer():
    text = "g (float[N, 4] x, float[4] w) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }"
    fixed = "g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }"
    overridable = interface(parse(text))
    assert [port.name for port in overridable.inputs] == ["x"]
    assert [port.name for port in overridable.overridable] == ["w"]
    assert "overridable initializer `w` is lost" in compare(overridable, interface(parse(fixed))).broken
    old = parse(text)
    old.ir_version = 3  # where every initializer had to be listed
    assert interface(old).overridable == ()
