"""Facts about values: shape, type, constant value, under two bindings of the free dimensions.

A dimension is static when both bindings agree on it, and a far one, too. Constants are evaluated lazily, along
chains of operators too; those that a plan made, in float64 from what they were made of. `learn` fills the tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from normswap import maps, reference
from normswap.maps import Map, Shape
from normswap.reference import Array, Floats

Scalar = TypeVar("Scalar", bound=np.generic)

# Derived values up to this many elements are evaluated while walking; they are shapes, axes, indices and scalars.
SMALL = 4096
# A chain of constants is evaluated up to this many elements (1 GiB of float32); beyond, it is not a constant to us.
CONSTANT_BUDGET = 1 << 28
NOT_DETERMINISTIC = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)


@dataclass
class Facts:
    """What is known about the values of `model`; filled by `learn`, extended when a rewrite adds values.

    `shapes[b]` and `known[b]` hold, under binding b, the shapes and the evaluated values; `types` the element types;
    `far` the shapes under a third binding, of far larger sizes, where one is needed.
    """

    model: ir.Model
    shapes: tuple[dict[ir.Value, Shape], dict[ir.Value, Shape]] = field(default_factory=lambda: ({}, {}))
    known: tuple[dict[ir.Value, Array], dict[ir.Value, Array]] = field(default_factory=lambda: ({}, {}))
    far: dict[ir.Value, Shape] = field(default_factory=dict)
    types: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    constants: dict[ir.Value, bool] = field(default_factory=dict)
    evaluated: dict[ir.Value, Array] = field(default_factory=dict)
    moved: dict[ir.Value, tuple[ir.Value | Shape, Map]] = field(default_factory=dict)
    by_axis: bool = False  # whether free dimensions are taken for equal because they are on the same axis

    def shape(self, value: ir.Value, binding: int = 0) -> Shape | None:
        """The shape of `value` under `binding` (0 or 1), or None where nothing could find it."""
        if value.const_value is not None and not self.is_overridable(value):
            return tuple(value.const_value.shape.numpy())
        return self.shapes[binding].get(value)

    def dims(self, value: ir.Value) -> tuple[int | None, ...] | None:
        """The static dimensions of `value`, None for each free one; None where the rank is unknown."""
        first, second = self.shape(value, 0), self.shape(value, 1)
        if first is None or second is None or len(first) != len(second):
            return None
        far = self.far.get(value, first)
        if len(far) != len(first):
            return None
        return tuple(a if a == b == c else None for a, b, c in zip(first, second, far, strict=True))

    def is_certain(self, value: ir.Value | None) -> bool:
        """Whether what is static of the shape of `value` rests on more than the agreement of two bindings."""
        return value in self.far or not self.has_free_sizes()

    def has_free_sizes(self) -> bool:
        """Whether a dimension behind the first of some input is free.

        Two bindings may agree on a size that depends on such a one: behind a stride of 3, both 3 and 5 positions are 2.
        """
        inputs = (value for value in self.model.graph.inputs if not value.is_initializer())
        dims = ((self.dims(value) or (None, None))[1:] for value in inputs)
        return any(None in sizes for sizes in dims)

    def rank(self, value: ir.Value) -> int | None:
        """The rank of `value`, None where it is unknown."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """The element type of `value`."""
        return value.dtype if value.dtype is not None else self.types.get(value)

    def opset(self, node: ir.Node) -> int:
        """The operator set version that `node` belongs to."""
        imports = node.graph.opset_imports if node.graph is not None else {}
        domain = "" if node.domain == "ai.onnx" else node.domain
        return node.version or imports.get(domain) or self.model.opset_imports.get(domain) or 1

    def is_overridable(self, value: ir.Value) -> bool:
        """Whether `value` is an initializer that a caller may replace: also a graph input, from IR version 4 on."""
        return value.is_initializer() and value.is_graph_input() and self.model.ir_version >= 4

    def is_constant(self, value: ir.Value) -> bool:
        """Whether `value` is the same in every run: an initializer, a Constant, or computed from only those."""
        if value not in self.constants:
            self.constants[value] = self._is_constant(value)
        return self.constants[value]

    def _is_constant(self, value: ir.Value) -> bool:
        if value.is_initializer() or value.is_graph_input():
            return value.const_value is not None and not self.is_overridable(value)
        node = value.producer()
        if node is None or node.op_type in NOT_DETERMINISTIC or has_subgraph(node):
            return False
        if node.op_type == "Constant" and node.domain in reference.ONNX_DOMAINS:
            return value.const_value is not None or _constant_of(node) is not None
        shape = self.shape(value)
        if shape is None or math.prod(shape) > CONSTANT_BUDGET:
            return False
        return bool(node.inputs) and all(item is None or self.is_constant(item) for item in node.inputs)

    def constant(self, value: ir.Value) -> Array | None:
        """The array of a constant `value` in its own type, evaluated lazily along chains of constants; else None."""
        if not self.is_constant(value):
            return None
        if value.const_value is not None:
            return np.asarray(value.const_value.numpy())
        if value not in self.evaluated:
            array = self._evaluate(value)
            if array is None:
                self.constants[value] = False
                return None
            self.evaluated[value] = array
        return self.evaluated[value]

    def _evaluate(self, value: ir.Value) -> Array | None:
        node = value.producer()
        assert node is not None
        if node.op_type == "Constant":
            return _constant_of(node)
        arrays = [None if item is None else self.constant(item) for item in node.inputs]
        try:
            outputs = reference.run(node, arrays, self.opset(node))
        except reference.Unexecutable:
            return None
        output, dtype = outputs[value.index() or 0], self.dtype(value)
        with np.errstate(over="ignore"):
            return output if dtype is None else output.astype(dtype.numpy())

    def float64(self, value: ir.Value, cut: Mapping[int, npt.NDArray[np.int64]] | None = None) -> Floats:
        """A constant in float64, cut to the given indices along some axes, before any rounding to its own type.

        A constant that a plan made is computed anew from the one it was made of, so that moving two maps in turn
        rounds once. Raises `KeyError` if `value` is not constant.
        """
        cut = cut or {}
        if value in self.moved:
            base, a_map = self.moved[value]
            old = (self.rank(base) or 0) if isinstance(base, ir.Value) else len(base)
            rank = old if value.const_value is None else len(value.const_value.shape)
            grown = rank - old  # a constant may have had to grow for an axis that it lacked
            before = {axis - grown: indices for axis, indices in cut.items() if axis >= grown}
            array = self.float64(base, before) if isinstance(base, ir.Value) else _taken(np.zeros(base), before)
            for axis, indices in cut.items():
                a_map = maps.restricted(a_map, axis + a_map.rank - rank, indices)
            return maps.apply(a_map, array)
        found = self.constant(value)
        if found is None:
            raise KeyError(f"`{value.name}` is not a constant")
        return np.asarray(reference.promote(_taken(found, cut)), dtype=np.float64)

    def inherit(self, value: ir.Value, numbers: Callable[[], Floats]) -> None:
        """Record that the constant `value` is stored rounded, and that `numbers` computes it in float64."""
        shape = self.shape(value) or ()
        self.move(value, shape, maps.affine(len(shape), shift=maps.Deferred(shape, numbers)))

    def move(self, new: ir.Value, base: ir.Value | Shape, a_map: Map) -> None:
        """Record that the constant `new` is `a_map` applied to `base` (a shape stands for zeros of that shape)."""
        self.moved[new] = (base, a_map)
        self.constants[new] = True

    def origin(self, value: ir.Value) -> ir.Value:
        """The constant that `value` is another name of: exporters put one Identity per use before a shared weight."""
        node = value.producer()
        while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
            if not self.is_constant(node.inputs[0]):
                break
            value, node = node.inputs[0], node.inputs[0].producer()
        return value

    def readers(self, value: ir.Value) -> list[tuple[ir.Node, int]]:
        """Who reads a constant, under its own or another name: the nodes, and which of their inputs it is."""
        found: list[tuple[ir.Node, int]] = []
        for use in value.uses():
            if use.node.op_type == "Identity" and not use.node.outputs[0].is_graph_output():
                found += self.readers(use.node.outputs[0])
            else:
                found.append((use.node, use.idx))
        return found

    def derived(self, value: ir.Value, binding: int = 0) -> Array | None:
        """The array of `value` under `binding` where it follows from constants and shapes alone; else None."""
        if value in self.known[binding]:
            return self.known[binding][value]
        return self.constant(value)

    def declare(self, value: ir.Value, like: ir.Value) -> None:
        """Record that the new `value` has the shape and type of `like`."""
        for table in (*self.shapes, self.far):
            if like in table:
                table[value] = table[like]
        dtype = self.dtype(like)
        if dtype is not None:
            self.types[value] = dtype


def _taken(array: npt.NDArray[Scalar], cut: Mapping[int, npt.NDArray[np.int64]]) -> npt.NDArray[Scalar]:
    for axis, indices in cut.items():
        array = array.take(indices, axis) if array.shape[axis] > 1 else array
    return array


def has_subgraph(node: ir.Node) -> bool:
    """Whether `node` has a control-flow body."""
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def _constant_of(node: ir.Node) -> Array | None:
    """The array of a Constant node, whichever attribute holds it."""
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if name == "value":
            return np.asarray(attribute.value.numpy())  # `as_tensor` looks at a protocol, which takes long
        if name in ("value_float", "value_floats"):
            return np.asarray(attribute.value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(attribute.value, dtype=np.int64)
    return None
