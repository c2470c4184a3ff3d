"""Models to be compared, wherever they are: in the end a file, since onnxruntime finds external weights from a path.

A model in memory is written to a temporary folder. Bytes with external tensors are never evaluated: runtimes would
look for the weights in the current folder. Nothing is ever written beside a model.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir as ir

from normswap.model import Source, open_model, save

TEXT_SUFFIXES = frozenset({".onnxtxt", ".onnxtext"})  # which onnxruntime does not read


def place(source: Source, scratch: Path) -> Path:
    """The file of a model, which was found to be sound; one in memory or in text is written into `scratch`.

    So is one with trailing inputs that are there but empty: onnxruntime 1.32 crashes on them when it optimizes.
    Raises `InputRefused` and `UsageError` as `open_model` does.
    """
    document = open_model(source)
    shortened = _drop_trailing(document.model)
    path = Path(source) if isinstance(source, str | os.PathLike) else None
    if path is not None and path.suffix not in TEXT_SUFFIXES and not shortened:
        return path
    path = scratch / "model.onnx"
    save(document, document.model, path)
    return path


def _drop_trailing(model: ir.Model) -> bool:
    """Drop omitted inputs at the end of nodes, in place; whether there were any."""
    nodes = [node for node in model.graph.all_nodes() if node.inputs and node.inputs[-1] is None]
    for node in nodes:
        kept = max((index + 1 for index, value in enumerate(node.inputs) if value is not None), default=0)
        node.resize_inputs(kept)
    return bool(nodes)


def load(path: Path) -> ir.Model:
    """The graph of a model file, weights left on disk. Raises `InputRefused`."""
    return open_model(path).model
