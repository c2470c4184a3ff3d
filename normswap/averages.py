"""Operators that sum or average: pools of all there is, and products with a constant that is the same everywhere.

They are cheap to tell from linear layers: a weight is looked at only where its shape is that of a sum, and then its
corners first.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir

from normswap.facts import Facts
from normswap.reference import Array

MATRIX_PRODUCTS = frozenset({"MatMul", "Gemm"})
PRODUCTS = MATRIX_PRODUCTS | {"Einsum", "Conv"}
POOLS = frozenset({"GlobalAveragePool", "AveragePool"})
# A constant read element by element: as large as a gain over several axes, smaller than a weight of a linear layer.
MOST_ELEMENTS = 1 << 20


def averages(node: ir.Node, facts: Facts) -> bool:
    """Whether one of these operators sums or averages what it reads, or centers it."""
    match node.op_type:
        case "GlobalAveragePool":
            return True
        case "AveragePool":
            return _is_of_one_pixel(node.outputs[0], facts)
        case "MatMul" | "Gemm":
            with_sums = any(value is not None and _is_matrix_of_sums(value, facts) for value in node.inputs[:2])
            return with_sums or (node.op_type == "MatMul" and _is_row_times_column(node, facts))
        case "Einsum":
            return _is_sum_of_products(node, facts)
        case "Conv":
            return _is_convolution_of_sums(node, facts)
    return False


def _is_of_one_pixel(value: ir.Value, facts: Facts) -> bool:
    """Whether there is one position in space, and so a window over all of it."""
    shapes = [facts.shape(value, binding) for binding in range(2)]
    return all(shape is not None and len(shape) > 2 and max(shape[2:]) == 1 for shape in shapes)


def _is_matrix_of_sums(value: ir.Value, facts: Facts) -> bool:
    """Whether a constant is a vector, or a matrix of one row or column, a·1, or a square matrix a·1 + b·I."""
    shape = facts.shape(value) if facts.is_constant(value) else None
    if not shape or max(shape) < 2:
        return False
    is_vector = len(shape) == 1 or 1 in shape[-2:]
    if not is_vector and (len(shape) > 2 or shape[0] != shape[1]):
        return False
    array = facts.constant(value) if value.const_value is not None or max(shape) ** 2 < MOST_ELEMENTS else None
    return array is not None and (_is_uniform(array) if is_vector else _is_centering(array))


def _is_row_times_column(node: ir.Node, facts: Facts) -> bool:
    """Whether each matrix has one row, or one column, and neither is constant: x·xᵀ is the sum of squares of x."""
    shapes = [facts.shape(node.outputs[0], binding) for binding in range(2)]
    return all(shape is not None and shape[-2:] == (1, 1) for shape in shapes) and not any(
        value is None or facts.is_constant(value) for value in node.inputs
    )


def _is_sum_of_products(node: ir.Node, facts: Facts) -> bool:
    """Whether an Einsum sums x, x times itself, or x times constants a·1, with no diagonal and no new order."""
    equation = node.attributes["equation"].as_string().replace(" ", "")
    found = re.fullmatch(r"([a-zA-Z,]+)->([a-zA-Z]*)", equation)
    if found is None:
        return False
    terms = dict[ir.Value, set[str]]()
    for term, value in zip(found[1].split(","), node.inputs, strict=False):
        if value is None or len(set(term)) < len(term):
            return False
        if facts.is_constant(value):
            array = facts.constant(value) if np.prod(facts.shape(value) or ()) <= MOST_ELEMENTS else None
            if array is None or not _is_uniform(array):
                return False
        else:
            terms.setdefault(value, set()).add(term)
    if len(terms) != 1:
        return False
    words = next(iter(terms.values()))
    return len(words) == 1 and set(found[1]) - {","} == set(word := next(iter(words))) and _in_order(found[2], word)


def _in_order(letters: str, word: str) -> bool:
    return [letter for letter in word if letter in letters] == list(letters)


def _is_convolution_of_sums(node: ir.Node, facts: Facts) -> bool:
    """Whether a Conv sums over the channels at each position, over space for each channel, or over both."""
    weight = node.inputs[1]
    shape = facts.shape(weight) if weight is not None and facts.is_constant(weight) else None
    if weight is None or shape is None or np.prod(shape) > MOST_ELEMENTS or 1 not in shape[:2]:
        return False
    if max(shape[2:], default=1) > 1 and not _is_of_one_pixel(node.outputs[0], facts):
        return False
    array = facts.constant(weight) if np.prod(shape[1:]) > 1 else None
    return array is not None and _is_uniform(array)


def _is_uniform(array: Array) -> bool:
    flat = array.reshape(-1)
    return bool(flat[0] == flat[-1]) and bool((flat == flat[0]).all())


def _is_centering(array: Array) -> bool:
    if array[0, 1] != array[1, 0] or array[0, 0] != array[1, 1] or array[0, 1] != array[0, -1]:
        return False
    return bool((array == np.where(np.eye(len(array), dtype=bool), array[0, 0], array[0, 1])).all())
