"""What stands around a norm that was found: casts, layout operators, and a gain and a bias that are run-time values.

Planners move the norm nearest its input; people know it by what it does with the layout operators around it. So from
the values before these a wider region is grown and fingerprinted like any other, with the norm's own operator in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from normswap import regions, seeds
from normswap.facts import Facts
from normswap.findings import Findings, Place, norm_of
from normswap.norm import Norm, Parameter, Part
from normswap.reference import ONNX_DOMAINS

# Operators that only say otherwise what a value holds, all of it.
RESHAPED = regions.RIGID | {"Reshape", "Flatten"}
RENAMED = frozenset({"Cast", "CastLike", "Identity", "Dropout"})
REPEATED = frozenset({"Expand", "Tile"})
# How many of them are looked through: a sandwich has one or two, and its casts.
MOST_LAYERS = 8
# What changes nothing in the place of a parameter.
NEUTRAL: Mapping[Part, float] = {"gain": 1.0, "bias": 0.0}
# Norms of channels: what varies from channel to channel (axis 1) is a gain or a bias of theirs.
OF_CHANNELS = frozenset({"InstanceNorm", "GroupNorm"})


# --- casts ----------------------------------------------------------------------------------------------------------


def widened(norm: Norm, seed: ir.Node, place: Place, findings: Findings) -> Norm:
    """The norm with the casts around it: x before a Cast, where the output is then further down too."""
    while True:
        x = _before(norm.input, seed, RENAMED, findings.facts)
        region = None if x is None else regions.grow(x, seed, place.position, findings.facts)
        found = "" if region is None else norm_of(region, place, findings)
        if isinstance(found, str) or len(found.nodes) <= len(norm.nodes) + 1:
            return norm
        norm = found


def _before(value: ir.Value, seed: ir.Node, operators: frozenset[str], facts: Facts) -> ir.Value | None:
    """What `value` is made of by one of these operators, in the graph of `seed`; None where that is no activation."""
    node = value.producer()
    if node is None or node.graph is not seed.graph or node.op_type not in operators or node.inputs[0] is None:
        return None
    return node.inputs[0] if seeds.is_activation(node.inputs[0], facts) else None


# --- layout operators -----------------------------------------------------------------------------------------------


def seen_from_outside(
    norm: Norm, runtime: Mapping[Part, ir.Value], seed: ir.Node, place: Place, findings: Findings
) -> Norm:
    """The norm with the widest view of it that starts before its layout operators and ends behind them.

    Where it is no norm by itself that people know, as an InstanceNormalization with unit parameters, that view is it.
    Its `runtime` parameters may stand before the last layout operator: they are seen as numbers that change nothing.
    """
    neutral = {value: NEUTRAL[part] for part, value in runtime.items()}
    operators = frozenset(norm.nodes) if norm.spelling == "operator" else frozenset()
    widest: Norm | None = None
    for x in _layers(norm.input, seed, findings.facts):
        region = regions.grow(x, seed, place.position, findings.facts, operators, neutral)
        found = "" if region is None else norm_of(region, place, findings)
        if isinstance(found, Norm):
            widest = found
    of_one_head = widest is not None and _cuts_one_axis(widest) and not _spans_groups(widest, findings.facts)
    if widest is None or (of_one_head and not _is_unit(norm)):
        return norm
    if np.isclose(widest.epsilon, norm.epsilon, rtol=1e-9, atol=0.0):
        widest = replace(widest, epsilon=norm.epsilon)
    reads = any(value in neutral for node in widest.nodes for value in node.inputs)
    if reads and norm.kind == "LayerNorm" and widest.groups == 1:  # a gain along the normalized axes, which is not seen
        widest = replace(widest, kind=norm.kind)
    return widest if _is_unit(norm) and widest.kind != norm.kind and not reads else replace(norm, outer=widest)


def _layers(value: ir.Value, seed: ir.Node, facts: Facts) -> Iterator[ir.Value]:
    """The values before the layout operators that lead to `value`, the nearest first."""
    reshaped = False
    for _ in range(MOST_LAYERS):
        before, node = _before(value, seed, RESHAPED | RENAMED, facts), value.producer()
        if before is None or node is None:
            return
        reshaped = reshaped or node.op_type in RESHAPED
        if reshaped and facts.dims(before) is not None:
            yield before
        value = before


def _is_unit(norm: Norm) -> bool:
    """Whether this is an operator for channels that was borrowed for something else: it has no parameters to speak of.

    Of a norm that an exporter decomposed, nothing tells that it was one.
    """
    parameters = ((norm.gain, NEUTRAL["gain"]), (norm.bias, NEUTRAL["bias"]))
    return norm.spelling == "operator" and norm.kind in OF_CHANNELS and all(_is(*item) for item in parameters)


def _is(parameter: Parameter | None, number: float) -> bool:
    return parameter is None or bool((parameter.array == number).all())


def _cuts_one_axis(norm: Norm) -> bool:
    """Whether the groups cut one axis alone, and not that of channels: heads are cut so too."""
    return norm.groups > 1 and len(norm.axes) == 1 and norm.axes[0] != 1


def _spans_groups(norm: Norm, facts: Facts) -> bool:
    """Whether a gain or a bias of all groups at once is applied where they are one axis again.

    Norms of heads have none: they are known by what one head sees, and so is the gain that is applied to it there.
    """
    dims = facts.dims(norm.input) or ()
    behind = len(dims) - norm.axes[0]  # where the axis stands in what broadcasts, seen from the last
    for node in norm.nodes:
        if node.op_type in regions.ELEMENTWISE and facts.dims(node.outputs[0]) == dims:
            shapes = [facts.shape(value) for value in node.inputs if value is not None and facts.is_constant(value)]
            if any(shape and len(shape) >= behind and shape[-behind] == dims[norm.axes[0]] for shape in shapes):
                return True
    return False


# --- run-time gains -------------------------------------------------------------------------------------------------


def conditioned(norm: Norm, facts: Facts) -> dict[Part, ir.Value]:
    """The gain and the bias that are run-time values: the norm's output alone is multiplied by it, then added to it.

    They differ from channel to channel, and are the same for many elements: so do no masks, gates and residuals.
    """
    gain = _combined(norm.output, "Mul", norm, facts)
    if gain is None:
        return {}
    bias = _combined(gain[1], "Add", norm, facts)
    return {"gain": gain[0]} if bias is None else {"gain": gain[0], "bias": bias[0]}


def _combined(value: ir.Value, operator: str, norm: Norm, facts: Facts) -> tuple[ir.Value, ir.Value] | None:
    """The run-time parameter of the norm that the only reader of `value`, this operator, reads, and what it makes."""
    for _ in range(MOST_LAYERS):
        readers = regions.readers(value)
        if len(readers) != 1 or value.is_graph_output():
            return None
        node = readers[0]
        if node.op_type == operator and node.domain in ONNX_DOMAINS:
            others = [item for item in node.inputs if item is not value and item is not None]
            is_one = len(others) == 1 and _is_parameter(others[0], value, norm, facts)
            return (others[0], node.outputs[0]) if is_one else None
        if node.op_type not in RENAMED and not (node.op_type in RESHAPED and _keeps_channels(node, norm, facts)):
            return None
        value = node.outputs[0]
    return None


def _keeps_channels(node: ir.Node, norm: Norm, facts: Facts) -> bool:
    """Whether a layout operator leaves batch and channels of a norm of channels where they are."""
    if node.op_type == "Transpose" or norm.kind not in OF_CHANNELS:
        return False
    shapes = [[facts.shape(value, binding) for value in (norm.output, node.outputs[0])] for binding in range(2)]
    return all(one is not None and other is not None and one[:2] == other[:2] for one, other in shapes)


def _is_parameter(value: ir.Value, output: ir.Value, norm: Norm, facts: Facts) -> bool:
    """Whether a run-time value broadcasts over what the norm makes, and varies only along some of its axes."""
    maker = value.producer()
    while maker is not None and maker.op_type in REPEATED | RENAMED and maker.inputs[0] is not None:
        value, maker = maker.inputs[0], maker.inputs[0].producer()
    if not seeds.is_activation(value, facts):
        return False
    varying = frozenset({1}) if norm.kind in OF_CHANNELS else frozenset(norm.axes)
    for binding in range(2):
        own, whole = facts.shape(value, binding), facts.shape(output, binding)
        if own is None or whole is None or len(own) > len(whole):
            return False
        aligned = (1,) * (len(whole) - len(own)) + own
        if any(size not in (1, n) for size, n in zip(aligned, whole, strict=True)) or aligned == whole:
            return False
        if all(aligned[axis] == 1 for axis in varying):
            return False
    return True
