"""A rewritten model to disk: complete or not at all, weights streamed, each computed once and written once.

Everything is written under temporary names beside the destination, forced to disk and renamed, the data file first and
the model last. Until then an older output is as it was; the input is never touched.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from normswap.errors import UsageError, WriteError
from normswap.model import atomic, layout, wire
from normswap.model.envelope import Envelope, Stored
from normswap.model.open import Document
from normswap.model.weights import window_of


def save(document: Document, model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write `model`, rewritten from `document.model` or that itself, to `path`.

    External data stays external, in one new file `<path>.data` that is named relative to the model; inline data stays
    inline unless the file would exceed 2 GiB. The bytes depend on nothing but the model.

    Raises:
        UsageError: if `path` is the input, or is not a regular file.
        WriteError: if it could not be written; the input and any older output are intact, and nothing is left behind.
        InputRefused: if a file of the input was changed since it was opened.
    """
    target = Path(path).resolve()  # a link is followed, and stays one
    data_target = target.with_name(target.name + layout.DATA_SUFFIX)
    for storage in document.envelope.storages:
        storage.check_unchanged()
    _check_destination(target, document)
    proto, stored = document.envelope.restore(model)
    outside = layout.choose_outside(proto, stored, len(document.envelope.tensors))
    places = layout.lay_out(outside, stored)
    if outside:
        _check_destination(data_target, document)
    try:
        with ExitStack() as cleanup:
            renames: list[tuple[Path, Path]] = []
            if outside:
                temporary = cleanup.enter_context(atomic.temporary(data_target))
                with atomic.durable(temporary, data_target) as file:
                    _write_data(file, stored, places, document.envelope)
                renames.append((temporary, data_target))
                layout.refer(outside, stored, places, temporary, data_target.name)
            temporary = cleanup.enter_context(atomic.temporary(target))
            with atomic.durable(temporary, target) as file:
                _write_model(file, proto, stored, document.envelope)
            renames.append((temporary, target))
            atomic.commit(renames)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(f"{target}: not written ({reason}); the input and any older output are intact") from error


def _write_data(file: BinaryIO, stored: Sequence[Stored], places: layout.Layout, envelope: Envelope) -> None:
    for index in places.order:
        file.write(bytes(places.offset[index] - file.tell()))
        _write_tensor(file, stored[index].tensor, envelope)


def _write_model(file: BinaryIO, proto: onnx.ModelProto, stored: Sequence[Stored], envelope: Envelope) -> None:
    sizes = {index: (item.field, item.tensor.nbytes) for index, item in enumerate(stored)}
    _, pieces = wire.splice(proto.SerializeToString(deterministic=True), sizes)
    uses = Counter(piece for piece in pieces if isinstance(piece, int))
    shared: dict[int, bytes] = {}  # weights that are needed again: each is computed only once
    for piece in pieces:
        if isinstance(piece, bytes):
            file.write(piece)
        elif uses[piece] == 1 and piece not in shared:
            _write_tensor(file, stored[piece].tensor, envelope)
        else:
            data = shared.pop(piece, None) or stored[piece].tensor.tobytes()
            file.write(data)
            uses[piece] -= 1
            if uses[piece]:
                shared[piece] = data


def _write_tensor(file: BinaryIO, tensor: ir.TensorProtocol, envelope: Envelope) -> None:
    start = file.tell()
    if (window := window_of(tensor)) is not None:
        window.copy_to(file)
    elif hasattr(tensor, "tofile"):  # not part of the protocol; it does without a copy of the bytes
        tensor.tofile(file)
    else:
        file.write(tensor.tobytes())
    if file.tell() - start != tensor.nbytes:
        raise WriteError(f"tensor `{tensor.name}` has {file.tell() - start} bytes, its shape needs {tensor.nbytes}")
    envelope.release()  # what computing it has read


def _check_destination(target: Path, document: Document) -> None:
    """Refuse to write to a file of the input, by whatever name, or to what is not a file."""
    if target.suffix in (".onnxtxt", ".onnxtext"):
        raise UsageError(f"{target}: models are written in binary form; choose a name that ends in .onnx")
    try:
        status = target.stat()
    except OSError:
        return  # nothing there, or a link to nothing: whatever else is wrong shows when writing
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{target}: is not a regular file; choose another output")
    inputs = [document.path, *(storage.path for storage in document.envelope.storages)]
    tensors = (stored.tensor for stored in document.envelope.tensors)
    inputs += [Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
    for source in filter(None, inputs):
        if source.exists() and source.samefile(target):
            raise UsageError(f"{target}: would overwrite the input {source}; choose another output")
