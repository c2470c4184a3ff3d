"""Rows of an inspection: axes as the model counts them, ε where people look for it, regions in names and words."""

from __future__ import annotations

import pytest

import normswap
from normswap.ledger import CoreRow, NodeRow, NormRow, ParameterRow
from tests.graphs import parsed


def row(
    body: str, constants: str = "float[6] gain, float[6] bias", *, shape: str = "B,T,6", opset: int = 17
) -> NormRow:
    """The only norm of a model that makes y from x."""
    text = f"main (float[{shape}] x) => (float[{shape}] y) <{constants}> {{ {body} }}"
    (found,) = normswap.inspect(parsed(text, opset)).norms
    return found


RMS = """
    [square] q = Mul(x, x)
    [mean] m = ReduceMean{axes}
    [add] e = Add(m, eps)
    [root] s = Sqrt(e)
    [divide] n = Div(x, s)
    [scale] y = Mul(n, gain)
"""
NUMBERS = "float[6] gain, float eps = {0.00001}, int64[1] last = {-1}, int64[1] third = {2}"


@pytest.mark.parametrize(
    ("axes", "opset", "written"),
    [
        (" <axes = [-1]> (q)", 17, (-1,)),
        (" <axes = [2]> (q)", 17, (2,)),
        ("(q, last)", 18, (-1,)),
        ("(q, third)", 18, (2,)),
    ],
)
def test_axes_as_the_model_counts_them(axes: str, opset: int, written: tuple[int, ...]) -> None:
    found = row(RMS.format(axes=axes), NUMBERS, opset=opset)
    assert (found.axes, found.written_axes, found.size) == ((2,), written, 6)


@pytest.mark.parametrize(
    ("attributes", "written"),
    [("", (-1,)), ("<axis = -1>", (-1,)), ("<axis = 2>", (2,)), ("<axis = -2>", (-2, -1)), ("<axis = 1>", (1, 2))],
)
def test_axes_of_an_operator(attributes: str, written: tuple[int, ...]) -> None:
    found = row(
        f"y = LayerNormalization {attributes} (x, g)",
        "float[4,6] g" if len(written) == 2 else "float[6] g",
        shape="B,4,6",
    )
    assert found.written_axes == written
    assert (found.operator, found.spelling) == ("LayerNormalization", "operator")


def test_the_region_in_names_and_words() -> None:
    found = row(RMS.format(axes=" <axes = [-1], keepdims = 1> (q)"), NUMBERS)
    assert (found.input, found.output, found.operator, found.name) == ("x", "y", "", "scale")
    assert found.parameters == {"gain": ParameterRow("gain", (6,))}
    assert found.core is None
    assert [node.operator for node in found.region] == ["Mul", "ReduceMean", "Add", "Sqrt", "Div", "Mul"]
    assert found.region[1] == NodeRow("mean", "ReduceMean", ("q",), ("m",), {"axes": "[-1]", "keepdims": "1"})
    assert found.region[2] == NodeRow("add", "Add", ("m", "eps"), ("e",), {}, {"eps": "1e-05"})
    assert found.region[5].constants == {"gain": "[6]"}
    assert tuple(node.name for node in found.region) == found.nodes


def test_epsilon_of_a_sum_of_squares() -> None:
    body = "q = Mul(x, x) t = ReduceSum <keepdims = 1> (q, last) e = Add(t, eps) s = Sqrt(e) y = Div(x, s)"
    found = row(body, "float eps = {0.001}, int64[1] last = {-1}")
    assert (found.kind, found.epsilon_place) == ("L2Norm", "inside")
    assert found.epsilon == pytest.approx(1e-3, rel=1e-6)
    assert found.scale == "none"


def test_epsilon_as_the_least_norm() -> None:
    body = "t = ReduceL2 <axes = [-1], keepdims = 1> (x) m = Max(t, least) y = Div(x, m)"
    found = row(body, "float least = {0.001}")
    assert (found.kind, found.epsilon_place) == ("L2Norm", "floor")
    assert found.epsilon == pytest.approx(1e-3, rel=1e-6)


def test_a_norm_with_layout_operators_around_it() -> None:
    body = """
        t = Transpose <perm = [0, 2, 3, 1]> (x)
        [ln] n = LayerNormalization (t, gain, bias)
        y = Transpose <perm = [0, 3, 1, 2]> (n)
    """
    found = row(body, shape="B,6,H,W")
    assert (found.kind, found.axes, found.written_axes, found.size) == ("LayerNorm", (1,), (1,), 6)
    assert found.core == CoreRow("LayerNorm", (3,), 6)
    assert (found.name, found.operator) == ("ln", "LayerNormalization")
    assert [node.operator for node in found.region] == ["Transpose", "LayerNormalization", "Transpose"]
    assert (found.input, found.output) == ("x", "y")


def test_a_norm_that_cannot_move_says_why_for_each_target() -> None:
    found = row("y = MeanVarianceNormalization <axes = [0, 2]> (x)", "float[1] unused")
    assert found.kind == "MeanVarianceNorm"
    assert found.epsilon_place == "outside"
    assert {target: answer["exact"] for target, answer in found.can.items()}.keys() >= {"rmsnorm", "folded"}
    assert all(answer["reason"] for answer in found.can.values() if not answer["exact"])


def test_json_has_the_words_but_not_the_region() -> None:
    body = RMS.format(axes=" <axes = [-1]> (q)")
    text = f"main (float[B,T,6] x) => (float[B,T,6] y) <{NUMBERS}> {{ {body} }}"
    (norm,) = normswap.inspect(parsed(text)).to_json()["norms"]  # type: ignore[misc, attr-defined]
    assert "region" not in norm
    assert norm["written_axes"] == (-1,)
    assert norm["parameters"] == {"gain": {"name": "gain", "shape": (6,)}}
    assert norm["epsilon_place"] == "inside"


def test_a_nameless_reduction_is_known_by_what_it_makes() -> None:
    text = "main (float[B,T,6] x) => (float[B,T,6] y) { m = ReduceMean <axes = [1]> (x) y = Mul(x, m) }"
    (found,) = normswap.inspect(parsed(text)).unrecognized
    assert found.node == "m"


def test_a_bundle_is_the_operator() -> None:
    found = row(
        "[skip] y = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (x, x, gain, bias)",
        "float[6] gain, float[6] bias",
    )
    assert (found.kind, found.operator, found.nodes) == ("LayerNorm", "SkipLayerNormalization", ("skip",))


@pytest.mark.parametrize("axis", ["axis = 1", "axis = -1"])
def test_other_operators_in_a_region_say_nothing_of_its_axes(axis: str) -> None:
    body = f"[split] a, b = Split <{axis}> (x, halves) [join] c = Concat <{axis}> (a, b)" + RMS.format(
        axes=" <axes = [2]> (q)"
    )
    found = row(body, NUMBERS + ", int64[2] halves = {3, 3}", shape="B,6,6", opset=13)
    assert found.written_axes == (2,)
