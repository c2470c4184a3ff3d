"""What norm operators compute: one short reader each, from attributes and dimensions to a form.

Sources: the operator definitions of onnx (`onnx.defs`) and of onnxruntime (`get_all_operator_schema`); defaults are
theirs. What those leave open was measured on onnxruntime's CPU kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap.forms import Form
from normswap.norm import Kind, Parameter
from normswap.norm_operators import (
    CHANNELS_ON_AXIS_1,
    EPSILON,
    MEAN_VARIANCE_EPSILON,
    mean_variance_axes,
)
from normswap.reference import Floats, attribute, attribute_float
from normswap.views import squeezed

Dims = tuple[int | None, ...]


# A constant as a parameter that broadcasts against the output; None where it would widen or fix that.
Align = Callable[[Floats, ir.Value], Parameter | None]


@dataclass(frozen=True)
class Reading:
    """What an operator computes of an input of known dimensions, and how its gain and bias lie.

    A `kind` of its own is that of the row, unless what it computes has a name of its own.
    """

    form: Form
    align: Align
    kind: Kind | None = None


# What an operator computes, given the dimensions of its input; or the id of the reason why that is no norm.
Reader = Callable[[ir.Node, Dims], Reading | str]


# --- how parameters lie ---------------------------------------------------------------------------------------------


def _broadcasting(dims: Dims) -> Align:
    """From the last axis on."""

    def align(array: Floats, value: ir.Value) -> Parameter | None:
        lead = len(dims) - array.ndim
        fits = lead >= 0 and all(size in (1, dims[lead + axis]) for axis, size in enumerate(array.shape))
        return Parameter(squeezed(array), value) if fits else None

    return align


def _along(channel: int, dims: Dims, groups: int = 1) -> Align:
    """A number for each channel, or for each group of channels."""

    def align(array: Floats, value: ir.Value) -> Parameter | None:
        channels, behind = dims[channel], len(dims) - 1 - channel
        if array.ndim != 1 or channels is None or array.size not in (channels, groups):
            return None
        own = array.size == channels and not behind  # else it is not taken as it is
        each = np.repeat(array, channels // array.size)
        return Parameter(each.reshape(-1, *[1] * behind), value if own else None)

    return align


def _of_branches(dims: Dims, branches: int) -> Align:
    """A number for each element of a branch, or of all branches: those of the last axis, or the axis before it."""

    def align(array: Floats, value: ir.Value) -> Parameter | None:
        whole = dims[-1:] if branches > 1 else dims[-2:]
        sizes = [size for size in whole if size is not None]
        if len(sizes) < len(whole):
            return None
        if array.size * branches == sizes[-1]:
            return Parameter(np.tile(array.reshape(-1), branches), value if branches == 1 == array.ndim else None)
        return Parameter(array.reshape(sizes)) if array.size == np.prod(sizes) else None

    return align


# --- readers --------------------------------------------------------------------------------------------------------


def over_last_axes(*, center: bool, epsilon: float = EPSILON) -> Reader:
    """Statistics over `axis` and all behind it."""

    def read(node: ir.Node, dims: Dims) -> Reading | str:
        rank, first = len(dims), attribute(node, "axis", -1)
        if not -rank <= first < rank:
            return "not-executable"
        axes = tuple(range(first % rank, rank))
        return Reading(Form(center, axes, attribute_float(node, "epsilon", epsilon)), _broadcasting(dims))

    return read


def over_space(node: ir.Node, dims: Dims) -> Reading | str:
    """InstanceNormalization: for each channel, over what is behind axis 1."""
    if len(dims) < 3:
        return "not-executable"
    form = Form(True, tuple(range(2, len(dims))), attribute_float(node, "epsilon", EPSILON))
    return Reading(form, _along(1, dims))


def over_groups(name: str) -> Reader:
    """Over groups of channels and space; `name` is the attribute with the number of groups.

    With as many groups as channels it is an InstanceNorm. onnxruntime's operators have channels behind space unless
    `channels_last` is 0.
    """

    def read(node: ir.Node, dims: Dims) -> Reading | str:
        if node.op_type == "GroupNorm" and attribute(node, "activation", 0):
            return "bundled-operator"  # with an activation that `bundles` does not know
        rank, groups = len(dims), attribute(node, name, 0)
        last = node.op_type not in CHANNELS_ON_AXIS_1 and attribute(node, "channels_last", 1) != 0
        channel = rank - 1 if last else 1
        if rank < 2 or groups < 1 or (dims[channel] or 0) % groups:
            return "not-executable"
        epsilon = attribute_float(node, "epsilon", EPSILON)
        space = tuple(axis for axis in range(1, rank) if axis != channel)
        if 1 < groups == dims[channel] and space:
            return Reading(Form(True, space, epsilon), _along(channel, dims), "InstanceNorm")
        form = Form(True, (channel, *space), epsilon, groups=groups)
        return Reading(form, _along(channel, dims, groups))

    return read


def mean_variance(node: ir.Node, dims: Dims) -> Reading | str:
    """MeanVarianceNormalization; before opset 9, onnxruntime's may leave the variance as it is."""
    if not attribute(node, "normalize_variance", 1):
        return "center-only"
    axes = mean_variance_axes(node, len(dims))
    if any(not -len(dims) <= axis < len(dims) for axis in axes):
        return "not-executable"
    axes = tuple(sorted({axis % len(dims) for axis in axes}))
    return Reading(Form(True, axes, float(np.float32(MEAN_VARIANCE_EPSILON)), "outside"), _broadcasting(dims))


def by_length(node: ir.Node, dims: Dims) -> Reading | str:
    """LpNormalization with p = 2; a row of zeros stays zero."""
    axis = attribute(node, "axis", -1)
    if attribute(node, "p", 2) != 2:
        return "other-statistic"
    if not -len(dims) <= axis < len(dims):
        return "not-executable"
    return Reading(Form(False, (axis % len(dims),), 0.0, "floor"), _broadcasting(dims))


def by_row(node: ir.Node, dims: Dims) -> Reading | str:
    """Normalizer (ai.onnx.ml) with norm = "L2": each row of a matrix, or one vector; a row of zeros stays zero."""
    written = node.attributes.get("norm")
    if written is None or written.as_string() != "L2":
        return "other-statistic"
    if len(dims) not in (1, 2):
        return "not-executable"
    return Reading(Form(False, (len(dims) - 1,), 0.0, "floor"), _broadcasting(dims))


def by_gain(node: ir.Node, dims: Dims) -> Reading | str:
    """GatedRMSNorm: each run of the last axis that is as long as the gain."""
    shape = None if node.inputs[1] is None else node.inputs[1].shape
    run = shape[-1] if shape is not None and shape.rank() else None
    width = dims[-1] if dims else None
    if width is None or not isinstance(run, int) or not run or width % run:
        return "unknown-shape" if width is None or not isinstance(run, int) else "not-executable"
    groups = width // run
    form = Form(False, (len(dims) - 1,), attribute_float(node, "epsilon", EPSILON), groups=groups)
    return Reading(form, _of_branches(dims, groups))


def by_branch(node: ir.Node, dims: Dims) -> Reading | str:
    """BranchwiseRMSNorm: the last axis, or each of `num_branches` runs of it."""
    groups = attribute(node, "num_branches", 0) or 1
    if not dims or (dims[-1] or 0) % groups:
        return "not-executable"
    form = Form(False, (len(dims) - 1,), attribute_float(node, "epsilon", EPSILON), groups=groups)
    return Reading(form, _of_branches(dims, groups))
