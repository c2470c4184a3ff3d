"""Sums as trees of Adds: what is added, and the same tree with some of its operands replaced or taken out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from normswap.facts import Facts
from normswap.graph_edits import become
from normswap.reference import ONNX_DOMAINS

Slot = tuple[ir.Node, int]  # an input of a node


@dataclass(frozen=True, eq=False)
class Sum:
    """A tree of Adds whose inner results nobody else reads: its last node, the others, and the operands."""

    root: ir.Node
    inner: tuple[ir.Node, ...]
    slots: tuple[Slot, ...]

    @property
    def operands(self) -> tuple[ir.Value | None, ...]:
        """What is added."""
        return tuple(node.inputs[index] for node, index in self.slots)

    @staticmethod
    def of(root: ir.Node, facts: Facts, whole: Collection[ir.Value]) -> Sum:
        """The sum that ends at `root`; the values in `whole` are operands even where an Add makes them."""
        inner: list[ir.Node] = []
        slots: list[Slot] = []
        pending = [(root, index) for index in reversed(range(len(root.inputs)))]
        while pending:
            node, index = pending.pop()
            value = node.inputs[index]
            if value is not None and value not in whole and is_inner(value, facts):
                producer = value.producer()
                assert producer is not None
                inner.append(producer)
                pending += [(producer, place) for place in reversed(range(len(producer.inputs)))]
            else:
                slots.append((node, index))
        return Sum(root, tuple(inner), tuple(slots))


def is_sum(node: ir.Node) -> bool:
    """Whether `node` adds its operands as numpy does (before opset 7, Add had attributes)."""
    return node.op_type in ("Add", "Sum") and node.domain in ONNX_DOMAINS and not node.attributes


def is_inner(value: ir.Value, facts: Facts) -> bool:
    """Whether `value` is a sum that only another sum of the same graph reads."""
    node, uses = value.producer(), list(value.uses())
    if node is None or not is_sum(node) or value.is_graph_output() or len(uses) != 1 or facts.is_constant(value):
        return False
    return is_sum(uses[0].node) and uses[0].node.graph is node.graph


def same_shape(left: ir.Value, right: ir.Value, facts: Facts) -> bool:
    """Whether two values have one shape, whatever the free dimensions are."""
    shapes = [(facts.shape(left, binding), facts.shape(right, binding)) for binding in range(2)]
    return all(shape is not None and shape == other for shape, other in shapes)


def prune(total: Sum, kept: Mapping[Slot, ir.Value | None]) -> None:
    """Take what `kept` maps to None out of the sum; a node of it that is left with one operand goes too."""
    inner = {node.outputs[0]: node for node in total.inner}

    def pruned(node: ir.Node) -> list[ir.Value]:
        operands: list[ir.Value] = []
        for index, value in enumerate(node.inputs):
            if (node, index) in kept:
                operands += [new for new in [kept[node, index]] if new is not None]
            elif value in inner:
                below = pruned(inner[value])
                if len(below) > 1:
                    become(inner[value], inner[value], below)
                    operands.append(value)
                else:
                    operands += below
            elif value is not None:
                operands.append(value)
        return operands

    operands = pruned(total.root)
    like = total.root
    while len(operands) == 1:
        like = inner[operands[0]]
        operands = [value for value in like.inputs if value is not None]
    become(total.root, like, operands)
