"""IR version 3 lists every initializer among the inputs; from version 4 on, one that is a constant need not be there.

New weights are no inputs, so a model that gets some is raised to version 4; runtimes see the same inputs as before.
"""

from __future__ import annotations

import onnx_ir as ir

INITIALIZERS_APART = 4  # the IR version since which an initializer need not be an input, and is a constant if it is not


def raise_ir_version(model: ir.Model) -> None:
    """Take the initializers of an older model out of its inputs, in place."""
    if model.ir_version >= INITIALIZERS_APART:
        return
    for graph in model.graphs():
        kept = [value for value in graph.inputs if not value.is_initializer()]
        if len(kept) < len(graph.inputs):
            graph.inputs.clear()
            graph.inputs.extend(kept)
    model.ir_version = INITIALIZERS_APART
