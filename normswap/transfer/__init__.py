"""How maps cross operators: one function per operator, both directions, all maps.

`transfer` looks the operator up in one table. Whatever is not in it is blocked, with the reason; a new operator is one
function and one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from normswap.reference import ONNX_DOMAINS
from normswap.transfer.attention import product, softmax
from normswap.transfer.elementwise import add, multiply, same_everywhere, where
from normswap.transfer.layout import DATA_INPUTS, gather, layout, shape_only
from normswap.transfer.linear import conv, gemm
from normswap.transfer.pooling import global_pool, reduction
from normswap.transfer.step import Along, Blocked, Request, Step

Transfer = Callable[[Request], "Step | Blocked"]

TRANSFERS: Mapping[str, Transfer] = {
    **dict.fromkeys(DATA_INPUTS, layout),
    "Add": add,
    "AveragePool": global_pool,
    "Cast": same_everywhere,
    "Conv": conv,
    "Div": multiply,
    "Dropout": same_everywhere,
    "Gather": gather,
    "Gemm": gemm,
    "GlobalAveragePool": global_pool,
    "Identity": same_everywhere,
    "LogSoftmax": softmax,
    "MatMul": product,
    "Mul": multiply,
    "Neg": same_everywhere,
    "ReduceMean": reduction,
    "ReduceSum": reduction,
    "Shape": shape_only,
    "Size": shape_only,
    "Softmax": softmax,
    "Sub": add,
    "Sum": add,
    "Where": where,
}


def transfer(request: Request) -> Step | Blocked:
    """How the operator of `request` moves its map, or why it does not."""
    node = request.node
    function = TRANSFERS.get(node.op_type) if node.domain in ONNX_DOMAINS else None
    if function is None:
        return Blocked("opaque-producer" if request.pulls else "foreign-reader", f"{node.op_type} `{node.name}`")
    answer = function(request)
    quantized = (
        [] if isinstance(answer, Blocked) else [index for index in answer.constants if _is_quantized(request, index)]
    )
    if quantized:
        return Blocked("quantized-weights", f"{node.op_type} `{node.name}`, whose weight is stored quantized")
    return answer


def _is_quantized(request: Request, index: int) -> bool:
    """Whether a constant is computed from a quantized one; as a new float constant it would no longer be that."""
    value = request.value(index)
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in ("DequantizeLinear", "DequantizeBFP", "MatMulNBits"):
            return True
        value = node.inputs[0] if node.inputs else None
    return False


__all__ = ["DATA_INPUTS", "TRANSFERS", "Along", "Blocked", "Request", "Step", "transfer"]
