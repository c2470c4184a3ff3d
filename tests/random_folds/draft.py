"""A random graph under construction: ONNX text, and what every value is under two bindings of the free dimensions.

Each node is run as it is added, so its sizes are known without a second account of what operators do, and what cannot
be run is not added. A constant is declared by name, type and shape alone; the end of its name says what it holds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from normswap.check import kernels
from normswap.reference import Unexecutable
from tests.graphs import Array, Floats, drawn

# Sizes of free dimensions, in the order in which they appear: of the whole run, and of another one.
SIZES, OTHER_SIZES = (3, 5, 2, 7), (8, 11, 7, 12)
MOST_ELEMENTS = 6000
IR_VERSIONS = {17: 8, 18: 8, 20: 9, 21: 10, 22: 10, 23: 11}  # by opset
# No graph is told apart from another by more than these kinds of constants.
KINDS = ("any", "positive", "negative", "mixed", "zeros", "zero", "one", "uniform", "variance")


class Unfit(Exception):
    """A piece that does not fit where it was tried."""


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the graph, and its numbers under both bindings."""

    name: str
    arrays: tuple[Array, Array]
    plain: bool = False  # an initializer

    @property
    def rank(self) -> int:
        """Its rank."""
        return int(self.arrays[0].ndim)

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """Its static sizes, None where they are free."""
        return tuple(a if a == b else None for a, b in zip(self.arrays[0].shape, self.arrays[1].shape, strict=True))

    def size(self, axis: int) -> int:
        """The size of an axis, which must be static."""
        found = self.sizes[axis]
        if found is None:
            raise Unfit("a free axis")
        return found

    def least(self, axis: int) -> int:
        """The size of an axis under the binding where it is smaller."""
        return min(array.shape[axis] for array in self.arrays)


def numbers(name: str, shape: Sequence[int]) -> Floats:
    """The numbers of the constant called `name`, of the kind that its name ends in."""
    kind, base = name.rsplit("_", 1)[1], drawn(name, shape)
    away = np.where(base < 0, base - 0.2, base + 0.2)
    match kind:
        case "positive" | "variance":
            return np.abs(away)
        case "negative":
            return -np.abs(away)
        case "mixed":
            return away
        case "zeros":
            return np.where(base > 0.3, base, 0.0)
        case "zero":
            return np.zeros(tuple(shape))
        case "one":
            return np.ones(tuple(shape))
        case "uniform":
            return np.full(tuple(shape), float(drawn(name, ())) + 1.7)
    return base


@dataclass(frozen=True)
class Line:
    """One node of the text: what it gives, and what it may read."""

    outputs: tuple[str, ...]
    text: str


@dataclass(eq=False)
class Draft:
    """The graph so far."""

    random: random.Random
    opset: int
    inputs: list[str] = field(default_factory=list)
    constants: dict[str, str] = field(default_factory=dict)  # declarations, by name
    lines: list[Line] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)  # what a next piece may read
    shared: list[Value] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)  # texts, by name
    free: dict[str, int] = field(default_factory=dict)
    count: int = 0
    norms: int = 0

    # --- drawing ----------------------------------------------------------------------------------------------------

    def maybe(self, chance: float) -> bool:
        """Whether, with this chance. A chance that hypothesis can turn down."""
        return self.random.random() < chance

    def name(self, stem: str) -> str:
        """A new name."""
        self.count += 1
        return f"{stem}{self.count}"

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Where a piece does not fit, nothing of it stays."""
        before = list(self.inputs), dict(self.constants), list(self.lines), list(self.values), list(self.shared)
        norms = self.norms
        try:
            yield
        except Unfit:
            # in place, since whoever collects the lines of a body holds the list
            self.inputs[:], self.lines[:], self.values[:], self.shared[:] = before[0], before[2], before[3], before[4]
            self.constants, self.norms = before[1], norms
            raise

    # --- inputs and constants ---------------------------------------------------------------------------------------

    def input(self, dims: Sequence[int | str], dtype: str = "double") -> Value:
        """A new input; the same symbol has the same size everywhere, and is new or was there before."""
        name = self.name("x")
        for dim in dims:
            if isinstance(dim, str):
                self.free.setdefault(dim, len(self.free))
        arrays = []
        for sizes in (SIZES, OTHER_SIZES):
            shape = [dim if isinstance(dim, int) else sizes[self.free[dim] % len(sizes)] for dim in dims]
            array = drawn(name, shape)
            arrays.append(
                array if dtype == "double" else array > 0 if dtype == "bool" else (array > 0).astype(np.int64)
            )
        self.inputs.append(f"{declared(dtype, dims)} {name}")
        return Value(name, (arrays[0], arrays[1]))

    def constant(self, shape: Sequence[int], kind: str = "any", *, hide: bool = True) -> Value:
        """A constant, now and then one that is there already, or behind nodes that compute it."""
        if int(np.prod(shape, dtype=np.int64)) > MOST_ELEMENTS:
            raise Unfit("a large constant")
        like = [v for v in self.shared if v.arrays[0].shape == tuple(shape) and v.name.endswith(f"_{kind}")]
        if like and self.maybe(0.2):
            return self.random.choice(like)
        stored = list(shape)
        way = (
            self.random.choice(["Identity", "Transpose", "Reshape", "Unsqueeze", "Cast"])
            if hide and self.maybe(0.12)
            else ""
        )
        if way == "Transpose":
            stored = stored[::-1]
        elif way == "Reshape":
            stored = [int(np.prod(shape, dtype=np.int64))]
        elif way == "Unsqueeze":
            if 1 not in stored:
                raise Unfit("no axis to insert")
            axis = stored.index(1)
            del stored[axis]
        name = f"{self.name('c')}_{kind}"
        array = numbers(name, stored)
        if way == "Cast":
            array = array.astype(np.float32).astype(np.float64)
        self.constants[name] = declared("float" if way == "Cast" else "double", stored) + f" {name}"
        value = Value(name, (array, array), plain=True)
        if way == "Reshape":
            return self.node(way, value, self.integers(list(shape)))
        if way == "Unsqueeze":
            return self.node(way, value, self.integers([axis]))
        if way == "Cast":
            return self.node(way, value, to=int(onnx.TensorProto.DOUBLE))
        if way:
            return self.node(way, value)
        self.shared.append(value)
        return value

    def booleans(self, shape: Sequence[int]) -> Value:
        """A constant mask."""
        name = f"{self.name('c')}_any"
        self.constants[name] = declared("bool", shape) + f" {name}"
        array = numbers(name, shape) > 0
        return Value(name, (array, array))

    def integers(self, items: Sequence[int] | int) -> Value:
        """A constant of integers, whose numbers stand in the text."""
        name = self.name("i")
        array = np.asarray(items, dtype=np.int64)
        written = ", ".join(str(item) for item in array.reshape(-1))
        self.constants[name] = declared("int64", array.shape) + f" {name} = {{{written}}}"
        return Value(name, (array, array))

    # --- nodes ------------------------------------------------------------------------------------------------------

    def node(self, op: str, *inputs: Value | None, **attributes: object) -> Value:
        """The first output of a new node."""
        return self.nodes(op, 1, *inputs, **attributes)[0]

    def nodes(self, op: str, outputs: int, *inputs: Value | None, **attributes: object) -> list[Value]:
        """A new node, run under both bindings."""
        domain, _, op_type = op.rpartition(".")
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        proto = onnx.helper.make_node(
            op_type,
            ["" if value is None else value.name for value in inputs],
            [self.name("v") for _ in range(outputs)],
            name=self.name("n"),
            domain=domain,
            **attributes,
        )
        results = []
        for binding in range(2):
            node = ir.Node(
                domain,
                op_type,
                [None if value is None else ir.Value(name=value.name) for value in inputs],
                [ir.from_proto(attribute) for attribute in proto.attribute],
                outputs=[ir.Value(name=name) for name in proto.output],
            )
            try:
                given = [None if value is None else value.arrays[binding] for value in inputs]
                arrays = kernels.run(node, given, 1 if domain else self.opset)
            except Unexecutable as error:
                raise Unfit(str(error)) from error
            if any(array.size > MOST_ELEMENTS or array.size == 0 for array in arrays):
                raise Unfit("too large, or empty")
            results.append(arrays)
        if len(results[0]) < outputs or any(a.ndim != b.ndim for a, b in zip(*results, strict=True)):
            raise Unfit("outputs that are not there")
        self.lines.append(Line(tuple(proto.output), node_text(op, proto)))
        return [Value(name, (a, b)) for name, a, b in zip(proto.output, *results, strict=False)]

    def text_line(self, outputs: Sequence[Value], text: str) -> None:
        """A node whose text is written by hand, as one with bodies is."""
        self.lines.append(Line(tuple(value.name for value in outputs), text))

    @contextmanager
    def within(self) -> Iterator[list[Line]]:
        """Nodes that are added here are those of a body; what they give is not there outside."""
        outside, values = self.lines, list(self.values)
        self.lines = []
        inside = self.lines
        try:
            yield inside
        finally:
            self.lines, self.values = outside, values

    # --- the text ---------------------------------------------------------------------------------------------------

    def text(self, outputs: Sequence[Value]) -> str:
        """The whole model, without what no output needs."""
        needed = {value.name for value in outputs}
        kept: list[str] = []
        for line in reversed(self.lines):
            if not needed.isdisjoint(line.outputs):
                kept.append(line.text)
                needed |= set(re.findall(r"\w+", line.text))
        constants = ", ".join(text for name, text in self.constants.items() if name in needed)
        body = "\n    ".join(reversed(kept))
        results = ", ".join(f"{declared('double', self.dims(value, 'o'))} {value.name}" for value in outputs)
        functions = [text for name, text in self.functions.items() if f"local.{name} " in body]
        imports = f'"" : {self.opset}' + "".join(
            f', "{domain}" : 1' for domain in ("com.microsoft", "local") if f"{domain}." in "".join([body, *functions])
        )
        return (
            f"<ir_version: {IR_VERSIONS[self.opset]}, opset_import: [{imports}]>\n"
            f"main ({', '.join(self.inputs)}) => ({results})\n  <{constants}> {{\n    {body}\n}}" + "".join(functions)
        )

    def dims(self, value: Value, stem: str) -> list[int | str]:
        """The dimensions with which a value can be declared, new symbols where they are free."""
        return [self.name(stem) if size is None else size for size in value.sizes]


def declared(dtype: str, dims: Sequence[int | str]) -> str:
    """A type, as text."""
    return f"{dtype}[{','.join(str(dim) for dim in dims)}]" if len(dims) else dtype


def node_text(op: str, proto: onnx.NodeProto) -> str:
    """A node, as text."""
    attributes = ", ".join(f"{item.name} = {attribute_text(item)}" for item in proto.attribute)
    left, right = ", ".join(proto.output), ", ".join(proto.input)
    return f"[{proto.name}] {left} = {op}{f' <{attributes}>' if attributes else ''} ({right})"


def attribute_text(attribute: onnx.AttributeProto) -> str:
    """The value of an attribute, as text."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return f'"{value.decode()}"'
    if isinstance(value, (list, tuple)) or hasattr(value, "__len__"):
        return f"[{', '.join(_number(item) for item in value)}]"
    return _number(value)


def _number(value: object) -> str:
    if isinstance(value, bytes):
        return f'"{value.decode()}"'
    return repr(float(value)) if isinstance(value, float) else str(value)


def filled(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` itself, in which what is declared but neither computed nor given holds the numbers of its name."""
    for value in model.graph.value_info:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        array = numbers(value.name, shape)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(array > 0 if dtype == np.bool_ else array.astype(dtype), value.name)
        )
    del model.graph.value_info[:]
    return model


def parsed(text: str) -> onnx.ModelProto:
    """The model of a text."""
    return filled(onnx.parser.parse_model(text))


def feeds(model: onnx.ModelProto, sizes: Sequence[int] = SIZES) -> Mapping[str, Array]:
    """The inputs of a whole run."""
    free: dict[str, int] = {}
    result: dict[str, Array] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value or sizes[free.setdefault(d.dim_param, len(free)) % len(sizes)] for d in kind.shape.dim]
        array, dtype = drawn(value.name, shape), onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        result[value.name] = array.astype(dtype) if dtype.kind == "f" else (array > 0).astype(dtype)
    return result
