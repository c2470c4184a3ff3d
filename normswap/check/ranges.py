"""What may be fed to an input: found from what the graph does with it.

Random integers outside an embedding table crash, and 0 and 1 alone never see the other rows. So every integer input
is followed through the operators that keep its values to what reads them: the table of a Gather bounds ids, a
CumSum marks a mask, a comparison names interesting constants. Only where the graph is silent does the name speak.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

# Operators whose output holds the input's values, or those plus a constant.
_KEEP = frozenset(
    [
        "Cast",
        "CastLike",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Identity",
        "Transpose",
        "Concat",
        "Expand",
        "Slice",
        "Split",
        "Tile",
        "Where",
        "Add",
        "Sub",
        "Clip",
        "Max",
        "Min",
        "Pad",
    ]
)
_COMPARE = frozenset(["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])


@dataclass(frozen=True)
class Ids:
    """Integers in [0, size): rows of a table."""

    size: int


@dataclass(frozen=True)
class Positions:
    """Consecutive integers along the last axis, below the size of the table if there is one.

    Exported decoders take a jump in them for the start of another sequence, and let no token attend across it: random
    positions would hide the whole attention.
    """

    size: int | None


@dataclass(frozen=True)
class OneOf:
    """One of the constants that the graph compares the input with."""

    values: tuple[int, ...]


@dataclass(frozen=True)
class Mask:
    """1 to attend and 0 to ignore; `additive`: 0 to attend and a large negative number to ignore."""

    additive: bool = False


@dataclass(frozen=True)
class Lengths:
    """How much of each sequence is there: at least 1, at most the longest axis."""


@dataclass(frozen=True)
class Numbers:
    """Anything the dtype holds; integers in [0, size)."""

    size: int = 2  # of an integer that nothing bounds: 0 and 1 are always allowed


Role = Ids | Positions | OneOf | Mask | Lengths | Numbers


def role(value: ir.Value) -> Role:
    """What may be fed to a graph input."""
    dtype = value.dtype
    name = (value.name or "").lower()
    rank = 0 if value.shape is None else len(value.shape)
    if dtype is not None and dtype.is_floating_point():
        if "mask" in name:
            return Mask(additive=rank >= 4)
        return Numbers()
    if dtype == ir.DataType.BOOL:
        return Mask()
    found = list(_uses(value))
    tables = [size for size in found if isinstance(size, Ids)]
    size = max(1, min(table.size for table in tables)) if tables else None
    if "position" in name:
        return Positions(size)
    if size is not None:
        return Ids(size)
    if any(isinstance(use, Lengths) for use in found):
        return Lengths()
    if "mask" in name or any(isinstance(use, Mask) for use in found):
        return Mask()
    if constants := {value for use in found if isinstance(use, OneOf) for value in use.values}:
        return OneOf(tuple(sorted(constants)))
    if dtype in (ir.DataType.UINT8, ir.DataType.INT8):
        return Numbers(size=256 if dtype == ir.DataType.UINT8 else 128)  # pixels
    return Numbers()


def _uses(value: ir.Value) -> Iterator[Role]:
    """What the graph shows about an integer value, subgraphs that capture it included."""
    seen: set[ir.Value] = set()
    waiting: list[tuple[ir.Value, int]] = [(value, 0)]  # with the constant that was added on the way
    while waiting:
        current, added = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for node, index in current.uses():
            operator = node.op_type
            if operator in ("Gather", "GatherElements") and index == 1:
                axis = node.attributes.get("axis")
                size = _axis_size(node.inputs[0], 0 if axis is None else axis.as_int())
                if size is not None:
                    yield Ids(size - added)
            elif operator == "EmbedLayerNormalization" and index < 2:
                size = _axis_size(node.inputs[2 if index == 0 else 4], 0)
                if size is not None:
                    yield Ids(size - added)
            elif operator in ("LSTM", "GRU", "RNN") and index == 4:
                yield Lengths()
            elif operator in ("CumSum", "ReduceSum"):
                yield Mask()
            elif operator in _COMPARE:
                other = _constant(node.inputs[1 - index])
                if other is not None and len(other) == 1 and operator == "Equal":
                    yield OneOf((int(other[0]),))
            elif operator in _KEEP:
                plus = added
                if operator == "Add" and (offset := _constant(node.inputs[1 - index])):
                    plus += max(0, int(max(offset)))
                waiting += [(output, plus) for output in node.outputs]


def _axis_size(table: ir.Value | None, axis: int) -> int | None:
    """How long a table's axis is, through the operators that stand between a weight and its reader."""
    if table is None:
        return None
    if table.shape is not None and isinstance(size := table.shape[axis], int):
        return size
    if table.const_value is not None:
        return _length(table.const_value, axis)
    producer = table.producer()
    if producer is None:
        return None
    if producer.op_type in ("Identity", "Cast", "DequantizeLinear", "Dropout"):
        return _axis_size(producer.inputs[0], axis)
    if producer.op_type == "Transpose" and "perm" in producer.attributes:
        return _axis_size(producer.inputs[0], producer.attributes["perm"].as_ints()[axis])
    if producer.op_type == "Constant" and "value" in producer.attributes:
        return _length(producer.attributes["value"].as_tensor(), axis)
    return None


def _length(tensor: ir.TensorProtocol, axis: int) -> int | None:
    size = tensor.shape[axis]
    return size if isinstance(size, int) else None


_SMALL = 4096  # elements: an offset or a compared constant is small, and a large one would have to be read from disk


def _constant(value: ir.Value | None) -> list[float] | None:
    """The elements of a small constant."""
    if value is None:
        return None
    tensor = value.const_value
    producer = value.producer()
    if tensor is None and producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        tensor = producer.attributes["value"].as_tensor()
    if tensor is None or tensor.size > _SMALL or not (tensor.dtype.is_integer() or tensor.dtype.is_floating_point()):
        return None
    return [float(element) for element in tensor.numpy().reshape(-1)]
