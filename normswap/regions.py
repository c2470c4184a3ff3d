"""Candidate regions: connected pieces of a graph that take one value x and hold a reduction of it.

A region starts at a value x and grows forward through element-wise, reduction, cast and layout operators whose other
inputs are in the region, constant, or derived from shapes. Nothing here knows how a norm is spelled.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import onnx_ir as ir

from normswap.averages import MATRIX_PRODUCTS, MOST_ELEMENTS, POOLS, PRODUCTS, averages
from normswap.facts import Facts
from normswap.reference import ONNX_DOMAINS

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
# Layout operators that keep the size of every axis they keep, so that probes may be cut along the others ...
RIGID = frozenset({"Transpose", "Squeeze", "Unsqueeze"})
# ... and those whose operands name sizes or positions.
SIZED = frozenset({"Reshape", "Flatten", "Expand", "Tile", "Slice", "Split"})
COPIES = RIGID | SIZED | {"Identity", "Dropout"}
# Operands that say where and how, not what: they may also derive from shapes.
OPERANDS: Mapping[str, frozenset[int]] = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "Split", *SUMS), frozenset({1})),
    "ConstantOfShape": frozenset({0}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Dropout": frozenset({1, 2}),
    "CastLike": frozenset({1}),
}
# A constant is laid out by one or two of them, and looked for behind no more than this.
MOST_LAYOUTS = 4
# A norm takes about ten operators, and none more than this.
MOST_NODES = 48
# Operators by which a constant is laid out as a value is, which an exporter may do at run time.
SPREADING = RIGID | {"Reshape", "Expand", "Tile", "ConstantOfShape", "Cast", "Identity"}


@dataclass(frozen=True, eq=False)
class Region:
    """The nodes, in graph order, that lie behind `x` and lead to or follow from `seed`, and what they read besides x.

    `externals` are the constants and shape-derived values they read; every other input is x or made by a node. In the
    place of `neutral` ones, which are run-time values, stands the number that changes nothing.
    """

    x: ir.Value
    seed: ir.Node
    nodes: tuple[ir.Node, ...]
    externals: tuple[ir.Value, ...]
    neutral: Mapping[ir.Value, float] = field(default_factory=dict)

    def targets(self, facts: Facts) -> tuple[ir.Value, ...]:
        """The values of x's shape, under both bindings, that depend on the seed; in graph order."""
        behind = set(self.seed.outputs)
        found: list[ir.Value] = []
        for node in self.nodes:
            if node is self.seed or any(value in behind for value in node.inputs):
                behind.update(node.outputs)
                found += [value for value in node.outputs if _same_shape(value, self.x, facts)]
        return tuple(found)


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, and not merely its shape."""
    return [node for node in value.consumers() if node.op_type not in ("Shape", "Size")]


def position_in(graph: ir.Graph) -> dict[ir.Node, int]:
    """The place of every node in the order of `graph`."""
    return {node: place for place, node in enumerate(graph)}


def _same_shape(value: ir.Value, other: ir.Value, facts: Facts) -> bool:
    shapes = [facts.shape(value, binding) for binding in range(2)]
    return None not in shapes and shapes == [facts.shape(other, binding) for binding in range(2)]


def is_admitted(node: ir.Node, facts: Facts) -> bool:
    """Whether a region may hold this operator: element-wise, a cast between floats, a reduction, or a layout."""
    if node.domain not in ONNX_DOMAINS:
        return False
    if node.op_type in PRODUCTS | POOLS:
        return averages(node, facts)
    if node.op_type in ("Cast", "CastLike"):  # to an integer it would round, to 8 bits saturate
        to = node.attributes.get("to")
        target = facts.dtype(node.outputs[0]) if to is None else ir.DataType(to.as_int())
        return target is not None and target.is_floating_point() and target.bitwidth >= 16
    return node.op_type in ELEMENTWISE | SUMS | RIGID | SIZED


def reduces(node: ir.Node) -> bool:
    """Whether an operator of a region may take a statistic."""
    return node.op_type in SUMS | POOLS | PRODUCTS


def keeps_axes(node: ir.Node) -> bool:
    """Whether what the operator makes has the axes of x where x has them, seen from the last."""
    return node.op_type in ELEMENTWISE | SUMS | POOLS | MATRIX_PRODUCTS | CHANNELWISE | {"Squeeze", "Unsqueeze"}


def grow(
    x: ir.Value,
    seed: ir.Node,
    position: Mapping[ir.Node, int],
    facts: Facts,
    operators: frozenset[ir.Node] = frozenset(),
    neutral: Mapping[ir.Value, float] = MappingProxyType({}),
) -> Region | None:
    """The region behind `x` that holds `seed` and a later value of x's shape; None where there is none.

    The norm `operators` are admitted too, and operators that read a `neutral` run-time value.
    """
    given, inside, seen = set(neutral), {x}, set[ir.Node]()
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
        laid_out = (
            _laid_out(node, inside | given, position, facts) if node in operators or is_admitted(node, facts) else None
        )
        if laid_out is not None:
            nodes += [maker for maker in laid_out if maker not in nodes]
            nodes.append(node)
            inside.update(value for maker in (*laid_out, node) for value in maker.outputs)
            for value in node.outputs:
                offer(value)
    if not inside.issuperset(seed.outputs):
        return None
    nodes.sort(key=position.__getitem__)
    region = _region(x, seed, _around(seed, nodes), neutral)
    targets = set[ir.Value](region.targets(facts))
    return _region(x, seed, needed_for(targets, region.nodes), neutral) if targets else None


def _laid_out(
    node: ir.Node, inside: set[ir.Value], position: Mapping[ir.Node, int], facts: Facts, steps: int = MOST_LAYOUTS
) -> list[ir.Node] | None:
    """The nodes that lay out constants for `node` to read; None where it reads what is neither known nor inside."""
    found: list[ir.Node] = []
    for place, value in enumerate(node.inputs):
        if value is None or value in inside or _is_known(node, place, value, facts):
            continue
        maker = value.producer()
        if maker is None or maker not in position or maker.op_type not in SPREADING or steps == 0:
            return None
        before = _laid_out(maker, set(), position, facts, steps - 1) if maker.domain in ONNX_DOMAINS else None
        if before is None:
            return None
        found += [*before, maker]
    return found


def _differs_from_place_to_place(value: ir.Value, facts: Facts) -> bool:
    """Whether a bound is a vector: it may bite at one place alone, of which there are too many to probe."""
    dtype = facts.dtype(value)
    if dtype is None or not dtype.is_floating_point() or not is_vector(value, facts):
        return False
    array = facts.constant(value)
    return array is None or bool((array != array.reshape(-1)[:1]).any())


def _is_known(node: ir.Node, place: int, value: ir.Value, facts: Facts) -> bool:
    """Whether an input from outside may be read: a constant; from shapes only sizes, axes and single numbers."""
    if node.op_type in PIECEWISE and _differs_from_place_to_place(value, facts):
        return False
    if facts.is_constant(value):
        shape = facts.shape(value)
        return shape is not None and math.prod(shape) <= MOST_ELEMENTS
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


def _region(x: ir.Value, seed: ir.Node, nodes: tuple[ir.Node, ...], neutral: Mapping[ir.Value, float]) -> Region:
    made = {x, *(value for node in nodes for value in node.outputs)}
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None and value not in made)
    return Region(x, seed, nodes, tuple(read), {value: neutral[value] for value in read if value in neutral})


def restrict(region: Region, output: ir.Value) -> Region:
    """The part of the region that computes `output`."""
    return _region(region.x, region.seed, needed_for({output}, region.nodes), region.neutral)


def key(region: Region, facts: Facts) -> Hashable:
    """What two regions share when they compute the same function up to the values of their constant vectors."""
    number: dict[ir.Value | None, int] = {None: -1, region.x: 0}
    constants: list[Hashable] = []
    for value in region.externals:
        number[value] = len(number)
        constants.append(_constant_key(value, facts))
    nodes: list[Hashable] = []
    for node in region.nodes:
        attributes = tuple(sorted((name, _attribute_key(item)) for name, item in node.attributes.items()))
        inputs = tuple(number[value] for value in node.inputs)
        nodes.append((node.domain, node.op_type, facts.opset(node), attributes, inputs, len(node.outputs)))
        for output in node.outputs:
            number[output] = len(number)
    x = region.x
    return (facts.shape(x, 0), facts.shape(x, 1), facts.dtype(x), region.nodes.index(region.seed)), *constants, *nodes


def _attribute_key(item: ir.Attr) -> str:
    return repr(item.as_tensor().numpy() if item.type == ir.AttributeType.TENSOR else item.value)


def is_vector(value: ir.Value, facts: Facts) -> bool:
    """Whether a value from outside is a constant of more than one floating-point number."""
    shape, dtype = facts.shape(value), facts.dtype(value)
    several = shape is not None and math.prod(shape) > 1
    return several and facts.is_constant(value) and dtype is not None and dtype.is_floating_point()


def _constant_key(value: ir.Value, facts: Facts) -> Hashable:
    dtype = facts.dtype(value)
    if is_vector(value, facts):
        return dtype, facts.shape(value)
    if value in facts.moved:
        return dtype, facts.float64(value).tobytes()
    arrays = [facts.derived(value, binding) for binding in range(2)]
    return dtype, *((None, b"") if array is None else (array.shape, array.tobytes()) for array in arrays)
