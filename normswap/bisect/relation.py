"""How a value of the converted model may be related to the original's of the same name.

Maps move (DESIGN.md §3), so a value may differ where nothing is wrong. It agrees if the check's own bound says so, or
if it does after its mean is subtracted, as a residual stream of zero mean does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from normswap.check.inputs import MASKED
from normswap.check.measure import error, is_float
from normswap.check.verdict import EXACT, Pooled, too_large
from normswap.norm_operators import center
from normswap.reference import Array, Floats

Axes = tuple[int, ...]
"""Over which the mean is subtracted; none of them: the value is as it was."""


@dataclass(frozen=True)
class Sight:
    """One value in one run: in truth, as the original computes it, with rounding noise, and in the converted model.

    `eps` is the spacing of the original's format; `exact`: nothing was rounded, so that only float64 may show.
    """

    truth: Array
    own: Array
    noisy: Array
    seen: Array
    eps: float
    exact: bool = False


def agreement(sight: Sight) -> Axes | None:
    """The axes over which the original's value is to be centered to agree with `seen`; None if it never does."""
    return next((axes for axes in forms(sight.truth) if agrees(sight, axes)), None)


def forms(array: Array) -> Iterator[Axes]:
    """The value as it is, then centered over each span of axes that a norm may have: not the first one, the batch."""
    yield ()
    if is_float(array):
        yield from _spans(array.shape)


def _spans(shape: Sequence[int]) -> Iterator[Axes]:
    rank = len(shape)
    batch = min(1, rank - 1)
    for length in range(1, rank - batch + 1):
        for first in range(rank - length, batch - 1, -1):
            if int(np.prod(shape[first : first + length])) > 1:
                yield tuple(range(first, first + length))


def form(array: Array, axes: Axes) -> Array:
    """`array` less its mean over `axes`, if there are any."""
    if not axes:
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        return center(array.astype(np.float64), axes)


def agrees(sight: Sight, axes: Axes = ()) -> bool:
    """Whether `seen` is the original's value in this form, as closely as the check demands of an output."""
    if not sight.truth.shape == sight.own.shape == sight.noisy.shape == sight.seen.shape:
        return False
    if not is_float(sight.truth) or not is_float(sight.seen):
        return any(np.array_equal(sight.seen, array) for array in (sight.truth, sight.own))
    as_formed = partial(form, axes=axes)
    truth, own, noisy = (as_formed(array).astype(np.float64) for array in (sight.truth, sight.own, sight.noisy))
    seen = sight.seen.astype(np.float64)
    if not any(_same_kinds(seen, array) for array in (truth, own)):
        return False
    finite = np.isfinite(truth) & np.isfinite(own) & np.isfinite(noisy) & np.isfinite(seen)
    masked = _masked(truth, finite)
    return all(
        _close(sight, truth[part], own[part], noisy[part], seen[part]) for part in (finite & ~masked, finite & masked)
    )


def _close(sight: Sight, truth: Floats, own: Floats, noisy: Floats, seen: Floats) -> bool:
    scale, wrong = float(np.abs(truth).max(initial=0.0)), error(seen, truth)
    if sight.exact:
        return wrong.largest <= EXACT * scale
    return not too_large(Pooled("", truth.size, scale, error(own, truth), wrong, error(noisy, truth)), sight.eps)


def _masked(truth: Floats, finite: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Where something like −10⁴ or −10³⁸ was added to logits, by whose size the others must not be measured."""
    masked = finite & (truth <= MASKED / 2)
    others = np.abs(truth[finite & ~masked]).max(initial=0.0)
    return masked if 10 * others <= np.abs(truth[masked]).min(initial=np.inf) else np.zeros_like(masked)


def _same_kinds(a: Floats, b: Floats) -> bool:
    """Whether the same places are finite, NaN, +infinity and −infinity."""
    odd: npt.NDArray[np.bool_] = ~np.isfinite(a)
    return bool(np.array_equal(odd, ~np.isfinite(b)) and np.array_equal(a[odd], b[odd], equal_nan=True))
