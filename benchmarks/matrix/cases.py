"""The cases: one ONNX text each under cases/, with a header that says what must become of it.

    # a title
    # point: 1                 of the list in issue 3
    # keeps: Add 1, Mul 2      operators that the folded graph may still have [none of WATCHED]
    # normswap: left           what normswap is to make of it [folded]

A constant is declared by type and shape alone and drawn here; its name says how.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

FOLDER = Path(__file__).resolve().parent / "cases"

POINTS = {
    1: "up, into what writes the value",
    2: "down, into what reads it",
    3: "into each other",
    4: "from the literature",
    5: "weights that are computed",
    6: "weights that are not plain",
    7: "inside control flow and functions",
    8: "traps: must stay",
}

# How numbers of a name that begins so are drawn; all others have a mean of their own, and both signs.
POSITIVE = ("var", "positive")
# Initializers of older files must be inputs too, and are constant all the same.
INPUTS_HOLD_INITIALIZERS = 3


@dataclass(frozen=True, eq=False)
class Case:
    """One graph. `keeps` counts the operators that may be left where it was folded; see `judge.count`."""

    name: str
    title: str
    point: int
    expected: str
    keeps: Mapping[str, int]
    model: onnx.ModelProto


def load() -> list[Case]:
    """All cases, in the order of the issue's list."""
    return sorted((read(path) for path in FOLDER.glob("*.onnxtxt")), key=lambda case: (case.point, case.name))


@cache
def read(path: Path) -> Case:
    """One case, with its weights."""
    text = path.read_text(encoding="utf-8")
    title, *lines = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    header = dict(line.split(": ", 1) for line in lines)
    if unknown := set(header) - {"point", "keeps", "normswap"}:
        raise ValueError(f"{path}: what is `{min(unknown)}`?")
    kept = [entry.split() for entry in header.get("keeps", "").split(", ") if entry]
    return Case(
        name=path.stem,
        title=title,
        point=int(header["point"]),
        expected=header.get("normswap", "folded"),
        keeps={operator: int(number) for operator, number in kept},
        model=_filled(onnx.parser.parse_model(text)),
    )


def _filled(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` itself, in which what is declared but neither computed nor given has become an initializer."""
    graph = model.graph
    computed = {output for node in graph.node for output in node.output}
    for declared in graph.value_info:
        kind = declared.type.tensor_type
        if declared.name not in computed:
            shape = [size.dim_value for size in kind.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            graph.initializer.append(onnx.numpy_helper.from_array(_drawn(declared.name, shape, dtype), declared.name))
    del graph.value_info[:]
    if model.ir_version <= INPUTS_HOLD_INITIALIZERS:
        for tensor in graph.initializer:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.checker.check_model(model, full_check=True)
    return model


def _drawn(name: str, shape: Sequence[int], dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    """Numbers that belong to a name. Weights are scaled by their fan-in, so that no activation saturates."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.startswith(POSITIVE):
        return np.asarray(random.uniform(0.5, 1.5, shape)).astype(dtype)
    mean = random.choice([-1, 1]) * random.uniform(0.3, 0.8)
    return np.asarray(random.normal(mean, 1.0, shape) / math.sqrt(math.prod(shape[1:]))).astype(dtype)
