"""Products of two activations and what stands between them: maps along a free axis pass, Softmax forgets a shift.

A (B S) = (A B) S               a linear map on the columns of B is one on the columns of the product
A (B + 1 t) = A B + 1 t         where every row of A sums to one, as behind a Softmax
softmax(v + c 1) = softmax(v)   so softmax(C v) = softmax(v), when all of its axis is one group
"""

from __future__ import annotations

import onnx_ir as ir

from normswap import maps
from normswap.facts import Facts
from normswap.maps import Map
from normswap.reference import attribute
from normswap.transfer.linear import matmul
from normswap.transfer.step import Blocked, Request, Step, fit, only_along

# What may stand between a Softmax and the product that uses its rows as weights.
TRANSPARENT = frozenset({"Identity", "Dropout", "Cast"})


def product(request: Request) -> Step | Blocked:
    """MatMul: with a constant weight it absorbs (`linear.matmul`), without one it passes maps along free axes."""
    if request.is_constant(0) or request.is_constant(1):
        return matmul(request)
    left, right = request.dims(0), request.dims(1)
    if left is None or right is None or min(len(left), len(right)) < 2:
        return Blocked("unknown-shape", "a product of vectors, or of unknown rank")
    a_map, rank = request.map, max(len(left), len(right))
    columns, rows = a_map.rank - 1, a_map.rank - 2
    index = 1 if request.at == 1 or (request.pulls and only_along(a_map, [columns])) else 0
    if not only_along(a_map, [columns if index == 1 else rows]):
        return Blocked("does-not-commute", "a product of two activations, along an axis that is summed over")
    if a_map.shifts and not (index == 1 and rows_sum_to_one(request.value(0), request.facts)):
        return Blocked("no-bias", "a product of two activations, which has no bias to shift")
    if request.pulls:
        fitted = fit(a_map, right if index == 1 else left)
        return fitted if isinstance(fitted, Blocked) else Step(inputs={index: fitted}, outputs={0: a_map})
    out = maps.inserted(a_map, rank, range(rank - a_map.rank, rank))
    return Step(inputs={index: a_map}, outputs={0: out})


def rows_sum_to_one(value: ir.Value | None, facts: Facts) -> bool:
    """Whether `value` is what a Softmax gives out along the last axis, so that weighted sums keep a shift."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Softmax":
            dims = facts.dims(node.outputs[0])
            default = -1 if facts.opset(node) >= 13 else 1
            return dims is not None and attribute(node, "axis", default) % len(dims) == len(dims) - 1
        if node.op_type not in TRANSPARENT or (node.op_type == "Dropout" and len(node.inputs) > 2):
            return False  # a Dropout that is told its mode may be in training
        value = node.inputs[0]
    return False


def softmax(request: Request) -> Step | Blocked:
    """Softmax and LogSoftmax: invariant to Center over all of their axis, and to what is the same along it."""
    if request.pulls:
        return Blocked("opaque-producer", "a softmax")
    dims = request.dims(0)
    if dims is None or (request.facts.opset(request.node) < 13 and not _is_last(request.node, len(dims))):
        return Blocked("unknown-shape", "a softmax over several axes, or of unknown rank")
    default = -1 if request.facts.opset(request.node) >= 13 else 1
    axis = attribute(request.node, "axis", default) % len(dims)
    a_map = request.map
    if a_map.scales or a_map.shift.shape[axis] > 1 or not _one_group(a_map, axis):
        return Blocked("does-not-commute", "a softmax, which sees more than differences along its axis")
    return Step(inputs={0: a_map})


def _is_last(node: ir.Node, rank: int) -> bool:
    return attribute(node, "axis", 1) % rank == rank - 1


def _one_group(a_map: Map, axis: int) -> bool:
    """Whether a map without scale changes all elements along `axis` by the same amount."""
    return not a_map.centers or (bool((a_map.group == a_map.group.take([0], axis)).all()) and a_map.varies(axis))
