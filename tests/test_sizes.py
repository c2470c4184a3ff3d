"""Smaller sizes for regions with layout operators: which axes are cut, and what stands for their sizes in operands."""

from __future__ import annotations

import numpy as np
import pytest

from normswap.sizes import Sizes, external, smaller
from tests.test_regions import grown

CENTERED = ["m = ReduceMean <axes = [-1]> (t)", "y = Sub(t, m)"]
CUT = {
    "long axes": (["t = Reshape(x, k)", "m = ReduceMean <axes = [-1]> (t)", "d = Sub(t, m)", "z = Shape(x)",
                   "y = Reshape(d, z)"], "int64[3] k = {0, 3, -1}", "2,12,40,50", (2, 12, 5, 11), (2, 12, 7, 13)),
    "free axes": (["t = Reshape(x, k)", "m = ReduceMean <axes = [-1]> (t)", "d = Sub(t, m)", "z = Shape(x)",
                   "y = Reshape(d, z)"], "int64[3] k = {0, 3, -1}", "B,12,H,W", (3, 12, 5, 11), (5, 12, 7, 13)),
    "but not that of a vector": (["t = Reshape(x, k)", "m = ReduceMean <axes = [-1]> (t)", "d = Sub(t, m)",
                                  "z = Shape(x)", "w = Reshape(d, z)", "y = Mul(w, c)"],
                                 "int64[3] k = {0, 3, -1}, float[40] c = {" + ", ".join(["1"] * 40) + "}",
                                 "2,12,50,40", (2, 12, 5, 40), (2, 12, 7, 40)),
    "nor that of a number": (["t = Reshape(x, k)", "s = ReduceSum(t, a)", "m = Mul(s, f)", "d = Sub(t, m)",
                              "z = Shape(x)", "y = Reshape(d, z)"],
                             "int64[2] k = {-1, 50}, int64[1] a = {-1}, float f = {0.02}", "2,12,40,50",
                             (2, 12, 5, 50), (2, 12, 7, 50)),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "constants", "shape", "first", "second"), CUT.values(), ids=CUT)
def test_which_axes_are_cut(lines, constants, shape, first, second):
    seed = "s" if "ReduceSum" in " ".join(lines) else "m"
    region, known = grown(lines, "x", seed, shape=shape, initial=constants)
    assert region is not None
    both = next(smaller(region, known))
    assert tuple(sizes.shape for sizes in both) == (first, second)


def test_axes_of_one_size_are_cut_together_or_not_at_all():
    lines = ["t = Reshape(x, k)", "m = ReduceMean <axes = [-1]> (t)", "d = Sub(t, m)", "y = Reshape(d, o)"]
    whole = "int64[3] k = {0, 20, -1}, int64[4] o = {2, 40, 40, 50}"
    region, known = grown(lines, "x", "m", shape="2,40,40,50", initial=whole)
    assert region is not None
    (both,) = smaller(region, known)
    assert [sizes.shape for sizes in both] == [(2, 5, 5, 11), (2, 7, 7, 13)]
    by_name = {value.name: value for value in region.externals}
    np.testing.assert_array_equal(external(by_name["o"], both[0], 0, known), [2, 5, 5, 11])


def test_where_positions_are_named_nothing_is_cut():
    lines = ["t = Slice(x, start, middle, last)", *CENTERED]
    region, known = grown(lines, "x", "m", shape="2,40,12")
    assert region is None or not list(smaller(region, known))


SIZES = Sizes((2, 12, 5, 11), {40: 5, 50: 11, 2000: 55, 12: 12, 2: 2}, (2000, 55), 24)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(40, 5), (50, 11), (2000, 55), (8000, 220), (12, 12), (-1, -1), (0, 0), (77, 77), (14000, 14000)],
)
def test_what_stands_for_a_number_in_a_shape(number, expected):
    """A number is that of an axis, of neighbours, or of all that were cut times a part of the rest."""
    assert SIZES.of(number) == expected


def test_operands_are_computed_anew():
    lines = ["z = Shape(x)", "h = Slice(z, i0, k2)", "o = Slice(z, k2, k4)", "p = ReduceProd <keepdims = 1> (o)",
             "k = Concat <axis = 0> (h, p)", "t = Reshape(x, k)", "m = ReduceMean <axes = [-1]> (t)", "d = Sub(t, m)",
             "y = Reshape(d, z)"]  # fmt: skip
    numbers = "int64[1] i0 = {0}, int64[1] k2 = {2}, int64[1] k4 = {4}"
    region, known = grown(lines, "x", "m", shape="B,12,H,W", initial=numbers)
    assert region is not None
    sizes = next(smaller(region, known))
    by_name = {value.name: value for value in region.externals}
    for binding in range(2):
        whole, cut = known.shape(region.x, binding), sizes[binding].shape
        assert whole is not None
        found = external(by_name["k"], sizes[binding], binding, known)
        np.testing.assert_array_equal(found, [cut[0], cut[1], cut[2] * cut[3]])
        np.testing.assert_array_equal(external(by_name["z"], sizes[binding], binding, known), cut)
        np.testing.assert_array_equal(external(by_name["z"], Sizes(whole), binding, known), whole)
