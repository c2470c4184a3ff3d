"""A model from wherever it is, as an onnx_ir model whose weights stay where they are.

Every source becomes bytes first (a mapped file, or a serialized copy of what is in memory), so there is one way in:
cut the weights out, refuse what is malformed, substitute what onnx_ir cannot hold. The source is never modified.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import onnx
import onnx.parser
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError

from normswap.errors import InputRefused, UsageError
from normswap.model import placeholders, protos, refuse, wire
from normswap.model.envelope import Envelope, Stored, serialize_apart
from normswap.model.weights import ExternalData, Storage, open_storage, stored_tensor

if TYPE_CHECKING:
    import onnx_graphsurgeon

Source: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto | ir.Model | onnx_graphsurgeon.Graph"

_TEXT_SUFFIXES = (".onnxtxt", ".onnxtext")
_SNIFFED = 512  # bytes at the start of a file that tell what it is

# What files that are not models begin with, and what to do about it.
_SIGNATURES = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the model itself; run `git lfs pull`"),
    (b"PK\x03\x04", "is a zip archive; extract the .onnx file from it"),
    (b"\x1f\x8b", "is compressed with gzip; decompress it"),
    (b"\x89HDF", "is an HDF5 file (Keras?); export the model to ONNX"),
    (b"\x80\x02", "is a pickle (PyTorch?); export the model to ONNX"),
)


@dataclass(frozen=True)
class Document:
    """An opened model.

    model: the graph; weights are read when asked for, and are not kept.
    envelope: what onnx_ir cannot hold, and how to put it back.
    path: where it came from, None if from memory.
    """

    model: ir.Model
    envelope: Envelope
    path: Path | None = None


def open_model(source: Source) -> Document:
    """Open a model: a path to .onnx or .onnxtxt, a ModelProto, an onnx_ir model, or a graphsurgeon graph.

    Raises:
        UsageError: if the path is wrong, or `source` is nothing of the kind.
        InputRefused: if the model is unreadable, invalid or hostile.
    """
    if isinstance(source, ir.Model):
        try:
            original, stored = serialize_apart(source)
        except (RuntimeError, TypeError, ValueError) as error:  # whatever copying or writing a broken graph raises
            raise InputRefused(f"model: onnx_ir cannot write it ({_root(error)}); are its nodes sorted?") from error
        refuse.check(original, [wire.Cut(0, item.tensor.nbytes, item.field) for item in stored], "model")
        envelope = _envelope(original, stored, [])
        return Document(envelope.open(), envelope)
    if isinstance(source, onnx.ModelProto):
        return _open_bytes(Storage(_serialized(source)), None, "model")
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        storage = open_storage(path)
        if path.suffix in _TEXT_SUFFIXES:
            storage = Storage(_serialized(_parse(bytes(storage.data), path)))
        else:
            _sniff(bytes(storage.data[:_SNIFFED]), path)
        return _open_bytes(storage, path, str(path))
    if is_graphsurgeon(source):
        import onnx_graphsurgeon  # only where a graph of its kind was met: it is not a dependency

        return open_model(onnx_graphsurgeon.export_onnx(source))
    raise UsageError(f"a model is a path, a ModelProto, an onnx_ir.Model or a graphsurgeon graph, not {type(source)!r}")


def is_graphsurgeon(source: object) -> bool:
    """Whether `source` is an object of graphsurgeon, told without importing it."""
    return type(source).__module__.partition(".")[0] == "onnx_graphsurgeon"


def _open_bytes(storage: Storage, path: Path | None, where: str) -> Document:
    try:
        skeleton, cuts = wire.cut(memoryview(storage.data))
        original = onnx.ModelProto.FromString(skeleton)
    except (wire.Malformed, DecodeError) as error:
        raise InputRefused(f"{where}: is not a whole ONNX model ({error}); download or export it again") from error
    refuse.check(original, cuts, where)
    try:
        external = ExternalData(path)
        tensors = _stored_tensors(original, cuts, storage, external)
        envelope = _envelope(original, tensors, [storage, *external.storages.values()])
        envelope.release()
        return Document(envelope.open(), envelope, path)
    except InputRefused as error:
        raise InputRefused(f"{where}: {protos.printable(str(error))}") from error
    except ir.serde.SerdeError as error:
        raise InputRefused(f"{where}: onnx_ir cannot represent it ({_root(error)})") from error


def _root(error: BaseException) -> str:
    """What was wrong in the first place, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return protos.printable(" ".join(str(error).split()))


def _stored_tensors(
    original: onnx.ModelProto, cuts: list[wire.Cut], storage: Storage, external: ExternalData
) -> list[Stored]:
    """What the tokens of `original` stand for, in the order of its tensors; external tensors get a token too."""
    stored: list[Stored] = []
    for proto, _ in protos.tensors(original):
        index = wire.token_index(proto.raw_data)
        if index is not None:
            cut = cuts[index]
            stored.append(Stored(stored_tensor(storage, cut.offset, proto), cut.field))
        elif proto.data_location == onnx.TensorProto.EXTERNAL:
            checksum = any(entry.key == "checksum" for entry in proto.external_data)
            stored.append(Stored(external.tensor(proto), external=True, checksum=checksum))
            proto.ClearField("external_data")
            proto.ClearField("data_location")
        else:
            continue
        proto.raw_data = wire.token(len(stored) - 1)
    return stored


def _envelope(original: onnx.ModelProto, stored: Sequence[Stored], storages: Sequence[Storage]) -> Envelope:
    def tensor_of(proto: onnx.TensorProto) -> ir.TensorProtocol:
        index = wire.token_index(proto.raw_data)
        return ir.serde.deserialize_tensor(proto) if index is None else stored[index].tensor

    readable = onnx.ModelProto()
    readable.CopyFrom(original)
    dense = placeholders.substitute(readable, tensor_of, len(stored))
    return Envelope(original, readable, (*stored, *map(Stored, dense)), tuple(storages))


def _sniff(head: bytes, path: Path) -> None:
    """Refuse what is clearly something else than a model, and say what to do."""
    if not head:
        raise InputRefused(f"{path}: is empty; download or export it again")
    for signature, advice in _SIGNATURES:
        if head.startswith(signature):
            raise InputRefused(f"{path}: {advice}")
    if head[4:8] == b"ORTM":
        raise InputRefused(f"{path}: is in onnxruntime's own format; convert the .onnx file it was made from")
    text = head.decode("utf-8", errors="ignore")
    if any(not character.isprintable() and character not in "\t\n\r\f" for character in text):
        return  # a model has lengths and tags in it, which are control characters
    if text.lstrip().startswith("<"):
        raise InputRefused(f"{path}: is a web page, not a model; the download went wrong")
    raise InputRefused(f"{path}: is text, not a model; a model as ONNX text has the suffix .onnxtxt")


def _parse(text: bytes, path: Path) -> onnx.ModelProto:
    try:
        return onnx.parser.parse_model(text.decode())
    except UnicodeDecodeError as error:
        raise InputRefused(f"{path}: is not UTF-8 text") from error
    except onnx.parser.ParseError as error:
        reason = error.args[0]  # bytes
        lines = (reason.decode() if isinstance(reason, bytes) else str(reason)).split("\n")
        raise InputRefused(f"{path}: {'; '.join(line.strip() for line in lines if line.strip())}") from error


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise InputRefused(
            "model: takes more than 2 GiB in memory; save it with external data, pass the path"
        ) from error
