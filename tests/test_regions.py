"""Regions: where a search starts, how far it steps back, what grows into a region, and when two are the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from normswap import probes, regions, seeds
from normswap.averages import averages
from normswap.facts import Facts
from normswap.learn import learn
from normswap.regions import Region
from normswap.setting import kept_axes, settings
from tests.norm_texts import BIAS, GAIN, WIDTH, model

LAYER_NORM = ["m = ReduceMean <axes = [-1]> (x)", "d = Sub(x, m)", "q = Mul(d, d)", "v = ReduceMean <axes = [-1]> (q)",
              "e = Add(v, eps)", "s = Sqrt(e)", "u = Div(d, s)", "g = Mul(u, gain)", "y = Add(g, bias)"]  # fmt: skip


def learned(lines: list[str], **options: str) -> tuple[dict[str, ir.Value], Facts]:
    """The values of a model by name, and the facts about it."""
    found = model(lines, **options)
    values = {value.name: value for value in found.graph.inputs}
    values |= {value.name: value for node in found.graph for value in node.outputs}
    return {name: value for name, value in values.items() if name}, learn(found)


def maker(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def grown(lines: list[str], x: str, seed: str, **options: str) -> tuple[Region | None, Facts]:
    values, known = learned(lines, **options)
    node = maker(values[seed])
    assert node.graph is not None
    return regions.grow(values[x], node, regions.position_in(node.graph), known), known


def made(nodes: tuple[ir.Node, ...]) -> str:
    return " ".join(str(node.outputs[0].name) for node in nodes)


# --- seeds ----------------------------------------------------------------------------------------------------------

SEEDS = {
    "a mean": (["y = ReduceMean <axes = [-1]> (x)"], True),
    "a sum": (["y = ReduceSum(x, last)"], True),
    "a pool": (["y = GlobalAveragePool(x)"], True),
    "a matrix of one value": (["y = MatMul(x, mean_matrix)"], True),
    "a matrix of two values": (["y = MatMul(x, center_matrix)"], True),
    "a matrix of two activations": (["y = MatMul(x, x)"], False),
    "a maximum": (["y = ReduceMax <axes = [-1]> (x)"], False),
    "a mean of a constant": (["y = ReduceMean <axes = [-1]> (gain)"], False),
    "a sum of sizes": (["s = Shape(x)", "y = ReduceSum(s)"], False),
    "an addition": (["y = Add(x, x)"], False),
}


@pytest.mark.parametrize(("lines", "expected"), SEEDS.values(), ids=SEEDS)
def test_what_is_a_seed(lines, expected):
    values, known = learned(lines, shape="B,12,12")
    assert seeds.is_seed(maker(values["y"]), known) == expected


def test_a_weight_is_no_average():
    values, known = learned(["y = MatMul(x, w)"], more="float[12,12] w")
    weight = maker(values["y"]).inputs[1]
    assert weight is not None
    weight.const_value = ir.tensor(np.arange(144, dtype=np.float32).reshape(12, 12))
    known.constants[weight] = True
    assert not averages(maker(values["y"]), known)


def test_candidates_come_nearest_first_and_stop_at_a_linear_layer():
    values, known = learned(["w = MatMul(x, x)", "r = Relu(w)", "q = Mul(r, r)", "y = ReduceMean(q)"], shape="12,12")
    assert [value.name for value in seeds.candidates(maker(values["y"]), known)] == ["q", "r", "w"]


def test_pooling_before_a_linear_layer_meets_nothing():
    values, known = learned(["m = ReduceMean <axes = [-1]> (x)", "y = MatMul(m, x)"], shape="12,12")
    assert not seeds.meets_another(maker(values["m"]), known)


def test_what_is_computed_from_a_pool_alone_meets_nothing_else():
    """A norm of pooled values: they meet their own root, whatever the order of their readers."""
    norm = ["m = ReduceMean <axes = [1]> (p)", "d = Sub(p, m)", "u = Div(d, s)", "q = Mul(d, d)"]
    lines = ["p = GlobalAveragePool(x)", *norm[:2], norm[3], "v = ReduceMean <axes = [1]> (q)", "s = Sqrt(v)", norm[2]]
    values, known = learned([*lines, "y = Identity(x)"], shape="B,12,6,6")
    seed = maker(values["p"])
    assert not seeds.meets_another(seed, known)
    assert not seeds.scales_another(seed, known)
    values, known = learned(["p = GlobalAveragePool(x)", "r = Sqrt(p)", "y = Div(w, r)"], shape="B,12,6,6",
                            more="float[B,12,6,6] w")  # fmt: skip
    assert seeds.scales_another(maker(values["p"]), known)


# --- growing --------------------------------------------------------------------------------------------------------


def test_a_region_holds_the_whole_norm():
    region, known = grown(LAYER_NORM, "x", "m")
    assert region is not None
    assert made(region.nodes) == "m d q v e s u g y"
    assert {value.name for value in region.externals} == {"eps", "gain", "bias"}
    assert [value.name for value in region.targets(known)] == ["d", "q", "u", "g", "y"]


def test_a_region_may_be_found_from_any_of_its_seeds():
    region, _ = grown(LAYER_NORM, "x", "v")
    assert region is not None
    assert made(region.nodes) == "m d q v e s u g y"


def test_what_does_not_follow_from_the_seed_is_left_out():
    region, _ = grown([*LAYER_NORM[:-1], "a = Mul(x, gain)", "b = Relu(a)", "y = Add(g, bias)"], "x", "m")
    assert region is not None
    assert made(region.nodes) == "m d q v e s u g y"


def test_from_the_squares_alone_there_is_no_region():
    region, _ = grown(LAYER_NORM, "q", "v")
    assert region is None


def test_a_run_time_value_ends_a_region():
    region, _ = grown([*LAYER_NORM[:-2], "g = Mul(u, w)", "y = Add(g, bias)"], "x", "m", more="float[B,1,12] w")
    assert region is not None
    assert made(region.nodes) == "m d q v e s u"


def test_of_the_shape_only_single_numbers_and_operands_are_read():
    sizes = ["z = Shape(x)", "i = Gather(z, i2)", "f = Cast <to = 1> (i)", "t = ReduceSum(x, last)", "m = Div(t, f)"]
    region, _ = grown([*sizes, *LAYER_NORM[1:]], "x", "t")
    assert region is not None
    assert made(region.nodes) == "t m d q v e s u g y"
    positions = ["z = Shape(x)", "f = Cast <to = 1> (z)", "k = Mul(u, f)"]
    region, _ = grown([*LAYER_NORM, *positions], "x", "m", shape="B,T,3")
    assert region is None or "k" not in made(region.nodes).split()


def test_constants_that_are_laid_out_at_run_time_belong_to_a_region():
    numbers = "int64[3] whole_row = {1, 1, -1}"
    for lines in (
        ["z = Shape(u)", "w = Expand(gain, z)"],
        ["z = Shape(u)", "r = Reshape(gain, whole_row)", "w = Expand(r, z)"],
        ["z = Shape(x)", "k = Div(z, z)", "r = Reshape(gain, whole_row)", "w = Tile(r, k)"],
        ["z = Shape(x)", "w = ConstantOfShape <value = float[1] {2}> (z)"],
        ["z = Shape(x)", "w = ConstantOfShape (z)"],
    ):
        whole = [*LAYER_NORM[:7], *lines, "g = Mul(u, w)", LAYER_NORM[-1]]
        region, _ = grown(whole, "x", "m", initial=numbers)
        assert region is not None
        assert made(region.nodes).endswith("w g y")


@pytest.mark.parametrize(
    "lines",
    [
        ["z = Shape(x)", "f = Cast <to = 1> (z)", "w = Expand(f, z)"],  # the sizes themselves, as a gain
        ["z = Shape(x)", "i = Gather(z, i2)", "k = Range(start0, i, i1)", "f = Cast <to = 1> (k)", "w = Expand(f, z)"],
        ["z = Shape(x)", "w = Expand(r, z)"],  # a run-time value, laid out like a constant
        ["w = Reshape(r, sizes)"],
    ],
)
def test_what_derives_from_sizes_or_from_an_input_does_not(lines):
    whole = [*LAYER_NORM[:7], *lines, "g = Mul(u, w)", LAYER_NORM[-1]]
    region, _ = grown(whole, "x", "m", shape="B,T,3", more="float[3] r, int64[3] sizes", initial="int64 start0 = {0}")
    assert region is not None
    assert made(region.nodes) == "m d q v e s u"


def test_a_long_chain_before_a_gain_is_not_followed_to_its_end():
    chain = [f"c{k + 1} = Identity(c{k})" for k in range(1100)]
    region, _ = grown([*chain, *LAYER_NORM[:7], "y = Mul(u, c1100)"], "x", "m", more="float[12] c0")
    assert region is not None
    assert made(region.nodes) == "m d q v e s u"


def test_norm_operators_are_held_only_where_they_are_asked_for():
    lines = ["t = Transpose <perm = [0, 2, 1]> (x)", "u = LayerNormalization(t, gain)",
             "v = Transpose <perm = [0, 2, 1]> (u)", "y = LayerNormalization <axis = 1> (v, gain_column)"]  # fmt: skip
    values, known = learned(lines, shape="B,12,T")
    seed = maker(values["u"])
    assert seed.graph is not None
    position = regions.position_in(seed.graph)
    assert regions.grow(values["x"], seed, position, known) is None
    region = regions.grow(values["x"], seed, position, known, frozenset({seed}))
    assert region is not None
    assert made(region.nodes) == "t u v"


def test_what_no_value_of_the_shape_of_x_needs_is_left_out():
    region, _ = grown([*LAYER_NORM, "z = ReduceSum(y, last)", "k = Sqrt(z)"], "x", "m")
    assert region is not None
    assert made(region.nodes) == "m d q v e s u g y"


def test_readers_of_a_shape_read_no_value():
    values, _ = learned(["a = Relu(x)", "z = Shape(a)", "k = Size(a)", "y = Exp(a)"])
    assert [node.op_type for node in regions.readers(values["a"])] == ["Exp"]


def test_an_activation_ends_a_region():
    region, _ = grown([*LAYER_NORM, "a = Sigmoid(y)", "b = Mul(a, y)"], "x", "m")
    assert region is not None
    assert made(region.nodes) == "m d q v e s u g y"


def test_a_region_is_restricted_to_what_its_output_needs():
    region, known = grown([*LAYER_NORM, "k = Mul(d, gain)"], "x", "m")
    assert region is not None
    part = regions.restrict(region, region.targets(known)[2])
    assert made(part.nodes) == "m d q v e s u"
    assert [value.name for value in part.externals] == ["eps"]


# --- keys -----------------------------------------------------------------------------------------------------------


def key_of(lines: list[str], **options: str) -> object:
    region, known = grown(lines, "x", "m", **options)
    assert region is not None
    return regions.key(region, known)


def test_copies_with_other_vectors_have_one_key():
    other = [line.replace("bias", "gain") for line in LAYER_NORM]
    assert key_of(LAYER_NORM) != key_of(other)  # one tensor used twice is another structure
    swapped = [line.replace("bias", "?").replace("gain", "bias").replace("?", "gain") for line in LAYER_NORM]
    assert key_of(LAYER_NORM) == key_of(swapped)


@pytest.mark.parametrize(
    ("line", "instead"),
    [(4, "e = Add(v, small)"), (4, "e = Sub(v, eps)"), (3, "v = ReduceMean <axes = [1]> (q)"), (6, "u = Div(s, d)")],
)
def test_every_other_difference_has_another_key(line, instead):
    assert key_of(LAYER_NORM) != key_of([*LAYER_NORM[:line], instead, *LAYER_NORM[line + 1 :]])


def test_the_shape_belongs_to_the_key():
    assert key_of(LAYER_NORM, shape="B,T,12") != key_of(LAYER_NORM, shape="B,6,12")


@pytest.mark.parametrize(("value", "other"), [("1", "2"), ("0", "1e-9")])
def test_tensors_of_attributes_belong_to_the_key(value, other):
    made = [f"o = ConstantOfShape <value = float[1] {{{number}}}> (z)" for number in (value, other)]
    first, second = (key_of([*LAYER_NORM[:-1], "z = Shape(x)", line, "y = Add(g, o)"]) for line in made)
    assert first != second


# --- probes ---------------------------------------------------------------------------------------------------------


def test_only_axes_that_nothing_looks_at_are_cut():
    region, known = grown(LAYER_NORM, "x", "m", shape="7,40,12")
    assert region is not None
    assert kept_axes(region, known) == {2}
    both = settings(region, known)
    assert both is not None
    assert [setting.shape for setting in both] == [(2, 3, WIDTH), (3, 4, WIDTH)]


def test_positions_keep_every_axis():
    lines = ["a = Slice(x, start, middle, last)", "m = ReduceMean <axes = [-1]> (a)", "y = Sub(x, m)"]
    region, known = grown(lines, "x", "m", shape="7,40,12")
    assert region is not None
    assert kept_axes(region, known) is None
    both = settings(region, known)
    assert both is not None
    assert [setting.shape for setting in both] == [(7, 40, WIDTH)] * 2


def test_a_setting_runs_the_region():
    region, known = grown(LAYER_NORM, "x", "m")
    assert region is not None
    ready = settings(region, known, bindings=(0,))
    assert ready is not None
    x = np.random.default_rng(3).normal(2, 3, ready[0].shape)
    y = ready[0].run(x)[region.nodes[-1].outputs[0]]
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + float(np.float32(1e-5)))
    np.testing.assert_allclose(y, expected * GAIN + BIAS, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float", "float16", "bfloat16"])
def test_inverse_sizes_are_read_as_such_in_any_type(dtype):
    lines = ["m = MatMul(x, mean_matrix)", "d = Sub(x, m)", "k = Mul(d, inverse_n)", "c = MatMul(k, center_matrix)"]
    region, known = grown(lines, "x", "m", dtype=dtype)
    assert region is not None
    ready = settings(region, known)
    assert ready is not None
    arrays = {value.name: array for value, array in ready[0].arrays.items()}
    np.testing.assert_array_equal(arrays["mean_matrix"], np.full((WIDTH, 1), 1 / WIDTH))
    np.testing.assert_array_equal(arrays["inverse_n"], 1 / WIDTH)
    np.testing.assert_array_equal(arrays["center_matrix"], np.where(np.eye(WIDTH) == 1, 1 - 1 / WIDTH, -1 / WIDTH))


def test_piercing_probes_lie_on_both_sides_of_every_constant():
    lines = [*LAYER_NORM[:3], "w = ReduceMean <axes = [-1]> (q)", "v = Clip(w, small, large)", *LAYER_NORM[4:]]
    region, known = grown(lines, "x", "m")
    assert region is not None
    ready = settings(region, known)
    assert ready is not None
    variances = [x.var(-1) for x in probes.piercing(ready[0], (1,), probes.generator())]
    assert min(v.max() for v in variances) < 1e-12 < 1e4 < max(v.min() for v in variances)
