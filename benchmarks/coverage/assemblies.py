"""LayerNorm and RMSNorm that are no sequence of center, variance, quotient and affine: folded, rescaled, with 1 + w."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.coverage.endings import AFFINES
from benchmarks.coverage.pieces import Site
from benchmarks.coverage.sketch import Sketch
from benchmarks.coverage.spelling import NARROW, WIDE, Parts, Recipe, Spelling, Truths, core, finish
from benchmarks.coverage.truth import Truth


def spellings() -> Iterator[Spelling]:
    """All of them."""
    yield Spelling("LayerNorm", "folded", "tensorflow", _tensorflow("Mul"), copies=4)
    yield Spelling("LayerNorm", "folded", "tensorflow-squared-difference", _tensorflow("Sub"), copies=3)
    yield Spelling("LayerNorm", "folded", "gain-before-quotient", _gain_first, copies=2)
    yield Spelling("LayerNorm", "sample-variance", "static-axis", _sample_variance, copies=4)
    yield Spelling("RMSNorm", "gain", "one-plus-weight", _gemma("", "initializer"), copies=3)
    yield Spelling(
        "RMSNorm",
        "gain",
        "one-plus-weight+cast-gain-within",
        _gemma("gain-within", "initializer"),
        dtypes=NARROW,
        copies=3,
    )
    yield Spelling("RMSNorm", "gain", "one-plus-weight+Constant", _gemma("", "Constant"), copies=2)
    yield Spelling("RMSNorm", "gain", "cast-gain", _cast_gain, dtypes=NARROW, copies=3)
    yield Spelling("RMSNorm", "folded", "gain-before-quotient", _gain_first_of_root, copies=3)
    yield Spelling("RMSNorm", "root", "length-times-inverse-root-of-n", _length, copies=3, dtypes=WIDE)
    for operator in ("Squeeze", "Slice"):
        yield Spelling("LayerNorm", "copies", f"within-{operator.lower()}", _copies(operator), since=10, copies=2)


def _tensorflow(square: str) -> Recipe:
    """x·(γ·r) + (β − μ·γ·r)."""

    def recipe(s: Sketch) -> Truths:
        site = Site(s, "B,T,12")
        x = s.input("x", site.shape)
        mean = site.mean_of(x)
        d = s("Sub", x, mean)
        variance = site.mean_of(s("Mul", d, d) if square == "Mul" else s("Pow", d, s.number(2)))
        r = s("Reciprocal", s("Sqrt", s("Add", variance, s.number(1e-3))))
        gain, bias = s.drawn("gain", [12]), s.drawn("bias", [12], mean=0.3)
        f = s("Mul", r, gain.name)
        y = s("Add", s("Mul", x, f), s("Sub", bias.name, s("Mul", mean, f)))
        return finish(
            s, y, site.shape, Truth("LayerNorm", (2,), float(s.rounded(1e-3)), gain=gain.values, bias=bias.values)
        )

    return recipe


def _gain_first(s: Sketch) -> Truths:
    """(γ·d) / √(v + ε) + β."""
    site = Site(s, "B,T,12")
    x = s.input("x", site.shape)
    d = s("Sub", x, site.mean_of(x))
    variance = site.mean_of(s("Mul", d, d))
    gain, bias = s.drawn("gain", [12]), s.drawn("bias", [12], mean=0.3)
    u = s("Div", s("Mul", gain.name, d), s("Sqrt", s("Add", variance, s.number(1e-5))))
    y = s("Add", u, bias.name)
    return finish(
        s, y, site.shape, Truth("LayerNorm", (2,), float(s.rounded(1e-5)), gain=gain.values, bias=bias.values)
    )


def _gain_first_of_root(s: Sketch) -> Truths:
    """x · (γ / √(ms + ε))."""
    site = Site(s, "B,T,12")
    x = s.input("x", site.shape)
    gain = s.drawn("gain", [12])
    root = s("Sqrt", s("Add", site.mean_of(s("Mul", x, x)), s.number(1e-5)))
    y = s("Mul", x, s("Div", gain.name, root))
    return finish(s, y, site.shape, Truth("RMSNorm", (2,), float(s.rounded(1e-5)), gain=gain.values))


def _sample_variance(s: Sketch) -> Truths:
    """Divided by N − 1: a LayerNorm with other ε and gain."""
    site = Site(s, "B,T,12")
    x = s.input("x", site.shape)
    d = s("Sub", x, site.mean_of(x))
    variance = s("Div", site.sum_of(s("Mul", d, d)), s.number(11))
    u = s("Div", d, s("Sqrt", s("Add", variance, s.number(1e-3))))
    gain, bias = s.drawn("gain", [12]), s.drawn("bias", [12], mean=0.3)
    y = s("Add", s("Mul", u, gain.name), bias.name)
    factor = (11 / 12) ** 0.5
    epsilon = float(s.rounded(1e-3)) * 11 / 12
    return finish(s, y, site.shape, Truth("LayerNorm", (2,), epsilon, gain=gain.values * factor, bias=bias.values))


def _gemma(casts: str, form: str) -> Recipe:
    """The gain is 1 + w, and computed in the graph."""

    def recipe(s: Sketch) -> Truths:
        s.form = form
        site = Site(s, "B,T,12")
        parts = Parts(quotient="reciprocal", casts=casts)
        u, held = core(site, s.input("x", site.shape), parts, centered=False, epsilon=1e-6)
        weight = s.drawn("w", [12], mean=0.0)
        y = s("Mul", u, s("Add", s.number(1), weight.name))
        y = s.cast(y, s.dtype) if casts else y
        return finish(s, y, site.shape, Truth("RMSNorm", (2,), held, gain=1 + weight.values))

    return recipe


def _cast_gain(s: Sketch) -> Truths:
    """The gain is held in the narrow type, and cast to the wide one for the product."""
    site = Site(s, "B,T,12")
    gain = s.drawn("gain", [12])
    u, held = core(site, s.input("x", site.shape), Parts(casts="gain-within"), centered=False, epsilon=1e-5)
    y = s.cast(s("Mul", s.cast(gain.name, s.wide), u), s.dtype)
    return finish(s, y, site.shape, Truth("RMSNorm", (2,), held, gain=gain.values))


def _length(s: Sketch) -> Truths:
    """x / (‖x‖ · √(1/N)), as the authors of RMSNorm write its root mean square, without ε."""
    site = Site(s, "B,T,16")
    x = s.input("x", site.shape)
    root = s("Mul", s.reduce("ReduceL2", x, site.written), s.number(0.25))
    gain = s.drawn("gain", [16])
    return finish(s, s("Mul", s("Div", x, root), gain.name), site.shape, Truth("RMSNorm", (2,), gain=gain.values))


def _copies(operator: str) -> Recipe:
    """x is copied by a layout operator on the way."""

    def recipe(s: Sketch) -> Truths:
        site = Site(s, "B,T,12")
        x = s.input("x", site.shape)
        if operator == "Squeeze":
            copied = s.reduce("Squeeze", s.reduce("Unsqueeze", x, [0]), [0])
        else:
            copied = s("Slice", x, s.ints([0]), s.ints([12]), s.ints([2]))
        u, held = core(site, copied, Parts(), centered=True, epsilon=1e-5)
        put = AFFINES["gain-bias"](site, u)
        return finish(s, put.output, site.shape, Truth("LayerNorm", (2,), held, gain=put.gain, bias=put.bias))

    return recipe
