"""Float64 definitions of operators along space that onnx's reference implementation lacks, gets wrong, or rounds.

Float attributes of onnx are float32, so a bound or padding value that was moved would be rounded before it is proved;
here it is read as it is. Each definition is compared with onnxruntime in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from normswap.arrays import Array, attribute_float, floats, given


def clip(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """Clip, with bounds as attributes (before opset 11) or inputs; where they cross, the upper one holds."""
    x, lower, upper = [*arrays, None, None][:3]
    y = given(x)
    if "min" in node.attributes or lower is not None:
        y = np.maximum(y, attribute_float(node, "min", 0.0) if lower is None else lower)
    if "max" in node.attributes or upper is not None:
        y = np.minimum(y, attribute_float(node, "max", 0.0) if upper is None else upper)
    return [y]


def pad(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """Pad of all modes, by attributes (before opset 11) or inputs; what is negative is taken away, first of all."""
    x, pads, value, axes = [*arrays, None, None, None][:4]
    y = given(x)
    written = node.attributes.get("pads")
    wanted = np.asarray(written.as_ints()) if written is not None else given(pads)
    widths = np.zeros((y.ndim, 2), dtype=np.int64)
    widths[slice(None) if axes is None else axes] = wanted.reshape(2, -1).T
    y = y[tuple(slice(-min(begin, 0), size + min(end, 0)) for size, (begin, end) in zip(y.shape, widths, strict=True))]
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return [np.pad(y, np.maximum(widths, 0), mode=mode.as_string())]  # type: ignore[call-overload]
    around = attribute_float(node, "value", 0.0) if value is None else value.item()
    return [np.pad(y, np.maximum(widths, 0), constant_values=around)]


def global_max_pool(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """GlobalMaxPool, of which onnx has the one for two spatial axes."""
    x = floats(arrays[0])
    return [x.max(axis=tuple(range(2, x.ndim)), keepdims=True)]


def average_pool(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """AveragePool by onnx's operator, which where it is told not to pad (VALID) forgets the dilations."""
    written = list(ir.serde.serialize_node(node).attribute)
    automatic = node.attributes.get("auto_pad")
    if automatic is not None and automatic.as_string() == "VALID":
        written = [attribute for attribute in written if attribute.name not in ("auto_pad", "pads")]
    alone = onnx.helper.make_node("AveragePool", ["x"], ["y"])
    alone.attribute.extend(written)
    return list(ReferenceEvaluator(alone).run(None, {"x": given(arrays[0])}))


def resize(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """Resize by onnx's operator, whose cubic weights are float32 and so do not sum to one unless it is told otherwise.

    Upsample and the Resize of opset 10 map corner to corner and round down.
    """
    operands = list(arrays)
    written = ir.serde.serialize_node(node).attribute
    if node.op_type == "Upsample" or len(operands) == 2:
        factors = node.attributes.get("scales")
        operands = [arrays[0], None, arrays[1] if factors is None else np.asarray(factors.as_floats())]
        written = [attribute for attribute in written if attribute.name == "mode"]
        written += [
            onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"),
            onnx.helper.make_attribute("nearest_mode", "floor"),
        ]
    names = [f"i{index}" if array is not None else "" for index, array in enumerate(operands)]
    alone = onnx.helper.make_node("Resize", names, ["y"])
    alone.attribute.extend(written)
    evaluator = ReferenceEvaluator(alone)
    (operator,) = evaluator.rt_nodes_
    operator.cubic_coeff_a = float(operator.cubic_coeff_a)
    given_arrays = {name: array for name, array in zip(names, operands, strict=True) if array is not None}
    return list(evaluator.run(None, given_arrays))
