"""Views of recognized norms: read from an operator's attributes and parameters, or from a region that was matched."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from normswap.facts import Facts
from normswap.fingerprint import ROUNDING, TOLERANCE, Affine, Form
from normswap.norm import Kind, Norm, Parameter, Unrecognized
from normswap.probes import Setting
from normswap.reasons import REASONS
from normswap.reference import Floats, attribute, attribute_float
from normswap.regions import Region

# Every norm operator of onnx and onnxruntime whose only activation is its first input.
OPERATORS: Mapping[tuple[str, str], Kind] = {
    ("", "LayerNormalization"): "LayerNorm",
    ("com.microsoft", "LayerNormalization"): "LayerNorm",
    ("", "RMSNormalization"): "RMSNorm",
    ("", "SimplifiedLayerNormalization"): "RMSNorm",
    ("", "BatchNormalization"): "BatchNorm",
    ("com.microsoft", "SimplifiedLayerNormalization"): "RMSNorm",
}


def operator_kind(node: ir.Node) -> Kind | None:
    """The kind of norm that `node` is by itself, as one operator."""
    return OPERATORS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))


def label(node: ir.Node) -> str:
    """The user's word for a node: its name, or that of the value it makes."""
    return node.name or next((value.name for value in node.outputs if value.name), None) or node.op_type


def unrecognized(node: ir.Node, reason_id: str, detail: str = "") -> Unrecognized:
    """The record of a node that is no norm we know, with the reason in the model's own names."""
    return Unrecognized(node, reason_id, f"{node.op_type} `{label(node)}`{detail}: {REASONS[reason_id].meaning}")


def of_operator(node: ir.Node, kind: Kind, path: str, facts: Facts) -> Norm | Unrecognized:
    """The view of a norm operator, whose statistics must be unused and whose parameters constant."""
    x, output = node.inputs[0], node.outputs[0]
    dims = None if x is None else facts.dims(x)
    if x is None or dims is None:
        return unrecognized(node, "unknown-shape", f", input `{'' if x is None else x.name}`")
    used = next((value for value in node.outputs[1:] if value.uses() or value.is_graph_output()), None)
    if used is not None:
        return unrecognized(node, "statistics-used", f", output `{used.name}`")
    parameters: list[Parameter | None] = []
    for value in (*node.inputs[1:3], None, None)[:2]:
        array = None if value is None else facts.constant(value)
        if value is not None and array is None:
            return unrecognized(node, "runtime-parameter", f", input `{value.name}`")
        if value is not None and array is not None and not _fits(array.shape, dims):
            return unrecognized(node, "widening-parameter", f", input `{value.name}`")
        parameters.append(None if value is None else Parameter(_squeezed(facts.float64(value)), value))
    axes = tuple(range(attribute(node, "axis", -1) % len(dims), len(dims)))
    return Norm(
        name=label(node),
        kind=kind,
        axes=axes,
        size=_size(dims, axes),
        epsilon=attribute_float(node, "epsilon", 1e-5),
        input=x,
        output=output,
        nodes=(node,),
        spelling="operator",
        gain=parameters[0],
        bias=parameters[1],
        graph=path,
    )


def _fits(shape: tuple[int, ...], dims: tuple[int | None, ...]) -> bool:
    """Whether a parameter of `shape` broadcasts to every value of `dims`, and fixes no free dimension."""
    lead = len(dims) - len(shape)
    return lead >= 0 and all(size in (1, dims[lead + axis]) for axis, size in enumerate(shape))


def of_region(
    region: Region, form: Form, output: ir.Value, setting: Setting, affine: Affine, path: str, facts: Facts
) -> Norm:
    """The view of a region whose `output` has this form and Affine; the region must hold nothing else."""
    last, dims = output.producer(), facts.dims(region.x)
    assert last is not None
    return Norm(
        name=label(last),
        kind=form.kind,
        axes=form.axes,
        size=None if dims is None else _size(dims, form.axes),
        epsilon=_named(form.epsilon, region, setting),
        input=region.x,
        output=output,
        nodes=region.nodes,
        spelling="decomposed",
        gain=_parameter(affine.gain, 1.0, frozenset({"Mul"}), region, setting),
        bias=_parameter(affine.bias, 0.0, frozenset({"Add", "Sub"}), region, setting),
        graph=path,
    )


def _size(dims: tuple[int | None, ...], axes: tuple[int, ...]) -> int | None:
    size = 1
    for axis in axes:
        n = dims[axis]
        if n is None:
            return None
        size *= n
    return size


def _squeezed(array: Floats) -> Floats:
    """The array without leading axes of size 1, down to rank 1: what broadcasts the same with fewer axes."""
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return array


def _named(epsilon: float, region: Region, setting: Setting) -> float:
    """ε as the region's own constant has it, where one is equal up to the rounding of the solution."""
    arrays = (setting.arrays[value] for value in region.externals)
    scalars = (float(array.reshape(-1)[0]) for array in arrays if array.size == 1)
    return next((c for c in scalars if abs(c - epsilon) <= TOLERANCE * abs(c)), epsilon)


def _parameter(
    solved: Floats, neutral: float, readers: frozenset[str], region: Region, setting: Setting
) -> Parameter | None:
    """The parameter as the one tensor it is taken from, or as it was solved for; None where it does nothing.

    The tensor must be read by one of the `readers`, an operator that can apply such a parameter.
    """
    slack = ROUNDING * float(np.abs(solved).max(initial=1.0))
    for value in region.externals:
        array = setting.arrays[value]
        if array.size == 1 or array.dtype != np.float64 or array.ndim > solved.ndim:
            continue
        if not any(node.op_type in readers for node in value.consumers()):
            continue
        aligned = array.astype(np.float64).reshape((1,) * (solved.ndim - array.ndim) + array.shape)
        fits = all(size in (1, whole) for size, whole in zip(aligned.shape, setting.shape, strict=True))
        if fits and same_within(aligned, solved, slack):
            return Parameter(_squeezed(aligned), value)
    if same_within(solved, np.asarray(neutral), slack):
        return None
    return Parameter(_squeezed(solved))


def same_within(one: Floats, other: Floats, slack: float) -> bool:
    """Whether two arrays that broadcast against each other are nowhere further apart than `slack`."""
    try:
        return bool((np.abs(one - other) <= slack).all())
    except ValueError:
        return False


def is_negated(affine: Affine, setting: Setting) -> bool:
    """Whether the first value of a norm's form has a sign that none of the region's constants gave it: mean − x."""
    floats = [array.astype(np.float64) for array in setting.arrays.values() if array.dtype == np.float64]
    slack = ROUNDING * float(np.abs(affine.gain).max(initial=1.0))
    if any(array.size > 1 and same_within(array, affine.gain, slack) for array in floats):
        return False
    if any(array.size > 1 and same_within(-array, affine.gain, slack) for array in floats):
        return True
    return bool((affine.gain < 0).all()) and not any((array < 0).all() for array in floats)
