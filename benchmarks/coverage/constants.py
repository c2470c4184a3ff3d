"""Norms whose statistics are constant: BatchNorm and other constant Affines, and the norms of weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.coverage.sketch import Floats, Sketch
from benchmarks.coverage.spelling import Recipe, Spelling, Truths, finish
from benchmarks.coverage.truth import Truth

IMAGE = "B,4,H,W"
OF_CONVOLUTIONS = ("float", "float16", "double")
EPSILON = float(np.float32(1e-3))


def spellings() -> Iterator[Spelling]:
    """All of them."""
    for rank in (2, 3, 4):
        yield Spelling("BatchNorm", "operator", f"rank-{rank}", _operator(rank), dtypes=OF_CONVOLUTIONS, copies=3)
    yield Spelling("BatchNorm", "operator", "between-transposes", _between_transposes, dtypes=OF_CONVOLUTIONS, copies=3)
    for name in ("difference-first", "folded", "reciprocal"):
        yield Spelling("BatchNorm", "arithmetic", name, _arithmetic(name), copies=3)
    yield Spelling("Affine", "unified-normalization", "division-by-root", _root_only, copies=3)
    yield Spelling("Affine", "power-norm", "as-in-the-paper", _paper_power_norm, copies=3)
    yield Spelling("Affine", "RepBN", "operator-plus-scaled-x", _rep_bn, dtypes=OF_CONVOLUTIONS, copies=3)
    for name in ("ReduceL2", "root-of-sum", "gain-first", "sum-square"):
        yield Spelling("WeightNorm", "of-Gemm", name, _weight_norm(name), dtypes=OF_CONVOLUTIONS, copies=3)
    for name in ("plain", "sample"):
        yield Spelling(
            "WeightStandardization", "of-Gemm", name, _weight_standardization(name), dtypes=OF_CONVOLUTIONS, copies=3
        )
    yield Spelling("SpectralNorm", "of-Gemm", "division", _spectral_norm, dtypes=OF_CONVOLUTIONS, copies=3)


def _statistics(s: Sketch, shape: tuple[int, ...]) -> tuple[list[str], list[Floats]]:
    """gain, bias, mean and variance of four channels."""
    drawn = [
        s.drawn("gain", shape),
        s.drawn("bias", shape, mean=0.3),
        s.drawn("mean", shape, mean=0.5),
        s.drawn("variance", shape, mean=1.5),
    ]
    return [parameter.name for parameter in drawn], [parameter.values for parameter in drawn]


def _normalized(values: list[Floats], epsilon: float, column: tuple[int, ...]) -> Truth:
    gain, bias, mean, variance = (array.reshape(column) for array in values)
    scale = gain / np.sqrt(variance + epsilon)
    return Truth("BatchNorm", (1,), epsilon, function=lambda x: (x - mean) * scale + bias)


def _as_affine(truth: Truth) -> Truth:
    """Without the operator, a BatchNorm is a constant Affine, and its ε cannot be told."""
    return Truth("BatchNorm", truth.axes, truth.epsilon, function=truth.function, also=("Affine",))


def _operator(rank: int) -> Recipe:
    def recipe(s: Sketch) -> Truths:
        shape = ",".join(["B", "4", "H", "W"][:rank])
        names, values = _statistics(s, (4,))
        y = s("BatchNormalization", s.input("x", shape), *names, epsilon=1e-3)
        return finish(s, y, shape, _normalized(values, EPSILON, (4, *[1] * (rank - 2))))

    return recipe


def _between_transposes(s: Sketch) -> Truths:
    """Of tokens: channels first within only."""
    names, values = _statistics(s, (4,))
    first = s("Transpose", s.input("x", "B,T,4"), perm=[0, 2, 1])
    y = s("Transpose", s("BatchNormalization", first, *names, epsilon=1e-3), perm=[0, 2, 1])
    found = _normalized(values, EPSILON, (4,))
    return finish(s, y, "B,T,4", Truth("BatchNorm", (1,), EPSILON, function=found.function, views=(((2,), 1),)))


def _arithmetic(name: str) -> Recipe:
    """(x − μ) / √(σ² + ε) · γ + β, all of it constant."""

    def recipe(s: Sketch) -> Truths:
        x = s.input("x", IMAGE)
        (gain, bias, mean, variance), values = _statistics(s, (4, 1, 1))
        found = _normalized(values, float(s.rounded(1e-3)), (4, 1, 1))
        root = s("Sqrt", s("Add", variance, s.number(1e-3)))
        if name == "difference-first":
            u = s("Div", s("Sub", x, mean), root)
            y = s("Add", s("Mul", u, gain), bias)
        elif name == "reciprocal":
            u = s("Mul", s("Sub", x, mean), s("Reciprocal", root))
            y = s("Add", s("Mul", gain, u), bias)
        else:
            scale = s("Div", gain, root)
            y = s("Add", s("Mul", x, scale), s("Sub", bias, s("Mul", mean, scale)))
        return finish(s, y, IMAGE, _as_affine(found))

    return recipe


def _root_only(s: Sketch) -> Truths:
    """x / √(σ² + ε) · w + b: Unified Normalization, which subtracts no mean."""
    x = s.input("x", "B,T,12")
    variance, weight, bias = s.drawn("variance", [12], mean=1.5), s.drawn("gain", [12]), s.drawn("bias", [12], mean=0.3)
    root = s("Sqrt", s("Add", variance.name, s.number(1e-3)))
    y = s("Add", s("Mul", s("Div", x, root), weight.name), bias.name)
    scale = weight.values / np.sqrt(variance.values + s.rounded(1e-3))
    truth = Truth("Affine", (2,), function=lambda x: x * scale + bias.values, also=("BatchNorm",))
    return finish(s, y, "B,T,12", truth)


def _paper_power_norm(s: Sketch) -> Truths:
    """γ·x/ψ + β, with the deviation as a constant."""
    x = s.input("x", "B,12,T")
    deviation, weight, bias = (
        s.drawn("deviation", [12, 1], mean=1.5), s.drawn("gain", [12, 1]), s.drawn("bias", [12, 1], mean=0.3)
    )  # fmt: skip
    y = s("Add", s("Mul", weight.name, s("Div", x, deviation.name)), bias.name)
    scale = weight.values / deviation.values
    truth = Truth("Affine", (1,), function=lambda x: x * scale + bias.values, also=("BatchNorm",))
    return finish(s, y, "B,12,T", truth)


def _rep_bn(s: Sketch) -> Truths:
    """BN(x) + η·x."""
    x = s.input("x", IMAGE)
    names, values = _statistics(s, (4,))
    batch = _normalized(values, EPSILON, (4, 1, 1))
    eta = s.drawn("eta", [1])
    y = s("Add", s("BatchNormalization", x, *names, epsilon=1e-3), s("Mul", x, eta.name))
    truth = Truth("Affine", (1,), function=lambda x: batch(x) + eta.values * x)
    return finish(s, y, IMAGE, truth)


# --- weights --------------------------------------------------------------------------------------------------------


def _weight_norm(name: str) -> Recipe:
    """x · (g·v/‖v‖), one norm for each of the outputs."""

    def recipe(s: Sketch) -> Truths:
        x, v, g = s.input("x", "B,12"), s.drawn("v", [12, 8], mean=0.1), s.drawn("g", [1, 8])
        if name == "root-of-sum":
            length = s("Sqrt", s.reduce("ReduceSum", s("Mul", v.name, v.name), [0]))
        elif name == "sum-square":
            length = s("Sqrt", s.reduce("ReduceSumSquare", v.name, [0]))
        else:
            length = s.reduce("ReduceL2", v.name, [0])
        weight = (
            s("Mul", s("Div", g.name, length), v.name)
            if name == "gain-first"
            else s("Mul", s("Div", v.name, length), g.name)
        )
        s.output(s("MatMul", x, weight), "B,8")
        numbers = g.values * v.values / np.sqrt((v.values**2).sum(axis=0, keepdims=True))
        s.formula = lambda feeds: [feeds["x"] @ numbers]
        return (Truth("WeightNorm", (0,), gain=g.values, function=lambda x: x @ numbers),)

    return recipe


def _weight_standardization(name: str) -> Recipe:
    """x · (g·(v − mean)/√(variance + ε)), for each of the outputs."""

    def recipe(s: Sketch) -> Truths:
        x, v, g = s.input("x", "B,12"), s.drawn("v", [12, 8], mean=0.1), s.drawn("g", [1, 8])
        d = s("Sub", v.name, s.reduce("ReduceMean", v.name, [0]))
        squares = s("Mul", d, d)
        variance = (
            s.reduce("ReduceMean", squares, [0])
            if name == "plain"
            else s("Div", s.reduce("ReduceSum", squares, [0]), s.number(12))
        )
        weight = s("Mul", s("Div", d, s("Sqrt", s("Add", variance, s.number(1e-3)))), g.name)
        s.output(s("MatMul", x, weight), "B,8")
        epsilon = float(s.rounded(1e-3))
        centered = v.values - v.values.mean(axis=0)
        numbers = g.values * centered / np.sqrt((centered**2).mean(axis=0) + epsilon)
        s.formula = lambda feeds: [feeds["x"] @ numbers]
        return (Truth("WeightStandardization", (0,), epsilon, gain=g.values, function=lambda x: x @ numbers),)

    return recipe


def _spectral_norm(s: Sketch) -> Truths:
    """x · Wᵀ/(uᵀWv), with u and v frozen."""
    x, w = s.input("x", "B,12"), s.drawn("w", [8, 12], mean=0.1)
    u, v = s.drawn("u", [1, 8]), s.drawn("v", [12, 1])
    sigma = s("MatMul", u.name, s("MatMul", w.name, v.name))
    weight = s("Transpose", s("Div", w.name, sigma), perm=[1, 0])
    s.output(s("MatMul", x, weight), "B,8")
    numbers = (w.values / (u.values @ w.values @ v.values)).T
    s.formula = lambda feeds: [feeds["x"] @ numbers]
    return (Truth("SpectralNorm", (0, 1), function=lambda x: x @ numbers),)
