"""The definitions of norm operators in float64, against onnx's own evaluator and against onnxruntime's CPU kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from normswap import reference
from tests.graphs import drawn

Array = np.ndarray
KINDS = {"f": "float", "i": "int32"}
SHAPES = [(3, 4), (2, 3, 4), (2, 4, 3, 5), (2, 4, 3, 2, 3)]
EPSILONS = [1e-12, 1e-5, 0.125, 1e4]
# What float32 leaves of numbers around 1.
CLOSE = 2e-5


def written(text: str, arrays: Sequence[Array], opset: int, outputs: int = 1) -> onnx.ModelProto:
    """A model of one node that reads a, b, c ... and makes y0, y1 ..."""
    names = [chr(ord("a") + index) for index in range(len(arrays))]
    kinds = [KINDS[array.dtype.kind] for array in arrays]
    inputs = ", ".join(
        f"{kind}[{','.join(map(str, array.shape))}] {name}"
        for kind, name, array in zip(kinds, names, arrays, strict=True)
    )
    delivered = ", ".join(f"float y{index}" for index in range(outputs))
    header = f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1, "ai.onnx.ml": 2]>'
    model = onnx.parser.parse_model(f"{header} main ({inputs}) => ({delivered}) {{ {text} }}")
    for value in model.graph.output:
        value.ClearField("type")
    return model


def defined(text: str, *arrays: Array, opset: int = 17, outputs: int = 1) -> list[Array]:
    node = ir.from_proto(written(text, arrays, opset, outputs)).graph[0]
    given = {chr(ord("a") + index): array for index, array in enumerate(arrays)}
    read = [None if value is None else given[str(value.name)] for value in node.inputs]
    results = zip(node.outputs, reference.run(node, read, opset), strict=False)
    return [np.asarray(result) for value, result in results if value.name]


def evaluated(text: str, x: Array, opset: int) -> Array:
    """What onnx's evaluator makes of the node in float32."""
    with np.errstate(all="ignore"):
        return np.asarray(ReferenceEvaluator(written(text, [x], opset)).run(["y0"], {"a": x})[0])


def deployed(text: str, *arrays: Array, opset: int = 17, outputs: int = 1) -> list[Array]:
    """What onnxruntime makes of the node in float32."""
    model = written(text, arrays, opset, outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {
        chr(ord("a") + i): array.astype("f") if array.dtype.kind == "f" else array for i, array in enumerate(arrays)
    }
    return [np.asarray(result) for result in session.run(None, given)]


def agree(text: str, *arrays: Array, opset: int = 17, outputs: int = 1) -> None:
    """The definition and onnxruntime give the same, on the same float32 input."""
    given = [array.astype("f") if array.dtype.kind == "f" else array for array in arrays]
    ours = defined(text, *given, opset=opset, outputs=outputs)
    theirs = deployed(text, *given, opset=opset, outputs=outputs)
    assert len(ours) == len(theirs) == outputs
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= CLOSE * max(1.0, np.abs(other).max())


def sample(shape: Sequence[int], scale: float = 1.0) -> Array:
    return drawn("x", shape, scale).astype(np.float32)


# --- MeanVarianceNormalization ----------------------------------------------------------------------------------------

AXES = [(4, "[0, 2, 3]"), (4, "[1]"), (4, "[-1, 1]"), (2, "[0]"), (3, "[2, 1]"), (5, "[0, -1]"), (4, "[0, 1, 2, 3]")]


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize(("rank", "axes"), AXES)
def test_a_mean_variance_normalization_is_that_of_onnx_and_of_onnxruntime(rank: int, axes: str, opset: int) -> None:
    x = sample(SHAPES[rank - 2])
    text = f"y0 = MeanVarianceNormalization <axes = {axes}> (a)"
    assert np.abs(defined(text, x, opset=opset)[0] - evaluated(text, x, opset)).max() < CLOSE
    agree(text, x, opset=opset)


def test_its_epsilon_stands_outside_the_root() -> None:
    """Of a deviation of 1e-9, half is left; onnxruntime has no epsilon, and gives NaN where all is the same."""
    x = 1e-9 * np.asarray([[[[1.0, -1.0]]]])
    assert np.abs(defined("y0 = MeanVarianceNormalization (a)", x, opset=13)[0] - [0.5, -0.5]).max() < 1e-7
    alike = np.ones((1, 2, 2, 2), np.float32)
    assert not defined("y0 = MeanVarianceNormalization (a)", alike, opset=13)[0].any()
    assert not evaluated("y0 = MeanVarianceNormalization (a)", alike, 13).any()
    assert np.isnan(deployed("y0 = MeanVarianceNormalization (a)", alike, opset=13)[0]).all()


def test_no_axes_are_all_axes() -> None:
    x = sample((2, 3, 4))
    node = ir.Node("", "MeanVarianceNormalization", [ir.Value(name="a")], [ir.AttrInt64s("axes", [])])
    (found,) = reference.run(node, [x], 13)
    (expected,) = defined("y0 = MeanVarianceNormalization <axes = [0, 1, 2]> (a)", x, opset=13)
    assert np.abs(found - expected).max() == 0


@pytest.mark.parametrize("attributes", ["", "<across_channels = 1>", "<normalize_variance = 0>"])
def test_that_of_onnxruntime_before_opset_9(attributes: str) -> None:
    agree(f"y0 = MeanVarianceNormalization {attributes} (a)", sample((2, 4, 3, 5)), opset=8)


def test_default_axes_that_are_not_there_are_not_executable() -> None:
    with pytest.raises(reference.Unexecutable):
        defined("y0 = MeanVarianceNormalization (a)", sample((2, 3)), opset=13)


# --- lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("opset", [17, 22])
def test_a_vector_over_its_length_and_zeros_stay(shape: tuple[int, ...], axis: int, p: int, opset: int) -> None:
    x = sample(shape)
    x[(0,) * (len(shape) - 1)] = 0
    x[(slice(None),) * (axis % len(shape)) + (slice(None),)].T[-1] = 0
    text = f"y0 = LpNormalization <axis = {axis}, p = {p}> (a)"
    assert np.isfinite(defined(text, x, opset=opset)[0]).all()
    agree(text, x, opset=opset)
    if p == 2:
        assert np.abs(defined(text, x, opset=opset)[0] - evaluated(text, x, opset)).max() < CLOSE


@pytest.mark.parametrize("order", ["L1", "L2"])
@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_a_normalizer(order: str, shape: tuple[int, ...]) -> None:
    x = sample(shape)
    agree(f'y0 = ai.onnx.ml.Normalizer <norm = "{order}"> (a)', x)
    agree(f'y0 = ai.onnx.ml.Normalizer <norm = "{order}"> (a)', np.zeros_like(x))


def test_a_normalizer_by_the_largest_is_not_run() -> None:
    with pytest.raises(reference.Unexecutable, match="something else"):
        defined("y0 = ai.onnx.ml.Normalizer (a)", sample((3, 4)))


# --- over the last axes, channels and groups --------------------------------------------------------------------------

LAST = {
    "LayerNormalization": ("y0, y1, y2 = LayerNormalization <epsilon = {}, axis = {}> (a, b, c)", 3, 17, 2),
    "LayerNormalization before its opset": (
        "y0, y1, y2 = LayerNormalization <epsilon = {}, axis = {}> (a, b, c)",
        3,
        9,
        2,
    ),
    "SimplifiedLayerNormalization": (
        "y0, y1 = SimplifiedLayerNormalization <epsilon = {}, axis = {}> (a, b)",
        2,
        17,
        1,
    ),
    "RMSNormalization": ("y0 = RMSNormalization <epsilon = {}, axis = {}> (a, b)", 1, 23, 1),
}


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize(("text", "outputs", "opset", "parameters"), LAST.values(), ids=LAST)
def test_a_norm_over_the_last_axes_and_its_statistics(
    text: str, outputs: int, opset: int, parameters: int, epsilon: float
) -> None:
    for shape in SHAPES:
        for axis in (-1, 1 - len(shape)):
            weights = [drawn(name, shape[axis:]) for name in ("gain", "bias")[:parameters]]
            agree(text.format(epsilon, axis), sample(shape), *weights, opset=opset, outputs=outputs)


def test_a_row_of_zeros_stays_zero_but_for_the_bias() -> None:
    zeros, gain, bias = np.zeros((1, 2, 6)), drawn("gain", (6,)), drawn("bias", (6,))
    for text, opset in (
        ("y0 = LayerNormalization (a, b, c)", 17),
        ("y0 = com.microsoft.SkipLayerNormalization (a, a, b, c)", 17),
    ):
        assert np.array_equal(defined(text, zeros, gain, bias, opset=opset)[0], np.broadcast_to(bias, (1, 2, 6)))
    for text, opset in (
        ("y0 = RMSNormalization (a, b)", 23),
        ("y0 = com.microsoft.SkipSimplifiedLayerNormalization (a, a, b)", 17),
    ):
        assert not defined(text, zeros, gain, opset=opset)[0].any()


CHANNELED = {
    "InstanceNormalization 6": ("y0 = InstanceNormalization <epsilon = {}> (a, b, c)", 6, 4, SHAPES[2:]),
    "InstanceNormalization 22": ("y0 = InstanceNormalization <epsilon = {}> (a, b, c)", 22, 4, SHAPES[2:]),
    "GroupNormalization 18": ("y0 = GroupNormalization <epsilon = {}, num_groups = 2> (a, b, c)", 18, 2, SHAPES[2:]),
    "GroupNormalization 21": ("y0 = GroupNormalization <epsilon = {}, num_groups = 2> (a, b, c)", 21, 4, SHAPES[2:]),
    "GroupNormalization of a matrix": (
        "y0 = GroupNormalization <epsilon = {}, num_groups = 2> (a, b, c)", 21,
        12,
        [(3, 12)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize(("text", "opset", "size", "shapes"), CHANNELED.values(), ids=CHANNELED)
def test_a_norm_of_channels(text: str, opset: int, size: int, shapes: list[tuple[int, ...]], epsilon: float) -> None:
    for shape in shapes:
        weights = drawn("gain", (size,)), drawn("bias", (size,))
        agree(text.format(epsilon), sample(shape), *weights, opset=opset)


# --- onnxruntime's own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attributes", ["", "<epsilon = 1e-5>", "<epsilon = 0.125>"])
@pytest.mark.parametrize("skip", [(2, 3, 6), (1, 3, 6), (3, 6)])
def test_a_skip_operator_normalizes_a_sum(attributes: str, skip: tuple[int, ...]) -> None:
    """With small inputs, so that its own default of epsilon shows."""
    x, s, gain, bias, more = (
        drawn(name, shape) for name, shape in zip("xsgbm", [(2, 3, 6), skip, (6,), (6,), (6,)], strict=True)
    )
    small = [1e-3 * array for array in (x, s)]
    name = f"com.microsoft.SkipLayerNormalization {attributes}"
    agree(f"y0, y1, y2, y3 = {name} (a, b, c, d, e)", *small, gain, bias, 1e-3 * more, outputs=4)
    agree(f"y0 = {name} (a, b, c)", *small, gain)
    if skip == (2, 3, 6):
        name = f"com.microsoft.SkipSimplifiedLayerNormalization {attributes}"
        agree(f'y0, "", "", y1 = {name} (a, b, c, d)', *small, gain, 1e-3 * more, outputs=2)


IDS = np.asarray([[1, 8, 0, 3], [2, 2, 5, 7]], np.int32)
SEGMENTS = np.asarray([[0, 0, 1, 1], [4, 3, 2, 1]], np.int32)
MASKS = [[[1, 1, 0, 0], [1, 1, 1, 1]], [[0, 0, 0, 0], [1, 0, 1, 2]], [[-1, 3, 1, 0], [0, 1, 1, 1]]]
TABLES = [drawn(name, (size, 6)) for name, size in (("words", 9), ("places", 7), ("segments", 5))]
AFFINE = [drawn("gain", (6,)), drawn("bias", (6,))]
EMBED = "com.microsoft.EmbedLayerNormalization"


@pytest.mark.parametrize("mask", MASKS)
def test_an_embedding_sums_rows_and_counts_the_ones_of_a_mask(mask: list[list[int]]) -> None:
    given = [IDS, SEGMENTS, *TABLES, *AFFINE, np.asarray(mask, np.int32)]
    agree(f"y0, y1, y2 = {EMBED} <epsilon = 0.125> (a, b, c, d, e, f, g, h)", *given, outputs=3)


def test_an_embedding_with_and_without_what_may_be_left_out() -> None:
    small = [1e-3 * table for table in TABLES]  # so that its own default of epsilon shows
    agree(f"y0, y1 = {EMBED} (a, b, c, d, e, f, g)", IDS, SEGMENTS, *small, *AFFINE, outputs=2)
    agree(f'y0, "", y1 = {EMBED} (a, "", b, c, "", d, e)', IDS, *small[:2], *AFFINE, outputs=2)
    agree(f'y0, y1 = {EMBED} (a, "", b, c, d, e, f)', IDS, *small, *AFFINE, outputs=2)
    for positions in (SEGMENTS, SEGMENTS[:1]):
        given = [IDS, SEGMENTS, *TABLES, *AFFINE, positions]
        agree(f'y0, y1 = {EMBED} (a, b, c, d, e, f, g, "", h)', *given, outputs=2)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("activation", ["silu", "swish", "sigmoid"])
@pytest.mark.parametrize("run", [4, 12])
def test_a_root_mean_square_behind_a_gate(epsilon: float, activation: str, run: int) -> None:
    options = f'<epsilon = {epsilon}, activation = "{activation}">'
    given = sample((2, 3, 12)), drawn("gain", (run,)), drawn("gate", (2, 3, 12))
    agree(f"y0 = com.microsoft.GatedRMSNorm {options} (a, b, c)", *given)


def test_a_gate_is_a_silu_by_default() -> None:
    agree("y0 = com.microsoft.GatedRMSNorm (a, b, c)", sample((2, 12)), drawn("gain", (4,)), drawn("gate", (2, 12)))
    with pytest.raises(reference.Unexecutable, match="no activation tanh"):
        defined('y0 = com.microsoft.GatedRMSNorm <activation = "tanh"> (a, a, a)', sample((2,)))


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_a_root_mean_square_of_each_branch(epsilon: float) -> None:
    name = f"com.microsoft.BranchwiseRMSNorm <epsilon = {epsilon}"
    x, cut = sample((2, 3, 12)), sample((2, 3, 3, 4))
    for shape in ((12,), (3, 4), (4,)):
        agree(f"y0 = {name}, num_branches = 3> (a, b)", x, drawn("gain", shape))
        agree(f"y0 = {name}> (a, b)", cut, drawn("gain", shape))
    agree(f"y0 = {name}> (a)", cut)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("activation", [0, 1])
def test_a_group_norm_is_that_of_onnx_in_its_own_layout_with_an_activation(
    epsilon: float, last: int, activation: int
) -> None:
    """onnxruntime has no CPU kernel for it, but for that of onnx."""
    x, gain, bias = sample((2, 4, 3, 5)), drawn("gain", (4,)), drawn("bias", (4,))
    expected = deployed(
        f"y0 = GroupNormalization <epsilon = {epsilon}, num_groups = 2> (a, b, c)", x, gain, bias, opset=21
    )[0]
    expected = expected / (1 + np.exp(-expected)) if activation else expected
    options = f"<epsilon = {epsilon}, groups = 2, channels_last = {last}, activation = {activation}>"
    given = np.moveaxis(x, 1, -1) if last else x
    (found,) = defined(f"y0 = com.microsoft.GroupNorm {options} (a, b, c)", given, gain, bias)
    assert np.abs((np.moveaxis(found, -1, 1) if last else found) - expected).max() < CLOSE


@pytest.mark.parametrize("skip", [(2, 3, 5, 4), (2, 1, 1, 4), (2, 4)])
def test_a_skip_group_norm_adds_first(skip: tuple[int, ...]) -> None:
    x, s, gain, bias, more = (
        drawn(name, shape) for name, shape in zip("xsgbm", [(2, 3, 5, 4), skip, (4,), (4,), (4,)], strict=True)
    )
    options = "<epsilon = 0.125, groups = 2, activation = 1>"
    found, total = defined(
        f"y0, y1 = com.microsoft.SkipGroupNorm {options} (a, b, c, d, e)", x, gain, bias, s, more, outputs=2
    )
    expected = x + (s.reshape(2, 1, 1, 4) if s.ndim == 2 else s) + more
    assert np.abs(total - expected).max() == 0
    (alone,) = defined(f"y0 = com.microsoft.GroupNorm {options} (a, b, c)", expected, gain, bias)
    assert np.abs(found - alone).max() == 0


def test_an_activation_that_is_not_defined_is_not_run() -> None:
    with pytest.raises(reference.Unexecutable, match="no activation 7"):
        defined(
            "y0 = com.microsoft.GroupNorm <groups = 2, activation = 7> (a, b, c)",
            sample((2, 3, 5, 4)),
            *[np.ones(4)] * 2,
        )
