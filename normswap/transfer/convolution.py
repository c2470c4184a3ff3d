"""Conv and ConvTranspose: a weight absorbs maps along the channels that it makes, and along those that it reads.

pull    T(W * x + b) = L(W) * x + T(b)          L, the linear part of T, along the channels that the weight makes
push    W * (s·x + t) = (s·W) * x + W * t       s along the channels that it reads; W * t is the same at every position
                                                without padding and goes into the bias, else it is a map of the border
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap import maps, reference
from normswap.maps import UNTOUCHED, Deferred, Integers, Map, Shape
from normswap.reference import Floats, attribute
from normswap.transfer.einsum import TWO_MAPS
from normswap.transfer.step import Along, Blocked, Request, Step, labels, on_axis, only_along

# Along each spatial axis a probe of a Conv has at least so many output positions, one of a ConvTranspose input ones.
POSITIONS = 3


@dataclass(frozen=True, eq=False)
class Convolution:
    """A Conv or ConvTranspose with the constant weight `weight` of shape `shape`.

    `made` and `read` are the output and the input channel of the entries along the weight's first two axes.
    """

    request: Request
    weight: ir.Value
    shape: Shape
    groups: int
    made: Integers
    read: Integers

    @staticmethod
    def of(request: Request) -> Convolution | Blocked:
        """The convolution of a request."""
        weight = request.value(1)
        shape = None if weight is None else request.facts.shape(weight)
        if weight is None or shape is None or not request.is_constant(1):
            return Blocked("opaque-producer", "a convolution whose weight is not constant")
        groups = attribute(request.node, "group", 1)
        # Of the first axis every place is a channel; the second counts within a group: entry [o, i] of a Conv reads
        # channel (group of o) · I + i.
        whole = np.arange(shape[0], dtype=np.int64)[:, None]
        within = np.arange(shape[1], dtype=np.int64)[None, :]
        if groups > 1:
            within = whole // (shape[0] // groups) * shape[1] + within
        made, read = (within, whole) if request.node.op_type == "ConvTranspose" else (whole, within)
        return Convolution(request, weight, shape, groups, made, read)

    @property
    def transposed(self) -> bool:
        """Whether it is a ConvTranspose, whose weight has the channels that it reads first."""
        return self.request.node.op_type == "ConvTranspose"

    def count(self, channels: Integers) -> int:
        """How many input or output channels there are: `channels` are `made` or `read`."""
        return int(channels.max()) + 1

    def mixes(self, a_map: Map, channels: Integers) -> bool:
        """Whether a Center runs across the groups of `channels`, `made` or `read`."""
        numbers = a_map.group.reshape(-1)
        if numbers.size == 1:
            return False
        blocks = np.arange(numbers.size) // (self.count(channels) // self.groups)
        return any(np.unique(blocks[numbers == number]).size > 1 for number in np.unique(numbers[numbers >= 0]))

    def on_weight(self, a_map: Map, channels: Integers) -> dict[int, Map]:
        """The linear part of a map along `channels`, `made` or `read`, as the map of the weight."""
        linear = maps.linear(a_map)
        if linear.is_identity:
            return {}
        scale = linear.scale.reshape(-1)[channels] if linear.scale.size > 1 else linear.scale.reshape(1, 1)
        group = linear.group.reshape(-1)[channels] if linear.group.size > 1 else linear.group.reshape(1, 1)
        if channels is not (self.read if self.transposed else self.made) and len(group) > 1:
            # The channels are counted along the second axis, where each place of the first has means of its own.
            group = np.where(group == UNTOUCHED, UNTOUCHED, group * len(group) + np.arange(len(group))[:, None])
        kernel = (1,) * (len(self.shape) - 2)
        shift = np.zeros((1, 1, *kernel))
        return {1: Map(group.reshape(group.shape + kernel), scale.reshape(scale.shape + kernel), shift)}

    def shift(self) -> Floats:
        """W * t without padding: what a shift of the input adds to each output channel, wherever the kernel fits."""
        weight = self.request.facts.float64(self.weight).reshape(*self.shape[:2], -1).sum(axis=2)
        t = np.broadcast_to(self.request.map.offset().reshape(-1), (self.count(self.read),))
        made = np.broadcast_to(self.made, weight.shape)
        sums = np.bincount(made.ravel(), (weight * t[self.read]).ravel(), self.count(self.made))
        return np.asarray(sums, dtype=np.float64)

    def integers(self, name: str, default: int) -> Sequence[int]:
        """An attribute with one integer per spatial axis (two for `pads`)."""
        found = self.request.node.attributes.get(name)
        return found.as_ints() if found is not None else (default,) * (len(self.shape) - 2)

    def has_border(self) -> bool:
        """Whether some output positions see less of the kernel than others: the rest of it lies on zeros."""
        if self.transposed:
            return True  # its strides put zeros between the positions of the input
        found = self.request.node.attributes.get("auto_pad")
        automatic = "NOTSET" if found is None else found.as_string()
        if automatic == "NOTSET":
            return any(self.integers("pads", 0))
        return automatic != "VALID" and any(size > 1 for size in self.shape[2:])

    def probe(self) -> dict[int, Shape]:
        """A small input with several output positions along each spatial axis, whatever the padding."""
        if "output_shape" in self.request.node.attributes:
            return {}
        kernel, pads = self.shape[2:], self.integers("pads", 0)
        strides, dilations = self.integers("strides", 1), self.integers("dilations", 1)
        if self.transposed:  # each position adds `stride` to the output, from which the padding is cut
            sizes = [POSITIONS + sum(pads[axis :: len(kernel)]) // stride for axis, stride in enumerate(strides)]
        else:
            spans = ((taps - 1) * dilation for taps, dilation in zip(kernel, dilations, strict=True))
            sizes = [span + (POSITIONS - 1) * stride + 1 for span, stride in zip(spans, strides, strict=True)]
        return {0: (2, self.count(self.read), *sizes)}


def convolution(request: Request) -> Step | Blocked:
    """Conv and ConvTranspose."""
    conv = Convolution.of(request)
    if isinstance(conv, Blocked):
        return conv
    if request.at not in (None, 0) or request.map.rank != len(conv.shape):
        return Blocked("does-not-commute", "a map on another input of a convolution than its data")
    return _pull(conv) if request.pulls else _push(conv)


def _pull(conv: Convolution) -> Step | Blocked:
    request, a_map = conv.request, conv.request.map
    if not only_along(a_map, [1]):
        return Blocked("does-not-commute", "a map along the positions of a convolution")
    if conv.mixes(a_map, conv.made):
        return Blocked("grouped-weights", f"a convolution in {conv.groups} groups, whose mean would mix them")
    inputs: dict[int, Map] = {}
    constants = conv.on_weight(a_map, conv.made)
    created: dict[int, Shape] = {}
    if request.value(2) is not None:
        split = labels(request, {2: on_axis(a_map, 1, 1, 0)})
        if isinstance(split, Blocked):
            return split
        inputs, constants = split[0], constants | split[1]
    elif a_map.shifts:
        created[2] = (conv.count(conv.made),)
        constants[2] = on_axis(maps.affine(a_map.rank, shift=a_map.shift), 1, 1, 0)
    cut = ((Along(0, 1), Along(1, 0 if conv.transposed else 1)),) if conv.groups == 1 else ()
    return Step(inputs, {0: a_map}, constants, created, cut=cut, probes=conv.probe())


def _push(conv: Convolution) -> Step | Blocked:
    request, a_map = conv.request, conv.request.map
    if not only_along(maps.linear(a_map), [1]) or a_map.shift.shape[0] > 1:
        return Blocked("does-not-commute", "a map along the positions of a convolution, or along the batch")
    if conv.mixes(a_map, conv.read):
        return Blocked("grouped-weights", f"a convolution in {conv.groups} groups, which would see another mean")
    if a_map.centers and a_map.scale.size > 1:
        return TWO_MAPS
    constants = conv.on_weight(a_map, conv.read)
    if a_map.shifts and conv.has_border() and not request.facts.is_certain(request.node.outputs[0]):
        return Blocked("zero-padding", "at whose zero padding another shift would be needed")
    if a_map.shifts and (conv.has_border() or any(size > 1 for size in a_map.shift.shape[2:])):
        return _with_border(conv, constants)
    created: dict[int, Shape] = {}
    outputs: dict[int, Map] = {}
    channels = conv.count(conv.made)
    if a_map.shifts and request.value(2) is not None and not request.is_constant(2):
        shape = (1, channels, *(1 for _ in conv.shape[2:]))
        outputs[0] = maps.affine(a_map.rank, shift=Deferred(shape, lambda: conv.shift().reshape(shape)))
    elif a_map.shifts:
        constants[2] = maps.affine(1, shift=Deferred((channels,), conv.shift))
        if request.value(2) is None:
            created[2] = (channels,)
    written = [Along(1, 1 if conv.transposed else 0)] + ([] if request.value(2) is None else [Along(2, 0)])
    cut = (tuple(written),) if conv.groups == 1 and not (created or outputs) else ()
    return Step({0: a_map}, outputs, constants, created, cut=cut, probes=conv.probe())


def _with_border(conv: Convolution, constants: dict[int, Map]) -> Step | Blocked:
    """W * t differs from position to position: it is added behind, as one number per channel and position."""
    request, node = conv.request, conv.request.node
    given, made = request.dims(0), request.facts.dims(node.outputs[0])
    if given is None or made is None or None in given[2:] or None in made[2:]:
        return Blocked("zero-padding", "a convolution of free size, behind which a shift is another one at the border")
    opset, channels = request.facts.opset(node), conv.count(conv.read)
    sizes = tuple(int(size or 0) for size in given[2:])
    shape = (1, conv.count(conv.made), *(int(size or 0) for size in made[2:]))

    def border() -> Floats:
        constant = np.broadcast_to(request.map.offset(), (1, channels, *sizes))
        result = reference.run(node, [constant, request.facts.float64(conv.weight)], opset)[0]
        return result.astype(np.float64)

    out = maps.affine(request.map.rank, shift=Deferred(shape, border))
    return Step({0: request.map}, {0: out}, constants, probes={0: (1, channels, *sizes)})
