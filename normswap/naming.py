"""Names: what a norm is called, by what it computes and not by how it is spelled; operators and regions alike.

`kind_of(form, dims, gain, bias)` names a region; an operator's view adds its op_type, since two names may be the same
function: `kind_of(Form(center=True, axes=(2, 3)), dims, gain, bias, "InstanceNormalization")`. A gain of an L2Norm
belongs to its definition: its view has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normswap.forms import Form
from normswap.norm import Kind, Parameter

# A factor √D, or 1/√D, that a model holds in float32.
WRITTEN = 1e-6


def kind_of(
    form: Form, dims: Sequence[int | None], gain: Parameter | None, bias: Parameter | None, operator: str = ""
) -> Kind:
    """The kind of a norm of a value with these dimensions, spelled by `operator` where it is one.

    A gain is a vector if its array is, or if it is a tensor of the graph.
    """
    if form.elements is not None:
        return "PartialRMSNorm"
    if form.total:
        return "L2Norm"
    if form.center:
        return _of_centered(form, dims, gain, bias, operator)
    if form.groups > 1:
        return "RMSNorm" if bias is None else "PowerNorm"
    return _of_uncentered(form, dims, gain, bias)


def _of_centered(
    form: Form, dims: Sequence[int | None], gain: Parameter | None, bias: Parameter | None, operator: str
) -> Kind:
    if form.place == "outside":
        return "MeanVarianceNorm"
    if form.groups > 1 or operator in ("GroupNormalization", "GroupNorm"):
        return "GroupNorm"
    if form.axes != tuple(range(2, len(dims))):
        return "LayerNorm"
    varying = {axis for parameter in (gain, bias) if parameter is not None for axis in _varying(parameter, len(dims))}
    per_channel = 1 in varying or len(dims) > 3
    is_one = operator == "InstanceNormalization" or (per_channel and varying.isdisjoint(form.axes))
    return "InstanceNorm" if is_one else "LayerNorm"


def _of_uncentered(form: Form, dims: Sequence[int | None], gain: Parameter | None, bias: Parameter | None) -> Kind:
    """A root mean square over whole axes; the names of uniform gains are those without a bias."""
    factor = 1.0 if gain is None else uniform(gain)
    if factor is None or bias is not None:
        return "RMSNorm"
    size = size_of(form, dims)
    if gain is None or _is_close(factor, 1.0):
        return "RMSNorm"
    return "L2Norm" if size is not None and _is_close(factor * size**0.5, 1.0) else "ScaleNorm"


def size_of(form: Form, dims: Sequence[int | None]) -> int | None:
    """How many elements the statistic of one group is taken from; None where that is not static."""
    if form.elements is not None:
        return form.elements
    size = 1
    for axis in form.axes:
        n = dims[axis]
        if n is None:
            return None
        size *= n
    return size // form.groups


def uniform(gain: Parameter) -> float | None:
    """The one number that a gain multiplies by; None where it is a vector."""
    return float(gain.array.reshape(())) if gain.array.size == 1 and gain.value is None else None


def _varying(parameter: Parameter, rank: int) -> set[int]:
    """The axes of a value of this rank along which a parameter has several elements."""
    lead = rank - parameter.array.ndim
    return {lead + axis for axis, size in enumerate(parameter.array.shape) if size > 1}


def _is_close(one: float, other: float) -> bool:
    return bool(np.isclose(one, other, rtol=WRITTEN, atol=0.0))
