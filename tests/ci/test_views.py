"""Views of a report for CI: every case is in each, and no name in a model is taken for markup or an order."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from normswap.ci.cases import Case, Document, Report, Status, report
from normswap.ci.github import MOST, workflow_commands
from normswap.ci.junit import junit
from normswap.ci.markdown import LIMIT, markdown
from normswap.ci.sarif import sarif
from normswap.cli import main

MODELS = Path(__file__).parents[2] / "models" / "small"
HOSTILE = "a|b<script>\n::error::x%0A]]>\x1b[31m\u202eevil\ud800&amp;`*_"


def output(name: str, verdict: str) -> Document:
    return {"name": name, "verdict": verdict, "reason": "because", "max_error": 1e-3, "original_max_error": 1e-6}


def checked(*outputs: tuple[str, str], verdict: str = "fail") -> Report:
    document = {
        "schema": "normswap/check/1",
        "verdict": verdict,
        "reason": "the reason",
        "outputs": [output(*item) for item in outputs],
    }
    return report(document, "model.onnx")


def many(count: int, status: Status = "fail", text: str = "message") -> Report:
    return Report(
        "check", "model.onnx", "fail", "reason", tuple(Case("r", f"n{i}", status, text) for i in range(count))
    )


ALL = checked(("a", "pass"), ("b", "fail"), ("c", "inconclusive"), ("d", "not judged"))


def test_every_output_is_a_case_with_its_status() -> None:
    assert [case.status for case in ALL.cases] == ["pass", "fail", "inconclusive", "refused"]
    assert ALL.cases[1].message == "because (error 0.001, the original's own 1e-06)"


def test_a_failure_of_no_single_output_is_a_case_of_its_own() -> None:
    assert [(case.rule, case.status) for case in checked().cases] == [("check/model", "fail")]
    assert [case.status for case in checked(("a", "pass")).cases] == ["fail", "pass"]
    assert [case.status for case in checked(("a", "pass"), verdict="pass").cases] == ["pass"]


def test_junit_counts_what_failed() -> None:
    suite = ET.fromstring(junit(ALL)).find("testsuite")
    assert suite is not None
    assert [suite.get(count) for count in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    results = {case.get("name"): [child.tag for child in case] for case in suite}
    assert results == {"a": ["system-out"], "b": ["failure"], "c": ["error"], "d": ["skipped"]}


def test_sarif_has_what_did_not_pass_at_its_level_with_the_rule_it_names() -> None:
    run = json.loads(sarif(ALL))["runs"][0]
    assert [result["level"] for result in run["results"]] == ["error", "warning", "note"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "model.onnx"


def test_sarif_explains_a_refusal_by_the_table_of_reasons(tmp_path: Path) -> None:
    destination = tmp_path / "out.sarif"
    arguments = ["convert", str(MODELS / "bert_dynamo18.onnx"), "--to", "rmsnorm", "--dry-run", "--no-check"]
    done = CliRunner().invoke(main, [*arguments, "--sarif", str(destination)])
    assert done.exit_code == 0
    rules = json.loads(destination.read_text())["runs"][0]["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["refused/post-norm"]
    assert "zero-mean" in rules[0]["shortDescription"]["text"]


def test_markdown_shows_failures_first() -> None:
    rows = [
        line.split("|")[3].strip()
        for line in markdown(ALL).splitlines()
        if line.startswith("| ") and "judged" not in line
    ]
    assert rows == ["b", "c", "d", "a"]


def test_markdown_stays_below_the_limit_and_says_what_is_left_out() -> None:
    page = markdown(many(20_000, text="µ" * 100))
    assert len(page.encode()) <= LIMIT
    shown = page.count("| ❌ |")
    assert 1000 < shown < 20_000
    assert f"{20_000 - shown:,} more" in page
    assert "more" not in markdown(many(3))


def test_github_shows_ten_and_counts_the_rest() -> None:
    assert workflow_commands(many(MOST)).count("::error ") == MOST
    lines = workflow_commands(many(25)).splitlines()
    assert len(lines) == MOST
    assert lines[-1].endswith("and 16 more")
    assert workflow_commands(many(5, "refused")) == ""
    assert [line.split()[0] for line in workflow_commands(ALL).splitlines()] == ["::error", "::warning"]


def test_no_name_is_markup_or_an_order_in_any_view() -> None:
    hostile = Report("check", f"dir,{HOSTILE}.onnx", "fail", HOSTILE, (Case("check/output", HOSTILE, "fail", HOSTILE),))
    case = ET.fromstring(junit(hostile)).find("testsuite/testcase")
    assert case is not None
    assert "\\x1b" in str(case.get("name"))
    text = json.loads(sarif(hostile))["runs"][0]["results"][0]["message"]["text"]
    assert not Counter(text) & Counter("\x1b\n\u202e")
    rows = [line for line in markdown(hostile).splitlines() if line.startswith("| ❌")]
    assert len(rows) == 1
    assert "<script>" not in rows[0]
    lines = workflow_commands(hostile).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("::error file=dir%2C")
    assert "%250A" in lines[0]
    for view in (junit, sarif, markdown, workflow_commands):
        view(hostile).encode()


@pytest.mark.parametrize("kind", ["report", "junit", "sarif", "markdown"])
def test_a_view_that_cannot_be_written_is_an_error_in_one_line(kind: str, tmp_path: Path) -> None:
    model = str(MODELS / "resnet_torchscript17.onnx")
    done = CliRunner().invoke(main, ["check", model, model, "--quick", f"--{kind}", str(tmp_path / "none" / "out")])
    assert done.exit_code == 5
    assert "none" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_failing_check_writes_its_reports_and_annotates(tmp_path: Path) -> None:
    model = onnx.load(MODELS / "resnet_torchscript17.onnx")
    wrong = tmp_path / "wrong.onnx"
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type = "Tanh"
    onnx.save(model, wrong)
    files = {kind: tmp_path / kind for kind in ("report", "junit", "markdown")}
    options = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    original = str(MODELS / "resnet_torchscript17.onnx")
    done = CliRunner().invoke(main, ["check", original, str(wrong), "--quick", "--annotations", "--json", *options])
    assert done.exit_code == 1
    assert json.loads(files["report"].read_text()) == json.loads(done.stdout)
    assert "::error file=" in done.stderr
    assert "❌" in files["markdown"].read_text()
    assert ET.fromstring(files["junit"].read_text()).get("failures") == "1"
