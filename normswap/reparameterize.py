"""Weight norm, put back: the weights of linear operators as W = g · v/‖v‖, computed in the graph from g and v.

v is W itself and g its norms over all axes but that of the outputs, so that inference stays what it is while training
and other frameworks find the two parameters. `plain_weights` has the way back, to within one unit in the last place:
g is rounded to the type of W.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from normswap.chains import chain_of
from normswap.emit import Emitter, NotFinite, rounded
from normswap.facts import Facts
from normswap.ledger import Proof, Refusal, Rewrite
from normswap.linear_weights import LinearWeight, linear_weights
from normswap.plain_weights import plain_weight
from normswap.prove import TOLERANCE
from normswap.reference import Floats, Unexecutable
from normswap.weight_forms import apart, form_of

RULE = "weights/weight-norm"
# Types in which onnxruntime takes norms, and in which the square of a usual weight is finite.
WIDE = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
FROM_ATTRIBUTE_TO_INPUT = 18  # the opset from which on the axes of ReduceL2 are an input


class Unsuitable(Exception):
    """A weight that is not reparameterized; `reason_id` is a key of `reasons.REASONS`."""

    def __init__(self, reason_id: str, detail: str) -> None:
        super().__init__(detail)
        self.reason_id = reason_id


@dataclass(eq=False)
class Reparameterization:
    """What `reparameterize` did: one rewrite for each node whose weight it was, and one refusal for each that stays."""

    rewrites: list[Rewrite] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def reparameterize(model: ir.Model, facts: Facts, names: Collection[str] | None = None) -> Reparameterization:
    """Compute the weights of the linear nodes called `names` (by `views.label`; None: of all) as g · v/‖v‖.

    A weight that several nodes read is reparameterized once, if all of them are selected and agree on the axis of the
    outputs; whatever else reads it goes on reading the same numbers. `facts` are extended to what is new. The IR
    version must be one in which initializers are no graph inputs (`ir_version`).
    """
    result, emitter = Reparameterization(), Emitter.of(facts)
    readers: dict[ir.Value, list[LinearWeight]] = {}
    for weight in linear_weights(model, facts):
        readers.setdefault(weight.stored, []).append(weight)
    for stored, weights in readers.items():
        chosen = [weight for weight in weights if names is None or weight.name in names]
        if not chosen:
            continue
        shape = facts.shape(stored) or ()
        try:
            axis = _agreed(stored, weights, chosen, facts)
            axes = tuple(other for other in range(len(shape)) if other != axis)
            error = _computed(stored, axes, emitter)
        except Unsuitable as reason:
            result.refused += [
                Refusal(weight.name, reason.reason_id, f"{weight.node.op_type} `{weight.name}`: {reason}")
                for weight in chosen
            ]
            continue
        detail = f"`{stored.name}` by its norms over axes {', '.join(map(str, axes))}"
        result.rewrites += [Rewrite(weight.name, RULE, True, Proof(1, error), detail) for weight in chosen]
    return result


def _agreed(stored: ir.Value, weights: list[LinearWeight], chosen: list[LinearWeight], facts: Facts) -> int:
    """The axis of the outputs. Raises `Unsuitable` for a weight that is to stay, or cannot change."""
    name = stored.name
    if facts.is_overridable(stored):
        raise Unsuitable("overridable-initializer", f"the caller may replace `{name}`, which is also a graph input")
    axes = {weight.axis for weight in weights}
    axis = axes.pop()
    if stored.producer() is not None and axis is None:
        raise _behind(stored, facts)
    if facts.dtype(stored) not in WIDE:
        kind = facts.dtype(stored)
        raise Unsuitable("narrow-type", f"`{name}` is of type {'unknown' if kind is None else kind.name}")
    if axes or axis is None:
        raise Unsuitable("disagreeing-readers", f"those who read `{name}` have their outputs along different axes")
    others = [weight.name for weight in weights if weight not in chosen]
    if others or stored.is_graph_output():
        whom = f"`{others[0]}` also reads `{name}`" if others else f"`{name}` is also an output of the model"
        raise Unsuitable("disagreeing-readers", f"{whom}, and is to stay as it is")
    return axis


def _behind(value: ir.Value, facts: Facts) -> Unsuitable:
    """Why the weight `value`, which arithmetic makes, stays."""
    chain = chain_of(value, facts)
    if chain.is_quantized():
        return Unsuitable("quantized-weights", f"`{value.name}` comes from quantized numbers")
    try:
        form = form_of(chain)
    except Unexecutable:
        form = None
    if form is not None and form.kind == "WeightNorm":
        return Unsuitable("already", f"`{value.name}` has a weight norm")
    return Unsuitable("computed-weight", f"`{value.name}` is computed from other constants")


def _computed(stored: ir.Value, axes: tuple[int, ...], emitter: Emitter) -> float:
    """Put g · v/‖v‖ in the place of `stored`; how far it is from that in float64, relative to each norm."""
    facts, name = emitter.facts, stored.name or ""
    dtype = facts.dtype(stored) or ir.DataType.FLOAT
    weight = facts.float64(stored)
    split = partial(_split, axes=axes, dtype=dtype)
    direction, gain, is_exact = split(weight)
    try:
        rounded(gain, dtype, f"{name}/g")
    except NotFinite as problem:
        raise Unsuitable("not-finite", str(problem)) from problem
    if not is_exact:
        raise Unsuitable("narrow-type", f"the numbers of `{name}` differ too much in size for one norm in {dtype.name}")
    v = plain_weight(emitter, f"{name}/v", direction.shape, lambda: split(facts.float64(stored))[0], dtype)
    g = plain_weight(emitter, f"{name}/g", gain.shape, lambda: split(facts.float64(stored))[1], dtype)
    product = _product(emitter, v, g, axes, name)
    chain = chain_of(product[-1].outputs[0], facts)
    error = apart(weight, chain.run(), axes)
    if not error <= TOLERANCE:
        for leaf in chain.leaves:
            del facts.model.graph.initializers[leaf.name or ""]
        raise Unsuitable("proof-failed", f"g · v/‖v‖ differs from `{name}` by {error:.1e}")
    _take_place(stored, product)
    return error


def _split(weight: Floats, axes: tuple[int, ...], dtype: ir.DataType) -> tuple[Floats, Floats, bool]:
    """v, g, and whether g·v/‖v‖ is the weight exactly but for the rounding of norms.

    v is the weight, but 1 where its whole group is 0, so that 0·1/‖1‖ stays 0; and a group that is so large or small
    that the sum of its squares would leave the range of `dtype` is brought nearer to 1 by a power of two.
    """
    largest = np.abs(weight).max(axis=axes, keepdims=True)
    exponent = np.frexp(largest)[1]
    most = np.finfo(dtype.numpy()).maxexp // 3
    shift = np.clip(exponent, -most, most) - exponent
    scaled = np.ldexp(weight, shift)
    direction = np.where(largest > 0, scaled, 1.0)
    with np.errstate(over="ignore"):
        gain = np.ldexp(np.sqrt((scaled * scaled).sum(axis=axes, keepdims=True)), -shift)
        # A weight that was made in float64 is rounded in any case: v, brought back, must be what the weight is then.
        kept = np.where(largest > 0, direction.astype(dtype.numpy()), 0.0)
        is_exact = np.array_equal(np.ldexp(kept, -shift).astype(dtype.numpy()), weight.astype(dtype.numpy()))
    return direction, gain, is_exact


def _product(emitter: Emitter, v: ir.Value, g: ir.Value, axes: tuple[int, ...], name: str) -> list[ir.Node]:
    """Nodes that compute g · v/‖v‖."""
    facts = emitter.facts
    attributes: dict[str, ir.Attr] = {"keepdims": ir.AttrInt64("keepdims", 1)}
    inputs: list[ir.Value | None] = [v]
    if facts.model.opset_imports.get("", 1) < FROM_ATTRIBUTE_TO_INPUT:
        attributes["axes"] = ir.AttrInt64s("axes", list(axes))
    else:
        inputs.append(emitter.raw(np.asarray(axes, dtype=np.int64), f"{name}/axes"))
    norm = emitter.node("ReduceL2", inputs, f"{name}/norm", g, attributes)
    unit = emitter.node("Div", [v, norm.outputs[0]], f"{name}/unit", v)
    weight = emitter.node("Mul", [g, unit.outputs[0]], f"{name}/weight", v)
    for node, like in ((norm, g), (unit, v), (weight, v)):
        for table in facts.shapes:
            table[node.outputs[0]] = facts.shape(like) or ()
    return [norm, unit, weight]


def _take_place(stored: ir.Value, nodes: list[ir.Node]) -> None:
    """Let everybody read what `nodes` compute; it takes over the name of `stored`, which goes."""
    new, maker = nodes[-1].outputs[0], stored.producer()
    home = stored.graph if maker is None else maker.graph
    assert isinstance(home, ir.Graph)
    stored.replace_all_uses_with(new)
    if maker is not None:
        home.insert_after(maker, nodes)
        home.remove(maker, safe=True)
    else:
        home.insert_before(home[0], nodes)  # before all readers, in bodies too
        home.initializers.pop(stored.name or "")
    new.name = stored.name
