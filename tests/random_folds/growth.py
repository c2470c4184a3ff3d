"""How a graph grows: a few pieces one behind the other, with norms above and below."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tests.random_folds.bodies import BODIES
from tests.random_folds.draft import IR_VERSIONS, Draft, Unfit, Value
from tests.random_folds.norms import norm
from tests.random_folds.pieces import Piece
from tests.random_folds.table import TABLE
from tests.random_folds.weights import conv, gemm, matmul

SYMBOLS = ("N", "T", "H", "W")
STATIC = (1, 2, 3, 4, 4, 6, 8)
PIECES = (1, 6)
TRIES = 6
RECENT = 3
WEIGHTS: Sequence[Piece] = (conv, matmul, gemm)


@dataclass(frozen=True)
class Drawn:
    """A graph, as text, and with which options it is converted."""

    text: str
    options: Mapping[str, bool]
    targets: tuple[str, ...]

    def __str__(self) -> str:
        return f"# to {', '.join(self.targets)} {dict(self.options) or ''}\n{self.text}"


def drawn(source: random.Random) -> Drawn:
    """A random graph, with at least one norm."""
    while True:
        g = Draft(source, source.choice(sorted(IR_VERSIONS)))
        try:
            outputs = _grow(g)
        except Unfit:
            continue
        if g.norms and len(outputs):
            break
    targets = ("folded", "rmsnorm") if g.maybe(0.15) else ("folded",)
    return Drawn(g.text(outputs), {"allow_larger": True} if g.maybe(0.25) else {}, targets)


def _grow(g: Draft) -> list[Value]:
    for _ in range(g.random.choice([1, 1, 2])):
        rank = g.random.choice([2, 3, 3, 4, 4, 5])
        dims = [g.random.choice(SYMBOLS) if g.maybe(0.15 if axis == 1 else 0.3) else _static(g) for axis in range(rank)]
        g.values.append(g.input(dims))
    for _ in range(g.random.randint(*PIECES)):
        v = g.random.choice(g.values[-RECENT:])
        if g.maybe(0.35):
            v = _attempted(g, v, WEIGHTS)
        if g.maybe(0.5):
            v = _attempted(g, v, (norm,))
        table = BODIES if g.maybe(0.07) else TABLE
        v = _attempted(g, v, tuple(table.values()))
        if g.maybe(0.6):
            v = _attempted(g, v, (norm,))
    if g.maybe(0.3):
        _attempted(g, g.values[-1], WEIGHTS)
    outputs = [g.values[-1], *(value for value in g.values[:-1] if g.maybe(0.07))]
    made = {name for line in g.lines for name in line.outputs}
    return [value for value in dict.fromkeys(outputs) if value.name in made]


def _static(g: Draft) -> int:
    return g.random.choice(STATIC)


def _attempted(g: Draft, v: Value, pieces: Sequence[Piece]) -> Value:
    """The result of one of the pieces on `v`, which becomes a value of the graph; `v` where none fits."""
    for _ in range(TRIES):
        try:
            with g.attempt():
                made = g.random.choice(pieces)(g, v)
                if made.rank < 1 or made.rank > 5 or not all(np.isfinite(array).all() for array in made.arrays):
                    raise Unfit("a scalar, or not finite")
                g.values.append(made)
                return made
        except Unfit:  # noqa: PERF203  # what does not fit is drawn again
            continue
    return v
