"""Run one operator in float64: the oracle under recognition, carrying of maps, and proofs.

onnx's reference operators do the work. Floats are promoted to float64 on the way in and on the way out, and casts
between float types are the identity, so that what is compared is the function and not its rounding. Where onnx's
operator is known to be wrong or missing (MATH.md §11), a definition of a few lines in `STAND_INS` is used instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import load_op

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]

# Domains whose operators onnx defines; anything else needs a stand-in.
ONNX_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})


class Unexecutable(Exception):
    """The operator has neither a reference implementation nor a stand-in, or it rejected its input."""


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


def attribute(node: ir.Node, name: str, default: int) -> int:
    """The integer attribute `name` of `node`, or `default` where it is not written."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def attribute_float(node: ir.Node, name: str, default: float) -> float:
    """The float attribute `name` of `node`, or `default`, as float32 like every attribute, where it is not written."""
    found = node.attributes.get(name)
    return float(np.float32(default)) if found is None else found.as_float()


def run(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """The outputs of `node` on `inputs` (None where an optional input is omitted), floats in float64.

    `opset` is the version imported for the node's domain. Raises `Unexecutable`.
    """
    arrays = [None if array is None else promote(np.asarray(array)) for array in inputs]
    while arrays and arrays[-1] is None:
        arrays.pop()
    is_blocked = attribute(node, "block_size", 0) != 0  # quantization in blocks came with opset 21, which onnx has
    stand_in = None if is_blocked else STAND_INS.get((node.domain, node.op_type))
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = stand_in(node, arrays) if stand_in else _run_reference(node, arrays, opset)
    except Exception as error:  # a reference operator may raise anything; what cannot be run cannot be proved
        raise Unexecutable(f"{node.op_type} `{node.name}`: {error}") from error
    return [promote(np.asarray(output)) for output in outputs]


def _run_reference(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> Sequence[Array]:
    if node.domain not in ONNX_DOMAINS:
        raise Unexecutable(f"no definition of {node.domain}.{node.op_type}")
    proto = ir.serde.serialize_node(node)
    operator = load_op(node.domain, node.op_type, opset)
    parameters = {
        "log": lambda *_: None,
        "opsets": {node.domain: opset},
        "verbose": 0,
        "new_ops": None,
        "existing_functions": {},
        "evaluator_cls": ReferenceEvaluator,
    }
    result: Sequence[Array] = operator(proto, parameters).run(*arrays)
    return result


# --- operators that onnx's reference implementation lacks or gets wrong --------------------------------------------


def _cast(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    target = ir.DataType(node.attributes["to"].as_int())
    array = _given(arrays[0])
    return [array if target.is_floating_point() and array.dtype == np.float64 else array.astype(target.numpy())]


def _dequantize_linear(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """(x − zero point) · scale, per tensor or along `axis`; onnx has no implementation before opset 19."""
    x, scale, zero = [*arrays, None][:3]
    values, factor = _floats(x), _floats(scale)
    shape = [1] * values.ndim
    if factor.ndim == 1 and values.ndim:
        shape[attribute(node, "axis", 1) % values.ndim] = factor.size
    offset = 0.0 if zero is None else _floats(zero).reshape(shape)
    return [(values - offset) * factor.reshape(shape)]


def _cast_like(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    return [_given(arrays[0]).astype(_given(arrays[1]).dtype)]


def _given(array: Array | None) -> Array:
    if array is None:
        raise Unexecutable("a required input is missing")
    return array


def _floats(array: Array | None) -> Floats:
    return _given(array).astype(np.float64)


def center(x: Floats, axes: tuple[int, ...]) -> Floats:
    """Center: x minus its mean over `axes`."""
    result: Floats = x - x.mean(axis=axes, keepdims=True)
    return result


def root_mean_square(x: Floats, axes: tuple[int, ...], epsilon: float) -> Floats:
    """RMS(ε): x / √(mean of x² over `axes` + ε)."""
    result: Floats = x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + epsilon)
    return result


def _norm(node: ir.Node, arrays: Sequence[Array | None], *, centered: bool) -> list[Array]:
    x = _floats(arrays[0])
    axes = tuple(range(attribute(node, "axis", -1) % x.ndim, x.ndim))
    y = root_mean_square(center(x, axes) if centered else x, axes, attribute_float(node, "epsilon", 1e-5))
    return [_affine(y, *[*arrays, None, None][1:3])]


def _affine(y: Floats, gain: Array | None, bias: Array | None) -> Floats:
    y = y if gain is None else y * _floats(gain)
    return y if bias is None else y + _floats(bias)


def _layer_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    return _norm(node, arrays, centered=True)


def _rms_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    return _norm(node, arrays, centered=False)


def _skip(node: ir.Node, arrays: Sequence[Array | None], *, centered: bool) -> list[Array]:
    """Skip operators (com.microsoft): the norm of input + skip + bias; output 3 is that sum."""
    padded = [*arrays, None, None, None]
    total = _floats(padded[0]) + _floats(padded[1])
    beta, bias = (padded[3], padded[4]) if centered else (None, padded[3])
    if bias is not None:
        total = total + _floats(bias)
    axes = (total.ndim - 1,)
    y = root_mean_square(center(total, axes) if centered else total, axes, attribute_float(node, "epsilon", 1e-5))
    y = _affine(y, padded[2], beta)
    unused = np.zeros((0,))  # Mean and InvStdVar: training outputs that no inference graph reads
    return [y, unused, unused, total]


def _skip_layer_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    return _skip(node, arrays, centered=True)


def _skip_rms_normalization(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    return _skip(node, arrays, centered=False)


def _canonical(node: ir.Node, arrays: Sequence[Array | None], *, centered: bool) -> list[Array]:
    """normswap.LayerNorm and normswap.RMSNorm (x, axes, epsilon, gain, bias): norms on their way to a spelling."""
    x, axes, epsilon, gain, bias = [*arrays, None, None][:5]
    values, numbers = _floats(x), tuple(int(axis) for axis in _floats(axes))
    y = root_mean_square(center(values, numbers) if centered else values, numbers, float(_floats(epsilon).item()))
    return [_affine(y, gain, bias)]


def _canonical_layer_norm(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    return _canonical(node, arrays, centered=True)


def _canonical_rms_norm(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    return _canonical(node, arrays, centered=False)


StandIn = Callable[[ir.Node, Sequence["Array | None"]], list[Array]]

STAND_INS: Mapping[tuple[str, str], StandIn] = {
    ("", "Cast"): _cast,
    ("", "CastLike"): _cast_like,
    ("", "DequantizeLinear"): _dequantize_linear,
    ("", "LayerNormalization"): _layer_normalization,
    ("com.microsoft", "LayerNormalization"): _layer_normalization,
    ("", "RMSNormalization"): _rms_normalization,
    ("", "SimplifiedLayerNormalization"): _rms_normalization,
    ("com.microsoft", "SimplifiedLayerNormalization"): _rms_normalization,
    ("normswap", "LayerNorm"): _canonical_layer_norm,
    ("normswap", "RMSNorm"): _canonical_rms_norm,
    ("com.microsoft", "SkipLayerNormalization"): _skip_layer_normalization,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _skip_rms_normalization,
}
