"""What `inspect` prints: distinct norms, odd ones, narrow windows, no colour, names that nobody would choose."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from normswap.ledger import Can, Inspection, NodeRow, NormRow, ParameterRow, UnrecognizedRow
from normswap.reasons import REASONS
from normswap.terminal_inspection import show_inspection

YES = Can(exact=True, reason_id="", reason="")
PART = Can(exact=True, reason_id="graph-output", reason="its bias would reach the output `y`")
NO = Can(exact=False, reason_id="post-norm", reason="its input is a sum with a norm's output")
IS_ONE = Can(exact=False, reason_id="already", reason="RMSNorm `n` is one")

NORM = NormRow(
    name="/h.0/ln_1/Add_1",
    kind="LayerNorm",
    axes=(2,),
    size=768,
    epsilon=1e-5,
    groups=1,
    scale="constant",
    bias="constant",
    spelling="decomposed",
    nodes=tuple("abcdefghi"),
    graph="",
    can={"rmsnorm": YES, "folded": YES},
    written_axes=(-1,),
)
ANOTHER = replace(
    NORM, name="/ln_f/Add_1", epsilon=1e-12, spelling="operator", operator="LayerNormalization", nodes=("n",)
)


def shown(inspection: Inspection, *, width: int = 120, verbose: bool = False, terminal: bool = False) -> str:
    """What is printed on a console of this width, without spaces at the ends of lines."""
    file = io.StringIO()
    out = Console(file=file, width=width, force_terminal=terminal, highlight=False, markup=False, emoji=False)
    show_inspection(out, inspection, verbose=verbose)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def inspected(*norms: NormRow, unrecognized: tuple[UnrecognizedRow, ...] = ()) -> Inspection:
    return Inspection({"path": "m.onnx", "opset": 17, "nodes": 40, "bytes": 4_000}, norms, unrecognized)


def plain(node: str, op: str = "ReduceMean") -> UnrecognizedRow:
    return UnrecognizedRow(node, op, "not-a-norm", f"{op} `{node}`: this reduction is no part of a norm")


def test_one_line_for_norms_that_are_alike() -> None:
    numbered = [
        replace(NORM, name=f"/h.{i}/Add_1", can={"rmsnorm": YES, "folded": PART if i else YES}) for i in range(3)
    ]
    batch = replace(
        NORM, name="bn", kind="BatchNorm", axes=(1,), written_axes=None, size=None, spelling="operator",
        operator="BatchNormalization", nodes=("bn",), can={"folded": NO},
    )  # fmt: skip
    group = replace(
        NORM, name="gn", kind="GroupNorm", axes=(1, 2, 3), written_axes=(1, 2, 3), groups=32, scale="runtime",
        bias="none", size=128, can={},
    )  # fmt: skip
    assert shown(inspected(*numbered, batch, group)).splitlines()[:6] == [
        "m.onnx: opset 17, nodes 40, 4.0 kB of weights",
        "",
        "   norm       axes           groups  epsilon  affine         spelled              rmsnorm  folded",
        "3  LayerNorm  -1 (768)               1e-05    gain, bias     decomposed, 9 nodes  all      all, 2 in part",
        "1  BatchNorm  1 (dynamic)            1e-05    gain, bias     operator                      none (post-norm)",
        "1  GroupNorm  1, 2, 3 (128)      32  1e-05    run-time gain  decomposed, 9 nodes",
    ]


def test_what_differs_from_most_is_spelled_out() -> None:
    text = shown(inspected(*[NORM] * 3, ANOTHER))
    assert text.splitlines()[3:] == [
        "3  LayerNorm  -1 (768)  1e-05    gain, bias  decomposed, 9 nodes  all      all",
        "1  LayerNorm  -1 (768)  1e-12    gain, bias  operator             all      all",
        "",
        "odd ones",
        "    1  LayerNorm /ln_f/Add_1: epsilon 1e-12 (most have 1e-05), spelled operator (most have decomposed, 9 nodes)",
    ]


def test_where_no_two_agree_none_is_odd() -> None:
    assert "odd ones" not in shown(inspected(NORM, ANOTHER))


def test_many_odd_ones_are_counted() -> None:
    odd = [replace(NORM, name=f"n{i}", epsilon=10.0**-i) for i in range(6, 18)]
    text = shown(inspected(*[NORM] * 20, *odd))
    assert text.count("(most have 1e-05)") == 8
    assert "4 more" in text
    assert shown(inspected(*[NORM] * 20, *odd), verbose=True).count("(most have 1e-05)") == 12


def test_sizes_are_listed_while_they_are_few() -> None:
    few = [replace(NORM, size=size) for size in (8, 16, 16)]
    assert [line.split()[0] for line in shown(inspected(*few)).splitlines()[3:5]] == ["2", "1"]
    many = [replace(NORM, size=size) for size in range(8, 2000, 8)]
    assert "249  LayerNorm  -1 (8 to 1,992)" in shown(inspected(*many))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (replace(NORM, kind="MeanVarianceNorm", epsilon_place="outside"), "1e-05 outside the root"),
        (replace(NORM, kind="L2Norm", epsilon_place="floor", epsilon=1e-12), "1e-12 as a floor"),
        (replace(NORM, operator="SkipLayerNormalization", spelling="operator", nodes=("s",)), "SkipLayerNormalization"),
        (replace(NORM, operator="LayerNormalization", spelling="operator", nodes=("t", "n", "u")), "operator, 3 nodes"),
        (replace(NORM, kind="Affine", variant="SkipInit", axes=(), written_axes=None), "Affine (SkipInit)  scalar"),
        (replace(NORM, kind="RMSNorm", can={"rmsnorm": IS_ONE}), "already"),
        (replace(NORM, can={"rmsnorm": NO}), "none (post-norm)"),
        (replace(NORM, can={"rmsnorm": PART}), "all in part"),
    ],
)
def test_words(row: NormRow, words: str) -> None:
    assert words in shown(inspected(row)).splitlines()[3]


@pytest.mark.parametrize("width", [80, 60, 40])
def test_narrow_windows(width: int) -> None:
    name = "/model/" + "layer/" * 50 + "規範"
    rows = [replace(NORM, name=name, can={"rmsnorm": NO, "folded": NO}), *[ANOTHER] * 4]
    for verbose in (False, True):
        text = shown(inspected(*rows, unrecognized=(plain(name),)), width=width, verbose=verbose)
        assert max(map(cell_len, text.splitlines())) <= width
        assert name in "".join(text.split())
    entry = " ".join(text.split("\n\n")[1].split())
    assert "4 LayerNorm over -1 (768), epsilon 1e-12, gain, bias, operator; rmsnorm: all; folded: all" in entry


def test_colour_only_on_terminals_and_not_against_the_users_will(monkeypatch: pytest.MonkeyPatch) -> None:
    inspection = inspected(*[NORM] * 3, ANOTHER)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[1;33m" in shown(inspection, terminal=True)
    assert "\x1b" not in shown(inspection)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "33m" not in shown(inspection, terminal=True)


def test_plain_reductions_are_one_line_behind_what_looks_like_a_norm() -> None:
    outside = UnrecognizedRow("div", "ReduceMean", "epsilon-outside", "ReduceMean `div`: epsilon is added to the root")
    many = tuple(plain(f"pool{i}", "GlobalAveragePool") for i in range(40))
    text = shown(inspected(unrecognized=(*many, plain("head"), outside)))
    assert text.index("no norms that could be read") < text.index("epsilon-outside") < text.index("other reductions")
    assert "   41  not-a-norm: GlobalAveragePool pool0, pool1, pool2 and 37 more; ReduceMean head" in text
    assert "pool39" in shown(inspected(unrecognized=many), verbose=True)


def test_sentences_that_say_no_more_than_the_reason_are_named_together() -> None:
    meaning = REASONS["kind-not-moved"].meaning
    norms = [
        replace(
            NORM,
            name=f"g{i}",
            can={"rmsnorm": Can(exact=False, reason_id="kind-not-moved", reason=f"N `g{i}`: {meaning}")},
        )
        for i in range(9)
    ]
    text = shown(inspected(*norms))
    assert text.count(meaning) == 1
    assert "       N `g0`, N `g1`, N `g2` and 6 more" in text


def test_a_model_without_norms() -> None:
    assert shown(inspected(unrecognized=(plain("head"),))).splitlines()[1] == "no norms"


def test_regions_in_full() -> None:
    nodes = (
        NodeRow("/ln/mean", "ReduceMean", ("x",), ("m",), {"axes": "[-1]"}),
        NodeRow("/ln/add", "Add", ("v", "eps"), ("u",), {}, {"eps": "1e-05"}),
    )
    parameters: Mapping[str, ParameterRow] = {
        "gain": ParameterRow("ln.weight", (768,)),
        "bias": ParameterRow("", (768,)),
    }
    row = replace(
        NORM, region=nodes, input="x", output="y", graph="If_0/then_branch", parameters=parameters,
        can={"rmsnorm": NO, "folded": PART},
    )  # fmt: skip
    text = shown(inspected(row), verbose=True, width=200)
    assert text.splitlines()[5:18] == [
        "LayerNorm /h.0/ln_1/Add_1",
        "axes        -1 (768)",
        "epsilon     1e-05",
        "gain        ln.weight [768]",
        "bias        [768], computed from constants",
        "graph       If_0/then_branch",
        "values      x → y",
        "spelled     decomposed, 9 nodes",
        "nodes       ReduceMean /ln/mean: x → m (axes = [-1])",
        "            Add /ln/add: v, eps = 1e-05 → u",
        "rmsnorm     no, post-norm: its input is a sum with a norm's output",
        "folded      yes, in part: its bias would reach the output `y`",
        "",
    ]
    assert "what helps: if it is a residual stream" in text
