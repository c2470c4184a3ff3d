"""Rows of an inspection: a norm, and a weight that is one, told in names, numbers and words, without the graph.

A row is about the norm as people know it: with the layout operators around it, its axes as the model writes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from normswap.computed import ComputedWeight
from normswap.facts import Facts
from normswap.ledger import Can, Conditioning, CoreRow, NodeRow, NormRow, ParameterRow
from normswap.norm import Norm, Parameter, Part
from normswap.operator_views import operator_kind
from normswap.reference import ONNX_DOMAINS, attribute

# A constant of up to so many elements is told by its numbers: axes, pads, ε; a larger one by its shape.
FEW = 8
# These kinds divide by the root of a sum of squares, to which their ε belongs.
OF_SUMS = frozenset({"L2Norm", "ScaleNorm"})
# ε of a sum is computed, and told to so many digits: the others are rounding.
DIGITS = 12
# Operators whose axis is the last one where they do not say.
LAST_BY_DEFAULT = frozenset(
    {"LayerNormalization", "LpNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
)
AXES = ("axes", "axis")


def norm_row(
    norm: Norm,
    can: Mapping[str, Can],
    condition: Conditioning | None,
    facts: Facts,
    bundled: Mapping[ir.Node, str],
) -> NormRow:
    """The row of a norm; `bundled` are the operators of which nodes were a piece before they were taken apart."""
    seen = norm.outer or norm
    runtime = norm.runtime | seen.runtime
    parameters: dict[Part, Parameter | None] = {"gain": seen.gain, "bias": seen.bias}
    return NormRow(
        name=norm.name,
        kind=seen.kind,
        axes=seen.axes,
        size=seen.size,
        epsilon=_epsilon(seen),
        groups=seen.groups,
        scale=_origin("gain", seen.gain, runtime),
        bias=_origin("bias", seen.bias, runtime),
        spelling=seen.spelling,
        nodes=tuple(node.name or "" for node in seen.nodes),
        graph=norm.graph,
        can=can,
        variant=seen.variant or norm.variant,
        conditioning=condition,
        epsilon_place=seen.epsilon_place,
        written_axes=seen.axes if norm.outer else _written(norm, facts),
        operator=_operator(norm, bundled),
        input=seen.input.name or "",
        output=seen.output.name or "",
        parameters={part: _parameter_row(item) for part, item in parameters.items() if item is not None},
        core=None if norm.outer is None else CoreRow(norm.kind, norm.axes, norm.size),
        region=_node_rows(seen.nodes, facts),
    )


def weight_row(weight: ComputedWeight, can: Mapping[str, Can], facts: Facts) -> NormRow:
    """The row of a weight that is a norm of constants."""
    return NormRow(
        name=weight.name,
        kind=weight.kind or "",
        axes=weight.axes,
        size=weight.size,
        epsilon=weight.epsilon,
        groups=1,
        scale=weight.scale,
        bias="none",
        spelling=weight.spelling,
        nodes=tuple(node.name or "" for node in weight.nodes),
        graph=weight.graph,
        can=can,
        variant=weight.variant,
        input="" if weight.form is None else weight.form.source.name or "",
        output=weight.value.name or "",
        region=_node_rows(weight.nodes, facts),
    )


def _operator(norm: Norm, bundled: Mapping[ir.Node, str]) -> str:
    """The norm operator by which, or around which, a norm is spelled."""
    node = next((node for node in norm.nodes if operator_kind(node) is not None), None)
    return "" if node is None else bundled.get(node, node.op_type)


def _epsilon(norm: Norm) -> float:
    if norm.kind not in OF_SUMS or norm.size is None or not norm.epsilon:
        return norm.epsilon
    factor = norm.size if norm.epsilon_place == "inside" else math.sqrt(norm.size)
    return float(f"{norm.epsilon * factor:.{DIGITS}g}")


def _origin(part: Part, parameter: Parameter | None, runtime: Iterable[Part]) -> str:
    if part in runtime:
        return "runtime"
    return "none" if parameter is None else "constant"


def _parameter_row(parameter: Parameter) -> ParameterRow:
    name = "" if parameter.value is None else parameter.value.name or ""
    return ParameterRow(name, tuple(parameter.array.shape))


def _written(norm: Norm, facts: Facts) -> tuple[int, ...]:
    """The axes, counted from the end where the first node of the norm that names some of them does so."""
    rank = facts.rank(norm.input)
    if rank is None:
        return norm.axes
    counted = next((axes for node in norm.nodes if (axes := _named_axes(node, facts))), ())
    from_end = any(axis < 0 for axis in counted)
    return tuple(axis - rank for axis in norm.axes) if from_end else norm.axes


def _named_axes(node: ir.Node, facts: Facts) -> tuple[int, ...]:
    """The axes that a reduction or a norm names, as an attribute or as an input; none where it names none."""
    if not node.op_type.startswith("Reduce") and "Norm" not in node.op_type:
        return ()
    found = next((node.attributes[name] for name in AXES if name in node.attributes), None)
    if found is not None:
        if found.is_ref() or found.type not in (ir.AttributeType.INT, ir.AttributeType.INTS):
            return ()
        return tuple(found.as_ints()) if found.type == ir.AttributeType.INTS else (found.as_int(),)
    if node.op_type in LAST_BY_DEFAULT:
        return (attribute(node, "axis", -1),)
    axes = node.inputs[1] if node.op_type.startswith("Reduce") and len(node.inputs) > 1 else None
    array = None if axes is None else facts.constant(axes)
    return () if array is None else tuple(int(axis) for axis in array.reshape(-1))


def _node_rows(nodes: Sequence[ir.Node], facts: Facts) -> tuple[NodeRow, ...]:
    return tuple(_node_row(node, facts) for node in nodes)


def _node_row(node: ir.Node, facts: Facts) -> NodeRow:
    constants = {value.name or "": value for value in node.inputs if value is not None and facts.is_constant(value)}
    return NodeRow(
        name=node.name or "",
        operator=node.op_type if node.domain in ONNX_DOMAINS else f"{node.domain}.{node.op_type}",
        inputs=tuple("" if value is None else value.name or "" for value in node.inputs),
        outputs=tuple(value.name or "" for value in node.outputs),
        attributes={name: words for name, item in node.attributes.items() if (words := _attribute(item))},
        constants={name: _constant(value, facts) for name, value in constants.items()},
    )


def _attribute(item: ir.Attr) -> str:
    """An attribute in words; none for tensors and graphs."""
    if item.is_ref():
        return ""
    if item.type == ir.AttributeType.STRING:
        return item.as_string()
    if item.type in (ir.AttributeType.INT, ir.AttributeType.FLOAT):
        return f"{item.value:.6g}" if isinstance(item.value, float) else str(item.value)
    if item.type == ir.AttributeType.INTS:
        return _list(item.as_ints())
    return ""


def _constant(value: ir.Value, facts: Facts) -> str:
    """A constant in words: its numbers where they are few, else its shape."""
    shape = facts.shape(value)
    if shape is None:
        return "constant"
    array = facts.constant(value) if math.prod(shape) <= FEW else None
    if array is None or (array.size != 1 and array.dtype.kind not in "iu"):
        return _list(shape)
    return f"{array.item():.6g}" if array.size == 1 and array.dtype.kind != "b" else _list(array.reshape(-1).tolist())


def _list(numbers: Iterable[int]) -> str:
    return f"[{', '.join(map(str, numbers))}]"
