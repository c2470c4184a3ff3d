"""Recognition of whole models: every spelling of a norm, and nothing else; the view says what the region computes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from normswap import fingerprint, reference
from normswap.facts import Facts
from normswap.forms import value_of
from normswap.learn import learn
from normswap.norm import Norm, Recognition
from normswap.reasons import REASONS
from normswap.recognize import recognize
from tests.norm_texts import AFFINE, BIAS, EPSILON, GAIN, MEAN, MEAN_SQUARE, QUOTIENT, STABLE, WIDTH, model, text

SMALL = Path(__file__).resolve().parent.parent / "models" / "small"


def look(found: ir.Model) -> Recognition:
    return recognize(found, learn(found))


def only(found: ir.Model) -> Norm:
    """The one norm of a model in which nothing is left over, checked against its own region."""
    known = learn(found)
    seen = recognize(found, known)
    assert seen.unrecognized == ()
    assert len(seen.norms) == 1
    norm = seen.norms[0]
    assert seen.by_output == {norm.output: norm}
    assert disagreement(norm, known) < 1e-6
    return norm


def disagreement(norm: Norm, known: Facts) -> float:
    """How far the view's formula is from its nodes run in float64, relative to its largest; 1/N as the file rounds it."""
    random, worst = np.random.default_rng(11), 0.0
    shape = known.shape(norm.input)
    assert shape is not None
    for scale, offset in itertools.product((1e-3, 1.0, 1e2), (0.0, 1.0)):
        x = scale * (random.standard_normal(shape) + offset)
        values: dict[ir.Value, reference.Array] = {norm.input: x}
        for node in norm.nodes:
            arrays = [None if v is None else values[v] if v in values else known.derived(v) for v in node.inputs]
            values.update(zip(node.outputs, reference.run(node, arrays, known.opset(node)), strict=False))
        expected = value_of(norm, x)
        worst = max(worst, float(np.abs(values[norm.output] - expected).max() / np.abs(expected).max()))
    return worst


# --- spellings ------------------------------------------------------------------------------------------------------

ALL_LAYER_NORMS = list(itertools.product(MEAN, MEAN_SQUARE, STABLE, QUOTIENT, AFFINE))
# Every spelling of every part, in different company: a stride that shares no factor with the number of spellings.
SOME_LAYER_NORMS = ALL_LAYER_NORMS[::101]
ALL_RMS_NORMS = [c for c in itertools.product(MEAN_SQUARE, STABLE, QUOTIENT, AFFINE) if c[0] != "two Subs"]


def test_the_selection_has_every_spelling_of_every_part():
    for place, part in enumerate((MEAN, MEAN_SQUARE, STABLE, QUOTIENT, AFFINE)):
        assert {choice[place] for choice in SOME_LAYER_NORMS} == set(part)


@pytest.mark.parametrize("choice", SOME_LAYER_NORMS, ids=" / ".join)
def test_layer_norm_in_any_spelling(choice):
    mean, square, stable, quotient, affine = choice
    norm = only(model(MEAN[mean] + MEAN_SQUARE[square] + STABLE[stable] + QUOTIENT[quotient] + AFFINE[affine]))
    assert (norm.kind, norm.axes, norm.size, norm.spelling) == ("LayerNorm", (2,), WIDTH, "decomposed")
    assert norm.epsilon == (0.0 if stable == "absent" else EPSILON)
    check_affine(norm, affine)


@pytest.mark.parametrize("choice", ALL_RMS_NORMS[::13], ids=" / ".join)
def test_rms_norm_in_any_spelling(choice):
    square, stable, quotient, affine = choice
    lines = MEAN_SQUARE[square] + STABLE[stable] + QUOTIENT[quotient] + AFFINE[affine]
    norm = only(model([line.replace("(d", "(x").replace(" d)", " x)") for line in lines]))
    kind = "ScaleNorm" if affine == "one number" else "RMSNorm"
    assert (norm.kind, norm.axes, norm.size) == (kind, (2,), WIDTH)
    assert norm.epsilon == (0.0 if stable == "absent" else EPSILON)
    check_affine(norm, affine)


def check_affine(norm: Norm, affine: str) -> None:
    """The gain and bias are those of the text, as the model's own tensor where it is used as it is."""
    assert norm.name == ("u" if affine == "none" else "y")
    gain = {"one number": 3.0, "none": None, "gain by division": 1 / GAIN}.get(affine, GAIN)
    if gain is None:
        assert norm.gain is None
    else:
        assert norm.gain is not None
        np.testing.assert_allclose(norm.gain.array, gain, rtol=1e-12)
        own = {"gain as a row": "gain_row", "gain by division": None, "one number": None}.get(affine, "gain")
        assert (norm.gain.value and norm.gain.value.name) == own
    if "bias" in affine:
        assert norm.bias is not None
        assert norm.bias.value is not None
        assert norm.bias.value.name == "bias"
        np.testing.assert_array_equal(norm.bias.array, BIAS)
    else:
        assert norm.bias is None


CENTER = ["m = ReduceMean <axes = [-1]> (x)", "d = Sub(x, m)"]
SQUARE = ["q = Mul(d, d)", "v = ReduceMean <axes = [-1]> (q)"]
REST = ["e = Add(v, eps)", "s = Sqrt(e)", "u = Div(d, s)", "g = Mul(u, gain)", "y = Add(g, bias)"]
DIFFERENCE = [*CENTER, "q = Mul(x, x)", "p = ReduceMean <axes = [-1]> (q)", "k = Mul(m, m)", "w = Sub(p, k)"]

OTHERWISE = {
    "mean of squares minus square of mean": [*DIFFERENCE, "v = Identity(w)", *REST],
    "guarded by Max": [*DIFFERENCE, "v = Max(w, zero)", *REST],
    "guarded by Relu": [*DIFFERENCE, "v = Relu(w)", *REST],
    "guarded by Abs": [*DIFFERENCE, "v = Abs(w)", *REST],
    "guarded by Clip": [*DIFFERENCE, "v = Clip(w, zero)", *REST],
    "folded as TensorFlow does": [
        *(*CENTER, *SQUARE, "e = Add(v, eps)", "s = Sqrt(e)", "r = Reciprocal(s)", "f = Mul(r, gain)"),
        *("a = Mul(x, f)", "b = Mul(m, f)", "c = Sub(bias, b)", "y = Add(a, c)"),
    ],
    "reduced axes put back": [
        *("o = ReduceMean <axes = [-1], keepdims = 0> (x)", "m = Unsqueeze(o, last)", "d = Sub(x, m)", "q = Mul(d, d)"),
        *("a = ReduceMean <axes = [-1], keepdims = 0> (q)", "v = Unsqueeze(a, last)", *REST),
    ],
    "mean expanded to a computed shape": [
        *("o = ReduceMean <axes = [-1]> (x)", "z = Shape(x)", "m = Expand(o, z)", "d = Sub(x, m)", *SQUARE, *REST),
    ],
    "divided by a size read from the shape": [
        *("t = ReduceSum(x, last)", "z = Shape(x)", "i = Gather(z, i2)", "f = Cast <to = 1> (i)", "m = Div(t, f)"),
        *("d = Sub(x, m)", *SQUARE, *REST),
    ],
    "constants behind an Identity": [
        *(*CENTER, *SQUARE, "eps_ = Identity(eps)", "e = Add(v, eps_)", "s = Sqrt(e)", "u = Div(d, s)"),
        *("gain_ = Identity(gain)", "g = Mul(u, gain_)", "y = Add(g, bias)"),
    ],
    "a vector of 1/n": [
        *("o = MatMul(x, mean_vector)", "m = Unsqueeze(o, last)", "d = Sub(x, m)", "q = Mul(d, d)"),
        *("a = MatMul(q, mean_vector)", "v = Unsqueeze(a, last)", *REST),
    ],
    "sums by Einsum": [
        *('o = Einsum <equation = "btd->bt"> (x)', "p = Unsqueeze(o, last)", "m = Div(p, n)", "d = Sub(x, m)"),
        *('a = Einsum <equation = "btd,btd->bt"> (d, d)', "b = Unsqueeze(a, last)", "v = Div(b, n)", *REST),
    ],
    "a mean by Einsum": [
        *('o = Einsum <equation = "btd,d->bt"> (x, mean_vector)', "m = Unsqueeze(o, last)", "d = Sub(x, m)"),
        *(*SQUARE, *REST),
    ],
    "a gain expanded to a computed shape": [
        *(*CENTER, *SQUARE, *REST[:3], "z = Shape(u)", "w = Expand(gain, z)", "g = Mul(u, w)", REST[4]),
    ],
    "zeros of a computed shape": [
        *(*CENTER, *SQUARE, "z = Shape(v)", "o = ConstantOfShape(z)", "w = Add(v, o)", "e = Add(w, eps)", *REST[1:]),
    ],
    "divided by all sizes over all others": [
        *("t = ReduceSum(x, last)", "z = Shape(x)", "o = Slice(z, start, middle_2)", "a = ReduceProd <keepdims = 0> (o)"),
        *("b = Size(x)", "c = Div(b, a)", "f = Cast <to = 1> (c)", "m = Div(t, f)", "d = Sub(x, m)", *SQUARE, *REST),
    ],
    "a row times a column": [
        *(*CENTER, "a = Unsqueeze(d, last)", "b = Unsqueeze(d, before_last)", "c = MatMul(b, a)", "f = Squeeze(c, last)"),
        *("v = Div(f, n)", *REST),
    ],
    "a Dropout within": [*CENTER, *SQUARE, "o = Identity(v)", "e = Add(o, eps)", "s = Sqrt(e)", "c = Dropout(d)",
                         "u = Div(c, s)", "g = Mul(u, gain)", "y = Add(g, bias)"],
}  # fmt: skip


@pytest.mark.parametrize("lines", OTHERWISE.values(), ids=OTHERWISE)
def test_layer_norm_spelled_otherwise(lines):
    norm = only(model(lines, initial="int64[1] middle_2 = {2}, int64[1] before_last = {-2}"))
    assert (norm.kind, norm.axes, norm.epsilon, norm.name) == ("LayerNorm", (2,), EPSILON, "y")
    assert norm.gain is not None
    np.testing.assert_allclose(norm.gain.array, GAIN, rtol=1e-9)


IMAGES = {
    "convolution over channels": ("Conv({}, mean_kernel)", "B,12,H,W", (1,)),
    "convolution over space": ("Conv <group = 12> ({}, space_kernel)", "B,12,6,8", (2, 3)),
    "pool over space": ("AveragePool <kernel_shape = [6, 8]> ({})", "B,12,6,8", (2, 3)),
    "pool over large images": ("GlobalAveragePool({})", "B,12,2048,1500", (2, 3)),
    "reduction over large images": ("ReduceMean <axes = [2, 3]> ({})", "B,12,H,W", (2, 3)),
}


@pytest.mark.parametrize(("mean", "shape", "axes"), IMAGES.values(), ids=IMAGES)
def test_means_over_images(mean, shape, axes):
    lines = [f"m = {mean.format('x')}", "d = Sub(x, m)", "q = Mul(d, d)", f"v = {mean.format('q')}", *REST[:3],
             "y = Mul(u, gain_column)"]  # fmt: skip
    seen = look(model(lines, shape=shape))
    (norm,) = seen.norms
    assert seen.unrecognized == ()
    assert (norm.kind, norm.axes) == ("LayerNorm" if axes == (1,) else "InstanceNorm", axes)
    assert (norm.epsilon, norm.output.name) == (EPSILON, "y")


def test_the_type_of_another_value():
    lines = ["h = CastLike(x, wide_one)", "q = Mul(h, h)", SQUARE[1], "s = Sqrt(v)", "u = Div(h, s)",
             "c = CastLike(u, x)", "y = Mul(gain, c)"]  # fmt: skip
    norm = only(model(lines, dtype="float16", initial="float wide_one = {1}"))
    assert (norm.kind, norm.input.name, norm.output.name) == ("RMSNorm", "x", "y")


def test_a_norm_of_what_is_normalized_is_another_one():
    """Without an ε it changes nothing any more, and would pass for a part of the first."""
    second = ["p = Mul(u, u)", "w = ReduceMean <axes = [-1]> (p)", "r = Sqrt(w)", "y = Div(u, r)"]
    seen = look(model(["q = Mul(x, x)", SQUARE[1], "s = Sqrt(v)", "u = Div(x, s)", *second]))
    assert [(norm.input.name, norm.output.name) for norm in seen.norms] == [("x", "u"), ("u", "y")]


def test_sample_variance_over_a_static_axis_rescales_epsilon_and_gain():
    norm = only(model([*CENTER, "q = Mul(d, d)", "t = ReduceSum(q, last)", "v = Div(t, n_minus_1)", *REST]))
    assert norm.epsilon == pytest.approx(EPSILON * (WIDTH - 1) / WIDTH, rel=1e-10)
    assert norm.gain is not None
    assert norm.gain.value is None
    np.testing.assert_allclose(norm.gain.array, GAIN * ((WIDTH - 1) / WIDTH) ** 0.5, rtol=1e-10)


@pytest.mark.parametrize("width", ["float", "double"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_with_statistics_in_a_wider_type(dtype, width):
    """Cast to the wider type, cast back, then the gain: one norm in the narrow type, casts included."""
    wide, narrow = (int(ir.DataType[name.upper()]) for name in (width, dtype))
    lines = [f"h = Cast <to = {wide}> (x)", "q = Mul(h, h)", "v = ReduceMean <axes = [-1]> (q)", "s = Sqrt(v)",
             "u = Div(h, s)", f"c = Cast <to = {narrow}> (u)", "y = Mul(gain, c)"]  # fmt: skip
    norm = only(model(lines, dtype=dtype))
    assert (norm.kind, norm.input.name, norm.output.name, len(norm.nodes)) == ("RMSNorm", "x", "y", 7)
    assert norm.gain is not None
    assert norm.gain.value is not None
    assert norm.gain.array.dtype == np.float64


def test_a_gain_before_the_cast_back_belongs_to_the_norm():
    lines = ["h = Cast <to = 1> (x)", "q = Mul(h, h)", SQUARE[1], "s = Sqrt(v)", "u = Div(h, s)",
             "w = Cast <to = 1> (gain)", "k = Mul(u, w)", "y = Cast <to = 10> (k)"]  # fmt: skip
    norm = only(model(lines, dtype="float16"))
    assert (norm.input.name, norm.output.name) == ("x", "y")
    assert norm.gain is not None
    np.testing.assert_array_equal(norm.gain.array, GAIN.astype(np.float16).astype(np.float64))


def test_a_norm_in_the_wider_type_keeps_the_casts_outside():
    lines = ["h = Cast <to = 1> (x)", "q = Mul(h, h)", SQUARE[1], "s = Sqrt(v)", "u = Div(h, s)",
             "z = MatMul(u, u)", "y = Cast <to = 10> (z)"]  # fmt: skip
    norm = only(model(lines, dtype="float16", shape="B,12,12"))
    assert (norm.input.name, norm.output.name) == ("h", "u")


@pytest.mark.parametrize("dtype", ["float", "double", "float16", "bfloat16"])
def test_an_inverse_size_that_its_type_rounds_is_read_as_such(dtype):
    lines = MEAN["sum times 1/n"] + MEAN_SQUARE["sum times 1/n"] + [*REST[:3], "y = Mul(u, gain)"]
    seen = look(model(lines, dtype=dtype))
    assert [norm.kind for norm in seen.norms] == ["LayerNorm"]
    assert seen.norms[0].gain is not None
    assert seen.norms[0].gain.value is not None  # the gain is the tensor itself, not that times a rounding error


# --- axes and shapes ------------------------------------------------------------------------------------------------

AXES = {
    "channels first": ("B,12,H,W", "1", "gain_column", (1,), WIDTH),
    "spatial": ("B,C,6,8", "2, 3", "three", (2, 3), 48),
    "spatial and dynamic": ("B,C,H,W", "-2, -1", "three", (2, 3), None),
    "dynamic": ("B,12,T", "2", "three", (2,), None),
    "rank one": ("12", "0", "gain", (0,), WIDTH),
    "rank two": ("T,12", "-1", "gain", (1,), WIDTH),
    "all": ("3,4,12", "0, 1, 2", "three", (0, 1, 2), 144),
    "as many rows as columns": ("12,12", "1", "gain", (1,), WIDTH),
}


@pytest.mark.parametrize(("shape", "axes", "gain", "expected", "size"), AXES.values(), ids=AXES)
def test_axes(shape, axes, gain, expected, size):
    lines = [f"m = ReduceMean <axes = [{axes}]> (x)", "d = Sub(x, m)", "q = Mul(d, d)",
             f"v = ReduceMean <axes = [{axes}]> (q)", "e = Add(v, eps)", "s = Sqrt(e)", "u = Div(d, s)",
             f"y = Mul(u, {gain})"]  # fmt: skip
    norm = only(model(lines, shape=shape))
    assert (norm.axes, norm.size, norm.epsilon) == (expected, size, EPSILON)


def test_axes_as_an_input():
    lines = ["m = ReduceMean(x, last)", "d = Sub(x, m)", "q = Mul(d, d)", "v = ReduceMean(q, last)", *REST]
    assert only(model(lines, opset=18)).axes == (2,)


def test_a_gain_may_lie_along_another_axis_than_the_normalized_one():
    along = only(model(["m = ReduceMean <axes = [1]> (x)", "d = Sub(x, m)", "q = Mul(d, d)",
                        "v = ReduceMean <axes = [1]> (q)", *REST]))  # fmt: skip
    assert (along.axes, along.size) == ((1,), None)
    assert along.gain is not None
    assert along.gain.array.shape == (WIDTH,)


def test_global_average_pooling_is_a_mean_over_space():
    lines = ["m = GlobalAveragePool(x)", "d = Sub(x, m)", "q = Mul(d, d)", "v = GlobalAveragePool(q)",
             "e = Add(v, eps)", "s = Sqrt(e)", "y = Div(d, s)"]  # fmt: skip
    assert only(model(lines, shape="B,C,6,8")).axes == (2, 3)


def test_between_transposes_the_inner_norm_is_reported():
    lines = ["t = Transpose <perm = [0, 2, 1]> (x)", *[line.replace("(x", "(t") for line in CENTER], *SQUARE, *REST[:3],
             "c = Mul(u, three)", "y = Transpose <perm = [0, 2, 1]> (c)"]  # fmt: skip
    norm = only(model(lines, shape="B,12,T"))
    assert (norm.axes, norm.input.name, norm.output.name) == ((2,), "t", "c")


EMPTY = "int64[0] no_axes = {}"


@pytest.mark.parametrize("axes", ["", ", no_axes"], ids=["absent", "empty"])
def test_no_axes_are_all_axes(axes):
    """An empty list of axes, or none, reduces all of them, unless `noop_with_empty_axes` says otherwise."""
    lines = ["q = Mul(x, x)", f"v = ReduceMean(q{axes})", "e = Add(v, eps)", "s = Sqrt(e)", "y = Div(x, s)"]
    norm = only(model(lines, opset=18, initial=EMPTY))
    assert (norm.kind, norm.axes, norm.epsilon) == ("RMSNorm", (0, 1, 2), EPSILON)


@pytest.mark.parametrize("axes", ["", ", no_axes"], ids=["absent", "empty"])
def test_a_reduction_of_no_axes_is_no_statistic(axes):
    noop = "noop_with_empty_axes = 1"
    lines = ["q = Mul(x, x)", f"v = ReduceMean <{noop}> (q{axes})", "e = Add(v, eps)", "s = Sqrt(e)", "y = Div(x, s)"]
    seen = look(model(lines, opset=18, initial=EMPTY))
    assert seen.norms == seen.named == ()
    assert [item.reason_id for item in seen.unrecognized] == ["different-axes"]
    lines = [
        "q = Mul(x, x)",
        f"p = ReduceMean <{noop}> (q{axes})",
        "v = ReduceMean(p, last)",
        *REST[:2],
        "y = Div(x, s)",
    ]
    assert only(model(lines, opset=18, initial=EMPTY)).axes == (2,)


STATE = ["z = Shape(x)", "b = Slice(z, start, i1s)", "c = Concat <axis = 0> (b, width)", "h = ConstantOfShape(c)"]
SIZES = "int64[1] i1s = {1}, int64[1] width = {12}"


def test_the_norm_of_a_state_that_starts_as_zeros():
    """As in the first step of a recurrent network: the batch size is known at run time only, and all else is zero."""
    weight = f"float[12,12] weight = {{{', '.join(['0.5'] * 144)}}}"
    lines = [*STATE, "t = MatMul(h, weight)", *[line.replace("(x", "(t") for line in CENTER], *SQUARE, *REST[:4],
             "k = Add(g, bias)", "y = Add(k, x)"]  # fmt: skip
    seen = look(model(lines, shape="B,12", initial=f"{SIZES}, {weight}"))
    assert seen.unrecognized == ()
    assert [(norm.kind, norm.axes, norm.input.name, norm.output.name) for norm in seen.norms] == [
        ("LayerNorm", (1,), "t", "k")
    ]


def test_nobody_asks_why_a_sum_of_what_follows_from_shapes_is_no_norm():
    lines = [*STATE, "m = ReduceMean <axes = [-1]> (h)", "y = Add(x, m)"]
    seen = look(model(lines, shape="B,12", initial=SIZES))
    assert seen.norms == seen.named == seen.unrecognized == ()


ROW_TIMES_COLUMN = ["r = Unsqueeze(x, before_last)", "p = MatMul(r, c)", "f = Squeeze(p, last)", "v = Div(f, n)", "s = Sqrt(v)",
                    "e = Add(s, eps)", "y = Div(x, e)"]  # fmt: skip


def test_a_row_times_a_column_is_refused_with_the_reason():
    seen = look(model(["c = Unsqueeze(x, last)", *ROW_TIMES_COLUMN], initial="int64[1] before_last = {-2}"))
    assert seen.norms == seen.named == ()
    assert [(item.node.op_type, item.reason_id) for item in seen.unrecognized] == [("MatMul", "epsilon-outside")]


def test_a_row_times_the_column_of_another_is_no_square():
    lines = ["c = Unsqueeze(w, last)", *ROW_TIMES_COLUMN]
    seen = look(model(lines, more="float[B,T,12] w", initial="int64[1] before_last = {-2}"))
    assert seen.norms == seen.named == seen.unrecognized == ()


# --- what belongs to a norm -----------------------------------------------------------------------------------------


def test_the_region_starts_at_x_and_ends_with_the_bias():
    lines = ["h = Relu(x)", "r = Add(h, x)", *[line.replace("(x", "(r") for line in CENTER], *SQUARE, *REST[:4],
             "z = Add(g, bias)", "w = MatMul(z, z)", "y = Add(r, w)"]  # fmt: skip
    norm = only(model(lines, shape="B,12,12"))
    assert (norm.input.name, norm.output.name) == ("r", "z")
    assert [node.op_type for node in norm.nodes] == [
        *("ReduceMean", "Sub", "Mul", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add")
    ]


def test_an_activation_behind_the_norm_stays_outside():
    lines = [*CENTER, *SQUARE, *REST[:4], "z = Add(g, bias)", "a = Mul(z, half)", "b = Erf(a)", "y = Mul(b, z)"]
    assert only(model(lines)).output.name == "z"


def test_intermediate_values_may_be_used_elsewhere():
    body = "\n".join([*CENTER, *SQUARE, *REST, "z = Mul(d, s)"])
    source = text(body).replace("[B,T,12] y)", "[B,T,12] y, float[B,T,12] z, float[B,T,12] d)")
    norm = only(ir.from_proto(onnx.parser.parse_model(source)))
    assert (norm.kind, norm.output.name) == ("LayerNorm", "y")


def test_a_normalized_value_with_two_readers_is_the_output():
    lines = [*CENTER, *SQUARE, *REST[:3], "a = Mul(u, gain)", "b = Mul(u, three)", "y = Add(a, b)"]
    assert {norm.output.name for norm in look(model(lines)).norms} <= {"u", "y"}


def test_a_run_time_gain_stays_outside():
    norm = only(model([*CENTER, *SQUARE, *REST[:3], "y = Mul(u, w)"], more="float[B,1,12] w"))
    assert (norm.output.name, norm.gain) == ("u", None)


def test_a_gain_that_widens_stays_outside():
    source = text("\n".join([*CENTER, *SQUARE, *REST[:3], "y = Mul(u, gain_4)"]))
    norm = only(ir.from_proto(onnx.parser.parse_model(source.replace("[B,T,12] y", "[1,B,T,12] y"))))
    assert (norm.output.name, norm.gain) == ("u", None)


def test_a_mask_behind_the_norm_stays_outside():
    lines = [*CENTER, *SQUARE, *REST[:4], "z = Add(g, bias)", "c = Greater(x, three)", "y = Where(c, x, z)"]
    assert only(model(lines)).output.name == "z"


def test_a_zero_gain_hides_nothing():
    lines = [*CENTER, *SQUARE, *REST[:3], "g = Mul(u, nothing)", "y = Add(g, bias)"]
    source = text("\n".join(lines)).replace(
        "float[12] bias", f"float[12] nothing = {{{', '.join('0' * 12)}}}, float[12] bias"
    )
    norm = only(ir.from_proto(onnx.parser.parse_model(source)))
    assert (norm.kind, norm.output.name, norm.gain) == ("LayerNorm", "u", None)


def test_what_cancels_out_is_no_norm():
    """y = bias + (a − a): what rounding leaves of it must not be taken for a small gain."""
    lines = [*CENTER, "k = Mul(m, gain)", "a = Mul(x, k)", "b = Sub(bias, a)", "y = Add(a, b)"]
    assert look(model(lines)).norms == ()


def test_a_norm_of_each_head_is_a_norm_of_the_reshaped_value():
    lines = ["h = Reshape(x, halves)", "q = Mul(h, h)", SQUARE[1], *REST[:2], "u = Div(h, s)", "y = Reshape(u, whole)"]
    norm = only(model(lines))
    assert (norm.kind, norm.axes, norm.size, norm.input.name, norm.output.name) == ("RMSNorm", (3,), 6, "h", "u")


def test_two_norms_in_a_row():
    second = ["M = ReduceMean <axes = [-1]> (z)", "D = Sub(z, M)", "Q = Mul(D, D)", "V = ReduceMean <axes = [-1]> (Q)",
              "E = Add(V, eps)", "S = Sqrt(E)", "y = Div(D, S)"]  # fmt: skip
    seen = look(model([*CENTER, *SQUARE, *REST[:4], "z = Add(g, bias)", *second]))
    assert [(norm.input.name, norm.output.name) for norm in seen.norms] == [("x", "z"), ("z", "y")]
    assert seen.unrecognized == ()


def test_recognition_changes_nothing():
    found = model([*CENTER, *SQUARE, *REST])
    before = ir.to_proto(found).SerializeToString()
    look(found)
    assert ir.to_proto(found).SerializeToString() == before


def test_bodies_of_if_are_searched():
    branch = "\n".join(line.replace("gain", "g0") for line in [*CENTER, *SQUARE, *REST[:3]])
    source = f"""<ir_version: 8, opset_import: ["" : 17]> main (float[B,12] x, bool c) => (float[B,12] y)
        <float eps = {{1e-5}}> {{
        [choose] y = If (c) <then_branch = yes () => (float[B,12] u) {{ {branch} }},
                             else_branch = no () => (float[B,12] o) {{ o = Identity(x) }}>
    }}"""
    norm = only(ir.from_proto(onnx.parser.parse_model(source)))
    assert (norm.graph, norm.kind) == ("choose/then_branch", "LayerNorm")


CELL = [line.replace("(x", "(c") for line in (*CENTER, *SQUARE, *REST[:3])]
LOOPS = {
    "Loop": """[again] last, y = Loop (count, , first) <body = step
            (int64 k, bool more, float[B,12] c) => (bool on, float[B,12] next, float[B,12] out) {
                on = Identity(more) BODY next = Tanh(u) out = Identity(next) }>""",
    "Scan": """[again] last, y = Scan <num_scan_inputs = 1, body = step
            (float[B,12] c, float[B,12] item) => (float[B,12] next, float[B,12] out) {
                BODY g = Add(u, item) next = Tanh(g) out = Identity(next) }> (first, x)""",
}


@pytest.mark.parametrize("name", LOOPS)
def test_bodies_of_loops_are_searched(name):
    """As in an LSTM whose cell state is normalized at every step."""
    source = f"""<ir_version: 8, opset_import: ["" : 17]>
        main (float[T,B,12] x, float[B,12] first, int64 count) => (float[T,B,12] y) <float eps = {{1e-5}}> {{
        {LOOPS[name].replace("BODY", " ".join(CELL))} }}"""
    norm = only(ir.from_proto(onnx.parser.parse_model(source)))
    assert (norm.graph, norm.kind, norm.axes) == ("again/body", "LayerNorm", (1,))


# --- operators ------------------------------------------------------------------------------------------------------

OPERATORS = {
    "LayerNormalization": ("LayerNormalization <epsilon = 0.001>", "LayerNorm", True, 17),
    "com.microsoft": ("com.microsoft.LayerNormalization <epsilon = 0.001>", "LayerNorm", True, 12),
    "RMSNormalization": ("RMSNormalization <epsilon = 0.001>", "RMSNorm", False, 23),
    "Simplified": ("SimplifiedLayerNormalization <epsilon = 0.001>", "RMSNorm", False, 14),
    "Simplified in com.microsoft": (
        "com.microsoft.SimplifiedLayerNormalization <epsilon = 0.001>",
        "RMSNorm",
        False,
        14,
    ),
}


@pytest.mark.parametrize(("operator", "kind", "biased", "opset"), OPERATORS.values(), ids=OPERATORS)
def test_operators(operator, kind, biased, opset):
    name, attributes = operator.split(" ", 1)
    body = f"[norm] y = {name} {attributes} (x, gain{', bias' if biased else ''})"
    norm = look(model(body, opset=opset)).norms[0]
    assert (norm.kind, norm.axes, norm.size, norm.spelling, norm.name) == (kind, (2,), WIDTH, "operator", "norm")
    assert norm.epsilon == float(np.float32(0.001))
    assert norm.gain is not None
    assert norm.gain.value is not None
    np.testing.assert_array_equal(norm.gain.array, GAIN)
    assert (norm.bias is not None) == biased


def test_an_operator_over_several_axes():
    lines = [f"s = Constant <value = float[3,4] {{{', '.join(map(str, range(12)))}}}> ()",
             "y = LayerNormalization <axis = -2> (x, s)"]  # fmt: skip
    norm = look(model(lines, shape="B,3,4")).norms[0]
    assert (norm.axes, norm.size) == ((1, 2), WIDTH)


REFUSED_OPERATORS = {
    "run-time gain": ("y = LayerNormalization(x, w)", "runtime-parameter"),
    "statistics in use": ("y, m = LayerNormalization(x, gain)\nz = Mul(m, m)", "statistics-used"),
    "gain of a higher rank": ("y = LayerNormalization(x, gain_4)", "widening-parameter"),
}


@pytest.mark.parametrize(("body", "reason_id"), REFUSED_OPERATORS.values(), ids=REFUSED_OPERATORS)
def test_operators_that_are_refused(body, reason_id):
    seen = look(model(body, more="float[12] w"))
    assert seen.norms == seen.unrecognized == ()
    assert [(norm.kind, norm.obstacle.reason_id) for norm in seen.named] == [("LayerNorm", reason_id)]


def test_an_overridable_gain_is_not_constant():
    found = model("y = LayerNormalization(x, gain)")
    found.graph.inputs.append(found.graph.initializers["gain"])
    assert [norm.obstacle.reason_id for norm in look(found).named] == ["runtime-parameter"]


# --- traps ----------------------------------------------------------------------------------------------------------

TRAPS = {
    "mean minus x": (["m = ReduceMean <axes = [-1]> (x)", "d = Sub(m, x)", *SQUARE, *REST], "negated"),
    "mean minus x above the line": (
        [*CENTER, *SQUARE, *REST[:2], "o = Sub(m, x)", "u = Div(o, s)", *REST[3:]],
        "negated",
    ),
    "fourth powers": ([*CENTER, "q = Pow(d, four)", SQUARE[1], *REST], "other-statistic"),
    "fourth powers of x": (
        ["q = Pow(x, four)", SQUARE[1], "e = Add(v, eps)", "s = Sqrt(e)", "y = Div(x, s)"],
        "other-statistic",
    ),
    "x minus its sum": (["m = ReduceSum(x, last)", "d = Sub(x, m)", *SQUARE, *REST], "other-statistic"),
    "mean absolute deviation": (
        [*CENTER, "q = Abs(d)", "v = ReduceMean <axes = [-1]> (q)", "s = Add(v, eps)", "y = Div(d, s)"],
        "other-statistic",
    ),
    "mean over another axis": (["m = ReduceMean <axes = [1]> (x)", "d = Sub(x, m)", *SQUARE, *REST], "different-axes"),
    "variance over another axis": (
        [*CENTER, "q = Mul(d, d)", "v = ReduceMean <axes = [1]> (q)", *REST],
        "different-axes",
    ),
    "epsilon outside": (
        [line.replace("(d", "(x").replace(" d)", " x)") for line in [*SQUARE, "t = Sqrt(v)", "s = Add(t, eps)", *REST[2:]]],
        "epsilon-outside",
    ),
    "epsilon by Max": ([*CENTER, *SQUARE, "e = Max(v, eps)", *REST[1:]], "piecewise"),
    "bounded above": (
        [*CENTER, "q = Mul(d, d)", "w = ReduceMean <axes = [-1]> (q)", "v = Min(w, large)", *REST],
        "piecewise",
    ),
    "bounded below": (
        [*CENTER, "q = Mul(d, d)", "w = ReduceMean <axes = [-1]> (q)", "v = Max(w, small)", *REST],
        "piecewise",
    ),
    "clipped deviation": ([*CENTER, "c = Clip(d, low, high)", "q = Mul(c, c)", SQUARE[1], *REST], "piecewise"),
    "clipped squares": ([*CENTER, "o = Mul(d, d)", "q = Clip(o, low, high)", SQUARE[1], *REST], "piecewise"),
    "large values left alone": (
        [*CENTER, "c = Greater(x, large)", "o = Where(c, x, d)", "q = Mul(o, o)", SQUARE[1], *REST],
        "piecewise",
    ),
    "half of the values, centered": (
        [*CENTER, "h = Slice(d, start, middle, last)", "q = Mul(h, h)", SQUARE[1], *REST],
        "other-statistic",
    ),
    "a part in the middle": (
        ["h = Slice(x, third, middle, last)", "q = Mul(h, h)", SQUARE[1], *REST[:2], "y = Div(x, s)"],
        "partial-statistics",
    ),
    "statistics of every other value": (
        ["h = Reshape(x, pairs)", "p = Mul(h, h)", "k = ReduceMean <axes = [-2]> (p)", "o = Expand(k, tall)",
         "v = Reshape(o, whole)", *REST[:2], "y = Div(x, s)"],
        "group-statistics",
    ),
    "only centered": ([*CENTER, "y = Mul(d, gain)"], "center-only"),
    "softmax": (
        ["m = ReduceMax <axes = [-1]> (x)", "d = Sub(x, m)", "q = Exp(d)", "v = ReduceSum(q, last)", "y = Div(q, v)"],
        "not-a-norm",
    ),
    "global pooling": (["m = ReduceMean <axes = [-1]> (x)", "d = Sigmoid(m)", "y = Mul(x, d)"], "not-a-norm"),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "reason_id"), TRAPS.values(), ids=TRAPS)
def test_traps(lines, reason_id):
    found = model(lines)
    seen = look(found)
    assert seen.norms == ()
    reductions = [
        node.name or node.outputs[0].name for node in found.graph if node.op_type in ("ReduceMean", "ReduceSum")
    ]
    assert [item.node.outputs[0].name for item in seen.unrecognized] == reductions
    assert {item.reason_id for item in seen.unrecognized} == {reason_id}
    assert all(f"`{item.node.outputs[0].name}`" in item.reason for item in seen.unrecognized)
    assert reason_id in REASONS


def test_statistics_of_one_value_that_scale_another():
    lines = ["q = Mul(x, x)", SQUARE[1], "e = Add(v, eps)", "s = Sqrt(e)", "y = Div(w, s)"]
    assert [item.reason_id for item in look(model(lines, more="float[B,T,12] w")).unrecognized] == ["other-value"]


def test_sample_variance_over_a_dynamic_axis():
    lines = ["m = ReduceMean <axes = [1]> (x)", "d = Sub(x, m)", "q = Mul(d, d)", "t = ReduceSum(q, first)",
             "z = Shape(x)", "i = Gather(z, i1)", "j = Sub(i, i1)", "f = Cast <to = 1> (j)", "v = Div(t, f)",
             *REST]  # fmt: skip
    seen = look(model(lines))
    assert seen.norms == ()
    assert {item.reason_id for item in seen.unrecognized} == {"size-dependent"}


@pytest.mark.parametrize("shape", ["12,12", "12,12,12"])
def test_reduced_axes_that_broadcast_along_another(shape):
    """With as many rows as columns, keepdims = 0 is no error: the means are subtracted from the wrong elements."""
    lines = ["m = ReduceMean <axes = [-1], keepdims = 0> (x)", "d = Sub(x, m)", "q = Mul(d, d)",
             "v = ReduceMean <axes = [-1], keepdims = 0> (q)", *REST]  # fmt: skip
    seen = look(model(lines, shape=shape))
    assert seen.norms == ()
    assert len(seen.unrecognized) == 2


def test_a_transposed_square_is_no_value_of_the_shape_of_x():
    """Of two static axes of one size, a probe cuts the one that no constant fixes."""
    lines = ["m = ReduceMean <axes = [2]> (x)", "a = Add(m, x)", "d = Div(a, gain_column)",
             "y = Transpose <perm = [1, 0, 2]> (d)"]  # fmt: skip
    seen = look(model(lines, shape="12,12,T"))
    assert seen.norms == ()


def test_a_dynamic_axis_is_never_taken_for_a_short_one():
    """Over two elements, the mean absolute deviation is the standard deviation; over a free axis it is not."""
    lines = [
        "m = ReduceMean <axes = [1]> (x)",
        "d = Sub(x, m)",
        "q = Abs(d)",
        "s = ReduceMean <axes = [1]> (q)",
        "y = Div(d, s)",
    ]
    assert look(model(lines)).norms == ()


MUTABLE = {
    "layer norm": [*CENTER, *SQUARE, *REST],
    "root mean square": [
        "q = Pow(x, two)",
        SQUARE[1],
        *REST[:2],
        "r = Reciprocal(s)",
        "u = Mul(x, r)",
        "y = Mul(u, gain)",
    ],
    "folded": OTHERWISE["folded as TensorFlow does"],
    "difference": OTHERWISE["mean of squares minus square of mean"],
}
ONE, TWO = ("Neg", "Sqrt", "Reciprocal", "Abs", "Relu", "Identity"), ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow")


def mutated(lines: list[str], random: np.random.Generator) -> list[str]:
    """The lines with one to three of: an operator exchanged, an operand exchanged, operands swapped, another axis."""
    lines = list(lines)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(len(lines)))
        name, operator, options, operands = re.fullmatch(r"(\w+) = (\w+)( <.*>)? ?\((.*)\)", lines[at]).groups("")
        words = operands.split(", ")
        known = ["x", *(line.split()[0] for line in lines[:at]), "eps", "two", "n", "gain", "bias", "one"]
        match random.integers(4):
            case 0 if not options:
                operator = str(random.choice(ONE if len(words) == 1 else TWO))
            case 1:
                words[random.integers(len(words))] = str(random.choice(known))
            case 2:
                words.reverse()
            case _:
                options = options.replace("-1", "1")
        lines[at] = f"{name} = {operator}{options} ({', '.join(words)})"
    return lines


@pytest.mark.parametrize("name", MUTABLE)
def test_whatever_is_recognized_in_random_arithmetic_is_what_it_is_said_to_be(name):
    random, recognized, refused = np.random.default_rng(len(name)), 0, 0
    for _ in range(25):
        found = model(mutated(MUTABLE[name], random))
        known = learn(found)
        seen = recognize(found, known)
        recognized, refused = recognized + len(seen.norms), refused + len(seen.unrecognized)
        assert all(disagreement(norm, known) < 1e-6 for norm in seen.norms)
    assert recognized > 2
    assert refused > 2


# --- sharing --------------------------------------------------------------------------------------------------------


def test_identical_regions_are_fingerprinted_once(monkeypatch):
    seen = []
    monkeypatch.setattr(fingerprint, "match", lambda *of, _match=fingerprint.match: (seen.append(of), _match(*of))[1])
    lines, x = [], "x"
    for layer in range(4):
        layered = "\n".join([*CENTER, *SQUARE, *REST, "z = MatMul(y, y)"])
        own = re.sub(r"\b([mdqvesugyz])\b", rf"\g<1>{layer}", layered)
        lines.append(re.sub(r"\bx\b", x, own))
        x = f"z{layer}"
    found = look(model([*lines, f"y = Identity({x})"], shape="12,12"))
    assert [norm.kind for norm in found.norms] == ["LayerNorm"] * 4
    assert len(seen) == 1


# --- real models ----------------------------------------------------------------------------------------------------

MODELS = {
    "gpt2_dynamo18": ("LayerNorm", 5, "operator"),
    "vit_torchscript14": ("LayerNorm", 5, "decomposed"),
    "gpt2_torchscript14": ("LayerNorm", 5, "decomposed"),
    "bert_torchscript14": ("LayerNorm", 5, "decomposed"),
    "llama_dynamo18": ("RMSNorm", 5, "decomposed"),
    "llama_dynamo23": ("RMSNorm", 5, "operator"),
    "whisper_dynamo18": ("LayerNorm", 10, "operator"),
    "swin_dynamo18": ("LayerNorm", 11, "operator"),
}


@pytest.mark.parametrize(("name", "kind", "count", "spelling"), [(name, *row) for name, row in MODELS.items()])
def test_exported_models(name, kind, count, spelling):
    found = ir.load(SMALL / f"{name}.onnx")
    known = learn(found)
    norms = recognize(found, known).norms
    assert [(norm.kind, norm.spelling) for norm in norms] == [(kind, spelling)] * count
    for norm in norms:
        assert norm.gain is not None
        assert norm.gain.value is not None
        assert disagreement(norm, known) < 1e-9
