"""One merge carried out: new weights in float64, the proof, and the graph afterwards.

The equation is that of the whole sum, old operators against new, on inputs so small that every border shows and so
large that something lies between; where a size is free, on one size for each remainder that a stride leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap import maps, reference
from normswap.drawing import DEVIATION, MEAN, generator
from normswap.emit import Emitter, NotFinite, rounded
from normswap.facts import Facts
from normswap.graph_edits import become, drop_unread
from normswap.ledger import Proof
from normswap.maps import Deferred, Shape
from normswap.merge.sums import Slot, Sum, prune
from normswap.merge.terms import Term
from normswap.merge.window import Frame, Window, places
from normswap.prove import TOLERANCE, relative_error
from normswap.reference import Array, Floats, attribute
from normswap.rewrite import Broken


@dataclass(frozen=True, eq=False)
class Merger:
    """Terms of a sum that become one operator: that of `base`, with a kernel of `window`; values are of `rank`."""

    total: Sum
    base: Term
    terms: tuple[Term, ...]
    window: Window
    rank: int

    @property
    def frame(self) -> Frame:
        """How the operator reads its input."""
        assert self.base.frame is not None
        return self.base.frame

    @property
    def node(self) -> ir.Node:
        """The node of the base."""
        assert self.base.node is not None
        return self.base.node

    @property
    def source(self) -> ir.Value:
        """What all terms read."""
        assert self.base.source is not None
        return self.base.source


def carry_out(merger: Merger, emitter: Emitter, *, proving: bool = True) -> Proof:
    """Put the merger into the graph that the emitter's facts describe; without `proving`, for a trial only.

    Raises `emit.NotFinite` where a new weight does not fit into its type, and `Broken`; the graph is then as it was.
    """
    made: list[ir.Value] = []
    try:
        made.append(_constant(merger, emitter, 1, deferred_weight(merger)))
        if any(term.bias is not None for term in merger.terms):
            made.append(_constant(merger, emitter, 2, deferred_bias(merger)))
        new = _operator(merger, with_bias=len(made) > 1 and merger.node.op_type != "MatMul")
        proof = _prove(merger, new, made, emitter.facts) if proving else Proof(0, 0.0)
    except (NotFinite, Broken):
        for value in made:
            emitter.facts.model.graph.initializers.pop(value.name or "", None)
        raise
    _relink(merger, new, made, emitter.facts)
    return proof


def _prove(merger: Merger, new: ir.Node, made: list[ir.Value], facts: Facts) -> Proof:
    constants = [facts.float64(value) for value in made]
    for value, array in zip(made, constants, strict=True):
        rounded(array, value.dtype or ir.DataType.FLOAT, value.name or "")
    try:
        error = equation(merger, new, constants, facts)
    except reference.Unexecutable as problem:
        raise Broken(f"could not be executed: {problem}") from problem
    if not error <= TOLERANCE:
        raise Broken(f"differs by {error:.1e}")
    return Proof(1, error)


# --- weights --------------------------------------------------------------------------------------------------------


def deferred_weight(merger: Merger) -> Deferred:
    """The sum of all weights as the operator wants it, when it is wanted: weights are large, and computed again."""
    frame, node = merger.frame, merger.node
    is_turned = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))
    shape = (frame.outputs, frame.inputs, *merger.window.kernel)
    if is_turned:
        return Deferred(shape[::-1], lambda: weight(merger).T, keep=False)
    return Deferred(shape, lambda: weight(merger), keep=False)


def weight(merger: Merger) -> Floats:
    """The sum of all weights, [outputs, inputs of a group, kernel ...]."""
    frame = merger.frame
    total = np.zeros((frame.outputs, frame.inputs, *merger.window.kernel))
    for term in merger.terms:
        taps = places(term.window or frame.point, merger.window)
        if term.weight is not None:
            total[(slice(None), slice(None), *taps)] += term.weight()
        elif term.gain is not None:
            channel, gain = np.arange(frame.outputs), frame.per_channel(term.gain, merger.rank)
            assert gain is not None
            # Output channel c reads input channel c, which is number c mod I of its group.
            total[(channel, channel % frame.inputs, *(tap.start for tap in taps))] += gain
    return total


def deferred_bias(merger: Merger) -> Deferred:
    """The sum of all biases, [outputs], when it is wanted."""
    return Deferred((merger.frame.outputs,), lambda: bias(merger))


def bias(merger: Merger) -> Floats:
    """The sum of all biases, [outputs]."""
    total = np.zeros(merger.frame.outputs)
    for term in merger.terms:
        part = None if term.bias is None else merger.frame.per_channel(term.bias(), merger.rank)
        if part is not None:
            total += part
    return total


def _constant(merger: Merger, emitter: Emitter, index: int, array: Deferred) -> ir.Value:
    old = merger.node.inputs[index] if index < len(merger.node.inputs) else None
    name = f"{merger.node.name or merger.node.op_type}/bias" if old is None else f"{old.name}/merged"
    dtype = emitter.facts.dtype(merger.total.root.outputs[0]) or ir.DataType.FLOAT
    return emitter.constant(name, array.shape, maps.affine(len(array.shape), shift=array), dtype)


def _operator(merger: Merger, *, with_bias: bool) -> ir.Node:
    """The new operator, as a node that no graph knows."""
    node, window = merger.node, merger.window
    attributes = dict(node.attributes)
    for name in ("alpha", "beta", "auto_pad"):
        attributes.pop(name, None)
    if merger.frame.operator == "Conv":
        attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", window.kernel)
        attributes["pads"] = ir.AttrInt64s("pads", (*window.begins, *window.ends))
        attributes["dilations"] = ir.AttrInt64s("dilations", window.dilations)
    inputs = [ir.Value(name=name) for name in ("x", "w", "b")[: 3 if with_bias else 2]]
    return ir.Node(node.domain, node.op_type, inputs, attributes, outputs=[ir.Value(name="y")], version=node.version)


# --- the equation ---------------------------------------------------------------------------------------------------


def equation(merger: Merger, new: ir.Node, constants: list[Floats], facts: Facts) -> float:
    """How far `new` on `constants` is from the old sum, relative to |n|(|x|); every term is executed as it stands.

    Raises `reference.Unexecutable`.
    """
    random = generator(merger.total.root.name or merger.total.root.op_type)
    opset = facts.opset(merger.node)
    worst = 0.0
    for shape in _probes(merger, facts):
        x = random.normal(MEAN, DEVIATION, shape)
        after = _run(new, x, constants, opset)
        size = np.abs(_run(new, np.abs(x), [np.abs(array) for array in constants], opset))
        before: Floats = np.zeros(())
        for term in merger.terms:
            part = _compute(term.value, {merger.source: x}, facts)
            before, size = before + part, size + np.abs(part)
        worst = max(worst, relative_error(before, after, size))
    return worst


def _run(node: ir.Node, x: Floats, constants: list[Floats], opset: int) -> Floats:
    count = len(node.inputs) - 1
    result = reference.run(node, [x, *constants[:count]], opset)[0].astype(np.float64)
    return result + sum(constants[count:])  # the bias of a MatMul


def _compute(value: ir.Value, known: Mapping[ir.Value, Array], facts: Facts) -> Floats:
    """`value` by the nodes that make it of what is known and of constants, in float64."""
    if value in known:
        return known[value].astype(np.float64)
    if facts.is_constant(value):
        return facts.float64(value)
    node = value.producer()
    if node is None:
        raise reference.Unexecutable(f"`{value.name}` does not follow from the input")
    inputs = [None if source is None else _compute(source, known, facts) for source in node.inputs]
    return reference.run(node, inputs, facts.opset(node))[value.index() or 0].astype(np.float64)


def _probes(merger: Merger, facts: Facts) -> Iterator[Shape]:
    frame, window = merger.frame, merger.window
    dims = facts.dims(merger.source) or ()
    if frame.operator == "Product":
        rows = tuple(2 + axis for axis in range(merger.rank - 1))
        yield (frame.inputs, *rows) if frame.transposed else (*rows, frame.inputs)
        return
    free = [stride for stride, size in zip(frame.strides, dims[2:], strict=True) if size is None]
    for remainder in range(max(free, default=1)):
        sizes = []
        for axis, (stride, size) in enumerate(zip(frame.strides, dims[2:], strict=True)):
            least = window.reach(axis) + 2 * stride + 1
            if size is None:
                sizes.append(least + remainder)
            else:  # padding may depend on the remainder of the size
                sizes.append(min(size, least + (size - least) % stride))
        yield (2, frame.groups * frame.inputs, *sizes)


# --- the graph ------------------------------------------------------------------------------------------------------


def _relink(merger: Merger, new: ir.Node, made: list[ir.Value], facts: Facts) -> None:
    """Let the sum's last node become the operator, or where other operands are left, the base's own node."""
    total, base, node = merger.total, merger.base, merger.node
    slots = {term.slot: None for term in merger.terms}
    count = len(new.inputs) - 1
    spare = made[count:]  # the bias of a MatMul, which takes the place of another operand
    is_whole = set(slots) == set(total.slots) and not spare
    released = [*(term.value for term in merger.terms), *(inner.outputs[0] for inner in total.inner)]
    old = [value for value in node.inputs[1:] if value is not None]
    graph = facts.model.graph
    names = [value.name or "" if value.graph is graph and value.is_initializer() else "" for value in old]
    inputs = [merger.source, *made[:count]]
    if is_whole:
        become(total.root, new, inputs)
    else:
        become(node, new, inputs)
        kept: dict[Slot, ir.Value | None] = {**slots, base.slot: base.value}
        if spare:
            other = next(term.slot for term in merger.terms if term is not base)
            kept[other] = spare[0]
        prune(total, kept)
    drop_unread([*released, *old])
    for name, value in zip(names, made, strict=False):
        if name and name not in graph.initializers:  # the old one is gone, and the new one takes over its name
            del graph.initializers[value.name or ""]
            value.name = name
            graph.register_initializer(value)
