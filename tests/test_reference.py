"""One operator in float64: onnx's own where it has a right one, else a definition, which is tested against others."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from normswap import reference
from tests.graphs import drawn


def node(text: str, opset: int = 17) -> ir.Node:
    """The one node of a text without types."""
    header = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1, "normswap" : 1]>'
    return next(iter(ir.from_proto(onnx.parser.parse_model(f"{header} main () => () {{ {text} }}")).graph))


def ran(text: str, *arrays: np.ndarray | None, opset: int = 17) -> list[np.ndarray]:
    return [np.asarray(output) for output in reference.run(node(text, opset), arrays, opset)]


X, GAIN, BIAS = drawn("x", (2, 3, 8)), drawn("gain", (8,)), drawn("bias", (8,))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_every_float_is_widened(dtype: type) -> None:
    array = np.asarray([0.5, -2.0]).astype(dtype)
    assert reference.promote(array).dtype == np.float64
    assert reference.promote(array).tolist() == [0.5, -2.0]


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, np.bool_])
def test_what_is_no_float_stays(dtype: type) -> None:
    array = np.asarray([0, 1]).astype(dtype)
    assert reference.promote(array) is array


def test_an_operator_on_half_precision_computes_in_float64() -> None:
    (total,) = ran("y = Add(a, b)", np.asarray([2048.0], np.float16), np.asarray([1.0], np.float16))
    assert total.tolist() == [2049.0]  # which float16 has not


def test_an_omitted_input_in_the_middle_stays_omitted() -> None:
    (clipped,) = ran('y = Clip(x, "", high)', np.asarray([-5.0, 5.0]), None, np.asarray(1.0))
    assert clipped.tolist() == [-5.0, 1.0]


def test_the_opset_decides_what_an_operator_does() -> None:
    x = np.asarray([-5.0, 5.0])
    assert ran("y = Clip<min = -1.0, max = 2.0>(x)", x, opset=6)[0].tolist() == [-1.0, 2.0]
    assert ran("y = Clip(x, low)", x, np.asarray(-1.0), opset=13)[0].tolist() == [-1.0, 5.0]


@pytest.mark.parametrize(
    ("text", "arrays"),
    [
        ("y = com.microsoft.Nothing(x)", [X]),
        ("y = MatMul(a, b)", [X, X]),
        ("y = Nothing(x)", [X]),
        ("y = LayerNormalization(x, g)", [None, GAIN]),
    ],
)
def test_what_cannot_be_run_says_so(text: str, arrays: list[np.ndarray | None]) -> None:
    with pytest.raises(reference.Unexecutable):
        reference.run(node(text), arrays, 17)


# --- definitions ----------------------------------------------------------------------------------------------------


def test_a_cast_between_floats_does_not_round_and_one_to_integers_does() -> None:
    x = np.asarray([1 / 3, -2.7])
    assert np.array_equal(ran("y = Cast<to = 10>(x)", x)[0], x)
    assert ran("y = Cast<to = 7>(x)", x)[0].tolist() == [0, -2]
    assert ran("y = Cast<to = 1>(x)", np.asarray([3, 4]))[0].dtype == np.float64
    assert np.array_equal(ran("y = CastLike(x, z)", x, np.asarray([1.0], np.float32))[0], x)


@pytest.mark.parametrize(("axis", "shape"), [(-1, (8,)), (1, (3, 8)), (2, (8,))])
def test_a_layer_normalization_is_that_of_onnx(axis: int, shape: tuple[int, ...]) -> None:
    gain, bias = drawn("gain", shape), drawn("bias", shape)
    (found,) = ran(f"y = LayerNormalization<axis = {axis}, epsilon = 0.125>(x, g, b)", X, gain, bias)
    axes = tuple(range(axis % 3, 3))
    variance = X.var(axis=axes, keepdims=True)
    expected = (X - X.mean(axis=axes, keepdims=True)) / np.sqrt(variance + 0.125) * gain + bias
    assert np.abs(found - expected).max() < 1e-14


def deployed(text: str, outputs: str, *arrays: np.ndarray) -> list[np.ndarray]:
    """What onnxruntime makes of a node in float32."""
    names = "xsgbc"[: len(arrays)]
    inputs = ", ".join(
        f"float[{','.join(map(str, array.shape))}] {name}" for name, array in zip(names, arrays, strict=True)
    )
    header = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(f"{header} main ({inputs}) => ({outputs}) {{ {text} }}")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: array.astype(np.float32) for name, array in zip(names, arrays, strict=True)})


EPSILON = "<epsilon = 0.125>"
SKIP = drawn("skip", (2, 3, 8))


@pytest.mark.parametrize(
    ("text", "arrays"),
    [
        (f"y = SimplifiedLayerNormalization{EPSILON}(x, s)", [X, GAIN]),
        (f"y = LayerNormalization{EPSILON}(x, s, g)", [X, GAIN, BIAS]),
        (
            f'y, "", "", t = com.microsoft.SkipLayerNormalization{EPSILON}(x, s, g, b, c)',
            [X, SKIP, GAIN, BIAS, drawn("c", (8,))],
        ),
        (f'y, "", "", t = com.microsoft.SkipLayerNormalization{EPSILON}(x, s, g)', [X, SKIP, GAIN]),
        (f'y, "", "", t = com.microsoft.SkipSimplifiedLayerNormalization{EPSILON}(x, s, g, b)', [X, SKIP, GAIN, BIAS]),
    ],
)
def test_a_norm_of_onnxruntime_is_that_of_onnxruntime(text: str, arrays: list[np.ndarray]) -> None:
    has_sum = ", t = " in text
    found = ran(text, *arrays)
    expected = deployed(text, "float[2,3,8] y" + (", float[2,3,8] t" if has_sum else ""), *arrays)
    assert np.abs(found[0] - expected[0]).max() < 1e-5
    if has_sum:
        assert np.abs(found[3] - expected[1]).max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "mean"), [("LayerNorm", X.mean(axis=-1, keepdims=True)), ("RMSNorm", np.zeros((2, 3, 1)))]
)
def test_a_norm_on_its_way_to_a_spelling_is_its_formula(kind: str, mean: np.ndarray) -> None:
    (found,) = ran(f"y = normswap.{kind}(x, a, e, g, b)", X, np.asarray([-1]), np.asarray(0.125), GAIN, BIAS)
    expected = (X - mean) / np.sqrt(((X - mean) ** 2).mean(axis=-1, keepdims=True) + 0.125) * GAIN + BIAS
    assert np.abs(found - expected).max() < 1e-14


def test_the_two_parts_of_a_norm_are_their_definitions() -> None:
    assert np.abs(reference.center(X, (2,)).mean(axis=2)).max() < 1e-15
    y = reference.root_mean_square(X, (1, 2), 0.5)
    assert np.abs(y * np.sqrt((X**2).mean(axis=(1, 2), keepdims=True) + 0.5) - X).max() < 1e-14
