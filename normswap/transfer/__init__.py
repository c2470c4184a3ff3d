"""How maps cross operators: one function per operator, both directions, all maps.

`transfer` looks the operator up in one table. Whatever is not in it is blocked, with the reason; a new operator is one
function and one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from normswap import maps
from normswap.maps import Map
from normswap.quantized import is_quantized, on_scales
from normswap.reference import ONNX_DOMAINS
from normswap.transfer.attention import product, softmax
from normswap.transfer.convolution import convolution
from normswap.transfer.einsum import einsum
from normswap.transfer.elementwise import add, multiply, same_everywhere, where
from normswap.transfer.layout import DATA_INPUTS, gather, layout, shape_only
from normswap.transfer.linear import gemm
from normswap.transfer.normalization import batch, over_last_axes, over_space
from normswap.transfer.pad import pad
from normswap.transfer.piecewise import clip, extremum, rectifier
from normswap.transfer.pooling import pool, reduction
from normswap.transfer.recurrent import recurrent
from normswap.transfer.resize import resize
from normswap.transfer.step import Along, Blocked, Request, Step

Transfer = Callable[[Request], "Step | Blocked"]

TRANSFERS: Mapping[str, Transfer] = {
    **dict.fromkeys(DATA_INPUTS, layout),
    "Add": add,
    "AveragePool": pool,
    "BatchNormalization": batch,
    "Cast": same_everywhere,
    "Clip": clip,
    "Conv": convolution,
    "ConvTranspose": convolution,
    "Div": multiply,
    "Dropout": same_everywhere,
    "Einsum": einsum,
    "GRU": recurrent,
    "Gather": gather,
    "Gemm": gemm,
    "GlobalAveragePool": pool,
    "GlobalMaxPool": pool,
    "GroupNormalization": over_space,
    "Identity": same_everywhere,
    "InstanceNormalization": over_space,
    "LSTM": recurrent,
    "LayerNormalization": over_last_axes,
    "LeakyRelu": rectifier,
    "LogSoftmax": softmax,
    "MatMul": product,
    "Max": extremum,
    "MaxPool": pool,
    "Min": extremum,
    "Mul": multiply,
    "Neg": same_everywhere,
    "PRelu": rectifier,
    "Pad": pad,
    "RMSNormalization": over_last_axes,
    "RNN": recurrent,
    "ReduceMax": reduction,
    "ReduceMean": reduction,
    "ReduceMin": reduction,
    "ReduceSum": reduction,
    "Relu": rectifier,
    "Resize": resize,
    "Shape": shape_only,
    "SimplifiedLayerNormalization": over_last_axes,
    "Size": shape_only,
    "Softmax": softmax,
    "Sub": add,
    "Sum": add,
    "Upsample": resize,
    "Where": where,
}
# Operators of onnxruntime's own domain that are what the table has under the same name.
CONTRIBUTED = frozenset({"LayerNormalization", "SimplifiedLayerNormalization"})


def transfer(request: Request) -> Step | Blocked:
    """How the operator of `request` moves its map, or why it does not."""
    node = request.node
    is_known = node.domain in ONNX_DOMAINS or (node.domain == "com.microsoft" and node.op_type in CONTRIBUTED)
    function = TRANSFERS.get(node.op_type) if is_known else None
    if function is None:
        return Blocked("opaque-producer" if request.pulls else "foreign-reader", f"{node.op_type} `{node.name}`")
    answer = function(request)
    replaceable = next(
        (value for value in node.inputs if value is not None and request.facts.is_overridable(value)), None
    )
    if isinstance(answer, Blocked) and replaceable is not None:
        return Blocked(
            "overridable-initializer",
            f"{node.op_type} `{node.name}` with `{replaceable.name}`, which the caller may replace",
        )
    if isinstance(answer, Step) and any(_stays_quantized(request, index, m) for index, m in answer.constants.items()):
        return Blocked("quantized-weights", f"{node.op_type} `{node.name}`, whose weight is stored quantized")
    return _trimmed(answer) if isinstance(answer, Step) else answer


def _trimmed(step: Step) -> Step:
    """The step with maps that look at no axis without need: behind a factor of zero, say, no shift is left."""
    inputs = {index: maps.trimmed(a_map) for index, a_map in step.inputs.items()}
    outputs = {position: maps.trimmed(a_map) for position, a_map in step.outputs.items()}
    return replace(
        step, inputs=inputs, outputs={place: a_map for place, a_map in outputs.items() if not a_map.is_identity}
    )


def _stays_quantized(request: Request, index: int, a_map: Map) -> bool:
    """Whether a constant is stored quantized and cannot take the map in as it is."""
    value = request.value(index)
    if value is None or not is_quantized(value):
        return False
    return on_scales(value, a_map, request.facts) is None


__all__ = ["DATA_INPUTS", "TRANSFERS", "Along", "Blocked", "Request", "Step", "transfer"]
