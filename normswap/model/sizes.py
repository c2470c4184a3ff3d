"""Whether a tensor has the data that its shape and type need: neither more nor less, and in one place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import onnx
import onnx_ir as ir

from normswap.errors import InputRefused
from normswap.model import protos, wire

_STORAGES = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")

_TYPED_STORAGE = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.COMPLEX64: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.COMPLEX128: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.UINT32: "uint64_data",
    ir.DataType.UINT64: "uint64_data",
    ir.DataType.STRING: "string_data",
}
"""Where the elements are when they are not raw; every other type is in int32_data."""

_SHARED_ENTRIES = frozenset(
    {ir.DataType.UINT4, ir.DataType.INT4, ir.DataType.FLOAT4E2M1, ir.DataType.UINT2, ir.DataType.INT2}
)
"""Types of which several elements share one entry of int32_data (of the 6-bit ones each has its own)."""

_CUT_FIELDS = {wire.RAW_DATA: "raw_data", wire.FLOAT_DATA: "float_data", wire.DOUBLE_DATA: "double_data"}


@cache
def is_element_type(number: int) -> bool:
    """Whether ONNX has an element type of this number (0, undefined, included)."""
    return number in ir.DataType._value2member_map_


def check_tensor(tensor: onnx.TensorProto, cuts: Sequence[wire.Cut]) -> None:
    """Refuse a tensor whose data does not match its declaration; external data is checked where it is opened.

    Raises:
        InputRefused: naming the tensor.
    """
    where = f"tensor `{tensor.name}`"
    if not is_element_type(tensor.data_type) or tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise InputRefused(f"{where} has the unknown element type {tensor.data_type}")
    if any(dim < 0 for dim in tensor.dims):
        raise InputRefused(f"{where} has the shape {list(tensor.dims)}; no dimension can be negative")
    if tensor.HasField("segment"):
        raise InputRefused(f"{where} is stored in segments, which no ONNX tool supports")
    present = [name for name in _STORAGES if len(getattr(tensor, name)) > 0]
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if present:
            raise InputRefused(f"{where} says that its data is external, but has {present[0]}")
        return
    if len(present) > 1:
        raise InputRefused(f"{where} has its data twice, as {present[0]} and as {present[1]}")
    storage = present[0] if present else "raw_data"
    index = wire.token_index(tensor.raw_data)
    stored = len(getattr(tensor, storage))
    if index is not None:
        cut = cuts[index]
        storage, stored = _CUT_FIELDS[cut.field], cut.length
    dtype = ir.DataType(tensor.data_type)
    if storage == "raw_data" and dtype != ir.DataType.STRING:
        needed = protos.byte_count(tensor)
    elif storage != _TYPED_STORAGE.get(dtype, "int32_data") and math.prod(tensor.dims) > 0:
        raise InputRefused(f"{where} of type {dtype.name} has its data in {storage}")
    elif index is not None:
        needed = protos.byte_count(tensor)
    else:
        needed = _element_count(tensor, dtype)
    if stored != needed:
        unit = "bytes" if storage == "raw_data" or index is not None else "elements"
        raise InputRefused(f"{where} has {stored} {unit} of data, its shape {list(tensor.dims)} needs {needed}")


def _element_count(tensor: onnx.TensorProto, dtype: ir.DataType) -> int:
    """How many entries of a typed storage the tensor needs: complex numbers take two, small integers share one."""
    count: int = math.prod(tensor.dims)
    if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * count
    if dtype in _SHARED_ENTRIES:
        return protos.byte_count(tensor)
    return count
