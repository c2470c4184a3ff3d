"""Forms: every norm up to its constant Affine, as one formula; where its ε stands is solved for, and what it is.

A form divides x, or Center(x), by d = √(ms + ε), √ms + ε or max(√ms, ε), where ms is the mean of squares of a group.
Along a probe u, d(a·u)/d(u) is known from two answers, whatever the gain; each place of ε has its own law in a.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from normswap.arrays import Floats, Unexecutable
from normswap.norm import EpsilonPlace, Norm

# Answers agree when they differ by less than this, relative to |gain|·|R|: a thousand times the error that
# E[x²] − E[x]² makes at the largest offset probed, and a tenth of what rounding 1/N to float32 would make.
TOLERANCE = 1e-9
# A first look at ε, from below the square root of every ε in use; √ε itself gives it to full precision afterwards.
TINY = 1e-12
# So far above every ε and every floor that none is seen there, and that no bias drowns the answer.
FAR_ABOVE = 1e6
# Below every floor, which may be as low as 1e-12; the squares of probes of this size are still ordinary numbers.
FAR_BELOW = 1e-30


@dataclass(frozen=True)
class Form:
    """A norm up to its constant Affine: whether it centers, the axes of x it is over, and ε at its place.

    With `groups` > 1 the axis that is named first is cut into so many runs of equal length; with `elements`, the
    statistic is that of the first so many elements of the one axis. The `total` of squares stands in the place of their
    mean where an L2Norm is over a free axis. A floor of 0 leaves a group of zeros as it is.
    """

    center: bool
    axes: tuple[int, ...]
    epsilon: float = 0.0
    place: EpsilonPlace = "inside"
    groups: int = 1
    elements: int | None = None
    total: bool = False

    @staticmethod
    def of(norm: Norm) -> Form:
        """The form of a norm; of a PartialRMSNorm, the size is the number of elements."""
        elements = norm.size if norm.kind == "PartialRMSNorm" else None
        total = norm.kind == "L2Norm" and norm.size is None
        return Form(norm.parts.center, norm.axes, norm.epsilon, norm.epsilon_place, norm.groups, elements, total)

    @property
    def scale(self) -> float:
        """The root mean square of x at which ε shows most."""
        return self.epsilon**0.5 if self.place == "inside" else self.epsilon

    def core(self, x: Floats) -> Floats:
        """The form's value: Center(x), or x, over the divisor of its group. Raises `Unexecutable`."""
        base = self.base(x)
        square = self.mean_square(base)
        if self.place == "inside":
            result: Floats = base / np.sqrt(square + self.epsilon)
        elif self.place == "outside":
            result = base / (np.sqrt(square) + self.epsilon)
        else:
            floor = np.maximum(np.sqrt(square), self.epsilon)
            result = base / np.where(floor == 0, 1.0, floor)
        return result

    def base(self, x: Floats) -> Floats:
        """What is divided: Center(x), or x."""
        return x - self._mean(x) if self.center else x

    def mean_square(self, base: Floats) -> Floats:
        """The mean of squares of each group, or their total, which broadcasts against x."""
        squares: Floats = base * base
        total: Floats = squares.sum(axis=self.axes, keepdims=True) if self.total else self._mean(squares)
        return total

    def _mean(self, x: Floats) -> Floats:
        first = self.axes[0]
        if self.elements is not None:
            x = x[(slice(None),) * first + (slice(self.elements),)]
        if self.groups == 1:
            result: Floats = x.mean(axis=self.axes, keepdims=True)
            return result
        size, rest = x.shape[first], x.shape[first + 1 :]
        if size % self.groups:
            raise Unexecutable(f"an axis of {size} elements is not cut into {self.groups} runs")
        cut = x.reshape(*x.shape[:first], self.groups, size // self.groups, *rest)
        mean = cut.mean(axis=tuple(axis + (axis >= first) for axis in self.axes), keepdims=True)
        return np.repeat(mean.squeeze(first + 1), size // self.groups, axis=first)


def value_of(norm: Norm, x: Floats) -> Floats:
    """What a norm makes of x, by its definition, to which the 1/√D of an L2Norm belongs."""
    form = Form.of(norm)
    core = form.core(x)
    if norm.kind == "L2Norm" and not form.total:
        core = core / np.prod([x.shape[axis] for axis in norm.axes]) ** 0.5
    scaled = core if norm.gain is None else core * norm.gain.array
    return scaled if norm.bias is None else scaled + norm.bias.array


def solved(form: Form, u: Floats, answer: Callable[[float], Floats]) -> Form | None:
    """The form with the ε that a region has if it is of this form; None where no ε makes sense.

    `answer` is the odd part of the region's value for a·u, by a: gain · a·base(u)/d(a). May be `Unexecutable`.
    """
    plain, lowest = answer(1.0), FAR_BELOW if form.place == "floor" else TINY
    low = answer(lowest)
    if alike(plain, low):
        return None if form.place == "outside" else replace(form, epsilon=0.0)
    if alike(FAR_ABOVE * plain, answer(FAR_ABOVE)):  # linear, as a Center is: a root mean square with no end to its ε
        return None
    found = _with_epsilon(form, u, plain, low, lowest)
    for _ in range(0 if form.place == "floor" else 2):
        if not 0 < found.epsilon < np.inf:
            return None
        found = _with_epsilon(form, u, plain, answer(found.scale), found.scale)
    return found if 0 < found.epsilon < np.inf else None


def alike(one: Floats, other: Floats) -> bool:
    """Whether two answers are the same up to `TOLERANCE`."""
    return bool((np.abs(one - other) <= TOLERANCE * np.abs(one).max()).all())


def _with_epsilon(form: Form, u: Floats, plain: Floats, scaled: Floats, scale: float) -> Form:
    """ε from q = d(a·u)/d(u), which is a times one answer over the other."""
    q = scale * plain / scaled
    square = form.mean_square(form.base(u))
    if form.place == "inside":  # q² = (a²·ms + ε) / (ms + ε)
        found = square * (q**2 - scale**2) / (1 - q**2)
    elif form.place == "outside":  # q = (a·√ms + ε) / (√ms + ε)
        found = np.sqrt(square) * (q - scale) / (1 - q)
    else:  # q = ε / √ms
        found = np.sqrt(square) * q
    usable = np.isfinite(found) & (plain != 0)
    return replace(form, epsilon=float(np.median(found[usable])) if usable.any() else float("nan"))
