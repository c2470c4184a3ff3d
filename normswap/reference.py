"""Run one operator in float64: the oracle under recognition, carrying of maps, and proofs.

onnx's reference operators do the work. Floats are promoted to float64 on the way in and on the way out, and casts
between float types are the identity, so that what is compared is the function and not its rounding. Where onnx's
operator is known to be wrong or missing (MATH.md §11), a definition of a few lines in `STAND_INS` is used instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import load_op

from normswap import contrib_operators, convolution_operators, norm_operators, recurrent_operators, spatial_operators
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

Runner = Callable[[Sequence["Array | None"]], list[Array]]

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
    with quiet():
        return runner(node, opset)(inputs)


@contextmanager
def quiet() -> Iterator[None]:
    """Where operators run: overflow, and divisions by zero, are answers like others."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def runner(node: ir.Node, opset: int) -> Runner:
    """`run` for a node that is run again and again, all within `quiet`. Both raise `Unexecutable`."""
    is_blocked = attribute(node, "block_size", 0) != 0  # quantization in blocks came with opset 21, which onnx has
    is_right = opset < ONNX_IS_RIGHT_BEFORE.get((node.domain, node.op_type), 1)
    stand_in = None if is_blocked or is_right else STAND_INS.get((node.domain, node.op_type))
    operator = None if stand_in else _operator(node, opset)

    def outputs(inputs: Sequence[Array | None]) -> list[Array]:
        arrays = [None if array is None else promote(np.asarray(array)) for array in inputs]
        while arrays and arrays[-1] is None:
            arrays.pop()
        try:
            results = stand_in(node, arrays) if stand_in else operator(*arrays) if operator else ()
        except Exception as error:  # a reference operator may raise anything; what cannot be run cannot be proved
            raise _unexecutable(node, error) from error
        return [promote(np.asarray(result)) for result in results]

    return outputs


def _unexecutable(node: ir.Node, error: Exception) -> Unexecutable:
    return Unexecutable(f"{node.op_type} `{node.name}`: {error}")


Operator = Callable[..., Sequence[Array]]
# What an operator of onnx's depends on, and the operator: it is made once, and run for every node that is alike.
_operators: dict[Hashable, Operator] = {}
MOST_OPERATORS = 1 << 12
PLAIN = frozenset(
    {
        *(ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.FLOAT, ir.AttributeType.FLOATS),
        *(ir.AttributeType.STRING, ir.AttributeType.STRINGS),
    }
)


def alike(node: ir.Node, opset: int) -> Hashable:
    """What nodes share that compute the same function of their inputs; None where an attribute is no number or word."""
    if any(item.is_ref() or item.type not in PLAIN for item in node.attributes.values()):
        return None
    attributes = tuple((name, item.type, repr(item.value)) for name, item in node.attributes.items())
    slots = tuple(value is None for value in node.inputs), tuple(not value.name for value in node.outputs)
    return (node.domain, node.op_type, opset, attributes, *slots)


def _operator(node: ir.Node, opset: int) -> Operator:
    """onnx's operator for `node`; one that was made before where all attributes are numbers and words."""
    key = alike(node, opset)
    if key is None:
        return _made(node, opset)
    if key not in _operators:
        if len(_operators) >= MOST_OPERATORS:
            _operators.clear()
        _operators[key] = _made(node, opset)
    return _operators[key]


def _made(node: ir.Node, opset: int) -> Operator:
    if node.domain not in ONNX_DOMAINS:
        raise _unexecutable(node, Unexecutable(f"no definition of {node.domain}.{node.op_type}"))
    parameters = {
        "log": lambda *_: None,
        "opsets": {node.domain: opset},
        "verbose": 0,
        "new_ops": None,
        "existing_functions": {},
        "evaluator_cls": ReferenceEvaluator,
    }
    try:
        made: Operator = load_op(node.domain, node.op_type, opset)(ir.serde.serialize_node(node), parameters).run
    except Exception as error:  # as when it runs
        raise _unexecutable(node, error) from error
    return made


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
    ("", "LpNormalization"): norm_operators.lp_normalization,
    ("", "MaxPool"): spatial_operators.max_pool,
    ("", "MeanVarianceNormalization"): norm_operators.mean_variance_normalization,
    ("", "Pad"): spatial_operators.pad,
    ("", "RMSNormalization"): norm_operators.rms_normalization,
    ("", "Resize"): spatial_operators.resize,
    ("", "Upsample"): spatial_operators.resize,
    ("", "SimplifiedLayerNormalization"): norm_operators.rms_normalization,
    ("com.microsoft", "SimplifiedLayerNormalization"): norm_operators.rms_normalization,
    ("ai.onnx.ml", "Normalizer"): norm_operators.normalizer,
    ("normswap", "InstanceNorm"): norm_operators.canonical_instance_norm,
    ("normswap", "LayerNorm"): norm_operators.canonical_layer_norm,
    ("normswap", "RMSNorm"): norm_operators.canonical_rms_norm,
    ("com.microsoft", "BranchwiseRMSNorm"): contrib_operators.branchwise_rms_norm,
    ("com.microsoft", "EmbedLayerNormalization"): contrib_operators.embed_layer_normalization,
    ("com.microsoft", "GatedRMSNorm"): contrib_operators.gated_rms_norm,
    ("com.microsoft", "GroupNorm"): contrib_operators.group_norm,
    ("com.microsoft", "SkipGroupNorm"): contrib_operators.skip_group_norm,
    ("com.microsoft", "SkipLayerNormalization"): contrib_operators.skip_layer_normalization,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): contrib_operators.skip_rms_normalization,
}
# Before this opset an operator was another one, which onnx has right: a BatchNormalization with `is_test`.
ONNX_IS_RIGHT_BEFORE: Mapping[tuple[str, str], int] = {("", "BatchNormalization"): 7}

__all__ = [
    "ONNX_DOMAINS",
    "STAND_INS",
    "Array",
    "Floats",
    "Unexecutable",
    "alike",
    "attribute",
    "attribute_float",
    "center",
    "changed",
    "ml_dtypes_float",
    "promote",
    "root_mean_square",
    "run",
]
