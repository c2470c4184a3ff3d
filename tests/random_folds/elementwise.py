"""Element by element: arithmetic, choices, casts, and what bends."""

from __future__ import annotations

from collections.abc import Sequence

from tests.random_folds.draft import Draft, Value
from tests.random_folds.norms import alike
from tests.random_folds.pieces import Piece, beside, number, reduced, shuffled


def operand(g: Draft, v: Value, kind: str | None = None) -> Value:
    """What may stand beside `v`: a constant, another value of its sizes, or one that is broadcast."""
    way = g.random.choice(["constant", "constant", "alike", "alike", "reduced", "self", "lower"])
    if way == "alike":
        return alike(g, v)
    if way == "self":
        return v
    if way == "reduced":
        axis = g.random.randrange(v.rank)
        return reduced(g, "ReduceMean", v, [axis], keepdims=1)
    if way == "lower" and v.rank > 1:
        return g.node("Tanh", reduced(g, "ReduceMean", v, [0], keepdims=0))
    return beside(g, v, kind, widen=True)


def binary(op: str) -> Piece:
    def piece(g: Draft, v: Value) -> Value:
        if op == "Div":
            return g.node("Div", v, beside(g, v, g.random.choice(["mixed", "positive", "uniform"]), widen=True))
        return g.node(op, *shuffled(g, [v, operand(g, v)]))

    return piece


def several(op: str) -> Piece:
    def piece(g: Draft, v: Value) -> Value:
        operands = [v, *(operand(g, v) for _ in range(g.random.randint(0, 2)))]
        return g.node(op, *g.random.sample(operands, len(operands)))

    return piece


def where(g: Draft, v: Value) -> Value:
    dims = [size if size is not None and g.maybe(0.5) else 1 for size in v.sizes]
    mask = g.input(dims, "bool") if g.maybe(0.6) else g.booleans(dims)
    return g.node("Where", mask, *shuffled(g, [v, operand(g, v)]))


def alone(op: str, **choices: Sequence[object]) -> Piece:
    def piece(g: Draft, v: Value) -> Value:
        return g.node(op, v, **{name: g.random.choice(given) for name, given in choices.items() if g.maybe(0.8)})

    return piece


def cast(g: Draft, v: Value) -> Value:
    return g.node("Cast", v, to=11)


def along_axis(op: str) -> Piece:
    def piece(g: Draft, v: Value) -> Value:
        return g.node(op, v, axis=g.random.randrange(-v.rank, v.rank))

    return piece


def prelu(g: Draft, v: Value) -> Value:
    return g.node("PRelu", v, beside(g, v, g.random.choice(["any", "positive", "negative", "uniform"])))


BOUNDS = ((0.0, None), (0.0, 6.0), (-1.0, 1.0), (None, 0.0), (0.5, 2.0), (None, 1.5), (None, None), (-0.5, 0.0))


def clip(g: Draft, v: Value) -> Value:
    bounds = g.random.choice(BOUNDS)
    return g.node("Clip", v, *(None if bound is None else number(g, bound) for bound in bounds))
