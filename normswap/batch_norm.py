"""BatchNormalization at inference: an Affine along axis 1, made of four constants.

gain = scale / √(var + ε), bias = B − mean · gain (Ioffe & Szegedy 2015, arXiv 1502.03167, algorithm 2).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from normswap.facts import Facts
from normswap.norm import Norm, Parameter, Unrecognized
from normswap.norm_operators import in_training
from normswap.reference import ONNX_DOMAINS, Floats, attribute_float
from normswap.views import label, unrecognized


def is_one(node: ir.Node) -> bool:
    """Whether `node` is a BatchNormalization."""
    return node.op_type == "BatchNormalization" and node.domain in ONNX_DOMAINS


def of_operator(node: ir.Node, path: str, facts: Facts) -> Norm | Unrecognized:
    """The view of a BatchNormalization, which must be at inference and have constant, sane statistics."""
    x, output = node.inputs[0], node.outputs[0]
    dims = None if x is None else facts.dims(x)
    if x is None or dims is None or len(dims) < 2:
        return unrecognized(node, "unknown-shape", f", input `{'' if x is None else x.name}`")
    if in_training(node, facts.opset(node)):
        return unrecognized(node, "training-mode")
    used = next((value for value in node.outputs[1:] if value.uses() or value.is_graph_output()), None)
    if used is not None:
        return unrecognized(node, "statistics-used", f", output `{used.name}`")
    for value in node.inputs[1:5]:
        if value is None or not facts.is_constant(value):
            overridable = value is not None and facts.is_overridable(value)
            reason = "overridable-initializer" if overridable else "runtime-parameter"
            return unrecognized(node, reason, f", input `{'' if value is None else value.name}`")
    arrays = [facts.shape(value) for value in node.inputs[1:5] if value is not None]
    if len(arrays) != 4 or any(shape != (dims[1],) for shape in arrays):  # spatial = 0, before opset 9
        return unrecognized(node, "widening-parameter")
    line = gain_and_bias(node, facts)
    if line is None:
        return unrecognized(node, "invalid-statistics")
    shape = (-1,) + (1,) * (len(dims) - 2)
    return Norm(
        name=label(node),
        kind="BatchNorm",
        axes=(1,),
        size=dims[1],
        epsilon=attribute_float(node, "epsilon", 1e-5),
        input=x,
        output=output,
        nodes=(node,),
        spelling="operator",
        gain=Parameter(line[0].reshape(shape)) if (line[0] != 1).any() else None,
        bias=Parameter(line[1].reshape(shape)) if line[1].any() else None,
        graph=path,
    )


def gain_and_bias(node: ir.Node, facts: Facts) -> tuple[Floats, Floats] | None:
    """Gain and bias, [C] each, in float64; None where the statistics give none that is finite."""
    scale, bias, mean, variance = (facts.float64(value) for value in node.inputs[1:5] if value is not None)
    with np.errstate(all="ignore"):
        gain: Floats = scale / np.sqrt(variance + attribute_float(node, "epsilon", 1e-5))
        shift: Floats = bias - mean * gain
    if (variance < 0).any() or not (np.isfinite(gain).all() and np.isfinite(shift).all()):
        return None
    return gain, shift
