"""The parts of a check: interfaces, roles of inputs, sizes, families, bounds."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from normswap.check import sizes
from normswap.check.inputs import FULL, QUICK, families, synthesize
from normswap.check.interface import Port, compare, interface
from normswap.check.measure import Error, measure, relative_difference
from normswap.check.ranges import Ids, Lengths, Mask, Numbers, OneOf, role
from normswap.check.verdict import EXPLAINED, Sample, overall, pool, too_large, unexplained

EPS = float(np.finfo(np.float32).eps)


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))


# --- interface -------------------------------------------------------------------------------------------------------

BASE = "g (float[N, 4] x, int64[N] i) => (float[N, 4] y, float[N] z) { y = Neg(x)\n z = Cast<to = 1>(i) }"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (BASE.replace("float[N, 4] x, int64[N] i", "int64[N] i, float[N, 4] x"), "order of the inputs"),
        (BASE.replace("float[N, 4] y, float[N] z", "float[N] z, float[N, 4] y"), "order of the outputs"),
        (BASE.replace("float[N, 4] y, float[N] z", "float[N, 4] y"), "output `z` is lost"),
        (BASE.replace("int64[N] i", "int64[N] j"), "input `i` is lost; input `j` is new"),
        (BASE.replace("int64[N] i", "int32[N] i"), "input `i` was INT64, is INT32"),
        (BASE.replace("float[N, 4] x", "float[2, 4] x"), "input `x` was [N, 4], is [2, 4]"),
        (BASE.replace("float[N, 4] x", "float[N, 5] x"), "input `x` was [N, 4], is [N, 5]"),
        (BASE.replace("float[N, 4] y", "float[N, 5] y"), "output `y` was [N, 4], is [N, 5]"),
        (BASE.replace("float[N, 4] x", "float[N, 4, 1] x"), "input `x` was [N, 4], is [N, 4, 1]"),
    ],
)
def test_broken_interface(changed, words):
    found = compare(interface(parse(BASE)), interface(parse(changed)))
    assert words in "; ".join(found.broken)


@pytest.mark.parametrize(
    "changed",
    [
        BASE.replace("float[N, 4] x", "float[M, 4] x"),
        BASE.replace("float[N, 4] x", "float[N, P] x"),
        BASE.replace("float[N, 4] y", "float[2, 4] y"),
        BASE.replace("float[N, 4] y", "float[] y"),
    ],
)
def test_differences_that_no_caller_notices(changed):
    found = compare(interface(parse(BASE)), interface(parse(changed)))
    assert not found.broken
    assert len(found.notes) == 1


def test_overridable_initializer():
    text = "g (float[N, 4] x, float[4] w) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }"
    fixed = "g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }"
    overridable = interface(parse(text))
    assert [port.name for port in overridable.inputs] == ["x"]
    assert [port.name for port in overridable.overridable] == ["w"]
    assert "overridable initializer `w` is lost" in compare(overridable, interface(parse(fixed))).broken
    old = parse(text)
    old.ir_version = 3  # where every initializer had to be listed
    assert interface(old).overridable == ()


# --- what an input may hold ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g (int64[N] i) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = Gather(w, i) }", Ids(3)),
        (
            """g (int32[N] i) => (float[1, N, 2] y)
            <float[3, 2] w = {1, 2, 3, 4, 5, 6}, int64[1] a = {0}, int64[1] two = {2}> {
                b = Cast<to = 7>(i)
                c = Unsqueeze(b, a)
                d = Add(c, two)
                y = Gather(w, d) }""",
            Ids(1),
        ),
        (
            """g (int64[N] i) => (float[N, 2] y, float[2, N] z) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
                y = Gather(w, i)
                t = Transpose<perm = [1, 0]>(w)
                z = Gather<axis = 0>(t, i) }""",
            Ids(2),
        ),
        ("g (int64[N] attention_mask) => (float[N] y) { y = Cast<to = 1>(attention_mask) }", Mask()),
        ("g (int64[N] i) => (int64[N] y) { zero = Constant<value = int64 {0}>()\n y = CumSum(i, zero) }", Mask()),
        ("g (bool[N] keep) => (bool[N] y) { y = Not(keep) }", Mask()),
        (
            "g (float[N, 1, S, S] mask, float[N, 4, S, S] x) => (float[N, 4, S, S] y) { y = Add(x, mask) }",
            Mask(additive=True),
        ),
        ("g (float[N, S] attention_mask) => (float[N, S] y) { y = Neg(attention_mask) }", Mask()),
        ("g (int64 rate) => (bool y) { k = Constant<value = int64 {16000}>()\n y = Equal(rate, k) }", OneOf((16000,))),
        (
            """g (int32[N] n, float[T, N, 1] x, float[1, 1, 1] w, float[1, 1, 1] r) => (float[T, 1, N, 1] y)
            { y = RNN<hidden_size = 1>(x, w, r, , n) }""",
            Lengths(),
        ),
        ("g (uint8[N, 3] image) => (float[N, 3] y) { y = Cast<to = 1>(image) }", Numbers(256)),
        ("g (int64[N] i) => (float[N] y) { y = Cast<to = 1>(i) }", Numbers(2)),
        ("g (float[N] x) => (float[N] y) { y = Neg(x) }", Numbers()),
    ],
)
def test_role(text, expected):
    assert role(parse(text).graph.inputs[0]) == expected


def test_role_of_an_input_that_a_subgraph_captures():
    model = parse(
        """g (int64[N] i, bool c) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
            y = If(c) <then_branch = a () => (float[N, 2] p) { p = Gather(w, i) },
                       else_branch = b () => (float[N, 2] q) { q = Gather(w, i) }> }"""
    )
    assert role(model.graph.inputs[0]) == Ids(3)


# --- sizes -----------------------------------------------------------------------------------------------------------


def port(name: str, *shape: int | str | None, dtype: ir.DataType = ir.DataType.FLOAT) -> Port:
    return Port(name, dtype, shape)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a", 2), ("a + b", 5), ("2*a - 1", 3), ("b // 2", 1), ("Max(1, a)", 2), ("min(a, b) * 4", 8), ("a - b", 0)],
)
def test_expressions(text, value):
    assert sizes.evaluate(text, {"a": 2, "b": 3}) == value


@pytest.mark.parametrize("text", ["__import__('os').getcwd()", "a ** 99", "[1]", "lambda: 1", "a if b else c"])
def test_what_is_no_arithmetic_is_a_name(text):
    free = sizes.symbols([port("x", text)])
    assert [symbol.name for symbol in free] == [text]
    assert next(iter(sizes.attempts(free))).shape(port("x", text)) == (sizes.SEQUENCES[0],)


def test_one_name_has_one_size_and_sums_add_up():
    ids = port("ids", "batch", "sequence_length", dtype=ir.DataType.INT64)
    mask = port("mask", "batch", "past_sequence_length + sequence_length", dtype=ir.DataType.INT64)
    total = port("total", "batch", "total_sequence_length", dtype=ir.DataType.INT64)
    past = port("past", "batch", 4, "past_sequence_length", 8)
    ports = [ids, mask, total, past]
    free = sizes.symbols(ports)
    for binding in [next(iter(sizes.attempts(free)))]:
        shapes = [binding.shape(p) for p in ports]
        assert shapes[0][0] == shapes[1][0] == shapes[3][0]
        assert shapes[1][1] == shapes[2][1] == shapes[0][1] + shapes[3][2]
        assert shapes[0][1] != shapes[3][2]


def test_unnamed_dimensions_are_free_of_each_other():
    model = parse("g (float[?, 3, ?, ?] x) => (float[?, 3, ?, ?] y) { y = Neg(x) }")
    (image,) = interface(model).inputs
    assert image.shape == (None, 3, None, None)
    assert [symbol.kind for symbol in sizes.symbols([image])] == ["batch", "space", "space"]
    first = next(iter(sizes.attempts(sizes.symbols([image])))).shape(image)
    assert first[2] != first[3]
    assert first[2] % 32 == first[3] % 32 == 0


def test_other_sizes_follow_what_was_accepted():
    image = port("image", "n", 3, "h", "w")
    free = sizes.symbols([image])
    only_48 = next(b for b in sizes.attempts(free) if b.shape(image)[2:] == (48, 48))
    ones, larger = sizes.further(free, only_48)
    assert ones[0].shape(image) == (1, 3, 48, 48)  # a picture of one pixel is no picture
    assert (2, 3, 48, 96) in [b.shape(image) for b in larger]


def test_nothing_free_is_one_binding():
    assert [binding.name for binding in sizes.attempts(())] == ["fixed"]
    assert not list(sizes.further((), sizes.Binding("fixed", ())))


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_families_are_reproducible_and_differ():
    x = port("x", "n", 50)
    binding = sizes.Binding("odd", (("n", 20),))
    drawn = {f.name: synthesize([x], [Numbers()], binding, f, seed=3).feeds["x"] for f in FULL}
    again = {f.name: synthesize([x], [Numbers()], binding, f, seed=3).feeds["x"] for f in FULL}
    assert all(np.array_equal(drawn[name], again[name]) for name in drawn)
    assert abs(drawn["shifted mean"].mean() - 1) < 0.1
    assert abs(drawn["large mean"].mean() - 100) < 1
    assert abs(drawn["zero mean"].mean()) < 0.1
    assert not np.ptp(drawn["constant rows"], axis=1).any()
    assert not drawn["zeros"].any()
    assert len(QUICK) >= 2


def test_ids_reach_the_whole_table():
    ids = port("ids", "n", dtype=ir.DataType.INT64)
    drawn = synthesize([ids], [Ids(7)], sizes.Binding("odd", (("n", 500),)), QUICK[0], seed=0).feeds["ids"]
    assert set(drawn.tolist()) == set(range(7))


def test_every_row_of_a_mask_attends_to_something():
    mask = port("mask", "n", "s", dtype=ir.DataType.INT64)
    binding = sizes.Binding("odd", (("n", 30), ("s", 5)))
    for family in FULL:
        rows = synthesize([mask], [Mask()], binding, family, seed=0).feeds["mask"]
        assert set(np.unique(rows)) <= {0, 1}
        assert rows.any(axis=1).all()


def test_families_fit_the_dtype():
    half = port("x", 4, dtype=ir.DataType.FLOAT16)
    assert "huge mean" not in [f.name for f in families([half], [Numbers()], quick=False)]
    assert "huge mean" in [f.name for f in families([port("x", 4)], [Numbers()], quick=False)]


# --- measures and bounds ---------------------------------------------------------------------------------------------


def sample(original: float, converted: float, family: str = "f", elements: int = 2000, **more: object) -> Sample:
    truth = np.linspace(-1, 1, elements)
    return Sample(family, measure(truth, truth + original, truth + converted), **more)


def test_bound_is_the_originals_own_error_and_two_roundings():
    floor = 2 * EPS
    assert not too_large(pool([sample(1e-5, 2e-5)])[0], EPS)
    assert too_large(pool([sample(1e-5, 2.1e-5 + floor)])[0], EPS)
    assert not too_large(pool([sample(1e-5, 2.9e-5, elements=900)])[0], EPS)
    assert too_large(pool([sample(1e-5, 3.1e-5 + floor, elements=900)])[0], EPS)
    assert not too_large(pool([sample(0, floor)])[0], EPS)
    assert too_large(pool([sample(0, 1.1 * floor)])[0], EPS)
    assert "RMSE" not in too_large(pool([sample(0, 1.0)])[0], EPS)


def test_rmse_is_judged_too():
    """One place equally wrong in both models hides a widespread error from the maximum."""
    truth = np.linspace(-1, 1, 2000)
    spike = np.zeros(2000)
    spike[7] = 1e-2
    measured = measure(truth, truth + spike, truth + spike + 9e-3)
    assert "RMSE" in too_large(pool([Sample("f", measured)])[0], EPS)


def test_families_do_not_hide_each_other():
    pooled = pool([sample(1e-2, 1e-2, "large"), sample(1e-6, 1e-4, "small")])
    assert [bool(too_large(p, EPS)) for p in pooled] == [False, True]


def test_control_widens_the_bound():
    assert too_large(pool([sample(1e-6, 1e-4)])[0], EPS)
    assert not too_large(pool([sample(1e-6, 1e-4, controls=(Error(1e-4, 2000e-8),))])[0], EPS)


def test_an_original_far_from_the_truth_must_be_explained():
    wrong = sample(0.5, 0.5)
    assert unexplained(pool([wrong])[0], EPS)
    noise = Error(0.5 / EXPLAINED, 1.0)
    assert not unexplained(pool([sample(0.5, 0.5, controls=(noise,))])[0], EPS)


@pytest.mark.parametrize(
    ("original", "converted", "words"),
    [
        ([1, np.nan], [np.nan, 1], "2 of 2 places"),
        ([np.inf, 1], [-np.inf, 1], "1 of 2 places"),
        ([1, 2], [1], "shape [2] became [1]"),
    ],
)
def test_mismatch(original, converted, words):
    a, b = np.array(original, np.float32), np.array(converted, np.float32)
    assert words in measure(a.astype(np.float64), a, b).mismatch


def test_same_non_finite_places_leave_the_rest_to_be_judged():
    a = np.array([np.nan, np.inf, 1], np.float32)
    measured = measure(np.array([3.0, 4.0, 1.0]), a, a)
    assert not measured.mismatch
    assert measured.finite == 1
    assert measure(np.array([np.nan, 4.0, np.nan]), a, a).truth_disagrees


def test_relative_difference():
    assert relative_difference(np.array([1.0, -4.0]), np.array([1.0, -4.1])) == pytest.approx(0.025)
    assert relative_difference(np.array([1.0]), np.array([np.nan])) is None
    assert relative_difference(np.zeros(2), np.zeros(2)) == 0


def test_overall():
    assert overall({"a": "pass", "b": "fail"}, ["a"]) == "fail"
    assert overall({"a": "pass", "b": "inconclusive"}, ["a"]) == "inconclusive"
    assert overall({"a": "pass", "b": "pass"}, ["a"]) == "pass"
    assert overall({"a": "pass"}, []) == "inconclusive"
    assert overall({}, ["a"]) == "inconclusive"
