"""Run a model in float64, whatever its types: so that what is compared is the function, and not its rounding.

onnx's reference operators do it where all operators are onnx's own; onnxruntime runs its own operators, all of its
optimizations off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from benchmarks.coverage.sketch import Feeds, Floats

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
STANDARD = {"", "ai.onnx", "local"}
# In which type statistics are to be taken: onnx's reference operators know no other than float32, or obey.
STASHING: Mapping[str, Callable[[int], list[onnx.AttributeProto]]] = {
    "LayerNormalization": lambda to: [],
    "RMSNormalization": lambda to: [],
    "GroupNormalization": lambda to: [onnx.helper.make_attribute("stash_type", to)],
}


def promoted(model: onnx.ModelProto, to: int = onnx.TensorProto.DOUBLE) -> onnx.ModelProto:
    """The model with all its floats in one type."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _promote_graph(copy.graph, to)
    for function in copy.functions:
        _promote_nodes(function.node, to)
    return copy


def _promote_graph(graph: onnx.GraphProto, to: int) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in FLOATS:
            value.type.tensor_type.elem_type = to
    for tensor in graph.initializer:
        _promote_tensor(tensor, to)
    _promote_nodes(graph.node, to)


def _promote_nodes(nodes: Iterable[onnx.NodeProto], to: int) -> None:
    for node in nodes:
        if node.op_type in STASHING and node.domain in STANDARD:
            kept = [attribute for attribute in node.attribute if attribute.name != "stash_type"]
            del node.attribute[:]
            node.attribute.extend([*kept, *STASHING[node.op_type](to)])
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _promote_graph(attribute.g, to)
            elif attribute.HasField("t"):
                _promote_tensor(attribute.t, to)
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = onnx.numpy_helper.from_array(np.asarray(numbers, np.float32).astype(np.float64))
                _promote_tensor(tensor, to)
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
            elif attribute.name in ("to", "dtype") and attribute.i in FLOATS:
                attribute.i = to


def _promote_tensor(tensor: onnx.TensorProto, to: int) -> None:
    if tensor.data_type in FLOATS:
        array = onnx.numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(to))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def run(model: onnx.ModelProto, many: Iterable[Feeds]) -> list[list[Floats]]:
    """The outputs for each of many inputs, in float64 where that can be had."""
    many = list(many)
    if all(_is_known(node) for node in all_nodes(model)):
        return _referred(promoted(model), many)
    try:
        return _served(promoted(model), many)
    except Exception:  # noqa: BLE001  (onnxruntime's errors have no common class)
        return _served(promoted(model, onnx.TensorProto.FLOAT), many)


# Operators that onnxruntime has in onnx's own domain and onnx has not, and one that onnx has wrong before opset 14.
NOT_ONNX = {"SimplifiedLayerNormalization", "BatchNormalization"}
# Operators of onnxruntime that it has on GPUs only; their definitions are below.
DEFINED = {"GroupNorm", "SkipGroupNorm"}


def _is_known(node: onnx.NodeProto) -> bool:
    """Whether the reference evaluator can run it."""
    return node.op_type in DEFINED if node.domain not in STANDARD else node.op_type not in NOT_ONNX


class MeanVarianceNormalization(OpRun):  # type: ignore[misc]
    """onnx's own holds constants in float32, and runs in no other type."""

    op_domain = ""

    def _run(self, x: Floats, axes: Sequence[int] | None = None) -> tuple[Floats]:
        over = tuple(axes or (0, 2, 3))
        d = x - x.mean(axis=over, keepdims=True)
        return (d / (np.sqrt((d * d).mean(axis=over, keepdims=True)) + 1e-9),)


class GroupNorm(OpRun):  # type: ignore[misc]
    """onnxruntime has it on GPUs only."""

    op_domain = "com.microsoft"

    def _run(
        self,
        x: Floats,
        gamma: Floats,
        beta: Floats,
        activation: int = 0,
        channels_last: int = 1,
        epsilon: float = 1e-5,
        groups: int = 1,
    ) -> tuple[Floats]:
        last = x if channels_last else np.moveaxis(x, 1, -1)
        pieces = last.reshape(*last.shape[:-1], groups, last.shape[-1] // groups)
        over = (*range(1, last.ndim - 1), last.ndim)
        d = pieces - pieces.mean(axis=over, keepdims=True)
        u = (d / np.sqrt((d * d).mean(axis=over, keepdims=True) + epsilon)).reshape(last.shape) * gamma + beta
        u = u / (1 + np.exp(-u)) if activation else u
        return (u if channels_last else np.moveaxis(u, -1, 1),)


class SkipGroupNorm(GroupNorm):
    """The same of x + skip + bias."""

    def _run(
        self,
        x: Floats,
        gamma: Floats,
        beta: Floats,
        skip: Floats,
        bias: Floats | None = None,
        **attributes: float,
    ) -> tuple[Floats]:
        return super()._run(x + skip + (0 if bias is None else bias), gamma, beta, **attributes)  # type: ignore[arg-type]


def all_nodes(model: onnx.ModelProto) -> Iterable[onnx.NodeProto]:
    """Every node of a model, in bodies and functions too."""
    stack = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while stack:
        node = stack.pop()
        stack += [inner for attribute in node.attribute for inner in attribute.g.node]
        yield node


def _referred(model: onnx.ModelProto, many: list[Feeds]) -> list[list[Floats]]:
    evaluator = ReferenceEvaluator(model, new_ops=[MeanVarianceNormalization, GroupNorm, SkipGroupNorm])
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            [np.asarray(array, np.float64) for array in evaluator.run(None, dict(_typed(model, feeds)))]
            for feeds in many
        ]


def _served(model: onnx.ModelProto, many: list[Feeds]) -> list[list[Floats]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what fails raises as well
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [[np.asarray(array, np.float64) for array in session.run(None, _typed(model, feeds))] for feeds in many]


def _typed(model: onnx.ModelProto, feeds: Feeds) -> Mapping[str, np.ndarray]:
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    return {
        name: array.astype(onnx.helper.tensor_dtype_to_np_dtype(types[name]) if types[name] in FLOATS else array.dtype)
        for name, array in feeds.items()
        if name in types
    }
