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


def test_an_instance_norm_on_its_way_to_a_spelling_is_its_formula() -> None:
    x = X[None]
    gain, bias = (np.arange(1.0, 1.0 + x.shape[1]).reshape(-1, 1, 1) * sign for sign in (1, -1))
    (found,) = ran("y = normswap.InstanceNorm(x, e, g, b)", x, np.asarray(0.125), gain, bias)
    centered = x - x.mean(axis=(2, 3), keepdims=True)
    expected = centered / np.sqrt((centered**2).mean(axis=(2, 3), keepdims=True) + 0.125) * gain + bias
    assert np.abs(found - expected).max() < 1e-14


def test_the_two_parts_of_a_norm_are_their_definitions() -> None:
    assert np.abs(reference.center(X, (2,)).mean(axis=2)).max() < 1e-15
    y = reference.root_mean_square(X, (1, 2), 0.5)
    assert np.abs(y * np.sqrt((X**2).mean(axis=(1, 2), keepdims=True) + 0.5) - X).max() < 1e-14


TRANSPOSED = [
    ("strides = [2]", (2, 4, 5), (4, 3, 3)),
    ("group = 2, strides = [2], pads = [1, 0], dilations = [2], output_padding = [1]", (2, 4, 5), (4, 3, 3)),
    ("group = 4", (2, 4, 5), (4, 1, 3)),
    ("group = 2, strides = [3, 1], pads = [0, 1, 1, 0]", (2, 4, 3, 5), (4, 2, 2, 3)),
    ("strides = [1, 2, 2], dilations = [1, 1, 3]", (2, 2, 3, 2, 4), (2, 3, 2, 1, 2)),
    ('auto_pad = "SAME_UPPER", strides = [2, 2]', (2, 4, 3, 5), (4, 2, 3, 5)),
    ('auto_pad = "SAME_LOWER", strides = [2, 2]', (2, 4, 3, 5), (4, 2, 3, 5)),
    ('auto_pad = "VALID", strides = [2, 2]', (2, 4, 3, 5), (4, 2, 3, 5)),
    ("group = 2, strides = [2], output_shape = [8]", (2, 4, 5), (4, 3, 3)),
    ('auto_pad = "SAME_UPPER", strides = [2], output_shape = [8]', (2, 4, 5), (4, 3, 3)),
]


@pytest.mark.parametrize(("attributes", "shape", "kernel"), TRANSPOSED)
@pytest.mark.parametrize("biased", [True, False])
def test_a_transposed_convolution_is_that_of_onnxruntime(
    attributes: str, shape: tuple[int, ...], kernel: tuple[int, ...], biased: bool
) -> None:
    groups = int(attributes[8]) if attributes.startswith("group") else 1
    arrays = [drawn("image", shape), drawn("kernel", kernel), drawn("bias", (groups * kernel[1],))][: 2 + biased]
    text = f"y = ConvTranspose<{attributes}>({'x, s, g' if biased else 'x, s'})"
    (found,) = ran(text, *arrays)
    (expected,) = deployed(text, f"float[{','.join('KLMNO'[: len(shape)])}] y", *arrays)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


CHANNELS = [drawn(name, (4,)) for name in ("gain", "bias", "mean")]
VARIANCE = np.asarray([0.5, 2.0, 0.0, 1.25])
IMAGE = drawn("image", (2, 4, 3, 5))


def along_channels(array: np.ndarray) -> np.ndarray:
    return array.reshape(4, 1, 1)


@pytest.mark.parametrize(("opset", "more"), [(6, ", is_test = 1"), (7, ""), (9, ""), (13, ""), (14, ""), (15, "")])
def test_a_batch_normalization_at_inference_has_its_statistics_from_its_inputs(opset: int, more: str) -> None:
    text = f"y = BatchNormalization{EPSILON[:-1]}{more}>(x, g, b, m, v)"
    (found,) = ran(text, IMAGE, *CHANNELS, VARIANCE, opset=opset)
    gain, bias, mean = (along_channels(array) for array in CHANNELS)
    expected = (IMAGE - mean) / np.sqrt(along_channels(VARIANCE) + 0.125) * gain + bias
    assert np.abs(found - expected).max() < 1e-14


def test_a_batch_normalization_of_a_matrix_or_with_statistics_per_element() -> None:
    x = IMAGE[:, :, 0, 0]
    (found,) = ran(f"y = BatchNormalization{EPSILON}(x, g, b, m, v)", x, *CHANNELS, VARIANCE)
    gain, bias, mean = CHANNELS
    assert np.abs(found - ((x - mean) / np.sqrt(VARIANCE + 0.125) * gain + bias)).max() < 1e-14
    per_element = [drawn(name, (4, 3, 5)) for name in ("gain", "bias", "mean")]
    variance = drawn("variance", (4, 3, 5)) ** 2
    text = f"y = BatchNormalization{EPSILON[:-1]}, spatial = 0>(x, g, b, m, v)"
    (found,) = ran(text, IMAGE, *per_element, variance, opset=7)
    gain, bias, mean = per_element
    assert np.abs(found - ((IMAGE - mean) / np.sqrt(variance + 0.125) * gain + bias)).max() < 1e-14


def test_a_batch_normalization_in_training_takes_its_statistics_from_the_batch() -> None:
    text = f"y, m1, v1 = BatchNormalization{EPSILON[:-1]}, training_mode = 1, momentum = 0.75>(x, g, b, m, v)"
    y, mean, variance = ran(text, IMAGE, *CHANNELS, VARIANCE)
    batch_mean, batch_variance = IMAGE.mean(axis=(0, 2, 3)), IMAGE.var(axis=(0, 2, 3))
    gain, bias = (along_channels(array) for array in CHANNELS[:2])
    normalized = (IMAGE - along_channels(batch_mean)) / np.sqrt(along_channels(batch_variance) + 0.125)
    assert np.abs(y - (normalized * gain + bias)).max() < 1e-14
    assert np.abs(mean - (0.75 * CHANNELS[2] + 0.25 * batch_mean)).max() < 1e-14
    assert np.abs(variance - (0.75 * VARIANCE + 0.25 * batch_variance)).max() < 1e-14


def test_a_batch_normalization_in_training_before_opset_14_is_not_run() -> None:
    with pytest.raises(reference.Unexecutable, match="in training"):
        ran("y, a, b, c, d = BatchNormalization(x, g, b, m, v)", IMAGE, *CHANNELS, VARIANCE, opset=9)


@pytest.mark.parametrize(("size", "opset"), [(4, 21), (2, 18)])
def test_a_group_normalization_has_a_gain_per_channel_or_per_group(size: int, opset: int) -> None:
    gain, bias = drawn("gain", (size,)), drawn("bias", (size,))
    text = f"y = GroupNormalization{EPSILON[:-1]}, num_groups = 2>(x, g, b)"
    (found,) = ran(text, IMAGE, gain, bias, opset=opset)
    for group, places in enumerate((slice(2), slice(2, 4))):
        x = IMAGE[:, places]
        centered = x - x.mean(axis=(1, 2, 3), keepdims=True)
        y = centered / np.sqrt(x.var(axis=(1, 2, 3), keepdims=True) + 0.125)
        own = places if size == 4 else slice(group, group + 1)
        expected = y * gain[own].reshape(-1, 1, 1) + bias[own].reshape(-1, 1, 1)
        assert np.abs(found[:, places] - expected).max() < 1e-14


def test_an_instance_normalization_is_a_group_normalization_of_single_channels() -> None:
    (found,) = ran(f"y = InstanceNormalization{EPSILON}(x, g, b)", IMAGE, *CHANNELS[:2])
    (expected,) = ran(f"y = GroupNormalization{EPSILON[:-1]}, num_groups = 4>(x, g, b)", IMAGE, *CHANNELS[:2], opset=21)
    assert np.abs(found - expected).max() < 1e-14
    assert np.abs(found.mean(axis=(2, 3)) - CHANNELS[1]).max() < 1e-14


def test_a_norm_gives_out_its_statistics_where_it_is_asked_for_them() -> None:
    y, mean, inverse = ran(f"y, m, i = LayerNormalization{EPSILON}(x, g, b)", X, GAIN, BIAS)
    assert np.abs(mean - X.mean(axis=-1, keepdims=True)).max() < 1e-15
    assert np.abs((X - mean) * inverse * GAIN + BIAS - y).max() < 1e-14
    y, inverse = ran(f"y, i = com.microsoft.SimplifiedLayerNormalization{EPSILON}(x, g)", X, GAIN)
    assert np.abs(X * inverse * GAIN - y).max() < 1e-14


RECURRENT = [drawn("x", (5, 2, 3)), drawn("w", (1, 16, 3)), drawn("r", (1, 16, 4)), drawn("b", (1, 32))]


def test_a_recurrent_layer_stops_at_the_end_of_each_row() -> None:
    lengths = np.asarray([2, 5], np.int32)
    y, last, _ = ran("y, h, c = LSTM<hidden_size = 4>(x, w, r, b, n)", *RECURRENT, lengths)
    full, _, _ = ran("y, h, c = LSTM<hidden_size = 4>(x, w, r, b)", *RECURRENT)
    assert np.abs(y[:2] - full[:2]).max() == 0
    assert np.abs(y[2:, :, 0]).max() == 0
    assert np.abs(last[:, 0] - full[1, :, 0]).max() == 0
    assert np.abs(last[:, 1] - full[4, :, 1]).max() == 0


def test_a_recurrent_layer_uses_its_own_activations() -> None:
    text = 'y, h, c = LSTM<hidden_size = 4, activations = ["Sigmoid", "Softsign", "Relu"]>(x, w, r, b)'
    x, w, r, b = (array[:1] if index == 0 else array for index, array in enumerate(RECURRENT))
    y, _, cell = ran(text, x, w, r, b)
    i, o, _, c = np.split(x[0] @ w[0].T + b[0, :16] + b[0, 16:], 4, axis=1)
    expected = c / (1 + np.abs(c)) / (1 + np.exp(-i))
    assert np.abs(cell[0] - expected).max() < 1e-14
    assert np.abs(y[0, 0] - np.maximum(expected, 0) / (1 + np.exp(-o))).max() < 1e-14
