"""Constant Affines: BatchNorm at inference, and arithmetic that is one whoever spelled it (LayerScale, UN, RepBN ...).

A chain of products and sums with constants computes scale · root + shift, and so does a sum of two with one root. Such
a chain is a goal where it scales per channel, ends a residual branch or subtracts a running mean; all other constant
arithmetic (activations, scales of attention, plain biases) is none, and is left as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from normswap import batch_norm
from normswap.facts import Facts
from normswap.norm import Norm, Parameter, Unrecognized
from normswap.reference import ONNX_DOMAINS, Floats
from normswap.views import label

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})
MOST_VALUES = 256  # how far back a residual branch is looked through for a weight
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
# Operators that hand on every element, elsewhere or in another type: a branch may end in some.
COPYING = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
# What stands between the product of queries and keys and its Softmax: masks, biases of positions, soft caps.
ON_SCORES = ARITHMETIC | COPYING | {"Clip", "Concat", "Expand", "Max", "Min", "Slice", "Tanh", "Where"}


@dataclass(frozen=True, eq=False)
class Line:
    """A value that is scale · root + shift, arrays of the root's rank, computed by `nodes`."""

    root: ir.Value
    scale: Floats
    shift: Floats
    nodes: tuple[ir.Node, ...]


def find(graph: ir.Graph, path: str, facts: Facts, covered: Collection[ir.Node]) -> Iterator[Norm | Unrecognized]:
    """Every constant Affine of `graph` (not of graphs within) outside the nodes `covered` by other norms."""
    taken = set(covered)
    for node in graph:
        if batch_norm.is_one(node) and not facts.is_constant(node.outputs[0]):
            found = batch_norm.of_operator(node, path, facts)
            if isinstance(found, Norm):
                found = _with_parallel(found, facts, taken) or found
            yield found
            taken.update(found.nodes if isinstance(found, Norm) else (node,))
    for node in graph:
        if node not in taken and (chain := _chain(node, path, facts, taken)) is not None:
            yield chain
            taken.update(chain.nodes)


def _with_parallel(norm: Norm, facts: Facts, taken: Collection[ir.Node]) -> Norm | None:
    """BN(x) + η·x (RepBN), or BN(x) + x: one Affine of x; None where that is not what follows `norm`."""
    uses = list(norm.output.uses())
    if len(uses) != 1 or norm.output.is_graph_output():
        return None
    total, other = uses[0].node, uses[0].node.inputs[1 - uses[0].idx] if len(uses[0].node.inputs) == 2 else None
    if total.op_type != "Add" or total.domain not in ONNX_DOMAINS or total.graph is not norm.nodes[0].graph:
        return None
    line = None if other is None or other is norm.output or total in taken else _line(other, norm.input, facts, taken)
    if line is None or facts.dims(total.outputs[0]) != facts.dims(norm.input):
        return None
    return replace(
        norm,
        name=label(total),
        kind="Affine",
        epsilon=0.0,
        output=total.outputs[0],
        nodes=(*norm.nodes, *line.nodes, total),
        spelling="decomposed",
        gain=Parameter((1.0 if norm.gain is None else norm.gain.array) + line.scale),
        bias=Parameter((0.0 if norm.bias is None else norm.bias.array) + line.shift),
        variant="RepBN",
    )


def _line(value: ir.Value, root: ir.Value, facts: Facts, taken: Collection[ir.Node]) -> Line | None:
    """`value` as a chain of constant arithmetic from `root`, each step of which is read by the next alone."""
    steps: list[ir.Node] = []
    while value is not root:
        node = value.producer()
        if node is None or node in taken or value.is_graph_output() or len(list(value.uses())) != 1:
            return None
        if _factor(node, facts) is None:
            return None
        steps.append(node)
        value = _source(node, facts)
    return _composed(root, steps[::-1], facts)


# --- chains of products and sums ------------------------------------------------------------------------------------


def _factor(node: ir.Node, facts: Facts) -> int | None:
    """Which operand of `node` is the constant that scales or shifts the other one; None where there is no such."""
    if node.op_type not in ARITHMETIC or node.domain not in ONNX_DOMAINS or len(node.inputs) != 2:
        return None
    constant = [value is not None and facts.is_constant(value) for value in node.inputs]
    if constant[0] == constant[1] or (node.op_type == "Div" and constant[0]):
        return None
    index = 0 if constant[0] else 1
    factor, source = node.inputs[index], node.inputs[1 - index]
    shape, dims = facts.shape(factor) if factor else None, facts.dims(source) if source else None
    dtype = None if factor is None else facts.dtype(factor)
    if shape is None or dims is None or len(shape) > len(dims) or facts.dims(node.outputs[0]) != dims:
        return None
    lead = len(dims) - len(shape)
    fits = all(size in (1, dims[lead + axis]) for axis, size in enumerate(shape))
    return index if fits and dtype is not None and dtype.is_floating_point() else None


def _source(node: ir.Node, facts: Facts) -> ir.Value:
    index = _factor(node, facts)
    assert index is not None
    source = node.inputs[1 - index]
    assert source is not None
    return source


def _composed(root: ir.Value, nodes: list[ir.Node], facts: Facts) -> Line | None:
    """What a chain of arithmetic nodes computes of `root`; None where it is not finite."""
    rank = len(facts.dims(root) or ())
    scale, shift = np.ones((1,) * rank), np.zeros((1,) * rank)
    for node in nodes:
        index = _factor(node, facts)
        assert index is not None
        factor = node.inputs[index]
        assert factor is not None
        number = facts.float64(factor)
        number = number.reshape((1,) * (rank - number.ndim) + number.shape)
        with np.errstate(all="ignore"):
            if node.op_type == "Mul":
                scale, shift = scale * number, shift * number
            elif node.op_type == "Div":
                scale, shift = scale / number, shift / number
            elif node.op_type == "Add":
                shift = shift + number
            elif index == 1:
                shift = shift - number
            else:  # c − x
                scale, shift = -scale, number - shift
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return None
    return Line(root, scale, shift, tuple(nodes))


def _chain(node: ir.Node, path: str, facts: Facts, taken: Collection[ir.Node]) -> Norm | None:
    """The longest chain that begins at `node`, cut after its last step per channel, or last factor of a branch."""
    if not _begins(node, facts):
        return None
    nodes, current = [node], node
    while True:
        output = current.outputs[0]
        uses = list(output.uses())
        if len(uses) != 1 or output.is_graph_output() or uses[0].node in taken:
            break
        current = uses[0].node
        index = _factor(current, facts)
        if index is None or uses[0].idx == index or current.graph is not node.graph:
            break
        nodes.append(current)
    factors = [step for step in nodes if step.op_type in ("Mul", "Div")] if _ends_branch(output, facts) else []
    kept = (nodes.index(step) for step in nodes if step is node or step in factors or _per_channel(step, facts))
    del nodes[max(kept) + 1 :]
    line = _composed(_source(node, facts), nodes, facts)
    return None if line is None else _norm_of(line, path, facts)


def _begins(node: ir.Node, facts: Facts) -> bool:
    """Whether a constant Affine may begin at `node`: a factor per channel, a mean, or the scale of a branch."""
    index = _factor(node, facts)
    if index is None:
        return False
    if node.op_type in ("Mul", "Div"):
        begins = _per_channel(node, facts) or _ends_branch(node.outputs[0], facts)
    else:
        begins = node.op_type == "Sub" and index == 1 and _per_channel(node, facts)
    return begins and not (_follows_product(node, facts) and _precedes_softmax(node))


def _per_channel(node: ir.Node, facts: Facts) -> bool:
    """Whether the constant of `node` has more than one element, along one axis only."""
    index = _factor(node, facts)
    factor = None if index is None else node.inputs[index]
    shape = () if factor is None else facts.shape(factor) or ()
    return sum(size > 1 for size in shape) == 1


def _follows_product(node: ir.Node, facts: Facts) -> bool:
    """Whether `node` changes a product of two activations, as scores of attention are."""
    queue, seen = [node], {node}
    while queue and len(seen) < MOST_VALUES:
        for value in queue.pop().inputs:
            producer = None if value is None else value.producer()
            if producer is None or producer in seen:
                continue
            if producer.op_type in ("MatMul", "Einsum") and len(producer.inputs) == 2:
                if not any(item is not None and facts.is_constant(item) for item in producer.inputs):
                    return True
            elif producer.op_type in ON_SCORES:
                seen.add(producer)
                queue.append(producer)
    return False


def _precedes_softmax(node: ir.Node) -> bool:
    """Whether what `node` makes goes into a Softmax."""
    queue, seen = [node], {node}
    while queue and len(seen) < MOST_VALUES:
        for reader in (use.node for value in queue.pop().outputs for use in value.uses()):
            if reader.op_type == "Softmax":
                return True
            if reader.op_type in ON_SCORES and reader not in seen:
                seen.add(reader)
                queue.append(reader)
    return False


def _only_factor(line: Line, facts: Facts) -> ir.Value | None:
    """The one tensor that a chain of one product multiplies by."""
    index = _factor(line.nodes[0], facts)
    return (
        line.nodes[0].inputs[index]
        if len(line.nodes) == 1 and line.nodes[0].op_type == "Mul" and index is not None
        else None
    )


def _variant(line: Line, facts: Facts) -> str:
    """The literature's word for a line, or what it does where that alone is no BatchNorm."""
    if _ends_branch(line.nodes[-1].outputs[0], facts) and not line.shift.any():
        return "LayerScale" if line.scale.size > 1 else "SkipInit"
    if not line.shift.any():
        return "scale"
    if (line.scale != 1).any():
        return "BatchNorm arithmetic"
    return "mean-only BatchNorm" if len(line.nodes) > 1 else "shift"


def _ends_branch(value: ir.Value, facts: Facts) -> bool:
    """Whether `value`, scaled, shifted and laid out anew, is only added to an activation of the same shape."""
    uses = list(value.uses())
    while len(uses) == 1 and not value.is_graph_output():
        reader, index = uses[0]
        if not (reader.op_type in COPYING and index == 0) and _factor(reader, facts) != 1 - index:
            break
        value = reader.outputs[0]
        uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type != "Add":
        return False
    other = uses[0].node.inputs[1 - uses[0].idx]
    if other is None or other is value or facts.is_constant(other):
        return False
    same = facts.dims(other) is not None and facts.dims(other) == facts.dims(value)
    return same and _weight_between(other, value)


def _weight_between(stream: ir.Value, value: ir.Value) -> bool:
    """Whether a weight is on the way from `stream` to `value`: else it is no branch (x + 0.044715·x³ of a GELU)."""
    queue, seen = [value], {stream, value}
    while queue and len(seen) < MOST_VALUES:
        producer = queue.pop().producer()
        if producer is None:
            continue
        if producer.op_type in WEIGHTED:
            return True
        fresh = [item for item in producer.inputs if item is not None and item not in seen]
        seen.update(fresh)
        queue += fresh
    return False


def _norm_of(line: Line, path: str, facts: Facts) -> Norm:
    last = line.nodes[-1]
    scales, shifts = bool((line.scale != 1).any()), bool(line.shift.any())
    wide = np.broadcast_shapes(line.scale.shape, line.shift.shape)
    return Norm(
        name=label(last),
        kind="Affine",
        axes=tuple(axis for axis, size in enumerate(wide) if size > 1),
        size=int(np.prod(wide)),
        epsilon=0.0,
        input=line.root,
        output=last.outputs[0],
        nodes=line.nodes,
        spelling="decomposed",
        gain=Parameter(line.scale, _only_factor(line, facts)) if scales else None,
        bias=Parameter(line.shift) if shifts else None,
        variant=_variant(line, facts),
        graph=path,
    )
