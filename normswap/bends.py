"""Probes on every side of the places where an operator bends: zero for rectifiers, bounds, the other operands of a Max.

A wrong map may do no harm where an operator is straight. So the numbers that it compares are drawn below, between and
above what it compares them with, before a step and after it, at a distance that rounding cannot hide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from normswap import maps
from normswap.facts import Facts
from normswap.maps import Shape
from normswap.reference import Floats
from normswap.transfer.piecewise import EXTREMA, RECTIFIERS, bounds
from normswap.transfer.step import Step


def levels(facts: Facts, node: ir.Node, step: Step, index: int, constant: Callable[[int], Floats]) -> list[Floats]:
    """What `node` compares input `index` with, by its old constants and by those of `step`; `constant` draws one."""
    found: list[Floats] = []
    for level in _levels(facts, node, step, index, constant):
        if not any(np.array_equal(level, other) for other in found):
            found.append(level)
    return found


def _levels(facts: Facts, node: ir.Node, step: Step, index: int, constant: Callable[[int], Floats]) -> Iterator[Floats]:
    if node.op_type in RECTIFIERS and index == 0:
        yield np.zeros(())
    elif node.op_type == "Clip" and index == 0:
        for bound in bounds(node, facts) or ():
            yield np.asarray(bound.number)
            if isinstance(bound.at, str):
                yield np.asarray(step.attributes.get(bound.at, bound.number))
            elif bound.at in step.constants:
                yield maps.apply(step.constants[bound.at], np.asarray(bound.number))
    elif node.op_type in EXTREMA:
        for other, value in enumerate(node.inputs):
            if other != index and value is not None and facts.is_constant(value):
                old = constant(other)
                yield old
                if other in step.constants:
                    yield maps.apply(step.constants[other], old)


def straddling(random: np.random.Generator, shape: Shape, found: list[Floats], deviation: float) -> Floats:
    """Random numbers of `shape` on all sides of `found`: along each axis one side after the other."""
    wide = np.sort([np.broadcast_to(_fitted(level, shape), shape) for level in found], axis=0)
    reach = deviation * max(1.0, float(np.abs(wide).max(initial=0.0)))
    side = (np.indices(shape).sum(axis=0) % (len(found) + 1))[None] if shape else np.zeros((1,), dtype=np.int64)
    low = np.take_along_axis(np.concatenate([wide[:1] - reach, wide]), side, axis=0)[0]
    high = np.take_along_axis(np.concatenate([wide, wide[-1:] + reach]), side, axis=0)[0]
    numbers: Floats = random.uniform(low, high)
    return numbers


def _fitted(level: Floats, shape: Shape) -> Floats:
    """`level` as something that broadcasts to `shape`: its own middle where it is larger."""
    try:
        fits = np.broadcast_shapes(level.shape, shape) == shape
    except ValueError:
        fits = False
    return level if fits else np.asarray(np.median(level))
