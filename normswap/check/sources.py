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

    Raises `InputRefused` and `UsageError` as `open_model` does.
    """
    document = open_model(source)
    if isinstance(source, str | os.PathLike) and (path := Path(source)).suffix not in TEXT_SUFFIXES:
        return path
    path = scratch / "model.onnx"
    save(document, document.model, path)
    return path


def load(path: Path) -> ir.Model:
    """The graph of a model file, weights left on disk. Raises `InputRefused`."""
    return open_model(path).model
