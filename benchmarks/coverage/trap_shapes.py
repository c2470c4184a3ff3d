"""Traps of shape: statistics of other elements than those they are for, and gains that are no part of a norm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.coverage.endings import AFFINES
from benchmarks.coverage.pieces import Site
from benchmarks.coverage.sketch import NUMBERS, Sketch
from benchmarks.coverage.spelling import Recipe, Spelling
from benchmarks.coverage.traps import (
    EPSILON,
    LAYER,
    ROOT,
    SHAPE,
    Build,
    Row,
    deviation,
    imitation,
    over_root,
    square,
    trap,
)
from benchmarks.coverage.truth import Trap, Truth


def spellings() -> Iterator[Spelling]:
    """All of them."""
    for group, name, build, reasons, imitates in _parts():
        yield trap(group, name, build, reasons, imitates)
    for shape in ("12,12", "12,12,12"):
        name = f"keepdims0-of-{shape.replace(',', 'x')}"
        yield Spelling("Trap", "axes", name, _without_dimensions(shape), copies=2)
    yield Spelling("Trap", "axes", "noop-with-empty-axes", _no_operation, since=18, copies=2)
    yield Spelling("Trap", "size", "sample-variance-over-a-dynamic-axis", _dynamic_sample, copies=3)
    yield Spelling("Trap", "size", "sum-over-a-dynamic-axis-times-a-constant", _dynamic_sum, copies=2)
    yield Spelling("Trap", "gain", "along-the-wrong-axis", _gain_along_rows, copies=3)
    yield Spelling("Trap", "gain", "expands-the-rank", _gain_of_higher_rank, copies=3)
    yield Spelling("Trap", "gain", "expands-a-dimension", _gain_expands, copies=2)
    yield Spelling("Trap", "other-value", "root-of-x-divides-y", _other_value, copies=3)
    yield Spelling("Trap", "other-value", "mean-of-something-else", _other_mean, copies=3)
    yield Spelling("Trap", "other-value", "deviation-of-something-else", _other_deviation, copies=2)


def _parts() -> Iterator[Row]:
    """Statistics over other elements than those they are for."""
    elsewhere, partial, grouped = ("different-axes",), ("partial-statistics",), ("group-statistics",)

    def reduced(mean: int, variance: int) -> Build:
        def build(s: Sketch, site: Site, x: str) -> str:
            d = s("Sub", x, s.reduce("ReduceMean", x, [mean]))
            return over_root(s, d, s.reduce("ReduceMean", square(s, d), [variance]))

        return build

    def some(start: int, stop: int, step: int = 1, *, centered: bool) -> Build:
        def build(s: Sketch, site: Site, x: str) -> str:
            d = deviation(s, site, x) if centered else x
            part = s("Slice", d, s.ints([start]), s.ints([stop]), s.ints([2]), s.ints([step]))
            return over_root(s, d, site.mean_of(square(s, part)))

        return build

    def interleaved(s: Sketch, site: Site, x: str) -> str:
        """Even elements and odd ones have statistics of their own."""
        pairs = s("Reshape", square(s, x), s.ints([0, 0, 6, 2]))
        mean = s("Expand", s.reduce("ReduceMean", pairs, [2]), s.ints([1, 1, 6, 2]))
        return over_root(s, x, s("Reshape", mean, s.ints([0, 0, 12])))

    def halves_of_center(s: Sketch, site: Site, x: str) -> str:
        """Centered over the whole axis, divided by the root mean square of each half."""
        d = deviation(s, site, x)
        pieces = s("Reshape", square(s, d), s.ints([0, 0, 2, 6]))
        mean = s("Expand", s.reduce("ReduceMean", pieces, [3]), s.ints([1, 1, 2, 6]))
        return over_root(s, d, s("Reshape", mean, s.ints([0, 0, 12])))

    yield "axes", "mean-over-another-axis", reduced(1, 2), elsewhere, (LAYER,)
    yield "axes", "variance-over-another-axis", reduced(2, 1), elsewhere, (LAYER,)
    yield "axes", "mean-over-both-axes", _both, (*elsewhere, *partial), (LAYER,)
    yield "partial", "last-third", some(8, 12, centered=False), partial, (ROOT,)
    yield "partial", "middle", some(4, 8, centered=False), partial, (ROOT,)
    yield "partial", "every-other", some(0, 12, 2, centered=False), partial, (ROOT,)
    yield (
        "partial",
        "first-half-of-the-deviation",
        some(0, 6, centered=True),
        (*partial, "center-only", "other-statistic"),
        (LAYER,),
    )
    yield "partial", "gathered", _gathered, (*partial, "other-value"), (ROOT,)
    yield (
        "groups",
        "interleaved",
        interleaved,
        grouped,
        (ROOT, Truth("RMSNorm", (2,), EPSILON, 2), Truth("RMSNorm", (2,), EPSILON, 6)),
    )
    reasons = (*grouped, *elsewhere, *partial, "other-statistic", "center-only", "other-value")
    yield (
        "groups",
        "center-of-all-and-root-of-each-half",
        halves_of_center,
        reasons,
        (LAYER, Truth("GroupNorm", (2,), EPSILON, 2)),
    )


def _gathered(s: Sketch, site: Site, x: str) -> str:
    """Statistics of four elements picked by number."""
    return over_root(s, x, site.mean_of(square(s, s("Gather", x, s.ints([0, 3, 5, 11]), axis=2))))


def _both(s: Sketch, site: Site, x: str) -> str:
    """Centered over two axes, divided by the deviation over one."""
    d = s("Sub", x, s.reduce("ReduceMean", x, [1, 2]))
    return over_root(s, d, s.reduce("ReduceMean", square(s, d), [2]))


# --- traps that need a graph of their own ---------------------------------------------------------------------------


def _without_dimensions(shape: str) -> Recipe:
    """With as many rows as columns, keepdims = 0 is no error: the statistics meet the wrong elements."""

    def recipe(s: Sketch) -> Trap:
        x = s.input("x", shape)
        d = s("Sub", x, s.reduce("ReduceMean", x, [-1], keepdims=False))
        variance = s.reduce("ReduceMean", s("Pow", d, s.number(2)), [-1], keepdims=False)
        site = Site(s, shape)
        put = AFFINES["gain-bias"](site, over_root(s, d, variance))
        s.output(put.output, shape)
        rank = len(shape.split(","))
        imitated = tuple(
            imitation(Truth("LayerNorm", (axis,), EPSILON), np.asarray(put.gain), np.asarray(put.bias))
            for axis in range(rank)
        )
        return Trap(imitated, frozenset({"different-axes", "not-a-norm", "other-statistic"}))

    return recipe


def _no_operation(s: Sketch) -> Trap:
    """A ReduceMean without axes that is told to do nothing then."""
    x = s.input("x", SHAPE)
    mean = s("ReduceMean", square(s, x), noop_with_empty_axes=1)
    s.output(over_root(s, x, mean), SHAPE)
    every = Truth("RMSNorm", (0, 1, 2), EPSILON)
    return Trap(
        (lambda feeds: ROOT(feeds["x"]), lambda feeds: every(feeds["x"])), frozenset({"not-a-norm", "different-axes"})
    )


def _dynamic_sample(s: Sketch) -> Trap:
    """Divided by N − 1, where N is known at run time only."""
    shape = "B,T,N"
    site, x = Site(s, shape), s.input("x", shape)
    d = deviation(s, site, x)
    less = s("Sub", s("Gather", s("Shape", x), s.ints(2)), s.ints(1))
    less = s("Cast", less, to=NUMBERS[s.dtype])
    s.output(over_root(s, d, s("Div", site.sum_of(square(s, d)), less)), shape)
    return Trap((lambda feeds: LAYER(feeds["x"]),), frozenset({"size-dependent"}))


def _dynamic_sum(s: Sketch) -> Trap:
    """A sum over a free axis times a constant: a mean for one size only."""
    shape = "B,T,N"
    site, x = Site(s, shape), s.input("x", shape)
    scaled = s("Mul", site.sum_of(square(s, x)), s.number(1 / 12))
    s.output(over_root(s, x, scaled), shape)
    scale = Truth(
        "ScaleNorm", (2,), float(s.rounded(EPSILON) / s.rounded(1 / 12)), also=("L2Norm",)
    )  # which asks for no size
    return Trap((lambda feeds: ROOT(feeds["x"]),), frozenset({"size-dependent"}), allowed=(scale,))


def _plain_layer(s: Sketch, shape: str) -> tuple[str, Truth]:
    """A LayerNorm over the last axis as most write it, and what it is."""
    site, x = Site(s, shape), s.input("x", shape)
    d = deviation(s, site, x)
    u = over_root(s, d, site.mean_of(s("Pow", d, s.number(2))))
    return u, Truth("LayerNorm", (len(site.dims) - 1,), float(s.rounded(EPSILON)))


def _gain_along_rows(s: Sketch) -> Trap:
    """One number for each row, where there are as many rows as columns. The norm is there, the gain is another."""
    u, truth = _plain_layer(s, "B,12,12")
    gain, bias = s.drawn("gain", [12, 1]), s.drawn("bias", [12, 1], mean=0.3)
    s.output(s("Add", s("Mul", u, gain.name), bias.name), "B,12,12")
    flat = imitation(truth, gain.values.reshape(12), bias.values.reshape(12))
    return Trap((flat,), frozenset(), (replace(truth, also=("InstanceNorm",)),))  # its rows are channels


def _gain_of_higher_rank(s: Sketch) -> Trap:
    """The gain has an axis more than x, and so has what comes out."""
    u, truth = _plain_layer(s, SHAPE)
    gain = s.drawn("gain", [1, 1, 1, 12])
    bias = s.drawn("bias", [12], mean=0.3)
    s.output(s("Add", s("Mul", u, gain.name), bias.name), "1,B,T,12")
    return Trap((imitation(truth, gain.values.reshape(12), bias.values),), frozenset(), (truth,))


def _gain_expands(s: Sketch) -> Trap:
    """x has one row, the gain has three, and so has what comes out."""
    u, truth = _plain_layer(s, "B,1,12")
    gain, bias = s.drawn("gain", [3, 12]), s.drawn("bias", [12], mean=0.3)
    s.output(s("Add", s("Mul", u, gain.name), bias.name), "B,3,12")
    return Trap((imitation(truth, gain.values[0], bias.values),), frozenset(), (truth,))


def _other_value(s: Sketch) -> Trap:
    site, x, y = Site(s, SHAPE), s.input("x", SHAPE), s.input("y", SHAPE)
    s.output(over_root(s, y, site.mean_of(square(s, x))), SHAPE)
    return Trap((lambda feeds: ROOT(feeds["x"]), lambda feeds: ROOT(feeds["y"])), frozenset({"other-value"}))


def _other_mean(s: Sketch) -> Trap:
    """The mean of y is subtracted from x; what is left is divided by its own root mean square."""
    site, x, y = Site(s, SHAPE), s.input("x", SHAPE), s.input("y", SHAPE)
    d = s("Sub", x, site.mean_of(y))
    s.output(s("Identity", over_root(s, d, site.mean_of(square(s, d)))), SHAPE)
    rest = Truth("RMSNorm", (2,), float(s.rounded(EPSILON)))  # of x minus any other value
    return Trap((lambda feeds: LAYER(feeds["x"]), lambda feeds: LAYER(feeds["y"])), frozenset(), (rest,))


def _other_deviation(s: Sketch) -> Trap:
    """x is centered, and divided by the deviation of y."""
    site, x, y = Site(s, SHAPE), s.input("x", SHAPE), s.input("y", SHAPE)
    d = deviation(s, site, y)
    s.output(over_root(s, deviation(s, site, x), site.mean_of(square(s, d))), SHAPE)
    return Trap((lambda feeds: LAYER(feeds["x"]), lambda feeds: LAYER(feeds["y"])), frozenset({"other-value"}))
