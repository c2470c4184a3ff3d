"""How a constant is computed: the operators between the initializers and a value, as a program of its own.

It runs in float64, on the model's own numbers or on others in their place, and still does when its nodes have left
their graph: a weight can be replaced by what it computes before anybody has computed it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap import reference
from normswap.facts import Facts
from normswap.maps import Integers
from normswap.reference import ONNX_DOMAINS, Array, Floats
from normswap.regions import RIGID, SIZED

# Operators that only move elements, all of them those of their first input, or of every input.
LAYOUT = RIGID | SIZED | {"Identity", "Gather", "Concat"}
CASTS = frozenset({"Cast", "CastLike"})
# What has to do with quantized weights is left to those who quantized them.
QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# Steps, beside which a difference in rounding is one of a whole step: weights quantized by arithmetic have them.
STEPS = frozenset({"Ceil", "Floor", "Round", "Sign"})
NARROW = 16  # bits of a type to which a cast is no quantization


def is_float(value: ir.Value, facts: Facts) -> bool:
    """Whether a value is known to hold floats of any width."""
    dtype = facts.dtype(value)
    return dtype is not None and dtype.is_floating_point()


def size(value: ir.Value, facts: Facts) -> int:
    """The number of elements of a constant, 0 where its shape is not known."""
    shape = facts.shape(value)
    return 0 if shape is None else int(np.prod(shape, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Operation:
    """One operator of a chain: a copy of its node that no graph knows, and the values that it reads and makes."""

    node: ir.Node
    opset: int
    inputs: tuple[ir.Value | None, ...]
    outputs: tuple[ir.Value, ...]


@dataclass(frozen=True, eq=False)
class Chain:
    """What computes the constant `value` from `leaves`: initializers and Constant nodes. `nodes` are in graph order."""

    facts: Facts
    value: ir.Value
    nodes: tuple[ir.Node, ...]
    operations: tuple[Operation, ...]
    leaves: tuple[ir.Value, ...]

    def is_quantized(self) -> bool:
        """Whether a weight on the way is quantized, or made so."""
        return any(_quantizes(operation, self.facts) for operation in self.operations)

    def run(self, instead: Mapping[ir.Value, Floats] | None = None) -> Floats:
        """The value in float64 throughout, from the leaves as they are or with other numbers `instead`.

        Raises `reference.Unexecutable`.
        """
        given = instead or {}
        arrays: dict[ir.Value, Array] = {leaf: given.get(leaf, self._leaf(leaf)) for leaf in self.leaves}
        readers = Counter(value for operation in self.operations for value in operation.inputs)
        readers[self.value] += 1
        for operation in self.operations:
            read = [None if value is None else arrays[value] for value in operation.inputs]
            results = reference.run(operation.node, read, operation.opset)
            arrays.update(zip(operation.outputs, results, strict=False))
            readers.subtract(operation.inputs)
            for value in (
                *operation.inputs,
                *operation.outputs,
            ):  # weights are large: none is kept for longer than needed
                if value is not None and not readers[value]:
                    arrays.pop(value, None)
        return arrays[self.value].astype(np.float64, copy=False)

    def run_placed(self, leaf: ir.Value, places: Integers, numbers: Floats) -> Floats:
        """The value when the element of `leaf` that it has at each place, by `places`, is that of `numbers`."""
        shape = self.facts.shape(leaf)
        assert shape is not None
        array = np.empty(places.size)
        array[places.reshape(-1)] = numbers.reshape(-1)
        return self.run({leaf: array.reshape(shape)})

    def _leaf(self, leaf: ir.Value) -> Array:
        if is_float(leaf, self.facts):
            return self.facts.float64(leaf)
        array = self.facts.constant(leaf)
        assert array is not None
        return array

    def places(self, leaf: ir.Value) -> Integers | None:
        """For each element of the value, the number of the element of `leaf` that it is made from one to one.

        Layout operators are run on element numbers. Any other operator is taken to leave the elements of an input of
        its output's shape where they are, which is for the caller to verify. None where that leads nowhere.
        """
        facts, shape = self.facts, self.facts.shape(leaf)
        assert shape is not None
        every = np.arange(size(leaf, facts))
        numbers: dict[ir.Value, Array] = {leaf: every.reshape(shape)}
        for operation in self.operations:
            inputs = [value for value in operation.inputs if value is not None]
            if operation.node.op_type in LAYOUT:
                moved = inputs if operation.node.op_type == "Concat" else inputs[:1]
                if all(value in numbers for value in moved):
                    read = [numbers[value] if value in moved else facts.constant(value) for value in inputs]
                    results = reference.run(operation.node, read, operation.opset)
                    numbers.update(zip(operation.outputs, results, strict=False))
                continue
            for output in operation.outputs:
                alike = (value for value in inputs if value in numbers and facts.shape(value) == facts.shape(output))
                kept = next(alike, None)
                if kept is not None:
                    numbers[output] = numbers[kept]
        found = numbers.get(self.value)
        if found is None or not np.array_equal(np.sort(found, axis=None), every):
            return None
        return found.astype(np.int64, copy=False)


def _quantizes(operation: Operation, facts: Facts) -> bool:
    """Whether an operator takes floats to few numbers: by its name, or by the type that it casts them to."""
    if operation.node.op_type in QUANTIZED | STEPS:
        return True
    source = operation.inputs[0] if operation.node.op_type in CASTS else None
    target = facts.dtype(operation.outputs[0])
    if source is None or target is None or not is_float(source, facts):
        return False
    return not target.is_floating_point() or target.bitwidth < NARROW


def chain_of(value: ir.Value, facts: Facts) -> Chain:
    """The chain behind a constant that a node computes."""
    made: dict[ir.Node, None] = {}
    leaves: dict[ir.Value, None] = {}
    pending = [(value, False)]
    while pending:
        current, is_ready = pending.pop()
        node = current.producer()
        if node is None or (node.op_type == "Constant" and node.domain in ONNX_DOMAINS):
            leaves[current] = None
        elif is_ready:
            made.setdefault(node)
        elif node not in made:
            pending.append((current, True))
            pending += [(item, False) for item in reversed(node.inputs) if item is not None]
    operations = tuple(Operation(_detached(n), facts.opset(n), tuple(n.inputs), tuple(n.outputs)) for n in made)
    return Chain(facts, value, tuple(made), operations, tuple(leaves))


def _detached(node: ir.Node) -> ir.Node:
    inputs = [None if value is None else ir.Value(name=value.name) for value in node.inputs]
    outputs = [ir.Value(name=value.name) for value in node.outputs]
    return ir.Node(
        node.domain, node.op_type, inputs, node.attributes, outputs=outputs, name=node.name, version=node.version
    )
