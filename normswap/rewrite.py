"""Apply an accepted plan: new constants, explicit maps, and norms without the part that moved.

Nothing else changes: a moved operator keeps its node, name, attributes and operand order. Old constants are never
edited; one that nobody reads any more leaves the graph, and the new one takes over its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from normswap import maps
from normswap.canonical import canonical
from normswap.emit import DOMAIN, Emitter, affine, explicit
from normswap.facts import Facts
from normswap.graph_edits import remove_dead
from normswap.maps import Map
from normswap.new_constants import drop_replaced, replace_constants
from normswap.norm import Norm
from normswap.plan import Plan
from normswap.prove import TOLERANCE, explicit_error
from normswap.scene import Goal


@dataclass(eq=False)
class Change:
    """What `apply` did: norms and values by what took their place, and the explicit maps that were put in."""

    norms: dict[Norm, Norm] = field(default_factory=dict)
    values: dict[ir.Value, ir.Value] = field(default_factory=dict)
    copies: dict[ir.Value, ir.Value] = field(
        default_factory=dict
    )  # constants that are read as they were, and their copies
    inserted: dict[ir.Value, ir.Value] = field(default_factory=dict)
    restored: dict[ir.Value, ir.Value] = field(default_factory=dict)  # push: what stands for the old form, to be read


def apply(plan: Plan, facts: Facts, *, eager: bool = True) -> Change:
    """Rewrite the graph that `facts` describe as `plan` says, and extend `facts` to the new values.

    Unless `eager`, no constant is computed now: enough for a trial.

    Raises `emit.NotFinite` where a new constant does not fit into its type; the graph is then half rewritten.
    """
    change, emitter = Change(), Emitter.of(facts, eager=eager)
    replaced = replace_constants(plan, emitter)
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
    drop_replaced(replaced, facts)
    change.copies.update(replaced.copies)
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
    source.type, source.shape = norm.output.type or source.type, norm.output.shape or source.shape
    source.doc_string = norm.output.doc_string or source.doc_string
    source.metadata_props.update(norm.output.metadata_props)
    source.meta.update(norm.output.meta)
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
        remove_dead(node)
    if nodes:
        core = nodes[0]
        core.name = anchor.name
        core.metadata_props.update(anchor.metadata_props)
        name, norm.output.name = norm.output.name, None
        new.name = name
    kept = tuple(node for node in nodes if node.domain == DOMAIN)
    return replace(remaining, input=source, output=new, nodes=tuple(nodes) if remaining.bias else kept)
