"""The closed forms of computed weights, found by what a chain of constants computes and not by how it is spelled.

WeightNorm g·v/‖v‖, WeightStandardization g·(v − mean)/σ, SpectralNorm v/(uᵀVw). The chain is run with other numbers
in the place of v: very large ones show the gain, very small ones ε, and those beside ε where it stands.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir

from normswap.chains import Chain, is_float, size
from normswap.maps import Integers, Shape
from normswap.prove import TOLERANCE
from normswap.reference import Floats

WeightKind = Literal["WeightNorm", "WeightStandardization", "SpectralNorm"]
Function = Callable[[Floats], Floats]
Axes = tuple[int, ...]

# Beside numbers of this size no ε is seen; beside those of the other nothing else is. The squares of both are normal.
LARGE, TINY = 1e12, 1e-30
# A deviation this many times e shows where it stands: √10, 3 or 4 times e divide.
BESIDE = 3.0
# An ε that was written in float32 and is seen in float64.
WRITTEN = 1e-6

# What stands in the denominator: the deviation s of a group (its norm, or standard deviation), and e, by variant.
INSIDE, LEAST, OUTSIDE = "", "epsilon as the least deviation", "epsilon outside the root"
STABILIZERS: Mapping[str, Callable[[Floats, float], Floats]] = {
    INSIDE: np.hypot,  # √(s² + e²), ε = e²
    LEAST: np.maximum,
    OUTSIDE: np.add,
}
# Weight standardization has ε outside the root in its authors' own code; no weight norm has.
KNOWN: Mapping[WeightKind, frozenset[str]] = {
    "WeightNorm": frozenset({INSIDE, LEAST}),
    "WeightStandardization": frozenset(STABILIZERS),
}


@dataclass(frozen=True, eq=False)
class Form:
    """What a chain computes from its leaf `source`: `function` takes its numbers, placed as the weight has them.

    `axes` are those of a group, `gain` one number for each group. ε is given as the chain writes it, else as it stands
    beside the squared norm or the variance.
    """

    kind: WeightKind
    source: ir.Value
    places: Integers
    function: Function
    axes: Axes
    epsilon: float = 0.0
    variant: str = ""
    gain: Floats | None = None

    def error(self, chain: Chain, weight: Floats) -> float:
        """How far this form and what the chain computed are apart, relative to the largest element of each group."""
        numbers = chain.facts.float64(self.source)
        return apart(weight, self.function(numbers.reshape(-1)[self.places]), self.axes)


@dataclass(frozen=True)
class Group:
    """One way to take statistics of a weight: over which axes, of the numbers or of what is left without their mean."""

    axes: Axes
    centered: bool

    @property
    def kind(self) -> WeightKind:
        """What a weight divided by its deviation is called."""
        return "WeightStandardization" if self.centered else "WeightNorm"

    def core(self, x: Floats) -> tuple[Floats, Floats]:
        """What is scaled, and its deviation: x and its norms, or x − mean and the standard deviations."""
        if not self.centered:
            return x, np.sqrt((x * x).sum(axis=self.axes, keepdims=True))
        y = x - x.mean(axis=self.axes, keepdims=True)
        return y, np.sqrt((y * y).mean(axis=self.axes, keepdims=True))


def form_of(chain: Chain) -> Form | None:
    """The form of what `chain` computes, or None where it is none that is known.

    Raises `reference.Unexecutable` where the chain cannot be run.
    """
    facts = chain.facts
    for source in chain.leaves:
        is_as_large = is_float(source, facts) and size(source, facts) == size(chain.value, facts)
        places = chain.places(source) if is_as_large else None
        if places is not None:
            function = partial(chain.run_placed, source, places)
            form = _spectral(chain, source, places, function) or _divided(chain, source, places, function)
            if form is not None:
                return form
    return None


def apart(left: Floats, right: Floats, axes: Axes) -> float:
    """The largest difference, relative to the largest element of each group in `left`; NaN where there is a NaN."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(left - right).max(axis=axes, keepdims=True)
    largest = np.abs(left).max(axis=axes, keepdims=True)
    return float(np.divide(difference, largest, out=difference.copy(), where=largest > 0).max())


def _is_close(left: Floats, right: Floats, axes: Axes) -> bool:
    return left.shape == right.shape and apart(left, right, axes) <= TOLERANCE


def _drawn(shape: Shape, seed: int) -> Floats:
    """Numbers with a mean, which a forgotten Center shows."""
    return np.random.default_rng(seed).normal(0.5, 1.0, shape)


# --- v divided by its deviation ---------------------------------------------------------------------------------------


def _groups(shape: Shape) -> Iterator[Group]:
    """Over all axes but one; over everything. One output has its statistics to itself, so axis 0 is tried first."""
    every = tuple(range(len(shape)))
    for centered in (False, True):
        yield from (Group(tuple(axis for axis in every if axis != kept), centered) for kept in every)
    yield Group(every, centered=False)


def _divided(chain: Chain, source: ir.Value, places: Integers, function: Function) -> Form | None:
    """gain · core / s, with ε in one of its places beside the deviation s."""
    large = _drawn(places.shape, 0) * LARGE
    weight = function(large)
    for group in _groups(places.shape):
        gain = _gain(group, large, weight)
        if gain is None or not gain.any():
            continue
        found = _stabilizer(group, gain, function, places.shape)
        if found is None:
            continue
        variant, least = found
        closed = partial(_closed, group, gain, STABILIZERS[variant], least)
        outlier = _drawn(places.shape, 2)
        outlier.flat[0] *= LARGE  # where a Clip or a Min would show
        if _is_close(function(outlier), closed(outlier), group.axes):
            n = int(np.prod([places.shape[axis] for axis in group.axes]))
            epsilon = _written(least, n, chain, is_squared=variant != OUTSIDE)
            return Form(group.kind, source, places, closed, group.axes, epsilon, variant, gain)
    return None


def _closed(
    group: Group, gain: Floats, stabilize: Callable[[Floats, float], Floats], least: float, x: Floats
) -> Floats:
    y, deviation = group.core(x)
    with np.errstate(all="ignore"):
        return gain * y / stabilize(deviation, least)


def _gain(group: Group, x: Floats, weight: Floats) -> Floats | None:
    """The numbers g, one for each group, for which the weight is g · core / s; None where there are none."""
    y, deviation = group.core(x)
    with np.errstate(all="ignore"):
        unit = y / deviation
        gain = (weight * unit).sum(axis=group.axes, keepdims=True) / (unit * unit).sum(axis=group.axes, keepdims=True)
        return gain if _is_close(weight, gain * unit, group.axes) else None


def _stabilizer(group: Group, gain: Floats, function: Function, shape: Shape) -> tuple[str, float] | None:
    """Which stabilizer makes the denominator from s, and its number e; None where none does."""
    live = gain != 0
    x = _drawn(shape, 3)
    deviation, denominator = _denominator(group, gain, function, x * TINY)
    if _is_close(denominator[live], deviation[live], ()):
        return INSIDE, 0.0
    least = float(denominator[live].flat[0])
    if not np.isfinite(least):
        return None
    beside = BESIDE * least / float(group.core(x)[1].mean())
    deviation, denominator = _denominator(group, gain, function, x * beside)
    for variant in STABILIZERS:
        stabilized = STABILIZERS[variant](deviation, least)
        if variant in KNOWN[group.kind] and _is_close(denominator[live], stabilized[live], ()):
            return variant, least
    return None


def _denominator(group: Group, gain: Floats, function: Function, x: Floats) -> tuple[Floats, Floats]:
    """The deviation s of each group, and by what the weight shows that it was divided."""
    y, deviation = group.core(x)
    with np.errstate(all="ignore"):
        along = (function(x) * y).sum(axis=group.axes, keepdims=True)
        return deviation, gain * (y * y).sum(axis=group.axes, keepdims=True) / along


def _written(least: float, n: int, chain: Chain, *, is_squared: bool) -> float:
    """ε as one of the chain's own numbers has it, whichever way the chain takes the deviation, else as we take it.

    It may stand beside the variance, that of a sample (N − 1), their sums, or the roots of these.
    """
    sample = n / max(n - 1, 1)
    squares = [least * least * factor for factor in (1.0, sample, n, n * sample)]
    seen = [*squares, *np.sqrt(squares)] if is_squared else list(np.sqrt(squares))
    facts = chain.facts
    scalars = [leaf for leaf in chain.leaves if is_float(leaf, facts) and size(leaf, facts) == 1]
    written = [float(facts.float64(leaf).item()) for leaf in scalars]
    matches = (number for candidate in seen for number in written if abs(number - candidate) <= WRITTEN * candidate)
    return next((number for number in matches if number > 0), seen[0])


# --- v divided by uᵀVw ------------------------------------------------------------------------------------------------


def _spectral(chain: Chain, source: ir.Value, places: Integers, function: Function) -> Form | None:
    """v / (uᵀVw), V the matrix of v with one axis of the weight for its rows; u and w leaves of the chain."""
    shape, facts = places.shape, chain.facts
    sizes = {leaf: size(leaf, facts) for leaf in chain.leaves if leaf is not source and is_float(leaf, facts)}
    probe = _drawn(shape, 1)
    weights: list[Floats] = []
    for axis, (u, w) in itertools.product(range(len(shape)), itertools.permutations(sizes, 2)):
        if (sizes[u], sizes[w]) != (shape[axis], places.size // shape[axis]):
            continue
        closed = partial(_by_spectrum, axis, facts.float64(u).reshape(-1), facts.float64(w).reshape(-1))
        weights = weights or [function(probe), function(-probe)]  # one of them has a negative uᵀVw
        every = tuple(range(len(shape)))
        if all(_is_close(weight, closed(probe), every) for weight in weights):
            return Form("SpectralNorm", source, places, closed, every)
    return None


def _by_spectrum(axis: int, u: Floats, w: Floats, x: Floats) -> Floats:
    matrix = np.moveaxis(x, axis, 0).reshape(u.size, w.size)
    with np.errstate(all="ignore"):
        result: Floats = x / (u @ matrix @ w)
        return result
