"""Match one side of a rule in a graph: a pattern is an ONNX function and means what ONNX says it means.

Matching walks back from the node that makes the function's first output. The same name is the same tensor, an
attribute that is not written has its default, commutative operands may stand in either order, a literal Constant
compares by value, and a Constant that refers to an attribute of the function captures the scalar or list it meets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx_ir as ir

from normswap.facts import Facts
from normswap.reference import Array

# What an attribute of a pattern can capture.
Captured = float | int | str | tuple[float, ...] | tuple[int, ...] | tuple[str, ...]

COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min", "Sum", "Mean", "Equal", "And", "Or", "Xor"})


@dataclass(frozen=True, eq=False)
class Match:
    """Where a pattern was found: the graph's value for each of its values, its nodes, and what it captured."""

    values: Mapping[ir.Value, ir.Value] = field(default_factory=dict)
    nodes: Mapping[ir.Node, ir.Node] = field(default_factory=dict)
    captured: Mapping[str, Captured] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Pattern:
    """A function whose inputs match anything, except those in `constants`, which match constants only."""

    function: ir.Function
    constants: frozenset[str] = frozenset()

    @property
    def root(self) -> ir.Node:
        """The node that makes the first output: matching starts there. Raises ValueError if an input is an output."""
        root = self.function.outputs[0].producer()
        if root is None:
            raise ValueError(f"the first output of `{self.function.name}` is not made by a node")
        return root


def find(pattern: Pattern, node: ir.Node, facts: Facts) -> Match | None:
    """The first match of `pattern` whose root is `node`, or None."""
    return next(_node(pattern, pattern.root, node, Match(), facts), None)


def _value(
    pattern: Pattern, wanted: ir.Value | None, actual: ir.Value | None, match: Match, facts: Facts
) -> Iterator[Match]:
    if wanted is None or actual is None:
        if wanted is None and actual is None:  # an omitted optional input matches an omitted one
            yield match
        return
    producer = wanted.producer()
    if producer is not None and is_constant(producer):
        captured = _constant(producer, actual, match.captured, facts)
        if captured is not None:
            yield replace(match, values={**match.values, wanted: actual}, captured=captured)
        return
    if wanted in match.values:
        if match.values[wanted] is actual:
            yield match
        return
    match = replace(match, values={**match.values, wanted: actual})
    if producer is None:
        if wanted.name not in pattern.constants or facts.is_constant(actual):
            yield match
        return
    node = actual.producer()
    if node is not None and actual.index() == wanted.index():
        yield from _node(pattern, producer, node, match, facts)


def _node(pattern: Pattern, wanted: ir.Node, actual: ir.Node, match: Match, facts: Facts) -> Iterator[Match]:
    if wanted in match.nodes:
        if match.nodes[wanted] is actual:
            yield match
        return
    if (wanted.domain, wanted.op_type) != (actual.domain, actual.op_type):
        return
    captured = _attributes(wanted, actual, match.captured, facts)
    inputs, operands = _trimmed(wanted.inputs), _trimmed(actual.inputs)
    if captured is None or len(inputs) != len(operands):
        return
    outputs = zip(wanted.outputs, actual.outputs, strict=False)
    match = replace(
        match, values={**match.values, **dict(outputs)}, nodes={**match.nodes, wanted: actual}, captured=captured
    )
    yield from _inputs(pattern, inputs, operands, match, facts)
    if wanted.domain == "" and wanted.op_type in COMMUTATIVE and len(inputs) == 2:
        yield from _inputs(pattern, inputs, operands[::-1], match, facts)


def _inputs(
    pattern: Pattern,
    wanted: Sequence[ir.Value | None],
    actual: Sequence[ir.Value | None],
    match: Match,
    facts: Facts,
) -> Iterator[Match]:
    if not wanted:
        yield match
        return
    for found in _value(pattern, wanted[0], actual[0], match, facts):
        yield from _inputs(pattern, wanted[1:], actual[1:], found, facts)


def _trimmed(inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value | None]:
    while inputs and inputs[-1] is None:
        inputs = inputs[:-1]
    return inputs


def _attributes(
    wanted: ir.Node, actual: ir.Node, captured: Mapping[str, Captured], facts: Facts
) -> Mapping[str, Captured] | None:
    """What is captured once the attributes of `actual` are those `wanted`; None where they are not."""
    defaults = schema_defaults(actual.domain, actual.op_type, facts.opset(actual))
    for name in {*wanted.attributes, *actual.attributes}:
        written, pattern = actual.attributes.get(name), wanted.attributes.get(name)
        if written is not None and written.is_ref():
            return None  # inside a function whose caller decides
        value = defaults.get(name) if written is None else plain(written)
        if pattern is None:
            if value != defaults.get(name):
                return None
        elif pattern.is_ref():
            reference = str(pattern.ref_attr_name)
            if value is None or captured.get(reference, value) != value:
                return None
            captured = {**captured, reference: value}
        elif value != plain(pattern):
            return None
    return captured


def is_constant(node: ir.Node) -> bool:
    """Whether `node` of a rule is a Constant: a literal, or a capture in `match` and its use in `replace`."""
    return node.domain == "" and node.op_type == "Constant"


def plain(attribute: ir.Attr) -> Captured | None:
    """The value of an attribute that holds numbers or strings; None for tensors, graphs and types."""
    value = attribute.value
    if isinstance(value, float | int | str):
        return value
    if isinstance(value, tuple | list) and all(isinstance(item, float | int | str) for item in value):
        return tuple(value)
    return None


def schema_defaults(domain: str, op_type: str, opset: int) -> Mapping[str, Captured | None]:
    """The defaults that the operator's schema gives to attributes that are not written."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return {}
    protos = {name: item.default_value for name, item in schema.attributes.items() if item.default_value.name}
    return {name: plain(ir.serde.deserialize_attribute(proto)) for name, proto in protos.items()}


def _constant(
    wanted: ir.Node, actual: ir.Value, captured: Mapping[str, Captured], facts: Facts
) -> Mapping[str, Captured] | None:
    """What is captured once the constant `actual` agrees with the Constant node `wanted`; None where it does not."""
    array = facts.constant(actual)
    if array is None:
        return None
    ((kind, attribute),) = wanted.attributes.items()
    if not attribute.is_ref():
        literal = attribute.as_tensor().numpy() if kind == "value" else np.asarray(attribute.value)
        return captured if _same(literal, array, exact_shape=kind == "value") else None
    name, value = str(attribute.ref_attr_name), _scalar_or_list(kind, array)
    if value is None or captured.get(name, value) != value:
        return None
    return {**captured, name: value}


def _same(literal: Array, array: Array, *, exact_shape: bool) -> bool:
    """Whether the two are equal once the literal has the array's type; scalars and lists of one are the same."""
    if literal.size != array.size or (literal.shape != array.shape if exact_shape else array.ndim > 1):
        return False
    if array.dtype.kind not in "iub":  # 0.1 in a float16 model is 0.1 rounded to float16
        literal = literal.astype(array.dtype)
    return bool(np.array_equal(literal.reshape(-1), array.reshape(-1)))


def _scalar_or_list(kind: str, array: Array) -> Captured | None:
    """The array as what `Constant<kind = @name>` captures, floats in double precision; None where it cannot be."""
    integer = array.dtype.kind in "iu"
    if array.ndim > 1 or array.dtype.kind in "bOSU" or integer != kind.startswith("value_int"):
        return None
    items = array.astype(np.int64 if integer else np.float64).reshape(-1).tolist()
    if kind in ("value_ints", "value_floats"):
        return tuple(items)
    scalar: Captured | None = items[0] if len(items) == 1 else None
    return scalar
