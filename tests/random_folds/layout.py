"""Operators that move elements, and those that look at shapes."""

from __future__ import annotations

import numpy as np

from tests.random_folds.draft import Draft, Value
from tests.random_folds.norms import alike
from tests.random_folds.pieces import Attributes, Piece, divisors, number, of_rank, require


def transpose(g: Draft, v: Value) -> Value:
    if g.maybe(0.15):
        return g.node("Transpose", v)
    last = g.maybe(0.5) and v.rank >= 3
    order = [0, *range(2, v.rank), 1] if last else g.random.sample(range(v.rank), v.rank)
    return g.node("Transpose", v, perm=order)


def reshape(g: Draft, v: Value) -> Value:
    """Axes merged, split, or only kept, written with -1 and 0 where they stand for a free size."""
    sizes = list(v.sizes)
    target: list[int | None] = list(sizes)
    way = g.random.choice(["merge", "split", "insert", "heads"])
    axis = g.random.randrange(v.rank)
    if way == "merge":
        require(axis + 1 < v.rank)
        pair = sizes[axis : axis + 2]
        target[axis : axis + 2] = [None if None in pair else (pair[0] or 1) * (pair[1] or 1)]
    elif way in ("split", "heads"):
        axis = v.rank - 1 if way == "heads" else axis
        size = v.size(axis)
        part = g.random.choice(divisors(size))
        target[axis : axis + 1] = [part, size // part]
    else:
        target.insert(axis, 1)
    free = [place for place, size in enumerate(target) if size is None]
    written = [size or 0 for size in target]
    kept = [
        place for place in free if place < v.rank and sizes[place] is None and target[: place + 1] == sizes[: place + 1]
    ]
    others = [place for place in free if place not in kept]
    require(len(others) <= 1)
    for place in others:
        written[place] = -1
    if not others and g.maybe(0.5):
        written[g.random.randrange(len(written))] = -1
    return g.node("Reshape", v, g.integers(written))


def flatten(g: Draft, v: Value) -> Value:
    return g.node("Flatten", v, axis=g.random.randint(0, v.rank))


def squeeze(g: Draft, v: Value) -> Value:
    ones = [axis for axis in range(v.rank) if v.sizes[axis] == 1]
    require(ones and v.rank > 1)
    return g.node("Squeeze", v, g.integers([g.random.choice(ones)]))


def unsqueeze(g: Draft, v: Value) -> Value:
    require(v.rank < 5)
    return g.node("Unsqueeze", v, g.integers([g.random.randrange(-v.rank - 1, v.rank + 1)]))


def slicing(g: Draft, v: Value) -> Value:
    axes = g.random.sample(range(v.rank), g.random.randint(1, min(2, v.rank)))
    starts, ends, steps = [], [], []
    for axis in axes:
        least = v.least(axis)
        if g.maybe(0.25):
            starts, ends, steps = [*starts, -1], [*ends, -100], [*steps, -1]
        else:
            start = g.random.randrange(least)
            starts, steps = [*starts, start], [*steps, g.random.choice([1, 1, 2])]
            ends.append(g.random.randint(start + 1, least) if g.maybe(0.6) else 1000)
    return g.node("Slice", v, *(g.integers(items) for items in (starts, ends, axes, steps)))


def split(g: Draft, v: Value) -> Value:
    axis = g.random.randrange(v.rank)
    size = v.size(axis)
    require(size >= 2)
    if g.maybe(0.5):
        at = g.random.randint(1, size - 1)
        parts = g.nodes("Split", 2, v, g.integers([at, size - at]), axis=axis)
    else:
        count = g.random.choice(divisors(size)[1:])
        more: Attributes = {"num_outputs": count} if g.opset >= 18 else {}
        parts = g.nodes("Split", count, v, axis=axis, **more)
    g.values += parts
    if g.maybe(0.4):
        return g.node("Concat", *g.random.sample(parts, len(parts)), axis=axis)
    return g.random.choice(parts)


def concat(g: Draft, v: Value) -> Value:
    axis = g.random.randrange(v.rank) if g.maybe(0.4) or v.rank < 2 else 1
    others = [alike(g, v) for _ in range(g.random.randint(0, 2))]
    if g.maybe(0.2):
        others.append(v)
    if g.maybe(0.2) and None not in v.sizes:
        others.append(g.constant([size or 1 for size in v.sizes]))
    operands = [v, *others]
    return g.node("Concat", *g.random.sample(operands, len(operands)), axis=axis)


def expand(g: Draft, v: Value) -> Value:
    target = [g.random.choice([1, 2, 3]) if size == 1 else 1 for size in v.sizes]
    if g.maybe(0.3) and v.rank < 5:
        target.insert(0, 2)
    return g.node("Expand", v, g.integers(target))


def tile(g: Draft, v: Value) -> Value:
    return g.node("Tile", v, g.integers([g.random.choice([1, 1, 2]) for _ in range(v.rank)]))


def depth_to_space(g: Draft, v: Value) -> Value:
    v = of_rank(g, v, 4)
    require(v.size(1) % 4 == 0)
    return g.node("DepthToSpace", v, blocksize=2, mode=g.random.choice(["DCR", "CRD"]))


def space_to_depth(g: Draft, v: Value) -> Value:
    v = of_rank(g, v, 4)
    if any(v.size(axis) % 2 for axis in (2, 3)):
        v = g.node("Expand", v, g.integers([1, 1, *(2 if v.size(axis) == 1 else 1 for axis in (2, 3))]))
    return g.node("SpaceToDepth", v, blocksize=2)


def pad(g: Draft, v: Value) -> Value:
    modes = ["constant", "constant", "edge", "reflect"] + (["wrap"] if g.opset >= 19 else [])
    mode = g.random.choice(modes)
    axes = g.random.sample(range(v.rank), g.random.randint(1, min(2, v.rank)))
    least = min(v.least(axis) for axis in axes)
    low = -1 if mode == "constant" and least > 2 and g.maybe(0.2) else 0
    most = 2 if mode in ("constant", "edge") else min(2, least - 1)
    widths = {axis: (g.random.randint(low, most), g.random.randint(low, most)) for axis in axes}
    value = None
    if mode == "constant" and g.maybe(0.5):
        value = number(g, g.random.choice([0.0, 0.0, 1.5, -2.0]))
    if g.opset >= 18 and g.maybe(0.5):
        pads, named = [*(widths[a][0] for a in axes), *(widths[a][1] for a in axes)], g.integers(axes)
        return g.node("Pad", v, g.integers(pads), value, named, mode=mode)
    both = [[widths.get(axis, (0, 0))[side] for axis in range(v.rank)] for side in (0, 1)]
    return g.node("Pad", v, g.integers(both[0] + both[1]), value, mode=mode)


def resize(g: Draft, v: Value) -> Value:
    require(v.rank >= 3)
    mode = g.random.choice(["nearest", "linear", "cubic"])
    kinds = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    more: Attributes = {"mode": mode, "coordinate_transformation_mode": g.random.choice(kinds)}
    if mode == "nearest":
        more["nearest_mode"] = g.random.choice(["floor", "round_prefer_floor"])
    spots = list(range(2, v.rank)) if g.maybe(0.85) else list(range(v.rank))[-2:]
    factors = {axis: g.random.choice([1.0, 2.0, 2.0, 0.5, 1.5]) for axis in spots}
    sizes = {axis: g.random.choice([1, 2, 3, 4, 6]) for axis in spots}
    if g.opset >= 18 and g.maybe(0.4):
        more["axes"] = spots
        every = spots
    else:
        every = list(range(v.rank))
    if g.maybe(0.6):
        name = g.name("f")
        items = [factors.get(axis, 1.0) for axis in every]
        g.constants[name] = f"float[{len(items)}] {name} = {{{', '.join(str(item) for item in items)}}}"
        array = np.asarray(items, dtype=np.float32)
        return g.node("Resize", v, None, Value(name, (array, array)), **more)
    return g.node("Resize", v, None, None, g.integers([sizes.get(axis) or v.size(axis) for axis in every]), **more)


def gather(g: Draft, v: Value) -> Value:
    if g.maybe(0.25):  # an embedding
        table = g.constant([2, *(size for size in (v.sizes[-1], 3) if size)])
        ids = g.input([2, g.random.choice([2, 3, "N"])], "int64")
        return g.node("Gather", table, ids)
    axis = g.random.randrange(v.rank)
    least = v.least(axis)
    indices: list[int] | int = [g.random.randrange(-least, least) for _ in range(g.random.randint(1, 3))]
    if g.maybe(0.3) and v.rank > 1:
        indices = g.random.randrange(least)
    return g.node("Gather", v, g.integers(indices), axis=axis)


def shape_of(op: str) -> Piece:
    def piece(g: Draft, v: Value) -> Value:
        shape = g.node(op, v)
        if op == "Size":
            return g.node("Mul", v, g.node("Cast", shape, to=11))
        other = alike(g, v)
        way = g.random.choice(["expand", "reshape"])
        if way == "reshape":
            return g.node("Reshape", other, shape)
        return g.node("Add", v, g.node("Expand", g.constant([1] * v.rank), shape))

    return piece
