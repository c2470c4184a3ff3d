"""Seeds: the reductions around which regions are looked for, and the values that may be the x of such a region."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import onnx_ir as ir

from normswap.facts import Facts
from normswap.reference import ONNX_DOMAINS
from normswap.regions import MATRIX_PRODUCTS, MOST_NODES, POOLS, SUMS, averages, is_admitted

# How many values a search steps back through: a variance is three steps from its x, casts and layouts add as many.
MOST_CANDIDATES = 16


def is_seed(node: ir.Node, facts: Facts) -> bool:
    """Whether `node` reduces a floating-point activation, or may: a matrix product with a matrix of one or two values.

    Reductions of constants, of shapes and of integers are none.
    """
    if node.domain not in ONNX_DOMAINS or not node.inputs or node.op_type not in SUMS | POOLS | MATRIX_PRODUCTS:
        return False
    if node.op_type in MATRIX_PRODUCTS and not averages(node, facts):
        return False
    data = [value for value in node.inputs[:2] if value is not None and _is_activation(value, facts)]
    return len(data) == 1


def _is_activation(value: ir.Value, facts: Facts) -> bool:
    if value in facts.known[0] or facts.is_constant(value):
        return False
    dtype = facts.dtype(value)
    return dtype is None or dtype.is_floating_point()


def candidates(seed: ir.Node, facts: Facts) -> Iterator[ir.Value]:
    """The values that may be the x of a region around `seed`: those it is computed from, the nearest first."""
    queue = deque(value for value in seed.inputs if value is not None and _is_activation(value, facts))
    seen = set(queue)
    for _ in range(MOST_CANDIDATES):
        if not queue:
            return
        value = queue.popleft()
        yield value
        producer = value.producer()
        if producer is None or producer.graph is not seed.graph or not is_admitted(producer, facts):
            continue
        for item in producer.inputs:
            if item is not None and item not in seen and _is_activation(item, facts):
                seen.add(item)
                queue.append(item)


def meets_another(seed: ir.Node, facts: Facts) -> bool:
    """Whether what `seed` makes meets another activation further down: else it cannot be a part of a norm."""
    return seed.op_type in MATRIX_PRODUCTS or next(_meetings(seed, facts), None) is not None


def scales_another(seed: ir.Node, facts: Facts) -> bool:
    """Whether the root or inverse of what `seed` makes scales a value that it is not a statistic of."""
    own = {*seed.outputs, *candidates(seed, facts)}
    for node, value, rooted in _meetings(seed, facts):
        if node.op_type in ("Mul", "Div") and rooted and value not in own:
            return True
    return False


def _meetings(seed: ir.Node, facts: Facts) -> Iterator[tuple[ir.Node, ir.Value, bool]]:
    """The nodes where what `seed` makes meets another activation, that one, and whether a root was taken before."""
    queue, seen, rooted = deque(seed.outputs), set(seed.outputs), seed.op_type == "ReduceL2"
    while queue and len(seen) < MOST_NODES:
        for node in queue.popleft().consumers():
            if node.graph is not seed.graph or not is_admitted(node, facts):
                continue
            rooted = rooted or node.op_type in ("Sqrt", "Pow", "Reciprocal")
            others = [value for value in node.inputs if value is not None and value not in seen]
            yield from ((node, value, rooted) for value in others if _is_activation(value, facts))
            if not any(_is_activation(value, facts) for value in others):
                fresh = [value for value in node.outputs if value not in seen]
                seen.update(fresh)
                queue.extend(fresh)
