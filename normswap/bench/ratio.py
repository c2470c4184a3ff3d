"""The ratio of two times that were taken side by side, its interval, and what may be said about it.

Each round gives one ratio; the median over the rounds is the estimate. Rounds of one block are alike (same sessions, a
machine that is slow or fast for a while), so the bootstrap resamples blocks: single rounds would promise too narrow an
interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Verdict = Literal["faster", "slower", "no detectable difference", "inconclusive"]

RESAMPLES = 10_000
COVERAGE = 0.95
WIDENING = 1.22
"""Percentile intervals from ten blocks are too narrow: √(10/9) · t/z, the 97.5 % quantiles of Student's t with nine
degrees of freedom and of the normal distribution (Hesterberg, arXiv 1411.5279, §4)."""
EFFECT = 0.03
"""Smaller differences are not called any: two sessions of one model, interleaved on a 2-core machine, came out at 0.974
to 1.017 of each other. The interval holds the noise of the clock, not where in memory the weights happen to lie."""
WORST_FIRST: Sequence[Verdict] = ("slower", "inconclusive", "no detectable difference", "faster")
"""Of several comparisons the first of these is the verdict on all."""


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of all rounds with its 95 % interval; below 1: the numerator is faster."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(numerator: Floats, denominator: Floats, blocks: int, generator: np.random.Generator) -> Ratio:
    """The ratio of two arrays of seconds, one entry per round; they were taken in so many blocks of one length."""
    logarithms = np.log(numerator) - np.log(denominator)
    medians = _resampled(logarithms, blocks, generator)
    middle = float(np.median(logarithms))
    ends = np.quantile(medians, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    low, high = np.exp(middle + WIDENING * (ends - middle))
    return Ratio(float(np.exp(middle)), float(low), float(high))


def _resampled(logarithms: Floats, blocks: int, generator: np.random.Generator) -> Floats:
    """Medians of resamples made of as many blocks, drawn with replacement."""
    drawn = logarithms.reshape(blocks, -1)[generator.integers(0, blocks, (RESAMPLES, blocks))]
    medians: Floats = np.median(drawn.reshape(RESAMPLES, -1), axis=1)
    return medians


def trusted(control: Ratio) -> bool:
    """Whether the original, timed against itself, came out equal, and closely enough to see an `EFFECT`."""
    return control.low <= 1 <= control.high and control.high - control.low < 2 * EFFECT


def verdict(converted: Ratio, control: Ratio) -> Verdict:
    """What the ratio to the original says, given that of the original to itself."""
    if not trusted(control):
        return "inconclusive"
    if converted.high < 1 and converted.median <= 1 - EFFECT:
        return "faster"
    if converted.low > 1 and converted.median >= 1 + EFFECT:
        return "slower"
    return "no detectable difference"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on several comparisons together."""
    return min(verdicts, key=WORST_FIRST.index)
