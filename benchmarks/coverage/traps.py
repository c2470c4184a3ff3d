"""Traps: what looks like a norm and is none, each with the norm it imitates and the reasons that are right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from benchmarks.coverage.endings import AFFINES
from benchmarks.coverage.pieces import Site
from benchmarks.coverage.sketch import NUMBERS, Feeds, Floats, Sketch
from benchmarks.coverage.spelling import Spelling
from benchmarks.coverage.truth import Trap, Truth

SHAPE = "B,T,12"
EPSILON = 1e-3
LAYER = Truth("LayerNorm", (2,), EPSILON)
ROOT = Truth("RMSNorm", (2,), EPSILON)

# The root mean square of something else than x may be half of a norm of that.
OF_ANOTHER = ("x-plus-mean", "minus-sum", "minus-maximum")

# From the sketch, the site and x: the value that the trap ends in, before gain and bias.
Build = Callable[[Sketch, Site, str], str]


def spellings() -> Iterator[Spelling]:
    """All of them."""
    for group, name, build, reasons, imitates in (*_signs(), *_statistics(), *_epsilons(), *_piecewise()):
        yield trap(group, name, build, reasons, imitates)


def trap(group: str, name: str, build: Build, reasons: Iterable[str], imitates: Iterable[Truth]) -> Spelling:
    """A trap that ends in gain and bias."""

    def recipe(s: Sketch) -> Trap:
        site = Site(s, SHAPE)
        value = build(s, site, s.input("x", SHAPE))
        put = AFFINES["gain-bias"](site, value)
        s.output(put.output, SHAPE)
        gain, bias = np.asarray(put.gain), np.asarray(put.bias)
        copies = tuple(imitation(norm, gain, bias) for norm in imitates)
        rest = (Truth("RMSNorm", (2,), float(s.rounded(EPSILON))),) if name in OF_ANOTHER else ()
        return Trap(copies, frozenset(reasons), allowed=rest)

    since = 10 if group == "partial" else 8
    return Spelling("Trap", group, name, recipe, since=since, copies=2)


def imitation(norm: Truth, gain: Floats, bias: Floats) -> Callable[[Feeds], Floats]:
    """A norm with gain and bias, of the input x."""
    return lambda feeds: norm(feeds["x"]) * gain + bias


def deviation(s: Sketch, site: Site, x: str) -> str:
    """x minus its mean."""
    return s("Sub", x, site.mean_of(x))


def over_root(s: Sketch, d: str, variance: str) -> str:
    """d over the root of a variance and ε."""
    return s("Div", d, s("Sqrt", s("Add", variance, s.number(EPSILON))))


def square(s: Sketch, x: str) -> str:
    """x · x."""
    return s("Mul", x, x)


Row = tuple[str, str, Build, tuple[str, ...], tuple[Truth, ...]]


def _signs() -> Iterator[Row]:
    """Differences the wrong way round."""

    def minus_x(s: Sketch, site: Site, x: str) -> str:
        d = s("Sub", site.mean_of(x), x)
        return over_root(s, d, site.mean_of(s("Pow", d, s.number(2))))

    def minus_x_above(s: Sketch, site: Site, x: str) -> str:
        mean = site.mean_of(x)
        d = s("Sub", x, mean)
        return over_root(s, s("Sub", mean, x), site.mean_of(square(s, d)))

    def plus(s: Sketch, site: Site, x: str) -> str:
        d = s("Add", x, site.mean_of(x))
        return over_root(s, d, site.mean_of(square(s, d)))

    def swapped(s: Sketch, site: Site, x: str) -> str:
        d = deviation(s, site, x)
        return s("Div", s("Sqrt", s("Add", site.mean_of(square(s, d)), s.number(EPSILON))), d)

    yield "sign", "mean-minus-x", minus_x, ("negated",), (LAYER,)
    yield "sign", "mean-minus-x-above-the-line", minus_x_above, ("negated",), (LAYER,)
    yield "sign", "x-plus-mean", plus, ("other-statistic", "not-a-norm", "other-value"), (LAYER, ROOT)
    yield "sign", "root-over-x", swapped, ("other-statistic", "not-a-norm"), (LAYER,)


def _statistics() -> Iterator[Row]:
    """Statistics that are no root mean square."""
    other = ("other-statistic", "not-a-norm")

    def power(exponent: float, *, centered: bool) -> Build:
        def build(s: Sketch, site: Site, x: str) -> str:
            d = deviation(s, site, x) if centered else x
            return over_root(s, d, site.mean_of(s("Pow", d, s.number(exponent))))

        return build

    def absolute(s: Sketch, site: Site, x: str) -> str:
        d = deviation(s, site, x)
        return s("Div", d, s("Add", site.mean_of(s("Abs", d)), s.number(EPSILON)))

    def no_root(s: Sketch, site: Site, x: str) -> str:
        d = deviation(s, site, x)
        return s("Div", d, s("Add", site.mean_of(square(s, d)), s.number(EPSILON)))

    def largest(s: Sketch, site: Site, x: str) -> str:
        return s("Div", x, s("Add", s.reduce("ReduceMax", s("Abs", x), site.written), s.number(EPSILON)))

    def softmax(s: Sketch, site: Site, x: str) -> str:
        e = s("Exp", s("Sub", x, s.reduce("ReduceMax", x, site.written)))
        return s("Div", e, site.sum_of(e))

    def share(s: Sketch, site: Site, x: str) -> str:
        size = s("Abs", x)
        return s("Div", x, s("Add", site.sum_of(size), s.number(EPSILON)))

    def minus_sum(s: Sketch, site: Site, x: str) -> str:
        d = s("Sub", x, site.sum_of(x))
        return over_root(s, d, site.mean_of(square(s, d)))

    def minus_maximum(s: Sketch, site: Site, x: str) -> str:
        d = s("Sub", x, s.reduce("ReduceMax", x, site.written))
        return over_root(s, d, site.mean_of(square(s, d)))

    def uncentered(s: Sketch, site: Site, x: str) -> str:
        """x minus its mean over the root mean square of x itself."""
        return over_root(s, deviation(s, site, x), site.mean_of(square(s, x)))

    def deviation_of_x(s: Sketch, site: Site, x: str) -> str:
        """x itself over its standard deviation."""
        return over_root(s, x, site.mean_of(square(s, deviation(s, site, x))))

    def only_centered(s: Sketch, site: Site, x: str) -> str:
        return deviation(s, site, x)

    yield "exponent", "four", power(4, centered=True), other, (LAYER,)
    yield "exponent", "four-of-x", power(4, centered=False), other, (ROOT,)
    yield "exponent", "one-and-a-half-of-squares", _halved_power, other, (ROOT,)
    yield "statistic", "mean-absolute-deviation", absolute, other, (LAYER,)
    yield "statistic", "variance-instead-of-root", no_root, other, (LAYER,)
    yield "statistic", "largest", largest, (), (ROOT,)  # it holds no sum
    yield "statistic", "softmax", softmax, other, (LAYER, ROOT)
    yield "statistic", "share", share, other, (ROOT,)
    yield "statistic", "minus-sum", minus_sum, other, (LAYER,)
    yield "statistic", "minus-maximum", minus_maximum, (*other, "other-value"), (LAYER,)
    yield "statistic", "center-over-root-of-x", uncentered, (*other, "center-only", "other-value"), (LAYER, ROOT)
    yield "statistic", "x-over-deviation", deviation_of_x, (*other, "center-only", "other-value"), (LAYER, ROOT)
    yield "statistic", "center-only", only_centered, ("center-only",), (LAYER,)


def _halved_power(s: Sketch, site: Site, x: str) -> str:
    """(mean of |x|³ + ε)^(−1/3) x: homogeneous, as a norm is."""
    cubes = s("Pow", s("Abs", x), s.number(3))
    return s("Mul", x, s("Pow", s("Add", site.mean_of(cubes), s.number(EPSILON)), s.number(-1 / 3)))


def _epsilons() -> Iterator[Row]:
    """ε at another place."""
    center, root = (LAYER,), (ROOT,)

    def outside(s: Sketch, site: Site, x: str) -> str:
        return s("Div", x, s("Add", s("Sqrt", site.mean_of(square(s, x))), s.number(EPSILON)))

    def twice(s: Sketch, site: Site, x: str) -> str:
        d = deviation(s, site, x)
        inner = s("Sqrt", s("Add", site.mean_of(square(s, d)), s.number(EPSILON)))
        return s("Div", d, s("Add", inner, s.number(EPSILON)))

    def maximum(s: Sketch, site: Site, x: str) -> str:
        d = deviation(s, site, x)
        return s("Div", d, s("Sqrt", s("Max", site.mean_of(square(s, d)), s.number(EPSILON))))

    def of_squares(s: Sketch, site: Site, x: str) -> str:
        """ε is the size of the root: √(ms² + ε²)."""
        squares = site.mean_of(square(s, x))
        return s("Div", x, s("Sqrt", s("Add", s("Mul", squares, squares), s.number(EPSILON))))

    outer = ("epsilon-outside",)
    yield "epsilon", "outside-the-root-of-x", outside, outer, root
    yield "epsilon", "inside-and-outside", twice, ("epsilon-outside", "other-statistic", "not-a-norm"), center
    yield "epsilon", "max-instead-of-add", maximum, ("piecewise",), center
    yield "epsilon", "square-of-the-mean-square", of_squares, ("other-statistic", "not-a-norm"), root


def _piecewise() -> Iterator[Row]:
    """What bites only where no plain probe looks."""
    reasons = ("piecewise",)

    def guarded(guard: Callable[[Sketch, str], str], *, centered: bool = True, on: str = "variance") -> Build:
        def build(s: Sketch, site: Site, x: str) -> str:
            d = deviation(s, site, x) if centered else x
            seen = guard(s, d) if on == "deviation" else d
            squares = guard(s, square(s, seen)) if on == "squares" else square(s, seen)
            variance = guard(s, site.mean_of(squares)) if on == "variance" else site.mean_of(squares)
            return over_root(s, d, variance)

        return build

    def bounded(s: Sketch, v: str) -> str:
        return s("Min", v, s.number(1e4))

    def raised(s: Sketch, v: str) -> str:
        return s("Max", v, s.number(2.0**-6))

    def clipped(s: Sketch, v: str) -> str:
        return s.clip(v, -65504.0, 65504.0)

    def relu(s: Sketch, v: str) -> str:
        return s("Relu", v)

    yield "piecewise", "min-of-the-variance", guarded(bounded), reasons, (LAYER,)
    yield "piecewise", "max-of-the-variance", guarded(raised), reasons, (LAYER,)
    yield "piecewise", "clip-of-the-deviation", guarded(clipped, on="deviation"), reasons, (LAYER,)
    yield "piecewise", "clip-of-the-squares", guarded(clipped, on="squares"), reasons, (LAYER,)
    yield "piecewise", "min-of-the-mean-square", guarded(bounded, centered=False), reasons, (ROOT,)
    yield "piecewise", "clip-of-x", guarded(clipped, centered=False, on="deviation"), (*reasons, "not-a-norm"), (ROOT,)
    more = ("other-statistic", "not-a-norm", "partial-statistics", "different-axes", "group-statistics")
    yield "piecewise", "relu-of-the-deviation", guarded(relu, on="deviation"), (*reasons, *more), (LAYER,)
    yield "piecewise", "where-large", _where_large, reasons, (LAYER,)
    yield "piecewise", "where-variance-is-small", _where_small, reasons, (LAYER,)


def _where_large(s: Sketch, site: Site, x: str) -> str:
    """Large values count as they are, not centered."""
    d = deviation(s, site, x)
    kept = _selected(s, s("Greater", x, s.number(1e4)), x, d)
    return over_root(s, d, site.mean_of(square(s, kept)))


def _where_small(s: Sketch, site: Site, x: str) -> str:
    """A variance that is small counts as one."""
    d = deviation(s, site, x)
    variance = site.mean_of(square(s, d))
    small = s("Less", variance, s.number(2.0**-20))
    return over_root(s, d, _selected(s, small, s.number(1), variance))


def _selected(s: Sketch, condition: str, yes: str, no: str) -> str:
    """Where, which came with opset 9; before it, as sums of products."""
    if s.opset >= 9:
        return s("Where", condition, yes, no)
    chosen = s("Cast", condition, to=NUMBERS[s.dtype])
    return s("Add", s("Mul", chosen, yes), s("Mul", s("Sub", s.number(1), chosen), no))
