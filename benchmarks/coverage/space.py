"""Norms over space: InstanceNorm in all its spellings, and MeanVarianceNorm, whose ε stands outside the root."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.coverage.endings import AFFINES
from benchmarks.coverage.pieces import Site
from benchmarks.coverage.sketch import Floats, Parameter, Sketch
from benchmarks.coverage.spelling import Parts, Recipe, Spelling, Truths, composed, finish
from benchmarks.coverage.truth import Truth

IMAGE = "B,6,H,W"


def spellings() -> Iterator[Spelling]:
    """All of them."""
    yield from _instance_norms()
    yield from _mean_variance_norms()


def gain_and_bias(s: Sketch, width: int) -> tuple[Parameter, Parameter]:
    """A gain and a bias for channels."""
    return s.drawn("gain", [width]), s.drawn("bias", [width], mean=0.3)


def column(parameter: Parameter, rank: int) -> Floats:
    """A parameter of channels, so that it broadcasts along axis 1."""
    return parameter.values.reshape(-1, *[1] * (rank - 2))


# --- InstanceNorm ---------------------------------------------------------------------------------------------------


def _instance_norms() -> Iterator[Spelling]:
    kind = "InstanceNorm"
    for shape in ("B,6,T", IMAGE, "B,6,3,H,W"):
        name = f"rank-{len(shape.split(','))}"
        yield Spelling(kind, "operator", name, _operator(shape), copies=3, bfloat16_since=22)
        axes = tuple(range(2, len(shape.split(","))))
        affine = "gain-d-1-1"
        for variance in ("mul", "pow", "e-x2-minus-mean2/guard-relu", "two-subs"):
            parts = Parts(variance=variance, affine=affine)
            yield Spelling(
                kind, "decomposed", f"{name}+{variance}", composed(kind, parts, shape=shape, axes=axes), copies=1
            )
    for quotient in ("div", "reciprocal", "pow-minus-half", "pow-half"):
        parts = Parts(quotient=quotient, affine="gain-1-d-1-1")
        yield Spelling(kind, "decomposed", quotient, composed(kind, parts, shape=IMAGE, axes=(2, 3)), copies=1)
    parts = Parts(affine="no-affine")
    yield Spelling(kind, "decomposed", "no-affine", composed(kind, parts, shape=IMAGE, axes=(2, 3)), copies=3)
    parts = Parts(mean="GlobalAveragePool", variance="squares-GlobalAveragePool", affine="gain-d-1-1")
    yield Spelling(
        kind,
        "decomposed",
        "GlobalAveragePool",
        composed(kind, parts, shape=IMAGE, axes=(2, 3)),
        copies=4,
        dtypes=("float", "float16", "double"),
    )
    yield Spelling(kind, "decomposed", "static-sums", _static_sums, copies=3)
    yield Spelling(kind, "layout", "operator-between-transposes", _channels_last, copies=3, bfloat16_since=22)


def _operator(shape: str) -> Recipe:
    def recipe(s: Sketch) -> Truths:
        rank = len(shape.split(","))
        gain, bias = gain_and_bias(s, 6)
        y = s("InstanceNormalization", s.input("x", shape), gain.name, bias.name, epsilon=1e-3)
        epsilon, axes = float(np.float32(1e-3)), tuple(range(2, rank))
        return finish(
            s, y, shape, Truth("InstanceNorm", axes, epsilon, gain=column(gain, rank), bias=column(bias, rank))
        )

    return recipe


def _static_sums(s: Sketch) -> Truths:
    return composed(
        "InstanceNorm",
        Parts(mean="sum-over-n", variance="squares-sum-times-1/n", affine="gain-d-1-1"),
        shape="B,6,4,8",
        axes=(2, 3),
    )(s)  # type: ignore[return-value]


def _channels_last(s: Sketch) -> Truths:
    """Channels last outside, first within."""
    gain, bias = gain_and_bias(s, 6)
    x = s("Transpose", s.input("x", "B,H,W,6"), perm=[0, 3, 1, 2])
    y = s("Transpose", s("InstanceNormalization", x, gain.name, bias.name, epsilon=1e-3), perm=[0, 2, 3, 1])
    truth = Truth(
        "InstanceNorm", (1, 2), float(np.float32(1e-3)), gain=gain.values, bias=bias.values, views=(((2, 3), 1),),
        also=("LayerNorm",),
    )  # fmt: skip
    return finish(s, y, "B,H,W,6", truth)


# --- MeanVarianceNorm -----------------------------------------------------------------------------------------------


def _mean_variance_norms() -> Iterator[Spelling]:
    kind = "MeanVarianceNorm"
    for axes in ((0, 2, 3), (2, 3), (1,)):
        name = "axes-" + "-".join(map(str, axes))
        yield Spelling(kind, "operator", name, _mean_variance(axes), since=9, copies=2, dtypes=("float",))
    yield Spelling(
        kind, "operator", "default-axes", _mean_variance(None), since=9, until=12, copies=3, dtypes=("float",)
    )
    for put in ("gain-bias", "no-affine"):
        yield Spelling(kind, "decomposed", f"epsilon-outside+{put}", _epsilon_outside(put), copies=3)


def _mean_variance(axes: Sequence[int] | None) -> Recipe:
    def recipe(s: Sketch) -> Truths:
        x = s.input("x", IMAGE)
        y = s("MeanVarianceNormalization", x) if axes is None else s("MeanVarianceNormalization", x, axes=list(axes))
        return finish(s, y, IMAGE, Truth("MeanVarianceNorm", tuple(axes or (0, 2, 3)), 1e-9, place="outside"))

    return recipe


def _epsilon_outside(affine: str) -> Recipe:
    def recipe(s: Sketch) -> Truths:
        site = Site(s, "B,T,12")
        x = s.input("x", site.shape)
        d = s("Sub", x, site.mean_of(x))
        root = s("Sqrt", site.mean_of(s("Mul", d, d)))
        put = AFFINES[affine](site, s("Div", d, s("Add", root, s.number(1e-3))))
        held = float(s.rounded(1e-3))
        return finish(
            s, put.output, site.shape,
            Truth("MeanVarianceNorm", (2,), held, gain=put.gain, bias=put.bias, place="outside"),
        )  # fmt: skip

    return recipe
