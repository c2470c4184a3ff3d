"""Names, sums and attempts: how large the free dimensions are."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from normswap.check import sizes
from normswap.check.interface import Port, interface


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))


def port(name: str, *shape: int | str | None, dtype: ir.DataType = ir.DataType.FLOAT) -> Port:
    return Port(name, dtype, shape)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a", 2), ("a + b", 5), ("2*a - 1", 3), ("b // 2", 1), ("Max(1, a)", 2), ("min(a, b) * 4", 8), ("a - b", 0)],
)
def test_expressions(text, value):
    assert sizes.evaluate(text, {"a": 2, "b": 3}) == value


@pytest.mark.parametrize("text", ["__import__('os').getcwd()", "a ** 99", "[1]", "lambda: 1", "a if b else c"])
def test_what_is_no_arithmetic_is_a_name(text):
    free = sizes.symbols([port("x", text)])
    assert [symbol.name for symbol in free] == [text]
    assert next(iter(sizes.attempts(free))).shape(port("x", text)) == (sizes.SEQUENCES[0],)


def test_one_name_has_one_size_and_sums_add_up():
    ids = port("ids", "batch", "sequence_length", dtype=ir.DataType.INT64)
    mask = port("mask", "batch", "past_sequence_length + sequence_length", dtype=ir.DataType.INT64)
    total = port("total", "batch", "total_sequence_length", dtype=ir.DataType.INT64)
    past = port("past", "batch", 4, "past_sequence_length", 8)
    ports = [ids, mask, total, past]
    free = sizes.symbols(ports)
    for binding in [next(iter(sizes.attempts(free)))]:
        shapes = [binding.shape(p) for p in ports]
        assert shapes[0][0] == shapes[1][0] == shapes[3][0]
        assert shapes[1][1] == shapes[2][1] == shapes[0][1] + shapes[3][2]
        assert shapes[0][1] != shapes[3][2]


def test_unnamed_dimensions_are_free_of_each_other():
    model = parse("g (float[?, 3, ?, ?] x) => (float[?, 3, ?, ?] y) { y = Neg(x) }")
    (image,) = interface(model).inputs
    assert image.shape == (None, 3, None, None)
    assert [symbol.kind for symbol in sizes.symbols([image])] == ["batch", "space", "space"]
    first = next(iter(sizes.attempts(sizes.symbols([image])))).shape(image)
    assert first[2] != first[3]
    assert first[2] % 32 == first[3] % 32 == 0


def test_other_sizes_follow_what_was_accepted():
    image = port("image", "n", 3, "h", "w")
    free = sizes.symbols([image])
    only_48 = next(b for b in sizes.attempts(free) if b.shape(image)[2:] == (48, 48))
    ones, larger = sizes.further(free, only_48)
    assert ones[0].shape(image) == (1, 3, 48, 48)  # a picture of one pixel is no picture
    assert (2, 3, 48, 96) in [b.shape(image) for b in larger]


def test_nothing_free_is_one_binding():
    assert [binding.name for binding in sizes.attempts(())] == ["fixed"]
    assert not list(sizes.further((), sizes.Binding("fixed", ())))
