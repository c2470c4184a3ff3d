"""The operands of a sum as linear terms W * x + b of the values they read, all in one form.

Every weight is [outputs, inputs of a group, kernel ...] in float64, computed when it is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normswap.chains import chain_of
from normswap.facts import Facts
from normswap.merge.sums import Slot, Sum
from normswap.merge.window import Frame, Window, of_conv, per_axis
from normswap.norm import Norm
from normswap.reference import ONNX_DOMAINS, Floats, attribute, attribute_float
from normswap.transfer import Blocked


@dataclass(frozen=True, eq=False)
class Term:
    """One operand of a sum, `value`, which input `slot` of a node of the sum reads.

    An operator has a frame, a window and a weight; an Affine of `source`, or `source` itself, a `gain` per channel; a
    constant only a `bias`. Gain and bias broadcast against the sum. What would be a term but for a reason carries it.
    """

    value: ir.Value
    slot: Slot
    source: ir.Value | None = None
    frame: Frame | None = None
    window: Window | None = None
    weight: Callable[[], Floats] | None = None
    gain: Floats | None = None
    bias: Callable[[], Floats] | None = None
    blocked: Blocked | None = None

    @property
    def node(self) -> ir.Node | None:
        """The node that computes the term; None for a constant, and for the source itself."""
        return None if self.source in (None, self.value) else self.value.producer()

    @property
    def taps(self) -> int:
        """How many elements of a channel one output element sees."""
        return 1 if self.window is None else math.prod(self.window.kernel)

    def __str__(self) -> str:
        """The term in the user's words."""
        return f"`{self.value.name}`" if self.node is None else described(self.node)


def read(slot: Slot, facts: Facts, affines: Mapping[ir.Value, Norm]) -> Term | None:
    """The operand at `slot` as a linear term; None where it is neither linear nor constant."""
    node, index = slot
    value = node.inputs[index]
    assert value is not None
    if facts.is_constant(value):
        return Term(value, slot, bias=lambda: facts.float64(value))
    if value in affines:
        norm = affines[value]
        gain = np.ones(()) if norm.gain is None else norm.gain.array
        bias = None if norm.bias is None else norm.bias.array
        term = Term(value, slot, norm.input, gain=gain, bias=None if bias is None else lambda: bias)
        return _alone(term, norm.nodes[-1])
    producer = value.producer()
    reader = None if producer is None or producer.domain not in ONNX_DOMAINS else OPERATORS.get(producer.op_type)
    if producer is None or reader is None or producer.graph is not node.graph or producer.inputs[0] is None:
        return None
    source = producer.inputs[0]
    blocked = _constants(producer, facts)
    if blocked is not None:
        return Term(value, slot, source, blocked=blocked)
    read_as = reader(producer, facts)
    if isinstance(read_as, Blocked):
        return Term(value, slot, source, blocked=read_as)
    frame, window, weight, bias_of = read_as
    return _alone(Term(value, slot, source, frame, window, weight, bias=bias_of), producer)


def identities(total: Sum, base: Term) -> list[Term]:
    """The operands that are what `base` reads, as terms."""
    source = base.source
    slots = [(node, index) for node, index in total.slots if node.inputs[index] is source]
    return [] if source is None else [Term(source, slot, source, gain=np.ones(())) for slot in slots]


def _alone(term: Term, node: ir.Node) -> Term:
    """The term, blocked where somebody else reads its value too."""
    others = [use.node for use in term.value.uses() if (use.node, use.idx) != term.slot]
    if term.value.is_graph_output():
        reason = Blocked("graph-output", f"{described(node)}, whose result is an output")
    elif others:
        reason = Blocked("foreign-reader", f"{described(node)}, whose result {described(others[0])} reads too")
    else:
        return term
    return Term(term.value, term.slot, term.source, blocked=reason)


def described(node: ir.Node) -> str:
    """A node in the user's words."""
    return f"{node.op_type} `{node.name or node.outputs[0].name}`"


def _constants(node: ir.Node, facts: Facts) -> Blocked | None:
    for value in node.inputs[1:]:
        if value is None:
            continue
        if not facts.is_constant(value):
            reason_id = "overridable-initializer" if facts.is_overridable(value) else "opaque-producer"
            return Blocked(reason_id, f"{described(node)}, whose `{value.name}` is not constant")
        if chain_of(value, facts).is_quantized():
            return Blocked("quantized-weights", f"{described(node)}, whose weight is stored quantized")
    return None


Linear = tuple[Frame, Window, Callable[[], Floats], "Callable[[], Floats] | None"]


def _matmul(node: ir.Node, facts: Facts) -> Linear | Blocked:
    weight = node.inputs[1]
    shape = None if weight is None else facts.shape(weight)
    if weight is None or shape is None or len(shape) != 2:
        return Blocked("unknown-shape", f"{described(node)}, whose weight is no matrix")
    return Frame("Product", shape[1], shape[0]), Window((), (), (), ()), lambda: facts.float64(weight).T, None


def _gemm(node: ir.Node, facts: Facts) -> Linear | Blocked:
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    shape = None if weight is None else facts.shape(weight)
    if weight is None or shape is None or len(shape) != 2:
        return Blocked("unknown-shape", f"{described(node)}, whose weight is no matrix")
    alpha, beta = attribute_float(node, "alpha", 1.0), attribute_float(node, "beta", 1.0)
    is_turned = bool(attribute(node, "transB", 0))  # then the weight is [outputs, inputs] as it is
    outputs, inputs = shape if is_turned else shape[::-1]
    frame = Frame("Product", outputs, inputs, transposed=bool(attribute(node, "transA", 0)))

    def weights() -> Floats:
        matrix = facts.float64(weight)
        return alpha * (matrix if is_turned else matrix.T)

    return frame, Window((), (), (), ()), weights, None if bias is None else lambda: beta * facts.float64(bias)


def _conv(node: ir.Node, facts: Facts) -> Linear | Blocked:
    source, weight, bias = [*node.inputs, None][:3]
    shape = None if weight is None else facts.shape(weight)
    if source is None or weight is None or shape is None or len(shape) < 3:
        return Blocked("unknown-shape", f"{described(node)}, whose weight is no kernel")
    groups, kernel = attribute(node, "group", 1), shape[2:]
    frame = Frame("Conv", shape[0], shape[1], groups, per_axis(node, "strides", len(kernel)))
    dims = facts.dims(source)
    window = of_conv(node, frame.strides, kernel, (None,) * len(kernel) if dims is None else dims[2:])
    if window is None:
        return Blocked("unknown-shape", f"{described(node)}, whose padding depends on a size that is not known")
    column = (-1,) + (1,) * len(kernel)
    bias_of = None if bias is None else lambda: facts.float64(bias).reshape(column)
    return frame, window, lambda: facts.float64(weight), bias_of


OPERATORS: Mapping[str, Callable[[ir.Node, Facts], Linear | Blocked]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
