"""Views of norm operators: one table from operator to what it computes and where its gain and bias are.

An operator whose parameters are run-time values, or whose statistics are read too, or that does other things besides,
is named with its obstacle; only what no definition covers is listed as unrecognized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from normswap.facts import Facts
from normswap.naming import kind_of, size_of
from normswap.norm import Kind, Norm, Obstacle, Parameter, Part, Unrecognized
from normswap.norm_operators import BUNDLE_EPSILON
from normswap.operator_readers import (
    Reader,
    by_branch,
    by_gain,
    by_length,
    by_row,
    mean_variance,
    over_groups,
    over_last_axes,
    over_space,
)
from normswap.views import label, sentence, unrecognized


@dataclass(frozen=True)
class Row:
    """One operator: the kind of norm it is meant for, how it is read, and which of its inputs are gain and bias.

    Parts of it can move unless there is an `obstacle`. What is taken from several inputs has the shape of its `output`.
    """

    kind: Kind
    read: Reader
    gain: int | None = None
    bias: int | None = None
    obstacle: str = ""
    of_output: bool = False


# --- the table ------------------------------------------------------------------------------------------------------

_LAYER, _ROOT_MEAN_SQUARE = over_last_axes(center=True), over_last_axes(center=False)
_BUNDLED = over_last_axes(center=True, epsilon=BUNDLE_EPSILON)
_NOT_MOVED = "kind-not-moved"
_MICROSOFT = "com.microsoft"
_LAYER_ROW = Row("LayerNorm", _LAYER, gain=1, bias=2)
_ROOT_MEAN_SQUARE_ROW = Row("RMSNorm", _ROOT_MEAN_SQUARE, gain=1)

ROWS: Mapping[tuple[str, str], Row] = {
    # onnxruntime has the first two in the default domain at every opset, and had them in a domain of its own
    ("", "LayerNormalization"): _LAYER_ROW,
    ("", "SimplifiedLayerNormalization"): _ROOT_MEAN_SQUARE_ROW,
    (_MICROSOFT, "LayerNormalization"): _LAYER_ROW,
    (_MICROSOFT, "SimplifiedLayerNormalization"): _ROOT_MEAN_SQUARE_ROW,
    ("", "RMSNormalization"): _ROOT_MEAN_SQUARE_ROW,
    ("", "InstanceNormalization"): Row("InstanceNorm", over_space, 1, 2, _NOT_MOVED),
    ("", "GroupNormalization"): Row("GroupNorm", over_groups("num_groups"), 1, 2, _NOT_MOVED),
    ("", "MeanVarianceNormalization"): Row("MeanVarianceNorm", mean_variance, obstacle=_NOT_MOVED),
    ("", "LpNormalization"): Row("L2Norm", by_length, obstacle=_NOT_MOVED),
    ("ai.onnx.ml", "Normalizer"): Row("L2Norm", by_row, obstacle=_NOT_MOVED),
    (_MICROSOFT, "GroupNorm"): Row("GroupNorm", over_groups("groups"), 1, 2, _NOT_MOVED),
    (_MICROSOFT, "BranchwiseRMSNorm"): Row("RMSNorm", by_branch, 1, None, _NOT_MOVED),
    # those that `bundles` could not take apart
    (_MICROSOFT, "SkipLayerNormalization"): Row("LayerNorm", _BUNDLED, 2, 3, "bundled-operator", True),
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): Row(
        "RMSNorm", over_last_axes(center=False, epsilon=BUNDLE_EPSILON), 2, None, "bundled-operator", True
    ),
    (_MICROSOFT, "EmbedLayerNormalization"): Row("LayerNorm", _BUNDLED, 5, 6, "bundled-operator", True),
    (_MICROSOFT, "GatedRMSNorm"): Row("RMSNorm", by_gain, 1, None, "bundled-operator"),
    (_MICROSOFT, "SkipGroupNorm"): Row("GroupNorm", over_groups("groups"), 1, 2, "bundled-operator", True),
    (_MICROSOFT, "QOrderedLayerNormalization"): Row("LayerNorm", _LAYER, None, None, "quantized-weights"),
    (_MICROSOFT, "QEmbedLayerNormalization"): Row("LayerNorm", _BUNDLED, None, None, "quantized-weights", True),
}
_BATCH = ("", "BatchNormalization")  # an Affine: `batch_norm` reads it


def _key(node: ir.Node) -> tuple[str, str]:
    return "" if node.domain == "ai.onnx" else node.domain, node.op_type


def operator_kind(node: ir.Node) -> Kind | None:
    """The kind of norm that `node` is meant for by itself, as one operator."""
    row = ROWS.get(_key(node))
    return row.kind if row is not None else "BatchNorm" if _key(node) == _BATCH else None


# --- views ----------------------------------------------------------------------------------------------------------


def of_operator(node: ir.Node, path: str, facts: Facts) -> Norm | Unrecognized:
    """The view of an operator of the table; where it is recognized and yet cannot move, with its obstacle."""
    row, x, output = ROWS[_key(node)], node.inputs[0], node.outputs[0]
    shaped = output if row.of_output else x
    dims = None if shaped is None else facts.dims(shaped)
    if x is None or dims is None:
        return unrecognized(node, "unknown-shape", f", input `{'' if x is None else x.name}`")
    reading = row.read(node, dims)
    if isinstance(reading, str):
        return unrecognized(node, reading)
    parameters: dict[Part, Parameter] = {}
    runtime: set[Part] = set()
    obstacles = list(_statistics(node, row))
    for part, index in _PARTS:
        value = node.inputs[place] if (place := index(row)) is not None and place < len(node.inputs) else None
        if value is None:
            continue
        array = facts.float64(value) if facts.constant(value) is not None else None
        parameter = None if array is None else reading.align(array, value)
        if parameter is not None:
            parameters[part] = parameter
        else:
            runtime |= {part} if array is None else set()
            reason_id = "runtime-parameter" if array is None else "widening-parameter"
            obstacles.append(_obstacle(node, reason_id, f", input `{value.name}`"))
    if row.obstacle:
        obstacles.append(_obstacle(node, row.obstacle))
    gain, bias = parameters.get("gain"), parameters.get("bias")
    form = reading.form
    return Norm(
        name=label(node),
        kind=reading.kind or (kind_of(form, dims, gain, bias) if _is_known(row, gain, runtime) else row.kind),
        axes=form.axes,
        size=size_of(form, dims),
        epsilon=form.epsilon,
        input=x,
        output=output,
        nodes=(node,),
        spelling="operator",
        gain=gain,
        bias=bias,
        graph=path,
        groups=form.groups,
        epsilon_place=form.place,
        runtime=frozenset(runtime),
        obstacle=next(iter(obstacles), None),
    )


_PARTS: tuple[tuple[Part, Callable[[Row], int | None]], ...] = (
    ("gain", lambda row: row.gain),
    ("bias", lambda row: row.bias),
)


def _is_known(row: Row, gain: Parameter | None, runtime: set[Part]) -> bool:
    """Whether the gain of a LayerNorm tells what it is for: one along channels makes it an InstanceNorm."""
    return row.kind == "LayerNorm" and gain is not None and not runtime


def _obstacle(node: ir.Node, reason_id: str, detail: str = "") -> Obstacle:
    return Obstacle(reason_id, sentence(node, reason_id, detail))


def _statistics(node: ir.Node, row: Row) -> Iterator[Obstacle]:
    """The obstacle that an output besides the first is read, which of a bundle may be more than a statistic."""
    used = next((value for value in node.outputs[1:] if value.uses() or value.is_graph_output()), None)
    if used is not None and not row.of_output:
        yield _obstacle(node, "statistics-used", f", output `{used.name}`")
