"""Which forms a value of a region may have, seen from one probe: its axes, their groups, and the places of ε.

Whole groups with ε under the root come first, and cost the least. The others are looked for where that is not it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from normswap import regions
from normswap.diagnose import RESEMBLANCE, Observation
from normswap.forms import FAR_ABOVE, Form
from normswap.regions import Region

# Norm operators that compare with zero: a region may hold one that is seen with the layout operators around it.
ZERO_STAYS_ZERO = frozenset({"LpNormalization", "Normalizer"})


def is_piecewise(region: Region) -> bool:
    """Whether it compares values, so that probes on both sides are needed."""
    return any(node.op_type in regions.PIECEWISE | ZERO_STAYS_ZERO for node in region.nodes)


def plain(seen: Observation, target: ir.Value) -> Iterator[Form]:
    """Whole groups, ε under the root. Center first: what is a LayerNorm of x is no RMSNorm of x."""
    axes = seen.axes(target)
    for center in (True, False) if axes else ():
        yield Form(center, axes)


def other(seen: Observation, target: ir.Value) -> Iterator[Form]:
    """Parts of an axis, and other places of ε, where the target is that norm far above every ε.

    Last come sums of squares, which are means but for their number; that may be another one for each probe.
    """
    bounded = is_piecewise(seen.setting.region)
    for axes, groups, elements in _extents(seen, target):
        whole = groups == 1 and elements is None
        for center in (True, False):
            form = Form(center, axes, groups=groups, elements=elements)
            if (center and elements is not None) or not _resembles(form, seen, target):
                continue
            if not whole:
                yield form
            yield replace(form, place="outside")
            if whole:
                yield replace(form, total=True)
            if bounded and not center:
                yield replace(form, place="floor")
                if whole:
                    yield replace(form, total=True, place="floor")


def _extents(seen: Observation, target: ir.Value) -> Iterator[tuple[tuple[int, ...], int, int | None]]:
    """The axes, the number of groups along the first of them, and how many elements the statistic is taken from."""
    axes = seen.axes(target)
    if seen.is_partial(target):
        elements = _leading_elements(seen, target, axes)
        if elements:
            yield axes, 1, elements
        return
    for axis in axes:
        groups = seen.groups(target, axis)
        if groups is not None:
            yield (axes if groups == 1 else (axis, *(other for other in axes if other != axis))), groups, None
            return


def _leading_elements(seen: Observation, target: ir.Value, axes: tuple[int, ...]) -> int:
    """How many of the first elements of the one axis have a say in others, if those are the ones; 0 if they are not."""
    first, last = seen.reaches(target)[:2]
    if len(axes) > 1 or not first or last:
        return 0
    low, high = 1, seen.u.shape[axes[0]] - 1
    while low < high:
        middle = (low + high) // 2
        index = tuple(middle if axis in axes else 0 for axis in range(seen.u.ndim))
        low, high = (middle + 1, high) if seen.reach(target, seen.touch(index)) else (low, middle)
    return low


def _resembles(form: Form, seen: Observation, target: ir.Value) -> bool:
    """Whether far above every ε the answers to two probes differ as the form's own."""
    here, there = (seen.answer(target, FAR_ABOVE, number) for number in range(2))
    one, two = here * form.core(seen.probes[1]), there * form.core(seen.u)
    return bool((np.abs(one - two) <= RESEMBLANCE * np.abs(one).max()).all())
