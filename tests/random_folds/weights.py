"""Operators that absorb maps: convolutions, matrix products and recurrent layers."""

from __future__ import annotations

import string
from collections.abc import Sequence

from tests.random_folds.draft import Draft, Value
from tests.random_folds.norms import alike
from tests.random_folds.pieces import Attributes, Piece, biased, divisors, of_rank, require


def spatial(g: Draft, count: int, choices: Sequence[int]) -> list[int]:
    return [g.random.choice(choices) for _ in range(count)]


def windows(g: Draft, count: int, *, widest: int = 2) -> Attributes:
    """Strides, dilations and padding, each given or left out."""
    found: Attributes = {}
    if g.maybe(0.4):
        found["strides"] = spatial(g, count, [1, 2, 3])
    how = g.random.choice(["none", "none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if how == "pads":
        found["pads"] = spatial(g, 2 * count, list(range(widest + 1)))
    elif how != "none":
        found["auto_pad"] = how
    if not how.startswith("SAME") and g.maybe(0.25):
        found["dilations"] = spatial(g, count, [1, 2])
    return found


def conv(g: Draft, v: Value) -> Value:
    require(3 <= v.rank <= 5)
    channels, count = v.size(1), v.rank - 2
    groups = g.random.choice(divisors(channels)) if g.maybe(0.5) else 1
    shape = [groups * g.random.randint(1, 3), channels // groups, *spatial(g, count, [1, 1, 2, 3])]
    bias = g.constant(shape[:1]) if g.maybe(0.5) else None
    more: Attributes = {"group": groups} if groups > 1 else {}
    return g.node("Conv", v, g.constant(shape), bias, **more, **windows(g, count))


def conv_transpose(g: Draft, v: Value) -> Value:
    require(3 <= v.rank <= 5)
    channels, count = v.size(1), v.rank - 2
    groups = g.random.choice(divisors(channels)) if g.maybe(0.5) else 1
    shape = [channels, g.random.randint(1, 3), *spatial(g, count, [1, 2, 3])]
    bias = g.constant([groups * shape[1]]) if g.maybe(0.5) else None
    more = windows(g, count, widest=1)
    if more.get("auto_pad", "VALID") != "VALID":
        del more["auto_pad"]
    if groups > 1:
        more["group"] = groups
    strides = more.get("strides")
    if isinstance(strides, list) and g.maybe(0.3):
        more["output_padding"] = [g.random.randrange(stride) for stride in strides]
    return g.node("ConvTranspose", v, g.constant(shape), bias, **more)


def gemm(g: Draft, v: Value) -> Value:
    require(v.rank == 2)
    more: Attributes = {}
    for name, choices in (("alpha", [0.5, -1.5, 2.0]), ("beta", [2.0, 0.5, 0.0, -1.0])):
        if g.maybe(0.35):
            more[name] = g.random.choice(choices)
    left, right = g.random.randint(0, 1), g.random.randint(0, 1)
    more |= {name: 1 for name, one in (("transA", left), ("transB", right)) if one}
    own = g.random.randint(1, 4)
    if g.maybe(0.8):  # v is A
        summed = v.size(0 if left else 1)
        operands = [v, g.constant([own, summed] if right else [summed, own])]
    else:
        summed = v.size(1 if right else 0)
        operands = [g.constant([summed, own] if left else [own, summed]), v]
    made = [v.sizes[1 if left else 0], own] if operands[0] is v else [own, v.sizes[0 if right else 1]]
    bias = None
    if g.maybe(0.7):
        shape = [size or 1 if g.maybe(0.7) else 1 for size in made]
        while shape and shape[0] == 1 and g.maybe(0.7):
            shape.pop(0)
        bias = g.constant(shape)
    return g.node("Gemm", *operands, bias, **more)


def matmul(g: Draft, v: Value) -> Value:
    way = g.random.choice(["right", "right", "right", "vector", "stack", "left", "two", "attention"])
    own = g.random.randint(1, 4)
    if way == "left":
        require(v.rank >= 2)
        return g.node("MatMul", g.constant([own, v.size(v.rank - 2)]), v)
    if way == "vector":
        require(v.rank >= 2)
        return g.node("MatMul", v, g.constant([v.size(v.rank - 1)]))
    if way == "stack":
        require(v.rank >= 3)
        stack = [size if size is not None and g.maybe(0.5) else 1 for size in v.sizes[:-2]]
        return g.node("MatMul", v, g.constant([*stack, v.size(v.rank - 1), own]))
    if way in ("two", "attention"):
        require(v.rank >= 2)
        other = alike(g, v)
        order = [*range(v.rank - 2), v.rank - 1, v.rank - 2]
        scores = g.node("MatMul", v, g.node("Transpose", other, perm=order))
        if way == "two":
            return scores
        return g.node("MatMul", g.node("Softmax", scores, axis=-1), alike(g, v))
    return biased(g, g.node("MatMul", v, g.constant([v.size(v.rank - 1), own])))


def einsum(g: Draft, v: Value) -> Value:
    """A weight that shares some letters with v and brings some; what is kept stands in any order."""
    letters = string.ascii_lowercase[: v.rank]
    static = [letter for letter, size in zip(letters, v.sizes, strict=True) if size is not None]
    shared = [letter for letter in static if g.maybe(0.5)]
    require(shared)
    sizes = dict(zip(letters, v.sizes, strict=True))
    brought = string.ascii_lowercase[v.rank : v.rank + g.random.randint(0, 2)]
    sizes |= {letter: g.random.randint(1, 3) for letter in brought}
    term = g.random.sample([*shared, *brought], len(shared) + len(brought))
    weight = g.constant([sizes[letter] or 1 for letter in term])
    kept = [letter for letter in letters if letter not in shared or g.maybe(0.4)] + list(brought)
    require(kept)
    output = "".join(g.random.sample(kept, len(kept)))
    left = letters
    if g.maybe(0.2) and letters[0] not in shared and letters[0] in kept:
        left, output = "..." + letters[1:], "..." + output.replace(letters[0], "")
    terms = [left, "".join(term)]
    operands = [v, weight]
    if g.maybe(0.3):
        terms, operands = terms[::-1], operands[::-1]
    return g.node("Einsum", *operands, equation=f"{','.join(terms)}->{output}")


def recurrent(op: str, gates: int) -> Piece:
    def piece(g: Draft, v: Value) -> Value:
        v = of_rank(g, v, 3)
        read, hidden = v.size(2), g.random.randint(1, 3)
        direction = g.random.choice(["forward", "reverse", "bidirectional"])
        count = 2 if direction == "bidirectional" else 1
        first = 1 if g.maybe(0.15) else 0
        more: Attributes = {"hidden_size": hidden, "direction": direction} | ({"layout": 1} if first else {})
        weight, again = g.constant([count, gates * hidden, read]), g.constant([count, gates * hidden, hidden])
        bias = g.constant([count, 2 * gates * hidden]) if g.maybe(0.6) else None
        batch = v.sizes[0 if first else 1]
        start = (
            [g.constant([batch, count, hidden] if first else [count, batch, hidden])]
            if batch and g.maybe(0.3)
            else [None]
        )
        operands = [v, weight, again, bias, None, *start]
        if op == "LSTM":
            operands += [None, g.constant([count, 3 * hidden]) if g.maybe(0.3) else None]
            operands[6] = start[0]
        if op == "GRU" and g.maybe(0.5):
            more["linear_before_reset"] = 1
        if g.maybe(0.2):
            more["clip"] = 0.75
        outputs = g.nodes(op, g.random.randint(1, 2), *operands, **more)
        return g.random.choice(outputs)

    return piece
