"""What a model consists of: nodes, bytes of weights, norms by kind; the rows of the table before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx_ir as ir

from normswap.ledger import Inventory


def inventory(model: ir.Model, kinds: Iterable[str]) -> Inventory:
    """What `model` consists of, with norms of these kinds."""
    return Inventory(model.opset_imports.get(""), count_nodes(model), count_bytes(model), dict(Counter(kinds)))


def count_nodes(model: ir.Model) -> int:
    """The number of nodes, in the main graph and in control-flow bodies."""
    return sum(1 for graph in model.graphs() for _ in graph)


def count_bytes(model: ir.Model) -> int:
    """The bytes of all constants: initializers, and tensors in Constant nodes, where some exporters keep weights."""
    stored = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    nodes = (node for graph in model.graphs() for node in graph if node.op_type == "Constant")
    written = (
        attribute.as_tensor() for node in nodes for name, attribute in node.attributes.items() if name == "value"
    )
    return sum(tensor.nbytes for tensor in (*stored, *written) if tensor is not None)
