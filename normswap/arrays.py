"""What definitions of operators are made of: arrays, and a node's attributes.

Every float is float64 here. `reference` runs operators; it and the modules with definitions it lacks stand on this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]

# The definition of an operator: its outputs, given its inputs (None where an optional one is omitted).
Definition = Callable[[ir.Node, Sequence["Array | None"]], list[Array]]


class Unexecutable(Exception):
    """The operator has neither a reference implementation nor a definition, or it rejected its input."""


def promote(array: Array) -> Array:
    """The array with any float type (float16, bfloat16 and float8 too) widened to float64; others unchanged."""
    if array.dtype == np.float64:
        return array
    if array.dtype.kind == "f" or ml_dtypes_float(array.dtype):
        return array.astype(np.float64)
    return array


def ml_dtypes_float(dtype: np.dtype[np.generic]) -> bool:
    """Whether `dtype` is one of the extension floats (bfloat16, float8 ...), which numpy calls kind 'V'."""
    try:
        ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    except ValueError:
        return False
    return True


def given(array: Array | None) -> Array:
    """An input that must be there."""
    if array is None:
        raise Unexecutable("a required input is missing")
    return array


def floats(array: Array | None) -> Floats:
    """An input that must be there, in float64."""
    return given(array).astype(np.float64)


def attribute(node: ir.Node, name: str, default: int) -> int:
    """The integer attribute `name` of `node`, or `default` where it is not written."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def attribute_float(node: ir.Node, name: str, default: float) -> float:
    """The float attribute `name` of `node`, or `default`, as float32 like every attribute, where it is not written."""
    found = node.attributes.get(name)
    return float(np.float32(default)) if found is None else found.as_float()
