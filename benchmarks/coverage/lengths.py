"""Norms by length: L2Norm and ScaleNorm, whose ε belongs to the sum of squares or is a floor of the length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from benchmarks.coverage.pieces import Site
from benchmarks.coverage.sketch import Sketch
from benchmarks.coverage.spelling import Parts, Recipe, Spelling, Truths, core, finish
from benchmarks.coverage.truth import Truth

# x over its length, with ε and the place of that in the divisor.
Lengths = Mapping[str, tuple[Callable[[Site, str], str], float, str]]


def _length(site: Site, x: str) -> str:
    return site.sketch.reduce("ReduceL2", x, site.written)


def _root_of_sum(site: Site, x: str) -> str:
    s = site.sketch
    return s("Sqrt", site.sum_of(s("Mul", x, x)))


def _with_epsilon(site: Site, x: str) -> str:
    s = site.sketch
    return s("Sqrt", s("Add", site.sum_of(s("Pow", x, s.number(2))), s.number(1e-3)))


def _least_square(site: Site, x: str) -> str:
    """As TensorFlow's l2_normalize: the root of max(Σx², ε)."""
    s = site.sketch
    return s("Sqrt", s("Max", site.sum_of(s("Mul", x, x)), s.number(2.0**-10)))


def _clipped(site: Site, x: str) -> str:
    return site.sketch.clip(_length(site, x), 2.0**-5, None)


def _clipped_and_expanded(site: Site, x: str) -> str:
    """As torch's F.normalize is exported."""
    s = site.sketch
    return s("Expand", _clipped(site, x), s("Shape", x))


def _at_least(site: Site, x: str) -> str:
    s = site.sketch
    return s("Max", _length(site, x), s.number(2.0**-5))


LENGTHS: Lengths = {
    "ReduceL2": (_length, 0.0, "inside"),
    "root-of-sum": (_root_of_sum, 0.0, "inside"),
    "root-of-sum-plus-epsilon": (_with_epsilon, 1e-3, "inside"),
    "root-of-max": (_least_square, 2.0**-5, "floor"),
    "ReduceL2-Clip": (_clipped, 2.0**-5, "floor"),
    "ReduceL2-Clip-Expand": (_clipped_and_expanded, 2.0**-5, "floor"),
    "ReduceL2-Max": (_at_least, 2.0**-5, "floor"),
}


def spellings() -> Iterator[Spelling]:
    """All of them."""
    for name in LENGTHS:
        since = 8 if "Expand" in name else 7
        yield Spelling("L2Norm", "divided", name, _divided(name), since=since, copies=3)
        yield Spelling("L2Norm", "axis-1", name, _divided(name, "B,12,H,W", (1,)), since=since, copies=1)
        yield Spelling("L2Norm", "by-reciprocal", name, _divided(name, reciprocal=True), since=since, copies=1)
        for side in ("left", "right"):
            yield Spelling("ScaleNorm", "divided", f"{name}+gain-{side}", _scaled(name, side), since=since, copies=1)
    for axis in (-1, 1):
        yield Spelling("L2Norm", "operator", f"LpNormalization-axis-{axis}", _lp(axis), copies=3, bfloat16_since=22)
    for name, shape in (("gain-scalar", ()), ("gain-of-one", (1,)), ("gain-1-1-1", (1, 1, 1))):
        yield Spelling("ScaleNorm", "root-mean-square", name, _uniform(shape), copies=2)


def _divided(name: str, shape: str = "B,T,12", axes: tuple[int, ...] = (-1,), *, reciprocal: bool = False) -> Recipe:
    def recipe(s: Sketch) -> Truths:
        site, (spelled, epsilon, place) = Site(s, shape, axes), LENGTHS[name]
        x = s.input("x", shape)
        length = spelled(site, x)
        y = s("Mul", x, s("Reciprocal", length)) if reciprocal else s("Div", x, length)
        return finish(s, y, shape, Truth("L2Norm", site.positive, float(s.rounded(epsilon)), place=place))

    return recipe


def _scaled(name: str, side: str) -> Recipe:
    """g·x / max(‖x‖, ε), the gain before the quotient or after it."""

    def recipe(s: Sketch) -> Truths:
        site, (spelled, epsilon, place) = Site(s, "B,T,12"), LENGTHS[name]
        x = s.input("x", site.shape)
        gain = s.drawn("gain", [] if side == "left" else [1], mean=2.5)
        length = spelled(site, x)
        y = s("Div", s("Mul", gain.name, x), length) if side == "left" else s("Mul", s("Div", x, length), gain.name)
        truth = Truth("ScaleNorm", (2,), float(s.rounded(epsilon)), gain=gain.values, place=place)
        return finish(s, y, site.shape, truth)

    return recipe


def _lp(axis: int) -> Recipe:
    def recipe(s: Sketch) -> Truths:
        x = s.input("x", "B,12,8")
        return finish(s, s("LpNormalization", x, axis=axis, p=2), "B,12,8", Truth("L2Norm", (axis % 3,)))

    return recipe


def _uniform(shape: tuple[int, ...]) -> Recipe:
    """x / √(ms + ε) times one number: the same, with other ε and gain."""

    def recipe(s: Sketch) -> Truths:
        site = Site(s, "B,T,12")
        u, held = core(site, s.input("x", site.shape), Parts(), centered=False, epsilon=1e-5)
        gain = s.drawn("gain", shape)
        truth = Truth("ScaleNorm", (2,), held * 12, gain=gain.values * 12**0.5)
        return finish(s, s("Mul", u, gain.name), site.shape, truth)

    return recipe
