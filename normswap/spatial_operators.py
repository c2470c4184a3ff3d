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

from normswap.arrays import Array, Floats, attribute, attribute_float, floats, given


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


def max_pool(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """MaxPool and the places of its maxima; onnx's operator takes the padding of one axis for that of another."""
    x = floats(arrays[0])
    values, _ = _windows(node, x, -np.inf)
    flat = values.reshape(*values.shape[: x.ndim], -1)
    if len(node.outputs) < 2:
        return [flat.max(axis=-1)]
    by_columns = bool(attribute(node, "storage_order", 0))
    number = np.arange(np.prod(x.shape[2:])).reshape(x.shape[2:], order="F" if by_columns else "C")
    planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * (x.ndim - 2)) * number.size
    places, _ = _windows(node, (planes + number).astype(np.float64), -1.0)
    chosen = np.take_along_axis(places.reshape(flat.shape), flat.argmax(axis=-1)[..., None], axis=-1)
    return [flat.max(axis=-1), chosen[..., 0].astype(np.int64)]


def average_pool(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """AveragePool; onnx's operator forgets the dilations where it is told not to pad (VALID)."""
    x = floats(arrays[0])
    values, counted = _windows(node, x, 0.0)
    axes = tuple(range(x.ndim, values.ndim))
    return [values.sum(axis=axes) / counted.sum(axis=axes)]


def _windows(node: ir.Node, x: Floats, around: float) -> tuple[Floats, Floats]:
    """What a pool sees at each place, taps last, with `around` beside the data; and which of it an average counts.

    `ceil_mode` adds a last window that reaches beyond the padding, but none that would begin there.
    """
    kernel = list(node.attributes["kernel_shape"].as_ints())
    ones = [1] * len(kernel)
    strides, dilations = _integers(node, "strides", ones), _integers(node, "dilations", ones)
    spans = [dilation * (taps - 1) + 1 for taps, dilation in zip(kernel, dilations, strict=True)]
    pads = _padding(node, x.shape[2:], spans, strides)
    widths = [(0, 0), (0, 0)]
    for size, (begin, end), span, stride in zip(x.shape[2:], pads, spans, strides, strict=True):
        over = (size + begin + end - span) % stride if attribute(node, "ceil_mode", 0) else 0
        last = size + begin + end - span - over + stride
        widths.append((begin, end + (stride - over if over and last < size + begin else 0)))
    padded = np.pad(x, widths, constant_values=around)
    inner = np.ones((1, 1, *x.shape[2:]))
    counts = float(bool(attribute(node, "count_include_pad", 0)))
    known = np.pad(inner, [(0, 0), (0, 0), *pads], constant_values=counts)
    beyond = [(0, all_of - here) for all_of, here in zip(padded.shape[2:], known.shape[2:], strict=True)]
    counted = np.pad(known, [(0, 0), (0, 0), *beyond])

    def seen(array: Floats) -> Floats:
        axes = tuple(range(2, array.ndim))
        views = np.lib.stride_tricks.sliding_window_view(array, spans, axes)
        steps = (slice(None, None, stride) for stride in strides)
        taps = (slice(None, None, dilation) for dilation in dilations)
        return np.asarray(views[(slice(None), slice(None), *steps, *taps)])

    return seen(padded), seen(counted)


def _padding(
    node: ir.Node, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """What is put before and after the data along each spatial axis."""
    found = node.attributes.get("auto_pad")
    automatic = "NOTSET" if found is None else found.as_string()
    if automatic == "VALID":
        return [(0, 0)] * len(sizes)
    if automatic in ("SAME_LOWER", "SAME_UPPER"):
        totals = [
            max((-(-size // stride) - 1) * stride + span - size, 0)
            for size, span, stride in zip(sizes, spans, strides, strict=True)
        ]
        halves = [(total // 2, total - total // 2) for total in totals]
        return halves if automatic == "SAME_UPPER" else [(end, begin) for begin, end in halves]
    written = _integers(node, "pads", [0] * (2 * len(sizes)))
    return list(zip(written[: len(sizes)], written[len(sizes) :], strict=True))


def _integers(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    found = node.attributes.get(name)
    return list(default if found is None else found.as_ints())


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
