"""Shapes inside Loop and Scan bodies: those of the first pass, if the body gives out what it carries as it took it in.

By induction every pass then sees these shapes. Where the body changes or hides one, none of them is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from normswap.facts import Facts
from normswap.reference import attribute

# Before this opset a Scan has a batch axis, which its body does not see, and lengths as its first input.
SCAN_WITHOUT_BATCH = 9

Carried = tuple[ir.Value, ir.Value]  # what a pass takes in, and what it gives to the next


def enter(facts: Facts, node: ir.Node, body: ir.Graph, binding: int) -> list[Carried]:
    """Give the inputs of `body` the shapes of the first pass; what is carried from pass to pass."""
    if node.op_type == "Loop":
        for value in body.inputs[:2]:  # the number of the pass, and the condition
            facts.shapes[binding][value] = ()
        return list(_carry(facts, node.inputs[2:], body.inputs[2:], body.outputs[1:], binding))
    if node.op_type == "Scan" and facts.opset(node) >= SCAN_WITHOUT_BATCH:
        scanned = attribute(node, "num_scan_inputs", 1)
        states = len(node.inputs) - scanned
        axes = node.attributes.get("scan_input_axes")
        for index, (outer, inner) in enumerate(zip(node.inputs[states:], body.inputs[states:], strict=True)):
            shape = None if outer is None else facts.shape(outer, binding)
            if shape:
                axis = (axes.as_ints()[index] if axes is not None else 0) % len(shape)
                facts.shapes[binding][inner] = shape[:axis] + shape[axis + 1 :]
                _note_type(facts, outer, inner)
        return list(_carry(facts, node.inputs[:states], body.inputs[:states], body.outputs, binding))
    return []


def _carry(
    facts: Facts,
    outer: Sequence[ir.Value | None],
    inner: Sequence[ir.Value],
    given: Sequence[ir.Value],
    binding: int,
) -> Iterator[Carried]:
    for value, taken, following in zip(outer, inner, given, strict=False):
        shape = None if value is None else facts.shape(value, binding)
        if shape is not None:
            facts.shapes[binding][taken] = shape
            _note_type(facts, value, taken)
            yield taken, following


def _note_type(facts: Facts, outer: ir.Value | None, inner: ir.Value) -> None:
    dtype = None if outer is None else facts.dtype(outer)
    if dtype is not None:
        facts.types.setdefault(inner, dtype)


def keeps_shapes(facts: Facts, carried: Sequence[Carried], binding: int) -> bool:
    """Whether every pass gives the next one what it was given itself, as far as shapes go."""
    return all(facts.shape(taken, binding) == facts.shape(given, binding) for taken, given in carried)


def forget(facts: Facts, body: ir.Graph, binding: int) -> None:
    """Drop all that was learnt about the values of `body`, and of the graphs within."""
    values = [*body.inputs, *(value for node in body.all_nodes() for value in node.outputs)]
    for value in values:
        facts.shapes[binding].pop(value, None)
        facts.known[binding].pop(value, None)
