"""Raise the opset of a model where nothing is lost: each node is replaced by what onnx's converter makes of it alone.

The converter, run on a whole model, deletes local functions, drops metadata, adds value infos and wants the weights.
Here it sees one node at a time, and only its answer is taken over: a new attribute, or an attribute that became an
input. Everything else stays as it is, and if one node cannot be raised, none is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir

from normswap import reference
from normswap.emit import Emitter
from normswap.facts import SMALL, Facts
from normswap.learn import learn
from normswap.reference import Array
from normswap.rules.execute import relative
from normswap.rules.replacement import place_constant

# Operators whose meaning changed, which onnx 1.23's converter gets wrong (tests/test_opset.py shows each).
MEANING_CHANGED: Mapping[str, tuple[int, str]] = {
    "GroupNormalization": (21, "scale and bias are per channel instead of per group"),
    "Resize": (11, "coordinates are those of half pixels instead of corners"),
}
# Until opset 12 these flattened everything from `axis` on; since 13 they look at `axis` alone. The converter leaves
# Hardmax as it is, and makes four operators of a Softmax.
FLATTENING = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
# Constant has only gained attributes, control flow only types, since these versions; bodies are raised node by node.
ONLY_GREW = {"Constant": 1, "If": 1, "Loop": 1, "Scan": 9}
# A changed node is run before and after on its own shapes up to this many elements, and must agree to rounding.
PROBE = 1 << 22
TOLERANCE = 1e-12
SEED = 23


class Lossy(Exception):
    """A node that cannot be raised without loss; the message says which and why."""


class ConversionError(Exception):
    """onnx's converter could not convert a node."""


@dataclass
class Raised:
    """What becomes of one node: its new operator, attributes and inputs; arrays among these are new constants."""

    operator: str
    attributes: dict[str, ir.Attr]
    inputs: list[ir.Value | Array | None] = field(default_factory=list)


def raise_opset(model: ir.Model, target: int, facts: Facts | None = None) -> ir.Model | str:
    """`model` itself, raised in place to opset `target` of the default domain; or, unchanged, the reason why not.

    Weights are not read; names, metadata, doc strings, value infos and nodes that mean the same stay as they are.
    """
    current = model.opset_imports.get("")
    if current is None or current == target:
        return model
    if current > target:
        return f"the model's opset is {current}; it can be raised but not lowered to {target}"
    if target > onnx.defs.onnx_opset_version():
        return f"onnx {onnx.__version__} knows opsets up to {onnx.defs.onnx_opset_version()}, not {target}"
    converter = Converter(target, model, facts)
    changes: dict[ir.Node, Raised] = {}
    try:
        for node, version in _nodes(model):
            raised = converter.convert(node, version)
            if raised is not None:
                changes[node] = raised
    except Lossy as reason:
        return str(reason)
    emitter = Emitter.of(converter.facts if changes else Facts(model))
    for node, raised in changes.items():
        _apply(node, raised, emitter, target)
    for imports in (model.graph.opset_imports, *(item.opset_imports for item in model.functions.values())):
        if "" in imports:
            imports[""] = max(imports[""], target)
    for graph in model.graph.subgraphs():
        if "" in graph.opset_imports:
            graph.opset_imports[""] = target
    return model


def _nodes(model: ir.Model) -> Iterator[tuple[ir.Node, int]]:
    """All nodes of the default domain, in subgraphs and functions too, with the opset each belongs to."""
    default = model.opset_imports[""]
    for node in model.graph.all_nodes():
        if node.domain == "":
            yield node, default
    for function in model.functions.values():
        for node in function.all_nodes():
            if node.domain == "":
                yield node, function.opset_imports.get("", default)


@dataclass
class Converter:
    """onnx's version converter, asked once for every distinct node."""

    target: int
    model: ir.Model
    given: Facts | None = None
    answers: dict[bytes, onnx.GraphProto] = field(default_factory=dict)

    @cached_property
    def facts(self) -> Facts:
        """Learned when first needed: most nodes are asked about with what the model itself says of their inputs."""
        return learn(self.model) if self.given is None else self.given

    def convert(self, node: ir.Node, version: int) -> Raised | None:
        """What `node` becomes at the target; None if it stays as it is. Raises `Lossy`."""
        where = f"{node.op_type} `{node.name or node.outputs[0].name}`"
        if version >= self.target:
            return None
        try:
            before = onnx.defs.get_schema(node.op_type, version, "").since_version
            after = onnx.defs.get_schema(node.op_type, self.target, "")
        except onnx.defs.SchemaError as error:
            raise Lossy(f"{where}: onnx does not know this operator") from error
        if before == after.since_version and not after.deprecated:
            return None
        changed, why = MEANING_CHANGED.get(node.op_type, (0, ""))
        if version < changed <= self.target:
            raise Lossy(f"{where}: since opset {changed} {why}")
        if before >= ONLY_GREW.get(node.op_type, self.target):
            return None
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            raise Lossy(f"{where}: its body cannot be raised")
        if node.op_type in FLATTENING and version < 13:
            return self._along_last_axis(node, where)
        raised = self._ask(node, version, where)
        if raised is not None:
            self._prove(node, version, raised, where)
        return raised

    def _along_last_axis(self, node: ir.Node, where: str) -> Raised:
        axis = reference.attribute(node, "axis", 1)
        source = node.inputs[0]
        dims = None if source is None or axis == -1 else self.facts.dims(source)
        if axis != -1 and dims is None:
            raise Lossy(
                f"{where}: the shape of its input is unknown, and since opset 13 axes from {axis} on are not flattened"
            )
        if dims is not None and axis % len(dims) != len(dims) - 1:
            raise Lossy(f"{where}: up to opset 12 it flattens all axes from {axis} on, since 13 it does not")
        return Raised(node.op_type, {**node.attributes, "axis": ir.AttrInt64("axis", axis)}, list(node.inputs))

    def _ask(self, node: ir.Node, version: int, where: str) -> Raised | None:
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            raise Lossy(f"{where}: its attributes are those of a function, and the operator changed")
        # Asked by types alone, most nodes are the same question; only one that changes needs its constants' types.
        with contextlib.suppress(ConversionError):
            original, answer = self._answer(node, version, detailed=False)
            if len(answer.node) == 1 and _unchanged(original, answer.node[0]):
                return None
        try:
            original, answer = self._answer(node, version, detailed=True)
        except ConversionError as error:
            raise Lossy(f"{where}: onnx's version converter failed: {error}") from error
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in answer.initializer}
        others = []
        for proto in answer.node:
            if proto.op_type == "Constant":
                array = ir.serde.deserialize_attribute(proto.attribute[0]).as_tensor().numpy()
                constants[proto.output[0]] = np.asarray(array)
            else:
                others.append(proto)
        if len(others) != 1 or list(others[0].output) != list(original.output):
            names = ", ".join(proto.op_type for proto in others)
            raise Lossy(f"{where}: it would become several operators ({names})")
        attributes = {item.name: ir.serde.deserialize_attribute(item) for item in others[0].attribute}
        given = dict(zip(original.input, node.inputs, strict=True))
        inputs = [None if not name else given[name] if name in given else constants[name] for name in others[0].input]
        if _unchanged(original, others[0]):
            return None
        return Raised(others[0].op_type, attributes, inputs)

    def _answer(self, node: ir.Node, version: int, *, detailed: bool) -> tuple[onnx.NodeProto, onnx.GraphProto]:
        """The node as it was asked about, and the converter's graph. Raises `ConversionError`."""
        alone = self._alone(node, version, detailed=detailed)
        key = alone.SerializeToString(deterministic=True)
        if key not in self.answers:
            try:
                self.answers[key] = onnx.version_converter.convert_version(alone, self.target).graph
            except Exception as error:  # C++ errors of the converter, of shape inference and of the checker
                raise ConversionError(str(error).strip().splitlines()[-1]) from error
        return alone.graph.node[0], self.answers[key]

    def _alone(self, node: ir.Node, version: int, *, detailed: bool) -> onnx.ModelProto:
        """A model of `node` only, with the types of its inputs, or in detail: their shapes, and small constants."""
        proto = ir.serde.serialize_node(node)
        proto.ClearField("metadata_props")
        proto.name = proto.doc_string = ""
        del proto.input[:], proto.output[:]
        proto.input.extend("" if value is None else f"i{index}" for index, value in enumerate(node.inputs))
        proto.output.extend(f"o{index}" if value.name else "" for index, value in enumerate(node.outputs))
        inputs, initializers = [], []
        for name, value in zip(proto.input, node.inputs, strict=True):
            if value is None:
                continue
            array = self._small_constant(value) if detailed else None
            if array is not None:
                initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
                continue
            dims = self.facts.dims(value) if detailed else None
            shape = None if dims is None else [f"{name}_{axis}" if d is None else d for axis, d in enumerate(dims)]
            dtype = (self.facts.dtype(value) if detailed else value.dtype) or ir.DataType.FLOAT
            inputs.append(onnx.helper.make_tensor_value_info(name, int(dtype), shape))
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in proto.output if name]
        graph = onnx.helper.make_graph([proto], "alone", inputs, outputs, initializers)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8)

    def _small_constant(self, value: ir.Value) -> Array | None:
        shape = self.facts.shape(value)
        if shape is None or not self.facts.is_constant(value) or np.prod(shape, dtype=np.float64) > SMALL:
            return None
        array = self.facts.constant(value)
        return array if array is not None and array.dtype.kind in "fiub" else None

    def _prove(self, node: ir.Node, version: int, raised: Raised, where: str) -> None:
        """Run the node before and after on random input of its own shapes.

        Where those are unknown, or large, an attribute that became an input of the same operator is taken on trust.
        """
        generator = np.random.default_rng(SEED)
        arrays: dict[ir.Value, Array] = {}
        for value in node.inputs:
            shape = None if value is None else self.facts.shape(value)
            if value is None:
                continue
            if shape is None or np.prod(shape, dtype=np.float64) > PROBE:
                if raised.operator != node.op_type:
                    raise Lossy(f"{where}: it would become {raised.operator}, and its shapes are unknown or too large")
                return
            dtype, constant = self.facts.dtype(value), self.facts.constant(value)
            if constant is not None:
                arrays[value] = constant
            elif dtype is None or dtype.is_floating_point():
                arrays[value] = generator.normal(size=shape)
            else:
                arrays[value] = np.zeros(shape, dtype.numpy())
        stand_ins = [None if value is None else ir.Value(name=f"i{index}") for index, value in enumerate(raised.inputs)]
        attributes = list(raised.attributes.values())
        new = ir.Node("", raised.operator, stand_ins, attributes, num_outputs=len(node.outputs))
        operands = [arrays[value] if isinstance(value, ir.Value) else value for value in raised.inputs]
        try:
            old_outputs = reference.run(node, [None if v is None else arrays[v] for v in node.inputs], version)
            new_outputs = reference.run(new, operands, self.target)
        except reference.Unexecutable as error:
            raise Lossy(f"{where}: the operator changed, and onnx cannot run it to compare: {error}") from error
        for old, changed in zip(old_outputs, new_outputs, strict=True):
            if not relative(changed, old) <= TOLERANCE:
                raise Lossy(f"{where}: onnx's version converter changes what it computes")


def _unchanged(old: onnx.NodeProto, new: onnx.NodeProto) -> bool:
    attributes = [{item.name: item for item in proto.attribute} for proto in (old, new)]
    return old.op_type == new.op_type and list(old.input) == list(new.input) and attributes[0] == attributes[1]


def _apply(node: ir.Node, raised: Raised, emitter: Emitter, target: int) -> None:
    node.op_type = raised.operator
    node.attributes.clear()
    node.attributes.update(raised.attributes)
    node.resize_inputs(len(raised.inputs))
    parameters = onnx.defs.get_schema(raised.operator, target, "").inputs
    data = node.inputs[0]
    for index, value in enumerate(raised.inputs):
        if value is None or isinstance(value, ir.Value):
            node.replace_input_with(index, value)
            continue
        dtype = ir.DataType.from_numpy(value.dtype)
        if data is not None and parameters[index].type_str == parameters[0].type_str:
            dtype = emitter.facts.dtype(data) or dtype  # the converter writes float32 whatever the type of the data
        name = emitter.name(f"{node.name or node.outputs[0].name}/{parameters[index].name}")
        tensor = ir.tensor(value.astype(dtype.numpy()), dtype=dtype, name=name)
        constant = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(value.shape), const_value=tensor)
        node.replace_input_with(index, constant)
        place_constant(constant, node, emitter.facts.model)
