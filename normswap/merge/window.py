"""How a linear operator reads its input, and the one operator that reads all that two do.

A product is a convolution without spatial axes. A kernel with p zeros padded in front has its taps at −p, −p + d,
−p + 2d ...: those of two kernels lie on one finer grid. The output has ⌊(size + slack) / stride⌋ + 1 positions, where
slack is begin + end − d·(taps − 1) − 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from normswap.reference import Floats

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Along each spatial axis: the zeros padded in front and behind, and the taps: how many, and how far apart."""

    begins: Sizes
    kernel: Sizes
    ends: Sizes
    dilations: Sizes

    def reach(self, axis: int) -> int:
        """How far the last tap is from the first."""
        return self.dilations[axis] * (self.kernel[axis] - 1)

    def slack(self, axis: int) -> int:
        """What is added to the size before strides are counted."""
        return self.begins[axis] + self.ends[axis] - self.reach(axis) - 1


@dataclass(frozen=True)
class Frame:
    """How an operator reads its input: what must be the same for two to become one."""

    operator: Literal["Conv", "Product"]
    outputs: int
    inputs: int  # of one group
    groups: int = 1
    strides: Sizes = ()
    transposed: bool = False

    @property
    def point(self) -> Window:
        """The window of a kernel that sees only the element itself."""
        count = len(self.strides)
        return Window((0,) * count, (1,) * count, (0,) * count, (1,) * count)

    def per_channel(self, array: Floats, rank: int) -> Floats | None:
        """What broadcasts against an output of `rank` as one number per output channel; None if it is not that."""
        axis = 1 if self.operator == "Conv" else rank - 1
        shape = (1,) * (rank - array.ndim) + array.shape
        if len(shape) != rank or any(size != 1 for place, size in enumerate(shape) if place != axis):
            return None
        if shape[axis] not in (1, self.outputs):
            return None
        return np.broadcast_to(array.reshape(-1), (self.outputs,))


def per_axis(node: ir.Node, name: str, count: int) -> Sizes:
    """The strides or dilations of a Conv with `count` spatial axes."""
    found = node.attributes.get(name)
    return tuple(found.as_ints()) if found is not None else (1,) * count


def of_conv(node: ir.Node, strides: Sizes, kernel: Sizes, sizes: Sequence[int | None]) -> Window | None:
    """The window of a Conv on an input of these `sizes`; None where its padding depends on one that is free."""
    count = len(kernel)
    dilations = per_axis(node, "dilations", count)
    automatic = node.attributes.get("auto_pad")
    how = "NOTSET" if automatic is None else automatic.as_string()
    if how in ("NOTSET", "VALID"):
        pads = node.attributes.get("pads")
        written = (0,) * (2 * count) if pads is None or how == "VALID" else tuple(pads.as_ints())
        return Window(written[:count], kernel, written[count:], dilations)
    begins, ends = [], []
    for taps, stride, dilation, size in zip(kernel, strides, dilations, sizes, strict=True):
        if size is None and stride != 1:
            return None
        total = dilation * (taps - 1)
        if size is not None:  # one output for every stride that begins within the input
            total = max((-(-size // stride) - 1) * stride + total + 1 - size, 0)
        begins.append(total // 2 if how == "SAME_UPPER" else total - total // 2)
        ends.append(total - begins[-1])
    return Window(tuple(begins), kernel, tuple(ends), dilations)


def joined(left: Window, right: Window, sizes: Sequence[int | None]) -> Window | None:
    """The smallest window that has the taps of both on inputs of these `sizes`; None where their outputs differ."""
    axes: list[Sizes] = []
    for axis, size in enumerate(sizes):
        begin = max(left.begins[axis], right.begins[axis])
        shifts = [begin - window.begins[axis] for window in (left, right)]
        steps = [window.dilations[axis] for window in (left, right) if window.kernel[axis] > 1]
        dilation = math.gcd(*steps, *shifts) or 1
        reach = max(shift + window.reach(axis) for shift, window in zip(shifts, (left, right), strict=True))
        end = left.slack(axis) + 1 + reach - begin
        if (size is None and left.slack(axis) != right.slack(axis)) or end < 0:
            return None
        axes.append((begin, reach // dilation + 1, end, dilation))
    begins, kernel, ends, dilations = zip(*axes, strict=True) if axes else ((), (), (), ())
    return Window(begins, kernel, ends, dilations)


def places(window: Window, inside: Window) -> tuple[slice, ...]:
    """Where, along the spatial axes, the taps of `window` lie among those of `inside`, which has them all."""
    found = []
    for axis, taps in enumerate(window.kernel):
        start = (inside.begins[axis] - window.begins[axis]) // inside.dilations[axis]
        step = window.dilations[axis] // inside.dilations[axis] if taps > 1 else 1
        found.append(slice(start, start + (taps - 1) * step + 1, step))
    return tuple(found)
