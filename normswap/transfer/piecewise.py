"""Operators that bend: rectifiers, Clip, Max and Min pass what keeps the order of numbers.

relu(s·x) = s·relu(x) for s ≥ 0: a rectifier bends at zero alone, so a shift does not pass.
max(T(a), T(b)) = T(max(a, b)) for increasing T: what is compared with, as the bounds of a Clip, takes the map as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap import maps
from normswap.facts import Facts
from normswap.maps import Map
from normswap.reference import Floats
from normswap.transfer.passing import image, not_increasing, on_constant, small, unchanged, uniform
from normswap.transfer.step import Blocked, Request, Step, labels, rows

RECTIFIERS = frozenset({"LeakyRelu", "PRelu", "Relu"})
EXTREMA = frozenset({"Max", "Min"})
BOUNDS = {"min": 1, "max": 2}  # of a Clip: by attribute before opset 11, by input from then on


def rectifier(request: Request) -> Step | Blocked:
    """Relu, LeakyRelu and PRelu, whatever their slopes: n(s·x) = s·n(x) for s ≥ 0."""
    if request.at not in (None, 0):
        return Blocked("does-not-commute", "whose slope it is")
    blocked = not_increasing(request.map)
    if blocked is not None:
        return blocked
    if request.map.shifts:
        return Blocked("does-not-commute", "which bends at zero, before which a shift cannot pass")
    if request.value(1) is not None:
        return unchanged(request, cut=rows(request, (0, 1)))
    return unchanged(request, probes=small(request))


# --- Clip -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """A finite bound of a Clip: under which name or at which input it stands, and its number."""

    at: str | int
    number: float


def clip(request: Request) -> Step | Blocked:
    """Clip: bounds of zero let s ≥ 0 through as a rectifier does; other bounds, one for all, take a uniform map."""
    if request.at not in (None, 0):
        return Blocked("does-not-commute", "whose bound it is")
    found, a_map = bounds(request.node, request.facts), request.map
    if found is None:
        return Blocked("piecewise-bounds", "whose bounds are computed at run time")
    if not found:
        return unchanged(request)
    blocked = not_increasing(a_map)
    if blocked is not None:
        return blocked
    if not a_map.shifts and all(bound.number == 0 for bound in found):
        return unchanged(request, probes=small(request))
    one = uniform(a_map)
    if one is None:
        return Blocked("piecewise-bounds", "whose bounds are the same everywhere")
    if not request.pulls and not a_map.scale.all():
        return Blocked("piecewise-bounds", "whose bounds a factor of zero leaves out of reach")
    return _with_bounds(request, one, [bound for bound in found if a_map.shifts or bound.number != 0])


def _with_bounds(request: Request, one: Map, moved: list[Bound]) -> Step | Blocked:
    """pull: clip(T(x); T(b)) = T(clip(x; b)); push: the old bounds are T of the new ones."""
    step = unchanged(request, probes=small(request))
    if isinstance(step, Blocked):
        return step
    constants, attributes = dict(step.constants), {}
    for bound in moved:
        if isinstance(bound.at, str):
            attributes[bound.at] = image(on_constant(one, 0, inverted=not request.pulls), bound.number)
        else:
            rank = len(request.dims(bound.at) or ())
            constants[bound.at] = on_constant(one, rank, inverted=not request.pulls)
    return Step(step.inputs, step.outputs, constants, attributes=attributes, probes=step.probes)


def bounds(node: ir.Node, facts: Facts) -> list[Bound] | None:
    """The finite bounds of a Clip; None where one is computed at run time."""
    found: list[Bound] = []
    dtype = None if node.inputs[0] is None else facts.dtype(node.inputs[0])
    for name, index in BOUNDS.items():
        value = node.inputs[index] if index < len(node.inputs) else None
        written = node.attributes.get(name)
        if written is not None:
            found.append(Bound(name, written.as_float()))
        elif value is not None:
            array = facts.constant(value)
            if array is None:
                return None
            found.append(Bound(index, float(array.astype(np.float64).item())))
    return [bound for bound in found if is_finite(bound.number, dtype)]


def is_finite(number: float, dtype: ir.DataType | None) -> bool:
    """Whether some number of the type lies beyond; the largest float32 stands for ∞ in types that are no wider."""
    largest = np.finfo(np.float64 if dtype == ir.DataType.DOUBLE else np.float32).max
    return abs(number) < float(largest)


# --- Max and Min ----------------------------------------------------------------------------------------------------


def extremum(request: Request) -> Step | Blocked:
    """Max and Min: pull to every operand; push past constants, of which the old ones are T of the new."""
    blocked = not_increasing(request.map)
    if blocked is not None:
        return blocked
    operands = [index for index, value in enumerate(request.node.inputs) if value is not None]
    if request.pulls:
        split = labels(request, dict.fromkeys(operands, request.map))
        if isinstance(split, Blocked):
            return split
        inputs, constants = split
        return Step(inputs=inputs, outputs={0: request.map}, constants=constants, cut=rows(request, operands))
    assert request.at is not None
    others = [index for index in operands if index != request.at]
    if not all(request.is_constant(index) for index in others):
        return Blocked("does-not-commute", "of which only one operand is mapped")
    rank = request.facts.rank(request.node.outputs[0])
    if rank is None:
        return Blocked("unknown-shape", "whose output has an unknown rank")
    out = maps.inserted(request.map, rank, range(rank - request.map.rank, rank))
    moved = others if out.shifts else [index for index in others if not _is_zero(request, index)]
    if moved and not out.scale.all():
        return Blocked("piecewise-bounds", "whose other operand a factor of zero leaves out of reach")
    inverse = dict.fromkeys(moved, _inverse(out)) if moved else {}
    return Step(inputs={request.at: request.map}, outputs={0: out}, constants=inverse, cut=rows(request, operands))


def _inverse(a_map: Map) -> Map:
    scale: Floats = 1 / a_map.scale
    return maps.affine(a_map.rank, scale, -a_map.offset() * scale)


def _is_zero(request: Request, index: int) -> bool:
    """Whether a constant is one zero; weights are not looked at."""
    value = request.value(index)
    shape = None if value is None else request.facts.shape(value)
    if value is None or shape is None or np.prod(shape) != 1:
        return False
    return not request.facts.float64(value).any()
