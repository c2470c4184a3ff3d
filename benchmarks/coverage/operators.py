"""Norms that are one operator: of onnx, and of onnxruntime, alone or bundled with what stands before the norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.coverage.sketch import Feeds, Floats, Sketch
from benchmarks.coverage.spelling import WIDE, Recipe, Spelling, Truths, finish
from benchmarks.coverage.truth import Truth

EPSILON = float(np.float32(1e-3))
# What onnxruntime's own kernels on the CPU take.
OF_THE_CPU = ("float", "float16")


def spellings() -> Iterator[Spelling]:
    """All of them."""
    for name, axis, shape in (
        ("last-axis", -1, "B,T,12"),
        ("axis-2", 2, "B,T,12"),
        ("last-two-axes", -2, "B,6,8"),
        ("last-three-axes", 1, "B,4,6,8"),
    ):
        yield Spelling("LayerNorm", "operator", f"LayerNormalization-{name}", _layer(axis, shape), since=17, copies=2)
        yield Spelling("RMSNorm", "operator", f"RMSNormalization-{name}", _root(axis, shape), since=23, copies=2)
    yield Spelling(
        "LayerNorm", "operator", "LayerNormalization-without-bias", _layer(-1, "B,T,12", bias=False), since=17
    )
    yield Spelling("LayerNorm", "operator", "LayerNormalization-default-epsilon", _default_epsilon, since=17)
    yield Spelling(
        "LayerNorm", "operator", "LayerNormalization-three-outputs", _layer(-1, "B,T,12", outputs=3), since=17
    )
    yield Spelling("LayerNorm", "operator", "LayerNormalization-channels-first", _transposed_layer, since=17, copies=3)
    recipe = _layer(-1, "B,T,12")
    yield Spelling(
        "LayerNorm", "operator", "LayerNormalization-before-17", recipe, until=16, dtypes=OF_THE_CPU, copies=3
    )
    recipe = _root(-1, "B,T,12", operator="SimplifiedLayerNormalization")
    yield Spelling("RMSNorm", "operator", "SimplifiedLayerNormalization", recipe, dtypes=OF_THE_CPU, copies=4)
    for options in ((), ("bias",), ("sum",), ("bias", "sum")):
        name = "-".join(["alone", *options])
        yield Spelling(
            "LayerNorm", "bundle", f"SkipLayerNormalization-{name}", _skip("LayerNorm", options), dtypes=OF_THE_CPU
        )
        yield Spelling(
            "RMSNorm",
            "bundle",
            f"SkipSimplifiedLayerNormalization-{name}",
            _skip("RMSNorm", options),
            dtypes=OF_THE_CPU,
        )
    for segments in (True, False):
        name = "with-segments" if segments else "without-segments"
        yield Spelling("LayerNorm", "bundle", f"EmbedLayerNormalization-{name}", _embedded(segments), dtypes=("float",))
    for last in (True, False):
        name = "channels-last" if last else "channels-first"
        yield Spelling("GroupNorm", "bundle", f"GroupNorm-{name}", _group(last), dtypes=OF_THE_CPU)
        yield Spelling("GroupNorm", "bundle", f"SkipGroupNorm-{name}", _group(last, skip=True), dtypes=OF_THE_CPU)


def _layer(axis: int, shape: str, *, bias: bool = True, outputs: int = 1) -> Recipe:
    def recipe(s: Sketch) -> Truths:
        dims = shape.split(",")
        axes = tuple(range(axis % len(dims), len(dims)))
        gain = s.drawn("gain", [int(dims[place]) for place in axes])
        shift = s.drawn("bias", [int(dims[place]) for place in axes], mean=0.3) if bias else None
        operands = [s.input("x", shape), gain.name, *([shift.name] if shift else [])]
        y = s.several(outputs, "LayerNormalization", *operands, axis=axis, epsilon=1e-3)[0]
        truth = Truth("LayerNorm", axes, EPSILON, gain=gain.values, bias=shift.values if shift else None)
        return finish(s, y, shape, truth)

    return recipe


def _default_epsilon(s: Sketch) -> Truths:
    gain = s.drawn("gain", [12])
    y = s("LayerNormalization", s.input("x", "B,T,12"), gain.name)
    return finish(s, y, "B,T,12", Truth("LayerNorm", (2,), float(np.float32(1e-5)), gain=gain.values))


def _transposed_layer(s: Sketch) -> Truths:
    """Transpose → LayerNormalization → Transpose, as ConvNeXt is exported: one norm over axis 1."""
    shape = "B,12,H,W"
    gain, bias = s.drawn("gain", [12]), s.drawn("bias", [12], mean=0.3)
    last = s("Transpose", s.input("x", shape), perm=[0, 2, 3, 1])
    y = s("Transpose", s("LayerNormalization", last, gain.name, bias.name, epsilon=1e-3), perm=[0, 3, 1, 2])
    column = (12, 1, 1)
    truth = Truth("LayerNorm", (1,), EPSILON, gain=gain.values.reshape(column), bias=bias.values.reshape(column))
    return finish(s, y, shape, truth)


def _root(axis: int, shape: str, *, operator: str = "RMSNormalization") -> Recipe:
    def recipe(s: Sketch) -> Truths:
        dims = shape.split(",")
        axes = tuple(range(axis % len(dims), len(dims)))
        gain = s.drawn("gain", [int(dims[place]) for place in axes])
        y = s(operator, s.input("x", shape), gain.name, axis=axis, epsilon=1e-3)
        return finish(s, y, shape, Truth("RMSNorm", axes, EPSILON, gain=gain.values))

    return recipe


def _skip(kind: str, options: Sequence[str]) -> Recipe:
    """norm(x + skip + bias), and the sum as a further output."""

    def recipe(s: Sketch) -> Truths:
        x, skip = s.input("x", "B,T,12"), s.input("skip", "B,T,12")
        gain = s.drawn("gain", [12])
        beta = s.drawn("beta", [12], mean=0.3) if kind == "LayerNorm" else None
        bias = s.drawn("bias", [12]) if "bias" in options else None
        operands = [x, skip, gain.name, *([beta.name] if beta else []), *([bias.name] if bias else [])]
        name = "SkipLayerNormalization" if kind == "LayerNorm" else "SkipSimplifiedLayerNormalization"
        truth = Truth(kind, (2,), EPSILON, gain=gain.values, bias=beta.values if beta else None)

        def total(feeds: Feeds) -> Floats:
            return np.asarray(feeds["x"] + feeds["skip"] + (bias.values if bias else 0), np.float64)

        if "sum" in options:
            outputs = [s.fresh("y"), s.fresh("sum")]
            s.lines.append(
                f"{outputs[0]}, , , {outputs[1]} = com.microsoft.{name} <epsilon = 0.001> ({', '.join(operands)})"
            )
            s.output(outputs[0], "B,T,12")
            s.output(outputs[1], "B,T,12")
            s.formula = lambda feeds: [truth(total(feeds)), total(feeds)]
            return (truth,)
        s.formula = lambda feeds: [truth(total(feeds))]
        return finish(s, s(f"com.microsoft.{name}", *operands, epsilon=1e-3), "B,T,12", truth)

    return recipe


def _embedded(segments: bool) -> Recipe:
    """The norm of a sum of embeddings."""

    def recipe(s: Sketch) -> Truths:
        ids = s.input("ids", "B,T", "int32")
        kinds = s.input("segments", "B,T", "int32") if segments else ""
        words, places, types = (s.drawn(name, [7, 12], mean=0.2) for name in ("words", "places", "types"))
        gain, bias = s.drawn("gain", [12]), s.drawn("bias", [12], mean=0.3)
        operands = [ids, kinds, words.name, places.name, types.name if segments else "", gain.name, bias.name]
        y = s.several(2, "com.microsoft.EmbedLayerNormalization", *operands, epsilon=1e-3)[0]
        truth = Truth("LayerNorm", (2,), EPSILON, gain=gain.values, bias=bias.values)

        def formula(feeds: Feeds) -> list[Floats]:
            total = words.values[feeds["ids"]] + places.values[: feeds["ids"].shape[1]]
            return [truth(total + types.values[feeds["segments"]] if segments else total)]

        s.formula = formula
        return finish(s, y, "B,T,12", truth)

    return recipe


def _group(last: bool, *, skip: bool = False) -> Recipe:
    """onnxruntime's own GroupNorm; channels last unless told otherwise. Its gain and bias are always in float32."""

    def recipe(s: Sketch) -> Truths:
        shape = "B,4,8,6" if last else "B,6,4,8"
        x = s.input("x", shape)
        s.work = "float" if s.dtype not in WIDE else s.dtype
        gain, bias = s.drawn("gain", [6]), s.drawn("bias", [6], mean=0.3)
        place = (6,) if last else (6, 1, 1)
        axes = (3, 1, 2) if last else (1, 2, 3)  # the first of them is cut into groups
        truth = Truth("GroupNorm", axes, EPSILON, 3, gain=gain.values.reshape(place), bias=bias.values.reshape(place))
        options = {"activation": 0, "channels_last": int(last), "epsilon": 1e-3, "groups": 3}
        operands = [x, gain.name, bias.name, *([s.input("skip", shape)] if skip else [])]
        y = s(f"com.microsoft.{'Skip' if skip else ''}GroupNorm", *operands, **options)

        def formula(feeds: Feeds) -> list[Floats]:
            total = feeds["x"] + feeds["skip"] if skip else feeds["x"]
            first = np.moveaxis(total, -1, 1) if last else total
            plain = Truth("GroupNorm", (1, 2, 3), EPSILON, 3)(first)
            u = np.moveaxis(plain, 1, -1) if last else plain
            return [u * gain.values.reshape(place) + bias.values.reshape(place)]

        s.formula = formula
        return finish(s, y, shape, truth)

    return recipe
