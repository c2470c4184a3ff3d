"""Which weights lie in a data file beside the model, and where in it.

What was external stays external, with the weights that replace it; everything else stays inline, unless the model
would be too large for a protobuf. Tensors that shared their data share it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import onnx

from normswap.model import protos, wire
from normswap.model.envelope import Stored
from normswap.model.weights import window_of

ALIGNMENT = 4096
"""External tensors start at multiples of this, the page size, so that runtimes can map them."""

DATA_SUFFIX = ".data"
"""The data file of out.onnx is out.onnx.data, as torch.onnx calls it."""

MAX_INLINE = (1 << 31) - 1
"""The largest file that protobuf can parse; a model that would be larger has its initializers in a data file."""

_CHUNK = 1 << 20  # bytes hashed at a time

Outside: TypeAlias = Sequence[tuple[onnx.TensorProto, int]]
"""Tensors of a model that are to be external, each with its number."""


@dataclass(frozen=True)
class Layout:
    """A data file: where each tensor starts in it, by number, and which to write in which order, sharers once."""

    offset: Mapping[int, int]
    order: Sequence[int]


def choose_outside(proto: onnx.ModelProto, stored: Sequence[Stored], originals: int) -> Outside:
    """The tensors of a model with tokens that go into the data file.

    Args:
        proto: the model.
        stored: what its tokens stand for.
        originals: how many tensors of `stored`, the first ones, are the original's.
    """
    has_data_file = any(item.external for item in stored)
    apart = [
        (tensor, index, is_initializer)
        for tensor, is_initializer in protos.tensors(proto)
        if (index := wire.token_index(tensor.raw_data)) is not None
    ]
    outside = [
        (tensor, index)
        for tensor, index, is_initializer in apart
        if stored[index].external or (has_data_file and is_initializer and index >= originals)
    ]
    inline = proto.ByteSize() + sum(stored[index].tensor.nbytes for _, index, _ in apart)
    inline -= sum(stored[index].tensor.nbytes for _, index in outside)
    if inline <= MAX_INLINE:
        return outside
    return [(tensor, index) for tensor, index, is_initializer in apart if is_initializer or stored[index].external]


def lay_out(outside: Outside, stored: Sequence[Stored]) -> Layout:
    """Places in the data file for tensors in their order in the model, aligned; shared data has one place."""
    offset: dict[int, int] = {}
    order: list[int] = []
    placed: dict[tuple[int, ...], int] = {}
    end = 0
    for _, index in outside:
        tensor = stored[index].tensor
        window = window_of(tensor)
        identity = (index,) if window is None else window.place
        if identity not in placed:
            placed[identity] = -(-end // ALIGNMENT) * ALIGNMENT
            end = placed[identity] + tensor.nbytes
            order.append(index)
        offset[index] = placed[identity]
    return Layout(offset, order)


def refer(outside: Outside, stored: Sequence[Stored], layout: Layout, data: Path, location: str) -> None:
    """Make tensors, in place, refer to their data in the finished file `data`, which will be called `location`."""
    # The checksum is of the whole file: what the original said of its file is not true of this one.
    checksum = _sha1(data) if any(stored[index].checksum for _, index in outside) else ""
    for tensor, index in outside:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": location, "offset": layout.offset[index], "length": stored[index].tensor.nbytes}
        if stored[index].checksum:
            entries["checksum"] = checksum
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))


def _sha1(path: Path) -> str:
    digest = hashlib.sha1(usedforsecurity=False)  # ONNX says SHA-1
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
