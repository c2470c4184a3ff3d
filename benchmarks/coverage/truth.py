"""What a graph computes, as a formula in numpy that shares nothing with the tools: the norm it is, or imitates.

Every graph of the matrix is run against its formula, so that a generator that is wrong cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.coverage.sketch import DTYPES, SIZES, Feeds, Floats

CENTERED = frozenset({"LayerNorm", "InstanceNorm", "GroupNorm", "MeanVarianceNorm"})
# Their ε is that of the sum of squares; that of all others belongs to the mean of squares.
OF_SUMS = frozenset({"L2Norm", "ScaleNorm"})
# They divide by a statistic of their input. A trap that is named as one of them is taken.
STATISTICAL = CENTERED | OF_SUMS | {"RMSNorm", "PowerNorm", "PartialRMSNorm"}


# What is below this is nothing: norms are of the size of one.
LEAST = 1e-2


@dataclass(frozen=True, eq=False)
class Truth:
    """One norm. With `groups` the first of `axes` is cut into so many runs; `first` are the elements it looks at.

    `place` is where ε stands in the divisor: inside the root, outside, or as a floor of it. `function` stands for the
    formula of what is no norm of its input. `also` are further names that are as good, and `views` further axes with
    their groups: where layout operators stand around a norm, it may be seen from within or from without. `within` are
    views that are right and miss a part of it. `any_gain`: whether the gain is constant depends on who looks.
    """

    kind: str
    axes: tuple[int, ...]
    epsilon: float = 0.0
    groups: int = 1
    gain: npt.ArrayLike | None = None
    bias: npt.ArrayLike | None = None
    place: str = "inside"
    first: int | None = None
    runtime: frozenset[str] = frozenset()
    also: tuple[str, ...] = ()
    function: Callable[[Floats], Floats] | None = None
    views: tuple[tuple[tuple[int, ...], int], ...] = ()
    within: tuple[tuple[tuple[int, ...], int], ...] = ()
    any_gain: bool = False

    def __call__(self, x: Floats) -> Floats:
        """The norm of x, in float64."""
        x = np.asarray(x, np.float64)
        result = self.function(x) if self.function is not None else self._normalized(x)
        result = result if self.gain is None else result * np.asarray(self.gain)
        return result if self.bias is None else result + np.asarray(self.bias)

    def _normalized(self, x: Floats) -> Floats:
        first, *others = self.axes
        split = (*x.shape[:first], self.groups, x.shape[first] // self.groups, *x.shape[first + 1 :])
        axes = (first + 1, *(axis + 1 for axis in others))
        pieces = x.reshape(split)
        if self.kind in CENTERED:
            pieces = pieces - pieces.mean(axis=axes, keepdims=True)
        seen = pieces if self.first is None else pieces.take(range(self.first), axis=axes[0])
        combined = np.sum if self.kind in OF_SUMS else np.mean
        squares = combined(seen * seen, axis=axes, keepdims=True)
        divisor = {
            "inside": lambda: np.sqrt(squares + self.epsilon),
            "outside": lambda: np.sqrt(squares) + self.epsilon,
            "floor": lambda: np.maximum(np.sqrt(squares), self.epsilon),
        }[self.place]()
        with np.errstate(all="ignore"):
            return np.asarray(pieces / divisor).reshape(x.shape)


@dataclass(frozen=True, eq=False)
class Trap:
    """What is no norm: the norms it imitates, and the ids of the reasons that are right.

    `norms` are those that it holds all the same (a LayerNorm whose gain is no part of it), `allowed` those that may be
    seen in it (an RMSNorm of something else than x); nothing else may be named.
    """

    imitates: tuple[Callable[[Feeds], Floats], ...]
    reasons: frozenset[str]
    norms: tuple[Truth, ...] = ()
    allowed: tuple[Truth, ...] = ()


@dataclass(frozen=True)
class Draw:
    """How an input is drawn: x = scale · (normal + offset), or rows that are constant."""

    name: str
    scale: float = 1.0
    offset: float = 0.0
    constant: bool = False
    row: int = -1  # the size of the rows' last axis, where it is not to be that of SIZES


DRAWS = (
    Draw("plain"),
    Draw("offset", offset=10.0),
    Draw("small", scale=3e-3),
    Draw("large", scale=1e4),
    Draw("constant rows", constant=True),
)
# What a trap may take to bite: far outside of what a network sees.
EXTREMES = tuple(Draw(f"{scale:g}", scale=scale) for scale in (1e-12, 1e-9, 1e-6, 1e-4, 1e-2, 1e2, 1e6, 1e9))


def drawn(inputs: Mapping[str, tuple[str, Sequence[str]]], draw: Draw, seed: int = 0) -> Feeds:
    """Numbers for all inputs: by name their element type and dimensions. Only those named x… are scaled."""
    random = np.random.default_rng(seed)
    return {name: _one(random, name, dtype, dims, draw) for name, (dtype, dims) in inputs.items()}


def _one(
    random: np.random.Generator, name: str, dtype: str, dims: Sequence[str], draw: Draw
) -> npt.NDArray[np.generic]:
    shape = tuple(int(SIZES.get(dim, dim)) for dim in dims)
    if dtype == "bool":
        return np.asarray(random.integers(0, 2, shape), np.bool_)
    if dtype.startswith("int"):
        return random.integers(0, 3, shape).astype(DTYPES[dtype])
    values = random.normal(size=shape)
    if name.startswith("x"):
        if draw.constant and shape:
            values = np.broadcast_to(values[..., :1], shape)
        values = draw.scale * (values + draw.offset)
    return np.asarray(values, np.float64)


def scaled_apart(one: Floats, other: Floats) -> float:
    """The largest difference, relative to the largest value of `one`; only where that is finite.

    Infinite where the shapes differ, or the other is not finite where `one` is.
    """
    finite = np.isfinite(one)
    if one.shape != other.shape or not np.isfinite(other[finite]).all():
        return np.inf
    scale = max(float(np.abs(one[finite]).max(initial=0.0)), LEAST)
    return float(np.abs(one[finite] - other[finite]).max(initial=0.0)) / scale


def differing(one: Floats, others: Iterator[Floats]) -> bool:
    """Whether all of the others are far from the first."""
    return all(scaled_apart(one, other) > 1e-3 for other in others)
