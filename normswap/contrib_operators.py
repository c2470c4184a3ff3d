"""Norm operators of onnxruntime's own (com.microsoft), in float64, as its operator schemas define them.

Several do more than one thing: they add or embed before they normalize, or apply an activation after it. onnxruntime
runs all but the GroupNorms on a CPU, and the definitions are tested against that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from normswap.arrays import Array, Floats, Unexecutable, attribute, attribute_float, floats, given
from normswap.norm_operators import BUNDLE_EPSILON, EPSILON, affine, center, grouped, root_mean_square

SILU = 1  # the value of `activation` in a GroupNorm
GATES = {"silu": True, "swish": True, "sigmoid": False}  # those of a GatedRMSNorm, and whether they end in a product


def _normalized(total: Floats, node: ir.Node, gain: Array | None, bias: Array | None, *, centered: bool) -> list[Array]:
    """The norm over the last axis, and its statistics: the mean, and 1 / √(mean of squares + ε)."""
    axes = (total.ndim - 1,)
    y = center(total, axes) if centered else total
    inverse = 1.0 / np.sqrt((y * y).mean(axis=axes, keepdims=True) + attribute_float(node, "epsilon", BUNDLE_EPSILON))
    return [affine(y * inverse, gain, bias), total.mean(axis=axes, keepdims=True), inverse]


def _skip(node: ir.Node, arrays: Sequence[Array | None], *, centered: bool) -> list[Array]:
    """Skip operators: the norm of input + skip + bias; output 3 is that sum."""
    padded = [*arrays, None, None, None]
    total = floats(padded[0]) + floats(padded[1])
    beta, bias = (padded[3], padded[4]) if centered else (None, padded[3])
    total = affine(total, None, bias)
    return [*_normalized(total, node, padded[2], beta, centered=centered), total]


def skip_layer_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """SkipLayerNormalization."""
    return _skip(node, arrays, centered=True)


def skip_rms_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """SkipSimplifiedLayerNormalization."""
    return _skip(node, arrays, centered=False)


def embed_layer_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """EmbedLayerNormalization: the norm of word + position + segment rows; then how many ones a mask has, and that sum.

    Without position ids, positions are counted; without segment ids, all are in segment 0.
    """
    ids, segments, words, places, segment_rows, gain, bias, mask, positions = [*arrays, None, None][:9]
    numbers = given(ids).astype(np.int64)
    counted = np.arange(numbers.shape[1])[None]
    total = floats(words)[numbers] + floats(places)[counted if positions is None else positions.astype(np.int64)]
    if segment_rows is not None:
        total = total + floats(segment_rows)[np.zeros((1, 1), np.int64) if segments is None else segments]
    ones = np.zeros(len(numbers), np.int32) if mask is None else (mask == 1).sum(axis=1).astype(np.int32)
    return [_normalized(total, node, gain, bias, centered=True)[0], ones, total]


def _group_norm(node: ir.Node, x: Floats, arrays: Sequence[Array | None]) -> Floats:
    """A GroupNorm of channels last or second, and the activation behind it."""
    last = attribute(node, "channels_last", 1) != 0
    moved = np.moveaxis(x, -1, 1) if last else x
    y = grouped(node, [moved, *arrays], attribute(node, "groups", 0))
    activation = attribute(node, "activation", 0)
    if activation not in (0, SILU):
        raise Unexecutable(f"no activation {activation}")
    if activation == SILU:
        y = y / (1.0 + np.exp(-y))
    result: Floats = np.moveaxis(y, 1, -1) if last else y
    return result


def group_norm(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """GroupNorm."""
    return [_group_norm(node, floats(arrays[0]), arrays[1:3])]


def skip_group_norm(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """SkipGroupNorm: the GroupNorm of x + skip + bias, and that sum; a skip of rank 2 is the same everywhere."""
    x, gain, beta, skip, bias = [*arrays, None][:5]
    added = floats(skip)
    total = affine(floats(x) + (added[:, None, None] if added.ndim == 2 else added), None, bias)
    return [_group_norm(node, total, [gain, beta]), total]


def gated_rms_norm(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """GatedRMSNorm: of each run of the last axis as long as the gain, times the activation of a gate."""
    x, gain, gate = (floats(array) for array in arrays)
    runs = x.reshape(*x.shape[:-1], -1, gain.size)
    y = root_mean_square(runs, (runs.ndim - 1,), attribute_float(node, "epsilon", EPSILON)) * gain
    written = node.attributes.get("activation")
    word = "silu" if written is None else written.as_string()
    if word not in GATES:
        raise Unexecutable(f"no activation {word}")
    opened = 1.0 / (1.0 + np.exp(-gate))
    return [y.reshape(x.shape) * (opened * gate if GATES[word] else opened)]


def branchwise_rms_norm(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """BranchwiseRMSNorm: of the last axis, or of each of `num_branches` runs of it."""
    x, gain = floats(arrays[0]), arrays[1] if len(arrays) > 1 else None
    branches = attribute(node, "num_branches", 0)
    runs = x.reshape(*x.shape[:-1], branches, -1) if branches else x
    y = root_mean_square(runs, (runs.ndim - 1,), attribute_float(node, "epsilon", EPSILON))
    if gain is not None:
        y = y * (floats(gain) if gain.size == runs.shape[-1] else floats(gain).reshape(runs.shape[-2:]))
    return [y.reshape(x.shape)]
