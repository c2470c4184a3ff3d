"""Norms and what is around them: heads, residuals, readers of what is in between, gains that are known at run time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.coverage.endings import AFFINES, Affine
from benchmarks.coverage.pieces import Site
from benchmarks.coverage.sketch import Feeds, Floats, Sketch
from benchmarks.coverage.spelling import Parts, Recipe, Spelling, Truths, core, finish
from benchmarks.coverage.truth import Truth

SHAPE = "B,T,12"
PLAIN = Parts()


def spellings() -> Iterator[Spelling]:
    """All of them."""
    for kind in ("LayerNorm", "RMSNorm"):
        yield Spelling(kind, "heads", "of-queries", _of_heads(kind, back=False), copies=3)
        yield Spelling(kind, "heads", "of-queries-and-back", _of_heads(kind, back=True))
        yield Spelling(kind, "shared", "intermediate-is-output", _with_outputs(kind), copies=3)
        yield Spelling(kind, "shared", "intermediate-is-read", _with_readers(kind), copies=3)
        yield Spelling(kind, "shared", "residual", _with_residual(kind))
        yield Spelling(kind, "run-time-gain", "gain", _modulated(kind, "gain"))
        yield Spelling(kind, "run-time-gain", "AdaLN-one-plus-gain-and-bias", _modulated(kind, "AdaLN"), copies=3)
        yield Spelling(kind, "run-time-gain", "FiLM-after-constant-gain", _modulated(kind, "FiLM"))
    yield Spelling("LayerNorm", "run-time-gain", "of-the-operator", _operator_at_run_time, since=17)
    yield Spelling("InstanceNorm", "run-time-gain", "style", _style(operator=True), copies=3, bfloat16_since=22)
    yield Spelling("InstanceNorm", "run-time-gain", "style-decomposed", _style(operator=False))


def plain_norm(s: Sketch, x: str, kind: str, affine: str = "gain-bias", parts: Parts = PLAIN) -> tuple[Affine, Truth]:
    """A norm of x over the last of three axes, its constants held by `s`."""
    site = Site(s, SHAPE)
    u, held = core(site, x, parts, centered=kind == "LayerNorm", epsilon=1e-3)
    put = AFFINES[affine](site, u)
    return put, Truth(kind, (2,), held, gain=put.gain, bias=put.bias)


# --- layouts and other readers --------------------------------------------------------------------------------------


def _of_heads(kind: str, *, back: bool) -> Recipe:
    """QK-norm: [B, T, D] → [B, T, heads, D / heads], a norm of each head; then to attention, or back."""

    def recipe(s: Sketch) -> Truths:
        x = s.input("x", SHAPE)
        heads = s("Reshape", x, s.ints([0, 0, 3, 4]))
        site = Site(s, "B,T,3,4")
        u, held = core(site, heads, Parts(), centered=kind == "LayerNorm", epsilon=1e-3)
        put = AFFINES["gain-only"](site, u)
        truth = Truth(kind, (3,), held, gain=put.gain)

        def normed(feeds: Feeds) -> Floats:
            return truth(feeds["x"].reshape(*feeds["x"].shape[:2], 3, 4))

        if back:
            whole = replace(truth, views=(((2,), 3),), also=("GroupNorm",) if kind == "LayerNorm" else ())
            s.formula = lambda feeds: [normed(feeds).reshape(feeds["x"].shape)]
            return finish(s, s("Reshape", put.output, s.ints([0, 0, 12])), SHAPE, whole)
        s.formula = lambda feeds: [normed(feeds).transpose(0, 2, 1, 3)]
        return finish(s, s("Transpose", put.output, perm=[0, 2, 1, 3]), "B,3,T,4", truth)

    return recipe


def _with_outputs(kind: str) -> Recipe:
    """The root of the variance, and x minus its mean, are outputs of the graph."""

    def recipe(s: Sketch) -> Truths:
        site, x = Site(s, SHAPE), s.input("x", SHAPE)
        d = s("Sub", x, site.mean_of(x)) if kind == "LayerNorm" else x
        root = s("Sqrt", s("Add", site.mean_of(s("Pow", d, s.number(2))), s.number(1e-3)))
        put = AFFINES["gain-bias"](site, s("Div", d, root))
        held = float(s.rounded(1e-3))
        truth = Truth(kind, (2,), held, gain=put.gain, bias=put.bias)
        s.output(put.output, SHAPE)
        s.output(root, "B,T,1")
        centered = kind == "LayerNorm"
        if centered:
            s.output(d, SHAPE)

        def formula(feeds: Feeds) -> list[Floats]:
            v = np.asarray(feeds["x"], np.float64)
            v = v - v.mean(axis=2, keepdims=True) if centered else v
            return [truth(feeds["x"]), np.sqrt((v * v).mean(axis=2, keepdims=True) + held), *([v] if centered else [])]

        s.formula = formula
        return (truth,)

    return recipe


def _with_readers(kind: str) -> Recipe:
    """What is normalized, and its squares, are read elsewhere as well."""

    def recipe(s: Sketch) -> Truths:
        site, x = Site(s, SHAPE), s.input("x", SHAPE)
        d = s("Sub", x, site.mean_of(x)) if kind == "LayerNorm" else x
        squares = s("Pow", d, s.number(2))
        root = s("Sqrt", s("Add", site.mean_of(squares), s.number(1e-3)))
        put = AFFINES["gain-bias"](site, s("Div", d, root))
        truth = Truth(kind, (2,), float(s.rounded(1e-3)), gain=put.gain, bias=put.bias)
        s.output(put.output, SHAPE)
        s.output(s("Relu", d), SHAPE)
        s.output(s("Sigmoid", squares), SHAPE)
        centered = kind == "LayerNorm"

        def formula(feeds: Feeds) -> list[Floats]:
            v = np.asarray(feeds["x"], np.float64)
            v = v - v.mean(axis=2, keepdims=True) if centered else v
            return [truth(feeds["x"]), np.maximum(v, 0), 1 / (1 + np.exp(-v * v))]

        s.formula = formula
        return (truth,)

    return recipe


def _with_residual(kind: str) -> Recipe:
    """x + norm(x)·W, whose norm has x in common with the sum."""

    def recipe(s: Sketch) -> Truths:
        x = s.input("x", SHAPE)
        put, truth = plain_norm(s, x, kind)
        weight = s.drawn("weight", [12, 12], mean=0.1)
        s.formula = lambda feeds: [feeds["x"] + truth(feeds["x"]) @ weight.values]
        return finish(s, s("Add", x, s("MatMul", put.output, weight.name)), SHAPE, truth)

    return recipe


# --- gains that are known at run time -------------------------------------------------------------------------------


def _modulated(kind: str, how: str) -> Recipe:
    def recipe(s: Sketch) -> Truths:
        x, scale = s.input("x", SHAPE), s.input("scale", "B,1,12")
        put, truth = plain_norm(s, x, kind, "gain-bias" if how == "FiLM" else "no-affine")
        if how == "gain":
            s.formula = lambda feeds: [truth(feeds["x"]) * feeds["scale"]]
            return finish(s, s("Mul", put.output, scale), SHAPE, replace(truth, runtime=frozenset({"gain"})))
        shift = s.input("shift", "B,1,12")
        factor = s("Add", s.number(1), scale) if how == "AdaLN" else scale
        one = 1 if how == "AdaLN" else 0
        s.formula = lambda feeds: [truth(feeds["x"]) * (one + feeds["scale"]) + feeds["shift"]]
        y = s("Add", s("Mul", put.output, factor), shift)
        return finish(s, y, SHAPE, replace(truth, runtime=frozenset({"gain", "bias"})))

    return recipe


def _operator_at_run_time(s: Sketch) -> Truths:
    x, gain, bias = s.input("x", SHAPE), s.input("gain", "12"), s.input("bias", "12")
    truth = Truth("LayerNorm", (2,), float(np.float32(1e-3)), runtime=frozenset({"gain", "bias"}))
    s.formula = lambda feeds: [truth(feeds["x"]) * feeds["gain"] + feeds["bias"]]
    return finish(s, s("LayerNormalization", x, gain, bias, axis=-1, epsilon=1e-3), SHAPE, truth)


def _style(*, operator: bool) -> Recipe:
    """InstanceNorm whose gain and bias come from a style."""

    def recipe(s: Sketch) -> Truths:
        shape = "B,6,H,W"
        x, scale, shift = s.input("x", shape), s.input("scale", "B,6,1,1"), s.input("shift", "B,6,1,1")
        if operator:
            unit = s.array(np.ones(6)).name, s.array(np.zeros(6)).name
            u, held = s("InstanceNormalization", x, *unit, epsilon=1e-3), float(np.float32(1e-3))
        else:
            u, held = core(Site(s, shape, (2, 3)), x, Parts(), centered=True, epsilon=1e-3)
        truth = Truth("InstanceNorm", (2, 3), held, runtime=frozenset({"gain", "bias"}))
        s.formula = lambda feeds: [truth(feeds["x"]) * feeds["scale"] + feeds["shift"]]
        return finish(s, s("Add", s("Mul", u, scale), shift), shape, truth)

    return recipe
