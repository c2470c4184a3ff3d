"""Diagnosis: what a region shows on a probe, and what a region that is no norm is instead.

What almost matches gets its own reason, so that nobody has to guess why a familiar-looking piece of a graph was left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from normswap import probes, regions
from normswap.averages import POOLS, PRODUCTS
from normswap.facts import Facts
from normswap.reference import Array, Floats
from normswap.regions import Region
from normswap.setting import Setting, reduced_axes

Flags = npt.NDArray[np.bool_]
# Enough to tell one law from another on noise-free probes; nothing is rewritten because of a diagnosis.
RESEMBLANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Touch:
    """One element of a probe that was changed, and the region's answer to that."""

    index: tuple[int, ...]
    values: Mapping[ir.Value, Array]


@dataclass(frozen=True, eq=False)
class Observation:
    """What a region shows: its values at a probe u, what changing one element of u changes, and answers it gave.

    `probes` are u and another one; `answers` the odd parts of all values at a multiple of one of them, by both.
    """

    setting: Setting
    probes: tuple[Floats, Floats]
    values: Mapping[ir.Value, Array]
    touches: tuple[Touch, ...]
    answers: dict[tuple[float, int], Mapping[ir.Value, Floats]] = field(default_factory=dict)

    @classmethod
    def of(cls, setting: Setting) -> Observation:
        """Observe the region at u, touching its first, last and middle element. Raises `Unexecutable`."""
        random = probes.generator()
        u, other = (probes.well_conditioned(setting.shape, random) for _ in range(2))
        seen = cls(setting, (u, other), setting.run(u), ())
        places = zip(*((0, n - 1, (n - 1) // 2) for n in u.shape), strict=True)
        return replace(seen, touches=tuple(seen.touch(place) for place in places))

    @property
    def u(self) -> Floats:
        """The probe."""
        return self.probes[0]

    @property
    def odd(self) -> Mapping[ir.Value, Floats]:
        """The odd parts of the values at u."""
        return self._answered(1.0, 0)

    def answer(self, target: ir.Value, scale: float, probe: int = 0) -> Floats:
        """The odd part of a target at a multiple of a probe. Raises `Unexecutable`."""
        return self._answered(scale, probe)[target]

    def _answered(self, scale: float, probe: int) -> Mapping[ir.Value, Floats]:
        if (scale, probe) not in self.answers:
            self.answers[scale, probe] = odd_part(self.setting, scale * self.probes[probe])
        return self.answers[scale, probe]

    def touch(self, index: tuple[int, ...]) -> Touch:
        """Change one element of u. Raises `Unexecutable`."""
        changed = self.u.copy()
        changed[index] += 0.5
        return Touch(index, self.setting.run(changed))

    def reach(self, target: ir.Value, touch: Touch) -> tuple[int, ...]:
        """The axes along which a touched element has a say in other elements of the target."""
        changed = touch.values[target] != self.values[target]
        return tuple(axis for axis, place in enumerate(touch.index) if np.delete(changed, place, axis).any())

    def reaches(self, target: ir.Value) -> tuple[tuple[int, ...], ...]:
        """Those axes for each of the first, last and middle element."""
        return tuple(self.reach(target, touch) for touch in self.touches)

    def axes(self, target: ir.Value) -> tuple[int, ...]:
        """The axes of a group: those along which one element of x has a say in others."""
        return tuple(sorted({axis for reach in self.reaches(target) for axis in reach}))

    def groups(self, target: ir.Value, axis: int) -> int | None:
        """Into how many runs of one length this one of its axes is cut, 1 where it is whole; None for other orders.

        Where a gain of zero hides the target's elements, they may belong to any run.
        """
        axes = self.axes(target)
        here, live = self.values[target], self.odd[target] != 0
        size, seen = here.shape[axis], list[tuple[int, Flags, Flags]]()
        for touch in self.touches:
            group = tuple(slice(None) if other in axes else place for other, place in enumerate(touch.index))
            seen.append((touch.index[axis], (touch.values[target] != here)[group], live[group]))
        for count in (count for count in range(1, size + 1) if size % count == 0):
            run = (np.arange(size) // (size // count)).reshape([size if other == axis else 1 for other in axes])
            if all(((changed == (run == run.flat[place])) | ~alive).all() for place, changed, alive in seen):
                return count
        return None

    def differs(self, target: ir.Value) -> bool:
        """Whether the target has groups and is not merely a statistic of each, repeated over its elements."""
        axes, odd = self.axes(target), self.odd[target]
        return bool(axes) and not _close(odd, odd.mean(axis=axes, keepdims=True))

    def is_partial(self, target: ir.Value) -> bool:
        """Whether some elements have a say in others, and some have not."""
        return len(set(self.reaches(target))) > 1


def odd_part(setting: Setting, x: Floats) -> dict[ir.Value, Floats]:
    """The odd part of every value of x's shape: (v(x) − v(−x)) / 2. Raises `Unexecutable`."""
    plus, minus = setting.run(x), setting.run(-x)
    return {
        value: (array.astype(np.float64) - minus[value].astype(np.float64)) / 2
        for value, array in plus.items()
        if array.shape == setting.shape and array.dtype == np.float64
    }


def reason_against(region: Region, seen: Observation, targets: Sequence[ir.Value], facts: Facts) -> str:
    """The id of the reason why a region that has no form is no norm. Raises `Unexecutable`."""
    grouped = [target for target in targets if target in seen.odd and seen.differs(target)]
    if not grouped:
        return "not-a-norm"
    last = grouped[-1]
    if all(_close(seen.answer(target, 2.0), 2 * seen.odd[target]) for target in grouped):
        return "center-only"
    reduced = _reduced(region, facts)
    if reduced is not None and (len(reduced) > 1 or seen.axes(last) not in reduced):
        return "different-axes"
    if seen.is_partial(last):
        return "partial-statistics"
    if all(seen.groups(last, axis) is None for axis in seen.axes(last)):
        return "group-statistics"
    if any(node.op_type in regions.PIECEWISE - {"Abs"} for node in region.nodes):
        return "piecewise"
    # far from every epsilon, the answer keeps its direction
    ratio = seen.answer(last, 2e6) / seen.answer(last, 1e6)
    return "other-statistic" if _close(ratio, np.full_like(ratio, ratio.flat[0])) else "not-a-norm"


def _close(one: Floats, other: Floats) -> bool:
    return bool((np.abs(one - other) <= RESEMBLANCE * np.abs(one).max()).all())


def _reduced(region: Region, facts: Facts) -> set[tuple[int, ...]] | None:
    """The sets of axes of x that the region's reductions reduce; None where a layout operator may have moved them."""
    rank, found = len(facts.shape(region.x) or ()), set[tuple[int, ...]]()
    for node in region.nodes:
        if node.op_type in regions.RIGID | regions.SIZED | PRODUCTS:
            return None
        if node.op_type in POOLS:
            found.add(tuple(range(2, rank)))
        if node.op_type in regions.SUMS and node.inputs[0] is not None:
            shape = facts.shape(node.inputs[0])
            axes = None if shape is None else reduced_axes(node, len(shape), facts)
            if shape is None or axes is None:
                return None
            found.add(tuple(axis - len(shape) + rank for axis in axes))
    return found
