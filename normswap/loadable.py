"""Whether onnxruntime can run a model, found out without its weights: kernels are chosen by types, not by values.

Large initializers become graph inputs, so that a session is made in milliseconds whatever the size of the model.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from normswap.facts import SMALL


def weight_free(model: ir.Model) -> onnx.ModelProto:
    """The model with every large initializer of the main graph turned into an input: what loads without weights."""
    copy = model.clone()
    for value in list(copy.graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tensor.size > SMALL:
            del copy.graph.initializers[value.name or ""]
            value.const_value, value.type = None, ir.TensorType(tensor.dtype)
            value.shape = ir.Shape(tensor.shape.numpy())
            if not value.is_graph_input():
                copy.graph.inputs.append(value)
    return ir.to_proto(copy)


def runs_in_onnxruntime(model: ir.Model) -> bool:
    """Whether onnxruntime, CPU, has a kernel for every operator of `model`; True where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return True
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            weight_free(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # noqa: BLE001 (onnxruntime raises a dozen classes without a common base of its own)
        return False
    return True
