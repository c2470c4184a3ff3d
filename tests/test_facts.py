"""Facts: what is static, what is constant, and what follows from shapes, under two bindings of the free dimensions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import onnx
import pytest

from normswap import maps
from normswap.learn import PRIMES, SPATIAL_SIZES, bind
from tests.graphs import Scenario, drawn, parsed, scenario


def told(text: str, opset: int = 17, ir_version: int = 8, **options: bool) -> Scenario:
    return scenario(parsed(text, opset, ir_version, **options))


def dims(text: str, name: str = "y", opset: int = 17) -> tuple[int | None, ...] | None:
    known = told(text, opset)
    return known.facts.dims(known.value(name))


# --- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Identity(x)", (None, None, 8)),
        ("y = Reshape(x, flat)", (None, 8)),  # a product of free dimensions is free
        ("y = Concat<axis = 0>(x, z)", (None, None, 8)),  # and so is a sum
        ("y = Slice(x, one, end, one)", (None, None, 8)),
        ("y = Reshape(x, heads)", (None, None, 2, 4)),
        ("s = Shape(x)\n y = Reshape(x, s)", (None, None, 8)),
        (
            "s = Shape<start = 0, end = 2>(x)\n w = Concat<axis = 0>(s, heads_only)\n y = Reshape(x, w)",
            (None, None, 2, 4),
        ),
        ("y = ReduceMean<axes = [2], keepdims = 0>(x)", (None, None)),
        ("y = Flatten<axis = 2>(x)", (None, 8)),
    ],
)
def test_a_dimension_is_static_where_both_bindings_agree(body: str, expected: tuple[int | None, ...]) -> None:
    rank = ",".join("IJKL"[: len(expected)])
    text = f"""
        main (double[B,S,8] x, double[S,S,8] z) => (double[{rank}] y)
        <int64[2] flat = {{-1, 8}}, int64[4] heads = {{0, 0, 2, 4}}, int64[2] heads_only = {{2, 4}}, int64[1] one = {{1}},
         int64[1] end = {{1000}}> {{ {body} }}"""
    assert dims(text) == expected


def test_no_sum_product_or_difference_of_free_dimensions_looks_static() -> None:
    first, second = PRIMES
    for i, j in combinations(range(len(first)), 2):
        assert first[i] * first[j] != second[i] * second[j]
        assert first[i] + first[j] != second[i] + second[j]
        assert first[i] - first[j] != second[i] - second[j]
    for small, large in SPATIAL_SIZES:
        assert all(one < other for one, other in zip(small, large, strict=True))


@pytest.mark.parametrize("strides", [[3], [3, 4, 5, 6]])
def test_a_free_dimension_that_strides_make_small_does_not_look_static(strides: list[int]) -> None:
    pools = [
        f'p{i + 1} = AveragePool<auto_pad = "SAME_UPPER", kernel_shape = [{s}], strides = [{s}]>(p{i})'
        for i, s in enumerate(strides)
    ]
    made = f"p{len(strides)}"
    text = f"main (double[1,1,T] x) => (double[1,1,U] y) {{ p0 = Tanh(x) {' '.join(pools)} y = Relu({made}) }}"
    assert dims(text) == (1, 1, None)


def test_the_same_symbol_is_the_same_size_and_an_expression_of_symbols_is_evaluated() -> None:
    text = "main (double[B,past,8] x, double[B,new,8] z, int64[B,total] mask) => (double[K,L,8] y) { y = Concat<axis = 1>(x, z) }"
    model = parsed(text)
    model.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "past + new"
    known = scenario(model)
    for binding in (0, 1):
        batch, past, _ = known.facts.shape(known.value("x"), binding) or ()
        same, new, _ = known.facts.shape(known.value("z"), binding) or ()
        assert same == batch
        assert known.facts.shape(known.value("mask"), binding) == (batch, past + new)
        assert known.facts.shape(known.value("y"), binding) == (batch, past + new, 8)


def test_images_are_bound_to_larger_sizes() -> None:
    known = told("main (double[B,3,H,W] x) => (double[B,3,H,W] y) { y = Neg(x) }")
    first = bind(known.model.graph.inputs, PRIMES[0], SPATIAL_SIZES[0][0])
    assert first[known.value("x")] == (PRIMES[0][0], 3, *SPATIAL_SIZES[0][0][:2])


def test_an_unknown_rank_is_not_guessed() -> None:
    assert dims("main (double[B,8] x, int64[N] to) => (double[J,K] y) { y = Reshape(x, to) }") is None


def test_the_shape_of_an_if_is_known_where_both_branches_agree() -> None:
    text = """
        main (double[B,8] x, bool c) => (double[B,8] y) { y = If (c) <
            then_branch = a () => (double[B,8] i) { i = Neg(x) }, else_branch = e () => (double[B,8] j) { j = Abs(x) } > }"""
    assert dims(text) == (None, 8)
    assert dims(text.replace("j = Abs(x)", "j = ReduceSum(x)")) is None
    behind = text.replace("=> (double[B,8] y) {", "=> (double[B,1,8] z) <int64[1] one = {1}> {") + "#"
    assert dims(behind.replace("}#", "z = Unsqueeze(y, one) }"), "z") == (None, 1, 8)


# --- constants ------------------------------------------------------------------------------------------------------

WEIGHTS = "main (double[B,2] x) => (double[B,2] y) <double[2] w> { n = Neg(w)\n y = Add(x, n) }"


def test_an_initializer_and_what_is_computed_from_it_are_constant() -> None:
    known = told(WEIGHTS)
    assert known.facts.is_constant(known.value("w"))
    assert np.array_equal(known.facts.constant(known.value("n")), -drawn("w", (2,)))
    assert known.facts.constant(known.value("x")) is None
    assert not known.facts.is_constant(known.value("y"))


@pytest.mark.parametrize(("ir_version", "constant"), [(3, True), (4, False), (8, False)])
def test_an_initializer_that_is_an_input_is_constant_up_to_ir_version_3(ir_version: int, constant: bool) -> None:
    known = told(WEIGHTS, opset=9, ir_version=ir_version, weights_are_inputs=True)
    assert known.facts.is_constant(known.value("w")) is constant
    assert known.facts.is_constant(known.value("n")) is constant
    assert known.facts.is_overridable(known.value("w")) is not constant


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("value = double[2] {1.5, 2.5}", [1.5, 2.5]),
        ("value_float = 1.5", 1.5),
        ("value_floats = [1.5, 2.5]", [1.5, 2.5]),
        ("value_int = 3", 3),
        ("value_ints = [3, 4]", [3, 4]),
    ],
)
def test_a_constant_node_is_read_from_whichever_attribute_it_has(attribute: str, expected: object) -> None:
    kind = "int64" if "int" in attribute else "double" if "double" in attribute else "float"
    shape = "[2]" if isinstance(expected, list) else ""
    known = told(f"main (double[B] x) => ({kind}{shape} y) {{ c = Constant<{attribute}>()\n y = Identity(c) }}")
    found = known.facts.constant(known.value("y"))
    assert found is not None
    assert found.tolist() == expected


@pytest.mark.parametrize("operator", ["RandomNormalLike(w)", "Dropout(w, ratio, train)", "Bernoulli(w)"])
def test_what_is_drawn_anew_in_every_run_is_no_constant(operator: str) -> None:
    text = f"main (double[2] x) => (double[2] y) <double[2] w, double ratio = {{0.5}}, bool train = {{1}}> {{ y = {operator} }}"
    known = told(text)
    assert not known.facts.is_constant(known.value("y"))


def test_what_follows_from_shapes_is_derived_under_each_binding_and_is_no_constant() -> None:
    known = told(
        "main (double[B,S,8] x) => (int64[2] y) <int64[2] some = {2, 0}> { s = Shape(x)\n y = Gather(s, some) }"
    )
    for binding in (0, 1):
        assert known.facts.derived(known.value("y"), binding).tolist() == [8, PRIMES[binding][0]]  # type: ignore[union-attr]
    assert known.facts.constant(known.value("y")) is None


# --- in float64 -----------------------------------------------------------------------------------------------------


def test_a_weight_that_moved_twice_is_rounded_once() -> None:
    known = told("main (float[B,3] x) => (float[B,3] y) <float[3] w> { y = Add(x, w) }")
    facts, weight = known.facts, known.value("w")
    exact = facts.float64(weight)
    third, again = known.value("x"), known.value("y")
    facts.move(third, weight, maps.affine(1, scale=np.asarray(1 / 3)))
    facts.move(again, third, maps.affine(1, scale=np.asarray(3.0)))
    assert np.abs(facts.float64(again) - exact).max() < 1e-15
    assert np.array_equal(facts.float64(again, {0: np.asarray([2])}), facts.float64(again)[[2]])


def test_a_part_of_a_weight_is_what_the_whole_has_there() -> None:
    known = told("main (double[B,6] x) => (double[B,8] y) <double[6,8] w> { y = MatMul(x, w) }")
    facts, weight = known.facts, known.value("w")
    facts.move(known.value("y"), weight, maps.centering(2, {1: 8}))
    rows = np.asarray([1, 4])
    assert np.array_equal(facts.float64(weight, {0: rows}), drawn("w", (6, 8))[rows])
    assert np.abs(facts.float64(known.value("y"), {0: rows}) - facts.float64(known.value("y"))[rows]).max() < 1e-15


def test_what_is_no_constant_has_no_numbers() -> None:
    known = told(WEIGHTS)
    with pytest.raises(KeyError, match="`x` is not a constant"):
        known.facts.float64(known.value("x"))


def test_a_half_precision_weight_is_read_as_it_is() -> None:
    known = told("main (float16[B,3] x) => (float16[B,3] y) <float16[3] w> { y = Add(x, w) }")
    stored = onnx.numpy_helper.to_array(known.proto.graph.initializer[0])
    assert known.facts.float64(known.value("w")).dtype == np.float64
    assert np.array_equal(known.facts.float64(known.value("w")), stored.astype(np.float64))


def test_a_new_value_has_the_shape_and_type_of_what_it_is_like() -> None:
    known = told(WEIGHTS)
    known.facts.declare(known.value("n"), known.value("x"))
    assert known.facts.shape(known.value("n"), 1) == (PRIMES[1][0], 2)
