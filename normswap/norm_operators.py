"""Norm operators of onnx in float64: all are Affine ∘ RMS(ε) ∘ Center over their own groups.

onnx's reference operators lack some, and before opset 14 take BatchNormalization for one in training. Those that only
onnxruntime has are in `contrib_operators`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from normswap.arrays import Array, Floats, Unexecutable, attribute, attribute_float, floats

EPSILON = 1e-5  # what norm operators take where none is written ...
BUNDLE_EPSILON = 1e-12  # ... and those of onnxruntime's that add or embed before they normalize
MEAN_VARIANCE_AXES, MEAN_VARIANCE_EPSILON = (0, 2, 3), 1e-9  # ε outside the root: part of the operator's definition
CHANNELS_ON_AXIS_1 = frozenset({"GroupNormalization", "InstanceNormalization"})


def center(x: Floats, axes: tuple[int, ...]) -> Floats:
    """Center: x minus its mean over `axes`."""
    result: Floats = x - x.mean(axis=axes, keepdims=True)
    return result


def root_mean_square(x: Floats, axes: tuple[int, ...], epsilon: float) -> Floats:
    """RMS(ε): x / √(mean of x² over `axes` + ε)."""
    result: Floats = x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + epsilon)
    return result


def unit(x: Floats, axis: int, order: int) -> Floats:
    """x over its norm of this order along `axis`; where that is 0, as it is."""
    length = np.linalg.norm(x, ord=order, axis=axis, keepdims=True)
    result: Floats = x / np.where(length == 0, 1.0, length)
    return result


def _epsilon(node: ir.Node) -> float:
    return attribute_float(node, "epsilon", EPSILON)


def affine(y: Floats, gain: Array | None, bias: Array | None) -> Floats:
    """gain · y + bias, each where it is given."""
    y = y if gain is None else y * floats(gain)
    return y if bias is None else y + floats(bias)


# --- over the last axes ---------------------------------------------------------------------------------------------


def _over_last_axes(node: ir.Node, arrays: Sequence[Array | None], *, centered: bool) -> list[Array]:
    """The norm, and what the node asks for besides: the mean, where there is one, and 1 / √(mean of squares + ε)."""
    x = floats(arrays[0])
    axes = tuple(range(attribute(node, "axis", -1) % x.ndim, x.ndim))
    mean = [x.mean(axis=axes, keepdims=True)] if centered else []
    scaled = center(x, axes) if centered else x
    inverse = 1.0 / np.sqrt((scaled * scaled).mean(axis=axes, keepdims=True) + _epsilon(node))
    return [affine(scaled * inverse, *[*arrays, None, None][1:3]), *mean, inverse][: len(node.outputs)]


def layer_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """LayerNormalization."""
    return _over_last_axes(node, arrays, centered=True)


def rms_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """RMSNormalization, and onnxruntime's SimplifiedLayerNormalization."""
    return _over_last_axes(node, arrays, centered=False)


def _canonical(node: ir.Node, arrays: Sequence[Array | None], *, centered: bool) -> list[Array]:
    """Norms on their way to a spelling: x, axes, epsilon, gain, bias are all inputs."""
    x, axes, epsilon, gain, bias = [*arrays, None, None][:5]
    values, numbers = floats(x), tuple(int(axis) for axis in floats(axes))
    y = root_mean_square(center(values, numbers) if centered else values, numbers, float(floats(epsilon).item()))
    return [affine(y, gain, bias)]


def canonical_layer_norm(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """normswap.LayerNorm."""
    return _canonical(node, arrays, centered=True)


def canonical_rms_norm(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """normswap.RMSNorm."""
    return _canonical(node, arrays, centered=False)


def canonical_instance_norm(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """normswap.InstanceNorm: x, epsilon, gain, bias."""
    x, space = floats(arrays[0]), tuple(range(2, floats(arrays[0]).ndim))
    y = root_mean_square(center(x, space), space, float(floats(arrays[1]).item()))
    return [affine(y, arrays[2], arrays[3])]


# --- per channel ----------------------------------------------------------------------------------------------------


def per_channel(parameter: Floats, rank: int) -> Floats:
    """A parameter with one number per channel, as it broadcasts against values of `rank`, whose axis 1 is channels."""
    return parameter.reshape(-1, *[1] * (rank - 2))


def in_training(node: ir.Node, opset: int) -> bool:
    """Whether a BatchNormalization takes the statistics of its batch: each opset has its own way to say so."""
    if opset < 7:
        return not attribute(node, "is_test", 0)
    if opset < 14:
        return sum(bool(output.name) for output in node.outputs) > 1
    return bool(attribute(node, "training_mode", 0))


def batch_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """BatchNormalization from opset 7 on: with given statistics, or in training with those of the batch."""
    x, gain, bias, mean, variance = (floats(array) for array in arrays[:5])
    if x.ndim > 1 and attribute(node, "spatial", 1):  # opsets 7 and 8 know statistics per element, too
        gain, bias, mean, variance = (per_channel(parameter, x.ndim) for parameter in (gain, bias, mean, variance))
    if not attribute(node, "training_mode", 0):
        if sum(bool(output.name) for output in node.outputs) > 1:
            raise Unexecutable("in training mode, or with outputs that it has not")
        return [(x - mean) / np.sqrt(variance + _epsilon(node)) * gain + bias]
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    momentum = attribute_float(node, "momentum", 0.9)
    batch = (x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True))
    y = root_mean_square(center(x, axes), axes, _epsilon(node)) * gain + bias
    running = [
        old.reshape(-1) * momentum + new.reshape(-1) * (1.0 - momentum)
        for old, new in zip((mean, variance), batch, strict=True)
    ]
    return [y, *running]


def instance_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """InstanceNormalization."""
    return [grouped(node, arrays, floats(arrays[0]).shape[1])]


def group_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """GroupNormalization; opset 18 has one gain per group, opset 21 one per channel."""
    return [grouped(node, arrays, attribute(node, "num_groups", 1))]


def grouped(node: ir.Node, arrays: Sequence[Array | None], groups: int) -> Floats:
    """Affine ∘ RMS ∘ Center of each group of channels, which are on axis 1, and space."""
    x = floats(arrays[0])
    runs = x.reshape(x.shape[0], groups, -1)
    y = root_mean_square(center(runs, (2,)), (2,), _epsilon(node)).reshape(x.shape)
    gain, bias = (np.repeat(p, x.shape[1] // p.size) for p in (floats(arrays[1]), floats(arrays[2])))
    result: Floats = y * per_channel(gain, x.ndim) + per_channel(bias, x.ndim)
    return result


# --- without parameters ---------------------------------------------------------------------------------------------


def mean_variance_axes(node: ir.Node, rank: int) -> tuple[int, ...]:
    """The axes of a MeanVarianceNormalization; before opset 9 onnxruntime's says only whether they cross channels."""
    written = node.attributes.get("axes")
    everything = tuple(range(rank))
    if written is not None:
        return tuple(written.as_ints()) or everything
    return everything if attribute(node, "across_channels", 0) else MEAN_VARIANCE_AXES


def mean_variance_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """MeanVarianceNormalization: ε stands outside the root. onnxruntime's has none, so that constants give NaN."""
    x = floats(arrays[0])
    axes = mean_variance_axes(node, x.ndim)
    y = center(x, axes)
    if not attribute(node, "normalize_variance", 1):
        return [y]
    return [y / (np.sqrt((y * y).mean(axis=axes, keepdims=True)) + float(np.float32(MEAN_VARIANCE_EPSILON)))]


def lp_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """LpNormalization; onnx's own takes a sum without absolute values for p = 1, and raises float32 to a power."""
    return [unit(floats(arrays[0]), attribute(node, "axis", -1), attribute(node, "p", 2))]


def normalizer(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """Normalizer (ai.onnx.ml) of rows by their length; by the largest element, onnx and onnxruntime differ."""
    written = node.attributes.get("norm")
    orders = {"L1": 1, "L2": 2}
    if written is None or written.as_string() not in orders:
        raise Unexecutable("a Normalizer by something else than a length")
    return [unit(floats(arrays[0]), -1, orders[written.as_string()])]
