"""Views of recognized norms, read from a region that was matched; `operator_views` reads those of operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from normswap import reference
from normswap.facts import Facts
from normswap.fingerprint import ROUNDING, Affine
from normswap.forms import TOLERANCE, Form
from normswap.naming import kind_of, size_of
from normswap.norm import Norm, Parameter, Unrecognized
from normswap.reasons import REASONS
from normswap.reference import Floats
from normswap.regions import Region
from normswap.setting import Setting


def label(node: ir.Node) -> str:
    """The user's word for a node: its name, or that of the value it makes."""
    return node.name or next((value.name for value in node.outputs if value.name), None) or node.op_type


def sentence(node: ir.Node, reason_id: str, detail: str = "") -> str:
    """A reason in the model's own names."""
    return f"{node.op_type} `{label(node)}`{detail}: {REASONS[reason_id].meaning}"


def unrecognized(node: ir.Node, reason_id: str, detail: str = "") -> Unrecognized:
    """The record of a node that is no norm we know, with the reason in the model's own names."""
    return Unrecognized(node, reason_id, sentence(node, reason_id, detail))


def of_region(
    region: Region, form: Form, output: ir.Value, setting: Setting, affine: Affine, path: str, facts: Facts
) -> Norm:
    """The view of a region whose `output` has this form and Affine; the region must hold nothing else."""
    last, dims = output.producer(), facts.dims(region.x) or ()
    assert last is not None
    form, scale = _of_means(form, dims)
    gain = _parameter(affine.gain * scale, 1.0, frozenset({"Mul"}), region, setting)
    bias = _parameter(affine.bias, 0.0, frozenset({"Add", "Sub"}), region, setting)
    kind = kind_of(form, dims, gain, bias)
    return Norm(
        name=label(last),
        kind=kind,
        axes=form.axes,
        size=size_of(form, dims),
        epsilon=_named(form.epsilon, region, setting),
        input=region.x,
        output=output,
        nodes=region.nodes,
        spelling="decomposed",
        gain=None if kind == "L2Norm" and not form.total else gain,
        bias=bias,
        variant="" if form.elements is None else f"{form.elements} of {dims[form.axes[0]] or 'n'}",
        graph=path,
        groups=form.groups,
        epsilon_place=form.place,
        fractions=_fractions(region, setting, facts),
    )


def _fractions(region: Region, setting: Setting, facts: Facts) -> dict[str, Floats]:
    """The constants of a region that were read as a fraction 1/N which their own type had to round."""
    found = {}
    for value in region.externals:
        stored, read = facts.constant(value), setting.arrays[value]
        if not value.name or stored is None or stored.dtype.kind not in "fV" or stored.shape != read.shape:
            continue
        if (reference.promote(stored) != read).any():
            found[value.name] = read.astype(np.float64)
    return found


def _of_means(form: Form, dims: Sequence[int | None]) -> tuple[Form, float]:
    """A form of total squares as one of their mean, where their number is static, and what it has to be scaled by."""
    size = size_of(form, dims)
    if not form.total or size is None:
        return form, 1.0
    epsilon = form.epsilon / (size if form.place == "inside" else size**0.5)
    return replace(form, epsilon=epsilon, total=False), size**-0.5


def squeezed(array: Floats) -> Floats:
    """The array without leading axes of size 1, down to rank 1: what broadcasts the same with fewer axes."""
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return array


def _named(epsilon: float, region: Region, setting: Setting) -> float:
    """ε as the region's own constant has it, where one is equal up to the rounding of the solution."""
    arrays = (setting.arrays[value] for value in region.externals)
    scalars = (float(array.reshape(-1)[0]) for array in arrays if array.size == 1)
    return next((c for c in scalars if abs(c - epsilon) <= TOLERANCE * abs(epsilon)), epsilon)


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
        if not any(node.op_type in readers for node in region.nodes if value in node.inputs):
            continue
        aligned = array.astype(np.float64).reshape((1,) * (solved.ndim - array.ndim) + array.shape)
        fits = all(size in (1, whole) for size, whole in zip(aligned.shape, setting.shape, strict=True))
        if fits and same_within(aligned, solved, slack):
            return Parameter(squeezed(aligned), value)
    if same_within(solved, np.asarray(neutral), slack):
        return None
    return Parameter(squeezed(solved))


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
