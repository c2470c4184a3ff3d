"""What is drawn of a norm: its operators and arrows as they are spelled, and its formula."""

from __future__ import annotations

from dataclasses import replace

import pytest

import normswap
from normswap.distinct import families
from normswap.ledger import CoreRow, NodeRow, NormRow, ParameterRow
from normswap.report.pictures import LONGEST, Picture, as_norm, as_spelled, composition, cut, formula
from tests.graphs import parsed

NORM = NormRow(
    name="ln",
    kind="LayerNorm",
    axes=(2,),
    size=768,
    epsilon=1e-5,
    groups=1,
    scale="constant",
    bias="constant",
    spelling="operator",
    nodes=("ln",),
    graph="",
    written_axes=(-1,),
    input="x",
    output="y",
    parameters={"gain": ParameterRow("g", (768,)), "bias": ParameterRow("", (768,))},
)
TEXT = """main (float[B,T,6] x) => (float[B,T,6] y) <float[6] gain, float eps = {0.00001}, float two = {2.0}> {
    [mean] m = ReduceMean <axes = [-1]> (x)
    [sub] d = Sub(x, m)
    [pow] q = Pow(d, two)
    [var] v = ReduceMean <axes = [-1]> (q)
    [add] e = Add(v, eps)
    [sqrt] s = Sqrt(e)
    [div] n = Div(d, s)
    [mul] y = Mul(n, gain)
}"""


def picture(row: NormRow) -> Picture:
    (family,) = families([row])
    return as_spelled(family)


def test_a_region_as_it_is_spelled() -> None:
    drawn = picture(normswap.inspect(parsed(TEXT)).norms[0])
    titles = [box.title for box in drawn.boxes]
    assert titles == ["x", "ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "y"]
    lines = [line for box in drawn.boxes for line in box.lines]
    assert lines == ["axes [-1]", "2", "axes [-1]", "1e-05", "gain [6]"]
    arrows = [(arrow.source, arrow.target) for arrow in drawn.arrows]
    assert sorted(arrows) == sorted(
        [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (2, 7), (7, 8), (8, 9)]
    )
    assert drawn.title.endswith("ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul")


def test_run_time_operands_are_boxes_and_constants_are_none() -> None:
    node = NodeRow("n", "InstanceNormalization", ("x", "style", "b"), ("y",), {"epsilon": "0.001"}, {"b": "[8]"})
    drawn = picture(replace(NORM, region=(node,)))
    assert [(box.title, box.role) for box in drawn.boxes] == [
        ("x", "value"), ("style", "value"), ("InstanceNormalization", "operator"), ("y", "value"),
    ]  # fmt: skip
    assert drawn.boxes[2].lines == ("bias [8]", "epsilon 0.001")
    assert "style, b = [8] → y" in drawn.boxes[2].tip


def test_the_norm_as_one_box() -> None:
    (family,) = families([replace(NORM, groups=4, bias="runtime", core=CoreRow("LayerNorm", (3,), 768))])
    x, norm, y = as_norm(family).boxes
    assert (x.title, norm.title, y.title) == ("x", "LayerNorm", "y")
    assert norm.lines == (
        "gain · (x − mean) / √(var + ε) + bias",
        "Affine ∘ RMS ∘ Center",
        "axes -1 (768)",
        "4 groups",
        "ε 1e-05",
        "gain constant [768]",
        "bias at run time",
        "moved as LayerNorm over 3",
    )


@pytest.mark.parametrize(
    ("row", "expected", "maps"),
    [
        (NORM, "gain · (x − mean) / √(var + ε) + bias", "Affine ∘ RMS ∘ Center"),
        (replace(NORM, scale="none"), "(x − mean) / √(var + ε) + bias", "Affine ∘ RMS ∘ Center"),
        (replace(NORM, scale="none", bias="none", epsilon=0.0), "(x − mean) / √var", "RMS ∘ Center"),
        (replace(NORM, kind="RMSNorm", bias="none"), "gain · x / √(mean(x²) + ε)", "Affine ∘ RMS"),
        (replace(NORM, kind="L2Norm", scale="none", bias="none", epsilon_place="floor"), "x / max(√Σx², ε)", "RMS"),
        (
            replace(NORM, kind="MeanVarianceNorm", scale="none", bias="none", epsilon_place="outside"),
            "(x − mean) / (√var + ε)",
            "RMS ∘ Center",
        ),
        (replace(NORM, kind="BatchNorm"), "gain · x + bias", "Affine"),
        (replace(NORM, kind="Affine", bias="none"), "gain · x", "Affine"),
        (replace(NORM, kind="SpectralNorm"), "x / σ(x)", ""),
    ],
)
def test_formulas(row: NormRow, expected: str, maps: str) -> None:
    assert (formula(row), composition(row)) == (expected, maps)


def test_long_names_are_cut_in_the_middle() -> None:
    assert cut("a" * LONGEST) == "a" * LONGEST
    short = cut("/model/" + "layer/" * 50 + "ln_1")
    assert len(short) == LONGEST
    assert short.startswith("/model/layer/")
    assert short.endswith("/ln_1")
