"""Reports as files: well formed whatever the names, complete in themselves, written whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

import normswap
from normswap.cli import main
from normswap.errors import WriteError
from normswap.ledger import Can, Inspection, NodeRow, NormRow, UnrecognizedRow
from normswap.report import write
from normswap.report.page import page
from normswap.report.sheet import sheet

SMALL = Path(__file__).resolve().parents[2] / "models" / "small"
HOSTILE = "</script></svg><b onload='x()'>&amp;\"\x1b[2J\u202eb\ud800\x00" + "n" * 300 + "שלום 规范"
VOID = frozenset({"meta", "rect", "path", "polygon"})


def hostile() -> Inspection:
    node = NodeRow(HOSTILE, HOSTILE, (HOSTILE, "c"), (HOSTILE + "y",), {"axis": HOSTILE}, {"c": HOSTILE})
    norm = NormRow(
        name=HOSTILE, kind="LayerNorm", axes=(1,), size=None, epsilon=float("nan"), groups=2, scale="constant",
        bias="runtime", spelling="decomposed", nodes=(HOSTILE,), graph=HOSTILE, variant=HOSTILE, input=HOSTILE,
        output=HOSTILE + "y", region=(node,), can={"rmsnorm": Can(exact=False, reason_id=HOSTILE, reason=HOSTILE)},
    )  # fmt: skip
    unrecognized = UnrecognizedRow(HOSTILE, HOSTILE, "not-a-norm", HOSTILE)
    return Inspection({"path": f"/a/{HOSTILE}.onnx"}, (norm, replace(norm, region=())), (unrecognized,))


class Balance(HTMLParser):
    """Which elements are open, and what was ever met."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(document: str) -> Balance:
    """The document, parsed; every element is closed where it was opened."""
    parser = Balance()
    parser.feed(document)
    parser.close()
    assert parser.open == []
    return parser


def inspected(name: str) -> Inspection:
    return normswap.inspect(SMALL / f"{name}.onnx")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_sheet_is_well_formed_whatever_the_names() -> None:
    root = ElementTree.fromstring(sheet(hostile()))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {
        "svg", "title", "style", "rect", "g", "text", "path", "polygon",
    }  # fmt: skip
    assert sheet(hostile()).isprintable() is False  # lines end, but nothing else
    assert all(line.isprintable() for line in sheet(hostile()).split("\n"))


def test_a_page_is_well_formed_whatever_the_names() -> None:
    document = page(hostile())
    parser = read(document)
    assert parser.tags.isdisjoint({"script", "b", "link", "img", "iframe", "object"})
    assert {name for name, _ in parser.attributes}.isdisjoint({"src", "onload", "srcset"})
    assert all(line.isprintable() for line in document.split("\n"))
    assert "\\u202e" in document
    assert "规范" in document


@pytest.mark.parametrize("document", [page, sheet])
def test_nothing_is_loaded_and_both_schemes_are_known(document: object) -> None:
    assert callable(document)
    text = document(inspected("swin_dynamo18"))
    assert re.findall(r"https?://[^\"' ]*", text) in ([], ["http://www.w3.org/2000/svg"])
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text


def test_every_distinct_norm_is_drawn_as_spelled_and_as_it_is() -> None:
    inspection = inspected("llama_dynamo18")
    root = ElementTree.fromstring(sheet(inspection))
    words = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert words.count("5 × RMSNorm") == 1
    assert words.count("Reciprocal") == 1
    assert words.count("gain · x / √(mean(x²) + ε)") == 1
    titles = [element.text or "" for element in root.iter() if element.tag.endswith("title")]
    assert any(title.startswith("RMSNorm as the model spells it: Pow, ReduceMean") for title in titles)
    document = page(inspection)
    assert all(row.name in document for row in inspection.norms)


def test_chains_that_differ_are_drawn_apart() -> None:
    row = inspected("llama_dynamo18").norms[0]
    nodes = (*row.region[:-1], replace(row.region[-1], operator="Div"))
    inspection = Inspection({}, (row, row, replace(row, region=nodes)), ())
    assert sheet(inspection).count("gain · x / √(mean(x²) + ε)</text>") == 2


def test_a_model_without_norms() -> None:
    empty = Inspection({"path": "m.onnx", "opset": 17, "nodes": 3, "bytes": 0}, (), ())
    ElementTree.fromstring(sheet(empty))
    read(page(empty))
    assert "no norms" in sheet(empty)


def test_the_same_model_gives_the_same_bytes() -> None:
    assert sheet(inspected("vit_dynamo18")) == sheet(inspected("vit_dynamo18"))
    assert page(inspected("vit_dynamo18")) == page(inspected("vit_dynamo18"))


def places(element: ElementTree.Element, x: float = 0.0, y: float = 0.0) -> Iterator[tuple[float, float, float, float]]:
    """Left, right, top and bottom of every box within an element that stands at x, y."""
    moved = re.match(r"translate\((\S+) (\S+)\)", element.attrib.get("transform", ""))
    x, y = (x + float(moved[1]), y + float(moved[2])) if moved else (x, y)
    if element.tag.endswith("rect") and "x" in element.attrib:
        left, top, width, height = (float(element.attrib[name]) for name in ("x", "y", "width", "height"))
        yield x + left, x + left + width, y + top, y + top + height
    for child in element:
        yield from places(child, x, y)


def test_the_boxes_stay_on_the_sheet_and_apart() -> None:
    root = ElementTree.fromstring(sheet(inspected("swin_dynamo18")))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = list(places(root))
    assert len(boxes) > 10
    for index, (left, right, top, bottom) in enumerate(boxes):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert all(
            right < other[0] or other[1] < left or bottom < other[2] or other[3] < top for other in boxes[:index]
        )


# --- files -----------------------------------------------------------------------------------------------------------


def test_both_reports_beside_the_table(tmp_path: Path) -> None:
    svg, html = tmp_path / "a.svg", tmp_path / "b.HTML"
    result = run("inspect", SMALL / "gpt2_dynamo18.onnx", "--svg", svg, "--html", html)
    assert result.exit_code == 0, result.stderr
    assert "LayerNorm" in result.stdout
    assert result.stderr == ""
    assert svg.read_text(encoding="utf-8").startswith("<svg xmlns=")
    assert html.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert {*tmp_path.iterdir()} == {svg, html}


def test_an_older_report_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    path.write_text("old" * 100_000)
    write(Inspection({}, (), ()), path)
    ElementTree.parse(path)
    assert [*tmp_path.iterdir()] == [path]


def test_a_report_that_cannot_be_written_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left on device"):
        write(Inspection({}, (), ()), path)
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("option", "name", "code", "words"),
    [
        ("--svg", "a.png", 2, "a file that ends in .svg for --svg"),
        ("--html", "a.svg", 2, "a file that ends in .html for --html"),
        ("--svg", "model.onnx", 2, "a file that ends in .svg"),
        ("--svg", "absent/a.svg", 5, "there is no folder"),
        ("--html", "folder.html", 2, "is a folder: name a file with --html"),
    ],
)
def test_a_report_that_cannot_be_is_refused_before_the_work(
    tmp_path: Path, option: str, name: str, code: int, words: str
) -> None:
    (tmp_path / "folder.html").mkdir()
    result = run("inspect", tmp_path / "never-opened.onnx", option, tmp_path / name)
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stdout == ""


def test_the_input_is_no_report(tmp_path: Path) -> None:
    model = tmp_path / "model.svg"
    model.write_bytes((SMALL / "gpt2_dynamo18.onnx").read_bytes())
    before = model.read_bytes()
    result = run("inspect", model, "--svg", model)
    assert result.exit_code == 2
    assert "is the input" in result.stderr
    assert model.read_bytes() == before
