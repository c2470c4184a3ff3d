"""If, Loop and Scan in float64: which subgraph runs, on what, how often, and what is collected.

The evaluator passes `enter`, which runs a subgraph on its arguments inside everything it captures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from normswap.reference import Array, Unexecutable

Enter = Callable[[ir.Graph, Iterable[Array]], list[Array]]
Inputs = Sequence["Array | None"]


def _if(node: ir.Node, inputs: Inputs, enter: Enter) -> list[Array]:
    chosen = "then_branch" if bool(np.asarray(inputs[0]).reshape(-1)[0]) else "else_branch"
    return enter(node.attributes[chosen].as_graph(), ())


def _loop(node: ir.Node, inputs: Inputs, enter: Enter) -> list[Array]:
    graph = node.attributes["body"].as_graph()
    trips = None if inputs[0] is None else int(inputs[0].reshape(-1)[0])
    going = len(inputs) < 2 or inputs[1] is None or bool(inputs[1].reshape(-1)[0])
    carried = [array for array in inputs[2:] if array is not None]
    collected: list[list[Array]] = [[] for _ in range(len(graph.outputs) - 1 - len(carried))]
    iteration = 0
    while going and (trips is None or iteration < trips):
        condition, *results = enter(graph, [np.array(iteration, np.int64), np.array(True), *carried])
        carried, scanned = results[: len(carried)], results[len(carried) :]
        for into, array in zip(collected, scanned, strict=True):
            into.append(array)
        going, iteration = bool(np.asarray(condition).reshape(-1)[0]), iteration + 1
    if collected and not iteration:
        raise Unexecutable(f"Loop `{node.name}` ran zero times: the shape of its scan outputs is unknown")
    return [*carried, *(np.stack(arrays) for arrays in collected)]


def _scan(node: ir.Node, inputs: Inputs, enter: Enter) -> list[Array]:
    graph = node.attributes["body"].as_graph()
    count = node.attributes["num_scan_inputs"].as_int()
    arrays = [np.asarray(array) for array in inputs]
    carried, scanned = arrays[: len(arrays) - count], arrays[len(arrays) - count :]
    produced = len(graph.outputs) - len(carried)

    def per(name: str, length: int) -> list[int]:
        written = node.attributes.get(name)
        return list(written.as_ints()) if written is not None else [0] * length

    axes, out_axes = per("scan_input_axes", count), per("scan_output_axes", produced)
    backward, out_backward = per("scan_input_directions", count), per("scan_output_directions", produced)
    rows = [np.moveaxis(a, axis, 0)[:: -1 if b else 1] for a, axis, b in zip(scanned, axes, backward, strict=True)]
    collected: list[list[Array]] = [[] for _ in range(produced)]
    for step in range(len(rows[0])):
        results = enter(graph, [*carried, *(row[step] for row in rows)])
        carried = results[: len(carried)]
        for into, array in zip(collected, results[len(carried) :], strict=True):
            into.append(array)
    outputs = [
        np.moveaxis(np.stack(arrays[:: -1 if b else 1]), 0, axis)
        for arrays, axis, b in zip(collected, out_axes, out_backward, strict=True)
    ]
    return [*carried, *outputs]


OPERATORS: Mapping[str, Callable[[ir.Node, Inputs, Enter], list[Array]]] = {"If": _if, "Loop": _loop, "Scan": _scan}
