"""Whether onnxruntime can run a model, found out without its weights: kernels are chosen by types, not by values.

Large initializers become graph inputs, so that a session is made in milliseconds whatever the size of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir

from normswap.facts import SMALL, Facts

# Of models that are only asked about: the newest that onnxruntime 1.23 reads.
IR_VERSION = 11


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
    return _loads(weight_free(model))


def operators_run(nodes: Sequence[ir.Node], facts: Facts, imports: Mapping[str, int]) -> bool:
    """Whether onnxruntime, CPU, has a kernel for each of these nodes, for the types and ranks of what they read."""
    made = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None and value not in made)
    inputs, initializers = [], []
    for value in read:
        if value.const_value is not None and value.const_value.size <= SMALL:
            initializers.append(ir.serde.serialize_tensor(value.const_value))
            initializers[-1].name = value.name or ""
            continue
        dims = [None] * (facts.rank(value) or 0)
        dtype = int(facts.dtype(value) or ir.DataType.FLOAT)
        inputs.append(onnx.helper.make_tensor_value_info(value.name or "", dtype, dims))
    outputs = [onnx.helper.make_empty_tensor_value_info(str(value.name)) for value in nodes[-1].outputs if value.name]
    protos = [ir.serde.serialize_node(node) for node in nodes]
    graph = onnx.helper.make_graph(protos, "alone", inputs, outputs, initializers)
    versions = [onnx.helper.make_opsetid(domain, version) for domain, version in imports.items()]
    return _loads(onnx.helper.make_model(graph, opset_imports=versions, ir_version=IR_VERSION))


def _loads(model: onnx.ModelProto) -> bool:
    try:
        import onnxruntime
    except ImportError:
        return True
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 (onnxruntime raises a dozen classes without a common base of its own)
        return False
    return True
