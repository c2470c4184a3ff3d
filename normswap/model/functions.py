"""Local functions that can be inlined: none calls itself, and all of them expanded stay within a budget.

A file of 2 KB can hold 30 functions that each call the previous one twice; onnx.checker, shape inference and
onnxruntime all run for longer than anyone waits on that. Counting the expansion is linear.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import onnx

from normswap.errors import InputRefused
from normswap.model import protos

MAX_EXPANDED_NODES = 1_000_000
"""Nodes of a model whose local functions are all inlined: real exports stay below 100,000, and what is above can
neither be inlined nor run in reasonable time."""

FunctionId: TypeAlias = tuple[str, str, str]
"""Domain, name and overload."""


def check(model: onnx.ModelProto) -> None:
    """Refuse recursion, and functions that call each other so often that inlining them would never end.

    Raises:
        InputRefused: naming a function.
    """
    bodies: dict[FunctionId, onnx.FunctionProto] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in bodies:
            raise InputRefused(f"function `{function.domain}.{function.name}` is defined more than once")
        bodies[key] = function
    expanded: dict[FunctionId, int] = {}
    for key in _callees_first(bodies):
        expanded[key] = _expanded_size(bodies[key].node, expanded)
        if expanded[key] > MAX_EXPANDED_NODES:
            raise InputRefused(
                f"function `{key[0]}.{key[1]}` stands for {expanded[key]:,} nodes once the functions it calls "
                f"are expanded; at most {MAX_EXPANDED_NODES:,} are accepted"
            )
    total = _expanded_size(model.graph.node, expanded)
    if total > MAX_EXPANDED_NODES:
        raise InputRefused(
            f"stands for {total:,} nodes once its functions are expanded; at most {MAX_EXPANDED_NODES:,} are accepted"
        )


def _callees_first(bodies: dict[FunctionId, onnx.FunctionProto]) -> Iterator[FunctionId]:
    """The functions in an order in which each comes after the ones it calls; without recursion of our own."""
    done: set[FunctionId] = set()
    for root in bodies:
        if root in done:
            continue
        path: dict[FunctionId, Iterator[FunctionId]] = {root: _calls(bodies[root].node, bodies)}
        while path:
            current, remaining = next(reversed(path.items()))
            callee = next((other for other in remaining if other not in done), None)
            if callee is None:
                path.popitem()
                done.add(current)
                yield current
            elif callee in path:
                raise InputRefused(f"function `{callee[0]}.{callee[1]}` calls itself, directly or through others")
            else:
                path[callee] = _calls(bodies[callee].node, bodies)


def _calls(nodes: Iterable[onnx.NodeProto], bodies: dict[FunctionId, onnx.FunctionProto]) -> Iterator[FunctionId]:
    for node in _all_nodes(nodes):
        if (key := (node.domain, node.op_type, node.overload)) in bodies:
            yield key


def _expanded_size(nodes: Iterable[onnx.NodeProto], expanded: dict[FunctionId, int]) -> int:
    return sum(expanded.get((node.domain, node.op_type, node.overload), 1) for node in _all_nodes(nodes))


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in protos.subgraphs(node):
            yield from _all_nodes(graph.node)
