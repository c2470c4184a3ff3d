"""New values and nodes: constants that are computed when written, and explicit maps.

A constant is a map applied to what it was made of, in float64, rounded once to the type it is stored in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from normswap import maps
from normswap.facts import Facts
from normswap.maps import Deferred, Map, Shape
from normswap.norm import Norm
from normswap.reference import Floats

DOMAIN = "normswap"
# Constants of up to this many elements (1 MiB of float64) are computed at once, so that mistakes show early; larger
# ones when they are written, one at a time.
EAGER = 1 << 17


class NotFinite(Exception):
    """A new constant is not finite in the type it must be stored in."""


@dataclass(frozen=True, eq=False)
class Emitter:
    """Where new things go: the facts to extend, and the names that are taken."""

    facts: Facts
    eager: bool = True
    names: set[str] = field(default_factory=set)

    @staticmethod
    def of(facts: Facts, *, eager: bool = True) -> Emitter:
        """An emitter for the model that `facts` describe; one that is not `eager` computes no constant before time."""
        names: set[str] = set()
        for graph in facts.model.graphs():
            names.update(value.name or "" for value in (*graph.inputs, *graph.initializers.values()))
            for node in graph:
                names.update((node.name or "", *(value.name or "" for value in node.outputs)))
        return Emitter(facts, eager, names)

    def name(self, wanted: str) -> str:
        """`wanted`, or with a number behind it the first that is not taken; it is taken from now on."""
        candidate, count = wanted, 1
        while candidate in self.names:
            candidate, count = f"{wanted}_{count}", count + 1
        self.names.add(candidate)
        return candidate

    def raw(self, array: npt.NDArray[np.generic], name: str) -> ir.Value:
        """An initializer holding `array` as it is."""
        tensor = ir.tensor(array, name=self.name(name))
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=tensor.name, const_value=tensor, type=kind, shape=ir.Shape(array.shape))
        self.facts.model.graph.register_initializer(value)
        return value

    def constant(self, name: str, base: ir.Value | Shape, a_map: Map, dtype: ir.DataType) -> ir.Value:
        """An initializer: `a_map` applied to `base` (a shape: zeros), in float64, rounded once to `dtype`.

        Raises `NotFinite` where it does not fit into `dtype`; a large one raises it when it is written.
        """
        facts = self.facts
        value = ir.Value(name=self.name(name), type=ir.TensorType(dtype))
        facts.move(value, base, a_map)
        shape = facts.shape(base) if isinstance(base, ir.Value) else base
        assert shape is not None

        def tensor() -> ir.TensorProtocol:
            return ir.tensor(rounded(facts.float64(value), dtype, value.name or ""), dtype=dtype, name=value.name)

        missing = a_map.rank - len(shape)
        grows = missing > 0 or any(size == 1 and a_map.varies(axis + missing) for axis, size in enumerate(shape))
        if grows or (self.eager and int(np.prod(shape, dtype=np.int64)) <= EAGER):
            value.const_value = tensor()
        else:
            value.const_value = ir.LazyTensor(tensor, dtype=dtype, shape=ir.Shape(shape), name=value.name)
        value.shape = ir.Shape(value.const_value.shape.numpy())
        facts.model.graph.register_initializer(value)
        return value

    def parameter(self, array: Floats | Deferred, name: str, like: ir.Value) -> ir.Value:
        """An initializer of the type of `like` holding `array` without its leading axes of size 1."""
        shape = array.shape
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
        squeezed: Floats | Deferred
        if isinstance(array, Deferred):
            squeezed = Deferred(shape, lambda: array.force().reshape(shape))
        else:
            squeezed = array.reshape(shape)
        dtype = self.facts.dtype(like) or ir.DataType.FLOAT
        return self.constant(name, shape, maps.affine(len(shape), shift=squeezed), dtype)

    def node(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        like: ir.Value,
        attributes: Mapping[str, ir.Attr] | None = None,
        domain: str = "",
    ) -> ir.Node:
        """A node with one output that has the shape and type of `like`; both are called `name`."""
        taken = self.name(name)
        output = ir.Value(name=taken, type=like.type, shape=like.shape)
        self.facts.declare(output, like)
        return ir.Node(domain, operator, inputs, dict(attributes or {}), outputs=[output], name=taken)


def rounded(array: Floats, dtype: ir.DataType, name: str) -> npt.NDArray[np.generic]:
    """`array` in `dtype`. Raises `NotFinite` where it does not fit."""
    with np.errstate(over="ignore"):
        rounded = array.astype(dtype.numpy())
    if not np.isfinite(rounded.astype(np.float64)).all():
        raise NotFinite(f"`{name}` would not be finite in {dtype.name}")
    return rounded


def explicit(emitter: Emitter, a_map: Map, value: ir.Value) -> list[ir.Node]:
    """Nodes that compute T(value), the last one its result."""
    nodes: list[ir.Node] = []
    current = value
    if a_map.centers:
        axes = [axis for axis in range(a_map.rank) if a_map.group.shape[axis] > 1]
        mean = _reduce_mean(emitter, value, axes)
        nodes += [mean, emitter.node("Sub", [value, mean.outputs[0]], f"{value.name}/center", value)]
        current = nodes[-1].outputs[0]
    for operator, word, array, wanted in (
        ("Mul", "gain", a_map.scale, a_map.scales),
        ("Add", "bias", a_map.shift, a_map.shifts),
    ):
        if wanted:
            constant = emitter.parameter(array, f"{value.name}/{word}/value", value)
            nodes.append(emitter.node(operator, [current, constant], f"{value.name}/{word}", value))
            current = nodes[-1].outputs[0]
    return nodes


def _reduce_mean(emitter: Emitter, value: ir.Value, axes: Sequence[int]) -> ir.Node:
    name = emitter.name(f"{value.name}/mean")
    output = ir.Value(name=name, type=value.type)
    attributes = [ir.AttrInt64("keepdims", 1)]
    inputs: list[ir.Value | None] = [value]
    if emitter.facts.model.opset_imports.get("", 1) < 18:  # from opset 18 on, axes are an input
        attributes.append(ir.AttrInt64s("axes", list(axes)))
    else:
        inputs.append(emitter.raw(np.asarray(axes, dtype=np.int64), f"{value.name}/axes"))
    return ir.Node("", "ReduceMean", inputs, attributes, outputs=[output], name=name)


def affine(emitter: Emitter, norm: Norm, source: ir.Value) -> list[ir.Node]:
    """The Affine of a norm without statistics: a BatchNormalization if it is one and whole, else a Mul and an Add."""
    nodes: list[ir.Node] = []
    if norm.kind == "BatchNorm" and norm.gain is not None and norm.bias is not None:
        return [_batch_normalization(emitter, norm, norm.gain.array, norm.bias.array, source)]
    for operator, word, parameter in (("Mul", "gain", norm.gain), ("Add", "bias", norm.bias)):
        if parameter is not None:
            last = nodes[-1].outputs[0] if nodes else source
            constant = emitter.parameter(parameter.array, f"{norm.name}/{word}", norm.output)
            nodes.append(emitter.node(operator, [last, constant], f"{norm.name}/{operator.lower()}", norm.output))
    return nodes


def _batch_normalization(emitter: Emitter, norm: Norm, gain: Floats, bias: Floats, source: ir.Value) -> ir.Node:
    """gain · x + bias as a BatchNormalization with mean 0, variance 1 and no ε."""
    channels = (emitter.facts.dims(norm.output) or (0, 0))[1] or 0
    arrays = {"scale": gain, "B": bias, "mean": np.zeros(()), "var": np.ones(())}
    dtype = emitter.facts.dtype(norm.output) or ir.DataType.FLOAT
    inputs = [
        emitter.constant(f"{norm.name}/{word}", (channels,), maps.affine(1, shift=array.reshape(-1)), dtype)
        for word, array in arrays.items()
    ]
    attributes = {"epsilon": ir.AttrFloat32("epsilon", norm.epsilon)}
    return emitter.node("BatchNormalization", [source, *inputs], f"{norm.name}/norm", norm.output, attributes)
