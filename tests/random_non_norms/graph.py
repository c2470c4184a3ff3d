"""A graph as plain data, which mutations can rewrite: nodes by name, constants as float64, and two ways to write it out.

`model` is what the program under test sees; `judged` is the same in float64, with every 1/N as exact as can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.generic]

FLOATS: Mapping[str, npt.DTypeLike] = {
    "double": np.float64,
    "float": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
EPS = {name: float(ml_dtypes.finfo(dtype).eps) for name, dtype in FLOATS.items()}
TYPES = {
    "double": TensorProto.DOUBLE,
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float8": TensorProto.FLOAT8E4M3FN,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}
OPSET, IR_VERSION = 17, 9
# Who reads 1/N as a factor makes a mean of a sum.
FACTORS = frozenset({"Mul", "MatMul"})
# Casts between these lose digits, nothing else; one to 8 bits saturates.
ROUNDING = frozenset({"double", "float", "float16", "bfloat16"})


@dataclass(frozen=True)
class Node:
    """One operator; `to` is the type of a Cast by name, "own" for that of the graph."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, object] = field(default_factory=dict)
    to: str = ""


@dataclass(eq=False)
class Graph:
    """Inputs with their dims, nodes in order, constants; integers stay what they are, floats are of type `dtype`."""

    dtype: str
    dims: Sequence[int | str]
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Numbers] = field(default_factory=dict)
    inverses: dict[str, int] = field(default_factory=dict)  # N of constants that are 1/N, which `dtype` may round
    inputs: dict[str, Sequence[int | str]] = field(default_factory=dict)  # besides x
    outputs: list[str] = field(default_factory=list)
    spelled: str = ""
    opset: int = OPSET
    count: int = 0

    def name(self, stem: str) -> str:
        """A new name."""
        self.count += 1
        return f"{stem}{self.count}"

    def node(self, op: str, *inputs: str, to: str = "", **attributes: object) -> str:
        """Append a node; the name of what it makes."""
        output = self.name(op.lower()[:4])
        self.nodes.append(Node(op, inputs, output, attributes, to))
        return output

    def number(self, value: npt.ArrayLike, *, inverse: bool = False) -> str:
        """A constant of floats."""
        name = self.name("c")
        self.constants[name] = np.asarray(value, np.float64)
        if inverse:
            self.inverses[name] = round(1 / float(self.constants[name].flat[0]))
        return name

    def integers(self, value: npt.ArrayLike) -> str:
        """A constant of integers."""
        name = self.name("i")
        self.constants[name] = np.asarray(value, np.int64)
        return name

    def model(self) -> onnx.ModelProto:
        """As the program under test sees it."""
        dtype = FLOATS[self.dtype]
        with np.errstate(over="ignore"):
            arrays = {
                name: array.astype(dtype) if array.dtype == np.float64 else array
                for name, array in self.constants.items()
            }
        return _model(self.nodes, arrays, self._values(), self.outputs, self.dtype, self.opset)

    def judged(self, start: str | None, end: str) -> onnx.ModelProto | None:
        """What computes `end` from `start` and the graph's inputs, in float64; None where `start` has no say in it."""
        needed, wanted = [], {end}
        for node in reversed(self.nodes):
            if node.output in wanted and node.output != start:
                needed.append(node)
                wanted.update(node.inputs)
        if start is not None and start not in wanted:
            return None
        arrays = {name: array for name, array in self.rounded().items() if name in wanted}
        needed = [node for node in reversed(needed) if node.output not in arrays]
        values = {name: dims for name, dims in self._values().items() if name in wanted}
        if start is not None:
            values[start] = None
        return _model([_widened(node) for node in needed], arrays, values, [end], "double", self.opset)

    def rounded(self) -> Mapping[str, Numbers]:
        """All constants as the graph's own type has them, those that nodes compute too, in float64; 1/N exactly."""
        dtype, arrays, nodes = FLOATS[self.dtype], dict[str, Numbers](), list[Node]()
        exact = {
            name: size
            for name, size in self.inverses.items()
            if all(node.op in FACTORS for node in self.nodes if name in node.inputs)
        }
        with np.errstate(over="ignore"):
            for name, array in self.constants.items():
                arrays[name] = array.astype(dtype) if array.dtype == np.float64 else array
        known = arrays.keys() - exact.keys()
        for node in self.nodes:
            if all(name in known for name in node.inputs):
                known = known | {node.output}
                nodes.append(node)
        if nodes:
            names = [node.output for node in nodes]
            results = ReferenceEvaluator(_model(nodes, arrays, {}, names, self.dtype, self.opset)).run(None, {})
            arrays.update(zip(names, (np.asarray(result) for result in results), strict=True))
        for name, size in self.inverses.items():  # also under another name
            same = [node.output for node in nodes if (arrays[node.output] == arrays[name].flat[0]).all()]
            exact.update(dict.fromkeys(same, size))
        wide = {name: array.astype(np.float64) if array.dtype == dtype else array for name, array in arrays.items()}
        return {**wide, **{name: _inverse(wide[name], size, dtype) for name, size in exact.items()}}

    def computes_constants(self) -> bool:
        """Whether a node computes a constant, which evaluators of a narrow type may round in two ways."""
        known = set(self.constants)
        return any(all(name in known for name in node.inputs) for node in self.nodes)

    def _values(self) -> dict[str, Sequence[int | str] | None]:
        return {"x": self.dims, **self.inputs}


def _inverse(rounded: Numbers, size: int, dtype: npt.DTypeLike) -> Numbers:
    """1/N, where that is what was rounded."""
    wide = np.full(rounded.shape, 1 / size)
    return wide if np.array_equal(wide.astype(dtype).astype(np.float64), rounded) else rounded


def _widened(node: Node) -> Node:
    """The node in a graph of float64: a cast that only rounds does nothing."""
    return replace(node, to="own") if node.to in ROUNDING else node


def _model(
    nodes: Sequence[Node],
    arrays: Mapping[str, Numbers],
    inputs: Mapping[str, Sequence[int | str] | None],
    outputs: Sequence[str],
    dtype: str,
    opset: int,
) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.inputs}
    protos = []
    for node in nodes:
        attributes = dict(node.attributes)
        if node.op == "Cast":
            attributes["to"] = TYPES[dtype if node.to == "own" else node.to]
        protos.append(helper.make_node(node.op, node.inputs, [node.output], name=f"n_{node.output}", **attributes))
    given = [helper.make_tensor_value_info(name, TYPES[dtype], dims) for name, dims in inputs.items()]
    made = [helper.make_tensor_value_info(name, TYPES[dtype], None) for name in outputs]
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in read]
    graph = helper.make_graph(protos, "g", given, made, stored)
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", opset)])
