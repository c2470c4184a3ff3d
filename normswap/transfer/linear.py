"""Constant weights absorb maps: MatMul, Gemm and Conv, pulled along the output axis, pushed along the input axis.

pull    C(x W + b) = x C(W) + C(b)              the weight is centered along its output axis, the bias like a value
push    (s·x + t) W + b = x (s·W) + (t W + b)   the weight is scaled along its input axis, the bias is shifted
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from normswap import maps
from normswap.maps import Deferred, Map
from normswap.reference import Floats, attribute, attribute_float
from normswap.transfer.step import Along, Blocked, Request, Step, on_axis, only_along

TWO_MAPS = Blocked("does-not-commute", "a map that both centers and scales the input of a weight")


def matmul(request: Request) -> Step | Blocked:
    """MatMul with one constant factor of rank ≥ 2."""
    weight = 1 if request.is_constant(1) else 0
    dims = [request.dims(0), request.dims(1)]
    if dims[0] is None or dims[1] is None or min(len(dims[0]), len(dims[1])) < 2:
        return Blocked("unknown-shape", "a product of vectors, or of unknown rank")
    rank, weight_rank, data = max(len(dims[0]), len(dims[1])), len(dims[weight] or ()), 1 - weight
    free_axis = -1 if weight == 1 else -2  # the output axis that the weight makes
    summed = -2 if weight == 1 else -1  # the weight's axis that is summed over
    cut: list[tuple[Along, ...]] = [(Along(weight, summed), Along(data, -1 if data == 0 else -2))]
    if weight == 1 and weight_rank == 2:
        cut += [(Along(0, axis),) for axis in range(rank - 1) if not request.map.varies(axis)]
    if request.map.rank != (rank if request.pulls else len(dims[data] or ())):
        return Blocked("unknown-shape", "a product whose rank is not what was inferred")
    if not request.pulls:
        return _matmul_push(request, weight, weight_rank, cut[1:])
    if request.map.shifts:
        return Blocked("no-bias", "a product without a bias to shift")
    if only_along(request.map, [rank + free_axis]):
        on_weight = on_axis(request.map, rank + free_axis, weight_rank, weight_rank + free_axis)
        return Step(outputs={0: request.map}, constants={weight: on_weight}, cut=cut)
    if rank == len(dims[data] or ()) and rank + free_axis not in request.map.axes() and weight_rank == 2:
        return Step(inputs={data: request.map}, outputs={0: request.map})  # linear maps on rows commute
    return Blocked("does-not-commute", "a product whose weight would have to mix rows and columns")


def _matmul_push(request: Request, weight: int, weight_rank: int, cut: Sequence[tuple[Along, ...]]) -> Step | Blocked:
    if weight != 1 or weight_rank != 2:
        return Blocked("does-not-commute", "a weight on the left, or a batch of weights")
    a_map, rank = request.map, request.map.rank
    if not only_along(a_map, [rank - 1]):
        if a_map.shifts or rank - 1 in a_map.axes():
            return Blocked("does-not-commute", "a shift along rows")
        return Step(inputs={0: a_map}, outputs={0: a_map})
    if a_map.centers and a_map.scales:
        return TWO_MAPS
    constants = _on_input_axis(a_map, rank - 1, 2, 0)
    out = maps.identity(rank)
    if a_map.shifts:
        value = request.node.inputs[1]
        assert value is not None
        columns = (request.facts.dims(value) or (0, 0))[1] or 0
        product = Deferred((1,) * (rank - 1) + (columns,), lambda: _times(a_map, request, value, transposed=False))
        out = maps.affine(rank, shift=product)
    return Step(
        inputs={0: a_map},
        outputs={} if out.is_identity else {0: out},
        constants={} if constants is None else {1: constants},
        cut=cut,
    )


def _on_input_axis(a_map: Map, axis: int, rank: int, target: int) -> Map | None:
    """The linear part of a pushed map, on the weight's input axis; None where there is none."""
    part = maps.linear(a_map)
    return None if part.is_identity else on_axis(part, axis, rank, target)


def _times(a_map: Map, request: Request, weight: ir.Value, *, transposed: bool) -> Floats:
    """t W, the shift that a product makes of the shift t of its input, in float64; t is one number where uniform."""
    matrix = request.facts.float64(weight)
    matrix = matrix.T if transposed else matrix
    row = np.broadcast_to(a_map.offset().reshape(-1), (matrix.shape[0],))
    product: Floats = row @ matrix
    return product


def gemm(request: Request) -> Step | Blocked:
    """Gemm: alpha · A' B' + beta · C with a constant B."""
    node, a_map = request.node, request.map
    transposed_a, transposed_b = bool(attribute(node, "transA", 0)), bool(attribute(node, "transB", 0))
    alpha, beta = attribute_float(node, "alpha", 1.0), attribute_float(node, "beta", 1.0)
    weight = request.value(1)
    if weight is None or not request.is_constant(1):
        return Blocked("opaque-producer", "a product of two activations")
    size = (request.facts.dims(weight) or (None, None))[0 if transposed_b else 1]
    if size is None or (a_map.shifts and beta == 0):
        return Blocked("unknown-shape", "a weight of unknown shape, or a bias that is multiplied by zero")
    if request.pulls:
        return _gemm_pull(request, size, beta, transposed_b)
    if request.at != 0:
        return Blocked("does-not-commute", "a map on the bias of a Gemm")
    axis = 0 if transposed_a else 1
    if not only_along(a_map, [axis]):
        return Blocked("does-not-commute", "a map along rows")
    if a_map.centers and a_map.scales:
        return TWO_MAPS
    linear = _on_input_axis(a_map, axis, 2, 1 if transposed_b else 0)
    constants = {} if linear is None else {1: linear}
    created: dict[int, tuple[int, ...]] = {}
    outputs: dict[int, Map] = {}
    if a_map.shifts:
        product = Deferred((size,), lambda: alpha * _times(a_map, request, weight, transposed=transposed_b))
        if request.value(2) is None:
            divided = Deferred((size,), lambda: product.force() / beta)
            created[2], constants[2] = (size,), maps.affine(1, shift=divided)
        elif request.is_constant(2):
            rank = len(request.dims(2) or ())
            divided = Deferred((1,) * (max(rank, 1) - 1) + (size,), lambda: product.force() / beta)
            constants[2] = maps.affine(max(rank, 1), shift=divided)
        else:
            outputs[0] = maps.affine(2, shift=Deferred((1, size), product.force))
    columns = [Along(1, 0 if transposed_b else 1), Along(0, 1, output=True)]
    if request.value(2) is not None and (request.dims(2) or (1,))[-1] == size:
        columns.append(Along(2, -1))
    cut = () if created or outputs else (tuple(columns),)
    return Step(inputs={0: a_map}, outputs=outputs, constants=constants, created=created, cut=cut)


def _gemm_pull(request: Request, size: int, beta: float, transposed_b: bool) -> Step | Blocked:
    a_map = request.map
    if not only_along(a_map, [1]):
        return Blocked("does-not-commute", "a map along rows")
    weight_map = on_axis(maps.linear(a_map), 1, 2, 0 if transposed_b else 1)
    constants = {1: weight_map} if not weight_map.is_identity else {}
    created: dict[int, tuple[int, ...]] = {}
    inputs: dict[int, Map] = {}
    # beta · C' = T(beta · C) where C' = lin(C) + t / beta
    scaled = Map(a_map.group, a_map.scale, a_map.offset() / beta) if a_map.shifts and beta != 1 else a_map
    if request.value(2) is None:
        if a_map.shifts:
            created[2], constants[2] = (size,), on_axis(maps.affine(2, shift=scaled.shift), 1, 1, 0)
    elif request.is_constant(2):
        constants[2] = scaled
    else:
        dims = request.dims(2)
        if dims is None or dims[-1:] != (size,):
            return Blocked("broadcast", "a run-time bias that is the same along the mapped axis")
        inputs[2] = scaled if len(dims) == 2 else on_axis(scaled, 1, 1, 0)
    summed = (Along(0, 0 if attribute(request.node, "transA", 0) else 1), Along(1, 1 if transposed_b else 0))
    return Step(inputs=inputs, outputs={0: a_map}, constants=constants, created=created, cut=(summed,))


def conv(request: Request) -> Step | Blocked:
    """Conv: pull along the output channels (a Center must lie within one group), push without padding for a shift."""
    groups = attribute(request.node, "group", 1)
    weight, a_map = request.value(1), request.map
    dims = None if weight is None else request.facts.dims(weight)
    if weight is None or dims is None or not request.is_constant(1) or None in dims:
        return Blocked("opaque-producer", "a convolution whose weight is not constant")
    if not only_along(a_map, [1]):
        return Blocked("does-not-commute", "a map along the positions of a convolution")
    if not request.pulls:
        return _conv_push(request, groups, weight, tuple(int(size or 0) for size in dims))
    channels = int(dims[0] or 0)
    if a_map.centers and groups > 1 and not _within(a_map, channels // groups):
        return Blocked("grouped-weights", f"a convolution in {groups} groups, whose mean would mix them")
    weight_map = on_axis(maps.linear(a_map), 1, len(dims), 0)
    constants = {} if weight_map.is_identity else {1: weight_map}
    created: dict[int, tuple[int, ...]] = {}
    if request.value(2) is not None:
        if not request.is_constant(2):
            return Blocked("overridable-initializer", "a bias that is not constant")
        constants[2] = on_axis(a_map, 1, 1, 0)
    elif a_map.shifts:
        created[2], constants[2] = (channels,), on_axis(maps.affine(a_map.rank, shift=a_map.shift), 1, 1, 0)
    cut = ((Along(0, 1), Along(1, 1)),) if groups == 1 else ()
    probes = {0: _window(request.node, dims, groups)}
    return Step(outputs={0: a_map}, constants=constants, created=created, cut=cut, probes=probes)


def _window(node: ir.Node, dims: tuple[int | None, ...], groups: int) -> tuple[int, ...]:
    """A small input with more than one output position along each spatial axis, whatever the padding."""

    def per_axis(name: str) -> Sequence[int]:
        found = node.attributes.get(name)
        return found.as_ints() if found is not None else [1] * (len(dims) - 2)

    strides, dilations = per_axis("strides"), per_axis("dilations")
    kernel = [int(size or 1) for size in dims[2:]]
    sizes = [d * (k - 1) + 2 * s + 1 for k, s, d in zip(kernel, strides, dilations, strict=True)]
    return (2, int(dims[1] or 1) * groups, *sizes)


def _within(a_map: Map, size: int) -> bool:
    """Whether every centered group lies in one block of `size` channels."""
    numbers = a_map.group.reshape(-1)
    blocks = np.arange(numbers.size) // size
    return all(np.unique(blocks[numbers == number]).size == 1 for number in np.unique(numbers[numbers >= 0]))


def _conv_push(request: Request, groups: int, weight: ir.Value, dims: tuple[int, ...]) -> Step | Blocked:
    a_map = request.map
    if request.at != 0 or a_map.centers:
        return Blocked("does-not-commute", "a Center before a convolution")
    # Output channel o reads the channels of its own group: entry [o, i] belongs to channel (group of o) · I + i.
    channel = (np.arange(dims[0]) // (dims[0] // groups))[:, None] * dims[1] + np.arange(dims[1])
    tail = (1,) * (len(dims) - 2)

    def per_entry(array: Floats) -> Floats:
        wide = np.broadcast_to(array.reshape(-1), (dims[1] * groups,))
        result: Floats = wide[channel].reshape(dims[:2] + tail)
        return result

    constants = {1: maps.affine(len(dims), scale=per_entry(a_map.scale))} if a_map.scales else {}
    created: dict[int, tuple[int, ...]] = {}
    if a_map.shifts:
        if _is_padded(request.node):
            return Blocked("zero-padding", "a zero-padded convolution, which would need another shift at the border")
        if request.value(2) is not None and not request.is_constant(2):
            return Blocked("overridable-initializer", "a bias that is not constant")
        shifted = Deferred(
            (dims[0],), lambda: (request.facts.float64(weight) * per_entry(a_map.offset())).reshape(dims[0], -1).sum(1)
        )
        constants[2] = maps.affine(1, shift=shifted)
        if request.value(2) is None:
            created[2] = (dims[0],)
    probes = {0: _window(request.node, dims, groups)}
    return Step(inputs={0: a_map}, constants=constants, created=created, probes=probes)


def _is_padded(node: ir.Node) -> bool:
    automatic = node.attributes.get("auto_pad")
    if automatic is not None and automatic.as_string() not in ("NOTSET", "VALID"):
        return True
    pads = node.attributes.get("pads")
    return pads is not None and any(pads.as_ints())
