"""What bundled operators consist of: one short function each writes the pieces, in operators of their own.

`apart.add("Add", 0, 1)` is a piece that reads the first two inputs of the bundle; a value in place of a number is what
another piece makes. The function returns what stands for each output, or None where it cannot say what that is.
Sources: onnxruntime's operator schemas; what those leave open was measured on its CPU kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from normswap.contrib_operators import GATES, SILU
from normswap.norm_operators import BUNDLE_EPSILON, EPSILON
from normswap.reference import attribute, attribute_float

DOMAIN = "com.microsoft"
RANGE_SINCE, AXES_ARE_INPUTS_SINCE = 11, 13  # of the operator Range, of ReduceSum


@dataclass(eq=False)
class Apart:
    """The pieces of one bundle so far, and which input of which piece reads which input of the bundle."""

    node: ir.Node
    opset: int
    names: set[str]
    pieces: list[ir.Node] = field(default_factory=list)
    slots: list[tuple[int, ir.Node, int]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The user's word for the bundle."""
        return self.node.name or self.node.outputs[0].name or self.node.op_type

    def input(self, index: int) -> ir.Value | None:
        """Input `index` of the bundle; None where it is omitted."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def is_used(self, index: int) -> bool:
        """Whether output `index` of the bundle is read or delivered."""
        values = self.node.outputs[index : index + 1]
        return any(value.uses() or value.is_graph_output() for value in values)

    def add(
        self,
        operator: str,
        *operands: int | ir.Value,
        word: str,
        attributes: Iterable[ir.Attr] = (),
        domain: str = "",
        outputs: int = 1,
    ) -> ir.Value:
        """A piece, named after the bundle and a `word` (none: it is the norm itself), and its first output."""
        inputs = [self.input(item) if isinstance(item, int) else item for item in operands]
        results = [ir.Value(name=self._fresh(f"{word or 'norm'}{i or ''}")) for i in range(outputs)]
        name = results[0].name if word else self.node.name
        piece = ir.Node(domain, operator, inputs, attributes, outputs=results, name=name)
        self.slots += [(item, piece, at) for at, item in enumerate(operands) if isinstance(item, int)]
        self.pieces.append(piece)
        return results[0]

    def constant(self, numbers: int | list[int], word: str, dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        """A piece that is a constant of integers."""
        tensor = ir.tensor(np.asarray(numbers, dtype.numpy()))
        return self.add("Constant", word=word, attributes=[ir.AttrTensor("value", tensor)])

    def _fresh(self, word: str) -> str:
        candidate, count = f"{self.name}/{word}", 1
        while candidate in self.names:
            candidate, count = f"{self.name}/{word}_{count}", count + 1
        self.names.add(candidate)
        return candidate


Outputs = Mapping[int, ir.Value]


def _sum(apart: Apart, first: int | ir.Value, *terms: int | ir.Value) -> ir.Value:
    """The sum of the first and of those terms that are not omitted."""
    total = first
    for term in terms:
        if not isinstance(term, int) or apart.input(term) is not None:
            total = apart.add("Add", total, term, word="sum")
    assert isinstance(total, ir.Value)
    return total


def _epsilon(node: ir.Node, default: float) -> ir.Attr:
    return ir.AttrFloat32("epsilon", attribute_float(node, "epsilon", default))


# --- over the last axis ---------------------------------------------------------------------------------------------


def _skip_layer_normalization(apart: Apart) -> Outputs:
    """LayerNormalization of input + skip + bias: y, mean, inverse deviation, sum."""
    total = _sum(apart, 0, 1, 4)
    count = 3 if apart.is_used(1) or apart.is_used(2) else 1
    epsilon = _epsilon(apart.node, BUNDLE_EPSILON)
    y = apart.add("LayerNormalization", total, 2, 3, word="", attributes=[epsilon], outputs=count)
    return {**dict(enumerate(_outputs_of(y))), 3: total}


def _skip_simplified_layer_normalization(apart: Apart) -> Outputs | None:
    """SimplifiedLayerNormalization of input + skip + bias: y, (mean), inverse root, sum."""
    if apart.is_used(1):  # a mean, which the norm does not take
        return None
    total = _sum(apart, 0, 1, 3)
    epsilon, count = _epsilon(apart.node, BUNDLE_EPSILON), 2 if apart.is_used(2) else 1
    y = apart.add("SimplifiedLayerNormalization", total, 2, word="", attributes=[epsilon], outputs=count)
    return {**dict(zip((0, 2), _outputs_of(y), strict=False)), 3: total}


def _outputs_of(value: ir.Value) -> tuple[ir.Value, ...]:
    piece = value.producer()
    assert piece is not None
    return tuple(piece.outputs)


def _embed_layer_normalization(apart: Apart) -> Outputs | None:
    """LayerNormalization of word + position + segment rows: y, how many ones the mask has, sum."""
    has_segments = apart.input(1) is not None
    if apart.opset < RANGE_SINCE or has_segments != (apart.input(4) is not None):
        return None
    positions: int | ir.Value = 8
    if apart.input(8) is None:
        sizes = apart.add("Shape", 0, word="shape")
        length = apart.add("Gather", sizes, apart.constant(1, "second"), word="length")
        positions = apart.add("Range", apart.constant(0, "start"), length, apart.constant(1, "step"), word="positions")
    rows = [apart.add("Gather", 2, 0, word="words"), apart.add("Gather", 3, positions, word="places")]
    rows += [apart.add("Gather", 4, 1, word="segments")] if has_segments else []
    total = _sum(apart, *rows)
    y = apart.add("LayerNormalization", total, 5, 6, word="", attributes=[_epsilon(apart.node, BUNDLE_EPSILON)])
    return {0: y, 2: total, **({1: _ones(apart)} if apart.is_used(1) else {})}


def _ones(apart: Apart) -> ir.Value:
    """How many elements of each row of the mask are 1; none where there is no mask."""
    kind = ir.DataType.INT32
    if apart.input(7) is None:
        sizes = apart.add("Shape", 0, word="sizes")
        rows = apart.add("Gather", sizes, apart.constant([0], "first"), word="rows")
        zero = ir.AttrTensor("value", ir.tensor(np.zeros(1, kind.numpy())))
        return apart.add("ConstantOfShape", rows, word="mask", attributes=[zero])
    ones = apart.add("Equal", 7, apart.constant(1, "one", kind), word="ones")
    numbers = apart.add("Cast", ones, word="numbers", attributes=[ir.AttrInt64("to", int(kind))])
    whole = ir.AttrInt64("keepdims", 0)
    if apart.opset < AXES_ARE_INPUTS_SINCE:
        return apart.add("ReduceSum", numbers, word="mask", attributes=[whole, ir.AttrInt64s("axes", [1])])
    return apart.add("ReduceSum", numbers, apart.constant([1], "axes"), word="mask", attributes=[whole])


def _gated_rms_norm(apart: Apart) -> Outputs | None:
    """The norm of each run of the last axis that is as long as the gain, times SiLU or Sigmoid of a gate."""
    width, run = (_last_size(apart.input(index)) for index in (0, 1))
    written = apart.node.attributes.get("activation")
    word = "silu" if written is None else written.as_string()
    if width is None or not run or width % run or word not in GATES:
        return None
    epsilon, runs = _epsilon(apart.node, EPSILON), width // run
    if runs == 1:
        y = apart.add("SimplifiedLayerNormalization", 0, 1, word="", attributes=[epsilon])
    else:
        attributes = [epsilon, ir.AttrInt64("num_branches", runs)]
        y = apart.add("BranchwiseRMSNorm", 0, 1, word="", attributes=attributes, domain=DOMAIN)
    gate = apart.add("Sigmoid", 2, word="sigmoid")
    gate = apart.add("Mul", 2, gate, word="silu") if GATES[word] else gate
    return {0: apart.add("Mul", y, gate, word="gated")}


def _last_size(value: ir.Value | None) -> int | None:
    size = None if value is None or value.shape is None or not value.shape.rank() else value.shape[-1]
    return size if isinstance(size, int) else None


# --- over groups of channels ----------------------------------------------------------------------------------------


def _group_norm(apart: Apart) -> Outputs | None:
    """GroupNorm, and SiLU of it."""
    if attribute(apart.node, "activation", 0) != SILU:
        return None  # it is the norm alone
    return {0: _normalized_groups(apart, 0)}


def _skip_group_norm(apart: Apart) -> Outputs | None:
    """GroupNorm of x + skip + bias, channels last: y, sum. A skip of rank 2 is the same all over space."""
    skip = apart.input(3)
    rank = None if skip is None or skip.shape is None else skip.shape.rank()
    if rank not in (2, 4) or not attribute(apart.node, "channels_last", 1):
        return None
    if attribute(apart.node, "activation", 0) not in (0, SILU):
        return None
    wide: int | ir.Value = 3
    if rank == 2:
        wide = apart.add("Reshape", 3, apart.constant([0, 1, 1, -1], "sizes"), word="skip")
    total = _sum(apart, 0, wide, 4)
    return {0: _normalized_groups(apart, total), 1: total}


def _normalized_groups(apart: Apart, x: int | ir.Value) -> ir.Value:
    node = apart.node
    attributes = [
        _epsilon(node, EPSILON),
        ir.AttrInt64("activation", 0),
        ir.AttrInt64("channels_last", attribute(node, "channels_last", 1)),
        ir.AttrInt64("groups", attribute(node, "groups", 0)),
    ]
    y = apart.add("GroupNorm", x, 1, 2, word="", attributes=attributes, domain=DOMAIN)
    if attribute(node, "activation", 0) == SILU:
        y = apart.add("Mul", y, apart.add("Sigmoid", y, word="sigmoid"), word="silu")
    return y


BUNDLES: Mapping[str, Callable[[Apart], Outputs | None]] = {
    "EmbedLayerNormalization": _embed_layer_normalization,
    "GatedRMSNorm": _gated_rms_norm,
    "GroupNorm": _group_norm,
    "SkipGroupNorm": _skip_group_norm,
    "SkipLayerNormalization": _skip_layer_normalization,
    "SkipSimplifiedLayerNormalization": _skip_simplified_layer_normalization,
}
