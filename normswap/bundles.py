"""Bundled operators, read as what they are: SkipLayerNormalization is Add, then LayerNorm.

A working copy has every bundle taken apart before recognition, so that one mechanism sees residual Adds and norms.
Bundles whose pieces no plan replaced are put together again, with the same names, before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

DOMAIN = "com.microsoft"
# The norm inside each bundle (onnxruntime has it in the default domain, at any opset), and the positions of its
# parameters: gamma, beta, bias.
# Source: com.microsoft operator definitions of onnxruntime (docs/ContribOperators.md).
BUNDLES: Mapping[str, tuple[str, Sequence[int], int]] = {
    "SkipLayerNormalization": ("LayerNormalization", (2, 3), 4),
    "SkipSimplifiedLayerNormalization": ("SimplifiedLayerNormalization", (2,), 3),
}
SUM = 3  # the output that carries input + skip + bias


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle that was taken apart: what it was called and had, and its pieces."""

    operator: str
    name: str | None
    attributes: tuple[ir.Attr, ...]
    metadata: Mapping[str, str]
    had_sum: bool
    sums: tuple[ir.Node, ...]
    norm: ir.Node


def unbundle(model: ir.Model) -> tuple[Bundle, ...]:
    """Take every bundle of `model` apart, in place."""
    nodes = [node for graph in model.graphs() for node in graph]
    found = [node for node in nodes if node.domain == DOMAIN and node.op_type in BUNDLES]
    return tuple(_take_apart(node) for node in found if not _statistics_used(node))


def _statistics_used(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs[1:SUM])


def _take_apart(node: ir.Node) -> Bundle:
    graph = node.graph
    assert graph is not None
    operator, parameters, bias_at = BUNDLES[node.op_type]
    inputs = [*node.inputs, *([None] * (bias_at + 1 - len(node.inputs)))]
    name = node.name or node.outputs[0].name
    terms = [value for value in (inputs[1], inputs[bias_at]) if value is not None]
    sums: list[ir.Node] = []
    total = inputs[0]
    for term in terms:
        output = ir.Value(name=f"{name}/sum{len(sums) or ''}", type=node.outputs[0].type, shape=node.outputs[0].shape)
        sums.append(ir.Node("", "Add", [total, term], outputs=[output], name=output.name))
        total = output
    affine = [inputs[index] for index in parameters]
    kept = [attribute for key, attribute in node.attributes.items() if key == "epsilon"]
    output = ir.Value(name=None, type=node.outputs[0].type, shape=node.outputs[0].shape)
    norm = ir.Node("", operator, [total, *affine], kept, outputs=[output], name=node.name)
    had_sum = len(node.outputs) > SUM
    bundle = Bundle(
        node.op_type, node.name, tuple(node.attributes.values()), dict(node.metadata_props), had_sum, tuple(sums), norm
    )
    graph.insert_after(node, [*sums, norm])
    if had_sum:
        assert total is not None
        _replace(node.outputs[SUM], total)
    _replace(node.outputs[0], output)
    graph.remove(node, safe=True)
    return bundle


def _replace(old: ir.Value, new: ir.Value) -> None:
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    name, old.name = old.name, None
    new.name = name


def rebundle(bundles: Iterable[Bundle]) -> None:
    """Put together again, in place, every bundle whose pieces are all still there."""
    for bundle in bundles:
        pieces_are_there = all(node.graph is not None for node in (*bundle.sums, bundle.norm))
        if pieces_are_there and all(node.op_type == "Add" for node in bundle.sums) and _is_whole(bundle):
            _put_together(bundle)


def _is_whole(bundle: Bundle) -> bool:
    """Whether the pieces still read each other, and nobody else reads what the bundle would hide."""
    chain = [*bundle.sums, bundle.norm]
    linked = all(second.inputs[0] is first.outputs[0] for first, second in pairwise(chain))
    hidden = list(_hidden(bundle))
    return linked and all(len(value.uses()) == 1 and not value.is_graph_output() for value in hidden)


def _hidden(bundle: Bundle) -> Iterator[ir.Value]:
    yield from (node.outputs[0] for node in bundle.sums[:-1])
    if not bundle.had_sum:
        yield bundle.sums[-1].outputs[0]


def _put_together(bundle: Bundle) -> None:
    _, parameters, bias_at = BUNDLES[bundle.operator]
    graph = bundle.norm.graph
    assert graph is not None
    inputs: list[ir.Value | None] = [None] * (bias_at + 1)
    inputs[0], inputs[1] = bundle.sums[0].inputs[0], bundle.sums[0].inputs[1]
    for index, value in zip(parameters, bundle.norm.inputs[1:], strict=False):
        inputs[index] = value
    if len(bundle.sums) > 1:
        inputs[bias_at] = bundle.sums[1].inputs[1]
    while inputs[-1] is None:
        inputs.pop()
    count = SUM + 1 if bundle.had_sum else 1
    node = ir.Node(DOMAIN, bundle.operator, inputs, bundle.attributes, num_outputs=count, name=bundle.name)
    node.metadata_props.update(bundle.metadata)
    graph.insert_after(bundle.norm, node)
    replaced = [(bundle.norm.outputs[0], node.outputs[0])]
    if bundle.had_sum:
        replaced.append((bundle.sums[-1].outputs[0], node.outputs[SUM]))
        for unused in node.outputs[1:SUM]:
            unused.name = ""
    for old, new in replaced:
        new.type, new.shape = old.type, old.shape
        _replace(old, new)
    for piece in (bundle.norm, *reversed(bundle.sums)):
        graph.remove(piece, safe=True)
