"""Models to be compared, wherever they are: in the end a file, since onnxruntime finds external weights from a path.

A model in memory is written to a temporary folder. Bytes with external tensors are never evaluated: runtimes would
look for the weights in the current folder. Nothing is ever written beside a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_ir as ir

from normswap.errors import InputRefused

Source: TypeAlias = str | Path | onnx.ModelProto | ir.Model

EXTERNAL_FROM_BYTES = 1 << 30
"""Models in memory with more weights than this go beside a data file: protobuf ends at 2 GiB."""


def place(source: Source, scratch: Path) -> Path:
    """The file of a model; one in memory is written into the empty folder `scratch`. Raises `InputRefused`."""
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise InputRefused(f"{path}: no such file")
        return path
    path = scratch / "model.onnx"
    if isinstance(source, onnx.ModelProto):
        source = ir.from_proto(source)
    weights = sum(value.const_value.nbytes for value in source.graph.initializers.values() if value.const_value)
    ir.save(source, path, external_data="model.onnx.data" if weights > EXTERNAL_FROM_BYTES else None)
    return path


def load(path: Path) -> ir.Model:
    """The graph of a model file, weights left on disk. Raises `InputRefused`."""
    try:
        return ir.load(path)
    except Exception as error:  # protobuf, onnx and onnx_ir each raise their own
        raise InputRefused(f"{path}: not a readable ONNX model: {error}") from error
