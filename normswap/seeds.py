"""Seeds: the reductions around which regions are looked for, and the values that may be the x of such a region."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import onnx_ir as ir

from normswap.averages import MATRIX_PRODUCTS, POOLS, PRODUCTS, averages
from normswap.facts import Facts
from normswap.reference import ONNX_DOMAINS, promote
from normswap.regions import MOST_NODES, SUMS, is_admitted

# How many values a search steps back through: a variance is three steps from its x, casts and layouts add as many.
MOST_CANDIDATES = 16


def is_seed(node: ir.Node, facts: Facts) -> bool:
    """Whether `node` reduces what may be normalized, or may do so: a matrix product with one or two columns.

    Reductions of constants, of sizes and of integers are none.
    """
    if node.domain not in ONNX_DOMAINS or not node.inputs or node.op_type not in SUMS | POOLS | PRODUCTS:
        return False
    if node.op_type not in SUMS and not averages(node, facts):
        return False
    data = {value for value in node.inputs[:2] if value is not None and may_be_normalized(value, facts)}
    return len(data) == 1 or is_of_two(node, facts)


def is_of_two(seed: ir.Node, facts: Facts) -> bool:
    """Whether a seed is a product of two values, which may be the same one laid out as a row and as a column."""
    return seed.op_type == "MatMul" and not any(value is None or facts.is_constant(value) for value in seed.inputs)


def may_be_normalized(value: ir.Value, facts: Facts) -> bool:
    """Whether `value` is an activation, or an array of floats that follows from shapes: a state that starts as zeros.

    A single number is a size.
    """
    array, dtype = facts.known[0].get(value), facts.dtype(value)
    if array is None:
        return is_activation(value, facts)
    return array.size > 1 and dtype is not None and dtype.is_floating_point()


def is_activation(value: ir.Value, facts: Facts) -> bool:
    """Whether `value` holds floating-point numbers that depend on the inputs of the model, not on shapes alone."""
    if value in facts.known[0] or facts.is_constant(value):
        return False
    dtype = facts.dtype(value)
    return dtype is None or dtype.is_floating_point()


def is_of_activation(seed: ir.Node, facts: Facts) -> bool:
    """Whether a seed reduces an activation: of what follows from shapes nobody asks why it is not normalized."""
    return any(value is not None and is_activation(value, facts) for value in seed.inputs)


def candidates(seed: ir.Node, facts: Facts) -> Iterator[ir.Value]:
    """The values that may be the x of a region around `seed`: those it is computed from, the nearest first."""
    queue = deque(value for value in seed.inputs if value is not None and may_be_normalized(value, facts))
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
            if item is not None and item not in seen and may_be_normalized(item, facts):
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
    """The nodes where what `seed` makes meets another activation, that one, and whether a root was taken before.

    A node whose other inputs turn out to follow from the seed as well is no meeting.
    """
    queue, seen, rooted = deque(seed.outputs), set(seed.outputs), set[ir.Value]()
    if seed.op_type == "ReduceL2":
        rooted.update(seed.outputs)
    met = dict[ir.Node, tuple[ir.Value, bool]]()
    while queue and len(seen) < MOST_NODES:
        for node in queue.popleft().consumers():
            if node.graph is not seed.graph or not is_admitted(node, facts):
                continue
            under_root = _takes_root(node, facts) or any(value in rooted for value in node.inputs)
            others = [value for value in node.inputs if value is not None and value not in seen]
            other = next((value for value in others if may_be_normalized(value, facts)), None)
            if other is not None:
                met[node] = other, under_root
                continue
            met.pop(node, None)
            fresh = [value for value in node.outputs if value not in seen]
            seen.update(fresh)
            queue.extend(fresh)
            if under_root:
                rooted.update(fresh)
    yield from ((node, *found) for node, found in met.items())


def _takes_root(node: ir.Node, facts: Facts) -> bool:
    if node.op_type != "Pow":
        return node.op_type in ("Sqrt", "Reciprocal")
    exponent = None if node.inputs[1] is None else facts.constant(node.inputs[1])
    return exponent is not None and exponent.size == 1 and float(promote(exponent).item()) < 1
