"""Facts about values: shape, type, constant value, under two bindings of the free dimensions.

Free dimensions are bound to distinct primes, twice; a dimension is static exactly when both bindings agree on it. One
forward walk infers shapes operator by operator and evaluates everything that derives from shapes and small constants,
so that computed Reshape targets are known; what inference cannot find is observed in one run on small inputs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from normswap import maps, reference
from normswap.maps import Map, Shape
from normswap.reference import Array, Floats

Scalar = TypeVar("Scalar", bound=np.generic)

# Two sets of distinct primes for the free dimensions: small, so that probes are cheap, and different in every place, so
# that a dimension on which both bindings agree is static.
PRIMES = ((3, 5, 7, 11, 13, 17, 19), (5, 3, 11, 7, 17, 13, 23))
# Images shrink by strides, so a free dimension behind the second of a rank-4 input starts larger, and stays different
# after five halvings; which sizes fit a model is not written anywhere. These are tried in turn until inference leaves
# nothing open: primes; a height that four halvings bring to 3, as text recognizers want it; multiples of 32.
SPATIAL_SIZES = (
    ((97, 163, 223), (163, 97, 229)),
    ((41, 163, 223), (43, 97, 229)),
    ((96, 160, 224), (160, 96, 256)),
)
# Derived values up to this many elements are evaluated while walking; they are shapes, axes, indices and scalars.
SMALL = 4096
# A chain of constants is evaluated up to this many elements (1 GiB of float32); beyond, it is not a constant to us.
CONSTANT_BUDGET = 1 << 28
NOT_DETERMINISTIC = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)


@dataclass
class Facts:
    """What is known about the values of `model`; filled by `learn`, extended by `declare` when a rewrite adds values.

    `shapes[b]` and `known[b]` hold, under binding b, the shapes and the evaluated values; `types` the element types.
    """

    model: ir.Model
    shapes: tuple[dict[ir.Value, Shape], dict[ir.Value, Shape]] = field(default_factory=lambda: ({}, {}))
    known: tuple[dict[ir.Value, Array], dict[ir.Value, Array]] = field(default_factory=lambda: ({}, {}))
    types: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    constants: dict[ir.Value, bool] = field(default_factory=dict)
    evaluated: dict[ir.Value, Array] = field(default_factory=dict)
    moved: dict[ir.Value, tuple[ir.Value | Shape, Map]] = field(default_factory=dict)

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
        return tuple(a if a == b else None for a, b in zip(first, second, strict=True))

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
        if node is None or node.op_type in NOT_DETERMINISTIC or _has_subgraph(node):
            return False
        if node.op_type == "Constant" and node.domain in reference.ONNX_DOMAINS:
            return value.const_value is not None or _constant_of(node) is not None
        shape = self.shape(value)
        if shape is None or np.prod(shape, dtype=np.float64) > CONSTANT_BUDGET:
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
        return output if dtype is None else output.astype(dtype.numpy())

    def float64(self, value: ir.Value, cut: Mapping[int, npt.NDArray[np.int64]] | None = None) -> Floats:
        """A constant in float64, cut to the given indices along some axes, before any rounding to its own type.

        A constant that a plan made is computed anew from the one it was made of, so that moving two maps in turn
        rounds once. Raises `KeyError` if `value` is not constant.
        """
        cut = cut or {}
        if value in self.moved:
            base, a_map = self.moved[value]
            array = self.float64(base, cut) if isinstance(base, ir.Value) else _taken(np.zeros(base), cut)
            for axis, indices in cut.items():
                a_map = maps.restricted(a_map, axis + a_map.rank - array.ndim, indices)
            return maps.apply(a_map, array)
        found = self.constant(value)
        if found is None:
            raise KeyError(f"`{value.name}` is not a constant")
        return np.asarray(reference.promote(_taken(found, cut)), dtype=np.float64)

    def move(self, new: ir.Value, base: ir.Value | Shape, a_map: Map) -> None:
        """Record that the constant `new` is `a_map` applied to `base` (a shape stands for zeros of that shape)."""
        self.moved[new] = (base, a_map)
        self.constants[new] = True

    def derived(self, value: ir.Value, binding: int = 0) -> Array | None:
        """The array of `value` under `binding` where it follows from constants and shapes alone; else None."""
        if value in self.known[binding]:
            return self.known[binding][value]
        return self.constant(value)

    def declare(self, value: ir.Value, like: ir.Value) -> None:
        """Record that the new `value` has the shape and type of `like`."""
        for table in self.shapes:
            if like in table:
                table[value] = table[like]
        dtype = self.dtype(like)
        if dtype is not None:
            self.types[value] = dtype


def _taken(array: npt.NDArray[Scalar], cut: Mapping[int, npt.NDArray[np.int64]]) -> npt.NDArray[Scalar]:
    for axis, indices in cut.items():
        array = array.take(indices, axis) if array.shape[axis] > 1 else array
    return array


def _has_subgraph(node: ir.Node) -> bool:
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def _constant_of(node: ir.Node) -> Array | None:
    """The array of a Constant node, whichever attribute holds it."""
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if name == "value":
            return np.asarray(attribute.as_tensor().numpy())
        if name in ("value_float", "value_floats"):
            return np.asarray(attribute.value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(attribute.value, dtype=np.int64)
    return None


# --- binding and learning -------------------------------------------------------------------------------------------


def bind(inputs: Iterable[ir.Value], small: Sequence[int], spatial: Sequence[int]) -> dict[ir.Value, Shape]:
    """Shapes for graph inputs with each free dimension bound to one of the sizes; the same symbol always to the same.

    `spatial` sizes go to the third and later dimensions of inputs of rank 4 and more. A symbol that is an expression
    of others (`past + sequence`) is evaluated. Inputs of unknown rank are left out.
    """
    small_sizes, spatial_sizes = iter(small), iter(spatial)
    sizes: dict[str, int] = {}
    shapes: dict[ir.Value, Shape] = {}
    known = [value for value in inputs if value.shape is not None]
    for value in known:
        assert value.shape is not None
        for axis, dim in enumerate(value.shape):
            if not isinstance(dim, int) and not _is_expression(dim):
                name = _symbol(dim, f"{value.name}:{axis}")
                if name not in sizes:
                    is_spatial = len(value.shape) >= 4 and axis >= 2
                    sizes[name] = next(spatial_sizes, spatial[-1]) if is_spatial else next(small_sizes, small[-1])
    for value in known:
        assert value.shape is not None
        shapes[value] = tuple(_size(dim, f"{value.name}:{axis}", sizes) for axis, dim in enumerate(value.shape))
    return shapes


def _symbol(dim: ir.SymbolicDim, default: str) -> str:
    return default if dim.value in (None, "?") else str(dim.value)


def _is_expression(dim: ir.SymbolicDim) -> bool:
    """Whether the name is arithmetic on other names, as exporters write `past_sequence_length + sequence_length`."""
    return dim.value is not None and bool(re.search(r"\w\s*[-+*/]\s*\w", str(dim.value)))


def _size(dim: int | ir.SymbolicDim, default: str, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if not _is_expression(dim):
        return sizes[_symbol(dim, default)]
    size = dim.evaluate(sizes)
    return size if isinstance(size, int) and size > 0 else PRIMES[0][0]


def learn(model: ir.Model) -> Facts:
    """All facts that shape inference and constants give; `observe` fills what they leave open."""
    best, fewest = Facts(model), -1
    for spatial in SPATIAL_SIZES:
        facts = Facts(model)
        for binding in range(2):
            facts.shapes[binding].update(bind(model.graph.inputs, PRIMES[binding], spatial[binding]))
            _walk(facts, model.graph, binding)
        missing = len(unknown(facts))
        if fewest < 0 or missing < fewest:
            best, fewest = facts, missing
        if not missing:
            break
    return best


def _walk(facts: Facts, graph: ir.Graph, binding: int) -> None:
    for node in graph:
        for subgraph in _subgraphs(node):
            for value in subgraph.inputs:
                if value.shape is not None and all(isinstance(dim, int) for dim in value.shape):
                    facts.shapes[binding][value] = tuple(int(dim) for dim in value.shape)  # type: ignore[arg-type]
            _walk(facts, subgraph, binding)
        _infer(facts, node, binding)
        for value in node.outputs:
            facts.is_constant(value)  # asked in the order of the graph, it never recurses through the whole of it
        _derive(facts, node, binding)


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
            yield from attribute.as_graphs()


def _infer(facts: Facts, node: ir.Node, binding: int) -> None:
    """Shapes and types of the outputs of `node` by onnx's own inference, fed with everything derived so far."""
    shapes = facts.shapes[binding]
    if node.op_type == "If":
        branches = list(_subgraphs(node))
        for index, output in enumerate(node.outputs):
            found = {facts.shape(branch.outputs[index], binding) for branch in branches}
            if len(found) == 1 and None not in found:
                shapes[output] = next(shape for shape in found if shape is not None)
        return
    if (node.domain, node.op_type) in reference.STAND_INS and node.domain == "com.microsoft":
        first = facts.shape(node.inputs[0], binding) if node.inputs[0] is not None else None
        for output in (node.outputs[0], *node.outputs[3:4]):
            if first is not None:
                shapes[output] = first
        return
    inferred = _infer_node(facts, node, binding)
    for output in node.outputs:
        proto = inferred.get(output.name or "")
        if proto is None or not proto.HasField("tensor_type"):
            continue
        tensor = proto.tensor_type
        if tensor.elem_type:
            facts.types.setdefault(output, ir.DataType(tensor.elem_type))
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            sizes = tuple(dim.dim_value for dim in tensor.shape.dim)
            if min(sizes, default=0) >= 0:
                shapes[output] = sizes


def _infer_node(facts: Facts, node: ir.Node, binding: int) -> Mapping[str, onnx.TypeProto]:
    opset = facts.opset(node)
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None or value.name is None:
            continue
        dtype, shape = facts.dtype(value), facts.shape(value, binding)
        if dtype is not None:
            types[value.name] = onnx.helper.make_tensor_type_proto(int(dtype), shape)
        small = shape is not None and np.prod(shape, dtype=np.float64) <= SMALL
        array = facts.derived(value, binding) if small else None
        if array is not None:
            data[value.name] = onnx.numpy_helper.from_array(np.ascontiguousarray(array), value.name)
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        return onnx.shape_inference.infer_node_outputs(
            schema,
            ir.serde.serialize_node(node),
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid(node.domain, opset)],
            ir_version=max(facts.model.ir_version, 4),
        )
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError, ValueError, KeyError, TypeError):
        return {}


def _derive(facts: Facts, node: ir.Node, binding: int) -> None:
    """Evaluate `node` where its small outputs follow from shapes and constants alone."""
    known = facts.known[binding]
    if node.op_type in NOT_DETERMINISTIC or _has_subgraph(node) or not node.outputs:
        return
    if node.op_type in ("Shape", "Size") and node.inputs[0] is not None:
        shape = facts.shape(node.inputs[0], binding)
        if shape is not None:
            part = slice(reference.attribute(node, "start", 0), _end(node, len(shape)))
            whole = np.asarray(shape, dtype=np.int64)
            known[node.outputs[0]] = whole[part] if node.op_type == "Shape" else np.asarray(whole.prod(), np.int64)
            _note(facts, node.outputs[0], known[node.outputs[0]], binding)
        return
    shape = facts.shape(node.outputs[0], binding)
    if not node.inputs or (shape is not None and np.prod(shape, dtype=np.float64) > SMALL):
        return
    if all(value is None or facts.is_constant(value) for value in node.inputs):
        return  # `constant` evaluates these, and only when somebody asks
    arrays: list[Array | None] = []
    for value in node.inputs:
        array = None if value is None else known[value] if value in known else _small_constant(facts, value)
        if value is not None and array is None:
            return
        arrays.append(array)
    try:
        outputs = reference.run(node, arrays, facts.opset(node))
    except reference.Unexecutable:
        return
    for value, output in zip(node.outputs, outputs, strict=False):
        if output.size <= SMALL:
            known[value] = output
            _note(facts, value, output, binding)


def _small_constant(facts: Facts, value: ir.Value) -> Array | None:
    shape = facts.shape(value)
    if not facts.is_constant(value) or shape is None or np.prod(shape, dtype=np.float64) > SMALL:
        return None
    return facts.constant(value)


def _end(node: ir.Node, rank: int) -> int:
    return reference.attribute(node, "end", rank)


def _note(facts: Facts, value: ir.Value, array: Array, binding: int) -> None:
    facts.shapes[binding][value] = array.shape
    if facts.dtype(value) is None:
        facts.types[value] = ir.DataType.from_numpy(array.dtype)


# --- observing ------------------------------------------------------------------------------------------------------


def unknown(facts: Facts) -> list[ir.Value]:
    """Values of the main graph whose shape inference left open under either binding."""
    return [
        value
        for node in facts.model.graph
        for value in node.outputs
        if value.name and (facts.shape(value, 0) is None or facts.shape(value, 1) is None)
    ]


def observed(facts: Facts, shapes: Sequence[Mapping[str, tuple[Shape, ir.DataType]]]) -> Facts:
    """The facts with observed `shapes` (one mapping per binding, value name → shape and type) filled into the gaps."""
    by_name = {value.name: value for value in unknown(facts)}
    for binding, seen in enumerate(shapes):
        for name, (shape, dtype) in seen.items():
            if name in by_name:
                facts.shapes[binding].setdefault(by_name[name], shape)
                facts.types.setdefault(by_name[name], dtype)
    return facts


def free_inputs(facts: Facts, binding: int) -> dict[str, Shape]:
    """The shapes, by name, that `binding` gives to the graph inputs: what an observed run is fed with."""
    return {
        value.name: facts.shapes[binding][value]
        for value in itertools.chain(facts.model.graph.inputs)
        if value.name and value in facts.shapes[binding]
    }
