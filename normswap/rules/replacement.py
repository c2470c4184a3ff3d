"""Put the other side of a rule in the place of a match: nodes with only constant inputs are evaluated, others emitted.

Weights are computed in float64 and rounded once, to the type of the match's data. What the rule returns keeps the
names of what it replaces; everything new is named `<site>/<name in the rule>` and says which rule made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from normswap import reference
from normswap.facts import Facts
from normswap.reference import Array
from normswap.rules.pattern import Captured, Match, is_constant
from normswap.rules.read import Rule

# The key under which a new node says which rule made it.
METADATA = "normswap.rule"


class Inapplicable(Exception):
    """The rule matches, but what it captured cannot be written as it says."""


@dataclass
class Emitted:
    """New nodes, not yet in a graph: `outputs` stand for those of the match, `arrays` are new constants in float64."""

    nodes: list[ir.Node] = field(default_factory=list)
    outputs: list[ir.Value] = field(default_factory=list)
    arrays: dict[ir.Value, Array] = field(default_factory=dict)


def emit(rule: Rule, match: Match, facts: Facts, site: str, fresh: Callable[[str], str]) -> Emitted:
    """The nodes of `rule.replace` for `match`; `fresh` makes a name unique. Raises `Inapplicable`, `Unexecutable`."""
    emitted = Emitted()
    try:
        _emit(emitted, rule, match, facts, site, fresh)
    except (Inapplicable, reference.Unexecutable):
        discard(emitted)
        raise
    return emitted


def discard(emitted: Emitted) -> None:
    """Let nodes that were put nowhere read nothing: what they read does not count them as readers."""
    for node in emitted.nodes:
        node.resize_inputs(0)


def _emit(emitted: Emitted, rule: Rule, match: Match, facts: Facts, site: str, fresh: Callable[[str], str]) -> None:
    inputs = [match.values[value] for value in rule.match.function.inputs]
    taken: dict[ir.Value, ir.Value] = dict(zip(rule.replace.inputs, inputs, strict=True))
    known: dict[ir.Value, Array] = {}
    for value, actual in taken.items():
        if facts.is_constant(actual):
            known[value] = exact(actual, facts)
    types = dict.fromkeys(known, data_type(inputs, facts))

    def operand(value: ir.Value | None) -> ir.Value | None:
        if value is not None and value not in taken:
            dtype = types.get(value, data_type(inputs, facts))
            name = fresh(f"{site}/{value.name}")
            taken[value] = new_constant(name, known[value], dtype)
            emitted.arrays[taken[value]] = known[value]
        return None if value is None else taken[value]

    for node in rule.replace:
        if is_constant(node):
            known[node.outputs[0]] = literal(node, match.captured)
        elif node.inputs and all(value is None or value in known for value in node.inputs):
            arrays = [None if value is None else known[value] for value in node.inputs]
            stand_in = _copy(node, [None if v is None else ir.Value(name=v.name) for v in node.inputs], match.captured)
            opset = rule.replace.opset_imports.get(node.domain, 1)
            known.update(zip(node.outputs, reference.run(stand_in, arrays, opset), strict=False))
            if node.op_type == "Cast":
                types[node.outputs[0]] = ir.DataType(stand_in.attributes["to"].as_int())
        else:
            new = _copy(node, [operand(value) for value in node.inputs], match.captured)
            emitted.nodes.append(new)
            _check_representable(new, match.captured)
            new.metadata_props[METADATA] = rule.name
            for value, output in zip(node.outputs, new.outputs, strict=True):
                taken[value] = output
                output.name = fresh(f"{site}/{value.name}")
            new.name = site if rule.replace.outputs[0] in node.outputs else new.outputs[0].name
    for value in rule.replace.outputs:
        if value not in taken or taken[value].producer() not in emitted.nodes:
            raise Inapplicable(f"{rule.name}: output `{value.name}` of `replace` is a constant or an input")
        emitted.outputs.append(taken[value])


def exact(value: ir.Value, facts: Facts) -> Array:
    """The constant `value`, floats in float64 and before the rounding of a constant that a plan made."""
    array = facts.float64(value) if value in facts.moved else facts.constant(value)
    assert array is not None, value.name
    return reference.promote(array)


def data_type(inputs: Sequence[ir.Value], facts: Facts) -> ir.DataType:
    """The float type that new constants get: that of the match's first float input, data before constants."""
    for value in sorted(inputs, key=facts.is_constant):
        dtype = facts.dtype(value)
        if dtype is not None and dtype.is_floating_point():
            return dtype
    return ir.DataType.FLOAT


def fits(rule: Rule, match: Match, facts: Facts) -> bool:
    """Whether the match is in one graph, and the rule meant for the type, rank and shapes of its data."""
    named = {str(value.name): match.values[value] for value in rule.match.function.inputs}
    inputs = list(named.values())
    if len({node.graph for node in match.nodes.values()}) > 1:  # a body reads a value of the graph around it
        return False
    if rule.types and data_type(inputs, facts) not in rule.types:
        return False
    if rule.ranks and facts.rank(inputs[0]) not in rule.ranks:
        return False
    last = (facts.dims(inputs[0]) or (None,))[-1:]
    vectors = {facts.dims(named[name]) for name in rule.along_last if name in named}
    return _of_one_shape([named[name] for name in rule.same_shape], facts) and (
        not vectors or (vectors == {last} and None not in last)
    )


def _of_one_shape(values: Sequence[ir.Value], facts: Facts) -> bool:
    """Whether these values have the same shape, whatever the free sizes are."""
    shapes = {tuple(facts.shape(value, binding) for binding in range(2)) for value in values}
    taken_for_equal = facts.by_axis and any(None in (facts.dims(value) or (None,)) for value in values)
    return not values or (len(shapes) == 1 and (None, None) not in shapes and not taken_for_equal)


def _copy(node: ir.Node, inputs: Sequence[ir.Value | None], captured: Mapping[str, Captured]) -> ir.Node:
    attributes = [
        ir.Attr(attribute.name, attribute.type, captured[str(attribute.ref_attr_name)])
        if attribute.is_ref()
        else attribute
        for attribute in node.attributes.values()
    ]
    return ir.Node(node.domain, node.op_type, inputs, attributes, num_outputs=len(node.outputs), name=node.name)


def _check_representable(node: ir.Node, captured: Mapping[str, Captured]) -> None:
    """Float attributes are stored in float32: a captured float64 that would be rounded makes the rule inexact."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.FLOAT and attribute.value in captured.values():
            value = attribute.as_float()
            nearest = float(np.float32(value))
            if nearest != value:
                said = f"{attribute.name} = {value!r} is not a float32, as the attribute is; the nearest is {nearest!r}"
                raise Inapplicable(f"{node.op_type}: {said}")


def literal(node: ir.Node, captured: Mapping[str, Captured]) -> Array:
    """The array that a Constant node of a rule stands for, floats in float64."""
    ((kind, attribute),) = node.attributes.items()
    if kind == "value":
        return reference.promote(np.asarray(attribute.as_tensor().numpy()))
    value = captured[str(attribute.ref_attr_name)] if attribute.is_ref() else attribute.value
    return np.asarray(value, dtype=np.int64 if kind.startswith("value_int") else np.float64)


def new_constant(name: str, array: Array, dtype: ir.DataType) -> ir.Value:
    """A constant not yet in a graph: `array`, rounded to `dtype` if it is of floats."""
    stored = array.astype(dtype.numpy()) if array.dtype == np.float64 else array
    tensor = ir.tensor(stored, dtype=dtype if array.dtype == np.float64 else None, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(stored.shape), const_value=tensor)


def substitute(rule: Rule, match: Match, emitted: Emitted, facts: Facts) -> None:
    """Put `emitted` where `match` is: outputs keep name, type, shape and readers; what is then unused is removed."""
    root = match.nodes[rule.match.root]
    graph = root.graph
    assert isinstance(graph, ir.Graph)
    first = _makes_all_further_outputs(rule, match, facts)
    if first is None:
        graph.insert_before(root, emitted.nodes)
    else:
        graph.insert_after(first, emitted.nodes)
    for constant in emitted.arrays:
        place_constant(constant, emitted.nodes[0], facts.model)
    last = emitted.outputs[0].producer()
    assert last is not None
    for key, text in root.metadata_props.items():
        last.metadata_props.setdefault(key, text)
    last.doc_string = root.doc_string
    for wanted, new in zip(rule.match.function.outputs, emitted.outputs, strict=True):
        old = match.values[wanted]
        new.name, new.type, new.shape, new.doc_string = old.name, old.type, old.shape, old.doc_string
        new.metadata_props.update(old.metadata_props)
        facts.declare(new, old)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = None
    if len(emitted.outputs) > 1 and first is None:
        graph.sort()  # a reader of a further output may stand before the root; the sort is stable
    in_function = any(function.graph is graph for function in facts.model.functions.values())
    imports = graph.opset_imports if in_function else facts.model.opset_imports  # a body has those of its model
    for domain, version in rule.replace.opset_imports.items():
        if any(node.domain == domain for node in emitted.nodes):
            imports.setdefault(domain, version)
    operands = [value for node in match.nodes.values() for value in node.inputs if value is not None]
    for _ in match.nodes:  # in any order: a node goes when its last reader has gone
        for node in match.nodes.values():
            if node.graph is graph and not any(value.uses() or value.is_graph_output() for value in node.outputs):
                graph.remove(node, safe=True)
    for value in operands:
        _drop(value, graph)


def _makes_all_further_outputs(rule: Rule, match: Match, facts: Facts) -> ir.Node | None:
    """The node that makes all outputs of the match but the first, if all that the new nodes read stands before it.

    These outputs depend on every run-time input (`verify` sees to it), so that only constants may stand elsewhere.
    """
    makers = {match.values[value].producer() for value in rule.match.function.outputs[1:]}  # none for one output
    inputs = [match.values[value] for value in rule.match.function.inputs]
    made = any(value.producer() is not None for value in inputs if facts.is_constant(value))
    return makers.pop() if len(makers) == 1 and not made else None


def place_constant(value: ir.Value, before: ir.Node, model: ir.Model) -> None:
    """Make the free constant `value` an initializer of the graph of `before`; where there are none, a Constant node.

    Functions have no initializers, and before IR version 4 they stand beside graph inputs of the same name.
    """
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    assert value.const_value is not None
    if model.ir_version >= 4 and not any(function.graph is graph for function in model.functions.values()):
        graph.register_initializer(value)
        return
    output = ir.Value(name=value.name, type=value.type, shape=value.shape)
    node = ir.Node("", "Constant", [], [ir.AttrTensor("value", value.const_value)], outputs=[output], name=value.name)
    value.replace_all_uses_with(output)
    graph.insert_before(before, node)


def _drop(value: ir.Value, graph: ir.Graph) -> None:
    """Remove a constant that nothing reads any more."""
    if value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    node = value.producer()
    if value.is_initializer():
        graph.initializers.pop(str(value.name), None)
    elif node is not None and is_constant(node) and node.graph is graph:
        graph.remove(node, safe=True)
