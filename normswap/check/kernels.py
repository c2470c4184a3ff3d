"""Float64 definitions of operators that onnx's reference implementation lacks, gets wrong, or runs too slowly.

Everything else falls through to `normswap.reference`. The definitions are independent of onnxruntime and of the
rewrites, so that truth is not judged by the thing on trial; tests compare each with onnxruntime or onnx's own data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from normswap import reference
from normswap.check import convolution
from normswap.reference import Array, Floats, Unexecutable, attribute, attribute_float

Kernel = Callable[[ir.Node, Sequence["Array | None"], int], Sequence[Array]]


def run(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> Sequence[Array]:
    """The outputs of one node in float64. Raises `Unexecutable`, naming the node."""
    kernel = KERNELS.get((node.domain, node.op_type))
    if kernel is None:
        return reference.run(node, inputs, opset)
    arrays = [None if array is None else reference.promote(array) for array in inputs]
    try:
        with np.errstate(all="ignore"):
            return kernel(node, arrays, opset)
    except Unexecutable:
        raise
    except Exception as error:  # numpy raises many kinds; what cannot be run has no truth
        raise Unexecutable(f"{node.op_type} `{node.name}`: {error}") from error


def given(arrays: Sequence[Array | None], index: int) -> Floats:
    """Operand `index`, which must be there, in float64."""
    array = optional(arrays, index)
    if array is None:
        raise Unexecutable(f"operand {index} is missing")
    return array


def optional(arrays: Sequence[Array | None], index: int) -> Floats | None:
    """Operand `index` in float64, None where it is omitted."""
    array = arrays[index] if index < len(arrays) else None
    return None if array is None else array.astype(np.float64, copy=False)


# --- activations -----------------------------------------------------------------------------------------------------

_ERF_STEP, _ERF_END, _ERF_TERMS = 1.0 / 64.0, 6.0, 9  # (step / 2)^terms and 1 − erf(end) are below 2⁻⁵³


def _erf_series() -> tuple[Floats, Floats]:
    """Points, and around each the Taylor coefficients of erf: the second derivative is −2x times the first."""
    points = np.arange(0.0, _ERF_END + _ERF_STEP, _ERF_STEP)
    derivatives = [np.vectorize(math.erf)(points), 2.0 / math.sqrt(math.pi) * np.exp(-points * points)]
    for n in range(1, _ERF_TERMS - 1):
        derivatives.append(-2.0 * points * derivatives[n] - 2.0 * (n - 1) * derivatives[n - 1])
    return points, np.stack([d / math.factorial(n) for n, d in enumerate(derivatives)])


_ERF_POINTS, _ERF_COEFFICIENTS = _erf_series()


def erf(x: Floats) -> Floats:
    """The error function to float64 rounding, a hundred times faster than `math.erf` on each element."""
    magnitude = np.minimum(np.abs(x), _ERF_END)
    nearest = np.rint(np.nan_to_num(magnitude) / _ERF_STEP).astype(np.intp)
    offset = magnitude - _ERF_POINTS[nearest]
    y = np.zeros_like(offset)
    for coefficients in _ERF_COEFFICIENTS[::-1]:
        y = y * offset + coefficients[nearest]
    result: Floats = np.copysign(y, x)
    return result


def _erf_operator(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> Sequence[Array]:
    return [erf(given(arrays, 0))]


def _gelu(x: Floats) -> Floats:
    result: Floats = 0.5 * x * (1.0 + erf(x * math.sqrt(0.5)))
    return result


def _gelu_tanh(x: Floats) -> Floats:
    result: Floats = 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return result


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))  # never overflows
    return result


def _gelu_operator(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> Sequence[Array]:
    written = node.attributes.get("approximate")
    tanh = written is not None and written.as_string() == "tanh"
    return [(_gelu_tanh if tanh else _gelu)(given(arrays, 0))]


def _with_bias(function: Callable[[Floats], Floats]) -> Kernel:
    """com.microsoft's BiasGelu and FastGelu add an optional second operand first."""

    def kernel(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> Sequence[Array]:
        bias = optional(arrays, 1)
        return [function(given(arrays, 0) if bias is None else given(arrays, 0) + bias)]

    return kernel


def _quick_gelu(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> Sequence[Array]:
    x = given(arrays, 0)
    return [x * _sigmoid(attribute_float(node, "alpha", 1.702) * x)]


def _hard_swish(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> Sequence[Array]:
    x = given(arrays, 0)
    return [x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)]


def _mish(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> Sequence[Array]:
    x = given(arrays, 0)
    return [x * np.tanh(np.logaddexp(0.0, x))]


def _softmax(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> Sequence[Array]:
    """Before opset 13 everything from `axis` on is one row; onnx's reference always normalizes a single axis."""
    x = given(arrays, 0)
    axis = attribute(node, "axis", -1 if opset >= 13 else 1) % max(x.ndim, 1)
    rows = x if opset >= 13 else x.reshape(math.prod(x.shape[:axis]), -1)
    over = axis if opset >= 13 else 1
    shifted = rows - rows.max(axis=over, keepdims=True)
    total = np.exp(shifted).sum(axis=over, keepdims=True)
    y = shifted - np.log(total) if node.op_type == "LogSoftmax" else np.exp(shifted) / total
    return [y.reshape(x.shape)]


# --- quantization ----------------------------------------------------------------------------------------------------


KERNELS: Mapping[tuple[str, str], Kernel] = {
    ("", "Erf"): _erf_operator,
    ("", "Gelu"): _gelu_operator,
    ("", "HardSwish"): _hard_swish,
    ("", "Mish"): _mish,
    ("", "Softmax"): _softmax,
    ("", "LogSoftmax"): _softmax,
    ("", "Conv"): convolution.conv,
    ("", "ConvTranspose"): convolution.conv_transpose,
    ("", "Resize"): convolution.resize,
    ("com.microsoft", "Gelu"): _with_bias(_gelu),
    ("com.microsoft", "BiasGelu"): _with_bias(_gelu),
    ("com.microsoft", "FastGelu"): _with_bias(_gelu_tanh),
    ("com.microsoft", "QuickGelu"): _quick_gelu,
}
