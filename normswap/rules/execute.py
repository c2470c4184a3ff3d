"""Run a few nodes in float64, norms by their definition: how a replacement is proved where it is put in.

A norm of domain `normswap` is what its function in rules/norms computes. Everything else is run by the reference
operators; what they cannot run is not proved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from normswap import reference
from normswap.facts import Facts
from normswap.reference import Array
from normswap.rules.pattern import Match
from normswap.rules.read import NORMS, Definitions, Rule
from normswap.rules.replacement import Emitted, exact

# Probes are normal with a mean, at scales down to √ε of every ε in use, where ε decides the result.
SCALES = (1.0, 1e-1, 1e-2, 1e-3, 1e-6)
MEAN = 0.5
# A dimension that no norm reduces and no constant varies along is cut to this size: the equation looks at each alone.
CUT = 3
# The shape before the gain's own where the model does not give the shape of x.
LEADING = (2, 3)


def execute(
    nodes: Iterable[ir.Node],
    arrays: Mapping[ir.Value, Array],
    opset: Callable[[ir.Node], int],
    definitions: Definitions,
) -> dict[ir.Value, Array]:
    """The arrays of all values after running `nodes`, in order, on `arrays`. Raises `reference.Unexecutable`."""
    known = dict(arrays)
    for node in nodes:
        missing = [value for value in node.inputs if value is not None and value not in known]
        if missing:
            raise reference.Unexecutable(f"{node.op_type} `{node.name}`: nothing gives `{missing[0].name}`")
        inputs = [None if value is None else known[value] for value in node.inputs]
        outputs = _norm(node, inputs, definitions) if node.domain == NORMS else reference.run(node, inputs, opset(node))
        known.update(zip(node.outputs, outputs, strict=False))
    return known


def _norm(node: ir.Node, inputs: Sequence[Array | None], definitions: Definitions) -> list[Array]:
    function = definitions.get((node.op_type, len(inputs)))
    if function is None:
        raise reference.Unexecutable(f"`{node.name}`: no norm {node.op_type} of {len(inputs)} inputs in rules/norms")
    given = [np.zeros(0) if array is None else reference.promote(array) for array in inputs]
    arrays = dict(zip(function.inputs, given, strict=True))
    known = execute(function, arrays, lambda inner: function.opset_imports.get(inner.domain, 1), definitions)
    return [known[value] for value in function.outputs]


def difference(rule: Rule, match: Match, emitted: Emitted, facts: Facts, definitions: Definitions, seed: int) -> float:
    """The largest relative difference, over the probes, between what `match` computes and what `emitted` does."""
    generator = np.random.default_rng(seed)
    inputs = [match.values[value] for value in rule.match.function.inputs]
    old_nodes = list(match.nodes.values())[::-1]
    feeds = {value: exact(value, facts) for value in _operands(old_nodes) if facts.is_constant(value)}
    shapes = probe_shapes(match, [value for value in inputs if not facts.is_constant(value)], facts)
    imports = match.nodes[rule.match.root]

    def opset(node: ir.Node) -> int:
        graph = imports.graph
        assert graph is not None
        return graph.opset_imports.get(node.domain) or facts.model.opset_imports.get(node.domain) or 1

    worst = 0.0
    for scale in SCALES:
        probes = {value: scale * (generator.normal(size=shape) + MEAN) for value, shape in shapes.items()}
        before = execute(_sorted(old_nodes), {**feeds, **probes}, opset, definitions)
        after = execute(emitted.nodes, {**feeds, **probes, **emitted.arrays}, opset, definitions)
        for wanted, new in zip(rule.match.function.outputs, emitted.outputs, strict=True):
            worst = max(worst, relative(after[new], before[match.values[wanted]]))
    return worst


def relative(array: Array, truth: Array) -> float:
    """max |array − truth| / max |truth|; infinite where shapes differ or a number is not finite."""
    if array.shape != truth.shape or not (np.isfinite(array).all() and np.isfinite(truth).all()):
        return float("inf")
    if not truth.size:
        return float("inf")
    largest, difference = float(np.abs(truth).max()), float(np.abs(np.subtract(array, truth)).max())
    if not difference:
        return 0.0
    return difference / largest if largest else float("inf")


def probe_shapes(match: Match, inputs: Sequence[ir.Value], facts: Facts) -> dict[ir.Value, tuple[int, ...]]:
    """A shape for each run-time input: its own, cut where neither a norm's axes nor a constant look."""
    kept: set[int] = set()  # axes, counted from the end
    constant_shape: tuple[int, ...] = ()
    for value in _operands(match.nodes.values()):
        array = facts.constant(value)
        if array is None:
            continue
        if array.dtype.kind == "i":
            kept.update(int(axis) for axis in array.reshape(-1).tolist() if axis < 0)
        else:
            kept.update(axis - array.ndim for axis, size in enumerate(array.shape) if size > 1)
            constant_shape = np.broadcast_shapes(constant_shape, array.shape)
    result = {}
    for value in inputs:
        shape = facts.shape(value) or (*LEADING, *constant_shape)
        rank = len(shape)
        result[value] = tuple(size if axis - rank in kept else min(size, CUT) for axis, size in enumerate(shape))
    return result


def _operands(nodes: Iterable[ir.Node]) -> list[ir.Value]:
    return list(dict.fromkeys(value for node in nodes for value in node.inputs if value is not None))


def _sorted(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """`nodes` in an order in which each comes after those it reads."""
    made = {output: node for node in nodes for output in node.outputs}
    done: dict[ir.Node, None] = {}

    def visit(node: ir.Node) -> None:
        for value in node.inputs:
            if value in made and made[value] not in done:
                visit(made[value])
        done.setdefault(node)

    for node in nodes:
        visit(node)
    return list(done)
