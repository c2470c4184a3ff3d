"""What a region is run with: the shape of x, and the arrays of what it reads besides, under one binding.

A region is run in float64 at x's own shape under either binding of the free dimensions, with every axis that no
reduction and no constant looks at cut to a few elements. A constant within one unit in the last place of 1/N is 1/N.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from normswap import reference, regions
from normswap.averages import MATRIX_PRODUCTS, POOLS, PRODUCTS
from normswap.facts import Facts
from normswap.reference import Array, Floats, Unexecutable
from normswap.regions import Region, Shape
from normswap.sizes import Sizes, external, smaller

# A probe that had to be larger than this (64 MiB of float64) is not run.
MOST_PROBE_ELEMENTS = 1 << 23
# Axes that a reduction looks at are cut where a probe had to be larger than this: it would be run some fifty times.
MANY_ELEMENTS = 1 << 15
# The operators in which a constant 1/N makes a mean of a sum.
FACTORS = PRODUCTS | {"Mul"}


@dataclass(frozen=True, eq=False)
class Setting:
    """What a region is run with under one binding: the shape of x, and the arrays of the region's externals."""

    region: Region
    shape: Shape
    arrays: Mapping[ir.Value, Array]
    opsets: Mapping[ir.Node, int]

    def run(self, x: Floats) -> dict[ir.Value, Array]:
        """Every value of the region for this x. Raises `Unexecutable`."""
        values: dict[ir.Value, Array] = {**self.arrays, self.region.x: x}
        with reference.quiet():
            for node, outputs in self.runners:
                arrays = [None if value is None else values[value] for value in node.inputs]
                values.update(zip(node.outputs, outputs(arrays), strict=False))
        return values

    @cached_property
    def runners(self) -> Sequence[tuple[ir.Node, reference.Runner]]:
        """What runs each node. Raises `Unexecutable`."""
        return [(node, reference.runner(node, self.opsets[node])) for node in self.region.nodes]


def settings(region: Region, facts: Facts, bindings: tuple[int, ...] = (0, 1)) -> tuple[Setting, ...] | None:
    """The region's setting under each binding, with cut axes where it runs so; None where it never runs."""
    for both in _sizes(region, facts):
        found = [_setting(region, both[binding], binding, facts) for binding in bindings]
        able = tuple(setting for setting in found if setting is not None and _runs(setting))
        if len(able) == len(bindings):
            return able
    return None


def _sizes(region: Region, facts: Facts) -> Iterator[tuple[Sizes, Sizes]]:
    """The sizes to run a region with, the smallest first."""
    shapes = facts.shape(region.x, 0), facts.shape(region.x, 1)
    if shapes[0] is None or shapes[1] is None:
        return
    kept = kept_axes(region, facts)
    cuts = not any(node.op_type in regions.PIECEWISE for node in region.nodes)  # the largest value depends on the size
    if kept is None:
        yield from smaller(region, facts) if cuts else ()
    else:  # sizes that differ from axis to axis and between the bindings
        first, second = (
            tuple(n if axis in kept else min(n, 2 + axis + binding) for axis, n in enumerate(shape))
            for binding, shape in enumerate(shapes)
            if shape is not None
        )
        if cuts and np.prod(second) > MANY_ELEMENTS:
            yield from smaller(region, facts)
        yield Sizes(first), Sizes(second)
    yield Sizes(shapes[0]), Sizes(shapes[1])


def _setting(region: Region, sizes: Sizes, binding: int, facts: Facts) -> Setting | None:
    if not 0 < np.prod(sizes.shape, dtype=np.float64) <= MOST_PROBE_ELEMENTS:
        return None
    counts = _counts(facts.shape(region.x, binding) or ())
    arrays = {}
    for value in region.externals:
        if value in region.neutral:
            arrays[value] = np.asarray(region.neutral[value])
            continue
        array = facts.float64(value) if value in facts.moved else external(value, sizes, binding, facts)
        if array is None:
            return None
        factor = all(node.op_type in FACTORS for node in region.nodes if value in node.inputs)
        arrays[value] = _read(array, counts) if factor else reference.promote(array)
    return Setting(region, sizes.shape, arrays, {node: facts.opset(node) for node in region.nodes})


def _runs(setting: Setting) -> bool:
    try:
        values = setting.run(np.ones(setting.shape))
    except Unexecutable:
        return False
    return any(values[output].shape == setting.shape for node in setting.region.nodes for output in node.outputs)


def kept_axes(region: Region, facts: Facts) -> frozenset[int] | None:
    """The axes of x that a reduction or a constant looks at, so that the others may be cut; None: none may."""
    shape = facts.shape(region.x)
    if shape is None or any(not facts.is_constant(value) for value in region.externals):
        return None
    rank, kept = len(shape), set[int]()
    for node in region.nodes:
        first = None if node.inputs[0] is None else facts.shape(node.inputs[0])
        if first is None or not regions.keeps_axes(node):
            return None
        if node.op_type in regions.SUMS:
            axes = reduced_axes(node, len(first), facts)
            if axes is None:
                return None
            kept.update(axis - len(first) + rank for axis in axes)
        elif node.op_type in POOLS:
            kept.update(range(2, rank))
        elif node.op_type in MATRIX_PRODUCTS:
            kept.update((rank - 2, rank - 1))
        if node.op_type in regions.CHANNELWISE:
            kept.add(1)
            continue
        for place, value in enumerate(node.inputs):
            if value is not None and value in region.externals and place not in _operands(node):
                sizes = facts.shape(value) or ()
                kept.update(rank - 1 - back for back, size in enumerate(reversed(sizes)) if size > 1)
    return frozenset(kept)


def _operands(node: ir.Node) -> frozenset[int]:
    return regions.OPERANDS.get(node.op_type, frozenset())


def reduced_axes(node: ir.Node, rank: int, facts: Facts) -> tuple[int, ...] | None:
    """The non-negative axes of a Reduce* node, from its attribute or its input; None where they are not known."""
    attribute = node.attributes.get("axes")
    if attribute is not None:
        axes = list(attribute.as_ints())
    elif len(node.inputs) > 1 and node.inputs[1] is not None:
        array = facts.derived(node.inputs[1])
        if array is None:
            return None
        axes = [int(axis) for axis in array.reshape(-1)]
    else:
        axes = []
    if not axes and reference.attribute(node, "noop_with_empty_axes", 0):
        return ()
    return tuple(sorted(axis % rank for axis in axes)) or tuple(range(rank))


def _counts(shape: Shape) -> frozenset[int]:
    """The sizes that a group of x's elements may have."""
    return frozenset(
        int(np.prod(part))
        for length in range(1, len(shape) + 1)
        for part in itertools.combinations(shape, length)
        if np.prod(part) > 1
    )


def _read(array: Array, counts: frozenset[int]) -> Array:
    """The array in float64, with ±1/N, and 1 − 1/N in I − 11ᵀ/N, read as such where its own type had to round."""
    wide = reference.promote(array)
    if array.dtype.kind not in "fV" or array.dtype == np.float64 or array.size == 0:
        return wide
    values = np.unique(wide[np.isfinite(wide)])[:3]
    if len(values) > 2:
        return wide
    for count in sorted(counts):
        mean, rest = 1 / count, 1 - 1 / count
        is_center = len(values) == 2 and all(map(_is_rounded, values, (-mean, rest), [array.dtype] * 2))
        for exact in (-mean, mean, rest) if is_center else (-mean, mean):
            for value in values:
                if _is_rounded(value, exact, array.dtype):
                    wide = np.where(wide == value, exact, wide)
    return wide


def _is_rounded(value: float, exact: float, dtype: np.dtype[np.generic]) -> bool:
    """Whether `value` is what `exact` is in this type; in float32, one unit in the last place more or less, too."""
    if dtype == np.float32:
        return abs(value - exact) <= float(np.finfo(np.float32).eps) * abs(exact)
    return value in (float(np.asarray(exact, type_).astype(dtype)) for type_ in (np.float64, np.float32))
