"""What a model computes, without its rounding: every node in float64, one after the other.

Weights, inputs and casts between float types are promoted, so the graph's function is evaluated and not its storage
formats. With `jitter` every node's result is perturbed by about one rounding of the model's own format (Monte Carlo
arithmetic): how far that moves the outputs is how much the model amplifies rounding, however it is spelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from normswap import reference
from normswap.check import control_flow, kernels
from normswap.reference import Array, Floats, Unexecutable

Scope = dict[ir.Value, Array]
Unrounded = Mapping[str, Callable[[], Floats]]


class TruthUnavailable(Exception):
    """Some node has no float64 definition; the message names it."""


# Operators that move, select or count values and round nothing.
_ROUNDLESS = frozenset(
    [
        "Cast",
        "CastLike",
        "Clip",
        "Compress",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "MaxPool",
        "GlobalMaxPool",
        "Max",
        "Min",
        "Neg",
        "Abs",
        "Relu",
        "Pad",
        "Reshape",
        "ScatterElements",
        "ScatterND",
        "Shape",
        "Size",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "TopK",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
    ]
)

# Runtimes approximate these to one rounding of their range, not of each value: onnxruntime's Sigmoid is off by 6e-8
# where it is 2e-5.
COARSEST = 2.0**-7
"""The spacing of bfloat16: no stored constant is further from what it stands for."""
_BOUNDED = frozenset(["Erf", "Sigmoid", "Tanh"])


@dataclass(frozen=True)
class Noise:
    """Perturbs what a node rounds by up to one rounding of the format that the model computes it in.

    `touched` are the values computed from inputs, with the relative spacing of their format, None for integers. All
    others stay as they are: shapes and constants are not rounded. An operator computes in the format of its first
    float operand, and a cast rounds to its target.
    """

    generator: np.random.Generator
    touched: dict[ir.Value, float | None] = field(default_factory=dict)

    def enter(self, values: Iterable[ir.Value]) -> None:
        """Inputs of a graph depend on inputs."""
        self.touched.update({value: spacing(value.dtype) for value in values})

    def disturb(self, node: ir.Node, array: Array) -> Array:
        """The result `array` of `node`, perturbed if it is rounded at all."""
        if node.op_type in ("Shape", "Size") or not any(value in self.touched for value in reads(node)):
            return array
        size = self._spacing(node)
        self.touched.update(dict.fromkeys(node.outputs, size))
        if array.dtype != np.float64 or not array.size or size is None or node.op_type in _ROUNDLESS:
            return array
        value: Floats = array.astype(np.float64, copy=False)
        scale = np.maximum(np.abs(value), 1.0) if node.op_type in _BOUNDED else value
        result: Floats = value + scale * size * self.generator.uniform(-1.0, 1.0, array.shape)
        return result

    def _spacing(self, node: ir.Node) -> float | None:
        if node.op_type == "Cast":
            return spacing(ir.DataType(node.attributes["to"].as_int()))
        sizes = (self._known(value) for value in node.inputs if value is not None)
        return next((size for size in sizes if size is not None), None)

    def _known(self, value: ir.Value) -> float | None:
        if value in self.touched:
            return self.touched[value]
        return None if value.const_value is None else spacing(value.const_value.dtype)


def spacing(dtype: ir.DataType | None) -> float | None:
    """The relative spacing of a float format, None for anything else."""
    return float(dtype.eps) if dtype is not None and dtype.is_floating_point() else None


@dataclass
class Evaluator:
    """A model opened for evaluation; its weights are promoted on first use and kept.

    `unrounded` computes, by name, constants that are known better than they are stored.
    """

    model: ir.Model
    unrounded: Unrounded = field(default_factory=dict)
    weights: Scope = field(default_factory=dict)

    @staticmethod
    def open(model: ir.Model, unrounded: Unrounded | None = None) -> Evaluator:
        """Local functions are inlined, in this copy of the graph, since a call has no definition of its own.

        Raises `TruthUnavailable` where they cannot be.
        """
        if model.functions:
            try:
                model = InlinePass()(model).model
            except Exception as error:  # onnx_ir raises many kinds
                raise TruthUnavailable(f"the model's functions cannot be inlined: {error}") from error
        return Evaluator(model, unrounded or {})

    def run(self, feeds: Mapping[str, Array], noise: Noise | None = None) -> list[Array]:
        """The graph's outputs in order, floats in float64. Raises `TruthUnavailable`."""
        given = {
            value: reference.promote(np.asarray(feeds[value.name]))
            for value in self.model.graph.inputs
            if value.name is not None and value.name in feeds
        }
        if noise is not None:
            noise.enter(given)
        return Frame(given, self._weight, self.model.opset_imports, noise, self.unrounded).run(self.model.graph)

    def _weight(self, value: ir.Value) -> Array | None:
        if value not in self.weights and value.const_value is not None:
            known = self.unrounded.get(value.name or "")
            self.weights[value] = reference.promote(value.const_value.numpy()) if known is None else known()
        return self.weights.get(value)


@dataclass(frozen=True)
class Frame:
    """The values known inside one graph, with what all graphs of the model share."""

    scope: Scope
    weights: Callable[[ir.Value], Array | None]
    opsets: Mapping[str, int]
    noise: Noise | None
    unrounded: Unrounded = field(default_factory=dict)

    def read(self, value: ir.Value) -> Array:
        """A known value or a weight. Raises `TruthUnavailable`."""
        found = self.scope.get(value)
        if found is None:
            found = self.weights(value)
        if found is None:
            raise TruthUnavailable(f"value `{value.name}` has no producer")
        return found

    def enter(self, graph: ir.Graph, arguments: Iterable[Array] = ()) -> list[Array]:
        """Run a subgraph, which sees everything this frame knows."""
        scope = {**self.scope, **dict(zip(graph.inputs, arguments, strict=False))}
        if self.noise is not None:
            self.noise.enter(graph.inputs)
        return Frame(scope, self.weights, self.opsets, self.noise, self.unrounded).run(graph)

    def run(self, graph: ir.Graph) -> list[Array]:
        """Run a graph's nodes in order, dropping what nobody reads any more."""
        waiting = Counter(value for node in graph for value in reads(node))
        waiting.update(graph.outputs)
        own = {value for node in graph for value in node.outputs}
        for node in graph:
            for value, array in zip(node.outputs, self.evaluate(node), strict=False):
                if value.name:
                    known = self._known(value.name, array)
                    self.scope[value] = known if self.noise is None else self.noise.disturb(node, known)
            for value in reads(node):
                waiting[value] -= 1
                if not waiting[value] and value in own:
                    self.scope.pop(value, None)
        return [self.read(value) for value in graph.outputs]

    def _known(self, name: str, array: Array) -> Array:
        """A constant that is known better than it is stored; not another value of that name, in a body beside."""
        known = self.unrounded.get(name)
        if known is None:
            return array
        better = known()
        alike = better.shape == array.shape and np.allclose(better, array, rtol=COARSEST, atol=0.0)
        return better if alike else array

    def evaluate(self, node: ir.Node) -> Sequence[Array]:
        """The outputs of one node. Raises `TruthUnavailable`, naming it."""
        inputs = [None if value is None else self.read(value) for value in node.inputs]
        control = control_flow.OPERATORS.get(node.op_type) if node.domain == "" else None
        try:
            if control is not None:
                return control(node, inputs, self.enter)
            if node.op_type in UNTRUE and node.domain == "":
                raise Unexecutable(f"{node.op_type} `{node.name}` {UNTRUE[node.op_type]}")
            if node.op_type == "Constant" and "value" in node.attributes:
                return [reference.promote(node.attributes["value"].as_tensor().numpy())]
            return kernels.run(node, inputs, self.opsets.get(node.domain, 1))
        except Unexecutable as error:
            raise TruthUnavailable(str(error)) from error


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs held by a node's attributes."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, captured values of its subgraphs included."""
    yield from (value for value in node.inputs if value is not None)
    for graph in subgraphs(node):
        for inner in graph:
            yield from reads(inner)
        yield from graph.outputs


_RANDOM = "is random: it has no single true result"
_NARROW = "is computed in float32 by onnx's reference operator"
UNTRUE: Mapping[str, str] = {
    **dict.fromkeys(("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"), _RANDOM),
    **dict.fromkeys(("Multinomial", "Bernoulli"), _RANDOM),
    **dict.fromkeys(("AffineGrid", "MelWeightMatrix"), _NARROW),
}
