"""Correct norms, each part in a random one of its spellings: the material for mutations, and the control."""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import copy

import numpy as np

from tests.random_non_norms.graph import Graph

# Dims of x, and sets of axes that a norm over them may have.
PLACES: tuple[tuple[tuple[int | str, ...], tuple[tuple[int, ...], ...]], ...] = (
    (("B", "T", 12), ((2,), (2,), (2,))),
    (("B", 6, 10), ((2,), (1, 2))),
    (("B", 6, "T"), ((1,),)),
    (("B", 6, 4, 4), ((1,), (2, 3), (1, 2, 3), (3,))),
    (("B", 8), ((1,),)),
)
EPSILONS = (1e-5, 1e-6, 1e-12, 1e-3, 0.1, 0.0)
DTYPES = ("double",) * 6 + ("float", "float", "float16", "bfloat16")


class Speller:
    """Writes parts of a norm into a graph."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.numbers = np.random.default_rng(source.randrange(1 << 32))
        dims, sets = source.choice(PLACES)
        self.graph = Graph(source.choice(DTYPES), dims)
        self.axes: tuple[int, ...] = source.choice(sets)
        self.rank = len(dims)
        sizes = [dims[axis] for axis in self.axes]
        self.size = int(np.prod([size for size in sizes if isinstance(size, int)]))

    def maybe(self, chance: float) -> bool:
        """Whether, with this chance."""
        return self.random.random() < chance

    def binary(self, op: str, one: str, other: str) -> str:
        """A commutative operator, its operands in either order."""
        return self.graph.node(op, *((one, other) if self.maybe(0.5) else (other, one)))

    def reduced(self, op: str, value: str) -> str:
        """A reduction over the axes, which are written in one of their ways."""
        axes = [axis - self.rank if self.maybe(0.5) else axis for axis in self.axes]
        if op == "ReduceSum":
            return self.graph.node(op, value, self.graph.integers(axes))
        if self.maybe(0.1):
            flat = self.graph.node(op, value, axes=axes, keepdims=0)
            return self.graph.node("Unsqueeze", flat, self.graph.integers(sorted(axis % self.rank for axis in axes)))
        return self.graph.node(op, value, axes=axes)

    def mean(self, value: str) -> str:
        """The mean of each group."""
        g = self.graph
        match self.random.randrange(8):
            case 0:
                return self.binary("Mul", self.reduced("ReduceSum", value), g.number(1 / self.size, inverse=True))
            case 1:
                return g.node("Div", self.reduced("ReduceSum", value), g.number(self.size))
            case 2 if self.axes == (self.rank - 1,):
                column = np.full((self.size, 1), 1 / self.size)
                return g.node("MatMul", value, g.number(column, inverse=True))
            case 3:
                return self.reduced("ReduceSum", g.node("Div", value, g.number(self.size)))
        return self.reduced("ReduceMean", value)

    def square(self, value: str) -> str:
        """The square of each element."""
        if self.maybe(0.5):
            return self.graph.node("Pow", value, self.graph.number(2.0))
        return self.graph.node("Mul", value, value)

    def mean_square(self, value: str) -> str:
        """The mean of squares of each group."""
        g = self.graph
        match self.random.randrange(8):
            case 0:
                total = g.node("ReduceSumSquare", value, axes=list(self.axes))
                return self.binary("Mul", total, g.number(1 / self.size, inverse=True))
            case 1:
                root = g.node("ReduceL2", value, axes=list(self.axes))
                return g.node("Div", self.square(root), g.number(self.size))
        return self.mean(self.square(value))

    def quotient(self, value: str, square: str, epsilon: float) -> str:
        """`value` over the root of `square` + ε."""
        g = self.graph
        sheltered = square if epsilon == 0.0 and self.maybe(0.7) else self.binary("Add", square, g.number(epsilon))
        match self.random.randrange(6):
            case 0:
                return g.node("Div", value, g.node("Pow", sheltered, g.number(0.5)))
            case 1:
                return self.binary("Mul", value, g.node("Pow", sheltered, g.number(-0.5)))
            case 2:
                return self.binary("Mul", value, g.node("Reciprocal", g.node("Sqrt", sheltered)))
            case 3:
                return self.binary("Mul", value, g.node("Div", g.number(1.0), g.node("Sqrt", sheltered)))
            case 4:
                return self.binary("Mul", value, g.node("Sqrt", g.node("Reciprocal", sheltered)))
        return g.node("Div", value, g.node("Sqrt", sheltered))

    def parameter(self) -> str:
        """A constant that broadcasts against x: a number, or a vector along some of its axes."""
        if self.maybe(0.15):
            return self.graph.number(self.numbers.normal(1, 0.5))
        along = self.axes if self.maybe(0.7) else (1,)
        dims: Sequence[int | str] = self.graph.dims
        shape = [int(dim) if axis in along and isinstance(dim, int) else 1 for axis, dim in enumerate(dims)]
        while shape[0] == 1 and len(shape) > 1 and self.maybe(0.7):
            del shape[0]
        return self.graph.number(self.numbers.normal(1, 0.5, shape))

    def affine(self, value: str) -> str:
        """The value with a gain, then a bias, or without."""
        if self.maybe(0.75):
            value = self.binary("Mul", value, self.parameter())
        if self.maybe(0.5):
            value = self.binary("Add", value, self.parameter())
        return value


def layer_norm(s: Speller, x: str) -> str:
    """LayerNorm, also with the variance as a difference of squares, and as TensorFlow folds it."""
    g, epsilon = s.graph, s.random.choice(EPSILONS[:-1])
    mean = s.mean(x)
    centered = g.node("Sub", x, mean) if s.maybe(0.85) else s.binary("Add", x, g.node("Neg", mean))
    way = s.random.randrange(8)
    if way == 0:
        difference = g.node("Sub", s.mean_square(x), s.square(mean))
        guarded = g.node("Max", difference, g.number(0.0)) if s.maybe(0.5) else difference
        return s.affine(s.quotient(centered, guarded, epsilon))
    again = g.node("Sub", x, s.mean(x)) if s.maybe(0.2) else centered
    square = s.mean_square(again)
    if way == 1:
        root = g.node("Reciprocal", g.node("Sqrt", s.binary("Add", square, g.number(epsilon))))
        factor = s.binary("Mul", root, s.parameter())
        shift = g.node("Sub", s.parameter(), s.binary("Mul", mean, factor))
        return s.binary("Add", s.binary("Mul", x, factor), shift)
    return s.affine(s.quotient(centered, square, epsilon))


def rms_norm(s: Speller, x: str) -> str:
    """RMSNorm, now and then with casts around its statistics."""
    epsilon = s.random.choice(EPSILONS)
    if s.maybe(0.2):
        wide = s.graph.node("Cast", x, to="float" if s.graph.dtype in ("float16", "bfloat16") else "own")
        # constants of the graph are of its own type, so that only what has none stays in the wide one
        root = s.graph.node("Cast", s.reduced("ReduceMean", s.graph.node("Mul", wide, wide)), to="own")
        return s.affine(s.quotient(x, root, epsilon))
    return s.affine(s.quotient(x, s.mean_square(x), epsilon))


def l2_norm(s: Speller, x: str) -> str:
    """x over its length, with a floor or without."""
    g = s.graph
    length = g.node("ReduceL2", x, axes=list(s.axes))
    if s.maybe(0.5):
        length = g.node("Max", length, g.number(1e-12))
    return s.affine(g.node("Div", x, length))


def group_norm(s: Speller, x: str) -> str:
    """GroupNorm, as a LayerNorm over rows of a reshaped value."""
    g = s.graph
    channels = g.dims[1]
    if len(g.dims) != 4 or not isinstance(channels, int):
        return layer_norm(s, x)
    groups = s.random.choice([group for group in range(1, channels + 1) if channels % group == 0])
    inner = copy(s)
    inner.rank, inner.axes, inner.size = 3, (2,), channels // groups * 16
    rows = g.node("Reshape", x, g.integers([0, groups, -1]))
    epsilon = s.random.choice(EPSILONS[:-1])
    centered = g.node("Sub", rows, inner.mean(rows))
    normed = inner.quotient(centered, inner.mean_square(centered), epsilon)
    target = g.node("Shape", x) if s.maybe(0.5) else g.integers([0, *[int(dim) for dim in g.dims[1:]]])
    back = g.node("Reshape", normed, target)
    s.axes = (1,)
    return s.affine(back)


NORMS = (layer_norm, layer_norm, layer_norm, rms_norm, rms_norm, l2_norm, group_norm)


def spelled(source: random.Random) -> Graph:
    """A graph that is one norm and nothing else."""
    speller = Speller(source)
    way = source.choice(NORMS)
    speller.graph.outputs = [way(speller, "x")]
    speller.graph.spelled = way.__name__
    return speller.graph
