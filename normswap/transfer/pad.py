"""Pad: what stands around the data takes the map as well.

pad(T(x); T(c)) = T(pad(x; c)) for a map that ignores the padded axes. There is one value c for all places, so a map
that looks at other axes passes only if it leaves c alone: c = 0 and no shift. Edge, reflect and wrap repeat mapped
data.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from normswap.maps import Shape
from normswap.reference import Array, attribute_float
from normswap.transfer.layout import layout
from normswap.transfer.passing import POSITIONS, image, on_constant, small, unchanged, uniform
from normswap.transfer.step import Blocked, Request, Step

BINDINGS = (0, 1)
VALUE = 2  # the input that holds c, from opset 11 on; an attribute before


def pad(request: Request) -> Step | Blocked:
    """Pad of all modes; along an axis of the map, as any layout operator."""
    if request.at not in (None, 0):
        return Blocked("does-not-commute", "whose padding it is")
    widths = _widths(request)
    if widths is None:
        return Blocked("unknown-shape", "whose padding is computed at run time")
    if any(request.map.varies(axis) for axis in widths):
        return layout(request)
    # Enough positions to take away, or to repeat, what is padded.
    probes = small(request, {axis: POSITIONS + 2 * width for axis, width in widths.items()})
    step = unchanged(request, probes=probes)
    mode = request.node.attributes.get("mode")
    repeats = mode is not None and mode.as_string() != "constant"
    if isinstance(step, Blocked) or repeats or not widths:
        return step
    return _with_value(request, step)


def _widths(request: Request) -> dict[int, int] | None:
    """How many positions each padded axis gains or loses at one end at most; None where that is not known."""
    found: dict[int, int] = {}
    for binding in BINDINGS:
        pads, axes = _pads(request, binding), _axes(request, binding)
        if pads is None or axes is None:
            return None
        for axis, width in zip(axes.tolist(), np.abs(pads.reshape(2, -1)).max(axis=0).tolist(), strict=True):
            if width:
                found[axis] = max(found.get(axis, 0), width)
    return found


def _pads(request: Request, binding: int) -> Array | None:
    written = request.node.attributes.get("pads")
    value = request.value(1)
    if written is not None:
        return np.asarray(written.as_ints())
    return None if value is None else request.facts.derived(value, binding)


def _axes(request: Request, binding: int) -> Array | None:
    value, every = request.value(3), np.arange(request.map.rank)
    if value is None:
        return every
    array = request.facts.derived(value, binding)
    return None if array is None else every[array]


def _with_value(request: Request, step: Step) -> Step | Blocked:
    """The step with the new padding value: T(c), or for a push the one of which c is T."""
    a_map, value = request.map, request.value(VALUE)
    is_attribute = "pads" in request.node.attributes
    number = attribute_float(request.node, "value", 0.0) if is_attribute else 0.0
    if value is not None:
        array = request.facts.constant(value)
        if array is None:
            return Blocked("zero-padding", "whose padding value is computed at run time")
        number = float(array.astype(np.float64).item())
    if number == 0 and not a_map.shifts:
        return step
    if a_map.centers:
        return Blocked("coarser-groups", "padding with something that may not be zero")
    one = uniform(a_map)
    if one is None:
        return Blocked("zero-padding", "whose padding value is the same everywhere")
    if not request.pulls and not a_map.scale.all():
        return Blocked("zero-padding", "whose padding value a factor of zero leaves out of reach")
    if is_attribute:
        return replace(step, attributes={"value": image(on_constant(one, 0, inverted=not request.pulls), number)})
    shape: Shape = () if value is None else tuple(request.facts.shape(value) or ())
    moved = on_constant(one, len(shape), inverted=not request.pulls)
    created = {VALUE: shape} if value is None else {}
    return replace(step, constants={**step.constants, VALUE: moved}, created=created)
