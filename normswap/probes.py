"""Probes: small inputs on which a region shows what it computes.

Plain ones show what it may be; those of other kinds prove it: far from zero, near ε, with one element that holds all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from normswap import regions
from normswap.reference import Floats, Unexecutable
from normswap.regions import Shape
from normswap.setting import Setting

# Probes are reproducible: every run of the program sees the same ones.
SEED = 20230
# Probes that look at every place of a group, whose rows share the work: enough for the widest embeddings.
MOST_TURNS = 1 << 14
# Next to which every epsilon is small.
LARGE = 1e6
# Scales from far below every epsilon to far above every guard; their squares are still ordinary numbers in float64.
SWEEP = tuple(10.0**exponent for exponent in range(-18, 19, 2))


def generator() -> np.random.Generator:
    """The source of all probes of one region."""
    return np.random.default_rng(SEED)


def well_conditioned(shape: Shape, random: np.random.Generator) -> Floats:
    """Values between 1 and 2 of either sign: what divides by one of them loses nothing."""
    signs = np.where(np.arange(np.prod(shape)) % 2 == 0, 1.0, -1.0)
    result: Floats = random.permutation(signs).reshape(shape) * random.uniform(1, 2, shape)
    return result


def ordinary(shape: Shape, scale: float, random: np.random.Generator) -> Iterator[Floats]:
    """Probes of several kinds: plain, skewed, heavy-tailed, with an offset, outliers or zeros, around ε's own scale."""
    yield random.standard_normal(shape)
    yield random.exponential(1, shape)
    yield random.standard_normal(shape) * 10 ** random.uniform(-2, 2, shape)
    # Where squares are subtracted (E[x²] − E[x]²), an offset of 1e2 costs four digits, one of 1e4 would cost eight.
    yield random.standard_normal(shape) + random.choice([-1e2, 1e2])
    yield random.standard_normal(shape) * np.where(random.random(shape) < 0.02, 1e2, 1.0)
    yield np.where(random.random(shape) < 0.2, 0.0, random.standard_normal(shape))
    yield np.zeros(shape)  # what divides by nothing but a tiny ε gives zeros here, and not NaN
    yield (random.standard_normal(shape) + random.choice([-1e2, 1e2])) * (scale or 1e-3)
    for factor in (1e-9, 0.1, 1.0, 10.0):  # the first one shows what was added to x
        yield random.standard_normal(shape) * factor * (scale or 1e-3)
    yield random.standard_normal(shape) * 1e12  # and this one what was added to the inverse of its divisor


def piercing(setting: Setting, axes: Sequence[int], random: np.random.Generator) -> Iterator[Floats]:
    """Probes for piecewise operators: values far below and far above every constant they compare with, and near it.

    `axes` are those of a group of x. Raises `Unexecutable` where there are too many places to look at each.
    """
    shape = setting.shape
    for scale in SWEEP:
        plain = random.standard_normal(shape)
        yield scale * plain
        yield scale * (plain + 3)
        yield scale * (plain - 3)
    for constant in sorted(_thresholds(setting)):
        for scale in (abs(constant), abs(constant) ** 0.5):
            for factor in (1e-3, 0.1, 10, 1e3):
                yield factor * scale * random.standard_normal(shape)
        near = constant * (1 + 1e-4 * random.standard_normal(shape))
        yield np.where(random.random(shape) < 0.5, near, random.standard_normal(shape))
    places_differ = any(array.dtype == np.float64 and array.size > 1 for array in setting.arrays.values())
    yield from _spikes(shape, axes, everywhere=places_differ)
    yield np.zeros(shape)


def _spikes(shape: Shape, axes: Sequence[int], *, everywhere: bool) -> Iterator[Floats]:
    """Groups of which one element holds all: what a norm makes of it is its largest value, √D or √(D − 1).

    Where gains and biases differ from place to place, that is the largest at some place: each has its turn.
    """
    order = (*(axis for axis in range(len(shape)) if axis not in axes), *axes)
    moved = tuple(shape[axis] for axis in order)
    size = int(np.prod([shape[axis] for axis in axes]))
    rows = int(np.prod(shape)) // size
    turns = -(-size // rows) if everywhere else 1
    if turns > MOST_TURNS:
        raise Unexecutable(f"groups of {size} elements, each of which would have to be looked at")
    for turn in range(turns):
        spikes = np.zeros((rows, size))
        spikes[np.arange(rows), (turn * rows + np.arange(rows)) % size] = LARGE
        placed = spikes.reshape(moved).transpose(np.argsort(order))
        yield placed
        yield -placed


def _thresholds(setting: Setting) -> set[float]:
    found = set[float]()
    for node in setting.region.nodes:
        if node.op_type in regions.PIECEWISE:
            arrays = [setting.arrays[value] for value in node.inputs if value is not None and value in setting.arrays]
            arrays += [np.asarray(item.value) for name, item in node.attributes.items() if name in ("min", "max")]
            for array in arrays:
                if array.dtype.kind == "f":
                    found.update(float(value) for value in np.unique(array)[:4] if value and np.isfinite(value))
    return found
