"""A norm on its way from one spelling to another: one node of the domain `normswap`, which rules/norms defines.

    LayerNorm (x, axes, epsilon, gain[, bias])      RMSNorm (x, axes, epsilon, gain)
    InstanceNorm (x, epsilon, gain, bias)           GroupNorm (x, groups, epsilon, gain, bias)
    MeanVarianceNorm (x, axes, epsilon)             L2Norm (x, axes, epsilon, floor)
What of its Affine such a node cannot hold is a Mul and an Add behind it. `spell` turns it into operators of a runtime.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from normswap.emit import DOMAIN, Emitter
from normswap.facts import Facts
from normswap.norm import Norm, Parameter
from normswap.reference import Floats

CHANNELS = 1
# A gain that was solved for is known to so many digits.
SOLVED = 1e-9
# Types in which a gain of a few digits may already be another one.
NARROW = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def operator_of(norm: Norm, facts: Facts) -> str:
    """The canonical node that computes the norm; "" where there is none, as where statistics are partial."""
    dims = facts.dims(norm.input)
    rank = 0 if dims is None else len(dims)
    space, behind = tuple(range(CHANNELS + 1, rank)), tuple(range(CHANNELS, rank))
    channels = dims[CHANNELS] if dims is not None and rank > CHANNELS else None
    operator = ""
    if norm.kind == "GroupNorm":
        operator = "GroupNorm" if norm.axes == behind and channels is not None and _is_plain(norm) else ""
    elif norm.kind == "PartialRMSNorm" or norm.groups > 1 or not norm.parts.root_mean_square or not rank:
        operator = ""
    elif norm.kind == "InstanceNorm" and norm.axes == space and channels is not None:
        operator = "InstanceNorm" if _is_plain(norm) else ""
    elif norm.kind == "MeanVarianceNorm":
        operator = "MeanVarianceNorm" if norm.epsilon_place == "outside" else ""
    elif norm.kind == "L2Norm":
        divides_by_zero = norm.epsilon_place == "inside" and norm.epsilon == 0  # NaN, where the operator has zeros
        operator = "" if norm.epsilon_place == "outside" or divides_by_zero else "L2Norm"
    elif _is_plain(norm):
        operator = norm.operator
    return operator


def _is_plain(norm: Norm) -> bool:
    return norm.epsilon_place == "inside"


def canonical(emitter: Emitter, norm: Norm, source: ir.Value, *, exact: bool = False) -> list[ir.Node]:
    """The norm of `source` as one `normswap.*` node, and what follows it.

    If it is to be `exact`, ε is kept in float64, and a gain or bias that is no number of the norm's own narrow type
    makes it a norm of float32 between two casts. A norm that lost a part has new constants anyway, rounded once.
    """
    facts, like = emitter.facts, norm.output
    dtype = facts.dtype(like) or ir.DataType.FLOAT
    if not (exact and dtype in NARROW and _rounds(norm, dtype)):
        return _nodes(emitter, norm, source, like, exact=exact)
    before = _cast(emitter, source, ir.DataType.FLOAT, f"{norm.name}/wide")
    nodes = [before, *_nodes(emitter, norm, before.outputs[0], before.outputs[0], exact=exact)]
    last = nodes[-1].outputs[0]
    return [*nodes, _cast(emitter, last, dtype, f"{norm.name}/narrow")]


def _rounds(norm: Norm, dtype: ir.DataType) -> bool:
    """Whether the gain or bias is another one in this type; what was solved for is known up to `SOLVED`."""
    arrays = [parameter.array for parameter in (norm.gain, norm.bias) if parameter is not None]
    with np.errstate(over="ignore"):
        stored = [array.astype(dtype.numpy()).astype(np.float64) for array in arrays]
    return any(bool((np.abs(a - b) > SOLVED * np.abs(a)).any()) for a, b in zip(arrays, stored, strict=True))


def _cast(emitter: Emitter, source: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = emitter.node("Cast", [source], name, source, {"to": ir.AttrInt64("to", int(dtype))})
    node.outputs[0].type = ir.TensorType(dtype)
    emitter.facts.types[node.outputs[0]] = dtype
    return node


def _nodes(emitter: Emitter, norm: Norm, source: ir.Value, like: ir.Value, *, exact: bool) -> list[ir.Node]:
    facts, operator = emitter.facts, operator_of(norm, emitter.facts) or norm.operator
    rank = len(facts.dims(norm.input) or ())
    takes_gain = operator not in ("MeanVarianceNorm", "L2Norm") and _lies_along(norm.gain, norm, operator, rank)
    takes_bias = takes_gain and operator != "RMSNorm" and _lies_along(norm.bias, norm, operator, rank)
    gain, bias = norm.gain if takes_gain else None, norm.bias if takes_bias else None
    inputs: list[ir.Value | None] = [source, *_statistic(emitter, norm, operator, rank, exact=exact)]
    if operator in ("InstanceNorm", "GroupNorm"):
        inputs += [_per_channel(emitter, part, neutral, norm, word, like) for part, neutral, word in (
            (gain, 1.0, "gain"), (bias, 0.0, "bias")
        )]  # fmt: skip
    elif operator in ("LayerNorm", "RMSNorm"):
        inputs.append(_parameter(emitter, gain or _ones(facts, norm), f"{norm.name}/gain", like))
        if bias is not None:
            inputs.append(_parameter(emitter, bias, f"{norm.name}/bias", like))
    nodes = [emitter.node(operator, inputs, f"{norm.name}/{operator}", like, domain=DOMAIN)]
    for parameter, taken, operation, word in (
        (norm.gain, takes_gain, "Mul", "scale"),
        (norm.bias, takes_bias, "Add", "shift"),
    ):
        if parameter is not None and not taken:
            constant = _parameter(emitter, parameter, f"{norm.name}/{word}/value", like)
            nodes.append(emitter.node(operation, [nodes[-1].outputs[0], constant], f"{norm.name}/{word}", like))
    return nodes


def _lies_along(parameter: Parameter | None, norm: Norm, operator: str, rank: int) -> bool:
    """Whether a gain or bias differs only along axes on which the canonical node has its own."""
    if parameter is None:
        return True
    lead = rank - parameter.array.ndim
    varying = {lead + axis for axis, size in enumerate(parameter.array.shape) if size > 1}
    return varying <= ({CHANNELS} if operator in ("InstanceNorm", "GroupNorm") else set(norm.axes))


def _statistic(emitter: Emitter, norm: Norm, operator: str, rank: int, *, exact: bool) -> list[ir.Value]:
    """What says over what the statistics are taken, and ε: in float32, the type of attributes, if that will do."""
    values: list[ir.Value] = []
    if operator == "GroupNorm":
        values.append(emitter.raw(np.asarray(norm.groups, dtype=np.int64), f"{norm.name}/groups"))
    elif operator != "InstanceNorm":
        axes = np.asarray([axis - rank for axis in sorted(norm.axes)], dtype=np.int64)
        values.append(emitter.raw(axes, f"{norm.name}/axes"))
    numbers = {"epsilon": norm.epsilon}
    if operator == "L2Norm":  # ε of the sum of squares, and the least root of it
        size = norm.size or 1  # not static: it is that of the sum already
        is_floor = norm.epsilon_place == "floor"
        numbers = {
            "epsilon": 0.0 if is_floor else norm.epsilon * size,
            "floor": norm.epsilon * size**0.5 if is_floor else 0.0,
        }
    return values + [emitter.raw(np.asarray(number), f"{norm.name}/{word}") for word, number in numbers.items()]


def _ones(facts: Facts, norm: Norm) -> Parameter:
    """A gain that does nothing, aligned at the last axis of the norm's output, which need not be one of its own."""
    dims = facts.dims(norm.output) or ()
    sizes = enumerate(dims[min(norm.axes) :], min(norm.axes))
    return Parameter(np.ones(tuple((size or 1) if axis in norm.axes else 1 for axis, size in sizes)))


def _per_channel(
    emitter: Emitter, parameter: Parameter | None, neutral: float, norm: Norm, word: str, like: ir.Value
) -> ir.Value:
    """One number for each channel, shaped so that it broadcasts."""
    dims = emitter.facts.dims(norm.input) or ()
    array: Floats = np.full((), neutral) if parameter is None else parameter.array
    whole = np.broadcast_to(array.reshape(-1), (dims[CHANNELS] or 1,))
    return _parameter(emitter, Parameter(whole.reshape(-1, *[1] * (len(dims) - 2))), f"{norm.name}/{word}", like)


def _parameter(emitter: Emitter, parameter: Parameter, name: str, like: ir.Value) -> ir.Value:
    """The graph's own value where the parameter is one tensor of the right type and rank, else a new constant."""
    facts, value = emitter.facts, parameter.value
    as_it_is = parameter.array.ndim <= 1  # what an operator reads along another axis is shaped anew
    if value is not None and facts.dtype(value) == facts.dtype(like) and facts.rank(value) == 1 and as_it_is:
        return value
    return emitter.parameter(parameter.array, name, like)
