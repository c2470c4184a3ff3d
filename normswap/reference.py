"""Run one operator in float64: the oracle under recognition, carrying of maps, and proofs.

onnx's reference operators do the work. Floats are promoted to float64 on the way in and on the way out, and casts
between float types are the identity, so that what is compared is the function and not its rounding. Where onnx's
operator is known to be wrong or missing (MATH.md §11), a definition of a few lines in `STAND_INS` is used instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import load_op

from normswap import convolution_operators, norm_operators, recurrent_operators, spatial_operators
from normswap.arrays import (
    Array,
    Definition,
    Floats,
    Unexecutable,
    attribute,
    attribute_float,
    floats,
    given,
    ml_dtypes_float,
    promote,
)
from normswap.norm_operators import center, root_mean_square

# Domains whose operators onnx defines; anything else needs a stand-in.
ONNX_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})


def changed(node: ir.Node, attributes: Mapping[str, float]) -> ir.Node:
    """`node` with these float attributes, as a copy of its own that no graph knows; itself where there are none."""
    if not attributes:
        return node
    inputs = [None if value is None else ir.Value(name=value.name) for value in node.inputs]
    new = {**node.attributes, **{name: ir.AttrFloat32(name, number) for name, number in attributes.items()}}
    outputs = [ir.Value(name=value.name) for value in node.outputs]
    return ir.Node(node.domain, node.op_type, inputs, new, outputs=outputs, name=node.name, version=node.version)


def run(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """The outputs of `node` on `inputs` (None where an optional input is omitted), floats in float64.

    `opset` is the version imported for the node's domain. Raises `Unexecutable`.
    """
    arrays = [None if array is None else promote(np.asarray(array)) for array in inputs]
    while arrays and arrays[-1] is None:
        arrays.pop()
    is_blocked = attribute(node, "block_size", 0) != 0  # quantization in blocks came with opset 21, which onnx has
    is_right = opset < ONNX_IS_RIGHT_BEFORE.get((node.domain, node.op_type), 1)
    stand_in = None if is_blocked or is_right else STAND_INS.get((node.domain, node.op_type))
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
    array = given(arrays[0])
    return [array if target.is_floating_point() and array.dtype == np.float64 else array.astype(target.numpy())]


def _dequantize_linear(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """(x − zero point) · scale, per tensor or along `axis`; onnx has no implementation before opset 19."""
    x, scale, zero = [*arrays, None][:3]
    values, factor = floats(x), floats(scale)
    shape = [1] * values.ndim
    if factor.ndim == 1 and values.ndim:
        shape[attribute(node, "axis", 1) % values.ndim] = factor.size
    offset = 0.0 if zero is None else floats(zero).reshape(shape)
    return [(values - offset) * factor.reshape(shape)]


def _cast_like(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    return [given(arrays[0]).astype(given(arrays[1]).dtype)]


STAND_INS: Mapping[tuple[str, str], Definition] = {
    ("", "AveragePool"): spatial_operators.average_pool,
    ("", "BatchNormalization"): norm_operators.batch_normalization,
    ("", "Cast"): _cast,
    ("", "CastLike"): _cast_like,
    ("", "ConvTranspose"): convolution_operators.conv_transpose,
    ("", "Clip"): spatial_operators.clip,
    ("", "DequantizeLinear"): _dequantize_linear,
    ("", "GRU"): recurrent_operators.gru,
    ("", "GlobalMaxPool"): spatial_operators.global_max_pool,
    ("", "GroupNormalization"): norm_operators.group_normalization,
    ("", "InstanceNormalization"): norm_operators.instance_normalization,
    ("", "LSTM"): recurrent_operators.lstm,
    ("", "RNN"): recurrent_operators.rnn,
    ("", "LayerNormalization"): norm_operators.layer_normalization,
    ("com.microsoft", "LayerNormalization"): norm_operators.layer_normalization,
    ("", "MaxPool"): spatial_operators.max_pool,
    ("", "Pad"): spatial_operators.pad,
    ("", "RMSNormalization"): norm_operators.rms_normalization,
    ("", "Resize"): spatial_operators.resize,
    ("", "Upsample"): spatial_operators.resize,
    ("", "SimplifiedLayerNormalization"): norm_operators.rms_normalization,
    ("com.microsoft", "SimplifiedLayerNormalization"): norm_operators.rms_normalization,
    ("normswap", "LayerNorm"): norm_operators.canonical_layer_norm,
    ("normswap", "RMSNorm"): norm_operators.canonical_rms_norm,
    ("com.microsoft", "SkipLayerNormalization"): norm_operators.skip_layer_normalization,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): norm_operators.skip_rms_normalization,
}
# Before this opset an operator was another one, which onnx has right: a BatchNormalization with `is_test`.
ONNX_IS_RIGHT_BEFORE: Mapping[tuple[str, str], int] = {("", "BatchNormalization"): 7}

__all__ = [
    "ONNX_DOMAINS",
    "STAND_INS",
    "Array",
    "Floats",
    "Unexecutable",
    "attribute",
    "attribute_float",
    "center",
    "changed",
    "ml_dtypes_float",
    "promote",
    "root_mean_square",
    "run",
]
