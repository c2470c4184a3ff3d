"""The ratio of two times that were taken side by side, its interval, and what may be said about it.

Each round gives one ratio; the median over the rounds is the estimate. Neighbouring rounds are alike (the machine is
slow or fast for a while), so the bootstrap resamples blocks of rounds: single rounds would promise too narrow an
interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
COVERAGE = 0.95
EFFECT = 0.02
"""Smaller differences are not called any: two sessions of one model, interleaved on a 2-core machine, came out at 0.974
to 1.017 of each other. The interval holds the noise of the clock, not where in memory the weights happen to lie."""


@dataclass(frozen=True)
class Ratio:
    """An estimate with its 95 % interval; below 1: the numerator is faster."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(numerator: Floats, denominator: Floats, generator: np.random.Generator) -> Ratio:
    """The ratio of two arrays of seconds, one entry per round."""
    ratios = numerator / denominator
    low, high = np.quantile(_resampled(ratios, generator), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def _resampled(ratios: Floats, generator: np.random.Generator) -> Floats:
    """Medians of resamples made of blocks of √n consecutive rounds, the last round being followed by the first."""
    count = ratios.size
    length = int(np.ceil(np.sqrt(count)))
    starts = generator.integers(0, count, (RESAMPLES, -(-count // length), 1))
    chosen = ((starts + np.arange(length)) % count).reshape(RESAMPLES, -1)[:, :count]
    medians: Floats = np.median(ratios[chosen], axis=1)
    return medians


def verdict(converted: Ratio, control: Ratio) -> str:
    """What the ratio to the original says, given that of the original to itself."""
    if abs(control.value - 1) >= EFFECT or control.high - control.low >= 2 * EFFECT:
        return f"inconclusive: the original differs from itself by {control}"
    if converted.high < 1 and converted.value <= 1 - EFFECT:
        return "faster"
    if converted.low > 1 and converted.value >= 1 + EFFECT:
        return "slower"
    return f"no difference of {EFFECT:.0%} or more"
