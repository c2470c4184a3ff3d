"""Mutations: one slip each, of the kind that leaves something that looks like a norm. Some leave a norm, after all."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tests.random_non_norms.graph import Graph

NUMBERS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, -0.5, -1.0, -2.0, 1e-12, 1e-5, 1e-3, 0.1, 12.0, 11.0, 1 / 11)
THRESHOLDS = (1e-12, 1e-6, 1e-3, 0.1, 1.0, 3.0, 1e2, 1e4, 65504.0, 1e8, 1e20)
REDUCTIONS = (
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
    "ReduceProd",
)
INSTEAD = {
    "Add": ("Max", "Sub", "Mul", "Min"),
    "Sub": ("Add", "Max", "Div", "Min"),
    "Mul": ("Add", "Div", "Max", "Sub"),
    "Div": ("Mul", "Sub", "Min"),
    "Sqrt": ("Reciprocal", "Abs", "Exp", "Identity", "Log"),
    "Reciprocal": ("Neg", "Sqrt", "Exp"),
    "Neg": ("Abs", "Identity"),
    "ReduceSum": ("ReduceSum",),
    "Max": ("Min", "Add"),
}
UNARY = ("Abs", "Neg", "Relu", "Exp", "Tanh", "Sigmoid", "Floor", "Sqrt", "Sign", "Softplus", "Erf")


class Unfit(Exception):
    """There is nothing of the kind to change."""


Mutation = Callable[[Graph, random.Random], None]


def _chosen(g: Graph, source: random.Random, *ops: str) -> int:
    places = [place for place, node in enumerate(g.nodes) if not ops or node.op in ops]
    if not places:
        raise Unfit
    return source.choice(places)


def _floats(g: Graph, place: int) -> list[int]:
    """Which inputs of a node are floats: neither axes nor shapes."""
    node = g.nodes[place]
    return [
        slot
        for slot, name in enumerate(node.inputs)
        if name not in g.constants or g.constants[name].dtype == np.float64
    ]


def _read(g: Graph, place: int, slot: int, name: str) -> None:
    inputs = list(g.nodes[place].inputs)
    inputs[slot] = name
    g.nodes[place] = replace(g.nodes[place], inputs=tuple(inputs))


def _inserted(g: Graph, place: int, make: Callable[[str], str]) -> None:
    """Put what `make` makes of an input of the node before it."""
    later, g.nodes = g.nodes[place:], g.nodes[:place]
    made = make(later[0].inputs[0])
    g.nodes += [replace(later[0], inputs=(made, *later[0].inputs[1:])), *later[1:]]


# --- operands and numbers -------------------------------------------------------------------------------------------


def swapped_operands(g: Graph, source: random.Random) -> None:
    place = _chosen(g, source, "Sub", "Div", "Pow")
    g.nodes[place] = replace(g.nodes[place], inputs=g.nodes[place].inputs[::-1])


def another_operand(g: Graph, source: random.Random) -> None:
    place = _chosen(g, source)
    before = ["x", *g.inputs, *(node.output for node in g.nodes[:place])]
    _read(g, place, source.choice(_floats(g, place)), source.choice(before))


def another_number(g: Graph, source: random.Random) -> None:
    names = [name for name, array in g.constants.items() if array.dtype == np.float64 and array.size == 1]
    if not names:
        raise Unfit
    name = source.choice(names)
    g.constants[name] = np.full_like(g.constants[name], source.choice(NUMBERS))


def wrong_count(g: Graph, source: random.Random) -> None:
    """A number that is near to the right one: N − 1, N + 1, twice, half."""
    names = [name for name, array in g.constants.items() if array.dtype == np.float64 and array.all()]
    if not names:
        raise Unfit
    name = source.choice(names)
    array = g.constants[name]
    g.constants[name] = source.choice(
        [array - 1, array + 1, array * 2, array / 2, array * 1.001, -array, 1 / (1 / array + 1)]
    )


def vector_for_number(g: Graph, source: random.Random) -> None:
    """ε, an exponent, a count as a vector."""
    names = [name for name, array in g.constants.items() if array.dtype == np.float64 and array.size == 1]
    if not names:
        raise Unfit
    name, size = source.choice(names), source.choice([dim for dim in g.dims if isinstance(dim, int)])
    shape = source.choice([(size,), (size, 1), (size, 1, 1)])
    spread = source.choice([0.0, 1e-3, 0.5])
    noise = np.random.default_rng(source.randrange(1 << 32)).uniform(1 - spread, 1 + spread, shape)
    g.constants[name] = g.constants[name].reshape(()) * noise


def turned_parameter(g: Graph, source: random.Random) -> None:
    """A gain along another axis, or of another rank."""
    names = [name for name, array in g.constants.items() if array.dtype == np.float64 and array.size > 1]
    if not names:
        raise Unfit
    name = source.choice(names)
    array = g.constants[name]
    sizes = [dim for dim in g.dims if isinstance(dim, int)]
    g.constants[name] = source.choice([array[..., None], array[None], array.T, np.resize(array, source.choice(sizes))])


# --- reductions -----------------------------------------------------------------------------------------------------


def another_axis(g: Graph, source: random.Random) -> None:
    place = _chosen(g, source, *REDUCTIONS, "ReduceSum")
    count = len(g.dims)
    axes = sorted(source.sample(range(count), source.randint(1, min(2, count))))
    node = g.nodes[place]
    if node.op == "ReduceSum":
        _read(g, place, 1, g.integers(axes))
    else:
        g.nodes[place] = replace(node, attributes={**node.attributes, "axes": axes})


def another_reduction(g: Graph, source: random.Random) -> None:
    place = _chosen(g, source, *REDUCTIONS)
    g.nodes[place] = replace(g.nodes[place], op=source.choice(REDUCTIONS))


def dropped_axis(g: Graph, source: random.Random) -> None:
    place = _chosen(g, source, *REDUCTIONS, "ReduceSum")
    g.nodes[place] = replace(g.nodes[place], attributes={**g.nodes[place].attributes, "keepdims": 0})


def partial_statistics(g: Graph, source: random.Random) -> None:
    """A statistic of a part of its axis, or of every second element."""
    place = _chosen(g, source, *REDUCTIONS, "ReduceSum")
    axis = source.randrange(len(g.dims))
    start, end, step = source.choice([(0, 3, 1), (0, -1, 1), (1, 1 << 31, 1), (0, 1 << 31, 2), (0, 6, 1)])
    parts = [g.integers([number]) for number in (start, end, axis, step)]
    _inserted(g, place, lambda value: g.node("Slice", value, *parts))


def masked_mean(g: Graph, source: random.Random) -> None:
    place = _chosen(g, source, "ReduceMean", "ReduceSum")
    if "mask" not in g.inputs:
        g.inputs["mask"] = source.choice([list(g.dims), [*g.dims[:-1], 1], [1]])
    _inserted(g, place, lambda value: g.node("Mul", value, "mask"))


def cumulative(g: Graph, source: random.Random) -> None:
    place = _chosen(g, source)
    axis = g.integers(source.randrange(len(g.dims)))
    _inserted(g, place, lambda value: g.node("CumSum", value, axis))


def shuffled(g: Graph, source: random.Random) -> None:
    """The elements of the last axis in another order before one operator, and not put back."""
    place, size = _chosen(g, source), g.dims[-1]
    if not isinstance(size, int):
        raise Unfit
    way = source.randrange(3)
    if way == 0:
        order = g.integers(source.sample(range(size), size))
        _inserted(g, place, lambda value: g.node("Gather", value, order, axis=-1))
        return
    lead = [0] * (len(g.dims) - 1)
    split, back = g.integers([*lead, size // 2, 2]), g.integers([*lead, size])
    permutation = [*range(len(lead)), len(lead) + 1, len(lead)] if way == 1 else list(range(len(lead) + 2))

    def shuffle(value: str) -> str:
        cut = g.node("Transpose", g.node("Reshape", value, split), perm=permutation)
        return g.node("Reshape", cut, back)

    _inserted(g, place, shuffle)


def turned(g: Graph, source: random.Random) -> None:
    """The axes in another order before one operator."""
    place, permutation = _chosen(g, source), list(range(len(g.dims)))
    source.shuffle(permutation)
    _inserted(g, place, lambda value: g.node("Transpose", value, perm=permutation))


# --- operators ------------------------------------------------------------------------------------------------------


def another_operator(g: Graph, source: random.Random) -> None:
    place = _chosen(g, source, *INSTEAD)
    g.nodes[place] = replace(g.nodes[place], op=source.choice(INSTEAD[g.nodes[place].op]))


def extra_operator(g: Graph, source: random.Random) -> None:
    place, op = _chosen(g, source), source.choice(UNARY)
    _inserted(g, place, lambda value: g.node(op, value))


def left_out(g: Graph, source: random.Random) -> None:
    """A node less: who read it reads its first input."""
    gone = g.nodes[_chosen(g, source)]
    if gone.output in g.outputs and gone.inputs[0] in g.constants:
        raise Unfit
    g.nodes.remove(gone)
    g.nodes = [
        replace(node, inputs=tuple(gone.inputs[0] if name == gone.output else name for name in node.inputs))
        for node in g.nodes
    ]
    g.outputs = [gone.inputs[0] if name == gone.output else name for name in g.outputs]


def bounded(g: Graph, source: random.Random) -> None:
    """A bound that bites somewhere, or nowhere."""
    place, limit = _chosen(g, source), source.choice(THRESHOLDS) * source.choice([1, 1, -1])
    bound, way = g.number(limit), source.randrange(5)

    def bend(value: str) -> str:
        if way == 0:
            low, high = sorted([limit, source.choice([-limit, 0.0, source.choice(THRESHOLDS)])])
            return g.node("Clip", value, g.number(low), g.number(high))
        if way in (1, 2):
            return g.node(("Min", "Max")[way - 1], value, bound)
        condition = g.node(source.choice(["Greater", "Less", "GreaterOrEqual", "LessOrEqual"]), value, bound)
        other = source.choice([bound, g.number(0.0), "x" if way == 3 else g.node("Neg", value)])
        return g.node("Where", condition, value, other)

    _inserted(g, place, bend)


def through_another_type(g: Graph, source: random.Random) -> None:
    place, to = _chosen(g, source), source.choice(["int64", "bool", "float8", "float16", "float", "bfloat16"])
    _inserted(g, place, lambda value: g.node("Cast", g.node("Cast", value, to=to), to="own"))


def by_position(g: Graph, source: random.Random) -> None:
    """Something else for some of the elements."""
    size = g.dims[-1]
    place = _chosen(g, source)
    if not isinstance(size, int):
        raise Unfit
    mask = np.asarray([source.random() < 0.5 for _ in range(size)])
    g.constants[(name := g.name("b"))] = mask
    other = source.choice(["x", g.number(source.choice(NUMBERS))])
    _inserted(g, place, lambda value: g.node("Where", name, value, other))


# --- values ---------------------------------------------------------------------------------------------------------


def another_input(g: Graph, source: random.Random) -> None:
    """A second x in the place of the first."""
    places = [
        (place, slot) for place, node in enumerate(g.nodes) for slot, name in enumerate(node.inputs) if name == "x"
    ]
    if not places:
        raise Unfit
    g.inputs.setdefault("x2", list(g.dims))
    _read(g, *source.choice(places), "x2")


def runtime_value(g: Graph, source: random.Random) -> None:
    """A run-time value in the middle."""
    place, op = _chosen(g, source), source.choice(["Add", "Mul", "Sub", "Div"])
    dims = source.choice([list(g.dims), [1], [*g.dims[:-1], 1], [g.dims[-1]]])
    g.inputs.setdefault("r", dims)
    _inserted(g, place, lambda value: g.node(op, value, "r"))


def epsilon_moved(g: Graph, source: random.Random) -> None:
    """Something added in another place."""
    place, number = _chosen(g, source), g.number(source.choice([1e-12, 1e-5, 1e-3, 0.1]))
    _inserted(g, place, lambda value: g.node("Add", value, number))


def added_value(g: Graph, source: random.Random) -> None:
    """A value that was there before, added or multiplied in the middle."""
    place = _chosen(g, source)
    before = ["x", *(node.output for node in g.nodes[:place])]
    op, other = source.choice(["Add", "Mul", "Sub", "Max"]), source.choice(before)
    _inserted(g, place, lambda value: g.node(op, value, other))


MUTATIONS: Sequence[Mutation] = (
    *(swapped_operands, another_operand, another_number, wrong_count, vector_for_number, turned_parameter),
    *(another_axis, another_reduction, dropped_axis, partial_statistics, masked_mean, cumulative, shuffled, turned),
    *(another_operator, extra_operator, left_out, bounded, through_another_type, by_position),
    *(another_input, runtime_value, epsilon_moved, added_value, bounded, another_number),
)


def mutated(g: Graph, source: random.Random) -> list[str]:
    """Change the graph in one to three places; the names of the mutations that could be made."""
    done: list[str] = []
    for _ in range(source.choice([1, 1, 1, 2, 3])):
        mutation = source.choice(MUTATIONS)
        before = list(g.nodes)
        try:
            mutation(g, source)
        except Unfit:
            g.nodes = before
        else:
            done.append(mutation.__name__)
        if not g.nodes:
            g.nodes = before
    return done
