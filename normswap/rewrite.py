"""Apply an accepted plan: new constants, explicit maps, and norms without the part that moved.

Nothing else changes: a moved operator keeps its node, name, attributes and operand order. Old constants are never
edited; one that nobody reads any more leaves the graph, and the new one takes over its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from normswap import maps, quantized
from normswap.emit import DOMAIN, Emitter, affine, canonical, explicit
from normswap.facts import Facts
from normswap.maps import Map
from normswap.norm import Norm
from normswap.plan import Plan
from normswap.prove import TOLERANCE, explicit_error
from normswap.scene import Goal


@dataclass(eq=False)
class Change:
    """What `apply` did: norms and values by what took their place, and the explicit maps that were put in."""

    norms: dict[Norm, Norm] = field(default_factory=dict)
    values: dict[ir.Value, ir.Value] = field(default_factory=dict)
    constants: dict[ir.Value, ir.Value] = field(default_factory=dict)
    aliases: list[ir.Value] = field(default_factory=list)  # other names of constants, as moved operators read them
    inserted: dict[ir.Value, ir.Value] = field(default_factory=dict)
    restored: dict[ir.Value, ir.Value] = field(default_factory=dict)  # push: what stands for the old form, to be read


def apply(plan: Plan, facts: Facts, *, eager: bool = True) -> Change:
    """Rewrite the graph that `facts` describe as `plan` says, and extend `facts` to the new values.

    Unless `eager`, no constant is computed now: enough for a trial.

    Raises `emit.NotFinite` where a new constant does not fit into its type; the graph is then half rewritten.
    """
    change, emitter = Change(), Emitter.of(facts, eager=eager)
    _replace_constants(plan, emitter, change)
    for value, a_map in plan.explicit.items():
        if a_map.is_identity:  # of a part that does nothing, such as a bias of zeros, both forms are one
            continue
        nodes = explicit(emitter, a_map, value)
        _insert_after(value, nodes)
        change.inserted[value] = nodes[-1].outputs[0]
        if plan.direction == "pull":
            _redirect(plan, value, nodes[-1].outputs[0])
        else:
            change.restored[value] = nodes[-1].outputs[0]
            _restore(plan, emitter, value, nodes)
    for goal in plan.goals:
        change.norms[goal.norm] = _rebuild(plan, goal, emitter, change)
    _drop_unused(change.constants, facts)
    for value in change.aliases:
        if (named := value.producer()) is not None:
            _remove_dead(named)
    _audit(plan, change, facts)
    return change


class Broken(Exception):
    """A rewrite that is not what was planned and proved: a bug, found before anything is kept."""


def _audit(plan: Plan, change: Change, facts: Facts) -> None:
    """Whether every explicit map computes what it stands for, and who must read its result does."""
    for old, inserted in change.inserted.items():
        value = _now(change, old)  # what a norm gave out may by now come from what is left of the norm
        error = explicit_error(plan.explicit[old], value, inserted, facts)
        if not error <= TOLERANCE:
            raise Broken(f"the explicit map behind `{value.name}` differs by {error:.1e}")
        slots = [(use.node, use.idx) for use in value.uses()]
        if plan.direction == "pull":
            wrong = [node for node, index in slots if index in _moved_inputs(plan, node)]
        else:
            own = {node for node, _ in slots if node.outputs[0] in _chain(inserted, value)}
            wrong = [node for node, index in slots if index not in _moved_inputs(plan, node) and node not in own]
            if value.is_graph_output():
                raise Broken(f"an output still delivers `{value.name}`, which moved")
        if wrong:
            raise Broken(f"{wrong[0].op_type} `{wrong[0].name}` reads the wrong form of `{value.name}`")


def _chain(last: ir.Value, first: ir.Value) -> set[ir.Value]:
    """The values from `last` back to, and without, `first`."""
    chain, pending = set(), [last]
    while pending:
        value = pending.pop()
        producer = value.producer()
        if value is not first and producer is not None and value not in chain:
            chain.add(value)
            pending += [source for source in producer.inputs if source is not None and source.const_value is None]
    return chain


def followed(norms: Iterable[Norm], change: Change) -> list[Norm]:
    """The norms after `change`: those that lost a part replaced, the others reading the values that are there now."""
    result = [change.norms.get(norm, norm) for norm in norms]
    return [replace(norm, input=_read(change, norm.input), output=_now(change, norm.output)) for norm in result]


def _now(change: Change, value: ir.Value) -> ir.Value:
    while value in change.values:
        value = change.values[value]
    return value


def _read(change: Change, value: ir.Value) -> ir.Value:
    """What stands for `value` where it is read in its old form."""
    while value in change.restored or value in change.values:
        value = change.restored[value] if value in change.restored else change.values[value]
    return value


# --- constants ------------------------------------------------------------------------------------------------------


def _replace_constants(plan: Plan, emitter: Emitter, change: Change) -> None:
    """One new constant per old one and map, shared by all moved operators that want it."""
    facts = emitter.facts
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
                change.aliases += [] if old is read else [read]
                key = (old, a_map.key())
                if key not in made:
                    made[key] = _remade(emitter, old, a_map)
                    change.constants[old] = made[key]
                new = made[key]
            node.replace_input_with(index, new)
        for name, number in step.attributes.items():
            node.attributes[name] = ir.AttrFloat32(name, number)


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


def _drop_unused(replaced: Mapping[ir.Value, ir.Value], facts: Facts) -> None:
    graph = facts.model.graph
    for old, new in replaced.items():
        if facts.readers(old) or old.is_graph_output() or old.is_graph_input():
            continue
        if old.is_initializer() and old.graph is graph:
            name = old.name
            assert name is not None
            del graph.initializers[name]
            del graph.initializers[new.name or ""]
            for use in list(old.uses()):  # other names, which nobody reads any more either
                use.node.replace_input_with(use.idx, new)
            new.name = name
            graph.register_initializer(new)
        elif (node := old.producer()) is not None:
            _remove_dead(node)


def _remove_dead(node: ir.Node) -> None:
    """Remove `node` if nobody reads it, and then what served only it."""
    graph = node.graph
    if graph is None or any(value.uses() or value.is_graph_output() for value in node.outputs):
        return
    sources = [value for value in node.inputs if value is not None]
    graph.remove(node, safe=True)
    drop_unread(sources)


def become(node: ir.Node, like: ir.Node, inputs: list[ir.Value]) -> None:
    """Let `node`, with its name and its result, do what `like` does."""
    attributes = dict(like.attributes)
    node.op_type, node.domain, node.version = like.op_type, like.domain, like.version
    node.attributes.clear()
    node.attributes.update(attributes)
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)


def drop_unread(values: Iterable[ir.Value]) -> None:
    """Remove the initializers among `values` that nobody reads any more, and what made the others."""
    for value in values:
        producer, home = value.producer(), value.graph
        if producer is not None:
            _remove_dead(producer)
        elif value.is_initializer() and not (value.is_graph_input() or value.is_graph_output() or value.uses()):
            assert isinstance(home, ir.Graph)
            home.initializers.pop(value.name or "", None)


# --- explicit maps --------------------------------------------------------------------------------------------------


def _moved_inputs(plan: Plan, node: ir.Node) -> Mapping[int, Map]:
    step = plan.steps.get(node)
    return {} if step is None else step.inputs


def _redirect(plan: Plan, value: ir.Value, changed: ir.Value) -> None:
    """pull: `changed` is the changed form of `value`, for the moved operators that read it."""
    for use in list(value.uses()):
        if use.idx in _moved_inputs(plan, use.node):
            use.node.replace_input_with(use.idx, changed)


def _restore(plan: Plan, emitter: Emitter, value: ir.Value, nodes: list[ir.Node]) -> None:
    """push: `value` is now made in changed form; everybody who is not moved reads the restored one, by its old name."""
    restored, own = nodes[-1].outputs[0], set(nodes)
    for use in list(value.uses()):
        if use.node not in own and use.idx not in _moved_inputs(plan, use.node):
            use.node.replace_input_with(use.idx, restored)
    name = value.name
    value.name = emitter.name(f"{name}/unmoved")
    restored.name = name
    home = nodes[-1].graph
    assert home is not None
    outputs = home.outputs
    for index, output in enumerate(outputs):
        if output is value:
            outputs[index] = restored


def _insert_after(value: ir.Value, nodes: list[ir.Node]) -> None:
    producer = value.producer()
    if producer is not None and producer.graph is not None:
        producer.graph.insert_after(producer, nodes)
        return
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(next(iter(graph)), nodes)


# --- norms ----------------------------------------------------------------------------------------------------------


def _audit_affine(norm: Norm, source: ir.Value, result: ir.Value, facts: Facts) -> None:
    """Whether the nodes between `source` and `result` compute the Affine that is left of a norm."""
    gain, bias = (None if part is None else part.array for part in (norm.gain, norm.bias))
    error = explicit_error(maps.affine(facts.rank(norm.output) or 0, gain, bias), source, result, facts)
    if not error <= TOLERANCE:
        raise Broken(f"what is left of {norm.kind} `{norm.name}` differs by {error:.1e}")


def _delivered(emitter: Emitter, norm: Norm, source: ir.Value) -> list[ir.Node]:
    """What gives `source` the name of the model's output that the norm delivered: nothing, or else an Identity."""
    producer = source.producer()
    if producer is None or source.is_graph_output() or producer.graph is not norm.nodes[-1].graph:
        return [emitter.node("Identity", [source], f"{norm.name}/identity", norm.output)]
    source.name, norm.output.name = norm.output.name, None
    return []


def _rebuild(plan: Plan, goal: Goal, emitter: Emitter, change: Change) -> Norm:
    """Replace the norm's region by what remains of it; its output and its last node keep their names."""
    norm, remaining = goal.norm, goal.remaining
    source = _read(change, norm.input)
    if plan.direction == "pull":
        source = change.inserted.get(goal.value, source)
    anchor = norm.nodes[-1]
    graph = anchor.graph
    assert graph is not None
    nodes = (canonical if remaining.parts.root_mean_square else affine)(emitter, remaining, source)
    if not nodes and norm.output.is_graph_output():
        nodes = _delivered(emitter, norm, source)
    graph.insert_after(anchor, nodes)
    new = nodes[-1].outputs[0] if nodes else source
    if nodes and not remaining.parts.root_mean_square:
        _audit_affine(remaining, source, new, emitter.facts)
    norm.output.replace_all_uses_with(new, replace_graph_outputs=True)
    change.values[norm.output] = new
    for node in reversed(norm.nodes):
        _remove_dead(node)
    if nodes:
        core = nodes[0]
        core.name = anchor.name
        core.metadata_props.update(anchor.metadata_props)
        name, norm.output.name = norm.output.name, None
        new.name = name
    kept = tuple(node for node in nodes if node.domain == DOMAIN)
    return replace(remaining, input=source, output=new, nodes=tuple(nodes) if remaining.bias else kept)
