"""Models that are not fit to be analysed, refused with one line that says where and why.

Everything here is linear in the size of the file and reads no weights. It runs before any native library sees the
model: onnx.checker and shape inference accept much of this, and take minutes or crash on some of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import onnx
import onnx.defs

from normswap.errors import InputRefused
from normswap.model import functions, operators, protos, sizes, wire


def check(model: onnx.ModelProto, cuts: Sequence[wire.Cut], where: str) -> None:
    """Refuse a model that is not well-formed.

    Args:
        model: with tokens for large tensors.
        cuts: what the tokens stand for.
        where: what messages call the model.

    Raises:
        InputRefused: naming the node, tensor or function.
    """
    try:
        _check_versions(model)
        for tensor, _ in protos.tensors(model):
            sizes.check_tensor(tensor, cuts)
        functions.check(model)
        for scope, name in protos.scopes(model):
            _check_names(scope, name)
            _check_types(scope, name)
        _check_graph(model.graph, set(), f"graph `{model.graph.name}`")
        for function in model.functions:
            name = f"function `{function.domain}.{function.name}`"
            _check_body(function, list(function.input), set(), name)
            _check_outputs(function.output, {*function.input, *_made(function.node)}, name)
        operators.check(model)
    except InputRefused as error:
        raise InputRefused(f"{where}: {protos.printable(str(error))}") from error


def _check_versions(model: onnx.ModelProto) -> None:
    if not model.HasField("graph"):
        raise InputRefused("has no graph; it is not an ONNX model, or a damaged one")
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise InputRefused(f"has IR version {model.ir_version}; 1 to {onnx.IR_VERSION} are supported")
    if not model.opset_import:
        raise InputRefused("imports no opset, so its operators have no meaning; export it again")
    imports = [(entry.domain, entry.version) for entry in model.opset_import]
    imports += [(entry.domain, entry.version) for function in model.functions for entry in function.opset_import]
    newest = onnx.defs.onnx_opset_version()
    for domain, version in imports:
        if not protos.plain_domain(domain) and not 1 <= version <= newest:
            raise InputRefused(f"imports opset {version}; 1 to {newest} are supported")


def _check_names(scope: protos.Scope, where: str) -> None:
    names = [scope.name]
    for node in scope.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
    if isinstance(scope, onnx.GraphProto):
        names += [value.name for value in (*scope.input, *scope.output, *scope.value_info)]
    for name in names:
        if not protos.is_text(name):
            raise InputRefused(f"{where}: the name {name!r} is not UTF-8")


def _check_types(scope: protos.Scope, where: str) -> None:
    values = list(scope.value_info)
    if isinstance(scope, onnx.GraphProto):
        values += [*scope.input, *scope.output]
    for value in values:
        for tensor_type in protos.tensor_types(value.type):
            if not sizes.is_element_type(tensor_type.elem_type):
                raise InputRefused(f"{where}: `{value.name}` has the unknown element type {tensor_type.elem_type}")
            for dim in tensor_type.shape.dim:
                if dim.dim_value < protos.UNKNOWN_DIMENSION:
                    raise InputRefused(
                        f"{where}: `{value.name}` has the dimension {dim.dim_value}; give a free dimension a name"
                    )


def _check_graph(graph: onnx.GraphProto, outer: set[str], where: str) -> None:
    inputs = [value.name for value in graph.input]
    constants = [tensor.name for tensor in graph.initializer]
    constants += [sparse.values.name for sparse in graph.sparse_initializer]
    _check_unique(inputs, where)
    _check_unique(constants, where)
    if "" in inputs or "" in constants:
        raise InputRefused(f"{where}: an input or initializer has no name")
    provided = list(dict.fromkeys((*inputs, *constants)))
    _check_body(graph, provided, outer, where)
    _check_outputs([value.name for value in graph.output], {*outer, *provided, *_made(graph.node)}, where)
    if not graph.output:
        raise InputRefused(f"{where}: has no outputs")


def _check_body(scope: protos.Scope, provided: list[str], outer: set[str], where: str) -> None:
    """Every value has one producer, which comes before its readers."""
    _check_unique([*provided, *_made(scope.node)], where)
    visible = outer | set(provided)
    for node in scope.node:
        for name in node.input:
            if name and name not in visible:
                raise InputRefused(f"{where}: {_why_undefined(name, node, scope)}")
        for graph in protos.subgraphs(node):
            _check_graph(graph, visible, f"{protos.label(node)}, subgraph `{graph.name}`")
        visible.update(filter(None, node.output))


def _check_unique(names: Sequence[str], where: str) -> None:
    if len(set(names)) < len(names):
        twice, _ = Counter(names).most_common(1)[0]
        raise InputRefused(f"{where}: `{twice}` is produced more than once")


def _check_outputs(names: Iterable[str], known: set[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise InputRefused(f"{where}: nothing produces the output `{name}`")


def _made(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    return [name for node in nodes for name in node.output if name]


def _why_undefined(name: str, node: onnx.NodeProto, scope: protos.Scope) -> str:
    """Dangling, in a cycle, or merely out of order: `node` reads `name` before anything made it."""
    producer_of = {made: other for other in scope.node for made in other.output if made}
    if name not in producer_of:
        return f"{protos.label(node)} reads `{name}`, which nothing produces"
    pending, seen = [producer_of[name]], set()
    while pending:
        producer = pending.pop()
        if producer is node or set(producer.output) & set(node.output):
            return f"{protos.label(node)} depends on its own result `{name}`"
        for read in producer.input:
            if read in producer_of and read not in seen:
                seen.add(read)
                pending.append(producer_of[read])
    return (
        f"{protos.label(node)} comes before the node that makes its input `{name}`; "
        "sort the nodes (onnx_ir.passes.common.TopologicalSortPass)"
    )
