"""A three-way merge of models: whatever a rewrite did not change is taken from the original, field by field.

`base` is what onnx_ir makes of the original, `ours` what it makes of the rewritten model. Elements of lists are
matched by name, nodes by their first output; what onnx_ir added to base is not added to the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, MutableSequence, Sequence
from typing import Any, TypeAlias

import onnx
from google.protobuf.message import Message

from normswap.model import protos

Key: TypeAlias = Callable[[Any], Hashable]  # of a message: each takes messages of one type


def merge(result: Message, base: Message, ours: Message) -> None:
    """Apply to `result`, a copy of the original, what distinguishes `ours` from `base`."""
    if base == ours:
        return
    for field in result.DESCRIPTOR.fields:
        before, after = getattr(base, field.name), getattr(ours, field.name)
        if isinstance(field.default_value, list):  # repeated, in the words of every version of protobuf
            if list(before) == list(after):
                continue
            if field.message_type is None:
                getattr(result, field.name)[:] = after
            else:
                path = f"{result.DESCRIPTOR.name}.{field.name}"
                _replace(getattr(result, field.name), before, after, path)
        elif base.HasField(field.name) == ours.HasField(field.name) and before == after:
            continue
        elif not ours.HasField(field.name):
            result.ClearField(field.name)
        elif field.message_type is None:
            setattr(result, field.name, after)
        elif base.HasField(field.name) and result.HasField(field.name):
            merge(getattr(result, field.name), before, after)
        else:
            getattr(result, field.name).CopyFrom(after)
    if isinstance(result, onnx.GraphProto) and isinstance(base, onnx.GraphProto) and isinstance(ours, onnx.GraphProto):
        _drop_orphans(result, base, ours)
    if isinstance(result, onnx.ModelProto) and isinstance(base, onnx.ModelProto) and isinstance(ours, onnx.ModelProto):
        versions = {protos.plain_domain(entry.domain): entry.version for entry in ours.opset_import}
        for entry in result.opset_import:  # "" and "ai.onnx", two names of one domain, may both be there
            entry.version = versions.get(protos.plain_domain(entry.domain), entry.version)
        gone = defined_names(base.graph) - defined_names(ours.graph)
        if any(entry.key in gone for training in result.training_info for entry in _bindings(training)):
            result.ClearField("training_info")  # it trains weights that are no more


def defined_names(graph: onnx.GraphProto) -> set[str]:
    """The values that a graph itself provides: inputs, initializers, outputs of nodes."""
    values = {value.name for value in graph.input}
    values |= {tensor.name for tensor in graph.initializer}
    values |= {sparse.values.name for sparse in graph.sparse_initializer}
    return values.union(*(node.output for node in graph.node))


def _replace(result: MutableSequence[Message], base: Sequence[Message], ours: Sequence[Message], path: str) -> None:
    """Merge the list `result` of messages, in place."""
    key = _KEYS.get(path, _by_position)
    originals, bases = _index(result, key), _index(base, key)
    merged: dict[Hashable, Message] = {}
    for name, item in _index(ours, key).items():
        mine, before = originals.get(name), bases.get(name)
        if isinstance(item, onnx.ValueInfoProto) and isinstance(mine, onnx.ValueInfoProto):
            # A rewrite preserves types and shapes, and inference only adds to what the model says of them.
            merged[name] = item if _contradict(mine, item) else mine
        elif mine is None or before is None:
            if path not in _NEVER_ADDED and before != item:
                merged[name] = item
        elif _is_same_kind(before, item):
            merged[name] = _copy(mine)
            merge(merged[name], before, item)
        else:
            merged[name] = item
    # What onnx_ir had dropped was not seen by the rewrite, so it was not the rewrite that removed it.
    merged |= {name: item for name, item in originals.items() if name not in bases and name not in merged}
    if path not in _ORDERED:
        merged = {name: merged[name] for name in originals if name in merged} | merged
    copies = [_copy(item) for item in merged.values()]
    del result[:]
    result.extend(copies)


def _index(items: Iterable[Message], key: Key) -> dict[Hashable, Message]:
    """The items by key, numbered where several have the same."""
    count: Counter[Hashable] = Counter()
    index: dict[Hashable, Message] = {}
    for item in items:
        name = key(item)
        index[name, count[name]] = item
        count[name] += 1
    return index


def _copy(message: Message) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _is_same_kind(before: Message, after: Message) -> bool:
    """Whether `after` is `before` with some fields changed, rather than something else of the same name."""
    if before == after:
        return True
    if isinstance(before, onnx.NodeProto) and isinstance(after, onnx.NodeProto):
        return (before.domain, before.op_type, before.overload) == (after.domain, after.op_type, after.overload)
    if isinstance(before, onnx.AttributeProto) and isinstance(after, onnx.AttributeProto):
        return before.type == after.type and before.ref_attr_name == after.ref_attr_name
    return not isinstance(before, onnx.TensorProto)


def _contradict(before: onnx.ValueInfoProto, after: onnx.ValueInfoProto) -> bool:
    """Whether two descriptions of a tensor say different things, rather than one more than the other."""
    old, new = before.type.tensor_type, after.type.tensor_type
    if old.elem_type and new.elem_type and old.elem_type != new.elem_type:
        return True
    if not (old.HasField("shape") and new.HasField("shape")):
        return False
    return len(old.shape.dim) != len(new.shape.dim) or any(
        a.HasField("dim_value") and b.HasField("dim_value") and a.dim_value != b.dim_value
        for a, b in zip(old.shape.dim, new.shape.dim, strict=True)
    )


def _drop_orphans(result: onnx.GraphProto, base: onnx.GraphProto, ours: onnx.GraphProto) -> None:
    """Remove what is said of values that the rewrite removed."""
    gone = defined_names(base) - defined_names(ours)
    dense = {tensor.name for tensor in result.initializer}
    computed = {output for node in result.node for output in node.output}
    described: tuple[tuple[Any, Key, set[str]], ...] = (
        (result.value_info, lambda value: value.name, gone),
        (result.quantization_annotation, lambda annotation: annotation.tensor_name, gone),
        (result.sparse_initializer, lambda sparse: sparse.values.name, gone | dense | computed),
    )
    for items, name, orphans in described:
        _drop(items, name, orphans)
    for node in result.node:
        for configuration in node.device_configurations:
            _drop(configuration.sharding_spec, lambda spec: spec.tensor_name, gone)


def _drop(items: MutableSequence[Any], name: Key, orphans: set[str]) -> None:
    for position in reversed(range(len(items))):
        if name(items[position]) in orphans:
            del items[position]


def _bindings(training: onnx.TrainingInfoProto) -> list[onnx.StringStringEntryProto]:
    return [*training.initialization_binding, *training.update_binding]


def _by_position(message: Message) -> Hashable:
    """A key that is the same for all elements, so that they are matched by their number."""
    return None


def _node_key(node: onnx.NodeProto) -> Hashable:
    # Names of nodes are often empty or repeated; the values they make are unique.
    return next(filter(None, node.output), (node.op_type, node.name))


_KEYS: dict[str, Key] = {
    "ModelProto.opset_import": lambda entry: protos.plain_domain(entry.domain),
    "ModelProto.metadata_props": lambda entry: entry.key,
    "ModelProto.functions": lambda function: (function.domain, function.name, function.overload),
    "ModelProto.configuration": lambda configuration: configuration.name,
    "GraphProto.node": _node_key,
    "GraphProto.initializer": lambda tensor: tensor.name,
    "GraphProto.input": lambda value: value.name,
    "GraphProto.output": lambda value: value.name,
    "GraphProto.value_info": lambda value: value.name,
    "GraphProto.quantization_annotation": lambda annotation: annotation.tensor_name,
    "GraphProto.metadata_props": lambda entry: entry.key,
    "FunctionProto.node": _node_key,
    "FunctionProto.opset_import": lambda entry: protos.plain_domain(entry.domain),
    "FunctionProto.attribute_proto": lambda attribute: attribute.name,
    "FunctionProto.value_info": lambda value: value.name,
    "FunctionProto.metadata_props": lambda entry: entry.key,
    "NodeProto.attribute": lambda attribute: attribute.name,
    "NodeProto.metadata_props": lambda entry: entry.key,
    "NodeProto.device_configurations": lambda configuration: configuration.configuration_id,
    "TensorAnnotation.quant_parameter_tensor_names": lambda entry: entry.key,
}

# Lists whose order means something follow the rewritten model; the others keep the original's, new elements last.
_ORDERED = frozenset({"GraphProto.node", "GraphProto.input", "GraphProto.output", "FunctionProto.node"})

# Value infos that a model did not have change what onnxruntime fuses.
_NEVER_ADDED = frozenset({"GraphProto.value_info", "FunctionProto.value_info"})
