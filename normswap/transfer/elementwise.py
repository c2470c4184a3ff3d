"""Element-wise operators: linear ones pass a map on, sums split it, and constants absorb what reaches them.

pull    T(a + b) = L(a) + L(b) + t     the linear part to every operand, the shift to one, a constant first
push    (x + t) + b = x + (b + t)      a constant absorbs a shift; without one it goes on
both    S·(x·c) = x·(S·c)              a constant factor absorbs a scale along its axes
A factor that is the same along the mapped axes commutes with the linear part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from normswap import maps
from normswap.facts import Facts
from normswap.maps import Deferred, Map
from normswap.reference import Floats
from normswap.transfer.step import Blocked, Request, Step, fit, labels, rows

LEAST_BITS = 16  # a cast to a type of fewer rounds so coarsely, in so small a range, that a scale does not pass it


# What gates are made by: nothing can be moved further up there.
GATES = frozenset({"HardSigmoid", "Sigmoid", "Softmax", "Tanh"})


def add(request: Request) -> Step | Blocked:
    """Add, Sub and Sum."""
    operands = [index for index, value in enumerate(request.node.inputs) if value is not None]
    signs = {index: -1.0 if request.node.op_type == "Sub" and index == 1 else 1.0 for index in operands}
    if request.pulls:
        constants_first = sorted(operands, key=lambda index: not request.is_constant(index))
        shifted = constants_first[0]
        linear = maps.linear(request.map)
        with_shift = Map(linear.group, linear.scale, _scaled(request.map.shift, signs[shifted]))
        split = labels(request, {index: with_shift if index == shifted else linear for index in operands})
        if isinstance(split, Blocked):
            return split
        inputs, constants = split
        return Step(inputs=inputs, outputs={0: request.map}, constants=constants, cut=rows(request, operands))
    assert request.at is not None
    if request.map.centers or (request.map.scales and not _can_divide(request, operands)):
        return Blocked("does-not-commute", "a sum of which only one operand is mapped")
    out = _as_output(request, request.map)
    if isinstance(out, Blocked):
        return out
    if request.map.scales:  # s·x + t + b = s·(x + (b + t)/s)
        inverse = 1.0 / out.scale
        divided = {index: maps.affine(out.rank, scale=inverse) for index in operands if index != request.at}
        first, sign = next(iter(divided)), signs[request.at] * signs[next(iter(divided))]
        divided[first] = maps.affine(out.rank, inverse, out.offset() * inverse * sign)
        scaled = maps.linear(out)
        cut = rows(request, operands)
        return Step(inputs={request.at: request.map}, outputs={0: scaled}, constants=divided, cut=cut)
    moved = maps.affine(out.rank, shift=_scaled(out.shift, signs[request.at]))
    absorbers = [index for index in operands if index != request.at and request.is_constant(index)]
    if absorbers:
        # a ± (x + t) = (a ± t) ± x, and the sign of the absorbing operand itself undoes its own
        shift = maps.affine(out.rank, shift=_scaled(moved.shift, signs[absorbers[0]]))
        return Step(inputs={request.at: request.map}, constants={absorbers[0]: shift}, cut=rows(request, operands))
    return Step(inputs={request.at: request.map}, outputs={0: moved}, cut=rows(request, operands))


def _can_divide(request: Request, operands: Sequence[int]) -> bool:
    """Whether all other operands are constants that can be divided by the scale of the map."""
    others = [index for index in operands if index != request.at]
    return bool(others and request.map.scale.all()) and all(request.is_constant(index) for index in others)


def _scaled(shift: Floats | Deferred, factor: float) -> Floats | Deferred:
    if factor == 1:
        return shift
    if isinstance(shift, Deferred):
        return Deferred(shift.shape, lambda: factor * shift.force())
    return factor * shift


def _as_output(request: Request, a_map: Map) -> Map | Blocked:
    """A map on an operand as the map on the output it is broadcast to."""
    dims = request.facts.dims(request.node.outputs[0])
    if dims is None:
        return Blocked("unknown-shape", "an output whose rank is unknown")
    rank = len(dims)
    return maps.inserted(a_map, rank, range(rank - a_map.rank, rank))


def multiply(request: Request) -> Step | Blocked:
    """Mul, and Div as far as its numerator goes."""
    divides = request.node.op_type == "Div"
    absorber = None if divides else _absorber(request)
    if absorber is not None:
        return absorber
    at = request.at
    if at is None:
        at = _mapped_factor(request, divides=divides)
    if at is None or (divides and at == 1):
        what = "a denominator" if divides else "a product of two values that both vary along the axis"
        return Blocked("does-not-commute", what)
    other = request.value(1 - at)
    if other is None:
        return Blocked("unknown-shape", "a factor that is missing")
    rank = max(len(request.dims(0) or ()), len(request.dims(1) or ()))
    if request.map.centers and not _ignores(request.facts.dims(other), request.map, rank):
        return Blocked("elementwise-scale", "a product with a factor that differs along the centered axis")
    shift: Floats | Deferred = request.map.shift
    if request.map.shifts:
        factor = _constant_factor(request.facts, request, 1 - at, rank, divides=divides)
        if isinstance(factor, Blocked):
            return factor
        if not np.isfinite(factor).all() or (request.pulls and not factor.all()):
            return Blocked("elementwise-scale", "a factor of zero, behind which a shift cannot be made up for")
        shift = request.map.offset() / factor if request.pulls else request.map.offset() * factor
    linear = maps.linear(request.map)
    if request.pulls:
        split = labels(request, {at: Map(linear.group, linear.scale, shift)})
        if isinstance(split, Blocked):
            return split
        return Step(inputs=split[0], outputs={0: request.map}, constants=split[1], cut=rows(request, (0, 1)))
    out = _as_output(request, linear)
    if isinstance(out, Blocked):
        return out
    moved = Map(out.group, out.scale, _broad(shift, rank))  # which looks at the axes of a constant factor, too
    return Step(inputs={at: request.map}, outputs={0: moved}, cut=rows(replace(request, map=moved), (0, 1)))


def _absorber(request: Request) -> Step | None:
    """A constant factor that is no single number takes a scale, wanted or given: S·(x·c) = (S·x)·c = x·(S·c)."""
    if request.map.centers or request.map.shifts:
        return None
    scale = request.map if request.pulls else _as_output(request, request.map)
    index = next((i for i in (0, 1) if i != request.at and request.is_constant(i)), None)
    dims = None if index is None else request.dims(index)
    if index is None or dims is None or isinstance(scale, Blocked):
        return None
    if all(size == 1 for size in dims) and not _scales_gate(request, index):
        return None
    if isinstance(fit(scale, dims), Blocked):
        return None
    ends = {} if request.at is None else {request.at: request.map}
    outputs = {0: request.map} if request.pulls else {}
    return Step(inputs=ends, outputs=outputs, constants={index: scale}, cut=rows(request, (0, 1)))


def _scales_gate(request: Request, index: int) -> bool:
    """Whether one number scales what no map can pass, so that another number may become a part of it."""
    gate = request.value(1 - index)
    producer = None if gate is None else gate.producer()
    return request.pulls and not request.map.axes() and producer is not None and producer.op_type in GATES


def _broad(shift: Floats | Deferred, rank: int) -> Floats:
    array = shift.force() if isinstance(shift, Deferred) else shift
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _mapped_factor(request: Request, *, divides: bool) -> int | None:
    """Which operand of a product takes a map that is wanted on it: the one that varies along the mapped axes.

    Where both do, a scale goes to the smaller one, such as the gate of a squeeze-and-excite block.
    """
    if divides:
        return 0
    rank = request.map.rank
    full = [index for index in (0, 1) if not _ignores(request.dims(index), request.map, rank)]
    activations = [index for index in (0, 1) if not request.is_constant(index)]
    if len(full) == 1:
        return full[0]
    if request.map.centers:
        return None
    sized = [index for index in activations if not isinstance(fit(request.map, request.dims(index)), Blocked)]
    if sized and not request.map.shifts:
        return min(sized, key=lambda index: _weight(request, index))
    return activations[0] if activations else 0


def _weight(request: Request, index: int) -> tuple[bool, int]:
    """How much it takes to change operand `index`: what nothing computes last, then by the number of elements."""
    value = request.value(index)
    shape = None if value is None else request.facts.shape(value)
    return value is None or value.producer() is None, math.prod(shape or ())


def _ignores(dims: tuple[int | None, ...] | None, a_map: Map, rank: int) -> bool:
    """Whether an operand of shape `dims` is the same along every axis the map (on values of `rank`) looks at."""
    if dims is None:
        return False
    lead = rank - len(dims)
    axes = [axis + rank - a_map.rank for axis in a_map.axes()]
    return all(axis < lead or dims[axis - lead] == 1 for axis in axes)


def _constant_factor(facts: Facts, request: Request, index: int, rank: int, *, divides: bool) -> Floats | Blocked:
    value = request.value(index)
    if value is None or not facts.is_constant(value):
        return Blocked("elementwise-scale", "a product with a run-time factor, behind which a shift stays")
    array = facts.float64(value)
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    with np.errstate(divide="ignore"):
        return np.asarray(1.0 / array) if divides else array


def same_everywhere(request: Request) -> Step | Blocked:
    """Identity, Dropout at inference, Neg, and Cast between float types: what is true of x is true of the output."""
    node, facts = request.node, request.facts
    source = request.value(0)
    if source is None:
        return Blocked("unknown-shape", "an input that is missing")
    if node.op_type == "Cast":
        types = (facts.dtype(source), facts.dtype(node.outputs[0]))
        if any(dtype is None or not dtype.is_floating_point() for dtype in types):
            return Blocked("opaque-producer", "a cast to or from integers")
        if any(dtype is not None and dtype.bitwidth < LEAST_BITS for dtype in types):
            return Blocked("opaque-producer", "a cast to or from so few bits that it quantizes")
    if node.op_type == "Dropout" and not _is_inference(request):
        return Blocked("training-mode", "a dropout in training mode")
    here, there = request.map, request.map
    if node.op_type == "Neg":
        there = Map(here.group, here.scale, _scaled(here.shift, -1.0))
    if request.pulls:
        split = labels(request, {0: there})
        if isinstance(split, Blocked):
            return split
        return Step(inputs=split[0], outputs={0: here}, constants=split[1], cut=rows(request, (0,)))
    return Step(inputs={0: here}, outputs={0: there}, cut=rows(request, (0,)))


def _is_inference(request: Request) -> bool:
    if request.facts.opset(request.node) < 12:
        return True  # up to opset 11 the operator has no training mode of its own (opset < 7: is_test)
    value = request.value(2)
    if value is None:
        return True
    array = request.facts.constant(value)
    return array is not None and not array.any()


def where(request: Request) -> Step | Blocked:
    """Where: a scale passes any mask, a Center one that is the same along its groups, a shift goes to both branches."""
    if not request.pulls:
        return Blocked("does-not-commute", "a choice of which only one branch is mapped")
    mask = request.value(0)
    if mask is None or (request.map.centers and not _ignores(request.dims(0), request.map, request.map.rank)):
        return Blocked("does-not-commute", "a mask that differs along the centered axis")
    split = labels(request, {1: request.map, 2: request.map})
    if isinstance(split, Blocked):
        return split
    return Step(inputs=split[0], outputs={0: request.map}, constants=split[1], cut=rows(request, (0, 1, 2)))
