"""What operators and bytes cost, in one unit: one element touched once.

Prices are what regroup will emit, so a LayerNorm that becomes RMSNorm + Add is cheaper by little, and a bias moved onto
50,257 logits is a loss. They decide ties and trades only; nothing in a proof depends on them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from normswap.facts import Facts

# One more operator costs about as much as touching this many elements: 1 to 2 microseconds on a CPU.
LAUNCH = 1000
# How often each operator touches its elements; relative times on onnxruntime's CPU kernels at [1, 128, 768] are
# LayerNorm 1.00, RMSNorm 0.56, RMSNorm + Add 0.82 (MATH.md §7), which these reproduce as 4 : 2 : 3.
LAYER_NORM, ROOT_MEAN_SQUARE, ELEMENTWISE = 4, 2, 1
# A core multiplies and adds this many pairs of numbers in a matrix product in the time in which it touches an element:
# two vector instructions a cycle on 8 float32 each, against an element loaded and stored.
PRODUCTS_PER_ELEMENT = 16
# An explicit Center is a ReduceMean and a Sub.
CENTER_OPERATORS, CENTER_PASSES = 2, 2
# A new constant is not touched more often than the old one; it costs memory and disk. 64 bytes, a cache line, weigh as
# much as one element: a 154 MB copy of an embedding costs more than ten explicit Centers behind it.
BYTES_PER_ELEMENT = 64
# A constant of more numbers than this (256 KiB of float32) stays in no cache: to read it costs as much as the data.
CACHED = 1 << 16
# How many elements the free dimensions stand for, all together: one short sequence.
FREE_ELEMENTS = 128


def elements(value: ir.Value, facts: Facts) -> int:
    """How many elements `value` has in a nominal run: its static dimensions times `FREE_ELEMENTS` if any is free."""
    dims = facts.dims(value)
    if dims is None:
        return FREE_ELEMENTS
    count = FREE_ELEMENTS if None in dims else 1
    for size in dims:
        count *= 1 if size is None else size
    return count


def elementwise(value: ir.Value, facts: Facts) -> int:
    """One Add or Mul that makes a value like `value`."""
    return LAUNCH + ELEMENTWISE * elements(value, facts)


def linear(products: int, value: ir.Value, facts: Facts) -> int:
    """One Conv, Gemm or MatMul that makes `value`, each element from so many products."""
    return LAUNCH + elements(value, facts) * (PRODUCTS_PER_ELEMENT + products) // PRODUCTS_PER_ELEMENT


def operand(value: ir.Value, facts: Facts) -> int:
    """One operand of a norm operator that makes `value`, a gain or a bias.

    A LayerNormalization without bias takes 0.93 to 0.99 of the time of one with it (MATH.md §7): of four passes, that
    is at most a quarter of one.
    """
    return elements(value, facts) // 4


def center(value: ir.Value, facts: Facts) -> int:
    """One explicit Center of `value`."""
    return CENTER_OPERATORS * LAUNCH + CENTER_PASSES * elements(value, facts)


def layer_norm_to_rms_norm(value: ir.Value, facts: Facts, *, bias_stays: bool) -> int:
    """What is saved when a LayerNorm of `value` becomes an RMSNorm, and an Add if its bias stays behind."""
    saved = (LAYER_NORM - ROOT_MEAN_SQUARE) * elements(value, facts)
    return saved - (elementwise(value, facts) if bias_stays else 0)


def storage(numbers: int) -> int:
    """A new constant of so many float32 numbers; none is cheaper than a fraction of one element."""
    return numbers * 4 // BYTES_PER_ELEMENT


def copy(constant: ir.Value, facts: Facts) -> int:
    """A second copy of `constant`."""
    shape, dtype = facts.shape(constant) or (), facts.dtype(constant)
    count = 1
    for size in shape:
        count *= size
    return 1 + int(count * (dtype.itemsize if dtype is not None else 4)) // BYTES_PER_ELEMENT


def unstored(constant: ir.Value, facts: Facts) -> int:
    """How many numbers more are stored when a constant that was computed becomes an initializer.

    What it is computed from goes if nothing else is: a tied embedding stays when the head that is its Transpose moves.
    """
    if constant.producer() is None:
        return 0
    freed, pending = 0, [constant]
    inside: set[ir.Node] = set()
    while pending:
        value = pending.pop()
        node = value.producer()
        alone = value is constant or (not value.is_graph_output() and all(use.node in inside for use in value.uses()))
        if not alone:
            continue
        if node is None or node.op_type == "Constant":
            freed += int(np.prod(facts.shape(value) or (), dtype=np.int64))
        else:
            inside.add(node)
            pending += [source for source in node.inputs if source is not None]
    return max(0, int(np.prod(facts.shape(constant) or (), dtype=np.int64)) - freed)
