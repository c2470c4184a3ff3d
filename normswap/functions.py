"""Local functions: those that hold norms are inlined, so that maps can cross the calls; others stay functions.

The weights of a body are its caller's arguments, so that only in the place of the call they are constants. What was
inlined remembers where it stood, so that `inspect` tells of a norm once per body.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from normswap.norm import Unrecognized
from normswap.operator_views import operator_kind
from normswap.recognize import graphs
from normswap.regions import SUMS
from normswap.views import label, unrecognized

ORIGIN = "normswap.origin"  # in a node's `meta`, which is copied with it and never saved


@dataclass(frozen=True)
class Origin:
    """Where a node stood before it was inlined: the path of its body, its place there, and the names it had there."""

    path: str
    place: int
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def origin(node: ir.Node) -> Origin | None:
    """Where a node stood before it was inlined; None for one that was not."""
    found = node.meta.get(ORIGIN)
    return found if isinstance(found, Origin) else None


def _remember(function: ir.Function) -> None:
    """Note in every node of a function where it stands."""
    for graph, path in graphs(function.graph, f"{function.domain}.{function.name}"):
        for place, node in enumerate(graph):
            inputs = tuple("" if value is None else value.name or "" for value in node.inputs)
            outputs = tuple(value.name or "" for value in node.outputs)
            node.meta[ORIGIN] = Origin(path, place, label(node), inputs, outputs)


def inlined(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """`model` with the local functions inlined that hold norms, and their names; as it was where that is impossible."""
    holding = set[ir.OperatorIdentifier]()
    while True:
        more = {key for key, body in model.functions.items() if key not in holding and _may_hold_norm(body, holding)}
        if not more:
            break
        holding |= more
    if not holding:
        return model, ()
    result = model.clone()
    for key in holding:
        _remember(result.functions[key])
    try:
        InlinePass(lambda function: function.identifier() in holding)(result)
    except (ValueError, ir.passes.PassError, ir.passes.PreconditionError):
        return model, ()
    return result, tuple(f"{domain}.{name}" for domain, name, _ in sorted(holding))


def _may_hold_norm(function: ir.Function, holding: Collection[ir.OperatorIdentifier]) -> bool:
    """Whether there is a norm operator in the function, or a reduction that may be part of one, or a call of such."""
    return any(
        operator_kind(node) is not None or node.op_type in SUMS or node.op_identifier() in holding
        for node in function.all_nodes()
    )


def norms_inside(model: ir.Model) -> Iterator[Unrecognized]:
    """Norm operators in the bodies of local functions, which are not looked into: they do not go unmentioned."""
    for function in model.functions.values():
        for node in function:
            if operator_kind(node) is not None:
                yield unrecognized(node, "local-function", f" in function `{function.name}`")
