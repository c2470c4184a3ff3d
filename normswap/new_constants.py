"""New constants in the place of old ones: a map of each, one for all the moved operators that want it.

Old constants are never edited. One that nobody reads any more leaves the graph, and the new one takes over its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from normswap import quantized
from normswap.emit import Emitter
from normswap.facts import Facts
from normswap.graph_edits import remove_dead
from normswap.maps import Map
from normswap.plan import Plan


@dataclass(eq=False)
class Replaced:
    """Old constants by the new ones, and other names of old ones, as moved operators read them."""

    constants: dict[ir.Value, ir.Value] = field(default_factory=dict)
    aliases: list[ir.Value] = field(default_factory=list)
    copies: dict[ir.Value, ir.Value] = field(default_factory=dict)  # new constants whose old ones are still read


def replace_constants(plan: Plan, emitter: Emitter) -> Replaced:
    """One new constant per old one and map, shared by all moved operators that want it."""
    facts, replaced = emitter.facts, Replaced()
    made: dict[tuple[object, ...], ir.Value] = {}
    for node, step in plan.steps.items():
        for index, a_map in step.constants.items():
            if index in step.created:
                dtype = facts.dtype(node.outputs[0]) or ir.DataType.FLOAT
                new = emitter.constant(f"{node.name or node.op_type}/bias", step.created[index], a_map, dtype)
                node.resize_inputs(max(len(node.inputs), index + 1))
            else:
                read = node.inputs[index]
                assert read is not None
                old = facts.origin(read)
                replaced.aliases += [] if old is read else [read]
                key = (old, a_map.key())
                if key not in made:
                    made[key] = _remade(emitter, old, a_map)
                    replaced.constants[old] = made[key]
                new = made[key]
            node.replace_input_with(index, new)
        for name, number in step.attributes.items():
            node.attributes[name] = ir.AttrFloat32(name, number)
    return replaced


def _remade(emitter: Emitter, old: ir.Value, a_map: Map) -> ir.Value:
    """The constant `a_map` of `old`: an initializer, or where `old` is quantized the same integers on other scales."""
    facts, producer = emitter.facts, old.producer()
    if producer is not None:
        facts.constant(old)  # what it is computed from may soon be gone
    on_scales = quantized.on_scales(old, a_map, facts) if quantized.is_quantized(old) else None
    if on_scales is None or producer is None or producer.inputs[1] is None:
        return emitter.constant(f"{old.name}/moved", old, a_map, facts.dtype(old) or ir.DataType.FLOAT)
    scales = producer.inputs[1]
    factor = emitter.constant(f"{scales.name}/moved", scales, on_scales, facts.dtype(scales) or ir.DataType.FLOAT)
    node = quantized.with_scales(old, factor, emitter.name(f"{old.name}/moved"))
    graph = producer.graph
    assert graph is not None
    graph.insert_after(producer, node)
    facts.declare(node.outputs[0], old)
    facts.move(node.outputs[0], old, a_map)
    return node.outputs[0]


def drop_replaced(replaced: Replaced, facts: Facts) -> None:
    """Remove the old constants that nobody reads any more; the new ones take over their names."""
    graph = facts.model.graph
    for old, new in replaced.constants.items():
        if facts.readers(old) or old.is_graph_output() or old.is_graph_input():
            replaced.copies[old] = new
            continue
        if old.is_initializer() and old.graph is graph:
            name = old.name
            assert name is not None
            del graph.initializers[name]
            if graph.initializers.pop(new.name or "", None) is None:
                continue  # nobody reads the new one either: the norm behind it was dead, and is gone
            for use in list(old.uses()):  # other names, which nobody reads any more either
                use.node.replace_input_with(use.idx, new)
            new.name = name
            graph.register_initializer(new)
        elif (node := old.producer()) is not None:
            remove_dead(node)
    for value in replaced.aliases:
        if (named := value.producer()) is not None:
            remove_dead(named)
