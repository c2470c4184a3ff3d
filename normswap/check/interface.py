"""What a caller of a model relies on: its inputs, outputs and overridable initializers, compared before any number.

A lost or renamed input breaks every caller even if the numbers agree, so it is a failure by itself. What only widens
or renames a free dimension is reported and does not fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

Dimension = int | str | None


@dataclass(frozen=True)
class Port:
    """An input or output: `shape` is None where the rank is unknown, and a dimension None where it has no name."""

    name: str
    dtype: ir.DataType | None
    shape: tuple[Dimension, ...] | None


@dataclass(frozen=True)
class Interface:
    """`inputs` must be fed, `overridable` have a default (IR version 4 and later), `outputs` come back."""

    inputs: tuple[Port, ...]
    overridable: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Comparison:
    """`broken`: why a caller of the original cannot call the other; `notes`: differences it will not notice."""

    broken: tuple[str, ...]
    notes: tuple[str, ...]


# From this IR version on an initializer that is also an input may be overridden; before, all of them had to be listed.
OVERRIDABLE_SINCE_IR = 4

# Exporters write these where they mean "unknown", so that two such dimensions need not be equal.
_UNNAMED = frozenset({"", "?", "None"})


def interface(model: ir.Model) -> Interface:
    """The interface of a model's main graph."""
    defaults = set(model.graph.initializers)
    given = [value for value in model.graph.inputs if value.name not in defaults]
    listed = [value for value in model.graph.inputs if value.name in defaults]
    return Interface(
        inputs=tuple(map(_port, given)),
        overridable=tuple(map(_port, listed)) if (model.ir_version or 0) >= OVERRIDABLE_SINCE_IR else (),
        outputs=tuple(map(_port, model.graph.outputs)),
    )


def _port(value: ir.Value) -> Port:
    shape = None if value.shape is None else tuple(map(_dimension, value.shape))
    return Port(value.name or "", value.dtype, shape)


def _dimension(dimension: int | ir.SymbolicDim) -> Dimension:
    """Zero and negative sizes are exporters' ways to write "unknown"."""
    if isinstance(dimension, int):
        return dimension if dimension > 0 else None
    name = dimension.value
    return None if name is None or name in _UNNAMED else name


def compare(original: Interface, converted: Interface) -> Comparison:
    """Every difference between two interfaces."""
    broken: list[str] = []
    notes: list[str] = []
    for kind, before, after in (
        ("input", original.inputs, converted.inputs),
        ("overridable initializer", original.overridable, converted.overridable),
        ("output", original.outputs, converted.outputs),
    ):
        broken += _names(kind, before, after)
        others = {port.name: port for port in after}
        for port in before:
            if (other := others.get(port.name)) is None:
                continue
            if port.dtype != other.dtype:
                broken.append(f"{kind} `{port.name}` was {_type(port)}, is {_type(other)}")
            reason, fatal = _shapes(port.shape, other.shape, narrower_is_worse=kind != "output")
            if reason:
                (broken if fatal else notes).append(f"{kind} `{port.name}` {reason}")
    return Comparison(tuple(broken), tuple(notes))


def _names(kind: str, before: Sequence[Port], after: Sequence[Port]) -> list[str]:
    old, new = [port.name for port in before], [port.name for port in after]
    lost, added = [name for name in old if name not in new], [name for name in new if name not in old]
    found = [f"{kind} `{name}` is lost" for name in lost] + [f"{kind} `{name}` is new" for name in added]
    if not found and old != new:
        found.append(f"the order of the {kind}s changed: {', '.join(old)} became {', '.join(new)}")
    return found


def _type(port: Port) -> str:
    return "untyped" if port.dtype is None else port.dtype.name


def _shapes(
    before: tuple[Dimension, ...] | None, after: tuple[Dimension, ...] | None, *, narrower_is_worse: bool
) -> tuple[str, bool]:
    """How a shape changed, and whether that breaks a caller. An output may become better known, an input may not."""
    if before == after:
        return "", False
    text = f"was {_text(before)}, is {_text(after)}"
    if before is None or after is None:
        return text, narrower_is_worse and before is None
    if len(before) != len(after):
        return text, True
    for old, new in zip(before, after, strict=True):
        if isinstance(new, int) and (isinstance(old, int) or narrower_is_worse) and old != new:
            return text, True
    return text, False


def _text(shape: tuple[Dimension, ...] | None) -> str:
    return "of unknown rank" if shape is None else f"[{', '.join('?' if d is None else str(d) for d in shape)}]"
