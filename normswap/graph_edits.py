"""Small edits of a graph: what nobody reads any more goes, a node turns into another one and keeps its name."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir


def remove_dead(node: ir.Node) -> None:
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
            remove_dead(producer)
        elif value.is_initializer() and not (value.is_graph_input() or value.is_graph_output() or value.uses()):
            assert isinstance(home, ir.Graph)
            home.initializers.pop(value.name or "", None)
