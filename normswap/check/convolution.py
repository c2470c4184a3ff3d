"""Convolution, its transpose and resizing in float64, as sums of matrix products.

A convolution is one matrix product per kernel position, over the slice of the input that position sees; the
transpose scatters the same products. Resize is linear and separable: the reference operator applied to an identity
matrix is the matrix of one axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from types import EllipsisType

import numpy as np
import onnx_ir as ir

from normswap import reference
from normswap.reference import Array, Floats, Unexecutable, attribute


def _ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    written = node.attributes.get(name)
    return list(default) if written is None else list(written.as_ints())


def _string(node: ir.Node, name: str, default: str) -> str:
    written = node.attributes.get(name)
    return default if written is None else written.as_string()


def _operands(arrays: Sequence[Array | None]) -> tuple[Floats, Floats, Floats | None]:
    x, w = arrays[0], arrays[1]
    if x is None or w is None:
        raise Unexecutable("input or weight is missing")
    bias = arrays[2] if len(arrays) > 2 else None
    return x.astype(np.float64), w.astype(np.float64), None if bias is None else bias.astype(np.float64)


Index = tuple[EllipsisType | slice | int, ...]


def _positions(
    kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], counts: Sequence[int]
) -> Iterator[tuple[Index, Index]]:
    """Each kernel position, with the slices of the padded larger side that it meets: `counts` elements per axis."""
    for position in itertools.product(*map(range, kernel)):
        starts = [p * d for p, d in zip(position, dilations, strict=True)]
        slices = [slice(b, b + (n - 1) * s + 1, s) for b, s, n in zip(starts, strides, counts, strict=True)]
        yield (..., *position), (..., *slices)


def _same_padding(auto: str, total: Sequence[int]) -> tuple[list[int], list[int]]:
    """The padding `total` per axis split in two: the odd one goes to the end under SAME_UPPER, else to the start."""
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


def conv(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> Sequence[Array]:
    """Conv of any rank: x [N, C, ...], w [M, C/group, k...] -> [N, M, ...]."""
    x, w, bias = _operands(arrays)
    kernel, rank = w.shape[2:], x.ndim - 2
    strides, dilations = _ints(node, "strides", [1] * rank), _ints(node, "dilations", [1] * rank)
    pads = _ints(node, "pads", [0] * 2 * rank)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    begin, end = pads[:rank], pads[rank:]
    auto = _string(node, "auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        sizes = zip(x.shape[2:], strides, reach, strict=True)
        begin, end = _same_padding(auto, [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in sizes])
    elif auto == "VALID":
        begin = end = [0] * rank
    x = np.pad(x, [(0, 0), (0, 0), *zip(begin, end, strict=True)])
    counts = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides, strict=True)]

    groups = attribute(node, "group", 1)
    batch, channels, outputs = x.shape[0], w.shape[1], w.shape[0]
    weight = w.reshape(groups, outputs // groups, channels, *kernel)
    y: Floats = np.zeros((batch, groups, outputs // groups, math.prod(counts)))
    for position, window in _positions(kernel, strides, dilations, counts):
        seen = x[window].reshape(batch, groups, channels, -1)
        y += weight[position] @ seen
    result = y.reshape(batch, outputs, *counts)
    return [result if bias is None else result + bias.reshape(-1, *[1] * rank)]


def conv_transpose(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> Sequence[Array]:
    """ConvTranspose of any rank: x [N, C, ...], w [C, M/group, k...] -> [N, M, ...]."""
    x, w, bias = _operands(arrays)
    kernel, rank, counts = w.shape[2:], x.ndim - 2, x.shape[2:]
    strides, dilations = _ints(node, "strides", [1] * rank), _ints(node, "dilations", [1] * rank)
    extra, pads = _ints(node, "output_padding", [0] * rank), _ints(node, "pads", [0] * 2 * rank)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    full = [(n - 1) * s + r + e for n, s, r, e in zip(counts, strides, reach, extra, strict=True)]
    begin, end = pads[:rank], pads[rank:]
    auto, shape = _string(node, "auto_pad", "NOTSET"), _ints(node, "output_shape", [])
    if not shape and auto.startswith("SAME"):
        shape = [n * s for n, s in zip(counts, strides, strict=True)]
    if shape:
        # An output larger than the products reach grows at its end.
        total = [max(0, f - n) for f, n in zip(full, shape[-rank:], strict=True)]
        full = [max(f, n) for f, n in zip(full, shape[-rank:], strict=True)]
        begin, end = _same_padding(auto, total)

    groups = attribute(node, "group", 1)
    batch, channels, outputs = x.shape[0], x.shape[1] // groups, w.shape[1] * groups
    weight = w.reshape(groups, channels, w.shape[1], *kernel).swapaxes(1, 2)
    seen = x.reshape(batch, groups, channels, -1)
    y: Floats = np.zeros((batch, outputs, *full))
    for position, window in _positions(kernel, strides, dilations, counts):
        y[window] += (weight[position] @ seen).reshape(batch, outputs, *counts)
    inside: Index = (..., *(slice(b, f - e) for b, f, e in zip(begin, full, end, strict=True)))
    y = y[inside]
    return [y if bias is None else y + bias.reshape(-1, *[1] * rank)]


def resize(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> Sequence[Array]:
    """Resize, axis by axis, where it is linear and separable; onnx's reference operator otherwise."""
    x = arrays[0]
    if x is None:
        raise Unexecutable("the input is missing")
    if (
        opset < 11
        or "axes" in node.attributes
        or _string(node, "keep_aspect_ratio_policy", "stretch") != "stretch"
        or _string(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    ):
        if opset < 11:
            raise Unexecutable(f"Resize `{node.name}` of opset {opset} has no definition here")
        return reference.run(node, arrays, opset)
    scales = arrays[2] if len(arrays) > 2 else None
    sizes = arrays[3] if len(arrays) > 3 else None
    y = x.astype(np.float64)
    for axis, length in enumerate(x.shape):
        if sizes is not None:
            if sizes[axis] == length:
                continue
            target: list[Array | None] = [None, None, np.array([length, sizes[axis]], np.int64)]
        else:
            if scales is None or scales[axis] == 1:
                continue
            target = [None, np.array([1.0, scales[axis]])]
        matrix = reference.run(node, [np.eye(length), *target], opset)[0].astype(np.float64)  # [length, resized]
        y = np.moveaxis(np.moveaxis(y, axis, -1) @ matrix, -1, axis)
    return [y]
