"""Constant scales at the end of residual branches: LayerScale, SkipInit, ReZero.

Such a Mul is a norm of kind Affine. It hides a branch from Center: C(s·x) is not s·C(x), so it is folded into the
branch's last weight first (the other order is wrong, MATH.md §3).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from normswap.facts import Facts
from normswap.norm import Norm, Parameter


def residual_scales(model: ir.Model, facts: Facts) -> list[Norm]:
    """Every Mul by a constant whose result is only added to another activation."""
    return list(_scales(model.graph, facts))


def _scales(graph: ir.Graph, facts: Facts) -> Iterator[Norm]:
    for node in graph:
        if node.op_type != "Mul" or node.domain != "" or len(node.inputs) != 2:
            continue
        constant = [value is not None and facts.is_constant(value) for value in node.inputs]
        if constant[0] == constant[1] or not _ends_branch(node.outputs[0], facts):
            continue
        source, factor = (node.inputs[1], node.inputs[0]) if constant[0] else (node.inputs[0], node.inputs[1])
        assert source is not None
        assert factor is not None
        dims, shape = facts.dims(source), facts.shape(factor)
        if dims is None or shape is None or facts.dims(node.outputs[0]) != dims or len(shape) > len(dims):
            continue
        gain = Parameter(facts.float64(factor), factor)
        axes = tuple(len(dims) - len(shape) + axis for axis, size in enumerate(shape) if size > 1)
        yield Norm(
            name=node.name or node.outputs[0].name or "",
            kind="Affine",
            axes=axes,
            size=int(np.prod(shape)),
            epsilon=0.0,
            input=source,
            output=node.outputs[0],
            nodes=(node,),
            spelling="operator",
            gain=gain,
            variant="LayerScale" if gain.array.size > 1 else "SkipInit",
        )


def _ends_branch(value: ir.Value, facts: Facts) -> bool:
    """Whether `value` is read once, by an Add whose other operand is an activation of the same shape."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type != "Add":
        return False
    other = uses[0].node.inputs[1 - uses[0].idx]
    if other is None or other is value or facts.is_constant(other):
        return False
    return facts.dims(other) is not None and facts.dims(other) == facts.dims(value)
