"""What became of a case: the operators that are left, and whether it still computes the same.

Both models run in onnxruntime with its own optimizations off, on the same inputs; so what is judged is the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from benchmarks.matrix.cases import INPUTS_HOLD_INITIALIZERS, Case

Array = npt.NDArray[np.generic]
Feeds = Mapping[str, Array]

FOLDED, LEFT, WRONG, CRASHED = "folded", "left", "wrong", "crashed"
WORDS = (FOLDED, LEFT, WRONG, CRASHED)

# What a constant map can be spelled with: of these a folded graph has no more than its case allows.
WATCHED = ("BatchNormalization", "Mul", "Div", "Add", "Sub", "Sum", "Neg", "Reciprocal", "gain", "bias")
COMPUTED_WEIGHTS = 5
NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")

# Rounding to a dtype with p digits stays far above 1e(-p), and a wrong fold far above half the digits.
HALF_THE_DIGITS = 0.5
SIZES = {"N": 2, "T": 5}
IDS = 7  # of every table of the cases


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix, and why."""

    word: str
    note: str = ""


def judge(case: Case, result: Path) -> Cell:
    """What the file at `result` is: the case folded, left, or another function."""
    try:
        complaint = _difference(case, result)
    except Exception as error:  # noqa: BLE001  (onnxruntime's errors have no common class)
        return Cell(WRONG, f"does not run: {str(error).splitlines()[0][:200]}")
    if complaint:
        return Cell(WRONG, complaint)
    found = count(onnx.load(result), with_constants=case.point == COMPUTED_WEIGHTS)
    over = [
        f"{found[name]} {name}, not {case.keeps.get(name, 0)}"
        for name in dict.fromkeys([*WATCHED, *case.keeps])
        if found[name] > case.keeps.get(name, 0)
    ]
    return Cell(LEFT, "; ".join(over)) if over else Cell(FOLDED)


def count(model: onnx.ModelProto, *, with_constants: bool = False) -> Counter[str]:
    """Operators by type, in subgraphs and functions too; `gain` and `bias` are those of norms that do something.

    Operators that compute constants are counted only `with_constants`: onnxoptimizer leaves its arithmetic on weights
    in the graph, for the runtime to do.
    """
    own = {tensor.name: tensor for tensor in model.graph.initializer}
    overridable = {value.name for value in model.graph.input if model.ir_version > INPUTS_HOLD_INITIALIZERS}
    constants, found = set(own) - overridable, Counter[str]()
    for node in _nodes([*model.graph.node, *(node for function in model.functions for node in function.node)]):
        if constants.issuperset(filter(None, node.input)) and not any(attribute.g.node for attribute in node.attribute):
            constants.update(node.output)
            own.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
            if not with_constants:
                continue
        if _does_nothing(node, own):
            continue
        found[node.op_type] += 1
        if node.op_type in NORMS:
            for part, name, neutral in zip(("gain", "bias"), node.input[1:3], (1.0, 0.0), strict=False):
                found[part] += name not in own or bool((onnx.numpy_helper.to_array(own[name]) != neutral).any())
    return found


# What changes nothing as the constant operand of these: a chain that a runtime fuses may have to keep such a one.
NEUTRAL = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0}


def _does_nothing(node: onnx.NodeProto, own: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether `node` is arithmetic with a constant that leaves every number as it is."""
    if node.op_type not in NEUTRAL:
        return False
    operands = node.input[1:] if node.op_type in ("Div", "Sub") else node.input
    arrays = [onnx.numpy_helper.to_array(own[name]) for name in operands if name in own]
    return any(bool((array == NEUTRAL[node.op_type]).all()) for array in arrays)


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from _nodes(attribute.g.node)
        yield node


def _difference(case: Case, result: Path) -> str:
    """How `result` differs from the case, or nothing."""
    original, changed = _session(case.model.SerializeToString()), _session(str(result))
    names = [output.name for output in original.get_outputs()]
    for feeds in _draws(case.model):
        for name, want, got in zip(names, original.run(names, feeds), changed.run(names, feeds), strict=True):
            if want.shape != got.shape or want.dtype != got.dtype:
                return f"{name}: {got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
            if (np.isfinite(want) != np.isfinite(got)).any():
                return f"{name}: other values are finite"
            finite = np.isfinite(want)
            scale = np.abs(want[finite]).max(initial=0.0)
            error = np.abs(want[finite].astype(np.float64) - got[finite]).max(initial=0.0)
            if error > np.finfo(want.dtype).eps ** HALF_THE_DIGITS * scale:
                return f"{name}: off by {error / scale:.1e} of its largest value"
    return ""


def _session(model: bytes | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what fails raises as well
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _draws(model: onnx.ModelProto) -> Iterator[Feeds]:
    """Inputs: both branches, several scales, and what may be overridden left alone first, then overridden."""
    own = {tensor.name for tensor in model.graph.initializer}
    needed = [value for value in model.graph.input if value.name not in own]
    for seed, scale in enumerate((1.0, 1.0, 4.0)):
        random = np.random.default_rng(seed)
        yield {value.name: _drawn(value, random, scale, flag=seed % 2 == 0) for value in needed}
    if len(needed) < len(model.graph.input) and model.ir_version > INPUTS_HOLD_INITIALIZERS:
        yield {value.name: _drawn(value, random, 1.0, flag=True) for value in model.graph.input}


def _drawn(value: onnx.ValueInfoProto, random: np.random.Generator, scale: float, *, flag: bool) -> Array:
    kind = value.type.tensor_type
    shape = [size.dim_value or SIZES[size.dim_param] for size in kind.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if dtype == np.bool_:
        return np.full(shape, flag)
    if np.issubdtype(dtype, np.integer):
        return random.integers(0, IDS, shape, dtype)
    return np.asarray(random.normal(0.5, scale, shape)).astype(dtype)
