"""ConvTranspose by its definition: onnx's own mixes up groups, and takes no padding from a wanted output shape."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType

import numpy as np
import onnx_ir as ir

from normswap.arrays import Array, Floats, attribute, floats

Places = tuple[EllipsisType | slice, ...]  # of an array, along its last axes


def conv_transpose(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """Every input position adds the kernel, times its number, to the output; what lies in the padding is cut off."""
    x, weight, bias = [*arrays, None][:3]
    values, kernel = floats(x), floats(weight)
    groups, spatial = attribute(node, "group", 1), kernel.shape[2:]
    strides, dilations = (_integers(node, name, (1,) * len(spatial)) for name in ("strides", "dilations"))
    extents = [
        stride * (size - 1) + dilation * (taps - 1) + 1
        for size, taps, stride, dilation in zip(values.shape[2:], spatial, strides, dilations, strict=True)
    ]
    starts, sizes = _window(node, values.shape[2:], strides, extents)
    full = [max(extent, start + size) for extent, start, size in zip(extents, starts, sizes, strict=True)]
    total = np.zeros((values.shape[0], groups, kernel.shape[1], *full))
    columns = values.reshape(values.shape[0], groups, -1, int(np.prod(values.shape[2:])))
    matrices = kernel.reshape(groups, -1, *kernel.shape[1:])
    for taps in np.ndindex(*spatial):
        product = np.swapaxes(matrices[(..., *taps)], 1, 2) @ columns
        places: Places = (
            ...,
            *(
                slice(dilation * tap, dilation * tap + stride * (size - 1) + 1, stride)
                for tap, size, stride, dilation in zip(taps, values.shape[2:], strides, dilations, strict=True)
            ),
        )
        total[places] += product.reshape(*product.shape[:3], *values.shape[2:])
    inside: Places = (..., *(slice(start, start + size) for start, size in zip(starts, sizes, strict=True)))
    result: Floats = total[inside].reshape(values.shape[0], -1, *sizes)
    return [result if bias is None else result + floats(bias).reshape(-1, *[1] * len(spatial))]


def _window(
    node: ir.Node, given: Sequence[int], strides: Sequence[int], extents: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """Which part of all that is computed is the output: where it starts along each spatial axis, and its size."""
    rank, automatic = len(given), node.attributes.get("auto_pad")
    mode = "NOTSET" if automatic is None else automatic.as_string()
    more = _integers(node, "output_padding", (0,) * rank)
    wanted: Sequence[int] = _integers(node, "output_shape", ())[-rank:]
    if not wanted and mode.startswith("SAME"):
        wanted = [size * stride for size, stride in zip(given, strides, strict=True)]
    if not wanted:
        pads = _integers(node, "pads", (0,) * (2 * rank)) if mode == "NOTSET" else (0,) * (2 * rank)
        padding = [head + tail for head, tail in zip(pads[:rank], pads[rank:], strict=True)]
        return pads[:rank], [e + m - p for e, m, p in zip(extents, more, padding, strict=True)]
    # The padding follows from the output's size; an odd one is larger at the head, with SAME_UPPER at the tail.
    padding = [max(e + m - size, 0) for e, m, size in zip(extents, more, wanted, strict=True)]
    starts = [pad // 2 if mode == "SAME_UPPER" else pad - pad // 2 for pad in padding]
    return starts, wanted


def _integers(node: ir.Node, name: str, default: Sequence[int]) -> Sequence[int]:
    found = node.attributes.get(name)
    return default if found is None else found.as_ints()
