"""Diagnosis: what a region shows on a probe, and what a region that is no norm is instead.

What almost matches gets its own reason, so that nobody has to guess why a familiar-looking piece of a graph was left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap import probes, regions
from normswap.facts import Facts
from normswap.probes import Setting
from normswap.reference import Array, Floats, center
from normswap.regions import Region

# Enough to tell one law from another on noise-free probes; nothing is rewritten because of a diagnosis.
RESEMBLANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Touch:
    """One element of a probe that was changed, and the region's answer to that."""

    index: tuple[int, ...]
    values: Mapping[ir.Value, Array]


@dataclass(frozen=True, eq=False)
class Observation:
    """A region's answers to one probe u: its values at u, their odd parts, and what changing one element changes."""

    values: Mapping[ir.Value, Array]
    odd: Mapping[ir.Value, Floats]
    touches: tuple[Touch, ...]

    @classmethod
    def of(cls, setting: Setting, u: Floats) -> Observation:
        """Observe the region at u, touching its first, last and middle element. Raises `Unexecutable`."""
        touches = []
        for index in zip(*((0, n - 1, (n - 1) // 2) for n in u.shape), strict=True):
            changed = u.copy()
            changed[index] += 0.5
            touches.append(Touch(index, setting.run(changed)))
        return cls(setting.run(u), odd_part(setting, u), tuple(touches))

    def reaches(self, target: ir.Value) -> tuple[tuple[int, ...], ...]:
        """For each touched element, the axes along which it has a say in other elements of the target."""
        return tuple(
            tuple(
                axis
                for axis, place in enumerate(touch.index)
                if np.delete(touch.values[target] != self.values[target], place, axis).any()
            )
            for touch in self.touches
        )

    def axes(self, target: ir.Value) -> tuple[int, ...]:
        """The axes of a group: those along which one element of x has a say in others."""
        return tuple(sorted({axis for reach in self.reaches(target) for axis in reach}))

    def differs(self, target: ir.Value) -> bool:
        """Whether the target has groups and is not merely a statistic of each, repeated over its elements."""
        axes, odd = self.axes(target), self.odd[target]
        return bool(axes) and not _close(odd, odd.mean(axis=axes, keepdims=True))

    def fills(self, target: ir.Value) -> bool:
        """Whether every touched element has a say in all others along the axes of its group."""
        axes = self.axes(target)
        here = self.values[target]
        for touch in self.touches:
            group = tuple(slice(None) if axis in axes else place for axis, place in enumerate(touch.index))
            if not (touch.values[target] != here)[group].all():
                return False
        return True


def odd_part(setting: Setting, x: Floats) -> dict[ir.Value, Floats]:
    """The odd part of every value of x's shape: (v(x) − v(−x)) / 2. Raises `Unexecutable`."""
    plus, minus = setting.run(x), setting.run(-x)
    return {
        value: (array.astype(np.float64) - minus[value].astype(np.float64)) / 2
        for value, array in plus.items()
        if array.shape == setting.shape and array.dtype == np.float64
    }


def reason_against(region: Region, setting: Setting, targets: Sequence[ir.Value], facts: Facts) -> str:
    """The id of the reason why a region that has no form is no norm. Raises `Unexecutable`."""
    u = probes.well_conditioned(setting.shape, probes.generator())
    seen = Observation.of(setting, u)
    grouped = [target for target in targets if target in seen.odd and seen.differs(target)]
    if not grouped:
        return "not-a-norm"
    last, double = grouped[-1], odd_part(setting, 2 * u)
    if all(_close(double[target], 2 * seen.odd[target]) for target in grouped):
        return "center-only"
    reduced = _reduced(region, facts)
    if reduced is not None and (len(reduced) > 1 or seen.axes(last) not in reduced):
        return "different-axes"
    if len(set(seen.reaches(last))) > 1:
        return "partial-statistics"
    if not seen.fills(last):
        return "group-statistics"
    if _epsilon_outside(setting, last, seen.axes(last)):
        return "epsilon-outside"
    if any(node.op_type in regions.PIECEWISE - {"Abs"} for node in region.nodes):
        return "piecewise"
    # far from every epsilon, the answer keeps its direction
    ratio = odd_part(setting, 2e6 * u)[last] / odd_part(setting, 1e6 * u)[last]
    return "other-statistic" if _close(ratio, np.full_like(ratio, ratio.flat[0])) else "not-a-norm"


def _close(one: Floats, other: Floats) -> bool:
    return bool((np.abs(one - other) <= RESEMBLANCE * np.abs(one).max()).all())


def _reduced(region: Region, facts: Facts) -> set[tuple[int, ...]] | None:
    """The sets of axes of x that the region's reductions reduce; None where a layout operator may have moved them."""
    rank, found = len(facts.shape(region.x) or ()), set[tuple[int, ...]]()
    for node in region.nodes:
        if node.op_type in regions.RIGID | regions.SIZED | regions.MATRIX_PRODUCTS:
            return None
        if node.op_type in regions.POOLS:
            found.add(tuple(range(2, rank)))
        if node.op_type in regions.SUMS and node.inputs[0] is not None:
            shape = facts.shape(node.inputs[0])
            axes = None if shape is None else probes.reduced_axes(node, len(shape), facts)
            if shape is None or axes is None:
                return None
            found.add(tuple(axis - len(shape) + rank for axis in axes))
    return found


def _epsilon_outside(setting: Setting, target: ir.Value, axes: tuple[int, ...]) -> bool:
    """Whether base/value is (a·√ms + ε)/gain on probes a·u: a line in a, with a foot, and one gain for several u."""
    random, gains = probes.generator(), list[tuple[Floats, Floats]]()
    scales = (1e-6, 1e-4, 1e-2, 1.0)
    for _ in range(2):
        u = probes.well_conditioned(setting.shape, random)
        inverse = [scale / odd_part(setting, scale * u)[target] for scale in scales]
        slope = (inverse[-1] - inverse[0]) / (scales[-1] - scales[0])
        foot = inverse[0] - slope * scales[0]
        if not all(_close(line, foot + slope * a) for line, a in zip(inverse, scales, strict=True)):
            return False
        if not (np.abs(foot) > RESEMBLANCE * np.abs(inverse[0])).any():
            return False
        one, other = (base / np.sqrt((base**2).mean(axis=axes, keepdims=True)) for base in (center(u, axes), u))
        gains.append((slope * one, slope * other))
    return any(_close(first, second) for first, second in zip(*gains, strict=True))
