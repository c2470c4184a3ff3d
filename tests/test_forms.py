"""Every form of a norm, recognized with its axes, groups, ε and gain; beside each, what must not be taken for it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import normswap
from normswap import fingerprint, probes, reference
from normswap.facts import Facts
from normswap.forms import Form, solved, value_of
from normswap.learn import learn
from normswap.norm import Norm, Recognition
from normswap.recognize import recognize
from tests.graphs import filled

# Constants of the texts, whose widths are even: γ and β along the channels, by where these are.
HEAD = (
    '<ir_version: 8, opset_import: ["" : {opset}]> main (float[{shape}] x{more}) => (float[{shape}] y) <{constants}> {{'
)
FIXED = """
float eps = {1e-5}, float tiny = {1e-12}, float zero = {0}, float one = {1}, float three = {3}, float ten = {10},
float high = {65504}, float minus_half = {-0.5}, float half = {0.5}, float width = {12}, float rest = {11},
float root = {3.4641016}, float negative = {-2}, float odd = {1.5}, float four = {4}, float two = {2},
int64[1] last = {-1}, int64[1] first = {1}, int64[1] start = {0}, int64[1] third = {4}, int64[1] middle = {6},
int64[1] end = {12}, int64[2] rest_and_part = {5, 7}, int64[4] halves = {0, 0, 2, 6}, int64[3] whole = {0, 0, 12},
int64[4] wide = {1, 1, 1, 6}, int64[4] pairs = {0, 0, 6, 2}, int64[4] tall = {1, 1, 6, 1}, int64[3] flat = {0, 3, -1},
int64[5] channels = {0, 3, 4, 6, 10}, int64[4] image = {0, 12, 6, 10}, int64[5] expanded = {1, 1, 4, 6, 10},
int64[5] spaces = {0, 12, 3, 2, 10}, int64[5] of_space = {1, 1, 1, 2, 10}, int64[1] parts = {3}
"""
DRAWN = """float[12] gain, float[12] bias, float[12,1,1] gain_2d, float[12,1,1] bias_2d, float[12,1] gain_1d,
float[6,10] gain_space, float[1,12,12] plane"""
EPSILON = float(np.float32(1e-5))
TINY = float(np.float32(1e-12))


def model(lines: Sequence[str], shape: str = "B,T,12", opset: int = 17, more: str = "") -> ir.Model:
    """The model of these lines; only the constants that they name are in it."""
    words = set("\n".join(lines).replace(",", " ").replace("(", " ").replace(")", " ").split())
    declared = [item.strip() for item in FIXED.replace("\n", " ").replace("},", "};").split(";")]
    drawn = [item.strip() for item in DRAWN.replace("\n", " ").replace(", float", ";float").split(";")]
    constants = [item for item in declared if item.split(" ")[1] in words]
    constants += [item for item in drawn if item.split(" ")[1] in words]
    head = HEAD.format(opset=opset, shape=shape, more=more, constants=", ".join(constants))
    return ir.from_proto(filled(onnx.parser.parse_model(head + "\n".join(lines) + "}")))


def look(found: ir.Model) -> Recognition:
    return recognize(found, learn(found))


def only(found: ir.Model) -> Norm:
    """The one norm of a model, movable or not, which does what its own nodes do; nothing is left over."""
    known = learn(found)
    seen = recognize(found, known)
    assert seen.unrecognized == ()
    (norm,) = (*seen.norms, *seen.named)
    assert norm.is_movable == (norm in seen.norms)
    for scale, binding in itertools.product((1e-13, 1e-6, 1e-2, 1.0, 1e4), range(2)):
        shape = known.shape(norm.input, binding)
        assert shape is not None
        x = scale * (np.random.default_rng(3).standard_normal(shape) + 0.5)
        expected = value_of(norm, x)
        actual = run(norm, x, known, binding)
        assert np.abs(actual - expected).max() <= 1e-6 * np.abs(expected).max()
    return norm


def run(norm: Norm, x: reference.Floats, known: Facts, binding: int) -> reference.Floats:
    values: dict[ir.Value, reference.Array] = {norm.input: x}
    for node in norm.nodes:
        arrays = [None if v is None else values[v] if v in values else known.derived(v, binding) for v in node.inputs]
        values.update(zip(node.outputs, reference.run(node, arrays, known.opset(node)), strict=False))
    return values[norm.output].astype(np.float64)


def reasons(found: ir.Model) -> set[str]:
    """Why each reduction is no norm; there is none in the model."""
    seen = look(found)
    assert (seen.norms, seen.named) == ((), ())
    return {item.reason_id for item in seen.unrecognized}


def gain_of(norm: Norm) -> reference.Floats:
    assert norm.gain is not None
    return norm.gain.array


CENTER = ["m = ReduceMean <axes = [-1]> (x)", "d = Sub(x, m)"]
SQUARE = ["q = Mul(d, d)", "v = ReduceMean <axes = [-1]> (q)"]
MEAN_SQUARE = ["q = Mul(x, x)", "v = ReduceMean <axes = [-1]> (q)"]
ROOT = ["e = Add(v, eps)", "s = Sqrt(e)"]
LENGTH = ["l = ReduceL2 <axes = [-1]> (x)"]


# --- lengths: L2Norm and ScaleNorm ----------------------------------------------------------------------------------

LENGTHS = {
    "ReduceL2": ([*LENGTH, "y = Div(x, l)"], "inside", 0.0),
    "sum of squares": (["q = Mul(x, x)", "v = ReduceSum(q, last)", "s = Sqrt(v)", "y = Div(x, s)"], "inside", 0.0),
    "ε under the root": (
        ["v = ReduceSumSquare <axes = [-1]> (x)", *ROOT, "y = Div(x, s)"], "inside", EPSILON / 12
    ),
    "Clip": ([*LENGTH, "s = Clip(l, tiny)", "y = Div(x, s)"], "floor", TINY / 12**0.5),
    "Max": ([*LENGTH, "s = Max(eps, l)", "y = Div(x, s)"], "floor", EPSILON / 12**0.5),
    "Clip, expanded": (
        [*LENGTH, "c = Clip(l, tiny)", "z = Shape(x)", "s = Expand(c, z)", "y = Div(x, s)"], "floor", TINY / 12**0.5
    ),
    "floor under the root": (
        ["q = Mul(x, x)", "v = ReduceSum(q, last)", "e = Max(v, tiny)", "r = Pow(e, minus_half)", "y = Mul(x, r)"],
        "floor",
        (TINY / 12) ** 0.5,
    ),
    "floor of one ε by Where": (
        [*LENGTH, "b = Greater(l, eps)", "s = Where(b, l, eps)", "y = Div(x, s)"], "floor", EPSILON / 12**0.5
    ),
    "zero stays zero": (
        [*LENGTH, "b = Greater(l, zero)", "s = Where(b, l, one)", "y = Div(x, s)"], "floor", 0.0
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "place", "epsilon"), LENGTHS.values(), ids=LENGTHS)
def test_division_by_the_length(lines, place, epsilon):
    norm = only(model(lines))
    assert (norm.kind, norm.axes, norm.size, norm.gain, norm.bias) == ("L2Norm", (2,), 12, None, None)
    assert (norm.epsilon_place, norm.is_movable) == (place, False)
    assert norm.epsilon == pytest.approx(epsilon, rel=1e-9)


@pytest.mark.parametrize("lines", [LENGTHS["ReduceL2"][0], LENGTHS["Max"][0], LENGTHS["ε under the root"][0]])
def test_the_length_along_a_free_axis(lines):
    """1/√D is another number for each D: ε is that of the sum, and there is no size."""
    norm = only(model([line.replace("-1", "1") for line in lines]))
    assert (norm.kind, norm.axes, norm.size, norm.gain) == ("L2Norm", (1,), None, None)
    assert norm.epsilon == pytest.approx(0.0 if norm.epsilon_place == "inside" and len(lines) == 2 else EPSILON)


def test_the_length_of_a_long_axis_that_is_expanded():
    """Probes are shorter than the axis, of which 1/√D and ε tell: they are those of the axis."""
    norm = only(model(LENGTHS["Clip, expanded"][0], shape="B,T,64"))
    assert (norm.kind, norm.size, norm.gain) == ("L2Norm", 64, None)
    assert norm.epsilon == pytest.approx(TINY / 8, rel=1e-9)
    scaled = [*LENGTHS["Clip, expanded"][0][:-1], "u = Div(x, s)", "y = Mul(u, three)"]
    norm = only(model(scaled, shape="B,T,64"))
    assert (norm.kind, gain_of(norm).tolist()) == ("ScaleNorm", [3 / 8])


def test_an_operator_for_lengths_between_transposes():
    lines = ["t = Transpose <perm = [0, 2, 1]> (x)", "u = LpNormalization <axis = -1, p = 2> (t)",
             "y = Transpose <perm = [0, 2, 1]> (u)"]  # fmt: skip
    outer = only(model(lines, shape="B,12,T")).outer
    assert outer is not None
    assert (outer.kind, outer.axes, outer.epsilon, outer.epsilon_place) == ("L2Norm", (1,), 0.0, "floor")


SCALED = {
    "a number": ([*LENGTH, "u = Div(x, l)", "y = Mul(u, three)"], "ScaleNorm", 3 / 12**0.5, True),
    "a number, first": ([*LENGTH, "u = Div(three, l)", "y = Mul(u, x)"], "ScaleNorm", 3 / 12**0.5, True),
    "a number, floor": ([*LENGTH, "s = Max(l, eps)", "u = Div(x, s)", "y = Mul(u, three)"], "ScaleNorm", 3 / 12**0.5,
                        False),
    "of the root mean square": ([*MEAN_SQUARE, *ROOT, "u = Div(x, s)", "y = Mul(three, u)"], "ScaleNorm", 3.0, True),
    "√D": ([*LENGTH, "u = Div(x, l)", "y = Mul(u, root)"], "RMSNorm", 1.0, True),
    "√D, floor": ([*LENGTH, "s = Max(l, eps)", "u = Div(x, s)", "y = Mul(u, root)"], "RMSNorm", 1.0, False),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "kind", "gain", "movable"), SCALED.values(), ids=SCALED)
def test_one_factor_makes_a_scale_norm(lines, kind, gain, movable):
    norm = only(model(lines))
    assert (norm.kind, norm.is_movable, norm.bias) == (kind, movable, None)
    np.testing.assert_allclose(gain_of(norm), gain, rtol=1e-6)


@pytest.mark.parametrize("between", ["", "s = Max(l, eps)"], ids=["plain", "floor"])
def test_a_vector_makes_an_rms_norm(between):
    norm = only(model([*LENGTH, between or "s = Identity(l)", "u = Div(x, s)", "g = Mul(u, root)", "y = Mul(g, gain)"]))
    assert (norm.kind, gain_of(norm).shape, norm.is_movable) == ("RMSNorm", (12,), not between)


NO_LENGTHS = {
    "ε outside": ([*LENGTH, "s = Add(l, eps)", "y = Div(x, s)"], "epsilon-outside"),
    "small ε outside": ([*LENGTH, "s = Add(l, tiny)", "y = Div(x, s)"], "epsilon-outside"),
    "ε outside of the root mean square": ([*MEAN_SQUARE, "r = Sqrt(v)", "s = Add(r, eps)", "y = Div(x, s)"],
                                          "epsilon-outside"),
    "floor and ceiling": ([*LENGTH, "s = Clip(l, tiny, high)", "y = Div(x, s)"], "piecewise"),
    "ceiling": ([*LENGTH, "s = Min(l, high)", "y = Div(x, s)"], "piecewise"),
    "floor and ε": (["v = ReduceSumSquare <axes = [-1]> (x)", "f = Max(v, tiny)", "e = Add(f, eps)", "s = Sqrt(e)",
                     "y = Div(x, s)"], "piecewise"),
    "floors of elements": (["a = Abs(x)", "f = Max(a, eps)", "l = ReduceL2 <axes = [-1]> (f)", "y = Div(x, l)"],
                           "piecewise"),
    "zero where it is short": ([*LENGTH, "b = Greater(l, eps)", "r = Reciprocal(l)", "k = Where(b, r, zero)", "y = Mul(x, k)"], "piecewise"),
    "length 1": (["a = Abs(x)", "l = ReduceSum(a, last)", "y = Div(x, l)"], "other-statistic"),
    "squared": ([*LENGTH, "s = Mul(l, l)", "y = Div(x, s)"], "other-statistic"),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "reason_id"), NO_LENGTHS.values(), ids=NO_LENGTHS)
def test_what_is_no_length(lines, reason_id):
    assert reasons(model(lines)) == {reason_id}


# --- ε outside the root, after centering ----------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", ["eps", "tiny"])
@pytest.mark.parametrize(("shape", "axes"), [("B,12,H,W", (0, 2, 3)), ("B,12,H,W", (1,)), ("B,T,12", (2,))])
def test_mean_variance_norm(shape, axes, epsilon):
    """As the function body of MeanVarianceNormalization has it; over the batch, too."""
    over = f"<axes = [{','.join(map(str, axes))}]>"
    lines = [f"m = ReduceMean {over} (x)", "k = Mul(m, m)", "q = Mul(x, x)", f"a = ReduceMean {over} (q)",
             "v = Sub(a, k)", "r = Sqrt(v)", f"s = Add(r, {epsilon})", "d = Sub(x, m)", "y = Div(d, s)"]  # fmt: skip
    norm = only(model(lines, shape=shape))
    assert (norm.kind, norm.axes, norm.epsilon_place) == ("MeanVarianceNorm", axes, "outside")
    assert norm.epsilon == pytest.approx({"eps": EPSILON, "tiny": TINY}[epsilon], rel=1e-6)
    assert not norm.is_movable


CLAMPED = {
    "floor under the root": [*CENTER, *SQUARE, "e = Max(v, tiny)", "s = Sqrt(e)", "y = Div(d, s)"],
    "floor of the root": [*CENTER, *SQUARE, "r = Sqrt(v)", "s = Max(r, eps)", "y = Div(d, s)"],
    "floor before ε": [*CENTER, *SQUARE, "f = Max(v, tiny)", "e = Add(f, eps)", "s = Sqrt(e)", "y = Div(d, s)"],
    "ceiling": [*CENTER, *SQUARE, "f = Min(v, high)", "e = Add(f, eps)", "s = Sqrt(e)", "y = Div(d, s)"],
    "zero stays zero": [
        *CENTER,
        *SQUARE,
        "b = Greater(v, zero)",
        "r = Sqrt(v)",
        "s = Where(b, r, one)",
        "y = Div(d, s)",
    ],
}


@pytest.mark.parametrize("lines", CLAMPED.values(), ids=CLAMPED)
def test_clamps_in_a_layer_norm(lines):
    assert reasons(model(lines)) == {"piecewise"}


def test_the_centered_length_of_a_static_axis_is_a_layer_norm():
    lines = [*CENTER, "l = ReduceL2 <axes = [-1]> (d)", "z = Shape(x)", "s = Expand(l, z)", "y = Div(d, s)"]
    norm = only(model(lines, shape="B,T,64"))
    assert (norm.kind, norm.size, gain_of(norm).tolist(), norm.is_movable) == ("LayerNorm", 64, [1 / 8], True)


# --- groups ---------------------------------------------------------------------------------------------------------


def grouped(count: str, spread: str, axis: int = -1) -> list[str]:
    """The mean squares of parts of the last axis, repeated over their elements."""
    return [f"h = Reshape(x, {count})", "p = Mul(h, h)", f"k = ReduceMean <axes = [{axis}]> (p)",
            f"o = Expand(k, {spread})", "v = Reshape(o, whole)", *ROOT, "u = Div(x, s)"]  # fmt: skip


def test_groups_of_the_last_axis():
    norm = only(model([*grouped("halves", "wide"), "y = Mul(u, gain)"]))
    assert (norm.kind, norm.axes, norm.groups, norm.size) == ("RMSNorm", (2,), 2, 6)
    assert (norm.epsilon, norm.is_movable, gain_of(norm).shape) == (EPSILON, False, (12,))


def test_power_norm_as_released():
    """Group scaling, then an Affine: a root mean square of each group with a bias."""
    norm = only(model([*grouped("halves", "wide"), "g = Mul(u, gain)", "y = Add(g, bias)"]))
    assert (norm.kind, norm.groups, norm.bias is not None) == ("PowerNorm", 2, True)


def test_every_other_element_is_no_group():
    assert reasons(model([*grouped("pairs", "tall", -2), "y = Mul(u, gain)"])) == {"group-statistics"}


@pytest.mark.parametrize("groups", [2, 3, 4, 6])
def test_any_number_of_groups(groups):
    lines = [f"cut = Constant <value_ints = [0, 0, {groups}, {12 // groups}]> ()",
             f"each = Constant <value_ints = [1, 1, 1, {12 // groups}]> ()", *grouped("cut", "each")]  # fmt: skip
    norm = only(model([*lines, "y = Identity(u)"]))
    assert (norm.kind, norm.groups, norm.size) == ("RMSNorm", groups, 12 // groups)


def test_a_zero_gain_does_not_hide_the_groups():
    """Where it scales the inverse of the root, as in TensorFlow, no other value shows them."""
    found = model([*grouped("halves", "wide")[:-1], "r = Reciprocal(s)", "f = Mul(r, gain)", "y = Mul(x, f)"])
    numbers = np.arange(12) % 3 * np.float32(1.5)
    found.graph.initializers["gain"].const_value = ir.tensor(numbers.astype(np.float32))
    assert only(found).groups == 2


def of_channels(
    spread: Sequence[str], square: str = "expanded", kept: str = "channels", over: str = "2,3,4"
) -> list[str]:
    """GroupNorm of an image of 12 channels whose statistics are put back in its own shape."""
    return [f"h = Reshape(x, {kept})", f"t = ReduceMean <axes = [{over}]> (h)", f"b = Expand(t, {square})",
            "m = Reshape(b, image)", "d = Sub(x, m)", "q = Mul(d, d)", f"f = Reshape(q, {kept})",
            f"a = ReduceMean <axes = [{over}]> (f)", f"c = Expand(a, {square})", "v = Reshape(c, image)", *ROOT,
            "u = Div(d, s)", *spread]  # fmt: skip


def test_group_norm():
    norm = only(model(of_channels(["g = Mul(u, gain_2d)", "y = Add(g, bias_2d)"]), shape="B,12,6,10"))
    assert (norm.kind, norm.axes, norm.groups, norm.size) == ("GroupNorm", (1, 2, 3), 3, 240)
    assert (norm.epsilon, norm.is_movable, gain_of(norm).shape) == (EPSILON, False, (12, 1, 1))


def test_groups_of_another_axis_than_the_first():
    """Parts of the height of each channel: the axis that is cut stands first."""
    lines = of_channels(["y = Identity(u)"], "of_space", "spaces", "3,4")
    norm = only(model(lines, shape="B,12,6,10"))
    assert (norm.kind, norm.axes, norm.groups, norm.size) == ("GroupNorm", (2, 3), 3, 20)


def test_group_norm_behind_a_reshape_is_a_layer_norm_inside():
    lines = ["h = Reshape(x, flat)", "m = ReduceMean <axes = [2]> (h)", "d = Sub(h, m)", "q = Mul(d, d)",
             "v = ReduceMean <axes = [2]> (q)", *ROOT, "u = Div(d, s)", "w = Reshape(u, image)",
             "y = Mul(w, gain_2d)"]  # fmt: skip
    norm = only(model(lines, shape="B,12,6,10"))
    assert (norm.kind, norm.axes, norm.size, norm.is_movable) == ("LayerNorm", (2,), 240, True)
    assert norm.outer is not None
    assert (norm.outer.kind, norm.outer.groups, norm.outer.axes, norm.outer.size) == ("GroupNorm", 3, (1, 2, 3), 240)


# --- space ----------------------------------------------------------------------------------------------------------


def over(axes: str, last: Sequence[str]) -> list[str]:
    return [f"m = ReduceMean <axes = [{axes}]> (x)", "d = Sub(x, m)", "q = Mul(d, d)",
            f"v = ReduceMean <axes = [{axes}]> (q)", *ROOT, "u = Div(d, s)", *last]  # fmt: skip


SPACE = {
    "per channel": ("2,3", ["g = Mul(u, gain_2d)", "y = Add(g, bias_2d)"], "B,12,H,W", "InstanceNorm"),
    "no Affine": ("2,3", ["y = Identity(u)"], "B,12,H,W", "InstanceNorm"),
    "one number": ("2,3", ["y = Mul(u, three)"], "B,12,H,W", "InstanceNorm"),
    "per channel in one dimension": ("2", ["y = Mul(u, gain_1d)"], "B,12,T", "InstanceNorm"),
    "no Affine in one dimension": ("2", ["y = Identity(u)"], "B,12,T", "LayerNorm"),
    "along the last axis": ("2", ["y = Mul(u, gain)"], "B,T,12", "LayerNorm"),
    "per position": ("2,3", ["y = Mul(u, gain_space)"], "B,C,6,10", "LayerNorm"),
    "channels first": ("1", ["g = Mul(u, gain_2d)", "y = Add(g, bias_2d)"], "B,12,H,W", "LayerNorm"),
    "channels and space": ("1,2,3", ["g = Mul(u, gain_2d)", "y = Add(g, bias_2d)"], "B,12,6,10", "LayerNorm"),
    "the batch, too": ("0,2,3", ["y = Mul(u, gain_2d)"], "5,12,6,10", "LayerNorm"),
}


@pytest.mark.parametrize(("axes", "last", "shape", "kind"), SPACE.values(), ids=SPACE)
def test_norms_over_space(axes, last, shape, kind):
    norm = only(model(over(axes, last), shape=shape))
    assert (norm.kind, norm.axes, norm.is_movable) == (kind, tuple(map(int, axes.split(","))), True)


# --- parts of an axis -----------------------------------------------------------------------------------------------

PARTIAL = {
    "Slice": (["h = Slice(x, start, third, last)", "q = Mul(h, h)"], "inside", 4),
    "Split": (["h, other = Split <axis = -1> (x, rest_and_part)", "q = Mul(h, h)"], "inside", 5),
    "Split, ε outside": (["h, other = Split <axis = -1> (x, rest_and_part)", "q = Mul(h, h)"], "outside", 5),
}


@pytest.mark.parametrize(("part", "place", "size"), PARTIAL.values(), ids=PARTIAL)
def test_partial_rms_norm(part, place, size):
    root = ROOT if place == "inside" else ["r = Sqrt(v)", "s = Add(r, eps)"]
    norm = only(model([*part, "v = ReduceMean <axes = [-1]> (q)", *root, "u = Div(x, s)", "y = Mul(gain, u)"]))
    assert (norm.kind, norm.axes, norm.size, norm.variant) == ("PartialRMSNorm", (2,), size, f"{size} of 12")
    assert (norm.epsilon, norm.epsilon_place, norm.is_movable) == (pytest.approx(EPSILON, rel=1e-9), place, False)
    assert gain_of(norm).shape == (12,)


@pytest.mark.parametrize(
    "root", [["v = ReduceMean <axes = [-1]> (q)", "s = Sqrt(v)"], ["s = ReduceL2 <axes = [-1]> (h)"]]
)
@pytest.mark.parametrize("end", [["y = Div(x, s)"], ["i = Reciprocal(s)", "y = Mul(i, x)"]])
def test_without_an_epsilon_a_part_of_zeros_makes_infinities(root, end):
    """Probes with zeros have some in the whole part: what it divides is infinite, in the region and in the form."""
    norm = only(model([*PARTIAL["Slice"][0], *root, *end], shape="B,T,12"))
    assert (norm.kind, norm.size, norm.epsilon, norm.epsilon_place) == ("PartialRMSNorm", 4, 0.0, "inside")


def test_what_is_infinite_agrees_in_sign_and_place():
    part, scaled = fingerprint.Affine(np.array([2.0]), np.array([1.0])), np.array([np.inf, -np.inf, np.nan, 1.0])
    right = np.array([np.inf, -np.inf, np.nan, 3.0])
    assert part.agrees(right, scaled)
    for place, other in itertools.product(range(4), (-np.inf, np.inf, np.nan, 1.0)):
        wrong = right.copy()
        wrong[place] = other
        assert part.agrees(wrong, scaled) == np.array_equal(wrong, right, equal_nan=True)


def test_a_short_part_of_a_long_axis():
    """Probes may be shorter than the axis, but not so that the part is all of it."""
    lines = ["h = Slice(x, start, middle, last)", "q = Mul(h, h)", "v = ReduceMean <axes = [-1]> (q)", *ROOT,
             "y = Div(x, s)"]  # fmt: skip
    norm = only(model(lines, shape="B,T,64"))
    assert (norm.kind, norm.size, norm.variant) == ("PartialRMSNorm", 6, "6 of 64")
    most = [line.replace("middle", "fifty") for line in ["fifty = Constant <value_ints = [50]> ()", *lines]]
    assert only(model(most, shape="B,T,64")).variant == "50 of 64"


def test_a_layer_norm_with_statistics_of_a_part():
    lines = ["h = Slice(x, start, middle, last)", "m = ReduceMean <axes = [-1]> (h)", "d = Sub(x, m)",
             "c = Slice(d, start, middle, last)", "q = Mul(c, c)", "v = ReduceMean <axes = [-1]> (q)", *ROOT,
             "y = Div(d, s)"]  # fmt: skip
    assert reasons(model(lines)) == {"partial-statistics"}


NO_PARTS = {
    "the last": ["h = Slice(x, middle, end, last)", "q = Mul(h, h)"],
    "from the middle": ["h = Slice(x, third, middle, last)", "q = Mul(h, h)"],
    "every other": ["h = Slice(x, start, end, last, stride)", "q = Mul(h, h)"],
}


@pytest.mark.parametrize("part", NO_PARTS.values(), ids=NO_PARTS)
def test_parts_that_are_not_the_first_elements(part):
    lines = [line.replace("stride", "two_steps") for line in part]
    found = model(["two_steps = Constant <value_ints = [2]> ()", *lines, "v = ReduceMean <axes = [-1]> (q)", *ROOT,
                   "y = Div(x, s)"])  # fmt: skip
    assert reasons(found) == {"partial-statistics"}


def test_positions_that_are_left_alone():
    """Where(position < 4, norm, x) is a norm of the first elements only where one looks."""
    lines = [*MEAN_SQUARE, *ROOT, "u = Div(x, s)", "mask = Greater(gain, zero)", "y = Where(mask, u, x)"]
    norm = only(model(lines))
    assert norm.output.name == "u"
    late = ["h = Where(mask, x, zero)", "q = Mul(h, h)", "v = ReduceMean <axes = [-1]> (q)", *ROOT, "y = Div(x, s)"]
    assert reasons(model(["mask = Greater(gain, zero)", *late])) <= {"partial-statistics", "piecewise"}


# --- one norm, several constants ------------------------------------------------------------------------------------


def test_gemma_adds_one_to_the_gain():
    norm = only(model([*MEAN_SQUARE, *ROOT, "u = Div(x, s)", "g = Add(one, gain)", "y = Mul(u, g)"]))
    assert (norm.kind, norm.is_movable) == ("RMSNorm", True)
    own = norm.nodes[0].graph
    assert own is not None
    numbers = next(value for value in own.initializers.values() if value.name == "gain").const_value
    assert numbers is not None
    np.testing.assert_allclose(gain_of(norm), 1 + numbers.numpy(), rtol=1e-6)


def test_two_gains_are_one():
    norm = only(model([*CENTER, *SQUARE, *ROOT, "u = Div(d, s)", "g = Mul(u, gain)", "h = Mul(g, three)",
                       "y = Add(h, bias)"]))  # fmt: skip
    assert (norm.kind, norm.output.name) == ("LayerNorm", "y")
    assert gain_of(norm).shape == (12,)


def test_a_cell_of_an_lstm():
    """LayerNorm of the gates' sum, and of the cell, whose output a gate multiplies."""
    gates = [*CENTER, *SQUARE, *ROOT, "u = Div(d, s)", "z = Mul(u, gain)", "i = Sigmoid(z)", "j = Tanh(z)",
             "c = Mul(i, j)"]  # fmt: skip
    cell = ["M = ReduceMean <axes = [-1]> (c)", "D = Sub(c, M)", "Q = Mul(D, D)", "V = ReduceMean <axes = [-1]> (Q)",
            "E = Add(V, eps)", "S = Sqrt(E)", "U = Div(D, S)", "G = Mul(U, gain)", "H = Add(G, bias)", "t = Tanh(H)",
            "y = Mul(i, t)"]  # fmt: skip
    seen = look(model([*gates, *cell]))
    assert [(norm.kind, norm.input.name, norm.output.name) for norm in seen.norms] == [
        ("LayerNorm", "x", "z"),
        ("LayerNorm", "c", "H"),
    ]
    assert seen.unrecognized == ()


GUARDS = ["v = Max(w, zero)", "v = Relu(w)", "v = Abs(w)", "v = Clip(w, zero)"]


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_that_never_bites(guard):
    lines = ["m = ReduceMean <axes = [-1]> (x)", "k = Mul(m, m)", "q = Mul(x, x)", "a = ReduceMean <axes = [-1]> (q)",
             "w = Sub(a, k)", guard, *ROOT, "d = Sub(x, m)", "y = Div(d, s)"]  # fmt: skip
    norm = only(model(lines))
    assert (norm.kind, norm.epsilon, norm.epsilon_place) == ("LayerNorm", EPSILON, "inside")


def test_a_guard_of_squares_alone():
    """Without ε a group of zeros is no number, as in the norm."""
    norm = only(
        model(["q = Mul(x, x)", "o = ReduceMean <axes = [-1]> (q)", "v = Abs(o)", "s = Sqrt(v)", "y = Div(x, s)"])
    )
    assert (norm.kind, norm.epsilon, norm.epsilon_place, norm.is_movable) == ("RMSNorm", 0.0, "inside", True)


# --- traps ----------------------------------------------------------------------------------------------------------

TRAPS = {
    "third powers": ([*CENTER, "a = Abs(d)", "q = Pow(a, three)", SQUARE[1], *ROOT, "y = Div(d, s)"],
                     {"other-statistic"}),
    "powers of one and a half": ([*CENTER, "a = Abs(d)", "q = Pow(a, odd)", SQUARE[1], *ROOT, "y = Div(d, s)"],
                                 {"other-statistic"}),
    "a maximum for a sum": ([*CENTER, *SQUARE, "e = Max(v, eps)", "s = Sqrt(e)", "y = Div(d, s)"], {"piecewise"}),
    "a mean of something else": (
        ["a = Abs(x)", "m = ReduceMean <axes = [-1]> (a)", "d = Sub(x, m)", *SQUARE, *ROOT, "y = Div(d, s)"],
        {"other-statistic"},
    ),
    "variance without a root": ([*CENTER, *SQUARE, "e = Add(v, eps)", "y = Div(d, e)"], {"other-statistic"}),
    "softmax-like": (["q = Exp(x)", "v = ReduceSum(q, last)", "y = Div(q, v)"], {"not-a-norm"}),
    "sample variance of a free axis": (
        ["m = ReduceMean <axes = [1]> (x)", "d = Sub(x, m)", "q = Mul(d, d)", "t = ReduceSum(q, first)",
         "z = Shape(x)", "i = Gather(z, first)", "j = Sub(i, first)", "f = Cast <to = 1> (j)", "v = Div(t, f)", *ROOT,
         "y = Div(d, s)"],
        {"size-dependent"},
    ),
    "the centered length of a free axis": (
        ["m = ReduceMean <axes = [1]> (x)", "d = Sub(x, m)", "l = ReduceL2 <axes = [1]> (d)", "y = Div(d, l)"],
        {"size-dependent"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "expected"), TRAPS.values(), ids=TRAPS)
def test_traps(lines, expected):
    assert reasons(model(lines)) <= expected


@pytest.mark.parametrize("seed", range(4))
def test_a_center_with_a_bias_has_no_epsilon(seed):
    """Beside a bias, what is left of a small answer is rounding, which is no law of an ε."""
    form, random = Form(center=True, axes=(1,)), np.random.default_rng(seed)
    u, gain, bias = probes.well_conditioned((4, 12), random), random.uniform(1, 2, 12), random.uniform(-1, 1, 12)
    assert solved(form, u, lambda a: ((form.base(a * u) * gain + bias) - (form.base(-a * u) * gain + bias)) / 2) is None


def test_root_mean_square_of_x_that_divides_another():
    found = model([*MEAN_SQUARE, *ROOT, "y = Div(w, s)"], more=", float[B,T,12] w")
    assert reasons(found) == {"other-value"}


# --- solving --------------------------------------------------------------------------------------------------------

FORMS = [
    Form(True, (1,), 1e-5),
    Form(False, (1,), 1e-12),
    Form(True, (1,), 1e-9, "outside"),
    Form(False, (1,), 1e-12, "floor"),
    Form(False, (1,), 1e-6, "floor", total=True),
    Form(False, (1,), 1e-6, elements=5),
    Form(True, (1, 2), 1e-3, groups=3),
    Form(False, (2, 0), 1e-3, "outside", groups=2),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_epsilon_is_solved_for(form):
    random = np.random.default_rng(5)
    u = np.sign(random.standard_normal((4, 12, 6))) * random.uniform(1, 2, (4, 12, 6))
    gain = random.uniform(1, 2, (12, 1))
    blank = Form(form.center, form.axes, 0.0, form.place, form.groups, form.elements, form.total)
    found = solved(blank, u, lambda scale: gain * form.core(scale * u))
    assert found is not None
    assert found.epsilon == pytest.approx(form.epsilon, rel=1e-9)
    assert solved(blank, u, lambda scale: gain * scale * form.base(u)) is None


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_form_is_what_it_says_group_by_group(form):
    x = np.random.default_rng(6).standard_normal((4, 12, 6))
    first, others = form.axes[0], [axis for axis in range(3) if axis not in form.axes]
    core, length = form.core(x), x.shape[form.axes[0]] // form.groups
    for place in np.ndindex(*(x.shape[axis] for axis in others), form.groups):
        at: list[slice | int] = [slice(None)] * 3
        for axis, index in zip(others, place, strict=False):
            at[axis] = slice(index, index + 1)
        at[first] = slice(place[-1] * length, (place[-1] + 1) * length)
        group = x[tuple(at)]
        part = group if form.elements is None else group.take(range(form.elements), first)
        base = group - group.mean() if form.center else group
        squares = (part - group.mean() if form.center else part) ** 2
        square = squares.sum() if form.total else squares.mean()
        divisor = {
            "inside": np.sqrt(square + form.epsilon),
            "outside": np.sqrt(square) + form.epsilon,
            "floor": max(np.sqrt(square), form.epsilon),
        }[form.place]
        np.testing.assert_allclose(core[tuple(at)], base / divisor, rtol=1e-12)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_probes_lie_on_both_sides_of_epsilon(form):
    """There are some of a tenth of it, of as much, and of ten times as much."""
    values = probes.ordinary((4, 12, 6), form.scale, np.random.default_rng(1))
    loud = [float(np.sqrt((x**2).mean())) for x in values]
    at = form.epsilon**0.5 if form.place == "inside" else form.epsilon
    for factor in (0.1, 1, 10):
        assert any(0.8 < root / (factor * at) < 1.25 for root in loud)


def test_a_floor_of_zero_leaves_zeros():
    form = Form(False, (0,), 0.0, "floor")
    np.testing.assert_array_equal(form.core(np.zeros((3, 2))), 0)


def test_other_forms_are_looked_for_only_where_the_plain_ones_fail(monkeypatch):
    asked = []
    monkeypatch.setattr(fingerprint, "other", lambda *of: asked.append(of) or ())
    assert only(model([*CENTER, *SQUARE, *ROOT, "u = Div(d, s)", "y = Mul(u, gain)"])).kind == "LayerNorm"
    assert asked == []
    assert reasons(model([*LENGTH, "s = Max(l, eps)", "y = Div(x, s)"])) == {"piecewise"}
    assert len(asked) == 1


@pytest.mark.parametrize("clamp", ["Min(n, high)", "Max(n, low)", "Clip(n, low, high)"])
@pytest.mark.parametrize(("size", "bound", "clamps"), [(64, 7.5, True), (768, 20.0, True), (16, 4.5, False)])
def test_a_clamp_that_bites_where_one_element_holds_all_is_no_part_of_the_norm(
    clamp: str, size: int, bound: float, *, clamps: bool
) -> None:
    """A norm's largest value is √D; a clamp just below it was swallowed, since no probe came near."""
    text = f"""<ir_version: 10, opset_import: ["": 17]> g (double[N,{size}] x) => (double[N,{size}] y)
        <double e = {{1e-5}}, double high = {{{bound}}}, double low = {{-{bound}}}> {{
        s = Mul(x, x) v = ReduceMean<axes = [-1]>(s) a = Add(v, e) r = Sqrt(a) n = Div(x, r) y = {clamp} }}"""
    (norm,) = normswap.inspect(onnx.parser.parse_model(text)).norms
    assert (norm.kind, norm.output) == ("RMSNorm", "n" if clamps else "y")


@pytest.mark.parametrize("epsilon", [1e-37, 1e-300])
def test_an_epsilon_too_small_to_see_still_keeps_zeros_from_dividing_by_zero(epsilon: float) -> None:
    text = f"""<ir_version: 10, opset_import: ["": 17]> g (double[N,8] x) => (double[N,8] y) <double e = {{{epsilon}}}> {{
        s = Mul(x, x) v = ReduceMean<axes = [-1]>(s) a = Add(v, e) r = Sqrt(a) y = Div(x, r) }}"""
    assert all(norm.epsilon == epsilon for norm in normswap.inspect(onnx.parser.parse_model(text)).norms)


@pytest.mark.parametrize("size", [64, 768])
@pytest.mark.parametrize("place", [0, 37, 63])
def test_a_clamp_behind_a_gain_that_bites_at_one_place_alone_is_no_part_of_the_norm(size: int, place: int) -> None:
    """The gain is 1 there and ½ elsewhere: a probe whose largest element stood anywhere else did not see the clamp."""
    text = f"""<ir_version: 10, opset_import: ["": 17]> g (double[N,{size}] x) => (double[N,{size}] y)
        <double e = {{1e-5}}, double high = {{{0.75 * size**0.5}}}> {{
        s = Mul(x, x) v = ReduceMean<axes = [-1]>(s) a = Add(v, e) r = Sqrt(a) n = Div(x, r) p = Mul(n, w) y = Min(p, high) }}"""
    model = onnx.parser.parse_model(text)
    gain = np.full(size, 0.5)
    gain[place] = 1.0
    model.graph.initializer.append(onnx.numpy_helper.from_array(gain, "w"))
    (norm,) = normswap.inspect(model).norms
    assert (norm.kind, norm.output) == ("RMSNorm", "p")
