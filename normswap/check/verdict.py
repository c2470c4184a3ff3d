"""The verdict: the converted model may err k times as much as the original does, each against the float64 truth.

Two models are never compared with a fixed tolerance: it rejects rewrites that come closer to the truth, and accepts
wrong ones where the outputs happen to be small. Runs of one family of inputs are pooled, since their errors have one
scale; families are judged one by one, so that a large one cannot hide a small one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import ml_dtypes
import numpy as np

from normswap.check.measure import Error, Measure

FACTOR = 2.0
"""How much larger than the original's own error the converted model's may be; PyTorch's and FlashAttention's value."""
LOOSE_FACTOR = 3.0
"""The same for 16-bit outputs, whose own rounding dominates, and for few elements, whose maximum says little."""
FEW = 1000
"""Below this many elements the maximum of the errors of two equally good models easily differs by more than FACTOR."""
CLOSE = 2.0
"""A failure by less than this factor may be an original that happened to hit the truth on few inputs: more tell."""
FLOOR = 2.0
"""Roundings of the largest true value that are always allowed: an original may hit the truth exactly, by luck."""
EXACT = 1e-9
"""How far an exact rewrite may be from the truth in float64, before its weights are rounded, relative to the largest
value: float64 sums of some thousand terms, amplified by some dozen layers, stay far below."""
EXPLAINED = 100.0
"""An original whose error exceeds √eps of the scale, and this many times what rounding explains, was not misrounded:
onnxruntime and the float64 evaluation compute different functions, and neither can be the judge."""
MISCOMPUTED = 10.0
"""An optimized original this many times worse than the plain one, and wrong in more than half of its digits."""


@dataclass(frozen=True)
class Sample:
    """One output in one run: what was measured, the errors of the controls, and of the optimized models."""

    family: str
    measured: Measure
    controls: tuple[Error, ...] = ()
    optimized: tuple[Error | None, Error | None] = (None, None)  # original, converted


@dataclass(frozen=True)
class Pooled:
    """The runs of one family taken together."""

    family: str
    elements: int
    scale: float
    original: Error
    converted: Error
    control: Error

    @property
    def ratio(self) -> float | None:
        """The converted model's root mean square error over the original's; None if the original has none."""
        if self.original.squares:
            return math.sqrt(self.converted.squares / self.original.squares)
        return None if self.converted.squares else 1.0


def epsilon(dtype: np.dtype[np.generic]) -> float:
    """The relative spacing of a float type."""
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def pool(samples: Iterable[Sample]) -> list[Pooled]:
    """One entry per family with finite floats and a truth."""
    usable = sorted((s for s in samples if s.measured.original is not None), key=lambda s: s.family)
    pooled = []
    for family, group in groupby(usable, key=lambda s: s.family):
        members = list(group)
        originals = [s.measured.original for s in members]
        converted = [s.measured.converted for s in members]
        controls = [_worst(s.controls) for s in members]
        pooled.append(
            Pooled(
                family,
                sum(s.measured.finite for s in members),
                max(s.measured.max_truth for s in members),
                _sum(originals),
                _sum(converted),
                _sum(controls),
            )
        )
    return pooled


def _sum(errors: Sequence[Error | None]) -> Error:
    there = [e for e in errors if e is not None]
    return Error(max((e.largest for e in there), default=0.0), sum(e.squares for e in there))


def _worst(errors: Sequence[Error]) -> Error:
    return Error(max((e.largest for e in errors), default=0.0), max((e.squares for e in errors), default=0.0))


def too_large(pooled: Pooled, eps: float, slack: float = 1.0) -> str:
    """Why this family's error is a failure, "" if it is not, or only by less than `slack`."""
    factor = LOOSE_FACTOR if pooled.elements < FEW or eps > np.finfo(np.float32).eps else FACTOR
    floor = FLOOR * eps * pooled.scale
    errors = (pooled.converted, pooled.original, pooled.control)
    for what, (converted, original, control) in (
        ("error", [e.largest for e in errors]),
        ("RMSE", [math.sqrt(e.squares / max(1, pooled.elements)) for e in errors]),
    ):
        bound = factor * max(original, control) + floor
        if not converted <= slack * bound:
            return (
                f"{what} {converted:.3g} on {pooled.family} inputs, where the original's own is {original:.3g} "
                f"(allowed {bound:.3g}, true values up to {pooled.scale:.3g})"
            )
    return ""


def excess(sample: Sample, eps: float) -> float:
    """By what factor the converted model's largest error in one run exceeds what the original's own allows."""
    measured = sample.measured
    if measured.mismatch:
        return math.inf
    if measured.converted is None or measured.original is None or not measured.converted.largest:
        return 0.0
    control = max((control.largest for control in sample.controls), default=0.0)
    bound = FACTOR * max(measured.original.largest, control) + FLOOR * eps * measured.max_truth
    return measured.converted.largest / bound if bound else math.inf


def may_change(pooled: Sequence[Pooled], eps: float) -> bool:
    """Whether more inputs could overturn a failure: elements are few, or every family that fails does so closely."""
    failing = [family for family in pooled if too_large(family, eps)]
    close = not any(too_large(family, eps, CLOSE) for family in failing)
    return any(family.elements < FEW for family in pooled) or (bool(failing) and close)


def suspicious(pooled: Pooled, eps: float) -> bool:
    """Whether the original is so far from the truth that the truth needs a witness."""
    return pooled.original.largest > math.sqrt(eps) * pooled.scale


def unexplained(pooled: Pooled, eps: float) -> bool:
    """Whether rounding, as the control shows it, cannot explain the original's distance to the truth."""
    expected = max(pooled.control.largest, FLOOR * eps * pooled.scale)
    return suspicious(pooled, eps) and pooled.original.largest > EXPLAINED * expected


def miscomputed(samples: Sequence[Sample], eps: float) -> bool:
    """Whether onnxruntime's own optimizations break the original model."""
    for sample in samples:
        plain, optimized = sample.measured.original, sample.optimized[0]
        if plain is None or optimized is None:
            continue
        if optimized.largest > MISCOMPUTED * plain.largest + math.sqrt(eps) * sample.measured.max_truth:
            return True
    return False


def overall(verdicts: Mapping[str, str], varying: Sequence[str]) -> str:
    """One verdict out of those of the judged outputs, of which `varying` depend on the input at all."""
    if "fail" in verdicts.values():
        return "fail"
    if not verdicts or "inconclusive" in verdicts.values() or not any(name in verdicts for name in varying):
        return "inconclusive"
    return "pass"
