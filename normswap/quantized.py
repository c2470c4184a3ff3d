"""Quantized weights: DequantizeLinear of a constant takes a positive factor into its scales, along its own axis.

s · (q − z) · d = (q − z) · (s · d): the integers and zero points stay as they are, so the weight stays quantized.
"""

from __future__ import annotations

import onnx_ir as ir

from normswap import maps
from normswap.facts import Facts
from normswap.maps import Map
from normswap.reference import ONNX_DOMAINS, attribute

DEQUANTIZERS = frozenset({"DequantizeLinear", "DequantizeBFP", "MatMulNBits"})
PER_AXIS = 13  # the opset since which DequantizeLinear has scales along an axis


def is_quantized(value: ir.Value | None) -> bool:
    """Whether a constant is computed from a quantized one; as a new float constant it would no longer be that."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in DEQUANTIZERS:
            return True
        value = node.inputs[0] if node.inputs else None
    return False


def on_scales(value: ir.Value, a_map: Map, facts: Facts) -> Map | None:
    """The map on the scales of the DequantizeLinear that makes `value`; None where they cannot take `a_map` in."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.domain not in ONNX_DOMAINS:
        return None
    scales = node.inputs[1]
    shape, rank = facts.shape(scales) if scales is not None else None, facts.rank(value)
    if shape is None or rank != a_map.rank or attribute(node, "block_size", 0) or len(shape) > 1:
        return None
    if a_map.centers or a_map.shifts or not (a_map.scale > 0).all():
        return None
    if not a_map.axes():
        return maps.affine(len(shape), scale=a_map.scale.reshape((1,) * len(shape)))
    axis = attribute(node, "axis", 1) % rank
    if a_map.axes() != (axis,) or facts.opset(node) < PER_AXIS or shape in ((), (1,)):
        return None
    return maps.affine(1, scale=a_map.scale.reshape(-1))


def with_scales(value: ir.Value, scales: ir.Value, name: str) -> ir.Node:
    """A copy of the DequantizeLinear that makes `value`, with other scales; its output is called `name`."""
    node = value.producer()
    assert node is not None
    output = ir.Value(name=name, type=value.type, shape=value.shape)
    inputs = [node.inputs[0], scales, *node.inputs[2:]]
    return ir.Node(node.domain, node.op_type, inputs, node.attributes, outputs=[output], name=name)
