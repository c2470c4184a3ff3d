"""Weights that stay on disk: one read-only mapping per file, and tensors that are windows into it.

A mapping is opened only after its path has been judged: a model may not read outside its folder, nor anything that
is not a regular file. Pages that were read are given back after use, so memory holds one tensor at a time.
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from normswap.errors import InputRefused, UsageError
from normswap.model import protos

_CHUNK = 16 << 20  # bytes copied at a time, so that copying a weight does not take its size in memory


@dataclass(frozen=True, eq=False)
class Storage:
    """Bytes that hold weights: a mapped file, or memory when `path` is None."""

    data: mmap.mmap | bytes
    path: Path | None = None
    stamp: tuple[int, int] = (0, 0)  # size and modification time when it was opened

    def release(self) -> None:
        """Give the pages that were read back to the operating system; arrays that view them stay valid."""
        if isinstance(self.data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.data.madvise(mmap.MADV_DONTNEED)

    def check_unchanged(self) -> None:
        """Raise InputRefused if the file was modified since it was opened: its weights are not what was analysed."""
        if self.path is None:
            return
        try:
            now = _stamp(self.path.stat())
        except OSError as error:
            raise InputRefused(f"{self.path}: gone while being converted ({error.strerror}); start again") from error
        if now != self.stamp:
            raise InputRefused(f"{self.path}: changed while being converted; start again")


@dataclass(frozen=True, eq=False)
class Window:
    """The bytes of one tensor within a Storage. Calling it makes a tensor that views them, so it can be lazy.

    Elements are little-endian as ONNX says, those below one byte packed; `offset` and `length` are in bytes.
    """

    storage: Storage
    offset: int
    length: int
    dtype: ir.DataType
    shape: tuple[int, ...]

    @property
    def place(self) -> tuple[int, int, int]:
        """Equal for windows that show the same bytes."""
        return id(self.storage), self.offset, self.length

    def __call__(self) -> ir.TensorProtocol:
        """The tensor, without a name, whose array is a read-only view."""
        if self.length == 0:
            return ir.Tensor(np.empty(self.shape, self.dtype.numpy()), self.dtype)
        stored = np.frombuffer(self.storage.data, np.uint8, self.length, self.offset)
        if self.dtype.bitwidth < 8:
            return ir.PackedTensor(stored, self.dtype, shape=self.shape)
        array = stored.view(self.dtype.numpy()).reshape(self.shape)
        return ir.Tensor(array.byteswap() if sys.byteorder == "big" else array, self.dtype)

    def copy_to(self, file: BinaryIO) -> None:
        """Write the bytes to `file`, in bounded memory."""
        end = self.offset + self.length
        with memoryview(self.storage.data) as data:
            for start in range(self.offset, end, _CHUNK):
                file.write(data[start : min(start + _CHUNK, end)])
                self.storage.release()


def stored_tensor(storage: Storage, offset: int, proto: onnx.TensorProto) -> ir.LazyTensor:
    """The tensor that `proto` describes, whose bytes are at `offset` of `storage`; read when asked for, never kept."""
    dtype, shape = ir.DataType(proto.data_type), tuple(proto.dims)
    window = Window(storage, offset, protos.byte_count(proto), dtype, shape)
    return ir.LazyTensor(
        window, dtype, ir.Shape(shape), name=proto.name, doc_string=proto.doc_string if proto.doc_string else None
    )


def window_of(tensor: ir.TensorProtocol) -> Window | None:
    """Where the bytes of a tensor are stored as they are, None if it has to be computed."""
    return tensor.raw if isinstance(tensor, ir.LazyTensor) and isinstance(tensor.raw, Window) else None


def open_storage(path: Path) -> Storage:
    """Map a file that the user named.

    Raises:
        UsageError: if there is nothing at `path`, or a directory.
        InputRefused: if it cannot be read, is empty, or is not a regular file.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if path.is_dir():
        raise UsageError(f"{path}: is a directory; name the .onnx file in it")
    return _map(path, str(path))


class ExternalData:
    """The external data files of one model, each opened once, none outside the folders that the model may read."""

    def __init__(self, model: Path | None) -> None:
        self.model = model
        self.storages: dict[Path, Storage] = {}

    def tensor(self, proto: onnx.TensorProto) -> ir.LazyTensor:
        """The tensor whose data `proto` says is elsewhere.

        Raises:
            InputRefused: if the place is forbidden, missing, not a regular file, or holds too few or too many bytes.
        """
        entries = {entry.key: entry.value for entry in proto.external_data}
        where = f"external data of tensor `{proto.name}`"
        storage = self._storage(entries.get("location", ""), where)
        offset = _natural(entries, "offset", 0, where)
        needed = protos.byte_count(proto)
        length = _natural(entries, "length", needed, where)
        if length != needed:
            raise InputRefused(f"{where}: {length} bytes given, its shape needs {needed}; export the model again")
        if offset + length > len(storage.data):
            raise InputRefused(
                f"{where}: {storage.path} has {len(storage.data)} bytes, {offset + length} are needed; "
                "the file is incomplete, download it again"
            )
        return stored_tensor(storage, offset, proto)

    def _storage(self, location: str, where: str) -> Storage:
        if self.model is None:
            raise InputRefused(
                f"{where}: it is in the file `{location}`, but a model in memory has no folder; "
                "pass the path of the model, or load the data first (onnx.load_external_data_for_model)"
            )
        path = Path(location)
        if not location or path.is_absolute() or ".." in path.parts or "\\" in location or ":" in location:
            raise InputRefused(f"{where}: the location `{location}` is not a file in the folder of {self.model}")
        found = self.model.parent / path
        try:
            real = found.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links, before Python 3.13
            raise InputRefused(f"{where}: {found} is missing; put it beside the model") from error
        roots = _readable_folders(self.model)
        if not any(real.is_relative_to(root) for root in roots):
            raise InputRefused(f"{where}: {found} leads to {real}, outside the folder of the model; copy it there")
        if real not in self.storages:
            self.storages[real] = _map(real, where)
            if real.stat().st_nlink > 1:  # as onnx does: a hard link can bring any file of the disk into a folder
                raise InputRefused(f"{where}: {real} has several hard links, it may be any file; make it a copy")
        return self.storages[real]


def _readable_folders(model: Path) -> tuple[Path, ...]:
    """Where external data may lie: beside the model, or beside what the path of the model leads to.

    Or in the blobs folder of a Hugging Face cache, whose snapshots/<revision>/ holds nothing but links to ../../blobs/.
    """
    folder = model.parent.resolve()
    caches = [ancestor.parent / "blobs" for ancestor in folder.parents if ancestor.name == "snapshots"]
    return (folder, model.resolve().parent, *caches[:1])


def _map(path: Path, where: str) -> Storage:
    # O_NONBLOCK: opening a FIFO must not wait for a writer before fstat can tell what it is.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before opening: opening a device can have effects
            raise InputRefused(f"{where}: {path} is not a regular file")
        descriptor = os.open(path, flags)
    except OSError as error:
        raise InputRefused(f"{where}: cannot read {path} ({error.strerror})") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputRefused(f"{where}: {path} is not a regular file")
        if status.st_size == 0:
            return Storage(b"", path, _stamp(status))
        data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        return Storage(data, path, _stamp(status))
    except OSError as error:
        raise InputRefused(f"{where}: cannot read {path} ({error.strerror})") from error
    finally:
        os.close(descriptor)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _natural(entries: Mapping[str, str], key: str, default: int, where: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()):
        raise InputRefused(f"{where}: its {key} is `{text}`, not a number of bytes")
    return int(text)
