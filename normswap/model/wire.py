"""A serialized model, cut at its weights and put together again, without ever holding the weights.

`cut` replaces the data of every large tensor by a token of 24 bytes and says where the data lies; what is left is a
small protobuf. `splice` is the way back: it streams a serialized model in which tokens stand for data.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import onnx
from google.protobuf.descriptor import Descriptor

Buffer: TypeAlias = memoryview

LARGE = 1024
"""Tensors with at least this many bytes are cut out: smaller ones (shapes, axes, epsilons) are what analyses read."""

RAW_DATA, FLOAT_DATA, DOUBLE_DATA = 9, 4, 10
"""Fields of TensorProto whose bytes on the wire are the little-endian elements themselves."""

_DATA_FIELDS = frozenset({FLOAT_DATA, 5, 6, 7, RAW_DATA, DOUBLE_DATA, 11})
_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
_TENSOR = onnx.TensorProto.DESCRIPTOR.full_name
_MAX_DEPTH = 100  # the limit of protobuf's own parsers

# Random, so that no file can contain a token that it was not given here. It never reaches an output.
_MAGIC = secrets.token_bytes(16)


class Malformed(ValueError):
    """The bytes are not a well-formed protobuf message; the text says where and why."""


@dataclass(frozen=True)
class Cut:
    """Where the data of one tensor lies in the serialized model, and in which field of TensorProto."""

    offset: int
    length: int
    field: int


def token(index: int) -> bytes:
    """The bytes that stand for tensor `index` in the field `raw_data`."""
    return _MAGIC + index.to_bytes(8, "little")


def token_index(raw_data: bytes) -> int | None:
    """The index of the tensor that `raw_data` stands for, None if it is plain data."""
    if len(raw_data) != len(_MAGIC) + 8 or not raw_data.startswith(_MAGIC):
        return None
    return int.from_bytes(raw_data[len(_MAGIC) :], "little")


def cut(data: Buffer) -> tuple[bytes, list[Cut]]:
    """The model `data` with tokens for weights, and where those weights are.

    Raises:
        Malformed: if `data` ends in the middle of a field or is not a protobuf message.
    """
    cuts: list[Cut] = []
    return _cut_message(data, 0, len(data), onnx.ModelProto.DESCRIPTOR, cuts, 0), cuts


def splice(skeleton: bytes, replacements: Mapping[int, tuple[int, int]]) -> tuple[int, list[bytes | int]]:
    """The total size, and the pieces, of a serialized model whose tokens are replaced by data.

    Args:
        skeleton: a serialized ModelProto with tokens.
        replacements: for each token's index, the field of TensorProto the data belongs in, and its number of bytes.

    Returns:
        The size in bytes, and the pieces in order: bytes to be written as they are, or the index of a tensor.
    """
    return _splice_message(skeleton, 0, len(skeleton), onnx.ModelProto.DESCRIPTOR, replacements)


def field_header(field: int, length: int) -> bytes:
    """What precedes `length` bytes of a length-delimited field."""
    return _varint_bytes(field << 3 | _BYTES) + _varint_bytes(length)


@dataclass(frozen=True)
class _Field:
    """One field on the wire: where it starts, where its content starts, where it ends."""

    number: int
    wire_type: int
    start: int
    content: int
    end: int


def _cut_message(data: Buffer, start: int, end: int, message: Descriptor, cuts: list[Cut], depth: int) -> bytes:
    if depth > _MAX_DEPTH:
        raise Malformed(f"messages are nested deeper than {_MAX_DEPTH} at byte {start}")
    if message.full_name == _TENSOR:
        return _cut_tensor(data, start, end, cuts)
    children = _children(message)
    pieces: list[bytes] = []
    copied = start  # everything before this position is in pieces
    for field in _fields(data, start, end):
        child = children.get(field.number)
        if child is None or field.wire_type != _BYTES or field.end - field.content < LARGE:
            continue  # too short to contain anything large
        inner = _cut_message(data, field.content, field.end, child, cuts, depth + 1)
        if len(inner) != field.end - field.content:
            pieces += [bytes(data[copied : field.start]), field_header(field.number, len(inner)), inner]
            copied = field.end
    pieces.append(bytes(data[copied:end]))
    return b"".join(pieces)


def _cut_tensor(data: Buffer, start: int, end: int, cuts: list[Cut]) -> bytes:
    stored = [field for field in _fields(data, start, end) if field.number in _DATA_FIELDS]
    # A tensor with several storages is ambiguous: it is left whole, to be refused by name later.
    if len(stored) != 1 or stored[0].wire_type != _BYTES:
        return bytes(data[start:end])
    field = stored[0]
    length = field.end - field.content
    if field.number not in (RAW_DATA, FLOAT_DATA, DOUBLE_DATA) or length < LARGE:
        return bytes(data[start:end])
    cuts.append(Cut(field.content, length, field.number))
    stand_in = token(len(cuts) - 1)
    header = field_header(RAW_DATA, len(stand_in))
    return b"".join((bytes(data[start : field.start]), header, stand_in, bytes(data[field.end : end])))


def _splice_message(
    data: bytes, start: int, end: int, message: Descriptor, replacements: Mapping[int, tuple[int, int]]
) -> tuple[int, list[bytes | int]]:
    if message.full_name == _TENSOR:
        return _splice_tensor(data, start, end, replacements)
    children = _children(message)
    pieces: list[bytes | int] = []
    size, copied = 0, start
    for field in _fields(memoryview(data), start, end):
        child = children.get(field.number)
        if child is None or field.wire_type != _BYTES or data.find(_MAGIC, field.content, field.end) < 0:
            continue
        inner_size, inner = _splice_message(data, field.content, field.end, child, replacements)
        before = data[copied : field.start] + field_header(field.number, inner_size)
        pieces += [before, *inner]
        size += len(before) + inner_size
        copied = field.end
    pieces.append(data[copied:end])
    return size + end - copied, pieces


def _splice_tensor(
    data: bytes, start: int, end: int, replacements: Mapping[int, tuple[int, int]]
) -> tuple[int, list[bytes | int]]:
    fields = list(_fields(memoryview(data), start, end))
    for stand_in in fields:
        index = token_index(data[stand_in.content : stand_in.end]) if stand_in.number == RAW_DATA else None
        if index is not None:
            number, length = replacements[index]
            # Fields are written in the order of their numbers, so that equal models are equal files.
            place = next((field.start for field in fields if field.number > number), end)
            place = min(place, stand_in.start)
            before = data[start:place] + field_header(number, length)
            after = data[place : stand_in.start] + data[stand_in.end : end]
            return len(before) + length + len(after), [before, index, after]
    return end - start, [data[start:end]]


def _fields(data: Buffer, start: int, end: int) -> Iterator[_Field]:
    position = start
    while position < end:
        tag, content = _varint(data, position, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise Malformed(f"no field has number 0, as found at byte {position}")
        after, content = _skip(data, content, end, wire_type, number)
        yield _Field(number, wire_type, position, content, after)
        position = after


def _skip(data: Buffer, position: int, end: int, wire_type: int, number: int) -> tuple[int, int]:
    """Where a field ends and where its content starts."""
    content = position
    if wire_type == _VARINT:
        position = _varint(data, position, end)[1]
    elif wire_type == _FIXED64:
        position += 8
    elif wire_type == _FIXED32:
        position += 4
    elif wire_type == _BYTES:
        length, content = _varint(data, position, end)
        position = content + length
    elif wire_type == _GROUP:  # obsolete, possible only in unknown fields
        position = _skip_group(data, position, end, number)
    else:
        raise Malformed(f"there is no wire type {wire_type}, as found at byte {position}")
    if position > end:
        raise Malformed(f"a field at byte {content} needs {position - content} bytes, {end - content} are left")
    return position, content


def _skip_group(data: Buffer, position: int, end: int, number: int) -> int:
    open_groups = [number]
    while open_groups:
        tag, position = _varint(data, position, end)
        if tag & 7 == _GROUP:
            open_groups.append(tag >> 3)
        elif tag & 7 == _END_GROUP:
            if open_groups.pop() != tag >> 3:
                raise Malformed(f"a group ends that did not begin, at byte {position}")
        else:
            position, _ = _skip(data, position, end, tag & 7, tag >> 3)
    return position


def _varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise Malformed(f"a number has more than 64 bits at byte {position}")
    raise Malformed(f"the data ends within a number at byte {position}")


def _varint_bytes(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@cache
def _children(message: Descriptor) -> Mapping[int, Descriptor]:
    """The fields of a message that are messages themselves."""
    return {field.number: field.message_type for field in message.fields if field.message_type is not None}
