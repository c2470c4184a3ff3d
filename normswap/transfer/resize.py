"""Resize and Upsample: every output is a weighted mean of inputs, with weights that sum to one.

So each map that ignores the axes that are resized passes as it is, in both directions. What `tf_crop_and_resize` takes
from outside the input is a constant, which is no mean of inputs.
"""

from __future__ import annotations

import math

import numpy as np

from normswap.maps import Shape
from normswap.reference import Array
from normswap.transfer.passing import POSITIONS, small, unchanged
from normswap.transfer.step import Blocked, Request, Step

SIZES_SINCE = 11  # from this opset on Resize reads (X, roi, scales, sizes), before it, as Upsample, (X, scales)
BINDINGS = (0, 1)


def resize(request: Request) -> Step | Blocked:
    """Resize and Upsample, for maps along axes that keep their size."""
    if request.at not in (None, 0):
        return Blocked("does-not-commute", "whose size it decides")
    if _word(request, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return Blocked("does-not-commute", "which puts a constant where it reaches beyond its input")
    resized = [_resized(request, binding) for binding in BINDINGS]
    if any(request.map.varies(axis) for axes in resized for axis in axes or ()):
        return Blocked("does-not-commute", "which mixes what lies along the mapped axis")
    if None in resized:
        return Blocked("unknown-shape", "whose sizes are computed at run time")
    return unchanged(request, probes=_probe(request))


def _resized(request: Request, binding: int) -> list[int] | None:
    """The axes that are resized under `binding`; None where that is not known."""
    source = request.value(0)
    shape = None if source is None else request.facts.shape(source, binding)
    if shape is None:
        return None
    scales, sizes, axes = _scales(request, binding), _operand(request, 3, binding), _axes(request, len(shape))
    if scales is not None:
        return [axis for axis, scale in zip(axes, scales, strict=True) if scale != 1]
    if sizes is None:
        return None
    if _word(request, "keep_aspect_ratio_policy") not in ("", "stretch"):
        return axes  # all by one factor, whichever fits
    return [axis for axis, size in zip(axes, sizes, strict=True) if size != shape[axis]]


def _axes(request: Request, rank: int) -> list[int]:
    written = request.node.attributes.get("axes")
    return list(range(rank)) if written is None else [axis % rank for axis in written.as_ints()]


def _scales(request: Request, binding: int) -> Array | None:
    written = request.node.attributes.get("scales")  # of Upsample, before opset 9
    if written is not None:
        return np.asarray(written.as_floats())
    sized = request.node.op_type == "Resize" and request.facts.opset(request.node) >= SIZES_SINCE
    return _operand(request, 2 if sized else 1, binding)


def _operand(request: Request, index: int, binding: int) -> Array | None:
    """The numbers at input `index` under `binding`; None where it is left out, empty or not known."""
    value = request.value(index)
    array = None if value is None else request.facts.derived(value, binding)
    return array if array is not None and array.size else None


def _word(request: Request, name: str) -> str:
    found = request.node.attributes.get(name)
    return "" if found is None else found.as_string()


def _probe(request: Request) -> dict[int, Shape]:
    """Where the result is sized by factors, a few positions along each axis, and enough for two in the output."""
    scales = _scales(request, 0)
    if scales is None:
        return {}
    axes = _axes(request, request.map.rank)
    factors = dict(zip(axes, scales.tolist(), strict=True))
    return small(request, {axis: max(POSITIONS, math.ceil(2 / factor)) for axis, factor in factors.items()})
