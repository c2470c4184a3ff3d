"""A pair: an original, what it was converted to, and whether that is right. Small graphs are written as ONNX text.

The weights of a text are arrays by name, drawn from fixed seeds. A wrong pair differs from a right one in one place.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

import normswap

MODELS = Path(__file__).resolve().parent.parent.parent / "models" / "small"
IR_VERSION = 10

Array = npt.NDArray[np.generic]
Models = tuple[onnx.ModelProto, onnx.ModelProto]


@dataclass(frozen=True)
class Pair:
    """Two models, original first; `truth` says in one line why the second is right or wrong.

    `missed` says why normswap does not see it, where it does not.
    """

    name: str
    truth: str
    right: bool
    make: Callable[[], Models]
    missed: str = ""


def normal(name: str, *shape: int, mean: float = 0.0, deviation: float = 1.0) -> npt.NDArray[np.float32]:
    """Normal numbers that belong to a name."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return random.normal(mean, deviation, shape).astype(np.float32)


def model(graph: str, weights: Mapping[str, Array], opset: int) -> onnx.ModelProto:
    """The graph, and of the weights those that it mentions; one that is also an input is its default."""
    mentioned = set(re.findall(r"\w+", graph))
    result = onnx.parser.parse_model(f'<ir_version: {IR_VERSION}, opset_import: ["": {opset}]> g {graph}')
    result.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in weights.items() if name in mentioned
    )
    onnx.checker.check_model(result, full_check=True)
    return result


def texts(
    original: str,
    weights: Mapping[str, Array],
    converted: str | None = None,
    changed: Mapping[str, Array] | None = None,
    opset: int = 17,
) -> Callable[[], Models]:
    """Both models from text: the same graph with other weights, another graph, or both."""
    return lambda: (
        model(original, weights, opset),
        model(converted or original, {**weights, **(changed or {})}, opset),
    )


def replaced(original: str, weights: Mapping[str, Array], old: str, new: str, opset: int = 17) -> Callable[[], Models]:
    """The converted model is the original with one piece of its text replaced."""
    if old not in original:
        raise ValueError(f"there is no `{old}` in {original}")
    return texts(original, weights, original.replace(old, new), opset=opset)


def converted_model(name: str, *to: str) -> Callable[[], Models]:
    """A model of `models/small`, and what normswap makes of it; every rewrite of that is proved."""
    return lambda: _converted(onnx.load(MODELS / f"{name}.onnx"), to)


def converted_text(graph: str, weights: Mapping[str, Array], to: str, opset: int = 17) -> Callable[[], Models]:
    """A small graph, and what normswap makes of it."""
    return lambda: _converted(model(graph, weights, opset), (to,))


def _converted(original: onnx.ModelProto, to: tuple[str, ...]) -> Models:
    conversion = normswap.convert(original, to, check=False)
    if not conversion.rewrites:
        raise ValueError("there is nothing to convert")
    return original, conversion.model


def edited(name: str, edit: Callable[[dict[str, Array]], Mapping[str, Array]]) -> Callable[[], Models]:
    """A model of `models/small`, and the same with some of its weights replaced."""

    def make() -> Models:
        original, result = onnx.load(MODELS / f"{name}.onnx"), onnx.load(MODELS / f"{name}.onnx")
        arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
        new = edit(arrays)
        for tensor in result.graph.initializer:
            if tensor.name in new:
                tensor.CopyFrom(onnx.numpy_helper.from_array(new[tensor.name], tensor.name))
        return original, result

    return make
