"""Bundled operators, read as what they are: SkipLayerNormalization is Add, then LayerNorm.

A working copy has every bundle taken apart before recognition, so that one mechanism sees residual Adds and norms.
Bundles whose pieces no plan replaced are put together again, with the same names, before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from normswap.taken_apart import BUNDLES, DOMAIN, Apart, Outputs


@dataclass(frozen=True, eq=False)
class Link:
    """That an input of one piece is what another piece makes."""

    reader: ir.Node
    at: int
    value: ir.Value


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle that was taken apart: what it was called and had, and its pieces in their order.

    `slots` say which of its inputs each input of a piece is, `unread` are those that no piece needs, `outputs` say by
    what each of its outputs is made, and `written` what the attributes of the pieces are.
    """

    operator: str
    name: str | None
    attributes: Mapping[str, ir.Attr]
    metadata: Mapping[str, str]
    names: tuple[str | None, ...]
    unread: Mapping[int, ir.Value]
    pieces: tuple[ir.Node, ...]
    slots: tuple[tuple[int, ir.Node, int], ...]
    links: tuple[Link, ...]
    outputs: Outputs
    written: Mapping[ir.Node, Mapping[str, object]]


def unbundle(model: ir.Model) -> tuple[Bundle, ...]:
    """Take every bundle of `model` apart, in place, of which it can be said what its pieces are."""
    nodes = [node for graph in model.graphs() for node in graph]
    found = [node for node in nodes if node.domain == DOMAIN and node.op_type in BUNDLES]
    if not found:
        return ()
    names = {value.name or "" for graph in model.graphs() for value in (*graph.inputs, *graph.initializers.values())}
    names.update(value.name or "" for node in nodes for value in node.outputs)
    opset = model.opset_imports.get("", 1)
    taken = (_take_apart(Apart(node, opset, names)) for node in found)
    return tuple(bundle for bundle in taken if bundle is not None)


def _take_apart(apart: Apart) -> Bundle | None:
    node, graph = apart.node, apart.node.graph
    assert graph is not None
    outputs = BUNDLES[node.op_type](apart)
    if outputs is None:
        return None
    there = {index: value for index, value in outputs.items() if index < len(node.outputs)}
    slotted = {index for index, _, _ in apart.slots}
    made = {value for piece in apart.pieces for value in piece.outputs}
    bundle = Bundle(
        node.op_type,
        node.name,
        dict(node.attributes),
        dict(node.metadata_props),
        tuple(value.name for value in node.outputs),
        {index: value for index, value in enumerate(node.inputs) if value is not None and index not in slotted},
        tuple(apart.pieces),
        tuple(apart.slots),
        tuple(
            Link(piece, at, value)
            for piece in apart.pieces
            for at, value in enumerate(piece.inputs)
            if value is not None and value in made
        ),
        there,
        {piece: _values(piece) for piece in apart.pieces},
    )
    graph.insert_after(node, apart.pieces)
    for index, value in there.items():
        value.type, value.shape = node.outputs[index].type, node.outputs[index].shape
        _replace(node.outputs[index], value)
    graph.remove(node, safe=True)
    return bundle


def _values(node: ir.Node) -> dict[str, object]:
    return {name: item.value for name, item in node.attributes.items()}


def _replace(old: ir.Value, new: ir.Value) -> None:
    """`new` under the name of `old`, for all who read that."""
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    name, old.name = old.name, None
    if name:
        new.name = name


def rebundle(bundles: Iterable[Bundle]) -> None:
    """Put together again, in place, every bundle whose pieces are all still there."""
    for bundle in bundles:
        if _is_whole(bundle):
            _put_together(bundle)


def extra(bundles: Iterable[Bundle]) -> tuple[int, int]:
    """How many nodes, and bytes of constants, there are only because bundles are apart that can be put together."""
    whole = [bundle for bundle in bundles if _is_whole(bundle)]
    constants = (node for bundle in whole for node in bundle.pieces if node.op_type == "Constant")
    size = sum(node.attributes["value"].as_tensor().nbytes for node in constants)
    return sum(len(bundle.pieces) - 1 for bundle in whole), size


def _is_whole(bundle: Bundle) -> bool:
    """Whether the pieces still are what they were and read each other, and nobody reads what the bundle would hide."""
    if any(node.graph is None for node in bundle.pieces):
        return False
    if any(
        link.at >= len(link.reader.inputs) or link.reader.inputs[link.at] is not link.value for link in bundle.links
    ):
        return False
    if any(_values(node) != {**old, **_epsilon_of(node)} for node, old in bundle.written.items()):
        return False
    inside, shown = set(bundle.pieces), set(bundle.outputs.values())
    hidden = [value for node in bundle.pieces for value in node.outputs if value not in shown]
    if any(value.is_graph_output() or any(use.node not in inside for use in value.uses()) for value in hidden):
        return False
    sources = (value.producer() for value in bundle.unread.values())
    if any(source is not None and source.graph is None for source in sources):
        return False
    return all(len(values) == 1 for values in _inputs(bundle).values())


def _epsilon_of(node: ir.Node) -> dict[str, object]:
    """ε, which a map may have changed on its way through a norm."""
    return {name: value for name, value in _values(node).items() if name == "epsilon"}


def _inputs(bundle: Bundle) -> dict[int, set[ir.Value | None]]:
    """What the pieces now read for each input of the bundle: one value, unless some of them read another one now."""
    found: dict[int, set[ir.Value | None]] = {}
    for index, node, at in bundle.slots:
        found.setdefault(index, set()).add(_read(node, at))
    return found


def _read(node: ir.Node, at: int) -> ir.Value | None:
    return node.inputs[at] if at < len(node.inputs) else None


def _put_together(bundle: Bundle) -> None:
    last = bundle.pieces[-1]
    graph = last.graph
    assert graph is not None
    given = {**bundle.unread, **{index: next(iter(values)) for index, values in _inputs(bundle).items()}}
    inputs = [given.get(index) for index in range(max(given) + 1)]
    while inputs[-1] is None:
        inputs.pop()
    node = ir.Node(
        DOMAIN, bundle.operator, inputs, _attributes(bundle), num_outputs=len(bundle.names), name=bundle.name
    )
    node.metadata_props.update(bundle.metadata)
    graph.insert_after(last, node)
    for index, (new, name) in enumerate(zip(node.outputs, bundle.names, strict=True)):
        if index not in bundle.outputs:
            new.name = name
            continue
        old = bundle.outputs[index]
        new.type, new.shape = old.type, old.shape
        _replace(old, new)
    for piece in reversed(bundle.pieces):
        graph.remove(piece, safe=True)


def _attributes(bundle: Bundle) -> list[ir.Attr]:
    """The attributes it had; ε as its norm has it now, where that was changed."""
    attributes = dict(bundle.attributes)
    for node, old in bundle.written.items():
        for name, value in _epsilon_of(node).items():
            if value != old.get(name):
                attributes[name] = node.attributes[name]
    return list(attributes.values())
