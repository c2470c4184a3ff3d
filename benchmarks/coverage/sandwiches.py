"""InstanceNormalization with unit parameters between two Reshapes: a GroupNorm, a LayerNorm, or itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.coverage.endings import AFFINES
from benchmarks.coverage.pieces import Site
from benchmarks.coverage.sketch import Sketch
from benchmarks.coverage.space import IMAGE
from benchmarks.coverage.spelling import Recipe, Spelling, Truths, finish
from benchmarks.coverage.truth import Truth


def spellings() -> Iterator[Spelling]:
    """All of them."""
    recipe = _by_instances(6, IMAGE, "InstanceNorm", (2, 3))
    yield Spelling("InstanceNorm", "layout", "channels-as-groups", recipe, bfloat16_since=22)
    for groups in (2, 3):
        for back in ("shape-at-run-time", "static"):
            shape = IMAGE if back == "shape-at-run-time" else "2,6,4,8"
            recipe = _by_instances(groups, shape, "GroupNorm", (1, 2, 3), static=back == "static")
            yield Spelling(
                "GroupNorm",
                "sandwich",
                f"InstanceNormalization-{groups}-groups-{back}",
                recipe,
                copies=2,
                bfloat16_since=22,
            )
    recipe = _by_instances(2, "B,6,T", "GroupNorm", (1, 2))
    yield Spelling("GroupNorm", "sandwich", "InstanceNormalization-of-three", recipe, copies=2, bfloat16_since=22)
    recipe = _by_instances(1, IMAGE, "LayerNorm", (1, 2, 3), also=("GroupNorm",))
    yield Spelling("LayerNorm", "sandwich", "InstanceNormalization-one-group", recipe, copies=3, bfloat16_since=22)
    yield Spelling(
        "LayerNorm",
        "sandwich",
        "InstanceNormalization-of-rows",
        _rows_by_instances(dynamic=False),
        copies=2,
        bfloat16_since=22,
    )
    yield Spelling(
        "LayerNorm",
        "sandwich",
        "InstanceNormalization-of-rows-dynamic",
        _rows_by_instances(dynamic=True),
        copies=2,
        bfloat16_since=22,
    )


def _by_instances(
    groups: int,
    shape: str,
    kind: str,
    axes: Sequence[int],
    *,
    static: bool = False,
    also: tuple[str, ...] = (),
) -> Recipe:
    """[B, C, …] → [B, G, −1], InstanceNormalization with unit parameters, and back; then gain and bias."""

    def recipe(s: Sketch) -> Truths:
        x = s.input("x", shape)
        ones, zeros = s.array(np.ones(groups)), s.array(np.zeros(groups))
        flat = s("Reshape", x, s.ints([0, groups, -1]))
        u = s("InstanceNormalization", flat, ones.name, zeros.name, epsilon=1e-3)
        whole = s.ints([int(size) for size in shape.split(",")]) if static else s("Shape", x)
        put = AFFINES["gain-d-1-1"](Site(s, shape, (1,)), s("Reshape", u, whole))
        within = groups if axes[0] == 1 else 1
        truth = Truth(kind, tuple(axes), float(np.float32(1e-3)), within, gain=put.gain, bias=put.bias, also=also)
        return finish(s, put.output, shape, truth)

    return recipe


def _rows_by_instances(*, dynamic: bool) -> Recipe:
    """Every row is one instance: [B, T, D] → [B·T, 1, D] → InstanceNormalization → [B, T, D]."""

    def recipe(s: Sketch) -> Truths:
        shape = "B,T,12" if dynamic else "4,6,12"
        x = s.input("x", shape)
        channels = 1 if dynamic else 24
        rows = s("Reshape", x, s.ints([-1, 1, 12] if dynamic else [1, 24, 12]))
        unit = s.array(np.ones(channels)).name, s.array(np.zeros(channels)).name
        u = s("InstanceNormalization", rows, *unit, epsilon=1e-3)
        put = AFFINES["gain-bias"](Site(s, shape), s("Reshape", u, s("Shape", x) if dynamic else s.ints([4, 6, 12])))
        return finish(
            s, put.output, shape, Truth("LayerNorm", (2,), float(np.float32(1e-3)), gain=put.gain, bias=put.bias)
        )

    return recipe
