"""A rewritten model back in memory, as the kind of object that was opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from normswap.errors import WriteError
from normswap.model import layout, protos, wire
from normswap.model.open import Document, Source, is_graphsurgeon

if TYPE_CHECKING:
    import onnx_graphsurgeon


def to_proto(document: Document, model: ir.Model, *, weights: bool = True) -> onnx.ModelProto:
    """The ModelProto of `model`, a rewritten `document.model` or that itself, as the original in what is unchanged.

    Args:
        document: what was opened.
        model: what it became.
        weights: whether large tensors have their data, all of it inline; otherwise they are external at a location
            that is nowhere, as in `weightless`.

    Raises:
        WriteError: if the model takes more than 2 GiB, which a ModelProto cannot hold: save it to a file.
    """
    proto, stored = document.envelope.restore(model)
    apart = [
        (tensor, index)
        for tensor, _ in protos.tensors(proto)
        if (index := wire.token_index(tensor.raw_data)) is not None
    ]
    if not weights:
        for tensor, index in apart:
            protos.stub(tensor, index)
        return proto
    size = proto.ByteSize() + sum(stored[index].tensor.nbytes for _, index in apart)
    if size > layout.MAX_INLINE:
        raise WriteError(
            f"the model takes {size:,} bytes, a ModelProto at most {layout.MAX_INLINE:,}; save it to a file"
        )
    data: dict[int, bytes] = {}  # tensors may share theirs; it is computed once
    for tensor, index in apart:
        if index not in data:
            data[index] = stored[index].tensor.tobytes()
        tensor.ClearField("raw_data")
        tensor.MergeFromString(wire.field_header(stored[index].field, len(data[index])) + data[index])
    return proto


def to_kind(
    document: Document, model: ir.Model, source: Source
) -> onnx.ModelProto | ir.Model | onnx_graphsurgeon.Graph:
    """`model` as the kind of object that `source` is; for a path an onnx_ir model, whose weights stay on disk."""
    if isinstance(source, onnx.ModelProto):
        return to_proto(document, model)
    if is_graphsurgeon(source):
        import onnx_graphsurgeon  # only where a graph of its kind was given: it is not a dependency

        return onnx_graphsurgeon.import_onnx(to_proto(document, model))
    return model
