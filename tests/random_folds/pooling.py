"""Pools and reductions."""

from __future__ import annotations

from tests.random_folds.draft import Draft, Value
from tests.random_folds.pieces import Attributes, Piece, reduced, require
from tests.random_folds.weights import windows


def pool(op: str) -> Piece:
    def piece(g: Draft, v: Value) -> Value:
        require(3 <= v.rank <= 5)
        count = v.rank - 2
        more = windows(g, count, widest=1)
        if op == "AveragePool" and g.opset < 19:
            more.pop("dilations", None)
        more["kernel_shape"] = [g.random.choice([2, 2, 3]) for _ in range(count)]  # wider than its padding
        if g.maybe(0.3) and "auto_pad" not in more:
            more["ceil_mode"] = 1
            more.pop("pads", None)  # onnx's shape inference counts a last window that would begin in the padding
        if op == "AveragePool" and g.maybe(0.5):
            more["count_include_pad"] = 1
        made = g.nodes(op, 2 if op == "MaxPool" and g.maybe(0.2) else 1, v, **more)
        if len(made) > 1:
            g.values.append(g.node("Cast", made[1], to=11))
        return made[0]

    return piece


def everywhere(op: str) -> Piece:
    def piece(g: Draft, v: Value) -> Value:
        require(v.rank >= 3)
        return g.node(op, v)

    return piece


def reduction(op: str) -> Piece:
    def piece(g: Draft, v: Value) -> Value:
        more: Attributes = {"keepdims": g.random.randint(0, 1)} if g.maybe(0.7) else {}
        if g.maybe(0.1):
            return g.node(op, v, **more)
        axes = g.random.sample(range(v.rank), g.random.randint(1, min(2, v.rank)))
        require(len(axes) < v.rank)
        if g.maybe(0.3):
            axes = [axis - v.rank for axis in axes]
        return reduced(g, op, v, axes, **more)

    return piece
