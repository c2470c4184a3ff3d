"""Observe shapes that inference cannot find, in one run of the model on small inputs per binding.

onnxruntime does the run where it is installed, onnx's reference evaluator elsewhere. A model that cannot be run on
such inputs keeps its gaps, and what depends on them is refused as of unknown shape.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from normswap.facts import Facts
from normswap.learn import unknown, walk
from normswap.reference import Array

# A model with more bytes of weights is not run only to learn shapes.
BYTES = 1 << 30
Runner = Callable[[Mapping[str, Array]], Iterable[object]]


def observe(facts: Facts) -> None:
    """Fill the shapes that `facts` leave open in the main graph, as far as the model can be run."""
    open_values = unknown(facts)
    weights = [value.const_value for value in facts.model.graph.initializers.values()]
    if not open_values or sum(tensor.nbytes for tensor in weights if tensor is not None) > BYTES:
        return
    names = [value.name or "" for value in open_values]
    proto = ir.to_proto(facts.model)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in _outputs(proto))
    for binding in range(2):
        try:
            results = _runner(proto, names)(_inputs(facts, binding))
        except Exception:  # noqa: BLE001  # any failure of a foreign model in a foreign runtime only means: not observed
            return
        for value, result in zip(open_values, results, strict=True):
            if isinstance(result, np.ndarray):
                facts.shapes[binding].setdefault(value, result.shape)
                facts.types.setdefault(value, ir.DataType.from_numpy(result.dtype))
        walk(facts, facts.model.graph, binding)


def _outputs(proto: onnx.ModelProto) -> set[str]:
    return {output.name for output in proto.graph.output}


def _runner(proto: onnx.ModelProto, names: Sequence[str]) -> Runner:
    if importlib.util.find_spec("onnxruntime") is None:
        evaluator = ReferenceEvaluator(proto)
        return lambda feed: list(evaluator.run(list(names), dict(feed)))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(list(names), dict(feed))


def _inputs(facts: Facts, binding: int) -> dict[str, Array]:
    """Small inputs: zeros for integers, which are valid ids, and ones for everything else."""
    feed: dict[str, Array] = {}
    for value in facts.model.graph.inputs:
        if value.is_initializer():
            continue
        shape, dtype = facts.shape(value, binding), facts.dtype(value)
        if shape is None or dtype is None:
            raise ValueError(f"the shape of the input `{value.name}` is not known")
        is_integer = dtype in (ir.DataType.INT64, ir.DataType.INT32)
        feed[value.name or ""] = np.full(shape, 0 if is_integer else 1, dtype=dtype.numpy())
    return feed
