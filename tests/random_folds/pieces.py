"""What pieces have in common: their type, where they do not fit, and constants that broadcast against a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.random_folds.draft import Draft, Unfit, Value

Piece = Callable[[Draft, Value], Value]
Attributes = dict[str, object]


def require(condition: object) -> None:
    """Raise `Unfit` unless the condition holds."""
    if not condition:
        raise Unfit("not here")


def shuffled(g: Draft, values: Sequence[Value]) -> list[Value]:
    """The operands of something that commutes."""
    return list(values) if g.maybe(0.5) else list(values)[::-1]


def divisors(number: int) -> list[int]:
    return [count for count in range(1, number + 1) if number % count == 0]


def same_shape(left: Value, right: Value) -> bool:
    """Whether two values have the same sizes under both bindings."""
    return all(a.shape == b.shape for a, b in zip(left.arrays, right.arrays, strict=True))


def beside(g: Draft, v: Value, kind: str | None = None, *, widen: bool = False) -> Value:
    """A constant that broadcasts against `v`: along one axis, some, all or none of them, of its rank or a lower one."""
    static = [axis for axis in range(v.rank) if v.sizes[axis] not in (None, 1)]
    how = g.random.choice(["one", "one", "one", "scalar", "some", "none"])
    along = [g.random.choice(static)] if static and how == "one" else []
    if how == "some":
        along = [axis for axis in static if g.maybe(0.6)]
    shape = [v.size(axis) if axis in along else 1 for axis in range(v.rank)]
    if widen and g.maybe(0.15) and 1 in v.sizes:
        shape[v.sizes.index(1)] = g.random.choice([2, 3])
    if how == "scalar":
        shape = []
    while shape and shape[0] == 1 and g.maybe(0.5):
        shape.pop(0)
    return g.constant(shape, kind or g.random.choice(["any", "positive", "mixed", "zeros", "zero", "one", "uniform"]))


def along(g: Draft, v: Value, axis: int, kind: str) -> Value:
    """A constant along one axis of `v`, of its rank or a lower one."""
    shape = [v.size(axis) if place == axis else 1 for place in range(v.rank)]
    while len(shape) > 1 and shape[0] == 1 and g.maybe(0.6):
        shape.pop(0)
    return g.constant(shape, kind)


def biased(g: Draft, v: Value) -> Value:
    """`v` and a bias along its last axis, or as it is."""
    return g.node("Add", v, along(g, v, v.rank - 1, "any")) if g.maybe(0.4) else v


def number(g: Draft, item: float) -> Value:
    """A constant of one number that stands in the text."""
    name = g.name("d")
    g.constants[name] = f"double {name} = {{{item!r}}}"
    array = np.asarray(item)
    return Value(name, (array, array))


def of_rank(g: Draft, v: Value, rank: int) -> Value:
    """`v` with its last axes merged, or with more of size 1."""
    if v.rank > rank:
        merged = [v.size(axis) for axis in range(rank - 1, v.rank)]
        require(all(merged))
        return g.node("Reshape", v, g.integers([*[0] * (rank - 1), int(np.prod(merged))]))
    return g.node("Unsqueeze", v, g.integers(list(range(v.rank, rank)))) if v.rank < rank else v


def reduced(g: Draft, op: str, v: Value, axes: Sequence[int], **more: object) -> Value:
    """A reduction over `axes`, which are an attribute or an input."""
    if op == "ReduceSum" or g.opset >= 18:
        return g.node(op, v, g.integers(list(axes)), **more)
    return g.node(op, v, axes=list(axes), **more)
