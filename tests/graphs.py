"""Small graphs as ONNX text in float64, run whole by onnx's reference evaluator: the yardstick of the engine's tests.

A constant is declared in the text by type and shape alone and drawn here, from its name, with a mean that is not zero.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

import normswap
from normswap.facts import Facts
from normswap.learn import learn
from normswap.ledger import Conversion
from normswap.maps import UNTOUCHED, Map
from tests.operators import ConvTranspose

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]

# Both models compute in float64, sums of at most a few hundred terms; a wrong map is wrong by far more.
AGREEMENT = 1e-10
# Sizes of free dimensions in whole runs: none is a width that the texts use.
SIZES = (2, 5, 3, 7)
# Ids that any table of the texts has.
IDS = 5
HEADER = '<ir_version: {ir_version}, opset_import: ["" : {opset}, "com.microsoft" : 1]>'


def drawn(name: str, shape: Sequence[int], scale: float = 1.0) -> Floats:
    """Numbers that belong to a name: normal, with a mean of their own, so that a forgotten Center shows."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    mean = random.choice([-1, 1]) * random.uniform(0.3, 0.8)
    return np.asarray(scale * random.normal(mean, 1.0, tuple(shape)))


def parsed(text: str, opset: int = 17, ir_version: int = 8, *, weights_are_inputs: bool = False) -> onnx.ModelProto:
    """The model of a text without its header; what it declares but neither computes nor gives becomes an initializer."""
    model = filled(onnx.parser.parse_model(HEADER.format(ir_version=ir_version, opset=opset) + text))
    for tensor in model.graph.initializer if weights_are_inputs else ():
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.checker.check_model(model)
    return model


def filled(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` itself, in which what is declared but neither computed nor given becomes an initializer."""
    computed = {output for node in model.graph.node for output in node.output}
    for declared in model.graph.value_info:
        kind = declared.type.tensor_type
        if declared.name not in computed:
            shape = [dim.dim_value for dim in kind.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            numbers = drawn(declared.name, shape)
            array = numbers > 0 if dtype == np.bool_ else numbers.astype(dtype)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, declared.name))
    del model.graph.value_info[:]
    return model


def with_weights(model: onnx.ModelProto, **arrays: npt.ArrayLike) -> onnx.ModelProto:
    """A copy of `model` in which the named initializers hold these numbers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in arrays:
            array = np.asarray(arrays[tensor.name], dtype=onnx.numpy_helper.to_array(tensor).dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return copy


@dataclass(frozen=True, eq=False)
class Scenario:
    """A model in onnx_ir with what is learnt about it."""

    proto: onnx.ModelProto
    model: ir.Model
    facts: Facts

    def node(self, name: str) -> ir.Node:
        """The node called `name`."""
        return next(node for node in self.model.graph if node.name == name)

    def value(self, name: str) -> ir.Value:
        """The value called `name`."""
        graph = self.model.graph
        outputs = (value for node in graph for value in node.outputs)
        return next(value for value in (*graph.inputs, *graph.initializers.values(), *outputs) if value.name == name)


def scenario(proto: onnx.ModelProto) -> Scenario:
    """The model of a proto and its facts."""
    model = ir.from_proto(proto)
    return Scenario(proto, model, learn(model))


# --- running --------------------------------------------------------------------------------------------------------


def feeds(model: onnx.ModelProto, sizes: Sequence[int] = SIZES) -> dict[str, Array]:
    """Inputs for `model`: floats with a mean, ids, masks; the same free dimension has the same size everywhere."""
    given = {tensor.name for tensor in model.graph.initializer}
    free: dict[str, int] = {}
    result: dict[str, Array] = {}
    for value in model.graph.input:
        if value.name in given:
            continue
        kind = value.type.tensor_type
        shape = [
            dim.dim_value or free.setdefault(dim.dim_param or f"{value.name}:{axis}", sizes[len(free) % len(sizes)])
            for axis, dim in enumerate(kind.shape.dim)
        ]
        random = np.random.default_rng(zlib.crc32(value.name.encode()))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind == "f":
            result[value.name] = drawn(value.name, shape, 1.5).astype(dtype)
        else:
            result[value.name] = random.integers(0, 2 if dtype.kind == "b" else IDS, shape).astype(dtype)
    return result


def run(model: onnx.ModelProto, given: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """The outputs of `model`, by name."""
    results = ReferenceEvaluator(model, new_ops=[ConvTranspose]).run(
        None, dict(feeds(model) if given is None else given)
    )
    return {output.name: np.asarray(result) for output, result in zip(model.graph.output, results, strict=True)}


def disagreement(before: Mapping[str, Array], after: Mapping[str, Array]) -> dict[str, float]:
    """How far outputs are apart, each relative to its largest value; infinite where type or shape differ."""
    assert before.keys() == after.keys()
    return {name: _apart(array, after[name]) for name, array in before.items()}


def _apart(left: Array, right: Array) -> float:
    if left.shape != right.shape or left.dtype != right.dtype or not np.isfinite(right).all():
        return np.inf
    size = np.abs(left).max(initial=0.0)
    return float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max(initial=0.0) / max(size, 1e-300))


# --- converting -----------------------------------------------------------------------------------------------------


def converted(model: onnx.ModelProto, **options: object) -> Conversion:
    """`model` converted to RMSNorms; whole runs before and after agree on every output that may not change."""
    result = normswap.convert(model, "rmsnorm", check=False, **options)  # type: ignore[arg-type]
    assert isinstance(result.model, onnx.ModelProto)
    onnx.checker.check_model(result.model)
    changeable = options.get("allow_changed_outputs", ())
    assert isinstance(changeable, Sequence)
    apart = disagreement(run(model), run(result.model))
    assert {name: error for name, error in apart.items() if error > AGREEMENT and name not in changeable} == {}
    return result


def counts(result: Conversion) -> tuple[int, int]:
    """How many LayerNorms became RMSNorms, and how many explicit Centers that took."""
    rules = Counter(rewrite.rule for rewrite in result.rewrites)
    assert rules["center-up"] == result.after.norms.get("RMSNorm", 0) - result.before.norms.get("RMSNorm", 0)
    return rules["center-up"], rules["center-up/explicit"]


def reasons(result: Conversion) -> dict[str, str]:
    """The reason of each refusal, by the norm's name."""
    return {refusal.site: refusal.reason_id for refusal in result.refused}


def weights(result: Conversion) -> dict[str, Array]:
    """The initializers of the converted model, by name."""
    model = result.model
    assert isinstance(model, onnx.ModelProto)
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def nodes(result: Conversion) -> list[onnx.NodeProto]:
    """The nodes of the converted model."""
    model = result.model
    assert isinstance(model, onnx.ModelProto)
    return list(model.graph.node)


# --- maps, by their definition --------------------------------------------------------------------------------------


def mapped(a_map: Map, array: Floats) -> Floats:
    """T(array) by its definition, one group after another; `array` broadcasts against the map."""
    shape = np.broadcast_shapes(array.shape, a_map.group.shape, a_map.scale.shape, a_map.offset().shape)
    values = np.broadcast_to(array, shape).astype(np.float64)
    result = np.array(np.broadcast_to(a_map.scale, shape) * values + np.broadcast_to(a_map.offset(), shape))
    for places in groups(a_map, shape):
        mean = np.mean([values[place] for place in places])
        for place in places:
            result[place] -= np.broadcast_to(a_map.scale, shape)[place] * mean
    return result


def groups(a_map: Map, shape: Sequence[int]) -> Iterator[list[tuple[int, ...]]]:
    """The places of a value of `shape` that are centered together, group by group."""
    together: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for place in np.ndindex(*shape):
        seen = tuple(0 if size == 1 else index for index, size in zip(place, a_map.group.shape, strict=True))
        ignored = tuple(index for index, size in zip(place, a_map.group.shape, strict=True) if size == 1)
        number = int(a_map.group[seen])
        if number != UNTOUCHED:
            together.setdefault((number, *ignored), []).append(place)
    yield from together.values()
