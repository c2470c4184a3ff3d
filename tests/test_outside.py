"""What stands around a norm: the widest view through layout operators, and gains that are run-time values."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from normswap.learn import learn
from normswap.norm import Norm, Recognition
from normswap.recognize import recognize
from tests.norm_texts import GAIN

VECTORS = {"gain": (12,), "column": (12, 1, 1), "narrow": (12, 1)}
HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'


def look(lines: str, shape: str, more: str = "") -> Recognition:
    numbers = ", ".join(map(str, GAIN))
    constants = [f"float[{','.join(map(str, shape))}] {name} = {{{numbers}}}" for name, shape in VECTORS.items()]
    constants += ["float[3] ones = {1, 1, 1}", "float[3] zeros = {0, 0, 0}", "float eps = {0.00001}", "float one = {1}"]
    constants += ["float[1] ones1 = {1}", "float[1] zeros1 = {0}"]
    constants += [f"float[12] many_ones = {{{', '.join(['1'] * 12)}}}", "float[4] four = {1.5, 2, 3, 0.5}"]
    constants += [f"float[3,4] three_by_four = {{{numbers}}}"]
    constants += [
        f"int64[{len(values)}] {name} = {{{', '.join(map(str, values))}}}"
        for name, values in {
            "three": [0, 3, -1], "large": [2, 12, 40, 50], "rows": [-1, 12], "flat": [0, 12, -1], "whole": [2, 12, 4, 6], "other": [2, 12, 6, 4],
            "parts": [0, 0, 3, 4], "together": [0, 0, 12], "space": [2, 3], "first": [1], "last": [-1],
            "swapped": [12, 2, 4, 6], "one_group": [0, 1, -1], "pads": [0, 0, 0, 0, 0, 1],
            **{f"i{n}": [n] for n in (0, 1, 2, 3, 4, 12, 96)},
        }.items()
    ]  # fmt: skip
    inputs = f"float[{shape}] x" + (f", {more}" if more else "")
    source = f"{HEADER} main ({inputs}) => (float[{shape}] y) <{', '.join(constants)}> {{\n{lines}\n}}"
    found = ir.from_proto(onnx.parser.parse_model(source))
    return recognize(found, learn(found))


def only(lines: str, shape: str, more: str = "") -> Norm:
    seen = look(lines, shape, more)
    assert seen.unrecognized == ()
    (norm,) = (*seen.norms, *seen.named)
    return norm


def decomposed(axes: str, x: str = "t") -> str:
    """u = RMS∘Center of x over these axes."""
    return f"""m = ReduceMean <axes = [{axes}]> ({x})
        d = Sub({x}, m)
        q = Mul(d, d)
        v = ReduceMean <axes = [{axes}]> (q)
        e = Add(v, eps)
        s = Sqrt(e)
        u = Div(d, s)"""


OPERATOR = "u = LayerNormalization <epsilon = 0.00001> (t, gain)"
INSTANCES = "u = InstanceNormalization <epsilon = 0.00001> (t, ones, zeros)"
CHANNELS = "k = Mul(w, column)\ny = Add(k, column)"

# --- layout operators -----------------------------------------------------------------------------------------------

OUTER = {
    "channels first, an operator": (
        f"t = Transpose <perm = [0, 2, 3, 1]> (x)\n{OPERATOR}\ny = Transpose <perm = [0, 3, 1, 2]> (u)",
        "B,12,H,W", (3,), ("LayerNorm", (1,), 1, 12),
    ),
    "channels first, decomposed": (
        f"""t = Transpose <perm = [0, 2, 1]> (x)\n{decomposed("-1")}\nw = Transpose <perm = [0, 2, 1]> (u)
        y = Mul(w, narrow)""",
        "B,12,T", (2,), ("LayerNorm", (1,), 1, 12),
    ),
    "rows": (
        f"z = Shape(x)\nt = Reshape(x, rows)\n{OPERATOR}\ny = Reshape(u, z)",
        "B,T,12", (1,), ("LayerNorm", (2,), 1, 12),
    ),
    "flattened space behind channels, and back to a computed shape": (
        f"""f = Reshape(x, flat)\nt = Transpose <perm = [0, 2, 1]> (f)\n{OPERATOR}
        c = Transpose <perm = [0, 2, 1]> (u)\nz = Shape(x)\ny = Reshape(c, z)""",
        "B,12,H,W", (2,), ("LayerNorm", (1,), 1, 12),
    ),
    "groups of channels": (
        f"t = Reshape(x, three)\n{decomposed('-1')}\nw = Reshape(u, whole)\n{CHANNELS}",
        "2,12,4,6", (2,), ("GroupNorm", (1, 2, 3), 3, 96),
    ),
    "another axis put in and taken out": (
        f"t = Unsqueeze(x, first)\n{OPERATOR}\ny = Squeeze(u, first)", "B,T,12", (3,), ("LayerNorm", (2,), 1, 12),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "shape", "axes", "expected"), OUTER.values(), ids=OUTER)
def test_the_inner_norm_is_moved_and_the_outer_one_is_seen(lines, shape, axes, expected):
    seen = look(lines, shape)
    (norm,) = seen.norms
    assert (norm.kind, norm.axes, norm.input.name, norm.output.name) == ("LayerNorm", axes, "t", "u")
    assert norm.outer is not None
    assert (norm.outer.kind, norm.outer.axes, norm.outer.groups, norm.outer.size) == expected
    assert (norm.outer.input.name, norm.outer.output.name, norm.outer.epsilon) == ("x", "y", norm.epsilon)
    assert set(norm.nodes) < set(norm.outer.nodes)
    assert norm.outer.gain is not None
    np.testing.assert_allclose(norm.outer.gain.array.reshape(-1), GAIN, rtol=1e-9)


BORROWED = {
    "groups": (f"t = Reshape(x, three)\n{INSTANCES}\nw = Reshape(u, whole)\n{CHANNELS}", "2,12,4,6", "GroupNorm", 3),
    "a computed shape": (
        f"t = Reshape(x, three)\n{INSTANCES}\nz = Shape(x)\nw = Reshape(u, z)\n{CHANNELS}", "B,12,H,W", "GroupNorm", 3,
    ),
    "large images": (
        f"t = Reshape(x, three)\n{INSTANCES}\nz = Shape(x)\nw = Reshape(u, z)\n{CHANNELS}",
        "B,12,1024,1024", "GroupNorm", 3,
    ),
    "a shape put together": (
        f"""z = Shape(x)\nn = Slice(z, i0, i1)\nh = Slice(z, i2, i4)\nc = Concat <axis = 0> (n, i3, last)
        t = Reshape(x, c)\n{INSTANCES}\nf = Concat <axis = 0> (n, i12, h)\nw = Reshape(u, f)\n{CHANNELS}""",
        "B,12,H,W", "GroupNorm", 3,
    ),
    "one group": (
        f"""t = Reshape(x, one_group)\nu = InstanceNormalization <epsilon = 0.00001> (t, ones1, zeros1)
        w = Reshape(u, whole)\n{CHANNELS}""",
        "2,12,4,6", "LayerNorm", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "shape", "kind", "groups"), BORROWED.values(), ids=BORROWED)
def test_an_instance_normalization_borrowed_for_something_else_is_that(lines, shape, kind, groups):
    norm = only(lines, shape)
    assert (norm.kind, norm.axes, norm.groups, norm.epsilon) == (kind, (1, 2, 3), groups, float(np.float32(1e-5)))
    assert (norm.input.name, norm.output.name, norm.spelling) == ("x", "y", "decomposed")
    assert norm.gain is not None
    assert norm.gain.value is not None
    assert norm.gain.value.name == "column"


def test_parameters_whose_number_is_computed():
    """Each row is a channel; there are as many ones and zeros as rows."""
    norm = only(
        """z = Shape(x)
        a = Gather(z, i0)
        b = Gather(z, i1)
        n = Mul(a, b)
        c = Concat <axis = 0> (i1, n, last)
        t = Reshape(x, c)
        o = ConstantOfShape <value = float[1] {1}> (n)
        p = ConstantOfShape (n)
        k = InstanceNormalization <epsilon = 0.00001> (t, o, p)
        w = Reshape(k, z)
        y = Mul(w, gain)""",
        "B,T,12",
    )
    assert (norm.kind, norm.axes, norm.runtime, norm.input.name, norm.output.name) == (
        *("LayerNorm", (2,), frozenset()),
        *("x", "y"),
    )
    assert norm.gain is not None
    assert norm.gain.value is not None


INNER_ONLY = {
    "a transpose that is not the inverse": (
        f"t = Transpose <perm = [0, 2, 3, 1]> (x)\n{OPERATOR}\ny = Transpose <perm = [0, 2, 3, 1]> (u)", "2,12,12,12",
    ),
    "no way back": (f"t = Transpose <perm = [0, 2, 1]> (x)\n{OPERATOR}\ny = Relu(u)", "12,12,12"),
    "back to another order": (
        f"""t = Reshape(x, three)\n{INSTANCES}\nc = Reshape(u, other)\nw = Transpose <perm = [0, 1, 3, 2]> (c)
        {CHANNELS}""", "2,12,4,6",
    ),
    "back to another batch": (
        f"""t = Reshape(x, three)\n{INSTANCES}\nc = Reshape(u, swapped)\nw = Transpose <perm = [1, 0, 2, 3]> (c)
        {CHANNELS}""", "2,12,4,6",
    ),
    "padding between": (
        f"""t = Reshape(x, three)\np = Pad(t, pads)\nu = InstanceNormalization <epsilon = 0.00001> (p, ones, zeros)
        f = Slice(u, i0, i96, last)\nw = Reshape(f, whole)\n{CHANNELS}""", "2,12,4,6",
    ),
    "x between": (
        f"""t = Transpose <perm = [0, 2, 1]> (x)\n{OPERATOR}\nc = Add(u, t)\ny = Transpose <perm = [0, 2, 1]> (c)""",
        "B,12,T",
    ),
    "a run-time value between": (
        f"""t = Transpose <perm = [0, 2, 1]> (x)\n{OPERATOR}\nc = Mul(u, gate)\ny = Transpose <perm = [0, 2, 1]> (c)""",
        "B,12,T",
    ),
    "a run-time shape": (f"t = Reshape(x, three)\n{INSTANCES}\nw = Reshape(u, r4)\n{CHANNELS}", "B,12,4,6"),
    "another name": (f"t = Identity(x)\n{decomposed('-1')}\ny = Relu(u)", "B,T,12"),
    "each head by itself": (
        f"t = Reshape(x, parts)\n{decomposed('-1')}\ny = Reshape(u, together)", "B,T,12",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "shape"), INNER_ONLY.values(), ids=INNER_ONLY)
def test_what_only_looks_like_a_wider_view(lines, shape):
    seen = look(lines, shape, "float[B,T,12] gate, int64[4] r4")
    (norm,) = (*seen.norms, *seen.named)
    assert norm.outer is None
    assert norm.input.name in ("t", "p")
    assert norm.output.name == "u"


ROOT = "q = Mul(t, t)\nv = ReduceMean <axes = [-1]> (q)\ne = Add(v, eps)\ns = Sqrt(e)\nu = Div(t, s)"
TOGETHER = "w = Reshape(u, together)"
GROUPS_OF_THE_LAST_AXIS = {
    "a gain, roots": (f"{ROOT}\n{TOGETHER}\ny = Mul(w, gain)", "RMSNorm"),
    "a gain and a bias, roots": (f"{ROOT}\n{TOGETHER}\nk = Mul(w, gain)\ny = Add(k, gain)", "PowerNorm"),
    "a bias alone": (f"{decomposed('-1')}\n{TOGETHER}\ny = Add(w, gain)", "GroupNorm"),
    "a gain of ones": (f"{decomposed('-1')}\n{TOGETHER}\ny = Mul(w, many_ones)", "GroupNorm"),
    "lengths instead of roots": (
        f"l = ReduceL2 <axes = [-1]> (t)\nu = Div(t, l)\n{TOGETHER}\ny = Mul(w, gain)", "RMSNorm",
    ),
    "a gain of each head besides": (f"{decomposed('-1')}\nk = Mul(u, four)\nw = Reshape(k, together)\ny = Mul(w, gain)", "GroupNorm"),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "kind"), GROUPS_OF_THE_LAST_AXIS.values(), ids=GROUPS_OF_THE_LAST_AXIS)
def test_groups_of_the_last_axis_with_parameters_of_the_whole_axis_are_seen_as_one_norm(lines, kind):
    norm = only(f"t = Reshape(x, parts)\n{lines}", "B,T,12")
    assert (norm.axes, norm.input.name, norm.groups) == ((3,), "t", 1)  # what planners move stays as it is
    assert norm.outer is not None
    assert (norm.outer.kind, norm.outer.axes, norm.outer.groups, norm.outer.size) == (kind, (2,), 3, 4)
    assert (norm.outer.input.name, norm.outer.output.name) == ("x", "y")


OF_ONE_HEAD = {
    "no parameters": f"{ROOT}\ny = Reshape(u, together)",
    "a gain of one head": f"{ROOT}\nk = Mul(u, four)\ny = Reshape(k, together)",
    "a gain of each head": f"{ROOT}\nk = Mul(u, three_by_four)\ny = Reshape(k, together)",
    "a gain of one head, heads first": f"""{ROOT}\nh = Transpose <perm = [0, 2, 1, 3]> (u)\nk = Mul(h, four)
        c = Transpose <perm = [0, 2, 1, 3]> (k)\ny = Reshape(c, together)""",
    "one number for all": f"{ROOT}\n{TOGETHER}\ny = Mul(w, eps)",
}


@pytest.mark.parametrize("lines", OF_ONE_HEAD.values(), ids=OF_ONE_HEAD)
def test_norms_of_heads_are_seen_by_what_one_head_sees(lines):
    norm = only(f"t = Reshape(x, parts)\n{lines}", "B,T,12")
    assert (norm.outer, norm.axes, norm.input.name) == (None, (3,), "t")


def test_the_widest_view_is_taken():
    lines = f"""f = Transpose <perm = [0, 2, 3, 1]> (x)\nz = Shape(f)\nt = Reshape(f, rows)\n{OPERATOR}
        c = Reshape(u, z)\ny = Transpose <perm = [0, 3, 1, 2]> (c)"""
    norm = only(lines, "B,12,H,W")
    assert norm.outer is not None
    assert (norm.outer.axes, norm.outer.input.name, norm.outer.output.name) == ((1,), "x", "y")


def test_casts_among_the_layout_operators():
    lines = """h = Cast <to = 11> (x)\nt = Transpose <perm = [0, 2, 1]> (h)\ng = Cast <to = 11> (gain)
        u = LayerNormalization <epsilon = 0.00001> (t, g)\nc = Transpose <perm = [0, 2, 1]> (u)\ny = Cast <to = 1> (c)"""
    norm = only(lines, "B,12,T")
    assert norm.outer is not None
    assert (norm.axes, norm.outer.axes, norm.outer.input.name, norm.outer.output.name) == ((2,), (1,), "x", "y")


# --- run-time gains -------------------------------------------------------------------------------------------------

STYLE = "float[B,12] a, float[B,12] b"
BOTH, GAIN_ONLY, NEITHER = frozenset({"gain", "bias"}), frozenset({"gain"}), frozenset()
RUN_TIME = {
    "AdaLN": (
        f"""{decomposed("-1", "x")}\nh = Unsqueeze(a, first)\nf = Add(one, h)\no = Unsqueeze(b, first)\nk = Mul(u, f)
        y = Add(k, o)""", "B,T,12", STYLE, "LayerNorm", BOTH,
    ),
    "AdaLN with the operator": (
        """u = LayerNormalization (x, gain)\nh = Unsqueeze(a, first)\nf = Add(one, h)\no = Unsqueeze(b, first)
        k = Mul(f, u)\ny = Add(o, k)""", "B,T,12", STYLE, "LayerNorm", BOTH,
    ),
    "style": (
        f"""{decomposed("2, 3", "x")}\nh = Unsqueeze(a, space)\no = Unsqueeze(b, space)\nk = Mul(u, h)
        y = Add(k, o)""", "B,12,H,W", STYLE, "InstanceNorm", BOTH,
    ),
    "style, expanded": (
        f"""{decomposed("2, 3", "x")}\nh = Unsqueeze(a, space)\nz = Shape(u)\no = Expand(h, z)\ny = Mul(u, o)""",
        "B,12,H,W", STYLE, "InstanceNorm", GAIN_ONLY,
    ),
    "style, expanded and renamed": (
        f"""{decomposed("2, 3", "x")}\nh = Unsqueeze(a, space)\nr = Cast <to = 1> (h)\nz = Shape(u)\nf = Expand(r, z)
        g = Identity(f)\nj = Unsqueeze(b, space)\np = Expand(j, z)\no = Cast <to = 1> (p)\nk = Mul(u, g)\ny = Add(k, o)""",
        "B,12,H,W", STYLE, "InstanceNorm", BOTH,
    ),
    "FiLM behind groups": (
        f"""t = Reshape(x, three)\n{INSTANCES}\nz = Shape(x)\nw = Reshape(u, z)\nk = Mul(w, column)
        h = Unsqueeze(a, space)\no = Unsqueeze(b, space)\np = Mul(k, h)\ny = Add(p, o)""",
        "B,12,H,W", STYLE, "GroupNorm", BOTH,
    ),
    "channels by themselves": (
        f"""{decomposed("2, 3", "x")}\nf = Reshape(u, flat)\nh = Unsqueeze(a, last)\no = Unsqueeze(b, last)
        k = Mul(f, h)\np = Add(k, o)\nz = Shape(x)\ny = Reshape(p, z)""",
        "B,12,H,W", STYLE, "InstanceNorm", BOTH,
    ),
    "channels in another place": (
        f"""{decomposed("2, 3", "x")}\nf = Transpose <perm = [0, 2, 3, 1]> (u)\nk = Mul(f, r)
        y = Transpose <perm = [0, 3, 1, 2]> (k)""", "B,12,12,12", "float[B,12,1,1] r", "InstanceNorm", NEITHER,
    ),
    "behind a cast": (
        f"""{decomposed("-1", "x")}\nc = Cast <to = 11> (u)\nh = Unsqueeze(a, first)\ng = Cast <to = 11> (h)
        k = Mul(c, g)\ny = Cast <to = 1> (k)""", "B,T,12", STYLE, "LayerNorm", GAIN_ONLY,
    ),
    "a residual is no bias": (
        f"""{decomposed("-1", "x")}\nh = Unsqueeze(a, first)\nk = Mul(u, h)\ny = Add(k, x)""",
        "B,T,12", STYLE, "LayerNorm", GAIN_ONLY,
    ),
    "a mask is no gain": (
        f"""{decomposed("-1", "x")}\ny = Mul(u, a)""", "B,T,12", "float[B,T,1] a", "LayerNorm", NEITHER,
    ),
    "a gate is no gain": (
        f"""{decomposed("-1", "x")}\ny = Mul(u, a)""", "B,T,12", "float[B,T,12] a", "LayerNorm", NEITHER,
    ),
    "a temperature is no gain": (
        f"""{decomposed("-1", "x")}\ny = Mul(u, a)""", "B,T,12", "float[1] a", "LayerNorm", NEITHER,
    ),
    "what has another reader has no gain": (
        f"""{decomposed("-1", "x")}\nh = Unsqueeze(a, first)\nk = Mul(u, h)\nf = Sigmoid(u)\ny = Mul(k, f)""",
        "B,T,12", STYLE, "LayerNorm", NEITHER,
    ),
    "a position is no bias": (
        f"""{decomposed("-1", "x")}\nh = Unsqueeze(a, first)\ny = Add(u, h)""", "B,T,12", STYLE, "LayerNorm", NEITHER,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "shape", "more", "kind", "expected"), RUN_TIME.values(), ids=RUN_TIME)
def test_run_time_gains(lines, shape, more, kind, expected):
    norm = only(lines, shape, more)
    assert norm.kind == kind
    assert norm.runtime == expected
    assert norm.is_movable == (kind != "GroupNorm")


def test_run_time_parameters_before_the_last_layout_operator():
    """As in the body that onnx gives LayerNormalization over two axes: all is done to a matrix."""
    lines = f"""z = Shape(x)\nt = Flatten <axis = 2> (x)\n{decomposed("1")}\nh = Flatten <axis = 0> (a)
        o = Flatten <axis = 0> (b)\nk = Mul(u, h)\nw = Add(k, o)\ny = Reshape(w, z)"""
    norm = only(lines, "2,3,4,5", "float[4,5] a, float[4,5] b")
    assert (norm.axes, norm.output.name, norm.runtime) == ((1,), "u", BOTH)
    assert norm.outer is not None
    assert (norm.outer.kind, norm.outer.axes, norm.outer.gain) == ("LayerNorm", (2, 3), None)
    assert (norm.outer.input.name, norm.outer.output.name) == ("x", "y")


def test_a_borrowed_operator_with_run_time_parameters_within_is_not_replaced():
    """What planners may move has constant parameters only."""
    lines = """t = Flatten <axis = 2> (x)\nv = Unsqueeze(t, first)
        u = InstanceNormalization <epsilon = 0.00001> (v, ones1, zeros1)\nk = Mul(u, a)\nw = Squeeze(k, first)
        z = Shape(x)\ny = Reshape(w, z)"""
    seen = look(lines, "2,3,4,5", "float[1,1,20] a")
    assert seen.norms == ()
