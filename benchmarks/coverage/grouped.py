"""Norms of groups of channels: GroupNorm, PowerNorm, RMSNorm in groups; and those of a part of an axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.coverage.endings import AFFINES
from benchmarks.coverage.pieces import Site
from benchmarks.coverage.sketch import Parameter, Sketch
from benchmarks.coverage.space import IMAGE, column, gain_and_bias
from benchmarks.coverage.spelling import Parts, Recipe, Spelling, Truths, core, finish
from benchmarks.coverage.truth import Truth


def spellings() -> Iterator[Spelling]:
    """All of them."""
    yield from _group_norms()
    yield from _power_norms()
    yield from _partial_norms()


# --- GroupNorm ------------------------------------------------------------------------------------------------------


def _group_norms() -> Iterator[Spelling]:
    kind = "GroupNorm"
    for groups in (1, 2, 3):
        yield Spelling(
            kind, "operator", f"GroupNormalization-{groups}-groups", _group_operator(groups), since=21, copies=2
        )
    yield Spelling(kind, "operator", "GroupNormalization-18", _old_group_operator, since=18, until=20, copies=3)
    yield Spelling(kind, "operator", "GroupNormalization-of-three", _group_operator(2, "B,6,T"), since=21, copies=2)
    for name, shape in (("image", IMAGE), ("signal", "B,6,T"), ("static-image", "2,6,4,4")):
        for variance in ("mul", "pow", "two-subs"):
            yield Spelling(
                kind,
                "decomposed",
                f"{name}+{variance}",
                _by_reshape(kind, shape, 2, Parts(variance=variance)),
                copies=1,
            )
    yield Spelling(kind, "decomposed", "flat-groups", _by_flat_groups, copies=2)
    for quotient in ("reciprocal", "pow-minus-half"):
        yield Spelling(kind, "decomposed", quotient, _by_reshape(kind, IMAGE, 3, Parts(quotient=quotient)), copies=1)
    yield Spelling(kind, "decomposed", "of-the-last-axis", _groups_of_last("GroupNorm", "gain-bias"), copies=2)
    yield Spelling("RMSNorm", "groups", "of-the-last-axis", _groups_of_last("RMSNorm", "gain-only"), copies=3)
    yield Spelling("RMSNorm", "groups", "no-affine", _groups_of_last("RMSNorm", "no-affine"), copies=2)


def _group_operator(groups: int, shape: str = IMAGE) -> Recipe:
    def recipe(s: Sketch) -> Truths:
        rank = len(shape.split(","))
        gain, bias = gain_and_bias(s, 6)
        y = s("GroupNormalization", s.input("x", shape), gain.name, bias.name, epsilon=1e-3, num_groups=groups)
        return finish(s, y, shape, _group_truth("GroupNorm", rank, groups, gain, bias))

    return recipe


def _group_truth(kind: str, rank: int, groups: int, gain: Parameter, bias: Parameter, epsilon: float = 1e-3) -> Truth:
    return Truth(
        kind,
        tuple(range(1, rank)),
        float(np.float32(epsilon)),
        groups,
        gain=column(gain, rank),
        bias=column(bias, rank),
    )


def _old_group_operator(s: Sketch) -> Truths:
    """Its gain and bias are those of the groups, not of the channels."""
    gain, bias = gain_and_bias(s, 3)
    y = s("GroupNormalization", s.input("x", IMAGE), gain.name, bias.name, epsilon=1e-3, num_groups=3)
    each = [np.repeat(parameter.values, 2).reshape(6, 1, 1) for parameter in (gain, bias)]
    return finish(s, y, IMAGE, Truth("GroupNorm", (1, 2, 3), float(np.float32(1e-3)), 3, gain=each[0], bias=each[1]))


def _by_reshape(kind: str, shape: str, groups: int, parts: Parts) -> Recipe:
    """[B, C, …] → [B, G, −1], a norm over the last axis, and back to the shape of x."""

    def recipe(s: Sketch) -> Truths:
        x, rank = s.input("x", shape), len(shape.split(","))
        grouped = s("Reshape", x, s.ints([0, groups, -1]))
        u, held = core(Site(s, f"B,{groups},N"), grouped, parts, centered=True, epsilon=1e-3)
        back = s("Reshape", u, s("Shape", x))
        put = AFFINES["gain-d-1-1"](Site(s, shape, (1,)), back)
        axes = tuple(range(1, rank))
        return finish(s, put.output, shape, Truth(kind, axes, held, groups, gain=put.gain, bias=put.bias))

    return recipe


def _by_flat_groups(s: Sketch) -> Truths:
    """[B, C, H, W] → [B, G, C/G, H, W], a norm over the last three axes."""
    x = s.input("x", "B,6,4,8")
    grouped = s("Reshape", x, s.ints([0, 3, 2, 4, 8]))
    u, held = core(Site(s, "B,3,2,4,8", (2, 3, 4)), grouped, Parts(), centered=True, epsilon=1e-3)
    put = AFFINES["gain-d-1-1"](Site(s, "B,6,4,8", (1,)), s("Reshape", u, s.ints([0, 6, 4, 8])))
    return finish(s, put.output, "B,6,4,8", Truth("GroupNorm", (1, 2, 3), held, 3, gain=put.gain, bias=put.bias))


def _groups_of_last(kind: str, affine: str, groups: int = 3) -> Recipe:
    """[B, T, D] → [B, T, G, D/G], a norm over the last axis, and back."""

    def recipe(s: Sketch) -> Truths:
        x = s.input("x", "B,T,12")
        pieces = s("Reshape", x, s.ints([0, 0, groups, 12 // groups]))
        site = Site(s, f"B,T,{groups},{12 // groups}")
        u, held = core(site, pieces, Parts(), centered=kind == "GroupNorm", epsilon=1e-5)
        put = AFFINES[affine](Site(s, "B,T,12"), s("Reshape", u, s.ints([0, 0, 12])))
        inner = (((3,), 1),)
        views = {"views" if affine == "no-affine" else "within": inner}
        truth = Truth(kind, (2,), held, groups, gain=put.gain, bias=put.bias, **views)
        return finish(s, put.output, "B,T,12", truth)

    return recipe


# --- PowerNorm and PartialRMSNorm -----------------------------------------------------------------------------------


def _power_norms() -> Iterator[Spelling]:
    yield Spelling("PowerNorm", "released", "by-reshape", _groups_of_last("PowerNorm", "gain-bias"), copies=3)
    for spread in ("Expand", "Tile"):
        yield Spelling("PowerNorm", "released", f"by-{spread.lower()}", _power_norm(spread), since=8, copies=3)


def _power_norm(spread: str) -> Recipe:
    """As released: the mean of squares of each group, spread over it again; then x/√(φ + ε)·w + b, channels first."""

    def recipe(s: Sketch) -> Truths:
        x = s.input("x", "B,T,12")
        pieces = s("Reshape", x, s.ints([0, 0, 3, 4]))
        squares = s.reduce("ReduceMean", s("Mul", pieces, pieces), [-1], keepdims=False)
        apart = s.reduce("Unsqueeze", squares, [3])
        wide = s("Tile", apart, s.ints([1, 1, 1, 4])) if spread == "Tile" else s("Expand", apart, s.ints([1, 1, 1, 4]))
        flat = s("Reshape", wide, s("Shape", x))
        u = s("Div", x, s("Sqrt", s("Add", flat, s.number(1e-5))))
        phi, weight, bias = s.drawn("phi", [12], mean=1.5), s.drawn("gain", [1, 12, 1]), s.drawn("bias", [1, 12, 1])
        root = np.sqrt(phi.values + s.rounded(1e-5))
        first = s("Transpose", u, perm=[0, 2, 1])
        scale = s("Sqrt", s("Add", phi.name, s.number(1e-5)))
        scaled = s("Mul", s("Div", first, s.reduce("Unsqueeze", s.reduce("Unsqueeze", scale, [0]), [2])), weight.name)
        y = s("Transpose", s("Add", scaled, bias.name), perm=[0, 2, 1])
        gain = weight.values.reshape(12) / root
        truth = Truth("PowerNorm", (2,), float(s.rounded(1e-5)), 3, gain=gain, bias=bias.values.reshape(12))
        return finish(s, y, "B,T,12", truth)

    return recipe


def _partial_norms() -> Iterator[Spelling]:
    for name in ("Slice", "Split"):
        for length in ("ReduceMean", "ReduceL2", "epsilon-outside"):
            recipe = _partial(name, length)
            yield Spelling("PartialRMSNorm", "partial", f"{name.lower()}+{length}", recipe, since=11, copies=2)


def _partial(cut: str, length: str, affine: str = "gain-only") -> Recipe:
    """Statistics of the first 4 of 16 elements. pRMSNorm has ε outside, which torch's newer exporter loses."""

    def recipe(s: Sketch) -> Truths:
        site = Site(s, "B,T,16")
        x = s.input("x", site.shape)
        if cut == "Slice":
            part = s("Slice", x, s.ints([0]), s.ints([4]), s.ints([2]))
        elif s.opset < 13:
            part = s.several(2, "Split", x, axis=-1, split=[4, 12])[0]
        else:
            part = s.several(2, "Split", x, s.ints([4, 12]), axis=-1)[0]
        if length == "ReduceL2":
            root, held = s("Mul", s.reduce("ReduceL2", part, [-1]), s.number(0.5)), 0.0
        elif length == "epsilon-outside":
            root = s("Add", s("Mul", s.reduce("ReduceL2", part, [-1]), s.number(0.5)), s.number(1e-3))
            held = float(s.rounded(1e-3))
        else:
            held = float(s.rounded(1e-5))
            mean = s.reduce("ReduceMean", s("Mul", part, part), [-1])
            root = s("Sqrt", s("Add", mean, s.number(1e-5)))
        put = AFFINES[affine](site, s("Div", x, root))
        place = "outside" if length == "epsilon-outside" else "inside"
        truth = Truth("PartialRMSNorm", (2,), held, gain=put.gain, bias=put.bias, first=4, place=place)
        return finish(s, put.output, site.shape, truth)

    return recipe
