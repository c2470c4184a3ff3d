"""The number of operands and the attributes of every standard operator, as onnx.checker knows them.

The checker is given a copy in which weights are empty, and in which what it does not know (onnxruntime's operators in
ONNX's own domain, operators that were withdrawn) is in a domain it does not look at, so that it sees all the rest.
"""

from __future__ import annotations

from functools import cache

import onnx
import onnx.checker
import onnx.defs

from normswap.errors import InputRefused
from normswap.model import protos, wire

_UNKNOWN = "normswap.unknown"


def check(model: onnx.ModelProto) -> None:
    """Refuse a node with too few or too many operands, or with attributes that its operator does not have.

    Args:
        model: with tokens for large tensors, otherwise well-formed; it is not changed.

    Raises:
        InputRefused: with what onnx.checker says.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # Rules that onnxruntime does not have, about things that do not concern us.
    copy.ir_version = onnx.IR_VERSION
    copy.graph.name = copy.graph.name or "graph"
    for field in ("metadata_props", "training_info", "configuration"):
        copy.ClearField(field)
    local = {(function.domain, function.name) for function in copy.functions}
    for entry in (*copy.opset_import, *(entry for function in copy.functions for entry in function.opset_import)):
        entry.domain = protos.plain_domain(entry.domain)
    _hide_unknown_operators(copy, local)
    for scope, _ in protos.scopes(copy):
        if isinstance(scope, onnx.GraphProto):
            for sparse in scope.sparse_initializer:
                scope.initializer.add(name=sparse.values.name, data_type=sparse.values.data_type, dims=[0])
            del scope.sparse_initializer[:]
    for output in copy.graph.output:  # one without a shape is fine for onnxruntime and for us
        if output.type.HasField("tensor_type") and not output.type.tensor_type.HasField("shape"):
            output.type.tensor_type.shape.SetInParent()
    for tensor, _ in protos.tensors(copy):
        if wire.token_index(tensor.raw_data) is not None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            _empty(tensor)
    try:
        onnx.checker.check_model(copy, skip_opset_compatibility_check=True)
    except onnx.checker.ValidationError as error:
        raise InputRefused("; ".join(line.strip(" =>") for line in str(error).splitlines() if line.strip())) from error


def _hide_unknown_operators(model: onnx.ModelProto, local: set[tuple[str, str]]) -> None:
    main = {protos.plain_domain(entry.domain): entry.version for entry in model.opset_import}
    known = {schema.domain for schema in onnx.defs.get_all_schemas()}
    for scope, _ in protos.scopes(model):
        imports = main
        if isinstance(scope, onnx.FunctionProto):
            imports = {protos.plain_domain(entry.domain): entry.version for entry in scope.opset_import}
        for node in scope.node:
            domain = node.domain = protos.plain_domain(node.domain)
            typed = [attribute for attribute in node.attribute if attribute.type != onnx.AttributeProto.UNDEFINED]
            if len(typed) < len(node.attribute):  # as in IR version 1
                del node.attribute[:]
                node.domain = _UNKNOWN
            if (node.domain, node.op_type) in local or domain not in known:
                continue
            if domain not in imports or not _has_schema(node.op_type, imports[domain], domain):
                node.domain = _UNKNOWN
            elif any(attribute.HasField("sparse_tensor") for attribute in node.attribute):
                node.domain = _UNKNOWN  # checked against its values, which are not here
    for imports_ in (model.opset_import, *(function.opset_import for function in model.functions)):
        imports_.add(domain=_UNKNOWN, version=1)


@cache
def _has_schema(op_type: str, version: int, domain: str) -> bool:
    try:
        return not onnx.defs.get_schema(op_type, version, domain).deprecated
    except onnx.defs.SchemaError:
        return False


def _empty(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.dims[:] = [0]
