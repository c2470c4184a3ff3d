"""Baselines: what got worse is found, what got better or is new is not, and a file of something else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from normswap.ci.baseline import LARGER, SLOWER, baseline, read, worse
from normswap.ci.cases import Document, report
from normswap.cli import main
from normswap.errors import UsageError

MODEL = str(Path(__file__).parents[2] / "models" / "small" / "resnet_torchscript17.onnx")


def checked(error: float, name: str = "y") -> Document:
    output = {
        "name": name,
        "verdict": "pass",
        "reason": "",
        "max_error": error,
        "original_max_error": 1e-6,
        "rmse_ratio": 1.0,
    }
    return {"schema": "normswap/check/1", "verdict": "pass", "reason": "close", "outputs": [output]}


def timed(median: float) -> Document:
    ratio = {"median": median, "low": median - 0.01, "high": median + 0.01}
    arm = {"model": "b", "verdict": "no detectable difference", "ratio": ratio, "p50_ms": 1.0}
    return {
        "schema": "normswap/bench/1",
        "verdict": "no detectable difference",
        "ratio": ratio,
        "control": ratio,
        "sweeps": [{"shapes": "x 1", "arms": [{**arm, "model": "a", "verdict": None}, arm]}],
    }


@pytest.mark.parametrize(("factor", "found"), [(1.0, 0), (0.5, 0), (0.99 * LARGER, 0), (1.01 * LARGER, 1)])
def test_a_larger_error_is_worse(factor: float, found: int) -> None:
    assert len(worse(checked(factor * 1e-6), baseline(checked(1e-6)))) == found


@pytest.mark.parametrize(("median", "found"), [(0.9, 0), (0.8, 0), (0.9 + 0.9 * SLOWER, 0), (0.9 + 1.1 * SLOWER, 1)])
def test_a_larger_ratio_of_times_is_worse(median: float, found: int) -> None:
    assert len(worse(timed(median), baseline(timed(0.9)))) == found


def test_an_output_that_is_gone_is_worse_and_a_new_one_is_not() -> None:
    assert [entry["name"] for entry in worse(checked(1e-6, "new"), baseline(checked(1e-6, "old")))] == ["old"]


def test_what_is_worse_fails_the_report() -> None:
    document = {**checked(1e-3), "baseline": worse(checked(1e-3), baseline(checked(1e-6)))}
    assert report(document, "model.onnx").status == "fail"
    assert report({**document, "baseline": []}, "model.onnx").status == "pass"


def test_a_baseline_of_another_command_is_refused() -> None:
    with pytest.raises(UsageError, match="the baseline is of normswap/bench/1"):
        worse(checked(1e-6), baseline(timed(1.0)))


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "normswap/check/1"}'])
def test_a_file_that_is_no_baseline_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text(text)
    with pytest.raises(UsageError, match="no baseline"):
        read(tmp_path / "kept.json")


def test_the_command_writes_a_baseline_and_fails_where_it_is_worse(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    arguments = ["check", MODEL, MODEL, "--quick", "--baseline", str(kept)]
    assert CliRunner().invoke(main, arguments).exit_code == 2
    assert CliRunner().invoke(main, [*arguments, "--update-baseline"]).exit_code == 0
    assert CliRunner().invoke(main, arguments).exit_code == 0
    stored = json.loads(kept.read_text())
    for numbers in stored["numbers"].values():
        numbers["rmse_ratio"] /= 2
    kept.write_text(json.dumps(stored))
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 1
    assert "RMSE ratio 1, 0.5 in the baseline" in done.stderr
    assert len(json.loads(done.stdout)["baseline"]) == len(stored["numbers"])
