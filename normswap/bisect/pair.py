"""Two models side by side: the values that both compute, and what lies between some of them.

Functions are inlined, so that a value is known by its name alone; both models are copies, whose outputs are extended
by all those values: whatever runs a model then shows them.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from normswap.check.truth import Evaluator, reads
from normswap.model import Document, open_model

# What these make is no tensor, which onnxruntime would have to give out.
_SEQUENCES = frozenset(
    (
        "Optional",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceMap",
        "SplitToSequence",
    )
)


@dataclass(frozen=True, eq=False)
class Pair:
    """Both models; `outputs` are those that are judged, `names` the values that both compute from their inputs.

    The names are in the order of the converted model, outputs included.
    """

    original: Document
    converted: Document
    outputs: tuple[str, ...]
    names: tuple[str, ...]

    @staticmethod
    def open(original: Path, converted: Path, unjudged: frozenset[str] = frozenset()) -> Pair:
        """Raises `TruthUnavailable` where functions cannot be inlined."""
        documents = [_inlined(path) for path in (original, converted)]
        before, after = (computed(document.model.graph) for document in documents)
        names = tuple(name for name in after if name in before)
        delivered = (value.name or "" for value in documents[0].model.graph.outputs)
        outputs = tuple(name for name in delivered if name in names and name not in unjudged)
        for document, values in zip(documents, (before, after), strict=True):
            already = {value.name for value in document.model.graph.outputs}
            document.model.graph.outputs.extend(values[name] for name in names if name not in already)
        return Pair(documents[0], documents[1], outputs, names)


def _inlined(path: Path) -> Document:
    document = open_model(path)
    return replace(document, model=Evaluator.open(document.model).model)


def computed(graph: ir.Graph) -> dict[str, ir.Value]:
    """The tensors that depend on the graph's inputs, by name, in the graph's order."""
    defaults = set(graph.initializers.values())
    touched = {value for value in graph.inputs if value not in defaults}
    found: dict[str, ir.Value] = {}
    for node in graph:
        if touched.isdisjoint(reads(node)):
            continue
        touched.update(node.outputs)
        if node.op_type not in _SEQUENCES:
            found.update((value.name, value) for value in node.outputs if value.name and _is_tensor(value))
    return found


def _is_tensor(value: ir.Value) -> bool:
    return value.type is None or isinstance(value.type, ir.TensorType)


@dataclass(frozen=True)
class Region:
    """What computes a value: the named values on the way, and the `ends` at which the way begins."""

    inside: frozenset[str]
    ends: frozenset[str]


def upstream(graph: ir.Graph, target: ir.Value, stops: Container[str]) -> Region:
    """The way to `target` from the graph's inputs or from `stops`, whichever is nearer."""
    inside, ends = {target.name or ""}, set()
    pending = [target]
    while pending:
        producer = pending.pop().producer()
        for source in () if producer is None else _sources(graph, producer):
            name = source.name or ""
            if name in stops or source.is_graph_input():
                ends.add(name)
            elif name not in inside:
                inside.add(name)
                pending.append(source)
    return Region(frozenset(inside), frozenset(ends))


def _sources(graph: ir.Graph, node: ir.Node) -> Iterator[ir.Value]:
    """The values of `graph` itself, no weights, that a node or a body in it reads."""
    return (value for value in reads(node) if value.graph is graph and not value.is_initializer())
