"""What is drawn of a norm: its region as it is spelled, and beside that what it computes, as one box.

A picture is boxes and arrows, without places. Constants are no boxes: each stands in the operator that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from normswap.distinct import Family, node_line
from normswap.ledger import NodeRow, NormRow

Role = Literal["value", "operator", "layout", "norm"]

# Attributes that say what a node does to its input; the others are in the tip.
TOLD = ("axis", "axes", "perm", "epsilon", "num_groups", "p", "group")
# What the operands of operators are, by position, where a number alone would not say it.
OPERANDS: Mapping[str, tuple[str, ...]] = {
    "Reduce": ("", "axes"),
    "BatchNormalization": ("", "gain", "bias", "mean", "variance"),
    "Normalization": ("", "gain", "bias"),
}
# Operators that only move elements, which stand back in a drawing.
LAYOUT = frozenset({"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
# Longer lines are cut: the tip has all of it.
LONGEST = 30
# Which of the three maps a kind consists of, from the last to the first, and what it divides by what.
CENTERED = frozenset({"LayerNorm", "InstanceNorm", "GroupNorm", "MeanVarianceNorm", "WeightStandardization"})
SUMS = frozenset({"L2Norm", "ScaleNorm", "WeightNorm"})
CONSTANT = frozenset({"BatchNorm", "Affine"})


@dataclass(frozen=True)
class Box:
    """One box: what stands in it, and what is told of it besides, to those who point at it or have it read."""

    title: str
    role: Role
    lines: tuple[str, ...] = ()
    tip: str = ""


@dataclass(frozen=True)
class Arrow:
    """A value on its way from one box to another, by their positions."""

    source: int
    target: int
    value: str


@dataclass(frozen=True)
class Picture:
    """Boxes in the order of the graph, and the arrows between them. `title` says in a sentence what is drawn."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def as_spelled(family: Family) -> Picture:
    """The region of the first norm of a family, operator by operator."""
    row = family.rows[0]
    boxes: list[Box] = []
    makers: dict[str, int] = {}
    arrows: list[Arrow] = []
    made = {name for node in row.region for name in node.outputs}
    for name in dict.fromkeys(_read(row)):
        if name not in made:
            makers[name] = len(boxes)
            boxes.append(_input(row, name))
    for node in row.region:
        here = len(boxes)
        boxes.append(_operator(row, node))
        arrows += [Arrow(makers[name], here, name) for name in node.inputs if name in makers]
        makers.update((name, here) for name in node.outputs if name)
    if row.output in makers:
        arrows.append(Arrow(makers[row.output], len(boxes), row.output))
        boxes.append(Box("y", "value", tip=row.output))
    operators = ", ".join(node.operator for node in row.region)
    return Picture(f"{family.kind} as the model spells it: {operators}", tuple(boxes), tuple(arrows))


def as_norm(family: Family) -> Picture:
    """What every norm of a family is: one box."""
    row = family.rows[0]
    lines = tuple(_lines(family))
    norm = Box(family.kind, "norm", lines, row.name)
    boxes = (Box("x", "value", tip=row.input), norm, Box("y", "value", tip=row.output))
    title = f"{family.kind}: {'; '.join(lines)}"
    return Picture(title, boxes, (Arrow(0, 1, row.input), Arrow(1, 2, row.output)))


def _read(row: NormRow) -> Iterator[str]:
    """What the region reads, constants left out; its input first."""
    yield from (row.input,) if row.input else ()
    for node in row.region:
        yield from (name for name in node.inputs if name and name not in node.constants)


def _input(row: NormRow, name: str) -> Box:
    return Box("x" if name == row.input else cut(name), "value", tip=name)


def _operator(row: NormRow, node: NodeRow) -> Box:
    operands = [_operand(row, node, name, index) for index, name in enumerate(node.inputs) if name in node.constants]
    attributes = [f"{name} {node.attributes[name]}" for name in TOLD if name in node.attributes]
    lines = tuple(cut(line) for line in (*operands, *attributes))
    name = node.operator.rpartition(".")[2]
    return Box(cut(name), "layout" if name in LAYOUT else "operator", lines, node_line(node))


def _operand(row: NormRow, node: NodeRow, name: str, index: int) -> str:
    operands = next((names for part, names in OPERANDS.items() if part in node.operator), ())
    part = next((part for part, parameter in row.parameters.items() if parameter.name == name), "")
    return f"{operands[index] if index < len(operands) else part} {node.constants[name]}".strip()


def _lines(family: Family) -> Iterator[str]:
    row = family.rows[0]
    yield formula(row)
    if maps := composition(row):
        yield maps
    yield f"axes {family.axes}" if row.axes else family.axes
    if row.groups > 1:
        yield f"{row.groups:,} groups"
    if family.words["epsilon"]:
        yield f"ε {family.words['epsilon']}"
    for part, origin in (("gain", row.scale), ("bias", row.bias)):
        parameter = row.parameters.get(part)
        shape = "" if parameter is None else f" [{', '.join(map(str, parameter.shape))}]"
        if origin != "none":
            yield f"{part} constant{shape}" if origin == "constant" else f"{part} at run time"
    if row.core is not None:
        yield f"moved as {row.core.kind} over {', '.join(map(str, row.core.axes))}"


def composition(row: NormRow) -> str:
    """The maps that a norm consists of; nothing for a weight that is one."""
    if row.kind == "SpectralNorm":
        return ""
    has_affine = row.kind in CONSTANT or "none" not in (row.scale, row.bias) or row.scale != row.bias
    parts = (("Affine", has_affine), ("RMS", row.kind not in CONSTANT), ("Center", row.kind in CENTERED))
    return " ∘ ".join(name for name, present in parts if present)


def formula(row: NormRow) -> str:
    """What a norm computes of x."""
    gain, bias = ("" if row.scale == "none" else "gain · "), ("" if row.bias == "none" else " + bias")
    if row.kind == "SpectralNorm":
        return "x / σ(x)"
    if row.kind in CONSTANT:
        return f"{gain}x{bias}"
    return f"{gain}{'(x − mean)' if row.kind in CENTERED else 'x'} / {_divisor(row)}{bias}"


def _divisor(row: NormRow) -> str:
    square = "var" if row.kind in CENTERED else "Σx²" if row.kind in SUMS else "mean(x²)"
    forms: Mapping[str, str] = {
        "inside": f"√({square} + ε)",
        "outside": f"(√{square} + ε)",
        "floor": f"max(√{square}, ε)",
    }
    return forms.get(row.epsilon_place, forms["inside"]) if row.epsilon else f"√{square}"


def cut(text: str) -> str:
    """`text` with its middle left out where it is long: both ends of a name tell it apart."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[: half - 1]}…{text[-half:]}"
