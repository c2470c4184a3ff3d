"""ONNX's own node tests: every normalization operator, and the body that its definition expands it to, is recognized.

What is expected is read from the operator's attributes and its schema's defaults; an expanded body must be found to be
what its operator is, with scale and bias as the graph inputs they are there, and as constants.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase
from onnx.reference import ReferenceEvaluator

import normswap
from tests.inspected import inspected

KINDS = {
    "LayerNormalization": "LayerNorm",
    "RMSNormalization": "RMSNorm",
    "GroupNormalization": "GroupNorm",
    "InstanceNormalization": "InstanceNorm",
    "MeanVarianceNormalization": "MeanVarianceNorm",
    "LpNormalization": "L2Norm",
}
# Tests of these operators that are no norm of ours, and why.
NONE = {
    "test_l1normalization_axis_0": "divides by the sum of |x|, which is no root mean square",
    "test_l1normalization_axis_1": "divides by the sum of |x|, which is no root mean square",
    "test_l1normalization_axis_last": "divides by the sum of |x|, which is no root mean square",
}
EXPANDED = "_expanded"


def _collected() -> dict[str, TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tests of other operators divide by zero when they are made
        return {case.name: case for case in collect_testcases()}


CASES = _collected()
# The operator that a test is about: its own node, or that of the test it was expanded from.
TWINS = {name: CASES[name.split(EXPANDED)[0]].model.graph.node[0] for name in CASES if name.split(EXPANDED)[0] in CASES}
NAMES = [name for name, twin in TWINS.items() if twin.op_type in KINDS]
FOUND = [name for name in NAMES if name not in NONE]


@dataclass(frozen=True)
class Expected:
    """What an operator's node says about its norm."""

    kind: str
    axes: tuple[int, ...]
    epsilon: float
    groups: int


def expected(name: str) -> Expected:
    """The norm of a test, from the node and the schema of its operator."""
    node, model = TWINS[name], CASES[name.split(EXPANDED)[0]].model
    schema = onnx.defs.get_schema(node.op_type, model.opset_import[0].version)
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    values = {
        item.name: helper.get_attribute_value(item.default_value)
        for item in schema.attributes.values()
        if item.default_value.name
    } | given
    rank = len(model.graph.input[0].type.tensor_type.shape.dim)
    axes = {
        "LayerNormalization": lambda: range(values["axis"] % rank, rank),
        "RMSNormalization": lambda: range(values["axis"] % rank, rank),
        "GroupNormalization": lambda: range(1, rank),
        "InstanceNormalization": lambda: range(2, rank),
        "MeanVarianceNormalization": lambda: sorted(axis % rank for axis in values["axes"]),
        "LpNormalization": lambda: [values["axis"] % rank],
    }[node.op_type]()
    epsilon = values.get("epsilon", _constant(schema, "Epsilon"))
    return Expected(KINDS[node.op_type], tuple(axes), epsilon, values.get("num_groups", 1))


def _constant(schema: onnx.defs.OpSchema, name: str) -> float:
    """A scalar that the function body of an operator defines; zero where it has none of this name."""
    nodes = schema.function_body.node if schema.has_function else ()
    found = [node.attribute[0].t for node in nodes if list(node.output) == [name] and node.attribute[0].HasField("t")]
    return float(numpy_helper.to_array(found[0])[()].item()) if found else 0.0


def model_of(name: str, *, constant: bool) -> onnx.ModelProto:
    """The model of a test; with `constant`, all its inputs but the first are initializers with the test's values."""
    model = onnx.ModelProto()
    model.CopyFrom(CASES[name].model)
    if constant:
        arrays = dict(zip((value.name for value in model.graph.input), CASES[name].data_sets[0][0], strict=True))
        names = [value.name for value in model.graph.input][1:]
        model.graph.initializer.extend(numpy_helper.from_array(arrays[value], value) for value in names)
        del model.graph.input[1:]
    return model


def dims_of(name: str) -> tuple[int, ...]:
    return CASES[name].data_sets[0][0][0].shape


def wide(axes: Iterable[int], name: str) -> tuple[int, ...]:
    """The axes that are not of size 1, over which nothing is averaged: a body's function does not depend on those."""
    dims = dims_of(name)
    return tuple(axis for axis in axes if dims[axis] != 1)


def may_be_gated(name: str) -> bool:
    """Whether the body multiplies by a run-time input as large as x: a gate as well as a gain, and so taken for none."""
    x, *given = CASES[name].data_sets[0][0]
    return EXPANDED in name and any(parameter.shape == x.shape for parameter in given)


def parts(name: str, *, constant: bool) -> tuple[str, str]:
    """What is to be said of scale and bias: they are the inputs after the first."""
    given = len(CASES[name].model.graph.input) - 1
    word = "constant" if constant else "none" if may_be_gated(name) else "runtime"
    scale, bias = (word,) * given + ("none",) * (2 - given)
    return scale, bias


def test_every_operator_has_tests_and_bodies_where_the_standard_defines_them() -> None:
    assert {TWINS[name].op_type for name in NAMES} == KINDS.keys()
    expanded = {TWINS[name].op_type for name in NAMES if EXPANDED in name}
    defined = {operator for operator in KINDS if onnx.defs.get_schema(operator).has_function}
    defined |= {operator for operator in KINDS if onnx.defs.get_schema(operator).has_context_dependent_function}
    assert expanded == defined
    assert set(NONE) < set(NAMES)


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("constant", [False, True], ids=["inputs", "constants"])
def test_it_is_recognized_with_its_axes_and_epsilon(name: str, constant: bool) -> None:
    (row,) = inspected(model_of(name, constant=constant)).norms
    norm = expected(name)
    assert (row.kind, row.groups, row.epsilon) == (norm.kind, norm.groups, pytest.approx(norm.epsilon, rel=1e-6))
    if TWINS[name].op_type == "LayerNormalization" and may_be_gated(name) and not constant:
        assert row.axes == (1,)  # of x flattened to two axes: what is shaped back is gated
    else:
        assert wide(row.axes, name) == wide(norm.axes, name)
    assert row.size == math.prod(dims_of(name)[axis] for axis in norm.axes) // norm.groups
    assert (row.scale, row.bias) == parts(name, constant=constant)


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_norm_is_not_recognized(name: str) -> None:
    assert inspected(model_of(name, constant=False)).norms == ()


@pytest.mark.parametrize("name", [name for name in FOUND if EXPANDED in name])
@pytest.mark.parametrize("constant", [False, True], ids=["inputs", "constants"])
def test_a_body_is_written_as_its_operator_and_passes_the_tests_own_data(name: str, constant: bool) -> None:
    result = normswap.convert(model_of(name, constant=constant), "standard", check=False)
    model = result.model
    assert isinstance(model, onnx.ModelProto)
    assert [node.op_type for node in model.graph.node if node.op_type in KINDS] == [TWINS[name].op_type]
    inputs, outputs = CASES[name].data_sets[0]
    feeds = dict(zip((value.name for value in model.graph.input), inputs, strict=False))
    for found, wanted in zip(ReferenceEvaluator(model).run(None, feeds), outputs, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=CASES[name].rtol, atol=CASES[name].atol)
