"""The pieces of a norm, each in every spelling: a mean, a center, a variance.

All of one table take and give the same, so that any of one goes with any of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.coverage.sketch import NUMBERS, Sketch


@dataclass(eq=False)
class Site:
    """Where a norm is spelled out: the sketch, the shape of x, and the axes that are normalized."""

    sketch: Sketch
    shape: str
    axes: tuple[int, ...] = (-1,)

    @property
    def dims(self) -> list[str]:
        """The dimensions of x."""
        return self.shape.split(",")

    @property
    def positive(self) -> tuple[int, ...]:
        """The axes, counted from the front."""
        return tuple(sorted(axis % len(self.dims) for axis in self.axes))

    @property
    def written(self) -> list[int]:
        """The axes as the graph has them."""
        rank = len(self.dims)
        return [axis - rank for axis in self.positive] if self.sketch.negative else list(self.positive)

    @property
    def size(self) -> int:
        """The number of elements of a group, which must be static."""
        return int(np.prod([int(self.dims[axis]) for axis in self.positive]))

    def mean_of(self, x: str) -> str:
        """The plain mean."""
        return self.sketch.reduce("ReduceMean", x, self.written)

    def sum_of(self, x: str) -> str:
        """The plain sum."""
        return self.sketch.reduce("ReduceSum", x, self.written)


# --- mean: what is subtracted from x --------------------------------------------------------------------------------


def _sum_times_inverse(site: Site, x: str) -> str:
    return site.sketch("Mul", site.sum_of(x), site.sketch.number(1 / site.size))


def _inverse_times_sum(site: Site, x: str) -> str:
    return site.sketch("Mul", site.sketch.number(1 / site.size), site.sum_of(x))


def _sum_over_size(site: Site, x: str) -> str:
    return site.sketch("Div", site.sum_of(x), site.sketch.number(site.size))


def _sum_of_parts(site: Site, x: str) -> str:
    return site.sum_of(site.sketch("Div", x, site.sketch.number(site.size)))


def _sum_over_shape(site: Site, x: str) -> str:
    """N is read from the shape of x, when the graph runs."""
    s = site.sketch
    sizes = s("Gather", s("Shape", x), s.ints(list(site.positive)))
    size = s.reduce("ReduceProd", sizes, [0], keepdims=False)
    return s("Div", site.sum_of(x), s("Cast", size, to=NUMBERS[s.work]))


def _squeezed(site: Site, x: str) -> str:
    axes = list(site.positive)
    return site.sketch.reduce("Unsqueeze", site.sketch.reduce("ReduceMean", x, site.written, keepdims=False), axes)


def _reshaped(site: Site, x: str) -> str:
    """The reduced axis is put back by a Reshape to a shape that is computed."""
    s = site.sketch
    flat = s.reduce("ReduceMean", x, site.written, keepdims=False)
    rank, axis = len(site.dims), site.positive[0]
    kept = s("Gather", s("Shape", x), s.ints([place for place in range(rank) if place != axis]))
    one = s.ints([1])
    pieces = [one, kept] if axis == 0 else [kept, one]
    if axis not in (0, rank - 1):
        raise ValueError("a Reshape of the first axis or the last")
    return s("Reshape", flat, s("Concat", *pieces, axis=0))


def _expanded(site: Site, x: str) -> str:
    return site.sketch("Expand", site.mean_of(x), site.sketch("Shape", x))


def _tiled(site: Site, x: str) -> str:
    rank = len(site.dims)
    repeats = [site.size if axis in site.positive else 1 for axis in range(rank)]
    return site.sketch("Tile", site.mean_of(x), site.sketch.ints(repeats))


def _tiled_at_run_time(site: Site, x: str) -> str:
    """The repeats are the shape of x over that of its mean."""
    s, mean = site.sketch, site.mean_of(x)
    return s("Tile", mean, s("Div", s("Shape", x), s("Shape", mean)))


def _mean_matrix(site: Site, x: str) -> str:
    return site.sketch("MatMul", x, site.sketch.array(np.full((site.size, 1), 1 / site.size)).name)


def _sum_matrix(site: Site, x: str) -> str:
    total = site.sketch("MatMul", x, site.sketch.array(np.ones((site.size, 1))).name)
    return site.sketch("Mul", total, site.sketch.number(1 / site.size))


def _pooled(site: Site, x: str) -> str:
    return site.sketch("GlobalAveragePool", x)


MEANS: Mapping[str, Callable[[Site, str], str]] = {
    "ReduceMean": lambda site, x: site.mean_of(x),
    "sum-times-1/n": _sum_times_inverse,
    "1/n-times-sum": _inverse_times_sum,
    "sum-over-n": _sum_over_size,
    "sum-of-x/n": _sum_of_parts,
    "sum-over-shape": _sum_over_shape,
    "keepdims0-unsqueeze": _squeezed,
    "keepdims0-reshape": _reshaped,
    "mean-expanded": _expanded,
    "mean-tiled": _tiled,
    "mean-tiled-by-shape": _tiled_at_run_time,
    "mean-matrix": _mean_matrix,
    "sum-matrix": _sum_matrix,
    "GlobalAveragePool": _pooled,
}


# --- center: x minus its mean ---------------------------------------------------------------------------------------


def _minus_mean(site: Site, x: str, mean: str) -> str:
    return site.sketch("Add", site.sketch("Neg", mean), x)


def _centering_matrix(site: Site, x: str, mean: str) -> str:
    matrix = np.eye(site.size) - 1 / site.size
    return site.sketch("MatMul", x, site.sketch.array(matrix).name)


CENTERS: Mapping[str, Callable[[Site, str, str], str]] = {
    "sub": lambda site, x, mean: site.sketch("Sub", x, mean),
    "x-plus-minus-mean": _minus_mean,
    "centering-matrix": _centering_matrix,
}


# --- variance: the mean of the squares of d, where d is x minus its mean, or x itself -------------------------------


def _pow(site: Site, x: str, d: str) -> str:
    return site.mean_of(site.sketch("Pow", d, site.sketch.number(2)))


def _pow_by_row(site: Site, x: str, d: str) -> str:
    """The exponent is a tensor of one element, as some exporters write all numbers."""
    return site.mean_of(site.sketch("Pow", d, site.sketch.array([2.0]).name))


def _sum_square(site: Site, x: str, d: str) -> str:
    return site.sketch("Div", site.sketch.reduce("ReduceSumSquare", d, site.written), site.sketch.number(site.size))


def _squared_length(site: Site, x: str, d: str) -> str:
    length = site.sketch.reduce("ReduceL2", d, site.written)
    return site.sketch("Mul", site.sketch.number(1 / site.size), site.sketch("Mul", length, length))


def _second_difference(site: Site, x: str, d: str) -> str:
    """As old exporters wrote a variance: x minus its mean, once more."""
    s = site.sketch
    return site.mean_of(s("Pow", s("Sub", x, site.mean_of(x)), s.number(2)))


def _of_absolute(site: Site, x: str, d: str) -> str:
    size = site.sketch("Abs", d)
    return site.mean_of(site.sketch("Mul", size, size))


def _squares(mean: str) -> Callable[[Site, str, str], str]:
    return lambda site, x, d: MEANS[mean](site, site.sketch("Mul", d, d))


def _difference_of_means(guard: str) -> Callable[[Site, str, str], str]:
    """E[x²] − E[x]², which rounding may bring below zero; hence the guard."""

    def variance(site: Site, x: str, d: str) -> str:
        s, mean = site.sketch, site.mean_of(x)
        second = site.mean_of(s("Mul", x, x))
        difference = s("Sub", second, s("Mul", mean, mean))
        return {
            "": lambda: difference,
            "Max": lambda: s("Max", difference, s.number(0)),
            "Relu": lambda: s("Relu", difference),
            "Abs": lambda: s("Abs", difference),
            "Clip": lambda: s.clip(difference, 0.0, None),
        }[guard]()

    return variance


VARIANCES: Mapping[str, Callable[[Site, str, str], str]] = {
    "mul": _squares("ReduceMean"),
    "pow": _pow,
    "pow-by-row": _pow_by_row,
    "sum-square": _sum_square,
    "length-squared": _squared_length,
    "two-subs": _second_difference,
    "square-of-abs": _of_absolute,
    **{f"squares-{name}": _squares(name) for name in MEANS if name != "ReduceMean"},
    "e-x2-minus-mean2": _difference_of_means(""),
    **{
        f"e-x2-minus-mean2/guard-{guard.lower()}": _difference_of_means(guard)
        for guard in ("Max", "Relu", "Abs", "Clip")
    },
}
