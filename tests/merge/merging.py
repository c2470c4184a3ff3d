"""Merging in a text: whole runs before and after in float64, and what is left of the graph."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from normswap.ledger import Refusal, Rewrite
from normswap.merge import merge
from normswap.session import Session
from tests.graphs import AGREEMENT, Array, disagreement, parsed, run


@dataclass(frozen=True)
class Merged:
    """What became of a model."""

    proto: onnx.ModelProto
    session: Session
    rewrites: list[Rewrite]
    refusals: list[Refusal]

    @property
    def operators(self) -> list[str]:
        """The operators of the main graph, in order."""
        return [node.op_type for node in self.proto.graph.node]

    @property
    def reasons(self) -> list[str]:
        """The reason ids of the refusals."""
        return [refusal.reason_id for refusal in self.refusals]

    def node(self, name: str) -> onnx.NodeProto:
        """The node called `name`."""
        return next(node for node in self.proto.graph.node if node.name == name)

    def attribute(self, name: str, attribute: str) -> object:
        """An attribute of the node called `name`; None where it is not written."""
        found = (item for item in self.node(name).attribute if item.name == attribute)
        return next((onnx.helper.get_attribute_value(item) for item in found), None)

    @property
    def weights(self) -> dict[str, Array]:
        """The initializers of the main graph."""
        return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self.proto.graph.initializer}


def trimmed(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` itself without initializers that nobody reads: what is left over after a merge then shows."""
    inner = (item.g.node for node in model.graph.node for item in node.attribute if item.HasField("g"))
    read = {name for nodes in (model.graph.node, *inner) for node in nodes for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in read]:
        model.graph.initializer.remove(tensor)
    return model


def merged(
    text: str | onnx.ModelProto,
    sites: Collection[str] | None = (),
    *,
    allow_identity: bool = False,
    agreement: float = AGREEMENT,
    **options: int,
) -> Merged:
    """A text (or a model) after `merge` with the values called `sites`; whole runs agree, and the model is valid."""
    proto = trimmed(parsed(text, **options)) if isinstance(text, str) else text
    session = Session.of(ir.from_proto(proto))
    values = (value for graph in session.model.graphs() for node in graph for value in node.outputs)
    chosen = None if sites is None else [value for value in values if value.name in sites]
    rewrites, refusals = merge(session.model, session.facts, chosen, session.affines, allow_identity=allow_identity)
    result = ir.to_proto(session.model)
    onnx.checker.check_model(result, full_check=True)
    apart = disagreement(run(proto), run(result))
    assert {name: error for name, error in apart.items() if error > agreement} == {}
    assert all(rewrite.proof.obligations == 1 for rewrite in rewrites)
    return Merged(result, session, rewrites, refusals)
