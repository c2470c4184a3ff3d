"""Candidate regions: connected pieces of a graph that take one value x and hold a reduction of it.

A region starts at a value x and grows forward through element-wise, reduction, cast and layout operators whose other
inputs are in the region, constant, or derived from shapes. Nothing here knows how a norm is spelled.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap.facts import Facts
from normswap.reference import ONNX_DOMAINS, Array

Shape = tuple[int, ...]

PIECEWISE = frozenset(
    {"Abs", "Clip", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Relu", "Where"}
)
ELEMENTWISE = PIECEWISE | {
    *("Add", "Sub", "Mul", "Div", "Sum", "Mean", "Neg", "Sqrt", "Reciprocal", "Pow", "Exp", "Log"),
    *("And", "Or", "Not", "Cast", "CastLike", "Identity", "Dropout"),
}
SUMS = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2"})
CHANNELWISE = frozenset({"BatchNormalization"})  # their constants lie along axis 1
POOLS = frozenset({"GlobalAveragePool"})
MATRIX_PRODUCTS = frozenset({"MatMul", "Gemm"})
# Layout operators that keep the size of every axis they keep, so that probes may be cut along the others ...
RIGID = frozenset({"Transpose", "Squeeze", "Unsqueeze"})
# ... and those whose operands name sizes or positions.
SIZED = frozenset({"Reshape", "Flatten", "Expand", "Tile", "Slice", "Split"})
COPIES = RIGID | SIZED | {"Identity", "Dropout"}
# Operands that say where and how, not what: they may also derive from shapes.
OPERANDS: Mapping[str, frozenset[int]] = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "Split", *SUMS), frozenset({1})),
    "Slice": frozenset({1, 2, 3, 4}),
    "Dropout": frozenset({1, 2}),
    "CastLike": frozenset({1}),
}
# A norm takes about ten operators, and none more than this.
MOST_NODES = 48
# A constant read element by element: as large as a gain over several axes, smaller than a weight of a linear layer.
MOST_ELEMENTS = 1 << 20


@dataclass(frozen=True, eq=False)
class Region:
    """The nodes, in graph order, that lie behind `x` and lead to or follow from `seed`, and what they read besides x.

    `externals` are the constants and shape-derived values they read; every other input is x or made by a node.
    """

    x: ir.Value
    seed: ir.Node
    nodes: tuple[ir.Node, ...]
    externals: tuple[ir.Value, ...]

    def targets(self, facts: Facts) -> tuple[ir.Value, ...]:
        """The values of x's shape, under both bindings, that depend on the seed; in graph order."""
        behind = set(self.seed.outputs)
        found: list[ir.Value] = []
        for node in self.nodes:
            if node is self.seed or any(value in behind for value in node.inputs):
                behind.update(node.outputs)
                found += [value for value in node.outputs if _same_shape(value, self.x, facts)]
        return tuple(found)


def position_in(graph: ir.Graph) -> dict[ir.Node, int]:
    """The place of every node in the order of `graph`."""
    return {node: place for place, node in enumerate(graph)}


def _same_shape(value: ir.Value, other: ir.Value, facts: Facts) -> bool:
    shapes = [facts.shape(value, binding) for binding in range(2)]
    return None not in shapes and shapes == [facts.shape(other, binding) for binding in range(2)]


def averages(node: ir.Node, facts: Facts) -> bool:
    """Whether a matrix product has a constant factor a·1 + b·I: it sums, averages or centers; cheap on any weight."""
    for value in node.inputs[:2]:
        if value is None or not facts.is_constant(value):
            continue
        shape = facts.shape(value)
        if shape is None or len(shape) > 2 or (1 not in shape and (len(shape) < 2 or shape[0] != shape[1])):
            continue
        if max(shape) < 2:
            continue
        array = facts.constant(value) if value.const_value is not None or max(shape) ** 2 < MOST_ELEMENTS else None
        if array is not None and _one_or_two_values(array):
            return True
    return False


def _one_or_two_values(array: Array) -> bool:
    if 1 in array.shape or array.ndim == 1:
        flat = array.reshape(-1)
        return bool(flat[0] == flat[-1]) and bool((flat == flat[0]).all())
    corner = array[:2, :2]
    if array[0, 1] != array[1, 0] or array[0, 0] != array[1, 1] or array[0, 1] != array[0, -1]:
        return False
    return bool((array == np.where(np.eye(len(array), dtype=bool), corner[0, 0], corner[0, 1])).all())


def is_admitted(node: ir.Node, facts: Facts) -> bool:
    """Whether a region may hold this operator: element-wise, a cast between floats, a reduction, or a layout."""
    if node.domain not in ONNX_DOMAINS:
        return False
    if node.op_type in MATRIX_PRODUCTS:
        return averages(node, facts)
    if node.op_type == "Cast":  # to an integer it would round
        return ir.DataType(node.attributes["to"].as_int()).is_floating_point()
    return node.op_type in ELEMENTWISE or node.op_type in SUMS | POOLS | RIGID | SIZED


def grow(x: ir.Value, seed: ir.Node, position: Mapping[ir.Node, int], facts: Facts) -> Region | None:
    """The region behind `x` that holds `seed` and a later value of x's shape; None where there is none."""
    inside, seen = {x}, set[ir.Node]()
    nodes: list[ir.Node] = []
    heap: list[tuple[int, ir.Node]] = []

    def offer(value: ir.Value) -> None:
        for node in value.consumers():
            if node in position and node not in seen:
                seen.add(node)
                heapq.heappush(heap, (position[node], node))

    offer(x)
    while heap and len(nodes) < MOST_NODES:
        node = heapq.heappop(heap)[1]
        if is_admitted(node, facts) and all(
            value is None or value in inside or _is_known(node, place, value, facts)
            for place, value in enumerate(node.inputs)
        ):
            nodes.append(node)
            inside.update(node.outputs)
            for value in node.outputs:
                offer(value)
    if not inside.issuperset(seed.outputs):
        return None
    region = _region(x, seed, _around(seed, nodes))
    return region if region.targets(facts) else None


def _is_known(node: ir.Node, place: int, value: ir.Value, facts: Facts) -> bool:
    """Whether an input from outside may be read: a constant; from shapes only sizes, axes and single numbers."""
    if facts.is_constant(value):
        shape = facts.shape(value)
        return shape is not None and bool(np.prod(shape, dtype=np.float64) <= MOST_ELEMENTS)
    array = facts.derived(value)
    return array is not None and (array.size == 1 or place in OPERANDS.get(node.op_type, ()))


def _around(seed: ir.Node, nodes: list[ir.Node]) -> tuple[ir.Node, ...]:
    """The nodes that follow from the seed, and those that lead to one of these."""
    behind, values = {seed}, set(seed.outputs)
    for node in nodes:
        if any(value in values for value in node.inputs):
            behind.add(node)
            values.update(node.outputs)
    return needed_for({value for node in behind for value in node.outputs}, nodes)


def needed_for(values: set[ir.Value], nodes: list[ir.Node] | tuple[ir.Node, ...]) -> tuple[ir.Node, ...]:
    """Those of `nodes`, in their order, without which `values` could not be computed."""
    wanted = set[ir.Value | None](values)
    kept = []
    for node in reversed(nodes):
        if any(value in wanted for value in node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return tuple(reversed(kept))


def _region(x: ir.Value, seed: ir.Node, nodes: tuple[ir.Node, ...]) -> Region:
    made = {x, *(value for node in nodes for value in node.outputs)}
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None and value not in made)
    return Region(x, seed, nodes, tuple(read))


def restrict(region: Region, output: ir.Value) -> Region:
    """The part of the region that computes `output`."""
    return _region(region.x, region.seed, needed_for({output}, region.nodes))


def key(region: Region, facts: Facts) -> Hashable:
    """What two regions share when they compute the same function up to the values of their constant vectors.

    Where an operator is piecewise, the vectors count too: whether it bites may depend on them. And of a vector it is
    known whether it is zero: a zero gain hides what it scales.
    """
    number: dict[ir.Value | None, int] = {None: -1, region.x: 0}
    exact = any(node.op_type in PIECEWISE for node in region.nodes)
    constants: list[Hashable] = []
    for value in region.externals:
        number[value] = len(number)
        constants.append(_constant_key(value, exact, facts))
    nodes: list[Hashable] = []
    for node in region.nodes:
        attributes = tuple(sorted((name, repr(item.value)) for name, item in node.attributes.items()))
        nodes.append((node.op_type, facts.opset(node), attributes, tuple(number[value] for value in node.inputs)))
        nodes.append(len(node.outputs))
        for output in node.outputs:
            number[output] = len(number)
    x = region.x
    return (facts.shape(x, 0), facts.shape(x, 1), facts.dtype(x), region.nodes.index(region.seed)), *constants, *nodes


def _constant_key(value: ir.Value, exact: bool, facts: Facts) -> Hashable:
    shape, dtype = facts.shape(value), facts.dtype(value)
    vector = facts.is_constant(value) and shape is not None and np.prod(shape) > 1
    if vector and not exact and dtype is not None and dtype.is_floating_point():
        array = facts.constant(value)
        return dtype, shape, array is None or bool(array.any())
    arrays = [facts.derived(value, binding) for binding in range(2)]
    return dtype, *((None, b"") if array is None else (array.shape, array.tobytes()) for array in arrays)
