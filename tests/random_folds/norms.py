"""Constant normalizations in their spellings, and what may stand beside a value in a sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.random_folds.draft import Draft, Unfit, Value
from tests.random_folds.pieces import (
    Attributes,
    Piece,
    along,
    beside,
    biased,
    divisors,
    reduced,
    require,
    same_shape,
    shuffled,
)

GAINS = ("positive", "positive", "mixed", "any", "zeros", "uniform", "negative", "one")


SHIFTS = ("any", "any", "zero", "uniform", "zeros")


def batch_norm(g: Draft, v: Value) -> Value:
    require(v.rank >= 2)
    size = [v.size(1)]
    gain, shift = g.random.choice(GAINS), g.random.choice(SHIFTS)
    parameters = [g.constant(size, kind) for kind in (gain, shift, g.random.choice(SHIFTS), "variance")]
    extra: Attributes = {"epsilon": 0.001} if g.maybe(0.3) else {}
    return g.node("BatchNormalization", v, *parameters, **extra)


def arithmetic(g: Draft, v: Value) -> Value:
    """A chain of constant products and sums along one axis."""
    static = [axis for axis in range(v.rank) if v.sizes[axis] not in (None, 1)]
    require(static)
    axis = 1 if 1 in static and g.maybe(0.5) else g.random.choice(static)
    for _ in range(g.random.randint(1, 4)):
        op = g.random.choice(["Mul", "Add", "Sub", "Div"])
        kind = "mixed" if op == "Div" else g.random.choice(GAINS if op == "Mul" else SHIFTS)
        constant = g.constant([], kind) if g.maybe(0.15) else along(g, v, axis, kind)
        v = g.node(op, constant, v) if op != "Div" and g.maybe(0.3) else g.node(op, v, constant)
    return v


def rep_bn(g: Draft, v: Value) -> Value:
    """BN(x) + η·x."""
    line = g.node("Mul", v, g.constant([], "any")) if g.maybe(0.7) else v
    return g.node("Add", *shuffled(g, [batch_norm(g, v), line]))


def skip_init(g: Draft, v: Value) -> Value:
    """x + α·f(x), or a LayerScale."""
    branch = g.random.choice([matmul_square, convolution_same])(g, v)
    if g.maybe(0.3):
        branch = g.node("Relu", branch)
    factor = g.constant([], g.random.choice(["any", "zero"])) if g.maybe(0.5) else beside(g, branch)
    scaled = g.node("Mul", *shuffled(g, [branch, factor]))
    require(same_shape(scaled, v))
    return g.node("Add", *shuffled(g, [v, scaled]))


def layer_norm(g: Draft, v: Value) -> Value:
    count = 1 if g.maybe(0.75) else min(2, v.rank)
    shape = [v.size(axis) for axis in range(v.rank - count, v.rank)]
    require(max(shape) > 1)
    bias = g.constant(shape, g.random.choice(SHIFTS)) if g.maybe(0.7) else None
    return g.node("LayerNormalization", v, g.constant(shape, g.random.choice(GAINS)), bias, axis=-count)


def rms_norm(g: Draft, v: Value) -> Value:
    """RMSNormalization, onnxruntime's operator for it, or the chain."""
    size = v.size(v.rank - 1)
    require(size > 1)
    gain = g.constant([size], g.random.choice(GAINS))
    if g.opset >= 23 and g.maybe(0.6):
        return g.node("RMSNormalization", v, gain)
    if g.maybe(0.4):
        return g.node("com.microsoft.SimplifiedLayerNormalization", v, gain)
    square = g.node("Mul", v, v)
    mean = reduced(g, "ReduceMean", square, [v.rank - 1], keepdims=1)
    root = g.node("Sqrt", g.node("Add", mean, g.constant([], "positive")))
    return g.node("Mul", *shuffled(g, [g.node("Div", v, root), gain]))


def instance_norm(g: Draft, v: Value) -> Value:
    require(v.rank >= 3 and int(np.prod([v.least(axis) for axis in range(2, v.rank)])) > 1)
    size = [v.size(1)]
    return g.node("InstanceNormalization", v, g.constant(size, g.random.choice(GAINS)), g.constant(size))


def group_norm(g: Draft, v: Value) -> Value:
    require(v.rank >= 3 and g.opset >= 21 and int(np.prod([v.least(axis) for axis in range(2, v.rank)])) > 1)
    groups = g.random.choice(divisors(v.size(1)))
    size = [v.size(1)]
    gain = g.constant(size, g.random.choice(GAINS))
    return g.node("GroupNormalization", v, gain, g.constant(size), num_groups=groups)


NORMS: Sequence[tuple[float, Piece]] = (
    (10, batch_norm),
    (7, arithmetic),
    (2, rep_bn),
    (4, skip_init),
    (3, layer_norm),
    (2, rms_norm),
)


def norm(g: Draft, v: Value) -> Value:
    """A constant normalization of `v`."""
    weights = [weight for weight, _ in NORMS]
    piece = g.random.choices([piece for _, piece in NORMS], weights)[0]
    made = piece(g, v)
    g.norms += 1
    return made


def matmul_square(g: Draft, v: Value) -> Value:
    require(v.rank >= 2)
    size = v.size(v.rank - 1)
    return biased(g, g.node("MatMul", v, g.constant([size, size], "any")))


def convolution_same(g: Draft, v: Value) -> Value:
    require(3 <= v.rank <= 5)
    size, spatial = v.size(1), v.rank - 2
    weight = g.constant([size, size, *[3] * spatial], "any")
    bias = g.constant([size]) if g.maybe(0.5) else None
    return g.node("Conv", v, weight, bias, pads=[1] * 2 * spatial)


def alike(g: Draft, v: Value) -> Value:
    """Another value of the same sizes: one that is there, a new input, or the result of something per channel."""
    found = [value for value in g.values if value is not v and value.sizes == v.sizes and same_shape(value, v)]
    if found and g.maybe(0.8):
        return g.random.choice(found)
    way = g.random.randrange(4)
    if way == 0:
        return g.node(g.random.choice(["Tanh", "Relu", "Sigmoid"]), v)
    if way == 1:
        return norm(g, v)
    if way == 2:
        return g.node("Mul", v, beside(g, v, "mixed"))
    for weighted in (matmul_square, convolution_same):
        try:
            return weighted(g, v)
        except Unfit:  # noqa: PERF203  # the next one may
            continue
    return v
