"""Random expressions of 5 to 25 operators that a region may hold, around statistics of what is there."""

from __future__ import annotations

import random

import numpy as np

from tests.random_non_norms.graph import Graph
from tests.random_non_norms.spellings import DTYPES, PLACES

BINARY = ("Add", "Sub", "Mul", "Div", "Mul", "Sub", "Max", "Min", "Pow")
UNARY = ("Sqrt", "Reciprocal", "Neg", "Abs", "Exp", "Log", "Relu", "Identity")
STATISTICS = ("ReduceMean", "ReduceMean", "ReduceSumSquare", "ReduceL2", "ReduceSum")
NUMBERS = (2.0, 0.5, -0.5, 1.0, 1e-5, 1e-3, 3.0, -1.0, 0.0, 1 / 12)


def expression(source: random.Random) -> Graph:
    """A random graph that ends in a value which most of it leads to."""
    dims, _ = source.choice(PLACES)
    g, rank = Graph(source.choice(DTYPES), dims), len(dims)
    numbers = np.random.default_rng(source.randrange(1 << 32))
    axes = sorted(source.sample(range(rank), source.choice([1, 1, 1, 2])))
    wide, narrow, made = ["x"], [], []  # of x's shape, statistics, and what came last
    for step in range(source.randint(5, 25)):
        kind = source.random() if step else 1.0
        if kind < 0.2 or kind == 1.0:
            op, value = source.choice(STATISTICS), source.choice(wide[-3:])
            own = axes if source.random() < 0.9 else [source.randrange(rank)]
            made = [g.node(op, value, g.integers(own)) if op == "ReduceSum" else g.node(op, value, axes=own)]
            narrow += made
            continue
        pool = narrow if narrow and source.random() < 0.35 else wide
        value = source.choice(pool[-3:])
        if kind < 0.35:
            pool.append(g.node(source.choice(UNARY), value))
        elif kind < 0.55:
            size = dims[-1]
            vector = source.random() < 0.3 and isinstance(size, int) and pool is wide
            number = g.number(numbers.normal(1, 0.5, int(size)) if vector else source.choice(NUMBERS))
            pool.append(g.node(source.choice(BINARY), *source.sample([value, number], 2)))
        elif pool is narrow and source.random() < 0.5:
            pool.append(g.node(source.choice(BINARY), value, source.choice(narrow)))
        else:
            other = source.choice(narrow if narrow and source.random() < 0.6 else wide)
            wide.append(g.node(source.choice(BINARY), *source.sample([source.choice(wide[-3:]), other], 2)))
    g.outputs = [wide[-1] if len(wide) > 1 else g.nodes[-1].output]
    g.spelled = "expression"
    return g
