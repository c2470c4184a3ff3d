"""Probes: small inputs on which a region shows what it computes, and the shapes and constants they are run with.

A region is run in float64 at x's own shape under either binding of the free dimensions, with every axis that no
reduction and no constant looks at cut to a few elements. A constant within one unit in the last place of 1/N is 1/N.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from normswap import reference, regions
from normswap.facts import Facts
from normswap.reference import Array, Floats, Unexecutable
from normswap.regions import Region, Shape

# Probes are reproducible: every run of the program sees the same ones.
SEED = 20230
# A probe that had to be larger than this (64 MiB of float64) is not run.
MOST_PROBE_ELEMENTS = 1 << 23
# Scales from far below every epsilon to far above every guard; their squares are still ordinary numbers in float64.
SWEEP = tuple(10.0**exponent for exponent in range(-18, 19, 2))

# The operators in which a constant 1/N makes a mean of a sum.
FACTORS = frozenset({"Mul", "MatMul", "Gemm"})


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
        for node in self.region.nodes:
            arrays = [None if value is None else values[value] for value in node.inputs]
            outputs = reference.run(node, arrays, self.opsets[node])
            values.update(zip(node.outputs, outputs, strict=False))
        return values


def settings(region: Region, facts: Facts, bindings: tuple[int, ...] = (0, 1)) -> tuple[Setting, ...] | None:
    """The region's setting under each binding, with cut axes where it runs so; None where it never runs."""
    kept = kept_axes(region, facts)
    for axes in (kept, None) if kept is not None else (None,):
        found = [_setting(region, axes, binding, facts) for binding in bindings]
        able = tuple(setting for setting in found if setting is not None and _runs(setting))
        if len(able) == len(bindings):
            return able
    return None


def _setting(region: Region, kept: frozenset[int] | None, binding: int, facts: Facts) -> Setting | None:
    shape = facts.shape(region.x, binding)
    if shape is None:
        return None
    if kept is not None:  # sizes that differ from axis to axis and between the bindings
        shape = tuple(n if axis in kept else min(n, 2 + axis + binding) for axis, n in enumerate(shape))
    if not 0 < np.prod(shape, dtype=np.float64) <= MOST_PROBE_ELEMENTS:
        return None
    counts = _counts(facts.shape(region.x, binding) or ())
    arrays = {}
    for value in region.externals:
        array = facts.float64(value) if value in facts.moved else facts.derived(value, binding)
        if array is None:
            return None
        factor = all(node.op_type in FACTORS for node in value.consumers() if node in region.nodes)
        arrays[value] = _read(array, counts) if factor else reference.promote(array)
    return Setting(region, shape, arrays, {node: facts.opset(node) for node in region.nodes})


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
        if node.op_type in regions.SIZED or first is None:
            return None
        if node.op_type in regions.SUMS:
            axes = reduced_axes(node, len(first), facts)
            if axes is None:
                return None
            kept.update(axis - len(first) + rank for axis in axes)
        elif node.op_type in regions.POOLS:
            kept.update(range(2, rank))
        elif node.op_type in regions.MATRIX_PRODUCTS:
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
    """The array in float64, with ±1/N and 1 − 1/N (as in I − 11ᵀ/N) read as such where its own type had to round."""
    wide = reference.promote(array)
    if array.dtype.kind not in "fV" or array.dtype == np.float64 or array.size == 0:
        return wide
    values = np.unique(wide[np.isfinite(wide)])[:3]
    if len(values) > 2:
        return wide
    step = float(ml_dtypes.finfo(array.dtype).eps)  # type: ignore[no-untyped-call]
    for value in values:
        for near in (value, 1 - value):
            count = round(1 / abs(near)) if abs(near) * MOST_PROBE_ELEMENTS > 1 else 0
            if count in counts and abs(abs(near) * count - 1) <= step * (1 if near == value else count):
                exact = np.sign(near) / count
                wide = np.where(wide == value, exact if near == value else 1 - exact, wide)
                break
    return wide


# --- the probes themselves ------------------------------------------------------------------------------------------


def generator() -> np.random.Generator:
    """The source of all probes of one region."""
    return np.random.default_rng(SEED)


def well_conditioned(shape: Shape, random: np.random.Generator) -> Floats:
    """Values between 1 and 2 of either sign: what divides by one of them loses nothing."""
    signs = np.where(np.arange(np.prod(shape)) % 2 == 0, 1.0, -1.0)
    result: Floats = random.permutation(signs).reshape(shape) * random.uniform(1, 2, shape)
    return result


def ordinary(shape: Shape, epsilon: float, random: np.random.Generator) -> Iterator[Floats]:
    """Probes of several kinds: plain, skewed, heavy-tailed, with an offset, with outliers, and around √ε."""
    yield random.standard_normal(shape)
    yield random.exponential(1, shape)
    yield random.standard_normal(shape) * 10 ** random.uniform(-2, 2, shape)
    # Where squares are subtracted (E[x²] − E[x]²), an offset of 1e2 costs four digits, one of 1e4 would cost eight.
    yield random.standard_normal(shape) + random.choice([-1e2, 1e2])
    yield random.standard_normal(shape) * np.where(random.random(shape) < 0.02, 1e2, 1.0)
    for factor in (0.1, 1.0, 10.0):
        yield random.standard_normal(shape) * factor * (epsilon**0.5 or 1e-3)


def piercing(setting: Setting, random: np.random.Generator) -> Iterator[Floats]:
    """Probes for piecewise operators: values far below and far above every constant they compare with, and near it."""
    shape = setting.shape
    for scale in SWEEP:
        plain = random.standard_normal(shape)
        yield scale * plain
        yield scale * (plain + 3)
        yield scale * (plain - 3)
    for constant in sorted(_thresholds(setting)):
        for scale in (abs(constant), abs(constant) ** 0.5):
            for factor in (1e-3, 0.1, 10, 1e3):
                yield factor * scale * random.standard_normal(shape)
        near = constant * (1 + 1e-4 * random.standard_normal(shape))
        yield np.where(random.random(shape) < 0.5, near, random.standard_normal(shape))


def _thresholds(setting: Setting) -> set[float]:
    found = set[float]()
    for node in setting.region.nodes:
        if node.op_type in regions.PIECEWISE:
            arrays = [setting.arrays[value] for value in node.inputs if value is not None and value in setting.arrays]
            arrays += [np.asarray(item.value) for name, item in node.attributes.items() if name in ("min", "max")]
            for array in arrays:
                if array.dtype.kind == "f":
                    found.update(float(value) for value in np.unique(array)[:4] if value and np.isfinite(value))
    return found
