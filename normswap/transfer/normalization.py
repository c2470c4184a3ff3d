"""Norm operators absorb what is wanted behind them in gain and bias, and of what comes before them what they cancel.

pull    s·(gain·z + bias) + t = (s·gain)·z + (s·bias + t)       z is the normalized value
push    RMS(a·x; ε) = sign(a) · RMS(x; ε/a²)                    one a ≠ 0 for all elements
        Center(x + t) = Center(x)                               t the same for all that are averaged together
BatchNormalization at inference has statistics of its own: it absorbs any s and t along its channels, both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap import maps
from normswap.maps import Deferred, Integers, Map, Shape
from normswap.norm_operators import EPSILON, in_training
from normswap.reference import Floats, attribute, attribute_float
from normswap.transfer.step import Blocked, Request, Step, on_axis, only_along, selected

X, GAIN, BIAS, MEAN, VARIANCE = range(5)
CHANNELS = 1
# The range of an attribute, which is a float32.
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

OF_UNKNOWN_SHAPE = Blocked("unknown-shape", "a norm of unknown shape")
RUN_TIME = Blocked("runtime-parameter", "a norm whose parameters are not constant")
OTHER_AXES = Blocked("does-not-commute", "a norm, along other axes than its gain")


@dataclass(frozen=True)
class Form:
    """What a norm operator does to values of `dims`: it averages over `axes`; its gain and bias lie along `along`.

    With `groups`, axis 1 counts as two, the groups and the channels of each; `axes` are those from the second on.
    """

    dims: tuple[int | None, ...]
    axes: tuple[int, ...]
    along: tuple[int, ...]
    centers: bool = True
    groups: int | None = None

    def same(self, array: Floats | Integers | Deferred, *, throughout: bool = False) -> bool:
        """Whether an array that broadcasts against the values is the same for all that are averaged together.

        With `throughout`, it must have an entry for each of them. What is deferred is judged by its shape.
        """
        shape, dims = self._split(array.shape), self._split(self.dims)
        if throughout and any(shape[axis] != dims[axis] for axis in self.axes):
            return False
        if isinstance(array, Deferred):
            return all(shape[axis] == 1 for axis in self.axes)
        apart = array.reshape([size or 1 for size in shape])
        first = tuple(slice(1) if axis in self.axes else slice(None) for axis in range(len(shape)))
        return bool((apart == apart[first]).all())

    def _split(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if self.groups is None:
            return shape
        channels = shape[CHANNELS] or 1
        split = (1, 1) if channels == 1 else (self.groups, channels // self.groups)
        return (*shape[:CHANNELS], *split, *shape[CHANNELS + 1 :])


def over_last_axes(request: Request) -> Step | Blocked:
    """LayerNormalization, RMSNormalization and onnxruntime's SimplifiedLayerNormalization."""
    dims = request.dims(X)
    if not dims:
        return OF_UNKNOWN_SHAPE
    axes = tuple(range(attribute(request.node, "axis", -1) % len(dims), len(dims)))
    return _norm(request, Form(dims, axes, axes, centers=request.node.op_type == "LayerNormalization"))


def over_space(request: Request) -> Step | Blocked:
    """InstanceNormalization, and GroupNormalization, which from opset 21 on has a gain for each channel."""
    node, dims = request.node, request.dims(X)
    channels = dims[CHANNELS] if dims is not None and len(dims) > CHANNELS + 1 else None
    if dims is None or channels is None:
        return OF_UNKNOWN_SHAPE
    is_grouped = node.op_type == "GroupNormalization"
    if request.pulls and is_grouped and request.facts.opset(node) < 21:
        return Blocked("grouped-weights", "a norm that has one gain for each group of channels")
    groups = attribute(node, "num_groups", 1) if is_grouped else channels
    return _norm(request, Form(dims, tuple(range(CHANNELS + 1, len(dims) + 1)), (CHANNELS,), groups=groups))


def _norm(request: Request, form: Form) -> Step | Blocked:
    if request.map.rank != len(form.dims):
        return OF_UNKNOWN_SHAPE
    return _elsewhere(request) or (_pull(request, form) if request.pulls else _push(request, form))


def _elsewhere(request: Request) -> Blocked | None:
    """Why not, where the map is not on the values themselves, or where more than those is read."""
    if request.pulls and request.output != 0:
        return Blocked("opaque-producer", "the statistics of a norm")
    if not request.pulls and request.at != X:
        return Blocked("does-not-commute", "a map on a parameter of a norm")
    if any(value.uses() or value.is_graph_output() for value in request.node.outputs[1:]):
        return Blocked("statistics-used", "a norm whose statistics are read as well")
    return None


def _pull(request: Request, form: Form) -> Step | Blocked:
    a_map, linear = request.map, maps.linear(request.map)
    if a_map.centers or not only_along(a_map, form.along):
        return OTHER_AXES
    if a_map.shifts and not form.centers:
        return Blocked("no-bias", "a norm without a bias to shift")
    wanted: dict[int, Map] = {} if linear.is_identity else {GAIN: linear}
    created: dict[int, Shape] = {}
    if request.value(BIAS) is not None:
        wanted[BIAS] = a_map
    elif a_map.shifts:
        sizes = [form.dims[axis] for axis in form.along]
        if None in sizes:
            return Blocked("no-bias", "a norm without a bias, over an axis of free size")
        created[BIAS] = tuple(size or 0 for size in sizes)
        wanted[BIAS] = selected(maps.affine(a_map.rank, shift=a_map.shift), form.along)
    if any(not request.is_constant(index) for index in wanted if index not in created):
        return RUN_TIME
    if form.groups is not None:  # parameters are vectors
        wanted = {index: on_axis(part, CHANNELS, 1, 0) for index, part in wanted.items()}
    return Step(outputs={0: a_map}, constants=wanted, created=created)


def _push(request: Request, form: Form) -> Step | Blocked:
    a_map = request.map
    if not form.centers and (a_map.centers or a_map.shifts):
        return Blocked("does-not-commute", "a norm that sees the mean")
    if not form.same(a_map.shift) or (a_map.centers and not form.same(a_map.group, throughout=True)):
        return Blocked("does-not-commute", "a norm, among elements that it averages")
    factor = float(a_map.scale.flat[0])
    if factor == 0 or (a_map.scale != factor).any():
        return Blocked("does-not-commute", "a norm, before which only one factor for all elements vanishes")
    epsilon = attribute_float(request.node, "epsilon", EPSILON)
    rescaled = epsilon / factor / factor
    if epsilon and not SMALLEST <= rescaled <= LARGEST:
        return Blocked("not-finite", "a norm whose epsilon would leave the range of float32")
    constants: dict[int, Map] = {}
    if factor < 0:
        if not request.is_constant(GAIN):
            return RUN_TIME
        constants[GAIN] = maps.affine(len(request.dims(GAIN) or ()), scale=np.asarray(-1.0))
    attributes = {} if rescaled == epsilon else {"epsilon": rescaled}
    return Step(inputs={X: a_map}, constants=constants, attributes=attributes)


def batch(request: Request) -> Step | Blocked:
    """BatchNormalization at inference: scale · (x − mean) / √(var + ε) + B."""
    node, dims, facts = request.node, request.dims(X), request.facts
    if in_training(node, facts.opset(node)):
        return Blocked("training-mode", "a norm in training mode")
    if dims is None or request.map.rank != len(dims) or any(len(request.dims(i) or ()) != 1 for i in (GAIN, BIAS)):
        return OF_UNKNOWN_SHAPE
    if request.map.centers or not only_along(request.map, [CHANNELS]):
        return OTHER_AXES
    elsewhere = _elsewhere(request)
    if elsewhere is not None:
        return elsewhere
    if not all(request.is_constant(index) for index in (GAIN, BIAS, MEAN, VARIANCE)):
        return RUN_TIME
    a_map = on_axis(request.map, CHANNELS, 1, 0)
    linear = maps.linear(a_map)
    constants = {} if linear.is_identity else {GAIN: linear}
    if request.pulls:
        return Step(outputs={0: request.map}, constants={**constants, BIAS: a_map})
    parameters = [value for value in node.inputs[GAIN : VARIANCE + 1] if value is not None]
    shape = facts.shape(parameters[0]) or (1,)
    shift = Deferred(shape, lambda: _shift(request, a_map, parameters))
    return Step(inputs={X: request.map}, constants={**constants, BIAS: maps.affine(1, shift=shift)})


def _shift(request: Request, a_map: Map, parameters: list[ir.Value]) -> Floats:
    """g · (t + (s − 1)·mean), for g · (s·x + t − mean) = s·g · (x − mean) + g · (t + (s − 1)·mean)."""
    scale, _, mean, variance = (request.facts.float64(value) for value in parameters)
    gain = scale / np.sqrt(variance + attribute_float(request.node, "epsilon", EPSILON))
    result: Floats = gain * (a_map.offset() + (a_map.scale - 1.0) * mean)
    return result
