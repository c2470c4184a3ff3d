"""The probes of an obligation: what an operator's inputs hold when its equation is executed.

Constants and what follows from shapes are themselves; activations are random, with a mean, so that a missing Center
shows. Axes that the map does not look at are cut to a few positions, the same on all operands that share them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap import bends, maps
from normswap.facts import Facts
from normswap.maps import Integers, Map
from normswap.reference import Array, Floats
from normswap.transfer.attention import rows_sum_to_one
from normswap.transfer.step import Along, Step

# How many positions are kept of an axis that the map does not look at and that may be cut.
CUT = 16
# Activations are normal with this mean and deviation: a missing Center shows, and nothing cancels.
MEAN, DEVIATION = 0.75, 1.5


def generator(name: str) -> np.random.Generator:
    """The source of the random numbers of the obligation called `name`: the same in every run."""
    return np.random.default_rng(zlib.crc32(name.encode()))


@dataclass(frozen=True, eq=False)
class Drawing:
    """The probes of one operator: `cuts` are, per input and axis, the positions that are kept."""

    facts: Facts
    node: ir.Node
    step: Step
    random: np.random.Generator
    cuts: Mapping[int, Mapping[int, Integers]]

    @staticmethod
    def of(facts: Facts, node: ir.Node, step: Step) -> Drawing:
        """Decide what to cut. Raises `ValueError` where a shape is not known."""
        random = generator(node.name or node.op_type)
        return Drawing(facts, node, step, random, _cuts(facts, node, step, random))

    def cut_map(self, a_map: Map, index: int, rank: int) -> Map:
        """The map on the cut form of input `index`, an array of `rank`. Raises `Unmappable`."""
        for axis, kept in self.cuts.get(index, {}).items():
            a_map = maps.restricted(a_map, axis + a_map.rank - rank, kept)
        return a_map

    def constant(self, index: int) -> Floats:
        """The constant at input `index` in float64, cut."""
        return self.facts.float64(self._value(index), self.cuts.get(index, {}))

    def draw(self, index: int) -> Array:
        """Input `index`: its own value where it is constant or follows from shapes, else random numbers."""
        value, facts = self._value(index), self.facts
        dtype = facts.dtype(value)
        if facts.is_constant(value) and (dtype is None or dtype.is_floating_point()):
            return self.constant(index)
        derived = None if index in self.step.indices else facts.derived(value)
        if derived is not None:
            for axis, kept in self.cuts.get(index, {}).items():
                derived = derived.take(kept, axis)
            return derived
        shape = self.step.probes.get(index, facts.shape(value))
        if shape is None:
            raise ValueError(f"the shape of `{value.name}` is not known")
        cut = self.cuts.get(index, {})
        shape = tuple(len(cut[axis]) if axis in cut else size for axis, size in enumerate(shape))
        if index in self.step.indices:
            return self.random.integers(0, self._size(self.step.indices[index]), shape)
        if index in self.step.lengths:
            return self.random.integers(1, self._size(self.step.lengths[index]) + 1, shape)
        if dtype == ir.DataType.BOOL:
            return self.random.random(shape) < 0.5
        if dtype is not None and not dtype.is_floating_point():
            return self.random.integers(0, 2, shape)
        found = bends.levels(facts, self.node, self.step, index, self.constant)
        if found:
            return bends.straddling(self.random, shape, found, DEVIATION)
        numbers = self.random.normal(MEAN, DEVIATION, shape)
        if rows_sum_to_one(value, facts):  # as a softmax gives them, whatever may stand behind it
            numbers = np.exp(numbers) / np.exp(numbers).sum(axis=-1, keepdims=True)
        return numbers

    def _size(self, along: Along) -> int:
        """How large the probe of an input is along an axis."""
        kept = self.cuts.get(along.index, {}).get(along.axis)
        if kept is not None:
            return len(kept)
        shape = self.step.probes.get(along.index, self.facts.shape(self._value(along.index)))
        return (shape or (1,))[along.axis]

    def _value(self, index: int) -> ir.Value:
        value = self.node.inputs[index]
        assert value is not None
        return value


def _cuts(facts: Facts, node: ir.Node, step: Step, random: np.random.Generator) -> dict[int, dict[int, Integers]]:
    result: dict[int, dict[int, Integers]] = {}
    for together in step.cut:
        shapes = []
        for along in together:
            value = node.outputs[along.index] if along.output else node.inputs[along.index]
            shape = None if value is None else facts.shape(value)
            if shape is None:
                raise ValueError(f"the shape of operand {along.index} is not known")
            shapes.append(shape)
        sizes = {shape[along.axis] for shape, along in zip(shapes, together, strict=True)}
        if len(sizes) > 1 or max(sizes) <= CUT:
            continue
        kept = np.sort(random.choice(max(sizes), CUT, replace=False)).astype(np.int64)
        for shape, along in zip(shapes, together, strict=True):
            if not along.output:
                result.setdefault(along.index, {})[along.axis % len(shape)] = kept
    return result
