"""Which constants are weights of linear operators, and along which of their axes the outputs lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap.facts import Facts
from normswap.recognize import graphs
from normswap.reference import ONNX_DOMAINS, attribute
from normswap.views import label


@dataclass(frozen=True, eq=False)
class LinearWeight:
    """A constant operand of rank 2 and more of a linear operator, and the initializer or Constant it is a view of.

    `axis` is the one of `stored` along which the outputs of `node` lie; None where more than a Transpose is between.
    """

    node: ir.Node
    stored: ir.Value
    axis: int | None

    @property
    def name(self) -> str:
        """The user's word for the site."""
        return label(self.node)


def _conv(node: ir.Node, index: int, rank: int) -> int | None:
    return 0 if index == 1 else None


def _conv_transpose(node: ir.Node, index: int, rank: int) -> int | None:
    """Output channels; with groups, those of one group, and channels at the same place in theirs share a norm.

    torch's weight_norm takes axis 0 here by default, the input channels: both are reparameterizations.
    """
    return 1 if index == 1 else None


def _gemm(node: ir.Node, index: int, rank: int) -> int | None:
    if index > 1:
        return None
    is_transposed = bool(attribute(node, "transA" if index == 0 else "transB", 0))
    return int(is_transposed) if index == 0 else 1 - int(is_transposed)


def _matmul(node: ir.Node, index: int, rank: int) -> int | None:
    return rank - 2 + index


# The axis of a constant operand along which the outputs of its operator lie; None for operands that are no weight.
OUTPUT_AXIS: Mapping[str, Callable[[ir.Node, int, int], int | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def linear_weights(model: ir.Model, facts: Facts) -> list[LinearWeight]:
    """The weights of Conv, ConvTranspose, Gemm and MatMul, in the main graph and in control-flow bodies."""
    return [weight for graph, _ in graphs(model.graph) for node in graph for weight in _weights_of(node, facts)]


def _weights_of(node: ir.Node, facts: Facts) -> Iterator[LinearWeight]:
    axis_of = OUTPUT_AXIS.get(node.op_type) if node.domain in ONNX_DOMAINS else None
    if axis_of is None or facts.is_constant(node.outputs[0]):
        return
    for index, value in enumerate(node.inputs):
        shape = None if value is None else facts.shape(value)
        if value is None or shape is None or len(shape) < 2 or np.prod(shape, dtype=np.int64) < 2:
            continue
        axis = axis_of(node, index, len(shape)) if facts.is_constant(value) or facts.is_overridable(value) else None
        if axis is not None:
            yield LinearWeight(node, *_stored(value, axis, len(shape)))


def _stored(value: ir.Value, axis: int, rank: int) -> tuple[ir.Value, int | None]:
    """What `value` is a view of by Identity and Transpose, and which of its axes `axis` is."""
    while (node := value.producer()) is not None and node.op_type != "Constant":
        source = node.inputs[0] if node.inputs else None
        if node.domain not in ONNX_DOMAINS or node.op_type not in ("Identity", "Transpose") or source is None:
            return value, None
        if node.op_type == "Transpose":
            order = node.attributes.get("perm")
            axis = rank - 1 - axis if order is None else order.as_ints()[axis]
        value = source
    return value, axis
