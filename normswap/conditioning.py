"""Conditioning of a fold: how far its gains reach, which channels it kills, how near new weights are to overflow.

This is where to look when a fold loses accuracy: a gain of 300 (a variance near 0) or of 0 (a dead channel) is exact in
float64, and may still be too much for float16.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from normswap.facts import Facts
from normswap.ledger import Conditioning
from normswap.norm import Norm

# A channel whose gain is this much smaller than the largest adds nothing that float32 could show.
NEARLY_DEAD = float(np.finfo(np.float32).eps)
FLOAT16_MAX = float(np.finfo(np.float16).max)


def of(norm: Norm, weights: Iterable[ir.Value], facts: Facts) -> Conditioning | None:
    """The conditioning of the norm's constant gain and of the new `weights`; None where it has no gain."""
    if norm.gain is None:
        return None
    sizes = np.abs(norm.gain.array).reshape(-1)
    before, after = largest(weights, facts)
    return Conditioning(
        smallest_gain=float(sizes.min()),
        largest_gain=float(sizes.max()),
        channels=int(sizes.size),
        dead=int((sizes == 0).sum()),
        nearly_dead=int(((sizes > 0) & (sizes < NEARLY_DEAD * sizes.max())).sum()),
        largest_weight_before=before,
        largest_weight_after=after,
        float16_headroom=FLOAT16_MAX / after if after else None,
    )


def largest(weights: Iterable[ir.Value], facts: Facts) -> tuple[float | None, float | None]:
    """The largest |w| of constants that plans made, as they were in the model and as they are; None without any."""
    before, after = [], []
    for value in weights:
        after.append(float(np.abs(facts.float64(value)).max(initial=0.0)))
        base: ir.Value | tuple[int, ...] = value
        while isinstance(base, ir.Value) and base in facts.moved:
            base = facts.moved[base][0]
        if isinstance(base, ir.Value):
            before.append(float(np.abs(facts.float64(base)).max(initial=0.0)))
    return max(before, default=None), max(after, default=None)
