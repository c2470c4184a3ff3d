"""Residual branches that add nothing: x + 0 · f(x) is x wherever f(x) is finite (SkipInit and ReZero with α = 0).

The zero may still be a factor, a scalar or a whole LayerScale, or sit in the weight and bias of a linear operator.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from normswap import reference
from normswap.batch_norm import is_one
from normswap.drawing import DEVIATION, MEAN, generator
from normswap.facts import Facts
from normswap.graph_edits import become, drop_unread
from normswap.ledger import Proof, Refusal, Rewrite
from normswap.maps import Shape
from normswap.merge.sums import same_shape
from normswap.norm_operators import in_training
from normswap.reference import ONNX_DOMAINS, Array
from normswap.rewrite import Broken
from normswap.views import label

RULE = "dead-branch"
# Products by the positions of their factors and of what they add: zero if one factor is, and all that is added.
PRODUCTS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "BatchNormalization": ((1,), (2,)),
    "Conv": ((0, 1), (2,)),
    "ConvTranspose": ((0, 1), (2,)),
    "Gemm": ((0, 1), (2,)),
    "MatMul": ((0, 1), ()),
    "Mul": ((0, 1), ()),
}
SUMS = frozenset({"Add", "Sub", "Sum"})
# Of zeros these make zeros.
PASSES = frozenset({"Cast", "Flatten", "Identity", "Neg", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
# How many positions the kernel of a convolution has on its probe, at least.
POSITIONS = 3


def remove_dead_branches(
    model: ir.Model, facts: Facts, sites: Collection[ir.Value] | None = None, *, proving: bool = True
) -> tuple[list[Rewrite], list[Refusal], dict[ir.Value, ir.Value]]:
    """Remove each branch that adds zero and has a value of `sites` on the way from the zero to the Add (None: each).

    Also what took the place of values that are gone: a sum that is an output of its graph becomes an Identity instead.
    """
    rewrites: list[Rewrite] = []
    refusals: list[Refusal] = []
    replaced: dict[ir.Value, ir.Value] = {}
    for graph in model.graphs():
        for node in list(graph):
            found = _dead_operand(node, facts) if node.graph is not None else None
            if found is None:
                continue
            index, path = found
            kept = node.inputs[1 - index]
            assert kept is not None
            if sites is not None and not any(step.outputs[0] in sites for step in path):
                continue
            site, who = label(path[0]), f"{path[0].op_type} `{label(path[0])}`"
            try:
                proof = prove(node, index, path, facts) if proving else Proof(0, 0.0)
            except (Broken, reference.Unexecutable) as problem:
                refusals.append(Refusal(site, "proof-failed", f"{who}: that its branch adds zero {problem}"))
                continue
            detail = f"Add `{label(node)}` adds zero, as long as what {who} multiplies by zero is finite"
            rewrites.append(Rewrite(site, RULE, True, proof, detail))
            _remove(node, kept, replaced)
    return rewrites, refusals, replaced


def _dead_operand(node: ir.Node, facts: Facts) -> tuple[int, tuple[ir.Node, ...]] | None:
    """Which operand of an Add is zero while the other one has the shape of the sum, and what makes it zero."""
    if node.op_type != "Add" or node.domain not in ONNX_DOMAINS or node.attributes:
        return None
    for index, other in ((0, node.inputs[1]), (1, node.inputs[0])):
        value = node.inputs[index]
        if value is None or other is None or facts.is_constant(other):
            continue
        if same_shape(other, node.outputs[0], facts) and _is_certain(other, node.outputs[0], facts):
            path = zero_path(value, facts)
            if path:
                return index, path
    return None


def _is_certain(left: ir.Value, right: ir.Value, facts: Facts) -> bool:
    """Whether free dimensions on which two values agree are one dimension, and not only taken for it."""
    free = [axis for axis, size in enumerate(facts.dims(left) or ()) if size is None]
    if not facts.by_axis or not free:
        return True
    if left.shape is None or right.shape is None:
        return False
    names = [(left.shape[axis], right.shape[axis]) for axis in free]
    return all(isinstance(name, ir.SymbolicDim) and name.value is not None and name == other for name, other in names)


def zero_path(value: ir.Value, facts: Facts) -> tuple[ir.Node, ...]:
    """The nodes from one that multiplies by a constant zero to the one that makes `value`; empty if it is not zero."""
    node = value.producer()
    if node is None or node.domain not in ONNX_DOMAINS or facts.is_constant(value):
        return ()
    if node.op_type in PASSES:
        return _then(node, 0, facts)
    if node.op_type in SUMS:
        other = [index for index in range(len(node.inputs)) if not _is_zero(node, index, facts)]
        return _then(node, other[0], facts) if len(other) == 1 else ()
    if node.op_type not in PRODUCTS or (is_one(node) and in_training(node, facts.opset(node))):
        return ()
    factors, addends = PRODUCTS[node.op_type]
    present = [index for index in addends if index < len(node.inputs) and node.inputs[index] is not None]
    if not all(_is_zero(node, index, facts) for index in present):
        return ()
    if any(_is_zero(node, index, facts) for index in factors):
        return (node,)
    return next((path for index in factors if (path := _then(node, index, facts))), ())


def _then(node: ir.Node, index: int, facts: Facts) -> tuple[ir.Node, ...]:
    """The path to input `index` of `node`, and `node`; empty if the input is not zero."""
    value = node.inputs[index]
    path = () if value is None else zero_path(value, facts)
    return (*path, node) if path else ()


def _is_zero(node: ir.Node, index: int, facts: Facts) -> bool:
    """Whether input `index` is a constant that is zero everywhere; a few of its elements tell most that are not."""
    value = node.inputs[index]
    shape = None if value is None or not facts.is_constant(value) else facts.shape(value)
    if value is None or shape is None:
        return False
    first = {axis: np.zeros(1, dtype=np.int64) for axis in range(len(shape))}
    return not facts.float64(value, first).any() and not facts.float64(value).any()


# --- the proof ------------------------------------------------------------------------------------------------------


def prove(node: ir.Node, index: int, path: Sequence[ir.Node], facts: Facts) -> Proof:
    """Execute the first of `path` on random input, then the others and the sum on the zeros that it makes.

    Under both bindings, so that the sum is seen to have the shape of x. Raises `Broken` and `reference.Unexecutable`.
    """
    for binding in range(2):
        random = generator(label(node))
        maker = path[0]
        extent = _extent(maker, facts)
        inputs = [None if value is None else _probe(value, facts, binding, random, extent) for value in maker.inputs]
        if reference.run(maker, inputs, facts.opset(maker))[0].any():
            raise Broken(f"is not true of {maker.op_type} `{label(maker)}`")
        known: dict[ir.Value, Array] = {maker.outputs[0]: np.zeros(_shape(maker.outputs[0], facts, binding))}
        for step in (*path[1:], node):
            for value in step.inputs:
                if value is not None and value not in known:
                    known[value] = _probe(value, facts, binding, random)
            read = [None if value is None else known[value] for value in step.inputs]
            known[step.outputs[0]] = reference.run(step, read, facts.opset(step))[0]
        kept = node.inputs[1 - index]
        if kept is None or not np.array_equal(known[node.outputs[0]], known[kept]):
            raise Broken(f"is not true of the sum `{label(node)}`")
    return Proof(2, 0.0)


def _extent(node: ir.Node, facts: Facts) -> int | None:
    """How large the probe of a convolution is at most along a spatial axis: of zeros every size is as good."""
    weight = node.inputs[1] if node.op_type in ("Conv", "ConvTranspose") else None
    if weight is None:
        return None
    dilations = node.attributes.get("dilations")
    largest = 1 if dilations is None else max(dilations.as_ints())
    return POSITIONS + largest * max(_shape(weight, facts, 0)[2:], default=1)


def _probe(
    value: ir.Value, facts: Facts, binding: int, random: np.random.Generator, extent: int | None = None
) -> Array:
    """Its own value where that is known, else random numbers; with an `extent`, at most so many along spatial axes."""
    array = facts.derived(value, binding)
    if array is not None:
        return array
    shape = _shape(value, facts, binding)
    if extent is not None:
        shape = (*shape[:2], *(min(size, extent) for size in shape[2:]))
    return random.normal(MEAN, DEVIATION, shape)


def _shape(value: ir.Value, facts: Facts, binding: int) -> Shape:
    shape = facts.shape(value, binding)
    if shape is None:
        raise reference.Unexecutable(f"the shape of `{value.name}` is not known")
    return shape


def _remove(node: ir.Node, kept: ir.Value, replaced: dict[ir.Value, ir.Value]) -> None:
    """Let `kept` stand for what the sum `node` makes."""
    total, operands = node.outputs[0], [value for value in node.inputs if value is not None]
    if total.is_graph_output():
        become(node, ir.Node("", "Identity", [ir.Value(name="x")], version=node.version), [kept])
        drop_unread(operands)
        return
    total.replace_all_uses_with(kept)
    replaced[total] = kept
    drop_unread([total])
